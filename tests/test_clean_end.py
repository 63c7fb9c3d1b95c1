"""When a run ends, however it ends, no task, thread, fork or memory of it is left."""

from __future__ import annotations

import asyncio
import gc
import operator
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.types import interrupt

from langgraph_speculative import Policy, SpeculativeGraph, speculative
from tests.support import LIMIT, AsyncWorld, Probe, Signal, World, are_busy, chain, threads


class State(TypedDict, total=False):
    x: int
    payload: Any
    log: Annotated[list[Any], operator.add]


class Payload:
    """A value whose copies are counted as long as they live."""

    alive: ClassVar[weakref.WeakSet[Payload]] = weakref.WeakSet()

    def __init__(self) -> None:
        Payload.alive.add(self)

    def __deepcopy__(self, memo: Any) -> Payload:
        return Payload()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (Payload, ())


def only_own_task() -> bool:
    return asyncio.all_tasks() == {asyncio.current_task()}


async def settled() -> bool:
    """Whether only our own task is left, now or as soon as the loop has run what is due."""
    for _ in range(20):
        if only_own_task():
            return True
        await asyncio.sleep(0)
    return False


def busy_graph(world: World, probe: Probe, over: Signal, end: Callable[[], Any] | None = None) -> SpeculativeGraph:
    """While a runs: a Speculator that hangs, and a pre-execution of b that hangs; then a ends by `end`, or never."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        await tally.reached("hanging").wait()
        get_stream_writer()("busy")
        tally.add("busy")
        if end is None:
            await over.wait(60)
            return {}
        return end()

    async def b(state: State) -> Any:
        if tally.add("b") == 1:
            await over.wait(60)
        return {"log": [state["x"]]}

    async def guesses(state: State) -> Any:
        yield {"x": 5}
        tally.add("hanging")
        await over.wait(60)

    def sync_guesses(state: State) -> Any:
        yield {"x": 5}
        tally.add("hanging")
        over.block(60)

    graph = chain(State, world.node(a), world.node(b)).compile(checkpointer=InMemorySaver())
    return speculative(
        graph,
        speculators={"a": guesses if world.name == "async" else sync_guesses},
        effects={"a": "pure", "b": "pure"},
        policy=Policy(breadth=2),
    )


def fail() -> Any:
    raise ValueError("the node's own")


def ask() -> Any:
    return {"log": [interrupt("?")]}


CONFIG = {"configurable": {"thread_id": "1"}}


@pytest.mark.parametrize(
    ("end", "error"),
    [(lambda: {"x": 1}, None), (fail, ValueError), (ask, None)],
    ids=["returns", "raises", "interrupts"],
)
def test_however_the_run_ends(world: World, probe: Probe, end: Any, error: Any) -> None:
    """The async world's `chunks` checks that no task is left on the loop."""
    over = Signal("end of the test")
    fast = busy_graph(world, probe, over, end)
    try:
        _, raised = world.chunks(fast, {"x": 0}, CONFIG)
        assert (type(raised) if raised else None) is error
        # A coroutine is cancelled; a thread that is blocked in a call cannot be: it is counted, and ours.
        blocked = 2 if world.name == "sync" else 0
        assert are_busy(fast, blocked)
        assert fast.drain(0) == blocked
        assert all(t.daemon for t in threads())
    finally:
        over.set()
    assert fast.drain(LIMIT) == 0
    assert fast.report().claimed == 0
    assert fast.report().discarded == 1


async def test_cancelling_the_run(probe: Probe) -> None:
    over = Signal("end of the test")

    fast = busy_graph(AsyncWorld(), probe, over)
    run = asyncio.create_task(fast.ainvoke({"x": 0}, CONFIG))
    await probe.tally.reached("busy").wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert only_own_task()
    assert run.cancelled()


async def test_a_timeout_around_the_run(probe: Probe) -> None:
    over = Signal("end of the test")

    async def a(state: State) -> Any:
        # Time is over once there is something to be ended, however long that takes.
        await probe.tally.reached("b").wait()
        timeout.reschedule(asyncio.get_running_loop().time())
        await over.wait(60)
        return {}

    async def b(state: State) -> Any:
        probe.tally.add("b")
        await over.wait(60)
        return {}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    timeout = asyncio.timeout(None)
    with pytest.raises(TimeoutError):
        async with timeout:
            await fast.ainvoke({"x": 0})
    assert timeout.expired()
    assert only_own_task()


def test_a_timeout_of_the_graphs_own(world: World, probe: Probe) -> None:
    """`step_timeout` ends the run as it does in the plain graph."""
    over = Signal("end of the test")

    async def a(state: State) -> Any:
        if world.name == "sync":
            # LangGraph waits for the thread in the end, and that has to be long after it has found the time over.
            threading.Timer(4.0, over.set).start()
        await over.wait(60)
        return {}

    async def b(state: State) -> Any:
        probe.tally.add("b")
        await over.wait(60)
        return {}

    graph = chain(State, world.node(a), world.node(b)).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    fast.step_timeout = 0.3
    try:
        _, error = world.chunks(fast, {"x": 0})
        assert isinstance(error, TimeoutError)
    finally:
        over.set()
    assert fast.drain(LIMIT) == 0


def test_an_abandoned_stream(probe: Probe) -> None:
    over = Signal("end of the test")
    fast = busy_graph(World(), probe, over)
    stream = fast.stream({"x": 0}, CONFIG, stream_mode="custom")
    assert next(stream) == "busy"
    # Closing waits for the Actor's thread, as in LangGraph.
    timer = threading.Timer(0.05, over.set)
    timer.start()
    stream.close()
    timer.join()
    assert fast.drain(LIMIT) == 0
    assert (fast.report().runs, fast.report().discarded) == (1, 1)


async def test_an_abandoned_asynchronous_stream(probe: Probe) -> None:
    over = Signal("end of the test")
    fast = busy_graph(AsyncWorld(), probe, over)
    stream = fast.astream({"x": 0}, CONFIG, stream_mode="custom")
    assert await anext(stream) == "busy"
    await stream.aclose()
    assert only_own_task()
    assert (fast.report().runs, fast.report().discarded) == (1, 1)


async def test_a_stream_that_is_abandoned_without_being_closed(probe: Probe) -> None:
    """The loop's hook for asynchronous generators closes it once it is collected."""
    over = Signal("end of the test")
    fast = busy_graph(AsyncWorld(), probe, over)
    async for chunk in fast.astream({"x": 0}, CONFIG, stream_mode="custom"):
        assert chunk == "busy"
        break
    gc.collect()
    closing = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), LIMIT)
    assert await settled()


async def test_leaving_a_stream_that_has_claimed_cancels_the_claimed(probe: Probe) -> None:
    """Half-way: b is claimed and running when the consumer goes away."""
    cancelled = Signal("cancellation of b")

    async def a(state: State) -> Any:
        await probe.tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        probe.tally.add("b")
        get_stream_writer()("here")
        try:
            await Signal("never").wait(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    stream = fast.astream({"x": 0}, stream_mode="custom")
    assert await anext(stream) == "here"
    await stream.aclose()
    assert cancelled.is_set
    assert only_own_task()


async def test_a_discarded_pre_execution_is_cancelled_while_the_run_goes_on(probe: Probe) -> None:
    """The run has taken another road: what runs on the wrong one is ended then, not at the end of the run."""
    cancelled = Signal("cancellation of b")

    async def a(state: State) -> Any:
        await probe.tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        if probe.tally.add("b") == 1:
            try:
                await Signal("never").wait(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise
        return {}

    async def c(state: State) -> Any:
        await cancelled.wait()
        return {}

    graph = chain(State, a, b, c).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"x": 2}}, effects={"b": "pure"})
    await fast.ainvoke({"x": 0})
    assert cancelled.is_set


def test_the_output_of_a_thread_that_outlives_its_run_is_dropped(probe: Probe) -> None:
    over, landed = Signal("end of the run"), Signal("landing")

    def a(state: State) -> Any:
        probe.tally.reached("b").block()
        return {"x": 1}

    def b(state: State) -> Any:
        if probe.tally.add("b") == 1:
            over.block()
            landed.set()
            return {"log": ["from the past"]}
        return {"log": [state["x"]]}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 2}}, effects={"b": "pure"})
    with fast.track() as report:
        assert fast.invoke({"x": 0}) == {"x": 1, "log": [1]}
    assert are_busy(fast, 1)
    assert fast.drain(0) == 1
    over.set()
    landed.block()
    assert fast.drain(LIMIT) == 0
    assert (report.claimed, report.discarded) == (0, 1)


def test_forks_are_gone_after_the_run(world: World, probe: Probe) -> None:
    """Each fork copies the state; after the run only the run's own output is alive."""

    async def a(state: State) -> Any:
        await probe.tally.reached("c").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {"x": state["x"] + 1}

    async def c(state: State) -> Any:
        probe.tally.add("c")
        return {}

    fast = speculative(
        chain(State, *map(world.node, (a, b, c))).compile(),
        speculators={"a": lambda s: {"x": 7}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(depth=2),
    )
    Payload.alive.clear()
    before = len(Payload.alive)
    out = world.invoke(fast, {"x": 0, "payload": Payload()})
    assert fast.report().forks >= 2
    assert fast.drain(LIMIT) == 0
    assert gone(lambda: len(Payload.alive) <= before + 1), len(Payload.alive)
    assert out["payload"] in Payload.alive


def gone(check: Callable[[], bool], *, collect: bool = True) -> bool:
    """Whether it is so now, or once threads that have just ended have let go of their frames."""
    deadline = time.monotonic() + LIMIT
    while True:
        if collect:
            gc.collect()
        if check():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


def test_nothing_of_the_engine_stays_alive_after_many_runs(world: World, probe: Probe) -> None:
    def ours() -> int:
        return sum(
            type(o).__module__.startswith("langgraph_speculative")
            for o in gc.get_objects()
            if type(o).__name__ in ("Session", "Tree", "Frame", "Execution", "Ledger", "Gate", "Snapshot", "Shadows")
        )

    async def a(state: State) -> Any:
        return {"x": state["x"] + 1}

    async def b(state: State) -> Any:
        return {"x": state["x"] + 1}

    fast = speculative(
        chain(State, world.node(a), world.node(b), world.node(a), names="abc").compile(),
        speculators={n: lambda s: {"x": s["x"] + 5} for n in "ab"},
        effects={"*": "pure"},
        policy=Policy(depth=2),
    )
    gc.collect()
    others = ours()  # what the parameters of other tests hold
    world.invoke(fast, {"x": 0})
    assert gone(lambda: ours() <= others), ours()
    for _ in range(30):
        world.invoke(fast, {"x": 0})
    assert fast.drain(LIMIT) == 0
    assert gone(lambda: ours() <= others), ours()


def test_threads_do_not_pile_up(probe: Probe) -> None:
    def a(state: State) -> Any:
        return {"x": 1}

    def b(state: State) -> Any:
        return {"log": [1]}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    before = threads()
    for _ in range(100):
        fast.invoke({"x": 0})
        assert fast.drain(LIMIT) == 0  # the run itself waits for no thread
    assert len(threads() - before) < 10


async def test_the_loops_default_executor_is_left_alone(probe: Probe) -> None:
    """Blocked guesses there would keep LangGraph's own synchronous nodes waiting."""
    over = Signal("end of the run")

    def hang(state: Any) -> Any:
        probe.tally.add(threading.current_thread().name.rsplit("-", 1)[0])
        probe.tally.add("hanging")
        over.block(60)

    async def a(state: State) -> Any:
        await probe.tally.reached("hanging").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": hang}, effects={"b": "pure"})
    await fast.ainvoke({"x": 0})
    loop: Any = asyncio.get_running_loop()
    assert loop._default_executor is None or not any(
        t.name.startswith("asyncio") for t in threading.enumerate() if t in loop._default_executor._threads
    )
    assert fast.drain(0) == 1
    over.set()
    assert await asyncio.to_thread(fast.drain, LIMIT) == 0


def test_drain_waits_no_longer_than_it_is_told(probe: Probe) -> None:
    over = Signal("end of the test")

    def hang(state: Any) -> Any:
        probe.tally.add("hanging")
        over.block(60)

    def a(state: State) -> Any:
        probe.tally.reached("hanging").block()
        return {"x": 1}

    fast = speculative(
        chain(State, a, lambda s: {}, names="ab").compile(), speculators={"a": hang}, effects={"b": "pure"}
    )
    fast.invoke({"x": 0})
    start = time.monotonic()
    assert fast.drain(0.05) == 1
    assert time.monotonic() - start < LIMIT
    over.set()
    assert fast.drain(LIMIT) == 0


def test_the_process_ends_though_a_speculator_is_blocked() -> None:
    """Our threads are daemons: neither sync nor async runs keep the interpreter from exiting."""
    code = """
        import asyncio, threading
        from typing import TypedDict
        from langgraph.graph import StateGraph
        from langgraph_speculative import speculative

        class State(TypedDict, total=False):
            x: int

        asked = threading.Event()

        def hang(state):
            asked.set()
            threading.Event().wait()

        def a(state):
            assert asked.wait(30)
            return {"x": 1}

        builder = StateGraph(State)
        builder.add_node("a", a)
        builder.add_node("b", lambda s: {})
        builder.add_edge("__start__", "a")
        builder.add_edge("a", "b")
        fast = speculative(builder.compile(), speculators={"a": hang}, effects={"b": "pure"})
        assert fast.invoke({"x": 0}) == {"x": 1}
        asked.clear()
        assert asyncio.run(fast.ainvoke({"x": 0})) == {"x": 1}
        print(fast.drain(0), "blocked")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "2 blocked"), done.stderr


def test_a_run_in_a_loop_that_is_closed_at_once(probe: Probe) -> None:
    """Many short loops, one after another: nothing is kept for a loop that is gone."""

    async def a(state: State) -> Any:
        return {"x": 1}

    async def b(state: State) -> Any:
        return {"log": [1]}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    world = AsyncWorld()
    for _ in range(20):
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert fast.drain(LIMIT) == 0


def test_the_loops_of_a_run_go_with_it(world: World, probe: Probe) -> None:
    """Without the garbage collector: a server may have put it off, and loops hold whole states."""

    async def a(state: State) -> Any:
        await probe.tally.reached("b", state["x"]).wait()
        return {"log": ["a"]}

    async def b(state: State) -> Any:
        probe.tally.add("b")
        return {"log": ["b"]}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"log": ["a"]}},
        effects={"*": "pure"},
    )

    def loops() -> int:
        return sum(type(o).__name__ in ("SyncPregelLoop", "AsyncPregelLoop") for o in gc.get_objects())

    gc.collect()
    before = loops()
    gc.disable()
    try:
        for run in (1, 2, 3):
            world.invoke(fast, {"x": run})
        assert fast.report().claimed == 3
        assert fast.drain(LIMIT) == 0
        # The control thread may still be at its last callback.
        assert gone(lambda: loops() <= before, collect=False), loops() - before
    finally:
        gc.enable()
