"""How often what was said to be probable came true."""

from __future__ import annotations

import math

BINS = 16
RANGE = 6.0
EVERY = 32
ROUNDS = 12


class Calibration:
    """A logistic curve from what was said to what came (Platt, 1999), fitted to counts, so that counts can be added.

    For each band of the logit of a stated probability: the sum of the logits, how often it came, and how often it was
    said. `own` is what this process has learned, `others` what it was told by others.
    """

    def __init__(self) -> None:
        self.own = [[0.0, 0.0, 0.0] for _ in range(BINS)]
        self.others = [[0.0, 0.0, 0.0] for _ in range(BINS)]
        self._curve = (1.0, 0.0)
        self._news = 0

    def learn(self, probability: float, came: bool, weight: float) -> None:
        """Count one prediction."""
        logit = _logit(probability)
        counts = self.own[_bin(logit)]
        counts[0] += weight * logit
        counts[1] += weight * came
        counts[2] += weight
        self._news += 1
        if self._news >= EVERY:
            self.fit()

    def forget(self, keep: float) -> None:
        """Let what was counted here count less."""
        for counts in self.own:
            counts[:] = [c * keep for c in counts]

    def calibrated(self, probability: float) -> float:
        """The share of predictions with such a probability that came true."""
        slope, shift = self._curve
        return _logistic(slope * _logit(probability) + shift)

    def fit(self) -> None:
        """Fit the curve to the counts, by Newton's method; the identity counts as one prediction."""
        self._news = 0
        points = []
        for own, others in zip(self.own, self.others, strict=True):
            logits, came, count = (a + b for a, b in zip(own, others, strict=True))
            if count > 0.0:
                points.append((logits / count, came, count))
        slope, shift = 1.0, 0.0
        for _ in range(ROUNDS):
            g0, g1, h00, h01, h11 = 1.0 - slope, -shift, 1.0, 0.0, 1.0
            for x, came, count in points:
                p = _logistic(slope * x + shift)
                error, spread = came - count * p, count * p * (1.0 - p)
                g0 += error * x
                g1 += error
                h00 += spread * x * x
                h01 += spread * x
                h11 += spread
            determinant = h00 * h11 - h01 * h01
            slope += (h11 * g0 - h01 * g1) / determinant
            shift += (h00 * g1 - h01 * g0) / determinant
            if not (0.05 < slope < 5.0 and abs(shift) < 5.0):  # too few counts for a curve
                slope, shift = 1.0, 0.0
                break
        self._curve = (slope, shift)


def _logit(probability: float) -> float:
    p = min(max(probability, 1e-6), 1.0 - 1e-6)
    return math.log(p / (1.0 - p))


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(x, -30.0), 30.0)))


def _bin(logit: float) -> int:
    return min(BINS - 1, max(0, int((logit + RANGE) / (2.0 * RANGE) * BINS)))
