"""`run --chaos`: planted bugs of a user's pipeline are found, and sound pipelines pass."""

from __future__ import annotations

import os
import pickle
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from engine.chaos import ChaosReport, Disturbances, Finding
from engine.cli import main
from engine.plan.model import Plan

ROOT = Path(__file__).parents[3]

FILE = """\
pipelines:
  orders:
    nodes:
      read: {source: SOURCE, with: {path: in.jsonl}}
      change: {transform: TRANSFORM}
      save: {sink: SINK, with: {path: out.jsonl}}
"""

COMPONENTS = """\
import random, uuid
from engine import Kind, Params, Receipt, Sink, Source, Transform, component

class Path(Params):
    path: str

@component(Kind.TRANSFORM, "steady")
class Steady(Transform[Params]):
    def apply(self, batch):
        return batch.replace([{**record, "twice": record["n"] * 2} for record in batch.records])

@component(Kind.TRANSFORM, "drawing")
class Drawing(Transform[Params]):
    def apply(self, batch):
        return batch.replace([{**record, "x": random.random()} for record in batch.records])

@component(Kind.TRANSFORM, "hashing")
class Hashing(Transform[Params]):
    def apply(self, batch):
        return batch.replace([{**record, "x": hash(str(record["n"]))} for record in batch.records])

@component(Kind.SOURCE, "renaming", params=Path)
class Renaming(Source[Path]):
    repeatable = True

    async def extract(self):
        for number in range(40):
            yield {"n": number}

    def key(self, record, ordinal):
        return uuid.uuid4().hex

@component(Kind.SINK, "adding", params=Path)
class Adding(Sink[Path]):
    async def write(self, batch):
        with open(self.params.path, "a") as out:
            out.writelines(f"{record['n']}\\n" for record in batch.records)
        return Receipt()
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("parts.py").write_text(COMPONENTS)
    Path("in.jsonl").write_text("".join(f'{{"n": {number}}}\n' for number in range(60)))


def tried(
    capsys: pytest.CaptureFixture[str],
    *options: str,
    source: str = "jsonl",
    transform: str = "parts:Steady",
    sink: str = "jsonl",
) -> tuple[int, str]:
    text = FILE.replace("SOURCE", source).replace("TRANSFORM", transform).replace("SINK", sink)
    Path("pipelines.yaml").write_text(text)
    code = main(["run", "--chaos", *options])
    assert sorted({*os.listdir()} - {"__pycache__"}) == ["in.jsonl", "parts.py", "pipelines.yaml"], (
        "nothing is delivered or stored"
    )
    found = capsys.readouterr()
    return code, found.out + found.err


@pytest.mark.series
def test_a_sound_pipeline_passes(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = tried(capsys, "--kills", "2", "--limit", "50")

    assert code == 0
    assert re.fullmatch(
        r"orders: 50 records, 5 disturbed runs, \d+ kills: nothing lost, doubled or changed\n", shown
    )


@pytest.mark.parametrize("found", [[], [Finding(8, "save", "missing", ["a", "b", "c", "d"])]])
def test_the_verdict_is_printed(
    found: list[Finding], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def chaos(load: Callable[[], Plan], *, seed: int, how: Disturbances, **options: Any) -> ChaosReport:
        assert how.kills == 2
        return ChaosReport(pickle.loads(pickle.dumps(load))().pipeline, 60, [seed, seed + 1], 4, found)

    monkeypatch.setattr("engine.cli.local.chaos.chaos", chaos)
    code, shown = tried(capsys, "7", "--kills", "2")

    if not found:
        assert (code, shown) == (
            0, "orders: 60 records, 2 disturbed runs, 4 kills: nothing lost, doubled or changed\n"
        )  # fmt: skip
    else:
        assert (code, shown.splitlines()) == (
            7,
            [
                "orders: 60 records, 2 disturbed runs, 4 kills: DIFFERS FROM THE UNDISTURBED RUN",
                "  seed 8: save: missing: 4 (a, b, c, …)",
                "  again: --only orders --chaos 8 --kills 2",
            ],
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_trial(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[bool] = []
    before = signal.getsignal(number)

    async def chaos(load: Callable[[], Plan], **options: Any) -> ChaosReport:
        while signal.getsignal(number) is before:  # it would end the tests
            await anyio.lowlevel.checkpoint()
        try:
            os.kill(os.getpid(), number)
            await anyio.sleep_forever()
        finally:
            ended.append(True)
        raise AssertionError

    monkeypatch.setattr("engine.cli.local.chaos.chaos", chaos)

    assert tried(capsys) == (128 + number, "")
    assert ended == [True]


@pytest.mark.series  # many processes; tests/unit/kernel/test_chaos.py has a fast one of each kind
@pytest.mark.parametrize(
    ("part", "name", "finding"),
    [
        ("transform", "parts:Drawing", "save: missing or with other values: 60"),
        ("sink", "parts:Adding", "save: too many, or with other values"),
        ("source", "parts:Renaming", "save: too many, or with other values"),
    ],
)
def test_planted_bugs_are_found_with_the_seed(
    part: str, name: str, finding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, shown = tried(capsys, "7", **{part: name})

    assert code == 7
    assert "orders: 60 records" in shown or "orders: 40 records" in shown
    assert finding in shown
    (seed,) = re.findall(r"again: --only orders --chaos (\d+)", shown)
    code, again = tried(capsys, seed, **{part: name})
    assert (code, "1 disturbed run," in again) == (7, True)


@pytest.mark.series
@pytest.mark.cold  # another process has another seed of hashes
def test_a_value_that_depends_on_the_process_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = tried(capsys, transform="parts:Hashing")

    assert (code, "with other values" in shown) == (7, True)


@pytest.mark.series
def test_the_example_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(ROOT / "pipelines.yaml"), "--chaos"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["blobs", "logs", "events", "unstructured_data"]
    assert all(re.search(r"5 disturbed runs, \d+ kills: nothing lost", line) for line in lines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kills", "2"], "add --chaos"),
        (["--chaos", "--kills", "-1"], "give 0 or more"),
        (["--chaos", "x"], "expected a seed such as 7"),
        (["--chaos", "--resume"], "leave --resume out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("pipelines.yaml").write_text(
        FILE.replace("SOURCE", "jsonl").replace("TRANSFORM", "parts:Steady").replace("SINK", "jsonl")
    )

    assert main(["run", *options]) == 2
    assert message in capsys.readouterr().err
