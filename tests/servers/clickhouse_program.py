"""ClickHouse's engine behind a small HTTP interface, in the environment that `.ci/run` creates.

Prints its address as a line of standard output, and ends with its standard input. It imports nothing of the
project, which is not installed there. One statement at a time; users, sessions and query ids are not checked
but for one password.
"""

import re
import sys
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qsl, urlsplit

from chdb import session  # type: ignore[import-not-found]  # installed in an environment of its own

STATUS = {60: 404, 81: 404, 516: 403}  # as the server has it; others are 500


class Handler(BaseHTTPRequestHandler):
    """Executes the statement in a request's body."""

    protocol_version = "HTTP/1.1"
    engine: session.Session
    login: str
    turn = Lock()

    def do_POST(self) -> None:
        """Answer as ClickHouse's server does."""
        statement = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.headers.get("Authorization") != f"Basic {self.login}":
            self._answer(
                516, "Code: 516. DB::Exception: default: Authentication failed. (AUTHENTICATION_FAILED)"
            )
            return
        query = dict(parse_qsl(urlsplit(self.path).query))
        with self.turn:
            try:
                self.engine.query(f"USE `{query.get('database', 'default')}`")
                self._answer(0, str(self.engine.query(statement, "TabSeparated")))
            except RuntimeError as error:
                self._answer(int((re.findall(r"Code: (\d+)", str(error)) or ["1"])[0]), str(error))

    def _answer(self, code: int, text: str) -> None:
        body = text.encode("utf-8", "replace")
        self.send_response(STATUS.get(code, 500) if code else 200)
        if code:
            self.send_header("X-ClickHouse-Exception-Code", str(code))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Keep quiet."""


def main(folder: str, password: str, port: int) -> None:
    """Serve what is in the folder until standard input is closed; port 0: any."""
    Handler.engine = session.Session(str(Path(folder)))
    Handler.engine.query("CREATE DATABASE IF NOT EXISTS default ENGINE = Atomic")
    Handler.login = b64encode(f"default:{password}".encode()).decode()
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
