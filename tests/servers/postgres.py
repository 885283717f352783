"""A private PostgreSQL server on loopback, which can be killed and started again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.needed import KEPT, missing
from tests.servers.ports import lasting_port

__all__ = ["DURABLE", "FAST", "PASSWORD", "Postgres", "find_programs", "running"]

PASSWORD = "s3cret-@/?w0rd"
PASSWORD_IN_ADDRESS = "s3cret-%40%2F%3Fw0rd"

# the engine asks for what it needs of a server that is not as careful
FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "deadlock_timeout": "50ms",
}
DURABLE: dict[str, str] = {}

FILLED = ("runs", "dead_letters", "journal", "bookmarks", "allowances")  # what refers to a run goes with it

DEBIAN = Path("/usr/lib/postgresql")
START_SECONDS = 300.0
STARTS = 3  # a port that was free a moment ago may be taken


class Postgres:
    """A server with a database `odw`, whose owner is the superuser `odw`.

    Its folder is not one of pytest's: the server refuses to run as root, and others cannot get into those.

    Args:
        settings: of the server, beyond its defaults.
        kept: it outlives the test that starts it.
    """

    def __init__(self, settings: Mapping[str, str] = FAST, *, kept: bool = False) -> None:
        self._programs = _needed_programs()
        self._settings = dict(settings)
        self._kept = kept
        self._folder = Path(tempfile.mkdtemp(prefix="odw-postgres-"))
        self._log = self._folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        try:
            self._make_cluster()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def address(self, database: str = "odw", *, port: int = 0) -> str:
        """`postgresql://…` with the password in it."""
        return f"postgresql://odw:{PASSWORD_IN_ADDRESS}@127.0.0.1:{port or self.port}/{database}"

    def sql(self, statement: str, values: Sequence[object] = (), *, database: str = "odw") -> list[Any]:
        """Execute a statement behind the engine's back."""
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def clear(self) -> None:
        """Empty the engine's tables, if they exist, which is much faster than creating them again."""
        with suppress(psycopg.errors.UndefinedTable):  # nothing has been there yet
            self.sql("; ".join(f"DELETE FROM odw_engine.{table}" for table in FILLED))

    def drop(self) -> None:
        """Remove the engine's tables."""
        self.sql("DROP SCHEMA IF EXISTS odw_engine CASCADE")

    def start(self) -> None:
        """Have it running and answering. To be called by the main thread: it ends with its caller."""
        if self._process is not None:
            return
        for attempt in range(STARTS):
            first = not self.port
            self.port = self.port or lasting_port()
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    self._as_nobody([str(self._programs / "postgres"), "-D", str(self._folder / "data"),
                                     "-p", str(self.port)]),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
                )  # fmt: skip
            if self._kept:
                KEPT.add(str(self._process.pid))
            if self._answers():
                return
            self.kill()
            if first:
                self.port = 0
            if attempt + 1 == STARTS:
                raise RuntimeError(f"PostgreSQL does not come up: {self._log.read_text()[-2000:]}")

    def kill(self) -> None:
        """Stop it as a crash would: nothing is written any more, and the next start recovers."""
        self._end(signal.SIGQUIT)

    def stop(self) -> None:
        """Stop it properly, and break all connections."""
        self._end(signal.SIGINT)

    @contextmanager
    def as_standby(self) -> Iterator[None]:
        """Started inside the block, it is one that can only be read."""
        sign = self._folder / "data" / "standby.signal"
        sign.touch()
        try:
            yield
        finally:
            sign.unlink()

    def remove(self) -> None:
        """Stop it, and delete everything."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(300)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        KEPT.discard(str(process.pid))

    def _make_cluster(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD, "utf-8")
        if os.getuid() == 0:
            for path in (self._folder, secret):
                os.chown(path, *_unprivileged())
        command = [str(self._programs / "initdb"), "-D", str(self._folder / "data"), "--no-sync"]
        command += ["--encoding=UTF8", "--no-locale", "--username=odw"]
        # scram costs both sides of a connection some 10 ms
        command += ["--auth=md5", f"--pwfile={secret}"]
        done = subprocess.run(
            self._as_nobody(command), capture_output=True, text=True, cwd=self._folder, check=False
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr[-2000:]}")
        lines = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "60",
            "shared_buffers": "16MB", "lc_messages": "C", **self._settings,
        }  # fmt: skip
        with (self._folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in lines.items())

    def _as_nobody(self, command: list[str]) -> list[str]:
        """The command as an unprivileged user, to be ended with the tests' process however that ends."""
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            if os.getuid() == 0:
                missing("PostgreSQL does not run as root, and there is no `setpriv` to be somebody else")
            return command
        prefix = [setpriv, "--pdeathsig", "QUIT"]
        if os.getuid() == 0:
            user, group = _unprivileged()
            prefix += ["--reuid", str(user), "--regid", str(group), "--clear-groups"]
        return [*prefix, *command]

    def _answers(self) -> bool:
        until = time.monotonic() + START_SECONDS
        while self._process is not None and self._process.poll() is None and time.monotonic() < until:
            with suppress(psycopg.OperationalError):
                if not self.sql("SELECT 1 FROM pg_database WHERE datname = 'odw'", database="postgres"):
                    # a language's order of text: nothing may depend on the order that a database has
                    self.sql(
                        f"CREATE DATABASE odw TEMPLATE template0 {self._linguistic()}", database="postgres"
                    )
                return True
            time.sleep(0.05)
        return False

    def _linguistic(self) -> str:
        version = subprocess.run(
            [str(self._programs / "postgres"), "--version"], capture_output=True, text=True, check=True
        ).stdout
        major = int(re.findall(r"\d+", version)[0])
        return "LOCALE_PROVIDER icu ICU_LOCALE 'en-US'" if major >= 15 else ""


@contextmanager
def running(settings: Mapping[str, str] = FAST, *, kept: bool = False) -> Iterator[Postgres]:
    """A server that ends with the block. May skip the test."""
    server = Postgres(settings, kept=kept)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def find_programs() -> Path | None:
    """Find `postgres` and `initdb`: on PATH, else in Debian's folder."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(DEBIAN.glob("*/bin"), key=lambda folder: int(folder.parent.name), reverse=True)
    for folder in folders:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    return None


def _needed_programs() -> Path:
    return find_programs() or missing(
        "no PostgreSQL server on PATH or in /usr/lib/postgresql: apt-get install postgresql"
    )


def _unprivileged() -> tuple[int, int]:
    from pwd import getpwnam

    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            user = getpwnam(name)
            return user.pw_uid, user.pw_gid
    return missing("PostgreSQL does not run as root, and there is no user `postgres` or `nobody`")
