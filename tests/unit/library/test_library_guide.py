"""The examples of docs/library.md run unchanged."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

import engine

GUIDE = Path(__file__).parents[3] / "docs" / "library.md"
EXAMPLES = re.findall(r"^## (.+?)$.*?^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)

SQUARES = """\
version: 1
pipelines:
  squares:
    params: {count: 3}
    nodes:
      extract: {source: blob, with: {records: "${params.count}"}}
      load: {sink: jsonl, with: {path: squares.jsonl}}
"""


def test_every_section_with_code_is_an_example() -> None:
    assert len(EXAMPLES) == GUIDE.read_text("utf-8").count("```python")


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for _, code in EXAMPLES], ids=[title for title, _ in EXAMPLES])
async def test_example_of_the_guide_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squares.yaml").write_text(SQUARES)
    compiled = compile(code, str(GUIDE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    # in a thread, since a whole program starts an event loop of its own
    result = await anyio.to_thread.run_sync(lambda: eval(compiled, {"__name__": "example"}))
    if result is not None:
        await result


@pytest.mark.slow
async def test_a_web_application_starts_runs_and_drains_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {"__name__": "example"}
    exec(dict(EXAMPLES)["Start runs from a web application"], made)
    app = made["app"]
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport) as client:
        started = (await client.post("http://app/runs")).json()["run"]
        while not (await client.get(f"http://app/runs/{started}")).json()["read"]:  # noqa: ASYNC110 - a poll
            await anyio.sleep(0.001)

    async with engine.Engine(state_dir="state") as owner:
        record = await owner.store.get_run(started)
    assert record.status == "interrupted"
