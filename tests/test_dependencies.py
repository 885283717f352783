"""docs/dependencies.md, pyproject.toml and the imports agree."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import parsed

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OURS = {"engine", "connectors", "benchmarks", "tests", "samples"}
# needed at run time by what we import, though we import nothing of theirs ourselves
INDIRECT = {"flask", "flask-cors"}
# one package for the modules of several distributions, of which we name these
SHARED = {"opentelemetry": {"opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http"}}
# what an installation may have or not
FEATURES = tuple(
    set(PROJECT["optional-dependencies"]) - {"all", "test", "dev", "docs", "samples", "benchmarks"}
)


def normal(name: str) -> str:
    return re.split(r"[\[<>=!~; ]", name, maxsplit=1)[0].lower().replace("_", "-")


def declared(*extras: str, here: bool = False) -> set[str]:
    """Distributions of pyproject.toml; `here`: only those for this version of Python."""
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    known = [Requirement(one) for group in groups for one in group]
    wanted = [one for one in known if not here or one.marker is None or one.marker.evaluate()]
    return {normal(one.name) for one in wanted} - {"odw-engine"}


def imported() -> set[str]:
    """Distributions whose modules the packages import anywhere."""
    names = {name.partition(".")[0] for module in parsed.modules().values() for name in module.imports}
    known = packages_distributions()
    outside = names - {""} - OURS - set(sys.stdlib_module_names)
    shared = {one for module in outside for one in SHARED.get(module, ())}
    return shared | {normal(known[module][0]) for module in outside - set(SHARED) if module in known}


def documented(heading: str) -> set[str]:
    page = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    section = page.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return {normal(name) for name in re.findall(r"^\| ([\w.-]+) \|", section, re.M)} - {"distribution"}


@pytest.mark.slow
def test_everything_the_packages_import_is_declared_and_nothing_else() -> None:
    # pydantic-core is pydantic's own and pinned by it; uvloop comes with uvicorn[standard]; only
    # pytest itself loads its plugin
    elsewhere = {"pydantic-core", "uvloop", "pytest"}
    assert imported() - elsewhere | INDIRECT == declared(*FEATURES, here=True)


def test_every_run_time_dependency_is_documented() -> None:
    assert documented("Needed to run") == declared()


def test_every_dependency_of_a_feature_is_documented() -> None:
    assert documented("Needed for an extra") == declared(*FEATURES) - declared()


def test_every_development_dependency_is_documented() -> None:
    assert documented("Needed to test and to develop") == declared("test", "docs", "dev") - declared(
        *FEATURES
    )


def test_every_dependency_of_the_samples_is_documented() -> None:
    assert documented("Needed to regenerate the samples") == declared("samples") - declared()


def test_every_dependency_of_the_benchmarks_is_documented() -> None:
    assert documented("Needed for comparative benchmarks") == declared("benchmarks") - declared()


def test_constraints_pin_every_dependency_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]

    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", pin) for pin in pins)
    assert declared("test", "dev", "docs", "samples", *FEATURES) <= {normal(pin) for pin in pins}
