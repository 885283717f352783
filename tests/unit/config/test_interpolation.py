"""`${…}`: what is substituted, where, and what is not."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config.interpolation import Scope, escape, interpolate
from engine.config.problems import Problems
from engine.config.values import Value, from_plain

NAMES = st.text(string.ascii_uppercase + "_", min_size=1, max_size=8)
TEXTS = st.text(st.sampled_from("${}:-?aB_. \n\"'params"), max_size=40) | st.text(max_size=40)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def expand(
    text: str, environ: dict[str, str] | None = None, params: dict[str, Value] | None = None
) -> object:
    problems = Problems()
    value = interpolate(from_plain(text), Scope(environ or {}, params), problems)
    assert problems.all() == ()
    return value.plain()


def escaped(tree: object) -> object:
    if isinstance(tree, str):
        return escape(tree)
    if isinstance(tree, list):
        return [escaped(item) for item in tree]
    if isinstance(tree, dict):
        return {key: escaped(item) for key, item in tree.items()}
    return tree


@pytest.mark.slow
@given(TEXTS)
def test_escaped_text_comes_back_as_it_was(text: str) -> None:
    assert expand(escape(text)) == text


@pytest.mark.slow
@given(TREES)
def test_structure_keys_and_other_scalars_never_change(tree: object) -> None:
    problems = Problems()
    value = interpolate(from_plain(escaped(tree)), Scope({}), problems)
    assert (value.plain(), problems.all()) == (tree, ())


@pytest.mark.slow
@given(NAMES, TEXTS, TEXTS, TEXTS)
def test_what_is_inserted_is_never_expanded_again(name: str, before: str, put_in: str, after: str) -> None:
    text = f"{escape(before)} ${{{name}}} {escape(after)}"
    assert expand(text, {name: put_in}) == f"{before} {put_in} {after}"


@given(NAMES, TEXTS)
def test_a_value_with_yaml_in_it_stays_one_text(name: str, put_in: str) -> None:
    document = from_plain({f"${{{name}}}": [f"${{{name}}}", 5]})
    value = interpolate(document, Scope({name: put_in}), Problems())
    assert value.plain() == {f"${{{name}}}": [put_in, 5]}


@given(NAMES, TEXTS.filter(lambda text: "{" not in text and "}" not in text))
def test_default_holds_when_unset_or_empty_only(name: str, default: str) -> None:
    template = f"${{{name}:-{default}}}"
    assert expand(template) == default
    assert expand(template, {name: ""}) == default
    assert expand(template, {name: "set"}) == "set"


@given(SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=3))
def test_a_parameter_alone_keeps_its_type(data: object) -> None:
    result = expand("${params.x}", params={"x": from_plain(data)})
    assert result == data
    assert type(result) is type(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (5, "<5>"),
        (None, "<>"),
        (True, "<true>"),
        (1.5, "<1.5>"),
        (["a", 1], '<["a", 1]>'),
        ("${A}", "<${A}>"),
    ],
)
def test_a_parameter_inside_text_becomes_text(data: object, text: str) -> None:
    assert expand("<${params.x}>", {"A": "no"}, {"x": from_plain(data)}) == text


@pytest.mark.parametrize(
    ("template", "result"),
    [
        ("${A:-${B:-c}}", "c"),
        ("${A:-x${SET}y}", "xvaluey"),
        ("$SET", "$SET"),
        ("$$SET", "$$SET"),
        ("$${SET}", "${SET}"),
        ("$$${SET}", "$${SET}"),
        ("${EMPTY}", ""),
        ("${SET:?needed}", "value"),
        ("a${SET}b${SET}c", "avaluebvaluec"),
        ("100 $ {x}", "100 $ {x}"),
        ("${A:-https://x/?a={b\\}", "https://x/?a={b\\"),
    ],
)
def test_forms(template: str, result: str) -> None:
    assert expand(template, {"SET": "value", "EMPTY": ""}) == result


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("${A}", "environment variable `A` is not set"),
        ("${A:?}", "environment variable `A` is not set: it is required"),
        ("${A:?say why}", "environment variable `A` is not set: say why"),
        ("${EMPTY:?say why}", "environment variable `EMPTY` is not set: say why"),
        ("${A-b}", "cannot parse `${A-b}`"),
        ("${1A}", "cannot parse `${1A}`"),
        ("${A", "`${` is not closed by `}`"),
        ("${params.pagesize}", "unknown parameter `pagesize`, did you mean `page_size`?"),
        ("${params.}", "cannot parse `${params.}`"),
        ("${file:/x}", "`${file:…}` cannot be used here"),
    ],
)
def test_what_cannot_be_put_in(template: str, message: str) -> None:
    problems = Problems()
    scope = Scope({"EMPTY": ""}, {"page_size": from_plain(5)})
    value = interpolate(from_plain({"a": template, "b": "${EMPTY}"}), scope, problems)
    assert [(problem.path, problem.message) for problem in problems.all()] == [("a", message)]
    assert value.any_failed()
    assert value.get("b") is not None
    assert value.data["b"].plain() == ""


def test_a_parameter_with_a_problem_spreads_without_another_message() -> None:
    problems = Problems()
    broken = {"x": Value(None, failed=True)}
    value = interpolate(from_plain(["${params.x}", "a ${params.x}"]), Scope({}, broken), problems)
    assert problems.all() == ()
    assert [item.failed for item in value.data] == [True, True]


@pytest.mark.slow
@given(NAMES, st.text(string.ascii_letters, min_size=8), TEXTS.map(escape))
def test_nothing_of_the_environment_is_shown(name: str, secret: str, around: str) -> None:
    value = interpolate(from_plain([f"{around} ${{{name}}}"]), Scope({name: f"={secret}="}), Problems())
    assert f"={secret}=" not in repr(value)
    assert f"={secret}=" in value.plain()[0]
    assert f"={secret}=" in value.secrets()
