"""The surface of `import engine` and `import connectors`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import connectors
import engine


@pytest.mark.parametrize("module", [engine, connectors], ids=["engine", "connectors"])
def test_every_public_name_can_be_imported(module: object) -> None:
    names = module.__all__  # type: ignore[attr-defined]

    assert names == sorted(names)
    for name in names:
        assert getattr(module, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        engine.nothing  # noqa: B018


@pytest.mark.slow
def test_importing_the_library_loads_nothing_heavy() -> None:
    heavy = (
        *("pydantic", "yaml", "anyio", "httpx", "structlog", "rich", "duckdb", "openai", "aiobotocore"),
        "opentelemetry",
    )
    code = f"import sys, engine, connectors; print([name for name in {heavy} if name in sys.modules])"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_plugin_of_pytest_loads_no_engine_before_it_is_used() -> None:
    code = "import sys, engine.testing.plugin; print([name for name in sys.modules if 'pydantic' in name])"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"
