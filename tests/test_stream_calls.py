"""Tool calls are started while the model still writes its message, and nobody can see it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ToolStrategy
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessageChunk, AnyMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import MessagesState, StateGraph, add_messages
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import InjectedState, ToolNode, create_react_agent, tools_condition
from pydantic import BaseModel

from langgraph_speculative import Guess, Policy, SpeculationError, SpeculationInactiveWarning, speculative
from langgraph_speculative._branch import Verdict
from langgraph_speculative._ledger import Ledger
from langgraph_speculative._nodes import ToolInfo
from langgraph_speculative._session import Session
from langgraph_speculative.speculators import Stream
from langgraph_speculative.testing import check_same_run
from tests.support import LIMIT, Probe, ScriptedModel, Signal, Tally, Watch, World, call, chain, says, turns

ASK = {"messages": [HumanMessage("how much?", id="ask")]}


def text(words: str) -> AIMessageChunk:
    return AIMessageChunk(content=words)


def part(index: int, call_id: str | None, name: str | None, args: str) -> AIMessageChunk:
    piece: Any = {"index": index, "id": call_id, "name": name, "args": args, "type": "tool_call_chunk"}
    return AIMessageChunk(content="", tool_call_chunks=[piece])


def looks(index: int, call_id: str, what: str, name: str = "look") -> list[Any]:
    """A call in three chunks."""
    return [
        part(index, call_id, name, ""),
        part(index, None, None, '{"what": '),
        part(index, None, None, f'"{what}"}}'),
    ]


class Writing(ScriptedModel):
    """A chat model whose script is a list of chunks for each turn; at a signal in it, it waits; an error it raises."""

    def _turn(self, messages: list[Any]) -> list[Any]:
        out: list[Any] = self.script(messages)
        return out

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for item in self._turn(messages):
            if isinstance(item, Signal):
                item.block()
            elif isinstance(item, Exception):
                raise item
            else:
                yield ChatGenerationChunk(message=item.model_copy())

    async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for item in self._turn(messages):
            if isinstance(item, Signal):
                await item.wait()
            elif isinstance(item, Exception):
                raise item
            else:
                yield ChatGenerationChunk(message=item.model_copy())


def tools(watch: Watch, kind: str) -> list[str]:
    """The tools whose calls were launched, claimed or discarded. (A branch may go on to the next model call, too.)"""
    return sorted(e.tool for e in watch.of(kind) if e.tool)


def once(*items: Any, then: str = "all seen") -> Writing:
    """Writes these chunks first, and a few words once a tool has answered."""
    return Writing(script=lambda ms: [text(then)] if isinstance(ms[-1], ToolMessage) else list(items))


def looker(tally: Tally, name: str = "look", hold: Signal | None = None) -> Any:
    def body(what: str) -> str:
        """Look."""
        tally.add(f"{name} {what}")
        if hold is not None:
            hold.block()
        return f"seen {what}"

    return tool(name)(body)


def factory(build: Callable[[Tally, Callable[[str], Signal]], Any]) -> tuple[Callable[[], Any], list[Tally]]:
    """Makes the plain graph, and then one whose model waits until the named things have been counted."""
    tallies: list[Tally] = []
    numbers = itertools.count()

    def make() -> Any:
        tally = Tally()
        tallies.append(tally)
        waits = next(numbers) > 0
        return build(tally, lambda name: tally.reached(name, int(waits)))

    return make, tallies


def own_graph(model: Any, tools: list[Any], node: Any = None) -> Any:
    """A graph of the user's own whose node calls a model."""

    async def think(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def think_in_thread(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("think", node or RunnableLambda(think_in_thread, afunc=think))
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge("__start__", "think")
    builder.add_conditional_edges("think", tools_condition)
    builder.add_edge("tools", "think")
    return builder.compile()


KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "create_agent": (create_agent, {"effects": {"look": "read"}}),
    "named": (lambda m, t: create_agent(m, t, name="anna"), {"effects": {"look": "read"}}),
    "react v1": (lambda m, t: create_react_agent(m, t, version="v1"), {"effects": {"look": "read"}}),
    "react v2": (lambda m, t: create_react_agent(m, t, version="v2"), {"effects": {"look": "read"}}),
    "pure node": (own_graph, {"effects": {"look": "read", "think": "pure"}, "speculators": {"think": Stream()}}),
    "undeclared node": (own_graph, {"effects": {"look": "pure"}, "speculators": {"think": Stream()}}),
}


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
@pytest.mark.parametrize("kind", KINDS)
def test_calls_begin_before_the_message_ends(kind: str, sync: bool) -> None:
    make, options = KINDS[kind]

    def build(tally: Tally, wait: Callable[[str], Signal]) -> Any:
        first, second = looks(0, "c1", "a"), looks(1, "c2", "b")
        model = once(text("let me "), text("see"), *first, wait("look a"), *second, wait("look b"), text(""))
        return make(model, [looker(tally)])

    graphs, (plain, fast) = _pair(build)
    watch = Watch()
    # A tool node makes its calls in parallel, so that their callbacks come in any order.
    report = check_same_run(graphs, ASK, sync=sync, ordered=False, policy=Policy(hooks=(watch,)), **options)
    assert tools(watch, "launch") == tools(watch, "claim") == ["look", "look"]
    assert (report.speculator_calls, report.windows) == (0, 0)
    for tally in (plain, fast):
        assert {w: tally[f"look {w}"] for w in "ab"} == {"a": 1, "b": 1}


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_the_name_of_an_agent_is_not_on_what_its_early_model_has_reported(sync: bool) -> None:
    """The agent writes it on the answer when handlers have seen that. (The second call ran early if its tool did.)"""

    def build(tally: Tally, wait: Callable[[str], Signal]) -> Any:
        def script(messages: list[Any]) -> list[Any]:
            answered = sum(isinstance(m, ToolMessage) for m in messages)
            return [[wait("look b"), *looks(0, "c1", "a")], looks(0, "c2", "b"), [text("all seen")]][answered]

        return create_agent(Writing(script=script), [looker(tally)], name="anna")

    def guess(state: Any) -> Any:
        if len(state["messages"]) > 1:
            return None
        message = says("", call("look", what="a"))
        message.name = "anna"
        return {"messages": [message]}

    graphs, _ = _pair(build)
    report = check_same_run(
        graphs, ASK, sync=sync, speculators={"model": guess}, effects={"look": "read"}, policy=Policy(depth=6)
    )
    assert report.claimed >= 3


def _pair(build: Any) -> tuple[Callable[[], Any], list[Tally]]:
    """The factory, and the tallies of both graphs (made now, so that they can be named)."""
    make, tallies = factory(build)
    made = [make(), make()]
    return (lambda: made.pop(0)), tallies


@pytest.mark.parametrize("name", [None, "anna"])
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_a_tool_that_sees_the_state_is_claimed_where_the_message_is_complete(sync: bool, name: Any) -> None:
    def build(tally: Tally, wait: Callable[[str], Signal]) -> Any:
        @tool
        def count(what: str, state: Annotated[Any, InjectedState]) -> str:
            """Count."""
            tally.add("count")
            return f"{what} {len(state['messages'])} {state['messages'][-1].text}"

        return create_agent(
            once(text("I count "), *looks(0, "c1", "a", "count"), wait("count"), text("")), [count], name=name
        )

    graphs, (plain, fast) = _pair(build)
    check_same_run(graphs, ASK, sync=sync, effects={"count": "read"})
    assert (plain["count"], fast["count"]) == (1, 1)


def test_a_model_that_would_not_stream_does_not() -> None:
    tally = Tally()

    class Whole(ScriptedModel):
        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("it streams")

    model = Whole(script=turns(lambda: says("", call("look", what="a")), lambda: says("done")))
    fast = speculative(create_agent(model, [looker(tally)]), effects={"look": "read"})
    assert fast.invoke(ASK)["messages"][-1].content == "done"
    assert (tally["look a"], fast.report().guesses, fast.report().launched) == (1, 0, 0)


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_nobody_finds_the_reader(sync: bool) -> None:
    """Neither a node that looks at its callbacks, nor a handler that looks at its neighbours."""
    found: list[list[str]] = []

    def build(tally: Tally, wait: Callable[[str], Signal]) -> Any:
        model = once(*looks(0, "c1", "a"), wait("look a"))

        def note(_: Any, config: RunnableConfig) -> None:
            own: Any = config["callbacks"]
            found.append([type(h).__name__ for h in (*own.handlers, *own.inheritable_handlers)])

        def think(state: MessagesState, config: RunnableConfig) -> Any:
            note(None, config)
            RunnableLambda(note).invoke(None, config)
            return {"messages": [model.invoke(state["messages"], config)]}

        return own_graph(model, [looker(tally)], think)

    graphs, _ = _pair(build)
    report = check_same_run(graphs, ASK, sync=sync, effects={"look": "pure"}, speculators={"think": Stream()})
    assert report.claimed == 1
    assert found[:4] == found[4:]
    assert len(found) == 8


class Twice:
    """Calls its model again where it lost the connection. (LangChain's own retry tags its runs by chance.)"""

    def __init__(self, model: Any) -> None:
        self.model = model

    def invoke(self, messages: Any) -> Any:
        try:
            return self.model.invoke(messages)
        except ConnectionError:
            return self.model.invoke(messages)

    async def ainvoke(self, messages: Any) -> Any:
        try:
            return await self.model.ainvoke(messages)
        except ConnectionError:
            return await self.model.ainvoke(messages)


@pytest.mark.parametrize("same", [True, False], ids=["same", "other"])
@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_an_attempt_that_failed_leaves_nothing_in_the_next(sync: bool, same: bool) -> None:
    attempts = itertools.count()

    def build(tally: Tally, wait: Callable[[str], Signal]) -> Any:
        def script(messages: list[Any]) -> list[Any]:
            if isinstance(messages[-1], ToolMessage):
                return [text("done")]
            if next(attempts) % 2 == 0:
                return [*looks(0, "c1", "a"), wait("look a"), *looks(1, "c2", "z")[:2], ConnectionError("lost")]
            return [*looks(0, "c3", "a" if same else "b"), wait("look a" if same else "look b"), text("")]

        return own_graph(Twice(Writing(script=script)), [looker(tally)])

    graphs, (_, fast) = _pair(build)
    watch = Watch()
    check_same_run(
        graphs,
        ASK,
        sync=sync,
        effects={"look": "read", "think": "pure"},
        speculators={"think": Stream()},
        policy=Policy(hooks=(watch,)),
    )
    assert (len(tools(watch, "claim")), len(tools(watch, "discard"))) == (1, 0 if same else 1)
    assert (fast["look a"], fast["look b"], fast["look z"]) == (1, 0 if same else 1, 0)


def test_models_of_an_agent_inside_the_node_are_not_the_nodes() -> None:
    def build(tally: Tally, wait: Callable[[str], Signal]) -> Any:
        inner = create_agent(once(*looks(0, "i1", "inside")), [looker(tally)])
        model = once(*looks(0, "c1", "a"), wait("look a"))

        async def think(state: MessagesState) -> Any:
            if not isinstance(state["messages"][-1], ToolMessage):
                await inner.ainvoke(ASK)
            return {"messages": [await model.ainvoke(state["messages"])]}

        return own_graph(model, [looker(tally)], think)

    graphs, (_, fast) = _pair(build)
    watch = Watch()
    check_same_run(
        graphs,
        ASK,
        effects={"look": "read", "think": "pure"},
        speculators={"think": Stream()},
        policy=Policy(hooks=(watch,)),
    )
    assert (len(watch.of("guess")), tools(watch, "launch"), tools(watch, "claim")) == (1, ["look"], ["look"])
    assert (fast["look inside"], fast["look a"]) == (1, 1)


class Answer(BaseModel):
    """The answer."""

    what: str


def test_structured_output_and_unknown_tools_are_no_calls() -> None:
    model = once(*looks(0, "c1", "a", "Answer"))
    fast = speculative(
        create_agent(model, [looker(Tally())], response_format=ToolStrategy(Answer)), effects={"look": "read"}
    )
    chunks = list(fast.stream(ASK, stream_mode=["messages", "values"]))
    assert chunks[-1][1]["structured_response"] == Answer(what="a")
    assert fast.report().guesses == 0


def test_what_nobody_declared_waits_for_the_run(world: World, probe: Probe) -> None:
    tally = probe.tally
    model = once(
        *looks(0, "c1", "a"), tally.reached("look a"), *looks(1, "c2", "b", "pay"), probe.watch.saw("stop"), text("")
    )
    agent = create_agent(model, [looker(tally), looker(tally, "pay")])
    fast = speculative(agent, effects={"look": "read"}, policy=Policy(hooks=(probe.watch,)))
    world.stream(fast, ASK, stream_mode="messages")
    report = fast.report()
    # The payment fences the read, or does not: both begin at once.
    assert (tools(probe.watch, "launch"), tally["pay b"]) == (["look"], 1)
    assert report.early_irreversible_calls == 0
    assert report.stopped["undeclared tool 'tools.pay'"].count == 1


def test_it_takes_no_place_from_other_guesses(world: World, probe: Probe) -> None:
    """With a breadth of 1 both the wrong guess and the message that is being written are acted on."""
    tally = probe.tally
    model = once(tally.reached("look wrong"), *looks(0, "c1", "a"), tally.reached("look a"), text(""))
    fast = speculative(
        create_agent(model, [looker(tally)]),
        speculators={
            "model": lambda state: (
                [] if len(state["messages"]) > 1 else Guess({"messages": [says("", call("look", what="wrong"))]})
            )
        },
        effects={"look": "read"},
        policy=Policy(hooks=(probe.watch,)),
    )
    world.stream(fast, ASK, stream_mode="messages")
    report = fast.report()
    assert (len(tools(probe.watch, "claim")), len(tools(probe.watch, "discard")), tally["look a"]) == (1, 1, 1)
    # The guess was wrong; that the stream was right is no merit of the Speculator's.
    assert report.windows >= 1
    assert report.window_hits == 0


@pytest.mark.parametrize("injected", [False, True])
def test_a_right_guess_and_the_stream_share_their_calls(
    world: World, probe: Probe, monkeypatch: pytest.MonkeyPatch, injected: bool
) -> None:
    """Also where the tool sees the state, and with it the ids that the guess has made up."""
    tally = probe.tally

    def counted(method: str) -> Any:
        find = getattr(Ledger, method)

        def finds(self: Ledger, info: Any, *args: Any) -> Any:
            found = find(self, info, *args)
            if found is not None and isinstance(info, ToolInfo):
                tally.add("shared")
            return found

        return finds

    for method in ("share", "covers"):
        monkeypatch.setattr(Ledger, method, counted(method))

    @tool("look")
    def seeing(what: str, state: Annotated[Any, InjectedState]) -> str:
        """Look, and see the state."""
        tally.add(f"look {what}")
        return f"seen {what}"

    # The stream's branch has found the call before the run claims it.
    model = once(tally.reached("look a"), *looks(0, "c1", "a"), tally.reached("shared"), text(""))
    fast = speculative(
        create_agent(model, [seeing if injected else looker(tally)]),
        speculators={
            "model": lambda state: (
                None if len(state["messages"]) > 1 else {"messages": [says("", call("look", what="a"))]}
            )
        },
        effects={"look": "read"},
        policy=Policy(hooks=(probe.watch,)),
    )
    world.stream(fast, ASK, stream_mode="messages")
    assert tally["look a"] == 1
    assert tools(probe.watch, "launch") == tools(probe.watch, "claim") == ["look"]
    assert fast.report().window_hits == 1


def test_no_model_and_no_speculator_is_asked_on_an_unfinished_message(world: World, probe: Probe) -> None:
    tally = probe.tally
    asked: list[Any] = []

    def script(messages: list[Any]) -> list[Any]:
        tally.add("model")
        if isinstance(messages[-1], ToolMessage):
            return [text("done")]
        return [
            *looks(0, "c1", "a"),
            probe.watch.saw("launch"),
            tally.reached("look a"),
            *looks(1, "c2", "b"),
            tally.reached("look b"),  # else the run and the branch might come to it in the same moment
            text("x"),
        ]

    def of_tools(value: Any) -> None:
        asked.append(value)

    fast = speculative(
        create_react_agent(Writing(script=script), [looker(tally)], version="v1"),
        speculators={"tools": of_tools},
        effects={"look": "read"},
        policy=Policy(depth=4, hooks=(probe.watch,)),
    )
    world.stream(fast, ASK, stream_mode="messages")
    assert fast.drain(LIMIT) == 0
    assert tally["model"] == 2
    assert [len(v["messages"][-1].tool_calls) for v in asked] in ([], [2])
    assert (tally["look a"], tally["look b"]) == (1, 1)


def test_no_other_node_runs_on_an_unfinished_message(world: World, probe: Probe) -> None:
    tally = probe.tally
    model = once(*looks(0, "c1", "a"), tally.reached("look a"), *looks(1, "c2", "b"), tally.reached("look b"), text(""))

    async def think(state: MessagesState) -> Any:
        return {"messages": [await world.call(model, state["messages"])]}

    def log(state: MessagesState) -> Any:
        tally.add("log")

    builder = chain(MessagesState, world.node(think))
    builder.add_node("tools", ToolNode([looker(tally)]))
    builder.add_node("log", log)
    builder.add_conditional_edges("think", lambda state: ["tools", "log"], ["tools", "log"])
    fast = speculative(
        builder.compile(),
        speculators={"think": Stream()},
        effects={"think": "pure", "log": "pure", "look": "read"},
        policy=Policy(depth=3),
    )
    world.stream(fast, ASK, stream_mode="messages")
    assert (tally["look a"], tally["look b"], tally["log"]) == (1, 1, 1)


def test_of_a_message_only_the_latest_part_is_acted_on(
    world: World, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Session] = []
    verdicts: list[list[Verdict]] = []

    class Kept(Session):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            sessions.append(self)

    def look_at(event: Any) -> None:
        if event.kind == "guess":
            executions = {ex for frame in sessions[0].tree.frames for ex in frame.executions}
            verdicts.append([p.verdict for ex in executions for p in ex.proposals])

    monkeypatch.setattr("langgraph_speculative._speculation.Session", Kept)
    tally = probe.tally
    model = once(*looks(0, "c1", "a"), tally.reached("look a"), *looks(1, "c2", "b"), tally.reached("look b"), text(""))
    fast = speculative(create_agent(model, [looker(tally)]), effects={"look": "read"}, policy=Policy(hooks=(look_at,)))
    world.stream(fast, ASK, stream_mode="messages")
    assert verdicts == [[], [Verdict.WRONG]]


class Chat(TypedDict, total=False):
    x: int
    messages: Annotated[list[AnyMessage], add_messages]


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_the_stream_of_a_model_that_runs_early_is_read_too(sync: bool) -> None:
    """a is guessed; the model behind it runs in a branch, and its tool begins before either has ended."""

    def build(tally: Tally, wait: Callable[[str], Signal]) -> Any:
        held = wait("look a")
        model = once(text("so"), *looks(0, "c1", "a"), held, text(""))
        agent = own_graph(model, [looker(tally)])

        def a(state: Chat) -> Any:
            held.block()
            return {"x": 1}

        def last(state: Chat) -> Any:
            return {"x": len(state["messages"])}

        builder = chain(Chat, a)
        builder.add_node("think", agent.builder.nodes["think"].runnable)
        builder.add_node("tools", ToolNode([looker(tally)]))
        builder.add_node("last", last)
        builder.add_edge("a", "think")
        builder.add_edge("think", "tools")
        builder.add_edge("tools", "last")
        return builder.compile()

    graphs, (_, fast) = _pair(build)
    report = check_same_run(
        graphs,
        {"x": 0, **ASK},
        sync=sync,
        speculators={"a": lambda s: {"x": 1}, "think": Stream()},
        effects={"a": "pure", "think": "pure", "look": "read"},
        policy=Policy(depth=2),
    )
    assert report.claimed >= 2
    assert fast["look a"] == 1


async def test_a_cancelled_run_leaves_nothing() -> None:
    started, cut = Signal("started"), Signal("cut off")

    @tool
    async def look(what: str) -> str:
        """Look."""
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cut.set()
        return what

    model = once(*looks(0, "c1", "a"), Signal("never"))
    fast = speculative(create_agent(model, [look]), effects={"look": "read"})
    before = asyncio.all_tasks()

    async def run() -> None:
        async for _ in fast.astream(ASK, stream_mode="messages"):
            pass

    task = asyncio.create_task(run())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cut.is_set
    assert asyncio.all_tasks() == before
    assert (fast.report().launched, fast.report().discarded) == (1, 1)


@pytest.mark.skipif(not hasattr(CompiledStateGraph, "stream_events"), reason="LangGraph has it since 1.2")
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_the_newer_event_stream(probe: Probe) -> None:
    tally = probe.tally
    first, second = looks(0, "c1", "a"), looks(1, "c2", "b")
    model = once(text("so"), *first, tally.reached("look a"), *second, tally.reached("look b"), text(""))
    fast = speculative(create_agent(model, [looker(tally)]), effects={"look": "read"})
    assert list(fast.stream_events(ASK, version="v3"))
    assert (tally["look a"], tally["look b"]) == (1, 1)
    assert fast.report().claimed >= 1


# --- who has it -----------------------------------------------------------------------------------------------------


def active(agent: Any, **options: Any) -> list[str]:
    fast = speculative(agent, **options)
    return [i.label for i in fast._speculation.rewritten.all_infos() if i.called]


def test_model_nodes_have_it_unless_no_speculator_is_wanted() -> None:
    def agent() -> Any:
        return create_agent(once(), [looker(Tally())])

    read = {"effects": {"look": "read"}}
    assert active(agent(), **read) == ["model"]
    assert active(agent(), **read, speculators={"model": lambda s: None}) == ["model"]
    assert active(agent(), **read, speculators={}) == []
    assert active(agent(), **read, draft=agent()) == ["model"]
    assert active(agent(), **read, draft=agent(), speculators={}) == []
    with pytest.warns(SpeculationInactiveWarning, match="Undeclared: 'look'"):
        assert active(agent()) == []
    node = {"effects": {"look": "read", "think": "pure"}}
    own = own_graph(once(), [looker(Tally())])
    with pytest.warns(SpeculationInactiveWarning, match="no node has a Speculator"):
        assert active(own, **node) == []
    assert active(own, **node, speculators={"think": Stream()}) == ["think"]


def test_it_is_drawn() -> None:
    fast = speculative(create_agent(once(), [looker(Tally())]), effects={"look": "read"})
    assert fast.get_graph(speculation=True).nodes["speculate_model"].metadata == {"by": "Stream"}
    assert "speculate_model" not in fast.get_graph().nodes


def test_what_it_refuses() -> None:
    graph = own_graph(once(), [looker(Tally())])
    with pytest.raises(SpeculationError, match=r"'tools'.*calls a chat model.*tool node"):
        speculative(graph, speculators={"tools": Stream()})
    with pytest.raises(SpeculationError, match="output='x'"):
        Stream(output="x")  # type: ignore[arg-type]

    class Other(TypedDict, total=False):
        talk: Annotated[list[AnyMessage], add_messages]

    def think(state: Other) -> Any:
        return {"talk": [once().invoke(state["talk"])]}

    builder = chain(Other, think)
    with pytest.raises(SpeculationError, match="no tool node follows"):
        speculative(builder.compile(), speculators={"think": Stream(lambda message: {"talk": [message]})})
    builder.add_node("tools", ToolNode([looker(Tally())], messages_key="talk"))
    builder.add_edge("think", "tools")
    with pytest.raises(SpeculationError, match=r"no 'messages'; pass Stream\(output="):
        speculative(builder.compile(), speculators={"think": Stream()})


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_an_output_of_the_users_own(sync: bool) -> None:
    class Other(TypedDict, total=False):
        talk: Annotated[list[AnyMessage], add_messages]
        turn: int

    def build(tally: Tally, wait: Callable[[str], Signal]) -> Any:
        model = once(*looks(0, "c1", "a"), wait("look a"), text(""))

        def think(state: Other) -> Any:
            return {"talk": [model.invoke(state["talk"])], "turn": 1}

        builder = chain(Other, think)
        builder.add_node("tools", ToolNode([looker(tally)], messages_key="talk"))
        builder.add_edge("think", "tools")
        return builder.compile()

    graphs, (_, fast) = _pair(build)
    report = check_same_run(
        graphs,
        {"talk": ASK["messages"]},
        sync=sync,
        speculators={"think": Stream(lambda message: {"talk": [message], "turn": 1})},
        effects={"think": "pure", "look": "read"},
    )
    assert report.claimed
    assert fast["look a"] == 1


def test_an_output_function_that_raises_is_reported_and_not_raised(world: World, probe: Probe) -> None:
    def broken(message: Any) -> Any:
        raise LookupError("no such field")

    model = once(*looks(0, "c1", "a"), probe.watch.saw("error"), text(""))
    fast = speculative(
        own_graph(model, [looker(probe.tally)]),
        speculators={"think": Stream(broken)},
        effects={"think": "pure", "look": "read"},
        policy=Policy(hooks=(probe.watch,)),
    )
    world.stream(fast, ASK, stream_mode="messages")
    assert probe.tally["look a"] == 1
    (error,) = fast.report().errors
    assert "LookupError: no such field" in error
    assert "internal" not in error


def test_a_users_handler_that_streams_is_told_what_it_would_be(world: World, probe: Probe) -> None:
    class Tokens(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
            self.heard.append((token, len(kwargs["chunk"].message.tool_call_chunks)))

    heard = []
    for wrap in (lambda g: g, lambda g: speculative(g, effects={"look": "read"})):
        handler = Tokens()
        graph = wrap(create_agent(once(text("so"), *looks(0, "c1", "a")), [looker(Tally())]))
        world.stream(graph, ASK, {"callbacks": [handler]}, stream_mode="messages")
        heard.append(handler.heard)
    assert heard[0] == heard[1]
    assert len(heard[0]) > 4
