"""The meaning of expressions, and the errors of invalid ones."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from connectors.expressions import Expression, ExpressionError, InvalidExpressionError

RECORD: dict[str, Any] = {
    "amount": 120,
    "price": 9.5,
    "country": "DE",
    "name": " Ada ",
    "empty": None,
    "customer": {"city": "Ulm", "tags": ["a", "b"]},
    "items": [{"qty": 2, "price": 3.5}, {"qty": 1}],
    "first name": "Ada",
}


def value(text: str, record: Any = RECORD) -> Any:
    return Expression(text).evaluate(record)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("amount > 100 and country in ['DE', 'FR']", True),
        ("country not in {'DE'}", False),
        ("amount * price - 1", 1139.0),
        ("7 // 2 + 7 % 2 + 2 ** 3", 12),
        ("'large' if amount >= 100 else 'small'", "large"),
        ("0 < amount < 121 <= amount + 1", True),
        ("customer['city']", "Ulm"),
        ("customer['tags'][-1] + country[:1]", "bD"),
        ("record['first name']", "Ada"),
        ("f'{country}-{price:.2f}-{empty}'", "DE-9.50-"),
        ("sum(one['qty'] * one['price'] for one in items)", 7.0),
        ("[one['qty'] for one in items if one['price'] is not None]", [2]),
        ("{'a': amount, 'b': [1, (2, 3)]}", {"a": 120, "b": [1, [2, 3]]}),
        ("amount\n  > 100  # large", True),
        ("not (amount > 100)", False),
        ("record == record", True),
    ],
)
def test_an_expression_means_what_python_means(text: str, expected: object) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gone", None),
        ("gone is None and empty is None", True),
        ("gone == None", True),
        ("gone == 5", False),
        ("gone != 5", True),
        ("gone < 5", False),
        ("gone >= 5", False),
        ("5 > gone", False),
        ("0 < gone < 5", False),
        ("gone + 1", None),
        ("-gone", None),
        ("2 ** gone", None),
        ("gone['a']['b']", None),
        ("customer['gone']", None),
        ("customer['tags'][7]", None),
        ("gone[1:2]", None),
        ("gone in ['DE']", False),
        ("'DE' in gone", False),
        ("gone not in ['DE']", True),
        ("upper(gone)", None),
        ("len(gone) > 0", False),
        ("f'{gone}!'", "!"),
        ("[one for one in gone]", []),
        ("sum([1, gone, 2])", 3),
        ("max(gone, 2, 1)", 2),
        ("coalesce(gone, empty, 'x')", "x"),
        ("gone or 'x'", "x"),
    ],
)
def test_a_missing_field_is_none_and_none_has_one_meaning(text: str, expected: object) -> None:
    assert value(text) == expected
    assert value(text, RECORD | {"gone": None}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lower(country) + upper('a') + title('ab cd') + capitalize('xY')", "deAAb CdXy"),
        ("strip(name) + strip('--a-', '-')", "Adaa"),
        ("normalize('Ⅷ  x')", "VIII x"),
        ("replace('a-b-c', '-', '')", "abc"),
        ("split('a,b', ',') + split(' c  d ')", ["a", "b", "c", "d"]),
        ("join(['a', None, 1], '/')", "a/1"),
        ("startswith(country, 'D') and endswith(country, 'E')", True),
        ("zfill(7, 3) + zfill('a', 2)", "0070a"),
        ("len(country) + len(items)", 4),
        ("str(5) + str(True)", "5true"),
        ("int('12') + int(3.9) + int('4.7')", 19),
        ("float('1.5')", 1.5),
        ("[bool('yes'), bool('off'), bool(1)]", [True, False, True]),
        ("number('1.234,50', decimal=',')", 1234.5),
        ("number('1,234') + number(\"-1'000\")", 234),
        ("[number('-1.469,06 €', ','), number('$1,200.5'), number('12,34,567.'), number('€ -.5')]",
         [-1469.06, 1200.5, 1234567.0, -0.5]),
        ("[number('(45.10)'), number(' ($1,234) '), number('(0,5 €)', ',')]", [-45.1, -1234, -0.5]),
        ("str(number('(0.00)'))", "0.0"),
        ("[number('1e3'), number('007'), number('1 234 567,8', ','), number('99999999999999999999')]",
         [1000.0, 7, 1234567.8, 99999999999999999999]),
        ("[round(2.567, 2), round(2.5), floor(-1.5), ceil(1.2), abs(-3)]", [2.57, 2, -2, 2, 3]),
        ("[min(items[0]['qty'], 1), max([1, 3])]", [1, 3]),
        ("[any([0, 1]), all([0, 1])]", [True, False]),
        ("[first([1, 2]), last([1, 2]), first([])]", [1, 2, None]),
        ("unique([1, True, 1, {'a': 1}, {'a': 1}])", [1, True, {"a": 1}]),
        ("sorted([2, None, 1])", [1, 2]),
        ("[keys(customer), values({'a': 1})]", [["city", "tags"], [1]]),
        ("get(record, 'customer.tags.1')", "b"),
        ("get(customer, 'gone.deeper', 'none')", "none"),
        ("[type_of(gone), type_of(1), type_of('a'), type_of([]), type_of({}), type_of(True)]",
         ["null", "number", "text", "list", "mapping", "boolean"]),
        ("from_json('{\"a\": [1]}')['a'][0]", 1),
        ("from_json('[123456789012345678901234567890, \"é\"]')", [123456789012345678901234567890, "é"]),
        ("to_json({'a': 1})", '{"a":1}'),
        ("sha256('a')[:8]", "ca978112"),
        ("uuid('a') == uuid('a') and uuid('a') != uuid('b')", True),
        ("date('01.02.2026', '%d.%m.%Y')", "2026-02-01"),
        ("datetime('2026-07-01T12:00:00', zone='Europe/Berlin')", "2026-07-01T10:00:00+00:00"),
        ("datetime(0)", "1970-01-01T00:00:00+00:00"),
        ("datetime('1500', 'milliseconds')", "1970-01-01T00:00:01.500000+00:00"),
        ("format_date('2026-07-01T23:00:00+00:00', '%d.%m.%y', 'Europe/Berlin')", "02.07.26"),
        ("date('2026-07-01T23:30:00+02:00') < '2026-07-02'", True),
        ("matches(country, '^[A-Z]{2}$')", True),
        ("matches(gone, 'x')", False),
    ],
)  # fmt: skip
def test_functions_compute(text: str, expected: object) -> None:
    assert value(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the expression is empty"),
        ("a.b.c", "attributes are not allowed at column 1 (write a['b']['c'] for a field"),
        ("a[0].b", "(write value['b'] for a field"),
        ("x + name.upper()", "attributes are not allowed at column 5 (write upper(…))"),
        ("lenght(a)", "unknown function `lenght` at column 1 (did you mean `len`?)"),
        ("len(a, 3)", "len: too many positional arguments at column 1 (len(value))"),
        ("a = 3", "write == to compare"),
        ("a && b", "write `and` and `or`"),
        ("!a", "write `not`"),
        ("a in ['DE' 'FR']", "a comma is missing before the text at column 12"),
        ("a & b", "`&` is not allowed at column 1 (write `and`)"),
        ("true", "`true` is not a word of expressions at column 1 (write True)"),
        ("a is 5", "`is` is only for None"),
        ("round(a", "inside { } and [ ], YAML ends a value at a comma: put quotes around the expression"),
        ("a) or (b", "not an expression"),
        ("Nr. is not None", "write record['a name'] for a field whose name is not a plain word"),
        ("Netto (€) > 5", "write record['a name']"),
        ("first name == 'Ada'", "write record['a name']"),
        ("matches(a, b)", "matches takes a text and a pattern in quotes"),
        ("matches(a, '(')", "not a regular expression: error: unclosed group"),
        ("f'{a!r}'", "`!r` and `!a` are not allowed"),
        ("f'{a:1000000000d}'", "the format '1000000000d' is not allowed"),
        ("[x for y in a for x in y]", "a comprehension inside another one is not allowed"),
        ("{a: 1}", "the names in {…} are texts in quotes"),
        ("b'x'", "bytes values are not allowed"),
        ("1e999", "the number is too large"),
    ],
)
def test_an_invalid_expression_shows_why_and_where(text: str, message: str) -> None:
    with pytest.raises(InvalidExpressionError) as caught:
        Expression(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amount / 0", "expression `amount / 0` failed: cannot divide by zero"),
        *(
            (f"({text}) * 1", f"failed in `{text}`: the result is larger than a number can be")
            for text in ("1e308 * 10", "1e308 + 1e308", "-1e308 - 1e308", "1e308 / 1e-10")
        ),
        ("1 + country", "expression `1 + country` failed: cannot add a number and text"),
        ("amount > 1 and country < 5", "failed in `country < 5`: cannot compare text with a number"),
        ("int(country)", "failed: int: the text is not a number"),
        ("country['a']", "failed: text has positions (numbers from 0), not fields"),
        (
            "[one['price'] + 'x' for one in items]",
            "failed in `one['price'] + 'x'`: cannot add a number and text",
        ),
        ("f'{customer}'", "cannot put a mapping into text; write to_json(…)"),
        *(
            (f"number('{text}')", "number: the text is not a number with the decimal mark '.'")
            for text in (
                "1.234,50",
                "12,30",
                "1,23,4",
                "1_000",
                "12 34",
                "19%",
                "",
                "€",
                "80-",
                "(-80)",
                "-(80)",
                "()",
                "(80",
                "1,234 567",
                ",5",
            )
        ),
        ("int('1_000')", "int: the text is not a number"),
        ("float('1,5')", "float: the text is not a number with the decimal mark '.'"),
        ("number('5', decimal=',') + number('1.5', ',')", "not a number with the decimal mark ','"),
        ("date('30.02.2026', '%d.%m.%Y')", "date: the value is not a time in the format %d.%m.%Y"),
    ],
)
def test_an_error_names_the_expression_and_the_part_but_no_value(text: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        value(text, RECORD | {"country": "SECRET"})
    assert message in str(caught.value)
    assert "SECRET" not in str(caught.value)
    assert caught.value.kind == "ExpressionError"


class Model(BaseModel):
    amount: int
    inner: dict[str, int]


def test_the_fields_of_a_pydantic_model_are_read() -> None:
    assert value("amount + inner['a'] + 1", Model(amount=1, inner={"a": 2})) == 4


def test_one_bad_record_leaves_the_others_their_values() -> None:
    made, failed = Expression("1 / n").evaluate_all([{"n": 1}, {"n": 0}, {}, {"n": 2}])

    assert failed
    assert made[0] == 1
    assert isinstance(made[1], ExpressionError)
    assert made[2:] == [None, 0.5]


def test_a_value_that_is_no_record_is_named_by_its_type() -> None:
    with pytest.raises(ExpressionError, match="the record is of type int: expected a mapping or a Pydantic"):
        value("amount > 100", 5)


def test_decimals_are_numbers() -> None:
    assert value("n * 2 > 2", {"n": Decimal("1.5")}) is True


def test_remedy_for_a_trailing_minus_sign_reads_it() -> None:
    with pytest.raises(ExpressionError, match="with a minus sign at its end") as caught:
        value("number(x, ',')", {"x": "1.234,50-"})
    remedy = str(caught.value).split("`")[-2]
    found = [value(remedy, {"x": text}) for text in ("1.234,50-", " 5- ", "12,34", "-7", "5 €-", None)]
    assert found == [-1234.5, -5, 12.34, -7, -5, None]
