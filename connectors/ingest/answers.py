"""What an answer to `POST /ingest/<model>` says about each record."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, Field, ValidationError

from connectors.warehouse.client import Answer
from engine.errors import FatalError, RecordError

__all__ = ["Verdict", "interpret_answer"]


class DeadRecord(BaseModel):
    """A record that arrived and died in the service; `index` is its place in the request."""

    index: int = Field(ge=0)
    error_type: str
    error_message: str
    source: str = ""


class Results(BaseModel):
    """The body of a 200 answer with per-record results."""

    written: int = Field(ge=0)
    dead: list[DeadRecord]
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the records of one request.

    `failures` maps a place in the request to its error. `per_record` says whether the service told each
    record's fate; without it, records that did not fail were accepted and nothing more is known.
    """

    failures: dict[int, RecordError]
    per_record: bool


def interpret_answer(answer: Answer, count: int, request: str) -> Verdict:
    """Read the answer to a request of `count` records. `request` names it in messages.

    Raises:
        FatalError: the answer has per-record results that cannot be true.
    """
    if answer.status >= 300:
        return _refused(answer, count)
    results = _results(answer)
    if results is None:
        return Verdict({}, per_record=False)
    failures = {
        item.index: RecordError(item.error_message, kind=item.error_type, stage="service")
        for item in results.dead
    }
    if any(index >= count for index in failures) or results.written + len(failures) != count:
        raise FatalError(
            f"{request} answered {results.written} written and {len(results.dead)} dead for {count} records",
            kind="schema",
        )
    return Verdict(failures, per_record=True)


def _results(answer: Answer) -> Results | None:
    if not answer.is_json:
        return None
    try:
        return Results.model_validate_json(answer.body)
    except ValidationError:
        return None


def _refused(answer: Answer, count: int) -> Verdict:
    what = (
        "the service rejected the record"
        if count == 1
        else f"the service rejected the whole batch of {count} records"
    )
    message = f"{what} with status {answer.status}: {answer.excerpt()}"
    kind = "RecordRefused" if count == 1 else "BatchRefused"
    # without a stage: these records never came into the service
    return Verdict({index: RecordError(message, kind=kind) for index in range(count)}, per_record=False)
