"""Overrides by the command line and callers: `--param pipeline.name=value` and `--set path=value`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from engine.config.model import ParameterConfig
from engine.config.parameters import from_text
from engine.config.problems import Problems, describe, unknown
from engine.config.values import Place, Value, from_plain
from engine.config.yaml_document import parse_scalar, parse_yaml
from engine.contract.types import JsonValue
from engine.errors import ConfigError

# Levels with user-defined names: assigning below a name that does not exist is a mistake.
_NAMED: Final = (("pipelines",), ("connections",), ("pipelines", "*", "nodes"))
_SINGULAR: Final = MappingProxyType({"pipelines": "pipeline", "connections": "connection", "nodes": "node"})


@dataclass(frozen=True, slots=True)
class Overrides:
    """Changes to a file.

    Args:
        params: run parameters by pipeline and name, as values.
        param_texts: the same as `pipeline.name=value` texts, converted to the parameter's type.
        assignments: `dotted.path=value` texts; the value is read as a YAML scalar, `[…]` or `{…}`.
    """

    params: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=lambda: MappingProxyType({}))
    param_texts: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()


def apply_assignments(root: Value, texts: Iterable[str], problems: Problems) -> Value:
    """Apply each `dotted.path=value` to the document. Later ones win."""
    for text in texts:
        path, equals, value_text = text.partition("=")
        steps = _through_alias(root, path.strip().split("."))
        place = Place("--set", path=path.strip())
        if not equals or not all(steps):
            problems.add(place, f"cannot parse `{text}`", "write --set dotted.path=value")
            continue
        if _names_exist(root, steps, place, problems):
            root = _assigned(root, steps, _read(value_text, place), place, problems)
    return root


def _through_alias(root: Value, steps: list[str]) -> list[str]:
    """Return the path with an alias replaced by the pipeline's own name."""
    section = root.get("aliases")
    own = section.get(steps[1]) if section and steps[0] == "pipelines" and len(steps) > 1 else None
    return [steps[0], own.data, *steps[2:]] if own is not None and isinstance(own.data, str) else steps


def _read(text: str, place: Place) -> Value:
    if text.lstrip()[:1] in ("[", "{"):
        try:
            parsed = parse_yaml(text, place.file, path=place.path)
        except ConfigError:
            return Value(text, place)
        return from_plain(parsed.plain(), place) if parsed else Value(None, place)
    return Value(parse_scalar(text), place)


def _names_exist(root: Value, steps: list[str], place: Place, problems: Problems) -> bool:
    for depth in range(1, len(steps)):
        above = steps[:depth]
        if not any(
            len(level) == depth and all(a in ("*", b) for a, b in zip(level, above, strict=True))
            for level in _NAMED
        ):
            continue
        found: Value | None = root
        for step in above:
            found = found.get(step) if found else None
        known = [name for name, _ in found.items()] if found else []
        if steps[depth] not in known:
            problems.add(place, unknown(_SINGULAR[above[-1]], steps[depth], known))
            return False
    return True


def _assigned(target: Value, steps: list[str], value: Value, place: Place, problems: Problems) -> Value:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if target.is_list:
        if not step.isdigit() or int(step) >= len(target.data):
            problems.add(place, f"`{step}` is not an index of the list", "indexes start at 0")
            return target
        items = list(target.data)
        items[int(step)] = _assigned(items[int(step)], rest, value, place, problems)
        return replace(target, data=items)
    if target.data is not None and not target.is_mapping:
        problems.add(place, f"cannot set `{step}`: its parent is {describe(target)}, not a mapping")
        return target
    below = target.get(step) or Value(None, place)
    items_by_key = {**dict(target.items()), step: _assigned(below, rest, value, place, problems)}
    return replace(target, data=items_by_key, keys={step: place, **target.keys})


def check_param_names(overrides: Overrides, pipelines: Iterable[str], problems: Problems) -> None:
    """Report parameters of pipelines that do not exist, and texts that are not assignments."""
    known = list(pipelines)
    for name in overrides.params:
        if name not in known:
            problems.add(Place("params", path=name), unknown("pipeline", name, known))
    for text in overrides.param_texts:
        path, equals, _ = text.partition("=")
        pipeline, dot, _ = path.strip().partition(".")
        place = Place("--param", path=path.strip())
        if not equals or not dot:
            problems.add(place, f"cannot parse `{text}`", "write --param pipeline.name=value")
        elif pipeline not in known:
            problems.add(place, unknown("pipeline", pipeline, known))


def given_params(
    overrides: Overrides, pipeline: str, declared: Mapping[str, ParameterConfig], problems: Problems
) -> dict[str, Value]:
    """Return the values given for one pipeline's parameters and report unknown names."""
    given: dict[str, Value] = {}
    for name, data in overrides.params.get(pipeline, {}).items():
        place = Place("params", path=f"{pipeline}.{name}")
        if name in declared:
            given[name] = from_plain(data, place)
        else:
            problems.add(place, unknown("parameter", name, declared))
    for text in overrides.param_texts:
        path, equals, value_text = text.partition("=")
        owner, _, name = path.strip().partition(".")
        place = Place("--param", path=path.strip())
        if owner != pipeline or not name or not equals:
            continue
        if name in declared:
            given[name] = from_text(declared[name], value_text, place)
        else:
            problems.add(place, unknown("parameter", name, declared))
    return given
