"""The ratio of speculative to sequential time against p, alpha / beta, k and d."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from langgraph_speculative.theory import corrected_ratio, paper_depth_saving, paper_ratio, simulate, top_k

P, SPEED, STEPS = 0.6, 15.6, 30
"""Where they are not what varies; alpha / beta and T are those of the paper's chess runs."""

RUNS = 300


def simulated(p: float, speed: float, depth: int) -> float:
    """The ratio of the ideal schedule, exponential latencies."""
    return simulate(
        p, lambda r: r.expovariate(1.0), lambda r: r.expovariate(speed), steps=STEPS, runs=RUNS, depth=depth
    ).ratio


def constant(p: float, speed: float, depth: int) -> float:
    """The same, all latencies constant."""

    def call(rng: Random) -> float:
        return 1.0

    return simulate(p, call, lambda rng: 1 / speed, steps=STEPS, runs=RUNS, depth=depth).ratio


def plot(path: Path) -> None:
    """Draw the four panels into a file; its suffix is the format.

    Raises:
        ImportError: matplotlib is not there.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 6.5), sharey=True, layout="constrained")
    ps = [i / 20 for i in range(21)]
    _panel(axes[0][0], "p, one guess", ps, lambda p: (p, SPEED))
    speeds = [1.25**i for i in range(0, 24)]
    _panel(axes[0][1], f"alpha / beta, p = {P}", speeds, lambda speed: (P, speed))
    axes[0][1].set_xscale("log")
    first = 0.3
    _panel(
        axes[1][0],
        f"k, p(k) = 1 - (1 - {first})^k",
        list(range(1, 9)),
        lambda k: (top_k(first, int(k)), SPEED),
    )
    depths = list(range(1, 11))
    panel = axes[1][1]
    panel.plot(depths, [simulated(P, SPEED, d) for d in depths], "C2-", label="ideal schedule, exponential")
    panel.plot(depths, [constant(P, SPEED, d) for d in depths], "C4-", label="ideal schedule, constant")
    deep = 1 - paper_depth_saving(P, 1.0, 1 / SPEED, STEPS)
    panel.axhline(deep, color="C0", linestyle="--", label="paper, Theorem 6")
    panel.set_xlabel(f"d, p = {P}")
    panel.legend(fontsize="small")
    for row in axes:
        row[0].set_ylabel("speculative / sequential time")
    axes[0][0].set_ylim(0, 1.02)
    axes[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _panel(panel: Any, label: str, xs: Sequence[float], at: Any) -> None:
    points = [at(x) for x in xs]
    panel.plot(xs, [paper_ratio(p, s, 1.0, STEPS) for p, s in points], "C0--", label="paper, Proposition 1")
    panel.plot(xs, [corrected_ratio(p, s, 1.0, STEPS) for p, s in points], "C1-", label="corrected, Algorithm 1")
    panel.plot(xs, [simulated(p, s, 1) for p, s in points], "C2-", label="ideal schedule, d = 1")
    panel.plot(xs, [simulated(p, s, 3) for p, s in points], "C3-", label="ideal schedule, d = 3")
    panel.set_xlabel(label)
