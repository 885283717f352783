"""The cost of transforms in YAML per record, above a plain Python function in the same loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import process_time
from typing import TYPE_CHECKING, Any

import anyio

from benchmarks import figures
from benchmarks.model import Arm, Benchmark, Goal, Scale, Work

if TYPE_CHECKING:
    from engine.contract.batch import Batch
    from engine.contract.component import Transform

BARE = "bare function"
PAGE = 256
SQL_PAGE = 5_000  # the `batch_size` of `sql`, unless told otherwise

Row = dict[str, Any]


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``transforms_filter``, ``transforms_map`` and ``transforms_sql``."""
    rounds = scale.pick(20, 1)
    rows = pool()
    filtered = partial(over, rows, rounds, PAGE)
    return [
        _benchmark(
            "transforms_filter",
            "a condition with two fields over dicts of six fields",
            Arm(BARE, partial(filtered, keeping)),
            Arm("filter", partial(filtered, filter_node), goals=[Goal("difference", "<=", 0.35e-6)]),
        ),
        _benchmark(
            "transforms_map",
            "five fields computed, over dicts of six fields",
            Arm(BARE, partial(filtered, mapping)),
            Arm("map", partial(filtered, map_node), goals=[Goal("difference", "<=", 1.5e-6)]),
        ),
        _benchmark(
            "transforms_sql",
            "five fields computed by a query over batches of 5,000, dicts in and out",
            Arm(BARE, partial(over, rows, rounds, SQL_PAGE, mapping)),
            Arm(
                "sql",
                partial(over, rows, rounds, SQL_PAGE, sql_node),
                goals=[Goal("difference", "<=", 3.5e-6)],
            ),
        ),
    ]


def _benchmark(name: str, description: str, *arms: Arm) -> Benchmark:
    return Benchmark(name, description, arms, BARE, metric=figures.PER_RECORD, comparison="difference")


def pool() -> list[Row]:
    """Records of six fields, none of which is missing."""
    countries = ("DE", "FR", "US", "JP")
    return [
        {
            "id": number,
            "amount": number % 500 - 50,
            "price": number % 90 + 0.5,
            "country": countries[number % 4],
            "first": "ada",
            "last": "lovelace",
        }
        for number in range(10_000)
    ]


def keep(record: Row) -> bool:
    """The condition."""
    return record["amount"] > 0 and record["country"] in ("DE", "FR")


def compute(record: Row) -> Row:
    """The five fields."""
    return {
        **record,
        "total": record["amount"] * record["price"],
        "net": record["price"] / 1.19,
        "large": record["amount"] > 100,
        "country": record["country"].lower(),
        "name": f"{record['last']}, {record['first']}",
    }


def keeping() -> Transform[Any]:
    """The condition as a user's function."""
    from engine.functions import FunctionFilter

    return FunctionFilter(keep, "filtered")


def mapping() -> Transform[Any]:
    """The five fields as a user's function."""
    from engine.functions import FunctionTransform

    return FunctionTransform(compute)


def filter_node() -> Transform[Any]:
    """The same condition in YAML."""
    from connectors.transforms.filtering import Filter, FilterParams

    return Filter(FilterParams(where="amount > 0 and country in ['DE', 'FR']"))


def map_node() -> Transform[Any]:
    """The same fields in YAML."""
    from connectors.transforms.mapping import Map, MapParams

    expressions = {
        "total": "amount * price",
        "net": "price / 1.19",
        "large": "amount > 100",
        "country": "lower(country)",
        "name": "f'{last}, {first}'",
    }
    return Map(MapParams(set=expressions))


def sql_node() -> Transform[Any]:
    """The same fields in SQL."""
    from connectors.transforms.querying import Sql, SqlParams

    query = """
        SELECT id, amount, price, lower(country) AS country, first, last, amount * price AS total,
            price / 1.19::DOUBLE AS net, amount > 100 AS large, last || ', ' || first AS name
        FROM batch"""
    return Sql(SqlParams(query=query))


def over(rows: Sequence[Row], rounds: int, page: int, node: Callable[[], Transform[Any]]) -> Work:
    """Pass the rows through a transform, batch by batch."""
    return anyio.run(_over, rows, rounds, page, node)


async def _over(rows: Sequence[Row], rounds: int, page: int, node: Callable[[], Transform[Any]]) -> Work:
    batches = _batches(rows, page)
    count = kept = 0
    total = 0.0
    async with node() as transform:
        started = process_time()
        for _ in range(rounds):
            for batch in batches:
                derived = transform.apply(batch)
                assert not hasattr(derived, "__await__")
                count += len(batch)
                kept += len(derived)
                total += derived.records[-1].get("total", 0)
        seconds = process_time() - started
    return Work(count, f"{kept} kept, sum {total:.2f}", {figures.PER_RECORD: seconds / count})


def _batches(rows: Sequence[Row], page: int) -> list[Batch]:
    from engine.contract.acks import SplitTracker
    from engine.contract.batch import Batch
    from engine.contract.keys import KeyRange

    made: list[Batch] = []
    for start in range(0, len(rows), page):
        part = list(rows[start : start + page])
        batch = Batch(part, KeyRange("k/", start, start + len(part)))
        batch.origins = [(SplitTracker("all").begin(len(part), None), len(part))]
        made.append(batch)
    return made
