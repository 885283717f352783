"""Simulated records in the obvious way: one Faker proxy that draws every value; the sources' reference."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime

from faker import Faker

Row = dict[str, object]

PERMISSIONS = ("READ", "WRITE", "DELETE", "LIST")
LEVELS = ("INFO", "DEBUG", "WARN", "ERROR")
EVENTS = ("pageview", "click", "signup", "login", "purchase", "search")


def rows(seed: int) -> dict[str, Callable[[], Row]]:
    """A maker of records for each simulated source: ``blob``, ``logs`` and ``events``."""
    fake = Faker("en_US")
    fake.seed_instance(seed)
    return {"blob": lambda: _blob(fake), "logs": lambda: _log(fake), "events": lambda: _event(fake)}


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _blob(fake: Faker) -> Row:
    return {
        "id": fake.uuid4(),
        "bucket_name": fake.slug(),
        "file_path": fake.file_path(depth=fake.random_int(1, 3)),
        "file_name": fake.file_name(),
        "file_size": fake.random_int(256, 10 * 1024 * 1024),
        "permissions": list(fake.random_elements(PERMISSIONS, length=fake.random_int(1, 4), unique=True)),
        "content_type": fake.mime_type(),
        "ingested_at": _now(),
    }


def _log(fake: Faker) -> Row:
    return {
        "id": fake.uuid4(),
        "timestamp": _now(),
        "level": fake.random_element(LEVELS),
        "message": fake.sentence(),
        "source": fake.slug(),
        "trace_id": fake.uuid4() if fake.boolean(70) else None,
    }


def _event(fake: Faker) -> Row:
    return {
        "id": fake.uuid4(),
        "event_name": fake.random_element(EVENTS),
        "timestamp": _now(),
        "distinct_id": fake.uuid4(),
        "session_id": fake.uuid4(),
        "project_id": fake.slug(),
        "properties": json.dumps({"url": fake.url(), "title": fake.sentence()}),
        "ip_address": fake.ipv4(),
        "user_agent": fake.user_agent(),
    }
