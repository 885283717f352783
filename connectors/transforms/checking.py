"""`validate`: check records by a JSON Schema or a Pydantic model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from connectors.expressions import as_mappings
from engine.contract.batch import Batch
from engine.contract.component import Kind, Locality, Params, Transform, component
from engine.contract.plain import model_to_json
from engine.errors import FatalError, RecordError

SHOWN: Final = 3
NOT_JSON: Final = "invalid record: it cannot be written as JSON"
MAX_SCHEMA: Final = 4 << 20


class ValidateParams(Params):
    """Parameters of `validate`."""

    schema_: dict[str, Any] | str | None = Field(
        default=None, alias="schema", description="A JSON Schema, or the path of a file that holds one"
    )
    model: str | None = Field(
        default=None,
        pattern=r"^[\w.]+:[\w.]+$",
        description="A Pydantic model instead, as package.module:Class",
    )
    formats: bool = Field(default=True, description="With a schema: also check `format`, e.g. email")
    coerce: bool = Field(
        default=False,
        description="With a model: pass on the model's values, with types converted and defaults filled "
        "in, instead of the record",
    )

    @field_validator("schema_")
    @classmethod
    def _known_schema(cls, schema: dict[str, Any] | str | None) -> dict[str, Any] | str | None:
        # without its package, the engine reports the missing extra
        if isinstance(schema, dict) and find_spec("jsonschema_rs") is not None:
            _validator(schema, formats=False)
        return schema

    @field_validator("model")
    @classmethod
    def _known_model(cls, model: str | None) -> str | None:
        if model is not None:
            _model(model)
        return model

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.schema_ is None) == (self.model is None):
            raise ValueError("give either `schema` or `model`")
        if self.coerce and self.model is None:
            raise ValueError("`coerce` needs a `model`: a JSON Schema converts nothing")
        return self


def _locality(params: ValidateParams) -> Locality:
    return Locality.MACHINE if isinstance(params.schema_, str) else Locality.ANYWHERE


@component(Kind.TRANSFORM, "validate", params=ValidateParams, extra="validate", locality=_locality)
class Validate(Transform[ValidateParams]):
    """Checks records by a JSON Schema or a Pydantic model.

    An invalid record becomes a dead letter of type `InvalidRecord` that names the field and the rule, but no
    value. A schema may only refer to itself: nothing is fetched.
    """

    def __init__(self, params: ValidateParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._check: Callable[[Any], Any] | None = None

    async def __aenter__(self) -> Self:
        self._check = self._made()
        return self

    @property
    def keeps_ids(self) -> bool:
        """Whether ids never change: true if nothing is converted."""
        return not self.params.coerce

    def apply(self, batch: Batch) -> Batch:
        """Pass on valid records."""
        check = self._check
        assert check is not None, "use `async with`"
        outcomes = [
            checked if isinstance(checked, RecordError) or self.params.coerce else record
            for record, checked in zip(batch.records, map(check, as_mappings(batch.records)), strict=True)
        ]
        return batch.outcomes(outcomes)

    def _made(self) -> Callable[[Any], Any]:
        if self.params.model is not None:
            return _by_model(_model(self.params.model), coerce=self.params.coerce)
        schema = self.params.schema_
        try:
            loaded = _read(schema) if isinstance(schema, str) else schema
            return _by_schema(_validator(loaded, formats=self.params.formats))
        except ValueError as error:
            raise FatalError(f"the JSON Schema cannot be used: {error}") from None


def _read(path: str) -> Any:
    try:
        file = Path(path)
        if file.stat().st_size > MAX_SCHEMA:
            raise ValueError(f"{path} is larger than {MAX_SCHEMA >> 20} MiB")
        return json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _validator(schema: Any, *, formats: bool) -> Any:
    import jsonschema_rs

    try:
        return jsonschema_rs.validator_for(
            schema,
            validate_formats=formats,
            retriever=_retrieve_nothing,
            pattern_options=jsonschema_rs.RegexOptions(),  # patterns that take linear time
        )
    except jsonschema_rs.ValidationError as error:
        place = "/".join(map(str, error.instance_path))
        raise ValueError(f"not a JSON Schema: {error.message}{f' at {place}' if place else ''}") from None
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(f"not a JSON Schema: {error}") from None


def _retrieve_nothing(uri: str) -> Any:
    raise ValueError(f"the reference {uri} points outside the schema")


def _by_schema(validator: Any) -> Callable[[Any], Any]:
    def check(record: Any) -> Any:
        try:
            if validator.is_valid(record):
                return None
            return _invalid((one.instance_path, _rule(one)) for one in validator.iter_errors(record))
        except (ValueError, TypeError):  # a value that JSON cannot represent
            return RecordError(NOT_JSON, kind="InvalidRecord")

    return check


def _rule(error: Any) -> str:
    """Describe the broken rule with the schema's parameters, without values of the record."""
    name = str(error.schema_path[-1]) if error.schema_path else "false"
    if name == "required":
        return f"required `{error.kind.property}`"
    if name == "format":
        return f"format {error.kind.format}"
    return name


def _model(name: str) -> type[BaseModel]:
    """Import a model by name. Raises ValueError."""
    module, _, attribute = name.partition(":")
    try:
        target: Any = import_module(module)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a module is third-party code
        raise ValueError(f"cannot import {name}: {type(error).__name__}: {error}") from None
    if not isinstance(target, type) or not issubclass(target, BaseModel):
        raise ValueError(f"{name} is not a Pydantic model")
    return target


def _by_model(model: type[BaseModel], *, coerce: bool) -> Callable[[Any], Any]:
    def check(record: Any) -> Any:
        try:
            made = model.model_validate(record)
            return model_to_json(made, by_alias=True) if coerce else None
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False, include_input=False)
            return _invalid((one["loc"], one["type"]) for one in found)
        except ValueError:  # of `model_dump`
            return RecordError(NOT_JSON, kind="InvalidRecord")

    return check


def _invalid(found: Iterable[tuple[Sequence[object], str]]) -> RecordError:
    problems = [f"{_place(path)}: {rule}" for path, rule in found]
    shown = "; ".join(problems[:SHOWN])
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return RecordError(f"invalid record: {shown}{more}", kind="InvalidRecord")


def _place(path: Sequence[object]) -> str:
    return f"`{'.'.join(map(str, path))}`" if path else "the record"
