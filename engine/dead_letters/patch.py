"""Patch records before a replay: `field=value` and `field~regex~replacement`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from engine.contract.types import JsonValue
from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Patch:
    """One change.

    Args:
        field: a field's name, with dots for nested fields (`address.city`).
        value: the new value as text; used when there is no `pattern`.
        pattern: a Python regular expression, searched for in the field's text.
        replacement: replaces every match; `\\1` inserts a group.
    """

    field: str
    value: str = ""
    pattern: re.Pattern[str] | None = None
    replacement: str = ""


def parse_patch(text: str) -> Patch:
    """Parse `field=value` or `field~regex~replacement`; the first of `=` and `~` decides.

    Raises:
        ConfigError: it is neither, or the regular expression is not valid.
    """
    found = re.match(r"([^=~]+)([=~])(.*)", text, re.DOTALL)
    if found is None:
        raise ConfigError(f"--patch: cannot parse {text!r}; write FIELD=VALUE or FIELD~REGEX~REPLACEMENT")
    field, sign, rest = found[1].strip(), found[2], found[3]
    if sign == "=":
        return Patch(field, value=rest)
    regex, separator, replacement = rest.partition("~")
    if not separator:
        raise ConfigError(f"--patch: {text!r} lacks the second `~`; write FIELD~REGEX~REPLACEMENT")
    try:
        pattern = re.compile(regex)
        pattern.sub(replacement, "")
    except re.error as error:
        raise ConfigError(f"--patch: {regex!r} is not a valid regular expression: {error}") from None
    return Patch(field, pattern=pattern, replacement=replacement)


def apply_patches(record: JsonValue, patches: Sequence[Patch]) -> JsonValue:
    """Return a copy of the record with all patches applied in order.

    If the field holds text, the new value is text; otherwise it is parsed as JSON (`12`, `true`, `null`,
    `["a"]`), or is text if it is not JSON. `field=value` adds a missing field; a regular expression ignores
    it. A record that is not a mapping is returned unchanged.
    """
    for patch in patches:
        record = _patched(record, _steps(record, patch.field), patch)
    return record


def _steps(record: JsonValue, field: str) -> list[str]:
    """Return the path to a field; a field whose own name has dots takes precedence."""
    return [field] if isinstance(record, dict) and field in record else field.split(".")


def _patched(target: JsonValue, steps: list[str], patch: Patch) -> JsonValue:
    if not isinstance(target, dict):
        return target
    first, rest = steps[0], steps[1:]
    present = target.get(first)
    if rest:
        if present is None and patch.pattern is not None:
            return target
        below = {} if present is None else present
        return {**target, first: _patched(below, rest, patch)}
    if patch.pattern is None:
        return {**target, first: patch.value if isinstance(present, str) else _read(patch.value)}
    if not isinstance(present, str):
        return target
    return {**target, first: patch.pattern.sub(patch.replacement, present)}


def _read(text: str) -> JsonValue:
    try:
        return json.loads(text)
    except ValueError:
        return text
