"""Compare the records that the service holds of a run with the run's ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, Field, ValidationError

from connectors.warehouse.client import Answer, WarehouseClient
from engine.contract.verification import Check, Delivered
from engine.errors import FatalError

_PATH = "/deliveries"
_MAX_ANSWER = 64 * 1024


class Account(BaseModel):
    """The response of `GET /deliveries`; see docs/service.md."""

    acknowledged: int = Field(ge=0)
    present: int = Field(ge=0)
    replaced: int = Field(ge=0)
    overtaken: int = Field(ge=0)
    taken: int = Field(default=0, ge=0)  # older services do not report it
    doubled: int = Field(ge=0)
    dead: int = Field(ge=0)
    letters: int = Field(ge=0)
    since: datetime | None
    remembered_days: int


class _Newest(BaseModel):
    newest: int = Field(ge=0)


async def newest_delivery(client: WarehouseClient, model: str) -> int | None:
    """Return the number of the service's latest delivery of a model; None if it does not report it.

    Raises:
        TransientError: the service is not available now.
    """
    try:
        answer = await client.get(_PATH, [("model", model.partition("/")[0])], max_answer=_MAX_ANSWER)
        return _Newest.model_validate_json(answer.body).newest if answer.status < 300 else None
    except (FatalError, ValidationError):
        return None


async def count_deliveries(
    client: WarehouseClient,
    delivered: Delivered,
    *,
    model: str,
    scope: str,
    started_at: datetime | None,
    now: datetime,
) -> list[Check]:
    """Compare the records that the service holds of a scope with the ledger.

    Args:
        scope: scope of the requests' epochs.
        started_at: earliest time of the first request.

    Raises:
        TransientError: the service is not available now.
    """
    query = [("model", model.partition("/")[0]), ("scope", scope)]
    try:
        answer = await client.get(_PATH, query, max_answer=_MAX_ANSWER)
    except FatalError as error:
        return [_unknown(delivered, f"the service does not report what it holds of a run: {error}")]
    account = _read(answer)
    if account is None:
        return [_unknown(delivered, f"the service does not report what it holds of a run at {_PATH}")]
    began = _forgotten_before(account, now)
    if began is not None and (started_at is None or started_at < began):
        when = f"{began:%Y-%m-%d %H:%M} UTC"
        return [_unknown(delivered, f"the service no longer knows what it received before {when}")]
    return _compared(account, delivered)


def _read(answer: Answer) -> Account | None:
    if answer.status >= 300 or not answer.is_json:
        return None
    try:
        return Account.model_validate_json(answer.body)
    except ValidationError:
        return None


def _forgotten_before(account: Account, now: datetime) -> datetime | None:
    """Return the time before which deliveries are not all counted."""
    since = account.since
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)
    remembered = now - timedelta(days=account.remembered_days)
    return max(since, remembered) if since is not None else remembered


def _unknown(delivered: Delivered, why: str) -> Check:
    return Check("records", delivered.records, note=why)


def _compared(account: Account, delivered: Delivered) -> list[Check]:
    found = account.present + account.overtaken + (account.letters if delivered.letters else 0)
    notes = []
    # a resumed run writes again what may not have been delivered; a record that another run has replaced
    # since its first delivery counts as overtaken, and as present
    again = min(account.overtaken, account.taken)
    if found - again <= delivered.records < found:
        notes.append(f"{found - delivered.records:,} were sent again after another run had replaced them")
        found = delivered.records
    if account.overtaken:
        notes.append(f"{account.overtaken:,} of them were since replaced by other deliveries, or removed")
    if account.replaced:
        notes.append(f"{account.replaced:,} were sent again, or replaced by later ones of the same id")
    checks = [
        Check(
            "records",
            delivered.records,
            found,
            "; ".join(notes),
            fewer=0 if delivered.unique else account.replaced,
        ),
        Check(
            "rows in the warehouse, of those that it acknowledged",
            account.acknowledged - account.replaced - account.overtaken,
            account.present,
        ),
        Check("rows with a duplicate id", 0, account.doubled),
    ]
    checks.append(
        Check("dead letters in the service, of those that it reported", account.dead, account.letters)
    )
    if delivered.letters:
        return checks
    # records of the same id, or equal ones without an id, share a dead letter
    fewer = 0 if delivered.unique else max(0, delivered.died - 1)
    note = "records of the same id share a dead letter" if account.dead < delivered.died and fewer else ""
    return [*checks, Check("records that died in it", delivered.died, account.dead, note, fewer=fewer)]
