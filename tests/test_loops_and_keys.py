"""Loops, and what makes two inputs of a node the same."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, StateGraph
from langgraph.managed import IsLastStep, RemainingSteps
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy

from langgraph_speculative import Policy, speculative
from tests.support import AsyncWorld, Probe, World, chain


class State(TypedDict, total=False):
    x: int
    n: int
    nonce: int
    log: Annotated[list[Any], operator.add]


class OnlyX(TypedDict):
    x: int


def loop(world: World, probe: Probe, *, waits: bool, turns: int = 4) -> Any:
    """Nodes `ask` (always the same input) and `count`, taking turns."""
    tally = probe.tally

    async def ask(state: OnlyX) -> Any:
        return {"log": [f"answer {tally.add('ask')}"]}

    async def count(state: State) -> Any:
        turn = tally.add("count")
        # Each turn but the last has its successor running before it ends.
        if waits and turn < turns:
            await tally.reached("ask", turn + 1).wait()
        return {"n": state.get("n", 0) + 1}

    builder = StateGraph(State)
    builder.add_node("ask", world.node(ask), input_schema=OnlyX)
    builder.add_node("count", world.node(count))
    builder.add_edge("__start__", "ask")
    builder.add_edge("ask", "count")
    builder.add_conditional_edges("count", lambda s: "ask" if s["n"] < turns else END, ["ask", END])
    return builder.compile()


def test_a_node_reached_again_with_the_same_input_runs_again(world: World, probe: Probe) -> None:
    """One pre-execution never serves two turns, though their keys are the same."""
    fast = speculative(
        loop(world, probe, waits=True),
        speculators={"count": lambda s: {"n": s.get("n", 0) + 1}},
        effects={"ask": "pure", "count": "irreversible", "<lambda>": "pure"},
    )
    with fast.track() as report:
        out = world.invoke(fast, {"x": 1})
    assert out["log"] == [f"answer {i}" for i in (1, 2, 3, 4)]
    assert probe.tally["count"] == 4
    assert report.claimed == 3
    assert probe.tally["ask"] <= 4 + report.discarded


def test_a_longer_loop_at_depth_three(world: World, probe: Probe) -> None:
    turns = 12
    fast = speculative(
        loop(world, probe, waits=False, turns=turns),
        speculators={"count": lambda s: {"n": s.get("n", 0) + 1}},
        effects={"*": "pure"},
        policy=Policy(depth=3),
    )
    with fast.track() as report:
        out = world.invoke(fast, {"x": 1})
    assert (out["n"], len(out["log"])) == (turns, turns)
    assert len(set(out["log"])) == turns
    assert report.steps == 2 * turns


def keyed(world: World, probe: Probe, cache_policy: CachePolicy[Any] | None = None, **kwargs: Any) -> Any:
    """The guess has a field wrong that node b is given, too."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1, "nonce": 5}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [f"{state['x']}"]}

    builder = chain(State, world.node(a))
    builder.add_node("b", world.node(b), cache_policy=cache_policy)
    builder.add_edge("a", "b")
    return speculative(
        builder.compile(cache=InMemoryCache() if cache_policy else None),
        speculators={"a": lambda s: {"x": 1, "nonce": 6}},
        effects={"b": "pure"},
        **kwargs,
    )


def test_by_default_the_whole_input_is_the_key(world: World, probe: Probe) -> None:
    fast = keyed(world, probe)
    assert world.invoke(fast, {"x": 0})["log"] == ["1"]
    assert (probe.tally["b"], fast.report().claimed) == (2, 0)


def test_a_key_function_says_what_equality_means(world: World, probe: Probe) -> None:
    fast = keyed(world, probe, keys={"b": lambda s: s["x"]})
    assert world.invoke(fast, {"x": 0})["log"] == ["1"]
    assert (probe.tally["b"], fast.report().claimed) == (1, 1)


def test_a_cache_policys_key_function_is_used(world: World, probe: Probe) -> None:
    fast = keyed(world, probe, CachePolicy(key_func=lambda s: f"{s['x']}"))
    assert world.invoke(fast, {"x": 0})["log"] == ["1"]
    assert (probe.tally["b"], fast.report().claimed) == (1, 1)


def test_a_key_function_that_raises_costs_the_claim_and_not_the_run(world: World, probe: Probe) -> None:
    def key(state: State) -> Any:
        raise LookupError("no key")

    tally, watch = probe.tally, probe.watch

    async def a(state: State) -> Any:
        await watch.saw("guess").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": ["b"]}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
        keys={"b": key},
        policy=Policy(hooks=(watch,)),
    )
    assert world.invoke(fast, {"x": 0})["log"] == ["b"]
    assert fast.report().claimed == 0


# --- what a node can see beyond its state -----------------------------------------------------------------------


class Managed(TypedDict, total=False):
    x: int
    remaining_steps: RemainingSteps
    log: Annotated[list[Any], operator.add]


Look = Callable[[Any, RunnableConfig, Runtime[Any]], Any]

LOOKS: dict[str, Look] = {
    "thread_id": lambda s, c, r: c["configurable"].get("thread_id"),
    "configurable": lambda s, c, r: c["configurable"].get("who"),
    "langgraph_step": lambda s, c, r: c["metadata"]["langgraph_step"],
    "metadata": lambda s, c, r: c["metadata"].get("tag"),
    "recursion_limit": lambda s, c, r: c["recursion_limit"],
    "remaining_steps": lambda s, c, r: s["remaining_steps"],
    "context": lambda s, c, r: r.context,
    "execution_info": lambda s, c, r: (r.execution_info.thread_id, r.execution_info.node_attempt),
    "configurable_keys": lambda s, c, r: sorted(k for k in c["configurable"] if not k.startswith("__pregel")),
}


@pytest.mark.parametrize("what", LOOKS)
def test_a_pre_executed_node_sees_what_the_real_one_would(world: World, probe: Probe, what: str) -> None:
    """The branch runs one step too early, and yet the node reads the same step, thread, context and steps left."""
    tally, look = probe.tally, LOOKS[what]

    def build(waits: bool) -> Any:
        async def a(state: Managed) -> Any:
            if waits:
                await tally.reached("b").wait()
            return {"x": 1}

        async def b(state: Managed, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
            tally.add("b")
            return {"log": [look(state, config, runtime)]}

        builder: Any = StateGraph(Managed, context_schema=dict)
        builder.add_node("a", world.node(a))
        builder.add_node("b", world.node(b))
        builder.add_edge("__start__", "a")
        builder.add_edge("a", "b")
        return builder.compile(checkpointer=InMemorySaver())

    config = {
        "configurable": {"thread_id": "t1", "who": "me"},
        "metadata": {"tag": 5},
        "recursion_limit": 11,
    }
    plain = world.invoke(build(False), {"x": 0}, config, context={"tenant": 3})
    probe.tally.__init__()  # type: ignore[misc]
    fast = speculative(build(True), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    assert world.invoke(fast, {"x": 0}, config, context={"tenant": 3}) == plain
    # Whether it is claimed is the engine's choice where the node can see more than its input; but it saw the same.
    assert probe.tally["b"] in (1, 2)


def detour(world: World, probe: Probe, look: Look) -> Any:
    """The guess goes a -> b -> c, the run goes a -> c: node c has the same state in both, one step apart."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("c").wait()
        return {"n": 0}

    async def b(state: State) -> Any:
        return {"n": 0}

    async def c(state: OnlyX, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
        tally.add("c")
        return {"log": [look(state, config, runtime)]}

    builder = StateGraph(State)
    builder.add_node("a", world.node(a))
    builder.add_node("b", world.node(b))
    builder.add_node("c", world.node(c), input_schema=OnlyX)
    builder.add_edge("__start__", "a")
    builder.add_conditional_edges("a", lambda s: "b" if s["n"] else "c", ["b", "c"])
    builder.add_edge("b", "c")
    return speculative(
        builder.compile(),
        speculators={"a": lambda s: {"n": 1}},
        effects={"*": "pure"},
        policy=Policy(depth=3),
    )


def test_a_node_that_reads_its_step_is_not_claimed_at_another(world: World, probe: Probe) -> None:
    fast = detour(world, probe, lambda s, c, r: c["metadata"]["langgraph_step"])
    assert world.invoke(fast, {"x": 1})["log"] == [2]
    assert probe.tally["c"] == 2


def test_concurrent_threads_keep_their_own_identity(probe: Probe) -> None:
    """Two runs of one graph at once; what one is configured with never reaches the other."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b", 2).wait()
        return {"x": 1}

    async def b(state: State, config: RunnableConfig) -> Any:
        tally.add("b")
        return {"log": [config["configurable"]["thread_id"]]}

    graph = chain(State, a, b).compile(checkpointer=InMemorySaver())
    fast = speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    configs = [{"configurable": {"thread_id": f"{i}"}} for i in range(2)]
    world = AsyncWorld()
    out = world.run(lambda: fast.abatch([{"x": 0}, {"x": 0}], configs))
    assert [o["log"] for o in out] == [["0"], ["1"]]


def test_the_recursion_limit_ends_branches_as_it_ends_the_run(world: World) -> None:
    """At the last step that the run may take, nothing is pre-executed beyond it."""
    steps: list[int] = []

    async def a(state: State) -> Any:
        steps.append(state["x"])
        return {"x": state["x"] + 1}

    async def b(state: State) -> Any:
        steps.append(state["x"])
        return {"x": state["x"] + 1}

    builder = chain(State, world.node(a), world.node(b))
    builder.add_edge("b", "a")
    fast = speculative(
        builder.compile(),
        speculators={n: lambda s: {"x": s["x"] + 1} for n in "ab"},
        effects={"*": "pure"},
        policy=Policy(depth=5),
    )
    _, error = world.chunks(fast, {"x": 0}, {"recursion_limit": 6})
    assert type(error).__name__ == "GraphRecursionError"
    # A quick run may come to a step before its pre-execution is there, and then that one is for nothing.
    assert set(steps) == set(range(6))


class Steps(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]
    remaining_steps: RemainingSteps
    is_last_step: IsLastStep


@pytest.mark.parametrize("limit", [3, 4, 25])
@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
def test_managed_values_in_a_branch_are_the_runs(world: World, probe: Probe, limit: int, nested: bool) -> None:
    tally = probe.tally

    def build(waits: bool) -> Any:
        async def a(state: Steps) -> Any:
            if waits:
                await tally.reached("c").wait()
            return {"x": 1, "log": [(state["remaining_steps"], state["is_last_step"])]}

        def look(name: str) -> Any:
            async def node(state: Steps) -> Any:
                if waits:
                    tally.add(name)
                return {"log": [(name, state["remaining_steps"], state["is_last_step"])]}

            return world.node(node)

        rest = chain(Steps, look("b"), look("c"), names=["b", "c"])
        if nested:
            return chain(Steps, world.node(a), rest.compile(), names=["a", "rest"]).compile()
        return chain(Steps, world.node(a), look("b"), look("c"), names=["a", "b", "c"]).compile()

    def outcome(graph: Any) -> Any:
        return world.chunks(graph, {"x": 0, "log": []}, {"recursion_limit": limit}, stream_mode="values")

    fast = speculative(
        build(True),
        speculators={"a": lambda s: {"x": 1, "log": [(s["remaining_steps"], s["is_last_step"])]}},
        effects={"*": "pure"},
        policy=Policy(depth=2),
    )
    assert repr(outcome(fast)) == repr(outcome(build(False)))
    assert fast.report().claimed == 2
