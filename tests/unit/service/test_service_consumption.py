"""The consumption routes without a socket: envelope, paging, order, filters."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import orjson
import pytest

from engine.service.models import Row


async def put(client: httpx.AsyncClient, name: str, rows: list[Row]) -> None:
    answer = await client.post(f"/ingest/{name}", content=orjson.dumps(rows))
    assert answer.status_code == 200


async def get(client: httpx.AsyncClient, name: str, query: str = "") -> tuple[list[Row], int]:
    answer = await client.get(f"/consumption/{name}{query}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["items", "total"]
    return body["items"], body["total"]


def event(identifier: str, stamp: str = "1", **fields: object) -> Row:
    basic = {"id": identifier, "event_name": "pageview", "distinct_id": "user_1", "project_id": "p"}
    return basic | {"transform_timestamp": stamp} | fields


def patient(identifier: str, name: str, doctor: str, age: int = 40) -> Row:
    basic = {"id": identifier, "patient_name": name, "doctor": doctor, "patient_age": age}
    return basic | {"transform_timestamp": "1"}


@pytest.fixture
def staged() -> Callable[[int], list[Row]]:
    def build(count: int) -> list[Row]:
        return [
            {"id": f"u{n:05}", "source_file_path": f"s3://b/{n}", "transform_timestamp": "1"}
            for n in range(count)
        ]

    return build


@pytest.mark.slow
async def test_a_table_that_is_not_there_is_404(client: httpx.AsyncClient) -> None:
    for name in ("getBlobs", "getLogs", "getNothing"):
        answer = await client.get(f"/consumption/{name}")
        assert (answer.status_code, answer.text) == (404, "Consumption API not found.")


@pytest.mark.slow
async def test_an_empty_table_is_an_empty_page(client: httpx.AsyncClient) -> None:
    assert await get(client, "getEvents") == ([], 0)


@pytest.mark.slow
async def test_items_have_all_columns_of_the_model_and_no_other(client: httpx.AsyncClient) -> None:
    await put(client, "Event", [event("a")])
    items, total = await get(client, "getevents", "?tag=Events&unknown=1")
    assert (items, total) == ([event("a", ip_address=None)], 1)


@pytest.mark.slow
async def test_newest_first_then_by_id_and_pages_never_overlap(client: httpx.AsyncClient) -> None:
    await put(client, "Event", [event(i, stamp) for i, stamp in zip("dbcae", "12221", strict=True)])
    seen = []
    for offset in range(0, 6, 2):
        items, total = await get(client, "getEvents", f"?limit=2&offset={offset}")
        assert total == 5
        seen += [item["id"] for item in items]
    assert seen == ["a", "b", "c", "d", "e"]
    assert [item["id"] for item in (await get(client, "getEvents", "?offset=3"))[0]] == ["d", "e"]
    assert await get(client, "getEvents", "?limit=0") == ([], 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "?limit=" + "0" * 5000 + "5",
        "?limit=4611686018427387903&offset=4611686018427387903",
        "?limit=&offset=",
        "?id=%00&id=%ED%A0%80",
        "?event_name=%00",
        "?order=id&after=%00",
    ],
)
async def test_odd_parameters_are_answered(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/consumption/getEvents{query}")).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    "query",
    [
        "?limit=-1",
        "?limit=ten",
        "?offset=1.5",
        "?limit=" + "9" * 40,
        "?limit=9223372036854775807",
        "?limit=1_0",
        "?limit=%2B1",
        "?limit=1e3",
        "?limit=٣",
        "?offset=" + "9" * 5000,
    ],
)
async def test_wrong_pages_are_400(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/consumption/getEvents{query}")).status_code == 400


@pytest.mark.slow
async def test_events_are_filtered_by_equality(client: httpx.AsyncClient) -> None:
    await put(
        client,
        "Event",
        [
            event("a"),
            event("b", event_name="signup"),
            event("c", distinct_id="u2"),
            event("d", project_id="q"),
        ],
    )
    for query, expected in (
        ("?event_name=signup", ["b"]),
        ("?event_name=sign", []),
        ("?distinct_id=u2", ["c"]),
        ("?project_id=q", ["d"]),
        ("?event_name=pageview&project_id=p", ["a", "c"]),
        ("?event_name=", ["a", "b", "c", "d"]),
        ("?id=a&id=d&id=zzz", ["a", "d"]),
        ("?event_name=x' OR '1'='1", []),
    ):
        items, total = await get(client, "getEvents", query)
        assert [item["id"] for item in items] == expected
        assert total == len(expected)


@pytest.mark.slow
async def test_medical_rows_are_strings_and_filtered_by_substring(client: httpx.AsyncClient) -> None:
    await put(client, "Medical", [patient("a", "Ann Lee", "Dr. Roe"), patient("b", "Bo%b", "Dr. Lee", 7)])
    items, _ = await get(client, "getMedical")
    assert [item["patient_age"] for item in items] == ["40", "7"]
    for query, expected in (
        ("?patient_name=lee", ["a"]),
        ("?doctor=LEE", ["b"]),
        ("?doctor=dr.", ["a", "b"]),
        ("?patient_name=%25", ["b"]),
        ("?patient_age=4", ["a"]),
        ("?patient_name=lee&doctor=lee", []),
    ):
        assert [item["id"] for item in (await get(client, "getMedical", query))[0]] == expected


async def read_through(client: httpx.AsyncClient, name: str, query: str = "") -> list[str]:
    seen: list[str] = []
    while True:
        after = f"&after={seen[-1]}" if seen else ""
        items, _ = await get(client, name, f"?order=id&fields=id&limit=2{after}{query}")
        assert all(list(item) == ["id"] for item in items)
        if not items:
            return seen
        seen += [str(item["id"]) for item in items]


@pytest.mark.slow
async def test_reading_by_id_is_stable_under_commits(
    client: httpx.AsyncClient,
) -> None:
    await put(client, "Event", [event(i, stamp) for i, stamp in zip("dbcae", "12221", strict=True)])
    first, total = await get(client, "getEvents", "?order=id&limit=2")
    assert ([item["id"] for item in first], total) == (["a", "b"], 5)
    # `d` moves to the front of the newest: a page by offset would miss it now
    await put(client, "Event", [event("d", "9"), event("aa", "9")])
    rest, total = await get(client, "getEvents", "?order=id&after=b")
    assert ([item["id"] for item in rest], total) == (["c", "d", "e"], 3)
    assert await read_through(client, "getEvents") == ["a", "aa", "b", "c", "d", "e"]


@pytest.mark.slow
async def test_rows_whose_id_another_table_has_can_be_left_out(
    client: httpx.AsyncClient, staged: Callable[[int], list[Row]]
) -> None:
    rows = staged(5)
    await put(client, "UnstructuredData", rows)
    everything = [row["id"] for row in rows]
    assert await read_through(client, "getUnstructuredData", "&without=Medical") == everything
    await put(client, "Medical", [patient("u00001", "Ann", "Lee"), patient("u00004", "Bob", "Lee")])
    left = await read_through(client, "getUnstructuredData", "&without=Medical")
    assert left == ["u00000", "u00002", "u00003"]
    paths = "&source_file_path=b/2&without=Medical"
    assert await read_through(client, "getUnstructuredData", paths) == ["u00002"]


@pytest.mark.slow
async def test_some_columns_can_be_asked_for(client: httpx.AsyncClient) -> None:
    await put(client, "Medical", [patient("a", "Ann", "Lee", 7)])
    items, _ = await get(client, "getMedical", "?order=id&fields=patient_age,id")
    assert items == [{"patient_age": "7", "id": "a"}]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("order=age", "order must be id"),
        ("order=id&event_nam=x", "unknown parameters: event_nam; known: after, distinct_id, event_name"),
        ("order=id&without=Medicals", "without must name a table with ids, got Medicals"),
        ("order=id&fields=id,x%22", 'unknown columns in fields: x"'),
    ],
)
async def test_a_lenient_read_reports_what_is_not_understood(
    client: httpx.AsyncClient, query: str, said: str
) -> None:
    answer = await client.get(f"/consumption/getEvents?{query}")
    assert answer.status_code == 400
    assert said in answer.text


@pytest.mark.slow
async def test_without_a_limit_every_row_comes_however_many(
    client: httpx.AsyncClient, staged: Callable[[int], list[Row]]
) -> None:
    rows = staged(6_000)
    await put(client, "UnstructuredData", rows)
    items, total = await get(client, "getUnstructuredData")
    assert (items, total) == (rows, 6_000)
    assert len((await get(client, "getUnstructuredData", "?limit=2000"))[0]) == 2_000
    assert len((await get(client, "getUnstructuredData", "?limit=4500"))[0]) == 4_500


@pytest.mark.slow
async def test_dirty_table_shows_each_id_once(
    client: httpx.AsyncClient,
) -> None:
    await put(client, "Event", [event("a"), event("b")])
    await put(client, "Event", [event("a", event_name="signup")])
    items, total = await get(client, "getEvents", "?event_name=signup")
    assert (len(items), total) == (1, 1)
    assert (await get(client, "getEvents"))[1] == 2
    assert (await get(client, "getEvents", "?event_name=pageview"))[1] == 1
