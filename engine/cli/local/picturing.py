"""Plans, runs and their nodes as values for the operator's page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from engine.config.model import FileConfig
from engine.contract.acks import Tally
from engine.contract.component import Kind
from engine.contract.journal import JournalEntry
from engine.contract.types import JsonValue
from engine.flow.stats import NodeSnapshot, RunSnapshot, Waiting
from engine.plan.model import Plan, PlanNode
from engine.redaction import HIDDEN
from engine.service.operations import NodeView, ParameterView, PipelineView, RunView
from engine.state.records import RunRecord, RunStatus


def pipeline_views(config: FileConfig, plans: Mapping[str, Plan]) -> list[PipelineView]:
    """Return the pipelines of a file, in its order."""
    views = []
    for name, one in config.pipelines.items():
        plan = plans[name]
        parameters = [
            ParameterView(
                parameter.name,
                str(parameter.type),
                _shown(plan.params.get(parameter.name)),
                parameter.description,
            )
            for parameter in one.parameters.values()
        ]
        nodes = [_node(node) for node in plan.nodes]
        views.append(PipelineView(name, "", nodes, parameters, plan.settings.schedule))
    return views


def _shown(value: JsonValue) -> str | None:
    """Return a value as a user would type it; None without one, or if it is from the environment."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _node(node: PlanNode) -> NodeView:
    return NodeView(node.name, str(node.kind), node.spec.name, node.inputs, pays=node.pays)


def nodes_of_plan(plan: Plan, record: RunRecord, tally: Tally) -> list[NodeView]:
    """Return the nodes of a run of another process, from its ledger."""
    state = {RunStatus.COMPLETED: "done", RunStatus.RUNNING: "working"}.get(record.status, "idle")
    views = []
    for node in plan.nodes:
        is_source = node.kind is Kind.SOURCE
        count = tally.read if is_source and len(plan.sources) == 1 else tally.delivered.get(node.name)
        given, made = (None, count) if is_source else (count, None)
        dead = tally.deaths.get(node.name, 0)
        views.append(replace(_node(node), state=state, records_in=given, records_out=made, dead=dead))
    return views


def nodes_of_run(plan: Plan, snapshot: RunSnapshot) -> list[NodeView]:
    """Return the current state of the nodes of a run of this process."""
    known = {node.name: node for node in snapshot.nodes}
    return [_live(node, known.get(node.name)) for node in plan.nodes]


def _live(node: PlanNode, now: NodeSnapshot | None) -> NodeView:
    if now is None:
        return _node(node)
    is_stuck = now.waiting in (Waiting.RETRY, Waiting.OUTAGE, Waiting.MEMORY)
    is_begun = now.records_in or now.records_out
    return replace(
        _node(node),
        state="waiting" if is_stuck else "working" if is_begun else "idle",
        records_in=now.records_in,
        records_out=now.records_out,
        dead=now.dead,
        dropped=now.dropped,
        retries=now.retries,
        share=now.utilisation,
        waits_for=(now.note or str(now.waiting)) if is_stuck else "",
    )


def run_view(record: RunRecord, tally: Tally, snapshot: RunSnapshot | None) -> RunView:
    """Return a run for a list. `snapshot`: state of a run of this process that has not ended."""
    return RunView(
        run_id=record.run_id,
        pipeline=record.pipeline,
        state=str(record.status),
        started_at=record.began,
        ended_at=record.ended,
        read=tally.read,
        written=tally.written,
        dead=tally.dead,
        dropped=tally.dropped,
        error=record.error,
        attempt=record.attempt,
        is_here=snapshot is not None,
        waits_for=snapshot.waits_for if snapshot is not None else "",
        tokens=tally.tokens_in + tally.tokens_out,
    )


def shown_call(entry: JournalEntry, limit: int, redacted: Sequence[str] = ()) -> JournalEntry:
    """Return a paid call, with at most `limit` characters of each text.

    Prompt and reply were redacted when they were stored. Answers are stored unchanged, so matches of these
    regular expressions are replaced here.
    """
    answer = _cut(_without(redacted, entry.answer), limit)
    return replace(entry, answer=answer, prompt=_cut(entry.prompt, limit), reply=_cut(entry.reply, limit))


def _without(redacted: Sequence[str], text: str) -> str:
    if not redacted:
        return text
    with suppress(ValueError):  # JSON can write a character in several ways
        text = json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
    for pattern in redacted:
        text = re.sub(pattern, HIDDEN, text)
    return text


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n… {len(text) - limit:,} more characters: `journal show` prints them"
