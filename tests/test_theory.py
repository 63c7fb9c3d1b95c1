"""The ideal schedule against cases that can be worked out by hand."""

from __future__ import annotations

import random
from itertools import pairwise
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_speculative.theory import ideal_schedule


def ratio(calls: list[float], guesses: list[float], hits: list[bool], **options: int | bool) -> float:
    return ideal_schedule(calls, guesses, hits, **options).total / sum(calls)  # type: ignore[arg-type]


@pytest.mark.parametrize(("depth", "expected"), [(1, 0.60), (3, 0.32), (5, 0.24)])
def test_always_right(depth: int, expected: float) -> None:
    assert ratio([0.1] * 20, [0.02] * 20, [True] * 20, depth=depth) == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_always_wrong_takes_as_long_as_the_plain_run(depth: int) -> None:
    calls = [0.1, 0.3, 0.2, 0.05]
    schedule = ideal_schedule(calls, [0.01] * 4, [False] * 4, depth=depth)
    assert schedule.total == pytest.approx(sum(calls))
    assert schedule.launched == pytest.approx((0.0, 0.1, 0.4, 0.6))


def test_a_guess_slower_than_its_call_is_not_waited_for() -> None:
    assert ideal_schedule([1.0, 1.0], [5.0, 5.0], [True, True]).total == 2.0


def test_unlimited_depth_is_a_chain_of_guesses() -> None:
    schedule = ideal_schedule([1.0] * 5, [0.1] * 5, [True] * 5, depth=5)
    assert schedule.launched == pytest.approx((0.0, 0.1, 0.2, 0.3, 0.4))
    assert schedule.total == pytest.approx(1.4)


def test_a_branch_runs_on_with_the_output_of_its_own_early_call() -> None:
    # The first guess is right, the second wrong: the second call ends in the branch long before the first,
    # and the third needs no guess.
    calls, guesses, hits = [10.0, 1.0, 5.0], [1.0] * 3, [True, False, False]
    assert ideal_schedule(calls, guesses, hits, depth=2, run_on=False).total == pytest.approx(15.0)
    schedule = ideal_schedule(calls, guesses, hits, depth=2)
    assert schedule.launched == pytest.approx((0.0, 1.0, 2.0))
    assert schedule.total == pytest.approx(10.0)


def test_running_on_saves_nothing_at_depth_1() -> None:
    rng = random.Random(3)
    calls = [rng.expovariate(10) for _ in range(50)]
    hits = [rng.random() < 0.6 for _ in calls]
    guesses = [0.01] * 50
    assert ideal_schedule(calls, guesses, hits) == ideal_schedule(calls, guesses, hits, run_on=False)


@pytest.mark.parametrize("speedup", [1.0, 3.0, 15.6])
def test_a_hit_saves_half_of_what_the_paper_books(speedup: float) -> None:
    """E[min(C, (B - A)+)] = alpha / (2 beta (alpha + beta)), with guesses Exp(alpha) and calls Exp(beta)."""
    beta, alpha, pairs = 1.0, speedup, 40_000
    rng = random.Random(1)
    calls = [rng.expovariate(beta) for _ in range(2 * pairs)]
    guesses = [rng.expovariate(alpha) for _ in range(2 * pairs)]
    # Algorithm 1 ends a pair with its second call, whose own output is not guessed.
    schedule = ideal_schedule(calls, guesses, [True, False] * pairs, run_on=False)
    saved = (sum(calls) - schedule.total) / pairs
    assert saved == pytest.approx(alpha / (2 * beta * (alpha + beta)), rel=0.03)


def test_the_chess_setting_of_the_paper() -> None:
    """T = 30, p = 0.629, alpha / beta = 15.6: the formula says 0.355 saved, the paper's measurement 0.195."""
    rng = random.Random(2)
    shares = []
    for _ in range(2_000):
        calls = [rng.expovariate(1.0) for _ in range(30)]
        guesses = [rng.expovariate(15.6) for _ in calls]
        hits: list[bool] = []
        for _ in calls:
            hits.append(rng.random() < 0.629 and not (hits and hits[-1]))
        shares.append(1 - ratio(calls, guesses, hits, run_on=False))
    assert fmean(shares) == pytest.approx(0.178, abs=0.012)


def test_running_on_at_a_low_hit_rate() -> None:
    rng = random.Random(4)
    saved = {True: 0.0, False: 0.0}
    total = 0.0
    for _ in range(1_000):
        calls = [rng.expovariate(10) for _ in range(30)]
        hits = [rng.random() < 0.3 for _ in calls]
        total += sum(calls)
        for run_on in saved:
            schedule = ideal_schedule(calls, [0.01] * 30, hits, depth=3, run_on=run_on)
            saved[run_on] += sum(calls) - schedule.total
    assert saved[False] / total == pytest.approx(0.14, abs=0.02)
    assert saved[True] / total == pytest.approx(0.20, abs=0.02)


steps = st.lists(
    st.tuples(st.floats(0, 10), st.floats(0, 10), st.booleans()),
    max_size=15,
)


@settings(deadline=None, max_examples=50)
@given(steps, st.integers(1, 5), st.booleans())
def test_bounds(run: list[tuple[float, float, bool]], depth: int, run_on: bool) -> None:
    calls, guesses, hits = [r[0] for r in run], [r[1] for r in run], [r[2] for r in run]
    schedule = ideal_schedule(calls, guesses, hits, depth=depth, run_on=run_on)
    assert max(calls, default=0.0) - 1e-9 <= schedule.total <= sum(calls) + 1e-9
    assert list(schedule.committed) == sorted(schedule.committed)
    assert all(b <= f for b, f in zip(schedule.launched[1:], schedule.committed, strict=False))
    assert all(a <= b + 1e-9 for a, b in pairwise(schedule.launched))
    deeper = ideal_schedule(calls, guesses, hits, depth=depth + 1, run_on=run_on)
    assert deeper.total <= schedule.total + 1e-9


def test_an_empty_run_takes_no_time() -> None:
    assert ideal_schedule([], [], []).total == 0.0


def test_one_entry_per_step() -> None:
    with pytest.raises(ValueError, match="one entry per step, but have 2, 1 and 2"):
        ideal_schedule([1, 1], [1], [True, True])


def test_depth_is_at_least_1() -> None:
    with pytest.raises(ValueError, match="depth=0"):
        ideal_schedule([1], [1], [True], depth=0)
