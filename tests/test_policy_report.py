"""The statistics of each node and tool in a report, in all modes."""

from __future__ import annotations

import json
import operator
from typing import Annotated, Any, TypedDict

import pytest

from langgraph_speculative import Policy, SpeculativeGraph, speculative
from langgraph_speculative._node_stats import KEPT, NodeStats, Samples, merge_nodes
from tests.support import Probe, World, chain


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


def build(world: World, probe: Probe, guess: int, **kwargs: Any) -> SpeculativeGraph:
    """a -> b -> c; a waits until its guess has been acted on, as far as the mode allows."""

    async def a(state: State) -> Any:
        await probe.watch.saw("guess").wait()
        if kwargs.get("mode") != "observe":
            await probe.tally.reached("b").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        probe.tally.add("b")
        return {"log": [state["x"]]}

    async def c(state: State) -> Any:
        return {}

    return speculative(
        chain(State, *map(world.node, (a, b, c))).compile(),
        speculators={"a": lambda s: {"x": guess}},
        effects={"b": "pure"},
        policy=Policy(hooks=(probe.watch,), **kwargs),
    )


@pytest.mark.parametrize(("guess", "hit"), [(1, 1), (2, 0)], ids=["right", "wrong"])
def test_each_node_is_counted(world: World, probe: Probe, guess: int, hit: int) -> None:
    fast = build(world, probe, guess)
    world.invoke(fast, {"x": 0})
    nodes = fast.report().nodes
    assert set(nodes) == {"a", "b", "c"}
    assert [n.executions for n in nodes.values()] == [1, 1, 1]
    assert [n.seconds.count for n in nodes.values()] == [1, 1, 1]
    a, b = nodes["a"], nodes["b"]
    assert (a.windows, a.hits, a.guesses, a.judged, a.right) == (1, hit, 1, 1, hit)
    assert a.guess_seconds.count == 1
    assert (b.launched, b.claimed, b.discarded) == (1, hit, 1 - hit)
    assert (a.effect, b.effect) == ("undeclared", "pure")


def test_observing_gives_latencies_of_all_nodes_and_the_hits(world: World, probe: Probe) -> None:
    fast = build(world, probe, 1, mode="observe")
    world.invoke(fast, {"x": 0})
    nodes = json.loads(json.dumps(fast.report().to_dict()))["nodes"]
    assert (nodes["a"]["windows"], nodes["a"]["hits"], nodes["a"]["guess_hit_rate"]) == (1, 1, 1.0)
    for node in nodes.values():
        assert 0 <= node["seconds_p50"] <= node["seconds_p90"]
        assert node["launched"] == 0
    assert nodes["a"]["guess_seconds_mean"] >= 0


def test_samples_keep_the_latest_and_the_mean_of_all() -> None:
    own = Samples()
    assert (own.mean, own.quantile(0.5)) == (None, None)
    for n in range(KEPT + 10):
        own.add(float(n))
    assert (own.count, own.mean, len(own.latest)) == (KEPT + 10, (KEPT + 9) / 2, KEPT)
    assert (own.quantile(0.0), own.quantile(1.0)) == (10.0, float(KEPT + 9))
    assert own.quantile(0.5) == 10 + KEPT / 2
    more = Samples()
    more.add(1e6)
    own.merge(more)
    assert (own.count, own.latest[-1], len(own.latest)) == (KEPT + 11, 1e6, KEPT)


def test_made_up_names_do_not_fill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langgraph_speculative._node_stats.MAX_NODES", 2)
    mine: dict[str, NodeStats] = {}
    merge_nodes(mine, [(str(n), NodeStats(executions=1)) for n in range(3)])
    merge_nodes(mine, [("1", NodeStats(executions=1))])
    assert {label: n.executions for label, n in mine.items()} == {"0": 1, "1": 2}
