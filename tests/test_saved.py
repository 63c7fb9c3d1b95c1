"""The time that the report says was saved: per superstep, and once for graphs that run beside each other."""

from __future__ import annotations

import asyncio
import operator
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_speculative import Policy, _early, _session, speculative
from langgraph_speculative._saved import SavedTime

ROOT = SimpleNamespace(checkpoint_ns=())
X, Y, DEEP = (SimpleNamespace(checkpoint_ns=ns) for ns in (("x:1",), ("y:2",), ("x:1", "z:3")))


def test_a_superstep_ends_with_its_last_execution() -> None:
    saved = SavedTime()
    saved.add(ROOT, 0, 3.0, 5.0)
    saved.add(ROOT, 0, 4.0, 4.0)
    assert saved.total == pytest.approx(1.0)
    saved.add(ROOT, 1, 6.0, 5.0)  # nothing is ever lost by what was not waited for
    saved.add(ROOT, 2, 7.0, 7.5)
    assert saved.total == pytest.approx(1.5)


def test_graphs_beside_each_other_save_what_the_longer_one_does() -> None:
    saved = SavedTime()
    saved.add(X, 0, 1.0, 1.5)
    saved.add(X, 1, 2.0, 2.5)
    saved.add(DEEP, 0, 2.0, 2.25)
    saved.add(Y, 0, 2.0, 2.75)
    assert saved.total == pytest.approx(2.0)
    saved.add_graphs(ROOT, 4, "x:1", 2.0)  # saved 1.25
    saved.add_graphs(ROOT, 4, "y:2", 2.1)  # saved .75
    assert saved.total == pytest.approx((2.0 + 1.25) - 2.1)


def test_a_task_of_a_similar_name_is_another() -> None:
    saved = SavedTime()
    saved.add(SimpleNamespace(checkpoint_ns=("x:12",)), 0, 1.0, 1.5)
    saved.add_graphs(ROOT, 0, "x:1", 1.0)
    saved.add_graphs(ROOT, 1, "x:12", 1.0)
    assert saved.total == pytest.approx(0.5)


class Log(TypedDict):
    log: Annotated[list[str], operator.add]


def chain(name: str, seconds: float) -> Any:
    builder: Any = StateGraph(Log)
    for i in range(4):

        async def node(state: Log, i: int = i) -> dict[str, Any]:
            await asyncio.sleep(seconds)
            return {"log": [f"{name}{i}"]}

        builder.add_node(f"n{i}", node)
        builder.add_edge(f"n{i - 1}" if i else START, f"n{i}")
    return builder.add_edge("n3", END).compile()


class Timeless(asyncio.SelectorEventLoop):
    """A loop on which nobody sleeps: when there is nothing to do, it is the time of the next timer."""

    now = 0.0
    _ready: Any
    _scheduled: Any

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready:
            self.now = min((timer.when() for timer in self._scheduled if not timer.cancelled()), default=self.now)
        super()._run_once()  # type: ignore[misc]


@pytest.mark.parametrize("names", [("x",), ("x", "y")], ids=["alone", "beside each other"])
def test_the_saving_in_the_report_is_what_the_plain_run_takes_longer(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that runs for nothing else; ``python -m benchmarks.theory`` measures it by the machine's."""

    def guessing(text: str) -> Any:
        async def guess(state: Log) -> Any:  # not in a thread, for which that clock would not wait
            return {"log": [text]}

        return guess

    builder: Any = StateGraph(Log)
    for name in names:
        builder.add_node(name, chain(name, 0.1))
        builder.add_edge(START, name)
        builder.add_edge(name, END)
    plain = builder.compile()
    speculators: dict[str, Any] = {f"{name}|n{i}": guessing(f"{name}{i}") for name in names for i in range(4)}
    fast = speculative(plain, speculators=speculators, effects={"*": "pure"}, policy=Policy(depth=3))
    state: Any = {"log": []}

    async def timed(graph: Any) -> tuple[Any, float]:
        started = asyncio.get_running_loop().time()
        result = await graph.ainvoke(state)
        return result, asyncio.get_running_loop().time() - started

    with asyncio.Runner(loop_factory=Timeless) as runner:
        for module in (_session, _early):
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=runner.get_loop().time))
        expected, before = runner.run(timed(plain))
        result, after = runner.run(timed(fast))
    assert sorted(result["log"]) == sorted(expected["log"])
    assert (before, after) == (pytest.approx(0.4), pytest.approx(0.1))
    assert fast.report().time_saved == pytest.approx(before - after)
