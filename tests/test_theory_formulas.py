"""The closed forms against each other, against brute force, and against simulated runs."""

from __future__ import annotations

import random
from itertools import product
from math import inf
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langgraph_speculative import theory
from langgraph_speculative.theory import (
    always_right_ratio,
    corrected_cost,
    corrected_ratio,
    corrected_saving_per_hit,
    expected_hits,
    expected_saving,
    expected_windows,
    greedy_breadth,
    hit_probability,
    ideal_schedule,
    paper_cost,
    paper_depth_cost,
    paper_depth_saving,
    paper_ratio,
    paper_saving_per_hit,
    simulate,
    top_k,
)


def test_exports() -> None:
    assert sorted(theory.__all__) == theory.__all__
    assert all(getattr(theory, name).__doc__ for name in theory.__all__)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_hits_and_windows_solve_their_recursions(p: float) -> None:
    hits, windows = [0.0, p], [0.0, 1.0]
    for _ in range(10):
        hits.append(p * (1 + hits[-2]) + (1 - p) * hits[-1])
        windows.append(1 + p * windows[-2] + (1 - p) * windows[-1])
    assert [expected_hits(p, n) for n in range(12)] == pytest.approx(hits)
    assert [expected_windows(p, n) for n in range(12)] == pytest.approx(windows)


def test_the_chess_setting_of_the_paper() -> None:
    assert 1 - paper_ratio(0.629, 15.6, 1, 30) == pytest.approx(0.355, abs=0.0006)
    assert 1 - corrected_ratio(0.629, 15.6, 1, 30) == pytest.approx(0.178, abs=0.0006)


@pytest.mark.parametrize(("p", "alpha", "beta"), [(0.0, 1, 1), (0.5, 3, 2), (1.0, 100, 1)])
def test_the_limit_of_long_runs(p: float, alpha: float, beta: float) -> None:
    limit = 1 - p / (1 + p) * alpha / (alpha + beta)
    assert paper_ratio(p, alpha, beta) == pytest.approx(limit)
    assert paper_ratio(p, alpha, beta, 100_000) == pytest.approx(limit, abs=1e-4)
    assert corrected_ratio(p, alpha, beta) == pytest.approx((1 + limit) / 2)
    assert corrected_ratio(p, alpha, beta, 1) == paper_ratio(p, alpha, beta, 1) == 1


@pytest.mark.parametrize(("p", "speed"), [(0.3, 2.0), (0.9, 20.0)])
def test_the_simulator_agrees_with_the_corrected_ratio(p: float, speed: float) -> None:
    simulated = simulate(
        p,
        lambda r: r.expovariate(1.0),
        lambda r: r.expovariate(speed),
        steps=12,
        runs=4_000,
        run_on=False,
        algorithm_1=True,
    )
    assert simulated.error < 0.002
    assert simulated.ratio == pytest.approx(corrected_ratio(p, speed, 1.0, 12), abs=4 * simulated.error)
    assert simulated.ratio > paper_ratio(p, speed, 1.0, 12) + 10 * simulated.error
    assert simulated.saved == 1 - simulated.ratio
    assert simulated.sequential == pytest.approx(12, rel=0.02)


def test_a_window_that_moves_on_after_a_hit_saves_more_than_algorithm_1() -> None:
    options = {"steps": 20, "runs": 300, "run_on": False}
    draws = 0.8, lambda r: r.expovariate(1.0), lambda r: r.expovariate(10.0)
    assert simulate(*draws, **options).ratio < simulate(*draws, **options, algorithm_1=True).ratio - 0.05  # type: ignore[arg-type]


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.integers(1, 60), st.floats(0.05, 0.9))
def test_constant_latencies_and_unlimited_depth(p: float, steps: int, guess: float) -> None:
    """Theorem 6, step by step: every step but the last starts the next a guess later, or a call later."""
    hits = [i % 100 < round(p * 100) for i in range(steps)]
    total = ideal_schedule([1.0] * steps, [guess] * steps, hits, depth=steps).total
    share = sum(hits[:-1]) / max(1, steps - 1)
    assert 1 - total / steps == pytest.approx(paper_depth_saving(share, 1.0, guess, steps))


def test_varying_latencies_save_less_than_constant_ones() -> None:
    simulated = simulate(0.6, lambda r: r.expovariate(1.0), lambda r: 0.1, steps=30, runs=300, depth=30, run_on=False)
    assert simulated.saved < paper_depth_saving(0.6, 1.0, 0.1, 30) - 0.1


@pytest.mark.parametrize(("guess", "depth"), [(0.2, 1), (0.2, 3), (0.2, 5), (0.2, 9), (0.7, 1), (0.7, 4)])
def test_always_right_in_a_window(guess: float, depth: int) -> None:
    steps = 3_000
    total = ideal_schedule([1.0] * steps, [guess] * steps, [True] * steps, depth=depth).total
    assert total / steps == pytest.approx(always_right_ratio(1.0, guess, depth), abs=0.002)


def test_costs_in_the_limit() -> None:
    # Certain and at once: two calls for two steps, nothing more.
    assert paper_cost(1.0, 1e12, 1.0, 1) == pytest.approx(0.0)
    assert corrected_cost(1.0, 1e12, 1.0, 1) == pytest.approx(0.0)
    # Never right: every step pays for k more calls, if its guesses come in time.
    assert paper_cost(0.0, 1.0, 1.0, 3) == 3
    assert corrected_cost(0.0, 1.0, 1.0, 3) == pytest.approx(1.5)
    assert corrected_cost(0.0, 1.0, 1.0, 3, guess_cost=0.1) == pytest.approx(1.6)
    assert paper_cost(0.5, 3.0, 1.0, 2) == pytest.approx(2 - 2.75 / 3)


@settings(deadline=None, max_examples=50)
@given(st.floats(0, 1), st.floats(0.1, 100), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 50)))
def test_the_corrected_cost_is_at_most_theorem_4(p: float, alpha: float, distinct: int, steps: int | None) -> None:
    assert corrected_cost(p, alpha, 1.0, distinct, steps) <= paper_cost(p, alpha, 1.0, distinct, steps) + 1e-9


def test_the_corrected_cost_counts_the_calls_of_algorithm_1() -> None:
    p, alpha, distinct, steps, rng = 0.4, 2.0, 3, 15, random.Random(5)
    calls, plain = 0.0, 0.0
    for _ in range(4_000):
        hit = started_early = False
        for step in range(steps):
            call = rng.expovariate(1.0)
            plain += call
            calls += 0.0 if started_early else call
            hit, in_time, before = rng.random() < p, rng.expovariate(alpha) < call, hit
            hit = hit and not before
            started_early = False
            if not before and in_time and step < steps - 1:
                # The run's own among them, if there is one, is the next step's call.
                calls += sum(rng.expovariate(1.0) for _ in range(distinct))
                started_early = hit
    assert calls / plain - 1 == pytest.approx(corrected_cost(p, alpha, 1.0, distinct, steps), abs=0.05)


def test_the_cost_of_depth() -> None:
    # Right: five guesses of a fifth. Wrong: calls that ran for .8, .6, .4 and .2.
    assert paper_depth_cost(1.0, 1.0, 0.2) == pytest.approx(1.0)
    assert paper_depth_cost(0.0, 1.0, 0.2) == pytest.approx(2.0)
    assert paper_depth_cost(0.0, 1.0, 0.3, 10) == pytest.approx(0.9 * (0.7 + 0.4 + 0.1))
    assert paper_depth_cost(1.0, 0.3, 0.1) == pytest.approx(1.0)


def test_k_guesses() -> None:
    assert [top_k(0.5, k) for k in range(4)] == [0, 0.5, 0.75, 0.875]
    ranks = [0, 2, None, 1, 0]
    assert [hit_probability(ranks, k) for k in range(4)] == [0, 0.4, 0.6, 0.8]
    assert hit_probability([], 3) == 0


def test_expected_saving_is_the_mean_over_all_combinations() -> None:
    calls, guesses, following = [3.0, 0.5, 8.0], [1.0, 0.0], [2.0, 0.25, 4.0, 4.0]
    brute = fmean(min(c, max(0.0, b - a)) for b, a, c in product(calls, guesses, following))
    assert expected_saving(calls, guesses, following) == pytest.approx(brute)
    assert expected_saving([], guesses, following) == expected_saving(calls, guesses, []) == 0


def test_expected_saving_of_exponential_latencies() -> None:
    rng = random.Random(6)
    draw = lambda rate: [rng.expovariate(rate) for _ in range(5_000)]  # noqa: E731
    measured = expected_saving(draw(0.5), draw(4.0), draw(0.5))
    assert measured == pytest.approx(corrected_saving_per_hit(4.0, 0.5), rel=0.05)
    assert measured == pytest.approx(paper_saving_per_hit(4.0, 0.5) / 2, rel=0.05)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), max_size=6), st.floats(0, 3), st.floats(0.001, 2))
def test_the_greedy_rule_is_optimal(confidences: list[float], saving: float, cost: float) -> None:
    """Corollary 5."""

    def objective(m: int) -> float:
        missed = 1.0
        for p in sorted(confidences, reverse=True)[:m]:
            missed *= 1 - p
        return (1 - missed) * saving - cost * m

    best = max(objective(m) for m in range(len(confidences) + 1))
    assert objective(greedy_breadth(confidences, saving, cost)) == pytest.approx(best)


def test_the_greedy_rule_where_guesses_are_free() -> None:
    assert greedy_breadth([0.2, 0.0, 0.5], 1.0, 0.0) == 2  # one that cannot be right is never worth anything
    assert greedy_breadth([1.0, 0.5], 1.0, 0.0) == 1
    assert greedy_breadth([0.6, 0.5], 1.0, 0.2) == 2
    assert greedy_breadth([0.6, 0.5], 1.0, 0.21) == 1
    assert greedy_breadth([0.9], 0.0, 0.0) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paper_ratio(1.2, 1, 1), "p=1.2"),
        (lambda: paper_ratio(0.5, 0, 1), "rates must be positive"),
        (lambda: corrected_ratio(0.5, 1, -1), "rates must be positive"),
        (lambda: corrected_ratio(0.5, 1, 1, 0), "steps=0"),
        (lambda: expected_hits(0.5, -1), "rounds=-1"),
        (lambda: top_k(0.5, -1), "k=-1"),
        (lambda: paper_cost(0.5, 1, -inf, 1), "rates must be positive"),
        (lambda: paper_depth_saving(0.5, 1.0, 1.0), "less than its call"),
        (lambda: paper_depth_cost(0.5, 1.0, 0.0), "less than its call"),
        (lambda: always_right_ratio(1.0, 0.5, 0), "depth=0"),
        (lambda: greedy_breadth([1.1], 1, 1), "between 0 and 1"),
        (lambda: greedy_breadth([0.1], -1, 1), "must not be negative"),
        (lambda: simulate(2, lambda r: 1, lambda r: 1, steps=1), "p=2"),
        (lambda: simulate(0.5, lambda r: 1, lambda r: 1, steps=1, runs=1), "runs=1"),
    ],
)
def test_impossible_numbers_are_refused(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
