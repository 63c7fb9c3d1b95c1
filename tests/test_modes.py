"""On, observe and off: by policy, by environment, by request."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

import pytest

from langgraph_speculative import Policy, SpeculativeGraph, speculative
from tests.support import Probe, World, chain


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


def build(world: World, probe: Probe, until: str, **kwargs: Any) -> SpeculativeGraph:
    """a -> b; the Actor waits for a Speculator to be asked, for b to be launched, or for nothing."""
    tally, watch = probe.tally, probe.watch

    async def a(state: State) -> Any:
        if until == "asked":
            await watch.saw("guess").wait()
        elif until == "launched":
            await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        tally.add("b")
        return {"log": [state["x"]]}

    def guess(state: State) -> Any:
        tally.add("asked")
        return {"x": 1}

    return speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": guess},
        effects={"b": "pure"},
        policy=Policy(hooks=(watch,), **kwargs),
    )


OUT = {"x": 1, "log": [1]}


def test_on(world: World, probe: Probe) -> None:
    fast = build(world, probe, "launched")
    assert world.invoke(fast, {"x": 0}) == OUT
    assert (fast.report().runs, fast.report().claimed) == (1, 1)


def test_observe_predicts_and_scores_and_never_pre_executes(world: World, probe: Probe) -> None:
    fast = build(world, probe, "asked", mode="observe")
    assert world.invoke(fast, {"x": 0}) == OUT
    report = fast.report()
    assert (report.runs, report.windows, report.window_hits) == (1, 1, 1)
    assert (report.speculator_calls, report.guesses) == (1, 1)
    assert (report.forks, report.launched, report.claimed) == (0, 0, 0)
    assert probe.tally["b"] == 1


def test_off_runs_plain(world: World, probe: Probe) -> None:
    fast = build(world, probe, "nothing", mode="off")
    assert world.invoke(fast, {"x": 0}) == OUT
    assert probe.tally["asked"] == 0
    assert fast.report().runs == 0
    assert probe.watch.events == []


@pytest.mark.parametrize("value", ["off", "OFF", "Off"])
def test_the_environment_switches_everything_off(
    world: World, probe: Probe, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("LANGGRAPH_SPECULATIVE", value)
    fast = build(world, probe, "nothing")
    assert world.invoke(fast, {"x": 0}, {"metadata": {"speculation": "on"}}) == OUT
    assert probe.tally["asked"] == 0
    monkeypatch.delenv("LANGGRAPH_SPECULATIVE")
    assert world.invoke(fast, {"x": 0}) == OUT
    assert fast.report().runs == 1


@pytest.mark.parametrize("switch", ["off", {"mode": "off"}], ids=repr)
def test_one_request_switches_it_off(world: World, probe: Probe, switch: Any) -> None:
    fast = build(world, probe, "nothing")
    assert world.invoke(fast, {"x": 0}, {"metadata": {"speculation": switch}}) == OUT
    assert (probe.tally["asked"], fast.report().runs) == (0, 0)


@pytest.mark.parametrize("switch", ["observe", {"mode": "observe"}], ids=repr)
def test_one_request_only_observes(world: World, probe: Probe, switch: Any) -> None:
    fast = build(world, probe, "asked")
    assert world.invoke(fast, {"x": 0}, {"metadata": {"speculation": switch}}) == OUT
    report = fast.report()
    assert (report.window_hits, report.launched) == (1, 0)


@pytest.mark.parametrize("switch", ["on", {"mode": "on"}], ids=repr)
def test_one_request_switches_it_on(world: World, probe: Probe, switch: Any) -> None:
    fast = build(world, probe, "launched", mode="off")
    assert world.invoke(fast, {"x": 0}, {"metadata": {"speculation": switch}}) == OUT
    assert fast.report().claimed == 1


def test_the_switch_of_a_configured_graph(world: World, probe: Probe) -> None:
    fast = build(world, probe, "nothing").with_config({"metadata": {"speculation": "off"}})
    assert world.invoke(fast, {"x": 0}) == OUT
    assert probe.tally["asked"] == 0


def test_the_switch_leaves_other_metadata_alone(world: World, probe: Probe) -> None:
    """Metadata without a word for us, and a mapping without a mode."""
    fast = build(world, probe, "launched")
    assert world.invoke(fast, {"x": 0}, {"metadata": {"other": 1, "speculation": {"note": "x"}}}) == OUT
    assert fast.report().claimed == 1


def test_closed_graphs_run_plain(world: World, probe: Probe) -> None:
    fast = build(world, probe, "nothing")
    fast.close()
    assert world.invoke(fast, {"x": 0}) == OUT
    assert (probe.tally["asked"], fast.report().runs) == (0, 0)
