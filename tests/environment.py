"""Tests know nothing of the environment of the user who runs them."""

from __future__ import annotations

import os
import re

__all__ = ["forget_environment"]

KEPT = {"ODW_REQUIRE_SERVERS", "ODW_TEMPORAL_CLI", "ODW_MINIO", "ODW_LANGEXTRACT"}
"""What tests are told in this way."""

READ = re.compile(
    r"(ODW|MOOSE|AWS|OTEL|TEMPORAL|OPENAI|ANTHROPIC|GOOGLE|AZURE|MINIO|CLICKHOUSE|RUNTIME_)_.*"
    r"|PG[A-Z]+|SSL_CERT_(FILE|DIR)|(?i:[a-z]+_proxy)|COLUMNS|LINES|(NO|FORCE|CLI)_?COLOR(_FORCE)?"
)
"""What the engine and its libraries read, and what a user may have set for other programs."""


def forget_environment() -> None:
    """Remove the variables that would change what tests see, also for the processes that they start."""
    for name in [name for name in os.environ if READ.fullmatch(name) and name not in KEPT]:
        del os.environ[name]
