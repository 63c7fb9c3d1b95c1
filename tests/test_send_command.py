"""`Send`, conditional edges and `Command`, in guesses and in branches."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, StateGraph
from langgraph.types import Command, Send

from langgraph_speculative import Policy, speculative
from tests.support import Probe, Run, World, chain, observe


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


def test_sends_with_different_payloads(world: World, probe: Probe) -> None:
    """The guess has one of three payloads wrong: the other two are claimed."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("work", 3).wait()
        return Command(goto=[Send("work", {"x": i}) for i in (1, 2, 3)])

    async def work(state: State) -> Any:
        tally.add("work")
        return {"log": [state["x"]]}

    builder = StateGraph(State)
    builder.add_node("a", world.node(a), destinations=("work",))
    builder.add_node("work", world.node(work))
    builder.add_edge("__start__", "a")
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: Command(goto=[Send("work", {"x": i}) for i in (1, 9, 3)])},
        effects={"work": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {}) == {"log": [1, 2, 3]}
    assert tally["work"] == 4
    assert (report.launched, report.claimed, report.discarded) == (3, 2, 1)


def test_a_conditional_edge_decides_in_the_branch_on_the_guess(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("right").wait()
        return {"x": 2}

    async def left(state: State) -> Any:
        tally.add("left")
        return {"log": ["left"]}

    async def right(state: State) -> Any:
        tally.add("right")
        return {"log": ["right"]}

    builder = chain(State, world.node(a))
    builder.add_node("left", world.node(left))
    builder.add_node("right", world.node(right))
    builder.add_conditional_edges("a", lambda s: "left" if s["x"] == 1 else "right", ["left", "right"])
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: {"x": 2}},
        effects={"a": "pure", "left": "pure", "right": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 2, "log": ["right"]}
    assert (tally["left"], tally["right"]) == (0, 1)
    assert report.claimed == 1


def test_the_branch_of_a_wrong_guess_goes_where_the_run_does_not(world: World, probe: Probe) -> None:
    """Nothing of the road not taken is left: neither its route nor its writes."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("left").wait()
        return {"x": 2}

    async def left(state: State) -> Any:
        tally.add("left")
        return {"x": 1, "log": ["left"]}

    async def right(state: State) -> Any:
        return {"log": [f"right {state['x']}"]}

    def build(waits: bool) -> Any:
        async def ready(state: State) -> Any:
            return {"x": 2}

        builder = chain(State, world.node(a if waits else ready), names=["a"])
        builder.add_node("left", world.node(left))
        builder.add_node("right", world.node(right))
        builder.add_conditional_edges("a", lambda s: "left" if s["x"] == 1 else "right", ["left", "right"])
        builder.add_edge("left", "right")
        return builder.compile()

    plain = observe(world, build(False), {"x": 0})
    fast = speculative(
        build(True),
        speculators={"a": lambda s: {"x": 1}},
        effects={"*": "pure"},
        policy=Policy(depth=3),
    )
    assert observe(world, fast, {"x": 0}) == plain
    assert tally["left"] == 1
    assert fast.report().claimed == 0


def test_a_router_is_code_and_inherits_the_effect_of_its_node(world: World, probe: Probe) -> None:
    """Node a is undeclared, and so is the function behind it: no branch may run that."""
    tally, watch = probe.tally, probe.watch

    def build(**effects: str) -> Any:
        async def a(state: State) -> Any:
            await watch.saw("guess").wait()
            if "route" in effects:
                await tally.reached("b").wait()
            else:
                assert tally["route"] == 0
            return {"x": 1}

        async def b(state: State) -> Any:
            tally.add("b")
            return {"log": ["b"]}

        def route(state: State) -> str:
            tally.add("route")
            return "b"

        builder = chain(State, world.node(a))
        builder.add_node("b", world.node(b))
        builder.add_node("c", world.node(b))
        builder.add_conditional_edges("a", route, ["b"])
        builder.add_edge("b", "c")
        return speculative(
            builder.compile(),
            speculators={"a": lambda s: {"x": 1}, "b": lambda s: {"log": ["b"]}},
            effects=effects,
            policy=Policy(hooks=(watch,)),
        )

    fast = build(b="pure", c="pure", route="pure")
    assert world.invoke(fast, {"x": 0})["log"] == ["b", "b"]
    assert fast.report().claimed >= 1

    probe.tally.__init__()  # type: ignore[misc]
    fast = build(b="pure", c="pure")
    rows = {r.name: r for r in fast.effects().rows}
    assert (rows["route"].kind, rows["route"].effect.value) == ("router", "undeclared")
    assert world.invoke(fast, {"x": 0})["log"] == ["b", "b"]
    assert tally["route"] == 1


def test_goto_in_a_guess_is_followed(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("c").wait()
        return Command(update={"x": 5}, goto="c")

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": ["b"]}

    async def c(state: State) -> Any:
        tally.add("c")
        return {"log": [f"c{state['x']}"]}

    builder = StateGraph(State)
    builder.add_node("a", world.node(a), destinations=("b", "c"))
    builder.add_node("b", world.node(b))
    builder.add_node("c", world.node(c))
    builder.add_edge("__start__", "a")
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: Command(update={"x": 5}, goto="c")},
        effects={"b": "pure", "c": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 5, "log": ["c5"]}
    assert (tally["b"], tally["c"]) == (0, 1)
    assert report.claimed == 1


def test_goto_of_the_actor_beats_the_guess(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return Command(update={"x": 5}, goto="c")

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": ["b"]}

    async def c(state: State) -> Any:
        tally.add("c")
        return {"log": [f"c{state['x']}"]}

    builder = StateGraph(State)
    builder.add_node("a", world.node(a), destinations=("b", "c"))
    builder.add_node("b", world.node(b))
    builder.add_node("c", world.node(c))
    builder.add_edge("__start__", "a")
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: Command(update={"x": 5}, goto="b")},
        effects={"b": "pure", "c": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 5, "log": ["c5"]}
    assert (tally["b"], tally["c"]) == (1, 1)
    assert (report.window_hits, report.claimed, report.discarded) == (0, 0, 1)


def test_a_guess_counts_by_what_it_writes_and_not_by_its_form(world: World, probe: Probe) -> None:
    """The Actor returns a list of Commands, the guess is a dict: the same writes."""
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        return [Command(update={"x": 1}), Command(update={"log": ["a"]})]

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": ["b"]}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1, "log": ["a"]}},
        effects={"b": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 1, "log": ["a", "b"]}
    assert tally["b"] == 1
    assert (report.window_hits, report.claimed) == (1, 1)


def test_command_to_the_parent_continues_in_a_fork_of_the_parent(world: World, probe: Probe) -> None:
    """A hand-off out of a subgraph: the node it leads to is pre-executed while the inner Actor still works."""
    tally = probe.tally

    async def i(state: State) -> Any:
        await tally.reached("after").wait()
        return Command(graph=Command.PARENT, goto="after", update={"x": 4})

    async def after(state: State) -> Any:
        tally.add("after")
        return {"log": [state["x"]]}

    inner = StateGraph(State)
    inner.add_node("i", world.node(i))
    inner.add_edge("__start__", "i")
    builder = StateGraph(State)
    builder.add_node("sub", inner.compile(), destinations=("after",))
    builder.add_node("after", world.node(after))
    builder.add_edge("__start__", "sub")
    fast = speculative(
        builder.compile(),
        speculators={"sub|i": lambda s: Command(graph=Command.PARENT, goto="after", update={"x": 4})},
        effects={"after": "pure"},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 4, "log": [4]}
    assert tally["after"] == 1
    assert report.claimed == 1


def test_the_end_of_a_subgraph_continues_in_a_fork_of_the_parent(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def i(state: State) -> Any:
        await tally.reached("after").wait()
        return {"x": 4}

    async def after(state: State) -> Any:
        tally.add("after")
        return {"log": [state["x"]]}

    builder = StateGraph(State)
    builder.add_node("sub", chain(State, world.node(i)).compile())
    builder.add_node("after", world.node(after))
    builder.add_edge("__start__", "sub")
    builder.add_edge("sub", "after")
    fast = speculative(builder.compile(), speculators={"i": lambda s: {"x": 4}}, effects={"after": "pure"})
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 4, "log": [4]}
    assert tally["after"] == 1
    assert report.claimed == 1


def test_the_inner_leaves_of_a_subgraph_are_claimed(world: World, probe: Probe) -> None:
    tally = probe.tally

    async def a(state: State) -> Any:
        await tally.reached("j").wait()
        return {"x": 1}

    async def i(state: State) -> Any:
        tally.add("i")
        return {"x": state["x"] + 1}

    async def j(state: State) -> Any:
        tally.add("j")
        return {"log": [state["x"]]}

    builder = chain(State, world.node(a))
    builder.add_node("sub", chain(State, world.node(i), world.node(j)).compile())
    builder.add_edge("a", "sub")
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"i": "pure", "j": "pure"},
        policy=Policy(depth=3),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"x": 0}) == {"x": 2, "log": [2]}
    assert (tally["i"], tally["j"]) == (1, 1)
    assert report.claimed == 2


def test_every_send_of_the_run_is_executed(world: World, probe: Probe) -> None:
    """Wrong guesses about a map step: as many executions committed as tasks, none of the guess's results left."""
    tally = probe.tally

    def build(waits: bool) -> Any:
        async def a(state: State) -> Any:
            if waits:
                await tally.reached("work").wait()
            return {"x": 3}

        async def work(state: State) -> Any:
            tally.add("work")
            return {"log": [state["x"]]}

        builder = chain(State, world.node(a))
        builder.add_node("work", world.node(work))
        builder.add_conditional_edges(
            "a", lambda s: [Send("work", {"x": s["x"] * 10 + i}) for i in range(s["x"])] or END, ["work", END]
        )
        return builder.compile()

    plain: Run = observe(world, build(False), {"x": 0})
    fast = speculative(build(True), speculators={"a": lambda s: {"x": 2}}, effects={"a": "pure", "work": "pure"})
    assert observe(world, fast, {"x": 0}) == plain
    assert fast.report().claimed == 0
