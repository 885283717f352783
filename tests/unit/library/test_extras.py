"""A missing extra is named with the command that installs it."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from engine.cli import main
from engine.cli.exit_codes import ExitCode
from engine.contract.component import Kind
from engine.extras import EXTRAS, SANDBOX_EXTRAS, extra_with, install_command, missing_modules
from engine.registry import Registry
from engine.sandbox.server import SERVICES

ROOT = Path(__file__).parents[3]
OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
OF_NO_MODULE = {"odw-engine", "backports.zstd"}  # the latter is Python's own from 3.14 on
FOR_DEVELOPERS = {"all", "test", "dev", "docs", "samples", "benchmarks"}
ONE = """\
version: 1
pipelines:
  one:
    nodes:
      read: {READ}
      keep: {sink: KEEP}
"""
STDOUT = "stdout"
LINES = "source: jsonl, with: {path: in.jsonl}"


def block(monkeypatch: pytest.MonkeyPatch, extra: str) -> None:
    """Let no module of an extra be found."""
    for module in EXTRAS[extra]:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("verb", ["validate", "run"])
@pytest.mark.parametrize(
    ("extra", "read", "keep", "subject"),
    [
        ("s3", 'source: s3, with: {pattern: "s3://bucket/*", connection: sandbox}', STDOUT, "`s3`"),
        ("simulated", "source: blob", STDOUT, "`blob`"),
        ("ingest", LINES, "ingest, with: {model: BlobSource, connection: sandbox}", "`ingest`"),
        ("service", LINES, "ingest, with: {model: BlobSource, connection: sandbox}", "the sandbox"),
        (
            "sandbox",
            'source: s3, with: {pattern: "s3://bucket/*", connection: sandbox}',
            STDOUT,
            "the sandbox",
        ),
    ],
)
def test_a_node_without_its_extra_names_the_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    extra: str,
    read: str,
    keep: str,
    subject: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(ONE.replace("READ", read).replace("KEEP", keep))
    assert main(["validate"]) == 0
    block(monkeypatch, extra)

    assert main([verb]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert f"{subject} needs packages that are not installed ({', '.join(EXTRAS[extra])})" in said
    assert f"pip install 'odw-engine[{extra}]'" in said
    assert not (tmp_path / ".odw").exists()


def test_every_other_problem_of_that_node_is_found_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(
        ONE.replace("READ", "source: blob, with: {recods: 1}").replace("KEEP", STDOUT)
    )
    block(monkeypatch, "simulated")

    assert main(["validate"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "odw-engine[simulated]" in said
    assert "recods" in said


@pytest.mark.slow
def test_components_without_an_extra_run_without_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(ONE.replace("READ", LINES).replace("KEEP", STDOUT))
    (tmp_path / "in.jsonl").write_text('{"n": 1}\n')
    for extra in EXTRAS:
        block(monkeypatch, extra)

    assert main(["run", "--quiet"]) == 0
    assert capfd.readouterr().out == '{"n":1}\n'


def test_a_verb_without_its_extra_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)

    assert main(["serve", "--port", "0", "--state-dir", str(tmp_path)]) == ExitCode.USAGE
    assert "duckdb is not installed: pip install 'odw-engine[service]'" in capsys.readouterr().err


def test_every_extra_of_a_component_is_known() -> None:
    registry = Registry.installed()
    declared = {registry.get(kind, name).extra for kind, name in registry.names()} - {""}
    assert declared <= set(EXTRAS)
    assert {extra for extra in declared if missing_modules(extra)} == set()
    assert registry.get(Kind.SOURCE, "jsonl").extra == ""


@pytest.mark.slow
def test_the_table_is_what_the_project_declares() -> None:
    assert set(EXTRAS) == set(OPTIONAL) - FOR_DEVELOPERS
    assert set(SANDBOX_EXTRAS) == set(SERVICES)
    assert set(SANDBOX_EXTRAS.values()) <= set(EXTRAS)
    known = packages_distributions()
    for extra, modules in EXTRAS.items():
        declared = {
            re.split(r"[\[<>=;]", one)[0].lower().replace("_", "-") for one in OPTIONAL[extra]
        } - OF_NO_MODULE
        brought: set[str] = set()
        for module in modules:
            # several distributions may share a package, as those of OpenTelemetry do
            names = [one.lower().replace("_", "-") for one in known[module]]
            brought |= set(names) & declared or {names[0]}
        assert brought == declared, extra


def test_all_has_every_extra() -> None:
    (everything,) = OPTIONAL["all"]
    assert everything == f"odw-engine[{','.join(name for name in OPTIONAL if name not in FOR_DEVELOPERS)}]"


def test_a_module_leads_to_its_extra() -> None:
    assert extra_with("psycopg.rows") == "postgres"
    assert extra_with("httpx") == "ingest"
    assert extra_with("yaml") == ""
    assert install_command(["s3", "sandbox", "s3"]) == "pip install 'odw-engine[s3,sandbox]'"
