"""The division of a run: splits into chunks, chunks into shards. Loaded by Temporal's sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from engine.temporal.details import failures
from engine.temporal.messages import Control, PipelineRequest, ShardRequest, ShardResult, Splits, chunk_range

MAX_CHUNKS = 2000
"""Default number of chunks per source."""


def cut(node: str, splits: int, chunk_splits: int) -> Splits:
    """Return the chunks of a source.

    Args:
        chunk_splits: splits in a chunk; 0 derives it from the number of splits.
    """
    return Splits(node, splits, chunk_splits if chunk_splits > 0 else max(1, -(-splits // MAX_CHUNKS)))


def divide(
    request: PipelineRequest, identity: str, splits: Sequence[Splits], control: Control
) -> list[ShardRequest]:
    """Divide chunks into at most `shards` ranges of similar size per source."""
    requests: list[ShardRequest] = []
    for one in splits:
        shards = max(1, min(request.shards, one.chunks))
        bounds = [one.chunks * number // shards for number in range(shards + 1)]
        for first, end in pairwise(bounds):
            if first == end:
                continue
            requests.append(
                ShardRequest(
                    request.run_id,
                    request.pipeline,
                    identity,
                    one,
                    first,
                    end,
                    control,
                    heartbeat=request.heartbeat,
                    queues=request.queues,
                )
            )
    return requests


def names_of_failed(parts: Sequence[ShardRequest], results: Sequence[ShardResult]) -> list[str]:
    """Return the failed chunks by lease name, with reasons."""
    names: list[str] = []
    for part, result in zip(parts, results, strict=True):
        for kind, chunks in result.failed.items():
            for first, count in (chunk_range(part.splits, chunk) for chunk in chunks):
                names.append(f"{part.splits.node}/{first}+{count}: {kind}")
    return names


def failures_of(results: Sequence[ShardResult]) -> str:
    """Return failed chunks of all shards by type, with the last message of each."""
    failed: dict[str, list[int]] = {}
    reasons: dict[str, str] = {}
    for result in results:
        reasons |= result.reasons
        for kind, chunks in result.failed.items():
            failed.setdefault(kind, []).extend(chunks)
    return failures(failed, reasons, "failed with")
