"""Simulated product-analytics events of one company's web, mobile and API clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from random import Random
from typing import TypeAlias

from connectors.simulated.blocks import JsonObject, uuids
from connectors.simulated.pools import ReadablePools

PROJECTS = ("proj_web", "proj_mobile", "proj_api", "proj_admin")

KNOWN_SHARE = 0.7
"""Share of events by known visitors: `distinct_id` is `user_NNNN`, else a UUID."""

_VARIANTS = 256
"""Number of property texts per event name."""

_Vocabulary: TypeAlias = Mapping[str, Sequence[object]]

_MONEY = tuple(round(9.5 + 7.35 * step, 2) for step in range(64))
_SECONDS = tuple(range(1, 600, 7))
_PRODUCTS = ("desk-lamp", "field-notebook", "headset", "office-chair", "standing-desk", "travel-mug")
_PLANS = ("free", "starter", "team", "enterprise")
_PAGES = ("/", "/blog", "/docs", "/features", "/pricing", "/products", "/support")
_VIDEOS = ("getting-started", "customer-story", "release-tour", "webinar")
_CURRENCIES = ("USD", "EUR", "GBP")
_DEVICES = ("desktop", "phone", "tablet")

_PROPERTIES: Mapping[str, _Vocabulary] = {
    "pageview": {"path": _PAGES, "load_ms": tuple(range(80, 2400, 37))},
    "click": {"path": _PAGES, "element": ("button", "link", "menu"), "label": ("Buy", "More", "Next", "Try")},
    "search": {"term": _PRODUCTS, "results": tuple(range(40))},
    "signup": {"method": ("email", "google", "github", "sso"), "plan": _PLANS},
    "login": {"method": ("password", "google", "github", "sso"), "second_factor": (True, False)},
    "logout": {"reason": ("user", "timeout")},
    "purchase": {"amount": _MONEY, "currency": _CURRENCIES, "items": (1, 2, 3, 4, 5)},
    "refund": {"amount": _MONEY, "currency": _CURRENCIES, "reason": ("damaged", "late", "unwanted")},
    "add_to_cart": {"product": _PRODUCTS, "quantity": (1, 2, 3)},
    "remove_from_cart": {"product": _PRODUCTS, "quantity": (1, 2, 3)},
    "checkout_started": {"items": (1, 2, 3, 4, 5), "cart_value": _MONEY},
    "coupon_applied": {"code": ("SPRING10", "WELCOME", "TEAM20"), "discount": (5, 10, 15, 20)},
    "form_submitted": {"form": ("contact", "demo", "newsletter", "survey"), "fields": tuple(range(2, 12))},
    "video_started": {"video": _VIDEOS, "position_s": (0, 15, 30)},
    "video_finished": {"video": _VIDEOS, "watched_s": _SECONDS},
    "file_downloaded": {"file": ("brochure.pdf", "invoice.pdf", "sdk.zip"), "size_kb": (120, 480, 960)},
    "invite_sent": {"role": ("admin", "editor", "viewer"), "channel": ("email", "link")},
    "plan_changed": {"from": _PLANS, "to": _PLANS},
    "error_shown": {"code": (400, 403, 404, 409, 500), "path": _PAGES},
    "session_started": {"device": _DEVICES, "first_visit": (True, False)},
    "session_ended": {"device": _DEVICES, "duration_s": _SECONDS},
}

EVENT_NAMES = tuple(_PROPERTIES)
"""The twenty-one names; a page view is `pageview`."""


def event_properties(name: str) -> frozenset[str]:
    """Return the property names of an event."""
    return frozenset(_PROPERTIES[name]) | {"referrer"} | ({"invited"} if name == "invite_sent" else set())


class EventMaker:
    """Generates `EventSource` records, 70 % of them by a known visitor."""

    kind = "events"

    def __init__(self, pools: ReadablePools | None = None) -> None:
        self._pools = pools or ReadablePools()

    def prepare(self) -> None:
        """Build the pools."""
        _ = self._actions, self._users, self._pools.ip_addresses(), self._pools.user_agents()

    def make(self, random: Random, timestamps: list[str]) -> list[JsonObject]:
        """Generate one record per timestamp."""
        count = len(timestamps)
        choices, draw = random.choices, random.random
        columns = zip(
            uuids(random, count),
            choices(self._actions, k=count),
            timestamps,
            [
                known if draw() < KNOWN_SHARE else unknown
                for known, unknown in zip(choices(self._users, k=count), uuids(random, count), strict=True)
            ],
            uuids(random, count),
            choices(PROJECTS, k=count),
            choices(self._pools.ip_addresses(), k=count),
            choices(self._pools.user_agents(), k=count),
            strict=True,
        )
        return [
            {
                "id": id_,
                "event_name": name,
                "timestamp": timestamp,
                "distinct_id": visitor,
                "session_id": session,
                "project_id": project,
                "properties": properties,
                "ip_address": ip,
                "user_agent": user_agent,
            }
            for id_, (name, properties), timestamp, visitor, session, project, ip, user_agent in columns
        ]

    @cached_property
    def _users(self) -> list[str]:
        return [f"user_{number}" for number in range(1000, 10_000)]

    @cached_property
    def _actions(self) -> list[tuple[str, str]]:
        """Return event names with properties: equal numbers per name, the same in every run."""
        from orjson import dumps

        random = Random("events/properties")  # noqa: S311 - simulated data, not secrets
        referrers, people = self._pools.urls(), self._pools.names()
        actions: list[tuple[str, str]] = []
        for name, vocabulary in _PROPERTIES.items():
            for _ in range(_VARIANTS):
                properties = {key: random.choice(values) for key, values in vocabulary.items()}
                properties["referrer"] = random.choice(referrers)
                if name == "invite_sent":
                    properties["invited"] = random.choice(people)
                actions.append((name, dumps(properties).decode()))
        return actions
