"""The consumption routes of the service and their responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote_plus

import orjson

from connectors.warehouse.client import Answer
from engine.errors import FatalError

MAX_IDS = 100
"""Maximum ids in one address."""

_MAX_QUERY = 4_000

# The rows of a source model are those of its curated table.
_PLURALS = {"Blob": "getBlobs", "Log": "getLogs", "Event": "getEvents"}


def consumption_api(model: str) -> str:
    """Return the consumption API of a model's rows: `getBlobs` for `BlobSource` and `Blob`."""
    name = model.partition("/")[0].removesuffix("Source")
    return _PLURALS.get(name, f"get{name}")


def id_chunks(ids: Sequence[str], count: int = MAX_IDS) -> Iterator[list[str]]:
    """Divide ids into chunks of at most `count` that fit into a short address."""
    chunk: list[str] = []
    size = 0
    for identity in ids:
        length = len(quote_plus(identity)) + len("&id=")
        if chunk and (len(chunk) == count or size + length > _MAX_QUERY):
            yield chunk
            chunk, size = [], 0
        chunk.append(identity)
        size += length
    if chunk:
        yield chunk


def items_of(answer: Answer, path: str) -> list[Mapping[str, Any]]:
    """Return the items of a page. Raises FatalError for any other body."""
    try:
        items = orjson.loads(answer.body)["items"]
        return [item for item in items if isinstance(item, dict)]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        message = f"GET {path} did not return a JSON object with `items`"
        raise FatalError(message, kind="schema") from error
