"""The operator's page over the service alone: views, actions, escaping, and permissions."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote

import anyio
import anyio.lowlevel
import httpx
import pytest
from starlette.requests import Request
from starlette.responses import StreamingResponse

from engine.service.app import create_app
from engine.service.auth import hash_of
from engine.service.context import ServiceContext
from engine.service.models import IngestModel
from engine.service.operations import NodeView
from engine.service.page import charts, live
from engine.service.page.access import COOKIE
from engine.service.page.live import SharedOverview, stream
from engine.service.settings import ServiceSettings
from engine.service.warehouse import Warehouse
from tests.unit.service.test_service_tokens import SETTINGS, claims, signed

HTML = {"Accept": "text/html"}
EVIL = "<script>alert('x')</script>"
VIEWS = [
    "/",
    "/ui/runs",
    "/ui/letters",
    "/ui/tables",
    "/ui/query",
    "/ui/records",
    "/ui/schedules",
    "/ui/health",
]


@asynccontextmanager
async def opened(
    path: Path, models: tuple[IngestModel, ...], settings: ServiceSettings
) -> AsyncIterator[httpx.AsyncClient]:
    warehouse = await asyncio.to_thread(Warehouse.open, path, models, settings)
    try:
        transport = httpx.ASGITransport(app=create_app(warehouse, models, settings))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://127.0.0.1", headers=HTML
        ) as client:
            yield client
    finally:
        await asyncio.to_thread(warehouse.close)


@pytest.fixture
async def page(client: httpx.AsyncClient) -> httpx.AsyncClient:
    client.headers.update(HTML)
    return client


async def bad(client: httpx.AsyncClient, *names: str, **fields: Any) -> None:
    """Records without a text, which their model needs."""
    records = [{"id": name, **fields} for name in names]
    headers = {"X-ODW-Results": "per-record"}
    (await client.post("/ingest/NoteSource", json=records, headers=headers)).raise_for_status()


async def csrf(client: httpx.AsyncClient, where: str = "/ui/query") -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', (await client.get(where)).text)
    assert found is not None
    return found[1]


async def letter_id(client: httpx.AsyncClient) -> str:
    return str((await client.get("/dead-letters")).json()["items"][0]["dead_letter_id"])


async def send(client: httpx.AsyncClient, where: str, **form: str) -> httpx.Response:
    return await client.post(where, data={"csrf": await csrf(client), **form})


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
async def test_every_view_answers_when_all_is_empty(page: httpx.AsyncClient, view: str) -> None:
    answer = await page.get(view)
    assert answer.status_code == 200
    assert "<h1" in answer.text
    policy = answer.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.slow
@pytest.mark.parametrize("view", [*VIEWS, "/ui/tables/Note", "/ui/letters?status=all"])
async def test_no_view_has_script_or_style_inside(page: httpx.AsyncClient, view: str) -> None:
    await bad(page, "a", EVIL)
    text = (await page.get(view)).text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", text)
    assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text)


async def test_other_clients_get_json_at_the_root(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).json()["status"] == "ready"


@pytest.mark.slow
async def test_values_of_a_record_are_escaped(page: httpx.AsyncClient, note: Callable[..., Any]) -> None:
    await bad(page, EVIL)
    await page.post("/ingest/Note", json=[note(f"{EVIL}2", EVIL)])
    letter = await letter_id(page)
    for view in ("/ui/letters", f"/ui/letters/service/{letter}", "/ui/tables/Note", f"/ui/records?id={EVIL}"):
        text = (await page.get(view)).text
        assert EVIL not in text
        assert "&lt;script&gt;" in text


@pytest.mark.slow
async def test_a_letter_is_edited_and_replayed(page: httpx.AsyncClient) -> None:
    await bad(page, "a")
    where = f"/ui/letters/service/{await letter_id(page)}"
    assert "Missing fields: text" in (await page.get(where)).text
    refused = await send(page, f"{where}/replay", record='{"id": "a", "text": 5}')
    assert refused.status_code == 400
    assert "Input should be a valid string at text" in refused.text
    assert "&#34;text&#34;: 5" in refused.text  # what was typed is still there
    done = await send(page, f"{where}/replay", record='{"id": "a", "text": "mended"}')
    assert done.status_code == 303
    shown = (await page.get(done.headers["location"])).text
    assert "recovered" in shown
    assert "edited" in shown  # the audit trail
    assert (await page.get("/consumption/getNote?id=a")).json()["items"][0]["text"] == "mended"


@pytest.mark.slow
async def test_text_that_would_reorder_a_record_is_escaped(page: httpx.AsyncClient) -> None:
    word = "\u05d0\u202e\u2066"
    await bad(page, word)
    where = f"/ui/letters/service/{await letter_id(page)}"
    for view in (where, "/ui/letters?store=service"):
        shown = unescape((await page.get(view)).text)
        assert "\u05d0\\u202e\\u2066" in shown
        assert not {"\u202e", "\u2066"} & set(shown)
    await send(
        page, f"{where}/replay", record=f'{{"id": "{word.encode("unicode_escape").decode()}", "text": ""}}'
    )
    assert [row["id"] for row in (await page.get("/consumption/getNote")).json()["items"]] == [word]
    assert "\u202e" not in (await page.get("/ui/tables/Note")).text
    searched = unescape((await page.get("/ui/records", params={"id": word})).text)
    assert searched.count(word) == 1  # in the field to search again
    await bad(page, "b")
    (item,) = (await page.get("/dead-letters?status=open")).json()["items"]
    where = f"/ui/letters/service/{item['dead_letter_id']}"
    await send(page, f"{where}/discard", reason=word)
    shown = unescape((await page.get(where)).text)
    assert "Discarded because</dt><dd>\u05d0\\u202e\\u2066<" in shown


@pytest.mark.slow
async def test_a_recovered_letter_is_replayed_only_on_purpose(page: httpx.AsyncClient) -> None:
    await bad(page, "a")
    where = f"/ui/letters/service/{await letter_id(page)}"
    await page.post("/ingest/NoteSource", json=[{"id": "a", "text": "newer"}])
    older = '{"id": "a", "text": "older"}'
    assert (await send(page, f"{where}/replay", record=older)).status_code == 400
    assert (await page.get("/consumption/getNote")).json()["items"][0]["text"] == "newer"
    assert (await send(page, f"{where}/replay", record=older, force="yes")).status_code == 303
    assert (await page.get("/consumption/getNote")).json()["items"][0]["text"] == "older"


@pytest.mark.slow
@pytest.mark.parametrize(
    "record", ["", "no", "[]", "5", '{"id": "a"', "[" * 100_000, "{}", '{"id": "\\ud800"}']
)
async def test_a_value_that_is_no_record_is_refused_in_words(page: httpx.AsyncClient, record: str) -> None:
    await bad(page, "a")
    answer = await send(page, f"/ui/letters/service/{await letter_id(page)}/replay", record=record)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text


@pytest.mark.slow
async def test_a_letter_of_no_pipeline_is_not_discarded(page: httpx.AsyncClient) -> None:
    refused = await send(page, "/ui/letters/engine/1/discard", reason="a test")
    assert (refused.status_code, "No dead letter" in refused.text) == (404, True)
    assert "a test" not in (await page.get("/ui/health")).text  # the audit trail


@pytest.mark.slow
async def test_letters_are_discarded_with_a_reason(page: httpx.AsyncClient) -> None:
    await bad(page, "a", "b", "c")
    ids = [one["dead_letter_id"] for one in (await page.get("/dead-letters")).json()["items"]]
    form = {"csrf": await csrf(page), "store": "service", "id": ids[:2]}
    assert (await page.post("/ui/letters/discard", data={**form, "reason": " "})).status_code == 400
    none = await page.post("/ui/letters/discard", data={**form, "id": [], "reason": "why so"})
    assert (none.status_code, "why so" in none.text, 'href="/ui/letters"' in none.text) == (400, True, True)
    assert (await page.post("/ui/letters/discard", data={**form, "reason": "a test"})).status_code == 303
    statuses = [one["status"] for one in (await page.get("/dead-letters")).json()["items"]]
    assert sorted(statuses) == ["discarded", "discarded", "open"]
    assert (await page.get("/ui/health")).text.count("a test") == 2


@pytest.mark.slow
async def test_letters_are_filtered_and_paged_by_key(page: httpx.AsyncClient) -> None:
    await bad(page, *(f"n{number:03}" for number in range(120)))
    seen: list[str] = []
    where = "/ui/letters?store=service&place=NoteSource&cause=ValidationError"
    while where:
        text = (await page.get(where)).text
        seen += re.findall(r">(n\d{3})</a>", text)
        following = re.search(r'href="([^"]+)" rel="next"', text)
        where = following[1].replace("&amp;", "&") if following else ""
        await bad(page, f"later{len(seen)}")  # what comes meanwhile moves nothing
    assert len(seen) == len(set(seen)) == 120
    assert "None of this kind" in (await page.get("/ui/letters?status=replayed")).text


@pytest.mark.slow
async def test_rows_are_paged_by_key(page: httpx.AsyncClient, note: Callable[..., Any]) -> None:
    for start in range(0, 130, 10):
        await page.post("/ingest/Note", json=[note(f"r{number:03}") for number in range(start, start + 10)])
    seen: list[str] = []
    where = "/ui/tables/Note"
    while where:
        text = (await page.get(where)).text
        seen += re.findall(r">(r\d{3})</a>", text)
        following = re.search(r'href="([^"]+)" rel="next"', text)
        where = following[1].replace("&amp;", "&") if following else ""
    assert seen[0] == "r129"
    assert sorted(seen) == [f"r{number:03}" for number in range(130)]


@pytest.mark.slow
async def test_a_query_is_answered_or_refused_in_words(page: httpx.AsyncClient) -> None:
    assert "<td" in (await send(page, "/ui/query", sql="SELECT 41 + 1")).text
    refused = await send(page, "/ui/query", sql='DROP TABLE "Note"')
    assert refused.status_code == 400
    assert "Only SELECT can be run here" in refused.text
    assert "DROP TABLE" in refused.text


@pytest.mark.slow
@pytest.mark.parametrize("before", ["x", "1", "1.2", "9" * 30, "1.2.3", "-1.0.a", "%00", "1.٣.a"])
async def test_odd_places_of_pages_do_no_harm(page: httpx.AsyncClient, before: str) -> None:
    for view in ("/ui/letters", "/ui/tables/Note", "/ui/runs"):
        assert (await page.get(f"{view}?before={before}")).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("form", [{}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": "ä"}])
async def test_a_form_without_our_token_changes_nothing(
    page: httpx.AsyncClient, form: dict[str, str]
) -> None:
    await bad(page, "a")
    where = f"/ui/letters/service/{await letter_id(page)}/discard"
    assert (await page.post(where, data={**form, "reason": "x"})).status_code == 403
    assert (await page.get("/dead-letters")).json()["items"][0]["status"] == "open"


@pytest.mark.slow
async def test_a_form_of_another_origin_changes_nothing(page: httpx.AsyncClient) -> None:
    form = {"csrf": await csrf(page), "sql": "SELECT 1"}
    for origin in ("http://localhost:3000", "http://127.0.0.1:1", "null", "https://example.org"):
        answer = await page.post("/ui/query", data=form, headers={"Origin": origin})
        assert answer.status_code == 403
    assert (
        await page.post("/ui/query", data=form, headers={"Origin": "http://127.0.0.1"})
    ).status_code == 200


@pytest.mark.slow
async def test_a_form_of_a_page_behind_a_proxy_is_taken(page: httpx.AsyncClient) -> None:
    form = {"csrf": await csrf(page), "sql": "SELECT 1"}
    behind = {"Origin": "http://localhost:8443", "X-Forwarded-Host": "localhost:8443"}
    assert (await page.post("/ui/query", data=form, headers=behind)).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "back"),
    [
        ("/ui/letters/service/x/replay", "/ui/letters/service/x"),
        ("/ui/letters/discard", "/ui/letters"),
        ("/ui/query", "/ui/query"),
        ("/ui/logout", "/"),
    ],
)
async def test_a_form_from_before_a_restart_keeps_its_text(
    page: httpx.AsyncClient, where: str, back: str
) -> None:
    answer = await page.post(where, data={"csrf": "0" * 64, "record": f'{{"id": "{EVIL}"}}'})
    assert answer.status_code == 403
    assert "was restarted" in answer.text
    assert "{&#34;id&#34;: &#34;&lt;script&gt;" in answer.text
    assert f'href="{back}">Open the page again' in answer.text


async def test_a_form_of_too_many_fields_is_refused(page: httpx.AsyncClient) -> None:
    answer = await page.post("/ui/query", content="a=1&" * 2_001)
    assert (answer.status_code, "2,000 fields" in answer.text) == (400, True)


@pytest.mark.slow
async def test_an_action_is_no_get(page: httpx.AsyncClient) -> None:
    for where in ("/ui/letters/discard", "/ui/runs/x/end", "/ui/pipelines/x/start", "/ui/logout"):
        assert (await page.get(where)).status_code in (404, 405)


KEYS = ServiceSettings(
    consumption_api_key=hash_of("read.1"), ingest_api_key=hash_of("write.1"), admin_api_key=hash_of("admin.1")
)


async def log_in(client: httpx.AsyncClient, token: str, goal: str = "") -> httpx.Response:
    return await client.post(
        "/ui/login", data={"csrf": await csrf(client, "/ui/login"), "token": token, "next": goal}
    )


@pytest.mark.slow
async def test_with_keys_every_view_needs_a_session(path: Path, models: tuple[IngestModel, ...]) -> None:
    async with opened(path, models, KEYS) as client:
        for view in [*VIEWS, "/ui/live", "/ui/tables/Note"]:
            answer = await client.get(view)
            assert answer.status_code == 303
            assert answer.headers["location"].startswith("/ui/login")
        assert (await client.get("/ui/static/page.css")).status_code == 200
        assert (await log_in(client, "wrong.1")).status_code == 401
        answer = await log_in(client, "read.1", "/ui/tables")
        assert answer.headers["location"] == "/ui/tables"
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert (await client.get("/ui/tables")).status_code == 200
        await client.post("/ui/logout", data={"csrf": await csrf(client)})
        assert (await client.get("/ui/tables")).status_code == 303


@pytest.mark.slow
@pytest.mark.parametrize(
    "goal", ["//evil.example", "https://evil.example", "/\\evil.example", "/ui/\\x", "x"]
)
async def test_a_login_leads_nowhere_else(path: Path, models: tuple[IngestModel, ...], goal: str) -> None:
    async with opened(path, models, KEYS) as client:
        assert (await log_in(client, "read.1", goal)).headers["location"] == "/"


@pytest.mark.slow
async def test_each_key_opens_its_own(path: Path, models: tuple[IngestModel, ...]) -> None:
    async with opened(path, models, KEYS) as client:
        write = {"Authorization": "Bearer write.1", "X-ODW-Results": "per-record"}
        await client.post("/ingest/NoteSource", json=[{"id": "a"}], headers=write)
        await log_in(client, "read.1")
        listed = await client.get("/dead-letters", headers={"Authorization": "Bearer read.1"})
        where = f"/ui/letters/service/{listed.json()['items'][0]['dead_letter_id']}/discard"
        assert (await send(client, where, reason="x")).status_code == 403
        await log_in(client, "write.1")
        assert (await send(client, where, reason="x")).status_code == 303


@pytest.mark.slow
async def test_a_session_ends_with_the_token_that_began_it(
    path: Path, models: tuple[IngestModel, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServiceSettings(consumption_api_key=hash_of("read.1"), admin_tokens=SETTINGS)
    real = time.monotonic
    now, later = (
        SimpleNamespace(monotonic=real, time=time.time),
        SimpleNamespace(monotonic=lambda: real() + 700, time=time.time),
    )
    for token, status in ((signed(claims()), 303), ("read.1", 200)):
        async with opened(path, models, settings) as client:
            monkeypatch.setattr("engine.service.page.access.time", now)
            await log_in(client, token)
            assert (await client.get("/ui/tables")).status_code == 200
            monkeypatch.setattr("engine.service.page.access.time", later)
            assert (await client.get("/ui/tables")).status_code == status


@pytest.mark.slow
async def test_live_updates_end_with_the_session(path: Path, models: tuple[IngestModel, ...]) -> None:
    warehouse = await asyncio.to_thread(Warehouse.open, path, models, KEYS)
    try:
        app = create_app(warehouse, models, KEYS)
        request = Request({"type": "http", "app": app, "headers": [], "query_string": b""})
        with anyio.fail_after(300):
            answer = cast(StreamingResponse, await stream(request, app.state.context))
            parts = [part async for part in answer.body_iterator]
        assert parts == [b"retry: 2000\n\n"]
    finally:
        await asyncio.to_thread(warehouse.close)


@pytest.mark.slow
async def test_a_form_after_the_session_keeps_its_text(path: Path, models: tuple[IngestModel, ...]) -> None:
    async with opened(path, models, KEYS) as client:
        form = {"csrf": await csrf(client, "/ui/login"), "record": '{"id": "typed"}'}
        answer = await client.post("/ui/letters/service/x/replay", data=form)
        assert answer.status_code == 401
        assert "Your session has ended" in answer.text
        assert "typed" in answer.text


@pytest.mark.slow
async def test_a_login_leads_back_to_what_was_asked_for(path: Path, models: tuple[IngestModel, ...]) -> None:
    async with opened(path, models, KEYS) as client:
        asked = "/ui/letters?store=service&cause=a%26b"
        to_login = (await client.get(asked)).headers["location"]
        found = re.search(r'name="next" value="([^"]*)"', (await client.get(to_login)).text)
        assert found is not None
        assert (await log_in(client, "read.1", unescape(found[1]))).headers["location"] == asked


@pytest.mark.slow
async def test_a_second_login_replaces_the_session(path: Path, models: tuple[IngestModel, ...]) -> None:
    async with opened(path, models, KEYS) as client:
        await log_in(client, "read.1")
        before = client.cookies[COOKIE]
        await log_in(client, "write.1")
        assert (await client.get("/ui/tables")).status_code == 200
        client.cookies = httpx.Cookies({COOKIE: before})
        assert (await client.get("/ui/tables")).status_code == 303


@pytest.mark.slow
async def test_links_have_the_prefix_of_the_service(path: Path, models: tuple[IngestModel, ...]) -> None:
    async with opened(path, models, ServiceSettings(path_prefix="/odw")) as client:
        text = (await client.get("/odw/ui/tables")).text
        assert all(
            link.startswith(("/odw/", "#", "?", "data:")) for link in re.findall(r'href="([^"]+)"', text)
        )
        assert 'src="/odw/ui/static/page.js' in text


@pytest.mark.slow
async def test_a_cell_tells_null_from_an_empty_text(page: httpx.AsyncClient) -> None:
    text = (await send(page, "/ui/query", sql="SELECT NULL, ''")).text
    assert '<td class="soft">null</td><td title=""></td>' in text


@pytest.mark.slow
async def test_a_key_of_any_length_is_shown_by_its_beginning(page: httpx.AsyncClient) -> None:
    await bad(page, "k" * 5_000)
    for view in ("/ui/letters", f"/ui/letters/service/{await letter_id(page)}"):
        assert f">{'k' * 200}…</" in (await page.get(view)).text


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}, "a → b, c → d"),
        ({"a": [], **{f"b{n}": ["a"] for n in range(40)}}, "a → b0, b1, b2, b3, … 35 more …, b39"),
        ({f"t{n}": [f"t{n - 1}"] for n in range(9)}, "t0 → t1 → t2 → t3 → … 4 more … → t8"),
    ],
)
def test_a_flow_is_shown_in_one_line(inputs: dict[str, list[str]], expected: str) -> None:
    nodes = [NodeView(name, "transform", "filter", before) for name, before in inputs.items()]
    assert charts.in_brief(nodes) == expected


def test_names_in_a_graph_keep_their_ends() -> None:
    nodes = [NodeView(f"load_customers_of_{one}", "sink", "ingest", []) for one in ("europe", "america")]
    drawn = charts.graph(nodes)
    assert ">load_cus…europe<" in drawn
    assert ">load_cus…merica<" in drawn


def test_the_script_is_small() -> None:
    import engine.service.page

    static = Path(engine.service.page.__file__).parent / "static"
    assert (static / "page.js").stat().st_size < 10_000
    assert not re.search(r"https?://|eval\(|new Function", unquote((static / "page.js").read_text()))


async def test_all_viewers_share_one_look_at_the_overview(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    async def look(context: ServiceContext) -> dict[str, Any]:
        looks.append(context)
        await anyio.lowlevel.checkpoint()
        return {"number": len(looks)}

    monkeypatch.setattr(live, "overview_values", look)
    monkeypatch.setattr(live, "_TICK", float("inf"))
    overview, context = SharedOverview(), cast(ServiceContext, None)
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(overview.values, context)
    assert await overview.values(context) == {"number": 1}
    monkeypatch.setattr(live, "_TICK", 0.0)
    assert await overview.values(context) == {"number": 2}
