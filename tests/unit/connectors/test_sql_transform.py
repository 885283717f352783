"""`sql`: a query over each batch that keeps the record of every row."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.transforms.querying import Sql, SqlParams
from engine.contract.batch import Batch
from engine.contract.keys import KeyRange
from engine.errors import FatalError, RecordError


def batch(*records: Any) -> Batch:
    return Batch(list(records), KeyRange("k/", 0, len(records)))


async def queried(query: str, *records: Any, **params: Any) -> Batch:
    async with Sql(SqlParams.model_validate({"query": query, **params})) as node:
        return node.apply(batch(*records))


RECORDS = [{"id": 1, "a": "x", "n": 1.5}, {"id": 2, "a": None, "n": 2}, {"id": 3, "a": "z"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("SELECT * FROM batch WHERE id > 1", {"k/1": [2, None, 2.0], "k/2": [3, "z", None]}),
        (
            "SELECT upper(a) AS b, id FROM batch ORDER BY id DESC",
            {"k/0": ["X", 1], "k/1": [None, 2], "k/2": ["Z", 3]},
        ),
        ("SELECT b.id FROM batch b JOIN (VALUES (3), (1)) t(id) USING (id)", {"k/0": [1], "k/2": [3]}),
        ("WITH c AS (SELECT * FROM batch) SELECT _row, id FROM c", {"k/0": [1], "k/1": [2], "k/2": [3]}),
        ("SELECT {'x': id, 'y': [a]} AS s FROM batch WHERE id = 1", {"k/0": [{"x": 1, "y": ["x"]}]}),
        ("SELECT DATE '2026-03-01' + id::INTEGER AS d FROM batch WHERE id = 1", {"k/0": ["2026-03-02"]}),
        ("SELECT batch.* FROM batch WHERE a = 'x'", {"k/0": [1, "x", 1.5]}),
        ("SELECT a.id FROM batch a JOIN batch b ON a.id = b.id + 1", {"k/1": [2], "k/2": [3]}),
        (
            "WITH batch AS (SELECT * FROM batch WHERE id > 1) SELECT id, _row FROM batch",
            {"k/1": [2], "k/2": [3]},
        ),
        ("SELECT id, id AS id_1 FROM batch WHERE id = 2; -- once", {"k/1": [2, 2]}),
        ("SELECT * FROM batch WHERE id = 1 -- the first", {"k/0": [1, "x", 1.5]}),
        ("SELECT * FROM batch WHERE id = 4", {}),
    ],
)
async def test_rows_keep_the_keys_of_their_records(query: str, expected: dict[str, list[Any]]) -> None:
    derived = await queried(query, *RECORDS)

    made = dict(
        zip(derived.keys.to_list(), (list(record.values()) for record in derived.records), strict=True)
    )
    assert made == expected
    assert derived.drops.get("not in the result", 0) == 3 - len(expected)


@pytest.mark.slow
async def test_nested_values_go_through_as_they_are() -> None:
    record = {"id": 1, "lines": [{"sku": "a", "n": 1}], "more": {"x": None}, 'odd "name': True}

    assert (await queried("SELECT * FROM batch", record)).records == [record]


@pytest.mark.slow
async def test_fields_may_come_in_any_order_and_be_missing() -> None:
    records: list[dict[str, Any]] = [{"a": 1, "b": "x"}, {"b": "y", "a": 2}, {"a": 3}]
    query = "SELECT a, b FROM batch"

    async with Sql(SqlParams(query=query)) as node:
        for part in (records[:1], records[1:2], records):
            assert node.apply(batch(*part)).records == [{"b": None, **record} for record in part]


@pytest.mark.slow
async def test_rows_of_a_record_keep_their_order() -> None:
    query = "SELECT id, unnest(range(id)) AS n FROM batch ORDER BY n DESC"
    derived = await queried(query, *RECORDS, many=True)

    assert [(record["id"], record["n"]) for record in derived.records] == [
        (1, 0), (2, 1), (2, 0), (3, 2), (3, 1), (3, 0),
    ]  # fmt: skip
    assert derived.keys.to_list() == ["k/0/0", "k/1/0", "k/1/1", "k/2/0", "k/2/1", "k/2/2"]


@pytest.mark.slow
async def test_several_rows_for_a_record_have_to_be_declared() -> None:
    query = "SELECT id, unnest([1, 2]) AS n FROM batch"

    with pytest.raises(FatalError, match="several rows for one record: set `many: true`"):
        await queried(query, {"id": 1})
    derived = await queried(query, {"id": 1}, many=True)

    assert derived.keys.to_list() == ["k/0/0", "k/0/1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT sum(n) FROM batch", "sum() makes one row of several records"),
        ("SELECT a, count(*) FROM batch GROUP BY a", "GROUP BY makes one row of several records"),
        ("SELECT DISTINCT a FROM batch", "DISTINCT makes one row of several records"),
        ("SELECT id FROM batch UNION ALL SELECT id FROM batch", "UNION, EXCEPT or INTERSECT"),
        ("SELECT id, sum(n) OVER () FROM batch", "OVER sees only one batch at a time"),
        ("SELECT id, (SELECT max(n) FROM batch) AS m FROM batch", "max() sees only one batch at a time"),
        ("SELECT id FROM batch LIMIT 5", "LIMIT sees only one batch at a time"),
        ("DELETE FROM batch", "the query has to be a SELECT"),
        ("SELECT 1; SELECT 2", "write one SELECT"),
        ("SELEC 1", "syntax error"),
    ],
)
def test_a_query_that_loses_records_is_refused(query: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        SqlParams(query=query)
    assert message in str(caught.value)


@pytest.mark.slow
async def test_windows_may_be_allowed() -> None:
    derived = await queried(
        "SELECT id, row_number() OVER (ORDER BY id) AS r FROM batch", *RECORDS, per_batch=True
    )

    assert [record["r"] for record in derived.records] == [1, 2, 3]


@pytest.mark.slow
async def test_a_value_that_does_not_fit_is_its_records_own_failure() -> None:
    records = [{"n": 1}, {"n": "SECRET"}, {"n": 3}, {"n": 4}]

    for columns in (None, {"n": "BIGINT"}):
        derived = await queried("SELECT n + 1 AS m FROM batch", *records, columns=columns)

        assert [record["m"] for record in derived.records] == [2, 4, 5]
        ((index, error),) = derived.failures
        assert index == 1
        assert isinstance(error, RecordError)
        assert "SECRET" not in str(error)


@pytest.mark.slow
async def test_a_function_that_fails_for_a_value_is_its_records_own_failure() -> None:
    derived = await queried("SELECT a::INTEGER AS n FROM batch", {"a": "1"}, {"a": "SECRET"}, {"a": None})

    assert derived.records == [{"n": 1}, {"n": None}]
    assert "SECRET" not in str(derived.failures[0][1])


@pytest.mark.slow
async def test_a_column_that_is_not_there_stops_the_run() -> None:
    with pytest.raises(FatalError, match=r'the query cannot run: .*"gone" not found'):
        await queried("SELECT gone FROM batch", {"id": 1})
    assert (await queried("SELECT gone FROM batch", {"id": 1}, columns={"gone": "VARCHAR"})).records == [
        {"gone": None}
    ]


@pytest.mark.slow
async def test_a_column_keeps_its_type_from_batch_to_batch() -> None:
    async with Sql(SqlParams(query="SELECT typeof(n) AS t, n FROM batch")) as node:
        types = [
            node.apply(batch(record)).records[0]["t"]
            for record in ({"n": 1}, {"n": None}, {}, {"n": 1.5}, {"n": 2})
        ]

    assert types == ["BIGINT", "BIGINT", "BIGINT", "DOUBLE", "DOUBLE"]


@pytest.mark.slow
async def test_a_row_without_its_record_stops_the_run() -> None:
    with pytest.raises(FatalError, match="the query has to select `_row`"):
        await queried("SELECT id FROM (SELECT id FROM batch) q", {"id": 1})


@pytest.mark.slow
async def test_files_are_out_of_reach() -> None:
    with pytest.raises(FatalError, match="the query cannot run: Permission Error"):
        await queried("SELECT b.id, f.* FROM batch b, read_csv('/etc/passwd') f", {"id": 1})


def test_types_are_checked() -> None:
    with pytest.raises(ValidationError, match="is not a DuckDB type"):
        SqlParams(query="SELECT 1 FROM batch", columns={"a": "'; DROP"})


@pytest.mark.slow
async def test_a_field_called_like_the_row_column_is_not_taken_for_it() -> None:
    derived = await queried("SELECT * FROM batch", {"id": 1, "_row": 5}, {"id": 2, "_row": 0})

    assert [
        (record["id"], key) for record, key in zip(derived.records, derived.keys.to_list(), strict=True)
    ] == [
        (1, "k/0"),
        (2, "k/1"),
    ]


@pytest.mark.slow
async def test_a_result_that_json_cannot_say_fails_alone() -> None:
    derived = await queried("SELECT id / n AS share FROM batch", {"id": 1, "n": 2}, {"id": 1, "n": 0.0})

    assert derived.records == [{"share": 0.5}]
    ((index, error),) = derived.failures
    assert (index, error.kind) == (1, "SqlError")
    assert "infinity or NaN" in str(error)


@pytest.mark.slow
async def test_whole_numbers_of_the_result_keep_their_digits() -> None:
    derived = await queried("SELECT id::HUGEINT * 1000000 AS id FROM batch", {"id": 2**62 + 1})

    assert derived.records == [{"id": (2**62 + 1) * 1_000_000}]


@pytest.mark.slow
async def test_a_number_among_truth_values_is_refused() -> None:
    derived = await queried("SELECT a FROM batch", {"a": True}, {"a": 5}, {"a": None})

    assert derived.records == [{"a": True}, {"a": None}]
    assert [(index, error.kind) for index, error in derived.failures] == [(1, "SqlError")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"": 1}, "without a name"),
        ({"ID": 1}, "`id` and `ID` are the same column"),
        ({"\ud800": 1}, "not valid Unicode"),
        ({f"f{number}": 1 for number in range(2_000)}, "more than 1,000 fields"),
    ],
)
async def test_a_name_that_is_no_column_fails_alone(odd: dict[str, Any], message: str) -> None:
    async with Sql(SqlParams(query="SELECT * FROM batch")) as node:
        first = node.apply(batch({"id": 1}, odd, {"id": 2}))
        second = node.apply(batch({"id": 3}))

    assert first.records == [{"id": 1}, {"id": 2}]
    (failure,) = first.failures
    assert failure[0] == 1
    assert message in str(failure[1])
    assert "`columns`" in str(failure[1])
    assert second.records == [{"id": 3}]


async def test_an_odd_name_is_no_matter_with_declared_columns() -> None:
    found = await queried("SELECT * FROM batch", {"id": 1, "": 2, "ID": 3}, columns={"id": "BIGINT"})
    assert found.records == [{"id": 1}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "query", ["SELECT *, upper(a) AS A FROM batch", "WITH c AS (FROM batch) SELECT *, 1 AS a FROM c"]
)
async def test_two_columns_of_one_name_are_refused(query: str) -> None:
    with pytest.raises(FatalError, match=r"two columns the name 'a': .* SELECT \* EXCLUDE \(a\)"):
        await queried(query, *RECORDS)
