"""The main job as a user starts it: four pipelines from YAML to committed rows, over real protocols."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.service.discovery import find_running
from engine.service.server import running_service

ROOT = Path(__file__).parents[2]
TRUTH = json.loads((ROOT / "samples" / "truth.json").read_text("utf-8"))
GOOD = {path: fields for path, fields in TRUTH.items() if isinstance(fields, dict)}
BUCKET = "s3://unstructured-data/"
PIPELINES = ("blobs", "logs", "events", "unstructured_data")

ReadBlobs = Callable[[], Awaitable[list[dict[str, Any]]]]
Rows = dict[str, list[dict[str, Any]]]


def run_engine(
    *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine", *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def report_of(state: Path, *arguments: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    state.mkdir(exist_ok=True)
    report = state / "report.json"
    done = run_engine(
        "run", "pipelines.yaml", "--state-dir", str(state), "--report", str(report), "--verify", *arguments,
        env=env,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    reports: dict[str, Any] = json.loads(report.read_text("utf-8"))["pipelines"]
    for one in reports.values():
        assert {check["verdict"] for check in one["checks"]} == {"agrees"}
        assert one["verified"]
    return reports


def dead_letters(state: Path, env: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    listed = run_engine("dlq", "list", "--json", "--limit", "1000", "--state-dir", str(state), env=env)
    assert listed.returncode == 0, listed.stderr
    return [json.loads(line) for line in listed.stdout.splitlines()]


async def read_warehouse(state: Path) -> Rows:
    """Every table and the service's own dead letters, over HTTP."""
    async with running_service(state) as service, httpx.AsyncClient(base_url=service.url) as client:
        rows: Rows = {}
        for name in ("getBlobs", "getLogs", "getEvents", "getUnstructuredData", "getMedical"):
            page = (await client.get(f"/consumption/{name}")).json()
            assert page["total"] == len(page["items"])
            rows[name] = page["items"]
        rows["dead"] = (await client.get("/dead-letters", params={"limit": "10000"})).json()["items"]
        return rows


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def first_run(state: Path) -> dict[str, Any]:
    return report_of(state)


def test_four_pipelines_complete_and_their_counts_add_up(first_run: dict[str, Any]) -> None:
    assert tuple(first_run) == PIPELINES
    for report in first_run.values():
        tally = report["tally"]
        assert report["status"] == "completed"
        assert tally["read"] == tally["written"] + tally["dropped"] + tally["dead"]
        assert tally["accepted"] == 0
    assert [first_run[name]["tally"]["written"] for name in PIPELINES] == [1000, 1000, 1000, len(GOOD)]


async def test_medical_rows_equal_the_truth_by_document_id(first_run: dict[str, Any], state: Path) -> None:
    rows = await read_warehouse(state)

    staged = {row["id"]: row["source_file_path"] for row in rows["getUnstructuredData"]}
    assert len(staged) == len(TRUTH)
    assert {row["id"] for row in rows["getMedical"]} <= set(staged)
    extracted = {
        staged[row["id"]].removeprefix(BUCKET): {name: row[name] for name in fields}
        for row in rows["getMedical"]
        for fields in [GOOD[staged[row["id"]].removeprefix(BUCKET)]]
    }
    assert extracted == GOOD


async def test_corrupt_and_empty_documents_are_accounted_for(first_run: dict[str, Any], state: Path) -> None:
    letters = dead_letters(state)
    rows = await read_warehouse(state)

    corrupt = next(path for path, fate in TRUTH.items() if fate == "corrupt")
    assert [letter["engine"]["error_type"] for letter in letters] == ["CorruptDocument"]
    assert letters[0]["engine"]["record"]["source_file_path"] == f"{BUCKET}{corrupt}"
    assert [(letter["model"], letter["original_record"]["source_file_path"]) for letter in rows["dead"]] == [
        ("UnstructuredDataSource", f"[DLQ]{BUCKET}{corrupt}")
    ]
    assert first_run["unstructured_data"]["tally"]["drops"] == {"extract: empty document": 1}


@pytest.mark.series
async def test_the_same_run_again_adds_no_medical_row(first_run: dict[str, Any], state: Path) -> None:
    before = await read_warehouse(state)

    again = report_of(state, "--only", "unstructured_data")

    after = await read_warehouse(state)
    assert again["unstructured_data"]["tally"]["written"] == len(GOOD)
    assert sorted(row["id"] for row in after["getMedical"]) == sorted(
        row["id"] for row in before["getMedical"]
    )
    assert len(after["getUnstructuredData"]) == len(before["getUnstructuredData"])


async def _fail_and_replay(state: Path, env: Mapping[str, str], read: ReadBlobs) -> None:
    reports = report_of(state, "--only", "blobs", "--param", "blobs.fail_percentage=20", env=env)

    tally = reports["blobs"]["tally"]
    assert (tally["read"], tally["written"], tally["dead"]) == (1000, 800, 200)
    letters = dead_letters(state, env)
    assert len(letters) == 200
    assert all(letter["record"]["file_name"].startswith("[DLQ]") for letter in letters)
    assert len(await read()) == 800

    for expected in (1000, 1000):
        replayed = run_engine(
            "dlq", "replay", "--pipeline", "blobs", "--patch", "file_name=mended.txt",
            "--state-dir", str(state), env=env,
        )  # fmt: skip
        assert replayed.returncode == 0, replayed.stderr
        items = await read()
        assert len(items) == expected
        assert len({item["id"] for item in items}) == expected
        assert sum(item["file_name"] == "mended.txt" for item in items) == 200


@pytest.mark.slow
async def test_failures_die_exactly_and_a_replay_brings_them_in_once(tmp_path: Path) -> None:
    async def read() -> list[dict[str, Any]]:
        return (await read_warehouse(tmp_path))["getBlobs"]

    await _fail_and_replay(tmp_path, {}, read)


@contextmanager
def serving(state: Path) -> Iterator[str]:
    """Start `python -m engine serve` as a separate process; yield its URL."""
    command = [sys.executable, "-m", "engine", "serve", "--port", "0", "--state-dir", str(state)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while (address := find_running(state)) is None:
            assert process.poll() is None, "serve ended early"
            assert time.monotonic() < deadline, "serve did not come up"
            time.sleep(0.05)
        yield address.url
    finally:
        process.terminate()
        assert process.wait(300) == 0


@pytest.mark.series
async def test_failures_and_replay_with_a_service_started_by_hand(tmp_path: Path) -> None:
    with serving(tmp_path / "service") as url:

        async def read() -> list[dict[str, Any]]:
            async with httpx.AsyncClient(base_url=url) as client:
                return (await client.get("/consumption/getBlobs")).json()["items"]  # type: ignore[no-any-return]

        await _fail_and_replay(tmp_path / "engine", {"INGEST_URL": url}, read)
