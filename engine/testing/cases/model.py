"""The keys of a file of cases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRef(_Section):
    """Records in a file of JSON lines."""

    file: str = Field(description="Path of the file, relative to the file of cases")


Records = list[Any] | FileRef


class LetterSection(_Section):
    """A dead letter; omitted keys are not compared."""

    node: str | None = Field(default=None, description="Node at which the record died")
    error: str | None = Field(default=None, description="Type of the error")
    message: str | None = Field(default=None, description="Text that the error's message contains")
    record: Any = Field(default=None, description="The record as it reached the node")


class ExpectSection(_Section):
    """The expected output; omitted keys are not compared."""

    output: dict[str, Records] = Field(default={}, description="Records of a sink, by its node")
    dead_letters: list[LetterSection] | None = Field(default=None, description="All of them, in any order")
    counts: dict[Literal["read", "made", "written", "dropped", "dead"], int] = Field(
        default={}, description="Counts of the run"
    )
    error: str = Field(default="", description="Text that the error of a failing run contains")
    match: Literal["exact", "subset"] = Field(
        default="exact", description="`subset`: records may have more fields than expected"
    )
    unordered: bool = Field(default=False, description="The order of the records does not matter")
    ignore: list[str] = Field(default=[], description="Fields of records that are not compared")


class CaseSection(_Section):
    """One case."""

    pipeline: str = Field(default="", description="Its name (default: the only one of the file)")
    params: dict[str, Any] = Field(default={}, description="Run parameters")
    environment: dict[str, str] = Field(default={}, description="Environment variables, for `${NAME}`")
    input: dict[str, Records] = Field(
        default={}, description="Records of a source, by its node; other sources are read as usual"
    )
    mock: dict[str, list[Any]] = Field(
        default={},
        description="Answers of a transform, by its node, one for each record in order: a record, null "
        "(dropped), a list (fan-out), or {raise: {error: …, message: …}}",
    )
    now: datetime = Field(default=datetime(2026, 1, 1, tzinfo=UTC), description="The time of the run")
    expect: ExpectSection | None = Field(default=None, description="The expected output")


class CasesSection(_Section):
    """A file of cases."""

    version: Literal[1] = 1
    file: str = Field(default="", description="The pipeline file (default: NAME.yaml of NAME_test.yaml)")
    tests: dict[str, CaseSection] = Field(description="Cases by name")
