"""Find the benchmarks: every module of :mod:`benchmarks.suite` with a function ``benchmarks(scale)``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Sequence
from types import ModuleType

import benchmarks.suite
from benchmarks.model import Benchmark, Scale


class UnknownBenchmarkError(Exception):
    """A name that is neither a module of the suite nor a benchmark; the message lists the known names."""


def discover(scale: Scale, package: ModuleType = benchmarks.suite) -> dict[str, list[Benchmark]]:
    """Return the benchmarks of every module, by module name, in alphabetical order.

    Raises ValueError when two benchmarks share a name, which would share a result file, or when one has the
    name of a module that holds others as well, which would make the name ambiguous on the command line.
    """
    found: dict[str, list[Benchmark]] = {}
    for entry in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        module = importlib.import_module(f"{package.__name__}.{entry.name}")
        found[entry.name] = list(module.benchmarks(scale))
    names = [benchmark.name for group in found.values() for benchmark in group]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two benchmarks of one name: {', '.join(repeated)}")
    for name, group in found.items():
        if name in names and [benchmark.name for benchmark in group] != [name]:
            raise ValueError(f"{name} names both a benchmark and a module with others")
    return found


def select(found: dict[str, list[Benchmark]], names: Iterable[str]) -> Sequence[Benchmark]:
    """Return the named benchmarks, each once; a module's name selects all of its benchmarks, no names all."""
    chosen: dict[str, Benchmark] = {}
    wanted = list(names) or list(found)
    every = {benchmark.name: benchmark for group in found.values() for benchmark in group}
    for name in wanted:
        if name in every:
            chosen[name] = every[name]
        elif name in found:
            chosen |= {benchmark.name: benchmark for benchmark in found[name]}
        else:
            raise UnknownBenchmarkError(
                f"no benchmark {name!r}; there are: {', '.join(sorted({*found, *every}))}"
            )
    return list(chosen.values())
