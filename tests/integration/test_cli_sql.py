"""`sql`: through a running service, from the file, and as a snapshot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import duckdb
import httpx
import pytest

from engine.cli import main
from engine.service.server import running_service


def sql(folder: Path, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine", "sql", *arguments]
    return subprocess.run(
        command, cwd=folder, input=text, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("is_running", [True, False])
async def test_sql_reads_with_and_without_a_service(tmp_path: Path, is_running: bool) -> None:
    import anyio

    record = {"id": "1", "timestamp": "t", "level": "INFO", "message": "a\nb"}
    async with running_service(tmp_path / ".odw") as service, httpx.AsyncClient() as client:
        (await client.post(f"{service.url}/ingest/LogSource", json=record)).raise_for_status()
        if is_running:
            await look(tmp_path)
    if not is_running:
        await anyio.to_thread.run_sync(lambda: anyio.run(look, tmp_path))


async def look(folder: Path) -> None:
    import anyio

    run = anyio.to_thread.run_sync
    table = await run(lambda: sql(folder, "SELECT id, message FROM Log"))
    assert table.stdout.splitlines() == ["id  message", "--  -------", "1   a⏎b", "(1 row)"]
    found = await run(lambda: sql(folder, "--output", "json", "-", text="SELECT count(*) AS n FROM Log"))
    assert json.loads(found.stdout)["rows"] == [[1]]
    refused = await run(lambda: sql(folder, "DROP TABLE Log"))
    assert (refused.returncode, refused.stderr) == (2, "Only SELECT can be run here, not DROP\n")
    copy = (await run(lambda: sql(folder, "--snapshot"))).stdout.strip()
    with duckdb.connect(copy, read_only=True) as other:
        assert other.execute("SELECT count(*) FROM Log").fetchone() == (1,)


def test_sql_without_a_warehouse_reports_it(tmp_path: Path) -> None:
    done = sql(tmp_path, "SELECT 1")
    assert done.returncode == 3
    assert "there is no warehouse" in done.stderr


@pytest.mark.slow
def test_sql_reads_the_file_of_a_duckdb_sink(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with duckdb.connect("w.duckdb") as connection:
        connection.execute("CREATE TABLE t AS SELECT range AS n FROM range(3)")
    Path("other.txt").write_text("something else")

    assert main(["sql", "--database", "w.duckdb", "SELECT sum(n) AS s FROM t"]) == 0
    assert capsys.readouterr().out.splitlines() == ["s", "-", "3", "(1 row)"]
    assert main(["sql", "--database", "w.duckdb", "SELECT sum(n) AS s FROM t", "--json"]) == 0
    assert '"rows": [[3]]' in capsys.readouterr().out
    for file, message in (("none", "file none does not exist"), ("other.txt", "is not a DuckDB file")):
        assert main(["sql", "--database", file, "SELECT 1"]) == 2
        assert message in capsys.readouterr().err
