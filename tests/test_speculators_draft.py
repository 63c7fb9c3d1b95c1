"""`Draft`: samples, several drafts, confidence, and what a draft may not guess for."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Sequence
from typing import Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from langgraph_speculative import Policy, SpeculationError, speculative
from langgraph_speculative.speculators import Draft, Guess
from langgraph_speculative.speculators._draft import probability_of
from tests.support import LIMIT, Probe, ScriptedModel, Signal, Tally, World, call, chain, says, turns

CONFIG: Any = {"configurable": {}}


class State(TypedDict, total=False):
    x: int
    y: int


def in_turn(outputs: Sequence[Any]) -> RunnableLambda[Any, Any]:
    """A node that returns one after another, and raises what is an exception."""
    given, lock = itertools.cycle(outputs), threading.Lock()

    def node(value: Any) -> Any:
        with lock:
            output = next(given)
        if isinstance(output, Exception):
            raise output
        return output

    async def anode(value: Any) -> Any:
        return node(value)

    return RunnableLambda(node, anode)


def ask(world: World, draft: Draft, value: Any = None) -> list[Guess]:
    if world.name == "sync":
        return draft.guess(value or {}, CONFIG)
    return asyncio.run(draft.aguess(value or {}, CONFIG))


def test_samples_that_agree_are_one_guess(world: World) -> None:
    a, b = (says("well", call("look", what="a")), says("hm", call("look", what="b")))
    again = says("I will look", call("look", what="a"))  # other words and another id, but the same call
    usage = {"input_tokens": 1, "output_tokens": 6, "total_tokens": 7}
    for message in (a, b, again):
        message.usage_metadata, message.response_metadata = usage, {"model_name": "small"}
    node = in_turn([{"messages": [b]}, {"messages": [a]}, [Command(update={"messages": [again]})]])
    guesses = ask(world, Draft(node, samples=3))
    assert [round(g.confidence, 2) for g in guesses] == [0.67, 0.33]
    called = [g.output["messages"][0].tool_calls[0]["args"] for g in guesses[1:]]
    assert called == [{"what": "b"}]
    # What the three calls have cost together is said once.
    assert [dict(g.usage) for g in guesses] == [{"small": 21}, {}]


def test_samples_run_beside_each_other(world: World) -> None:
    meeting, all_here, inputs = threading.Barrier(3, timeout=LIMIT), Signal("all three"), []

    def node(value: Any) -> Any:
        meeting.wait()
        inputs.append(value)
        value["x"] = "changed"  # each has an input of its own
        return {"y": value.get("y", 0)}

    async def anode(value: Any) -> Any:
        inputs.append(value)
        if len(inputs) == 3:
            all_here.set()
        await all_here.wait()
        value["x"] = "changed"
        return {"y": 0}

    guesses = ask(world, Draft(RunnableLambda(node, anode), samples=3), {"y": 0})
    assert [(g.output, g.confidence) for g in guesses] == [({"y": 0}, 1.0)]
    assert len({id(v) for v in inputs}) == 3


def test_a_sample_that_fails_is_none(world: World) -> None:
    guesses = ask(world, Draft(in_turn([ConnectionError("down"), {"y": 1}, {"y": 1}]), samples=3))
    assert [(g.output, g.confidence) for g in guesses] == [({"y": 1}, 1.0)]
    with pytest.raises(ConnectionError, match="down"):
        ask(world, Draft(in_turn([ConnectionError("down")]), samples=2))


def test_several_drafts_count_equally(world: World) -> None:
    sure, unsure = in_turn([{"y": 1}]), in_turn([{"y": 2}, {"y": 1}])
    guesses = ask(world, Draft([sure, unsure], samples=2))
    assert [(g.output, g.confidence) for g in guesses] == [({"y": 1}, 0.75), ({"y": 2}, 0.25)]


def spoken(text: str, *logprobs: float, tokens: Sequence[str] = (), calls: Any = ()) -> AIMessage:
    content = [{"token": t, "logprob": p} for t, p in zip(tokens or text.split(), logprobs, strict=True)]
    return AIMessage(text, response_metadata={"logprobs": {"content": content}}, tool_calls=list(calls))


def test_the_confidence_is_what_the_model_gives_to_its_tokens(world: World) -> None:
    likely, other = spoken("a b", math.log(0.9), math.log(0.5)), spoken("c", math.log(0.3))
    guesses = ask(world, Draft(in_turn([{"messages": [other]}, {"messages": [likely]}]), samples=2))
    assert [round(g.confidence, 3) for g in guesses] == [0.45, 0.3]


@pytest.mark.parametrize(
    ("output", "probability"),
    [
        ({"messages": [AIMessage("no word of it")]}, None),
        ({"messages": [spoken("a", math.log(0.5)), AIMessage("b")]}, None),
        (Command(update={"messages": [spoken("a", math.log(0.5))]}), 0.5),
        # Of the text alone, beside calls: not of all tokens.
        ([spoken("I look", -1.0, -1.0, tokens=["I", " look"], calls=[call("look")])], None),
        ([spoken("", math.log(0.25), tokens=["look()"], calls=[call("look")])], 0.25),
        ([AIMessage("a", response_metadata={"logprobs": None})], None),
        ("text", None),
        (7, None),
    ],
)
def test_log_probabilities(output: Any, probability: float | None) -> None:
    found = probability_of(output)
    assert found == (None if probability is None else pytest.approx(probability))


def test_a_node_of_a_draft_is_usable_alone() -> None:
    cheap = create_agent(ScriptedModel(script=turns(lambda: says("hello")), label="cheap"), [])
    [guess] = Draft(cheap.nodes["model"]).guess({"messages": [HumanMessage("hi")]}, CONFIG)
    assert "hello" in repr(guess.output)
    assert dict(guess.usage) == {"cheap": 5}
    with pytest.raises(SpeculationError, match="bound to a node first"):
        Draft(cheap).guess({"messages": []}, CONFIG)


# --- in a graph -----------------------------------------------------------------------------------------------------


def agent(tally: Tally, what: str, before: Any = None, label: str = "actor") -> Any:
    @tool
    def look(what: str) -> str:
        """Look something up."""
        tally.add(f"look {what}")
        return what

    script = turns(lambda: says("", call("look", what=what)), lambda: says("done"))
    return create_agent(ScriptedModel(script=script, before=before, label=label), [look])


@pytest.mark.parametrize("how", ["draft", "speculators"])
def test_the_second_of_two_drafts_is_right(world: World, probe: Probe, how: str) -> None:
    tally = probe.tally

    async def before(messages: Any) -> None:
        await tally.reached("look b").wait()

    wrong, right = agent(Tally(), "a", label="cheap"), agent(Tally(), "b", label="cheap")
    options: dict[str, Any] = (
        {"draft": [wrong, right]} if how == "draft" else {"speculators": {"model": Draft([wrong, right])}}
    )
    fast = speculative(agent(tally, "b", before), effects={"look": "read"}, policy=Policy(breadth=2), **options)
    with fast.track() as report:
        assert world.invoke(fast, {"messages": [HumanMessage("?")]})["messages"][-1].content == "done"
    assert tally["look b"] == 1
    assert report.claimed >= 1
    assert report.speculator_errors == 0
    assert report.usage["cheap"].draft in (10, 20)  # the second question may be cut off by the answer


def test_a_nested_node_takes_the_draft_of_its_graph(probe: Probe) -> None:
    outer = StateGraph(dict)
    outer.add_node("inner", agent(Tally(), "a"))
    outer.add_edge("__start__", "inner")
    for draft in (agent(Tally(), "b"), outer.compile()):
        fast = speculative(outer.compile(), speculators={"inner|model": Draft(draft)}, effects={"look": "read"})
        [model] = [i for i in fast._speculation.rewritten.all_infos() if i.label == "inner|model"]
        assert isinstance(model.speculator, Draft)
        assert "model_node" in repr(model.speculator._drafts)


def think(state: State) -> State:
    return {"y": 1}


def act(state: State) -> State:
    return {"x": 1}


@pytest.mark.parametrize(
    ("draft", "node", "effects", "match"),
    [
        (chain(State, think).compile(), "think", {}, "'think': it is neither a model .*effects=.*'think': \"pure\""),
        (chain(State, think).compile(), "act", {"*": "pure"}, "no node 'act' .it has 'think'"),
        (chain(State, ToolNode([]), names=["think"]).compile(), "think", {"*": "pure"}, "tools are never run"),
        (in_turn([1]), "think", {"*": "read"}, "neither a model"),
    ],
)
def test_what_a_draft_may_not_guess_for(draft: Any, node: str, effects: Any, match: str) -> None:
    with pytest.raises(SpeculationError, match=match):
        speculative(chain(State, think, act).compile(), speculators={node: Draft(draft)}, effects=effects)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Draft([]), r"Draft\(nothing\)"),
        (lambda: Draft(think), r"Draft\(function\): pass a compiled graph"),  # type: ignore[arg-type]
        (lambda: Draft(in_turn([1]), samples=0), "samples=0"),
        (lambda: Draft(ToolNode([])), "tools are never run"),
    ],
)
def test_what_is_no_draft(make: Any, match: str) -> None:
    with pytest.raises(SpeculationError, match=match):
        make()
