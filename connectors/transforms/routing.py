"""`route`: send each record to named branches by expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from traceback import walk_tb
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from connectors.expressions import Expression, ExpressionError, ExpressionText, as_mappings
from connectors.transforms.expected import ExpectedFields
from engine.contract.batch import Batch, Drop
from engine.contract.branches import Branches
from engine.contract.component import Kind, Params, Transform, component
from engine.contract.each import map_each
from engine.errors import RecordError

BranchName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$", max_length=64)]

NO_ROUTE = Drop("no route")


class RouteParams(Params):
    """Parameters of `route`."""

    branches: dict[BranchName, ExpressionText] = Field(
        min_length=1,
        max_length=100,
        description="The branches in order, each with its condition: {domestic: \"country == 'DE'\"}; a node "
        "reads one by `input: node.domestic`",
    )
    else_: BranchName | None = Field(
        default=None,
        alias="else",
        description="The branch of records for which no condition is true (default: they are dropped, with "
        "the reason `no route`)",
    )
    match: Literal["first", "all"] = Field(
        default="first",
        description="Whether a record goes to the first branch whose condition is true, or to all of them",
    )
    drop: list[BranchName] = Field(
        default_factory=list, description="Branches whose records are dropped on purpose"
    )

    @model_validator(mode="after")
    def _named_once(self) -> RouteParams:
        if self.else_ in self.branches:
            raise ValueError(f"`else` names the branch `{self.else_}`, which has a condition")
        unknown = [name for name in self.drop if name not in self.all_names()]
        if unknown:
            raise ValueError(f"`drop` names `{unknown[0]}`, which is not a branch")
        if set(self.drop) >= set(self.all_names()):
            raise ValueError("every branch is dropped")
        return self

    def all_names(self) -> list[str]:
        """The branches in order, that of `else` last."""
        return [*self.branches, *([self.else_] if self.else_ is not None else [])]


def _branches(params: RouteParams) -> Branches:
    names = tuple(name for name in params.all_names() if name not in params.drop)
    return Branches(names, exclusive=params.match == "first", dropped=frozenset(params.drop))


@component(Kind.TRANSFORM, "route", params=RouteParams, branches=_branches)
class Route(Transform[RouteParams]):
    """Sends each record to named branches by expressions.

    A node names the branch that it reads: `input: by_country.domestic`. Every branch must be read by a node
    or be listed in `drop`; `validate` reports others. Records keep their keys. The branches of `match: first`
    can be merged again; those of `match: all`, which may share records, need a `key_suffix` for that.
    """

    def __init__(self, params: RouteParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._names = params.all_names()
        self._expressions = [Expression(text) for text in params.branches.values()]
        self._expected = ExpectedFields(path for one in self._expressions for path in one.fields)
        place = _first if params.match == "first" else _all
        rest = () if params.else_ is None else (len(self._expressions),)
        self._place = place([expression.function for expression in self._expressions], rest)
        self._dropped = {
            self._names.index(name): Drop(f"{name}: dropped by the route") for name in params.drop
        }

    @property
    def keeps_ids(self) -> bool:
        """Whether ids stay unique: not if a record can go to several branches."""
        return self.params.match == "first"

    def apply(self, batch: Batch) -> Batch:
        """Set the branches of each record, and drop records without any."""
        records = as_mappings(batch.records)
        self._expected.look(records, self.ctx)
        places, failed = map_each(self._place, records, self._failure)
        whole = [self._open(place) for place in places]
        if failed or not all(whole):
            derived = batch.outcomes([
                place if isinstance(place, RecordError) else record if open_ else self._drop(place)
                for record, place, open_ in zip(batch.records, places, whole, strict=True)
            ])  # fmt: skip
            whole = [open_ for open_ in whole if open_]
        else:
            derived = batch.replace(batch.records)
        derived.branches = {
            name: [index in open_ for open_ in whole]
            for index, name in enumerate(self._names)
            if index not in self._dropped
        }
        return derived

    def _open(self, place: Any) -> tuple[int, ...]:
        """Return the branches of a record, without dropped ones."""
        if isinstance(place, RecordError):
            return ()
        return tuple(index for index in place if index not in self._dropped) if self._dropped else place

    def _drop(self, place: tuple[int, ...]) -> Drop:
        return self._dropped[place[0]] if place else NO_ROUTE

    def _failure(self, error: Exception, _: int) -> ExpressionError:
        # by identity: equal code may have other constants
        ran = {id(frame.f_code) for frame, _ in walk_tb(error.__traceback__)}
        index = next((n for n, one in enumerate(self._expressions) if id(one.function.__code__) in ran), 0)
        return self._expressions[index].failure(error, f"branch `{self._names[index]}`: ")


def _first(
    functions: Sequence[Callable[[Any], Any]], rest: tuple[int, ...]
) -> Callable[[Any], tuple[int, ...]]:
    single = [(function, (index,)) for index, function in enumerate(functions)]

    def place(record: Any) -> tuple[int, ...]:
        for function, found in single:
            if function(record):
                return found
        return rest

    return place


def _all(
    functions: Sequence[Callable[[Any], Any]], rest: tuple[int, ...]
) -> Callable[[Any], tuple[int, ...]]:
    def place(record: Any) -> tuple[int, ...]:
        return tuple([index for index, function in enumerate(functions) if function(record)]) or rest

    return place
