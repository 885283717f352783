"""The source `jsonl`."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio.to_thread
import orjson
from pydantic import BaseModel, Field

from connectors.files.chunks import ReadChunk, open_chunks, stdin_chunks
from connectors.files.lines import LinePage, Place, line_pages
from connectors.json_lines import parse_line
from engine.batch import Batch, JsonValue, Split
from engine.component import Context, Kind, Params, Source, operational, spec_of
from engine.errors import FatalError, RecordError
from engine.keys import KeyList, Keys

__all__ = ["JsonlSource", "JsonlSourceParams"]

STDIN = "-"
MAX_ALTERNATIVES = 1000
"""How many names the braces of a path may stand for."""

SHOWN_BYTES = 64 * 1024
"""How much of a line that cannot be read its dead letter shows."""


class JsonlSourceParams(Params):
    """Which files, and what names a record."""

    path: str = Field(
        description="A file, a pattern (`*`, `**`, `?`, `[…]`, `{a,b}`), or `-` for the standard input"
    )
    key: str | None = Field(
        default=None, description="Field that names a record; default: the file's path and the line"
    )
    max_line_bytes: int = Field(
        default=16 * 1024 * 1024, gt=0, description="Longer lines become dead letters"
    )
    page_records: int = operational(512, ge=1, le=10_000, description="Records handed on together, at most")


class LineKeys(Keys):
    """`path:line` for consecutive lines; made only when somebody asks. `first` counts from 0.

    `before` is how many records of the source come before the file.
    """

    __slots__ = ("before", "count", "first", "path")

    def __init__(self, path: str, first: int, count: int, before: int = 0) -> None:
        self.path = path
        self.first = first
        self.count = count
        self.before = before

    def __len__(self) -> int:
        return self.count

    def to_list(self) -> list[str]:
        path, begin = self.path, self.first + 1
        return [f"{path}:{line}" for line in range(begin, begin + self.count)]

    def ordinals(self) -> range:
        start = self.before + self.first
        return range(start, start + self.count)

    def slice(self, start: int, stop: int) -> Keys:
        return LineKeys(self.path, self.first + start, stop - start, self.before)


@spec_of(Kind.SOURCE, "jsonl", params=JsonlSourceParams)
class JsonlSource(Source[JsonlSourceParams]):
    """JSON lines: files with one JSON object on each line.

    A pattern stands for files in the order of their names; `.gz` files are unpacked. Empty lines are
    skipped. A line that cannot be read becomes a dead letter with its file and line number, and reading
    goes on behind it. A file that grows while it is read is read to where it ended when the run began.

    Every file is a split, so a run can be resumed inside a file. The standard input cannot be read twice,
    and a run of it cannot be resumed.
    """

    def __init__(self, params: JsonlSourceParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self.repeatable = params.path != STDIN
        # a line number comes once, but nothing keeps a file from naming a record twice
        self.distinct_keys = params.key is None

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """One for each file. A pattern may stand for none; a name without wildcards must be there.

        Raises:
            FatalError: no such file, or the pattern stands for too many alternatives.
        """
        if self.params.path == STDIN:
            yield Split(STDIN, {"path": STDIN})
            return
        found = await anyio.to_thread.run_sync(_find, self.params.path)
        for number, (path, size) in enumerate(found):
            # nobody has counted the lines of the files before, but each should have one at least
            yield Split(path, {"path": path, "size": size}, first_ordinal=number)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """The records of one file from `position` on: `[bytes before it, lines before it]`.

        Raises:
            FatalError: the file cannot be read, or is not the one it was when the run began.
        """
        path = str(split.manifest["path"])
        start = Place(*position) if position else Place()
        until = None
        if path != STDIN:
            until = await anyio.to_thread.run_sync(_limit, path, int(split.manifest["size"]))
        async with _chunks(path, start) as read:
            pages = line_pages(
                read,
                start,
                max_line=self.params.max_line_bytes,
                page_lines=self.params.page_records,
                until=until,
            )
            async with aclosing(pages):
                async for page in pages:
                    yield self._batch(path, page, split.first_ordinal)
                    if ctx.draining():
                        return

    async def extract(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """All records, in lists, without a pipeline.

        Raises:
            RecordError: a line that cannot be read; the records before its page were yielded.
            FatalError: as `read`.
        """
        async with aclosing(self.splits(self.ctx)) as splits:  # type: ignore[type-var]
            async for split in splits:
                async with aclosing(self.read(split, None, self.ctx)) as batches:
                    async for batch in batches:
                        for _, error in batch.failures:
                            raise error
                        yield batch.records

    def _batch(self, path: str, page: LinePage, before: int) -> Batch:
        records: list[dict[str, Any]]
        failures: list[tuple[int, RecordError]] = []
        keys: Keys = LineKeys(path, page.start.line, len(page.lines), before)
        try:
            records = list(map(orjson.loads, page.lines))  # type: ignore[arg-type]
        except orjson.JSONDecodeError:  # also for None, which stands for a line that is too long
            records = []
        if len(records) != len(page.lines) or set(map(type, records)) - {dict}:
            records, keys, failures = self._one_by_one(path, page, before)
        if self.params.key is not None:
            keys = self._named(records, keys, failures)
        batch = Batch(records, keys, position=list(page.end))
        batch.failures = failures
        return batch

    def _one_by_one(
        self, path: str, page: LinePage, before: int
    ) -> tuple[list[dict[str, Any]], Keys, list[tuple[int, RecordError]]]:
        """The lines of a page that holds empty, broken or too long ones."""
        records: list[dict[str, Any]] = []
        keys: list[str] = []
        failures: list[tuple[int, RecordError]] = []
        for number, line in enumerate(page.lines, page.start.line + 1):
            if line is not None and not line.strip():
                continue
            where = f"{path}:{number}"
            keys.append(where)
            try:
                if line is None:
                    limit = self.params.max_line_bytes
                    raise RecordError(f"{where}: the line is longer than {limit:,} bytes", kind="LongLine")
                records.append(parse_line(line, where))
            except RecordError as error:
                failures.append((len(records), error))
                records.append(_stub(path, number, line, error))
        return records, KeyList(keys, before + page.start.line), failures

    def _named(
        self, records: list[dict[str, Any]], places: Keys, failures: list[tuple[int, RecordError]]
    ) -> Keys:
        """The records' own keys; one without becomes a failure and keeps the name of its place."""
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


@asynccontextmanager
async def _chunks(path: str, start: Place) -> AsyncGenerator[ReadChunk, None]:
    if path == STDIN:
        yield stdin_chunks()
    else:
        async with open_chunks(path, start.offset) as read:
            yield read


def _stub(path: str, number: int, line: bytes | None, error: RecordError) -> dict[str, Any]:
    """What the dead letter of a line shows."""
    shown = (line or b"")[:SHOWN_BYTES].decode("utf-8", "replace")
    return {"file_path": path, "line": number, "content": shown, "error": str(error)}


def _find(path: str) -> list[tuple[str, int]]:
    if os.path.isfile(path):
        return [(path, os.stat(path).st_size)]
    # 20 ms of import that a plain name does not need
    import bracex
    from wcmatch import glob

    flags = glob.GLOBSTAR | glob.DOTGLOB | glob.NODIR
    if not glob.is_magic(path, flags=flags | glob.BRACE):
        raise FatalError(f"there is no file {path!r}")
    try:
        alternatives = bracex.expand(path, keep_escapes=True, limit=MAX_ALTERNATIVES)
    except bracex.ExpansionLimitException as error:
        raise FatalError(f"the braces of {path!r} stand for more than {MAX_ALTERNATIVES} names") from error
    found = sorted(set(glob.iglob(alternatives, flags=flags, limit=MAX_ALTERNATIVES)))
    return [(one, os.stat(one).st_size) for one in found]


def _limit(path: str, size: int) -> int | None:
    """Where reading stops: `size` bytes, as large as the file was when the run began.

    None for gzip files, which say nothing about their unpacked size.
    """
    try:
        now = os.stat(path).st_size
    except OSError as error:
        raise FatalError(f"{path} cannot be read: {error.strerror}") from error
    packed = path.endswith(".gz")
    if now < size or (packed and now != size):
        raise FatalError(
            f"{path} has {now:,} bytes and had {size:,} when the run began: a new run reads what it holds now"
        )
    return None if packed else size
