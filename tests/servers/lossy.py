"""A connection to PostgreSQL that breaks at a commit, before or after the server receives it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

__all__ = ["Lossy", "lossy"]

COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class Lossy:
    """Passes everything on until `lose` is set; the next commit then loses its request or its reply, once."""

    def __init__(self, port: int) -> None:
        self.lose: Literal["", "request", "reply"] = ""
        self.lost = 0
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = [self._listener]

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def run(self) -> None:
        """Take connections until it is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._upstream))
                self._sockets += [client, server]
                self._begin(self._forth, client, server)
                self._begin(self._back, server, client)

    def close(self) -> None:
        """Break every connection, and accept no more."""
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(300)

    def _begin(self, pump: object, source: socket.socket, target: socket.socket) -> None:
        thread = threading.Thread(target=pump, args=(source, target))  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.lose == "request" and COMMIT in data:
                    self.lose, self.lost = "", self.lost + 1
                    break
                server.sendall(data)
        _shut(client, server)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if self.lose == "reply" and b"C\x00\x00\x00\x0bCOMMIT\x00" in data:
                    self.lose, self.lost = "", self.lost + 1
                    break
                client.sendall(data)
        _shut(client, server)


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


@contextmanager
def lossy(port: int) -> Iterator[Lossy]:
    """A wire to the server at `port` of this machine."""
    wire = Lossy(port)
    thread = threading.Thread(target=wire.run)
    thread.start()
    try:
        yield wire
    finally:
        wire.close()
        thread.join(300)
