"""`${…}` inside string leaves.

====================  ==========================================================================
`${NAME}`             an environment variable, which must be set
`${NAME:-default}`    the default when it is unset or empty; the default may hold `${…}` itself
`${NAME:?message}`    a problem with this message when it is unset or empty
`${params.name}`      a parameter of the pipeline; alone in its string, it keeps its type
`${file:/path}`       the text of a file, without the newline at its end
`$${`                 a literal `${`
====================  ==========================================================================

`:-` and `:?` mean the same as in a POSIX shell. Inserted text is never expanded again, so nothing in the
environment can smuggle in another `${…}`; and it is inserted after the YAML was parsed, so it can never
change the structure of the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from engine.config.problems import Problems, unknown
from engine.config.values import Place, Plain, Value

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARAM: Final = re.compile(r"params\.([A-Za-z_][A-Za-z0-9_-]*)")
_FORMS: Final = "${NAME}, ${NAME:-default}, ${NAME:?message}, ${params.name} or ${file:/path}"


@dataclass(frozen=True, slots=True)
class Scope:
    """The values available to `${…}`.

    Args:
        environ: environment variables.
        params: the pipeline's parameters; None where parameters cannot be used.
        read_file: reads the file of `${file:…}`; raises OSError or ValueError.
        asked: external values requested so far (a variable's name or `file:path`), and where.
    """

    environ: Mapping[str, str] = field(repr=False)
    params: Mapping[str, Value] | None = None
    read_file: Callable[[str], str] | None = None
    asked: list[tuple[Place, str]] = field(default_factory=list, repr=False)


class _InvalidError(Exception):
    """A `${…}` that cannot be resolved; its text is the message."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class _Expansion:
    """The result for one string, and the texts in it that must not be shown."""

    parts: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    whole: Value | None = None
    failed: bool = False
    asked: list[str] = field(default_factory=list)


def escape(text: str) -> str:
    """Return the string that `interpolate` turns into `text`."""
    return text.replace("${", "$${")


def interpolate(value: Value, scope: Scope, problems: Problems) -> Value:
    """Resolve `${…}` in string leaves; a leaf that cannot be resolved is marked `failed`."""
    if isinstance(value.data, dict):
        return replace(
            value, data={key: interpolate(item, scope, problems) for key, item in value.data.items()}
        )
    if isinstance(value.data, list):
        return replace(value, data=[interpolate(item, scope, problems) for item in value.data])
    if isinstance(value.data, str) and "${" in value.data:
        return _interpolate_leaf(value, value.data, scope, problems)
    return value


def _interpolate_leaf(value: Value, text: str, scope: Scope, problems: Problems) -> Value:
    try:
        expansion = _expand(text, scope)
        scope.asked.extend((value.place, name) for name in expansion.asked)
    except _InvalidError as error:
        problems.add(value.place, str(error), error.hint)
        return replace(value, data=None, failed=True)
    whole = expansion.whole
    if expansion.failed:
        return replace(value, data=None, failed=True)
    if whole is not None:
        # a problem with a value from the command line has to be fixed there
        place = whole.place if whole.place.file == "--param" else value.place
        place = replace(place, hidden=(*place.hidden, *whole.secrets()))
        data = _at(whole.data, replace(value, place=place))
        return replace(whole, place=place, data=data, failed=value.failed or whole.failed)
    data, hidden = "".join(expansion.parts), tuple(expansion.hidden)
    if not hidden:
        return replace(value, data=data)
    return replace(value, data=data, place=replace(value.place, hidden=hidden), shown=text, hidden=hidden)


def _at(data: Plain, where: Value) -> Plain:
    """Return the items of a list or mapping parameter, with the position where it is used."""
    if isinstance(data, dict):
        return {
            key: replace(item, place=where.place.at(key), data=_at(item.data, where))
            for key, item in data.items()
        }
    if isinstance(data, list):
        return [
            replace(item, place=where.place.at(index), data=_at(item.data, where))
            for index, item in enumerate(data)
        ]
    return data


def _expand(text: str, scope: Scope) -> _Expansion:
    expansion = _Expansion()
    position = 0
    while position < len(text):
        if text.startswith("$${", position):
            expansion.parts.append("${")
            position += 3
        elif text.startswith("${", position):
            end = _closing(text, position)
            _put(text[position + 2 : end], scope, expansion)
            if position or end + 1 < len(text):
                _flatten(expansion)
            position = end + 1
        else:
            following = text.find("$", position + 1)
            following = len(text) if following < 0 else following
            expansion.parts.append(text[position:following])
            position = following
    return expansion


def _closing(text: str, start: int) -> int:
    """The index of the brace that closes the `${` at `start`."""
    depth, position = 0, start
    while position < len(text):
        if text.startswith("${", position):
            depth += 1
            position += 1
        elif text[position] == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    raise _InvalidError("`${` is not closed by `}`", "write $${ for a literal ${")


def _put(body: str, scope: Scope, into: _Expansion) -> None:
    if body.startswith("params."):
        into.whole = _param(body, scope)
    elif body.startswith("file:"):
        _put_file(body.removeprefix("file:"), scope, into)
    else:
        _put_variable(body, scope, into)


def _param(body: str, scope: Scope) -> Value:
    matched = _PARAM.fullmatch(body)
    if matched is None:
        hint = "set the default of a parameter under `params:`" if ":" in body else f"write {_FORMS}"
        raise _InvalidError(f"cannot parse `${{{body}}}`", hint)
    if scope.params is None:
        raise _InvalidError(
            f"`${{{body}}}` cannot be used here", "parameters are available only inside a pipeline's nodes"
        )
    name = matched[1]
    if name not in scope.params:
        raise _InvalidError(unknown("parameter", name, scope.params))
    return scope.params[name]


def _put_file(template: str, scope: Scope, into: _Expansion) -> None:
    inner = _expand(template, scope)
    _flatten(inner)
    path = "".join(inner.parts)
    into.asked += [*inner.asked, f"file:{path}"]
    if scope.read_file is None:
        raise _InvalidError("`${file:…}` cannot be used here")
    try:
        text = scope.read_file(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _InvalidError(f"`${{file:{template}}}` cannot be read: {reason}") from None
    into.parts.append(text)
    into.hidden.append(text)


def _put_variable(body: str, scope: Scope, into: _Expansion) -> None:
    matched = _NAME.match(body)
    name = matched[0] if matched else ""
    rest = body[len(name) :]
    if not name or (rest and not rest.startswith((":-", ":?"))):
        hint = f"write {_FORMS}"
        if name and rest[:1] in ("-", "?", ":"):  # as shells write it, and as Benthos does
            meant = rest if rest[0] != ":" else f"-{rest[1:]}"
            hint = f"did you mean `${{{name}:{meant}}}`?"
        raise _InvalidError(f"cannot parse `${{{body}}}`", hint)
    into.asked.append(name)
    found = scope.environ.get(name)
    if found is not None and (found or not rest):
        into.parts.append(found)
        into.hidden.append(found)
    elif rest.startswith(":-"):
        default = _expand(rest[2:], scope)
        _flatten(default)
        into.parts += default.parts
        into.asked += default.asked
        into.hidden += default.hidden
        into.failed = into.failed or default.failed
    elif rest.startswith(":?"):
        raise _InvalidError(f"environment variable `{name}` is not set: {rest[2:] or 'it is required'}")
    else:
        hint = f"set it, put it into .env, or write ${{{name}:-default}}"
        raise _InvalidError(f"environment variable `{name}` is not set", hint)


def _flatten(expansion: _Expansion) -> None:
    """Convert a parameter to text that is not alone in its string."""
    whole, expansion.whole = expansion.whole, None
    if whole is None:
        return
    expansion.failed = expansion.failed or whole.failed
    expansion.parts.append(_as_text(whole.plain()))
    expansion.hidden += whole.secrets()


def _as_text(data: Plain) -> str:
    if data is None:
        return ""
    if isinstance(data, bool):
        return "true" if data else "false"
    if isinstance(data, list | dict):
        return json.dumps(data, default=str)
    return str(data)
