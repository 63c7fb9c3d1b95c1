"""Who may take which pre-execution: the ledger on its own."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage

from langgraph_speculative._ledger import Execution, Ledger, State
from langgraph_speculative._nodes import LeafInfo
from langgraph_speculative._values import fingerprint, freeze
from langgraph_speculative.effects import Effect
from langgraph_speculative.effects import read as declare_read


def leaf(step_bound: bool = True) -> LeafInfo:
    return LeafInfo("n", Effect.PURE, "", "", step_bound=step_bound)


def launched(
    ledger: Ledger,
    info: LeafInfo,
    value: Any = 1,
    *,
    step: int = 1,
    state: State = State.RUNNING,
    effect: Effect = Effect.PURE,
    spoiled: str = "",
    call_id: str | None = None,
    known: Any = (),
) -> Execution:
    ex = Execution(info, step, None, state, effect)
    ex.key, ex.glance, ex.input, ex.known = freeze(value), fingerprint(value), value, known
    ex.spoiled, ex.call_id = spoiled, call_id
    ledger.add(ex)
    return ex


def claimed(ledger: Ledger, info: LeafInfo, value: Any = 1, step: int = 1) -> Execution | None:
    found = ledger.claim(info, step, value)
    return found and found[0]


# --- executions -----------------------------------------------------------------------------------------------------


def test_an_execution_belongs_to_its_frames_step_unless_told() -> None:
    assert Execution(leaf(), 4, None, State.OPEN, Effect.PURE).own_step == 4
    assert Execution(leaf(), 4, None, State.OPEN, Effect.PURE, 0).own_step == 0
    new = Execution(leaf(), 4, None, State.OPEN, Effect.PURE)
    assert repr(new) == "<Execution n step=4 OPEN>"
    assert (new.has_output, new.halted, new.in_thread, new.asked) == (False, False, False, False)
    assert (new.started, new.ended, new.journal, new.known) == (0.0, 0.0, None, ())


def test_an_execution_is_busy_while_code_may_run_for_it() -> None:
    ex = Execution(leaf(), 1, None, State.RUNNING, Effect.PURE)
    under_way, done = SimpleNamespace(done=lambda: False), SimpleNamespace(done=lambda: True)
    assert not ex.is_busy
    for task, control, thread, busy in [
        (under_way, None, False, True),
        (None, under_way, False, True),
        (done, done, False, False),
        (done, under_way, False, True),
        (None, None, True, True),
    ]:
        ex.task, ex.control, ex.in_thread = task, control, thread  # type: ignore[assignment]
        assert ex.is_busy is busy


def test_a_claim_binds_only_before_the_end() -> None:
    lock = threading.Lock()
    bound_first = Execution(leaf(), 1, None, State.RUNNING, Effect.PURE)
    assert bound_first.bind(lock) is True
    assert bound_first.decide(lock) is True
    decided_first = Execution(leaf(), 1, None, State.RUNNING, Effect.PURE)
    assert decided_first.decide(lock) is False
    assert decided_first.bind(lock) is False
    assert decided_first.decide(lock) is False


def test_who_waits_is_called_once_at_the_end_or_at_once_after_it() -> None:
    ex, lock, calls = Execution(leaf(), 1, None, State.RUNNING, Effect.PURE), threading.Lock(), []
    ex.when_over(lock, lambda: calls.append("first"))
    ex.when_over(lock, lambda: calls.append("second"))
    assert calls == []
    ex.over(lock)
    ex.over(lock)
    assert calls == ["first", "second"]
    ex.when_over(lock, lambda: calls.append("late"))
    assert calls == ["first", "second", "late"]


# --- claims ---------------------------------------------------------------------------------------------------------


def test_a_claim_takes_the_entry_away() -> None:
    ledger, info, other = Ledger(), leaf(), leaf()
    assert not ledger
    first, second, elsewhere = launched(ledger, info), launched(ledger, info), launched(ledger, other)
    assert ledger
    assert (ledger.has(info), ledger.has(other), ledger.has(leaf())) == (True, True, False)
    assert ledger.all() == [first, second, elsewhere]
    assert claimed(ledger, info) is first
    assert ledger.has(info)
    assert claimed(ledger, info) is second
    assert not ledger.has(info)
    assert claimed(ledger, info) is None
    assert ledger.all() == [elsewhere]


def test_a_claim_asks_for_the_same_input() -> None:
    ledger, info = Ledger(), leaf()
    launched(ledger, info, {"x": 1.0})
    right = launched(ledger, info, {"x": 1})
    assert claimed(ledger, info, {"x": True}) is None
    assert claimed(ledger, info, {"x": 2}) is None
    assert claimed(ledger, info, {"x": 1}) is right


def test_what_differs_beyond_the_fingerprint_is_not_claimed() -> None:
    ledger, info = Ledger(), leaf()
    other, right = launched(ledger, info, {"x": [1, 2]}), launched(ledger, info, {"x": [3, 2]})
    assert other.glance == right.glance
    assert claimed(ledger, info, {"x": [3, 2]}) is right
    assert claimed(ledger, info, {"x": [5, 2]}) is None


def test_what_has_another_fingerprint_is_not_compared() -> None:
    ledger, info = Ledger(), leaf()
    odd = launched(ledger, info, 1)
    odd.glance = fingerprint(2)
    assert claimed(ledger, info, 1) is None


@pytest.mark.parametrize("bound", [True, False])
def test_only_what_is_bound_to_its_step_serves_that_step_alone(bound: bool) -> None:
    ledger, info = Ledger(), leaf(step_bound=bound)
    ex = launched(ledger, info, step=2)
    assert ledger.share(info, 3, ex.key, ()) is (None if bound else ex)
    assert claimed(ledger, info, step=3) is (None if bound else ex)
    launched(ledger, info, step=2)
    assert claimed(ledger, info, step=2) is not None


@pytest.mark.parametrize(
    ("state", "spoiled", "claimable", "shareable"),
    [
        (State.RUNNING, "", True, True),
        (State.FINISHED, "", True, True),
        (State.OPEN, "", True, True),
        (State.BLOCKED, "", True, True),
        (State.BLOCKED, "why", True, True),  # for the guesses at it
        (State.RUNNING, "why", False, True),
        (State.FAILED, "", False, False),
        (State.DISCARDED, "", False, False),
    ],
)
def test_which_states_may_be_taken(state: State, spoiled: str, claimable: bool, shareable: bool) -> None:
    ledger, info = Ledger(), leaf()
    ex = launched(ledger, info, state=state, spoiled=spoiled)
    fine = launched(ledger, info)
    assert ledger.share(info, 1, ex.key, ()) is (ex if shareable else fine)
    assert claimed(ledger, info) is (ex if claimable else fine)


def test_a_branch_shares_what_it_does_not_use_yet() -> None:
    ledger, info = Ledger(), leaf()
    first, second = launched(ledger, info), launched(ledger, info)
    assert ledger.share(info, 1, first.key, ()) is first
    assert ledger.share(info, 1, first.key, {first}) is second
    assert ledger.share(info, 1, first.key, {first, second}) is None
    assert ledger.share(info, 1, freeze(2), ()) is None
    assert ledger.share(leaf(), 1, first.key, ()) is None
    assert ledger.all() == [first, second]


def test_an_input_that_cannot_be_frozen_claims_nothing() -> None:
    circle: list[Any] = []
    circle.append({"in": [circle]})
    for value in (threading.Lock(), circle):
        ledger, info = Ledger(), leaf()
        ex = launched(ledger, info)
        ex.glance = fingerprint(value)  # so that it is compared
        assert claimed(ledger, info, value) is None
        assert ledger.all() == [ex]


def test_new_ids_are_renamed_and_older_ones_are_not() -> None:
    ledger, info = Ledger(), leaf()
    launched(ledger, info, [AIMessage("x", id="old")], known={"old"})
    new = launched(ledger, info, [AIMessage("x", id="new")], known={"old"})
    found = ledger.claim(info, 1, [AIMessage("x", id="runs")])
    assert found is not None
    assert found[0] is new
    assert found[1].ids == {"new": "runs"}
    assert found[1].records == {}


def test_the_claimants_records_come_along() -> None:
    ledger, info = Ledger(), leaf()
    launched(ledger, info, [AIMessage("x", id="new", response_metadata={"model": "draft"})])
    found = ledger.claim(info, 1, [AIMessage("x", id="runs", response_metadata={"model": "real"})])
    assert found is not None
    assert found[1].records["runs"]["response_metadata"] == {"model": "real"}


@pytest.mark.parametrize(
    ("early", "own", "ids"),
    [("e", "r", {"e": "r"}), ("e", "e", {}), (None, "r", {}), ("e", None, {})],
)
def test_a_tool_calls_own_id_is_renamed(early: str | None, own: str | None, ids: dict[str, str]) -> None:
    ledger, info = Ledger(), leaf()
    launched(ledger, info, call_id=early)
    found = ledger.claim(info, 1, 1, own)
    assert found is not None
    assert found[1].ids == ids


# --- fences ---------------------------------------------------------------------------------------------------------


def test_an_effect_discards_the_unclaimed_reads() -> None:
    ledger, info = Ledger(), leaf()
    reads = [launched(ledger, info, effect=Effect.READ, state=s) for s in (State.RUNNING, State.FINISHED)]
    kept = [
        launched(ledger, info, effect=Effect.PURE),
        launched(ledger, info, effect=Effect.READ, state=State.BLOCKED),
        launched(ledger, info, effect=Effect.READ, state=State.OPEN),
    ]
    assert ledger.begins(None, True) == (reads, [])
    assert ledger.all() == kept
    late = launched(ledger, info, effect=Effect.READ)
    assert ledger.ends(None, True) == [late]
    assert ledger.all() == kept


def scoped(ledger: Ledger, effect: Effect, *scopes: str, state: State = State.FINISHED) -> Execution:
    ex = launched(ledger, leaf(), effect=effect, state=state)
    ex.scopes = frozenset(scopes) or None
    return ex


def test_a_real_read_discards_nothing() -> None:
    ledger = Ledger()
    read = scoped(ledger, Effect.READ)
    assert ledger.begins(None, False) == ([], [])
    assert ledger.ends(None, False) == []
    assert ledger.all() == [read]


def test_an_effect_leaves_the_reads_of_other_scopes() -> None:
    ledger = Ledger()
    one, both, other, unknown = (scoped(ledger, Effect.READ, *s) for s in (["a"], ["a", "b"], ["c"], []))
    assert ledger.begins(frozenset("a"), True)[0] == [one, both, unknown]
    assert ledger.ends(frozenset("a"), True) == []
    assert ledger.all() == [other]


def test_no_read_starts_beside_an_effect_of_the_run() -> None:
    ledger = Ledger()
    ledger.begins(frozenset("a"), True)
    ledger.begins(frozenset("b"), False)
    ledger.begins(frozenset("a"), True)
    ledger.ends(frozenset("a"), True)
    for scopes, may in (("a", False), ("b", True), ("c", True), ("", False)):
        assert (ledger.may_read(scoped(ledger, Effect.READ, *scopes), ()) == "") is may
    ledger.ends(frozenset("a"), True)
    assert ledger.may_read(scoped(ledger, Effect.READ, "a"), ()) == ""


def test_no_action_starts_beside_any_call_of_the_run() -> None:
    ledger = Ledger()
    ledger.begins(frozenset("a"), False)
    ledger.begins(frozenset("b"), True)
    for scopes, may in (("a", False), ("b", False), ("c", True)):
        action = scoped(ledger, Effect.REVERSIBLE, *scopes)
        assert (ledger.act(action, ())[0] == "") is may
        assert (action in ledger.open_actions) is may


def test_an_action_makes_the_reads_of_its_scope_void_but_for_those_before_it_in_its_line() -> None:
    ledger = Ledger()
    before, beside, other = (scoped(ledger, Effect.READ, s) for s in "aab")
    action = scoped(ledger, Effect.REVERSIBLE, "a")
    assert ledger.act(action, [before]) == ("", [beside])
    assert ledger.all() == [before, other, action]
    before.state = State.RUNNING
    assert ledger.act(scoped(ledger, Effect.REVERSIBLE, "a"), [before, action])[0] != ""


def test_what_stands_on_an_action_is_claimable_with_it_alone() -> None:
    ledger = Ledger()
    action = scoped(ledger, Effect.REVERSIBLE, "a")
    ledger.act(action, ())
    read, again, elsewhere = (scoped(ledger, Effect.READ, s) for s in "aab")
    assert ledger.may_read(read, ()) != ""
    assert ledger.may_read(elsewhere, ()) == ""
    action.state = State.RUNNING
    assert ledger.may_read(again, [action]) != ""
    action.state = State.FINISHED
    assert ledger.may_read(read, [action]) == ""
    assert (read.stands_on, elsewhere.stands_on) == ((action,), ())
    assert claimed(ledger, read.info) is None
    assert claimed(ledger, elsewhere.info) is elsewhere
    action.state = State.CLAIMED
    ledger.settled(action)
    ledger.settled(action)
    assert ledger.open_actions == []
    assert claimed(ledger, read.info) is read


@pytest.mark.parametrize("effect", [Effect.READ, Effect.REVERSIBLE, Effect.STAGED])
def test_nothing_stands_on_what_is_only_prepared(effect: Effect) -> None:
    ledger = Ledger()
    prepared, other = scoped(ledger, Effect.STAGED, "a"), scoped(ledger, Effect.REVERSIBLE, "b")
    assert ledger.act(prepared, ()) == ("", [])
    assert ledger.act(other, [prepared]) == ("", [])
    for scope, may in (("a", False), ("b", True)):
        ex = scoped(ledger, effect, scope)
        reason = ledger.may_read(ex, [prepared, other]) or ledger.act(ex, [prepared, other])[0]
        assert (reason == "") is may


def test_what_was_done_on_top_of_an_action_is_in_the_way_too() -> None:
    ledger = Ledger()
    first, aside, second = (scoped(ledger, Effect.REVERSIBLE, *s) for s in ("a", "c", "ab"))
    line: list[Execution] = []
    for action in (first, aside, second):
        assert ledger.act(action, line)[0] == ""
        line.append(action)
    assert ledger.open_actions == [second, aside, first]
    for scopes, way in (("b", [second]), ("a", [second, first]), ("c", [aside]), ("x", [])):
        assert ledger.begins(frozenset(scopes), True)[1] == way
    assert ledger.begins(None, False)[1] == [second, aside, first]
    assert ledger.with_later([first]) == [second, first]
    assert ledger.with_later([second, aside]) == [second, aside]
    assert ledger.with_later([scoped(ledger, Effect.REVERSIBLE)]) == []


def test_a_read_that_is_too_old_is_not_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger()
    read = scoped(ledger, Effect.READ)
    read.info.declaration = declare_read(max_age=5)
    read.started = 100.0
    for now, claimable in ((105.1, False), (105.0, True)):
        monkeypatch.setattr("langgraph_speculative._ledger.time.monotonic", lambda now=now: now)
        assert (claimed(ledger, read.info) is read) is claimable


def test_discard_takes_what_is_unwanted() -> None:
    ledger, info, other = Ledger(), leaf(), leaf()
    one, two, three = launched(ledger, info), launched(ledger, info, step=2), launched(ledger, other, step=2)
    assert ledger.discard(lambda ex: ex.step == 2) == [two, three]
    assert ledger.all() == [one]
    assert not ledger.has(other)
    assert ledger.discard(lambda _: True) == [one]
    assert not ledger
