"""Components that follow a script, record by record."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

from engine.contract.batch import Batch, Drop, Outcome
from engine.contract.component import Context, NoParams, Receipt, Sink, Source, Transform
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import BatchError, FatalError, RecordError, TransientError
from tests.reliability.model.stores import Killed

__all__ = ["CALL_FAULTS", "DROPS", "FATES", "SIEVED", "TAKEN", "Load", "Shape", "Tape"]

FATES = ("keep", "keep", "keep", "none", "late", "pair", "triple", "empty", "bad", "again", "never")
"""What a transform can make of a record: `again` is a failure that passes, `never` one that does not."""

SIEVED = ("keep", "keep", "early", "late", "none", "pair", "empty")
"""The same in three steps within one `apply`: what is early goes first, then what is late."""

TAKEN = ("keep", "keep", "keep", "keep", "bad", "again", "never")
"""What a sink can do with a record."""

CALL_FAULTS = ("busy", "named", "refused", "fatal", "bug", "killed")
"""What can go wrong with a call as a whole. `killed`: after the work, before anybody knows of it."""

DROPS = {"none": "filtered", "early": "early", "late": "late", "empty": "empty list"}
"""The reason that each kind of drop is booked under."""

MADE = {"empty": 0, "pair": 2, "triple": 3}


class Tape(Source[NoParams]):
    """Plays what is put on it: batches, and errors to raise before them."""

    repeatable = True

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__(NoParams())
        self.sizes = sizes
        self.upcoming: list[Batch | TransientError] = []
        self.at_the_end: Callable[[], None] | None = None

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        for key, size in self.sizes.items():
            yield Split(key, {"size": size})

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        while self.upcoming:
            one = self.upcoming.pop(0)
            if isinstance(one, TransientError):
                raise one
            yield one
        if self.at_the_end is not None:
            self.at_the_end()


class _Told:
    """Who is told by key what to do, and remembers by key what it has done."""

    def __init__(self, kinds: Mapping[str, str], faults: Sequence[str] = ()) -> None:
        self.kinds = dict(kinds)
        self.done: dict[str, str] = {}
        self._may_die = {key for key, kind in kinds.items() if faults or kind in ("bad", "again", "never")}
        self._faults = list(faults)

    def fail(self) -> str:
        """Raise the next fault, or say which one is the caller's own."""
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "busy":
            raise TransientError("not now")
        if fault == "refused":
            raise RecordError("one of them is wrong")
        if fault == "fatal":
            raise FatalError("wrong credentials")
        if fault == "bug":
            raise ZeroDivisionError
        return fault

    def may_die(self, key: str) -> bool:
        """True when something was wrong with this record, or with a call that it was in."""
        return key in self._may_die

    def kind(self, key: str) -> str:
        """What to do with this record now."""
        kind = self.kinds[key]
        if kind == "again":
            self.kinds[key] = "keep"
        return kind


class Shape(_Told, Transform[NoParams]):
    """A transform. What a failing call has done does not count, so it is asked again."""

    def __init__(self, kinds: Mapping[str, str], faults: Sequence[str] = ()) -> None:
        _Told.__init__(self, kinds, faults)
        Transform.__init__(self, NoParams())

    def apply(self, batch: Batch) -> Batch:
        keys = batch.keys.to_list()
        fault = self.fail()
        if fault == "named":
            raise BatchError({index: TransientError("not this one") for index in range(0, len(keys), 2)})
        kinds = {key: self.kind(key) for key in keys}
        if "early" in kinds.values():
            derived = batch.select([kinds[key] != "early" for key in keys], "early")
            left = [kinds[key] for key in derived.keys.to_list()]
            derived = derived.select([kind != "late" for kind in left], "late")
        else:
            derived = batch
        rest = derived.keys.to_list()
        made = derived.outcomes(
            [_outcome(kinds[key], one) for key, one in zip(rest, derived.records, strict=True)]
        )
        self.done |= {key: kind for key, kind in kinds.items() if kind not in ("again", "never", "bad")}
        if fault == "killed":
            raise Killed
        return made


def _outcome(kind: str, record: str) -> Outcome:
    if kind in MADE:
        return [f"{record}.{number}" for number in range(MADE[kind])]
    if kind == "none":
        return None
    if kind == "late":
        return Drop("late")
    if kind == "bad":
        return RecordError("bad")
    return TransientError("not yet") if kind in ("again", "never") else record


class Load(_Told, Sink[NoParams]):
    """A sink in front of a warehouse: a batch that is no replay is appended, a replay replaces its keys."""

    def __init__(
        self, warehouse: Counter[str], kinds: Mapping[str, str], faults: Sequence[str] = (), *,
        confirmed: bool = True,
    ) -> None:  # fmt: skip
        _Told.__init__(self, kinds, faults)
        Sink.__init__(self, NoParams())
        self._warehouse = warehouse
        self.confirmed = confirmed

    async def write(self, batch: Batch) -> Receipt:
        fault = self.fail()
        failures: dict[int, RecordError | TransientError] = {}
        for index, key in enumerate(batch.keys.to_list()):
            kind = "never" if fault == "named" and index % 2 == 0 else self.kind(key)
            if kind == "keep":
                self._warehouse[key] = 1 if batch.replay else self._warehouse[key] + 1
                self.done[key] = kind
            else:
                failures[index] = RecordError("bad") if kind == "bad" else TransientError("not yet")
        if fault == "killed":
            raise Killed
        if failures:
            raise BatchError(failures, confirmed=self.confirmed)
        return Receipt(confirmed=self.confirmed)
