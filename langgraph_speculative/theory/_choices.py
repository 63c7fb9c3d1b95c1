"""What measurements say about the next guess: how likely, how much it saves, how many are worth it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import fsum

MAX_SAMPLES = 200
"""Of each latency; of more, evenly spaced order statistics are used."""


def hit_probability(ranks: Iterable[int | None], k: int) -> float:
    """Measured probability that one of the first k guesses is right, in place of ``1 - (1 - p)^k`` (section 5.1).

    Args:
        ranks: For each window the rank of the right guess, from 0, or ``None`` where none was right.
        k: Guesses acted on.

    Returns:
        Share of the windows; 0 without any.
    """
    seen = list(ranks)
    return sum(rank is not None and rank < k for rank in seen) / len(seen) if seen else 0.0


def expected_saving(calls: Sequence[float], guesses: Sequence[float], following: Sequence[float]) -> float:
    """``E[min(C, (B - A)+)]`` over all combinations of observed latencies: what a hit saves at depth 1, in seconds.

    The corrected saving of Appendix A without its assumption of exponential latencies; it still takes the three to be
    independent. 0 where one of them was never observed.

    Args:
        calls: Seconds of the guessed node's calls, B.
        guesses: Seconds until its guess was there, A.
        following: Seconds of what comes after it, and would start early, C.
    """
    if not (calls and guesses and following):
        return 0.0
    b, a, c = (_thinned(values) for values in (calls, guesses, following))
    below = [0.0, *accumulate(c)]
    total = []
    for call in b:
        for guess in a:
            head = call - guess
            if head > 0:
                shorter = bisect_right(c, head)
                total.append(below[shorter] + head * (len(c) - shorter))
    return fsum(total) / (len(a) * len(b) * len(c))


def greedy_breadth(confidences: Sequence[float], saving: float, cost: float) -> int:
    """How many guesses to act on: one more while ``saving * prod(1 - p_j) * p_{m+1} >= cost`` (Corollary 5).

    Optimal for the objective ``q(m) saving - cost m`` with ``q(m) = 1 - prod(1 - p_j)``, since the gain of one more
    guess never grows (Appendix C.3). The product takes guesses to be right independently of each other. Distinct
    outputs exclude each other, which leaves a later guess worth ``p_{m+1}`` itself: the rule errs towards fewer.

    Args:
        confidences: Calibrated probabilities of the guesses, in any order.
        saving: What a hit is worth, in the unit of `cost`: seconds saved times the value of a second.
        cost: Of acting on one guess.

    Raises:
        ValueError: A confidence outside [0, 1], or a negative saving or cost.
    """
    if saving < 0 or cost < 0:
        raise ValueError(f"saving={saving} and cost={cost}: must not be negative.")
    if any(not 0 <= p <= 1 for p in confidences):
        raise ValueError(f"confidences={list(confidences)}: must be between 0 and 1.")
    missed = 1.0
    for count, p in enumerate(sorted(confidences, reverse=True)):
        gain = saving * missed * p
        if gain <= 0 or gain < cost:
            return count
        missed *= 1 - p
    return len(confidences)


def _thinned(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    if len(ordered) <= MAX_SAMPLES:
        return ordered
    return [ordered[int((i + 0.5) * len(ordered) / MAX_SAMPLES)] for i in range(MAX_SAMPLES)]
