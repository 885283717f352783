"""Components from plain functions.

::

    @engine.transform
    def double(record: dict, *, factor: int = 2) -> dict:
        return {**record, "n": record["n"] * factor}

Keyword-only parameters become the component's parameters, checked like any other's. The function itself is
unchanged; pipelines use its `spec`, also from YAML as `transform: mymodule:double`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Collection, Sequence
from functools import partial
from types import CoroutineType, GeneratorType, SimpleNamespace
from typing import Any, Protocol, TypeVar, cast, get_type_hints, overload

import anyio
from pydantic import BaseModel, Field, create_model

from engine.contract.arguments import expect, is_count, is_name
from engine.contract.batch import Batch, Drop, Outcome
from engine.contract.callables import (
    UNFINISHED,
    check_function,
    check_source_function,
    is_async,
    misuse,
    place_of,
    type_shown,
)
from engine.contract.component import (
    BatchLimits,
    Component,
    ComponentSpec,
    Context,
    Kind,
    Params,
    Receipt,
    Sink,
    Source,
    Transform,
)
from engine.contract.each import map_each, select_or_fail
from engine.contract.records import are_records, with_records_only
from engine.contract.types import Record
from engine.contract.unplanned import escaped, unplanned_error
from engine.errors import AT_RECORD, EngineError, FatalError, RecordError, TransientError

F = TypeVar("F", bound=Callable[..., Any])
KeyOf = str | Callable[[Record], str]

_SOURCE, _TRANSFORM, _FILTER, _SINK = ("engine.source", "engine.transform", "engine.filter", "engine.sink")
_COUNT, _FLAG = "a whole number of at least 1", "True or False"

RETURNED_NONE = Drop("returned None")

_SPECIAL = frozenset({type(None), list, Drop}) | UNFINISHED


class Decorator(Protocol):
    """A decorator that attaches a spec to a function."""

    def __call__(self, function: F, /) -> F: ...


@overload
def source(function: F, /) -> F: ...
@overload
def source(
    *, name: str = "", key: KeyOf | None = None, unique: bool = False, repeatable: bool = False
) -> Decorator: ...
def source(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    key: KeyOf | None = None,
    unique: bool = False,
    repeatable: bool = False,
) -> Any:
    """Declare an async generator function of records, or lists of them, as a source.

    Args:
        name: as used in YAML; the function's name by default.
        key: the field with a record's key, or a function of the record; its position by default.
        unique: no key occurs twice. Without it, records of a keyed source are delivered strictly in order.
        repeatable: calling again gives the same records in the same order, so runs can be resumed.
    """
    expect(_SOURCE, "key", key, _is_key, "the name of a field, or a function of the record")
    expect(_SOURCE, "unique", unique, bool, _FLAG)
    expect(_SOURCE, "repeatable", repeatable, bool, _FLAG)

    def build(function: Callable[..., Any], values: dict[str, Any]) -> Component[Any]:
        return FunctionSource(partial(function, **values), key=key, unique=unique, repeatable=repeatable)

    return _decorate(_SOURCE, function, Kind.SOURCE, name, build, check_source_function, positional=0)


@overload
def transform(function: F, /) -> F: ...
@overload
def transform(*, name: str = "", batch: bool = False, concurrency: int = 8) -> Decorator: ...
def transform(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    batch: bool = False,
    concurrency: int = 8,
) -> Any:
    """Declare a function of one record as a transform.

    It returns the new record; None (or `Drop("why")`) drops the record, a list fans out, and raising
    `RecordError` makes it a dead letter. It must not change the given record.

    Args:
        batch: the function takes a list of records and returns one outcome for each.
        concurrency: records processed concurrently when the function is `async`.
    """
    expect(_TRANSFORM, "batch", batch, bool, _FLAG)
    expect(_TRANSFORM, "concurrency", concurrency, is_count, _COUNT)

    def build(function: Callable[..., Any], values: dict[str, Any]) -> Component[Any]:
        call = partial(function, **values) if values else function
        if batch:
            return BatchTransform(call)
        return AsyncTransform(call, concurrency) if is_async(function) else FunctionTransform(call)

    check = partial(check_function, kind="transform", returns=True)
    return _decorate(_TRANSFORM, function, Kind.TRANSFORM, name, build, check, positional=1)


@overload
def filter(function: F, /) -> F: ...  # noqa: A001 - used as `engine.filter`, the field's word for it
@overload
def filter(*, name: str = "", reason: str = "filtered") -> Decorator: ...  # noqa: A001 - as above
def filter(  # noqa: A001 - as above
    function: Callable[..., Any] | None = None, /, *, name: str = "", reason: str = "filtered"
) -> Any:
    """Declare a predicate as a filter: records for which it is false are dropped under `reason`."""
    expect(_FILTER, "reason", reason, is_name, "a non-empty string")

    def build(function: Callable[..., Any], values: dict[str, Any]) -> Component[Any]:
        return FunctionFilter(partial(function, **values) if values else function, reason)

    check = partial(check_function, kind="filter", returns=True, may_wait=False)
    return _decorate(_FILTER, function, Kind.TRANSFORM, name, build, check, positional=1)


@overload
def sink(function: F, /) -> F: ...
@overload
def sink(*, name: str = "", concurrency: int = 1, records: int = 0, linger: float = 0.2) -> Decorator: ...
def sink(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    concurrency: int = 1,
    records: int = 0,
    linger: float = 0.2,
) -> Any:
    """Declare a function of a list of records as a sink; returning means they arrived.

    Args:
        concurrency: concurrent calls, when the function is `async`.
        records: how many records a call should receive; 0 leaves batches as they arrive.
        linger: seconds to wait for a call to fill up.
    """
    expect(_SINK, "concurrency", concurrency, is_count, _COUNT)
    limits = BatchLimits(records=records, linger=linger)

    def build(function: Callable[..., Any], values: dict[str, Any]) -> Component[Any]:
        return FunctionSink(partial(function, **values), limits, concurrency, waits=is_async(function))

    check = partial(check_function, kind="sink", returns=False)
    return _decorate(_SINK, function, Kind.SINK, name, build, check, positional=1)


def _is_key(value: object) -> bool:
    return value is None or is_name(value) or callable(value)


class FunctionSource(Source[BaseModel]):
    """A source made from an async generator function."""

    def __init__(
        self, function: Callable[[], Any], *, key: KeyOf | None, unique: bool, repeatable: bool
    ) -> None:
        super().__init__(Params())
        self.function = function
        self._key = key
        self.distinct_keys = key is None or unique
        self.repeatable = repeatable

    @property
    def resumable(self) -> bool:
        return self.repeatable or self._key is not None

    async def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        generator = self.function()
        if not isinstance(generator, AsyncIterable):
            raise misuse(self.function, "source", f"returned {type_shown(generator)}, not an async generator")
        try:
            async for item in generator:
                yield item
        finally:
            if isinstance(generator, AsyncGenerator):
                await generator.aclose()

    def key(self, record: Record, ordinal: int) -> str | None:
        if self._key is None:
            return None
        key = record[self._key] if isinstance(self._key, str) else self._key(record)
        return None if key is None else str(key)


class FunctionTransform(Transform[BaseModel]):
    """A transform made from a plain function of one record."""

    def __init__(self, function: Callable[[Record], Outcome]) -> None:
        super().__init__(Params())
        self._function = function

    def apply(self, batch: Batch) -> Batch:
        made, failed = map_each(self._function, batch.records, partial(_failure, self.ctx, batch))
        kinds = list(map(type, made))
        if not failed and kinds.count(kinds[0]) == len(kinds) and are_records(kinds[0]):
            return batch.replace(made)
        special = _SPECIAL.intersection(kinds)
        if special & UNFINISHED:
            raise _unfinished(self._function, made)
        checked = with_records_only(made, self._function)
        if failed or checked is not made or len(special) > 1 or list in special or Drop in special:
            return batch.outcomes(_named(checked))
        if special:
            return batch.replace(made).select([one is not None for one in made], RETURNED_NONE.reason)
        return batch.replace(made)


def _named(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Replace None, which may be a forgotten `return`, by a named drop."""
    return [RETURNED_NONE if one is None else one for one in outcomes]


def _failure(ctx: Context, batch: Batch, error: Exception, index: int) -> RecordError | TransientError:
    """Return the failure of the record for which a function raised; raise other errors.

    A note on the error names the record for the node's message: by its place, since logs and histories must
    not contain its key, which may hold values of the record. For a source of several files the place is a
    lower bound.
    """
    if isinstance(error, RecordError | TransientError):
        return error
    if ctx.survives_errors and not isinstance(error, EngineError):
        return unplanned_error(error)
    error.add_note(f"{AT_RECORD}{batch.keys.place(index)}")
    raise error


def _unfinished(function: Callable[..., Any], made: list[Any]) -> FatalError:
    """Return the error for a plain function that returns an unfinished coroutine or generator."""
    first = next(one for one in made if type(one) in UNFINISHED)
    for one in made:
        if isinstance(one, CoroutineType | GeneratorType):
            one.close()
    return misuse(
        function, "transform", f"returned {type_shown(first)}: make it `async def`, and `await` that"
    )


class FunctionFilter(Transform[BaseModel]):
    """A filter made from a predicate."""

    def __init__(self, function: Callable[[Record], object], reason: str) -> None:
        super().__init__(Params())
        self._function = function
        self._reason = reason

    @property
    def keeps_ids(self) -> bool:
        return True

    def apply(self, batch: Batch) -> Batch:
        kept, failed = map_each(self._function, batch.records, partial(_failure, self.ctx, batch))
        return select_or_fail(batch, kept, self._reason) if failed else batch.select(kept, self._reason)


class BatchTransform(Transform[BaseModel]):
    """A transform made from a function of a list of records, plain or `async`."""

    def __init__(self, function: Callable[[list[Record]], Any]) -> None:
        super().__init__(Params())
        self._function = function
        self._waits = is_async(function)

    @property
    def waits(self) -> bool:
        return self._waits

    def apply(self, batch: Batch) -> Batch | Awaitable[Batch]:
        made = self._function(list(batch.records))  # the function may sort it, or empty it
        return self._later(batch, made) if self._waits else self._outcomes(batch, made)

    async def _later(self, batch: Batch, made: Awaitable[list[Outcome]]) -> Batch:
        return self._outcomes(batch, await made)

    def _outcomes(self, batch: Batch, made: object) -> Batch:
        if not isinstance(made, list | tuple):
            raise misuse(self._function, "transform", f"returned {type_shown(made)}, not a list of outcomes")
        if len(made) != len(batch):
            what = f"returned {len(made)} outcomes for {len(batch)} records"
            raise misuse(self._function, "transform", what)
        return batch.outcomes(_named(with_records_only(made, self._function)))


class AsyncTransform(Transform[BaseModel]):
    """A transform made from an `async` function of one record."""

    def __init__(self, function: Callable[[Record], Awaitable[Outcome]], concurrency: int) -> None:
        super().__init__(Params())
        self._function = function
        self._concurrency = concurrency

    async def apply(self, batch: Batch) -> Batch:
        made: list[Outcome] = [None] * len(batch)
        todo = iter(enumerate(batch.records))

        async def worker() -> None:
            for index, record in todo:
                try:
                    made[index] = await self._function(record)
                except BaseException as error:  # noqa: BLE001 - the boundary to users' code; `escaped` decides
                    made[index] = _failure(self.ctx, batch, escaped(error), index)

        async with anyio.create_task_group() as group:
            for _ in range(min(self._concurrency, len(batch))):
                group.start_soon(worker)
        return batch.outcomes(_named(with_records_only(made, self._function)))


class FunctionSink(Sink[BaseModel]):
    """A sink made from a function of a list of records."""

    def __init__(
        self, function: Callable[[list[Record]], Any], limits: BatchLimits, concurrency: int, *, waits: bool
    ) -> None:
        super().__init__(Params())
        self._function = function
        self._limits = limits
        self._concurrency = concurrency
        self._waits = waits
        self.inline = not waits and not limits.rebatches

    @property
    def concurrency(self) -> int:
        return self._concurrency

    @property
    def limits(self) -> BatchLimits:
        return self._limits

    async def write(self, batch: Batch) -> Receipt | None:
        result = self._function(list(batch.records))
        if self._waits:
            await result
        return None


Check = Callable[[Callable[..., Any]], None]
Build = Callable[[Callable[..., Any], dict[str, Any]], Component[Any]]


def _decorate(
    call: str,
    function: Callable[..., Any] | None,
    kind: Kind,
    name: str,
    build: Build,
    check: Check,
    *,
    positional: int,
) -> Any:
    expect(call, "name", name, str, "a string")

    def attach(function: Callable[..., Any]) -> Callable[..., Any]:
        what = f"a function written in Python: write `@{call}` or `@{call}(…)` above its `def`"
        expect(call, "function", function, inspect.isfunction, what)
        params = _params_of(function, positional)
        check(function)
        text = inspect.cleandoc(function.__doc__ or "")

        def factory(given: BaseModel, connection: BaseModel | None) -> Component[Any]:
            values = {field: getattr(given, field) for field in type(given).model_fields}
            return build(function, values)

        cast(Any, function).spec = ComponentSpec(
            name=name or function.__name__,
            kind=kind,
            factory=factory,
            params=params,
            summary=text.partition("\n")[0],
            description=text,
        )
        return function

    return attach if function is None else attach(function)


def _hints_of(function: Callable[..., Any], names: Collection[str]) -> dict[str, Any]:
    """Return the types of these parameters; those of others may exist for type checkers only.

    Raises:
        TypeError: a type is not known.
    """
    own = {name: hint for name, hint in function.__annotations__.items() if name in names}
    known = getattr(inspect.unwrap(function), "__globals__", {})  # of another module than a decorator's
    try:
        return get_type_hints(SimpleNamespace(__annotations__=own), known, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{place_of(function)} has a keyword-only parameter of an unknown type ({error}): import it "
            "where the program runs, not under `if TYPE_CHECKING`"
        ) from None


def _params_of(function: Callable[..., Any], positional: int) -> type[BaseModel]:
    """Return the keyword-only parameters as a model.

    Raises:
        TypeError: the function's parameters do not fit its kind of component.
    """
    parameters = inspect.signature(function).parameters.values()
    keywords = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    taken = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters)
    if taken != positional:
        raise TypeError(
            f"{function.__qualname__}() takes {taken} positional arguments, but this kind of component is "
            f"called with {positional}; make parameters keyword-only by putting `*` before them"
        )
    hints = _hints_of(function, [one.name for one in keywords])
    fields: dict[str, Any] = {
        one.name: (hints.get(one.name, Any), Field(... if one.default is one.empty else one.default))
        for one in keywords
    }
    return create_model(f"{function.__name__}_params", __base__=Params, **fields)
