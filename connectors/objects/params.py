"""What the sources of whole objects can be told: which objects, and how they are read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator

from connectors.objects.charsets import known_charset
from connectors.objects.csv_types import ColumnType
from connectors.objects.selection import Selection
from engine.contract.component import Params, operational

__all__ = ["DEFAULT_MAX_OBJECT_BYTES", "WHOLE", "Format", "ObjectParams", "keeps_bookmarks", "listed"]

DEFAULT_MAX_OBJECT_BYTES = 64 * 1024 * 1024

Format = Literal["document", "text", "binary", "lines", "jsonl", "json", "csv", "parquet"]

WHOLE: frozenset[Format] = frozenset({"document", "text", "binary"})
"""Formats of which an object is one record."""

_OF_CSV = ("delimiter", "header", "quote", "null_values", "columns", "types")


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
    require_match: bool = Field(default=False, description="Stop the run if the pattern matches nothing")
    mode: Literal["all", "changed"] = Field(
        default="all",
        description="`changed`: leave out objects whose content an earlier run of the pipeline has delivered",
    )
    format: Format = Field(
        default="document",
        description="What a record is: a whole object (`document`, `text`, `binary`), a line (`lines`, "
        "`jsonl`), an object of a JSON file (`json`), or a row (`csv`, `parquet`)",
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="CSV: what stands between fields (default: `,`, `;`, tab or `|`, as the first rows show)",
    )
    header: bool = Field(default=True, description="CSV: the first row names the columns")
    quote: str | None = Field(
        default='"',
        min_length=1,
        max_length=1,
        description="CSV: what stands around fields; null: nothing does",
    )
    null_values: list[str] = Field(default=[""], description="CSV: texts that stand for no value")
    columns: list[str] = Field(default=[], description="CSV: names of the columns, instead of the header's")
    types: Literal["infer", "text"] | dict[str, ColumnType] = Field(
        default="infer",
        description="CSV: types of columns by name (`{age: integer}`); others are inferred from the first "
        "rows. `text`: everything is text",
    )
    max_object_bytes: int = Field(
        default=DEFAULT_MAX_OBJECT_BYTES,
        gt=0,
        description="Larger objects become dead letters, unread; only where a record is a whole object",
    )
    max_record_bytes: ByteSize = Field(
        default=ByteSize(16 * 1024 * 1024), gt=0, description="Longer lines and rows become dead letters"
    )
    max_unpacked_bytes: ByteSize = Field(
        default=ByteSize(1 << 40), gt=0, description="Bytes that one packed object is unpacked to at most"
    )
    max_unpacked_ratio: float = Field(
        default=1000.0,
        gt=1,
        description="Unpacked bytes for each packed one at most, from 64 MiB on",
    )
    charset: str | None = Field(
        default=None,
        description="Charset of all text (`windows-1252`), whatever is declared; default: found out by byte "
        "order mark, declaration and content",
    )
    strict_text: bool = Field(
        default=False,
        description="Text with bytes that are invalid in its encoding becomes a dead letter; otherwise "
        "U+FFFD replaces them",
    )
    on_unreadable: Literal["dead_letter", "skip", "stop"] = operational(
        "dead_letter", description="What becomes of an object that cannot be read while others can"
    )
    page_records: int = operational(1000, ge=1, le=10_000, description="Lines or rows in one batch at most")
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

    @model_validator(mode="after")
    def _fits_format(self) -> Self:
        if self.format != "csv":
            given = [name for name in _OF_CSV if name in self.model_fields_set]
            if given:
                raise ValueError(f"`{given[0]}` is for `format: csv`, and the format is `{self.format}`")
        elif not self.header and isinstance(self.types, dict) and not self.columns:
            raise ValueError("`types` without a header needs the names of `columns`")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("`columns` names one twice")
        if self.delimiter in ("\n", "\r") or (
            self.quote in ("\n", "\r", " ", self.delimiter or ",") and self.quote is not None
        ):
            raise ValueError("`delimiter` and `quote` have to be two different characters, and no line ends")
        return self

    @property
    def known_charset(self) -> str | None:
        """Python's name of `charset`."""
        return known_charset(self.charset)

    @property
    def most_at_once(self) -> int:
        """Objects read at once, at most, where more get through than with `concurrency`."""
        return self.concurrency

    @property
    def streams(self) -> bool:
        """Whether an object is read as many records."""
        return self.format not in WHOLE

    @property
    def excluded(self) -> Callable[[str], bool] | None:
        """Says of a key whether it is left out; None: nothing is."""
        return None

    @property
    def selection(self) -> Selection:
        """Return which of the matching objects are read."""
        return Selection(
            self.excluded, self.modified_after, self.modified_before, self.min_bytes, self.max_bytes
        )


def listed(patterns: str | list[str]) -> list[str]:
    """Return one pattern or several as a list."""
    return [patterns] if isinstance(patterns, str) else patterns


def keeps_bookmarks(params: ObjectParams) -> bool:
    """True when a run leaves bookmarks for later ones."""
    return params.mode == "changed"
