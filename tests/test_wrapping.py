"""The result is a `CompiledStateGraph` like the original, and the original is left as it was."""

from __future__ import annotations

import operator
import pickle
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph, add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy, Command, interrupt
from pydantic import BaseModel

from langgraph_speculative import Policy, SpeculationInactiveWarning, SpeculativeGraph, speculative
from langgraph_speculative._observe import Canon
from tests.support import AsyncWorld, Probe, Signal, World, call, chain, says


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


def two(world: World, probe: Probe, **compile: Any) -> Any:
    """a -> b; in each run b starts before a ends, if speculation works at all."""
    tally = probe.tally

    async def a(state: State) -> Any:
        if tally["plain"] == 0:
            await tally.reached("b", tally.add("a")).wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    return chain(State, world.node(a), world.node(b)).compile(**compile)


def wrap(graph: Any, **kwargs: Any) -> SpeculativeGraph:
    return speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"}, **kwargs)


OUT = {"x": 1, "log": [1]}


def test_is_a_compiled_graph(world: World, probe: Probe) -> None:
    fast = wrap(two(world, probe))
    assert isinstance(fast, SpeculativeGraph)
    assert isinstance(fast, CompiledStateGraph)
    assert world.invoke(fast, {"x": 0}) == OUT


def test_the_original_is_left_alone(world: World, probe: Probe) -> None:
    graph = two(world, probe)
    attributes, nodes = dict(vars(graph)), dict(graph.nodes)
    bounds = {name: node.bound for name, node in graph.nodes.items()}
    fast = wrap(graph)
    world.invoke(fast, {"x": 0})
    assert vars(graph) == attributes
    assert dict(graph.nodes) == nodes
    assert {name: node.bound for name, node in graph.nodes.items()} == bounds
    assert type(graph) is CompiledStateGraph
    probe.tally.add("plain")
    runs = fast.report().runs
    assert world.invoke(graph, {"x": 0}) == OUT
    assert fast.report().runs == runs


def test_a_tool_node_is_left_alone(world: World) -> None:
    """The copy's methods are bound to the copy, and the original's to the original."""

    @tool
    def look() -> str:
        """Look."""
        return "seen"

    node = ToolNode([look])
    attributes = dict(vars(node))

    class Chat(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]

    def model(state: Chat) -> Any:
        return {"messages": [says("", call("look"))]}

    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_node("tools", node)
    builder.add_edge("__start__", "model")
    builder.add_edge("model", "tools")
    fast = speculative(builder.compile(), speculators={"model": lambda s: None}, effects={"*": "pure"})
    assert world.invoke(fast, {"messages": [HumanMessage("?")]})["messages"][-1].content == "seen"
    assert vars(node) == attributes


@pytest.mark.parametrize(
    "derive",
    [
        lambda g: g.copy(),
        lambda g: g.with_config(tags=["t"]),
        lambda g: g.with_config({"recursion_limit": 20}).copy({"debug": False}),
        lambda g: g.copy({"checkpointer": InMemorySaver()}),
    ],
    ids=["copy", "with_config", "both", "copy with update"],
)
def test_copies_keep_speculating(world: World, probe: Probe, derive: Any) -> None:
    copy = derive(wrap(two(world, probe)))
    assert isinstance(copy, SpeculativeGraph)
    with copy.track() as report:
        assert world.invoke(copy, {"x": 0}, {"configurable": {"thread_id": "1"}}) == OUT
    assert report.claimed == 1
    assert copy.effects().rows


def test_invoke_and_stream_and_batch(world: World, probe: Probe) -> None:
    fast = wrap(two(world, probe))
    assert world.invoke(fast, {"x": 0}) == OUT
    assert world.stream(fast, {"x": 0}) == [{"a": {"x": 1}}, {"b": {"log": [1]}}]
    assert world.stream(fast, {"x": 0}, stream_mode="values")[-1] == OUT
    assert fast.report().claimed == 3


def test_batch(world: World) -> None:
    probe = Probe()
    probe.tally.add("plain")
    fast = wrap(two(world, probe))
    assert world.batch(fast, [{"x": 0}] * 5) == [OUT] * 5
    assert fast.report().runs == 5


def test_state_methods(world: World, probe: Probe) -> None:
    fast = wrap(two(world, probe, checkpointer=InMemorySaver()))
    config = {"configurable": {"thread_id": "1"}}
    world.invoke(fast, {"x": 0}, config)
    state = fast.get_state(config)
    assert (state.values, state.next) == (OUT, ())
    assert [s.next for s in fast.get_state_history(config)] == [(), ("b",), ("a",), ("__start__",)]
    fast.update_state(config, {"x": 7, "log": ["mine"]}, as_node="a")
    assert fast.get_state(config).next == ("b",)
    assert world.invoke(fast, None, config) == {"x": 7, "log": [1, "mine", 7]}


def test_schemas_and_names() -> None:
    def a(state: Pydantic) -> Any:
        return {}

    def b(state: Pydantic) -> Any:
        return {}

    graph = chain(Pydantic, a, b).compile(name="my graph")
    fast = wrap(graph)
    assert fast.name == graph.name == "my graph"
    assert fast.get_name() == graph.get_name()
    assert fast.get_input_jsonschema() == graph.get_input_jsonschema()
    assert fast.get_output_jsonschema() == graph.get_output_jsonschema()
    assert fast.builder is graph.builder
    assert fast.input_schema is graph.input_schema
    assert set(fast.nodes) == set(graph.nodes)
    assert [n for n, _ in fast.get_subgraphs()] == [n for n, _ in graph.get_subgraphs()]


class Out(BaseModel):
    x: int
    log: list[Any]


class Pydantic(BaseModel):
    x: int = 0
    log: Annotated[list[Any], operator.add] = []


def test_the_output_mapper_of_pydantic_states_is_kept(world: World) -> None:
    """With ``version="v2"`` the values are coerced to the state's own class."""

    def a(state: Pydantic) -> Any:
        return {"x": 1}

    def b(state: Pydantic) -> Any:
        return {"log": [type(state).__name__]}

    graph = chain(Pydantic, a, b).compile()
    fast = wrap(graph)
    for g in (fast, fast.copy(), fast.with_config(tags=["t"])):
        out = world.invoke(g, Pydantic(x=0), version="v2")
        expected = world.invoke(graph, Pydantic(x=0), version="v2")
        assert Canon()(out) == Canon()(expected)
        assert type(out.value) is type(expected.value) is Pydantic
    assert world.stream(fast, Pydantic(), version="v2") == world.stream(graph, Pydantic(), version="v2")


def test_two_graphs_do_not_share_a_cache(world: World) -> None:
    """The identifiers of cached nodes stay those of the original nodes, so that functions are told apart."""
    cache = InMemoryCache()

    def build(name: str) -> Any:
        def a(state: State) -> Any:
            return {"x": 1}

        def b(state: State) -> Any:
            return {"log": [name]}

        b.__qualname__ = f"b_{name}"
        builder = StateGraph(State)
        builder.add_node("a", a)
        builder.add_node("b", b, cache_policy=CachePolicy())
        builder.add_edge("__start__", "a")
        builder.add_edge("a", "b")
        return builder.compile(cache=cache)

    one, two = wrap(build("one")), wrap(build("two"))
    assert world.invoke(one, {"x": 0})["log"] == ["one"]
    assert world.invoke(two, {"x": 0})["log"] == ["two"]
    assert world.invoke(one, {"x": 0})["log"] == ["one"]


def test_a_cached_result_of_the_plain_graph_is_found(world: World) -> None:
    """Same functions, same cache: the speculative graph hits what the plain one has put there."""
    tally = Probe().tally

    def a(state: State) -> Any:
        return {"x": 1}

    def b(state: State) -> Any:
        return {"log": [tally.add("b")]}

    builder = chain(State, a)
    builder.add_node("b", b, cache_policy=CachePolicy())
    builder.add_edge("a", "b")
    graph = builder.compile(cache=InMemoryCache())
    assert world.invoke(graph, {"x": 0})["log"] == [1]
    fast = wrap(graph)
    assert world.invoke(fast, {"x": 0})["log"] == [1]


# --- as a part of other graphs -----------------------------------------------------------------------------------


def test_as_a_subgraph_of_a_plain_graph(world: World, probe: Probe) -> None:
    fast = wrap(two(world, probe))

    def first(state: State) -> Any:
        return {"log": ["first"]}

    builder = chain(State, first)
    builder.add_node("sub", fast)
    builder.add_edge("first", "sub")
    outer = builder.compile()
    assert world.invoke(outer, {"x": 0}) == {"x": 1, "log": ["first", "first", 1]}
    assert fast.report().claimed == 1
    assert [n for n, _ in outer.get_subgraphs()] == ["sub"]
    assert "a" in str(outer.get_graph(xray=True).nodes)


def test_as_a_subgraph_of_a_speculative_graph(world: World, probe: Probe) -> None:
    """One session for both: the inner graph takes part in the outer run."""
    inner = wrap(two(world, probe))

    def first(state: State) -> Any:
        return {"log": ["first"]}

    builder = chain(State, first)
    builder.add_node("sub", inner)
    builder.add_edge("first", "sub")
    outer = speculative(builder.compile(), speculators={}, effects={"*": "pure"})
    assert world.invoke(outer, {"x": 0}) == {"x": 1, "log": ["first", "first", 1]}


def test_called_from_a_node(world: World, probe: Probe) -> None:
    fast = wrap(two(world, probe))

    async def caller(state: State) -> Any:
        out = await world.call(fast, {"x": 0})
        return {"log": [out["log"]]}

    assert world.invoke(chain(State, world.node(caller)).compile(), {"x": 0})["log"] == [[1]]
    assert fast.report().claimed == 1


def test_wrapped_twice(world: World, probe: Probe) -> None:
    """Wrapping a speculative graph again works or is refused by name; it does not run anything twice."""
    fast = wrap(two(world, probe))
    try:
        again = wrap(fast)
    except ValueError as error:
        assert "already" in str(error)  # noqa: PT017
        return
    assert world.invoke(again, {"x": 0}) == OUT
    assert probe.tally["b"] == 1


def test_a_subclass_of_the_users_own(world: World, probe: Probe) -> None:
    class Mine(CompiledStateGraph):  # type: ignore[type-arg]
        def hello(self) -> str:
            return f"hello {sorted(self.nodes)}"

    graph = two(world, probe)
    graph.__class__ = Mine
    fast = wrap(graph)
    assert isinstance(fast, Mine)
    assert isinstance(fast, SpeculativeGraph)
    assert fast.hello() == graph.hello()
    assert world.invoke(fast, {"x": 0}) == OUT


def test_with_checkpointer_and_store_of_the_run(world: World, probe: Probe) -> None:
    store = InMemoryStore()
    fast = wrap(two(world, probe, checkpointer=InMemorySaver(), store=store))
    assert fast.store is store
    assert world.invoke(fast, {"x": 0}, {"configurable": {"thread_id": "1"}}) == OUT


def test_without_a_thread_where_one_is_needed(world: World, probe: Probe) -> None:
    """LangGraph's own refusal, word for word."""
    graph = two(world, probe, checkpointer=InMemorySaver())
    probe.tally.add("plain")
    errors = []
    for g in (graph, wrap(graph)):
        with pytest.raises(ValueError, match="thread_id") as caught:
            world.invoke(g, {"x": 0})
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


# --- interrupts -------------------------------------------------------------------------------------------------


def test_resuming_another_copy_of_the_graph(world: World, probe: Probe) -> None:
    """The server interrupts one copy and resumes another: all that counts is in the checkpoint."""
    saver = InMemorySaver()

    async def a(state: State) -> Any:
        return {"x": 1}

    async def b(state: State) -> Any:
        return {"log": [interrupt("?")]}

    def build() -> SpeculativeGraph:
        return wrap(chain(State, world.node(a), world.node(b)).compile(checkpointer=saver))

    config = {"configurable": {"thread_id": "1"}}
    (waiting,) = world.invoke(build(), {"x": 0}, config)["__interrupt__"]
    assert waiting.value == "?"
    assert world.invoke(build(), Command(resume={waiting.id: "yes"}), config) == {"x": 1, "log": ["yes"]}


# --- context manager and decorator ---------------------------------------------------------------------------------


def test_a_context_manager_closes(world: World, probe: Probe) -> None:
    with wrap(two(world, probe)) as fast:
        assert isinstance(fast, SpeculativeGraph)
        world.invoke(fast, {"x": 0})
    probe.tally.add("plain")
    assert world.invoke(fast, {"x": 0}) == OUT
    assert fast.report().runs == 1


async def test_an_asynchronous_context_manager_closes(probe: Probe) -> None:
    async with wrap(two(AsyncWorld(), probe)) as fast:
        assert await fast.ainvoke({"x": 0}) == OUT
    probe.tally.add("plain")
    assert await fast.ainvoke({"x": 0}) == OUT
    assert fast.report().runs == 1


OPTIONS: dict[str, Any] = {"speculators": {"a": lambda s: {"x": 1}}, "effects": {"b": "pure"}}


def test_decorating_a_function(world: World, probe: Probe) -> None:
    @speculative(**OPTIONS)
    def make(flag: bool, *, other: int = 1) -> Any:
        """Make it."""
        assert (flag, other) == (True, 2)
        return two(world, probe)

    assert (make.__name__, make.__doc__) == ("make", "Make it.")
    fast = make(True, other=2)
    assert isinstance(fast, SpeculativeGraph)
    assert world.invoke(fast, {"x": 0}) == OUT
    assert fast.report().claimed == 1


def test_decorating_without_options(world: World, probe: Probe) -> None:
    """Nothing may run early and nobody guesses: the graph that comes out runs all the same."""

    @speculative()
    def make() -> Any:
        return two(world, probe)

    probe.tally.add("plain")
    with pytest.warns(SpeculationInactiveWarning, match="draft="):
        fast = make()
    assert world.invoke(fast, {"x": 0}) == OUT


async def test_decorating_a_coroutine_function(probe: Probe) -> None:
    @speculative(**OPTIONS)
    async def make() -> Any:
        return two(AsyncWorld(), probe)

    fast = await make()
    assert isinstance(fast, SpeculativeGraph)
    assert await fast.ainvoke({"x": 0}) == OUT


def test_decorating_a_context_manager(world: World, probe: Probe) -> None:
    """As a server's graph factory that opens something for the graph."""
    events: list[str] = []

    @speculative(**OPTIONS)
    @contextmanager
    def make() -> Iterator[Any]:
        events.append("open")
        try:
            yield two(world, probe)
        finally:
            events.append("close")

    with make() as fast:
        assert isinstance(fast, SpeculativeGraph)
        assert world.invoke(fast, {"x": 0}) == OUT
        assert events == ["open"]
    assert events == ["open", "close"]
    with pytest.raises(LookupError), make():
        raise LookupError
    assert events == ["open", "close"] * 2


async def test_decorating_an_asynchronous_context_manager(probe: Probe) -> None:
    events: list[str] = []

    @speculative(**OPTIONS)
    @asynccontextmanager
    async def make() -> AsyncIterator[Any]:
        events.append("open")
        try:
            yield two(AsyncWorld(), probe)
        finally:
            events.append("close")

    async with make() as fast:
        assert isinstance(fast, SpeculativeGraph)
        assert await fast.ainvoke({"x": 0}) == OUT
    assert events == ["open", "close"]


def test_what_a_run_leaves_in_a_checkpoint_is_only_the_graphs(world: World, probe: Probe) -> None:
    """Nothing of ours is in the checkpoint's metadata or values, which other programs may read."""
    saver = InMemorySaver()
    fast = wrap(two(world, probe, checkpointer=saver))
    config = {"configurable": {"thread_id": "1"}}
    world.invoke(fast, {"x": 0}, config)
    for entry in saver.list(config):
        text = repr((entry.checkpoint, entry.metadata, entry.pending_writes, entry.config))
        assert "speculat" not in text
        pickle.dumps((entry.checkpoint["channel_values"], entry.metadata))


def test_a_running_copy_is_not_disturbed_by_another(probe: Probe) -> None:
    """Two threads run two copies at the same time."""
    import threading

    world = World()
    probe.tally.add("plain")
    fast = wrap(two(world, probe), policy=Policy(depth=2))
    results: list[Any] = []
    done = [Signal(f"{i}") for i in range(4)]

    def work(i: int) -> None:
        results.append(fast.copy().invoke({"x": 0}))
        done[i].set()

    for i in range(4):
        threading.Thread(target=work, args=(i,), daemon=True).start()
    for signal in done:
        signal.block()
    assert results == [OUT] * 4
    assert fast.report().runs == 4
