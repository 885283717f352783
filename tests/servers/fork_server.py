"""A process that imports the engine once, and runs `python -m engine …` in forked children.

It becomes `python -m engine.chaos …` as well.

A start from cold spends half a second to two seconds of CPU on imports, and the tests start a thousand
processes. What a child does is the same: it has its own process id, working directory, environment and
standard streams, runs `engine/__main__.py` as `__main__`, and ends by itself or by a signal.

Started by `tests.servers.warm_start`, as `python -m tests.servers.fork_server DESCRIPTOR` with the
descriptor of a listening socket. It ends when its standard input does.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass

from tests import bytecode  # first: it is about what the others import
from tests.servers import read_once, warm_start
from tests.servers.warm_start import LENGTH, PID, STATUS, STREAMS, Request

LAZY = ("moto.server", "openai", "uvloop", "temporalio.worker", "uvicorn.protocols.http.httptools_impl")
"""What the engine's functions import when they are called."""


@dataclass
class _Child:
    pid: int
    reply: int  # the descriptor of the connection to the waiting process


def _preload() -> None:
    """Import all of the engine and the connectors, with everything that they use."""
    for package in ("engine", "connectors"):
        path = importlib.import_module(package).__path__
        for module in pkgutil.walk_packages(path, f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    for name in LAZY:
        importlib.import_module(name)
    read_once.preload()
    # what was imported lives as long as the children do: their collections need not look at it
    gc.collect()
    gc.freeze()
    sys.dont_write_bytecode = bytecode.WITHOUT


def _serve(listener: socket.socket) -> Request | None:
    """Fork for every request; returns the request in the child, None when the tests have ended."""
    waiting = selectors.DefaultSelector()
    waiting.register(listener, selectors.EVENT_READ)
    waiting.register(0, selectors.EVENT_READ)
    children: dict[int, _Child] = {}  # by the descriptor that tells of their end
    while True:
        for key, _ in waiting.select():
            if key.fd == 0:
                return None
            if key.fileobj is not listener:
                waiting.unregister(key.fd)
                _report(key.fd, children.pop(key.fd))
                continue
            connection, _ = listener.accept()
            received = _receive(connection)
            reply = connection.detach()
            if received is None:
                os.close(reply)
                continue
            request, streams = received
            pid = os.fork()
            if pid == 0:
                waiting.close()
                for descriptor in (reply, listener.detach(), *children):
                    os.close(descriptor)
                for child in children.values():
                    os.close(child.reply)
                _take(streams)
                return request
            for descriptor in streams:
                os.close(descriptor)
            ended = os.pidfd_open(pid)
            children[ended] = _Child(pid, reply)
            waiting.register(ended, selectors.EVENT_READ)
            with suppress(OSError):  # the client is gone
                os.write(reply, pid.to_bytes(PID, "big"))


def _receive(connection: socket.socket) -> tuple[Request, list[int]] | None:
    """Return a request and its standard streams; None if its client is gone."""
    head, streams, _, _ = socket.recv_fds(connection, LENGTH, STREAMS, socket.MSG_WAITALL)
    if len(head) < LENGTH:
        return None
    size = int.from_bytes(head, "big")
    body = bytearray()
    while len(body) < size and (part := connection.recv(size - len(body))):
        body += part
    if len(body) < size:
        for descriptor in streams:
            os.close(descriptor)
        return None
    request: Request = json.loads(body)
    return request, streams


def _report(ended: int, child: _Child) -> None:
    _, status = os.waitpid(child.pid, 0)
    os.close(ended)
    with suppress(OSError):
        os.write(child.reply, status.to_bytes(STATUS, "big"))
    os.close(child.reply)


def _take(streams: list[int]) -> None:
    """Make these the standard streams."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # for the rest of the process, so nothing closes them
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    buffering = 1 if os.isatty(1) else -1
    sys.stdout = open(1, "w", buffering, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _become(request: Request) -> None:
    """Run `python -m engine` as the request has it, and end like it."""
    if request["new_session"]:
        os.setsid()
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faults = importlib.import_module("engine.fault_injection")
    faults.observe(faults.armed(os.environ.get(faults.VARIABLE, ""), vars(faults)["_strike"]))
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [os.getcwd(), *named, *sys.path[1:]]
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    listener = socket.socket(fileno=int(sys.argv[1]))
    address = listener.getsockname()
    select.select([listener, 0], [], [])  # asked for the first time, or the end of the tests
    asked = None
    if select.select([listener], [], [], 0)[0]:
        _preload()
        asked = _serve(listener)
    if asked is not None:
        warm_start.install(address)  # what the engine starts itself, the sandbox, is warm too
        _become(asked)
