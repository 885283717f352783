"""Long documents in parts, merged answers, several records of one document, bad items, examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from connectors.llm import Document, LlmParams, splitting
from connectors.llm.invalid import without_bad_items
from connectors.llm.schema import schema_of
from connectors.llm.service import instructions_for
from connectors.llm.splitting import Merge, divided, merged
from connectors.llm.structures import takes_all
from connectors.objects.documents import TextPart
from engine.config import load_mapping
from engine.contract.types import JsonValue
from engine.plan.compile import compile_file
from engine.plan.identity import difference
from engine.registry import Registry

FIELDS = {"name": {"required": True}, "count": {"type": "integer"}, "tags": {"type": "list[text]"}}


def params(**given: object) -> LlmParams:
    return LlmParams.model_validate({"fields": FIELDS, **given})


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.text(st.sampled_from("ab .\n字"), max_size=3_000), st.integers(0, 40))
def test_parts_hold_the_whole_document_and_none_is_too_long(text: str, overlap: int) -> None:
    document = Document.of_text("a.txt", text)
    parts = divided(document, 100, overlap)
    assert all(part.tokens <= 100 for part in parts)
    if len(parts) < 2:
        assert parts == [document]
        return
    joined = parts[0].text
    for part in parts[1:]:
        longest = min(len(joined), len(part.text))
        common = next(n for n in range(longest, -1, -1) if joined.endswith(part.text[:n]))
        joined += part.text[common:]
    if overlap == 0:
        assert "".join(part.text for part in parts) == text
    else:
        assert len(joined) <= len(text)


def test_parts_begin_between_paragraphs_and_overlap() -> None:
    text = "\n\n".join(f"Paragraph {number}. " + "x" * 100 for number in range(8))
    parts = divided(Document.of_text("a.txt", text), 100, 40)
    assert len(parts) > 2
    assert all(part.text.startswith("Paragraph") for part in parts)
    assert parts[1].text.split("\n\n")[0] == parts[0].text.rstrip().split("\n\n")[-1]


def test_answers_about_parts_become_one_by_rule() -> None:
    answers = [
        {"a": "x", "b": "short", "c": 1, "d": ["p"], "e": "one"},
        {"b": "a longer one", "c": 2, "d": ["p", "q"], "e": "two"},
        {"a": "z", "b": "mid", "c": 2, "d": [], "e": None},
    ]
    rules = {"b": Merge.LONGEST, "c": Merge.VOTE, "e": Merge.ALL}
    assert merged(answers, rules) == {"a": "x", "b": "a longer one", "c": 2, "d": ["p", "q"], "e": "one\ntwo"}


@pytest.mark.parametrize(
    ("places", "null", "expected"),
    [
        ([("items", 1, "n")], False, ({"items": [{"n": 1}, {"n": 3}], "x": 1}, 1)),
        ([("items", 0), ("items", 2, "n")], False, ({"items": [{"n": "b"}], "x": 1}, 2)),
        ([("items", 1, "int", "n")], True, ({"items": [{"n": 1}, None, {"n": 3}], "x": 1}, 1)),
        ([("items", 1, "n"), ("x",)], False, None),
        ([()], False, None),
    ],
)
def test_items_that_do_not_fit_are_left_out_or_null(
    places: list[tuple[int | str, ...]], null: bool, expected: object
) -> None:
    values = {"items": [{"n": 1}, {"n": "b"}, {"n": 3}], "x": 1}
    assert without_bad_items(values, places, null=null) == expected


def test_a_schema_of_many_records_asks_for_a_list_without_ids() -> None:
    schema = params(many=True).asked_schema()
    branches = schema.record()["properties"]["records"]["anyOf"]
    (item,) = [one["items"] for one in branches if one["type"] == "array"]
    assert list(item["properties"]) == list(FIELDS)


def test_examples_and_files_are_a_part_of_the_instructions(tmp_path: Path) -> None:
    (tmp_path / "prompt.md").write_text("Read with care.\n")
    given = params(
        instructions_file=str(tmp_path / "prompt.md"),
        instructions="Be brief.",
        examples=[{"text": "Ann has 3.", "answer": {"name": "Ann", "count": 3}}],
    )
    told = instructions_for(given)
    assert told.startswith("Read with care.\n\nBe brief.\n\nExamples")
    assert '{"name": "Ann", "count": 3, "tags": null}' in told


def test_a_changed_prompt_file_is_a_difference_but_no_other_plan(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.md"
    model = {"schema": "Medical", "instructions_file": str(prompt), "connection": "model"}
    nodes = {
        "read": {"source": "jsonl", "with": {"path": "a"}},
        "extract": {"transform": "llm_extract", "with": model},
        "write": {"sink": "jsonl", "with": {"path": "b"}},
    }
    plans = []
    for text in ("Be brief.", "Be kind."):
        prompt.write_text(text)
        file = {"connections": {"model": {"base_url": "http://h/v1"}}, "pipelines": {"p": {"nodes": nodes}}}
        plans.append(compile_file(load_mapping(file), Registry.installed())["p"])
    assert plans[0].identity == plans[1].identity
    (line,) = difference(plans[0].operational_doc, plans[1].operational_doc)
    assert line.startswith('nodes.extract.contents.instructions_file: "[sha256 ')
    before: JsonValue = {"nodes": {"extract": {}}}
    after: JsonValue = {"nodes": {"extract": {"contents": {"schema": "[sha256 1]"}}}}
    assert difference(before, after) == []


def test_a_new_node_called_contents_is_a_difference() -> None:
    before: JsonValue = {"nodes": {"a": {"params": {}}}}
    after: JsonValue = {"nodes": {"a": {"params": {"contents": 1}}, "contents": {}}}
    assert difference(before, after) == ["nodes.a.params.contents: added", "nodes.contents: added"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"examples": [{"text": "a", "answer": {"nam": "x"}}]}, "`nam` is not one of the fields: name"),
        ({"examples": [{"text": "a", "answer": {"count": 1}}]}, "number 1: `name`"),
        ({"examples": [{"text": "a", "answer": {"name": "x", "count": "many"}}]}, "`count`"),
        ({"examples": [{"text": "a", "answer": [{"name": "x"}]}]}, "many: true"),
        ({"instructions_file": "/nowhere/prompt.md"}, "No such file"),
        ({"merge": {"nam": "all"}}, "`nam` is not one of the fields"),
        ({"merge": {"name": "best"}}, "first"),
    ],
)
def test_what_does_not_fit_the_schema_is_refused_by_name(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params(**wrong)


def test_an_item_that_one_part_states_twice_is_kept_twice() -> None:
    row, other = {"sku": "A", "quantity": 1}, {"sku": "B", "quantity": 1}

    assert merged([{"rows": [row, row, other]}], {}) == {"rows": [row, row, other]}
    assert merged([{"rows": [row, row]}, {"rows": [row, other]}], {}) == {"rows": [row, row, other]}


@pytest.mark.parametrize(
    "text",
    ["x" * 9_000, pytest.param("ก" * 3_000, marks=pytest.mark.series), '{"key":"value"},' * 600],
    ids=["no-space", "thai", "minified"],
)
def test_parts_without_white_space_overlap_too(text: str) -> None:
    parts = divided(Document.of_text("a.txt", text), 500, 100)
    assert len(parts) > 2
    assert len("".join(part.text for part in parts)) > len(text) * 1.1
    assert all(part.tokens <= 500 for part in parts)


@pytest.mark.parametrize("overlap", [90, 100, 200])
def test_no_more_than_half_of_a_part_is_repeated(overlap: int) -> None:
    """The default overlap of 200 made 65 parts of one where `split_tokens` was 200 or less."""
    document = Document.of_text("a.txt", "word " * 2_000)
    assert sum(part.tokens for part in divided(document, 100, overlap)) <= 2.2 * document.tokens


def test_no_number_is_cut_between_two_parts() -> None:
    text = "The total is 1,234.50 EUR. " * 200
    for part in divided(Document.of_text("a.txt", text), 101, 0):
        assert part.text.count("1,234.50") == part.text.count("1,")


def test_two_texts_of_a_document_stay_two_when_it_is_divided() -> None:
    pages = [TextPart("page one, total 12"), TextPart("345 is page two"), TextPart("x" * 500)]
    (first, *_) = divided(Document("a.pdf", pages), 100, 0)
    assert [part.text for part in first.parts if isinstance(part, TextPart)] == [
        "page one, total 12",
        "345 is page two",
    ]


def test_dividing_takes_time_in_proportion_to_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of 24,000 words took a minute of the event loop: each piece measured its whole part again."""
    measured = 0

    def counted(text: str) -> int:
        nonlocal measured
        measured += len(text)
        return len(text)

    monkeypatch.setattr(splitting, "_size", counted)
    text = "word " * 4_000
    divided(Document.of_text("a.txt", text), 2_000, 200)
    assert measured <= 10 * len(text)


@pytest.mark.parametrize(
    "answers",
    [[{"r": {"n": 1}}, {"r": [{"n": 2}]}], [{"r": [{"n": 1}]}, {"r": {"n": 2}}]],
)
def test_a_lone_value_is_an_item_where_others_are_lists(answers: list[dict[str, object]]) -> None:
    assert merged(answers, {}) == {"r": [{"n": 1}, {"n": 2}]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"merge": {"count": "all"}}, "`count` takes no list and no free text"),
        ({"merge": {"tags": "all"}, "many": True}, "`merge` has no effect with `many`"),
    ],
)
def test_a_merge_rule_that_makes_no_valid_value_is_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        params(**wrong)


class Coded(BaseModel):
    code: str = Field(min_length=2, pattern="^[A-Z]+$")
    note: str = Field(min_length=2)


def test_lines_are_no_value_of_a_text_with_a_pattern() -> None:
    fields = schema_of(Coded).fields
    assert [takes_all(fields[name].shape) for name in ("code", "note")] == [False, True]
