"""The program of a worker process that reads documents; started by `connectors.objects.isolation`.

When it is ready it says so, with an answer of its own. A request on standard input is eight bytes of
length, a JSON header (`name`, `size`, `seconds`, `memory`) and `size` bytes of content; the answer on
standard output is eight bytes of length and JSON: `parts`, or `kind` and `message` of the error, or
`missing`, a library that is not installed. No pickles: who has taken this process over must not reach the
other one.

Each request has a limit of processor time, at which the kernel kills the process, and one of memory. The
first costs nothing to watch, cannot be blocked by C code that holds the interpreter, and holds even when the
parent has been killed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from typing import IO, Any

__all__ = ["LENGTH_BYTES", "main", "pack"]

LENGTH_BYTES = 8

RECYCLE_BYTES = 256 * 1024 * 1024
"""Resident bytes from which the process ends after its answer: the next document has a fresh one."""


def pack(message: dict[str, Any]) -> bytes:
    """Return JSON after its length."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(LENGTH_BYTES) + body


def main() -> None:
    """Answer requests until standard input ends."""
    # Ctrl-C and a supervisor's SIGTERM go to the whole group; the parent decides when this process ends
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a C library prints is no answer
    requests = sys.stdin.buffer
    _no_core_file()
    from connectors.objects import documents  # noqa: F401 - what cannot be imported shows before a document comes

    answers.write(pack({"ready": True}))
    answers.flush()
    while True:
        length = requests.read(LENGTH_BYTES)
        if len(length) < LENGTH_BYTES:
            return
        header = json.loads(requests.read(int.from_bytes(length)))
        answer = _answer(requests, header)
        # an error that the format's reader did not foresee leaves the process in an unknown state
        answer["last"] = bool(answer.get("spent")) or _resident() > RECYCLE_BYTES
        answers.write(pack(answer))
        answers.flush()
        if answer["last"]:
            return


def _answer(requests: IO[bytes], header: dict[str, Any]) -> dict[str, Any]:
    from connectors.objects.documents import TextPart, parts
    from engine.errors import RecordError

    name = header["name"]
    try:
        _limit(header["seconds"], header["memory"])
        content = requests.read(header["size"]).decode("utf-8", "surrogatepass")
        made = parts(content, name)
        return {
            "parts": [["text", one.text] if isinstance(one, TextPart) else ["image", one.url] for one in made]
        }
    except RecordError as error:
        return {"kind": error.kind, "message": str(error)}
    except ImportError as error:
        return {"missing": str(error)}
    except MemoryError:
        return {
            "spent": True,
            "kind": "DocumentTooLarge",
            "message": f"{name}: opening it takes more than {header['memory'] // 2**20:,} MiB of memory",
        }
    # the border of the process: whatever a file makes a library raise is about that file. Its text may quote
    # the document, so the type has to do
    except Exception as error:  # noqa: BLE001 - a process boundary
        message = f"{name}: cannot be read ({type(error).__name__})"
        return {"spent": True, "kind": "CorruptDocument", "message": message}


def _limit(seconds: float, memory: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the parent's clock is the only limit
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
    """Resident bytes, 0 where that is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        # not `getrusage`: its maximum begins with what the parent had when it started this process
        return 0


if __name__ == "__main__":
    main()
