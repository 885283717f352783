"""The template `http-to-postgres` against a real server of each kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from anyio.from_thread import start_blocking_portal

from engine.cli import main
from tests.integration.scripted_http import Answer, Request, ScriptedServer
from tests.servers.postgres import Postgres


def issue(number: int, state: str = "open") -> dict[str, Any]:
    """As GitHub describes one; every second is a pull request, and the author of the fourth has left."""
    made = {
        "id": 100 + number, "number": number, "title": f"Issue {number}", "state": state, "comments": 0,
        "user": {"login": "amira"} if number != 4 else None, "labels": [{"name": "bug"}],
        "created_at": "2026-01-01T08:00:00Z", "updated_at": f"2026-01-{number:02}T09:00:00Z",
    }  # fmt: skip
    return made | ({"pull_request": {"url": "https://example.com"}} if number % 2 else {})


class Issues:
    """Two pages of issues at first; then the one that was changed since."""

    def __init__(self) -> None:
        self.queries: list[dict[str, str]] = []

    def __call__(self, request: Request) -> Answer:
        query = dict(parse_qsl(request.query))
        self.queries.append(query)
        assert request.path == "/repos/psycopg/psycopg/issues"
        if "since" in query:
            return Answer.of([issue(5, "closed") | {"updated_at": "2026-01-06T09:00:00Z"}])
        if "page" in query:
            return Answer.of([issue(4), issue(5)])
        following = f"http://{request.headers['host']}{request.path}?page=2"
        rows = [issue(1), issue(2), issue(3)]
        return Answer(200, json.dumps(rows).encode(), {"link": f'<{following}>; rel="next"'})


def test_the_template_reads_what_is_new_into_a_table(
    postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.start()
    postgres.sql("DROP TABLE IF EXISTS issues")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", postgres.address())
    script = Issues()
    assert main(["init", "http-to-postgres"]) == 0

    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(ScriptedServer(script).running()) as server:
            monkeypatch.setenv("API_URL", server.url)
            assert main(["run", "--quiet"]) == 0
            before = postgres.sql("SELECT number, state, author, is_pull_request FROM issues ORDER BY 1")
            assert main(["run", "--quiet"]) == 0

    assert before == [
        (number, "open", "amira" if number != 4 else None, number % 2 == 1) for number in range(1, 6)
    ]
    found = postgres.sql("SELECT number, state, updated_at::date::text FROM issues ORDER BY 1")
    assert found[3:] == [(4, "open", "2026-01-04"), (5, "closed", "2026-01-06")]
    assert len(found) == 5
    assert [query.get("since") for query in script.queries] == [None, None, "2026-01-05T09:00:00Z"]
