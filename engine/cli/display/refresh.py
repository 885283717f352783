"""Text that is updated in place."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Final

import anyio

from engine.errors import ConfigError

_CLEAR: Final = "\x1b[H\x1b[J"
_SHORTEST: Final = 0.1


async def refresh(
    text: Callable[[], Awaitable[str]], interval: float, *, once: bool = False, clear: bool = True
) -> None:
    """Write the text to stdout every `interval` seconds until interrupted.

    Args:
        once: write it once and return.
        clear: on a terminal, overwrite the previous text.

    Raises:
        ConfigError: the interval is too short.
    """
    if interval < _SHORTEST:
        raise ConfigError(f"--interval: expected at least {_SHORTEST} seconds, got {interval:g}")
    cleared = _CLEAR if clear and not once and sys.stdout.isatty() else ""
    while True:
        sys.stdout.write(cleared + await text())
        sys.stdout.flush()
        if once:
            return
        await anyio.sleep(interval)
