"""Tokens for administration: only the right key, algorithm, issuer, audience and time are accepted."""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from engine.errors import ConfigError
from engine.service.auth import AdminCheck, TokenCheck, TokenSettings, hash_of

Token = Callable[..., str]


def pem(key: Any) -> str:
    public = key.public_key()
    return str(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


def private(key: Any) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SETTINGS = TokenSettings(pem(KEY), "https://issuer.example", "odw")


def claims(**changes: Any) -> dict[str, Any]:
    good = {"iss": "https://issuer.example", "aud": "odw", "exp": int(time.time()) + 600, "sub": "ann"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(given: dict[str, Any], key: Any = KEY, algorithm: str = "RS256") -> str:
    return jwt.encode(given, private(key), algorithm=algorithm)


def unsigned(given: dict[str, Any], algorithm: str = "none") -> str:
    parts = [{"alg": algorithm, "typ": "JWT"}, given]
    texts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*texts, ""])


async def allows(token: str, scheme: str = "Bearer") -> bool:
    return await TokenCheck(SETTINGS).expiry(f"{scheme} {token}") is not None


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"aud": ["x", "odw"]}, {"sub": None}])
async def test_a_good_token_opens(given: dict[str, Any]) -> None:
    assert await allows(signed(claims(**given)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"exp": None},
        {"exp": 1_000_000_000},
        {"nbf": 99_000_000_000},
        {"exp": "soon"},
        {"exp": 10**400},
    ],
)
async def test_a_wrong_claim_opens_nothing(given: dict[str, Any]) -> None:
    assert not await allows(signed(claims(**given)))


@pytest.mark.slow
async def test_only_our_key_and_algorithm_count() -> None:
    assert not await allows(signed(claims(), OTHER))
    assert not await allows(signed(claims(), KEY, "RS512"))
    assert not await allows(unsigned(claims()))
    assert not await allows(unsigned(claims(), "RS256"))


async def test_the_public_key_is_no_shared_secret() -> None:
    import hashlib
    import hmac

    head = unsigned(claims(), "HS256").rstrip(".")
    mac = hmac.new(SETTINGS.public_key.encode(), head.encode(), hashlib.sha256).digest()
    assert not await allows(f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}")


@pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "é.é.é", "x" * 10_000, "..." * 3_000])
async def test_odd_tokens_open_nothing(token: str) -> None:
    assert not await allows(token)
    assert await TokenCheck(SETTINGS).expiry(token) is None
    assert await TokenCheck(SETTINGS).expiry(None) is None


@pytest.mark.parametrize("key", ["", "no key", pem(ec.generate_private_key(ec.SECP256R1()))])
def test_a_key_that_cannot_be_used_stops_the_start(key: str) -> None:
    with pytest.raises(ConfigError, match="key for tokens"):
        TokenCheck(TokenSettings(key, "i", "a"))


@pytest.mark.slow
async def test_the_admin_key_and_tokens_open_side_by_side() -> None:
    both = AdminCheck(hash_of("aa.bb"), SETTINGS)
    assert await both.allows("Bearer aa.bb")
    assert await both.allows(f"Bearer {signed(claims())}")
    assert not await both.allows("Bearer cc.dd")
    none = AdminCheck(None, None)
    assert not none.is_set
    assert not await none.allows("Bearer aa.bb")


@pytest.mark.slow
async def test_a_token_expires_and_the_admin_key_does_not() -> None:
    both = AdminCheck(hash_of("aa.bb"), SETTINGS)
    given = claims()
    assert await both.expiry(f"Bearer {signed(given)}") == given["exp"] + 30
    assert await both.expiry("Bearer aa.bb") == math.inf
    assert await both.expiry("Bearer cc.dd") is None
