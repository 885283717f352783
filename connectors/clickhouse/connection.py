"""Connection to a ClickHouse server."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from connectors.addresses import address_without_credentials, http_address

__all__ = ["ClickHouseConnection"]


class ClickHouseConnection(BaseModel):
    """Connection to the HTTP interface of a ClickHouse server."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="`http://HOST:8123`, or `https://HOST:8443` with TLS")
    database: str = Field(default="default", min_length=1, description="Database of tables named without one")
    user: str = Field(default="default", description="User")
    password: SecretStr = Field(default=SecretStr(""), description="Password of the user")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        url = http_address(address_without_credentials(url))
        if "?" in url or "#" in url:
            raise ValueError("must end before the ?: the other fields say the rest")
        return url

    @property
    def place(self) -> str:
        """Server and database, for messages."""
        return f"{self.url}, database {self.database}"
