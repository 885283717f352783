"""Interpret responses to `POST /ingest/<model>` per record."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, Field, ValidationError

from connectors.warehouse.client import Answer
from engine.errors import FatalError, RecordError, TransientError


class DeadRecord(BaseModel):
    """A record that became a dead letter in the service; `index` is its position in the request."""

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
    """The outcome of the records of one request.

    `failures` maps positions in the request to errors. `per_record` is true if the service reported the
    outcome of each record; otherwise the other records were accepted, and nothing more is known.
    """

    failures: dict[int, RecordError]
    per_record: bool


def interpret_answer(answer: Answer, count: int, request: str, *, any_success: bool = False) -> Verdict:
    """Interpret the response to a request of `count` records. `request` names it in messages.

    Args:
        any_success: every 2xx status means that the records were accepted, regardless of the body.

    Raises:
        FatalError: the answer is not one of an ingest service, or its results are contradictory.
        TransientError: the request body was lost in transit.
    """
    if answer.status >= 300:
        return _refused(answer, count, request)
    try:
        results = Results.model_validate_json(answer.body)
    except ValidationError:
        if any_success or answer.body.strip(b' \t\r\n"').upper() == b"SUCCESS":
            return Verdict({}, per_record=False)
        raise _not_ingest(answer, request) from None
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


def _not_ingest(answer: Answer, request: str) -> FatalError:
    what = "a page" if answer.is_page else "nothing" if not answer.body.strip() else "something else"
    return FatalError(
        f"{request} answered {answer.status} with {what}, and not as an ingest service does (SUCCESS, or "
        "results per record): check `url` of the connection, or set `any_success` if this service answers "
        "otherwise",
        kind="schema",
    )


def _refused(answer: Answer, count: int, request: str) -> Verdict:
    if answer.is_page:
        raise _not_ingest(answer, request)
    if answer.status == 400 and answer.body.strip() == b"Failed to read request body":
        raise TransientError(f"{request} did not arrive whole: the service could not read its body")
    what = (
        "the service rejected the record"
        if count == 1
        else f"the service rejected the whole batch of {count} records"
    )
    message = f"{what} with status {answer.status}: {answer.excerpt()}"
    kind = "RecordRefused" if count == 1 else "BatchRefused"
    # without a stage: these records never entered the service
    return Verdict({index: RecordError(message, kind=kind) for index in range(count)}, per_record=False)
