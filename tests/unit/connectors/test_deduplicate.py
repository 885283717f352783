"""`deduplicate`: one record per key, in bounded memory, for any batches and repetitions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.transforms.deduplicating import Deduplicate, DeduplicateParams
from connectors.transforms.remembered import SeenKeys
from engine.config import load_mapping
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.keys import KeyList
from engine.errors import ConfigError, FatalError
from engine.plan.compile import compile_file
from engine.plan.portability import node_check
from engine.registry import Registry


def batch(values: list[Any], start: int = 0, split: str = "s", key: str = "k") -> Batch:
    made = Batch(
        [{"v": value} for value in values],
        KeyList([f"{key}{n}" for n in range(start, start + len(values))], start),
    )
    made.origins = [(SplitTracker(split).begin(len(values), None), len(values))]
    return made


class InRun(Deduplicate):
    """Of a run alone, it has nothing to wait for."""

    def apply(self, batch: Batch) -> Batch:
        derived = super().apply(batch)
        assert isinstance(derived, Batch)
        return derived


def node(**params: Any) -> InRun:
    return InRun(DeduplicateParams.model_validate({"key": "v", **params}))


def values(derived: Batch) -> list[Any]:
    return [record["v"] for record in derived.records]


@pytest.mark.slow
@given(items=st.lists(st.integers(0, 20)), cut=st.integers(0, 30))
def test_the_first_of_each_key_is_kept(items: list[int], cut: int) -> None:
    cut = min(cut, len(items))
    one = node()

    made = [*values(one.apply(batch(items[:cut]))), *values(one.apply(batch(items[cut:], cut)))]

    assert made == list(dict.fromkeys(items))


def test_a_batch_that_is_worked_on_again_gives_the_same() -> None:
    one = node()
    first = values(one.apply(batch([1, 2, 1])))

    assert values(one.apply(batch([1, 2, 1]))) == first == [1, 2]
    assert values(one.apply(batch([1, 2, 1]).slice(0, 1))) == [1]


def test_a_source_may_give_its_own_keys_twice() -> None:
    one = node()
    same = Batch([{"v": 1}, {"v": 1}], KeyList(["order-1", "order-1"]))

    assert values(one.apply(same)) == [1]


def test_the_same_place_in_another_split_is_another_record() -> None:
    one = node()

    assert values(one.apply(batch([1], split="a"))) == [1]
    assert values(one.apply(batch([1], split="b"))) == []


def test_values_of_different_types_are_different_keys() -> None:
    assert values(node().apply(batch([1, "1", True, [1], {"a": 1}, [1]]))) == [1, "1", True, [1], {"a": 1}]


@pytest.mark.parametrize(("missing", "kept", "dead"), [("keep", 3, 0), ("drop", 1, 0), ("dead_letter", 1, 2)])
def test_records_without_a_key_have_their_own_fate(missing: str, kept: int, dead: int) -> None:
    derived = node(missing=missing).apply(batch([None, 1, None, 1]))

    assert (len(derived), len(derived.failures)) == (kept, dead)


@pytest.mark.parametrize(
    "odd", [2**70, "\ud800", b"x", {1: 2}], ids=["large", "surrogate", "bytes", "number"]
)
def test_a_key_that_json_does_not_have_fails_only_its_record(odd: Any) -> None:
    derived = node().apply(batch([1, odd, 2]))

    assert values(derived) == [1, 2]
    assert [index for index, _ in derived.failures] == [1]


def test_too_many_keys_fail_the_run() -> None:
    one = node(max_keys=3)

    with pytest.raises(
        FatalError, match=r"more than 3 distinct keys: raise `max_keys`, or set `when_full: forget`"
    ):
        one.apply(batch([1, 2, 3, 4]))


def test_the_oldest_keys_are_forgotten_if_wanted() -> None:
    one = node(max_keys=4, when_full="forget")

    made = values(one.apply(batch([1, 2, 3, 4, 4, 5, 4, 1])))

    assert made == [1, 2, 3, 4, 5, 1]
    assert one.ctx.aggregate["forgotten_keys"] == 2


def test_several_expressions_make_one_key() -> None:
    one = node(key=["v % 2", "v % 3"])

    assert values(one.apply(batch([0, 1, 6, 7, 2]))) == [0, 1, 2]


@pytest.mark.slow
@given(keys=st.lists(st.integers(1, 2**64 - 1), max_size=3000, unique=True))
def test_the_table_remembers_every_key(keys: list[int]) -> None:
    seen = SeenKeys()
    for place, key in enumerate(keys, 1):
        assert seen.owner(key) == 0
        seen.add(key, place)

    assert len(seen) == len(keys)
    assert [seen.owner(key) for key in keys] == list(range(1, len(keys) + 1))


def test_several_workers_are_refused() -> None:
    nodes = {
        "read": {"source": "blob"},
        "once": {"deduplicate": "id"},
        "write": {"sink": "ingest", "with": {"model": "BlobSource"}},
    }
    file = load_mapping({"version": 1, "pipelines": {"p": {"nodes": nodes}}}, environ={})

    with pytest.raises(ConfigError, match="`deduplicate` has to see every record, but chunks run separately"):
        compile_file(file, Registry.installed(), check=node_check(file, one_machine=True))


def test_a_table_of_one_machine_is_refused_for_workers_on_others() -> None:
    nodes = {
        "read": {"source": "blob"},
        "named": {"enrich": {"file": "t.csv", "key": "id"}},
        "write": {"sink": "ingest", "with": {"model": "BlobSource"}},
    }
    file = load_mapping({"version": 1, "pipelines": {"p": {"nodes": nodes}}}, environ={})

    with pytest.raises(
        ConfigError, match=r"`enrich` uses files of its machine.* [(]pass --one-machine if all"
    ):
        compile_file(file, Registry.installed(), check=node_check(file, one_machine=False))
