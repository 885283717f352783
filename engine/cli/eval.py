"""Compare extracted records with what is true, so that a change of prompt or model is measured.

  python -m engine eval out.jsonl truth.jsonl
  python -m engine eval out.jsonl truth.json --key source_file_path --min 0.95
  python -m engine eval new.jsonl truth.jsonl --against old.jsonl

Files hold a record a line (JSON), or a JSON array, or a JSON object of records by key. For each field that
the truth has, values are exact, the same but for spelling (normalised), wrong, missing or invented.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from engine.cli.display.table import aligned
from engine.cli.evaluating import FATES, Evaluation, FieldScore, by_key, evaluate
from engine.cli.options import EvalOptions

SUMMARY = "compare extracted records with a file of what is true"
OPTIONS = EvalOptions

MAX_BYTES = 256 * 1024 * 1024
MAX_NAMED = 5  # keys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("records", metavar="RECORDS", help="file of extracted records")
    parser.add_argument("truth", metavar="TRUTH", help="file of the right records")
    parser.add_argument("--key", default="id", metavar="FIELD", help="field to match by (default: id)")
    parser.add_argument("--against", default="", metavar="FILE", help="records of another run")
    parser.add_argument(
        "--min",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="exit with 1 if fewer values are right",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(options: EvalOptions) -> int:
    """Print the comparison; 1 when the share of right values is below `--min`."""
    from engine.errors import ConfigError

    if not 0 <= options.min <= 1:
        raise ConfigError(f"--min: expected a share from 0 to 1, got {options.min:g}")
    truth = _read(options.truth, options.key)
    found = evaluate(_read(options.records, options.key), truth, options.key)
    before = evaluate(_read(options.against, options.key), truth, options.key) if options.against else None
    if options.json:
        document = found.to_json() | ({"against": before.to_json()} if before else {})
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(found, before)) + "\n")
    return int(_share(found) < options.min)


def _read(path: str, key: str) -> dict[str, Mapping[str, object]]:
    """Records by key. Raises ConfigError."""
    from engine.errors import ConfigError

    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes")
        text = Path(path).read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8") from error
    try:
        whole = json.loads(text)
    except ValueError:
        whole = list(_records(path, text))
    if isinstance(whole, dict) and key not in whole:
        return {str(name): one for name, one in whole.items() if isinstance(one, dict)}
    rows = [one for one in (whole if isinstance(whole, list) else [whole]) if isinstance(one, dict)]
    found = by_key(rows, key)
    if rows and not found:
        raise ConfigError(f"{path}: no record has a field `{key}`; name another one with --key")
    return found


def _records(path: str, text: str) -> Iterator[object]:
    from engine.errors import ConfigError

    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{path}:{number}: not JSON") from error


def _lines(found: Evaluation, before: Evaluation | None) -> Iterator[str]:
    rows = [["field", *FATES, "right", *(["before"] if before else [])]]
    for name, one in {**found.fields, "all": _total(found)}.items():
        rows.append([name, *(str(getattr(one, fate)) for fate in FATES), f"{one.share:.0%}"])
        if before is not None:
            rows[-1].append(f"{_score(before, name).share:.0%}")
    yield from aligned(rows, right=range(1, len(rows[0])))
    yield f"{found.records} records compared"
    yield from _named("without a record", found.lost)
    yield from _named("without a truth", found.unknown)
    for name, one in found.fields.items():
        yield from _named(f"not right in {name}", one.examples)


def _score(evaluation: Evaluation, name: str) -> FieldScore:
    return _total(evaluation) if name == "all" else evaluation.fields.get(name, FieldScore())


def _named(what: str, keys: Sequence[str]) -> Iterator[str]:
    if keys:
        more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
        yield f"{what}: {', '.join(keys[:MAX_NAMED])}{more}"


def _total(found: Evaluation) -> FieldScore:
    return FieldScore(**{fate: sum(getattr(one, fate) for one in found.fields.values()) for fate in FATES})


def _share(found: Evaluation) -> float:
    """A document without a record has no right value."""
    total = _total(found)
    lost = len(found.lost) * len(found.fields)
    return total.right / (total.total + lost) if total.total + lost else 1.0
