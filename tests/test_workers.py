"""The tasks and threads of one run's branches."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from langgraph_speculative import _compat, _scheduler
from langgraph_speculative._scheduler import NoRoom
from langgraph_speculative._workers import Workers

VAR: ContextVar[str] = ContextVar("VAR", default="unset")


class Made:
    def __init__(self) -> None:
        self.failed: list[BaseException] = []
        context = copy_context()
        context.run(VAR.set, "of the workers")
        self.owner = object()
        self.workers = Workers(asyncio.get_running_loop(), context, self.owner, self.failed.append)


@pytest.fixture
async def made() -> Made:
    return Made()


async def test_a_task_runs_in_a_copy_of_the_workers_context(made: Made) -> None:
    seen: list[Any] = []

    async def work() -> None:
        seen.append((VAR.get(), _compat.var_child_runnable_config.get()))
        VAR.set("own")

    config: Any = {"tags": ["own"]}
    first = made.workers.spawn(work(), config)
    assert made.workers
    await first
    await made.workers.spawn(work())
    assert seen == [("of the workers", config), ("of the workers", None)]
    assert first.get_name() == "langgraph-speculative"
    await asyncio.sleep(0)
    assert not made.workers
    assert made.failed == []


async def test_what_a_task_lets_through_is_told(made: Made) -> None:
    error = KeyError("own")

    async def work() -> None:
        raise error

    await asyncio.wait([made.workers.spawn(work())])
    await asyncio.sleep(0)
    assert made.failed == [error]
    assert not made.workers


async def test_every_task_is_cancelled(made: Made) -> None:
    tasks = [made.workers.spawn(asyncio.sleep(3600)) for _ in range(2)]
    left = made.workers.cancel_all()
    assert set(left) == set(tasks)
    await asyncio.wait(left)
    assert all(t.cancelled() for t in tasks)
    await asyncio.sleep(0)
    assert made.failed == []
    assert made.workers.cancel_all() == []


async def test_blocking_code_runs_in_a_thread_with_the_callers_context(made: Made) -> None:
    VAR.set("of the caller")
    done: list[bool] = []

    def work(*args: Any) -> Any:
        here = VAR.get()
        VAR.set("own")
        return args, here, threading.current_thread() is threading.main_thread()

    here = threading.current_thread
    result = await made.workers.in_pool(work, 1, "x", done=lambda: done.append(here() is threading.main_thread()))
    assert result == ((1, "x"), "of the caller", False)
    assert VAR.get() == "of the caller"
    assert done == [True]
    assert _scheduler.POOL.drain(made.owner, 10) == 0


@pytest.mark.parametrize("error", [KeyError("own"), SystemExit(3)])
async def test_what_it_raises_is_raised(made: Made, error: BaseException) -> None:
    def work() -> None:
        raise error

    done: list[int] = []
    with pytest.raises(type(error)) as caught:
        await made.workers.in_pool(work, done=lambda: done.append(1))
    assert caught.value is error
    assert done == [1]


async def test_the_end_of_an_iteration_is_no_result(made: Made) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await made.workers.in_pool(next, iter(()))


async def test_a_waiter_that_is_cancelled_leaves_the_thread_to_end(made: Made) -> None:
    go, done = threading.Event(), []
    waiting = asyncio.ensure_future(made.workers.in_pool(go.wait, done=lambda: done.append(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    assert _scheduler.POOL.busy(made.owner) == 1
    assert done == []
    go.set()
    assert _scheduler.POOL.drain(made.owner, 10) == 0
    await asyncio.sleep(0)
    assert done == [1]


async def test_a_thread_that_outlives_the_loop_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    go, owner, caught = threading.Event(), object(), []
    monkeypatch.setattr(threading, "excepthook", caught.append)

    def abandon() -> None:
        async def run() -> None:
            workers = Workers(asyncio.get_running_loop(), copy_context(), owner, caught.append)
            task = workers.spawn(workers.in_pool(go.wait))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

        asyncio.run(run())

    thread = threading.Thread(target=abandon)
    thread.start()
    thread.join()
    go.set()
    assert _scheduler.POOL.drain(owner, 10) == 0
    assert caught == []


async def test_without_a_free_thread_nothing_is_run(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scheduler.POOL, "submit", lambda *_, **__: False)
    ran: list[int] = []
    with pytest.raises(NoRoom, match="all threads of the pool are busy"):
        await made.workers.in_pool(ran.append, 1, done=lambda: ran.append(2))
    assert ran == []
