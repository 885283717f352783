"""A small registry, and a helper that returns all problems of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from engine.config import Overrides, load_file
from engine.contract.component import Kind, Params, component, operational
from engine.errors import ConfigError
from engine.plan.compile import compile_file
from engine.registry import Registry
from tests.unit.idle import IdleSink, IdleSource, IdleTransform


class Web(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str
    token: SecretStr | None = None
    region: str = "here"


class NumbersParams(Params):
    records: int = Field(default=1, ge=0, description="How many")
    flag: bool = Field(default=False, description="A flag")
    page_size: int = operational(500, description="How many at once")


class PostParams(Params):
    model: str = Field(description="Where to")
    even: int = Field(default=0, description="An even number")
    key: SecretStr | None = Field(default=None, description="A secret")
    concurrency: int = operational(4, description="How many at once")

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError(f"{value} is odd")
        return value


@component(Kind.SOURCE, "numbers", params=NumbersParams)
class Numbers(IdleSource[NumbersParams]):
    """Counts."""


@component(Kind.TRANSFORM, "double")
class Double(IdleTransform[Params]):
    """Doubles."""


@component(Kind.SINK, "post", params=PostParams, connection=Web, sandbox="ingest")
class Post(IdleSink[PostParams]):
    """Posts."""


@component(Kind.SINK, "keep")
class Keep(IdleSink[Params]):
    """Keeps."""


@pytest.fixture(scope="session")
def registry() -> Registry:
    return Registry({}).including(Numbers, Double, Post, Keep)


ProblemsOf = Callable[..., list[str]]


@pytest.fixture
def problems_of(tmp_path: Path, registry: Registry) -> ProblemsOf:
    """Every problem of a file with this text, in file order; the file is called `f.yaml`."""

    def compiled(
        text: str | bytes, environ: Mapping[str, str] | None = None, overrides: Overrides | None = None
    ) -> list[str]:
        path = tmp_path / "f.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            compile_file(load_file(path, environ=environ or {}, overrides=overrides), registry)
        except ConfigError as error:
            return [str(problem).replace(str(tmp_path) + "/", "") for problem in error.problems]
        return []

    return compiled
