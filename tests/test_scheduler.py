"""The pool of threads and the control loop."""

from __future__ import annotations

import asyncio
import gc
import os
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from langgraph_speculative import _scheduler
from langgraph_speculative._scheduler import Pool, _Control, _PoolExecutor

PATIENCE = 20.0


class Idle(list[Any]):
    """A pool's idle threads, which can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.came = threading.Semaphore(0)

    def append(self, inbox: Any) -> None:
        super().append(inbox)
        self.came.release()


class Held:
    """A job that runs until it is let go."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> None:
        self.thread = threading.current_thread()
        self.started.set()
        assert self.go.wait(PATIENCE)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    made._idle = Idle()
    yield made
    made._idle.clear()


def settled(pool: Pool) -> None:
    """Wait until one more thread is idle."""
    assert pool._idle.came.acquire(timeout=PATIENCE)  # type: ignore[attr-defined]


def ran_in(pool: Pool, owner: object = "owner") -> threading.Thread:
    threads: list[threading.Thread] = []
    assert pool.submit(owner, lambda: threads.append(threading.current_thread())) is True
    settled(pool)
    return threads[0]


def test_an_idle_thread_is_used_again(pool: Pool) -> None:
    first = ran_in(pool)
    assert len(pool._idle) == 1
    assert ran_in(pool) is first
    assert pool._threads == 1
    assert first.daemon
    assert first.name == "langgraph-speculative"
    assert first is not threading.current_thread()


def test_a_job_never_waits_for_another(pool: Pool) -> None:
    a, b = Held(), Held()
    assert pool.submit(1, a)
    assert pool.submit(1, b)
    assert a.started.wait(PATIENCE)
    assert b.started.wait(PATIENCE)
    assert a.thread is not b.thread
    assert pool._threads == 2
    a.go.set()
    b.go.set()
    settled(pool)
    settled(pool)
    assert len(pool._idle) == 2


def test_a_thread_ends_when_idle(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scheduler, "IDLE_SECONDS", 0.01)
    first = ran_in(pool)
    first.join(PATIENCE)
    assert not first.is_alive()
    assert pool._threads == 0
    assert pool._idle == []
    second = ran_in(pool)
    assert second is not first
    second.join(PATIENCE)
    assert pool._threads == 0


class Inbox:
    """An inbox that runs the next of its acts whenever its thread asks for a job."""

    def __init__(self, *acts: Callable[[Inbox], Any]) -> None:
        self.acts = list(acts)
        self.jobs: list[Any] = []
        self.timeouts: list[float] = []

    def put(self, job: Any) -> None:
        self.jobs.append(job)

    def get(self, timeout: float) -> Any:
        self.timeouts.append(timeout)
        act = self.acts.pop(0) if self.acts else Inbox.gives_up
        return act(self)

    def hands_over(self) -> Any:
        return self.jobs.pop(0)

    def gives_up(self) -> Any:
        raise queue.Empty


def test_a_job_that_is_handed_over_as_its_thread_gives_up(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scheduler, "IDLE_SECONDS", 1.25)
    done: list[str] = []

    def handed_over_too_late(inbox: Inbox) -> Any:
        assert pool._idle == [inbox]
        assert pool.submit("owner", lambda: done.append("second"))
        assert pool._idle == []
        raise queue.Empty

    inbox = Inbox(Inbox.hands_over, handed_over_too_late, Inbox.hands_over)
    inbox.put(lambda: done.append("first"))
    pool._threads = 2
    pool._work(inbox)  # type: ignore[arg-type]
    assert done == ["first", "second"]
    assert inbox.timeouts == [1.25] * 4
    assert pool._threads == 1, "only the end of the thread is counted"
    assert pool._idle == []
    assert pool.busy("owner") == 0


def test_an_idle_thread_holds_on_to_nothing(pool: Pool) -> None:
    held = Held()
    held.go.set()
    gone: list[bool] = []

    def looks(inbox: Inbox) -> Any:
        gc.collect()
        gone.append(reference() is None)
        raise queue.Empty

    inbox = Inbox(Inbox.hands_over, looks)
    inbox.put(held)
    reference = weakref.ref(held)
    del held
    pool._work(inbox)  # type: ignore[arg-type]
    assert gone == [True]


def test_no_job_is_taken_beyond_the_most_threads(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scheduler, "MAX_THREADS", 2)
    a, b, refused = Held(), Held(), Held()
    assert pool.submit("x", a) is True
    assert pool.submit("y", b) is True
    assert pool.submit("x", refused) is False
    assert pool.busy("x") == 1
    assert pool._threads == 2
    a.go.set()
    settled(pool)
    ran_in(pool)  # an idle thread may be used at the limit, too
    b.go.set()
    settled(pool)
    assert not refused.started.is_set()


def test_the_limits() -> None:
    assert _scheduler.MAX_THREADS == 256
    assert _scheduler.IDLE_SECONDS == 5.0


def test_threads_are_counted_for_their_owner(pool: Pool) -> None:
    a, b, c = Held(), Held(), Held()
    for owner, job in (("one", a), ("one", b), ("two", c)):
        assert pool.submit(owner, job)
    assert (pool.busy("one"), pool.busy("two"), pool.busy("three")) == (2, 1, 0)
    a.go.set()
    settled(pool)
    assert (pool.busy("one"), pool.busy("two")) == (1, 1)
    assert pool.drain("one", 0) == 1
    b.go.set()
    assert pool.drain("one", PATIENCE) == 0
    assert pool.busy("two") == 1
    assert "one" not in pool._busy
    c.go.set()
    assert pool.drain("two", PATIENCE) == 0
    assert not pool._busy
    settled(pool)
    settled(pool)


def test_an_idle_thread_that_is_used_again_is_counted(pool: Pool) -> None:
    ran_in(pool)
    held = Held()
    assert pool.submit("owner", held)
    assert pool.busy("owner") == 1
    held.go.set()
    settled(pool)
    assert pool.busy("owner") == 0


def test_a_job_is_counted_until_it_returns_or_raises(pool: Pool) -> None:
    inbox = Inbox(Inbox.hands_over)
    pool._idle.append(inbox)
    seen: list[int] = []

    def raises() -> None:
        seen.append(pool.busy("owner"))
        raise KeyError("job")

    assert pool.submit("owner", raises)
    with pytest.raises(KeyError, match="job"):
        pool._work(inbox)  # type: ignore[arg-type]
    assert seen == [1]
    assert pool.busy("owner") == 0
    assert "owner" not in pool._busy


def test_draining_waits_for_the_owners_threads_at_most_so_long(pool: Pool) -> None:
    held = Held()
    assert pool.drain("owner", PATIENCE) == 0
    assert pool.submit("owner", held)
    assert pool.drain("owner", -1.0) == 1
    assert pool.drain("owner", 0.01) == 1
    assert pool.drain("another", PATIENCE) == 0
    held.go.set()
    settled(pool)
    assert pool.drain("owner", 0) == 0


def test_draining_is_told_of_each_end(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait ends with the job, not with its timeout."""
    held, waits = Held(), threading.Event()
    assert pool.submit("owner", held)
    wait = pool._lock.wait
    given: list[Any] = []

    def tells(timeout: float | None = None) -> bool:
        given.append(timeout)
        waits.set()
        return wait(timeout)

    monkeypatch.setattr(pool._lock, "wait", tells)
    left: list[int] = []
    waiter = threading.Thread(target=lambda: left.append(pool.drain("owner", 3600.0)), daemon=True)
    waiter.start()
    assert waits.wait(PATIENCE)
    held.go.set()
    waiter.join(PATIENCE)
    assert left == [0]
    assert 3500.0 < given[0] <= 3600.0
    settled(pool)


# --- the executor of the control loop -------------------------------------------------------------------------------


@pytest.fixture
def shared(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Pool:
    monkeypatch.setattr(_scheduler, "POOL", pool)
    return pool


def test_the_executor_gives_results_from_the_pool(shared: Pool) -> None:
    def work(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs, threading.current_thread().name, shared.busy("control")

    future = _PoolExecutor(1).submit(work, 1, 2, key=3)
    assert future.result(PATIENCE) == ((1, 2), {"key": 3}, "langgraph-speculative", 1)
    settled(shared)
    assert shared.busy("control") == 0


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), asyncio.CancelledError()])
def test_the_executor_gives_errors(shared: Pool, error: BaseException) -> None:
    def work() -> None:
        raise error

    future = _PoolExecutor(1).submit(work)
    assert future.exception(PATIENCE) is error
    settled(shared)
    assert shared._threads == 1


def test_the_executor_refuses_what_the_pool_does(shared: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_scheduler, "MAX_THREADS", 0)
    ran: list[int] = []
    future = _PoolExecutor(1).submit(ran.append, 1)
    assert future.done()
    with pytest.raises(RuntimeError, match="no thread is free"):
        future.result(0)
    assert ran == []


def test_the_executor_takes_more_jobs_than_it_was_made_for(shared: Pool) -> None:
    held = Held()
    executor = _PoolExecutor(1)
    first = executor.submit(held)
    assert executor.submit(lambda: "beside it").result(PATIENCE) == "beside it"
    assert not first.done()
    held.go.set()
    assert first.result(PATIENCE) is None
    settled(shared)
    settled(shared)


def test_one_loop_for_all_in_a_daemon_thread(shared: Pool) -> None:
    control = _Control()
    assert not control.is_current_thread()
    loop = control.loop()
    assert control.loop() is loop

    async def look() -> tuple[bool, threading.Thread, str]:
        name = await asyncio.get_running_loop().run_in_executor(None, lambda: threading.current_thread().name)
        return control.is_current_thread(), threading.current_thread(), name

    try:
        inside, thread, name = asyncio.run_coroutine_threadsafe(look(), loop).result(PATIENCE)
        assert inside
        assert thread.daemon
        assert thread.name == "langgraph-speculative-control"
        assert name == "langgraph-speculative"
        assert not control.is_current_thread()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
    settled(shared)


def test_a_forked_process_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Pool(), _Control()
    monkeypatch.setattr(_scheduler, "POOL", before[0])
    monkeypatch.setattr(_scheduler, "CONTROL", before[1])
    _scheduler._after_fork()
    assert type(_scheduler.POOL) is Pool
    assert type(_scheduler.CONTROL) is _Control
    assert _scheduler.POOL is not before[0]
    assert _scheduler.CONTROL is not before[1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_the_reset_is_registered_for_the_child() -> None:
    before = _scheduler.POOL, _scheduler.CONTROL
    child = os.fork()
    if child == 0:
        new = _scheduler.POOL is not before[0] and _scheduler.CONTROL is not before[1]
        os._exit(0 if new else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (_scheduler.POOL, _scheduler.CONTROL) == before


def test_a_job_that_is_cancelled_before_it_starts(shared: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not run, and its thread goes on."""
    jobs: list[Callable[[], None]] = []
    monkeypatch.setattr(shared, "submit", lambda _, job: bool(jobs.append(job)) or True)
    done: list[int] = []
    future = _PoolExecutor(1).submit(done.append, 1)
    assert future.cancel()
    jobs[0]()
    assert not done
    assert future.cancelled()
