"""Whether an unreadable object is itself at fault, or an unavailable server."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from connectors.objects.content import StoredBody
from connectors.objects.csv_sampling import sampled_types
from connectors.objects.fetching import AWAY_AFTER, MAX_HINT, MAX_LUCK, ObjectFetcher, Reads, Suspect
from connectors.objects.groups import Group, judged
from connectors.objects.listed import FileRecord, ListedObject, ObjectRefusedError
from connectors.objects.params import ObjectParams
from connectors.objects.parquet_format import ParquetRows
from connectors.objects.resuming import ResumingBodies, ServerAwayError
from connectors.objects.streaming import RecordStream, StreamPosition
from engine.contract.component import Context, Kind
from engine.contract.types import Reservation
from engine.errors import ComponentError, RecordError, TransientError
from engine.flow.retry import ComponentRetry, RetryPolicy
from engine.flow.stats import NodeStats
from engine.testing import ScriptedClock

GOOD, BAD, NEW = (ListedObject(name, "e", 3) for name in ("good", "bad", "new"))
AWAY = TransientError("503")


class Unbounded(Reservation):
    def resize(self, nbytes: int) -> None: ...
    def grow(self, nbytes: int) -> None: ...
    def release(self) -> None: ...


class Store:
    """Three objects; `fails` says with what one that is read, or probed, fails now."""

    scope = prefix = "lake/"

    def __init__(self, fails: Callable[[str], ComponentError | None]) -> None:
        self.fails = fails
        self.reads: Counter[str] = Counter()
        self.probes: list[str] = []

    async def pages(self, *, after: str = "") -> AsyncGenerator[Sequence[ListedObject], None]:
        yield [GOOD, BAD, NEW]

    async def read(self, found: ListedObject) -> FileRecord:
        self.reads[found.key] += 1
        if (error := self.fails(found.key)) is not None:
            raise error
        return {"content": found.key}

    async def probe(self, key: str) -> None:
        self.probes.append(key)
        if (error := self.fails(key)) is not None:
            raise error

    @asynccontextmanager
    async def open(self, found: ListedObject, start: int = 0, stop: int | None = None) -> Any:
        await self.read(found)
        yield OneByte()

    def addresses(self, key: str) -> tuple[str, str]:
        return key, key


class OneByte:
    content_type = content_encoding = None
    size = 1

    async def read(self) -> bytes:
        return b"x"


class Retries:
    """Two attempts; `meanwhile` happens while one is waited for."""

    attempts = 2
    outwaited = False

    def __init__(self) -> None:
        self.meanwhile: list[Callable[[], Any]] = []

    def succeeded(self) -> None: ...

    async def wait(self, attempt: int, error: TransientError) -> None:
        if self.meanwhile and (made := self.meanwhile.pop(0)()) is not None:
            await made


async def verdict(fetcher: ObjectFetcher, *objects: ListedObject) -> tuple[bool, list[Any]]:
    """Whether the failures of a group are its objects' own, and what became of them."""
    group = Group(0, objects, Unbounded())
    group.outcomes += [await fetcher.fetch(found) for found in objects]

    async def groups() -> AsyncGenerator[Group, None]:
        yield group

    [(_, cleared)] = [one async for one in judged(groups(), fetcher)]
    return cleared, group.outcomes


async def test_an_outage_that_begins_again_kills_nothing() -> None:
    away: list[ComponentError | None] = []
    store = Store(lambda key: away.pop(0) if away else None)
    fetcher = ObjectFetcher(store, 1, Retries())
    # two tries, a probe that gets through, two tries again, and nothing gets through at last
    away += [None, AWAY, AWAY, None, AWAY, AWAY, *[AWAY] * 3]

    cleared, outcomes = await verdict(fetcher, GOOD, BAD)

    assert not cleared
    assert isinstance(outcomes[1], Suspect)


async def test_an_object_that_fails_before_and_after_a_probe_dies() -> None:
    store = Store(lambda key: AWAY if key == "bad" else None)
    fetcher = ObjectFetcher(store, 1, Retries())

    assert (await verdict(fetcher, GOOD, BAD))[0]
    assert store.reads["bad"] == 4  # twice its tries: nothing else was read meanwhile
    assert len(store.probes) == 2


async def test_a_first_refusal_is_not_mistaken_for_an_outage() -> None:
    hints: list[float | None] = []

    class Noting(Retries):
        async def wait(self, attempt: int, error: TransientError) -> None:
            hints.append(error.retry_after)

    busy = TransientError("503", retry_after=60, throttled=True)
    store = Store(lambda key: busy if key == "bad" or store.reads[key] == 1 else None)
    fetcher = ObjectFetcher(store, 1, Noting())
    for _ in range(AWAY_AFTER):
        await fetcher.fetch(BAD)
    hints.clear()

    assert await fetcher.fetch(NEW) == {"content": "new"}
    assert hints == [MAX_HINT]


async def test_an_object_that_others_were_read_beside_is_suspected_alone() -> None:
    retries = Retries()
    retries.attempts = 3
    fetcher = ObjectFetcher(Store(lambda key: AWAY if key == "bad" else None), 2, retries)
    retries.meanwhile.append(lambda: fetcher.fetch(GOOD))  # between its first two tries

    suspect = await fetcher.fetch(BAD)

    assert isinstance(suspect, Suspect)
    assert suspect.exhausted
    assert not suspect.overshadowed


class Faulty(Store):
    """Fails the first attempt at 7 % of the objects, and `times` attempts at NEW."""

    def __init__(self, times: int) -> None:
        def fails(key: str) -> ComponentError | None:
            unlucky = key.isdigit() and int(key) % 100 < 7 and self.reads[key] == 1
            return AWAY if unlucky or (key == "new" and self.reads[key] <= times) else None

        super().__init__(fails)


async def after_some_faults(times: int, attempts: int) -> tuple[Faulty, ObjectFetcher, Retries]:
    """A fetcher that has read 200 objects, and reads others while it waits."""
    store, retries = Faulty(times), Retries()
    retries.attempts = attempts
    fetcher = ObjectFetcher(store, 2, retries)
    for number in range(200):
        await fetcher.fetch(ListedObject(str(number), "e", 3))
    retries.meanwhile += [lambda: fetcher.fetch(GOOD)] * 50
    return store, fetcher, retries


@pytest.mark.parametrize("attempts", [3, 5, 6])
async def test_bad_luck_among_other_faults_is_no_verdict(attempts: int) -> None:
    store, fetcher, _ = await after_some_faults(7, attempts)

    _, outcomes = await verdict(fetcher, NEW)

    assert outcomes == [{"content": "new"}]
    assert store.reads["new"] == 8
    assert store.probes == []  # others were read meanwhile
    assert fetcher.reads.failed == 14 + 7


@pytest.mark.parametrize("attempts", [3, 5, 6])
async def test_an_object_dies_once_bad_luck_is_too_improbable(attempts: int) -> None:
    store, fetcher, _ = await after_some_faults(1000, attempts)
    cleared, [suspect] = await verdict(fetcher, NEW)

    assert cleared
    assert suspect.tries == store.reads["new"] <= max(2 * attempts, 9)
    assert fetcher.reads.failing**suspect.tries <= MAX_LUCK
    assert not fetcher.is_doubtful(suspect)


async def test_bad_luck_of_a_body_among_other_faults_is_no_verdict() -> None:
    store, fetcher, retries = await after_some_faults(7, 5)
    bodies = ResumingBodies(store, fetcher, NEW, retries)

    async with AsyncExitStack() as stack:
        body = await stack.enter_async_context(bodies.open(0, None))
        assert await body.read() == b"x"
    assert store.reads["new"] == 8
    assert fetcher.reads.failed == 14 + 7


async def test_attempts_at_a_body_among_other_faults_are_bounded() -> None:
    store, fetcher, retries = await after_some_faults(1000, 5)
    bodies = ResumingBodies(store, fetcher, NEW, retries)

    async with AsyncExitStack() as stack:
        with pytest.raises(TransientError):
            await stack.enter_async_context(bodies.open(0, None))
    assert store.reads["new"] == 10


def test_a_burst_of_faults_counts_as_much_as_a_constant_share() -> None:
    fetcher = ObjectFetcher(Store(lambda key: None), 1, Retries())
    fetcher.reads = Reads(answered=10_000, failed=10)

    assert fetcher.further_tries(5, Reads(0, 0)) < 0
    assert fetcher.further_tries(5, Reads(9_990, 0)) == 15  # half of them fail: 34, at most four times 5


async def test_a_refusal_among_other_faults_is_final() -> None:
    store, fetcher, _ = await after_some_faults(0, 5)
    store.fails = lambda key: ObjectRefusedError("403", record_kind="x") if key == "new" else None

    cleared, [suspect] = await verdict(fetcher, NEW)

    assert cleared
    assert isinstance(suspect, Suspect)
    assert store.reads["new"] == 1


async def test_a_streamed_object_dies_only_once_others_were_read() -> None:
    store = Store(lambda key: AWAY if key == "bad" else None)
    fetcher = ObjectFetcher(store, 1, Retries())
    suspect = await fetcher.fetch(BAD)
    assert isinstance(suspect, Suspect)
    await fetcher.fetch(GOOD)
    records = RecordStream(
        store,
        fetcher,
        ParquetRows(100),
        Context(),
        concurrency=1,
        on_unreadable="dead_letter",
        bookmarks=False,
    )

    lost = await records._lost(BAD, suspect, StreamPosition(), 0)
    assert [error.kind for _, error in lost.failures] == ["ObjectUnreadable"]
    assert store.probes == []  # a read that began after it proves as much
    with pytest.raises(TransientError):
        await records._lost(BAD, replace(suspect, exhausted=False), StreamPosition(), 0)


async def test_a_group_that_is_read_again_reserves_its_bytes() -> None:
    class Noting(Unbounded):
        def resize(self, nbytes: int) -> None:
            sizes.append(nbytes)

    sizes: list[int] = []
    _, fetcher, _ = await after_some_faults(7, 5)
    group = Group(0, [NEW], Noting(), [await fetcher.fetch(NEW)], nbytes=9)

    async def groups() -> AsyncGenerator[Group, None]:
        yield group

    assert [cleared async for _, cleared in judged(groups(), fetcher)] == [True]
    assert sizes == [0, 9]


async def test_a_successful_probe_clears_earlier_failures() -> None:
    fetcher = ObjectFetcher(Store(lambda key: AWAY if key == "bad" else None), 1, Retries())
    await fetcher.fetch(GOOD)
    suspect = await fetcher.fetch(BAD)

    assert isinstance(suspect, Suspect)
    assert not fetcher.cleared([suspect])
    assert await fetcher.others_get_through({"bad"})
    assert fetcher.cleared([suspect])


async def test_probes_that_fail_by_bad_luck_are_no_outage() -> None:
    store, fetcher, _ = await after_some_faults(0, 5)
    left = [AWAY] * 4
    store.fails = lambda key: left.pop() if left else None

    assert await fetcher.others_get_through({"bad"})


async def test_an_object_that_gave_up_in_an_outage_is_not_judged() -> None:
    fetcher = ObjectFetcher(Store(lambda key: None), 1, Retries())
    await fetcher.fetch(GOOD)

    suspect = Suspect(AWAY, begun=0, tries=1, exhausted=False)
    assert fetcher.is_doubtful(suspect)
    assert not fetcher.cleared([suspect])


@pytest.mark.parametrize(
    "gone", [RecordError("404", kind="ObjectVanished"), ObjectRefusedError("403", record_kind="x")]
)
async def test_an_object_that_is_gone_since_says_nothing_of_others(gone: ComponentError) -> None:
    failing: dict[str, ComponentError] = {"bad": AWAY}
    store = Store(failing.get)
    fetcher = ObjectFetcher(store, 1, Retries())
    await fetcher.fetch(GOOD)
    failing["good"] = gone

    assert await fetcher.others_get_through({"bad"})
    assert store.probes == ["good", "good", "new"]
    assert await fetcher.others_get_through({"bad"})
    assert store.probes[3:] == ["new"]  # it is known now what can be read


async def test_one_that_was_read_and_fails_now_is_not_the_only_proof() -> None:
    failing: dict[str, ComponentError] = {}
    store = Store(failing.get)
    fetcher = ObjectFetcher(store, 1, Retries())
    await fetcher.fetch(BAD)
    failing["bad"] = AWAY

    assert await fetcher.others_get_through({"bad"})
    assert store.probes[-1] == "good"


async def test_a_body_that_an_outage_took_is_not_probed_for_twice() -> None:
    store = Store(lambda key: AWAY)
    retries = Retries()
    bodies = ResumingBodies(store, ObjectFetcher(store, 1, retries), BAD, retries)

    async with AsyncExitStack() as stack:
        with pytest.raises(ServerAwayError):
            await stack.enter_async_context(bodies.open(0, None))


async def test_a_body_that_others_were_read_beside_is_tried_once() -> None:
    store = Store(lambda key: AWAY if key == "bad" else None)
    retries = Retries()
    retries.attempts = 3
    fetcher = ObjectFetcher(store, 1, retries)
    retries.meanwhile.append(lambda: fetcher.fetch(GOOD))  # between its first two tries
    bodies = ResumingBodies(store, fetcher, BAD, retries)

    async with AsyncExitStack() as stack:
        with pytest.raises(TransientError):
            await stack.enter_async_context(bodies.open(0, None))
    assert store.reads["bad"] == 3


async def test_each_outage_is_waited_for_while_a_body_arrives() -> None:
    class Body:
        content_type = content_encoding = None
        size = 3

        async def read(self) -> bytes:
            if (error := steps.pop(0)) is not None:
                raise error
            return b"x"

    class Bodies(Store):
        @asynccontextmanager
        async def open(self, found: ListedObject, start: int = 0, stop: int | None = None) -> Any:
            yield Body()

    # two outages of two tries each, and something arrives after each of them
    steps: list[TransientError | None] = [AWAY, AWAY, None, AWAY, AWAY, None]
    store, retries = Bodies(lambda key: None), Retries()
    bodies = ResumingBodies(store, ObjectFetcher(store, 1, retries), BAD, retries)

    async with AsyncExitStack() as stack:
        body = await stack.enter_async_context(bodies.open(0, None))
        assert [await body.read(), await body.read()] == [b"x", b"x"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_lone_retries_end_with_the_outage_limit(*, streamed: bool) -> None:
    """An overloaded server allows four times the attempts, each with its own wait."""
    policy = RetryPolicy(attempts=3, base=1.0, cap=30.0, outage_limit=20.0)
    clock = ScriptedClock(jump=True)
    retry = ComponentRetry(policy, NodeStats("files", Kind.SOURCE, "s3"), clock)
    store = Store(lambda key: TransientError("503", throttled=True))
    fetcher = ObjectFetcher(store, 1, retry)
    bodies = ResumingBodies(store, fetcher, BAD, retry)

    async def read() -> None:
        if not streamed:
            assert isinstance(await fetcher.fetch(BAD), Suspect)
            return
        with pytest.raises(TransientError):
            async with bodies.open(0, None):
                pass

    for _ in range(3):
        await read()
        assert clock.monotonic() <= 1 + 2 + 20
    tries = store.reads["bad"]
    await read()
    assert store.reads["bad"] == tries + 1


async def test_a_success_ends_the_outage_of_lone_retries() -> None:
    clock = ScriptedClock(jump=True)
    retry = ComponentRetry(
        RetryPolicy(attempts=1, outage_limit=5.0), NodeStats("files", Kind.SOURCE, "s3"), clock
    )
    fetcher = ObjectFetcher(Store(lambda key: None), 1, retry)
    await retry.wait(1, AWAY)
    await clock.sleep(10)
    assert retry.outwaited
    await fetcher.fetch(GOOD)
    assert not retry.outwaited


class Tables(Store):
    """Objects that are CSV files of one column."""

    @asynccontextmanager
    async def open(self, found: ListedObject, start: int = 0, stop: int | None = None) -> Any:
        await self.read(found)
        yield StoredBody(b"n\n1\n", None, 4)


@pytest.mark.parametrize("size", [3, 10**9], ids=["small", "large"])
async def test_types_are_sampled_after_an_outage_not_during_it(size: int) -> None:
    async def sampled(*away: str) -> Any:
        store = Tables(lambda key: AWAY if key in away else None)
        objects = [one._replace(size=size) for one in (GOOD, BAD, NEW)]
        params = ObjectParams(format="csv")
        return await sampled_types(store, ObjectFetcher(store, 4, Retries()), objects, params, {})

    assert await sampled() == await sampled("bad") == {"n": "integer"}
    with pytest.raises(TransientError, match="503"):
        await sampled("good", "bad", "new")
