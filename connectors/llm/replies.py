"""Read replies: find the JSON that a model wrote, and match its parts to documents.

Models wrap answers in thoughts, fences, prose, another object or a list. All of it is searched for objects
that echo a nonce, which identifies their document. The prompt of a single document has no nonce, and the
answer is the record itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from connectors.llm.json_text import NumberLiteral, parse, repaired
from connectors.llm.schema import TargetSchema
from connectors.llm.shapes import Choice
from connectors.llm.spelling import by_name, folded_name, says_nothing
from connectors.llm.structures import Field

Values: TypeAlias = Mapping[str, object]

_THOUGHT_TAG: Final = re.compile(r"<(/?)(think|thinking|thought|reasoning|reflection)>", re.IGNORECASE)
_FENCE: Final = "```"
_LANGUAGE: Final = re.compile(r"[a-zA-Z0-9_-]*")
_ARGUMENTS: Final = frozenset({"arguments", "parameters", "input"})
_CALL: Final = _ARGUMENTS | {"name", "id", "type"}
_MAX_DEPTH: Final = 4  # of wrappers around the answers
_MAX_STARTS: Final = 200  # places of a reply at which JSON is looked for


@dataclass(frozen=True, slots=True)
class Reading:
    """The answers of a reply by slot. `repaired`: its JSON had mistakes with only one possible meaning."""

    answers: dict[str, Values]
    repaired: bool = False


def match_slots(
    content: str, nonces: Mapping[str, str], fields: Collection[str] = (), items: Collection[str] = ()
) -> Reading | None:
    """Match values to the slots of a prompt by nonce; return None if the reply has no JSON.

    A slot's answer is the object with its nonce, in any position: swapped answers are corrected. A slot whose
    nonce is missing or occurs twice is omitted. If the object has none of the `fields`, they are taken from
    the only object inside it that has them, unless that is about another document. `items`: names of the
    fields of the records that the single one of `fields` lists.
    """
    wanted = {folded_name(field) for field in fields}
    inner = {folded_name(item) for item in items}
    answers: dict[str, Values] = {}
    readable = mending = False
    for value, mended in _candidates(content):
        if not value or not isinstance(value, Mapping | list):
            continue
        readable = True
        echoing = list(_objects(value, set(nonces.values())))
        echoed = Counter(map(_nonce_of, echoing))
        by_nonce = {_nonce_of(one): _record(one, wanted, 1) or one for one in echoing}
        if inner:
            by_nonce = {nonce: _named(one, wanted, inner) for nonce, one in by_nonce.items()}
        found = {
            slot: by_nonce[nonce]
            for slot, nonce in nonces.items()
            if echoed[nonce] == 1 and _nonce_of(by_nonce[nonce]) in ("", nonce)
        }
        mending = mending or (mended and not found.keys() <= answers.keys())
        answers = found | answers  # the likelier ones come first
        if len(answers) == len(nonces):
            break
    return Reading(answers, mending) if readable else None


def read_lone(
    content: str, slot: str, fields: Collection[str], items: Collection[str] = ()
) -> Reading | None:
    """Return the values for the single document of a prompt; None if the reply has no JSON object.

    They may be inside a wrapper. An object without any of the fields is not an answer. `items`: as in
    `match_slots`; the list of records may then be the whole reply.
    """
    wanted = {folded_name(field) for field in fields}
    inner = {folded_name(item) for item in items}
    best: Reading | None = None
    for value, mended in _candidates(content):
        if isinstance(value, Mapping | list) and value and best is None:
            best = Reading({}, mended)
        record = _record(value, wanted, _MAX_DEPTH)
        if record is not None:
            return Reading({slot: record}, mended)
        listed = _list_of(value, inner)
        if listed:
            return Reading({slot: {next(iter(fields)): listed}}, mended)
    return best


def _named(values: Values, fields: Collection[str], items: Collection[str]) -> Values:
    """The answer of a slot whose records go by another name, or that is its only record."""
    if any(folded_name(name) in fields for name in values):
        return values
    single = any(folded_name(name) in items for name in values)
    listed = [values] if single else _list_of(values, items)
    return {"nonce": _nonce_of(values), next(iter(fields)): listed} if listed else values


def _list_of(value: object, items: Collection[str]) -> list[object]:
    """The records in a list, or in the only list of an object; empty when that is not what it is."""
    if isinstance(value, Mapping):
        lists = [one for one in value.values() if isinstance(one, list | Mapping) and one]
        value = lists[0] if len(lists) == 1 and not any(folded_name(name) in items for name in value) else []
    each = value if isinstance(value, list) else []
    fit = all(isinstance(one, Mapping) and any(folded_name(name) in items for name in one) for one in each)
    return each if fit else []


def _record(value: object, fields: Collection[str], depth: int) -> Values | None:
    """Return the only object inside `value` with any of the folded names; None if there is not just one."""
    value = _arguments(value, fields)
    if isinstance(value, Mapping) and any(folded_name(name) in fields for name in value):
        return value
    if not depth or not isinstance(value, Mapping | list):
        return None
    inside = value.values() if isinstance(value, Mapping) else value
    found = [one for part in inside if (one := _record(_unpacked(part), fields, depth - 1)) is not None]
    return found[0] if found and all(one == found[0] for one in found) else None


def _arguments(value: object, fields: Collection[str]) -> object:
    """Return the arguments of a call that is written as text, or the properties of a schema.

    The `name` of a call and the `type` of a schema are not those of a record.
    """
    if isinstance(value, Mapping) and value.get("type") == "object" and "properties" not in fields:
        properties = value.get("properties")
        return properties if isinstance(properties, Mapping) else value
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str) or value.keys() - _CALL:
        return value
    given = [one for name, one in value.items() if name in _ARGUMENTS and name not in fields]
    inner = _unpacked(given[0]) if len(given) == 1 else None
    return inner if isinstance(inner, Mapping) else value


def _objects(value: object, nonces: Collection[str], depth: int = _MAX_DEPTH) -> Iterator[Values]:
    """Yield the objects that echo one of the nonces, at any depth."""
    if isinstance(value, Mapping):
        if _nonce_of(value) in nonces:
            yield value
            return
        value = list(value.values())
    if depth and isinstance(value, list):
        for one in value:
            yield from _objects(_unpacked(one), nonces, depth - 1)


def _nonce_of(value: Values) -> str:
    """Return an object's nonce in its original form; some models change its case, or that of its name.

    One of digits (`12345678`, `12345e67`) may be written as a number.
    """
    nonce = value.get("nonce")
    if nonce is None:
        nonce = next((value[name] for name in value if folded_name(name) == "nonce"), None)
    if isinstance(nonce, str | int | NumberLiteral):
        return str(getattr(nonce, "literal", nonce)).strip().lower()
    return ""


def _unpacked(value: object) -> object:
    """Parse a text of JSON, such as the arguments of a call; return other values unchanged."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            return parse(value)
        except ValueError:
            pass
    return value


def _candidates(content: str) -> Iterator[tuple[object, bool]]:
    """Yield values that parse as JSON, the likeliest first, and whether they had to be repaired."""
    texts = []
    for text in _texts(content):
        texts.append(text)
        try:
            value = parse(text)
            for _ in range(_MAX_DEPTH):  # some gateways send JSON as a text of JSON
                value = parse(value) if isinstance(value, str) else value
            yield value, False
        except ValueError:
            continue
    for text in texts:
        value = repaired(text)
        if value is not None:
            yield value, True


def _texts(content: str) -> Iterator[str]:
    """Yield the parts of a reply that may be its JSON."""
    text = _without_thoughts(content).strip("\ufeff \t\r\n")
    if not text:
        return
    yield text
    fenced = text.split(_FENCE)[1:-1:2]
    # a draft precedes the final answer
    yield from (_LANGUAGE.sub("", one, count=1).strip() for one in reversed(fenced))
    yield from _balanced(text)


def _without_thoughts(text: str) -> str:
    """Remove closed thoughts, and everything before a closing tag without an opening one."""
    tags = list(_THOUGHT_TAG.finditer(text))
    last_end = {tag[2].lower(): tag.start() for tag in tags if tag[1]}
    kept: list[str] = []
    thought, at = "", 0
    for tag in tags:
        name = tag[2].lower()
        if thought:
            if tag[1] and name == thought:
                thought, at = "", tag.end()
        elif tag[1]:
            kept, at = [], tag.end()
        elif tag.start() < last_end.get(name, 0):
            kept.append(text[at : tag.start()])
            thought = name
    return "".join([*kept, text[at:]])


def _balanced(text: str) -> Iterator[str]:
    """Yield the outermost `{…}` and `[…]` of a text, the last ones first."""
    found: list[str] = []
    at = 0
    for _ in range(_MAX_STARTS):
        start = next((place for place in range(at, len(text)) if text[place] in "{["), None)
        if start is None:
            break
        end = _end_of(text, start)
        if end is None:
            at = start + 1
            continue
        found.append(text[start:end])
        at = end
    yield from reversed(found)


def _end_of(text: str, start: int) -> int | None:
    """Return where the bracket at `start` is closed, or None. Brackets in double quotes do not count."""
    closing, quoted, place = [], False, start
    while place < len(text):
        character = text[place]
        if quoted:
            if character == "\\":
                place += 1
            elif character == '"':
                quoted = False
        elif character == '"':
            quoted = True
        elif character in "{[":
            closing.append("}" if character == "{" else "]")
        elif character in "}]":
            if closing.pop() != character:
                return None
            if not closing:
                return place + 1
        place += 1
    return None


def normalise(values: Mapping[str, object], schema: TargetSchema) -> dict[str, object]:
    """Return the fields of `schema` that a reply states.

    Other names and spellings of a field are accepted if its own name has no value. Placeholders ("N/A",
    "unknown") count as no value, unless the field's values include them. Numbers become text in text fields
    (an age of 34 is "34"); nothing is truncated. A nullable field without a default is null if not stated.
    """
    found: dict[str, object] = {}
    values = by_name(values, schema.spellings)
    for name, field in schema.fields.items():
        for candidate in schema.names[name]:
            value = _value(values.get(candidate), field)
            if value is not None:
                found[name] = value
                break
        else:
            if field.required and field.shape.accepts_null:
                found[name] = None
    return found


def _value(value: object, field: Field) -> object:
    if isinstance(value, str) and says_nothing(value) and not field.shape.lists(value):
        return None
    if isinstance(value, str) and not (isinstance(field.shape, Choice) and field.shape.fits(value)):
        value = value.strip()
    return field.read(value)
