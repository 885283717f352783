"""Read chat completions, in all the shapes in which endpoints send them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from connectors.llm.json_text import parse, written
from connectors.llm.refusals import Refusal
from connectors.llm.streams import is_stream, joined

__all__ = ["Reply", "read_body", "read_completion"]

_CUT: Final = frozenset({"length", "max_tokens", "model_length", "max_output_tokens", "incomplete"})
_FILTERED: Final = frozenset(
    {"content_filter", "safety", "prohibited_content", "blocklist", "spii", "recitation", "sensitive"}
)
_BROKEN_OFF: Final = frozenset({"error", "abort", "aborted", "insufficient_system_resource", "network_error"})
_ERROR_FIELDS: Final = ("message", "detail", "errors", "error_msg", "base_resp", "msg")
_MAX_TOKENS: Final = 10**9  # of a call; what is more, or no number, is a mistake
_THOUGHTS: Final = ("reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered.

    Args:
        finish_reason: why it ended, in OpenAI's words: `length` when it was cut off.
        refusal: set when the model declined.
        usage_known: the endpoint said how many tokens it took; otherwise the figures are 0.
        thinks: a part of the tokens went into thoughts.
    """

    content: str
    finish_reason: str
    refusal: str
    tokens_in: int
    tokens_out: int
    usage_known: bool = True
    thinks: bool = False


def read_body(content: bytes) -> object:
    """The JSON of an answer's body, or of the stream that it is although none was asked for.

    Raises:
        ValueError: it is neither.
    """
    text = content.decode("utf-8-sig")
    return joined(text) if is_stream(text) else parse(text)


def read_completion(body: object) -> Reply | Refusal | None:
    """The first choice of a completion; an error that came with status 200; None when it is neither."""
    if not isinstance(body, Mapping):
        return None
    if "choices" not in body:
        body = _as_completion(body)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    error = body.get("error") or (choice.get("error") if isinstance(choice, Mapping) else None)
    if error:
        return _refusal(error)
    if not isinstance(choice, Mapping):
        # an endpoint of chat completions that has nothing to say now, or another endpoint altogether
        if any(isinstance(body.get(name), str | list | Mapping) for name in _ERROR_FIELDS):
            return _refusal(body)
        return Refusal(502, "it answered without a choice") if "choices" in body else None
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    finish = _finish(choice)
    if finish in _BROKEN_OFF:
        return Refusal(502, f"the answer broke off ({finish})")
    tokens_in, tokens_out, known = _usage(body.get("usage"))
    content = _content(message, choice)
    thoughts = next((one for name in _THOUGHTS if (one := _text(message.get(name)))), "")
    return Reply(
        content=content or ("" if finish == "length" else thoughts),
        finish_reason=finish,
        refusal=_text(message.get("refusal")),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        usage_known=known,
        thinks=bool(thoughts) or "<think" in content or _thinks(body.get("usage")),
    )


def _as_completion(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message in the shape of Anthropic's own API or Ollama's, as a completion; others as they are."""
    message = body.get("message")
    if body.get("type") == "message" and isinstance(body.get("content"), str | list):
        choice = {"message": {"content": body["content"]}, "finish_reason": body.get("stop_reason")}
        return {"choices": [choice], "usage": body.get("usage")}
    if isinstance(message, Mapping) and "done" in body:
        usage = {"prompt_tokens": body.get("prompt_eval_count"), "completion_tokens": body.get("eval_count")}
        choice = {"message": message, "finish_reason": body.get("done_reason")}
        return {"choices": [choice], "usage": usage}
    return body


def _refusal(error: object) -> Refusal:
    code = error.get("code") if isinstance(error, Mapping) else None
    status = int(code) if isinstance(code, int | str) and str(code).isdecimal() else 0
    return Refusal.of_body(status if 400 <= status <= 599 else 502, {"error": error})


def _finish(choice: Mapping[str, Any]) -> str:
    reason = str(choice.get("finish_reason") or "").casefold().replace("-", "_")
    return "length" if reason in _CUT else "content_filter" if reason in _FILTERED else reason


def _content(message: Mapping[str, Any], choice: Mapping[str, Any]) -> str:
    """The text of the answer: a message's content, the arguments of a tool call, or an older form's text."""
    text = _text(message.get("content"))
    if text.strip():
        return text
    for call in _calls(message):
        if arguments := _text(call.get("arguments")):
            return arguments
    return _text(choice.get("text"))


def _calls(message: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    functions = (
        [one.get("function") for one in calls if isinstance(one, Mapping)] if isinstance(calls, list) else []
    )
    yield from (one for one in (*functions, message.get("function_call")) if isinstance(one, Mapping))


def _text(content: object) -> str:
    """A content as text: itself, its text parts without thoughts, or an object as JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(map(_part, content))
    return written(content) if isinstance(content, Mapping) else ""


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping) or "think" in str(part.get("type")) or "reason" in str(part.get("type")):
        return ""
    text = part.get("text")
    return _text(text.get("value") if isinstance(text, Mapping) else text)


def _usage(usage: object) -> tuple[int, int, bool]:
    """Tokens of prompt and answer, and whether both are known; one of them may follow from the total."""
    tokens_in = _figure(usage, "prompt_tokens", "input_tokens")
    tokens_out = _figure(usage, "completion_tokens", "output_tokens")
    total = _figure(usage, "total_tokens")
    if tokens_out is None and tokens_in and total is not None and total >= tokens_in:
        tokens_out = total - tokens_in
    elif not tokens_in and tokens_out is not None and total is not None and total > tokens_out:
        tokens_in = total - tokens_out
    if not tokens_in or tokens_out is None:
        return 0, 0, False
    return tokens_in, tokens_out, True


def _figure(usage: object, *names: str) -> int | None:
    """The first count of tokens under one of these names; digits in quotes are one too."""
    for name in names:
        value = usage.get(name) if isinstance(usage, Mapping) else None
        if isinstance(value, str) and value.isdecimal():
            return int(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS:
            return int(value)
    return None


def _thinks(usage: object) -> bool:
    details = usage.get("completion_tokens_details") if isinstance(usage, Mapping) else None
    return isinstance(details, Mapping) and bool(details.get("reasoning_tokens"))
