"""`serve FILE`: pipelines started over HTTP, in the process that serves the warehouse."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

PIPELINES = """\
version: 1
connections: {warehouse: {url: sandbox}}
pipelines:
  blobs:
    params: {batch_size: 1000, fail_percentage: 0.0}
    nodes:
      extract: {source: blob, with: {records: "${params.batch_size}"}}
      simulate:
        transform: simulate_failures
        with: {percentage: "${params.fail_percentage}", field: file_name}
      load: {sink: ingest, with: {connection: warehouse, model: BlobSource, records: "${params.batch_size}"}}
aliases: {blob-workflow: blobs, extract-blob: blobs}
"""
PATIENCE = 300


@pytest.fixture
def served(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The addresses of the service and its views."""
    (tmp_path / "pipelines.yaml").write_text(PIPELINES, encoding="utf-8")
    ports = ["--port", "0", "--topics-port", "0", "--files-port", "0"]
    command = [sys.executable, "-m", "engine", "serve", "pipelines.yaml", *ports]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(3)]
            found = [re.search(r"http://[0-9.:]+", line) for line in lines]
            files, topics, service = (match.group() for match in found if match is not None)
            yield {"files": files, "topics": topics, "service": service}
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0


def until_ended(url: str, run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        rows = httpx.get(f"{url}/workflows/list", trust_env=False).json()
        (row,) = (one for one in rows if one["run_id"] == run_id)
        if not row["status"].endswith("RUNNING"):
            found: dict[str, Any] = row
            return found
        time.sleep(0.1)
    raise AssertionError("the run did not end")


def test_a_trigger_starts_a_real_run_with_its_parameters(served: dict[str, str]) -> None:
    url = served["service"]
    started = httpx.get(
        f"{url}/consumption/extract-blob?batch_size=50&fail_percentage=20&tag=Blob", timeout=PATIENCE
    ).json()
    assert started["success"]
    row = until_ended(url, started["run_id"])
    assert row["status"] == "WORKFLOW_EXECUTION_STATUS_COMPLETED"
    assert row["name"].startswith("blob-workflow")
    assert row["name"] == started["workflow_id"]
    assert httpx.get(f"{url}/consumption/getBlobs").json()["total"] == 40
    topic = f"{served['topics']}/topic/BlobSourceDeadLetterQueue/messages?partition=0&offset=0&count=100"
    assert len(httpx.get(topic).json()) == 10

    # the original's default, and more than the sink takes in a request (1,024): halved until it fits
    plain = httpx.get(f"{url}/consumption/extract-blob", timeout=PATIENCE).json()
    assert plain["params"] == {"batch_size": "100"}
    large = httpx.get(f"{url}/api/extract-blob?batch_size=3000", timeout=PATIENCE).json()
    assert large["params"] == {"batch_size": "750"}
    assert httpx.get(f"{url}/consumption/extract-blob?batch_size=many").status_code == 400
    until_ended(url, large["run_id"])

    # the sample files can be opened without a key, each with its type
    listed = httpx.get(f"{served['files']}/unstructured-data?list-type=2&max-keys=1000").text
    key = next(one for one in re.findall("<Key>([^<]+)</Key>", listed) if one.endswith(".txt"))
    file = httpx.get(f"{served['files']}/unstructured-data/{quote(key)}")
    assert (file.status_code, file.headers["content-type"].partition(";")[0]) == (200, "text/plain")
    assert httpx.put(f"{served['files']}/unstructured-data/{quote(key)}", content=b"x").status_code == 403
