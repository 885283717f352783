"""Read records to compare from the files that the source `files` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from io import StringIO
from itertools import zip_longest
from typing import Any, Final

Row = Mapping[str, object]

MAX_BYTES: Final = 256 * 1024 * 1024
_TABLE: Final = re.compile(r"\.([ct])sv(\.\w+)?$", re.IGNORECASE)


@dataclass(slots=True)
class Rows:
    """Records by key. `repeated`: keys of several different records, of which the last counts."""

    by_key: dict[str, Row] = field(default_factory=dict)
    repeated: dict[str, None] = field(default_factory=dict)
    keyless: int = 0

    def add(self, name: object, row: Row) -> None:
        if name in (None, ""):
            self.keyless += 1
            return
        if self.by_key.get(str(name), row) != row:
            self.repeated[str(name)] = None
        self.by_key[str(name)] = row


def read_rows(path: str, key: str) -> Rows:
    """Return the records of the files that a path or a pattern matches. Raises ConfigError."""
    from engine.errors import ComponentError, ConfigError, RecordError

    if not path or "://" in path:
        raise ConfigError(f"{path!r}: expected a path of this machine, or a pattern of paths")
    rows = Rows()
    try:
        files = _read(path, format="text", strict_text=True, max_object_bytes=MAX_BYTES)
        if not files:
            raise ConfigError(f"{path}: matches no file")
        for file in files:
            _add_text(file["file_path"], file["content"], key, rows)
    except RecordError as error:
        if error.kind != "NotText":
            raise ConfigError(str(error)) from error
        for row in _read_parquet(path):
            rows.add(row.get(key), row)
    except ComponentError as error:
        raise ConfigError(str(error)) from error
    if rows.keyless and not rows.by_key:
        raise ConfigError(
            f"{path}: no record has a field `{key}`; name another one with --key, or both as OURS=THEIRS"
        )
    return rows


def _read_parquet(path: str) -> list[dict[str, Any]]:
    from engine.errors import ComponentError, ConfigError, RecordError

    try:
        return _read(path, format="parquet")
    except ComponentError as error:
        expected = "; expected JSON, JSON lines, CSV or Parquet" * isinstance(error, RecordError)
        raise ConfigError(f"{error}{expected}") from error


def _read(path: str, **options: object) -> list[dict[str, Any]]:
    """Return what the source `files` reads, in order. Raises ComponentError."""
    from engine.cli.event_loop import on_event_loop
    from engine.contract.component import Kind, Source
    from engine.registry import Registry

    spec = Registry.installed().get(Kind.SOURCE, "files")
    source = spec.factory(spec.params.model_validate({"pattern": path, **options}), None)
    assert isinstance(source, Source)
    records: list[dict[str, Any]] = []

    async def read() -> int:
        async with source, aclosing(source.read_all()) as pages:
            async for page in pages:
                records.extend(page)
        return 0

    on_event_loop(read)
    return records


def _add_text(path: str, text: str, key: str, rows: Rows) -> None:
    from engine.errors import ConfigError

    if table := _TABLE.search(path):
        found: Iterable[tuple[int, object]] = _cells(path, text, "\t" if table[1] in "tT" else ",;\t|")
    else:
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            found = _records(path, text)
        else:
            if isinstance(whole, dict) and key not in whole:
                for name, one in whole.items():
                    if isinstance(one, dict):
                        rows.add(name, one)
                return
            found = enumerate(whole if isinstance(whole, list) else [whole], 1)
    for number, one in found:
        if not isinstance(one, dict):
            raise ConfigError(f"{path}: record {number} is not an object")
        rows.add(one.get(key), one)


def _records(path: str, text: str) -> Iterator[tuple[int, object]]:
    from engine.errors import ConfigError

    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{path}:{number}: not JSON") from error


def _cells(path: str, text: str, separators: str) -> Iterator[tuple[int, object]]:
    """Yield the rows of a table; a cell may hold an object or a list as JSON."""
    import csv

    from engine.errors import ConfigError

    header = text.partition("\n")[0]
    reader = csv.reader(StringIO(text, newline=""), delimiter=max(separators, key=header.count))
    try:
        names = [name.strip() for name in next(reader, ())]
        if twice := next((name for name in names if name and names.count(name) > 1), ""):
            raise ConfigError(f"{path}:1: two columns are called {twice!r}; rename one of them")
        for row in reader:
            if len(row) > len(names) or any(cell for name, cell in zip(names, row, strict=False) if not name):
                raise ConfigError(f"{path}:{reader.line_num}: more cells than the header names")
            if any(row):  # spreadsheets write empty rows
                record = {name: _cell(cell) for name, cell in zip_longest(names, row) if name}
                yield reader.line_num, record
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num}: not CSV: {error}") from error


def _cell(cell: str | None) -> object:
    if cell and cell.startswith(("{", "[")):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell
