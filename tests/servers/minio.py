"""A MinIO server of each worker process: started once, emptied for each test."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
import httpx
from botocore.config import Config

from tests.servers.needed import KEPT, find_program
from tests.servers.ports import lasting_port

__all__ = ["MINIO_VARIABLE", "find_minio", "keys", "refill", "running_minio"]

MINIO_VARIABLE = "ODW_MINIO"
START_SECONDS = 300.0
USER, PASSWORD = "key", "hush-hush"


def find_minio() -> Path:
    """The `minio` program: what the variable says, else on PATH, else in the cache. May skip the test."""
    return find_program("minio", MINIO_VARIABLE)


@contextmanager
def running_minio(folder: Path, **environment: str) -> Iterator[str]:
    """Start a server over an empty folder; gives its address. More `environment` tunes it."""
    program = find_minio()
    until = time.monotonic() + START_SECONDS
    while True:
        address = f"http://127.0.0.1:{lasting_port()}"
        process = _start(program, folder, address, environment)
        try:
            if _answers(process, address, until):
                KEPT.add(str(process.pid))
                try:
                    yield address
                finally:
                    KEPT.discard(str(process.pid))
                return
        finally:
            process.kill()
            process.wait()
        if time.monotonic() >= until:
            raise RuntimeError(f"MinIO does not come up: {(folder / 'minio.log').read_text()[-2000:]}")


def _start(
    program: Path, folder: Path, address: str, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    command = [str(program), "server", "--quiet", "--address", address.removeprefix("http://")]
    secrets = {"MINIO_ROOT_USER": USER, "MINIO_ROOT_PASSWORD": PASSWORD}
    quiet = {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "HOME": str(folder)}
    with (folder / "minio.log").open("ab") as log:
        return subprocess.Popen(
            [*command, str(folder / "disk")],
            env={**os.environ, **secrets, **quiet, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _answers(process: subprocess.Popen[bytes], address: str, until: float) -> bool:
    while process.poll() is None and time.monotonic() < until:
        try:
            if httpx.get(f"{address}/minio/health/ready", timeout=START_SECONDS).is_success:
                return True
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    return False


def keys() -> dict[str, str]:
    """The credentials of a connection to it."""
    return {"access_key": USER, "secret_key": PASSWORD, "region": "us-east-1"}


def refill(address: str, bucket: str, objects: Mapping[str, bytes]) -> None:
    """Have exactly these objects in a bucket."""
    client = boto3.client(
        "s3",
        endpoint_url=address,
        aws_access_key_id=USER,
        aws_secret_access_key=PASSWORD,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )
    try:
        if bucket in [one["Name"] for one in client.list_buckets()["Buckets"]]:
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for entry in page.get("Contents", ()):
                    client.delete_object(Bucket=bucket, Key=entry["Key"])
        else:
            client.create_bucket(Bucket=bucket)
        for key, body in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=body)
    finally:
        client.close()
