"""Check the arguments of the constructors and decorators that a program calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from reprlib import repr as short

from engine.contract.kinds import Kind, Locality

__all__ = [
    "SPECIFICATION",
    "expect",
    "is_count",
    "is_model",
    "is_name",
    "is_number",
]

Fits = type | Callable[[object], bool]
"""A type, or a function that returns whether a value fits."""


def expect(call: str, name: str, value: object, fits: Fits, what: str) -> None:
    """Refuse an argument that does not fit.

    Args:
        call: the function or class that was called.
        what: the expected value.

    Raises:
        TypeError: names the argument and what to pass.
    """
    if not (isinstance(value, fits) if isinstance(fits, type) else fits(value)):
        raise TypeError(f"{call}: `{name}` must be {what}, got {short(value)}")


def is_count(value: object) -> bool:
    """Return whether a value is an integer of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_number(value: object) -> bool:
    """Return whether a value is a number of at least 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def is_name(value: object) -> bool:
    """Return whether a value is a non-empty string."""
    return isinstance(value, str) and bool(value)


def is_model(value: object) -> bool:
    """Return whether a value is a subclass of `BaseModel`."""
    from pydantic import BaseModel  # where a model is given, it is loaded already

    return isinstance(value, type) and issubclass(value, BaseModel)


_MODEL = "a subclass of pydantic.BaseModel"
_FLAG = "True, False, or a function of the parameters"
SPECIFICATION: Mapping[str, tuple[Fits, str]] = {
    "name": (is_name, "a non-empty string"),
    "kind": (Kind, "an engine.Kind"),
    "factory": (callable, "a class or a function"),
    "params": (is_model, _MODEL),
    "connection": (lambda one: one is None or is_model(one), _MODEL),
    "sandbox": (str, "a string"),
    "extra": (str, "a string"),
    "locality": (lambda one: isinstance(one, Locality) or callable(one), "a Locality, or a function"),
    "bookmarks": (lambda one: isinstance(one, bool) or callable(one), _FLAG),
    "whole_run": (lambda one: isinstance(one, bool) or callable(one), _FLAG),
    "branches": (lambda one: one is None or callable(one), "a function of the parameters"),
    "claim": (lambda one: one is None or callable(one), "a function of the parameters"),
}
"""What fits each argument of a `ComponentSpec`."""
