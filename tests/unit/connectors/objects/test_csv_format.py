"""The format `csv`."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.files.source import FilesParams, FilesSource
from connectors.objects.csv_header import column_names
from connectors.objects.csv_types import CONVERTERS, infer_type
from connectors.objects.pages import RecordPlace, record_maker
from connectors.objects.params import ObjectParams
from engine.errors import RecordError
from tests.unit.connectors.objects.reading import dead, good, numbered, pages_of, reader_of


async def rows(text: str | bytes, **params: Any) -> list[tuple[int, Any]]:
    data = text if isinstance(text, bytes) else text.encode()
    return numbered(await pages_of(reader_of(data, "a.csv", piece=7), format="csv", **params))


async def test_rows_are_records_with_inferred_types() -> None:
    found = await rows(
        "id,name,share,on,day,at\n7,Ann,0.5,true,2026-01-02,2026-01-02 03:04:05\n8,,1,false,,\n"
    )
    day, moment = "2026-01-02", "2026-01-02T03:04:05"
    assert found == [
        (2, {"id": 7, "name": "Ann", "share": 0.5, "on": True, "day": day, "at": moment}),
        (3, {"id": 8, "name": None, "share": 1.0, "on": False, "day": None, "at": None}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        ["007", "12"], ["+49", "1"], ["1", "x"], ["9" * 30], ["yes", "no"], [], ["1.10000000000000000001"],
        ["1.5", "1e400"], ["1.5", "-2e308"], ["1.5", "1e-400"], ["1.5", "9007199254740993"],
        ["0.12345678901234561"], ["1.23456789e-320"], ["1\u0662", "2"], ["1.5", "\uff12.5"],
    ],
)  # fmt: skip
def test_a_type_that_would_change_a_text_is_not_inferred(values: list[str]) -> None:
    assert infer_type(values) == "text"


async def test_names_are_in_the_declared_charset_before_and_after_a_resume() -> None:
    reader = reader_of("имя;x\nяд;1\n".encode("koi8-r"), "a.csv", content_type="text/csv; charset=koi8-r")
    for encoding in ("", "koi8_r"):
        pages = await pages_of(reader, RecordPlace(encoding=encoding), format="csv")
        assert good(pages) == [{"имя": "яд", "x": 1}]


async def test_a_resume_changes_no_name_where_the_charset_is_guessed() -> None:
    reader = reader_of("id;Größe\n1;x\n2;y\n".encode("cp1252"), "a.csv")
    (row,) = good(await pages_of(reader, RecordPlace(at=13, before=2, encoding="koi8_r"), format="csv"))
    assert row == {"id": 2, "Größe": "y"}


@pytest.mark.parametrize("kind", ["decimal", "integer", "number"])
async def test_two_numbers_in_a_field_are_not_one(kind: str) -> None:
    found = await rows('a,b\n1,x\n"1\n2",x\n', types={"a": kind})
    assert [row for _, row in found][1] == "WrongType"


@pytest.mark.parametrize("late", ["9007199254740993", "1\u0662", " 1", "1,2", "null", "[1]", "", "1e5x"])
async def test_a_number_of_another_kind_is_not_bent(late: str) -> None:
    head = "a;b\n" + "1.5;x\n" * 20_000
    pages = await pages_of(reader_of(f"{head}{late};x\n".encode()), format="csv")
    if late:
        assert dead(pages) == {20_002: "WrongType"}
    else:
        assert good(pages)[-1] == {"a": None, "b": "x"}


async def test_a_last_line_without_an_end_counts_for_types() -> None:
    assert [row for _, row in await rows("a,b\n1,2")] == [{"a": 1, "b": 2}]
    assert [row for _, row in await rows("a\n1\nx")] == [{"a": "1"}, {"a": "x"}]


@pytest.mark.parametrize(
    "text", ["<!DOCTYPE html><html>\n", "<html>\n", '\ufeff<?xml version="1.0"?>\n<a/>\n']
)
async def test_a_page_of_markup_is_no_empty_table(text: str) -> None:
    with pytest.raises(RecordError, match="page of HTML or XML"):
        await rows(text)


@pytest.mark.parametrize("text", ['[{"a": 1}]\n', '{"a": 1}\n{"a": 2}\n', '[\n  {\n    "a": 1'])
async def test_json_under_the_name_of_a_table_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match="it is JSON, not a CSV file"):
        await rows(text)


@pytest.mark.parametrize("header", ["[id],[name]", "{id},b", '"{""a"": 1}",b'])
async def test_names_in_brackets_are_those_of_columns(header: str) -> None:
    assert len(await rows(f"{header}\n1,2\n")) == 1


async def test_a_line_of_blanks_is_no_row() -> None:
    assert await rows("a,b\n1,2\n  \t\n3,4\n\x1a") == [(2, {"a": 1, "b": 2}), (4, {"a": 3, "b": 4})]
    assert await rows("a\n \n") == [(2, {"a": " "})]


async def test_a_header_in_no_charset_that_is_guessed_is_refused() -> None:
    with pytest.raises(RecordError, match=r"header cannot be decoded: .* set `charset`"):
        await rows("Müller Straße;Köln Grüße schön\n5;6\n".encode("cp850"))


@pytest.mark.slow
@given(
    table=st.lists(
        st.lists(
            st.sampled_from(["", "1", "-0", "1.5", "x", "ü", "true", "2026-01-02"]), min_size=3, max_size=3
        ),
        min_size=1,
        max_size=30,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    page=st.integers(1, 9),
)
async def test_quotes_around_fields_change_nothing(table: list[list[str]], end: str, page: int) -> None:
    found = []
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        out = io.StringIO()
        csv.writer(out, quoting=quoting, lineterminator=end).writerows([["a", "b", "c"], *table])
        found.append(await rows(out.getvalue(), page_records=page))
    assert found[0] == found[1]


@pytest.mark.parametrize("width", [1, 2, 16, 17])
def test_records_are_made_for_any_number_of_columns(width: int) -> None:
    names = [f"it's \\ {at}\n\ud800" for at in range(width)]
    made = record_maker(names)([[at, -at] for at in range(width)])
    assert made == [dict(zip(names, range(width), strict=True)), {name: -at for at, name in enumerate(names)}]


@pytest.mark.parametrize(
    ("row", "kind"),
    [("007,x,1", "WrongType"), ("2,x", "WrongWidth"), ("2,x,1,1", "WrongWidth"), ('2,"x"y,1', "BrokenRow")],
)
async def test_a_bad_row_fails_alone_with_its_line(row: str, kind: str) -> None:
    head = "id,name,n\n" + "".join(f"{number},x,1\n" for number in range(1, 20_001))
    pages = await pages_of(reader_of(f"{head}{row}\n3,z,4\n".encode(), "a.csv"), format="csv")
    assert dead(pages) == {20_002: kind}
    assert good(pages)[-1] == {"id": 3, "name": "z", "n": 4}
    assert "s3://b/a.csv:20002" in str(pages[-1].failures[0][1])


async def test_the_message_about_a_type_names_column_and_remedy() -> None:
    head = "id,name\n" + "1,x\n" * 20_000
    pages = await pages_of(reader_of(f"{head}oops,secret\n".encode()), format="csv")
    ((_, error),) = pages[-1].failures
    assert "'id'" in str(error)
    assert "types: {id: text}" in str(error)
    assert "secret" not in str(error)
    assert "oops" not in str(error)


async def test_fields_may_span_lines_and_keep_the_line_they_begin_at() -> None:
    found = await rows('a,b\n1,"two\nlines"\n\n2,"and ""three""\r\n\r\nmore"\n3,x\n')
    assert [(number, row["a"], row["b"]) for number, row in found] == [
        (2, 1, "two\nlines"), (5, 2, 'and "three"\r\n\r\nmore'), (8, 3, "x"),
    ]  # fmt: skip


async def test_a_quote_that_is_never_closed_costs_its_own_line() -> None:
    found = await rows('a,b\n1,x\n2,"never closed\n3,y\n4,z\n')
    assert found == [
        (2, {"a": 1, "b": "x"}), (3, "BrokenRow"), (4, {"a": 3, "b": "y"}), (5, {"a": 4, "b": "z"}),
    ]  # fmt: skip


async def test_a_quote_that_swallows_more_than_a_record_may_have_ends() -> None:
    text = 'a,b\n1,"open\n' + "2,x\n" * 3000
    pages = await pages_of(
        reader_of(text.encode(), piece=100), format="csv", max_record_bytes=2000, page_records=50
    )
    assert dead(pages) == {2: "BrokenRow"}
    assert len(good(pages)) == 3000


async def test_a_row_over_the_bound_is_a_dead_letter() -> None:
    text = f'a,b\n1,{"x" * 3000}\n2,"{"y" * 600}\n{"y" * 600}"\n3,z\n'
    pages = await pages_of(reader_of(text.encode(), piece=100), format="csv", max_record_bytes=1000)
    assert dead(pages) == {2: "LongLine", 3: "LongLine"}
    assert good(pages) == [{"a": 3, "b": "z"}]


@pytest.mark.parametrize(
    ("text", "params", "record"),
    [
        ("a;b\n1;2,5\n", {}, {"a": 1, "b": "2,5"}),
        ("a\tb\n1\tx\n", {}, {"a": 1, "b": "x"}),
        ("Preis, netto;Menge\n1,5;2\n", {}, {"Preis, netto": "1,5", "Menge": 2}),
        ("1.000,5 €;-2,50\n", {"header": False}, {"column0": "1.000,5 €", "column1": "-2,50"}),
        ("1,a;b\n", {"header": False}, {"column0": 1, "column1": "a;b"}),
        ("at,lat;lon\n1,2;3\n", {}, {"at": 1, "lat;lon": "2;3"}),
        ("a,x\tb\n1,5\t2\n", {}, {"a,x": "1,5", "b": 2}),
        ("a|b\n1|x,y,z\n", {"delimiter": "|"}, {"a": 1, "b": "x,y,z"}),
        ("1,x\n", {"header": False}, {"column0": 1, "column1": "x"}),
        ("1,x\n", {"header": False, "columns": ["n", "t"]}, {"n": 1, "t": "x"}),
        ("a,b\n1,x\n", {"columns": ["n", "t"]}, {"n": 1, "t": "x"}),
        ("a,b\n1,'x,y'\n", {"quote": "'"}, {"a": 1, "b": "x,y"}),
        ('a,b\n1,"x\n', {"quote": None}, {"a": 1, "b": '"x'}),
        ("a,b\nNA,-\n", {"null_values": ["NA", "-"]}, {"a": None, "b": None}),
        ("a,b\n1,2\n", {"types": "text"}, {"a": "1", "b": "2"}),
        ("a,b\n007,2\n", {"types": {"a": "integer"}}, {"a": 7, "b": 2}),
        ("a,b\n1.10,2\n", {"types": {"a": "decimal", "b": "number"}}, {"a": "1.10", "b": 2.0}),
        ("a,a,\n1,2,3\n", {}, {"a": 1, "a_1": 2, "column2": 3}),
        ("a,a,a_1\n1,2,3\n", {}, {"a": 1, "a_2": 2, "a_1": 3}),
        (",column0\n1,2\n", {}, {"column0_1": 1, "column0": 2}),
        ("sep=;\na;b\n1;x,y\n", {}, {"a": 1, "b": "x,y"}),
        ('"sep=|"\r\na|b\r\n1|2\r\n', {}, {"a": 1, "b": 2}),
        ("SEP=;\na;b\n1;x,y\n", {}, {"a": 1, "b": "x,y"}),
        ("sep=\t\n1\t2\n", {"header": False}, {"column0": 1, "column1": 2}),
        ("sep=;\na,b\n1,2\n", {"delimiter": ","}, {"a": 1, "b": 2}),
        ("sep=,x\n1,2\n", {}, {"sep=": 1, "x": 2}),
        ("\ufeffa,b\n1,2\n", {}, {"a": 1, "b": 2}),
        ('"a\nb",c\n1,2\n', {}, {"a\nb": 1, "c": 2}),
        ("\n\na,b\n1,2\n", {}, {"a": 1, "b": 2}),
        ("a\n1\n", {}, {"a": 1}),
        ("a,b\r1,x\r", {}, {"a": 1, "b": "x"}),
        (f"a,b\n{'9' * 40},x\n", {"types": {"a": "integer"}}, {"a": int("9" * 40), "b": "x"}),
    ],
)  # fmt: skip
async def test_files_are_read_as_they_are_written(text: str, params: dict[str, Any], record: Any) -> None:
    assert [row for _, row in await rows(text, **params)] == [record]


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252", "utf-8-sig", "shift_jis", "utf-32-le"])
async def test_any_encoding_is_read(encoding: str) -> None:
    name = "日本語" if encoding == "shift_jis" else "Müller"
    found = await rows(f"id,name\n1,{name}\n".encode(encoding), charset=encoding)
    assert found == [(2, {"id": 1, "name": name})]


@pytest.mark.parametrize("params", [{}, {"header": False}])
async def test_lines_without_anything_are_no_rows(params: dict[str, Any]) -> None:
    assert await rows("\n\n\n", **params) == []


async def test_a_header_alone_and_an_empty_file_have_no_records() -> None:
    assert await rows("a,b\n") == []
    assert await rows("a,b") == []
    assert await rows("") == []


@given(names=st.lists(st.sampled_from(["", "a", "a_1", "a_2", "b", "column0", "column1"]), max_size=12))
def test_columns_keep_their_names_and_none_is_lost(names: list[str]) -> None:
    found = column_names(names)
    assert len(set(found)) == len(names) == len(found)
    for name in filter(None, names):
        assert found[names.index(name)] == name


@pytest.mark.slow
def test_a_header_of_very_many_columns_takes_no_square_of_time() -> None:
    assert len(set(column_names(["a"] * 100_000 + [""] * 100_000))) == 200_000


async def test_rows_count_from_after_the_line_that_names_the_delimiter() -> None:
    assert await rows("sep=;\na;b\n1;2\n3\n") == [(3, {"a": 1, "b": 2}), (4, "WrongWidth")]


@pytest.mark.parametrize(("first", "skipped"), [("Account: 12", 3), ('"a;b', 3), ("sep=;", 3), ("sep=;", 0)])
async def test_lines_before_the_table_are_skipped(first: str, skipped: int) -> None:
    title = f"{first}\nFrom: 1, 2, 3\n\n" if skipped else f"{first}\n"
    found = await rows(f"{title}id;amount\n7;1,5\n8\n", skip_lines=skipped)
    line = title.count("\n") + 2
    assert found == [(line, {"id": 7, "amount": "1,5"}), (line + 1, "WrongWidth")]


@pytest.mark.parametrize("skipped", [3, 4, 1000])
async def test_a_header_has_to_follow_the_skipped_lines(skipped: int) -> None:
    with pytest.raises(RecordError, match=f"no header after the skipped lines .*: {skipped}"):
        await rows("a;b\n1;2\n3;4\n", skip_lines=skipped)


async def test_a_header_unlike_most_rows_suggests_to_skip_lines() -> None:
    for text, hint in (("Account;12\n\nid;n;m\n1;2;3\n", True), ("id,n\n1,2\n1,2\n1,2,3\n", False)):
        (page,) = await pages_of(reader_of(text.encode()), format="csv")
        assert ("set `skip_lines`" in str(page.failures[0][1])) is hint


async def test_a_declared_column_has_to_be_there() -> None:
    with pytest.raises(RecordError, match="no column 'z'"):
        await rows("a,b\n1,2\n", types={"z": "integer"})


async def test_invalid_text_fails_alone_when_it_is_refused() -> None:
    data = "a,b\n1,Grüße\n".encode() + b"2,\xff\xfe\n3,x\n"
    found = await rows(data, charset="utf-8", strict_text=True)
    assert [row if isinstance(row, str) else row["b"] for _, row in found] == ["Grüße", "InvalidText", "x"]


FIELDS = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)


@pytest.mark.slow
@given(
    table=st.lists(st.lists(FIELDS, min_size=3, max_size=3), min_size=1, max_size=30),
    piece=st.integers(1, 64),
    page=st.integers(1, 9),
    packed=st.booleans(),
)
async def test_what_a_writer_writes_is_read_and_resumed(
    table: list[list[str]], piece: int, page: int, packed: bool
) -> None:
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(["a", "b", "c"])
    writer.writerows(table)
    data = out.getvalue().encode()
    reader = reader_of(gzip.compress(data) if packed else data, "a.csv", piece=piece)
    params: dict[str, Any] = {
        "format": "csv", "types": "text", "null_values": [], "page_records": page, "delimiter": ",",
    }  # fmt: skip
    pages = await pages_of(reader, **params)
    assert [list(row.values()) for row in good(pages)] == table
    middle = pages[len(pages) // 2]
    rest = await pages_of(reader, middle.end, **params)
    assert numbered(rest) == numbered(pages[len(pages) // 2 + 1 :])


@pytest.mark.parametrize(
    ("kind", "text"),
    [("integer", "1.5"), ("integer", ""), ("number", "1,5"), ("number", "nan"), ("number", "1e999"),
     ("boolean", "maybe"),
     ("date", "2026-02-30"), ("date", "1/2/26"), ("timestamp", "2026-01-01 25:00"), ("decimal", "1e")],
)  # fmt: skip
def test_an_invalid_value_of_a_type_is_refused(kind: str, text: str) -> None:
    convert = CONVERTERS[kind]  # type: ignore[index]
    assert convert is not None
    with pytest.raises(ValueError):
        convert((text,))


def test_digits_beyond_microseconds_and_zones_are_kept() -> None:
    convert = CONVERTERS["timestamp"]
    assert convert is not None
    assert convert(("2026-01-02 03:04:05.123456789+02:00", "2026-01-02T03:04Z")) == [
        "2026-01-02T03:04:05.123456789+02:00", "2026-01-02T03:04:00+00:00",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["2026-01-02 03:04:05", "2026-01-02T03:04:05.1Z", "2026-01-02T03:04:05,123456789+02:00",
     "2026-01-02T03:04:05-00:00", "2026-01-02T03:04:05+0100", "2026-01-02T03:04", "2026-01-02"],
)  # fmt: skip
def test_times_read_together_are_those_read_alone(text: str) -> None:
    convert = CONVERTERS["timestamp"]
    assert convert is not None
    odd = "2026-01-02"  # is read by itself
    assert convert((text, text)) == convert((text, text, odd))[:2]


@pytest.mark.parametrize(
    "params",
    [
        {"delimiter": ";"}, {"format": "csv", "delimiter": "ab"},
        {"format": "csv", "quote": ",", "delimiter": ","},
        {"format": "csv", "columns": ["a", "a"]}, {"format": "csv", "header": False, "types": {"a": "text"}},
        {"format": "csv", "types": {"a": "money"}}, {"format": "tsv"}, {"format": "jsonl", "header": False},
        {"format": "jsonl", "skip_lines": 1},
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ObjectParams(**params)


async def test_columns_have_one_type_in_all_files(tmp_path: Path) -> None:
    for name, rows in {"a": "1,1,,2026-01-02\n", "b": "x,1.5,2,2026-01-02 03:04\n", "c": ",2,,\n"}.items():
        (tmp_path / f"{name}.csv").write_text(f"n,m,late,at\n{rows}")
    opened = FilesSource(FilesParams(pattern=f"{tmp_path}/*.csv", format="csv"))

    found = [tuple(record.values()) async for record in opened.extract()]
    assert found == [
        ("1", 1.0, None, "2026-01-02T00:00:00"), ("x", 1.5, 2, "2026-01-02T03:04:00"), (None, 2.0, None, None)
    ]  # fmt: skip
    assert all(type(record[1]) is float for record in found)
    (note,) = [name for name in opened.ctx.aggregate if name.startswith("note: ")]
    assert note.startswith("note: read 'n' as text: it is integer in some files, but not in all; with")


@pytest.mark.slow
async def test_a_type_that_no_sampled_file_has_is_noted(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02}.csv").write_text(f"n,m\n{'x' if number == 1 else number},1\n")
    opened = FilesSource(FilesParams(pattern=f"{tmp_path}/*.csv", format="csv"))

    assert [record["n"] async for record in opened.extract()][:3] == [0, "x", 2]
    assert [name for name in opened.ctx.aggregate if name.startswith("note: ")] == [
        "note: read 'n' as integer in some files and as text in others: set `types: {n: text}`"
    ]


async def test_integers_no_float_keeps_stay_whole_beside_decimals(tmp_path: Path) -> None:
    for name, value in {"a": "0.5", "b": "123456789012345678", "c": "3"}.items():
        (tmp_path / f"{name}.csv").write_text(f"n,m\n{value},x\n")
    opened = FilesSource(FilesParams(pattern=f"{tmp_path}/*.csv", format="csv"))

    assert [record["n"] async for record in opened.extract()] == [0.5, "123456789012345678", 3.0]
    assert [name for name in opened.ctx.aggregate if name.startswith("note: ")] == [
        "note: read 'n' as number in some files and as text in others: set `types: {n: text}`"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["packed in blocks", "utf-16"])
async def test_a_sample_does_not_end_within_a_value(form: str, tmp_path: Path) -> None:
    # with rows of a few lengths, the end of a shorter sample is in a time at least once
    for width in range(0, 120, 15):
        row = f"{'x' * (width + 1)},2026-01-02 03:04:05\n"
        text = "n,at\n" + row * (1_200_000 // len(row))
        data = text.encode(form) if form == "utf-16" else gzip.compress(text.encode(), compresslevel=0)
        (tmp_path / f"{width}.csv{'' if form == 'utf-16' else '.gz'}").write_bytes(data)
    async with FilesSource(FilesParams(pattern=f"{tmp_path}/*", format="csv")) as opened:
        (split,) = [split async for split in opened.splits(opened.ctx)]
    assert split.manifest["types"] == {"at": "timestamp", "n": "text"}


@pytest.mark.parametrize(("size", "n"), [(1, "integer"), (2, "text"), (6, "text")])
async def test_a_later_split_has_the_types_of_the_first(size: int, n: str, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.csv").write_text(f"n,m\n{'x' if number == 1 else number},1\n")
    params = FilesParams(pattern=f"{tmp_path}/*.csv", format="csv", split_objects=size)
    async with FilesSource(params) as opened:
        splits = [split async for split in opened.splits(opened.ctx)]
        opened.ctx.listed = splits[0]
        later = [split async for split in opened.splits(opened.ctx)]
    assert [split.manifest["types"] for split in splits] == [{"m": "integer", "n": n}] * (6 // size)
    assert later == splits[1:]


@pytest.mark.slow
@pytest.mark.parametrize("late", ["1.5", "-0.25", "1e3"])
async def test_integers_may_be_followed_by_decimals(late: str) -> None:
    head = "a;b\n" + "1;x\n" * 20_000
    pages = await pages_of(reader_of(f"{head}{late};x\n{10**20};x\n".encode()), format="csv")
    assert dead(pages) == {}
    assert [record["a"] for record in good(pages)[-3:]] == [1, float(late), 10**20]


@pytest.mark.parametrize(
    ("text", "params", "expected"),
    [
        ('a,b\n1,"say \\"hi\\", you"\n2,"c:\\\\x"\n3,"\\""\n', {}, ['say "hi", you', "c:\\x", '"']),
        (
            "a\tb\n1\t\\N\n2\tx\\\ty\\\nz\n3\tN\n",
            {"quote": None, "null_values": ["\\N"]},
            [None, "x\ty\nz", "N"],
        ),
        ('a;b\r\n1;\\N\r\n2;"\\\\N;\\N"\r\n', {"null_values": ["\\N"]}, [None, "\\N;N"]),
        ("a|b\n1|x\\|y\n2|z\n", {"delimiter": "|"}, ["x|y", "z"]),
    ],
    ids=["spark", "mysql", "nulls", "redshift"],
)
async def test_characters_may_be_escaped(text: str, params: dict[str, Any], expected: list[Any]) -> None:
    params = {"format": "csv", "escape": "\\", **params}
    for piece in (1 << 16, 3):
        pages = await pages_of(reader_of(text.encode(), piece=piece), **params)
        assert [record["b"] for record in good(pages)] == expected
        assert dead(pages) == {}


def test_escape_is_another_character() -> None:
    with pytest.raises(ValueError, match="`escape` has to be another character"):
        ObjectParams(format="csv", escape='"')


async def test_escaped_quotes_are_pointed_to_their_option() -> None:
    pages = await pages_of(reader_of(b'a,b\n1,"say \\"hi\\""\n'), format="csv")
    ((_, error),) = pages[0].failures
    assert "`escape: '\\'`" in str(error)


async def test_codes_with_an_e_are_no_numbers() -> None:
    text = "code,x,late\n12E5,1.2E+06,1\n3E10,2e-05,2\n" + "4E1,1e5,3\n" * 20_000 + "5E5,1,6E6\n"
    pages = await pages_of(reader_of(text.encode()), format="csv")
    assert good(pages)[:2] == [
        {"code": "12E5", "x": 1.2e6, "late": 1},
        {"code": "3E10", "x": 2e-05, "late": 2},
    ]
    assert dead(pages) == {20_004: "WrongType"}


@pytest.mark.parametrize("offset", ["+00", "-03", "+0530", "+05:30"])
async def test_offsets_of_whole_hours_are_timestamps(offset: str) -> None:
    text = f"at\n2026-01-02 03:04:05{offset}\n2026-01-02 03:04:05.25{offset}\n"
    found = good(await pages_of(reader_of(text.encode()), format="csv"))
    whole = {"+00": "+00:00", "-03": "-03:00"}.get(offset, "+05:30")
    assert [one["at"] for one in found] == [f"2026-01-02T03:04:05{whole}", f"2026-01-02T03:04:05.25{whole}"]
