"""Routers against the graph speculation of `nvidia-nat-app`: three graphs whose branches read and write state.

That package knows no LangGraph. It plans which nodes to launch beside a router and has a runner for them; what runs a
node and what becomes of its result is the caller's. `_theirs` is the least that its documentation asks for: each node
gets a copy of the state as it was when it was launched, and the results of the chosen branch are merged in its order.
"""

from __future__ import annotations

import asyncio
import copy
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph

from benchmarks._engine_rows import Measured, timed
from langgraph_speculative import Guess, Policy, SpeculativeGraph, speculative

ROUTER, STEP = 0.5, 0.25
"""Seconds of the router's call and of each other node's."""

INPUT = {"question": "My invoice is wrong.", "notes": []}


class State(TypedDict, total=False):
    question: str
    intent: str
    draft: str
    notes: Annotated[list[str], operator.add]
    answer: str


Node = Callable[[State], Any]


@dataclass(frozen=True)
class Case:
    """One graph: a router, its branches (each a chain of nodes) and the node where they meet."""

    name: str
    branches: dict[str, tuple[str, ...]]
    nodes: dict[str, Node]

    @property
    def targets(self) -> dict[str, str]:
        return {intent: chain[0] for intent, chain in self.branches.items()}


async def router(state: State) -> State:
    await asyncio.sleep(ROUTER)
    return {"intent": "billing", "notes": ["routed"]}


async def answer(state: State) -> State:
    await asyncio.sleep(STEP)
    return {"answer": f"{state.get('draft')} ({len(state['notes'])} notes)"}


def _independent(name: str) -> Node:
    async def node(state: State) -> State:
        await asyncio.sleep(STEP)
        return {"draft": f"{name}: {state['question']}", "notes": [name]}

    return node


def _reads_route(name: str) -> Node:
    async def node(state: State) -> State:
        await asyncio.sleep(STEP)
        return {"draft": f"{name} for {state.get('intent')}", "notes": [name]}

    return node


def _reads_draft(name: str) -> Node:
    async def node(state: State) -> State:
        await asyncio.sleep(STEP)
        return {"draft": f"{name} of [{state.get('draft')}]", "notes": [name]}

    return node


CASES = (
    Case(
        "branches that read the input alone",
        {"billing": ("bill",), "tech": ("fix",), "other": ("chat",)},
        {name: _independent(name) for name in ("bill", "fix", "chat")},
    ),
    Case(
        "branches that read what the router wrote",
        {"billing": ("bill",), "tech": ("fix",), "other": ("chat",)},
        {name: _reads_route(name) for name in ("bill", "fix", "chat")},
    ),
    Case(
        "branches of two nodes, of which the second reads the first",
        {"billing": ("bill", "check"), "tech": ("fix", "test")},
        {
            **{name: _independent(name) for name in ("bill", "fix")},
            **{name: _reads_draft(name) for name in ("check", "test")},
        },
    ),
)


def compiled(case: Case) -> Any:
    """The case as a LangGraph."""
    builder = StateGraph(State)
    builder.add_node("router", router)
    builder.add_node("answer", answer)
    for name, node in case.nodes.items():
        builder.add_node(name, node)
    builder.add_edge(START, "router")
    builder.add_conditional_edges("router", lambda state: state["intent"], dict(case.targets))
    for chain in case.branches.values():
        for first, second in zip(chain, (*chain[1:], "answer"), strict=True):
            builder.add_edge(first, second)
    builder.add_edge("answer", END)
    return builder.compile()


def ours(case: Case) -> SpeculativeGraph:
    """One guess for each target of the router."""

    def targets(state: State) -> list[Guess]:
        return [Guess({"intent": intent, "notes": ["routed"]}, 1 / len(case.branches)) for intent in case.branches]

    fast: SpeculativeGraph = speculative(
        compiled(case),
        speculators={"router": targets},
        effects={"*": "pure"},
        policy=Policy(breadth=len(case.branches), depth=max(map(len, case.branches.values()))),
    )
    return fast


def _merged(state: State, update: Any) -> State:
    return {**state, **update, "notes": state["notes"] + update.get("notes", [])}  # type: ignore[typeddict-item]


def theirs(case: Case) -> Callable[[], Any]:
    """Their plan and their runner for the router; then the node where the branches meet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from nat_app import plan_speculation, run_speculation
        from nat_app.executors.execution_state import ExecutionState

    nodes: dict[str, Any] = {"router": router, "answer": answer, **case.nodes}
    edges = [
        edge for chain in case.branches.values() for edge in zip(("router", *chain), (*chain, "answer"), strict=True)
    ]
    conditional: Any = {"router": dict(case.targets)}
    (plan,) = plan_speculation(nodes, edges, conditional_edges=conditional)

    async def run() -> State:
        state: State = copy.deepcopy(INPUT)  # type: ignore[assignment]
        result = await run_speculation(
            plan,
            ExecutionState(),
            run_node=lambda name: nodes[name](copy.deepcopy(state)),
            get_decision=lambda update: str(update["intent"]),
        )
        state = _merged(state, result.decision_result)
        for name in case.branches[result.chosen_label]:
            if name in result.chosen_results:
                state = _merged(state, result.chosen_results[name])
            else:
                state = _merged(state, await nodes[name](state))
        return _merged(state, await answer(state))

    return run


def measure(rounds: int) -> dict[str, Measured]:
    """The time of ours, of theirs, over all three graphs, and on how many of them ours is unequal to plain."""
    times: dict[str, list[float]] = {"plain": [], "theirs": [], "ours": []}
    unequal: dict[str, set[str]] = {"theirs": set(), "ours": set()}

    async def main() -> None:
        ready = []
        for case in CASES:
            plain, fast = compiled(case), ours(case)
            ways = {
                "plain": lambda plain=plain: plain.ainvoke(INPUT),
                "theirs": theirs(case),
                "ours": lambda fast=fast: fast.ainvoke(INPUT),
            }
            for way in ways.values():
                await way()
            ready.append((case, ways))
        for _ in range(rounds):
            total = dict.fromkeys(times, 0.0)
            for case, ways in ready:
                results = {}
                for name, way in ways.items():
                    seconds, results[name] = await timed(way)
                    total[name] += seconds
                for name, cases in unequal.items():
                    if results[name] != results["plain"]:
                        cases.add(case.name)
            for name, seconds in total.items():
                times[name].append(seconds)

    asyncio.run(main())
    ratio = median(a / b for a, b in zip(times["ours"], times["theirs"], strict=True))
    detail = (
        ", ".join(f"{name} {median(values):.3f} s" for name, values in times.items())
        + f"; theirs unequal to plain on {len(unequal['theirs'])} of {len(CASES)}: "
        + "; ".join(sorted(unequal["theirs"]))
    )
    return {"route_vs_nat": Measured(ratio, detail), "route_unequal": Measured(float(len(unequal["ours"])))}
