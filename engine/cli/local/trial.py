"""The changes of `--limit`, `--sample` and `--dry-run` to a run, and their notes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from engine.cli.display.numbers import count, counted
from engine.cli.display.terminal import one_line
from engine.cli.options import RunOptions, StateOptions
from engine.cli.state import store_of
from engine.errors import ConfigError
from engine.execution.report import RunReport
from engine.plan.model import Plan
from engine.trial import Counted, DryRunStore, Reading, paying_nodes, with_counting_sinks, with_reading

if TYPE_CHECKING:
    from engine.contract.dead_letter import DeadLetter
    from engine.execution.engine import Engine
    from engine.state.store import StateStore

MAX_SHOWN = 1000
FATES = 10  # reasons of dead letters that a dry run prints for each pipeline


def reading(options: RunOptions) -> Reading:
    """Return how much each source reads. Raises ConfigError."""
    return Reading(options.limit, options.sample, options.seed)


def check(options: RunOptions) -> None:
    """Check that the options for trials are compatible.

    Raises:
        ConfigError: they are not; the message has the reason.
    """
    if options.resume is not None and (reading(options).partial or options.dry_run):
        raise ConfigError(
            "--resume continues a run as it was started: leave out --limit, --sample and --dry-run"
        )
    if options.kills is not None and (options.chaos is None or options.kills < 0):
        raise ConfigError("--kills is how often --chaos kills each run: add --chaos, and give 0 or more")
    if options.show and not options.dry_run:
        raise ConfigError("--show prints what a dry run would deliver: add --dry-run")
    if not 0 <= options.show <= MAX_SHOWN:
        raise ConfigError(f"--show: expected 0 to {MAX_SHOWN} records, got {options.show}")
    if options.show and options.json:
        raise ConfigError("--show and --json both print to standard output: use --report FILE")
    if options.dry_run and options.verify:
        raise ConfigError("--verify asks the sinks what they hold, and a dry run delivers nothing")


def with_less_reading(options: RunOptions, plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """Return the plans with the limits of `--limit` or `--sample`.

    Raises:
        ConfigError: a sink would replace all existing records by this part.
    """
    less = reading(options)
    if less.partial and not options.dry_run and options.chaos is None:
        _check_replacing(plans, "--limit" if less.limit is not None else "--sample")
    return {name: with_reading(plan, less) for name, plan in plans.items()}


def _check_replacing(plans: Mapping[str, Plan], option: str) -> None:
    for name, node in [(name, node) for name, plan in plans.items() for node in plan.nodes if node.replaces]:
        raise ConfigError(
            f"{option} reads a part, and {name}.{node.name} would replace all that is there by it "
            "(`mode: replace`): add --dry-run to deliver nothing, or try with `mode: append`"
        )


class DryRun:
    """A run without deliveries: its plans, its store, and the records its sinks would have received.

    Raises:
        ConfigError: a node pays for its answers, and `--yes` was not given.
    """

    def __init__(self, options: RunOptions, plans: Mapping[str, Plan]) -> None:
        self._options = options
        paying = [f"{name}.{node}" for name, plan in plans.items() for node in paying_nodes(plan)]
        if paying and not options.yes:
            raise ConfigError(
                f"--dry-run: {', '.join(paying)} would pay for answers: add --yes to allow it (and --limit N "
                "to pay for a few records), or --only for other pipelines"
            )
        self._paying = bool(paying)
        self.plans: dict[str, Plan] = {}
        self._counts: dict[str, Sequence[Counted]] = {}
        for name, plan in plans.items():
            self.plans[name], self._counts[name] = with_counting_sinks(plan, show=options.show)

    def store(self) -> StateStore:
        """Return the store in memory, layered over the store of the options if that exists."""
        return dry_store(self._options, create=self._paying)

    async def notes(self, engine: Engine, reports: Mapping[str, RunReport]) -> list[str]:
        """Return lines on what would have been delivered and what would have died."""
        lines: list[str] = []
        for name, report in reports.items():
            lines += [f"{name}: dry run: {_would(one)}" for one in self._counts.get(name, ())]
            lines += [f"{name}: dry run: {line}" for line in await _fates(engine, report)]
        if self._paying:
            lines.append("paid answers are in the journal: the real run does not pay for them again")
        return lines

    def shown(self) -> Iterable[str]:
        """Yield the requested records as JSON lines, under the name of their sink."""
        from engine.dead_letters.queue import as_json

        for name, counts in self._counts.items():
            for one in counts:
                if one.shown:
                    yield f"# {name}.{one.node}"
                for record in one.shown:
                    yield json.dumps(as_json(record)[0], ensure_ascii=False)


def dry_store(options: StateOptions, *, create: bool = False) -> StateStore:
    """Return a store in memory with the bookmarks of the store of the options, if that exists."""
    store: Any = DryRunStore(store_of(options, create=create))
    return store  # type: ignore[no-any-return]


def _would(one: Counted) -> str:
    if one.node == "dead_letters.forward":
        return f"no dead letter was forwarded by `{one.component}`"
    return f"`{one.node}` ({one.component}) would have been given {counted(one.records, 'record')}"


async def _fates(engine: Engine, report: RunReport) -> list[str]:
    """Report why records died, since their dead letters end with the dry run."""
    from collections import Counter

    from engine.state.records import DeadLetterFilter

    letters = await engine.store.dead_letters(DeadLetterFilter(run_id=report.run_id))
    reasons = Counter(map(_reason, letters))
    lines = []
    for reason, number in reasons.most_common(FATES):
        first = next(one for one in letters if _reason(one) == reason)
        what = one_line(f"{first.error_type}: {first.error_message}")
        lines.append(f"{count(number)} died at `{first.node}`: {what} (first: {first.key})")
    return lines + ["…"] * (len(reasons) > FATES)


def _reason(letter: DeadLetter) -> tuple[str, str, str]:
    """Group validation errors by text, which names fields; others by type, since texts may be individual."""
    said = letter.error_message if letter.error_type == "ValidationError" else ""
    return letter.node, letter.error_type, said
