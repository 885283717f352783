"""Read chat completions in all the forms that endpoints send."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json import detect_encoding
from typing import Any, Final

from connectors.llm.json_text import parse, written
from connectors.llm.refusals import Refusal
from connectors.llm.streams import combined, is_stream, joined, stated_usage

_CUT: Final = frozenset({"length", "max_tokens", "model_length", "max_output_tokens", "incomplete"})
_FILTERED: Final = frozenset(
    {
        "content_filter", "content_filtered", "safety", "prohibited_content", "blocklist", "spii",
        "recitation", "sensitive", "refusal", "guardrail_intervened", "image_safety", "language",
    }
)  # fmt: skip
_BROKEN_OFF: Final = frozenset({"error", "abort", "aborted", "insufficient_system_resource", "network_error"})
_ERROR_FIELDS: Final = ("message", "detail", "errors", "error_msg", "base_resp", "msg", "fault", "Message")
_NO_ERROR: Final = (None, "", 0, "0", 200, "200")  # codes
_WRAPPERS: Final = ("data", "result", "output", "response")
_MAX_TOKENS: Final = 10**9  # of a call; a larger or non-numeric value is a mistake
_THOUGHTS: Final = ("reasoning_content", "reasoning", "reasoning_details")
_TITLE: Final = re.compile(r"<title[^>]*>\s*([^<]+)", re.IGNORECASE)
_MAX_TITLE: Final = 100  # characters
_MAX_NAMES: Final = 5
_GUARD: Final = re.compile(
    r"\s*(?:\)\]\}'?,?|(?:while|for)\s*\((?:1|;;)\);)"
)  # against inclusion as a script
_OBJECTS: Final = ("json", "input", "arguments", "parsed")  # of a part that has its answer as an object


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered.

    Args:
        finish_reason: why it ended, in OpenAI's terms: `length` if it was cut off.
        refusal: set if the model declined.
        tokens_cached: part of `tokens_in` that came from the endpoint's cache.
        usage_known: the endpoint reported token counts; otherwise they are 0.
        thinks: some tokens were spent on reasoning.
    """

    content: str
    finish_reason: str
    refusal: str
    tokens_in: int
    tokens_out: int
    usage_known: bool = True
    thinks: bool = False
    tokens_cached: int = 0


def read_body(content: bytes) -> object:
    """Parse the JSON of an answer's body, which may be a stream although none was requested.

    Raises:
        ValueError: it is neither.
    """
    encoding = detect_encoding(content)
    text = content.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    if guard := _GUARD.match(text):
        text = text[guard.end() :]
    if is_stream(text):
        return joined(text)
    lines = [line for each in text.split("\n") if (line := each.strip())]
    if len(lines) > 1 and all(line[0] == "{" and line[-1] == "}" for line in lines):
        objects = [parse(line) for line in lines]
        return combined(objects) if any("choices" in one for one in objects) else objects
    return parse(text)


def description_of(content: bytes, headers: Mapping[str, str]) -> str:
    """Describe a body that is not a completion, without its content, which may be of a document."""
    text = content.decode("utf-8", "replace")
    if title := _TITLE.search(text):
        return f"a page titled {' '.join(title[1].split())[:_MAX_TITLE]!r}"
    try:
        body = parse(text)
    except ValueError:
        body = None
    if isinstance(body, Mapping) and body:
        return f"an object with {', '.join(f'`{name}`' for name in list(body)[:_MAX_NAMES])}"[:_MAX_TITLE]
    kind = headers.get("content-type", "").partition(";")[0].strip() or "unknown type"
    return f"{len(content):,} bytes of {kind}"


def read_completion(body: object) -> Reply | Refusal | None:
    """Return the first choice of a completion, or an error sent with status 200; None for anything else."""
    if isinstance(body, list) and len(body) == 1:
        (body,) = body
    if not isinstance(body, Mapping):
        return None
    if "choices" not in body:
        body = _as_completion(body)
    choices = body.get("choices")
    if isinstance(choices, Mapping):
        choices = [choices] if "message" in choices else list(choices.values())
    choice = _choice(choices) if isinstance(choices, list) and choices else None
    error = body.get("error") or (choice.get("error") if isinstance(choice, Mapping) else None)
    if _is_stated(error):
        return _refusal(error)
    if not isinstance(choice, Mapping):
        # a chat-completions endpoint without an answer now, or a different kind of endpoint
        if any(body.get(name) and isinstance(body[name], str | list | Mapping) for name in _ERROR_FIELDS):
            return _refusal(body)
        return Refusal(200, "the completion has no choices") if "choices" in body else None
    message = choice.get("message") or choice.get("delta")
    message = message if isinstance(message, Mapping) else {"content": message}
    content = _content(message, choice)
    finish = _finish(choice, content)
    if finish in _BROKEN_OFF:
        return Refusal(502, f"the answer broke off ({finish})")
    usage = stated_usage(body)
    tokens_in, tokens_out, known = _usage(usage)
    thoughts = next((one for name in _THOUGHTS if (one := _text(message.get(name), thoughts=True))), "")
    return Reply(
        content=content or ("" if finish == "length" else thoughts),
        finish_reason=finish,
        refusal=_text(message.get("refusal")) or _refused(message.get("content")),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        usage_known=known,
        tokens_cached=min(_cached(usage), tokens_in),
        thinks=bool(thoughts) or "<think" in content or _thinks(usage),
    )


def _is_stated(error: object) -> bool:
    """Return whether there is an error; some gateways send one without content, or with the code 0."""
    if not isinstance(error, Mapping):
        return bool(error)
    return error.get("code") not in _NO_ERROR or (error.get("code") is None and any(error.values()))


def _choice(choices: Sequence[object]) -> object:
    """Return the choice with an answer: some gateways put text and calls into different ones."""
    ordered = sorted(choices, key=lambda one: _figure(one, "index") or 0)
    for one in ordered:
        message = one.get("message") if isinstance(one, Mapping) else None
        if isinstance(one, Mapping) and isinstance(message, Mapping) and "{" in _content(message, one):
            return one
    return ordered[0]


def _as_completion(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a message of another API, or in a wrapper, to a completion; return others unchanged."""
    for name in _WRAPPERS:
        inner = body.get(name)
        if isinstance(inner, Mapping) and "choices" in inner:
            return {"usage": body.get("usage"), **inner}
    if body.get("object") == "response" and isinstance(body.get("output"), list):
        return _of_response(body)
    message = body.get("message")
    if body.get("type") == "message" and isinstance(body.get("content"), str | list):
        choice = {"message": {"content": body["content"]}, "finish_reason": body.get("stop_reason")}
        return {"choices": [choice], "usage": body.get("usage")}
    if isinstance(message, Mapping) and "done" in body:
        usage = {"prompt_tokens": body.get("prompt_eval_count"), "completion_tokens": body.get("eval_count")}
        choice = {"message": message, "finish_reason": body.get("done_reason")}
        return {"choices": [choice], "usage": usage}
    if isinstance(message, Mapping) and isinstance(message.get("content"), str | list):
        return {**body, "choices": [{"message": message, "finish_reason": body.get("finish_reason")}]}
    return body


def _of_response(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A completion of what OpenAI's Responses API gives."""
    items = [one for one in body["output"] if isinstance(one, Mapping) and one.get("type") != "reasoning"]
    parts = [part for one in items if isinstance(one.get("content"), list) for part in one["content"]]
    message = {"content": parts, "tool_calls": [one for one in items if one.get("type") == "function_call"]}
    details = body.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return {**body, "choices": [{"message": message, "finish_reason": reason}]}


def _refusal(error: object) -> Refusal:
    codes = [str(error.get(name)) for name in ("code", "status")] if isinstance(error, Mapping) else []
    status = next((int(code) for code in codes if re.fullmatch(r"[45]\d\d", code)), 502)
    refusal = Refusal.of_body(400 if "content_filter" in codes else status, {"error": error})
    # LM Studio's answer to an unknown path
    return replace(refusal, status=404) if "nexpected endpoint" in refusal.message else refusal


def _finish(choice: Mapping[str, Any], content: str) -> str:
    reason = str(choice.get("finish_reason") or "").casefold().replace("-", "_")
    words = {*re.findall(r"\w+", reason)}  # `FinishReason.SAFETY`, `content_filter: SAFETY`
    if words & _CUT:
        return "stop" if _has_ended(content) else "length"
    return "content_filter" if words & _FILTERED else reason


def _has_ended(content: str) -> bool:
    """Return whether JSON is complete before the white space that some models write up to the limit."""
    text = content.rstrip()
    if text == content or not text.endswith(("}", "]")):
        return False
    try:
        parse(text)
    except ValueError:
        return False
    return True


def _content(message: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    """Return the answer's text: a message's content, a tool call's arguments, or the legacy `text`."""
    text = _text(message.get("content"))
    called = [arguments for call in _calls(message) if (arguments := _text(call.get("arguments")))]
    if called:
        return "\n".join([text, *called] if "{" in text else called)
    if text.strip():
        return text
    return _text(message.get("parsed")) or _text(choice.get("text"))


def _calls(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else [calls]
    functions = [one.get("function") or one for one in calls if isinstance(one, Mapping)]
    yield from (one for one in (*functions, message.get("function_call")) if isinstance(one, Mapping))


def _text(content: object, *, thoughts: bool = False) -> str:
    """Convert content to text: its text parts (with thoughts only on request), or an object as JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, thoughts) for part in content)
    return written(content) if isinstance(content, Mapping) and content else ""


def _part(part: object, thoughts: bool) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return ""
    kind = str(part.get("type"))
    if not thoughts and ("think" in kind or "reason" in kind):
        return ""
    text = part.get("text")
    text = text.get("value") if isinstance(text, Mapping) else text
    objects = (part.get(name) for name in _OBJECTS)
    return _text(text) or next((written(one) for one in objects if isinstance(one, Mapping) and one), "")


def _refused(content: object) -> str:
    """Return the refusals among the parts of a content."""
    parts = content if isinstance(content, list) else []
    return "".join(_text(part.get("refusal")) for part in parts if isinstance(part, Mapping))


def _usage(usage: object) -> tuple[int, int, bool]:
    """Return the tokens of prompt and answer, and whether both are known; one may follow from the total.

    A total larger than their sum includes thoughts that the answer's count omits.
    """
    if isinstance(usage, Mapping) and isinstance(usage.get("tokens"), Mapping):
        usage = usage["tokens"]
    tokens_in = _figure(usage, "prompt_tokens", "promptTokens", "promptTokenCount")
    if tokens_in is None:
        tokens_in = _figure(usage, "input_tokens", "inputTokens")
        if tokens_in is not None:  # Anthropic counts tokens of cache reads and writes separately
            tokens_in += sum(_figure(usage, f"cache_{one}_input_tokens") or 0 for one in ("read", "creation"))
    tokens_out = _figure(
        usage,
        "completion_tokens",
        "output_tokens",
        "completionTokens",
        "candidatesTokenCount",
        "outputTokens",
    )
    total = _figure(usage, "total_tokens", "totalTokenCount", "totalTokens")
    if tokens_in and total is not None and total >= tokens_in + (tokens_out or 0):
        tokens_out = total - tokens_in
    elif not tokens_in and tokens_out is not None and total is not None and total > tokens_out:
        tokens_in = total - tokens_out
    if not tokens_in or tokens_out is None:
        return 0, 0, False
    return tokens_in, tokens_out, True


def _figure(usage: object, *names: str) -> int | None:
    """Return the first token count under one of these names, as a number or digits in quotes."""
    for name in names:
        value = usage.get(name) if isinstance(usage, Mapping) else None
        if isinstance(value, str) and re.fullmatch(r"\d{1,9}(\.0+)?", value):
            return int(float(value))
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS:
            return int(value)
    return None


def _cached(usage: object) -> int:
    known = usage if isinstance(usage, Mapping) else {}
    details = known.get("prompt_tokens_details") or known.get("input_tokens_details")
    read = _figure(
        usage,
        "prompt_cache_hit_tokens",
        "cache_read_input_tokens",
        "cached_tokens",
        "cachedContentTokenCount",
    )
    return _figure(details, "cached_tokens") or read or 0


def _thinks(usage: object) -> bool:
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    return isinstance(details, Mapping) and bool(details.get("reasoning_tokens"))
