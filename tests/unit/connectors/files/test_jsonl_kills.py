"""The content of a file whose writer was killed, or failed, at any of its system calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest

from connectors.files import JsonlSink, JsonlSinkParams
from engine.contract.batch import Batch
from engine.contract.component import Context
from engine.contract.keys import KeyRange
from engine.errors import FatalError


class KilledError(BaseException):
    """The process ends here: nothing after it has an effect."""


class Failure:
    """Fails at a call that changes files, and after a kill at all later ones.

    With `halfway`, it fails in the middle of a call that writes.
    """

    def __init__(self, patched: pytest.MonkeyPatch, at: int, error: BaseException, *, halfway: bool) -> None:
        self.left = at
        self._error = error
        for owner, name in (
            (os, "open"), (os, "write"), (os, "ftruncate"), (os, "replace"),
            (Path, "write_bytes"), (Path, "unlink"),
        ):  # fmt: skip
            half = _HALVES.get(name) if halfway else None
            patched.setattr(owner, name, self._failing(getattr(owner, name), half))

    def _failing(self, call: Callable[..., Any], half: Callable[..., object] | None) -> Callable[..., Any]:
        def failing(*given: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left == 0 and half is not None:
                half(call, *given)
            if self.left == 0 or (self.left < 0 and isinstance(self._error, KilledError)):
                raise self._error
            return call(*given, **named)

        return failing


_HALVES: dict[str, Callable[..., object]] = {
    "write": lambda call, descriptor, data: call(descriptor, data[: len(data) // 2]),
    "write_bytes": lambda call, path, data: call(path, b""),
}


def sink(path: Path, **given: Any) -> JsonlSink:
    made = JsonlSink(JsonlSinkParams(path=str(path), mode=given.pop("mode", "append")))
    made.ctx = Context(run_id="r1", node="out", **given)
    return made


def numbers(first: int, last: int) -> Batch:
    return Batch([{"n": number} for number in range(first, last)], KeyRange("a/", first, last))


async def write(out: JsonlSink, pages: list[int], done: list[int]) -> None:
    async with out:
        for page in pages:
            await out.write(numbers(page, page + 3))
            done.append(page)
        await out.run_completed()


@pytest.mark.parametrize("error", [KilledError(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("halfway", [False, True])
@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("mode", ["append", "replace"])
async def test_a_failure_at_any_call_loses_and_doubles_no_line(
    tmp_path: Path, mode: Literal["append", "replace"], distinct: bool, halfway: bool, error: BaseException
) -> None:
    pages, shared = [0, 3, 6], mode == "append"
    for at in range(1, 100):
        path, done = tmp_path / str(at) / "x.jsonl", list[int]()
        path.parent.mkdir()
        path.write_bytes(b'{"n":-1}\n')
        failed = sink(path, mode=mode, distinct_keys=distinct)
        with pytest.MonkeyPatch.context() as patched:
            failure = Failure(patched, at, error, halfway=halfway)
            with suppress(KilledError, FatalError):
                await write(failed, pages, done)
        if shared:
            await write(sink(path, chunk="other"), [20], [])
        left = [page for page in pages if page not in done]
        if distinct and left:  # deliveries are committed later, but before the run is complete
            left = pages
        await write(sink(path, mode=mode, distinct_keys=distinct, attempt=2), left, [])

        found = sorted(orjson.loads(line)["n"] for line in path.read_bytes().splitlines())
        assert found == ([-1, *range(9), 20, 21, 22] if shared else list(range(9))), at
        if failure.left > 0:
            break
    assert at > 10
