"""Long message histories: what a branch is given of them is its own, however it is made."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage
from langgraph.graph import END, StateGraph, add_messages

from langgraph_speculative import Policy, speculative
from langgraph_speculative._observe import Canon
from tests.support import Probe, World


class Chat(TypedDict, total=False):
    x: int
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[Any], operator.add]


LENGTH = 300


def history() -> list[AnyMessage]:
    return [
        HumanMessage(f"question {i}", id=f"h{i}")
        if i % 2
        else AIMessage(f"answer {i}", id=f"a{i}", additional_kwargs={"n": [i]})
        for i in range(LENGTH)
    ]


CHANGES: dict[str, Callable[[list[AnyMessage]], Any]] = {
    "content": lambda ms: setattr(ms[3], "content", "spoiled"),
    "deep in a field": lambda ms: ms[4].additional_kwargs["n"].append("spoiled"),
    "the list": lambda ms: ms.append(HumanMessage("spoiled", id="spoiled")),
    "the order": lambda ms: ms.reverse(),
    "an id": lambda ms: setattr(ms[5], "id", "spoiled"),
    "the last": lambda ms: setattr(ms[-1], "content", "spoiled"),
}


def conversation(world: World, probe: Probe, change: Callable[[list[AnyMessage]], Any] | None, steps: int) -> Any:
    """think -> look -> think ...: `look` changes the history in place wherever it runs before the run is there."""
    tally = probe.tally

    async def think(state: Chat) -> Any:
        if probe.watch.events and state["x"] < steps - 1:
            await tally.reached(f"look {state['x'] + 1}").wait()
        return {"x": state["x"] + 1, "messages": [AIMessage(f"thought {state['x']}", id=f"t{state['x']}")]}

    async def look(state: Chat) -> Any:
        seen = "".join(f"{m.id}{m.content}{m.additional_kwargs}" for m in state["messages"])
        first = tally.add(f"look {state['x']}") == 1
        # Each `think` but the last has waited for the early one, so the first is never the run's own.
        if change is not None and first and state["x"] < steps:
            change(state["messages"])
        return {"log": [(state["x"], len(state["messages"]), hash(seen))]}

    builder = StateGraph(Chat)
    builder.add_node("think", world.node(think))
    builder.add_node("look", world.node(look))
    builder.add_edge("__start__", "think")
    builder.add_edge("think", "look")
    builder.add_conditional_edges("look", lambda s: "think" if s["x"] < steps else END, ["think", END])
    return builder.compile()


def guess(state: Any) -> Any:
    return {"x": state["x"] + 1, "messages": [AIMessage(f"thought {state['x']}", id=f"t{state['x']}")]}


def wrong(state: Any) -> Any:
    return {"x": state["x"] + 1, "messages": [AIMessage("something else", id=f"w{state['x']}")]}


@pytest.mark.parametrize("speculator", [guess, wrong], ids=["right", "wrong"])
@pytest.mark.parametrize("what", CHANGES)
def test_what_an_early_node_does_to_the_history(world: World, probe: Probe, what: str, speculator: Any) -> None:
    """Every early `look` spoils what it was given; no later node, early or not, sees that."""
    steps = 5
    expected = world.invoke(conversation(world, Probe(), None, steps), {"x": 0, "messages": history()})
    given = history()
    fast = speculative(
        conversation(world, probe, CHANGES[what], steps),
        speculators={"think": speculator},
        effects={"*": "pure"},
        policy=Policy(depth=2, hooks=(probe.watch,)),
    )
    out = world.invoke(fast, {"x": 0, "messages": given})
    assert Canon()(out) == Canon()(expected)
    assert Canon()(given) == Canon()(history())


@pytest.mark.parametrize("depth", [1, 3])
def test_a_history_that_nobody_changes_is_claimed_on(world: World, probe: Probe, depth: int) -> None:
    steps = 8
    expected = world.invoke(conversation(world, Probe(), None, steps), {"x": 0, "messages": history()})
    fast = speculative(
        conversation(world, probe, None, steps),
        speculators={"think": guess},
        effects={"*": "pure"},
        policy=Policy(depth=depth, hooks=(probe.watch,)),
    )
    out = world.invoke(fast, {"x": 0, "messages": history()})
    assert Canon()(out) == Canon()(expected)
    assert fast.report().claimed >= steps - 2


def test_an_output_that_holds_messages_of_the_history(world: World, probe: Probe) -> None:
    """The early node keeps messages that it was given, and returns them; later branches may not write to those."""
    tally = probe.tally
    kept: list[Any] = []

    def build(waits: bool) -> Any:
        async def think(state: Chat) -> Any:
            if waits and state["x"] < 3:
                await tally.reached(f"look {state['x'] + 1}").wait()
            return {"x": state["x"] + 1}

        async def look(state: Chat) -> Any:
            kept.append((state["messages"][7], state["messages"][7].content))
            if waits:
                tally.add(f"look {state['x']}")
            return {"log": [state["messages"][7], state["messages"][8]]}

        async def edit(state: Chat) -> Any:
            return {
                "messages": [HumanMessage(f"edited {state['x']}", id="h7"), RemoveMessage(id=f"a{state['x'] * 20}")]
            }

        builder = StateGraph(Chat)
        for function in (think, look, edit):
            builder.add_node(function.__name__, world.node(function))
        builder.add_edge("__start__", "think")
        builder.add_edge("think", "look")
        builder.add_edge("look", "edit")
        builder.add_conditional_edges("edit", lambda s: "think" if s["x"] < 3 else END, ["think", END])
        return builder.compile()

    expected = world.invoke(build(False), {"x": 0, "messages": history()})
    kept.clear()
    fast = speculative(
        build(True),
        speculators={"think": lambda s: {"x": s["x"] + 1}},
        effects={"*": "pure"},
        policy=Policy(depth=3),
    )
    out = world.invoke(fast, {"x": 0, "messages": history()})
    assert Canon()(out) == Canon()(expected)
    assert fast.report().claimed >= 1
    assert all(message.content == content for message, content in kept)


def test_the_run_edits_its_history_while_branches_have_copies(world: World, probe: Probe) -> None:
    """The Actor itself changes messages in place, as the plain graph lets it."""
    tally = probe.tally

    def build(waits: bool) -> Any:
        async def think(state: Chat) -> Any:
            state["messages"][2].content = f"rewritten by turn {state['x']}"
            if waits and state["x"] < 3:
                await tally.reached("look").wait()
            return {"x": state["x"] + 1}

        async def look(state: Chat) -> Any:
            if waits:
                tally.add("look")
            return {"log": [state["messages"][2].content]}

        builder = StateGraph(Chat)
        builder.add_node("think", world.node(think))
        builder.add_node("look", world.node(look))
        builder.add_edge("__start__", "think")
        builder.add_edge("think", "look")
        builder.add_conditional_edges("look", lambda s: "think" if s["x"] < 4 else END, ["think", END])
        return builder.compile()

    expected = world.invoke(build(False), {"x": 0, "messages": history()})
    fast = speculative(
        build(True),
        speculators={"think": lambda s: {"x": s["x"] + 1}},
        effects={"*": "pure"},
        policy=Policy(depth=2),
    )
    out = world.invoke(fast, {"x": 0, "messages": history()})
    assert Canon()(out) == Canon()(expected)
    assert out["log"] == [f"rewritten by turn {i}" for i in range(4)]
