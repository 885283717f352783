"""The registry of components.

All components, including built-in ones, are found through the entry-point group `odw_engine.components`,
whose entries are named `<kind>.<name>`. They are imported on first use. A name of the form
`package.module:attribute` needs no entry point.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from traceback import extract_tb
from typing import NoReturn

from engine.contract.arguments import expect
from engine.contract.callables import check_constructor
from engine.contract.component import ComponentSpec, Kind
from engine.errors import RegistryError
from engine.extras import entry_points

__all__ = ["ENTRY_POINT_GROUP", "Registry", "find_modules_beside"]

ENTRY_POINT_GROUP = "odw_engine.components"

Loader = Callable[[], object]

_NOWHERE = object()


class Registry:
    """An immutable map from (kind, name) to specifications; extend it with `including`."""

    def __init__(self, loaders: Mapping[tuple[Kind, str], Loader]) -> None:
        expect("engine.Registry", "loaders", loaders, Mapping, "a mapping; see `Registry.installed`")
        self._loaders = dict(loaders)

    @classmethod
    def installed(cls) -> Registry:
        """Return the registry of everything installed, without importing it."""
        found: dict[str, dict[str, Loader]] = {}
        for entry in entry_points(ENTRY_POINT_GROUP):
            found.setdefault(entry.name, {})[entry.value] = entry.load
        loaders: dict[tuple[Kind, str], Loader] = {}
        for full_name, by_place in found.items():
            kind, _, name = full_name.partition(".")
            if kind in set(Kind) and name:
                load, *others = by_place.values()
                loaders[Kind(kind), name] = partial(_refuse, kind, name, by_place) if others else load
        return cls(loaders)

    def including(self, *components: object) -> Registry:
        """Return this registry with these components (classes or functions with a `spec`)."""
        loaders = dict(self._loaders)
        for component in components:
            spec = _spec_of(component, repr(component))
            loaders[spec.kind, spec.name] = lambda component=component: component  # type: ignore[misc]
        return Registry(loaders)

    def names(self, kind: Kind | None = None) -> list[tuple[Kind, str]]:
        """Return all known (kind, name) pairs, sorted, without importing them."""
        order = list(Kind)
        known: Iterable[tuple[Kind, str]] = (key for key in self._loaders if kind in (None, key[0]))
        return sorted(known, key=lambda key: (order.index(key[0]), key[1]))

    def get(self, kind: Kind, name: str) -> ComponentSpec:
        """Return the specification of a component.

        Raises:
            RegistryError: the name is unknown (the message suggests the nearest one and lists all of the
                kind), is of another kind, or its module cannot be imported (the message has the line).
        """
        if ":" in name:
            spec = self.dotted(name)
        elif (kind, name) in self._loaders:
            spec = _spec_of(self._load(kind, name), name)
        else:
            raise RegistryError(self._unknown(kind, name))
        if spec.kind is not kind:
            raise RegistryError(f"{name!r} is a {spec.kind}, not a {kind}")
        return spec

    def dotted(self, name: str) -> ComponentSpec:
        """Return the specification of `package.module:attribute`, of any kind.

        Raises:
            RegistryError: it cannot be imported, or is not a component.
        """
        return _spec_of(_import_dotted(name), name)

    def _load(self, kind: Kind, name: str) -> object:
        with _importing(f"the {kind} {name!r}"):
            return self._loaders[kind, name]()

    def _unknown(self, kind: Kind, name: str) -> str:
        elsewhere = [other for other, known in self._loaders if known == name]
        if elsewhere:
            return f"{name!r} is a {' and a '.join(sorted(elsewhere))}, not a {kind}"
        names = [known for _, known in self.names(kind)]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        return f"unknown {kind} {name!r}{hint} Known: {', '.join(names)}"


def find_modules_beside(file: str | os.PathLike[str]) -> None:
    """Make modules in the current folder and next to a file importable, after installed packages.

    This way no file in a folder can shadow a library.
    """
    for folder in (os.getcwd(), os.path.dirname(os.path.abspath(file))):
        if folder not in sys.path:
            sys.path.append(folder)


def _refuse(kind: str, name: str, places: Iterable[str]) -> NoReturn:
    written = " or ".join(f"`{kind}: {place}`" for place in sorted(places))
    raise RegistryError(
        f"two installed packages have a {kind} {name!r}: write {written}, or uninstall one of them"
    )


def _spec_of(component: object, name: str) -> ComponentSpec:
    spec = getattr(component, "spec", None)
    if not isinstance(spec, ComponentSpec):
        raise RegistryError(f"{name} is not a component: decorate it with engine.source, transform or sink")
    if isinstance(spec.factory, type):
        try:
            check_constructor(spec.factory)
        except TypeError as error:
            raise RegistryError(f"the {spec.kind} {error}") from error
    return spec


def _import_dotted(name: str) -> object:
    module, _, attribute = name.partition(":")
    with _importing(repr(name)):
        target: object = import_module(module)
    for part in attribute.split("."):
        with _importing(repr(name)):  # a module may compute its attributes
            found: object = getattr(target, part, _NOWHERE)
        if found is _NOWHERE:
            raise RegistryError(f"cannot import {name!r}: {_no_attribute(target, part)}")
        target = found
    return target


def _no_attribute(target: object, name: str) -> str:
    """Return the message for a missing name in a module or class, with the nearest or all components."""
    inside = getattr(target, "__dict__", {})
    known = [one for one, value in inside.items() if isinstance(getattr(value, "spec", None), ComponentSpec)]
    near = difflib.get_close_matches(name, known, n=1)
    where = f"{getattr(target, '__name__', 'it')} has no {name!r}"
    if near:
        return f"{where}, did you mean {near[0]!r}?"
    return f"{where}; its components: {', '.join(known) or 'none'}"


@contextmanager
def _importing(what: str) -> Iterator[None]:
    """Convert every error of an import to a problem of the file, since modules are foreign code."""
    try:
        yield
    except (KeyboardInterrupt, RegistryError):
        raise
    except BaseException as error:
        raise RegistryError(f"cannot import {what}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Return why a module cannot be imported, with the line in that module if it was found."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.basename(error.filename)} line {error.lineno}: {error.msg}"
    lines = [frame for frame in extract_tb(error.__traceback__) if frame.name == "<module>"]
    if not lines and isinstance(error, ModuleNotFoundError):
        return f"{error}; looked among the installed packages, in the current folder and next to the file"
    if not lines:
        return str(error)
    return f"{os.path.basename(lines[-1].filename)} line {lines[-1].lineno}: {type(error).__name__}: {error}"
