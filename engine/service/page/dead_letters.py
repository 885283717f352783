"""Pages of dead letters, of pipelines (`engine`) and of the ingest API (`service`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from engine.service.context import ServiceContext
from engine.service.dead_letter_format import record_id_of
from engine.service.models import Origin
from engine.service.operations import DeadRecord, LetterView, LetterWhere, OperationsError
from engine.service.page import charts, service_dead_letters
from engine.service.page.rendering import address, problem, render
from engine.service.submission import AuditEntry, NotStoredError, Submission

PAGE = 50
STATUSES = ("open", "recovered", "replayed", "discarded")
_BUSY = "The warehouse cannot be written now: try again in a moment."
_UNKNOWN = "No dead letter has this id."
_MAX_REASON = 2_000


async def show_letters(request: Request, context: ServiceContext) -> Response:
    """Show a page of one store's dead letters, with the causes of the open ones."""
    query = request.query_params
    store = query.get("store", "engine" if context.operations is not None else "service")
    where = {name: query.get(name, "") for name in ("place", "cause", "before")}
    where["status"] = query.get("status", "open")
    status = "" if where["status"] == "all" else where["status"]
    page = LetterWhere(where["place"], where["cause"], status, before=where["before"], limit=PAGE + 1)
    if store == "engine" and context.operations is not None:
        found: list[Any] = await context.operations.letters(page)
        causes = await context.operations.causes()
        last = found[PAGE - 1].id if len(found) > PAGE else ""
    else:
        store = "service"
        found, causes = await context.read(
            lambda reader: (
                service_dead_letters.list_letters(reader, page),
                service_dead_letters.causes_of(reader),
            )
        )
        last = found[PAGE - 1].place if len(found) > PAGE else ""
    asked: dict[str, Any] = {"store": store, **where}
    more = address(request, "/ui/letters", **{**asked, "before": last}) if last else ""
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


async def show_letter(
    request: Request,
    context: ServiceContext,
    *,
    errors: Sequence[str] = (),
    record: str | None = None,
    status: int = 200,
) -> Response:
    """Show one dead letter, with the record as edited, and why that was rejected."""
    store, letter_id = request.path_params["store"], request.path_params["id"]
    letter = await _find(context, store, letter_id)
    if letter is None:
        return problem(request, _UNKNOWN, 404)
    audit = await context.read(lambda reader: service_dead_letters.audit_of(reader, letter_id))
    text = letter.record
    values: dict[str, Any] = {
        "letter": letter,
        "store": store,
        "record": record if record is not None else _pretty(text) if text is not None else "",
        "has_record": text is not None,
        "schema": service_dead_letters.schema_of(context, letter.model),
        "audit": audit,
        "errors": errors,
        "said": request.query_params.get("said", "")[:300],
    }
    return render(request, "letter.html", status, **values)


async def _find(context: ServiceContext, store: str, letter_id: str) -> Any:
    if store == "engine":
        return await context.operations.letter(letter_id) if context.operations is not None else None
    if store != "service":
        return None
    return await context.read(lambda reader: service_dead_letters.letter_of_id(reader, letter_id))


def _pretty(text: str) -> str:
    """Return the record on several lines; unchanged if parsing would change it, as with large numbers."""
    try:
        lines = orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()
        return lines if "".join(text.split()) == "".join(lines.split()) else text
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return text


def _who(request: Request, context: ServiceContext) -> str:
    client = request.client.host if request.client is not None else "unknown"
    return f"page, logged in, {client}" if context.access.has_keys else f"page, {client}"


async def replay(request: Request, context: ServiceContext, form: dict[str, str]) -> Response:
    """Send the record of a dead letter again, as edited in the form."""
    store, letter_id = request.path_params["store"], request.path_params["id"]
    record, force = form.get("record", ""), form.get("force") == "yes"
    letter = await _find(context, store, letter_id)
    if letter is None:
        return problem(request, _UNKNOWN, 404)
    errors, status = [_not_a_record(record)], 400
    if not errors[0] and letter.status == "recovered" and not force:
        errors = ["This record has been delivered since. To replace that newer row, tick the box below."]
    try:
        if any(errors):
            said = ""
        elif store == "service":
            errors = await service_dead_letters.replay_letter(context, letter, record, _who(request, context))
            if not errors and context.operations is not None:
                await context.operations.close([letter.dead_record])
            said = "Stored: the row is in the warehouse now."
        else:
            assert context.operations is not None
            run_id = await context.operations.replay(letter_id, record, force=force)
            ids, who = await _copies(context, [letter]), _who(request, context)
            audit = [AuditEntry(who, "replayed", one, f"run {run_id}") for one in (letter_id, *ids)]
            await context.warehouse.write(Submission(recovered=ids, audit=audit))
            said = f"Delivered by the run {run_id}."
    except OperationsError as error:
        errors, status = [str(error)], 409
    except NotStoredError:
        errors, status = [_BUSY], 503
    if any(errors):
        return await show_letter(request, context, errors=errors, record=record, status=status)
    return RedirectResponse(address(request, f"/ui/letters/{store}/{letter_id}", said=said), 303)


def _not_a_record(text: str) -> str:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"This is not JSON: {error}"[:300]
    return "" if isinstance(record, dict) else "A record is a JSON object, in braces."


async def discard(request: Request, context: ServiceContext, form: dict[str, str]) -> Response:
    """Discard one dead letter."""
    store, letter_id = request.path_params["store"], request.path_params["id"]
    return await _discard(request, context, [letter_id], store, form)


async def discard_many(request: Request, context: ServiceContext, form: dict[str, str]) -> Response:
    """Discard the ticked dead letters of a page."""
    ids = [one for one in form.get("ids", "").split("\n") if one][:1_000]
    return await _discard(request, context, ids, form.get("store", ""), form)


async def _discard(
    request: Request, context: ServiceContext, ids: list[str], store: str, form: dict[str, str]
) -> Response:
    operations, copies = context.operations, list[str]()
    reason = form.get("reason", "").strip()[:_MAX_REASON]
    if not reason or not ids:
        text = "Say why these records are not needed." if ids else "Tick the dead letters to discard first."
        return _not_discarded(request, text, 400, reason)
    try:
        if store == "service":
            copies = ids
        elif operations is not None:
            found = [await operations.letter(one) for one in ids]
            await operations.discard(ids, reason)
            copies = await _copies(context, [one for one in found if one is not None])
        else:
            return _not_discarded(request, _UNKNOWN, 404, reason)
        who = _who(request, context)
        audit = [AuditEntry(who, "discarded", one, reason) for one in dict.fromkeys((*ids, *copies))]
        await context.warehouse.write(Submission(discard=(copies, reason), audit=audit))
        if store == "service" and operations is not None:
            records = await context.read(lambda reader: service_dead_letters.records_of(reader, ids))
            await operations.close(records, reason)
    except OperationsError as error:
        return _not_discarded(request, str(error), 409, reason)
    except NotStoredError:
        return _not_discarded(request, _BUSY, 503, reason)
    said = "1 dead letter discarded." if len(ids) == 1 else f"{len(ids)} dead letters discarded."
    return RedirectResponse(address(request, "/ui/letters", store=store, said=said), 303)


def _not_discarded(request: Request, text: str, status: int, reason: str) -> Response:
    back = quote(request.scope["path"].rpartition("/")[0])
    return problem(request, text, status, typed=reason, back=back)


def _dead_record(letter: LetterView) -> DeadRecord:
    record_id = record_id_of(json.loads(letter.record or "null"))  # orjson rejects NaN
    origin = Origin(letter.pipeline, letter.run_id, letter.node, letter.key)
    return DeadRecord(origin, record_id.encode("utf-8", "replace").decode())


async def _copies(context: ServiceContext, found: Sequence[LetterView]) -> list[str]:
    records = [_dead_record(one) for one in found]
    return await context.read(lambda reader: service_dead_letters.ids_of(reader, records))
