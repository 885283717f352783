"""Send samples of the records that leave a node of a run in progress to another process of the same user.

A process that runs pipelines listens on a socket in its state directory. A client writes one line, `{"run":
…, "node": …, "limit": …}`, and reads lines: `{"record": …}` for each sample, then `{"end": "limit" | "run",
"passed": N}`, or `{"error": …}` at once. Nothing is stored, and a run never waits for a tap: a slow reader
misses records.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final

import anyio
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream

from engine.contract.types import JsonValue, Record
from engine.dead_letters.queue import as_json
from engine.execution.lease import numbering
from engine.execution.run import Run

MAX_SAMPLES: Final = 10_000
MAX_SOCKET_PATH: Final = 103  # bytes; accepted by every system
MAX_TAPS: Final = 8  # concurrent taps of a process
OF_EACH_BATCH: Final = 10
BUFFERED: Final = 64  # samples waiting for their reader
MAX_TEXT: Final = 2_000  # characters of each text of a record
MAX_RECORD: Final = 64_000  # characters of a record as JSON
MAX_REQUEST: Final = 4_096
REQUEST_TIMEOUT: Final = 5.0

Find = Callable[[str], Run | None]


def tap_socket(state_dir: Path, process: int) -> Path:
    """Return the socket of a process of this host that runs pipelines with this state directory."""
    return state_dir / f"tap-{process}-{numbering()}.sock"


def short_path(path: Path) -> str | None:
    """Return a path to a socket that is short enough for the system, or None."""
    shortest = min(os.path.abspath(path), os.path.relpath(path), key=len)
    return shortest if len(os.fsencode(shortest)) <= MAX_SOCKET_PATH else None


async def serve_taps(
    path: Path, find: Find, closing: anyio.Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve taps on a socket that only this user can open, until `closing`.

    Args:
        find: returns the run with an id, if this process works on it.
    """
    listener = await _listen(path)
    task_status.started()
    if listener is None:
        return
    taps = anyio.Semaphore(MAX_TAPS)

    async def answer(stream: SocketStream) -> None:
        # the reader may leave at any moment; `suppress` does not look into exception groups
        try:
            async with stream:
                await _answer(stream, find, taps)
        except* (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            pass

    async def listen() -> None:
        try:
            await listener.serve(answer)
        except* OSError:  # no file descriptor is left; taps must not fail a run
            pass

    try:
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listen)
            await closing.wait()
            group.cancel_scope.cancel()
    finally:
        with suppress(OSError):
            os.unlink(path)


async def _listen(path: Path) -> SocketListener | None:
    where = short_path(path)
    if where is None or not hasattr(socket, "AF_UNIX"):
        return None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(path)
        return await anyio.create_unix_listener(where, mode=0o600)
    except OSError:  # a file system without sockets; taps must not fail a run
        return None


def _remove_stale(path: Path) -> None:
    """Remove the sockets of processes that were killed."""
    for other in path.parent.glob(f"tap-*-{numbering()}.sock"):
        process = other.name.split("-")[1]
        if process.isdecimal() and not Path(f"/proc/{process}").exists() and Path("/proc/self").exists():
            other.unlink(missing_ok=True)


async def _answer(stream: SocketStream, find: Find, taps: anyio.Semaphore) -> None:
    if not _is_own_user(stream):
        return
    request = await _request(stream)
    run = find(str(request.get("run")))
    node, limit = str(request.get("node")), request.get("limit")
    if run is None:
        await _send(stream, {"error": "this process no longer works on the run"})
    elif node not in {one.name for one in run.plan.nodes}:
        await _send(stream, {"error": "unknown node", "nodes": [one.name for one in run.plan.nodes]})
    elif not isinstance(limit, int) or not 1 <= limit <= MAX_SAMPLES:
        await _send(stream, {"error": f"a tap takes 1 to {MAX_SAMPLES} samples"})
    else:
        try:
            taps.acquire_nowait()
        except anyio.WouldBlock:
            await _send(stream, {"error": f"the process has {MAX_TAPS} taps already"})
            return
        try:
            await _tap(stream, run, node, limit)
        finally:
            taps.release()


def _is_own_user(stream: SocketStream) -> bool:
    """Return whether the client is this user or root, where the system reports it."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    raw = stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - of a socket, not of a query
    _, user, _ = struct.unpack("3i", raw.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
    return user in (0, os.geteuid())


async def _request(stream: SocketStream) -> dict[str, Any]:
    line = b"{}"
    with anyio.move_on_after(REQUEST_TIMEOUT), suppress(anyio.IncompleteRead, anyio.DelimiterNotFound):
        line = await BufferedByteReceiveStream(stream).receive_until(b"\n", MAX_REQUEST)
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    return request if isinstance(request, dict) else {}


async def _tap(stream: SocketStream, run: Run, node: str, limit: int) -> None:
    samples, taps = _Samples(run, node, limit), run.taps_of(node)
    async with anyio.create_task_group() as group:
        group.start_soon(_end_when_left, stream, group.cancel_scope)
        group.start_soon(samples.end_with_run)
        taps.attach(samples.see)
        try:
            while (line := await samples.next()) is not None:
                await stream.send(line)
        finally:
            taps.detach(samples.see)
        await _send(stream, samples.end())
        group.cancel_scope.cancel()


async def _end_when_left(stream: SocketStream, scope: anyio.CancelScope) -> None:
    """End a tap whose reader has gone; a reader sends nothing after its request."""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            await stream.receive()
    scope.cancel()


async def _send(stream: SocketStream, message: JsonValue) -> None:
    await stream.send(_line(message))


def _line(message: JsonValue) -> bytes:
    return json.dumps(message, ensure_ascii=True).encode() + b"\n"


class _Samples:
    """Samples of a tap that its reader has not received yet."""

    def __init__(self, run: Run, node: str, limit: int) -> None:
        self._run = run
        self._node = node
        self._left = limit
        self._passed = 0
        self._lines: deque[bytes] = deque()
        self._ended = False
        self._changed = anyio.Event()

    def see(self, records: Sequence[Record]) -> None:
        """Take samples of a batch. They are serialised at once, since later nodes may change a record."""
        self._passed += len(records)
        room = min(self._left, OF_EACH_BATCH, BUFFERED - len(self._lines))
        if room > 0:
            self._lines.extend([self._written(record) for record in islice(records, room)])
            self._left -= min(room, len(records))
            self._changed.set()

    async def next(self) -> bytes | None:
        """Return the next sample as a line, or None when there are no more."""
        while not self._lines and self._left and not self._ended:
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._lines.popleft() if self._lines else None

    def end(self) -> JsonValue:
        """Return the last line."""
        return {"end": "run" if self._left else "limit", "passed": self._passed}

    async def end_with_run(self) -> None:
        """Stop sampling once the run has ended."""
        await self._run.until_ended()
        self._ended = True
        self._changed.set()

    def _written(self, record: Record) -> bytes:
        try:
            shown = _brief(self._run.redacted(self._node, as_json(record)[0]))
            line = _line({"record": shown})
        except Exception as error:  # noqa: BLE001 - a tap must not break the run that it looks at
            return _line({"record": None, "note": f"it cannot be shown ({type(error).__name__})"})
        if len(line) > MAX_RECORD:
            return _line({"record": None, "note": f"it is too large to be shown ({len(line)} characters)"})
        return line


def _brief(value: JsonValue) -> JsonValue:
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else f"{value[: MAX_TEXT - 1]}…"
    if isinstance(value, list):
        return [_brief(one) for one in value]
    if isinstance(value, dict):
        return {name: _brief(one) for name, one in value.items()}
    return value
