"""Explain an exit code, an error, or the type of a dead letter: what it means and what to do.

python -m engine explain 5                 # an exit code
python -m engine explain OutageError       # an error
python -m engine explain MissingFields     # the type of a dead letter, as `dlq list` shows it
"""

from __future__ import annotations

import re
import sys

from engine.cli.options import ExplainOptions


def execute(options: ExplainOptions) -> int:
    """Print the explanation."""
    from engine.cli.explanations import ALL, SECTIONS
    from engine.config.problems import unknown
    from engine.errors import ConfigError

    if not options.code:
        for title, entries in SECTIONS.items():
            sys.stdout.write(f"{title}:\n")
            width = max(map(len, entries))
            sys.stdout.writelines(f"  {code:<{width}}  {one.meaning}\n" for code, one in entries.items())
        return 0
    known = {code.lower(): code for code in ALL}
    wanted = options.code.lower()
    if re.fullmatch(r"http\d{3}", wanted):
        sys.stdout.write(
            f"{options.code}: An API rejected the record with this status.\n\nThe message has "
            "its answer. Fix the record with `dlq replay --patch`, or set `record_statuses`.\n"
        )
        return 0
    code = known.get(wanted)
    if code is None:
        near = unknown("code", options.code, ALL) if len(options.code) > len("143") else ""
        raise ConfigError(near or f"no exit code {options.code}: `explain` without a code lists all")
    entry = ALL[code]
    sys.stdout.write(f"{code}: {entry.meaning}.\n\n{entry.remedy}\n")
    return 0
