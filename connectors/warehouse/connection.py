"""Connection to an ingest service."""

from __future__ import annotations

from base64 import b64encode
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from connectors.addresses import http_address
from connectors.credentials import Token


class WarehouseConnection(BaseModel):
    """Connection to an ingest service."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(
        description="Base URL of the service, such as `http://localhost:4200`; a path and a query are kept"
    )
    token: Token | None = Field(default=None, description="Bearer token; none is sent without it")

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        url = http_address(url)
        if "#" in url:
            raise ValueError("must end before the #: fragments are never sent to a service")
        return url

    @model_validator(mode="after")
    def _has_one_secret(self) -> Self:
        if self._has_user and self.token is not None and self.token.get_secret_value():
            raise ValueError("`url` has a user and there is a `token`: only one of them can be sent")
        return self

    @property
    def _has_user(self) -> bool:
        return "@" in urlsplit(self.url).netloc

    @property
    def base(self) -> str:
        """The URL without user, query and trailing slash, for appending paths and for messages."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{host}{parts.path.rstrip('/')}"

    @property
    def query(self) -> str:
        """The URL's query, sent with every request; it may contain a key, so messages never show it."""
        return urlsplit(self.url).query

    @property
    def authorization(self) -> str | None:
        """The value of the Authorization header: the token, or the user of the URL."""
        if self.token is not None and self.token.get_secret_value():
            return f"Bearer {self.token.get_secret_value()}"
        if not self._has_user:
            return None
        user = unquote(urlsplit(self.url).netloc.rpartition("@")[0])
        return f"Basic {b64encode((user if ':' in user else user + ':').encode()).decode()}"
