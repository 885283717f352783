"""`explode`: turn each item of a list into a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, Field, model_validator

from connectors.expressions import as_mappings
from connectors.transforms.expected import ExpectedFields
from engine.contract.batch import Batch, Drop
from engine.contract.component import Kind, Params, Transform, component
from engine.errors import RecordError

EMPTY: Final = Drop("empty list")


class ExplodeParams(Params):
    """Parameters of `explode`."""

    field: str = Field(min_length=1, description="The field that holds the list; a.b is a field inside")
    as_: str | None = Field(
        default=None,
        alias="as",
        min_length=1,
        description="The field that holds the item in the new records (default: the same field)",
    )
    merge: bool = Field(
        default=False,
        description="Merge the fields of the item (a mapping) into the record, instead of storing the "
        "item in a field",
    )
    prefix: str = Field(
        default="", max_length=64, description="With `merge`: prefix for the item's field names"
    )
    position: str | None = Field(
        default=None, min_length=1, description="Field for the position of the item in its list, from 0"
    )
    keep: list[str] | None = Field(
        default=None, description="Fields of the record to copy to each new record (default: all)"
    )
    keep_empty: bool = Field(
        default=False,
        description="Keep a record without items as one record with a null item (default: it is dropped)",
    )
    max_items: int = Field(
        default=10_000, ge=1, le=1_000_000, description="A record with a longer list becomes a dead letter"
    )

    @model_validator(mode="after")
    def _one_way(self) -> ExplodeParams:
        if self.merge and self.as_ is not None:
            raise ValueError("`as` names the field of the item, and `merge` makes none: write one of them")
        if self.prefix and not self.merge:
            raise ValueError("`prefix` is for the fields that `merge` makes")
        return self


@component(Kind.TRANSFORM, "explode", params=ExplodeParams)
class Explode(Transform[ExplodeParams]):
    """Turns each item of a list into a record.

    The new records have the keys `key/0`, `key/1`, …, so each is settled separately. A record whose list is
    empty, null or missing is dropped as `empty list`. If the field is not a list, the record becomes a dead
    letter.
    """

    def __init__(self, params: ExplodeParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._path = tuple(params.field.split("."))
        self._expected = ExpectedFields([self._path])

    def apply(self, batch: Batch) -> Batch:
        """Turn each record into the records of its items."""
        records = as_mappings(batch.records)
        self._expected.look(records, self.ctx)
        return batch.outcomes([self._outcome(record) for record in records])

    def _outcome(self, record: Mapping[str, Any]) -> Any:
        params = self.params
        items = _inside(record, self._path_in(record))
        if items is None or items == []:
            return [self._made(record, None, None)] if params.keep_empty else EMPTY
        if not isinstance(items, list | tuple):
            return RecordError(
                f"field `{params.field}`: expected a list", kind="ExplodeError", unplanned=True
            )
        if len(items) > params.max_items:
            message = f"field `{params.field}`: {len(items)} items are more than `max_items`"
            return RecordError(message, kind="ExplodeError", unplanned=True)
        try:
            return [self._made(record, item, place) for place, item in enumerate(items)]
        except RecordError as error:
            return error

    def _made(self, record: Mapping[str, Any], item: Any, place: int | None) -> dict[str, Any]:
        params = self.params
        names = record if params.keep is None else [name for name in params.keep if name in record]
        path = self._path_in(record)
        made = {name: record[name] for name in names if name != path[0]}
        replaced = not params.merge and params.as_ is None
        if len(path) > 1 and path[0] in names:
            made[path[0]] = _without(record[path[0]], path[1:])
        if params.position is not None:
            made[params.position] = place
        if replaced:
            _put(made, path, item)
        elif params.as_ is not None:
            made[params.as_] = item
        elif item is not None:
            self._merge(made, item)
        return made

    def _path_in(self, record: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the path of the list; a name may itself contain points (`flatten` with that separator)."""
        return (self.params.field,) if self.params.field in record else self._path

    def _merge(self, made: dict[str, Any], item: Any) -> None:
        field = self.params.field
        if not isinstance(item, Mapping):
            raise RecordError(
                f"field `{field}`: `merge` needs items that are mappings", kind="ExplodeError", unplanned=True
            )
        for name, value in item.items():
            merged = f"{self.params.prefix}{name}"
            if merged in made:
                message = (
                    f"field `{field}`: an item and its record have a field of the same name: set `prefix`"
                )
                raise RecordError(message, kind="ExplodeError", unplanned=True)
            made[merged] = value


def _inside(value: Any, path: Sequence[str]) -> Any:
    """Return the value at the path, or None."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _without(value: Any, path: Sequence[str]) -> Any:
    """Return a copy of a value without the one at the path."""
    if not isinstance(value, Mapping) or path[0] not in value:
        return value
    if len(path) == 1:
        return {name: one for name, one in value.items() if name != path[0]}
    return {**value, path[0]: _without(value[path[0]], path[1:])}


def _put(made: dict[str, Any], path: Sequence[str], item: Any) -> None:
    """Set the value at the path, creating mappings on the way."""
    for name in path[:-1]:
        inside = made.get(name)
        inside = dict(inside) if isinstance(inside, Mapping) else {}
        made[name] = inside
        made = inside
    made[path[-1]] = item
