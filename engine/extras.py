"""What is installed, what a plain installation leaves out, and the command that adds it.

Nothing is imported here: a module counts as installed when the interpreter finds it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

__all__ = ["EXTRAS", "SANDBOX_EXTRAS", "entry_points", "extra_with", "install_command", "missing_modules"]

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "ingest": ("aiohttp", "httpx", "httpx_aiohttp"),
    "s3": (
        "aiobotocore", "aiohappyeyeballs", "aiohttp", "aiostream", "botocore", "brotli",
        "charset_normalizer", "docx", "httptools", "puremagic", "pypdfium2", "yarl",
    ),
    "documents": ("PIL", "pptx", "python_calamine", "striprtf"),
    "llm": ("genai_prices", "httpx", "httpx_aiohttp", "json_repair", "openai"),
    "simulated": ("faker",),
    "service": ("cronsim", "duckdb", "httpx", "jinja2", "markupsafe", "starlette", "uvicorn"),
    "http": ("aiohttp", "httpx", "httpx_aiohttp"),
    "tables": ("duckdb",),
    "sandbox": ("flask", "flask_cors", "moto", "werkzeug"),
    "temporal": ("temporalio",),
    "jwt": ("cryptography", "jwt"),
    "postgres": ("psycopg",),
    "clickhouse": ("aiohttp", "httpx", "httpx_aiohttp"),
    "validate": ("jsonschema_rs",),
    "parquet": ("pyarrow",),
    "tracing": ("opentelemetry",),
    "sql": ("adbc_driver_manager", "pyarrow"),
}  # fmt: skip
"""The modules that each extra brings and that the engine or its connectors import."""

SANDBOX_EXTRAS: Mapping[str, str] = {"s3": "sandbox", "llm": "service", "ingest": "service"}
"""The extra that each embedded service needs."""


def entry_points(group: str) -> EntryPoints:
    """Return what installed packages offer in a group of entry points."""
    return _all_entry_points().select(group=group)


@cache
def _all_entry_points() -> EntryPoints:
    # it takes 20 ms, since each installed package has a file to be read: once a process is enough
    from importlib.metadata import entry_points as scan

    return scan()  # type: ignore[return-value]  # up to 3.11 of a class that selects in the same way


def missing_modules(extra: str) -> list[str]:
    """The modules of an extra that are not installed; none for "" and for extras of other distributions."""
    return [module for module in EXTRAS.get(extra, ()) if not _is_installed(module)]


def install_command(extras: Collection[str]) -> str:
    """Return the command that installs these extras."""
    return f"pip install 'odw-engine[{','.join(dict.fromkeys(extras))}]'"


def extra_with(module: str) -> str:
    """The extra that brings a module, "" when none does: the first one, the smallest, where several do."""
    top = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), "")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # somebody keeps it from being found
        return False
