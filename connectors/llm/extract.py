"""The `llm_extract` transform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

import anyio.to_thread
from pydantic import BaseModel, ValidationError

from connectors.llm.documents import Document
from connectors.llm.forecast import forecast
from connectors.llm.grounding import Grounder, ungrounded_in
from connectors.llm.invalid import details_of, reasons_of, without_bad_items
from connectors.llm.json_text import written
from connectors.llm.pricing import Usage
from connectors.llm.schema import RECORDS, TRANSFORM_TIMESTAMP
from connectors.llm.service import Fate, LLMService, get_llm_service
from connectors.llm.settings import LlmConnection, LlmParams
from connectors.llm.splitting import divided, merged
from connectors.llm.tracing import redact_texts
from connectors.llm.transport import check_endpoint
from connectors.objects.isolation import DocumentReader
from engine.contract.batch import Batch, DeadItem, Drop, Outcome
from engine.contract.clock import timestamp
from engine.contract.component import BatchLimits, Kind, Transform, component
from engine.contract.planning import Estimate
from engine.contract.types import JsonValue, Record
from engine.contract.unplanned import unplanned_error
from engine.errors import ComponentError, FatalError, RecordError, StoppingError, TransientError

_MAX_WRITTEN = 1_000  # characters of what was extracted, in a dead letter

ITEM = "extracted_item"
"""Field of a dead letter that has one of the records of its document."""


@component(
    Kind.TRANSFORM, "llm_extract", params=LlmParams, connection=LlmConnection, sandbox="llm", extra="llm"
)
class LlmExtract(Transform[LlmParams]):
    """Extracts structured records from staged documents with a language model.

    Takes records with `id`, `source_file_path`, `extracted_data` (text, or a data URL after its marker) and
    optionally `processing_instructions`; returns records of `schema` with the same id, even if the schema has
    no field for it. Several documents share a call. Each has its own outcome: a record, a dead letter with
    its reason, or a retry.

    An empty document is dropped. A document lacking a required field, corrupt, too long or refused becomes a
    dead letter; the others of its call continue. No document is truncated. Word and PDF files are opened in a
    separate process, within 10 s of processor time and 1 GiB of memory; one that takes more becomes a dead
    letter (`DocumentTooSlow`, `DocumentTooLarge`).

    An answer is in the journal before it is passed on. The same content with the same instructions, model,
    temperature and schema is never paid for again, whether by a resume, a replay, another run or another
    file.
    """

    def __init__(self, params: LlmParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        self._service: LLMService | None = None
        self._reader: DocumentReader | None = None
        self._target = params.target_schema()

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the connections to the models and the document reader."""
        if not isinstance(self.connection, LlmConnection):
            raise FatalError("llm_extract needs a connection with the `base_url` of the model endpoint")
        ctx = self.ctx
        service = get_llm_service(
            self.params,
            self.connection,
            clock=ctx.clock,
            journal=ctx.journal,
            on_count=ctx.count,
            shared=ctx.shared,
            spending=ctx.spending,
            allowances=ctx.allowances,
            draining=ctx.draining,
            lease=ctx.lease,
            # an endpoint that was reached before may be unavailable for a while
            patient=ctx.attempt > 1 or bool(ctx.chunk),
        )
        self._service = await stack.enter_async_context(service)
        reader = DocumentReader(stopping=self.ctx.draining)
        self._reader = await stack.enter_async_context(reader)
        stack.callback(setattr, self, "_service", None)
        stack.callback(setattr, self, "_reader", None)

    async def check_connection(self) -> str:
        """List the models of all endpoints at no cost; see `ChecksConnection`."""
        connection = self.connection
        assert isinstance(connection, LlmConnection)
        own = await check_endpoint(connection, self.params.model or connection.model)
        return "; ".join(filter(None, [own, await self.check_others()]))

    async def check_others(self) -> str:
        """Check models and endpoints other than the connection's own; see `ChecksOthers`."""
        connection = self.connection
        assert isinstance(connection, LlmConnection)
        named = [*self.params.fallbacks, *self.params.cascade]
        asked = {(one.endpoint, one.model): connection.of_alternative(one) for one in named}
        used = {endpoint for endpoint, _ in asked}
        for name, endpoint in connection.endpoints.items():
            if name not in used:
                asked[name, endpoint.model] = connection.of_endpoint(endpoint)
        found = []
        for (name, model), other in asked.items():
            found.append(await check_endpoint(other, model, f"endpoint {name!r}: " if name else ""))
        return "; ".join(found)

    @property
    def concurrency(self) -> int:
        """One batch per concurrent call, so that an answered one can leave while others wait."""
        return self.params.calls

    async def is_answering(self) -> bool:
        """Return whether a model answers a short prompt now."""
        return self._service is not None and await self._service.is_answering()

    def redact(self, record: JsonValue, *, done: bool) -> JsonValue:
        """Hide text that `redact` matches, in prompts and replies."""
        return redact_texts(record, self.params.redact)

    @property
    def limits(self) -> BatchLimits:
        """The maximum documents of a call."""
        return BatchLimits(records=self.params.batch_size)

    async def apply(self, batch: Batch) -> Batch:
        """Extract the records of a batch.

        Raises:
            TransientError: no record of the batch has an outcome yet.
            FatalError: wrong key or model, exhausted quota or budget.
        """
        if self._service is None:
            raise RuntimeError("llm_extract is used outside of `async with`")
        outcomes, documents, places = await self._prepare(batch)
        for stage in range(self._service.stages):
            if not documents:
                break
            if stage:
                self.ctx.count("escalated", len(documents))
            await self._ask(batch, documents, places, outcomes, stage)
            dead = [index for index, place in enumerate(places) if _has_failed(outcomes[place])]
            documents, places = [documents[index] for index in dead], [places[index] for index in dead]
        waiting = [outcome for outcome in outcomes if isinstance(outcome, TransientError)]
        if len(waiting) == len(outcomes) and waiting:
            raise max(waiting, key=lambda error: error.retry_after or 0.0)
        return batch.outcomes(outcomes)

    async def _ask(
        self,
        batch: Batch,
        documents: Sequence[Document],
        places: Sequence[int],
        outcomes: list[Outcome],
        stage: int,
    ) -> None:
        """Set the outcomes of documents, which are the records of the batch at these indices."""
        assert self._service is not None
        parts, owners = await self._parts(documents)

        def book(indices: Sequence[int], usage: Usage) -> None:
            part = batch.take(list(dict.fromkeys(places[owners[index]] for index in indices)))
            part.spend(usage.tokens_in, usage.tokens_out, usage.cost_usd)
            self._count(usage)

        def hit(index: int, lost: Usage) -> None:
            self.ctx.count("journal_hits")
            if lost != Usage():  # an earlier attempt paid and ended before committing that
                batch.take([places[owners[index]]]).spend(lost.tokens_in, lost.tokens_out, lost.cost_usd)

        answers = await self._service.extract_structured_data_batch(
            parts, on_usage=book, on_hit=hit, stage=stage
        )
        fates = [
            self._whole([answer for answer, owner in zip(answers, owners, strict=True) if owner == index])
            for index in range(len(documents))
        ]
        for place, fate, document in zip(places, fates, documents, strict=True):
            staged = batch.records[place]
            found = self._record(staged, fate, document) if isinstance(fate, dict) else fate
            if not stage or _is_as_good(found, outcomes[place]):
                outcomes[place] = found

    async def estimate(self, sample: Sequence[Record], total: int) -> Estimate:
        """Estimate calls, tokens and price of `total` documents like these, without a request."""
        documents: list[Document] = []
        unreadable = ""
        async with DocumentReader() as reader:
            for record in sample:
                try:
                    document = await self._document(record, "", reader)
                    self._check(record, document)
                except (RecordError, StoppingError) as error:
                    unreadable = unreadable or f": {error}"
                    continue  # no call is made for it
                if document.parts:
                    documents.append(document)
        if not documents:
            return Estimate(notes=[f"no document of the sample can be read{unreadable}"])
        connection = self.connection if isinstance(self.connection, LlmConnection) else LlmConnection()
        asked = round(total * len(documents) / len(sample))
        # the list of prices takes a second to load
        return await anyio.to_thread.run_sync(
            forecast, self.params, self.params.model or connection.model, documents, asked
        )

    async def _prepare(self, batch: Batch) -> tuple[list[Outcome], list[Document], list[int]]:
        """Return outcomes of records that need no model, and the documents of the others with indices."""
        outcomes: list[Outcome] = [None] * len(batch)
        documents: list[Document] = []
        places: list[int] = []
        for place, (record, key) in enumerate(zip(batch.records, batch.keys.to_list(), strict=True)):
            try:
                assert self._reader is not None
                document = await self._document(record, key, self._reader)
                if self.params.many and ITEM in record:
                    outcomes[place] = self._item(record, document)
                    continue
                self._check(record, document)
            except (RecordError, StoppingError) as error:
                outcomes[place] = error
                continue
            if not document.is_whole:
                self.ctx.count("documents_with_broken_characters")
            if not document.parts:
                outcomes[place] = Drop("empty document")
                continue
            documents.append(document)
            places.append(place)
        return outcomes, documents, places

    def _check(self, record: Mapping[str, object], document: Document) -> None:
        """Raise RecordError, before a call is paid, if no answer can make a valid record of the document."""
        errors = self._target.field_errors(self._known(record, "/0" if self.params.many else ""))
        if errors:
            names = ", ".join(dict.fromkeys(f"`{one['loc'][0]}`" for one in errors))
            raise RecordError(
                f"the schema does not accept what the pipeline fills in: {reasons_of(errors)}; "
                f"change {names} in the schema or in the document's record",
                kind="InvalidFields",
            )
        needed = [name for name in self.params.require_grounding if name in self._target.required]
        if needed and document.parts and not document.text.strip():
            raise RecordError(
                f"the document consists of images, in which {', '.join(needed)} cannot be found; remove them "
                "from `require_grounding`, or send the document to a node of its own",
                kind="NotGrounded",
            )

    def _known(self, staged: Mapping[str, object], suffix: str) -> dict[str, object]:
        """Return the values that the pipeline fills in."""
        params = self.params
        return {
            params.id_field: f"{staged[params.id_field]}{suffix}",
            params.uri_field: staged.get(params.uri_field),
            TRANSFORM_TIMESTAMP: timestamp(self.ctx.clock.now()),
        }

    async def _document(self, record: Mapping[str, object], key: str, reader: DocumentReader) -> Document:
        """Convert a staged record to a document. Raises RecordError or StoppingError if it cannot be read."""
        params = self.params
        own = record.get(params.id_field)
        path = record.get(params.uri_field) or own
        if not isinstance(own, str) or not isinstance(path, str):
            parameter, value = ("uri_field", path) if isinstance(own, str) else ("id_field", own)
            raise _not_staged(parameter, params, value)
        content = record.get(params.text_field)
        if (params.text_field not in record and ITEM not in record) or not isinstance(content, str | None):
            raise _not_staged("text_field", params, content)
        instructions = record.get("processing_instructions")
        name = path.rsplit("/", 1)[-1] or path
        return Document(
            name=name,
            parts=await reader.parts(content or "", name),
            instructions=instructions if isinstance(instructions, str) else "",
            record=key,
        )

    async def _parts(self, documents: Sequence[Document]) -> tuple[list[Document], list[int]]:
        """Return the documents, or parts of them, to ask about, and the document each belongs to."""
        limit = self.params.split_tokens
        if limit is None or all(document.tokens <= limit for document in documents):
            return list(documents), list(range(len(documents)))
        pairs: list[tuple[Document, int]] = []
        for index, document in enumerate(documents):
            # splitting megabytes of text takes seconds
            parts = await anyio.to_thread.run_sync(divided, document, limit, self.params.split_overlap)
            pairs += [(part, index) for part in parts]
        return [part for part, _ in pairs], [index for _, index in pairs]

    def _whole(self, answers: Sequence[Fate]) -> Fate:
        """Merge the answers about the parts of a document; None as long as one is missing."""
        errors = [one for one in answers if isinstance(one, Exception)]
        waiting = [one for one in errors if isinstance(one, TransientError)]
        if errors:
            return max(waiting, key=lambda one: one.retry_after or 0.0) if waiting else errors[0]
        fields = [one for one in answers if isinstance(one, dict)]
        if self.params.many:  # a model may write a single record without the list
            fields = [
                {**one, RECORDS: [one[RECORDS]]} if isinstance(one.get(RECORDS), Mapping) else one
                for one in fields
            ]
        if self.params.split_tokens is None:
            return fields[0]
        whole = merged(fields, self.params.merge)
        missing = [name for name in self._target.required if name not in whole]
        if missing and not self.params.many:
            return RecordError(f"the document does not state {', '.join(missing)}", kind="MissingFields")
        return whole

    def _record(
        self, staged: Mapping[str, object], fields: Mapping[str, object], document: Document
    ) -> Outcome:
        """Return the validated record, or records, of the target schema, with the id of their document."""
        grounder = self._grounder(document)
        if not self.params.many:
            return self._one(staged, fields, grounder)
        items = fields.get(RECORDS)
        if items is not None and not isinstance(items, list):
            return _no_record("the extracted records are not a list", items)
        made: list[object] = []
        for number, item in enumerate(items or []):
            if item is None:
                continue
            found = self._one(staged, item, grounder, f"/{number}")
            if not isinstance(found, RecordError):
                made.append(found)
            elif self.params.on_bad_item == "dead_letter":
                made.append(DeadItem(self._dead_letter(staged, item, number), found))
            else:
                self.ctx.count("bad_items")
        return made or Drop(f"no {'valid ' if any(items or []) else ''}records in the document")

    def _item(self, record: Mapping[str, object], document: Document) -> Outcome:
        """Validate one of many records whose dead letter is replayed, perhaps patched, without a call."""
        item = record[ITEM]
        if not isinstance(item, Mapping):
            return RecordError(f"`{ITEM}` is not an object", kind="InvalidFields")
        return self._one(record, item, self._grounder(document))

    def _dead_letter(self, staged: Mapping[str, object], item: object, number: int) -> dict[str, object]:
        """Return an item's dead letter: the item and the fields of its document that a replay needs."""
        params = self.params
        kept = dict(staged)
        if not (params.require_grounding or params.spans_field):
            kept.pop(params.text_field, None)
        return {**kept, params.id_field: f"{staged[params.id_field]}/{number}", ITEM: item}

    def _grounder(self, document: Document) -> Grounder | None:
        """Return what finds the values of all records of a document; None if none has to be found."""
        needed = self.params.require_grounding or self.params.spans_field
        return Grounder(document.text) if needed else None

    def _one(
        self, staged: Mapping[str, object], fields: object, grounder: Grounder | None, suffix: str = ""
    ) -> Outcome:
        params = self.params
        if not isinstance(fields, Mapping):
            return _no_record("the extracted record is not an object", fields)
        known = self._known(staged, suffix)
        declared = self._target.model.model_fields
        values = {key: value for key, value in {**known, **fields}.items() if key in declared}
        try:
            record = self._validated(values)
        except ValidationError as error:
            return _no_record(f"the extracted values do not fit: {reasons_of(details_of(error))}", fields)
        except (ComponentError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - validators and serializers are third-party code
            return unplanned_error(error)
        found: dict[str, object] = {params.id_field: known[params.id_field], **record}
        if grounder is not None:
            spans = grounder.spans(fields)
            ungrounded = ungrounded_in(params.require_grounding, fields, spans)
            if ungrounded:
                message = f"the document does not say {', '.join(ungrounded)}; extracted: "
                return RecordError(message + written(fields)[:_MAX_WRITTEN], kind="NotGrounded")
            if params.spans_field:
                found[params.spans_field] = {path: list(span) for path, span in spans.items()}
        return found

    def _validated(self, values: Mapping[str, object]) -> dict[str, object]:
        """Validate a record, without list items that do not fit if allowed. Raises ValidationError."""
        try:
            return self._target.validated(values)
        except ValidationError as error:
            if self.params.on_bad_item == "dead_letter":
                raise
            places = [detail["loc"] for detail in details_of(error)]
            better = without_bad_items(values, places, null=self.params.on_bad_item == "null")
            if better is None:
                raise
            record = self._target.validated(better[0])
            self.ctx.count("bad_items", better[1])
            return record

    def _count(self, usage: Usage) -> None:
        self.ctx.count("calls")
        self.ctx.count("tokens_in", usage.tokens_in)
        self.ctx.count("tokens_out", usage.tokens_out)
        self.ctx.count("cost_usd", usage.cost_usd)


def _not_staged(parameter: str, params: LlmParams, value: object) -> RecordError:
    """Return the error for a record whose field, named by a parameter, has no text."""
    field = getattr(params, parameter)
    remedy = f"name another field with `{parameter}`"
    if isinstance(value, int):
        remedy = f"make the number text first: `cast: {{{field}: str}}`"
    return RecordError(f"the record has no text in `{field}`; {remedy}", kind="NotStaged")


def _no_record(reason: str, extracted: object) -> RecordError:
    return RecordError(f"{reason}; extracted: {written(extracted)[:_MAX_WRITTEN]}", kind="InvalidFields")


def _has_failed(outcome: Outcome) -> bool:
    """Return whether another model may do better."""
    if isinstance(outcome, list):
        return any(isinstance(one, DeadItem) for one in outcome)
    return isinstance(outcome, RecordError)


def _is_as_good(later: Outcome, before: Outcome) -> bool:
    """Return whether the outcome of a later stage of a cascade replaces a failed one.

    It does not if valid records of the document would be lost.
    """
    if isinstance(later, TransientError):
        return True  # the document will be retried
    valid = _valid_records(later)
    return valid >= _valid_records(before) or (valid > 0 and not _has_failed(later))


def _valid_records(outcome: Outcome) -> int:
    if isinstance(outcome, RecordError | Drop):
        return 0
    return sum(not isinstance(one, DeadItem) for one in outcome) if isinstance(outcome, list) else 1
