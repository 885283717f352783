"""Functions as components: what they may return, raise and declare."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import engine
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import NoParams, Transform
from engine.contract.keys import KeyRange


def rows(*numbers: int) -> list[dict[str, int]]:
    return [{"n": number} for number in numbers]


def batch_of(*records: Any) -> Batch:
    batch = Batch(list(records), KeyRange("k/", 0, len(records)))
    ack = SplitTracker("split").begin(len(records), None)
    batch.origins = [(ack, len(records))]
    return batch


def built(function: Any, **params: Any) -> Transform[Any]:
    spec = function.spec
    component = spec.factory(spec.params.model_validate(params), None)
    assert isinstance(component, Transform)
    return component


def test_plain_transform_keeps_keys_and_order() -> None:
    @engine.transform
    def double(record: dict[str, int]) -> dict[str, int]:
        return {"n": record["n"] * 2}

    derived = built(double).apply(batch_of(*rows(1, 2, 3)))

    assert isinstance(derived, Batch)
    assert derived.records == rows(2, 4, 6)
    assert derived.keys.to_list() == ["k/0", "k/1", "k/2"]


def test_none_drops_and_drop_names_its_reason() -> None:
    @engine.transform
    def pick(record: dict[str, int]) -> Any:
        return {0: None, 1: engine.Drop("too small")}.get(record["n"], record)

    derived = built(pick).apply(batch_of(*rows(0, 1, 2)))

    assert isinstance(derived, Batch)
    assert derived.records == rows(2)
    assert derived.drops == {"returned None": 1, "too small": 1}


def test_none_alone_takes_the_quick_path_with_the_same_result() -> None:
    @engine.transform
    def pick(record: dict[str, int]) -> dict[str, int] | None:
        return record if record["n"] else None

    derived = built(pick).apply(batch_of(*rows(0, 1, 2)))

    assert isinstance(derived, Batch)
    assert derived.records == rows(1, 2)
    assert derived.keys.to_list() == ["k/1", "k/2"]
    assert derived.drops == {"returned None": 1}


def test_list_fans_out_with_keys_below_the_record() -> None:
    @engine.transform
    def repeat(record: dict[str, int]) -> list[dict[str, int]]:
        return [record] * record["n"]

    derived = built(repeat).apply(batch_of(*rows(1, 0, 2)))

    assert isinstance(derived, Batch)
    assert derived.records == rows(1, 2, 2)
    assert derived.keys.to_list() == ["k/0/0", "k/2/0", "k/2/1"]


def test_an_item_of_a_list_may_die_alone() -> None:
    bad = engine.RecordError("odd")

    @engine.transform
    def count(record: dict[str, int]) -> list[object]:
        return [engine.DeadItem(one, bad) if one["n"] % 2 else one for one in rows(*range(record["n"]))]

    derived = built(count).apply(batch_of(*rows(3)))

    assert isinstance(derived, Batch)
    assert derived.keys.to_list() == ["k/0/0", "k/0/2"]
    assert derived.dead_items is not None
    assert derived.dead_items.keys.to_list() == ["k/0/1"]
    assert derived.dead_items.failures == [(0, bad)]


@pytest.mark.parametrize("error", [engine.RecordError("bad"), engine.TransientError("later")])
def test_raising_fails_only_that_record(error: Exception) -> None:
    @engine.transform
    def fussy(record: dict[str, int]) -> dict[str, int]:
        if record["n"] == 1:
            raise error
        return record

    derived = built(fussy).apply(batch_of(*rows(0, 1, 2, 3)))

    assert isinstance(derived, Batch)
    assert derived.records == rows(0, 2, 3)
    assert list(derived.failures) == [(1, error)]


async def test_async_transform_is_concurrent_and_keeps_the_order() -> None:
    import anyio

    running, most = 0, 0

    @engine.transform(concurrency=3)
    async def slow(record: dict[str, int]) -> dict[str, int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.lowlevel.checkpoint()
        running -= 1
        return {"n": record["n"] + 1}

    derived = built(slow).apply(batch_of(*rows(*range(9))))
    assert not isinstance(derived, Batch)

    assert (await derived).records == rows(*range(1, 10))
    assert most == 3


def test_batch_transform_gives_an_outcome_for_each_record() -> None:
    @engine.transform(batch=True)
    def ranks(records: list[dict[str, int]]) -> list[dict[str, int]]:
        numbers = [record["n"] for record in records]
        return rows(*(sorted(numbers).index(number) for number in numbers))

    derived = built(ranks).apply(batch_of(*rows(30, 10, 20)))

    assert isinstance(derived, Batch)
    assert derived.records == rows(2, 0, 1)


GIVEN: list[object] = [{"n": 0}, 5, "text", [{"n": 3}, 5], [{"n": 4}, None], [{"n": 5}, {"n": 6}], None]


@pytest.mark.parametrize("kind", ["plain", "async", "batch"])
async def test_an_outcome_that_is_no_record_fails_alone(kind: str) -> None:
    def plain(record: dict[str, int]) -> object:
        return GIVEN[record["n"]]

    async def waiting(record: dict[str, int]) -> object:
        return GIVEN[record["n"]]

    def whole(records: list[dict[str, int]]) -> list[object]:
        return GIVEN

    made: dict[str, Any] = {
        "plain": lambda: engine.transform(plain),
        "async": lambda: engine.transform(waiting),
        "batch": lambda: engine.transform(batch=True)(whole),
    }
    derived = built(made[kind]()).apply(batch_of(*rows(*range(7))))
    derived = derived if isinstance(derived, Batch) else await derived

    assert derived.records == rows(0, 5, 6)
    assert [index for index, _ in derived.failures] == [1, 2, 3, 4]
    got = [str(error).partition(") gave ")[2].partition(" ")[0] for _, error in derived.failures]
    assert got == ["int", "str", "int", "None"]
    assert {error.kind for _, error in derived.failures if isinstance(error, engine.RecordError)} == {
        "NotAnObject"
    }


@pytest.mark.parametrize("key", [None, "n"])
async def test_what_a_source_gives_that_is_no_record_fails_alone(key: str | None) -> None:
    @engine.source(key=key)
    async def odd() -> AsyncIterator[object]:
        for one in ({"n": 0}, 5, None, "text", [{"n": 1}, 7], {"n": 2}, {"n": 3}):
            yield one

    kept: list[object] = []

    @engine.sink
    def keep(records: list[object]) -> None:
        kept.extend(records)

    limits: Any = {"dead_letters": {"max": "100%"}}
    demo = engine.Pipeline("demo", settings=limits, odd=engine.node(odd), keep=engine.node(keep))
    report = (await engine.run(demo))["demo"]

    assert kept == rows(0, 1, 2, 3)
    assert (report.ok, report.tally.dead) == (True, 4)
    assert "test_function_components.py" in report.first_dead_letter


def test_batch_transform_with_too_few_outcomes_is_refused() -> None:
    @engine.transform(batch=True)
    def short(records: list[int]) -> list[int]:
        return records[:-1]

    with pytest.raises(engine.FatalError, match=r"`short` \(.*\) returned 1 outcomes for 2 records"):
        built(short).apply(batch_of(1, 2))


def test_filter_counts_under_its_reason() -> None:
    @engine.filter(reason="odd")
    def even(record: int) -> bool:
        return record % 2 == 0

    derived = built(even).apply(batch_of(0, 1, 2))

    assert isinstance(derived, Batch)
    assert derived.records == [0, 2]
    assert derived.drops == {"odd": 1}


def test_filter_that_raises_fails_only_that_record() -> None:
    @engine.filter
    def fussy(record: int) -> bool:
        if record == 1:
            raise engine.RecordError("bad")
        return record > 1

    derived = built(fussy).apply(batch_of(0, 1, 2))

    assert isinstance(derived, Batch)
    assert derived.records == [2]
    assert [index for index, _ in derived.failures] == [1]


def test_parameters_are_keyword_only_and_checked() -> None:
    @engine.transform
    def power(record: dict[str, int], *, exponent: int = 2) -> dict[str, int]:
        return {"n": record["n"] ** exponent}

    derived = built(power, exponent="3").apply(batch_of(*rows(2)))

    assert isinstance(derived, Batch)
    assert derived.records == rows(8)
    with pytest.raises(ValueError, match="exponent"):
        power.spec.params.model_validate({"exponent": "many"})  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="exponnt"):
        power.spec.params.model_validate({"exponnt": 3})  # type: ignore[attr-defined]


def test_function_with_the_wrong_shape_says_what_to_change() -> None:
    with pytest.raises(TypeError, match=r"takes 2 positional arguments.*keyword-only"):

        @engine.transform
        def wrong(record: int, factor: int) -> int:
            return record * factor


def test_decorated_function_stays_callable() -> None:
    @engine.transform
    def double(record: int) -> int:
        return record * 2

    assert double(4) == 8
    assert double.spec.params is not NoParams  # type: ignore[attr-defined]


def test_summary_is_the_first_line_of_the_docstring() -> None:
    @engine.filter
    def keep(record: int) -> bool:
        """Keeps everything.

        Really.
        """
        return True

    assert keep.spec.summary == "Keeps everything."  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "resumable"), [({}, False), ({"repeatable": True}, True), ({"key": "id"}, True)]
)
def test_source_function_declares_only_whether_it_can_resume(
    options: dict[str, Any], resumable: bool
) -> None:
    @engine.source(**options)
    async def read() -> Any:
        yield {"id": "the same in every run"}

    source = read.spec.factory(NoParams(), None)  # type: ignore[attr-defined]

    assert source.resumable is resumable
    assert source.fresh_keys is False


def _decorated(kind: Any, text: str) -> None:
    names: dict[str, Any] = {"engine": engine, "Any": Any}
    exec(text, names)
    kind(names["f"])


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (engine.source, "def f():\n yield 1", "is a plain generator: make it an async generator"),
        (engine.source, "def f():\n return [1]", "is a plain function: make it an async generator"),
        (engine.source, "async def f():\n return [1]", "yields nothing: make it an async generator"),
        (engine.source, "def f() -> list[int]:\n return [1]", "is a plain function"),
        (engine.transform, "def f(r):\n yield r", "is a generator, so calling it does nothing"),
        (engine.transform, "async def f(r):\n yield r", "is a generator, so calling it does nothing"),
        (engine.transform, "def f(r):\n r['n'] = 1", "returns no value anywhere"),
        (engine.transform, "async def f(r):\n r['n'] = 1", "returns no value anywhere"),
        (engine.transform, "def f(r):\n if r:\n  return\n r.clear()", "returns no value anywhere"),
        (engine.transform(batch=True), "def f(rs):\n [r for r in rs]", "returns no value anywhere"),
        (engine.filter, "async def f(r):\n return r > 1", "so its result is always true"),
        (engine.filter, "def f(r):\n r > 1", "returns no value anywhere"),
        (engine.sink, "def f(rs):\n yield rs", "is a generator, so calling it does nothing"),
        (engine.sink, "async def f(rs):\n yield rs", "is a generator, so calling it does nothing"),
    ],
)
def test_a_function_that_cannot_do_its_work_is_refused_at_its_line(
    kind: Any, text: str, message: str
) -> None:
    with pytest.raises(TypeError, match=r"the \w+ `f` \(<string>:1\) ") as caught:
        _decorated(kind, text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (engine.source, "async def f():\n yield 1"),
        (engine.source, "from collections.abc import AsyncIterator\ndef f() -> AsyncIterator[int]: ..."),
        (engine.transform, "def f(r):\n if r: return r"),
        (engine.transform, "def f(r):\n return r if r else None"),
        (engine.transform, "def f(r):\n return r and None"),
        (engine.transform, "f = lambda r: None if r else r"),
        (engine.transform, "def f(r):\n raise engine.RecordError('all')"),
        (engine.transform, "async def f(r):\n return r"),
        (engine.transform, "def f(r):\n try:\n  return r\n finally:\n  pass"),
        (engine.transform, "def f(r):\n with open('x'):\n  return r"),
        (engine.transform, "def f(r):\n match r:\n  case 1: return 2\n  case _: return None"),
        (engine.filter, "def f(r):\n return r > 1"),
        (engine.sink, "def f(rs): print(rs)"),
        (engine.sink, "async def f(rs): ..."),
    ],
)
def test_a_function_that_can_do_its_work_is_taken(kind: Any, text: str) -> None:
    _decorated(kind, text)


async def test_a_coroutine_that_is_not_awaited_names_the_function() -> None:
    async def later(record: int) -> int:
        return record

    @engine.transform
    def forgets(record: int) -> Any:
        return later(record)

    with pytest.raises(
        engine.FatalError, match=r"`forgets` \(.*\) returned a coroutine: make it `async def`"
    ):
        built(forgets).apply(batch_of(1, 2))


async def test_a_source_that_returns_something_else_is_named() -> None:
    @engine.source
    def read() -> AsyncIterator[int]:
        return [1, 2]  # type: ignore[return-value]

    source = read.spec.factory(NoParams(), None)  # type: ignore[attr-defined]
    with pytest.raises(engine.FatalError, match=r"`read` \(.*\) returned a list, not an async generator"):
        await anext(source.extract())
