"""Parse YAML to values with positions, as `yaml.safe_load` does, within limits.

libyaml reads the text twice: once as events, without recursion, to reject nesting that would exhaust the
stack, and once as nodes, whose marks give exact positions for messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import yaml
from yaml import CSafeLoader, MappingNode, Node, ScalarNode, SequenceNode
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent
from yaml.reader import ReaderError

from engine.config.values import Place, Plain, Value
from engine.errors import ConfigError, Problem

MAX_BYTES: Final = 1 << 20
"""Larger files are rejected; a hand-written file of this size would have about 30,000 lines."""
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 100_000
"""Maximum number of values once aliases are followed, so that nested aliases cannot explode."""

_MERGE = "tag:yaml.org,2002:merge"
_SCALAR_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "timestamp")
)
_COLLECTION_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("seq", "map"))
_MISREAD = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9_]+(?::[0-9_]+)+(?:\.[0-9_]*)?|NO|YES|ON|OFF")
"""Plain scalars with a surprising meaning in YAML 1.1: octal and base-60 numbers, `NO` for Norway."""
_FLOW_INTERPOLATION = re.compile(r"[\[{,:]\s*\$\{")


def parse_bytes(data: bytes, file: str) -> Value | None:
    """Parse the bytes of a file; None if it is empty.

    Raises:
        ConfigError: too large, not UTF-8, or anything that `parse_yaml` rejects.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError([Problem(f"the file is larger than {MAX_BYTES >> 20} MiB", file=file)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        hint = "save it as UTF-8"
        raise ConfigError([Problem("the file is not UTF-8 text", "", file, line, column, hint)]) from None
    return parse_yaml(text, file)


def parse_yaml(text: str, file: str, *, path: str = "") -> Value | None:
    """Parse one YAML document; None if there is none.

    Raises:
        ConfigError: a syntax error alone, or every duplicate key, unsupported tag, key that is not text
            and date that does not exist, together.
    """
    loader = None
    try:
        _check_nesting(text, file)
        loader = CSafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        document = _Document(loader, file)
        document.survey(root)
        value = document.value(root, Place(file, path=path))
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, text, file)]) from None
    finally:
        if loader is not None:
            loader.dispose()
    if document.problems:
        raise ConfigError(document.problems)
    return value


def parse_scalar(text: str) -> Plain:
    """Parse one plain scalar (`5`, `true`, `null`, `1.5`); other text stays text."""
    loader = CSafeLoader("")
    try:
        tag = loader.resolve(ScalarNode, text.strip(), (True, False))  # type: ignore[no-untyped-call]
        if tag == _MERGE or not text.strip():
            return None if not text.strip() else text
        return loader.construct_object(ScalarNode(tag, text.strip()))
    except (yaml.YAMLError, ValueError):
        return text
    finally:
        loader.dispose()


def _check_nesting(text: str, file: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=CSafeLoader):
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ConfigError([_mark(event, file).problem(f"nested deeper than {MAX_DEPTH} levels")])
        elif isinstance(event, CollectionEndEvent):
            depth -= 1


def _mark(marked: Node | CollectionStartEvent | AliasEvent, file: str, path: str = "") -> Place:
    mark = marked.start_mark
    assert mark is not None  # libyaml marks everything
    return Place(file, mark.line + 1, mark.column + 1, path)


class _Document:
    """Turns nodes into values and collects their problems."""

    def __init__(self, loader: CSafeLoader, file: str) -> None:
        self._loader = loader
        self._file = file
        self.problems: list[Problem] = []

    def survey(self, root: Node) -> None:
        """Visit every node once, before merging changes any of them.

        Notes duplicate keys; rejects aliases that contain themselves, and structures that are huge once
        aliases are followed.
        """
        sizes: dict[int, int] = {}
        open_nodes: set[int] = set()

        def size(node: Node, at: Place) -> int:
            if isinstance(node, ScalarNode):
                return 1
            if id(node) in open_nodes:
                raise ConfigError([_mark(node, self._file).problem("an alias (`*name`) contains itself")])
            if id(node) not in sizes:
                open_nodes.add(id(node))
                if isinstance(node, MappingNode):
                    self._note_duplicates(node, at)
                sizes[id(node)] = 1 + sum(size(child, at.at(name)) for name, child in _children(node))
                open_nodes.discard(id(node))
            return sizes[id(node)]

        if size(root, Place(self._file)) > MAX_VALUES:
            message = f"more than {MAX_VALUES:,} values once aliases are followed"
            raise ConfigError([_mark(root, self._file).problem(message)])

    def value(self, node: Node, at: Place) -> Value:
        """Return the value of a node; `at` is its path in the document."""
        place = _mark(node, self._file, at.path)
        if isinstance(node, MappingNode):
            return self._mapping(node, place)
        if isinstance(node, SequenceNode):
            self._check_tag(node, place)
            return Value([self.value(child, place.at(i)) for i, child in enumerate(node.value)], place)
        return self._scalar(node, place)

    def _mapping(self, node: MappingNode, place: Place) -> Value:
        self._check_tag(node, place)
        self._loader.flatten_mapping(node)  # resolves `<<`; merged keys come first and are overridden
        values: dict[str, Value] = {}
        keys: dict[str, Place] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node, place)
            if key is not None:
                values[key] = self.value(value_node, place.at(key))
                keys[key] = _mark(key_node, self._file, place.at(key).path)
        return Value(values, place, keys)

    def _note_duplicates(self, node: MappingNode, at: Place) -> None:
        first: dict[str, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, ScalarNode) or key_node.tag == _MERGE:
                continue
            here = _mark(key_node, self._file, at.at(key_node.value).path)
            if key_node.value in first:
                message = f"duplicate key `{key_node.value}`, first given in line {first[key_node.value]}"
                self.problems.append(here.problem(message))
            first.setdefault(key_node.value, here.line)

    def _key(self, node: Node, place: Place) -> str | None:
        if isinstance(node, ScalarNode):
            if node.tag == "tag:yaml.org,2002:str":
                return str(node.value)
            where = _mark(node, self._file, place.path)
            message = f"YAML does not read the key `{node.value}` as text"
            self.problems.append(where.problem(message, f'quote it: "{node.value}"'))
            return None
        self.problems.append(_mark(node, self._file, place.path).problem("a key must be text"))
        return None

    def _scalar(self, node: Node, place: Place) -> Value:
        assert isinstance(node, ScalarNode)  # mappings and sequences were handled above
        if node.tag not in _SCALAR_TAGS:
            self.problems.append(place.problem(f"the tag `{_short_tag(node.tag)}` is not supported"))
            return Value(None, place, failed=True)
        try:
            data = self._loader.construct_object(node)
        except ValueError:
            message = f"`{node.value}` looks like a date or a number but is not a valid one"
            self.problems.append(place.problem(message, f'quote it if it is text: "{node.value}"'))
            return Value(None, place, failed=True)
        if not isinstance(data, str) and _MISREAD.fullmatch(node.value):
            message = f"YAML reads `{node.value}` as {str(data).lower()}"
            self.problems.append(place.problem(message, f'quote it if it is text: "{node.value}"'))
            return Value(None, place, failed=True)
        return Value(data, place)

    def _check_tag(self, node: Node, place: Place) -> None:
        if node.tag not in _COLLECTION_TAGS:
            self.problems.append(place.problem(f"the tag `{_short_tag(node.tag)}` is not supported"))


def _children(node: Node) -> Iterator[tuple[str | int, Node]]:
    if isinstance(node, MappingNode):
        for key, value in node.value:
            yield str(key.value), key
            yield str(key.value), value
    else:
        yield from enumerate(node.value)


def _short_tag(tag: str) -> str:
    return tag.replace("tag:yaml.org,2002:", "!!")


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    if isinstance(error, ReaderError):
        before = text[: error.position]
        column = len(before) - (before.rfind("\n") + 1) + 1
        message = f"the character U+{_code(error.character):04X} is not allowed in YAML"
        return Problem(message, "", file, before.count("\n") + 1, column)
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Problem(f"not valid YAML: {error}", "", file)
    tab = _tab_near(text, mark.line, mark.column)
    if tab is not None:
        line, column = tab
        return Problem("tabs are not allowed for indentation; use spaces", "", file, line, column)
    context = getattr(error, "context", None)
    problem = getattr(error, "problem", None) or str(error)
    message = f"not valid YAML: {context}, {problem}" if context else f"not valid YAML: {problem}"
    hint = _syntax_hint(text, mark.line) or _structure_hint(error)
    line, column = _last_character(text, mark.line, mark.column)
    return Problem(message, "", file, line + 1, column + 1, hint)


def _last_character(text: str, line: int, column: int) -> tuple[int, int]:
    """Return the place, or the end of the text if it lies beyond, since an editor has no such line."""
    lines = text.rstrip().split("\n")
    return (line, column) if line < len(lines) else (len(lines) - 1, len(lines[-1]))


def _structure_hint(error: yaml.YAMLError) -> str:
    begun = getattr(error, "context_mark", None)
    what = str(getattr(error, "context", None))
    if begun is None:
        return _value_hint(error)
    if "quoted" in what:
        return f"the quote in line {begun.line + 1}, column {begun.column + 1} is not closed"
    if what.endswith(("flow mapping", "flow sequence")):  # where a value is missing, the mark is that place
        opening = "{" if "mapping" in what else "["
        unquoted = "; a value with brackets, braces or a comma needs quotes" if opening == "{" else ""
        return f"`{opening}` in line {begun.line + 1} is not closed before it{unquoted}"
    if "block" in what:
        return f"indent it like its siblings; their block starts in line {begun.line + 1}"
    return ""


def _value_hint(error: yaml.YAMLError) -> str:
    if "mapping values are not allowed" in str(getattr(error, "problem", "")):
        return "quote text that contains `: `"
    return ""


def _code(character: object) -> int:
    return character if isinstance(character, int) else ord(str(character)[:1] or "\0")


def _tab_near(text: str, line: int, column: int) -> tuple[int, int] | None:
    """Return line and column, from 1, of the first tab in the indentation of the marked line or the next.

    libyaml marks where it began to scan, which can be the line before the tab.
    """
    lines = text.split("\n")
    for index in (line, line + 1):
        if index < len(lines):
            indentation = lines[index][: len(lines[index]) - len(lines[index].lstrip())]
            if "\t" in indentation:
                return index + 1, indentation.index("\t") + 1
    return None


def _syntax_hint(text: str, line: int) -> str:
    lines = text.split("\n")
    written = lines[line] if line < len(lines) else ""
    if _FLOW_INTERPOLATION.search(written):
        return 'inside { } and [ ] put quotes around it: "${NAME}"'
    if "\\" in written and '"' in written:
        return "in double quotes a backslash begins an escape: write single quotes around such a text"
    if re.search(r":\s+[*&!%@`]", written):
        return "quote text that starts with one of * & ! % @ `"
    return ""
