"""Fault points: off by default, and triggered at exactly the requested place and time."""

from __future__ import annotations

import ast
import signal
from pathlib import Path

import pytest

from engine import fault_injection
from engine.fault_injection import FAULT_POINTS, SERVICE_FAULT_POINTS, armed, observe, reached

ROOT = Path(__file__).parents[2]


def test_without_the_variable_nothing_is_counted() -> None:
    struck: list[signal.Signals] = []

    off = armed("", struck.append)
    for _ in range(3):
        off("batch_read")

    assert struck == []
    assert off is vars(fault_injection)["_point"], "the tests themselves run with the variable unset"


def test_another_observer_can_be_told_of_each_place() -> None:
    names: list[str] = []
    observe(names.append)
    try:
        reached("batch_read")
    finally:
        observe(armed("", lambda _: None))

    assert names == ["batch_read"]


def test_the_signal_comes_at_the_named_place_and_count_only() -> None:
    struck: list[signal.Signals] = []
    point = armed("batch_read:2:TERM, draining:1", struck.append)

    point("batch_read")
    point("batch_written")
    assert struck == []
    point("batch_read")
    assert struck == [signal.SIGTERM]
    point("batch_read")
    point("draining")
    assert struck == [signal.SIGTERM, signal.SIGKILL]


@pytest.mark.parametrize(
    "text",
    ["batch_read", "batch_read:", "batch_read:0", "batch_read:x", "nowhere:1", "batch_read:1:LOUD", ","],
)
def test_unknown_input_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="ODW_FAULT_POINT"):
        armed(text, lambda _: None)


@pytest.mark.slow
def test_every_place_is_in_the_code_and_every_call_names_one() -> None:
    modules = [
        text
        for folder in ("engine", "connectors")
        for path in (ROOT / folder).rglob("*.py")
        if "reached(" in (text := path.read_text("utf-8"))
    ]
    called = [
        argument.value
        for text in modules
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "reached"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    ]

    assert set(called) == {*FAULT_POINTS, *SERVICE_FAULT_POINTS}
