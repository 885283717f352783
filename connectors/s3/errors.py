"""What the S3 client raises, made the engine's errors. The only place where that is decided."""

from __future__ import annotations

import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from engine.errors import ComponentError, FatalError, FatalKind, RecordError, TransientError

__all__ = ["s3_errors"]

# Codes: S3 API reference, "Error responses". A HEAD answer has no body, so its code is only the status.
_GONE = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound"})
_CHANGED = frozenset({"PreconditionFailed", "412"})
_THROTTLED = frozenset(
    {"RequestLimitExceeded", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"}
)
_TRANSIENT = _THROTTLED | {"InternalError", "OperationAborted", "RequestTimeout", "ServiceUnavailable"}
_CREDENTIALS = frozenset(
    {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
)
_REMEDIES = {
    "AccessDenied": "access denied: grant s3:ListBucket and s3:GetObject",
    "403": "access denied: grant s3:ListBucket and s3:GetObject",
    "AllAccessDisabled": "access to this bucket has been disabled",
    "AuthorizationHeaderMalformed": "the bucket is in another region: set `region` in the connection",
    "ExpiredToken": "the session token has expired: renew the credentials",
    "IllegalLocationConstraintException": "the bucket is in another region: set `region` in the connection",
    "InvalidAccessKeyId": "unknown access key: check `access_key`",
    "InvalidToken": "the session token is wrong: check `session_token`",
    "NoSuchBucket": "no such bucket: check the pattern and the connection's endpoint",
    "PermanentRedirect": "the bucket is in another region: set `region` in the connection",
    "RequestTimeTooSkewed": "this machine's clock is wrong: correct it",
    "SignatureDoesNotMatch": "the secret key does not match the access key: check `secret_key`",
}


@contextmanager
def s3_errors(bucket: str, what: str) -> Generator[None, None, None]:
    """Raises the engine's errors for the client's.

    Args:
        bucket: the bucket that is asked.
        what: what is being done, as in "listing memos/"; with the bucket it begins each message.

    Raises:
        TransientError: throttling, 5xx, time-outs, broken and refused connections, cut-off answers.
        RecordError: of one object; kinds `ObjectVanished`, `ObjectChanged`, `ObjectArchived`.
        FatalError: everything else; the message says what to do about it.
    """
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

    try:
        yield
    except ClientError as error:
        raise _from_answer(error.response, f"bucket {bucket!r}, {what}") from error
    except ResponseParserError as error:
        # the page of a proxy instead of an answer
        raise TransientError(f"bucket {bucket!r}, {what}: the answer is not S3's: {error}") from error
    except (BotoCoreError, aiohttp.ClientError, OSError) as error:
        raise _from_failure(error, f"bucket {bucket!r}, {what}") from error


def _from_answer(answer: Mapping[str, Any], where: str) -> ComponentError:
    stated = answer.get("Error", {})
    code, message = str(stated.get("Code", "")), str(stated.get("Message", ""))
    metadata = answer.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    if code in _TRANSIENT or status >= 500 or status in (408, 429):
        wait = _seconds(metadata.get("HTTPHeaders", {}).get("retry-after"))
        throttled = code in _THROTTLED or status == 429
        return TransientError(f"{where}: {code or status}: {message}", retry_after=wait, throttled=throttled)
    if code in _GONE:
        return RecordError(f"{where}: it was deleted after it was listed", kind="ObjectVanished")
    if code in _CHANGED:
        return RecordError(f"{where}: it changed after it was listed", kind="ObjectChanged")
    if code == "InvalidObjectState":
        return RecordError(f"{where}: it is archived; restore it first", kind="ObjectArchived")
    kind: FatalKind = "auth" if code in _CREDENTIALS or status in (401, 403) else "config"
    return FatalError(f"{where}: {code or status}: {_REMEDIES.get(code, message)}", kind=kind)


def _from_failure(error: Exception, where: str) -> ComponentError:
    from botocore import exceptions  # type: ignore[import-untyped]

    if isinstance(error, exceptions.PartialCredentialsError):
        return FatalError(f"{where}: {error}", kind="auth")
    if isinstance(error, exceptions.NoCredentialsError):
        return FatalError(
            f"{where}: no credentials: set `access_key` and `secret_key` in the connection, or "
            "`anonymous: true`, or sign this machine in to AWS",
            kind="auth",
        )
    if _unknown_host(error):
        return FatalError(f"{where}: unknown host: check the connection's endpoint ({error})")
    if isinstance(error, exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
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


def _unknown_host(error: BaseException) -> bool:
    """True when the name server says that the name does not exist (not when it cannot be asked)."""
    wrapped = getattr(error, "kwargs", {}).get("error")
    seen: list[object] = [error, error.__context__, error.__cause__, wrapped]
    reasons = [getattr(one, "os_error", one) for one in seen if one is not None]
    return any(isinstance(one, socket.gaierror) and one.errno == socket.EAI_NONAME for one in reasons)


def _seconds(header: object) -> float | None:
    """Retry-After in seconds (RFC 9110, section 10.2.3); a date, which S3 servers do not send, is ignored."""
    try:
        seconds = float(str(header))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86_400 else None
