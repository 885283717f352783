"""The source and the sink `http` against a real server: paging, limits, kinds of failures, secrets."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from contextlib import aclosing
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from pydantic import SecretStr, ValidationError

from connectors.http import HttpConnection, HttpSink, HttpSinkParams, HttpSource, HttpSourceParams
from connectors.http.client import Answer as HttpAnswer
from connectors.http.client import HttpClient, same_origin
from connectors.http.paging import LinkPaging
from connectors.http.paths import at_path, fill, fill_path
from engine.cli import main
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import BatchError, FatalError, RecordError, TransientError
from engine.execution.engine import Engine
from engine.testing import MemorySource, ScriptedClock, plan_of
from tests.integration.scripted_http import Answer, Request, ScriptedServer, unused_url
from tests.unit.kernel.runs import QUICK

ROWS: list[dict[str, Any]] = [{"id": number, "at": f"2026-01-{number + 1:02}"} for number in range(25)]


def source(url: str, connection: dict[str, Any] | None = None, **params: Any) -> HttpSource:
    made = HttpSource(HttpSourceParams(**params), HttpConnection(url=url, **(connection or {})))
    made.ctx = Context("p", "n", clock=ScriptedClock(jump=True))
    return made


async def read(url: str, connection: dict[str, Any] | None = None, **params: Any) -> list[Any]:
    opened = source(url, connection, **params)
    async with opened, aclosing(opened.extract()) as pages:
        return [record async for page in pages for record in page]


def asked(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.query))


def by_link(request: Request) -> Answer:
    page = int(asked(request).get("page", 0))
    url = f"http://{request.headers['host']}/rows?page={page + 1}"
    more = {"link": f'<{url}>; rel="next", <{url}>; rel="last"'} if page < 2 else {}
    return Answer(200, json.dumps(ROWS[page * 10 : page * 10 + 10]).encode(), more)


def by_offset_as(form: str) -> Any:
    def script(request: Request) -> Answer:
        rows = ROWS[int(asked(request)["offset"]) :][:10]
        lines = [json.dumps(row) for row in rows]
        if form == "csv":
            lines = ["id,at", *(f"{row['id']},{row['at']}" for row in rows)]
        return Answer(200, "".join(f"{line}\n" for line in lines).encode(), {"content-type": f"text/{form}"})

    return script


@pytest.mark.parametrize("form", ["csv", "jsonl"])
async def test_answers_in_lines_and_rows_are_read(form: str) -> None:
    async with ScriptedServer(by_offset_as(form)).running() as server:
        assert await read(server.url, format=form, paging={"type": "offset", "size": 10}) == ROWS
        if form == "csv":
            text = await read(server.url, format=form, types="text", paging={"type": "offset", "size": 10})
            assert text[3]["id"] == "3"
        with pytest.raises(FatalError, match=rf"JSON \(text/{form}\): check `path`, or set `format`"):
            await read(server.url, paging={"type": "offset", "size": 10})


async def test_columns_of_csv_have_one_type_in_all_answers() -> None:
    bodies = [b"id,n,late\n1,1,\n", b"id,n,late\n2,x,007\n3,3,7\n", b"late,n,id\n8,4.5,4\n"]
    paging = {"type": "page", "parameter": "page", "start": 0}

    def script(request: Request) -> Answer:
        page = int(asked(request)["page"])
        return Answer(200, bodies[page]) if page < 3 else Answer(404)

    async with ScriptedServer(script).running() as server:
        opened = source(server.url, format="csv", paging=paging, key="id")
        async with opened:
            (split,) = [one async for one in opened.splits(opened.ctx)]
            batches = [one async for one in opened.read(split, None, opened.ctx)]
            resumed = [one async for one in opened.read(split, batches[1].position, opened.ctx)]

    found = [record for batch in batches for record in batch.records if "n" in record]
    assert found == [
        {"id": 1, "n": 1, "late": None}, {"id": 3, "n": 3, "late": "7"}, {"id": 4, "n": 4.5, "late": "8"}
    ]  # fmt: skip
    assert [(at, error.kind) for at, error in batches[1].failures] == [(0, "WrongType")]
    assert resumed[0].records == batches[2].records


@pytest.mark.parametrize("types", ["infer", "text"])
@pytest.mark.parametrize("second", [b"2,x\n", b"2,x\n3,y\n"])
async def test_csv_without_the_header_of_earlier_answers_stops(second: bytes, types: str) -> None:
    answers = [Answer(200, b"id,name\n1,w\n"), Answer(200, second), Answer(200)]
    async with ScriptedServer(answers=answers).running() as server:
        with pytest.raises(FatalError, match="no header with the columns of earlier answers"):
            await read(server.url, format="csv", types=types, paging={"type": "page"})


@pytest.mark.parametrize("types", ["infer", "text"])
async def test_a_resumed_reader_of_csv_knows_the_columns(types: str) -> None:
    def script(request: Request) -> Answer:
        return Answer(200, b"name,id\nw,\n" if asked(request)["page"] == "1" else b"2,x\n3,y\n")

    async with ScriptedServer(script).running() as server:
        opened = source(server.url, format="csv", types=types, paging={"type": "page"})
        async with opened:
            (split,) = [one async for one in opened.splits(opened.ctx)]
            async with aclosing(opened.read(split, None, opened.ctx)) as batches:
                first = await anext(batches)
            with pytest.raises(FatalError, match="no header with the columns of earlier answers"):
                await anext(opened.read(split, json.loads(json.dumps(first.position)), opened.ctx))


async def test_an_unreadable_line_of_an_answer_fails_alone() -> None:
    answer = Answer(200, b'{"id": 1, "at": 1}\n{"id":\n{"id": 3, "at": 3}\n')
    async with ScriptedServer(answers=[answer]).running() as server:
        opened = source(server.url, format="jsonl", key="id")
        async with opened:
            (split,) = [one async for one in opened.splits(opened.ctx)]
            (batch,) = [one async for one in opened.read(split, None, opened.ctx)]
    assert [(at, error.kind) for at, error in batch.failures] == [(1, "BrokenLine")]
    assert batch.keys.to_list() == ["n/1", "n#0/1", "n/3"]


@pytest.mark.parametrize(
    ("form", "body", "expected"),
    [
        ("jsonl", b"", []), ("csv", b"", []), ("csv", b"id,at\n", []), ("jsonl", b"\n\n", []),
        ("csv", b"a,b\n1,x\n", [{"a": 1, "b": "x"}]),
        ("csv", b'{"error": "no such report"}', r"did not answer with `csv` \(no content type\)"),
        ("csv", b"<html>log in", r"answered with a web page instead of CSV"),
        ("jsonl", b"\x89PNG\r\n\x1a\n\0\0\0", r"did not answer with `jsonl`.*is not text"),
    ],
)  # fmt: skip
async def test_odd_answers_in_lines_are_read_or_refused(form: str, body: bytes, expected: Any) -> None:
    async with ScriptedServer(answers=[Answer(200, body)]).running() as server:
        if isinstance(expected, list):
            assert await read(server.url, format=form) == expected
            return
        with pytest.raises(FatalError, match=expected):
            await read(server.url, format=form)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"query": {"limit": 9}, "paging": {"type": "offset"}}, "`query` has 'limit', which `paging` sends"),
        ({"format": "csv", "records": "data"}, "`records` is a path in JSON, and the format is `csv`"),
        ({"format": "jsonl", "paging": {"type": "cursor", "cursor": "a"}}, "a cursor is in a JSON document"),
        ({"format": "jsonl", "types": "text"}, "`types` is for `format: csv`"),
        ({"body": {"a": 1}}, "`body` is sent with `method: POST` only"),
        ({"method": "POST", "body": {"a": {1: 2}}}, "it cannot be serialized as JSON"),
        ({"records_optional": True}, "`records_optional` needs `records`"),
        ({"path": "https://api.example/v1"}, "`path` is appended to the `url`"),
    ],
)
def test_options_of_other_formats_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HttpSourceParams(**params)


def by_cursor(request: Request) -> Answer:
    first = int(asked(request).get("after", 0))
    following = first + 10 if first + 10 < len(ROWS) else None
    return Answer.of({"rows": ROWS[first : first + 10], "meta": {"next": following}})


def by_address(request: Request) -> Answer:
    first = int(asked(request).get("from", 0))
    following = f"?from={first + 10}" if first + 10 < len(ROWS) else ""
    return Answer.of({"rows": ROWS[first : first + 10], "next": following})


def after_the_last(request: Request) -> Answer:
    first = int(asked(request).get("after", -1)) + 1
    return Answer.of({"rows": ROWS[first : first + 10], "has_more": first + 10 < len(ROWS)})


def by_offset(request: Request) -> Answer:
    query = asked(request)
    first = int(query["offset"])
    return Answer.of(ROWS[first : first + min(int(query["limit"]), 7)])  # the server's own limit


def by_page(request: Request) -> Answer:
    page = int(asked(request)["page"]) - 1
    return Answer.of(ROWS[page * 10 : page * 10 + 10]) if page < 3 else Answer.of({"error": "none"}, 404)


@pytest.mark.parametrize(
    ("script", "params"),
    [
        (by_link, {"paging": {"type": "link"}}),
        (
            by_cursor,
            {"paging": {"type": "cursor", "cursor": "meta.next", "parameter": "after"}, "records": "rows"},
        ),
        (by_address, {"paging": {"type": "cursor", "cursor": "next"}, "records": "rows"}),
        (
            after_the_last,
            {
                "paging": {
                    "type": "cursor",
                    "cursor": "rows[-1].id",
                    "parameter": "after",
                    "more": "has_more",
                },
                "records": "rows",
            },
        ),
        (by_offset, {"paging": {"type": "offset", "size": 10}}),
        (by_page, {"paging": {"type": "page"}}),
    ],
)
async def test_every_kind_of_paging_reads_all_records(script: Any, params: dict[str, Any]) -> None:
    async with ScriptedServer(script).running() as server:
        assert await read(server.url, path="/rows", **params) == ROWS


@pytest.mark.parametrize(
    "link",
    [
        "</2>; rel=next",
        '</2>;rel="next prefetch"',
        '</9>; rel="first last", </2>; REL = "Prev Next"',
        '</9>; title="a, </8>; rel=next"; rel=prev, </2>; title="x; rel=\\"prev\\""; rel="next"; hreflang=de',
        '</2>; rel="next", </9>; rel="next"',
        '<2>; rel="next"',
    ],
)
async def test_a_link_is_read_however_it_is_written(link: str) -> None:
    def script(request: Request) -> Answer:
        last = Answer.of(ROWS[1:], link="</9>; rel=last")
        return last if request.path == "/2" else Answer.of(ROWS[:1], link=link)

    async with ScriptedServer(script).running() as server:
        assert await read(server.url, path="rows", paging={"type": "link"}) == ROWS


@pytest.mark.parametrize(
    "link", ["", "<", "</2>", "</2>; title=next", '</2>; rel="', "</2>; rel", "; rel=next", "<" * 9000]
)
async def test_without_a_link_to_a_next_page_reading_ends(link: str) -> None:
    assert HttpAnswer(200, {"link": link}, b"").link("next") is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'\xef\xbb\xbf[{"t": "\xc3\xbc"}]', "application/json"),
        ('[{"t": "ü"}]'.encode("latin-1"), "application/json; charset=ISO-8859-1"),
        ('[{"t": "ü"}]'.encode(), "application/json; charset=ISO-8859-1"),
        ('[{"t": "ü"}]'.encode("utf-16"), "application/json"),
        ('[{"t": "ü"}]'.encode("utf-16-le"), "application/json; charset=utf-16le"),
    ],
)
async def test_json_is_read_in_any_charset(body: bytes, kind: str) -> None:
    async with ScriptedServer(answers=[Answer(200, body, {"content-type": kind})]).running() as server:
        assert await read(server.url, path="rows") == [{"t": "ü"}]


async def test_an_empty_answer_ends_the_pages_and_is_no_first_one() -> None:
    pages = [Answer.of(ROWS), Answer(200, b"")]
    async with ScriptedServer(answers=pages).running() as server:
        assert await read(server.url, path="rows", paging={"type": "page"}) == ROWS
    async with ScriptedServer(answers=[Answer(204)]).running() as server:
        assert await read(server.url, path="rows") == []


BY_PAGE = {"paging": {"type": "page"}}
BY_NEXT = {"paging": {"type": "cursor", "cursor": "next", "parameter": "after"}}


@pytest.mark.parametrize(
    ("last", "params"),
    [
        (Answer.of({}), BY_PAGE),
        (Answer.of({"error": "no such page"}, 404), {"paging": {"type": "offset"}}),
        (Answer.of({"error": "no such page"}, 400), {"paging": {"type": "page", "end_statuses": [400]}}),
        (Answer(416), {"paging": {"type": "offset", "end_statuses": [404, 416]}}),
        (Answer.of({"kind": "list"}), BY_PAGE | {"records_optional": True}),
        (Answer.of({"kind": "list"}), BY_NEXT | {"records_optional": True}),
        (Answer.of({}), BY_NEXT),
    ],
)
async def test_answers_after_the_last_page_end_the_pages(last: Answer, params: dict[str, Any]) -> None:
    answers = [Answer.of({"rows": ROWS, "next": 2}), last]
    async with ScriptedServer(answers=answers).running() as server:
        assert await read(server.url, path="rows", records="rows", **params) == ROWS


@pytest.mark.parametrize(
    ("last", "params", "message"),
    [
        (Answer.of({"error": "no"}, 400), BY_PAGE, "answered 400: check"),
        (
            Answer.of({"kind": "list"}),
            BY_PAGE,
            "no list of records at `rows`: set `records` to where they are",
        ),
        (Answer.of({"error": "quota"}), BY_PAGE | {"records_optional": True}, "`error` instead of records"),
        (
            Answer.of({"rows": None, "errors": ["no"]}),
            BY_PAGE,
            '`errors` instead of records (it says: ["no"])',
        ),
    ],
)
async def test_other_answers_do_not_end_the_pages(last: Answer, params: dict[str, Any], message: str) -> None:
    async with ScriptedServer(answers=[Answer.of({"rows": ROWS}), last]).running() as server:
        with pytest.raises(FatalError, match=re.escape(message)):
            await read(server.url, path="rows", records="rows", **params)


async def test_a_first_answer_without_records_is_noted() -> None:
    async with ScriptedServer(answers=[Answer.of({"total": 0})]).running() as server:
        opened = source(server.url, path="rows", records="rows", records_optional=True)
        async with opened, aclosing(opened.extract()) as pages:
            assert [page async for page in pages] in ([], [[]])
    assert opened.ctx.aggregate == {
        "note: the first answer has nothing at `rows`, which is taken as no records": 1,
        "bytes": 12,
        "requests": 1,
    }


@pytest.mark.parametrize("status", [200, 401, 429, 500])
def test_statuses_of_failures_do_not_end_the_pages(status: int) -> None:
    with pytest.raises(ValidationError, match=f"{status} does not say that there are no more pages"):
        HttpSourceParams.model_validate({"paging": {"type": "page", "end_statuses": [status]}})


async def test_a_body_carries_the_cursor_and_what_is_new() -> None:
    pages = [{"data": {"rows": ROWS[:9], "next": "b"}}, {"data": {"rows": ROWS[9:], "next": None}}]
    given = {"query": "query Rows", "variables": {"first": 9, "after": None}}
    async with ScriptedServer(answers=list(map(Answer.of, pages))).running() as server:
        records = await read(
            server.url,
            path="graphql",
            method="POST",
            body=given,
            records="data.rows",
            paging={"type": "cursor", "cursor": "data.next", "parameter": "variables.after"},
            incremental={"field": "id", "parameter": "filter.since", "start": 5},
        )
    assert records == ROWS
    first, second = server.requests
    since = {"filter": {"since": 5}}
    assert first.json == {**given, **since}
    assert second.json == {**given, "variables": {"first": 9, "after": "b"}, **since}
    assert {(one.method, one.query, one.headers["content-type"]) for one in server.requests} == {
        ("POST", "", "application/json")
    }


async def test_names_with_dots_and_repeated_parameters_are_usable() -> None:
    first = {"value": ROWS[:9], "@odata.nextLink": "/rows?$skip=9"}
    async with ScriptedServer(answers=[Answer.of(first), Answer.of({"value": ROWS[9:]})]).running() as server:
        paging = {"type": "cursor", "cursor": "@odata.nextLink"}
        query = {"expand[]": ["a", "b"], "top": 9}
        assert await read(server.url, path="rows", records="value", paging=paging, query=query) == ROWS
    assert [parse_qsl(one.query) for one in server.requests] == [
        [("expand[]", "a"), ("expand[]", "b"), ("top", "9")],
        [("$skip", "9")],
    ]


@pytest.mark.parametrize(
    ("link", "base", "expected"),
    [
        ("http://a.example/2", "https://a.example/1", "https://a.example/2"),
        ("http://a.example:8443/2", "https://a.example:8443/1", "https://a.example:8443/2"),
        ("/2", "http://a.example/1", "http://a.example/2"),
    ],
)
def test_links_of_a_server_behind_a_proxy_stay_on_https(link: str, base: str, expected: str) -> None:
    answer = HttpAnswer(200, {"link": f"<{link}>; rel=next"}, b"")
    assert LinkPaging(type="link").next(None, answer, [], 1, base) == expected


def test_a_date_in_a_body_is_text() -> None:
    given = {"since": date(2026, 1, 31), "ids": [2**70]}
    assert HttpSourceParams(method="POST", body=given).body == {"since": "2026-01-31", "ids": [2**70]}


async def test_redirects_of_a_server_behind_a_proxy_stay_on_https() -> None:
    asked_for: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked_for.append(str(request.url))
        moved = not request.url.path.endswith("/")
        headers = {"location": f"http://a.example{request.url.path}/"} if moved else {}
        return httpx.Response(301 if moved else 200, headers=headers, stream=httpx.ByteStream(b"[]"))

    connection = HttpConnection(url="https://a.example", token=SecretStr("t"))
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = HttpClient(http, connection, timeout=5, per_second=None, clock=ScriptedClock())
        await client.send("GET", "https://a.example/rows", max_answer=1024)
    assert asked_for == ["https://a.example/rows", "https://a.example/rows/"]


async def test_a_page_of_an_earlier_host_is_not_asked_for() -> None:
    async with ScriptedServer(by_link).running() as server:
        opened = source(server.url, path="rows", key="id", paging={"type": "link"})
        async with opened:
            (split,) = [one async for one in opened.splits(opened.ctx)]
            position = ["https://earlier.example/rows?page=1", 1, 10, None]
            with pytest.raises(FatalError, match="at a page of another host than `url` of the connection"):
                await anext(opened.read(split, position, opened.ctx))
    assert not server.requests


async def test_offsets_in_a_body_are_numbers() -> None:
    async with ScriptedServer(answers=[Answer.of(ROWS), Answer.of([])]).running() as server:
        await read(server.url, path="rows", method="POST", paging={"type": "offset", "size": 30})
    assert [one.json for one in server.requests] == [{"offset": 0, "limit": 30}, {"offset": 25, "limit": 30}]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(200, b" "), "answered 200 with nothing"),
        (
            Answer(200, b"<html>log in", {"content-type": "text/html"}),
            "web page instead of JSON, which may be a login",
        ),
        (Answer(200, b"hello", {"content-type": "text/plain"}), "did not answer with JSON (text/plain)"),
        (
            Answer(200, b"{}\n{}", {"content-type": "application/x-ndjson"}),
            "set `format` to `csv` or `jsonl`",
        ),
        (
            Answer(200, b'[{"a": NaN}]', {"content-type": "application/json"}),
            "answered with JSON that is not valid: unexpected character",
        ),
        (Answer.of({"items": [], "total": 0}), "no list of records at its top: set `records`"),
        (Answer.of({"error": "no such field"}, 400), "answered 400: check `url` of the connection, `path`"),
        (Answer(401), "credentials are missing or wrong"),
        (Answer(404), "not found; check `url`"),
        (Answer(302), "answered 302, a redirect that does not say where to"),
        (Answer(302, b"", {"location": "https://elsewhere.example/"}), "a redirect to elsewhere.example"),
        (Answer.of(["x" * 5000]), "more than 2,000 bytes: ask for smaller pages"),
        (
            Answer(200, gzip.compress(b"[" + b" " * 10**6 + b"]"), {"content-encoding": "gzip"}),
            "more than 2,000 bytes",
        ),
    ],
)
async def test_answers_that_are_no_records_stop_the_run(answer: Answer, message: str) -> None:
    async with ScriptedServer(answers=[answer]).running() as server:
        with pytest.raises(FatalError) as caught:
            await read(server.url, path="rows", max_answer_bytes=2000)
    assert message in str(caught.value)
    assert f"GET {server.url}/rows" in str(caught.value)


async def test_passing_answers_say_how_long_to_wait() -> None:
    async with ScriptedServer(
        answers=[Answer(429, b"", {"retry-after": "7"}), Answer(503)]
    ).running() as server:
        for wait, throttled in ((7.0, True), (None, False)):
            with pytest.raises(TransientError) as caught:
                await read(server.url)
            assert (caught.value.retry_after, caught.value.throttled) == (wait, throttled)
    with pytest.raises(TransientError, match="connection refused"):
        await read(unused_url())


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "7"}, 7.0),
        ({"retry-after": "7"}, 7.0), ({"ratelimit-remaining": "0", "ratelimit-reset": "99999"}, 3600.0),
        ({"x-ratelimit-remaining": "0"}, None),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "7"}, None),
    ],
)  # fmt: skip
async def test_a_used_up_rate_limit_is_no_missing_permission(
    headers: dict[str, str], wait: float | None
) -> None:
    async with ScriptedServer(answers=[Answer(403, b"", headers)]).running() as server:
        if wait is None:
            with pytest.raises(FatalError, match="lack the permission"):
                await read(server.url)
        else:
            with pytest.raises(TransientError, match="rate limit is used up") as found:
                await read(server.url)
            assert (found.value.retry_after, found.value.throttled) == (wait, True)


async def test_redirects_within_the_host_are_followed() -> None:
    answers = [Answer(301, b"", {"location": "/v2/rows"}), Answer.of(ROWS)]
    async with ScriptedServer(answers=answers).running() as server:
        assert await read(server.url, path="rows") == ROWS
    assert server.requests[1].path == "/v2/rows"


@pytest.mark.parametrize(
    ("script", "paging"),
    [
        (
            lambda _: Answer.of({"rows": ROWS, "next": "same"}),
            {"type": "cursor", "cursor": "next", "parameter": "a"},
        ),
        (lambda _: Answer.of({"rows": ROWS}), {"type": "offset"}),
        (lambda _: Answer.of({"rows": ROWS}), {"type": "page"}),
    ],
)
async def test_pages_that_would_never_end_stop_the_run(script: Any, paging: dict[str, Any]) -> None:
    async with ScriptedServer(script).running() as server:
        with pytest.raises(FatalError, match="would never end: check `paging`"):
            await read(server.url, records="rows", paging=paging)


async def test_a_cursor_replaces_the_one_in_the_query() -> None:
    async with ScriptedServer(by_cursor).running() as server:
        paging = {"type": "cursor", "cursor": "meta.next", "parameter": "after"}
        assert await read(server.url, records="rows", query={"after": 10, "z": 1}, paging=paging) == ROWS[10:]
    assert server.requests[1].query == "after=20&z=1"


async def test_a_cursor_of_true_is_none() -> None:
    async with ScriptedServer(lambda _: Answer.of({"rows": ROWS, "next": True})).running() as server:
        with pytest.raises(FatalError, match="neither text nor a number"):
            await read(
                server.url, records="rows", paging={"type": "cursor", "cursor": "next", "parameter": "a"}
            )


async def test_a_misspelt_field_for_more_pages_is_named() -> None:
    async with ScriptedServer(by_cursor).running() as server:
        paging = {"type": "cursor", "cursor": "meta.next", "parameter": "after", "more": "has_mor"}
        with pytest.raises(FatalError, match="nothing at `has_mor`: check `more` of `paging`"):
            await read(server.url, records="rows", paging=paging)


async def test_more_pages_without_a_cursor_stop_the_run() -> None:
    async with ScriptedServer(lambda _: Answer.of({"rows": ROWS[:10], "has_more": True})).running() as server:
        paging = {"type": "cursor", "cursor": "rows[-1].uid", "parameter": "after", "more": "has_more"}
        with pytest.raises(FatalError, match=r"no cursor at `rows\[-1\].uid`: check `cursor` of `paging`"):
            await read(server.url, records="rows", paging=paging)


@pytest.mark.parametrize("values", [[5_000, 7, 6_000], [7, 5_000, 6_000]], ids=["first", "later"])
async def test_milliseconds_among_seconds_are_no_bookmark(values: list[int]) -> None:
    rows = [{"at": 1_770_000_000 + value if value < 100 else 1_770_000_000_000 + value} for value in values]
    async with ScriptedServer(answers=[Answer(200, json.dumps(rows).encode())]).running() as server:
        opened = source(server.url, incremental={"field": "at", "parameter": "since"})
        async with opened:
            (split,) = [one async for one in opened.splits(opened.ctx)]
            (batch,) = [one async for one in opened.read(split, None, opened.ctx)]

    assert [one.value for one in batch.bookmarks] == [1_770_000_007]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "a"], "some are text, others are not; .*: python -m engine bookmarks reset p$"),
        ([{"a": 1}], "a value of 'at' is neither text nor a number"),
        ([True], "a value of 'at' is neither text nor a number"),
    ],
)
async def test_incremental_values_that_cannot_be_compared_are_named(values: list[Any], message: str) -> None:
    answer = Answer.of([{"id": number, "at": value} for number, value in enumerate(values)])
    async with ScriptedServer(answers=[answer]).running() as server:
        with pytest.raises(FatalError, match=message):
            await read(server.url, incremental={"field": "at", "parameter": "since"})


async def test_the_number_of_pages_is_bounded() -> None:
    async with ScriptedServer(by_cursor).running() as server:
        paging = {"type": "cursor", "cursor": "meta.next", "parameter": "after"}
        with pytest.raises(FatalError, match="more than 2 pages: raise `max_pages`"):
            await read(server.url, records="rows", paging=paging, max_pages=2)


async def test_next_pages_elsewhere_are_not_asked_for() -> None:
    elsewhere = Answer.of([1], link='<https://elsewhere.example/?key=hush>; rel="next"')
    async with ScriptedServer(answers=[elsewhere]).running() as server:
        with pytest.raises(FatalError, match="on another host") as caught:
            await read(server.url, paging={"type": "link"})
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("connection", "header", "sent"),
    [
        ({"token": "hush"}, "authorization", "Bearer hush"),
        ({"user": "me", "password": "hush"}, "authorization", "Basic bWU6aHVzaA=="),
        ({"headers": {"X-Api-Key": "hush"}}, "x-api-key", "hush"),
    ],
)
async def test_credentials_are_sent_and_never_shown(
    connection: dict[str, Any], header: str, sent: str
) -> None:
    answers = [Answer.of(ROWS), Answer.of({"error": "not hush"}, 400)]
    async with ScriptedServer(answers=answers).running() as server:
        assert await read(server.url, connection) == ROWS
        with pytest.raises(FatalError) as caught:
            await read(server.url, connection)
    assert server.requests[0].headers[header] == sent
    assert "not ***" in str(caught.value)


async def test_a_key_in_the_query_is_neither_shown_nor_stored() -> None:
    def script(request: Request) -> Answer:
        query = asked(request)
        if query["api_key"] != "hush" or "page" in query:
            return Answer.of([])
        return Answer.of(ROWS, link='</rows?page=2&api_key=hush>; rel="next"')

    opened = source(
        "http://x.example", {"query_secrets": {"api_key": "hush"}}, paging={"type": "link"}, key="id"
    )
    async with ScriptedServer(script).running() as server:
        opened.connection = opened.connection.model_copy(update={"url": server.url})  # type: ignore[union-attr]
        async with opened:
            async with aclosing(opened.splits(opened.ctx)) as listing:  # type: ignore[type-var]
                (split,) = [split async for split in listing]
            async with aclosing(opened.read(split, None, opened.ctx)) as batches:
                positions = [json.dumps(batch.position) async for batch in batches]
    assert len(positions) == 2
    assert "page=2" in positions[0]
    assert "hush" not in "".join(positions)
    assert all(asked(request)["api_key"] == "hush" for request in server.requests)


async def test_records_that_cannot_be_used_fail_alone() -> None:
    opened = source("http://x.example", key="id")
    async with ScriptedServer(answers=[Answer.of([{"id": 1}, 7, {"name": "no id"}])]).running() as server:
        opened.connection = HttpConnection(url=server.url)
        async with opened, aclosing(opened.read(await first(opened), None, opened.ctx)) as batches:
            batch = await anext(batches)
    assert [(index, error.kind) for index, error in batch.failures] == [(1, "NotAnObject"), (2, "MissingKey")]


async def first(opened: HttpSource) -> Any:
    async with aclosing(opened.splits(opened.ctx)) as listing:  # type: ignore[type-var]
        return await anext(listing)


@pytest.mark.parametrize(
    ("script", "params", "notes"),
    [
        (by_link, {}, ["its header links to a next one"]),
        (
            by_address,
            {"paging": {"type": "cursor", "cursor": "nxt"}, "records": "rows"},
            ["no cursor at `nxt`"],
        ),
        (by_address, {"paging": {"type": "cursor", "cursor": "next"}, "records": "rows"}, []),
    ],
)
async def test_a_first_page_that_may_not_be_all_is_named(
    script: Any, params: dict[str, Any], notes: list[str]
) -> None:
    async with ScriptedServer(script).running() as server:
        opened = source(server.url, path="rows", **params)
        async with opened, aclosing(opened.extract()) as pages:
            assert [len(page) async for page in pages][:1] == [10]
    found = [name for name in opened.ctx.aggregate if name.startswith("note: ")]
    assert len(found) == len(notes)
    assert all(part in name for part, name in zip(notes, found, strict=True))


async def test_packed_answers_are_unpacked() -> None:
    packed = Answer(200, gzip.compress(json.dumps(ROWS).encode()), {"content-encoding": "gzip"})
    async with ScriptedServer(answers=[packed]).running() as server:
        assert await read(server.url) == ROWS


LINES = [f"{json.dumps(row)}\n".encode() for row in ROWS]
PACKED = [gzip.compress(b"".join(lines)) for lines in (LINES[:9], LINES[9:])]


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "GZIP, identity"])
async def test_members_of_a_packed_answer_are_one_content(name: str) -> None:
    packed = Answer(200, b"".join(PACKED), {"content-encoding": name})
    async with ScriptedServer(answers=[packed]).running() as server:
        assert await read(server.url, format="jsonl") == ROWS


@pytest.mark.parametrize(
    "body",
    [PACKED[0][:-3], PACKED[0][:-9], PACKED[0] + PACKED[1][:40], PACKED[0][:-8] + b"\1" * 8],
    ids=["cut", "cut before its digest", "cut in a second member", "another digest"],
)
async def test_a_damaged_packed_answer_is_no_success(body: bytes) -> None:
    async with ScriptedServer(lambda _: Answer(200, body, {"content-encoding": "gzip"})).running() as server:
        with pytest.raises(
            TransientError, match=f"GET {server.url} answered with a damaged body: its gzip data"
        ):
            await read(server.url, format="jsonl")
        with pytest.raises(TransientError, match="damaged"):
            await read(server.url)


async def test_records_are_not_sent_again_for_a_damaged_answer() -> None:
    echo = Answer(200, PACKED[0][:-3], {"content-encoding": "gzip"})
    async with ScriptedServer(answers=[echo]).running() as server:
        assert await send(server.url, [{"id": 1}]) == {}
    assert len(server.requests) == 1


async def test_a_damaged_packed_error_is_that_error() -> None:
    async with ScriptedServer(
        answers=[Answer(404, PACKED[0][:50], {"content-encoding": "gzip"})]
    ).running() as server:
        with pytest.raises(
            FatalError, match=r"answered 404: not found; check `url` of the connection and `path`$"
        ):
            await read(server.url)


async def test_requests_take_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ScriptedServer(lambda _: Answer.of(ROWS)).running() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert await read("http://api.invalid", path="rows") == ROWS
        assert await send("http://api.invalid", [{"id": 1}]) == {}
    assert [request.headers["host"] for request in proxy.requests] == ["api.invalid"] * 2


async def test_requests_keep_to_the_rate() -> None:
    opened = source("http://x.example", paging={"type": "offset", "size": 10}, requests_per_second=2)
    clock = opened.ctx.clock
    async with ScriptedServer(by_offset).running() as server:
        opened.connection = HttpConnection(url=server.url)
        began = clock.monotonic()
        async with opened, aclosing(opened.extract()) as pages:
            assert len([page async for page in pages]) == 5
    assert clock.monotonic() - began >= 2.0


def sink(url: str, **params: Any) -> HttpSink:
    made = HttpSink(HttpSinkParams(**params), HttpConnection(url=url, token=SecretStr("hush")))
    made.ctx = Context("p", "n", "r")
    return made


async def send(url: str, records: Sequence[Any], **params: Any) -> dict[int, Any]:
    """Returns the failures."""
    async with sink(url, **params) as opened:
        try:
            await opened.write(Batch(list(records), KeyRange("k/", 0, len(records))))
        except BatchError as error:
            return dict(error.failures)
    return {}


async def test_path_and_body_are_templates() -> None:
    async with ScriptedServer(lambda _: Answer()).running() as server:
        failures = await send(
            server.url,
            [{"id": "a/ü?", "n": 2, "tags": ["x"]}, {"id": "..", "n": 1, "tags": []}, {"n": 1}],
            method="PUT",
            path="/orders/{id}",
            body={"count": "{n}", "text": "n={n} {{}}", "tags": "{tags}"},
        )
    (request,) = server.requests
    assert (request.method, request.path) == ("PUT", "/orders/a/ü?")
    assert request.json == {"count": 2, "text": "n=2 {}", "tags": ["x"]}
    assert {index: error.kind for index, error in failures.items()} == {1: "WrongType", 2: "MissingField"}


async def test_batches_are_arrays_and_may_be_wrapped() -> None:
    async with ScriptedServer(lambda _: Answer()).running() as server:
        await send(server.url, [{"a": 1}, {"a": 2}], batch=True, wrap="items", headers={"X-From": "odw"})
    (request,) = server.requests
    assert request.json == {"items": [{"a": 1}, {"a": 2}]}
    assert request.headers["x-from"] == "odw"


@pytest.mark.slow
@pytest.mark.parametrize("batch", [False, True])
async def test_refused_records_fail_alone(batch: bool) -> None:
    taken: list[int] = []

    def script(request: Request) -> Answer:
        given = request.json if batch else [request.json]
        if any(one["id"] in (3, 8) for one in given):
            return Answer.of({"error": "id is wrong"}, 422)
        taken.extend(one["id"] for one in given)
        return Answer(201, b"")

    async with ScriptedServer(script).running() as server:
        failures = await send(server.url, [{"id": number} for number in range(10)], batch=batch)
    assert sorted(failures) == [3, 8]
    assert all(error.kind == "Http422" and "id is wrong" in str(error) for error in failures.values())
    assert sorted(taken) == [0, 1, 2, 4, 5, 6, 7, 9]


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407])
async def test_answers_about_the_service_stop_the_run(status: int) -> None:
    async with ScriptedServer(lambda _: Answer(status)).running() as server:
        with pytest.raises(FatalError, match=f"answered {status}"):
            await send(server.url, [{"id": 1}, {"id": 2}], path="/orders/{id}")


async def test_passing_answers_are_those_of_their_records() -> None:
    def script(request: Request) -> Answer:
        return Answer(503, b"", {"retry-after": "3"}) if request.json["id"] == 1 else Answer()

    async with ScriptedServer(script).running() as server:
        failures = await send(server.url, [{"id": 0}, {"id": 1}])
    assert list(failures) == [1]
    assert isinstance(failures[1], TransientError)
    assert failures[1].retry_after == 3.0


async def test_statuses_mean_what_the_file_says() -> None:
    answers = [Answer(409), Answer(404), Answer(418, b"", {"retry-after": "7"})]
    params = {"ok_statuses": [409], "record_statuses": [404, 418], "retry_statuses": [418], "concurrency": 1}
    async with ScriptedServer(answers=answers).running() as server:
        failures = await send(server.url, [{"id": 0}, {"id": 1}, {"id": 2}], **params)
    assert failures.keys() == {1, 2}
    assert isinstance(failures[1], RecordError)
    assert isinstance(failures[2], TransientError)
    assert failures[2].retry_after == 7.0


@pytest.mark.parametrize(
    ("option", "remedy"),
    [("query", r"`query` is the same .* write `\?of={id}` in `path`"), ("headers", "`headers` is the same")],
)
def test_fields_where_they_are_not_filled_in_are_refused(option: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        HttpSinkParams.model_validate({option: {"of": "{id}"}})
    HttpSinkParams.model_validate({option: {"of": '{"literal": true}'}})


async def test_a_lone_bad_record_dies_where_the_api_says_it_takes_records() -> None:
    def answer(request: Request) -> Answer:
        return Answer() if request.method == "GET" else Answer(500)

    async with ScriptedServer(answer).running() as server:
        target = sink(server.url, health="/up")
        source = MemorySource({"a": [[{"id": 1}]]})
        plan = plan_of({"read": (source, []), "post": (target, ["read"])}, options={"post": QUICK})
        async with Engine() as owner:
            report = await owner.run(plan)
    assert (report.ok, report.tally.dead) == (True, 1)
    assert [request.method for request in server.requests] == ["POST", "POST", "GET", "POST"]
    assert server.requests[2].path == "/up"


@pytest.mark.parametrize("answer", [Answer(503), Answer(401), Answer(200, b"<html>log in")])
async def test_an_api_that_does_not_say_so_is_away(answer: Answer) -> None:
    async with ScriptedServer(lambda request: answer).running() as server:
        async with sink(server.url, health="health") as target:
            assert not await target.is_answering()
        async with sink(server.url) as target:
            assert not await target.is_answering()
    assert len(server.requests) == 1


async def test_a_web_page_is_no_success_unless_allowed() -> None:
    page = Answer(200, b"<html>log in", {"content-type": "text/html"})
    async with ScriptedServer(lambda _: page).running() as server:
        with pytest.raises(FatalError, match="with a web page, which may be a login"):
            await send(server.url, [{}])
        assert await send(server.url, [{}], html_is_success=True) == {}


@pytest.mark.parametrize("body", [b"<html>log in", b"\n<HTML lang='en'><head>", b"<!DOCTYPE html><p>"])
async def test_a_web_page_is_known_without_a_content_type(body: bytes) -> None:
    async with ScriptedServer(
        lambda _: Answer(200, body, {"content-type": "text/plain"})
    ).running() as server:
        with pytest.raises(FatalError, match="with a web page, which may be a login"):
            await send(server.url, [{}])


async def test_an_api_that_echoes_a_lot_has_taken_the_record() -> None:
    async with ScriptedServer(lambda _: Answer(201, b"x" * (1 << 20) + b"x")).running() as server:
        assert await send(server.url, [{}]) == {}


async def test_a_repetition_has_the_same_idempotency_key() -> None:
    async with ScriptedServer(lambda _: Answer()).running() as server:
        for record in ({"id": 1}, {"id": 1}, {"id": 2}):
            await send(server.url, [record])
        await send(server.url, [{"id": 1}], idempotency_header=None)
    keys = [request.headers.get("idempotency-key") for request in server.requests]
    assert keys[0] == keys[1] != keys[2]
    assert keys[3] is None


async def test_no_redirect_takes_records_elsewhere() -> None:
    moved = Answer(307, b"", {"location": "/elsewhere"})
    async with ScriptedServer(lambda _: moved).running() as server:
        with pytest.raises(FatalError, match="a redirect within the host, which POST does not follow"):
            await send(server.url, [{}])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"wrap": "items"}, "`wrap` is for `batch: true`"),
        ({"batch": True, "path": "/{id}"}, "it cannot have fields"),
        ({"batch": True, "query": {"a": "{id}"}}, "it cannot have fields [type="),
        ({"path": "/{}"}, "write {{ and }} for braces"),
        ({"path": "/{id"}, "write {{ and }} for braces"),
        ({"body": ["a}", 5]}, "write {{ and }} for braces"),
        ({"body": {"a": "{b[}"}}, "is not a place in a document"),
    ],
)
def test_sinks_that_cannot_work_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HttpSinkParams(**params)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"url": "https://me:hush@x.example"}, "must not contain a user"),
        ({"url": "https://x.example", "token": "a", "user": "b"}, "either a `token` or a `user`"),
        ({"url": "https://x.example", "password": "a"}, "`password` needs a `user`"),
        ({"url": "ftp://x.example"}, "must begin with http"),
    ],
)
def test_connections_that_cannot_work_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HttpConnection(**params)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("url", "base", "same"),
    [
        ("http://a.example/x", "http://a.example", True),
        ("https://a.example/x", "http://a.example", True),
        ("http://a.example/x", "https://a.example", False),
        ("http://a.example:81/", "http://a.example", False),
        ("http://b.example/", "http://a.example", False),
        ("http://a.example@b.example/", "http://a.example", False),
        ("http://u@a.example/", "http://a.example", False),
    ],
)
def test_credentials_stay_with_their_server(url: str, base: str, same: bool) -> None:
    assert same_origin(url, base) is same


def test_places_and_templates() -> None:
    document = {"data": {"items": [{"id": 7}]}}
    assert at_path({"a": {"@b.c": [1]}}, "a.@b.c") == [1]
    assert at_path(document, "data.items[0].id") == 7
    assert at_path(document, "") is document
    assert fill({"a": "{data.items[0].id}", "b": ["x{data.items[0].id}"], "c": 1}, document) == {
        "a": 7, "b": ["x7"], "c": 1,
    }  # fmt: skip
    assert fill_path("/{a}/{b}", {"a": True, "b": "ä &"}) == "/true/%C3%A4%20%26"


CHANGED = """\
version: 1
connections:
  shop: {url: "${SHOP_URL}"}
pipelines:
  changed:
    nodes:
      read:
        source: http
        with:
          connection: shop
          path: /rows
          key: id
          paging: {type: offset, size: 10}
          incremental: {field: at, parameter: since}
      keep: {sink: jsonl, with: {path: out.jsonl}}
"""


@pytest.mark.slow
def test_an_incremental_source_asks_for_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(request: Request) -> Answer:
        query = asked(request)
        rows = [row for row in ROWS if row["at"] > query.get("since", "")]
        return Answer.of(rows[int(query["offset"]) :][: int(query["limit"])])

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(CHANGED)
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(ScriptedServer(script).running()) as server:
            monkeypatch.setenv("SHOP_URL", server.url)
            for _ in range(2):
                assert main(["run", "--quiet"]) == 0
                assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 25
    assert asked(server.requests[-1])["since"] == "2026-01-25"


@pytest.mark.slow
@pytest.mark.parametrize("known", ["", "2026-01-25"])
def test_a_value_later_than_the_clock_is_no_bookmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], known: str
) -> None:
    late = {"id": 99, "at": "2999-01-01T00:00:00Z"}
    rows = [*(ROWS if known else []), late]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(CHANGED.replace("{type: offset, size: 10}", "{type: none}"))
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(ScriptedServer(lambda _: Answer.of(rows)).running()) as server:
            monkeypatch.setenv("SHOP_URL", server.url)
            for _ in range(2):
                assert main(["run"]) == 0
                said = capsys.readouterr().out
                assert "reads records again in each run whose `at` is later than the clock" in said
                assert "in none of" not in said
            assert asked(server.requests[-1]).get("since", "") == known
            with monkeypatch.context() as patched:  # as versions that stored such a value
                patched.setattr("connectors.http.source.is_future", lambda *_: False)
                assert main(["run", "--quiet"]) == 0
            assert main(["run"]) == 0
            assert "continues after a `at` later than the clock" in capsys.readouterr().out


@pytest.mark.slow
def test_an_incremental_field_that_no_record_has_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(request: Request) -> Answer:
        return Answer.of(ROWS[int(asked(request)["offset"]) :][:10])

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines.yaml").write_text(CHANGED.replace("field: at", "field: changed_at"))
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(ScriptedServer(script).running()) as server:
            monkeypatch.setenv("SHOP_URL", server.url)
            assert main(["run"]) == 0
    said = capsys.readouterr().out
    assert "`read` found its `incremental` field in none of 25 records: the next run reads all again" in said


@pytest.mark.slow
def test_the_examples_of_the_page_read_and_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(request: Request) -> Answer:
        if request.method == "GET":
            page = ROWS if asked(request).get("page_token") is None else []
            return Answer.of({"data": page, "next_page_token": "t2" if page else None})
        return Answer(201, b"")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHOP_TOKEN", "hush")
    page = Path(__file__).parents[2] / "docs" / "connectors-http.md"
    examples = re.findall(
        r"^```yaml\n(version: 1\n.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(ScriptedServer(script).running()) as server:
            monkeypatch.setenv("SHOP_URL", server.url)
            for text in examples:
                (tmp_path / "pipelines.yaml").write_text(text)
                assert main(["run", "--quiet"]) == 0
    assert len((tmp_path / "orders.jsonl").read_text().splitlines()) == 25
    put = [request for request in server.requests if request.method == "PUT"]
    assert sorted(request.path for request in put) == sorted(f"/stock/{row['id']}" for row in ROWS)
    assert put[0].json == {"seen": put[0].json["seen"], "source": "odw"}


async def test_plan_names_the_address_and_looks_for_no_file() -> None:
    made = sink("https://api.example.com/v1", method="PUT", path="/stock/{id}")
    assert await made.describe_target() == "PUT https://api.example.com/v1/stock/{id}"
