"""Dead letters again: which there are, in the engine's store and the service's, and sending them anew."""

from __future__ import annotations

REPLAY_GROUP = "replay-"
"""How the group of a run that replays dead letters begins; such a run is not resumed but begun anew."""
