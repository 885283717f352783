"""A part of a source's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.contract.arguments import expect
from engine.contract.types import JsonValue

__all__ = ["Split"]


@dataclass(frozen=True, slots=True)
class Split:
    """A stable part of a source's input: the unit of parallelism, resume and distribution.

    Args:
        key: names the split within its source; stable across a resume.
        manifest: JSON-safe; everything needed to read the split again (object keys with ETags and sizes, or a
            range). It is stored before the split is read, and a resume uses it instead of listing again.
        first_ordinal: number of records of the source before this split, as far as it is known.
    """

    key: str
    manifest: Mapping[str, JsonValue] = field(default_factory=dict)
    first_ordinal: int = 0

    def __post_init__(self) -> None:
        expect("engine.Split", "key", self.key, str, "a string")
        expect("engine.Split", "manifest", self.manifest, Mapping, "a mapping that JSON can hold")
