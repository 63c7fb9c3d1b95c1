from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from langchain_core.callbacks import manager

from benchmarks import _postgres
from langgraph_speculative import _session
from tests.support import LIMIT, AsyncWorld, MixedWorld, Probe, World

pytest.register_assert_rewrite("tests.twins")


_WORLDS = {"sync": World, "async": AsyncWorld, "mixed": MixedWorld}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "world" in metafunc.fixturenames:
        metafunc.parametrize("world", getattr(metafunc.module, "WORLDS", ("sync", "async")), indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    """Run the test once with plain functions and once with coroutines, or in the `WORLDS` of its module."""
    return _WORLDS[request.param]()


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """A PostgreSQL server; its address."""
    pytest.importorskip("pgserver", reason="pgserver, which brings PostgreSQL, is not installed")
    with _postgres.server() as address:
        yield address


@pytest.fixture(autouse=True)
def _no_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANGGRAPH_SPECULATIVE", raising=False)
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")


@pytest.fixture(autouse=True)
def _counts_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """A synchronous run ends with all that its control thread has to count, however late that comes to it."""
    monkeypatch.setattr(_session, "MARGIN", LIMIT)


@pytest.fixture(autouse=True)
def _only_own_daemons() -> Iterator[None]:
    """No test may leave a thread that would keep the process alive."""
    before = set(threading.enumerate())
    yield
    # LangChain keeps one pool per process for asynchronous handlers that are called from synchronous code.
    allowed = manager._executor()._threads if manager._executor.cache_info().currsize else set()
    left = [t for t in threading.enumerate() if t not in before and t not in allowed and not t.daemon]
    for thread in left:
        thread.join(LIMIT)
    stacks = {
        t.name: "".join(traceback.format_stack(frames[t.ident]))
        for t in left
        if t.is_alive() and t.ident in (frames := sys._current_frames())
    }
    assert not stacks, "\n".join(f"{name}:\n{stack}" for name, stack in stacks.items())


@pytest_asyncio.fixture
async def ends_sessions() -> AsyncIterator[None]:
    """Ends what sessions that a test has made without a run have under way: only a run closes its session."""
    yield
    left = [t for t in asyncio.all_tasks() if t.get_name() == "langgraph-speculative"]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
