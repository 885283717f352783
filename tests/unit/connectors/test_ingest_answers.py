"""What an answer says about each record, and when to come back."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from connectors.ingest.answers import interpret_answer
from connectors.retry_after import retry_after_seconds
from connectors.warehouse.client import Answer
from engine.errors import FatalError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def answer(document: object) -> Answer:
    return Answer(200, "application/json; charset=utf-8", orjson.dumps(document))


def dead(index: int) -> dict[str, object]:
    return {"index": index, "id": None, "error_type": "T", "error_message": "m", "source": "api"}


def test_dead_records_are_found_by_their_place() -> None:
    verdict = interpret_answer(answer({"written": 2, "dead": [dead(1)], "duplicate": False}), 3, "POST /x")
    assert verdict.per_record
    assert list(verdict.failures) == [1]
    assert (verdict.failures[1].kind, verdict.failures[1].stage) == ("T", "service")


@pytest.mark.parametrize(
    "results",
    [
        {"written": 2, "dead": [dead(3)]},
        {"written": 3, "dead": [dead(0)]},
        {"written": 1, "dead": [dead(0), dead(0)]},
    ],
)
def test_results_that_cannot_be_true_are_an_error_of_the_service(results: object) -> None:
    with pytest.raises(FatalError):
        interpret_answer(answer(results), 3, "POST /x")


@pytest.mark.parametrize(
    "plain",
    [
        Answer(200, "text/plain", b"SUCCESS"),
        Answer(200, "", b'{"written": 1, "dead": []}'),
        answer({"ok": True}),
        answer([]),
        Answer(204, "application/json", b""),
    ],
)
def test_any_other_success_is_an_acceptance_without_results(plain: Answer) -> None:
    verdict = interpret_answer(plain, 1, "POST /x")
    assert not verdict.per_record
    assert not verdict.failures


def test_a_refusal_quotes_only_the_beginning_of_the_answer() -> None:
    verdict = interpret_answer(Answer(422, "text/plain", b"no\n" * 5_000), 2, "POST /x")
    assert set(verdict.failures) == {0, 1}
    assert len(str(verdict.failures[0])) < 400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30 -0000"}, 30.0),
        ({"retry-after": "Wed, 31 Dec 2025 23:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 02 Jan 2026 00:00:00 GMT"}, 3600.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
    ],
)
def test_retry_after_is_read_in_all_forms_and_bounded(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == seconds
