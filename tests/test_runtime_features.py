"""What a node can ask its runtime, and how steps can be wired: the same early as in the run."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config, get_stream_writer
from langgraph.func import task
from langgraph.graph import StateGraph
from langgraph.managed import IsLastStep, RemainingSteps
from langgraph.runtime import Runtime, get_runtime
from langgraph.types import CachePolicy, Command, Send

from tests.support import World, chain
from tests.twins import Stage, compare

WORLDS = ("sync", "async", "mixed")


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


class Managed(State, total=False):
    remaining: RemainingSteps
    last: IsLastStep


GUESS = pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
SAVERS = pytest.mark.parametrize("saver", [None, InMemorySaver], ids=["no-saver", "saver"])


def a_of(stage: Stage) -> Any:
    async def a(state: State) -> Any:
        await stage.hold()
        return {"x": 1}

    return stage.node("a", a)


@GUESS
def test_deferred_nodes_and_joins(world: World, guess: int) -> None:
    """A join with part of its inputs present, and a node that waits for the end of everything else."""

    def build(stage: Stage) -> Any:
        def node(name: str) -> Any:
            async def body(state: State) -> Any:
                stage.done(name)
                return {"log": [f"{name}{state['x']}:{len(state.get('log', []))}"]}

            return stage.node(name, body)

        builder = StateGraph(State)
        builder.add_node("a", a_of(stage))
        for name in ("left", "right", "far", "join"):
            builder.add_node(name, node(name))
        builder.add_node("deferred", node("deferred"), defer=True)
        for one, two in (("__start__", "a"), ("a", "left"), ("a", "right"), ("right", "far"), ("a", "deferred")):
            builder.add_edge(one, two)
        builder.add_edge(["left", "far"], "join")
        return builder

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": lambda s: {"x": guess}},
        effects={n: "pure" for n in ("a", "left", "right", "far", "join", "deferred")},
        until="deferred",
        depth=6,
        parallel=True,
        compared=("error", "state", "chunks", "callbacks"),
        saver=InMemorySaver,
        modes=["updates", "values", "custom"],
    )
    assert both.stage.probe.tally["deferred"] == (1 if guess == 1 else 2)
    assert both.claimed == (5 if guess == 1 else 0)


@GUESS
@pytest.mark.parametrize("limit", [3, 4, 25])
def test_managed_values(world: World, guess: int, limit: int) -> None:
    """Steps are counted from the run's limit, wherever the node runs."""

    def build(stage: Stage) -> Any:
        async def b(state: Managed) -> Any:
            return {"log": [(state["remaining"], state["last"], state["x"])]}

        async def c(state: Managed) -> Any:
            stage.done("c")
            return {"log": [(state["remaining"], state["last"])]}

        return chain(Managed, a_of(stage), stage.node("b", b), stage.node("c", c), names=["a", "b", "c"])

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": lambda s: {"x": guess}},
        effects={"a": "pure", "b": "pure", "c": "pure"},
        until="c",
        config={"recursion_limit": limit},
    )
    assert both.claimed == (2 if guess == 1 else 0)
    assert f"[{limit - 2}, " in repr(both.plain[0].chunks)


@GUESS
@SAVERS
def test_what_a_node_can_ask(world: World, guess: int, saver: Any) -> None:
    """Context, config, metadata, tags, execution info, and the stream writer, by argument and by context variable."""

    def build(stage: Stage) -> Any:
        async def b(state: State, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
            stage.done("b")
            runtime.stream_writer("by runtime")
            get_stream_writer()("by context")
            info = runtime.execution_info
            ambient = get_config()
            return {
                "log": [
                    runtime.context,
                    get_runtime().context,
                    {k: v for k, v in config["configurable"].items() if not k.startswith(("_", "checkpoint"))},
                    {k: v for k, v in ambient["metadata"].items() if "checkpoint" not in k},
                    sorted(config["tags"]),
                    config["recursion_limit"],
                    info and (info.node_attempt, info.thread_id),
                ]
            }

        builder: Any = StateGraph(State, context_schema=dict)
        builder.add_node("a", a_of(stage))
        builder.add_node("b", stage.node("b", b))
        builder.add_edge("__start__", "a")
        builder.add_edge("a", "b")
        return builder

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": lambda s: {"x": guess}},
        effects={"b": "pure"},
        config={"configurable": {"who": "me"}, "tags": ["t"], "metadata": {"m": 1}, "recursion_limit": 9},
        context={"tenant": 7},
        saver=saver,
    )
    assert both.claimed == (guess == 1)


@GUESS
@SAVERS
@pytest.mark.parametrize("when", ["before the claim", "after the claim"])
def test_functional_tasks_inside_a_node(world: World, when: str, saver: Any, guess: int) -> None:
    """They belong to the run's loop: they end an early node that nobody has claimed, and go on in a claimed one."""
    after = when == "after the claim"

    def build(stage: Stage) -> Any:
        async def _double(x: int) -> int:
            stage.done("double")
            return 2 * x

        double = task(stage.world.node(_double))

        async def b(state: State) -> Any:
            get_stream_writer()(f"b {state['x']}")
            stage.done("b")
            if after:
                await stage.hear()
            futures = [double(state["x"]), double(10)]
            if stage.world.name == "async":
                return {"log": [await f for f in futures]}
            return {"log": [f.result() for f in futures]}

        return chain(State, a_of(stage), stage.node("b", b), names=["a", "b"])

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": lambda s: {"x": guess}},
        effects={"b": "pure"},
        until="b" if after else lambda p: p.watch.saw("stop", "b"),
        listen=lambda chunk: chunk[1] == "custom",
        parallel=True,
        saver=saver,
    )
    assert both.claimed == (after and guess == 1)
    assert both.stage.probe.tally["double"] == 2
    assert both.stage.probe.tally["b"] == (1 if both.claimed else 2)


@GUESS
def test_sends(world: World, guess: int) -> None:
    """Each Send is an execution of its own, identical ones too, whoever made it."""

    def build(stage: Stage) -> Any:
        async def work(state: State) -> Any:
            stage.done("work")
            return {"log": [f"work {state['x']}"]}

        async def spread(state: State) -> Any:
            return Command(update={"log": ["spread"]}, goto=[Send("work", {"x": 5}), Send("work", {"x": 5})])

        async def last(state: State) -> Any:
            stage.done("last")
            return {"x": len(state["log"])}

        builder = StateGraph(State)
        builder.add_node("a", a_of(stage))
        builder.add_node("work", stage.node("work", work))
        builder.add_node("spread", stage.node("spread", spread), destinations=("work",))
        builder.add_node("last", stage.node("last", last), defer=True)
        builder.add_edge("__start__", "a")
        builder.add_conditional_edges(
            "a", lambda s: [Send("work", {"x": i * s["x"]}) for i in range(3)] + ["spread"], ["work", "spread"]
        )
        builder.add_edge("work", "last")
        return builder

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": lambda s: {"x": guess}},
        effects={n: "pure" for n in ("a", "work", "spread", "last")},
        until="last",
        depth=5,
        parallel=True,
        saver=InMemorySaver,
    )
    # A wrong guess has right parts: of `Send`s with another factor, that of nothing is the same.
    assert both.claimed >= (7 if guess == 1 else 1)
    assert repr(both.plain[0].state).count("work 5") >= 2


@GUESS
@pytest.mark.parametrize("key", [None, lambda s: str(s["x"])], ids=["whole input", "key_func"])
def test_cached_nodes(world: World, guess: int, key: Any) -> None:
    """What is claimed goes into the run's cache, what is discarded does not, and what is there is not run."""

    def build(stage: Stage) -> Any:
        async def b(state: State) -> Any:
            stage.done("b")
            return {"log": [f"b{state['x']}"]}

        async def c(state: State) -> Any:
            return {"log": [len(state["log"])]}

        builder = StateGraph(State)
        builder.add_node("a", a_of(stage))
        policy = CachePolicy() if key is None else CachePolicy(key_func=key)
        builder.add_node("b", stage.node("b", b), cache_policy=policy)
        builder.add_node("c", stage.node("c", c))
        for one, two in (("__start__", "a"), ("a", "b"), ("b", "c")):
            builder.add_edge(one, two)
        return builder.compile(cache=InMemoryCache())

    both = compare(
        world,
        build,
        {"x": 0},
        {"x": 0},
        guesses={"a": lambda s: {"x": guess}},
        effects={"a": "pure", "b": "pure", "c": "pure"},
    )
    assert both.claimed >= (guess == 1)
    assert "'cached': True" in repr(both.plain[1].chunks)
