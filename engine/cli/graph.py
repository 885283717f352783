"""Draw the pipelines of a file as a text tree or a Mermaid flowchart."""

from __future__ import annotations

import sys

from engine.cli.options import GraphOptions


def execute(options: GraphOptions) -> int:
    """Print the drawings, with a blank line between them."""
    from engine.cli.loading import load_plans
    from engine.plan.drawing import mermaid, text

    plans = load_plans(options).values()
    if options.format == "text":
        sys.stdout.write("\n".join(text(plan) for plan in plans))
    else:
        # a comment names each, since a flowchart has only one title
        sys.stdout.write("\n".join(f"%% {plan.pipeline}\n{mermaid(plan)}" for plan in plans))
    return 0
