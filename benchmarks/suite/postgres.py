"""The engine's cost between a file and PostgreSQL: JSON lines into `postgres`, compared with COPY."""

from __future__ import annotations

import atexit
import csv
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.model import Arm, Benchmark, Scale, Work

if TYPE_CHECKING:
    from tests.servers.postgres import Postgres

ROWS_AT_ONCE = 5_000
"""Rows of a transaction, the default of the sink."""

COLUMNS = {
    "id": "bigint",
    "customer": "text",
    "country": "text",
    "amount": "double precision",
    "paid": "boolean",
}
CREATE = f"CREATE TABLE orders ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})"
COPY = f"COPY orders ({', '.join(COLUMNS)}) FROM STDIN"


def benchmarks(scale: Scale) -> Sequence[Benchmark]:
    """``postgres_sink``."""
    orders = Orders(scale.pick(200_000, 5_000))
    reference = "COPY by psycopg"
    return [
        Benchmark(
            name="postgres_sink",
            description=f"{orders.size:,} JSON lines into a table of PostgreSQL on loopback, "
            f"{ROWS_AT_ONCE:,} a transaction",
            arms=[
                Arm(reference, partial(copied, orders), unavailable=needs_postgres),
                Arm("COPY of CSV, one transaction", partial(sent, orders), unavailable=needs_postgres),
                Arm("pipeline", partial(piped, orders), unavailable=needs_postgres),
            ],
            reference=reference,
            unit="rows",
            pairs=7,
            libraries=("psycopg",),
        )
    ]


def needs_postgres() -> str | None:
    """Why PostgreSQL cannot be measured here, or None."""
    from tests.servers.postgres import find_programs

    return None if find_programs() else "there is no PostgreSQL server: apt-get install postgresql"


@dataclass
class Orders:
    """A number of orders, as JSON lines and as CSV, and a server for them; each is created on first use."""

    size: int

    @cached_property
    def folder(self) -> Path:
        """A folder that ends with this process."""
        made = Path(tempfile.mkdtemp(prefix="odw-orders-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return made

    @cached_property
    def lines(self) -> Path:
        """The orders as JSON lines."""
        import orjson

        path = self.folder / "orders.jsonl"
        with path.open("wb") as file:
            file.writelines(orjson.dumps(order) + b"\n" for order in self._made())
        return path

    @cached_property
    def table(self) -> Path:
        """The same as CSV."""
        path = self.folder / "orders.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(order.values() for order in self._made())
        return path

    @cached_property
    def server(self) -> Postgres:
        """A server that keeps what it commits, as one in use does."""
        from tests.servers.postgres import DURABLE, Postgres

        server = Postgres(DURABLE)
        atexit.register(server.remove)
        server.start()
        return server

    def begin(self) -> str:
        """Empty the database; returns its address."""
        self.server.sql("DROP TABLE IF EXISTS orders")
        return self.server.address()

    def work(self) -> Work:
        """What the table holds."""
        query = (
            "SELECT count(*), sum(id), sum(amount)::numeric(20, 2), count(*) FILTER (WHERE paid) FROM orders"
        )
        return Work(self.size, "/".join(map(str, self.server.sql(query)[0])))

    def _made(self) -> Iterator[dict[str, Any]]:
        for number in range(self.size):
            yield {
                "id": number,
                "customer": f"Customer {number % 977}",
                "country": ("DE", "FR", "US")[number % 3],
                "amount": number % 10_000 / 4,
                "paid": number % 2 == 0,
            }


def copied(orders: Orders) -> Work:
    """Parse the lines and copy them by psycopg, a transaction for each page."""
    import orjson
    import psycopg

    path, address = orders.lines, orders.begin()
    with psycopg.connect(address, autocommit=True) as connection, path.open("rb") as lines:
        connection.execute(CREATE)
        while page := list(islice(lines, ROWS_AT_ONCE)):
            with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                for line in page:
                    copy.write_row(list(orjson.loads(line).values()))
    return orders.work()


def sent(orders: Orders) -> Work:
    """Send a file that is CSV already: what server and wire take by themselves."""
    import psycopg

    path, address = orders.table, orders.begin()
    with psycopg.connect(address) as connection, path.open("rb") as file:
        connection.execute(CREATE)
        with connection.cursor() as cursor, cursor.copy(f"{COPY} (FORMAT csv)") as copy:
            while data := file.read(64 * 1024):
                copy.write(data)
    return orders.work()


async def piped(orders: Orders) -> Work:
    """The lines by a pipeline."""
    import engine
    from connectors.files import JsonlSource
    from connectors.postgres import PostgresSink

    path, address = orders.lines, orders.begin()
    pipeline = engine.Pipeline(
        "orders",
        connections={"db": {"url": address}},
        read=engine.node(JsonlSource, path=str(path), key="id", page_records=ROWS_AT_ONCE),
        load=engine.node(PostgresSink, connection="db", table="orders", records=ROWS_AT_ONCE),
    )
    report = (await engine.run(pipeline))["orders"]
    if report.error:
        raise RuntimeError(report.error)
    return orders.work()
