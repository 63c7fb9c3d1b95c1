"""A Speculator that fails costs a report entry and never the run; nor does a bug of our own."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import StateGraph
from langgraph.types import Command, Send

from langgraph_speculative import Guess, Policy, speculative
from tests.support import LIMIT, Probe, Signal, World, chain


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


def two(world: World, probe: Probe, until: Signal) -> Any:
    """a -> b, where a waits in the speculative run until speculation has failed."""

    async def a(state: State) -> Any:
        await until.wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        probe.tally.add("b")
        return {"log": [state["x"]]}

    return chain(State, world.node(a), world.node(b)).compile()


def raising(state: Any) -> Any:
    raise LookupError("no idea")


async def raising_coroutine(state: Any) -> Any:
    raise LookupError("no idea")


def raising_generator(state: Any) -> Any:
    raise LookupError("no idea")
    yield


async def raising_async_generator(state: Any) -> Any:
    raise LookupError("no idea")
    yield


def cancelling(state: Any) -> Any:
    raise asyncio.CancelledError("no idea")


@pytest.mark.parametrize(
    "speculator",
    [raising, raising_coroutine, raising_generator, raising_async_generator],
    ids=lambda f: f.__name__,
)
def test_one_that_raises(world: World, probe: Probe, speculator: Any) -> None:
    watch = probe.watch
    fast = speculative(
        two(world, probe, watch.saw("error")),
        speculators={"a": speculator},
        effects={"b": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert (report.speculator_errors, report.launched) == (1, 0)
    assert "LookupError: no idea" in report.errors[0]
    assert "'a'" in report.errors[0]
    assert [e.node for e in watch.of("error")] == ["a"]


def system_exit(state: Any) -> Any:
    raise SystemExit(3)


def keyboard_interrupt(state: Any) -> Any:
    raise KeyboardInterrupt


def stop_iteration(state: Any) -> Any:
    raise StopIteration


@pytest.mark.parametrize("speculator", [system_exit, keyboard_interrupt, stop_iteration, cancelling])
def test_one_that_raises_what_ends_programs(world: World, probe: Probe, speculator: Any) -> None:
    """In a thread of ours it must neither end the program nor leave anything hanging."""

    def asked(state: Any) -> Any:
        probe.tally.add("asked")
        return speculator(state)

    fast = speculative(two(world, probe, probe.tally.reached("asked")), speculators={"a": asked}, effects={"b": "pure"})
    assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert fast.drain(LIMIT) == 0


NONSENSE: dict[str, Any] = {
    "an object": object(),
    "a number": 42,
    "an unknown channel": {"no such channel": 1},
    "an unknown node": Command(goto="nowhere"),
    "a send to nowhere": Command(goto=[Send("nowhere", {})]),
    "what the reducer cannot add": {"log": 5},
    "an empty list": [],
    "a class": Guess,
    "something that cannot be copied": {"x": (i for i in range(3))},
}


@pytest.mark.parametrize("what", NONSENSE)
def test_one_that_returns_what_does_not_fit(world: World, probe: Probe, what: str) -> None:
    def guess(state: Any) -> Any:
        probe.tally.add("asked")
        return NONSENSE[what]

    fast = speculative(two(world, probe, probe.tally.reached("asked")), speculators={"a": guess}, effects={"b": "pure"})
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert report.claimed == 0


@pytest.mark.parametrize("what", ["an object", "a number", "what the reducer cannot add"])
def test_nonsense_costs_a_report_entry(world: World, probe: Probe, what: str) -> None:
    watch = probe.watch
    fast = speculative(
        two(world, probe, watch.saw("error")),
        speculators={"a": lambda s: NONSENSE[what]},
        effects={"b": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert report.speculator_errors == 1
    assert "'a'" in report.errors[0]


def test_a_guess_that_the_branchs_nodes_choke_on(world: World, probe: Probe) -> None:
    """Node b raises on the guessed input; the run never sees that."""
    watch = probe.watch

    async def a(state: State) -> Any:
        await watch.saw("stop").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {"log": [10 // state["x"]]}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 0}},
        effects={"b": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [10]}


def test_no_guess_is_no_error(world: World, probe: Probe) -> None:
    def guess(state: Any) -> Any:
        probe.tally.add("asked")

    fast = speculative(two(world, probe, probe.tally.reached("asked")), speculators={"a": guess}, effects={"b": "pure"})
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert (report.speculator_calls, report.guesses, report.speculator_errors) == (1, 0, 0)
    assert list(report.errors) == []


def test_a_guess_that_comes_too_late(world: World, probe: Probe) -> None:
    """The Speculator answers when the run has gone on: nothing is forked from it any more."""
    tally = probe.tally

    def guess(state: Any) -> Any:
        tally.add("asked")
        tally.reached("c").block()
        return {"x": 1}

    async def a(state: State) -> Any:
        await tally.reached("asked").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    async def c(state: State) -> Any:
        tally.add("c")
        return {}

    fast = speculative(
        chain(State, *map(world.node, (a, b, c))).compile(),
        speculators={"a": guess},
        effects={"b": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert fast.drain(LIMIT) == 0
    assert tally["b"] == 1
    assert report.launched == 0


def test_the_run_never_waits_for_a_hanging_speculator(world: World, probe: Probe) -> None:
    """Three nodes whose Speculators never answer while the run lasts."""
    over = Signal("end of the run")

    def guess(state: Any) -> Any:
        probe.tally.add("asked")
        over.block(2 * LIMIT)

    async def step(state: State) -> Any:
        await probe.tally.reached("asked", state["x"] + 1).wait()
        return {"x": state["x"] + 1}

    async def last(state: State) -> Any:
        return {"x": state["x"] + 1}

    builder = chain(State, *[world.node(step)] * 3, world.node(last), names="abcd")
    fast = speculative(builder.compile(), speculators=dict.fromkeys("abc", guess), effects={"*": "pure"})
    try:
        assert world.invoke(fast, {"x": 0})["x"] == 4
        assert fast.drain(0) == 3
    finally:
        over.set()
    assert fast.drain(LIMIT) == 0


def test_a_hanging_speculator_keeps_its_place_in_the_budget(world: World, probe: Probe) -> None:
    """With room for two, the third is not started while they hang; the run goes on."""
    over = Signal("end of the run")

    def guess(state: Any) -> Any:
        probe.tally.add("asked")
        over.block(2 * LIMIT)

    async def step(state: State) -> Any:
        await probe.tally.reached("asked", min(state["x"] + 1, 2)).wait()
        return {"x": state["x"] + 1}

    fast = speculative(
        chain(State, *[world.node(step)] * 5, names="abcde").compile(),
        speculators=dict.fromkeys("abcd", guess),
        effects={"*": "pure"},
        policy=Policy(max_speculators=2),
    )
    try:
        with fast.track() as report:
            assert world.invoke(fast, {"x": 0})["x"] == 5
        assert probe.tally["asked"] == 2
        assert report.speculator_calls == 2
    finally:
        over.set()
    assert fast.drain(LIMIT) == 0


async def test_a_hanging_coroutine_is_cancelled(probe: Probe) -> None:
    cancelled = Signal("cancellation")

    async def guess(state: Any) -> Any:
        probe.tally.add("asked")
        try:
            await Signal("never").wait(2 * LIMIT)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def a(state: State) -> Any:
        await probe.tally.reached("asked").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": guess}, effects={"b": "pure"})
    await fast.ainvoke({"x": 0})
    assert cancelled.is_set
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_coroutine_that_refuses_to_be_cancelled(probe: Probe) -> None:
    """It swallows the cancellation; the run does not wait for it for ever."""
    over = Signal("end of the run")

    async def guess(state: Any) -> Any:
        probe.tally.add("asked")
        while not over.is_set:
            try:
                await over.wait(2 * LIMIT)
            except asyncio.CancelledError:
                continue

    async def a(state: State) -> Any:
        await probe.tally.reached("asked").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {"log": ["b"]}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": guess}, effects={"b": "pure"})
    try:
        async with asyncio.timeout(LIMIT):
            assert await fast.ainvoke({"x": 0}) == {"x": 1, "log": ["b"]}
    finally:
        over.set()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)


# --- our own failures -------------------------------------------------------------------------------------------


class Touchy:
    """A value of the state that does not like to be taken apart."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise self.error

    def __deepcopy__(self, memo: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("touchy"), MemoryError(), RecursionError(), AttributeError("x")], ids=repr
)
def test_values_that_raise_when_they_are_copied(world: World, error: Exception) -> None:
    async def a(state: Any) -> Any:
        return {"x": 1}

    async def b(state: Any) -> Any:
        return {"log": ["b"]}

    class Holding(State, total=False):
        touchy: Any

    value = Touchy(error)
    fast = speculative(
        chain(Holding, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
    )
    out = world.invoke(fast, {"touchy": value})
    assert (out["x"], out["log"]) == (1, ["b"])
    assert out["touchy"] is value


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("_ledger", "Ledger.claim"),
        ("_ledger", "Ledger.add"),
        ("_ledger", "Ledger.share"),
        ("_tree", "Tree.on_begin"),
        ("_tree", "Tree.on_output"),
        ("_tree", "Tree.on_step"),
        ("_session", "Session.emit"),
        ("_shadow", "Shadows.start"),
        ("_compat", "copy_channels"),
        ("_compat", "next_tasks"),
        ("_compat", "offline"),
    ],
)
def test_a_bug_of_ours_costs_the_speedup_and_not_the_run(
    world: World, probe: Probe, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    import importlib

    def bug(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a bug of ours")

    def step(name: str) -> Callable[..., Any]:
        async def body(state: State) -> Any:
            return {"x": state["x"] + 1, "log": [name]}

        body.__name__ = name
        return world.node(body)

    fast = speculative(
        chain(State, *map(step, "abcd")).compile(),
        speculators={n: lambda s: {"x": s["x"] + 1, "log": ["a"]} for n in "abc"},
        effects={"*": "pure"},
        policy=Policy(depth=2, hooks=(probe.watch,)),
    )
    target: Any = importlib.import_module(f"langgraph_speculative.{place}")
    *path, last = name.split(".")
    for part in path:
        target = getattr(target, part)
    with monkeypatch.context() as patch:
        patch.setattr(target, last, bug)
        assert world.invoke(fast, {"x": 0}) == {"x": 4, "log": list("abcd")}
    assert fast.drain(LIMIT) == 0
    assert world.invoke(fast, {"x": 0}) == {"x": 4, "log": list("abcd")}


def test_a_hook_that_raises_is_ignored(world: World, probe: Probe) -> None:
    def hook(event: Any) -> None:
        raise RuntimeError("bad hook")

    async def a(state: State) -> Any:
        await probe.tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        probe.tally.add("b")
        return {"log": [state["x"]]}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
        policy=Policy(hooks=(hook, probe.watch)),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert report.claimed == 1
    assert probe.watch.of("claim")


class Odd(TypedDict, total=False):
    x: int
    y: int


def test_writers_that_raise_on_a_guess(world: World, probe: Probe) -> None:
    """Two guesses write the same channel at once, which LangGraph refuses for a last value."""
    watch = probe.watch

    async def one(state: Odd) -> Any:
        await watch.saw("guess", count=2).wait()
        return {"x": 1}

    async def two(state: Odd) -> Any:
        await watch.saw("guess", count=2).wait()
        return {"y": 1}

    async def join(state: Odd) -> Any:
        return {}

    builder = StateGraph(Odd)
    for function in (one, two, join):
        builder.add_node(function.__name__, world.node(function))
    builder.add_edge("__start__", "one")
    builder.add_edge("__start__", "two")
    builder.add_edge(["one", "two"], "join")
    fast = speculative(
        builder.compile(),
        speculators={"one": lambda s: {"x": 1}, "two": lambda s: {"x": 2}},
        effects={"*": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    assert world.invoke(fast, {"x": 0}) == {"x": 1, "y": 1}
