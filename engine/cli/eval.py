"""Compare extracted records with the correct ones, to measure a change of prompt or model.

  python -m engine eval out.jsonl truth.jsonl
  python -m engine eval out.jsonl truth.json --key source_file_path --min 0.95
  python -m engine eval new.jsonl truth.jsonl --against old.jsonl

Files hold JSON lines, a JSON array, a JSON object of records by key, CSV (.csv, .tsv) with a header, or
Parquet, also compressed; a pattern ('out/**') reads several. Each field of the correct records is counted as
exact, normalised (equal except for spelling), wrong, missing or invented.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence

from engine.cli.display.numbers import counted
from engine.cli.display.table import aligned
from engine.cli.evaluating import FATES, Evaluation, FieldScore, evaluate
from engine.cli.options import EvalOptions
from engine.cli.record_files import Row, Rows, read_rows

MAX_NAMED = 5  # keys


def execute(options: EvalOptions) -> int:
    """Print the comparison; return 1 when the share of right values is below `--min`."""
    from engine.errors import ConfigError

    if not 0 <= options.min <= 1:
        raise ConfigError(f"--min: expected a share from 0 to 1, got {options.min:g}")
    key, _, other = options.key.partition("=")
    other = other or key
    truth, rows = _truth(options.truth, other), read_rows(options.records, key)
    found = evaluate(rows.by_key, truth, other)
    earlier = read_rows(options.against, key).by_key if options.against else None
    before = None if earlier is None else evaluate(earlier, truth, other)
    overall = _overall(found)
    failure = _failure(found, overall, options.min) if overall.share < options.min else ""
    if options.json:
        document = {**found.to_json(), "repeated": [*rows.repeated], "keyless": rows.keyless}
        document |= {"share": round(overall.share, 4), "failure": failure}
        document |= {"against": before.to_json()} if before else {}
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    else:
        lines = [*_lines(found, before), *_left_out(rows, key), *filter(None, [failure])]
        sys.stdout.write("\n".join(lines) + "\n")
    return int(bool(failure))


def _truth(path: str, key: str) -> dict[str, Row]:
    """Return the correct records by key, one for each. Raises ConfigError."""
    from engine.errors import ConfigError

    rows = read_rows(path, key)
    if not rows.by_key:
        raise ConfigError(f"{path}: no records to compare with; each needs a `{key}`, or name another --key")
    if rows.keyless:
        raise ConfigError(
            f"{path}: {rows.keyless} of its records have no `{key}`; add it, or name another --key"
        )
    if all(row.keys() <= {key} for row in rows.by_key.values()):
        raise ConfigError(f"{path}: its records have no field but `{key}`; add the right values")
    if rows.repeated:
        raise ConfigError(
            f"{path}: {next(iter(rows.repeated))!r} has several different records; keep one of them"
        )
    return rows.by_key


def _lines(found: Evaluation, before: Evaluation | None) -> Iterator[str]:
    rows = [["field", *FATES, "right", *(["before"] if before else [])]]
    for name, one in {**found.fields, "all": _total(found)}.items():
        rows.append([name, *(str(getattr(one, fate)) for fate in FATES), _percent(one)])
        if before is not None:
            rows[-1].append(_percent(_score(before, name)))
    yield from aligned(rows, right=range(1, len(rows[0])))
    yield f"{found.records} records compared"
    yield from _named("without a record", found.lost)
    yield from _named("without a truth", found.unknown)
    for name, one in found.fields.items():
        yield from _named(f"not right in {name}", one.examples)


def _left_out(rows: Rows, key: str) -> Iterator[str]:
    yield from _named("several different records, of which the last counts", [*rows.repeated])
    if rows.keyless:
        yield f"left out: {rows.keyless} records without `{key}`"


def _score(evaluation: Evaluation, name: str) -> FieldScore:
    return _total(evaluation) if name == "all" else evaluation.fields[name]


def _named(what: str, keys: Sequence[str]) -> Iterator[str]:
    if keys:
        more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
        yield f"{what}: {', '.join(keys[:MAX_NAMED])}{more}"


def _total(found: Evaluation) -> FieldScore:
    return FieldScore(**{fate: sum(getattr(one, fate) for one in found.fields.values()) for fate in FATES})


def _overall(found: Evaluation) -> FieldScore:
    """Return the total in which every value of a document without a record is missing."""
    total = _total(found)
    total.missing += len(found.lost) * len(found.fields)
    return total


def _failure(found: Evaluation, overall: FieldScore, least: float) -> str:
    lost = counted(len(found.lost), "document")
    including = f", including those of {lost} without a record, which are wrong" if found.lost else ""
    return (
        f"below --min {least:g}: {overall.right:,} of {overall.total:,} values are right "
        f"({_percent(overall)}){including}"
    )


def _percent(score: FieldScore) -> str:
    """Format a share, rounded down: 100% means that every value is right."""
    return f"{score.right * 1000 // max(score.total, 1) / 10:g}%"
