"""Replay dead letters from the node that failed, as a separate run.

The dead letters become the records of a source, under their original keys. That source replaces everything
upstream of the node; the node itself and everything downstream are those of the current pipeline. Delivered
records replace rows of earlier deliveries of the same key, but nothing newer: dead letters that were closed
before the sinks opened are left out, and later deliveries are kept.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TypeAlias, cast

from engine.contract.batch import Batch
from engine.contract.component import ComponentSpec, Context, Kind, NoParams, Source
from engine.contract.dead_letter import DeadLetter
from engine.contract.keys import KeyList
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.dead_letters.patch import Patch, apply_patches
from engine.plan.identity import identity_hash
from engine.plan.model import DeadLetterSettings, Plan, PlanNode

REPLAY_GROUP = "replay-"
"""Prefix of the group of a run that replays dead letters; the next replay continues it, `resume` does not."""

LetterId: TypeAlias = tuple[str, str, str]
"""Run, node and key."""

StillOpen: TypeAlias = Callable[[], Awaitable[Collection[LetterId]]]
"""Called once the sinks are open: returns the dead letters that are still open."""

SOURCE_NAME = "dead_letters"
_LETTERS = "letters"
PAGE = 256


@dataclass(frozen=True, slots=True)
class ReplayGroup:
    """Dead letters of one node, replayed in one run.

    Attributes:
        letters: the dead letters; of several with one key the last is sent.
        plan: the run.
        source: the run's source.
        changed: number of records that the patches changed.
    """

    pipeline: str
    node: str
    letters: tuple[DeadLetter, ...]
    plan: Plan
    source: ReplaySource
    changed: int = 0

    @property
    def replayed(self) -> list[DeadLetter]:
        """Return the dead letters that are settled when the run completes."""
        return [letter for letter in self.letters if letter.key not in self.source.closed]


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Dead letters that cannot be replayed, and what to do instead."""

    letters: tuple[DeadLetter, ...]
    reason: str


class ReplaySource(Source[NoParams]):
    """Yields the records of dead letters under their keys; every batch counts as a replay.

    A resumed replay sends what is still open, since an earlier attempt closes the dead letters of what it has
    settled.

    Args:
        letters: for each record its dead letters, oldest first.
        still_open: filters out dead letters that are no longer open; None sends all.

    Attributes:
        begun: whether it was read; not if another process has completed the run meanwhile.
        closed: the keys that were left out.
    """

    repeatable = True

    def __init__(
        self,
        records: Sequence[JsonValue],
        letters: Sequence[Sequence[DeadLetter]],
        still_open: StillOpen | None = None,
    ) -> None:
        super().__init__(NoParams())
        self.begun = False
        self.closed: set[str] = set()
        self._to_send = list(zip(letters, records, strict=True))
        self._still_open = still_open
        self._in_flight: list[tuple[Batch, list[DeadLetter]]] = []

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        self.begun = True
        if self._still_open is not None:
            open_now = await self._still_open()
            keys = {same[-1].key for same, _ in self._to_send}
            self._to_send = [
                (same, record) for same, record in self._to_send if letter_id(same[-1]) in open_now
            ]
            self.closed = keys - {same[-1].key for same, _ in self._to_send}
        for start in range(0, len(self._to_send), PAGE):
            page = self._to_send[start : start + PAGE]
            page_keys = KeyList([same[-1].key for same, _ in page])
            place = [ctx.attempt, start + len(page)]  # other attempts count other letters
            batch = Batch([record for _, record in page], page_keys, position=place)
            self._in_flight.append((batch, [letter for same, _ in page for letter in same]))
            yield batch

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Store which dead letters the run may send; see `sent_by`."""
        sent = self.digests()
        yield Split("all", {_LETTERS: [[*one, sent[one]] for one in sorted(sent)]})

    def digests(self) -> dict[LetterId, str]:
        """Return the dead letters to send, each with a digest of the record that is sent for it."""
        return {letter_id(letter): _digest(record) for same, record in self._to_send for letter in same}

    def settled(self) -> list[DeadLetter]:
        """Return the dead letters whose records have been settled since the last call."""
        sent, self._in_flight = self._in_flight, []
        found: list[DeadLetter] = []
        for batch, letters in sent:
            if batch.origins and all(ack.complete for ack, _ in batch.origins):
                found += letters
            else:
                self._in_flight.append((batch, letters))
        return found


def sent_by(split: Split) -> dict[LetterId, str]:
    """Return the dead letters that a replay may have sent, with digests as of `ReplaySource.digests`."""
    letters = cast("list[list[str]]", split.manifest.get(_LETTERS, []))
    return {(run, node, key): digest for run, node, key, digest in letters}


def _digest(record: JsonValue) -> str:
    return blake2b(json.dumps(record).encode(), digest_size=8).hexdigest()


def letter_id(letter: DeadLetter) -> LetterId:
    """Return the identity of a dead letter."""
    return letter.run_id, letter.node, letter.key


def group_dead_letters(
    letters: Sequence[DeadLetter],
    plans: dict[str, Plan],
    patches: Sequence[Patch] = (),
    still_open: StillOpen | None = None,
) -> tuple[list[ReplayGroup], list[Obstacle]]:
    """Group dead letters into runs and those that cannot be replayed.

    Args:
        letters: oldest first.
        plans: the pipelines as they are now.
        patches: changes to the records.
        still_open: None replays all of them, even if their records were delivered later.
    """
    by_node: dict[tuple[str, str], list[DeadLetter]] = {}
    for letter in letters:
        by_node.setdefault((letter.pipeline, letter.node), []).append(letter)
    groups: list[ReplayGroup] = []
    obstacles: list[Obstacle] = []
    for (pipeline, node), found in by_node.items():
        reason = _obstacle(plans.get(pipeline), pipeline, node)
        if reason:
            obstacles.append(Obstacle(tuple(found), reason))
            continue
        whole = [letter for letter in found if letter.record is not None]
        lost = [letter for letter in found if letter.record is None]
        if lost:
            obstacles.append(Obstacle(tuple(lost), _TOO_LARGE))
        if whole:
            groups += [
                _group(plans[pipeline], node, by_key, patches, still_open) for by_key in _rounds(whole)
            ]
    return groups, obstacles


_TOO_LARGE = (
    "only a reference was stored because the record was too large: run the pipeline again over that "
    "input (after `bookmarks reset` if its source has `mode: changed`)"
)


def _obstacle(plan: Plan | None, pipeline: str, name: str) -> str:
    if plan is None:
        return f"the file no longer has a pipeline `{pipeline}`: name its file with --file"
    nodes = {node.name: node for node in plan.nodes}
    if name not in nodes:
        return f"pipeline `{pipeline}` no longer has a node `{name}`"
    if nodes[name].kind is Kind.SOURCE:
        return (
            f"`{name}` failed to read them, so there is no record to replay: fix the input (or what reads "
            "it) and run the pipeline again"
        )
    kept = _from_node(plan, name)
    for sink in (one for one in plan.nodes if one.name in kept and one.replaces):
        mode = f"pipelines.{pipeline}.nodes.{sink.name}.with.mode"
        return (
            f"`{sink.name}` would replace all that is there by these records (`mode: replace`): run the "
            f"pipeline again, or add them to what is there with --set {mode}=append"
        )
    return ""


def _rounds(letters: list[DeadLetter]) -> list[dict[str, list[DeadLetter]]]:
    """Divide dead letters into runs, oldest first: one, or more if a key died with several records.

    A key may have died in several runs. If it names one record that changed, only the latest is sent. But
    some keys name a place (a line of a file that was rewritten): then the records are different ones, and all
    are sent.
    """
    rounds: list[dict[str, list[DeadLetter]]] = []
    for letter in sorted(letters, key=lambda one: one.last_failed_at):
        died = [number for number, by_key in enumerate(rounds) if letter.key in by_key]
        place = died[-1] if died else 0
        if died and not same_record(rounds[place][letter.key][-1].record, letter.record):
            place += 1
        if place == len(rounds):
            rounds.append({})
        rounds[place].setdefault(letter.key, []).append(letter)
    return rounds


def same_record(one: JsonValue, other: JsonValue) -> bool:
    """Return whether two dead letters of one key have the same record, as far as their ids tell."""
    if one == other:
        return True
    ids = [record.get("id") if isinstance(record, dict) else None for record in (one, other)]
    return ids[0] is not None and ids[0] == ids[1]


def _group(
    plan: Plan,
    node: str,
    by_key: Mapping[str, Sequence[DeadLetter]],
    patches: Sequence[Patch],
    still_open: StillOpen | None,
) -> ReplayGroup:
    records = [apply_patches(same[-1].record, patches) for same in by_key.values()]
    changed = sum(record != same[-1].record for record, same in zip(records, by_key.values(), strict=True))
    source = ReplaySource(records, list(by_key.values()), still_open)
    letters = tuple(letter for same in by_key.values() for letter in same)
    replay = replace(replay_plan(plan, node, source), keep_newer=still_open is not None)
    return ReplayGroup(plan.pipeline, node, letters, replay, source, changed)


def _from_node(plan: Plan, name: str) -> set[str]:
    """Return the names of a node and of all nodes downstream of it."""
    kept = {name}
    for one in plan.nodes:  # in topological order
        if kept.intersection(one.inputs):
            kept.add(one.name)
    return kept


def replay_plan(plan: Plan, node: str, source: ReplaySource) -> Plan:
    """Return the plan from `node`, with `source` replacing everything before it.

    It has no dead-letter budget, no followers and no retries.
    """
    kept = _from_node(plan, node)
    name = SOURCE_NAME
    while name in kept:
        name += "_"
    spec = ComponentSpec(SOURCE_NAME, Kind.SOURCE, lambda params, connection: source)
    nodes = [PlanNode(name, spec, NoParams())]
    for one in plan.nodes:
        if one.name in kept:
            inputs = (name,) if one.name == node else tuple(given for given in one.inputs if given in kept)
            nodes.append(replace(one, inputs=inputs))
    identity = {**(plan.identity_doc or {}), "replay_from": node}
    return replace(
        plan,
        nodes=tuple(nodes),
        identity=identity_hash(identity),
        identity_doc=identity,
        dead_letters=DeadLetterSettings(forward=plan.dead_letters.forward),
        settings=replace(
            plan.settings,
            retries=0,
            on_complete=(),
            on_cancel=(),
            on_failure=(),
            notify=None,
            schedule="",
            if_running="allow",
        ),
    )
