"""A write and a read on every schedule: no order of starts and ends lets a run see what the plain graph cannot show.

The schedules are enumerated, and each is enforced by handshakes. One that the library rightly refuses or delays is gone
on with as soon as an event says so. Each is run in one of the worlds, and where no scopes do as much as one scope for
both, with one of the two, if there are many; with ``LANGGRAPH_SPECULATIVE_SCHEDULES=all`` in the environment, each is
run in all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import operator
import os
import random
import threading
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AnyMessage
from langchain_core.tools import StructuredTool
from langgraph.graph import StateGraph, add_messages
from langgraph.prebuilt import ToolNode

from langgraph_speculative import Event, Policy, Report, speculative
from langgraph_speculative._gate import CURRENT
from langgraph_speculative.effects import Action, Prepared, irreversible, read, reversible, staged
from tests.fuzz_runs import Notes
from tests.support import LIMIT, Signal, World, call, says

WORLDS = ("sync", "async", "mixed")
SHAPES = ("nodes", "tools", "steps")
EFFECTS = ("irreversible", "undeclared", "reversible", "staged")
SCOPES = ("none", "same", "disjoint")

Order = tuple[str, ...]


class State(TypedDict, total=False):
    n: int
    place: str
    log: Annotated[list[Any], operator.add]
    messages: Annotated[list[AnyMessage], add_messages]


class Place(TypedDict):
    """What the reader sees: nothing of the plan, so that a wrong one does not keep its read from being claimed."""

    place: str


# --- orders ---------------------------------------------------------------------------------------------------------


def span(name: str) -> Order:
    return f"{name} starts", f"{name} ends"


PLAN = "plan ends"
EARLY_WRITE, EARLY_READ, WRITE, READ = map(span, ("early write", "early read", "write", "read"))


def merged(one: Sequence[str], other: Sequence[str]) -> Iterator[Order]:
    """All ways to merge two sequences."""
    size = len(one) + len(other)
    for places in itertools.combinations(range(size), len(one)):
        ones, others = iter(one), iter(other)
        yield tuple(next(ones) if i in places else next(others) for i in range(size))


def all_merged(sequences: Sequence[Sequence[str]]) -> list[Order]:
    out: list[Order] = [()]
    for sequence in sequences:
        out = [order for done in out for order in merged(sequence, done)]
    return out


def orders_of(shape: str, early: frozenset[str], *, disjoint: bool) -> list[Order]:
    """Every order of what exists in a case.

    Where the scopes are disjoint, what is done to one place commutes with what is done to the other: of the orders that
    differ in that alone there is one.
    """
    own = {"write": EARLY_WRITE if "write" in early else (), "read": EARLY_READ if "read" in early else ()}
    if shape == "steps":
        return list(merged((*own["write"], *own["read"]), (PLAN, *WRITE, *READ)))
    if not disjoint:
        real = [(PLAN, *order) for order in merged(WRITE, READ)]
        return [order for line in real for order in all_merged([line, own["write"], own["read"]])]
    writes, reads = (list(merged(own[name], (PLAN, *span(name)))) for name in ("write", "read"))
    out = []
    for one, other in itertools.product(writes, reads):
        cut, at = one.index(PLAN), other.index(PLAN)
        out.append((*one[:cut], *other[:at], PLAN, *other[at + 1 :], *one[cut + 1 :]))
    return out


def starts_early(shape: str, effect: str, scope: str) -> frozenset[str]:
    """What the library is to start early."""
    acts = effect in ("reversible", "staged")
    if shape != "steps":
        # Of a write and a read beside each other, a write that acts drops the read or keeps it from being started.
        return frozenset(["write"] if acts else []) | (frozenset() if acts and scope != "disjoint" else {"read"})
    if not acts:
        return frozenset(["read"] if scope == "disjoint" and effect == "irreversible" else [])
    return frozenset(["write"] if effect == "staged" and scope != "disjoint" else ["write", "read"])


# --- the handshakes -------------------------------------------------------------------------------------------------


class Schedule(BaseCallbackHandler):
    """Holds everything at its place in an order.

    A hook of the policy, and a handler of the run: from the events it knows what will not come, and what comes only
    after something else.
    """

    run_inline = True

    def __init__(self, order: Order, *, waits_for: frozenset[str], overlap: bool) -> None:
        self._lock = threading.Lock()
        self._left = list(order)
        self._turns = {step: Signal(f"{step!r} of {order}") for step in order}
        self._waits_for = waits_for  # what the plan is to wait for: its early start, or its refusal
        self._overlap = overlap
        self._launched: set[str] = set()
        self._arrived: set[str] = set()
        self._judged: set[str] = set()
        self.judged = Signal("every early call is started or refused")
        if not waits_for:
            self.judged.set()
        self.is_kept = True
        self._go_on()

    async def reach(self, step: str) -> None:
        """Wait for a step's turn; one that is not in the order, or no longer, has none."""
        with self._lock:
            turn = self._turns[step] if step in self._left else None
        if turn is not None:
            await turn.wait()

    def done(self, step: str) -> None:
        self._forget(step)

    def _forget(self, *steps: str) -> None:
        with self._lock:
            self._left = [s for s in self._left if s not in steps]
        for step in steps:
            if step in self._turns:
                self._turns[step].set()
        self._go_on()

    def _go_on(self) -> None:
        with self._lock:
            while self._left and (instead := self._instead(self._left[0])) is not None:
                self.is_kept = False
                self._left = instead
                for step in self._turns.keys() - set(instead):
                    self._turns[step].set()
            if self._left:
                self._turns[self._left[0]].set()

    def _instead(self, step: str) -> list[str] | None:
        """What is left of an order whose next step cannot be made now; ``None`` if it can."""
        who, _, _ = step.rpartition(" ")
        name = who.removeprefix("early ")
        if who != name and name in self._arrived and name not in self._launched:
            return [s for s in self._left if s not in span(who)]  # the run has come to it before
        if who == name and name in self._arrived:
            # A real call waits for an early write in its way, and for an early call that it takes over.
            for early in ("write", "read"):
                if early in self._launched and (early == name or (early == "write" and self._overlap)):
                    if first := [s for s in self._left if s in span(f"early {early}")]:
                        return [*first, *(s for s in self._left if s not in first)]
        return None

    def __call__(self, event: Event) -> None:
        name = event.tool or event.node
        if name in ("write", "read"):
            if event.kind == "launch":
                self._launched.add(name)
            if event.kind in ("launch", "stop"):
                self._judged.add(name)
                if self._judged >= self._waits_for:
                    self.judged.set()
            if event.kind == "stop" or (event.kind == "discard" and name == "read"):
                self._forget(*span(f"early {name}"))
            if event.kind == "claim":
                self._forget(*span(name))
        if event.kind == "miss" and name == "plan":  # its branches are dead: nothing more is started in them
            self._forget(*(s for n in ("write", "read") if n not in self._launched for s in span(f"early {n}")))
        self._go_on()

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        name = kwargs.get("name")
        if name in ("write", "read", "tools"):
            self._arrived |= {"write", "read"} if name == "tools" else {name}
            self._go_on()


# --- the case -------------------------------------------------------------------------------------------------------


class Case:
    """A graph whose plan is followed by a write and a read, and the world that they are about."""

    def __init__(self, world: World, shape: str, effect: str, scope: str) -> None:
        self.world, self.shape, self.effect, self.scope = world, shape, effect, scope
        self.place = "y" if scope == "disjoint" else "x"
        self.schedule = Schedule((), waits_for=frozenset(), overlap=True)
        self.reset()

    def reset(self) -> None:
        self.values = {"x": 0, "y": 0}
        self.made: list[tuple[int, int]] = []
        self.planned = False
        self.journal = Notes()

    async def _plan(self) -> None:
        await self.schedule.judged.wait()
        await self.schedule.reach(PLAN)
        self.planned = True
        self.schedule.done(PLAN)

    def _put(self, n: int) -> None:
        self.made.append((self.values["x"], n))
        self.values["x"] = n

    async def _write(self, n: int) -> None:
        is_early = CURRENT.get() is not None
        starts, ends = EARLY_WRITE if is_early else WRITE
        await self.schedule.reach(starts)
        if self.effect in ("irreversible", "undeclared"):
            assert not is_early
            assert self.planned
        if not (is_early and self.effect == "staged"):
            self._put(n)
        self.schedule.done(starts)
        await self.schedule.reach(ends)
        self.schedule.done(ends)

    async def _read(self) -> int:
        starts, ends = EARLY_READ if CURRENT.get() is not None else READ
        await self.schedule.reach(starts)
        seen = self.values[self.place]
        self.schedule.done(starts)
        await self.schedule.reach(ends)
        self.schedule.done(ends)
        return seen

    def _undo(self, action: Action) -> None:
        assert action.finished
        before, n = self.made.pop()
        assert n == action.arguments["n"], "something else has been done in the same place meanwhile"
        self.values["x"] = before

    def _commit(self, action: Action) -> None:
        self._put(action.handle)

    def _effects(self) -> dict[str, Any]:
        place = {"none": None, "same": "x", "disjoint": "x"}[self.scope]
        undeclared: dict[str, Any] = {}
        prepare = lambda action, execute: Prepared(execute(), action.arguments["n"])  # noqa: E731
        made = {
            "irreversible": {"write": irreversible(scope=place)},
            "undeclared": undeclared,
            "reversible": {"write": reversible(self._undo, scope=place)},
            "staged": {"write": staged(prepare, self._commit, lambda action: None, scope=place)},
        }
        return {"plan": "pure", "read": read(scope=place and self.place), **made[self.effect]}

    def plain(self) -> Any:
        node = self.world.node
        builder = StateGraph(State)

        async def plan(state: State) -> Any:
            await self._plan()
            return self.output(7)

        builder.add_node("plan", node(plan))
        builder.add_edge("__start__", "plan")
        if self.shape == "tools":
            builder.add_node("tools", self._tools())
            builder.add_edge("plan", "tools")
            return builder.compile()

        async def write(state: State) -> Any:
            await self._write(state["n"])
            return {"log": [("wrote", state["n"])]}

        async def look(state: Place) -> Any:
            return {"log": [("saw", await self._read())]}

        builder.add_node("write", node(write))
        builder.add_node("read", node(look), input_schema=Place)
        builder.add_edge("plan", "write")
        builder.add_edge("write" if self.shape == "steps" else "plan", "read")
        return builder.compile()

    def _tools(self) -> ToolNode:
        async def write(n: int) -> str:
            """Write."""
            await self._write(n)
            return f"wrote {n}"

        async def look() -> str:
            """Read."""
            return f"saw {await self._read()}"

        key = "coroutine" if self.world.name == "async" else "func"
        made = [
            StructuredTool.from_function(**{key: self.world.node(function)}, name=name)  # type: ignore[arg-type]
            for name, function in (("write", write), ("read", look))
        ]
        return ToolNode(made)

    def output(self, n: int) -> Any:
        if self.shape == "tools":
            # The read is started first: behind a write that may not run early, its node would start nothing more.
            return {"messages": [says("", call("read"), call("write", n=n))]}
        return {"n": n}

    def fast(self, guess: int) -> Any:
        speculators: dict[str, Any] = {"plan": lambda state: self.output(guess)}
        if self.shape == "steps" and self.effect in ("irreversible", "undeclared"):
            speculators["write"] = lambda state: {"log": [("wrote", 7)]}
        policy = Policy(depth=3, hooks=(lambda event: self.schedule(event),), journal=_Current(self))  # type: ignore[arg-type]
        return speculative(self.plain(), speculators=speculators, effects=self._effects(), policy=policy)

    def outcome(self, out: Any) -> Any:
        """What a run has told, and made of the world."""
        log = [m.content for m in out["messages"][1:]] if self.shape == "tools" else out["log"]
        return log, self.values, self.made

    def run(self, graph: Any, orders: Sequence[Order], waits_for: frozenset[str] = frozenset()) -> list[Any]:
        """The outcomes of a graph on these schedules."""

        def config(order: Order) -> Any:
            self.reset()
            self.schedule = Schedule(order, waits_for=waits_for, overlap=self.scope != "disjoint")
            return {"callbacks": [self.schedule]}

        state = {"place": self.place, "n": 0}
        if self.world.name == "sync":
            return [self.outcome(graph.invoke(state, config(order))) for order in orders]

        async def main() -> list[Any]:
            return [self.outcome(await graph.ainvoke(state, config(order))) for order in orders]

        return asyncio.run(main())


class _Current:
    """The journal of the schedule that is run now."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def __getattr__(self, name: str) -> Any:
        return getattr(self._case.journal, name)

    def begin(self, entry: Any) -> None:
        self._case.journal.begin(entry)

    def advance(self, id: str, phase: Any, **kwargs: Any) -> None:
        self._case.journal.advance(id, phase, **kwargs)

    def close(self, id: str) -> None:
        self._case.journal.close(id)

    def abandoned(self, names: Any) -> Any:
        return []

    def take(self, entry: Any) -> bool:
        return False

    def shut(self) -> None:
        """Nothing is held."""


FEW = 30
"""Orders that are run everywhere."""

IDLE = (("steps", "irreversible", "none"), ("steps", "undeclared", "none"))

CASES = [
    (shape, effect, scope)
    for shape, effect, scope in itertools.product(SHAPES, EFFECTS, SCOPES)
    # Who declares nothing has no scopes; and behind a write of unknown scope that may not run early, no read may.
    if (effect != "undeclared" or scope == "none") and (shape, effect, scope) not in IDLE
]


@pytest.mark.parametrize("guess", [7, 3], ids=["right", "wrong"])
@pytest.mark.parametrize(("shape", "effect", "scope"), CASES, ids=["-".join(c) for c in CASES])
def test_no_schedule_shows_what_the_plain_graph_cannot(
    world: World, shape: str, effect: str, scope: str, guess: int
) -> None:
    case = Case(world, shape, effect, scope)
    early = starts_early(shape, effect, scope)
    alone = orders_of(shape, frozenset(), disjoint=False)
    possible = case.run(case.plain(), alone)
    orders = orders_of(shape, early, disjoint=scope == "disjoint")
    if len(orders) > FEW and os.environ.get("LANGGRAPH_SPECULATIVE_SCHEDULES") != "all":
        random.Random(1).shuffle(orders)  # or a share might have none of some kind
        orders = orders[share(world, shape, effect, scope)]
    fast = case.fast(guess)
    waits_for = frozenset({"write"} if shape == "steps" else {"write", "read"})
    kept = 0
    for order in orders:
        with fast.track() as report:
            (found,) = case.run(fast, [order], waits_for)
        # A read that was discarded may be under way in its thread, and would take steps of the next schedule.
        assert fast.drain(LIMIT) == 0, order
        kept += case.schedule.is_kept
        assert found in possible, f"{order}: {found}"
        assert case.made == [(0, 7)], order
        if shape == "steps":
            assert ("saw", 0 if scope == "disjoint" else 7) in found[0], order
        check(report, case, order)

    total = fast.report()
    assert kept or shape == "steps", "no schedule was possible as it is"
    assert total.launched or not early, "nothing was started early"
    if "write" in early:
        # Beside it, a read of its scope that is first has it taken back, even if the guess is right.
        is_sure = shape == "steps" or scope == "disjoint"
        assert (total.claimed if is_sure else total.claimed or total.rolled_back) if guess == 7 else total.rolled_back
    if effect in ("irreversible", "undeclared") and early:
        assert total.claimed, "no read was taken over on any schedule"


def share(world: World, shape: str, effect: str, scope: str) -> slice:
    """The orders that are run in this world, and with this scope."""
    first, step = WORLDS.index(world.name), len(WORLDS)
    if scope == "disjoint" or effect == "undeclared" or (shape, effect, "none") in IDLE:
        return slice(first, None, step)
    return slice(first + step * (scope == "none"), None, 2 * step)


def check(report: Report, case: Case, order: Order) -> None:
    """Whether speculation has done nothing wrong on a schedule, and left nothing behind."""
    assert not report.errors, order
    assert (report.early_irreversible_calls, report.rollback_failures) == (0, 0)
    assert not case.journal.open, order
