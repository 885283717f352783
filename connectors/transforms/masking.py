"""`mask`: hide the values of fields."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, Field, SecretStr

from connectors.expressions import as_mappings
from connectors.expressions.failures import EvaluationError
from connectors.expressions.functions import FUNCTIONS, text_digest
from connectors.transforms.expected import ExpectedFields
from engine.contract.batch import Batch
from engine.contract.component import Kind, Params, Transform, component
from engine.contract.types import JsonValue, Record
from engine.errors import RecordError

Method: TypeAlias = Literal["redact", "hash", "partial"]


def _redacted(value: Any) -> Any:
    """Expand a list of fields to a mapping."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return dict.fromkeys(value)
    return value


class MaskParams(Params):
    """Parameters of `mask`."""

    fields: Annotated[dict[str, Method | None], BeforeValidator(_redacted)] = Field(
        min_length=1,
        json_schema_extra={"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "object"}]},
        description="The fields to mask: a list, or {email: hash, iban: partial, name: redact}; a.b is "
        "a field inside, of every item if it is inside a list",
    )
    method: Method = Field(
        default="redact",
        description="Default method: `redact` inserts the replacement, `hash` a SHA-256, `partial` "
        "keeps the last characters",
    )
    replacement: str = Field(default="***", max_length=100, description="Replacement text of `redact`")
    keep: int = Field(default=4, ge=1, le=100, description="Number of characters that `partial` keeps")
    secret: SecretStr | None = Field(
        default=None,
        description="Key of `hash` (HMAC); without one, anyone who guesses a value can recognise its hash",
    )


@component(Kind.TRANSFORM, "mask", params=MaskParams)
class Mask(Transform[MaskParams]):
    """Hides the values of fields by a replacement or a hash, or except for the last characters.

    A missing or null field stays so. Equal values have equal hashes, so masked records can be joined. A text
    no longer than what `partial` would leave is hidden entirely. Records keep their keys.
    """

    def __init__(self, params: MaskParams, connection: BaseModel | None = None) -> None:
        super().__init__(params, connection)
        methods: dict[Method, Callable[[Any], Any]] = {
            "redact": lambda value: params.replacement,
            "hash": self._hash,
            "partial": self._partial,
        }
        self._masks = [
            (path.split("."), methods[method or params.method]) for path, method in params.fields.items()
        ]
        self._expected = ExpectedFields(path for path, _ in self._masks)

    @property
    def keeps_ids(self) -> bool:
        """Whether ids never change: true if they are not masked."""
        return "id" not in self.params.fields

    def apply(self, batch: Batch) -> Batch:
        """Mask copies of the records."""
        outcomes: list[Record | RecordError] = []
        failed = False
        records = as_mappings(batch.records)
        self._expected.look(records, self.ctx)
        for record in records:
            made: Any = record
            for path, mask in self._masks:
                try:
                    made = _masked(made, path, mask)
                except EvaluationError:
                    name = ".".join(path)
                    message = (
                        f"field `{name}`: this method cannot mask the value: use `redact`, or name `{name}.…`"
                    )
                    made, failed = RecordError(message, kind="MaskError", unplanned=True), True
                    break
            outcomes.append(made)
        return batch.outcomes(outcomes) if failed else batch.replace(outcomes)

    def redact(self, record: JsonValue, *, done: bool) -> JsonValue:
        """Mask the fields of a record before this transform has processed it."""
        made: Any = record
        for path, _ in self._masks if not done else ():
            made = _masked(made, path, lambda value: self.params.replacement)
        return made

    def _hash(self, value: Any) -> str:
        secret = self.params.secret
        if secret is None:
            return text_digest(value)
        return hmac.digest(secret.get_secret_value().encode(), text_digest(value).encode(), "sha256").hex()

    def _partial(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [None if item is None else self._partial(item) for item in value]
        text = value if isinstance(value, str) else str(FUNCTIONS["str"](value))
        keep = self.params.keep
        return "*" * len(text) if len(text) <= keep else "*" * (len(text) - keep) + text[-keep:]


def _masked(value: Any, path: Sequence[str], mask: Callable[[Any], Any]) -> Any:
    """Return a copy of a value with the value at the path masked; the same value if the path is missing."""
    if not path:
        return value if value is None else mask(value)
    if isinstance(value, list | tuple):
        return [_masked(item, path, mask) for item in value]
    if not isinstance(value, Mapping):
        return value
    made = value
    for end in range(1, len(path) + 1):  # a name may itself contain points (`flatten` with that separator)
        name = ".".join(path[:end])
        if name in made:
            made = {**made, name: _masked(made[name], path[end:], mask)}
    return made
