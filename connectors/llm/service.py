"""Structured extraction as a service: documents in, one outcome each out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import anyio

from connectors.llm.asking import Asker, Fate, OnHit, OnUsage
from connectors.llm.client import open_chat
from connectors.llm.documents import Document
from connectors.llm.packing import PackLimits
from connectors.llm.pricing import Budget, Usage, price_of
from connectors.llm.prompt import PromptWriter
from connectors.llm.questions import Questions
from connectors.llm.schema import TargetSchema, target_schema
from connectors.llm.settings import LlmConnection, LlmParams
from engine.contract.clock import Clock, SystemClock
from engine.contract.journal import AnswerJournal, NoJournal

__all__ = ["LLMService", "get_llm_service"]


def get_llm_service(
    params: LlmParams | None = None,
    connection: LlmConnection | None = None,
    *,
    clock: Clock | None = None,
    journal: AnswerJournal | None = None,
) -> LLMService:
    """Create a service for `async with` (default: `Medical` from OpenAI's endpoint).

    Args:
        journal: where answers that were paid for are kept and looked up; by default nowhere.

    Raises:
        FatalError: the schema cannot be imported, or a budget is set for a model of unknown price.
    """
    return LLMService(
        params or LlmParams(), connection or LlmConnection(), clock or SystemClock(), journal or NoJournal()
    )


class LLMService:
    """Extracts the fields of one schema from documents, several per call, with concurrent calls.

    Attributes:
        schema: what is extracted.
        budget: what was spent, and may be.
    """

    def __init__(
        self, params: LlmParams, connection: LlmConnection, clock: Clock, journal: AnswerJournal
    ) -> None:
        self.schema: TargetSchema = target_schema(params.target)
        self.budget = Budget(params.budget_usd)
        self._model = params.model or connection.model
        self._price = price_of(self._model, params)
        self._params = params
        self._connection = connection
        self._clock = clock
        self._journal = journal
        self._stack = AsyncExitStack()
        self._asker: Asker | None = None

    async def __aenter__(self) -> Self:
        params = self._params
        self.budget.spent = await self._journal.spent()
        chat = await self._stack.enter_async_context(open_chat(self._connection, params, self._clock))
        writer = PromptWriter(self.schema, params.instructions)
        self._asker = Asker(
            chat=chat,
            writer=writer,
            questions=Questions(writer, self.schema, self._model, params.temperature),
            journal=self._journal,
            schema=self.schema,
            price=self._price,
            budget=self.budget,
            limiter=anyio.CapacityLimiter(params.concurrency),
            limits=PackLimits(params.batch_size, params.pack_tokens, params.pack_images),
            max_tokens=params.max_tokens,
            max_document_tokens=params.max_document_tokens,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asker = None
        await self._stack.aclose()

    async def extract_structured_data_batch(
        self,
        documents: Sequence[Document],
        *,
        on_usage: OnUsage | None = None,
        on_hit: OnHit | None = None,
    ) -> list[Fate]:
        """Return the fields of each document, in order, or its error.

        `on_usage` hears of every call: the places of its documents, and what it cost; `on_hit` of every
        document that needed none: its answer is in the journal, or another document of the batch is the same
        (see `connectors.llm.asking`). A field that a document does not state is missing from its result, and
        is an error when the schema requires it.

        Raises:
            FatalError: wrong key or model, exhausted quota or budget.
            StateError: the journal cannot be used.
        """
        if self._asker is None:
            raise RuntimeError("the LLM service is used outside of `async with`")
        return await self._asker.ask(documents, on_usage or _ignore, on_hit or _ignore_hit)

    async def extract_structured_data(
        self, document: Document, *, on_usage: OnUsage | None = None
    ) -> dict[str, object]:
        """Return the fields of one document.

        Raises:
            RecordError: this document can never be extracted.
            TransientError: another try may help.
            FatalError: wrong key or model, exhausted quota or budget.
        """
        (fate,) = await self.extract_structured_data_batch([document], on_usage=on_usage)
        if isinstance(fate, dict):
            return fate
        raise fate


def _ignore(indices: Sequence[int], usage: Usage) -> None:
    """For callers who do not ask what it costs."""


def _ignore_hit(index: int, lost: Usage) -> None:
    """For callers who do not ask what was saved."""
