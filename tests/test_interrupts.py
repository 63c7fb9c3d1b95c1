"""Interrupts and breakpoints stop the run where they stop the plain one, and a branch before or at them."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send, interrupt

from langgraph_speculative import Policy, speculative
from langgraph_speculative._observe import Canon
from tests.support import World, call, chain, says
from tests.twins import Stage, compare

WORLDS = ("sync", "async", "mixed")


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


class Talk(State, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


GUESSES = {"a": lambda s: {"x": 1}}
PURE = {"a": "pure", "b": "pure", "c": "pure"}


def asking(stage: Stage, *, hears: bool = False) -> Any:
    """a -> b -> c, where `b` asks twice."""

    async def a(state: State) -> Any:
        await stage.hold()
        return {"x": 1}

    async def b(state: State) -> Any:
        get_stream_writer()("asking")
        stage.done("b")
        if hears:
            await stage.hear()
        first = interrupt({"for": state["x"]})
        return {"log": [first, interrupt("and?")]}

    async def c(state: State) -> Any:
        stage.done("c")
        return {"log": [f"c{len(state['log'])}"]}

    return chain(State, stage.node("a", a), stage.node("b", b), stage.node("c", c))


@pytest.mark.parametrize("when", ["before the claim", "after the claim"])
def test_a_node_that_asks(world: World, when: str) -> None:
    """Early it asks nobody; claimed it asks once, under the id that the plain run gives."""
    after = when == "after the claim"
    both = compare(
        world,
        lambda stage: asking(stage, hears=after),
        {"x": 0},
        Command(resume="one"),
        Command(resume="two"),
        guesses=GUESSES,
        effects=PURE,
        until="b" if after else lambda p: p.watch.saw("stop", "b"),
        listen=lambda chunk: chunk[1] == "custom",
        saver=InMemorySaver,
    )
    assert "'log': ['one', 'two', 'c2']" in repr(both.fast[-1].state)
    assert both.stage.probe.tally["b"] == (3 if after else 4)
    assert both.stage.probe.tally["c"] == 1  # nothing runs on behind an unanswered question


@pytest.mark.parametrize("where", ["in the run", "in a branch"])
def test_the_interrupts_id_is_the_tasks(world: World, where: str) -> None:
    """A question that a claimed execution asks can be answered by its id."""
    stage = Stage(world, fast=True)
    stage.until = stage.probe.tally.reached("b") if where == "in a branch" else stage.probe.watch.saw("run")
    graph = speculative(
        asking(stage, hears=where == "in a branch").compile(checkpointer=InMemorySaver()),
        speculators=GUESSES,
        effects=PURE,
        policy=Policy(hooks=(stage.probe.watch,)),
    )
    config = {"configurable": {"thread_id": "1"}}

    def keep(chunk: Any) -> Any:
        stage.heard.set()
        return chunk

    world.chunks(graph, {"x": 0}, config, stream_mode="custom", keep=keep)
    stage.heard.set()
    for answer in ("one", "two"):
        (question,) = graph.get_state(config).interrupts
        world.invoke(graph, Command(resume={question.id: answer}), config)
    assert graph.get_state(config).values["log"] == ["one", "two", "c2"]


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
@pytest.mark.parametrize(
    "at",
    [{"interrupt_before": ["b"]}, {"interrupt_after": ["a"]}, {"interrupt_before": ["c"]}, {"interrupt_after": "*"}],
    ids=repr,
)
@pytest.mark.parametrize("given", ["compiled", "run"])
def test_breakpoints(world: World, at: dict[str, Any], guess: int, given: str) -> None:
    """The run stops at each, and no branch passes one."""
    passed: list[str] = []

    def build(stage: Stage) -> Any:
        async def a(state: State) -> Any:
            await stage.hold()
            passed.extend(n for n in "bc" if stage.fast and stage.probe.tally[n])
            return {"x": 1}

        async def b(state: State) -> Any:
            stage.done("b")
            return {"log": [f"b{state['x']}"]}

        async def c(state: State) -> Any:
            stage.done("c")
            return {"log": ["c"]}

        builder = chain(State, stage.node("a", a), stage.node("b", b), stage.node("c", c))
        return builder.compile(checkpointer=InMemorySaver(), **(at if given == "compiled" else {}))

    first = "interrupt_before" in at and at["interrupt_before"] == ["c"]
    both = compare(
        world,
        build,
        {"x": 0},
        None,
        None,
        None,
        guesses={"a": lambda s: {"x": guess}},
        effects=PURE,
        # What comes before the breakpoint runs early, and nothing else does.
        until="b" if first else lambda p: p.watch.saw("guess"),
        **(at if given == "run" else {}),
    )
    assert passed == (["b"] if first else [])
    assert both.claimed == (1 if first and guess == 1 else 0)


def test_several_questions_at_once(world: World) -> None:
    """Parallel tasks ask; each is answered by its id, some early work beside them is claimed."""

    def build(stage: Stage) -> Any:
        async def a(state: State) -> Any:
            await stage.hold()
            return {"x": 3}

        async def b(state: State) -> Any:
            stage.done("b")
            return {"log": [f"b{state['x']}: {interrupt(state['x'])}"]} if state["x"] % 2 else {"log": ["even"]}

        async def c(state: State) -> Any:
            return {"log": [sorted(state["log"])]}

        builder = StateGraph(State)
        for name, body in (("a", a), ("b", b), ("c", c)):
            builder.add_node(name, stage.node(name, body))
        builder.add_edge("__start__", "a")
        builder.add_conditional_edges("a", lambda s: [Send("b", {"x": i}) for i in range(s["x"] + 1)], ["b"])
        builder.add_edge("b", "c")
        return builder.compile(checkpointer=InMemorySaver())

    def answer(graph: Any) -> list[Any]:
        config = {"configurable": {"thread_id": "1"}}
        seen = [world.invoke(graph, {"x": 0}, config)]
        questions = {i.id: f"answer to {i.value}" for i in graph.get_state(config).interrupts}
        assert len(questions) == 2
        one, two = questions.items()
        seen.append(world.invoke(graph, Command(resume=dict([two])), config))
        seen.append(world.invoke(graph, Command(resume=dict([one])), config))
        for state in seen:  # parallel tasks ask in any order
            state["__interrupt__"] = sorted(i.value for i in state.get("__interrupt__", ()))
        return seen

    plain, fast = Stage(world), Stage(world, fast=True)
    expected = answer(build(plain))
    fast.until = fast.probe.watch.saw("stop", "b", 2)
    graph = speculative(
        build(fast),
        speculators={"a": lambda s: {"x": 3}},
        effects=PURE,
        policy=Policy(depth=3, hooks=(fast.probe.watch,)),
    )
    assert answer(graph) == expected
    assert graph.report().claimed >= 2


@pytest.mark.parametrize(
    "command",
    [
        Command(resume="yes", update={"log": ["updated"]}),
        Command(resume="yes", goto="d"),
        Command(update={"log": ["only updated"]}),
        Command(goto="d"),
    ],
    ids=["update", "goto", "update only", "goto only"],
)
def test_commands_that_resume(world: World, command: Any) -> None:
    def build(stage: Stage) -> Any:
        async def d(state: State) -> Any:
            return {"log": [f"d{len(state.get('log', []))}"]}

        builder = asking(stage)
        builder.add_node("d", stage.node("d", d))
        return builder

    compare(
        world,
        build,
        {"x": 0},
        command,
        Command(resume="two"),
        guesses={**GUESSES, "b": lambda s: {"log": ["yes", "two"]}},
        effects={**PURE, "d": "pure"},
        until=lambda p: p.watch.saw("stop", "b"),
        saver=InMemorySaver,
        parallel=True,
    )


@pytest.mark.parametrize("inside", ["question", "breakpoint before", "breakpoint after"])
def test_stops_in_a_nested_graph(world: World, inside: str) -> None:
    """A question or breakpoint of a graph that is a node; a branch does not come out behind it."""

    def build(stage: Stage) -> Any:
        async def a(state: State) -> Any:
            await stage.hold()
            return {"x": 1}

        async def i(state: State) -> Any:
            stage.done("i")
            return {"log": [f"i{state['x']}"]}

        async def j(state: State) -> Any:
            stage.done("j")
            return {"log": [interrupt("j?") if inside == "question" else "j"]}

        async def c(state: State) -> Any:
            stage.done("c")
            return {"log": [f"c{len(state['log'])}"]}

        at = {"breakpoint before": {"interrupt_before": ["j"]}, "breakpoint after": {"interrupt_after": ["i"]}}
        inner = chain(State, stage.node("i", i), stage.node("j", j)).compile(**at.get(inside, {}))
        builder = chain(State, stage.node("a", a))
        builder.add_node("inner", inner)
        builder.add_node("c", stage.node("c", c))
        builder.add_edge("a", "inner")
        builder.add_edge("inner", "c")
        return builder

    both = compare(
        world,
        build,
        {"x": 0},
        Command(resume="yes") if inside == "question" else None,
        guesses=GUESSES,
        effects={"a": "pure", "i": "pure", "j": "pure", "c": "pure"},
        until=(lambda p: p.watch.saw("stop", "inner|j")) if inside == "question" else "i",
        saver=InMemorySaver,
    )
    assert both.claimed >= 1
    assert both.stage.probe.tally["c"] == 1
    if inside != "question":
        assert both.stage.probe.tally["j"] == 1


def message() -> Any:
    return says("", call("look", q="up")).model_copy(update={"id": "m"})


@pytest.mark.parametrize("when", ["before the claim", "after the claim"])
@pytest.mark.parametrize("inside", ["tool", "graph"])
def test_questions_from_within_a_claimed_call(world: World, inside: str, when: str) -> None:
    """A tool that asks, and a node that runs a graph that asks: one question, answered by its id."""
    after = when == "after the claim"

    def build(stage: Stage) -> Any:
        async def a(state: State) -> Any:
            await stage.hold()
            # With an id: the reducer would give the message one in place, while the stream looks at it.
            return {"x": 1, "messages": [message()]}

        async def ask(q: str) -> str:
            get_stream_writer()("asking")
            stage.done("asked")
            if after:
                await stage.hear()
            return f"{q}: {interrupt(f'may I look {q}?')}"

        async def i(state: State) -> Any:
            return {"log": [interrupt("from within?")]}

        async def b(state: State) -> Any:
            get_stream_writer()("asking")
            stage.done("asked")
            if after:
                await stage.hear()
            inner = chain(State, stage.node("i", i)).compile()
            return {"log": (await stage.world.call(inner, {"x": state["x"]}))["log"]}

        builder = chain(Talk, stage.node("a", a))
        look = tool("look", description="Look.")(stage.world.node(ask))
        builder.add_node("b", ToolNode([look]) if inside == "tool" else stage.node("b", b))
        builder.add_edge("a", "b")
        return builder.compile(checkpointer=InMemorySaver())

    def run(graph: Any, stage: Stage) -> list[Any]:
        config = {"configurable": {"thread_id": "1"}}
        canon = Canon()

        def keep(chunk: Any) -> Any:
            if chunk[0] == "custom":
                stage.heard.set()
            return canon(chunk)

        seen = [world.chunks(graph, {"x": 0}, config, stream_mode=["custom", "updates"], keep=keep)]
        (question,) = graph.get_state(config).interrupts
        seen.append(canon(graph.get_state(config, subgraphs=True)))
        world.invoke(graph, Command(resume={question.id: "yes"}), config)
        seen.append(canon([*graph.get_state_history(config)]))
        return seen

    plain, fast = Stage(world), Stage(world, fast=True)
    expected = run(build(plain), plain)
    fast.until = fast.probe.tally.reached("asked") if after else fast.probe.watch.saw("stop")
    graph = speculative(
        build(fast),
        speculators={"a": lambda s: {"x": 1, "messages": [message()]}},
        effects={"a": "pure", **({"look": "read"} if inside == "tool" else {"b": "pure"})},
        policy=Policy(hooks=(fast.probe.watch,)),
    )
    actual = run(graph, fast)
    again = not after or inside == "graph"
    if after and again:
        # Only the run can name a question from a graph inside, so the node is executed again, and heard twice.
        actual[0], expected[0] = ([c for c in seen[0][0] if "asking" not in repr(c)] for seen in (actual, expected))
    assert actual == expected
    assert fast.probe.tally["asked"] == (3 if again else 2)
    assert "yes" in repr(expected)


def test_lifecycle_handlers(world: World) -> None:
    """Handlers of LangGraph's own events hear of the run's stops, and of none in a branch."""

    callbacks = pytest.importorskip("langgraph.callbacks", reason="LangGraph has lifecycle handlers since 1.2")

    class Lifecycle(callbacks.GraphCallbackHandler):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_interrupt(self, event: Any) -> None:
            self.seen.append(("interrupt", event.status, [i.value for i in event.interrupts]))

        def on_resume(self, event: Any) -> None:
            self.seen.append(("resume", event.status))

    def run(graph: Any) -> list[Any]:
        handler = Lifecycle()
        config: Any = {"configurable": {"thread_id": "1"}, "callbacks": [handler]}
        for value in ({"x": 0}, Command(resume="one"), Command(resume="two")):
            world.invoke(graph, value, config)
        return handler.seen

    expected = run(asking(Stage(world)).compile(checkpointer=InMemorySaver()))
    stage = Stage(world, fast=True)
    stage.until = stage.probe.watch.saw("stop", "b")
    graph = asking(stage).compile(checkpointer=InMemorySaver())
    policy = Policy(hooks=(stage.probe.watch,))
    assert run(speculative(graph, speculators=GUESSES, effects=PURE, policy=policy)) == expected
    assert len(expected) == 4
