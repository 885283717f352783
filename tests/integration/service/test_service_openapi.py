"""`/openapi.json` is accurate: no request causes a server error or an undocumented answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import anyio.to_thread
import pytest

from engine.service.auth import hash_of
from engine.service.server import running_service
from engine.service.settings import ServiceSettings

PATHS = (
    "LogSource|/sql|snapshots|dead-letters|admin|consumption/get(Logs|Medical)|deliveries|workflows|health"
)
"""One path of each kind: the others differ in the name of a table only."""
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def requests_of(url: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("schemathesis is not installed: pip install -e '.[dev]'")
    command = [program, "run", f"{url}/openapi.json", "--checks", CHECKS, "--phases", "coverage,fuzzing"]
    # one worker: the threads of several share a counter of Python's parser, which fails with SystemError
    bounds = [
        "--max-examples",
        "3",
        "--seed",
        "1",
        "--generation-deterministic",
        "--workers",
        "1",
        "--no-color",
    ]
    bounds += ["--include-path-regex", PATHS]
    return subprocess.run(
        [*command, *bounds, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.series
async def test_no_request_has_an_undocumented_answer(tmp_path: Path) -> None:
    settings = ServiceSettings(admin_api_key=hash_of("aa.bb"))
    async with running_service(tmp_path / ".odw", settings=settings) as service:
        done = await anyio.to_thread.run_sync(
            lambda: requests_of(service.url, tmp_path, "--header", "Authorization: Bearer aa.bb")
        )
    assert done.returncode == 0, done.stdout[-3_000:]
    assert "passed" in done.stdout
