"""The process of `python -m engine sandbox`: services that run until their parent ends."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio

from engine.errors import ConfigError, EngineError
from engine.sandbox.packaged import SAMPLES
from engine.sandbox.sharing import Leases, offer_leases
from engine.service.server import running_service, serving_app, set_at_signals

SHARED = "shared"  # this line means: input has ended, but other runs still use the ingest service
SERVICES = ("s3", "llm", "ingest")
DEFAULT_SAMPLES = SAMPLES

Addresses = dict[str, dict[str, str]]


@asynccontextmanager
async def serve_sandbox(
    services: Collection[str], state_dir: Path, samples: Path
) -> AsyncIterator[Addresses]:
    """Start services, yield their addresses by name, and stop them at exit.

    `s3` has `endpoint`, `access_key`, `secret_key` and `region`; `llm` has `base_url`, `api_key` and `model`;
    `ingest` has `url`. Each imports its dependencies only when requested.

    Raises:
        ConfigError: a service is unknown, or required samples are missing.
    """
    check_services(services)
    async with AsyncExitStack() as stack:
        addresses: Addresses = {}
        if "s3" in services:
            addresses["s3"] = _start_s3(stack, samples)
        if "llm" in services:
            addresses["llm"] = await _start_llm(stack, samples)
        if "ingest" in services:
            addresses["ingest"] = await _start_ingest(stack, state_dir)
        yield addresses


async def run_sandbox(
    services: Collection[str],
    state_dir: Path,
    samples: Path | None = None,
    *,
    ready: Callable[[Addresses], None],
    shared: Callable[[], None] = lambda: None,
    watch_stdin: bool = True,
) -> None:
    """Serve until standard input ends or SIGTERM or SIGINT arrives; call `ready` once with the addresses.

    When standard input has ended but other runs still use the ingest service, call `shared` and keep serving
    until they have ended too.

    Standard input is a pipe from the parent, which the kernel closes however the parent ends, so a killed
    parent leaves nothing behind. With `watch_stdin=False` only a signal ends it.
    """
    check_services(services)
    parent_gone, over = asyncio.Event(), asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.enter_context(set_at_signals(over))
        if watch_stdin:
            _set_at_end_of_stdin(parent_gone)
        # before the service is announced, so that every client that finds it can also take a lease
        leases = await stack.enter_async_context(offer_leases(state_dir)) if "ingest" in services else None
        ready(await stack.enter_async_context(serve_sandbox(services, state_dir, samples or DEFAULT_SAMPLES)))
        async with anyio.create_task_group() as group:
            group.start_soon(_set_when_gone, over, parent_gone, leases, shared)
            await over.wait()
            group.cancel_scope.cancel()


async def _set_when_gone(
    over: asyncio.Event, parent_gone: asyncio.Event, leases: Leases | None, shared: Callable[[], None]
) -> None:
    await parent_gone.wait()
    if leases is not None:
        if leases.are_open:
            shared()
        await leases.ended()
    over.set()


def check_services(services: Collection[str]) -> None:
    """Raise `ConfigError` unless all services are known and there is at least one."""
    unknown = sorted(set(services) - set(SERVICES))
    if unknown or not services:
        wrong = f"unknown sandbox service {unknown[0]!r}" if unknown else "no sandbox service named"
        raise ConfigError(f"{wrong}; choose from {', '.join(SERVICES)}")


def _start_s3(stack: AsyncExitStack, samples: Path) -> dict[str, str]:
    from engine.sandbox.s3 import ACCESS_KEY, REGION, SECRET_KEY, s3_server

    try:
        endpoint = stack.enter_context(s3_server(samples))
    except FileNotFoundError as error:
        raise ConfigError(
            f"the sandbox has no sample documents: {error}; name them with --samples"
        ) from error
    return {"endpoint": endpoint, "access_key": ACCESS_KEY, "secret_key": SECRET_KEY, "region": REGION}


async def _start_llm(stack: AsyncExitStack, samples: Path) -> dict[str, str]:
    from engine.sandbox.llm.app import LlmStandIn
    from engine.sandbox.llm.wire import API_KEY, MODEL

    stand_in = LlmStandIn(read_transcripts(samples))
    url = await stack.enter_async_context(serving_app(stand_in.app))
    return {"base_url": f"{url}/v1", "api_key": API_KEY, "model": MODEL}


async def _start_ingest(stack: AsyncExitStack, state_dir: Path) -> dict[str, str]:
    from engine.service.declared import DECLARED, Declared
    from engine.service.models import load_ingest_models

    text = os.environ.get(DECLARED)
    models = (*load_ingest_models(), *(Declared.from_json(text).models() if text else ()))
    service = await stack.enter_async_context(running_service(state_dir, models=models))
    return {"url": service.url}


def read_transcripts(samples: Path) -> dict[str, str]:
    """Return the texts of sample images by the SHA-256 of their bytes, or an empty mapping.

    Raises:
        ConfigError: the file exists but is not a mapping of texts.
    """
    from pydantic import TypeAdapter, ValidationError

    path = samples / "transcripts.json"
    try:
        return TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        raise ConfigError(f"{path} is not a mapping of SHA-256 sums to texts") from error


def _set_at_end_of_stdin(stop: asyncio.Event) -> None:
    """Watch in a daemon thread, which, unlike a worker thread, cannot delay the end of the process.

    It reads the descriptor, not `sys.stdin`, whose lock must be free when the interpreter ends.
    """
    loop = asyncio.get_running_loop()

    def watch() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass  # a missing standard input counts as ended
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=watch, name="sandbox-stdin", daemon=True).start()


def main(argv: Sequence[str]) -> int:
    """Run the sandbox with the arguments of `python -m engine sandbox`; return the exit code.

    `--services s3,llm,ingest` (default all), `--state-dir DIR` (default `.odw`), `--samples DIR` (default:
    those of the project) and `--no-stdin`. Writes a line of JSON to standard output when all services answer.
    """
    try:
        services, state_dir, samples, watch_stdin = _arguments(argv)
        asyncio.run(
            run_sandbox(
                services,
                state_dir,
                samples,
                ready=lambda addresses: _write_line(json.dumps(addresses)),
                shared=lambda: _write_line(SHARED),
                watch_stdin=watch_stdin,
            )
        )
    except ConfigError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 2
    except (EngineError, OSError) as error:  # e.g. a port or the state directory cannot be used
        sys.stderr.write(f"sandbox: {error}\n")
        return 3
    return 0


def _arguments(argv: Sequence[str]) -> tuple[list[str], Path, Path | None, bool]:
    given = {"--services": ",".join(SERVICES), "--state-dir": ".odw", "--samples": ""}
    watch_stdin = True
    rest = iter(argv)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--no-stdin":
            watch_stdin = False
        elif name in given:
            given[name] = value if equals else next(rest, "")
        else:
            raise ConfigError(f"unknown argument {argument!r}; known: {', '.join(given)} and --no-stdin")
    services = [name.strip() for name in given["--services"].split(",") if name.strip()]
    samples = Path(given["--samples"]) if given["--samples"] else None
    return services, Path(given["--state-dir"]), samples, watch_stdin


def _write_line(text: str) -> None:
    # a killed parent no longer reads, so lost output does not matter
    with suppress(BrokenPipeError):
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
