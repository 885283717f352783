"""The branches of routers in a plan: checked by name, drawn, and part of its identity."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import ConfigError
from engine.plan.drawing import mermaid, text
from tests.unit.kernel.routed import plan_with

ROUTE = {"branches": {"eu": "n > 5", "us": "n > 2"}, "else": "rest"}


def nodes(route: dict[str, Any] | None = None, **behind: Any) -> dict[str, Any]:
    return {"read": {"source": "numbers"}, "split": {"route": route or ROUTE}, **behind}


def keep(*inputs: str, **options: Any) -> dict[str, Any]:
    return {"sink": "keep", "input": list(inputs), **options}


def problems(given: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan_with(given)
    return [f"{one.path}: {one.message} ({one.hint})" for one in caught.value.problems]


def test_a_node_reads_the_branches_that_it_names() -> None:
    plan = plan_with(nodes(a=keep("split.eu"), b=keep("split.us", "split.rest")))

    assert plan.node("a").inputs == plan.node("b").inputs == ("split",)
    assert plan.node("b").input_branches == {"split": ("us", "rest")}
    assert plan.node("b").input_names == ["split.us", "split.rest"]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (
            nodes(a=keep("split.ress"), b=keep("split.us", "split.rest", "split.eu")),
            "pipelines.test.nodes.a.input.0: unknown branch of `split` `ress`, did you mean `rest`? ()",
        ),
        (
            nodes(a=keep("split.eu"), b=keep("split.us")),
            (
                "pipelines.test.nodes.split: no node reads the branch `rest` of `split` "
                "(name it in a node: input: split.rest, or drop its records: drop: [rest])"
            ),
        ),
        (
            nodes(a={"sink": "keep"}),
            (
                "pipelines.test.nodes.a: `split` has branches, and one has to be named: `eu`, `us`, `rest` "
                "(input: split.eu)"
            ),
        ),
        (
            nodes(ROUTE | {"drop": ["us"]}, a=keep("split.eu", "split.rest", "split.us")),
            (
                "pipelines.test.nodes.a.input.2: the records of the branch `us` of `split` are dropped "
                "(take it out of `drop` to read it)"
            ),
        ),
        (
            nodes(a=keep("read.x"), b=keep("split.eu", "split.us", "split.rest")),
            "pipelines.test.nodes.a.input.0: `read` has no branches (write input: read)",
        ),
        (
            nodes(a=keep("spilt.eu"), b=keep("split.eu", "split.us", "split.rest")),
            "pipelines.test.nodes.a.input.0: unknown input `spilt`, did you mean `split`? ()",
        ),
        (
            nodes(a=keep("split.eu", "split.eu"), b=keep("split.us", "split.rest")),
            "pipelines.test.nodes.a.input.1: `split.eu` is named twice ()",
        ),
        (
            nodes(ROUTE | {"drop": ["ue"]}, a=keep("split.eu")),
            "pipelines.test.nodes.split.route: `drop` names `ue`, which is not a branch ()",
        ),
    ],
)
def test_a_branch_that_does_not_fit_is_a_problem(given: dict[str, Any], problem: str) -> None:
    assert problem in problems(given)


def test_branches_of_which_each_record_takes_one_can_be_merged() -> None:
    plan_with(
        nodes(
            a={"map": {"drop": ["x"]}, "input": "split.eu"},
            b={"map": {"drop": ["y"]}, "input": "split.us"},
            again={"route": {"branches": {"c": "n > 1"}, "else": "d"}, "input": ["a", "b", "split.rest"]},
            load=keep("again.c", "again.d"),
        )
    )


def test_a_branch_and_what_comes_from_before_it_cannot_be_merged() -> None:
    found = problems(nodes(a=keep("split.eu", "read"), b=keep("split.us", "split.rest")))

    assert "the records of `read` reach `a` with the same keys twice, through `split.eu`, `read`" in found[0]


def test_merged_branches_are_no_longer_distinguished() -> None:
    found = problems(
        nodes(
            both={"map": {"drop": ["x"]}, "input": ["split.eu", "split.us"]},
            load=keep("both", "split.us", "split.rest"),
        )
    )

    assert "through `both`, `split.us`" in found[0]


def test_branches_that_may_share_records_need_a_suffix_to_be_merged() -> None:
    route = {"branches": {"a": "n > 5", "b": "n > 2"}, "match": "all"}
    suffixed = {"map": {"drop": ["x"]}, "input": "split.b", "key_suffix": "/b"}

    assert "through `split.a`, `split.b`" in problems(nodes(route, load=keep("split.a", "split.b")))[0]
    plan_with(nodes(route, other=suffixed, load=keep("split.a", "other")))


def test_branches_are_on_the_arrows_of_a_drawing() -> None:
    plan = plan_with(nodes(a=keep("split.eu"), b=keep("split.us", "split.rest")))

    assert '  n1_split -->|"eu"| n2_a' in mermaid(plan).splitlines()
    assert '  n1_split -->|"us, rest"| n3_b' in mermaid(plan).splitlines()
    assert "   ├─ [eu] a  sink keep" in text(plan).splitlines()[3]


def test_the_branch_that_a_node_reads_is_part_of_the_identity() -> None:
    first = plan_with(nodes(a=keep("split.eu"), b=keep("split.us", "split.rest")))
    second = plan_with(nodes(a=keep("split.us"), b=keep("split.eu", "split.rest")))

    assert first.identity != second.identity
