"""The shape of the code: sizes, names and allowed broad handlers."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for folder in ("engine", "connectors") for path in (ROOT / folder).rglob("*.py"))


@cache
def trees() -> dict[str, ast.Module]:
    """What every module holds; it takes seconds, so that only the process that needs it parses them."""
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8")) for path in MODULES}


@cache
def lines() -> dict[str, int]:
    return {path.relative_to(ROOT).as_posix(): path.read_text("utf-8").count("\n") for path in MODULES}


@cache
def functions() -> dict[str, int]:
    return {
        f"{name}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_modules_are_small() -> None:
    assert {name: count for name, count in lines().items() if count > 500} == {}
    assert median(count for count in lines().values() if count > 5) < 200


def test_functions_are_short() -> None:
    assert {name: count for name, count in functions().items() if count > 60} == {}
    ordered = sorted(functions().values())
    assert ordered[len(ordered) * 95 // 100] < 50


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "core"}

    assert [name for name in trees() if Path(name).stem in vague] == []


def test_only_the_command_line_prints() -> None:
    printing = {
        name
        for name, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    }

    assert {name for name in printing if not name.startswith("engine/cli/")} == set()


def test_modules_keep_no_state() -> None:
    """Top-level names bound to a fresh dict, list or set are constants in capitals."""
    mutable = (ast.Dict, ast.List, ast.Set)
    found = [
        f"{name}:{target.id}"
        for name, tree in trees().items()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, mutable)
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.strip("_").isupper() and target.id != "__all__"
    ]

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


def _imported(tree: ast.Module) -> set[str]:
    """Modules that a file imports, type-checking imports included."""
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def _place(module: str) -> str:
    """The folder of `engine/` that a module is in, or its own name at the top."""
    return ".".join(module.split(".")[:2])


def test_connectors_import_only_contracts() -> None:
    found = {
        f"{name}: {module}"
        for name, tree in trees().items()
        if name.startswith("connectors/")
        for module in _imported(tree)
        if module.split(".")[0] == "engine" and not module.startswith(ALLOWED_IN_CONNECTORS)
    }

    assert found == set()


def test_places_of_the_engine_form_levels_without_circles() -> None:
    below: dict[str, set[str]] = {}
    for name, tree in trees().items():
        module = name.removesuffix(".py").replace("/", ".")
        if module.startswith("engine.") and module != "engine.__init__":
            places = {_place(one) for one in _imported(tree) if one.startswith("engine.")}
            below.setdefault(_place(module), set()).update(places - {_place(module)})

    levels = list(TopologicalSorter(below).static_order())  # raises CycleError for a circle

    assert len(levels) <= 25


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
