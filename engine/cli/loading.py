"""From the arguments to plans."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

from engine.batch import JsonValue
from engine.config import FileConfig, Overrides, load_file
from engine.config.problems import unknown
from engine.errors import ConfigError, Problem
from engine.plan import Plan, compile_file
from engine.registry import Registry

__all__ = ["load_plans", "starting", "with_followers"]


def load_plans(
    options: argparse.Namespace,
    *,
    only: Collection[str] | None = None,
    params: Mapping[str, Mapping[str, JsonValue]] | None = None,
) -> dict[str, Plan]:
    """The plans of `options.file`, by pipeline; `--only` takes those that it leads to along.

    Components named `module:name` are also looked for in the current folder and beside the file.

    Args:
        only: instead of `options.only`.
        params: values that `options.param` may still change, by pipeline and name.

    Raises:
        ConfigError: with everything that is wrong with the file and the pipelines asked for.
    """
    overrides = Overrides(
        params=MappingProxyType(dict(params or {})),
        param_texts=tuple(options.param),
        assignments=tuple(options.assignments),
    )
    _find_modules_beside(options.file)
    config = load_file(options.file, environ=os.environ, overrides=overrides)
    wanted = list(options.only if only is None else only)
    if wanted:
        config = _chosen(config, wanted)
    return compile_file(config, Registry.installed())


def _find_modules_beside(file: str) -> None:
    # behind everything that is installed, so that no file in a folder can take the place of a library
    for folder in (os.getcwd(), os.path.dirname(os.path.abspath(file))):
        if folder not in sys.path:
            sys.path.append(folder)


def _chosen(config: FileConfig, wanted: Collection[str]) -> FileConfig:
    """The file with these pipelines alone, and without the problems of the others."""
    named = {problem.path.split(".")[1] for problem in config.problems if _in_pipeline(problem)}
    known = [*config.pipelines, *sorted(named - set(config.pipelines))]
    for name in wanted:
        if name not in known:
            raise ConfigError([Problem(unknown("pipeline", name, known), file="--only")])
    settings = {name: pipeline.settings for name, pipeline in config.pipelines.items()}
    chosen = list(dict.fromkeys(wanted))
    for name in chosen:  # grows while it is walked
        if name in settings:
            following = (*settings[name].on_complete, *settings[name].on_cancel)
            chosen += [other for other in following if other not in chosen]
    return replace(
        config,
        pipelines=MappingProxyType({n: p for n, p in config.pipelines.items() if n in chosen}),
        problems=tuple(
            problem
            for problem in config.problems
            if not _in_pipeline(problem) or problem.path.split(".")[1] in chosen
        ),
    )


def _in_pipeline(problem: Problem) -> bool:
    steps = problem.path.split(".")
    return problem.file not in ("--param", "--set") and steps[0] == "pipelines" and len(steps) > 1


def with_followers(plans: Mapping[str, Plan], name: str) -> tuple[str, ...]:
    """The pipelines that one leads to."""
    settings = plans[name].settings
    return (*settings.on_complete, *settings.on_cancel)


def starting(plans: Mapping[str, Plan], only: Collection[str]) -> list[str]:
    """The pipelines to start at once: those asked for, or all that no other one leads to."""
    if only:
        return [name for name in plans if name in only]
    led_to = {other for name in plans for other in with_followers(plans, name) if other != name}
    return [name for name in plans if name not in led_to] or list(plans)
