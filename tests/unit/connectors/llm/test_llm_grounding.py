"""Spans of values: exact, folded, as numbers and dates, by words; in any script."""

# ruff: noqa: RUF001 - letters of other scripts are meant

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.llm.grounding import Grounder

SCRIPTS = {
    "latin": ("Der Patient heißt José Müller und wohnt in Århus.", "José Müller"),
    "greek": ("Ο ασθενής είναι ο Γιώργος Παπαδόπουλος.", "Γιώργος Παπαδόπουλος"),
    "cyrillic": ("Пациент: Анна Ёлкина, 34 года.", "Анна Ёлкина"),
    "armenian": ("Հիվանդը՝ Արամ Սարգսյան։", "Արամ Սարգսյան"),
    "georgian": ("პაციენტი: ნინო ბერიძე, თბილისი", "ნინო ბერიძე"),
    "hebrew": ("המטופל: דוד כהן, בן 40", "דוד כהן"),
    "arabic": ("المريض: أحمد علي، العمر ٤٢", "أحمد علي"),
    "devanagari": ("रोगी का नाम राजेश कुमार है।", "राजेश कुमार"),
    "thai": ("ผู้ป่วยชื่อสมชายใจดีอายุ๓๕ปี", "สมชายใจดี"),
    "chinese": ("患者张伟，四十二岁，住在北京。", "张伟"),
    "japanese": ("患者は山田太郎さんです。", "山田太郎"),
    "korean": ("환자는 김철수입니다.", "김철수"),
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_verbatim_values_have_their_exact_span_in_any_script(script: str) -> None:
    text, value = SCRIPTS[script]
    start = text.index(value)
    assert Grounder(text).find(value) == (start, start + len(value))


@pytest.mark.parametrize(
    ("text", "value", "supported"),
    [
        ("Name: ANN  LEE", "Ann Lee", "ANN  LEE"),
        ("Root\ncanal\n  therapy was done", "Root canal therapy", "Root\ncanal\n  therapy"),
        ("José Muñoz", "Jose Munoz", "José Muñoz"),
        ("Jose\u0301 came", "José", "Jose\u0301"),
        ("Ｃｏｄｅ　４２", "Code 42", "Ｃｏｄｅ　４２"),
        ("in der Hauptstraße 5", "HAUPTSTRASSE 5", "Hauptstraße 5"),
        ("She said “it’s fine”", '"it\'s fine"', "“it’s fine”"),
        ("Total: 1,234.50 EUR", "1234.5", "1,234.50"),
        ("Summe: 1.234,50 EUR", 1234.5, "1.234,50"),
        ("on May 1st, 2025 at noon", "2025-05-01", "May 1st, 2025"),
        ("am 12.05.2026", "2026-05-12", "12.05.2026"),
        ("2026年5月12日", "2026-05-12T00:00:00", "2026年5月12日"),
        ("The quick, very brown fox jumped", "the quick brown fox", "The quick, very brown"),
        ("Dose 5mg daily", "5", "5"),
        ("Total: \u221212.50 EUR", -12.5, "\u221212.50"),
        ("السعر: ١٬٢٣٤٫٥٠", 1234.5, "١٬٢٣٤٫٥٠"),
        ("価格:１２，３４５円", 12345, "１２，３４５"),
        ("CHF 1’234.50", "1234.50", "1’234.50"),
        ("Dosis: 0,125 mg", 0.125, "0,125"),
        ("Adı: ISPARTA", "ısparta", "ISPARTA"),
        ("الاسم: محمـــد علي", "محمد علي", "محمـــد علي"),
        ("نام: علی", "علي", "علی"),
        ("der Rechnungs-\nnummer 5", "Rechnungsnummer", "Rechnungs-\nnummer"),
        ("Frau Anna Schmidt-\nHuber kam", "Schmidt-Huber", "Schmidt-\nHuber"),
    ],
)
def test_values_written_otherwise_are_found(text: str, value: object, supported: str) -> None:
    span = Grounder(text).find(value)
    assert span is not None
    assert text[slice(*span)] == supported


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("14 April", "4"),
        ("weighs 4.5 kg", "4"),
        ("Annabel", "Ann"),
        ("nothing of the kind", "Ann Lee"),
        ("", "x"),
        ("abc", ""),
        ("31/31/2026", "2026-01-31"),
        ("\u221212.50", 2.5),
        ("Dosis: 0,125 mg", 125),
        ("Rechnungs- und Lieferadresse", "Lieferung"),
    ],
)
def test_parts_of_words_and_numbers_support_nothing(text: str, value: object) -> None:
    assert Grounder(text).find(value) is None


def test_repeated_values_get_their_own_places_each() -> None:
    text = "Ann and Ann met Bob."
    values = {"who": ["Ann", "Ann", "Ann"], "other": {"name": "Bob"}, "no": None, "flag": True}
    spans = Grounder(text).spans(values)
    assert spans == {"who[0]": (0, 3), "who[1]": (8, 11), "who[2]": (0, 3), "other.name": (16, 19)}


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60), st.text(max_size=12), st.text(max_size=60))
def test_a_value_between_spaces_is_always_found(before: str, value: str, after: str) -> None:
    wanted = value.strip()
    text = f"{before} {value} {after}"
    span = Grounder(text).find(value)
    if wanted:
        assert span is not None
        assert 0 <= span[0] < span[1] <= len(text)
        assert text[slice(*span)] == wanted


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(st.text(max_size=80), st.text(max_size=20))
def test_any_text_and_value_are_searched_without_an_error(text: str, value: str) -> None:
    span = Grounder(text).find(value)
    assert span is None or 0 <= span[0] < span[1] <= len(text)


def test_months_that_run_on_take_linear_time() -> None:
    """A quadratic search would take minutes at this length."""
    assert Grounder("jan" * 100_000 + " 1 September 2026").find("2026-09-01") is not None


def test_a_value_of_every_line_takes_linear_time() -> None:
    """A search from the beginning for each of them would take a minute."""
    text = " ".join(f"SKU-{number}" for number in range(8_000))
    assert Grounder(text).spans({"lines": ["SKU-1"] * 8_000})["lines[7999]"] == (6, 11)


@pytest.mark.parametrize(
    ("text", "value", "found"),
    [
        (
            "あがだわ\nさにあ",
            "がだわさにあ",
            "がだわ\nさにあ",
        ),  # the same letters also stand one place before
        ("主乮东丸\n  丗主", "乮东丸丗主", "乮东丸\n  丗主"),
        ("ราคา ๑๐๐ บาท", "ราคา๑๐๐บาท", "ราคา ๑๐๐ บาท"),
    ],
)
def test_a_line_may_end_inside_a_value_of_a_script_without_spaces(text: str, value: str, found: str) -> None:
    span = Grounder(text).find(value)
    assert span is not None
    assert text[slice(*span)] == found


def test_a_value_over_two_lines_that_is_there_twice_gets_both_places() -> None:
    grounder = Grounder("东丸\n丗 乮 东丸\n丗")
    assert [grounder.find("东丸丗") for _ in range(2)] == [(0, 4), (7, 11)]
