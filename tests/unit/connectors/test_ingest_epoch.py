"""Scopes and numbers by which the service recognises late requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.ingest.delivery import Epoch, epoch_scope


def test_a_chunk_lies_within_its_run() -> None:
    assert epoch_scope("run-1", "load") == "run-1/load"
    assert epoch_scope("run-1", "load", "files/0+5") == "run-1/load#files%2F0%2B5"


@pytest.mark.slow
@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300))
def test_a_scope_is_short_and_has_no_space_for_any_names(run: str, node: str, chunk: str) -> None:
    run, node, chunk = (part.encode("utf-8", "replace").decode() for part in (run, node, chunk))
    scope, whole = epoch_scope(run, node, chunk), epoch_scope(run, node)

    assert 0 < len(scope) <= 200
    assert not any(character.isspace() for character in scope)
    assert scope.partition("#")[0] == whole


def test_a_later_attempt_is_above_all_that_an_earlier_one_can_reach() -> None:
    earlier, later = Epoch("s", 1), Epoch("s", 2)
    for _ in range(1000):
        earlier.advance()

    assert int(earlier.header.split()[1]) < int(later.header.split()[1])
