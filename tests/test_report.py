"""Counters of one run and of all, events for hooks, and numbers that are honest."""

from __future__ import annotations

import dataclasses
import json
import operator
import time
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import pytest

from langgraph_speculative import Event, Policy, Report, SpeculativeGraph, speculative
from langgraph_speculative._admission import Admission
from langgraph_speculative._ledger import Ledger
from tests.support import AsyncWorld, Probe, Signal, World, chain


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


def build(world: World, probe: Probe, guess: int = 1, **kwargs: Any) -> SpeculativeGraph:
    tally = probe.tally

    async def a(state: State) -> Any:
        turn = tally.add("a")
        await tally.reached("b", 2 * turn - 1 if guess != 1 else turn).wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    async def c(state: State) -> Any:
        return {}

    return speculative(
        chain(State, world.node(a), world.node(b), world.node(c)).compile(),
        speculators={"a": lambda s: {"x": guess}},
        effects={"a": "pure", "b": "pure"},
        policy=Policy(hooks=(probe.watch,), **kwargs),
    )


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which executions are measured: it goes on where a test says so."""
    own = [100.0]
    for module in ("_session", "_early"):
        monkeypatch.setattr(f"langgraph_speculative.{module}.time", SimpleNamespace(monotonic=lambda: own[0]))
    return own


def test_the_counters_of_a_hit(world: World, probe: Probe) -> None:
    fast = build(world, probe)
    with fast.track() as report:
        world.invoke(fast, {"x": 0})
    assert (report.runs, report.steps) == (1, 3)
    assert (report.windows, report.window_hits, report.window_hit_rate) == (1, 1, 1.0)
    assert (report.speculator_calls, report.guesses, report.speculator_errors) == (1, 1, 0)
    assert (report.launched, report.claimed, report.discarded) == (1, 1, 0)
    assert report.step_hit_rate == pytest.approx(1 / 3)
    assert report.forks >= 1
    assert report.early_irreversible_calls == 0
    assert report.wall > 0


def test_the_counters_of_a_miss(world: World, probe: Probe) -> None:
    fast = build(world, probe, guess=2)
    with fast.track() as report:
        world.invoke(fast, {"x": 0})
    assert (report.windows, report.window_hits, report.window_hit_rate) == (1, 0, 0.0)
    assert (report.launched, report.claimed, report.discarded) == (1, 0, 1)
    assert (report.step_hit_rate, report.time_saved) == (0.0, 0.0)


def test_what_stopped_speculation_is_named(world: World, probe: Probe) -> None:
    """Behind b stands c, which nobody declared."""
    probe_wait = probe.watch.saw("stop")

    async def a(state: State) -> Any:
        await probe_wait.wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {}

    async def c(state: State) -> Any:
        return {}

    fast = speculative(
        chain(State, *map(world.node, (a, b, c))).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
        policy=Policy(depth=2, hooks=(probe.watch,)),
    )
    with fast.track() as report:
        world.invoke(fast, {"x": 0})
    ((reason, stop),) = report.stopped.items()
    assert "undeclared" in reason
    assert "'c'" in reason
    assert stop.count >= 1
    assert stop.would_have_saved >= 0


def test_what_going_on_would_have_saved_is_measured(world: World, probe: Probe, now: list[float]) -> None:
    """Node act may not run early, and takes 5 s: that much would have been saved, and no more."""
    watch = probe.watch

    async def a(state: State) -> Any:
        await watch.saw("stop").wait()
        now[0] += 6
        return {"x": 1}

    async def act(state: State) -> Any:
        now[0] += 5
        return {}

    async def other(state: State) -> Any:
        return {}

    builder = chain(State, world.node(a), world.node(act))
    builder.add_node("other", world.node(other))
    builder.add_edge("a", "other")
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"other": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    with fast.track() as report:
        world.invoke(fast, {"x": 0})
    (stop,) = [s for reason, s in report.stopped.items() if "act" in reason]
    assert stop.would_have_saved == 5


def test_early_irreversible_calls_are_counted_where_they_happen(
    world: World, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the barrier taken away, an undeclared node runs early, and the report says so."""
    monkeypatch.setattr(Admission, "refuses", lambda *_, **__: "")

    async def a(state: State) -> Any:
        await probe.tally.reached("act").wait()
        return {"x": 1}

    async def act(state: State) -> Any:
        probe.tally.add("act")
        return {}

    async def other(state: State) -> Any:
        return {}

    builder = chain(State, world.node(a), world.node(act))
    builder.add_node("other", world.node(other))
    builder.add_edge("a", "other")
    fast = speculative(builder.compile(), speculators={"a": lambda s: {"x": 1}}, effects={"other": "pure"})
    with fast.track() as report:
        world.invoke(fast, {"x": 0})
    assert report.early_irreversible_calls == 1


def test_track_counts_the_runs_of_its_block(world: World, probe: Probe) -> None:
    fast = build(world, probe)
    world.invoke(fast, {"x": 0})
    with fast.track() as outer:
        world.invoke(fast, {"x": 0})
        with fast.track() as inner:
            world.invoke(fast, {"x": 0})
    world.invoke(fast, {"x": 0})
    assert (inner.runs, outer.runs, fast.report().runs) == (1, 2, 4)
    assert (inner.claimed, outer.claimed, fast.report().claimed) == (1, 2, 4)


def test_track_keeps_two_graphs_apart(world: World) -> None:
    one, two = build(world, Probe()), build(world, Probe())
    with one.track() as first, two.track() as second:
        world.invoke(one, {"x": 0})
        world.invoke(one, {"x": 0})
        world.invoke(two, {"x": 0})
    assert (first.runs, second.runs) == (2, 1)


def test_concurrent_runs_are_all_counted() -> None:
    world = AsyncWorld()

    async def a(state: State) -> Any:
        return {"x": 1}

    async def b(state: State) -> Any:
        return {}

    fast = speculative(chain(State, a, b).compile(), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"})
    with fast.track() as report:
        world.batch(fast, [{"x": 0}] * 20)
    assert (report.runs, report.steps, fast.report().runs) == (20, 40, 20)


def test_copies_share_their_report(world: World, probe: Probe) -> None:
    """LangGraph Server copies the graph for each run."""
    fast = build(world, probe)
    with fast.track() as report:
        world.invoke(fast.copy(), {"x": 0})
        world.invoke(fast.with_config(tags=["t"]), {"x": 0})
    assert (report.runs, fast.report().runs) == (2, 2)


def test_a_run_that_fails_is_counted_too(world: World, probe: Probe) -> None:
    async def a(state: State) -> Any:
        raise ValueError("x")

    async def b(state: State) -> Any:
        return {}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
    )
    world.chunks(fast, {"x": 0})
    assert fast.report().runs == 1


def test_to_dict_is_json(world: World, probe: Probe) -> None:
    fast = build(world, probe)
    world.invoke(fast, {"x": 0})
    out = json.loads(json.dumps(fast.report().to_dict()))
    assert out == fast.report().to_dict()
    names = {f.name for f in dataclasses.fields(Report) if not f.name.startswith("_")}
    assert names <= set(out)
    assert out["claimed"] == 1
    assert out["window_hit_rate"] == 1.0
    assert out["step_hit_rate"] == pytest.approx(1 / 3)


def test_events_are_frozen_and_tell_the_story(world: World, probe: Probe) -> None:
    fast = build(world, probe)
    before = time.monotonic()
    world.invoke(fast, {"x": 0})
    after = time.monotonic()
    events = probe.watch.events
    assert all(type(e) is Event for e in events)
    with pytest.raises(dataclasses.FrozenInstanceError):
        events[0].kind = "hit"  # type: ignore[misc]
    assert events[0].kind == "run"
    assert events[-1].kind == "end"
    assert len({e.run for e in events}) == 1
    assert all(before <= e.at <= after for e in events)
    kinds = [e.kind for e in events]
    assert kinds.index("guess") < kinds.index("fork") < kinds.index("launch") < kinds.index("claim")
    (launch,), (claim,), (hit,) = (probe.watch.of(k) for k in ("launch", "claim", "hit"))
    assert (launch.node, claim.node, hit.node) == ("b", "b", "a")
    assert (launch.step, claim.step, hit.step) == (2, 2, 1)


def test_each_run_has_its_own_number(world: World, probe: Probe) -> None:
    fast = build(world, probe)
    world.invoke(fast, {"x": 0})
    world.invoke(fast, {"x": 0})
    assert len({e.run for e in probe.watch.of("run")}) == 2


def test_events_of_tool_calls_name_the_tool(world: World, probe: Probe) -> None:
    from langchain_core.messages import HumanMessage
    from langchain_core.tools import tool
    from langgraph.graph import MessagesState, StateGraph
    from langgraph.prebuilt import ToolNode

    from tests.support import call, says

    @tool
    def look() -> str:
        """Look."""
        probe.tally.add("look")
        return "seen"

    async def model(state: MessagesState) -> Any:
        await probe.tally.reached("look").wait()
        return {"messages": [says("", call("look"))]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", world.node(model))
    builder.add_node("tools", ToolNode([look]))
    builder.add_edge("__start__", "model")
    builder.add_edge("model", "tools")
    fast = speculative(
        builder.compile(),
        speculators={"model": lambda s: {"messages": [says("", call("look"))]}},
        effects={"model": "pure", "look": "pure"},
        policy=Policy(hooks=(probe.watch,)),
    )
    with fast.track() as report:
        world.invoke(fast, {"messages": [HumanMessage("?")]})
    (launch,), (claim,) = probe.watch.of("launch"), probe.watch.of("claim")
    assert (launch.node, launch.tool, claim.node, claim.tool) == ("tools", "look", "tools", "look")
    assert report.steps == 2  # the model's call and the tool's; the tool node itself is no step


def test_time_saved_is_what_overlapped(
    world: World, probe: Probe, now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """b takes 80 s, of which it spends 40 while a is still working: that much is saved, not its whole time."""
    tally, claimed = probe.tally, Signal("the claim")
    claim = Ledger.claim

    def claims(self: Any, *args: Any) -> Any:
        found = claim(self, *args)
        if found is not None:
            claimed.set()
        return found

    monkeypatch.setattr(Ledger, "claim", claims)

    async def a(state: State) -> Any:
        await tally.reached("b").wait()
        now[0] += 40
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        await claimed.wait()
        now[0] += 40
        return {}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
    )
    with fast.track() as report:
        world.invoke(fast, {"x": 0})
    assert report.claimed == 1
    assert report.time_saved == 40


def test_a_claim_that_saves_nothing_says_so(world: World, probe: Probe, now: list[float]) -> None:
    """b is instant: claiming it saves nothing, however long a took."""
    watch = probe.watch

    async def a(state: State) -> Any:
        await watch.saw("fork", count=2).wait()  # the second one goes on from what b has returned
        now[0] += 50
        return {"x": 1}

    async def b(state: State) -> Any:
        return {}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "pure"},
        policy=Policy(depth=2, hooks=(watch,)),
    )
    with fast.track() as report:
        world.invoke(fast, {"x": 0})
    assert report.claimed == 1
    assert report.time_saved == 0


def test_reports_add_up() -> None:
    total, one = Report(runs=1, claimed=2, wall=1.0), Report(runs=1, claimed=3, wall=0.5, time_saved=0.25)
    one.errors.append("x")
    total.add(one)
    assert (total.runs, total.claimed, total.wall, total.time_saved) == (2, 5, 1.5, 0.25)
    assert list(total.errors) == ["x"]


def test_the_list_of_errors_is_bounded(world: World) -> None:
    def guess(state: Any) -> Any:
        raise LookupError("x" * 10_000)

    async def a(state: State) -> Any:
        return {"x": 1}

    async def b(state: State) -> Any:
        return {}

    fast = speculative(
        chain(State, world.node(a), world.node(b)).compile(), speculators={"a": guess}, effects={"b": "pure"}
    )
    for _ in range(70):
        world.invoke(fast, {"x": 0})
    assert len(fast.report().errors) <= 50
    assert all(len(e) <= 1000 for e in fast.report().errors)
