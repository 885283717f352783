"""Implementation of `run`: one engine, one session, the display and the summary."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import anyio

from engine.cli.display.output import Output
from engine.cli.display.report_file import check_target, report_text, write_report
from engine.cli.display.summary import resume_command, summary
from engine.cli.display.terminal import printable
from engine.cli.event_loop import on_event_loop
from engine.cli.exit_codes import ExitCode, code_of, most_serious, show_traceback
from engine.cli.loading import load_config, load_plans, resolve_aliases
from engine.cli.local import trial
from engine.cli.local.resume import (
    announce,
    invocation_of,
    not_begun,
    params_from_before,
    refuse_living,
    unfinished,
)
from engine.cli.local.signals import SignalWatch
from engine.cli.options import RunOptions
from engine.cli.state import store_of
from engine.dead_letters.replay import REPLAY_GROUP
from engine.errors import ConfigError
from engine.execution.engine import DEFAULT_MEMORY, Engine
from engine.execution.report import RunReport
from engine.execution.resources import DRAIN_LIMIT
from engine.execution.session import Session, starting
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.registry import Registry
from engine.state.records import Follower, RunStatus
from engine.state.store import StateStore
from engine.telemetry.tracing import tracing_to
from engine.trial import reading_of, with_reading
from engine.units import parse_duration, parse_size

N = TypeVar("N", int, float)


def invoke(options: RunOptions) -> int:
    """Run the requested pipelines.

    Raises:
        EngineError: nothing could be run at all.
    """
    if options.resume is not None and options.resume.endswith((".yaml", ".yml")):
        # `--resume pipelines.yaml`: a file instead of a run
        options = replace(options, file=options.resume, resume="")
    memory_of(options.memory)
    _drain_limit(options.drain_limit)
    trial.check(options)
    if options.report:
        target = Path(options.report).absolute()  # a component may change the working directory
        check_target(target)
        options = replace(options, report=str(target))
    plans: Mapping[str, Plan] = {}
    if options.resume is None:
        config = load_config(options)
        options = replace(options, only=tuple(map(config.resolve_alias, options.only)))
        plans = compile_file(config, Registry.installed())
    elif options.only:
        options = replace(options, only=tuple(resolve_aliases(options)))
    if options.chaos is not None:
        from engine.cli.local.chaos import seed_of, try_pipelines

        seed = seed_of(options.chaos)
        if options.resume is not None:
            raise ConfigError("--chaos starts new runs: leave --resume out")
        names = [name for name in plans if not options.only or name in options.only]
        return on_event_loop(lambda: try_pipelines(options, names, seed))
    plans = trial.with_less_reading(options, plans)
    dry = trial.DryRun(options, plans) if options.dry_run else None
    return on_event_loop(lambda: _run(options, dry.plans if dry is not None else plans, dry))


async def _from_before(store: StateStore, options: RunOptions) -> list[str]:
    """Yield a line for each of the latest three runs that earlier invocations left unfinished."""
    left = [run for run in await store.list_runs() if run.status.resumable]
    chosen = [run for run in left if not run.group_id.startswith(REPLAY_GROUP)]
    return [
        f"unfinished earlier run: {run.run_id} ({resume_command(run.run_id, options)})"
        for run in chosen[-3:]
        if options.resume == "" and (not options.only or run.pipeline in options.only)
    ]


async def _run(options: RunOptions, plans: Mapping[str, Plan], dry: trial.DryRun | None) -> int:
    output = Output(options, plans)
    if options.json and output.records_on_stdout:
        raise ConfigError("--json: a sink writes its records to standard output: use --report FILE")
    async with (
        tracing_to(options.traces) as tracer,
        Engine(
            state_dir=options.state_dir if dry is None else None,
            store=store_of(options, create=options.resume is None) if dry is None else dry.store(),
            memory=memory_of(options.memory),
            samples=Path(options.samples) if options.samples else None,
            drain_limit=_drain_limit(options.drain_limit),
            observer=output.observer,
            tracer=tracer,
        ) as engine,
    ):
        if options.resume is None:
            session = Session(
                engine, plans, starting(plans, options.only), verify=options.verify, posts_pending=True
            )
        else:
            found = await _resumed(options, engine, output)
            if found is None:
                return ExitCode.COMPLETED
            session = found
        await engine.offer_taps()
        started_at = engine.clock.now()
        watch = SignalWatch(session, output.say)
        await watched(session, watch, output)
        if options.report:
            write_report(Path(options.report), started_at, options, session.reports)
        if options.json:
            sys.stdout.write(report_text(started_at, options, session.reports))
        else:
            output.conclude(summary(list(session.reports.values()), options, width=output.width))
        if dry is not None:
            for line in await dry.notes(engine, session.reports):
                output.say(line)
            output.conclude("".join(f"{line}\n" for line in dry.shown()))
        for name, before in session.put_off.items():
            output.say(
                f"{name}: not started, it follows {before}: {resume_command(session.group_id, options)}"
            )
        for report in session.reports.values():
            if options.quiet and report.failure is not None:
                sys.stderr.write(printable(f"{report.pipeline}: {report.error}\n"))
            show_traceback(report.failure)
        return exit_code(session, watch.number)


async def _resumed(options: RunOptions, engine: Engine, output: Output) -> Session | None:
    """Return what is left of an invocation; when nothing is left, print this and return None."""
    resume = options.resume or ""
    resumes = await unfinished(engine.store, resume, options.only)
    runs = await invocation_of(engine.store, resume)
    file, late = load_config(options, only=[]), list[Follower]()
    if all(run.run_id != options.resume for run in runs):
        late = await not_begun(engine.store, file, runs[0].group_id, resumes, options.only)
    if not resumes and not late:
        of = f" of {', '.join(options.only)}" if options.only else ""
        output.say(f"nothing to resume: every run{of} of the latest invocation has completed")
        for hint in await _from_before(engine.store, options):
            output.say(hint)
        return None
    await refuse_living(engine.store, engine.clock, [run.run_id for run in resumes.values()])
    params = params_from_before(file, runs, resumes)
    names = [*resumes, *(one.pipeline for one in late)]
    plans = load_plans(options, only=names, params=params)
    for name, record in resumes.items():
        plans[name] = with_reading(plans[name], reading_of(record.operational_doc))
    output.follow(plans)
    announce(runs, resumes, late, plans, output.say)
    return Session(
        engine,
        plans,
        names,
        resumes,
        begun=[run.pipeline for run in runs],
        group_id=runs[0].group_id,
        verify=options.verify,
        posts_pending=True,
        late=late,
    )


async def watched(session: Session, watch: SignalWatch, output: Output) -> None:
    """Execute a session while handling signals and showing progress."""
    async with anyio.create_task_group() as group:
        group.start_soon(watch.watch)
        async with output.progress(session):
            await session.execute()
        group.cancel_scope.cancel()


def exit_code(session: Session, signal_number: int) -> int:
    """Return the exit code of the process."""
    codes = [_code(entry.report) for entry in session.entries.values()]
    codes += [ExitCode.INTERRUPTED] * bool(session.put_off)
    worst = most_serious(codes)
    told_anyway = worst in (ExitCode.COMPLETED, ExitCode.NOT_VERIFIED)
    return 128 + signal_number if signal_number and not told_anyway else int(worst)


def _code(report: RunReport | None) -> ExitCode:
    if report is not None and report.verified is False:
        return ExitCode.NOT_VERIFIED
    if report is None or report.status is RunStatus.INTERRUPTED:
        return ExitCode.INTERRUPTED
    if report.failure is not None:
        return code_of(report.failure)
    return ExitCode.COMPLETED if report.ok or report.status is RunStatus.SKIPPED else ExitCode.FAILED


def memory_of(text: str | None) -> int:
    """Parse `--memory`.

    Raises:
        ConfigError: the value is not a size above 0.
    """
    memory = DEFAULT_MEMORY if text is None else _parsed("--memory", text, parse_size)
    if memory < 1:
        raise ConfigError(f"--memory: expected a size above 0, got {text!r}")
    return memory


def _drain_limit(text: str | None) -> float:
    return DRAIN_LIMIT if text is None else _parsed("--drain-limit", text, parse_duration)


def _parsed(option: str, text: str, parse: Callable[[str], N]) -> N:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}, got {text!r}") from None
