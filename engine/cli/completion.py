"""Print a script that completes verbs, options and their values in a shell.

Examples:
  bash:  odw completion bash > ~/.local/share/bash-completion/completions/odw
  zsh:   odw completion zsh > ~/.zfunc/_odw      (a folder of $fpath)
  fish:  odw completion fish > ~/.config/fish/completions/odw.fish
"""

from __future__ import annotations

import argparse
import sys

from engine.cli.arguments import add_options
from engine.cli.options import CompletionOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    add_options(parser, CompletionOptions)


def execute(options: CompletionOptions) -> int:
    """Print the script."""
    from engine.cli.shells import script

    sys.stdout.write(script(options.shell))
    return 0
