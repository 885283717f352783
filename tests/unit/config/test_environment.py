"""`.env`, the real environment and `${file:…}`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.config.environment import MAX_SECRET_BYTES, file_reader, load_environment
from engine.config.problems import Problems


def load(path: Path, environ: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    problems = Problems()
    found = load_environment(path, environ, problems)
    return found, [str(problem) for problem in problems.all()]


def test_the_real_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# a comment\nA=file\nexport B='x y'\nC=\"${A}\"\nD\n")
    assert load(tmp_path / ".env", {"A": "real"}) == ({"A": "real", "B": "x y", "C": "${A}"}, [])


def test_without_a_file_there_is_the_environment(tmp_path: Path) -> None:
    assert load(tmp_path / ".env", {"A": "real"}) == ({"A": "real"}, [])


def test_a_broken_line_is_named_but_not_shown(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\n:hunter2 hunter2\n")
    found, problems = load(tmp_path / ".env", {"B": "2"})
    assert found == {"B": "2"}
    assert problems == [f"{tmp_path}/.env:2:1: not an assignment (write NAME=value)"]


def test_a_file_that_is_not_text_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff")
    assert load(tmp_path / ".env", {}) == ({}, [f"{tmp_path}/.env: cannot be read: it is not UTF-8 text"])


def test_a_huge_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"#" * ((1 << 20) + 1))
    assert load(tmp_path / ".env", {}) == ({}, [f"{tmp_path}/.env: the file is larger than 1 MiB"])


def test_a_secret_file_loses_one_newline_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n\n")
    read = file_reader(tmp_path)
    assert read("key") == "hunter2\n"
    assert read(str(tmp_path / "key")) == "hunter2\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"x" * (MAX_SECRET_BYTES + 1), "it is larger than 64 KiB"), (b"\xff", "it is not UTF-8 text")],
)
def test_secret_files_are_small_texts(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "key").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        file_reader(tmp_path)("key")


def test_a_pipe_instead_of_a_secret_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        file_reader(tmp_path)("pipe")


def test_secrets_from_files_reach_the_component_but_no_message(tmp_path: Path, problems_of) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    text = (
        'version: 1\nconnections: {web: {url: "${file:key}", region: "${file:nokey}", token: "${file:}"}}\n'
        'pipelines: {p: {nodes: {a: {source: numbers, with: {records: "${file:key}"}}, b: {sink: keep}}}}\n'
    )
    assert problems_of(text) == [
        "f.yaml:2:49: connections.web.region: `${file:nokey}` cannot be read: No such file or directory",
        "f.yaml:2:73: connections.web.token: `${file:}` cannot be read: no path is given",
        (
            "f.yaml:3:62: pipelines.p.nodes.a.with.records: expected a valid integer, "
            "got the value of `${file:key}`"
        ),
    ]


def test_dotenv_beside_the_file_feeds_it(tmp_path: Path, problems_of) -> None:
    (tmp_path / ".env").write_text("RECORDS=many\n")
    text = (
        "version: 1\n"
        'pipelines: {p: {nodes: {a: {source: numbers, with: {records: "${RECORDS}"}}, b: {sink: keep}}}}\n'
    )
    assert problems_of(text, {"RECORDS": "5"}) == []
    assert problems_of(text) == [
        (
            "f.yaml:2:62: pipelines.p.nodes.a.with.records: expected a valid integer, "
            "got the value of `${RECORDS}`"
        )
    ]
