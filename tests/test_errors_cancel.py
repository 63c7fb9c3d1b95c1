"""Errors, retries, timeouts and cancellation are the plain graph's, with early work in every state."""

from __future__ import annotations

import asyncio
import inspect
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage
from langchain_core.tools import ToolException, tool
from langgraph import types
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import RetryPolicy

from langgraph_speculative import Policy, speculative
from tests.support import AsyncWorld, Probe, World, call, chain, says, threads
from tests.twins import Stage, compare

WORLDS = ("sync", "async", "mixed")


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]


GUESSES = {"a": lambda s: {"x": 1}}


async def _a(stage: Stage) -> Any:
    await stage.hold()
    return {"x": 1}


def graph_of(stage: Stage, body: Any, **kwargs: Any) -> Any:
    """a -> b -> c, where `a` waits for what is early in `b`."""

    async def a(state: State) -> Any:
        return await _a(stage)

    async def c(state: State) -> Any:
        return {"log": ["c"]}

    builder = StateGraph(State)
    builder.add_node("a", stage.node("a", a))
    builder.add_node("b", stage.node("b", body), **kwargs)
    builder.add_node("c", stage.node("c", c))
    for one, two in (("__start__", "a"), ("a", "b"), ("b", "c")):
        builder.add_edge(one, two)
    return builder


class Oops(Exception):
    pass


@pytest.mark.parametrize("saver", [None, InMemorySaver], ids=["no-saver", "saver"])
@pytest.mark.parametrize("when", ["before the claim", "after the claim"])
def test_the_same_error_from_the_same_node(world: World, when: str, saver: Any) -> None:
    """An error after the claim is the node's own: what it has said is not said again."""

    def build(stage: Stage) -> Any:
        async def b(state: State) -> Any:
            get_stream_writer()("said")
            stage.done("b")
            if when == "after the claim":
                await stage.hear()
            raise Oops("b fails")

        return graph_of(stage, b)

    both = compare(
        world,
        build,
        {"x": 0},
        guesses=GUESSES,
        effects={"b": "pure"},
        until="b" if when == "after the claim" else lambda p: p.watch.saw("stop", "b"),
        listen=lambda chunk: chunk[1] == "custom",
        saver=saver,
    )
    assert "Oops" in repr(both.plain[0].error)
    assert both.claimed == (when == "after the claim")
    assert both.stage.probe.tally["b"] == (1 if when == "after the claim" else 2)


@pytest.mark.parametrize("when", ["before the claim", "after the claim"])
def test_retries_count_as_in_the_plain_graph(world: World, when: str) -> None:
    """An early failure costs the run no attempt; a claimed one is the first attempt."""
    policy = RetryPolicy(max_attempts=3, initial_interval=0.001, jitter=False, retry_on=Oops)

    def build(stage: Stage) -> Any:
        async def b(state: State) -> Any:
            stage.done("b")
            if when == "after the claim" and stage.probe.tally["b"] == 1:
                get_stream_writer()("said")
                await stage.hear()
            raise Oops("b fails")

        return graph_of(stage, b, retry_policy=policy)

    both = compare(
        world,
        build,
        {"x": 0},
        guesses=GUESSES,
        effects={"b": "pure"},
        until="b" if when == "after the claim" else lambda p: p.watch.saw("stop", "b"),
        listen=lambda chunk: chunk[1] == "custom",
    )
    assert "Oops" in repr(both.plain[0].error)
    assert both.stage.probe.tally["b"] == (3 if when == "after the claim" else 4)


def test_a_tools_error_status_after_the_claim_is_its_own(world: World) -> None:
    """The tool's words have been shown; were it called again, they would be shown twice."""

    def build(stage: Stage) -> Any:
        async def _look() -> str:
            get_stream_writer()("looking")
            stage.done("look")
            await stage.hear()
            raise ToolException("no such thing")

        async def a(state: State) -> Any:
            await stage.hold()
            return {"messages": [says("", call("look"))]}

        look = tool("look", description="Look.")(stage.world.node(_look))
        look.handle_tool_error = True
        builder = chain(State, stage.node("a", a))
        builder.add_node("use", ToolNode([look]))
        builder.add_edge("a", "use")
        return builder

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": lambda s: {"messages": [says("", call("look"))]}},
        effects={"a": "pure", "look": "read"},
        until="look",
        modes=["custom", "values"],
        listen=lambda chunk: chunk[1] == "custom",
    )
    assert both.claimed == 1
    assert both.stage.probe.tally["look"] == 1
    assert repr(both.plain[0].chunks).count("no such thing") == 1


@pytest.mark.skipif(
    "error_handler" not in inspect.signature(StateGraph.add_node).parameters,
    reason="LangGraph has error handlers of nodes since 1.2",
)
@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
def test_error_handlers(world: World, guess: int) -> None:
    """A node's error handler sees the run's failure once, and no early one."""

    def build(stage: Stage) -> Any:
        async def b(state: State) -> Any:
            stage.done("b")
            raise Oops(f"b fails on {state['x']}")

        async def handler(state: State) -> Any:
            stage.done("handler")
            return {"log": [f"handled {state['x']}"]}

        return graph_of(stage, b, error_handler=stage.node("handler", handler))

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": lambda s: {"x": guess}},
        effects={"b": "pure", "c": "pure"},
        until=lambda p: p.watch.saw("stop", "b"),
        saver=InMemorySaver,
    )
    assert both.plain[0].error is None
    assert both.stage.probe.tally["handler"] == 1


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_the_recursion_limit(world: World, limit: int) -> None:
    """The same error after the same step, whatever has run ahead."""

    def build(stage: Stage) -> Any:
        async def b(state: State) -> Any:
            stage.done("b")
            return {"log": ["b"]}

        return graph_of(stage, b)

    both = compare(
        world,
        build,
        {"x": 0},
        guesses=GUESSES,
        effects={"b": "pure", "c": "pure"},
        until="b" if limit > 1 else lambda p: p.watch.saw("guess"),
        config={"recursion_limit": limit},
        saver=InMemorySaver,
    )
    assert ("GraphRecursionError" in repr(both.plain[0].error)) == (limit < 4)


@pytest.mark.skipif(not hasattr(types, "TimeoutPolicy"), reason="LangGraph has timeouts of nodes since 1.2")
@pytest.mark.parametrize("late", [False, True])
def test_node_timeouts(late: bool) -> None:
    """A node with a timeout is guessed, and is not run early: its time would begin at the claim."""
    world = AsyncWorld()

    def build(stage: Stage) -> Any:
        async def b(state: State) -> Any:
            stage.done("b")
            if late:
                await asyncio.Event().wait()
            return {"log": ["b"]}

        return graph_of(stage, b, timeout=types.TimeoutPolicy(run_timeout=0.3 if late else 30))

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={**GUESSES, "b": lambda s: {"log": ["b"]}},
        effects={"b": "pure", "c": "pure"},
        until=lambda p: p.watch.saw("launch", "c"),
        compared=("state",) if late else ("error", "chunks", "callbacks"),  # the error's text says how long it took
    )
    for run in (both.plain[0], both.fast[0]):
        assert ("NodeTimeoutError" in repr(run.error)) == late
    assert both.stage.probe.tally["b"] == 1
    assert both.claimed == (0 if late else 1)


@pytest.mark.parametrize("when", ["before the claim", "after the claim"])
@pytest.mark.parametrize("error", [asyncio.CancelledError, KeyboardInterrupt, SystemExit])
def test_a_node_that_raises_what_ends_programs(world: World, error: type[BaseException], when: str) -> None:
    """Early it ends nothing but the branch; in the run it does what it does in the plain graph, and once."""

    def run(stage: Stage, graph: Any) -> tuple[Any, list[Any]]:
        chunks: list[Any] = []

        def keep(chunk: Any) -> Any:
            stage.heard.set()
            chunks.append(chunk)

        try:
            return repr(world.chunks(graph, {"x": 0}, stream_mode="custom", keep=keep)[1]), chunks
        except BaseException as raised:
            return type(raised), chunks

    def build(stage: Stage) -> Any:
        async def b(state: State) -> Any:
            get_stream_writer()("said")
            stage.done("b")
            # What ends the loop may overtake the chunk; so the run's own execution waits until it is out.
            if when == "after the claim" or stage.until is None or stage.probe.tally["b"] > 1:
                await stage.hear()
            raise error

        return graph_of(stage, b).compile()

    plain, fast = Stage(world, fast=True), Stage(world, fast=True)
    expected = run(plain, build(plain))
    watch = fast.probe.watch
    fast.until = fast.probe.tally.reached("b") if when == "after the claim" else watch.saw("stop", "b")
    graph = speculative(build(fast), speculators=GUESSES, effects={"b": "pure"}, policy=Policy(hooks=(watch,)))
    assert run(fast, graph) == expected
    assert fast.probe.tally["b"] == (1 if when == "after the claim" else 2)
    assert graph.drain(10) == 0


def test_a_stream_that_is_closed_early_ends_what_it_has_claimed(world: World, probe: Probe) -> None:
    """The generator is left while the claimed call still runs: nothing of the run goes on."""
    left = Stage(world, fast=True)
    left.until = left.probe.tally.reached("b")

    async def b(state: State) -> Any:
        get_stream_writer()("said")
        left.done("b")
        await left.hear()
        return {"log": ["b"]}

    graph = speculative(graph_of(left, b).compile(), speculators=GUESSES, effects={"b": "pure"})

    async def leave() -> None:
        stream = graph.astream({"x": 0}, stream_mode="custom")
        async for _ in stream:
            break
        await stream.aclose()

    if isinstance(world, AsyncWorld):
        if world.name == "mixed":
            left.heard.set()  # a thread cannot be killed
        world.run(leave)
    else:
        stream = graph.stream({"x": 0}, stream_mode="custom")
        next(stream)
        left.heard.set()  # a thread cannot be killed
        stream.close()
    assert graph.drain(10) == 0
    assert not [t for t in threads() if not t.daemon]
