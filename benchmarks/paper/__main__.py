"""The paper's four systems, running: what it reports, what we measure, and the limit.

    python -m benchmarks.paper                           # all; under 15 minutes
    python -m benchmarks.paper --only chess --quick      # one system, fewer repetitions
    python -m benchmarks.paper --json

Prints one Markdown table and writes figures. What lacks a program or data is skipped by name. Exit status 1 if a
speculative result differs from the plain one, or if something could not be measured; a missed bar is marked.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks._command import RichMeter, to_json
from benchmarks.paper._parts import SYSTEMS, Group, Measured, Part, Row, Settings, module, part

Table = dict[str, tuple[Row, Measured]]


def measure_group(group: Group, settings: Settings, table: Table, series: dict[str, Any]) -> bool:
    """Measure one group into the table; whether that went well."""
    try:
        outcome = group.measure(settings)
    except Exception as error:
        traceback.print_exc()
        kind = "differs" if isinstance(error, AssertionError) else "failed"
        for name, row in group.rows.items():
            table[name] = row, Measured(nan, detail=f"{kind}: {error}".splitlines()[0])
        return False
    series[group.name] = outcome.series
    for name, row in group.rows.items():
        table[name] = row, outcome.rows[name]
    return True


def measure(parts: Mapping[str, Part], settings: Settings, out: Path) -> tuple[Table, list[str], list[Path], bool]:
    """Measure these parts: the table, what was skipped and why, the figures, and whether all results were right."""
    table: Table = {}
    skipped: list[str] = []
    figures: list[Path] = []
    fine = True
    for system, found in parts.items():
        series: dict[str, Any] = {}
        for group in found.groups:
            if missing := group.missing(settings):
                skipped.append(f"{system} {group.name}: needs {'; '.join(missing)}")
            else:
                fine = measure_group(group, settings, table, series) and fine
        if series:
            if lacking := module("matplotlib")(settings):
                skipped.append(f"{system} figure: needs {lacking}")
            else:
                out.mkdir(parents=True, exist_ok=True)
                figures += found.draw(series, out)
    return table, skipped, figures, fine


def as_json(table: Table) -> str:
    """``{row: {"value": ..., "bar": ..., "better": ...}}``; the value of a row that failed is null."""
    return to_json({name: m for name, (_, m) in table.items()}, {name: row for name, (row, _) in table.items()})


def as_markdown(table: Table, skipped: Sequence[str]) -> str:
    """A table for people, and below it what else was seen and what was not."""
    lines = ["| row | case | paper | ours | bar | limit |", "|---|---|---|---|---|---|"]
    notes = []
    for name, (row, measured) in table.items():
        unit = f" {row.unit}" if row.unit else ""
        value = f"{measured.value:.3g}{unit}" if measured.value == measured.value else "failed"
        mark = "" if row.is_met(measured.value) else " **missed**"
        sign = "≤" if row.better == "lower" else "≥"
        lines.append(
            f"| {name} | {row.what} | {row.paper} | {value}{mark} | {sign} {row.bar:g}{unit} | {measured.limit} |"
        )
        if measured.detail:
            notes.append(f"* {name}: {measured.detail}")
    notes += [f"* skipped: {what}" for what in skipped]
    return "\n".join([*lines, "", *notes])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=SYSTEMS, action="append", help="one system; may be given again")
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--out", type=Path, default=Path("paper-figures"), help="directory of the figures")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="directory of recorded runs")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    options = parser.parse_args(argv)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        settings = Settings(data=options.data, quick=options.quick, meter=RichMeter(progress))
        parts = {system: part(system) for system in options.only or SYSTEMS}
        table, skipped, figures, fine = measure(parts, settings, options.out)
    for what in skipped:
        console.print(f"skipped: {what}", soft_wrap=True, highlight=False)
    for figure in figures:
        console.print(f"figure: {figure}", soft_wrap=True, highlight=False)
    print(as_json(table) if options.json else as_markdown(table, skipped))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
