"""What a guess is worth: the pure decisions."""

from __future__ import annotations

import random
from itertools import product
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langgraph_speculative._admission_value import (
    DEFAULT_SAVING,
    GRID,
    expected_saving,
    greedy_breadth,
    worth,
)

shares = st.floats(0, 1)
amounts = st.floats(0, 1e3)
latencies = st.lists(st.floats(0, 100), min_size=1, max_size=40)


def test_worth_weighs_the_time_against_a_call_that_nobody_takes_over() -> None:
    # Half of the time 2 s at 0.01 are saved, half of the time the call is lost.
    assert worth(0.5, 2.0, 0.01, 0.019)
    assert not worth(0.5, 2.0, 0.01, 0.021)
    assert worth(1.0, 0.1, 0.01, 100.0), "what is taken over for certain costs nothing extra"
    assert not worth(0.0, 100.0, 1.0, 1e-9)
    assert worth(0.0, 0.0, 0.0, 0.0), "what costs nothing needs no reason"
    assert not worth(0.9, 5.0, 0.0, 1e-9), "time that is worth nothing is worth no cent"


@given(shares, amounts, amounts, amounts, shares, st.floats(1, 3))
def test_worth_is_monotone(p: float, saving: float, value: float, cost: float, more: float, factor: float) -> None:
    if worth(p, saving, value, cost):
        assert worth(p + (1 - p) * more, saving, value, cost)
        assert worth(p, saving * factor, value, cost)
        assert worth(p, saving, value * factor, cost)
        assert worth(p, saving, value, cost / factor)


def test_breadth_stops_where_the_next_branch_costs_more_than_it_brings() -> None:
    ps = [0.5, 0.5, 0.5, 0.5]
    # The next ones bring .5, .25, .125, .0625 of a hit.
    assert [greedy_breadth(ps, 1.0, cost, 10) for cost in (0.51, 0.5, 0.25, 0.2, 0.0625, 0.0)] == [0, 1, 2, 2, 4, 4]
    assert greedy_breadth(ps, 1.0, 0.0, 3) == 3
    assert greedy_breadth([1.0, 0.9], 1.0, 1e-12, 10) == 1, "behind a certain guess there is nothing to gain"
    assert greedy_breadth([], 1.0, 0.0, 3) == 0


@given(st.lists(shares, max_size=6), amounts, st.floats(1e-3, 1e3), st.integers(1, 6))
def test_breadth_is_the_best_one(ps: list[float], hit: float, cost: float, cap: int) -> None:
    """With independent guesses, the likeliest first, no other number of branches has a higher expected value."""
    ps.sort(reverse=True)

    def value(count: int) -> float:
        none_right = 1.0
        for p in ps[:count]:
            none_right *= 1 - p
        return hit * (1 - none_right) - cost * count

    best = max(value(count) for count in range(min(cap, len(ps)) + 1))
    assert value(greedy_breadth(ps, hit, cost, cap)) == pytest.approx(best, abs=1e-6 * max(1.0, hit, cost))


def test_a_hit_saves_the_head_start_but_no_more_than_the_call_takes() -> None:
    assert expected_saving([5.0], [1.0], [2.0]) == 2.0
    assert expected_saving([5.0], [1.0], [7.0]) == 4.0
    assert expected_saving([1.0], [3.0], [7.0]) == 0.0, "a guess that comes too late saves nothing"
    assert expected_saving([5.0, 1.0], [1.0], [2.0]) == 1.0


@pytest.mark.parametrize("unknown", [0, 1, 2])
def test_unknown_latencies_are_taken_to_save_little(unknown: int) -> None:
    known = [[9.0], [0.0], [9.0]]
    known[unknown] = []
    assert expected_saving(*known) == DEFAULT_SAVING


@given(latencies, latencies, latencies)
def test_the_expectation_is_over_all_combinations(b: list[float], a: list[float], c: list[float]) -> None:
    b, a, c = b[:GRID], a[:GRID], c[:GRID]
    each = [min(z, max(0.0, x - y)) for x, y, z in product(b, a, c)]
    assert expected_saving(b, a, c) == pytest.approx(fmean(each), abs=1e-6)


def test_exponential_latencies_save_half_of_what_the_paper_says() -> None:
    """Of Exp(1) calls and Exp(4) guesses: a / (2 b (a + b)) = .4, where the proof has .8."""
    drawn = random.Random(7)
    b, c = ([drawn.expovariate(1.0) for _ in range(4000)] for _ in range(2))
    a = [drawn.expovariate(4.0) for _ in range(4000)]
    assert expected_saving(b, a, c) == pytest.approx(0.4, rel=0.1)
