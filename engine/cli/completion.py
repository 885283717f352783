"""Print a script that completes verbs, options and their values in a shell.

Examples:
  bash:  odw completion bash > ~/.local/share/bash-completion/completions/odw
  zsh:   odw completion zsh > ~/.zfunc/_odw      (a folder of $fpath)
  fish:  odw completion fish > ~/.config/fish/completions/odw.fish
"""

from __future__ import annotations

import sys

from engine.cli.options import CompletionOptions


def execute(options: CompletionOptions) -> int:
    """Print the script."""
    from engine.cli.shells import script

    sys.stdout.write(script(options.shell))
    return 0
