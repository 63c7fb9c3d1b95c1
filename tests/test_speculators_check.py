"""`check_speculator`: the built-in Speculators pass it, and what does not keep to the protocol does not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.store.memory import InMemoryStore

from langgraph_speculative import Guess, SpeculationError
from langgraph_speculative.speculators import BaseSpeculator, Draft, Ensemble, History, Model, Replay, Route, Stream
from langgraph_speculative.testing import ODD_INPUTS, check_speculator
from tests.support import ScriptedModel, call, chain, says, turns


class State(TypedDict, total=False):
    x: int
    y: int


def quick(state: Any) -> Any:
    return {"y": 1}


@tool
def look(what: str) -> str:
    """Look something up."""
    return what


def text_model() -> ScriptedModel:
    answer = '{"guesses": [{"calls": [{"name": "look", "arguments": "{\\"what\\": \\"a\\"}"}], "confidence": 0.5}]}'
    return ScriptedModel(script=lambda messages: says(answer))


def agent() -> Any:
    return create_agent(ScriptedModel(script=turns(lambda: says("", call("look", what="a")))), [look])


INPUTS = [{"x": 1}, {"messages": [HumanMessage("a?")]}, {"messages": [HumanMessage("a?"), says("", call("look"))]}]
OUTPUTS = [{"y": 1}, {"messages": [says("", call("look", what="a"))]}, {"messages": [says("done")]}]

# By name: how it is made, the graph and node it is bound to, and whether it has a guess at the last input.
BUILT_IN: dict[str, tuple[Callable[[], Any], Any, str, bool]] = {
    "draft": (lambda: Draft(chain(State, quick).compile(), samples=2), chain(State, quick).compile(), "quick", True),
    "history": (lambda: History().fit(INPUTS[2:]), agent(), "model", True),
    "history in a store": (lambda: History(store=InMemoryStore()).fit(INPUTS[2:]), agent(), "model", True),
    "model": (lambda: Model(text_model()), agent(), "model", True),
    "unbound model": (lambda: Model(text_model(), tools=[look]), None, "", False),
    "replay": (Replay, agent(), "model", True),
    "replay in a store": (lambda: Replay(store=InMemoryStore()), agent(), "tools", True),
    "route": (lambda: Route({"quick": {"y": 1}}, features=repr), None, "", True),
    "stream": (Stream, agent(), "model", False),
    "ensemble": (lambda: Ensemble([Replay(), quick, Model(text_model())], threshold=1), agent(), "model", True),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_ones(name: str) -> None:
    make, graph, node, guesses = BUILT_IN[name]
    found = check_speculator(make, INPUTS, outputs=OUTPUTS, graph=graph, node=node)
    assert all(isinstance(guess, Guess) for guess in found)
    assert bool(make and check_speculator(make, INPUTS[-1:], outputs=OUTPUTS[-1:], graph=graph, node=node)) is guesses


def test_the_guesses_are_returned_after_it_has_learned() -> None:
    [guess] = check_speculator(Replay, [{"x": 1}], outputs=[{"y": 2}])
    assert guess.output == {"y": 2}
    assert check_speculator(Replay, [{"x": 1}]) == []
    assert check_speculator(lambda: quick, [{}]) == [Guess({"y": 1})]


def changes(value: Any) -> Any:
    if isinstance(value, dict):
        value["mine"] = 1


def raises_on_odd(value: Any) -> Any:
    return value["x"]


class Overconfident(Guess):
    def __post_init__(self) -> None:
        pass


class ChangesWhatItLearns(BaseSpeculator):
    def guess(self, value: Any, config: Any) -> Any:
        return None

    def learn(self, value: Any, output: Any, config: Any) -> None:
        output["y"] = 0


class RaisesInThreads(BaseSpeculator):
    def __init__(self) -> None:
        self.inside = threading.Lock()
        self.main = threading.current_thread()

    async def aguess(self, value: Any, config: Any) -> Any:
        if threading.current_thread() is not self.main:
            raise RuntimeError("not here")


class BoundToNothing(BaseSpeculator):
    def bind(self, node: Any) -> Any:
        return None


class RaisesOnALoop(BaseSpeculator):
    def guess(self, value: Any, config: Any) -> Any:
        return None

    async def aguess(self, value: Any, config: Any) -> Any:
        raise RuntimeError("no loop for me")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: changes, "guess changed what it was given"),
        (lambda: raises_on_odd, "guess raised .* for None"),
        (lambda: lambda v: Overconfident(1, 1.5), r"confidence 1.5 is outside \[0, 1\]"),
        (lambda: lambda v: Guess(1, usage={"m": -1}), "usage"),
        (lambda: lambda v: [Guess(1), 2], "counts as one output"),
        (lambda: lambda v: [], "return None for no guess"),
        (lambda: lambda v: (x for x in [iter([1])]), "a generator inside"),
        (lambda: lambda v: Guess(threading.Lock()), "cannot be compared"),
        (ChangesWhatItLearns, "learn changed"),
        (RaisesInThreads, "threads at once.*not here"),
        (RaisesOnALoop, "no loop for me.*asked on an event loop"),
    ],
)
def test_what_it_finds(make: Any, match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        check_speculator(make, [{"x": 1}], outputs=[{"y": 1}])


def test_what_is_no_speculator() -> None:
    with pytest.raises(SpeculationError, match="'int', not a callable"):
        check_speculator(lambda: 7, [])  # type: ignore[arg-type,return-value]
    graph = chain(State, quick).compile()
    with pytest.raises(AssertionError, match="no node 'slow'; it has 'quick'"):
        check_speculator(Replay, [], graph=graph, node="slow")
    with pytest.raises(AssertionError, match="must return a Speculator"):
        check_speculator(BoundToNothing, [], graph=graph, node="quick")


def test_odd_inputs_may_be_left_out() -> None:
    assert check_speculator(lambda: raises_on_odd, [{"x": 1}], odd=()) == [Guess(1)]
    assert None in ODD_INPUTS
