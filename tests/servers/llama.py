"""llama.cpp's server as a separate process, from the environment that `.ci/run` creates."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

from tests.servers.needed import TOOLS, missing

__all__ = ["running"]

START_SECONDS = 300.0
PYTHON = TOOLS / "llama" / "bin" / "python"
PROGRAM = Path(__file__).with_name("llama_program.py")


@contextmanager
def running(context: int, log: Path) -> Iterator[str]:
    """The base URL of a server with a model of 135 M weights; may skip the test.

    Args:
        context: tokens of a prompt and its answer together.
        log: a file for what the server says.
    """
    if not PYTHON.exists():
        missing(f"no llama.cpp server in {PYTHON.parents[1]}: run .ci/run, which installs it")
    with (
        log.open("wb") as said,
        subprocess.Popen(
            [PYTHON, "-u", PROGRAM, str(context)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        ) as process,
    ):
        patience = Timer(START_SECONDS, process.kill)
        patience.start()
        try:
            assert process.stdout is not None
            url = next((line.strip() for line in process.stdout if line.startswith("http")), "")
            patience.cancel()
            assert url, f"the server did not start: {log.read_text(errors='replace')[-500:]}"
            yield url
        finally:
            patience.cancel()
            process.kill()
