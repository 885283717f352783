"""The source `generate`: records with fields described in the pipeline file."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from string import Formatter
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from uuid import UUID

import anyio.to_thread
from pydantic import Field, field_validator

from engine.contract.batch import Batch
from engine.contract.component import Context, Kind, Params, Source, component, operational
from engine.contract.keys import KeyRange
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.errors import FatalError

if TYPE_CHECKING:
    from faker.generator import Generator

BLOCK: Final = 100
"""Records drawn from one derived seed. Changing it would change the records of every seed."""

MAX_RECORDS: Final = 1_000_000_000
"""Maximum splits of a run, since all are in the ledger before the first is read."""

PROVIDER: Final = "faker."
NUMBER: Final = "number"
_MAX_WIDTH: Final = 1000

Row: TypeAlias = dict[str, Any]
Make: TypeAlias = "Callable[[Row], Any]"


class GenerateParams(Params):
    """Parameters of the `generate` source."""

    fields: dict[str, Any] = Field(
        min_length=1,
        description="What each field holds: `faker.PROVIDER`; `{faker: PROVIDER, …arguments}`; "
        "`{choice: [a, b], weights: [9, 1]}`; a template such as `INV-{number:06d}`, with `number` "
        "(counted from 0) and the fields above it; nested fields; or a constant",
    )
    records: int = Field(default=1000, ge=0, le=MAX_RECORDS, description="Number of records to generate")
    seed: int | str | None = Field(
        default=None,
        description="Seed of the records: the same seed gives the same records (default: a new one for each "
        "run; a resumed run keeps it)",
    )
    locale: str = Field(default="en_US", description="Faker's locale, e.g. `de_DE`")
    page_size: int = operational(500, ge=1, le=100_000, description="Records per batch")
    split_size: int = operational(
        100_000, ge=1, description="Records per split, the part of a run that one worker reads"
    )

    @field_validator("fields")
    @classmethod
    def _fields_are_well_formed(cls, fields: dict[str, Any]) -> dict[str, Any]:
        _check_fields(fields)
        return fields


@component(Kind.SOURCE, "generate", params=GenerateParams, extra="simulated")
class GenerateSource(Source[GenerateParams]):
    """Generates records from field descriptions: Faker's providers, choices and templates.

    Record *n* of a seed is always the same, however the run is split or resumed. Dates that Faker draws
    relative to today are the exception.
    """

    repeatable = True

    @property
    def fresh_keys(self) -> bool:
        """True if each run draws its own seed; a given seed may have been used before."""
        return self.params.seed is None

    async def splits(self, ctx: Context) -> AsyncIterator[Split]:
        """Return ranges of `split_size` records, all with the same seed."""
        seed, size = self._seed(ctx), self.params.split_size
        for start in range(0, self.params.records, size):
            stop = min(start + size, self.params.records)
            yield Split(f"{start}-{stop}", {"start": start, "stop": stop, "seed": seed}, first_ordinal=start)

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Yield pages of records; a position is the number of the next record.

        Raises:
            FatalError: Faker has no such locale or provider, or the provider does not take the arguments.
        """
        seed, stop = str(split.manifest["seed"]), int(split.manifest["stop"])
        start = int(split.manifest["start"] if position is None else position)
        # another node may use the same given seed for different records
        prefix = f"{seed}/" if self.params.seed is None else f"{ctx.node}/{seed}/"
        maker = await anyio.to_thread.run_sync(_Maker, self.params)
        while start < stop:
            end = min(start + self.params.page_size, stop)
            records = await anyio.to_thread.run_sync(maker.range, seed, start, end)
            yield Batch(records, KeyRange(prefix, start, end), position=end)
            if ctx.draining():
                return
            start = end

    async def extract(self) -> AsyncGenerator[list[Row], None]:
        """Generate all records, in lists, without a pipeline. Without a `seed` every call gives new ones."""
        seed = secrets.token_hex(8) if self.params.seed is None else str(self.params.seed)
        maker = await anyio.to_thread.run_sync(_Maker, self.params)
        for start in range(0, self.params.records, self.params.page_size):
            end = min(start + self.params.page_size, self.params.records)
            yield await anyio.to_thread.run_sync(maker.range, seed, start, end)

    def _seed(self, ctx: Context) -> str:
        if self.params.seed is not None:
            return str(self.params.seed)
        # with the same seed, another such node of the run would repeat the same keys
        return ":".join(part for part in (ctx.seed, ctx.pipeline, ctx.node) if part)


class _Maker:
    """Draws blocks of records, keeping the last one: a page may end inside a block."""

    def __init__(self, params: GenerateParams) -> None:
        from faker import Factory

        try:
            # weighting makes rare names rare, but takes ten times as long
            self._fake: Generator = Factory.create(params.locale, use_weighting=False)
        except AttributeError:
            raise FatalError(
                f"Faker has no locale {params.locale!r}: use one such as en_US or de_DE"
            ) from None
        self._fake.seed_instance(0)  # from here on, its random numbers are its own
        self._fields = {name: self._make(name, what) for name, what in params.fields.items()}
        self._held: tuple[str, int, list[Row]] = ("", -1, [])

    def range(self, seed: str, start: int, stop: int) -> list[Row]:
        """Return records `start` to `stop` (exclusive)."""
        records: list[Row] = []
        for first in range(start - start % BLOCK, stop, BLOCK):
            if self._held[:2] != (seed, first):
                self._held = (seed, first, self._block(seed, first))
            records += self._held[2][max(start - first, 0) : stop - first]
        return records

    def _block(self, seed: str, first: int) -> list[Row]:
        self._fake.seed_instance(f"{seed}/{first // BLOCK}")
        rows: list[Row] = []
        for number in range(first, first + BLOCK):
            known: Row = {NUMBER: number}
            row: Row = {}
            for name, make in self._fields.items():
                row[name] = known[name] = make(known)
            rows.append(row)
        return rows

    def _make(self, where: str, what: Any) -> Make:
        if isinstance(what, str) and what.startswith(PROVIDER):
            return self._provider(where, what.removeprefix(PROVIDER), {})
        if isinstance(what, str) and "{" in what:
            return lambda known: _fill(where, what, known)
        if not isinstance(what, Mapping):
            return lambda _known: what
        if "faker" in what:
            return self._provider(where, what["faker"], {key: what[key] for key in what if key != "faker"})
        if "choice" in what:
            values, weights = what["choice"], what.get("weights")
            return lambda _known: self._fake.random.choices(values, weights)[0]
        nested = {name: self._make(f"{where}.{name}", one) for name, one in what.items()}
        return lambda known: {name: make(known) for name, make in nested.items()}

    def _provider(self, where: str, name: str, arguments: dict[str, Any]) -> Make:
        try:
            draw = self._fake.get_formatter(name)
        except AttributeError:
            near = get_close_matches(name, [one for one in dir(self._fake) if one[:1] != "_"], 1)
            hint = (
                f"do you mean {near[0]!r}?" if near else "see https://faker.readthedocs.io for those it has"
            )
            raise FatalError(
                f"field {where!r}: Faker has no provider {name!r} for this locale; {hint}"
            ) from None
        try:
            _plain(draw(**arguments))
        except Exception as error:  # noqa: BLE001 - a provider may raise anything for arguments that are wrong
            raise FatalError(
                f"field {where!r}: `{PROVIDER}{name}` cannot be used like this: {error}"
            ) from None
        return lambda _known: _plain(draw(**arguments))


def _fill(where: str, template: str, known: Row) -> str:
    try:
        return template.format_map(known)
    except (TypeError, ValueError) as error:
        raise FatalError(f"field {where!r}: cannot fill in `{template}`: {error}") from None


def _plain(value: Any) -> Any:
    """Convert a value to JSON types."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(one) for one in value]
    raise TypeError(f"JSON has no {type(value).__name__}")


def _check_fields(fields: Mapping[str, Any], above: tuple[str, ...] = (NUMBER,), where: str = "") -> None:
    known = list(above)
    for name, what in fields.items():
        at = f"{where}{name}"
        if isinstance(what, str) and "{" in what and not what.startswith(PROVIDER):
            _check_template(at, what, known)
        elif isinstance(what, Mapping):
            _check_mapping(at, what, tuple(known))
        if not where:
            known.append(name)


def _check_mapping(at: str, what: Mapping[str, Any], known: tuple[str, ...]) -> None:
    if "faker" in what:
        if not isinstance(what["faker"], str):
            raise ValueError(f"field {at!r}: `faker` takes the name of a provider")
    elif "choice" in what:
        values, weights = what["choice"], what.get("weights")
        if not isinstance(values, list) or not values or set(what) - {"choice", "weights"}:
            raise ValueError(f"field {at!r}: expected `choice: [value, …]`, optionally with `weights`")
        usable = weights is None or (
            isinstance(weights, list)
            and len(weights) == len(values)
            and all(isinstance(one, int | float) and one >= 0 for one in weights)
            and sum(weights) > 0
        )
        if not usable:
            raise ValueError(
                f"field {at!r}: `weights` takes one number from 0 for each of {len(values)} values"
            )
    else:
        _check_fields(what, known, f"{at}.")


def _check_template(at: str, template: str, known: list[str]) -> None:
    """Allow only field names and short formats: `str.format` could read attributes, or make gigabytes."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"field {at!r}: {error}; write {{{{ and }}}} for braces") from None
    for _, name, form, conversion in parts:
        if name is None:
            continue
        if name not in known:
            raise ValueError(
                f"field {at!r}: {{{name}}} is unknown here; known are {', '.join(known)} "
                "(write {{ and }} for braces)"
            )
        digits = "".join(one if one.isdigit() else " " for one in form or "").split()
        if conversion or "{" in (form or "") or any(int(one[:9]) > _MAX_WIDTH for one in digits):
            raise ValueError(f"field {at!r}: {{{name}:{form}}} is not a format that can be used here")
