"""`GET /openapi.json`: the API of this service, with its current models and pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from engine.service.consumption import MAX_DAYS
from engine.service.context import ServiceContext
from engine.service.dead_letters import ClosedLetters
from engine.service.operations import PipelineView
from engine.service.query import Question
from engine.service.reading_routes import EVENTS, PAGE_VIEWS, ConsumptionQuery
from engine.service.tables import Table

Document = dict[str, Any]


def _json(schema: Document) -> Document:
    return {"application/json": {"schema": schema}}


_STRING: Document = {"type": "string"}
_COUNT: Document = {"type": "integer", "minimum": 0, "maximum": 2**62 - 1}
_TEXT: Document = {"text/plain": {"schema": _STRING}}
_OBJECT = _json({"type": "object"})
_ROWS = _json({"type": "array", "items": {"type": "object"}})
_COLUMN_TYPES: dict[str, Document] = {
    "BIGINT": {"type": "integer"},
    "DOUBLE": {"type": "number"},
    "BOOLEAN": {"type": "boolean"},
    "DATE": {"type": "string", "format": "date"},
    "TIMESTAMP": {"type": "string", "format": "date-time"},
    "VARCHAR": _STRING,
}
_PARAMETER_TYPES = {"int": "integer", "float": "number", "bool": "boolean"}
_NOT_ALLOWED = {"401": "a missing or wrong token", "403": "another machine's name or page, and no keys"}
_NOT_READ = {"400": "a parameter that does not fit", "503": "too many rows are being read"}


def openapi_of(context: ServiceContext) -> Document:
    """Return the OpenAPI 3.1 document."""
    tables = context.warehouse.tables
    reading = {query.name: _consumption(query, tables[query.table]) for query in context.queries.values()}
    if EVENTS in tables:
        reading[PAGE_VIEWS] = _page_views()
    for pipeline in context.operations.pipelines() if context.operations is not None else ():
        reading[f"extract-{pipeline.name.replace('_', '-')}"] = _trigger(pipeline)
    models = [endpoint.model for endpoint in context.endpoints.values()]
    return {
        "openapi": "3.1.0",
        "info": {"title": "odw-engine ingest service", "version": "1"},
        "paths": {
            **{f"/ingest/{model.name}": {"post": _ingest(model.name, model.model)} for model in models},
            **{
                f"{prefix}/{name}": {"get": operation}
                for name, operation in reading.items()
                for prefix in ("/consumption", "/api")
            },
            **_health(),
            "/metrics": {"get": _operation("counters", _TEXT)},
            "/workflows/list": {"get": _workflows()},
            "/admin/workflows/history": {"get": _operation("done", _ROWS)},
            "/admin/workflows/{name}/trigger": {"post": _admin("start a run of a pipeline")},
            "/admin/workflows/{name}/terminate": {"post": _admin("end the latest run of a pipeline")},
            "/deliveries": {"get": _deliveries()},
            "/dead-letters": {"get": _dead_letters(), "post": _close_dead_letters()},
            "/sql": {"post": _sql()},
            "/snapshots": {
                "post": _operation(
                    "a file with all tables", _OBJECT, {"503": "the copy could not be written"}
                )
            },
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(
    done: str,
    content: Document,
    refusals: Mapping[str, str] | None = None,
    *,
    refused: Document = _TEXT,
    **rest: Any,
) -> Document:
    """Return an operation by the content of its answer, and the reasons of its refusals by status."""
    answers = {"200": {"description": done, "content": content}}
    answers |= {status: {"description": text, "content": _TEXT} for status, text in _NOT_ALLOWED.items()}
    for status, text in (refusals or {}).items():
        answers[status] = {"description": text, "content": refused}
    return {**rest, "responses": answers, "security": [{}, {"token": []}]}


def _parameter(name: str, schema: Document, place: str = "query", **rest: Any) -> Document:
    return {"name": name, "in": place, "required": False, "schema": schema, **rest}


def _body(schema: Document) -> Document:
    return {"required": True, "content": _json(schema)}


def _page_of(columns: Document) -> Document:
    rows = {"type": "array", "items": {"type": "object", "properties": columns}}
    return _json(
        {
            "type": "object",
            "required": ["items", "total"],
            "properties": {"items": rows, "total": {"type": "integer"}},
        }
    )


_PAGE = [_parameter("limit", _COUNT), _parameter("offset", _COUNT)]

_HEADERS = [
    _parameter(name, schema, "header", description=text)
    for name, schema, text in (
        ("X-ODW-Results", {**_STRING, "enum": ["per-record", "none"]}, "answer every record's outcome"),
        ("X-ODW-Delivery", {**_STRING, "enum": ["fresh", "replay"]}, "append or replace"),
        ("X-ODW-Origin", {**_STRING, "maxLength": 1_000}, "pipeline/run/node, percent-encoded"),
        ("Idempotency-Key", {**_STRING, "minLength": 1, "maxLength": 200}, "store the request once"),
    )
]

_RESULTS: Document = {
    "type": "object",
    "required": ["written", "dead", "duplicate"],
    "properties": {
        "written": {"type": "integer", "minimum": 0},
        "duplicate": {"type": "boolean"},
        "dead": {"type": "array", "items": {"type": "object", "required": ["index", "error_message"]}},
    },
}


def _ingest(name: str, model: type[BaseModel]) -> Document:
    try:
        record: Document = model.model_json_schema(mode="validation", ref_template="#/$defs/{model}")
    except PydanticInvalidForJsonSchema:
        record = {"type": "object"}
    record = _inlined(record, record.pop("$defs", {}), ())
    refusals = {
        "400": "not JSON, a record that does not fit, or a wrong header",
        "408": "the body came too slowly",
        "413": "too large, or too many records",
        "415": "an unknown content encoding",
        "422": "an idempotency key that was used with another body",
        "429": "too much is waiting",
        "500": "the warehouse or the transform failed",
        "503": "stopping, or the storage fails",
    }
    return _operation(
        "committed",
        _json(_RESULTS) | _TEXT,
        refusals,
        summary=f"Store records of {name}",
        parameters=_HEADERS,
        requestBody=_body({"oneOf": [record, {"type": "array", "items": record}]}),
    )


def _inlined(schema: Any, definitions: Document, within: tuple[str, ...]) -> Any:
    """Return the schema without references; a recursive model allows anything at the recursion."""
    if isinstance(schema, list):
        return [_inlined(item, definitions, within) for item in schema]
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    if isinstance(reference, str):
        name = reference.rpartition("/")[2]
        return {} if name in within else _inlined(definitions[name], definitions, (*within, name))
    return {key: _inlined(value, definitions, within) for key, value in schema.items()}


def _consumption(query: ConsumptionQuery, table: Table) -> Document:
    columns = {
        column.name: _nullable(_STRING if query.as_text else _COLUMN_TYPES.get(column.sql_type, {}))
        for column in table.columns
    }
    filters = [_parameter(name, _STRING) for name in dict.fromkeys((*query.equal, *query.contains))]
    page = _page_of(columns)
    return _operation(
        "a page", page, _NOT_READ, summary=f"Rows of {table.name}", parameters=[*_PAGE, *filters]
    )


def _nullable(schema: Document) -> Document:
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def _page_views() -> Document:
    counts = {name: {"type": "integer"} for name in ("total_pageviews", "unique_visitors")}
    page = _page_of({"view_date": _COLUMN_TYPES["DATE"], **counts})
    days = _parameter("days_back", {"type": "integer", "minimum": 0, "maximum": MAX_DAYS})
    return _operation("a page", page, _NOT_READ, summary="Page views by day", parameters=[days, *_PAGE])


def _trigger(pipeline: PipelineView) -> Document:
    parameters = [
        _parameter(one.name, {"type": _PARAMETER_TYPES.get(one.type, "string")}, description=one.description)
        for one in pipeline.parameters
    ]
    refusals = {"400": "a parameter does not fit", "500": "the run could not be started", "503": "stopping"}
    summary = f"Start a run of {pipeline.name}"
    return _operation("done", _OBJECT, refusals, refused=_OBJECT, summary=summary, parameters=parameters)


def _health() -> Document:
    health = _json({"type": "object", "required": ["healthy", "unhealthy"]})
    forbidden = {"description": _NOT_ALLOWED["403"], "content": _TEXT}
    alive = {"200": {"description": "well", "content": health}, "403": forbidden}
    either = {"get": {"responses": {**alive, "503": {"description": "not", "content": health}}}}
    return {"/health": either, "/ready": either, "/liveness": {"get": {"responses": alive}}}


def _workflows() -> Document:
    parameters = [_parameter("limit", {"type": "integer"}), _parameter("status", _STRING)]
    return _operation("the latest runs", _ROWS, parameters=parameters)


def _admin(summary: str) -> Document:
    name = _parameter("name", {**_STRING, "pattern": "^[a-z]+$"}, "path", required=True)
    refusals = {"400": "it could not be done"}
    return _operation("done", _OBJECT, refusals, refused=_OBJECT, summary=summary, parameters=[name])


def _deliveries() -> Document:
    scope = "of an X-ODW-Epoch; without it only `newest` is answered"
    parameters = [
        _parameter("model", _STRING, required=True, description="a served model"),
        _parameter("scope", _STRING, description=scope),
    ]
    refusals = {"400": "no such model", "503": "the table cannot be counted now"}
    return _operation("done", _OBJECT, refusals, summary="Count deliveries", parameters=parameters)


def _dead_letters() -> Document:
    parameters = [
        *_PAGE,
        _parameter("status", {**_STRING, "enum": ["open", "recovered", "discarded"]}),
        *(_parameter(name, _STRING) for name in ("model", "pipeline", "run", "node", "key")),
    ]
    page = _json({"type": "object", "required": ["items", "total"]})
    return _operation("a page", page, _NOT_READ, parameters=parameters)


def _close_dead_letters() -> Document:
    refusals = {
        "400": "not the ids and a reason",
        "408": "the body came too slowly",
        "413": "too large",
        "415": "an unknown content encoding",
        "429": "too much is waiting",
        "503": "the warehouse cannot be written",
    }
    summary = "Discard dead letters, or mark them as recovered"
    return _operation(
        "done", _TEXT, refusals, summary=summary, requestBody=_body(ClosedLetters.model_json_schema())
    )


def _sql() -> Document:
    rows = _json({"type": "object", "required": ["columns", "rows", "truncated", "seconds"]})
    refusals = {
        "400": "not one SELECT, or a wrong one",
        "408": "it ran too long, or the body came too slowly",
        "413": "too much memory, or too large a result",
        "429": "too much is waiting",
        "503": "the warehouse cannot be read",
    }
    body = _body(Question.model_json_schema())
    return _operation("rows", rows, refusals, refused=_OBJECT, summary="Run one SELECT", requestBody=body)
