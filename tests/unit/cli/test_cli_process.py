"""The end of the process."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from engine.cli import main
from engine.cli.process import LossyStream


@pytest.mark.slow
@pytest.mark.parametrize(("loaded", "rest"), [("", "taken down\n"), ("import temporalio", "")])
def test_process_exits_without_interpreter_teardown(loaded: str, rest: str) -> None:
    program = f"""
import atexit, sys
{loaded}
from engine.cli import process
atexit.register(print, "taken down")
process.main = lambda: print("said") or 6
sys.exit(process.program())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (6, f"said\n{rest}"), done.stderr


def test_a_log_that_nothing_takes_stops_nothing() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("No space left on device")

        def flush(self) -> None:
            raise BrokenPipeError

    stream = LossyStream(Full())
    assert stream.write("a line\n") == 7
    stream.flush()
    assert not stream.isatty()


def test_a_log_without_unicode_is_written_in_utf_8(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    log = io.TextIOWrapper(written, "ascii", "backslashreplace", write_through=True)
    monkeypatch.setattr(sys, "stderr", LossyStream(log))
    main(["é"])
    assert "é".encode() in written.getvalue()
