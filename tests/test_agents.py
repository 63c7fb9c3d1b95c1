"""The prebuilt agents: recognition, tool calls, drafts, middleware."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
    ModelCallLimitMiddleware,
    TodoListMiddleware,
    ToolRetryMiddleware,
    before_model,
    wrap_model_call,
    wrap_tool_call,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, ToolRuntime, create_react_agent, tools_condition
from langgraph.types import Command
from pydantic import BaseModel

from langgraph_speculative import Policy, SpeculationInactiveWarning, SpeculativeGraph, speculative
from langgraph_speculative._observe import Canon
from tests.support import (
    Probe,
    ScriptedModel,
    Signal,
    Tally,
    World,
    call,
    effects_of,
    observe,
    says,
    turns,
)

ASK = {"messages": [HumanMessage("how much?", id="ask")]}


def looker(tally: Tally) -> Any:
    @tool
    def look(what: str) -> str:
        """Look something up."""
        tally.add("look")
        tally.add(f"look {what}")
        return f"seen {what}"

    return look


SCRIPT = (
    lambda: says("", call("look", what="a")),
    lambda: says("", call("look", what="b"), call("look", what="c")),
    lambda: says("all seen"),
)


def model(*answers: Callable[[], AIMessage], before: Any = None, **kwargs: Any) -> ScriptedModel:
    return ScriptedModel(script=turns(*answers), before=before, **kwargs)


def guess_of(*answers: Callable[[], AIMessage]) -> Callable[[Any], Any]:
    """A Speculator of the model node that knows the script."""
    script = turns(*answers)
    return lambda state: {"messages": [script(state["messages"])]}


AGENTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "create_agent": ("model", lambda m, tools, **kw: create_agent(m, tools, **kw)),
    "react v2": ("agent", lambda m, tools, **kw: create_react_agent(m, tools, version="v2", **kw)),
    "react v1": ("agent", lambda m, tools, **kw: create_react_agent(m, tools, version="v1", **kw)),
}


@pytest.fixture(params=AGENTS)
def kind(request: pytest.FixtureRequest) -> tuple[str, Callable[..., Any]]:
    return AGENTS[request.param]


def waiting(tally: Tally, *counts: int) -> Callable[[list[BaseMessage]], Any]:
    """For the n-th turn of the model: wait until so many tool calls were made, some of them early."""

    async def before(messages: list[BaseMessage]) -> None:
        turn = sum(isinstance(m, AIMessage) for m in messages)
        if turn < len(counts):
            await tally.reached("look", counts[turn]).wait()

    return before


@pytest.mark.parametrize("saver", [True, False], ids=["saver", "no-saver"])
def test_the_same_run_with_its_tools_called_early(world: World, probe: Probe, kind: Any, saver: bool) -> None:
    name, make = kind
    tally = probe.tally
    config = {"configurable": {"thread_id": "1"}} if saver else {}
    extra: dict[str, Any] = {"checkpointer": InMemorySaver()} if saver else {}
    plain = observe(
        world, make(model(*SCRIPT), [looker(Tally())], **extra), ASK, config, modes=["values", "updates", "tasks"]
    )

    extra = {"checkpointer": InMemorySaver()} if saver else {}
    agent = make(model(*SCRIPT, before=waiting(tally, 1, 3)), [looker(tally)], **extra)
    fast = speculative(agent, speculators={name: guess_of(*SCRIPT)}, effects={"look": "read"})
    with fast.track() as report:
        run = observe(world, fast, ASK, config, modes=["values", "updates", "tasks"])
    # `add_messages` gives a tool message its id while the checkpointer writes it down, so the history may have either.
    plain.history = run.history = None
    assert run == plain
    assert {w: tally[f"look {w}"] for w in "abc"} == {"a": 1, "b": 1, "c": 1}
    assert report.claimed >= 3
    assert report.early_irreversible_calls == 0


def test_results_belong_to_the_calls_of_the_run(world: World, probe: Probe, kind: Any) -> None:
    """The guess minted other ids; in the outcome each tool message answers a call of the model's own message."""
    name, make = kind
    agent = make(model(*SCRIPT, before=waiting(probe.tally, 1, 3)), [looker(probe.tally)])
    fast = speculative(agent, speculators={name: guess_of(*SCRIPT)}, effects={"look": "read"})
    messages = world.invoke(fast, ASK)["messages"]
    asked = [c["id"] for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
    answered = [m.tool_call_id for m in messages if isinstance(m, ToolMessage)]
    assert answered == asked
    assert len(set(asked)) == 3
    assert [m.content for m in messages if isinstance(m, ToolMessage)] == ["seen a", "seen b", "seen c"]
    assert len({m.id for m in messages}) == len(messages)


def test_always_wrong(world: World, probe: Probe, kind: Any) -> None:
    name, make = kind
    wrong = (
        lambda: says("", call("look", what="x")),
        lambda: says("", call("look", what="y")),
        lambda: says("", call("look", what="z")),
    )
    plain = observe(world, make(model(*SCRIPT), [looker(Tally())]), ASK)
    agent = make(model(*SCRIPT, before=waiting(probe.tally, 1)), [looker(probe.tally)])
    fast = speculative(agent, speculators={name: guess_of(*wrong)}, effects={"look": "read"}, policy=Policy(depth=3))
    # The calls that the model streams are made early all the same.
    assert observe(world, fast, ASK) == plain


def test_deep_speculation_on_an_agent(world: World, probe: Probe, kind: Any) -> None:
    """The whole conversation is run ahead while the first call of the model is under way."""
    name, make = kind
    agent = make(model(*SCRIPT, before=waiting(probe.tally, 3)), [looker(probe.tally)])
    fast = speculative(agent, speculators={name: guess_of(*SCRIPT)}, effects={"look": "read"}, policy=Policy(depth=6))
    with fast.track() as report:
        messages = world.invoke(fast, ASK)["messages"]
    assert messages[-1].content == "all seen"
    assert probe.tally["look"] == 3
    assert report.claimed >= 4  # three tool calls, and model calls whose input was guessed right


@contextmanager
def allow_inactive() -> Iterator[None]:
    """Where all that a guess could reach is code of the user's, wrapping may say so."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpeculationInactiveWarning)
        yield


# --- recognition ------------------------------------------------------------------------------------------------


def effect_of_model(agent: Any, name: str = "model", **kwargs: Any) -> str:
    fast = speculative(agent, speculators={name: lambda s: None}, effects={"look": "read", **kwargs})
    return effects_of(fast)[name]


def test_model_nodes_are_recognised(kind: Any) -> None:
    name, make = kind
    fast = speculative(
        make(model(*SCRIPT), [looker(Tally())]), speculators={name: lambda s: None}, effects={"look": "read"}
    )
    (row,) = [r for r in fast.effects().rows if r.name == name]
    assert (row.effect.value, row.source) == ("pure", "recognised")
    (row,) = [r for r in fast.effects().rows if r.name.split(".")[-1] == "look"]
    assert (row.kind, row.effect.value) == ("tool", "read")


def test_foreign_code_inside_the_model_node() -> None:
    @wrap_model_call
    def mine(request: Any, handler: Any) -> Any:
        return handler(request)

    agent = create_agent(model(*SCRIPT), [looker(Tally())], middleware=[mine])
    with pytest.warns(SpeculationInactiveWarning):
        assert effect_of_model(agent, look="irreversible") == "undeclared"
    assert effect_of_model(agent, model="pure") == "pure"


def test_a_hook_of_the_users_own_is_a_node_of_its_own() -> None:
    @before_model
    def mine(state: Any, runtime: Any) -> None:
        return None

    agent = create_agent(model(*SCRIPT), [looker(Tally())], middleware=[mine])
    fast = speculative(agent, speculators={"model": lambda s: None}, effects={"look": "read"})
    found = effects_of(fast)
    assert found["model"] == "pure"
    assert found["mine.before_model"] == "undeclared"


def test_tools_of_the_provider() -> None:
    agent = create_agent(model(*SCRIPT), [looker(Tally()), {"type": "mcp", "server_url": "http://x"}])
    with pytest.warns(SpeculationInactiveWarning):
        assert effect_of_model(agent, look="irreversible") == "undeclared"


def react(**kwargs: Any) -> Any:
    return create_react_agent(kwargs.pop("model", model(*SCRIPT)), [looker(Tally())], **kwargs)


@pytest.mark.parametrize(
    "make",
    [
        lambda: react(prompt=lambda state: state["messages"]),
        lambda: react(model=lambda state, runtime: model(*SCRIPT).bind_tools([])),
    ],
    ids=["prompt", "model"],
)
def test_callables_of_the_users_own_in_react_agents(make: Any) -> None:
    with pytest.warns(SpeculationInactiveWarning):
        assert effect_of_model(make(), "agent", look="irreversible") == "undeclared"


@pytest.mark.parametrize("hook", ["pre_model_hook", "post_model_hook"])
def test_hooks_of_react_agents_never_run_early(world: World, probe: Probe, hook: str) -> None:
    """They are nodes of the user's own code, undeclared."""
    tally = probe.tally

    def mine(state: Any) -> Any:
        tally.add("hook")
        return {}

    def build(waits: bool) -> Any:
        before = waiting(tally, 0) if waits else None
        return create_react_agent(model(*SCRIPT, before=before), [looker(tally)], **{hook: mine})

    plain = Canon()(world.invoke(build(False), ASK))
    count = tally["hook"]
    with allow_inactive():
        fast = speculative(
            build(True), speculators={"agent": guess_of(*SCRIPT)}, effects={"look": "read"}, policy=Policy(depth=4)
        )
    assert effects_of(fast)[hook] == "undeclared"
    assert Canon()(world.invoke(fast, ASK)) == plain
    assert tally["hook"] == 2 * count


def test_tools_below_a_foreign_wrapper(world: World, probe: Probe) -> None:
    """What wraps the calls is code of the user's, so even a tool that is declared stays where it is."""
    tally = probe.tally

    @wrap_tool_call
    def mine(request: Any, handler: Any) -> Any:
        tally.add("wrapper")
        return handler(request)

    if world.name == "async":

        @wrap_tool_call
        async def mine(request: Any, handler: Any) -> Any:
            tally.add("wrapper")
            return await handler(request)

    agent = create_agent(model(*SCRIPT), [looker(tally)], middleware=[mine])
    with allow_inactive():
        fast = speculative(
            agent, speculators={"model": guess_of(*SCRIPT)}, effects={"look": "read"}, policy=Policy(depth=3)
        )
    assert {e for n, e in effects_of(fast).items() if n.split(".")[-1] == "look"} == {"undeclared"}
    messages = world.invoke(fast, ASK)["messages"]
    assert messages[-1].content == "all seen"
    assert (tally["wrapper"], tally["look"]) == (3, 3)


def test_a_plain_wrapper_that_the_user_vouches_for(world: World, probe: Probe) -> None:
    """It would block the loop of a branch, and run there what must not run early."""
    tally = probe.tally

    @tool
    def pay() -> str:
        """Pay."""
        tally.add("pay")
        return "paid"

    def around(request: Any, execute: Any) -> Any:
        tally.add("wrapper")
        return execute(request)

    script = (lambda: says("", call("look", what="a"), call("pay")), lambda: says("done"))
    answer = turns(*script)
    builder = StateGraph(MessagesState)

    async def think(state: Any) -> Any:
        return {"messages": [answer(state["messages"])]}

    builder.add_node("think", world.node(think))
    builder.add_node("tools", ToolNode([looker(tally), pay], wrap_tool_call=around))
    builder.add_edge("__start__", "think")
    builder.add_conditional_edges("think", tools_condition)
    builder.add_edge("tools", "think")
    with pytest.warns(SpeculationInactiveWarning, match="'look': the wrap_tool_call of 'tools' has no asynchronous"):
        fast = speculative(
            builder.compile(),
            speculators={"think": guess_of(*script)},
            effects={"tools": "read", "pay": "irreversible"},
            policy=Policy(depth=4),
        )
    assert effects_of(fast)["look"] == "undeclared"
    assert world.invoke(fast, ASK)["messages"][-1].content == "done"
    assert (tally["wrapper"], tally["look"], tally["pay"]) == (2, 1, 1)


@pytest.mark.parametrize("middleware", [TodoListMiddleware, lambda: ModelCallLimitMiddleware(run_limit=10)])
def test_langchains_own_pure_middleware(world: World, probe: Probe, middleware: Any) -> None:
    agent = create_agent(
        model(*SCRIPT, before=waiting(probe.tally, 1)), [looker(probe.tally)], middleware=[middleware()]
    )
    fast = speculative(
        agent, speculators={"model": guess_of(*SCRIPT)}, effects={"look": "read"}, policy=Policy(depth=4)
    )
    assert effects_of(fast)["model"] == "pure"
    assert world.invoke(fast, ASK)["messages"][-1].content == "all seen"
    assert probe.tally["look a"] == 1
    assert fast.report().claimed >= 1


def test_retries_of_tools_are_the_runs_own(world: World, probe: Probe) -> None:
    tally = probe.tally

    @tool
    def flaky() -> str:
        """Fail once."""
        if tally.add("flaky") == 1:
            raise ConnectionError("first")
        return "fine"

    script = (lambda: says("", call("flaky")), lambda: says("done"))
    agent = create_agent(
        model(*script),
        [flaky],
        middleware=[ToolRetryMiddleware(max_retries=2, initial_delay=0.001, jitter=False)],
    )
    with allow_inactive():
        fast = speculative(agent, speculators={"model": guess_of(*script)}, effects={"flaky": "read"})
    messages = world.invoke(fast, ASK)["messages"]
    assert [m.content for m in messages if isinstance(m, ToolMessage)] == ["fine"]


def test_human_in_the_loop_ends_a_branch(world: World, probe: Probe) -> None:
    tally = probe.tally

    def build(waits: bool) -> Any:
        return create_agent(
            model(*SCRIPT),
            [looker(tally)],
            middleware=[HumanInTheLoopMiddleware(interrupt_on={"look": True})],
            checkpointer=InMemorySaver(),
        )

    config = {"configurable": {"thread_id": "1"}}
    approve = [Command(resume={"decisions": [{"type": "approve"}] * n}) for n in (1, 2)]
    plain = [observe(world, build(False), ASK, config)]
    with allow_inactive():
        fast = speculative(
            build(True), speculators={"model": guess_of(*SCRIPT)}, effects={"look": "read"}, policy=Policy(depth=4)
        )
    runs = [observe(world, fast, ASK, config)]
    assert runs == plain
    assert tally["look"] == 0  # nobody has approved yet
    for command in approve:
        out = world.invoke(fast, command, config)
    assert out["messages"][-1].content == "all seen"
    assert tally["look"] == 3


# --- tools of every kind -----------------------------------------------------------------------------------------


def with_tool(world: World, tally: Tally, a_tool: Any, *calls: Any, **kwargs: Any) -> tuple[Any, SpeculativeGraph]:
    """The same agent plain and speculative; the model waits until the tool has been called early."""
    script = (lambda: says("", *[call(a_tool.name, **c) for c in calls]), lambda: says("done"))

    async def before(messages: list[BaseMessage]) -> None:
        if len(messages) == 1:
            await tally.reached("called", len(calls)).wait()

    plain = create_agent(model(*script), [a_tool], **kwargs)
    fast = speculative(
        create_agent(model(*script, before=before), [a_tool], **kwargs),
        speculators={"model": guess_of(*script)},
        effects={a_tool.name: "read"},
    )
    return plain, fast


def contents(out: Any) -> list[tuple[str, Any, str]]:
    return [(m.content, m.status, m.name) for m in out["messages"] if isinstance(m, ToolMessage)]


def test_a_tool_that_sees_the_state(world: World, probe: Probe) -> None:
    @tool
    def count(state: Annotated[dict[str, Any], InjectedState]) -> str:
        """Count."""
        probe.tally.add("called")
        return f"{len(state['messages'])} messages, the last from {state['messages'][-1].type}"

    plain, fast = with_tool(world, probe.tally, count, {})
    assert contents(world.invoke(fast, ASK)) == contents(world.invoke(plain, ASK))


def test_a_tool_that_sees_the_runtime(world: World, probe: Probe) -> None:
    @tool
    def count(runtime: ToolRuntime) -> str:
        """Count."""
        probe.tally.add("called")
        runtime.stream_writer("from the tool")
        return f"{len(runtime.state['messages'])} messages at {runtime.config['metadata']['langgraph_step']}"

    plain, fast = with_tool(world, probe.tally, count, {})
    chunks = world.stream(fast, ASK, stream_mode="custom")
    assert chunks == world.stream(plain, ASK, stream_mode="custom") == ["from the tool"]
    plain, fast = with_tool(world, Tally(), count)
    assert contents(world.invoke(fast, ASK)) == contents(world.invoke(plain, ASK))


def test_a_tool_that_sees_its_call_id(world: World, probe: Probe) -> None:
    @tool
    def count(tool_call_id: Annotated[str, InjectedToolCallId]) -> Command:  # type: ignore[type-arg]
        """Count."""
        probe.tally.add("called")
        return Command(update={"messages": [ToolMessage("counted", tool_call_id=tool_call_id)]})

    _, fast = with_tool(world, probe.tally, count, {})
    messages = world.invoke(fast, ASK)["messages"]
    assert (messages[2].content, messages[2].tool_call_id) == ("counted", messages[1].tool_calls[0]["id"])


@pytest.mark.skipif(not hasattr(ToolRuntime, "emit_output_delta"), reason="this LangGraph has no tool stream")
@pytest.mark.parametrize("live", [False, True])
def test_a_tool_that_streams_its_output(world: World, probe: Probe, live: bool) -> None:
    """Two calls at once: each part has the id of its own call, whether it comes before the claim or after it."""
    claimed = Signal("claim")

    @tool
    async def count(n: int, runtime: ToolRuntime) -> str:
        """Count."""
        runtime.emit_output_delta(n)
        probe.tally.add("called")
        if live:
            await claimed.wait()
        runtime.emit_output_delta(n + 1)
        return "counted"

    if world.name == "sync":
        count.func, count.coroutine = world.node(count.coroutine), None  # type: ignore[attr-defined, arg-type]
    plain, fast = with_tool(world, probe.tally, count, {"n": 10}, {"n": 20})

    def parts(agent: Any) -> list[Any]:
        def keep(chunk: Any) -> Any:
            if chunk[1] == "tools" and chunk[2]["event"] == "tool-output-delta" and agent is fast:
                claimed.set()
            return chunk

        chunks, error = world.chunks(agent, ASK, stream_mode=["tools", "values"], subgraphs=True, keep=keep)
        assert error is None
        calls = {c["id"]: c["args"]["n"] for c in chunks[-1][2]["messages"][1].tool_calls}
        events = [event for _, mode, event in chunks if mode == "tools"]
        return sorted((calls[e["tool_call_id"]], i, e["event"], e.get("delta", 0)) for i, e in enumerate(events))

    def by_call(rows: list[Any]) -> list[Any]:
        return [(n, *what) for n, _, *what in rows]

    claimed_parts = by_call(parts(fast))
    assert fast.report().claimed >= 2
    assert claimed_parts == by_call(parts(plain))
    assert [d for *_, event, d in claimed_parts if event == "tool-output-delta"] == [10, 11, 20, 21]


def test_a_tool_that_fails(world: World, probe: Probe) -> None:
    @tool
    def count() -> str:
        """Count."""
        probe.tally.add("called")
        raise ToolException("no")

    count.handle_tool_error = True
    plain, fast = with_tool(world, probe.tally, count, {})
    out = world.invoke(fast, ASK)
    assert contents(out) == contents(world.invoke(plain, ASK)) == [("no", "error", "count")]
    # Early, by the run, and by the plain agent. Only a call that the run took over while it ran keeps its error.
    assert probe.tally["called"] == 3 - fast.report().claimed


def test_a_tool_that_raises_ends_the_run_as_it_does_without_us(world: World, probe: Probe) -> None:
    @tool
    def count() -> str:
        """Count."""
        probe.tally.add("called")
        raise LookupError("no")

    plain, fast = with_tool(world, probe.tally, count, {})
    for agent in (plain, fast):
        with pytest.raises(LookupError, match="no"):
            world.invoke(agent, ASK)


def test_bad_arguments(world: World, probe: Probe) -> None:
    """The model's arguments do not fit: the tool node answers by itself, early or not."""

    @tool
    def count(n: int) -> str:
        """Count."""
        return f"{n}"

    script = (lambda: says("", call("count", n="many")), lambda: says("done"))
    plain = create_agent(model(*script), [count])
    fast = speculative(
        create_agent(model(*script), [count]), speculators={"model": guess_of(*script)}, effects={"count": "read"}
    )
    assert contents(world.invoke(fast, ASK)) == contents(world.invoke(plain, ASK))


def test_a_tool_that_returns_directly(world: World, probe: Probe) -> None:
    @tool(return_direct=True)
    def final() -> str:
        """End."""
        probe.tally.add("called")
        return "the end"

    plain, fast = with_tool(world, probe.tally, final, {})
    out = world.invoke(fast, ASK)
    assert out["messages"][-1].content == "the end"
    assert contents(out) == contents(world.invoke(plain, ASK))
    assert fast.report().claimed >= 1


def test_content_and_artifact(world: World, probe: Probe) -> None:
    @tool(response_format="content_and_artifact")
    def picture() -> tuple[str, Any]:
        """Paint."""
        probe.tally.add("called")
        return "a picture", {"pixels": [1, 2, 3]}

    _, fast = with_tool(world, probe.tally, picture, {})
    message = world.invoke(fast, ASK)["messages"][2]
    assert (message.content, message.artifact) == ("a picture", {"pixels": [1, 2, 3]})
    assert fast.report().claimed >= 1


def test_structured_output(world: World, probe: Probe) -> None:
    class Answer(BaseModel):
        n: int

    script = (lambda: says("", call("look", what="a")), lambda: says("", call("Answer", n=3)))

    def build(before: Any) -> Any:
        return create_agent(model(*script, before=before), [looker(probe.tally)], response_format=ToolStrategy(Answer))

    plain = Canon()(world.invoke(build(None), ASK))
    fast = speculative(
        build(waiting(probe.tally, 2)),
        speculators={"model": lambda s: guess_of(*script)(s) if len(s["messages"]) == 1 else None},
        effects={"look": "read"},
    )
    out = world.invoke(fast, ASK)
    assert out["structured_response"] == Answer(n=3)
    assert Canon()(out) == plain
    assert fast.report().claimed >= 1


# --- drafts -----------------------------------------------------------------------------------------------------


def test_a_draft_guesses_for_the_model_nodes(world: World, probe: Probe, kind: Any) -> None:
    name, make = kind
    tally, never = probe.tally, Tally()
    draft = make(model(*SCRIPT, label="cheap"), [looker(never)])
    agent = make(model(*SCRIPT, before=waiting(tally, 1, 3)), [looker(tally)])
    fast = speculative(agent, draft=draft, effects={"look": "read"})
    with fast.track() as report:
        messages = world.invoke(fast, ASK)["messages"]
    assert messages[-1].content == "all seen"
    assert (tally["look"], never["look"]) == (3, 0)  # a draft's tool never runs
    assert report.claimed >= 3
    assert report.usage["cheap"].draft > 0
    assert report.usage["cheap"].committed == 0
    assert name in [r.name for r in fast.effects().rows]


def test_drafts_emit_nothing(world: World, probe: Probe) -> None:
    """No word of the draft's is in the stream, and no call of it reaches a callback."""

    def run(draft: bool) -> Any:
        tally = Tally()
        before = waiting(tally, 1, 3) if draft else None
        agent: Any = create_agent(model(*SCRIPT, before=before), [looker(tally)])
        if draft:
            cheap = create_agent(model(*SCRIPT, label="cheap"), [looker(Tally())])
            agent = speculative(agent, draft=cheap, effects={"look": "read"})
        return observe(world, agent, ASK)

    assert run(True) == run(False)


def test_a_draft_that_fails(world: World, probe: Probe) -> None:
    def broken(messages: list[BaseMessage]) -> AIMessage:
        raise ConnectionError("the cheap endpoint is down")

    watch = probe.watch

    async def before(messages: list[BaseMessage]) -> None:
        await watch.saw("error").wait()

    draft = create_agent(ScriptedModel(script=broken), [looker(Tally())])
    agent = create_agent(model(*SCRIPT, before=before), [looker(probe.tally)])
    fast = speculative(agent, draft=draft, effects={"look": "read"}, policy=Policy(hooks=(watch,)))
    assert world.invoke(fast, ASK)["messages"][-1].content == "all seen"
    assert fast.report().speculator_errors >= 1
    assert "cheap endpoint" in fast.report().errors[0]


def test_an_effectful_node_of_a_draft_never_runs(world: World, probe: Probe) -> None:
    """A draft obeys the effect rules: its version of a node that is not pure is no guess for it."""
    tally = probe.tally

    def build(mark: str) -> Any:
        def think(state: MessagesState) -> Any:
            tally.add(f"think {mark}")
            return {"messages": [AIMessage("thought", id="t")]}

        def act(state: MessagesState) -> Any:
            tally.add(f"act {mark}")
            return {"messages": [AIMessage("done", id="d")]}

        def aside(state: MessagesState) -> Any:
            return {}

        def last(state: MessagesState) -> Any:
            return {}

        builder = StateGraph(MessagesState)
        for f in (think, act, aside, last):
            builder.add_node(f.__name__, f)
        builder.add_edge("__start__", "think")
        builder.add_edge("think", "act")
        builder.add_edge("think", "aside")
        builder.add_edge("act", "last")
        return builder.compile()

    fast = speculative(
        build("real"),
        draft=build("draft"),
        effects={"think": "pure", "act": "irreversible", "aside": "pure", "last": "pure"},
        policy=Policy(depth=2),
    )
    assert len(world.invoke(fast, ASK)["messages"]) == 3
    assert (tally["act draft"], tally["act real"]) == (0, 1)


# --- agents inside graphs -----------------------------------------------------------------------------------------


def test_an_agent_as_a_node(world: World, probe: Probe) -> None:
    def build(before: Any, tally: Tally) -> Any:
        agent = create_agent(model(*SCRIPT, before=before), [looker(tally)])

        def done(state: MessagesState) -> Any:
            return {"messages": [AIMessage(f"{len(state['messages'])}", id="n")]}

        builder = StateGraph(MessagesState)
        builder.add_node("agent", agent)
        builder.add_node("done", done)
        builder.add_edge("__start__", "agent")
        builder.add_edge("agent", "done")
        return builder.compile()

    plain = observe(world, build(None, Tally()), ASK)
    fast = speculative(
        build(waiting(probe.tally, 1, 3), probe.tally),
        speculators={"agent|model": guess_of(*SCRIPT)},
        effects={"look": "read"},
    )
    assert observe(world, fast, ASK) == plain
    assert probe.tally["look"] == 3
    assert fast.report().claimed >= 3


def test_by_default_nothing_is_guessed_that_the_model_has_not_written(world: World) -> None:
    """Without Speculators only the stream of a model is read; here it does not stream."""
    fast = speculative(create_agent(model(*SCRIPT), [looker(Tally())]), effects={"look": "read"})
    assert world.invoke(fast, ASK)["messages"][-1].content == "all seen"
    assert (fast.report().speculator_calls, fast.report().guesses, fast.report().launched) == (0, 0, 0)
