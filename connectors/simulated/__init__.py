"""Three kinds of simulated sources, reproducible by seed regardless of how a run is split.

`blocks` numbers the records and generates any range of them; `blob`, `logs` and `events` each generate one
kind; `pools` has realistic values; `source` implements the engine's contract.
"""

from __future__ import annotations

from connectors.simulated.source import BlobConnector, EventsConnector, LogsConnector, SimulatedParams

__all__ = ["BlobConnector", "EventsConnector", "LogsConnector", "SimulatedParams"]
