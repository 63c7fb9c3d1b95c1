"""What is started early where it costs something, as whole graphs show it."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool

from langgraph_speculative import Budget, Guess, Policy, SpeculativeGraph, speculative
from langgraph_speculative._calibration import PROBE_EVERY, TRIALS, USELESS, Calibration
from langgraph_speculative._knowledge import Known
from langgraph_speculative._node_stats import Samples
from langgraph_speculative._valuation import TAKEN
from langgraph_speculative.speculators import BaseSpeculator
from tests.support import ScriptedModel, Signal, Tally, Watch, World, call, chain, says, turns

TOKENS = 100


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


class Case:
    """a -> b, where b may cost; a ends once it has been decided, of each guess, whether b starts on it."""

    def __init__(self, world: World, *, tokens: int = TOKENS, guesses: int = 1, spends: bool = False, **policy: Any):
        self.world = world
        self.tally = Tally()
        self.watch = Watch()
        self.error: Exception | None = None
        self.right = False
        self.turn = 0
        self.awaited: Signal = Signal()
        tally, case = self.tally, self

        async def a(state: State) -> Any:
            await case.awaited.wait()
            return {"x": 1}

        async def b(state: State) -> Any:
            tally.add("b")
            if case.error is not None and tally["b"] == 1:
                raise case.error
            usage: Any = {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens}
            made = AIMessage("x", id="x", usage_metadata=usage, response_metadata={"model_name": "m"})
            return {"log": [made if tokens else state["x"]]}

        class Speculator(BaseSpeculator):
            is_free = not spends

            def guess(self, value: Any, config: Any) -> Any:
                tally.add("asked")
                first = 1 if case.right else 2
                usage = {"draft": TOKENS} if spends else {}
                return [Guess({"x": first + n}, 0.9 - n / 10, usage=usage) for n in range(guesses)]

        graph = chain(State, world.node(a), world.node(b)).compile()
        own = Policy(hooks=(self.hear,), breadth=guesses, **policy)
        self.fast: SpeculativeGraph = speculative(
            graph, speculators={"a": Speculator()}, effects={"b": "pure"}, policy=own
        )

    def hear(self, event: Any) -> None:
        self.watch(event)
        if event.kind in ("launch", "stop"):
            self.tally.add("decided")

    def run(self, *, right: bool = False, decisions: int = 1, config: Any = None) -> bool:
        """One run; whether b was started early."""
        self.right = right
        self.turn = self.tally["decided"]
        self.awaited = self.tally.reached("decided", self.turn + decisions)
        before = self.stats("b").launched if "b" in self.fast.report().nodes else 0
        out = self.world.invoke(self.fast, {"x": 0}, config)
        assert (out["x"], len(out["log"])) == (1, 1)
        return self.stats("b").launched > before

    def stats(self, label: str) -> Any:
        return self.fast.report().nodes[label]

    def known(self, label: str) -> Known:
        return self.fast._speculation.knowledge.of(label)

    def forget(self, *labels: str) -> None:
        """Guesses and latencies."""
        for label in labels:
            known = self.known(label)
            known.calibration, known.seconds = Calibration(), Samples()


def test_tokens_are_spent_early_only_behind_guesses_that_have_matched(world: World) -> None:
    case = Case(world, budget=Budget(waste=None))
    started = [case.run() for _ in range(TRIALS + 3)]
    assert started == [True] * TRIALS + [False] * 3
    assert case.stats("b").closed == {"'b' costs, and guesses at 'a' have not matched": 3}
    assert not case.run(right=True), "a match is known only when it has been made"
    assert case.run(), "and from then on it opens the door"
    assert case.run()
    assert (case.stats("a").hits, case.stats("b").claimed) == (1, 0)


def test_what_costs_nothing_needs_no_evidence(world: World) -> None:
    case = Case(world, tokens=0)
    assert [case.run() for _ in range(TRIALS + 3)] == [True] * (TRIALS + 3)
    assert case.stats("b").closed == {}


def test_right_guesses_are_used_from_the_first_on(world: World) -> None:
    case = Case(world)
    assert [case.run(right=True) for _ in range(5)] == [True] * 5
    assert (case.stats("b").claimed, case.stats("b").discarded) == (5, 0)


def test_time_that_is_worth_nothing_is_saved_for_free_only(world: World) -> None:
    case = Case(world, value_per_second=0)
    assert case.run(right=True), "nobody has seen yet that it costs"
    assert not case.run(right=True)
    assert "value_per_second=0" in next(iter(case.stats("b").closed))
    free = Case(world, tokens=0, value_per_second=0)
    assert free.run(right=True)
    assert free.run(right=True)


def test_a_call_is_weighed_against_the_time_it_saves(world: World) -> None:
    """0.25 s, as long as no latency is known, are worth 0.0025 USD."""
    for price, expected in ((0.01, True), (0.02, False)):
        case = Case(world, tokens=0, prices={"b": price})
        for right in (True,) * 7 + (False,) * 1:
            case.known("a").calibration.learn("Speculator", 0, 0.9, right)
        p = case.known("a").calibration.probability("Speculator", 0, 0.9)
        assert (p * (0.0025 + price) > price) is expected
        assert case.run() is expected
    assert list(case.stats("b").closed) == ["'b' costs more than a guess would save"]
    assert case.stats("b").usd == {"committed": 0.02}


def test_what_is_not_worth_it_is_probed_rarely(world: World) -> None:
    case = Case(world, tokens=0, prices={"b": 1.0})
    case.known("b").probe_call.refused = PROBE_EVERY - 2
    assert [case.run() for _ in range(3)] == [False, True, False]


def test_a_call_is_judged_by_how_often_it_is_taken_over(world: World) -> None:
    """Not by how often the whole guess is right: after calls that were all taken over, the same guess is worth it."""
    case = Case(world, tokens=0, prices={"b": 0.03})
    assert not case.run(right=True)
    for _ in range(50):
        case.known("b").calibration.learn(TAKEN, 0, 0.95, True)
    case.forget("a")
    assert case.run()


def test_branches_are_forked_as_far_as_they_pay(world: World) -> None:
    """The greedy rule: of guesses of .9, .8 and .7 the second brings .08 of a hit, the third .014."""
    for price, branches in ((0.0, 3), (0.005, 1)):
        case = Case(world, tokens=0, guesses=3, prices={"b": price})
        case.run(decisions=3)
        case.forget("a", "b")
        before = case.stats("b").launched
        case.run(decisions=branches)
        assert case.stats("b").launched - before == branches


def test_discarded_tokens_have_a_budget(world: World) -> None:
    case = Case(world, budget=Budget(allowance=0))
    assert case.run(), "nobody has seen yet that it costs"
    assert not case.run()
    assert case.stats("b").closed == {"budget: discarded tokens have reached 20% of the committed ones": 1}
    assert case.fast.report().usage["m"].committed == 2 * TOKENS


def test_usd_need_a_price(world: World) -> None:
    case = Case(world, prices={"other": 1.0}, budget=Budget(usd_per_hour=100.0))
    assert case.run()
    assert not case.run()
    assert list(case.stats("b").closed) == ["budget: the model of 'b' has no price"]
    case = Case(world, prices={"m": (0.001, 0.01)}, budget=Budget(usd_per_hour=0.00003), value_per_second=100)
    assert case.run()
    assert not case.run(), "of its 0.0001 USD, 0.4 are likely to be lost"
    assert list(case.stats("b").closed) == ["budget: USD of the hour"]
    assert case.stats("b").usd["committed"] == pytest.approx(0.0002)


class TooMany(Exception):
    status_code = 429


def test_a_429_pauses_early_calls(world: World) -> None:
    now = 0.0
    case = Case(world, tokens=0)
    case.fast._speculation.knowledge.pauses._clock = lambda: now
    case.error = TooMany()
    assert case.run(decisions=2), "its launch and its end"
    assert not case.run(right=True)
    assert "called too often (429)" in next(iter(case.stats("b").closed))
    now += 31
    assert case.run(right=True)


def test_a_speculator_that_only_costs_is_probed_rarely(world: World) -> None:
    case = Case(world, tokens=0, spends=True)
    for _ in range(USELESS):
        case.run()
    assert case.tally["asked"] == USELESS
    case.known("a").probe_guess.refused = PROBE_EVERY - 3
    asked = []
    for _ in range(3):
        case.run(right=True)
        asked.append(case.tally["asked"] - USELESS)
    assert asked == [0, 0, 1]
    case.run()
    assert case.tally["asked"] == USELESS + 2, "a right guess closes the circuit"
    assert case.stats("a").closed == {"its Speculator has only cost": 2}
    assert case.stats("a").windows == USELESS + 2, "where nobody was asked, nothing was missed"


def test_free_speculators_are_always_asked(world: World) -> None:
    case = Case(world, tokens=0)
    for _ in range(USELESS + 2):
        case.run()
    assert case.tally["asked"] == USELESS + 2


def test_a_speculator_that_spends_is_not_asked_for_nothing(world: World) -> None:
    case = Case(world, tokens=0, spends=True, value_per_second=0)
    case.run()
    assert case.tally["asked"] == 0
    case = Case(world, tokens=0, spends=True, budget=Budget(tokens_per_hour=TOKENS))
    case.run()
    assert case.tally["asked"] == 1
    case.run()
    assert (case.tally["asked"], case.stats("a").closed) == (1, {"budget: tokens of the hour": 1})


def test_max_concurrency_bounds_real_and_early_calls_together(world: World) -> None:
    case = Case(world, tokens=0)
    assert not case.run(config={"max_concurrency": 1})
    assert case.run(config={"max_concurrency": 2})
    own = case.fast.with_config({"max_concurrency": 1})
    case.fast = own
    assert not case.run()
    assert case.fast.report().stopped["max_concurrency calls are under way"].count == 2


def test_guessed_prose_costs_three_model_calls_and_its_tool_calls_go_on(world: World) -> None:
    """The words around a tool call are never guessed, the call is: what most agents are like."""
    tally, runs = Tally(), USELESS + 3

    @tool
    def look(what: str) -> str:
        """Look something up."""
        return f"seen {what}"

    def heard(event: Any) -> None:
        if event.kind in ("launch", "stop") and event.node == "model":
            tally.add("decided")

    async def before(messages: list[Any]) -> None:
        if not any(isinstance(m, AIMessage) for m in messages):
            await tally.reached("decided", tally.add("asked")).wait()

    def agent(words: str, wait: Any = None) -> Any:
        script = turns(lambda: says(words, call("look", what="x")), lambda: says(f"{words}, seen"))
        return create_agent(ScriptedModel(script=script, before=wait), [look])

    fast = speculative(
        agent("Let me look", before),
        draft=agent("I will look"),
        effects={"look": "read"},
        policy=Policy(depth=2, hooks=(heard,)),
    )
    for _ in range(runs):
        world.invoke(fast, {"messages": [("user", "look")]})
    nodes = fast.report().nodes
    assert (nodes["tools.look"].claimed, nodes["tools.look"].discarded) == (runs, 0)
    launched = nodes["model"].launched
    assert 1 <= launched <= TRIALS
    assert nodes["model"].claimed == nodes["model"].hits == 0
    assert nodes["model"].closed == {"'model' costs, and guesses at 'model' have not matched": runs - launched}


async def test_the_latest_early_call_makes_room_for_a_real_one() -> None:
    """Two calls at the same time: while an early b stands on a wrong guess, the run begins its own b and c."""
    watch = Watch()
    never = asyncio.Event()

    async def a(state: State) -> Any:
        await watch.saw("launch", "b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        await (watch.saw("discard", "b").wait() if state["x"] == 1 else never.wait())
        return {}

    async def c(state: State) -> Any:
        await watch.saw("discard", "b").wait()
        return {}

    builder = chain(State, a, b)
    builder.add_node("c", c)
    builder.add_edge("a", "c")
    fast = speculative(
        builder.compile(), speculators={"a": lambda s: {"x": 2}}, effects={"b": "pure"}, policy=Policy(hooks=(watch,))
    )
    assert await fast.ainvoke({"x": 0}, {"max_concurrency": 2}) == {"x": 1, "log": []}
    (discarded,) = watch.of("discard", "b")
    assert discarded.detail == "max_concurrency: the run needs the room"
