"""What the sources of whole objects can be told: which objects, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal

from pydantic import ByteSize, Field, field_validator

from connectors.objects.charsets import known_charset
from connectors.objects.selection import Selection
from engine.contract.component import Params, operational

__all__ = ["DEFAULT_MAX_OBJECT_BYTES", "ObjectParams", "keeps_bookmarks", "listed"]

DEFAULT_MAX_OBJECT_BYTES = 64 * 1024 * 1024


class ObjectParams(Params):
    """Which objects are read, and how."""

    exclude: str | list[str] = Field(
        default=[],
        description="Patterns of what is left out, as for `pattern`; without a bucket: of its keys",
    )
    modified_after: datetime | None = Field(
        default=None, description="Only what was last modified then or later; without a time zone: UTC"
    )
    modified_before: datetime | None = Field(default=None, description="Only what was last modified earlier")
    min_bytes: ByteSize | None = Field(default=None, ge=0, description="Only what has so many bytes, or more")
    max_bytes: ByteSize | None = Field(
        default=None, ge=0, description="Only what has so many bytes, or fewer; the rest is left out"
    )
    limit: int | None = Field(default=None, ge=1, description="Objects at most, the first in the listing")
    require_match: bool = Field(default=False, description="Stop the run if the pattern stands for nothing")
    mode: Literal["all", "changed"] = Field(
        default="all",
        description="`changed`: leave out objects whose content an earlier run of the pipeline has delivered",
    )
    max_object_bytes: int = Field(
        default=DEFAULT_MAX_OBJECT_BYTES, gt=0, description="Larger objects become dead letters, unread"
    )
    charset: str | None = Field(
        default=None,
        description="Charset of all text (`windows-1252`), whatever is declared; default: found out by byte "
        "order mark, declaration and content",
    )
    strict_text: bool = Field(
        default=False,
        description="Text with bytes that are invalid in its encoding becomes a dead letter; otherwise "
        "U+FFFD stands for them",
    )
    on_unreadable: Literal["dead_letter", "skip", "stop"] = operational(
        "dead_letter", description="What becomes of an object that cannot be read while others can"
    )
    concurrency: int = operational(32, ge=1, le=256, description="Objects read at once")
    split_objects: int = operational(
        1000, ge=1, le=10_000, description="Objects in one split, the unit that is resumed and distributed"
    )

    @field_validator("charset")
    @classmethod
    def _charset(cls, value: str | None) -> str | None:
        if value is not None and known_charset(value) is None:
            raise ValueError(f"unknown charset {value!r}")
        return value

    @property
    def excluded(self) -> Callable[[str], bool] | None:
        """Says of a key whether it is left out; None: nothing is."""
        return None

    @property
    def selection(self) -> Selection:
        """What is read of what the pattern stands for."""
        return Selection(
            self.excluded, self.modified_after, self.modified_before, self.min_bytes, self.max_bytes
        )


def listed(patterns: str | list[str]) -> list[str]:
    """One pattern or several, as a list."""
    return [patterns] if isinstance(patterns, str) else patterns


def keeps_bookmarks(params: ObjectParams) -> bool:
    """True when a run leaves bookmarks for later ones."""
    return params.mode == "changed"
