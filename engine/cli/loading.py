"""From the arguments to plans."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Mapping
from types import MappingProxyType

from engine.batch import JsonValue
from engine.config import Overrides, load_file, select
from engine.plan import Plan, compile_file
from engine.registry import Registry

__all__ = ["load_plans", "own_names"]


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
        config = select(config, wanted, asked_by="--only")
    return compile_file(config, Registry.installed())


def _find_modules_beside(file: str) -> None:
    # behind everything that is installed, so that no file in a folder can take the place of a library
    for folder in (os.getcwd(), os.path.dirname(os.path.abspath(file))):
        if folder not in sys.path:
            sys.path.append(folder)


def own_names(options: argparse.Namespace) -> list[str]:
    """What `--only` names, with the pipelines' own names in place of aliases."""
    if not options.only:
        return []
    config = load_file(options.file, environ=os.environ)
    return [config.own_name(name) for name in options.only]
