"""`GET /openapi.json`: the API of this service, with its current models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema

from engine.service.openapi_runs import discard_operation, run_paths
from engine.service.page_views import MAX_DAYS
from engine.service.reading_routes import EVENTS
from engine.service.sql import MAX_ROWS, MAX_SQL
from engine.service.tables import Table

if TYPE_CHECKING:
    from engine.service.context import ServiceContext
    from engine.service.reading_routes import ConsumptionQuery

__all__ = ["openapi_of"]

Document = dict[str, Any]

_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_TYPES = {
    "BIGINT": {"type": "integer"},
    "DOUBLE": {"type": "number"},
    "BOOLEAN": {"type": "boolean"},
    "DATE": {"type": "string", "format": "date"},
    "TIMESTAMP": {"type": "string", "format": "date-time"},
    "VARCHAR": {"type": "string"},
}
_MAX_COUNT = 2**62 - 1


def openapi_of(context: ServiceContext) -> Document:
    """Return the OpenAPI 3.1 document."""
    paths: Document = {}
    for endpoint in context.endpoints.values():
        model = endpoint.model
        paths[f"/ingest/{model.name}"] = {"post": _ingest(model.name, model.model)}
    for query in {one.name: one for one in context.queries.values()}.values():
        operation = _consumption(query, context.warehouse.tables[query.table])
        for prefix in ("/consumption", "/api"):
            paths[f"{prefix}/{query.name}"] = {"get": operation}
    if EVENTS in context.warehouse.tables:
        for prefix in ("/consumption", "/api"):
            paths[f"{prefix}/getDailyPageViews"] = {"get": _page_views()}
    paths |= _fixed() | run_paths(context)
    paths["/dead-letters"]["post"] = discard_operation()
    return {
        "openapi": "3.1.0",
        "info": {"title": "odw-engine ingest service", "version": "1"},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _ingest(name: str, model: type[BaseModel]) -> Document:
    try:
        record: Document = model.model_json_schema(mode="validation", ref_template="#/$defs/{model}")
    except PydanticInvalidForJsonSchema:
        record = {"type": "object"}
    definitions = record.pop("$defs", None)
    body: Document = {"oneOf": [record, {"type": "array", "items": record}]}
    if definitions:
        record = _inlined(record, definitions, ())
        body = {"oneOf": [record, {"type": "array", "items": record}]}
    results = {"application/json": {"schema": _RESULTS}, **_TEXT}
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
    return {
        "summary": f"Store records of {name}",
        "parameters": [_header(*one) for one in _HEADERS],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": {"description": "committed", "content": results}, **_answers(refusals)},
        "security": [{}, {"token": []}],
    }


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


_HEADERS = (
    ("X-ODW-Results", {"type": "string", "enum": ["per-record", "none"]}, "answer every record's outcome"),
    (
        "X-ODW-Delivery",
        {"type": "string", "enum": ["fresh", "replay"]},
        "append or replace",
    ),
    ("X-ODW-Origin", {"type": "string", "maxLength": 1_000}, "pipeline/run/node, percent-encoded"),
    ("Idempotency-Key", {"type": "string", "minLength": 1, "maxLength": 200}, "store the request once"),
)

_RESULTS: Document = {
    "type": "object",
    "required": ["written", "dead", "duplicate"],
    "properties": {
        "written": {"type": "integer", "minimum": 0},
        "duplicate": {"type": "boolean"},
        "dead": {"type": "array", "items": {"type": "object", "required": ["index", "error_message"]}},
    },
}


def _consumption(query: ConsumptionQuery, table: Table) -> Document:
    columns = {
        column.name: {"type": "string"} if query.as_text else _TYPES.get(column.sql_type, {})
        for column in table.columns
    }
    items = {"type": "object", "properties": {name: _nullable(schema) for name, schema in columns.items()}}
    page = {
        "type": "object",
        "required": ["items", "total"],
        "properties": {"items": {"type": "array", "items": items}, "total": {"type": "integer"}},
    }
    filters = [_query(name, {"type": "string"}) for name in dict.fromkeys((*query.equal, *query.contains))]
    refusals = {
        "400": "a parameter that does not fit",
        "503": "too many rows are being read",
    }
    return {
        "summary": f"Rows of {table.name}",
        "parameters": [_query("limit", _COUNT), _query("offset", _COUNT), *filters],
        "responses": {
            "200": {"description": "a page", "content": {"application/json": {"schema": page}}},
            **_answers(refusals),
        },
        "security": [{}, {"token": []}],
    }


def _page_views() -> Document:
    day = {"view_date": {"type": "string", "format": "date"}}
    counts = {"total_pageviews": {"type": "integer"}, "unique_visitors": {"type": "integer"}}
    items = {"type": "array", "items": {"type": "object", "properties": {**day, **counts}}}
    page = {
        "type": "object",
        "required": ["items", "total"],
        "properties": {"items": items, "total": {"type": "integer"}},
    }
    days = {"type": "integer", "minimum": 0, "maximum": MAX_DAYS}
    return {
        "summary": "Page views by day",
        "parameters": [_query("days_back", days), _query("limit", _COUNT), _query("offset", _COUNT)],
        "responses": {
            "200": {"description": "a page", "content": {"application/json": {"schema": page}}},
            **_answers({"400": "a wrong parameter", "503": "too many rows are being read"}),
        },
        "security": [{}, {"token": []}],
    }


_COUNT: Document = {"type": "integer", "minimum": 0, "maximum": _MAX_COUNT}


def _nullable(schema: Document) -> Document:
    return {**schema, "type": [schema["type"], "null"]} if "type" in schema else schema


def _query(name: str, schema: Document) -> Document:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _header(name: str, schema: Document, text: str) -> Document:
    return {"name": name, "in": "header", "required": False, "schema": schema, "description": text}


def _answers(texts: dict[str, str]) -> Document:
    common = {"401": "a missing or wrong token", "403": "another machine's name or page, and no keys"}
    return {
        status: {"description": text, "content": _TEXT}
        for status, text in sorted({**common, **texts}.items())
    }


_OBJECT: Document = {"application/json": {"schema": {"type": "object"}}}


def _sql() -> Document:
    question: Document = {
        "type": "object",
        "required": ["sql"],
        "additionalProperties": False,
        "properties": {
            "sql": {"type": "string", "minLength": 1, "maxLength": MAX_SQL},
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_ROWS},
        },
    }
    rows: Document = {"type": "object", "required": ["columns", "rows", "truncated", "seconds"]}
    refusals = {
        "400": "not one SELECT, or a wrong one",
        "408": "it ran too long, or the body came too slowly",
        "413": "too much memory, or too large a result",
        "429": "too much is waiting",
        "503": "the warehouse cannot be read",
    }
    errors = {status: {"description": text, "content": _OBJECT} for status, text in refusals.items()}
    return {
        "summary": "Run one SELECT",
        "requestBody": {"required": True, "content": {"application/json": {"schema": question}}},
        "responses": {
            "200": {"description": "rows", "content": {"application/json": {"schema": rows}}},
            **_answers({}),
            **errors,
        },
        "security": [{}, {"token": []}],
    }


def _fixed() -> Document:
    health = {"application/json": {"schema": {"type": "object", "required": ["healthy", "unhealthy"]}}}
    either = {
        "200": {"description": "well", "content": health},
        "503": {"description": "not", "content": health},
    }
    forbidden = _answers({})
    listing = {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
    page = {"application/json": {"schema": {"type": "object", "required": ["items", "total"]}}}
    status = {"type": "string", "enum": ["open", "recovered", "discarded"]}
    return {
        "/health": {"get": {"responses": {**either, "403": forbidden["403"]}}},
        "/ready": {"get": {"responses": {**either, "403": forbidden["403"]}}},
        "/liveness": {
            "get": {"responses": {"200": either["200"], "403": forbidden["403"]}},
        },
        "/metrics": {
            "get": {"responses": {"200": {"description": "counters", "content": _TEXT}, **forbidden}}
        },
        "/workflows/list": {
            "get": {
                "parameters": [_query("limit", {"type": "integer"}), _query("status", {"type": "string"})],
                "responses": {"200": {"description": "the latest runs", "content": listing}, **forbidden},
            }
        },
        "/sql": {"post": _sql()},
        "/snapshots": {
            "post": {
                "responses": {
                    "200": {"description": "a file with all tables", "content": _OBJECT},
                    **_answers({"503": "the copy could not be written"}),
                }
            }
        },
        "/dead-letters": {
            "get": {
                "parameters": [
                    _query("limit", _COUNT),
                    _query("offset", _COUNT),
                    _query("model", {"type": "string"}),
                    _query("status", status),
                    *(_query(name, {"type": "string"}) for name in ("pipeline", "run", "node", "key")),
                ],
                "responses": {
                    "200": {"description": "a page", "content": page},
                    **_answers({"400": "a wrong parameter", "503": "too many rows are being read"}),
                },
            }
        },
    }
