"""From what a Speculator says of its guesses to how often they are right; and whether they ever are.

No I/O here. Everything is bounded, additive (so that processes can add their counts up) and JSON-ready.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

BINS = 10
RANKS = 4
"""Ranks told apart: first, second, third, and later guesses of a window."""

MAX_SOURCES = 64
MAX_COUNT = 200.0
"""Guesses that a bin remembers; beyond it, all counts of the bin are halved."""

PRIOR = 2.0
"""Guesses that the stated confidence weighs as much as."""

TRIALS = 3
MEMORY = 50
USELESS = 10
PROBE_EVERY = 50


class Bins:
    """Judged guesses of one source and rank: by stated confidence, how many, how many were right, and their sum."""

    def __init__(self, cells: Iterable[Iterable[float]] = ()) -> None:
        # Judged, right, sum of stated confidences.
        self.cells = [list(map(float, cell)) for cell in cells] or [[0.0, 0.0, 0.0] for _ in range(BINS)]

    @staticmethod
    def index(confidence: float) -> int:
        return min(BINS - 1, int(confidence * BINS))

    def learn(self, confidence: float, right: bool, weight: float = 1.0) -> None:
        self.add(self.index(confidence), (weight, weight * right, weight * confidence))

    def add(self, at: int, counts: Iterable[float]) -> None:
        cell = [a + b for a, b in zip(self.cells[at], counts, strict=True)]
        while cell[0] > MAX_COUNT:
            cell = [c / 2 for c in cell]
        self.cells[at] = cell

    def probability(self, confidence: float) -> float:
        """How likely a guess of this stated confidence is right."""
        at = self.index(confidence)
        if not any(cell[0] for cell in self.cells):
            return confidence
        # Pool adjacent violators, weighted. The bin in question counts with this guess's own prior, others with theirs.
        blocks: list[tuple[float, float, int]] = []  # right, weight, last bin
        for n, (judged, right, stated) in enumerate(self.cells):
            if not judged and n != at:
                continue
            prior = confidence if n == at else stated / judged
            blocks.append((right + PRIOR * prior, judged + PRIOR, n))
            while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] > blocks[-1][0] * blocks[-2][1]:
                (r1, w1, _), (r2, w2, last) = blocks[-2:]
                blocks[-2:] = [(r1 + r2, w1 + w2, last)]
        right, weight, _ = next(b for b in blocks if b[2] >= at)
        return right / weight


class Calibration:
    """The guesses at one node, by source and rank."""

    def __init__(self, kept: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._bins: dict[tuple[str, int], Bins] = {}
        for source, ranks in (kept or {}).items():
            for rank, cells in ranks.items():
                self._bins[source, int(rank)] = Bins(cells)

    def probability(self, source: str, rank: int, confidence: float) -> float:
        """The calibrated probability of a guess.

        Args:
            source: Who guessed.
            rank: Its place among the guesses of its window, from 0.
            confidence: What is said of it.
        """
        bins = self._bins.get((source, min(rank, RANKS - 1)))
        return confidence if bins is None else bins.probability(confidence)

    def learn(self, source: str, rank: int, confidence: float, right: bool) -> None:
        """A guess has been judged."""
        bins = self._of(source, min(rank, RANKS - 1))
        bins.learn(confidence, right)

    def _of(self, source: str, rank: int) -> Bins:
        if (source, rank) not in self._bins and len(self._bins) >= MAX_SOURCES * RANKS:
            del self._bins[next(iter(self._bins))]
        return self._bins.setdefault((source, rank), Bins())

    def add(self, other: Calibration) -> None:
        """Add the counts of another."""
        for (source, rank), bins in other._bins.items():
            mine = self._of(source, rank)
            for at, cell in enumerate(bins.cells):
                mine.add(at, cell)

    def __bool__(self) -> bool:
        return bool(self._bins)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """JSON-ready: by source and rank, the cells."""
        out: dict[str, dict[str, Any]] = {}
        for (source, rank), bins in self._bins.items():
            out.setdefault(source, {})[str(rank)] = [list(cell) for cell in bins.cells]
        return out


class Door:
    """Whether calls that spend tokens may be made behind guesses at one node: only where guesses have matched.

    PROVEN: one of the latest `MEMORY` windows has matched. TRIAL: fewer than `TRIALS` are known, none of which has.
    CLOSED: neither.
    """

    def __init__(self, windows: Iterable[bool] = ()) -> None:
        self.windows: deque[bool] = deque(windows, maxlen=MEMORY)
        self.under_way = 0

    def __repr__(self) -> str:
        return f"<Door {'PROVEN' if self.is_proven else 'TRIAL' if self.is_open else 'CLOSED'}>"

    @property
    def is_proven(self) -> bool:
        return any(self.windows)

    @property
    def is_open(self) -> bool:
        return self.is_proven or len(self.windows) + self.under_way < TRIALS

    def learn(self, matched: bool) -> None:
        """A window has been judged."""
        self.windows.append(matched)


class Breaker:
    """Whether a Speculator that spends tokens is asked: not after `USELESS` windows in a row that were of no use.

    A window is of use if one of its guesses was right, or a call that was started behind one was taken over.
    """

    def __init__(self) -> None:
        self._windows: deque[bool] = deque(maxlen=MEMORY)

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open: nothing passes but probes."""
        return len(self._windows) >= USELESS and not any(list(self._windows)[-USELESS:])

    @property
    def is_tried(self) -> bool:
        """Whether its rate says something."""
        return len(self._windows) >= TRIALS

    @property
    def rate(self) -> float:
        """How likely a window is of use."""
        return (sum(self._windows) + 1) / (len(self._windows) + 2)

    def learn(self, matched: bool) -> None:
        """A window in which it was asked has been judged."""
        self._windows.append(matched)

    def taken(self) -> None:
        """A call started behind a guess of the latest window, more or less, was taken over."""
        if self._windows:
            self._windows[-1] = True


class Probe:
    """Every `PROBE_EVERY`-th of what is refused passes all the same, or nobody would know that it has got better."""

    def __init__(self) -> None:
        self.refused = 0

    def __call__(self) -> bool:
        """It is about to be refused; whether it is let through."""
        self.refused = (self.refused + 1) % PROBE_EVERY
        return self.refused == 0
