"""Call an OpenAI-compatible endpoint and translate its errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio

from connectors.llm.batch_jobs import BatchJobs
from connectors.llm.completion import Reply, description_of, read_body, read_completion
from connectors.llm.dialect import MIN_ANSWER, Dialect, Level
from connectors.llm.gate import Gate
from connectors.llm.prompt import Prompt
from connectors.llm.refusals import Cause, Refusal, cause_of, room_in_window, text_of, without_texts
from connectors.llm.settings import LlmConnection, LlmParams
from connectors.llm.transport import EndpointError, open_sdk, why_unreachable
from connectors.llm.waiting import UsedUp, used_up, wait_seconds
from engine.contract.clock import Clock
from engine.contract.journal import AnswerJournal
from engine.contract.lease import Lease
from engine.errors import ComponentError, TransientError
from engine.redaction import without_credentials

if TYPE_CHECKING:
    import openai

__all__ = ["ChatClient", "ContentRefusedError", "EndpointError", "PackTooLargeError", "Reply", "open_chat"]

_MAX_ADAPTATIONS: Final = 12  # of one request to the endpoint's dialect
_SUSPICIOUS: Final = 12  # refusals in a row after which the endpoint itself is suspected
_STRANGE_TRIES: Final = 3  # answers that are not completions, before the first completion
_FIRST_WAIT: Final = 0.5  # seconds between the first tries to reach an endpoint
_PROBE_TOKENS: Final = 256
_MAX_QUOTED: Final = 300  # characters of an endpoint's own words
_CHECK: Final = "check `base_url` (usually it ends with /v1)"
_PATH: Final = "/chat/completions"
_ALLOWED_ENCODINGS: Final = frozenset({"identity", "gzip", "deflate"})  # requested everywhere
_RAW: Final = {"X-Stainless-Raw-Response": "true"}  # the SDK returns the raw answer


class PackTooLargeError(ComponentError):
    """The prompt exceeds the model's context window."""


class ContentRefusedError(ComponentError):
    """The endpoint refused this prompt, but may accept others. `kind`: error type of the dead letter."""

    def __init__(self, message: str, *, kind: str = "RequestRefused") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Contact:
    """How to make first contact with an endpoint.

    Args:
        patience: seconds to wait for an endpoint that is not listening yet; None waits as long as the engine
            waits out an outage.
        probe: a harmless prompt, which distinguishes a refused document from an endpoint that refuses
            everything.
        journal: stores what batch jobs have been asked.
        draining: returns true once the run should end.
        on_look: called after each poll of an unfinished batch job.
        lease: confirmed before a batch job is created or cancelled.
    """

    patience: float | None
    probe: Prompt
    journal: AnswerJournal
    draining: Callable[[], bool]
    on_look: Callable[[], None]
    lease: Lease


@asynccontextmanager
async def open_chat(
    connection: LlmConnection, params: LlmParams, clock: Clock, contact: Contact
) -> AsyncIterator[ChatClient]:
    """Open a client for the duration of the block."""
    async with open_sdk(connection, params.longest) as sdk:
        chat = ChatClient(sdk, connection, params, clock, contact)
        if params.mode == "batch":
            chat.jobs = BatchJobs(sdk, connection, params, clock, contact)
        try:
            yield chat
        finally:
            if chat.jobs is not None:
                await chat.jobs.close()


class ChatClient:
    """Sends prompts in the endpoint's dialect. Retries and waiting are left to the engine.

    Attributes:
        dialect: request features that the endpoint accepts, as far as known.
        on_probe: called after each call that was made to find that out.
        thinks: the model's answers include reasoning.
        gate: receives the limits and requested delays from answers.
        jobs: batch jobs to send requests in; None sends them directly.
    """

    def __init__(
        self,
        sdk: openai.AsyncOpenAI,
        connection: LlmConnection,
        params: LlmParams,
        clock: Clock,
        contact: Contact,
    ) -> None:
        self.model = params.model or connection.model
        level = Level.JSON_SCHEMA if params.answer_form == "auto" else Level(params.answer_form)
        self.dialect = self._declared = Dialect(level, params.temperature)
        self._extras = params.sent
        self.on_probe: Callable[[Reply], None] = lambda reply: None
        self.thinks = False
        self.gate = Gate(clock)
        self.jobs: BatchJobs | None = None
        self._sdk = sdk
        self._url = connection.address
        self._key = connection.api_key.get_secret_value()
        self._longest = params.longest
        self._clock = clock
        self._contact = contact
        self._negotiating = anyio.Lock()
        self._reached = False
        self._answers = 0
        self._refused_in_a_row = 0
        self._miswritten = self._unreadable = 0
        self._unreadable_since = -inf

    async def complete(self, prompt: Prompt, max_tokens: int) -> Reply:
        """Make one call, repeated only in another dialect if the endpoint rejects this one.

        Raises:
            PackTooLargeError: the prompt is too long for the model.
            ContentRefusedError: the endpoint refused this prompt.
            TransientError: rate limits, time-outs, 5xx, broken connections.
            EndpointError: a wrong key or model, an exhausted quota, an endpoint that refuses everything.
        """
        own: Dialect | None = None  # of this call alone
        for _ in range(_MAX_ADAPTATIONS):
            sent, seen = own or self.dialect, self._answers
            answer = await self._send(prompt, sent, max_tokens)
            if isinstance(answer, Reply):
                self._passed()
                self.thinks = self.thinks or answer.thinks
                return answer
            cause = Cause.FORMAT if answer.is_miswritten else cause_of(answer)
            room = room_in_window(answer.message) if cause is Cause.TOO_LONG else None
            if room is not None and MIN_ANSWER <= room < sent.capped(max_tokens):
                max_tokens = room
                continue
            if own is None and self.dialect != sent:
                continue  # another call has already found out
            adapted = sent.adapted(cause, answer, max_tokens)
            if adapted is not None and (not seen or cause is Cause.ANSWER_LIMIT) and own is None:
                self.dialect = adapted
            elif adapted is not None:
                own = adapted  # others succeeded in this dialect, so the document may be the cause
            elif cause is Cause.TOO_LONG:
                message = f"{self._said(answer, prompt)}: the prompt is too long for {self.model!r}"
                raise PackTooLargeError(message)
            elif not await self._negotiated(answer, cause, seen) and (own or self.dialect == sent):
                kind = "ContentFilter" if cause is Cause.FILTERED else "RequestRefused"
                raise ContentRefusedError(self._said(answer, prompt), kind=kind)
        raise ContentRefusedError(f"{self._url} rejected every form of the request")

    async def is_answering(self) -> bool:
        """Return whether the endpoint answers a harmless prompt."""
        try:
            return await self._probe(self.dialect)
        except ComponentError:
            return False

    def given(self, max_tokens: int) -> int:
        """Return the tokens for an answer, capped at the endpoint's limit if known."""
        return self.dialect.capped(max_tokens)

    def _passed(self) -> None:
        self._answers += 1
        self._refused_in_a_row = 0

    async def _negotiated(self, refusal: Refusal, cause: Cause, seen: int) -> bool:
        """Return whether an adapted dialect is accepted after a refusal.

        False means that it refuses this prompt. Raises EndpointError if it refuses everything.
        """
        self._refused_in_a_row += 1
        async with self._negotiating:
            if self._answers > seen or (self._answers and self._refused_in_a_row < _SUSPICIOUS):
                return False
            learned = self.dialect
            declared = () if self._answers else (self._declared,)  # what was omitted may not be the reason
            simpler = learned.simpler() if cause is Cause.UNCLEAR else ()
            for dialect in dict.fromkeys((*declared, learned, *simpler)):
                if await self._probe(dialect):
                    self.dialect = dialect
                    return bool(dialect != learned)
            if refusal.status in (404, 405) and self._with_version() and await self._probe(self._declared):
                return True
        raise self._refuses_everything(refusal, cause)

    async def _probe(self, dialect: Dialect) -> bool:
        answer = await self._send(self._contact.probe, dialect, _PROBE_TOKENS)
        if not isinstance(answer, Reply):
            return False
        self.on_probe(answer)
        self._passed()
        return True

    def _with_version(self) -> bool:
        """Add `/v1` to an address without a path; return False if it has one."""
        if urlsplit(self._url).path:
            return False
        self._url += "/v1"
        self._sdk.base_url = self._url
        return True

    def _refuses_everything(self, refusal: Refusal, cause: Cause) -> EndpointError:
        said = self._said(refusal, self._contact.probe)
        if cause is Cause.KEY:
            message = f"{said}: the API key is missing, wrong or not allowed to use {self.model!r}"
            return EndpointError(message, kind="auth")
        if refusal.status in (404, 405):
            return EndpointError(f"{said}: no such address or model {self.model!r}; {_CHECK} and `model`")
        return EndpointError(f"{said}: it rejects every request to {self.model!r}, even without documents")

    async def _send(self, prompt: Prompt, dialect: Dialect, max_tokens: int) -> Reply | Refusal:
        """Send one request; return the refusal if another request may be accepted."""
        strange = 0
        while True:
            mark = self.gate.mark()
            body = dialect.body(prompt, max_tokens)
            if self.jobs is not None and prompt.questions:
                line = {"model": self.model, **body, **self._extras}
                status, headers, content = await self.jobs.ask(line, prompt)
            else:
                status, headers, content = await self._post(body)
            self.gate.hear(headers, mark)
            if 200 <= status < 300:
                found = self._completion(content, headers, mark.at)
                if isinstance(found, Reply):
                    return found
                if found is None:
                    # not an API's answer: one may be a proxy's page, but at the start it means a wrong
                    # address
                    strange += 1
                    if self._answers or strange >= _STRANGE_TRIES:
                        raise self._no_completion(content, headers)
                    await self._clock.sleep(_FIRST_WAIT * strange)
                    continue
            else:
                found = Refusal.of(status, content)
            final = self._final(found, headers, prompt, mark.at)
            if final is not None:
                raise final
            return found

    def _completion(self, content: bytes, headers: Mapping[str, str], sent: float) -> Reply | Refusal | None:
        """Return the completion of a 200 answer to a request that was sent at this time.

        Raises TransientError if the body was damaged in transit, EndpointError if that happens to each first
        answer, or if it is packed as the request did not allow.
        """
        if content.lstrip().startswith(b"<"):
            return None
        try:
            return read_completion(read_body(content))
        except ValueError as error:
            encoding = headers.get("content-encoding", "").strip().lower()
            if encoding and encoding not in _ALLOWED_ENCODINGS:
                raise EndpointError(
                    f"{self._url} answered with `Content-Encoding: {encoding}`, which the request did not "
                    "accept; turn this compression off at the endpoint, or at the proxy before it"
                ) from error
            raise self._no_completion(content, headers, once=not self._is_always_so(sent)) from error

    def _is_always_so(self, sent: float) -> bool:
        """Count an unreadable answer, once for all calls in flight; return whether all answers are so."""
        if sent >= self._unreadable_since:
            self._unreadable += 1
            self._unreadable_since = self._clock.monotonic()
        return not self._answers and self._unreadable >= _STRANGE_TRIES

    def _no_completion(
        self, content: bytes, headers: Mapping[str, str], *, once: bool = False
    ) -> ComponentError:
        """Return the error for an answer of another kind; at first contact the address is wrong."""
        found = description_of(content, headers)
        if self._answers or once:
            return TransientError(f"{self._url} returned something other than a chat completion: {found}")
        return EndpointError(f"{self._url} did not return a chat completion but {found}; {_CHECK}")

    def _final(self, refusal: Refusal, headers: Any, prompt: Prompt, sent: float) -> ComponentError | None:
        """Return the error for a refusal that no other form of the request can avoid."""
        status, said = refusal.status, self._said(refusal, prompt)
        if 300 <= status < 400:
            place = without_credentials(headers.get("location", "nowhere"))
            return EndpointError(f"{said}: it redirects to {place}; set `base_url`")
        if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            return EndpointError(
                f"{said}: the proxy of the environment needs a user and a password; add them to `HTTP_PROXY`",
                kind="auth",
            )
        if status < 300:
            return None if self._is_always_so(sent) else TransientError(said)
        cause = cause_of(refusal)
        if refusal.is_miswritten and not self._answers:
            self._miswritten += 1
            if self._miswritten % _STRANGE_TRIES == 0:
                return None  # in this form the model writes nothing that fits
        if cause is Cause.BUSY:
            now = self._clock.now()
            spent = used_up(headers, refusal.body, refusal.message, now) if status < 500 else None
            if spent is not None:
                return EndpointError(f"{said}: {self._comes_back(spent)}", kind="budget")
            wait = wait_seconds(headers, refusal.body, refusal.message, now)
            if status in (429, 529):
                self.gate.throttled(wait)
            elif wait is not None:
                self.gate.pause(wait)
            return TransientError(said, retry_after=wait, throttled=status in (429, 529))
        if cause is Cause.KEY and status in (400, 401):
            message = f"{said}: the API key is missing, wrong or not allowed to use {self.model!r}"
            return EndpointError(message, kind="auth")
        if cause is Cause.MONEY:
            message = f"{said}: the account's quota is exhausted; top it up and resume the run"
            return EndpointError(message, kind="budget")
        if cause is Cause.MODEL:
            return EndpointError(f"{said}: no such model {self.model!r}; check `base_url` and `model`")
        return None

    def _comes_back(self, spent: UsedUp) -> str:
        """Return the message for a quota that takes too long to refill."""
        if spent.seconds == inf:
            return f"the account's limit for {self.model!r} is 0; have it raised, or use another model"
        if spent.seconds is None:
            when = "when it has been reset, within a day as a rule"
        else:
            moment = self._clock.now() + timedelta(seconds=spent.seconds)
            when = f"after {moment:%Y-%m-%d %H:%M:%S} UTC"
        return f"the quota of {self.model!r} is used up; resume the run {when}"

    async def _post(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        """Return status, headers and body. Raises TransientError, or EndpointError on first contact."""
        import openai

        patience = self._contact.patience if not self._reached else None
        until = self._clock.monotonic() + (patience or 0.0)
        while True:
            try:
                with anyio.fail_after(self._longest):
                    answer = await self._create(body)
                self._reached = True
                return answer
            except openai.APIStatusError as error:
                self._reached = True
                return error.status_code, error.response.headers, error.response.content
            except (TimeoutError, openai.APIConnectionError) as error:
                failure = self._unanswered(error)
                if isinstance(failure, TransientError) or self._reached or patience is None:
                    raise TransientError(str(failure)) from error
                if self._clock.monotonic() >= until:
                    raise failure from error
            await self._clock.sleep(_FIRST_WAIT)

    async def _create(self, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        # not `chat.completions.create`, which checks each part of a request against the SDK's types: a
        # seventh of a call's processor time
        post: Any = self._sdk.post
        sent = {"model": self.model, **body, **self._extras}
        answer = await post(_PATH, cast_to=object, body=sent, options={"headers": _RAW})
        response = answer.http_response
        return response.status_code, response.headers, response.content

    def _unanswered(self, error: Exception) -> ComponentError:
        """EndpointError: no connection was ever made."""
        import httpx
        import openai

        connecting = isinstance(error.__cause__, httpx.ConnectTimeout | httpx.ConnectError | httpx.ProxyError)
        if isinstance(error, TimeoutError | openai.APITimeoutError) and not connecting:
            message = f"{self._url} did not answer within {self._longest:g} s, the node's `timeout`"
            return TransientError(message)
        message = f"cannot reach the model endpoint: {why_unreachable(error, self._url)}"
        return EndpointError(message) if connecting else TransientError(message)

    def _said(self, refusal: Refusal, prompt: Prompt) -> str:
        """Describe an endpoint's answer, without the key and without text of documents."""
        code = refusal.code if refusal.code not in ("", str(refusal.status)) else ""
        said = f"{self._url} answered {refusal.status}" + (f" ({code})" if code else "")
        words = refusal.message.replace(self._key, "…") if self._key else refusal.message
        words = without_texts(words, [text_of(prompt)])
        if len(words) > _MAX_QUOTED:
            words = f"{words[: _MAX_QUOTED - 1]}…"
        return f"{said}: {words}" if words and not words.startswith("<") else said
