"""Forward logs of Temporal's SDK as events of the worker, without tracebacks."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from temporalio.exceptions import ApplicationError, FailureError
from temporalio.runtime import LogForwardingConfig, LoggingConfig, TelemetryFilter

from engine.execution.events import Observer, RunEvent
from engine.flow.errors import unexpected_error

_SDK = "temporalio"
_LONGEST = 500
_AWAY_EVERY = 60.0
_RETRIES = "temporalio_client::retry"
_CAUSE = re.compile(r'message: \\*"([^"\\]+)')
# several activities of a shard may fail at once; each failure already has its own event
_UNHEARD = "Future exception was never retrieved"


def forwarded() -> LoggingConfig:
    """Forward warnings of the SDK's core in the same way as those of its Python part."""
    return LoggingConfig(
        TelemetryFilter(core_level="WARN", other_level="ERROR"),
        forwarding=LogForwardingConfig(logging.getLogger(f"{_SDK}.core"), append_target_to_name=False),
    )


@contextmanager
def told_to(observer: Observer) -> Iterator[None]:
    """Forward SDK logs from warning level to an observer during the block.

    The SDK logs every failed call to a server that does not answer; this becomes one event per minute.
    """
    logger, handler = logging.getLogger(_SDK), _Telling(observer)
    logger.addHandler(handler)
    passed_on, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = passed_on
        logger.removeHandler(handler)


class _Telling(logging.Handler):
    def __init__(self, observer: Observer) -> None:
        super().__init__(logging.WARNING)
        self._observer = observer
        self._away_told: float | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Forward the log record; may be called from any thread."""
        try:
            if _RETRIES in (text := record.getMessage()):
                self._report_server_away(text)
            elif not text.startswith(_UNHEARD):
                self._observer(_stage(record))
        except Exception:  # noqa: BLE001 - as every handler: logging must not end what logs
            self.handleError(record)

    def _report_server_away(self, text: str) -> None:
        now = time.monotonic()
        if self._away_told is not None and now - self._away_told < _AWAY_EVERY:
            return
        self._away_told = now
        cause = _CAUSE.search(text)
        message = (
            f"no answer from the Temporal server{f' ({cause[1]})' if cause else ''}: the worker tries again "
            "until it is back, and what is committed is kept"
        )
        self._observer(RunEvent("server_away", message, "warning", "", "", {}))


def _stage(record: logging.LogRecord) -> RunEvent:
    level = "error" if record.levelno >= logging.ERROR else "warning"
    details: Mapping[str, Any] = getattr(record, "temporal_activity", None) or {}
    error = record.exc_info[1] if record.exc_info else None
    if not details:
        text = record.getMessage().partition("\n")[0][:_LONGEST]
        return RunEvent("temporal", f"{text}: {_said(error, _SDK)}" if error else text, level, "", "", {})
    name, attempt = str(details.get("activity_type", "")), int(details.get("attempt", 1))
    # etl/<pipeline>/<run>, and the shard's number
    _, pipeline, run, *_ = [*str(details.get("workflow_id", "")).split("/"), "", ""]
    text = _said(error, name) if error else str(record.msg).partition(" ({")[0]
    return RunEvent("activity_failed", f"{name}: {text}", level, pipeline, run, {"attempt": attempt})


def _said(error: BaseException, where: str) -> str:
    """Return what may be logged: our failures have bounded messages, other errors may quote a record."""
    if isinstance(error, ApplicationError) and error.type:
        return f"{error.type}: {error.message}"
    if isinstance(error, FailureError | asyncio.CancelledError):
        return str(error) or "cancelled"
    return str(unexpected_error(where, error)) if isinstance(error, Exception) else type(error).__name__
