"""Graphs that the code of a pre-executed node calls: what they keep and stream comes with the claim."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph

from langgraph_speculative import speculative
from tests.support import Tally, World, chain


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


CONFIG: Any = {"configurable": {"thread_id": "1"}}


def built(world: World, keeps: bool | None, *, fast: bool) -> CompiledStateGraph[Any, Any, Any, Any]:
    """a, then b, whose code calls a graph of two nodes; a waits for b's pre-execution where there is one."""
    tally = Tally()

    async def first(state: State) -> Any:
        return {"log": [f"first after {len(state['log'])}"]}

    async def second(state: State) -> Any:
        return {"log": ["second"]}

    inner = chain(State, world.node(first), world.node(second)).compile(checkpointer=keeps)

    async def a(state: State) -> Any:
        if fast:
            await tally.reached(f"b in run {state['x']}").wait()
        return {"log": ["a"]}

    async def b(state: State) -> Any:
        try:
            return {"log": [await world.call(inner, {"log": ["called"]})]}
        finally:
            tally.add(f"b in run {state['x']}")

    graph = chain(State, world.node(a), world.node(b)).compile(checkpointer=InMemorySaver())
    if not fast:
        return graph
    return speculative(graph, speculators={"a": lambda s: {"log": ["a"]}}, effects={"*": "read"})


def place(namespace: Any) -> str:
    """A namespace without the ids of tasks."""
    parts = namespace if isinstance(namespace, tuple) else namespace.split("|")
    return "|".join(part.split(":")[0] for part in parts)


def history(graph: CompiledStateGraph[Any, Any, Any, Any]) -> list[Any]:
    """Every checkpoint of the thread, those of called graphs included, and by which parents it stands."""
    saver: Any = graph.checkpointer
    every = list(saver.list(CONFIG))
    ids = {t.checkpoint["id"] for t in every}
    namespaces = {t.config["configurable"]["checkpoint_ns"] for t in every}
    rows = []
    for t in every:
        parents = t.metadata.get("parents", {})
        assert set(parents.values()) <= ids
        assert set(parents) <= namespaces
        values = {k: v for k, v in t.checkpoint["channel_values"].items() if not k.startswith("branch:")}
        writes = sorted((channel, repr(value)) for _, channel, value in t.pending_writes or ())
        at = place(t.config["configurable"]["checkpoint_ns"])
        rows.append((at, t.metadata["step"], t.metadata["source"], repr(values), writes, sorted(map(place, parents))))
    return sorted(rows)


def test_their_checkpoints_are_the_runs(world: World) -> None:
    plain, fast = built(world, None, fast=False), built(world, None, fast=True)
    for run in (1, 2):
        expected = world.invoke(plain, {"x": run}, CONFIG)
        assert world.invoke(fast, {"x": run}, CONFIG) == expected
    assert history(fast) == history(plain)
    assert fast.report().claimed == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_they_are_as_durable_as_the_run(world: World, durability: str) -> None:
    plain, fast = built(world, None, fast=False), built(world, None, fast=True)
    for graph in (plain, fast):
        world.invoke(graph, {"x": 0}, CONFIG, durability=durability)
    assert history(fast) == history(plain)


def test_one_that_goes_on_from_its_own_state_is_called_by_the_run(world: World) -> None:
    plain, fast = built(world, True, fast=False), built(world, True, fast=True)
    for run in (1, 2):
        expected = world.invoke(plain, {"x": run}, CONFIG)
        assert world.invoke(fast, {"x": run}, CONFIG) == expected
    assert "first after 4" in repr(expected)
    assert history(fast) == history(plain)
    assert fast.report().claimed == 1  # type: ignore[attr-defined]  # in the first turn it has no state yet


@pytest.mark.parametrize("mode", ["updates", "values", "tasks"])
def test_their_steps_are_streamed(world: World, mode: str) -> None:
    plain, fast = built(world, None, fast=False), built(world, None, fast=True)

    def seen(graph: Any) -> list[Any]:
        chunks = world.stream(graph, {"x": 0}, CONFIG, stream_mode=[mode], subgraphs=True)
        namespaces = {namespace for namespace, *_ in chunks}
        assert len(namespaces) == 2
        if mode == "tasks":
            # A step inside stands below the task that the stream has told of.
            ids = {chunk["id"] for _, _, chunk in chunks}
            assert all(part.split(":")[1] in ids for namespace in namespaces for part in namespace)
        return [(place(n), m, {k: v for k, v in chunk.items() if k != "id"}) for n, m, chunk in chunks]

    assert seen(fast) == seen(plain)
    assert fast.report().claimed == 1  # type: ignore[attr-defined]
