"""The entry point of the command-line process."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, TextIO, cast

from engine.cli.verbs import main


class LossyStream:
    """Standard error that drops text once its reader has gone or its disk is full.

    A failing log never stops a verb.
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
    # Threads of Temporal's SDK that release an abandoned call, as after Ctrl-C, need the interpreter, which
    # in turn waits for them during its shutdown: a deadlock.
    if "temporalio" in sys.modules:
        with suppress(OSError):  # reported with its own code when the interpreter flushes again
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code
