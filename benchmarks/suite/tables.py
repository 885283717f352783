"""The engine's cost between a source and a table of DuckDB, compared with a bare append and with dlt."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from itertools import chain
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.model import Arm, Benchmark, Goal, Scale, Work

PAGE = 5_000
"""Rows of a transaction, the default of the sink."""

SEED = 7


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``duckdb_sink``."""
    size = scale.pick(200_000, 5_000)
    reference = "bare append"
    return [
        Benchmark(
            name="duckdb_sink",
            description=f"{size:,} simulated blobs into a table of a DuckDB file, {PAGE:,} a transaction",
            arms=[
                Arm(reference, partial(appended, size)),
                Arm(
                    "pipeline",
                    partial(piped, size),
                    goals=[Goal("rate", ">=", 120_000), Goal("ratio", "<=", 1.5)],
                ),
                Arm("dlt, default", partial(by_dlt, size, None), unavailable=needs_dlt),
                Arm("dlt, Parquet", partial(by_dlt, size, "parquet"), unavailable=needs_dlt),
            ],
            reference=reference,
            unit="rows",
            pairs=7,
            libraries=("duckdb", "dlt"),
        ),
    ]


def appended(size: int) -> Work:
    """Generate the records and append them, with nothing in between."""
    import duckdb
    import orjson

    with TemporaryDirectory() as folder:
        path = Path(folder, "bare.duckdb")
        begun = time.perf_counter()
        connection = duckdb.connect(str(path))
        names: list[str] = []
        for records in _pages(size):
            if not names:
                names = list(records[0])
                kinds = {"file_size": "BIGINT", "permissions": "JSON"}
                columns = ", ".join(f"{name} {kinds.get(name, 'VARCHAR')}" for name in names)
                connection.execute(f"CREATE TABLE blobs ({columns})")
            for record in records:
                record["permissions"] = orjson.dumps(record["permissions"]).decode()
            connection.begin()
            with connection.appender("blobs", columns=names) as appender:
                appender.append_rows(list(map(itemgetter(*names), records)))
            connection.commit()
        connection.close()
        return _work(path, size, time.perf_counter() - begun)


async def piped(size: int) -> Work:
    """The same by a pipeline."""
    import engine
    from connectors.duckdb import DuckdbSink
    from connectors.simulated import BlobConnector

    with TemporaryDirectory() as folder:
        path = Path(folder, "piped.duckdb")
        begun = time.perf_counter()
        pipeline = engine.Pipeline(
            "blobs",
            read=engine.node(BlobConnector, records=size, seed=SEED, page_size=PAGE),
            load=engine.node(DuckdbSink, path=str(path), table="blobs", records=PAGE),
        )
        report = (await engine.run(pipeline))["blobs"]
        if report.error:
            raise RuntimeError(report.error)
        return _work(path, size, time.perf_counter() - begun)


def needs_dlt() -> str | None:
    """Why dlt cannot be measured here, or None."""
    return None if find_spec("dlt") else "dlt is not installed: pip install -e '.[benchmarks]'"


def by_dlt(size: int, file_format: str | None) -> Work:
    """The same records as a resource of dlt; `file_format`: of its intermediate files (None: its default)."""
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"
    import dlt

    with TemporaryDirectory() as folder:
        path = Path(folder, "dlt.duckdb")
        begun = time.perf_counter()
        pipeline = dlt.pipeline(
            "blobs",
            destination=dlt.destinations.duckdb(str(path)),
            dataset_name="bench",
            pipelines_dir=folder,
        )
        columns = {"permissions": {"data_type": "json"}}
        blobs = dlt.resource(_pages(size), name="blobs", columns=columns)
        pipeline.run(blobs, loader_file_format=file_format).raise_on_failed_jobs()
        return _work(path, size, time.perf_counter() - begun, "bench.blobs")


def _pages(size: int) -> Iterator[list[dict[str, Any]]]:
    from connectors.simulated import BlobConnector, SimulatedParams

    source = BlobConnector(SimulatedParams(seed=SEED))
    started = datetime(2025, 1, 1, tzinfo=UTC)
    for start in range(0, size, PAGE):
        yield source.generate(SEED, start, min(start + PAGE, size), started)


def _work(path: Path, size: int, seconds: float, table: str = "blobs") -> Work:
    import duckdb

    with duckdb.connect(str(path)) as connection:
        found = connection.execute(
            f"SELECT count(*), sum(file_size), min(id), max(id) FROM {table}"
        ).fetchall()
    return Work(size, "/".join(map(str, chain(*found))), {"rate": size / seconds})
