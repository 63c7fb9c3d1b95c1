"""How often what was said to be probable came true."""

from __future__ import annotations

import math

BINS = 16
RANGE = 6.0
PRIOR = 8.0


class Calibration:
    """For each band of the logit of a stated probability: what was said, what came, and how often.

    `own` is what this process has learned, `others` what it was told by others.
    """

    def __init__(self) -> None:
        self.own = [[0.0, 0.0, 0.0] for _ in range(BINS)]
        self.others = [[0.0, 0.0, 0.0] for _ in range(BINS)]

    def learn(self, probability: float, came: bool) -> None:
        counts = self.own[_bin(probability)]
        counts[0] += probability
        counts[1] += came
        counts[2] += 1.0

    def forget(self, keep: float) -> None:
        for counts in self.own:
            counts[:] = [c * keep for c in counts]

    def calibrated(self, probability: float) -> float:
        """The share of guesses with such a probability that came true."""
        number = _bin(probability)
        said, came, all_ = (a + b for a, b in zip(self.own[number], self.others[number], strict=True))
        shift = (came - said) / (all_ + PRIOR)
        return min(0.999, max(0.0, probability + shift))


def _bin(probability: float) -> int:
    p = min(max(probability, 1e-6), 1.0 - 1e-6)
    logit = math.log(p / (1.0 - p))
    return min(BINS - 1, max(0, int((logit + RANGE) / (2.0 * RANGE) * BINS)))
