"""Measure a command in another process, through a small launcher (see :mod:`benchmarks.launcher`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.machine import ROOT
from benchmarks.model import Command, Completed, Work

LAUNCHER = Path(__file__).with_name("launcher.py")
LONGEST = 900.0
"""Seconds after which any command is killed."""
_ENDING = 10.0
_SHOWN = 600


class CommandError(Exception):
    """A command exited with an error or reached its time limit; the message has the end of its output."""


def run_command(command: Command, timeout: float | None = None) -> tuple[Completed, Work]:
    """Prepare a command in an empty directory, run and measure it.

    Raises CommandError when it exits with anything but 0 or takes longer than ``timeout`` seconds (default
    and upper limit: 900).
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        directory = Path(name)
        work_directory = directory / "work"
        work_directory.mkdir()
        with command(work_directory) as launch:
            completed = _launch(
                launch.argv,
                launch.env,
                launch.cwd or work_directory,
                directory,
                min(timeout or LONGEST, LONGEST),
            )
            if completed.exit_code:
                raise CommandError(
                    f"exit code {completed.exit_code}: {last_words(completed.stderr or completed.stdout)}"
                )
            return completed, launch.work(completed)


def last_words(output: bytes) -> str:
    """Return the end of an output, short enough for a message, without paths of this machine."""
    text = output.decode("utf-8", errors="replace").strip()
    return text.replace(sys.executable, "python").replace(f"{ROOT}/", "")[-_SHOWN:]


def process_cpu(pid: int) -> float:
    """Return the processor seconds of a running process, from ``/proc/<pid>/stat`` (proc_pid_stat(5))."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    # The name in the second field may hold blanks and brackets; what follows the last bracket does not.
    after_name = stat.rpartition(")")[2].split()
    user, system = int(after_name[11]), int(after_name[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def _launch(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path, directory: Path, timeout: float
) -> Completed:
    stdout, stderr, usage = (directory / name for name in ("stdout", "stderr", "usage.json"))
    order = {
        "argv": list(argv),
        "cwd": str(cwd),
        "timeout": timeout,
        "stdout": str(stdout),
        "stderr": str(stderr),
        "usage": str(usage),
    }
    launcher = [sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(order)]
    done = subprocess.run(launcher, env={**os.environ, **env}, capture_output=True, timeout=timeout + _ENDING)
    if done.returncode:
        raise CommandError(f"it could not be started: {last_words(done.stderr)}")
    measured = json.loads(usage.read_bytes())
    if measured.pop("timed_out"):
        raise CommandError(f"killed after its time limit of {timeout:.0f} s")
    return Completed(stdout=stdout.read_bytes(), stderr=stderr.read_bytes(), **measured)
