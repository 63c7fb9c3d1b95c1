"""Policies, reports and guesses as values: no graph runs here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.types import Command

from langgraph_speculative import Effect, Guess, Policy, Report, SpeculationError
from langgraph_speculative._limits import RateLimits
from langgraph_speculative._node_stats import NodeStats
from langgraph_speculative.effects import EffectRow, EffectTable, parse_declaration, skeleton_of
from langgraph_speculative.report import Event, Stop, Usage, usage_of
from langgraph_speculative.speculators._protocol import (
    check_speculator,
    guesses_of,
    is_async,
    is_stream,
    known_names,
)

# --- policies -------------------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    own = Policy()
    assert (own.breadth, own.depth, own.max_in_flight, own.max_speculators) == (1, 1, 64, 64)
    assert (own.mode, own.hooks) == ("on", ())


@pytest.mark.parametrize("name", ["breadth", "depth", "max_in_flight", "max_speculators", "rollback_attempts"])
def test_numbers_of_a_policy(name: str) -> None:
    assert getattr(Policy(**{name: 1}), name) == 1
    for bad in (0, -1, True, 1.0, "1", None):
        with pytest.raises(SpeculationError, match=rf"Policy\({name}={bad!r}\): {name} must be an integer"):
            Policy(**{name: bad})


@pytest.mark.parametrize("name", ["rollback_backoff", "rollback_timeout"])
def test_seconds_of_a_policy(name: str) -> None:
    assert getattr(Policy(**{name: 0.5}), name) == 0.5
    for bad in (0, -1.0, True, "1", None, float("nan")):
        with pytest.raises(SpeculationError, match=rf"Policy\({name}={bad!r}\): seconds must be positive"):
            Policy(**{name: bad})


def test_rate_limits_of_a_policy() -> None:
    assert Policy(rate_limits={"search": 0, "*": 2.5}).rate_limits == {"search": 0, "*": 2.5}
    for bad in (-1, True, "1", None, float("nan")):
        with pytest.raises(SpeculationError, match=r"rate_limits=\{'search': .*\}\): calls per second"):
            Policy(rate_limits={"search": bad})


@pytest.mark.parametrize("name", ["guard", "redact", "on_rollback_failure"])
def test_functions_of_a_policy(name: str) -> None:
    assert getattr(Policy(**{name: print}), name) is print
    with pytest.raises(SpeculationError, match=rf"Policy\({name}=3\): it is not callable"):
        Policy(**{name: 3})


def test_policies_are_hashed_and_compared_by_what_they_say() -> None:
    assert Policy(rate_limits={"a": 1}) == Policy(rate_limits={"a": 1}) != Policy(rate_limits={"a": 2})
    assert len({Policy(rate_limits={"a": 1}), Policy(rate_limits={"a": 1})}) == 1


# --- rates ----------------------------------------------------------------------------------------------------------


def test_a_limit_admits_a_seconds_calls_and_then_as_time_goes_on() -> None:
    now = 100.0
    limits = RateLimits({"search": 2.0, "slow": 0.5, "never": 0}, clock=lambda: now)
    assert [limits.admits("search") for _ in range(3)] == [True, True, False]
    assert [limits.admits("slow") for _ in range(2)] == [True, False]
    assert not limits.admits("never")
    assert all(limits.admits("free") for _ in range(100))
    now += 0.5
    assert [limits.admits("search") for _ in range(2)] == [True, False]
    now += 1.5
    assert limits.admits("slow")
    now += 1000
    assert [limits.admits("search") for _ in range(3)] == [True, True, False], "what is not used is not saved up"


def test_a_limit_for_all_is_each_ones_own() -> None:
    limits = RateLimits({"*": 1.0, "search": 2.0}, clock=lambda: 0.0)
    assert [limits.admits("a"), limits.admits("a"), limits.admits("b")] == [True, False, True]
    assert [limits.admits("search") for _ in range(3)] == [True, True, False]


def test_modes_and_hooks_of_a_policy() -> None:
    assert Policy(mode="observe", hooks=(print,)).hooks == (print,)
    with pytest.raises(SpeculationError, match="must be one of on, observe, off"):
        Policy(mode="maybe")  # type: ignore[arg-type]
    with pytest.raises(SpeculationError, match="3 is not callable"):
        Policy(hooks=(print, 3))  # type: ignore[arg-type]


# --- reports --------------------------------------------------------------------------------------------------------

COUNTERS = {
    "runs": 1,
    "steps": 8,
    "windows": 4,
    "window_hits": 3,
    "speculator_calls": 5,
    "speculator_errors": 6,
    "guesses": 7,
    "forks": 9,
    "launched": 10,
    "claimed": 2,
    "discarded": 11,
    "early_irreversible_calls": 12,
    "rolled_back": 13,
    "rollback_failures": 14,
    "waits": 15,
    "waits_claimed": 16,
}


NODE = {
    "effect": "read",
    "executions": 2,
    "seconds_mean": 2.0,
    "seconds_p50": 2.0,
    "seconds_p90": 2.0,
    "windows": 2,
    "hits": 1,
    "guesses": 3,
    "guess_seconds_mean": None,
    "guess_hit_rate": 0.5,
    "probability": 0.0,
    "launched": 0,
    "claimed": 0,
    "discarded": 0,
    "tokens_per_call": 5.0,
    "usd": {"draft": 0.5},
    "closed": {"why": 1},
}


def report() -> Report:
    made = Report(**COUNTERS, wall=1.5, time_saved=0.5, rollback_wait=0.125)
    made.stopped["why"] = Stop(2, 0.25)
    made.usage["model"] = Usage(1, 2, 3)
    made.nodes["a"] = NodeStats("read", executions=2, tokens=10, windows=2, hits=1, guesses=3, judged=2, right=1)
    made.nodes["a"].usd["draft"], made.nodes["a"].closed["why"] = 0.5, 1
    made.nodes["a"].seconds.add(2.0)
    made.errors.append("e")
    return made


def test_a_new_report_is_empty() -> None:
    new = Report()
    assert all(getattr(new, name) == 0 for name in COUNTERS)
    assert (new.wall, new.time_saved, new.rollback_wait) == (0.0, 0.0, 0.0)
    assert (new.stopped, new.usage, list(new.errors)) == ({}, {}, [])
    assert (new.window_hit_rate, new.step_hit_rate) == (0.0, 0.0)
    assert new.errors.maxlen == 50
    assert Stop() == Stop(0, 0.0)
    assert Usage() == Usage(0, 0, 0)
    event = Event("run", 1, 2.0)
    assert (event.node, event.tool, event.step, event.detail, event.seconds) == ("", "", -1, "", 0.0)


def test_every_number_adds_up() -> None:
    total = report()
    total.add(report())
    assert {name: getattr(total, name) for name in COUNTERS} == {name: 2 * n for name, n in COUNTERS.items()}
    assert (total.wall, total.time_saved, total.rollback_wait) == (3.0, 1.0, 0.25)
    assert total.stopped == {"why": Stop(4, 0.5)}
    assert total.usage == {"model": Usage(2, 4, 6)}
    assert list(total.errors) == ["e", "e"]
    node = total.nodes["a"]
    assert (node.executions, node.tokens, node.windows, node.hits, node.guesses) == (4, 20, 4, 2, 6)
    assert (node.seconds.count, node.seconds.total, node.usd, node.closed) == (2, 4.0, {"draft": 1.0}, {"why": 2})


def test_rates() -> None:
    assert report().window_hit_rate == 0.75
    assert report().step_hit_rate == 0.25


def test_a_report_as_json() -> None:
    assert report().to_dict() == {
        **COUNTERS,
        "window_hit_rate": 0.75,
        "step_hit_rate": 0.25,
        "rollback_wait": 0.125,
        "wall": 1.5,
        "time_saved": 0.5,
        "stopped": {"why": {"count": 2, "would_have_saved": 0.25}},
        "usage": {"model": {"committed": 1, "discarded": 2, "draft": 3}},
        "nodes": {"a": NODE},
        "holdout": None,
        "errors": ["e"],
    }


def test_made_up_names_do_not_fill_a_report() -> None:
    total = Report()
    for i in range(101):
        one = Report()
        one.stopped[f"reason {i}"], one.usage[f"model {i}"] = Stop(1), Usage(1)
        total.add(one)
    assert (len(total.stopped), len(total.usage)) == (100, 100)
    one.stopped, one.usage = {"reason 0": Stop(1)}, {"model 0": Usage(1)}
    total.add(one)
    assert (total.stopped["reason 0"].count, total.usage["model 0"].committed) == (2, 2)


def test_usage_of_the_messages_in_an_output() -> None:
    def says(tokens: int, **metadata: Any) -> AIMessage:
        usage: Any = {"input_tokens": 0, "output_tokens": tokens, "total_tokens": tokens}
        return AIMessage("", usage_metadata=usage, response_metadata=metadata)

    one, other = says(3, model_name="m"), says(4)
    assert list(usage_of(one)) == [("m", 3)]
    assert list(usage_of({"k": [one, (other,)], "n": 1})) == [("m", 3), ("unknown", 4)]
    assert list(usage_of(Command(update={"k": [one]}, goto="x"))) == [("m", 3)]
    assert list(usage_of(Command(goto="x"))) == []
    assert list(usage_of(AIMessage("x"))) == list(usage_of("x")) == list(usage_of(None)) == []
    assert list(usage_of(SimpleNamespace(usage_metadata={"total_tokens": 5}))) == [("unknown", 5)]
    assert list(usage_of(SimpleNamespace(usage_metadata={"input_tokens": 5}))) == [("unknown", 0)]
    assert list(usage_of(SimpleNamespace(update="x", usage_metadata={"total_tokens": 5}))) == [("unknown", 5)]


# --- guesses --------------------------------------------------------------------------------------------------------


def test_a_confidence_is_a_probability() -> None:
    assert Guess(1).confidence == 1.0
    assert [Guess(1, c).confidence for c in (0, 0.5, 1)] == [0, 0.5, 1]
    for bad in (-0.01, 1.01):
        with pytest.raises(SpeculationError, match="must be between 0 and 1"):
            Guess(1, bad)


def test_guesses_in_what_a_speculator_returned() -> None:
    low, high = Guess("low", 0.1), Guess("high", 0.9)
    assert guesses_of(None) == []
    assert guesses_of(low) == [low]
    assert guesses_of([low, high]) == guesses_of((low, high)) == [high, low]
    for output in ([], (), [low, "x"], {"x": 1}, 0, ""):
        assert guesses_of(output) == [Guess(output)]


def test_kinds_of_speculators() -> None:
    def plain(s: Any) -> Any: ...

    async def coroutine(s: Any) -> Any: ...

    def generator(s: Any) -> Any:
        yield

    async def asynchronous(s: Any) -> Any:
        yield

    class Callable:
        async def __call__(self, s: Any) -> Any: ...

    class Generator:
        async def __call__(self, s: Any) -> Any:
            yield

    kinds = (plain, coroutine, generator, asynchronous, Callable(), Generator())
    assert [is_async(k) for k in kinds] == [False, True, False, True, True, True]
    assert is_stream(generator(None))
    assert is_stream(asynchronous(None))
    assert not is_stream([1])
    assert not is_stream(iter([1]))


def test_speculators_take_one_argument() -> None:
    check_speculator("n", lambda s: s)
    check_speculator("n", lambda s, more=1: s)
    check_speculator("n", dict)  # has no signature to look at
    with pytest.raises(SpeculationError, match=r"speculators\['n'\] is 'int', not a callable"):
        check_speculator("n", 3)
    for bad in (lambda: None, lambda a, b: None, lambda *, k: None):
        with pytest.raises(SpeculationError, match=r"speculators\['n'\] has the signature .* one argument"):
            check_speculator("n", bad)


def test_names_in_messages() -> None:
    assert known_names(["b", "a"]) == "'a', 'b'"
    assert known_names([]) == "none"


# --- effects --------------------------------------------------------------------------------------------------------


def test_what_may_run_early() -> None:
    assert {e for e in Effect if not e.may_run_early} == {Effect.IRREVERSIBLE, Effect.UNDECLARED}
    assert {e for e in Effect if not e.acts} == {Effect.PURE, Effect.READ}
    assert list(Effect) == sorted(Effect, key=lambda e: (not e.may_run_early, e.acts)), "the worst comes last"


def test_effects_by_name() -> None:
    assert parse_declaration("read", "x").effect is Effect.READ
    assert parse_declaration(Effect.PURE, "x").effect is Effect.PURE
    with pytest.raises(SpeculationError, match=r"^x is 'no'; an effect is one of 'pure', 'read', 'irreversible', or "):
        parse_declaration("no", "x")


def test_a_table_is_printed_in_columns() -> None:
    table = EffectTable(
        (
            EffectRow("a", "node", Effect.PURE, "effects=", "declared"),
            EffectRow("longer", "router", Effect.UNDECLARED, "none", ""),
        )
    )
    assert str(table).splitlines() == [
        "name    kind    effect      source    reason",
        "------  ------  ----------  --------  --------",
        "a       node    pure        effects=  declared",
        "longer  router  undeclared  none",
    ]
    assert table.undeclared() == [table.rows[1]]
    assert table.skeleton() == skeleton_of(["longer"])
    line = '    "longer": "irreversible",  # or "pure" / "read", if that is true'
    assert table.skeleton() == "effects={\n" + line + "\n}"
    assert skeleton_of([]) == "effects={}"
