"""A graph, plain and speculative, side by side: run, timed, checked and tabled."""

from __future__ import annotations

import asyncio
import copy
import statistics
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from langchain_core.caches import BaseCache
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from langgraph_speculative._compare import same_result
from langgraph_speculative._replay import Recording, llm_cache
from langgraph_speculative._target import CommandError
from langgraph_speculative.report import Report

NAMES = ("the plain run", "the speculative run")
COUNTED = "type, content, tool calls, arguments and tool results; minted ids and clock times aside"


@dataclass(frozen=True)
class Timed:
    """One run.

    Args:
        state: Its final state.
        seconds: How long it took.
        report: What speculation did; ``None`` for a plain run.
        error: What it raised instead of returning a state.
    """

    state: Any
    seconds: float
    report: Report | None = None
    error: Exception | None = None

    def difference(self, other: Timed, names: tuple[str, str] = NAMES) -> str | None:
        """`same_result` of two runs; a run that failed differs from one that did not."""
        if self.error is None and other.error is None:
            return same_result(self.state, other.state, names=names)
        mine, theirs = (repr(run.error) if run.error else "no error" for run in (self, other))
        return None if mine == theirs else f"{mine} in {names[0]}, {theirs} in {names[1]}"


@dataclass(frozen=True)
class Row:
    """A line of the table: one plain run beside one speculative run. Times are seconds."""

    label: str
    plain: float
    speculative: float
    report: Report

    @property
    def saved(self) -> float:
        """Share of the plain time that was saved."""
        return 1 - self.speculative / self.plain if self.plain else 0.0

    @property
    def discarded_tokens(self) -> int:
        return sum(usage.discarded for usage in self.report.usage.values())

    @property
    def draft_tokens(self) -> int:
        return sum(usage.draft for usage in self.report.usage.values())

    def to_dict(self) -> dict[str, Any]:
        """The numbers as JSON-ready values."""
        return {
            "plain_seconds": self.plain,
            "speculative_seconds": self.speculative,
            "saved": self.saved,
            "discarded_tokens": self.discarded_tokens,
            "draft_tokens": self.draft_tokens,
            "report": self.report.to_dict(),
        }


class Runs:
    """Runs graphs one after another: on one event loop, or with `sync` without one. A context manager."""

    def __init__(self, *, sync: bool) -> None:
        self.runner = None if sync else asyncio.Runner()

    def __enter__(self) -> Runs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.runner is not None:
            self.runner.close()

    def plain(self, graph: Any, value: Any, config: dict[str, Any] | None = None) -> Timed:
        """Run `graph` as it is."""
        if self.runner is None:
            return _timed(graph, value, config)
        return self.runner.run(_atimed(graph, value, config))

    def speculative(self, fast: Any, value: Any, config: dict[str, Any] | None = None) -> Timed:
        """Run a speculative graph, with its report."""
        if self.runner is None:
            with fast.track() as report:
                timed = _timed(fast, value, config)
        else:
            timed, report = self.runner.run(_tracked(fast, value, config))
        return Timed(timed.state, timed.seconds, report, timed.error)


def _timed(graph: Any, value: Any, config: dict[str, Any] | None) -> Timed:
    value = copy.deepcopy(value)  # a node may change what it is given
    start = time.perf_counter()
    try:
        state = graph.invoke(value, config)
    except Exception as error:
        return Timed(None, time.perf_counter() - start, error=error)
    return Timed(state, time.perf_counter() - start)


async def _atimed(graph: Any, value: Any, config: dict[str, Any] | None) -> Timed:
    value = copy.deepcopy(value)
    start = time.perf_counter()
    try:
        state = await graph.ainvoke(value, config)
    except Exception as error:
        return Timed(None, time.perf_counter() - start, error=error)
    return Timed(state, time.perf_counter() - start)


async def _tracked(fast: Any, value: Any, config: dict[str, Any] | None) -> tuple[Timed, Report]:
    # Inside the task: what is tracked follows the context, and each task has a context of its own.
    with fast.track() as report:
        timed = await _atimed(fast, value, config)
    return timed, report


def sum_of(rows: Sequence[Row], label: str) -> Row:
    """All rows as one."""
    report = Report()
    for row in rows:
        report.add(row.report)
    return Row(label, sum(row.plain for row in rows), sum(row.speculative for row in rows), report)


def results_table(title: str, rows: Sequence[Row], last: Row) -> Table:
    """Times, hits and waste of all rows, and of `last` under a line."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    headings = ["plain", "specu-\nlative", "saved", "guesses\nright", "steps\nready", "calls\nwasted"]
    for heading in (*headings, "tokens\nwasted"):
        table.add_column(heading, justify="right")
    for row in (*rows, last):
        report = row.report
        table.add_row(
            row.label,
            f"{row.plain:.2f} s",
            f"{row.speculative:.2f} s",
            f"{row.saved:.0%}",
            f"{report.window_hits}/{report.windows}",
            f"{report.claimed}/{report.steps}",
            str(report.discarded),
            f"{row.discarded_tokens} + {row.draft_tokens}",
            style="bold" if row is last else None,
            end_section=bool(rows) and row is rows[-1],
        )
    return table


LEGEND = (
    "guesses right: executions for which a guess was right (window hits); steps ready: calls of the run that "
    "had been started early (step hits); wasted: discarded calls, tokens of discarded calls + of drafts."
)


def progress(console: Console) -> Progress:
    """A progress bar over runs."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


@dataclass
class Comparison:
    """One graph on one input, plain and speculative in turn.

    Args:
        plain: The graph as it is.
        fast: The speculative graph.
        value: The input.
        runs: Pairs of runs.
        config: Given to each run.
        plain_config: Given to each plain run instead, if there is one.
        recorded: Compare on recorded model answers from the start.
    """

    plain: Any
    fast: Any
    value: Any
    runs: int = 3
    config: dict[str, Any] = field(default_factory=dict)
    plain_config: dict[str, Any] | None = None
    recorded: bool = False
    _memory: InMemorySaver | None = None

    def use_own_memory(self) -> None:
        """Keep the runs out of the application's checkpointer. Before the graph is wrapped."""
        if isinstance(getattr(self.plain, "checkpointer", None), BaseCheckpointSaver):
            # Not `Pregel.copy`: it drops what `compile` has set after the constructor.
            self.plain = copy.copy(self.plain)
            self.plain.checkpointer = self._memory = InMemorySaver()

    def run(self, runs: Runs, console: Console, error_console: Console) -> int:
        """Run, print the table and the verdict.

        Returns:
            0 when all results are equal, else 1.

        Raises:
            CommandError: The graph itself fails on this input.
        """
        note = None
        with progress(error_console) as bar:
            task = bar.add_task("plain", total=2 + 2 * self.runs)

            def run(speculative: bool) -> Timed:
                bar.update(task, description="speculative" if speculative else "plain")
                timed = self._one(runs, speculative)
                bar.advance(task)
                return timed

            recording = Recording()
            with llm_cache(recording):
                first = run(False)
            if first.error is not None:
                raise CommandError(f"the plain graph raises {type(first.error).__name__}: {first.error}")
            with llm_cache(None):
                second = run(False)
            itself = first.difference(second, ("the first plain run", "the second"))
            rows: list[Row] = []
            found = None
            if itself is None and not self.recorded:
                rows, itself, found = self._pairs(run, first, lambda: None)
            if itself is not None or self.recorded:
                note = _why_recorded(itself)
                bar.update(task, completed=2)
                if recording.answers:
                    rows, itself, found = self._pairs(run, first, recording.playback)
                else:
                    itself = "no chat model answered through LangChain, so there are none"
        if note is not None:
            console.print(note, markup=False)
        if itself is not None:
            console.print(f"[bold red]Cannot be compared[/]: {escape(itself)}")
            return 1
        self._print(console, rows)
        if found is not None:
            console.print(f"[bold red]NOT EQUAL[/]: {escape(found)}")
            if note is None:
                console.print("If its models vary from call to call, compare on recorded answers: --recorded")
            return 1
        plain = self.runs + (2 if note is None else 1)
        counted = f"{self.runs} speculative and {plain} plain runs ({COUNTED})"
        console.print(f"[bold green]Equal[/], checked: {counted}.")
        return 0

    def _pairs(
        self, run: Callable[[bool], Timed], first: Timed, cache: Callable[[], BaseCache | None]
    ) -> tuple[list[Row], str | None, str | None]:
        """The rows, how a plain run differed from the first, and how a speculative one did."""
        rows: list[Row] = []
        found = None
        for n in range(self.runs):
            with llm_cache(cache()):
                plain = run(False)
            if itself := first.difference(plain, ("the first plain run", "another plain run")):
                return rows, itself, None
            with llm_cache(cache()):
                fast = run(True)
            found = found or first.difference(fast)
            rows.append(Row(f"pair {n + 1}", plain.seconds, fast.seconds, fast.report or Report()))
        return rows, None, found

    def _one(self, runs: Runs, speculative: bool) -> Timed:
        config = self.config if speculative or self.plain_config is None else self.plain_config
        if not getattr(self.plain, "checkpointer", None):
            return self._start(runs, speculative, config)
        # A thread of its own for each run, or the second would go on where the first ended; in our own memory
        # one that is deleted after each, since a node may read its name.
        given = config.get("configurable", {})
        thread = str(given.get("thread_id", "compare"))
        if self._memory is None:
            thread = f"{thread}-{uuid.uuid4()}"
        timed = self._start(runs, speculative, config | {"configurable": given | {"thread_id": thread}})
        if self._memory is not None:
            self._memory.delete_thread(thread)
        return timed

    def _start(self, runs: Runs, speculative: bool, config: dict[str, Any]) -> Timed:
        if speculative:
            return runs.speculative(self.fast, self.value, config)
        return runs.plain(self.plain, self.value, config)

    def _print(self, console: Console, rows: list[Row]) -> None:
        total = sum_of(rows, "median")
        plain, fast = statistics.median(r.plain for r in rows), statistics.median(r.speculative for r in rows)
        console.print(results_table("Plain and speculative", rows, Row("median", plain, fast, total.report)))
        console.print(LEGEND + " Below the line: median times, and the sum of the rest.", style="dim")
        print_report(console, total.report)


def print_report(console: Console, report: Report) -> None:
    """What stopped speculation, and problems."""
    stopped = sorted(report.stopped.items(), key=lambda item: -item[1].count)[:5]
    for reason, stop in stopped:
        console.print(f"stopped {stop.count}x: {reason}", style="dim", markup=False)
    for error in list(report.errors)[-3:]:
        console.print(f"problem: {error}", style="yellow", markup=False)


def _why_recorded(itself: str | None) -> str:
    how = "Compared on recorded model answers: each run gets those of the first, after the time that they took."
    return f"{how} (The graph differs from itself: {itself}.)" if itself else how
