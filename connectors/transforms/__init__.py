"""Transforms of records: reshape, filter, route, check, mask; see docs/transforms.md."""

from connectors.transforms.simulate_failures import (
    MARKED_FIELDS,
    FailurePattern,
    SimulateFailures,
    SimulateFailuresParams,
    simulate_failures,
)

__all__ = [
    "MARKED_FIELDS",
    "FailurePattern",
    "SimulateFailures",
    "SimulateFailuresParams",
    "simulate_failures",
]
