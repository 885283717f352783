"""Start the sandbox as a child process, and stop it after use."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from pydantic import TypeAdapter, ValidationError

from engine.errors import ServiceError
from engine.sandbox.child import GRACE_SECONDS, ChildProcess, environment
from engine.sandbox.server import Addresses, check_services
from engine.sandbox.sharing import LeaseRefusedError, take_lease
from engine.service.declared import DECLARED, Declared
from engine.service.discovery import find_running

START_SECONDS = 60.0
_RETRY_SECONDS = 0.1
_OVERTAKEN_TRIES = 10


@asynccontextmanager
async def sandbox(
    services: Collection[str],
    state_dir: Path,
    samples: Path | None = None,
    *,
    warehouse: Declared | None = None,
    deadline: float = START_SECONDS,
) -> AsyncIterator[Addresses]:
    """Run services (`s3`, `llm`, `ingest`) and yield their addresses by service.

    See `engine.sandbox.server.serve_sandbox` for the fields. An ingest service that already runs on the state
    directory is used instead of a second one; if another run started it, it stays until this context ends,
    too. The child always ends with this context and with this process. `deadline`: seconds for the start.
    `warehouse`: models for a service started here, in addition to the installed ones.

    Raises:
        ConfigError: a service is unknown.
        ServiceError: the child ended or was not ready in time; the message has the end of its error output.
    """
    check_services(services)
    async with AsyncExitStack() as stack:
        found, child = await _start(stack, services, state_dir, samples, deadline, warehouse)
        try:
            yield found
        except BaseException as error:
            if child and child.exit_code() is not None:
                error.add_note(f"the sandbox exited with code {child.exit_code()}: {child.error_tail()}")
            raise


async def _start(
    stack: AsyncExitStack,
    services: Collection[str],
    state_dir: Path,
    samples: Path | None,
    deadline: float,
    warehouse: Declared | None,
) -> tuple[Addresses, ChildProcess | None]:
    while True:
        wanted = list(dict.fromkeys(services))
        found: Addresses = {}
        if "ingest" in wanted and (url := await _running_ingest(stack, state_dir, deadline)):
            found["ingest"] = {"url": url}
            wanted.remove("ingest")
        if not wanted:
            return found, None
        declared = {DECLARED: warehouse.to_json()} if warehouse is not None else {}
        child = ChildProcess(_command(wanted, state_dir, samples), {**environment(), **declared})
        try:
            found |= await _addresses(child, deadline)
        except BaseException as error:
            await _stop(child, 0.0)
            may_be_late = isinstance(error, ServiceError) and "ingest" in wanted
            if may_be_late and await _was_overtaken(state_dir):
                continue
            raise
        stack.push_async_callback(_stop, child)
        return found, child


async def _was_overtaken(state_dir: Path) -> bool:
    """Return whether another run started a service here at the same moment.

    It may already have opened the warehouse but not be announced yet.
    """
    for _ in range(_OVERTAKEN_TRIES):
        if await anyio.to_thread.run_sync(find_running, state_dir):
            return True
        await anyio.sleep(_RETRY_SECONDS)
    return False


async def _running_ingest(stack: AsyncExitStack, state_dir: Path, deadline: float) -> str | None:
    """Return the address of a running service, kept alive until the stack ends; None without one."""
    with anyio.move_on_after(deadline):
        while address := await anyio.to_thread.run_sync(find_running, state_dir):
            try:
                lease = await anyio.to_thread.run_sync(take_lease, state_dir, address.pid)
            except LeaseRefusedError:
                await anyio.sleep(_RETRY_SECONDS)  # it is ending: wait until it is gone
                continue
            if lease is not None:
                stack.callback(lease.close)
            return address.url
    return None


async def _stop(child: ChildProcess, grace: float = GRACE_SECONDS) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(child.stop, grace)


def _command(services: list[str], state_dir: Path, samples: Path | None) -> list[str]:
    command = [sys.executable, "-m", "engine", "sandbox", "--services", ",".join(services)]
    command += ["--state-dir", str(state_dir)]
    return command if samples is None else [*command, "--samples", str(samples)]


async def _addresses(child: ChildProcess, deadline: float) -> Addresses:
    def wait() -> bytes:
        return child.ready.result(deadline)

    try:
        line = await anyio.to_thread.run_sync(wait, abandon_on_cancel=True)
        return TypeAdapter(Addresses).validate_json(line)
    except TimeoutError:
        problem = f"was not ready within {deadline:g} seconds"
    except EOFError:
        code = await anyio.to_thread.run_sync(child.stop)
        problem = f"exited with code {code} before it was ready"
    except ValidationError:
        problem = "printed something other than its addresses at startup"
    tail = child.error_tail()
    raise ServiceError(f"the sandbox {problem}" + (f":\n{tail}" if tail else ""))
