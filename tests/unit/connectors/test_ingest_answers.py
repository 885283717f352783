"""The outcome of each record from an answer, and the requested delay."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from connectors.ingest.answers import interpret_answer
from connectors.retry_after import retry_after_seconds
from connectors.warehouse.client import Answer
from engine.errors import FatalError, TransientError

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


def test_results_count_with_any_content_type() -> None:
    assert interpret_answer(Answer(200, "", b'{"written": 1, "dead": []}'), 1, "POST /x").per_record


@pytest.mark.parametrize("body", [b"SUCCESS", b"SUCCESS\n", b'"SUCCESS"', b"success"])
@pytest.mark.parametrize("status", [200, 201, 202])
def test_success_is_an_acceptance_without_results(status: int, body: bytes) -> None:
    verdict = interpret_answer(Answer(status, "text/plain", body), 1, "POST /x")
    assert (verdict.per_record, verdict.failures) == (False, {})


OTHERS = [
    Answer(200, "text/html", b"<!doctype html><html>Sign in</html>"),
    Answer(200, "text/plain", b""),
    Answer(204, "application/json", b""),
    Answer(202, "text/plain", b"Accepted"),
    answer({"ok": True}),
    answer({"written": 1}),
    answer({"items": [], "total": 0}),
    answer([]),
    answer(None),
]


@pytest.mark.parametrize("other", OTHERS)
def test_any_other_success_stops_the_run(other: Answer) -> None:
    with pytest.raises(FatalError, match=r"POST /x answered 20\d with .*check `url` of the connection"):
        interpret_answer(other, 1, "POST /x")


@pytest.mark.parametrize("other", OTHERS)
def test_any_other_success_can_be_declared_enough(other: Answer) -> None:
    verdict = interpret_answer(other, 1, "POST /x", any_success=True)
    assert (verdict.per_record, verdict.failures) == (False, {})


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_page_with_a_refusal_is_not_about_the_records(status: int) -> None:
    page = Answer(status, "text/html", b"<html>400 The plain HTTP request was sent to HTTPS port</html>")
    with pytest.raises(FatalError, match="not as an ingest service does"):
        interpret_answer(page, 2, "POST /x")


def test_a_body_that_was_lost_on_its_way_is_sent_again() -> None:
    with pytest.raises(TransientError):
        interpret_answer(Answer(400, "text/plain", b"Failed to read request body"), 2, "POST /x")


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
        ({"retry-after": "1m30s"}, 90.0),
        ({"retry-after": "PT1M30.5S"}, 90.5),
        ({"retry-after": "P2D"}, 3600.0),
        ({"retry-after": "P1M"}, None),  # a month
        ({"retry-after": "PT"}, None),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:30 -0000"}, 30.0),
        ({"retry-after": "Wed, 31 Dec 2025 23:00:00 GMT"}, 0.0),
        ({"retry-after": "Fri, 02 Jan 2026 00:00:00 GMT"}, 3600.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "1 Jan 99999999999 00:00:00 GMT"}, None),
        ({"date": "Wed, 31 Dec 2025 22:59:50 GMT", "retry-after": "Wed, 31 Dec 2025 23:00:00 GMT"}, 10.0),
        ({"date": "today", "retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, 30.0),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
    ],
)
def test_retry_after_is_read_in_all_forms_and_bounded(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers, NOW) == seconds
