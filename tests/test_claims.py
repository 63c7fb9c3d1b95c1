"""A pre-execution serves one execution, and a claim binds."""

from __future__ import annotations

import asyncio
import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config, get_store, get_stream_writer
from langgraph.func import task
from langgraph.graph import StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send, interrupt

from langgraph_speculative import Guess, Policy, speculative
from tests.support import AsyncWorld, Probe, Signal, World, call, chain, says


class State(TypedDict, total=False):
    x: int
    noise: int
    log: Annotated[list[Any], operator.add]


class OnlyX(TypedDict):
    x: int


def first_chunk_sets(world: World, graph: Any, signal: Signal, config: Any = None) -> tuple[list[Any], Any]:
    """Stream custom chunks: the first one that comes out of a held pre-execution says that it has been claimed."""

    def keep(chunk: Any) -> Any:
        signal.set()
        return chunk

    return world.chunks(graph, {"x": 0}, config, stream_mode="custom", keep=keep)


def test_the_next_node_runs_while_the_actor_runs(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    graph = chain(State, world.node(a), world.node(b)).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert tally["b"] == 1
    assert (report.launched, report.claimed, report.discarded) == (1, 1, 0)
    assert (report.windows, report.window_hits) == (1, 1)


def test_what_was_launched_on_a_wrong_guess_is_discarded(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    graph = chain(State, world.node(a), world.node(b)).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"x": 2}}, effects={"b": "pure"})
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert tally["b"] == 2
    assert (report.launched, report.claimed, report.discarded) == (1, 0, 1)
    assert (report.windows, report.window_hits) == (1, 0)


def test_the_run_awaits_the_rest_of_what_it_claims(world: World, probe: Probe) -> None:
    """The pre-execution ends only after the run has claimed it."""
    tally, claimed = probe.tally, Signal("claim")

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        get_stream_writer()("here")
        await claimed.wait()
        return {"log": [state["x"]]}

    graph = chain(State, world.node(a), world.node(b)).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    with fast.track() as report:
        assert first_chunk_sets(world, fast, claimed) == (["here"], None)
    assert tally["b"] == 1
    assert report.claimed == 1


def test_identical_tasks_take_one_pre_execution_each(world: World, probe: Probe) -> None:
    """The k-th identical task takes the k-th pre-execution: nothing runs once for all, nothing twice."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("work", 3).wait()
        return {"x": 1}

    async def work(state: State) -> Any:
        return {"log": [tally.add("work")]}

    builder = StateGraph(State)
    builder.add_node("a", world.node(a))
    builder.add_node("work", world.node(work))
    builder.add_edge("__start__", "a")
    builder.add_conditional_edges("a", lambda s: [Send("work", {"x": 7})] * 3, ["work"])
    fast = speculative(builder.compile(), speculators={"a": lambda s: {"x": 1}}, effects={"a": "pure", "work": "pure"})
    with fast.track() as report:
        out = world.invoke(fast, {"x": 0})
    assert sorted(out["log"]) == [1, 2, 3]
    assert tally["work"] == 3
    assert (report.launched, report.claimed, report.discarded) == (3, 3, 0)


def test_fewer_pre_executions_than_identical_tasks(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("work", 2).wait()
        return {"x": 3}

    async def work(state: State) -> Any:
        return {"log": [tally.add("work")]}

    builder = StateGraph(State)
    builder.add_node("a", world.node(a))
    builder.add_node("work", world.node(work))
    builder.add_edge("__start__", "a")
    builder.add_conditional_edges("a", lambda s: [Send("work", {"x": 7})] * s["x"], ["work"])
    fast = speculative(builder.compile(), speculators={"a": lambda s: {"x": 2}}, effects={"a": "pure", "work": "pure"})
    with fast.track() as report:
        out = world.invoke(fast, {"x": 0})
    assert sorted(out["log"]) == [1, 2, 3]
    assert tally["work"] == 3
    assert report.claimed == 2


def test_more_pre_executions_than_identical_tasks(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("work", 3).wait()
        return {"x": 1}

    async def work(state: State) -> Any:
        return {"log": [tally.add("work")]}

    builder = StateGraph(State)
    builder.add_node("a", world.node(a))
    builder.add_node("work", world.node(work))
    builder.add_edge("__start__", "a")
    builder.add_conditional_edges("a", lambda s: [Send("work", {"x": 7})] * s["x"], ["work"])
    fast = speculative(builder.compile(), speculators={"a": lambda s: {"x": 3}}, effects={"a": "pure", "work": "pure"})
    with fast.track() as report:
        out = world.invoke(fast, {"x": 0})
    assert len(out["log"]) == 1
    assert tally["work"] == 3
    assert (report.claimed, report.discarded) == (1, 2)


def test_a_refuted_guess_still_serves_what_does_not_depend_on_it(world: World, probe: Probe) -> None:
    """Claims go by content: node b does not see what the guess got wrong."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1, "noise": 5}

    async def b(state: OnlyX) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    builder = chain(State, world.node(a))
    builder.add_node("b", world.node(b), input_schema=OnlyX)
    builder.add_edge("a", "b")
    fast = speculative(builder.compile(), speculators={"a": lambda s: {"x": 1, "noise": 4}}, effects={"b": "pure"})
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "noise": 5, "log": [1]}
    assert tally["b"] == 1
    assert report.claimed == 1


def test_a_refuted_branch_does_not_take_a_claimed_execution_with_it(world: World, probe: Probe) -> None:
    """Pruning the branch of a wrong guess must not cancel what the run has claimed from it and still waits for."""
    tally, watch, claimed = probe.tally, probe.watch, Signal("claim")

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1, "noise": 5}

    async def b(state: OnlyX) -> Any:
        tally.add("b")
        get_stream_writer()("here")
        await watch.saw("miss").wait()
        await claimed.wait()
        return {"log": [state["x"]]}

    builder = chain(State, world.node(a))
    builder.add_node("b", world.node(b), input_schema=OnlyX)
    builder.add_edge("a", "b")
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: {"x": 1, "noise": 4}},
        effects={"b": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    with fast.track() as report:
        assert first_chunk_sets(world, fast, claimed) == (["here"], None)
    assert tally["b"] == 1
    assert report.claimed == 1


@pytest.mark.parametrize(
    ("guessed", "real"),
    [
        (True, 1),
        (1, 1.0),
        (0.0, -0.0),
        ((1, 2), [1, 2]),
        ({1}, frozenset({1})),
        ("1", 1),
        (b"1", "1"),
        ([1, 2], [2, 1]),
        ({"a": None}, {}),
    ],
    ids=repr,
)
def test_inputs_are_equal_only_with_equal_types(world: World, probe: Probe, guessed: Any, real: Any) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": real}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [repr(state["x"])]}

    graph = chain(State, world.node(a), world.node(b)).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"x": guessed}}, effects={"b": "pure"})
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0})["log"] == [repr(real)]
    assert tally["b"] == 2
    assert report.claimed == 0


def test_an_error_before_the_claim_is_run_again(world: World, probe: Probe) -> None:
    """It may be speculation's own doing, so the run does not take it over."""
    tally, watch = probe.tally, probe.watch

    async def a(state: State) -> Any:
        await watch.saw("stop", "b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        if tally.add("b") == 1:
            raise ConnectionError("too early")
        return {"log": [state["x"]]}

    graph = chain(State, world.node(a), world.node(b)).compile()
    fast = speculative(
        graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"}, policy=Policy(hooks=(watch,))
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert tally["b"] == 2
    assert report.claimed == 0


def test_an_error_after_the_claim_is_the_nodes_own(world: World, probe: Probe) -> None:
    """What it had emitted is out by then, so it cannot be run again."""
    tally, claimed = probe.tally, Signal("claim")

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        get_stream_writer()("here")
        await claimed.wait()
        raise ConnectionError("really")

    graph = chain(State, world.node(a), world.node(b)).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    chunks, error = first_chunk_sets(world, fast, claimed)
    assert chunks == ["here"]
    assert (type(error), str(error)) == (ConnectionError, "really")
    assert tally["b"] == 1


async def _writes_to_the_store(world: World) -> Any:
    world.name == "sync" and get_store().put(("kept",), "key", {"value": 7})
    world.name == "async" and await get_store().aput(("kept",), "key", {"value": 7})
    return "written"


async def _calls_a_task(world: World) -> Any:
    future: Any = double(4) if world.name == "sync" else adouble(4)
    return future.result() if world.name == "sync" else await future


async def _goes_on_from_a_checkpoint(world: World) -> Any:
    async def count(state: State) -> Any:
        return {"log": ["again"]}

    inner = chain(State, world.node(count)).compile(checkpointer=True)
    return (await world.call(inner, {"log": []}))["log"]


@pytest.mark.parametrize("late", [False, True], ids=["before the claim", "after the claim"])
def test_a_node_that_changes_its_input_while_it_runs(world: World, probe: Probe, late: bool) -> None:
    """The plain graph's later nodes see the change. Made after the claim, what the node has emitted is out already."""
    tally = probe.tally

    class Shared(State):
        bag: list[int]

    def build(waits: bool, claimed: Signal) -> Any:
        async def a(state: Shared) -> Any:
            if waits:
                await tally.reached("b").wait()
            return {"x": 1}

        async def b(state: Shared) -> Any:
            if not late:
                state["bag"].append(1)
            get_stream_writer()("here")
            if waits and tally.add("b") == 1 and late:
                await claimed.wait()
            if late:
                state["bag"].append(1)
            return {"log": ["b"]}

        async def c(state: Shared) -> Any:
            get_stream_writer()(list(state["bag"]))
            return {}

        return chain(Shared, world.node(a), world.node(b), world.node(c)).compile()

    def run(graph: Any, claimed: Signal) -> Any:
        def keep(chunk: Any) -> Any:
            claimed.set()
            return chunk

        return world.chunks(graph, {"x": 0, "bag": []}, stream_mode="custom", keep=keep)

    claimed = Signal("claim")
    fast = speculative(build(True, claimed), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    assert run(fast, claimed) == (["here", [1]], None) == run(build(False, claimed), claimed)
    assert tally["b"] == (1 if late else 2)


def test_an_id_in_a_text_of_a_node_that_was_claimed_while_it_ran(world: World, probe: Probe) -> None:
    """A finished one is made again; of this one the user has seen a part, and the id is replaced in the text."""
    tally, claimed = probe.tally, Signal("claim")

    class Talk(State):
        messages: Annotated[list[Any], add_messages]

    async def a(state: Talk) -> Any:
        await tally.reached("b").wait()
        return {"messages": [AIMessage("so", id="the-runs-own")]}

    async def b(state: Talk) -> Any:
        tally.add("b")
        get_stream_writer()(f"here, after {state['messages'][-1].id}")
        await claimed.wait()
        return {"log": [f"after {state['messages'][-1].id}"]}

    fast = speculative(
        chain(Talk, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"messages": [AIMessage("so", id="the-guessed-one")]}},
        effects={"b": "pure"},
    )
    seen: list[Any] = []

    def keep(chunk: Any) -> Any:
        if chunk[0] == "custom":
            claimed.set()
        seen.append(chunk)

    world.chunks(fast, {"x": 0}, stream_mode=["custom", "updates"], keep=keep)
    assert [chunk for mode, chunk in seen if mode == "custom"] == ["here, after the-runs-own"]
    assert seen[-1] == ("updates", {"b": {"log": ["after the-runs-own"]}})
    assert tally["b"] == 1


async def _reads_channels(world: World) -> Any:
    return get_config()["configurable"]["__pregel_read"]("x", False)


@task
def double(n: int) -> int:
    return 2 * n


@task
async def adouble(n: int) -> int:
    return 2 * n


@pytest.mark.parametrize(
    ("act", "gives"),
    [
        (_writes_to_the_store, "written"),
        (_calls_a_task, 8),
        (_goes_on_from_a_checkpoint, ["again"]),
        (_reads_channels, 1),
    ],
)
def test_once_claimed_a_node_may_do_what_only_the_run_may(world: World, probe: Probe, act: Any, gives: Any) -> None:
    """What it had emitted is out by then, so it cannot be run again."""
    tally, claimed = probe.tally, Signal("claim")

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        get_stream_writer()("here")
        await claimed.wait()
        get_stream_writer()(await act(world))
        return {"log": ["b"]}

    store, saver = InMemoryStore(), InMemorySaver()
    graph = chain(State, world.node(a), world.node(b)).compile(checkpointer=saver, store=store)
    fast = speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"*": "read"})
    chunks, error = first_chunk_sets(world, fast, claimed, {"configurable": {"thread_id": "1"}})
    assert (chunks, error) == (["here", gives], None)
    assert tally["b"] == 1
    assert fast.report().claimed == 1
    assert [i.value for i in store.search(("kept",))] == [{"value": 7}] * (gives == "written")
    assert ("b" in saver.storage["1"]) is (gives == ["again"])


def test_an_interrupt_in_a_branch_is_asked_again_by_the_run(world: World, probe: Probe) -> None:
    tally, watch = probe.tally, probe.watch

    async def a(state: State) -> Any:
        await watch.saw("stop", "b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [interrupt(f"for {state['x']}?")]}

    graph = chain(State, world.node(a), world.node(b)).compile(checkpointer=InMemorySaver())
    fast = speculative(
        graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"}, policy=Policy(hooks=(watch,))
    )
    config = {"configurable": {"thread_id": "1"}}
    with fast.track() as report:
        out = world.invoke(fast, {"x": 0}, config)
        assert [i.value for i in out["__interrupt__"]] == ["for 1?"]
        assert world.invoke(fast, Command(resume="ok"), config) == {"x": 1, "log": ["ok"]}
    assert tally["b"] == 3  # once in the branch, once by the run, once resumed
    assert report.claimed == 0


def test_an_interrupt_in_a_branch_leaves_the_answer_to_the_run(world: World, probe: Probe) -> None:
    """A graph that a node calls finds the answer in its caller's scratchpad, where it can be taken once."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b", tally.add("a")).wait()
        return {"log": [interrupt("a?")]}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [interrupt("b?")]}

    inner = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"log": ["yes"]}},
        effects={"*": "pure"},
    )

    async def outer(state: State) -> Any:
        return await world.call(inner, state)

    graph = chain(State, world.node(outer)).compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "1"}}
    asked = []
    for value in ({"x": 0}, Command(resume="yes")):
        world.invoke(graph, value, config)
        asked.append([i.value for i in graph.get_state(config).interrupts])
    assert asked == [["a?"], ["b?"]]
    assert inner.report().launched == 2


def test_a_claimed_node_goes_on_from_what_the_thread_has_saved(world: World, probe: Probe) -> None:
    """A graph that keeps its state ends a branch; of a claimed node the user has seen a part by then."""
    tally, claimed = probe.tally, Signal("claim")
    turn = 0

    async def a(state: State) -> Any:
        if turn == 2:
            await tally.reached("b in turn 2").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        get_stream_writer()("here")
        if tally.add(f"b in turn {turn}") and turn == 2:
            await claimed.wait()
        get_stream_writer()(await _goes_on_from_a_checkpoint(world))
        return {}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(checkpointer=InMemorySaver()),
        speculators={"a": lambda s: {"x": 1} if turn == 2 else None},
        effects={"*": "read"},
    )
    config = {"configurable": {"thread_id": "1"}}
    turn = 1
    assert first_chunk_sets(world, fast, Signal(), config) == (["here", ["again"]], None)
    turn = 2
    assert first_chunk_sets(world, fast, claimed, config) == (["here", ["again", "again"]], None)
    assert tally["b in turn 2"] == 1


async def test_cancelling_the_claimant_cancels_what_it_claimed(probe: Probe) -> None:
    tally = probe.tally
    claimed, cancelled = Signal("claim"), Signal("cancellation of b")

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        get_stream_writer()("here")
        try:
            await Signal("never").wait(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    graph = chain(State, a, b).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})

    async def consume() -> None:
        async for _ in fast.astream({"x": 0}, stream_mode="custom"):
            claimed.set()

    run = asyncio.create_task(consume())
    await claimed.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert cancelled.is_set
    assert tally["b"] == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_failing_sibling_cancels_what_a_task_has_claimed(probe: Probe) -> None:
    tally = probe.tally
    claimed, cancelled = Signal("claim"), Signal("cancellation of b")

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        get_stream_writer()("here")
        try:
            await Signal("never").wait(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def c(state: State) -> Any:
        await claimed.wait()
        raise ValueError("sibling")

    builder = chain(State, a, b)
    builder.add_node("c", c)
    builder.add_edge("a", "c")
    fast = speculative(builder.compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})

    async def consume() -> None:
        async for _ in fast.astream({"x": 0}, stream_mode="custom"):
            claimed.set()

    with pytest.raises(ValueError, match="sibling"):
        await consume()
    assert cancelled.is_set
    assert tally["b"] == 1


def test_claims_in_launch_order_and_not_by_what_finished_first(probe: Probe) -> None:
    """At temperature > 0 taking the first that is finished would favour short answers.

    On a loop only: there tasks start in the order of their launch, which threads need not.
    """
    world = AsyncWorld()
    tally, claimed = probe.tally, Signal("claim")

    async def a(state: State) -> Any:
        await tally.reached("second is done").wait()
        return {"x": 1}

    async def work(state: State) -> Any:
        number = tally.add("work")
        if number == 1:
            get_stream_writer()("here")
            await claimed.wait()
        else:
            tally.add("second is done")
        return {"log": [number]}

    builder = StateGraph(State)
    builder.add_node("a", world.node(a))
    builder.add_node("work", world.node(work))
    builder.add_edge("__start__", "a")
    builder.add_conditional_edges("a", lambda s: [Send("work", {"x": 7})] * s["x"], ["work"])
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: {"x": 2}},
        effects={"a": "pure", "work": "pure"},
    )
    with fast.track() as report:
        out, error = world.chunks(
            fast, {"x": 0}, stream_mode=["custom", "values"], keep=lambda c: claimed.set() if c[0] == "custom" else c
        )
    assert error is None
    assert out[-1][1]["log"] == [1]
    assert report.claimed == 1


# --- tool calls and minted ids ----------------------------------------------------------------------------------


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    last: AnyMessage


def chat(world: World, model: Any, *tools: Any) -> Any:
    builder = StateGraph(Chat)
    builder.add_node("model", world.node(model))
    builder.add_node("tools", ToolNode(list(tools), handle_tool_errors=True))
    builder.add_edge("__start__", "model")
    builder.add_edge("model", "tools")
    return builder.compile()


def test_minted_ids_are_renamed_in_what_is_claimed(world: World, probe: Probe) -> None:
    tally = probe.tally

    @tool
    def look(what: str) -> str:
        """Look something up."""
        tally.add("look")
        return f"seen {what}"

    async def model(state: Chat) -> Any:
        await tally.reached("look").wait()
        return {"messages": [says("", {**call("look", what="x"), "id": "real"})]}

    def guess(state: Chat) -> Any:
        return {"messages": [says("", {**call("look", what="x"), "id": "early"})]}

    fast = speculative(
        chat(world, model, look), speculators={"model": guess}, effects={"model": "pure", "look": "read"}
    )
    with fast.track() as report:
        out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    _, answer, result = out["messages"]
    assert answer.tool_calls[0]["id"] == "real"
    assert (type(result), result.tool_call_id, result.content) == (ToolMessage, "real", "seen x")
    assert tally["look"] == 1
    assert report.claimed == 1


def test_records_of_a_guessed_message_are_never_in_what_is_claimed(world: World, probe: Probe) -> None:
    """Which model said it, and for how many tokens, is no part of the key: the run's own records are put back."""
    tally = probe.tally

    def said(by: str) -> AIMessage:
        return AIMessage("yes", id="m", response_metadata={"model_name": by})

    async def a(state: Chat) -> Any:
        await tally.reached("b").wait()
        return {"messages": [said("model")]}

    async def b(state: Chat) -> Any:
        get_stream_writer()(state["messages"][-1])
        tally.add("b")
        return {"last": state["messages"][-1]}

    graph = chain(Chat, world.node(a), world.node(b)).compile()
    fast = speculative(graph, speculators={"a": lambda s: {"messages": [said("draft")]}}, effects={"b": "pure"})
    chunks = world.stream(fast, {"messages": []}, stream_mode=["custom", "values"])
    assert fast.report().claimed == 1
    assert [c for mode, c in chunks if mode == "custom"] == [said("model")]
    assert chunks[-1][1]["last"] == said("model")


def test_an_id_inside_a_longer_string_is_never_the_branchs(world: World, probe: Probe) -> None:
    """The tool's text repeats its id, which cannot be renamed there: the call is made again."""
    tally = probe.tally

    @tool
    def look(what: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> str:
        """Look something up."""
        tally.add("look")
        return f"call {tool_call_id} saw {what}"

    async def model(state: Chat) -> Any:
        await tally.reached("look").wait()
        return {"messages": [says("", {**call("look", what="x"), "id": "real-id"})]}

    def guess(state: Chat) -> Any:
        return {"messages": [says("", {**call("look", what="x"), "id": "early-id"})]}

    fast = speculative(
        chat(world, model, look), speculators={"model": guess}, effects={"model": "pure", "look": "read"}
    )
    out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert out["messages"][-1].content == "call real-id saw x"
    assert out["messages"][-1].tool_call_id == "real-id"


def test_tool_calls_are_claimed_one_by_one(world: World, probe: Probe) -> None:
    """Of three calls guessed, two are right; only the third runs again."""
    tally = probe.tally

    @tool
    def look(what: str) -> str:
        """Look something up."""
        tally.add(what)
        tally.add("look")
        return f"seen {what}"

    async def model(state: Chat) -> Any:
        await tally.reached("look", 3).wait()
        return {"messages": [says("", *[call("look", what=w) for w in "abd"])]}

    def guess(state: Chat) -> Any:
        return {"messages": [says("", *[call("look", what=w) for w in "abc"])]}

    fast = speculative(
        chat(world, model, look), speculators={"model": guess}, effects={"model": "pure", "look": "read"}
    )
    with fast.track() as report:
        out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert [m.content for m in out["messages"][2:]] == ["seen a", "seen b", "seen d"]
    assert {w: tally[w] for w in "abcd"} == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert (report.launched, report.claimed, report.discarded) == (3, 2, 1)


def test_identical_tool_calls_are_made_as_often_as_asked(world: World, probe: Probe) -> None:
    tally = probe.tally

    @tool
    def roll() -> str:
        """Roll a die."""
        return f"roll {tally.add('roll')}"

    async def model(state: Chat) -> Any:
        await tally.reached("roll", 3).wait()
        return {"messages": [says("", *[call("roll") for _ in range(3)])]}

    def guess(state: Chat) -> Any:
        return {"messages": [says("", *[call("roll") for _ in range(3)])]}

    fast = speculative(
        chat(world, model, roll), speculators={"model": guess}, effects={"model": "pure", "roll": "read"}
    )
    with fast.track() as report:
        out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    results = out["messages"][2:]
    assert sorted(m.content for m in results) == ["roll 1", "roll 2", "roll 3"]
    assert [m.tool_call_id for m in results] == [c["id"] for c in out["messages"][1].tool_calls]
    assert tally["roll"] == 3
    assert report.claimed == 3


def test_a_failed_tool_call_is_made_again(world: World, probe: Probe) -> None:
    """A result with an error status may be speculation's doing, too: a spoiled result is not claimable."""
    tally, watch = probe.tally, probe.watch

    @tool
    def look(what: str) -> str:
        """Look something up."""
        if tally.add("look") == 1:
            raise ConnectionError("too early")
        return f"seen {what}"

    async def model(state: Chat) -> Any:
        await watch.saw("stop").wait()
        return {"messages": [says("", call("look", what="x"))]}

    fast = speculative(
        chat(world, model, look),
        speculators={"model": lambda s: {"messages": [says("", call("look", what="x"))]}},
        effects={"model": "pure", "look": "read"},
        policy=Policy(hooks=(watch,)),
    )
    with fast.track() as report:
        out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    status = out["messages"][-1].status
    # The run may have taken it over in the moment between its call and its failure; then the failure is its own.
    assert (status, tally["look"], report.claimed) in (("success", 2, 0), ("error", 1, 1))


def test_a_claimed_tool_call_may_have_been_guessed_in_other_words(world: World, probe: Probe) -> None:
    """The model's prose differs from the guess; its tool call does not."""
    tally = probe.tally

    @tool
    def look(what: str) -> str:
        """Look something up."""
        tally.add("look")
        return f"seen {what}"

    async def model(state: Chat) -> Any:
        await tally.reached("look").wait()
        return {"messages": [AIMessage("Let me look.", tool_calls=[call("look", what="x")])]}

    fast = speculative(
        chat(world, model, look),
        speculators={"model": lambda s: Guess({"messages": [says("", call("look", what="x"))]}, 0.5)},
        effects={"model": "pure", "look": "read"},
    )
    with fast.track() as report:
        out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert out["messages"][1].content == "Let me look."
    assert tally["look"] == 1
    assert report.claimed == 1


# --- threads and loops ------------------------------------------------------------------------------------------


async def test_a_sync_node_of_an_async_run_is_claimed_too(probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    def b(state: State) -> Any:
        tally.add("b")
        return {"log": [threading.current_thread() is threading.main_thread()]}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    assert (await fast.ainvoke({"x": 0}))["log"] == [False]
    assert tally["b"] == 1


async def test_a_sync_run_inside_a_running_loop(probe: Probe) -> None:
    """It must neither deadlock nor touch the loop on whose thread it runs."""
    tally = probe.tally

    def a(state: State) -> Any:
        tally.reached("b").block()
        return {"x": 1}

    def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    assert fast.invoke({"x": 0}) == {"x": 1, "log": [1]}
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_concurrent_runs_do_not_claim_from_each_other(probe: Probe) -> None:
    """Same graph, same inputs, two runs at once: each has its own ledger."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b", 2).wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {"log": [tally.add("b")]}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    out = AsyncWorld().batch(fast, [{"x": 0}, {"x": 0}])
    assert sorted(o["log"] for o in out) == [[1], [2]]
    assert tally["b"] == 2
    assert fast.report().claimed == 2
