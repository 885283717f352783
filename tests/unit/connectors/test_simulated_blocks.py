from __future__ import annotations

import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.simulated.blob import BlobMaker
from connectors.simulated.blocks import BLOCK_SIZE, JsonObject, Maker, generate, pages, uuids
from connectors.simulated.events import EventMaker
from connectors.simulated.logs import LogMaker
from connectors.simulated.pools import ReadablePools
from tests.examples import examples

BASE = datetime(2025, 3, 1, 23, 59, 59, 999_821, tzinfo=UTC)
REACH = 4 * BLOCK_SIZE
EXACT = settings(deadline=None, derandomize=True, database=None, max_examples=examples(60))

POOLS = ReadablePools(size=50)
MAKERS: list[Maker] = [BlobMaker(POOLS), LogMaker(POOLS), EventMaker(POOLS)]


@cache
def whole(kind: str) -> list[JsonObject]:
    return next(generate(maker, 7, 0, REACH, BASE) for maker in MAKERS if maker.kind == kind)


ordinals = st.integers(0, REACH)
makers = st.sampled_from(MAKERS)


@pytest.mark.slow
@EXACT
@given(maker=makers, bounds=st.tuples(ordinals, ordinals))
def test_a_range_made_alone_is_that_part_of_the_whole(maker: Maker, bounds: tuple[int, int]) -> None:
    start, stop = sorted(bounds)
    assert generate(maker, 7, start, stop, BASE) == whole(maker.kind)[start:stop]


@pytest.mark.slow
@EXACT
@given(maker=makers, cuts=st.lists(ordinals, max_size=6))
def test_any_cut_of_a_run_gives_the_same_records(maker: Maker, cuts: list[int]) -> None:
    edges = sorted({0, REACH, *cuts})
    joined: list[JsonObject] = []
    for start, stop in pairwise(edges):
        joined += generate(maker, 7, start, stop, BASE)
    assert joined == whole(maker.kind)


@pytest.mark.slow
@EXACT
@given(maker=makers, bounds=st.tuples(ordinals, ordinals), size=st.integers(1, 3 * BLOCK_SIZE))
def test_pages_hold_the_range_in_order_and_only_the_last_is_short(
    maker: Maker, bounds: tuple[int, int], size: int
) -> None:
    start, stop = sorted(bounds)
    made = list(pages(maker, 7, start, stop, BASE, size))
    assert [record for page in made for record in page] == whole(maker.kind)[start:stop]
    assert all(len(page) == size for page in made[:-1])
    assert all(0 < len(page) <= size for page in made[-1:])


@pytest.mark.slow
def test_pages_make_no_block_twice() -> None:
    class Counting(LogMaker):
        blocks = 0

        def make(self, random: Random, timestamps: list[str]) -> list[JsonObject]:
            self.blocks += 1
            return super().make(random, timestamps)

    maker = Counting(POOLS)
    assert len(list(pages(maker, 7, 3, 3 * BLOCK_SIZE, BASE, 7))) == -(-(3 * BLOCK_SIZE - 3) // 7)
    assert maker.blocks == 3


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.kind)
def test_another_seed_gives_other_records_with_other_ids(maker: Maker) -> None:
    other = generate(maker, 8, 0, REACH, BASE)
    ids = {record["id"] for record in other} | {record["id"] for record in whole(maker.kind)}
    assert len(ids) == 2 * REACH


def test_kinds_of_one_seed_share_no_id() -> None:
    assert len({record["id"] for maker in MAKERS for record in whole(maker.kind)}) == 3 * REACH


def test_timestamps_are_a_microsecond_apart() -> None:
    stamps = [datetime.fromisoformat(str(record["timestamp"])) for record in whole("logs")]
    assert stamps[0] == BASE.replace(microsecond=999_000)
    assert {later - earlier for earlier, later in pairwise(stamps)} == {timedelta(microseconds=1)}


def test_stamps_are_in_utc_for_any_zone_of_the_base_time() -> None:
    elsewhere = BASE.astimezone(timezone(timedelta(hours=-7)))
    records = generate(MAKERS[1], 7, 0, REACH, elsewhere)
    assert records == whole("logs")
    assert all(str(record["timestamp"]).endswith("+00:00") for record in records)


def test_every_record_has_the_full_form_of_a_stamp() -> None:
    whole_second = generate(MAKERS[1], 7, 0, 1, BASE.replace(microsecond=0))
    assert whole_second[0]["timestamp"] == "2025-03-01T23:59:59.000000+00:00"


def test_uuids_are_version_4_and_different() -> None:
    made = uuids(Random(3), 1000)
    assert len(set(made)) == 1000
    for text in made:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 4, uuid.RFC_4122)


def test_uuids_use_all_their_random_bits() -> None:
    fixed = ~0
    seen = 0
    for text in uuids(Random(3), 500):
        seen |= uuid.UUID(text).int
        fixed &= uuid.UUID(text).int
    assert f"{seen:032x}" == "ffffffffffff4fffbfffffffffffffff"
    assert f"{fixed:032x}" == "00000000000040008000000000000000"


@pytest.mark.slow
def test_records_are_the_same_in_another_process_with_other_hashes() -> None:
    code = (
        "import hashlib, json; from datetime import datetime;"
        "from connectors.simulated import *;"
        "made = [kind().generate(1, 0, 300, datetime.fromisoformat('2025-01-01T00:00+00:00'))"
        " for kind in (BlobConnector, LogsConnector, EventsConnector)];"
        "print(hashlib.sha256(json.dumps(made).encode()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for hash_seed in ("1", "2")
    ]  # fmt: skip
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 64


def test_pools_do_not_depend_on_the_order_of_their_making() -> None:
    one, other = ReadablePools(20), ReadablePools(20)
    forward = one.names(), one.urls(), one.user_agents()
    backward = other.user_agents(), other.urls(), other.names()
    assert forward == backward[::-1]
    assert all(len(pool) == 20 for pool in forward)
