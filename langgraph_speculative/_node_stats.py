"""Counters of one node or tool: a part of the report, and what advice is made from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

KEPT = 64
"""Samples kept of each latency, the latest ones."""

MAX_NODES = 500
"""Nodes and tools in one report; the cap is for a graph that makes up names."""


@dataclass
class Samples:
    """Durations in seconds: how many there were and their sum, and the latest of them."""

    count: int = 0
    total: float = 0.0
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def add(self, *seconds: float) -> None:
        self.count += len(seconds)
        self.total += sum(seconds)
        self.latest.extend(seconds)

    def merge(self, other: Samples) -> None:
        self.count += other.count
        self.total += other.total
        self.latest.extend(other.latest)

    @property
    def mean(self) -> float | None:
        """Of all; ``None`` without samples."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> float | None:
        """The value that this share of the latest samples does not exceed; ``None`` without samples."""
        kept = sorted(self.latest)
        return kept[min(len(kept) - 1, int(share * len(kept)))] if kept else None


@dataclass
class NodeStats:
    """What was seen of one node or tool.

    Attributes:
        effect: Its effect.
        executions: Executions by the committed runs, taken over or not.
        seconds: How long they took: of one that was taken over, from its early start to its end.
        windows: Executions for which its Speculator was consulted, in time or not.
        hits: Windows in which one of the guesses was right.
        guesses: Guesses received.
        guess_seconds: From the question to the first guess.
        judged: Guesses that were compared with the actual output.
        right: Those of them that were right.
        predicted: Sum of the calibrated probabilities of the judged ones: near `right`, if calibration is good.
        launched: Early executions started.
        claimed: Early executions that the run took over.
        discarded: Early executions thrown away.
        tokens: Tokens of the executions.
        usd: What was spent, by the policy's prices: ``"committed"``, ``"discarded"`` and ``"draft"``.
        closed: Why the policy let a call not be made early, or its Speculator not be asked: reason and times.
    """

    effect: str = ""
    executions: int = 0
    seconds: Samples = field(default_factory=Samples)
    windows: int = 0
    hits: int = 0
    guesses: int = 0
    guess_seconds: Samples = field(default_factory=Samples)
    judged: int = 0
    right: int = 0
    predicted: float = 0.0
    launched: int = 0
    claimed: int = 0
    discarded: int = 0
    tokens: int = 0
    usd: dict[str, float] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)

    def merge(self, other: NodeStats) -> None:
        """Add what another run has seen."""
        self.effect = other.effect or self.effect
        for name in _ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.seconds.merge(other.seconds)
        self.guess_seconds.merge(other.guess_seconds)
        for kind, usd in other.usd.items():
            self.usd[kind] = self.usd.get(kind, 0.0) + usd
        for reason, times in other.closed.items():
            self.closed[reason] = self.closed.get(reason, 0) + times

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready. What has no samples is ``None``; percentiles are of the latest samples."""
        return {
            "effect": self.effect,
            "executions": self.executions,
            "seconds_mean": self.seconds.mean,
            "seconds_p50": self.seconds.quantile(0.5),
            "seconds_p90": self.seconds.quantile(0.9),
            "windows": self.windows,
            "hits": self.hits,
            "guesses": self.guesses,
            "guess_seconds_mean": self.guess_seconds.mean,
            "guess_hit_rate": self.right / self.judged if self.judged else None,
            "probability": self.predicted / self.judged if self.judged else None,
            "launched": self.launched,
            "claimed": self.claimed,
            "discarded": self.discarded,
            "tokens_per_call": self.tokens / self.executions if self.executions else None,
            "usd": dict(self.usd),
            "closed": dict(self.closed),
        }


_ADDED = (
    *("executions", "windows", "hits", "guesses", "judged", "right", "predicted"),
    *("launched", "claimed", "discarded", "tokens"),
)


def merge_nodes(mine: dict[str, NodeStats], others: Iterable[tuple[str, NodeStats]]) -> None:
    """Add the statistics of a finished run to those of all."""
    for label, stats in others:
        if label in mine or len(mine) < MAX_NODES:
            mine.setdefault(label, NodeStats()).merge(stats)
