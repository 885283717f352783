"""Addresses of PostgreSQL: ambiguous ones are refused, which could show a password as host."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from connectors.postgres.database import PostgresConnection, connect
from engine.errors import FatalError


@pytest.mark.parametrize(
    "login",
    ["u:pa/secret", "u:pa#secret", "u:pa?secret", "u:1?secret", "u:pa@secret", "u:pa?a=secret", "#secret"],
)
def test_a_password_with_unescaped_marks_is_refused(login: str) -> None:
    with pytest.raises(ValidationError, match="%2F for /") as caught:
        PostgresConnection(url=f"postgresql://{login}@db.example:5432/sales")
    assert "secret" not in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:p%40%2F%3F%23@db:5432/sales?sslmode=require", "postgresql://db:5432/sales"),
        ("postgres://u@[::1]:5432/sales", "postgresql://[::1]:5432/sales"),
        ("postgresql://u:p@one:1,two:2/sales", "postgresql://one:1,two:2/sales"),
        ("postgresql:///sales?host=/run/postgresql&password=secret", "postgresql:///sales"),
        ("postgresql://%2Frun%2Fpostgresql/sales", "postgresql://%2Frun%2Fpostgresql/sales"),
    ],
)
def test_messages_name_host_and_database_alone(url: str, place: str) -> None:
    assert PostgresConnection(url=url).place == place


def test_a_broken_host_is_refused_when_it_is_read() -> None:
    with pytest.raises(ValidationError, match="HOST:PORT"):
        PostgresConnection(url="postgresql://u:secret@[::1/sales")


async def test_an_option_that_libpq_does_not_know_is_named() -> None:
    with pytest.raises(FatalError, match="libpq has no option 'ssl_mode'; write") as caught:
        await connect(PostgresConnection(url="postgresql://u:secret@db/sales?ssl_mode=require"))
    assert "secret" not in str(caught.value)
