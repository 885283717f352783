"""Check that tests leave nothing behind, run `anyio` tests on both backends, and start the engine warm."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests import bytecode  # first: it is about what the others import
from tests.environment import forget_environment
from tests.examples import draw_once, register_profiles
from tests.leaks import no_child_process, no_open_generator, no_socket, watch_generators
from tests.servers import read_once, warm_start

if TYPE_CHECKING:
    from tests.servers.clickhouse import ClickHouse
    from tests.servers.kept_warehouse import KeptWarehouses
    from tests.servers.postgres import Postgres

gc.disable()  # until all tests are collected, which leaves little garbage
forget_environment()
register_profiles()
watch_generators()
warm_start.install()

COLLECT_AFTER = 5_000
"""Objects made and not yet freed before the garbage collector looks at them; by default it is 700."""

MOSTLY_WAITING = ("tests/reliability/", "tests/temporal/")
"""Folders of tests that wait for processes, leases and time limits."""

Collected = pytest.Item | pytest.Collector | list[pytest.Item | pytest.Collector] | None

MAX_ID_BYTES = 16


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Leave contents of files out of ids: those with the time in them differ between processes."""
    return argname if isinstance(val, bytes) and len(val) > MAX_ID_BYTES else None


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    read_once.share()
    _be_patient()
    with no_child_process(), no_socket(), no_open_generator():
        yield


def _be_patient() -> None:
    """Let the tests' clients wait for answers: httpx gives up after 5 s, which a busy machine may need."""
    if (config := sys.modules.get("httpx._config")) is not None:
        for phase in ("connect", "read", "write", "pool"):
            setattr(config.DEFAULT_TIMEOUT_CONFIG, phase, 300.0)


@pytest.fixture
def only_own_garbage() -> Iterator[None]:
    """A collection that the test asks for looks only at what was made since; nothing is kept uncollected."""
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a MinIO server, shared by all tests of a process."""
    # boto3 takes long to import, and most processes need none of it
    from tests.servers.minio import running_minio

    with running_minio(tmp_path_factory.mktemp("minio")) as address:
        yield address


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for all tests, which may find in its database what others have left there."""
    from tests.servers.postgres import running

    with running(kept=True) as server:
        yield server


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """A ClickHouse server for all tests."""
    from tests.servers.clickhouse import running

    with running(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture(scope="session")
def kept_warehouses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptWarehouses]:
    """Warehouses that are emptied, and not opened, for each test."""
    from tests.servers.kept_warehouse import KeptWarehouses

    kept = KeptWarehouses(tmp_path_factory.mktemp("warehouses"))
    yield kept
    kept.close()


@pytest.fixture
def kept_warehouse(kept_warehouses: KeptWarehouses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services of the test store in warehouses that are kept, and not in their state directories."""
    monkeypatch.setattr("engine.service.warehouse.Warehouse.open", kept_warehouses.open)


@pytest.fixture(params=["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The backend that a test marked `anyio` runs on."""
    return str(request.param)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Let the workers of pytest-xdist start the engine from one process."""
    node.workerinput["fork_server"] = warm_start.serve()


def pytest_configure(config: pytest.Config) -> None:
    """Share with the other workers what each would do for itself."""
    given = getattr(config, "workerinput", None)
    if given is not None:
        warm_start.use(given["fork_server"])
        bytecode.rewrite_share(config, int(given["workerid"].removeprefix("gw")), given["workercount"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that mostly wait: at the end, they would leave the processors idle."""
    items.sort(key=lambda item: not item.nodeid.startswith(MOSTLY_WAITING))


def pytest_collection_finish() -> None:
    """Collect garbage again, and keep nothing of what tests write.

    All that is there by now stays, and looking through it takes a second each time: the collector never does.
    Tests change a module twice a second, which its date does not tell.
    """
    gc.enable()
    draw_once()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)
    sys.dont_write_bytecode = bytecode.WITHOUT


def pytest_unconfigure() -> None:
    """Let the interpreter collect what stays until then: DuckDB would report it as leaks."""
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Start the engine from cold in a test marked so."""
    if item.get_closest_marker("cold") is None:
        return (yield)
    with warm_start.cold():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pycollect_makeitem() -> Generator[None, Collected, Collected]:
    """Hand tests marked `anyio` to anyio's plugin alone.

    In its auto mode pytest-asyncio takes every coroutine for itself, so that a test named `[trio]` would
    silently run on asyncio. A plain item instead of pytest-asyncio's is left to anyio.
    """
    collected = yield
    if not isinstance(collected, list):
        return collected
    return [
        _plain(item) if isinstance(item, pytest.Function) and item.get_closest_marker("anyio") else item
        for item in collected
    ]


def _plain(item: pytest.Function) -> pytest.Function:
    plain: pytest.Function = pytest.Function.from_parent(
        item.parent,
        name=item.name,
        callspec=getattr(item, "callspec", None),
        callobj=item.obj,
        fixtureinfo=item._fixtureinfo,
        originalname=item.originalname,
    )
    return plain
