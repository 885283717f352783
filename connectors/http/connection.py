"""Connection to an HTTP API."""

from __future__ import annotations

from base64 import b64encode
from typing import Final, Self
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from connectors.addresses import address_without_credentials, http_address
from connectors.credentials import Headers, Token

_SENT_AS_IS: Final = "/?:@!$'()*,"
"""Characters that the client does not encode in a query, though others do."""


class HttpConnection(BaseModel):
    """Connection to an HTTP API: its address and credentials."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(description="Base URL, such as `https://api.example.com/v1`; paths are appended to it")
    token: Token | None = Field(default=None, description="Sent as `Authorization: Bearer TOKEN`")
    user: str | None = Field(default=None, description="User of HTTP basic authentication")
    password: SecretStr | None = Field(default=None, description="Password of HTTP basic authentication")
    headers: Headers = Field(
        default={}, description="Headers of every request, e.g. `X-Api-Key`; never shown"
    )
    query_secrets: dict[str, SecretStr] = Field(
        default={}, description="Query parameters of every request, e.g. `api_key`; never shown"
    )

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        url = http_address(address_without_credentials(url))
        if "#" in url:
            raise ValueError("must end before the #: fragments are never sent to a service")
        return url

    @model_validator(mode="after")
    def _knows_one_way(self) -> Self:
        if self.token is not None and self.user is not None:
            raise ValueError("give either a `token` or a `user` with a `password`: only one can be sent")
        if self.password is not None and self.user is None:
            raise ValueError("`password` needs a `user`")
        return self

    @property
    def base(self) -> str:
        """The URL without its query and trailing slash."""
        return self.url.partition("?")[0].rstrip("/")

    @property
    def query(self) -> list[tuple[str, str]]:
        """Parameters of every request: those of the URL, and the secret ones."""
        own = parse_qsl(urlsplit(self.url).query, keep_blank_values=True)
        return own + [(name, value.get_secret_value()) for name, value in self.query_secrets.items()]

    @property
    def all_headers(self) -> dict[str, str]:
        """Headers of every request, with the credentials."""
        headers = {name: value.get_secret_value() for name, value in self.headers.items()}
        if self.token is not None and self.token.get_secret_value():
            headers["Authorization"] = f"Bearer {self.token.get_secret_value()}"
        elif self.user is not None:
            password = self.password.get_secret_value() if self.password is not None else ""
            headers["Authorization"] = f"Basic {b64encode(f'{self.user}:{password}'.encode()).decode()}"
        return headers

    @property
    def secrets(self) -> tuple[str, ...]:
        """Secrets to hide in messages, also in their encoded forms, since an API may repeat these."""
        given = [self.token, self.password, *self.headers.values(), *self.query_secrets.values()]
        plain = [one.get_secret_value() for one in given if one is not None and one.get_secret_value()]
        encoded = (lambda one: quote(one, safe=""), quote_plus, lambda one: quote_plus(one, safe=_SENT_AS_IS))
        sent = [encode(one) for one in plain for encode in encoded]
        if self.user is not None:
            sent.append(self.all_headers["Authorization"].removeprefix("Basic "))
        return tuple(dict.fromkeys([*plain, *sent]))
