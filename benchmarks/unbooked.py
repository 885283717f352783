"""An engine without ledger, acks and journal, for comparison. It can neither resume nor report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest.mock import patch

from engine.contract.acks import Ack, SplitTracker
from engine.contract.bookmarks import Bookmark
from engine.contract.journal import NoJournal
from engine.contract.types import Reservation
from engine.execution.journal import Journal
from engine.execution.ledger import Ledger
from engine.state.memory import MemoryStateStore
from engine.state.records import Progress, SplitRecord

__all__ = ["ForgetfulStore", "no_books"]


class ForgetfulStore(MemoryStateStore):
    """Keeps the run and its splits in memory, as every run needs them; commits nothing."""

    async def commit(self, run_id: str, progress: Sequence[Progress], *, epoch: int = 0) -> None:
        """Nothing."""


class _NoAck(Ack):
    """An ack that does not count the outcomes of its records."""

    __slots__ = ()

    def fork(self, count: int) -> None: ...
    def delivered(self, count: int, node: str) -> None: ...
    def written(self, count: int, *, confirmed: bool = True) -> None: ...
    def dropped(self, count: int, reason: str) -> None: ...
    def dead(self, count: int, node: str, keys: Sequence[str] = ()) -> None: ...
    def charge_growth(self, nbytes: int) -> None: ...
    def add_cost(self, tokens_in: int, tokens_out: int, cost_usd: float) -> None: ...


class _NoTracker(SplitTracker):
    """Gives every batch the same ack, and releases its bytes at once."""

    __slots__ = ("_ack",)

    def __init__(self, key: str, position: object) -> None:
        super().__init__(key, position)
        self._ack = _NoAck(self, None, None, 1, None, ())

    def begin(
        self,
        count: int,
        end: object,
        reservation: Reservation | None = None,
        bookmarks: Sequence[Bookmark] = (),
    ) -> Ack:
        if reservation is not None:
            reservation.release()
        return self._ack


def _track(ledger: Ledger, node: str, record: SplitRecord, *, replay: bool) -> SplitTracker:
    return _NoTracker(record.split.key, record.position)


@contextmanager
def no_books() -> Iterator[None]:
    """Run without acks and journal in this block; the ledger then has nothing to commit."""
    with (
        patch.object(Ledger, "track", _track),
        patch.object(Journal, "of_node", lambda *_: NoJournal()),
    ):
        yield
