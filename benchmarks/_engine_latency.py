"""How much sooner a run ends: rows that compare the time of plain and speculative runs.

Plain and speculative runs take turns in one process. A ratio is the median over the rounds of (speculative /
plain of the same round), so a machine that slows down for a while slows both.
"""

from __future__ import annotations

import itertools
import multiprocessing
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from benchmarks import _engine_graphs as graphs
from benchmarks._engine_rows import Measured, Results, Settings, run_async, same, timed, timed_sync
from langgraph_speculative import Policy, speculative
from langgraph_speculative.theory import ideal_schedule

STEPS = 20
CALL, GUESS = 0.1, 0.02
DEPTHS = (1, 3, 5)


def _policy(depth: int, breadth: int = 1) -> Policy:
    return Policy(depth=depth, breadth=breadth, max_in_flight=256)


def sequential(settings: Settings) -> Results:
    """20 sequential async calls of 100 ms, guess 20 ms: always right at depth 1, 3, 5, always wrong at 3."""
    plain = graphs.fixed_graph(STEPS, CALL)
    cases = [(graphs.right, depth) for depth in DEPTHS] + [(graphs.wrong, 3)]
    counters = [graphs.Counted(guess, GUESS) for guess, _ in cases]
    wrapped = [
        speculative(plain, speculators=counter.for_both(), effects=graphs.PURE, policy=_policy(depth))
        for counter, (_, depth) in zip(counters, cases, strict=True)
    ]
    ratios: list[list[float]] = [[] for _ in cases]
    forks: list[float] = []
    calls: list[list[float]] = [[] for _ in cases]
    rounds = settings.times(7, 2)
    settings.meter.start("sequential calls", rounds * (1 + len(cases)))

    async def measure() -> None:
        config = graphs.config(STEPS)
        await fixed_warm_up(plain, wrapped)
        for _ in range(rounds):
            before, expected = await timed(lambda: plain.ainvoke(graphs.START_STATE, config))
            settings.meter.advance()
            for index, fast in enumerate(wrapped):
                counters[index].calls = 0
                with fast.track() as report:
                    seconds, result = await timed(lambda fast=fast: fast.ainvoke(graphs.START_STATE, config))  # type: ignore[misc]
                same(expected, result)
                ratios[index].append(seconds / before)
                calls[index].append(counters[index].calls / STEPS)
                if cases[index][0] is graphs.wrong:
                    forks.append(report.forks / (cases[index][1] * STEPS))
                settings.meter.advance()

    run_async(measure())
    results = {f"right_d{depth}": Measured(median(ratios[i]), _spread(ratios[i])) for i, depth in enumerate(DEPTHS)}
    per_depth = [max(calls[i]) for i in range(len(DEPTHS))]
    results["right_speculator_calls"] = Measured(max(per_depth))
    results["wrong_d3"] = Measured(median(ratios[-1]), _spread(ratios[-1]))
    results["wrong_forks"] = Measured(max(forks))
    return results


async def fixed_warm_up(plain: Any, wrapped: Iterable[Any]) -> None:
    """The first run of a graph imports modules and fills caches."""
    state = {"n": STEPS - 3, "trace": []}
    for graph in (plain, *wrapped):
        await graph.ainvoke(state)


def sync_sequential(settings: Settings) -> Results:
    """The same with `time.sleep` in plain functions, always right, depth 3."""
    plain = graphs.fixed_sync_graph(STEPS, CALL)

    def speculator(state: graphs.Trace) -> dict[str, Any]:
        time.sleep(GUESS)
        return graphs.right(state)

    speculators = dict.fromkeys(graphs.NODES, speculator)
    fast = speculative(plain, speculators=speculators, effects=graphs.PURE, policy=_policy(3))
    config = graphs.config(STEPS)
    for graph in (plain, fast):
        graph.invoke({"n": STEPS - 3, "trace": []})
    ratios = []
    rounds = settings.times(7, 2)
    settings.meter.start("sequential sync calls", rounds)
    for _ in range(rounds):
        before, expected = timed_sync(lambda: plain.invoke(graphs.START_STATE, config))
        seconds, result = timed_sync(lambda: fast.invoke(graphs.START_STATE, config))
        same(expected, result)
        ratios.append(seconds / before)
        settings.meter.advance()
    return {"sync_right_d3": Measured(median(ratios), _spread(ratios))}


def _spread(values: list[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}"


# --- saved time against the ideal ---------------------------------------------------------------------------

P, K, D = (0.3, 0.6, 0.9), (1, 3), (1, 3)
COMBINATIONS = tuple(itertools.product(P, K, D))
IDEAL_STEPS = 20
IDEAL_GUESS = 0.01
PLAIN_EVERY = 4
"""Combinations per plain run of a seed: its plain time, which no combination changes, is their mean."""


@dataclass(frozen=True)
class SeedTimes:
    """Seconds of one seed: plain as measured, and for each combination speculative as measured."""

    seed: int
    plain: float
    fast: tuple[float, ...]


async def time_draws(draws: graphs.Draws, guess: float, settings: Settings) -> SeedTimes:
    """Plain and speculative runs with the same latencies and hits, all combinations."""
    seed = draws.seed
    graph = draws.graph()
    config = graphs.config(draws.steps)
    plains: list[float] = []
    fasts: list[float] = []
    # Another order for every seed, so that no combination always stands next to a plain run.
    order = COMBINATIONS[seed % len(COMBINATIONS) :] + COMBINATIONS[: seed % len(COMBINATIONS)]
    for index, (p, k, d) in enumerate(order):
        if index % PLAIN_EVERY == 0:
            seconds, expected = await timed(lambda: graph.ainvoke(graphs.START_STATE, config))
            plains.append(seconds)
        fast = speculative(
            graph,
            speculators=draws.speculators(p, k, guess),
            effects=graphs.PURE,
            policy=_policy(d, k),
        )
        seconds, result = await timed(lambda fast=fast: fast.ainvoke(graphs.START_STATE, config))  # type: ignore[misc]
        same(expected, result)
        fasts.append(seconds)
        settings.meter.advance()
    by_combination = dict(zip(order, fasts, strict=True))
    return SeedTimes(seed, fmean(plains), tuple(by_combination[c] for c in COMBINATIONS))


async def _time_seed(seed: int, settings: Settings) -> SeedTimes:
    return await time_draws(graphs.draws(seed, IDEAL_STEPS), IDEAL_GUESS, settings)


def _seed_in_subprocess(seed: int) -> SeedTimes:
    return run_async(_time_seed(seed, Settings()))


def shares(times: Iterable[SeedTimes], *, nominal: bool = False) -> dict[tuple[float, int, int], float]:
    """For each combination the saved time of all seeds, of the ideal saving of all seeds.

    Args:
        times: What was measured.
        nominal: Count saved time from the sum of the latencies, not from the measured plain run: then LangGraph's own
            time counts against speculation.
    """
    saved: dict[tuple[float, int, int], float] = dict.fromkeys(COMBINATIONS, 0.0)
    possible = dict(saved)
    for t in times:
        draws = graphs.draws(t.seed, IDEAL_STEPS)
        plain = sum(draws.calls) if nominal else t.plain
        for combination, fast in zip(COMBINATIONS, t.fast, strict=True):
            p, _, depth = combination
            schedule = ideal_schedule(draws.calls, [IDEAL_GUESS] * IDEAL_STEPS, draws.hits(p), depth=depth)
            saved[combination] += plain - fast
            possible[combination] += sum(draws.calls) - schedule.total
    return {c: saved[c] / possible[c] for c in COMBINATIONS}


def ideal_share(settings: Settings) -> Results:
    """Saved time against the ideal schedule with the same latencies and hits.

    Calls take exponential times, mean 100 ms, guesses 10 ms; p is the probability that one of the k guesses is right,
    d the depth. All is drawn per (seed, step), so every combination meets the same latencies, and so does the plain
    run, which is measured several times between the combinations of a seed. The value is the worst combination's. It
    may pass 1: a plain run takes longer than its calls, and speculation hides some of LangGraph's own time too. The
    detail also gives the worst share with the bare sum of the calls for the plain time.
    """
    seeds = range(settings.times(30, 3))
    if settings.jobs > 1:
        settings.meter.start("against the ideal", len(seeds))
        times = []
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(settings.jobs, mp_context=spawn) as pool:
            for result in pool.map(_seed_in_subprocess, seeds):
                times.append(result)
                settings.meter.advance()
    else:
        settings.meter.start("against the ideal", len(seeds) * len(COMBINATIONS))

        async def measure() -> list[SeedTimes]:
            await _time_seed(-1, Settings())  # to warm up
            return [await _time_seed(seed, settings) for seed in seeds]

        times = run_async(measure())
    by_combination = shares(times)
    worst = min(by_combination, key=lambda c: by_combination[c])
    each = ", ".join(f"p{p}k{k}d{d} {share:.3f}" for (p, k, d), share in by_combination.items())
    mean = fmean(by_combination.values())
    strict = min(shares(times, nominal=True).values())
    detail = (
        f"mean {mean:.3f}; worst at p={worst[0]}, k={worst[1]}, d={worst[2]}; "
        f"of the bare calls, without LangGraph's own time, at least {strict:.3f}; {each}"
    )
    return {"ideal_share": Measured(by_combination[worst], detail)}
