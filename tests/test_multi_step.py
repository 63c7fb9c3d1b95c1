"""Depth, breadth, running on with real outputs, and several tasks in one superstep."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, StateGraph

from langgraph_speculative import Guess, Policy, speculative
from tests.support import LIMIT, Probe, World, chain


class State(TypedDict, total=False):
    x: int
    y: int
    log: Annotated[list[Any], operator.add]


def counting(world: World, probe: Probe, name: str) -> Callable[..., Any]:
    """A node that adds 1 to x."""

    async def body(state: State) -> Any:
        probe.tally.add(name)
        return {"x": state["x"] + 1, "log": [f"{name}{state['x']}"]}

    body.__name__ = name
    return world.node(body)


def add_one(name: str) -> Callable[[Any], Any]:
    return lambda s: {"x": s["x"] + 1, "log": [f"{name}{s['x']}"]}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_is_how_many_steps_run_ahead(world: World, probe: Probe, depth: int) -> None:
    """While a works, exactly `depth` of its successors are pre-executed: they run on with real outputs."""
    tally, watch = probe.tally, probe.watch
    names = "bcde"

    async def a(state: State) -> Any:
        await tally.reached(names[depth - 1]).wait()
        early = [n for n in names if tally[n]]
        return {"x": 1, "log": early}

    graph = chain(State, world.node(a), *[counting(world, probe, n) for n in names]).compile()
    fast = speculative(
        graph,
        speculators={"a": lambda s: {"x": 1, "log": list(names[:depth])}},
        effects=dict.fromkeys(names, "pure"),
        policy=Policy(depth=depth, hooks=(watch,)),
    )
    with fast.track() as report:
        out = world.invoke(fast, {"x": 0})
    assert out["log"] == [*names[:depth], "b1", "c2", "d3", "e4"]
    assert all(tally[n] == 1 for n in names[:depth])
    assert fast.drain(LIMIT) == 0
    assert report.launched == report.claimed + report.discarded
    # What is discarded before its code is entered does not count there.
    assert sum(tally[n] for n in names) <= len(names) + report.discarded
    assert report.claimed >= depth


def test_a_branch_runs_on_with_real_outputs_of_its_own(world: World, probe: Probe) -> None:
    """Nobody guesses b; c is launched on what b really returned, all while a is still working."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("c").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {"x": state["x"] * 100}

    async def c(state: State) -> Any:
        tally.add("c")
        return {"log": [state["x"]]}

    fast = speculative(
        chain(State, *map(world.node, (a, b, c))).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(depth=2),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 100, "log": [100]}
    assert tally["c"] == 1
    assert report.claimed == 2
    assert report.speculator_calls == 1


def test_guesses_are_chained(world: World, probe: Probe) -> None:
    """Both a and b are slow: c runs on a guess at b, which runs on a guess at a."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("c").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        await tally.reached("c").wait()
        return {"x": state["x"] + 1}

    async def c(state: State) -> Any:
        tally.add("c")
        return {"log": [state["x"]]}

    fast = speculative(
        chain(State, *map(world.node, (a, b, c))).compile(),
        speculators={"a": lambda s: {"x": 1}, "b": lambda s: {"x": s["x"] + 1}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(depth=2),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 2, "log": [2]}
    assert tally["c"] == 1
    assert (report.claimed, report.window_hits) == (2, 2)


def test_behind_an_irreversible_node_its_guessed_output_is_speculated_on(world: World, probe: Probe) -> None:
    """Node act may not run early, but what comes behind it may, on a guess at its output."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("c").wait()
        tally.add("a ends")
        return {"x": 1}

    async def act(state: State) -> Any:
        assert tally["a ends"]
        tally.add("act")
        return {"y": 2}

    async def c(state: State) -> Any:
        tally.add("c")
        return {"log": [state["x"] + state["y"]]}

    fast = speculative(
        chain(State, *map(world.node, (a, act, c))).compile(),
        speculators={"a": lambda s: {"x": 1}, "act": lambda s: {"y": 2}},
        effects={"act": "irreversible", "c": "pure"},
        policy=Policy(depth=2),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "y": 2, "log": [3]}
    assert (tally["act"], tally["c"]) == (1, 1)
    assert report.claimed == 1
    assert report.early_irreversible_calls == 0


def test_the_window_slides(world: World, probe: Probe) -> None:
    """Depth 1 on a chain of six: each node's successor runs while the node runs, and each is claimed."""
    tally = probe.tally
    names = "abcdef"

    def make(i: int) -> Callable[..., Any]:
        async def body(state: State) -> Any:
            tally.add(names[i])
            if i + 1 < len(names):
                await tally.reached(names[i + 1]).wait()
            return {"x": state["x"] + 1, "log": [state["x"]]}

        body.__name__ = names[i]
        return world.node(body)

    fast = speculative(
        chain(State, *map(make, range(len(names)))).compile(),
        speculators={n: lambda s: {"x": s["x"] + 1, "log": [s["x"]]} for n in names},
        effects={"*": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 6, "log": [0, 1, 2, 3, 4, 5]}
    assert all(tally[n] == 1 for n in names)
    assert (report.steps, report.claimed, report.launched, report.discarded) == (6, 5, 5, 0)
    assert report.speculator_calls <= 6


@pytest.mark.parametrize("depth", [1, 3])
def test_one_shadow_per_execution(world: World, probe: Probe, depth: int) -> None:
    """A claim adopts what its branch had begun: the Speculators are called once per step, not once per level."""
    steps = 12

    async def work(state: State) -> Any:
        probe.tally.add("work")
        await probe.tally.reached("work", min(state["x"] + 1 + depth, steps)).wait()
        return {"x": state["x"] + 1}

    builder = chain(State, world.node(work))
    builder.add_conditional_edges("work", lambda s: "work" if s["x"] < steps else END, ["work", END])
    fast = speculative(
        builder.compile(),
        speculators={"work": lambda s: {"x": s["x"] + 1}},
        effects={"*": "pure"},
        policy=Policy(depth=depth),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}, {"recursion_limit": 50})["x"] == steps
    assert probe.tally["work"] == steps
    assert report.claimed == steps - 1
    assert report.speculator_calls <= 1.1 * steps
    assert report.forks <= 1.1 * depth * steps


def test_wrong_guesses_are_pruned(world: World, probe: Probe) -> None:
    """Always wrong at depth 3: no more than three forks per step.

    In threads a guess inside of a branch may come before the output that refutes it: that is one more fork there.
    """
    steps, depth, tally = 10, 3, probe.tally

    async def a(state: State) -> Any:
        if "y" in state:  # it stands on the guess at this step of the run
            tally.add(f"{state['x']} after {state['y']}")
        elif state["x"] < steps - 1:
            await tally.reached(f"{min(state['x'] + depth, steps - 1)} after {state['x']}").wait()
        return {"x": state["x"] + 1}

    builder = chain(State, world.node(a))
    builder.add_conditional_edges("a", lambda s: "a" if s["x"] < steps else END, ["a", END])
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: {"x": s["x"] + 1, "y": s["x"]}},
        effects={"*": "pure"},
        policy=Policy(depth=depth),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}, {"recursion_limit": 50}) == {"x": steps, "log": []}
    assert report.window_hits == 0
    assert report.forks <= (1.1 * depth if world.name == "async" else 2**depth - 1) * steps
    assert report.launched == report.claimed + report.discarded


# --- breadth ----------------------------------------------------------------------------------------------------


def test_breadth_is_how_many_guesses_are_acted_on(world: World, probe: Probe) -> None:
    """The right guess is the second most confident one."""
    guesses = [Guess({"x": 3}, 0.1), Guess({"x": 2}, 0.9), Guess({"x": 1}, 0.5)]
    for breadth, launched, claimed in ((1, 1, 0), (2, 2, 1), (3, 3, 1)):
        tally = type(probe.tally)()

        async def a(state: State, tally: Any = tally, launched: int = launched) -> Any:
            await tally.reached("b", launched).wait()
            return {"x": 1}

        async def b(state: State, tally: Any = tally) -> Any:
            tally.add("b")
            tally.add(f"b{state['x']}")
            return {"log": [state["x"]]}

        fast = speculative(
            chain(State, world.node(_plain(a)), world.node(_plain(b)), names="ab").compile(),
            speculators={"a": lambda s: list(guesses)},
            effects={"b": "pure"},
            policy=Policy(breadth=breadth),
        )
        with fast.track() as report:
            assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
        assert (report.launched, report.claimed, report.window_hits) == (launched, claimed, claimed)
        assert tally["b"] == launched + 1 - claimed
        assert tally["b2"] == 1  # the most confident one is always acted on
        assert tally["b3"] == (breadth == 3)


def _plain(function: Callable[..., Any]) -> Callable[..., Any]:
    async def body(state: State) -> Any:
        return await function(state)

    return body


@pytest.mark.parametrize("kind", ["list", "generator", "async generator", "coroutine"])
def test_speculators_of_every_kind(world: World, probe: Probe, kind: str) -> None:
    """Sync and async, plain and generators, in both worlds; the second guess is the right one."""
    tally = probe.tally

    def several(state: Any) -> Any:
        return [Guess({"x": 2}, 0.9), Guess({"x": 1}, 0.2)]

    def generator(state: Any) -> Any:
        yield {"x": 2}
        yield Guess({"x": 1}, 0.2)

    async def async_generator(state: Any) -> Any:
        yield {"x": 2}
        yield Guess({"x": 1}, 0.2)

    async def coroutine(state: Any) -> Any:
        return several(state)

    async def a(state: State) -> Any:
        await tally.reached("b", 2).wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    speculator = {
        "list": several,
        "generator": generator,
        "async generator": async_generator,
        "coroutine": coroutine,
    }[kind]
    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": speculator},
        effects={"b": "pure"},
        policy=Policy(breadth=2),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert tally["b"] == 2
    assert (report.guesses, report.claimed, report.discarded) == (2, 1, 1)


def test_a_generators_guesses_are_acted_on_as_they_come(world: World, probe: Probe) -> None:
    """The first guess is in use while the generator still thinks about the second."""
    tally = probe.tally

    async def guesses(state: Any) -> Any:
        yield {"x": 1}
        await tally.reached("b").wait()
        tally.add("second")
        yield {"x": 2}

    async def a(state: State) -> Any:
        await tally.reached("second").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": guesses if world.name == "async" else _blocking(tally)},
        effects={"b": "pure"},
        policy=Policy(breadth=2),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert report.claimed == 1


def _blocking(tally: Any) -> Callable[[Any], Any]:
    def guesses(state: Any) -> Any:
        yield {"x": 1}
        tally.reached("b").block()
        tally.add("second")
        yield {"x": 2}

    return guesses


def test_the_same_guess_twice_makes_one_pre_execution(world: World, probe: Probe) -> None:
    """Two guesses that lead to the same input of b share its execution."""
    tally, watch = probe.tally, probe.watch

    async def a(state: State) -> Any:
        # A fork goes on to its tasks without a break: once the loop has taken another turn, both branches have theirs.
        await watch.saw("fork", count=2).wait()
        await world.turn()
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: [Guess({"x": 1}, 0.5), Guess({"x": 1}, 0.4)]},
        effects={"b": "pure"},
        policy=Policy(breadth=2, hooks=(watch,)),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": [1]}
    assert (tally["b"], report.launched, report.claimed) == (1, 1, 1)


# --- several tasks in a superstep -------------------------------------------------------------------------------


def fan(world: World, probe: Probe, *, one_ends: bool, joins: int = 1) -> Any:
    """start -> (one, two) -> join; `one` ends before `join` is launched if so wished, `two` once it was that often."""
    tally = probe.tally

    async def one(state: State) -> Any:
        if not one_ends:
            await tally.reached("join").wait()
        return {"log": ["one"]}

    async def two(state: State) -> Any:
        await tally.reached("join", joins).wait()
        return {"log": ["two"]}

    async def join(state: State) -> Any:
        tally.add("join")
        return {"x": len(state["log"])}

    builder = StateGraph(State)
    for function in (one, two, join):
        builder.add_node(function.__name__, world.node(function))
    builder.add_edge("__start__", "one")
    builder.add_edge("__start__", "two")
    builder.add_edge(["one", "two"], "join")
    return builder.compile()


def test_guesses_at_all_tasks_of_a_step_are_joined(world: World, probe: Probe) -> None:
    fast = speculative(
        fan(world, probe, one_ends=False),
        speculators={"one": lambda s: {"log": ["one"]}, "two": lambda s: {"log": ["two"]}},
        effects={"*": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 2, "log": ["one", "two"]}
    assert (probe.tally["join"], report.claimed) == (1, 1)


def test_real_outputs_where_they_exist_and_guesses_for_the_rest(world: World, probe: Probe) -> None:
    fast = speculative(
        fan(world, probe, one_ends=True),
        speculators={"two": lambda s: {"log": ["two"]}},
        effects={"*": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 2, "log": ["one", "two"]}
    assert (probe.tally["join"], report.claimed) == (1, 1)


def test_a_task_without_a_guess_holds_the_step_up(world: World, probe: Probe) -> None:
    """Half a step is no step: the join is not launched on one guess of two."""
    tally = probe.tally

    async def one(state: State) -> Any:
        await tally.reached("two ends").wait()
        assert tally["join"] == 0
        return {"log": ["one"]}

    async def two(state: State) -> Any:
        await probe.watch.saw("guess", "two").wait()
        tally.add("two ends")
        return {"log": ["two"]}

    async def join(state: State) -> Any:
        tally.add("join")
        return {"x": len(state["log"])}

    builder = StateGraph(State)
    for function in (one, two, join):
        builder.add_node(function.__name__, world.node(function))
    builder.add_edge("__start__", "one")
    builder.add_edge("__start__", "two")
    builder.add_edge(["one", "two"], "join")
    fast = speculative(
        builder.compile(),
        speculators={"two": lambda s: {"log": ["two"]}},
        effects={"*": "pure"},
        policy=Policy(hooks=(probe.watch,)),
    )
    assert world.invoke(fast, {"x": 0}) == {"x": 2, "log": ["one", "two"]}


def test_parallel_tasks_with_one_wrong_guess(world: World, probe: Probe) -> None:
    fast = speculative(
        fan(world, probe, one_ends=False, joins=2),
        speculators={"one": lambda s: {"log": ["uno"]}, "two": lambda s: {"log": ["two"]}},
        effects={"*": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 2, "log": ["one", "two"]}
    # The join ran once on the wrong pair, and once more on what node one gave and the guess at the other.
    assert (probe.tally["join"], report.claimed, report.discarded) == (2, 1, 1)


def test_the_run_never_waits_for_room(world: World, probe: Probe) -> None:
    """One place for pre-executions, taken by a node that does not end before its Actor has."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return {"x": 2}

    async def b(state: State) -> Any:
        if tally.add("b") == 1:
            await tally.reached("over").wait()
        return {"x": state["x"] + 1}

    async def c(state: State) -> Any:
        tally.add("over")
        return {"log": [state["x"]]}

    fast = speculative(
        chain(State, *map(world.node, (a, b, c))).compile(),
        speculators={"a": lambda s: {"x": 1}, "b": lambda s: {"x": s["x"] + 1}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(max_in_flight=1, depth=2),
    )
    assert world.invoke(fast, {"x": 0}) == {"x": 3, "log": [3]}
    assert fast.drain(LIMIT) == 0
