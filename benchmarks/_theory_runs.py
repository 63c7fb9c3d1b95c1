"""Runs whose saving is known twice: by the report, and by plain runs that take turns with them."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.tools import StructuredTool
from langgraph.graph import END, START, StateGraph, add_messages
from langgraph.prebuilt import ToolNode

from benchmarks import _engine_graphs as graphs
from langgraph_speculative import Policy, SpeculativeGraph, speculative

CALL, GUESS, STEPS = 0.2, 0.02, 12


@dataclass(frozen=True)
class Case:
    """A graph, plain and speculative.

    Attributes:
        name: Of the case.
        plain: The graph.
        fast: The same, speculative.
        value: Input of a run.
        result: What has to be equal, of a run's output.
        config: Of a run.
        saves: Whether anything is saved; if not, differences are measured in plain runs.
    """

    name: str
    plain: Any
    fast: SpeculativeGraph
    value: Any
    result: Callable[[Any], Any]
    config: Any = field(default_factory=dict)
    saves: bool = True


def cases() -> list[Case]:
    """All cases."""
    return [
        _chain("hits, depth 1", graphs.right, 1),
        _chain("hits, depth 3", graphs.right, 3),
        _chain("misses, depth 3", graphs.wrong, 3, saves=False),
        _drawn("hits and misses, depth 1", 1),
        _drawn("hits and misses, depth 3", 3),
        _tools("parallel tools, depth 1", 1),
        _tools("parallel tools, depth 3", 3),
        _subgraphs("parallel subgraphs, depth 3", 3),
    ]


def _policy(depth: int) -> Policy:
    return Policy(depth=depth, max_in_flight=256)


def _chain(name: str, guess: Callable[[Any], Any], depth: int, *, saves: bool = True) -> Case:
    plain = graphs.fixed_graph(STEPS, CALL)
    speculators = graphs.Counted(guess, GUESS).for_both()
    fast = speculative(plain, speculators=speculators, effects=graphs.PURE, policy=_policy(depth))
    return Case(name, plain, fast, graphs.START_STATE, lambda s: s["trace"], graphs.config(STEPS), saves)


def _drawn(name: str, depth: int) -> Case:
    draws = graphs.Draws(1, STEPS, CALL)
    plain = draws.graph()
    speculators = draws.speculators(0.6, 1, GUESS)
    fast = speculative(plain, speculators=speculators, effects=graphs.PURE, policy=_policy(depth))
    return Case(name, plain, fast, graphs.START_STATE, lambda s: s["trace"], graphs.config(STEPS))


class Messages(TypedDict):
    """An agent's state."""

    messages: Annotated[list[AnyMessage], add_messages]


def _tools(name: str, depth: int) -> Case:
    """A model that calls three tools of different speed at a time."""

    def reply(state: Messages) -> dict[str, Any]:
        turn = sum(isinstance(m, AIMessage) for m in state["messages"])
        calls = [{"name": n, "args": {"key": f"{turn}"}, "id": f"{n}-{turn}"} for n in ("quick", "middling", "slow")]
        return {"messages": [AIMessage(f"turn {turn}", tool_calls=calls if turn < STEPS // 2 else [])]}

    async def model(state: Messages) -> dict[str, Any]:
        await asyncio.sleep(CALL)
        return reply(state)

    async def guess(state: Messages) -> dict[str, Any]:
        await asyncio.sleep(GUESS)
        return reply(state)

    def tool(tool_name: str, seconds: float) -> StructuredTool:
        async def look_up(key: str) -> str:
            await asyncio.sleep(seconds)
            return f"{tool_name} {key}"

        return StructuredTool.from_function(coroutine=look_up, name=tool_name, description="Look up.")

    async def more(state: Messages) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    tools = [tool("quick", CALL / 2), tool("middling", CALL), tool("slow", 1.5 * CALL)]
    builder: Any = StateGraph(Messages)
    builder.add_node("model", model)
    builder.add_node("tools", ToolNode(tools))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", more, ["tools", END])
    builder.add_edge("tools", "model")
    plain = builder.compile()
    effects = {"model": "pure"} | {t.name: "read" for t in tools}
    fast = speculative(plain, speculators={"model": guess}, effects=effects, policy=_policy(depth))
    value = {"messages": [HumanMessage("look everything up")]}
    return Case(name, plain, fast, value, lambda s: [m.text for m in s["messages"]], graphs.config(2 * STEPS))


class Log(TypedDict):
    """What was done."""

    log: Annotated[list[str], operator.add]


def _subgraphs(name: str, depth: int) -> Case:
    """Two graphs beside each other, one a little slower than the other."""

    def inner(letter: str, seconds: float) -> Any:
        builder: Any = StateGraph(Log)
        for i in range(STEPS // 2):

            async def node(state: Log, i: int = i) -> dict[str, Any]:
                await asyncio.sleep(seconds)
                return {"log": [f"{letter}{i}"]}

            builder.add_node(f"n{i}", node)
            builder.add_edge(f"n{i - 1}" if i else START, f"n{i}")
        return builder.compile()

    def guess(letter: str, i: int) -> Callable[[Any], Any]:
        async def speculator(state: Log) -> dict[str, Any]:
            await asyncio.sleep(GUESS)
            return {"log": [f"{letter}{i}"]}

        return speculator

    outer: Any = StateGraph(Log)
    speculators = {}
    for letter, seconds in (("a", CALL), ("b", 0.8 * CALL)):
        outer.add_node(letter, inner(letter, seconds))
        outer.add_edge(START, letter)
        speculators |= {f"{letter}|n{i}": guess(letter, i) for i in range(STEPS // 2)}
    plain = outer.compile()
    fast = speculative(plain, speculators=speculators, effects={"*": "pure"}, policy=_policy(depth))
    return Case(name, plain, fast, {"log": []}, lambda s: sorted(s["log"]))
