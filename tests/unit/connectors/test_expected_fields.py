"""Fields that a transform reads and no record of the run has."""

from __future__ import annotations

from typing import Any

import pytest

from connectors.transforms.deduplicating import Deduplicate
from connectors.transforms.enriching import Enrich
from connectors.transforms.exploding import Explode
from connectors.transforms.filtering import Filter
from connectors.transforms.mapping import Map
from connectors.transforms.masking import Mask
from connectors.transforms.routing import Route
from engine.contract.batch import Batch
from engine.contract.component import Transform
from engine.contract.keys import KeyRange


def absent(kind: type[Transform[Any]], *batches: list[dict[str, Any]], **params: Any) -> dict[str, float]:
    node = kind(kind.spec.params.model_validate(params))
    for records in batches:
        node.apply(Batch(records, KeyRange("k/", 0, len(records))))
    return {name.removeprefix("absent: "): n for name, n in node.ctx.aggregate.items() if "absent" in name}


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        (Mask, {"fields": ["emial"]}),
        (Deduplicate, {"key": ["emial"]}),
        (Explode, {"field": "emial"}),
        (Filter, {"where": "emial == 'a'"}),
        (Route, {"branches": {"a": "emial == 'a'"}, "else": "b"}),
        (Enrich, {"file": "t.csv", "key": "emial"}),
        (Map, {"set": {"x": "upper(emial)"}}),
        (Map, {"template": {"x": "{email} {emial}"}}),
        (Map, {"rename": {"emial": "x"}, "set": {"y": "x"}}),
        (Map, {"hash": {"x": ["email", "emial"]}}),
        (Map, {"steps": [{"set": {"x": "email"}}, {"drop": ["x", "emial"]}]}),
    ],
)
def test_a_field_of_no_record_is_counted(kind: type[Transform[Any]], params: dict[str, Any]) -> None:
    assert absent(kind, [{"email": "a"}], [{"email": "b"}] * 2, **params) == {"emial": 3}
    assert absent(kind, [{"email": "a"}], [{"emial": [], "email": None}], **params) == {}


@pytest.mark.parametrize(
    "params",
    [
        {"set": {"x": "coalesce(nick, email)"}},
        {"set": {"x": "nick or email", "y": "x"}},
        {"set": {"x": "nick is None"}},
        {"set": {"x": "nick != None"}},
        {"default": {"nick": "-"}, "set": {"x": "nick"}},
        {"flatten": True, "set": {"x": "customer_city"}},
        {"set": {"x": "[one for one in [1, 2]]"}},
    ],
)
def test_a_field_that_may_be_missing_is_not_counted(params: dict[str, Any]) -> None:
    assert absent(Map, [{"email": "a"}], **params) == {}


def test_a_path_is_looked_for_in_every_item() -> None:
    people = [{"people": [{"name": "Ada"}, {"mail": {"work": "x"}}]}]

    assert absent(Mask, people, fields=["people.mail.work", "people.mail.home"]) == {"people.mail.home": 1}
