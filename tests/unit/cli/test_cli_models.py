"""The summary of a run whose node has asked several models."""

from __future__ import annotations

from engine.cli.display.summary import summary
from engine.contract.batch import Batch
from engine.contract.component import NoParams, Transform
from engine.testing import MemorySink, MemorySource, linear_plan
from tests.unit.kernel.runs import pages, run


class TwoModels(Transform[NoParams]):
    """Counts as `llm_extract` does."""

    def apply(self, batch: Batch) -> Batch:
        counts = {"calls": 2, "tokens_in": 1500, "tokens_out": 20, "cost_usd": 0.25}
        for name, amount in counts.items():
            self.ctx.count(f"{name}[gpt-4o]", amount)
        self.ctx.count("unavailable[mini]")
        return batch


async def test_the_summary_says_what_each_model_took() -> None:
    report = await run(linear_plan(MemorySource(pages(3)), TwoModels(NoParams()), MemorySink()))

    said = summary([report], options=None)  # type: ignore[arg-type]

    assert "asked gpt-4o: 2 calls, 1,500 tokens in, 20 out, $0.2500" in said
    assert "could not ask mini (1 time)" in said
