"""Read `aliases:` and resolve them to the pipelines' own names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from engine.config.overrides import Overrides
from engine.config.pipeline import check_name
from engine.config.problems import Problems, unknown
from engine.config.values import Value
from engine.contract.types import JsonValue


def read_aliases(section: Value | None, pipelines: Collection[str], problems: Problems) -> dict[str, str]:
    """Read aliases with their pipelines; invalid ones are reported in `problems` and omitted.

    Values that are not text are reported by the section's own check.
    """
    aliases: dict[str, str] = {}
    for name, value in section.items() if section else []:
        place = section.key_place(name) if section else value.place
        check_name("alias", name, place, problems)
        target = value.data
        if name in pipelines:
            problems.add(place, f"a pipeline is called `{name}`", "give the alias another name")
        elif isinstance(target, str) and not value.failed:
            if target in pipelines:
                aliases[name] = target
            elif section and section.get(target) is not None:
                problems.add(value.place, f"`{target}` is itself an alias", "name the pipeline")
            else:
                problems.add(value.place, unknown("pipeline", target, pipelines))
    return aliases


def with_own_names(overrides: Overrides, aliases: Mapping[str, str]) -> Overrides:
    """Return the parameters under the pipelines' own names."""
    params: dict[str, dict[str, JsonValue]] = {}
    for name, values in overrides.params.items():
        params.setdefault(aliases.get(name, name), {}).update(values)
    return replace(
        overrides,
        params=MappingProxyType(params),
        param_texts=tuple(_own(text, aliases) for text in overrides.param_texts),
    )


def _own(text: str, aliases: Mapping[str, str]) -> str:
    name, dot, rest = text.lstrip().partition(".")
    return f"{aliases[name]}{dot}{rest}" if name in aliases else text
