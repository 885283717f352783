"""The format `parquet`."""

from __future__ import annotations

import datetime as dt
import io
import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.objects import parquet_format
from connectors.objects.pages import RecordPlace
from engine.errors import FatalError, RecordError
from tests.unit.connectors.objects.reading import dead, good, numbered, pages_of, reader_of


def parquet(table: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


NUMBERS = pa.table({"id": range(100), "name": [f"name {number}" for number in range(100)]})


async def test_rows_are_records_numbered_from_one() -> None:
    pages = await pages_of(reader_of(parquet(NUMBERS, row_group_size=30)), format="parquet")
    assert good(pages) == NUMBERS.to_pylist()
    assert [number for number, _ in numbered(pages)] == list(range(1, 101))


@pytest.mark.slow
@pytest.mark.parametrize("page", [1, 7, 30, 1000])
async def test_reading_continues_inside_a_row_group(page: int) -> None:
    reader = reader_of(parquet(NUMBERS, row_group_size=30))
    pages = await pages_of(reader, format="parquet", page_records=page)
    for number in range(0, len(pages), max(1, len(pages) // 5)):
        rest = await pages_of(reader, pages[number].end, format="parquet", page_records=page)
        assert numbered(rest) == numbered(pages[number + 1 :])


@pytest.mark.slow
async def test_only_the_ranges_that_are_needed_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_format, "AHEAD_BYTES", 4096)
    table = pa.table({"id": range(100_000)})
    data = parquet(table, row_group_size=10_000, compression="none", use_dictionary=False)
    asked: list[int] = []
    reader = reader_of(data)

    def opened(start: int, stop: int | None) -> Any:
        asked.append((stop or len(data)) - start)
        return reader.open(start, stop)

    from dataclasses import replace

    pages = await pages_of(replace(reader, open=opened), RecordPlace(9, 90_000), format="parquet")
    assert len(good(pages)) == 10_000
    assert sum(asked) < len(data) / 4


@pytest.mark.slow
async def test_values_become_what_json_has() -> None:
    table = pa.table(
        {
            "nano": pa.array([-1, 1_500_000_000_123_456_789, None], pa.timestamp("ns")),
            "zoned": pa.array([0, None, 1], pa.timestamp("us", "+02:00")),
            "day": [dt.date(2026, 1, 2), None, None],
            "time": pa.array([3_600_000_000_001, None, None], pa.time64("ns")),
            "money": pa.array([Decimal("1.10"), None, None], pa.decimal128(9, 2)),
            "bytes": [b"\xff", None, b""],
            "list": [[1, 2], [], None],
            "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
            "struct": [{"at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)}, None, None],
            "words": pa.array(["a", "b", "a"]).dictionary_encode(),
            "large": pa.array([2**64 - 1, None, 0], pa.uint64()),
        }
    )
    first, second, third = good(await pages_of(reader_of(parquet(table)), format="parquet"))
    assert first == {
        "nano": "1969-12-31T23:59:59.999999999", "zoned": "1970-01-01T02:00:00+02:00", "day": "2026-01-02",
        "time": "01:00:00.000000001", "money": "1.10", "bytes": "/w==", "list": [1, 2], "map": {"k": 1},
        "struct": {"at": "2026-01-02T00:00:00+00:00"}, "words": "a", "large": 2**64 - 1,
    }  # fmt: skip
    assert second["nano"] == "2017-07-14T02:40:00.123456789"
    assert second["map"] == {}
    assert (second["list"], third["list"], third["nano"]) == ([], None, None)
    json.dumps([first, second, third])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all" * 100, parquet(NUMBERS)[:-30]])
async def test_a_file_that_is_not_parquet_is_damaged(data: bytes) -> None:
    with pytest.raises(RecordError, match="not a Parquet file, or damaged") as caught:
        await pages_of(reader_of(data), format="parquet")
    assert caught.value.kind == "ObjectDamaged"


async def test_an_encrypted_parquet_file_is_called_one() -> None:
    with pytest.raises(RecordError, match="it is encrypted"):
        await pages_of(reader_of(parquet(NUMBERS)[:-4] + b"PARE"), format="parquet")


async def test_damage_inside_comes_after_the_rows_before_it() -> None:
    data = bytearray(parquet(NUMBERS, row_group_size=50, compression="none", use_dictionary=False))
    place = data.index(b"name 60")
    data[place - 40 : place + 200] = b"\xff" * 240
    with pytest.raises(RecordError):
        await pages_of(reader_of(bytes(data)), format="parquet")


async def test_a_flipped_bit_in_a_page_with_a_checksum_is_damage() -> None:
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    data = parquet(NUMBERS, **options)
    with pytest.raises(RecordError) as caught:
        await pages_of(reader_of(data.replace(b"name 60", b"name 61", 1)), format="parquet")
    assert caught.value.kind == "ObjectDamaged"


@pytest.mark.slow
async def test_a_broken_footer_is_damage_and_ends_no_run() -> None:
    data = parquet(NUMBERS)
    length = int.from_bytes(data[-8:-4], "little")
    kinds = set[str]()
    for at in range(len(data) - 8 - length, len(data) - 8, 9):
        try:
            await pages_of(reader_of(data[:at] + b"\xff\xff\xff" + data[at + 3 :]), format="parquet")
        except RecordError as error:
            kinds.add(error.kind)
    assert kinds == {"ObjectDamaged"}


async def test_columns_of_one_name_are_both_kept() -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "a_1"])
    assert good(await pages_of(reader_of(parquet(table)), format="parquet")) == [{"a": 1, "a_2": 2, "a_1": 3}]


async def test_a_value_outside_the_calendar_costs_its_row_alone() -> None:
    moments = pa.array([0, 2**62, 1, None], pa.timestamp("us"))
    nested = pa.array([[0], [0], [-(2**62)], []], pa.list_(pa.timestamp("us")))
    pages = await pages_of(reader_of(parquet(pa.table({"at": moments, "all": nested}))), format="parquet")
    assert numbered(pages) == [
        (1, {"at": "1970-01-01T00:00:00", "all": ["1970-01-01T00:00:00"]}),
        (2, "WrongType"),
        (3, "WrongType"),
        (4, {"at": None, "all": []}),
    ]  # fmt: skip
    assert "row 2: the field 'at'" in str(pages[0].failures[0][1])


@pytest.mark.parametrize(
    ("kind", "number"),
    [(pa.date32(), 9_999_999), (pa.date64(), -(10**15)), (pa.timestamp("s", "UTC"), 10**12),
     (pa.timestamp("ms", "Europe/Berlin"), 10**15), (pa.duration("s"), 10**15)],
)  # fmt: skip
async def test_dates_and_moments_beyond_the_calendar_are_alike(kind: Any, number: int) -> None:
    width = pa.int32() if kind == pa.date32() else pa.int64()
    column = pa.array([number, 0], width).cast(kind)
    pages = await pages_of(reader_of(parquet(pa.table({"at": column}))), format="parquet")
    assert dead(pages) == {1: "WrongType"}
    assert len(good(pages)) == 1


async def test_nanoseconds_inside_of_values_keep_their_digits() -> None:
    inner = pa.struct([("at", pa.timestamp("ns")), ("took", pa.duration("ns")), ("x", pa.string())])
    column = pa.array([[{"at": 1, "took": 1, "x": "y"}], [], None], pa.list_(inner))
    pages = await pages_of(reader_of(parquet(pa.table({"all": column}))), format="parquet")
    row = {"at": "1970-01-01T00:00:00.000000001", "took": "0:00:00.000000001", "x": "y"}
    assert [record["all"] for record in good(pages)] == [[row], [], None]


async def test_text_that_is_no_utf8_costs_its_bytes_alone() -> None:
    texts = pa.array([b"gut", b"sch\xfflecht", None]).view(pa.string())
    pages = await pages_of(reader_of(parquet(pa.table({"t": texts}))), format="parquet")
    assert [record["t"] for record in good(pages)] == ["gut", "sch\ufffdlecht", None]
    assert sum(page.replaced for page in pages) == 1


async def test_a_map_that_names_a_key_twice_keeps_both_values() -> None:
    maps = pa.array([[("k", 1), ("k", 2)], [("k", 1)]], pa.map_(pa.string(), pa.int64()))
    pages = await pages_of(reader_of(parquet(pa.table({"m": maps}))), format="parquet")
    assert [record["m"] for record in good(pages)] == [[["k", 1], ["k", 2]], {"k": 1}]


async def test_an_empty_table_has_no_records() -> None:
    assert await pages_of(reader_of(parquet(NUMBERS.slice(0, 0))), format="parquet") == []


def test_a_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(FatalError, match=r"pip install 'odw-engine\[parquet\]'"):
        parquet_format.pyarrow()
