"""The same records as JSON and as columns give the same rows, dead letters and answers."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model

from connectors.curated import curate, curate_columns
from connectors.ingest.columns import encode_columns, offered_columns
from engine.service import column_bodies
from engine.service.app import create_app
from engine.service.column_bodies import MEDIA_TYPE, column_reader
from engine.service.commit import GroupCommit
from engine.service.models import IngestModel
from engine.service.settings import ServiceSettings
from engine.service.storage import Storage
from engine.service.submission import Epoch, Submission
from engine.service.tables import tables_of
from engine.service.warehouse import Warehouse
from tests.examples import examples

Record = dict[str, Any]

TYPES = {
    "id": "VARCHAR",
    "text": "VARCHAR",
    "level": "VARCHAR",
    "size": "BIGINT",
    "share": "DOUBLE",
    "ok": "BOOLEAN",
    "tags": "VARCHAR[]",
    "shares": "DOUBLE[]",
}
ARROW = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("level", pa.string()),
        ("size", pa.int64()),
        ("share", pa.float64()),
        ("ok", pa.bool_()),
        ("tags", pa.list_(pa.string())),
        ("shares", pa.list_(pa.float64())),
    ]
)
GOOD: Record = {
    "id": "a", "text": "fine", "level": "low", "size": 1,
    "share": 0.5, "ok": True, "tags": ["x"], "shares": [],
}  # fmt: skip


class Source(BaseModel):
    id: str
    text: str
    level: Literal["low", "high"] | None
    size: int
    share: float | None = None
    ok: bool
    tags: list[str]
    shares: list[float] | None


class Curated(Source):
    transform_timestamp: str


def model(name: str) -> IngestModel:
    transforms = partial(curate, field="text"), None, partial(curate_columns, field="text")
    return IngestModel(name, Source, name, Curated, *transforms)  # type: ignore[arg-type]


class Desk:
    """A service in this process with two models of one kind, one for each form of body."""

    def __init__(self, path: Path) -> None:
        models = [model("ByJson"), model("ByColumns")]
        self.warehouse = Warehouse.open(path, models)
        self._app = create_app(self.warehouse, models, ServiceSettings(max_records=1000))
        self._runner = asyncio.Runner()
        self._runner.get_loop()  # opened with the desk, not by the first test

    def post(self, name: str, body: bytes, **headers: str) -> httpx.Response:
        sent = {"X-ODW-Results": "per-record"} | {
            key.replace("_", "-"): text for key, text in headers.items()
        }

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post(f"/ingest/{name}", content=body, headers=sent)

        return self._runner.run(send())

    def columns(self, body: bytes, **headers: str) -> httpx.Response:
        return self.post("ByColumns", body, Content_Type=MEDIA_TYPE, **headers)

    def stored(self, name: str, prefix: str) -> list[Any]:
        """Rows and dead letters of these ids, in order."""
        with self.warehouse.reading() as reader:
            rows = reader.execute(
                f'SELECT * EXCLUDE (transform_timestamp, _seq) FROM "{name}" '
                "WHERE starts_with(id, ?) ORDER BY ALL",
                [prefix],
            ).fetchall()
            letters = reader.execute(
                "SELECT record_id, original_record, error_type, error_message, source, status "
                "FROM _odw_dead_letters WHERE model = ? AND contains(original_record, ?) ORDER BY ALL",
                [name, prefix],
            ).fetchall()
        return [rows, letters]

    def close(self) -> None:
        self._runner.close()
        self.warehouse.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    opened = Desk(tmp_path_factory.mktemp("columns") / "warehouse.duckdb")
    yield opened
    opened.close()


def stream(records: Sequence[Record], schema: pa.Schema = ARROW, batches: int = 1, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.RecordBatch.from_pylist(list(records), schema)
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        for _ in range(batches):
            out.write_batch(batch)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def answer_of(response: httpx.Response) -> tuple[int, Any]:
    if response.status_code != 200:
        return response.status_code, response.text
    answer = response.json()
    for dead in answer["dead"]:
        del dead["dead_letter_id"]
    return 200, answer


_prefixes = (f"{number}/" for number in count())

texts = st.sampled_from(["fine", "[DLQ] bad", "", "a\0b", "\N{SNOWMAN}", 'quo"te\\']) | st.text(max_size=5)
doubles = st.floats() | st.sampled_from([0.0, -0.0, 1e22, 5e-324, float("nan"), float("inf")])
columns_only = st.fixed_dictionaries(
    {
        "id": st.sampled_from("abc"),
        "text": texts | st.none(),
        "level": st.sampled_from(["low", "high", "other", None]),
        "size": st.integers(-(2**63), 2**63 - 1),
        "share": doubles | st.none(),
        "ok": st.booleans(),
        "tags": st.lists(texts | st.none(), max_size=3),
        "shares": st.lists(doubles, max_size=3) | st.none(),
    }
)
good_only = st.fixed_dictionaries(
    {
        "id": st.sampled_from("abc"),
        "text": texts,
        "level": st.sampled_from(["low", "high", None]),
        "size": st.integers(-(2**63), 2**63 - 1),
        "share": st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        "ok": st.booleans(),
        "tags": st.lists(texts, max_size=3),
        "shares": st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3) | st.none(),
    }
)


@pytest.mark.slow
@settings(max_examples=examples(20), deadline=None)
@given(records=st.lists(good_only, min_size=1, max_size=4) | st.lists(columns_only, max_size=4))
def test_columns_are_judged_as_json_is(desk: Desk, records: list[Record]) -> None:
    prefix = next(_prefixes)
    named = [{name: record[name] for name in TYPES} | {"id": prefix + record["id"]} for record in records]
    as_json = json.dumps(named, separators=(",", ":"), ensure_ascii=False).encode()
    if b"NaN" not in as_json and b"Infinity" not in as_json:
        as_json = orjson.dumps(named)

    by_json = answer_of(desk.post("ByJson", as_json))
    by_columns = answer_of(desk.columns(stream(named)))

    assert by_columns == by_json
    assert desk.stored("ByColumns", prefix) == desk.stored("ByJson", prefix)


odd: st.SearchStrategy[Any] = st.sampled_from(
    [2**63, 1, 1.5, True, "1", None, float("nan"), b"x", "\ud800", ["a"], [1.5], [None], {}]
)
changes = st.dictionaries(st.sampled_from([*TYPES, "unknown"]), odd, max_size=2)


@pytest.mark.slow
@settings(max_examples=examples(50), deadline=None)
@given(records=st.lists(st.tuples(good_only, changes).map(lambda pair: {**pair[0], **pair[1]}), max_size=3))
def test_the_sink_sends_columns_only_where_json_says_the_same(records: list[Record]) -> None:
    content = encode_columns(records, TYPES)

    if content is not None:
        batch = pa.ipc.open_stream(content).read_all()
        assert orjson.dumps(batch.to_pylist()) == orjson.dumps(records)


def test_good_records_are_sent_as_columns() -> None:
    records = [GOOD, GOOD | {"id": "b", "level": None, "share": None, "shares": None}]

    content = encode_columns(records, TYPES)

    assert content is not None
    assert pa.ipc.open_stream(content).read_all().to_pylist() == records
    assert encode_columns([GOOD, dict(reversed(GOOD.items()))], TYPES) is None


@pytest.mark.slow
def test_the_answer_offers_the_columns_that_the_sink_sends(desk: Desk) -> None:
    answer = desk.post("ByJson", b"[]")

    assert offered_columns(answer.headers["x-odw-columns"]) == TYPES
    assert offered_columns("id VARCHAR, at TIMESTAMPTZ") == {}


def test_a_repeat_is_a_duplicate_and_another_body_is_refused(desk: Desk) -> None:
    body, other = stream([GOOD | {"id": "key/1"}]), stream([GOOD | {"id": "key/2"}])

    answers = [desk.columns(one, Idempotency_Key="key-1") for one in (body, body, other)]

    assert [answer.status_code for answer in answers] == [200, 200, 422]
    assert [answer.json()["duplicate"] for answer in answers[:2]] == [False, True]


@pytest.mark.slow
def test_a_replay_replaces_and_closes_the_dead_letter(desk: Desk) -> None:
    desk.post("ByColumns", orjson.dumps([GOOD | {"id": "replay/1", "text": None}]))
    desk.columns(stream([GOOD | {"id": "replay/1", "size": 2}]), X_ODW_Delivery="fresh")
    desk.columns(stream([GOOD | {"id": "replay/1", "size": 3}]), X_ODW_Delivery="replay")

    (row,), (letter,) = desk.stored("ByColumns", "replay/")
    assert row[:4] == ("replay/1", "fine", "low", 3)
    assert letter[-1] == "recovered"


def without_schema() -> bytes:
    """A stream whose first message is of a kind that there is not."""
    body = bytearray(stream([GOOD]))
    message = bytes(body[8:])  # after a mark and a length
    (root,) = struct.unpack_from("<I", message)
    body[8 + root + column_bodies._offset(message, root, 1)] = 99
    return bytes(body)


BROKEN = {
    "no schema": without_schema(),
    "names that are not UTF-8": stream([GOOD]).replace(b"share", b"sh\xffre"),
    "garbage": b"garbage" * 9,
    "nothing": b"",
    "cut off": stream([GOOD])[:-400],
    "two batches": stream([GOOD], batches=2),
    "no batch": stream([GOOD], batches=0),
    "compressed": stream([GOOD] * 100, compression="lz4"),
    "a column less": stream([GOOD], pa.schema(list(ARROW)[:-1])),
    "another type": stream([GOOD], ARROW.set(3, pa.field("size", pa.int32()))),
    "texts that are not UTF-8": stream([GOOD | {"text": "gut"}]).replace(b"gut", b"g\xfft"),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_a_body_that_is_not_one_batch_is_refused(desk: Desk, body: bytes) -> None:
    answer = desk.columns(body)

    assert (answer.status_code, answer.text[:15]) == (400, "Invalid Arrow: ")


def test_columns_that_old_formats_compress_are_never_unpacked(desk: Desk) -> None:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    batch = pa.RecordBatch.from_pylist([GOOD], ARROW)
    with pa.ipc.new_stream(sink, ARROW, options=options) as writer:
        writer.write_batch(batch, custom_metadata={"ARROW:experimental_compression": "zstd"})

    answer = desk.columns(sink.getvalue().to_pybytes())

    assert (answer.status_code, "before Arrow 1.0" in answer.text) == (400, True)


def test_more_records_than_a_request_may_have_are_refused(desk: Desk) -> None:
    assert desk.columns(stream([GOOD] * 1001)).status_code == 413


class Constrained(BaseModel):
    id: Annotated[str, Field(max_length=3)]


class Stripped(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    id: str


class Loose(BaseModel):
    id: str
    anything: Any


@pytest.mark.parametrize("kind", [Constrained, Stripped, Loose])
def test_models_that_arrow_does_not_carry_have_json_alone(kind: type[BaseModel]) -> None:
    one = IngestModel("One", kind, "One")

    assert column_reader(one, tables_of([one])["One"], 100) is None


class Nameless(BaseModel):
    name: str


def test_rows_that_have_no_ids_are_sent_in_one_form() -> None:
    one = IngestModel("One", Nameless, "One")

    assert column_reader(one, tables_of([one])["One"], 100) is None


@pytest.mark.parametrize(
    "names", [[f"measured_value_{n}" for n in range(100)], ["a\nb"]], ids=["long", "line"]
)
def test_columns_that_a_header_cannot_carry_are_not_offered(names: list[str]) -> None:
    fields: dict[str, Any] = dict.fromkeys(names, (int, 0))
    one = IngestModel("One", create_model("Wide", id=(str, ...), **fields), "One")

    assert column_reader(one, tables_of([one])["One"], 100) is None


def test_without_pyarrow_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    table = tables_of([model("One")])["One"]
    assert column_reader(model("One"), table, 100) is not None

    monkeypatch.setattr(column_bodies, "has_arrow", lambda: False)

    assert column_reader(model("One"), table, 100) is None


class Item(BaseModel):
    id: str
    size: int


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    tables = tables_of([IngestModel("Item", Item, "Item")])
    opened = Storage(tmp_path_factory.mktemp("groups") / "warehouse.duckdb", tables.values(), "1GB")
    opened.open()
    yield opened
    opened.close()


requests = st.tuples(
    st.sampled_from(["rows", "columns"]),
    st.sampled_from(["fresh", "replay", "foreign"]),
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=3),
)


@pytest.mark.slow
@settings(max_examples=examples(20), deadline=None)
@given(before=st.lists(requests, max_size=1), group=st.lists(requests, min_size=1, max_size=4))
def test_of_rows_and_columns_in_one_commit_the_last_wins(
    storage: Storage, before: list[tuple[str, Any, list[str]]], group: list[tuple[str, Any, list[str]]]
) -> None:
    table = tables_of([IngestModel("Item", Item, "Item")])["Item"]
    commit = GroupCommit(storage.cursor(), [table])
    prefix, sizes = next(_prefixes), count()
    newest: dict[object, object] = {}

    def submission(form: str, delivery: Any, ids: list[str]) -> Submission:
        rows = [{"id": prefix + one, "size": next(sizes)} for one in ids]
        newest.update((row["id"], row["size"]) for row in rows)
        columns = pa.Table.from_pylist(rows) if form == "columns" else None
        sent = [] if form == "columns" else rows
        return Submission(model="Item", table=table, rows=sent, columns=columns, delivery=delivery)

    for part in filter(None, (before, group)):
        encoded = [commit.encode(submission(*one)) for one in part]
        receipts = commit.commit(encoded)
        assert [one.written for one in receipts] == [len(ids) for _, _, ids in part]  # type: ignore[union-attr]

    with storage.reading() as reader:
        found = reader.execute(
            "SELECT id, arg_max(size, _seq) FROM Item WHERE starts_with(id, ?) GROUP BY id", [prefix]
        ).fetchall()
    assert dict(found) == newest


guarded = st.tuples(requests, st.integers(0, 2), st.booleans())


@pytest.mark.series  # the test above is its fast sibling
@settings(max_examples=examples(20), deadline=None)
@given(before=st.lists(guarded, max_size=2), group=st.lists(guarded, min_size=1, max_size=4))
def test_epochs_and_newer_rows_count_for_columns_too(
    storage: Storage, before: list[Any], group: list[Any]
) -> None:
    table = tables_of([IngestModel("Item", Item, "Item")])["Item"]
    commit = GroupCommit(storage.cursor(), [table])

    def play(form: str | None) -> tuple[list[Any], list[Any]]:
        """What is stored and answered when all requests have one form, or each its own."""
        prefix, sizes, receipts = next(_prefixes), count(), []
        for part in filter(None, (before, group)):
            with storage.reading() as reader:
                newest = reader.execute("SELECT coalesce(max(_seq), 0) FROM Item").fetchall()[0][0]
            encoded = []
            for (own, delivery, ids), epoch, is_guarded in part:
                rows = [{"id": prefix + one, "size": next(sizes)} for one in ids]
                is_columns = (form or own) == "columns"
                work = Submission(
                    model="Item",
                    table=table,
                    rows=[] if is_columns else rows,
                    columns=pa.Table.from_pylist(rows) if is_columns else None,
                    delivery=delivery,
                    key=f"{prefix}{next(sizes)}",
                    epoch=Epoch(prefix, epoch),
                    unless_newer=newest if is_guarded else None,
                )
                encoded.append(commit.encode(work))
            receipts += [one.written for one in commit.commit(encoded)]  # type: ignore[union-attr]
        with storage.reading() as reader:
            found = reader.execute(
                "SELECT id[-1:], size FROM Item WHERE starts_with(id, ?) ORDER BY ALL", [prefix]
            ).fetchall()
        return found, receipts

    assert play("rows") == play("columns") == play(None)
