"""The event loop that verbs run on."""

from __future__ import annotations

import gc
from collections.abc import Callable
from importlib.util import find_spec

import anyio

COLLECT_AFTER = 2_000
"""Number of objects allocated and not yet freed that triggers the garbage collector.

A much higher threshold only wastes memory: reference cycles of libraries, mostly after failures, live until
then.
"""


def on_event_loop(main: Callable[[], object]) -> int:
    """Run a coroutine function and return its exit code, on uvloop if installed."""
    # a few batches in flight are thousands of live objects, which the default threshold of 700 would have the
    # collector scan again and again. Only the owner of the process may decide this.
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    try:
        return anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})  # type: ignore[arg-type]
    finally:  # a caller in the same process, such as a test, keeps its own
        gc.set_threshold(*thresholds)
        gc.unfreeze()
