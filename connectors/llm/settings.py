"""Parameters of `llm_extract`; its connection is in `connectors.llm.connection`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal, Self

from pydantic import (
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from connectors.llm.connection import DEFAULT_MODEL, Alternative, AlternativeModel, LlmConnection, LlmEndpoint
from connectors.llm.declared_fields import DeclaredField, declared_model
from connectors.llm.examples import Example, check_example, instructions_of
from connectors.llm.schema import TRANSFORM_TIMESTAMP, TargetSchema, schema_of, target_schema
from connectors.llm.splitting import Merge
from connectors.llm.structures import takes_all
from engine.contract.component import Params, operational
from engine.errors import FatalError

__all__ = [
    "DEFAULT_MODEL",
    "LlmConnection",
    "LlmEndpoint",
    "LlmParams",
]

FLEX_TIMEOUT: Final = 900.0
"""Seconds that a call of the tier `flex` may take by default."""


class LlmParams(Params):
    """Parameters of `llm_extract`."""

    id_field: str = Field(
        default="id", min_length=1, description="Field with a document's id, which extracted records keep"
    )
    uri_field: str = Field(
        default="source_file_path", min_length=1, description="Field with a document's address or file name"
    )
    text_field: str = Field(
        default="extracted_data", min_length=1, description="Field with a document's text, or its data URL"
    )
    target: str = Field(
        default="Medical",
        alias="schema",
        description="Schema to extract: a model of `connectors.models`, or `package.module:Class`",
    )
    declared: dict[str, DeclaredField] = Field(
        default={},
        alias="fields",
        description="Fields to extract instead of a `schema`, by name, with type, description and more",
    )
    many: bool = Field(
        default=False,
        description="A document may hold any number of records, each with a key and id of its own",
    )
    on_bad_item: Literal["dead_letter", "keep_valid", "null"] = Field(
        default="dead_letter",
        description="What happens to a record with an invalid list item: it becomes a dead letter, loses "
        "the item, or gets null in its place",
    )
    split_tokens: int | None = Field(
        default=None,
        ge=100,
        description="Split longer documents into overlapping parts of this many tokens (default: never)",
    )
    split_overlap: int = Field(
        default=200,
        ge=0,
        description="Maximum overlap of consecutive parts, in tokens; never more than half a part",
    )
    merge: dict[str, Merge] = Field(
        default={},
        description="How to merge answers about parts, by field: first, longest, all or vote (default: "
        "all for lists, else first)",
    )
    examples: list[Example] = Field(
        default=[],
        max_length=20,
        description="Example texts with their correct answers, for the model to follow",
    )
    instructions_file: str = Field(
        default="", description="File with instructions for the model, before `instructions`"
    )
    require_grounding: list[str] = Field(
        default=[],
        description="Fields whose values must occur in the document; a record with one that does not "
        "becomes a dead letter",
    )
    spans_field: str = Field(
        default="",
        description="Field to add with the span of each value in the document's text, by its path: start "
        "and end in characters (default: none)",
    )
    instructions: str = Field(default="", max_length=20_000, description="Extra instructions for the model")
    model: str | None = Field(default=None, description="Overrides the connection's model")
    fallbacks: list[AlternativeModel] = operational(
        [],
        max_length=5,
        description="Models to ask, in this order, while the ones before are unavailable: their names, or "
        "mappings with `model` and more",
    )
    cascade: list[AlternativeModel] = operational(
        [],
        max_length=5,
        description="Models to ask, in this order, about each document for which the one before gives no "
        "valid and grounded record: their names, or mappings with `model` and more",
    )
    temperature: float | None = Field(
        default=0.1, ge=0, le=2, description="Sampling temperature; null means the model's default"
    )
    max_tokens: int | None = operational(
        None,
        ge=16,
        description="Maximum tokens of an answer, doubled once when one is cut off (default: derived "
        "from the fields and documents of a call)",
    )
    seed: int | None = Field(default=None, description="Sampling seed, for endpoints that support it")
    reasoning_effort: str | None = Field(
        default=None, description="How much a reasoning model thinks: low, medium or high"
    )
    extra_body: dict[str, JsonValue] = Field(
        default={}, description="Additional fields of every request, as documented by the endpoint"
    )
    answer_form: Literal["auto", "json_schema", "tool", "json_object", "text"] = operational(
        "auto",
        description="Form of the requested answers; `auto` detects what the endpoint supports",
    )
    batch_size: int = operational(5, ge=1, le=50, description="Maximum documents per call")
    pack_tokens: int = operational(
        8_000,
        ge=100,
        description="Maximum estimated tokens of documents per call; a longer document goes alone",
    )
    pack_images: int = operational(
        4, ge=1, description="Maximum images per call; a document with more goes alone"
    )
    mode: Literal["direct", "batch"] = operational(
        "direct",
        description="`batch`: use the endpoint's Batch API, for half the price within a day",
    )
    service_tier: str | None = operational(
        None, description="Tier of every request; `flex` costs half and may be slow or refused at times"
    )
    batch_requests: int = operational(
        1_000, ge=1, le=50_000, description="Maximum requests per batch job, and waiting in total"
    )
    batch_linger: float = operational(
        5.0, ge=0, description="Seconds without another request after which a batch job is created"
    )
    batch_poll: float = operational(
        30.0, gt=0, le=3600, description="Seconds between two polls of a batch job"
    )
    batch_cancel: bool = operational(
        False,
        description="Cancel batch jobs that have not ended when a run ends (default: a resume takes them)",
    )
    trace: bool = operational(
        False,
        description="Keep the prompt and the raw reply of each call in the journal (`journal show --trace`)",
    )
    redact: list[str] = operational(
        [], description="Regular expressions; what they match is replaced by `***` in traces"
    )
    max_document_tokens: int = operational(
        100_000,
        ge=100,
        description="Documents longer than this become dead letters; they are never truncated",
    )
    concurrency: int = operational(
        32,
        ge=1,
        le=256,
        description="Maximum concurrent calls; begins with 4 and grows while the endpoint keeps up",
    )
    timeout: float = operational(120.0, gt=0, description="Timeout of a call, in seconds")
    connect_patience: float = operational(
        1.0, ge=0, description="How long the first call of a run waits for the endpoint, in seconds"
    )
    budget_usd: float | None = operational(
        None, gt=0, description="Stop the run (it can be resumed) before it spends more than this"
    )
    usd_per_million_input: float | None = operational(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Price of a million prompt tokens (default: known for some models, 0 for the sandbox)",
    )
    usd_per_million_output: float | None = operational(
        None,
        ge=0,
        allow_inf_nan=False,
        description="Price of a million answer tokens (default: known for some models, 0 for the sandbox)",
    )

    @field_validator("target")
    @classmethod
    def _can_be_asked_for(cls, name: str, info: ValidationInfo) -> str:
        try:
            target_schema(name, known_fields(info.data.get("id_field", ""), info.data.get("uri_field", "")))
        except FatalError as error:
            raise ValueError(str(error)) from error
        return name

    @field_validator("declared")
    @classmethod
    def _can_be_declared(
        cls, fields: dict[str, DeclaredField], info: ValidationInfo
    ) -> dict[str, DeclaredField]:
        try:
            schema_of(declared_model(fields), known_fields(info.data["id_field"], info.data["uri_field"]))
        except FatalError as error:
            raise ValueError(str(error)) from error
        return fields

    @field_validator("budget_usd", "usd_per_million_input", "usd_per_million_output", mode="before")
    @classmethod
    def _is_a_sum(cls, usd: object) -> object:
        """Reject booleans: `yes` would be one dollar."""
        if isinstance(usd, bool):
            raise ValueError("must be a number of USD, not true or false")
        return usd

    @field_validator("extra_body")
    @classmethod
    def _adds_fields(cls, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if "model" in fields:
            raise ValueError("name the model with `model`: prices and the journal go by it")
        if "messages" in fields:
            raise ValueError("`messages` are the documents; add texts with `instructions`")
        return fields

    @field_validator("redact")
    @classmethod
    def _are_expressions(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                expression = re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
            if expression.fullmatch(""):
                raise ValueError(f"{pattern!r} matches the empty text, and so between any two characters")
        return patterns

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.declared and "target" in self.model_fields_set:
            raise ValueError("give either `schema` or `fields`, not both")
        return self

    @model_validator(mode="after")
    def _examples_and_rules_fit(self) -> Self:
        if self.instructions_file:
            self.all_instructions  # noqa: B018 - reads the file
        if not (self.examples or self.merge):
            return self
        schema = self.target_schema()
        for number, example in enumerate(self.examples, 1):
            check_example(example, schema, self.known, f"`examples`, number {number}", many=self.many)
        unknown = [name for name in self.merge if name not in schema.fields]
        if unknown:
            raise ValueError(f"`merge`: `{unknown[0]}` is not one of the fields: {', '.join(schema.fields)}")
        if self.merge and self.many:
            raise ValueError(
                "`merge` has no effect with `many`: the records of all parts are kept; remove it"
            )
        for name, rule in self.merge.items():
            if rule is Merge.ALL and not takes_all(schema.fields[name].shape):
                raise ValueError(
                    f"`merge`: `{name}` takes no list and no free text, as `all` makes; "
                    "use first, longest or vote"
                )
        return self

    @property
    def all_instructions(self) -> str:
        """Instructions of the file and of the node. Raises ValueError if the file cannot be read."""
        if not self.instructions_file:
            return self.instructions
        return f"{instructions_of(self.instructions_file)}\n\n{self.instructions}".strip()

    def contents(self) -> dict[str, str]:
        """Return what the model is asked for by the schema's module and by the file of instructions."""
        found: dict[str, str] = {}
        if self.instructions_file:
            found["instructions_file"] = instructions_of(self.instructions_file)
        if not self.declared:
            schema = self.target_schema()
            found["schema"] = json.dumps(schema.record()) + schema.describe()
        return found

    def asked_schema(self) -> TargetSchema:
        """Return the schema to request: the target, possibly many per document, or lenient for parts."""
        schema = self.target_schema()
        schema = replace(schema, lenient=self.split_tokens is not None)
        return schema.listed() if self.many else schema

    @model_validator(mode="after")
    def _grounded_fields_are_asked_for(self) -> Self:
        if self.require_grounding or self.spans_field:
            schema = self.target_schema()
            unknown = [name for name in self.require_grounding if name not in schema.fields]
            if unknown:
                asked = ", ".join(schema.fields)
                raise ValueError(f"`require_grounding`: `{unknown[0]}` is not one of the fields: {asked}")
            if self.spans_field in schema.model.model_fields:
                raise ValueError(f"`spans_field`: the schema has a field `{self.spans_field}` of its own")
            if self.spans_field == self.id_field:
                raise ValueError(f"`spans_field`: `{self.id_field}` has the id of the document; name another")
        return self

    def misfits(self, connection: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """Return messages for endpoint names that the connection does not have."""
        given = connection.get("endpoints")
        known = given if isinstance(given, dict) else {}
        named = [("fallbacks", self.fallbacks), ("cascade", self.cascade)]
        return [
            (name, one.misses(known))
            for name, models in named
            for one in models
            if one.endpoint and one.endpoint not in known
        ]

    @property
    def leaves_sandbox(self) -> bool:
        """Whether models of endpoints other than the sandbox are used."""
        return any(one.endpoint for one in (*self.fallbacks, *self.cascade))

    def of_alternative(self, other: Alternative) -> LlmParams:
        """Return the parameters for another model."""
        return self.model_copy(update=other.changes())

    def target_schema(self) -> TargetSchema:
        """Return the target schema. Raises FatalError if the model cannot be imported or requested."""
        if self.declared:
            return schema_of(declared_model(self.declared), self.known)
        return target_schema(self.target, self.known)

    def notes(self) -> list[str]:
        """Return notes on the schema's fields for the document's id and address."""
        schema, id_field = self.target_schema(), self.id_field
        notes = [
            f"`{one}` of its schema does not accept every text; a document whose `{one}` it rejects becomes "
            "a dead letter without a call; to accept all, make it a `str`"
            for one in (id_field, self.uri_field)
            if schema.field_errors({one: "a text"})
        ]
        if id_field not in schema.model.model_fields:
            notes.append(
                f"its records carry the id of their document as `{id_field}`, besides the schema's fields"
            )
        return notes

    @property
    def extras(self) -> dict[str, JsonValue]:
        """Request fields other than the prompt, the form of the answer and the temperature."""
        own = {"seed": self.seed, "reasoning_effort": self.reasoning_effort}
        return {**{name: value for name, value in own.items() if value is not None}, **self.extra_body}

    @property
    def sent(self) -> dict[str, JsonValue]:
        """`extras`, and request fields that do not change an answer."""
        tier = {} if self.service_tier is None else {"service_tier": self.service_tier}
        return {**tier, **self.extras}

    @property
    def calls(self) -> int:
        """Maximum concurrent calls."""
        return self.batch_requests if self.mode == "batch" else self.concurrency

    @property
    def longest(self) -> float:
        """Timeout of a call in seconds; longer for the tier `flex`."""
        waits = self.service_tier == "flex" and "timeout" not in self.model_fields_set
        return FLEX_TIMEOUT if waits else self.timeout

    @property
    def is_half_price(self) -> bool:
        """Whether calls cost half the listed price."""
        return self.mode == "batch" or self.service_tier == "flex"

    @property
    def known(self) -> frozenset[str]:
        """Fields of the target that the pipeline fills in."""
        return known_fields(self.id_field, self.uri_field)


def known_fields(id_field: str, uri_field: str) -> frozenset[str]:
    """Return fields that are never requested: facts about the input, and when it was read."""
    return frozenset({id_field, uri_field, TRANSFORM_TIMESTAMP})
