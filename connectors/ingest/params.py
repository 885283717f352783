"""Parameters of the `ingest` sink."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from connectors.warehouse.connection import WarehouseConnection
from engine.contract.component import Params, operational

IngestConnection = WarehouseConnection


class Confirm(StrEnum):
    """When a batch counts as delivered."""

    NONE = "none"
    VISIBLE = "visible"


class LocalValidation(StrEnum):
    """When records are validated before they are sent."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class IngestParams(Params):
    """Parameters of the `ingest` sink. Sizes are bytes of JSON before compression, times are seconds."""

    model: str = Field(
        pattern=r"^[A-Za-z][A-Za-z0-9_]*(/[A-Za-z0-9._-]+)?$",
        description="Name of the model: records go to `POST /ingest/<model>`",
    )
    records: int = operational(500, ge=1, le=1024, description="Maximum records per request")
    bytes: int = operational(512 * 1024, ge=1024, description="Maximum size of a request")
    max_record_bytes: int | None = operational(
        None,
        ge=1024,
        description="Records larger than this become dead letters without being sent (default: 8 MiB; "
        "1,000,000 bytes for a service without per-record results, which would answer 500 "
        "forever)",
    )
    concurrency: int = operational(4, ge=1, le=64, description="Maximum concurrent requests")
    confirm: Confirm = Field(
        default=Confirm.NONE,
        description="`visible`: a record counts as delivered when the consumption API returns its id",
    )
    confirm_timeout: float = operational(30.0, gt=0, description="Time limit for records to become visible")
    confirm_interval: float = operational(
        0.1, gt=0, description="First pause between two checks; doubles up to 2 s, with jitter"
    )
    consumption_api: str | None = operational(
        None,
        description="API that returns the model's rows (default: `getBlobs` for Blob, else `get<Model>`)",
    )
    validation: LocalValidation = operational(
        LocalValidation.AUTO,
        description="Validate records before sending. `auto`: unless the service gives per-record results",
    )
    any_success: bool = operational(
        False,
        description="Accept every 2xx answer as written, for a service that answers neither SUCCESS nor "
        "results per record",
    )
    compress: bool = operational(
        False, description="Send gzip-compressed bodies; a plain Moose does not accept them"
    )
    columns: bool = operational(
        True, description="Send columns (Arrow) instead of JSON to a service that accepts them"
    )
    timeout: float = operational(60.0, gt=0, description="Timeout of a request, including connecting")
