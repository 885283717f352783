from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from datetime import UTC, datetime
from functools import cache
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
from pydantic import BaseModel

from connectors.models import BlobSource, EventSource, LogSource
from connectors.simulated.blob import BUCKETS, CONTENT_TYPES, LARGEST, PERMISSIONS, SMALLEST, BlobMaker
from connectors.simulated.blocks import JsonObject, Maker, generate
from connectors.simulated.events import EVENT_NAMES, PROJECTS, EventMaker, event_properties
from connectors.simulated.logs import MESSAGES, SOURCES, TRACE_IDS, LogMaker
from connectors.simulated.pools import POOL_SIZE, ReadablePools

COUNT = 20_000
BASE = datetime(2025, 3, 1, tzinfo=UTC)
POOLS = ReadablePools()

MAKERS: dict[str, Maker] = {"blob": BlobMaker(POOLS), "logs": LogMaker(POOLS), "events": EventMaker(POOLS)}


@cache
def made(kind: str) -> list[JsonObject]:
    return generate(MAKERS[kind], 11, 0, COUNT, BASE)


def column(records: list[JsonObject], field: str) -> list[str]:
    return [str(record[field]) for record in records]


def assert_even(values: list[str], expected: set[str] | None = None, tolerance: float = 0.3) -> None:
    """All expected values occur, each within `tolerance` of an equal share."""
    counts = Counter(values)
    if expected is not None:
        assert set(counts) == expected
    share = len(values) / len(counts)
    assert max(counts.values()) < share * (1 + tolerance)
    assert min(counts.values()) > share * (1 - tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind"),
    [(BlobSource, "blob"), (LogSource, "logs"), (EventSource, "events")],
    ids=["blob", "logs", "events"],
)
def test_records_are_what_their_model_dumps(model: type[BaseModel], kind: str) -> None:
    for record in made(kind)[:2000]:
        dumped = model.model_validate(record, strict=True).model_dump(mode="json")
        assert dumped == record
        assert list(dumped) == list(record)


@pytest.mark.slow
@pytest.mark.parametrize("maker_type", [BlobMaker, LogMaker, EventMaker])
def test_no_record_is_marked_as_a_failure(maker_type: type[BlobMaker | LogMaker | EventMaker]) -> None:
    assert "[DLQ]" not in json.dumps(generate(maker_type(POOLS), 5, 0, 2000, BASE))


@pytest.mark.slow
def test_blobs_use_fifty_buckets_and_fifty_names_evenly() -> None:
    assert len(BUCKETS) == len(set(BUCKETS)) == 50
    assert len(CONTENT_TYPES) == 50
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", bucket) for bucket in BUCKETS)
    assert_even(column(made("blob"), "bucket_name"), set(BUCKETS))
    assert_even(column(made("blob"), "file_name"), set(CONTENT_TYPES))


def test_blob_content_type_follows_its_name() -> None:
    assert all(record["content_type"] == CONTENT_TYPES[str(record["file_name"])] for record in made("blob"))
    without = sum(record["content_type"] is None for record in made("blob"))
    assert 0.07 * COUNT < without < 0.13 * COUNT


@pytest.mark.slow
def test_blob_folders_are_one_to_three_deep_evenly() -> None:
    paths = column(made("blob"), "file_path")
    assert all(re.fullmatch(r"(/[^/\s]+)+/", path) for path in paths)
    assert_even([str(path.count("/") - 1) for path in paths], {"1", "2", "3"}, tolerance=0.05)
    assert len(set(paths)) > POOL_SIZE


def test_blob_sizes_fill_their_range_evenly() -> None:
    sizes = sorted(int(str(record["file_size"])) for record in made("blob"))
    assert sizes[0] >= SMALLEST
    assert sizes[-1] <= LARGEST
    for tenth in range(1, 10):
        assert sizes[COUNT * tenth // 10] / LARGEST == pytest.approx(tenth / 10, abs=0.02)


def test_blobs_have_one_to_four_permissions_each_number_as_often() -> None:
    granted = [record["permissions"] for record in made("blob")]
    assert_even([str(len(list(names))) for names in granted if isinstance(names, list)], set("1234"), 0.05)
    assert all(isinstance(names, list) and len(set(names)) == len(names) for names in granted)
    assert {name for names in granted if isinstance(names, list) for name in names} == set(PERMISSIONS)


def test_blobs_do_not_share_their_lists() -> None:
    assert len({id(record["permissions"]) for record in made("blob")}) == COUNT


@pytest.mark.slow
def test_logs_cover_levels_services_and_messages_evenly() -> None:
    assert_even(column(made("logs"), "level"), {"INFO", "DEBUG", "WARN", "ERROR"}, tolerance=0.05)
    assert len(SOURCES) == 10
    assert_even(column(made("logs"), "source"), set(SOURCES))
    for level, templates in MESSAGES.items():
        assert len(set(templates)) == 8
        patterns = [re.compile(re.sub(r"\\{\w+\\}", ".+", re.escape(template))) for template in templates]
        written = [str(record["message"]) for record in made("logs") if record["level"] == level]
        used = [[pattern.pattern for pattern in patterns if pattern.fullmatch(text)] for text in written]
        assert all(len(matches) == 1 for matches in used)
        assert_even([matches[0] for matches in used], {pattern.pattern for pattern in patterns})


def test_seven_tenths_of_the_logs_belong_to_one_of_eight_traces() -> None:
    traced = [str(record["trace_id"]) for record in made("logs") if record["trace_id"] is not None]
    assert len(traced) / COUNT == pytest.approx(0.7, abs=0.015)
    assert_even(traced, set(TRACE_IDS))


@pytest.mark.slow
def test_events_use_twenty_one_names_and_four_projects_evenly() -> None:
    assert len(EVENT_NAMES) == 21
    assert "pageview" in EVENT_NAMES
    assert_even(column(made("events"), "event_name"), set(EVENT_NAMES))
    assert len(PROJECTS) == 4
    assert_even(column(made("events"), "project_id"), set(PROJECTS), tolerance=0.05)


@pytest.mark.slow
def test_seven_tenths_of_events_have_known_visitors() -> None:
    visitors = column(made("events"), "distinct_id")
    known = [visitor for visitor in visitors if re.fullmatch(r"user_[1-9]\d{3}", visitor)]
    unknown = [visitor for visitor in visitors if not visitor.startswith("user_")]
    assert len(known) + len(unknown) == COUNT
    assert len(known) / COUNT == pytest.approx(0.7, abs=0.015)
    assert all(str(uuid.UUID(visitor)) == visitor for visitor in unknown)


@pytest.mark.slow
def test_properties_are_json_text_with_the_keys_of_their_event() -> None:
    keys: dict[str, set[frozenset[str]]] = {}
    for record in made("events"):
        properties = json.loads(str(record["properties"]))
        keys.setdefault(str(record["event_name"]), set()).add(frozenset(properties))
        assert urlsplit(properties["referrer"]).scheme == "https"
    assert keys == {name: {event_properties(name)} for name in EVENT_NAMES}
    assert len({next(iter(found)) for found in keys.values()}) > 15


def test_properties_of_an_event_vary() -> None:
    texts = {str(record["properties"]) for record in made("events") if record["event_name"] == "pageview"}
    assert len(texts) > 200


def test_events_carry_real_addresses_and_browsers() -> None:
    addresses = set(column(made("events"), "ip_address"))
    assert all(ip_address(address).version == 4 for address in addresses)
    assert len(addresses) > 0.9 * POOL_SIZE
    browsers = set(column(made("events"), "user_agent"))
    assert all(re.match(r"(Mozilla|Opera)/\d", browser) for browser in browsers)
    for family in ("Opera/", "Chrome/", "Version/"):
        assert sum(family in browser for browser in browsers) > POOL_SIZE / 10
    assert len(browsers) > 0.8 * POOL_SIZE


def test_sessions_differ_from_the_ids_of_their_events() -> None:
    both = {*column(made("events"), "session_id"), *column(made("events"), "id")}
    assert len(both) == 2 * COUNT
