"""Values by structure: copies, snapshots, matches, renamings, and the copies lent of long histories."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import pathlib
import re
import threading
import types
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.types import Command, Send
from pydantic import BaseModel, ConfigDict, PrivateAttr

from langgraph_speculative._histories import SHORT, Histories, KnownIds, Loan
from langgraph_speculative._ids import (
    Renaming,
    changed_records,
    collect_ids,
    frozen_ids,
    match,
    records_of,
    rename,
)
from langgraph_speculative._values import EmbeddedId, Id, Opaque, copy_value, fingerprint, freeze


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Spot:
    x: Any
    y: Any = 0


@dataclasses.dataclass(frozen=True)
class Fixed:
    parts: list[Any]


@dataclasses.dataclass(slots=True)
class Slotted:
    parts: list[Any]


class Pair(NamedTuple):
    left: Any
    right: Any


class Model(BaseModel):
    a: Any = 0
    b: Any = None
    _hidden: Any = PrivateAttr(default=None)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    a: Any = 0


class Plain:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


class Stubborn:
    def __deepcopy__(self, memo: Any) -> Any:
        raise Opaque("as it says")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise Opaque("as it says")


def upper(s: str) -> str:
    """Only of single letters: names of attributes are strings, too."""
    return s.upper() if len(s) == 1 else s


# --- copies ---------------------------------------------------------------------------------------------------------


def function() -> None: ...


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        1,
        1.5,
        2j,
        "x",
        b"x",
        range(3),
        slice(1),
        ...,
        NotImplemented,
        datetime.datetime(2024, 1, 1),
        datetime.date(2024, 1, 1),
        datetime.time(1),
        datetime.timedelta(1),
        datetime.UTC,
        decimal.Decimal("1.0"),
        uuid.UUID(int=1),
        re.compile("x"),
        int,
        Colour.RED,
        Colour,
        function,
        len,
        "".join,
        Plain("x").__init__,  # type: ignore[misc]
        types,
        pathlib.PurePosixPath("a"),
        pathlib.PurePosixPath("a") if not hasattr(pathlib, "PosixPath") else pathlib.Path("a"),
        pathlib.PureWindowsPath("a"),
    ],
    ids=repr,
)
def test_what_never_changes_is_not_copied(value: Any) -> None:
    assert copy_value(value) is value
    assert copy_value(value, lambda s: s) is value


CONTAINERS: list[Any] = [
    [[1], 2],
    {"a": [1]},
    ([1], 2),
    {1, 2},
    deque([[1]], 4),
    Point([1], [2]),
    Fixed([1]),
    Slotted([1]),
    Pair([1], 2),
    Model(a=[1], b={}),
    Open(a=[1], more=[2]),
    OrderedDict(a=[1]),
]


def parts_of(value: Any) -> list[Any]:
    """The mutable lists in one of the containers above."""
    found: list[Any] = []

    def walk(v: Any) -> None:
        if isinstance(v, list):
            found.append(v)
        if isinstance(v, dict):
            v = list(v.values())
        elif isinstance(v, BaseModel):
            v = [*v.__dict__.values(), *(v.__pydantic_extra__ or {}).values()]
        elif dataclasses.is_dataclass(v):
            v = [getattr(v, f.name) for f in dataclasses.fields(v)]
        if isinstance(v, list | tuple | deque):
            for w in v:
                walk(w)

    walk(value)
    return found


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("value", CONTAINERS, ids=lambda v: type(v).__name__)
def test_a_copy_is_equal_and_shares_nothing(value: Any, with_text: bool) -> None:
    new = copy_value(value, (lambda s: s) if with_text and type(value) is not OrderedDict else None)
    assert new == value
    assert type(new) is type(value)
    if type(value) is not tuple:
        assert new is not value
    before, after = parts_of(value), parts_of(new)
    assert len(before) == len(after)
    assert not {id(p) for p in before} & {id(p) for p in after}


def test_a_copied_deque_keeps_its_bound() -> None:
    assert copy_value(deque([1], 4)).maxlen == 4
    assert type(copy_value(frozenset({1}))) is frozenset


def test_a_model_is_copied_with_all_it_has() -> None:
    model = Model(a=[1])
    model._hidden = [2]
    new = copy_value(model)
    assert new.model_fields_set == {"a"}
    assert new.model_fields_set is not model.model_fields_set
    assert new._hidden == [2]
    assert new._hidden is not model._hidden
    assert copy_value(Open(a=1)).__pydantic_extra__ == {}
    assert copy_value(Open(a=1)).__pydantic_extra__ is not Open(a=1).__pydantic_extra__
    assert copy_value(Model()).__pydantic_extra__ is None
    empty = Model(a=[], b={})
    assert copy_value(empty).a is not empty.a
    assert copy_value(empty).b is not empty.b


def test_a_dataclass_is_copied_with_what_it_lacks_and_what_was_added() -> None:
    point = Point([1])
    point.more = ["x"]  # type: ignore[attr-defined]
    new = copy_value(point, upper)
    assert new.more == ["X"]
    assert new.more is not point.more  # type: ignore[attr-defined]
    slotted = Slotted([1])
    del slotted.parts
    assert not hasattr(copy_value(slotted), "parts")


def test_every_string_of_a_copy_is_mapped() -> None:
    assert copy_value("a", upper) == "A"
    assert copy_value(["a", ["b"]], upper) == ["A", ["B"]]
    assert copy_value({"k": {"l": "v"}}, upper) == {"K": {"L": "V"}}
    assert copy_value(("a",), upper) == ("A",)
    assert copy_value({"a"}, upper) == {"A"}
    assert copy_value(deque(["a"]), upper) == deque(["A"])
    assert copy_value(Point("a", ["b"]), upper) == Point("A", ["B"])
    assert copy_value(Slotted(["a"]), upper) == Slotted(["A"])
    assert copy_value(Pair("a", "b"), upper) == Pair("A", "B")
    model = Model(a="a", b=["b"])
    model._hidden = "c"
    new = copy_value(model, upper)
    assert (new.a, new.b, new._hidden) == ("A", ["B"], "C")
    assert copy_value(Open(a="a", more="m"), upper).__pydantic_extra__ == {"more": "M"}
    assert copy_value(AIMessage("a", id="i"), upper).content == "A"
    assert copy_value(AIMessage("a", id="i"), upper).id == "I"


def test_what_cannot_be_copied_is_opaque() -> None:
    with pytest.raises(Opaque, match="lock cannot be copied"):
        copy_value({"a": [threading.Lock()]})
    with pytest.raises(Opaque, match="generator cannot be copied") as caught:
        copy_value(x for x in ())
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(Opaque, match=r"^as it says$"):
        copy_value(Stubborn())


def test_other_objects_are_copied_deeply() -> None:
    plain = Plain([1])
    new = copy_value(plain)
    assert new.inside == [1]
    assert new.inside is not plain.inside


def test_an_object_whose_strings_would_change_is_refused() -> None:
    plain = Plain(["no strings of interest"])
    assert copy_value(plain, lambda s: s) is plain
    with pytest.raises(EmbeddedId, match="Plain holds an id"):
        copy_value(Plain(["x"]), lambda s: s.replace("x", "y"))
    with pytest.raises(EmbeddedId, match="Plain holds an id"):
        rename(Plain(["x"]), {"x": "y"})
    with pytest.raises(EmbeddedId, match="stands inside"):
        rename(Plain(["not x alone"]), {"x": "y"})
    with pytest.raises(Opaque, match=r"^as it says$"):
        copy_value(Stubborn(), upper)
    with pytest.raises(Opaque, match="cannot be compared"):
        copy_value(Plain(threading.Lock()), upper)


def full_messages() -> list[BaseMessage]:
    calls = [{"name": "t", "args": {"x": [1]}, "id": "c1", "type": "tool_call"}]
    wrong: list[Any] = [{"name": "t", "args": "{", "id": "c2", "error": "e", "type": "invalid_tool_call"}]
    common: dict[str, Any] = {"additional_kwargs": {"k": [1]}, "response_metadata": {"m": [1]}}
    usage: Any = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2, "input_token_details": {"cache_read": 1}}
    return [
        HumanMessage([{"type": "text", "text": "hi"}], id="h", **common),
        AIMessage("hi", id="a", tool_calls=calls, invalid_tool_calls=wrong, usage_metadata=usage, **common),
        SystemMessage("s", name="n", extra=["e"]),
        ToolMessage("t", tool_call_id="c1", artifact={"a": [1]}, **common),
        HumanMessage("bare"),
        AIMessage(""),
        ToolMessage("", tool_call_id=""),
    ]


def mutable_parts(value: Any) -> set[int]:
    if isinstance(value, dict):
        return {id(value)}.union(*map(mutable_parts, value.values()))
    if isinstance(value, list):
        return {id(value)}.union(*map(mutable_parts, value))
    return set()


@pytest.mark.parametrize("i", range(7))
def test_a_message_is_copied_whole_and_shares_nothing(i: int) -> None:
    message = full_messages()[i]
    new = copy_value(message)
    assert type(new) is type(message)
    assert new == message
    assert new.__dict__ == message.__dict__
    assert new.model_fields_set == message.model_fields_set
    assert new.model_fields_set is not message.model_fields_set
    assert new.__pydantic_extra__ == message.__pydantic_extra__
    assert new.__pydantic_private__ == message.__pydantic_private__
    assert freeze(new) == freeze(message)
    assert not mutable_parts(new.__dict__) & mutable_parts(message.__dict__)
    if message.__pydantic_extra__ is not None:
        assert not mutable_parts(new.__pydantic_extra__) & mutable_parts(message.__pydantic_extra__)


# --- snapshots ------------------------------------------------------------------------------------------------------

NAN = float("nan")
DIFFERENT: list[Any] = [
    None,
    0,
    1,
    True,
    False,
    1.0,
    0.0,
    -0.0,
    NAN,
    decimal.Decimal("1"),
    decimal.Decimal("1.0"),
    1 + 0j,
    "1",
    b"1",
    "",
    b"",
    [],
    (),
    {},
    set(),
    frozenset(),
    deque(),
    [1],
    [True],
    [1.0],
    (1,),
    deque([1]),
    {1},
    {True},
    frozenset({1}),
    [1, 2],
    [2, 1],
    [[1], 2],
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    {"a": 1},
    {"a": True},
    {1: "a"},
    {True: "a"},
    [("a", 1)],
    ["a", 1],
    Colour.RED,
    Colour.BLUE,
    Colour,
    int,
    Point(1),
    Point(1, 1),
    Point(True),
    Spot(1),
    Fixed([1]),
    Pair(1, 2),
    (1, 2),
    Model(),
    Model(a=0),
    Model(a=0, b=None),
    Model(a=1),
    Model(a=True),
    Open(),
    Open(more=1),
    Open(more=2),
    Plain(1),
    Plain(True),
    OrderedDict(a=1),
    datetime.date(2024, 1, 1),
    datetime.datetime(2024, 1, 1),
    pathlib.PurePosixPath("a"),
    pathlib.PureWindowsPath("a"),
    {"type": "tool_call", "args": {}},
    {"type": "tool_call"},
    {"type": "other", "args": {}},
]


def test_a_snapshot_tells_every_two_values_apart() -> None:
    frozen = [freeze(v) for v in DIFFERENT]
    for i, a in enumerate(frozen):
        for j, b in enumerate(frozen):
            if i != j:
                assert type(a) is not type(b) or a != b, (DIFFERENT[i], DIFFERENT[j])
                if not {type(DIFFERENT[i]), type(DIFFERENT[j])} <= {int, str, bytes, type(None)}:
                    assert match(a, b, ()) is None, (DIFFERENT[i], DIFFERENT[j])


def test_a_snapshot_is_that_of_any_copy() -> None:
    for value in DIFFERENT:
        frozen = freeze(value)
        hash(frozen)
        assert freeze(copy_value(value)) == frozen, value


def test_a_snapshot_of_private_attributes() -> None:
    one, two = Model(a=1), Model(a=1)
    two._hidden = 1
    assert freeze(one) != freeze(two)
    one._hidden = 1
    assert freeze(one) == freeze(two)


def test_not_a_number_is_itself() -> None:
    assert freeze([float("nan")]) == freeze([float("nan")])


def test_a_snapshot_is_not_changed_with_its_value() -> None:
    value: dict[str, Any] = {"a": [1, {2}], "b": Point([1])}
    frozen = freeze(value)
    value["a"][1].add(3)
    value["b"].x.append(2)
    assert freeze(value) != frozen
    assert frozen == freeze({"a": [1, {2}], "b": Point([1])})


def test_what_cannot_be_taken_apart_is_opaque() -> None:
    with pytest.raises(Opaque, match="cannot be compared"):
        freeze([threading.Lock()])
    with pytest.raises(Opaque, match=r"^as it says$"):
        freeze(Stubborn())
    ring = Plain(None)
    ring.inside = ring
    with pytest.raises(Opaque, match="Plain refers to itself"):
        freeze(ring)


def test_objects_by_their_name_items_and_pairs() -> None:
    class Listed(list[Any]):
        pass

    assert freeze(Listed([1])) == freeze(Listed([1]))
    assert freeze(Listed([1])) != freeze(Listed([2]))
    assert freeze(Listed([1])) != freeze([1])
    assert freeze(OrderedDict(a=1)) == freeze(OrderedDict(a=1))
    assert freeze(OrderedDict(a=1)) != freeze(OrderedDict(a=2))

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

        def __reduce_ex__(self, protocol: Any) -> str:
            return self.name

    assert freeze(Named("x")) == freeze(Named("x"))
    assert freeze(Named("x")) != freeze(Named("y"))


def test_a_memo_stands_for_its_messages_only() -> None:
    message, other = HumanMessage("x", id="1"), HumanMessage("y", id="2")
    memo = {id(message): "known"}
    assert freeze(message, memo) == "known"
    assert freeze([message, other], memo) == ("list", "known", freeze(other))
    assert freeze({"m": [message]}, memo) == ("dict", "m", ("list", "known"))
    assert freeze((message,), memo) == (tuple, "known")
    assert freeze(Point(message), memo) == (Point, ("x", "known"), ("y", 0))
    assert freeze(Model(a=message), memo) != freeze(Model(a=message))
    plain = ["x"]
    assert freeze(plain, {id(plain): "known"}) == ("list", "x")


CALL = {"name": "t", "args": {"x": 1}, "id": "c1", "type": "tool_call"}


def ai(**changes: Any) -> AIMessage:
    return AIMessage(**{"content": "hi", "id": "a", "tool_calls": [CALL], **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"content": "ho"},
        {"content": ["hi"]},
        {"id": None},
        {"name": "n"},
        {"tool_calls": []},
        {"tool_calls": [CALL, CALL]},
        {"tool_calls": [{**CALL, "name": "u"}]},
        {"tool_calls": [{**CALL, "args": {"x": True}}]},
        {"tool_calls": [{**CALL, "id": None}]},
        {"invalid_tool_calls": [{"name": "t", "args": "{", "id": "c", "error": None, "type": "invalid_tool_call"}]},
        {"additional_kwargs": {"k": 1}},
        {"additional_kwargs": {"tool_calls": [{"id": "c1"}]}},
        {"response_metadata": {"id": "resp_1"}},
    ],
    ids=repr,
)
def test_what_makes_another_message(changes: dict[str, Any]) -> None:
    assert freeze(ai(**changes)) != freeze(ai())
    assert freeze(ai(**changes)) == freeze(ai(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"response_metadata": {"model": "m", "id": "another"}},
        {"response_metadata": {"id": "x-resp_1"}},
        {"response_metadata": {"id": None}},
        {"usage_metadata": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}},
        {"additional_kwargs": {"refusal": None}},
    ],
    ids=repr,
)
def test_records_do_not_make_another_message(changes: dict[str, Any]) -> None:
    assert freeze(ai(**changes)) == freeze(ai())


def test_what_makes_another_tool_message() -> None:
    def says(**changes: Any) -> ToolMessage:
        return ToolMessage(**{"content": "x", "tool_call_id": "c1", **changes})

    variants: list[dict[str, Any]] = [
        {},
        {"content": "y"},
        {"tool_call_id": "c2"},
        {"status": "error"},
        {"artifact": [1]},
        {"artifact": [True]},
        {"name": "n"},
        {"id": "i"},
    ]
    assert len({freeze(says(**v)) for v in variants}) == len(variants)
    assert freeze(HumanMessage("x", id="i")) != freeze(SystemMessage("x", id="i"))


def test_messages_of_other_classes() -> None:
    class Mine(AIMessage):
        extra: Any = None

    def mine(**changes: Any) -> Mine:
        return Mine(**{"content": "hi", "id": "a", "tool_calls": [CALL], **changes})

    assert freeze(mine()) != freeze(ai())
    assert freeze(mine()) != freeze(mine(extra=1))
    assert freeze(mine(usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2})) == freeze(mine())
    other_ids = mine(id="b", tool_calls=[{**CALL, "id": "c9"}])
    assert match(freeze(mine()), freeze(other_ids), ()) == {"a": "b", "c1": "c9"}
    chunk = AIMessageChunk("hi", tool_call_chunks=[{"name": "t", "args": "{}", "id": "c1", "index": 0}], id="a")
    again = AIMessageChunk("hi", tool_call_chunks=[{"name": "t", "args": "{}", "id": "c2", "index": 0}], id="a")
    assert match(freeze(chunk), freeze(again), ()) == {"c1": "c2"}


def test_a_providers_own_ids_are_content() -> None:
    for prefix in ("resp_", "msg_"):
        one, two = HumanMessage("x", id=f"{prefix}1"), HumanMessage("x", id=f"{prefix}2")
        assert match(freeze(one), freeze(two), ()) is None
        assert match(freeze(one), freeze(one), ()) == {}
    assert match(freeze(HumanMessage("x", id="a-msg_1")), freeze(HumanMessage("x", id="b")), ()) == {"a-msg_1": "b"}


# --- fingerprints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"a": 1}, {"a": 2}),
        ({"a": 1}, {"a": True}),
        ({"a": "x"}, {"a": "y"}),
        ({"a": b"x"}, {"a": b"y"}),
        ({"a": 1}, {"b": 1}),
        ({"a": 1, "b": 1}, {"b": 1, "a": 1}),
        ({"a": [1]}, {"a": [1, 2]}),
        ({"a": [1]}, {"a": [2]}),
        ({"a": [1]}, {"a": (1,)}),
        ({"a": []}, {"a": None}),
        ({"a": {}}, {"a": {1: 1}}),
        ({"a": {1}}, {"a": {1, 2}}),
        ({"a": {1}}, {"a": frozenset({1})}),
        ({"a": deque([1])}, {"a": deque()}),
        ({"a": [HumanMessage("x")]}, {"a": [HumanMessage("y")]}),
        ({"a": [HumanMessage("x")]}, {"a": [AIMessage("x")]}),
        ({"a": [HumanMessage(["x"])]}, {"a": [HumanMessage(["x", "y"])]}),
        ({"a": [ai()]}, {"a": [ai(tool_calls=[])]}),
        ({"a": 1.5}, {"a": None}),
        (Model(a=1), Model(a=2)),
        (Model(a=1), Open(a=1)),
        (Model(a=1), {"a": 1, "b": None}),
        (HumanMessage("x"), HumanMessage("y")),
        ([1], [2]),
        ("x", "y"),
    ],
    ids=repr,
)
def test_fingerprints_differ(a: Any, b: Any) -> None:
    one, two = fingerprint(a), fingerprint(b)
    assert one != two or [type(x) for x in one] != [type(x) for x in two]
    assert fingerprint(copy_value(a)) == one


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"a": [HumanMessage("x", id="1")]}, {"a": [HumanMessage("x", id="2")]}),
        ({"a": HumanMessage("x", id="1")}, {"a": HumanMessage("x", id="2")}),
        ({"a": [1, 9]}, {"a": [2, 9]}),
        ({"a": {1: 1}}, {"a": {2: 2}}),
        ({"a": 1.5}, {"a": 2.5}),
        (HumanMessage(["x"], id="1"), HumanMessage(["y"], id="2")),
    ],
    ids=repr,
)
def test_fingerprints_are_the_same_where_they_do_not_look(a: Any, b: Any) -> None:
    assert fingerprint(a) == fingerprint(b)


# --- matches --------------------------------------------------------------------------------------------------------

A, B, C, D = Id("a"), Id("b"), Id("c"), Id("d")


@pytest.mark.parametrize(
    ("early", "real", "expected"),
    [
        ((1, "x"), (1, "x"), {}),
        ((A,), (A,), {}),
        ((A,), (B,), {"a": "b"}),
        (A, B, {"a": "b"}),
        ((A, C), (B, D), {"a": "b", "c": "d"}),
        ((A, A), (B, B), {"a": "b"}),
        ((A, A), (B, C), None),
        ((A, C), (B, B), None),
        ((A, B), (B, A), {"a": "b", "b": "a"}),
        ((A, (A, "a")), (B, (B, "b")), {"a": "b"}),
        ((A, "b"), (B, "b"), {"a": "b"}),
        (("a", A), ("b", B), None),
        ((A, "a tail"), (B, "b tail"), None),
        ((A, "z"), (B, "b"), None),
        ((A,), ("a",), {}),
        ((A,), ("b",), None),
        (("a",), (B,), None),
        ((A,), (None,), None),
        ((A, 1), (B, 1, 1), None),
        ((A, 1), (B, 2), None),
        ((A, 1), (B, True), None),
        ((A, None), (B, None), {"a": "b"}),
        ((A, "x"), (B, b"x"), None),
        ((A, ()), (B, 1), None),
    ],
)
def test_a_match_is_one_to_one(early: Any, real: Any, expected: Any) -> None:
    assert match(early, real, ()) == expected


def test_known_ids_are_never_renamed() -> None:
    assert match((A,), (B,), {"a"}) is None
    assert match((A,), (B,), {"b"}) is None
    assert match((A, C), (A, D), {"a"}) == {"c": "d"}
    assert match((A,), (B,), {"c"}) == {"a": "b"}


def test_an_unminted_id_stands_for_any_new_one() -> None:
    for pair in ((None,), (B,)), ((B,), (None,)):
        assert match(*pair, (), unminted=True) == {}
        assert match(*pair, ()) is None
        assert match(*pair, {"b"}, unminted=True) is None
    assert match((None,), ("b",), (), unminted=True) is None
    assert match((1,), (None,), (), unminted=True) is None
    assert match((None, A), (None, B), (), unminted=True) == {"a": "b"}


def test_ids_in_values() -> None:
    found: set[str] = set()
    wrong: Any = {"name": "t", "args": "{", "id": "w", "error": None, "type": "invalid_tool_call"}
    unnamed: Any = {**CALL, "id": None}
    message = AIMessage("x", id="m", tool_calls=[CALL, unnamed], invalid_tool_calls=[wrong])
    collect_ids({"a": [message, ("s", HumanMessage("y"))], "n": 1}, found)
    assert found == {"m", "c1", "w"}
    collect_ids(Point(ToolMessage("x", tool_call_id="t", id="u")), found)
    collect_ids((dict(CALL, id="c7"), {"type": "other", "id": "no"}, {"type": "tool_call"}), found)
    collect_ids(Point, found)
    assert found == {"m", "c1", "w", "t", "u", "c7"}
    in_snapshot: set[str] = set()
    frozen_ids(freeze([message, "plain", 1]), in_snapshot)
    assert in_snapshot == {"m", "c1", "w"}
    assert {type(s) for s in in_snapshot} == {str}


# --- renaming -------------------------------------------------------------------------------------------------------


def test_ids_are_renamed_everywhere() -> None:
    ids = {"c1": "n1", "m1": "z"}
    message = ai(content="c1", id="m1")
    new = rename({"c1": [message, ToolMessage("x", tool_call_id="c1")]}, ids)
    assert list(new) == ["n1"]
    first, second = new["n1"]
    assert (first.id, first.content, first.tool_calls[0]["id"]) == ("z", "n1", "n1")
    assert second.tool_call_id == "n1"
    assert message.id == "m1"


def test_an_id_inside_a_longer_string() -> None:
    with pytest.raises(EmbeddedId, match="the id 'c1' stands inside a longer string"):
        rename(["see c1"], {"c1": "n1"})
    assert rename(["see c1, c1 and d2"], {"c1": "n1", "d2": "n2"}, embedded=True) == ["see n1, n1 and n2"]
    assert rename(["c1", "nothing"], {"c1": "n1"}, embedded=True) == ["n1", "nothing"]
    assert rename(["swap", "wap"], {"swap": "wap", "wap": "swap"}) == ["wap", "swap"]


def test_a_renaming_without_anything_gives_the_value_itself() -> None:
    value = ["see c1"]
    assert not Renaming({}, {})
    assert Renaming({}, {})(value) is value
    renaming = Renaming({"c1": "n1"}, {})
    assert renaming
    assert renaming(value, embedded=True) == ["see n1"]
    with pytest.raises(EmbeddedId):
        renaming(value)
    assert Renaming({}, {"a": {}})
    assert Renaming({}, {"a": {}})(value) is not value


def test_records_of_the_run_are_restored() -> None:
    record = {"response_metadata": {"m": [1]}}
    message = ai(id="m1", response_metadata={"m": [0]})
    out = Renaming({"m1": "z"}, {"z": record})([message, Point(message), {"k": (message,)}, Model(a=message)])
    found = [out[0], out[1].x, out[2]["k"][0], out[3].a]
    for new in found:
        assert new.id == "z"
        assert new.response_metadata == {"m": [1]}
        assert new.response_metadata["m"] is not record["response_metadata"]["m"]
    assert message.response_metadata == {"m": [0]}
    untouched = rename([ai(id="y", response_metadata={"m": 0}), ai(id=None)], {}, {"z": record})
    assert [m.response_metadata for m in untouched] == [{"m": 0}, {}]


def test_records_are_of_new_messages_that_have_an_id() -> None:
    into: dict[str, Any] = {}
    a, b, c = (ai(id=i, response_metadata={"m": i}) for i in "abc")
    records_of([a, {"k": (b,)}, Point(c), Model(a=ai(id="d")), ai(id=None), "text"], {"b"}, into)
    assert set(into) == {"a", "c", "d"}
    assert into["a"] == {"response_metadata": {"m": "a"}, "usage_metadata": None}


def test_only_records_that_differ_are_changed() -> None:
    guessed = [ai(id="g", response_metadata={"m": 0}), ai(id="same", response_metadata={"m": 1})]
    given = [ai(id="r", response_metadata={"m": 2}), ai(id="same", response_metadata={"m": 1})]
    changed = changed_records(guessed, given, (), {"g": "r"})
    assert changed == {"r": {"response_metadata": {"m": 2}, "usage_metadata": None}}
    assert changed_records(guessed, guessed, (), {}) == {}
    assert changed_records(guessed, [], (), {}) == {}
    assert changed_records([], given, (), {}) == {}
    assert changed_records(guessed, given, {"g", "same"}, {"g": "r"}) == {}


# --- lent histories -------------------------------------------------------------------------------------------------


def history(length: int = SHORT) -> list[Any]:
    return [HumanMessage(f"question {i}", id=f"h{i}", additional_kwargs={"n": [i]}) for i in range(length)]


def take(histories: Histories, value: Any) -> tuple[Any, Loan | None]:
    loans: list[Loan] = []
    copied = histories.take(value, {}, loans, None)
    assert len(loans) <= 1
    return copied, loans[0] if loans else None


def lent(histories: Histories, value: Any) -> tuple[list[Any], Loan]:
    copied, loan = take(histories, value)
    assert loan is not None
    assert copied == value
    assert loan.copies == copied
    assert loan.copies is not copied
    assert loan.frozen == [freeze(m) for m in value]
    return copied, loan


def same_objects(a: list[Any], b: list[Any]) -> list[bool]:
    return [x is y for x, y in zip(a, b, strict=True)]


def test_short_histories_and_other_values_are_copied() -> None:
    assert SHORT == 32
    given: list[Any] = [history(SHORT - 1), tuple(history()), ["x", *history()], {"m": history()}, []]
    for value in given:
        copied, loan = take(Histories(), value)
        assert copied == value
        assert loan is None
        assert type(copied) is type(value)
    copied, loan = take(Histories(), history())
    assert loan is not None


def test_copies_are_lent_again() -> None:
    histories, messages = Histories(), history()
    first, loan = lent(histories, messages)
    assert not any(same_objects(first, messages))
    second, other = lent(histories, messages)
    assert other is not loan
    assert not any(same_objects(first, second))
    histories.give_back(loan, [])
    again, loan_again = lent(histories, messages)
    assert loan_again is loan
    assert all(same_objects(first, again))
    assert again is not first


@pytest.mark.parametrize(
    ("change", "at"),
    [
        (lambda ms: setattr(ms[3], "content", "spoiled"), 3),
        (lambda ms: ms[4].additional_kwargs["n"].append("spoiled"), 4),
        (lambda ms: setattr(ms[0], "id", "spoiled"), 0),
        (lambda ms: setattr(ms[-1], "name", "spoiled"), SHORT - 1),
    ],
)
def test_a_changed_copy_is_renewed_and_only_that(change: Callable[[list[Any]], Any], at: int) -> None:
    histories, messages = Histories(), history()
    first, loan = lent(histories, messages)
    change(first)
    histories.give_back(loan, [])
    again, _ = lent(histories, messages)
    assert [i for i, same in enumerate(same_objects(first, again)) if not same] == [at]


def test_another_class_with_the_same_fields_is_renewed() -> None:
    class Mine(HumanMessage):
        pass

    histories, messages = Histories(), history()
    first, loan = lent(histories, messages)
    histories.give_back(loan, [])
    messages[5] = Mine(**messages[5].model_dump())
    assert messages[5].__dict__ == first[5].__dict__
    again, _ = lent(histories, messages)
    assert type(again[5]) is Mine
    assert sum(same_objects(first, again)) == SHORT - 1


def test_a_loan_grows_and_shrinks_with_the_history() -> None:
    histories, messages = Histories(), history(SHORT + 4)
    first, loan = lent(histories, messages[:-2])
    histories.give_back(loan, [])
    longer, loan = lent(histories, messages)
    assert all(same_objects(first, longer[:-2]))
    histories.give_back(loan, [])
    shorter, loan = lent(histories, messages[:SHORT])
    assert all(same_objects(first[:SHORT], shorter))
    assert len(loan.copies) == len(loan.frozen) == SHORT


def test_the_lists_changes_do_not_reach_the_loan() -> None:
    histories, messages = Histories(), history()
    first, loan = lent(histories, messages)
    first.reverse()
    first.pop()
    histories.give_back(loan, [])
    again, _ = lent(histories, messages)
    assert again == messages


def holding() -> dict[str, tuple[Callable[[list[Any]], Any], bool]]:
    """Outputs, and whether the copies stay with them."""
    return {
        "none": (lambda ms: None, False),
        "text": (lambda ms: {"x": "text", "n": [1, (2,)]}, False),
        "another message": (lambda ms: {"messages": [HumanMessage("new")]}, False),
        "an equal message": (lambda ms: [copy_value(ms[0])], False),
        "a message": (lambda ms: ms[3], True),
        "the first": (lambda ms: {"messages": [1, ms[0]]}, True),
        "the last": (lambda ms: [("messages", (1, ms[-1]))], True),
        "a command": (lambda ms: Command(update={"messages": [ms[3]]}), True),
        "a command without": (lambda ms: Command(update={"x": 1}, goto="next"), False),
        "a command's send": (lambda ms: Command(goto=[Send("next", {"m": ms[3]})]), True),
        "a send": (lambda ms: Send("next", [ms[3]]), True),
        "a send without": (lambda ms: [Send("next", {"x": 1})], False),
        "an object": (lambda ms: Plain(1), True),
        "a set": (lambda ms: {"x": {1}}, True),
        "an ordered dict": (lambda ms: OrderedDict(x=1), True),
    }


@pytest.mark.parametrize("what", holding())
def test_an_output_that_may_hold_a_copy_keeps_the_loan(what: str) -> None:
    make, keeps = holding()[what]
    histories, messages = Histories(), history()
    first, loan = lent(histories, messages)
    histories.give_back(loan, [None, make(first)])
    again, _ = lent(histories, messages)
    assert all(same_objects(first, again)) is not keeps
    assert any(same_objects(first, again)) is not keeps


def test_the_snapshots_of_lent_copies_are_remembered() -> None:
    memo: dict[int, Any] = {}
    messages = history()
    copied = Histories().take(messages, memo, [], None)
    assert memo == {id(c): freeze(m) for c, m in zip(copied, messages, strict=True)}


def test_ids_before_a_fork_are_known() -> None:
    known, none = KnownIds(), KnownIds()
    assert "h0" not in none
    loans: list[Loan] = []
    histories = Histories()
    histories.take(history(), {}, loans, known)
    histories.take([HumanMessage("x", id="short")], {}, loans, known)
    loans[0].frozen.clear()
    assert "h0" in known
    assert f"h{SHORT - 1}" in known
    assert "short" in known
    assert "unheard of" not in known
    known.add_frozen([freeze(HumanMessage("y", id="later"))])
    assert "later" in known


def test_a_nodes_input_is_copied_part_by_part() -> None:
    histories, messages = Histories(), history()
    loans: list[Loan] = []
    value = {"messages": messages, "x": [1]}
    copied = histories.take_input(value, loans)
    assert copied == value
    assert copied["x"] is not value["x"]
    assert len(loans) == 1
    assert loans[0].copies == messages
    alone = histories.take_input(messages, loans)
    assert len(loans) == 2
    assert alone == messages
    assert histories.take_input(3, loans) == 3
    assert len(loans) == 2


@pytest.mark.parametrize(
    ("text", "claimable"),
    [("early", False), ("another", True)],
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: ("list", v), lambda v: ("set", frozenset([v]))])
def test_a_text_that_is_an_id_by_chance(text: str, claimable: bool, wrap: Callable[[Any], Any]) -> None:
    """It would be renamed with the id, so nothing is claimed."""
    early, real = (Id("early"), wrap(text)), (Id("real"), wrap(text))
    assert match(early, real, ()) == ({"early": "real"} if claimable else None)
    assert match((Id("early"), "early"), (Id("real"), "real"), ()) == {"early": "real"}
