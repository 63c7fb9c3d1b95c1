"""Ids: which there are, how those of a branch match those of the run, and how they are replaced."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from langgraph_speculative._ids import (
    Renaming,
    changed_records,
    collect_ids,
    frozen_ids,
    match,
    records_of,
    rename,
)
from langgraph_speculative._values import EmbeddedId, Id, Opaque, freeze


@dataclass
class Box:
    held: Any = None


class Model(BaseModel):
    held: Any = None


def call(name: str, id: str | None) -> Any:
    return {"type": "tool_call", "name": name, "args": {}, "id": id}


def ids_in(value: Any) -> set[str]:
    into: set[str] = set()
    collect_ids(value, into)
    return into


def test_ids_of_messages_and_calls_wherever_they_are() -> None:
    bad = {"name": "c", "args": "", "id": "i", "error": None, "type": "invalid_tool_call"}
    message = AIMessage("", id="a", tool_calls=[call("t", "c1"), call("u", None)], invalid_tool_calls=[bad])
    assert ids_in(message) == {"a", "c1", "i"}
    assert ids_in(ToolMessage("", id="m", tool_call_id="c")) == {"m", "c"}
    assert ids_in(HumanMessage("")) == set()
    assert ids_in([1, "text", (HumanMessage("", id="deep"),)]) == {"deep"}
    assert ids_in({"n": 1, "ms": [HumanMessage("", id="deep")]}) == {"deep"}
    assert ids_in(call("t", "own")) == {"own"}
    assert ids_in(call("t", None)) == set()
    assert ids_in({"type": "other", "id": "no id of a call"}) == set()
    assert ids_in({"id": "no id of a call"}) == set()
    assert ids_in(Box([HumanMessage("", id="boxed")])) == {"boxed"}
    assert ids_in(Box) == set()  # a class is no value


def test_ids_in_snapshots() -> None:
    into: set[str] = set()
    frozen_ids(("x", Id("a"), (1, (Id("b"),), "c"), None), into)
    assert into == {"a", "b"}
    assert all(type(i) is str for i in into)


# --- matching -------------------------------------------------------------------------------------------------------

A, B, C, D = Id("a"), Id("b"), Id("c"), Id("d")


@pytest.mark.parametrize(
    ("early", "real", "expected"),
    [
        (("x", 1), ("x", 1), {}),
        ((A,), (A,), {}),
        ((A,), (B,), {"a": "b"}),
        ((A, A), (B, B), {"a": "b"}),
        ((A, (B,)), (C, (D,)), {"a": "c", "b": "d"}),
        ((A, B), (B, A), {"a": "b", "b": "a"}),
        ((A, A), (B, C), None),  # one id cannot become two
        ((A, B), (C, C), None),  # nor two one
        ((A,), (A, B), None),
        ((A, B), (A,), None),
        ((A,), ("b",), None),  # an id is no text
        (("a",), (B,), None),
        ((A, "a"), (B, "b"), {"a": "b"}),  # a string that repeats the id
        ((A, "a"), (B, "a"), None),  # the text would be renamed with the id, and the run has it as it was
        (("a", A), ("b", B), None),  # met before the id
        (("x",), ("y",), None),
        ((1,), (2,), None),
        (((float, "1.0"),), ((int, "1.0"),), None),
        ((1, A), (True, B), None),
        ((None,), (A,), None),
        ((A,), (None,), None),
        ((None, A), (None, B), {"a": "b"}),
        ((Id("old"),), (Id("old"),), {}),
        ((Id("old"),), (B,), None),
        ((A,), (Id("old"),), None),
        ((("x",), A), (["x"], B), None),
        ((frozenset({1}), A), (frozenset({1}), B), {"a": "b"}),
    ],
)
def test_match(early: Any, real: Any, expected: dict[str, str] | None) -> None:
    assert match(early, real, {"old"}) == expected


@pytest.mark.parametrize(
    ("early", "real", "matches"),
    [
        ((None,), (A,), True),
        ((A,), (None,), True),
        ((None,), (None,), True),
        ((None,), (Id("old"),), False),
        ((Id("old"),), (None,), False),
        ((None,), ("text",), False),
        (("text",), (None,), False),
        ((None,), (0,), False),
        ((A,), (B,), True),
        ((1,), (2,), False),
    ],
)
def test_an_id_that_is_still_to_be_minted_stands_for_a_new_one(early: Any, real: Any, matches: bool) -> None:
    assert (match(early, real, {"old"}, unminted=True) is not None) is matches


def test_messages_match_up_to_their_ids() -> None:
    def talk(a: str, c: str) -> Any:
        answer = AIMessage("", id=a, tool_calls=[call("t", c)])
        return freeze([answer, ToolMessage("done", tool_call_id=c, id=f"of {a}")])

    assert match(talk("a", "c"), talk("b", "d"), ()) == {"a": "b", "c": "d", "of a": "of b"}
    assert match(talk("a", "c"), talk("b", "d"), {"c"}) is None


# --- records --------------------------------------------------------------------------------------------------------


def recorded(id: str | None, model: str) -> AIMessage:
    return AIMessage("x", id=id, response_metadata={"model": model})


def test_records_of_new_messages_wherever_they_are() -> None:
    into: dict[str, Any] = {}
    value = [
        recorded("a", "1"),
        {"k": (recorded("b", "2"), 5)},
        Box(recorded("c", "3")),
        Model(held=[recorded("d", "4")]),
        recorded("old", "5"),
        recorded(None, "6"),
        Box,
        Model,
    ]
    records_of(value, {"old"}, into)
    assert {k: v["response_metadata"]["model"] for k, v in into.items()} == {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert set(into["a"]) == {"response_metadata", "usage_metadata"}


def test_records_that_differ_under_the_runs_ids() -> None:
    early = [recorded("a", "draft"), recorded("b", "same"), recorded("old", "x")]
    real = [recorded("c", "real"), recorded("b", "same"), recorded("old", "y")]
    changed = changed_records(early, real, {"old"}, {"a": "c"})
    assert set(changed) == {"c"}
    assert changed["c"]["response_metadata"] == {"model": "real"}
    # A guess that is not among what the run was given has no counterpart.
    assert changed_records([recorded("z", "draft")], real, {"old"}, {}) == {}
    assert changed_records([], real, (), {}) == {}


# --- renaming -------------------------------------------------------------------------------------------------------


def test_rename_replaces_whole_strings_only() -> None:
    value = {"id-1": ["id-1", ("x",), Box("id-1")], "k": AIMessage("hi", id="id-1")}
    renamed = rename(value, {"id-1": "id-2"})
    assert renamed == {"id-2": ["id-2", ("x",), Box("id-2")], "k": AIMessage("hi", id="id-2")}
    assert value["k"].id == "id-1"  # a copy
    with pytest.raises(EmbeddedId, match="'long' stands inside a longer string"):
        rename(["so long!"], {"id-1": "id-2", "long": "short"})
    with pytest.raises(Opaque):
        rename([threading.Lock()], {"id-1": "id-2"})


def test_rename_puts_the_runs_records_into_its_messages() -> None:
    def early() -> AIMessage:
        return recorded("id-1", "draft")

    # Strings and classes among them are no messages.
    value = [early(), {"k": (Box(early()),), "m": Model(held=early())}, Box, "text"]
    records = {"id-2": {"response_metadata": {"model": "real"}}}
    first, rest, *_ = rename(value, {"id-1": "id-2"}, records)
    for message in (first, rest["k"][0].held, rest["m"].held):
        assert (message.id, message.response_metadata) == ("id-2", {"model": "real"})
        assert message.response_metadata is not records["id-2"]["response_metadata"]
    assert rename([recorded(None, "draft")], {}, records)[0].response_metadata == {"model": "draft"}


def test_a_renaming_with_nothing_to_do_does_nothing() -> None:
    value = [threading.Lock()]  # nothing that could be copied
    assert not Renaming({}, {})
    assert Renaming({}, {})(value) is value
    assert Renaming({"a": "b"}, {})
    assert Renaming({"a": "b"}, {})(["a"]) == ["b"]
    assert Renaming({}, {"a": {"response_metadata": {"model": "real"}}})
    given = Renaming({}, {"a": {"response_metadata": {"model": "real"}}})([recorded("a", "draft")])
    assert given[0].response_metadata == {"model": "real"}
