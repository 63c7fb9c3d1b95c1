"""The rows of the prediction benchmark, with their bars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks._engine_rows import Row

_NEXT = "next read-only call, of all of them, name and arguments exact"

ROWS: Mapping[str, Row] = {
    "retail_top1": Row(f"retail: {_NEXT}, one guess", 0.70, "higher"),
    "retail_top3": Row("same, three guesses", 0.80, "higher"),
    "airline_top1": Row(f"airline: {_NEXT}, one guess", 0.60, "higher"),
    "airline_top3": Row("same, three guesses", 0.72, "higher"),
    "between_turns": Row(
        "retail: calls of the next turn guessed before the customer's message, five guesses a step, depth 3",
        0.30,
        "higher",
    ),
    "admission_waste": Row(
        "retail: early calls wasted per hit with a threshold on the confidence, of those without one", 0.5
    ),
    "calibration": Row("expected calibration error after 50 runs, retail and airline", 0.05),
    "history_ms": Row("CPU time of a guess after 10,000 runs, last step of the longest run, warm, p95", 2.0, unit="ms"),
}


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        data: The directory of the recorded runs.
        seeds: Numbers that the folds are drawn with; a row's value is the mean over them.
        quick: Fewer repetitions, same cases and bars.
    """

    data: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    quick: bool = False
