"""Unreadable objects among readable ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.state import RunStatus
from tests.series import few
from tests.unit.connectors.s3.odd_s3 import Asked, OddS3, Reply, numbered, refusal, run, serving, source

BAD = ("002.txt", "020.txt")


class Raw(Reply):
    """What is sent instead of HTTP."""

    def __init__(self, sent: bytes) -> None:
        super().__init__(0, sent)

    def encode(self) -> bytes:
        return self.body


class Refusing(OddS3):
    """Answers every GET of some keys in the same way."""

    def __init__(self, reply: Reply, bad: tuple[str, ...] = BAD, count: int = 40) -> None:
        super().__init__(numbered(count))
        self.wrong, self.bad = reply, bad

    def get(self, asked: Asked) -> Reply:
        return self.wrong if asked.key in self.bad else super().get(asked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "kind"),
    few(
        [
            (refusal(403, "AccessDenied"), "ObjectForbidden"),
            (refusal(403, "SignatureDoesNotMatch"), "ObjectForbidden"),
            (Reply(403, b"<html>firewall</html>"), "ObjectForbidden"),
            (Reply(401), "ObjectForbidden"),
            (refusal(400, "KMS.DisabledException"), "ObjectForbidden"),
            (refusal(400, "InvalidRequest", "stored using Server Side Encryption"), "ObjectForbidden"),
            (refusal(405, "MethodNotAllowed"), "ObjectUnreadable"),
            (refusal(409, "Conflict"), "ObjectUnreadable"),
            (refusal(416, "InvalidRange"), "ObjectUnreadable"),
            (Reply(418, b"teapot"), "ObjectUnreadable"),
            (Reply(307, headers={"Location": "http://localhost:1/elsewhere"}), "ObjectUnreadable"),
            (Reply(301), "ObjectUnreadable"),
            (Reply(304), "ObjectUnreadable"),
            (Reply(410), "ObjectVanished"),
            (refusal(403, "InvalidObjectState"), "ObjectArchived"),
            (refusal(500, "InternalError"), "ObjectUnreadable"),
            (Reply(502, b"<html>bad gateway</html>"), "ObjectUnreadable"),
            (refusal(503, "SlowDown"), "ObjectUnreadable"),
            (Reply(429), "ObjectUnreadable"),
            (refusal(501, "NotImplemented"), "ObjectUnreadable"),
            (Reply(200, b"object 2", cut_after=3), "ObjectUnreadable"),
            (Reply(200, b"short"), "ObjectUnreadable"),
            (Reply(200, b"much more than was listed"), "ObjectUnreadable"),
            (Reply(200, b"object 2", length=10**6), "ObjectUnreadable"),
            (Reply(200, b"<html>login</html>", chunked=True), "ObjectUnreadable"),
            (Reply(200, b"object 2", {"x-amz-meta-name": "caf\udce9"}), ""),
            (Reply(200, b"object 2", {"Content-Type": ";;=;charset"}), ""),
            (Reply(200, b"", length=0), "ObjectUnreadable"),
            (Reply(204), "ObjectUnreadable"),
            (Raw(b"\x16\x03\x01 no http at all\r\n\r\n"), "ObjectUnreadable"),
            (Raw(b""), "ObjectUnreadable"),
            (Raw(b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\nobject 20"), "ObjectUnreadable"),
        ],
        8,
        several=True,
    ),
    ids=lambda value: f"{value.status} {value.body[13:30]!r}" if isinstance(value, Reply) else "",
)
async def test_an_object_that_fails_alone_becomes_a_dead_letter(
    tmp_path: Path, reply: Reply, kind: str
) -> None:
    async with serving(Refusing(reply)) as lake:
        ran = await run(source(lake), tmp_path)
    assert ran.report.ok, ran.report.error
    if not kind:  # it is odd, but what was listed
        assert ran.dead.keys() <= {"020.txt"}
        return
    assert (len(ran.records), ran.dead) == (38, dict.fromkeys(BAD, kind))
    assert lake.gets() <= 38 + 2 * 12 + 3


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", few([32, 1], 1))
@pytest.mark.parametrize("reply", few([refusal(403, "AccessDenied"), refusal(500, "InternalError")], 1))
@pytest.mark.parametrize(
    "bad",
    [
        tuple(numbered(20)),
        tuple(numbered(40))[20:],
        tuple(numbered(40))[:39],
        tuple(numbered(40))[1:],
    ],
    ids=["first half", "second half", "all but the last", "all but the first"],
)
async def test_one_readable_object_is_delivered_wherever_it_is(
    tmp_path: Path, reply: Reply, bad: tuple[str, ...], concurrency: int
) -> None:
    async with serving(Refusing(reply, bad)) as lake:
        ran = await run(source(lake, concurrency=concurrency), tmp_path)
    assert ran.report.ok, ran.report.error
    assert (len(ran.records), len(ran.dead)) == (40 - len(bad), len(bad))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reply", "status"),
    [(refusal(403, "AccessDenied"), RunStatus.FAILED), (refusal(500, "InternalError"), RunStatus.FAILED)],
)
async def test_a_run_stops_when_no_object_can_be_read(
    tmp_path: Path, reply: Reply, status: RunStatus
) -> None:
    async with serving(Refusing(reply, tuple(numbered(40)))) as lake:
        ran = await run(source(lake), tmp_path)
    assert not ran.report.ok
    assert (ran.records, ran.dead) == ([], {})


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidAccessKeyId", "RequestTimeTooSkewed", "NoSuchBucket"]
)
async def test_what_concerns_every_object_stops_the_run(tmp_path: Path, code: str) -> None:
    async with serving(Refusing(refusal(403, code))) as lake:
        ran = await run(source(lake), tmp_path)
    assert ran.report.status is RunStatus.FAILED
    assert code in (ran.report.error or "")
    assert ran.dead == {}


@pytest.mark.slow
async def test_withdrawn_credentials_stop_the_run_without_dead_letters(tmp_path: Path) -> None:
    class Withdrawn(OddS3):
        def get(self, asked: Asked) -> Reply:
            return refusal(403, "AccessDenied") if self.gets() > 100 else super().get(asked)

    async with serving(Withdrawn(numbered(400))) as lake:
        ran = await run(source(lake), tmp_path)
    assert ran.report.status is RunStatus.FAILED
    assert len(ran.records) < 110
    assert len(ran.dead) < 40


async def test_only_what_is_new_is_unreadable_and_the_run_still_completes(tmp_path: Path) -> None:
    async with serving(Refusing(refusal(403, "AccessDenied"), (), count=30)) as lake:
        first = await run(source(lake, mode="changed"), tmp_path)
        lake.objects["new.txt"] = b"new"
        lake.bad = ("new.txt",)  # type: ignore[attr-defined]
        for _ in range(2):
            again = await run(source(lake, mode="changed"), tmp_path)
            assert again.report.ok, again.report.error
            assert (again.records, again.dead) == ([], {"new.txt": "ObjectForbidden"})
    assert len(first.records) == 30


PASSING = [
    refusal(503, "SlowDown"),
    refusal(500, "InternalError"),
    Reply(200, b"object", length=100),
    Reply(429),
]


@pytest.mark.slow
@pytest.mark.parametrize("reply", few(PASSING, 1))
async def test_a_retry_of_one_object_asks_for_no_other_again(tmp_path: Path, reply: Reply) -> None:
    class Once(OddS3):
        def get(self, asked: Asked) -> Reply:
            flaky = asked.key.endswith(("3.txt", "7.txt"))
            return reply if flaky and self.gets(asked.key) == 1 else super().get(asked)

    async with serving(Once(numbered(200))) as lake:
        ran = await run(source(lake), tmp_path)
    assert ran.report.ok, ran.report.error
    assert (ran.arrived, ran.dead) == (list(numbered(200)), {})
    assert lake.gets() == 200 + 40
    assert ran.report.nodes[0].retries == 40


@pytest.mark.slow
@pytest.mark.parametrize(("down", "longest"), [(False, 0.5), (True, 60.0)])
async def test_a_hint_to_wait_is_followed_as_far_as_nothing_gets_through(
    tmp_path: Path, down: bool, longest: float
) -> None:
    busy = refusal(503, "SlowDown")
    busy.headers["Retry-After"] = "60"

    class Busy(OddS3):
        def get(self, asked: Asked) -> Reply:
            first = self.gets(asked.key) <= (2 if down else 1)
            return busy if first and (down or asked.key.endswith("3.txt")) else super().get(asked)

    async with serving(Busy(numbered(100))) as lake:
        ran = await run(source(lake, concurrency=8), tmp_path, outage_limit=600.0)
    assert ran.report.ok, ran.report.error
    assert (len(ran.records), ran.dead) == (100, {})
    assert longest - 0.1 <= max(ran.slept) <= longest + 0.1


@pytest.mark.slow
async def test_every_fault_at_once_costs_no_byte_and_few_requests(tmp_path: Path) -> None:
    faults = [
        refusal(503, "SlowDown"), Reply(429), refusal(500, "InternalError"), Raw(b""), Reply(200, b"sho"),
        Reply(200, b"object", length=50), Reply(200, b"garbage", {"ETag": '"other"'}),
    ]  # fmt: skip

    class Faulty(OddS3):
        def get(self, asked: Asked) -> Reply:
            number = int(asked.key[:3])
            if number % 50 == 49:
                return faults[number // 50 % 6]
            if number % 50 < 7 and self.gets(asked.key) == 1:
                return faults[number % 50]
            return super().get(asked)

    lake = Faulty({f"{number:03d}.txt": f"object {number}".encode() * 30 for number in range(600)})
    async with serving(lake):
        ran = await run(source(lake), tmp_path)
    changed = {f"{number:03d}.txt" for number in range(600) if number % 50 == 6}
    never = {f"{number:03d}.txt" for number in range(600) if number % 50 == 49}
    assert ran.report.ok, ran.report.error
    assert set(ran.dead) == changed | never
    assert {ran.dead[name] for name in changed} == {"ObjectChanged"}
    assert {ran.dead[name] for name in never} == {"ObjectUnreadable"}
    for record in ran.records:
        assert record["content"] == f"object {int(record['file_path'][-7:-4])}" * 30
    assert len(ran.records) == 600 - len(changed | never)
    faulty = 12 * 6 + sum(lake.gets(name) for name in never)
    assert lake.gets() - faulty <= 600 * 1.02


@pytest.mark.slow
async def test_many_objects_in_a_row_that_never_work_stop_nothing(tmp_path: Path) -> None:
    bad = tuple(numbered(100))
    async with serving(Refusing(refusal(500, "InternalError"), bad, count=300)) as lake:
        ran = await run(source(lake), tmp_path)
    assert ran.report.ok, ran.report.error
    assert (len(ran.records), sorted(ran.dead)) == (200, sorted(bad))


@pytest.mark.slow
@pytest.mark.parametrize("count", few([7, 8, 9, 23, 24, 25], 3))
@pytest.mark.parametrize("kind", ["document", "lines"])
async def test_an_outage_that_takes_all_tries_of_an_object_kills_none(
    tmp_path: Path, count: int, kind: str
) -> None:
    class Away(OddS3):
        def get(self, asked: Asked) -> Reply:
            return refusal(503, "ServiceUnavailable") if self.gets() <= count else super().get(asked)

    async with serving(Away(numbered(8))) as lake:
        ran = await run(source(lake, concurrency=2, format=kind), tmp_path, outage_limit=60.0)
    assert ran.report.ok, ran.report.error
    assert (ran.report.tally.written, ran.dead) == (8, {})


@pytest.mark.slow
async def test_an_outage_is_waited_out_with_few_requests(tmp_path: Path) -> None:
    class Away(OddS3):
        def get(self, asked: Asked) -> Reply:
            return refusal(503, "ServiceUnavailable") if self.gets() <= 300 else super().get(asked)

    async with serving(Away(numbered(100))) as lake:
        ran = await run(source(lake), tmp_path, outage_limit=60.0)
    assert ran.report.ok, ran.report.error
    assert (ran.arrived, ran.dead) == (list(numbered(100)), {})
