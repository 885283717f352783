"""`aliases:`: other names for pipelines, wherever one is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import engine
from engine.config import FileConfig, Overrides, load_mapping, select
from engine.errors import ConfigError

NODES = {"a": {"source": "numbers"}, "b": {"sink": "keep"}}


def load(aliases: object, overrides: Overrides | None = None, **followers: object) -> FileConfig:
    pipelines = {
        "blobs": {"params": {"n": 1, "m": 1}, "nodes": NODES, **followers},
        "logs": {"params": {"n": 1}, "nodes": NODES},
    }
    return load_mapping({"pipelines": pipelines, "aliases": aliases}, overrides=overrides)


def test_parameters_can_be_given_under_an_alias() -> None:
    overrides = Overrides(params={"blob-workflow": {"n": 2}}, param_texts=("extract-blob.m=3", "logs.n=4"))
    file = load({"blob-workflow": "blobs", "extract-blob": "blobs"}, overrides)
    file.check()
    assert dict(file.pipelines["blobs"].values) == {"n": 2, "m": 3}
    assert dict(file.pipelines["logs"].values) == {"n": 4}


def test_an_assignment_can_name_a_pipeline_by_its_alias() -> None:
    file = load({"x": "blobs"}, Overrides(assignments=("pipelines.x.retries=2",)))
    file.check()
    assert file.pipelines["blobs"].settings.retries == 2


def test_pipelines_to_run_next_can_be_named_by_their_alias() -> None:
    file = load({"next": "logs"}, on_complete=["next", "logs"], on_cancel="next")
    file.check()
    settings = file.pipelines["blobs"].settings
    assert (settings.on_complete, settings.on_cancel) == (("logs",), ("logs",))


def test_a_selection_takes_names_and_aliases_and_what_they_lead_to() -> None:
    file = load({"x": "blobs", "next": "logs"}, on_complete="next")
    assert list(select(file, ["x"]).pipelines) == ["blobs", "logs"]
    assert list(select(file, ["x", "blobs"]).pipelines) == ["blobs", "logs"]
    assert list(select(file, ["next"]).pipelines) == ["logs"]
    with pytest.raises(ConfigError, match="only: unknown pipeline `nxt`, did you mean `next`"):
        select(file, ["nxt"])


def test_the_library_selects_by_alias(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "version: 1\naliases: {x: p}\npipelines:\n"
        "  p: {nodes: {a: {source: blob, with: {records: 1}}, b: {sink: stdout}}}\n"
        "  broken: {nodes: {}}\n",
        encoding="utf-8",
    )
    assert list(engine.load(path, only=["x"])) == ["p"]


@pytest.mark.parametrize(
    ("aliases", "expected"),
    [
        ("{x: bolbs}", "f.yaml:2:14: aliases.x: unknown pipeline `bolbs`, did you mean `blobs`?"),
        (
            "{blobs: blobs}",
            "f.yaml:2:11: aliases.blobs: a pipeline is called `blobs` (give the alias another name)",
        ),
        (
            "{x: blobs, y: x}",
            "f.yaml:2:24: aliases.y: `x` is itself an alias (name the pipeline)",
        ),
        ("{x: 1}", "f.yaml:2:14: aliases.x: expected a valid string, got 1 (put quotes around it)"),
        (
            "{a b: blobs}",
            (
                "f.yaml:2:11: aliases.a b: an alias cannot be called `a b` (use letters, digits, _ and "
                "-, starting with a letter)"
            ),
        ),
        ("[x]", "f.yaml:2:10: aliases: expected a mapping, got a list"),
    ],
    ids=["unknown target", "clash", "alias of an alias", "number", "name", "list"],
)
def test_mistakes_are_reported_with_their_place(
    problems_of: Callable[..., list[str]], aliases: str, expected: str
) -> None:
    text = (
        f"version: 1\naliases: {aliases}\n"
        "pipelines:\n  blobs: {nodes: {a: {source: numbers}, b: {sink: keep}}}\n"
    )
    assert problems_of(text) == [expected]


def test_a_parameter_of_an_unknown_pipeline_gets_the_nearest_alias() -> None:
    file = load({"blob-workflow": "blobs"}, Overrides(param_texts=("blob-workflw.n=2",)))
    with pytest.raises(ConfigError, match="did you mean `blob-workflow`"):
        file.check()
