"""The command line: one module per verb; the only code of the engine that prints.

Nothing but the standard library's `sys` and `argparse` is imported before the verb is known, and each verb
imports what it works with when it is executed. A verb's module has `SUMMARY`, `add_arguments(parser)` and
`execute(options) -> int`.
"""

from __future__ import annotations

from engine.cli.process import program
from engine.cli.verbs import main

__all__ = ["main", "program"]
