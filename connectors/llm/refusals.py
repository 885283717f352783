"""Interpret the errors of endpoints, which are worded differently, and quote them without documents."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from connectors.llm.json_text import parse
from connectors.llm.prompt import Prompt

_MAX_MESSAGE: Final = 2_000  # characters to examine; error pages of proxies are long


class Cause(Enum):
    """Why a call was refused, which decides what may help."""

    KEY = auto()
    MONEY = auto()
    MODEL = auto()
    BUSY = auto()
    TOO_LONG = auto()
    ANSWER_LIMIT = auto()
    LIMIT_NAME = auto()
    TEMPERATURE = auto()
    FORMAT = auto()
    SYSTEM_ROLE = auto()
    NOT_STREAMED = auto()
    STREAM_OPTIONS = auto()
    FILTERED = auto()
    UNCLEAR = auto()


@dataclass(frozen=True, slots=True)
class Refusal:
    """An endpoint's error. `param` is the part of the request that it names, if any."""

    status: int
    message: str = ""
    code: str = ""
    kind: str = ""
    param: str = ""
    body: object = None

    @property
    def is_miswritten(self) -> bool:
        """Whether the model has written what the endpoint could not read; it may do better the next time."""
        return self.code in _FAILED_CODES

    def names(self, part: str) -> bool:
        """Return whether it names this part of the request."""
        return bool(re.search(rf"\b{part}\b", f"{self.param} {self.message}"))

    @classmethod
    def of(cls, status: int, content: bytes) -> Refusal:
        """Read the body of an answer, which may not be JSON."""
        text = content[: 64 * _MAX_MESSAGE].decode("utf-8", "replace")
        try:
            body = parse(text)
        except ValueError:
            return cls(status, " ".join(text.split())[:_MAX_MESSAGE])
        return cls.of_body(status, body)

    @classmethod
    def of_body(cls, status: int, body: object) -> Refusal:
        """Read a JSON body: `{"error": {…}}`, `{"error": "…"}`, `{"detail": […]}` and the like."""
        inner = body[0] if isinstance(body, list) and body else body
        for name in ("error", "errors", "detail", "fault", "base_resp"):
            if isinstance(inner, Mapping) and inner.get(name):
                inner = inner[name]
                inner = inner[0] if isinstance(inner, list) else inner
                break
        if not isinstance(inner, Mapping):
            return cls(status, _text(inner), body=body)
        message = next((inner[name] for name in _MESSAGES if inner.get(name)), "")
        if isinstance(message, Mapping) and message.get("detail"):
            return cls.of_body(status, message)  # Mistral's list of what does not fit
        said = [_text(message), *(_text(one) for one in _raw(inner))]
        place = inner.get("param") or inner.get("loc") or ""
        steps = place if isinstance(place, list) else str(place).split(".")
        param = ".".join(str(step) for step in steps if step != "body")
        code = next((inner[name] for name in _CODES if inner.get(name) is not None), "")
        kind = inner.get("type") or inner.get("status") or inner.get("__type") or ""
        return cls(status, " ".join(said)[:_MAX_MESSAGE].strip(), str(code), str(kind), param, body)


_MESSAGES: Final = (
    "message", "msg", "detail", "error", "error_msg", "errorMessage", "status_msg", "title", "Message",
    "faultstring",
)  # fmt: skip
_CODES: Final = ("code", "error_code", "errorCode", "status_code", "status")


def _raw(inner: Mapping[str, Any]) -> Iterator[object]:
    """Yield the texts in which a gateway passes on its provider's error."""
    metadata = inner.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(metadata.get("raw"), str):
        yield metadata["raw"]


def _text(value: object) -> str:
    return " ".join((value if isinstance(value, str) else "" if value is None else str(value)).split())


_TOO_LONG: Final = re.compile(
    "|".join(
        (
            r"context[ _]?(?:length|window|size|limit)",
            r"maximum (?:context|prompt|model|input) length",
            r"model'?s? (?:context|maximum|max) (?:model )?(?:length|len)",
            r"(?:prompt|input|request|messages?|conversation)(?: length)? (?:is|are|was) too (?:long|large)",
            r"input token count .{0,40}exceeds",
            r"exceeds? .{0,60}(?:number of tokens|token limit|tokens allowed|context)",
            r"too many (?:input |prompt )?tokens(?!.{0,20}\bwait)",
            r"number of tokens .{0,80}(?:exceed|greater than the context)",
            r"inputs?`? (?:tokens )?(?:must have less than|must be less than)",
            r"reduce the length of the (?:messages|prompt|input)",
            r"request (?:entity )?too large",
            r"(?:request|payload|body) (?:size )?(?:exceeds|is larger than|is too large)",
            r"image .{0,40}exceed(?:s|ing) .{0,40}(?:maximum|limit)",
            r"longer than the (?:maximum )?model",
            r"max_new_tokens`? must be <=",
            r"max_tokens must be at least 1, got -",
            r"range of input length|exceeds? max length|exceeded model token limit",
            r"tokens? too long|token length \d+ exceeds",
            r"at most \d+ images?\b|too many images|prompt 超长|超过.{0,10}最大.{0,6}长度",
        )
    ),
    re.IGNORECASE,
)
_SCHEMA_TOO_LARGE: Final = re.compile(r"\bschema\b.{0,80}(?:nesting|depth|complex|properties)", re.IGNORECASE)
_TOO_LONG_CODES: Final = frozenset(
    {
        "context_length_exceeded", "request_too_large", "string_above_max_length", "context_window_exceeded",
        "exceed_context_size_error", "tokens_limit_reached", "model_max_prompt_tokens_exceeded",
    }
)  # fmt: skip
_QUOTA_TOO_SMALL: Final = re.compile(
    r"request too large for|requested .{0,40}tokens? .{0,40}exceeds? .{0,40}limit|tokens must be reduced",
    re.IGNORECASE,
)
_LIMIT_AND_REQUESTED: Final = re.compile(r"limit:? (\d+).{0,40}requested:? (\d+)", re.IGNORECASE)
_MONEY_CODES: Final = frozenset(
    {
        "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "insufficient_balance",
        "exceeded_current_quota_error", "budget_exceeded", "Arrearage", "AccountOverdueError",
        "AllocationQuota.FreeTierOnly", "NOT_ENOUGH_BALANCE",
    }
)  # fmt: skip
_MONEY: Final = re.compile(
    r"insufficient (?:balance|credits?|funds|quota)|(?:credit )?balance is too low|out of credits|"
    r"billing hard limit|more credits|in arrears|used all available credits|run out of (?:\w+ )?credits|"
    r"spending limit|over budget|budget has been exceeded|key limit exceeded|in good standing|"
    r"credits (?:are |have been |have )?(?:depleted|exhausted|expired)|"
    r"(?:depleted|exceeded) your (?:\w+ )*credits|balance is (?:insufficient|not enough)|overdue balance|"
    r"free (?:allocated )?quota|api usage limits|usage limit reached|inactive subscription|余额不足|欠费",
    re.IGNORECASE,
)
_ANSWER_TOKENS: Final = re.compile(
    r"max_(?:completion_|output_|new_)?tokens|max tokens|maxOutputTokens|completion tokens|output tokens",
    re.IGNORECASE,
)
_UNSUPPORTED: Final = re.compile(
    r"not (?:be )?(?:supported|permitted|allowed|available|recogni[sz]ed)|"
    r"(?:does not|doesn't|do not) support|"
    r"unsupported|unknown|unrecogni[sz]ed|unexpected|extra (?:inputs|fields?)|unavailable|invalid|instead|"
    r"deprecated|only|must be|should be|input should|expected|no endpoints found|cannot find|"
    r"not enabled|requires --|too (?:complex|many states)|nesting depth",
    re.IGNORECASE,
)
_FORMAT: Final = re.compile(
    r"response_?format|json_?schema|json schema|structured[ _-]?outputs?|guided|grammar|json_object|"
    r"json mode|additionalProperties|tool[ _]?choice|\btools?\b|function call|output_config|"
    r"response_?schema|specified schema|schema in generation_?config|['\"`.]strict\b|\bstrict$",
    re.IGNORECASE,
)
_FORM_PARTS: Final = frozenset({"response_format", "json_schema", "strict", "tools", "tool_choice"})
_SYSTEM_ROLE: Final = re.compile(
    r"system (?:role|message|prompt|instruction)|developer instruction|roles? must alternate|"
    r"only user and assistant roles|"
    r"(?:does not|doesn't|only) support.{0,40}['\"`]?system|role.{0,20}['\"`]system",
    re.IGNORECASE,
)
_NOT_STREAMED: Final = re.compile(
    r"\b(?:only|must|requires?|enable|set)\b.{0,40}\bstream(?:ing|ed)?\b|"
    r"\bstream(?:ing)?\b.{0,30}\b(?:only|required|must be true)|"
    r"\bnon-?stream(?:ing|ed)?\b.{0,40}\bnot (?:supported|allowed)",
    re.IGNORECASE,
)
_STREAM_OPTIONS: Final = re.compile(r"stream_?options|include_?usage", re.IGNORECASE)
_FILTER: Final = re.compile(
    r"content[ _]?(?:filter|management|policy)|responsible ?ai|moderation|flagged|safety|inappropriate|"
    r"sensitive[ _](?:words?|content)|content exists risk|(?:prompt|response) blocked|guardrail|敏感|不安全",
    re.IGNORECASE,
)
_MODEL: Final = re.compile(
    r"models?[ /].{0,120}(?:not (?:be )?found|does not exist|not exist|unknown|is not a valid model|"
    r"has been (?:deprecated|decommissioned|retired|shut down))|no endpoints found for \S+$|"
    r"(?:unknown|no such|invalid) model|not a valid model|deployment .{0,80}does not exist|"
    r"DeploymentNotFound",
    re.IGNORECASE,
)
_KEY: Final = re.compile(
    r"(?:incorrect|invalid|missing|wrong|no|expired) (?:api|access)[ _-]?key|"
    r"(?:api|access)[ _-]?key (?:is )?(?:not valid|invalid|missing|incorrect|expired|required)|"
    r"(?:organi[sz]ation|account|project) has been (?:restricted|disabled|deactivated|suspended)",
    re.IGNORECASE,
)
_BUSY: Final = re.compile(
    r"rate[ _]?limit(?:ed)?[ _](?:is |has been |was )?(?:exceeded|reached)|throttl|too many requests|"
    r"exceeded .{0,20}rate[ _]?limit|overloaded|please wait before|model (?:was |has )?(?:unloaded|crashed)",
    re.IGNORECASE,
)
# 420: throttled (some gateways); 424: a dependency is loading; 498: no capacity for that tier; 499: a proxy
# gave up
_BUSY_STATUS: Final = frozenset({408, 409, 420, 423, 424, 425, 429, 498, 499})
_MODEL_CODES: Final = frozenset({"model_not_found", "model_not_available"})
# self-hosted servers compile a schema when it is used, and fail then
_FORM_FAILED: Final = re.compile(
    r"(?:invalid|unsupported|failed to (?:parse|compile|convert|initiali[sz]e))"
    r".{0,40}(?:json[ _]?schema|grammar)|"
    r"(?:json[ _]?schema|grammar).{0,40}(?:invalid|not supported|conversion failed|compil\w+ failed)",
    re.IGNORECASE,
)
# Groq's
_FAILED_CODES: Final = frozenset({"json_validate_failed", "tool_use_failed", "output_parse_failed"})
_LIMIT_NAMES: Final = ("max_tokens", "max_completion_tokens")


def cause_of(refusal: Refusal) -> Cause:
    """Classify an error response."""
    status, words = refusal.status, f"{refusal.code} {refusal.kind} {refusal.message}"
    if status < 300:
        return Cause.UNCLEAR
    if status == 401:
        return Cause.KEY
    if status == 402 or refusal.code in _MONEY_CODES or refusal.kind in _MONEY_CODES:
        return Cause.MONEY
    if _is_too_long(refusal):
        return Cause.TOO_LONG
    if status < 500 and _MONEY.search(words) and not (status == 429 and _BUSY.search(words)):
        return Cause.MONEY
    if status >= 500 and _FORM_FAILED.search(words):
        return Cause.FORMAT
    if status == 424 and _FILTER.search(words):
        return Cause.FILTERED  # by a gateway's guardrails
    if status in _BUSY_STATUS or (status >= 500 and status != 501) or refusal.is_miswritten:
        return Cause.BUSY
    if _KEY.search(words):
        return Cause.KEY
    if _BUSY.search(words):
        return Cause.BUSY
    if refusal.code in _MODEL_CODES or (status in (400, 404, 410) and _MODEL.search(words)):
        return Cause.MODEL
    return _cause_of_param(refusal, words) or (
        Cause.FILTERED if _FILTER.search(words) else Cause.KEY if status == 403 else Cause.UNCLEAR
    )


def _is_too_long(refusal: Refusal) -> bool:
    if _SCHEMA_TOO_LARGE.search(refusal.message):
        return False
    if refusal.status == 413 or {refusal.code, refusal.kind} & _TOO_LONG_CODES:
        return True
    if refusal.status == 429:
        asked = _LIMIT_AND_REQUESTED.search(refusal.message)
        over = asked is not None and int(asked[2]) > int(asked[1]) > 0
        return over or bool(_QUOTA_TOO_SMALL.search(refusal.message))
    if _head(refusal) in _LIMIT_NAMES and room_in_window(refusal.message) is None:
        return False  # a limit of answers that follows from the context window
    return bool(_TOO_LONG.search(refusal.message)) and refusal.status != 408


def _head(refusal: Refusal) -> str:
    """Return the parameter that a refusal names, without the path inside it."""
    return re.split(r"[.\[]", refusal.param)[0]


def _cause_of_param(refusal: Refusal, words: str) -> Cause | None:
    """Return the cause for the parameter that a refusal names, or that its message mentions."""
    head = _head(refusal)
    unsupported = bool(_UNSUPPORTED.search(words))
    if head in _LIMIT_NAMES or _ANSWER_TOKENS.search(refusal.message):
        other = "max_completion_tokens" in refusal.message and "max_tokens" in refusal.message
        if refusal.code in ("unsupported_parameter", "unsupported_value") or (other and "instead" in words):
            return Cause.LIMIT_NAME
        if numbers_in(refusal.message):
            return Cause.ANSWER_LIMIT
        return Cause.LIMIT_NAME
    if head == "temperature" or (unsupported and re.search(r"\btemperature\b", words)):
        return Cause.TEMPERATURE
    if head in _FORM_PARTS or (unsupported and _FORMAT.search(words)):
        return Cause.FORMAT
    if _SYSTEM_ROLE.search(words) and (unsupported or "alternate" in words):
        return Cause.SYSTEM_ROLE
    if head == "stream_options" or (unsupported and _STREAM_OPTIONS.search(words)):
        return Cause.STREAM_OPTIONS
    if head == "stream" or _NOT_STREAMED.search(words):
        return Cause.NOT_STREAMED
    return Cause.MODEL if head == "model" else None


def numbers_in(message: str) -> list[int]:
    """Return the integers in a message; thousands may be separated by commas."""
    return [int(one.replace(",", "")) for one in re.findall(r"(?<![\w.])\d[\d,]*(?![\w.]\d)", message)]


_WINDOW: Final = re.compile(
    r"(?:context|model) (?:length|window|size|limit)\D{0,30}?(\d[\d,]*)|n_ctx\D{0,5}(\d+)", re.IGNORECASE
)
_PROMPT: Final = re.compile(
    r"(\d[\d,]*) (?:tokens? )?(?:in|from) (?:the |your )?(?:messages|prompt|input)|"
    r"(\d[\d,]*) (?:input|prompt) tokens|(\d[\d,]*) (?:of )?text input|resulted in (\d[\d,]*)|"
    r"n_prompt_tokens\D{0,5}(\d+)|request \((\d[\d,]*) tokens",
    re.IGNORECASE,
)
_SUM: Final = re.compile(r"(\d[\d,]*) \+ (\d[\d,]*) > (\d[\d,]*)")
_SUM_OF_INPUTS: Final = re.compile(r"must be <= (\d+)\. Given: (\d+) `?inputs`? tokens")


def room_in_window(message: str) -> int | None:
    """Return the tokens left for an answer, if an endpoint reports it; below 1 if there are none."""
    added = _SUM.search(message)
    if added:
        return _number(added[3]) - _number(added[1])
    given = _SUM_OF_INPUTS.search(message)
    if given:
        return _number(given[1]) - _number(given[2])
    window, prompt = _WINDOW.search(message), _PROMPT.search(message)
    if window is None or prompt is None:
        return None
    return _number(next(filter(None, window.groups()))) - _number(next(filter(None, prompt.groups())))


def _number(text: str) -> int:
    return int(text.replace(",", ""))


_SHINGLE: Final = 20  # shared characters in a row that are not a coincidence
_STEP: Final = _SHINGLE // 2


def text_of(prompt: Prompt) -> str:
    """Return the text of documents in a prompt."""
    return "\n".join(
        part["text"] if part["type"] == "text" else part["image_url"]["url"] for part in prompt.parts
    )


def without_texts(words: str, texts: Iterable[str]) -> str:
    """Cut a message off where it repeats one of the texts."""
    end = len(words)
    for text in texts:
        # each repetition contains one of these steps entirely; the texts of a batch job are large
        for at in range(0, len(words) - _STEP + 1, _STEP):
            if words[at : at + _STEP] not in text:
                continue
            starts = range(max(at - _STEP, 0), min(at, len(words) - _SHINGLE) + 1)
            repeats = (start for start in starts if words[start : start + _SHINGLE] in text)
            if (start := next(repeats, None)) is not None:
                end = min(end, start)
                break
    return words if end == len(words) else f"{words[:end]}…"
