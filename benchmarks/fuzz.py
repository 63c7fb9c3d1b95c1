"""Random graphs, run plain and speculatively: is every run the same?

    python -m benchmarks.fuzz --graphs 20000 --seed 1    # under an hour with two workers
    python -m benchmarks.fuzz --graphs 200 --json

Graphs, inputs, Speculators and policies are drawn by hypothesis (tests/fuzz_plans.py). All that can be seen of the two
runs is compared, and what their nodes have made of the world (tests/fuzz_runs.py). Prints a shrunk counter-example for
each difference, with what differs; a graph that does not end is one, with the tracebacks of all threads. Exit status 1
if there are any.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pprint import pformat

from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks._command import plain_environment
from tests.fuzz_plans import Plan, plans
from tests.fuzz_runs import Early, Hung, check

PORTION = 100
"""Graphs that a worker runs between two reports."""


@dataclass
class Outcome:
    """What became of some graphs: how many were run, and a text for each difference.

    Args:
        claimed: Pre-executions that the runs took over.
        acted: Changes of the world that were made early.
        early: Irreversible executions that were made early, as their nodes counted them.
    """

    graphs: int = 0
    differences: list[str] = field(default_factory=list)
    claimed: int = 0
    acted: int = 0
    early: int = 0

    def add(self, other: Outcome) -> None:
        """Add those of other graphs."""
        self.graphs += other.graphs
        self.differences += other.differences
        self.claimed += other.claimed
        self.acted += other.acted
        self.early += other.early


def run(graphs: int, number: int) -> Outcome:
    """Run that many graphs, drawn by the seed `number`, up to the first difference, which is shrunk."""
    outcome = Outcome()
    found: list[tuple[Plan, str]] = []

    @seed(number)
    @settings(
        max_examples=graphs,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(plans)
    def one(plan: Plan) -> None:
        if not found:
            outcome.graphs += 1
        try:
            checked = check(plan)
            outcome.claimed += checked.report.claimed
            outcome.acted += checked.acted
        except (AssertionError, Hung) as error:
            outcome.early += len(error.names) if isinstance(error, Early) and not found else 0
            found.append((plan, str(error)))
            raise
        except Exception as error:
            found.append((plan, f"{type(error).__name__}: {error}"))
            raise

    try:
        one()
    except (Exception, Hung):
        # Hypothesis runs the shrunk one last; one that depends on the timing of threads may not fail again, so that
        # what was seen is worth more than what is raised.
        plan, text = found[-1]
        outcome.differences.append(f"{text}\nseed {number}:\n{pformat(plan, width=120)}")
    return outcome


def fuzz(graphs: int, number: int, workers: int, advance: Callable[[int], None]) -> Outcome:
    """Run random graphs in processes.

    Args:
        graphs: How many.
        number: A seed: the same graphs for the same seed and number of graphs, if none differs.
        workers: Processes.
        advance: Told about graphs that have been run.
    """
    total = Outcome()
    context = multiprocessing.get_context("spawn")
    todo = [min(PORTION, graphs - start) for start in range(0, graphs, PORTION)]
    numbers = iter(range(number * 1_000_000, (number + 1) * 1_000_000))
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=20) as pool:
        running = {}
        while todo or running:
            while todo and len(running) < workers:
                portion, own = todo.pop(), next(numbers)
                running[pool.submit(run, portion, own)] = portion, own
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                portion, own = running.pop(future)
                try:
                    outcome = future.result()
                except BrokenProcessPool as error:
                    total.differences.append(f"a worker died on seed {own}: {error}")
                    return total
                total.add(outcome)
                advance(outcome.graphs)
                if outcome.differences and outcome.graphs < portion:
                    todo.append(portion - outcome.graphs)
    return total


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--graphs", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default: 1)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    args = parser.parse_args(argv)
    plain_environment()
    console = Console(stderr=True)
    columns = (TextColumn("graphs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=1) as progress:
        task = progress.add_task("graphs", total=args.graphs)
        outcome = fuzz(args.graphs, args.seed, args.workers, lambda n: progress.advance(task, n))
    for text in outcome.differences:
        print(f"\n{text}", file=sys.stderr)
    if args.json:
        numbers = {"graphs": outcome.graphs, "differences": len(outcome.differences), "early": outcome.early}
        print(json.dumps(numbers))
    else:
        print(
            f"{outcome.graphs} graphs, {outcome.claimed} claims, {outcome.acted} changes made early, "
            f"{outcome.early} irreversible executions made early, {len(outcome.differences)} differences"
        )
    return 1 if outcome.differences else 0


if __name__ == "__main__":
    sys.exit(main())
