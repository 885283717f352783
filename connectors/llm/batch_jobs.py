"""Calls as lines of jobs of an endpoint's Batch API: half the price, and answers within a day.

Requests that arrive at about the same time go into one job. Each gets the status and body of its line, and is
then handled like a direct answer. Before a job is created, the journal records the job and line of each
question. So a new attempt uses the answers that an earlier one ordered, and nothing is paid for twice: a job
whose id was not stored is found by its file.

    https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import uuid4

import anyio

from connectors.llm.json_text import parse, written
from connectors.llm.prompt import Prompt
from connectors.llm.refusals import Cause, Refusal, cause_of, text_of, without_texts
from connectors.llm.settings import LlmConnection, LlmParams
from connectors.llm.transport import EndpointError, why_unreachable
from connectors.llm.waiting import wait_seconds
from engine.contract.clock import Clock
from engine.contract.journal import PENDING, JournalEntry
from engine.errors import ComponentError, FatalKind, StateError, StoppingError, TransientError

if TYPE_CHECKING:
    import openai

    from connectors.llm.client import Contact

_URL: Final = "/v1/chat/completions"
_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_MAX_BYTES: Final = 50_000_000  # of a job's file; OpenAI takes 200 MB
_LONGEST: Final = 26 * 3600.0  # seconds; the endpoint ends a job after 24 h
_MAX_FAILURES: Final = 20  # failed polls of a job in a row
_MAX_LISTED: Final = 1_000
_KEPT: Final = 4  # jobs of earlier attempts whose answers are held in memory
_LOOK: Final = 1.0  # seconds between two checks whether the run is stopping
_CANCELLING: Final = 10.0  # seconds

Line = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body of an answer."""

_MAX_QUOTED: Final = 300  # characters of an endpoint's own words
_OF_DOCUMENTS: Final = frozenset({Cause.TOO_LONG, Cause.FILTERED})
_SYSTEMIC: Final = frozenset({Cause.KEY, Cause.MONEY, Cause.MODEL})
_KINDS: Final[Mapping[Cause, FatalKind]] = {Cause.KEY: "auth", Cause.MONEY: "budget"}

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Ordered:
    """An answer that an earlier attempt has ordered: its slot, its nonce and the number of slots."""

    line: Line
    slot: str
    nonce: str
    slots: int


class _UnknownError(EndpointError):
    """The endpoint does not know the requested object."""


@dataclass(slots=True)
class _Request:
    body: dict[str, Any]
    prompt: Prompt
    answer: Line | None = None


@dataclass(slots=True)
class _Job:
    """A job of requests. `token` is its name in the journal; `file` and `id` are the endpoint's ids."""

    token: str
    requests: list[_Request] = field(default_factory=list)
    nbytes: int = 0
    file: str = ""
    id: str = ""
    error: ComponentError | None = None
    done: anyio.Event = field(default_factory=anyio.Event)


class BatchJobs:
    """The jobs of one model at one endpoint.

    Args:
        contact: its `journal` stores what has been ordered; jobs are not waited for once `draining` is true,
            since a resume fetches their answers.
    """

    def __init__(
        self,
        sdk: openai.AsyncOpenAI,
        connection: LlmConnection,
        params: LlmParams,
        clock: Clock,
        contact: Contact,
    ) -> None:
        self._sdk = sdk
        self._url = connection.address
        self._key = connection.api_key.get_secret_value()
        self._reached = contact.patience is None
        self._params = params
        self._clock = clock
        self._contact = contact
        self._open: _Job | None = None
        self._running: dict[str, None] = {}
        self._read: set[str] = set()
        self._collected: dict[str, dict[str, Line]] = {}
        self._collecting = anyio.Lock()

    async def ask(self, body: dict[str, Any], prompt: Prompt) -> Line:
        """Return the answer to one request, once its job has ended.

        Raises:
            TransientError: the job cannot be created or polled now; StoppingError: the run is stopping.
            EndpointError: the endpoint has no Batch API, or refuses the key or the account.
            StateError: the journal cannot be used.
        """
        request = _Request(body, prompt)
        job = self._open
        leads = job is None
        if job is None:
            job = self._open = _Job(uuid4().hex)
        job.requests.append(request)
        job.nbytes += len(json.dumps(body))
        if len(job.requests) >= self._params.batch_requests or job.nbytes >= _MAX_BYTES:
            self._open = None
        if leads:
            await self._lead(job)
        else:
            await job.done.wait()
        if job.error is not None:
            raise job.error
        assert request.answer is not None
        self._read |= set(prompt.questions.values())
        return request.answer

    async def ordered(self, questions: Collection[str]) -> dict[str, Ordered]:
        """Return what earlier attempts have ordered, by question. Raises the same errors as `ask`."""
        wanted = {note_key(one): one for one in questions if one not in self._read}
        entries = await self._look_up(wanted)
        found: dict[str, Ordered] = {}
        for key, entry in entries.items():
            place = json.loads(entry.answer)
            # entries of earlier versions have no file
            lines = await self._of_earlier(
                place["job"], place.get("file", ""), ours=self._contact.journal.is_ours(entry)
            )
            line = lines.get(place["line"])
            self._read.add(wanted[key])
            if line is not None:
                found[wanted[key]] = Ordered(line, place["slot"], place["nonce"], place["slots"])
        return found

    async def close(self) -> None:
        """Cancel unfinished jobs, if the node is configured to."""
        if not self._params.batch_cancel:
            return
        with anyio.move_on_after(_CANCELLING, shield=True), suppress(StateError):
            await self._contact.lease.confirm()  # or another process waits for the jobs
            for job_id in list(self._running):
                try:
                    await self._api(self._sdk.batches.cancel(job_id))
                except ComponentError:
                    continue  # it ends within a day anyway

    async def _lead(self, job: _Job) -> None:
        """Submit a job and wait for it, on behalf of all its requests."""
        try:
            await self._gather(job)
            await self._submit(job)
            lines = await self._wait(job.id, job.requests)
            for number, request in enumerate(job.requests):
                request.answer = lines.get(str(number)) or _unanswered("the job ended without this line")
        except ComponentError as error:
            job.error = error
        except BaseException:
            job.error = TransientError("the batch job was given up")
            raise
        finally:
            if self._open is job:
                self._open = None
            job.done.set()

    async def _gather(self, job: _Job) -> None:
        """Wait until no further request has arrived for a while."""
        count = 0
        while self._open is job and len(job.requests) > count and not self._contact.draining():
            count = len(job.requests)
            await self._rest(self._params.batch_linger)
        if self._open is job:
            self._open = None

    async def _submit(self, job: _Job) -> None:
        if self._contact.draining():
            raise StoppingError("the run was told to stop before the batch job was created")
        content = "".join(
            f"{json.dumps({'custom_id': str(number), 'method': 'POST', 'url': _URL, 'body': request.body})}\n"
            for number, request in enumerate(job.requests)
        )
        file = ("requests.jsonl", content.encode(), "application/jsonl")
        uploaded = await self._api(self._sdk.files.create(file=file, purpose="batch"), job.requests)
        job.file = uploaded.id
        await self._contact.lease.confirm()  # gathering and uploading may have taken long
        await self._keep(_pending_entries(job))
        # they may have been in a job before; look up again where their answers are now
        self._read.difference_update(*(one.prompt.questions.values() for one in job.requests))
        created = await self._api(
            self._sdk.batches.create(input_file_id=job.file, endpoint=_URL, completion_window="24h"),
            job.requests,
        )
        job.id = created.id
        self._running[job.id] = None
        await self._keep([JournalEntry(_id_key(job.token), job.id, PENDING)])

    async def _of_earlier(self, token: str, file: str, *, ours: bool) -> dict[str, Line]:
        """Return the lines of a job of an earlier attempt, by number; none if it was never created.

        `ours`: this run began it. Another run may be waiting for its own job.
        """
        async with self._collecting:
            if token not in self._collected:
                if self._contact.draining():
                    raise StoppingError("the run was told to stop before a batch job was looked at")
                job_id = await self._id_of(token, file)
                if job_id and ours:
                    self._running[job_id] = None
                self._collected[token] = await self._still_there(job_id) if job_id else {}
                if len(self._collected) > _KEPT:
                    del self._collected[next(iter(self._collected))]
            return self._collected[token]

    async def _still_there(self, job_id: str) -> dict[str, Line]:
        """Return the lines of a job; none if the endpoint has forgotten it, or has been changed."""
        try:
            return await self._wait(job_id)
        except _UnknownError:
            self._running.pop(job_id, None)
            return {}

    async def _id_of(self, token: str, file: str) -> str:
        entries = await self._look_up([_id_key(token)])
        for entry in entries.values():
            return entry.answer
        # the attempt ended between creating the job and recording its id
        return await self._api(self._found(file))

    async def _found(self, file: str) -> str:
        """Return the id of a job by its file; "" if it was never created."""
        count = 0
        jobs: Any = aiter(self._sdk.batches.list(limit=100))
        async with aclosing(jobs):
            async for job in jobs:
                count += 1
                if job.input_file_id == file:
                    return str(job.id)
                if count >= _MAX_LISTED:
                    break
        return ""

    async def _wait(self, job_id: str, requests: Sequence[_Request] = ()) -> dict[str, Line]:
        """Return the lines of a job by number, once it has ended. `requests`: its requests, if known."""
        until, failures = self._clock.monotonic() + _LONGEST, 0
        while True:
            try:
                job = await self._api(self._sdk.batches.retrieve(job_id))
                if job.status in _ENDED:
                    lines = await self._lines(job, requests)
                    self._running.pop(job_id, None)
                    return lines
                failures = 0
                self._contact.on_look()
            except TransientError:
                failures += 1
                if failures >= _MAX_FAILURES:
                    raise
            if self._clock.monotonic() > until:
                raise TransientError(f"the batch job {job_id} has not ended within {_LONGEST / 3600:g} h")
            await self._pause(self._params.batch_poll)

    async def _pause(self, seconds: float) -> None:
        await self._rest(seconds)
        if self._contact.draining():
            raise StoppingError("the run was told to stop while a batch job is not done; resume it later")

    async def _rest(self, seconds: float) -> None:
        """Sleep, or less if the run should end."""
        until = self._clock.monotonic() + seconds
        while (left := until - self._clock.monotonic()) > 0 and not self._contact.draining():
            await self._clock.sleep(min(left, _LOOK))

    async def _lines(self, job: Any, requests: Sequence[_Request]) -> dict[str, Line]:
        """Return all answers of a finished job, complete or not. Raises EndpointError as `_rejected` does."""
        found: dict[str, Line] = {}
        for file_id in (job.error_file_id, job.output_file_id):
            if file_id:
                content = await self._api(self._sdk.files.content(file_id))
                found |= _read_lines(content.content)
        rejected = self._rejected(job, requests) if job.status == "failed" and requests else {}
        return rejected | found

    def _rejected(self, job: Any, requests: Sequence[_Request]) -> dict[str, Line]:
        """Return the errors of a failed job, by line. Other lines may be sent again.

        Raises:
            EndpointError: it failed as a whole, and a repetition would not help.
        """
        errors = [_failure_of(one) for one in (job.errors and job.errors.data) or []]
        causes = [cause_of(refusal) for _, refusal in errors]
        if any(one.code == "token_limit_exceeded" for _, one in errors) or Cause.BUSY in causes:
            words = self._without_secrets(errors[0][1].message, requests)
            busy: Line = HTTPStatus.TOO_MANY_REQUESTS, {}, json.dumps({"error": words}).encode()
            return {str(number): busy for number in range(len(requests))}
        named = {place: one for place, one in errors if place in range(len(requests))}
        apart = len(named) < len(requests) or {*causes} <= _OF_DOCUMENTS
        if named and apart and len(named) == len(errors) and not _SYSTEMIC.intersection(causes):
            return {str(place): (400, {}, _error_body(one)) for place, one in named.items()}
        first = next((one for one in errors if cause_of(one[1]) in _SYSTEMIC), errors[0] if errors else None)
        said = f"the batch job {job.id} failed as a whole"
        if first is not None:
            code, words = first[1].code, self._without_secrets(first[1].message, requests)
            said += f" ({code})" * bool(code) + f": {words}" * bool(words)
        cause = Cause.UNCLEAR if first is None else cause_of(first[1])
        remedy = "correct this and resume the run, with `mode: direct` if the endpoint takes no batch jobs"
        raise EndpointError(f"{said}; {remedy}", kind=_KINDS.get(cause, "config"))

    def _without_secrets(self, words: str, requests: Sequence[_Request]) -> str:
        """Return an endpoint's text without the key and without text of documents."""
        words = words.replace(self._key, "…") if self._key else words
        return without_texts(words[:_MAX_QUOTED], [text_of(one.prompt) for one in requests])

    async def _api(self, call: Awaitable[R], requests: Sequence[_Request] = ()) -> R:
        """Await a call of the SDK that sends these requests, translating its errors."""
        import openai

        try:
            found = await call
            self._reached = True
            return found
        except openai.APIStatusError as error:
            raise self._failure(error, requests) from error
        except (TimeoutError, openai.APIConnectionError) as error:
            message = f"cannot reach the Batch API: {why_unreachable(error, self._url)}"
            raise (TransientError(message) if self._reached else EndpointError(message)) from error

    def _failure(self, error: openai.APIStatusError, requests: Sequence[_Request]) -> ComponentError:
        refusal = Refusal.of(error.status_code, error.response.content)
        words = self._without_secrets(refusal.message, requests)
        cause, said = cause_of(refusal), f"the Batch API answered {refusal.status}: {words}"
        if cause is Cause.BUSY:
            wait = wait_seconds(error.response.headers, refusal.body, refusal.message, self._clock.now())
            return TransientError(said, retry_after=wait, throttled=refusal.status == 429)
        if cause in _KINDS:
            return EndpointError(said, kind=_KINDS[cause])
        kind = _UnknownError if refusal.status == 404 else EndpointError
        return kind(f"{said}; set `mode: direct` if the endpoint has no Batch API")

    async def _look_up(self, keys: Collection[str]) -> dict[str, JournalEntry]:
        async with self._contact.journal.claim(keys) as claim:
            return dict(claim.answers)

    async def _keep(self, entries: Sequence[JournalEntry]) -> None:
        async with self._contact.journal.claim(()) as claim:
            await claim.keep(entries)


def _pending_entries(job: _Job) -> list[JournalEntry]:
    """Return the journal entries that record where the answers of a job will be."""
    entries = []
    for number, request in enumerate(job.requests):
        nonces = request.prompt.nonces
        for slot, question in request.prompt.questions.items():
            place = {"job": job.token, "file": job.file, "line": str(number)}
            answer = written({**place, "slot": slot, "slots": len(nonces), "nonce": nonces[slot]})
            entries.append(JournalEntry(note_key(question), answer, PENDING))
    return entries


def note_key(question: str) -> str:
    """Return the key of the journal entry for the job of a question."""
    return sha256(f"batch question {question}".encode()).hexdigest()


def _id_key(token: str) -> str:
    return sha256(f"batch job {token}".encode()).hexdigest()


def _failure_of(error: Any) -> tuple[int | None, Refusal]:
    """Return the line that a job's error names, if any, and the error."""
    line = getattr(error, "line", None)
    refusal = Refusal(
        400, str(error.message or ""), str(error.code or ""), param=str(getattr(error, "param", None) or "")
    )
    return (line - 1 if isinstance(line, int) else None), refusal


def _error_body(refusal: Refusal) -> bytes:
    said = {"message": refusal.message, "code": refusal.code, "param": refusal.param}
    return json.dumps({"error": said}).encode()


def _read_lines(content: bytes) -> dict[str, Line]:
    """Return the lines of a file of answers or errors, without unreadable ones."""
    found: dict[str, Line] = {}
    for text in content.split(b"\n"):
        try:
            line = parse(text.decode("utf-8", "replace"))
            number = str(line["custom_id"])
        except (ValueError, KeyError, TypeError):
            continue
        response, error = line.get("response"), line.get("error")
        body = response.get("body") if isinstance(response, Mapping) else None
        if isinstance(body, Mapping | str) and body:
            answer = body if isinstance(body, str) else written(body)
            found[number] = (_status(response.get("status_code")), {}, answer.encode("utf-8", "replace"))
        else:
            said = error.get("message") if isinstance(error, Mapping) else None
            found[number] = _unanswered(str(said or "the line was not answered"))
    return found


def _status(code: object) -> int:
    """Return the status of a line's answer; without one, the body shows whether it is an error."""
    return int(str(code)) if re.fullmatch(r"[1-5]\d\d", str(code)) else HTTPStatus.OK


def _unanswered(message: str) -> Line:
    """Return the answer of an overloaded endpoint: the request may be sent again."""
    return 503, {}, json.dumps({"error": {"message": message}}).encode()
