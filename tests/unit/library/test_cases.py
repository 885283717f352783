"""Test cases in YAML next to a pipeline: `odw test`, `--update`, and pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cli import main
from engine.testing.cases.compare import differences, record_differences

FILE = """\
version: 1
connections: {model: {base_url: "http://127.0.0.1:9", api_key: none, model: m}}
pipelines:
  letters:
    params: {low: 2}
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      keep: {transform: "steps:keep", with: {low: "${params.low}"}}
      extract: {transform: llm_extract, with: {connection: model, schema: Medical}}
      save: {sink: jsonl, with: {path: out.jsonl}}
"""

STEPS = """\
import engine


@engine.transform
def keep(record: dict, *, low: int) -> dict | None:
    if record.get("n") == "bad":
        raise engine.RecordError("not a number", kind="NotANumber")
    return record if record["n"] >= low else None
"""

CASES = """\
version: 1
# above the tests
tests:
  small_ones_go:   # a comment that stays
    input:
      read: [{n: 1}, {n: 2}, {n: bad}, {n: 3}, {n: 4}]
    mock:
      extract: [{n: 20, at: 2026-03-01}, {raise: {error: Refused, message: "no"}}, null]
    expect:
      output:
        save: [{n: 20, at: "2026-03-01"}]
      dead_letters: [{node: extract, error: Refused}, {node: keep, message: "not a", record: {n: bad}}]
      counts: {read: 5, written: 1, dropped: 2, dead: 2}

  # between the tests
  other_params:
    params: {low: 10}
    input:
      read: [{n: 1}]
    expect: {counts: {dropped: 1, written: 0}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pipelines.yaml").write_text(FILE)
    Path("steps.py").write_text(STEPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "steps", raising=False)


def write(text: str) -> None:
    Path("pipelines_test.yaml").write_text(text)


@pytest.mark.slow
def test_cases_pass_with_mocked_answers_and_dead_letters(capsys: pytest.CaptureFixture[str]) -> None:
    write(CASES)

    assert main(["test"]) == 0
    assert "2 passed, 0 failed" in capsys.readouterr().out
    assert not Path(".odw").exists()
    assert not Path("out.jsonl").exists()


@pytest.mark.slow
def test_differences_name_record_field_and_both_values(capsys: pytest.CaptureFixture[str]) -> None:
    write(
        CASES.replace('{n: 20, at: "2026-03-01"}', '{n: 21, at: "2026-03-01", x: 1}').replace(
            "dead: 2", "dead: 3"
        )
    )

    assert main(["test", "--json"]) == 1
    case = json.loads(capsys.readouterr().out)["cases"][0]
    assert case["differences"] == [
        "save, record 1.x: missing, expected 1",
        "save, record 1.n: expected 21, found 20",
        "counts.dead: expected 3, found 2",
    ]
    assert (case["line"], case["passed"]) == (4, False)


@pytest.mark.slow
def test_update_rewrites_expectations_and_keeps_comments() -> None:
    write(CASES.replace("dropped: 2", "dropped: 0").replace("dropped: 1, written: 0", "dropped: 0"))

    assert main(["test", "--update"]) == 0
    assert main(["test"]) == 0
    text = Path("pipelines_test.yaml").read_text()
    for comment in ("# above the tests", "# a comment that stays", "# between the tests"):
        assert text.count(comment) == 1
    assert "        save:\n          - {n: 20, at: '2026-03-01'}\n" in text
    assert "      counts: {read: 5, written: 1, dropped: 2, dead: 2}\n" in text


@pytest.mark.slow
def test_update_writes_expectations_where_there_are_none() -> None:
    write(CASES.partition("    expect:\n      output")[0].rstrip() + "\n")

    assert main(["test"]) == 1
    assert main(["test", "--update"]) == 0
    assert main(["test"]) == 0


def test_a_source_with_a_connection_needs_its_records(capsys: pytest.CaptureFixture[str]) -> None:
    Path("pipelines.yaml").write_text(
        FILE.replace(
            "source: jsonl, with: {path: in.jsonl}",
            "source: s3, with: {pattern: 's3://a/*', connection: lake}",
        ).replace(
            "{model: {", "{lake: {endpoint: 'http://127.0.0.1:9', access_key: a, secret_key: b}, model: {"
        )
    )
    write("version: 1\ntests:\n  reads:\n    expect: {counts: {read: 0}}\n")

    assert main(["test"]) == 2
    said = capsys.readouterr().err
    assert "pipelines_test.yaml:3:3" in said
    assert "source `read` would reach `lake` (give its records under `input: {read: […]}`)" in said


@pytest.mark.parametrize(
    ("wrong", "right", "said"),
    [
        ("expect:\n      output", "expcet:\n      output", "did you mean `expect`?"),
        ("read: [{n: 1}, ", "raed: [{n: 1}, ", "unknown source `raed`, did you mean `read`?"),
        ("extract: [{n: 20", "extrct: [{n: 20", "unknown transform `extrct`, did you mean `extract`?"),
        ("        save:", "        svae:", "unknown sink `svae`, did you mean `save`?"),
        ("null]", "]", "it has 2 answers, and record 3 came"),
    ],
)
def test_mistakes_in_cases_are_named(
    wrong: str, right: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(CASES.replace(wrong, right, 1))

    assert main(["test"]) != 0
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


def test_a_file_without_cases_says_where_to_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test"]) == 2
    assert "write some into pipelines_test.yaml" in capsys.readouterr().err


def test_a_folder_that_is_missing_has_no_cases(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "nowhere/etl.yaml"]) == 2
    assert capsys.readouterr().err.startswith("nowhere/etl.yaml: no cases to run")


@pytest.mark.slow
def test_records_may_stand_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("given.jsonl").write_text('{"n": 1}\n{"n": 7}\n')
    write(
        "version: 1\ntests:\n  files:\n    input:\n      read: {file: given.jsonl}\n"
        "    mock: {extract: [{n: 7}]}\n    expect:\n      output:\n        save: {file: wanted.jsonl}\n"
    )
    Path("wanted.jsonl").write_text("")

    assert main(["test", "--update"]) == 0
    assert Path("wanted.jsonl").read_text() == '{"n":7}\n'
    assert main(["test"]) == 0


@pytest.mark.series
def test_pytest_collects_the_cases() -> None:
    write(CASES.replace("dead: 2", "dead: 3"))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        ".",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)

    assert "1 failed, 1 passed" in done.stdout
    assert "counts.dead: expected 3, found 2" in done.stdout
    assert "Traceback" not in done.stdout


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)


def test_differences_come_in_the_order_of_the_fields() -> None:
    expected, found = dict.fromkeys("hgfedcba", 1), dict.fromkeys("zyxwvuts", 1)

    places = [line.partition(":")[0] for line in differences("r", expected, found)]
    assert "".join(place.removeprefix("r.") for place in places) == "hgfedcbazyxwvuts"


@pytest.mark.slow
@given(VALUES, VALUES)
def test_values_differ_exactly_when_something_is_reported(one: Any, other: Any) -> None:
    assert (list(differences("", one, other)) == []) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    )


@pytest.mark.slow
@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_lists_of_records_differ_exactly_when_something_is_said(one: list[Any], other: list[Any]) -> None:
    same = [json.dumps(value, sort_keys=True) for value in one] == [
        json.dumps(value, sort_keys=True) for value in other
    ]
    assert (list(record_differences("r", one, other)) == []) == same


@given(st.permutations([{"a": 1}, {"a": 1}, {"b": 2}, 3]))
def test_unordered_records_match_in_any_order(shuffled: list[Any]) -> None:
    assert list(record_differences("r", [{"a": 1}, {"b": 2}, {"a": 1}, 3], shuffled, unordered=True)) == []
