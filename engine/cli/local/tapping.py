"""`tap RUN NODE`: samples of the records that leave a node of a run in progress."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from engine.cli.display.numbers import count
from engine.cli.exit_codes import ExitCode
from engine.cli.history.list_runs import KILLED, entry_of
from engine.cli.options import TapOptions
from engine.cli.state import run_id_of, store_of
from engine.config.problems import listed, nearest, unknown
from engine.errors import ConfigError, RunNotFoundError, StateError
from engine.execution.lease import process_here
from engine.execution.tapping import MAX_SAMPLES, short_path, tap_socket
from engine.service.discovery import is_own
from engine.state import RunRecord, RunStatus, StateStore

MAX_LINE = 1_000_000
ANSWER_TIMEOUT = 10.0


async def tap_run(options: TapOptions) -> int:
    """Print samples until there are enough or the run has ended.

    Raises:
        ConfigError: the node is unknown, or an option is for trials only.
        RunNotFoundError: there is no such run.
        StateError: the run is not in progress, or its process cannot be reached.
    """
    if options.param or options.assignments:
        raise ConfigError("--param and --set change a trial: a run in progress has its values already")
    if not 1 <= options.limit <= MAX_SAMPLES:
        raise ConfigError(f"--limit: expected 1 to {MAX_SAMPLES} samples, got {options.limit}")
    async with store_of(options) as store:
        record = await _find(store, options)
        process = await _process_of(store, record)
    ended: dict[str, Any] = {}
    async with aclosing(_answers(_socket(options, record, process), record, options)) as messages:
        async for message in messages:
            if "error" in message:
                raise _refused(message, record, options.file)
            if "end" in message:
                ended = message
                break
            _print(record, message)
    if ended.get("end") != "limit":
        passed = f"; {count(ended['passed'])} records passed meanwhile" if ended else ""
        sys.stderr.write(f"{record.pipeline}: the run has ended{passed}\n")
    return ExitCode.COMPLETED


def _print(record: RunRecord, message: dict[str, Any]) -> None:
    if "note" in message:
        sys.stderr.write(f"{record.pipeline}: a record was left out: {message['note']}\n")
        return
    sys.stdout.write(json.dumps(message["record"], ensure_ascii=False) + "\n")
    sys.stdout.flush()


async def _find(store: StateStore, options: TapOptions) -> RunRecord:
    """Return the run with that id, or the newest run in progress of that pipeline."""
    running = [run for run in await store.list_runs() if run.status is RunStatus.RUNNING]
    for run in reversed(running):
        if run.pipeline == options.node:
            return run
    try:
        return await store.get_run(await run_id_of(store, options.node))
    except RunNotFoundError:
        ids = [run.run_id for run in running]
        near = nearest(options.node, ids)
        hint = f"did you mean `{near}`?" if near else f"in progress: {listed(ids[-5:]) or 'none'}"
        raise RunNotFoundError(f"there is no run `{options.node}`; {hint}") from None


async def _process_of(store: StateStore, record: RunRecord) -> int:
    entry = await entry_of(store, record)
    if record.durable:
        raise StateError(f"{record.run_id} runs on Temporal's workers, which have no taps")
    if entry.status == KILLED:
        raise StateError(f"{record.run_id} is not in progress: its process was killed")
    if entry.lease is None or record.status is not RunStatus.RUNNING:
        raise StateError(f"{record.run_id} is not in progress: it is {entry.status}")
    process = process_here(entry.lease.holder)
    if process is None:
        host = entry.lease.holder.partition(":")[0]
        raise StateError(f"{record.run_id} runs on another machine or in another container: on {host}")
    return process


def _socket(options: TapOptions, record: RunRecord, process: int) -> str:
    path = tap_socket(Path(options.state_dir), process)
    where, remedy = short_path(path), ""
    if where is None:
        remedy = f"the path of {options.state_dir} is too long for a socket: use a shorter --state-dir"
    elif not path.exists():
        remedy = f"it offers none in {os.path.abspath(options.state_dir)}: name its --state-dir"
    elif not is_own(path):
        remedy = "its socket belongs to another user"
    if where is None or remedy:
        raise StateError(f"{record.run_id} cannot be tapped in process {process}: {remedy}")
    return where


async def _answers(
    where: str, record: RunRecord, options: TapOptions
) -> AsyncGenerator[dict[str, Any], None]:
    request = {"run": record.run_id, "node": options.file, "limit": options.limit}
    try:
        with anyio.fail_after(ANSWER_TIMEOUT):
            stream = await anyio.connect_unix(where)
    except (OSError, TimeoutError) as error:
        raise StateError(f"{record.run_id}: its process does not answer: {error}") from error
    async with stream:
        await stream.send(json.dumps(request).encode() + b"\n")
        lines = BufferedByteReceiveStream(stream)
        while True:
            try:
                line = await lines.receive_until(b"\n", MAX_LINE)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                return  # the process has ended
            yield json.loads(line)


def _refused(message: dict[str, Any], record: RunRecord, node: str) -> Exception:
    if nodes := message.get("nodes"):
        return ConfigError(f"{record.pipeline}: {unknown('node', node, nodes)}")
    return StateError(f"{record.run_id}: {message['error']}")
