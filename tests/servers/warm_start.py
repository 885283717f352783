"""A `subprocess` that starts `python -m engine …` from a process with the engine already imported.

`install` puts a `Popen` in the place of the standard one. Every other command starts as it always does, and
so does this one within `cold()`, with options that only a start from cold can obey, or on another system.
"""

from __future__ import annotations

import asyncio.unix_events
import atexit
import json
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import anyio.to_thread

from tests.servers.needed import KEPT

__all__ = [
    "LENGTH",
    "PID",
    "STATUS",
    "STREAMS",
    "Request",
    "cold",
    "ended",
    "install",
    "is_warm",
    "running",
    "serve",
    "use",
]

ROOT = Path(__file__).parents[2]
ENGINE = [[sys.executable, "-m", module] for module in ("engine", "engine.chaos")]
SUPPORTED = sys.platform == "linux" and hasattr(os, "pidfd_open")

LENGTH = 4
"""Bytes of the length, big-endian, before a request in JSON; the standard streams come with it."""
PID = 4
"""Bytes of the reply to a request: the id of the process."""
STATUS = 4
"""Bytes of the second reply, when the process has ended: its status as `os.waitpid` gives it."""
STREAMS = 3

_Popen = subprocess.Popen


class Request(TypedDict):
    """One process to start."""

    module: str
    arguments: list[str]
    directory: str
    environment: dict[str, str]
    new_session: bool


class _ForkServer:
    """The process that forks, started when it is needed first; it ends with this one."""

    def __init__(self) -> None:
        self.address: str | bytes = ""
        self._process: subprocess.Popen[bytes] | None = None
        self.is_cold = not SUPPORTED
        self.running: dict[int, subprocess.Popen[Any]] = {}
        """The processes that were started by this one and not waited for, by their ids."""

    def connect(self) -> socket.socket:
        """A connection, for one request."""
        if not self.address:
            self.start()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        return connection

    def start(self) -> None:
        """Start the process; it imports the engine when it is asked for the first time."""
        address = f"\0odw-tests-{secrets.token_hex(8)}"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen(64)
            number = listener.fileno()
            self._process = _Popen(
                [sys.executable, "-m", "tests.servers.fork_server", str(number)],
                cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[number],
                env={name: value for name, value in os.environ.items() if not name.startswith("ODW_")},
            )  # fmt: skip
        KEPT.add(str(self._process.pid))
        atexit.register(self._process.communicate)  # closes its input, and waits
        self.address = address


_server = _ForkServer()


class WarmPopen(subprocess.Popen[Any]):
    """Like the standard one; its process is a child of the fork server, which tells of its end."""

    _connection: socket.socket | None = None

    def _execute_child(self, *positional: Any) -> None:
        given = _Start(*positional)
        if _can_fork(given):
            self._ask(given)
            self._close_given(given)
        else:
            super()._execute_child(*positional)  # type: ignore[misc]

    def _ask(self, given: _Start) -> None:
        request: Request = {
            "module": given.args[2],
            "arguments": [os.fspath(argument) for argument in given.args[3:]],
            "directory": os.path.abspath(given.cwd or "."),
            "environment": dict(os.environ if given.env is None else given.env),
            "new_session": bool(given.start_new_session),
        }
        asked = (given.p2cread, given.c2pwrite, given.errwrite)
        streams = [own if own >= 0 else inherited for inherited, own in enumerate(asked)]
        body = json.dumps(request).encode()
        self._connection = connection = _server.connect()
        socket.send_fds(connection, [len(body).to_bytes(LENGTH, "big")], streams)
        connection.sendall(body)
        said = connection.recv(PID, socket.MSG_WAITALL)
        if len(said) < PID:
            raise RuntimeError("the fork server has ended: its errors are above")
        self.pid = int.from_bytes(said, "big")
        self._child_created = True
        _server.running[self.pid] = self

    def _close_given(self, given: _Start) -> None:
        """Close what only the new process needs, as the standard one does."""
        devnull = getattr(self, "_devnull", None)
        pipes = (
            (given.p2cread, given.p2cwrite),
            (given.c2pwrite, given.c2pread),
            (given.errwrite, given.errread),
        )
        for theirs, ours in pipes:
            if theirs != -1 and ours != -1 and theirs != devnull:
                os.close(theirs)
        if devnull is not None:
            os.close(devnull)
        self._closed_child_pipe_fds = True

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._connection is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc, no-any-return]
        try:
            at_once = socket.MSG_DONTWAIT if wait_flags & os.WNOHANG else 0
            said = self._connection.recv(STATUS, socket.MSG_WAITALL | at_once)
        except BlockingIOError:
            return 0, 0
        self._connection.close()
        _server.running.pop(self.pid, None)
        return self.pid, int.from_bytes(said, "big")

    def _internal_poll(self, *positional: Any, **named: Any) -> int | None:
        if self._connection is None:
            return super()._internal_poll(*positional, **named)  # type: ignore[misc, no-any-return]
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                if self.returncode is None:
                    pid, status = self._try_wait(os.WNOHANG)
                    if pid:
                        self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


@dataclass
class _Start:
    """What `subprocess.Popen` hands to its private method, in this order."""

    args: Any
    executable: Any
    preexec_fn: Any
    close_fds: bool
    pass_fds: Any
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    startupinfo: Any
    creationflags: int
    shell: bool
    p2cread: int
    p2cwrite: int
    c2pread: int
    c2pwrite: int
    errread: int
    errwrite: int
    restore_signals: bool
    gid: Any
    gids: Any
    uid: Any
    umask: int
    start_new_session: bool
    process_group: int = -1


def _can_fork(given: _Start) -> bool:
    """Whether it is the engine, to be started with nothing that only a new interpreter can obey."""
    unusual = (
        given.executable, given.preexec_fn, given.pass_fds, given.shell, given.gid, given.gids, given.uid
    )  # fmt: skip
    return (
        not _server.is_cold
        and isinstance(given.args, list | tuple)
        and list(given.args[:3]) in ENGINE
        and not any(unusual)
        and given.close_fds
        and given.restore_signals
        and given.umask == given.process_group == -1
        and _of_python(os.environ if given.env is None else given.env) == _OF_PYTHON
    )


def _of_python(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that an interpreter reads when it starts, but for the one that a child can obey."""
    return {
        name: value for name, value in environment.items()
        if name.startswith("PYTHON") and name != "PYTHONPATH"
    }  # fmt: skip


_OF_PYTHON = _of_python(os.environ)


def install(address: str | bytes = "") -> None:
    """Have `subprocess` start the engine warm, from now on; `address` is that of a running fork server."""
    use(address)
    # asyncio waits for its processes by their ids, which works with children only: they start from cold
    standard = ModuleType("subprocess")
    vars(standard).update(vars(subprocess))
    vars(asyncio.unix_events)["subprocess"] = standard
    subprocess.Popen = WarmPopen  # type: ignore[misc]


def serve() -> str | bytes:
    """The address of a fork server that runs as long as this process, for others to `use`."""
    if not _server.address and not _server.is_cold:
        _server.start()
    return _server.address


def use(address: str | bytes) -> None:
    """Start the engine from the fork server at this address; without one, from an own one."""
    _server.address = address


def is_warm() -> bool:
    """Whether the engine would start warm now."""
    return subprocess.Popen is WarmPopen and not _server.is_cold


def running() -> set[str]:
    """The ids of the processes that were started here and not waited for."""
    return {str(pid) for pid, process in list(_server.running.items()) if process.poll() is None}


async def ended(process: subprocess.Popen[Any]) -> int:
    """The exit code of a process, waited for in a thread; it is killed when the waiting is cancelled."""
    try:
        return await anyio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
    finally:
        process.kill()


@contextmanager
def cold() -> Iterator[None]:
    """Within the block, the engine starts as it does for a user."""
    before, _server.is_cold = _server.is_cold, True
    try:
        yield
    finally:
        _server.is_cold = before
