"""The paper's model of a run, corrected: how fast a run could be if speculation itself cost nothing.

Source: "Speculative Actions: A Lossless Framework for Faster Agentic Systems" (arXiv 2510.04371), section 3
and Algorithm 1. The paper's proof books a hit as a saving of ``(C_t - G_t)+``, the head start of the next
call. Its algorithm ends a pair of calls at ``max(C_t, G_t + C_{t+1})``, so a hit saves
``min(C_{t+1}, (C_t - G_t)+)``: half of the paper's mean where calls and guesses are exponential.
`ideal_schedule` follows the algorithm, not the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
