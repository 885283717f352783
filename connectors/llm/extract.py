"""The `llm_extract` transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ValidationError

from connectors.llm.documents import Document
from connectors.llm.pricing import Usage
from connectors.llm.service import LLMService, get_llm_service
from connectors.llm.settings import LlmConnection, LlmParams
from connectors.objects.isolation import DocumentReader
from engine.contract.batch import Batch, Drop, Outcome
from engine.contract.clock import timestamp
from engine.contract.component import BatchLimits, Kind, Transform, component
from engine.errors import FatalError, RecordError, StoppingError, TransientError

__all__ = ["LlmExtract"]

_BATCHES_AT_ONCE = 2


@component(Kind.TRANSFORM, "llm_extract", params=LlmParams, connection=LlmConnection, sandbox="llm")
class LlmExtract(Transform[LlmParams]):
    """Extracts structured records from staged documents with a language model.

    Takes records with `id`, `source_file_path`, `extracted_data` (text, or a data URL behind its marker) and
    optionally `processing_instructions`; gives records of `schema` under the same id. Several documents go
    into one call. Each has its own fate: a record, a dead letter with its reason, or another try.

    An empty document is dropped. A document lacking a required field, corrupt, too long or refused becomes a
    dead letter; the others of its call go on. Nothing is cut. Word and PDF files are opened in a process of
    their own, within 10 s of processor time and 1 GiB of memory; one that takes more is a dead letter
    (`DocumentTooSlow`, `DocumentTooLarge`).

    An answer is in the journal before it goes on. The same content with the same instructions, model,
    temperature and schema is not paid for again, be it by a resume, a replay, another run or another file.
    """

    def __init__(self, params: LlmParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._service: LLMService | None = None
        self._reader: DocumentReader | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if not isinstance(self.connection, LlmConnection):
            raise FatalError("llm_extract needs a connection with the `base_url` of the model endpoint")
        service = get_llm_service(
            self.params, self.connection, clock=self.ctx.clock, journal=self.ctx.journal
        )
        self._service = await self._stack.enter_async_context(service)
        reader = DocumentReader(stopping=self.ctx.draining)
        self._reader = await self._stack.enter_async_context(reader)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._service = self._reader = None
        await self._stack.aclose()

    @property
    def concurrency(self) -> int:
        """Two batches at once: while the last calls of one are out, the next one begins."""
        return min(_BATCHES_AT_ONCE, self.params.concurrency)

    @property
    def limits(self) -> BatchLimits:
        """So many documents that all calls at once have a pack each."""
        packs = -(-self.params.concurrency // self.concurrency)
        return BatchLimits(records=self.params.batch_size * packs)

    async def apply(self, batch: Batch) -> Batch:
        """The extracted records.

        Raises:
            TransientError: no record of the batch has its fate yet.
            FatalError: wrong key or model, exhausted quota or budget.
        """
        if self._service is None:
            raise RuntimeError("llm_extract is used outside of `async with`")
        outcomes, documents, places = await self._prepare(batch)

        def book(indices: Sequence[int], usage: Usage) -> None:
            part = batch.take([places[index] for index in indices])
            part.spend(usage.tokens_in, usage.tokens_out, usage.cost_usd)
            self._count(usage)

        def hit(index: int, lost: Usage) -> None:
            self.ctx.count("journal_hits")
            if lost != Usage():  # an earlier attempt paid, and ended before it could commit that
                batch.take([places[index]]).spend(lost.tokens_in, lost.tokens_out, lost.cost_usd)

        fates = await self._service.extract_structured_data_batch(documents, on_usage=book, on_hit=hit)
        for place, fate in zip(places, fates, strict=True):
            outcomes[place] = self._record(batch.records[place], fate) if isinstance(fate, dict) else fate
        waiting = [outcome for outcome in outcomes if isinstance(outcome, TransientError)]
        if len(waiting) == len(outcomes) and waiting:
            raise max(waiting, key=lambda error: error.retry_after or 0.0)
        return batch.outcomes(outcomes)

    async def _prepare(self, batch: Batch) -> tuple[list[Outcome], list[Document], list[int]]:
        """Outcomes of the records that need no model, and the documents of the others with their places."""
        outcomes: list[Outcome] = [None] * len(batch)
        documents: list[Document] = []
        places: list[int] = []
        for place, (record, key) in enumerate(zip(batch.records, batch.keys.to_list(), strict=True)):
            try:
                document = await self._document(record, key)
            except (RecordError, StoppingError) as error:
                outcomes[place] = error
                continue
            if not document.parts:
                outcomes[place] = Drop("empty document")
                continue
            documents.append(document)
            places.append(place)
        return outcomes, documents, places

    async def _document(self, record: Mapping[str, object], key: str) -> Document:
        """The staged record as a document. Raises RecordError or StoppingError when it cannot be read."""
        path = record.get("source_file_path")
        content = record.get("extracted_data")
        if not isinstance(record.get("id"), str) or not isinstance(path, str):
            raise RecordError("the record has no text fields `id` and `source_file_path`", kind="NotStaged")
        if content is not None and not isinstance(content, str):
            raise RecordError("`extracted_data` is not text", kind="NotStaged")
        instructions = record.get("processing_instructions")
        assert self._reader is not None
        name = path.rsplit("/", 1)[-1] or path
        return Document(
            name=name,
            parts=await self._reader.parts(content or "", name),
            instructions=instructions if isinstance(instructions, str) else "",
            record=key,
        )

    def _record(self, staged: Mapping[str, object], fields: Mapping[str, object]) -> Outcome:
        """The record of the target schema, validated."""
        assert self._service is not None
        model = self._service.schema.model
        known = {
            "id": staged["id"],
            "source_file_path": staged.get("source_file_path"),
            "transform_timestamp": timestamp(self.ctx.clock.now()),
        }
        values = {name: value for name, value in {**known, **fields}.items() if name in model.model_fields}
        try:
            record = model.model_validate(values)
        except ValidationError as error:
            wrong = sorted({str(detail["loc"][0]) for detail in error.errors() if detail["loc"]})
            return RecordError(f"the extracted values do not fit: {', '.join(wrong)}", kind="InvalidFields")
        return record.model_dump(mode="json")

    def _count(self, usage: Usage) -> None:
        self.ctx.count("calls")
        self.ctx.count("tokens_in", usage.tokens_in)
        self.ctx.count("tokens_out", usage.tokens_out)
        self.ctx.count("cost_usd", usage.cost_usd)
