"""The prediction benchmark: how often guesses are right, what they waste, and what they take.

    python -m benchmarks.prediction --data DIR                  # all rows, as a Markdown table
    python -m benchmarks.prediction --data DIR --only retail_top1,retail_top3
    python -m benchmarks.prediction --data DIR --json --quick

DIR has the recorded runs. Guesses are cross-validated by task: no run of a task that is guessed was learned from. Rows
whose data is absent are left out, with a message. Exit status 1 if a row misses its bar.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from math import nan
from pathlib import Path

from benchmarks import _prediction_history as history
from benchmarks._command import add_rows, chosen, finish
from benchmarks._engine_rows import Measured, Results
from benchmarks._prediction_data import AIRLINE, RETAIL, Absent
from benchmarks._prediction_rows import ROWS, Settings

Measure = Callable[[Settings], Results]

GROUPS: tuple[tuple[tuple[str, ...], Measure], ...] = (
    (("retail_top1", "retail_top3", "admission_waste"), partial(history.next_calls, RETAIL, "retail")),
    (("airline_top1", "airline_top3"), partial(history.next_calls, AIRLINE, "airline")),
    (("between_turns",), history.between_turns),
    (("calibration",), history.calibration),
    (("history_ms",), history.history_ms),
)
"""Rows that are measured together, from the same guesses."""


def measure(names: Sequence[str], settings: Settings) -> Results:
    """Measure these rows, in the order of the table; those without data are left out, failed ones are NaN."""
    results: Results = {}
    for rows, function in GROUPS:
        if not set(rows) & set(names):
            continue
        try:
            measured = function(settings)
        except Absent as absent:
            print(f"skipped {', '.join(rows)}: {absent} (see --data)", file=sys.stderr)
            continue
        except Exception as error:
            traceback.print_exc()
            measured = {row: Measured(nan, f"failed: {type(error).__name__}") for row in rows}
        results.update({row: measured[row] for row in rows if row in names})
    return {row: results[row] for row in ROWS if row in results}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prediction", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="directory of the recorded runs")
    add_rows(parser, ROWS)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how often the folds are drawn (default: 3)")
    parser.add_argument("--quick", action="store_true", help="one draw of the folds, 1,000 runs for history_ms")
    args = parser.parse_args(argv)
    names = chosen(parser, args.only, ROWS)
    results = measure(names, Settings(args.data, tuple(range(1 if args.quick else args.seeds)), args.quick))
    return finish(results, ROWS, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
