"""The common part of database sources: splits by range, resuming after a row, incremental reads."""

from __future__ import annotations

import re
from abc import abstractmethod
from calendar import day_abbr, day_name, month_abbr, month_name
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from itertools import pairwise
from typing import Any, Final, Self, TypeAlias, TypeVar

from pydantic import BaseModel, Field, model_validator

from connectors.future_values import is_future, note_of_future, note_of_start
from connectors.tables.params import TableSourceParams, unusable_key
from engine.contract.batch import Batch
from engine.contract.bookmarks import Bookmark
from engine.contract.component import Context, Source, operational
from engine.contract.keys import KeyList, KeyRange, Keys
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import FatalError

_MARK: Final = "delivered"
_DAY: Final = re.compile(r"\d{4,}-\d\d-\d\d")
_NAME: Final = "|".join([*month_name[1:], *month_abbr[1:], *day_name, *day_abbr])
# neither compact dates, nor numbers with as many digits as seconds since 1970 have until 2286
_NUMBER: Final = re.compile(r"-\d.*|(?!(?:19|20)\d\d(?:\d{4}$|\.))(?:0|[1-9]\d{0,8})(?:\.\d+)?")
_DATE: Final = re.compile(
    r"\d\d?([./-])\d\d?\1\d{4}\b.*|\d\d?([./])\d\d?\2\d\d\b.*"
    rf"|\d\d?[ -](?:{_NAME})\b.*|(?:{_NAME})\b\W+\d.*"
)

Order: TypeAlias = list[Any]
"""A row's values of the ordering columns, as JSON."""


class OrderedSourceParams(TableSourceParams):
    """Parameters of database sources."""

    incremental: str | None = Field(
        default=None,
        description="Column that grows with every change, e.g. `updated_at`: read only the rows after those "
        "that earlier runs of the pipeline have delivered",
    )
    split_rows: int = operational(
        100_000, ge=1, description="Rows per split, the part of a run that one worker reads"
    )
    parallel: int = operational(2, ge=1, le=16, description="Splits that are read at the same time")

    @model_validator(mode="after")
    def _tells_rows_apart(self) -> Self:
        if self.incremental is not None and self.key is None:
            raise ValueError("`incremental` needs a `key`, which tells rows with the same value apart")
        return self


P = TypeVar("P", bound=OrderedSourceParams)


def keeps_bookmarks(params: OrderedSourceParams) -> bool:
    """Whether runs store bookmarks of what they have delivered."""
    return params.incremental is not None


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of a split: after `after`, up to and including `until`."""

    after: Order | None = None
    until: Order | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Records with their orders; `names` are the orders as text, if they are not text."""

    records: list[dict[str, Any]]
    orders: list[Order] = field(default_factory=list)
    names: Sequence[Sequence[str]] = ()


class OrderedSource(Source[P]):
    """Base of database sources: reads rows in the order of the `key`, or of `incremental` and the `key`."""

    def __init__(self, params: P, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self.repeatable = params.key is not None
        self.parallel_splits = 1 if params.incremental else params.parallel

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Return ranges of `split_rows` keys each; a single split without a key, or with `incremental`.

        Raises:
            TransientError: the server cannot be reached.
            FatalError: the query cannot be read, or the key is missing or null in some rows.
        """
        params, place = self.params, self._place
        if params.key is None:
            yield Split("all", asdict(Part()))
            return
        if params.incremental is not None:
            after = (await ctx.bookmarks.get(place, [_MARK])).get(_MARK)
            if after is not None and is_future(after[0], ctx.clock.now()):
                ctx.count(note_of_start(params.incremental, ctx.pipeline))
            yield Split("changed", asdict(Part(after=after)))
            return
        for number, (after, until) in enumerate(pairwise([None, *await self._bounds(), None])):
            part = Part(None if after is None else [after], None if until is None else [until])
            yield Split(f"{number:06d}", asdict(part), first_ordinal=number * params.split_rows)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Read the rows of a split after `position`: `[rows before, the last row's order, the first row's]`.

        Raises:
            TransientError: the server cannot be reached; all rows before were yielded.
            FatalError: the query cannot be read, or the key is missing or not unique.
        """
        part = Part(**split.manifest)
        before, after, *stored = position or (0, part.after)
        least = stored[0] if stored else part.after or after
        async with aclosing(self._pages(Part(after, part.until))) as pages:
            async for page in pages:
                keys: Keys
                first = split.first_ordinal + before
                if page.orders:
                    self._check(page.orders, after if position else None)
                    keys = KeyList(self._keys(page.names or page.orders), first, counted=True)
                    least = least or page.orders[0]
                    position = after = page.orders[-1]
                    self._note_days((page.names or page.orders)[-1][0])
                else:
                    keys = KeyRange(f"{self._name}/", first, first + len(page.records))
                before += len(page.records)
                batch = Batch(page.records, keys, position=[before, after, least])
                batch.bookmarks = self._bookmarks(page, least)
                yield batch
                if ctx.draining():
                    return

    async def extract(self) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Read all rows, in lists, without a pipeline."""
        async with aclosing(self.splits(self.ctx)) as splits:  # type: ignore[type-var]
            async for split in splits:
                async with aclosing(self._pages(Part(**split.manifest))) as pages:
                    async for page in pages:
                        yield page.records

    @property
    @abstractmethod
    def _database(self) -> str:
        """The identity of this database, without credentials."""

    @abstractmethod
    async def _bounds(self) -> list[Any]:
        """Return the last key of each split except the last split.

        The last split is unbounded, so it includes rows added meanwhile; each row is read once.
        """

    @abstractmethod
    def _pages(self, part: Part) -> AsyncGenerator[Page, None]:
        """Yield the rows of a part, in order."""

    @property
    def _order(self) -> list[str]:
        """The ordering columns."""
        return [name for name in (self.params.incremental, self.params.key) if name is not None]

    @property
    def _name(self) -> str:
        return self.ctx.node or self.params.table or "query"  # two nodes may read the same table

    def _keys(self, names: Sequence[Sequence[str]]) -> list[str]:
        """Return the keys of rows. A row that changes between a stop and a resume becomes another record."""
        if self.params.incremental is None:
            return [f"{self._name}/{key}" for (key,) in names]
        return [f"{self._name}/{key}@{changed}" for changed, key in names]

    @property
    def _place(self) -> str:
        """The scope of bookmarks: another query or database has its own."""
        what = f"{self.params.relation}\n{self.params.key}\n{self.params.incremental}"
        return f"{self._database}/{sha256(what.encode()).hexdigest()[:12]}"

    def _bookmarks(self, page: Page, least: Order | None) -> list[Bookmark]:
        """Return where the next run continues: after the last row that is not later than the clock."""
        column, orders, now = self.params.incremental, page.orders, self.ctx.clock.now()
        if column is None or least is None:
            return []
        texts, known = page.names or orders, least[0]
        here = next(
            (at for at in reversed(range(len(orders))) if not is_future(texts[at][0], now, known)), -1
        )
        if here < len(orders) - 1:
            self.ctx.count(note_of_future(column))
        return [Bookmark(self._place, _MARK, orders[here])] if here >= 0 else []

    def _note_days(self, last: object) -> None:
        if self.params.incremental is not None and isinstance(last, str) and _DAY.fullmatch(last):
            self.ctx.count(
                f"note: reads what is new by `{self.params.incremental}`, which holds days: it misses rows "
                "that change later on the last day; use a column with times"
            )

    def _check_texts(self, texts: Iterable[object]) -> None:
        """Check values of `incremental` that the database compares as text. Raises FatalError."""
        for text in filter(None, texts):
            number = _NUMBER.fullmatch(str(text))
            if number or _DATE.fullmatch(str(text)):
                what = "numbers" if number else "dates that do not begin with the year"
                raise FatalError(
                    f"{self.params.incremental!r} has {what} as text, whose order is another one, so later "
                    "runs would miss rows: cast it in `query` to a number, date or time",
                    kind="schema",
                )

    def _check(self, orders: Sequence[Order], last: Order | None) -> None:
        if any(order[-1] is None for order in orders):
            raise unusable_key(self.params.key, "has no value in some rows")
        if any(one == other for one, other in pairwise([last, *orders])):
            raise unusable_key(self.params.key, "names more than one row")
