"""The source and the sink `s3` against a real MinIO."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.s3 import S3Connection, S3Connector, S3Params, open_client
from connectors.s3.sink import PART_BYTES, S3Sink, S3SinkParams
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import FatalError
from engine.execution.engine import Engine
from engine.testing import MemorySink, linear_plan
from tests.examples import WITH_FIXTURES
from tests.servers.minio import keys, refill

BUCKET = "formats"


def connection(minio: str) -> S3Connection:
    return S3Connection.model_validate({"endpoint": minio, **keys()})


def sink(minio: str, path: str = f"s3://{BUCKET}/out", **params: Any) -> S3Sink:
    made = S3Sink(S3SinkParams(path=path, **params), connection(minio))
    made.ctx = Context("p", "n", "run-1")
    return made


def client_of(minio: str) -> Any:
    secret = keys()
    return boto3.client(
        "s3",
        endpoint_url=minio,
        aws_access_key_id=secret["access_key"],
        aws_secret_access_key=secret["secret_key"],
        region_name="us-east-1",
    )


async def read(minio: str, pattern: str, **params: Any) -> list[Any]:
    target = MemorySink()
    source = S3Connector(S3Params(pattern=f"s3://{BUCKET}/{pattern}", **params), connection(minio))
    async with Engine() as engine:
        report = await engine.run(linear_plan(source, target))
    assert report.ok, report.error
    return target.records


@pytest.mark.series
async def test_a_large_file_is_uploaded_in_parts_and_read_back(minio: str) -> None:
    refill(minio, BUCKET, {})
    rows = [{"id": number, "text": "x" * 1000} for number in range(2 * PART_BYTES // 1000)]
    async with sink(minio) as made:
        await made.write(Batch(rows, KeyRange("k/", 0, len(rows))))
    listed = client_of(minio).list_objects_v2(Bucket=BUCKET, Prefix="out/part-")["Contents"]
    assert len(listed) == 1
    assert listed[0]["ETag"].strip('"').endswith("-3"), "in three parts"
    assert await read(minio, "out/*.jsonl", format="jsonl") == rows


async def test_an_upload_that_fails_leaves_no_parts(minio: str, monkeypatch: pytest.MonkeyPatch) -> None:
    refill(minio, BUCKET, {})
    rows = [{"id": number, "text": "x" * 1000} for number in range(PART_BYTES // 500)]

    async def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    async with sink(minio) as made:
        store: Any = made._open()._store
        monkeypatch.setattr(store, "_upload", fail)
        with pytest.raises(RuntimeError):
            await made.write(Batch(rows, KeyRange("k/", 0, len(rows))))
    client = client_of(minio)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=BUCKET)
    assert "Contents" not in client.list_objects_v2(Bucket=BUCKET, Prefix="out/part-")


async def test_a_bucket_that_is_not_there_is_named(minio: str) -> None:
    with pytest.raises(FatalError, match=r"'no-such-bucket'.*NoSuchBucket"):
        async with sink(minio, "s3://no-such-bucket/out"):
            pass


@given(sizes=st.lists(st.sampled_from([0, 1, 1000, 70_000, 600_000, 1_100_000]), min_size=1, max_size=4))
@settings(suppress_health_check=WITH_FIXTURES, max_examples=8)
async def test_lines_of_objects_of_every_size_come_back(minio: str, sizes: list[int]) -> None:
    objects: dict[str, bytes] = {}
    expected: list[Any] = []
    for at, size in enumerate(sizes):
        rows = [{"object": at, "line": line, "text": "x" * 90} for line in range(size // 120)]
        data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
        objects[f"in/{at}"] = gzip.compress(data) if at % 2 else data
        expected += rows
    refill(minio, BUCKET, objects)
    assert await read(minio, "in/*", format="jsonl", page_records=777) == expected


async def test_a_folder_and_a_bucket_give_the_same_records(minio: str, tmp_path: Path) -> None:
    from connectors.files.source import FilesParams, FilesSource

    table = b"id,name\n" + b"".join(b"%d,name %d\n" % (number, number) for number in range(5000))
    files = {"a.csv": table, "b.csv.gz": gzip.compress(table)}
    refill(minio, BUCKET, {f"in/{name}": data for name, data in files.items()})
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    target = MemorySink()
    async with Engine() as engine:
        source = FilesSource(FilesParams(pattern=f"{tmp_path}/*", format="csv"))
        assert (await engine.run(linear_plan(source, target))).ok
    assert await read(minio, "in/*", format="csv") == target.records
    assert len(target.records) == 10_000


AWKWARD = ["per%20cent+plus&amp", "ü/日本語 ß", "quote'\"<>", "[x]{y}*?", "~;:@=,!$()"]


@pytest.mark.parametrize("size", [0, 1, 65_537, 9_000_000, pytest.param(64 << 20, marks=pytest.mark.series)])
async def test_both_ways_to_ask_bring_the_same_bytes(minio: str, size: int) -> None:
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    refill(minio, BUCKET, dict.fromkeys(AWKWARD if size < 2 else AWKWARD[:1], content))
    for way in ("lean", "sdk"):
        made = connection(minio).model_copy(update={"requests": way})
        async with open_client(made) as client:
            for key in AWKWARD if size < 2 else AWKWARD[:1]:
                answer = await client.get_object(Bucket=BUCKET, Key=key)
                pieces = []
                async with answer["Body"] as body:
                    while piece := await body.read(1 << 20):
                        pieces.append(piece)
                assert b"".join(pieces) == content
