"""Parameters of components: what stands under `with:`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from engine.contract.types import JsonValue

__all__ = ["NoParams", "Params", "operational"]


class Params(BaseModel):
    """Base of every component's parameters; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    def notes(self) -> list[str]:
        """What a user should know of the node besides, and `validate` says."""
        return []

    def misfits(self, connection: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """What these parameters ask for and the connection has not: names of parameters, and what is wrong.

        `validate` reports it. `connection` holds the fields as they are given, and may have secrets.
        """
        return []

    @property
    def leaves_sandbox(self) -> bool:
        """Whether it asks others besides its connection, which cost money where that is the sandbox."""
        return False


class NoParams(Params):
    """Parameters of components without any."""


def operational(default: Any = ..., **options: Any) -> Any:
    """Declare a parameter that may change between attempts of a run, such as a limit or time-out.

    Used like Pydantic's `Field`. Such parameters stay outside the plan's identity.
    """
    return Field(default, json_schema_extra={"operational": True}, **options)
