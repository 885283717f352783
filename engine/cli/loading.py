"""Load plans from the arguments."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from types import MappingProxyType

from engine.cli.options import DEFAULT_FILE, PlanOptions, WorkerPlanOptions
from engine.cli.state import state_of
from engine.config import FileConfig, Overrides, load_file, select
from engine.config.problems import listed
from engine.contract.types import JsonValue
from engine.errors import ConfigError
from engine.plan.compile import compile_file
from engine.plan.model import Plan
from engine.registry import Registry, find_modules_beside
from engine.state.address import is_address


def load_plans(
    options: PlanOptions,
    *,
    only: Collection[str] | None = None,
    params: Mapping[str, Mapping[str, JsonValue]] | None = None,
) -> dict[str, Plan]:
    """Load the plans of `options.file`, by pipeline; see `load_config`.

    Raises:
        ConfigError: lists every problem of the file and the requested pipelines.
    """
    return compile_file(load_config(options, only=only, params=params), Registry.installed())


def load_plans_for_workers(options: WorkerPlanOptions) -> dict[str, Plan]:
    """Load the plans and check that several workers can run them.

    A state directory implies that all workers are on this machine; with a database `--one-machine` declares
    it.

    Raises:
        ConfigError: also lists what cannot work in another process or on another machine.
    """
    from engine.plan.portability import node_check

    file = load_config(options)
    one_machine = options.one_machine or not is_address(state_of(options))
    return compile_file(file, Registry.installed(), check=node_check(file, one_machine=one_machine))


def load_config(
    options: PlanOptions,
    *,
    only: Collection[str] | None = None,
    params: Mapping[str, Mapping[str, JsonValue]] | None = None,
) -> FileConfig:
    """Load `options.file`; `--only` includes the followers of the named pipelines.

    Components named `module:name` are also imported from the current folder and the file's.

    Args:
        only: the pipelines of existing runs, instead of `options.only`.
        params: values that `options.param` may still change, by pipeline and name.

    Raises:
        ConfigError: the file cannot be read, or has no pipeline of that name.
    """
    overrides = Overrides(
        params=MappingProxyType(dict(params or {})),
        param_texts=options.param,
        assignments=options.assignments,
    )
    find_modules_beside(options.file)
    config = load_file(options.file, environ=os.environ, overrides=overrides)
    if only is None:
        return select(config, options.only, asked_by="--only") if options.only else config
    try:
        return select(config, only) if only else config
    except ConfigError:
        known = (*config.pipelines, *config.aliases)
        missing = listed(name for name in only if name not in known)
        raise ConfigError(
            f"{options.file} does not have {missing} of the run: name the file that the run was started with"
        ) from None


def resolve_aliases(options: PlanOptions) -> list[str]:
    """Return the pipelines of `--only` with aliases resolved.

    Raises:
        ConfigError: the file has no pipeline of that name.
    """
    if not options.only:
        return []
    config = load_file(options.file, environ=os.environ)
    select(config, options.only, asked_by="--only")
    return [config.resolve_alias(name) for name in options.only]


def resolve_alias(pipeline: str, file: str | None) -> str:
    """Resolve an alias of the file (default: `pipelines.yaml`, if it exists)."""
    try:
        return load_file(file or DEFAULT_FILE, environ=os.environ).resolve_alias(pipeline)
    except ConfigError:
        return pipeline  # a verb that needs the file reports this itself
