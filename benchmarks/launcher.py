"""Start a command, watch it until it ends and write its resource usage. Run as a script.

Linux hands a parent's peak resident size down to the child it starts: a child's ``ru_maxrss`` is never below
what its parent held at the time of ``exec``. Started from a benchmark run of 100 MB, bare Python would
measure 100 MB. This small process sits between the two; its own 10 MB are the lowest figure it can report.

Its argument is a JSON object: ``argv``, ``cwd``, ``timeout`` (seconds), and the files ``stdout``, ``stderr``
and ``usage``, the last of which receives what was measured.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

SAMPLE_MILLISECONDS = 20
MAX_AT_ONCE = 1 << 20


# Plain classes: importing dataclasses and typing would double the size of this process.
class Order:
    """The argument."""

    def __init__(self, text: str) -> None:
        values = json.loads(text)
        self.argv: list[str] = values["argv"]
        self.cwd: str = values["cwd"]
        self.timeout: float = values["timeout"]
        self.stdout: str = values["stdout"]
        self.stderr: str = values["stderr"]
        self.usage: str = values["usage"]


class Usage:
    """The resource usage of the command, in seconds and bytes."""

    def __init__(self) -> None:
        self.exit_code = 0
        self.timed_out = False
        self.wall = 0.0
        self.cpu = 0.0
        self.peak_rss = 0
        self.own_peak_rss: int | None = None
        self.first_output: float | None = None


def own_peak_rss(pid: int) -> int | None:
    """Return the process's own high-water mark in bytes, which is lost when it ends, so it is sampled."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def spawn(order: Order, output: int) -> int:
    """Start the command in its own process group, with ``output`` as its standard output."""
    created = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        order.argv[0],
        order.argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_OPEN, 2, order.stderr, created, 0o600),
        ],
        setpgroup=0,
    )


def drain(source: int, sink: int) -> tuple[int, bool]:
    """Copy the pipe's content; return the number of bytes, and whether the pipe has ended.

    At most about 1 MB at a time, so that a command that never stops writing still meets its time limit.
    """
    copied = 0
    while copied < MAX_AT_ONCE:
        try:
            data = os.read(source, 1 << 16)
        except BlockingIOError:
            return copied, False
        if not data:
            return copied, True
        copied += len(data)
        while data:
            data = data[os.write(sink, data) :]
    return copied, False


def watch(order: Order, sink: int) -> Usage:
    """Run the command until it ends, or kill its whole process group at the time limit."""
    usage = Usage()
    source, output = os.pipe()
    os.set_blocking(source, False)
    started = time.perf_counter()
    pid = spawn(order, output)
    os.close(output)
    ended = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(ended, select.POLLIN)
    try:
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(SAMPLE_MILLISECONDS)}
            elapsed = time.perf_counter() - started
            if source in ready:
                copied, at_end = drain(source, sink)
                if copied and usage.first_output is None:
                    usage.first_output = elapsed
                if at_end:
                    poll.unregister(source)
            if ended in ready:
                break
            usage.own_peak_rss = own_peak_rss(pid) or usage.own_peak_rss
            if elapsed > order.timeout and not usage.timed_out:
                usage.timed_out = True
                os.killpg(pid, signal.SIGKILL)
    except BaseException:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    usage.wall = elapsed
    _, status, resources = os.wait4(pid, 0)
    copied, _ = drain(source, sink)
    if copied and usage.first_output is None:
        usage.first_output = elapsed
    usage.exit_code = os.waitstatus_to_exitcode(status)
    usage.cpu = resources.ru_utime + resources.ru_stime
    usage.peak_rss = resources.ru_maxrss * 1024
    return usage


def stop(signal_number: int, _frame: object) -> None:
    """Terminate the command together with the launcher."""
    sys.exit(128 + signal_number)


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, stop)
    order = Order(sys.argv[1])
    os.chdir(order.cwd)
    sink = os.open(order.stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    usage = watch(order, sink)
    with open(order.usage, "w", encoding="ascii") as file:
        json.dump(vars(usage), file)


if __name__ == "__main__":
    main()
