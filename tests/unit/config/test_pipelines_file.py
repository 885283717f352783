"""`pipelines.yaml`: it compiles, its comments are true, and it is cheap to check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import Overrides, load_file
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.registry import Registry

FILE = Path(__file__).parents[3] / "pipelines.yaml"
PARAMS = {"batch_size", "fail_percentage"}
SDKS = (
    "aiobotocore",
    "aiohttp",
    "botocore",
    "duckdb",
    "faker",
    "httpx",
    "moto",
    "openai",
    "rich",
    "structlog",
)


def plans(overrides: Overrides | None = None, **environ: str) -> dict[str, Plan]:
    return compile_file(load_file(FILE, environ=environ, overrides=overrides), Registry.installed())


@pytest.mark.slow
def test_has_the_four_pipelines_with_their_parameters() -> None:
    assert {name: set(plan.params) for name, plan in plans().items()} == {
        "blobs": PARAMS,
        "logs": PARAMS,
        "events": PARAMS,
        "unstructured_data": {*PARAMS, "source_file_pattern", "processing_instructions"},
    }


@pytest.mark.slow
def test_runs_on_the_sandbox_unless_told_otherwise() -> None:
    assert {name: plan.sandbox_services for name, plan in plans().items()} == {
        "blobs": {"ingest"},
        "logs": {"ingest"},
        "events": {"ingest"},
        "unstructured_data": {"ingest", "s3", "llm"},
    }
    real = plans(
        INGEST_URL="http://localhost:4200",
        S3_ENDPOINT="https://s3.amazonaws.com",
        OPENAI_BASE_URL="https://api.openai.com/v1",
    )
    assert {name: plan.sandbox_services for name, plan in real.items()} == dict.fromkeys(real, frozenset())


def test_an_address_of_its_own_wins_over_a_key_that_reads_sandbox() -> None:
    plan = plans(
        INGEST_URL="http://127.0.0.1:4200",
        S3_ENDPOINT="http://127.0.0.1:9000",
        S3_ACCESS_KEY="sandbox",
        S3_SECRET_KEY="sandbox",
        OPENAI_BASE_URL="http://127.0.0.1:8000/v1",
        OPENAI_API_KEY="sandbox",
    )["unstructured_data"]

    assert plan.sandbox_services == frozenset()
    lake, model = plan.node("files").connection_model(), plan.node("extract").connection_model()
    assert lake is not None
    assert model is not None
    assert lake.access_key.get_secret_value() == "sandbox"  # type: ignore[attr-defined]
    assert model.api_key.get_secret_value() == "sandbox"  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_names_of_the_workflows_and_of_their_triggers_work_too() -> None:
    texts = ("extract-unstructured-data.batch_size=7", "unstructured-data-workflow.fail_percentage=1")
    plan = plans(Overrides(params={"blob-workflow": {"batch_size": 5}}, param_texts=texts))
    assert plan["blobs"].params["batch_size"] == 5
    changed = plan["unstructured_data"].params
    assert (changed["batch_size"], changed["fail_percentage"]) == (7, 1)
    file = load_file(FILE, environ={})
    assert {file.resolve_alias(f"extract-{name}") for name in ("blob", "logs", "events")} == {
        "blobs",
        "logs",
        "events",
    }


@pytest.mark.parametrize("name", ["blobs", "logs", "events"])
def test_batch_size_and_fail_percentage_reach_their_nodes(name: str) -> None:
    texts = (f"{name}.batch_size=50", f"{name}.fail_percentage=20")
    plan = plans(Overrides(param_texts=texts))[name]
    assert plan.node("extract").params.model_dump()["records"] == 50
    assert plan.node("simulate").params.model_dump()["percentage"] == 20


def test_parameters_of_the_documents_reach_their_nodes() -> None:
    given = {
        "source_file_pattern": "s3://bucket/*",
        "processing_instructions": "Read well.",
        "batch_size": 3,
        "fail_percentage": 10,
    }
    plan = plans(Overrides(params={"unstructured_data": given}))["unstructured_data"]
    assert plan.node("files").params.model_dump()["pattern"] == "s3://bucket/*"
    assert plan.node("rows").params.model_dump()["processing_instructions"] == "Read well."
    assert plan.node("simulate").params.model_dump()["percentage"] == 10
    extract = plan.node("extract").params.model_dump()
    assert (extract["instructions"], extract["batch_size"]) == ("Read well.", 3)


@pytest.mark.slow
def test_checking_it_imports_no_sdk() -> None:
    code = (
        "import sys\n"
        "from engine.config import load_file\n"
        "from engine.plan.compile import compile_file\n"
        "from engine.registry import Registry\n"
        f"compile_file(load_file({str(FILE)!r}, environ={{}}), Registry.installed())\n"
        f"print([name for name in {SDKS!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"
