"""The state store named by the arguments and the environment, and how hints repeat it."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

from engine.cli.options import DEFAULT_STATE_DIR, StateOptions

if TYPE_CHECKING:
    from engine.state.store import StateStore

STATE_VARIABLE = "ODW_STATE"


def store_of(options: StateOptions, *, create: bool = False) -> StateStore:
    """Return the store of the arguments, not yet opened.

    Args:
        create: False makes a missing store an error, for commands that only read.

    Raises:
        ConfigError: the address is not valid.
        RegistryError: what it needs is not installed.
    """
    from engine.state import open_store

    return open_store(state_of(options), create=create)


async def run_id_of(store: StateStore, name: str) -> str:
    """Return the id of the named run; also accepts a workflow's id from Temporal's page."""
    from engine.state.records import DURABLE_GROUP

    if not name.startswith(DURABLE_GROUP):
        return name
    runs = await store.list_runs(group_id=name)
    # the workflow id of a submitted or resumed run ends with the run's id
    return runs[-1].run_id if runs else name.rsplit("/", 1)[-1]


def state_of(options: StateOptions) -> str:
    """Return `--state`, else ODW_STATE, else `--state-dir`: an address or a directory.

    Raises:
        ConfigError: it is neither, or an address is given as a directory. The message does not quote it,
            since it may hold a password.
    """
    from engine.errors import ConfigError
    from engine.state.address import is_address

    if _looks_like_a_server(options.state_dir):
        raise ConfigError(
            f"--state-dir takes a local directory: name a database with --state or {STATE_VARIABLE}"
        )
    given = options.state or ""
    where = given or os.environ.get(STATE_VARIABLE, "") or str(options.state_dir)
    if _looks_like_a_server(where) and not is_address(where):
        raise ConfigError(
            f"{'--state' if given else STATE_VARIABLE} is not a valid state store: give a directory or "
            "postgresql://USER@HOST:PORT/DATABASE"
        )
    return where


def shown_state(options: StateOptions) -> str:
    """Return the state store for messages, without a password."""
    from engine.state.address import is_address, place_of

    where = state_of(options)
    return place_of(where) if is_address(where) else os.path.abspath(where)


def state_options(options: StateOptions) -> str:
    """Return the arguments for another command on the same state, with passwords masked."""
    from engine.state.address import is_address, without_secrets

    text = ""
    if str(options.state_dir) != DEFAULT_STATE_DIR:
        text += f" --state-dir {shlex.quote(str(options.state_dir))}"
    if given := options.state:
        text += f" --state {shlex.quote(without_secrets(given) if is_address(given) else given)}"
    return text


def _looks_like_a_server(text: object) -> bool:
    return re.search(r"://|\b(?:host|dbname|user|password|service)\s*=", str(text)) is not None
