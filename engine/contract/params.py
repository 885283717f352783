"""Parameters of components, under `with:`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from engine.contract.types import JsonValue

__all__ = ["LocalPath", "NoParams", "Params", "check_file_name", "operational"]


class Params(BaseModel):
    """Base of every component's parameters; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    def notes(self) -> list[str]:
        """Return notes on the node for the user, printed by `validate`."""
        return []

    def contents(self) -> Mapping[str, str]:
        """Return texts outside of the file that affect records, such as a prompt, by parameter.

        A resume with changed ones is allowed, and reports them.
        """
        return {}

    def misfits(self, connection: Mapping[str, JsonValue]) -> list[tuple[str, str]]:
        """Return parameters that do not fit the connection, each with the problem.

        `validate` reports them. `connection` holds the raw fields, which may include secrets.
        """
        return []

    @property
    def leaves_sandbox(self) -> bool:
        """Whether it uses paid services other than its connection, even if that is the sandbox."""
        return False


def check_file_name(path: str) -> str:
    """Return a path of this machine. Raises `ValueError` if no file can have this name in this locale."""
    if "\0" in path:
        raise ValueError("a path cannot contain a NUL character")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        raise ValueError(
            f"the name has characters that file names in this locale ({encoding}) cannot have; "
            "set LC_ALL=C.UTF-8 in the environment, and unset PYTHONUTF8"
        ) from None
    return path


LocalPath = Annotated[str, AfterValidator(check_file_name)]
"""A path or pattern of files of this machine, in characters that its locale can express."""


class NoParams(Params):
    """Parameters of components that take none."""


def operational(default: Any = ..., **options: Any) -> Any:
    """Declare a parameter that may change between attempts of a run, such as a limit or time-out.

    Used like Pydantic's `Field`. Such parameters stay outside the plan's identity.
    """
    return Field(default, json_schema_extra={"operational": True}, **options)
