"""The pipelines of a file and the runs of the state store, for the operator's page."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import anyio
import anyio.to_thread

from engine.cli.local.hosting import PipelineHost
from engine.cli.local.picturing import nodes_of_plan, nodes_of_run, pipeline_views, run_view, shown_call
from engine.cli.local.scheduling import Scheduler
from engine.contract.dead_letter import DeadLetter
from engine.contract.journal import JournalEntry
from engine.dead_letters.replay import REPLAY_GROUP, LetterId, ReplayGroup, StillOpen, group_dead_letters
from engine.errors import EngineError, RunNotFoundError
from engine.execution.engine import Engine
from engine.execution.events import RunEvent
from engine.execution.replays import Replay, with_earlier_replays
from engine.execution.report import RunReport
from engine.execution.session import Entry, Session, new_group
from engine.plan.model import Plan
from engine.redaction import without_credentials
from engine.service.dead_letter_format import record_id_of
from engine.service.operations import (
    DeadRecord,
    LetterView,
    LetterWhere,
    OperationsError,
    PipelineView,
    RunDetail,
    RunView,
    ScheduleView,
    SplitView,
    StageView,
)
from engine.state.records import DeadLetterFilter, JournalFilter, RunRecord, RunStatus
from engine.state.store import StateStore

SHOWN_SPLITS = 480
_RUNS, _STAGES, _RATES = 100, 200, 300
_SHORTEST = 1.0  # the last records of a run, a moment after a measurement, are no peak
_MAX_CALLS = 20
_MAX_TEXT = 20_000


@dataclass(slots=True)
class _Story:
    """What this process remembers of a run."""

    stages: deque[StageView] = field(default_factory=lambda: deque(maxlen=_STAGES))
    rates: deque[tuple[datetime, float, float]] = field(default_factory=lambda: deque(maxlen=_RATES))
    counts: tuple[float, int, int] | None = None


_SAID = frozenset({"records_in", "records_out", "dropped", "dead"})
"""Numbers that the message of a node's end already includes."""


def _counted(name: str, number: float) -> str:
    words = name.replace("_", " ")
    if number != 1 or not words.endswith("s"):
        return words
    return f"{words[:-3]}y" if words.endswith("ies") else words[:-1]


class RunLog:
    """Stages and rates of the latest runs of this process; an observer of the engine."""

    def __init__(self) -> None:
        self._stories: OrderedDict[str, _Story] = OrderedDict()

    def __call__(self, event: RunEvent) -> None:
        """Remember a stage."""
        numbers = [
            f"{value:,} {_counted(name, value)}" if isinstance(value, int | float) else f"{value} {name}"
            for name, value in event.numbers.items()
            if value and name not in _SAID
        ]
        text = ", ".join([event.message, *numbers])
        stage = StageView(datetime.now(UTC), event.level, without_credentials(text))
        self.of(event.run_id).stages.append(stage)

    def of(self, run_id: str) -> _Story:
        """Return the story of a run, created if it is new."""
        if run_id not in self._stories:
            self._stories[run_id] = _Story()
            while len(self._stories) > _RUNS:
                self._stories.popitem(last=False)
        return self._stories[run_id]

    def known(self, run_id: str) -> _Story | None:
        """Return the story of a run; None for a run of another process, or one that is forgotten."""
        return self._stories.get(run_id)

    def measure(self, run_id: str, elapsed: float, written: int, dead: int) -> None:
        """Record how much was written and died since the last measurement."""
        story = self.of(run_id)
        if story.counts is not None and elapsed > story.counts[0]:
            before, had_written, had_dead = story.counts
            seconds = max(elapsed - before, _SHORTEST)
            rates = ((written - had_written) / seconds, (dead - had_dead) / seconds)
            story.rates.append((datetime.now(UTC), max(0.0, rates[0]), max(0.0, rates[1])))
        story.counts = (elapsed, written, dead)


class PipelineOperations(PipelineHost):
    """See `engine.service.operations.Operations`."""

    def __init__(self, file: str, log: RunLog) -> None:
        super().__init__(file)
        self.watch_ends(self._measure_ends)
        self._log = log
        self._is_stopping = False
        self._replaying: set[LetterId] = set()
        self.scheduler: Scheduler | None = None

    def stop(self) -> None:
        """Drain every started run, and stop measuring."""
        self._is_stopping = True
        if self.scheduler is not None:
            self.scheduler.stop()
        super().stop()

    def pipelines(self) -> Sequence[PipelineView]:
        """See `Operations`."""
        return pipeline_views(self.config, self.plans)

    async def schedules(self) -> list[ScheduleView]:
        """See `Operations`."""
        return self.scheduler.views() if self.scheduler is not None else []

    async def measure(self, every: float = 1.0) -> None:
        """Measure the rates of the runs of this process, and follow changes of the file, until it stops."""
        while not self._is_stopping:
            await self.follow_file()
            for entry in self._entries():
                if (snapshot := entry.snapshot()) is not None:
                    tally = snapshot.tally
                    self._log.measure(snapshot.run_id, snapshot.elapsed, tally.written, tally.dead)
            await anyio.sleep(every)

    def _measure_ends(self, name: str, session: Session) -> None:
        """Measure what came after the last measurement of runs that have ended."""
        for report in session.reports.values():
            self._log.measure(report.run_id, report.seconds, report.tally.written, report.tally.dead)

    async def recent(
        self, limit: int, *, pipeline: str = "", state: str = "", before: str = ""
    ) -> list[RunView]:
        """See `Operations`."""
        store = self._store()
        statuses = [one for one in RunStatus if state == str(one)]
        if state and not statuses:
            return []
        with _reporting():
            records = await store.list_runs(pipeline=pipeline, statuses=statuses, before=before, limit=limit)
            return [await self._run_view(store, record) for record in reversed(records)]

    async def detail(self, run_id: str) -> RunDetail | None:
        """See `Operations`."""
        store = self._store()
        with _reporting():
            try:
                record = await store.get_run(run_id)
            except RunNotFoundError:
                return None
            entry = self._entry(run_id)
            snapshot = entry.snapshot() if entry is not None else None
            plan = entry.plan if entry is not None else self.plans.get(record.pipeline)
            tally = snapshot.tally if snapshot is not None else await store.tally(run_id)
            splits = await self._splits(store, run_id, record)
            done, every = await store.count_splits(run_id)
            paid = max(await store.journal_cost(run_id), tally.cost_usd)
        if snapshot is not None and entry is not None:
            nodes = nodes_of_run(entry.plan, snapshot)
            slowest = snapshot.bottleneck.name if snapshot.bottleneck is not None else ""
        else:
            nodes = nodes_of_plan(plan, record, tally) if plan is not None else []
            slowest = ""
        story = self._log.known(run_id) or _Story()
        return RunDetail(
            run=await self._run_view(store, record),
            nodes=nodes,
            params={name: _text(value) for name, value in record.params.items()},
            bottleneck=slowest,
            splits=splits,
            splits_done=done,
            splits_all=every,
            stages=tuple(story.stages) or _stages_of(record),
            rates=tuple(story.rates),
            bytes_in_flight=snapshot.bytes_in_flight if snapshot is not None else 0,
            bytes_budget=snapshot.bytes_budget if snapshot is not None else 0,
            drops=dict(tally.drops),
            paid_usd=paid,
        )

    async def _splits(self, store: StateStore, run_id: str, record: RunRecord) -> list[SplitView]:
        document = record.identity_doc if isinstance(record.identity_doc, dict) else {}
        found: list[SplitView] = []
        for node in document.get("nodes", {}):
            if len(found) < SHOWN_SPLITS:
                splits, _ = await store.splits(run_id, node, limit=SHOWN_SPLITS - len(found))
                found += [
                    SplitView(
                        node, one.split.key, "done" if one.done else "begun" if one.position else "waiting"
                    )
                    for one in splits
                ]
        return found

    async def end(self, run_id: str, *, at_once: bool) -> bool:
        """See `Operations`."""
        for session in self._sessions:
            for entry in session.entries.values():
                if entry.run is not None and entry.report is None and entry.run.run_id == run_id:
                    (session.cancel if at_once else session.drain)()
                    return True
        return False

    async def letters(self, where: LetterWhere) -> list[LetterView]:
        """See `Operations`."""
        before = _number(where.before)
        wanted = DeadLetterFilter(
            where.run_id, where.pipeline, key=where.key, status=where.status, limit=where.limit
        )
        with _reporting():
            found = await self._store().page_of_dead_letters(wanted, error_type=where.cause, before=before)
        return [self._letter_view(number, letter, with_record=False) for number, letter in found]

    async def letter(self, letter_id: str) -> LetterView | None:
        """See `Operations`."""
        found = await self._letter(letter_id)
        return self._letter_view(_number(letter_id), found, with_record=True) if found is not None else None

    async def causes(self, status: str = "open") -> list[tuple[str, str, int]]:
        """See `Operations`."""
        with _reporting():
            return await self._store().dead_letter_causes(status)

    async def replay(self, letter_id: str, record: str | None, *, force: bool) -> str:
        """See `Operations`."""
        letter = await self._letter(letter_id)
        if letter is None or self._engine is None:
            raise OperationsError("No dead letter has this id.")
        if letter.status not in ("open", "discarded") and not force:
            raise OperationsError("This record was delivered since: replace the newer row only on purpose.")
        changed = letter if record is None else _with_record(letter, record)
        with _reporting():
            _, plans = await anyio.to_thread.run_sync(self._load)

        async def still_open() -> set[LetterId]:
            same = DeadLetterFilter(letter.run_id, node=letter.node, key=letter.key, status="open")
            found = await self._store().dead_letters(same)
            return {(one.run_id, one.node, one.key) for one in found}

        guard = None if force or letter.status != "open" else still_open
        place = letter.run_id, letter.node, letter.key
        if place in self._replaying:
            raise OperationsError("This record is being replayed now: look again in a moment.")
        self._replaying.add(place)
        try:
            with _reporting():
                report = await self._replay(self._engine, changed, plans, guard)
                if any(node.dead for node in report.nodes):
                    # the run has closed it, but here its record is to be corrected further
                    await self._store().mark_dead_letters([letter], letter.status, letter.reason)
                    raise OperationsError(await self._new_error(report.run_id))
                await self._store().mark_dead_letters([letter], "replayed")
        finally:
            self._replaying.discard(place)
        return report.run_id

    async def _replay(
        self, engine: Engine, letter: DeadLetter, plans: dict[str, Plan], guard: StillOpen | None
    ) -> RunReport:
        """Replay one dead letter in a new run, or in the interrupted one that has sent it."""

        def grouped(letters: list[DeadLetter]) -> list[ReplayGroup]:
            return group_dead_letters(letters, plans, still_open=guard)[0]

        groups, obstacles = group_dead_letters([letter], plans, still_open=guard)
        replays: list[Replay] = [(group, None) for group in groups]
        if guard is not None and groups:
            replays, obstacles = await with_earlier_replays(engine.store, engine.clock, groups, grouped)
        if obstacles:
            raise OperationsError(f"It cannot be replayed: {obstacles[0].reason}.")
        ((group, before),) = replays
        session = Session(
            engine,
            {group.pipeline: group.plan},
            [group.pipeline],
            {group.pipeline: before} if before is not None else {},
            group_id=REPLAY_GROUP + new_group(engine),
        )
        self._sessions.append(session)
        try:
            await session.execute()
        finally:
            self._sessions.remove(session)
        report = next(iter(session.reports.values()), None)
        if report is None or not report.ok:
            raise OperationsError(f"The replay failed: {report.error if report else 'it did not start'}")
        if not group.replayed:
            raise OperationsError("This record was delivered meanwhile: nothing was sent.")
        return report

    async def _new_error(self, run_id: str) -> str:
        again = await self._store().dead_letters(DeadLetterFilter(run_id=run_id))
        last = max(again, key=lambda one: one.last_failed_at, default=None)
        return f"It died again: {last.error_message}" if last is not None else "It died again."

    async def discard(self, ids: Sequence[str], reason: str) -> int:
        """See `Operations`."""
        found = [letter for letter_id in ids if (letter := await self._letter(letter_id)) is not None]
        open_ones = [letter for letter in found if letter.status == "open"]
        with _reporting():
            await self._store().mark_dead_letters(open_ones, "discarded", reason)
        return len(open_ones)

    async def close(self, records: Sequence[DeadRecord], reason: str = "") -> None:
        """See `Operations`."""
        store = self._store()
        with _reporting():
            for (run, node, key), ids in _by_letter(records).items():
                found = await store.dead_letters(DeadLetterFilter(run, node=node, key=key, status="open"))
                if not key:
                    found = [one for one in found if record_id_of(one.record) in ids]
                await store.mark_dead_letters(found, "discarded" if reason else "recovered", reason)

    async def calls(self, record: str, run_id: str) -> list[JournalEntry]:
        """See `Operations`."""
        if not record:
            return []
        store = self._store()
        with _reporting():
            entries = await store.list_journal(JournalFilter(record=record))
            payers = [one.run_id for one in entries]
            payer = run_id if run_id in payers else payers[-1] if payers else ""
            keys = [one.key for one in entries if one.run_id == payer][-_MAX_CALLS:]
            found = await store.get_journal(keys)
        return [
            shown_call(one, _MAX_TEXT, _redacted(self.plans.get(one.pipeline), one.node))
            for one in found.values()
        ]

    def _store(self) -> StateStore:
        if self._engine is None:
            raise OperationsError("The service is starting: reload the page in a few seconds.")
        return self._engine.store

    def _entries(self) -> list[Entry]:
        entries = [entry for session in self._sessions for entry in session.entries.values()]
        return [entry for entry in entries if entry.run is not None and entry.report is None]

    def _entry(self, run_id: str) -> Entry | None:
        return next(
            (one for one in self._entries() if one.run is not None and one.run.run_id == run_id), None
        )

    async def _run_view(self, store: StateStore, record: RunRecord) -> RunView:
        entry = self._entry(record.run_id)
        snapshot = entry.snapshot() if entry is not None else None
        tally = snapshot.tally if snapshot is not None else await store.counts(record.run_id)
        return run_view(record, tally, snapshot)

    async def _letter(self, letter_id: str) -> DeadLetter | None:
        with _reporting():
            found = await self._store().numbered_dead_letter(_number(letter_id))
        return found if found is not None and letter_id == _id_of(_number(letter_id), found) else None

    def _letter_view(self, number: int, letter: DeadLetter, *, with_record: bool) -> LetterView:
        fields = {name: getattr(letter, name) for name in DeadLetter.__dataclass_fields__}
        if letter.record is not None:
            fields["record"] = json.dumps(letter.record, ensure_ascii=False) if with_record else None
        model = _model_of(self.plans.get(letter.pipeline), letter.node)
        return LetterView(**fields, id=_id_of(number, letter), model=model)


@contextmanager
def _reporting() -> Iterator[None]:
    """Report errors of the file and of the state store to the caller."""
    try:
        yield
    except EngineError as error:
        raise OperationsError(without_credentials(str(error))) from error


def _with_record(letter: DeadLetter, record: str) -> DeadLetter:
    from dataclasses import replace

    return replace(letter, record=json.loads(record))


def _id_of(number: int, letter: DeadLetter) -> str:
    """A number may be reused after a run was forgotten, so the id includes what it identified."""
    text = "\0".join((letter.run_id, letter.node, letter.key))
    return f"{number}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _by_letter(records: Sequence[DeadRecord]) -> dict[LetterId, set[str]]:
    """Group the ids of records by run, node and key; those without a key form one group per node."""
    found: dict[LetterId, set[str]] = {}
    for (_, run, node, key), record_id in records:
        if run and node and (key or record_id):
            found.setdefault((run, node, key or ""), set()).add(record_id)
    return found


def _number(letter_id: str) -> int:
    digits = letter_id.partition("-")[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else 0


def _model_of(plan: Plan | None, node: str) -> str:
    if plan is None or node not in {one.name for one in plan.nodes}:
        return ""
    model = getattr(plan.node(node).params, "model", "")
    return model.partition("/")[0] if isinstance(model, str) and plan.node(node).spec.name == "ingest" else ""


def _redacted(plan: Plan | None, node: str) -> Sequence[str]:
    """Return the regular expressions that a node redacts from its traces."""
    found = next((one for one in plan.nodes if one.name == node), None) if plan is not None else None
    return getattr(found.params, "redact", ()) if found is not None else ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _stages_of(record: RunRecord) -> tuple[StageView, ...]:
    """Return the known stages of a run of another process."""
    stages = [StageView(record.began, "info", "started")]
    if record.ended is not None:
        level = "info" if record.status is RunStatus.COMPLETED else "error"
        stages.append(StageView(record.ended, level, str(record.status)))
    return tuple(stages)
