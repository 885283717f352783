"""Any JSON value is stored or becomes a dead letter alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, Field

from engine.service.app import create_app
from engine.service.models import IngestModel
from engine.service.settings import ServiceSettings
from engine.service.warehouse import Warehouse
from tests.examples import WITH_FIXTURES, examples
from tests.series import few

PER_RECORD = {"X-ODW-Results": "per-record"}


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Mixed(Enum):
    ONE = 1
    TWO = "two"


class Inner(BaseModel):
    at: datetime | None = None
    price: Decimal | None = None
    more: dict[str, Any] = {}


class Wide(BaseModel):
    id: str
    text: str | None = None
    whole: int | None = None
    real: float | None = None
    flag: bool | None = None
    at: datetime | None = None
    day: date | None = None
    clock: time | None = None
    span: timedelta | None = None
    ref: UUID | None = None
    address: IPv4Address | None = None
    network: IPv6Network | None = None
    raw: bytes | None = None
    size: Size | None = None
    mixed: Mixed | None = None
    choice: Literal[1, "b", True] | None = None
    anything: Any = None
    extra: dict[str, Any] | None = None
    counts: dict[int, float] | None = None
    numbers: list[int] | None = None
    refs: list[UUID] | None = None
    kinds: set[str] | None = None
    pair: tuple[int, str] | None = None
    either: int | str | None = None
    inner: Inner | None = None
    inners: list[Inner] | None = None


class Exact(BaseModel):
    """Decimals take a way of their own, and with them the whole model."""

    id: str
    price: Decimal
    prices: list[Decimal] = []
    either: int | Decimal | None = None


class Aliased(BaseModel):
    """Aliases take the way through instances."""

    id: str
    whole: int | None = Field(alias="wholeNumber")
    at: datetime | None = Field(default=None, alias="AT")
    anything: Any = Field(default=None, validation_alias="any")


FIELDS = [name for model in (Wide, Aliased) for name in model.model_fields if name != "id"]
FIELDS += ["wholeNumber", "AT", "any", "unknown", "", "_seq", "rowid", "__proto__", "a.b", "\0"]

ODD = (
    "NaN",
    "-Infinity",
    "1e999",
    "1e-999",
    "-0",
    "-0.0",
    str(2**63),
    str(-(2**63) - 1),
    str(2**64),
    str(2**80),
    "9" * 400,
    "9" * 5000,
    "0." + "1" * 60,
    '"' + "9" * 19 + '"',
    '"-' + "9" * 19 + '"',
    '"1_000"',
    '"\u0661\u0662"',
    '"inf"',
    '"nan"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"a\\u0000b"',
    '"0001-01-01T00:00:00+05:00"',
    '"9999-12-31T23:59:59.999999-05:00"',
    '"0001-01-01"',
    '"9999-12-31"',
    '"0000-00-00"',
    '"23:59:60"',
    "-62135596801.0",
    "253402300800.5",
    "1e300",
    "true",
    "null",
    "[]",
    "{}",
    "[" * 120 + "]" * 120,
    "[" * 300 + "]" * 300,
    '{"a":' * 300 + "1" + "}" * 300,
    "[" * 2000 + "]" * 2000,
    '{"": 1, "a.b": 2, "\\u0000": 3, "_seq": 4, "\\ud800": 5}',
    f'{{"x": {2**80}}}',
    '{"at": "0001-01-01T00:00:00+05:00"}',
    f'{{"at": "0001-01-01T00:00:00+05:00", "price": 1e999, "more": {{"n": {2**70}}}}}',
    '{"1": 1e999}',
    '[1, "x"]',
    '["x", "x"]',
)
"""JSON texts, and what writers of JSON make of what it has no word for."""

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text()
    | st.datetimes(timezones=st.timezones()).map(str)
    | st.uuids().map(str)
    | st.decimals(allow_nan=False).map(str),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
texts = st.sampled_from(ODD) | json_values.map(json.dumps)
records = st.dictionaries(st.sampled_from(FIELDS), texts, max_size=4)


class Desk:
    """A service in this process, without a socket."""

    def __init__(self, path: Path) -> None:
        models = [IngestModel(one.__name__, one, one.__name__) for one in (Wide, Exact, Aliased)]
        self.warehouse = Warehouse.open(path, models)
        self._app = create_app(self.warehouse, models, ServiceSettings(max_records=1000))
        self._runner = asyncio.Runner()
        self._runner.get_loop()  # opened with the desk, not by the first test

    def post(self, name: str, *bodies: str, **headers: str) -> list[httpx.Response]:
        """The answers to requests that are sent at once."""

        async def send() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                posts = (
                    client.post(f"/ingest/{name}", content=body.encode(), headers=PER_RECORD | headers)
                    for body in bodies
                )
                return await asyncio.gather(*posts)

        return self._runner.run(send())

    def get(self, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self._app)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.get(path)

        return self._runner.run(ask())

    def close(self) -> None:
        self._runner.close()
        self.warehouse.close()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    opened = Desk(tmp_path_factory.mktemp("values") / "warehouse.duckdb")
    yield opened
    opened.close()


def record(identifier: str, fields: dict[str, str]) -> str:
    pairs = {"id": json.dumps(identifier), **fields}.items()
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in pairs) + "}"


def check(answer: httpx.Response, count: int) -> list[dict[str, Any]]:
    """Every record has its fate; returns the dead."""
    assert answer.status_code == 200, answer.text[:300]
    results = answer.json()
    assert results["written"] + len(results["dead"]) == count
    dead: list[dict[str, Any]] = results["dead"]
    return dead


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Wide", "Aliased"])
@settings(max_examples=examples(25), deadline=None, suppress_health_check=WITH_FIXTURES)
@given(odd=st.lists(records, min_size=1, max_size=6))
def test_any_value_is_stored_or_a_letter_of_its_own(desk: Desk, name: str, odd: list[dict[str, str]]) -> None:
    good = record("good", {"wholeNumber": "1"})
    bodies = [f"[{good}, {record('odd', fields)}]" for fields in odd]
    for answer in desk.post(name, *bodies):
        assert [one["index"] for one in check(answer, 2)] in ([], [1])
    together = f"[{good}, {', '.join(record('odd', fields) for fields in odd)}, {good}]"
    (answer,) = desk.post(name, together)
    assert {one["index"] for one in check(answer, len(odd) + 2)} <= set(range(1, len(odd) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("text", ["1e999", "[-1e999]", '{"a": {"b": 1e999}}'])
def test_a_number_beyond_every_float_never_becomes_null(desk: Desk, text: str) -> None:
    (answer,) = desk.post("Aliased", f"[{record('endless', {'wholeNumber': '1', 'any': text})}]")
    assert [one["source"] for one in check(answer, 1)] == ["table"]


@pytest.mark.slow
@pytest.mark.parametrize("text", few(ODD, 8))
def test_odd_values_in_every_field_leave_the_neighbours_alone(desk: Desk, text: str) -> None:
    names = [name for name in Wide.model_fields if name != "id"] + ["unknown"]
    strangers = [f"[{record(f's{number}', {})}]" for number in range(8)]
    odd = [f"[{record('odd', {name: text})}]" for name in names]
    answers = desk.post("Wide", *strangers, *odd, *strangers)
    for answer in (*answers[:8], *answers[-8:]):
        assert check(answer, 1) == []
    for answer in answers[8:-8]:
        check(answer, 1)


@pytest.mark.slow
@pytest.mark.parametrize("text", ODD)
def test_odd_values_are_refused_as_a_whole_without_results(desk: Desk, text: str) -> None:
    for name in ("anything", "whole", "at", "unknown"):
        (answer,) = desk.post("Wide", record("odd", {name: text}), **{"X-ODW-Results": "none"})
        assert answer.status_code in (200, 400)
        assert answer.text == "SUCCESS" or answer.text.startswith("Invalid JSON: ")


@pytest.mark.parametrize("text", few(ODD, 8))
def test_a_dead_letter_keeps_the_record_digit_by_digit(desk: Desk, text: str) -> None:
    sent = record(f"kept-{ODD.index(text)}", {"whole": '"none"', "unknown": text})
    (answer,) = desk.post("Wide", sent)
    (dead,) = check(answer, 1)
    page = desk.get(f"/dead-letters?id={dead['dead_letter_id']}")
    (letter,) = page.json()["items"]
    kept = letter["original_record"]
    assert sent in page.text or kept["value"] == sent


@pytest.mark.parametrize(
    "digits",
    [
        "1234567890123456789012345678.901234567890123456789",
        "0.10000000000000000555111512312578270211815834045410156250001",
        "12345678901234567890123",
        "1.10",
        "1e2",
    ],
)
def test_decimals_keep_their_digits(desk: Desk, digits: str) -> None:
    body = record("d", {"price": digits, "prices": f'[{digits}, "{digits}"]', "either": digits})
    (answer,) = desk.post("Exact", body)
    assert check(answer, 1) == []
    with desk.warehouse.reading() as reader:
        found = reader.execute(
            "SELECT price, prices, either FROM Exact ORDER BY _seq DESC LIMIT 1"
        ).fetchone()
    assert found is not None
    assert Decimal(found[0]) == Decimal(digits)
    assert [Decimal(one) for one in json.loads(found[1])] == [Decimal(digits)] * 2
    assert Decimal(str(json.loads(found[2]))) == Decimal(digits)


class Secretive(BaseModel):
    id: str
    address: IPv4Address | None = None
    network: IPv6Network | None = None
    ref: UUID | None = None
    day: date | None = None
    at: datetime | None = None
    price: Decimal | None = None
    size: Size | None = None
    extra: dict[str, int] | None = None
    shouted: Annotated[str, AfterValidator(lambda text: _refuse(text.upper()))] | None = None
    kind: Annotated[Inner | Wide, Field(union_mode="left_to_right")] | None = None


def _refuse(text: str) -> str:
    raise ValueError(f"{text} will not do")


SECRETS = st.from_regex(r"[A-Z][a-z]{3,8}-[0-9]{4}", fullmatch=True)


@pytest.mark.slow
@settings(max_examples=examples(25), deadline=None)
@given(secret=SECRETS, field=st.sampled_from([name for name in Secretive.model_fields if name != "id"]))
def test_a_message_quotes_no_value(secret: str, field: str) -> None:
    from engine.service.validation import BodyValidator

    validator = BodyValidator(Secretive)
    for value in (secret, {secret: secret}, [secret], {"id": "a", "at": secret}):
        body = json.dumps({"id": "a", field: value}).encode()
        for message in validator.read(body).failures.values():
            assert secret.casefold() not in message.casefold()
            assert secret[:4].casefold() not in message.casefold()


@pytest.mark.parametrize(
    "body",
    [b"[" + b"{}," * 5000 + b"{}]", b"[" + b"1," * 5000 + b"1]", b"[" + b'"a,",' * 1000 + b"[]]"],
)
def test_more_records_than_allowed_are_refused_unread(desk: Desk, body: bytes) -> None:
    (answer,) = desk.post("Wide", body.decode())
    assert (answer.status_code, answer.text) == (
        413,
        "Too many records in one request. Maximum is 1000",
    )


@pytest.mark.slow
def test_as_many_records_as_allowed_are_taken(desk: Desk) -> None:
    body = "[" + ", ".join(record(f"m{number}", {"numbers": "[1, 2, 3]"}) for number in range(1000)) + "]"
    assert [check(answer, 1000) for answer in desk.post("Wide", body)] == [[]]


def test_more_values_than_allowed_are_refused_unread(desk: Desk) -> None:
    (answer,) = desk.post("Wide", record("v", {"numbers": "[" + "1," * 1_000_000 + "1]"}))
    assert (answer.status_code, answer.text) == (413, "Too many values in one request. Maximum is 1000000")


@pytest.mark.slow
def test_an_answer_about_many_dead_records_is_bounded(desk: Desk) -> None:
    (answer,) = desk.post("Wide", json.dumps([{"x" * 500: 1}] * 1000))
    assert len(check(answer, 1000)) == 1000
    assert len(answer.content) < 500 * 1000
