"""List the installed components, or show one with its parameters and its connection.

python -m engine connectors list
python -m engine connectors show sink.ingest
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from engine.cli.arguments import add_options
from engine.cli.options import ConnectorsOptions

if TYPE_CHECKING:
    from pydantic import BaseModel

    from engine.contract.component import ComponentSpec
    from engine.registry import Registry

Schema: TypeAlias = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the verb."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|show")
    listing = actions.add_parser("list", help="list all components, one per line")
    add_options(listing, ConnectorsOptions, "json")
    showing = actions.add_parser("show", help="show one component")
    add_options(showing, ConnectorsOptions, "name", json="print one JSON object with its schemas")


def execute(options: ConnectorsOptions) -> int:
    """Print the requested components."""
    from engine.registry import Registry

    registry = Registry.installed()
    if options.action == "list":
        _list(registry, as_json=options.json)
    else:
        specs = _find(registry, options.name)
        if options.json:
            import json

            sys.stdout.write(json.dumps([_as_json(spec) for spec in specs], indent=2) + "\n")
        else:
            sys.stdout.write("\n".join(_page(spec) for spec in specs))
    return 0


def _list(registry: Registry, *, as_json: bool) -> None:
    from engine.cli.display.table import terminal_width, with_hanging_text
    from engine.errors import RegistryError

    rows: list[tuple[str, str, str]] = []
    for kind, name in registry.names():
        try:
            rows.append((str(kind), name, registry.get(kind, name).summary))
        except RegistryError as error:
            rows.append((str(kind), name, f"(not usable: {error})"))
    if as_json:
        import json

        found = [dict(zip(("kind", "name", "summary"), row, strict=True)) for row in rows]
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    sys.stdout.write("".join(f"{line}\n" for line in with_hanging_text(rows, terminal_width())))


def _find(registry: Registry, wanted: str) -> list[ComponentSpec]:
    """By `name`, `kind.name` or `package.module:name`.

    Raises:
        ConfigError: there is none; the message suggests the nearest name.
        RegistryError: a module that it imports is not installed.
    """
    from engine.config.problems import unknown
    from engine.errors import ConfigError
    from engine.registry import find_modules_beside

    if ":" in wanted:
        find_modules_beside(".")
        return [registry.dotted(wanted)]
    known = registry.names()
    found = [(kind, name) for kind, name in known if wanted in (name, f"{kind}.{name}")]
    if not found:
        raise ConfigError(unknown("component", wanted, dict.fromkeys(name for _, name in known)))
    return [registry.get(kind, name) for kind, name in found]


def _page(spec: ComponentSpec) -> str:
    lines = [f"{spec.kind} {spec.name}", "", spec.description.rstrip(), ""]
    lines += ["with:", *_fields(spec.params, spec.operational_params())]
    if spec.connection is not None:
        lines += ["", "connection:", *_fields(spec.connection, frozenset())]
        if spec.sandbox:
            lines.append("  (or the word `sandbox` for the embedded service)")
    if spec.extra:
        from engine.extras import install_command

        lines += ["", f"needs: {install_command([spec.extra])}"]
    return "\n".join(lines) + "\n"


def _fields(model: type[BaseModel], operational: frozenset[str]) -> Iterator[str]:
    schema = model.model_json_schema(by_alias=True)
    if not schema.get("properties"):
        yield "  nothing"
    yield from _keys(schema, schema, {model.model_fields[name].alias or name for name in operational})


def _keys(
    mapping: Schema, schema: Schema, changeable: Collection[str] = (), indent: str = "  "
) -> Iterator[str]:
    """Yield the keys of a mapping, and below each one those of the mappings that it may be.

    A key with a single value, such as `type`, comes first: it names the alternative.
    """
    required = set(mapping.get("required", ()))
    for name, part in sorted(mapping.get("properties", {}).items(), key=lambda item: "const" not in item[1]):
        notes = [_type(part, schema)]
        if name in required and "const" not in part:
            notes.append("required")
        elif "default" in part:
            notes.append(f"default {_value(part['default'])}")
        if name in changeable:
            notes.append("may change between attempts of a run")
        yield f"{indent}{name}  ({', '.join(notes)})"
        if part.get("description"):
            yield f"{indent}    {part['description']}"
        if len(indent) == 2:  # deeper ones would hide the others
            for inner in _mappings(part, schema):
                if not inner["properties"].keys() <= mapping["properties"].keys():  # as in `steps` of `map`
                    yield from _keys(inner, schema, indent=" " * 6)


def _mappings(part: Schema, schema: Schema) -> Iterator[Schema]:
    """Yield the mappings with declared keys that a value may be, or may be a list of."""
    part = _resolved(part, schema)
    if "properties" in part:
        yield part
    for choice in filter(None, (*_choices(part), part.get("items"))):
        yield from _mappings(choice, schema)


def _resolved(part: Schema, schema: Schema) -> Schema:
    reference = part.get("$ref")
    return part if reference is None else schema["$defs"][reference.rpartition("/")[2]]


def _choices(part: Schema) -> list[Schema]:
    return [choice for key in ("anyOf", "oneOf", "allOf") for choice in part.get(key, ())]


def _type(part: Schema, schema: Schema) -> str:
    """A JSON Schema type in words."""
    part = _resolved(part, schema)
    if isinstance(part.get("enum"), list):
        return " | ".join(_value(choice) for choice in part["enum"])
    if "const" in part:
        return _value(part["const"])
    if choices := _choices(part):
        return " | ".join(dict.fromkeys(_type(choice, schema) for choice in choices))
    if part.get("format") == "password":
        return "secret"
    items = part.get("items")
    if part.get("type") == "array" and isinstance(items, dict):
        return f"list of {_type(items, schema)}"
    return str(part.get("type", "any"))


def _value(value: object) -> str:
    import json

    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _as_json(spec: ComponentSpec) -> dict[str, object]:
    return {
        "name": spec.name,
        "kind": str(spec.kind),
        "summary": spec.summary,
        "description": spec.description,
        "params": spec.params.model_json_schema(),
        "operational": sorted(spec.operational_params()),
        "connection": spec.connection.model_json_schema() if spec.connection else None,
        "sandbox": spec.sandbox or None,
        "extra": spec.extra or None,
    }
