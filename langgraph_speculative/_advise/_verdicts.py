"""From counts and latencies to a verdict: speculate here, or not, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, log, sqrt
from statistics import NormalDist
from typing import Any, Literal

Verdict = Literal["speculate", "declare", "measure", "don't"]

ENOUGH = 20
"""Windows below which a rate says nothing."""

MOST_IN_VAIN = 20
"""Early calls in vain for each hit that are still worth advising where nobody has said what they cost."""

LEAST = 0.001
"""Seconds saved per call below which it is not worth the trouble; about what a fork costs."""


@dataclass(frozen=True)
class Figures:
    """What is known of a node, or of a tool, before any judgement.

    Attributes:
        name: Of the node or tool.
        windows: Times that it was, or could have been, guessed.
        hits: Times that one of the guesses was right.
        seconds: Mean seconds of its own calls; ``None`` if unknown.
        saving: Seconds that a hit saves, ``E[min(C, (B - A)+)]``; ``None`` if unknown.
        cost: USD that a window costs: guesses, and calls made early in vain.
        wasted: Calls made early in vain, per window.
        undeclared: Names that would have to be declared before a hit is worth anything.
        barred: Why a hit is worth nothing, whatever is declared; empty if nothing stands in the way.
        unknown: What to do for the latencies that are missing.
    """

    name: str
    windows: int
    hits: int
    seconds: float | None
    saving: float | None
    cost: float
    wasted: float
    undeclared: tuple[str, ...] = ()
    barred: str = ""
    unknown: str = ""


@dataclass(frozen=True)
class Advice:
    """One line of the table. Times are seconds, money is USD, both per call of the node or tool unless said otherwise.

    Attributes:
        name: Of the node or tool.
        verdict: What to do.
        why: In words.
        windows: Times that it was, or could have been, guessed.
        hit_rate: Share of them with a right guess; ``None`` without windows.
        interval: 95 % interval of that share.
        seconds: What a call takes.
        saving_per_hit: What a hit saves.
        saving: What is saved on average, right or wrong.
        wasted: Early calls made in vain.
        cost: What guesses and early calls in vain cost.
        cost_per_second: Cost of a saved second; ``None`` where nothing is saved.
    """

    name: str
    verdict: Verdict
    why: str
    windows: int
    hit_rate: float | None
    interval: tuple[float, float] | None
    seconds: float | None
    saving_per_hit: float | None
    saving: float | None
    wasted: float
    cost: float
    cost_per_second: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def advice(figures: Figures, value_per_second: float) -> Advice:
    """Judge.

    Args:
        figures: What is known.
        value_per_second: USD that a saved second is worth; with 0 only what costs nothing is advised.
    """
    rate = figures.hits / figures.windows if figures.windows else None
    saving = None if rate is None or figures.saving is None else rate * figures.saving
    per_second = figures.cost / saving if saving else None
    verdict, why = _judge(figures, rate, saving, per_second, value_per_second)
    return Advice(
        name=figures.name,
        verdict=verdict,
        why=why,
        windows=figures.windows,
        hit_rate=rate,
        interval=wilson(figures.hits, figures.windows) if figures.windows else None,
        seconds=figures.seconds,
        saving_per_hit=figures.saving,
        saving=saving,
        wasted=figures.wasted,
        cost=figures.cost,
        cost_per_second=per_second,
    )


def _judge(
    figures: Figures, rate: float | None, saving: float | None, per_second: float | None, value: float
) -> tuple[Verdict, str]:
    if not figures.windows:
        return "measure", "nobody guessed it: give it a Speculator and observe"
    if figures.barred:
        return "don't", figures.barred
    if not figures.hits and figures.windows >= ENOUGH:
        return "don't", f"no guess of {figures.windows} was right"
    if figures.windows < ENOUGH:
        return "measure", f"{figures.windows} windows say little: at least {ENOUGH} are needed"
    if saving is None:
        return "measure", figures.unknown
    if saving < LEAST:
        reason = "guesses come too late, or what they start is too short"
        return "don't", f"saves {_milli(saving)} per call: {reason}"
    if per_second is not None and per_second > value:
        return "don't", f"a saved second costs {per_second:.4f} USD, and is worth {value:g} (--value-per-second)"
    in_vain = figures.wasted / rate if rate else 0.0
    if not figures.cost and in_vain > MOST_IN_VAIN:
        return "don't", f"{in_vain:.0f} early calls in vain for each hit; with --price it is judged by what they cost"
    if figures.undeclared:
        names = ", ".join(figures.undeclared)
        return "declare", f"would save {_milli(saving)} per call; declare what only reads: {names}"
    costs = f", at {per_second:.4f} USD per second" if per_second else ""
    return "speculate", f"saves {_milli(saving)} per call, {in_vain:.1f} early calls in vain for each hit{costs}"


def wilson(hits: int, windows: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score interval)."""
    z = 1.959964
    share, squared = hits / windows, z * z / windows
    middle = (share + squared / 2) / (1 + squared)
    half = z * sqrt(share * (1 - share) / windows + squared / (4 * windows)) / (1 + squared)
    return max(0.0, middle - half), min(1.0, middle + half)


def latencies(mean: float | None, p50: float | None = None, p90: float | None = None) -> list[float]:
    """Samples with about these statistics: log-normal through both percentiles, else exponential (section 3).

    Args:
        mean: Seconds; the samples are scaled to it where percentiles are known too.
        p50: Median in seconds.
        p90: 90th percentile in seconds.

    Returns:
        Equally likely values; none if nothing is known.
    """
    shares = [(i + 0.5) / 50 for i in range(50)]
    if p50 and p90:
        sigma = max(0.0, log(p90 / p50)) / NormalDist().inv_cdf(0.9)
        samples = [exp(log(p50) + sigma * NormalDist().inv_cdf(share)) for share in shares]
    elif mean:
        samples = [-mean * log(1 - share) for share in shares]
    elif mean == 0:
        return [0.0]
    else:
        return [p50] if p50 else []
    scale = mean / (sum(samples) / len(samples)) if mean else 1.0
    return [sample * scale for sample in samples]


def table(rows: Sequence[Advice], notes: Sequence[str]) -> str:
    """Plain text: a line for each row, reasons below."""
    heads = ("", "verdict", "windows", "hits", "95 %", "call", "per hit", "saved", "wasted", "cost")
    lines = [
        (
            row.name,
            row.verdict,
            str(row.windows),
            "-" if row.hit_rate is None else f"{row.hit_rate:.0%}",
            "-" if row.interval is None else f"{row.interval[0]:.0%}-{row.interval[1]:.0%}",
            _milli(row.seconds),
            _milli(row.saving_per_hit),
            _milli(row.saving),
            f"{row.wasted:.2f}",
            f"{row.cost:.5f}",
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (heads, *lines)) for column in range(len(heads))]
    text = [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in (heads, *lines)
    ]
    text += ["", *(f"{row.name}: {row.verdict}: {row.why}." for row in rows)]
    legend = "saved, wasted (early calls in vain) and cost (USD) are per call; times in seconds or milliseconds."
    return "\n".join(line.rstrip() for line in [*text, "", legend, *notes])


def _milli(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
