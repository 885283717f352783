"""The content of an object as a stream, unpacked and in an encoding whose lines end with a line feed byte.

Positions count bytes of the unpacked content; for UTF-16, UTF-32 and the like, bytes of its UTF-8. An object
that needs neither unpacking nor conversion is opened at the position where reading continues; any other is
read again from the beginning.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio.to_thread

from connectors.objects.block_text import has_braces_inside, has_plain_lines
from connectors.objects.charsets import known_charset, read_text
from connectors.objects.compression import PackedError, UnpackedTooLargeError
from connectors.objects.media_types import charset_of
from connectors.objects.unpacking import MAX_LAYERS, StreamUnpacker, packed_kind
from engine.errors import RecordError

HEAD_BYTES = 64 * 1024
"""Bytes of the beginning that are used to detect compression, encoding, and the columns of a CSV file."""

ReadBytes = Callable[[], Awaitable[bytes]]


class ObjectBody(Protocol):
    """The body of an object from some byte on. `size`: stored size of the whole object, -1 if unknown."""

    content_type: str | None
    content_encoding: str | None
    size: int

    async def read(self) -> bytes:
        """Return the next bytes, none at the end. Raises `TransientError` if the answer breaks off."""


@dataclass(slots=True)
class StoredBody:
    """A body whose bytes have arrived. `size`: that of the whole object."""

    data: bytes
    content_type: str | None
    size: int
    content_encoding: str | None = None

    async def read(self) -> bytes:
        """Return all bytes, then none."""
        data, self.data = self.data, b""
        return data


OpenBody = Callable[[int, int | None], AbstractAsyncContextManager[ObjectBody]]
"""Opens an object's bytes from the first position up to the second (None: to the end)."""


@dataclass(frozen=True, slots=True)
class ContentOptions:
    """How content is unpacked and decoded.

    Args:
        charset: charset of all text, overriding declarations; None detects it.
        strict_text: fail on text that is not valid in its encoding.
        max_bytes, max_ratio: limits of the unpacked size.
        braces: no brace may be part of another character, since the bytes are searched for them.
    """

    charset: str | None = None
    strict_text: bool = False
    max_bytes: int = 1 << 40
    max_ratio: float = 1000.0
    braces: bool = False


@dataclass(slots=True)
class Content:
    """Open content.

    Attributes:
        read: returns the bytes from the position at which it was opened.
        head: first bytes of the content, even if opened at a later position.
        charset: charset of its text; None if yet to be detected.
        declared: charset declared by the store, used as a fallback, or None.
    """

    read: ReadBytes
    head: bytes
    charset: str | None
    declared: str | None


@asynccontextmanager
async def open_content(
    open_body: OpenBody, name: str, options: ContentOptions, *, start: int = 0
) -> AsyncGenerator[Content, None]:
    """Open content at a position.

    Raises:
        RecordError: `ObjectDamaged`, `ObjectTooLarge` or `InvalidText`, here or in `read`.
        ComponentError: as for the store's `open`.
    """
    async with AsyncExitStack() as stack:
        body = await stack.enter_async_context(open_body(0, HEAD_BYTES if start else None))
        source, plain = await _unpacked(body, name, options)
        if start and not plain:
            await stack.aclose()
            body = await stack.enter_async_context(open_body(0, None))
            source, plain = await _unpacked(body, name, options)
        head = await source.peek()
        declared = known_charset(charset_of(body.content_type))
        encoding = _stream_encoding(head, options, declared)
        if encoding is not None:
            plain = False
            if start:
                await stack.aclose()
                body = await stack.enter_async_context(open_body(0, None))
                source, _ = await _unpacked(body, name, options)
            source = _Peeked(_Recoded(source.read, encoding, name, strict=options.strict_text).read)
            head = await source.peek()
        if start and plain:
            await stack.aclose()
            body = await stack.enter_async_context(open_body(start, None))
            source = _Peeked(body.read)
        elif start:
            await source.skip(start)
        charset = "utf-8" if encoding else options.charset
        read: ReadBytes = source.read
        if b"\r" in head and b"\n" not in head:  # line ends of old Macs; positions stay the same
            head, read = head.replace(b"\r", b"\n"), _with_line_feeds(read)
        yield Content(read, head, charset, None if encoding else declared)


def _with_line_feeds(read: ReadBytes) -> ReadBytes:
    async def translated() -> bytes:
        return (await read()).replace(b"\r", b"\n")

    return translated


def _stream_encoding(head: bytes, options: ContentOptions, declared: str | None) -> str | None:
    """Return the encoding to decode the whole stream from; None if lines can be split by bytes."""
    charset = options.charset
    if charset is None:
        if len(head) >= HEAD_BYTES and b"\0" not in head:
            head = head[: head.rfind(b"\n") + 1] or head
        text = read_text(head, None, declared, textual=True)
        charset = text.encoding if text is not None else None
    if charset is None or (has_plain_lines(charset) and not (options.braces and has_braces_inside(charset))):
        return None
    return charset


async def _unpacked(body: ObjectBody, name: str, options: ContentOptions) -> tuple[_Peeked, bool]:
    """Return the unpacked content, and whether it was not packed."""
    source, encoding, layers = _Peeked(body.read), body.content_encoding, 0
    while layers < MAX_LAYERS:
        try:
            kind = packed_kind(await source.peek(), name if not layers else "", encoding)
        except PackedError as error:
            raise RecordError(f"{name}: {error}", kind="ObjectDamaged") from error
        if kind is None:
            break
        unpacker = StreamUnpacker(kind, max_bytes=options.max_bytes, max_ratio=options.max_ratio)
        source = _Peeked(_Unpacking(source.read, unpacker, name).read)
        layers, encoding = layers + 1, None
    return source, not layers


class _Peeked:
    """A stream of bytes whose beginning can be peeked at."""

    def __init__(self, read: ReadBytes) -> None:
        self._read = read
        self._ahead: list[bytes] = []
        self._ended = False
        self._damage: RecordError | None = None

    async def peek(self) -> bytes:
        """Return the first `HEAD_BYTES`; fewer only at the end or before damage."""
        have = sum(map(len, self._ahead))
        while have < HEAD_BYTES and not self._ended and self._damage is None:
            try:
                data = await self._read()
            except RecordError as error:
                if not have:
                    raise
                self._damage = error  # the bytes before the error are read first
                break
            self._ended = not data
            if data:
                self._ahead.append(data)
                have += len(data)
        return b"".join(self._ahead)[:HEAD_BYTES]

    async def read(self) -> bytes:
        if self._ahead:
            return self._ahead.pop(0)
        if self._damage is not None:
            raise self._damage
        return b"" if self._ended else await self._read()

    async def skip(self, count: int) -> None:
        """Skip this many bytes."""
        while count > 0 and (data := await self.read()):
            if len(data) > count:
                self._ahead.insert(0, data[count:])
            count -= len(data)


class _Unpacking:
    """Unpacks bytes outside the event loop's thread."""

    def __init__(self, read: ReadBytes, unpacker: StreamUnpacker, name: str) -> None:
        self._read = read
        self._unpacker = unpacker
        self._name = name
        self._ended = False

    async def read(self) -> bytes:
        try:
            while not (found := await anyio.to_thread.run_sync(self._unpacker.take)):
                if self._ended:
                    self._unpacker.finish()
                    return b""
                data = await self._read()
                self._ended = not data
                self._unpacker.feed(data)
        except PackedError as error:
            raise RecordError(f"{self._name}: {error}", kind="ObjectDamaged") from error
        except UnpackedTooLargeError as error:
            raise RecordError(f"{self._name}: {error}", kind="ObjectTooLarge") from error
        return found


class _Recoded:
    """Converts bytes to UTF-8."""

    def __init__(self, read: ReadBytes, encoding: str, name: str, *, strict: bool) -> None:
        self._read = read
        self._decoder = codecs.getincrementaldecoder(encoding)("strict" if strict else "replace")
        self._encoding = encoding
        self._name = name
        self._first = True
        self._ended = False

    async def read(self) -> bytes:
        found = ""
        while not found and not self._ended:
            data = await self._read()
            self._ended = not data
            try:
                found = self._decoder.decode(data, self._ended)
            except UnicodeError as error:
                raise RecordError(
                    f"{self._name}: it is not valid {self._encoding} (`strict_text`)", kind="InvalidText"
                ) from error
            if self._first and found:
                found, self._first = found.removeprefix("\ufeff"), False
        return found.encode("utf-8", "replace")
