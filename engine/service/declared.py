"""Ingest models that a file declares under `warehouse:`, by fields or classes.

The section is checked only here: for `validate`, for the service, and for the child process that embeds it.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from engine.errors import RegistryError, ServiceError
from engine.service.discovery import announced
from engine.service.models import IngestModel, ModelError, fields_of, load_ingest_models
from engine.service.settings import Keep, Retention
from engine.units import Duration

_TYPES: dict[str, Any] = {
    "str": str,
    "text": str,
    "string": str,
    "int": int,
    "integer": int,
    "float": float,
    "number": float,
    "bool": bool,
    "boolean": bool,
    "date": date,
    "datetime": datetime,
    "time": time,
    "uuid": UUID,
    "decimal": Decimal,
    "json": Any,
    "object": dict[str, Any],
}
_NAMED = 5  # fields that a message lists
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_LIST = re.compile(r"list\[(.+)\]")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class FieldSection(_Section):
    """A field in full form."""

    type: str
    """`str`, `int`, `float`, `bool`, `date`, `datetime`, `time`, `uuid`, `decimal`, `json`, `object`, or \
`list[…]` of one; `?` behind it allows null."""
    default: Any = None
    """The value for records without the field. Without a default, a field that does not allow null is
    required."""
    values: list[str] | None = None
    """The allowed texts."""
    description: str = ""
    """What it means."""


class ModelSection(_Section):
    """A model that `POST /ingest/<name>` accepts."""

    model: str | None = None
    """A Pydantic model as `module:Class`, instead of `fields`."""
    fields: dict[str, str | FieldSection] | None = None
    """The fields by name: a type such as `str` or `float?`, or a mapping."""
    table: str | None = None
    """The table that rows go to. Default: the model's name."""
    transform: str | None = None
    """A function `module:name` that maps a list of records to as many rows or exceptions."""
    row: str | None = None
    """The model of a row as `module:Class`, when the transform changes the fields."""


class KeepSection(_Section):
    """What is kept; everything without `age` and `rows`."""

    age: Duration | None = None
    """Remove older ones, e.g. `30d`."""
    rows: Annotated[int, Field(ge=1)] | None = None
    """Keep this many of the newest ones."""


class RetentionSection(_Section):
    """What `serve` removes by age or number. Default: nothing."""

    tables: dict[str, KeepSection] = {}
    """Rows by table, by the time of storage."""
    dead_letters: KeepSection = KeepSection()
    """Recovered and discarded dead letters, by the time they were closed; open ones are kept."""


class WarehouseSection(_Section):
    """The warehouse behind the ingest service."""

    models: dict[str, str | ModelSection] = {}
    """Custom models by name, each a mapping or `module:Class`."""
    retention: RetentionSection = RetentionSection()
    """What is removed by age or number."""


DECLARED = "ODW_DECLARED_MODELS"
"""The variable that passes a file's declarations to the process of the embedded warehouse."""


class DeclarationError(Exception):
    """A declaration is not a valid model. `path` is the place of the problem within the section."""

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True, slots=True)
class Declared:
    """The section as JSON, and the folder of the file, in which modules are searched."""

    document: Mapping[str, Any]
    folder: str

    @classmethod
    def from_json(cls, text: str) -> Declared:
        """Parse the text of `to_json`."""
        return cls(**json.loads(text))

    def to_json(self) -> str:
        """Serialise it for another process."""
        return json.dumps({"document": self.document, "folder": self.folder}, default=str)

    def models(self) -> tuple[IngestModel, ...]:
        """Return the models. Raises DeclarationError."""
        if self.folder not in sys.path:
            sys.path.insert(0, self.folder)
        return declared_models(WarehouseSection.model_validate(self.document))

    def routes(self) -> list[str]:
        """Return the names of the routes that read tables, of these models and of the installed ones.

        Raises:
            DeclarationError: the service cannot have these models beside the installed ones.
        """
        from engine.service.reading_routes import routes_of

        declared = self.models()
        try:
            return routes_of((*load_ingest_models(), *declared))
        except RegistryError as error:
            own = {one.name for one in declared}
            named = [name for name in error.models if name in own] if isinstance(error, ModelError) else []
            raise DeclarationError(str(error), "models", *named[-1:]) from error

    def check_served(self, state_dir: Path) -> None:
        """Raise ServiceError if the service of this directory would drop fields of these models.

        It keeps the models that it was started with; a file changed later may declare more.
        """
        service = announced(state_dir)
        if service is not None and (lacking := service.lacks(fields_of(self.models()))):
            names = ", ".join(lacking[:_NAMED])
            raise ServiceError(
                f"the ingest service at {service.url} was started before the file declared {names}, and "
                f"would drop it: restart the service (process {service.pid})"
            )

    def retention(self) -> Retention:
        """Return what is kept, by the tables' actual names. Raises DeclarationError for unknown tables."""
        section = WarehouseSection.model_validate(self.document).retention
        tables: dict[str, Keep] = {}
        if section.tables:
            models = (*self.models(), *load_ingest_models())
            known = {one.table.lower(): one.table for one in models if one.table is not None}
            for name, keep in section.tables.items():
                if (table := known.get(name.lower())) is None:
                    where = ("retention", "tables", name)
                    text = f"no model fills a table `{name}`: expected {', '.join(sorted(known.values()))}"
                    raise DeclarationError(text, *where)
                tables[table] = Keep(keep.age, keep.rows)
        letters = section.dead_letters
        return Retention(tables, Keep(letters.age, letters.rows))


def declared_models(section: WarehouseSection) -> tuple[IngestModel, ...]:
    """Return the ingest models of a section, in its order. Raises DeclarationError."""
    return tuple(_model(name, given) for name, given in section.models.items())


def _model(name: str, given: str | ModelSection) -> IngestModel:
    one = ModelSection(model=given) if isinstance(given, str) else given
    where = ("models", name)
    if (one.model is None) == (one.fields is None):
        raise DeclarationError("give either `fields` or `model`, a class as `module:Class`", *where)
    if one.row is not None and one.transform is None:
        raise DeclarationError(
            "`row` belongs to a `transform`: without one, rows are the records", *where, "row"
        )
    if one.model is not None:
        model = _class(one.model, *where, *(() if isinstance(given, str) else ("model",)))
    else:
        model = _from_fields(name, one.fields or {}, *where, "fields")
    row = _class(one.row, *where, "row") if one.row is not None else None
    transform = _imported(one.transform, *where, "transform") if one.transform is not None else None
    if transform is not None and not isinstance(transform, Callable):  # type: ignore[arg-type]
        raise DeclarationError(f"`{one.transform}` is not a function", *where, "transform")
    try:
        return IngestModel(name, model, one.table or name, row, transform)
    except RegistryError as error:
        raise DeclarationError(str(error), *where) from error


def _from_fields(name: str, fields: Mapping[str, str | FieldSection], *where: str) -> type[BaseModel]:
    if not fields:
        raise DeclarationError("a model needs at least one field", *where)
    made: dict[str, Any] = {}
    for field, given in fields.items():
        if not field.isidentifier() or field.startswith("_"):
            raise DeclarationError(
                "a field's name is a letter followed by letters, digits or _", *where, field
            )
        if field.startswith("model_") and hasattr(BaseModel, field):
            raise DeclarationError(f"`{field}` is a reserved name of models", *where, field)
        made[field] = _field(given, *where, field)
    with warnings.catch_warnings():
        # a field called `json` or `copy` hides a deprecated method of models that nothing here calls
        warnings.filterwarnings("ignore", message="Field name", category=UserWarning)
        return create_model(name, __config__=ConfigDict(protected_namespaces=()), **made)


def _field(given: str | FieldSection, *where: str) -> tuple[Any, Any]:
    one = FieldSection(type=given) if isinstance(given, str) else given
    kind = _type(one.type, *where)
    if one.values is not None:
        if one.type.rstrip("?") not in ("str", "text", "string") or not one.values:
            raise DeclarationError("`values` are texts, and need the type `str`", *where, "values")
        kind = Literal[tuple(one.values)]
        kind = kind | None if one.type.endswith("?") else kind
    is_given = "default" in one.model_fields_set
    if not is_given and not one.type.endswith("?"):
        return Annotated[kind, Field(description=one.description or None)], ...
    try:
        default = TypeAdapter(kind).validate_python(one.default)
    except ValidationError:
        raise DeclarationError(f"the default does not fit the type `{one.type}`", *where, "default") from None
    return Annotated[kind, Field(description=one.description or None)], default


def _type(text: str, *where: str) -> Any:
    if text.endswith("?"):
        return _type(text[:-1], *where) | None
    if found := _LIST.fullmatch(text):
        return list[_type(found[1], *where)]  # type: ignore[misc]
    if text not in _TYPES:
        known = ", ".join(
            name for name in _TYPES if name not in ("text", "string", "integer", "number", "boolean")
        )
        raise DeclarationError(
            f"`{text}` is not a type: use {known}, list[…], or one of these with ?", *where
        )
    return _TYPES[text]


def _class(reference: str, *where: str) -> type[BaseModel]:
    found = _imported(reference, *where)
    if not (isinstance(found, type) and issubclass(found, BaseModel)):
        raise DeclarationError(f"`{reference}` is not a Pydantic model", *where)
    return found


def _imported(reference: str, *where: str) -> Any:
    if not _REFERENCE.fullmatch(reference):
        raise DeclarationError(f"expected `module:name`, got `{reference}`", *where)
    module, _, name = reference.partition(":")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DeclarationError(f"`{reference}` cannot be imported: {error}", *where) from error
