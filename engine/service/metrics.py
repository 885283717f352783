"""`GET /metrics`: counters since the start of the service, in Prometheus' text format."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, get_args

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from engine.service.submission import LetterSource

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RateHistory:
    """Records written and dead in steps of ten seconds, over the last hour."""

    STEP = 10
    STEPS = 360

    def __init__(self) -> None:
        self._steps: deque[list[int]] = deque(maxlen=self.STEPS)

    def add(self, written: int, dead: int) -> None:
        """Count records that were just stored."""
        step = int(time.time()) // self.STEP
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append([step, 0, 0])
        self._steps[-1][1] += written
        self._steps[-1][2] += dead

    def rates(self, minutes: int = 60) -> list[tuple[float, float, float]]:
        """Return (seconds since 1970, written and dead per second) of every step, the current one last."""
        now = int(time.time()) // self.STEP
        known = {step: (written, dead) for step, written, dead in self._steps}
        first = now - minutes * 60 // self.STEP + 1
        found = ((step, *known.get(step, (0, 0))) for step in range(first, now + 1))
        return [(step * self.STEP, written / self.STEP, dead / self.STEP) for step, written, dead in found]


_ENDS = ("completed", "failed", "outage", "interrupted")


class Metrics:
    """Counters of one service. Labels are the service's own names, never a client's.

    Known labels begin at zero: Prometheus computes no increase of a series that begins above it, so an alert
    would miss the first failure.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.rows: Counter[str] = Counter(dict.fromkeys(models, 0))
        self.dead: Counter[tuple[str, str]] = Counter(
            {(model, source): 0 for model in self.rows for source in get_args(LetterSource)}
        )
        self.bytes: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.ended: Counter[tuple[str, str]] = Counter()
        self.history = RateHistory()

    def add_pipelines(self, names: Iterable[str]) -> None:
        """Count the ends of these pipelines' runs from zero, unless they are counted already."""
        self.ended.update({(name, status): 0 for name in names for status in _ENDS})


def _counter(name: str, labels: str, values: Mapping[Any, int]) -> Iterator[str]:
    """Return the lines of a counter; `values` are by the values of its labels."""
    yield f"# HELP {name} {_HELP[name]}"
    yield f"# TYPE {name} counter"
    for key, value in sorted(values.items()):
        parts = zip(labels.split(), key if isinstance(key, tuple) else (key,), strict=True)
        shown = ",".join(f'{label}="{_escaped(str(part))}"' for label, part in parts)
        yield f"{name}{{{shown}}} {value}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _gauge(name: str, text: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} gauge"
    yield f"{name} {value:g}"


_HELP = {
    "odw_ingest_requests_total": "Ingest requests by model and status.",
    "odw_rows_written_total": "Records that were written, by model.",
    "odw_dead_letters_total": "Records that became dead letters, by model and by where they died.",
    "odw_ingest_bytes_total": "Bytes of request bodies after unpacking, by model.",
    "odw_runs_started_total": "Runs that were started over HTTP, by pipeline.",
    "odw_runs_ended_total": "Runs of this service that have ended, by pipeline and status.",
    "odw_rows_removed_total": "Rows and closed dead letters that the retention has removed, by table.",
}


async def show_metrics(request: Request, context: ServiceContext) -> Response:
    """Answer all counters and gauges; requires the consumption key."""
    metrics = context.metrics
    if context.operations is not None:
        metrics.add_pipelines(one.name for one in context.operations.pipelines())
    lines = [
        *_counter("odw_ingest_requests_total", "model status", metrics.requests),
        *_counter("odw_rows_written_total", "model", metrics.rows),
        *_counter("odw_dead_letters_total", "model source", metrics.dead),
        *_counter("odw_ingest_bytes_total", "model", metrics.bytes),
        *_counter("odw_runs_started_total", "pipeline", metrics.runs),
        *_counter("odw_runs_ended_total", "pipeline status", metrics.ended),
        *_counter("odw_rows_removed_total", "table", +context.warehouse.writer.removed),
        *_gauge("odw_ingest_ready", "1 while records are accepted.", float(context.takes_records)),
        *_gauge("odw_queued_requests", "Requests waiting for the writer.", context.warehouse.writer.queued),
        *_gauge("odw_inflight_bytes", "Bytes of bodies being read.", context.inflight.used),
    ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type=_TYPE)
