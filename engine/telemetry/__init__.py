"""Structured logs: one line per stage of a run, with `action`, `message`, `level`, `run`, `pipeline`.

Only the owner of the process, such as the command line, calls `configure_logging`; the library never does. No
event concerns a single record or contains its data.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

from engine.execution.events import RunEvent, null_observer, speaker
from engine.redaction import without_credentials

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

__all__ = ["LogFormat", "cli_log", "configure_logging", "log_event"]

LogFormat = Literal["json", "console"]

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_SYNONYMS: Final = {"success": "info", "highlight": "info", "warn": "warning", "critical": "error"}
_OF_RUN: Final = (("run", "run_id"), ("pipeline", "pipeline"))
_ORDER: Final = ("timestamp", "level", "action", "message", "run", "pipeline")


def configure_logging(form: LogFormat, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Configure structlog for this process: JSON or human-readable lines on standard error.

    Args:
        level: debug, info, warning or error; lower levels are not written.
        stream: instead of standard error.
    """
    structlog = _light_structlog()
    structlog.configure(
        processors=_processors(form),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # standard error at the time of the write, since a live display replaces it
        logger_factory=lambda *_: structlog.PrintLogger(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def cli_log(action: str, message: str, level: str = "info", **fields: Any) -> None:
    """Write one structured event; the engine's own events have the same shape.

    Inside a run it is a stage of the run and goes to the run's observer, with `run` and `pipeline`.
    Otherwise, or without an observer, it goes to structlog's configured destination, by default standard
    error as JSON.

    Args:
        action: one word, or several with underscores (`extract_started`).
        message: human-readable text.
        level: debug, info, warning or error; also success, highlight, warn and critical.
        fields: other JSON-safe values. `run` and `pipeline` are "" unless given.
    """
    name = level.lower()
    name = _SYNONYMS.get(name, name)
    if name not in _LEVELS:
        known = ", ".join((*_LEVELS, *_SYNONYMS))
        raise ValueError(f"unknown level {level!r}, known: {known}")
    run = speaker()
    if run is None or run.observer is null_observer:
        own = {"run": run.run_id, "pipeline": run.pipeline} if run is not None else {}
        _write(action, message, name, **{**own, **fields})
        return
    where = {"run_id": run.run_id, "pipeline": run.pipeline}
    where |= {given: str(fields.pop(name)) for name, given in _OF_RUN if name in fields}
    run.observer(RunEvent(action, message, name, numbers=fields, **where))


def log_event(stage: RunEvent) -> None:
    """An observer (see `engine.execution.events`) that writes each stage as a structured event."""
    _write(
        stage.action,
        stage.message,
        stage.level,
        run=stage.run_id,
        pipeline=stage.pipeline,
        **stage.numbers,
    )


def _write(action: str, message: str, level: str, **fields: Any) -> None:
    event = {"run": "", "pipeline": "", **fields}
    _logger().log(_LEVELS[level], message, action=action, **event)


@cache
def _structlog() -> ModuleType:
    """Import structlog on demand: it takes a tenth of a second, and most uses of the engine log nothing.

    Imported once, since Temporal's sandbox repeats every import.
    """
    return import_module("structlog")


def _light_structlog() -> ModuleType:
    """Import structlog without rich, which it would import if installed.

    Only its console renderer uses rich, which takes 4 MB and as long to import as structlog itself.
    """
    if "rich" in sys.modules:
        return _structlog()
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        return _structlog()
    finally:
        del sys.modules["rich"]


def _logger() -> FilteringBoundLogger:
    structlog = _structlog()
    if structlog.is_configured():
        configured: FilteringBoundLogger = structlog.get_logger()
        return configured
    fallback: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=_processors("json"),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS["info"]),
    )
    return fallback


def _processors(form: LogFormat) -> list[Processor]:
    structlog = _structlog()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_credentials,
    ]
    if form == "console":
        return [*shared, _console]
    return [
        *shared,
        structlog.processors.EventRenamer("message"),
        _in_order,
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
    ]


def _without_credentials(
    logger: object, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = without_credentials(value)
    return event


def _in_order(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    first = {name: event[name] for name in _ORDER if name in event}
    return first | {name: value for name, value in event.items() if name not in first}


def _console(logger: object, method: str, event: MutableMapping[str, Any]) -> str:
    """`12:00:01 info    blobs run_finished: completed (read=1000)`; lighter to import than structlog's."""
    time = str(event.get("timestamp", ""))[11:19]
    known = {"timestamp", "level", "action", "event", "run", "pipeline"}
    rest = " ".join(f"{name}={value}" for name, value in event.items() if name not in known)
    where = " ".join(str(event[name]) for name in ("pipeline",) if event.get(name))
    text = f"{time} {event.get('level', ''):<7} {where} {event.get('action', '')}: {event.get('event', '')}"
    return f"{text} ({rest})" if rest else text
