"""The child process of one attempt; `engine.chaos.trial` starts it with a file that describes the attempt."""

from __future__ import annotations

import pickle
import sys

import anyio

from engine.chaos.attempt import Attempt
from engine.errors import EngineError


def main(path: str) -> int:
    """Make the attempt that a file describes; return 1 after an error, which is written to standard error."""
    with open(path, "rb") as file:
        # written by the process that started this one, into a folder that only its user can open
        sys.path[:] = pickle.load(file)  # noqa: S301
        attempt: Attempt = pickle.load(file)  # noqa: S301
    try:
        anyio.run(attempt.run)
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
