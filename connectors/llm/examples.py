"""Examples for the model to follow, checked against the schema, and instructions from a file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator

from connectors.llm.declared_fields import without_dates
from connectors.llm.invalid import details_of, reason_of
from connectors.llm.schema import RECORDS, TargetSchema
from engine.contract.unplanned import described

MAX_FILE: Final = 100_000  # bytes of instructions


class Example(BaseModel):
    """A text and its right answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(min_length=1, max_length=20_000, description="Text of a document")
    answer: dict[str, JsonValue] | list[dict[str, JsonValue]] = Field(
        description="Fields of its record; with `many` a list of records"
    )

    @field_validator("answer", mode="before")
    @classmethod
    def _has_texts_of_dates(cls, answer: object) -> object:
        return without_dates(answer)

    @property
    def records(self) -> list[dict[str, JsonValue]]:
        """Return the records of its answer."""
        return self.answer if isinstance(self.answer, list) else [self.answer]


def check_example(
    example: Example, schema: TargetSchema, known: Collection[str], where: str, *, many: bool
) -> None:
    """Raise ValueError if the answer does not fit the schema.

    Args:
        known: fields that the pipeline fills in.
        where: name of the example in messages.
        many: the answer may have several records.
    """
    if isinstance(example.answer, list) and not many:
        raise ValueError(f"{where}: its answer is a list, which needs `many: true`")
    for record in example.records:
        unknown = [name for name in record if name not in schema.fields]
        if unknown:
            asked = ", ".join(schema.fields)
            raise ValueError(f"{where}: `{unknown[0]}` is not one of the fields: {asked}")
        try:
            schema.validated(record)
        except ValidationError as error:
            for detail in details_of(error):
                if not detail["loc"] or detail["loc"][0] not in known:
                    place = ".".join(map(str, detail["loc"]))
                    raise ValueError(f"{where}: `{place}`: {reason_of(detail)}") from error
        except Exception as error:
            raise ValueError(f"{where}: a validator of the schema raised {described(error)}") from error


def told(examples: Sequence[Example], fields: Collection[str], *, many: bool) -> str:
    """Return the examples as part of a prompt; "" without any."""
    if not examples:
        return ""
    shown = [f"<example>\n{one.text.strip()}\n</example>\n{_answer(one, fields, many)}" for one in examples]
    return "Examples of texts, each with the fields of its answer:\n\n" + "\n\n".join(shown)


def _answer(example: Example, fields: Collection[str], many: bool) -> str:
    records = [{name: one.get(name) for name in fields} for one in example.records]
    answer: Mapping[str, object] = {RECORDS: records} if many else records[0]
    return json.dumps(answer, ensure_ascii=False)


def instructions_of(path: str) -> str:
    """Read the text of a file. Raises ValueError if it cannot be read."""
    try:
        with Path(path).expanduser().open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ValueError(f"`instructions_file` {path}: more than {MAX_FILE:,} bytes")
        return data.decode("utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"`instructions_file` {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"`instructions_file` {path}: not UTF-8") from error
