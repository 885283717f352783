"""Create a project from a template: a pipeline file that runs as it is, with its data and tests.

Without a template, lists the templates. Existing files are never overwritten.

  python -m engine init files orders            # from the template `files`, in the new folder orders/
  python -m engine init --connector weather     # a package with a connector called `weather`
"""

from __future__ import annotations

import argparse

from engine.cli.options import InitOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    parser.add_argument("template", nargs="?", metavar="TEMPLATE", help="name of the template")
    parser.add_argument("folder", nargs="?", metavar="DIR", help="folder (default: this one)")
    parser.add_argument(
        "--connector", metavar="NAME", help="a package with a source of this name (DIR: odw-NAME)"
    )


def execute(options: InitOptions) -> int:
    """Write the files and return the exit code."""
    from engine.cli.scaffold import create

    return create(options)
