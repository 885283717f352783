"""One case per component: how to build it against real services, and what it guarantees.

A new component adds its case here; the suite fails as long as it has none.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Generic, TypeVar, cast

import duckdb
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter
from pydantic import BaseModel

from engine.contract.component import Component, ComponentSpec, Context, Kind, Sink, Source, Transform
from engine.contract.types import Record
from engine.registry import Registry
from engine.testing import ScriptedClock
from tests.contract.outside_world import BUCKET, World
from tests.servers.clickhouse import PASSWORD as CLICKHOUSE_PASSWORD

Fields = dict[str, Any]
Made = Callable[[World], Fields]

C = TypeVar("C", bound=Component[Any])

STARTED = ScriptedClock().now()


def nothing(_world: World) -> Fields:
    return {}


@dataclass(frozen=True, kw_only=True)
class Case(Generic[C]):
    """How to build a component: its parameters and connection.

    Args:
        label: tells several cases of one component apart.
        needs: the service that has to run: "s3", "minio", "llm", "ingest", or "" for none.
    """

    kind: Kind
    name: str
    label: str = ""
    params: Made = nothing
    connection: Made | None = None
    needs: str = ""

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}" + (f"-{self.label}" if self.label else "")

    @property
    def spec(self) -> ComponentSpec:
        return Registry.installed().get(self.kind, self.name)

    def configured(self, world: World) -> tuple[BaseModel, BaseModel | None]:
        """The parameters and the connection, validated as those of a file are."""
        spec, connection = self.spec, None
        if self.connection is not None:
            assert spec.connection is not None
            connection = spec.connection.model_validate(self.connection(world))
        return spec.params.model_validate(self.params(world)), connection

    def build(self, world: World, ctx: Context | None = None) -> C:
        """A fresh instance, by the way the engine takes."""
        component = cast(C, self.spec.factory(*self.configured(world)))
        component.ctx = ctx or context()
        return component


def context(run_id: str = "run-1", **more: Any) -> Context:
    """A context with a fixed clock, so that two instances produce the same times."""
    clock = ScriptedClock(jump=True)
    return Context("p", "n", run_id, seed="5", started_at=STARTED, clock=clock, **more)


@dataclass(frozen=True, kw_only=True)
class SourceCase(Case[Source[Any]]):
    """`records` that it reads in at least `batches` batches, `dead` of them as failures.

    `objects` are in the bucket and `rows` (by model) in the warehouse before. `once`: what it reads is gone
    afterwards, so that only another instance can read it, and from the beginning.
    """

    kind: Kind = Kind.SOURCE
    records: int
    batches: int = 2
    dead: int = 0
    once: bool = False
    objects: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, list[Fields]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TransformCase(Case[Transform[Any]]):
    """`given` are records that pass, `bad` is one that has to die alone (None: there is no such record).

    `settled` is the outcome of `given` in a run: how many are written, dropped and dead.
    """

    kind: Kind = Kind.TRANSFORM
    given: Sequence[Record]
    bad: Record | None = None
    settled: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class SinkCase(Case[Sink[Any]]):
    """`given` are records that arrive, `bad` is one that has to fail alone.

    `arrived` tells the ids that are there now. `idempotent` is the promise of the sink that a batch which is
    marked as a replay adds nothing; without it such a batch is there twice. `knows_its_run` is the same
    promise for what an earlier attempt of the same run has written.
    """

    kind: Kind = Kind.SINK
    given: Sequence[Record]
    bad: Record
    arrived: Callable[[World], list[str]]
    idempotent: bool = False
    knows_its_run: bool = False


@dataclass(frozen=True, kw_only=True)
class _InMemory(SinkCase):
    """A sink whose records are nowhere else than in itself."""

    def build(self, world: World, ctx: Context | None = None) -> Sink[Any]:
        sink = super().build(world, ctx)
        world.kept.append(sink)
        return sink


def _simulated(name: str) -> SourceCase:
    return SourceCase(
        name=name,
        params=lambda _: {"records": 700, "page_size": 150, "split_size": 350, "seed": 7},
        records=700,
        batches=6,
    )


def _lines(count: int, *broken: int) -> bytes:
    lines = [json.dumps({"name": f"n{number}", "value": number}) for number in range(count)]
    for number in broken:
        lines[number] = '{"name": "n", '
    return "".join(f"{line}\n" for line in lines).encode()


def _two_files(world: World) -> Fields:
    world.file("one.jsonl", _lines(25))
    world.file("two.jsonl", b"\n" + _lines(10) + b"\n")
    return {"path": f"{world.folder}/*.jsonl", "page_records": 4}


def _documents(world: World) -> Fields:
    for name, content in _DOCUMENTS.items():
        path = world.file(name.replace("/", "-"), content)
        os.utime(path, (1_767_225_600, 1_767_225_600))  # written again, they would be other files
    return {"pattern": f"{world.folder}/memos-*"}


def _lake(world: World) -> Fields:
    return {"endpoint": world.s3, "access_key": "key", "secret_key": "hush-hush", "region": "us-east-1"}


# texts of some size, because small objects are handed on sixteen together
_DOCUMENTS = {f"memos/{number}.txt": f"Memo {number}: Grüße\n".encode() * 2000 for number in range(9)} | {
    "memos/scan.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "memos/empty.txt": b"",
}


def _parquet(rows: int) -> bytes:
    out = io.BytesIO()
    table = pa.table({"name": [f"n{number}" for number in range(rows)], "value": range(rows)})
    pq.write_table(table, out, row_group_size=25)
    return out.getvalue()


def _workbook(rows: int) -> bytes:
    out = io.BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True}) as book:
        book.set_properties({"created": datetime(2026, 1, 1, tzinfo=UTC)})
        sheet = book.add_worksheet()
        for at, row in enumerate([("name", "value"), *((f"n{number}", number) for number in range(rows))]):
            sheet.write_row(at, 0, row)
    return out.getvalue()


def _csv(rows: int) -> bytes:
    return b"name,value\n" + b"".join(b'"n\n%d",%d\n' % (number, number) for number in range(rows))


# two files of each, of 60 records and of 10, one of each bad in the formats of lines
_TABLES: dict[str, tuple[int, dict[str, bytes]]] = {
    "lines": (0, {"a.log": b"one line\r\n" * 60, "b.log.gz": gzip.compress(b"another\n" * 10, mtime=0)}),
    "jsonl": (2, {"a.jsonl": _lines(60, 7), "b.jsonl.gz": gzip.compress(_lines(10, 9))}),
    "csv": (0, {"a.csv": _csv(60), "b.csv.gz": gzip.compress(_csv(10))}),
    "parquet": (0, {"a.parquet": _parquet(60), "b.parquet": _parquet(10)}),
    "xlsx": (0, {"a.xlsx": _workbook(60), "b.xlsx": _workbook(10)}),
}


def _of_formats() -> list[SourceCase]:
    """Streams of records, from a bucket and from a folder alike."""

    def folder(files: dict[str, bytes], params: Fields) -> Made:
        def made(world: World) -> Fields:
            for name, content in files.items():
                os.utime(world.file(name, content), (1_767_225_600, 1_767_225_600))
            return {"pattern": f"{world.folder}/[ab].*", **params}

        return made

    def bucket(params: Fields) -> Made:
        return lambda _: {"pattern": f"s3://{BUCKET}/**", **params}

    cases: list[SourceCase] = []
    for kind, (dead, files) in _TABLES.items():
        params = {"format": kind, "page_records": 16}
        sizes: Any = {"label": kind, "records": 70, "batches": 5, "dead": dead}
        cases.append(SourceCase(name="files", params=folder(files, params), **sizes))
        for server in ("s3", "minio"):
            more = {**sizes, "label": kind if server == "s3" else f"{kind}-on-minio"}
            made: Any = {"params": bucket(params), "connection": _lake, "needs": server, "objects": files}
            cases.append(SourceCase(name="s3", **made, **more))
    return cases


def _written(files: dict[str, bytes]) -> list[str]:
    """The ids in files of any format, but for those that are hidden or in folders below."""
    ids: list[str] = []
    for name, data in files.items():
        if "/" in name or name.startswith("."):
            continue
        if name.endswith(".parquet"):
            ids += pq.read_table(io.BytesIO(data)).column("id").to_pylist()
            continue
        text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
        if ".csv" in name:
            ids += [row["id"] for row in csv.DictReader(io.StringIO(text))]
        else:
            ids += [json.loads(line)["id"] for line in text.splitlines()]
    return ids


def _part_sinks() -> list[SinkCase]:
    """Files of each format, in a folder, in moto's bucket and in MinIO's."""

    def params(path: str, more: Fields) -> Made:
        return lambda world: {"path": path or f"{world.folder}/parts", **more}

    def in_folder(world: World) -> list[str]:
        folder = world.folder / "parts"
        return _written({file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()})

    def in_bucket(world: World) -> list[str]:
        return _written(world.stored("parts/"))

    cases: list[SinkCase] = []
    for kind in ("jsonl", "csv", "parquet"):
        more: Fields = {"format": kind} | ({"compression": "gzip"} if kind == "csv" else {})
        common: Any = {"given": _SAID, "bad": _UNSAYABLE, "knows_its_run": True}
        cases.append(SinkCase(name="files", label=kind, params=params("", more), arrived=in_folder, **common))
        cases += [
            SinkCase(
                name="s3",
                label=label,
                params=params(f"s3://{BUCKET}/parts", more),
                connection=_lake,
                needs=server,
                arrived=in_bucket,
                **common,
            )
            for server, label in (("s3", kind), ("minio", f"{kind}-on-minio"))
        ]
    return cases


_BLOBS = [
    {
        "id": f"b{number}",
        "bucket_name": "bucket",
        "file_path": "/a/",
        "file_name": "report.txt",
        "file_size": 300 + number,
        "permissions": ["READ"],
        "content_type": None,
        "ingested_at": "2026-01-01T00:00:00+00:00",
    }
    for number in range(120)
]

_FILES = [
    {"file_path": f"s3://bucket/{number}.txt", "content": f"memo {number}", "content_type": "text/plain"}
    for number in range(7)
]


def _staged(number: int, text: str | None = None) -> Fields:
    memo = (
        f"Patient: Person {number}\nAge: {30 + number}\nPhone: 555-010{number}\nProcedure: Root canal\n"
        f"Appointment: 2025-05-0{number}\nDoctor: Dr. Number {number}\n"
    )
    return {
        "id": f"unstr_{number}",
        "source_file_path": f"s3://bucket/memo_{number}.txt",
        "extracted_data": memo if text is None else text,
        "processing_instructions": None,
    }


def _row(number: int) -> Fields:
    stamp = f"2026-01-01T00:00:{number:02}+00:00"
    return _staged(number, f"Memo {number}\n" * (1 + 100 * number)) | {
        "id": f"u{number}", "processed_at": stamp, "transform_timestamp": stamp,
    }  # fmt: skip


def _duckdb(world: World) -> str:
    """A file whose table `letters` has 40 rows."""
    path = world.folder / "rows.duckdb"
    if not path.exists():
        with duckdb.connect(str(path)) as connection:
            connection.execute(
                "CREATE TABLE letters AS SELECT range AS id, 'n' || range AS name, DATE '2026-01-01' AS day, "
                "TIMESTAMPTZ '2026-01-01 12:00:00+02' AS at, 1.25::DECIMAL(9, 2) AS amount, "
                """'{"a": [1]}'::JSON AS more, [range] AS list FROM range(40)"""
            )
    return str(path)


def _in_duckdb(world: World) -> list[str]:
    with duckdb.connect(str(world.folder / "out.duckdb")) as connection:
        return [id_ for (id_,) in connection.execute("SELECT id FROM letters").fetchall()]


def _postgres(world: World) -> Fields:
    return {"url": world.postgres}


def _rows_in_postgres(world: World) -> Fields:
    """A table with 40 rows."""
    if "127.0.0.1:9/" not in world.postgres:
        with psycopg.connect(world.postgres) as connection:
            connection.execute(
                "CREATE TABLE IF NOT EXISTS contract.letters AS SELECT n AS id, 'n' || n AS name, "
                "date '2026-01-01' AS day, timestamptz '2026-01-01 12:00:00+02' AS at, "
                """1.25::numeric AS amount, '{"a": [1]}'::jsonb AS more, array[n] AS list """
                "FROM generate_series(1, 40) AS n"
            )
    return {"table": "contract.letters", "key": "id", "page_records": 7, "split_rows": 16}


def _clickhouse(world: World) -> Fields:
    url = world.clickhouse.url if world.clickhouse is not None else "http://127.0.0.1:9"
    return {"url": url, "database": "contract", "password": CLICKHOUSE_PASSWORD}


def _in_clickhouse(world: World) -> list[str]:
    assert world.clickhouse is not None
    tables = world.clickhouse.sql("SELECT engine FROM system.tables WHERE name = 'letters'")
    final = "FINAL" if tables == [("ReplacingMergeTree",)] else ""
    rows = world.clickhouse.sql(f"SELECT id FROM contract.letters {final}") if tables else []
    return [id_ for (id_,) in rows]


def _rows_in_sqlite(world: World) -> Fields:
    """A table with 40 rows."""
    path = world.folder / "rows.sqlite"
    if not path.exists():
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE letters (id integer PRIMARY KEY, name text, at text, x real)")
            rows = [(n, f"n{n}", "2026-01-01T12:00:00Z", 1.25) for n in range(40)]
            connection.executemany("INSERT INTO letters VALUES (?, ?, ?, ?)", rows)
            connection.commit()
    return {"table": "letters", "key": "id", "page_records": 7, "split_rows": 16}


def _sqlite(world: World) -> Fields:
    return {"driver": "sqlite", "url": f"{world.folder}/rows.sqlite"}


def _in_postgres(world: World) -> list[str]:
    with psycopg.connect(world.postgres) as connection:
        try:
            return [id_ for (id_,) in connection.execute("SELECT id FROM contract.letters").fetchall()]
        except psycopg.errors.UndefinedTable:
            return []


def _api(world: World) -> Fields:
    return {"url": world.http, "token": "hush"}


def _posted(world: World) -> list[str]:
    assert world.api is not None
    return list(world.api.posted)


def _ids(document: bytes) -> list[str]:
    return [json.loads(line)["id"] for line in document.splitlines()]


_SAID = [{"id": f"r{number}", "value": number, "nested": {"list": [1, 2]}} for number in range(120)]
_MISFIT = {"id": "bad", "value": "no number"}
_UNSAYABLE = {"id": "bad", "value": object}


def _cities(world: World) -> str:
    path = world.folder / "cities.csv"
    path.write_text("name,country\nUlm,DE\n")
    return str(path)


_ORDERS: list[Fields] = [
    {"id": f"o{n}", "n": n, "city": "Ulm", "lines": [{"sku": f"s{one}"} for one in range(n % 3 + 1)]}
    for n in range(30)
]

CASES: tuple[Case[Any], ...] = (
    _simulated("blob"),
    _simulated("logs"),
    _simulated("events"),
    SourceCase(
        name="s3",
        params=lambda _: {"pattern": f"s3://{BUCKET}/memos/**", "split_objects": 6, "concurrency": 4},
        connection=_lake,
        needs="s3",
        records=len(_DOCUMENTS),
        batches=4,
        objects=_DOCUMENTS,
    ),
    SourceCase(
        name="s3",
        label="with-one-object-too-large",
        params=lambda _: {"pattern": f"s3://{BUCKET}/**", "max_object_bytes": 60_000},
        connection=_lake,
        needs="s3",
        records=len(_DOCUMENTS) + 1,
        dead=1,
        objects=_DOCUMENTS | {"large.txt": b"x" * 70_000},
    ),
    SourceCase(
        name="s3",
        label="reading-what-changed",
        params=lambda _: {"pattern": f"s3://{BUCKET}/memos/**", "split_objects": 6, "mode": "changed"},
        connection=_lake,
        needs="s3",
        records=len(_DOCUMENTS),
        batches=4,
        objects=_DOCUMENTS,
    ),
    SourceCase(
        name="files",
        params=lambda world: {**_documents(world), "split_objects": 6, "concurrency": 4},
        records=len(_DOCUMENTS),
        batches=4,
    ),
    SourceCase(
        name="files",
        label="with-one-file-too-large",
        params=lambda world: {**_documents(world), "max_object_bytes": 30_000},
        records=len(_DOCUMENTS),
        batches=1,
        dead=9,
    ),
    SourceCase(
        name="files",
        label="reading-what-changed",
        params=lambda world: {**_documents(world), "split_objects": 6, "mode": "changed"},
        records=len(_DOCUMENTS),
        batches=4,
    ),
    *_of_formats(),
    SourceCase(
        name="consumption",
        params=lambda _: {"model": "UnstructuredData", "split_rows": 7, "page_bytes": 4096},
        connection=lambda world: {"url": world.ingest, "token": "hush"},
        needs="ingest",
        records=20,
        batches=6,
        rows={"UnstructuredData": [_row(number) for number in range(20)]},
    ),
    SourceCase(
        name="consumption",
        label="with-ids-of-which-one-is-not-there",
        params=lambda _: {
            "model": "UnstructuredData", "ids": ["u3", "u99", "u1", "u0", "u5"], "split_rows": 2,
        },
        connection=lambda world: {"url": world.ingest},
        needs="ingest",
        records=5,
        batches=3,
        dead=1,
        rows={"UnstructuredData": [_row(number) for number in range(6)]},
    ),
    SourceCase(name="jsonl", params=_two_files, records=35, batches=10),
    SourceCase(
        name="jsonl",
        label="with-broken-lines",
        params=lambda world: {"path": world.file("a.jsonl", _lines(20, 7, 11)), "page_records": 5},
        records=20,
        batches=4,
        dead=2,
    ),
    SourceCase(
        name="jsonl",
        label="reading-what-changed",
        params=lambda world: _two_files(world) | {"mode": "changed"},
        records=35,
        batches=10,
    ),
    SourceCase(
        name="jsonl",
        label="with-keys-of-its-own",
        params=lambda world: {"path": world.file("a.jsonl", _lines(9)), "key": "name", "page_records": 2},
        records=9,
        batches=5,
    ),
    SourceCase(
        name="generate",
        params=lambda _: {
            "fields": {
                "id": "c-{number:04d}",
                "name": "faker.name",
                "born": {
                    "faker": "date_between", "start_date": date(1980, 1, 1), "end_date": date(1990, 1, 1),
                },
                "plan": {"choice": ["free", "paid"], "weights": [9, 1]},
                "address": {"city": "faker.city", "note": "of {name}"},
            },
            "records": 350, "seed": 7, "page_size": 130, "split_size": 200,
        },
        records=350,
        batches=4,
    ),
    SourceCase(
        name="duckdb",
        params=lambda world: {"path": _duckdb(world), "table": "letters", "key": "id", "page_records": 7},
        records=40,
        batches=6,
    ),
    SourceCase(
        name="postgres",
        params=_rows_in_postgres,
        connection=_postgres,
        needs="postgres",
        records=40,
        batches=7,
    ),
    SourceCase(
        name="postgres",
        label="incremental",
        params=lambda world: _rows_in_postgres(world) | {"incremental": "at"},
        connection=_postgres,
        needs="postgres",
        records=40,
        batches=6,
    ),
    SourceCase(name="sql", params=_rows_in_sqlite, connection=_sqlite, records=40, batches=8),
    SourceCase(
        name="sql",
        label="incremental",
        params=lambda world: _rows_in_sqlite(world) | {"incremental": "at"},
        connection=_sqlite,
        records=40,
        batches=8,
    ),
    SourceCase(
        name="http",
        params=lambda _: {
            "path": "letters", "records": "data.items", "key": "id", "paging": {"type": "offset", "size": 9},
        },
        connection=_api,
        needs="http",
        records=40,
        batches=5,
    ),
    SourceCase(
        name="stdin",
        params=lambda world: world.feed(_lines(20, 7)) | {"page_records": 5},
        records=20,
        batches=4,
        dead=1,
        once=True,
    ),
    TransformCase(
        name="simulate_failures",
        params=lambda _: {"percentage": 100},
        given=_BLOBS,
        bad={"id": "no text to mark"},
        settled=(120, 0, 0),
    ),
    TransformCase(
        name="simulate_failures",
        label="a-share-of-them",
        params=lambda _: {"percentage": 20},
        given=_BLOBS,
        settled=(120, 0, 0),
    ),
    TransformCase(
        name="filter",
        params=lambda _: {"where": "n % 3 > 0"},
        given=_ORDERS,
        bad={"id": "bad", "n": "text"},
        settled=(20, 10, 0),
    ),
    TransformCase(
        name="map",
        params=lambda _: {
            "rename": {"city": "town"}, "set": {"total": "n * 2", "half": "n / 2"}, "hash": ["id"],
            "template": {"label": "{town}-{n}"}, "drop": ["lines"],
        },
        given=_ORDERS,
        bad={"id": "bad", "n": "text"},
        settled=(30, 0, 0),
    ),
    TransformCase(
        name="route",
        params=lambda _: {"branches": {"low": "n < 10", "none": "n == 12"}, "else": "rest", "drop": ["none"]},
        given=_ORDERS,
        bad={"id": "bad", "n": "text"},
        settled=(29, 1, 0),
    ),
    TransformCase(
        name="explode",
        params=lambda _: {"field": "lines", "merge": True, "keep": ["id", "n"]},
        given=_ORDERS,
        bad={"id": "bad", "n": 1, "lines": "text"},
        settled=(60, 0, 0),
    ),
    TransformCase(
        name="deduplicate",
        params=lambda _: {"key": "n % 10"},
        given=_ORDERS,
        bad={"id": "bad", "n": "text"},
        settled=(10, 20, 0),
    ),
    TransformCase(
        name="validate",
        params=lambda _: {"schema": {"properties": {"n": {"type": "integer"}}, "required": ["id"]}},
        given=_ORDERS,
        bad={"id": "bad", "n": "text"},
        settled=(30, 0, 0),
    ),
    TransformCase(
        name="mask",
        params=lambda _: {"fields": {"city": "hash", "id": "partial", "lines.sku": None}},
        given=_ORDERS,
        settled=(30, 0, 0),
    ),
    TransformCase(
        name="sql",
        params=lambda _: {"query": "SELECT id, n * 2 AS twice, lines FROM batch WHERE n % 3 > 0"},
        given=_ORDERS,
        bad={"id": "bad", "n": "text"},
        settled=(20, 10, 0),
    ),
    TransformCase(
        name="sql",
        label="several-rows",
        params=lambda _: {
            "query": "SELECT id, unnest(['a', 'b']) AS item FROM batch b", "many": True,
            "columns": {"id": "VARCHAR"},
        },
        given=_ORDERS,
        settled=(60, 0, 0),
    ),
    TransformCase(
        name="enrich",
        params=lambda world: {"file": _cities(world), "key": {"city": "name"}},
        given=_ORDERS,
        bad={"id": "bad", "city": ["Ulm"]},
        settled=(30, 0, 0),
    ),
    TransformCase(
        name="stage_documents",
        params=lambda _: {"processing_instructions": "read it"},
        given=_FILES,
        bad={"content": "a text without a path"},
        settled=(7, 0, 0),
    ),
    TransformCase(
        name="llm_extract",
        params=lambda _: {"schema": "Medical", "batch_size": 2},
        connection=lambda world: {
            "base_url": f"{world.llm}/v1", "api_key": "sandbox", "model": "sandbox-extractor",
        },
        needs="llm",
        given=[*(_staged(number) for number in range(1, 6)), _staged(6, "")],
        bad=_staged(7, "Patient: Somebody\n"),
        settled=(5, 1, 0),
    ),
    SinkCase(
        name="ingest",
        params=lambda _: {"model": "BlobSource"},
        connection=lambda world: {"url": world.ingest, "token": "hush"},
        needs="ingest",
        given=_BLOBS,
        bad=_BLOBS[0] | {"id": "bad", "file_name": "[DLQ]report.txt"},
        arrived=lambda world: [row["id"] for row in world.rows("getBlobs")],
        idempotent=True,
    ),
    SinkCase(
        name="ingest",
        label="confirmed-by-sight",
        params=lambda _: {"model": "BlobSource", "confirm": "visible"},
        connection=lambda world: {"url": world.ingest},
        needs="ingest",
        given=_BLOBS,
        bad={name: value for name, value in _BLOBS[0].items() if name != "bucket_name"} | {"id": "bad"},
        arrived=lambda world: [row["id"] for row in world.rows("getBlobs")],
        idempotent=True,
    ),
    *_part_sinks(),
    SinkCase(
        name="jsonl",
        params=lambda world: {"path": f"{world.folder}/out/lines.jsonl"},
        given=_SAID,
        bad=_UNSAYABLE,
        arrived=lambda world: _ids((world.folder / "out" / "lines.jsonl").read_bytes()),
        knows_its_run=True,
    ),
    _InMemory(
        name="memory",
        given=_SAID,
        bad="no mapping",
        arrived=lambda world: [record["id"] for sink in world.kept for record in sink.collected()],
    ),
    SinkCase(
        name="duckdb",
        params=lambda world: {
            "path": f"{world.folder}/out.duckdb", "table": "letters", "columns": {"value": "bigint"},
        },
        given=_SAID,
        bad=_MISFIT,
        arrived=_in_duckdb,
        knows_its_run=True,
    ),
    SinkCase(
        name="duckdb",
        label="merging-by-key",
        params=lambda world: {
            "path": f"{world.folder}/out.duckdb", "table": "letters", "mode": "merge", "key": "id",
        },
        given=_SAID,
        bad={"id": None, "value": 1},
        arrived=_in_duckdb,
        idempotent=True,
    ),
    SinkCase(
        name="postgres",
        params=lambda _: {"table": "contract.letters", "columns": {"value": "bigint"}},
        connection=_postgres,
        needs="postgres",
        given=_SAID,
        bad=_MISFIT,
        arrived=_in_postgres,
        knows_its_run=True,
    ),
    SinkCase(
        name="postgres",
        label="merging-by-key",
        params=lambda _: {"table": "contract.letters", "mode": "merge", "key": "id"},
        connection=_postgres,
        needs="postgres",
        given=_SAID,
        bad=_SAID[0] | {"id": "a\0b"},
        arrived=_in_postgres,
        idempotent=True,
    ),
    SinkCase(
        name="clickhouse",
        params=lambda _: {"table": "letters", "columns": {"value": "bigint"}},
        connection=_clickhouse,
        needs="clickhouse",
        given=_SAID,
        bad=_MISFIT,
        arrived=_in_clickhouse,
        knows_its_run=True,
    ),
    SinkCase(
        name="clickhouse",
        label="merging-by-key",
        params=lambda _: {"table": "letters", "mode": "merge", "key": "id"},
        connection=_clickhouse,
        needs="clickhouse",
        given=_SAID,
        bad={"id": None, "value": 1},
        arrived=_in_clickhouse,
        idempotent=True,
    ),
    SinkCase(
        name="http",
        params=lambda _: {"path": "letters"},
        connection=_api,
        needs="http",
        given=_SAID,
        bad={"id": "bad"},
        arrived=_posted,
    ),
    SinkCase(
        name="http",
        label="in-batches",
        params=lambda _: {"path": "letters", "batch": True},
        connection=_api,
        needs="http",
        given=_SAID,
        bad={"id": "bad"},
        arrived=_posted,
    ),
    SinkCase(
        name="stdout",
        given=_SAID,
        bad=_UNSAYABLE,
        arrived=lambda world: _ids(world.printed()),
    ),
)  # fmt: skip

SOURCES = [case for case in CASES if isinstance(case, SourceCase)]
TRANSFORMS = [case for case in CASES if isinstance(case, TransformCase)]
SINKS = [case for case in CASES if isinstance(case, SinkCase)]


def marked(cases: Sequence[Case[Any]]) -> list[Any]:
    """The cases for `parametrize`: those that meet a server are slow, a component's further variants series.

    Variants that need no server are cheap, and series only where their component has a case without a label.
    """
    plain = {(case.kind, case.name) for case in cases if not case.label}
    met: set[tuple[str, str, str]] = set()
    chosen: list[Any] = []
    for case in cases:
        served = (case.kind, case.name, case.needs)
        extra = bool(case.label) and ((case.kind, case.name) in plain or (bool(case.needs) and served in met))
        met.add(served)
        marks = [pytest.mark.series] if extra else [pytest.mark.slow] if case.needs else []
        chosen.append(pytest.param(case, marks=marks))
    return chosen
