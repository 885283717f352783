"""The dialect of an endpoint: which request features it accepts, learned from what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, TypeAlias

from connectors.llm.prompt import Prompt
from connectors.llm.refusals import Cause, Refusal, numbers_in

JsonObject: TypeAlias = dict[str, Any]

MIN_ANSWER: Final = 16  # tokens; an endpoint that gives less is of no use
_LIMIT_NAMES: Final = ("max_tokens", "max_completion_tokens", "")
_CHOICES: Final = ("named", "required", "")


class Level(StrEnum):
    """Ways to request the form of an answer, the strictest first."""

    JSON_SCHEMA = "json_schema"
    TOOL = "tool"
    JSON_OBJECT = "json_object"
    TEXT = "text"

    @property
    def below(self) -> Level | None:
        """The next less strict one."""
        return _BELOW[self]


_BELOW: Final = dict(zip(Level, [*list(Level)[1:], None], strict=True))


@dataclass(frozen=True, slots=True)
class Dialect:
    """The request features that an endpoint accepts.

    Args:
        level: how to request the form of an answer.
        strict: whether a JSON schema may be declared strict.
        choice: how to demand the tool call: by its name, as `required`, or "" if neither is accepted.
        temperature: sampling temperature; None if not accepted or not set.
        limit_name: name of the parameter for the answer limit; "" if not accepted.
        limit: maximum tokens of an answer, if the endpoint has reported it.
        system: whether messages of the role `system` are accepted.
        stream: whether answers are accepted only as streams.
        stream_usage: whether a stream may be asked to report its usage.
    """

    level: Level = Level.JSON_SCHEMA
    temperature: float | None = None
    strict: bool = True
    choice: str = "named"
    limit_name: str = "max_tokens"
    limit: int | None = None
    system: bool = True
    stream: bool = False
    stream_usage: bool = True

    def body(self, prompt: Prompt, max_tokens: int) -> JsonObject:
        """Return the request without the name of the model."""
        body: JsonObject = {"messages": self._messages(prompt)}
        if self.level is Level.JSON_SCHEMA:
            strict = {"strict": True} if self.strict else {}
            schema = {"name": prompt.name, **strict, "schema": prompt.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.level is Level.TOOL:
            function = {"name": prompt.name, "parameters": prompt.schema}
            body["tools"] = [{"type": "function", "function": function}]
            if self.choice:
                named = {"type": "function", "function": {"name": prompt.name}}
                body["tool_choice"] = named if self.choice == "named" else self.choice
        elif self.level is Level.JSON_OBJECT:
            body["response_format"] = {"type": "json_object"}
        if self.limit_name:
            body[self.limit_name] = self.capped(max_tokens)
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.stream:
            body["stream"] = True
            if self.stream_usage:
                body["stream_options"] = {"include_usage": True}
        return body

    def _messages(self, prompt: Prompt) -> list[JsonObject]:
        system, user = prompt.system, prompt.user
        if self.level is not Level.JSON_SCHEMA:
            # the endpoint does not enforce the schema, so the prompt states it
            schema = json.dumps(prompt.schema, ensure_ascii=False, separators=(",", ":"))
            system += f"\n\nThe JSON object has to keep to this JSON schema:\n{schema}"
        if self.system:
            return [{"role": "system", "content": system}, {"role": "user", "content": user}]
        if isinstance(user, str):
            return [{"role": "user", "content": f"{system}\n\n{user}"}]
        return [{"role": "user", "content": [{"type": "text", "text": system}, *user]}]

    def capped(self, max_tokens: int) -> int:
        """Return the limit of an answer, capped at the endpoint's."""
        return max_tokens if self.limit is None else min(max_tokens, self.limit)

    def adapted(self, cause: Cause, refusal: Refusal, max_tokens: int) -> Dialect | None:
        """Return the dialect without the refused feature; None if nothing is left to omit."""
        if cause is Cause.TEMPERATURE and self.temperature is not None:
            return replace(self, temperature=None)
        if cause is Cause.FORMAT:
            return self._looser(refusal)
        if cause is Cause.SYSTEM_ROLE and self.system:
            return replace(self, system=False)
        if cause is Cause.NOT_STREAMED and not self.stream:
            return replace(self, stream=True)
        if cause is Cause.STREAM_OPTIONS and self.stream and self.stream_usage:
            return replace(self, stream_usage=False)
        if cause is Cause.LIMIT_NAME and self.limit_name:
            following = _LIMIT_NAMES[_LIMIT_NAMES.index(self.limit_name) + 1]
            return replace(self, limit_name=following)
        if cause is Cause.ANSWER_LIMIT and self.limit_name:
            asked = self.capped(max_tokens)
            given = [number for number in numbers_in(refusal.message) if MIN_ANSWER <= number < asked]
            return replace(self, limit=max(given, default=asked // 2)) if asked > MIN_ANSWER else None
        return None

    def _looser(self, refusal: Refusal) -> Dialect | None:
        """Return the dialect without the part of the form that a refusal names, else at the level below."""
        if self.level is Level.JSON_SCHEMA and self.strict and refusal.names("strict"):
            return replace(self, strict=False)
        if self.level is Level.TOOL and self.choice and refusal.names("tool_choice"):
            return replace(self, choice=_CHOICES[_CHOICES.index(self.choice) + 1])
        return replace(self, level=self.level.below) if self.level.below is not None else None

    def simpler(self) -> Iterator[Dialect]:
        """Return the next simpler dialect, for an endpoint that refuses without naming a feature."""
        dialect = self
        if dialect.stream and dialect.stream_usage:
            dialect = replace(dialect, stream_usage=False)
            yield dialect
        if dialect.level is Level.JSON_SCHEMA and dialect.strict:
            dialect = replace(dialect, strict=False)
            yield dialect
        while dialect.level.below is not None:
            dialect = replace(dialect, level=dialect.level.below)
            yield dialect
        if dialect.temperature is not None:
            dialect = replace(dialect, temperature=None)
            yield dialect
        while dialect.limit_name:
            following = _LIMIT_NAMES[_LIMIT_NAMES.index(dialect.limit_name) + 1]
            dialect = replace(dialect, limit_name=following)
            yield dialect
        yield replace(dialect, system=False)
