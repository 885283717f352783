"""The schema of the state store in earlier or later versions of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from engine.state import schema

__all__ = ["FAILING", "schema_at", "schema_with"]

FAILING = "CREATE TABLE half (text TEXT); CREATE TABLE runs (text TEXT);"
"""A migration whose second statement fails."""


@contextmanager
def schema_at(version: int) -> Iterator[None]:
    """Stores that are opened in the block know the schema up to this version."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:version])
        patch.setattr(schema, "SCHEMA_VERSION", version)
        yield


@contextmanager
def schema_with(migration: str) -> Iterator[None]:
    """Stores that are opened in the block know one migration more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, migration))
        patch.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
        yield
