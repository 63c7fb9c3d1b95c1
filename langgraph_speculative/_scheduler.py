"""Threads: the pool that runs early work which may block, and the loop that drives branches of synchronous runs.

Guarantees:
    * Every thread is a daemon: process exit does not wait for a guess.
    * A job never queues behind another: it gets an idle thread or a new one, or it is refused (`Pool.submit` returns
      False). So a blocked guess delays nobody.
    * A thread blocked in a call cannot be killed. It is counted for its owner until the call returns.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import Any

OWNER: ContextVar[object] = ContextVar("langgraph_speculative_owner")
"""What threads are counted for that code in this context starts in the pool; unset outside of runs."""

MAX_THREADS = 256
IDLE_SECONDS = 5.0


class NoRoom(RuntimeError):
    """All threads of the pool are busy."""


class Pool:
    """Daemon threads, made on demand and ended when idle."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._idle: list[queue.SimpleQueue[Callable[[], None]]] = []
        self._threads = 0
        self._busy: Counter[Any] = Counter()

    def submit(self, owner: object, job: Callable[[], None], *, must: bool = False) -> bool:
        """Run `job`, which must not raise, for `owner`; False when all threads are busy and it is not a `must`."""

        def counted() -> None:
            try:
                job()
            finally:
                with self._lock:
                    self._busy[owner] -= 1
                    if not self._busy[owner]:
                        del self._busy[owner]
                    self._lock.notify_all()

        with self._lock:
            if not self._idle and self._threads >= MAX_THREADS and not must:
                return False
            self._busy[owner] += 1
            if self._idle:
                self._idle.pop().put(counted)
                return True
            self._threads += 1
        inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        inbox.put(counted)
        threading.Thread(target=self._work, args=(inbox,), daemon=True, name="langgraph-speculative").start()
        return True

    async def run(
        self,
        owner: object,
        function: Callable[..., Any],
        *args: Any,
        done: Callable[[], None] | None = None,
        must: bool = False,
    ) -> Any:
        """Run blocking code for a task of an event loop; cancelling the task leaves the thread to end by itself.

        Args:
            done: Called on the loop when the thread is free again.
            must: Whether it may not be refused.

        Raises:
            NoRoom: All threads are busy, and it is not a `must`.
        """
        loop = asyncio.get_running_loop()
        result: asyncio.Future[Any] = loop.create_future()
        context = copy_context()

        def deliver(value: Any, error: BaseException | None) -> None:
            if done is not None:
                done()
            if result.done():
                return
            if error is None:
                result.set_result(value)
            else:
                result.set_exception(error)

        def job() -> None:
            value, error = None, None
            try:
                value = context.run(function, *args)
            except BaseException as raised:
                # A future cannot carry it, and it would look like the end of an iteration.
                error = RuntimeError(repr(raised)) if isinstance(raised, StopIteration) else raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(deliver, value, error)

        if not self.submit(owner, job, must=must):
            raise NoRoom("all threads of the pool are busy")
        return await result

    def _work(self, inbox: queue.SimpleQueue[Callable[[], None]]) -> None:
        while True:
            try:
                job = inbox.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if inbox in self._idle:
                        self._idle.remove(inbox)
                        self._threads -= 1
                        return
                continue  # a job was handed over in the same moment
            job()
            del job
            with self._lock:
                self._idle.append(inbox)

    def busy(self, owner: object) -> int:
        """Threads that still work for `owner`."""
        with self._lock:
            return self._busy[owner]

    def drain(self, owner: object, timeout: float) -> int:
        """Wait up to `timeout` seconds for the threads of `owner`; how many are still busy."""
        end = time.monotonic() + timeout
        with self._lock:
            self._lock.wait_for(lambda: not self._busy[owner], max(0.0, end - time.monotonic()))
            return self._busy[owner]


class _PoolExecutor(ThreadPoolExecutor):
    """Lets an event loop's ``run_in_executor`` use the pool: its own threads would block process exit."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        if not POOL.submit("control", job):
            future.set_exception(RuntimeError("no thread is free for speculation"))
        return future


class _Control:
    """One daemon thread with an event loop, for the branches of all synchronous runs of the process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                loop.set_default_executor(_PoolExecutor(1))
                self._thread = threading.Thread(
                    target=loop.run_forever, daemon=True, name="langgraph-speculative-control"
                )
                self._thread.start()
                self._loop = loop
            return self._loop

    def is_current_thread(self) -> bool:
        return threading.current_thread() is self._thread


POOL = Pool()
CONTROL = _Control()


def _after_fork() -> None:
    # The child has none of the threads.
    global POOL, CONTROL
    POOL, CONTROL = Pool(), _Control()


os.register_at_fork(after_in_child=_after_fork)
