"""The path of one record: its source, run and model calls, and the rows that hold it or where it died."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from engine.contract.journal import JournalEntry
from engine.service.context import ServiceContext
from engine.service.dead_letter_format import OF_IDS, record_id_of
from engine.service.operations import LetterView, LetterWhere, NodeView, Operations
from engine.service.page import charts, service_dead_letters
from engine.service.page.rendering import cell_text, cut, moment, render
from engine.service.storage import Reader
from engine.service.tables import SEQUENCE, Table, quote, spelled_ids

_MAX_NAME = 2_000
_MAX_KEYS = 10
_MAX_LETTERS = 3  # the latest
_PATH = "source_file_path"


@dataclass(slots=True)
class _Way:
    """The path to one row, or to one dead letter of a pipeline, of the service, or of both.

    `payers` are the nodes on this path whose answers cost money, `empty` the columns that are null.
    """

    run_id: str = ""
    node: str = ""
    source: str = ""
    at: datetime | None = None
    nodes: list[NodeView] = field(default_factory=list)
    calls: list[JournalEntry] = field(default_factory=list)
    payers: list[str] = field(default_factory=list)

    table: str = ""
    cells: list[tuple[str, str]] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    letter: LetterView | None = None
    own: service_dead_letters.ServiceLetter | None = None

    @property
    def graph(self) -> Any:
        """Return the nodes of its run."""
        return charts.graph(self.nodes)


async def show_record(request: Request, context: ServiceContext) -> Response:
    """Show everything known about a record, by its id or its key."""
    name = request.query_params.get("id", "").strip()[:_MAX_NAME]
    ways = await _ways(context, name) if name else []
    return render(request, "record.html", name=name, ways=ways)


async def _ways(context: ServiceContext, name: str) -> list[_Way]:
    """Return the paths in order of time; parts that several share are shown once."""
    operations = context.operations
    names = [name] if operations is None else [name, *await _ids(operations, name)]
    tables = context.warehouse.tables.values()
    ways, own = await context.read(lambda reader: _look(reader, tables, names))
    if operations is None:
        ways += map(_of_service, own)
    else:
        for way in ways:
            await _follow(operations, way, way.source.partition("://")[2] or way.source)
        keys = [name, *(one.key for one in own if one.key)]
        keys += [key for way in ways for key in _key_of(way)]
        ways += await _dead(operations, keys, own)
    # a row without a known request may come from a replay: it is the current state
    ways.sort(key=lambda way: way.at or datetime.max.replace(tzinfo=UTC))
    for earlier, later in pairwise(ways):
        if later.run_id and later.run_id == earlier.run_id:
            later.nodes, later.source = [], ""
            if earlier.calls == later.calls:  # queried between the two
                earlier.calls, earlier.payers = [], []
    return ways


def _key_of(way: _Way) -> list[str]:
    """Return the key of a row's record from its calls; none if its object has several records."""
    keys = {call.record for call in way.calls if call.run_id == way.run_id}
    return list(keys) if len(keys) == 1 else []


async def _ids(operations: Operations, key: str) -> list[str]:
    """Return the id in the record of the latest dead letter with this key: rows have the id, not the key."""
    found = await operations.letters(LetterWhere(status="", key=key, limit=1))
    letter = await operations.letter(found[0].id) if found else None
    if letter is None or letter.record is None:
        return []
    named = record_id_of(json.loads(letter.record))
    return [named] if named not in ("", key) else []


def _look(
    reader: Reader, tables: Collection[Table], names: list[str]
) -> tuple[list[_Way], list[service_dead_letters.ServiceLetter]]:
    """Return the rows of these ids, and the service's dead letters. Blocks."""
    rows = [row for table in tables for name in names if (row := _row(reader, table, name))]
    ids = reader.execute(
        f"SELECT dead_letter_id FROM _odw_dead_letters WHERE {OF_IDS} OR key IN (SELECT unnest(?)) "  # noqa: S608 -- a constant
        "ORDER BY commit_sequence DESC LIMIT ?",
        [names, names, *spelled_ids(tables, names), names, _MAX_LETTERS],
    ).fetchall()
    found = [service_dead_letters.letter_of_id(reader, letter_id) for (letter_id,) in ids]
    return rows, [one for one in found if one is not None]


def _row(reader: Reader, table: Table, name: str) -> _Way | None:
    if table.names[0] != "id":
        return None
    columns = ", ".join(quote(column) for column in table.names)
    stored, asked = (table.columns[0].compared.format(text) for text in ("id", "$1"))
    found = reader.execute(
        f"SELECT {SEQUENCE}, {columns} FROM {quote(table.name)} WHERE {stored} = {asked} "  # noqa: S608 -- quoted
        f"ORDER BY {SEQUENCE} DESC LIMIT 1",
        [table.spelled(name)],
    ).fetchone()
    if found is None:
        return None
    texts = {name: cell_text(value) for name, value in zip(table.names, found[1:], strict=True)}
    cells = {name: cut(text, 400) for name, text in texts.items() if text is not None}
    way = _Way(table=table.name, cells=list(cells.items()), source=cells.get(_PATH, ""))
    way.empty = [name for name, text in texts.items() if text is None]
    request = reader.execute(
        "SELECT committed_at, scope FROM _odw_batches WHERE sequence = ? LIMIT 1", [found[0]]
    ).fetchone()
    if request is not None:
        way.at = moment(request[0])
        way.run_id, _, way.node = str(request[1] or "").partition("#")[0].partition("/")
    return way


async def _dead(
    operations: Operations, keys: list[str], own: list[service_dead_letters.ServiceLetter]
) -> list[_Way]:
    """Return the dead letters of these keys, merging the service's copies with those of pipelines."""
    found: dict[str, LetterView] = {}
    for key in list(dict.fromkeys(keys))[:_MAX_KEYS]:
        where = LetterWhere(status="", key=key, limit=_MAX_LETTERS)
        found.update({one.id: one for one in await operations.letters(where)})
    ways = []
    for letter in found.values():
        way = _Way(letter.run_id, letter.node, at=moment(letter.last_failed_at), letter=letter)
        way.source = letter.key.rpartition("@")[0]
        copy = next((one for one in own if (one.run, one.key) == (letter.run_id, letter.key)), None)
        if copy is not None:
            own.remove(copy)
            way.own = copy
        await _follow(operations, way, letter.key)
        ways.append(way)
    return [*ways, *map(_of_service, own)]


def _of_service(own: service_dead_letters.ServiceLetter) -> _Way:
    return _Way(own.run or "", own.node or "", at=moment(own.failed_at), own=own)


async def _follow(operations: Operations, way: _Way, record: str) -> None:
    """Add the run of a path, and the model calls for its record."""
    detail = await operations.detail(way.run_id) if way.run_id else None
    if detail is None:
        return
    way.nodes = list(detail.nodes)
    way.payers = _payers(way.nodes, way.node)
    if record:
        way.calls = await operations.calls(record, way.run_id)


def _payers(nodes: list[NodeView], last: str) -> list[str]:
    """Return the paying nodes among a node and its ancestors."""
    inputs = {node.name: node.inputs for node in nodes}
    names, seen = [last], set[str]()
    while names:
        name = names.pop()
        if name not in seen:
            seen.add(name)
            names += inputs.get(name, ())
    return [node.name for node in nodes if node.pays and node.name in seen]
