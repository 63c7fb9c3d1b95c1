"""Every way to stream a run shows the same chunks in the same order, claimed, discarded or plain."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core._api import LangChainBetaWarning
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.config import get_stream_writer
from langgraph.graph import StateGraph, add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode, ToolRuntime

from langgraph_speculative import Policy, speculative
from langgraph_speculative._observe import MODES, Canon
from tests.support import AsyncWorld, ScriptedModel, World, call, chain, drive, says
from tests.twins import Stage, compare

EVERY = (*MODES, "tools") if hasattr(ToolRuntime, "emit_output_delta") else MODES
newer_stream = pytest.mark.skipif(
    not hasattr(CompiledStateGraph, "stream_events"), reason="LangGraph has the newer event stream since 1.2"
)
WORLDS = ("sync", "async", "mixed")


class Chat(TypedDict, total=False):
    x: int
    messages: Annotated[list[AnyMessage], add_messages]


def model() -> ScriptedModel:
    return ScriptedModel(script=lambda ms: says(f"so {ms[-1].content} it is", call("look", q="up")))


def talking(stage: Stage) -> Any:
    """a -> talk -> inner(think -> use) -> last: models, tools, custom chunks, in a nested graph too."""

    async def a(state: Chat) -> Any:
        get_stream_writer()("from a")
        await stage.hold()
        return {"x": 1}

    async def talk(state: Chat) -> Any:
        get_stream_writer()({"talk": state["x"]})
        answer = await stage.world.call(model(), [HumanMessage(f"{state['x']}")])
        get_stream_writer()("talk ends")
        return {"messages": [answer]}

    async def think(state: Chat) -> Any:
        get_stream_writer()("thinking")
        answer = await stage.world.call(model(), [HumanMessage(f"again {state['x']}")])
        return {"messages": [answer]}

    async def _look(q: str, runtime: ToolRuntime) -> ToolMessage:
        emit = getattr(runtime, "emit_output_delta", lambda _: None)  # since LangGraph 1.2
        emit(f"{q}…")
        runtime.stream_writer({"look": q})
        emit("there")
        # With an id of its own: the reducer would give it one in place, while others look at it.
        return ToolMessage(f"looked {q}", tool_call_id=runtime.tool_call_id, id="looked")

    look = tool("look", description="Look.")(stage.world.node(_look))
    inner = StateGraph(Chat)
    inner.add_node("think", stage.node("think", think))
    inner.add_node("use", ToolNode([look]))
    inner.add_edge("__start__", "think")
    inner.add_edge("think", "use")

    async def last(state: Chat) -> Any:
        stage.done("last")
        return {"x": len(state["messages"])}

    builder = chain(Chat, stage.node("a", a), stage.node("talk", talk))
    builder.add_node("inner", inner.compile())
    builder.add_node("last", stage.node("last", last))
    builder.add_edge("talk", "inner")
    builder.add_edge("inner", "last")
    return builder.compile()


EFFECTS = {"a": "pure", "talk": "pure", "think": "pure", "look": "read", "last": "pure"}


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
@pytest.mark.parametrize("subgraphs", [True, False])
@pytest.mark.parametrize("modes", [[m] for m in EVERY] + [list(EVERY), ["messages", "updates"]], ids=",".join)
def test_stream_modes(world: World, modes: list[str], subgraphs: bool, guess: int) -> None:
    both = compare(
        world,
        talking,
        {"x": 0},
        guesses={"a": lambda s: {"x": guess}},
        effects=EFFECTS,
        until="last",
        depth=5,
        modes=modes,
        subgraphs=subgraphs,
    )
    assert both.claimed == (4 if guess == 1 else 0)
    silent = modes == ["checkpoints"] or (modes == ["tools"] and not subgraphs)
    assert silent or both.plain[0].chunks


@pytest.mark.parametrize("version", ["v2", pytest.param("v3", marks=newer_stream)])
@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
async def test_asynchronous_event_streams(version: Any, guess: int) -> None:
    async def events(graph: Any) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LangChainBetaWarning)
            stream = graph.astream_events({"x": 0}, version=version)
            return [event async for event in (await stream if version == "v3" else stream)]

    plain, fast = Stage(AsyncWorld()), Stage(AsyncWorld(), fast=True)
    expected = await events(talking(plain))
    fast.until = fast.probe.tally.reached("last")
    graph = speculative(
        talking(fast), speculators={"a": lambda s: {"x": guess}}, effects=EFFECTS, policy=Policy(depth=5)
    )
    actual = await events(graph)
    assert names(actual) == names(expected)
    assert comparable(actual) == comparable(expected)
    assert graph.report().claimed == (4 if guess == 1 else 0)


@newer_stream
@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
def test_the_synchronous_event_stream(guess: int) -> None:
    def events(graph: Any) -> list[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LangChainBetaWarning)
            return list(graph.stream_events({"x": 0}, version="v3"))

    plain, fast = Stage(World()), Stage(World(), fast=True)
    expected = events(talking(plain))
    fast.until = fast.probe.tally.reached("last")
    graph = speculative(
        talking(fast), speculators={"a": lambda s: {"x": guess}}, effects=EFFECTS, policy=Policy(depth=5)
    )
    actual = events(graph)
    assert names(actual) == names(expected)
    assert comparable(actual) == comparable(expected)
    assert graph.report().claimed == (4 if guess == 1 else 0)


def names(events: list[Any]) -> list[Any]:
    return [(e.get("event"), e.get("name"), e.get("method"), e.get("seq")) for e in events]


def comparable(events: list[Any]) -> list[Any]:
    canon = Canon()
    return [canon(e) for e in events]


class Pausing(ScriptedModel):
    """Between its first and its second word it waits until the user has seen the first."""

    stage: Any = None

    def _stream(self, *args: Any, **kwargs: Any) -> Any:
        chunks = super()._stream(*args, **kwargs)
        yield next(chunks)
        self.stage.done("first word")
        drive(self.stage.hear())
        yield from chunks

    async def _astream(self, *args: Any, **kwargs: Any) -> Any:
        chunks = super()._astream(*args, **kwargs)
        yield await anext(chunks)
        self.stage.done("first word")
        await self.stage.hear()
        async for chunk in chunks:
            yield chunk


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("how", ["invoke", "stream"])
def test_tokens_of_a_claimed_running_call_are_live(world: World, how: str, nested: bool) -> None:
    """The run claims the call after its first word; the second is spoken only when the user has heard the first."""

    def build(stage: Stage) -> Any:
        slow = Pausing(script=lambda ms: says("one two three"), stage=stage)

        async def a(state: Chat) -> Any:
            await stage.hold()
            return {"x": 1}

        async def talk(state: Chat) -> Any:
            if how == "invoke":
                return {"messages": [await stage.world.call(slow, "go")]}
            if stage.world.name != "async":
                return {"messages": [sum_of(list(slow.stream("go")))]}
            return {"messages": [sum_of([c async for c in slow.astream("go")])]}

        talking = stage.node("talk", talk)
        builder = chain(Chat, stage.node("a", a))
        if nested:
            builder.add_node("inner", chain(Chat, talking, names=["talk"]).compile())
        else:
            builder.add_node("talk", talking)
        builder.add_edge("a", "inner" if nested else "talk")
        return builder

    both = compare(
        world,
        build,
        {"x": 0},
        guesses={"a": lambda s: {"x": 1}},
        effects={"talk": "pure"},
        until="first word",
        listen=lambda chunk: chunk[1] == "messages",
    )
    assert both.claimed == 1
    assert [c for c in both.fast[0].chunks if c.fields["items"][1] == "messages"]


def sum_of(chunks: list[Any]) -> Any:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return whole
