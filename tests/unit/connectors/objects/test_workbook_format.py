"""Rows of workbooks."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from connectors.files.source import FilesParams, FilesSource
from connectors.objects import workbook_format
from connectors.objects.csv_types import ColumnType
from connectors.objects.isolation import DocumentReader
from connectors.objects.pages import ObjectReader, RecordPlace
from connectors.objects.params import ObjectParams
from connectors.objects.reader_worker import CrashedError, Worker
from connectors.objects.sheets import sheet_rows
from connectors.objects.workbook_format import SheetRows
from engine.errors import RecordError
from engine.execution.engine import Engine
from engine.testing import MemorySink, linear_plan
from tests.unit.connectors.objects.reading import dead, good, numbered, pages_of, reader_of

pytestmark = pytest.mark.anyio

HIDDEN: Sequence[Sequence[Any]] = [["hidden"], [1]]
FORMATS = {date: "yyyy-mm-dd", datetime: "yyyy-mm-dd hh:mm", time: "hh:mm:ss", timedelta: "[h]:mm"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class InThisProcess(DocumentReader):
    """Reads what a worker process would, without the time to start one."""

    async def rows(
        self, reader: ObjectReader, size: int, wanted: Mapping[str, Any]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        async with reader.open(0, None) as body:
            data = await body.read()
        assert len(data) == size
        for answer in sheet_rows(data, reader.path, wanted):
            yield json.loads(json.dumps(answer))


@pytest.fixture(autouse=True)
def in_this_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "worker" not in request.node.name:
        monkeypatch.setattr(workbook_format, "DocumentReader", InThisProcess)


def workbook(**sheets: Sequence[Sequence[Any]] | None) -> bytes:
    """A workbook with these rows in each sheet; a sheet without is hidden."""
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True}) as book:
        formats = {kind: book.add_format({"num_format": form}) for kind, form in FORMATS.items()}
        for name, rows in sheets.items():
            sheet = book.add_worksheet(name)
            if rows is None:
                sheet.hide()
            else:
                sheet.activate()
            for at, row in enumerate(HIDDEN if rows is None else rows):
                for column, value in enumerate(row):
                    if type(value) in formats:
                        sheet.write_datetime(at, column, value, formats[type(value)])
                    elif isinstance(value, Exception):
                        sheet.write_formula(at, column, "=1/0", None, str(value))
                    else:
                        sheet.write(at, column, value)
    return buffer.getvalue()


async def rows_of(*rows: Sequence[Any], **params: Any) -> list[Any]:
    return good(await pages_of(reader_of(workbook(S=rows), "a.xlsx"), format="xlsx", **params))


async def test_cells_become_json_of_their_types() -> None:
    day, moment = date(2026, 1, 31), datetime(2026, 1, 31, 10, 30)  # noqa: DTZ001 - as in a workbook
    found = await rows_of(
        ["n", "x", "ok", "on", "at", "time", "took", "text"],
        [7, 1, True, day, moment, time(10, 5), timedelta(hours=30), "007"],
        [-8, 2.5, False, day, day, time(0, 0, 1), timedelta(hours=1), "a\nb"],
    )
    common = {"on": "2026-01-31"}
    assert found == [
        {
            "n": 7, "x": 1.0, "ok": True, **common, "at": "2026-01-31T10:30:00", "time": "10:05:00",
            "took": "1 day, 6:00:00", "text": "007",
        },
        {
            "n": -8, "x": 2.5, "ok": False, **common, "at": "2026-01-31T00:00:00", "time": "00:00:01",
            "took": "1:00:00", "text": "a\nb",
        },
    ]  # fmt: skip
    assert [type(found[0][name]) for name in ("n", "x")] == [int, float]


async def test_empty_cells_and_errors_are_null() -> None:
    found = await rows_of(["a", "b", "c"], [1, None, "x"], [None, 2], [ValueError("#DIV/0!"), 3, "y"])
    assert found == [
        {"a": 1, "b": None, "c": "x"},
        {"a": None, "b": 2, "c": None},
        {"a": None, "b": 3, "c": "y"},
    ]


async def test_merged_and_uncalculated_cells_are_null() -> None:
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["group", "n", "double", "triple"])
        for row in (1, 2):
            sheet.write(row, 1, row)
            sheet.write_formula(row, 2, f"=B{row + 1}*2", None, 2 * row)
            sheet.write_formula(row, 3, f"=B{row + 1}*3", None, "")
        sheet.merge_range("A2:A3", "G")
    found = good(await pages_of(reader_of(buffer.getvalue()), format="xlsx"))
    assert found == [
        {"group": "G", "n": 1, "double": 2, "triple": None},
        {"group": None, "n": 2, "double": 4, "triple": None},
    ]


async def test_column_with_different_types_is_text() -> None:
    found = await rows_of(["id", "price"], [1001, "n/a"], ["1002-A", 2.5], [7, None], null_values=["n/a"])
    assert found == [
        {"id": "1001", "price": None},
        {"id": "1002-A", "price": 2.5},
        {"id": "7", "price": None},
    ]


async def test_declared_types_take_precedence() -> None:
    rows: list[list[Any]] = [["zip", "n"], [1067, "7"], [80331, "x"]]
    pages = await pages_of(reader_of(workbook(S=rows)), format="xlsx", types={"zip": "text", "n": "integer"})
    assert (good(pages), dead(pages)) == ([{"zip": "1067", "n": 7}], {3: "WrongType"})
    assert await rows_of(["a"], [1.5], types="text") == [{"a": "1.5"}]


async def test_only_columns_without_a_declared_type_have_to_agree() -> None:
    asked: list[tuple[str, ColumnType | None]] = []

    def agree(name: str, kind: ColumnType | None) -> ColumnType:
        asked.append((name, kind))
        return "text"

    params = ObjectParams(format="xlsx", types={"zip": "integer"})
    reader = reader_of(workbook(S=[["zip", "n", "none"], [1067, 7, None]]))
    pages = [page async for page in SheetRows(params, agree).pages(reader, RecordPlace())]
    assert good(pages) == [{"zip": 1067, "n": "7", "none": None}]
    assert asked == [("n", "integer"), ("none", None)]


@pytest.mark.parametrize(
    ("rows", "params", "expected"),
    [
        ([["Report"], [], [None, "a", "b"], [None, 1, 2]], {"skip_lines": 1}, [{"a": 1, "b": 2}]),
        ([[], [], ["a"], [], [1], [None], [2]], {}, [{"a": 1}, {"a": 2}]),
        (
            [["a", "a", None, None, 2026], [1, 2, 3, None, 4]],
            {},
            [{"a": 1, "a_1": 2, "column2": 3, "2026": 4}],
        ),
        ([[None, "a"], [0, 5]], {}, [{"column0": 0, "a": 5}]),
        ([[1, "x"], [2, None, 3]], {"header": False}, [[1, "x", None], [2, None, 3]]),
        ([["x", "y"], [1, 2]], {"columns": ["a", "b", "c"]}, [{"a": 1, "b": 2, "c": None}]),
        ([["a", "b"]], {}, []),
        ([], {}, []),
        ([["a"], [1]], {"skip_lines": 9}, []),
    ],
    ids=["title", "blank", "odd", "index", "no header", "names", "header", "empty", "skipped"],
)  # fmt: skip
async def test_table_in_a_sheet_is_found(
    rows: list[list[Any]], params: dict[str, Any], expected: list[Any]
) -> None:
    found = await rows_of(*rows, **params)
    assert found == [
        one if isinstance(one, dict) else {f"column{at}": value for at, value in enumerate(one)}
        for one in expected
    ]


@pytest.mark.parametrize(
    ("sheet", "name"),
    [(None, "B"), ("C", "C"), (1, "A"), (2026, "2026")],
    ids=["first", "name", "at", "digits"],
)
async def test_sheet_is_chosen(sheet: str | int | None, name: str) -> None:
    data = workbook(**{"A": None, "B": [["v"], ["B"]], "C": [["v"], ["C"]], "2026": [["v"], ["2026"]]})
    found = good(await pages_of(reader_of(data), format="xlsx", sheet=sheet))
    assert found == [{"v": name} if name != "A" else {"hidden": 1}]


async def test_sheets_of_one_workbook_have_keys_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "book.xlsx").write_bytes(workbook(A=[["v"], [1]], B=[["v"], [2]]))
    keys: set[str] = set()
    for sheet in (None, "A", "B", 2):
        sink = MemorySink()
        source = FilesSource(FilesParams(pattern=f"{tmp_path}/*", format="xlsx", sheet=sheet))
        async with Engine(state_dir=tmp_path / "state") as engine:
            assert (await engine.run(linear_plan(source, sink))).ok
        keys |= {key.rpartition("#")[2] for key in sink.keys}
    assert keys == {"2", "A!2", "B!2", "2!2"}


ROWS: list[list[Any]] = [
    ["n", "t"],
    *([number, f"t{number}"] for number in range(60)),
    [],
    ["x" * 30_000, None],
    [99, "end"],
]


@pytest.mark.slow
async def test_reading_resumes_from_a_worker_at_a_page() -> None:
    reader = reader_of(workbook(S=ROWS), piece=100)
    params: dict[str, Any] = {"format": "xlsx", "page_records": 7, "max_record_bytes": 10_000}
    pages = await pages_of(reader, **params)
    assert dead(pages) == {63: "LongLine"}
    assert [number for number, _ in numbered(pages)] == [*range(2, 62), 63, 64]
    for at in {len(pages) // 2, len(pages) - 1}:
        rest = await pages_of(reader, pages[at].end, **params)
        assert numbered(pages[: at + 1] + rest) == numbered(pages)


async def test_long_texts_make_short_pages() -> None:
    rows: list[list[Any]] = [["t"], *(["x" * 32_000] for _ in range(70))]
    pages = await pages_of(reader_of(workbook(S=rows)), format="xlsx")
    assert [len(page.records) for page in pages] == [33, 33, 4]
    assert all(page.nbytes > 32_000 for page in pages)


OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
WHOLE = workbook(S=[["a"], *([number] for number in range(50))])


@pytest.mark.parametrize(
    ("data", "params", "kind", "told"),
    [
        (WHOLE[:-200], {}, "CorruptDocument", "damaged"),
        (WHOLE.replace(b"PK\1\2", b"PK\1\3"), {}, "CorruptDocument", "damaged"),
        (b"a;b\n1;2\n", {}, "CorruptDocument", "`format: csv`"),
        (b"\n<html><table></table></html>", {}, "CorruptDocument", "HTML"),
        (b"", {}, "CorruptDocument", "not a workbook"),
        (b"%PDF-1.4\n", {}, "CorruptDocument", "not a workbook, or"),
        (OLE + "EncryptedPackage".encode("utf-16-le"), {}, "UnsupportedDocument", "by a password"),
        (WHOLE, {"sheet": "Orders"}, "NoSuchSheet", "'S'"),
        (WHOLE, {"sheet": 2}, "NoSuchSheet", "'S'"),
        (WHOLE, {"columns": ["x"], "types": {"y": "text"}}, "WrongHeader", "'y'"),
        (workbook(S=[["a", "b"], [1, 2]]), {"columns": ["x"]}, "WrongHeader", "2 columns"),
        (workbook(S=[["a" * 200], [1]]), {"max_record_bytes": 100}, "WrongHeader", "max_record_bytes"),
        (WHOLE, {"max_object_bytes": 1000}, "ObjectTooLarge", "max_object_bytes"),
    ],
    ids=[
        "cut",
        "bits",
        "text",
        "page",
        "nothing",
        "pdf",
        "password",
        "name",
        "number",
        "type",
        "columns",
        "header",
        "large",
    ],
)
async def test_unreadable_workbook_is_one_dead_letter(
    data: bytes, params: dict[str, Any], kind: str, told: str
) -> None:
    with pytest.raises(RecordError, match=told) as caught:
        await pages_of(reader_of(data, "a.xlsx"), format="xlsx", **params)
    assert caught.value.kind == kind


def far_cell(data: bytes) -> bytes:
    """The workbook with its last cell at the end of the largest sheet."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as given, zipfile.ZipFile(out, "w") as made:
        for name in given.namelist():
            made.writestr(name, given.read(name).replace(b'r="A51"', b'r="XFD1048576"'))
    return out.getvalue()


@pytest.mark.slow
async def test_worker_without_memory_makes_a_dead_letter() -> None:
    with pytest.raises(RecordError, match="2,048 MiB of memory") as caught:
        await pages_of(reader_of(far_cell(WHOLE), "a.xlsx"), format="xlsx")
    assert caught.value.kind in ("CorruptDocument", "DocumentTooLarge")
    assert len(good(await pages_of(reader_of(WHOLE), format="xlsx"))) == 50


class SpentWorker(Worker):
    """A reused worker that has no memory left, or has been killed."""

    def __init__(self, *, killed: bool) -> None:
        self.used = True
        self._killed = killed

    async def send(self, *pieces: bytes) -> None:
        """Take what is sent."""

    async def receive(self, within: float) -> dict[str, Any] | None:
        if self._killed:
            raise CrashedError(-9)
        return {"spent": True, "last": True, "kind": "DocumentTooLarge", "message": "no memory"}

    async def end(self) -> None:
        """Have no process."""


@pytest.mark.parametrize("killed", [False, True])
async def test_spent_worker_is_replaced_by_a_fresh_one(*, killed: bool) -> None:
    async with DocumentReader() as documents:
        assert documents._pool is not None
        documents._pool.idle.append(SpentWorker(killed=killed))
        assert len(good(await pages_of(reader_of(WHOLE), format="xlsx"))) == 50


@pytest.mark.parametrize("option", [{"sheet": 1}, {"delimiter": ";"}], ids=str)
def test_option_of_another_format_is_refused(option: dict[str, Any]) -> None:
    other = "csv" if "sheet" in option else "xlsx"
    with pytest.raises(ValueError, match=f"`{next(iter(option))}` is for .*`{other}`"):
        ObjectParams.model_validate({"format": other, **option})
