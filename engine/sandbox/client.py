"""Using the sandbox: start it as a child process, learn its addresses, and end it with the work."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from pydantic import BaseModel, TypeAdapter, ValidationError

from engine.errors import ServiceError
from engine.sandbox.child import ChildProcess
from engine.sandbox.server import Addresses, check_services

START_SECONDS = 60.0
_HEALTH_SECONDS = 2.0


class _ServiceFile(BaseModel):
    """`<state_dir>/warehouse/service.json`, written by a running `serve`."""

    url: str
    pid: int


@asynccontextmanager
async def sandbox(
    services: Collection[str],
    state_dir: Path,
    samples: Path | None = None,
    *,
    deadline: float = START_SECONDS,
) -> AsyncIterator[Addresses]:
    """Run the asked services (`s3`, `llm`, `ingest`) and yield where they are, by service.

    See `engine.sandbox.server.serve_sandbox` for the fields. A `serve` that already runs on the state
    directory is used for `ingest`. The child ends with this context, however it is left, and with this
    process, however it ends. `deadline` is in seconds, for the start.

    Raises:
        ConfigError: An unknown service.
        ServiceError: The child ended or did not get ready in time; the text has the end of its error output.
    """
    check_services(services)
    wanted = list(dict.fromkeys(services))
    found: Addresses = {}
    if "ingest" in wanted and (url := await anyio.to_thread.run_sync(running_serve, state_dir)):
        found["ingest"] = {"url": url}
        wanted.remove("ingest")
    if not wanted:
        yield found
        return
    child = ChildProcess(_command(wanted, state_dir, samples), _environment())
    started = False
    try:
        found |= await _addresses(child, deadline)
        started = True
        yield found
    except BaseException as error:
        if started and child.exit_code() is not None:
            error.add_note(f"the sandbox had ended with exit code {child.exit_code()}: {child.error_tail()}")
        raise
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(child.stop, *(() if started else (0.0,)))


def running_serve(state_dir: Path) -> str | None:
    """The address of a `serve` that runs on this state directory and answers, else None.

    Blocks up to two seconds. A file that was left behind by a killed process counts as none.
    """
    path = state_dir / "warehouse" / "service.json"
    try:
        service = _ServiceFile.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return service.url if _is_alive(service.pid) and _answers(service.url) else None


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _answers(url: str) -> bool:
    import http.client
    from urllib.parse import urlsplit

    try:
        address = urlsplit(url)
        if address.scheme != "http" or not address.hostname:
            return False
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=_HEALTH_SECONDS)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _command(services: list[str], state_dir: Path, samples: Path | None) -> list[str]:
    command = [sys.executable, "-m", "engine", "sandbox", "--services", ",".join(services)]
    command += ["--state-dir", str(state_dir)]
    return command if samples is None else [*command, "--samples", str(samples)]


def _environment() -> dict[str, str]:
    """This process's environment, where a child finds the same `engine` even if it is not installed."""
    root = str(Path(__file__).resolve().parents[2])
    if "site-packages" in root:
        return dict(os.environ)
    paths = [root, os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


async def _addresses(child: ChildProcess, deadline: float) -> Addresses:
    def wait() -> bytes:
        return child.ready.result(deadline)

    try:
        line = await anyio.to_thread.run_sync(wait, abandon_on_cancel=True)
        return TypeAdapter(Addresses).validate_json(line)
    except TimeoutError:
        problem = f"did not get ready within {deadline:g} seconds"
    except EOFError:
        code = await anyio.to_thread.run_sync(child.stop)
        problem = f"ended with exit code {code} before it was ready"
    except ValidationError:
        problem = (
            f"announced itself with something else than its addresses: {json.dumps(line[:200].decode())}"
        )
    tail = child.error_tail()
    raise ServiceError(f"the sandbox {problem}" + (f":\n{tail}" if tail else ""))
