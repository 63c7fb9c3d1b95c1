"""What a pre-execution emits is held until the claim, and dropped without one."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import (
    UsageMetadataCallbackHandler,
    adispatch_custom_event,
    dispatch_custom_event,
    get_usage_metadata_callback,
)
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.context import collect_runs
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store, get_stream_writer
from langgraph.graph import StateGraph, add_messages
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import CachePolicy

from langgraph_speculative import Policy, SpeculativeGraph, speculative
from langgraph_speculative._observe import MODES, Canon, Recorder
from tests.support import AsyncWorld, Probe, ScriptedModel, Signal, World, chain, observe, says


class Chat(TypedDict, total=False):
    x: int
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[Any], operator.add]


def talker(world: World, probe: Probe, *, waits: bool, until: Signal | None = None) -> Any:
    """a -> talk -> end, where `talk` calls a chat model and writes to the stream."""
    tally = probe.tally

    async def a(state: Chat) -> Any:
        if waits:
            await (until or tally.reached("talked")).wait()
        get_stream_writer()("from a")
        return {"x": 1}

    model = ScriptedModel(script=lambda ms: says(f"you said {ms[-1].content} to me"))

    async def talk(state: Chat, config: RunnableConfig) -> Any:
        get_stream_writer()({"talk": state["x"]})
        answer = await world.call(model, [HumanMessage(f"{state['x']}")])
        get_stream_writer()("talk ends")
        if waits:
            tally.add("talked")
        return {"messages": [answer]}

    async def end(state: Chat) -> Any:
        return {"log": [state["messages"][-1].content]}

    return chain(Chat, world.node(a), world.node(talk), world.node(end)).compile()


def speculate(graph: Any, guess: int = 1, **kwargs: Any) -> SpeculativeGraph:
    return speculative(graph, speculators={"a": lambda s: {"x": guess}}, effects={"talk": "pure"}, **kwargs)


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
@pytest.mark.parametrize("mode", MODES)
def test_each_stream_mode(world: World, probe: Probe, mode: str, guess: int) -> None:
    plain = observe(world, talker(world, probe, waits=False), {"x": 0}, modes=[mode])
    fast = speculate(talker(world, probe, waits=True), guess)
    assert observe(world, fast, {"x": 0}, modes=[mode]) == plain
    assert fast.report().claimed == (guess == 1)
    if mode in ("messages", "custom"):
        assert len(plain.chunks) > 2


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
def test_all_modes_at_once_keep_their_order(world: World, probe: Probe, guess: int) -> None:
    plain = observe(world, talker(world, probe, waits=False), {"x": 0})
    fast = speculate(talker(world, probe, waits=True), guess)
    assert observe(world, fast, {"x": 0}) == plain


def test_what_comes_after_the_claim_is_live(world: World, probe: Probe) -> None:
    """The first words are out before the node has said the last."""
    heard = Signal("first word")

    async def a(state: Chat) -> Any:
        await probe.tally.reached("talked").wait()
        return {"x": 1}

    async def talk(state: Chat) -> Any:
        get_stream_writer()("first")
        probe.tally.add("talked")
        await heard.wait()
        get_stream_writer()("second")
        return {}

    fast = speculate(chain(Chat, world.node(a), world.node(talk)).compile())

    def keep(chunk: Any) -> Any:
        heard.set()
        return chunk

    assert world.chunks(fast, {"x": 0}, stream_mode="custom", keep=keep) == (["first", "second"], None)
    assert probe.tally["talked"] == 1


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
def test_callbacks_are_those_of_the_plain_run(world: World, probe: Probe, guess: int) -> None:
    """Names, parents, metadata, tags, values and order; nothing of a discarded call."""
    expected, seen = Recorder(), Recorder()
    config = {"tags": ["mine"], "metadata": {"who": "me"}, "run_name": "the run"}
    world.invoke(talker(world, probe, waits=False), {"x": 0}, {**config, "callbacks": [expected]})
    fast = speculate(talker(world, probe, waits=True), guess)
    world.invoke(fast, {"x": 0}, {**config, "callbacks": [seen]})
    assert [e["run"] for e in seen.of("chat_model_start")] == ["ScriptedModel"]
    assert "unknown" not in [e["parent"] for e in seen.events]
    assert seen.events == expected.events


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
def test_usage_is_counted_once(world: World, probe: Probe, guess: int) -> None:
    usage = UsageMetadataCallbackHandler()
    # The branch stops at node `end`, which nobody declared: by then the early call of the model is over.
    fast = speculate(
        talker(world, probe, waits=True, until=probe.watch.saw("stop")),
        guess,
        policy=Policy(depth=2, hooks=(probe.watch,)),
    )
    with fast.track() as report, get_usage_metadata_callback() as ambient:
        world.invoke(fast, {"x": 0}, {"callbacks": [usage]})
    assert usage.usage_metadata["scripted"]["total_tokens"] == 5
    assert ambient.usage_metadata["scripted"]["total_tokens"] == 5
    counted = report.usage["scripted"]
    assert (counted.committed, counted.discarded) == (5, 0 if guess == 1 else 5)


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
def test_tracers_of_the_context_see_the_committed_run_only(world: World, probe: Probe, guess: int) -> None:
    def runs(graph: Any) -> list[Any]:
        with collect_runs() as collected:
            world.invoke(graph, {"x": 0})

        def names(run: Any) -> Any:
            return (run.name, run.run_type, [names(child) for child in run.child_runs])

        return [names(run) for run in collected.traced_runs]

    plain = runs(talker(world, probe, waits=False))
    assert runs(speculate(talker(world, probe, waits=True), guess)) == plain


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
async def test_astream_events(probe: Probe, guess: int) -> None:
    world = AsyncWorld()

    async def events(graph: Any) -> Any:
        canon = Canon()
        return [
            canon({k: v for k, v in e.items() if k != "run_id"})
            async for e in graph.astream_events({"x": 0}, version="v2")
        ]

    plain = await events(talker(world, probe, waits=False))
    fast = await events(speculate(talker(world, probe, waits=True), guess))
    assert [(e["event"], e["name"]) for e in fast] == [(e["event"], e["name"]) for e in plain]
    assert fast == plain


def test_custom_events(world: World, probe: Probe) -> None:
    async def a(state: Chat) -> Any:
        await probe.tally.reached("talked").wait()
        return {"x": 1}

    async def talk(state: Chat, config: RunnableConfig) -> Any:
        if world.name == "async":
            await adispatch_custom_event("said", {"x": state["x"]}, config=config)
        else:
            dispatch_custom_event("said", {"x": state["x"]}, config=config)
        probe.tally.add("talked")
        return {}

    for guess in (1, 2):
        probe.tally.__init__()  # type: ignore[misc]
        seen = Recorder()
        world.invoke(
            speculate(chain(Chat, world.node(a), world.node(talk)).compile(), guess),
            {"x": 0},
            {"callbacks": [seen]},
        )
        assert [e["value"] for e in seen.of("custom:said")] == [{"x": 1}]


def test_a_model_as_a_node_and_a_sequence_as_a_node(world: World, probe: Probe) -> None:
    """Nodes that are runnables: no run more in the callbacks, no chunk less in the stream."""
    model = ScriptedModel(script=lambda ms: says(f"got {len(ms)}"))

    def build(waits: bool) -> Any:
        async def a(state: Chat) -> Any:
            if waits:
                await probe.tally.reached("sequence").wait()
            return {"messages": [HumanMessage("?", id="1")]}

        def note(value: Any) -> Any:
            if waits:
                probe.tally.add("sequence")
            return {"messages": [value]}

        prompt = ChatPromptTemplate.from_messages([("system", "be brief"), ("placeholder", "{messages}")])
        builder = chain(Chat, world.node(a))
        builder.add_node("sequence", prompt | model | RunnableLambda(note))
        builder.add_node("last", RunnableLambda(lambda s: {"log": [len(s["messages"])]}))
        builder.add_edge("a", "sequence")
        builder.add_edge("sequence", "last")
        return builder.compile()

    plain = observe(world, build(False), {"x": 0})
    fast = speculative(
        build(True),
        speculators={"a": lambda s: {"messages": [HumanMessage("?", id="1")]}},
        effects={"sequence": "pure", "last": "pure"},
    )
    assert observe(world, fast, {"x": 0}) == plain
    assert fast.report().claimed >= 1


def test_held_chunks_are_what_they_were_when_written(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: Chat) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: Chat) -> Any:
        progress: dict[str, Any] = {"done": []}
        for i in range(3):
            progress["done"].append(i)
            get_stream_writer()(progress)
        tally.add("b")
        return {}

    fast = speculative(
        chain(Chat, *map(world.node, (a, b))).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"}
    )
    assert world.stream(fast, {"x": 0}, stream_mode="custom") == [{"done": list(range(n))} for n in (1, 2, 3)]
    assert fast.report().claimed == 1


def test_held_events_are_what_they_were_when_reported(world: World, probe: Probe) -> None:
    """A list that goes into a runnable grows after the call."""
    tally = probe.tally

    async def a(state: Chat) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: Chat) -> Any:
        count: Any = RunnableLambda(len).with_config(run_name="count")
        counted: list[Any] = ["first"]
        for _ in range(2):
            counted.append(await world.call(count, counted))
        tally.add("b")
        return {}

    seen = Recorder()
    fast = speculative(
        chain(Chat, *map(world.node, (a, b))).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"}
    )
    world.invoke(fast, {"x": 0}, {"callbacks": [seen]})
    assert fast.report().claimed == 1
    assert [e["value"] for e in seen.of("chain_start") if e["run"] == "count"] == [["first"], ["first", 1]]


# --- store and cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", ["pure", "read"])
@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
def test_the_store_after_the_run(world: World, probe: Probe, guess: int, effect: str) -> None:
    """A node that writes to the store, though it may run early: nothing of it is there before the run is."""
    tally, watch = probe.tally, probe.watch

    def build(waits: bool, store: InMemoryStore) -> Any:
        async def a(state: Chat) -> Any:
            if waits:
                await watch.saw("stop").wait()
                assert tally["b"] == 1
                assert not store.search(("b",)), "a write of the branch is visible"
            return {"x": 1}

        async def b(state: Chat, runtime: Runtime[Any]) -> Any:
            assert runtime.store is not None
            if waits:
                tally.add("b")
            if world.name == "async":
                await runtime.store.aput(("b",), f"{state['x']}", {"x": state["x"]})
                seen = await runtime.store.aget(("b",), f"{state['x']}")
            else:
                runtime.store.put(("b",), f"{state['x']}", {"x": state["x"]})
                seen = runtime.store.get(("b",), f"{state['x']}")
            return {"log": [seen.value if seen else None]}

        async def c(state: Chat) -> Any:
            found = await get_store().asearch(("b",)) if world.name == "async" else get_store().search(("b",))
            return {"log": [sorted(i.key for i in found)]}

        async def end(state: Chat) -> Any:
            return {}

        return chain(Chat, *map(world.node, (a, b, c, end))).compile(store=store)

    expected_store, store = InMemoryStore(), InMemoryStore()
    expected = observe(world, build(False, expected_store), {"x": 0})
    fast = speculative(
        build(True, store),
        speculators={"a": lambda s: {"x": guess}},
        effects={"a": "pure", "b": effect, "c": effect},
        policy=Policy(depth=3, hooks=(watch,)),
    )
    assert observe(world, fast, {"x": 0}) == expected


def test_a_stale_read_of_the_store_is_not_claimed(world: World, probe: Probe) -> None:
    """Node a changes what b has read early: the claim checks that the store still says the same."""
    tally = probe.tally
    store = InMemoryStore()
    store.put(("n",), "k", {"v": "old"})

    async def a(state: Chat) -> Any:
        await tally.reached("b").wait()
        store.put(("n",), "k", {"v": "new"})
        return {"x": 1}

    async def b(state: Chat, runtime: Runtime[Any]) -> Any:
        assert runtime.store is not None
        item = await _get(runtime.store)
        tally.add("b")
        return {"log": [item.value["v"]]}

    async def _get(held: Any) -> Any:
        return await held.aget(("n",), "k") if world.name == "async" else held.get(("n",), "k")

    fast = speculative(
        chain(Chat, world.node(a), world.node(b)).compile(store=store),
        speculators={"a": lambda s: {"x": 1}},
        effects={"a": "pure", "b": "read"},
    )
    assert world.invoke(fast, {"x": 0})["log"] == ["new"]


def test_a_discarded_result_is_not_cached(world: World, probe: Probe) -> None:
    """The node cache holds what the plain graph would have put there."""
    tally = probe.tally
    cache = InMemoryCache()

    async def a(state: Chat) -> Any:
        if tally["b"] == 0:
            await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: Chat) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    builder = chain(Chat, world.node(a))
    builder.add_node("b", world.node(b), cache_policy=CachePolicy(key_func=lambda s: f"{s['x']}"))
    builder.add_edge("a", "b")
    fast = speculative(builder.compile(cache=cache), speculators={"a": lambda s: {"x": 2}}, effects={"b": "pure"})
    assert world.invoke(fast, {"x": 0})["log"] == [1]
    executions = tally["b"]
    assert [list(c) for c in world.stream(fast, {"x": 0}, stream_mode="updates")] == [["a"], ["b", "__metadata__"]]
    assert tally["b"] in (executions, executions + 1)  # cached for the run; a branch may compute it again


def cached_steps(world: World, probe: Probe, cache: Any, *, beside: bool) -> Any:
    """Node a, then b from the node cache, with another node beside it or alone, then c."""
    tally = probe.tally

    async def a(state: Chat) -> Any:
        if tally.add("a") > 1:
            await tally.reached("c", 2).wait()
        return {"x": 1}

    async def b(state: Chat) -> Any:
        tally.add("b")
        return {"log": [f"b{state['x']}"]}

    async def other(state: Chat) -> Any:
        return {"log": ["other"]}

    async def c(state: Chat) -> Any:
        tally.add("c")
        return {"log": [list(state["log"])]}

    builder = chain(Chat, world.node(a))
    builder.add_node("b", world.node(b), cache_policy=CachePolicy(key_func=lambda s: f"{s['x']}"))
    builder.add_node("c", world.node(c))
    builder.add_edge("a", "b")
    if beside:
        builder.add_node("other", world.node(other))
        builder.add_edge("a", "other")
        builder.add_edge(["b", "other"], "c")
    else:
        builder.add_edge("b", "c")
    return builder.compile(cache=cache)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another"])
def test_a_branch_reads_the_node_cache(world: World, probe: Probe, beside: bool) -> None:
    """A cached node is not executed early either, and the branch goes on behind it."""
    graph = cached_steps(world, probe, InMemoryCache(), beside=beside)
    plain = world.invoke(graph, {"x": 0})
    fast = speculative(
        graph,
        speculators={"a": lambda s: {"x": 1}},
        effects={"*": "pure"},
        policy=Policy(depth=2),
    )
    chunks = world.stream(fast, {"x": 0}, stream_mode=["updates", "values"])
    assert chunks[-1][1] == plain
    assert ("updates", {"b": {"log": ["b1"]}, "__metadata__": {"cached": True}}) in chunks
    assert probe.tally["b"] == 1
    assert probe.tally["c"] == 2
    assert fast.report().claimed == 1 + beside
    assert not fast.report().errors


def test_a_cache_that_raises_in_a_branch_is_passed_over(world: World, probe: Probe) -> None:
    tally = probe.tally

    class Failing(InMemoryCache[Any]):
        def get(self, keys: Any) -> Any:
            if tally.add("get") > 1:
                raise ValueError("no connection")
            return super().get(keys)

    def stopped(event: Any) -> None:
        # What `a` waits for, as no branch comes to it.
        if event.kind == "stop":
            tally.add("c")

    graph = cached_steps(world, probe, Failing(), beside=False)
    world.invoke(graph, {"x": 0})
    fast = speculative(
        graph,
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(depth=2, hooks=(stopped,)),
    )
    with pytest.raises(ValueError, match="no connection"):
        world.invoke(fast, {"x": 0})
    assert "the node cache raised ValueError" in fast.report().stopped
    assert not fast.report().errors


@pytest.mark.parametrize("how", ["a node", "called by a node"])
def test_a_nested_graphs_own_cache_holds_nothing_of_a_branch(world: World, probe: Probe, how: str) -> None:
    tally, cache = probe.tally, InMemoryCache[Any]()

    async def deep(state: Chat) -> Any:
        tally.add("deep")
        return {"x": state["x"] + 1}

    builder = chain(Chat, world.node(deep))
    builder.nodes["deep"].cache_policy = CachePolicy(key_func=lambda s: f"{s['x']}")  # type: ignore[misc]
    nested = builder.compile(cache=cache)

    async def calls(state: Chat) -> Any:
        return {"x": (await world.call(nested, {"x": state["x"]}))["x"]}

    async def a(state: Chat) -> Any:
        await tally.reached("deep").wait()
        await probe.watch.saw("launch").wait()
        return {"x": 1}

    b = nested if how == "a node" else world.node(calls)
    fast = speculative(
        chain(Chat, world.node(a), b, names=["a", "b"]).compile(),
        speculators={"a": lambda s: {"x": 7}},
        effects={"*": "pure"},
        policy=Policy(hooks=(probe.watch,)),
    )
    assert world.invoke(fast, {"x": 0})["x"] == 2
    assert tally["deep"] == 2
    assert [len(held) for held in cache._cache.values()] == [1], "of the run alone"


# --- the user's own stream and store calls work in a branch -------------------------------------------------------

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "get_stream_writer": lambda s, r: get_stream_writer()("x"),
    "runtime.stream_writer": lambda s, r: r.stream_writer("x"),
    "get_store": lambda s, r: get_store().search(("none",)),
    "runtime.store": lambda s, r: r.store.search(("none",)),
    "context": lambda s, r: r.context["tenant"],
}


@pytest.mark.parametrize("what", CALLS)
def test_the_calls_of_a_node_work_early(probe: Probe, what: str) -> None:
    world = World()
    tally = probe.tally

    async def a(state: Chat) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: Chat, runtime: Runtime[Any]) -> Any:
        CALLS[what](state, runtime)
        tally.add("b")
        return {"log": ["b"]}

    builder: Any = StateGraph(Chat, context_schema=dict)
    builder.add_node("a", world.node(a))
    builder.add_node("b", world.node(b))
    builder.add_edge("__start__", "a")
    builder.add_edge("a", "b")
    graph = builder.compile(store=InMemoryStore(), checkpointer=InMemorySaver())
    fast = speculative(graph, speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    out = world.invoke(fast, {"x": 0}, {"configurable": {"thread_id": "1"}}, context={"tenant": 1})
    assert out["log"] == ["b"]
