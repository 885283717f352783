"""Structured extraction as a service, with one outcome per document."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from hashlib import sha256
from typing import Self

import anyio
import anyio.to_thread

from connectors.llm.asking import Asker, Fate, OnHit, OnUsage
from connectors.llm.calling import OnCount
from connectors.llm.chain import ModelChain
from connectors.llm.client import Contact, Reply, open_chat
from connectors.llm.documents import Document, PackLimits
from connectors.llm.examples import told
from connectors.llm.gate import Gate
from connectors.llm.history import Attempts
from connectors.llm.pricing import Budget, Price, price_of
from connectors.llm.prompt import PromptWriter
from connectors.llm.questions import Questions
from connectors.llm.schema import TargetSchema
from connectors.llm.settings import LlmConnection, LlmParams
from connectors.llm.tracing import Tracer
from engine.contract.allowances import Allowances, NoSpending, Spending
from engine.contract.clock import Clock, SystemClock
from engine.contract.journal import AnswerJournal, NoJournal
from engine.contract.lease import Lease, NoLease
from engine.contract.shared import Shared

__all__ = ["Fate", "LLMService", "get_llm_service"]


class LLMService:
    """Extracts the fields of one schema from documents, several per call, with concurrent calls.

    Use it as a context manager (default: `Medical` from OpenAI's endpoint).

    Args:
        journal: stores paid answers for later lookup (default: none).
        on_count: called with the names of things to report (`calls_without_usage`).
        patient: treat an endpoint that is not listening as an outage even at the first call.
        shared: holds the gates that services of one engine share per endpoint.
        spending: budgets shared with other nodes.
        allowances: shares the quotas of endpoints with other processes.
        draining: returns true once the run should end, so that no batch job is waited for.
        lease: confirmed before a batch job is created or cancelled.

    Attributes:
        schema: target of the extraction.
        budget: spent and maximum USD.

    Raises:
        FatalError: the schema cannot be imported or requested. On entering: a budget is set for a model of
            unknown price.
    """

    def __init__(
        self,
        params: LlmParams | None = None,
        connection: LlmConnection | None = None,
        *,
        clock: Clock | None = None,
        journal: AnswerJournal | None = None,
        on_count: OnCount = lambda name, amount=1: None,
        patient: bool = False,
        shared: Shared | None = None,
        spending: Spending | None = None,
        allowances: Allowances | None = None,
        draining: Callable[[], bool] = lambda: False,
        lease: Lease | None = None,
    ) -> None:
        self._params = params or LlmParams()
        self._connection = connection or LlmConnection()
        self.schema: TargetSchema = self._params.asked_schema()
        self.budget = Budget(self._params.budget_usd)
        self._clock = clock or SystemClock()
        self._journal = journal or NoJournal()
        self._on_count = on_count
        self._patient = patient
        self._shared = shared or Shared()
        self._spending = spending or NoSpending()
        self._allowances = allowances
        self._draining = draining
        self._lease = lease or NoLease()
        self._stack = AsyncExitStack()
        self._attempts = Attempts()
        self._chains: list[ModelChain] = []

    async def __aenter__(self) -> Self:
        params, connection = self._params, self._connection
        self.budget.spent = await self._journal.spent()
        own = connection.model_copy(update={"model": params.model or connection.model})
        others = [
            [(params.of_alternative(one), connection.of_alternative(one)) for one in part]
            for part in (params.fallbacks, params.cascade)
        ]
        stages = [[(params, own), *others[0]], *([one] for one in others[1])]
        self._writer = PromptWriter(self.schema, instructions_for(params))
        self._limiter = anyio.CapacityLimiter(params.calls)
        async with AsyncExitStack() as stack:
            for stage in stages:
                askers = [await self._asker(stack, *one) for one in stage]
                self._chains.append(ModelChain(askers, self._clock.monotonic, self._on_count))
            self._stack = stack.pop_all()
        return self

    @property
    def stages(self) -> int:
        """Number of stages of the cascade, including the node's own model."""
        return 1 + len(self._params.cascade)

    async def _asker(self, stack: AsyncExitStack, params: LlmParams, connection: LlmConnection) -> Asker:
        """Open a client for one model, with that model's `params` and `connection`."""
        price = await anyio.to_thread.run_sync(price_of, connection.model, params, self._spending.limited)
        contact = Contact(
            None if self._patient else params.connect_patience,
            self._writer.write([_HARMLESS]),
            self._journal,
            self._draining,
            partial(self._on_count, "batch_looks"),
            self._lease,
        )
        chat = await stack.enter_async_context(open_chat(connection, params, self._clock, contact))
        chat.on_probe = partial(self._book_probe, price)
        chat.gate = Gate(self._clock, bounded=False) if params.mode == "batch" else self._gate(connection)
        return Asker(
            chat=chat,
            writer=self._writer,
            questions=Questions(
                self._writer, self.schema, connection.model, params.temperature, params.extras
            ),
            journal=self._journal,
            schema=self.schema,
            price=price,
            budget=self.budget,
            gate=chat.gate,
            limiter=self._limiter,
            limits=PackLimits(params.batch_size, params.pack_tokens, params.pack_images),
            max_tokens=params.max_tokens,
            max_document_tokens=params.max_document_tokens,
            attempts=self._attempts,
            spending=self._spending,
            tracer=Tracer(params.redact) if params.trace else None,
            by_model=bool(params.fallbacks or params.cascade),
            on_count=self._on_count,
        )

    def _gate(self, connection: LlmConnection) -> Gate:
        """Return the gate shared by all users of this model, endpoint and key."""
        requests, tokens = connection.requests_per_minute, connection.tokens_per_minute
        key = sha256(connection.api_key.get_secret_value().encode()).hexdigest()
        return self._shared.get(
            (Gate, connection.address, connection.model, key, requests, tokens),
            lambda: Gate(
                self._clock,
                requests_per_minute=requests,
                tokens_per_minute=tokens,
                allowances=self._allowances,
                name=sha256("\n".join((connection.address, connection.model, key)).encode()).hexdigest()[:16],
            ),
        )

    def _book_probe(self, price: Price, reply: Reply) -> None:
        """Book a call that only probes what the endpoint accepts, which is paid for like any other."""
        usd = price.of(reply.tokens_in, reply.tokens_out)
        self.budget.settle(0.0, usd)
        self._spending.book(usd)
        self._on_count("probes")

    async def __aexit__(self, *_: object) -> None:
        self._chains = []
        await self._stack.aclose()

    async def extract_structured_data_batch(
        self,
        documents: Sequence[Document],
        *,
        on_usage: OnUsage = lambda indices, usage: None,
        on_hit: OnHit = lambda index, lost: None,
        stage: int = 0,
    ) -> list[Fate]:
        """Return the fields of each document, in order, or its error.

        `on_usage` is called for every call, with the indices of its documents and its cost; `on_hit` for
        every document that needed none, because its answer is in the journal or an equal document is in the
        batch (see `connectors.llm.asking`). A field that a document does not state is missing from its
        result, which is an error if the schema requires it. `stage`: 0 asks the node's own model and its
        fallbacks, higher numbers those of `cascade`.

        Raises:
            FatalError: wrong key or model, exhausted quota or budget.
            StateError: the journal cannot be used.
        """
        if not self._chains:
            raise RuntimeError("the LLM service is used outside of `async with`")
        return await self._chains[stage].ask(documents, on_usage, on_hit)

    async def is_answering(self) -> bool:
        """Return whether a model answers a short prompt now; the call is paid for and counted."""
        for chain in self._chains:
            if await chain.is_answering():
                return True
        return False

    async def extract_structured_data(
        self, document: Document, *, on_usage: OnUsage = lambda indices, usage: None
    ) -> dict[str, object]:
        """Return the fields of one document.

        Raises:
            RecordError: this document cannot be extracted.
            TransientError: a retry may help.
            FatalError: wrong key or model, exhausted quota or budget.
        """
        (fate,) = await self.extract_structured_data_batch([document], on_usage=on_usage)
        if isinstance(fate, dict):
            return fate
        raise fate


get_llm_service = LLMService
"""The name under which programs create a service."""


def instructions_for(params: LlmParams) -> str:
    """Return the prompt's text besides the fields: instructions, then examples."""
    examples = told(params.examples, params.target_schema().fields, many=params.many)
    return "\n\n".join(one for one in (params.all_instructions.strip(), examples) if one)


_HARMLESS = Document.of_text("probe.txt", "There is nothing to extract from this text.")
