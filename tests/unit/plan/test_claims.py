"""Conflicting nodes are refused, with the names of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.cli import main
from engine.config import load_mapping
from engine.errors import ConfigError
from engine.plan.claims import own_output, replaced_by_changes
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.registry import Registry

Node = dict[str, Any]

STDIN: Node = {"source": "stdin"}
DASH: Node = {"source": "jsonl", "with": {"path": "-"}}


def lines(path: str, **params: Any) -> Node:
    return {"sink": "jsonl", "input": "read", "with": {"path": path, **params}}


def files(path: str, **params: Any) -> Node:
    return {"sink": "files", "input": "read", "with": {"path": path, **params}}


def bucket(path: str, lake: str = "lake", **params: Any) -> Node:
    return {"sink": "s3", "input": "read", "with": {"connection": lake, "path": path, **params}}


def table(path: str, name: str = "t", **params: Any) -> Node:
    return {"sink": "duckdb", "input": "read", "with": {"path": path, "table": name, **params}}


def postgres(connection: str, **params: Any) -> Node:
    return {"sink": "postgres", "input": "read", "with": {"connection": connection, "table": "t"} | params}


def clickhouse(connection: str, **params: Any) -> Node:
    return {"sink": "clickhouse", "input": "read", "with": {"connection": connection, "table": "t"} | params}


def compiled(**pipelines: Any) -> dict[str, Plan]:
    connections: dict[str, Any] = {name: {"endpoint": f"http://{name}:9000"} for name in ("lake", "other")}
    connections |= {name: {"url": f"postgresql://{name}/db"} for name in ("db", "db2")}
    connections |= {
        "db_as_other": {"url": "postgresql://me:pw@db:5432/db"},
        "db_sales": {"url": "postgresql://db/db?options=-csearch_path%3Dsales,public"},
        "click": {"url": "http://click:8123"},
        "click_shop": {"url": "http://click:8123/", "database": "shop", "user": "me"},
    }
    file = load_mapping({"version": 1, "connections": connections, "pipelines": pipelines}, environ={})
    return compile_file(file, Registry.installed())


def problems(settings: dict[str, Any] | None = None, **nodes: Node) -> list[str]:
    nodes = {"read": {"source": "jsonl", "with": {"path": "in.jsonl"}}, **nodes}
    try:
        compiled(p={**(settings or {}), "nodes": nodes})
    except ConfigError as error:
        return [f"{one.path}: {one.message}" for one in error.problems]
    return []


@pytest.mark.parametrize(("first", "second"), [(STDIN, STDIN), (STDIN, DASH), (DASH, DASH)])
def test_standard_input_is_read_by_one_node(first: Node, second: Node) -> None:
    keep = {"sink": "stdout", "input": ["read", "more"]}

    (problem,) = problems(read=first, more=second, keep=keep)
    assert problem == (
        "pipelines.p.nodes.more.source: `read` reads the standard input already, and so does `more`: each "
        "line would go to only one of them"
    )


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (
            lines("a", mode="replace"),
            lines("a"),
            "`one` writes a already, and so does `two`: `mode: replace`",
        ),
        (lines("a"), lines("./b/../a", mode="error"), "`one` writes a already, and `two` writes ./b/../a"),
        (files("a"), files("a/", mode="replace"), "`one` writes a already, and `two` writes a/"),
        (bucket("s3://b/a"), bucket("s3://b/a/", mode="replace"), "`one` writes s3://b/a already"),
        (lines("in.jsonl", mode="replace"), lines("b"), "`read` reads in.jsonl already, and `one` writes"),
        (table("a", mode="replace"), table("./a"), "`one` writes the table t already, and so does `two`"),
        (postgres("db"), postgres("db", mode="replace"), "`one` writes the table t already"),
        (
            files("a", mode="replace"),
            files("a/country=DE/day=1"),
            "`one` writes a already, and `two` writes a/country=DE/day=1: `mode: replace`",
        ),
        (
            files("a/c=DE", mode="replace"),
            files("a", partition_by=["c", "d"]),
            "`one` writes a/c=DE already, and `two` writes a",
        ),
        (
            bucket("s3://b/c=DE"),
            bucket("s3://b", mode="replace"),
            "`one` writes s3://b/c=DE already, and `two` writes s3://b",
        ),
        (
            table("a", "Main.T", mode="replace"),
            table("a"),
            "`one` writes the table Main.T already, and `two` writes the table t",
        ),
        (
            postgres("db", mode="replace", table="public.t"),
            postgres("db"),
            "`one` writes the table public.t already",
        ),
        (postgres("db"), postgres("db_as_other", mode="replace"), "`one` writes the table t already"),
        (
            postgres("db", table="sales.t"),
            postgres("db_sales", mode="replace"),
            "`one` writes the table sales.t already",
        ),
        (
            clickhouse("click", table="shop.t", mode="replace"),
            clickhouse("click_shop"),
            "`one` writes the table shop.t already",
        ),
        (
            clickhouse("click"),
            clickhouse("click_shop", table="default.t", mode="replace"),
            "`one` writes the table t already",
        ),
    ],
    ids=[
        "replace",
        "error",
        "folder",
        "bucket",
        "input",
        "duckdb",
        "postgres",
        "partition below",
        "partition above",
        "partition of a bucket",
        "schema main",
        "schema public",
        "another user",
        "schema of the search path",
        "database of the connection",
        "default database",
    ],
)
def test_what_one_node_would_delete_of_another_is_refused(first: Node, second: Node, message: str) -> None:
    (problem,) = problems(one=first, two=second)

    assert message in problem


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lines("a"), lines("a")),
        (postgres("db"), postgres("db_sales", mode="replace")),
        (clickhouse("click"), clickhouse("click_shop", mode="replace")),
        (lines("a", mode="replace"), lines("b", mode="replace")),
        (lines("-"), lines("-")),
        (lines("/dev/null", mode="replace"), lines("/dev/null", mode="replace")),
        (files("a"), files("a", mode="error")),
        (files("a", mode="replace"), files("b", mode="replace")),
        (bucket("s3://b/a", mode="replace"), bucket("s3://b/a", "other", mode="replace")),
        (lines("in.jsonl"), lines("b")),
        (table("a"), table("a")),
        (table("a", mode="replace"), table("a", "u", mode="replace")),
        (postgres("db", mode="replace"), postgres("db2", mode="replace")),
        (files("a", mode="replace"), files("a/b", mode="replace")),
        (files("a/c=DE", mode="replace"), files("a/c=FR", mode="replace")),
        (files("a/c=DE", mode="replace"), files("a", partition_by=["d", "c"])),
        (files("a/c=DE/d=1", mode="replace"), files("a", partition_by=["c"])),
        (files("a", mode="replace"), lines("a/c=DE/lines.jsonl")),
    ],
    ids=[
        "append",
        "two schemas",
        "two databases of a server",
        "two files",
        "output",
        "device",
        "new folder",
        "two folders",
        "two servers",
        "input",
        "rows",
        "two tables",
        "two databases",
        "folder inside",
        "two partitions",
        "other column",
        "partition inside",
        "lines inside",
    ],
)
def test_nodes_that_do_not_conflict_are_allowed(first: Node, second: Node) -> None:
    assert problems(one=first, two=second) == []


def test_links_to_a_folder_are_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    (problem,) = problems(one=files(f"{tmp_path}/real"), two=files(f"{tmp_path}/link", mode="replace"))

    assert "`two` writes" in problem


def test_dead_letters_that_are_forwarded_count_too() -> None:
    forward = {"forward": {"sink": "jsonl", "with": {"path": "a"}}}

    (problem,) = problems({"dead_letters": forward}, one=lines("a", mode="replace"))

    assert "`one` writes a already, and so does `dead_letters.forward`" in problem


def reading(source: str, pattern: Any, **params: Any) -> Node:
    return {"source": source, "with": {"path" if source == "jsonl" else "pattern": pattern, **params}}


@pytest.mark.parametrize(
    ("source", "sink", "again"),
    [
        (reading("files", "data/**"), files("data/out"), True),
        (reading("files", "data/**/*.csv"), files("./data/out", format="csv"), True),
        (reading("files", "data/**/*.csv"), files("data/out"), False),
        (reading("files", "data/*"), files("data/out"), False),
        (reading("files", "data/**", exclude=["data/out/**"]), files("data/out"), False),
        (reading("files", ["a/*", "{b,data}/**"]), files("data/out"), True),
        (reading("jsonl", "data/*.jsonl"), lines("data/all.jsonl"), True),
        (reading("jsonl", "data/a[1].jsonl"), lines("data/a[1].jsonl"), True),
        (reading("jsonl", "data/{1..9999}.jsonl"), lines("data/all.jsonl"), False),
        (reading("s3", "s3://b/**", connection="lake"), bucket("s3://b/out"), True),
        (reading("s3", "s3://b/**", connection="lake"), bucket("s3://b"), True),
        (reading("s3", "s3://b/**", connection="lake", exclude="out/*"), bucket("s3://b/out"), False),
        (reading("s3", "s3://b/**", connection="lake"), bucket("s3://c/out"), False),
        (reading("s3", "s3://b/**", connection="lake"), bucket("s3://b/out", "other"), False),
    ],
)
def test_validate_warns_of_a_pipeline_that_reads_its_output(source: Node, sink: Node, again: bool) -> None:
    found = own_output(compiled(p={"nodes": {"read": source, "keep": sink}}).values())

    assert len(found) == int(again)
    assert all("`p.keep` writes" in str(one) and "which `read` reads" in str(one) for one in found)


@pytest.mark.parametrize(
    ("source", "node", "mode", "deleted"),
    [
        (reading("jsonl", "in", mode="changed"), {"filter": "n > 0"}, "replace", ["read"]),
        (reading("jsonl", "in", mode="changed"), {"filter": "n > 0"}, "append", []),
        (reading("jsonl", "in"), {"filter": "n > 0"}, "replace", []),
        (reading("jsonl", "in"), {"deduplicate": {"key": "n", "within": "all_runs"}}, "replace", ["change"]),
    ],
)
def test_validate_warns_of_a_run_that_keeps_only_changes(
    source: Node, node: Node, mode: str, deleted: list[str]
) -> None:
    keep = {**lines("out", mode=mode), "input": "change"}
    nodes = {"read": source, "change": node, "keep": keep}

    found = replaced_by_changes(compiled(p={"nodes": nodes}).values())

    assert [str(one).split("`")[5] for one in found] == deleted


async def test_pipelines_that_start_together_are_refused(tmp_path: Path) -> None:
    nodes = {"read": STDIN, "keep": lines(str(tmp_path / "out.jsonl"))}

    with pytest.raises(ConfigError) as caught:
        await engine.run(compiled(p={"nodes": nodes}, q={"nodes": nodes}))

    assert str(caught.value) == (
        "`p.read` reads the standard input already, and so does `q.read`: each line would go to only one of "
        "them (run one pipeline after the other)"
    )
    assert not (tmp_path / "out.jsonl").exists()


def test_pipelines_that_write_one_file_are_told_apart_before_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = {"read": {"source": "generate", "with": {"fields": {"n": 1}}}, "keep": lines("o", mode="error")}
    file = tmp_path / "two.yaml"  # JSON is YAML
    file.write_text(json.dumps({"version": 1, "pipelines": {"a": {"nodes": nodes}, "b": {"nodes": nodes}}}))

    assert main(["validate", str(file)]) == 0
    assert capsys.readouterr().err == (
        "warning: `run` refuses to start these pipelines together: `a.keep` writes o already, and so does "
        "`b.keep`: `mode: error` rejects a file that the other has written to "
        "(choose another file for one of them)\n"
    )
