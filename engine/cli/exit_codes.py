"""Exit codes, and errors as one clear message.

`engine.cli.local.run` and `engine.cli.durable.watched_run` choose the code of a finished run.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the process. A second signal ends it with 128 + the signal's number."""

    COMPLETED = 0
    FAILED = 1
    USAGE = 2
    ENVIRONMENT = 3
    DEAD_LETTER_BUDGET = 4
    OUTAGE = 5
    INTERRUPTED = 6
    NOT_VERIFIED = 7


_OF_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)


def most_serious(codes: Iterable[ExitCode]) -> ExitCode:
    """Return one code for several runs: differences come first, then failures that a retry cannot fix."""
    failures = sorted(set(codes) - {ExitCode.COMPLETED})
    if failures and failures[-1] is ExitCode.NOT_VERIFIED:
        return ExitCode.NOT_VERIFIED
    return failures[0] if failures else ExitCode.COMPLETED


def code_of(error: BaseException) -> ExitCode:
    """Return the exit code of an error."""
    from engine import errors

    if isinstance(error, errors.NodeFailedError) and isinstance(error.__cause__, errors.TransientError):
        return ExitCode.ENVIRONMENT  # a source that cannot resume from the middle was interrupted
    of_usage = errors.ConfigError | errors.RegistryError | errors.RunMismatchError | errors.RunNotFoundError
    if isinstance(error, of_usage | ModuleNotFoundError):
        return ExitCode.USAGE
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # of a path that the user has named
        return ExitCode.USAGE
    if isinstance(error, errors.StateError | errors.ServiceError):
        return ExitCode.ENVIRONMENT
    if isinstance(error, errors.DeadLetterBudgetError):
        return ExitCode.DEAD_LETTER_BUDGET
    if isinstance(error, errors.OutageError):
        return ExitCode.OUTAGE
    return ExitCode.FAILED


def explain(error: BaseException) -> int:
    """Print an error and return its exit code; `ODW_TRACEBACK=1` adds the traceback."""
    error = _innermost(error)
    if not isinstance(error, SystemExit):
        show_traceback(error)
    if isinstance(error, SystemExit):
        return _ended(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, BrokenPipeError):
        # the reader of the output has gone; a second failure while Python flushes would only add noise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else int(ExitCode.FAILED)
    from engine.cli.display.terminal import printable
    from engine.redaction import without_credentials

    sys.stderr.write(printable(without_credentials(_message(error))))
    return int(code_of(error))


def _ended(error: SystemExit) -> int:
    """Report `sys.exit` in a component's task, which passes through the event loop."""
    from engine.contract.unplanned import described

    sys.stderr.write(f"error: {described(error)}: a component cannot end the process\n")
    return error.code if isinstance(error.code, int) and error.code else int(ExitCode.FAILED)


def show_traceback(error: BaseException | None) -> None:
    """Print the traceback and causes of an error, which may quote records, if the user asked for it."""
    if error is not None and os.environ.get("ODW_TRACEBACK") == "1":
        import traceback

        from engine.redaction import without_credentials

        sys.stderr.write(without_credentials("".join(traceback.format_exception(error))))


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _message(error: BaseException) -> str:
    from engine.errors import ConfigError, EngineError

    if isinstance(error, ConfigError):
        count = len(error.problems)
        head = "" if count == 1 else f"{count} problems:\n"
        return f"{head}{error}\n"
    if isinstance(error, EngineError):
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        return f"error: {error}{notes}\n"
    if isinstance(error, ModuleNotFoundError):
        return f"error: {_not_installed(error)}\n"
    if isinstance(error, OSError) and error.errno in _OF_OUTPUT and error.filename is None:
        return f"error: cannot write to standard output: {error.strerror}\n"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"error: {error.strerror}: {error.filename}\n"
    return f"internal error: {type(error).__name__}: {error}\nset ODW_TRACEBACK=1 to see where it happened\n"


def _not_installed(error: ModuleNotFoundError) -> str:
    """Explain a failed import of the engine itself; those of components are `RegistryError`s."""
    from engine.extras import extra_with, install_command

    if extra := extra_with(error.name or ""):
        return f"{error.name} is not installed: {install_command([extra])}"
    own = os.path.join(".venv", "bin", "python")
    if os.path.exists(own):
        remedy = f"use {own} -m engine, or activate the environment: . .venv/bin/activate"
    else:
        remedy = "create an environment as README.md shows, or activate it"
    return f"no module {error.name!r}: the dependencies are not installed for {sys.executable}: {remedy}"
