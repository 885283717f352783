"""The actions of `map`: their parameters, and the functions that they compile to."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from string import Formatter
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from connectors.expressions import Expression, InvalidExpressionError
from connectors.expressions.expression import Assignments
from connectors.expressions.failures import EvaluationError
from connectors.expressions.functions import FUNCTIONS, text_digest
from connectors.expressions.times import check_format, check_zone
from engine.contract.component import Params
from engine.errors import RecordError

MAX_FIELDS = 10_000


def flattened(
    fields: Mapping[str, Any], chosen: Collection[str] | None, separator: str, depth: int
) -> dict[str, Any]:
    """Return the fields with flattened mappings: `customer: {city: x}` becomes `customer_city: x`.

    Lists, empty mappings and values deeper than `depth` do not change.

    Raises:
        RecordError: two fields would have the same name, or there would be too many.
    """
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        inside = isinstance(value, Mapping) and value and (chosen is None or name in chosen)
        for inner, item in _walk(name, value, separator, depth) if inside else [(name, value)]:
            if inner in flat:
                raise RecordError(
                    "flatten: two fields would have the same name", kind="FlattenError", unplanned=True
                )
            flat[inner] = item
            if len(flat) > MAX_FIELDS:
                raise RecordError(
                    f"flatten: more than {MAX_FIELDS:,} fields", kind="FlattenError", unplanned=True
                )
    return flat


def _walk(name: str, value: Any, separator: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth == 0 or not isinstance(value, Mapping) or not value:
        yield name, value
        return
    for inner, item in value.items():
        yield from _walk(f"{name}{separator}{inner}", item, separator, depth - 1)


Fields: TypeAlias = dict[str, Any]
Change: TypeAlias = Callable[[Fields], Fields]
"""Takes the fields of a copy of a record, may change them in place, and returns them."""

CastType: TypeAlias = Literal["str", "int", "float", "bool", "date", "datetime", "json"]
_NONE: Final = object()


class ParseAs(Params):
    """How to parse the text of a field."""

    as_: Literal["json", "number", "date", "datetime"] = Field(alias="as", description="What the text holds")
    format: str | None = Field(
        default=None,
        description="Of a date: a strptime format such as %d.%m.%Y, or `seconds` or `milliseconds` since "
        "1970 (default: ISO 8601)",
    )
    zone: str = Field(
        default="UTC",
        description="Of a date with time: the zone of texts without an offset, e.g. Europe/Berlin",
    )
    decimal: Literal[".", ","] = Field(default=".", description="Of a number: its decimal mark")

    @field_validator("format")
    @classmethod
    def _known_format(cls, format: str | None) -> str | None:  # noqa: A002 - the word that users write
        return format if format is None else check_format(format)

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        return check_zone(zone)


def _spelled_out(value: Any) -> Any:
    return {"as": value} if isinstance(value, str) else value


class FlattenOptions(Params):
    """Which mappings to flatten, and how to form the new names."""

    fields: list[str] | None = Field(default=None, description="These fields (default: every field)")
    separator: str = Field(default="_", max_length=8, description="Separator of the names: customer_city")
    depth: int = Field(default=8, ge=1, le=32, description="Maximum levels of mappings to flatten")


def _flatten_options(value: Any) -> Any:
    if value is True:
        return {}
    if value is False:
        return None
    return {"fields": value} if isinstance(value, list) else value


def _checked_value(value: Any) -> Any:
    _compiled(value)
    return value


def _checked_template(text: str) -> str:
    whole = _template(text)
    for _, inside, _, _ in Formatter().parse(text):
        try:
            Expression(inside or "''")  # checked alone first, so that columns refer to the text in the braces
        except InvalidExpressionError as error:
            raise ValueError(f"not a template: in {{{inside}}}: {error}") from None
    try:
        Expression(whole)
    except InvalidExpressionError as error:  # its column refers to the compiled template
        raise ValueError(f"not a template: {re.sub(r' at column [0-9]+', '', str(error))}") from None
    return text


class MapActions(Params):
    """A group of actions, in the order in which they run."""

    flatten: Annotated[FlattenOptions | None, BeforeValidator(_flatten_options)] = Field(
        default=None,
        json_schema_extra={"anyOf": [{"type": "boolean"}, {"type": "array"}, {"type": "object"}]},
        description="Flatten mappings: `true` for all, or a list of fields; customer: {city: x} becomes "
        "customer_city: x",
    )
    rename: dict[str, str] = Field(default_factory=dict, description="New names of fields: {old: new}")
    parse: dict[str, Annotated[ParseAs, BeforeValidator(_spelled_out)]] = Field(
        default_factory=dict,
        description="Read texts: {payload: json, paid_on: {as: date, format: '%d.%m.%Y'}}",
    )
    default: dict[str, Any] = Field(
        default_factory=dict, description="Values of fields that are missing or null: {country: DE}"
    )
    cast: dict[str, CastType] = Field(default_factory=dict, description="Types of fields: {amount: float}")
    set: dict[str, Annotated[Any, AfterValidator(_checked_value)]] = Field(
        default_factory=dict,
        description="Fields by an expression: {total: quantity * price}; numbers, true, false, null, lists "
        "and mappings are constants, and so is a text in its own quotes: \"'web'\"",
    )
    template: dict[str, Annotated[str, AfterValidator(_checked_template)]] = Field(
        default_factory=dict, description='Texts with expressions in braces: {name: "{last}, {first}"}'
    )
    hash: list[str] | dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="SHA-256 of fields: a list hashes them in place, {id: [country, number]} makes a field",
    )
    drop: list[str] = Field(default_factory=list, description="Remove these fields")
    keep: list[str] = Field(default_factory=list, description="Remove all fields except these")

    @field_validator("rename")
    @classmethod
    def _distinct(cls, names: dict[str, str]) -> dict[str, str]:
        twice = [name for name in names.values() if list(names.values()).count(name) > 1]
        if twice:
            raise ValueError(f"two fields would be called `{twice[0]}`")
        return names

    def used(self) -> bool:
        """Whether any action is configured."""
        return self.flatten is not None or any(
            getattr(self, name) for name in MapActions.model_fields if name != "flatten"
        )

    def touches(self, name: str) -> bool:
        """Return whether an action may change, add or remove the field of this name."""
        if self.keep and name not in self.keep:
            return True
        changed = {*self.rename, *self.rename.values(), *self.parse, *self.cast, *self.set, *self.template}
        return name in {*changed, *self.default, *self.hash, *self.drop} or self.flatten is not None


def changes_of(actions: MapActions) -> Iterator[Change]:
    """Yield the changes of a group, in order."""
    if actions.flatten is not None:
        yield _flatten(actions.flatten)
    if actions.rename:
        yield _rename(actions.rename)
    if actions.parse:
        yield _read({name: _parser(how) for name, how in actions.parse.items()}, "ParseError")
    if actions.default:
        yield _default(actions.default)
    if actions.cast:
        yield _read({name: _CASTS[kind] for name, kind in actions.cast.items()}, "CastError")
    if actions.set:
        yield _set({name: _compiled(value) for name, value in actions.set.items()})
    if actions.template:
        yield _set({name: Expression(_template(text), text) for name, text in actions.template.items()})
    if actions.hash:
        yield _hash(actions.hash)
    if actions.drop:
        yield _drop(actions.drop)
    if actions.keep:
        yield _keep(actions.keep)


def fields_read(groups: Sequence[MapActions]) -> Iterator[tuple[str, ...]]:
    """Yield the paths of the fields that actions expect in the records, up to the first `flatten`."""
    made: set[str] = set()
    for group in groups:
        if group.flatten is not None:
            return
        made.update(group.default)  # fields with a default may be missing
        reads: list[tuple[Sequence[tuple[str, ...]], list[str]]] = [
            ([(name,) for name in group.rename], [*group.rename.values()]),
            ([(name,) for name in (*group.parse, *group.cast)], []),
            *((_compiled(value).fields, [name]) for name, value in group.set.items()),
            *((Expression(_template(text)).fields, [name]) for name, text in group.template.items()),
            *(([(one,) for one in _listed(given)], [name]) for name, given in _hashes(group.hash)),
            ([(name,) for name in (*group.drop, *group.keep)], []),
        ]
        for paths, names in reads:
            yield from (path for path in paths if path[0] not in made)
            made.update(names)


def _compiled(value: Any) -> Expression:
    """Compile the expression of a field; a value other than text is a constant."""
    if isinstance(value, date):
        value = value.isoformat()
    elif isinstance(value, str):
        return Expression(value)
    return Expression(repr(value))


def _template(text: str) -> str:
    """Compile a template: `{last}, {first}` means `join([last, ', ', first])`."""
    parts: list[str] = []
    try:
        for literal, inside, spec, conversion in Formatter().parse(text):
            if literal:
                parts.append(repr(literal))
            if inside is None:
                continue
            if not inside or conversion or (spec and not spec.isprintable()):
                raise ValueError("expected an expression in the braces, such as {name} or {price:.2f}")
            parts.append(f"f'{{({inside}):{spec}}}'" if spec else f"({inside})")
    except ValueError as error:
        raise ValueError(f"not a template: {error}") from None
    return f"join([{', '.join(parts)}])"


def _flatten(options: FlattenOptions) -> Change:
    def change(fields: Fields) -> Fields:
        return flattened(fields, options.fields, options.separator, options.depth)

    return change


def _rename(names: dict[str, str]) -> Change:
    def change(fields: Fields) -> Fields:
        # fields keep their position, as readers of the output expect
        if not any(old in fields for old in names):
            return fields
        renamed = {names.get(name, name): value for name, value in fields.items()}
        if len(renamed) < len(fields):
            raise RecordError(
                "rename: two fields would have the same name", kind="RenameError", unplanned=True
            )
        return renamed

    return change


def _default(values: dict[str, Any]) -> Change:
    def change(fields: Fields) -> Fields:
        for name, value in values.items():
            if fields.get(name) is None:
                fields[name] = value
        return fields

    return change


def _read(readers: dict[str, Callable[[Any], Any]], kind: str) -> Change:
    """Replace texts by their parsed values; a missing or null field does not change."""
    pairs = list(readers.items())

    def change(fields: Fields) -> Fields:
        name = ""
        try:
            for name, read in pairs:
                value = fields.get(name)
                if value is not None:
                    fields[name] = read(value)
        except (EvaluationError, ArithmeticError, ValueError) as error:
            reason = str(error) if isinstance(error, EvaluationError) else "the value does not fit"
            raise RecordError(f"field `{name}`: {reason}", kind=kind, unplanned=True) from None
        return fields

    return change


def _set(expressions: dict[str, Expression]) -> Change:
    assignments = Assignments(expressions)
    assign = assignments.function

    def change(fields: Fields) -> Fields:
        try:
            assign(fields)
        except Exception as error:  # noqa: BLE001 - operators of arbitrary values run here; `failure` names the place
            raise assignments.failure(error) from None
        return fields

    return change


def _hash(fields_of: list[str] | dict[str, str | list[str]]) -> Change:
    wanted = _hashes(fields_of)

    def change(fields: Fields) -> Fields:
        for name, given in wanted:
            try:
                if isinstance(given, str):
                    value = fields.get(given)
                    hashed = None if value is None else text_digest(value)
                else:
                    # as JSON, so that ["a", "bc"] and ["ab", "c"] differ
                    hashed = text_digest([fields.get(one) for one in given])
            except EvaluationError as error:
                raise RecordError(f"field `{name}`: {error}", kind="HashError", unplanned=True) from None
            if hashed is not None:
                fields[name] = hashed
        return fields

    return change


def _hashes(fields_of: list[str] | dict[str, str | list[str]]) -> list[tuple[str, str | list[str]]]:
    """Return each new field with the fields that it hashes."""
    return [(name, name) for name in fields_of] if isinstance(fields_of, list) else list(fields_of.items())


def _listed(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def _drop(names: list[str]) -> Change:
    def change(fields: Fields) -> Fields:
        for name in names:
            fields.pop(name, _NONE)
        return fields

    return change


def _keep(names: list[str]) -> Change:
    def change(fields: Fields) -> Fields:
        return {name: fields[name] for name in names if name in fields}

    return change


def _parser(how: ParseAs) -> Callable[[Any], Any]:
    if how.as_ == "json":
        return FUNCTIONS["from_json"]
    if how.as_ == "number":
        return lambda value: FUNCTIONS["number"](value, how.decimal)
    if how.as_ == "date":
        return lambda value: FUNCTIONS["date"](value, how.format)
    return lambda value: FUNCTIONS["datetime"](value, how.format, how.zone)


_CASTS: Final[dict[str, Callable[[Any], Any]]] = {
    "str": lambda value: value if isinstance(value, str) else FUNCTIONS["str"](value),
    "int": FUNCTIONS["int"],
    "float": FUNCTIONS["float"],
    "bool": FUNCTIONS["bool"],
    "date": FUNCTIONS["date"],
    "datetime": FUNCTIONS["datetime"],
    "json": FUNCTIONS["to_json"],
}
