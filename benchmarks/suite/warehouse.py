"""The warehouse's cost of a row that may exist already, compared with a new one, in a large table."""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from functools import cache, partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal

from benchmarks.model import Arm, Benchmark, Goal, Scale, Work

if TYPE_CHECKING:
    from engine.service.submission import Submission
    from engine.service.warehouse import Warehouse

REQUEST = 1_000
"""Rows in a request, as `ingest` sends them."""

TEXT = "a line as an application's log has it, of a usual length and with nothing in it that matters"

_ids = count()


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``warehouse_replay``."""
    size, requests = scale.pick(2_000_000, 20_000), scale.pick(20, 2)
    reference = "fresh"
    return [
        Benchmark(
            name="warehouse_replay",
            description=f"{requests} requests of {REQUEST:,} rows into a table of {size:,}, each committed",
            arms=[
                Arm(reference, partial(deliver, size, requests, "fresh")),
                Arm("replay, new rows", partial(deliver, size, requests, "replay")),
                Arm(
                    "replay, known rows",
                    partial(deliver, size, requests, "replay", again=True),
                    goals=[Goal("rate", ">=", 25_000)],
                ),
            ],
            reference=reference,
            unit="rows",
            pairs=10,
            libraries=("duckdb",),
        ),
    ]


def deliver(size: int, requests: int, delivery: Literal["fresh", "replay"], *, again: bool = False) -> Work:
    """One request after the other; `again`: with ids that the table has, spread over all of it.

    Raises RuntimeError if the table has the wrong number of rows afterwards.
    """
    warehouse = _warehouse(size)
    before, written = _rows(warehouse), 0
    for request in range(requests):
        start = request * (size // requests) if again else size + next(_ids) * REQUEST
        written += warehouse.submit(_request(warehouse, start, REQUEST, delivery)).result().written
    grown = _rows(warehouse) - before
    if grown != (0 if again else written):
        raise RuntimeError(f"{written} rows were written, and the table has {grown} more")
    return Work(written, f"{written} rows")


def _rows(warehouse: Warehouse) -> int:
    with warehouse.reading() as reader:
        found: int = reader.execute('SELECT count(*) FROM "Log"').fetchall()[0][0]
    return found


@cache
def _warehouse(size: int) -> Warehouse:
    """One with so many log lines, until this process ends."""
    from connectors.models import INGEST_MODELS
    from engine.service.warehouse import Warehouse

    folder = TemporaryDirectory()
    warehouse = Warehouse.open(Path(folder.name) / "warehouse.duckdb", INGEST_MODELS)
    atexit.register(folder.cleanup)
    atexit.register(warehouse.close)
    page = min(size, 50 * REQUEST)
    for start in range(0, size, page):
        warehouse.submit(_request(warehouse, start, page, "fresh")).result()
    return warehouse


def _request(warehouse: Warehouse, start: int, rows: int, delivery: Literal["fresh", "replay"]) -> Submission:
    from engine.service.submission import Submission

    return Submission(
        model="Log",
        table=warehouse.tables["Log"],
        rows=[
            {
                "id": f"logs-20261123T165341-db347e:logs:extract/{number}",
                "timestamp": "2026-11-23T16:53:41.000000+00:00",
                "level": "INFO",
                "message": f"{TEXT} {number}",
                "source": "checkout",
                "trace_id": f"{number:032x}",
                "transform_timestamp": "2026-11-23T16:53:42.000000+00:00",
            }
            for number in range(start, start + rows)
        ],
        delivery=delivery,
    )
