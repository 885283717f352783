"""Combine the parts of a streamed completion; some gateways stream although it was not requested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from connectors.llm.json_text import parse, written

_STARTS = ("data:", "event:", ":", "id:", "retry:")
_USAGES = ("usage", "usageMetadata", "usage_metadata")
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")


def is_stream(text: str) -> bool:
    """Return whether a body is a stream of events rather than JSON; comments keep a connection alive."""
    return text.lstrip().startswith(_STARTS)


def joined(text: str) -> Any:
    """Combine the events of a stream into a completion with its first choice, or return the error among them.

    Raises:
        ValueError: an event is not JSON.
    """
    bare = "\n".join(line for line in text.split("\n") if not line.startswith(":")).strip()
    if bare.startswith(("{", "[")):
        return parse(bare)  # comments that kept the connection alive precede a plain JSON answer
    events = list(_events(text))
    return _of_another_api(events) or combined(events, has_ended="[DONE]" in text)


def combined(events: Iterable[Mapping[str, Any]], *, has_ended: bool = False) -> dict[str, Any]:
    """Combine the parts of a completion. `has_ended`: the stream ended with a mark."""
    message: dict[str, list[object]] = {}
    arguments: dict[object, str] = {}
    choice: dict[str, Any] = {}
    whole: dict[str, Any] = {}
    for event in events:
        if event.get("error"):
            return {"error": event["error"]}
        if usage := stated_usage(event):
            whole["usage"] = usage
        part = _first_choice(event.get("choices"))
        choice |= {name: part[name] for name in ("finish_reason", "error") if part.get(name)}
        delta = part.get("delta") or part.get("message") or {"content": part.get("text")}
        if isinstance(delta, Mapping):
            for name in _TEXTS:
                pieces = delta.get(name)
                pieces = pieces if isinstance(pieces, list) else [pieces] if isinstance(pieces, str) else []
                if not part.get("delta") and _text(pieces).startswith(_text(message.get(name, []))):
                    message[name] = []  # the whole message ends the stream
                message.setdefault(name, []).extend(pieces)
            for index, text in _arguments(delta):
                arguments[index] = arguments.get(index, "") + text
    texts = {name: _text(pieces) for name, pieces in message.items() if pieces}
    answer = "".join((*texts.values(), *arguments.values()))
    if "finish_reason" not in choice and not has_ended and not _is_closed(answer):
        choice["finish_reason"] = "abort"  # the stream broke off
    called = [{"function": {"arguments": text}} for text in arguments.values()]
    calls = {"tool_calls": called} if called else {}
    in_parts = {
        name: pieces for name, pieces in message.items() if not all(isinstance(one, str) for one in pieces)
    }
    return {**whole, "choices": [{**choice, "message": {**texts, **in_parts, **calls}}]}


def _of_another_api(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return what the events of OpenAI's Responses API or of Anthropic's Messages make up; None for others.

    An error among them, or the absence of the last event, is an error.
    """
    kinds = {str(event.get("type")): event for event in events}  # the last one of each
    start = kinds.get("message_start", {}).get("message")
    if not isinstance(start, Mapping) and "response.created" not in kinds:
        return None
    if error := kinds.get("error"):
        return {"error": error.get("error") or error}
    for end in ("response.completed", "response.incomplete", "response.failed"):
        if isinstance(response := kinds.get(end, {}).get("response"), Mapping):
            return response
    last = kinds.get("message_delta", {})
    stopped = _mapping(last.get("delta")).get("stop_reason")
    if not (isinstance(start, Mapping) and stopped):
        return {"error": {"message": "the stream broke off"}}
    deltas = [_mapping(one.get("delta")) for one in events if one.get("type") == "content_block_delta"]
    text = "".join(str(one.get("text") or one.get("partial_json") or "") for one in deltas)
    usage = {**_mapping(start.get("usage")), **_mapping(last.get("usage"))}
    return {**start, "content": text, "stop_reason": stopped, "usage": usage}


def stated_usage(body: Mapping[str, Any]) -> object:
    """Return the usage of a completion or an event; Groq and Moonshot have places of their own for it."""
    places = (body, body.get("x_groq"), _first_choice(body.get("choices")))
    found = (one.get(name) for one in places if isinstance(one, Mapping) for name in _USAGES)
    return next((one for one in found if one), None)


def _text(pieces: Iterable[object]) -> str:
    """Join texts, and those of parts of a content."""
    texts = (one.get("text") if isinstance(one, Mapping) else one for one in pieces)
    return "".join(one for one in texts if isinstance(one, str))


def _is_closed(answer: str) -> bool:
    """Return whether an answer may be complete: some gateways end a stream without a mark."""
    return answer.rstrip().endswith(("}", "]", "`"))


def _events(text: str) -> Iterator[Mapping[str, Any]]:
    for line in text.split("\n"):  # not `splitlines`: texts may contain other separators
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data and data != "[DONE]":
            event = parse(data)
            if isinstance(event, Mapping):
                yield event


def _arguments(delta: Mapping[str, Any]) -> Iterator[tuple[object, str]]:
    """The parts of calls' arguments, as text, each with the number of its call."""
    calls = delta.get("tool_calls")
    for call in (*(calls if isinstance(calls, list) else ()), {"function": delta.get("function_call")}):
        function = call.get("function") if isinstance(call, Mapping) else None
        arguments = function.get("arguments") if isinstance(function, Mapping) else None
        if arguments and isinstance(arguments, str | Mapping):
            text = arguments if isinstance(arguments, str) else written(arguments)
            yield str(call.get("index") or 0), text


def _first_choice(choices: object) -> Mapping[str, Any]:
    """Return an event's first choice; others may be interleaved."""
    parts = choices if isinstance(choices, list) else []
    return _mapping(next((one for one in parts if not (isinstance(one, Mapping) and one.get("index"))), None))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
