"""Graphs of every shape, to compare the plain with the speculative run.

Each is built anew for each run, by a function that is given a `Stage`. Node `first` is the one whose Actor waits, in a
speculative run, until speculation is under way; everything after it races freely, and must come out the same.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.cache.memory import InMemoryCache
from langgraph.channels import UntrackedValue
from langgraph.config import get_stream_writer
from langgraph.func import task
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.managed import RemainingSteps
from langgraph.runtime import Runtime
from langgraph.types import CachePolicy, Command, Overwrite, RetryPolicy, Send, interrupt
from pydantic import BaseModel

from tests.support import Probe, World

Builder = StateGraph[Any, Any, Any, Any]


@dataclass
class Stage:
    """One run of one graph: makes its nodes, and knows which of them may be guessed.

    Args:
        world: Sync or async nodes.
        pause: What the first node's Actor waits for; ``None`` in a plain run.
    """

    world: World
    pause: Callable[[], Awaitable[None]] | None = None
    probe: Probe = field(default_factory=Probe)
    compute: dict[str, Callable[..., Any]] = field(default_factory=dict)
    committed_early: int = 0

    def node(self, name: str, function: Callable[..., Any], *, first: bool = False) -> Callable[..., Any]:
        """A node from a plain function of its input; its Speculator may compute the same."""
        self.compute[name] = function

        async def body(state: Any) -> Any:
            turn = self.probe.tally.add(name)
            if first and turn == 1:
                await self._hold()
            else:
                self.probe.tally.add("after the first")
            await self._breathe()
            self.probe.tally.add(f"end of {name}")
            return function(state)

        body.__name__ = name
        return self.world.node(body)

    def wide(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A node that takes more than its state; never guessed."""

        async def body(state: Any, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
            self.probe.tally.add(name)
            self.probe.tally.add("after the first")
            await self._breathe()
            return function(state, config, runtime)

        body.__name__ = name
        return self.world.node(body)

    def commit(self, name: str = "commit") -> Callable[..., Any]:
        """The irreversible node: it must not be counted while the first node is held."""

        async def body(state: Any) -> Any:
            self.probe.tally.add("irreversible")
            return {"log": [name]}

        body.__name__ = name
        return self.world.node(body)

    async def _hold(self) -> None:
        if self.pause is not None:
            await self.pause()
            self.committed_early = self.probe.tally["irreversible"]

    async def _breathe(self) -> None:
        # Lets others go between start and end of a node; nothing depends on how it turns out.
        if self.world.name == "async":
            await asyncio.sleep(0)


@dataclass(frozen=True)
class Case:
    """One graph of the zoo.

    Args:
        build: Adds nodes and edges.
        value: Input.
        guessed: Nodes with a Speculator.
        pure: Names that may run early.
        claims: Pre-executions that right guesses must get claimed, at least.
        then: Further inputs on the same thread, after the run stopped.
        config: Added to the config.
        run: Further arguments of the run.
        compile: Further arguments of ``compile``.
        saver: Only with a checkpointer.
        changes_input: Whether nodes change what they are given, in place.
    """

    build: Callable[[Stage], Builder]
    value: Any
    guessed: tuple[str, ...] = ("a",)
    pure: tuple[str, ...] = ("a", "b", "c")
    claims: int = 1
    then: tuple[Any, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    compile: Callable[[], dict[str, Any]] = dict
    saver: bool = False
    changes_input: bool = False


class Log(TypedDict, total=False):
    x: int
    log: Annotated[list[str], operator.add]


def step(name: str) -> Callable[[Any], Any]:
    return lambda s: {"x": s.get("x", 0) + 1, "log": [f"{name}{s.get('x', 0)}"]}


def line(builder: Builder, *names: str, end: bool = True) -> None:
    for a, b in zip((START, *names), names, strict=False):
        builder.add_edge(a, b)
    if end:
        builder.add_edge(names[-1], END)


def straight(stage: Stage) -> Builder:
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.node("b", step("b")))
    b.add_node("c", stage.node("c", step("c")))
    b.add_node("commit", stage.commit())
    b.add_node("d", stage.node("d", step("d")))
    line(b, "a", "b", "c", "commit", "d")
    return b


def routed(stage: Stage) -> Builder:
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", lambda s: {"x": 1, "log": ["a"]}, first=True))
    b.add_node("left", stage.node("left", lambda s: {"x": 0, "log": ["left"]}))
    b.add_node("right", stage.node("right", lambda s: {"x": 9, "log": ["right"]}))
    b.add_node("commit", stage.commit())
    b.add_edge(START, "a")
    b.add_conditional_edges("a", lambda s: "left" if s["x"] == 1 else "right", ["left", "right"])
    b.add_conditional_edges("left", lambda s: "commit" if s["x"] == 0 else END, ["commit", END])
    b.add_conditional_edges("right", lambda s: "commit", ["commit"])
    return b


class Ask(TypedDict, total=False):
    q: str
    n: int
    log: Annotated[list[str], operator.add]


class Question(TypedDict):
    q: str


def same_input_twice(stage: Stage) -> Builder:
    b = StateGraph(Ask)
    b.add_node("a", stage.node("a", lambda s: {"log": [f"asked {s['q']}"]}, first=True), input_schema=Question)
    b.add_node("b", stage.node("b", lambda s: {"n": s.get("n", 0) + 1, "log": ["b"]}))
    b.add_edge(START, "a")
    b.add_edge("a", "b")
    b.add_conditional_edges("b", lambda s: "a" if s["n"] < 4 else "commit", ["a", "commit"])
    b.add_node("commit", stage.commit())
    return b


def identical_sends(stage: Stage) -> Builder:
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", lambda s: {"x": 3, "log": ["a"]}, first=True))
    b.add_node("b", stage.node("b", lambda s: {"log": [f"work {s['x']}"]}))
    b.add_node("c", stage.node("c", lambda s: {"x": len(s["log"])}))
    b.add_node("commit", stage.commit())
    b.add_edge(START, "a")
    b.add_conditional_edges("a", lambda s: [Send("b", {"x": 7})] * (s["x"] % 10), ["b"])
    b.add_edge("b", "c")
    b.add_edge("c", "commit")
    return b


def sends_of_all_kinds(stage: Stage) -> Builder:
    def spread(s: Any) -> Any:
        return Command(update={"log": ["a"]}, goto=[Send("b", {"x": 1}), Send("b", {"x": 2}), Send("commit", {"x": 3})])

    b = StateGraph(Log)
    b.add_node("a", stage.node("a", spread, first=True), destinations=("b", "commit"))
    b.add_node("b", stage.node("b", lambda s: {"log": [f"b{s['x']}"]}))
    b.add_node("c", stage.node("c", lambda s: {"log": ["c"]}), defer=True)
    b.add_node("commit", stage.commit())
    b.add_edge(START, "a")
    b.add_edge("b", "c")
    b.add_edge("commit", "c")
    return b


def goto(stage: Stage) -> Builder:
    b = StateGraph(Log)
    b.add_node(
        "a",
        stage.node("a", lambda s: Command(update={"x": 5, "log": ["a"]}, goto="c"), first=True),
        destinations=("b", "c"),
    )
    b.add_node("b", stage.node("b", step("b")))
    b.add_node("c", stage.node("c", lambda s: Command(update=step("c")(s), goto="commit")), destinations=("commit",))
    b.add_node("commit", stage.commit())
    b.add_edge(START, "a")
    return b


def join(stage: Stage) -> Builder:
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.node("b", lambda s: {"log": ["b"]}))
    b.add_node("c", stage.node("c", lambda s: {"log": ["c"]}))
    b.add_node("slow", stage.node("slow", lambda s: {"log": ["slow"]}))
    b.add_node("d", stage.node("d", lambda s: {"log": [f"d{len(s['log'])}"]}))
    b.add_node("commit", stage.commit())
    b.add_edge(START, "a")
    b.add_edge("a", "b")
    b.add_edge("a", "slow")
    b.add_edge("slow", "c")
    b.add_edge(["b", "c"], "d")
    b.add_edge("d", "commit")
    return b


class Bag(TypedDict, total=False):
    items: list[Any]
    seen: dict[str, list[int]]
    log: Annotated[list[str], operator.add]


def mutating(stage: Stage) -> Builder:
    def mutate(s: Any) -> Any:
        s["items"].append(len(s["items"]))
        s["seen"].setdefault("at", []).append(len(s["items"]))
        return {"log": [f"{len(s['items'])}"]}

    b = StateGraph(Bag)
    b.add_node("a", stage.node("a", lambda s: {"log": [f"a{s['items']}"]}, first=True))
    b.add_node("b", stage.node("b", mutate))
    b.add_node("c", stage.node("c", lambda s: {"items": s["items"], "log": [f"c{s['items']}{s['seen']}"]}))
    b.add_node("d", stage.node("d", mutate))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "d", "commit")
    return b


class Curious(TypedDict, total=False):
    x: int
    remaining_steps: RemainingSteps
    log: Annotated[list[Any], operator.add]


def curious(stage: Stage) -> Builder:
    def look(s: Any, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
        info = runtime.execution_info
        return {
            "log": [
                (
                    config["configurable"].get("thread_id"),
                    config["configurable"].get("who"),
                    config["metadata"]["langgraph_step"],
                    config["metadata"]["langgraph_node"],
                    config["metadata"]["langgraph_triggers"],
                    config["recursion_limit"],
                    sorted(config["tags"]),
                    runtime.context,
                    s["remaining_steps"],
                    info.node_attempt if info else None,
                    info.thread_id if info else None,
                )
            ]
        }

    b = StateGraph(Curious, context_schema=dict)
    b.add_node("a", stage.node("a", lambda s: {"x": 1}, first=True))
    b.add_node("b", stage.wide("b", look))
    b.add_node("c", stage.wide("c", look))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "commit")
    return b


@dataclass
class Point:
    x: int
    tags: set[str]


class Note(BaseModel):
    x: int
    inner: Point | None = None
    pair: tuple[int, ...] = ()


class Rich(TypedDict, total=False):
    pair: tuple[int, list[int]]
    tags: set[str]
    frozen: frozenset[int]
    point: Point
    note: Note
    by: dict[tuple[int, int], str]
    log: Annotated[list[Any], operator.add]


def rich(stage: Stage) -> Builder:
    def look(s: Any) -> Any:
        kinds = [type(s[k]).__name__ for k in ("pair", "tags", "frozen", "point", "note", "by") if k in s]
        return {"log": [kinds, type(s["note"].inner).__name__, type(s["note"].pair).__name__]}

    def make(s: Any) -> Any:
        return {
            "pair": (1, [2]),
            "tags": {"x", "y"},
            "frozen": frozenset({1}),
            "point": Point(1, {"p"}),
            "note": Note(x=2, inner=Point(3, set()), pair=(1, 2)),
            "by": {(1, 2): "x"},
        }

    b = StateGraph(Rich)
    b.add_node("a", stage.node("a", make, first=True))
    b.add_node("b", stage.node("b", look))
    b.add_node("c", stage.node("c", lambda s: {"note": s["note"].model_copy(update={"x": 3}), "log": ["c"]}))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "commit")
    return b


class Model(BaseModel):
    x: int = 0
    note: Note | None = None
    log: Annotated[list[str], operator.add] = []


def pydantic_state(stage: Stage) -> Builder:
    b = StateGraph(Model)
    b.add_node("a", stage.node("a", lambda s: {"x": s.x + 1, "note": Note(x=1)}, first=True))
    b.add_node("b", stage.node("b", lambda s: {"x": s.x + 1, "log": [type(s).__name__, type(s.note).__name__]}))
    b.add_node("c", stage.node("c", lambda s: Model(x=s.x * 2, log=["c"])))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "commit")
    return b


@dataclass
class Data:
    x: int = 0
    log: Annotated[list[str], operator.add] = field(default_factory=list)


def dataclass_state(stage: Stage) -> Builder:
    b = StateGraph(Data)
    b.add_node("a", stage.node("a", lambda s: {"x": s.x + 1}, first=True))
    b.add_node("b", stage.node("b", lambda s: {"x": s.x + 1, "log": [type(s).__name__]}))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "commit")
    return b


def nested(stage: Stage) -> Builder:
    inner = StateGraph(Log)
    inner.add_node("i", stage.node("i", step("i")))
    inner.add_node("j", stage.node("j", step("j")))
    line(inner, "i", "j")
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("sub", inner.compile())
    b.add_node("c", stage.node("c", step("c")))
    b.add_node("commit", stage.commit())
    line(b, "a", "sub", "c", "commit")
    return b


def to_parent(stage: Stage) -> Builder:
    inner = StateGraph(Log)
    inner.add_node(
        "i",
        stage.node("i", lambda s: Command(graph=Command.PARENT, goto="c", update={"x": 5, "log": ["i"]})),
    )
    inner.add_node("never", stage.node("never", step("never")))
    line(inner, "i", "never")
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("sub", inner.compile(), destinations=("c",))
    b.add_node("c", stage.node("c", step("c")))
    b.add_node("commit", stage.commit())
    line(b, "a", "sub", end=False)
    b.add_edge("c", "commit")
    return b


def retried(stage: Stage) -> Builder:
    def flaky(s: Any) -> Any:
        if stage.probe.tally["b"] < 3:
            raise ConnectionError("not yet")
        return {"log": ["b"]}

    policy = RetryPolicy(initial_interval=0.001, backoff_factor=1, jitter=False, max_attempts=4)
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.node("b", flaky), retry_policy=policy)
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "commit")
    return b


def failing(stage: Stage) -> Builder:
    def fail(s: Any) -> Any:
        raise ValueError(f"boom at {s['x']}")

    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.node("b", step("b")))
    b.add_node("c", stage.node("c", fail))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "commit")
    return b


def router_fails(stage: Stage) -> Builder:
    def route(s: Any) -> str:
        raise LookupError(f"no way from {s['x']}")

    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.node("b", step("b")))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", end=False)
    b.add_conditional_edges("b", route, ["commit"])
    return b


def asking(stage: Stage) -> Builder:
    def ask(s: Any) -> Any:
        answer = interrupt({"x": s["x"]})
        more = interrupt("sure?")
        return {"log": [f"{answer} {more}"]}

    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.node("b", step("b")))
    b.add_node("c", stage.node("c", ask))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "commit")
    return b


def endless(stage: Stage) -> Builder:
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.node("b", step("b")))
    b.add_edge(START, "a")
    b.add_edge("a", "b")
    b.add_edge("b", "a")
    return b


def writing(stage: Stage) -> Builder:
    def write(s: Any) -> Any:
        get_stream_writer()({"at": s["x"]})
        get_stream_writer()("again")
        return step("b")(s)

    def write_by_runtime(s: Any, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
        runtime.stream_writer(["c", s["x"]])
        return step("c")(s)

    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.node("b", write))
    b.add_node("c", stage.wide("c", write_by_runtime))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "commit")
    return b


class Secret(TypedDict, total=False):
    secret: int


class Public(TypedDict, total=False):
    log: list[str]


def schemas(stage: Stage) -> Builder:
    b = StateGraph(Log, output_schema=Public)
    b.add_node("a", stage.node("a", lambda s: {"secret": 3, "x": 1}, first=True))
    b.add_node("b", stage.node("b", lambda s: {"log": [f"{s}"]}), input_schema=Secret)
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "commit")
    return b


class Loose(TypedDict, total=False):
    x: Annotated[int, UntrackedValue]
    kept: Annotated[list[int], operator.add]
    log: Annotated[list[str], operator.add]


def odd_channels(stage: Stage) -> Builder:
    b = StateGraph(Loose)
    b.add_node("a", stage.node("a", lambda s: {"x": 4, "kept": [1]}, first=True))
    b.add_node("b", stage.node("b", lambda s: {"kept": Overwrite([s["x"]]), "log": ["b"]}))
    b.add_node("c", stage.node("c", lambda s: {"log": [f"{s['x']}{s['kept']}"]}))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "commit")
    return b


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[str], operator.add]


def talking(stage: Stage) -> Builder:
    b = StateGraph(Chat)
    b.add_node("a", stage.node("a", lambda s: {"messages": [AIMessage("one")]}, first=True))
    b.add_node("b", stage.node("b", lambda s: {"messages": AIMessage(f"two {len(s['messages'])}", id="fixed")}))
    b.add_node("c", stage.node("c", lambda s: {"messages": [("human", "three"), AIMessage("2", id="fixed")]}))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "c", "commit")
    return b


def tasks(stage: Stage) -> Builder:
    async def twice(x: int) -> int:
        stage.probe.tally.add("twice")
        return 2 * x

    double = task(stage.world.node(twice))

    async def use(state: Any) -> Any:
        futures = [double(state["x"]), double(state["x"])]
        if stage.world.name == "async":
            return {"log": [f"{[await f for f in futures]}"]}
        return {"log": [f"{[f.result() for f in futures]}"]}

    b = StateGraph(Log)
    b.add_node("a", stage.node("a", step("a"), first=True))
    b.add_node("b", stage.world.node(use))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "commit")
    return b


def cached(stage: Stage) -> Builder:
    b = StateGraph(Log)
    b.add_node("a", stage.node("a", lambda s: {"x": 1, "log": ["a"]}, first=True))
    b.add_node("b", stage.node("b", lambda s: {"log": ["b"]}), cache_policy=CachePolicy(key_func=lambda s: str(s["x"])))
    b.add_node("commit", stage.commit())
    line(b, "a", "b", "commit")
    return b


CASES = {
    "straight": Case(straight, {"x": 0}, guessed=("a", "b", "c"), claims=1),
    "routed": Case(routed, {"x": 0}, pure=("a", "left", "right")),
    "same_input_twice": Case(same_input_twice, {"q": "why"}, guessed=("a", "b")),
    "identical_sends": Case(identical_sends, {"x": 0}, claims=3),
    "sends_of_all_kinds": Case(sends_of_all_kinds, {"x": 0}, claims=2),
    "goto": Case(goto, {"x": 0}, guessed=("a", "c")),
    "join": Case(join, {"x": 0}, guessed=("a", "b", "slow", "c"), pure=("a", "b", "c", "d", "slow")),
    "mutating": Case(mutating, {"items": [], "seen": {}}, guessed=("a", "c"), claims=0, changes_input=True),
    "curious": Case(
        curious,
        {"x": 0},
        config={"configurable": {"who": "me"}, "tags": ["t"], "recursion_limit": 33},
        run={"context": {"tenant": 7}},
        claims=0,
    ),
    "rich": Case(rich, {}, guessed=("a", "b", "c")),
    "pydantic_state": Case(pydantic_state, {"x": 0}, guessed=("a", "b")),
    "dataclass_state": Case(dataclass_state, {"x": 0}),
    "nested": Case(nested, {"x": 0}, guessed=("a", "i", "j"), pure=("a", "i", "j", "c")),
    "to_parent": Case(to_parent, {"x": 0}, guessed=("a", "i"), pure=("a", "i", "c")),
    "retried": Case(retried, {"x": 0}, claims=0),
    "failing": Case(failing, {"x": 0}, guessed=("a", "b")),
    "router_fails": Case(router_fails, {"x": 0}),
    "asking": Case(asking, {"x": 0}, then=(Command(resume="yes"), Command(resume="sure")), saver=True),
    "breakpoints": Case(
        straight,
        {"x": 0},
        guessed=("a", "b"),
        then=(None, None),
        compile=lambda: {"interrupt_before": ["c"], "interrupt_after": ["a"]},
        claims=0,
        saver=True,
    ),
    "second_turn": Case(
        talking,
        {"messages": [HumanMessage("hi", id="h")]},
        then=({"messages": HumanMessage("and?", id="h2")},),
        saver=True,
    ),
    "endless": Case(endless, {"x": 0}, guessed=("a", "b"), config={"recursion_limit": 7}),
    "writing": Case(writing, {"x": 0}),
    "schemas": Case(schemas, {"x": 0}),
    "odd_channels": Case(odd_channels, {}, guessed=("a", "b")),
    "talking": Case(talking, {"messages": [HumanMessage("hi", id="h")]}, guessed=("a", "b")),
    "tasks": Case(tasks, {"x": 2}, claims=0),
    "cached": Case(
        cached, {"x": 0}, then=({"x": 0},), compile=lambda: {"cache": InMemoryCache()}, claims=0, saver=True
    ),
}
