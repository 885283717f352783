"""HTTP/1.1 messages as bytes: just enough to read one from a stream and change it (RFC 9112)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

__all__ = ["LARGEST_MESSAGE", "Message", "MessageError", "answer_of", "read_answer", "read_request"]

LARGEST_HEAD = 256 * 1024
LARGEST_MESSAGE = 256 * 1024 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class MessageError(Exception):
    """What came is not a message of HTTP/1.1, or one that is larger than allowed."""


@dataclass(frozen=True)
class Message:
    """A request or an answer.

    Args:
        head: the first line and the headers, up to and with the empty line.
        body: as it was sent, chunk sizes included.
        payload: the body without chunk sizes.
    """

    head: bytes
    body: bytes = b""
    payload: bytes = b""

    @property
    def first_line(self) -> str:
        return self.head.partition(b"\r\n")[0].decode("latin-1")

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def closes(self) -> bool:
        """Whether the sender closes the connection behind it."""
        return b"close" in (self.header(b"connection") or b"").lower()

    def header(self, name: bytes) -> bytes | None:
        """The value of a header; `name` in lower case."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.strip().lower() == name:
                return value.strip()
        return None

    def with_length(self, length: int) -> bytes:
        """The message with its payload in one piece, and this Content-Length whatever is true."""
        framing = (b"content-length", b"transfer-encoding")
        lines = [
            line
            for line in self.head.rstrip(b"\r\n").split(b"\r\n")
            if line.partition(b":")[0].strip().lower() not in framing
        ]
        return b"\r\n".join([*lines, b"Content-Length: %d" % length, b"", self.payload])


def answer_of(status: int, reason: str, headers: dict[str, str] | None = None) -> bytes:
    """An answer of a few words."""
    body = f"{reason}\n".encode()
    fields = {"Content-Type": "text/plain", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {reason}\r\n{head}\r\n".encode() + body


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Message | None:
    """The next request of a connection; None when it has ended. Lets a client go on that waits to be told.

    Raises:
        MessageError, OSError: there is no whole request.
    """
    head = await _head(reader)
    if head is None:
        return None
    message = Message(head)
    if (message.header(b"expect") or b"").lower() == b"100-continue":
        writer.write(CONTINUE)
    return await _with_body(reader, message, until_end=False)


async def read_answer(reader: asyncio.StreamReader, method: str) -> Message:
    """The answer to a request with this method.

    Raises:
        MessageError, OSError: there is no whole answer.
    """
    while True:
        head = await _head(reader)
        if head is None:
            raise MessageError("no answer")
        message = Message(head)
        status = _status(message)
        if status >= 200:
            break
    if method == "HEAD" or status in (204, 304):
        return message
    return await _with_body(reader, message, until_end=True)


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise MessageError("the connection ended inside a head") from error
    except asyncio.LimitOverrunError as error:
        raise MessageError("the head is too long") from error
    return head


def _status(message: Message) -> int:
    version, _, rest = message.first_line.partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not code.isdigit():
        raise MessageError(f"not an answer: {message.first_line[:40]!r}")
    return int(code)


async def _with_body(reader: asyncio.StreamReader, message: Message, *, until_end: bool) -> Message:
    length = message.header(b"content-length")
    try:
        if (message.header(b"transfer-encoding") or b"").lower().endswith(b"chunked"):
            body, payload = await _chunked(reader)
        elif length is not None:
            if not length.isdigit() or int(length) > LARGEST_MESSAGE:
                raise MessageError(f"not a length: {length[:40]!r}")
            body = payload = await reader.readexactly(int(length))
        elif until_end:
            body = payload = await reader.read(LARGEST_MESSAGE)
            while more := await reader.read(LARGEST_MESSAGE - len(body)):
                body = payload = body + more
        else:
            body = payload = b""
    except asyncio.IncompleteReadError as error:
        raise MessageError("the connection ended inside a body") from error
    return Message(message.head, body, payload)


async def _chunked(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    body, payload = bytearray(), bytearray()
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError as error:
            raise MessageError(f"not the size of a chunk: {line[:40]!r}") from error
        if len(payload) + size > LARGEST_MESSAGE:
            raise MessageError("the body is too large")
        if not size:
            trailer = b"".join([line, *[part async for part in _trailer(reader)]])
            return bytes(body) + trailer, bytes(payload)
        chunk = await reader.readexactly(size + 2)
        body += line + chunk
        payload += chunk[:-2]


async def _trailer(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The lines behind the last chunk, the empty one included."""
    while True:
        line = await reader.readuntil(b"\r\n")
        yield line
        if line == b"\r\n":
            return
