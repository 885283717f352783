"""The shape of the code: sizes, names and allowed broad handlers."""

from __future__ import annotations

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

from tests.parsed import modules

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_modules_are_small() -> None:
    lines = {name: module.lines for name, module in modules().items()}

    assert {name: count for name, count in lines.items() if count > 500} == {}
    assert median(count for count in lines.values() if count > 5) < 200


def test_functions_are_short() -> None:
    functions = {
        f"{name}:{function}": count
        for name, module in modules().items()
        for function, count in module.functions.items()
    }

    assert {name: count for name, count in functions.items() if count > 60} == {}
    ordered = sorted(functions.values())
    assert ordered[len(ordered) * 95 // 100] < 50


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "core"}

    assert [name for name in modules() if Path(name).stem in vague] == []


def test_only_the_command_line_prints() -> None:
    printing = {name for name, module in modules().items() if module.prints}

    assert {name for name in printing if not name.startswith("engine/cli/")} == set()


def test_modules_keep_no_state() -> None:
    """Top-level names bound to a fresh dict, list or set are constants in capitals."""
    found = [f"{name}:{bound}" for name, module in modules().items() for bound in module.state]

    assert found == []


ALLOWED_IN_CONNECTORS = (
    "engine.contract",
    "engine.errors",
    "engine.fault_injection",
    "engine.redaction",
    "engine.registry",
    "engine.service.appending",  # the duckdb sink appends rows in the same way as the service
    "engine.service.models",
    "engine.service.validation",  # the ingest sink checks records by the service's own rules before it sends
)


def _place(module: str) -> str:
    """The folder of `engine/` that a module is in, or its own name at the top."""
    return ".".join(module.split(".")[:2])


def test_connectors_import_only_contracts() -> None:
    found = {
        f"{name}: {imported}"
        for name, module in modules().items()
        if name.startswith("connectors/")
        for imported in module.imports
        if imported.split(".")[0] == "engine" and not imported.startswith(ALLOWED_IN_CONNECTORS)
    }

    assert found == set()


def test_places_of_the_engine_form_levels_without_circles() -> None:
    below: dict[str, set[str]] = {}
    for name, module in modules().items():
        dotted = name.removesuffix(".py").replace("/", ".")
        if dotted.startswith("engine.") and dotted != "engine.__init__":
            places = {_place(one) for one in module.imports if one.startswith("engine.")}
            below.setdefault(_place(dotted), set()).update(places - {_place(dotted)})

    levels = list(TopologicalSorter(below).static_order())  # raises CycleError for a circle

    assert len(levels) <= 25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("engine.cli", "pydantic yaml anyio rich structlog"),
        ("engine.state", "psycopg sqlite3"),
        ("engine.execution.runner", "httpx duckdb rich structlog tenacity"),
        ("connectors.simulated", "faker httpx"),
        ("connectors.s3", "aiobotocore aiohttp botocore"),
        ("connectors.llm", "openai httpx pypdfium2 docx"),
        ("connectors.consumption", "httpx aiohttp"),
        ("connectors.ingest", "httpx aiohttp duckdb starlette"),
        ("connectors.files", "httpx aiobotocore"),
        ("connectors.clickhouse", "httpx aiohttp"),
        ("connectors.duckdb", "duckdb"),
        ("connectors.http", "httpx aiohttp"),
        ("connectors.postgres", "psycopg"),
        ("connectors.sql", "adbc_driver_manager pyarrow"),
        ("connectors.generate", "faker"),
    ],
)
def test_importing_a_module_does_not_load_what_it_may_never_use(module: str, absent: str) -> None:
    code = f"import sys, {module}; print(sorted(set({absent.split()!r}) & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by their bare names, and refuses to begin when two are the same."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]

    assert sorted(names) == sorted(set(names))
