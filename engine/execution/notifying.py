"""Post the result of a run, with its counts, to an address.

The state store has each result from the run's end until the address has accepted it. If its process is
killed, or its receiver is away, a later process posts it: at least once, with the same id.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from urllib.parse import urlsplit

import anyio

from engine.config.model import Notify
from engine.contract.clock import Clock, timestamp
from engine.contract.imports import load_modules
from engine.contract.types import JsonValue
from engine.errors import StateError
from engine.execution.events import Observer, RunEvent
from engine.execution.report import RunReport
from engine.plan.model import Plan
from engine.state.records import Notification
from engine.state.store import StateStore

MAX_AGE = timedelta(days=3)
"""Age at which a result that was never accepted is given up."""

PENDING_AFTER = timedelta(minutes=1)
"""Age of a result that its own process no longer posts, while that process is alive."""

ID_HEADER = "Idempotency-Key"
"""Header with the id of a result, the same in every post of it."""

_PENDING_EVERY = 300.0  # seconds
_ATTEMPTS = 3
_TIMEOUT = 10.0  # seconds for each attempt
_FIRST_BACKOFF = 0.5
_OK = 300


def id_of(run_id: str, attempt: int) -> str:
    """Return the id of an attempt's result, by which a receiver recognises a repeated post."""
    return f"{run_id}-{attempt}"


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


def stored_result(report: RunReport, ended_at: str) -> Notification:
    """Return what is stored with the end of a run until the receiver has accepted it."""
    return Notification(report.run_id, report.attempt, report.pipeline, message_of(report), ended_at)


async def tell(notify: Notify, report: RunReport, observer: Observer, *, id_: str = "") -> bool:
    """Post the message if this result is to be reported, with a few retries; return whether it was accepted.

    `id_` is that of a result without an attempt, which the store does not have.

    The observer is notified if the message could not be delivered, also because the task was cancelled.
    """
    if str(report.status) not in notify.when:
        return False
    id_, message = id_ or id_of(report.run_id, report.attempt), message_of(report)
    problem = "stopped before it was accepted"
    try:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await anyio.sleep(_FIRST_BACKOFF * 4 ** (attempt - 1))
            problem = await _post(notify.url, id_, message)
            if not problem:
                return True
    finally:
        if problem:
            observer(_not_posted("result of the run", notify, problem, report.pipeline, report.run_id))
    return False


async def pending_results(
    store: StateStore, clock: Clock, observer: Observer, *, older: timedelta = timedelta()
) -> list[Notification]:
    """Return the results of this age that were not accepted, and forget those beyond `MAX_AGE`.

    Raises:
        StateError: the store cannot be used.
    """
    now = clock.now()
    if forgotten := await store.delete_old_notifications(timestamp(now - MAX_AGE)):
        text = f"{forgotten:,} results of earlier runs were not accepted within {MAX_AGE.days} days: given up"
        observer(RunEvent("notify", text, "warning", "", ""))
    return [one for one in await store.notifications() if one.ended_at <= timestamp(now - older)]


async def post_pending(
    pending: Sequence[Notification], store: StateStore, plans: Mapping[str, Plan], observer: Observer
) -> None:
    """Post each of these results once; an address that does not accept one gets no more of them.

    Results of pipelines that are not among the plans, or no longer notify, are left.

    Raises:
        StateError: the store cannot be used.
    """
    refused: set[str] = set()
    for one in pending:
        notify = plans[one.pipeline].settings.notify if one.pipeline in plans else None
        if notify is None or notify.url in refused or one.message.get("status") not in notify.when:
            continue
        if not (problem := await _post(notify.url, id_of(one.run_id, one.attempt), one.message)):
            with anyio.CancelScope(shield=True):
                await store.delete_notification(one.run_id, one.attempt)
            continue
        refused.add(notify.url)
        observer(_not_posted("results of earlier runs", notify, problem, one.pipeline, one.run_id))


def _not_posted(what: str, notify: Notify, problem: str, pipeline: str, run_id: str) -> RunEvent:
    where = urlsplit(notify.url).hostname or "the address"
    text = f"the {what} could not be posted to {where}: {problem}"
    return RunEvent("notify", text, "warning", pipeline, run_id)


async def post_periodically(
    store: StateStore,
    clock: Clock,
    plans_of: Callable[[Sequence[Notification]], Awaitable[Mapping[str, Plan]]],
    observer: Observer,
    *,
    older: timedelta = PENDING_AFTER,
) -> None:
    """Post the results that receivers have not accepted, every five minutes, until cancelled.

    Args:
        older: the age of the results that are posted first; later, `PENDING_AFTER`.
    """
    while True:
        with suppress(StateError):  # reported by the runs
            if pending := await pending_results(store, clock, observer, older=older):
                await post_pending(pending, store, await plans_of(pending), observer)
        older = PENDING_AFTER
        await anyio.sleep(_PENDING_EVERY)


async def _post(url: str, id_: str, message: Mapping[str, JsonValue]) -> str:
    """Post once, and return why the message was rejected; "" if it was accepted."""
    await load_modules("httpx")  # a tenth of a second, so only runs that notify pay for it
    import httpx

    headers = {ID_HEADER: id_}
    loopback = (urlsplit(url).hostname or "") in ("localhost", "127.0.0.1", "::1")
    try:
        with anyio.fail_after(_TIMEOUT):
            async with httpx.AsyncClient(timeout=_TIMEOUT, trust_env=not loopback) as client:
                # the body is not needed and may be endless
                async with client.stream("POST", url, json=message, headers=headers) as answer:
                    status = answer.status_code
    except httpx.ConnectError as error:
        return f"{type(error).__name__}: {error}"  # refused, an unknown host, or a certificate
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        # the last three: a name that cannot be encoded, and invalid proxies or certificates in the
        # environment
        return type(error).__name__
    return "" if status < _OK else f"status {status}"
