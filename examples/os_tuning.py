"""An operating system's knob is tuned: a slow optimiser decides, a quick rule tries things meanwhile.

    python -m examples.os_tuning                  # sysbench, the kernel's slices, 10 s a decision
    python -m examples.os_tuning --rehearse       # no workload, a table of latencies, quick: results can be compared
    python -m examples.os_tuning --careful        # where speculation should stay off: the knob is not declared

**Lossy.** While the Actor thinks, the Speculator's settings act on the real system: each is made void by the next one,
and the Actor's own comes last. What the system went through meanwhile stays done. Hence `experimental.overwrite`.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import random
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import AsyncExitStack, aclosing
from importlib import import_module
from typing import Annotated, Any, TypedDict

from langgraph.graph import START, StateGraph
from rich.console import Console

from examples import _tuning_world as world
from examples._timeline import Timeline
from examples._tuning_world import GRID, Monitor, World
from langgraph_speculative import Policy, SpeculationInactiveWarning, SpeculativeGraph, speculative
from langgraph_speculative.experimental import overwrite

THINKING = 10.0
"""Seconds of a decision, as long as the paper's Actor deliberates: an injected wait around a quick optimiser."""

STARTS = 10
"""Random settings to begin with."""

QUICK_AHEAD = 24
"""Steps ahead: two for each second of a decision, and some to spare."""


class Tuning(TypedDict):
    """The setting that was decided last, and what each one gave."""

    slice: float
    log: Annotated[list[dict[str, float]], operator.add]


def optimiser(log: Sequence[dict[str, float]], seed: int) -> float:
    """Optuna's sampler (TPE) over the logarithm of the slice, from all that the run has measured.

    It starts with as many random settings as Optuna does, but no two alike. A function of its arguments alone.
    """
    import optuna

    if len(log) < STARTS:
        return random.Random(seed).sample(GRID, STARTS)[len(log)]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    knob = {"slice": optuna.distributions.IntDistribution(0, len(GRID) - 1)}
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=0, seed=seed + len(log)))
    for entry in log:
        params = {"slice": GRID.index(entry["slice"])}
        study.add_trial(optuna.create_trial(params=params, distributions=knob, value=entry["cost"]))
    return GRID[study.ask(knob).params["slice"]]


def build(place: World, *, thinking: float = THINKING, seed: int = 1) -> Any:
    """The graph: decide, apply and measure, for ever."""

    async def decide(state: Tuning) -> dict[str, float]:
        answer = asyncio.create_task(asyncio.sleep(thinking))
        chosen = await asyncio.to_thread(optimiser, state["log"], seed)
        await answer
        return {"slice": chosen}

    async def apply(state: Tuning) -> dict[str, Any]:
        await place.set(state["slice"])
        window = await place.measured()
        return {"log": [{"slice": state["slice"], "p95": window.p95, "p99": window.p99, "cost": window.cost}]}

    builder = StateGraph(Tuning)
    builder.add_node("decide", decide)
    builder.add_node("apply", apply)
    builder.add_edge(START, "decide")
    builder.add_edge("decide", "apply")
    builder.add_edge("apply", "decide")
    return builder.compile()


async def tuned(graph: Any, decisions: int, log: Sequence[dict[str, float]] = ()) -> list[dict[str, float]]:
    """Run the loop until it has carried out so many decisions; what each of them gave.

    Args:
        graph: The loop, plain or speculative.
        decisions: Decisions of the Actor.
        log: What an earlier run has measured.
    """
    made: list[dict[str, float]] = []
    start: Tuning = {"slice": GRID[0], "log": list(log)}
    async with aclosing(graph.astream(start, {"recursion_limit": 10_000}, stream_mode="updates")) as updates:
        async for update in updates:
            made += update.get("apply", {}).get("log", [])
            if len(made) >= decisions:
                break
    return made


def quick(monitor: Monitor) -> float:
    """The Speculator's rule: try all settings, coarse ones first, then stay with the best.

    It looks at what the system has shown, whoever has set it so: it learns from its own guesses, right or wrong.
    """
    costs: dict[float, list[float]] = {}
    for window in monitor.windows:
        costs.setdefault(window.slice, []).append(window.cost)
    for setting in (*GRID[::4], *GRID[2::4], *GRID[1::2]):
        if setting not in costs:
            return setting
    return min(costs, key=lambda setting: statistics.median(costs[setting][-3:]))


def policy(hooks: Sequence[Any] = ()) -> Policy:
    """How far to speculate, in all of this example's runs: ahead of the run decisions are guessed, and not made."""
    return Policy(depth=QUICK_AHEAD, hooks=tuple(hooks), guard=lambda name, arguments, state: name != "decide")


def make_fast(graph: Any, place: World, limits: Policy, *, careful: bool = False) -> SpeculativeGraph:
    """The same loop with the quick rule, which acts while the Actor thinks; if `careful`, the knob is not declared."""

    async def guess(state: Tuning) -> dict[str, float]:
        return {"slice": quick(place.monitor)}

    effects: dict[str, Any] = {"decide": "pure"}
    if not careful:
        effects["apply"] = overwrite(scope="slice")
    return speculative(graph, speculators={"decide": guess}, effects=effects, policy=limits)


async def run(options: argparse.Namespace, console: Console) -> None:
    """One run as the command line asks for it; a plain one before it, where the two can be compared."""
    timeline = Timeline()
    async with AsyncExitStack() as stack:
        if options.rehearse:
            place: World = world.Rehearsal(options.thinking / 10)
            console.print("No workload: a table of latencies; windows of a tenth of a decision")
        elif lacking := world.missing():
            raise SystemExit(f"Missing: {lacking}. Without it: --rehearse")
        else:
            place = await stack.enter_async_context(world.sysbench())
            console.print(f"Workload: {' '.join(world.COMMAND)}, slices through sched_setattr(2)", soft_wrap=True)
        console.print(f"Actor: Optuna, answers after {options.thinking:g} s (injected wait)")
        import_module("optuna")  # or the first decision would take longer than the others
        graph = build(place, thinking=options.thinking)
        plain = await tuned(graph, options.decisions) if options.rehearse else None
        with warnings.catch_warnings():
            if options.careful:
                warnings.simplefilter("ignore", SpeculationInactiveWarning)
            fast = make_fast(graph, place, policy([timeline]), careful=options.careful)
        began, place.monitor = time.monotonic(), Monitor()
        with fast.track() as report:
            made = await tuned(fast, options.decisions)
    console.print(timeline.text(), highlight=False, soft_wrap=True)
    for at, setting in place.monitor.settings:
        console.print(f"{at - began:5.1f} s  slice {setting:g} ms")
    decided = [entry["slice"] for entry in made]
    console.print(f"decided: {decided}; {report.launched} early calls, {report.claimed} of them used by the run")
    if options.careful:
        assert report.speculator_calls == report.launched == 0, report.to_dict()
        console.print("Nothing acted early, and no Speculator was asked.")
    if plain is not None:
        assert made == plain, f"the speculative run differs from the plain one:\n{made}\n{plain}"
        console.print("Decisions and measurements are the plain run's.")
    settings = iter([setting for _, setting in place.monitor.settings])
    assert all(setting in settings for setting in decided), "a decision was not carried out"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.os_tuning", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--decisions", type=int, default=4, help="decisions of the Actor")
    parser.add_argument("--thinking", type=float, default=THINKING, help="seconds of a decision")
    parser.add_argument("--rehearse", action="store_true", help="a table of latencies instead of the workload")
    parser.add_argument("--careful", action="store_true", help="do not declare the knob")
    asyncio.run(run(parser.parse_args(argv), Console()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
