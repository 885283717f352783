"""`dlq replay`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial

from engine.cli.dead_letters.discard import close_copies
from engine.cli.dead_letters.find import collect, plans_of, query_of
from engine.cli.dead_letters.list import named
from engine.cli.display.numbers import counted
from engine.cli.display.output import Output
from engine.cli.display.summary import summary
from engine.cli.display.terminal import printable
from engine.cli.exit_codes import ExitCode, most_serious
from engine.cli.local.run import exit_code, watched
from engine.cli.local.signals import SignalWatch
from engine.cli.options import DEFAULT_FILE, DlqOptions, PlaceOptions
from engine.cli.state import store_of
from engine.contract.clock import SystemClock
from engine.contract.dead_letter import DeadLetter
from engine.contract.types import JsonValue
from engine.dead_letters.patch import Patch, apply_patches, parse_patch
from engine.dead_letters.replay import (
    REPLAY_GROUP,
    LetterId,
    Obstacle,
    ReplayGroup,
    StillOpen,
    group_dead_letters,
    letter_id,
)
from engine.dead_letters.search import DeadLetterMatch, search_dead_letters
from engine.errors import ConfigError, ServiceError
from engine.execution.engine import Engine
from engine.execution.replays import Replay, with_earlier_replays
from engine.execution.report import RunReport
from engine.execution.session import Session, new_group
from engine.plan.model import Plan
from engine.state.records import DeadLetterFilter
from engine.state.store import StateStore

SIGNALLED = 128
SHOWN = 10

_NOT_SENT = "{} not sent: the records were delivered meanwhile"


async def replay(options: DlqOptions) -> int:
    """Replay open dead letters; exit code 1 if some cannot be replayed, else that of the runs.

    Raises:
        ConfigError: a patch, a name or the file is wrong.
    """
    patches = [parse_patch(text) for text in options.patch]
    plans = plans_of(options, needed=True)
    output = Output(options, plans)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(store_of(options))
        # the embedded service started for the search is the outer block, so it ends last
        found = await _chosen(stack, store, plans, options, output)
        if not found:
            return ExitCode.COMPLETED
        found = found[: options.limit] if options.limit > 0 else found
        letters = [one.letter for one in found if one.letter is not None]
        guard = None if options.force else _guard(store, found, options)
        groups, obstacles = group_dead_letters(letters, plans, patches, guard)
        codes = _report(obstacles)
        runs: list[Replay] = [(one, None) for one in groups]
        if guard is not None:
            regrouped = partial(_grouped, plans=plans, patches=patches, guard=guard)
            runs, obstacles = await with_earlier_replays(store, SystemClock(), groups, regrouped)
            codes += _report(obstacles)
        alone = _by_model(one for one in found if one.letter is None)
        if options.dry_run:
            _announce([group for group, _ in runs], alone, patches)
            return most_serious(codes)
        engine = await stack.enter_async_context(
            Engine(state_dir=options.state_dir, store=store_of(options), observer=output.observer)
        )
        code = await _replay_groups(engine, runs, found, options, output)
        if code >= SIGNALLED:
            return code
        codes += [ExitCode(code), await _send_to_services(alone, patches, output, force=options.force)]
    return most_serious(codes)


async def _chosen(
    stack: AsyncExitStack, store: StateStore, plans: dict[str, Plan], options: DlqOptions, output: Output
) -> list[DeadLetterMatch]:
    """Return the dead letters to replay: open ones, or with --force the named ones of any status.

    Raises:
        ConfigError: a name matches nothing, or --force is given without names.
    """
    if options.force:
        if not options.names:
            raise ConfigError("--force replaces newer rows, so it needs the names of dead letters")
        return named(await collect(stack, store, plans, options, query_of(options, "")), options.names)
    found = await collect(stack, store, plans, options, query_of(options, "open"))
    if found:
        return found
    if options.names:
        # a dead letter that has been closed is no error, an unknown one is
        closed = named(await collect(stack, store, plans, options, query_of(options, "")), options.names)
        if any(one.status == "recovered" for one in closed):
            output.say(
                "nothing to replay: the record was delivered since, and the older one would replace it. "
                "--force replays it anyway"
            )
            return []
    output.say("nothing to replay: no open dead letter matches")
    return []


def _guard(store: StateStore, found: Sequence[DeadLetterMatch], options: DlqOptions) -> StillOpen:
    """Return a function that asks which of these letters are still open."""
    services = list({one.service.url: one.service for one in found if one.service is not None}.values())

    async def still_open() -> set[LetterId]:
        again = await search_dead_letters(store, services, query_of(options, "open"))
        return {letter_id(one.letter) for one in again if one.letter is not None}

    return still_open


def _grouped(
    letters: list[DeadLetter], plans: dict[str, Plan], patches: Sequence[Patch], guard: StillOpen | None
) -> list[ReplayGroup]:
    return group_dead_letters(letters, plans, patches, guard)[0]


async def _replay_groups(
    engine: Engine,
    runs: Sequence[Replay],
    found: Sequence[DeadLetterMatch],
    options: DlqOptions,
    output: Output,
) -> int:
    """Run one group after the other; close the dead letters and copies of each when its run has completed."""
    copies = {letter_id(one.letter): one for one in found if one.letter is not None and one.copy is not None}
    group_id = REPLAY_GROUP + new_group(engine)
    reports: list[RunReport] = []
    codes: list[int] = []
    for group, before in runs:
        resumes = {group.pipeline: before} if before is not None else {}
        session = Session(engine, {group.pipeline: group.plan}, [group.pipeline], resumes, group_id=group_id)
        watch = SignalWatch(session, output.say)
        await watched(session, watch, output)
        for report in session.reports.values():
            reports.append(report)
            if report.ok and group.source.begun:
                await engine.store.mark_dead_letters(group.replayed, "replayed")
                await _close_copies(engine.store, group, copies, report, output)
                if closed := len(group.letters) - len(group.replayed):
                    output.say(_NOT_SENT.format(counted(closed, "dead letter")))
        codes.append(exit_code(session, watch.number))
        if session.draining:
            break
    output.conclude(
        summary(
            reports,
            PlaceOptions(file=options.file or DEFAULT_FILE, state_dir=options.state_dir, state=options.state),
            width=output.width,
            resumable=False,
        )
    )
    if any(not report.ok for report in reports):
        output.say("dead letters whose replay did not complete are still open: replay them again")
    signalled = [code for code in codes if code >= SIGNALLED]
    return signalled[0] if signalled else most_serious(map(ExitCode, codes))


async def _close_copies(
    store: StateStore,
    group: ReplayGroup,
    copies: Mapping[LetterId, DeadLetterMatch],
    report: RunReport,
    output: Output,
) -> None:
    """Close the services' copies of delivered records; records that died again are open there again."""
    again = await store.dead_letters(DeadLetterFilter(report.run_id)) if report.tally.dead else []
    dead = {one.key for one in again}
    delivered = [letter_id(one) for one in group.replayed if one.key not in dead]
    try:
        found = [copies[one] for one in delivered if one in copies]
        await close_copies(found, "recovered", f"replayed by the run {report.run_id}")
    except ServiceError as error:
        output.say(f"the records were delivered, but their copies in the service are still open: {error}")


async def _send_to_services(
    alone: Mapping[tuple[str, str], Sequence[DeadLetterMatch]],
    patches: Sequence[Patch],
    output: Output,
    *,
    force: bool,
) -> ExitCode:
    """Post the records of dead letters that only a service has to that service again.

    Raises:
        ServiceError: the service can no longer be reached.
    """
    for (_, model), found in alone.items():
        service = found[0].service
        assert service is not None, "a dead letter of a service has its location"
        newest = None if force else await service.newest(model)
        if newest is not None:  # records delivered before that have closed their dead letters
            ids = await service.still_open([one.copy.dead_letter_id for one in found if one.copy is not None])
            if closed := len(found) - len(ids):
                output.say(_NOT_SENT.format(counted(closed, "dead letter")))
            found = [one for one in found if one.copy is not None and one.copy.dead_letter_id in ids]
        records = [apply_patches(one.record, patches) for one in found]
        dead = await service.send(model, records, unless_newer=newest)
        good = len(found) - len(dead)
        output.conclude(
            f"{model}: {counted(good, 'row')} written, {counted(len(dead), 'record')} dead again\n"
        )
        for row in dead[:SHOWN]:
            output.conclude(f"  {found[row.index].id}: {row.error_type}: {row.error_message}\n")
    return ExitCode.COMPLETED


def _by_model(found: Iterable[DeadLetterMatch]) -> dict[tuple[str, str], list[DeadLetterMatch]]:
    by_model: dict[tuple[str, str], list[DeadLetterMatch]] = {}
    for one in found:
        if one.copy is not None and one.service is not None:
            by_model.setdefault((one.service.url, one.copy.model), []).append(one)
    return by_model


def _announce(
    groups: Sequence[ReplayGroup],
    alone: Mapping[tuple[str, str], Sequence[DeadLetterMatch]],
    patches: Sequence[Patch],
) -> None:
    for group in groups:
        nodes = " → ".join(node.name for node in group.plan.nodes[1:])
        sys.stdout.write(f"{group.pipeline}: {counted(len(group.letters), 'dead letter')} → {nodes}")
        sys.stdout.write(f", {group.changed:,} changed by patches\n" if patches else "\n")
        _example(group.letters[0].record, patches)
    for (url, model), found in alone.items():
        sys.stdout.write(f"{model}: {counted(len(found), 'record')} → {url}/ingest/{model}\n")
        _example(found[0].record, patches)


def _example(record: JsonValue, patches: Sequence[Patch]) -> None:
    if patches:
        text = json.dumps(apply_patches(record, patches), ensure_ascii=False)
        sys.stdout.write(printable(f"  first record: {text}\n"))


def _report(obstacles: Sequence[Obstacle]) -> list[ExitCode]:
    """Print what cannot be replayed; return its exit code."""
    for obstacle in obstacles:
        first = obstacle.letters[0]
        what = f"{counted(len(obstacle.letters), 'dead letter')} of {first.pipeline}/{first.node}"
        sys.stderr.write(printable(f"{what} not replayed: {obstacle.reason}\n"))
    return [ExitCode.FAILED] if obstacles else []
