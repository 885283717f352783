"""Markdown details of runs and shards for Temporal's page. Loaded by Temporal's sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from engine.temporal.messages import Control, Counts, Parked, ShardRequest, Trouble

MAX_TEXT = 400
"""Maximum characters of a failure or an answer; the worker's log has the full text."""


def of_run(
    pipeline: str,
    run_id: str,
    phase: str,
    control: Control,
    shards: tuple[int, int],
    chunks: int,
    troubles: Mapping[str, tuple[Trouble, datetime]],
    waits_for: str = "",
    ended: tuple[str, str] = ("", ""),
) -> str:
    """Describe a run: its phase, its finished shards and its current trouble, or its result.

    Args:
        shards: number of finished shards, and of all shards.
        troubles: trouble by node, and when it was reported.
        waits_for: another run of the pipeline that must end first.
        ended: its final status and reason; "" while it runs or without a reason.
    """
    status, why = ended
    lines = [f"**{pipeline}**, run `{run_id}`: {status or _state(phase, control)}"]
    if why:
        lines.append(f"**{status}**: {quoted(why)}")
    if waits_for:
        lines.append(quoted(waits_for))
    if chunks:
        done, total = shards
        lines.append(
            f"{done} of {counted(total, 'shard')} done, {counted(chunks, 'chunk')} in all: the workflow of"
            " each shard shows its progress"
        )
    for trouble, told in troubles.values() if not status else ():
        lines.append(
            f"**{trouble.waiting}**: `{trouble.node}` waits since"
            f" {datetime.fromtimestamp(trouble.since, UTC):%H:%M:%S} UTC (reported at {told:%H:%M:%S});"
            f" last answer: {quoted(trouble.note)}"
        )
    return "\n\n".join(lines)


def of_shard(state: ShardRequest, open_chunks: int, seconds: float, failure: str = "") -> str:
    """Describe a shard: its chunks, its counts and rate in this part, and its failures.

    Args:
        failure: the failure that ends it; "" without one.
    """
    left = state.end_chunk - state.next_chunk + len(state.to_retry)
    whose = f"**{state.pipeline}**, run `{state.run_id}`, source `{state.splits.node}`"
    lines = [
        f"{whose}: {'failed' if failure else _state('running', state.control)}",
        f"{counted(state.done_chunks, 'chunk')} done, {open_chunks} in progress, {left} left",
        _counts(state.counts, seconds),
    ]
    if failure:
        lines.insert(1, f"**failed**: {quoted(failure)}")
    if state.parked:
        lines.append("parked for a second attempt: " + failures(state.parked, state.reasons))
    return "\n\n".join(lines)


def failures(failed: Parked, reasons: Mapping[str, str], verb: str = "with") -> str:
    """List failed chunks by type, each with its last message."""
    return "; ".join(
        f"{counted(len(chunks), 'chunk')} {verb} {kind}" + (f": {reasons[kind]}" if reasons.get(kind) else "")
        for kind, chunks in failed.items()
    )


def counted(number: int, noun: str) -> str:
    """`1 chunk`, `2 chunks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def quoted(text: str) -> str:
    """Quote a foreign text as code, so that it is not parsed as Markdown."""
    plain = " ".join(text.replace("`", "'").split())
    return f"`{plain[:MAX_TEXT]}`" if plain else "none"


def _state(phase: str, control: Control) -> str:
    if phase != "running":
        return phase or "starting"
    return "draining" if control.draining else "paused" if control.paused else "running"


def _counts(counts: Counts, seconds: float) -> str:
    rate = f" ({counts.written / seconds:,.0f}/s)" if counts.written and seconds > 0 else ""
    written = f"{counts.read:,} read, {counts.written:,} written{rate}"
    text = f"{written}, {counts.dropped:,} dropped, {counts.dead:,} dead"
    paid = counts.tokens_in + counts.tokens_out
    return text + (f", {paid:,} tokens, {counts.cost_usd:.2f} USD" if paid else "")
