"""Read objects with obstore in a separate process, since some of these abort at exit.

Run as `python -m benchmarks.obstore_reads URL OBJECTS`; prints the bytes and the processor seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from importlib import import_module

from benchmarks.lake import BUCKET, PASSWORD, USER, in_turn, key_of


async def read_all(url: str, objects: int) -> dict[str, float]:
    """Read this many objects, with the same concurrency as the other arms."""
    store = import_module("obstore.store").S3Store(
        BUCKET,
        endpoint=url,
        access_key_id=USER,
        secret_access_key=PASSWORD,
        region="us-east-1",
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    total = 0

    async def one(key: str) -> None:
        nonlocal total
        answer = await store.get_async(key)
        found = len(await answer.bytes_async())
        total += found

    began = time.process_time()
    await in_turn([key_of(number) for number in range(objects)], one)
    return {"bytes": total, "cpu": time.process_time() - began}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(read_all(sys.argv[1], int(sys.argv[2])))), flush=True)
