"""Lock a file while a writer adds to it: several can append, and none cuts off another's lines."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager

try:
    import fcntl
except ImportError:  # Windows: only one process may append
    fcntl = None  # type: ignore[assignment]

__all__ = ["locked"]

WAIT = 30.0
"""Seconds to wait for a writer that holds the lock, which takes about a millisecond per batch."""

_POLL_EVERY = 0.001
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def locked(descriptor: int) -> Iterator[None]:
    """Hold the lock of an open file for the block; see flock(2). A killed process releases it.

    On file systems without locks, the block runs without one.

    Raises:
        TimeoutError: another writer has held the lock for `WAIT` seconds.
    """
    held = fcntl is not None and _lock(descriptor)
    try:
        yield
    finally:
        if held:
            fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock(descriptor: int) -> bool:
    deadline = 0.0
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            deadline = deadline or time.monotonic() + WAIT
            if time.monotonic() > deadline:
                raise TimeoutError(
                    errno.ETIMEDOUT, f"another process has held the lock for {WAIT:g} s"
                ) from None
            time.sleep(_POLL_EVERY)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            raise
        else:
            return True
