"""Ingest models, found through the entry-point group `odw_engine.ingest_models`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel

from engine.errors import RegistryError
from engine.extras import entry_points

__all__ = [
    "ENTRY_POINT_GROUP",
    "UNKNOWN_ORIGIN",
    "ColumnTransform",
    "IngestModel",
    "Origin",
    "OriginOf",
    "Row",
    "RowTransform",
    "fields_of",
    "load_ingest_models",
]

ENTRY_POINT_GROUP = "odw_engine.ingest_models"

Row: TypeAlias = dict[str, Any]
"""One record as plain values, field name -> value; values are those that JSON and the model's types allow."""

RowTransform: TypeAlias = Callable[[list[Row]], Sequence[Row | Exception]]
"""Maps validated records to as many rows or exceptions, in the same order; it may change the dicts."""


ColumnTransform: TypeAlias = Callable[[Any], Any]
"""Like a `RowTransform` for many records at once, as a pyarrow table; None if a record has no row."""


class Origin(NamedTuple):
    """The pipeline, run, node and key of a request's record; None for unknown parts."""

    pipeline: str | None = None
    run: str | None = None
    node: str | None = None
    key: str | None = None


UNKNOWN_ORIGIN = Origin()

OriginOf: TypeAlias = Callable[[Row], Origin | None]
"""Reads the origin from a record as it was sent, even an invalid one; None when it names none."""

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class IngestModel:
    """A model that `POST /ingest/<name>` accepts.

    `model` describes a record on the wire. `transform` maps validated records to rows of the type `row`
    (default: `model`), or to exceptions, which become dead letters with the source "transform".
    `transform_columns` does the same to columns, only faster. Rows go to `table`; with None they are only
    validated and transformed. Models that share a table must have the same row type. `origin` reads the
    origin of records that become dead letters. Raises RegistryError for a name that cannot be a path segment
    or an SQL identifier.
    """

    name: str
    model: type[BaseModel]
    table: str | None
    row: type[BaseModel] | None = None
    transform: RowTransform | None = None
    origin: OriginOf | None = None
    transform_columns: ColumnTransform | None = None

    def __post_init__(self) -> None:
        for what, text in (("model", self.name), ("table", self.table)):
            if text is not None and not _IDENTIFIER.fullmatch(text):
                raise RegistryError(
                    f"ingest model {self.name!r}: the {what} name {text!r} must be a letter followed by "
                    "letters, digits or underscores, at most 63 characters"
                )

    @property
    def row_model(self) -> type[BaseModel]:
        """The model whose fields are the columns of `table`."""
        return self.row or self.model


class ModelError(RegistryError):
    """A service cannot have these models together; `models` are their names."""

    def __init__(self, message: str, *models: str) -> None:
        super().__init__(message)
        self.models = models


def fields_of(models: Iterable[IngestModel]) -> dict[str, list[str]]:
    """Return the field names of each model's records on the wire, by the model's name."""
    return {
        one.name: [field.alias or name for name, field in one.model.model_fields.items()] for one in models
    }


def load_ingest_models() -> tuple[IngestModel, ...]:
    """Return the ingest models of all installed packages, in the order of their entry points' names.

    An entry point's value is a sequence of IngestModel. Raises RegistryError when one cannot be imported,
    has another type, or when two models share a name (ignoring case, as paths do).
    """
    found: list[IngestModel] = []
    for point in sorted(entry_points(ENTRY_POINT_GROUP), key=lambda item: item.name):
        try:
            value = point.load()
        except (ImportError, AttributeError) as error:
            raise RegistryError(f"cannot load the ingest models of {point.value}: {error}") from error
        if not isinstance(value, Iterable) or not all(isinstance(item, IngestModel) for item in value):
            raise RegistryError(f"{point.value} is not a sequence of IngestModel")
        found.extend(value)
    return check_names(found)


def check_names(models: Iterable[IngestModel]) -> tuple[IngestModel, ...]:
    """Return the models. Raises RegistryError when two names are equal or differ only in case."""
    seen: dict[str, IngestModel] = {}
    for model in models:
        other = seen.setdefault(model.name.lower(), model)
        if other is not model:
            raise ModelError(
                f"two ingest models are called {other.name!r} and {model.name!r}, perhaps one of them by an "
                "installed package: give one another name",
                other.name,
                model.name,
            )
    return tuple(seen.values())
