"""Pages of dead letters, of pipelines (`engine`) and of the ingest API (`service`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from engine.service.dead_letter_format import record_id_of
from engine.service.models import Origin
from engine.service.operations import DeadRecord, LetterView, LetterWhere, OperationsError
from engine.service.page import charts, letters
from engine.service.page.rendering import address, render
from engine.service.submission import (
    AuditEntry,
    QueueFullError,
    Submission,
    WarehouseDownError,
    WriteFailedError,
)

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["discard", "discard_many", "replay", "show_letter", "show_letters"]

PAGE = 50
STATUSES = ("open", "recovered", "replayed", "discarded")
_BUSY = (QueueFullError, WarehouseDownError, WriteFailedError)
_MAX_REASON = 2_000


async def show_letters(request: Request) -> Response:
    """Show a page of one store's dead letters, with the causes of the open ones."""
    context = cast("ServiceContext", request.app.state.context)
    query = request.query_params
    store = query.get("store", "engine" if context.operations is not None else "service")
    where = {name: query.get(name, "") for name in ("place", "cause", "before")}
    where["status"] = query.get("status", "open")
    status = "" if where["status"] == "all" else where["status"]
    if store == "engine" and context.operations is not None:
        page = LetterWhere(where["place"], where["cause"], status, before=where["before"], limit=PAGE + 1)
        found: list[Any] = await context.operations.letters(page)
        causes = await context.operations.causes()
        last = found[PAGE - 1].id if len(found) > PAGE else ""
    else:
        store = "service"
        found, causes = await context.in_thread(lambda: _own(context, where, status))
        last = found[PAGE - 1].place if len(found) > PAGE else ""
    asked: dict[str, Any] = {
        "store": store,
        "place": where["place"],
        "cause": where["cause"],
        "status": where["status"],
    }
    more = address(request, "/ui/letters", **asked, before=last) if last else ""
    return render(
        request,
        "letters.html",
        letters=found[:PAGE],
        causes=causes,
        chart=charts.bars(causes),
        more=more,
        is_later=bool(where["before"]),
        statuses=STATUSES,
        said=query.get("said", "")[:300],
        **asked,
    )


def _own(
    context: ServiceContext, where: dict[str, str], status: str
) -> tuple[list[Any], list[tuple[str, str, int]]]:
    with context.warehouse.reading() as reader:
        found = letters.list_letters(
            reader,
            model=where["place"],
            cause=where["cause"],
            status=status,
            before=where["before"],
            limit=PAGE + 1,
        )
        return found, letters.causes_of(reader)


async def show_letter(request: Request) -> Response:
    """Show one dead letter."""
    return await _letter_page(request)


async def _letter_page(
    request: Request, *, errors: list[str] | None = None, record: str | None = None, status: int = 200
) -> Response:
    context = cast("ServiceContext", request.app.state.context)
    store, letter_id = request.path_params["store"], request.path_params["id"]
    letter = await _find(context, store, letter_id)
    if letter is None:
        return render(request, "problem.html", 404, text="No dead letter has this id.", status_code=404)
    audit = await context.in_thread(lambda: _audit(context, letter_id))
    text = letter.record
    values: dict[str, Any] = {
        "letter": letter,
        "store": store,
        "record": record if record is not None else _pretty(text) if text is not None else "",
        "has_record": text is not None,
        "schema": letters.schema_of(context, letter.model),
        "audit": audit,
        "errors": errors or [],
        "said": request.query_params.get("said", "")[:300],
    }
    return render(request, "letter.html", status, **values)


async def _find(context: ServiceContext, store: str, letter_id: str) -> Any:
    if store == "engine":
        return await context.operations.letter(letter_id) if context.operations is not None else None
    if store != "service":
        return None

    def look() -> letters.ServiceLetter | None:
        with context.warehouse.reading() as reader:
            return letters.letter_of_id(reader, letter_id)

    return await context.in_thread(look)


def _audit(context: ServiceContext, subject: str) -> list[Any]:
    with context.warehouse.reading() as reader:
        return letters.audit_of(reader, subject)


def _pretty(text: str) -> str:
    """Return the record on several lines; unchanged if parsing would change it, as with large numbers."""
    try:
        lines = orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()
        return lines if _digits(text) == _digits(lines) else text
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return text


def _digits(text: str) -> str:
    return "".join(text.split())


def _who(request: Request) -> str:
    context = cast("ServiceContext", request.app.state.context)
    client = request.client.host if request.client is not None else "unknown"
    return f"page, logged in, {client}" if context.access.has_keys else f"page, {client}"


async def replay(request: Request, form: dict[str, str]) -> Response:
    """Send the record of a dead letter again, as edited in the form."""
    context = cast("ServiceContext", request.app.state.context)
    store, letter_id = request.path_params["store"], request.path_params["id"]
    record, force = form.get("record", ""), form.get("force") == "yes"
    letter = await _find(context, store, letter_id)
    if letter is None:
        return render(request, "problem.html", 404, text="No dead letter has this id.", status_code=404)
    problem = _not_a_record(record)
    if not problem and letter.status == "recovered" and not force:
        problem = "This record has been delivered since. To replace that newer row, tick the box below."
    if problem:
        return await _letter_page(request, errors=[problem], record=record, status=400)
    try:
        if store == "service":
            errors = await letters.replay_letter(context, letter, record, _who(request))
            if errors:
                return await _letter_page(request, errors=errors, record=record, status=400)
            if context.operations is not None:
                await context.operations.close([letter.dead_record])
            said = "Stored: the row is in the warehouse now."
        else:
            assert context.operations is not None
            run_id = await context.operations.replay(letter_id, record, force=force)
            ids = await _copies(context, [letter])
            audit = [AuditEntry(_who(request), "replayed", one, f"run {run_id}") for one in (letter_id, *ids)]
            await context.warehouse.write(
                Submission(model="", table=None, rows=[], recovered=ids, audit=audit)
            )
            said = f"Delivered by the run {run_id}."
    except OperationsError as error:
        return await _letter_page(request, errors=[str(error)], record=record, status=409)
    except _BUSY:
        text = "The warehouse cannot be written now: try again in a moment."
        return await _letter_page(request, errors=[text], record=record, status=503)
    return RedirectResponse(address(request, f"/ui/letters/{store}/{letter_id}", said=said), 303)


def _not_a_record(text: str) -> str:
    import json

    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"This is not JSON: {error}"[:300]
    return "" if isinstance(record, dict) else "A record is a JSON object, in braces."


async def discard(request: Request, form: dict[str, str]) -> Response:
    """Discard one dead letter."""
    return await _discard(request, [request.path_params["id"]], request.path_params["store"], form)


async def discard_many(request: Request, form: dict[str, str]) -> Response:
    """Discard the ticked dead letters of a page."""
    ids = [one for one in form.get("ids", "").split("\n") if one][:1_000]
    return await _discard(request, ids, form.get("store", ""), form)


async def _discard(request: Request, ids: list[str], store: str, form: dict[str, str]) -> Response:
    context = cast("ServiceContext", request.app.state.context)
    reason = form.get("reason", "").strip()[:_MAX_REASON]
    if not reason or not ids:
        text = "Say why these records are not needed." if ids else "Tick the dead letters to discard first."
        return _not_discarded(request, text, 400, reason)
    who = _who(request)
    try:
        if store == "service":
            await letters.discard_letters(context, ids, reason, who)
            if context.operations is not None:
                await context.operations.close(await _records(context, ids), reason)
        elif context.operations is not None:
            found = [await context.operations.letter(one) for one in ids]
            await context.operations.discard(ids, reason)
            copies = await _copies(context, [one for one in found if one is not None])
            audit = [AuditEntry(who, "discarded", one, reason) for one in (*ids, *copies)]
            await context.warehouse.write(
                Submission(model="", table=None, rows=[], discard=(copies, reason), audit=audit)
            )
    except OperationsError as error:
        return _not_discarded(request, str(error), 409, reason)
    except _BUSY:
        text = "The warehouse cannot be written now: try again in a moment."
        return _not_discarded(request, text, 503, reason)
    said = "1 dead letter discarded." if len(ids) == 1 else f"{len(ids)} dead letters discarded."
    return RedirectResponse(address(request, "/ui/letters", store=store, said=said), 303)


def _not_discarded(request: Request, text: str, status: int, reason: str) -> Response:
    back = quote(request.scope["path"].rpartition("/")[0])
    return render(request, "problem.html", status, text=text, status_code=status, typed=reason, back=back)


def _dead_record(letter: LetterView) -> DeadRecord:
    import json

    record_id = record_id_of(json.loads(letter.record or "null"))  # orjson rejects NaN
    origin = Origin(letter.pipeline, letter.run_id, letter.node, letter.key)
    return DeadRecord(origin, record_id.encode("utf-8", "replace").decode())


async def _copies(context: ServiceContext, found: Sequence[LetterView]) -> list[str]:
    records = [_dead_record(one) for one in found]

    def look() -> list[str]:
        with context.warehouse.reading() as reader:
            return letters.ids_of(reader, records)

    return await context.in_thread(look)


async def _records(context: ServiceContext, ids: Sequence[str]) -> list[DeadRecord]:
    def look() -> list[DeadRecord]:
        with context.warehouse.reading() as reader:
            return letters.records_of(reader, ids)

    return await context.in_thread(look)
