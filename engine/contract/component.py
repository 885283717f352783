"""The contracts of sources, transforms and sinks, and their specifications.

A component is cheap to build, does I/O only between `__aenter__` and `__aexit__`, raises `ComponentError`s,
and leaves retries, limits, batching and acknowledgements to the engine.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, ClassVar, Generic, Protocol, Self, TypeAlias, TypeVar

from pydantic import BaseModel

from engine.contract.allowances import Allowances, NoSpending, Spending
from engine.contract.arguments import SPECIFICATION, expect, is_number
from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmarks, NoBookmarks
from engine.contract.branches import Branches
from engine.contract.callables import check_class
from engine.contract.claims import Claim
from engine.contract.clock import Clock, SystemClock
from engine.contract.journal import AnswerJournal, NoJournal
from engine.contract.kinds import Kind, Locality
from engine.contract.lease import Lease, NoLease
from engine.contract.params import NoParams, Params, operational
from engine.contract.retry import Retry
from engine.contract.shared import Shared
from engine.contract.split import Split
from engine.contract.types import JsonValue, Record, Reservation

__all__ = [
    "BatchLimits",
    "Component",
    "ComponentSpec",
    "Context",
    "Kind",
    "Locality",
    "MemoryBudget",
    "NoParams",
    "Params",
    "Receipt",
    "Retry",
    "Sink",
    "Source",
    "Transform",
    "component",
    "operational",
]


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of a batch: `records`, `nbytes` (estimated), or `linger` seconds.

    The defaults leave batches as they arrive.
    """

    records: int = 0
    nbytes: int = 0
    linger: float = 0.2

    def __post_init__(self) -> None:
        for name in ("records", "nbytes", "linger"):
            expect("engine.BatchLimits", name, getattr(self, name), is_number, "a number of at least 0")

    @property
    def rebatches(self) -> bool:
        """Whether batches must be resized for this node."""
        return bool(self.records or self.nbytes)


class MemoryBudget(Protocol):
    """A budget of bytes in flight."""

    async def reserve(self, nbytes: int) -> Reservation:
        """Wait until `nbytes` are available. More than the whole budget counts as the whole budget."""


class _Unlimited:
    """The memory budget outside a pipeline: no limit."""

    async def reserve(self, nbytes: int) -> Reservation:
        return Reservation()


@dataclass(slots=True)
class Context:
    """A component's view of its run; the defaults are for use without a pipeline.

    Attributes:
        run_id: the run; stable over resumes.
        seed: text that seeds all randomness of this run; stable over resumes.
        started_at: when the run was first started, UTC; stable over resumes.
        attempt: number of the attempt, counted from 1; each resume is a new one.
        epoch: increases with each attempt at the run or at a chunk of it; a larger number is later.
        chunk: the part of the run that this process works on; "" is the whole run.
        memory_budget: reserve bytes here before reading them (sources with `reserves = True`).
        distinct_keys: no key occurs twice in the run, according to the upstream sources.
        keep_newer: replace nothing delivered after this component was opened (a replay of dead letters).
        draining: true once the run should stop reading; a source ends at its next batch boundary.
        aggregate: custom numbers for the node's stats, by name (`calls`, `bytes`).
        journal: paid answers; look here before paying, and store answers here before passing them on.
        bookmarks: bookmarks from earlier runs of this node; a source may read them in `splits` only.
        survives_errors: `on_error` makes unplanned exceptions fail their record only, see `unplanned_error`.
        retry: for a source that retries the parts of a split one by one; None without a pipeline.
        read_before: records of this source that earlier attempts at the run have settled.
        listed: last stored split, after which `splits` may continue (`can_list_after`); None: from the
            beginning.
        shared: objects shared by the components of this engine, such as the limits of an endpoint.
        allowances: limits shared by all processes with the same state; None without a pipeline.
        spending: the budgets of the pipeline; ask here before paying for a call.
        lease: this process's right to work on the run.
    """

    pipeline: str = ""
    node: str = ""
    run_id: str = "standalone"
    seed: str = "0"
    started_at: datetime | None = None
    attempt: int = 1
    epoch: int = 1
    chunk: str = ""
    distinct_keys: bool = True
    keep_newer: bool = False
    clock: Clock = field(default_factory=SystemClock)
    memory_budget: MemoryBudget = field(default_factory=_Unlimited)
    draining: Callable[[], bool] = lambda: False
    aggregate: dict[str, float] = field(default_factory=dict)
    journal: AnswerJournal = field(default_factory=NoJournal)
    bookmarks: Bookmarks = field(default_factory=NoBookmarks)
    survives_errors: bool = False
    retry: Retry | None = None
    read_before: int = 0
    listed: Split | None = None
    shared: Shared = field(default_factory=Shared)
    allowances: Allowances | None = None
    spending: Spending = field(default_factory=NoSpending)
    lease: Lease = field(default_factory=NoLease)

    def count(self, name: str, amount: float = 1) -> None:
        """Add to a custom counter of this node."""
        self.aggregate[name] = self.aggregate.get(name, 0) + amount


P = TypeVar("P", bound=BaseModel)


@dataclass(frozen=True)
class ComponentSpec:
    """The specification of a component.

    It is the single source for validation, the editor's schema, `connectors show` and the reference.

    Args:
        name: as written in YAML.
        kind: source, transform or sink.
        factory: builds the component from its parameters and its resolved connection.
        params: the Pydantic model of the parameters under `with:`.
        connection: the model of the connection it needs, None when it needs none.
        sandbox: the embedded service to use when the connection is `sandbox`.
        summary: one line for lists.
        description: the full documentation, in Markdown.
        extra: the extra of this distribution that installs its SDK; "" when none is needed.
        locality: where it can work, by its parameters. Runs on several machines need `Locality.ANYWHERE`.
        bookmarks: whether it leaves bookmarks, by its parameters. Concurrent runs would duplicate records.
        branches: the named outputs of a transform that sets `Batch.branches`, by its parameters.
        whole_run: whether it needs all records of a run, by its parameters. Such a run cannot be divided.
        claim: the external resource that it uses, by its parameters, so that conflicting nodes are rejected.
    """

    name: str
    kind: Kind
    factory: Callable[[BaseModel, BaseModel | None], Component[Any]]
    params: type[BaseModel] = NoParams
    connection: type[BaseModel] | None = None
    sandbox: str = ""
    summary: str = ""
    description: str = ""
    extra: str = ""
    locality: Locality | Callable[[Any], Locality] = Locality.ANYWHERE
    bookmarks: bool | Callable[[Any], bool] = False
    branches: Callable[[Any], Branches] | None = None
    whole_run: bool | Callable[[Any], bool] = False
    claim: Callable[[Any], Claim | None] | None = None

    def __post_init__(self) -> None:
        for name, (fits, what) in SPECIFICATION.items():
            expect(f"the component {self.name!r}", name, getattr(self, name), fits, what)

    @property
    def method(self) -> Callable[..., Any] | None:
        """The method that does the work, for messages; None of a plain function's component."""
        base, methods = _WORK[self.kind]
        own = (getattr(self.factory, name, None) for name in methods)
        return next((one for one in own if one not in (None, *map(base.__dict__.get, methods))), None)

    def claim_of(self, params: BaseModel) -> Claim | None:
        """Return the outside resource that the component uses; None if it declares none."""
        return self.claim(params) if self.claim is not None else None

    def branches_of(self, params: BaseModel) -> Branches | None:
        """Return the named outputs; None if there is only one."""
        return self.branches(params) if self.branches is not None else None

    def keeps_bookmarks(self, params: BaseModel) -> bool:
        """Whether the component stores bookmarks with these parameters."""
        return self.bookmarks if isinstance(self.bookmarks, bool) else self.bookmarks(params)

    def needs_whole_run(self, params: BaseModel) -> bool:
        """Return whether the component cannot process a run in chunks with these parameters."""
        return self.whole_run if isinstance(self.whole_run, bool) else self.whole_run(params)

    def locality_of(self, params: BaseModel) -> Locality:
        """Return where the component can work with these parameters."""
        return self.locality if isinstance(self.locality, Locality) else self.locality(params)

    def operational_params(self) -> frozenset[str]:
        """Return the names of parameters outside the plan's identity."""
        return frozenset(
            name
            for name, info in self.params.model_fields.items()
            if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("operational")
        )


class Component(Generic[P]):
    """Base of all components.

    Subclasses override `open`, or `__aenter__` and `__aexit__`; these are called once.
    """

    spec: ClassVar[ComponentSpec]

    def __init__(self, params: P, connection: BaseModel | None = None) -> None:
        self.params = params
        self.connection = connection
        self.ctx = Context()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await self.open(stack)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the component's resources; `stack` closes them at the end, or when `open` fails."""

    async def is_answering(self) -> bool:
        """Return whether the service is up and handles other requests.

        Called on transforms and sinks when a record has used all its attempts and nothing else has succeeded
        since. After True, one more attempt decides. False, the default, means no or unknown: it may be an
        outage, which the engine waits out. Raises nothing.
        """
        return False

    def redact(self, record: JsonValue, *, done: bool) -> JsonValue:
        """Return a record, as JSON, without the fields that this component's parameters hide.

        Called on every component before a record of any node is shown to a person. Must not change the given
        record. `done`: the record has already been through this component.
        """
        return record

    @property
    def concurrency(self) -> int:
        """Number of batches processed concurrently (waiting transforms and sinks)."""
        return 1

    @property
    def limits(self) -> BatchLimits:
        """Batch limits of this component (default: batches as they arrive)."""
        return BatchLimits()


class Source(Component[P]):
    """A component that produces records.

    A simple source overrides only `extract`: it yields records or lists of records and is one split. A source
    with several splits overrides `splits` and `read`.

    Class attributes:
        reserves: `read` reserves its own bytes from `ctx.memory_budget` and passes the reservation on.
        repeatable: reading again gives the same records with the same keys, so a run can be resumed.
        parallel_splits: how many splits may be read concurrently.
        distinct_keys: no key occurs twice in a run. False keeps updates of a key in order at every stage.
    """

    reserves: bool = False
    repeatable: bool = False
    parallel_splits: int = 1
    distinct_keys: bool = True

    @property
    def fresh_keys(self) -> bool:
        """Return whether these records are new for certain. False marks every batch as a replay.

        Only a source that generates the ids of its records can know this. Unmarked batches are appended
        blindly.
        """
        return False

    @property
    def resumable(self) -> bool:
        """Return whether a record that is read again has the same key, regardless of its position."""
        return self.repeatable or (type(self).read is Source.read and type(self).key is not Source.key)

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """List the parts of the input in a stable order. They are stored for a resume."""
        yield Split("all")

    def can_list_after(self, last: Split) -> bool:
        """Return whether `splits` can continue after this split, because the input has a stable order.

        Without it, a listing that takes longer than a worker's shutdown grace period would never finish.
        """
        return False

    def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Read a split from `position` (None: the beginning); each batch has its end position.

        Never yield inside a task group or a cancel scope.
        """
        raise NotImplementedError

    async def read_all(self) -> AsyncGenerator[list[Record], None]:
        """Yield the records of every split, batch by batch; an `extract` for sources that override `read`.

        Raises:
            RecordError: a record cannot be read; those of earlier batches were yielded.
        """
        async with aclosing(self.splits(self.ctx)) as splits:  # type: ignore[type-var]
            async for split in splits:
                async with aclosing(self.read(split, None, self.ctx)) as batches:
                    async for batch in batches:
                        for _, error in batch.failures:
                            raise error
                        yield batch.records

    def extract(self) -> AsyncGenerator[Record | list[Record], None]:
        """Yield records, or lists of them; enough for a simple source, and usable without a pipeline."""
        raise NotImplementedError

    def key(self, record: Record, ordinal: int) -> str | None:
        """Return the key of a record of a simple source; None means its position."""
        return None


class Transform(Component[P]):
    """A component that changes records.

    `apply` takes a batch and derives another with `batch.replace`, `batch.select` or `batch.outcomes`. It may
    be `async`; then it runs concurrently with the other stages, `concurrency` batches at a time. The engine
    settles dropped, forked and failed records by comparing the two batches, so calling `apply` again after a
    `TransientError` counts nothing twice.
    """

    def apply(self, batch: Batch) -> Batch | Awaitable[Batch]:
        """Derive the next batch. Raises `BatchError`, `TransientError` or `FatalError`."""
        raise NotImplementedError

    @property
    def waits(self) -> bool:
        """Return whether `apply` is a coroutine function."""
        return inspect.iscoroutinefunction(self.apply)

    @property
    def keeps_ids(self) -> bool:
        """Return whether each output record has the `id` of its input record, at most once.

        Otherwise the ids may not be new, even if the source's are: every batch is a replay.
        """
        return False


@dataclass(frozen=True, slots=True)
class Receipt:
    """A sink's information about a delivered batch.

    `confirmed=False`: the receiver took the records but does not report their outcome.
    """

    confirmed: bool = True


class Sink(Component[P]):
    """A component that delivers records; downstream nodes receive what it has acknowledged.

    Class attributes:
        inline: `write` is quick and never waits for I/O, so it runs in its upstream's task.
    """

    inline: bool = False

    async def write(self, batch: Batch) -> Receipt | None:
        """Deliver a batch; returning means that every record arrived. None equals `Receipt()`.

        Raises:
            BatchError: some records failed; the others arrived.
            TransientError: the batch may be sent again as it is.
            FatalError: nothing can be delivered here.
        """
        raise NotImplementedError

    async def run_completed(self) -> None:
        """Called when all records of the run are settled and committed; again after a TransientError."""


ComponentFactory: TypeAlias = Callable[[BaseModel, BaseModel | None], Component[Any]]

C = TypeVar("C", bound=type[Component[Any]])

_WORK: Mapping[Kind, tuple[type, Sequence[str]]] = {
    Kind.SOURCE: (Source, ("extract", "read")),
    Kind.TRANSFORM: (Transform, ("apply",)),
    Kind.SINK: (Sink, ("write",)),
}
"""The class of each kind, and the methods of which a component has to define one."""


def component(
    kind: Kind,
    name: str,
    *,
    params: type[BaseModel] = NoParams,
    connection: type[BaseModel] | None = None,
    sandbox: str = "",
    extra: str = "",
    locality: Locality | Callable[[Any], Locality] = Locality.ANYWHERE,
    bookmarks: bool | Callable[[Any], bool] = False,
    branches: Callable[[Any], Branches] | None = None,
    whole_run: bool | Callable[[Any], bool] = False,
    claim: Callable[[Any], Claim | None] | None = None,
) -> Callable[[C], C]:
    """Class decorator: attach a `ComponentSpec` whose texts are the class's docstring.

    Raises:
        TypeError: an argument does not fit, or the class is of another kind, or it lacks the method that does
            the work.
    """
    first = "an engine.Kind, and the name comes second"
    expect("engine.component", "kind", kind, lambda one: isinstance(one, str) and one in set(Kind), first)
    kind = Kind(kind)

    def attach(cls: C) -> C:
        base, methods = _WORK[kind]
        check_class(cls, base, kind, methods)
        description = inspect.cleandoc(cls.__doc__ or "")
        cls.spec = ComponentSpec(
            name=name,
            kind=kind,
            factory=cls,
            params=params,
            connection=connection,
            sandbox=sandbox,
            summary=description.partition("\n")[0],
            description=description,
            extra=extra,
            locality=locality,
            bookmarks=bookmarks,
            branches=branches,
            whole_run=whole_run,
            claim=claim,
        )
        return cls

    return attach
