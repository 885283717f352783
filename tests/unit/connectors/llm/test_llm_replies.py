"""Replies: slots by nonce, values as records need them, prices."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.llm.json_text import MAX_DEPTH, parse, repaired, written
from connectors.llm.pricing import Price, price_of
from connectors.llm.replies import match_slots, normalise, read_lone
from connectors.llm.schema import target_schema
from connectors.llm.settings import LlmParams
from engine.errors import FatalError

MEDICAL = target_schema("Medical")
NONCES = {"r1": "aa", "r2": "bb", "r3": "cc"}


def reply(**slots: object) -> str:
    return json.dumps(slots)


def slot(nonce: object, value: str) -> dict[str, object]:
    return {"nonce": nonce, "doctor": value}


def matched(content: str) -> dict[str, object] | None:
    found = match_slots(content, NONCES)
    return None if found is None else {name: values["doctor"] for name, values in found.answers.items()}


@settings(deadline=None)
@given(st.permutations(["r1", "r2", "r3"]))
def test_answers_go_to_the_slot_whose_nonce_they_echo(places: list[str]) -> None:
    content = {place: slot(nonce, nonce) for place, nonce in zip(places, NONCES.values(), strict=True)}
    assert matched(json.dumps(content)) == {"r1": "aa", "r2": "bb", "r3": "cc"}


@pytest.mark.parametrize("nonce", ["12345678", "12345e67"])
def test_a_nonce_of_digits_may_be_a_number(nonce: str) -> None:
    reading = match_slots(f'{{"r1": {{"nonce": {nonce}, "a": "x"}}}}', {"r1": nonce, "r2": "bb"})
    assert reading is not None
    assert reading.answers["r1"]["a"] == "x"


def test_a_slot_without_its_nonce_is_left_out() -> None:
    assert matched(reply(r1=slot("aa", "1"), r2=slot("xx", "2"), r3=slot(None, "3"))) == {"r1": "1"}


def test_a_nonce_that_is_there_twice_matches_no_slot() -> None:
    assert matched(reply(r1=slot("aa", "1"), r2=slot("aa", "2"), r3=slot("cc", "3"))) == {"r3": "3"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "hostile",
    ["```" + "a" * 200_000, "```" + "\n" * 200_000, "</thinking>" + "<think>" * 200_000],
    ids=["word", "lines", "thoughts"],
)
def test_marks_without_an_end_take_linear_time(hostile: str) -> None:
    """Quadratic searches would take minutes at these lengths."""
    assert matched(f"{hostile} .\n{WHOLE}") == {"r1": "1", "r2": "2", "r3": "3"}


@pytest.mark.slow
def test_a_text_without_an_end_takes_linear_time_to_repair() -> None:
    assert repaired("{" + "'" * 40_001 + "}") == ["}"]
    assert repaired('{"' + '\\"' * 20_000 + "}") == ['"' * 20_000 + "}"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [MAX_DEPTH, 300, 700, 3000, 100_000])
@pytest.mark.parametrize("end", ["", ",}"], ids=["right", "with a mistake"])
def test_a_reply_that_is_nested_too_deeply_is_none(depth: int, end: str) -> None:
    """What reads and writes the values further on would end the run."""
    content = '{"doctor": ' + '{"a": ' * depth + "1" + "}" * depth + (end or "}")
    assert read_lone(content, "r1", ["doctor"]) is None


def test_a_reply_may_be_nested_as_deep_as_records_are() -> None:
    content = '{"doctor": ' + "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1) + "}"
    found = read_lone(content, "r1", ["doctor"])
    assert found is not None
    assert json.loads(written(found.answers["r1"])) == json.loads(content)


def test_json_inside_of_a_json_text_is_read() -> None:
    assert matched(json.dumps(WHOLE)) == {"r1": "1", "r2": "2", "r3": "3"}
    assert matched(f"```json\n{json.dumps(WHOLE)}\n```") == {"r1": "1", "r2": "2", "r3": "3"}


@pytest.mark.parametrize(
    "content",
    [
        "<think>DRAFT</think>ANSWER",
        "<THINK>DRAFT<think>DRAFT</Think>ANSWER",
        "ANSWER<think>DRAFT</think>",
        "DRAFT</thought>ANSWER",
        "<think>DRAFT</thought>ANSWER",
        "<think>DRAFT<thought>DRAFT</thought>DRAFT</think>ANSWER",
    ],
)
def test_drafts_in_thoughts_are_no_answers(content: str) -> None:
    texts = {"DRAFT": '{"doctor": "A"}', "ANSWER": '{"doctor": "B"}'}
    for word, text in texts.items():
        content = content.replace(word, text)
    found = read_lone(content, "r1", ["doctor"])
    assert found is not None
    assert found.answers == {"r1": {"doctor": "B"}}


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", " \n```JSON\n{}\n```\n ", "{}"])
def test_a_fence_around_the_answer_is_no_obstacle(fence: str) -> None:
    assert matched(fence.replace("{}", reply(r1=slot("aa", "1")))) == {"r1": "1"}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "Here you are: {}", "```json\n{\n```"])
def test_anything_else_is_no_answer(content: str) -> None:
    assert matched(content) is None


@pytest.mark.parametrize("odd", [reply(r1="text", r2=[1], r3=None), reply(r1={"nonce": ["aa"]})])
def test_slots_that_are_no_answers_are_left_out(odd: str) -> None:
    assert matched(odd) == {}


ALL = {"r1": "1", "r2": "2", "r3": "3"}
WHOLE = reply(r1=slot("aa", "1"), r2=slot("bb", "2"), r3=slot("cc", "3"))


@pytest.mark.parametrize(
    "content",
    [
        f'<think>\nWhich? {{perhaps}} {{"r1": 1}}\n</think>\n\n{WHOLE}',
        f"Which fields? {{perhaps}}\n</think>\n{WHOLE}",
        f"<thinking>{reply(r1=slot('aa', 'draft'))}</thinking>{WHOLE}",
        f"Here is the JSON:\n\n```json\n{WHOLE}\n```\nLet me know if you need {{more}}!",
        f"First a draft:\n```json\n{reply(r1=slot('aa', 'draft'))}\n```\nand then:\n```\n{WHOLE}\n```",
        f"The answer is {WHOLE}. Done.",
        f"{WHOLE}{WHOLE[:0]}\n\n",
        WHOLE[:-1] + ",}",
        WHOLE.replace('"', "'"),
        f"// as asked\n{WHOLE}",
        "\ufeff" + WHOLE,
        json.dumps({"documents": json.loads(WHOLE)}),
        json.dumps(list(json.loads(WHOLE).values())),
        json.dumps({"results": list(json.loads(WHOLE).values())}),
        json.dumps({"result": {"data": json.loads(WHOLE)}}),
    ],
)
def test_an_answer_is_found_in_any_surroundings(content: str) -> None:
    assert matched(content) == ALL


@pytest.mark.parametrize("cut", [WHOLE[:-2], WHOLE[:-5], WHOLE[: len(WHOLE) // 2], "```json\n" + WHOLE[:-3]])
def test_truncated_answers_are_not_completed(cut: str) -> None:
    assert matched(cut) != ALL


def lone(content: str) -> dict[str, object] | None:
    found = read_lone(content, "r1", MEDICAL.spellings)
    return None if found is None else dict(found.answers.get("r1", {}))


@pytest.mark.parametrize(
    "content",
    [
        reply(doctor="A"),
        reply(r1={"doctor": "A"}),
        reply(slot={"doctor": "A"}),
        json.dumps([{"doctor": "A"}]),
        json.dumps({"records": [{"doctor": "A"}]}),
        "{'doctor': 'A',}",
        '```\n{"doctor": "A"}\n```',
    ],
)
def test_the_answer_about_a_lone_document_needs_no_slot(content: str) -> None:
    assert lone(content) == {"doctor": "A"}


@pytest.mark.parametrize(
    "call",
    [
        '<tool_call>{"name": "R", "arguments": {"name": "A"}}</tool_call>',
        '[TOOL_CALLS][{"name": "R", "arguments": "{\\"name\\": \\"A\\"}", "id": "c1"}]',
        '{"type": "function", "function": {"name": "R", "parameters": {"name": "A"}}}',
        '{"type": "tool_use", "id": "t", "name": "R", "input": {"name": "A"}}',
    ],
)
def test_the_name_of_a_call_is_not_that_of_a_record(call: str) -> None:
    found = read_lone(call, "r1", ["name", "age"])
    assert found is not None
    assert found.answers == {"r1": {"name": "A"}}


@pytest.mark.parametrize("kind", ["memo", {"type": "string"}])
def test_the_type_of_a_schema_is_not_that_of_a_record(kind: object) -> None:
    found = read_lone(json.dumps({"type": "object", "properties": {"type": kind}}), "r1", ["type"])
    assert found is not None
    assert found.answers == {"r1": {"type": kind}}


def test_a_record_may_have_a_field_called_input() -> None:
    found = read_lone('{"name": "A", "input": {"volts": 5}}', "r1", ["name", "input"])
    assert found is not None
    assert found.answers == {"r1": {"name": "A", "input": {"volts": 5}}}


@pytest.mark.parametrize("content", [reply(other=1), json.dumps([{"doctor": "A"}, {"doctor": "B"}])])
def test_lone_document_needs_exactly_one_record_as_answer(content: str) -> None:
    assert lone(content) == {}


@pytest.mark.parametrize("content", ["I cannot do that.", "", "{}", '{"doctor": "A"'])
def test_values_without_json_are_unreadable(content: str) -> None:
    assert lone(content) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": 12345678901234567890123, "b": 1,}', {"a": 12345678901234567890123, "b": 1}),
        ("{'a': None, 'b': True}", {"a": None, "b": True}),
        ('{"a": "one\ntwo"}', {"a": "one\ntwo"}),
        ('{"a": 1, // why\n"b": 2}', {"a": 1, "b": 2}),
        ('{"a": "None, True,}"}', {"a": "None, True,}"}),
        ("{a: 1}", {"a": 1}),
        ("{'url': 'https://a.example/b', 'who': 'Ann'}", {"url": "https://a.example/b", "who": "Ann"}),
        ("{'a': 'x /* y */ z, }', 'b': None}", {"a": "x /* y */ z, }", "b": None}),
        ("{'a': 'it is True', 'b': '5\" \\'x'}", {"a": "it is True", "b": "5\" 'x"}),
        ("{'a': 'it's // fine', 'b': 'x'}", {"a": "it's // fine", "b": "x"}),
        ("{“a”: “http://x/y”, “b”: 1}", {"a": "http://x/y", "b": 1}),
        ('{”a”: ”x”, "b": «y», `c`: `z`}', {"a": "x", "b": "y", "c": "z"}),
        ('{"a": "said “hi” // {"}', {"a": "said “hi” // {"}),
        ('{"a": 12.5%}', None),
        ('{"a": $12}', None),
        ('{"a": \u22125}', None),
        ('{"a": \u20135, "b": 1,}', None),
        ('{"a": <5}', None),
        ("{'a': -5, 'b': '<5',}", {"a": -5, "b": "<5"}),
        ("{'a': 'O''Neil'}", None),
        ('{"a": "\u05d0"\u200f, b: 1\u200b}', {"a": "\u05d0", "b": 1}),
        ('{“a”: “said “hi” to me”, "b": «dit «oui» ici»,}', {"a": "said “hi” to me", "b": "dit «oui» ici"}),
        ("{„a“: „sagt „hallo“ laut“, “b“: “x“}", {"a": "sagt „hallo“ laut", "b": "x"}),
        ('{a: "http:\\/\\/x", b: "\\u00e9\t"}', {"a": "http://x", "b": "é\t"}),
        *((f'{{"a": {number}, b: 1}}', None) for number in ("(5)", "5!", "₹5", "√2", "5℃", "+5", "[5, ...]")),
        ('{"a": 1', None),
        ("no JSON", None),
    ],
)
def test_mistakes_are_repaired_where_nothing_is_lost(text: str, value: object) -> None:
    assert repaired(text) == value


def test_a_value_is_written_with_all_the_digits_it_was_read_with() -> None:
    text = '{"a":[12.50,1234567890.12345678901234567890],"b":{"c":null,"d":true}}'
    assert written(parse(text)) == text
    assert parse('{"a": NaN}') == {"a": None}


def normal(**values: object) -> dict[str, object]:
    return normalise(values, MEDICAL)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (34, "34"),
        (34.0, "34"),
        (34.5, "34.5"),
        (0, "0"),
        (True, "true"),
        (["a", "N/A", 2], "a, 2"),
        (" 34 ", "34"),
    ],
)
def test_values_become_the_text_of_a_text_field(value: object, text: str) -> None:
    assert normal(patient_age=value) == {"patient_age": text}


@pytest.mark.parametrize(
    "nothing",
    [None, "", "  ", "N/A", "n/a.", "unknown", "Unknown.", "[not found]", "-", "TBD", [], {}],
)
def test_placeholders_are_no_values(nothing: object) -> None:
    assert normal(doctor=nothing) == {}


def test_aliases_stand_in_for_a_field_without_a_value() -> None:
    assert normal(name="A", age=3, phone="1", date="d", treatment="t", physician="p") == {
        "patient_name": "A",
        "patient_age": "3",
        "phone_number": "1",
        "scheduled_appointment_date": "d",
        "dental_procedure_name": "t",
        "doctor": "p",
    }
    assert normal(doctor="Dr. A", physician="Dr. B") == {"doctor": "Dr. A"}
    assert normal(doctor="unknown", physician="Dr. B") == {"doctor": "Dr. B"}


def test_nothing_is_cut_however_long() -> None:
    assert normal(doctor="x" * 100_000) == {"doctor": "x" * 100_000}


# --- prices


def params(**changes: Any) -> LlmParams:
    return LlmParams(**changes)


def test_a_dated_model_costs_what_its_family_costs() -> None:
    assert price_of("gpt-4o-mini-2024-07-18", params()) == price_of("gpt-4o-mini", params())
    assert price_of("gpt-4o-2024-11-20", params()) == price_of("gpt-4o", params())
    assert price_of("gpt-4o", params()) != price_of("gpt-4o-mini", params())
    assert price_of("gpt-5-mini-2099-01-01", params()) == price_of("gpt-5-mini", params())
    assert price_of("openai/gpt-4o", params()) == price_of("gpt-4o", params())


@pytest.mark.parametrize(
    "model", ["gpt-5", "gpt-4.1-mini", "claude-sonnet-4-5", "gemini-2.5-flash", "deepseek-chat"]
)
def test_models_of_several_vendors_have_a_price(model: str) -> None:
    price = price_of(model, params(budget_usd=1))
    assert 0 < price.per_million_input < price.per_million_output


def test_a_model_of_the_user_is_not_priced_as_its_base() -> None:
    assert price_of("ft:gpt-4o-mini:org", params()) == Price(0.0, 0.0)


def test_given_prices_win_and_the_sandbox_is_free() -> None:
    given_price = params(usd_per_million_input=7.0)
    assert price_of("gpt-4o-mini", given_price) == Price(7.0, 0.60)
    assert price_of("sandbox-extractor", params(budget_usd=5)) == Price(0.0, 0.0)
    assert Price(1.0, 4.0).of(1_000_000, 500_000) == 3.0


def test_a_budget_for_a_model_of_unknown_price_is_refused() -> None:
    assert price_of("house-model", params()) == Price(0.0, 0.0)
    with pytest.raises(FatalError, match=r"`usd_per_million_input: 0\.15`"):
        price_of("house-model", params(budget_usd=5))
    free = params(budget_usd=5, usd_per_million_input=0, usd_per_million_output=0)
    assert price_of("house-model", free) == Price(0.0, 0.0)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"who": "a"}, {"who": "b"}]', [{"who": "a"}, {"who": "b"}]),
        ('Here: ```json\n{"patients": [{"Who": "a"}]}\n```', [{"Who": "a"}]),
        ('{"records": [{"who": "a"}], "notes": [{"who": "b"}]}', [{"who": "a"}]),
        ('{"who": "a"}\n{"who": "b"}', None),
        ('{"who": "a", "lines": [{"who": "b"}]}', None),
        ('{"first": [{"who": "a"}], "second": [{"who": "b"}]}', None),
        ('{"patient": {"x": 1}, "lines": [{"who": "b"}]}', None),
        ('[{"who": "a"}, {"other": "b"}]', None),
    ],
    ids=["bare", "other-name", "own-name", "lines", "one-record", "two-lists", "object-beside", "strangers"],
)
def test_several_records_may_come_without_the_name_of_their_list(content: str, expected: object) -> None:
    reading = read_lone(content, "r1", {"records"}, {"who"})
    assert reading is not None
    assert reading.answers.get("r1", {}).get("records") == expected


def test_records_of_a_slot_may_go_by_another_name() -> None:
    content = '{"r1": {"nonce": "aa", "items": [{"who": "a"}]}, "r2": {"nonce": "bb", "who": "b"}}'
    reading = match_slots(content, {"r1": "aa", "r2": "bb"}, {"records"}, {"who"})
    assert reading is not None
    found = {slot: answer["records"] for slot, answer in reading.answers.items()}
    assert found == {"r1": [{"who": "a"}], "r2": [{"nonce": "bb", "who": "b"}]}
