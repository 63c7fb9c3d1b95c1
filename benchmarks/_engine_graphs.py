"""The graphs that are measured: an agent's loop, a slow "model" and a slow "tool" that take turns.

Both nodes are pure functions of the state. A wrong guess leads to a state that the run never has, from which
the same nodes run on, with the same latencies.
"""

from __future__ import annotations

import asyncio
import operator
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph

from langgraph_speculative import Guess

NODES = ("model", "tool")
PURE = {node: "pure" for node in NODES}


class Trace(TypedDict):
    """What the nodes did so far."""

    n: int
    trace: Annotated[list[str], operator.add]


START_STATE: Any = {"n": 0, "trace": []}


def config(steps: int) -> RunnableConfig:
    """A config that lets a run of so many steps end."""
    return {"recursion_limit": steps + 10}


def right(state: Trace) -> dict[str, Any]:
    """What the node that is next returns."""
    return {"n": state["n"] + 1, "trace": [f"{NODES[state['n'] % 2]} {state['n']}"]}


def wrong(state: Trace, rank: int = 0) -> dict[str, Any]:
    """What it never returns."""
    return {"n": state["n"] + 1, "trace": [f"wrong {rank}"]}


def loop_graph(
    node: Callable[[Any], Any],
    steps: int,
    *,
    state: type = Trace,
    count: Callable[[Any], int] = lambda state: state["n"],
    checkpointer: Any = None,
    extra: dict[str, Callable[[Any], Any]] | None = None,
) -> Any:
    """A compiled graph in which "model" and "tool", both `node`, take turns until `steps` are done.

    Args:
        node: What both nodes do, sync or async. The routers are of the same kind: LangGraph sends a sync
        router of
            an async run through a thread, which is not what is measured here.
        steps: Supersteps of a run.
        state: Schema.
        count: Steps done so far, from the state.
        checkpointer: As for `compile`.
        extra: Nodes that could lead to "model" but are never reached.
    """
    builder: Any = StateGraph(state)

    def router(following: str) -> Callable[[Any], Any]:
        def route(state: Any) -> str:
            return following if count(state) < steps else END

        async def aroute(state: Any) -> str:
            return route(state)

        return aroute if asyncio.iscoroutinefunction(node) else route

    builder.add_edge(START, NODES[0])
    never = list(extra or ())
    for name, following in (NODES, NODES[::-1]):
        builder.add_node(name, node)
        builder.add_conditional_edges(name, router(following), [following, END, *never])
    for name, function in (extra or {}).items():
        builder.add_node(name, function)
        builder.add_edge(name, NODES[0])
    return builder.compile(checkpointer=checkpointer)


def fixed_graph(steps: int, call: float) -> Any:
    """`steps` sequential async calls of `call` seconds."""

    async def node(state: Trace) -> dict[str, Any]:
        await asyncio.sleep(call)
        return right(state)

    return loop_graph(node, steps)


def fixed_sync_graph(steps: int, call: float) -> Any:
    """`steps` sequential sync calls of `call` seconds."""

    def node(state: Trace) -> dict[str, Any]:
        time.sleep(call)
        return right(state)

    return loop_graph(node, steps)


@dataclass
class Counted:
    """An async Speculator that takes a while, and counts its calls."""

    guess: Callable[[Trace], dict[str, Any]]
    seconds: float
    calls: int = 0

    async def __call__(self, state: Trace) -> dict[str, Any]:
        """Guess the node's output."""
        self.calls += 1
        await asyncio.sleep(self.seconds)
        return self.guess(state)

    def for_both(self) -> dict[str, Any]:
        """As `speculators=`; plain functions, as most users write them."""

        async def speculator(state: Trace) -> dict[str, Any]:
            return await self(state)

        return dict.fromkeys(NODES, speculator)


# --- random latencies and hits, the same for the engine and the ideal schedule ------------------------------


@dataclass(frozen=True)
class Draws:
    """Random numbers of one run: every one is a function of the seed and the step alone.

    Args:
        seed: Of the run.
        steps: Supersteps.
        mean: Seconds of a call, on average; exponentially distributed.
    """

    seed: int
    steps: int
    mean: float = 0.1
    calls: tuple[float, ...] = field(init=False)
    _luck: tuple[float, ...] = field(init=False)
    _ranks: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        rng = random.Random(self.seed)
        calls, luck, ranks = zip(
            *((rng.expovariate(1 / self.mean), rng.random(), rng.random()) for _ in range(self.steps)),
            strict=True,
        )
        for name, values in (("calls", calls), ("_luck", luck), ("_ranks", ranks)):
            object.__setattr__(self, name, tuple(values))

    def hits(self, p: float) -> list[bool]:
        """For each step whether a guess is right. A higher p has the hits of a lower one, and more."""
        return [luck < p for luck in self._luck]

    def graph(self) -> Any:
        """An async graph with these latencies."""

        async def node(state: Trace) -> dict[str, Any]:
            await asyncio.sleep(self.calls[state["n"]])
            return right(state)

        return loop_graph(node, self.steps)

    def speculators(self, p: float, breadth: int, seconds: float) -> dict[str, Any]:
        """`breadth` equally likely guesses; where the step is a hit one is right, at a random rank."""
        hits = self.hits(p)

        async def speculator(state: Trace) -> list[Guess]:
            await asyncio.sleep(seconds)
            step = state["n"]
            outputs = [wrong(state, rank) for rank in range(breadth)]
            if hits[step]:
                outputs[int(self._ranks[step] * breadth)] = right(state)
            return [Guess(output, 1 / breadth) for output in outputs]

        return dict.fromkeys(NODES, speculator)


@cache
def draws(seed: int, steps: int) -> Draws:
    """The draws of one seed."""
    return Draws(seed, steps)
