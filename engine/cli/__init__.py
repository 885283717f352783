"""The command line: one module per verb; the only code of the engine that prints.

Before the verb is known, only the standard library's `sys` and `argparse` are imported; each verb imports
what it needs when it is executed. A verb's module has `execute(options) -> int`; the type of `options` is a
class of `engine.cli.options`, which declares them. They are listed in its order, of its last base first;
a verb with several actions, or with another order, has `add_arguments(parser)`.
"""

from __future__ import annotations

from engine.cli.process import program
from engine.cli.verbs import main

__all__ = ["main", "program"]
