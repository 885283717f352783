"""Misspelt or empty values of a client are refused with a message."""

from __future__ import annotations

import httpx
import pytest

RECORD = {"id": "n1", "text": "x"}


@pytest.mark.slow
@pytest.mark.parametrize("wish", ["per-records", "yes", "per record"])
async def test_an_unknown_wish_for_results_is_400(client: httpx.AsyncClient, wish: str) -> None:
    answer = await client.post("/ingest/NoteSource", json=[RECORD], headers={"X-ODW-Results": wish})
    assert answer.status_code == 400
    assert (await client.get("/consumption/getNote")).json()["total"] == 0


@pytest.mark.parametrize("wish", ["per-record", "Per-Record", " per-record "])
async def test_the_case_of_the_wish_does_not_matter(client: httpx.AsyncClient, wish: str) -> None:
    answer = await client.post("/ingest/NoteSource", json=[RECORD], headers={"X-ODW-Results": wish})
    assert answer.json()["written"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["", " ", "\t\n"])
async def test_a_blank_reason_discards_nothing(client: httpx.AsyncClient, reason: str) -> None:
    await client.post("/ingest/NoteSource", json=[{"id": "n1"}])
    answer = await client.post("/dead-letters", json={"discard": ["n1"], "reason": reason})
    assert answer.status_code == 400
    assert (await client.get("/dead-letters")).json()["items"][0]["status"] == "open"
