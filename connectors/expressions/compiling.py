"""Compile the text of an expression: parse, check every node against an allow-list, and make a function.

Only nodes with a method `_visit_<node>` are allowed. A field is read with `get`, and operators and functions
become calls of our own, so compiled code can reach nothing else.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from io import StringIO
from itertools import pairwise
from keyword import iskeyword
from token import tok_name
from tokenize import generate_tokens
from types import FunctionType
from typing import Any, Final

from pydantic_core import SchemaError, SchemaValidator, core_schema

from connectors.expressions.failures import EvaluationError, InvalidExpressionError, kind_of
from connectors.expressions.functions import FUNCTIONS
from connectors.expressions.operators import MAX_BITS, OPERATORS

CODE_NAME: Final = "<expression>"
"""The file name of compiled expressions, in tracebacks."""
RECORD: Final = "record"
"""The name of the whole record in an expression."""

LINES: Final = 100_000
"""Lines between the expressions of one function, so that a traceback shows which of them failed."""
MAX_LENGTH: Final = 10_000
MAX_NODES: Final = 1_000
MAX_DEPTH: Final = 60
MAX_PATTERN: Final = 500

_FORMAT: Final = re.compile(r"(?:[^{}]?[<>=^])?[+\- ]?#?0?\d{0,3}[,_]?(?:\.\d{1,2})?[bdeEfFgGosxX%]?")
_REFUSED: Final = {
    "Lambda": ("`lambda` is not allowed", ""),
    "NamedExpr": ("`:=` is not allowed", "write == to compare"),
    "SetComp": ("set comprehensions are not allowed", "write unique([…])"),
    "DictComp": ("dict comprehensions are not allowed", "use a list comprehension"),
    "Starred": ("`*` before a value is not allowed", ""),
    "Await": ("`await` is not allowed", ""),
    "Yield": ("`yield` is not allowed", ""),
}  # fmt: skip
_TEXT_BEGINS: Final = ("STRING", "FSTRING_START")
_TEXT_ENDS: Final = ("STRING", "FSTRING_END")
_PROVIDING: Final = ("coalesce", "type_of")
_INSTEAD: Final = {
    "BitAnd": ("`&` is not allowed", "write `and`"),
    "BitOr": ("`|` is not allowed", "write `or`"),
    "Invert": ("`~` is not allowed", "write `not`"),
    "LShift": ("`<<` is not allowed", ""),
    "RShift": ("`>>` is not allowed", ""),
    "BitXor": ("`^` is not allowed", "write ** for a power"),
    "MatMult": ("`@` is not allowed", ""),
}


def compile_text(text: str) -> FunctionType:
    """Compile an expression to a function of a mapping.

    Raises:
        InvalidExpressionError: the text is not an expression; the message shows the place and a remedy.
    """
    tree = _parse(text)
    compiler = _Compiler(text)
    body = compiler.visit(tree.body)
    arguments = ast.arguments([], [ast.arg("r")], None, [], [], None, [])
    whole = ast.Expression(ast.Lambda(arguments, body))
    ast.copy_location(whole.body, tree.body)
    ast.fix_missing_locations(whole)
    code = compile(whole, CODE_NAME, "eval")
    # the code can only use our names: fields are constants, and there are no builtins
    function: FunctionType = eval(code, compiler.globals)  # noqa: S307 - only nodes of the allow-list
    return function


def fields_read(text: str) -> list[tuple[str, ...]]:
    """Return the fields that an expression reads, except those it has a fallback for."""
    tree, provided = _parse(text).body, set[str]()
    for node in ast.walk(tree):
        expected: Sequence[ast.expr] = ()
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _PROVIDING:
            expected = node.args
        elif isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
            expected = node.values[:-1]
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "None":
            expected = [node.left]
        for one in filter(_is_plain, expected):
            reader = _Compiler(text)
            reader.visit(one)
            provided.update(reader.fields)
    compiler = _Compiler(text)
    compiler.visit(tree)
    return [(name,) for name in dict.fromkeys(compiler.fields) if name not in provided]


def _is_plain(node: ast.expr) -> bool:
    """Return whether it is just a field: in `a > 0 or b`, `b` is no fallback for `a`."""
    return isinstance(node, ast.Name | ast.Subscript)


def compile_assignments(texts: Sequence[tuple[str, str]]) -> Callable[[dict[str, Any]], None]:
    """Compile a function that sets fields of a dict to expressions, in order; each sees the ones before.

    One function saves a call per field. Raises InvalidExpressionError.
    """
    shared: dict[str, Any] = {"__builtins__": {}}
    body: list[ast.stmt] = []
    for index, (name, text) in enumerate(texts):
        tree = _parse(text)
        value = _Compiler(text, shared).visit(tree.body)
        field = ast.Subscript(ast.Name("r", ast.Load()), ast.Constant(name), ast.Store())
        assignment = ast.copy_location(ast.Assign([field], value), tree.body)
        ast.fix_missing_locations(assignment)
        body.append(ast.increment_lineno(assignment, index * LINES))
    arguments = ast.arguments([], [ast.arg("r")], None, [], [], None, [])
    function = ast.FunctionDef("assign", arguments, body or [ast.Pass()], [], lineno=1, col_offset=0)
    module = ast.fix_missing_locations(ast.Module([function], []))
    exec(compile(module, CODE_NAME, "exec"), shared)  # noqa: S102 - only nodes of the allow-list were compiled
    assign: Callable[[dict[str, Any]], None] = shared.pop("assign")
    return assign


def _parse(text: str) -> ast.Expression:
    if not text.strip():
        raise InvalidExpressionError("the expression is empty")
    if len(text) > MAX_LENGTH:
        raise InvalidExpressionError(f"the expression has more than {MAX_LENGTH:,} characters")
    if "\0" in text:
        raise InvalidExpressionError("the expression holds a NUL character")
    try:
        # in brackets, so that an expression may span several lines; it must not close them itself
        tree = ast.parse(f"({text}\n)", CODE_NAME, "eval")
        if "#" not in text:
            ast.parse(" ".join(text.split("\n")).strip(), CODE_NAME, "eval")
    except SyntaxError as error:
        column = f" at column {max(1, (error.offset or 2) - 1)}" if error.lineno == 1 else ""
        raise InvalidExpressionError(
            f"not an expression{column}: {error.msg}{_hint(text, error.msg)}"
        ) from None
    except (ValueError, MemoryError, RecursionError, OverflowError):
        raise InvalidExpressionError("the expression is nested too deeply") from None
    _check_size(tree)
    _check_items(text)
    return tree


def _check_items(text: str) -> None:
    """Refuse a list in which two texts stand side by side, which Python takes for one."""
    if "[" not in text:
        return
    opened, before = [""], ""
    for token in generate_tokens(StringIO(f"({text}\n)").readline):
        kind = tok_name[token.type]
        if token.string in ("(", "[", "{"):
            opened.append(token.string)
        elif token.string in (")", "]", "}"):
            opened.pop()
        elif before in _TEXT_ENDS and kind in _TEXT_BEGINS and opened[-1] == "[":
            raise InvalidExpressionError(f"a comma is missing before the text at column {token.start[1]}")
        before = kind if kind != "NL" else before


def _hint(text: str, message: str) -> str:
    if "never closed" in message:
        return " (inside { } and [ ], YAML ends a value at a comma: put quotes around the expression)"
    if "&&" in text or "||" in text:
        return " (write `and` and `or`)"
    if re.search(r"[^=<>!]=[^=]", text):
        return " (write == to compare)"
    if re.search(r"!(?!=)", text):
        return " (write `not`)"
    words = re.findall(r"[^\W\d]\w*|\S", text)
    names = [word.isidentifier() and not iskeyword(word) for word in words]
    beside = any(one and other for one, other in pairwise(names))
    if "invalid" in message and (beside or re.search(r"\.\s|[^\s!-~]|%\s*[<>=!]", text)):
        return " (write record['a name'] for a field whose name is not a plain word)"
    return ""


def _check_size(tree: ast.Expression) -> None:
    level: list[ast.AST] = [tree.body]
    nodes = depth = 0
    while level:
        nodes, depth = nodes + len(level), depth + 1
        if depth > MAX_DEPTH:
            raise InvalidExpressionError(f"the expression is nested more than {MAX_DEPTH} deep")
        if nodes > MAX_NODES * 4:  # operators and contexts are nodes too
            raise InvalidExpressionError(f"the expression has more than {MAX_NODES:,} parts")
        level = [child for node in level for child in ast.iter_child_nodes(node)]


class _Compiler:
    def __init__(self, text: str, shared: dict[str, Any] | None = None) -> None:
        self.text = text
        self.globals: dict[str, Any] = {"__builtins__": {}} if shared is None else shared
        self._locals: list[str] = []
        self._temporaries = 0
        self.fields: list[str] = []

    def visit(self, node: ast.expr) -> ast.expr:
        method = getattr(self, f"_visit_{type(node).__name__}", None)
        if method is None:
            name = type(node).__name__
            raise self._invalid(node, *_REFUSED.get(name, (f"{name} is not allowed", "")))
        made: ast.expr = method(node)
        return ast.copy_location(made, node)

    def _invalid(self, node: ast.expr, message: str, hint: str = "") -> InvalidExpressionError:
        where = f" at column {node.col_offset}" if node.lineno == 1 else f" at line {node.lineno}"
        if node.lineno > 1:
            where += f", column {node.col_offset + 1}"
        return InvalidExpressionError(f"{message}{where}{f' ({hint})' if hint else ''}")

    def _visit_Constant(self, node: ast.Constant) -> ast.expr:  # noqa: N802 - named after the node
        value = node.value
        if value is not None and not isinstance(value, str | bool | int | float):
            raise self._invalid(node, f"{type(value).__name__} values are not allowed")
        if isinstance(value, int) and value.bit_length() > MAX_BITS // 16:
            raise self._invalid(node, "the number is too large")
        if isinstance(value, float) and value == float("inf"):
            raise self._invalid(node, "the number is too large")
        return ast.Constant(value)

    def _visit_Name(self, node: ast.Name) -> ast.expr:  # noqa: N802 - as above
        if node.id in self._locals:
            return ast.Name(f"v_{node.id}", ast.Load())
        if node.id == RECORD:
            return ast.Name("r", ast.Load())
        if node.id.startswith("__"):
            hint = f"write {RECORD}['{node.id}'] for a field of that name"
            raise self._invalid(node, f"the name `{node.id}` is not allowed", hint)
        if node.id in ("true", "false", "null"):
            word = {"true": "True", "false": "False", "null": "None"}[node.id]
            raise self._invalid(node, f"`{node.id}` is not a word of expressions", f"write {word}")
        return self._field(node.id, node)

    def _field(self, name: str, node: ast.expr) -> ast.expr:
        self.fields.append(name)
        get = ast.copy_location(ast.Attribute(ast.Name("r", ast.Load()), "get", ast.Load()), node)
        return ast.Call(get, [ast.Constant(name)], [])

    def _visit_Attribute(self, node: ast.Attribute) -> ast.expr:  # noqa: N802 - as above
        """Refuse an attribute, with the place of a field that it may stand for."""
        place, inner = f"['{node.attr}']", node.value
        while isinstance(inner, ast.Attribute):
            place, inner = f"['{inner.attr}']{place}", inner.value
        whole = inner.id if isinstance(inner, ast.Name) else "value"
        hint = f"write {whole}{place} for a field, upper(name) to call"
        raise self._invalid(node, "attributes are not allowed", hint)

    def _visit_Subscript(self, node: ast.Subscript) -> ast.expr:  # noqa: N802 - as above
        if isinstance(node.slice, ast.Slice):
            if node.slice.step is not None:
                raise self._invalid(node, "a step in a slice is not allowed")
            value = self.visit(node.value)
            bounds = [
                self.visit(one) if one else ast.Constant(None) for one in (node.slice.lower, node.slice.upper)
            ]
            return self._call("Slice", value, *bounds)
        key = node.slice
        whole = isinstance(node.value, ast.Name) and node.value.id == RECORD and RECORD not in self._locals
        if whole and isinstance(key, ast.Constant) and isinstance(key.value, str):
            return self._field(key.value, node)
        return self._call("Item", self.visit(node.value), self.visit(key))

    def _visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:  # noqa: N802 - as above
        return ast.BoolOp(node.op, [self.visit(one) for one in node.values])

    def _visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:  # noqa: N802 - as above
        if isinstance(node.op, ast.Not):
            return ast.UnaryOp(ast.Not(), self.visit(node.operand))
        operand = node.operand
        if isinstance(node.op, ast.USub) and isinstance(operand, ast.Constant):
            value = operand.value
            if isinstance(value, int | float) and not isinstance(value, bool):
                self.visit(operand)
                return ast.Constant(-value)
        return self._operator(node, node.op, self.visit(operand))

    def _visit_BinOp(self, node: ast.BinOp) -> ast.expr:  # noqa: N802 - as above
        return self._operator(node, node.op, self.visit(node.left), self.visit(node.right))

    def _visit_IfExp(self, node: ast.IfExp) -> ast.expr:  # noqa: N802 - as above
        return ast.IfExp(self.visit(node.test), self.visit(node.body), self.visit(node.orelse))

    def _visit_Compare(self, node: ast.Compare) -> ast.expr:  # noqa: N802 - as above
        left = self.visit(node.left)
        return self._chain(node, left, list(zip(node.ops, node.comparators, strict=True)))

    def _chain(
        self, node: ast.Compare, left: ast.expr, rest: Sequence[tuple[ast.cmpop, ast.expr]]
    ) -> ast.expr:
        """Compile `a < b < c` to `(lambda t: a < t and t < c)(b)`, which computes every part once."""
        op, given = rest[0]
        right = self._members(given) if isinstance(op, ast.In | ast.NotIn) else self.visit(given)
        if len(rest) == 1:
            return self._compare(node, op, left, right)
        name = f"t{self._temporaries}"
        self._temporaries += 1
        held = ast.Name(name, ast.Load())
        following = ast.copy_location(self._chain(node, held, rest[1:]), node)
        first = ast.copy_location(self._compare(node, op, left, held), node)
        both = ast.BoolOp(ast.And(), [first, following])
        arguments = ast.arguments([], [ast.arg(name)], None, [], [], None, [])
        return ast.Call(ast.Lambda(arguments, both), [right], [])

    def _members(self, node: ast.expr) -> ast.expr:
        """Return the container after `in`; a list of constants is built once, at compile time."""
        if isinstance(node, ast.Set):
            node = ast.copy_location(ast.Tuple(node.elts, ast.Load()), node)
        if isinstance(node, ast.List | ast.Tuple) and all(isinstance(one, ast.Constant) for one in node.elts):
            return ast.copy_location(ast.Tuple([self.visit(one) for one in node.elts], ast.Load()), node)
        return self.visit(node)

    def _compare(self, node: ast.expr, op: ast.cmpop, left: ast.expr, right: ast.expr) -> ast.expr:
        if isinstance(op, ast.Eq | ast.NotEq):
            return ast.Compare(left, [op], [right])
        if isinstance(op, ast.Is | ast.IsNot):
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise self._invalid(node, "`is` is only for None", "write == to compare")
            return ast.Compare(left, [op], [right])
        if isinstance(op, ast.In | ast.NotIn):
            if isinstance(right, ast.Tuple) and all(isinstance(one, ast.Constant) for one in right.elts):
                return ast.Compare(left, [op], [right])
            found = self._call("In", left, right)
            return found if isinstance(op, ast.In) else ast.UnaryOp(ast.Not(), found)
        return self._operator(node, op, left, right)

    def _visit_List(self, node: ast.List) -> ast.expr:  # noqa: N802 - as above
        return ast.List([self.visit(one) for one in node.elts], ast.Load())

    def _visit_Tuple(self, node: ast.Tuple) -> ast.expr:  # noqa: N802 - as above
        return ast.List([self.visit(one) for one in node.elts], ast.Load())

    def _visit_Dict(self, node: ast.Dict) -> ast.expr:  # noqa: N802 - as above
        names: list[ast.expr | None] = []
        for key in node.keys:
            if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                raise self._invalid(key or node, "the names in {…} are texts in quotes")
            names.append(ast.Constant(key.value))
        return ast.Dict(names, [self.visit(one) for one in node.values])

    def _visit_ListComp(self, node: ast.ListComp) -> ast.expr:  # noqa: N802 - as above
        return self._comprehension(node, node.elt, node.generators)

    def _visit_GeneratorExp(self, node: ast.GeneratorExp) -> ast.expr:  # noqa: N802 - as above
        return self._comprehension(node, node.elt, node.generators)

    def _comprehension(
        self, node: ast.expr, element: ast.expr, loops: Sequence[ast.comprehension]
    ) -> ast.expr:
        if len(loops) > 1 or self._locals:
            raise self._invalid(node, "a comprehension inside another one is not allowed")
        loop = loops[0]
        if not isinstance(loop.target, ast.Name) or loop.is_async or loop.target.id.startswith("__"):
            raise self._invalid(node, "a comprehension has one plain name after `for`")
        items = self._call("Iterate", self.visit(loop.iter))
        self._locals.append(loop.target.id)
        try:
            made = self.visit(element)
            conditions = [self.visit(one) for one in loop.ifs]
        finally:
            self._locals.pop()
        target = ast.copy_location(ast.Name(f"v_{loop.target.id}", ast.Store()), loop.target)
        inner = ast.GeneratorExp(made, [ast.comprehension(target, items, conditions, 0)])
        return self._call("Collect", ast.copy_location(inner, node))

    def _visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:  # noqa: N802 - as above
        return self._call("Join", *(self._part(one) for one in node.values))

    def _part(self, node: ast.expr) -> ast.expr:
        if not isinstance(node, ast.FormattedValue):
            return self.visit(node)
        if node.conversion not in (-1, ord("s")):
            raise self._invalid(node, "`!r` and `!a` are not allowed")
        value = self.visit(node.value)
        if node.format_spec is None:
            return ast.copy_location(self._call("Text", value), node)
        parts = node.format_spec.values if isinstance(node.format_spec, ast.JoinedStr) else [node.format_spec]
        spec = "".join(str(one.value) for one in parts if isinstance(one, ast.Constant))
        if not all(isinstance(one, ast.Constant) for one in parts) or not _FORMAT.fullmatch(spec):
            message = f"the format {spec!r} is not allowed"
            raise self._invalid(node.value, message, "a format is such as :.2f or :>10")
        return ast.copy_location(self._call("Format", value, ast.Constant(spec)), node)

    def _visit_Call(self, node: ast.Call) -> ast.expr:  # noqa: N802 - as above
        if not isinstance(node.func, ast.Name):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            hint = f"write {name}(…)" if name in FUNCTIONS else "call a function by its name"
            raise self._invalid(node, "attributes are not allowed", hint)
        name = node.func.id
        if name == "matches":
            return self._matches(node)
        if name not in FUNCTIONS:
            hint = _nearest(name, [*FUNCTIONS, "matches"])
            raise self._invalid(node, f"unknown function `{name}`", hint)
        names = [one.arg for one in node.keywords]
        if None in names or any(isinstance(one, ast.Starred) for one in node.args):
            raise self._invalid(node, f"`*` in the arguments of {name} is not allowed")
        try:
            signature = inspect.signature(FUNCTIONS[name])
            signature.bind(*node.args, **{str(key): None for key in names})
        except TypeError as error:
            raise self._invalid(
                node, f"{name}: {error}", f"{name}{signature_text(FUNCTIONS[name])}"
            ) from None
        self.globals[f"f_{name}"] = FUNCTIONS[name]
        keywords = [ast.keyword(one.arg, self.visit(one.value)) for one in node.keywords]
        arguments = [self.visit(one) for one in node.args]
        return ast.Call(ast.Name(f"f_{name}", ast.Load()), arguments, keywords)

    def _matches(self, node: ast.Call) -> ast.expr:
        """Compile `matches(text, 'pattern')`, whose regular expression takes linear time."""
        pattern = node.args[1] if len(node.args) == 2 and not node.keywords else None
        if not isinstance(pattern, ast.Constant) or not isinstance(pattern.value, str):
            raise self._invalid(node, "matches takes a text and a pattern in quotes", "matches(name, '^A')")
        if len(pattern.value) > MAX_PATTERN:
            raise self._invalid(node, f"the pattern has more than {MAX_PATTERN} characters")
        try:
            schema = core_schema.str_schema(pattern=pattern.value, regex_engine="rust-regex", strict=True)
            found = SchemaValidator(schema).isinstance_python
        except SchemaError as error:
            reason = str(error).strip().splitlines()[-1].strip() or "it cannot be read"
            raise self._invalid(node, f"not a regular expression: {reason}") from None
        name = f"p{len(self.globals)}"
        self.globals[name] = _matcher(found)
        return ast.Call(ast.Name(name, ast.Load()), [self.visit(node.args[0])], [])

    def _operator(self, node: ast.expr, op: ast.AST, *operands: ast.expr) -> ast.expr:
        name = type(op).__name__
        if name not in OPERATORS:
            raise self._invalid(node, *_INSTEAD.get(name, (f"{name} is not allowed", "")))
        return self._call(name, *operands)

    def _call(self, name: str, *arguments: ast.expr) -> ast.expr:
        self.globals[f"o_{name}"] = OPERATORS[name]
        return ast.Call(ast.Name(f"o_{name}", ast.Load()), list(arguments), [])


def _matcher(found: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def matches(value: Any) -> bool:
        if value is None:
            return False
        if not isinstance(value, str):
            raise EvaluationError(f"matches: expected text, got {kind_of(value)}")
        return found(str(value))

    return matches


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean `{near[0]}`?" if near else "docs/transforms.md lists the functions"


def signature_text(function: Callable[..., Any]) -> str:
    """Return the signature of a function of expressions, e.g. `(text, separator=None)`."""
    signature = inspect.signature(function)
    plain = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))
