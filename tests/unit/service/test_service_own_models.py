"""Users' models are written and read like built-in ones, and may change between starts."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID, uuid4

import duckdb
import httpx
import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from engine.errors import RegistryError, StateError
from engine.service import migration
from engine.service.app import create_app
from engine.service.models import IngestModel
from engine.service.warehouse import Warehouse
from tests.series import few
from tests.unit.service.old_formats import FORMAT_2, FORMAT_5

Rows = list[dict[str, Any]]


class Colour(Enum):
    RED = "red"


class Size(IntEnum):
    SMALL = 1


class Inner(BaseModel):
    count: int
    ref: UUID | None = None


class Wide(BaseModel):
    id: str
    ref: UUID
    price: Decimal
    day: date
    clock: time
    at: datetime
    colour: Colour
    size: Size
    level: Literal[1, 2]
    address: IPv4Address
    raw: bytes
    inner: Inner
    inners: list[Inner]
    refs: list[UUID]
    pairs: dict[str, int]
    anything: Any
    either: int | str


ROW = {
    "id": "w1",
    "ref": "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
    "price": "12.50",
    "day": "2026-02-03",
    "clock": "10:11:12",
    "at": "2026-02-03T10:11:12+00:00",
    "colour": "red",
    "size": 1,
    "level": 2,
    "address": "10.0.0.1",
    "raw": "bytes",
    "inner": {"count": 1, "ref": None},
    "inners": [{"count": 2, "ref": "6f9619ff-8b86-d011-b42d-00cf4fc964ff"}],
    "refs": ["6f9619ff-8b86-d011-b42d-00cf4fc964ff"],
    "pairs": {"a": 1},
    "anything": {"n": 2**80, "t": ["5", 5, None]},
    "either": "5",
}


def model(name: str, table: str | None = None, /, **fields: Any) -> IngestModel:
    """A model of these fields, with an id unless they bring one."""
    made = create_model(name, **{"id": str, **fields})
    return IngestModel(name, made, table or name)


NUMBERS = count()


async def exchange(path: Path, models: list[IngestModel], *steps: tuple[str, Any]) -> list[httpx.Response]:
    """Open a service, send `POST` and `GET` steps (path, body or None), close it."""
    warehouse = await asyncio.to_thread(Warehouse.open, path, models)
    try:
        transport = httpx.ASGITransport(app=create_app(warehouse, models))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answers = []
            for where, body in steps:
                how = {"X-ODW-Results": "per-record", "X-ODW-Delivery": "replay"}
                sent = client.get(where) if body is None else client.post(where, json=body, headers=how)
                answers.append(await sent)
            return answers
    finally:
        await asyncio.to_thread(warehouse.close)


def rows(answer: httpx.Response) -> Rows:
    assert answer.status_code == 200, answer.text
    items: Rows = answer.json()["items"]
    return items


@pytest.mark.slow
async def test_posted_rows_are_read_back(path: Path) -> None:
    wide = IngestModel("Wide", Wide, "Wide")
    written, read = await exchange(path, [wide], ("/ingest/Wide", [ROW]), ("/consumption/getWide", None))
    assert written.json()["written"] == 1
    assert rows(read) == [ROW | {"at": "2026-02-03T10:11:12+00:00"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ref", ROW["ref"]),
        ("price", "12.50"),
        ("day", "2026-02-03"),
        ("colour", "red"),
        ("address", "10.0.0.1"),
    ],
)
async def test_plain_columns_can_be_asked_for(path: Path, field: str, value: str) -> None:
    wide = IngestModel("Wide", Wide, "Wide")
    other = ROW | {
        "id": "w2",
        "ref": "00000000-0000-0000-0000-000000000000",
        "price": "1",
        "day": "2026-01-01",
    }
    _, found, none = await exchange(
        path,
        [wide],
        ("/ingest/Wide", [ROW, other | {"address": "10.0.0.2"}]),
        (f"/consumption/getWide?{field}={value}", None),
        (f"/consumption/getWide?{field}=another", None),
    )
    assert "w1" in [row["id"] for row in rows(found)]
    assert len(rows(found)) == (2 if field == "colour" else 1)
    assert rows(none) == []


@pytest.mark.slow
async def test_a_model_with_another_table_is_read_by_both_names(path: Path) -> None:
    both = [model("ReadingSource", "Measurement", celsius=(float, ...))]
    names = ("ReadingSource", "Reading", "Measurement", "measurement")
    _, *read = await exchange(
        path,
        both,
        ("/ingest/ReadingSource", [{"id": "r", "celsius": 1}]),
        *((f"/consumption/get{name}", None) for name in names),
        ("/consumption/getOther", None),
    )
    assert [rows(one) for one in read[:-1]] == [[{"id": "r", "celsius": 1.0}]] * 4
    assert read[-1].status_code == 404


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["rowid", "ROWID", "select", "order", "limit", "table", "sequence", "place", "tag"]
)
async def test_fields_may_have_any_name(path: Path, name: str) -> None:
    odd = [model("Odd", **{name: (str, ...)})]
    first, again, read = await exchange(
        path,
        odd,
        ("/ingest/Odd", [{"id": "o", name: "x"}]),
        ("/ingest/Odd", [{"id": "o", name: "y"}]),
        ("/consumption/getOdd", None),
    )
    assert [first.json()["written"], again.json()["written"]] == [1, 1]
    assert rows(read) == [{"id": "o", name: "y"}]


@pytest.mark.slow
async def test_a_dirty_table_with_a_rowid_is_cleaned(path: Path) -> None:
    odd = [model("Odd", rowid=(int, ...))]
    warehouse = await asyncio.to_thread(Warehouse.open, path, odd)
    transport = httpx.ASGITransport(app=create_app(warehouse, odd))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for number in range(3):
            await client.post(
                "/ingest/Odd", json=[{"id": "o", "rowid": number}, {"id": f"p{number}", "rowid": 0}]
            )
        dirty = rows(await client.get("/consumption/getOdd?id=o"))
        await asyncio.to_thread(warehouse.compact)
        clean = rows(await client.get("/consumption/getOdd?order=id"))
    await asyncio.to_thread(warehouse.close)
    assert dirty == [{"id": "o", "rowid": 2}]
    assert [row["id"] for row in clean] == ["o", "p0", "p1", "p2"]


@pytest.mark.slow
async def test_a_moment_is_asked_for_as_it_was_answered(path: Path) -> None:
    moments = ["2026-02-03T10:11:12+00:00", "2026-02-03T10:11:12.500000+00:00"]
    asked = [
        *map(quote, moments), "2026-02-03T10:11:12+00:00", "2026-02-03T11:11:12.5%2B01:00",
        "2026-02-03T10:11:12Z", "2026-02-03T10:11:12", "tomorrow",
    ]  # fmt: skip
    posted = ("/ingest/Seen", [{"id": one, "at": one} for one in moments])
    asks = [(f"/consumption/getSeen?{name}={one}", None) for one in asked for name in ("at", "id")]
    last = ("/consumption/getSeen?order=id&after=" + quote(moments[0]), None)
    seen = [model("Seen", id=(datetime, ...), at=(datetime, ...))]
    _, *answers, after = await exchange(path, seen, posted, *asks, last)
    first, second = [moments[0]], [moments[1]]
    expected = [first, second, first, second, first, first, []]
    found = [[row["id"] for row in rows(answer)] for answer in answers]
    assert found == [one for one in expected for _ in ("at", "id")]
    assert [row["id"] for row in rows(after)] == second


@pytest.mark.slow
async def test_values_are_asked_for_in_any_spelling(path: Path) -> None:
    one = {
        "id": "6f9619ff-8b86-d011-b42d-00cf4fc964ff", "ref": "6f9619ff-8b86-d011-b42d-00cf4fc964ff",
        "n": 7, "x": 1.0, "ok": True, "clock": "10:11:00", "host": "fe80::1", "price": "1.10",
    }  # fmt: skip
    asked = [
        "id=6F9619FF-8B86-D011-B42D-00CF4FC964FF", "id=%7B6f9619ff-8b86-d011-b42d-00cf4fc964ff%7D",
        "id=6f9619ff8b86d011b42d00cf4fc964ff", "id=urn:uuid:6f9619ff-8b86-d011-b42d-00cf4fc964ff",
        "ref=6F9619FF8B86D011B42D00CF4FC964FF", "order=id&after=6F9619FE-8B86-D011-B42D-00CF4FC964FF",
        "n=07", "n=%2B7", "x=1", "x=1e0", "ok=True", "clock=10:11", "host=FE80:0:0::1",
        "price=1.1", "price=%2B01.100", "price=11e-1",
    ]  # fmt: skip
    wrong = [
        "id=6f9619ff",
        "n=7.0",
        "n=6.9",
        "x=one",
        "ok=1",
        "price=1.1000000000000000000001",
        "price=-1.1",
        "price=x1.1",
        "order=id&after=6F9619FF8B86D011B42D00CF4FC964FF",
    ]
    fields = {
        "id": UUID,
        "ref": UUID,
        "n": int,
        "x": float,
        "ok": bool,
        "clock": time,
        "host": IPv6Address,
        "price": Decimal,
    }
    things = [model("Thing", **{name: (kind, ...) for name, kind in fields.items()})]
    asks = [(f"/consumption/getThing?{query}", None) for query in (*asked, *wrong)]
    posted, *answers = await exchange(path, things, ("/ingest/Thing", [one]), *asks)
    assert posted.json()["dead"] == []
    counts = [len(rows(answer)) for answer in answers]
    assert counts == [1] * len(asked) + [0] * len(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("key", [int, UUID, date, Decimal, list[str], str | None])
async def test_ids_of_any_type_are_taken(path: Path, key: Any) -> None:
    values = {int: 7, date: "2026-01-02", Decimal: "1.5", list[str]: ["a"]}
    value = values.get(key, "6f9619ff-8b86-d011-b42d-00cf4fc964ff")
    some = [model("Some", id=(key, ...), n=(int, ...))]
    first, again, read = await exchange(
        path,
        some,
        ("/ingest/Some", [{"id": value, "n": 1}, {"id": value, "n": "none"}]),
        ("/ingest/Some", [{"id": value, "n": 2}]),
        ("/consumption/getSome", None),
    )
    assert (first.json()["written"], again.json()["written"]) == (1, 1)
    assert rows(read)[0] == {"id": value, "n": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "stored", "asked"),
    [(float, 1.0, "1"), (float, -0.0, "0"), (Decimal, "1E+2", "100"), (Decimal, "-0.0", "0")],
)
async def test_numbers_as_ids_are_asked_for_in_any_spelling(
    path: Path, key: Any, stored: Any, asked: str
) -> None:
    some = [model("Some", id=(key, ...))]
    query = f"/consumption/getSome?id={asked}&id=2"
    posted, read = await exchange(path, some, ("/ingest/Some", [{"id": stored}, {"id": 3}]), (query, None))
    assert (posted.json()["written"], len(rows(read))) == (2, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "died", "sent"),
    few(
        [
            (UUID, "6F9619FF-8B86-D011-B42D-00CF4FC964FF", "6F9619FF-8B86-D011-B42D-00CF4FC964FF"),
            (UUID, f"urn:uuid:{ROW['ref']}", ROW["ref"]),
            (float, 1, 1),
            (float, 1.5, "1.50"),
            (int, "007", 7),
            (int, "-0", 0),
            (date, "2026-01-02", "2026-01-02"),
            (datetime, "2026-01-02T02:00:00.50+02:00", "2026-01-02T00:00:00.5Z"),
            (time, "10:11", "10:11:00"),
            (Decimal, "007.50", 7.5),
            (IPv6Address, "0:0::1", "::1"),
            (Annotated[int, Field(ge=0)], "+7", 7),
        ],
        3,
        several=True,
    ),
)
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_row_closes_a_letter_in_any_spelling(
    path: Path, key: Any, died: Any, sent: Any, is_restarted: bool
) -> None:
    some, before = ([model("Some", id=(kind, ...), n=(int, ...))] for kind in (key, str))
    bad, good = (("/ingest/Some", [{"id": id_, "n": n}]) for id_, n in ((died, "none"), (sent, 1)))
    if is_restarted:  # of an older version, and the key had another type
        await exchange(path, before, bad)
        with duckdb.connect(str(path)) as connection:
            for statement in FORMAT_5:
                connection.execute(statement)
        bad = good
    *_, letters = await exchange(path, some, bad, good, ("/dead-letters", None))
    assert [one["status"] for one in rows(letters)] == ["recovered"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "died", "sent"), [(str, "007", "7"), (int, "7.5", 8), (datetime, "0001-01-01T00:00:00+05:00", 7)]
)
async def test_a_letter_of_another_id_stays_open(path: Path, key: Any, died: Any, sent: Any) -> None:
    steps: list[tuple[str, Any]] = [("/ingest/Some", [{"id": id_, "n": 1}]) for id_ in (died, sent)]
    steps[0][1][0]["n"] = "none"
    *_, letters = await exchange(
        path, [model("Some", id=(key, ...), n=(int, ...))], *steps, ("/dead-letters", None)
    )
    assert rows(letters)[0]["status"] == "open"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "stored", "asked"),
    [
        (UUID, "6f9619ff-8b86-d011-b42d-00cf4fc964ff", "6F9619FF-8B86-D011-B42D-00CF4FC964FF"),
        (float, 1.5, "1.50"),
        (int, 7, "007"),
        (datetime, "2026-01-01T10:00:00+00:00", "2026-01-01T11:00:00+01:00"),
        (str, "007", "007"),
    ],
)
async def test_a_record_is_shown_for_any_spelling_of_its_id(
    path: Path, key: Any, stored: Any, asked: str
) -> None:
    some = [model("Some", id=(key, ...), n=(int, ...))]
    names = [quote(one) for one in (asked, "other")]
    for value, shown in ((1, "Row in"), ("none", "Refused as Some")):
        posted = ("/ingest/Some", [{"id": stored, "n": value}])
        pages = [(f"/ui/records?id={one}", None) for one in names]
        lists = [(f"/dead-letters?id={one}", None) for one in names]
        _, found, other, listed, none = await exchange(path, some, posted, *pages, *lists)
        assert (shown in found.text, shown in other.text) == (True, False), found.text
        assert (len(rows(listed)), len(rows(none))) == (value == "none", 0)


@pytest.mark.slow
async def test_dead_letters_are_closed_by_their_id_in_any_spelling(path: Path) -> None:
    some = [model("Some", id=(str, ...), n=(int, ...))]
    bad = ("/ingest/Some", [{"id": "a", "n": "none"}])
    _, listed = await exchange(path, some, bad, ("/dead-letters", None))
    own = rows(listed)[0]["dead_letter_id"].upper()
    closing = ("/dead-letters", {"discard": [own], "reason": "a test"})
    _, found = await exchange(path, some, closing, (f"/dead-letters?id={own}", None))
    assert [one["status"] for one in rows(found)] == ["discarded"]


@pytest.mark.slow
async def test_a_model_with_aliases_takes_their_names(path: Path) -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(populate_by_name=True)
        id: str
        user_id: int = Field(alias="userId")
        note: str | None = Field(alias="theNote")

    aliased = [IngestModel("Aliased", Aliased, "Aliased")]
    first, read = await exchange(
        path,
        aliased,
        ("/ingest/Aliased", [{"id": "a", "userId": "5"}, {"id": "b", "userId": 2**70, "theNote": "x"}]),
        ("/consumption/getAliased", None),
    )
    assert [dead["index"] for dead in first.json()["dead"]] == [1]
    assert rows(read) == [{"id": "a", "user_id": 5, "note": None}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "make", "as_shown"),
    [
        (UUID, uuid4, UUID),
        (datetime, datetime.now, datetime.fromisoformat),
        (dict[str, int], lambda: {"n": next(NUMBERS)}, json.dumps),
        (list[int], lambda: [next(NUMBERS)], tuple),
    ],
)
async def test_stored_rows_each_get_a_new_default(path: Path, kind: Any, make: Any, as_shown: Any) -> None:
    posted = ("/ingest/Reading", [{"id": str(number)} for number in range(5)])
    await exchange(path, [model("Reading", id=(str, ...))], posted)
    reading = [model("Reading", id=(str, ...), n=(kind, Field(default_factory=make)))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migration, "_FILLED_AT_ONCE", 2)
        (answer,) = await exchange(path, reading, ("/consumption/getReading", None))
    assert len({as_shown(row["n"]) for row in rows(answer)}) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [Decimal | None, datetime | None, dict[str, int] | None, int | None], ids=str
)
async def test_a_factory_may_make_null(path: Path, kind: Any) -> None:
    await exchange(path, [model("Reading", id=(str, ...))], ("/ingest/Reading", [{"id": "a"}]))
    reading = [model("Reading", id=(str, ...), n=(kind, Field(default_factory=lambda: None)))]
    (answer,) = await exchange(path, reading, ("/consumption/getReading", None))
    assert rows(answer) == [{"id": "a", "n": None}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "problem"),
    [(lambda: 1 / 0, r"n fails \(ZeroDivisionError\)"), (lambda: "x", "n makes values that are no BIGINT")],
    ids=["raises", "misfit"],
)
async def test_a_failing_factory_is_named_at_the_start(path: Path, make: Any, problem: str) -> None:
    await exchange(path, [model("Reading", id=(str, ...))], ("/ingest/Reading", [{"id": "a"}]))
    reading = [model("Reading", id=(str, ...), n=(int, Field(default_factory=make)))]
    with pytest.raises(StateError, match=f"the default_factory of {problem}"):
        await exchange(path, reading)


@pytest.mark.slow
async def test_rows_keep_their_own_rowid_field(path: Path) -> None:
    posted = ("/ingest/Reading", [{"id": "a", "rowid": 1}, {"id": "b", "rowid": 0}])
    await exchange(path, [model("Reading", id=(str, ...), rowid=(int, ...))], posted)
    reading = [
        model(
            "Reading", id=(str, ...), rowid=(int, ...), n=(str, Field(default_factory=lambda: str(uuid4())))
        )
    ]
    (answer,) = await exchange(path, reading, ("/consumption/getReading", None))
    assert {row["id"]: (row["rowid"], row["n"]) for row in rows(answer)} == {"a": (1, None), "b": (0, None)}


@pytest.mark.slow
async def test_a_default_made_of_other_fields_stays_null_in_stored_rows(path: Path) -> None:
    await exchange(path, [model("Reading", id=(str, ...))], ("/ingest/Reading", [{"id": "a"}]))
    reading = [model("Reading", id=(str, ...), n=(str, Field(default_factory=lambda data: data["id"])))]
    read, posted = ("/consumption/getReading", None), ("/ingest/Reading", [{"id": "b"}])
    _, answer = await exchange(path, reading, posted, read)
    assert {row["id"]: row["n"] for row in rows(answer)} == {"a": None, "b": "b"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "old", "read"),
    few(
        [
            ({}, {"n": (int | None, None)}, {}, {"n": None}),
            ({}, {"n": (int, 5)}, {}, {"n": 5}),
            ({}, {"n": (list[str], Field(default_factory=list))}, {}, {"n": []}),
            ({}, {"n": (dict[str, int], {"a": 1})}, {}, {"n": {"a": 1}}),
            ({"n": (int, ...)}, {}, {"n": 5}, {}),
            ({"n": (int, ...)}, {"n": (float, ...)}, {"n": 5}, {"n": 5.0}),
            ({"n": (int, ...)}, {"n": (str, ...)}, {"n": 5}, {"n": "5"}),
            ({"n": (int, ...)}, {"n": (int | None, None)}, {"n": 5}, {"n": 5}),
            ({"n": (str, ...)}, {"n": (Any, ...)}, {"n": "five"}, {"n": "five"}),
            ({"n": (str, ...)}, {"n": (int | str, ...)}, {"n": "5"}, {"n": "5"}),
            ({"n": (Any, ...)}, {"n": (str, ...)}, {"n": "five"}, {"n": "five"}),
            ({"n": (float, ...)}, {"n": (int, ...)}, {"n": 5}, {"n": 5}),
            ({"n": (str, ...)}, {"n": (int, ...)}, {"n": "5"}, {"n": 5}),
            ({"n": (datetime, ...)}, {"n": (str, ...)}, {"n": "2026-01-01T02:00:00+02:00"}, None),
            ({"n": (datetime, ...)}, {"n": (Any, ...)}, {"n": "2026-01-01T02:00:00+02:00"}, None),
            ({"n": (int, ...)}, {"N": (int, ...)}, {"n": 5}, {"N": 5}),
        ],
        5,
        several=True,
    ),
)
async def test_a_change_that_keeps_every_value_is_made(
    path: Path,
    before: dict[str, Any],
    after: dict[str, Any],
    old: dict[str, Any],
    read: dict[str, Any] | None,
) -> None:
    await exchange(path, [model("Reading", **before)], ("/ingest/Reading", [{"id": "r", **old}]))
    for _ in range(2):  # the second time there is nothing to change
        (answer,) = await exchange(path, [model("Reading", **after)], ("/consumption/getReading", None))
        expected = {"n": "2026-01-01T00:00:00.000000+00:00"} if read is None else read
        assert rows(answer) == [{"id": "r", **expected}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "old", "problem"),
    [
        ({}, {"n": (int, ...)}, {}, "n is missing, and 1 rows have no value for it"),
        ({"n": (int | None, None)}, {"n": (int, ...)}, {"n": None}, "n is not allowed to be null.* 1 rows"),
        ({"n": (int | None, None)}, {"n": (int, 5)}, {"n": None}, "n is not allowed to be null.* 1 rows"),
        ({"n": (int | None, None)}, {"n": (str, ...)}, {"n": None}, "n is not allowed to be null.* 1 rows"),
        (
            {"n": (str, ...)},
            {"n": (int, ...)},
            {"n": "5.5"},
            "n is VARCHAR, declared BIGINT, and 1 rows do not fit",
        ),
        ({"n": (float, ...)}, {"n": (int, ...)}, {"n": 5.5}, "n is DOUBLE, declared BIGINT"),
        ({"n": (int, ...)}, {"n": (float, ...)}, {"n": 2**53 + 1}, "n is BIGINT, declared DOUBLE"),
        ({"n": (Any, ...)}, {"n": (str, ...)}, {"n": [5]}, "n is JSON, declared VARCHAR"),
    ],
)
async def test_a_change_that_would_lose_a_value_stops(
    path: Path, before: dict[str, Any], after: dict[str, Any], old: dict[str, Any], problem: str
) -> None:
    same = [model("Reading", **before)]
    await exchange(path, same, ("/ingest/Reading", [{"id": "r", **old}]))
    with pytest.raises(StateError, match=problem):
        await exchange(path, [model("Reading", **after)])
    (answer,) = await exchange(path, same, ("/consumption/getReading", None))
    assert rows(answer) == [{"id": "r", **old}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "old"),
    [
        (str, Literal["a'b", "{c}"], "z"),
        (int, Annotated[int, Field(ge=5)], 4),
        (int, Annotated[int, Field(lt=4)] | None, 4),
        (str, Annotated[str, Field(max_length=1)], "éé"),
        (int | None, int, None),  # a transform may have made it
    ],
)
async def test_rows_that_a_narrower_model_refuses_are_counted(
    path: Path, caplog: pytest.LogCaptureFixture, before: Any, after: Any, old: Any
) -> None:
    def made(kind: Any) -> list[IngestModel]:
        one = model("Reading", n=(kind, ...))
        return [replace(one, transform=list)] if old is None else [one]

    await exchange(path, made(before), ("/ingest/Reading", [{"id": "r", "n": old}]))
    for _ in range(2):
        caplog.clear()
        (answer,) = await exchange(path, made(after), ("/consumption/getReading", None))
        assert rows(answer) == [{"id": "r", "n": old}]
        (message,) = caplog.messages
        assert "1 rows" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [Any, object, Annotated[str | None, Field(max_length=2)], dict[str, Any] | None]
)
async def test_fields_that_take_null_keep_it_over_restarts(
    path: Path, caplog: pytest.LogCaptureFixture, kind: Any
) -> None:
    for _ in range(2):
        (answer,) = await exchange(path, [model("R", n=(kind, ...))], ("/ingest/R", [{"id": "r", "n": None}]))
        assert answer.json()["written"] == 1
    assert not caplog.messages


@pytest.mark.slow
async def test_ids_that_become_uuids_are_respelled(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    known = "6f9619ff-8b86-d011-b42d-00cf4fc964ff"
    old = [{"id": one, "n": n} for n, one in enumerate([known, known.upper(), f"{{{known}}}", "other"])]
    as_text, as_uuid = ([model("Reading", id=(kind, ...), n=(int, ...))] for kind in (str, UUID))
    read = ("/consumption/getReading", None)
    await exchange(path, as_text, *(("/ingest/Reading", [one]) for one in old))
    (before,) = await exchange(path, as_uuid, read)
    assert rows(before) == [{"id": "other", "n": 3}, {"id": known, "n": 2}]
    assert "1 rows whose id is not a UUID" in caplog.text
    _, after = await exchange(path, as_uuid, ("/ingest/Reading", [{"id": known.upper(), "n": 4}]), read)
    assert rows(after) == [{"id": known, "n": 4}, {"id": "other", "n": 3}]


@pytest.mark.slow
async def test_an_empty_table_takes_any_change(path: Path) -> None:
    await exchange(path, [model("Reading", n=(str, ...))])
    changed = [model("Reading", n=(int, ...), m=(float, ...))]
    (written,) = await exchange(path, changed, ("/ingest/Reading", [{"id": "r", "n": 1, "m": 2}]))
    assert written.json()["written"] == 1


@pytest.mark.slow
async def test_texts_that_were_kept_as_json_lose_their_quotes(path: Path) -> None:
    def open_and_close() -> None:
        Warehouse.open(path, wide).close()
        with duckdb.connect(str(path)) as connection:
            for statement in (
                *FORMAT_2,
                "ALTER TABLE Old ALTER extra TYPE VARCHAR",
                """INSERT INTO Old VALUES ('o', '"6f9619ff"', '{"x":1}', 1)""",
            ):
                connection.execute(statement)

    wide = [model("Old", ref=(UUID, ...), extra=(dict[str, int], ...))]
    await asyncio.to_thread(open_and_close)
    (answer,) = await exchange(path, wide, ("/consumption/getOld", None))
    assert rows(answer) == [{"id": "o", "ref": "6f9619ff", "extra": {"x": 1}}]


def test_tables_whose_names_differ_in_case_are_refused(path: Path) -> None:
    with pytest.raises(RegistryError, match="'Thing' and 'thing', which SQL takes for the same name"):
        Warehouse.open(path, [model("One", "Thing"), model("Two", "thing")])


def test_fields_whose_names_differ_in_case_are_refused(path: Path) -> None:
    with pytest.raises(RegistryError, match="the fields Size, size differ in case alone"):
        Warehouse.open(path, [model("One", size=(int, ...), Size=(int, ...))])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"m": (int, ...), "n": (int, ...)}, "give the fields the same order"),
        ({"n": (str, ...), "m": (int, ...)}, "give n the same name and type in both"),
        ({"n": (int, ...), "o": (int, ...)}, "give m, o the same name and type in both"),
    ],
)
def test_models_that_disagree_about_a_table_say_where(path: Path, other: dict[str, Any], said: str) -> None:
    first = model("One", "Both", n=(int, ...), m=(int, ...))
    with pytest.raises(RegistryError, match=said):
        Warehouse.open(path, [first, model("Two", "Both", **other)])


@pytest.mark.slow
def test_a_table_that_loses_its_key_is_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Warehouse.open(path, [model("Reading")]).close()
    assert not caplog.messages
    Warehouse.open(path, [model("Reading", id=(str | None, None))]).close()
    assert any("rows with the same id do not replace each other" in text for text in caplog.messages)
