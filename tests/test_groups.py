"""Rollout and holdout: who speculates, and what is measured."""

from __future__ import annotations

import json
import random
import uuid
from statistics import fmean, variance
from typing import Any, TypedDict

import pytest

from langgraph_speculative import Policy, SpeculationError, SpeculativeGraph, speculative
from langgraph_speculative import _groups as groups
from langgraph_speculative._groups import Arm, Groups, Holdout, _student
from tests.support import AsyncWorld, Probe, World, chain

NAMES = [f"thread {n}" for n in range(2000)]


def test_shares_are_as_asked_for_and_stick() -> None:
    own = Groups(0.25, 0.1)
    placed = {name: own.of(name) for name in NAMES}
    found = [sum(group == g for group in placed.values()) / len(NAMES) for g in ("holdout", "speculative", "plain")]
    assert found == pytest.approx([0.1, 0.9 * 0.25, 0.9 * 0.75], abs=0.03)
    assert placed == {name: Groups(0.25, 0.1).of(name) for name in NAMES}, "in every process"


def test_a_larger_rollout_keeps_the_threads_of_a_smaller_one_and_the_holdout() -> None:
    small, large = Groups(0.2, 0.1), Groups(0.6, 0.1)
    for name in NAMES:
        before, after = small.of(name), large.of(name)
        assert before == after or (before, after) == ("plain", "speculative")


def test_runs_without_a_thread_are_spread_one_by_one() -> None:
    own = Groups(0.5, 0.0)
    assert {own.of(None) for _ in range(64)} == {"speculative", "plain"}
    assert not Groups(1.0, 0.0).is_active


def test_the_variance_of_a_mean_counts_threads_not_runs() -> None:
    drawn, own = random.Random(1), Arm()
    means = []
    for thread in range(50):
        level = drawn.uniform(1, 2)
        means.append(level)
        for _ in range(20):
            own.add(str(thread), level)
    # All runs of a thread are alike: 1,000 runs tell no more than 50 threads.
    assert own.mean == pytest.approx(fmean(means))
    assert own.variance == pytest.approx(variance(means) / 50, rel=1e-6)
    alone = Arm()
    for level in means:
        alone.add(None, level)
    assert alone.variance == pytest.approx(variance(means) / 50, rel=1e-6)


def test_its_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "MAX_THREADS", 3)
    own = Arm()
    for n in (0, 1, 2, 0, 3):
        own.add(str(n), 1.0)
    assert (list(own._open), own.threads, own.runs) == (["2", "0", "3"], 4, 5)
    own.add("1", 1.0)
    assert (own.threads, own.runs) == (5, 6), "one that was let go counts as another"


def test_welchs_interval_covers_the_truth() -> None:
    covered = 0
    for seed in range(300):
        drawn, own = random.Random(seed), Holdout()
        for n in range(12):
            own.add("holdout", f"a{n}", drawn.gauss(3.0, 1.0))
        for n in range(40):
            own.add("speculative", f"b{n}", drawn.gauss(2.0, 0.2))
        found = own.saved()
        assert found is not None
        covered += found[1] <= 1.0 <= found[2]
    assert 0.91 <= covered / 300 <= 0.99


def test_students_quantiles() -> None:
    table = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 1000: 1.962}
    for freedom, quantile in table.items():
        assert _student(freedom) == pytest.approx(quantile, rel=0.02)
    assert _student(1.5) > _student(1.6) > _student(2.5)


def test_there_is_no_interval_without_two_threads_in_each_group() -> None:
    own = Holdout()
    assert own.to_dict() is None
    own.add("holdout", "a", 2.0)
    own.add("holdout", "a", 2.0)
    own.add("speculative", "b", 1.0)
    own.add("speculative", "c", 1.0)
    found: Any = own.to_dict()
    assert (found["plain"], found["saved"]) == ({"runs": 2, "threads": 1, "mean": 2.0}, None)
    own.add("holdout", "d", 2.0)
    assert json.loads(json.dumps(own.to_dict()))["saved_share_interval"] == [0.5, 0.5]


class State(TypedDict, total=False):
    x: int


def build(world: World, probe: Probe, **policy: Any) -> SpeculativeGraph:
    async def a(state: State) -> Any:
        if state["x"] < 0:
            raise ValueError("why")
        return {"x": 1}

    async def b(state: State) -> Any:
        return {}

    def guess(state: State) -> Any:
        probe.tally.add("asked")
        return {"x": 1}

    return speculative(
        chain(State, world.node(a), world.node(b)).compile(),
        speculators={"a": guess},
        effects={"b": "pure"},
        policy=Policy(**policy),
    )


def on(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def test_a_thread_runs_in_its_group(world: World, probe: Probe) -> None:
    fast = build(world, probe, rollout=0.5, holdout=0.3)
    placed = {name: Groups(0.5, 0.3).of(name) for name in NAMES[:24]}
    assert set(placed.values()) == {"holdout", "speculative", "plain"}
    with fast.track() as report:
        for name in placed:
            assert world.invoke(fast, {"x": 0}, on(name)) == {"x": 1}
            with pytest.raises(ValueError, match="why"):
                world.invoke(fast, {"x": -1}, on(name))
    count = list(placed.values()).count
    assert fast.report().runs == 2 * count("speculative")
    for found in (report.holdout, fast.report().holdout):
        assert (found.plain.runs, found.speculative.runs) == (count("holdout"), count("speculative"))
        assert found.plain.seconds > 0


def test_what_a_request_says_goes_before_its_group(world: World, probe: Probe) -> None:
    fast = build(world, probe, rollout=0.0, holdout=1.0)
    world.invoke(fast, {"x": 0}, {**on("a"), "metadata": {"speculation": "on"}})
    assert (fast.report().runs, fast.report().holdout.plain.runs) == (1, 0)
    world.invoke(fast, {"x": 0}, {**on("a"), "metadata": {"speculation": "off"}})
    assert (fast.report().runs, fast.report().holdout.plain.runs) == (1, 0)
    world.invoke(fast.with_config(on("a")), {"x": 0})
    assert (fast.report().runs, fast.report().holdout.plain.runs) == (1, 1)


async def test_a_run_whose_consumer_leaves_is_not_counted() -> None:
    fast = build(AsyncWorld(), Probe(), holdout=1.0)
    run = fast.astream({"x": 0}, on("a"))
    await anext(run)
    await run.aclose()
    assert fast.report().holdout.plain.runs == 0
    [_ async for _ in fast.astream({"x": 0}, on("a"))]
    assert fast.report().holdout.plain.runs == 1


@pytest.mark.parametrize("name", ["rollout", "holdout"])
def test_shares_are_shares(name: str) -> None:
    for bad in (-0.1, 1.1, True, None, "1"):
        with pytest.raises(SpeculationError, match=rf"Policy\({name}={bad!r}\): must be a share from 0 to 1"):
            Policy(**{name: bad})


def test_wrapping_draws_no_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs make UUIDs deterministic in their tests; ours would shift theirs."""
    monkeypatch.setattr(uuid, "uuid4", lambda: pytest.fail("a UUID was drawn"))
    Groups(0.5, 0.1)
    Policy()
