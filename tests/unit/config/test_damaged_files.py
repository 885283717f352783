"""Damaged variants of `pipelines.yaml`: an error with its place, never a traceback."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import load_file
from engine.errors import ConfigError
from engine.plan.compile import compile_file
from engine.registry import Registry
from tests.examples import examples

FILE = Path(__file__).parents[3] / "pipelines.yaml"
WHOLE = yaml.safe_load(FILE.read_text("utf-8"))

ODD = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates()
    | st.sampled_from([
        "${", "${}", "${params.}", "${params.nothing}", "${NOT_SET}", "${env:", "{{x}}", "\x00", "\ud800",
        "inf", "-1", "1e999", "10%", "0x10", "5 m", "s3://", "http://[", "a" * 5000, "../../x",
    ])
    | st.lists(st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3)
)  # fmt: skip
KEYS = st.text(max_size=10) | st.integers() | st.none() | st.sampled_from(["input", "with", "source", "<<"])
HOW = st.sampled_from(["replace", "remove", "rename", "add", "repeat", "wrap"])


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [one for key, part in inside for one in ((*here, key), *places(part, (*here, key)))]


def damaged(whole: Any, pick: int, how: str, key: Any, odd: Any) -> Any:
    """A copy with one thing wrong at one place."""
    made = copy.deepcopy(whole)
    every = places(made)
    *path, last = every[pick % len(every)]
    parent = made
    for step in path:
        parent = parent[step]
    old = parent[last]
    if how == "replace":
        parent[last] = odd
    elif how == "wrap":
        parent[last] = [old]
    elif how == "remove":
        del parent[last]
    elif isinstance(parent, dict):
        if how == "rename":
            del parent[last]
        parent[key] = odd if how == "add" else old
    else:
        parent.append(odd if how == "add" else old)
    return made


WRONGS = st.lists(st.tuples(st.integers(0, 10_000), HOW, KEYS, ODD), min_size=1, max_size=3)


@pytest.mark.slow
@given(wrongs=WRONGS)
@settings(max_examples=examples(300))
def test_a_file_compiles_or_its_error_names_the_place(
    tmp_path_factory: pytest.TempPathFactory, wrongs: list[tuple[int, str, Any, Any]]
) -> None:
    whole = WHOLE
    for pick, how, key, odd in wrongs:
        if places(whole):
            whole = damaged(whole, pick, how, key, odd)
    file = tmp_path_factory.getbasetemp() / "damaged.yaml"
    try:
        file.write_text(yaml.safe_dump(whole, allow_unicode=True, sort_keys=False), "utf-8")
    except (UnicodeEncodeError, yaml.YAMLError):
        return  # it is no file
    compiled_or_refused(file)


@given(cut=st.integers(0, 10**6), noise=st.binary(max_size=8), seed=st.integers(0, 2**32))
@settings(max_examples=examples(200))
def test_damaged_bytes_of_a_file_are_an_error_with_a_place(
    tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes, seed: int
) -> None:
    content = bytearray(FILE.read_bytes())
    start = cut % len(content)
    content[start : start + random.Random(seed).randrange(40)] = noise
    file = tmp_path_factory.getbasetemp() / "torn.yaml"
    file.write_bytes(content)
    compiled_or_refused(file)


def compiled_or_refused(file: Path) -> None:
    message = ""
    try:
        compile_file(load_file(file, environ={}), Registry.installed())
    except ConfigError as error:
        message = str(error)
    assert not message or str(file) in message
    assert len(message) < 5_000
