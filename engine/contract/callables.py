"""Check that a user's function or class fits the kind of component that it is declared as.

The check happens at the declaration, so that the error points at the user's line instead of failing a run.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Sequence
from functools import cache, partial
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType
from typing import Any, Final, NoReturn, get_origin, get_type_hints

from engine.errors import FatalError

__all__ = [
    "UNFINISHED",
    "check_class",
    "check_constructor",
    "check_function",
    "check_source_function",
    "generator_of",
    "is_async",
    "misuse",
    "place_of",
    "type_shown",
    "unwrapped",
]

UNFINISHED: Final = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})
"""Types of values that must still be awaited or iterated over: neither records nor outcomes."""

_ASYNC_ITERABLES: Final = (AsyncGenerator, AsyncIterator, AsyncIterable)


def unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function itself, without `partial` and the `__call__` of an object."""
    while isinstance(function, partial):
        function = function.func
    if not inspect.isroutine(function) and not isinstance(function, type) and callable(function):
        return type(function).__call__
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether a function has to be awaited."""
    return inspect.iscoroutinefunction(unwrapped(function))


def place_of(function: Callable[..., Any]) -> str:
    """Return name, file and line of a function, for messages."""
    inner = unwrapped(function)
    name = getattr(inner, "__qualname__", repr(inner)).rpartition("<locals>.")[2]
    code = getattr(inner, "__code__", None)
    return (
        f"`{name}` ({code.co_filename}:{code.co_firstlineno})" if isinstance(code, CodeType) else f"`{name}`"
    )


def check_source_function(function: Callable[..., Any]) -> None:
    """Reject a function that is not an async generator function, nor annotated to return an async iterator.

    Raises:
        TypeError: names the place and the remedy.
    """
    inner = unwrapped(function)
    if inspect.isasyncgenfunction(inner) or _returns_async_iterable(inner):
        return
    _refuse_source(function)


def _refuse_source(function: Callable[..., Any], of: str = "record or list of records") -> NoReturn:
    inner = unwrapped(function)
    if inspect.isgeneratorfunction(inner):
        what = "is a plain generator"
    elif inspect.iscoroutinefunction(inner):
        what = "yields nothing"
    else:
        what = "is a plain function"
    raise TypeError(
        f"the source {place_of(function)} {what}: make it an async generator, `async def` with `yield` for "
        f"each {of}; `await anyio.to_thread.run_sync(...)` calls what blocks"
    )


def check_function(function: Callable[..., Any], kind: str, *, returns: bool, may_wait: bool = True) -> None:
    """Reject a function that can never work as a transform, filter or sink.

    Args:
        kind: for the message.
        returns: its return value is used.
        may_wait: it may be `async`.

    Raises:
        TypeError: names the place and the remedy.
    """
    inner = unwrapped(function)
    where = f"the {kind} {place_of(function)}"
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        raise TypeError(f"{where} is a generator, so calling it does nothing: return a list")
    if inspect.iscoroutinefunction(inner) and not may_wait:
        raise TypeError(f"{where} is `async`, so its result is always true: make it a plain `def`")
    if returns and _returns_nothing(inner):
        raise TypeError(
            f"{where} returns no value anywhere, so every record would be dropped: `return` the record, or "
            'engine.Drop("why") to drop it'
        )


def check_class(cls: type, base: type, kind: str, methods: Sequence[str]) -> None:
    """Refuse a class of components that cannot do what its kind does.

    Args:
        base: the class of its kind.
        methods: of which it has to define one; async generators of a source.

    Raises:
        TypeError: names the class or the method, and what to write.
    """
    if not isinstance(cls, type):
        raise TypeError(f"engine.component decorates a class, got {place_of(cls)}: use engine.{kind}")
    if not issubclass(cls, base):
        raise TypeError(f"the {kind} `{cls.__qualname__}` must be a subclass of engine.{base.__name__}")
    own = [getattr(cls, name) for name in methods if getattr(cls, name) is not getattr(base, name)]
    if not own:
        raise TypeError(f"the {kind} `{cls.__qualname__}` defines no `{'` or `'.join(methods)}` method")
    for method in own if kind != "source" else ():
        check_function(method, kind, returns=kind == "transform")
    for name, method in inspect.getmembers(base, inspect.isfunction):
        # a program that builds a component itself may give its constructor other parameters
        if name != "__init__" and getattr(cls, name) is not method:
            _check_override(getattr(cls, name), method, kind)


@cache
def check_constructor(cls: type) -> None:
    """Refuse a class of components that the engine cannot build. Raises `TypeError` as `check_class` does."""
    try:
        inspect.signature(cls).bind(None, None)
    except TypeError:
        raise TypeError(
            f"{place_of(cls.__init__)} takes other parameters: write `def __init__(self, params, "  # type: ignore[misc]
            "connection=None)`, call `super().__init__(params, connection)`, and declare what it needs with "
            "`engine.component(…, params=…)`"
        ) from None


_YIELDED: Final = {
    "extract": "record or list of records",
    "read": "`engine.Batch`",
    "splits": "`engine.Split`",
}


def _check_override(own: Callable[..., Any], method: Callable[..., Any], kind: str) -> None:
    """Refuse a method that cannot be called or awaited like the one that it replaces."""
    name, signature = method.__name__, inspect.signature(method)
    if kind == "source" and name in _YIELDED:
        # a plain function may return the generator of another
        if inspect.isgeneratorfunction(own) or inspect.iscoroutinefunction(own):
            _refuse_source(own, _YIELDED[name])
    elif is_async(method) and inspect.isfunction(own) and not is_async(own) and _returns_nothing(own):
        raise TypeError(f"the {kind} {place_of(own)} is a plain function: make it `async def`")
    keywords = [one.name for one in signature.parameters.values() if one.kind is one.KEYWORD_ONLY]
    positional = [one for one in signature.parameters if one not in keywords]
    try:
        inspect.signature(own).bind(*positional, **dict.fromkeys(keywords))
    except TypeError:
        written = f"{'async ' * is_async(method)}def {name}{signature}".replace("'", "")
        raise TypeError(f"the {kind} {place_of(own)} takes other parameters: write `{written}`") from None


def generator_of(method: Callable[..., Any], *args: Any) -> AsyncGenerator[Any, None]:
    """Call a method of a source.

    Raises:
        FatalError: it returned something other than an async generator.
    """
    made = method(*args)
    if not isinstance(made, AsyncGenerator):
        raise misuse(method, "source", f"returned {type_shown(made)}, not an async generator")
    return made


def misuse(function: Callable[..., Any], kind: str, what: str) -> FatalError:
    """The error of a function that does something other than its kind of component; nothing of a record."""
    return FatalError(f"the {kind} {place_of(function)} {what}")


def type_shown(value: object) -> str:
    """A value's type for a message: `a list`, `None`."""
    return f"a {type(value).__name__}" if value is not None else "None"


def _returns_async_iterable(function: Callable[..., Any]) -> bool:
    try:
        declared = get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):  # names that exist only for type checkers
        declared = None
        written = str(getattr(function, "__annotations__", {}).get("return", ""))
        return any(one.__name__ in written for one in _ASYNC_ITERABLES)
    origin = get_origin(declared) or declared
    return isinstance(origin, type) and issubclass(origin, _ASYNC_ITERABLES)


def _returns_nothing(function: Callable[..., Any]) -> bool:
    """Return whether every `return` in a function's own code returns the constant None."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return False
    before: dis.Instruction | None = None
    found = False
    for one in dis.get_instructions(code):
        if one.opname in ("RETURN_VALUE", "RETURN_CONST"):
            giver = one if one.opname == "RETURN_CONST" else before
            # where branches meet, the instruction before does not show what is returned
            meets = one.opname == "RETURN_VALUE" and one.is_jump_target
            if meets or giver is None or not giver.opname.endswith("_CONST") or giver.argval is not None:
                return False
            found = True
        before = one if one.opname not in ("NOP", "CACHE") else before
    return found  # a function that only raises dead-letters every record on purpose
