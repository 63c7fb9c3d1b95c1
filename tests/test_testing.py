"""The conformance check that users run on their own graphs: passes where runs are the same, and says where not."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypedDict
from uuid import uuid4

import pytest
from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store, get_stream_writer
from langgraph.graph import StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send, interrupt

from langgraph_speculative import Policy, SpeculationError
from langgraph_speculative._observe import Canon
from langgraph_speculative.testing import check_same_run
from tests.support import LIMIT, Tally, World, chain


class State(TypedDict, total=False):
    x: int
    said: Any
    log: Annotated[list[Any], operator.add]


def check(world: World, factory: Callable[[], Any], inputs: Any, **kwargs: Any) -> Any:
    return check_same_run(factory, inputs, sync=world.name == "sync", timeout=LIMIT, **kwargs)


def varying(world: World, vary: Callable[[int], Any]) -> Callable[[], Any]:
    """A factory whose graphs do what `vary` says for 0 (the plain run) and 1 (the speculative one)."""
    builds = iter(range(2))

    def build() -> Any:
        number = next(builds)

        async def a(state: State) -> Any:
            return vary(number)

        async def b(state: State) -> Any:
            return {"log": ["b"]}

        return chain(State, world.node(a), world.node(b)).compile()

    return build


SPECULATION: dict[str, Any] = {"speculators": {"a": lambda s: {"x": 1}}, "effects": {"b": "pure"}}


def test_the_same_run(world: World) -> None:
    """Interrupts, resuming, a store, a checkpointer and minted ids."""
    tally = Tally()

    def build() -> Any:
        waits = tally.add("builds") == 2

        async def a(state: State) -> Any:
            if waits:
                await tally.reached("b").wait()
            return {"x": 1, "said": AIMessage("hello", id=str(uuid4()))}

        async def b(state: State) -> Any:
            if waits:
                tally.add("b")
            get_stream_writer()(state["x"])
            return {"log": ["b"]}

        async def ask(state: State) -> Any:
            return {"log": [interrupt("sure?")]}

        async def keep(state: State) -> Any:
            if world.name == "sync":
                get_store().put(("kept",), "k", {"x": state["x"]})
            else:
                await get_store().aput(("kept",), "k", {"x": state["x"]})
            return {}

        nodes = map(world.node, (a, b, ask, keep))
        return chain(State, *nodes).compile(checkpointer=InMemorySaver(), store=InMemoryStore())

    report = check(
        world,
        build,
        [{"x": 0}, Command(resume="yes")],
        speculators={"a": lambda s: {"x": 1, "said": AIMessage("hello", id=str(uuid4()))}},
        effects={"b": "pure"},
        policy=Policy(depth=2),
    )
    assert report.claimed == 1
    assert report.runs == 2


def test_parallel_tasks_in_any_order(world: World) -> None:
    def build() -> Any:
        async def a(state: State) -> Any:
            return Command(goto=[Send("b", {"x": n}) for n in range(3)])

        async def b(state: State) -> Any:
            get_stream_writer()(state["x"])
            return {"log": [state["x"]]}

        builder = StateGraph(State)
        builder.add_node("a", world.node(a), destinations=("b",))
        builder.add_node("b", world.node(b))
        builder.add_edge("__start__", "a")
        return builder.compile()

    check(world, build, {"x": 0}, effects={"b": "pure"}, speculators={"a": lambda s: None})


async def test_a_factory_that_is_a_coroutine_function() -> None:
    """It runs on the loop on which its graphs run, as an asynchronous checkpointer wants it."""

    async def build() -> Any:
        asyncio.get_running_loop()
        return varying(World(), lambda n: {"x": 1})()

    await asyncio.to_thread(check_same_run, build, {"x": 0}, **SPECULATION)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (lambda n: {"x": n}, r"chunks\[\d+\]\[2\]\.\S*x: 0 in the plain run, 1 in the speculative run"),
        (lambda n: {"x": float(n) if n else n}, "int 0 in the plain run, float 1.0 in the speculative run"),
        (lambda n: {"x": 1, "said": "s"} if n else {"x": 1}, "said: only in the speculative run: 's'"),
        (lambda n: {"log": ["i", "i"] if n else ["i", "j"]}, "'j' in the plain run, 'i' in the speculative run"),
        (lambda n: 1 // n and {}, "error: ZeroDivisionError.* in the plain run, NoneType None in the speculative run"),
        (
            lambda n: {"log": (ids := [str(uuid4()), str(uuid4())]) + (ids if n else ids[::-1])},
            "'<id .>' in the plain run, '<id .>' in the speculative run",
        ),
    ],
    ids=["value", "type", "key", "item", "error", "ids"],
)
def test_the_first_difference(world: World, vary: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check(world, varying(world, vary), {"x": 0}, **SPECULATION)


@pytest.mark.parametrize("where", ["callbacks", "store"])
def test_what_the_stream_does_not_show(world: World, where: str) -> None:
    builds = iter(range(2))

    def build() -> Any:
        number = next(builds)
        store = InMemoryStore()
        store.put(("n",), "k", {"n": number if where == "store" else 0})

        async def a(state: State) -> Any:
            return {"x": 1}

        async def b(state: State, config: RunnableConfig) -> Any:
            if where == "callbacks" and world.name == "async":
                await adispatch_custom_event("said", number, config=config)
            elif where == "callbacks":
                dispatch_custom_event("said", number, config=config)
            return {}

        return chain(State, world.node(a), world.node(b)).compile(store=store)

    with pytest.raises(AssertionError, match=rf"{where}\S*: 0 in the plain run, 1 in the speculative run"):
        check(world, build, {"x": 0}, **SPECULATION)


def test_the_input_is_named_when_there_are_several(world: World) -> None:
    build = varying(world, lambda n: {"x": 1})
    check(world, build, [{"x": 0}, {"x": 0}], **SPECULATION)
    seen = iter(range(4))

    def changes(n: int) -> Any:
        return {"x": max(next(seen), 2)}

    with pytest.raises(AssertionError, match="input 2 of 2: "):
        check(world, varying(world, changes), [{"x": 0}, {"x": 0}], **SPECULATION)


def test_inputs_are_copied(world: World) -> None:
    given: Any = {"log": [1]}

    def build() -> Any:
        async def a(state: State) -> Any:
            state["log"].append(2)
            return {"x": 1}

        async def b(state: State) -> Any:
            return {}

        return chain(State, world.node(a), world.node(b)).compile()

    check(world, build, given, **SPECULATION)
    assert given == {"log": [1]}


def test_a_speculator_that_keeps_its_thread_is_found() -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(state: Any) -> Any:
        asked.set()
        over.wait(2 * LIMIT)

    def vary(number: int) -> Any:
        assert number == 0 or asked.wait(LIMIT)
        return {"x": 1}

    try:
        with pytest.raises(AssertionError, match=r"1 threads of speculation are still blocked after 0\.1 s"):
            check_same_run(
                varying(World(), vary),
                {"x": 0},
                sync=True,
                timeout=0.1,
                speculators={"a": hang},
                effects={"b": "pure"},
            )
    finally:
        over.set()


def test_wrong_options_are_refused() -> None:
    with pytest.raises(SpeculationError, match="no such"):
        check_same_run(varying(World(), lambda n: {}), {"x": 0}, speculators={"no such": lambda s: None})


def test_clock_times_are_those_of_langgraph() -> None:
    """What a state keeps under such a name counts, unless it is a time."""
    canon = Canon()
    assert canon({"ts": "2026-01-01T00:00:00+00:00", "x": 1}) == {"x": 1}
    assert canon({"ts": "soon", "timestamp": 3}) == {"ts": "soon", "timestamp": 3}
