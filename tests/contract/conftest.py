"""The environment in which components are tested."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from engine.service.server import serving_app
from tests.contract.component_cases import Case, SourceCase
from tests.contract.outside_world import BUCKET, Api, World, beside, fill, lake
from tests.servers.minio import refill


@pytest.fixture(autouse=True)
def _only_own_garbage(only_own_garbage: None) -> None:
    """`traces` collects garbage after each test."""


@pytest.fixture(scope="session")
def _lake() -> Iterator[str]:
    with lake() as address:  # it takes half a second to stop
        yield address


@pytest.fixture(scope="session")
def _portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture
def _fed(tmp_path: Path) -> Iterator[BinaryIO]:
    with (tmp_path / "stdin").open("w+b") as file:
        yield file


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
    _lake: str,
    _portal: BlockingPortal,
    _fed: BinaryIO,
) -> Iterator[World]:
    """What the `case` of the test needs, running."""
    case: Case[Any] = request.node.callspec.params["case"]
    said = bytearray()

    def printed() -> bytes:
        said.extend(capsysbinary.readouterr().out)
        return bytes(said)

    if getattr(case, "once", False):
        monkeypatch.setattr(sys, "stdin", _fed)
    made = World(tmp_path, printed, _fed)
    if not case.needs:
        yield made
    elif case.needs == "http":
        made.api = Api()
        with _portal.wrap_async_context_manager(serving_app(made.api)) as made.http:
            yield made
    elif case.needs == "postgres":
        server = request.getfixturevalue("postgres")
        server.sql("DROP SCHEMA IF EXISTS contract CASCADE; CREATE SCHEMA contract")
        server.sql("DROP TABLE IF EXISTS _odw_batches")
        made.postgres = server.address()
        yield made
    elif case.needs == "clickhouse":
        made.clickhouse = request.getfixturevalue("clickhouse")
        made.clickhouse.start()
        made.clickhouse.sql("DROP DATABASE IF EXISTS contract")
        made.clickhouse.sql("CREATE DATABASE contract ENGINE = Atomic")
        yield made
    elif case.needs in ("s3", "minio"):
        objects = case.objects if isinstance(case, SourceCase) else {}
        if case.needs == "s3":
            made.s3 = _lake
            fill(made.s3, objects)
        else:
            made.s3 = request.getfixturevalue("minio")
            refill(made.s3, BUCKET, objects)
        yield made
    else:
        with beside(_portal, case.needs, tmp_path) as address:
            made.llm = made.ingest = address
            for model, rows in case.rows.items() if isinstance(case, SourceCase) else ():
                made.load(model, rows)
            yield made


@pytest.fixture
def nowhere(tmp_path: Path) -> World:
    """Addresses at which nothing runs, for what must not go there anyway."""
    address = "http://127.0.0.1:9"
    return World(
        tmp_path,
        bytes,
        BytesIO(),
        s3=address,
        llm=address,
        ingest=address,
        postgres="postgresql://127.0.0.1:9/odw",
        http=address,
    )
