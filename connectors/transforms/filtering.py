"""`filter`: keep the records for which an expression is true."""

from __future__ import annotations

from pydantic import BaseModel, Field

from connectors.expressions import Expression, ExpressionText, as_mappings
from connectors.transforms.expected import ExpectedFields
from engine.contract.batch import Batch
from engine.contract.component import Kind, Params, Transform, component
from engine.contract.each import select_or_fail


class FilterParams(Params):
    """Parameters of `filter`."""

    where: ExpressionText = Field(description="Keep the records for which this expression is true")
    reason: str = Field(
        default="filtered",
        min_length=1,
        max_length=60,
        description="The name under which the report counts the dropped records",
    )


@component(Kind.TRANSFORM, "filter", params=FilterParams)
class Filter(Transform[FilterParams]):
    """Keeps the records for which an expression is true.

    The others are dropped and counted under `reason`. A record for which the expression fails becomes a dead
    letter. A missing field is None: `amount > 100` drops records without an amount.
    """

    def __init__(self, params: FilterParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._expression = Expression(params.where)
        self._expected = ExpectedFields(self._expression.fields)

    @property
    def keeps_ids(self) -> bool:
        """Whether ids never change: always true."""
        return True

    def apply(self, batch: Batch) -> Batch:
        """Drop records that do not match."""
        records = as_mappings(batch.records)
        self._expected.look(records, self.ctx)
        kept, failed = self._expression.evaluate_all(records)
        reason = self.params.reason
        return select_or_fail(batch, kept, reason) if failed else batch.select(kept, reason)
