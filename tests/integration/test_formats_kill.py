"""Runs killed repeatedly inside an object or file, and resumed: every record once."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter

from engine.cli.exit_codes import ExitCode
from engine.fault_injection import VARIABLE
from tests.servers.minio import keys, refill

PATIENCE = 300
KILLED = -signal.SIGKILL
BUCKET = "kills"
ROWS = 4000

# the ledger is committed by time, so how far a run has come by then depends on the machine: it is last
BLOWS = ("batch_read:7", "batch_written:2", "batch_read:13", "batch_written:3", "ledger_committed:1")

FILE = """\
version: 1
connections: {{lake: {{endpoint: "{endpoint}", access_key: "{access_key}", secret_key: "{secret_key}"}}}}
pipelines:
  move:
    nodes:
      read: {{source: {source}, with: {{{lake}pattern: "{pattern}", format: {read}, page_records: 100}}}}
      write:
        sink: {source}
        with: {{{lake}path: "{target}", format: {write}, rotate_records: 300, rotate_seconds: 0.2}}
"""


def jsonl(start: int, stop: int) -> bytes:
    return b"".join(b'{"n": %d, "text": "zeile\\n%d"}\n' % (number, number) for number in range(start, stop))


def table(start: int, stop: int) -> bytes:
    rows = "".join(f'{number},"zeile\n{number}"\n' for number in range(start, stop))
    return f"n,text\n{rows}".encode()


def parquet(start: int, stop: int) -> bytes:
    out = io.BytesIO()
    numbers = range(start, stop)
    pq.write_table(
        pa.table({"n": numbers, "text": [f"zeile\n{number}" for number in numbers]}), out, row_group_size=700
    )
    return out.getvalue()


def workbook(start: int, stop: int) -> bytes:
    out = io.BytesIO()
    with xlsxwriter.Workbook(out, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["n", "text"])
        for number in range(start, stop):
            sheet.write_row(number - start + 1, 0, [number, f"zeile\n{number}"])
    return out.getvalue()


MAKE: dict[str, Callable[[int, int], bytes]] = {
    "jsonl": jsonl, "csv": table, "parquet": parquet, "xlsx": workbook,
}  # fmt: skip
PACKED = ("parquet", "xlsx")


def objects(kind: str) -> dict[str, bytes]:
    """One large file, a small one, and a packed one."""
    make = MAKE[kind]
    last = make(ROWS - 1000, ROWS)
    return {
        f"in/a.{kind}": make(0, ROWS - 1100),
        f"in/b.{kind}": make(ROWS - 1100, ROWS - 1000),
        f"in/c.{kind}": last if kind in PACKED else gzip.compress(last),
    }


def numbers_of(kind: str, data: bytes) -> list[int]:
    if kind == "parquet":
        found: list[int] = pq.read_table(io.BytesIO(data)).column("n").to_pylist()
        return found
    if kind == "csv":
        return [int(row["n"]) for row in csv.DictReader(io.StringIO(data.decode(), newline=""))]
    return [json.loads(line)["n"] for line in data.splitlines()]


def run_to_the_end(folder: Path, file: str) -> None:
    """Kill it at one place after the other, and resume it each time."""
    (folder / "pipelines.yaml").write_text(file, encoding="utf-8")
    for number, blow in enumerate([*BLOWS, ""]):
        done = subprocess.run(
            [sys.executable, "-m", "engine", "run", "--quiet", *(["--resume"] if number else [])],
            cwd=folder,
            env={**os.environ, VARIABLE: blow},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == (KILLED if blow else ExitCode.COMPLETED), done.stderr[-2000:]


def pairs(first: tuple[str, str]) -> list[Any]:
    """Each format read and written; all but the first are the series."""
    every = [("csv", "parquet"), ("jsonl", "csv"), ("parquet", "jsonl"), ("xlsx", "csv")]
    return [pytest.param(*one, marks=() if one == first else pytest.mark.series) for one in every]


@pytest.mark.parametrize(("read", "write"), pairs(("csv", "parquet")))
def test_files_are_moved_once_through_kills(tmp_path: Path, read: str, write: str) -> None:
    (tmp_path / "in").mkdir()
    for name, data in objects(read).items():
        (tmp_path / name).write_bytes(data)
    nowhere = {"endpoint": "http://127.0.0.1:9", "access_key": "key", "secret_key": "none"}
    run_to_the_end(
        tmp_path,
        FILE.format(source="files", lake="", pattern="in/*", target="out", read=read, write=write, **nowhere),
    )
    found = [numbers_of(write, file.read_bytes()) for file in (tmp_path / "out").iterdir()]
    assert len(found) > 5
    assert sorted(number for part in found for number in part) == list(range(ROWS))


@pytest.mark.slow
@pytest.mark.parametrize(("read", "write"), pairs(("jsonl", "csv")))
def test_objects_are_moved_once_through_kills(tmp_path: Path, minio: str, read: str, write: str) -> None:
    refill(minio, BUCKET, objects(read))
    file = FILE.format(
        source="s3",
        lake="connection: lake, ",
        pattern=f"s3://{BUCKET}/in/*",
        target=f"s3://{BUCKET}/out",
        read=read,
        write=write,
        endpoint=minio,
        access_key=keys()["access_key"],
        secret_key=keys()["secret_key"],
    )
    run_to_the_end(tmp_path, file)
    client = boto3.client(
        "s3",
        endpoint_url=minio,
        aws_access_key_id=keys()["access_key"],
        aws_secret_access_key=keys()["secret_key"],
        region_name="us-east-1",
    )
    names = [one["Key"] for one in client.list_objects_v2(Bucket=BUCKET, Prefix="out/")["Contents"]]
    assert all(name.startswith("out/part-") for name in names), "the notes are gone"
    found = [numbers_of(write, client.get_object(Bucket=BUCKET, Key=name)["Body"].read()) for name in names]
    client.close()
    assert len(found) > 5
    assert sorted(number for part in found for number in part) == list(range(ROWS))
