"""Folders of partitions, named as Hive, DuckDB and pyarrow do: `country=DE/day=2026-01-01/`."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final
from urllib.parse import quote, unquote

from pydantic import BaseModel

from connectors.objects.csv_types import CONVERTERS, ColumnType
from connectors.objects.encoding import Failures
from engine.contract.batch import Batch
from engine.contract.keys import Keys
from engine.contract.plain import model_to_json
from engine.contract.types import Record
from engine.errors import FatalError, RecordError

NULL: Final = "__HIVE_DEFAULT_PARTITION__"

MAX_NAME: Final = 255
"""Maximum bytes of a folder's name in most file systems."""

_UNFIT: Final = "a partition needs text, a number, a date or true or false: convert the field before the sink"


@dataclass(slots=True)
class Partition:
    """The records of a batch for one folder.

    Args:
        folder: path of the folder, with a slash at its end.
        places: indices of the records in the batch.
        records: their fields, without the partition columns.
    """

    folder: str
    places: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def of(self, batch: Batch, names: Sequence[str], ordinals: Sequence[int]) -> Batch:
        """Return the records as a batch, with the keys and ordinals that they have in theirs."""
        places = self.places
        keys = _PickedKeys([names[place] for place in places], [ordinals[place] for place in places])
        part = Batch(self.records, keys)
        if batch.origins:
            ends = list(accumulate(count for _, count in batch.origins))
            part.origins = [(batch.origins[bisect_right(ends, places[0])][0], len(places))]
        return part


class _PickedKeys(Keys):
    """Keys with any ordinals: a part of them takes no time for the others."""

    __slots__ = ("names", "numbers")

    def __init__(self, names: list[str], numbers: list[int]) -> None:
        self.names = names
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.names)

    def to_list(self) -> list[str]:
        return self.names

    def ordinals(self) -> Sequence[int]:
        return self.numbers


def split_by(
    batch: Batch, places: Sequence[int], columns: Sequence[str], most: int
) -> tuple[list[tuple[Partition, Batch]], Failures, Counter[str]]:
    """Split the records at these indices by the values of columns.

    Also return the records that have no folder, by index, and the numbers of records that lack a column.

    Raises:
        FatalError: there are more than `most` partitions.
    """
    found: dict[str, Partition] = {}
    failures: Failures = {}
    lacking: Counter[str] = Counter()
    for place in places:
        record = batch.records[place]
        fields = model_to_json(record) if isinstance(record, BaseModel) else record
        try:
            folder = _folder(fields, columns)
        except RecordError as error:
            failures[place] = error
            continue
        partition = found.get(folder)
        if partition is None:
            partition = found[folder] = Partition(folder)
            if len(found) > most:
                raise FatalError(
                    f"a batch has more than {most:,} partitions by {', '.join(columns)}, and each gets a "
                    "file: choose columns with fewer values in `partition_by`, or raise `max_partitions`"
                )
        partition.places.append(place)
        partition.records.append({name: value for name, value in fields.items() if name not in columns})
        if NULL in folder:
            lacking.update(column for column in columns if column not in fields)
    names, ordinals = batch.keys.to_list(), batch.keys.ordinals()
    return [(one, one.of(batch, names, ordinals)) for one in found.values()], failures, lacking


def _folder(fields: Any, columns: Sequence[str]) -> str:
    if not isinstance(fields, Mapping):
        raise RecordError("it has no partition: it is not a mapping", kind="NoPartition")
    try:
        return "".join([_segment(column, fields.get(column)) for column in columns])
    except (TypeError, UnicodeEncodeError):  # not hashable, or a lone surrogate
        named = ", ".join(columns)
        raise RecordError(f"{named}: {_UNFIT}", kind="NoPartition") from None


@lru_cache(maxsize=4096, typed=True)
def _segment(column: str, value: Any) -> str:
    if value is None:
        text = NULL
    elif isinstance(value, bool):
        text = "true" if value else "false"
    elif isinstance(value, str | int | float | Decimal | date | time):
        text = quote(str(value), safe="")
    else:
        raise TypeError
    name = f"{quote(column, safe='')}={text}"
    if len(name) > MAX_NAME:
        raise RecordError(
            f"the value of {column!r} is too long for the name of a folder, of {MAX_NAME} bytes: shorten it "
            "before the sink",
            kind="NoPartition",
        )
    return f"{name}/"


def is_partition(folder: str) -> bool:
    """Return whether a folder's name, or each name in its path, is that of a partition."""
    return all(name.partition("=")[1] and not name.startswith(".") for name in folder.split("/"))


def any_partition(column: str) -> str:
    """Return the folder of a column with any value. No value contains `*`: it is percent-encoded."""
    return f"{quote(column, safe='')}=*/"


def is_below(path: str, folder: str) -> bool:
    """Return whether a file is in a folder or in partitions of it; the path may have `any_partition`."""
    names, above = path.split("/")[:-1], folder.rstrip("/").split("/")
    if len(names) < len(above) or not all(map(_are_same, names, above)):
        return False
    return len(names) == len(above) or is_partition("/".join(names[len(above) :]))


def _are_same(name: str, other: str) -> bool:
    return name == other or (name.endswith("=*") and other.startswith(name[:-1]))


def folder_columns(key: str, types: Mapping[str, ColumnType]) -> dict[str, Any]:
    """Return the columns that the folders in the key of an object express, as text or of the given types.

    Raises:
        RecordError: a value does not have its type.
    """
    found: dict[str, Any] = {}
    for name in key.split("/")[:-1]:
        column, separator, text = name.partition("=")
        if separator:
            column = unquote(column)
            found[column] = None if text == NULL else _typed(column, unquote(text), types.get(column))
    return found


def _typed(column: str, text: str, kind: ColumnType | None) -> Any:
    convert = CONVERTERS[kind] if kind is not None else None
    try:
        return text if convert is None else convert((text,))[0]
    except ValueError:
        raise RecordError(
            f"the folder of {column!r} has a value that is not of the type {kind!r} of `hive_types`",
            kind="BadPartition",
        ) from None
