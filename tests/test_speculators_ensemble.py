"""`Ensemble`: the cheap ones first, what they say merged and calibrated."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, TypedDict

import pytest
from langgraph.graph import MessagesState

from langgraph_speculative import Policy, SpeculationError, speculative
from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative.effects import Effect
from langgraph_speculative.speculators import BaseSpeculator, Ensemble, Guess, Replay, Route
from tests.support import LIMIT, Probe, Signal, World, are_busy, call, chain, says

CONFIG: Any = {"configurable": {}}


class State(TypedDict, total=False):
    x: int
    y: int
    z: int


class Member(BaseSpeculator):
    """Says always the same, and counts."""

    def __init__(self, *guesses: Any) -> None:
        self.guesses = list(guesses)
        self.asked = 0
        self.learned: list[Any] = []
        self.bound: list[str] = []

    def bind(self, node: Any) -> BaseSpeculator:
        self.bound.append(node.label)
        return self

    def guess(self, value: Any, config: Any) -> Any:
        self.asked += 1
        for guess in self.guesses:
            if isinstance(guess, Exception):
                raise guess
        return self.guesses or None

    def learn(self, value: Any, output: Any, config: Any) -> None:
        self.learned.append((value, output))


class AsyncMember(Member):
    guess = BaseSpeculator.guess

    async def aguess(self, value: Any, config: Any) -> Any:
        return Member.guess(self, value, config)


def y(number: int, confidence: float = 1.0, **kwargs: Any) -> Guess:
    return Guess({"y": number}, confidence, **kwargs)


def ask(world: World, ensemble: Ensemble, value: Any = None) -> Any:
    value = {"x": 1} if value is None else value
    if world.name == "sync" or ensemble.aguess is None:
        return ensemble.guess(value, CONFIG)
    return asyncio.run(ensemble.aguess(value, CONFIG))


@pytest.mark.parametrize(("confidence", "asked"), [(0.9, 0), (0.7, 0), (0.6, 1)])
def test_the_costly_one_is_asked_only_if_the_cheap_one_is_unsure(world: World, confidence: float, asked: int) -> None:
    cheap, costly = Member(y(1, confidence)), AsyncMember(y(2, 0.8))
    guesses = ask(world, Ensemble([cheap, costly], threshold=0.7))
    assert (cheap.asked, costly.asked) == (1, asked)
    ranked = [(2, "asyncmember"), (1, "member")] if asked else [(1, "member")]
    assert [(g.output["y"], g.source) for g in guesses] == ranked


def test_what_is_the_same_is_one_guess(world: World) -> None:
    first = Member(Guess({"messages": [says("so", call("look", what="a"))]}, 0.3, "inner", {"small": 3}))
    second = AsyncMember(
        Guess({"messages": [says("well", call("look", what="a"))]}, 0.5, usage={"small": 4, "big": 1}),
        Guess({"messages": [says("", call("look", what="b"))]}, 0.4),
    )
    first_guess, second_guess = ask(world, Ensemble({"one": first, "two": second}))
    assert (first_guess.source, first_guess.confidence) == ("two", 0.5)
    assert first_guess.output["messages"][0].content == "well"
    assert dict(first_guess.usage) == {"small": 7, "big": 1}
    assert (second_guess.confidence, dict(second_guess.usage)) == (0.4, {})
    alone = ask(world, Ensemble([first, AsyncMember()]))
    assert [g.source for g in alone] == ["member:inner"]


def test_every_kind_of_speculator_is_a_member(world: World) -> None:
    def plain(value: Any) -> Any:
        return {"y": value["x"]}

    async def coroutine(value: Any) -> Any:
        return Guess({"y": 2}, 0.4)

    def generator(value: Any) -> Any:
        yield Guess({"y": 3}, 0.3)
        yield None
        yield [Guess({"y": 4}, 0.2), Guess({"y": 5}, 0.1)]

    async def stream(value: Any) -> Any:
        yield Guess({"y": 6}, 0.05)

    guesses = ask(world, Ensemble([generator, coroutine, stream, lambda value: None, plain], threshold=1))
    assert [g.output["y"] for g in guesses] == [1, 2, 3, 4, 5, 6]
    assert [g.source for g in guesses] == ["plain", "coroutine", *["generator"] * 3, "stream"]


def test_members_of_one_name_are_told_apart(world: World) -> None:
    guesses = ask(world, Ensemble([Member(y(1, 0.2)), Member(y(2, 0.1)), Member(y(3, 0.05))]))
    assert [g.source for g in guesses] == ["member", "member-2", "member-3"]


def test_confidences_are_calibrated_by_what_came(world: World) -> None:
    boaster, modest = Member(y(1, 0.95)), Member(y(2, 0.25))
    ensemble = Ensemble({"boaster": boaster, "modest": modest}, threshold=1)
    for x in range(40):
        ask(world, ensemble, {"x": x})
        ensemble.learn({"x": x}, {"y": 2 if x % 4 else 0}, CONFIG)
    [first, second] = ask(world, ensemble)
    assert (first.source, second.source) == ("modest", "boaster")
    # (30 + 2 * .25) / 42 and (0 + 2 * .95) / 42
    assert (round(first.confidence, 3), round(second.confidence, 3)) == (0.726, 0.045)
    assert len(boaster.learned) == len(modest.learned) == 40


def test_a_sure_one_that_is_wrong_no_longer_keeps_the_next_from_being_asked(world: World) -> None:
    ensemble = Ensemble([Member(y(1, 0.95)), costly := AsyncMember(y(2, 0.9))])
    for x in range(3):
        ask(world, ensemble, {"x": x})
        ensemble.learn({"x": x}, {"y": 2}, CONFIG)
    assert costly.asked == 2
    # What was not asked for is not judged.
    ensemble.learn({"x": "new"}, {"y": 2}, CONFIG)
    assert round(ask(world, ensemble)[0].confidence, 3) == round((2 + 2 * 0.9) / 4, 3)


def test_one_that_fails_is_left_out(world: World) -> None:
    failing = Member(ConnectionError("down"))
    assert [g.output for g in ask(world, Ensemble([failing, Member(y(1))]))] == [{"y": 1}]
    with pytest.raises(ConnectionError, match="down"):
        ask(world, Ensemble([failing]))
    assert ask(world, Ensemble([failing, Member()])) is None


def test_a_member_that_cannot_learn_does_not_keep_others_from_it() -> None:
    class Raising(Member):
        def learn(self, value: Any, output: Any, config: Any) -> None:
            raise ValueError("too hard")

    other = Member()
    with pytest.raises(ValueError, match="too hard"):
        Ensemble([Raising(), other]).learn({}, {}, CONFIG)
    assert other.learned == [({}, {})]


def test_members_are_bound() -> None:
    info = NodeInfo("n", Effect.PURE, "", "", name="n", successors=frozenset({"b"}))
    member = Member()
    assert Ensemble([member]).bind(info).guess({}, CONFIG) is None
    assert member.bound == ["n"]
    with pytest.raises(SpeculationError, match="no edge leads to 'a'"):
        Ensemble([Route({"a": {}})]).bind(info)


def test_the_costly_one_teaches_the_cheap_one(world: World, probe: Probe) -> None:
    """The second run's claim is the memory's, and the costly function is not asked again."""
    tally = probe.tally

    @world.node
    async def first(state: State) -> State:
        await tally.reached("second", tally.add("first")).wait()
        return {"y": state["x"] + 1}

    @world.node
    async def second(state: State) -> State:
        tally.add("second")
        return {"z": state["y"] * 2}

    def costly(state: State) -> Any:
        tally.add("costly")
        return Guess({"y": state["x"] + 1}, usage={"big": 9})

    graph = chain(State, first, second, names=["first", "second"]).compile()
    fast = speculative(graph, speculators={"first": Ensemble([Replay(), costly], threshold=0.7)}, effects={"*": "read"})
    for run in (1, 2):
        assert world.invoke(fast, {"x": 1})["z"] == 4
        assert fast.drain(LIMIT) == 0
        assert fast.report().claimed == run
    assert tally["costly"] == 1
    assert fast.report().usage["big"].draft == 9


async def test_a_member_that_hangs_is_counted_for_the_graph() -> None:
    entered, go = Signal("entered"), threading.Event()

    def hangs(value: Any) -> None:
        entered.set()
        go.wait(LIMIT)

    async def ready(value: Any) -> None:
        raise AssertionError("it comes after the one that hangs")

    async def first(state: State) -> State:
        await entered.wait()
        return {"y": 1}

    async def second(state: State) -> State:
        return {"z": 1}

    graph = chain(State, first, second).compile()
    fast = speculative(graph, speculators={"first": Ensemble([hangs, ready])}, effects={"*": "read"})
    assert await fast.ainvoke({"x": 1}) == {"x": 1, "y": 1, "z": 1}
    assert are_busy(fast, 1), "what learns comes to its end"
    assert fast.drain(0) == 1
    go.set()
    assert fast.drain(LIMIT) == 0


def test_tokens_that_led_to_no_guess_are_counted(world: World, probe: Probe) -> None:
    watch = probe.watch

    @world.node
    async def first(state: MessagesState) -> Any:
        await asked.wait()
        return {}

    @world.node
    async def second(state: MessagesState) -> Any:
        return {}

    asked = probe.tally.reached("asked")

    def vain(state: Any) -> Any:
        yield Guess(usage={"big": 9})
        probe.tally.add("asked")

    graph = chain(MessagesState, first, second, names=["first", "second"]).compile()
    fast = speculative(graph, speculators={"first": vain}, effects={"*": "read"}, policy=Policy(hooks=(watch,)))
    world.invoke(fast, {"messages": []})
    assert (fast.report().usage["big"].draft, fast.report().guesses, fast.report().forks) == (9, 0, 0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Ensemble([]), "at least one"),
        (lambda: Ensemble([Member()], threshold=2), r"threshold=2\): must be between 0 and 1"),
        (lambda: Ensemble([7]), "'int'"),  # type: ignore[list-item]
        (lambda: Ensemble({"two": lambda a, b: None}), "'two'.*one argument"),
    ],
)
def test_what_is_refused(make: Any, match: str) -> None:
    with pytest.raises(SpeculationError, match=match):
        make()
