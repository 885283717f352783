"""Other models to ask: fallbacks for an unavailable one, and the next stages of a cascade."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

__all__ = ["Alternative", "AlternativeModel"]


class Alternative(BaseModel):
    """A model to ask besides the node's own; parameters default to the node's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(min_length=1, description="Name of the model")
    endpoint: str = Field(
        default="", description="One of the connection's `endpoints` (default: the connection itself)"
    )
    reasoning_effort: str | None = Field(default=None, description="As the node's `reasoning_effort`")
    extra_body: dict[str, JsonValue] | None = Field(default=None, description="As the node's `extra_body`")
    usd_per_million_input: float | None = Field(
        default=None, ge=0, description="Price of a million prompt tokens (default: known for most models)"
    )
    usd_per_million_output: float | None = Field(
        default=None, ge=0, description="Price of a million answer tokens (default: known for most models)"
    )

    def misses(self, endpoints: Collection[str]) -> str:
        """Return the message for an endpoint name that the connection does not have."""
        return (
            f"the model {self.model!r} names the endpoint {self.endpoint!r}, which is not one of the "
            f"connection's `endpoints` ({', '.join(endpoints) or 'none'})"
        )

    def changes(self) -> dict[str, object]:
        """Return the node parameters that differ for this model."""
        own = {"reasoning_effort": self.reasoning_effort, "extra_body": self.extra_body}
        return {
            "model": self.model,
            "usd_per_million_input": self.usd_per_million_input,
            "usd_per_million_output": self.usd_per_million_output,
            **{name: value for name, value in own.items() if value is not None},
        }


def _spelled_out(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


AlternativeModel = Annotated[
    Alternative, BeforeValidator(_spelled_out, json_schema_input_type=str | Alternative)
]
"""An alternative, or only the name of its model."""
