"""Continue replays of dead letters that did not end.

The sinks of such a replay know by run and key which records it has delivered but not committed, until the run
completes. So these dead letters are replayed in the same run, and all of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

from engine.contract.clock import Clock
from engine.contract.dead_letter import DeadLetter
from engine.dead_letters.replay import REPLAY_GROUP, LetterId, Obstacle, ReplayGroup, letter_id, sent_by
from engine.execution.lease import living
from engine.state.records import DeadLetterFilter, RunRecord, RunStatus
from engine.state.store import StateStore

Replay: TypeAlias = tuple[ReplayGroup, RunRecord | None]
"""Dead letters to replay, and the run that continues with them, if any."""

_RESUMABLE = [status for status in RunStatus if status.resumable]


async def with_earlier_replays(
    store: StateStore,
    clock: Clock,
    groups: Sequence[ReplayGroup],
    regroup: Callable[[list[DeadLetter]], Sequence[ReplayGroup]],
) -> tuple[list[Replay], list[Obstacle]]:
    """Return the replays to make, and the dead letters that cannot be replayed now.

    A dead letter whose record has changed since the earlier replay gets a new run.
    """
    replays, obstacles = list[Replay](), list[Obstacle]()
    selected = {letter_id(letter) for group in groups for letter in group.letters}
    for group in groups:
        left = {letter.key: letter_id(letter) for letter in group.letters}  # the last of each key is sent
        digests = group.source.digests()
        for run, sent in await _unended(store, group):
            mine = {key for key, last in left.items() if sent.get(last) == digests[last]}
            left = {key: last for key, last in left.items() if key not in mine}
            letters = [letter for letter in group.letters if letter.key in mine]
            reason = await _obstacle(store, clock, group, run, sent.keys() - selected) if mine else ""
            if reason:
                obstacles.append(Obstacle(tuple(letters), reason))
            else:
                replays += [(one, run) for one in regroup(letters)]
        replays += [(one, None) for one in regroup([one for one in group.letters if one.key in left])]
    return replays, obstacles


async def _unended(store: StateStore, group: ReplayGroup) -> list[tuple[RunRecord, dict[LetterId, str]]]:
    """Return the replays from the same node that can be resumed, latest first, with what they may send."""
    found = []
    for run in reversed(await store.list_runs(identity=group.plan.identity, statuses=_RESUMABLE)):
        if run.group_id.startswith(REPLAY_GROUP):
            splits, _ = await store.splits(run.run_id, group.plan.nodes[0].name)
            found += [(run, sent_by(one.split)) for one in splits if not one.done]
    return found


async def _obstacle(
    store: StateStore, clock: Clock, group: ReplayGroup, run: RunRecord, others: Collection[LetterId]
) -> str:
    """Return why a replay cannot continue without these other dead letters; "" if it can."""
    if await living(store, clock, run.run_id) is not None:
        return f"the run {run.run_id} is replaying them now: try again when it has ended"
    where = DeadLetterFilter(pipeline=group.pipeline, node=group.node, status="open")
    left = len({letter_id(one) for one in await store.dead_letters(where)}.intersection(others))
    if not left:
        return ""
    named = "1 other" if left == 1 else f"{left:,} others"
    return (
        f"the interrupted replay {run.run_id} also has {named}, and may have delivered some: replay all "
        f"together (dlq replay --pipeline {group.pipeline} --node {group.node}, with the same patches), or "
        "discard the others first. --force, with ids, replays only these and may deliver them twice"
    )
