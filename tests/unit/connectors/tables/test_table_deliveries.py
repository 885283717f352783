"""The ledger of a table: repeated records, in any batches, are written once."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.tables.deliveries import LedgerRow, Reader, entries_of
from connectors.tables.isolation import RowsRefusedError, deliver_all
from connectors.tables.params import is_staging_of, staging_name
from engine.contract.acks import SplitTracker
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyList, KeyRange, Keys


def batch_of(start: int, stop: int, keys: Keys, *, replay: bool = False) -> Batch:
    batch = Batch(list(range(start, stop)), keys)
    batch.origins = [(SplitTracker("s", replay=replay).begin(stop - start, None), stop - start)]
    return batch


cuts = st.lists(st.integers(1, 39), max_size=6).map(lambda places: sorted({0, 40, *places}))


@pytest.mark.slow
@given(first=cuts, again=cuts, done=st.integers(0, 7), ranges=st.booleans(), distinct=st.booleans())
async def test_every_record_is_written_once_however_batches_are_cut(
    first: list[int], again: list[int], done: int, ranges: bool, distinct: bool
) -> None:
    ledger: list[LedgerRow] = []
    written: list[int] = []

    def keys(start: int, stop: int) -> Keys:
        if ranges:
            return KeyRange("k/", start, stop)
        return KeyList([f"k{number if distinct else number % 3}" for number in range(start, stop)], start)

    async def ask(split: str) -> list[LedgerRow]:
        assert split == "s"
        return list(ledger)

    for start, stop in list(pairwise(first))[:done]:
        batch = batch_of(start, stop, keys(start, stop))
        written += batch.records
        ledger += [(entry.ranges, entry.hashes) for entry in entries_of(batch, distinct=distinct)]
    reader = Reader(ask, distinct=distinct)
    for start, stop in pairwise(again):
        batch = batch_of(start, stop, keys(start, stop), replay=True)
        written += [batch.records[index] for index in await reader.missing(batch)]

    assert sorted(written) == list(range(40))


async def test_new_records_are_not_looked_up_unless_in_doubt() -> None:
    asked: list[str] = []

    async def ask(split: str) -> list[LedgerRow]:
        asked.append(split)
        return [('[["k/",0,2]]', [])]

    reader = Reader(ask, distinct=True)
    batch = batch_of(0, 3, KeyRange("k/", 0, 3))

    assert await reader.missing(batch) == [0, 1, 2]
    assert asked == []
    reader.doubt(batch)
    assert await reader.missing(batch) == [2]
    assert await reader.missing(batch) == [2]
    assert asked == ["s"]


def test_consecutive_keys_are_one_range_and_others_hashes() -> None:
    (ranged,) = entries_of(batch_of(0, 1000, KeyRange("k/", 0, 1000)), distinct=True)
    (listed,) = entries_of(batch_of(0, 2, KeyList(["a", "b"])), distinct=True)
    (digits,) = entries_of(batch_of(0, 2, KeyRange("7", 0, 2)), distinct=True)

    assert (ranged.ranges, ranged.hashes, ranged.records) == ('[["k/",0,1000]]', [], 1000)
    assert (listed.ranges, len(listed.hashes)) == ("[]", 2)
    assert len(digits.hashes) == 2


@pytest.mark.slow
@given(bad=st.sets(st.integers(0, 19)))
async def test_rows_that_are_refused_fail_alone_and_in_order(bad: set[int]) -> None:
    written: list[int] = []

    async def write(part: object) -> None:
        assert isinstance(part, list)
        if bad & set(part):
            raise RowsRefusedError("refused", kind="ValueRefused")
        written.extend(part)

    failures = await deliver_all(list(range(20)), write)

    assert set(failures) == bad
    assert {error.kind for error in failures.values()} <= {"ValueRefused"}
    assert written == [number for number in range(20) if number not in bad]


def test_tables_with_a_long_common_name_do_not_share_rows() -> None:
    ctx, long = Context("p", "n", "r"), "a" * 45
    staged = staging_name(f"s.{long}b", ctx).removeprefix("s.")

    assert is_staging_of(staged, f"{long}b")
    assert not is_staging_of(staged, f"{long}c")
    assert len(staged) <= 63
