"""The list of public modules in the guide, and other imports of the guides."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def listed() -> list[str]:
    """The modules in the table of the guide."""
    section = (ROOT / "docs" / "library.md").read_text("utf-8").partition("## Public modules\n")[2]
    return re.findall(r"^\| `([\w.]+)` \|", section, re.M)


def modules_of(name: str) -> list[str]:
    """A public module, or those of `engine.contract`."""
    if name != "engine.contract":
        return [name]
    package = import_module(name)
    return [f"{name}.{module.name}" for module in iter_modules(package.__path__)]


PUBLIC = [module for name in listed() for module in modules_of(name)]


def imported_by(page: Path) -> set[str]:
    """Our modules that the Python examples of a page import."""
    found: set[str] = set()
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        for node in ast.walk(ast.parse(dedent(block), feature_version=(3, 11))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module or "")
    return {name for name in found if name.partition(".")[0] in ("engine", "connectors")}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_module_says_what_it_has(name: str) -> None:
    module = import_module(name)

    assert module.__all__
    assert [public for public in module.__all__ if not hasattr(module, public)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_guides_import_public_modules_only(page: Path) -> None:
    assert imported_by(page) - set(PUBLIC) == set()


def test_the_list_is_sorted_and_complete() -> None:
    engine = [name for name in listed() if name.startswith("engine")]
    rest = [name for name in listed() if name.startswith("connectors")]
    assert listed() == [*sorted(engine), *sorted(rest)]
    assert {"engine", "engine.contract", "engine.errors", "engine.testing", "connectors"} <= set(listed())
