"""A bug of the library's own costs the run its speculation, and nothing else."""

from __future__ import annotations

import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore

from langgraph_speculative import Policy, speculative
from langgraph_speculative._counters import Counters
from langgraph_speculative._ledger import Ledger
from langgraph_speculative._tree import Tree
from tests.support import AsyncWorld, Probe, Signal, World, chain


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]
    bag: list[Any]


def counting(world: World, *names: str, until: Signal | None = None) -> Any:
    """A chain whose last node waits for a signal."""

    def make(name: str) -> Any:
        async def step(state: State) -> Any:
            if until is not None and name == names[-1]:
                await until.wait()
            return {"x": state["x"] + 1, "log": [f"{name}{state['x']}"]}

        step.__name__ = name
        return world.node(step)

    return chain(State, *map(make, names)).compile()


def right(name: str) -> Any:
    return lambda state: {"x": state["x"] + 1, "log": [f"{name}{state['x']}"]}


@pytest.mark.parametrize(
    ("owner", "method"),
    [
        (Ledger, "has"),
        (Tree, "on_begin"),
        (Tree, "on_output"),
        (Tree, "_consult"),
        (Counters, "count"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_bug_of_ours(world: World, probe: Probe, monkeypatch: pytest.MonkeyPatch, owner: Any, method: str) -> None:
    """It is told once, however often it would come, and the result is the plain one."""

    def bug(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a bug")

    names = ("a", "b", "c", "d")
    fast = speculative(
        counting(world, *names, until=probe.watch.saw("error")),
        speculators={name: right(name) for name in names},
        effects={"*": "pure"},
        policy=Policy(hooks=(probe.watch,)),
    )
    expected = world.invoke(counting(world, *names), {"x": 0})
    monkeypatch.setattr(owner, method, bug)
    assert world.invoke(fast, {"x": 0}) == expected
    (error,) = fast.report().errors
    assert "internal error" in error
    assert "a bug" in error
    assert len(probe.watch.of("error")) == 1
    monkeypatch.undo()
    # The next run speculates again.
    assert world.invoke(fast, {"x": 0}) == expected
    assert len(fast.report().errors) == 1


def behind(world: World, first: Any) -> Any:
    """A node of which nothing is guessed, and two behind it of which something may be."""

    async def second(state: State) -> Any:
        return {"x": 1}

    async def third(state: State) -> Any:
        return {"x": 2}

    graph = chain(State, *map(world.node, (first, second, third))).compile()
    return speculative(graph, speculators={"second": lambda _: None}, effects={"*": "pure"})


@pytest.mark.parametrize("attribute", ["usage_metadata", "update"])
def test_an_output_that_cannot_be_looked_at(world: World, attribute: str) -> None:
    """Also of a node of which nothing is guessed: its tokens are counted by code that the run waits for."""

    class Odd:
        def __getattr__(self, name: str) -> Any:
            if name == attribute:
                raise ZeroDivisionError("odd")
            raise AttributeError(name)

    odd = Odd()

    async def first(state: State) -> Any:
        return {"bag": [odd]}

    fast = behind(world, first)
    assert world.invoke(fast, {"x": 0})["bag"] == [odd]
    assert "ended by an internal error: ZeroDivisionError('odd')" in "".join(fast.report().errors)


def test_an_error_that_cannot_be_looked_at(world: World, probe: Probe) -> None:
    """The policy asks every error whether it says that there were too many calls; the run gets its own."""

    class Odd(Exception):
        @property
        def status_code(self) -> int:
            raise ZeroDivisionError("odd")

        response = status_code

    async def first(state: State) -> Any:
        raise Odd

    with pytest.raises(Odd):
        world.invoke(behind(world, first), {"x": 0})


def test_places_in_the_budget_are_free_again(world: World, probe: Probe) -> None:
    """Two are enough for a chain: when one is guessed, the one before the last is over."""
    names = "abcdefgh"

    def make(name: str, after: str) -> Any:
        async def step(state: State) -> Any:
            if after:
                await probe.watch.saw("launch", after).wait()
            return right(name)(state)

        step.__name__ = name
        return world.node(step)

    fast = speculative(
        chain(State, *map(make, names, [*names[1:], ""])).compile(),
        speculators={name: right(name) for name in names},
        effects={"*": "pure"},
        policy=Policy(max_in_flight=2, hooks=(probe.watch,)),
    )
    assert len(world.invoke(fast, {"x": 0})["log"]) == len(names)
    assert fast.report().claimed == len(names) - 1
    assert not fast.report().stopped


def test_an_input_that_can_no_longer_be_compared(world: World, probe: Probe) -> None:
    """A node that puts a lock into its input has changed it: the run executes it itself."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        await probe.watch.saw("launch", "b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        state["bag"].append(threading.Lock())
        tally.add("b")
        return {"log": ["b"]}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
        policy=Policy(hooks=(probe.watch,)),
    )
    out = world.invoke(fast, {"x": 0, "bag": []})
    assert out["log"] == ["b"]
    assert len(out["bag"]) == 1
    assert not fast.report().errors


class Heard(InMemoryStore):
    """Notes by which of its two forms it is written to."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[str] = []

    def batch(self, ops: Any) -> Any:
        ops = list(ops)
        self.forms.append("batch")
        return super().batch(ops)

    async def abatch(self, ops: Any) -> Any:
        ops = list(ops)
        self.forms.append("abatch")
        return super().batch(ops)


@pytest.mark.parametrize("form", ["batch", "abatch"])
def test_held_writes_land_by_the_form_that_the_code_used(probe: Probe, form: str) -> None:
    world, tally, store = AsyncWorld(), probe.tally, Heard()

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State, runtime: Runtime[Any]) -> Any:
        assert runtime.store is not None
        if form == "abatch":
            await runtime.store.aput(("n",), "k", {})
        else:
            runtime.store.put(("n",), "k", {})
        tally.add("b")
        return {}

    fast = speculative(
        chain(State, a, b).compile(store=store), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"}
    )
    world.invoke(fast, {"x": 0})
    assert fast.report().claimed == 1
    assert store.forms == [form]
