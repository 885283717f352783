"""Taps: the output of a node in a running pipeline, seen from outside."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.cli.local.tapping import tap_run
from engine.cli.options import TapOptions
from engine.contract.batch import Batch
from engine.contract.types import JsonValue
from engine.errors import BatchError, ConfigError, EngineError, RecordError
from engine.execution import tapping
from engine.execution.engine import Engine
from engine.execution.run import Run
from engine.flow.tapping import NodeTaps, Seen, watched_write
from engine.plan.model import Plan
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import Apply, Wait, pages, record_of

pytestmark = pytest.mark.anyio


class Gate(Wait):
    """A transform that waits until it is opened."""

    def __init__(self) -> None:
        super().__init__(lambda batch: batch)
        self.opened = anyio.Event()

    async def apply(self, batch: Batch) -> Batch:  # type: ignore[override]
        await self.opened.wait()
        return batch


class Secretive(Apply):
    """Hides everything that has not been through it."""

    def redact(self, record: JsonValue, *, done: bool) -> JsonValue:
        return record if done else "***"


class Place:
    """Where batches leave a node, in a test of `NodeTaps` alone."""

    def __init__(self) -> None:
        self.seen: Seen | None = None

    def watch(self, seen: Seen | None) -> None:
        self.seen = seen


class Opening:
    """Opens a gate once there is a tap."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def watch(self, seen: Seen | None) -> None:
        self.gate.opened.set()


def plan_of(gate: Gate) -> Plan:
    doubled = Secretive(lambda batch: batch.replace([2 * one for one in batch.records]))
    source = MemorySource({"a": pages(30)})
    return linear_plan(source, gate, doubled, MemorySink(), pipeline="numbers")


def sockets(state: Path) -> list[Path]:
    return list(state.glob("tap-*.sock"))


async def tapped(state: Path, look: Callable[[Run, Gate], Awaitable[None]]) -> None:
    """Run a plan that waits behind its source; `look` opens the gate."""
    gate = Gate()
    async with Engine(state_dir=state) as engine, engine.start(plan_of(gate)) as run:
        await engine.offer_taps()
        async with anyio.create_task_group() as group:
            group.start_soon(run.wait)
            await look(run, gate)
    assert not sockets(state)


async def through_a_tap(state: Path, run: Run, gate: Gate, node: str, limit: int = 3) -> None:
    """Open the gate once the tap is attached."""
    run.taps_of(node).add_place(Opening(gate))
    await tap_run(TapOptions(state_dir=str(state), node=run.run_id, file=node, limit=limit))


def test_a_place_is_watched_only_while_there_is_a_tap() -> None:
    taps, early, late, got = NodeTaps(), Place(), Place(), list[object]()
    taps.add_place(early)
    assert early.seen is None
    taps.attach(got.extend)
    taps.add_place(late)
    assert early.seen is not None
    assert late.seen is not None
    late.seen([1, 2])
    assert got == [1, 2]
    taps.detach(got.extend)
    assert (early.seen, late.seen) == (None, None)


@pytest.mark.parametrize("node", ["n0", "n1", "n2", "n3"])
async def test_every_kind_of_node_can_be_tapped_and_left(node: str) -> None:
    gate, seen = Gate(), list[Any]()
    gate.opened.set()
    async with Engine() as engine, engine.start(plan_of(gate)) as run:
        run.taps_of(node).attach(seen.extend)
        report = await run.wait()
        run.taps_of(node).detach(seen.extend)
    assert report.tally.written == 30
    assert seen == [2 * one if node > "n1" else one for one in range(30)]


async def test_a_tap_of_a_sink_sees_only_what_it_took() -> None:
    seen: list[Any] = []

    async def write(batch: Batch) -> None:
        raise BatchError({1: RecordError("refused")})

    with pytest.raises(BatchError):
        await watched_write(write, seen.extend)(Batch([1, 2, 3], ["a", "b", "c"]))
    assert seen == [1, 3]


@pytest.mark.slow
@pytest.mark.parametrize(("node", "shown"), [("n1", ["***"] * 3), ("n2", ["0", "2", "4"])])
async def test_samples_are_printed_and_hidden_as_declared(
    node: str, shown: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await tapped(tmp_path, lambda run, gate: through_a_tap(tmp_path, run, gate, node))
    assert [line.strip('"') for line in capsys.readouterr().out.splitlines()] == shown


@pytest.mark.slow
async def test_a_tap_ends_with_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await tapped(tmp_path, lambda run, gate: through_a_tap(tmp_path, run, gate, "n3", 100))
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 30
    assert printed.err == "numbers: the run has ended; 30 records passed meanwhile\n"


@pytest.mark.slow
async def test_a_record_that_cannot_be_shown_does_not_stop_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Secretive, record: JsonValue, *, done: bool) -> JsonValue:
        raise KeyError("no such field")

    monkeypatch.setattr(Secretive, "redact", broken)
    await tapped(tmp_path, lambda run, gate: through_a_tap(tmp_path, run, gate, "n3", 1))
    assert capsys.readouterr().err.startswith("numbers: a record was left out: it cannot be shown (KeyError)")


@pytest.mark.slow
async def test_a_reader_that_leaves_in_the_midst_does_not_stop_the_run(tmp_path: Path) -> None:
    class Leaving:
        def watch(self, seen: Seen | None) -> None:
            if seen is not None:
                reader.close()
                seen([1, 2])  # its socket is written to before the loop can tell that it is closed

    reader = socket.socket(socket.AF_UNIX)

    async def look(run: Run, gate: Gate) -> None:
        run.taps_of("n3").add_place(Leaving())
        (path,) = sockets(tmp_path)
        reader.connect(str(path))
        reader.send(json.dumps({"run": run.run_id, "node": "n3", "limit": 9}).encode() + b"\n")
        await anyio.wait_all_tasks_blocked()
        gate.opened.set()
        await run.until_ended()

    await tapped(tmp_path, look)


@pytest.mark.slow
async def test_an_odd_request_does_not_stop_the_run(tmp_path: Path) -> None:
    async def look(run: Run, gate: Gate) -> None:
        (path,) = sockets(tmp_path)
        for request in (b"[" * 4_000, b"\xff", b'{"run": 7}', b"[]"):
            async with await anyio.connect_unix(path) as stream:
                await stream.send(request + b"\n")
                assert b"error" in await stream.receive()
        gate.opened.set()
        await run.until_ended()

    await tapped(tmp_path, look)


@pytest.mark.slow
async def test_an_unknown_node_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    async def look(run: Run, gate: Gate) -> None:
        with pytest.raises(ConfigError, match="numbers: unknown node `n33`, did you mean `n3`"):
            await tap_run(TapOptions(state_dir=str(tmp_path), node="numbers", file="n33"))
        gate.opened.set()

    await tapped(tmp_path, look)


@pytest.mark.slow
async def test_a_socket_is_for_its_user_alone(tmp_path: Path) -> None:
    async def look(run: Run, gate: Gate) -> None:
        (path,) = sockets(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
        gate.opened.set()

    await tapped(tmp_path, look)


@pytest.mark.slow
async def test_a_run_that_is_not_in_progress_shows_its_state(tmp_path: Path) -> None:
    async def refused(name: str, message: str) -> None:
        with pytest.raises(EngineError, match=message):
            await tap_run(TapOptions(state_dir=str(tmp_path), node=name, file="n1"))

    gate = Gate()
    gate.opened.set()
    async with Engine(state_dir=tmp_path) as engine:
        report = await engine.run(plan_of(gate))
        await engine.store.create_run(record_of("left"))
        await engine.store.create_run(record_of("elsewhere"))
        await engine.store.acquire_lease("elsewhere", "moon:1:abc", now="2026", until="9999")
        await refused(report.run_id, "not in progress: it is completed")
        await refused("left", "its process was killed")
        await refused("elsewhere", "another machine or in another container: on moon")
        await refused("nothing", "there is no run `nothing`; in progress: `left`, `elsewhere`")


async def test_too_large_objects_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    gate.opened.set()
    monkeypatch.setattr(tapping, "MAX_RECORD", 3_000)
    async with Engine() as engine, engine.start(plan_of(gate)) as run:
        samples = tapping._Samples(run, "n1", 5)
        samples.see([{"text": "x" * 9_000}, {"texts": ["y" * 1_500] * 4}])
        await run.wait()
    assert b"xxx" in samples._lines[0]
    assert len(samples._lines[0]) < 2_200
    assert b"too large to be shown" in samples._lines[1]
