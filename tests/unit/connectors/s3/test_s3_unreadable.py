"""Objects that cannot be read beside others that can."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.state import RunStatus
from tests.unit.connectors.s3.odd_s3 import Asked, OddS3, Reply, numbered, refusal, run, serving, source

BAD = ("002.txt", "020.txt")


class Refusing(OddS3):
    """Answers every GET of some keys in the same way."""

    def __init__(self, reply: Reply, bad: tuple[str, ...] = BAD, count: int = 40) -> None:
        super().__init__(numbered(count))
        self.wrong, self.bad = reply, bad

    def get(self, asked: Asked) -> Reply:
        return self.wrong if asked.key in self.bad else super().get(asked)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (refusal(403, "AccessDenied"), "ObjectForbidden"),
        (refusal(403, "SignatureDoesNotMatch"), "ObjectForbidden"),
        (Reply(403, b"<html>firewall</html>"), "ObjectForbidden"),
        (Reply(401), "ObjectForbidden"),
        (refusal(400, "KMS.DisabledException"), "ObjectForbidden"),
        (refusal(400, "InvalidRequest", "stored using Server Side Encryption"), "ObjectUnreadable"),
        (refusal(405, "MethodNotAllowed"), "ObjectUnreadable"),
        (refusal(409, "Conflict"), "ObjectUnreadable"),
        (refusal(416, "InvalidRange"), "ObjectUnreadable"),
        (Reply(418, b"teapot"), "ObjectUnreadable"),
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
    ],
    ids=lambda value: f"{value.status} {value.body[13:30].decode()}" if isinstance(value, Reply) else "",
)
async def test_an_object_that_fails_alone_becomes_a_dead_letter(
    tmp_path: Path, reply: Reply, kind: str
) -> None:
    async with serving(Refusing(reply)) as lake:
        ran = await run(source(lake), tmp_path)
    assert ran.report.ok, ran.report.error
    assert (len(ran.records), ran.dead) == (38, dict.fromkeys(BAD, kind))
    assert lake.gets() <= 38 + 2 * 12 + 1


@pytest.mark.parametrize("concurrency", [1, 32])
@pytest.mark.parametrize("reply", [refusal(403, "AccessDenied"), refusal(500, "InternalError")])
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


@pytest.mark.parametrize(
    "code", ["ExpiredToken", "InvalidAccessKeyId", "RequestTimeTooSkewed", "NoSuchBucket"]
)
async def test_what_concerns_every_object_stops_the_run(tmp_path: Path, code: str) -> None:
    async with serving(Refusing(refusal(403, code))) as lake:
        ran = await run(source(lake), tmp_path)
    assert ran.report.status is RunStatus.FAILED
    assert code in (ran.report.error or "")
    assert ran.dead == {}


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


@pytest.mark.parametrize(
    "reply",
    [refusal(503, "SlowDown"), refusal(500, "InternalError"), Reply(200, b"object", length=100), Reply(429)],
)
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


async def test_many_objects_in_a_row_that_never_work_stop_nothing(tmp_path: Path) -> None:
    bad = tuple(numbered(100))
    async with serving(Refusing(refusal(500, "InternalError"), bad, count=300)) as lake:
        ran = await run(source(lake), tmp_path)
    assert ran.report.ok, ran.report.error
    assert (len(ran.records), sorted(ran.dead)) == (200, sorted(bad))


async def test_an_outage_is_waited_out_with_few_requests(tmp_path: Path) -> None:
    class Away(OddS3):
        def get(self, asked: Asked) -> Reply:
            return refusal(503, "ServiceUnavailable") if self.gets() <= 300 else super().get(asked)

    async with serving(Away(numbered(100))) as lake:
        ran = await run(source(lake), tmp_path, outage_limit=60.0)
    assert ran.report.ok, ran.report.error
    assert (ran.arrived, ran.dead) == (list(numbered(100)), {})
