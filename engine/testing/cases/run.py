"""Run one case: the real plan, with sources, sinks and mocked transforms in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from engine.config import Overrides, load_file, select
from engine.config.problems import unknown
from engine.contract.batch import Batch, Drop
from engine.contract.clock import FrozenClock
from engine.contract.component import Component, Kind, NoParams, Transform
from engine.dead_letters.queue import as_json
from engine.errors import ConfigError, FatalError, RecordError
from engine.execution.engine import Engine
from engine.execution.report import RunReport
from engine.plan.compile import compile_file
from engine.plan.model import DeadLetterSettings, Plan, PlanNode
from engine.registry import Registry
from engine.state.records import DeadLetterFilter
from engine.testing.cases.compare import differences, record_differences, shown
from engine.testing.cases.load import Case, records_of
from engine.testing.cases.model import LetterSection
from engine.testing.fakes import MemorySink, MemorySource

SEED = "test"
SHOWN = 20
PAGE = 500


@dataclass(slots=True)
class CaseResult:
    """The outcome of a case.

    Attributes:
        output: records by sink, JSON-safe.
        dead_letters: node, error, message and record of each.
        counts: counts of the run.
        differences: one line each; empty if the case passed.
    """

    case: Case
    output: dict[str, list[Any]] = field(default_factory=dict)
    dead_letters: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    error: str = ""
    differences: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the output is as expected."""
        return not self.differences

    def text(self) -> str:
        """Return the result in lines."""
        head = f"{'ok' if self.passed else 'FAILED':<6} {self.case.name} ({self.case.where})"
        lines = [f"         {line}" for line in self.differences[:SHOWN]]
        if len(self.differences) > SHOWN:
            lines.append(f"         … and {len(self.differences) - SHOWN} more")
        return "\n".join([head, *lines])


class _Mocked(Transform[NoParams]):
    """Returns the given answers, one for each record in order."""

    def __init__(self, name: str, answers: list[Any]) -> None:
        super().__init__(NoParams())
        self._name, self._answers, self._given = name, answers, 0

    def apply(self, batch: Batch) -> Batch:
        start, self._given = self._given, self._given + len(batch)
        if self._given > len(self._answers):
            raise FatalError(
                f"it has {len(self._answers)} answers, and record {self._given} came: give one for each "
                f"under `mock: {{{self._name}: […]}}`"
            )
        return batch.outcomes([_outcome(answer) for answer in self._answers[start : self._given]])


def _outcome(answer: Any) -> Any:
    if answer is None:
        return Drop("mocked")
    if isinstance(answer, dict) and set(answer) == {"raise"}:
        raised = answer["raise"] if isinstance(answer["raise"], dict) else {"error": str(answer["raise"])}
        return RecordError(str(raised.get("message", "mocked")), kind=str(raised.get("error", "RecordError")))
    return answer


async def run_case(case: Case) -> CaseResult:
    """Run a case and compare.

    Raises:
        ConfigError: the case or the pipeline file cannot be used; the message has the place.
    """
    sinks: dict[str, MemorySink] = {}
    plan = _plan(case, sinks)
    result = CaseResult(case)
    async with Engine(clock=FrozenClock(case.section.now)) as engine:
        async with engine.start(plan, seed=SEED) as run:
            report = await run.wait()
        letters = await engine.store.dead_letters(DeadLetterFilter(run_id=report.run_id))
    result.output = {name: [as_json(one)[0] for one in sink.records] for name, sink in sinks.items()}
    result.dead_letters = [
        {"node": one.node, "error": one.error_type, "message": one.error_message, "record": one.record}
        for one in letters
    ]
    result.counts, result.error = _counts(report), report.error
    result.differences = list(_compared(case, result))
    return result


def _counts(report: RunReport) -> dict[str, int]:
    tally = report.tally
    counts = {"read": tally.read, "written": tally.written, "dropped": tally.dropped, "dead": tally.dead}
    return {**counts, "made": tally.forked} if tally.forked else counts


def _plan(case: Case, sinks: dict[str, MemorySink]) -> Plan:
    section = case.section
    environ = {**os.environ, **section.environment}
    names = list(load_file(case.pipelines, environ=environ).pipelines)
    name = section.pipeline or (names[0] if len(names) == 1 else "")
    if name not in names:
        message = unknown("pipeline", name, names) if name else f"{case.pipelines} has {len(names)} pipelines"
        raise ConfigError([case.place.at("pipeline").problem(message, "name one: `pipeline: NAME`")])
    overrides = Overrides(params={name: section.params} if section.params else {})
    config = select(load_file(case.pipelines, environ=environ, overrides=overrides), [name])
    plan = compile_file(config, Registry.installed())[name]
    _check_names(case, plan)
    nodes = tuple(_in_memory(case, node, sinks) for node in plan.nodes)
    # the case itself states how many die
    return replace(plan, nodes=nodes, dead_letters=DeadLetterSettings())


def _check_names(case: Case, plan: Plan) -> None:
    section, problems = case.section, []
    expected = section.expect.output if section.expect is not None else {}
    for key, given, kind in (
        ("input", section.input, Kind.SOURCE),
        ("mock", section.mock, Kind.TRANSFORM),
        ("expect.output", expected, Kind.SINK),
    ):
        known = [node.name for node in plan.nodes if node.kind is kind]
        problems += [
            case.place.problem(f"{key}: {unknown(kind, name, known)}") for name in given if name not in known
        ]
    if problems:
        raise ConfigError(problems)


def _in_memory(case: Case, node: PlanNode, sinks: dict[str, MemorySink]) -> PlanNode:
    section = case.section
    made: Component[Any]
    if node.kind is Kind.SINK:
        made = sinks[node.name] = MemorySink()
    elif node.name in section.input:
        records = records_of(section.input[node.name], case)
        made = MemorySource([records[at : at + PAGE] for at in range(0, len(records), PAGE)])
    elif node.name in section.mock:
        made = _Mocked(node.name, section.mock[node.name])
    elif node.connection is None or node.needs_sandbox:
        return node
    elif node.kind is Kind.TRANSFORM:
        made = _Mocked(node.name, [])  # without records it need not be mocked
    else:
        message = f"source `{node.name}` would reach `{node.connection.name or node.spec.name}`"
        hint = f"give its records under `input: {{{node.name}: […]}}`"
        raise ConfigError([case.place.problem(message, hint)])
    return node.replaced_by(made)


def _compared(case: Case, result: CaseResult) -> Iterator[str]:
    expect = case.section.expect
    if expect is None:
        yield "`expect` is missing: write it, or let --update write it"
        return
    if expect.error and expect.error not in result.error:
        yield f"error: expected {expect.error!r}, found {result.error or 'none'!r}"
    elif result.error and not expect.error:
        yield f"the run failed: {result.error}"
    for name, wanted in expect.output.items():
        records, found = [as_json(one)[0] for one in records_of(wanted, case)], result.output[name]
        yield from record_differences(
            name,
            [without_fields(one, expect.ignore) for one in records],
            [without_fields(one, expect.ignore) for one in found],
            subset=expect.match == "subset",
            unordered=expect.unordered,
        )
    if expect.dead_letters is not None:
        yield from _letters(expect.dead_letters, result.dead_letters)
    found_counts = {"made": 0, **result.counts}
    for count, number in expect.counts.items():
        yield from differences(f"counts.{count}", number, found_counts[count])


def without_fields(record: Any, names: list[str]) -> Any:
    """Return the record without the fields that are not compared."""
    return (
        {key: value for key, value in record.items() if key not in names}
        if isinstance(record, dict)
        else record
    )


def _letters(expected: list[LetterSection], found: list[dict[str, Any]]) -> Iterator[str]:
    left = list(found)
    for number, letter in enumerate(expected, 1):
        match = next((one for one in left if _fits(letter, one)), None)
        if match is None:
            yield f"dead letter {number} is missing: {shown(letter.model_dump(exclude_unset=True))}"
        else:
            left.remove(match)
    for one in left:
        yield f"dead letter was not expected: {shown(one)}"


def _fits(letter: LetterSection, found: dict[str, Any]) -> bool:
    return (
        letter.node in (None, found["node"])
        and letter.error in (None, found["error"])
        and (letter.message or "") in found["message"]
        and ("record" not in letter.model_fields_set or as_json(letter.record)[0] == found["record"])
    )
