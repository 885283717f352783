"""Nothing lost, nothing twice, with occasional faults on every wire."""

from __future__ import annotations

from tests.reliability.harness.blows import Plan
from tests.reliability.harness.proxy import Faults
from tests.reliability.harness.trial import Lab
from tests.reliability.harness.workload import Workload


def test_every_wire_is_faulty(lab: Lab) -> None:
    """500 records of each kind and all documents; one in a hundred of some 500 exchanges goes wrong."""
    workload = Workload(records=500, page=5, documents=2)
    wires = {name: Faults(0.01, seed=f"5/{name}") for name in ("service", "model", "lake")}

    outcome = lab.trial(Plan("wires", workload, wires=wires))

    assert outcome.problems == []
    assert outcome.codes == [0]
    assert min(outcome.exchanges.values()) > 20
    assert sum(outcome.exchanges.values()) > 400
    assert sum(outcome.wire_faults.values()) > 0
