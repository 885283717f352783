"""Only one process at a time works on a run; one that loses the lease stops and writes nothing more."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from connectors.files.sink import FilesSink, FilesSinkParams
from engine.contract.batch import Batch
from engine.contract.clock import timestamp
from engine.contract.component import Context, NoParams, Source
from engine.contract.lease import Lease, NoLease
from engine.contract.types import Record
from engine.errors import LeaseHeldError, LeaseLostError
from engine.execution import lease as lease_module
from engine.execution.engine import Engine
from engine.execution.lease import (
    LEASE_TTL,
    RENEWED_EVERY,
    HeldLease,
    acquire,
    holder_is_gone,
    living,
    numbering,
)
from engine.execution.report import RunReport
from engine.execution.spending import PipelineSpending
from engine.state import RunStatus, StateStore, open_store
from engine.state.memory import MemoryStateStore
from engine.testing import MemorySink, MemorySource, ScriptedClock, linear_plan
from tests.unit.kernel.runs import pages, record_of

RUN = "p-1"
HOST = socket.gethostname()
MARK = numbering()


class Gated(Source[NoParams]):
    """One record, and another one when the gate opens."""

    def __init__(self) -> None:
        super().__init__(NoParams())
        self.gate = anyio.Event()

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        yield [1]
        await self.gate.wait()
        yield [2]


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


async def until_written(sink: MemorySink, count: int) -> None:
    with anyio.fail_after(300):
        while len(sink.records) < count:  # noqa: ASYNC110 - nothing announces it
            await anyio.sleep(0.001)


@pytest.fixture
async def store() -> AsyncGenerator[StateStore, None]:
    async with MemoryStateStore() as opened:
        await opened.create_run(record_of(RUN))
        yield opened


@pytest.mark.anyio
async def test_a_lease_names_its_process_and_lasts_half_a_minute(store: StateStore) -> None:
    clock = ScriptedClock()
    async with acquire(store, clock, RUN) as lease:
        (known,) = await store.leases(RUN)
        assert known.holder.startswith(f"{HOST}:{os.getpid()}:")
        assert known.expires_at == timestamp(clock.now() + timedelta(seconds=LEASE_TTL))
        assert known.epoch == lease.epoch == 1
        assert await living(store, clock, RUN) == known
    assert await store.leases(RUN) == []


@pytest.mark.anyio
async def test_it_is_renewed_as_long_as_it_is_kept(store: StateStore) -> None:
    clock = ScriptedClock(jump=True)
    naps = 0

    async def sleep(seconds: float) -> None:
        nonlocal naps
        naps += 1
        if naps > 6:
            raise EOFError
        await clock.sleep(seconds)

    async with acquire(store, clock, RUN) as lease:
        with pytest.raises(EOFError):
            await lease.renew_periodically(sleep)
        assert clock.monotonic() == 6 * RENEWED_EVERY > LEASE_TTL
        with pytest.raises(
            LeaseHeldError, match=rf"process {HOST}:{os.getpid()}:\w+ is working on run '{RUN}'"
        ):
            async with acquire(store, clock, RUN):
                raise AssertionError


@pytest.mark.anyio
async def test_one_that_is_not_renewed_expires_and_its_holder_is_told(store: StateStore) -> None:
    clock = ScriptedClock()
    async with acquire(store, clock, RUN) as slow:
        clock.advance(LEASE_TTL)
        assert await living(store, clock, RUN) is None
        async with acquire(store, clock, RUN) as quick:
            assert quick.epoch == slow.epoch + 1
            with pytest.raises(LeaseLostError, match="took over"):
                await slow.renew_periodically(ScriptedClock(jump=True).sleep)


@pytest.mark.slow
@pytest.mark.anyio
async def test_the_lease_of_a_process_that_is_gone_is_taken_over_at_once(store: StateStore) -> None:
    clock = ScriptedClock()
    until = timestamp(clock.now() + timedelta(seconds=LEASE_TTL))
    dead = f"{HOST}:{ended_process()}:{MARK}ab12cd"
    await store.acquire_lease(RUN, dead, now=timestamp(clock.now()), until=until)
    assert await living(store, clock, RUN) is None
    async with acquire(store, clock, RUN) as lease:
        assert lease.epoch == 2


def test_other_hosts_and_unknown_holders_count_as_alive() -> None:
    dead = ended_process()
    assert holder_is_gone(f"{HOST}:{dead}:{MARK}ab12cd")
    assert not holder_is_gone(f"{HOST}-other:{dead}:{MARK}ab12cd")
    assert not holder_is_gone(f"{HOST}:{dead}:another_machine_of_that_name")
    assert not holder_is_gone(f"{HOST}:{os.getpid()}:{MARK}ab12cd")
    assert not holder_is_gone(f"{HOST}:99999999999999999999:{MARK}ab12cd")
    for odd in ("", "a", f"{HOST}:x:y", f"{dead}"):
        assert not holder_is_gone(odd)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_killed_process_that_its_parent_has_not_asked_about_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not holder_is_gone(f"{HOST}:{child.pid}:{MARK}ab12cd")
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert holder_is_gone(f"{HOST}:{child.pid}:{MARK}ab12cd")
    finally:
        child.communicate()


@pytest.mark.anyio
async def test_a_run_under_way_cannot_be_resumed_beside_it(tmp_path: Path) -> None:
    source, sink = Gated(), MemorySink()
    async with Engine(state_dir=tmp_path) as first, Engine(state_dir=tmp_path) as second:
        async with first.start(linear_plan(source, sink)) as run, anyio.create_task_group() as group:
            reports: list[RunReport] = []

            async def wait() -> None:
                reports.append(await run.wait())

            group.start_soon(wait)
            await until_written(sink, 1)
            record = await second.store.get_run(run.run_id)
            with pytest.raises(LeaseHeldError, match=rf"process {HOST}:{os.getpid()}:\w+ is working on run"):
                await second.run(run.plan, resume=record)
            assert await second.store.get_run(run.run_id) == record
            source.gate.set()
        assert reports[0].ok
        assert await second.store.leases(run.run_id) == []


@pytest.mark.anyio
@pytest.mark.parametrize("suspended", [False, True])
async def test_run_that_was_taken_over_stops_without_writing(
    tmp_path: Path, suspended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = Gated(), MemorySink()
    async with Engine(state_dir=tmp_path) as engine, open_store(tmp_path) as other:
        async with engine.start(linear_plan(source, sink)) as run, anyio.create_task_group() as group:
            reports: list[RunReport] = []

            async def wait() -> None:
                reports.append(await run.wait())

            group.start_soon(wait)
            await until_written(sink, 1)
            (lease,) = await other.leases(run.run_id)
            taken = await other.acquire_lease(
                run.run_id, "elsewhere:1:x", now="2026", until="2999", dead_holders=[lease.holder]
            )
            await other.update_run(run.run_id, status=RunStatus.RUNNING, attempt=2, epoch=taken.epoch)
            before = await other.tally(run.run_id)
            if suspended:
                woken_at = lease_module._seconds_since_boot() + LEASE_TTL + 1
                monkeypatch.setattr(lease_module, "_seconds_since_boot", lambda: woken_at)
            source.gate.set()
        (report,) = reports
        if suspended:
            assert len(sink.records) == 1, "not even to the sink"
        assert report.status is RunStatus.FAILED
        assert isinstance(report.failure, LeaseLostError)
        assert f"elsewhere:1:x took over run {run.run_id!r} (epoch 2, ours is 1)" in report.error
        assert await other.tally(run.run_id) == before
        now = await other.get_run(run.run_id)
        assert (now.status, now.attempt) == (RunStatus.RUNNING, 2)
        assert await other.leases(run.run_id) == [taken]


class Lost:
    """A lease that another process has taken."""

    def is_expired(self) -> bool:
        return True

    async def confirm(self) -> None:
        raise LeaseLostError("gone")


async def test_nothing_is_paid_for_without_the_lease(store: StateStore) -> None:
    spending = PipelineSpending(store, ScriptedClock(), "memos", RUN, None, None, Lost())
    with pytest.raises(LeaseLostError):
        async with spending.paying(0.1):
            raise AssertionError


def files_sink(folder: Path, run_id: str, lease: Lease, **params: Any) -> FilesSink:
    sink = FilesSink(FilesSinkParams(path=str(folder), **params))
    sink.ctx = Context(run_id=run_id, lease=lease)
    return sink


def files_in(folder: Path, pattern: str = "*") -> list[Path]:
    return [path for path in folder.rglob(pattern) if path.is_file()]


async def test_no_file_is_replaced_without_the_lease(tmp_path: Path) -> None:
    async with files_sink(tmp_path, RUN, Lost()) as sink:
        with pytest.raises(LeaseLostError):
            await sink.write(Batch([{"a": 1}], ["k"]))
    assert files_in(tmp_path) == [], "not even a note"


async def test_no_file_is_deleted_without_the_lease(tmp_path: Path) -> None:
    async with files_sink(tmp_path, RUN, NoLease()) as sink:
        await sink.write(Batch([{"a": 1}], ["k"]))
    (file,) = files_in(tmp_path, "*.jsonl")
    async with files_sink(tmp_path, "later", Lost(), mode="replace") as sink:
        with pytest.raises(LeaseLostError):
            await sink.run_completed()

    file.write_text("what the other process writes at this moment")
    with pytest.raises(LeaseLostError):
        async with files_sink(tmp_path, RUN, Lost()):
            raise AssertionError
    assert file.exists()


async def test_no_run_is_completed_without_the_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink with `mode: replace` would delete the files of later runs."""
    completed: list[str] = []

    class Replacing(MemorySink):
        async def run_completed(self) -> None:
            completed.append(self.ctx.run_id)

    async with Engine() as engine:
        assert (await engine.run(linear_plan(MemorySource(pages(2)), Replacing()))).ok
        assert len(completed) == 1
        monkeypatch.setattr(HeldLease, "is_expired", Lost.is_expired)
        monkeypatch.setattr(HeldLease, "confirm", Lost.confirm)
        report = await engine.run(linear_plan(MemorySource({}), Replacing()))
    assert (report.status, report.error, len(completed)) == (RunStatus.FAILED, "gone", 1)


@pytest.mark.anyio
async def test_a_run_whose_lease_cannot_be_renewed_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose(lease: HeldLease) -> None:
        raise LeaseLostError("gone")

    monkeypatch.setattr(HeldLease, "renew_periodically", lose)
    async with Engine() as engine:
        report = await engine.run(linear_plan(Gated(), MemorySink()))
    assert (report.status, report.error) == (RunStatus.FAILED, "gone")


@pytest.mark.anyio
async def test_cancelled_run_releases_its_lease() -> None:
    source, sink = Gated(), MemorySink()
    async with Engine() as engine:
        async with AsyncExitStack() as stack, anyio.create_task_group() as group:
            run = await stack.enter_async_context(engine.start(linear_plan(source, sink)))
            group.start_soon(run.wait)
            await until_written(sink, 1)
            assert await living(engine.store, engine.clock, run.run_id) is not None
            group.cancel_scope.cancel()
        assert await engine.store.leases(run.run_id) == []
        assert (await engine.store.get_run(run.run_id)).status is RunStatus.INTERRUPTED


@pytest.mark.anyio
async def test_every_attempt_has_an_epoch_of_its_own(store: StateStore) -> None:
    plan = linear_plan(MemorySource(pages(20)), MemorySink())
    async with Engine(store=store) as engine:
        first = await engine.run(plan)
        again = await engine.run(plan, resume=await engine.store.get_run(first.run_id))
        assert (first.ok, again.ok, again.attempt) == (True, True, 2)
        async with acquire(engine.store, engine.clock, first.run_id) as lease:
            assert lease.epoch == 3


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 0.001, 0.005])
async def test_a_cancelled_acquisition_leaves_no_lease(tmp_path: Path, delay: float) -> None:
    async with open_store(tmp_path / "state") as store:
        await store.create_run(record_of(RUN))

        async def hold() -> None:
            async with acquire(store, ScriptedClock(), RUN, "c"):
                await anyio.sleep_forever()

        for _ in range(20):
            task = asyncio.ensure_future(hold())
            await asyncio.sleep(delay)
            task.cancel()  # not by a scope of anyio's, which would wait for the store
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await store.leases(RUN) == []


async def test_a_cancelled_release_in_memory_is_made() -> None:
    async with MemoryStateStore() as store:
        await store.create_run(record_of(RUN))
        opened = anyio.Event()

        async def hold() -> None:
            async with acquire(store, ScriptedClock(), RUN, "c"):
                opened.set()

        task = asyncio.ensure_future(hold())
        await opened.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.leases(RUN) == []
