"""Values: copied so that nothing mutable is shared, frozen so that equal means the same input."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import threading
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel, ConfigDict, PrivateAttr

from langgraph_speculative._values import (
    EmbeddedId,
    Id,
    Opaque,
    copy_value,
    fingerprint,
    freeze,
    freeze_message,
)


class Colour(enum.Enum):
    RED = "red"


class Model(BaseModel):
    model_config = ConfigDict(extra="allow")
    held: Any = None
    text: str = ""
    empty: dict[str, Any] = {}
    none: list[Any] = []
    _private: Any = PrivateAttr(default=None)


class Bare(BaseModel):
    held: Any = None


@dataclass
class Box:
    held: Any = None
    more: Any = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Slotted:
    held: Any
    unset: Any = field(init=False)


class Point(NamedTuple):
    x: Any
    y: Any


class Plain:
    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and self.held == other.held

    __hash__ = object.__hash__


class Words(list[Any]):
    """A list with attributes, as users make them."""


CALL = {"type": "tool_call", "name": "t", "args": {"q": ["x"]}, "id": "call-1"}


def model() -> Model:
    made = Model(held=[1], text="t", extra=["e"])
    made._private = ["p"]
    return made


def ai(**kwargs: Any) -> AIMessage:
    return AIMessage("hi", id="a-1", tool_calls=[copy.deepcopy(CALL)], **kwargs)


# --- copies ---------------------------------------------------------------------------------------------------------

VALUES: dict[str, Any] = {
    "list": [[1], "x"],
    "dict": {"k": [1], "n": 1},
    "tuple": ([1], 2),
    "set": {1, 2},
    "frozenset": frozenset({1}),
    "deque": deque([[1], [2]], 5),
    "dataclass": Box([1], [2]),
    "named tuple": Point([1], 2),
    "object": Plain([1]),
    "list of a kind": Words([[1]]),
    "ordered dict": OrderedDict(a=[1]),
    "default dict": defaultdict(list, a=[1]),
    "model": model(),
    "human": HumanMessage(["part", {"type": "text"}], id="h", additional_kwargs={"k": [1]}),
    "system": SystemMessage("s", response_metadata={"k": [1]}),
    "ai": ai(additional_kwargs={"k": [1]}, usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    "ai with a bad call": AIMessage(
        "", invalid_tool_calls=[{"type": "invalid_tool_call", "name": "n", "args": "{", "id": "i", "error": "e"}]
    ),
    "tool": ToolMessage("x", tool_call_id="c", artifact={"a": [1]}),
    "chunk": AIMessageChunk("hi", id="c"),
}


def parts(value: Any, found: dict[int, Any]) -> dict[int, Any]:
    """All mutable parts of a value, by identity."""
    if isinstance(value, list | tuple | set | frozenset | deque):
        inner: list[Any] = list(value)
    elif isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, BaseModel):
        inner = [value.__dict__, value.__pydantic_extra__, value.__pydantic_private__, value.__pydantic_fields_set__]
    elif hasattr(value, "__dict__") and not isinstance(value, type | enum.Enum):
        inner = [vars(value)]
    else:
        return found
    if not isinstance(value, tuple | frozenset):
        found[id(value)] = value
    for part in inner:
        parts(part, found)
    return found


OBJECTS = {"object", "list of a kind", "ordered dict", "default dict"}
"""Not taken apart, and so left as they are where strings are to be mapped."""


@pytest.mark.parametrize(("kind", "text"), [(k, None) for k in VALUES] + [(k, str) for k in VALUES if k not in OBJECTS])
def test_a_copy_equals_its_original_and_shares_nothing_mutable(kind: str, text: Any) -> None:
    value = VALUES[kind]
    new = copy_value(value, text)
    assert type(new) is type(value)
    assert new == value
    assert not parts(new, {}).keys() & parts(value, {}).keys()
    if isinstance(value, BaseModel):
        for name in ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
            assert getattr(new, name) == getattr(value, name) or (not getattr(value, name) and not getattr(new, name))
    if isinstance(value, deque):
        assert new.maxlen == value.maxlen


@pytest.mark.parametrize(
    "value",
    [1, "x", None, b"x", 1.5, datetime.date(2020, 1, 1), decimal.Decimal(1), Colour.RED, Model, len, copy_value, ...],
)
def test_what_cannot_change_is_not_copied(value: Any) -> None:
    assert copy_value(value) is value
    if not isinstance(value, str):
        assert copy_value(value, lambda s: s + "!") is value


def test_every_string_is_mapped_on_the_way() -> None:
    def loud(text: str) -> str:
        return text.upper()

    assert copy_value({"a": ["b", ("c",), {"d"}, frozenset("e"), deque("f")]}, loud) == {
        "A": ["B", ("C",), {"D"}, frozenset("E"), deque("F")]
    }
    assert copy_value(Box("a", {"b": "c"}), loud) == Box("A", {"B": "C"})
    assert copy_value(Point("a", ["b"]), loud) == Point("A", ["B"])
    mapped = copy_value(model(), loud)
    assert (mapped.text, mapped.EXTRA, mapped.__pydantic_private__) == ("T", ["E"], {"_PRIVATE": ["P"]})
    message = copy_value(ai(additional_kwargs={"k": "v"}), loud)
    assert (message.content, message.id, message.additional_kwargs) == ("HI", "A-1", {"K": "V"})
    assert message.tool_calls[0]["ARGS"] == {"Q": ["X"]}


def test_a_slotted_dataclass_is_copied_as_far_as_it_is_set() -> None:
    value = Slotted([1])
    new = copy_value(value)
    assert new.held == [1]
    assert new.held is not value.held
    assert not hasattr(new, "unset")


def test_what_cannot_be_copied() -> None:
    with pytest.raises(Opaque, match="lock cannot be copied"):
        copy_value([threading.Lock()])
    with pytest.raises(Opaque, match="generator cannot be copied"):
        copy_value({"k": (x for x in ())})

    class Broken(Exception):
        pass

    class Raises:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def __deepcopy__(self, memo: Any) -> Any:
            raise self.error

    with pytest.raises(Opaque, match=r"Raises cannot be copied \(no\)") as caught:
        copy_value(Raises(Broken("no")))
    assert isinstance(caught.value.__cause__, Broken)
    # What says itself why it cannot be copied is not wrapped again.
    for own in (Opaque("mine"), EmbeddedId("mine")):
        with pytest.raises(type(own), match=r"^mine$"):
            copy_value(Raises(own))


def test_an_object_is_renamed_only_if_no_string_in_it_changes() -> None:
    value = Plain(["x", "y"])
    assert copy_value(value, lambda s: s) is value
    with pytest.raises(EmbeddedId, match="Plain holds an id and cannot be taken apart"):
        copy_value(value, lambda s: "z" if s == "y" else s)
    with pytest.raises(Opaque):
        copy_value(threading.Lock(), lambda s: s)


# --- snapshots ------------------------------------------------------------------------------------------------------

DIFFERENT: list[tuple[Any, Any]] = [
    (1, True),
    (1, 1.0),
    (True, 1.0),
    (0, False),
    (0.0, -0.0),
    (1.0, complex(1)),
    (1, decimal.Decimal(1)),
    (1, Fraction(1)),
    (decimal.Decimal("1.0"), decimal.Decimal("1.00")),
    ("1", 1),
    ("x", b"x"),
    ([1], (1,)),
    ([1], deque([1])),
    ({1}, frozenset({1})),
    ([1], Words([1])),
    ([], {}),
    ([], ()),
    (None, []),
    ({"a": 1}, {"a": True}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ({1: "x"}, {True: "x"}),
    ({"a": 1}, OrderedDict(a=1)),
    ([[1], 2], [[1, 2]]),
    (Point(1, 2), (1, 2)),
    (Box(1), Box(1, 2)),
    (Box(1), Slotted(1)),
    (Plain(1), Plain(True)),
    (Plain(1), Box(1)),
    (Bare(held=None), Bare()),  # set, or not
    (Model(held=1), Bare(held=1)),
    (Model(held=1), Model(held=True)),
    (Model(a=1), Model(a=2)),
    (Colour.RED, "red"),
    (Model, Bare),
    (HumanMessage("x"), SystemMessage("x")),
    (HumanMessage("x"), HumanMessage("y")),
    (HumanMessage("x", name="n"), HumanMessage("x")),
    (HumanMessage(["x"]), HumanMessage("x")),
    (AIMessage("x", additional_kwargs={"k": 1}), AIMessage("x")),
    (AIMessage("x", tool_calls=[CALL]), AIMessage("x")),
    (AIMessage("x", tool_calls=[CALL]), AIMessage("x", tool_calls=[{**CALL, "args": {"q": ["y"]}}])),
    (ToolMessage("x", tool_call_id="c"), ToolMessage("x", tool_call_id="c", status="error")),
    (ToolMessage("x", tool_call_id="c"), ToolMessage("x", tool_call_id="d")),
    (ToolMessage("x", tool_call_id="c"), ToolMessage("x", tool_call_id="c", artifact=1)),
    (ToolMessage("x", tool_call_id="c", artifact=2), ToolMessage("x", tool_call_id="c", artifact=1)),
    (AIMessage("x"), AIMessageChunk("x")),
    (AIMessageChunk("x"), AIMessageChunk("x", chunk_position="last")),
    (HumanMessage("x", id="a"), HumanMessage("x", id="b")),
    (AIMessage("x", response_metadata={"id": "resp_1"}), AIMessage("x", response_metadata={"id": "resp_2"})),
    (AIMessage("x", response_metadata={"id": "resp_1"}), AIMessage("x")),
]


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_inputs_have_different_snapshots(one: Any, other: Any) -> None:
    assert freeze(one) != freeze(other)
    assert freeze([one]) != freeze([other])
    assert freeze(one) == freeze(one)
    assert freeze(copy.deepcopy(one)) == freeze(one)
    hash(freeze(one))


@pytest.mark.parametrize("kind", VALUES)
def test_a_copy_has_the_same_snapshot(kind: str) -> None:
    assert freeze(copy_value(VALUES[kind])) == freeze(VALUES[kind])


def test_the_order_in_which_a_set_was_filled_does_not_matter() -> None:
    one, other = {0, 8}, {8, 0}
    assert list(one) != list(other)  # they collide, so the first comes first
    assert freeze(one) == freeze(other)
    assert freeze(frozenset([0, 8])) == freeze(frozenset([8, 0]))


def test_nan_is_itself() -> None:
    assert freeze(float("nan")) == freeze(float("nan"))


RECORDS: list[tuple[BaseMessage, BaseMessage]] = [
    (AIMessage("x", response_metadata={"model": "a"}), AIMessage("x")),
    (AIMessage("x", response_metadata={"id": "chatcmpl"}), AIMessage("x", response_metadata={"id": "other"})),
    (AIMessage("x", response_metadata={"id": None}), AIMessage("x")),
    (
        AIMessage("x", usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
        AIMessage("x"),
    ),
    (AIMessage("x", additional_kwargs={"refusal": None}), AIMessage("x")),
    (AIMessageChunk("x", response_metadata={"model": "a"}), AIMessageChunk("x")),
]


@pytest.mark.parametrize(("one", "other"), RECORDS)
def test_how_a_message_came_to_be_is_no_input(one: BaseMessage, other: BaseMessage) -> None:
    assert freeze(one) == freeze(other)


def ids_of(frozen: Any) -> list[str]:
    """The ids in a snapshot that may be renamed, as they are met."""
    if type(frozen) is Id:
        return [str(frozen)]
    return [i for part in frozen for i in ids_of(part)] if type(frozen) is tuple else []


def test_ids_come_before_what_may_repeat_them() -> None:
    assert ids_of(freeze(ai())) == ["a-1", "call-1"]
    assert ids_of(freeze(ToolMessage("a-1", id="t-1", tool_call_id="call-1"))) == ["t-1", "call-1"]
    assert ids_of(freeze(RemoveMessage(id="gone"))) == ["gone"]
    assert ids_of(freeze(CALL)) == ["call-1"]
    raw = {"id": "raw-1", "type": "function", "function": {"name": "t"}}
    assert ids_of(freeze(AIMessage("", additional_kwargs={"tool_calls": [raw]}))) == ["raw-1"]
    bad = {"type": "invalid_tool_call", "name": "n", "args": "{", "id": "bad-1", "error": "e"}
    assert ids_of(freeze(AIMessage("", invalid_tool_calls=[bad]))) == ["bad-1"]


def test_ids_of_other_kinds_of_messages() -> None:
    from langchain_core.messages import ToolMessageChunk

    chunk = AIMessageChunk("hi", id="a-1", tool_calls=[copy.deepcopy(CALL)])
    assert set(ids_of(freeze(chunk))) == {"a-1", "call-1"}
    assert ids_of(freeze(chunk))[0] == "a-1"
    answer = ToolMessageChunk("x", id="t-1", tool_call_id="call-1")
    assert ids_of(freeze(answer)) == ["t-1", "call-1"]


@pytest.mark.parametrize("own", ["resp_1", "msg_1"])
def test_a_providers_own_ids_are_compared_as_they_are(own: str) -> None:
    assert ids_of(freeze(AIMessage("x", id=own))) == []
    assert freeze(AIMessage("x", id=own)) != freeze(AIMessage("x", id=own + "2"))


def test_a_dict_is_a_tool_call_only_with_its_arguments() -> None:
    assert ids_of(freeze({"type": "tool_call", "id": "x"})) == []
    assert ids_of(freeze({"type": "other", "args": {}, "id": "x"})) == []


def test_a_memo_gives_the_snapshots_of_messages() -> None:
    message, other = HumanMessage("x"), HumanMessage("y")
    memo: dict[int, Any] = {id(message): "known"}
    for value in ([message, other], {"k": [message, other]}, (message, other), deque([message, other])):
        frozen = repr(freeze(value, memo))
        assert "known" in frozen
        assert repr(freeze_message(other)) in frozen
    assert "known" in repr(freeze(Box(message), memo))
    assert "known" in repr(freeze(Bare(held=message), memo))
    assert freeze(message, memo) == "known"
    assert freeze(message) == freeze_message(message)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(Opaque, match="lock cannot be compared"):
        freeze([threading.Lock()])
    holder = Plain(None)
    holder.held = holder
    with pytest.raises(Opaque, match="Plain refers to itself"):
        freeze(holder)
    # The part that cannot be compared is named, not what holds it.
    with pytest.raises(Opaque, match="lock cannot be compared"):
        freeze(Plain(threading.Lock()))


def test_objects_are_compared_by_what_they_are_made_of() -> None:
    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def __reduce_ex__(self, protocol: Any) -> str:
            return self.name

    assert freeze(Named("a")) == (Named, "a")
    assert freeze(Words([1])) == freeze(Words([1]))
    assert freeze(Words([1])) != freeze(Words([2]))
    assert freeze(OrderedDict(a=1)) != freeze(OrderedDict(a=2))
    assert freeze(OrderedDict(a=1)) != freeze(OrderedDict(b=1))
    assert freeze(defaultdict(list, a=1)) != freeze(defaultdict(dict, a=1))


# --- fingerprints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, True),
        ("a", "b"),
        (b"a", b"b"),
        ([1], [1, 2]),
        ([1], [2]),
        ([1], (1,)),
        ([], [None]),
        ({1}, {1, 2}),
        ({1}, frozenset({1})),
        (deque([1]), deque([1, 2])),
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"b": 1}),
        ({"a": {}}, {"a": {"x": 1}}),
        ({"a": {}}, {"a": []}),
        (Bare(held=1), Bare(held=2)),
        (Bare(), Model()),
        (HumanMessage("x"), HumanMessage("y")),
        (HumanMessage("x"), SystemMessage("x")),
        (HumanMessage(["x"]), HumanMessage(["x", "y"])),
        (AIMessage("x"), AIMessage("x", tool_calls=[CALL])),
        ([HumanMessage("x")], [HumanMessage("y")]),
        ({"m": [HumanMessage("x")]}, {"m": [HumanMessage("y")]}),
    ],
)
def test_fingerprints_tell_apart(one: Any, other: Any) -> None:
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(copy.deepcopy(one))


def test_fingerprints_do_not_look_at_ids_or_into_the_middle() -> None:
    assert fingerprint([HumanMessage("x", id="a")]) == fingerprint([HumanMessage("x", id="b")])
    assert fingerprint(HumanMessage("x", id="a")) == fingerprint(HumanMessage("x", id="b"))
    assert fingerprint({"m": [1, 2, 3]}) == fingerprint({"m": [1, 9, 3]})
    assert fingerprint(1.0) == fingerprint(float("nan"))  # that is for the snapshot
    hash(fingerprint({"m": [HumanMessage("x")], "s": {1}, "d": {}}))
