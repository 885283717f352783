"""PostgreSQL for coroutines: a few connections, transactions, and recovery when the server goes away."""

from __future__ import annotations

from collections.abc import Callable
from threading import Condition
from typing import Concatenate, Final, Generic, ParamSpec, TypeVar

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread

from engine.errors import StateError
from engine.state.address import checked, place_of
from engine.state.postgres.connection import PostgresConnection, Receipt, connect, parameters_of
from engine.state.postgres.errors import ContendedError, DisconnectedError, translated
from engine.state.postgres.schema import prepare

P = ParamSpec("P")
T = TypeVar("T")

_Begin = Callable[[PostgresConnection], Receipt | None]

PATIENCE: Final = 30.0
"""Seconds for which the server may be unavailable; as long as a lease."""

CONNECTIONS: Final = 4
"""Maximum connections of a process; they are opened on demand."""

_FIRST_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 1.0


class PostgresDatabase:
    """Implements `Database`. Calls run in worker threads, never in the event loop.

    A call that has begun is finished even if its task is cancelled, except during the wait between attempts.
    """

    def __init__(self, address: str, *, create: bool, patience: float) -> None:
        parameters_of(address)
        self.place = place_of(address)
        self._address = checked(address)
        self._create = create
        self._patience = patience
        self._idle: list[PostgresConnection] = []
        self._busy = 0
        self._closed = True
        # counts threads, not tasks: a task cancelled by asyncio itself leaves its thread running
        self._changed = Condition()
        self._limiter: CapacityLimiter | None = None
        self._given_up = False
        self._home: int | None = None

    async def open(self) -> None:
        """Connect and bring the tables up to date. May be called again after `close`."""
        self._closed = self._given_up = False
        self._limiter = CapacityLimiter(CONNECTIONS)
        try:
            self._home = await self._run(self._prepare, PostgresConnection.begin_setup, patience=0.0)
        except BaseException:
            await self.close()
            raise

    def _prepare(self, connection: PostgresConnection) -> int:
        prepare(connection, create=self._create)
        return connection.find_home()

    async def close(self) -> None:
        """Close all connections; waits for calls that still run. Not interrupted by cancellation."""
        with CancelScope(shield=True):
            await to_thread.run_sync(self._close)

    async def read(self, function: Callable[Concatenate[PostgresConnection, P], T],
                   *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        begin = PostgresConnection.begin_reading
        return await self._run(lambda connection: function(connection, *args, **kwargs), begin)

    async def write(self, function: Callable[Concatenate[PostgresConnection, P], T],
                    *args: P.args, **kwargs: P.kwargs) -> T:  # fmt: skip
        begin = PostgresConnection.begin_writing
        return await self._run(lambda connection: function(connection, *args, **kwargs), begin)

    async def _run(
        self, function: Callable[[PostgresConnection], T], begin: _Begin, *, patience: float | None = None
    ) -> T:
        patience = self._patience if patience is None else patience
        call = _Call(function, begin)
        pause, until = _FIRST_PAUSE, 0.0
        while True:
            try:
                result = await to_thread.run_sync(self._attempt, call, limiter=self._limiter)
            except (DisconnectedError, ContendedError) as error:
                until = until or anyio.current_time() + patience
                # once a call has waited in vain, later ones do not wait again
                if self._given_up or anyio.current_time() >= until:
                    self._given_up = isinstance(error, DisconnectedError)
                    raise self._hopeless(error, patience) from error
            else:
                self._given_up = False
                return result
            await anyio.sleep(pause)
            pause = min(2 * pause, _MAX_PAUSE)

    def _hopeless(self, error: DisconnectedError | ContendedError, patience: float) -> StateError:
        if isinstance(error, ContendedError):
            return StateError(f"{self.place} has too many writers of the same rows: {error}")
        if not patience:
            return StateError(
                f"cannot reach {self.place}: {error}. Check that the server is up and the address is right"
            )
        return StateError(
            f"could not reach {self.place} for {patience:g} s: {error}. What was committed is kept: "
            "resume the run when the server is back"
        )

    def _attempt(self, call: _Call[T]) -> T:
        with translated(self.place):
            connection = self._take()
            connection.home = self._home
            try:
                return call.attempt(connection)
            finally:
                self._give_back(connection)

    def _take(self) -> PostgresConnection:
        with self._changed:
            if self._closed:
                raise StateError(f"{self.place} is not open; use it inside `async with`")
            self._busy += 1
            if self._idle:
                return self._idle.pop()
        try:
            return connect(self._address)
        except BaseException:
            self._give_back(None)
            raise

    def _give_back(self, connection: PostgresConnection | None) -> None:
        usable = connection is not None and connection.tidy()
        with self._changed:
            self._busy -= 1
            if connection is not None and usable and not self._closed:
                self._idle.append(connection)
                connection = None
            # when one connection breaks, the idle ones have most likely broken too
            broken = [] if usable else self._idle
            self._idle = self._idle if usable else []
            self._changed.notify_all()
        for one in (*broken, *([connection] if connection is not None else [])):
            one.close()

    def _close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._busy)
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class _Call(Generic[T]):
    """One call with all its attempts, of which at most one is committed."""

    def __init__(self, function: Callable[[PostgresConnection], T], begin: _Begin) -> None:
        self._function = function
        self._begin = begin
        self._doubtful: tuple[Receipt, T] | None = None

    def attempt(self, connection: PostgresConnection) -> T:
        if self._doubtful is not None:
            receipt, result = self._doubtful
            if connection.has_committed(receipt):
                return result
            self._doubtful = None
        signed = self._begin(connection)
        result = self._function(connection)
        if signed is not None:
            self._doubtful = signed, result
        connection.commit()
        return result
