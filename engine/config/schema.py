"""The JSON Schema of the file, for editors: completion, descriptions and checks while typing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from engine.config.model import SANDBOX
from engine.config.sections import (
    DeadLetterSection,
    FileSection,
    ForwardSection,
    NodeSection,
    ParameterSection,
    PipelineSection,
)
from engine.config.shorthand import SHORTHANDS
from engine.contract.component import ComponentSpec, Kind
from engine.contract.types import JsonValue
from engine.errors import RegistryError
from engine.registry import Registry

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]

_INTERPOLATED: Final[Schema] = {"$ref": "#/$defs/interpolated"}
_NAME_PATTERN: Final = "^[A-Za-z_][A-Za-z0-9_-]*$"


def file_schema(registry: Registry) -> JsonValue:
    """Return the JSON Schema with the parameters of every importable component.

    Text with `${…}` is allowed in place of any other type.
    """
    definitions: Schema = {
        "interpolated": {"type": "string", "pattern": r"\$\{", "description": "A value with ${…} in it"}
    }
    specs = _specs(registry)
    definitions["parameter"] = _parameter(definitions)
    definitions["node"] = {
        "anyOf": [
            *(_node(spec, definitions) for spec in specs),
            *(
                _short(spec, definitions)
                for spec in specs
                if spec.kind is Kind.TRANSFORM and spec.name in SHORTHANDS
            ),
            _foreign(definitions),
        ]
    }
    definitions["forward"] = {
        "anyOf": [_forward(spec, definitions) for spec in specs if spec.kind is Kind.SINK]
        + [_section(ForwardSection, definitions)]
    }
    dead_letters = _section(DeadLetterSection, definitions)
    dead_letters["properties"]["forward"] = {"$ref": "#/$defs/forward"}
    definitions["dead_letters"] = dead_letters
    definitions["pipeline"] = _pipeline(definitions)
    root = _section(FileSection, definitions)
    root["properties"]["version"] = {"const": 1, "description": "The version of the format"}
    root["properties"]["connections"] = _connections(specs, definitions)
    root["properties"]["pipelines"] = _named({"$ref": "#/$defs/pipeline"}, "The pipelines by name")
    root["required"] = ["pipelines"]
    root["patternProperties"] = {"^x-": {}}
    return {"$schema": DIALECT, "title": "Pipelines", **root, "$defs": definitions}


def _specs(registry: Registry) -> list[ComponentSpec]:
    specs = []
    for kind, name in registry.names():
        try:
            specs.append(registry.get(kind, name))
        except RegistryError:  # its extra is not installed; `_foreign` lets its name pass
            continue
    return specs


def _section(model: type[BaseModel], definitions: Schema, name: str = "") -> Schema:
    """Return a model's schema, with its definitions moved to the file's and text with `${…}` allowed."""
    name = name or model.__name__
    schema = model.model_json_schema(by_alias=True, ref_template=f"#/$defs/{name}.{{model}}")
    for inner_name, inner in schema.pop("$defs", {}).items():
        definitions[f"{name}.{inner_name}"] = _lenient(inner)
    return _lenient(schema)


def _lenient(schema: Schema) -> Schema:
    schema = {key: value for key, value in schema.items() if key not in ("title", "operational")}
    properties: Mapping[str, Schema] = schema.get("properties", {})
    if properties:
        schema["properties"] = {name: _allowing_text(part) for name, part in properties.items()}
    return schema


def _allowing_text(part: Schema) -> Schema:
    part = {
        key: value
        for key, value in part.items()
        if key not in ("title", "operational", "writeOnly", "format")
    }
    if (
        part.get("type") == "string"
        and not {"enum", "pattern", "const", "minLength", "maxLength"} & part.keys()
    ):
        return part
    if not part.keys() - {"description", "default"}:
        return part  # anything goes
    outside: Schema = {key: part.pop(key) for key in ("description", "default") if key in part}
    return {"anyOf": [part, _INTERPOLATED, {"type": "null"}], **outside}


def _arguments(spec: ComponentSpec, definitions: Schema) -> Schema:
    name = f"{spec.kind}.{spec.name}"
    if name not in definitions:
        schema = _section(spec.params, definitions, name)
        schema["description"] = spec.summary
        if spec.connection is not None:
            connection = {"type": "string", "description": "An entry of `connections`"}
            schema.setdefault("properties", {})["connection"] = connection
        definitions[name] = schema
    return {"$ref": f"#/$defs/{name}"}


def _node(spec: ComponentSpec, definitions: Schema) -> Schema:
    schema = _section(NodeSection, definitions)
    others = [str(kind) for kind in Kind if kind is not spec.kind]
    return _for_component(schema, spec, definitions, drop=[*others, *SHORTHANDS])


def _short(spec: ComponentSpec, definitions: Schema) -> Schema:
    """Return the schema of a node in its short form, `filter: "amount > 0"`."""
    schema = _section(NodeSection, definitions)
    properties = {
        name: part for name, part in schema["properties"].items() if name not in {*Kind, *SHORTHANDS}
    }
    whole = spec.params.model_json_schema(by_alias=True)["properties"]
    alone = {"type": ["string", "array"]} if SHORTHANDS[spec.name] in whole else {"type": "string"}
    properties[spec.name] = {"anyOf": [_arguments(spec, definitions), alone], "description": spec.summary}
    return {**schema, "description": spec.summary, "properties": properties, "required": [spec.name]}


def _forward(spec: ComponentSpec, definitions: Schema) -> Schema:
    return _for_component(_section(ForwardSection, definitions), spec, definitions, drop=[])


def _for_component(schema: Schema, spec: ComponentSpec, definitions: Schema, drop: list[str]) -> Schema:
    properties = {name: part for name, part in schema["properties"].items() if name not in drop}
    properties[str(spec.kind)] = {"const": spec.name, "description": spec.summary}
    properties["with"] = _arguments(spec, definitions)
    needs_arguments = any(info.is_required() for info in spec.params.model_fields.values())
    required = [str(spec.kind), *(["with"] if needs_arguments else [])]
    return {**schema, "description": spec.summary, "properties": properties, "required": required}


def _foreign(definitions: Schema) -> Schema:
    """Return the schema of a node whose component is `package.module:Class`, or a `${…}`."""
    schema = _section(NodeSection, definitions)
    foreign = {"type": "string", "pattern": r":|\$\{"}
    schema["properties"] |= {str(kind): foreign for kind in Kind}
    for name in SHORTHANDS:
        del schema["properties"][name]
    return {**schema, "anyOf": [{"required": [str(kind)]} for kind in Kind]}


def _parameter(definitions: Schema) -> Schema:
    plain = {"type": ["string", "number", "boolean", "null", "array"]}
    return {"anyOf": [plain, _section(ParameterSection, definitions)]}


def _pipeline(definitions: Schema) -> Schema:
    schema = _section(PipelineSection, definitions)
    schema["properties"] |= {
        "params": _named({"$ref": "#/$defs/parameter"}, "Run parameters: `name: default`, or spelled out"),
        "nodes": _named({"$ref": "#/$defs/node"}, "The nodes in order"),
        "dead_letters": {"$ref": "#/$defs/dead_letters"},
    }
    return {**schema, "required": ["nodes"]}


def _connections(specs: list[ComponentSpec], definitions: Schema) -> Schema:
    fields: list[Schema] = [{"const": SANDBOX}]
    for model in dict.fromkeys(spec.connection for spec in specs if spec.connection is not None):
        name = f"connection.{model.__name__}"
        schema = _section(model, definitions)
        schema["properties"] = {
            key: {"anyOf": [{"const": SANDBOX}, *(part.get("anyOf") or [part])]}
            | ({"description": part["description"]} if "description" in part else {})
            for key, part in schema["properties"].items()
        }
        schema.pop("required", None)  # a sandbox needs none of them
        definitions[name] = schema
        fields.append({"$ref": f"#/$defs/{name}"})
    return _named({"anyOf": [*fields, {"type": "object"}]}, "External services by name")


def _named(schema: Schema, description: str) -> Schema:
    names = {"pattern": _NAME_PATTERN}
    return {
        "type": ["object", "null"],
        "description": description,
        "propertyNames": names,
        "additionalProperties": schema,
    }
