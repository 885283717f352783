"""The parts of `/openapi.json` about runs, administration, deliveries and dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.service.context import ServiceContext

__all__ = ["discard_operation", "run_paths"]

Document = dict[str, Any]

_TEXT: Document = {"text/plain": {"schema": {"type": "string"}}}
_OBJECT: Document = {"application/json": {"schema": {"type": "object"}}}
_ROWS: Document = {"application/json": {"schema": {"type": "array", "items": {"type": "object"}}}}
_SECURED: list[Document] = [{}, {"token": []}]
_TYPES = {"int": "integer", "float": "number", "bool": "boolean"}


def run_paths(context: ServiceContext) -> Document:
    """Return paths by name: triggers of the pipelines, administration, deliveries, and dead letters."""
    return {
        **_triggers(context),
        "/admin/workflows/history": {"get": {"responses": _answers({}, _ROWS), "security": _SECURED}},
        "/admin/workflows/{name}/trigger": {"post": _admin("start a run of a pipeline")},
        "/admin/workflows/{name}/terminate": {"post": _admin("end the latest run of a pipeline")},
        "/deliveries": {"get": _deliveries()},
    }


def discard_operation() -> Document:
    """Return the operation `POST /dead-letters`."""
    wanted: Document = {
        "type": "object",
        "required": ["reason"],
        "anyOf": [{"required": ["discard"]}, {"required": ["recovered"]}],
        "properties": {
            "discard": {"type": "array", "items": {"type": "string"}, "maxItems": 1_000},
            "recovered": {"type": "array", "items": {"type": "string"}, "maxItems": 1_000},
            "reason": {"type": "string", "minLength": 1, "maxLength": 2_000, "pattern": r"\S"},
        },
    }
    refusals = {
        "400": "not the ids and a reason",
        "408": "the body came too slowly",
        "413": "too large",
        "415": "an unknown content encoding",
        "429": "too much is waiting",
        "503": "the warehouse cannot be written",
    }
    return {
        "summary": "Discard dead letters, or mark them as recovered",
        "requestBody": {"required": True, "content": {"application/json": {"schema": wanted}}},
        "responses": _answers(refusals, _TEXT),
        "security": _SECURED,
    }


def _answers(refusals: dict[str, str], content: Document, refused: Document | None = None) -> Document:
    common = {"401": "a missing or wrong token", "403": "another machine's name or page, and no keys"}
    answers: Document = {
        status: {"description": text, "content": _TEXT} for status, text in sorted(common.items())
    }
    for status, text in refusals.items():
        answers[status] = {"description": text, "content": refused or _TEXT}
    return {"200": {"description": "done", "content": content}, **answers}


def _triggers(context: ServiceContext) -> Document:
    found = context.operations.pipelines() if context.operations is not None else ()
    paths: Document = {}
    for pipeline in found:
        operation: Document = {
            "summary": f"Start a run of {pipeline.name}",
            "parameters": [
                {
                    "name": one.name,
                    "in": "query",
                    "required": False,
                    "description": one.description,
                    "schema": {"type": _TYPES.get(one.type, "string")},
                }
                for one in pipeline.parameters
            ],
            "responses": _answers(
                {"400": "a parameter does not fit", "500": "the run could not be started", "503": "stopping"},
                _OBJECT,
                _OBJECT,
            ),
            "security": _SECURED,
        }
        for prefix in ("/consumption", "/api"):
            paths[f"{prefix}/extract-{pipeline.name.replace('_', '-')}"] = {"get": operation}
    return paths


def _admin(summary: str) -> Document:
    name = {
        "name": "name",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "pattern": "^[a-z]+$"},
    }
    return {
        "summary": summary,
        "parameters": [name],
        "responses": _answers({"400": "it could not be done"}, _OBJECT, _OBJECT),
        "security": _SECURED,
    }


def _deliveries() -> Document:
    texts = {"model": "a served model", "scope": "of an X-ODW-Epoch; without it only `newest` is answered"}
    parameters = [
        {
            "name": name,
            "in": "query",
            "required": name == "model",
            "description": text,
            "schema": {"type": "string"},
        }
        for name, text in texts.items()
    ]
    refusals = {"400": "no such model", "503": "the table cannot be counted now"}
    return {
        "summary": "Count deliveries",
        "parameters": parameters,
        "responses": _answers(refusals, _OBJECT),
        "security": _SECURED,
    }
