"""What the commands that measure rows have in common: which rows, in what environment, and how they are printed."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks._engine_rows import Results, Row


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


@contextmanager
def meter() -> Iterator[RichMeter]:
    """Show progress, rarely: its thread takes the interpreter's lock from what is measured."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=1) as progress:
        yield RichMeter(progress)


def add_rows(parser: argparse.ArgumentParser, rows: Mapping[str, Row]) -> None:
    """The options ``--json`` and ``--only``."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--only", metavar="ROW,...", help="only these rows, of: " + ", ".join(rows))


def chosen(parser: argparse.ArgumentParser, only: str | None, rows: Mapping[str, Row]) -> list[str]:
    """The rows to measure; a name that is none ends the command."""
    names = only.split(",") if only else list(rows)
    if unknown := [name for name in names if name not in rows]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(rows)}")
    return names


def plain_environment() -> None:
    """No tracing, and speculation as the benchmark asks for it, whatever is set outside."""
    for variable in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
        os.environ[variable] = "false"
    os.environ.pop("LANGGRAPH_SPECULATIVE", None)


def finish(results: Results, rows: Mapping[str, Row], *, as_json: bool) -> int:
    """Print what was measured; the exit status: 1 if a row misses its bar."""
    print(to_json(results, rows) if as_json else to_markdown(results, rows))
    return 0 if all(rows[name].is_met(measured.value) for name, measured in results.items()) else 1


def to_json(results: Results, rows: Mapping[str, Row]) -> str:
    """``{row: {"value": ..., "bar": ..., "better": ...}}``; the value of a row that failed is null."""
    out = {}
    for name, measured in results.items():
        row = rows[name]
        value = None if measured.value != measured.value else round(measured.value, 4)
        out[name] = {"value": value, "bar": row.bar, "better": row.better}
    return json.dumps(out, indent=2)


def to_markdown(results: Results, rows: Mapping[str, Row]) -> str:
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
