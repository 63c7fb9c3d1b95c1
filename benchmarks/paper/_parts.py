"""What a system of the paper brings along to be measured, and where the systems are listed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from benchmarks._engine_rows import Meter, NoMeter

SYSTEMS: tuple[str, ...] = ("chess", "retail", "multihop", "os_tuning")
"""Modules of this package that have a `PART`, in the order of the table."""

EXTRA = "pip install 'langgraph-speculative[paper]'"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: The case, for people: with the stand-ins and injected latencies that it uses.
        bar: What has to be reached.
        better: Whether lower or higher values are better.
        paper: What the paper says, as text.
        unit: Unit of value and bar; empty for ratios and counts.
    """

    what: str
    bar: float
    better: Literal["lower", "higher"]
    paper: str = "-"
    unit: str = ""

    def is_met(self, value: float) -> bool:
        """Whether `value` reaches the bar; a NaN does not."""
        return value <= self.bar if self.better == "lower" else value >= self.bar


@dataclass(frozen=True)
class Measured:
    """A row's value, the limit that theory sets as text, and what else was seen."""

    value: float
    limit: str = "-"
    detail: str = ""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        data: Directory of recorded runs.
        quick: Fewer repetitions; cases and bars stay.
        meter: Where progress is shown.
    """

    data: Path
    quick: bool = False
    meter: Meter = field(default_factory=NoMeter)

    def times(self, full: int, quick: int) -> int:
        """Repetitions."""
        return quick if self.quick else full


Need = Callable[[Settings], str]
"""What is missing and the command that installs it, as text; empty if nothing is."""


def module(name: str, install: str = EXTRA) -> Need:
    """Needs a Python module."""
    return lambda settings: "" if find_spec(name) else f"Python module {name} ({install})"


def data(file: str) -> Need:
    """Needs a file of recorded runs."""
    return lambda settings: "" if (settings.data / file).exists() else f"{settings.data / file} (--data DIR)"


@dataclass(frozen=True)
class Outcome:
    """What one group has measured: its rows, and whatever the part's figure is drawn from."""

    rows: Mapping[str, Measured]
    series: Any = None


@dataclass(frozen=True)
class Group:
    """Rows that are measured together, because they need the same runs.

    Attributes:
        name: Of the group, as in ``Part.draw``.
        rows: Its rows.
        measure: Measures all of them. It raises `AssertionError` where a speculative result differs from the plain one.
        needs: What has to be there; else the group is skipped by name.
    """

    name: str
    rows: Mapping[str, Row]
    measure: Callable[[Settings], Outcome]
    needs: Sequence[Need] = ()

    def missing(self, settings: Settings) -> list[str]:
        """What is not there."""
        return [text for need in self.needs if (text := need(settings))]


@dataclass(frozen=True)
class Part:
    """One system of the paper.

    Attributes:
        title: For people.
        groups: What is measured.
        draw: Writes figures into a directory, from the series of the groups that were measured; the files.
    """

    title: str
    groups: Sequence[Group]
    draw: Callable[[Mapping[str, Any], Path], list[Path]]


def part(system: str) -> Part:
    """A system's part.

    Raises:
        ImportError: Its module needs what is not installed. (Modules import such things where they use them.)
    """
    found: Part = importlib.import_module(f"benchmarks.paper.{system}").PART
    return found
