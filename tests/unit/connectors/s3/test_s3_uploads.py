"""The sink `s3` with servers that fail during uploads, or do not support multipart uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from connectors.s3 import S3Connection
from connectors.s3 import sink as s3_sink
from connectors.s3.sink import S3Sink, S3SinkParams
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import ComponentError, FatalError, TransientError
from engine.execution.engine import Engine
from engine.testing import MemorySource, ScriptedClock, linear_plan
from tests.unit.connectors.s3.odd_s3 import Asked, OddS3, Reply, refusal, serving

PAGE = Reply(200, b"<!DOCTYPE html><html><body>Sign in</body></html>", {"Content-Type": "text/html"})
LOST = Reply(
    200, b"<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>Later.</Message></Error>"
)
NOTHING = Reply(200)
UNKNOWN = refusal(501, "NotImplemented")


class Uploads(OddS3):
    """A server that takes objects, whole or in parts, but answers one step with `odd`, so many `times`."""

    def __init__(
        self, step: str = "", odd: Reply = NOTHING, *, times: int = 1000, done: bool = False
    ) -> None:
        super().__init__({})
        self.step, self.odd, self.times, self.done = step, odd, times, done
        self.uploads: dict[str, dict[int, bytes]] = {}

    def reply(self, asked: Asked) -> Reply:
        step = _step(asked)
        if step != self.step or not self.times:
            return self.take(step, asked)
        self.times -= 1
        if self.done:
            self.take(step, asked)
        return self.odd

    def take(self, step: str, asked: Asked) -> Reply:
        upload = asked.query.get("uploadId", "")
        match step:
            case "begin":
                self.uploads["1"] = {}
                name = "InitiateMultipartUploadResult"
                return Reply(200, f"<{name}><UploadId>1</UploadId></{name}>".encode())
            case "part":
                self.uploads[upload][int(asked.query["partNumber"])] = asked.body
                return Reply(200, headers={"ETag": 'W/"part"'})
            case "complete" if upload not in self.uploads:
                return refusal(404, "NoSuchUpload")
            case "complete":
                self.objects[asked.key] = b"".join(
                    data for _, data in sorted(self.uploads.pop(upload).items())
                )
                return Reply(
                    200, b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
                )
            case "abort":
                self.uploads.pop(upload, None)
                return Reply(204)
            case "put":
                self.objects[asked.key] = asked.body
                return Reply(200, headers={"ETag": self.etag(asked.key)})
            case "delete" if self.objects.pop(asked.key, None) is not None:
                return Reply(204)
        return super().reply(asked)

    @property
    def written(self) -> list[bytes]:
        return [data for key, data in self.objects.items() if "_odw/" not in key]


def _step(asked: Asked) -> str:
    if asked.method == "POST":
        return "begin" if "uploads" in asked.query else "complete"
    if asked.method == "PUT":
        return "part" if "uploadId" in asked.query else "put"
    if asked.method == "DELETE":
        return "abort" if "uploadId" in asked.query else "delete"
    return "read"


def sink(lake: Uploads, **params: Any) -> S3Sink:
    keys = {"access_key": SecretStr("key"), "secret_key": SecretStr("secret")}
    connection = S3Connection(endpoint=lake.url, region="us-east-1", **keys)  # type: ignore[arg-type]
    made = S3Sink(S3SinkParams(path="s3://data/out", **params), connection)
    made.ctx = Context("p", "n", "run-1")
    return made


async def write(lake: Uploads) -> None:
    """One file of 23 bytes, as a complete run."""
    async with serving(lake), sink(lake) as made:
        await made.write(Batch([{"id": "0123456789abc"}], KeyRange("k/", 0, 1)))
        await made.run_completed()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_sink, "PART_BYTES", 10)


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_sink, "PART_BYTES", 1000)


@pytest.mark.slow
@pytest.mark.parametrize("odd", [LOST, PAGE, NOTHING], ids=["error", "page", "nothing"])
@pytest.mark.parametrize("step", ["begin", "complete"])
async def test_an_upload_answered_with_anything_else_is_none(step: str, odd: Reply) -> None:
    lake = Uploads(step, odd)
    with pytest.raises(TransientError, match=r"InternalError|instead of <"):
        await write(lake)
    assert (lake.written, lake.uploads) == ([], {})


@pytest.mark.slow
@pytest.mark.parametrize("step", ["put", "part", "delete"])
@pytest.mark.parametrize("odd", [LOST, PAGE], ids=["error", "page"])
async def test_an_error_with_status_200_stores_nothing(
    step: str, odd: Reply, monkeypatch: pytest.MonkeyPatch
) -> None:
    if step != "part":
        whole(monkeypatch)
    lake = Uploads(step, odd)
    with pytest.raises(TransientError, match=r"InternalError|<html> instead of nothing"):
        await write(lake)
    assert len(lake.written) == (step == "delete")


@pytest.mark.slow
async def test_a_server_may_say_more_than_s3_does(monkeypatch: pytest.MonkeyPatch) -> None:
    whole(monkeypatch)
    lake = Uploads("put", Reply(200, b"<PutObjectResponse><ETag>x</ETag></PutObjectResponse>"), done=True)
    await write(lake)
    assert lake.written == [b'{"id":"0123456789abc"}\n']


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "odd"),
    [("begin", UNKNOWN), ("begin", refusal(405, "MethodNotAllowed")), ("part", NOTHING)],
    ids=["501", "405", "no ETag"],
)
async def test_a_server_without_uploads_in_parts_gets_it_whole(step: str, odd: Reply) -> None:
    lake = Uploads(step, odd)
    await write(lake)
    assert (lake.written, lake.uploads) == ([b'{"id":"0123456789abc"}\n'], {})
    assert list(lake.objects) == [key for key in lake.objects if "_odw/" not in key]


@pytest.mark.slow
async def test_a_lost_answer_lets_the_upload_begin_again() -> None:
    lake = Uploads("complete", refusal(404, "NoSuchUpload"), done=True)
    with pytest.raises(TransientError, match="NoSuchUpload"):
        await write(lake)
    assert lake.written == [b'{"id":"0123456789abc"}\n']


@pytest.mark.slow
@pytest.mark.parametrize(
    ("odd", "kind", "says"),
    [
        (Reply(404, b"nope"), FatalError, "not found .404.: check the address"),
        (refusal(404, "NoSuchBucket"), FatalError, "no such bucket: check the address"),
        (refusal(403, "AccessDenied"), FatalError, "grant .*s3:PutObject"),
        (refusal(503, "SlowDown"), TransientError, "SlowDown"),
    ],
    ids=["404", "bucket", "403", "503"],
)
async def test_a_refused_object_says_what_to_do(
    odd: Reply, kind: type[ComponentError], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole(monkeypatch)
    with pytest.raises(kind, match=says):
        await write(Uploads("put", odd))


@pytest.mark.slow
async def test_files_that_are_gone_already_count_as_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole(monkeypatch)
    lake = Uploads("delete", refusal(404, "NoSuchKey"))
    await write(lake)
    assert len(lake.written) == 1


async def test_the_marker_of_a_folder_is_not_a_file() -> None:
    lake = Uploads()
    lake.objects["out/"] = b""
    async with serving(lake), sink(lake, mode="error"):
        pass


@pytest.mark.slow
async def test_a_throttled_end_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(monkeypatch)
    lake = Uploads("delete", refusal(503, "SlowDown"), times=2)
    async with serving(lake), Engine(state_dir=tmp_path, clock=ScriptedClock(jump=True)) as engine:
        report = await engine.run(linear_plan(MemorySource([[{"id": 1}]]), sink(lake)))
    assert report.status == "completed", report
    assert list(lake.objects.values()) == [b'{"id":1}\n']
