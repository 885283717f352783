"""Process arms: measurements of a child process, and failures of a sample."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.harness import Settings, run
from benchmarks.launcher import MAX_AT_ONCE, drain
from benchmarks.model import Arm, Benchmark, Command, Completed, Launch, Work
from benchmarks.process import CommandError, process_cpu, run_command

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="process arms read Linux's process accounting"
)

MEGABYTE = 1_000_000


def python(code: str, **env: str) -> Command:
    @contextmanager
    def prepare(_: Path) -> Iterator[Launch]:
        def work(completed: Completed) -> Work:
            return Work(1, completed.stdout.decode())

        yield Launch([sys.executable, "-I", "-c", code], work, env=env)

    return prepare


@pytest.mark.slow
def test_output_exit_and_figures_are_measured() -> None:
    completed, work = run_command(python("print('done')"))
    assert (completed.exit_code, completed.stdout, work.checksum) == (0, b"done\n", "done\n")
    assert completed.first_output is not None
    assert 0 < completed.first_output <= completed.wall
    assert completed.cpu > 0


@pytest.mark.slow
def test_output_larger_than_a_pipe_arrives_whole() -> None:
    completed, _ = run_command(python("print('x' * 1_000_000)"))
    assert len(completed.stdout) == 1_000_001


@pytest.mark.slow
def test_a_silent_command_has_no_first_output() -> None:
    completed, _ = run_command(python("pass"))
    assert completed.first_output is None


@pytest.mark.slow
def test_peak_memory_is_the_childs_and_not_the_parents() -> None:
    held = bytearray(150 * MEGABYTE)
    held[::4096] = b"x" * len(held[::4096])  # resident, not merely reserved
    small, _ = run_command(python("pass"))
    large, _ = run_command(python("x = bytearray(b'x') * 100_000_000"))
    assert small.peak_rss < 50 * MEGABYTE
    assert 100 * MEGABYTE < large.peak_rss < 150 * MEGABYTE
    assert len(held) == 150 * MEGABYTE


@pytest.mark.slow
def test_an_error_exit_fails_with_the_last_words() -> None:
    with pytest.raises(CommandError, match=r"exit code 3: out of luck"):
        run_command(python("import sys; sys.stderr.write('out of luck'); sys.exit(3)"))


@pytest.mark.slow
def test_a_command_that_does_not_exist_fails() -> None:
    @contextmanager
    def prepare(_: Path) -> Iterator[Launch]:
        yield Launch(["/nonexistent/program"], lambda _: Work(1, None))

    with pytest.raises(CommandError, match="could not be started"):
        run_command(prepare)


@pytest.mark.slow
def test_a_command_past_its_time_limit_is_killed() -> None:
    with pytest.raises(CommandError, match="time limit"):
        run_command(python("import threading; threading.Event().wait()"), timeout=0.1)


def test_the_launcher_looks_up_from_output_without_end() -> None:
    with open("/dev/zero", "rb") as endless, open(os.devnull, "wb") as sink:
        assert drain(endless.fileno(), sink.fileno()) == (MAX_AT_ONCE, False)


@pytest.mark.slow
def test_the_environment_is_added_to() -> None:
    _, work = run_command(python("import os; print(os.environ['ADDED'], 'PATH' in os.environ)", ADDED="yes"))
    assert work.checksum == "yes True\n"


@pytest.mark.slow
def test_a_command_runs_in_an_empty_directory_that_is_removed() -> None:
    _, work = run_command(python("import os; print(os.listdir()); print(os.getcwd())"))
    listing, directory = str(work.checksum).splitlines()
    assert listing == "[]"
    assert not Path(directory).exists()


@pytest.mark.slow
def test_process_arms_are_checked_like_any_other() -> None:
    arms = [Arm("one", command=python("print(1)")), Arm("two", command=python("print(2)"))]
    result = run(Benchmark("sample", "a benchmark", arms, reference="one"), Settings(pairs=1))
    assert result.status == "invalid"
    assert result.reason.startswith("checksums differ")
    assert {"wall", "cpu", "peak_rss", "first_output"} <= result.samples[0].figures.keys()


def test_processor_time_of_a_running_process_is_read() -> None:
    tick = 1 / os.sysconf("SC_CLK_TCK")
    before = os.times()
    found = process_cpu(os.getpid())
    after = os.times()
    assert before.user + before.system - 2 * tick <= found <= after.user + after.system + 2 * tick
