"""The engine's modules in Temporal's sandbox import no SDK, no HTTP and no database module."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "aiobotocore",
    "aiohttp",
    "aiostream",
    "anyio",
    "asyncpg",
    "botocore",
    "duckdb",
    "faker",
    "httpx",
    "openai",
    "orjson",
    "psycopg",
    "pydantic",
    "requests",
    "sqlalchemy",
    "sqlite3",
    "structlog",
    "urllib3",
    "yaml",
}
LOADED = "import json, sys; import {}; print(json.dumps(sorted(set(sys.modules))))"


def loaded(modules: str) -> set[str]:
    """What a fresh interpreter has loaded after importing these."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(modules)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


@pytest.mark.slow
def test_importing_the_workflows_loads_no_io_modules() -> None:
    # the SDK itself has its own needs, such as pydantic's absence; only what comes on top of it counts
    sdk = loaded("temporalio.workflow, temporalio.common, temporalio.exceptions")
    added = loaded("engine.temporal.workflows") - sdk
    ours = {name for name in added if name.partition(".")[0] == "engine"}

    assert {name.partition(".")[0] for name in added} & HEAVY == set()
    assert ours == {
        "engine",
        "engine.temporal",
        "engine.temporal.division",
        "engine.temporal.details",
        "engine.temporal.messages",
        "engine.temporal.outcomes",
        "engine.temporal.shards",
        "engine.temporal.workflows",
    }


@pytest.mark.parametrize("module", ["httpx", "sqlite3", "pydantic"])
def test_heavy_modules_can_be_listed(module: str) -> None:
    assert loaded(module) & HEAVY
