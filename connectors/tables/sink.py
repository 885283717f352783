"""The common part of table sinks; each database implements adding and merging rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, TypeAlias, TypeVar
from uuid import uuid4

from pydantic import BaseModel

from connectors.tables.columns import Changes, Column, Dialect, Row, changes_for, fill, rows_of, shown
from connectors.tables.deliveries import LedgerRow, Reader
from connectors.tables.fitting import unfit
from connectors.tables.isolation import deliver_all
from connectors.tables.params import Mode, TableSinkParams, merge_rounds, staging_name
from engine.contract.batch import Batch
from engine.contract.component import BatchLimits, Context, Sink
from engine.contract.verification import Check, Delivered
from engine.errors import BatchError, FatalError, RecordError

P = TypeVar("P", bound=TableSinkParams)

Values: TypeAlias = Mapping[str, Sequence[Any]]
"""Values of rows by column."""

Rounds: TypeAlias = Sequence[tuple[Sequence[int], Sequence[str]]]
"""Rows to merge together with their columns, in order."""

_BATCH_BYTES: Final = 16 * 1024 * 1024
_EXACT: Final = 2**53
"""A float holds each integer up to this one."""


class TableSink(Sink[P]):
    """Base of table sinks: determines which records to write, and which rows are refused.

    Class attributes:
        dialect: the database's names of types and rules for names.
    """

    dialect: ClassVar[Dialect]

    def __init__(self, params: P, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._columns: dict[str, Column] = {}
        self._table = params.table
        self._replaced: dict[str, Column] = {}  # the columns of the table whose rows are to be replaced
        self._exact: set[str] = set()  # columns of integers that no float can hold
        self._reader = Reader(self._known, distinct=True)

    @property
    def limits(self) -> BatchLimits:
        """`records`, and 16 MiB."""
        return BatchLimits(records=self.params.records, nbytes=_BATCH_BYTES)

    async def count_records(self, delivered: Delivered) -> list[Check]:
        """Compare the entries of the run with the engine's ledger."""
        what = f"rows added to {self.params.table}"
        if self.params.mode is Mode.MERGE:
            return [Check(what, delivered.records, note="merged rows do not tell which run they are of")]
        if self.ctx.chunk:
            return [Check(what, delivered.records, note="other parts of the run add rows too")]
        return [delivered.check(what, await self._count())]

    def _begin(self) -> str:
        """Prepare for the run; return its id in the ledger."""
        if self.params.mode is Mode.REPLACE:
            self._table = staging_name(self.params.table, self.ctx)
        self._reader = Reader(self._known, distinct=self.ctx.distinct_keys)
        # without a pipeline nothing is repeated, and all runs have the same id
        return uuid4().hex if self.ctx.run_id == Context().run_id else self.ctx.run_id

    async def _deliver(self, batch: Batch) -> None:
        """Add or merge the records that are not in the table yet."""
        merges = self.params.mode is Mode.MERGE
        indices = list(range(len(batch))) if merges else await self._reader.missing(batch)
        if not indices:
            return
        rows = rows_of(batch.records)
        refused = unfit(rows, self.params.key, self.dialect)
        if refused:
            refused = {index: refused[index] for index in indices if index in refused}
            indices = [index for index in indices if index not in refused]
        if len(indices) < len(rows):
            batch, rows = batch.take(indices), [rows[index] for index in indices]
        await self._evolve(rows)
        values, failures = fill(rows, self._columns, self.dialect, self.params.columns)
        good = [index for index in range(len(rows)) if index not in failures]
        for part, given in [(good, values)] if merges else self._by_defaults(good, rows, values):
            failures |= await self._write_all(part, rows, given, batch)
        refused |= {indices[index]: error for index, error in failures.items()}
        if refused:
            raise BatchError(refused)

    async def _write_all(
        self, part: Sequence[int], rows: Sequence[Row], values: Values, batch: Batch
    ) -> dict[int, RecordError]:
        """Write these rows, in one transaction if possible; return those that are refused."""
        if not values:
            return dict.fromkeys(part, RecordError("no field of the record has a value", kind="EmptyRecord"))

        async def write(some: Sequence[int]) -> None:
            if self.params.mode is Mode.MERGE:
                await self._merge(values, self._rounds(some, rows, values))
            else:
                await self._append(values, some, batch if len(some) == len(batch) else batch.take(some))

        return await deliver_all(part, write)

    def _by_defaults(
        self, part: Sequence[int], rows: Sequence[Row], values: Values
    ) -> list[tuple[Sequence[int], Values]]:
        """Divide rows by the fields that they leave to defaults, and return each group with its values."""
        defaults = {folded for name in values if self._columns[folded := self.dialect.fold(name)].default}
        if not defaults:
            return [(part, values)]
        groups: dict[frozenset[str], list[int]] = {}
        for index in part:
            left = frozenset(defaults.difference(map(self.dialect.fold, rows[index])))
            groups.setdefault(left, []).append(index)
        return [
            (group, {name: column for name, column in values.items() if self.dialect.fold(name) not in left})
            for left, group in groups.items()
        ]

    async def _evolve(self, rows: Sequence[Row]) -> None:
        """Create the table, or change it for these rows."""
        if not self._columns:
            await self._adapt(rows)
            if self.params.mode is not Mode.REPLACE:
                return  # a table of these rows; one created like another may still lack columns
        if self.params.evolve:
            await self._adapt(rows)

    async def _adapt(self, rows: Sequence[Row]) -> None:
        declared = {column.name: column.sql for column in self._replaced.values()} | self.params.columns
        changes = changes_for(rows, self._columns, declared, self.dialect)
        if self._replaced and not self.params.evolve:
            changes.added = [one for one in changes.added if self.dialect.fold(one.name) in self._replaced]
        changes.widened = [one for one in changes.widened if not await self._would_round(one.name)]
        if not changes:
            return
        before = {**self._replaced, **self._columns}
        try:
            await self._alter(changes)
        except FatalError as error:
            changed = [
                one for one in (*changes.added, *changes.widened)
                if (old := before.get(self.dialect.fold(one.name))) is None or old.sql != one.sql
            ]  # fmt: skip
            if not before or not changed:
                raise
            names = ", ".join(shown(column.name) for column in changed)
            raise FatalError(
                f"cannot add or widen the columns {names} of {self.params.table}: {error}; with "
                "`evolve: false`, records that need them become dead letters",
                kind=error.kind,
            ) from error

    async def _would_round(self, name: str) -> bool:
        """Return whether the integer column has a value that a float would round."""
        if name not in self._exact and await self._any_value(name, f"NOT BETWEEN {-_EXACT} AND {_EXACT}"):
            self._exact.add(name)
        return name in self._exact

    def _rounds(self, part: Sequence[int], rows: Sequence[Row], values: Values) -> Rounds:
        rounds: list[tuple[Sequence[int], Sequence[str]]] = []
        for one in merge_rounds(part, rows, self.params.key):
            layout = set(map(self.dialect.fold, rows[one[0]]))
            rounds.append((one, [name for name in values if self.dialect.fold(name) in layout]))
        return rounds

    async def _known(self, split: str) -> list[LedgerRow]:
        """Return the entries of a split of the run."""
        raise NotImplementedError

    async def _count(self) -> int:
        """Return the number of records of the run in the table, according to the entries."""
        raise NotImplementedError

    async def _alter(self, changes: Changes) -> None:
        """Create the table or change its columns, and read them."""
        raise NotImplementedError

    async def _any_value(self, name: str, condition: str) -> bool:
        """Whether a value of a column meets a condition in SQL."""
        raise NotImplementedError

    async def _append(self, values: Values, part: Sequence[int], batch: Batch) -> None:
        """Add these rows, with an entry for `batch`, in one transaction. Raises RowsRefusedError."""
        raise NotImplementedError

    async def _merge(self, values: Values, rounds: Rounds) -> None:
        """Merge rows in one transaction. Raises RowsRefusedError."""
        raise NotImplementedError


def chosen(column: Sequence[Any], part: Sequence[int]) -> Sequence[Any]:
    """Return the values of these rows."""
    return column if len(part) == len(column) else [column[index] for index in part]
