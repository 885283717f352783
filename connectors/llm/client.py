"""Call an OpenAI-compatible endpoint and translate its errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from json import JSONDecodeError
from typing import TYPE_CHECKING, cast

import anyio.to_thread

from connectors.llm.prompt import Prompt
from connectors.llm.settings import LlmConnection, LlmParams
from connectors.retry_after import retry_after_seconds
from engine.contract.clock import Clock
from engine.errors import ComponentError, FatalError, TransientError

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletion

__all__ = ["ChatClient", "ContentRefusedError", "PackTooLargeError", "Reply", "open_chat"]

_TOO_LARGE_CODES = frozenset({"context_length_exceeded", "request_too_large", "string_above_max_length"})
_CONFIGURATION_PARAMS = frozenset({"model", "response_format", "temperature", "max_tokens"})


class PackTooLargeError(ComponentError):
    """The prompt is longer than the model can read."""


class ContentRefusedError(ComponentError):
    """The endpoint rejected this prompt; another may pass."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered. `refusal` is set when it declined; `finish_reason` is the API's own word."""

    content: str
    finish_reason: str
    refusal: str
    tokens_in: int
    tokens_out: int


@asynccontextmanager
async def open_chat(connection: LlmConnection, params: LlmParams, clock: Clock) -> AsyncIterator[ChatClient]:
    """Open a client for the duration of the block."""
    # openai takes one to two seconds to import, so it is imported here, and in a thread: the loop goes on
    await anyio.to_thread.run_sync(import_module, "openai")
    import openai

    # An empty key would be looked up in the environment; what counts is what the connection says.
    key = connection.api_key.get_secret_value() or "none"
    async with openai.AsyncOpenAI(
        api_key=key, base_url=connection.base_url, max_retries=0, timeout=params.timeout
    ) as sdk:
        yield ChatClient(sdk, connection, params, clock)


class ChatClient:
    """Sends prompts without retries, which are the engine's task."""

    def __init__(
        self, sdk: openai.AsyncOpenAI, connection: LlmConnection, params: LlmParams, clock: Clock
    ) -> None:
        self.model = params.model or connection.model
        self._sdk = sdk
        self._url = connection.base_url
        self._longest = params.timeout
        self._clock = clock
        self._temperature: dict[str, float] = {"temperature": params.temperature}
        self._limit_name = "max_tokens"

    async def complete(self, prompt: Prompt, max_tokens: int) -> Reply:
        """One call.

        Raises:
            PackTooLargeError: the prompt is too long for the model.
            ContentRefusedError: the endpoint refused this prompt.
            TransientError: rate limits, time-outs, 5xx, broken connections.
            FatalError: a wrong key or model, an exhausted quota, a request the endpoint does not know.
        """
        import openai

        while True:
            sent = (self._limit_name, *self._temperature)
            try:
                with anyio.fail_after(self._longest):
                    return self._reply(await self._create(prompt, max_tokens))
            except openai.BadRequestError as error:
                if self._adapt(error) and sent != (self._limit_name, *self._temperature):
                    continue
                raise self._translated(error) from error
            except openai.OpenAIError as error:
                raise self._translated(error) from error
            except TimeoutError as error:
                raise TransientError(f"{self._url} did not answer within {self._longest:g} s") from error
            except (JSONDecodeError, UnicodeDecodeError) as error:
                # the SDK lets the parser's own error out when the body of an answer was damaged on its way
                raise TransientError(
                    f"{self._url} returned something other than a chat completion"
                ) from error

    async def _create(self, prompt: Prompt, max_tokens: int) -> ChatCompletion:
        # the SDK's own types list every model by name and every part of a message; ours are plain JSON
        create = cast("Callable[..., Awaitable[ChatCompletion]]", self._sdk.chat.completions.create)
        return await create(
            model=self.model,
            messages=prompt.messages,
            response_format=prompt.response_format,
            **{self._limit_name: max_tokens},
            **self._temperature,
        )

    def _adapt(self, error: openai.BadRequestError) -> bool:
        """Reasoning models know neither `max_tokens` nor `temperature` and say so: leave them out."""
        if error.code not in ("unsupported_parameter", "unsupported_value"):
            return False
        if error.param == "max_tokens":
            self._limit_name = "max_completion_tokens"
        elif error.param == "temperature":
            self._temperature = {}
        return error.param in ("max_tokens", "temperature")

    def _translated(self, error: openai.OpenAIError) -> ComponentError:
        """Never quotes the endpoint's text: it may hold the key or a document."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            return TransientError(f"{self._url} did not answer within {self._longest:g} s")
        if isinstance(error, openai.APIConnectionError):
            return TransientError(f"connection refused: no model endpoint is listening at {self._url}")
        if not isinstance(error, openai.APIStatusError):
            return TransientError(f"{self._url} returned something other than a chat completion")
        return self._status_error(error)

    def _status_error(self, error: openai.APIStatusError) -> ComponentError:
        status, code = error.status_code, error.code or ""
        said = f"{self._url} answered {status}" + (f" ({code})" if code else "")
        if status in (401, 403):
            message = f"{said}: the API key is missing, wrong or not allowed to use {self.model!r}"
            return FatalError(message, kind="auth")
        if "insufficient_quota" in (code, error.type):
            message = f"{said}: the account's quota is exhausted; top it up and resume the run"
            return FatalError(message, kind="budget")
        if status in (404, 405) or code == "model_not_found":
            return FatalError(f"{said}: no such model {self.model!r}; check `base_url` and `model`")
        if status in (408, 409, 429) or status >= 500:
            wait = retry_after_seconds(error.response.headers, self._clock.now())
            return TransientError(said, retry_after=wait, throttled=status == 429)
        if status == 413 or code in _TOO_LARGE_CODES:
            return PackTooLargeError(f"{said}: the prompt is too long for {self.model!r}")
        if (error.param or "").partition(".")[0] in _CONFIGURATION_PARAMS:
            return FatalError(f"{said}: {self.model!r} does not support our {error.param!r}")
        return ContentRefusedError(said)

    def _reply(self, completion: ChatCompletion) -> Reply:
        # a page of text with status 200 comes out of the SDK as it is
        choices = getattr(completion, "choices", None)
        if not choices:
            raise FatalError(f"{self._url} did not return a chat completion; check `base_url`")
        choice, usage = choices[0], completion.usage
        return Reply(
            content=choice.message.content or "",
            finish_reason=choice.finish_reason or "",
            refusal=choice.message.refusal or "",
            tokens_in=usage.prompt_tokens if usage else 0,
            tokens_out=usage.completion_tokens if usage else 0,
        )
