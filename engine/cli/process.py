"""The entry point of the command-line process."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from engine.cli.verbs import main

__all__ = ["program"]


def program() -> int:
    """Run the command line and end the process."""
    code = main()
    # Temporal's SDK has threads of its own. One that is just letting go of a call which was given up, as
    # after Ctrl-C, wants the interpreter that waits for it while it is taken down, and neither ever ends.
    if "temporalio" in sys.modules:
        with suppress(OSError):  # said, with a code of its own, when the interpreter tries it again
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code
