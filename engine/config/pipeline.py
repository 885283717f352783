"""One pipeline of the file: its parameters, nodes, dead letters and settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from pydantic import BaseModel

from engine.config.interpolation import Scope, interpolate
from engine.config.model import (
    DeadLetterConfig,
    InputConfig,
    NodeConfig,
    NodeOptions,
    ParameterConfig,
    PipelineConfig,
    Settings,
)
from engine.config.overrides import Overrides, given_params
from engine.config.parameters import declare, known_values, resolve
from engine.config.problems import Problems, describe, nearest, unknown
from engine.config.sections import (
    DeadLetterSection,
    ForwardSection,
    NodeSection,
    PipelineSection,
    RetrySection,
)
from engine.config.shorthand import SHORTHANDS, expanded
from engine.config.validation import field_names, validate
from engine.config.values import Place, Value
from engine.contract.component import Kind

FORWARD_NODE: Final = "dead_letters.forward"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def check_name(what: str, name: str, place: Place, problems: Problems) -> None:
    """Report a name that cannot be used in `--set` and `--param`."""
    if not _NAME.fullmatch(name):
        message = f"{'an' if what[0] in 'aeiou' else 'a'} {what} cannot be called `{name}`"
        problems.add(place, message, "use letters, digits, _ and -, starting with a letter")


def without_nulls(section: Value, model: type[BaseModel]) -> Value:
    """Return the section without known keys that are null, so that their defaults apply."""
    known = field_names(model)
    return section.without(*(key for key, value in section.items() if value.data is None and key in known))


def read_pipeline(
    name: str,
    section: Value,
    scope: Scope,
    overrides: Overrides,
    problems: Problems,
    *,
    known: Mapping[str, str],
) -> PipelineConfig | None:
    """Check one pipeline of the section `pipelines:`; return None when it is unreadable.

    Args:
        known: the actual name of every pipeline, by name and by alias.
    """
    place, value = section.key_place(name), section.data[name]
    check_name("pipeline", name, place, problems)
    if not value.is_mapping:
        problems.add(value.place, f"expected a mapping with `nodes`, got {describe(value)}")
        return None
    value = without_nulls(value, PipelineSection)
    parameters, values = _read_parameters(name, value, scope, overrides, problems)
    inside = interpolate(value.without("params"), replace(scope, params=values), problems)
    options = validate(PipelineSection, inside, problems)
    for key in ("on_complete", "on_cancel", "on_failure"):
        _check_followers(name, inside.get(key), known, problems)
    nodes, unreadable = _read_nodes(inside, place, problems)
    return PipelineConfig(
        name=name,
        nodes=nodes,
        unreadable=unreadable,
        parameters=MappingProxyType(parameters),
        values=MappingProxyType(known_values(values)),
        dead_letters=_read_dead_letters(inside.get("dead_letters"), problems),
        settings=_with_own_names(options.settings(), known) if options else Settings(),
        place=place,
    )


def _with_own_names(settings: Settings, names: Mapping[str, str]) -> Settings:
    def own(given: Iterable[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names.get(name, name) for name in given))

    return replace(
        settings,
        on_complete=own(settings.on_complete),
        on_cancel=own(settings.on_cancel),
        on_failure=own(settings.on_failure),
    )


def _check_followers(name: str, value: Value | None, known: Mapping[str, str], problems: Problems) -> None:
    """Check that `on_complete`, `on_cancel` and `on_failure` name other pipelines of the file."""
    if value is None:
        return
    for item in value.data if value.is_list else [value]:
        if isinstance(item.data, str) and known.get(item.data) == name:
            problems.add(item.place, f"`{name}` cannot follow itself", "use `schedule` to run it again")
        elif isinstance(item.data, str) and item.data not in known:
            problems.add(item.place, unknown("pipeline", item.data, known))


def _read_parameters(
    name: str, value: Value, scope: Scope, overrides: Overrides, problems: Problems
) -> tuple[dict[str, ParameterConfig], dict[str, Value]]:
    section = value.get("params")
    if section is not None and not section.is_mapping:
        problems.add(section.place, f"expected a mapping of parameters, got {describe(section)}")
        section = None
    declared = declare(interpolate(section, scope, problems), problems) if section else {}
    for parameter in declared.values():
        check_name("parameter", parameter.name, parameter.place, problems)
    given = given_params(overrides, name, declared, problems)
    return declared, resolve(name, declared, given, problems)


def _read_nodes(
    pipeline: Value, place: Place, problems: Problems
) -> tuple[tuple[NodeConfig, ...], frozenset[str]]:
    section = pipeline.get("nodes")
    if section is None or section.data == {}:
        problems.add(place, "no nodes defined", "start with a source: nodes: {read: {source: …}}")
        return (), frozenset()
    nodes: list[NodeConfig] = []
    unreadable: set[str] = set()
    above: str | None = None
    for name, value in section.items():
        check_name("node", name, section.key_place(name), problems)
        node = _read_node(name, value, section.key_place(name), above, problems)
        if node is not None:
            nodes.append(node)
        if node is None or not _has_readable_input(node, value, above):
            unreadable.add(name)
        above = name
    return tuple(nodes), frozenset(unreadable)


def _has_readable_input(node: NodeConfig, value: Value, above: str | None) -> bool:
    """Return False when the input was reported as wrong, so that the graph is not checked with it."""
    given = value.get("input")
    if node.kind is Kind.SOURCE or node.inputs:
        return True
    return above is not None if given is None else given.is_list and not given.any_failed()


def _read_node(
    name: str, value: Value, place: Place, above: str | None, problems: Problems
) -> NodeConfig | None:
    if not value.is_mapping:
        message = f"expected a mapping such as {{source: blob}}, got {describe(value)}"
        problems.add(value.place, message)
        return None
    empty = [one for one, given in value.items() if one in (*Kind, *SHORTHANDS) and given.data is None]
    value = expanded(value, place, problems)
    if value.failed:
        return None
    value = without_nulls(value, NodeSection)
    section = validate(NodeSection, value, problems)
    kinds = [kind for kind in Kind if value.get(kind) is not None]
    if not kinds and any(nearest(name, list(Kind)) for name, _ in value.items()):
        return None  # a misspelt name: the report of the unknown key is enough
    if len(kinds) != 1:
        have = " and ".join(f"`{kind}`" for kind in kinds)
        message = "one of `source`, `transform`, `sink` is required"
        if kinds or empty:
            message = f"a node can have only one kind, not {have}" if kinds else f"`{empty[0]}` has no value"
        problems.add(place, message)
        return None
    if kinds[0] is Kind.SOURCE and section is not None and section.on_error not in (None, "stop"):
        message = "a source that fails stops the run: it cannot continue after the record that failed"
        problems.add(value.key_place("on_error"), message, "handle the error in the source")
    component = value.get(kinds[0])
    if component is None or not isinstance(component.data, str):
        return None
    return NodeConfig(
        name=name,
        kind=kinds[0],
        component=component.data,
        arguments=value.get("with") or Value({}, place.at("with")),
        inputs=_read_inputs(name, kinds[0], value, place, above, problems),
        options=section.options() if section else NodeOptions(),
        place=place,
        component_place=component.place,
    )


def _read_inputs(
    name: str, kind: Kind, value: Value, place: Place, above: str | None, problems: Problems
) -> tuple[InputConfig, ...]:
    given = value.get("input")
    if kind is Kind.SOURCE:
        if given is not None:
            problems.add(value.key_place("input"), "a source takes no `input`")
        return ()
    if given is None:
        if above is None:
            message = f"the {kind} `{name}` comes first, so it has no input"
            problems.add(place, message, "put a source above it, or name its input: input: other_node")
            return ()
        return (InputConfig(above, place),)
    if isinstance(given.data, str):
        return (_input(given.data, given.place),)
    items = given.data if given.is_list else []
    inputs: dict[str, InputConfig] = {}
    for item in items:
        if isinstance(item.data, str) and item.data in inputs:
            problems.add(item.place, f"`{item.data}` is named twice")
        elif isinstance(item.data, str):
            inputs[item.data] = _input(item.data, item.place)
    return tuple(inputs.values())


def _input(text: str, place: Place) -> InputConfig:
    """Parse `node` or `node.branch`."""
    name, _, branch = text.partition(".")
    return InputConfig(name, place, branch)


def _read_dead_letters(value: Value | None, problems: Problems) -> DeadLetterConfig:
    if value is None or not value.is_mapping:
        return DeadLetterConfig()
    value = without_nulls(value, DeadLetterSection)
    section = validate(DeadLetterSection, value, problems)
    forward = value.get("forward")
    node = _read_forward(forward, problems) if forward is not None and forward.is_mapping else None
    if section is None or section.max is None:
        return DeadLetterConfig(forward=node)
    if isinstance(section.max, int):
        return DeadLetterConfig(max_count=section.max, forward=node)
    return DeadLetterConfig(max_share=section.max, forward=node)


def _read_forward(value: Value, problems: Problems) -> NodeConfig | None:
    value = without_nulls(value, ForwardSection)
    section = validate(ForwardSection, value, problems)
    component = value.get("sink")
    if component is None or not isinstance(component.data, str):
        return None
    retry = section.retry if section else RetrySection()
    return NodeConfig(
        name=FORWARD_NODE,
        kind=Kind.SINK,
        component=component.data,
        arguments=value.get("with") or Value({}, value.place.at("with")),
        options=NodeOptions(retry=retry.options()),
        place=value.place,
        component_place=component.place,
    )
