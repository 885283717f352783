"""`python -m tests.reliability.model`: the stateful model for many steps.

    python -m tests.reliability.model --steps 10000 --seed 1
    python -m tests.reliability.model --steps 1000 --seed 1 --store sqlite

The steps are fixed by the seed. When the engine and the model disagree, the shortest way there is printed,
and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import hypothesis
from hypothesis.stateful import run_state_machine_as_test

from tests.reliability.model.machine import LONG, DeliveryModel, DeliveryModelOnDisk

__all__ = ["main"]

MODELS = {"memory": DeliveryModel, "sqlite": DeliveryModelOnDisk}
ROUNDS = 1_000_000  # more than a series has


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps; 0 when the engine holds."""
    options = _arguments(argv)
    model, started, done = MODELS[options.store], time.monotonic(), 0
    while model.seen["steps"] < options.steps:
        seeded = hypothesis.seed(options.seed * ROUNDS + done)(model)
        run_state_machine_as_test(seeded, settings=LONG)
        done += 1
        _say(f"{model.seen['steps']} steps, {time.monotonic() - started:.0f} s")
    for what, times in sorted(model.seen.items()):
        _say(f"  {times:7} {what}")
    _say("nothing lost, nothing twice")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.model", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--steps", type=int, default=10_000, help="how many at least (10000)")
    parser.add_argument("--seed", type=int, default=1, help="of the steps (1)")
    parser.add_argument("--store", choices=sorted(MODELS), default="memory", help="what keeps the ledger")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
