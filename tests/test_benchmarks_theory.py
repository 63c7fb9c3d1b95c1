"""The benchmark of the theory runs, at a fraction of its size; what it measures is not judged here."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _engine_graphs as graphs
from benchmarks import _engine_latency as latency
from benchmarks import _theory_plot, _theory_runs, theory
from benchmarks._engine_rows import Measured, Settings
from langgraph_speculative.theory import ideal_schedule

QUICK = Settings(quick=True)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same cases, with fewer and shorter steps."""
    monkeypatch.setattr(latency, "COMBINATIONS", ((0.6, 1, 1), (0.9, 3, 3)))
    for name, value in (("STEPS", 4), ("MEAN", 0.01), ("GUESS", 0.001), ("SIMULATED_STEPS", 4_000)):
        monkeypatch.setattr(theory, name, value)
    for name, value in (("CALL", 0.02), ("GUESS", 0.002), ("STEPS", 4)):
        monkeypatch.setattr(_theory_runs, name, value)
    cases = [case for case in _theory_runs.cases() if case.name in ("hits, depth 3", "parallel tools, depth 1")]
    monkeypatch.setattr(_theory_runs, "cases", lambda: cases)
    monkeypatch.setattr(_theory_plot, "RUNS", 2)
    monkeypatch.setattr("gc.collect", lambda: 0)


@pytest.mark.parametrize("row", theory.ROWS)
def test_a_row_is_measured(row: str) -> None:
    measured = theory.MEASURES[row](QUICK)
    assert set(measured) == {row}
    assert math.isfinite(measured[row].value)
    assert measured[row].detail


def test_an_engine_without_overhead_differs_by_nothing() -> None:
    times = []
    for seed in range(3):
        draws = graphs.Draws(seed, theory.STEPS, theory.MEAN)
        guesses = [theory.GUESS] * theory.STEPS
        fast = [ideal_schedule(draws.calls, guesses, draws.hits(p), depth=d).total for p, _, d in latency.COMBINATIONS]
        times.append(latency.SeedTimes(seed, sum(draws.calls), tuple(fast)))
    assert list(theory.ratio_differences(times).values()) == pytest.approx([0.0, 0.0])
    slower = [latency.SeedTimes(t.seed, t.plain, tuple(1.1 * f for f in t.fast)) for t in times]
    assert list(theory.ratio_differences(slower).values()) == pytest.approx([0.1, 0.1])


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    row: Any = {"counterfactual": lambda settings: {"counterfactual": Measured(0.031, "each case")}}
    monkeypatch.setattr(theory, "MEASURES", row)
    assert theory.main(["--json", "--only", "counterfactual"]) == 0
    assert json.loads(capsys.readouterr().out) == {"counterfactual": {"value": 0.031, "bar": 0.05, "better": "lower"}}
    row["counterfactual"] = lambda settings: 1 / 0
    assert theory.main(["--only", "counterfactual"]) == 1
    assert "failed: ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.parametrize(("argv", "message"), [(["--only", "none"], "no such row: none"), (["--plot", "f"], "needs")])
def test_bad_arguments(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as exit_:
        theory.main(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_the_figure(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `plot`")
    assert theory.main(["--plot", str(tmp_path / "ratio.png")]) == 0
    assert (tmp_path / "ratio.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit):
        theory.main(["--plot", str(tmp_path / "none" / "ratio.png")])
