"""The suite for third-party connectors: ours pass it, and it finds the faults of bad ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import BaseModel

import engine
from connectors.files import JsonlSink, JsonlSource
from connectors.transforms.filtering import Filter
from engine.cli import main
from engine.testing.contract import (
    SinkCase,
    SinkContract,
    SourceCase,
    SourceContract,
    TransformCase,
    TransformContract,
)

ROWS = [{"id": number, "name": f"n{number}"} for number in range(10)]


class TestJsonlSource(SourceContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> SourceCase:
        (tmp_path / "a.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ROWS) + b"{\n")
        params = {"path": f"{tmp_path}/*.jsonl", "page_records": 3}
        return SourceCase(component=JsonlSource, params=params, records=11, dead=1)


class TestFilter(TransformContract):
    @pytest.fixture
    def case(self) -> TransformCase:
        return TransformCase(component=Filter, params={"where": "id >= 4"}, given=ROWS, expected=ROWS[4:])


class TestJsonlSink(SinkContract):
    @pytest.fixture
    def case(self, tmp_path: Path) -> SinkCase:
        path = tmp_path / "out.jsonl"

        def arrived() -> Sequence[Any]:
            return [orjson.loads(line) for line in path.read_bytes().splitlines()]

        bad = {"id": object()}
        return SinkCase(component=JsonlSink, params={"path": str(path)}, given=ROWS, bad=bad, arrived=arrived)


class Careless(BaseModel):
    api_key: str = ""
    count: int = 3


@engine.component(engine.Kind.SOURCE, "careless", params=Careless)
class CarelessSource(engine.Source[Careless]):
    repeatable = True

    async def extract(self) -> AsyncGenerator[dict[str, Any], None]:
        for _ in range(self.params.count):
            yield {"id": os.urandom(4).hex()}

    def key(self, record: Any, ordinal: int) -> str:
        return "always the same"


@engine.component(engine.Kind.TRANSFORM, "rude")
class Rude(engine.Transform[engine.Params]):
    """Changes what it was given."""

    def apply(self, batch: engine.Batch) -> engine.Batch:
        for record in batch.records:
            record["seen"] = True
        return batch


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("test_specification_describes_component_and_parameters", "docstring"),
        ("test_misspelt_parameters_are_refused", "engine.Params|DID NOT RAISE"),
        ("test_what_is_named_like_a_secret_is_typed_as_one", "pydantic.SecretStr"),
        ("test_a_run_reads_everything_under_distinct_keys", "same key"),
        ("test_a_repeatable_source_gives_the_same_records_again", "always the same"),
    ],
)
def test_the_suite_finds_what_is_wrong_with_a_source(method: str, said: str) -> None:
    case = SourceCase(component=CarelessSource)
    with pytest.raises((AssertionError, pytest.fail.Exception), match=said):
        getattr(SourceContract(), method)(case)


@engine.component(engine.Kind.SOURCE, "reusing")
class Reusing(engine.Source[engine.Params]):
    """Yields one record, changed each time."""

    async def extract(self) -> AsyncGenerator[dict[str, Any], None]:
        record = {}
        for number in range(3):
            record["id"] = number
            yield record


def test_the_suite_finds_a_source_that_reuses_a_record() -> None:
    with pytest.raises(AssertionError, match="yield a new record each time"):
        SourceContract().test_a_run_reads_everything_under_distinct_keys(SourceCase(component=Reusing))


def test_the_suite_finds_a_transform_that_changes_its_input() -> None:
    case = TransformCase(component=Rude, given=ROWS)
    with pytest.raises(AssertionError, match="change copies"):
        TransformContract().test_what_it_was_given_stays_as_it_was(case)


@pytest.mark.slow
def test_a_new_connector_is_built_installed_tested_and_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("setuptools", minversion="77")  # else it cannot build wheels by itself
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--connector", "my-weather"]) == 0
    package, site = tmp_path / "odw-my-weather", tmp_path / "site"
    files = [path for path in package.iterdir() if path.suffix in (".py", ".toml")]
    assert sum(len(path.read_text().splitlines()) for path in files) < 60
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    _succeeds([*pip, "--target", str(site), str(package)], package)

    environ = {**os.environ, "PYTHONPATH": f"{site}:{Path(engine.__file__).parents[1]}"}
    tests = _succeeds([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], package, environ)
    assert " passed" in tests
    assert "failed" not in tests

    run = [sys.executable, "-m", "engine", "run", "example.yaml", "--log-format", "none"]
    assert '{"id":4,"name":"my-weather 4"}' in _succeeds(run, package, environ)
    shown = _succeeds([sys.executable, "-m", "engine", "connectors", "show", "my-weather"], package, environ)
    assert "How many records to read" in shown


def test_a_new_connector_needs_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["init", "--connector", "files"]) == 2
    assert "there is a source 'files' already: choose another name" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _succeeds(command: list[str], folder: Path, environ: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_misspelt_connection_keys_of_outside_connectors_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.delitem(sys.modules, "outside_connector", raising=False)
    Path("outside_connector.py").write_text(
        "import engine\nfrom pydantic import BaseModel\n\n\nclass Place(BaseModel):\n    url: str\n"
        "    timeout: float = 1\n\n\n"
        '@engine.component(engine.Kind.SINK, "outside", connection=Place)\nclass Outside(engine.Sink):\n'
        '    """Goes nowhere."""\n\n    async def write(self, batch):\n        pass\n'
    )
    Path("pipelines.yaml").write_text(
        "version: 1\nconnections: {place: {url: 'http://x', timeot: 3}}\npipelines:\n  p:\n    nodes:\n"
        "      read: {source: jsonl, with: {path: a.jsonl}}\n"
        "      save: {sink: 'outside_connector:Outside', with: {connection: place}}\n"
    )

    assert main(["validate"]) == 2
    assert "pipelines.yaml:2:40" in (said := capsys.readouterr().err)
    assert "unknown key `timeot`, did you mean `timeout`?" in said
    assert main(["connectors", "show", "outside_connector:Outside"]) == 0
    assert "Goes nowhere." in capsys.readouterr().out
