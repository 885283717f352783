"""Translate errors of the S3 client to the engine's errors."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from connectors.objects.listed import ObjectRefusedError
from connectors.retry_after import retry_after_seconds
from engine.errors import ComponentError, EngineError, FatalError, FatalKind, RecordError, TransientError

# Codes: S3 API reference, "Error responses". A HEAD answer has no body, so its code is only the status.
_GONE = frozenset({"NoSuchKey", "NoSuchVersion", "NotFound"})
_CHANGED = frozenset({"PreconditionFailed", "412"})
_THROTTLED = frozenset(
    {
        "BandwidthLimitExceeded", "LimitExceededException", "PriorRequestNotComplete", "QpsLimitExceeded",
        "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown",
        "ThrottledException", "Throttling", "ThrottlingException", "TooManyRequests",
        "TooManyRequestsException",
    }
)  # fmt: skip
_TRANSIENT = _THROTTLED | {
    "Busy", "InternalError", "NoSuchUpload", "OperationAborted", "RequestTimeout", "ServiceUnavailable",
}  # fmt: skip
_CREDENTIALS = frozenset(
    {
        "AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SecurityTokenExpired",
        "SignatureDoesNotMatch", "TokenRefreshRequired",
    }
)  # fmt: skip
_EXPIRED = "the session token has expired: renew the credentials"
_REMEDIES = {
    "AccessDenied": "access denied: grant {needs}",
    "403": "access denied: grant {needs}",
    "AllAccessDisabled": "access to this bucket has been disabled",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set `region` in the connection",
    "ExpiredToken": _EXPIRED,
    "IllegalLocationConstraintException": "the bucket is in another region: set `region` in the connection",
    "InvalidAccessKeyId": "unknown access key: check `access_key`",
    "InvalidToken": "the session token is wrong: check `session_token`",
    "NoSuchBucket": "no such bucket: check the address and the connection's endpoint",
    "PermanentRedirect": "the bucket is in another region: set `region` in the connection",
    "RequestExpired": "the request was too old when it arrived: check this machine's clock",
    "RequestTimeTooSkewed": "this machine's clock is wrong: correct it",
    "SecurityTokenExpired": _EXPIRED,
    "SignatureDoesNotMatch": "the secret key does not match the access key: check `secret_key`",
    "TokenRefreshRequired": _EXPIRED,
}
READING = "s3:ListBucket and s3:GetObject"

_OF_EVERYTHING = frozenset(_REMEDIES) - {"AccessDenied", "403", "SignatureDoesNotMatch"}
"""Codes that apply to all objects alike."""


class RedirectError(Exception):
    """The server redirects to another address, which would receive the credentials."""


class S3Errors:
    """Translates the errors of a block; see `s3_errors`."""

    __slots__ = ("_bucket", "_needs", "_of_object", "_what")

    def __init__(self, bucket: str, what: str, needs: str, *, of_object: bool) -> None:
        self._bucket, self._what, self._needs, self._of_object = bucket, what, needs, of_object

    def __enter__(self) -> None:
        """Do nothing; kept cheap, since several blocks are entered per object."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, EngineError):
            self._translate(error)

    def _translate(self, error: Exception) -> None:
        import aiohttp
        from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
        from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

        where = f"bucket {self._bucket!r}, {self._what}"
        if isinstance(error, ClientError):
            raise _from_answer(error.response, where, self._needs, of_object=self._of_object) from error
        if isinstance(error, ResponseParserError):
            # a proxy's page; botocore quotes all of it after these words
            reason = str(error).partition(", invalid XML received")[0]
            raise TransientError(f"{where}: the answer is not S3's: {reason}") from error
        if isinstance(error, BotoCoreError | aiohttp.ClientError | OSError):
            raise _from_failure(error, self._bucket, where, of_object=self._of_object) from error


def s3_errors(bucket: str, what: str, *, of_object: bool = False, needs: str = READING) -> S3Errors:
    """Translate the client's errors in the block.

    Args:
        bucket: bucket of the request.
        what: the operation, as in "listing memos/"; messages begin with it and the bucket.
        of_object: the request is for one object's content, so a refusal may concern only this object.
        needs: required rights, for the message about a refusal.

    Raises:
        TransientError: throttling, 5xx, time-outs, broken and refused connections, truncated answers.
        RecordError: one object failed; kinds `ObjectVanished`, `ObjectChanged`, `ObjectArchived`.
        ObjectRefusedError: with `of_object`, a failure of this object or of all of them.
        FatalError: everything else; the message has the remedy.
    """
    return S3Errors(bucket, what, needs, of_object=of_object)


def is_unsupported(error: ComponentError) -> bool:
    """Return whether the server does not implement a feature: a condition, a range, a multipart upload."""
    answer = getattr(error.__cause__, "response", None)
    if not isinstance(answer, Mapping):  # other errors also have a response, which is None or not parsed
        return False
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return bool(status in (405, 501) or answer.get("Error", {}).get("Code") == "NotImplemented")


def _from_answer(answer: Mapping[str, Any], where: str, needs: str, *, of_object: bool) -> ComponentError:
    stated = answer.get("Error", {})
    code, message = str(stated.get("Code", "")), str(stated.get("Message", ""))
    metadata = answer.get("ResponseMetadata", {})
    status, headers = int(metadata.get("HTTPStatusCode", 0)), metadata.get("HTTPHeaders", {})
    # a known code is more reliable than the status: some servers send errors with 200 or 500
    transient = code in _TRANSIENT or (code not in _REMEDIES and (status >= 500 or status in (408, 425, 429)))
    if transient:
        wait = retry_after_seconds(headers, datetime.now(UTC))
        throttled = code in _THROTTLED or status == 429
        return TransientError(f"{where}: {code or status}: {message}", retry_after=wait, throttled=throttled)
    gone = status in (404, 410) and code not in _REMEDIES
    if gone or code in _GONE or code == "404" or headers.get("x-amz-delete-marker") == "true":
        return RecordError(f"{where}: it was deleted after it was listed", kind="ObjectVanished")
    if code in _CHANGED or status == 412:
        return RecordError(f"{where}: it changed after it was listed", kind="ObjectChanged")
    if code == "InvalidObjectState":
        return RecordError(f"{where}: it is archived; restore it first", kind="ObjectArchived")
    kind: FatalKind = "auth" if code in _CREDENTIALS or status in (401, 403) else "config"
    text = f"{where}: {code or status}: {_remedy(code, message, status, headers, needs)}"
    if of_object and code not in _OF_EVERYTHING:
        forbidden = kind == "auth" or code.startswith("KMS.") or _is_encrypted(code, message)
        return ObjectRefusedError(
            text, kind=kind, record_kind="ObjectForbidden" if forbidden else "ObjectUnreadable"
        )
    return FatalError(text, kind=kind)


def _is_encrypted(code: str, message: str) -> bool:
    """Return whether an object is encrypted with a key that was not sent."""
    return code == "InvalidRequest" and "server side encryption" in message.lower()


def _remedy(code: str, message: str, status: int, headers: Mapping[str, str], needs: str) -> str:
    region = headers.get("x-amz-bucket-region")
    if region and (300 <= status < 400 or "another region" in _REMEDIES.get(code, "")):
        return f"the bucket is in another region: set `region: {region}` in the connection"
    if _is_encrypted(code, message):
        return f"{message} Set `sse_c_key` in the connection to the key it was written with"
    remedy = _REMEDIES.get(code)
    return message if remedy is None else remedy.format(needs=needs)


def _from_failure(error: Exception, bucket: str, where: str, *, of_object: bool) -> ComponentError:
    import aiohttp
    from botocore import exceptions  # type: ignore[import-untyped]

    if isinstance(error, exceptions.PartialCredentialsError):
        return FatalError(f"{where}: {error}", kind="auth")
    if isinstance(error, exceptions.NoCredentialsError):
        return FatalError(
            f"{where}: no credentials: set `access_key` and `secret_key` in the connection, or "
            "`anonymous: true`, or sign this machine in to AWS",
            kind="auth",
        )
    redirect = _reasons(error, RedirectError)
    if redirect and of_object:
        return ObjectRefusedError(f"{where}: {redirect[0]}", record_kind="ObjectUnreadable")
    if redirect:
        return FatalError(f"{where}: {redirect[0]}")
    if _unknown_host(error):
        remedy = "check the connection's endpoint"
        if f"{bucket}." in str(error):
            remedy += ", or set `addressing_style: path` so that the bucket is no part of the host"
        return FatalError(f"{where}: unknown host: {remedy} ({error})")
    if isinstance(error, exceptions.SSLError | aiohttp.ClientSSLError | ssl.SSLError) and (
        "CERTIFICATE_VERIFY_FAILED" in str(error)
    ):
        return FatalError(f"{where}: the server's certificate is not trusted ({error})")
    passing = (
        exceptions.ConnectionError,
        exceptions.CredentialRetrievalError,  # a slow metadata service
        exceptions.HTTPClientError,
        exceptions.IncompleteReadError,
    )
    if isinstance(error, exceptions.BotoCoreError) and not isinstance(error, passing):
        return FatalError(f"{where}: {error}")
    return TransientError(f"{where}: {type(error).__name__}: {error}")


def _reasons(error: BaseException, kind: type[BaseException]) -> list[BaseException]:
    """Yield the error and its causes of the given type."""
    wrapped = getattr(error, "kwargs", {}).get("error")
    seen = [error, error.__context__, error.__cause__, wrapped]
    reasons = [getattr(one, "os_error", one) for one in seen if one is not None]
    return [one for one in reasons if isinstance(one, kind)]


def _unknown_host(error: BaseException) -> bool:
    """Return whether a name is invalid, or does not exist according to the name server."""
    if _reasons(error, UnicodeError):  # a label that is empty or has more than 63 letters
        return True
    lookups = _reasons(error, socket.gaierror)
    return any(isinstance(one, OSError) and one.errno == socket.EAI_NONAME for one in lookups)
