"""Parameters of the sources of whole objects: which objects to read, and how."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Literal, Self

from pydantic import ByteSize, Field, field_validator, model_validator

from connectors.objects.charsets import known_charset
from connectors.objects.csv_types import ColumnType
from connectors.objects.listed import Selection, in_utc
from engine.contract.component import Params, operational

DEFAULT_MAX_OBJECT_BYTES = 64 * 1024 * 1024

Format = Literal["document", "text", "binary", "lines", "jsonl", "json", "csv", "xlsx", "parquet"]

WHOLE: frozenset[Format] = frozenset({"document", "text", "binary"})
"""Formats with one record per object."""

_OF_TABLES = {
    **dict.fromkeys(("delimiter", "quote", "escape"), ("csv",)),
    **dict.fromkeys(("header", "skip_lines", "null_values", "columns", "types"), ("csv", "xlsx")),
    "sheet": ("xlsx",),
}
"""Options and the formats that have them."""


class ObjectParams(Params):
    """Which objects to read, and how."""

    exclude: str | list[str] = Field(
        default=[],
        description="Patterns to exclude, as in `pattern`; without a bucket: patterns of keys",
    )
    modified_after: datetime | None = Field(
        default=None, description="Only objects last modified at or after this time (UTC without a time zone)"
    )
    modified_before: datetime | None = Field(
        default=None, description="Only objects last modified before this time"
    )
    min_bytes: ByteSize | None = Field(default=None, ge=0, description="Minimum size of objects, in bytes")
    max_bytes: ByteSize | None = Field(
        default=None, ge=0, description="Maximum size of objects, in bytes; larger ones are skipped"
    )
    limit: int | None = Field(
        default=None, ge=1, description="Maximum number of objects, the first in the listing"
    )
    require_match: bool = Field(default=False, description="Stop the run if the pattern matches nothing")
    mode: Literal["all", "changed"] = Field(
        default="all",
        description="`changed`: skip objects whose content an earlier run of the pipeline has delivered",
    )
    format: Format = Field(
        default="document",
        description="What a record is: a whole object (`document`, `text`, `binary`), a line (`lines`, "
        "`jsonl`), an object of a JSON file (`json`), or a row (`csv`, `xlsx`, `parquet`)",
    )
    delimiter: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="CSV: delimiter (default: `,`, `;`, tab or `|`, detected from the first rows)",
    )
    sheet: str | int | None = Field(
        default=None, description="Workbooks: name or number of the sheet (default: the first visible one)"
    )
    header: bool = Field(
        default=True, description="CSV and workbooks: the first row that is not empty names the columns"
    )
    skip_lines: int = Field(
        default=0,
        ge=0,
        le=1000,
        description="CSV and workbooks: lines at the beginning that are not part of the table",
    )
    quote: str | None = Field(
        default='"',
        min_length=1,
        max_length=1,
        description="CSV: quote character; null for none",
    )
    escape: str | None = Field(
        default=None,
        min_length=1,
        max_length=1,
        description="CSV: character before quotes, delimiters and itself inside fields, often a backslash",
    )
    null_values: list[str] = Field(default=[""], description="CSV and workbooks: texts that mean null")
    columns: list[str] = Field(
        default=[], description="CSV and workbooks: names of the columns, instead of the header's"
    )
    types: Literal["infer", "text"] | dict[str, ColumnType] = Field(
        default="infer",
        description="CSV and workbooks: types of columns by name (`{age: integer}`); others are inferred "
        "from the first rows, or are those of the cells. `text`: everything is text",
    )
    hive_partitioning: bool = Field(
        default=False,
        description="Lines and rows: add the columns that folders express (`country=DE/day=2026-01-01/`) to "
        "each record",
    )
    hive_types: dict[str, ColumnType] = Field(
        default={}, description="Types of these columns by name (`{day: date}`); others are text"
    )
    max_object_bytes: int = Field(
        default=DEFAULT_MAX_OBJECT_BYTES,
        gt=0,
        description="Larger objects become dead letters; only for workbooks and formats with one record per "
        "object",
    )
    max_record_bytes: ByteSize = Field(
        default=ByteSize(16 * 1024 * 1024), gt=0, description="Longer lines and rows become dead letters"
    )
    max_unpacked_bytes: ByteSize = Field(
        default=ByteSize(1 << 40), gt=0, description="Maximum unpacked bytes of a compressed object"
    )
    max_unpacked_ratio: float = Field(
        default=1000.0,
        gt=1,
        description="Maximum ratio of unpacked to packed bytes, beyond 64 MiB",
    )
    charset: str | None = Field(
        default=None,
        description="Charset of all text (`windows-1252`), overriding declarations (default: detected "
        "from byte order mark, declaration and content)",
    )
    strict_text: bool = Field(
        default=False,
        description="Text with bytes that are invalid in its encoding becomes a dead letter; otherwise "
        "U+FFFD replaces them",
    )
    on_unreadable: Literal["dead_letter", "skip", "stop"] = operational(
        "dead_letter", description="What to do with an object that cannot be read while others can"
    )
    page_records: int = operational(1000, ge=1, le=10_000, description="Maximum lines or rows per batch")
    concurrency: int = operational(32, ge=1, le=256, description="Objects read at once")
    split_objects: int = operational(
        1000, ge=1, le=10_000, description="Objects per split, the unit of resuming and distribution"
    )

    @field_validator("charset")
    @classmethod
    def _charset(cls, value: str | None) -> str | None:
        if value is not None and known_charset(value) is None:
            raise ValueError(f"unknown charset {value!r}")
        return value

    @model_validator(mode="after")
    def _fits_format(self) -> Self:
        for name, formats in _OF_TABLES.items():
            if name in self.model_fields_set and self.format not in formats:
                named = " or ".join(f"`format: {one}`" for one in formats)
                raise ValueError(f"`{name}` is for {named}, and the format is `{self.format}`")
        if not self.header and isinstance(self.types, dict) and not self.columns:
            raise ValueError("`types` without a header needs the names of `columns`")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("`columns` names one twice")
        if self.delimiter in ("\n", "\r") or (
            self.quote in ("\n", "\r", " ", self.delimiter or ",") and self.quote is not None
        ):
            raise ValueError("`delimiter` and `quote` have to be two different characters, and no line ends")
        if self.escape is not None and self.escape in ("\n", "\r", " ", self.delimiter or ",", self.quote):
            raise ValueError("`escape` has to be another character than `delimiter` and `quote`")
        return self

    @model_validator(mode="after")
    def _selects_some(self) -> Self:
        after, before = self.modified_after, self.modified_before
        if after is not None and before is not None and in_utc(after) >= in_utc(before):
            raise ValueError("`modified_after` is not before `modified_before`: no object would be read")
        if self.min_bytes is not None and self.max_bytes is not None and self.min_bytes > self.max_bytes:
            raise ValueError("`min_bytes` is more than `max_bytes`: no object would be read")
        return self

    @model_validator(mode="after")
    def _fits_folders(self) -> Self:
        if self.hive_partitioning and not self.streams:
            raise ValueError(
                "`hive_partitioning` is for lines and rows: set `format`, to `parquet`, `csv` or `jsonl`"
            )
        if self.hive_types and not self.hive_partitioning:
            raise ValueError("`hive_types` is for `hive_partitioning: true`")
        return self

    @property
    def known_charset(self) -> str | None:
        """Python's name for `charset`."""
        return known_charset(self.charset)

    @property
    def most_at_once(self) -> int:
        """Maximum concurrent reads, if more than `concurrency` increase throughput."""
        return self.concurrency

    @property
    def declared_types(self) -> dict[str, ColumnType] | None:
        """Return the types of columns by name; None infers all, and an empty mapping makes all text."""
        if self.types == "text":
            return {}
        return self.types if isinstance(self.types, dict) and self.types else None

    @property
    def streams(self) -> bool:
        """Whether an object contains many records."""
        return self.format not in WHOLE

    @property
    def excluded(self) -> Callable[[str], bool] | None:
        """Return the test for excluded keys, or None if nothing is excluded."""
        return None

    @property
    def selection(self) -> Selection:
        """Return the selection among matching objects."""
        return Selection(
            self.excluded, self.modified_after, self.modified_before, self.min_bytes, self.max_bytes
        )


def listed(patterns: str | list[str]) -> list[str]:
    """Return one pattern or several as a list."""
    return [patterns] if isinstance(patterns, str) else patterns


def keeps_bookmarks(params: ObjectParams) -> bool:
    """Return whether a run leaves bookmarks for later ones."""
    return params.mode == "changed"
