"""Speculators that are objects: bound to their node, given the config, told what the committed runs did."""

from __future__ import annotations

import asyncio
from typing import Any, TypedDict

import pytest
from langgraph.graph import END, START, StateGraph

from langgraph_speculative import Guess, Policy, speculative
from langgraph_speculative.speculators import BaseSpeculator
from tests.support import LIMIT


class State(TypedDict, total=False):
    x: int
    y: int


def graph(asked: asyncio.Event | None = None) -> Any:
    async def first(state: State) -> State:
        if asked is not None:
            await asked.wait()
        return {"y": state["x"] + 1}

    async def second(state: State) -> State:
        return {"x": state["y"] * 2}

    builder = StateGraph(State)
    builder.add_node("first", first)
    builder.add_node("second", second)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    return builder.compile()


class Noting(BaseSpeculator):
    def __init__(self) -> None:
        self.bound: list[str] = []
        self.learned: list[Any] = []
        self.asked: list[Any] = []

    def bind(self, node: Any) -> BaseSpeculator:
        self.bound.append(node.label)
        return self

    def guess(self, value: Any, config: Any) -> Any:
        self.asked.append(config["configurable"].get("own"))
        return Guess({"y": 7}, usage={"small": 5})

    def learn(self, value: Any, output: Any, config: Any) -> None:
        self.learned.append((dict(value), output, config["configurable"]["own"]))


@pytest.mark.parametrize("mode", ["on", "observe"])
async def test_a_learner_is_told_what_the_runs_did(mode: Any) -> None:
    asked = asyncio.Event()

    class Awaited(Noting):
        async def aguess(self, value: Any, config: Any) -> Any:
            asked.set()
            return self.guess(value, config)

    learner = Awaited()
    fast = speculative(graph(asked), speculators={"first": learner}, effects={"*": "read"}, policy=Policy(mode=mode))
    config: Any = {"configurable": {"own": "me"}}
    await fast.ainvoke({"x": 1}, config)
    asked.clear()
    await fast.ainvoke({"x": 6}, config)
    assert fast.drain(LIMIT) == 0
    assert learner.bound == ["first"]
    assert learner.learned == [({"x": 1}, {"y": 2}, "me"), ({"x": 6}, {"y": 7}, "me")]
    assert learner.asked == ["me", "me"]
    assert fast.report().usage["small"].draft == 10


def test_a_learner_of_a_synchronous_run_is_told_too() -> None:
    learner = Noting()
    sync = StateGraph(State)
    sync.add_node("first", lambda state: {"y": state["x"] + 1})
    sync.add_edge(START, "first")
    sync.add_node("second", lambda state: {"x": state["y"] * 2})
    sync.add_edge("first", "second")
    fast = speculative(sync.compile(), speculators={"first": learner}, effects={"*": "read"})
    assert fast.invoke({"x": 1}, {"configurable": {"own": "me"}}) == {"x": 4, "y": 2}
    assert fast.drain(LIMIT) == 0
    assert learner.learned == [({"x": 1}, {"y": 2}, "me")]


async def test_a_learner_that_raises_is_reported_and_not_raised() -> None:
    class Raising(Noting):
        def learn(self, value: Any, output: Any, config: Any) -> None:
            raise ValueError("too hard")

    fast = speculative(graph(), speculators={"first": Raising()}, effects={"*": "read"})
    assert await fast.ainvoke({"x": 1}, {"configurable": {"own": "me"}}) == {"x": 4, "y": 2}
    assert fast.drain(LIMIT) == 0
    assert "'first' could not learn: ValueError: too hard" in "".join(fast.report().errors)
