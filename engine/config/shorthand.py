"""The short forms of nodes: `filter: "amount > 0"` is `transform: filter, with: {where: "amount > 0"}`.

They exist for built-in transforms. The value is either a mapping, which is the whole of `with`, or the
transform's one required parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from engine.config.problems import Problems
from engine.config.values import Place, Value
from engine.contract.component import Kind

SHORTHANDS: Final[Mapping[str, str]] = {
    "filter": "where",
    "map": "steps",
    "route": "branches",
    "explode": "field",
    "deduplicate": "key",
    "validate": "schema",
    "mask": "fields",
    "sql": "query",
    "enrich": "file",
}
"""The transforms with a short form, and the parameter that a value other than a mapping sets."""


def expanded(node: Value, place: Place, problems: Problems) -> Value:
    """Return a node with its short form spelled out, or unchanged without one."""
    short = [name for name, value in node.items() if name in SHORTHANDS and value.data is not None]
    if not short:
        return node
    kinds = [*(str(kind) for kind in Kind if node.get(kind) is not None), *short]
    if len(kinds) > 1:
        have = " and ".join(f"`{kind}`" for kind in kinds)
        problems.add(place, f"a node can have only one kind, not {have}")
        return replace(node, data=None, failed=True)
    name = short[0]
    given, more = node.data[name], node.get("with")
    if not given.is_mapping:
        given = Value({SHORTHANDS[name]: given}, given.place, {SHORTHANDS[name]: given.place})
    elif more is not None and more.data:
        message = f"`with` next to a mapping under `{name}`"
        problems.add(node.key_place("with"), message, f"write all of it under `{name}`")
    if more is not None and more.is_mapping:
        given = replace(given, data={**more.data, **given.data}, keys={**more.keys, **given.keys})
    rest = {key: value for key, value in node.items() if key not in (name, "with")}
    component = Value(name, node.key_place(name))
    return replace(node, data={"transform": component, **rest, "with": given})
