"""Run the ingest service and its warehouse until SIGINT or SIGTERM.

Runs with the same state directory find the service and use it instead of starting their own. To require
tokens, set their hashes in ODW_INGEST_API_KEY and ODW_CONSUMPTION_API_KEY; see docs/service.md.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from engine.cli.options import ServeOptions

if TYPE_CHECKING:
    from engine.service.auth import TokenSettings
    from engine.service.settings import ServiceSettings


def execute(options: ServeOptions) -> int:
    """Serve until stopped; 0 after a clean end."""
    from pathlib import Path

    from engine.service.server import run
    from engine.service.settings import ServiceSettings

    settings = ServiceSettings(
        ingest_api_key=_key("INGEST_API_KEY"),
        consumption_api_key=_key("CONSUMPTION_API_KEY"),
        insecure=options.insecure,
        allowed_hosts=options.allow_host,
        path_prefix=options.path_prefix,
        admin_api_key=_key("ADMIN_API_KEY"),
        admin_tokens=_tokens(),
    )
    if options.demo or options.file or options.topics_port is not None or options.files_port is not None:
        return _serve_file(options, settings)
    run(Path(options.state_dir), options.host, options.port, settings=settings, on_ready=_say_where)
    return 0


def _serve_file(options: ServeOptions, settings: ServiceSettings) -> int:
    from dataclasses import replace

    from engine.cli.event_loop import on_event_loop
    from engine.cli.local.serving import serve_file
    from engine.cli.options import DEFAULT_FILE

    options = replace(options, file=options.file or DEFAULT_FILE)
    return on_event_loop(lambda: serve_file(options, settings))


def _key(name: str) -> str | None:
    """Return a key's hash from the environment, under our name or that of the original service.

    Raises:
        ConfigError: it is not a valid hash, so no token would match.
    """
    from engine.errors import ConfigError
    from engine.service.auth import is_hash

    for variable in (f"ODW_{name}", f"MOOSE_{name}"):
        if value := os.environ.get(variable):
            if not is_hash(value):
                raise ConfigError(
                    f"{variable} is not a token hash (40 hex digits), so every request would be rejected: "
                    "create one with engine.service.auth.hash_of, as docs/service.md shows"
                )
            return value
    return None


def _tokens() -> TokenSettings | None:
    """Return the settings that check administration tokens, from the environment; None without them.

    Raises:
        ConfigError: part of it is missing.
    """
    from engine.errors import ConfigError
    from engine.service.auth import TokenSettings

    names = ("ODW_JWT_PUBLIC_KEY", "ODW_JWT_ISSUER", "ODW_JWT_AUDIENCE")
    values = [os.environ.get(name, "") for name in names]
    if not any(values):
        return None
    if missing := [name for name, value in zip(names, values, strict=True) if not value]:
        raise ConfigError(f"{', '.join(missing)}: tokens need all of {', '.join(names)}")
    return TokenSettings(*values)


def _say_where(url: str) -> None:
    sys.stdout.write(f"ingest service listening at {url} (Ctrl-C to stop)\n")
    sys.stdout.flush()
