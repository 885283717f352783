"""A mixed storm of faults: written records, dead letters, and the number of calls."""

from __future__ import annotations

import pytest

from tests.integration.llm_storm import FORCING, HARMLESS, storm
from tests.series import few

RECORDS = 300


@pytest.mark.slow
@pytest.mark.parametrize("seed", few([1, 2], 1))
async def test_a_mixed_storm_loses_doubles_and_mixes_up_nothing(seed: int) -> None:
    clean = await storm(RECORDS, seed, share=0.0)
    assert (len(clean.written), clean.calls, clean.mixed_up) == (RECORDS, 60, [])

    found = await storm(RECORDS, seed)
    assert found.report.ok
    assert {*FORCING, *HARMLESS} <= set(found.faults)
    fates = found.written + found.dead
    assert fates == {f"u{number}": 1 for number in range(RECORDS)}
    assert found.mixed_up == []
    assert set(found.kinds) <= {"Refused", "SlotMissing", "MalformedReply", "AnswerTruncated"}
    assert found.calls - found.forced <= 1.1 * clean.calls
