"""Runs with given latencies and hits: the ideal schedule, and many of them drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from random import Random


@dataclass(frozen=True)
class Schedule:
    """When each step of a run starts and ends, in seconds after the run's start.

    Attributes:
        launched: When the call that the run will use is launched, early or not (``B`` below).
        committed: When the run has its output and all outputs before it (``F`` below).
    """

    launched: tuple[float, ...]
    committed: tuple[float, ...]

    @property
    def total(self) -> float:
        """Seconds that the run takes."""
        return self.committed[-1] if self.committed else 0.0


def ideal_schedule(
    calls: Sequence[float],
    guesses: Sequence[float],
    hits: Sequence[bool],
    *,
    depth: int = 1,
    run_on: bool = True,
) -> Schedule:
    """The fastest run that speculation of a given depth allows, with no overhead at all.

    A run is a chain of slow calls. Step ``t`` is launched at ``B_t``, takes ``C_t`` and is committed at
    ``F_t``, in order. Its guess takes ``G_t``, and is asked for as soon as the call is launched and the next
    step is at most ``depth`` steps ahead of the one under way. A right guess launches the next step at once::

        B_0     = 0
        F_t     = max(F_{t-1}, B_t + C_t)
        B_{t+1} = min(F_t, max(B_t, F_{t-d}) + G_t)   when one of the guesses for step t is right
                  F_t                                 otherwise

    with ``F = 0`` before the run. A branch that goes on with the real output of its own early call needs no
    guess at all, so with ``run_on`` also ``B_{t+1} <= max(B_t + C_t, F_{t-d})``.

    How many guesses a step has (the breadth k) shows only in `hits`. With ``depth=1`` and no two hits in a
    row this is Algorithm 1 of arXiv 2510.04371, except that a guess slower than its call is not waited for.

    Args:
        calls: Seconds of each step's call, ``C``.
        guesses: Seconds until the guess for each step's output is there, ``G``.
        hits: Whether one of the guesses for each step's output is right.
        depth: Steps ahead of the committed run that may be launched, ``d``.
        run_on: Whether branches go on with the real outputs of their own early calls.

    Returns:
        The times of all steps. ``Schedule.total`` against ``sum(calls)`` is the limit of what can be saved.

    Raises:
        ValueError: The three sequences differ in length, or `depth` is below 1.
    """
    if not len(calls) == len(guesses) == len(hits):
        raise ValueError(
            f"calls, guesses and hits need one entry per step, but have {len(calls)}, {len(guesses)} and {len(hits)}."
        )
    if depth < 1:
        raise ValueError(f"depth={depth}: must be at least 1.")
    launched: list[float] = []
    committed: list[float] = []
    start = 0.0
    for step, (call, guess, hit) in enumerate(zip(calls, guesses, hits, strict=True)):
        launched.append(start)
        done = start + call
        committed.append(max(committed[-1] if committed else 0.0, done))
        window = committed[step - depth] if step >= depth else 0.0
        following = committed[-1]
        if hit:
            following = min(following, max(start, window) + guess)
        if run_on:
            following = min(following, max(done, window))
        start = following
    return Schedule(tuple(launched), tuple(committed))


@dataclass(frozen=True)
class Simulation:
    """What many simulated runs took.

    Attributes:
        sequential: Seconds of a run without speculation, on average.
        speculative: Seconds of a run with it, on average.
        error: Standard error of `ratio`, from the spread between the runs.
    """

    sequential: float
    speculative: float
    error: float

    @property
    def ratio(self) -> float:
        """``E[T_spec] / E[T_seq]``."""
        return self.speculative / self.sequential

    @property
    def saved(self) -> float:
        """Share of the time that is saved."""
        return 1 - self.ratio


def simulate(
    p: float,
    call: Callable[[Random], float],
    guess: Callable[[Random], float],
    *,
    steps: int,
    runs: int = 1000,
    depth: int = 1,
    run_on: bool = True,
    algorithm_1: bool = False,
    seed: int = 0,
) -> Simulation:
    """Draw runs, and give each the schedule that `ideal_schedule` allows.

    Args:
        p: Probability that one of the guesses for a step is right.
        call: Draws the seconds of a call; ``lambda r: r.expovariate(beta)`` in the paper's model (section 3).
        guess: Draws the seconds of a guess; ``lambda r: r.expovariate(alpha)`` in the paper's model.
        steps: Steps of a run, T.
        runs: Runs.
        depth: Steps ahead of the committed run, d.
        run_on: Whether branches go on with the real outputs of their own early calls.
        algorithm_1: Make no guess in the step after a hit, as the paper's Algorithm 1; with ``depth=1`` and
            ``run_on=False`` the mean is `corrected_ratio`.
        seed: Of the random numbers; the same seed draws the same latencies and luck for every `p` and `depth`.

    Raises:
        ValueError: `p` outside [0, 1], `steps` or `depth` below 1, or fewer runs than two.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p={p}: must be between 0 and 1.")
    if steps < 1 or runs < 2:
        raise ValueError(f"steps={steps} and runs={runs}: at least 1 step and 2 runs are needed.")
    rng = Random(seed)
    plain, fast = [], []
    for _ in range(runs):
        calls, guesses = [], []
        hits: list[bool] = []
        for _ in range(steps):
            calls.append(call(rng))
            guesses.append(guess(rng))
            hit = rng.random() < p
            hits.append(hit and not (algorithm_1 and hits and hits[-1]))
        plain.append(sum(calls))
        fast.append(ideal_schedule(calls, guesses, hits, depth=depth, run_on=run_on).total)
    sequential, speculative = sum(plain) / runs, sum(fast) / runs
    ratio = speculative / sequential
    # Of a ratio of means: the spread of what each run is off it.
    off = sum((f - ratio * s) ** 2 for f, s in zip(fast, plain, strict=True)) / (runs - 1)
    return Simulation(sequential, speculative, sqrt(off / runs) / sequential)
