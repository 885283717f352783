"""The installed extras, those missing from a plain installation, and the command that adds them.

Nothing is imported here: a module counts as installed when the interpreter finds it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

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
"""The modules of each extra that the engine or its connectors import."""

SANDBOX_EXTRAS: Mapping[str, str] = {"s3": "sandbox", "llm": "service", "ingest": "service"}
"""The extra that each embedded service needs."""


def entry_points(group: str) -> EntryPoints:
    """Return the entry points of installed packages in a group."""
    return _all_entry_points().select(group=group)


@cache
def _all_entry_points() -> EntryPoints:
    # takes 20 ms to read a file of each installed package, so it is done once per process
    from importlib.metadata import entry_points as scan

    return scan()  # type: ignore[return-value]  # up to 3.11 of a class that selects in the same way


def missing_modules(extra: str) -> list[str]:
    """Return the missing modules of an extra; none for "" and for extras of other distributions."""
    return [module for module in EXTRAS.get(extra, ()) if not _is_installed(module)]


def install_command(extras: Collection[str]) -> str:
    """Return the command that installs these extras."""
    return f"pip install 'odw-engine[{','.join(dict.fromkeys(extras))}]'"


def extra_with(module: str) -> str:
    """Return the extra that installs a module, or ""; if several do, the first, which is the smallest."""
    top = module.partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules), "")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # an import hook hides it
        return False
