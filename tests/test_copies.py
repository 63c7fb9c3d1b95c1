"""Values, ids and in-place changes where one side is less or more than the other: no graph runs here."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, ToolMessage
from langgraph.types import Command, Send
from pydantic import BaseModel, PrivateAttr

from langgraph_speculative._changes import Changes
from langgraph_speculative._histories import SHORT, Histories, KnownIds, Loan
from langgraph_speculative._ids import Renaming, changed_records, collect_ids, match, records_of, rename
from langgraph_speculative._values import EmbeddedId, Id, Opaque, copy_value, fingerprint, freeze

SAME = Renaming({}, {})
A, B, C, D = Id("a"), Id("b"), Id("c"), Id("d")


# --- ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("early", "real", "expected"),
    [
        # One id cannot become two, nor two one, in whatever order they come.
        ((B, B), (A, C), None),
        ((B, B), (C, A), None),
        ((A, C), (B, B), None),
        ((A, A), (A, B), None),
        ((A, B), (B, B), None),
        ((C, A), (B, B), None),
        ((A, B, A), (C, D, D), None),
        ((A, B, A), (D, C, C), None),
        ((B, A), (A, B), {"a": "b", "b": "a"}),
        # A text that repeats an id goes with it.
        ((B, "b"), (A, "a"), {"b": "a"}),
        ((A, "a"), (B, "c"), None),
        ((A, "a"), (C, "b"), None),
        ((A, "b"), (C, "a"), None),
        ((A, "a"), (B, "a"), None),
        ((B, "b"), (A, "b"), None),
        ((A, ("x", frozenset({"a"}))), (B, ("x", frozenset({"a"}))), None),
        ((A, frozenset({("deep", "a")})), (B, frozenset({("deep", "a")})), None),
        ((A, frozenset({"x"})), (B, frozenset({"x"})), {"a": "b"}),
        # Anything else is equal or it is not.
        ((A, 1), (B, 2), None),
        ((A, 2), (B, 1), None),
        ((A, b"x"), (B, b"y"), None),
        ((A, b"y"), (B, b"x"), None),
        ((A, (1, 2)), (B, (1,)), None),
        ((A, (1,)), (B, (1, 2)), None),
        ((A, ()), (B, (C,)), None),
        ((A, frozenset({1})), (B, frozenset({1, 2})), None),
        ((A, frozenset({1, 2})), (B, frozenset({1})), None),
        ((A, 1), (B, True), None),
        ((A, 1.0), (B, 1), None),
        ((A, int), (B, int), {"a": "b"}),
    ],
)
def test_snapshots_match_or_not(early: Any, real: Any, expected: Any) -> None:
    assert match(early, real, ()) == expected


@pytest.mark.parametrize("known", ["a", "b"])
def test_an_id_from_before_the_fork_on_either_side(known: str) -> None:
    assert match((A,), (B,), {known}) is None
    assert match((B,), (A,), {known}) is None
    assert match((Id(known), C), (Id(known), D), {known}) == {"c": "d"}
    for one, other in (((None,), (Id(known),)), ((Id(known),), (None,))):
        assert match(one, other, {known}, unminted=True) is None
        assert match(one, other, {"z"}, unminted=True) == {}
        assert match(one, other, {"z"}) is None


def test_ids_in_calls_of_other_kinds_of_dicts() -> None:
    into: set[str] = set()
    collect_ids({"calls": [{"type": "tool_call", "id": "c1"}], "type": "tool_call", "id": ""}, into)
    collect_ids(deque([HumanMessage("", id="not looked into")]), into)
    assert into == {"c1"}


@dataclass
class Box:
    held: Any = None


class Slots(BaseModel):
    held: Any = None
    _own: list[int] = PrivateAttr(default_factory=lambda: [1])


def recorded(id: str, model: str) -> AIMessage:
    return AIMessage("x", id=id, response_metadata={"model": model})


def test_records_that_were_given_with_a_message_of_the_run() -> None:
    into: dict[str, Any] = {}
    records_of({"k": [Box((recorded("a", "1"),)), "text", 5], "s": {"not looked into"}}, (), into)
    assert into == {"a": {"response_metadata": {"model": "1"}, "usage_metadata": None}}
    same = [recorded("a", "1")]
    assert changed_records(same, same, (), {}) == {}
    assert changed_records(same, [recorded("b", "1")], (), {"a": "b"}) == {}
    changed = changed_records(same, [recorded("b", "2")], (), {"a": "b"})
    assert changed == {"b": {"response_metadata": {"model": "2"}, "usage_metadata": None}}
    assert changed_records(same, [recorded("a", "2")], {"a"}, {}) == {}


def test_an_id_inside_a_longer_string_is_replaced_where_it_must() -> None:
    ids = {"id-1": "id-9", "id-2": "id-8"}
    assert rename("see id-1 and id-2, id-1", ids, embedded=True) == "see id-9 and id-8, id-9"
    assert rename("id-1", ids) == "id-9"
    assert rename("other", ids) == "other"
    with pytest.raises(EmbeddedId, match="the id 'id-2' stands inside"):
        rename(["id-1", "so id-2"], ids)
    own = Renaming(ids, {})
    assert own(("so id-2",), embedded=True) == ("so id-8",)
    with pytest.raises(EmbeddedId):
        own(("so id-2",))


# --- copies and snapshots -------------------------------------------------------------------------------------------


def test_a_models_private_parts_are_its_own() -> None:
    value = Slots(held=[1])
    copied = copy_value(value)
    copied._own.append(2)
    copied.held.append(2)
    assert (value._own, value.held) == ([1], [1])
    assert freeze(value) != freeze(copied)
    assert copied.model_fields_set == {"held"}
    assert copied.model_fields_set is not value.model_fields_set
    assert rename(Slots(held="id-1"), {"id-1": "id-2"}).held == "id-2"


def test_a_providers_response_is_another_conversation() -> None:
    def said(id: str) -> AIMessage:
        return AIMessage("x", response_metadata={"id": id})

    assert freeze(said("resp_1")) != freeze(said("resp_2"))
    assert freeze(said("msg_1")) == freeze(said("msg_2"))
    assert freeze(said("chat-1")) == freeze(said("chat-2")) == freeze(AIMessage("x"))
    assert match(freeze(AIMessage("x", id="msg_1")), freeze(AIMessage("x", id="msg_2")), ()) is None
    assert match(freeze(AIMessage("x", id="resp_1")), freeze(AIMessage("x", id="resp_2")), ()) is None
    assert match(freeze(AIMessage("x", id="m1")), freeze(AIMessage("x", id="m2")), ()) == {"m1": "m2"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (HumanMessage("x", additional_kwargs={"k": 1}), HumanMessage("x")),
        (HumanMessage("x", name="a"), HumanMessage("x", name="b")),
        (ChatMessage("x", role="a"), ChatMessage("x", role="b")),
        (ToolMessage("x", tool_call_id="c", artifact=[1]), ToolMessage("x", tool_call_id="c")),
        (ToolMessage("x", tool_call_id="c", status="error"), ToolMessage("x", tool_call_id="c")),
        (HumanMessage(["x"]), HumanMessage("x")),
        (HumanMessage(""), AIMessage("")),
    ],
)
def test_messages_that_are_not_the_same(one: BaseMessage, other: BaseMessage) -> None:
    assert freeze(one) != freeze(other)
    assert freeze(one) == freeze(copy_value(one))
    assert match(freeze(one), freeze(other), ()) is None


def test_keys_without_a_value_do_not_count() -> None:
    assert freeze(AIMessage("x", additional_kwargs={"refusal": None})) == freeze(AIMessage("x"))
    kwargs = {"tool_calls": [{"id": "c1", "function": {"name": "t"}}], "refusal": None}
    one, other = AIMessage("x", additional_kwargs=kwargs), AIMessage("x", additional_kwargs=copy_value(kwargs))
    other.additional_kwargs["tool_calls"][0]["id"] = "c2"
    assert match(freeze(one), freeze(other), ()) == {"c1": "c2"}
    other.additional_kwargs["tool_calls"][0]["function"]["name"] = "u"
    assert match(freeze(one), freeze(other), ()) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1, 2], [3, 2], True),
        ([1, 2], [1, 3], False),
        ([1, 2], [2], False),
        ([1], (1,), False),
        ([], [], True),
        ({"k": [1, "x"]}, {"k": [2, "x"]}, True),
        ({"k": 1}, {"l": 1}, False),
        ({"k": 1, "l": 2}, {"l": 2, "k": 1}, False),
        ({"k": {"a": 1}}, {"k": {"b": 2}}, True),
        ({"k": {"a": 1}}, {"k": {"a": 1, "b": 2}}, False),
        ({1}, {2}, True),
        ({1}, {1, 2}, False),
        (deque([1]), deque([2, 3]), False),
        (1, True, False),
        (b"x", b"y", False),
        (True, False, False),
        (1.0, 2.0, True),  # not looked at
        (HumanMessage("x", id="1"), HumanMessage("x", id="2"), True),
        (HumanMessage("x"), AIMessage("x"), False),
        (HumanMessage(["x"]), HumanMessage(["y"]), True),
        (HumanMessage(["x"]), HumanMessage(["x", "y"]), False),
        (Slots(held=1), Slots(held=2), False),
        (Slots(held=[1]), Slots(held=[1]), True),
        (Box(1), Box(2), True),
    ],
)
def test_a_glance_tells_some_inputs_apart(one: Any, other: Any, same: bool) -> None:
    assert (fingerprint(one) == fingerprint(other)) is same


# --- changes in place -----------------------------------------------------------------------------------------------


def changed(early: Any, real: Any, change: Any, rename: Any = SAME) -> Any:
    changes = Changes(early, real)
    change(early)
    changes.carry_over(rename)
    return real


class Unset(BaseModel):
    tags: list[int] = [1]
    n: int = 0


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda: {1, 2}, lambda s: s.add(3)),
        (lambda: {1, 2}, lambda s: s.discard(1)),
        (lambda: {1, 2}, lambda s: (s.discard(1), s.add(3))),
        (lambda: [1, 2], lambda s: s.append(3)),
        (lambda: [1, 2], lambda s: s.pop()),
        (lambda: [1, 2], lambda s: s.__setitem__(0, 0)),
        (lambda: [1, 2], lambda s: s.__setitem__(1, 5)),
        (lambda: [1, 2], lambda s: s.clear()),
        (lambda: deque([1, 2], 2), lambda s: s.append(3)),
        (lambda: deque([1, 2]), lambda s: s.popleft()),
        (lambda: deque([1, 2]), lambda s: s.append(3)),
        (lambda: {"b": 1}, lambda s: s.update(a=2)),
        (lambda: {"b": 1}, lambda s: s.update(c=2)),
        (lambda: {"b": 1}, lambda s: s.clear()),
        (lambda: {"b": 1}, lambda s: s.update(b=0)),
        (lambda: {"b": 1, "c": 2}, lambda s: s.update(b=s.pop("b"))),  # the order of its keys
        (lambda: Box([1]), lambda s: setattr(s, "held", 2)),
        (lambda: Box([1]), lambda s: s.held.append(2)),
        (lambda: Unset(), lambda s: setattr(s, "n", 0)),  # set, and not by default
        (lambda: Unset(), lambda s: s.tags.append(2)),
        (lambda: Slots(), lambda s: s._own.append(2)),
        (lambda: ([1], {"k": [2]}), lambda s: s[1]["k"].append(3)),
        (lambda: [[1], [2]], lambda s: s.append(s[0])),
    ],
)
def test_the_runs_own_changes_with_it(make: Any, change: Any) -> None:
    real, expected = make(), make()
    before = freeze(real)
    assert changed(make(), real, change) is real
    change(expected)
    assert freeze(real) == freeze(expected) != before


def test_an_attribute_beyond_the_fields_is_a_change() -> None:
    real = changed(Box(1), Box(1), lambda s: setattr(s, "more", "early"), Renaming({"early": "real"}, {}))
    assert vars(real) == {"held": 1, "more": "real"}


def test_what_has_not_changed_is_left_alone() -> None:
    inner = [1]
    real: Any = {"l": [inner], "s": {1}, "d": deque([1], 3), "t": (inner,), "b": Box(inner)}
    changed(copy_value(real), real, lambda s: None)
    assert real["l"][0] is inner
    assert real["t"][0] is inner
    assert real["b"].held is inner
    assert real == {"l": [[1]], "s": {1}, "d": deque([1]), "t": ([1],), "b": Box([1])}


def test_new_parts_are_renamed_and_old_ones_are_the_runs() -> None:
    real: Any = {"old": [1], "log": []}

    def change(state: Any) -> None:
        state["log"] += [[state["old"], "early"], ("early", state["old"]), deque(["early"]), {"early": state["old"]}]

    changed(copy_value(real), real, change, Renaming({"early": "real"}, {}))
    listed, pair, queue, table = real["log"]
    assert (listed, pair, queue, table) == ([[1], "real"], ("real", [1]), deque(["real"]), {"real": [1]})
    assert all(part is real["old"] for part in (listed[0], pair[1], table["real"]))


def test_what_cannot_be_renamed_is_handed_on_as_it_is() -> None:
    real: Any = []
    lock = threading.Lock()
    changed([], real, lambda s: s.extend([lock, "so early!"]), Renaming({"early": "real"}, {}))
    assert real == [lock, "so early!"]


@pytest.mark.parametrize(
    ("early", "real"),
    [
        ([1, [2]], [1]),
        ([1], [1, [2]]),
        ({"a": [1], "b": 2}, {"a": [1]}),
        ({"a": [1]}, {"a": [1], "b": 2}),
        (([1],), ([1], 2)),
        ([[1]], [(1,)]),
        ([Box()], [Unset()]),
        (deque([1]), deque([1, 2])),
    ],
)
def test_inputs_that_differ_are_refused(early: Any, real: Any) -> None:
    with pytest.raises(Opaque, match="it has been changed"):
        Changes(early, real)


def test_a_message_keeps_what_only_the_runs_own_has() -> None:
    early, real = HumanMessage("x", id="early"), HumanMessage("x", id="real")
    own = Renaming({"early": "real"}, {})
    changed([early], [real], lambda s: None, own)
    assert (real.content, real.id) == ("x", "real")
    changed([early], [real], lambda s: setattr(s[0], "content", "y"), own)
    assert (real.content, real.id) == ("y", "real")


@dataclass(slots=True)
class Slotted:
    held: Any


def test_parts_without_attributes_of_their_own_are_passed_over() -> None:
    real: Any = [Slotted([1]), {"k": [1]}]
    changed([Slotted([1]), {"k": [1]}], real, lambda s: s[1]["k"].append(2))
    assert real == [Slotted([1]), {"k": [1, 2]}]


def test_a_value_in_two_places_is_paired_once() -> None:
    shared, twin = [1], [1]
    real: Any = [twin, twin]
    changed([shared, shared], real, lambda s: s[0].append(2))
    assert real == [[1, 2], [1, 2]]
    assert real[0] is real[1] is twin


# --- histories ------------------------------------------------------------------------------------------------------


def history(length: int) -> list[BaseMessage]:
    return [HumanMessage(f"m{i}", id=f"id-{i}") for i in range(length)]


def test_histories_from_a_length_on_are_lent() -> None:
    histories = Histories()
    for length, lent in ((SHORT - 1, 0), (SHORT, 1), (SHORT + 1, 1)):
        loans: list[Loan] = []
        value = history(length)
        copied = histories.take(value, {}, loans, None)
        assert (copied, len(loans)) == (value, lent)
        assert not any(a is b for a, b in zip(copied, value, strict=True))


def test_each_loan_is_lent_to_one_at_a_time() -> None:
    histories, value = Histories(), history(SHORT)
    loans: list[Loan] = []
    for _ in range(3):
        histories.take(value, {}, loans, None)
    assert len(set(map(id, loans))) == 3
    for loan in loans:
        histories.give_back(loan, [])
    again: list[Loan] = []
    for _ in range(4):
        histories.take(value, {}, again, None)
    assert len(set(map(id, again)) & set(map(id, loans))) == 3


@pytest.mark.parametrize(
    ("wrap", "lent"),
    [
        (lambda m: Command(update={"m": m}), False),
        (lambda m: Command(update={}, goto=Send("n", [m])), False),
        (lambda m: Command(update={"n": 1}, goto="n"), True),
        (lambda m: Send("n", (m,)), False),
        (lambda m: {"k": {"deep": m}}, False),
        (lambda m: HumanMessage("another"), True),
        (lambda m: {"n": 1}, True),
        (lambda m: Box(), False),  # cannot be looked into
    ],
)
def test_what_an_output_may_hold_is_not_lent_again(wrap: Any, lent: bool) -> None:
    histories, loans, value = Histories(), [], history(SHORT)
    copied = histories.take(value, {}, loans, None)
    histories.give_back(loans[0], ["text", wrap(copied[-1])])
    histories.take(value, {}, loans, None)
    assert (loans[1] is loans[0]) is lent


def test_known_ids_of_all_that_was_added() -> None:
    known = KnownIds()
    known.add([HumanMessage("", id="a")])
    known.add_frozen([freeze(HumanMessage("", id="b"))])
    known.add_frozen([freeze(HumanMessage("", id="c")), freeze(HumanMessage("", id="d"))])
    assert [i for i in "abcde" if i in known] == ["a", "b", "c", "d"]
    known.add_frozen([freeze(HumanMessage("", id="e"))])
    assert "e" in known
