"""Where the ingest service is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from connectors.addresses import http_address

__all__ = ["WarehouseConnection"]


class WarehouseConnection(BaseModel):
    """Where the ingest service is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="Base URL of the service, for example `http://localhost:4200`")
    token: SecretStr | None = Field(default=None, description="Bearer token; none is sent without it")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        return http_address(url)
