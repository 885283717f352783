"""Sets become JSON lists in one order, although their own order differs from process to process."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field

from connectors.ingest.payload import encode
from connectors.json_lines import plain
from connectors.transforms.checking import Validate, ValidateParams
from engine.contract.plain import in_order, model_to_json
from engine.dead_letters.queue import as_json
from engine.service.columns import columns_of

TEXTS = frozenset(["delta", "alpha", "gamma", "beta", "epsilon", "zeta"])
SORTED = sorted(TEXTS)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)
    name: str


class Names(RootModel[frozenset[str]]):
    """A model that is a set."""


class Record(BaseModel):
    """Sets in every place."""

    hidden: str = Field(default="", exclude=True)
    texts: set[str] = Field(default=set(TEXTS), serialization_alias="sent-texts")
    models: set[Frozen] = {Frozen(name=one) for one in TEXTS}
    groups: set[frozenset[str]] = {TEXTS, frozenset("xyz")}
    by_number: dict[int, frozenset[str]] = {7: TEXTS}
    pairs: list[tuple[frozenset[str], None]] = [(TEXTS, None)]
    root: Names = Names(TEXTS)
    mixed: set[int | str] = {"b", 10, "a", 9}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def computed(self) -> frozenset[str]:
        return self.root.root


EXPECTED: dict[str, Any] = {
    "sent-texts": SORTED,
    "models": [{"name": one} for one in SORTED],
    "groups": [SORTED, ["x", "y", "z"]],
    "by_number": {"7": SORTED},
    "pairs": [[SORTED, None]],
    "root": SORTED,
    "mixed": ["a", "b", 10, 9],
    "computed": SORTED,
}


def test_sets_of_a_model_are_in_order_in_every_place() -> None:
    assert model_to_json(Record(), by_alias=True) == EXPECTED
    assert model_to_json(Record()) == {"texts": SORTED} | {
        name: value for name, value in EXPECTED.items() if name != "sent-texts"
    }


@pytest.mark.parametrize(
    "members", [{3, 1, 2}, {(2, "b"), (1, "a")}, {"b", "a"}], ids=["numbers", "pairs", "texts"]
)
def test_members_that_compare_are_sorted(members: set[Any]) -> None:
    assert in_order(members) == sorted(members)


@pytest.mark.parametrize("more", [{}, {"long": 2**70}], ids=["plain", "long"])
def test_sets_of_a_mapping_are_lists_in_its_dead_letter(more: dict[str, Any]) -> None:
    stored, _ = as_json({"set": TEXTS, "times": {date(2026, 1, 2), date(2026, 1, 1)}, **more})
    assert isinstance(stored, dict)
    assert (stored["set"], [str(one)[:10] for one in stored["times"]]) == (
        SORTED,
        ["2026-01-01", "2026-01-02"],
    )


def test_a_list_of_a_model_keeps_its_order() -> None:
    class Listed(BaseModel):
        items: list[str]
        tags: set[str] = set()

    assert model_to_json(Listed(items=["b", "a"]))["items"] == ["b", "a"]


def written_everywhere() -> list[object]:
    """Return sets as each of their writers gives them."""
    columns = [column.convert(value) for column in columns_of(Record) if column.convert and (
        value := getattr(Record(), column.name)) != ""]  # fmt: skip
    check = Validate(ValidateParams(model=f"{__name__}:Record", coerce=True))._made()
    bodies = encode(
        [Record(), {"set": TEXTS}, {"set": TEXTS, "long": 2**70}], max_body=10**6, max_record=10**6
    )
    stored = [as_json({"set": TEXTS}), as_json({"set": TEXTS, "long": 2**70})]
    return [
        columns,
        check({}),
        [body.content for body in bodies.bodies],
        plain(Record()),
        plain(TEXTS),
        stored,
    ]


@pytest.mark.slow
def test_all_writers_write_the_same_in_another_process() -> None:
    code = f"from {__name__} import written_everywhere; print(written_everywhere())"
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for hash_seed in ("1", "2")
    )  # fmt: skip
    assert first == second
    assert "alpha" in first
