"""Budgets and prices: what may still be spent, and by whom."""

from __future__ import annotations

from typing import Any

import pytest

from langgraph_speculative import Budget, Policy, SpeculationError
from langgraph_speculative._spending import HOUR, Spending
from langgraph_speculative.budget import Prices


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def spending(**limits: Any) -> tuple[Spending, Clock]:
    clock = Clock()
    return Spending(Budget(**{"waste": None, **limits}), clock), clock


def test_discarded_tokens_are_a_share_of_the_committed_ones() -> None:
    own, clock = spending(waste=0.2, allowance=100)
    run = own.open()
    assert own.refuses_call(run, 100, 0) == ""
    own.count(run, "discarded", 100, 0)
    assert own.refuses_call(run, 1, 0) == "budget: discarded tokens have reached 20% of the committed ones"
    assert own.refuses_call(run, 0, 0) == "", "what is certain to be taken over wastes nothing"
    assert own.refuses_guess(run, 1, 0) == "", "a guess is no discarded call"
    own.count(run, "committed", 1000, 0)
    assert own.refuses_call(run, 200, 0) == ""
    assert own.refuses_call(run, 201, 0) != ""
    held = own.reserve(run, 150, 0)
    assert own.refuses_call(run, 51, 0) != "", "what is under way counts"
    own.release(run, held)
    own.count(run, "discarded", 250, 0)
    assert own.refuses_call(run, 1, 0) != ""
    clock.now += HOUR
    assert own.refuses_call(run, 100, 0) == "", "an hour later it is forgotten"
    assert own.refuses_call(run, 101, 0) != "", "and so is what was committed"


def test_limits_of_a_run_are_its_own() -> None:
    own, clock = spending(tokens_per_run=100, usd_per_run=1.0)
    one, other = own.open(), own.open()
    own.count(one, "draft", 60, 0.6)
    held = own.reserve(one, 30, 0.1)
    assert (own.refuses_guess(one, 11, 0), own.refuses_guess(one, 10, 0)) == ("budget: tokens of the run", "")
    assert (own.refuses_call(one, 0, 0.31), own.refuses_call(one, 0, 0.3)) == ("budget: USD of the run", "")
    assert own.refuses_call(other, 100, 1.0) == ""
    own.release(one, held)
    assert own.refuses_call(one, 40, 0.39) == ""
    own.count(other, "discarded", 101, 0)
    assert (own.refuses_free(other), own.refuses_call(other, 0, 0)) == ("", "budget: tokens of the run")
    own.count(one, "committed", 1000, 10.0)
    assert own.refuses_call(one, 40, 0.4) == "", "the run's own tokens are not speculation's"
    clock.now += 2 * HOUR
    assert own.refuses_call(one, 41, 0) != "", "a run has no hours"


def test_runs_share_the_hour_fairly() -> None:
    own, clock = spending(tokens_per_hour=120, usd_per_hour=1.2)
    one = own.open()
    assert own.refuses_call(one, 120, 1.2) == "", "alone, it may take all"
    others = [own.open(), own.open()]
    assert (own.refuses_call(one, 40, 0.39), own.refuses_call(one, 41, 0)) == ("", "budget: tokens of the hour")
    assert own.refuses_call(one, 0, 0.41) == "budget: USD of the hour"
    own.count(one, "discarded", 60, 0)
    assert (own.refuses_guess(others[0], 20, 0), own.refuses_guess(others[0], 21, 0)) == (
        "",
        "budget: tokens of the hour",
    )
    for run in others:
        own.close(run)
    assert own.refuses_call(one, 60, 0) == "", "runs that have ended take no share"
    clock.now += HOUR
    assert own.refuses_call(one, 120, 0) == ""


def test_a_run_that_has_ended_has_nothing_under_way() -> None:
    own, _ = spending(tokens_per_hour=100)
    one, other = own.open(), own.open()
    own.reserve(one, 100, 0)
    assert own.refuses_call(other, 1, 0) != ""
    own.close(one)
    assert own.refuses_call(other, 100, 0) == ""


def test_calls_in_flight_are_shared_but_nobody_starves() -> None:
    own, _ = spending(calls=4)
    runs = [own.open(), own.open()]
    for _ in range(2):
        assert own.refuses_call(runs[0], 0, 0) == ""
        own.reserve(runs[0], 0, 0)
    assert own.refuses_call(runs[0], 0, 0) == "budget: calls in flight"
    assert own.refuses_call(runs[1], 0, 0) == ""
    runs += [own.open() for _ in range(8)]
    for run in runs[1:3]:
        assert own.refuses_call(run, 0, 0) == "", "one is everybody's, as long as there is one"
        own.reserve(run, 0, 0)
    assert own.refuses_call(runs[4], 0, 0) == "budget: calls in flight"


@pytest.mark.parametrize("name", ["waste", "allowance", "tokens_per_hour", "usd_per_run", "calls"])
def test_limits_are_numbers(name: str) -> None:
    assert getattr(Budget(**{name: 0}), name) == 0
    for bad in (-1, True, "1", float("nan"), float("inf")):
        with pytest.raises(SpeculationError, match=rf"Budget\({name}=.*\): must be a number of at least 0"):
            Budget(**{name: bad})


def test_what_a_policy_refuses() -> None:
    for price in (-1, "1", (1,), (1, 2, 3), (1, None), None, True):
        with pytest.raises(SpeculationError, match=r"prices=\{'m': .*\}\): a model's price is a pair"):
            Policy(prices={"m": price})  # type: ignore[dict-item]
    with pytest.raises(SpeculationError, match=r"value_per_second=-1.*: must be an amount of USD"):
        Policy(value_per_second=-1)
    with pytest.raises(SpeculationError, match=r"a limit in USD needs prices="):
        Policy(budget=Budget(usd_per_hour=1))
    with pytest.raises(SpeculationError, match=r"pass a Budget\("):
        Policy(budget=0.2)  # type: ignore[arg-type]


def test_prices() -> None:
    own = Prices({"gpt-5": (0.001, 0.01), "gpt-5-mini": (0.1, 0.2), "search": 0.005, "free": 0})
    assert (own.of_call("search"), own.of_call("free"), own.of_call("other"), own.of_call("gpt-5")) == (0.005, 0, 0, 0)
    assert own.of_tokens("gpt-5", (1000, 500)) == pytest.approx(0.006)
    assert own.of_tokens("gpt-5-2025-08-07", (1000, 0)) == pytest.approx(0.001)
    assert own.of_tokens("gpt-5-mini-20250807", (1000, 0)) == pytest.approx(0.1)
    assert own.of_tokens("gpt-5-nano", (1000, 0)) is None, "another model's price is no price"
    assert own.of_tokens("search", (1000, 0)) is None
