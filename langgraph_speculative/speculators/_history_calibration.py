"""How often what was said to be probable came true."""

from __future__ import annotations

import math

BINS = 16
RANGE = 6.0
PRIOR = 8.0


class Calibration:
    """Counts by the logit of a stated probability; what is returned lies on a rising line through their means."""

    def __init__(self) -> None:
        self.said = [0.0] * BINS
        self.came = [0.0] * BINS
        self.all = [0.0] * BINS

    def learn(self, probability: float, came: bool) -> None:
        number = _bin(probability)
        self.said[number] += probability
        self.came[number] += came
        self.all[number] += 1.0

    def forget(self, keep: float) -> None:
        for counts in (self.said, self.came, self.all):
            for number in range(BINS):
                counts[number] *= keep

    def calibrated(self, probability: float) -> float:
        """The share of guesses with such a probability that came true."""
        number = _bin(probability)
        if not self.all[number]:
            return probability
        shift = (self.came[number] - self.said[number]) / (self.all[number] + PRIOR)
        return min(0.999, max(0.0, probability + shift))


def _bin(probability: float) -> int:
    p = min(max(probability, 1e-6), 1.0 - 1e-6)
    logit = math.log(p / (1.0 - p))
    return min(BINS - 1, max(0, int((logit + RANGE) / (2.0 * RANGE) * BINS)))
