"""`plan`: what a run would read, write and cost, without doing any of it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.cli import main
from engine.contract.batch import Batch
from engine.contract.component import Context, NoParams, Sink
from engine.contract.planning import Estimate, SplitSize
from engine.contract.split import Split
from engine.contract.types import Record
from engine.errors import FatalError, RecordError
from engine.execution.engine import Engine
from engine.preview import forecast
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import Apply, pages

FILE = """\
version: 1
connections: {model: {base_url: "http://127.0.0.1:9", api_key: none, model: m}}
pipelines:
  copy:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      large: {filter: "n >= 5"}
      write: {sink: jsonl, with: {path: out.jsonl}}
  paid:
    nodes:
      read: {source: jsonl, with: {path: in.jsonl}}
      extract: {transform: llm_extract, with: {connection: model, schema: Medical}}
      write: {sink: jsonl, with: {path: paid.jsonl}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("pipelines.yaml").write_text(FILE)
    Path("in.jsonl").write_text("".join(json.dumps({"n": n, "t": "x"}) + "\n" for n in range(10)))
    return tmp_path


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["plan", "--json", *arguments]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_plan_counts_and_names_fields_and_leaves_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = planned(capsys, "--only", "copy")["copy"]["nodes"]

    assert nodes["read"]["fields"] == {"n": "integer", "t": "text"}
    assert (nodes["read"]["records"], nodes["read"]["exact"]) == (10, True)
    assert nodes["read"]["listing"]["bytes"] == Path("in.jsonl").stat().st_size
    assert (nodes["large"]["records"], nodes["write"]["records"]) == (5, 5)
    assert nodes["write"]["target"].endswith("out.jsonl, mode append: not there yet")
    assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "pipelines.yaml"]


@pytest.mark.slow
def test_plan_needs_no_state(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ".odw").mkdir()

    assert planned(capsys, "--only", "copy")["copy"]["sampled_records"] == 10
    assert main(["tap", "copy.large", "--limit", "1"]) == 0
    assert main(["run", "--only", "copy", "--dry-run"]) == 0
    assert list((folder / ".odw").iterdir()) == []


def test_plan_scales_a_sample_by_bytes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = planned(capsys, "--only", "copy", "--sample", "4")["copy"]["nodes"]["read"]

    assert not node["exact"]
    assert 8 <= node["records"] <= 15


@pytest.mark.slow
def test_plan_asks_no_node_that_pays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = planned(capsys, "--only", "paid")["paid"]["nodes"]

    assert nodes["extract"]["pays"]
    assert nodes["extract"]["fields"] == {}
    assert nodes["write"]["records"] == 10


PRICED = """\
connections: {model: {base_url: "http://127.0.0.1:9", api_key: none, model: m}}
pipelines:
  memos:
    nodes:
      read: {source: jsonl, with: {path: memos.jsonl}}
      first: {transform: llm_extract, with: {connection: model, schema: Medical, batch_size: 10,
        budget_usd: BUDGET, usd_per_million_input: 1, usd_per_million_output: 10}}
      second: {transform: llm_extract, with: {connection: model, schema: Medical}}
      write: {sink: jsonl, with: {path: out.jsonl}}
"""


def memos(budget: str) -> None:
    Path("pipelines.yaml").write_text(PRICED.replace("BUDGET", budget))
    rows = [
        {"id": str(n), "source_file_path": f"{n}.txt", "extracted_data": "Jane Doe, 41, root canal " * 20}
        for n in range(40)
    ]
    Path("memos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_plan_estimates_what_a_model_takes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memos(budget="5")
    found = planned(capsys)["memos"]
    estimate = found["nodes"]["first"]["estimate"]

    assert estimate["calls"] == 4
    assert 40 * 500 / 4 < estimate["tokens_in"] < 40 * 500
    expected = estimate["tokens_in"] / 1e6 + estimate["tokens_out"] / 1e5
    assert estimate["cost_usd"] == found["cost_usd"] == pytest.approx(expected)
    assert not found["nodes"]["first"]["over_budget"]
    assert found["unpriced"] == ["second"]


def test_plan_prints_calls_tokens_and_price(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memos(budget="0.01")
    assert main(["plan"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()

    assert re.fullmatch(
        r"memos: 4 nodes, 20 records sampled, about \$0\.0\d{3}, cost of second unknown", head
    )
    at = next(place for place, line in enumerate(lines) if line.startswith("  first "))
    assert re.search(r", about 4 calls, [\d,]+ tokens in and [\d,]+ out, \$0\.0\d{3}$", lines[at])
    assert "          the run would stop at `budget_usd: 0.01`" in lines
    assert next(line for line in lines if line.startswith("  second ")).endswith("pays for its answers")


@pytest.mark.series  # documents from an embedded S3; the fast siblings are above
def test_plan_of_the_example_estimates_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4o-mini")
    example = str(Path(__file__).parents[3] / "pipelines.yaml")
    found = planned(capsys, example, "--only", "unstructured_data", "--state-dir", str(tmp_path))
    estimate = found["unstructured_data"]["nodes"]["extract"]["estimate"]

    assert estimate["calls"] > 1
    assert estimate["tokens_in"] > estimate["tokens_out"] > 100
    assert 0 < estimate["cost_usd"] < 1


@pytest.mark.slow
def test_plan_shows_what_changed_since_the_last_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for trial in ([], ["--limit", "1"]):
        main(["run", "--only", "copy", "--quiet", *trial])
        assert planned(capsys, "--only", "copy", "--diff")["copy"]["changes"] == []

    change = "pipelines.copy.nodes.large.filter=n >= 6"
    (line,) = planned(capsys, "--only", "copy", "--diff", "--set", change)["copy"]["changes"]
    assert '"n >= 5" → "n >= 6"' in line


def test_plan_prints_a_line_for_each_node(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--only", "copy"]) == 0

    shown = capsys.readouterr().out
    assert "copy: 3 nodes, 10 records sampled\n" in shown
    assert "read   source jsonl: 1 split," in shown
    assert "large  transform filter: about 5 records\n" in shown


class Priced(Apply):
    """A transform that knows what it would cost."""

    async def estimate(self, sample: Sequence[Record], total: int) -> Estimate:
        assert sample
        return Estimate(calls=total // 10, tokens_in=total * 7, tokens_out=total, cost_usd=total / 100)


class Described(MemorySink):
    """A sink that knows its target."""

    async def describe_target(self) -> str:
        return "table t: 3 rows"


class Broken(Sink[NoParams]):
    """A sink whose target cannot be asked."""

    async def describe_target(self) -> str:
        raise FatalError("no such table at postgresql://user:hidden@host/db")


class Measured(MemorySource):
    """A source that measures its splits."""

    def split_size(self, split: Split) -> SplitSize:
        return SplitSize(records=1000, nbytes=5000)


class Endless(MemorySource):
    """Lists without an end."""

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        yield Split("first")
        await anyio.sleep_forever()


async def test_estimates_are_scaled_to_the_whole_input() -> None:
    plan = linear_plan(Measured({"a": pages(30), "b": pages(5)}), Priced(lambda batch: batch), Described())
    async with Engine() as engine:
        found = await forecast(plan, engine)

    source, priced, sink = found.nodes
    assert (source.records, priced.records) == (2000, 2000)
    assert priced.estimate is not None
    assert (priced.estimate.calls, found.cost_usd) == (200, 20.0)
    assert sink.target == "table t: 3 rows"


async def test_what_cannot_be_told_is_reported_and_hides_no_secret() -> None:
    def bad(batch: Batch) -> Batch:
        return batch.outcomes([RecordError("no")] * len(batch))

    async with Engine() as engine:
        found = await forecast(linear_plan(MemorySource(pages(5)), Apply(bad), Broken(NoParams())), engine)

    assert "no such table" in found.nodes[2].problem
    assert "hidden" not in found.nodes[2].problem
    assert found.died == {"n1": 5}


async def test_a_bug_in_an_estimate_is_reported_at_its_node() -> None:
    class Buggy(Priced):
        async def estimate(self, sample: Sequence[Record], total: int) -> Estimate:
            raise ValueError("no price")

    plan = linear_plan(MemorySource(pages(5)), Buggy(lambda batch: batch), MemorySink())
    async with Engine() as engine:
        found = await forecast(plan, engine)

    assert [node.problem for node in found.nodes] == ["", "ValueError: no price", ""]


async def test_a_target_that_does_not_answer_is_not_waited_for() -> None:
    class Silent(MemorySink):
        async def describe_target(self) -> str:
            await anyio.sleep_forever()
            return ""

    async with Engine() as engine:
        found = await forecast(linear_plan(MemorySource(pages(5)), Silent()), engine, sample=0, seconds=0.01)

    assert found.nodes[1].problem.startswith("no answer within 0.01 s")


async def test_a_listing_without_end_is_cut_off() -> None:
    async with Engine() as engine:
        found = await forecast(linear_plan(Endless(pages(5)), MemorySink()), engine, sample=0, seconds=0.01)

    listing = found.nodes[0].listing
    assert listing is not None
    assert (listing.splits, listing.complete) == (1, False)


def test_plan_counts_branches_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("routes.yaml").write_text(
        "version: 1\npipelines:\n  p:\n    nodes:\n      read: {source: jsonl, with: {path: in.jsonl}}\n"
        '      split: {route: {branches: {low: "n < 3"}, else: high}}\n'
        "      low: {sink: jsonl, with: {path: low.jsonl}, input: split.low}\n"
        "      high: {sink: jsonl, with: {path: high.jsonl}, input: split.high}\n"
    )
    nodes = planned(capsys, "routes.yaml")["p"]["nodes"]

    assert (nodes["split"]["records"], nodes["low"]["records"], nodes["high"]["records"]) == (10, 3, 7)


@pytest.mark.slow
def test_plan_tells_what_a_table_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("table.yaml").write_text(
        "version: 1\npipelines:\n  p:\n    nodes:\n      read: {source: jsonl, with: {path: in.jsonl}}\n"
        "      save: {sink: duckdb, with: {path: w.duckdb, table: rows, mode: merge, key: n}}\n"
    )
    before = planned(capsys, "table.yaml")["p"]["nodes"]["save"]["target"]
    assert not Path("w.duckdb").exists()
    main(["run", "table.yaml", "--quiet"])
    after = planned(capsys, "table.yaml")["p"]["nodes"]["save"]["target"]

    assert before == "w.duckdb, table rows, mode merge: not there yet"
    assert after == "w.duckdb, table rows, mode merge: 10 rows, 2 columns"


def test_tap_prints_what_comes_out_of_a_node(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tap", "copy.large", "--limit", "7"]) == 0
    assert [json.loads(line)["n"] for line in capsys.readouterr().out.splitlines()] == [5, 6]
    assert not Path("out.jsonl").exists()


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("read", "several pipelines have `read`: write one of copy.read, paid.read"),
        ("lrage", "unknown node `lrage`"),
        ("copy.lrage", "did you mean `copy.large`?"),
    ],
)
def test_tap_names_the_nodes_that_there_are(
    node: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tap", node]) == 2
    assert said in capsys.readouterr().err


def test_tap_says_that_a_node_pays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tap", "paid.extract"]) == 0
    assert capsys.readouterr().err == "paid: not asked, because answers cost money: extract\n"
