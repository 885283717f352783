"""`enrich`: fields of a reference table by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from pydantic import ValidationError

from connectors.transforms.enriching import Enrich, EnrichParams
from engine.contract.batch import Batch
from engine.contract.keys import KeyRange
from engine.errors import FatalError

ROWS = [{"code": 1, "name": "one", "since": "2020"}, {"code": 2, "name": "two", "since": None}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "t.json").write_text(json.dumps(ROWS))
    (tmp_path / "t.csv").write_text("code,name,since\n1,one,2020\n2,two,\n")
    with duckdb.connect(str(tmp_path / "t.duckdb")) as connection:
        connection.execute("CREATE TABLE codes (code INTEGER, name VARCHAR, since VARCHAR)")
        connection.execute("INSERT INTO codes VALUES (1, 'one', '2020'), (2, 'two', NULL)")
        connection.execute(f"COPY codes TO '{tmp_path / 't.parquet'}' (FORMAT parquet)")
    return tmp_path


async def enriched(path: Path, *records: Any, **params: Any) -> Batch:
    async with Enrich(EnrichParams.model_validate({"file": str(path), "key": "code", **params})) as node:
        return node.apply(Batch(list(records), KeyRange("k/", 0, len(records))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "params"),
    [("t.jsonl", {}), ("t.json", {}), ("t.csv", {}), ("t.parquet", {}), ("t.duckdb", {"table": "codes"})],
)
async def test_every_kind_of_table_is_read(folder: Path, file: str, params: dict[str, Any]) -> None:
    derived = await enriched(folder / file, {"code": "1", "a": 5}, {"code": 2}, **params, fields=["name"])

    assert derived.records == [{"code": "1", "a": 5, "name": "one"}, {"code": 2, "name": "two"}]
    assert derived.keys.to_list() == ["k/0", "k/1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {"c": 1, "code": 1, "name": "one", "since": "2020"}),
        ({"fields": {"name": "title"}}, {"c": 1, "code": 1, "title": "one"}),
        ({"prefix": "x_", "fields": "name"}, {"c": 1, "code": 1, "x_name": "one"}),
        ({"key": {"c": "code"}}, {"c": 1, "code": 1, "name": "one", "since": "2020"}),
        ({"key": ["code"], "fields": ["code", "name"]}, {"c": 1, "code": 1, "name": "one"}),
    ],
)
async def test_what_is_added_can_be_chosen_and_named(
    folder: Path, params: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert (await enriched(folder / "t.jsonl", {"c": 1, "code": 1}, **params)).records == [expected]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "kept", "drops", "dead"),
    [("keep", 3, {}, 0), ("drop", 1, {"no match": 2}, 0), ("dead_letter", 1, {}, 2)],
)
async def test_records_without_a_match_have_their_own_fate(
    folder: Path, missing: str, kept: int, drops: dict[str, int], dead: int
) -> None:
    derived = await enriched(folder / "t.csv", {"code": 9}, {"code": 1}, {}, missing=missing, fields="name")

    assert (len(derived), derived.drops, len(derived.failures)) == (kept, drops, dead)
    if missing == "keep":
        assert derived.records[0] == {"code": 9, "name": None}


@pytest.mark.slow
async def test_several_rows_with_one_key_have_to_be_allowed(folder: Path) -> None:
    path = folder / "twice.csv"
    path.write_text("code,name\n1,first\n1,second\n")

    with pytest.raises(
        FatalError, match="several rows with one key: make the key unique, or set `duplicates: first`"
    ):
        await enriched(path, {"code": 1})
    assert (await enriched(path, {"code": 1}, duplicates="first")).records == [{"code": 1, "name": "first"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "params", "message"),
    [
        ("gone.csv", {}, r"gone\.csv does not exist"),
        ("t.csv", {"key": "kode"}, "has no column `kode`: it has code, name, since"),
        ("t.csv", {"fields": ["naem"]}, "has no column `naem`"),
        ("t.csv", {"max_rows": 1}, "has more than 1 rows: raise `max_rows`"),
        ("t.duckdb", {"table": "kodes"}, "cannot be read: Catalog Error"),
    ],
)
async def test_a_table_that_does_not_fit_stops_the_run(
    folder: Path, file: str, params: dict[str, Any], message: str
) -> None:
    with pytest.raises(FatalError, match=message):
        await enriched(folder / file, {"code": 1}, **params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"file": "t.xlsx"}, "cannot tell what t.xlsx holds by its name"),
        ({"file": "t.duckdb"}, "a database needs `table`"),
        ({"file": "t.csv", "table": "x"}, "`table` is for databases"),
    ],
)
def test_mistakes_are_found_when_the_file_is_read(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EnrichParams.model_validate({"key": "code", **params})


@pytest.mark.slow
@pytest.mark.parametrize("key", ["1.10", "03/04/2024", "TRUE", "12:00", "1e5", "007", "2024-01-02T03:04:05Z"])
async def test_keys_of_a_csv_file_stay_as_they_are_written(tmp_path: Path, key: str) -> None:
    (tmp_path / "t.csv").write_text(f"code,n\n{key},1\n")
    derived = await enriched(tmp_path / "t.csv", {"code": key})

    assert derived.records == [{"code": key, "n": 1}]


@pytest.mark.parametrize("file", ["t.json", "t.jsonl"])
async def test_json_is_taken_as_written(tmp_path: Path, file: str) -> None:
    row = '{"code": 1, "n": 123456789012345678901234567890, "at": "2020-01-01T00:00:00Z"}'
    (tmp_path / file).write_text(f"[{row}]" if file == "t.json" else f"{row}\n")

    derived = await enriched(tmp_path / file, {"code": 1})

    assert derived.records == [{"code": 1, "n": 123456789012345678901234567890, "at": "2020-01-01T00:00:00Z"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "has no rows"),
        ("[{}, 2]", "row 2 is not a mapping of columns"),
        ('[{"code": 1e400}]', "row 1: number is infinity"),
    ],
)
async def test_json_that_is_no_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.json").write_text(text)

    with pytest.raises(FatalError, match=message):
        await enriched(tmp_path / "t.json", {"code": 1})


@pytest.mark.slow
def test_a_resume_notices_a_changed_table(folder: Path) -> None:
    table = folder / "t.csv"

    def seen() -> dict[str, str]:
        return EnrichParams(file=str(table), key={"code": "code"}).contents()

    before = seen()
    assert seen() == before
    table.write_text("code,name\n1,uno\n")
    assert seen() != before
    table.unlink()
    assert seen() == {}
