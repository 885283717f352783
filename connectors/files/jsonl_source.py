"""The source `jsonl`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from typing import Any, Literal, Self

import anyio.to_thread
from pydantic import BaseModel, Field, model_validator

from connectors.files.chunks import open_chunks, stdin_chunks
from connectors.files.contents import is_wide
from connectors.files.errors import FileUnreadableError, unreadable
from connectors.files.finding import FilePart, any_readable, find_files, read_limit
from connectors.files.growing import BY_CONTENT, BY_PATH, FileMarks, bookmarked, find_moved, find_unread
from connectors.files.sharing import reads_files
from connectors.json_lines import parse_line, parse_lines
from connectors.objects.lines import LinePage, Place, ReadChunk, line_pages
from engine.contract.batch import Batch
from engine.contract.claims import Claim
from engine.contract.component import Context, Kind, Locality, Params, Source, component, operational
from engine.contract.keys import KeyList, Keys
from engine.contract.params import LocalPath
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import RecordError


class LineKeys(Keys):
    """Keys `name:line` of consecutive lines, created on demand. `first` counts from 0.

    `before` is the number of the source's records before the file.
    """

    __slots__ = ("before", "count", "first", "name")

    def __init__(self, name: str, first: int, count: int, before: int = 0) -> None:
        self.name = name
        self.first = first
        self.count = count
        self.before = before

    def __len__(self) -> int:
        return self.count

    def to_list(self) -> list[str]:
        name, begin = self.name, self.first + 1
        return [f"{name}:{line}" for line in range(begin, begin + self.count)]

    def ordinals(self) -> range:
        start = self.before + self.first
        return range(start, start + self.count)

    def place(self, index: int) -> str:
        return f"line {self.first + index + 1} of {self.name}"

    def ranges(self) -> list[tuple[str, int, int]] | None:
        return [(f"{self.name}:", self.first + 1, self.first + 1 + self.count)]

    def slice(self, start: int, stop: int) -> Keys:
        return LineKeys(self.name, self.first + start, stop - start, self.before)


STDIN = "-"
FILES_AT_ONCE = 1000
"""Files per lookup of bookmarks."""

SHOWN_BYTES = 64 * 1024
"""Maximum characters of an unreadable line in its dead letter."""


class JsonlSourceParams(Params):
    """Parameters of the `jsonl` source."""

    path: LocalPath = Field(
        description="A file, a pattern (`*`, `**`, `?`, `[…]`, `{a,b}`), or `-` for the standard input"
    )
    mode: Literal["all", "changed"] = Field(
        default="all",
        description="`changed`: continue after what an earlier run of the pipeline delivered",
    )
    key: str | None = Field(
        default=None, description="Field that identifies a record (default: the file's path and the line)"
    )
    max_line_bytes: int = Field(
        default=16 * 1024 * 1024, gt=0, description="Lines longer than this become dead letters"
    )
    page_records: int = operational(512, ge=1, le=10_000, description="Maximum records per batch")

    @model_validator(mode="after")
    def _is_of_this_machine(self) -> Self:
        if "://" in self.path:
            raise ValueError(f"{self.path!r} is an address; the source `jsonl` reads paths of this machine")
        if self.path == STDIN and self.mode == "changed":
            raise ValueError("`mode: changed` needs files: the standard input cannot be resumed")
        return self


def _reach(params: JsonlSourceParams) -> Locality:
    return Locality.PROCESS if params.path == STDIN else Locality.MACHINE


def reads_stdin(_: object) -> Claim:
    """Return the claim on the standard input."""
    return Claim(
        STDIN,
        "reads the standard input",
        "each line would go to only one of them",
        "read it with one node, and name that as the `input` of several",
    )


def _claim(params: JsonlSourceParams) -> Claim | None:
    if params.path == STDIN:
        return reads_stdin(params)
    return reads_files([params.path])


def _keeps_bookmarks(params: JsonlSourceParams) -> bool:
    return params.mode == "changed"


@component(
    Kind.SOURCE, "jsonl", params=JsonlSourceParams, locality=_reach, bookmarks=_keeps_bookmarks, claim=_claim
)
class JsonlSource(Source[JsonlSourceParams]):
    """Reads files of JSON lines: one JSON object per line.

    Files that match a pattern are read in the order of their names. `.gz`, `.bz2`, `.xz` and `.zst` files are
    unpacked, and UTF-16 and UTF-32 with a byte order mark are supported. Empty lines are skipped. An
    unreadable line becomes a dead letter with its file and line number, and reading continues after it; so
    does a file or folder that cannot be read, if others can. A file that grows is read up to its size at the
    start of the run.

    A run can be resumed inside a file. The standard input cannot be read twice, so such a run cannot be
    resumed.

    With `mode: changed`, a run continues after the last line that an earlier run delivered, and leaves an
    unfinished last line to a later one. A file that was renamed or packed since is recognised by its content.
    A file that was truncated or rewritten is read from the beginning, under new keys (`path#2:line`).
    """

    def __init__(self, params: JsonlSourceParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self.repeatable = params.path != STDIN
        self._has_read = False
        # line numbers are unique, but a file may contain a record's key twice
        self.distinct_keys = params.key is None

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Return one split per file. A pattern may match none; a path without wildcards must exist.

        Raises:
            FatalError: no such file, or the pattern has too many alternatives.
        """
        if self.params.path == STDIN:
            yield Split(STDIN, {"path": STDIN})
            return
        found = await anyio.to_thread.run_sync(find_files, self.params.path)
        for what, number in found.skipped.items():
            if number:
                ctx.count(f"skipped: {what}", number)
        parts = await _unread(found.parts, ctx) if self.params.mode == "changed" else found.parts
        for number, part in enumerate(parts):
            # the lines of earlier files were not counted, but each has at least one
            yield Split(part.path, asdict(part), first_ordinal=number)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Read the records of one file from `position`: `[bytes before it, lines before it]`.

        A file that cannot be read (to its end) becomes a dead letter if others can be read.

        Raises:
            FatalError: the file cannot be read or has been replaced since the run began, and no other file
                can be read either.
        """
        part = FilePart(**split.manifest)
        place = Place(*position) if position else part.start
        try:
            async with aclosing(self._read(part, place, split.first_ordinal, ctx)) as batches:
                async for batch in batches:
                    self._has_read = True
                    place = Place(*batch.position)
                    yield batch
            return
        except FileUnreadableError as error:
            if not (self._has_read or await anyio.to_thread.run_sync(any_readable, self.params.path, part)):
                raise
            failure = error
        yield _lost(part, place, split.first_ordinal, failure)

    async def _read(
        self, part: FilePart, start: Place, before: int, ctx: Context
    ) -> AsyncGenerator[Batch, None]:
        until, marks = None, None
        changed = self.params.mode == "changed"
        if part.path != STDIN:
            until = await anyio.to_thread.run_sync(_limit, part)
        if changed:
            marks = await anyio.to_thread.run_sync(FileMarks, part)
        async with _chunks(part, start, growing=changed) as read:
            pages = line_pages(
                read,
                start,
                max_line=self.params.max_line_bytes,
                page_lines=self.params.page_records,
                until=until,
                whole_lines=changed and not part.packed,
            )
            async with aclosing(pages):
                async for page in pages:
                    start = page.end
                    batch = self._batch(part, page, before)
                    if marks is not None:
                        batch.bookmarks = marks.after(page)
                    yield batch
                    if ctx.draining():
                        return
        if marks is not None and marks.derived:
            end = Batch([], KeyList([]), position=list(start))
            end.bookmarks = marks.whole(start)
            yield end

    async def extract(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Read all records, in lists, without a pipeline.

        Raises:
            RecordError: a line that cannot be read; the records before its page were yielded.
            FatalError: as for `read`.
        """
        async with aclosing(self.read_all()) as pages:
            async for records in pages:
                yield records

    def _batch(self, part: FilePart, page: LinePage, before: int) -> Batch:
        failures: list[tuple[int, RecordError]] = []
        keys: Keys = LineKeys(part.name, page.start.line, len(page.lines), before)
        records = parse_lines(page.lines)
        if records is None:
            records, keys, failures = self._one_by_one(part, page, before)
        if self.params.key is not None:
            keys = self._named(records, keys, failures)
        batch = Batch(records, keys, position=list(page.end))
        batch.failures = failures
        return batch

    def _one_by_one(
        self, part: FilePart, page: LinePage, before: int
    ) -> tuple[list[dict[str, Any]], Keys, list[tuple[int, RecordError]]]:
        """Parse lines one by one: some are empty, broken, too long, or have numbers that orjson rounds."""
        records: list[dict[str, Any]] = []
        keys: list[str] = []
        failures: list[tuple[int, RecordError]] = []
        for number, line in enumerate(page.lines, page.start.line + 1):
            if line is not None and not line.strip():
                continue
            where = f"{part.path}:{number}"
            keys.append(f"{part.name}:{number}")
            try:
                if line is None:
                    limit = self.params.max_line_bytes
                    raise RecordError(f"{where}: the line is longer than {limit:,} bytes", kind="LongLine")
                records.append(parse_line(line, where))
            except RecordError as error:
                failures.append((len(records), error))
                records.append(_stub(part.path, number, line, error))
        return records, KeyList(keys, before + page.start.line), failures

    def _named(
        self, records: list[dict[str, Any]], places: Keys, failures: list[tuple[int, RecordError]]
    ) -> Keys:
        """Return the records' own keys; a record without one becomes a failure under its line's key."""
        name = self.params.key
        assert name is not None
        names = places.to_list()
        failed = {index for index, _ in failures}
        for index, record in enumerate(records):
            if index in failed:
                continue
            value = record.get(name)
            if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
                names[index] = str(value)
            else:
                error = RecordError(f"{names[index]}: no text or number in {name!r}", kind="MissingKey")
                failures.append((index, error))
        failures.sort(key=lambda failure: failure[0])
        ordinals = places.ordinals()
        return KeyList(names, ordinals[0] if ordinals else 0)


def _limit(part: FilePart) -> int | None:
    """Return where the content ends for this run; None if the file itself is limited, or packed."""
    until = read_limit(part)
    try:
        return None if until is None or is_wide(part.os_path) else until
    except OSError as error:
        raise unreadable(part.path, error) from error


@asynccontextmanager
async def _chunks(part: FilePart, start: Place, *, growing: bool) -> AsyncGenerator[ReadChunk, None]:
    if part.path == STDIN:
        yield stdin_chunks()
    else:
        async with open_chunks(part, start.offset, growing=growing) as read:
            yield read


def _lost(part: FilePart, place: Place, before: int, failure: FileUnreadableError) -> Batch:
    """Return the failed record for an unreadable file, or for the rest of one."""
    stub = {"file_path": part.path, "lines_read": place.line, "error": str(failure)}
    lost = Batch([stub], KeyList([part.name], before + place.line), position=list(place))
    lost.failures = [(0, failure.as_record())]
    return lost


def _stub(path: str, number: int, line: bytes | None, error: RecordError) -> dict[str, Any]:
    """Return what the dead letter of a line shows."""
    shown = (line or b"")[:SHOWN_BYTES].decode("utf-8", "replace")
    return {"file_path": path, "line": number, "content": shown, "error": str(error)}


async def _unread(found: Sequence[FilePart], ctx: Context) -> list[FilePart]:
    """Return what earlier runs have not delivered of these files, in order."""
    unread: list[FilePart] = []
    unchanged = 0
    for start in range(0, len(found), FILES_AT_ONCE):
        files = found[start : start + FILES_AT_ONCE]
        marks = await ctx.bookmarks.get(BY_PATH, [bookmarked(file.path) for file in files])
        parts, strangers, nothing_new = await anyio.to_thread.run_sync(find_unread, files, marks)
        keys = list(dict.fromkeys(key for stranger in strangers for key in stranger.keys))
        known = await ctx.bookmarks.get(BY_CONTENT, keys) if keys else {}
        moved = [await anyio.to_thread.run_sync(find_moved, stranger, known) for stranger in strangers]
        parts += [part for part in moved if part is not None]
        unchanged += nothing_new + moved.count(None)
        order = {file.path: place for place, file in enumerate(files)}
        unread += sorted(parts, key=lambda part: order[part.path])
    if unchanged:
        ctx.count("unchanged", unchanged)
    begun_anew = sum(part.begun_anew for part in unread)
    if begun_anew:
        ctx.count("begun_anew", begun_anew)
    return unread
