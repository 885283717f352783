"""`map`: reshape each record by a short list of actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, Field, model_validator

from connectors.expressions import as_mappings
from connectors.transforms.actions import Change, MapActions, changes_of, fields_read
from connectors.transforms.expected import ExpectedFields
from engine.contract.batch import Batch
from engine.contract.component import Kind, Transform, component
from engine.contract.each import map_each
from engine.contract.types import Record
from engine.errors import RecordError


class MapParams(MapActions):
    """Parameters of `map`."""

    steps: list[MapActions] = Field(
        default_factory=list,
        max_length=100,
        description="Several groups of actions, one after the other, where their order matters",
    )

    @model_validator(mode="after")
    def _does_something(self) -> MapParams:
        if self.steps and self.used():
            raise ValueError("write the actions either directly or in `steps`, not both")
        if not self.steps and not self.used():
            raise ValueError("no action: write at least one of set, rename, drop, keep, cast, default, …")
        if any(not step.used() for step in self.steps):
            raise ValueError("a step without an action")
        return self

    def groups(self) -> Sequence[MapActions]:
        """The groups of actions in their order."""
        return self.steps or [self]


@component(Kind.TRANSFORM, "map", params=MapParams)
class Map(Transform[MapParams]):
    """Reshapes each record: rename, parse, cast, compute, drop and keep fields.

    The actions of one group run in this order: `flatten`, `rename`, `parse`, `default`, `cast`, `set`,
    `template`, `hash`, `drop`, `keep`; write `steps` for another order. Names refer to the fields after the
    preceding actions. A record for which an action fails becomes a dead letter. Records keep their keys.
    """

    def __init__(self, params: MapParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._change = _in_order([change for group in params.groups() for change in changes_of(group)])
        self._expected = ExpectedFields(fields_read(params.groups()))

    @property
    def keeps_ids(self) -> bool:
        """Whether ids never change: true if no action touches the field `id`."""
        return not any(group.touches("id") for group in self.params.groups())

    def apply(self, batch: Batch) -> Batch:
        """Reshape copies of the records."""
        records = as_mappings(batch.records)
        self._expected.look(records, self.ctx)
        made, failed = map_each(self._change, records, _failure)
        return batch.outcomes(made) if failed else batch.replace(made)


def _failure(error: Exception, _: int) -> RecordError:
    if isinstance(error, RecordError):
        return error
    raise error  # a bug in an action


def _in_order(changes: Sequence[Change]) -> Callable[[Any], Record]:
    """Combine changes into one function that copies a record and changes the copy."""
    if len(changes) == 1:
        (only,) = changes

        def change_once(record: Any) -> Record:
            return only(dict(record))

        return change_once

    def change(record: Any) -> Record:
        fields = dict(record)
        for one in changes:
            fields = one(fields)
        return fields

    return change
