"""Classify exceptions of components."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from engine.contract.batch import Batch
from engine.contract.records import Makers, non_record_error
from engine.contract.unplanned import described, unplanned_error
from engine.errors import (
    AT_RECORD,
    BatchError,
    ComponentError,
    EngineError,
    FatalError,
    NodeFailedError,
    RecordError,
    TransientError,
)
from engine.flow.delivery import Failure


def classify_error(
    node: str, error: Exception, batch: Batch, *, survives: bool = False, makers: Makers = ()
) -> Failure:
    """Return a transient or per-record failure to handle; raise anything else.

    Args:
        survives: treat an unplanned exception as the failure of a single record, too.
        makers: methods of the components that made the batch. If a value is not a record, an unplanned
            exception is its failure: no component has to expect one.

    Raises:
        NodeFailedError: a `FatalError`, or an error that no component should raise.
        EngineError: an error of the engine itself.
    """
    error = unwrap_group(error)
    if isinstance(error, BatchError):
        failed = error.failures
        if not failed or not all(0 <= index < len(batch) for index in failed):
            raise NodeFailedError(node, "its BatchError does not name a record of the batch") from error
        if not all(isinstance(one, RecordError | TransientError) for one in failed.values()):
            what = "its BatchError has other values than RecordError and TransientError"
            raise NodeFailedError(node, what) from error
        return error
    if isinstance(error, TransientError | RecordError):
        return error
    failure = None
    if not isinstance(error, EngineError):
        failure = non_record_error(batch.records, makers) or (unplanned_error(error) if survives else None)
    if failure is not None:
        failure.__cause__ = error
        return failure
    raise as_run_error(node, error) from error


def as_run_error(node: str, error: Exception) -> EngineError:
    """Return the error that stops the run."""
    error = unwrap_group(error)
    if isinstance(error, ComponentError):
        return NodeFailedError(node, str(error))
    if isinstance(error, EngineError):
        return error
    return unexpected_error(node, error)


def unexpected_error(node: str, error: BaseException) -> NodeFailedError:
    """Describe an unexpected error by its type, its line and, if known, the position of the record.

    Only `__cause__` has its message, see `described`.
    """
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(AT_RECORD)]
    place = f", {notes[0]}" if notes else ""
    return NodeFailedError(node, f"{described(error)}{place}")


def unwrap_group(error: Exception) -> Exception:
    """Return the most severe error of several failed tasks inside a component."""
    if not isinstance(error, ExceptionGroup):
        return error
    gravest: Exception = max(_leaves(error), key=_gravity)
    if gravest.__traceback__ is None:  # it was added to the group without being raised
        gravest.__traceback__ = error.__traceback__
    return gravest


def cause_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended several tasks: the first one raised on purpose, else the first one."""
    leaves = list(_leaves(group))
    for kind in (EngineError, Exception):
        for error in leaves:
            if isinstance(error, kind):
                return error
    return leaves[0]


E = TypeVar("E", bound=BaseException)


def _leaves(group: BaseExceptionGroup[E]) -> Iterator[E]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _gravity(error: Exception) -> tuple[int, float]:
    if isinstance(error, TransientError):
        return 0, error.retry_after or 0.0
    if isinstance(error, RecordError | BatchError):
        return 1, 0.0
    return (3 if isinstance(error, FatalError) else 2), 0.0
