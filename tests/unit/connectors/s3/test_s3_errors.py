from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from aiohttp import ClientPayloadError
from botocore import exceptions

from connectors.s3.errors import is_unsupported, s3_errors
from engine.errors import ComponentError, FatalError, RecordError, TransientError


def translated(error: Exception) -> ComponentError:
    with pytest.raises(ComponentError) as raised, s3_errors("bucket", "reading 'x'"):
        raise error
    assert raised.value.__cause__ is error
    assert str(raised.value).startswith("bucket 'bucket', reading 'x': ")
    return raised.value


def unreachable(reason: OSError) -> exceptions.EndpointConnectionError:
    return exceptions.EndpointConnectionError(endpoint_url="http://x", error=reason)


def lookup(number: int) -> socket.gaierror:
    return socket.gaierror(number, "name or service")


@pytest.mark.parametrize(
    "error",
    [
        unreachable(ConnectionRefusedError("refused")),
        unreachable(lookup(socket.EAI_AGAIN)),
        lookup(socket.EAI_AGAIN),
        exceptions.ReadTimeoutError(endpoint_url="http://x", error="slow"),
        exceptions.ConnectTimeoutError(endpoint_url="http://x"),
        exceptions.ConnectionClosedError(endpoint_url="http://x"),
        exceptions.HTTPClientError(error="reset"),
        exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
        exceptions.ResponseStreamingError(error="reset"),
        exceptions.CredentialRetrievalError(provider="metadata", error_msg="slow"),
        exceptions.SSLError(endpoint_url="http://x", error="EOF occurred"),
        ClientPayloadError("cut off"),
        ConnectionResetError("reset"),
        TimeoutError("slow"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_failures_of_the_way_to_the_server_are_transient(error: Exception) -> None:
    assert isinstance(translated(error), TransientError)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (unreachable(lookup(socket.EAI_NONAME)), "check the connection's endpoint"),
        (lookup(socket.EAI_NONAME), "check the connection's endpoint"),
        (exceptions.NoCredentialsError(), "set `access_key` and `secret_key`"),
        (exceptions.PartialCredentialsError(provider="env", cred_var="x"), "Partial credentials"),
        (exceptions.ParamValidationError(report="bad bucket"), "bad bucket"),
        (exceptions.SSLError(endpoint_url="x", error="CERTIFICATE_VERIFY_FAILED"), "is not trusted"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_permanent_failures_are_fatal(error: Exception, message: str) -> None:
    found = translated(error)
    assert isinstance(found, FatalError)
    assert message in str(found)


def refused(code: str, status: int = 400, headers: dict[str, str] | None = None) -> exceptions.ClientError:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}
    return exceptions.ClientError(answer, "GetObject")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (refused("AccessDenied", 403), "auth"),
        (refused("403", 403), "auth"),
        (refused("ExpiredToken", 400), "auth"),
        (refused("TokenRefreshRequired", 400), "auth"),
        (exceptions.NoCredentialsError(), "auth"),
        (exceptions.PartialCredentialsError(provider="env", cred_var="x"), "auth"),
        (refused("NoSuchBucket", 404), "config"),
        (lookup(socket.EAI_NONAME), "config"),
    ],
    ids=str,
)
def test_bad_credentials_are_distinguished_from_other_mistakes(error: Exception, kind: str) -> None:
    found = translated(error)
    assert isinstance(found, FatalError)
    assert found.kind == kind


@pytest.mark.parametrize("code", ["RequestThrottled", "ThrottledException", "QpsLimitExceeded", "SlowDown"])
def test_every_word_for_too_many_requests_slows_down(code: str) -> None:
    error = translated(refused(code))
    assert isinstance(error, TransientError)
    assert error.throttled


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("Wed, 21 Oct 2020 07:28:00 GMT", 0), ("-1", None), ("nan", None), ("", None)],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(header: str, seconds: float | None) -> None:
    error = translated(refused("SlowDown", 503, {"retry-after": header}))
    assert isinstance(error, TransientError)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("NoSuchKey", "ObjectVanished"),
        ("404", "ObjectVanished"),
        ("412", "ObjectChanged"),
        ("PreconditionFailed", "ObjectChanged"),
        ("InvalidObjectState", "ObjectArchived"),
    ],
)
def test_failures_of_one_object_are_its_own(code: str, kind: str) -> None:
    error = translated(refused(code))
    assert isinstance(error, RecordError)
    assert error.kind == kind


def test_other_errors_pass_unchanged() -> None:
    raiser: Callable[[], None] = [].pop
    with pytest.raises(IndexError), s3_errors("bucket", "x"):
        raiser()


@pytest.mark.parametrize(
    ("error", "unsupported"),
    [
        (refused("NotImplemented", 501), True),
        (refused("501", 501), True),
        (refused("InternalError", 500), False),
        (exceptions.HTTPClientError(error="NotImplemented"), False),  # its response is None
        (TimeoutError("NotImplemented"), False),
    ],
)
def test_what_a_server_does_not_implement_is_told_by_its_code(error: Exception, unsupported: bool) -> None:
    with pytest.raises(TransientError) as raised, s3_errors("bucket", "reading 'NotImplemented'"):
        raise error
    assert is_unsupported(raised.value) is unsupported
