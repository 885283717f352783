"""The operator's page in a browser: runs, corrected dead letters, keyboard, phone, accessibility."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.servers.needed import missing

if TYPE_CHECKING:
    from playwright.async_api import Dialog, Page, Route

FILE = """\
version: 1
connections: {warehouse: {url: sandbox}}
warehouse:
  models:
    Reading: {fields: {id: str, celsius: float}}
    AModelWhoseNameIsAsLongAsTheNameOfAModelMayBeIsServedHereAsWell: {fields: {id: str}}
pipelines:
  readings:
    params: {note: nothing}
    nodes:
      read: {source: jsonl, with: {path: readings.jsonl, key: id}}
      load: {sink: ingest, with: {connection: warehouse, model: Reading}}
    dead_letters: {max: 100}
  a_pipeline_whose_name_is_so_long_that_no_phone_has_room_for_it_in_one_line:
    schedule: "0 3 * * *"
    nodes:
      a_node_whose_name_is_long: {source: jsonl, with: {path: readings.jsonl, key: id}}
      load: {sink: ingest, with: {connection: warehouse, model: Reading}}
"""
VIEWS = (
    "/",
    "/ui/runs",
    "/ui/letters",
    "/ui/tables",
    "/ui/query",
    "/ui/records",
    "/ui/schedules",
    "/ui/health",
)
WITHIN = 300_000
"""Milliseconds for anything to appear: a slow machine has its time, and nothing waits so long in vain."""
MORE = (
    "/ui/pipelines/readings",
    "/ui/pipelines/a_pipeline_whose_name_is_so_long_that_no_phone_has_room_for_it_in_one_line",
    "/ui/tables/Reading",
    "/ui/login",
    "/ui/records?id=good",
    "/ui/records?id=<b>bad</b>",
)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        missing("no chromium is installed: apt-get install chromium")
    try:
        import playwright  # noqa: F401
    except ImportError:
        missing("playwright is not installed: pip install -e '.[dev]'")
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "pipelines.yaml").write_text(FILE)
    records = [{"id": "good", "celsius": 1.5}, {"id": "<b>bad</b>", "celsius": "warm"}]
    (folder / "readings.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    command = [sys.executable, "-m", "engine", "serve", "pipelines.yaml", "--port", "0"]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ODW_", "MOOSE_"))
    }
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield next(word for word in line.split() if word.startswith("http")).rstrip(";,")
        process.terminate()
        process.stdout.read()


@asynccontextmanager
async def browsing(
    chromium: str, service: str, *, width: int = 1280, scheme: str = "light", refused: int = 409
) -> AsyncIterator[Page]:
    """A page whose console stays silent and whose requests all go to the service."""
    from playwright.async_api import async_playwright, expect

    expect.set_options(timeout=WITHIN)
    said: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], timeout=WITHIN
        )
        context = await browser.new_context(
            viewport={"width": width, "height": 860},
            color_scheme="dark" if scheme == "dark" else "light",
            reduced_motion="reduce",
            base_url=service,
        )
        context.set_default_timeout(WITHIN)
        page = await context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith((service, "data:")) else said.append(request.url),
        )
        yield page
        await browser.close()
    # the browser itself remarks on a form that was refused, which is what some of these tests are about
    assert [one for one in said if f"status of {refused}" not in one] == []


@pytest.mark.series
async def test_a_run_is_started_and_its_dead_letter_corrected(chromium: str, service: str) -> None:
    from playwright.async_api import expect

    async with browsing(chromium, service) as page:
        await page.goto("/")
        await page.get_by_role("link", name="Start…").first.click()
        await page.get_by_role("button", name="Start").click()
        await expect(page.locator("#run-figures .chip")).to_have_text("completed")
        await expect(page.locator("#run-graph svg")).to_be_visible()
        await page.locator("#run-figures a", has_text="1").click()
        await page.get_by_role("link", name="<b>bad</b>").click()
        box = page.get_by_label("JSON, as it was sent")
        await box.fill('{"id": "<b>bad</b>", "celsius": "hot"}')
        await page.get_by_role("button", name="Replay").click()
        await expect(page.get_by_role("alert")).to_contain_text("It died again")
        await page.goto("/ui/letters?store=service")
        await page.get_by_role("link", name="<b>bad</b>").click()
        await page.get_by_label("JSON, as it was sent").fill('{"id": "<b>bad</b>", "celsius": 7.25}')
        await page.get_by_role("button", name="Replay").click()
        await expect(page.get_by_role("status")).to_contain_text("Stored")
        await page.goto("/ui/tables/Reading")
        await expect(page.get_by_role("cell", name="7.25")).to_be_visible()
        await page.get_by_role("link", name="good").click()
        await expect(page.get_by_text("sent by the node load")).to_be_visible()


@pytest.mark.slow
async def test_the_page_is_used_by_keyboard_alone(chromium: str, service: str) -> None:
    from playwright.async_api import expect

    async with browsing(chromium, service) as page:
        await page.goto("/")
        await page.keyboard.press("Tab")
        await expect(page.locator(":focus")).to_have_text("Skip to the content")
        await page.keyboard.press("/")
        await expect(page.locator(":focus")).to_have_id("find")
        await page.keyboard.type("good")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", level=1)).to_have_text("good")
        await page.goto("/ui/query")
        await page.get_by_label("SQL").focus()
        await page.keyboard.press("Control+A")
        await page.keyboard.type("SELECT 6 * 7 AS answer")
        await page.keyboard.press("Control+Enter")
        await expect(page.get_by_role("cell", name="42")).to_be_visible()


@pytest.mark.series
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_view_breaks_a_rule_of_accessibility(chromium: str, service: str, scheme: str) -> None:
    try:
        from axe_playwright_python.async_playwright import Axe
    except ImportError:
        missing("axe-playwright-python is not installed: pip install -e '.[dev]'")
    async with browsing(chromium, service, scheme=scheme) as page:
        for view in (*VIEWS, *MORE):
            await page.goto(view)
            found = await Axe().run(page)
            assert [one["id"] for one in found.response["violations"]] == [], view


@pytest.mark.series
async def test_the_button_that_was_pressed_is_sent(chromium: str, service: str) -> None:
    async with browsing(chromium, service) as page:
        sent: list[str | None] = []

        async def note(route: Route) -> None:
            sent.append(route.request.post_data)
            await route.fulfill(body="taken")

        await page.route("**/end", note)
        await page.goto("/ui/pipelines/readings")
        await page.evaluate(
            "() => { const form = document.querySelector('form[data-once]'); form.action = '/end';"
            "form.querySelector('button').name = 'how'; form.querySelector('button').value = 'cancel'; }"
        )
        await page.get_by_role("button", name="Start").click()
        await page.wait_for_url("**/end")
        assert "how=cancel" in str(sent)


@pytest.mark.series
async def test_leaving_an_edit_is_asked_about(chromium: str, service: str) -> None:
    record = {"id": "left", "celsius": "warm"}
    async with browsing(chromium, service) as page:
        await page.request.post("/ingest/Reading", data=[record], headers={"X-ODW-Results": "per-record"})
        await page.goto("/ui/letters?store=service")
        await page.get_by_role("link", name="left").click()
        box = page.get_by_label("JSON, as it was sent")
        await box.press_sequentially("x")
        asked: list[str] = []

        async def stay(dialog: Dialog) -> None:
            asked.append(dialog.type)
            await dialog.dismiss()

        page.on("dialog", stay)
        async with page.expect_event("dialog"):
            await page.get_by_role("link", name="Tables").click()
        assert asked == ["beforeunload"]
        assert "x" in await box.input_value()


@pytest.mark.series
async def test_live_updates_outlive_a_proxys_error(chromium: str, service: str) -> None:
    from playwright.async_api import expect

    async with browsing(chromium, service, refused=502) as page:
        await page.clock.install()
        await page.route("**/ui/live", lambda route: route.fulfill(status=502), times=1)
        await page.goto("/")
        await expect(page.locator("#live")).to_have_text("reconnecting")
        await page.clock.run_for(6_000)
        await expect(page.locator("#live")).to_have_text("live")


@pytest.mark.series
async def test_what_is_selected_stays_until_it_is_left(chromium: str, service: str) -> None:
    from playwright.async_api import expect

    async with browsing(chromium, service) as page:
        updates = "".join(
            f"data: {json.dumps({'figures': f'<p>text {number}</p>'})}\n\n" for number in range(2)
        )
        await page.route(
            "**/ui/live", lambda route: route.fulfill(content_type="text/event-stream", body=updates)
        )
        await page.add_init_script(
            "document.addEventListener('DOMContentLoaded', () =>"
            " getSelection().selectAllChildren(document.getElementById('figures')))"
        )
        await page.goto("/")
        await expect(page.locator("#live")).to_have_text("reconnecting")
        await expect(page.locator("#figures dl")).to_be_visible()
        await page.evaluate("getSelection().removeAllRanges()")
        await expect(page.locator("#figures")).to_have_text("text 1")


@pytest.mark.series
@pytest.mark.parametrize("width", [360, 1280])
async def test_no_view_is_wider_than_its_screen(chromium: str, service: str, width: int) -> None:
    async with browsing(chromium, service, width=width) as page:
        for view in (*VIEWS, *MORE):
            await page.goto(view)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, view
