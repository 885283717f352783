"""Statements that convert a warehouse of the current format to an older version."""

from __future__ import annotations

__all__ = ["FORMAT_1", "FORMAT_2", "FORMAT_3", "FORMAT_4", "FORMAT_5"]

FORMAT_5 = ("ALTER TABLE _odw_dead_letters DROP COLUMN record_key", "UPDATE _odw_meta SET version = 5")

FORMAT_4 = (*FORMAT_5, "ALTER TABLE _odw_batches DROP COLUMN epoch", "UPDATE _odw_meta SET version = 4")

FORMAT_3 = (
    *FORMAT_4,
    *(
        f"ALTER TABLE _odw_dead_letters DROP COLUMN {name}"
        for name in ("pipeline", "run", "node", "key", "closed_at")
    ),
    "UPDATE _odw_meta SET version = 3",
)

FORMAT_2 = (
    *FORMAT_3,
    "ALTER TABLE _odw_batches DROP COLUMN body_hash",
    "ALTER TABLE _odw_dead_letters DROP COLUMN reason",
    "UPDATE _odw_meta SET version = 2",
)

FORMAT_1 = (
    *FORMAT_2,
    "DROP TABLE _odw_replaced",
    "ALTER TABLE _odw_batches DROP COLUMN scope",
    "ALTER TABLE _odw_batches DROP COLUMN sequence",
    "ALTER TABLE _odw_meta DROP COLUMN accounts_since",
    "UPDATE _odw_meta SET version = 1",
)
