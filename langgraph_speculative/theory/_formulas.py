"""Closed forms, each with the place in arXiv 2510.04371 that it stands for or corrects.

Calls take ``B, C ~ Exp(beta)``, guesses ``A ~ Exp(alpha)``, in seconds and independent, so ``1 / beta`` is the mean of
a call; a guess is right with probability `p`, in every window alike. Where only the ratio matters, alpha and beta may
be given in any common unit.
"""

from __future__ import annotations

from math import floor


def expected_windows(p: float, rounds: int) -> float:
    """Expected number of rounds in which a guess is made: ``W_n = 1 + p W_{n-2} + (1 - p) W_{n-1}``.

    The paper's Algorithm 1 makes no guess in the round after a hit. Appendix A counts hits alone; every window hits
    with the same probability, so ``S_n = p W_n``, and ``W_n = n / (1 + p) + p / (1 + p)^2 (1 - (-p)^n)``.

    Args:
        p: Probability that a window has a right guess.
        rounds: Rounds ``n``; a run of T steps has T - 1, since nothing follows its last step.

    Raises:
        ValueError: `p` outside [0, 1], or `rounds` below 0.
    """
    _check_probability(p)
    if rounds < 0:
        raise ValueError(f"rounds={rounds}: must be at least 0.")
    return rounds / (1 + p) + p / (1 + p) ** 2 * (1 - (-p) ** rounds)


def expected_hits(p: float, rounds: int) -> float:
    """Expected number of hits: ``S_n = p (1 + S_{n-2}) + (1 - p) S_{n-1}``, solved (Appendix A).

    Args:
        p: Probability that a window has a right guess.
        rounds: Rounds ``n``; T - 1 for a run of T steps.

    Raises:
        ValueError: `p` outside [0, 1], or `rounds` below 0.
    """
    return p * expected_windows(p, rounds)


def paper_saving_per_hit(alpha: float, beta: float) -> float:
    """Seconds that the paper books for a hit: ``E[(B - A)+] = alpha / (beta (alpha + beta))`` (Appendix A).

    Raises:
        ValueError: A rate that is not positive.
    """
    _check_rates(alpha, beta)
    return alpha / (beta * (alpha + beta))


def corrected_saving_per_hit(alpha: float, beta: float) -> float:
    """Seconds that a hit saves: ``E[min(C, (B - A)+)] = alpha / (2 beta (alpha + beta))``.

    Of Algorithm 1 (section 3): the pair of calls ends at ``max(B, A + C)``, not at ``A + C``. Given that the guess is
    first, ``B - A`` is ``Exp(beta)`` again, and the smaller of it and C has half of its mean.

    Raises:
        ValueError: A rate that is not positive.
    """
    return paper_saving_per_hit(alpha, beta) / 2


def paper_ratio(p: float, alpha: float, beta: float, steps: int | None = None) -> float:
    """The paper's ``E[T_spec] / E[T_seq]``: ``1 - alpha / (alpha + beta) S_{T-1} / T`` (Proposition 1).

    It promises too much: see `corrected_ratio`.

    Args:
        p: Probability that a window has a right guess; for k guesses see `top_k` and `hit_probability`.
        alpha: Guesses per second.
        beta: Calls per second.
        steps: Steps of the run, T; ``None`` for the limit ``1 - p / (1 + p) alpha / (alpha + beta)``.

    Raises:
        ValueError: `p` outside [0, 1], a rate that is not positive, or fewer steps than one.
    """
    return 1 - _hits_per_step(p, steps) * paper_saving_per_hit(alpha, beta) * beta


def corrected_ratio(p: float, alpha: float, beta: float, steps: int | None = None) -> float:
    """``E[T_spec] / E[T_seq]`` of Algorithm 1 as it is written, with hits that save ``min(C, (B - A)+)``.

    Half of the saving of Proposition 1, so never below 3/4. A sliding window of one step (`ideal_schedule` with
    ``depth=1``) does better, since it guesses after a hit too.

    Args:
        p: Probability that a window has a right guess.
        alpha: Guesses per second.
        beta: Calls per second.
        steps: Steps of the run; ``None`` for the limit.

    Raises:
        ValueError: As `paper_ratio`.
    """
    return 1 - _hits_per_step(p, steps) * corrected_saving_per_hit(alpha, beta) * beta


def top_k(p: float, k: int) -> float:
    """The paper's probability that one of k guesses is right: ``p(k) = 1 - (1 - p)^k`` (section 5.1).

    For independent guesses that are all equally good; a model's second guess is worse than its first. `hit_probability`
    takes measured ranks instead.

    Raises:
        ValueError: `p` outside [0, 1], or `k` below 0.
    """
    _check_probability(p)
    if k < 0:
        raise ValueError(f"k={k}: must be at least 0.")
    return float(1 - (1 - p) ** k)


def paper_cost(p: float, alpha: float, beta: float, distinct: float, steps: int | None = None) -> float:
    """The paper's relative extra cost, ``E[M_spec - M_seq] / E[M_seq]`` (Theorem 4, Appendix C.1).

    ``k - (k + alpha / (alpha + beta)) S_{T-1} / T``, in the limit ``k - (k + alpha / (alpha + beta)) p / (1 + p)``.
    Cost is taken to be proportional to the time for which calls run; guesses are free. Every window is charged k
    calls, also where the guess comes too late to start any early.

    Args:
        p: Probability that a window has a right guess.
        alpha: Guesses per second.
        beta: Calls per second.
        distinct: Distinct guesses of a window on average (k with a tilde in the paper).
        steps: Steps of the run; ``None`` for the limit.

    Raises:
        ValueError: As `paper_ratio`.
    """
    _check_rates(alpha, beta)
    hits = _hits_per_step(p, steps)
    return distinct - hits * (distinct + alpha / (alpha + beta))


def corrected_cost(
    p: float, alpha: float, beta: float, distinct: float, steps: int | None = None, *, guess_cost: float = 0.0
) -> float:
    """Relative extra cost of Algorithm 1 when a guess that comes after the call's end starts nothing.

    ``r (k W_{T-1} - S_{T-1}) / T`` with ``r = alpha / (alpha + beta)``, the probability that a guess is first, and in
    the limit ``r (k - p) / (1 + p)``: every window in time starts k calls, and a hit gives one back. At most Theorem 4,
    and equal to it for ``alpha / beta`` without end. Calls run to their ends; who cancels refuted ones pays less.

    Args:
        p: Probability that a window has a right guess.
        alpha: Guesses per second.
        beta: Calls per second.
        distinct: Distinct guesses of a window on average.
        steps: Steps of the run; ``None`` for the limit.
        guess_cost: What one window's guesses cost, in calls; paid in every window.

    Raises:
        ValueError: As `paper_ratio`.
    """
    _check_rates(alpha, beta)
    windows = _windows_per_step(p, steps)
    return windows * (alpha / (alpha + beta) * (distinct - p) + guess_cost)


def paper_depth_saving(p: float, call: float, guess: float, steps: int | None = None) -> float:
    """Saved share of the time with unlimited depth and constant latencies (Theorem 6, section 5.3, Appendix C.4).

    ``(T - 1) / T p (1 - b / a)``. Exact: with constant latencies the next call starts b after a hit and a after a miss.
    With latencies that vary it is too high, since a miss waits for the slowest call under way.

    Args:
        p: Probability that a step has a right guess.
        call: Seconds of every call, a.
        guess: Seconds of every guess, b, below a.
        steps: Steps of the run, T; ``None`` for the limit.

    Raises:
        ValueError: `p` outside [0, 1], ``0 < guess < call`` does not hold, or fewer steps than one.
    """
    _check_probability(p)
    _check_latencies(call, guess)
    return _followed(steps) * p * (1 - guess / call)


def paper_depth_cost(p: float, call: float, guess: float, steps: int | None = None) -> float:
    """Relative extra cost with unlimited depth and constant latencies (Theorem 6, Appendix C.4, the exact form).

    With ``m = floor(a / b)``, a right step also pays m guesses of b, and a wrong one the calls that were started before
    its own call ended, cut off there: ``(a - b) + ... + (a - m b)``.

    Args:
        p: Probability that a step has a right guess.
        call: Seconds of every call, a.
        guess: Seconds of every guess, b, below a.
        steps: Steps of the run, T; ``None`` for the limit.

    Raises:
        ValueError: As `paper_depth_saving`.
    """
    _check_probability(p)
    _check_latencies(call, guess)
    ahead = floor(call / guess + 1e-9)  # 0.3 / 0.1 is 2.9999999999999996
    wasted = call * ahead - guess * ahead * (ahead + 1) / 2
    return _followed(steps) * ((1 - p) * wasted + p * guess * ahead) / call


def always_right_ratio(call: float, guess: float, depth: int) -> float:
    """``T_spec / T_seq`` of long runs in a window of `depth` steps, with right guesses and constant latencies.

    ``max(b, (a + b) / (d + 1)) / a``: d + 1 calls start b apart, and the next when the first of them is committed and
    the guess is there, after a + b. Not in the paper, which has no window; the limit of `ideal_schedule`.

    Args:
        call: Seconds of every call, a.
        guess: Seconds of every guess, b, below a.
        depth: Steps ahead of the committed run, d.

    Raises:
        ValueError: ``0 < guess < call`` does not hold, or `depth` below 1.
    """
    _check_latencies(call, guess)
    if depth < 1:
        raise ValueError(f"depth={depth}: must be at least 1.")
    return max(guess, (call + guess) / (depth + 1)) / call


def _hits_per_step(p: float, steps: int | None) -> float:
    return p * _windows_per_step(p, steps)


def _windows_per_step(p: float, steps: int | None) -> float:
    _check_probability(p)
    _followed(steps)
    return 1 / (1 + p) if steps is None else expected_windows(p, steps - 1) / steps


def _followed(steps: int | None) -> float:
    """Share of the steps that another one follows."""
    if steps is None:
        return 1.0
    if steps < 1:
        raise ValueError(f"steps={steps}: must be at least 1.")
    return (steps - 1) / steps


def _check_probability(p: float) -> None:
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: must be between 0 and 1.")


def _check_rates(alpha: float, beta: float) -> None:
    if not (alpha > 0 and beta > 0):
        raise ValueError(f"alpha={alpha} and beta={beta}: rates must be positive.")


def _check_latencies(call: float, guess: float) -> None:
    if not 0 < guess < call:
        raise ValueError(f"call={call} and guess={guess}: a guess must take time, and less than its call.")
