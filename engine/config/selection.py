"""Select pipelines of a file with their followers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from types import MappingProxyType

from engine.config.model import FileConfig
from engine.config.problems import unknown
from engine.config.values import Place
from engine.errors import ConfigError, Problem


def select(file: FileConfig, wanted: Collection[str], *, asked_by: str = "only") -> FileConfig:
    """Return the file with only these pipelines and their followers.

    Args:
        wanted: names or aliases.
        asked_by: the option with the names, for messages.

    Raises:
        ConfigError: there is no pipeline of that name.
    """
    broken = {_owner(problem) for problem in file.problems if _in_pipeline(problem)}
    known = [*file.pipelines, *sorted(broken - set(file.pipelines))]
    chosen = list(dict.fromkeys(file.resolve_alias(name) for name in wanted))
    for name in chosen:
        if name not in known:
            raise ConfigError([Problem(unknown("pipeline", name, [*known, *file.aliases]), file=asked_by)])
    settings = {name: pipeline.settings for name, pipeline in file.pipelines.items()}
    for name in chosen:  # grows during the iteration
        if name in settings:
            following = settings[name].followers
            chosen += [other for other in following if other not in chosen]
    return replace(
        file,
        pipelines=MappingProxyType({n: p for n, p in file.pipelines.items() if n in chosen}),
        problems=tuple(one for one in file.problems if not _in_pipeline(one) or _owner(one) in chosen),
        external=tuple(one for one in file.external if _owner(one.place) in ("", *chosen)),
    )


def _in_pipeline(problem: Problem) -> bool:
    return problem.file not in ("--param", "--set") and bool(_owner(problem))


def _owner(where: Problem | Place) -> str:
    """Return the pipeline that contains a place of the document, or ""."""
    section, _, rest = where.path.partition(".")
    return rest.partition(".")[0] if section == "pipelines" else ""
