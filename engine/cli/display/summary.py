"""The summary of runs: a table followed by notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from engine.cli.arguments import this_command
from engine.cli.display.numbers import LEAST_USD, count, counted, duration, rate
from engine.cli.display.table import aligned
from engine.cli.display.terminal import one_line
from engine.cli.options import DEFAULT_FILE, PlaceOptions
from engine.cli.state import state_options
from engine.contract.acks import Tally
from engine.contract.component import Kind
from engine.contract.verification import Check, Verdict
from engine.execution.report import RunReport
from engine.flow.stats import NodeSnapshot, read_here
from engine.trial import READ_AGAIN, SAMPLED, SAMPLED_SPLITS, STOPPED_AFTER


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    text: Callable[[RunReport], str]
    total: Callable[[Iterable[RunReport]], str] = lambda reports: ""
    left: bool = False


def summary(
    runs: Sequence[RunReport], options: PlaceOptions, *, width: int = 100, resumable: bool = True
) -> str:
    """Return the summary, or "" without runs. A table wider than `width` columns becomes lines.

    `resumable`: include the commands that resume incomplete runs.
    """
    if not runs:
        return ""
    lines = _table(runs)
    if max(map(len, lines)) > width:
        lines = [line for report in runs for line in _stacked(report)]
    for report in runs:
        lines += [f"{report.pipeline}: {note}" for note in _notes(report, options)]
        if resumable and report.run_id and not report.ok and not _is_dry(options):
            lines.append(f"{report.pipeline}: to resume: {resume_command(report.run_id, options)}")
    return "\n".join(lines) + "\n"


def _columns(runs: Sequence[RunReport]) -> list[_Column]:
    def number(title: str, of: Callable[[RunReport], int]) -> _Column:
        return _Column(title, lambda run: count(of(run)), lambda all_: count(sum(map(of, all_))))

    columns = [
        _Column("pipeline", lambda run: run.pipeline, lambda runs: "total", left=True),
        _Column("status", lambda run: str(run.status), left=True),
        number("read", lambda run: run.tally.read),
    ]
    if any(run.tally.forked for run in runs):
        columns.append(number("made", lambda run: run.tally.forked))
    columns += [
        number("written", lambda run: run.tally.written),
        number("dropped", lambda run: run.tally.dropped),
        number("dead", lambda run: run.tally.dead),
        _Column("time", lambda run: duration(run.seconds)),
        _Column("records/s", lambda run: rate(_speed(run))),
        _Column("bottleneck", _bottleneck, left=True),
    ]
    return columns


def _table(runs: Sequence[RunReport]) -> list[str]:
    columns = _columns(runs)
    rows = [[column.title for column in columns], *([column.text(run) for column in columns] for run in runs)]
    if len(runs) > 1:
        rows.append([column.total(runs) for column in columns])
    return aligned(rows, right=[place for place, column in enumerate(columns) if not column.left])


def _stacked(run: RunReport) -> list[str]:
    tally = run.tally
    made = f" + made {count(tally.forked)}" if tally.forked else ""
    busiest = _bottleneck(run)
    return [
        f"{run.pipeline}: {run.status} in {duration(run.seconds)}, {rate(_speed(run))}/s",
        f"  read {count(tally.read)}{made}",
        f"  written {count(tally.written)}",
        f"  dropped {count(tally.dropped)}",
        f"  dead {count(tally.dead)}",
        *([f"  bottleneck {busiest}"] if busiest else []),
    ]


def _speed(run: RunReport) -> float:
    # records that were read and then given up, e.g. in an outage, are not in the ledger
    return min(read_here(run.nodes), run.tally.read) / run.seconds if run.seconds > 0 else 0.0


def _bottleneck(run: RunReport) -> str:
    node = run.bottleneck
    return f"{node.name} ({node.utilisation:.0%} busy)" if node else ""


def _dropped_all(node: NodeSnapshot) -> Iterable[str]:
    """Note a transform that dropped everything, which is rarely intended."""
    if node.kind is Kind.TRANSFORM and node.records_in and node.dropped == node.records_in:
        yield f"`{node.name}` dropped all {counted(node.records_in, 'record')} that it was given"


def _lost_all(node: NodeSnapshot) -> Iterable[str]:
    """A node of a completed run that delivered nothing: its records are a small part of all."""
    if node.records_in and node.dead == node.records_in:
        yield f"all {counted(node.records_in, 'record')} died at `{node.name}`"


def _notes(run: RunReport, options: PlaceOptions) -> Iterable[str]:
    tally = run.tally
    if run.error:
        yield f"{run.error}"
    elif run.ok and not run.tally.read and not run.dead_letters:
        sources = ", ".join(f"`{node.name}`" for node in run.nodes if node.kind is Kind.SOURCE)
        yield f"{sources} found nothing to read"
    for node in run.nodes:
        unchanged = int(node.aggregate.get("unchanged", 0))
        if unchanged:
            yield f"`{node.name}` skipped {count(unchanged)}: unchanged since an earlier run"
        for name, number in sorted(node.aggregate.items()):
            if name.startswith("skipped: "):
                yield f"`{node.name}` skipped {count(int(number))}: {name.removeprefix('skipped: ')}"
            if name.startswith("note: "):
                yield f"`{node.name}` {name.removeprefix('note: ')}"
        yield from _absent(node)
        yield from _by_model(node)
        replaced = int(node.aggregate.get("replaced_characters", 0))
        if replaced:
            what = counted(replaced, "invalid character")
            yield f"`{node.name}` replaced {what} by U+FFFD"
        guessed = int(node.aggregate.get("guessed_encodings", 0))
        if guessed:
            yield f"`{node.name}` guessed the encoding of {counted(guessed, 'text')}"
        if aimless := int(node.aggregate.get("not_incremental", 0)):
            yield (
                f"`{node.name}` found its `incremental` field in none of {counted(aimless, 'record')}: "
                "the next run reads all again"
            )
        yield from _read_less(node)
        yield from _dropped_all(node)
        yield from _lost_all(node) if run.ok else ()
        begun_anew = int(node.aggregate.get("begun_anew", 0))
        if begun_anew:
            yield f"`{node.name}` re-read {count(begun_anew)} from the start: replaced since an earlier run"
    for reason, number in sorted(tally.drops.items(), key=lambda item: -item[1]):
        yield f"dropped {count(number)} at {reason}"
    if run.dead_letters and not _is_dry(options):
        where = f"{this_command()} dlq list --run {run.run_id}{_file(options)}{state_options(options)}"
        # a dead letter is stored when its record dies, and counts once the batch is settled
        early = "" if run.ok or run.dead_letters <= tally.dead else ", stored before their batches settled"
        if run.first_dead_letter:
            yield f"first dead letter {one_line(run.first_dead_letter)}"
        yield f"{counted(run.dead_letters, 'dead letter')}{early}: {where}"
    if run.forward is not None:
        yield from _rejected(run.forward)
    if tally.accepted:
        yield f"{count(tally.accepted)} written records were accepted without per-record confirmation"
    retries = sum(node.retries for node in run.nodes)
    if retries:
        busy = ", ".join(f"{node.name} {count(node.retries)}" for node in run.nodes if node.retries)
        yield f"{counted(retries, 'retry').replace('retrys', 'retries')}: {busy}"
    yield from _costs(run)
    if not run.stored:
        yield "these are the last counts known to this process, which could not be stored or read back"
    if run.checks:
        yield from _verification(run.checks)
    elif run.stored and not tally.balanced:
        yield from _unbalanced(run)


def _rejected(forward: NodeSnapshot) -> Iterable[str]:
    """Note copies of dead letters that another sink refused."""
    copies = counted(forward.dead, "dead letter")
    for name in forward.aggregate:
        if name.startswith("rejected: "):
            first = one_line(name.removeprefix("rejected: "))
            yield f"`{forward.name}` rejected the copies of {copies}; the first: {first}"


def _costs(run: RunReport) -> Iterable[str]:
    """Note what models cost, and what was done for batches that the counts leave out."""
    if run.tally.tokens_in or run.tally.tokens_out:
        yield _paid(run.tally)
    begun = run.unsettled
    if begun.written or begun.tokens_in:
        paid = f", {_paid(begun)}" if begun.tokens_in else ""
        yield f"in batches that are not complete, not counted yet: {count(begun.written)} written{paid}"
    if run.unused_usd >= LEAST_USD:
        yet = "" if run.ok else " yet"
        yield (
            f"paid {_money(run.paid_usd)} over all attempts, {_money(run.unused_usd)} of it for answers that "
            f"no counted record uses{yet}"
        )


def _paid(tally: Tally) -> str:
    cost = f", {_money(tally.cost_usd)}" if tally.cost_usd else ""
    return f"{count(tally.tokens_in)} tokens in, {count(tally.tokens_out)} out{cost}"


def _absent(node: NodeSnapshot) -> Iterable[str]:
    """Note fields that the node reads and no record had, unless other workers may have found them."""
    for name, number in sorted(node.aggregate.items()):
        if name.startswith("absent: ") and number >= node.records_in:
            records, field = counted(int(number), "record"), name.removeprefix("absent: ")
            yield f"`{node.name}` found the field `{field}` in none of {records}: check its name"


def _by_model(node: NodeSnapshot) -> Iterable[str]:
    """Note the usage of each of several models, and which of them were skipped."""
    numbers = node.aggregate
    for name, calls in _by_name(node, "calls"):
        tokens_in, tokens_out = (int(numbers[f"{one}[{name}]"]) for one in ("tokens_in", "tokens_out"))
        tokens = f"{count(tokens_in)} tokens in, {count(tokens_out)} out"
        cost = _money(numbers[f"cost_usd[{name}]"])
        yield f"`{node.name}` asked {name}: {counted(calls, 'call')}, {tokens}, {cost}"
    for name, times in _by_name(node, "unavailable"):
        yield f"`{node.name}` could not ask {name} ({counted(times, 'time')})"


def _by_name(node: NodeSnapshot, number: str) -> Iterable[tuple[str, int]]:
    """Return the names and values of the numbers `number[NAME]`."""
    found = {name: value for name, value in sorted(node.aggregate.items()) if name.startswith(f"{number}[")}
    return [(name[len(number) + 1 : -1], int(value)) for name, value in found.items()]


def _read_less(node: NodeSnapshot) -> Iterable[str]:
    """Note that a source stopped early on request, so unread records are not missing."""
    numbers = {name: int(number) for name, number in node.aggregate.items()}
    if STOPPED_AFTER in numbers:
        again = numbers.get(READ_AGAIN, 0)
        more = f"; the next run reads {count(again)} of them again" if again else ""
        yield f"`{node.name}` stopped after {counted(numbers[STOPPED_AFTER], 'record')} (--limit){more}"
    if SAMPLED in numbers:
        splits = f" from {counted(numbers[SAMPLED_SPLITS], 'split')}" if SAMPLED_SPLITS in numbers else ""
        yield f"`{node.name}` sampled {counted(numbers[SAMPLED], 'record')}{splits} (--sample)"


def _verification(checks: Sequence[Check]) -> Iterable[str]:
    """List each comparison that failed or was impossible, and count those that agree."""
    for check in checks:
        if check.verdict is Verdict.DIFFERS:
            expected, found = count(check.expected or 0), count(check.found or 0)
            note = f" ({check.note})" if check.note else ""
            yield f"MISMATCH{_at(check)}: {check.what}: expected {expected}, found {found}{note}"
    for check in checks:
        if check.verdict is Verdict.NOT_COUNTED:
            yield f"NOT VERIFIED{_at(check)}: {check.what}: {check.note}"
        elif check.verdict is Verdict.UNKNOWN:
            yield f"not verifiable{_at(check)}: {check.what}: {check.note}"
        elif check.note and check.verdict is Verdict.AGREES:
            yield f"verified{_at(check)}: {check.what}: {check.note}"
    agree = sum(check.verdict is Verdict.AGREES for check in checks)
    yield f"verified: {count(agree)} of {counted(len(checks), 'figure')} agree"


def _at(check: Check) -> str:
    return f" at {check.node}" if check.node else ""


def _unbalanced(run: RunReport) -> Iterable[str]:
    tally = run.tally
    made = f" + made {count(tally.forked)}" if tally.forked else ""
    settled = f"written {count(tally.written)} + dropped {count(tally.dropped)} + dead {count(tally.dead)}"
    # the ledger has only settled records, so the counts of a killed run balance too
    yield (
        f"Internal error: record counts do not balance (read {count(tally.read)}{made}, but {settled}); "
        "please report this"
    )


def _money(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"


def resume_command(run_id: str, options: PlaceOptions) -> str:
    """Return the command that resumes a run."""
    file = "" if options.file == DEFAULT_FILE else f" {options.file}"
    return f"{this_command()} run{file} --resume {run_id}{state_options(options)}"


def _is_dry(options: PlaceOptions) -> bool:
    return bool(getattr(options, "dry_run", False))


def _file(options: PlaceOptions) -> str:
    return "" if options.file == DEFAULT_FILE else f" --file {options.file}"
