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
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import nan

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import _engine_cost as cost
from benchmarks import _engine_forks as forks
from benchmarks import _engine_latency as latency
from benchmarks._engine_rows import ROWS, Measured, Results, Row, Settings

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


class RichMeter:
    """One progress bar per group of rows, on standard error."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def start(self, what: str, total: int) -> None:
        self._task = self._progress.add_task(what, total=total)

    def advance(self) -> None:
        if self._task is not None:
            self._progress.advance(self._task)


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


def as_json(results: Results, rows: Mapping[str, Row] = ROWS) -> str:
    """``{row: {"value": ..., "bar": ..., "better": ...}}``; the value of a row that failed is null."""
    out = {}
    for name, measured in results.items():
        row = rows[name]
        value = None if measured.value != measured.value else round(measured.value, 4)
        out[name] = {"value": value, "bar": row.bar, "better": row.better}
    return json.dumps(out, indent=2)


def as_markdown(results: Results, rows: Mapping[str, Row] = ROWS) -> str:
    """A table for people, and below it what else was seen."""
    lines = ["| row | case | measured | bar | ideal |", "|---|---|---|---|---|"]
    notes = []
    for name, measured in results.items():
        row = rows[name]
        sign = "≤" if row.better == "lower" else "≥"
        unit = f" {row.unit}" if row.unit else ""
        value = f"{measured.value:.3f}{unit}" if measured.value == measured.value else "failed"
        mark = "" if row.is_met(measured.value) else " **missed**"
        ideal = "" if row.ideal is None else f"{row.ideal:g}{unit}"
        lines.append(f"| {name} | {row.what} | {value}{mark} | {sign} {row.bar:g}{unit} | {ideal} |")
        if measured.detail:
            notes.append(f"* {name}: {measured.detail}")
    return "\n".join([*lines, "", *notes])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--only", metavar="ROW,...", help="only these rows, of: " + ", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, same cases and bars")
    parser.add_argument("--jobs", type=int, default=1, help="processes for ideal_share (default: 1)")
    args = parser.parse_args(argv)
    names = args.only.split(",") if args.only else list(ROWS)
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    for variable in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        os.environ[variable] = "false"
    os.environ.pop("LANGGRAPH_SPECULATIVE", None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Drawn rarely: its thread takes the interpreter's lock from what is measured.
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=1) as progress:
        results = measure(names, Settings(args.quick, args.jobs, RichMeter(progress)))
    print(as_json(results) if args.json else as_markdown(results))
    return 0 if all(ROWS[name].is_met(measured.value) for name, measured in results.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
