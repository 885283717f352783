"""Verify a run's counts against each other, the ledger and the sinks.

The sinks are queried while they are still open, the ledger when the run has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from engine.contract.acks import Tally
from engine.contract.clock import Clock
from engine.contract.component import Kind
from engine.contract.unplanned import escaped
from engine.contract.verification import Check, CountsRecords, Delivered
from engine.errors import TransientError
from engine.execution.report import RunReport
from engine.flow.errors import as_run_error
from engine.flow.segment import Runtime
from engine.plan.model import Plan
from engine.state.records import DeadLetterFilter
from engine.state.store import StateStore

OTHER_SIDE = "service"  # the stage of records that a sink delivered and that died there
_IN_LEDGER = ("read", "forked", "written", "accepted", "dropped", "dead")


async def verify(
    store: StateStore, plan: Plan, report: RunReport, *, settled: bool, distinct_keys: bool
) -> Sequence[Check]:
    """Make all possible comparisons for an ended run.

    Args:
        settled: nothing was in flight when the run ended: it completed, or was drained completely.
        distinct_keys: no key occurs twice in the run.

    Raises:
        StateError: the store cannot be read.
    """
    checks = [*_within(report, plan)]
    checks += await _with_ledger(store, report)
    if settled:
        checks += _with_nodes(report)
        checks += await _dead_letters(store, report, distinct_keys=distinct_keys)
    if report.ok:
        checks += await _splits(store, plan, report)
    return checks


def _within(report: RunReport, plan: Plan) -> Iterator[Check]:
    """Compare the report's figures with each other."""
    tally = report.tally
    settled = tally.written + tally.dropped + tally.dead
    yield Check("written + dropped + dead, of all read and made", tally.read + tally.forked, settled)
    nodes = {node.name for node in plan.nodes}
    reasons = sum(number for reason, number in tally.drops.items() if _is_reason(reason, nodes))
    yield Check("dropped records with a node and a reason", tally.dropped, reasons)
    yield Check("dead records with a node", tally.dead, sum(tally.deaths.values()))
    last = [node.name for node in plan.sinks if not plan.downstream(node.name)]
    delivered = sum(tally.delivered.get(name, 0) for name in (*last, ""))
    yield Check("written records with a sink", tally.written, delivered)


def _is_reason(text: str, nodes: set[str]) -> bool:
    node, _, reason = text.partition(": ")
    return node in nodes and bool(reason)


async def _with_ledger(store: StateStore, report: RunReport) -> list[Check]:
    ledger = await store.tally(report.run_id)
    checks = [
        Check(f"{name} records in the ledger", getattr(report.tally, name), getattr(ledger, name))
        for name in _IN_LEDGER
    ]
    where = DeadLetterFilter(run_id=report.run_id, status="open")
    letters = await store.count_dead_letters(where)
    return [*checks, Check("open dead letters in the store", report.dead_letters, letters)]


def _with_nodes(report: RunReport) -> Iterator[Check]:
    """Compare with the counts of the nodes, which cover only this attempt, so it must be the only one."""
    if report.attempt > 1:
        return
    tally = report.tally
    for node in report.nodes:
        if node.name in tally.delivered:
            yield Check(
                "records that the sink passed on",
                tally.delivered[node.name],
                node.records_out,
                node=node.name,
            )
        dropped = sum(count for reason, count in tally.drops.items() if reason.startswith(f"{node.name}: "))
        if dropped or node.dropped:
            yield Check("records that the node dropped", dropped, node.dropped, node=node.name)
        dead = tally.deaths.get(node.name, 0)
        if dead or node.dead:
            yield Check("records that died at the node", dead, node.dead, node=node.name)


_NOT_SETTLED = "others are of records that an earlier attempt had in flight and a resume reads again"


async def _dead_letters(store: StateStore, report: RunReport, *, distinct_keys: bool) -> list[Check]:
    """Compare dead records with the dead letters in the store, of any status."""
    keys = await store.dead_letter_keys(report.run_id)
    deaths = report.tally.deaths
    note = "" if distinct_keys else "records with the same key share a dead letter"
    read_again = report.attempt > 1 and not report.ok
    if "" in deaths:
        stored = sum(map(len, keys.values()))
        return [_letters("", sum(deaths.values()), stored, note, read_again=read_again)]
    return [
        _letters(node, deaths.get(node, 0), len(keys.get(node, ())), note, read_again=read_again)
        for node in sorted({*deaths, *keys})
    ]


def _letters(node: str, dead: int, stored: int, note: str, *, read_again: bool) -> Check:
    if read_again and stored > dead:
        return Check("dead letters in the store", dead, note=_NOT_SETTLED, node=node)
    fewer = max(0, dead - 1) if note else 0
    note = note if stored != dead else ""
    return Check("dead letters in the store", dead, stored, note, fewer=fewer, node=node)


async def _splits(store: StateStore, plan: Plan, report: RunReport) -> list[Check]:
    """Check that a completed run has read all its input."""
    checks = []
    for source in plan.sources:
        done, total = await store.count_splits(report.run_id, source.name)
        _, complete = await store.splits(report.run_id, source.name, limit=0)
        checks.append(Check("splits that are done", total, done, node=source.name))
        checks.append(Check("complete lists of what to read", 1, int(complete), node=source.name))
    return checks


async def ask_sinks(
    sinks: Sequence[Runtime],
    forward: Runtime | None,
    *,
    run_id: str,
    tally: Tally,
    store: StateStore,
    clock: Clock,
    unique: bool,
) -> list[Check]:
    """Compare the sinks' counts of a run with its ledger; everything must be settled.

    Args:
        forward: the sink that receives copies of the dead letters.
        unique: no two records of the run have the same id.
    """
    checks: list[Check] = []
    for sink in sinks:
        name = sink.node.name
        if "" in tally.delivered:
            checks.append(Check("records", node=name, note=_OLD))
            continue
        behind = DeadLetterFilter(run_id=run_id, node=name, stage=OTHER_SIDE)
        died = await store.count_dead_letters(behind)
        records = tally.delivered.get(name, 0)
        delivered = Delivered(records, sink.stats.records_out, died, unique=unique)
        checks += await _ask(sink, delivered, clock)
    if forward is not None:
        refused = forward.stats.dead
        copies = await store.count_dead_letters(DeadLetterFilter(run_id=run_id)) - refused
        here = forward.stats.records_out
        checks += await _ask(forward, Delivered(copies, here, unique=True, letters=True), clock)
    return checks


def not_asked(plan: Plan) -> list[Check]:
    """Return placeholders for the sinks of a run of which an attempt ended with records in flight."""
    note = "not asked: it may hold records that are not settled yet"
    return [Check("records", node=node.name, note=note) for node in plan.every_node if node.kind is Kind.SINK]


_OLD = "the run was started by a version that did not count by sink"


async def _ask(sink: Runtime, delivered: Delivered, clock: Clock) -> list[Check]:
    """Return one sink's checks; a sink that cannot be queried does not fail the run."""
    name, component, attempt = sink.node.name, sink.component, 0
    if not isinstance(component, CountsRecords):
        note = f"the sink `{sink.node.spec.name}` cannot report what it holds of a run"
        return [Check("records", delivered.records, node=name, note=note)]
    while True:
        attempt += 1
        try:
            return [replace(one, node=name) for one in await component.count_records(delivered)]
        except TransientError as error:
            problem: Exception = error
            if attempt < sink.policy.attempts:
                await clock.sleep(sink.policy.delay(attempt, error.retry_after))
                continue
        except BaseException as error:  # noqa: BLE001 - a component's own code ends here; `escaped` decides
            problem = as_run_error(name, escaped(error))
        return [Check("records", delivered.records, node=name, note=str(problem), failed=True)]
