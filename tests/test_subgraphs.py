"""Graphs inside graphs: speculated on inside, across their ends and hand-offs, with their own persistence."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import StateGraph, add_messages
from langgraph.types import Command

from langgraph_speculative import Policy, speculative
from langgraph_speculative._observe import Canon, blurred
from tests.support import ScriptedModel, World, chain, says
from tests.twins import Stage, compare

WORLDS = ("sync", "async", "mixed")


class State(TypedDict, total=False):
    x: int
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[Any], operator.add]


class Inner(TypedDict, total=False):
    """Shares `x` and `log` with its parent, and keeps a count of its own."""

    x: int
    count: int
    log: Annotated[list[Any], operator.add]


def counting(stage: Stage, **compiled: Any) -> Any:
    """i -> j: a graph whose own state counts what it has done."""

    async def i(state: Inner, config: RunnableConfig) -> Any:
        get_stream_writer()(f"i of {state['x']}")
        return {"count": state.get("count", 0) + 1, "log": [("i", config["metadata"]["langgraph_step"])]}

    async def j(state: Inner) -> Any:
        return {"count": state["count"] + 1, "x": state["x"] + 1, "log": [f"j{state['count']}"]}

    return chain(Inner, stage.node("i", i), stage.node("j", j)).compile(**compiled)


def around(stage: Stage, inner: Any, after: int = 1) -> Any:
    """a -> inner -> c."""

    async def a(state: State) -> Any:
        await stage.hold()
        return {"x": state["x"] + 1}

    async def c(state: State) -> Any:
        stage.done("c")
        return {"log": [f"c{state['x']}"]}

    builder = chain(State, stage.node("a", a))
    builder.add_node("inner", inner)
    builder.add_node("c", stage.node("c", c))
    builder.add_edge("a", "inner")
    builder.add_edge("inner", "c")
    return builder


def saved(saver: Any) -> list[Any]:
    """All checkpoints of all graphs; those of different graphs are saved beside each other, in any order."""
    return sorted((blurred(Canon()(c)) for c in saver.list(None)), key=repr)


EFFECTS = {"a": "pure", "i": "pure", "j": "pure", "c": "pure"}


def plus(n: int) -> Callable[[Any], Any]:
    return lambda s: {"x": s["x"] + n}


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
@pytest.mark.parametrize("saver", [None, InMemorySaver], ids=["no-saver", "saver"])
@pytest.mark.parametrize("persistence", [None, False, True], ids=["per-invocation", "none", "per-thread"])
def test_persistence(world: World, persistence: Any, saver: Any, guess: int) -> None:
    """Two turns on one thread; a graph that keeps its state finds it in the second."""
    if persistence is True and saver is None:
        pytest.skip("refused by LangGraph")
    checkpoints = []

    def make() -> Any:
        checkpoints.append(saver())
        return checkpoints[-1]

    both = compare(
        world,
        lambda stage: around(stage, counting(stage, checkpointer=persistence)),
        {"x": 0},
        {"x": 5},
        guesses={"a": plus(guess)},
        effects=EFFECTS,
        until="c",
        depth=4,
        saver=make if saver else None,
    )
    assert both.claimed >= 3 if guess == 1 else both.claimed == 0
    if saver:
        plain, fast = (saved(s) for s in checkpoints)
        assert fast == plain  # those of the graph inside, too


@pytest.mark.parametrize("saver", [None, InMemorySaver], ids=["no-saver", "saver"])
@pytest.mark.parametrize("first", [False, True], ids=["before the claim", "after the claim"])
@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
def test_a_node_that_runs_a_graph_inside(world: World, guess: int, first: bool, saver: Any) -> None:
    """Its chunks, its checkpoints and its callbacks are the claimant's; without a claimant, nobody's."""
    checkpoints = []

    def make() -> Any:
        checkpoints.append(saver())
        return checkpoints[-1]

    def build(stage: Stage) -> Any:
        inside = counting(stage)
        model = ScriptedModel(script=lambda ms: says("two words"))

        async def b(state: State) -> Any:
            get_stream_writer()("before")
            stage.done("b")
            if first:
                await stage.hear()
            out = await stage.world.call(inside, {"x": state["x"]})
            await stage.world.call(model, [HumanMessage("?")])
            stage.done("b ends")
            return {"x": out["x"], "log": out["log"]}

        builder = around(stage, stage.node("inner", b))
        return builder

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": plus(guess)},
        effects={"a": "pure", "inner": "pure"},
        until="b" if first else "b ends",
        listen=lambda chunk: chunk[1] == "custom" and (guess == 1 or "before" in repr(chunk)),
        saver=make if saver else None,
    )
    assert both.claimed == (guess == 1)
    assert any(len(c.fields["items"][0].fields["items"]) == 1 for c in both.plain[0].chunks)
    if saver:
        plain, fast = (saved(s) for s in checkpoints)
        assert fast == plain


def test_a_graph_inside_a_node_that_keeps_its_state(world: World) -> None:
    """It goes on from what the first turn has saved; a branch that would have to know that ends there."""

    def build(stage: Stage) -> Any:
        inside = counting(stage, checkpointer=True)

        async def b(state: State) -> Any:
            out = await stage.world.call(inside, {"x": state["x"]})
            stage.done("b ends")
            return {"x": out["x"], "log": [out["count"]]}

        return around(stage, stage.node("inner", b))

    both = compare(
        world,
        build,
        {"x": 0},
        {"x": 5},
        guesses={"a": plus(1)},
        effects={"a": "pure", "inner": "pure"},
        until="b ends",
        saver=InMemorySaver,
    )
    assert both.claimed >= 1
    assert "'log': [2, 'c2', 4, 'c7']" in repr(both.plain[-1].state)


def test_the_state_of_graphs_inside(world: World) -> None:
    """``get_state(subgraphs=True)`` where a claimed graph inside has stopped."""

    def build(stage: Stage) -> Any:
        inner = counting(stage, interrupt_before=["j"])
        return around(stage, inner).compile(checkpointer=InMemorySaver())

    def states(graph: Any, stage: Stage) -> list[Any]:
        config = {"configurable": {"thread_id": "1"}}
        canon = Canon()
        out = []
        for value in ({"x": 0}, None):
            world.invoke(graph, value, config)
            out.append(canon(graph.get_state(config, subgraphs=True)))
        return out

    plain, fast = Stage(world), Stage(world, fast=True)
    expected = states(build(plain), plain)
    fast.until = fast.probe.watch.saw("launch", "inner|i")
    graph = speculative(
        build(fast),
        speculators={"a": plus(1)},
        effects=EFFECTS,
        policy=Policy(depth=3, hooks=(fast.probe.watch,)),
    )
    assert states(graph, fast) == expected
    assert graph.report().claimed >= 1
    assert "'count': 1" in repr(expected[0])


@pytest.mark.parametrize("style", ["supervisor", "swarm"])
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
def test_hand_offs(world: World, style: str, right: bool) -> None:
    """Agents that hand over to each other or to a supervisor with a Command for the parent graph."""
    route = {"supervisor": ["boss", "one", "boss", "two", "boss"], "swarm": ["one", "two", "one"]}[style]

    def build(stage: Stage) -> Any:
        def agent(name: str) -> Any:
            async def think(state: State) -> Any:
                turn = len(state["log"])
                if turn == 0:
                    await stage.hold()
                stage.done(f"think {turn}")
                return {"log": [f"{name} thinks"]}

            async def hand_over(state: State) -> Any:
                turn = len(state["log"]) // 2
                target = route[turn] if turn < len(route) else "__end__"
                return Command(graph=Command.PARENT, goto=target, update={"log": [*state["log"][-1:], target]})

            return chain(State, stage.node("think", think), stage.node("hand_over", hand_over)).compile()

        builder = StateGraph(State)
        names = sorted(set(route))
        for name in names:
            builder.add_node(name, agent(name), destinations=(*names, "__end__"))
        builder.add_edge("__start__", route[0])
        return builder

    first = route[0]
    both = compare(
        world,
        build,
        {"x": 0, "log": []},
        guesses={f"{first}|think": lambda s: {"log": [f"{first} thinks" if right else "?"]}},
        effects={f"{name}|{node}": "pure" for name in set(route) for node in ("think", "hand_over")},
        until=lambda p: p.watch.saw("launch", f"{first}|hand_over"),
        depth=6,
        saver=InMemorySaver,
    )
    assert both.claimed >= 1 if right else both.claimed == 0
    assert len(both.plain[0].chunks) > 20
