"""Tuning an operating system (the paper's lossy extension and Figure 5): sysbench, and the kernel's scheduler slices.

Lossy: what the Speculator tries while the Actor thinks acts on the real system. So there is no equal result to ask for
on the real workload, whose latencies are never the same twice; on a table of latencies there is, and it is checked.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.paper._parts import Group, Measured, Outcome, Part, Row, Settings, module

if TYPE_CHECKING:
    from examples._tuning_world import Monitor, Sysbench, Window

AFTER = 20.0
"""Seconds after a disturbance whose mean latency counts."""

PATIENCE = 110.0
"""Seconds after which a run that has not found a good setting is given up, and counted as that long."""

NEAR = 1.1


@dataclass(frozen=True)
class Session:
    """One run of the loop on the real workload: its windows, and when it began (monotonic seconds)."""

    windows: list[Window]
    began: float

    @property
    def mean_p95(self) -> float:
        """Mean of the windows' 95th percentiles, in milliseconds."""
        return statistics.fmean(window.p95 for window in self.windows)


def typical(monitor: Monitor) -> dict[float, float]:
    """Median cost of each setting."""
    costs: dict[float, list[float]] = {}
    for window in monitor.windows:
        costs.setdefault(window.slice, []).append(window.cost)
    return {setting: statistics.median(seen) for setting, seen in costs.items()}


def good_settings(costs: Mapping[float, float]) -> set[float]:
    """The settings within 10 % of the best."""
    return {setting for setting, cost in costs.items() if cost <= NEAR * min(costs.values())}


async def _sweep(place: Sysbench, settings: Settings) -> None:
    """Measure all settings, in turn and several times, so that a noisy second does not decide."""
    from examples._tuning_world import GRID

    for _ in range(settings.times(2, 1)):
        for setting in GRID:
            await place.set(setting)
            await place.measured()
        settings.meter.advance()


async def _session(place: Sysbench, *, joint: bool, seed: int, log: list[Any], until: Callable[[], bool]) -> Session:
    """Run the loop until something holds, or patience ends."""
    from examples import os_tuning

    graph = os_tuning.build(place, seed=seed)
    if joint:
        graph = os_tuning.make_fast(graph, place, os_tuning.policy())
    began, before = time.monotonic(), len(place.monitor.windows)
    running = asyncio.create_task(os_tuning.tuned(graph, 1_000, log))
    try:
        # What it waits for is the clock, and what the workload has been given.
        while not until() and not running.done() and time.monotonic() - began < PATIENCE:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    return Session([w for w in place.monitor.windows[before:] if w.at >= began], began)


async def _seconds_to_good(place: Sysbench, good: set[float], *, joint: bool, seed: int) -> tuple[float, Session]:
    """Seconds until a window has ended at a setting that is within 10 % of the best, from one that is not."""
    from examples._tuning_world import GRID, Monitor

    place.monitor = Monitor()  # neither of the two knows anything
    await place.set(next(setting for setting in GRID[::-1] if setting not in good))

    def found() -> bool:
        return any(window.slice in good for window in place.monitor.windows)

    session = await _session(place, joint=joint, seed=seed, log=[], until=found)
    return (time.monotonic() - session.began if found() else PATIENCE), session


async def _after_disturbance(place: Sysbench, windows: list[Window], *, joint: bool, seed: int) -> Session:
    """The seconds after something else has turned the knob to the worst setting; both know what the sweep has shown."""
    from examples._tuning_world import Monitor

    place.monitor = Monitor(windows=list(windows))
    costs = typical(place.monitor)
    log = [{"slice": w.slice, "p95": w.p95, "p99": w.p99, "cost": w.cost} for w in windows]
    await place.set(max(costs, key=costs.__getitem__))
    end = time.monotonic() + AFTER
    return await _session(place, joint=joint, seed=seed, log=log, until=lambda: time.monotonic() >= end)


async def _measure(settings: Settings) -> Outcome:
    from examples import _tuning_world as world
    from examples.os_tuning import optimiser

    optimiser([{"slice": s, "cost": 1.0} for s in world.GRID[:3]], 0)  # imports and warms up the optimiser
    pairs, shocks = settings.times(3, 1), settings.times(5, 2)
    settings.meter.start("os tuning", settings.times(2, 1) + 2 * pairs + 2 * shocks)
    async with world.sysbench() as place:
        await _sweep(place, settings)
        swept = place.monitor.windows
        costs = typical(place.monitor)
        good = good_settings(costs)
        times: dict[bool, list[float]] = {False: [], True: []}
        sessions: dict[bool, Session] = {}
        for seed in range(1, pairs + 1):
            for joint in (False, True):
                seconds, sessions[joint] = await _seconds_to_good(place, good, joint=joint, seed=seed)
                times[joint].append(seconds)
                settings.meter.advance()
        shaken: dict[bool, list[Session]] = {False: [], True: []}
        for seed in range(1, shocks + 1):
            for joint in (False, True):
                shaken[joint].append(await _after_disturbance(place, swept, joint=joint, seed=seed))
                settings.meter.advance()
    alone, together = sum(times[False]) / pairs, sum(times[True]) / pairs
    below = [b.mean_p95 < a.mean_p95 for a, b in zip(shaken[False], shaken[True], strict=True)]
    means = {joint: statistics.fmean(s.mean_p95 for s in shaken[joint]) for joint in (False, True)}
    best = min(costs, key=costs.__getitem__)
    landscape = ", ".join(f"{setting:g}: {cost:.1f}" for setting, cost in costs.items())
    rows = {
        "os_sooner": Measured(
            alone / together,
            "-",
            f"Actor alone {_list(times[False])} s, joint {_list(times[True])} s; best slice {best:g} ms; cost in ms by "
            f"slice in ms: {landscape}",
        ),
        "os_disturbed": Measured(
            sum(below) / len(below),
            "1",
            f"{sum(below)} of {len(below)} runs; mean p95 {means[False]:.1f} ms alone, {means[True]:.1f} ms joint",
        ),
    }
    return Outcome(rows, {"found": sessions, "shaken": {joint: shaken[joint][-1] for joint in (False, True)}})


def _list(values: list[float]) -> str:
    return " / ".join(f"{value:.0f}" for value in values)


def real(settings: Settings) -> Outcome:
    """The real workload: Actor alone and joint take turns."""
    return asyncio.run(_measure(settings))


def rehearsed(settings: Settings) -> Outcome:
    """On a table of latencies: the run's own decisions are the plain run's; and an undeclared knob is left alone."""
    from examples import os_tuning
    from examples._tuning_world import Monitor, Rehearsal

    settings.meter.start("os tuning: rehearsed", 1)

    async def compare() -> Any:
        place = Rehearsal(0.05)
        graph = os_tuning.build(place, thinking=0.5)
        plain = await os_tuning.tuned(graph, 4)
        place.monitor = Monitor()
        fast = os_tuning.make_fast(graph, place, os_tuning.policy())
        with fast.track() as report:
            joint = await os_tuning.tuned(fast, 4)
        assert joint == plain, f"the speculative run's decisions differ from the plain one's:\n{joint}\n{plain}"
        return report

    report = asyncio.run(compare())
    settings.meter.advance()
    detail = f"{report.launched} settings tried early, {report.early_irreversible_calls} of what nobody declared"
    return Outcome({"os_equal": Measured(1.0, "1", detail)})


def draw(series: Mapping[str, Any], directory: Path) -> list[Path]:
    """Answers the paper's Figure 5: latency over time, Actor alone and joint."""
    if not (found := series.get("real")):
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4))
    for axes, name, title in zip(
        panels, ("found", "shaken"), ("from a cold start, until found", "after a disturbance"), strict=True
    ):
        for joint, label in ((False, "Actor alone"), (True, "Actor and Speculator")):
            session = found[name][joint]
            axes.plot(
                [window.at - session.began for window in session.windows],
                [window.p95 for window in session.windows],
                marker=".",
                label=label,
            )
        axes.set(title=title, xlabel="seconds", ylabel="p95 latency, ms", yscale="log")
        axes.legend()
    figure.suptitle("sysbench cpu, 8 threads, scheduler slice tuned (paper's Figure 5)")
    file = directory / "figure5_os_tuning.png"
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return [file]


def _system(settings: Settings) -> str:
    from examples._tuning_world import missing

    return missing()


_CASE = "sysbench cpu, 8 threads, scheduler slice; Optuna, answers padded to 10 s"

PART = Part(
    title="Operating-system tuning",
    groups=(
        Group(
            "rehearsed",
            {"os_equal": Row("decisions on a table of latencies: 1 if equal to the plain run's", 1, "higher")},
            rehearsed,
            (module("optuna"),),
        ),
        Group(
            "real",
            {
                "os_sooner": Row(
                    f"{_CASE}: seconds until p95 is within 10 % of the best, Actor alone / joint", 5, "higher"
                ),
                "os_disturbed": Row(
                    "same, knob thrown to the worst: runs whose mean p95 over 20 s is below Actor alone's", 1, "higher"
                ),
            },
            real,
            (module("optuna"), _system),
        ),
    ),
    draw=draw,
)
