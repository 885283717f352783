"""The program of a worker process that reads documents; started by `connectors.objects.isolation`.

It sends an answer when it is ready. A request on standard input is eight bytes of length, a JSON header
(`name`, `size`, `seconds`, `memory`) and `size` bytes of content; the answer on standard output is eight
bytes of length and JSON: `parts`, or `kind` and `message` of the error, or `missing`, a library that is not
installed. If the header has `wanted`, pages of `rows` come first, as fast as the parent reads them. No
pickles: an attacker in control of this process must not reach the parent.

Each request has a limit of processor time, at which the kernel kills the process, and one of memory. The
former costs nothing to enforce, cannot be blocked by C code that holds the interpreter, and works even after
the parent has been killed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import IO, Any

LENGTH_BYTES = 8

RECYCLE_BYTES = 256 * 1024 * 1024
"""Resident bytes beyond which the process ends after its answer, so the next document gets a fresh one."""


def pack(message: dict[str, Any]) -> bytes:
    """Return JSON preceded by its length."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(LENGTH_BYTES) + body


def main() -> None:
    """Answer requests until standard input ends."""
    # Ctrl-C and a supervisor's SIGTERM reach the whole group, but the parent decides when this process ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of C libraries must not mix with answers
    requests = sys.stdin.buffer
    _no_core_file()
    from connectors.objects import documents  # noqa: F401 - fails before the first document if it cannot be imported

    answers.write(pack({"ready": True}))
    answers.flush()
    while True:
        length = requests.read(LENGTH_BYTES)
        if len(length) < LENGTH_BYTES:
            return
        header = json.loads(requests.read(int.from_bytes(length)))
        for answer in _answers(requests, header):
            if "rows" not in answer:
                # an unexpected error leaves the process in an unknown state
                answer["last"] = bool(answer.get("spent")) or _resident() > RECYCLE_BYTES
            answers.write(pack(answer))
            answers.flush()
            if answer.get("last"):
                return


def _answers(requests: IO[bytes], header: dict[str, Any]) -> Iterator[dict[str, Any]]:
    from connectors.objects.documents import TextPart, parts
    from engine.errors import RecordError

    name = header["name"]
    try:
        _limit(header["seconds"], header["memory"])
        data = requests.read(header["size"])
        if "wanted" in header:
            from connectors.objects.sheets import sheet_rows

            yield from sheet_rows(data, name, header["wanted"])
            yield {}
            return
        made = parts(data.decode("utf-8", "surrogatepass"), name)
        yield {
            "parts": [["text", one.text] if isinstance(one, TextPart) else ["image", one.url] for one in made]
        }
    except RecordError as error:
        yield {"kind": error.kind, "message": str(error)}
    except ImportError as error:
        yield {"missing": str(error)}
    except MemoryError:
        yield {
            "spent": True,
            "kind": "DocumentTooLarge",
            "message": f"{name}: opening it takes more than {header['memory'] // 2**20:,} MiB of memory",
        }
    # any error of a library concerns this file; its text may quote the document, so only the type is shown
    except Exception as error:  # noqa: BLE001 - a process boundary
        message = f"{name}: cannot be read ({type(error).__name__})"
        yield {"spent": True, "kind": "CorruptDocument", "message": message}


def _limit(seconds: float, memory: int) -> None:
    try:
        import resource
    except ImportError:  # on Windows the parent's clock is the only limit
        return
    spent = time.process_time()
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(spent + seconds), most))
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or memory < most:
        resource.setrlimit(resource.RLIMIT_AS, (memory, most))


def _no_core_file() -> None:
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))


def _resident() -> int:
    """Return the resident bytes, 0 if unknown."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        # not `getrusage`: its maximum starts with the parent's value at the fork
        return 0


if __name__ == "__main__":
    main()
