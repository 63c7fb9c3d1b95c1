"""Reports, events and effects by themselves: they add up, print and stay as they are. No graph runs here."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.types import Command, Send

from langgraph_speculative import Effect, Event, Guess, Policy, Report, SpeculationError
from langgraph_speculative.effects import EffectRow, EffectTable, parse_declaration, skeleton_of
from langgraph_speculative.report import Stop, Usage, usage_of

COUNTERS = [
    "runs",
    "steps",
    "windows",
    "window_hits",
    "speculator_calls",
    "speculator_errors",
    "guesses",
    "forks",
    "launched",
    "claimed",
    "discarded",
    "early_irreversible_calls",
    "rolled_back",
    "rollback_failures",
    "waits",
    "waits_claimed",
]
TIMES = ["wall", "time_saved"]


def numbered(start: int = 1) -> Report:
    """A report in which each number is another."""
    return Report(**{name: start + i for i, name in enumerate(COUNTERS)}, wall=start + 100.5, time_saved=start + 200.5)


# --- reports --------------------------------------------------------------------------------------------------------


def test_an_empty_report() -> None:
    empty = Report()
    assert empty.to_dict() == {
        **dict.fromkeys(COUNTERS, 0),
        "window_hit_rate": 0.0,
        "step_hit_rate": 0.0,
        "rollback_wait": 0.0,
        "wall": 0.0,
        "time_saved": 0.0,
        "stopped": {},
        "usage": {},
        "errors": [],
        "nodes": {},
        "holdout": None,
    }
    assert "lock" not in repr(empty)
    assert empty == Report()
    assert empty != Report(claimed=1)


def test_rates_are_shares() -> None:
    report = Report(windows=4, window_hits=3, steps=10, claimed=5)
    assert (report.window_hit_rate, report.step_hit_rate) == (0.75, 0.5)
    out = report.to_dict()
    assert (out["window_hit_rate"], out["step_hit_rate"]) == (0.75, 0.5)


def test_every_number_is_added() -> None:
    total = numbered(1)
    total.add(numbered(1000))
    out = total.to_dict()
    assert [out[name] for name in COUNTERS] == [1001 + 2 * i for i in range(len(COUNTERS))]
    assert [out[name] for name in TIMES] == [1202.0, 1402.0]


def test_stops_and_usage_are_added_by_name() -> None:
    total = Report(stopped={"a": Stop(1, 0.5)}, usage={"m": Usage(1, 2, 3)})
    one = Report(stopped={"a": Stop(2, 0.25), "b": Stop(1, 1.0)}, usage={"m": Usage(10, 20, 30), "n": Usage(draft=7)})
    one.errors.append("x")
    total.add(one)
    total.add(one)
    out = total.to_dict()
    assert out["stopped"] == {
        "a": {"count": 5, "would_have_saved": 1.0},
        "b": {"count": 2, "would_have_saved": 2.0},
    }
    assert out["usage"] == {
        "m": {"committed": 21, "discarded": 42, "draft": 63},
        "n": {"committed": 0, "discarded": 0, "draft": 14},
    }
    assert out["errors"] == ["x", "x"]
    assert json.loads(json.dumps(out)) == out
    # What was added stays its own.
    assert one.stopped == {"a": Stop(2, 0.25), "b": Stop(1, 1.0)}
    assert one.usage == {"m": Usage(10, 20, 30), "n": Usage(0, 0, 7)}


def test_made_up_names_do_not_fill_a_report() -> None:
    total = Report()
    total.add(Report(stopped={"last": Stop(1)}, usage={"last": Usage(1)}))
    for i in range(120):
        total.add(Report(stopped={f"{i}": Stop(1)}, usage={f"{i}": Usage(1)}))
    assert (len(total.stopped), len(total.usage)) == (100, 100)
    assert ("98" in total.stopped, "99" in total.stopped) == (True, False)
    total.add(Report(stopped={"last": Stop(1)}, usage={"last": Usage(1)}))  # those that are there still count
    assert (total.stopped["last"].count, total.usage["last"].committed) == (2, 2)


def test_the_latest_errors_are_kept() -> None:
    report = Report()
    report.errors.extend(map(str, range(60)))
    assert list(report.errors) == [str(n) for n in range(10, 60)]


def said(tokens: int, model: str | None = "m") -> AIMessage:
    usage: Any = {"input_tokens": tokens, "output_tokens": 0, "total_tokens": tokens}
    return AIMessage("x", usage_metadata=usage, response_metadata={"model_name": model} if model else {})


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, []),
        ("text", []),
        ({"n": 1}, []),
        (HumanMessage("x"), []),
        (AIMessage("x"), []),
        (said(3), [("m", 3)]),
        (said(3, None), [("unknown", 3)]),
        ({"messages": [said(1), HumanMessage("x"), said(2, "n")]}, [("m", 1), ("n", 2)]),
        ((said(1), [said(2)]), [("m", 1), ("m", 2)]),
        (Command(update={"messages": [said(4)]}, goto="a"), [("m", 4)]),
        (Command(goto=Send("a", said(5))), []),  # it is to be, and not yet
        (SimpleNamespace(usage_metadata={"total_tokens": 6}, response_metadata=None), [("unknown", 6)]),
        (SimpleNamespace(usage_metadata={"input_tokens": 6}), [("unknown", 0)]),
        (SimpleNamespace(update=[said(7)]), []),  # no Command
    ],
)
def test_tokens_in_an_output(value: Any, found: list[tuple[str, int]]) -> None:
    assert list(usage_of(value)) == found


def test_an_event_of_the_whole_run() -> None:
    event = Event("run", 1, 2.0)
    assert (event.node, event.tool, event.step, event.detail, event.seconds) == ("", "", -1, "", 0.0)
    assert not hasattr(event, "__dict__")


@pytest.mark.parametrize(
    "record",
    [
        Event("run", 1, 2.0),
        Policy(),
        Guess(1),
        EffectRow("a", "node", Effect.PURE, "none", ""),
        EffectTable(()),
    ],
)
def test_records_stay_what_they_are(record: Any) -> None:
    name = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, name, getattr(record, name))
    assert record == dataclasses.replace(record)
    assert hash(record) == hash(dataclasses.replace(record))


def test_limits_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        Policy(2)  # type: ignore[misc]
    assert Policy(breadth=2).breadth == 2


# --- effects --------------------------------------------------------------------------------------------------------

ROWS = (
    EffectRow("plan", "node", Effect.UNDECLARED, "none", "nobody said"),
    EffectRow("a|longer name", "tool", Effect.PURE, "effects=", ""),
    EffectRow("plan", "router", Effect.UNDECLARED, "inherited", "from plan"),
)


def test_what_is_irreversible_or_undeclared_may_not_run_early() -> None:
    assert {e for e in Effect if not e.may_run_early} == {Effect.IRREVERSIBLE, Effect.UNDECLARED}


def test_a_table_is_aligned() -> None:
    assert str(EffectTable(ROWS)).split("\n") == [
        "name           kind    effect      source     reason",
        "-------------  ------  ----------  ---------  -----------",
        "plan           node    undeclared  none       nobody said",
        "a|longer name  tool    pure        effects=",
        "plan           router  undeclared  inherited  from plan",
    ]
    assert str(EffectTable(())).split("\n") == [
        "name  kind  effect  source  reason",
        "----  ----  ------  ------  ------",
    ]


def test_a_skeleton_names_each_once() -> None:
    table = EffectTable(ROWS)
    assert table.undeclared() == [ROWS[0], ROWS[2]]
    assert table.skeleton().split("\n") == [
        "effects={",
        '    "plan": "irreversible",  # or "pure" / "read", if that is true',
        "}",
    ]
    assert EffectTable(ROWS[1:2]).skeleton() == "effects={}"
    assert skeleton_of(["a", "b"]).count("\n") == 3


def test_effects_by_their_names() -> None:
    assert [parse_declaration(name, "here").effect for name in ("pure", Effect.READ, "undeclared")] == [
        Effect.PURE,
        Effect.READ,
        Effect.UNDECLARED,
    ]
    with pytest.raises(
        SpeculationError, match=r"^here is 'safe'; an effect is one of 'pure', 'read', 'irreversible', or "
    ):
        parse_declaration("safe", "here")
