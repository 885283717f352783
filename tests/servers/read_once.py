"""What libraries read and work out for every client that a test opens, done once a process.

For botocore that is its descriptions of S3 and the names of its events, nine tenths of the time of opening a
client; for httpx it is the certificates that are trusted.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Hashable
from types import ModuleType
from typing import Any

__all__ = ["preload", "share"]


def share() -> None:
    """Share what has been read between all clients of this process, of the libraries imported by now."""
    for name, change in (("botocore.session", _botocore), ("httpx._transports.default", _httpx)):
        module = sys.modules.get(name)
        if module is not None and name not in _shared:
            _shared.add(name)
            change(module)


def preload() -> None:
    """Import botocore, and read what a client of S3 needs."""
    import botocore.session

    share()
    session = botocore.session.get_session()
    session.create_client(
        "s3", "us-east-1", endpoint_url="http://127.0.0.1:9", aws_access_key_id="", aws_secret_access_key=""
    )


_shared: set[str] = set()


def _httpx(transport: ModuleType) -> None:
    def files(**options: Any) -> Hashable:
        return (os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"), *options.values())

    vars(transport)["create_ssl_context"] = _once(transport.create_ssl_context, files)


def _botocore(session: ModuleType) -> None:
    from botocore import hooks, regions

    vars(session)["create_loader"] = functools.cache(session.create_loader)
    vars(hooks)["accepts_kwargs"] = functools.partial(_accepts_kwargs, hooks.accepts_kwargs)
    aliased = hooks.EventAliaser._alias_event_name
    names: dict[str, str] = {}

    def alias(self: Any, event: str) -> Any:
        self._alias_name_cache = names
        return aliased(self, event)

    hooks.EventAliaser._alias_event_name = alias

    def identities(**options: Any) -> Hashable:
        return tuple(id(option) for option in options.values())

    vars(regions)["EndpointProvider"] = _once(regions.EndpointProvider, identities)


def _accepts_kwargs(inspected: Callable[[Any], Any], function: Any) -> Any:
    code = getattr(function, "__code__", None)
    return inspected(function) if code is None else code.co_flags & inspect.CO_VARKEYWORDS


def _once(make: Callable[..., Any], key: Callable[..., Hashable]) -> Callable[..., Any]:
    """A function that makes one thing of options with the same key, and holds both."""
    made: dict[Hashable, tuple[Any, Any]] = {}

    def shared(**options: Any) -> Any:
        place = key(**options)
        if place not in made:
            made[place] = (make(**options), options)
        return made[place][0]

    return shared
