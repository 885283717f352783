"""The types of CSV columns in many objects, inferred from a few of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from connectors.objects.content import ObjectBody
from connectors.objects.csv_format import CsvRows
from connectors.objects.csv_types import ColumnType, common_type
from connectors.objects.fetching import ObjectFetcher, Suspect
from connectors.objects.listed import ListedObject, ObjectStore
from connectors.objects.pages import ObjectReader
from connectors.objects.params import ObjectParams
from connectors.objects.record_formats import record_format
from connectors.objects.streaming import AHEAD_BYTES, Fetched, fetch_small
from engine.errors import ComponentError, TransientError

_SAMPLES: Final = 8


@dataclass(frozen=True, slots=True)
class TypesOfColumns:
    """Decides on the types of columns in one object after another, and notes differences.

    Args:
        sampled: types that all objects have in common; a type that cannot take the values of one gives way.
        inferred: types of other columns in earlier objects, which are read concurrently.
        count: adds to the summary.
    """

    sampled: Mapping[str, ColumnType]
    inferred: dict[str, ColumnType]
    count: Callable[[str], None]

    def agree(self, column: str, kind: ColumnType | None) -> ColumnType:
        """Return the type of a column whose values have this one in an object; None without values."""
        known = self.sampled.get(column)
        if kind is None:
            return known or "text"
        first = known or self.inferred.setdefault(column, kind)
        common = common_type(first, kind)
        used = common if known else kind
        if known == "text" != kind:
            self.count(
                f"note: read {column!r} as text: it is {kind} in some files, but not in all; with "
                f"`types: {{{column}: {kind}}}`, other values become dead letters"
            )
        elif common == "text" != first:
            one, other = sorted((first, used))
            self.count(
                f"note: read {column!r} as {one} in some files and as {other} in others: set "
                f"`types: {{{column}: text}}`"
            )
        return used


async def sampled_types(
    store: ObjectStore,
    fetcher: ObjectFetcher,
    objects: Sequence[ListedObject],
    params: ObjectParams,
    fetched: dict[str, Fetched],
) -> dict[str, ColumnType]:
    """Return the types that columns have in common in the beginnings of some of these objects.

    Small objects are fetched whole, once: `fetched` gets them for reading.

    Raises:
        TransientError: some cannot be read, and nothing else can be read either.
    """
    types: dict[str, ColumnType] = {}
    failed: dict[str, TransientError] = {}

    def agree(column: str, kind: ColumnType | None) -> ColumnType:
        if kind is not None:
            types[column] = common_type(types.get(column, kind), kind)
        return "text"

    rows = record_format(params, agree)
    assert isinstance(rows, CsvRows)

    async def look(found: ListedObject) -> None:
        opened: Fetched = partial(_beginning, store, found)
        if 0 <= found.size <= AHEAD_BYTES:
            fetched[found.key] = opened = await fetch_small(store, fetcher, found)
        try:
            if isinstance(opened, Suspect):
                raise opened.error
            if callable(opened):
                path, _ = store.addresses(found.key)
                await rows.columns(ObjectReader(found.key, path, found.size, opened))
        except TransientError as error:
            failed[found.key] = error
        except ComponentError:
            pass  # it is reported when the object is read

    last = len(objects) - 1
    async with anyio.create_task_group() as tasks:
        for index in sorted({last * number // (_SAMPLES - 1) for number in range(_SAMPLES)}):
            tasks.start_soon(look, objects[index])
    # in an outage, each file would get its own types
    if failed and fetcher.retries and not await fetcher.others_get_through(failed):
        raise next(iter(failed.values()))
    return dict(sorted(types.items()))


@asynccontextmanager
async def _beginning(
    store: ObjectStore, found: ListedObject, start: int, stop: int | None
) -> AsyncGenerator[ObjectBody, None]:
    # more than a head: bytes may be packed in large blocks, and are fewer in UTF-8 than in UTF-16
    async with store.open(found, start, AHEAD_BYTES) as body:
        yield body
