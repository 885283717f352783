"""Many concurrent clients of a service that is killed, and the answers they received.

Most post `LogSource` records with new ids, as an engine does: marked as fresh, and as a replay once an
answer got lost. Some post `EventSource` records without saying anything about their delivery, one id of
theirs again and again. All of them send each request, with its idempotency key, until it is acknowledged.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
import orjson

from tests.reliability.harness.blows import ServiceKill
from tests.reliability.harness.children import serving
from tests.reliability.harness.evidence import ServiceRecords, raw_counts, read_service
from tests.reliability.harness.service_kills import ServiceStriker

__all__ = ["ClientsOutcome", "ClientsPlan", "Promises", "clients_trial", "promises_broken"]

CLIENTS = 16
SILENT = 4  # of those, how many say nothing about their delivery
RECORDS = 25
DEAD_EVERY = 10
TIMEOUT = 300.0
PAUSE = 0.02
SHOWN = 3
TEXTS = {"Log": "message", "Event": "distinct_id"}
"""What is compared of a row, by table."""
MOMENT = "2026-01-01T00:00:00+00:00"

Record = dict[str, str]


@dataclass(frozen=True)
class ClientsPlan:
    """One trial: which kills strike the service, and how many requests each client makes at least."""

    name: str
    kills: tuple[ServiceKill, ...]
    requests: int = 20


@dataclass
class Promises:
    """What was acknowledged: rows by table and id, with their text, and the ids of dead records."""

    rows: dict[str, dict[str, str]] = field(default_factory=lambda: {"Log": {}, "Event": {}})
    dead: set[str] = field(default_factory=set)


@dataclass
class ClientsOutcome:
    """The outcome of a trial.

    `redelivered` requests had lost their answer; of those, `duplicates` had been committed all the same.
    """

    name: str
    service_struck: list[str] = field(default_factory=list)
    requests: int = 0
    redelivered: int = 0
    duplicates: int = 0
    records: int = 0
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Sent:
    """An acknowledged request, to be sent once more when all is over."""

    path: str
    body: bytes
    headers: Mapping[str, str]


class Clients:
    """Sixteen clients that post until they are stopped."""

    def __init__(self, url: str, plan: ClientsPlan, outcome: ClientsOutcome) -> None:
        self.promises = Promises()
        self.sent: list[Sent] = []
        self._url = url
        self._plan = plan
        self._outcome = outcome

    async def post_until(self, over: anyio.Event) -> None:
        """Post, until `over` is set and every client has made its requests."""
        async with (
            httpx.AsyncClient(
                base_url=self._url, timeout=TIMEOUT, limits=httpx.Limits(max_connections=None)
            ) as http,
            anyio.create_task_group() as group,
        ):
            for number in range(CLIENTS):
                group.start_soon(self._client, number, http, over)

    async def _client(self, number: int, http: httpx.AsyncClient, over: anyio.Event) -> None:
        silent, epoch, turn = number < SILENT, 0, 0
        while turn < self._plan.requests or not over.is_set():
            records = _events(number, turn) if silent else _logs(number, turn)
            path = "/ingest/EventSource" if silent else "/ingest/LogSource"
            headers = {
                "Content-Type": "application/json",
                "Idempotency-Key": f"{self._plan.name} {number} {turn}",
                "X-ODW-Results": "per-record",
            }
            if not silent:
                headers |= {"X-ODW-Delivery": "fresh", "X-ODW-Epoch": f"client-{number} {epoch}"}
            body = orjson.dumps(records)
            lost = await self._deliver(http, path, body, headers, records)
            epoch += lost
            turn += 1

    async def _deliver(
        self, http: httpx.AsyncClient, path: str, body: bytes, headers: dict[str, str], records: list[Record]
    ) -> int:
        """Send until it is acknowledged; how often the answer was lost."""
        self._outcome.requests += 1
        lost = 0
        while True:
            try:
                answer = await http.post(path, content=body, headers=headers)
            except httpx.ConnectError:  # nothing was sent
                await anyio.sleep(PAUSE)
                continue
            except httpx.TransportError:
                lost += 1
                self._say_that_it_comes_again(headers)
                continue
            if answer.status_code in (429, 503):
                await anyio.sleep(PAUSE)
                continue
            self._outcome.redelivered += bool(lost)
            self._acknowledge(answer, records, lost=bool(lost))
            self.sent.append(Sent(path, body, dict(headers)))
            return lost

    @staticmethod
    def _say_that_it_comes_again(headers: dict[str, str]) -> None:
        if "X-ODW-Delivery" in headers:
            scope, _, epoch = headers["X-ODW-Epoch"].partition(" ")
            headers |= {"X-ODW-Delivery": "replay", "X-ODW-Epoch": f"{scope} {int(epoch) + 1}"}

    def _acknowledge(self, answer: httpx.Response, records: list[Record], *, lost: bool) -> None:
        outcome = self._outcome
        if answer.status_code != 200:
            outcome.problems.append(f"a request was answered with {answer.status_code}: {answer.text[:200]}")
            return
        said: dict[str, Any] = answer.json()
        outcome.duplicates += bool(said["duplicate"])
        if said["duplicate"] and not lost:
            outcome.problems.append("a request that was sent once is called a duplicate")
        dead = {str(row["id"]) for row in said["dead"]}
        if dead != {record["id"] for record in records if _is_marked(record)}:
            outcome.problems.append(f"the wrong records are called dead: {sorted(dead)[:SHOWN]}")
        if said["written"] + len(dead) != len(records):
            outcome.problems.append(f"{said['written']} written and {len(dead)} dead of {len(records)}")
        self.promises.dead |= dead
        for record in records:
            if record["id"] not in dead:
                table = "Log" if "message" in record else "Event"
                self.promises.rows[table][record["id"]] = record[TEXTS[table]]
        outcome.records += len(records)

    async def send_again(self) -> list[str]:
        """Redeliver everything that was acknowledged; each request has to be known."""
        unknown = 0
        async with httpx.AsyncClient(base_url=self._url, timeout=TIMEOUT) as http:
            for one in self.sent:
                answer = await http.post(one.path, content=one.body, headers=one.headers)
                unknown += answer.status_code != 200 or not answer.json()["duplicate"]
        return [f"{unknown} acknowledged requests were carried out again"] if unknown else []


def clients_trial(plan: ClientsPlan, folder: Path) -> ClientsOutcome:
    """Run a trial to its verdict."""
    outcome, started = ClientsOutcome(plan.name), time.monotonic()
    state_dir = folder / "service"
    with serving(state_dir, folder / "serve", plan.kills[0].point) as service:
        clients = Clients(service.url, plan, outcome)
        with ServiceStriker(service, plan.kills) as striker:
            anyio.run(_post_until_struck, clients, striker)
        outcome.service_struck = striker.struck
        outcome.problems += promises_broken(clients.promises, read_service(service.url))
        service.stop()
        outcome.problems += _doubled(state_dir, ("Log",))  # the other table is tidied up by the next start
        service.start()
        outcome.problems += anyio.run(clients.send_again)
        outcome.problems += promises_broken(clients.promises, read_service(service.url))
    outcome.problems += _doubled(state_dir, tuple(clients.promises.rows))
    outcome.seconds = round(time.monotonic() - started, 2)
    return outcome


async def _post_until_struck(clients: Clients, striker: ServiceStriker) -> None:
    over = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(clients.post_until, over)
        await anyio.to_thread.run_sync(striker.wait)
        over.set()


def promises_broken(promises: Promises, found: ServiceRecords) -> list[str]:
    """Return acknowledged records that are missing, duplicated or altered."""
    problems: list[str] = []
    for table, wanted in promises.rows.items():
        text = TEXTS[table]
        rows = [(str(row["id"]), row[text]) for row in found.tables[table]]
        problems += _compared(f"table {table}", Counter(name for name, _ in rows), set(wanted))
        altered = [name for name, value in rows if name in wanted and value != wanted[name]]
        if altered:
            problems.append(f"table {table}: {len(altered)} altered, such as {'; '.join(altered[:SHOWN])}")
    letters = Counter(str(letter["record_id"]) for letter in found.letters)
    return [*problems, *_compared("dead letters", letters, promises.dead)]


def _compared(what: str, found: Counter[str], wanted: set[str]) -> Iterator[str]:
    for fate, names in (
        ("lost", [name for name in wanted if name not in found]),
        ("doubled", [name for name, times in found.items() if times > 1]),
        ("too many", [name for name in found if name not in wanted]),
    ):
        if names:
            yield f"{what}: {len(names)} {fate}, such as {'; '.join(sorted(names)[:SHOWN])}"


def _doubled(state_dir: Path, tables: tuple[str, ...]) -> list[str]:
    counts = raw_counts(state_dir)
    return [
        f"table {table}: {counts[table][0]} rows of {counts[table][1]} ids in the file"
        for table in tables
        if counts[table][0] != counts[table][1]
    ]


def _logs(client: int, turn: int) -> list[Record]:
    records = []
    for place in range(RECORDS):
        mark = "[DLQ]" if place % DEAD_EVERY == turn % DEAD_EVERY else ""
        record = {"id": f"log-{client}-{turn}-{place}", "message": f"{mark}request {turn}"}
        records.append({**record, "timestamp": MOMENT, "level": "INFO"})
    return records


def _events(client: int, turn: int) -> list[Record]:
    """New ones, and the client's own, which is overwritten each time."""
    records = [
        {"id": f"event-{client}-{turn}-{place}", "distinct_id": f"turn {turn}"}
        for place in range(RECORDS - 1)
    ]
    records.append({"id": f"event-{client}", "distinct_id": f"turn {turn}"})
    rest = {"event_name": "pageview", "timestamp": MOMENT, "project_id": "reliability"}
    return [{**record, **rest} for record in records]


def _is_marked(record: Record) -> bool:
    return record.get("message", "").startswith("[DLQ]")
