"""The engine's benchmark: how much sooner runs end, and what speculation costs.

    python -m benchmarks.engine                          # all rows, as a Markdown table; about 20 minutes
    python -m benchmarks.engine --only right_d3,fork_10
    python -m benchmarks.engine --quick --json           # fewer repetitions, same cases and bars

Every row compares plain and speculative runs that take turns in one process, and refuses to count a
speculative run whose result is not the plain one's. Exit status 1 if a row misses its bar, 2 for a row that
does not exist.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from math import nan

from benchmarks import _engine_cost as cost
from benchmarks import _engine_forks as forks
from benchmarks import _engine_latency as latency
from benchmarks._command import add_rows, chosen, finish, meter, plain_environment
from benchmarks._engine_rows import ROWS, Measured, Results, Settings

Measure = Callable[[Settings], Results]

GROUPS: tuple[tuple[tuple[str, ...], Measure], ...] = (
    (
        ("right_d1", "right_d3", "right_d5", "right_speculator_calls", "wrong_d3", "wrong_forks"),
        latency.sequential,
    ),
    (("sync_right_d3",), latency.sync_sequential),
    (("idle_superstep",), cost.idle_superstep),
    (("fork_10",), partial(forks.fork, 10)),
    (("fork_1000",), partial(forks.fork, 1_000)),
    (("fork_10000",), partial(forks.fork, 10_000)),
    (("key_none", "key_quick"), forks.keys),
    (("concurrent_wall", "concurrent_cpu_ms"), cost.concurrent),
    (("hanging_async_p95_ms",), partial(cost.hanging, sync=False)),
    (("hanging_sync_p95_ms",), partial(cost.hanging, sync=True)),
    (("memory_mb",), cost.memory),
    (("ideal_share",), latency.ideal_share),
)
"""Rows that are measured together, because they need the same runs."""


def measure(names: Sequence[str], settings: Settings) -> Results:
    """Measure these rows, in the order of the table. A row that cannot be measured has the value NaN."""
    results: Results = {}
    for rows, function in GROUPS:
        if not set(rows) & set(names):
            continue
        try:
            measured = function(settings)
        except Exception as error:
            traceback.print_exc()
            measured = {row: Measured(nan, f"failed: {type(error).__name__}") for row in rows}
        results.update({row: measured[row] for row in rows if row in names})
    return {row: results[row] for row in ROWS if row in results}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=(__doc__ or "").split("\n")[0])
    add_rows(parser, ROWS)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, same cases and bars")
    parser.add_argument("--jobs", type=int, default=1, help="processes for ideal_share (default: 1)")
    args = parser.parse_args(argv)
    names = chosen(parser, args.only, ROWS)
    plain_environment()
    with meter() as shown:
        results = measure(names, Settings(args.quick, args.jobs, shown))
    return finish(results, ROWS, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
