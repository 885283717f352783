"""Run parameters: their declaration, and the values given for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from engine.config.model import ParameterConfig, ParamType
from engine.config.problems import Problems, describe, listed, nearest
from engine.config.sections import ParameterSection
from engine.config.validation import validate
from engine.config.values import Place, Plain, Value, from_plain
from engine.config.yaml_document import parse_scalar
from engine.contract.types import JsonValue

_SYNONYMS: Final[Mapping[str, ParamType]] = MappingProxyType(
    {
        **{str(member): member for member in ParamType},
        "str": ParamType.STRING,
        "text": ParamType.STRING,
        "integer": ParamType.INT,
        "number": ParamType.FLOAT,
        "boolean": ParamType.BOOL,
        "array": ParamType.LIST,
        "dict": ParamType.MAPPING,
        "object": ParamType.MAPPING,
    }
)
_NOUNS: Final[Mapping[ParamType, str]] = MappingProxyType(
    {
        ParamType.STRING: "text",
        ParamType.INT: "an integer",
        ParamType.FLOAT: "a number",
        ParamType.BOOL: "true or false",
        ParamType.LIST: "a list",
        ParamType.MAPPING: "a mapping",
    }
)


def declare(section: Value, problems: Problems) -> dict[str, ParameterConfig]:
    """Read the parameters under `params:`; report invalid declarations and treat them as nullable text."""
    declared: dict[str, ParameterConfig] = {}
    for name, value in section.items():
        place = section.key_place(name)
        if value.is_mapping:
            declared[name] = _spelled_out(name, value, place, problems)
        else:
            declared[name] = _from_default(name, value, place)
    return declared


def _from_default(name: str, value: Value, place: Place) -> ParameterConfig:
    nullable = value.data is None
    type_ = ParamType.STRING if nullable else _type_of(value.data)
    return ParameterConfig(name, type_, default=value, nullable=nullable, place=place)


def _spelled_out(name: str, value: Value, place: Place, problems: Problems) -> ParameterConfig:
    broken = ParameterConfig(
        name, ParamType.STRING, default=replace(value, data=None, failed=True), nullable=True, place=place
    )
    section = validate(ParameterSection, value, problems)
    if section is None:
        return broken
    default = value.get("default")
    if section.required and default is not None:
        problems.add(value.key_place("required"), "a required parameter cannot have a `default`")
        return broken
    if section.type is not None and section.type not in _SYNONYMS:
        near = nearest(section.type, _SYNONYMS)
        hint = f", did you mean `{near}`?" if near else f", known: {listed(ParamType)}"
        problems.add(value.key_place("type"), f"unknown type `{section.type}`{hint}")
        return broken
    type_ = _SYNONYMS[section.type] if section.type else _type_of(default.data if default else None)
    default = default or (None if section.required else Value(None, value.place))
    parameter = ParameterConfig(
        name,
        type_,
        default=default,
        required=section.required,
        nullable=not section.required and (default is None or default.data is None),
        choices=tuple(section.choices),
        description=section.description,
        place=place,
    )
    return replace(parameter, default=_checked(parameter, default, "", problems)) if default else parameter


def _type_of(data: Plain) -> ParamType:
    for kind, type_ in (
        (bool, ParamType.BOOL),
        (int, ParamType.INT),
        (float, ParamType.FLOAT),
        (list, ParamType.LIST),
        (dict, ParamType.MAPPING),
    ):
        if isinstance(data, kind):
            return type_
    return ParamType.STRING


def from_text(parameter: ParameterConfig, text: str, place: Place) -> Value:
    """Convert a value given as text on the command line.

    Text parameters are used verbatim, except for `null` and `~`; other types are read as YAML.
    """
    scalar = parse_scalar(text)
    stands_for_null = scalar is None and (parameter.nullable or text.strip())
    if parameter.type is ParamType.STRING and not stands_for_null:
        return Value(text, place)
    if parameter.type is ParamType.LIST and isinstance(scalar, str):
        return from_plain([parse_scalar(part) for part in text.split(",")], place)
    return Value(scalar, place)


def resolve(
    pipeline: str, declared: Mapping[str, ParameterConfig], given: Mapping[str, Value], problems: Problems
) -> dict[str, Value]:
    """Return the value of each parameter: the given one, else its default.

    null means the default if the parameter does not allow null. A missing or invalid value is reported, and
    marked `failed`.
    """
    values: dict[str, Value] = {}
    for name, parameter in declared.items():
        stands_for_default = name in given and given[name].data is None and not parameter.nullable
        if name in given and not (stands_for_default and parameter.default is not None):
            values[name] = _checked(parameter, given[name], f"parameter `{name}` of `{pipeline}`: ", problems)
        elif parameter.default is not None:
            values[name] = parameter.default
        else:
            hint = f"give --param {pipeline}.{name}=…"
            problems.add(parameter.place, f"parameter `{name}` of `{pipeline}` is required", hint)
            values[name] = Value(None, parameter.place, failed=True)
    return values


def known_values(values: Mapping[str, Value]) -> dict[str, JsonValue]:
    """Return the values that may be stored: those without data from the environment or files."""
    return {
        name: _json_safe(value.plain())
        for name, value in values.items()
        if not value.failed and not value.secrets()
    }


def _json_safe(data: Plain) -> JsonValue:
    if isinstance(data, dict):
        return {key: _json_safe(item) for key, item in data.items()}
    if isinstance(data, list):
        return [_json_safe(item) for item in data]
    return data if data is None or isinstance(data, bool | int | float | str) else str(data)


def _checked(parameter: ParameterConfig, value: Value, what: str, problems: Problems) -> Value:
    if value.failed:
        return value
    if value.data is None and parameter.nullable:
        return value
    fitting, data = _coerce(parameter.type, value)
    if not fitting:
        problems.add(value.place, f"{what}expected {_NOUNS[parameter.type]}, got {describe(value)}")
        return replace(value, data=None, failed=True)
    value = replace(value, data=data)
    if parameter.choices and value.plain() not in parameter.choices:
        known = [str(choice) for choice in parameter.choices]
        near = difflib.get_close_matches(str(value.data), known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else ""
        problems.add(value.place, f"{what}expected one of {listed(known)}, got {describe(value)}", hint)
        return replace(value, data=None, failed=True)
    return value


def _coerce(type_: ParamType, value: Value) -> tuple[bool, Plain]:
    """Return whether the value has the type, and the converted value. Text of `${NAME:-5}` is parsed."""
    data = value.data
    if isinstance(data, str) and type_ is not ParamType.STRING:
        data = parse_scalar(data)
    if type_ is ParamType.FLOAT and isinstance(data, int) and not isinstance(data, bool):
        return True, float(data)
    if type_ is ParamType.STRING:
        return isinstance(data, str), data
    return data is not None and _type_of(data) is type_, data
