"""Nothing that a branch does to a value reaches an object that the run can see, nor the other way round."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import add_messages
from pydantic import BaseModel

from langgraph_speculative import Policy, speculative
from langgraph_speculative._observe import Canon
from tests.support import Probe, World, chain, observe


class Box(TypedDict, total=False):
    box: Any
    x: int
    log: Annotated[list[Any], operator.add]


@dataclass
class Data:
    items: list[int] = field(default_factory=list)


class Model(BaseModel):
    items: list[int] = []


class Thing:
    def __init__(self) -> None:
        self.items: list[int] = []

    def __repr__(self) -> str:
        return f"Thing({self.items})"


SPOILERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "list": (lambda: [1], lambda v: v.append(2)),
    "dict": (lambda: {"a": 1}, lambda v: v.update(b=2)),
    "set": (lambda: {1}, lambda v: v.add(2)),
    "nested": (lambda: {"a": [{"b": [1]}]}, lambda v: v["a"][0]["b"].append(2)),
    "in a tuple": (lambda: (1, [1]), lambda v: v[1].append(2)),
    "dataclass": (Data, lambda v: v.items.append(1)),
    "pydantic": (Model, lambda v: v.items.append(1)),
    "object": (Thing, lambda v: v.items.append(1)),
    "message": (lambda: AIMessage("a", id="1"), lambda v: setattr(v, "content", "b")),
    "message metadata": (lambda: AIMessage("a", id="1"), lambda v: v.additional_kwargs.update(b=1)),
    "bytearray": (lambda: bytearray(b"a"), lambda v: v.extend(b"b")),
}


@pytest.mark.parametrize("kind", SPOILERS)
def test_what_a_branch_changes_in_place_stays_in_the_branch(world: World, probe: Probe, kind: str) -> None:
    make, change = SPOILERS[kind]
    tally = probe.tally

    async def a(state: Box) -> Any:
        before = repr(state["box"])
        await tally.reached("b").wait()
        assert repr(state["box"]) == before
        return {"x": 1}

    async def b(state: Box) -> Any:
        if tally["b"] == 0:
            change(state["box"])
        tally.add("b")
        return {"log": [repr(state["box"])]}

    given = make()
    fast = speculative(
        chain(Box, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 2}},
        effects={"b": "pure"},
    )
    out = world.invoke(fast, {"box": given})
    assert tally["b"] == 2
    assert out["log"] == [repr(make())]
    assert repr(given) == repr(make())


@pytest.mark.parametrize("kind", SPOILERS)
def test_a_node_that_changes_its_input_is_not_claimed(world: World, probe: Probe, kind: str) -> None:
    """The change is part of what it does: the run makes it once, on its own objects, as the plain graph does."""
    make, change = SPOILERS[kind]
    tally = probe.tally

    def build(waits: bool) -> Any:
        async def a(state: Box) -> Any:
            if waits:
                await tally.reached("b").wait()
            return {"x": 1}

        async def b(state: Box) -> Any:
            change(state["box"])
            if waits:
                tally.add("b")
            return {"log": ["b"]}

        async def c(state: Box) -> Any:
            return {"log": [repr(state["box"])]}

        return chain(Box, world.node(a), world.node(b), world.node(c)).compile()

    plain = world.invoke(build(False), {"box": make()})
    fast = speculative(build(True), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    out = world.invoke(fast, {"box": make()})
    assert Canon()(out) == Canon()(plain)
    assert tally["b"] == 2
    assert fast.report().claimed == 0


def test_what_a_deeper_step_does_to_an_output_does_not_reach_the_claim(world: World, probe: Probe) -> None:
    """Node c, two steps ahead, changes what b returned; then the run claims b."""
    tally = probe.tally

    def build(waits: bool) -> Any:
        async def a(state: Box) -> Any:
            if waits:
                await tally.reached("c").wait()
            return {"x": 1}

        async def b(state: Box) -> Any:
            return {"box": [1]}

        async def c(state: Box) -> Any:
            state["box"].append(2)
            if waits:
                tally.add("c")
            return {"log": [list(state["box"])]}

        return chain(Box, world.node(a), world.node(b), world.node(c)).compile()

    plain = world.invoke(build(False), {"x": 0})
    fast = speculative(
        build(True),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(depth=2),
    )
    assert world.invoke(fast, {"x": 0}) == plain == {"box": [1, 2], "x": 1, "log": [[1, 2]]}
    assert fast.report().claimed >= 1


def test_a_guess_is_copied(world: World, probe: Probe) -> None:
    """A Speculator may return the same object every time; a branch that changes it changes a copy."""
    tally = probe.tally
    guess = {"box": [1], "x": 1}

    async def a(state: Box) -> Any:
        await tally.reached("b").wait()
        return {"box": [1], "x": 1}

    async def b(state: Box) -> Any:
        state["box"].append(2)
        tally.add("b")
        return {"log": ["b"]}

    fast = speculative(
        chain(Box, world.node(a), world.node(b)).compile(), speculators={"a": lambda s: guess}, effects={"b": "pure"}
    )
    out = world.invoke(fast, {"x": 0})
    assert guess == {"box": [1], "x": 1}
    assert out["box"] == [1, 2]


def test_a_speculator_that_changes_its_input_changes_a_copy(world: World, probe: Probe) -> None:
    tally, watch = probe.tally, probe.watch

    def guess(state: Any) -> Any:
        state["box"].append("spoiled")
        state["box"][0]["deep"] = True
        tally.add("guess")
        return {"x": 1}

    async def a(state: Box) -> Any:
        await tally.reached("guess").wait()
        await watch.saw("guess").wait()
        return {"x": 1, "log": [repr(state["box"])]}

    async def b(state: Box) -> Any:
        return {"log": [repr(state["box"])]}

    given = [{}]
    fast = speculative(
        chain(Box, world.node(a), world.node(b)).compile(),
        speculators={"a": guess},
        effects={"b": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    assert world.invoke(fast, {"box": given})["log"] == ["[{}]", "[{}]"]
    assert given == [{}]


@pytest.mark.parametrize("make", [threading.Lock, lambda: (i for i in range(3))], ids=["lock", "generator"])
def test_a_state_that_cannot_be_copied_is_not_speculated_on(world: World, probe: Probe, make: Any) -> None:
    async def a(state: Box) -> Any:
        return {"x": 1}

    async def b(state: Box) -> Any:
        probe.tally.add("b")
        return {"log": [type(state["box"]).__name__]}

    box = make()
    fast = speculative(
        chain(Box, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
    )
    out = world.invoke(fast, {"box": box})
    assert out["box"] is box
    assert out["log"] == [type(box).__name__]
    assert probe.tally["b"] == 1
    assert fast.report().claimed == 0


def test_context_variables_set_in_a_branch_stay_there(world: World, probe: Probe) -> None:
    tally = probe.tally
    variable: ContextVar[str] = ContextVar("variable", default="unset")

    async def a(state: Box) -> Any:
        await tally.reached("b").wait()
        return {"x": 1, "log": [variable.get()]}

    async def b(state: Box) -> Any:
        variable.set("by b")
        tally.add("b")
        return {}

    async def c(state: Box) -> Any:
        return {"log": [variable.get()]}

    fast = speculative(
        chain(Box, world.node(a), world.node(b), world.node(c)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(depth=2),
    )
    assert world.invoke(fast, {"x": 0})["log"] == ["unset", "unset"]
    assert variable.get() == "unset"


class CountingSaver(InMemorySaver):
    """Counts what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        self.calls.append(("put", metadata["step"], config["configurable"]["checkpoint_ns"]))
        return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        self.calls.append(("writes", [channel for channel, _ in writes]))
        super().put_writes(config, writes, task_id, task_path)


def test_no_branch_writes_to_the_runs_checkpointer(world: World, probe: Probe) -> None:
    tally = probe.tally

    def build(waits: bool, saver: CountingSaver) -> Any:
        async def a(state: Box) -> Any:
            if waits:
                await tally.reached("c").wait()
            return {"x": 1}

        async def b(state: Box) -> Any:
            return {"log": ["b"]}

        async def c(state: Box) -> Any:
            if waits:
                tally.add("c")
            return {"log": ["c"]}

        return chain(Box, world.node(a), world.node(b), world.node(c)).compile(checkpointer=saver)

    config = {"configurable": {"thread_id": "1"}}
    plain, early = CountingSaver(), CountingSaver()
    expected = observe(world, build(False, plain), {"x": 0}, config, durability="sync")
    fast = speculative(
        build(True, early),
        speculators={"a": lambda s: {"x": 7}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(depth=2),
    )
    assert observe(world, fast, {"x": 0}, config, durability="sync") == expected
    # LangGraph saves in threads, in any order.
    assert sorted(early.calls, key=repr) == sorted(plain.calls, key=repr)
    assert set(early.storage) == {"1"}


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


def test_messages_of_the_run_are_never_the_branchs_objects(world: World, probe: Probe) -> None:
    """`add_messages` writes an id into the very objects that it is given."""
    tally = probe.tally
    message = HumanMessage("?")

    async def a(state: Chat) -> Any:
        await tally.reached("b").wait()
        return {"messages": [AIMessage("real", id="real")]}

    async def b(state: Chat) -> Any:
        tally.add("b")
        for m in state["messages"]:
            m.content = "spoiled"
        return {}

    fast = speculative(
        chain(Chat, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"messages": [AIMessage("guess", id="guess")]}},
        effects={"b": "pure"},
    )

    chunks = world.stream(fast, {"messages": [message]}, stream_mode="updates")
    assert chunks[0]["a"]["messages"][0].id == "real"
    assert tally["b"] == 2
