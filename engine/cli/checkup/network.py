"""Check whether a service answers at an address, and read the time of its clock."""

from __future__ import annotations

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, SecretStr

from engine.cli.checkup.findings import Finding, Level
from engine.redaction import has_credentials, without_credentials

ADDRESS_FIELDS = ("url", "base_url", "endpoint", "dsn", "address")
ALLOWED_SKEW = 60.0  # seconds; S3 refuses signatures that are 15 minutes off
GRAVE_SKEW = 600.0
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "postgres": 5432}


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer from an address; `skew`: by how many seconds this machine's clock is ahead."""

    reached: bool
    found: str
    remedy: str = ""
    skew: float | None = None


def address_of(connection: BaseModel | None) -> str:
    """Return the address in a connection, or "" when it has none, or one that does not name a single host."""
    for _, value in _texts(connection):
        parts = urlsplit(value)
        if parts.scheme in PORTS and parts.hostname and "," not in parts.netloc:
            return value
    return ""


def secrets_in_address(connection: BaseModel) -> list[str]:
    """Return which credentials the addresses in a connection have, as in "password in `url`"."""
    found = []
    for name, value in _texts(connection):
        parts = urlsplit(value)
        login, _, _ = parts.netloc.rpartition("@")
        if ":" in login or "password" in dict(parse_qsl(parts.query)):
            found.append(f"password in `{name}`")
        elif login:
            found.append(f"user in `{name}`")
        elif has_credentials(value):
            found.append(f"key in `{name}`")
    return found


def _texts(connection: BaseModel | None) -> Iterator[tuple[str, str]]:
    """The fields that may be addresses, with their texts."""
    for name in ADDRESS_FIELDS:
        value = getattr(connection, name, None)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if isinstance(value, str):
            yield name, value


def ask(address: str, timeout: float) -> Answer:
    """Return whether a service answers at an address; blocks for at most some multiples of `timeout` seconds.

    No credentials are sent, so any answer will do.
    """
    parts = urlsplit(address)
    where = without_credentials(f"{parts.scheme}://{parts.netloc}")
    try:
        if parts.scheme not in ("http", "https"):
            with socket.create_connection((parts.hostname or "", parts.port or PORTS[parts.scheme]), timeout):
                return Answer(True, f"{where} accepts connections")
        host = parts.netloc.rpartition("@")[2]
        request = urllib.request.Request(f"{parts.scheme}://{host}/", method="HEAD")  # noqa: S310 - as above
        sent = datetime.now(UTC)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:  # noqa: S310 - http or https
                date = response.headers.get("Date", "")
        except urllib.error.HTTPError as error:
            date = error.headers.get("Date", "")
            error.close()
        return Answer(True, f"{where} answers", skew=_skew(date, sent))
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        return Answer(False, *_why(where, reason))


def _why(where: str, reason: object) -> tuple[str, str]:
    if isinstance(reason, ConnectionRefusedError):
        return f"connection refused: no service is listening at {where}", "start it, or correct the address"
    if isinstance(reason, socket.gaierror):
        return f"the name in {where} cannot be resolved", "correct the address, or check DNS and the network"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {where} is not trusted: {reason.verify_message}",
            "set SSL_CERT_FILE to the certificates of your organisation, or correct the address",
        )
    if isinstance(reason, TimeoutError):
        return f"{where} did not answer in time", "check the address, the firewall and the proxy"
    return f"{where} cannot be reached: {reason}", "check the address, the network and the proxy"


def _skew(date: str, now: datetime) -> float | None:
    try:
        return (now - parsedate_to_datetime(date).astimezone(UTC)).total_seconds() if date else None
    except (ValueError, TypeError):
        return None


def clock(skews: Sequence[float]) -> Iterable[Finding]:
    """Yield a finding about this machine's clock, compared with the time that servers report."""
    if not skews:
        yield Finding(Level.NOTE, "clock", "not compared: no server reported the time")
        return
    worst = sorted(skews, key=abs)[len(skews) // 2]  # one server may be wrong itself
    found = f"{abs(worst):.0f} s {'ahead of' if worst > 0 else 'behind'} the servers"
    remedy = "set the clock, or start a time service (timedatectl set-ntp true)"
    if abs(worst) <= ALLOWED_SKEW:
        yield Finding(Level.OK, "clock", f"within {max(1.0, abs(worst)):.0f} s of the servers")
    else:
        level = Level.PROBLEM if abs(worst) > GRAVE_SKEW else Level.WARNING
        yield Finding(level, "clock", found, remedy)
