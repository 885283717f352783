"""The naive side of the model: the outcome of every record, in plain lists and counters.

Nothing in here is clever: a record in flight is a `Leaf` in a list beside its real batch, and whatever
happens to it is counted at once in the `Account` of the source batch it was read in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from engine.contract.acks import Ack, Tally
from engine.contract.batch import Batch
from engine.state.records import SplitRecord

__all__ = ["Account", "Books", "Fate", "Flight", "Leaf", "MismatchError", "SplitBook", "Standing", "figures"]

Span = tuple[int, int]
"""Where a source batch begins and ends in its split."""


class MismatchError(AssertionError):
    """The engine disagrees with the model; the message names the subject."""


def figures(tally: Tally) -> Counter[str]:
    """The counts of a tally; those by reason or node are named `drops REASON` and the like."""
    counts: Counter[str] = Counter()
    for name, value in tally.to_json().items():
        if isinstance(value, dict):
            counts.update({f"{name} {of}": count for of, count in value.items()})
        elif isinstance(value, int):
            counts[name] = value
    return counts


@dataclass
class Fate:
    """The outcomes of one source batch's records, and of all records derived from them."""

    counts: Counter[str] = field(default_factory=Counter)
    written: list[str] = field(default_factory=list)
    """Keys that a last sink has taken."""
    dead: list[tuple[str, str]] = field(default_factory=list)
    """(node, key) of those that died."""


@dataclass(eq=False)
class Account:
    """One source batch: its real ack, and unsettled records."""

    span: Span
    ack: Ack
    owed: int
    fate: Fate


class Leaf(NamedTuple):
    """One record in flight."""

    account: Account
    record: str
    key: str


@dataclass(eq=False)
class Flight:
    """A real batch on its way, and the records that are in it."""

    batch: Batch
    leaves: list[Leaf]

    def check(self) -> None:
        """Records, keys and origins have stayed side by side."""
        batch, leaves = self.batch, self.leaves
        if batch.records != [leaf.record for leaf in leaves]:
            raise MismatchError(
                f"the batch has {batch.records}, the model {[leaf.record for leaf in leaves]}"
            )
        if batch.keys.to_list() != [leaf.key for leaf in leaves]:
            raise MismatchError(f"keys are {batch.keys.to_list()}, should be {[leaf.key for leaf in leaves]}")
        owners = [ack for ack, count in batch.origins for _ in range(count)]
        if owners != [leaf.account.ack for leaf in leaves]:
            raise MismatchError(
                "an origin is lost: a record answers to another batch than the one it was read in"
            )


@dataclass(frozen=True)
class Standing:
    """How far a split is, as the ledger says or as it should say."""

    position: int = 0
    done: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    acked: dict[Span, Fate] = field(default_factory=dict)
    """What is settled beyond the position."""

    def moved(self, other: Standing) -> bool:
        """True when the other one is at another place."""
        return (self.position, self.done, self.counts) != (other.position, other.done, other.counts)


@dataclass(eq=False)
class SplitBook:
    """One split: what was read of it in this attempt, and where the ledger says that it stands."""

    node: str
    key: str
    size: int
    standing: Standing = field(default_factory=Standing)
    base: Standing = field(default_factory=Standing)
    """Where this attempt has begun."""
    accounts: list[Account] = field(default_factory=list)
    covered: list[tuple[Span, Fate]] = field(default_factory=list)
    """What earlier attempts have settled for good."""
    read_to: int = 0
    ended: bool = False

    def now(self) -> Standing:
        """Where the split stands if all is committed: behind the last batch with nothing owed before it."""
        settled = self._settled()
        spans = [account.span for account in settled]
        position = max([self.base.position, *(end for _, end in spans)])
        counts = self._counts(settled)
        done = self.ended and len(settled) == len(self.accounts)
        acked_out_of_order = {
            account.span: account.fate
            for account in self.accounts[len(settled) :]
            if not account.owed and account.span[0] < account.span[1]
        }
        return Standing(position, self.base.done or done, counts, acked_out_of_order)

    def standing_of(self, record: SplitRecord) -> Standing:
        """What the ledger says, if it may say so."""
        now, position = self.now(), int(record.position or 0)
        if position > now.position or (record.done and not now.done):
            raise MismatchError(
                f"{self.key}: the watermark is at {position} (done: {record.done}), but the first record that"
                f" is not settled is {now.position} (done: {now.done})"
            )
        if position < self.standing.position or record.done < self.standing.done:
            raise MismatchError(
                f"{self.key}: the watermark went back from {self.standing.position} to {position}"
            )
        before = [account for account in self._settled() if account.span[1] <= position]
        if figures(record.tally) != self._counts(before):
            raise MismatchError(
                f"{self.key}: the tally is not that of the records before {position}:"
                f" {figures(record.tally)} instead of {self._counts(before)}"
            )
        return Standing(position, record.done, figures(record.tally), self._judge_acked(record))

    def _judge_acked(self, record: SplitRecord) -> dict[Span, Fate]:
        own = {account.span: account.fate for account in self.accounts if not account.owed}
        true, acked = self.base.acked | own, {}
        for one in record.acked:
            span = int(one.start or 0), int(one.end)
            if span not in true or figures(one.tally) != true[span].counts:
                raise MismatchError(f"{self.key}: {span} is acked as {one.tally}, should be {true.get(span)}")
            acked[span] = true[span]
        if len({start for start, _ in acked}) < len(record.acked):
            raise MismatchError(f"{self.key}: two batches of {sorted(acked)} begin at the same place")
        return acked

    def cut(self, count: int, *, again: bool) -> int:
        """How many records to read: up to a place where an earlier process has cut a batch, or this many."""
        cuts = [place for span in self.base.acked for place in span if place > self.read_to]
        end = min(cuts) if again and cuts else min(self.read_to + count, self.size)
        return end - self.read_to

    def resume(self) -> None:
        """Forget everything that the ledger does not cover, after the process has died."""
        before = [account for account in self._settled() if account.span[1] <= self.standing.position]
        self.covered += [(account.span, account.fate) for account in before]
        self.base, self.accounts = self.standing, []
        self.read_to, self.ended = self.base.position, self.base.done

    def check_coverage(self) -> None:
        """Every record of the split is covered exactly once."""
        spans = [span for span, _ in self.covered] + [account.span for account in self._settled()]
        places = [place for start, end in spans for place in range(start, end)]
        if places != list(range(self.size)):
            raise MismatchError(f"{self.key}: {self.size} records, and these are covered: {places}")

    def final(self) -> list[Fate]:
        """The outcome of all that the ledger covers."""
        return [fate for _, fate in self.covered] + [account.fate for account in self._settled()]

    def _settled(self) -> list[Account]:
        settled: list[Account] = []
        for account in self.accounts:
            if account.owed:
                break
            settled.append(account)
        return settled

    def _counts(self, accounts: Iterable[Account]) -> Counter[str]:
        counts = Counter(self.base.counts)
        for account in accounts:
            counts.update(account.fate.counts)
        return counts


class Books:
    """The model of one run: its splits, and the batches on their way through it."""

    def __init__(self, splits: Iterable[SplitBook]) -> None:
        self.splits = {book.key: book for book in splits}
        self.flights: list[Flight] = []
        self.held: list[list[Leaf]] = []
        """What each batcher holds."""

    def opened(self, book: SplitBook, ack: Ack, count: int) -> Account:
        """A source batch of `count` records was read; a known one has its fate already."""
        span = (book.read_to, book.read_to + count)
        known = book.base.acked.get(span) if count else None
        if known is not None:
            fate = replace(known, counts=Counter(known.counts))
        else:
            fate = Fate(Counter(read=count))
        account = Account(span, ack, 0 if known is not None else count, fate)
        book.accounts.append(account)
        book.read_to = span[1]
        return account

    def fork(self, leaf: Leaf, extra: int) -> None:
        """`extra` more records were made of this one."""
        leaf.account.owed += extra
        leaf.account.fate.counts["forked"] += extra

    def delivered(self, leaf: Leaf, node: str) -> None:
        """A sink has taken it, which may have something behind it."""
        leaf.account.fate.counts[f"delivered {node}"] += 1

    def write(self, leaf: Leaf, *, confirmed: bool = True) -> None:
        """That sink was the last one."""
        self._settle(leaf, "written")
        leaf.account.fate.written.append(leaf.key)
        if not confirmed:
            leaf.account.fate.counts["accepted"] += 1

    def drop(self, leaf: Leaf, reason: str) -> None:
        """It was let go."""
        self._settle(leaf, "dropped")
        leaf.account.fate.counts[f"drops {reason}"] += 1

    def dead_letter(self, leaf: Leaf, node: str) -> None:
        """It is in the dead letters."""
        self._settle(leaf, "dead")
        leaf.account.fate.counts[f"deaths {node}"] += 1
        leaf.account.fate.dead.append((node, leaf.key))

    def _settle(self, leaf: Leaf, fate: str) -> None:
        leaf.account.owed -= 1
        leaf.account.fate.counts[fate] += 1
        if leaf.account.owed < 0:
            raise MismatchError(f"{leaf.key} is settled twice")

    def accounts(self) -> Iterator[Account]:
        """All source batches of this attempt."""
        return (account for book in self.splits.values() for account in book.accounts)

    @property
    def owed(self) -> int:
        """Records in flight."""
        return sum(account.owed for account in self.accounts())

    def check(self) -> None:
        """Every batch and every account is as the model has it."""
        for flight in self.flights:
            flight.check()
        on_their_way = sum(len(flight.leaves) for flight in self.flights) + sum(map(len, self.held))
        if on_their_way != self.owed:
            raise MismatchError(f"{self.owed} records are owed and {on_their_way} are on their way")
        for account in self.accounts():
            ack, counts = account.ack, account.fate.counts
            if ack.pending != account.owed or figures(ack.tally) != counts:
                raise MismatchError(
                    f"the ack of {account.span} owes {ack.pending} with {figures(ack.tally)},"
                    f" it should owe {account.owed} with {counts}"
                )
