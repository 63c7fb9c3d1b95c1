"""The rows of the engine's benchmark, with their bars, and what the measurements share."""

from __future__ import annotations

import asyncio
import gc
import selectors
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any, Literal, Protocol, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One line of the benchmark.

    Attributes:
        what: The case, for people.
        bar: What has to be reached.
        better: Whether lower or higher values are better.
        unit: Unit of value and bar; empty for ratios and counts.
        ideal: The value without any overhead, where theory has one.
    """

    what: str
    bar: float
    better: Literal["lower", "higher"] = "lower"
    unit: str = ""
    ideal: float | None = None

    def is_met(self, value: float) -> bool:
        """Whether `value` reaches the bar; a NaN does not."""
        return value <= self.bar if self.better == "lower" else value >= self.bar


_CHAIN = "20 sequential async calls of 100 ms, guess 20 ms"
_FORK = "one fork and its first branch step, of a plain step with `InMemorySaver`, state of"

ROWS: Mapping[str, Row] = {
    "right_d1": Row(f"{_CHAIN}, always right, depth 1: time, of plain", 0.62, ideal=0.60),
    "right_d3": Row("same, depth 3", 0.34, ideal=0.32),
    "right_d5": Row("same, depth 5", 0.27, ideal=0.24),
    "right_speculator_calls": Row("same: Speculator calls per step, worst depth", 1.1, ideal=1.0),
    "wrong_d3": Row(f"{_CHAIN}, always wrong, depth 3: time, of plain", 1.01, ideal=1.0),
    "wrong_forks": Row("same: forks per step and depth", 1.1),
    "sync_right_d3": Row("20 sequential sync calls, always right, depth 3: time, of plain", 0.38, ideal=0.32),
    "ideal_share": Row("saved time, of the ideal: worst of p .3/.6/.9, k 1/3, d 1/3", 0.95, "higher", ideal=1.0),
    "idle_superstep": Row("session open, nothing to speculate: time per superstep, of plain", 1.05, ideal=1.0),
    "fork_10": Row(f"{_FORK} 10 messages", 1.0),
    "fork_1000": Row(f"{_FORK} 1,000 messages", 1.6),
    "fork_10000": Row(f"{_FORK} 10,000 messages", 1.6),
    "key_none": Row("keys computed without a candidate, 1,000 and 10,000 messages", 0.0, ideal=0.0),
    "key_quick": Row("key with a candidate until the fingerprints agree, 1,000 and 10,000 messages", 0.1, unit="ms"),
    "concurrent_wall": Row(
        "200 concurrent async runs, 10 steps of 1 s, guess 100 ms, always right, depth 1: time, of plain",
        0.80,
        ideal=0.55,
    ),
    "concurrent_cpu_ms": Row("same: CPU per step", 3.0, unit="ms"),
    "hanging_async_p95_ms": Row(
        "hanging async Speculators on every node: added time per step, p95", 2.0, unit="ms", ideal=0.0
    ),
    "hanging_sync_p95_ms": Row(
        "hanging sync Speculators on every node: added time per step, p95", 2.0, unit="ms", ideal=0.0
    ),
    "memory_mb": Row(
        "memory after 1,000 runs with discarded branches, above that after 100", 2.0, unit="MB", ideal=0.0
    ),
}


@dataclass(frozen=True)
class Measured:
    """A row's value, and what else was seen."""

    value: float
    detail: str = ""


Results = dict[str, Measured]


class Meter(Protocol):
    """Shows that a long measurement gets on."""

    def start(self, what: str, total: int) -> None:
        """Begin `what`, of `total` parts."""

    def advance(self) -> None:
        """One part is done."""


class NoMeter:
    """Shows nothing."""

    def start(self, what: str, total: int) -> None:
        """Begin."""

    def advance(self) -> None:
        """Get on."""


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        quick: Fewer repetitions; cases and bars stay.
        jobs: Processes for the one row that takes minutes; more than the machine's idle cores spoil it.
        meter: Where progress is shown.
    """

    quick: bool = False
    jobs: int = 1
    meter: Meter = field(default_factory=NoMeter)

    def times(self, full: int, quick: int) -> int:
        """Repetitions."""
        return quick if self.quick else full


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, with timers that are exact to microseconds.

    A simulated call is a timer. asyncio's default selector rounds every wait up to a millisecond, so a loop with a
    second timer under way wakes up for the first one half a millisecond later: a whole 0.5 % of a call of 100 ms, which
    a reply from a network does not have. ``select`` does not round. Plain and speculative runs use the same loop.
    """
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        return runner.run(main)


async def timed(run: Callable[[], Awaitable[T]]) -> tuple[float, T]:
    """Seconds of one asynchronous run, and its result; garbage of the run before it is collected first."""
    gc.collect()
    started = time.perf_counter()
    result = await run()
    return time.perf_counter() - started, result


def timed_sync(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of one synchronous run, and its result."""
    gc.collect()
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def same(plain: Any, fast: Any) -> None:
    """Refuse to report the speed of a wrong result.

    Raises:
        AssertionError: The two differ.
    """
    if plain != fast:
        raise AssertionError(f"the speculative result differs from the plain one:\n{fast!r}\n{plain!r}")


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return quantiles(values, n=20, method="inclusive")[-1]
