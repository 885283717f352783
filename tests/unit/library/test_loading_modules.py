"""Libraries are imported lazily by tasks that know nothing of each other."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path

import anyio
import pytest

from engine.contract.imports import load_modules

pytestmark = pytest.mark.anyio


class SlowDisk(MetaPathFinder):
    """Looks so long for a package that meanwhile another thread looks for a module of it."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.package:
            time.sleep(0.1)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend_name: str) -> Iterator[str]:
    """A package that imports its own module `inner`."""
    name = f"imports_its_own_{anyio_backend_name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(f"from {name} import inner\n")
    (tmp_path / name / "inner.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [SlowDisk(name), *sys.meta_path])
    yield name
    for module in (f"{name}.inner", name):
        sys.modules.pop(module, None)


async def test_a_package_and_its_module_load_at_once(package: str) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(load_modules, package)
        group.start_soon(load_modules, f"{package}.inner")
    assert f"{package}.inner" in sys.modules


async def test_a_missing_module_raises_each_time() -> None:
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
            await load_modules("json", "no_such_module_at_all")
