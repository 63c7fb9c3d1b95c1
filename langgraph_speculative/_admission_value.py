"""What a guess is worth: pure functions, no I/O. ``docs/policy.md`` has the rules in words.

A call made early on a right guess costs nothing extra: the run takes it over instead of making it. So a hit is worth
the time saved and the call, and a miss costs the call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

DEFAULT_SAVING = 0.25
"""Seconds that a hit is taken to save where no latency has been seen: little, as a call to a service goes."""

GRID = 16
"""Quantiles of each latency that an expectation is computed over."""


def worth(probability: float, saving_seconds: float, value_per_second: float, cost_usd: float) -> bool:
    """Whether a call is worth making early: ``p * (s * v + c) > c``. What costs nothing always is.

    Args:
        probability: That the guesses it stands on are right, and so the run will take it over.
        saving_seconds: What a hit saves, in seconds.
        value_per_second: What a saved second is worth, in USD.
        cost_usd: What the call costs, in USD.
    """
    if cost_usd <= 0:
        return True
    return probability * (saving_seconds * value_per_second + cost_usd) > cost_usd


def greedy_breadth(probabilities: Iterable[float], hit_usd: float, cost_usd: float, cap: int) -> int:
    """How many branches to make: one more while ``hit * prod(1 - p_j) * p_next >= cost`` (arXiv 2510.04371).

    Optimal where guesses are independent; of guesses that exclude each other it makes too few rather than too many.

    Args:
        probabilities: Of the guesses, the likeliest first.
        hit_usd: What a hit is worth, in USD: the time saved, and the call that need not be made again.
        cost_usd: What a branch costs, in USD.
        cap: Branches at most, the paper's k.
    """
    count, none_right = 0, 1.0
    for probability in probabilities:
        if count >= cap or hit_usd * none_right * probability < cost_usd:
            break
        count += 1
        none_right *= 1 - probability
    return count


def expected_saving(actor: Sequence[float], guess: Sequence[float], following: Sequence[float]) -> float:
    """``E[min(C, (B - A)+)]``: what a hit saves, in seconds.

    Algorithm 1 of arXiv 2510.04371 ends a pair of calls at ``max(B, A + C)``; its proof books ``(B - A)+``, which a hit
    saves only if the following call takes at least that long.

    Args:
        actor: Samples of B, the seconds that the guessed node takes.
        guess: Samples of A, the seconds until the guess is there.
        following: Samples of C, the seconds that the call made early takes.

    Returns:
        The mean over all combinations of the samples' quantiles; `DEFAULT_SAVING` where one has no sample.
    """
    if not actor or not guess or not following:
        return DEFAULT_SAVING
    answers = _quantiles(guess)
    heads = sorted(max(0.0, b - a) for b in _quantiles(actor) for a in answers)
    sums = [0.0, *accumulate(heads)]
    calls = _quantiles(following)
    total = 0.0
    for call in calls:
        shorter = bisect_right(heads, call)
        total += sums[shorter] + call * (len(heads) - shorter)
    return total / (len(heads) * len(calls))


def _quantiles(samples: Sequence[float]) -> list[float]:
    """The samples themselves if they are few, else values evenly spaced among the sorted ones."""
    if len(samples) <= GRID:
        return list(samples)
    ordered = sorted(samples)
    return [ordered[int((n + 0.5) * len(ordered) / GRID)] for n in range(GRID)]
