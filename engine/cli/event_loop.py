"""The event loop that verbs run on."""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib.util import find_spec

import anyio

__all__ = ["COLLECT_AFTER", "on_event_loop"]


COLLECT_AFTER = 2_000
"""Objects made and not yet freed before the garbage collector looks at them.

Much higher costs memory for nothing: what libraries leave in cycles, after failures above all, is held
until then.
"""


def on_event_loop(main: Callable[[], object]) -> int:
    """Run a coroutine function and return its exit code, on uvloop if installed."""
    # a few batches in flight are thousands of records that live: the default threshold of 700 would have the
    # collector look at them again and again. Only the owner of the process may decide this.
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    try:
        return anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})  # type: ignore[arg-type]
    finally:  # a caller in the same process, such as a test, keeps its own
        gc.set_threshold(*thresholds)
        gc.unfreeze()
