"""The tasks and threads of one run's branches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_speculative import _compat, _scheduler


class Workers:
    """Owns every task of one run's branches; its threads belong to the pool, which counts them for `owner`.

    Args:
        loop: Where the tasks run.
        context: A context without the caller's callbacks and tracers; each task gets a copy.
        owner: What pool threads are counted for.
        failed: Called with an exception that a task let through.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        owner: object,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._owner = owner
        self.use(context)
        self._failed = failed
        self._tasks: set[asyncio.Task[Any]] = set()
        self._kept: set[asyncio.Task[Any]] = set()

    def use(self, context: Context) -> None:
        """Run what starts from now on in copies of this context."""
        context.run(_scheduler.OWNER.set, self._owner)
        self._context = context

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def spawn(
        self, coroutine: Coroutine[Any, Any, None], config: RunnableConfig | None = None, *, keep: bool = False
    ) -> asyncio.Task[Any]:
        """Start a task.

        Args:
            config: What LangChain is to take for its current run.
            keep: Whether it comes to its end by itself, whatever becomes of the others.
        """
        context = self._context.copy()
        if config is not None:
            context.run(_compat.var_child_runnable_config.set, config)
        task = self._loop.create_task(coroutine, name="langgraph-speculative", context=context)
        (self._kept if keep else self._tasks).add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._kept.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def in_pool(self, function: Callable[..., Any], *args: Any, done: Callable[[], None] | None = None) -> Any:
        """Run blocking code in a thread; cancelling the waiter leaves the thread to end by itself."""
        return await _scheduler.POOL.run(self._owner, function, *args, done=done)

    def cancel_all(self) -> list[asyncio.Task[Any]]:
        """Cancel every task; those that are still to end."""
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    """Give cancelled tasks a few turns of the loop: the run does not wait for one that does not end."""
    for _ in range(20):
        if all(t.done() for t in tasks):
            break
        await asyncio.sleep(0)
    for _ in range(10 if tasks else 0):
        # LangGraph does not await what it cancels in a graph that it ends: that tells its handlers now.
        await asyncio.sleep(0)
