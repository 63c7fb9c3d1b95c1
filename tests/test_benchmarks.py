"""The benchmarks run, at a fraction of their size; what they measure is not judged here."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _engine_cost as cost
from benchmarks import _engine_forks as forks
from benchmarks import _engine_graphs as graphs
from benchmarks import _engine_latency as latency
from benchmarks import engine, langgraph_suite
from benchmarks._engine_rows import ROWS, Measured, Row, Settings, p95, same
from langgraph_speculative.theory import ideal_schedule

QUICK = Settings(quick=True)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cases, with fewer and shorter steps."""
    for module, values in (
        (latency, {"STEPS": 8, "CALL": 0.01, "GUESS": 0.002, "IDEAL_STEPS": 6, "IDEAL_GUESS": 0.001}),
        (cost, {"IDLE_STEPS": 5, "RUNS": 5, "LONG_CALL": 0.02, "LONG_GUESS": 0.002, "HANGING_STEPS": 5}),
        (forks, {"FORK_STEPS": {10: 5}, "KEY_SIZES": (50,)}),
    ):
        for name, value in values.items():  # type: ignore[attr-defined]
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("gc.collect", lambda: 0)  # most of the time of runs this short
    monkeypatch.setattr(graphs, "draws", lambda seed, steps: graphs.Draws(seed, steps, mean=0.01))


@pytest.mark.parametrize(
    ("rows", "function"),
    [g for g in engine.GROUPS if g[0][0] not in ("fork_1000", "fork_10000", "memory_mb", "ideal_share")],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_group_measures_its_rows(rows: tuple[str, ...], function: engine.Measure) -> None:
    results = function(QUICK)
    assert set(results) == set(rows)
    assert all(math.isfinite(measured.value) for measured in results.values())


def test_memory_levels() -> None:
    first, last, discarded = cost.memory_levels(runs=12, first=4)
    assert first > 0
    assert last > 0
    assert discarded >= 12


def test_ideal_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "COMBINATIONS", ((0.6, 1, 1), (0.6, 3, 3)))
    measured = latency.ideal_share(QUICK)["ideal_share"]
    assert math.isfinite(measured.value)
    assert "p0.6k3d3" in measured.detail


def test_a_run_as_fast_as_the_ideal_has_a_share_of_one() -> None:
    times = []
    for seed in range(3):
        draws = graphs.draws(seed, latency.IDEAL_STEPS)
        guesses = [latency.IDEAL_GUESS] * latency.IDEAL_STEPS
        fast = [ideal_schedule(draws.calls, guesses, draws.hits(p), depth=d).total for p, _, d in latency.COMBINATIONS]
        times.append(latency.SeedTimes(seed, sum(draws.calls), tuple(fast)))
    assert list(latency.shares(times).values()) == pytest.approx([1.0] * len(latency.COMBINATIONS))


@pytest.mark.parametrize("breadth", [1, 3])
def test_speculators_hit_where_the_simulator_says(breadth: int) -> None:
    draws = graphs.Draws(7, 30)
    speculator = draws.speculators(0.5, breadth, 0.0)["model"]
    hits = draws.hits(0.5)
    assert 0 < sum(hits) < 30
    for step, hit in enumerate(hits):
        state: graphs.Trace = {"n": step, "trace": []}
        guesses = asyncio.run(speculator(state))
        assert len(guesses) == breadth
        assert sum(guess.output == graphs.right(state) for guess in guesses) == hit


def test_a_wrong_result_is_not_measured() -> None:
    with pytest.raises(AssertionError, match="differs from the plain one"):
        same({"n": 1}, {"n": 2})


def test_every_row_is_in_one_group() -> None:
    rows = [row for rows, _ in engine.GROUPS for row in rows]
    assert sorted(rows) == sorted(ROWS)


def test_p95() -> None:
    assert p95(list(range(101))) == 95


class TestCommand:
    @pytest.fixture(autouse=True)
    def _rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def measure(settings: Settings) -> dict[str, Measured]:
            return {"right_d3": Measured(0.33, "0.32 to 0.35"), "ideal_share": Measured(0.9)}

        def fail(settings: Settings) -> dict[str, Measured]:
            raise AssertionError("wrong result")

        groups = ((("right_d3", "ideal_share"), measure), (("fork_10",), fail))
        monkeypatch.setattr(engine, "GROUPS", groups)

    def run(self, *argv: str) -> int:
        return engine.main(argv)

    def test_a_met_bar(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("--only", "right_d3") == 0
        out = capsys.readouterr().out
        assert "| right_d3 |" in out
        assert "0.330 | ≤ 0.34 | 0.32 |" in out
        assert "* right_d3: 0.32 to 0.35" in out

    def test_a_missed_bar(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("--only", "right_d3,ideal_share") == 1
        assert "0.900 **missed** | ≥ 0.95 |" in capsys.readouterr().out

    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("--json", "--only", "right_d3,ideal_share") == 1
        out: Any = json.loads(capsys.readouterr().out)
        assert out == {
            "right_d3": {"value": 0.33, "bar": 0.34, "better": "lower"},
            "ideal_share": {"value": 0.9, "bar": 0.95, "better": "higher"},
        }

    def test_a_row_that_fails_misses_its_bar(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.run("--json", "--only", "fork_10") == 1
        captured = capsys.readouterr()
        assert json.loads(captured.out)["fork_10"]["value"] is None
        assert "wrong result" in captured.err

    def test_an_unknown_row(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            self.run("--only", "right_d4")
        assert "no such row: right_d4" in capsys.readouterr().err


SUITE = """
import operator
from typing import Annotated, TypedDict

import pytest
from langgraph.graph import StateGraph


class State(TypedDict):
    log: Annotated[list, operator.add]


def run(called):
    def node(name):
        def function(state):
            called.append(name)
            return {"log": [name]}

        return function

    graph = StateGraph(State).add_node("a", node("a")).add_node("b", node("b"))
    graph.add_edge("__start__", "a").add_edge("a", "b")
    return graph.compile().invoke({"log": []})


def test_log():
    assert run([]) == {"log": ["a", "b"]}


def test_calls():
    called = []
    run(called)
    assert called == ["a", "b"]


@pytest.mark.parametrize("n", [1])
def test_max_concurrency(n):
    test_calls()


def test_broken():
    raise AssertionError
"""


class TestLangGraphSuite:
    @pytest.fixture
    def suite(self, tmp_path: Path) -> Path:
        (tmp_path / "tests").mkdir()
        # However slow the machine is, the branches are at rest before the run goes on.
        patience = "from benchmarks import langgraph_suite\n\nlanggraph_suite.PATIENCE = 30.0\n"
        (tmp_path / "tests" / "conftest.py").write_text(patience)
        (tmp_path / "tests" / "test_some.py").write_text(SUITE)
        return tmp_path

    def test_the_same_run(self, suite: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert langgraph_suite.main(["--suite", str(suite), "--guess", "wrong"]) == 0
        assert capsys.readouterr().out == "3 tests pass plain, 3 of them with --guess wrong.\n"

    def test_a_test_that_fails(
        self, suite: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(langgraph_suite, "RETRIES", 1)
        assert langgraph_suite.main(["--suite", str(suite), "--guess", "read", "--", "tests", "-k", "not log"]) == 1
        assert capsys.readouterr().out == (
            "2 tests pass plain, 0 of them with --guess read; 1 left out, which watch the calls of their nodes.\n"
            "  fails: tests/test_some.py::test_calls\n"
        )

    def test_no_suite(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert langgraph_suite.main(["--suite", str(tmp_path)]) == 2
        assert f"{tmp_path} is no checkout of libs/langgraph" in capsys.readouterr().err


def test_a_bar_is_met_at_equality() -> None:
    assert Row("", 1.0).is_met(1.0)
    assert not Row("", 1.0).is_met(1.01)
    assert Row("", 1.0, "higher").is_met(1.0)
    assert not Row("", 1.0, "higher").is_met(math.nan)
