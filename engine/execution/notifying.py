"""Post the result of a run, with its counts, to an address."""

from __future__ import annotations

from urllib.parse import urlsplit

import anyio

from engine.config.model import Notify
from engine.contract.imports import load_modules
from engine.contract.types import JsonValue
from engine.execution.events import Observer, RunEvent
from engine.execution.report import RunReport

__all__ = ["message_of", "tell"]

_ATTEMPTS = 3
_TIMEOUT = 10.0  # seconds for each attempt
_FIRST_BACKOFF = 0.5
_OK = 300


def message_of(report: RunReport) -> dict[str, JsonValue]:
    """Return the message to post; it contains no record data."""
    tally = report.tally
    return {
        "pipeline": report.pipeline,
        "run_id": report.run_id,
        "status": str(report.status),
        "error": report.error,
        "seconds": round(report.seconds, 3),
        "attempt": report.attempt,
        "read": tally.read,
        "written": tally.written,
        "dropped": tally.dropped,
        "dead": tally.dead,
        "dead_letters": report.dead_letters,
        "cost_usd": tally.cost_usd,
        "paid_usd": report.paid_usd,
    }


async def tell(notify: Notify, report: RunReport, observer: Observer) -> None:
    """Post the message if this result is to be reported, with a few retries; never raises.

    The observer is notified if the message could not be delivered, also because the task was cancelled.
    """
    if str(report.status) not in notify.when:
        return
    problem = "stopped before it was accepted"
    try:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await anyio.sleep(_FIRST_BACKOFF * 4 ** (attempt - 1))
            problem = await _post(notify.url, message_of(report))
            if not problem:
                return
    finally:
        if problem:
            where = urlsplit(notify.url).hostname or "the address"
            text = f"the result of the run could not be posted to {where}: {problem}"
            observer(RunEvent("notify", text, "warning", report.pipeline, report.run_id))


async def _post(url: str, message: dict[str, JsonValue]) -> str:
    """Post once, and return why the message was rejected; "" if it was accepted."""
    await load_modules("httpx")  # a tenth of a second, so only runs that notify pay for it
    import httpx

    loopback = (urlsplit(url).hostname or "") in ("localhost", "127.0.0.1", "::1")
    try:
        with anyio.fail_after(_TIMEOUT):
            async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=not loopback) as client:
                # the body is not needed and may be endless
                async with client.stream("POST", url, json=message) as answer:
                    status = answer.status_code
    except httpx.ConnectError as error:
        return f"{type(error).__name__}: {error}"  # refused, an unknown host, or a certificate
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        # the last three: a name that cannot be encoded, and invalid proxies or certificates in the
        # environment
        return type(error).__name__
    return "" if status < _OK else f"status {status}"
