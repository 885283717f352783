"""Failures of activities: a type and a bounded message, without record data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError, FailureError

from engine.errors import EngineError, LeaseHeldError
from engine.execution.failure_types import FailureType, TypedFailure, typed_failure
from engine.execution.lease import LEASE_TTL
from engine.flow.errors import unexpected_error


@contextmanager
def failing_by_type() -> Iterator[None]:
    """Translate errors in the block to typed failures.

    They are raised without their cause, which would also be written to the history.
    """
    try:
        yield
    except FailureError:
        raise
    except LeaseHeldError as error:
        # a lease that is not renewed expires within `LEASE_TTL`
        raise application_error(typed_failure(error), LEASE_TTL / 3) from None
    except EngineError as error:
        raise application_error(typed_failure(error)) from None
    except Exception as error:  # noqa: BLE001 - the activity ends here, and its text may quote a record
        where = str(unexpected_error(activity.info().activity_type, error))
        raise application_error(TypedFailure(FailureType.INTERNAL, where)) from None


def application_error(
    failure: TypedFailure, wait: float | None = None, *, final: bool = False, waited: float = 0.0
) -> ApplicationError:
    """Return the failure as a Temporal error.

    Args:
        wait: seconds until the next attempt; by default what the service asked for, if anything.
        final: no further attempt, even if a retry might help.
        waited: seconds spent waiting for an outage to end; 0 for other failures.
    """
    final = final or not failure.retryable
    seconds = None if final else wait or failure.retry_after
    return ApplicationError(
        failure.message,
        *([round(waited, 1)] if waited else []),
        type=str(failure.type),
        non_retryable=final,
        next_retry_delay=timedelta(seconds=seconds) if seconds else None,
    )
