"""Addresses of databases: their kinds, and no secret is ever shown."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engine.errors import ConfigError, RegistryError
from engine.state import open_store
from engine.state.address import checked, is_address, place_of, without_secrets
from engine.state.postgres.connection import parameters_of

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("postgresql://db/etl", True),
        ("postgres://db/etl", True),
        (".odw", False),
        ("/var/lib/postgresql", False),
        ("mysql://db/etl", False),
        ("C:\\state", False),
    ],
)
def test_an_address_is_distinguished_from_a_directory(text: str, address: bool) -> None:
    assert is_address(text) == address


@pytest.mark.parametrize(
    ("address", "place", "copy"),
    [
        ("postgresql://etl:hunter2@db.example:5433/odw", "postgresql://etl@db.example:5433/odw",
         "postgresql://etl:***@db.example:5433/odw"),
        ("postgres://etl@db/odw?sslmode=require", "postgresql://etl@db/odw",
         "postgresql://etl@db/odw?sslmode=require"),
        ("postgresql:///odw?host=/run/pg&password=hunter2&user=etl", "postgresql:///odw",
         "postgresql:///odw?host=/run/pg&password=***&user=etl"),
        ("postgresql://db/odw?sslmode=verify-full&sslpassword=hunter2", "postgresql://db/odw",
         "postgresql://db/odw?sslmode=verify-full&sslpassword=***"),
        ("postgresql://a:hunter2%40@one:1,[::1]:2,three/odw", "postgresql://a@one:1,[::1]:2,three/odw",
         "postgresql://a:***@one:1,[::1]:2,three/odw"),
    ],
)  # fmt: skip
def test_messages_name_the_database_and_hints_keep_the_options(address: str, place: str, copy: str) -> None:
    assert checked(address) == address
    assert place_of(address) == place
    assert without_secrets(address) == copy


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://etl:{SECRET}@x@db/odw",
        f"postgresql://etl:{SECRET}/x@db/odw",
        f"postgresql://etl:x?{SECRET}@db/odw",
        f"postgresql://etl:{SECRET}",
        f"postgresql://etl:%{SECRET}@db/odw",
        f"postgresql://db/odw?pasword={SECRET}",
        f"postgresql://etl@db/odw?{SECRET}",
    ],
)
def test_ambiguous_address_is_refused_without_quoting_it(address: str) -> None:
    with pytest.raises(ConfigError, match="the address of the state store is not valid") as refused:
        parameters_of(address)
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_what_the_address_says_goes_before_the_defaults() -> None:
    parameters = parameters_of("postgresql://etl:a%40b@db/odw?connect_timeout=3&application_name=mine")
    assert (parameters["connect_timeout"], parameters["application_name"]) == ("3", "mine")
    assert (parameters["password"], parameters["keepalives_idle"]) == ("a@b", 10)


def test_a_store_is_made_of_either_and_touches_nothing_yet(tmp_path: Path) -> None:
    open_store(tmp_path / "state")
    open_store("postgresql://nowhere.invalid/odw")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engine.state.postgres", None)
    with pytest.raises(RegistryError, match=r"pip install 'odw-engine\[postgres\]'"):
        open_store("postgresql://db/odw")
