"""Validate records by the service's rules before sending them.

A service without per-record results refuses a whole request for one bad record, and may put its good
records into its dead letters. So what can be known here is found here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.errors import RecordError

if TYPE_CHECKING:
    from engine.service.models import IngestModel
    from engine.service.validation import BodyValidator

__all__ = ["LocalValidator", "local_validator", "remark_on_unknown_model"]


class LocalValidator:
    """Validates encoded records of one model [1.4 us a record while all are good]."""

    def __init__(self, validator: BodyValidator) -> None:
        self._validator = validator

    def failures(self, content: bytes, indices: Sequence[int]) -> dict[int, RecordError]:
        """Find the records that the model rejects; `indices` are their positions in the batch."""
        from engine.service.validation import TooManyRecordsError

        try:
            found = self._validator.read(content).failures
        except TooManyRecordsError:
            return {}  # for the service to say
        return {
            indices[place]: RecordError(message, kind="ValidationError", stage="before sending")
            for place, message in found.items()
        }


def local_validator(model: str) -> LocalValidator | None:
    """Return the validator of an installed ingest model, or None if only the service knows the model."""
    # Imported here: it loads every installed model.
    from engine.service.models import load_ingest_models
    from engine.service.validation import BodyValidator

    known = next((item for item in load_ingest_models() if _is_called(item, model)), None)
    return LocalValidator(BodyValidator(known.model)) if known is not None else None


def remark_on_unknown_model(model: str) -> str:
    """Return a hint for an unknown model, or "" if the model is installed here.

    Services cannot be asked which models they have; one of ours has those that are installed.
    """
    from engine.service.models import load_ingest_models

    installed = load_ingest_models()
    if any(_is_called(item, model) for item in installed):
        return ""
    names = ", ".join(item.name for item in installed)
    return f". Installed here, and so served by the sandbox and by `serve`: {names}"


def _is_called(item: IngestModel, model: str) -> bool:
    """`model` as in a path: in any case, a version after a slash."""
    return item.name.lower() == model.partition("/")[0].lower()
