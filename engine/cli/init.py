"""Create a project from a template: a pipeline file that runs as it is, with its data and tests.

Without a template, lists the templates. Existing files are never overwritten.

  python -m engine init files orders            # from the template `files`, in the new folder orders/
  python -m engine init --connector weather     # a package with a connector called `weather`
"""

from __future__ import annotations

from engine.cli.options import InitOptions


def execute(options: InitOptions) -> int:
    """Write the files and return the exit code."""
    from engine.cli.scaffold import create

    return create(options)
