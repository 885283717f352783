"""The entry point of the command-line process."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

from engine.cli.verbs import main

__all__ = ["LossyStream", "program"]


class LossyStream:
    """Standard error whose reader may go away or whose disk may fill: what it does not take is left out.

    No verb does its work for the sake of its log.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def program() -> int:
    """Run the command line and end the process."""
    errors: TextIO | None = sys.stderr  # None when it was closed before the start
    if errors is not None:
        sys.stderr = cast("TextIO", LossyStream(errors))
    code = main()
    # Temporal's SDK has threads of its own. One that is just letting go of a call which was given up, as
    # after Ctrl-C, wants the interpreter that waits for it while it is taken down, and neither ever ends.
    if "temporalio" in sys.modules:
        with suppress(OSError):  # said, with a code of its own, when the interpreter tries it again
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code
