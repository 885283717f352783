"""Simulated sources of three kinds, reproducible by seed regardless of how a run is split.

`blocks` numbers the records and makes any range of them alone; `blob`, `logs` and `events` each make one
kind; `pools` has the values that a person would read; `source` puts them behind the engine's contract.
"""

from __future__ import annotations

from connectors.simulated.source import BlobConnector, EventsConnector, LogsConnector, SimulatedParams

__all__ = ["BlobConnector", "EventsConnector", "LogsConnector", "SimulatedParams"]
