"""The sandbox from a user's view: a child process with real protocols that leaves nothing behind."""

from __future__ import annotations

import asyncio
import base64
import datetime
import http.client
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest
from aiobotocore.session import get_session
from pydantic import BaseModel

from engine.errors import ConfigError, ServiceError
from engine.sandbox.child import ChildProcess
from engine.sandbox.client import sandbox
from engine.sandbox.server import DEFAULT_SAMPLES
from engine.sandbox.sharing import LeaseRefusedError, offer_leases, take_lease
from engine.service.server import running_service

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes and ports through /proc"),
    pytest.mark.cold,  # and at children, which have to be its own
]

DEADLINE = 300  # seconds; only a broken sandbox ever waits that long
MAIN = "import sys; from engine.sandbox.server import main; sys.exit(main(sys.argv[1:]))"


def start(*services: str, extra: Sequence[str] = ()) -> ChildProcess:
    command = [sys.executable, "-c", MAIN, "--services", ",".join(services), *extra]
    return ChildProcess(command, os.environ)


def own_children() -> set[int]:
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # that thread has ended meanwhile
            found.update(map(int, path.read_text().split()))
    return found


def own_sandbox_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sandbox-")]


def wait_gone(pid: int) -> None:
    """Wait until the process has ended; the descriptor becomes readable at that moment."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        readable, _, _ = select.select([descriptor], [], [], DEADLINE)
        assert readable, f"process {pid} still runs"
    finally:
        os.close(descriptor)


def listening_addresses(port: int) -> set[str]:
    """The local addresses, as /proc writes them, on which anything listens on this port."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    local = [row[1].split(":") for row in rows if row[3] == "0A"]
    return {address for address, number in local if int(number, 16) == port}


@pytest.mark.slow
async def test_the_lake_lists_and_serves_every_sample_byte_for_byte(tmp_path: Path) -> None:
    memos = [path for path in (DEFAULT_SAMPLES / "memos").rglob("*") if path.is_file()]
    expected = {path.relative_to(DEFAULT_SAMPLES).as_posix(): path.read_bytes() for path in memos}
    async with sandbox({"s3"}, tmp_path) as found:
        lake = found["s3"]
        client_context = get_session().create_client(
            "s3",
            endpoint_url=lake["endpoint"],
            aws_access_key_id=lake["access_key"],
            aws_secret_access_key=lake["secret_key"],
            region_name=lake["region"],
        )
        async with client_context as s3:
            pages = s3.get_paginator("list_objects_v2").paginate(
                Bucket="unstructured-data", Prefix="memos/", PaginationConfig={"PageSize": 20}
            )
            listed = [entry async for page in pages for entry in page["Contents"]]

            async def get(key: str) -> tuple[str, bytes]:
                answer = await s3.get_object(Bucket="unstructured-data", Key=key)
                async with answer["Body"] as body:
                    return key, await body.read()

            bodies = dict(await asyncio.gather(*(get(entry["Key"]) for entry in listed)))
    assert bodies == expected
    assert {entry["Key"]: entry["Size"] for entry in listed} == {
        key: len(data) for key, data in expected.items()
    }


@pytest.mark.slow
async def test_the_model_answers_the_real_client(tmp_path: Path) -> None:
    import openai  # takes more than a second, and most workers do not need it

    async with sandbox({"llm"}, tmp_path) as found:
        model = found["llm"]
        async with openai.AsyncOpenAI(
            base_url=model["base_url"], api_key=model["api_key"], max_retries=0
        ) as client:
            assert [entry.id async for entry in client.models.list()] == [model["model"]]
            completion = await client.chat.completions.create(
                model=model["model"], messages=[{"role": "user", "content": "Doctor: Dr. Real"}]
            )
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(
                    model="other", messages=[{"role": "user", "content": "x"}]
                )
        async with openai.AsyncOpenAI(base_url=model["base_url"], api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
    assert json.loads(completion.choices[0].message.content or "")["doctor"] == "Dr. Real"
    assert completion.system_fingerprint == "sandbox-stand-in"


class Memo(BaseModel):
    patient_name: str | None
    patient_age: int | None
    scheduled_appointment_date: datetime.date | None


@pytest.mark.series
async def test_the_real_client_gets_a_scan_as_a_structured_output(tmp_path: Path) -> None:
    import openai  # takes more than a second, and most workers do not need it

    scan = DEFAULT_SAMPLES / "memos" / "scans" / "scan_47.png"
    truth = json.loads((DEFAULT_SAMPLES / "truth.json").read_bytes())["memos/scans/scan_47.png"]
    url = "data:image/png;base64," + base64.b64encode(scan.read_bytes()).decode()
    async with sandbox({"llm"}, tmp_path) as found:
        model = found["llm"]
        async with openai.AsyncOpenAI(
            base_url=model["base_url"], api_key=model["api_key"], max_retries=0
        ) as client:
            completion = await client.chat.completions.parse(
                model=model["model"],
                messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
                response_format=Memo,
            )
    memo = completion.choices[0].message.parsed
    assert memo is not None
    assert memo.patient_name == truth["patient_name"]
    assert memo.patient_age == int(truth["patient_age"])
    assert memo.scheduled_appointment_date == datetime.date.fromisoformat(truth["scheduled_appointment_date"])


@pytest.mark.series
async def test_only_the_asked_services_are_announced(tmp_path: Path) -> None:
    async with sandbox(["llm"], tmp_path) as found:
        assert set(found) == {"llm"}


@pytest.mark.slow
async def test_ports_are_bound_on_loopback_only(tmp_path: Path) -> None:
    async with sandbox({"s3", "llm"}, tmp_path) as found:
        for address in (found["s3"]["endpoint"], found["llm"]["base_url"]):
            assert listening_addresses(urlsplit(address).port or 0) == {"0100007F"}


@pytest.mark.slow
async def test_nothing_is_left_when_the_context_ends(tmp_path: Path) -> None:
    before = own_children()
    async with sandbox({"llm"}, tmp_path):
        assert len(own_children() - before) == 1
    assert own_children() == before
    assert own_sandbox_threads() == []


@pytest.mark.slow
async def test_nothing_is_left_when_the_start_is_cancelled(tmp_path: Path) -> None:
    before = own_children()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with sandbox({"s3"}, tmp_path):
            pytest.fail("a cancelled start must not get here")
    assert scope.cancelled_caught
    assert own_children() == before
    assert own_sandbox_threads() == []


async def test_a_child_that_is_too_slow_is_ended_and_named(tmp_path: Path) -> None:
    before = own_children()
    with pytest.raises(ServiceError, match="was not ready within 0 seconds"):
        async with sandbox({"s3"}, tmp_path, deadline=0):
            pytest.fail("it cannot be ready at once")
    assert own_children() == before


@pytest.mark.slow
async def test_a_child_that_dies_at_its_start_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(
        ServiceError, match=r"exited with code 2 before it was ready:\n(.|\n)*no sample documents"
    ):
        async with sandbox({"s3"}, tmp_path, tmp_path):
            pytest.fail("there are no samples in an empty folder")


@pytest.mark.slow
async def test_an_error_of_the_work_tells_when_the_sandbox_had_died(tmp_path: Path) -> None:
    before = own_children()

    async def work_while_the_sandbox_dies() -> None:
        async with sandbox({"llm"}, tmp_path):
            (child,) = own_children() - before
            os.kill(child, signal.SIGKILL)
            wait_gone(child)
            raise RuntimeError("connection refused")

    with pytest.raises(RuntimeError) as caught:
        await work_while_the_sandbox_dies()
    assert caught.value.__notes__ == ["the sandbox exited with code -9: "]


async def test_an_unknown_service_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown sandbox service 'sqs'; choose from s3, llm, ingest"):
        async with sandbox({"sqs"}, tmp_path):
            pytest.fail("there is no such service")


@pytest.mark.series
def test_the_child_ends_cleanly_when_its_input_closes() -> None:
    child = start("s3", "llm")
    assert set(json.loads(child.ready.result(DEADLINE))) == {"s3", "llm"}
    assert child.stop(DEADLINE) == 0
    assert child.error_tail() == ""


@pytest.mark.series
def test_sigterm_ends_the_child_cleanly_while_its_input_is_open() -> None:
    child = start("llm")
    child.ready.result(DEADLINE)
    os.kill(child.pid, signal.SIGTERM)
    wait_gone(child.pid)
    assert child.stop() == 0


@pytest.mark.series
def test_without_standard_input_a_signal_still_ends_it() -> None:
    child = start("llm", extra=["--no-stdin"])
    child.ready.result(DEADLINE)
    assert child.stop(grace=0) == 0


@pytest.mark.series
def test_a_child_does_not_get_the_terminals_interrupt() -> None:
    child = start("llm")
    child.ready.result(DEADLINE)
    try:
        assert os.getpgid(child.pid) != os.getpgid(0)
        assert os.getsid(child.pid) != os.getsid(0)
    finally:
        child.stop()


@pytest.mark.slow
def test_a_killed_parent_takes_the_sandbox_with_it() -> None:
    script = (
        "import os, sys, time\n"
        "from engine.sandbox.child import ChildProcess\n"
        f"child = ChildProcess([sys.executable, '-c', {MAIN!r}, '--services', 's3,llm'], os.environ)\n"
        f"child.ready.result({DEADLINE})\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
    wait_gone(child)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--services", "sqs"], "unknown sandbox service 'sqs'"),
        (["--services", ""], "no sandbox service named"),
        (["--port", "1"], "unknown argument '--port'"),
    ],
)
def test_wrong_arguments_end_with_code_two(arguments: list[str], message: str) -> None:
    child = ChildProcess([sys.executable, "-c", MAIN, *arguments], os.environ)
    with pytest.raises(EOFError):
        child.ready.result(DEADLINE)
    assert child.stop() == 2
    assert message in child.error_tail()


def health_of(url: str) -> int:
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=DEADLINE)) as connection:
        connection.request("GET", "/health")
        return connection.getresponse().status


@pytest.mark.slow
async def test_a_running_serve_is_used_instead_of_a_second_one(tmp_path: Path) -> None:
    before = own_children()
    async with running_service(tmp_path) as service:
        async with sandbox({"ingest"}, tmp_path) as found:
            assert found == {"ingest": {"url": service.url}}
            assert own_children() == before
        assert await asyncio.to_thread(health_of, service.url) == 200


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@pytest.mark.series
async def test_a_service_file_left_by_a_killed_process_does_not_count(tmp_path: Path) -> None:
    ended = await asyncio.to_thread(ended_process)
    folder = tmp_path / "warehouse"
    folder.mkdir()
    (folder / "service.json").write_text(json.dumps({"url": "http://127.0.0.1:9", "pid": ended}))
    async with sandbox({"ingest"}, tmp_path) as found:
        assert found["ingest"]["url"] != "http://127.0.0.1:9"
        assert await asyncio.to_thread(health_of, found["ingest"]["url"]) == 200


@pytest.mark.slow
async def test_shared_sandbox_service_lives_until_its_last_user_ends(tmp_path: Path) -> None:
    before = own_children()
    async with AsyncExitStack() as second:
        async with sandbox({"ingest"}, tmp_path) as first_found:
            (child,) = own_children() - before
            found = await second.enter_async_context(sandbox({"ingest"}, tmp_path))
            assert found == first_found
            assert own_children() - before == {child}
        assert await asyncio.to_thread(health_of, found["ingest"]["url"]) == 200
    await asyncio.to_thread(wait_gone, child)
    assert list((tmp_path / "warehouse").glob("*.json")) == []


@pytest.mark.series
async def test_a_run_that_ends_first_leaves_the_others_service_alone(tmp_path: Path) -> None:
    async with sandbox({"ingest"}, tmp_path) as found:
        async with sandbox({"ingest"}, tmp_path):
            pass
        assert await asyncio.to_thread(health_of, found["ingest"]["url"]) == 200


@pytest.mark.slow
async def test_runs_that_start_at_the_same_moment_share_one_service(tmp_path: Path) -> None:
    everybody = asyncio.Barrier(3)

    async def run() -> str:
        async with sandbox({"ingest"}, tmp_path) as found:
            await everybody.wait()
            return found["ingest"]["url"]

    assert len(set(await asyncio.gather(run(), run(), run()))) == 1


async def test_a_service_that_is_ending_grants_no_lease(tmp_path: Path) -> None:
    async with offer_leases(tmp_path) as leases:
        first = await asyncio.to_thread(take_lease, tmp_path, os.getpid())
        assert first is not None
        assert leases.are_open
        first.close()
        await leases.ended()
        with pytest.raises(LeaseRefusedError):
            await asyncio.to_thread(take_lease, tmp_path, os.getpid())
    assert take_lease(tmp_path, os.getpid()) is None
