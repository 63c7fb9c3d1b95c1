"""Equality over graphs and Speculators that nobody thought of; `python -m benchmarks.fuzz` runs more of them."""

from __future__ import annotations

import json
import threading

import pytest
from hypothesis import HealthCheck, given, settings

from benchmarks import fuzz
from langgraph_speculative import Report
from tests.fuzz_plans import Plan, plans
from tests.fuzz_runs import Checked, Early, check, limit

QUICK = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.timeout(300)
@settings(QUICK, max_examples=300)
@given(plans)
def test_random_graphs(plan: Plan) -> None:
    check(plan)


@settings(QUICK, max_examples=25)
@given(plans)
def test_plain_runs_do_not_vary(plan: Plan) -> None:
    """Or a difference would say nothing."""
    check(plan, twice=True)


class TestCommand:
    def test_a_difference_is_shrunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def differs(plan: Plan) -> Checked:
            if plan.saver:
                raise AssertionError("it is saved")
            return Checked(Report(claimed=1))

        monkeypatch.setattr(fuzz, "check", differs)
        outcome = fuzz.run(50, 1)
        assert outcome.graphs < 50
        assert len(outcome.differences) == 1
        assert outcome.differences[0].startswith("it is saved\nseed 1:\nPlan(nodes=(Node(")

    def test_a_graph_that_hangs_is_a_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def hangs(plan: Plan) -> Checked:
            with limit(0.05):
                threading.Event().wait(10)
            return Checked(Report())

        monkeypatch.setattr(fuzz, "check", hangs)
        outcome = fuzz.run(50, 1)
        assert outcome.graphs == 1
        assert "no end after 0.05 s\n" in outcome.differences[0]
        assert "in hangs" in outcome.differences[0]

    @pytest.mark.parametrize("differences", [[], ["x: 1 in the plain run, 2 in the speculative run"]])
    def test_what_it_prints(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], differences: list[str]
    ) -> None:
        monkeypatch.setattr(fuzz, "fuzz", lambda *_: fuzz.Outcome(10, differences, 3, 2))
        assert fuzz.main(["--json", "--graphs", "10"]) == len(differences)
        captured = capsys.readouterr()
        assert json.loads(captured.out) == {"graphs": 10, "differences": len(differences), "early": 0}
        assert all(text in captured.err for text in differences)
        assert fuzz.main(["--graphs", "10"]) == len(differences)
        counts = "10 graphs, 3 claims, 2 changes made early, 0 irreversible executions made early"
        assert f"{counts}, {len(differences)} differences" in capsys.readouterr().out

    def test_irreversible_executions_made_early_are_counted_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def runs_early(plan: Plan) -> Checked:
            raise Early(["a", "a|p"])

        monkeypatch.setattr(fuzz, "check", runs_early)
        outcome = fuzz.run(50, 1)
        assert (outcome.graphs, outcome.early, len(outcome.differences)) == (1, 2, 1)
        assert outcome.differences[0].startswith("ran early: ['a', 'a|p']\n")

    def test_processes(self) -> None:
        advanced: list[int] = []
        outcome = fuzz.fuzz(4, 1, 1, advanced.append)
        assert (outcome.graphs, outcome.differences, sum(advanced)) == (4, [], 4)
