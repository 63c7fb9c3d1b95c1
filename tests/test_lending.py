"""Copied histories that are lent, on their own: no graph runs here."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.types import Command, Send

from langgraph_speculative._histories import SHORT, Histories, KnownIds, Loan, _may_hold
from langgraph_speculative._values import freeze


def history(length: int = SHORT, start: int = 0) -> list[BaseMessage]:
    return [HumanMessage(f"m{i}", id=f"id-{i}") for i in range(start, start + length)]


def take(histories: Histories, value: Any, known: KnownIds | None = None) -> tuple[Any, dict[int, Any], list[Loan]]:
    memo: dict[int, Any] = {}
    loans: list[Loan] = []
    return histories.take(value, memo, loans, known), memo, loans


@pytest.mark.parametrize(
    "value",
    [history(SHORT - 1), tuple(history()), list(range(SHORT)), ["x", *history()], [], {"k": history()}, "text", None],
)
def test_other_values_are_copied_without_ado(value: Any) -> None:
    copied, memo, loans = take(Histories(), value)
    assert copied == value
    assert (memo, loans) == ({}, [])


def test_a_long_history_is_copied_message_by_message_and_lent() -> None:
    value = history()
    copied, memo, (loan,) = take(Histories(), value)
    assert copied == value
    assert copied is not value
    assert not {id(m) for m in copied} & {id(m) for m in value}
    assert loan.copies == copied
    assert loan.copies is not copied  # the borrower may append to its list
    assert memo == {id(c): freeze(m) for c, m in zip(copied, value, strict=True)}


def test_what_comes_back_is_lent_again_as_far_as_it_still_equals_the_runs() -> None:
    histories, value = Histories(), history()
    first, _, (loan,) = take(histories, value)
    first[1].content = "changed by the borrower"
    first[2].additional_kwargs["k"] = "changed by the borrower"
    histories.give_back(loan, [])
    value[3] = HumanMessage("changed by the run", id="id-3")
    value[4] = AIMessage("m4", id="id-4")
    value.append(HumanMessage("new", id="new"))
    second, memo, (again,) = take(histories, value)
    assert again is loan
    assert second == value
    assert [type(m) for m in second] == [type(m) for m in value]
    assert [i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a is not b] == [1, 2, 3, 4]
    assert [memo[id(m)] for m in second] == [freeze(m) for m in value]
    # What is lent is not lent to another one.
    other, _, (new,) = take(histories, value)
    assert new is not loan
    assert not {id(m) for m in other} & {id(m) for m in second}


def test_a_message_of_another_kind_with_the_same_fields_is_another() -> None:
    class Special(HumanMessage):
        pass

    histories, value = Histories(), history()
    _, _, (loan,) = take(histories, value)
    histories.give_back(loan, [])
    value[0] = Special("m0", id="id-0")
    second, *_ = take(histories, value)
    assert type(second[0]) is Special


def test_a_shorter_history_takes_the_rest_away() -> None:
    histories = Histories()
    _, _, (loan,) = take(histories, history(SHORT + 5))
    histories.give_back(loan, [])
    second, memo, _ = take(histories, history(SHORT))
    assert second == history(SHORT)
    assert len(loan.copies) == len(loan.frozen) == len(memo) == SHORT


def test_what_an_output_holds_on_to_does_not_come_back() -> None:
    histories = Histories()
    copied, _, (loan,) = take(histories, history())
    histories.give_back(loan, [None, {"messages": [copied[5]]}])
    _, _, (new,) = take(histories, history())
    assert new is not loan


MESSAGE = ToolMessage("x", tool_call_id="c")
OTHER = HumanMessage("x")


@pytest.mark.parametrize(
    ("output", "holds"),
    [
        (MESSAGE, True),
        (OTHER, False),
        ([OTHER, MESSAGE], True),
        ([OTHER], False),
        ((OTHER, [MESSAGE]), True),
        ({"k": MESSAGE}, True),
        ({"k": OTHER, "n": 1}, False),
        (Command(update={"m": [MESSAGE]}), True),
        (Command(goto=Send("n", MESSAGE)), True),
        (Command(update={"m": [OTHER]}, goto="n"), False),
        (Send("n", {"m": MESSAGE}), True),
        (Send("n", {"m": OTHER}), False),
        ("text", False),
        (None, False),
        (object(), True),  # cannot be looked into
        ({OTHER.content}, True),
    ],
)
def test_what_may_hold_a_message(output: Any, holds: bool) -> None:
    assert _may_hold(output, {id(MESSAGE)}) is holds


def test_the_ids_of_what_is_copied_are_known() -> None:
    known = KnownIds()
    take(Histories(), history(2), known)
    take(Histories(), history(SHORT, start=10), known)
    assert "id-1" in known
    assert "id-10" in known
    assert f"id-{SHORT + 9}" in known
    assert "id-5" not in known
    assert "id-1" in known  # asked again


def test_the_ids_are_those_at_the_fork() -> None:
    known, histories, value = KnownIds(), Histories(), history()
    _, _, (loan,) = take(histories, value, known)
    histories.give_back(loan, [])
    take(histories, history(SHORT, start=100))
    assert "id-0" in known
    assert "id-100" not in known


def test_a_nodes_input_is_copied_part_by_part() -> None:
    histories, value = Histories(), {"messages": history(), "x": [1]}
    loans: list[Loan] = []
    copied = histories.take_input(value, loans)
    assert copied == value
    assert copied["x"] is not value["x"]
    assert len(loans) == 1
    assert histories.take_input(value["messages"], loans) == value["messages"]
    assert len(loans) == 2
    assert histories.take_input("text", loans) == "text"
