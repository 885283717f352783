"""Drawings of plans."""

from __future__ import annotations

import pytest

from engine.config import load_mapping
from engine.contract.component import Kind, Params, component
from engine.plan.compile import compile_file
from engine.plan.drawing import chains, mermaid, text
from engine.plan.model import Plan
from engine.registry import Registry
from tests.unit.idle import IdleSink, IdleSource, IdleTransform


@component(Kind.SOURCE, "numbers")
class Numbers(IdleSource[Params]):
    pass


@component(Kind.TRANSFORM, "double")
class Double(IdleTransform[Params]):
    pass


@component(Kind.SINK, "keep")
class Keep(IdleSink[Params]):
    pass


def plan() -> Plan:
    nodes = {
        "read-all": {"source": "numbers"},
        "other": {"source": "numbers"},
        "double": {"transform": "double", "input": "read-all"},
        "keep": {"sink": "keep", "input": ["double", "other"]},
        "copy": {"sink": "keep", "input": "read-all"},
    }
    mapping = {"pipelines": {"p": {"nodes": nodes, "dead_letters": {"forward": {"sink": "keep"}}}}}
    return compile_file(load_mapping(mapping), Registry({}).including(Numbers, Double, Keep))["p"]


def test_mermaid() -> None:
    assert mermaid(plan()) == (
        "flowchart LR\n"
        '  n0_read_all(["read-all<br/>source: numbers"])\n'
        '  n1_other(["other<br/>source: numbers"])\n'
        '  n2_double["double<br/>transform: double"]\n'
        '  n3_keep[("keep<br/>sink: keep")]\n'
        '  n4_copy[("copy<br/>sink: keep")]\n'
        "  n0_read_all --> n2_double\n"
        "  n2_double --> n3_keep\n"
        "  n1_other --> n3_keep\n"
        "  n0_read_all --> n4_copy\n"
        '  dead_letters[("dead letters<br/>sink: keep")]\n'
        "  n0_read_all -.-> dead_letters\n"
        "  n1_other -.-> dead_letters\n"
        "  n2_double -.-> dead_letters\n"
        "  n3_keep -.-> dead_letters\n"
        "  n4_copy -.-> dead_letters\n"
    )


def test_chains_show_where_the_nodes_read() -> None:
    assert chains(plan()) == "read-all; other; read-all → double; double, other → keep; read-all → copy"


def test_text() -> None:
    assert text(plan()) == (
        "p\n"
        "├─ read-all  source numbers\n"
        "│  ├─ double  transform double\n"
        "│  │  └─ keep  sink keep\n"
        "│  └─ copy  sink keep\n"
        "└─ other  source numbers\n"
        "   └─ keep (see above)\n"
        "dead letters → sink keep\n"
    )


@pytest.mark.slow
def test_a_pipeline_longer_than_the_stack_is_drawn() -> None:
    doubles = {f"t{number}": {"transform": "double"} for number in range(1_500)}
    mapping = {
        "pipelines": {"long": {"nodes": {"a": {"source": "numbers"}, **doubles, "z": {"sink": "keep"}}}}
    }

    drawn = text(compile_file(load_mapping(mapping), Registry({}).including(Numbers, Double, Keep))["long"])

    assert drawn.count("\n") == 1_503
