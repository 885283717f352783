from __future__ import annotations

import asyncio
import base64
import io
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import docx
import pytest
from docx.exceptions import InvalidSpanError
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.objects import isolation, reader_worker
from connectors.objects.decoding import decode
from connectors.objects.documents import TextPart, parts
from connectors.objects.isolation import DocumentReader, ReaderLimits
from connectors.objects.media_types import DOCX
from engine.errors import FatalError, RecordError, StoppingError, TransientError
from tests.examples import examples
from tests.unit.connectors.objects.hostile_files import (
    hostile_pdfs,
    hostile_word_files,
    merged_down,
    slow_pdf,
    word_file,
)

SAMPLES = Path(__file__).parents[4] / "samples" / "memos"

MEMORY = 512 * 1024 * 1024
PATIENT, HASTY = ReaderLimits(seconds=60, memory=MEMORY), ReaderLimits(seconds=1, memory=MEMORY)
"""The second is for files that take longer than any machine has."""

EXPECTED = {
    "a cell of two billion columns": "read",
    "wide cells in many rows": "read",
    "a cell of no number of columns": "CorruptDocument",
    "a cell merged over all rows": "read",
    "entities of entities": "CorruptDocument",
    "an entity that is a file": "read",
    "paragraphs in paragraphs": "CorruptDocument",
    "tables in tables": "CorruptDocument",
    "more than may be unpacked": "DocumentTooLarge",
    "an endless page": "read",
    "a page without height": "read",
    "a page that is no number": "read",
    "many scans": "DocumentTooLarge",
    "more pages than allowed": "DocumentTooLarge",
    "nothing but a header": "CorruptDocument",
    "cut off": "CorruptDocument",
}
"""By the file's name; which limit the others meet first depends on the machine."""


def content_of(name: str) -> str:
    return decode((SAMPLES / name).read_bytes(), name).content


def as_content(data: bytes) -> str:
    marker, media_type = ("PDF", "application/pdf") if data.startswith(b"%PDF") else ("DOC", DOCX)
    return f"[{marker}_DATA]data:{media_type};base64,{base64.b64encode(data).decode()}"


@pytest.fixture
async def reader() -> AsyncIterator[DocumentReader]:
    async with DocumentReader(PATIENT) as made:
        yield made


async def outcome_of(reader: DocumentReader, data: bytes, name: str) -> str:
    try:
        await reader.parts(as_content(data), name)
    except RecordError as error:
        return error.kind if str(error).startswith(name) else f"not about {name}"
    return "read"


def idle() -> list[int]:
    return [worker._process.pid for worker in isolation._POOL.get().idle]


def is_gone(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
async def test_a_hostile_file_is_read_or_fails_alone(reader: DocumentReader) -> None:
    kinds = {"CorruptDocument", "DocumentTooLarge", "DocumentTooSlow"}
    files = {**hostile_word_files(), **hostile_pdfs()}

    found = {name: await outcome_of(reader, files.pop(name), name) for name in EXPECTED}
    async with DocumentReader(HASTY) as hasty:
        others = {await outcome_of(hasty, data, name) for name, data in files.items()}

    assert found == EXPECTED
    assert others <= kinds
    assert await reader.parts(content_of("2025/01/letter 42.docx"), "x") != []


@pytest.mark.slow
async def test_the_parts_are_those_of_this_process(reader: DocumentReader) -> None:
    for name in ("2025/01/letter 42.docx", "2025/02/table 45.docx", "2025/02/two pages 40.pdf"):
        content = content_of(name)
        assert await reader.parts(content, name) == parts(content, name)


@pytest.mark.slow
async def test_a_worker_process_is_used_again(reader: DocumentReader) -> None:
    content = content_of("2025/02/two pages 40.pdf")
    await reader.parts(content, "x")
    first = idle()
    with pytest.raises(RecordError, match="cannot read"):
        await reader.parts(as_content(b"%PDF-1.7"), "broken.pdf")
    await reader.parts(content, "x")

    assert len(first) == 1
    assert idle() == first


@pytest.mark.slow
async def test_processes_end_with_the_last_reader() -> None:
    content = content_of("2025/02/two pages 40.pdf")
    async with DocumentReader() as first:
        async with DocumentReader() as second:
            await second.parts(content, "x")
            (process,) = idle()
        await first.parts(content, "x")
        assert idle() == [process]

    assert is_gone(process)


async def test_texts_and_images_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(reader_worker.Worker, "start")
    async with DocumentReader() as reader:
        assert await reader.parts("Dear Dr. Hess", "memo.txt") == [TextPart("Dear Dr. Hess")]
        assert await reader.parts("[IMAGE_DATA]data:image/png;base64,AAAA", "x.png") != []
        with pytest.raises(RecordError, match="no model reads"):
            await reader.parts("[BINARY_DATA]data:application/zip;base64,AAAA", "x.zip")


@pytest.mark.slow
async def test_a_worker_that_was_killed_is_replaced(reader: DocumentReader) -> None:
    content = content_of("2025/02/two pages 40.pdf")
    expected = await reader.parts(content, "x")
    os.kill(idle()[0], signal.SIGKILL)

    assert await reader.parts(content, "x") == expected


@pytest.mark.slow
async def test_a_stop_does_not_wait_for_a_document() -> None:
    limits = ReaderLimits(seconds=600, stop_grace=0)
    opened = asyncio.Event()
    async with DocumentReader(limits, stopping=opened.is_set) as reader:
        reading = asyncio.ensure_future(reader.parts(as_content(slow_pdf()), "slow.pdf"))
        await asyncio.sleep(0)
        opened.set()
        with pytest.raises(StoppingError, match=r"slow\.pdf"):
            await reading
        assert idle() == []


@pytest.mark.slow
async def test_a_cancelled_document_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.get_running_loop().create_future()
    send = reader_worker.Worker.send

    async def sending(worker: reader_worker.Worker, *pieces: bytes) -> None:
        await send(worker, *pieces)
        started.set_result(worker._process.pid)

    monkeypatch.setattr(reader_worker.Worker, "send", sending)
    async with DocumentReader() as reader:
        reading = asyncio.ensure_future(reader.parts(as_content(slow_pdf()), "slow.pdf"))
        process = await started
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    assert is_gone(process)


@pytest.mark.slow
async def test_a_worker_ignores_signals_of_the_group(reader: DocumentReader) -> None:
    content = content_of("2025/02/two pages 40.pdf")
    await reader.parts(content, "x")
    before = idle()
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(before[0], number)
    await reader.parts(content, "x")

    assert idle() == before


def test_a_worker_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "sk-secret" not in reader_worker._environment().values()


@pytest.mark.slow
def test_a_long_merged_cell_is_in_the_line_of_each_row() -> None:
    (part,) = parts(as_content(merged_down(3000)), "long.docx")
    assert isinstance(part, TextPart)
    assert part.text.split("\n") == ["merged"] * 3000


def test_merged_cells_stand_once_in_a_line() -> None:
    def row(*cells: tuple[str, str]) -> str:
        inner = "".join(
            f"<w:tc><w:tcPr>{properties}</w:tcPr><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>"
            for properties, text in cells
        )
        return f"<w:tr>{inner}</w:tr>"

    down, more = '<w:vMerge w:val="restart"/>', "<w:vMerge/>"
    rows = row(('<w:gridSpan w:val="2"/>', "wide"), (down, "tall")) + row(("", "a"), ("", "b"), (more, ""))
    data = word_file(f"<w:tbl><w:tblPr/><w:tblGrid/>{rows}</w:tbl>")

    assert parts(as_content(data), "x") == [TextPart("wide | tall\na | b | tall")]


@pytest.mark.slow
@settings(max_examples=examples(25), deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    merges=st.lists(st.tuples(*[st.integers(0, 4)] * 4), max_size=3),
)
def test_lines_of_a_table_are_those_of_its_cells(
    rows: int, columns: int, merges: list[tuple[int, int, int, int]]
) -> None:
    document = docx.Document()
    table = document.add_table(rows, columns)
    for row in range(rows):
        for column in range(columns):
            table.cell(row, column).text = f"{row}{column}"
    for top, left, bottom, right in merges:
        if max(top, bottom) < rows and max(left, right) < columns:
            with suppress(InvalidSpanError):  # it would cut another one in two
                table.cell(top, left).merge(table.cell(bottom, right))
    expected = []
    for line in table.rows:
        cells = [line.cells[0], *(b for a, b in pairwise(line.cells) if a._tc is not b._tc)]
        expected.append(" | ".join(cell.text.strip() for cell in cells))
    buffer = io.BytesIO()
    document.save(buffer)

    (part,) = parts(as_content(buffer.getvalue()), "table.docx")
    assert part == TextPart("\n".join(expected).strip("\n"))


async def test_a_program_that_does_not_run_is_no_fault_of_a_document(
    reader: DocumentReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        reader_worker, "_environment", lambda: {"PATH": os.environ["PATH"], "PYTHONHOME": "/nowhere"}
    )
    with pytest.raises(FatalError, match=r"documents cannot be opened: .* exit code 1"):
        await reader.parts(content_of("2025/02/two pages 40.pdf"), "x")


async def test_a_machine_without_room_for_a_process_is_waited_for(
    reader: DocumentReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(TransientError, match="no process can be started"):
        await reader.parts(content_of("2025/02/two pages 40.pdf"), "x")
