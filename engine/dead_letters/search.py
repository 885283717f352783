"""Merge the dead letters of a state store and of ingest services, listing each failure once.

A record that the service rejected has a dead letter in both: the engine's has its run, node and key, the
service's has the service's status. They are matched by model and record id; copies that a pipeline forwards
are matched by pipeline, node and key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from engine.contract.dead_letter import DeadLetter
from engine.contract.types import JsonValue
from engine.errors import RunNotFoundError
from engine.service.client import ServiceClient, ServiceDeadLetter
from engine.state.records import DeadLetterFilter
from engine.state.store import StateStore

SERVICE_STATUSES = frozenset({"", "open", "recovered", "discarded"})

Copies: TypeAlias = "dict[Identity, tuple[ServiceDeadLetter, ServiceClient]]"

Identity = tuple[str, ...]
"""(model, record id) of a rejected record, or (pipeline, node, key) of a forwarded copy."""


@dataclass(frozen=True, slots=True)
class DeadLetterQuery:
    """Filter of dead letters; "" and empty mean any.

    A dead letter that only a service has belongs to a run, pipeline and node if its sender named them; a
    filter by one of these excludes others. `names`: the id or a prefix of it, the key, or the record's id in
    the service.
    """

    run_id: str = ""
    pipeline: str = ""
    node: str = ""
    key: str = ""
    status: str = ""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeadLetterMatch:
    """A dead letter of the engine, of a service, or of both. `service` holds `copy`."""

    letter: DeadLetter | None = None
    copy: ServiceDeadLetter | None = None
    service: ServiceClient | None = field(default=None, repr=False, compare=False)

    @property
    def store(self) -> str:
        """`engine`, `service` or `engine+service`."""
        return "+".join(
            name for name, part in (("engine", self.letter), ("service", self.copy)) if part is not None
        )

    @property
    def id(self) -> str:
        """Ten hexadecimal digits that name the dead letter on the command line."""
        if self.letter is not None:
            text = "\0".join((self.letter.run_id, self.letter.node, self.letter.key))
            return hashlib.sha256(text.encode()).hexdigest()[:10]
        assert self.copy is not None, "a dead letter has at least one origin"
        return self.copy.dead_letter_id.replace("-", "")[:10]

    @property
    def failed_at(self) -> str:
        """Time of the last failure, UTC, ISO 8601."""
        return self.letter.last_failed_at if self.letter else self.copy.failed_at if self.copy else ""

    @property
    def status(self) -> str:
        """open, replayed, discarded or recovered.

        A dead letter is closed once the service has a valid row of its record, from any sender.
        """
        if self.letter is None:
            return self.copy.status if self.copy else ""
        is_open = self.letter.status == "open"
        return self.copy.status if is_open and self.copy is not None else self.letter.status

    @property
    def key(self) -> str:
        """The record's key, or its id in the service."""
        if self.letter is not None:
            return self.letter.key
        return (self.copy.key or self.copy.record_id or "") if self.copy else ""

    @property
    def place(self) -> str:
        """`pipeline/node`, or the service's model when it knows no pipeline."""
        if self.letter is not None:
            return f"{self.letter.pipeline}/{self.letter.node}"
        if self.copy is None:
            return ""
        return f"{self.copy.pipeline}/{self.copy.node}" if self.copy.pipeline else self.copy.model

    @property
    def error(self) -> str:
        """The error's type and message."""
        part = self.letter or self.copy
        return f"{part.error_type}: {part.error_message}" if part else ""

    @property
    def record(self) -> JsonValue:
        """The original record, or None if only a reference was stored."""
        return self.letter.record if self.letter else self.copy.original_record if self.copy else None

    def is_called(self, name: str) -> bool:
        """Return whether a name on the command line matches this dead letter."""
        names = {self.key, *((self.copy.record_id, self.copy.dead_letter_id) if self.copy else ())}
        return name in names or (len(name) >= 4 and self.id.startswith(name))


async def search_dead_letters(
    store: StateStore | None, services: Sequence[ServiceClient], query: DeadLetterQuery
) -> list[DeadLetterMatch]:
    """Return all matching dead letters, oldest first.

    Args:
        store: None searches only the services.

    Raises:
        StateError: the store cannot be read.
        ServiceError: a service cannot be reached.
    """
    copies = await _copies(services, query)
    found: list[DeadLetterMatch] = []
    known: set[Identity] = set()
    if store is not None:
        models = _Models(store)
        found += await _engine_letters(store, models, copies, services, query)
        known = await _known(store, models) if copies else known
    alone = {
        copy.dead_letter_id: DeadLetterMatch(None, copy, service)
        for identity, (copy, service) in copies.items()
        if identity not in known and _belongs(copy, query)
    }
    found += [one for one in alone.values() if query.key in ("", one.key)]
    if query.names:
        found = [one for one in found if any(map(one.is_called, query.names))]
    return sorted(found, key=lambda one: one.failed_at)


async def search_service_letters(
    store: StateStore, services: Sequence[ServiceClient], query: DeadLetterQuery
) -> list[DeadLetterMatch]:
    """Return the matching dead letters that only services have, oldest first.

    Those of older versions, without a run, are matched by the dead letters in `store` of the same records.
    Raises the same errors as `search_dead_letters`.
    """
    found = await search_dead_letters(None, services, query)
    if not _is_narrow(query):
        return found
    known = {one.copy.dead_letter_id for one in found if one.copy is not None}
    for one in await search_dead_letters(store, services, replace(query, status="")):
        copy = one.copy
        if copy is not None and copy.dead_letter_id not in known and query.status in ("", copy.status):
            known.add(copy.dead_letter_id)
            found.append(DeadLetterMatch(None, copy, one.service))
    return sorted(found, key=lambda one: one.failed_at)


async def _engine_letters(
    store: StateStore,
    models: _Models,
    copies: Copies,
    services: Sequence[ServiceClient],
    query: DeadLetterQuery,
) -> list[DeadLetterMatch]:
    # a letter that is open here may be closed by the service, which has a valid row of the record by now
    statuses = {query.status, "open"} if query.status in ("recovered", "discarded") else {query.status}
    letters: list[DeadLetter] = []
    for status in sorted(statuses):
        where = DeadLetterFilter(query.run_id, query.pipeline, query.node, query.key, status)
        letters += await store.dead_letters(where)
    identities = [await _identities(letter, models) for letter in letters]
    copies = {**await _other_copies(services, letters, identities, copies, query), **copies}
    found: list[DeadLetterMatch] = []
    for letter, own in zip(letters, identities, strict=True):
        owned = [copies[one] for one in own if one in copies]
        copy, service = owned[0] if owned else (None, None)
        match = DeadLetterMatch(letter, copy, service)
        if query.status in ("", match.status):
            found.append(match)
    return found


async def _other_copies(
    services: Sequence[ServiceClient],
    letters: Sequence[DeadLetter],
    identities: Sequence[Sequence[Identity]],
    copies: Copies,
    query: DeadLetterQuery,
) -> Copies:
    """Return copies of these letters that the query does not find in the services.

    They are closed there while the letter is open here, or do not name their run.
    """
    record_ids: list[str] = []
    keys: list[str] = []
    for letter, own in zip(letters, identities, strict=True):
        if copies.keys().isdisjoint(own):
            if len(own) > 1 and (letter.status == "open" or _is_narrow(query)):
                record_ids.append(own[0][1])
            if _is_narrow(query):
                keys.append(letter.key)
    others: Copies = {}
    for service in services:
        found = [copy async for copy in service.letters(ids=record_ids)] if record_ids else []
        found += [copy async for copy in service.letters(keys=keys)] if keys else []
        for copy in found:
            if copy.status != "open" or query.status in ("", "open"):
                others[_origin(copy)] = (copy, service)
    return others


def _is_narrow(query: DeadLetterQuery) -> bool:
    return bool(query.run_id or query.pipeline or query.node)


def _belongs(copy: ServiceDeadLetter, query: DeadLetterQuery) -> bool:
    asked = ((query.run_id, copy.run), (query.pipeline, copy.pipeline), (query.node, copy.node))
    return all(wanted in ("", name) for wanted, name in asked)


async def _copies(services: Sequence[ServiceClient], query: DeadLetterQuery) -> Copies:
    copies: Copies = {}
    if query.status not in SERVICE_STATUSES:
        return copies
    for service in services:
        async for letter in service.letters(
            status=query.status, run=query.run_id, pipeline=query.pipeline, node=query.node
        ):
            copies[_origin(letter)] = (letter, service)
    return copies


async def _known(store: StateStore, models: _Models) -> set[Identity]:
    """Return the records of the engine's dead letters, of any status; read run by run to save memory."""
    known: set[Identity] = set()
    for run in await store.list_runs():
        for letter in await store.dead_letters(DeadLetterFilter(run_id=run.run_id)):
            known.update(await _identities(letter, models))
    return known


async def _identities(letter: DeadLetter, models: _Models) -> list[Identity]:
    identities: list[Identity] = [(letter.pipeline, letter.node, letter.key)]
    model = await models.of(letter.run_id, letter.node)
    record_id = letter.record.get("id") if isinstance(letter.record, dict) else None
    if model and isinstance(record_id, str | int):
        # services ignore the spelling of the model's name
        identities.insert(0, (model.partition("/")[0].lower(), str(record_id)))
    return identities


def _origin(letter: ServiceDeadLetter) -> Identity:
    """Return the origin of a service's dead letter: a pipeline's record if it names one, else its own."""
    if letter.pipeline and letter.node and letter.key:
        return (letter.pipeline, letter.node, letter.key)
    return (letter.model.lower(), letter.record_id or letter.dead_letter_id)


class _Models:
    """The models to which nodes send their records, from the runs' stored plans."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._plans: dict[str, JsonValue] = {}

    async def of(self, run_id: str, node: str) -> str:
        """Return the model's name; "" when the node has none."""
        if run_id not in self._plans:
            try:
                self._plans[run_id] = (await self._store.get_run(run_id)).identity_doc
            except RunNotFoundError:
                self._plans[run_id] = None
        found = self._plans[run_id]
        for name in ("nodes", node, "params", "model"):
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, str) else ""
