from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.objects.groups import GROUP_BYTES, GROUP_OBJECTS, RECORD_OVERHEAD, plan_groups, weight
from connectors.objects.listed import ListedObject
from connectors.s3 import S3Connection, S3Connector, S3Params

LIMIT = 10_000_000


def objects_of(sizes: list[int]) -> list[ListedObject]:
    return [ListedObject(f"{number}.txt", "e", size) for number, size in enumerate(sizes)]


@pytest.mark.slow
@given(st.lists(st.one_of(st.integers(0, 2000), st.integers(0, 400_000)), max_size=60), st.integers(0, 60))
def test_groups_are_the_rest_of_the_split_in_order_and_bounded(sizes: list[int], start: int) -> None:
    objects = objects_of(sizes)
    groups = list(plan_groups(objects, start, LIMIT))
    assert [one for group in groups for one in group.objects] == objects[start:]
    for group in groups:
        assert objects[group.start : group.start + len(group.objects)] == list(group.objects)
        assert group.nbytes == sum(weight(one, LIMIT) for one in group.objects)
        assert 1 <= len(group.objects) <= GROUP_OBJECTS
        assert len(group.objects) == 1 or group.nbytes <= GROUP_BYTES


def test_an_object_that_will_not_be_read_weighs_next_to_nothing() -> None:
    assert weight(ListedObject("x.txt", "e", LIMIT + 1), LIMIT) == RECORD_OVERHEAD


def test_raw_and_decoded_content_are_both_counted() -> None:
    assert weight(ListedObject("x.txt", "e", 1000), LIMIT) == 3000 + RECORD_OVERHEAD
    assert weight(ListedObject("x.png", "e", 1000), LIMIT) == 2400 + RECORD_OVERHEAD


def test_a_connector_can_be_built_outside_an_event_loop() -> None:
    connector = S3Connector(S3Params(pattern="s3://bucket/**"), S3Connection())
    assert connector.reserves
    assert connector.repeatable
    assert connector.spec.sandbox == "s3"
    assert connector.spec.operational_params() == {
        "concurrency",
        "max_concurrency",
        "on_unreadable",
        "page_records",
        "read_timeout",
        "split_objects",
    }


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"pattern": "bucket/x"}, "must begin with s3://"),
        ({"pattern": "s3://bucket/x", "charset": "klingon"}, "unknown charset 'klingon'"),
        ({"pattern": "s3://bucket/x", "concurrency": 0}, "greater than or equal to 1"),
    ],
)
def test_bad_parameters_are_a_problem_of_the_configuration(params: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        S3Params.model_validate(params)
