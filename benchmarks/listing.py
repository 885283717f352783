"""A bucket of any size that costs nothing to list, to measure what follows a listing.

    python -m benchmarks.listing 1000000 DIRECTORY     # list so many objects into a state store there

The source is `s3` itself with a stub server: patterns, pages, manifests and splits are real. Its objects are
not fetched: each becomes a record with a number.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio.lowlevel
from pydantic import Field
from temporalio.testing import ActivityEnvironment

from connectors.s3.reader import S3FileReader
from connectors.s3.resolver import S3WildcardResolver
from connectors.s3.source import S3Bucket, S3Connector, S3Params
from connectors.s3.streams import S3ObjectStreams
from engine.contract.batch import Batch
from engine.contract.component import Context, Kind, Locality, component
from engine.contract.keys import KeyRange
from engine.contract.split import Split
from engine.contract.types import JsonValue
from engine.execution.engine import Engine
from engine.plan.model import Plan
from engine.temporal.activities import Activities
from engine.temporal.messages import CompileRequest, Listed, ListRequest
from engine.testing import MemorySink, linear_plan

PATTERN = "s3://lake/memos/**/*.txt"
NODE = "n0"
_PAGE = 1000  # objects per answer, as in S3
_WRITTEN = datetime(2026, 1, 1, tzinfo=UTC)


class Bucket:
    """Answers like S3; only one page exists at a time."""

    def __init__(self, objects: int) -> None:
        self._objects = objects

    async def list_objects_v2(self, **arguments: object) -> Mapping[str, Any]:
        """A page; the token is the number of its first object."""
        await anyio.lowlevel.checkpoint()
        first = int(str(arguments.get("ContinuationToken", "0")))
        end = min(first + _PAGE, self._objects)
        found = [
            {
                "Key": f"memos/{number // 10_000:05d}/memo-{number:010d}.txt",
                "ETag": f'"{number:032x}"',
                "Size": 2048,
                "LastModified": _WRITTEN,
            }
            for number in range(first, end)
        ]
        return {"Contents": found, "IsTruncated": end < self._objects, "NextContinuationToken": str(end)}

    async def head_object(self, **arguments: object) -> Mapping[str, Any]:
        raise NotImplementedError

    async def get_object(self, **arguments: object) -> Mapping[str, Any]:
        raise NotImplementedError


class ListingParams(S3Params):
    """Parameters of `s3`, and the number of objects."""

    pattern: str = PATTERN
    objects: int = Field(default=1000, ge=0)


@component(Kind.SOURCE, "listing", params=ListingParams, locality=Locality.ANYWHERE)
class Listing(S3Connector):
    """The source `s3` over such a bucket."""

    params: ListingParams

    async def open_store(self, stack: AsyncExitStack) -> S3Bucket:
        """Open a bucket that is listed but never read."""
        client = Bucket(self.params.objects)
        pattern = self.params.parsed()
        resolver = S3WildcardResolver(client)  # type: ignore[arg-type]
        streams = S3ObjectStreams(client, pattern.bucket)  # type: ignore[arg-type]
        return S3Bucket(pattern, "memory", resolver, S3FileReader(client), streams)  # type: ignore[arg-type]

    async def read(self, split: Split, position: JsonValue, ctx: Context) -> AsyncGenerator[Batch, None]:
        """Yield a record per object, all at once."""
        start, stop = split.first_ordinal, split.first_ordinal + len(split.manifest["objects"])
        if position is None:
            records = [{"n": number} for number in range(start, stop)]
            yield Batch(records, KeyRange("object/", start, stop), position=stop - start)


def plan_of(objects: int, split_objects: int = 1000) -> Plan:
    """Return a pipeline that lists this many objects and drops them."""
    return linear_plan(Listing(ListingParams(objects=objects, split_objects=split_objects)), MemorySink())


async def list_once(engine: Engine, plan: Plan, run_id: str = "listed") -> Listed:
    """Do what the activity `list_chunks` does on a worker, with the engine's state store."""
    activities = Activities(engine, lambda pipeline, params: plan)
    environment = ActivityEnvironment()
    await environment.run(
        activities.compile_plan, CompileRequest(run_id, f"etl/listing/{run_id}", plan.pipeline)
    )
    return await environment.run(
        activities.list_chunks, ListRequest(run_id, plan.pipeline, plan.identity, NODE)
    )


async def _list(objects: int, directory: Path) -> Listed:
    async with Engine(state_dir=directory) as engine:
        return await list_once(engine, plan_of(objects))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.listing", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("objects", type=int)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    print(asyncio.run(_list(options.objects, options.directory)).splits)
