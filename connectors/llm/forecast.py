"""Forecast the calls for documents, without making any."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle, islice
from math import ceil
from typing import Final

from connectors.llm.answer_length import AnswerLength
from connectors.llm.documents import BYTES_PER_TOKEN, TOKENS_PER_IMAGE, Document, PackLimits, pack
from connectors.llm.pricing import known_price
from connectors.llm.prompt import Prompt, PromptWriter
from connectors.llm.schema import TargetSchema
from connectors.llm.service import instructions_for
from connectors.llm.settings import LlmParams
from connectors.llm.shapes import Nothing, Number, Shape, TrueOrFalse
from connectors.llm.splitting import divided
from connectors.llm.structures import Either, Entries, Fields, Items, Reference
from engine.contract.planning import Estimate

_PACKS: Final = 4  # render this many full packs; with fewer, the sample is too small for averages
_TEXT: Final = 11  # characters of a short text, with its quotes
_NUMBER: Final = 5
_ITEMS: Final = 3  # of a list
_PUNCTUATION: Final = 6  # of a field: quotes, colon, comma
_NONCE: Final = 32  # a slot and its nonce


def forecast(params: LlmParams, model: str, documents: Sequence[Document], total: int) -> Estimate:
    """Forecast calls, tokens and price of `total` documents like these (at least one).

    Prompts are rendered as in a run, and counted as 4 bytes per token. Answers are assumed to state every
    field, with short values.
    """
    schema = params.asked_schema()
    writer = PromptWriter(schema, instructions_for(params))
    rendered = min(total, max(len(documents), _PACKS * params.batch_size)) or 1
    asked = [
        part
        for document in islice(cycle(documents), rendered)
        for part in _parts(params, document)
        if part.tokens <= params.max_document_tokens
    ]
    limits = PackLimits(params.batch_size, params.pack_tokens, params.pack_images)
    packs = pack(asked, range(len(asked)), limits)
    prompts = [writer.write([asked[index] for index in indices]) for indices in packs]
    scale = total / rendered
    answer = _answer_characters(schema)
    calls = ceil(len(packs) * scale)
    tokens_in = ceil(sum(map(_tokens_of, prompts)) * scale)
    answers = sum(len(one.nonces) * (answer + (0 if one.lone else _NONCE)) for one in prompts)
    tokens_out = ceil(answers / BYTES_PER_TOKEN * scale)
    price = known_price(model, params)
    items = f", {_ITEMS} items in every list" if AnswerLength(schema).has_lists else ""
    notes = [
        "4 bytes to a token",
        f"short answers in every field{items}",
        "no thoughts, retries or cached prompts",
    ]
    if price is None:
        prices = "`usd_per_million_input` and `usd_per_million_output`"
        notes.append(f"the price of {model!r} is unknown: set {prices}")
    cost = price.of(tokens_in, tokens_out) if price else None
    further = map(params.of_alternative, params.cascade)
    notes += [_asked_besides(one, tokens_in, tokens_out) for one in further]
    if params.fallbacks:
        names = ", ".join(one.model for one in params.fallbacks)
        notes.append(f"{model} answers; at other prices while it is unavailable: {names}")
    return Estimate(calls, tokens_in, tokens_out, cost, notes)


def _asked_besides(params: LlmParams, tokens_in: int, tokens_out: int) -> str:
    """Describe the cost of a further stage of a cascade, whose number of calls is unknown."""
    price = known_price(params.model or "", params)
    cost = f"${price.of(tokens_in, tokens_out):,.4f}" if price else "an unknown price"
    return f"if every document needed {params.model}: {cost} more, for as many calls"


def _parts(params: LlmParams, document: Document) -> Iterable[Document]:
    if params.split_tokens is None:
        return [document]
    return divided(document, params.split_tokens, params.split_overlap)


def _tokens_of(prompt: Prompt) -> int:
    images = sum(1 for part in prompt.parts if part["type"] != "text")
    texts = [prompt.system, *(part["text"] for part in prompt.parts if part["type"] == "text")]
    size: int = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return -(-size // BYTES_PER_TOKEN) + images * TOKENS_PER_IMAGE


def _answer_characters(schema: TargetSchema) -> int:
    return sum(len(name) + _PUNCTUATION + _size(one.shape) for name, one in schema.fields.items())


def _size(shape: Shape, depth: int = 6) -> int:
    if isinstance(shape, Number | TrueOrFalse):
        return _NUMBER
    if isinstance(shape, Reference):
        return _size(shape.target, depth - 1) if depth else _TEXT
    if isinstance(shape, Either):
        return _size(next((one for one in shape.branches if not isinstance(one, Nothing)), Nothing()), depth)
    if depth and isinstance(shape, Items):
        return _ITEMS * _size(shape.item, depth - 1)
    if depth and isinstance(shape, Entries):
        return _ITEMS * (_TEXT + _size(shape.value, depth - 1))
    if depth and isinstance(shape, Fields):
        parts = shape.fields.items()
        return sum(len(name) + _PUNCTUATION + _size(one.shape, depth - 1) for name, one in parts)
    return _TEXT
