"""The command line with a bug planted in its engine, to check that the harness finds it.

`python planted.py BUG run …` in the place of `python -m engine run …`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from engine.contract.acks import SplitTracker
from engine.execution import ledger
from engine.execution.ledger import Ledger
from engine.state.records import Progress

__all__ = ["BUGS"]


def position_before_ack() -> None:
    """The watermark covers what was read, not what was acknowledged."""
    snapshot = ledger._progress

    def progress_of_the_reading(node: str, tracker: SplitTracker, *, closing: bool = False) -> Progress:
        honest = snapshot(node, tracker, closing=closing)
        return replace(honest, position=tracker._acks[-1].end) if tracker._acks else honest

    ledger._progress = progress_of_the_reading


def replay_unmarked() -> None:
    """A resumed split is delivered as if its keys were fresh."""
    track = Ledger.track

    def track_as_fresh(self: Ledger, node: str, record: Any, *, replay: bool) -> SplitTracker:
        return track(self, node, replace(record, read_limit=0), replay=False)

    Ledger.track = track_as_fresh  # type: ignore[method-assign]


def settled_twice_on_paper() -> None:
    """A tally counts what was read again after a resume a second time."""
    track = Ledger.track

    def track_with_a_head_start(self: Ledger, node: str, record: Any, *, replay: bool) -> SplitTracker:
        tracker = track(self, node, record, replay=replay)
        tracker.covered.add(record.tally)
        return tracker

    Ledger.track = track_with_a_head_start  # type: ignore[method-assign]


BUGS: Mapping[str, Callable[[], None]] = {
    bug.__name__: bug for bug in (position_before_ack, replay_unmarked, settled_twice_on_paper)
}


if __name__ == "__main__":
    from engine.cli import main

    BUGS[sys.argv[1]]()
    raise SystemExit(main(sys.argv[2:]))
