"""Validate records by the service's rules before sending them.

A service without per-record results refuses a whole request because of one bad record, and may move its good
records to its dead letters. So bad records are found here where possible.
"""

from __future__ import annotations

from collections.abc import Sequence

from connectors.ingest.payload import encode
from engine.contract.checking import RecordCheck
from engine.contract.types import Record
from engine.errors import FatalError, RecordError
from engine.service.models import IngestModel, Row


class LocalValidator:
    """Validates encoded records of one model [1.4 us a record while all are good]."""

    def __init__(self, model: IngestModel) -> None:
        from engine.service.validation import BodyValidator

        self._model = model
        self._validator = BodyValidator(model.model)

    def failures(
        self, content: bytes, indices: Sequence[int], *, with_transform: bool = False
    ) -> dict[int, RecordError]:
        """Find the records that the model rejects; `indices` are their positions in the batch.

        Raises FatalError if the model's transform fails.
        """
        from engine.service.validation import TooManyRecordsError

        try:
            read = self._validator.read(content)
        except TooManyRecordsError:
            return {}  # left to the service
        found = {
            indices[place]: RecordError(message, kind="ValidationError", stage="before sending")
            for place, message in read.failures.items()
        }
        if with_transform:
            good = [index for index in indices if index not in found]
            refused = _untransformable(self._model, read.records)
            found |= {good[place]: error for place, error in refused.items()}
        return found


def local_validator(model: str, declared: Sequence[IngestModel] = ()) -> LocalValidator | None:
    """Return the validator of a declared or installed model, or None if only the service knows the model."""
    # Imported here: it loads every installed model.
    from engine.service.models import load_ingest_models

    served = (*declared, *load_ingest_models())
    known = next((item for item in served if _is_called(item, model)), None)
    return LocalValidator(known) if known is not None else None


def record_check(
    model: str, declared: Sequence[IngestModel], *, max_body: int, max_record: int
) -> RecordCheck | None:
    """Return a function that finds the records that a service with the declared or installed model refuses.

    None if only the service knows the model. The function raises FatalError if the model's transform fails.
    """
    validator = local_validator(model, declared)
    if validator is None:
        return None

    def refused(records: Sequence[Record]) -> dict[int, RecordError]:
        payload = encode(records, max_body=max_body, max_record=max_record)
        found = dict(payload.failures)
        for body in payload.bodies:
            found |= validator.failures(body.content, body.indices, with_transform=True)
        return found

    return refused


def _untransformable(model: IngestModel, records: list[Row]) -> dict[int, RecordError]:
    """Return the positions of records that the model's transform refuses, as the service would."""
    if model.transform is None or not records:
        return {}
    try:
        results = model.transform(records)
    except Exception as error:  # as in the service: third-party code, whose message may quote a record
        raise FatalError(f"the transform of {model.name} failed: {type(error).__name__}") from error
    return {
        place: RecordError(str(result), kind=str(getattr(result, "kind", type(result).__name__)))
        for place, result in enumerate(results)
        if isinstance(result, Exception)
    }


def remark_on_unknown_model(model: str) -> str:
    """Return a hint for an unknown model, or "" if the model is installed here.

    Services do not list their models; a service of this engine has the installed ones.
    """
    from engine.service.models import load_ingest_models

    installed = load_ingest_models()
    if any(_is_called(item, model) for item in installed):
        return ""
    names = ", ".join(item.name for item in installed)
    return f". Installed here, and so served by the sandbox and by `serve`: {names}"


def _is_called(item: IngestModel, model: str) -> bool:
    """Return whether a path's model is this one: ignoring case, with a version after a slash."""
    return item.name.lower() == model.partition("/")[0].lower()
