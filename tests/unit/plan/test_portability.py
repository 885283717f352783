"""Features of a file that do not work with several workers."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

import pytest

import engine
from engine.config import FileConfig, load_file
from engine.contract.component import Kind, Locality, NoParams
from engine.errors import ConfigError
from engine.plan.compile import compile_file
from engine.plan.portability import check_divisible, node_check, store_problems, warnings
from engine.registry import Registry
from tests.unit.idle import IdleSink

ROOT = Path(__file__).parents[3]
HEAD = """\
version: 1
connections:
  warehouse: {url: "${INGEST_URL:-sandbox}", token: "${TOKEN:-}"}
  lake: {endpoint: "${S3_ENDPOINT:-sandbox}", region: "${REGION:-}"}
pipelines:
  p:
    nodes:
"""
REAL = {"INGEST_URL": "http://dw:4200", "S3_ENDPOINT": "https://s3.example", "S3_KEY": "k"}


@engine.source
async def once() -> AsyncGenerator[int, None]:
    yield 1


@engine.component(Kind.SINK, "shelf", locality=Locality.MACHINE)
class Shelf(IdleSink[NoParams]):
    """Puts records on a shelf of this machine."""


ONE_MACHINE = "or pass --one-machine if all workers run on this machine"
NODES = "pipelines.p.nodes"
WAREHOUSE = "connections.warehouse"
REGISTRY = Registry.installed().including(once, Shelf)


def read(folder: Path, nodes: str, environ: Mapping[str, str] = REAL) -> FileConfig:
    path = folder / "f.yaml"
    path.write_text(HEAD + "".join(f"      {line}\n" for line in nodes.splitlines()), encoding="utf-8")
    return load_file(path, environ=environ)


def problems(file: FileConfig, *, one_machine: bool = False) -> list[str]:
    try:
        compile_file(file, REGISTRY, check=node_check(file, one_machine=one_machine))
    except ConfigError as error:
        folder = str(Path(file.file).parent)
        return [str(problem).replace(f"{folder}/", "") for problem in error.problems]
    return []


def test_valid_addresses_pass(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        "a: {source: s3, with: {connection: lake, pattern: 's3://bucket/*'}}\n"
        "b: {sink: ingest, with: {connection: warehouse, model: BlobSource}}",
    )
    assert problems(file) == []


def test_files_and_streams_of_one_machine_are_found_with_a_remedy(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        "a: {source: jsonl, with: {path: in.jsonl}}\n"
        "b: {sink: stdout}\n"
        "c: {source: jsonl, with: {path: '-'}}\n"
        "d: {sink: shelf}",
    )
    files = "uses files of its machine, but workers may run on others"
    stream = "of one process, but there are several workers"
    read_from = "read from a place that all workers can reach, e.g. s3"
    write_to = "write to a place that all workers can reach, e.g. ingest"
    expected = [
        f"f.yaml:8:19: {NODES}.a.source: the source `jsonl` {files} ({read_from}, {ONE_MACHINE})",
        f"f.yaml:9:17: {NODES}.b.sink: the sink `stdout` uses the standard output {stream} ({write_to})",
        f"f.yaml:10:19: {NODES}.c.source: the source `jsonl` uses the standard input {stream} ({read_from})",
        f"f.yaml:11:17: {NODES}.d.sink: the sink `shelf` {files} ({write_to}, {ONE_MACHINE})",
    ]
    assert problems(file) == expected
    assert problems(file, one_machine=True) == expected[1:3]


def test_embedded_services_are_reported_once_with_their_variable(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        "a: {source: s3, with: {connection: lake, pattern: 's3://bucket/*'}}\n"
        "b: {sink: ingest, with: {connection: warehouse, model: BlobSource}}\n"
        "c: {sink: ingest, with: {connection: warehouse, model: LogSource}}",
        {},
    )
    machine = "only the machine that runs the embedded"
    assert problems(file) == [
        f"f.yaml:3:3: {WAREHOUSE}: {machine} `ingest` can reach it (set `INGEST_URL`, {ONE_MACHINE})",
        f"f.yaml:4:3: connections.lake: {machine} `s3` can reach it (set `S3_ENDPOINT`, {ONE_MACHINE})",
    ]
    assert problems(file, one_machine=True) == []


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://localhost:4200", True),
        ("http://127.0.0.1:4200", True),
        ("http://[::1]:4200", True),
        ("http://0.0.0.0:4200", True),
        ("http://dw.localhost:4200", True),
        ("http://10.0.0.7:4200", False),
        ("https://dw.example:4200", False),
    ],
)
def test_an_address_of_this_machine_means_another_one_elsewhere(
    tmp_path: Path, url: str, local: bool
) -> None:
    nodes = "a: {source: blob}\nb: {sink: ingest, with: {connection: warehouse, model: BlobSource}}"
    file = read(tmp_path, nodes, {"INGEST_URL": url})
    found = problems(file)
    assert len(found) == local
    if local:
        assert found[0].startswith("f.yaml:3:20: connections.warehouse.url: `url` is a loopback address")
        assert url not in found[0]
    assert problems(file, one_machine=True) == []


def test_read_once_source_is_refused_even_on_one_machine(tmp_path: Path) -> None:
    file = read(tmp_path, "a: {source: once}\nb: {sink: shelf}")
    assert "can be read only once" in problems(file, one_machine=True)[0]


WHOLE = "has to write the whole run, but chunks run separately"


@pytest.mark.parametrize(
    ("sink", "parameters"),
    [
        ("jsonl", "path: out.jsonl, mode: replace"),
        ("jsonl", "path: out.jsonl, mode: error"),
        ("files", "path: out, mode: replace"),
        ("files", "path: out, mode: error"),
        ("s3", "connection: lake, path: 's3://b/out', mode: replace"),
        ("duckdb", "path: out.duckdb, table: t, mode: replace"),
        ("postgres", "connection: db, table: t, mode: replace"),
        ("clickhouse", "connection: clicks, table: t, mode: replace"),
    ],
)
def test_sinks_that_replace_are_refused_in_divided_runs(tmp_path: Path, sink: str, parameters: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "version: 1\nconnections: {db: {url: 'postgresql://db/x'}, clicks: {url: 'http://db'}, lake: {}}\n"
        "pipelines:\n  p:\n    nodes:\n      a: {source: blob}\n"
        f"      b: {{sink: {sink}, with: {{{parameters}}}}}",
        encoding="utf-8",
    )
    file = load_file(path, environ={})
    hint = "use another `mode`, or run the pipeline locally"
    text = f"with these parameters the sink `{sink}` {WHOLE}"
    assert problems(file, one_machine=True) == [f"f.yaml:7:17: {NODES}.b.sink: {text} ({hint})"]
    (plan,) = compile_file(file, REGISTRY).values()
    with pytest.raises(ConfigError, match=re.escape(f"node 'b': {text} ({hint})")):
        check_divisible(plan)


def test_a_sink_that_adds_can_write_a_divided_run(tmp_path: Path) -> None:
    file = read(tmp_path, "a: {source: blob}\nb: {sink: duckdb, with: {path: out.duckdb, table: t}}")
    (plan,) = compile_file(file, REGISTRY).values()
    check_divisible(plan)


def test_the_sink_of_dead_letters_is_checked_as_well(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(
        "version: 1\npipelines:\n  p:\n    nodes: {a: {source: blob}, b: {sink: shelf}}\n"
        "    dead_letters: {forward: {sink: jsonl, with: {path: dead.jsonl}}}\n",
        encoding="utf-8",
    )
    places = [line.split(": ")[1] for line in problems(load_file(path, environ={}))]
    assert places == ["pipelines.p.nodes.b.sink", "pipelines.p.dead_letters.forward.sink"]


def test_everything_that_is_wrong_comes_together(tmp_path: Path) -> None:
    file = read(
        tmp_path,
        "a: {source: jsonl, with: {path: '${MISSING}'}}\n"
        "b: {sink: stdout, with: {x: 1}}\n"
        "c: {sink: shelf, input: a}",
    )
    assert [line.split(": ")[1] for line in problems(file)] == [
        f"{NODES}.a.with.path",
        f"{NODES}.b.with.x",
        f"{NODES}.c.sink",
    ]


def test_a_directory_is_no_store_for_several_machines() -> None:
    (problem,) = store_problems(".odw", one_machine=False)
    assert str(problem).startswith("--state-dir: workers on other machines cannot reach the directory .odw")
    assert store_problems(".odw", one_machine=True) == []
    assert store_problems("postgresql://db/odw", one_machine=False) == []


def test_what_every_worker_needs_is_reported(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REGION=here\n", encoding="utf-8")
    (tmp_path / "key").write_text("hush\n", encoding="utf-8")
    file = read(
        tmp_path,
        "a: {source: 'mine:rows', with: {path: '${file:key}', more: '${REGION}${LEVEL:-1}'}}\n"
        "b: {sink: shelf}",
        {"INGEST_URL": "http://dw:4200"},
    )
    found = [
        str(one).replace(f"{tmp_path}/", "").partition(" (")[0] for one in warnings(file, one_machine=False)
    ]
    unset = "not set here, so defaults apply: `TOKEN`, `S3_ENDPOINT`, `LEVEL`"
    assert found == [
        f"f.yaml:3:53: connections.warehouse.token: {unset}",
        "f.yaml:4:55: connections.lake.region: set by the .env file here: `REGION`",
        f"f.yaml:8:45: {NODES}.a.with.path: files that every worker needs: `key`",
        f"f.yaml:8:19: {NODES}.a.source: modules that every worker needs: `mine`",
    ]
    assert len(warnings(file, one_machine=True)) == 1


@pytest.mark.slow
def test_bundled_files_run_durably_with_real_addresses() -> None:
    environ = {
        "INGEST_URL": "http://dw:4200",
        "S3_ENDPOINT": "https://s3.example",
        "S3_ACCESS_KEY": "k",
        "S3_SECRET_KEY": "s",
        "OPENAI_BASE_URL": "https://model.example/v1",
    }
    for name in ("pipelines.yaml", "samples/scheduled.yaml", "samples/unstructured_in_two_stages.yaml"):
        file = load_file(ROOT / name, environ=environ)
        assert problems(file) == []
