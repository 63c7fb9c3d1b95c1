"""Theory against simulation, simulation against the engine, and the report against plain runs.

    python -m benchmarks.theory                          # all rows, as a Markdown table; about 7 minutes
    python -m benchmarks.theory --json --quick
    python -m benchmarks.theory --plot ratio.png         # ratio against p, alpha / beta, k and d; needs extra `plot`

Exit status 1 if a row misses its bar, 2 for a row that does not exist or a figure that cannot be drawn.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import fmean, median

from benchmarks import _engine_graphs as graphs
from benchmarks import _engine_latency as latency
from benchmarks import _theory_runs as runs
from benchmarks._command import add_rows, chosen, finish, meter, plain_environment
from benchmarks._engine_rows import Measured, Results, Row, Settings, run_async, same, timed
from benchmarks._theory_plot import plot
from langgraph_speculative.theory import (
    always_right_ratio,
    corrected_ratio,
    ideal_schedule,
    paper_depth_saving,
    simulate,
)

ROWS: Mapping[str, Row] = {
    "simulator_vs_closed": Row("saving by the simulator against the closed forms: worst relative difference", 0.02),
    "engine_vs_simulator": Row(
        "time of the engine's runs, of plain, against the simulator with the same latencies and hits: "
        "worst relative difference of p .3/.6/.9, k 1/3, d 1/3",
        0.05,
    ),
    "counterfactual": Row("saving in the report against interleaved plain runs: worst relative difference", 0.05),
}

SIMULATED_STEPS = 1_000_000
STEPS, MEAN, GUESS = 15, 0.3, 0.02


def simulator_vs_closed(settings: Settings) -> Results:
    """Savings, not ratios: where little is saved, a ratio agrees with anything.

    Algorithm 1 with exponential latencies against the corrected ratio, constant latencies without a limit of depth
    against Theorem 6, and right guesses in a window against their limit.
    """
    grid = [(p, speed, steps) for p in (0.1, 0.3, 0.6, 0.9) for speed in (1.0, 3.0, 15.6) for steps in (10, 30, 300)]
    settings.meter.start("simulator", len(grid))
    differences: dict[str, float] = {}
    paper: list[float] = []
    for p, speed, steps in grid:
        simulated = simulate(
            p,
            lambda r: r.expovariate(1.0),
            lambda r, speed=speed: r.expovariate(speed),  # type: ignore[misc]
            steps=steps,
            runs=settings.times(SIMULATED_STEPS, SIMULATED_STEPS // 4) // steps,
            run_on=False,
            algorithm_1=True,
        )
        closed = 1 - corrected_ratio(p, speed, 1.0, steps)
        differences[f"p={p}, alpha/beta={speed}, T={steps}"] = abs(simulated.saved / closed - 1)
        paper.append(2 * closed / simulated.saved)
        settings.meter.advance()
    for p in (0.3, 0.9):
        for guess in (0.2, 0.6):
            deep = simulate(
                p,
                lambda r: 1.0,
                lambda r, guess=guess: guess,  # type: ignore[misc]
                steps=300,
                runs=SIMULATED_STEPS // 300,
                depth=300,
            )
            closed = paper_depth_saving(p, 1.0, guess, 300)
            differences[f"constant, p={p}, b/a={guess}"] = abs(deep.saved / closed - 1)
    for depth in (1, 3, 8):
        total = ideal_schedule([1.0] * 3_000, [0.2] * 3_000, [True] * 3_000, depth=depth).total
        differences[f"right, d={depth}"] = abs((1 - total / 3_000) / (1 - always_right_ratio(1.0, 0.2, depth)) - 1)
    worst = max(differences, key=lambda case: differences[case])
    detail = (
        f"mean {fmean(differences.values()):.4f} of {len(differences)} cases, worst at {worst}; "
        f"the paper's Proposition 1 promises {min(paper):.2f} to {max(paper):.2f} times what is simulated"
    )
    return {"simulator_vs_closed": Measured(differences[worst], detail)}


def engine_vs_simulator(settings: Settings) -> Results:
    """The ratio of all seeds' speculative to plain time, as measured and as simulated; calls of 300 ms on average.

    Plain and speculative runs of a seed take turns, and both have LangGraph's own time in them. What the engine itself
    takes shows at p = .9, k = 3, d = 3, where most forks are made in the least time.
    """
    seeds = range(settings.times(8, 2))
    settings.meter.start("engine", len(seeds) * len(latency.COMBINATIONS))

    async def measure() -> list[latency.SeedTimes]:
        await latency.time_draws(graphs.Draws(-1, STEPS, MEAN / 10), GUESS, Settings())  # to warm up
        return [await latency.time_draws(graphs.Draws(seed, STEPS, MEAN), GUESS, settings) for seed in seeds]

    times = run_async(measure())
    differences = ratio_differences(times)
    worst = max(differences, key=lambda c: abs(differences[c]))
    each = ", ".join(f"p{p}k{k}d{d} {value:+.3f}" for (p, k, d), value in differences.items())
    mean = fmean(abs(value) for value in differences.values())
    detail = f"mean {mean:.3f}, worst at p={worst[0]}, k={worst[1]}, d={worst[2]}; {each}"
    return {"engine_vs_simulator": Measured(abs(differences[worst]), detail)}


def ratio_differences(times: Sequence[latency.SeedTimes]) -> dict[tuple[float, int, int], float]:
    """For each combination, measured ratio over simulated ratio, less 1: above 0 the engine is slower."""
    differences = {}
    for index, combination in enumerate(latency.COMBINATIONS):
        p, _, depth = combination
        sequential = ideal = 0.0
        for t in times:
            draws = graphs.Draws(t.seed, STEPS, MEAN)
            sequential += sum(draws.calls)
            ideal += ideal_schedule(draws.calls, [GUESS] * STEPS, draws.hits(p), depth=depth).total
        measured = sum(t.fast[index] for t in times) / sum(t.plain for t in times)
        differences[combination] = measured / (ideal / sequential) - 1
    return differences


def counterfactual(settings: Settings) -> Results:
    """`Report.time_saved` against the plain run of the same round, less the speculative one.

    Relative to what was saved; where nothing is, to the plain run's time. The median of the rounds.
    """
    cases = runs.cases()
    rounds = settings.times(9, 3)
    settings.meter.start("counterfactual", rounds * len(cases))
    differences: dict[str, float] = {}

    async def measure() -> None:
        for case in cases:
            await case.fast.ainvoke(case.value, case.config)  # to warm up
            off = []
            for _ in range(rounds):
                plain, expected = await timed(lambda case=case: case.plain.ainvoke(case.value, case.config))  # type: ignore[misc]
                with case.fast.track() as report:
                    fast, result = await timed(lambda case=case: case.fast.ainvoke(case.value, case.config))  # type: ignore[misc]
                same(case.result(expected), case.result(result))
                off.append((report.time_saved - (plain - fast)) / (plain - fast if case.saves else plain))
                settings.meter.advance()
            differences[case.name] = median(off)
            case.fast.close()

    run_async(measure())
    worst = max(differences, key=lambda name: abs(differences[name]))
    each = ", ".join(f"{name} {value:+.3f}" for name, value in differences.items())
    return {"counterfactual": Measured(abs(differences[worst]), each)}


MEASURES: Mapping[str, Callable[[Settings], Results]] = {
    "simulator_vs_closed": simulator_vs_closed,
    "engine_vs_simulator": engine_vs_simulator,
    "counterfactual": counterfactual,
}


def measure(names: Sequence[str], settings: Settings) -> Results:
    """Measure these rows. One that cannot be measured has the value NaN."""
    results: Results = {}
    for name in names:
        try:
            results |= MEASURES[name](settings)
        except Exception as error:
            traceback.print_exc()
            results[name] = Measured(nan, f"failed: {type(error).__name__}")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.theory", description=(__doc__ or "").split("\n")[0])
    add_rows(parser, ROWS)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, same cases and bars")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the figure into FILE, and measure nothing")
    args = parser.parse_args(argv)
    if args.plot:
        try:
            plot(args.plot)
        except ImportError:
            parser.error("--plot needs matplotlib: pip install 'langgraph-speculative[plot]'")
        except (OSError, ValueError) as error:
            parser.error(f"--plot {args.plot}: {error}")
        return 0
    names = chosen(parser, args.only, ROWS)
    plain_environment()
    with meter() as shown:
        results = measure(names, Settings(args.quick, meter=shown))
    return finish(results, ROWS, as_json=args.json)


if __name__ == "__main__":
    raise SystemExit(main())
