"""The verb `eval`: records compared with the truth."""

from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from connectors.objects.compression import zstd
from engine.cli.evaluating import FATES, evaluate
from engine.cli.verbs import main

TRUTH: list[dict[str, object]] = [
    {"id": "1", "name": "Ann Lee", "age": 30, "city": None},
    {"id": "2", "name": "José", "age": 41, "city": "Oslo"},
    {"id": "3", "name": "Cy", "age": 5, "city": "Rome"},
]
FOUND: list[dict[str, object]] = [
    {"id": "1", "name": "ann  lee", "age": "30", "city": "Lima"},
    {"id": "2", "name": "José", "age": 14, "city": None},
    {"id": "9", "name": "Nobody"},
]


def lines(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def files(folder: Path) -> tuple[str, str]:
    return lines(folder / "out.jsonl", FOUND), lines(folder / "truth.jsonl", TRUTH)


@pytest.mark.slow
def test_values_are_exact_normalised_wrong_missing_or_invented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", *files(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    kinds = ("exact", "normalised", "wrong", "missing", "invented")
    assert {name: [one[kind] for kind in kinds] for name, one in found["fields"].items()} == {
        "name": [1, 1, 0, 0, 0],
        "age": [0, 1, 1, 0, 0],
        "city": [0, 0, 0, 1, 1],
    }
    assert (found["records"], found["lost"], found["unknown"]) == (2, ["3"], ["9"])


@pytest.mark.slow
def test_a_table_names_documents_and_the_other_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, truth = files(tmp_path)
    assert main(["eval", truth, truth, "--against", out]) == 0
    said = capsys.readouterr().out
    assert "before" in said
    assert "100%" in said
    assert main(["eval", out, truth]) == 0
    assert "without a record: 3" in capsys.readouterr().out


@pytest.mark.parametrize(("share", "code"), [("0.3", 0), ("0.4", 1)])
def test_too_few_right_values_are_an_exit_code(tmp_path: Path, share: str, code: int) -> None:
    assert main(["eval", *files(tmp_path), "--min", share]) == code  # 3 of 9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("found", "true", "reason"),
    [
        (["a"] * 1999 + ["b"], ["a"] * 2000, "1,999 of 2,000 values are right (99.9%)"),
        (
            ["a"] * 2,
            ["a"] * 4,
            "2 of 4 values are right (50%), including those of 2 documents without a record, which are wrong",
        ),
    ],
    ids=["rounded", "lost"],
)
def test_a_failure_of_min_says_what_is_not_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], found: list[str], true: list[str], reason: str
) -> None:
    out, truth = (
        lines(tmp_path / name, [{"id": str(at), "v": one} for at, one in enumerate(values)])
        for name, values in (("out.jsonl", found), ("truth.jsonl", true))
    )
    assert main(["eval", out, truth, "--min", "0.9996"]) == 1
    said = capsys.readouterr().out
    assert said.endswith(f"below --min 0.9996: {reason}\n")
    assert ("100%" in said) == (len(found) < len(true))  # of the compared records
    assert main(["eval", out, truth, "--min", "0.9996", "--json"]) == 1
    assert reason in json.loads(capsys.readouterr().out)["failure"]


def test_truth_by_path_fits_records_with_longer_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"memos/1.txt": {"name": "Ann"}, "memos/2.txt": "corrupt"}))
    out = lines(tmp_path / "out.jsonl", [{"path": "s3://bucket/memos/1.txt", "name": "Ann"}])
    assert main(["eval", out, str(truth), "--key", "path", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"]["name"]["exact"] == 1


@pytest.mark.parametrize(
    ("name", "content", "key"),
    [
        ("t.csv", "id,name\n1,Ann Lee\n", "id"),
        ("t.csv", "id;name;age\n1;Ann Lee;30,5\n", "id"),
        ("t.csv", "id, name,\n1,Ann Lee,\n,,\n", "id"),
        ("t.jsonl", '{"document": "1", "name": "Ann Lee"}', "id=document"),
    ],
    ids=["commas", "semicolons", "of-a-spreadsheet", "another-key"],
)
def test_the_truth_may_come_as_people_keep_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, key: str
) -> None:
    (tmp_path / name).write_text(content)
    out = lines(tmp_path / "out.jsonl", [{"id": "1", "name": "Ann Lee"}])
    assert main(["eval", out, str(tmp_path / name), "--key", key, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"]["name"]["exact"] == 1


TABLE = b"id,name\n1,Ann Lee\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv.gz", gzip.compress(TABLE)),
        ("T.TSV.GZ", gzip.compress(TABLE.replace(b",", b"\t"))),
        ("t.jsonl.bz2", bz2.compress(b'{"id": "1", "name": "Ann Lee"}\n')),
        ("t.json.zst", zstd().compress(b'{"1": {"name": "Ann Lee"}}')),
        ("t[1].csv", "id|name\n1|Ann Lee\n".encode("utf-16")),
        ("t.rows", b""),
    ],
    ids=["csv.gz", "tsv.gz", "jsonl.bz2", "json.zst", "utf-16", "parquet"],
)
def test_eval_reads_what_the_files_source_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes
) -> None:
    """The empty content stands for a Parquet file, which is told by its content, not by its name."""
    (tmp_path / name).write_bytes(content)
    if not content:
        pq.write_table(pa.table({"id": ["1"], "name": ["Ann Lee"]}), tmp_path / name)
    out = lines(tmp_path / "out.jsonl", [{"id": "1", "name": "Ann Lee"}])
    for records, truth in ((out, str(tmp_path / name)), (str(tmp_path / name), out)):
        assert main(["eval", records, truth, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["fields"]["name"]["exact"] == 1


def test_a_pattern_reads_the_files_of_a_sink(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").mkdir()
    for number in (1, 2):
        rows = pa.table({"id": [str(number)], "name": ["Ann"]})
        pq.write_table(rows, tmp_path / "out" / f"part-{number}.parquet")
    truth = lines(tmp_path / "t.jsonl", [{"id": "1", "name": "Ann"}, {"id": "2", "name": "Ann"}])
    assert main(["eval", str(tmp_path / "out" / "**"), truth, "--min", "1"]) == 0
    assert "2 records compared" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv.gz", gzip.compress(TABLE * 100)[:-20], "its gzip data ends early"),
        ("t.parquet", b"PAR1\0\1\xff" * 9, "not a Parquet file, or damaged"),
        ("t.pdf", b"%PDF-1.4\n\0\xff" * 9, "expected JSON, JSON lines, CSV or Parquet"),
        ("s3://bucket/t.csv", b"", "expected a path of this machine"),
        ("none.csv", b"", "no such file"),
        ("none/*.csv", b"", "matches no file"),
        ("", b"", "is a folder"),
    ],
)
def test_files_that_eval_cannot_read_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    out, _ = files(tmp_path)
    if content:
        (tmp_path / name).write_bytes(content)
    assert main(["eval", out, name if "://" in name else str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "id,name,\n1,a,b\n", "t.csv:2: more cells than the header names"),
        ("t.csv", "id,name,,\n1,a,b,\n", "t.csv:2: more cells than the header names"),
        ("t.csv", "id,name,name\n1,a,b\n", "t.csv:1: two columns are called 'name'"),
        ("t.jsonl", '{"ID": "1", "name": "a"}', "each needs a `id`, or name another --key"),
    ],
)
def test_a_truth_that_cannot_be_used_is_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, message: str
) -> None:
    out, _ = files(tmp_path)
    (tmp_path / name).write_text(content)
    assert main(["eval", out, str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "out.jsonl:1: not JSON"), ('{"a": 1}\n{"a": 2}\n', "no record has a field `id`")],
)
def test_files_that_cannot_be_compared_are_explained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    _, truth = files(tmp_path)
    (tmp_path / "out.jsonl").write_text(content)
    assert main(["eval", str(tmp_path / "out.jsonl"), truth]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "true", "fate"),
    [
        ("A+", "A-", "wrong"),
        ("-5", "5", "wrong"),
        ("\u22125", "-5", "normalised"),
        ("\u22125", "5", "wrong"),
        ("well-known", "Well known", "normalised"),
        ("***", "---", "wrong"),
        ("12.50", 12.5, "normalised"),
        ("12,5", 12.5, "normalised"),
        ("1.234,50", 1234.5, "normalised"),
        ("-1,234,567.5", -1234567.5, "normalised"),
        ("1,234", 1234, "normalised"),
        ("1,234", 1.234, "wrong"),
        ("12,345,6", 123456, "wrong"),
        ("0,500", 0.5, "normalised"),
        (1e22, "10000000000000000000000", "normalised"),
        (10**400, 1, "wrong"),
        ("कि", "की", "wrong"),
        ("かき", "がき", "wrong"),
        ("José", "JOSE", "normalised"),
        ("2026-01-31T01:00:00+01:00", "2026-01-31T00:00:00Z", "normalised"),
        ("2026-01-31", "2026/01/31", "normalised"),
        ("2026-01-31", "2026-01-31T00:00:00", "normalised"),
        ("2026-13-31", "2026-12-31", "wrong"),
        ({"a": 1, "b": None}, {"a": "1"}, "normalised"),
        (["x", "Y"], ["x", "y"], "normalised"),
        (0, None, "invented"),
        ([], None, "absent"),
    ],
)
def test_only_spelling_is_forgiven(found: object, true: object, fate: str) -> None:
    score = evaluate({"1": {"v": found}}, {"1": {"v": true}}, "id").fields["v"]
    assert {name: getattr(score, name) for name in FATES} == dict.fromkeys(FATES, 0) | {fate: 1}


def test_no_record_is_compared_with_two_documents() -> None:
    rows = {"s3://b/a/1.txt": {"v": "a"}, "s3://b/c/1.txt": {"v": "c"}, "s3://b/2.txt": {"v": "2"}}
    truth = {"1.txt": {"v": "a"}, "b/2.txt": {"v": "2"}, "2.txt": {"v": "3"}}
    found = evaluate(rows, truth, "id")
    assert (found.records, found.lost) == (1, ["1.txt", "2.txt"])


@pytest.mark.slow
def test_large_files_are_compared_in_linear_time() -> None:
    """A quadratic comparison would take minutes at this length."""
    rows = {str(number): {"v": number} for number in range(40_000)}
    assert evaluate(rows, rows, "id").fields["v"].exact == len(rows)


def test_nothing_is_right_where_nothing_was_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, truth = files(tmp_path)
    assert main(["eval", lines(tmp_path / "other.jsonl", [{"id": "8", "name": "Al"}]), truth]) == 0
    said = capsys.readouterr().out
    assert "0 records compared" in said
    assert "100%" not in said


def test_csv_files_and_repeated_records_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text('\ufeffid,age,tags,city\n1,30,"[""x""]",\n2,41,,"Oslo, Norway"\n', "utf-8")
    rows: list[dict[str, object]] = [
        {"id": 1, "age": 30, "tags": ["x"], "city": None},
        {"id": 2, "age": 4, "city": "Oslo, Norway"},
        {"id": 2, "age": 41, "city": "Oslo, Norway"},
        {"age": 1},
    ]
    out = lines(tmp_path / "out.jsonl", rows)
    assert main(["eval", out, str(truth), "--min", "1"]) == 0
    said = capsys.readouterr().out
    assert "several different records, of which the last counts: 2" in said
    assert "left out: 1 records without `id`" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no records to compare with"),
        ("{}", "no records to compare with"),
        ('{"a": 1}', "no records to compare with"),
        ('{"id": 1}\n{"id": 2}\n', "no field but `id`"),
        ('{"1": {}, "2": {"id": "2"}}', "no field but `id`"),
        ('{"id": 1}\n{"a": 2}\n', "1 of its records have no `id`"),
        ('{"id": 1, "a": 1}\n{"id": "1", "a": 2}\n', "'1' has several different records"),
        ('{"id": 1}\nnull\n', "record 2 is not an object"),
        ("[" * 100_000, "not JSON"),
    ],
    ids=[
        "empty",
        "no-records",
        "no-objects",
        "keys",
        "keys-of-objects",
        "keyless",
        "repeated",
        "null",
        "deep",
    ],
)
def test_a_truth_that_proves_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    truth = tmp_path / "truth.jsonl"
    truth.write_text(content)
    assert main(["eval", lines(tmp_path / "out.jsonl", FOUND), str(truth), "--min", "0.9"]) == 2
    assert message in capsys.readouterr().err
