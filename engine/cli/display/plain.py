"""Progress without a terminal: one line per pipeline every few seconds, or JSON every second."""

from __future__ import annotations

import json
import sys
from time import monotonic

import anyio
from anyio.abc import TaskStatus

from engine.cli.display.numbers import Rate, count, duration, rate, size
from engine.cli.display.protocol import Shown, ShownRuns
from engine.cli.display.terminal import printable
from engine.contract.clock import SystemClock, timestamp
from engine.flow.stats import RunSnapshot, read_here

PLAIN_EVERY = 5.0
JSON_EVERY = 1.0


async def show_plain(session: ShownRuns, *, task_status: TaskStatus[None]) -> None:
    """Write plain lines until cancelled."""
    task_status.started()
    rates: dict[str, Rate] = {}
    while True:
        await anyio.sleep(PLAIN_EVERY)
        for entry in list(session.entries.values()):
            snapshot = entry.snapshot()
            if entry.report is not None:
                continue
            if snapshot is None:
                if entry.trouble:
                    sys.stderr.write(printable(f"{entry.name}: {entry.trouble}\n"))
                continue
            now = monotonic()
            if entry.name not in rates:  # the first line has the mean since the start
                rates[entry.name] = Rate()
                rates[entry.name].update(now - snapshot.elapsed, 0)
            speed = rates[entry.name].update(now, read_here(snapshot.nodes))
            sys.stderr.write(printable(plain_line(snapshot, speed) + "\n"))
        sys.stderr.flush()


async def show_json(session: ShownRuns, *, task_status: TaskStatus[None]) -> None:
    """Write JSON lines until cancelled; the last line of each run has its result."""
    task_status.started()
    ended: set[str] = set()
    try:
        while True:
            _write_json(session, ended)
            await anyio.sleep(JSON_EVERY)
    finally:
        _write_json(session, ended)


def _write_json(session: ShownRuns, ended: set[str]) -> None:
    for entry in list(session.entries.values()):
        line = json_line(entry) if entry.name not in ended else None
        if line is not None:
            sys.stderr.write(line + "\n")
        if entry.report is not None:
            ended.add(entry.name)
    sys.stderr.flush()


def plain_line(snapshot: RunSnapshot, speed: float) -> str:
    """`blobs 0:10: read 12,000 (1,150/s), written 11,500, dead 3, 4.0 M in flight, waits for load`."""
    tally = snapshot.tally
    parts = [f"read {count(tally.read)} ({rate(speed)}/s)", f"written {count(tally.written)}"]
    if tally.dropped:
        parts.append(f"dropped {count(tally.dropped)}")
    if tally.dead:
        parts.append(f"dead {count(tally.dead)}")
    if snapshot.bytes_budget:  # unknown for a run of another process
        parts.append(f"{size(snapshot.bytes_in_flight)} in flight")
    if snapshot.state:
        parts.append(snapshot.state)
    elif snapshot.draining:
        parts.append("draining")
    if snapshot.waits_for:
        parts.append(f"waiting for {snapshot.waits_for}")
    return f"{snapshot.pipeline} {duration(snapshot.elapsed)}: {', '.join(parts)}"


def json_line(entry: Shown) -> str | None:
    """Return the progress or the result of a pipeline as a JSON object, or None before it has a run."""
    snapshot = entry.snapshot()
    head = {"at": timestamp(SystemClock().now()), "pipeline": entry.name}
    if entry.report is not None:
        return json.dumps({"event": "ended", **head, **entry.report.to_json()})
    if snapshot is None:
        return None
    tally = snapshot.tally
    return json.dumps(
        {
            "event": "progress",
            **head,
            "run_id": snapshot.run_id,
            "seconds": round(snapshot.elapsed, 3),
            "read": tally.read,
            "forked": tally.forked,
            "written": tally.written,
            "dropped": tally.dropped,
            "dead": tally.dead,
            "bytes_in_flight": snapshot.bytes_in_flight,
            "bytes_budget": snapshot.bytes_budget,
            "draining": snapshot.draining,
            "waits_for": snapshot.waits_for,
            "state": snapshot.state,
            "nodes": {
                node.name: {
                    "in": node.records_in,
                    "out": node.records_out,
                    "retries": node.retries,
                    "utilisation": round(node.utilisation, 4),
                    "waiting": str(node.waiting),
                }
                for node in snapshot.nodes
            },
        }
    )
