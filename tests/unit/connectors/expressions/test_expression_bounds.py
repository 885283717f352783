"""Expressions cannot escape, nor exceed their bounds of memory and time."""

from __future__ import annotations

import ast
import tracemalloc
from contextlib import suppress
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.expressions import Expression, ExpressionError, InvalidExpressionError
from connectors.expressions.functions import FUNCTIONS
from connectors.expressions.operators import OPERATORS
from tests.examples import examples

ESCAPES = [
    "__import__('os')",
    "().__class__",
    "record.__class__",
    "getattr(record, '__class__')",
    "record.get.__globals__",
    "eval('1')",
    "exec('1')",
    "open('/etc/passwd')",
    "globals()",
    "vars()",
    "print(1)",
    "type(record)",
    "(lambda: 1)()",
    "[x := 1]",
    "'{0.__class__}'.format(record)",
    "f'{record.__class__}'",
    "f'{record!r}'",
    "__builtins__",
    "__name__",
    "f_len(1)",
    "o_Add(1, 2)",
    "(yield 1)",
    "[*record]",
    "{**record}",
    "{x for x in a}",
    "{x: 1 for x in a}",
    "[x.y for x in a]",
    "[__x for __x in a]",
    "upper(*a)",
    "upper(**a)",
    "len.__self__",
    "(a, b)[0].c",
    "1 .real",
    "a[1:2:3]",
    "import os",
    "a; b",
    "...",
    "1j",
]

BOMBS = [
    "'x' * 10**9",
    "10**9 * 'x'",
    "[1] * 10**9",
    "text * big",
    "9**9**9",
    "2**100000",
    "big ** big",
    "(-8) ** 0.5",
    "'%1000000000d' % 5",
    "f'{big:999d}' + f'{big:1000d}'",
    "1 << 10**9",
    "round(5, -10**9)",
    "int(huge)",
    "floor(huge)",
    "str(huge)",
    "f'{huge:f}'",
    "sum([huge])",
    "zfill('a', 10**9)",
    "replace(text, 'x', text)",
    "join([text for x in many], text)",
    "[text for x in many]",
    "[[text + text for x in many]]",
    "[f'{text}{text}' for x in many]",
    "[x for x in record['too many']]",
    "[[text, text, text] for x in many]",
    "[{'a': text} for x in many]",
    "matches(text, '(x{1000}){1000}')",
    "number('9' * 10)",
    "int('9999999999' + text)",
    "number(text)",
]  # fmt: skip

LARGE: dict[str, Any] = {
    "text": "x" * 100_000,
    "many": list(range(9_000)),
    "too many": list(range(20_000)),
    "big": 10**300,
    "huge": Decimal("1e999999999"),
    "a": [1, 2],
}


@pytest.mark.parametrize("text", ESCAPES)
def test_there_is_no_way_out(text: str) -> None:
    with pytest.raises(InvalidExpressionError):
        Expression(text)


@pytest.mark.parametrize("text", BOMBS)
def test_bombs_are_refused_before_they_go_off(text: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises((InvalidExpressionError, ExpressionError)):
            Expression(text).evaluate(LARGE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16_000_000


@pytest.mark.parametrize(
    "text",
    [
        "(" * 500 + "1" + ")" * 500,
        "-" * 9_000 + "1",
        "not " * 2_000 + "1",
        "[" * 150 + "1" + "]" * 150,
        "+".join(["1"] * 4_000),
        "a" + "[0]" * 2_000,
        "1 if 1 else " * 500 + "1",
        "x" * 10_001,
        "9" * 6_000,
        "'\0'",
    ],
)
def test_deep_and_long_expressions_are_refused(text: str) -> None:
    with pytest.raises(InvalidExpressionError):
        Expression(text)


def test_a_pattern_takes_linear_time() -> None:
    assert Expression("matches(text, '^(a|a)*(a+)+$')").evaluate({"text": "a" * 50_000 + "!"}) is False


FIELDS = ("a", "b", "gone", "items", "text")
names = st.sampled_from([*FIELDS, "__class__", "record"])
constants = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(-1e9, 1e9),
    st.text(max_size=5),
)  # fmt: skip
leaves = st.one_of(constants.map(ast.Constant), names.map(lambda name: ast.Name(name, ast.Load())))
operators = st.sampled_from([
    ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.BitAnd, ast.LShift, ast.MatMult,
])  # fmt: skip
comparisons = st.sampled_from([
    ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot,
])  # fmt: skip
functions = st.sampled_from([*FUNCTIONS, "matches", "getattr", "eval"])
attributes = st.sampled_from(["x", "__class__"])


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    pairs = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda op, left, right: ast.BinOp(left, op(), right), operators, inner, inner),
        st.builds(
            lambda ops, items: ast.Compare(items[0], [op() for op in ops], items[1 : len(ops) + 1]),
            st.lists(comparisons, min_size=1, max_size=2),
            st.lists(inner, min_size=3, max_size=3),
        ),
        st.builds(lambda one: ast.UnaryOp(ast.Not(), one), inner),
        st.builds(lambda one: ast.UnaryOp(ast.USub(), one), inner),
        st.builds(lambda items: ast.BoolOp(ast.Or(), items), st.lists(inner, min_size=2, max_size=3)),
        st.builds(ast.IfExp, inner, inner, inner),
        st.builds(lambda value, key: ast.Subscript(value, key, ast.Load()), inner, inner),
        st.builds(lambda items: ast.List(items, ast.Load()), pairs),
        st.builds(
            lambda one, name: ast.Attribute(one, name, ast.Load()), inner, st.sampled_from(["x", "__class__"])
        ),
        st.builds(lambda name, items: ast.Call(ast.Name(name, ast.Load()), items, []), functions, pairs),
        st.builds(
            lambda element, items: ast.ListComp(
                element, [ast.comprehension(ast.Name("a", ast.Store()), items, [], 0)]
            ),
            inner,
            inner,
        ),
    )


trees = st.recursive(leaves, grown, max_leaves=12)
values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**6), 10**6),
        st.floats(allow_nan=False),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=8,
)
records = st.dictionaries(st.sampled_from(["a", "b", "items", "text", "__class__"]), values, max_size=5)

PLAIN = (type(None), bool, int, float, str, list, dict)


def plain(value: object) -> bool:
    if isinstance(value, list):
        return all(map(plain, value))
    if isinstance(value, dict):
        return all(map(plain, value.values()))
    return isinstance(value, PLAIN)


@pytest.mark.slow
@settings(max_examples=examples(200))
@given(tree=trees, record=records)
def test_every_expression_gives_plain_data_or_says_what_is_wrong(
    tree: ast.expr, record: dict[str, Any]
) -> None:
    text = ast.unparse(ast.fix_missing_locations(ast.Expression(tree)))
    try:
        expression = Expression(text)
    except InvalidExpressionError:
        return
    before = repr(record)
    try:
        first = expression.evaluate(record)
    except ExpressionError:
        pass
    else:
        assert plain(first), "nothing but data comes out"
        # a field that is missing and a field that is null are the same
        nulls = {name: None for name in FIELDS if name not in record}
        if "record" not in text:
            assert repr(expression.evaluate(record | nulls)) == repr(first)
    assert repr(record) == before, "an expression changes nothing"


@given(text=st.text(max_size=60))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    with suppress(InvalidExpressionError):
        Expression(text)


REACHABLE = {*OPERATORS.values(), *FUNCTIONS.values()}


@pytest.mark.slow
@settings(max_examples=examples(100))
@given(tree=trees)
def test_compiled_code_reaches_only_its_own_operators_and_functions(tree: ast.expr) -> None:
    text = ast.unparse(ast.fix_missing_locations(ast.Expression(tree)))
    try:
        function = Expression(text).function
    except InvalidExpressionError:
        return
    reach: Any = dict(function.__globals__)
    assert reach.pop("__builtins__") == {}
    assert all(one in REACHABLE or name.startswith("p") for name, one in reach.items())
    assert set(function.__code__.co_names) - set(reach) <= {"get"}
