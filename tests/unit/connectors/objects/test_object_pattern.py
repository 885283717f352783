from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.objects.pattern import ObjectPattern, PatternError, literal_prefix
from tests.examples import examples


def parse(pattern: str) -> ObjectPattern:
    return ObjectPattern.parse(f"s3://bucket/{pattern}")


MATCHES = [
    ("*.txt", "a.txt"),
    ("*.txt", ".txt"),
    ("**/x.txt", "x.txt"),
    ("**/x.txt", "a/x.txt"),
    ("**/x.txt", "a/b/x.txt"),
    ("a/**/x.txt", "a/x.txt"),
    ("a/**", "a/b/c"),
    ("a/**", "a//b"),
    ("**", ".hidden/.file"),
    ("a/*/x", "a/../x"),
    ("memo_?.txt", "memo_1.txt"),
    ("memo_[0-9].txt", "memo_7.txt"),
    ("memo_[!0-9].txt", "memo_a.txt"),
    ("*.{txt,pdf}", "a.pdf"),
    ("{2024,2025}/{01,02}/*", "2025/01/x"),
    ("{a,b{1,2}}/*", "b2/x"),
    ("m{1..3}.txt", "m2.txt"),
    (r"memo \[urgent\] \#18.txt", "memo [urgent] #18.txt"),
    (r"100\*.txt", "100*.txt"),
    (r"\{a,b}", "{a,b}"),
    ("a//*.txt", "a//x.txt"),
    ("Überweisungen/*", "Überweisungen/Müller 33.txt"),
    ("100% + & #/*", "100% + & #/x"),
    ("*", "line\nbreak"),
]
DIFFERS = [
    ("*.txt", "a/b.txt"),
    ("*.txt", "A.TXT"),
    ("*", "a/b"),
    ("?", "/"),
    ("a?b", "a/b"),
    ("a[!x]b", "a/b"),
    ("a/*", "a//b"),
    ("a//*.txt", "a/x.txt"),
    ("a/*/x", "a//x"),
    ("a/**", "a"),
    ("a/**/x", "ab/x"),
    ("memo", "memo.bak"),
    ("memo", "memo/"),
    (r"\*", "a"),
]


@pytest.mark.parametrize(("pattern", "key"), MATCHES)
def test_it_matches(pattern: str, key: str) -> None:
    assert parse(pattern).matches(key)


@pytest.mark.parametrize(("pattern", "key"), DIFFERS)
def test_it_does_not_match(pattern: str, key: str) -> None:
    assert not parse(pattern).matches(key)


@pytest.mark.parametrize(
    ("pattern", "prefixes", "exact"),
    [
        ("memos/memo_000*", ("memos/memo_000",), ()),
        ("a/b?c/*.txt", ("a/b",), ()),
        ("a/[xy]/z", ("a/",), ()),
        ("**/x", ("",), ()),
        ("a/**/{x,y}.txt", ("a/",), ()),
        ("{b,a}/x*", ("a/x", "b/x"), ()),
        ("{a,ab,abc}*", ("a",), ()),
        ("{a*,ab}", ("a",), ()),
        ("{x,a*}", ("a",), ("x",)),
        (r"a\*b*", ("a*b",), ()),
        ("b/a.txt", (), ("b/a.txt",)),
        ("{b,a,b}.txt", (), ("a.txt", "b.txt")),
    ],
)
def test_only_literal_text_is_listed(pattern: str, prefixes: tuple[str, ...], exact: tuple[str, ...]) -> None:
    parsed = parse(pattern)
    assert (parsed.prefixes, parsed.exact_keys) == (prefixes, exact)


def test_one_name_without_wildcards_is_exact() -> None:
    assert parse(r"folder/memo \[1].txt").exact
    assert not parse("{a,b}").exact
    assert not parse("a*").exact


def test_the_scheme_is_kept_and_nothing_is_decoded() -> None:
    pattern = ObjectPattern.parse("minio://some.bucket/a%20b/c?d#e")
    assert (pattern.scheme, pattern.bucket, pattern.pattern) == ("minio", "some.bucket", "a%20b/c?d#e")
    assert pattern.uri_of("x y") == "minio://some.bucket/x y"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("bucket/key", "must begin with s3:// or minio://"),
        ("http://bucket/key", "must begin with s3:// or minio://"),
        ("s3://bucket", r"use s3://bucket/\*\* for the whole bucket"),
        ("s3://bucket/", "does not name an object"),
        ("s3://bucket/folder/", "names a folder"),
        ("s3://../x", "is not a valid bucket name"),
        ("s3://a:b:c/x", "is not a valid bucket name"),
        ("s3://buc ket/x", "is not a valid bucket name"),
        ("s3://buc%2Fket/x", "is not a valid bucket name"),
        ("s3://" + "x" * 256 + "/x", "is not a valid bucket name"),
        ("s3://arn:aws:s3:eu-west-1:1:bucket/x", "is not a valid bucket name"),
        ("s3://buc*/x", "contains a wildcard"),
        ("s3:///x", "is not a valid bucket name"),
        ("s3://bucket/a**", "matches whole folders"),
        ("s3://bucket/a/***/b", "matches whole folders"),
        ("s3://bucket/{1..2000}", "more than 1000 patterns"),
        ("s3://bucket/{,}", "each of its alternatives is empty"),
        ("s3://bucket/" + "x" * 5000, "longer than 4096 bytes"),
        ("s3://bucket/\ud800", "half of a surrogate pair"),
    ],
)
def test_a_bad_pattern_says_what_is_wrong(uri: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        ObjectPattern.parse(uri)


@pytest.mark.parametrize("bucket", ["abc", "my.dotted.bucket", "a--b", "1bucket9", "a" * 63])
def test_legal_bucket_names_are_taken(bucket: str) -> None:
    assert ObjectPattern.parse(f"s3://{bucket}/x").bucket == bucket


@pytest.mark.slow
def test_as_many_alternatives_as_are_allowed_still_match() -> None:
    assert parse("{1..1000}.txt").matches("1000.txt")


names = st.text(alphabet="ab.", min_size=0, max_size=3)
keys = st.lists(names, min_size=1, max_size=4).map("/".join).filter(bool)
part = st.one_of(
    st.just("**"),
    st.text(alphabet="ab.?", max_size=3),
    st.sampled_from(["*", "a*", "*b", "a*b", "[ab]", "[!a]b", ".*", r"\*", "{a,b}", "{a,b*}", "{ab,a}?"]),
)
patterns = st.lists(part, min_size=1, max_size=4).map("/".join)


def oracle(alternative: str, key: str) -> bool:
    """The definition, written out as a regular expression for one pattern without braces."""
    segments = alternative.split("/")
    expression = ""
    for index, segment in enumerate(segments):
        last = index == len(segments) - 1
        if segment == "**":
            expression += ".*" if last else "(?:[^/]*/)*"
            continue
        body = "".join(
            {"*": "[^/]*", "?": "[^/]"}.get(token, token if token[0] == "[" else re.escape(token[-1]))
            for token in re.findall(r"\\.|\[[^]]*\]|.", segment)
        ).replace("[!a]", "[^/a]")
        expression += ("(?=[^/])" if segment else "") + body + ("" if last else "/")
    return re.fullmatch(expression, key, re.DOTALL) is not None


def parsed_or_none(pattern: str) -> ObjectPattern | None:
    try:
        return parse(pattern)
    except PatternError:
        return None


@pytest.mark.slow
@settings(max_examples=examples(300))
@given(patterns, keys)
def test_matching_equals_its_definition(pattern: str, key: str) -> None:
    parsed = parsed_or_none(pattern)
    if parsed is not None:
        assert parsed.matches(key) == any(oracle(one, key) for one in parsed.alternatives)


@pytest.mark.slow
@settings(max_examples=examples(300))
@given(patterns, keys)
def test_what_matches_is_always_listed_exactly_once(pattern: str, key: str) -> None:
    parsed = parsed_or_none(pattern)
    if parsed is not None and parsed.matches(key):
        listings = sum(key.startswith(prefix) for prefix in parsed.prefixes)
        assert listings + parsed.exact_keys.count(key) == 1


@pytest.mark.slow
@given(st.text(min_size=1, max_size=20).filter(lambda key: not key.endswith("/")))
def test_any_key_can_be_written_with_escapes(key: str) -> None:
    escaped = re.sub(r"([*?\[\]{}\\$])", r"\\\1", key)
    parsed = parse(escaped)
    assert literal_prefix(parsed.alternatives[0]) == (key, True)
    assert parsed.exact
    assert parsed.matches(key)


@pytest.mark.parametrize(
    "bucket",
    [
        "bucket",
        "My_Old.Bucket",
        "tenant:bucket",
        "10.0.0.1",
        "arn:aws:s3:eu-west-1:123456789012:accesspoint/name",
        "arn:aws-cn:s3-object-lambda:cn-north-1:123456789012:accesspoint:name",
        "arn:aws:s3-outposts:us-west-2:123456789012:outpost/op-1/accesspoint/name",
    ],
)
def test_a_bucket_is_named_as_its_server_names_it(bucket: str) -> None:
    pattern = ObjectPattern.parse(f"s3://{bucket}/a/**/*.txt")
    assert (pattern.bucket, pattern.pattern) == (bucket, "a/**/*.txt")
    assert pattern.uri_of("a/b.txt") == f"s3://{bucket}/a/b.txt"
