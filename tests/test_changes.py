"""In-place changes of a claimed execution's input are made to the run's own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from langgraph_speculative._changes import Changes
from langgraph_speculative._ids import Renaming
from langgraph_speculative._values import Opaque, copy_value, freeze

SAME = Renaming({}, {})


@dataclass
class Point:
    at: list[int] = field(default_factory=lambda: [1])


class Model(BaseModel):
    tags: list[str] = ["t"]
    n: int = 0


def fresh() -> dict[str, Any]:
    return {
        "list": [[1], 2],
        "dict": {"k": {"deep": [1]}},
        "set": {1, 2},
        "deque": deque([1, 2], maxlen=3),
        "tuple": ([1], 2),
        "point": Point(),
        "model": Model(),
        "messages": [HumanMessage("hi", id="h"), AIMessage("so", id="early")],
    }


def _add(state: Any) -> None:
    state["new"] = [state["list"]]


def _remove(state: Any) -> None:
    del state["dict"]["k"]


def _swap(state: Any) -> None:
    state["list"].reverse()


CHANGES: dict[str, Callable[[Any], object]] = {
    "nothing": lambda s: None,
    "append": lambda s: s["list"].append(3),
    "deep": lambda s: s["list"][0].append(3),
    "swap": _swap,
    "add a key": _add,
    "remove a key": _remove,
    "set": lambda s: s["set"].add(3),
    "deque": lambda s: s["deque"].append(3),
    "in a tuple": lambda s: s["tuple"][0].append(3),
    "in a dataclass": lambda s: s["point"].at.append(3),
    "of a dataclass": lambda s: setattr(s["point"], "at", [3]),
    "in a model": lambda s: s["model"].tags.append("u"),
    "of a model": lambda s: setattr(s["model"], "n", 3),
    "a new message": lambda s: s["messages"].append(HumanMessage("more", id="m")),
    "of a message": lambda s: setattr(s["messages"][0], "content", "changed"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_runs_input_becomes_what_the_early_one_has_become(change: Callable[[Any], object]) -> None:
    early, real, expected = fresh(), fresh(), fresh()
    parts = {name: value for name, value in real.items() if name != "set"}
    changes = Changes(early, real)
    change(early)
    change(expected)
    changes.carry_over(SAME)
    assert freeze(real) == freeze(expected)
    assert all(real[name] is value for name, value in parts.items() if name in real)


def test_what_was_shared_stays_shared() -> None:
    early, real = fresh(), fresh()
    changes = Changes(early, real)
    _add(early)
    changes.carry_over(SAME)
    assert real["new"][0] is real["list"]


def test_ids_are_the_runs() -> None:
    early, real = fresh(), fresh()
    real["messages"][1].id = "real"
    changes = Changes(early, real)
    early["list"].append("early")
    early["messages"][1].content = "changed"
    changes.carry_over(Renaming({"early": "real"}, {}))
    assert real["list"] == [[1], 2, "real"]
    assert (real["messages"][1].id, real["messages"][1].content) == ("real", "changed")


@pytest.mark.parametrize("other", [{"list": [[1]]}, {"list": [[1, 2], 2]}, {"list": {}}, []])
def test_unequal_inputs_are_refused(other: Any) -> None:
    with pytest.raises(Opaque):
        Changes({"list": [[1], 2]}, other)


VALUES = st.recursive(
    st.integers(0, 2), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner)
)


@given(VALUES, VALUES, st.data())
def test_any_change_of_any_part(value: Any, put: Any, data: st.DataObject) -> None:
    early, real, expected = [copy_value(value)], [copy_value(value)], [copy_value(value)]
    changes = Changes(early, real)
    paths = list(_containers(early, ()))
    path = data.draw(st.sampled_from(paths))
    for root in (early, expected):
        part: Any = root
        for key in path:
            part = part[key]
        if isinstance(part, list):
            part.append(copy_value(put))
        else:
            part["c"] = copy_value(put)
    changes.carry_over(SAME)
    assert freeze(real) == freeze(expected)


def _containers(value: Any, path: tuple[Any, ...]) -> Any:
    if isinstance(value, list | dict):
        yield path
        for key in range(len(value)) if isinstance(value, list) else value:
            yield from _containers(value[key], (*path, key))
