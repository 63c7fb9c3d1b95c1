"""Runs a plan of `fuzz_plans` plain and speculatively, and compares what can be seen of the two.

No sleep decides an order. What takes long takes turns of the session's loop: on an event loop, the order of everything
follows from the plan; in threads, the plain run is the same in any order.
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import tempfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict
from uuid import uuid4

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store, get_stream_writer
from langgraph.graph import START, StateGraph, add_messages
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, RetryPolicy, Send, interrupt

from langgraph_speculative import (
    Action,
    BetweenTurns,
    Budget,
    CommitRefused,
    Guess,
    Policy,
    Prepared,
    Report,
    SpeculationInactiveWarning,
    _scheduler,
    speculative,
)
from langgraph_speculative._gate import CURRENT
from langgraph_speculative._observe import Recorder, Run, aobserve, observe
from langgraph_speculative.effects import Declaration, irreversible, read, reversible, staged
from langgraph_speculative.journal import Entry, Phase
from langgraph_speculative.testing import check_report, compare_runs
from tests.fuzz_plans import INNER, NAMES, Node, Plan, Shadow
from tests.support import drive, spoil

SECONDS = 20.0
"""How long one plan may take before it counts as hung."""

RUN = "run"

ENOUGH = 6
"""Turns of the graph after which its routers lead to the end."""


class Hung(KeyboardInterrupt):
    """A plan that did not end. Of this kind, because an event loop passes nothing else on."""


class Flaky(Exception):
    """What a retry helps against."""


class Early(AssertionError):
    """Irreversible nodes that ran early, as they counted it themselves."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"ran early: {names}")
        self.names = names


@dataclass
class Checked:
    """What speculation did in one plan whose runs are the same.

    Args:
        report: Its counters.
        acted: Changes of the world made early.
        early: Irreversible executions made early, as the nodes counted them.
    """

    report: Report
    acted: int = 0
    early: int = 0


HELD: ContextVar[list[Any] | None] = ContextVar("held", default=None)
"""What a staged node is to keep for its commit, instead of changing the world."""


class World:
    """What nodes change: the value of each place, and the names and inputs of those that made it, in their order.

    Args:
        is_shared: Whether several tasks may change a place at the same time: what they do then has no order.
    """

    def __init__(self, is_shared: bool) -> None:
        self._is_shared = is_shared
        self._lock = threading.Lock()
        self._values: dict[str, int] = {}
        self._made: dict[str, list[tuple[str, int, int]]] = {}
        self.acted = 0

    def show(self, places: list[str]) -> list[int]:
        with self._lock:
            return [self._values.get(place, 0) for place in places]

    def put(self, name: str, places: list[str], x: int) -> None:
        """A node changes places, in a way that depends on what is there already, unless that may be anything."""
        with self._lock:
            self.acted += CURRENT.get() is not None
            for place in places:
                before = self._values.get(place, 0)
                self._values[place] = before + x + 1 if self._is_shared else (3 * before + x + len(name)) % 1000
                self._made.setdefault(place, []).append((name, x, 0 if self._is_shared else before))

    def take_back(self, name: str, places: list[str], x: int) -> None:
        """The latest of its place, or somebody has changed it meanwhile."""
        with self._lock:
            for place in places:
                made = self._made[place]
                if self._is_shared:
                    made.remove((name, x, 0))
                    self._values[place] -= x + 1
                else:
                    assert made[-1][:2] == (name, x), f"{name} of {x} is taken back at {place}: {made}"
                    self._values[place] = made.pop()[2]

    def now(self) -> Any:
        """Its state, to be compared: what was taken back leaves nothing."""
        with self._lock:
            made = {place: sorted(m) if self._is_shared else list(m) for place, m in self._made.items() if m}
            return made, {place: self._values[place] for place in made}


class Notes:
    """A journal in memory. Only what has begun and is not closed yet can be closed."""

    def __init__(self) -> None:
        self.open: dict[str, Entry] = {}

    def begin(self, entry: Entry) -> None:
        assert entry.id not in self.open
        self.open[entry.id] = entry

    def advance(self, id: str, phase: Phase, *, result: Any = None, handle: Any = None) -> None:
        assert id in self.open

    def close(self, id: str) -> None:
        del self.open[id]

    def abandoned(self, names: Any) -> list[Entry]:
        return []

    def take(self, entry: Entry) -> bool:
        return False

    def shut(self) -> None:
        """Nothing is held."""


def mixed(a: int, b: int) -> int:
    return (2 * a + b) % 7  # not commutative: the order of writes counts


def counted(a: int, b: int) -> int:
    return 0 if b < 0 else min(a + b, 50)


def latest(a: list[str], b: list[str]) -> list[str]:
    return (a + b)[-6:]


class State(TypedDict, total=False):
    x: Annotated[int, mixed]
    turn: Annotated[int, counted]
    log: Annotated[list[str], latest]
    msgs: Annotated[list[AnyMessage], add_messages]
    last: str
    bag: list[int]


def output_of(plan: Plan, node: Node, name: str, state: Any, extra: str = "") -> Any:
    """What a node returns for a state: the same whenever and wherever it is computed."""
    x, over = state.get("x", 0), state.get("turn", 0) > ENOUGH
    update: dict[str, Any] = {"turn": 1, "log": [f"{name}{x}{extra}"]}
    if "quiet" not in node.acts:
        update["x"] = x + plan.seed + len(name)
    if "last" in node.acts:
        update["last"] = f"{name}{x}"
    if "message" in node.acts:
        update["msgs"] = [AIMessage(f"{name}{x}", id=str(uuid4()))]
    if node.out == "none":
        return None
    if node.out == "dict":
        return update
    one, two = map(plan.target, node.targets)
    if node.out == "send":
        return Command(update=update, goto=[] if over else sends(plan, node, state))
    goto = "__end__" if over else (one if x % 2 else two)
    return Command(graph=Command.PARENT if node.out == "parent" else None, update=update, goto=goto)


def sends(plan: Plan, node: Node, state: Any) -> list[Send]:
    """Tasks with inputs of their own, in which the end is nearer: each may send two more."""
    x, turn = state.get("x", 0), state.get("turn", 0) + 3
    to = [plan.target(t) for t in node.targets]
    return [Send(t, {**state, "x": x + n, "turn": turn}) for n, t in enumerate(to) if t != "__end__"]


class Bench:
    """One run's graph with all that its nodes and Speculators share."""

    def __init__(self, plan: Plan, *, fast: bool) -> None:
        self.plan = plan
        self.fast = fast
        self.made: Counter[str] = Counter()
        self.early: list[str] = []
        self.report = Report()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.world = World(plan.parallel)
        self.worlds: list[Any] = []
        self._journal = Notes()
        self._begun = 0
        self._ended: Counter[str] = Counter()
        self._moved = threading.Condition()

    # --- time: turns of the session's loop ----------------------------------------------------------------------

    async def pause(self, turns: int) -> None:
        """Take turns: on the loop, or from a thread."""
        if self.loop is not None and _running() is self.loop:
            for _ in range(turns):
                await asyncio.sleep(0)
        elif self.fast:
            self.block(turns)

    def block(self, turns: int) -> None:
        for _ in range(turns):
            turned = threading.Event()
            try:
                assert self.loop is not None
                self.loop.call_soon_threadsafe(turned.set)
            except RuntimeError:  # the loop is closed
                return
            turned.wait(1)  # not for ever: the loop may have stopped before its turn

    def _count(self, name: str) -> None:
        with self._moved:
            self._ended[name] += 1
            self._moved.notify_all()

    async def until(self, name: str = "") -> None:
        """Wait until the node has ended once more, or else until the run has."""
        run, before = self._begun, self._ended[name]

        def over() -> bool:
            return self._ended[RUN] >= run or self._ended[name] != before

        if self.loop is not None and _running() is self.loop:
            while not over():  # noqa: ASYNC110 - a turn is the unit of time here
                await asyncio.sleep(0)
        else:
            with self._moved:
                self._moved.wait_for(over, SECONDS)

    # --- nodes --------------------------------------------------------------------------------------------------

    def node(self, node: Node, name: str) -> Callable[..., Any]:
        async def work(state: Any, config: Any = None, attempt: int = 2) -> Any:
            x = state.get("x", 0)
            if node.is_counted:
                with self._moved:
                    self.made[name] += 1
                of_the_run = any(isinstance(h, Recorder) for h in config["callbacks"].handlers)
                if not of_the_run or CURRENT.get() is not None:
                    self.early.append(name)
            if "mutate" in node.acts and x % 2:
                state.setdefault("bag", []).append(x)
            extra = self._shown(node, state)
            # In several parts: a claim may come between any two of a node's acts.
            await self.pause(node.turns // 4)
            if "writer" in node.acts:
                get_stream_writer()(f"{name}{x}")
            if "event" in node.acts and _running() is not None:
                await adispatch_custom_event(name, x, config=config)
            elif "event" in node.acts:
                dispatch_custom_event(name, x, config=config)
            await self.pause(node.turns // 4)
            if "mutate" in node.acts and not x % 2:
                state.setdefault("bag", []).append(x)
            if "store_read" in node.acts:
                kept = await get_store().aget(("k",), "x") if _running() else get_store().get(("k",), "x")
                extra += f" kept {kept and kept.value}"
            await self.pause(node.turns // 4)
            if "interrupt" in node.acts:
                extra += f" answer {interrupt(name)}"
            await self.pause(node.turns - 3 * (node.turns // 4))
            if "flaky" in node.acts and attempt < 2 and x % 2:
                raise Flaky(name)
            if "fail" in node.acts and x % 7 == 3:
                raise ValueError(f"{name} cannot do with {x}")
            if "store_write" in node.acts and _running() is not None:
                await get_store().aput(("k",), "x", {"x": x})
            elif "store_write" in node.acts:
                get_store().put(("k",), "x", {"x": x})
            if node.is_writer:
                # The last that it does: what is written has returned.
                held, what = HELD.get(), (name, node.places(state), x)
                self.world.put(*what) if held is None else held.append(what)
            return output_of(self.plan, node, name, state, extra)

        async def noted(*args: Any) -> Any:
            try:
                return await work(*args)
            finally:
                self._count(name)

        async def plain(state: State) -> Any:
            return await noted(state)

        async def full(state: State, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
            return await noted(state, config, getattr(runtime.execution_info, "node_attempt", 2))

        def plain_blocking(state: State) -> Any:
            return drive(plain(state))

        def full_blocking(state: State, config: RunnableConfig, runtime: Runtime[Any]) -> Any:
            return drive(full(state, config, runtime))

        knows_more = node.is_counted or bool(node.acts & {"config", "event", "flaky"})
        if self.plan.sync or node.blocking:
            return full_blocking if knows_more else plain_blocking
        return full if knows_more else plain

    def _shown(self, node: Node, state: Any) -> str:
        """What a node tells of the world, where nobody changes it at the same time."""
        if self.plan.parallel or not (node.effect == "read" or (node.is_writer and "world" in node.acts)):
            return ""
        return f" world {self.world.show(node.places(state))}"

    # --- what is done early -------------------------------------------------------------------------------------

    def _declaration(self, node: Node, name: str) -> Declaration | str:
        scope = self._scope(node)
        if node.effect == "read":
            return read(scope=scope)
        if node.effect == "irreversible":
            return irreversible(scope=scope)
        if node.effect == "reversible":
            return reversible(self._handler(node, self._undo(node)), scope=scope)
        if node.effect == "staged":
            commit, abort = self._handler(node, self._commit), self._handler(node, lambda action: None)
            return staged(self._prepare(node), commit, abort, scope=scope)
        return node.effect

    def _scope(self, node: Node) -> Any:
        def raises(state: Any) -> Any:
            raise LookupError("no scope")

        template = {"x": "x{x}", "both": node.places}.get(node.place, node.place)
        return {"template": template, "function": node.places, "raises": raises}.get(node.scope)

    def _handler(self, node: Node, function: Callable[[Action], None]) -> Any:
        async def coroutine(action: Action) -> None:
            function(action)

        return coroutine if node.handlers == "coroutine" else function

    def _undo(self, node: Node) -> Callable[[Action], None]:
        def undo(action: Action) -> None:
            if action.finished:
                self.world.take_back(action.name, node.places(action.arguments), action.arguments.get("x", 0))

        return undo

    def _prepare(self, node: Node) -> Any:
        def prepare(action: Action, execute: Callable[[], Any]) -> Prepared:
            held: list[Any] = []
            token = HELD.set(held)
            try:
                return Prepared(execute(), held)
            finally:
                HELD.reset(token)

        async def aprepare(action: Action, execute: Callable[[], Any]) -> Prepared:
            held: list[Any] = []
            token = HELD.set(held)
            try:
                return Prepared(await execute(), held)
            finally:
                HELD.reset(token)

        return aprepare if node.handlers == "coroutine" and not (self.plan.sync or node.blocking) else prepare

    def _commit(self, action: Action) -> None:
        if action.arguments.get("x", 0) % 5 == 4:
            raise CommitRefused
        for what in action.handle:
            self.world.put(*what)

    def router(self, node: Node, name: str) -> Callable[..., Any]:
        def route(state: State) -> Any:
            if state.get("turn", 0) > ENOUGH:
                return "__end__"
            if node.edge == "spread":
                return sends(self.plan, node, state) or "__end__"
            one, two = map(self.plan.target, node.targets)
            return sorted({one, two}) if node.edge == "fan" else (one if state.get("x", 0) % 2 else two)

        async def aroute(state: State) -> Any:
            return route(state)

        chosen = route if self.plan.sync or node.router == "plain" else aroute
        chosen.__name__ = f"route_{name}"
        return chosen

    # --- the graph ----------------------------------------------------------------------------------------------

    def graph(self) -> Any:
        builder = StateGraph(State)
        for number, node in enumerate(self.plan.nodes):
            name = NAMES[number]
            self._add(builder, node, name, self._inner(node, name) if node.inner else self.node(node, name))
            ends = [*{*map(self.plan.target, node.targets), "__end__"}]
            if node.edge == "edge":
                builder.add_edge(name, self.plan.target(node.targets[0]))
            elif node.edge in ("route", "fan", "spread"):
                builder.add_conditional_edges(name, self.router(node, name), ends)
        if self.plan.join is not None:
            one, two, three = map(self.plan.target, self.plan.join)
            builder.add_edge([one, two], three)
        builder.add_edge("__start__", NAMES[0])
        before, after = map(self.plan.target, self.plan.stops)
        graph = builder.compile(
            checkpointer=InMemorySaver() if self.plan.saver else None,
            store=InMemoryStore(),
            interrupt_before=[before] if before != "__end__" else None,
            interrupt_after=[after] if after != "__end__" else None,
        )
        if not self.fast:
            return graph
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SpeculationInactiveWarning)
            return speculative(
                graph,
                speculators=dict(self._speculators()),
                effects=dict(self._effects()),
                policy=self._policy(),
            )

    def _policy(self) -> Policy:
        given = dict(self.plan.policy)
        usd, calls = given.pop("usd_per_run"), given.pop("calls")
        return Policy(
            **given,
            budget=Budget(usd_per_run=usd if given["prices"] else None, calls=calls),
            between_turns=BetweenTurns() if self.plan.think else None,
            journal=self._journal,
            rollback_attempts=1,
        )

    def _add(self, builder: Any, node: Node, name: str, action: Any) -> None:
        more: dict[str, Any] = {"defer": node.defer}
        if "flaky" in node.acts:
            more["retry_policy"] = RetryPolicy(initial_interval=0, jitter=False, max_attempts=2, retry_on=Flaky)
        if node.out in ("goto", "send") or any(n.out == "parent" for n in node.inner):
            to = {t for n in (node, *node.inner) for t in map(self.plan.target, n.targets)}
            more["destinations"] = (*to, "__end__")
        builder.add_node(name, action, **more)

    def _inner(self, node: Node, name: str) -> Any:
        builder = StateGraph(State)
        last = "__start__"
        for inner_name, inner in zip(INNER, node.inner, strict=False):
            self._add(builder, inner, inner_name, self.node(inner, f"{name}|{inner_name}"))
            builder.add_edge(last, inner_name)
            last = inner_name
        return builder.compile()

    def _all(self) -> Iterator[tuple[str, Node]]:
        for name, node in zip(NAMES, self.plan.nodes, strict=False):
            yield name, node
            yield from ((f"{name}|{i}", inner) for i, inner in zip(INNER, node.inner, strict=False))

    def _effects(self) -> Iterator[tuple[str, Any]]:
        for name, node in self._all():
            if node.effect != "undeclared" and not node.inner:
                yield name, self._declaration(node, name)
            if node.edge in ("route", "fan", "spread") and "|" not in name and node.router == "coroutine":
                yield f"route_{name}", "pure"

    # --- Speculators --------------------------------------------------------------------------------------------

    def _speculators(self) -> Iterator[tuple[str, Any]]:
        for name, node in self._all():
            if node.shadow.how != "none":
                yield name, self._shadow(node, name)
        if self.plan.think:
            yield START, self._person

    async def _person(self, state: Any) -> Any:
        """What is said next, if it is said."""
        if state.get("__interrupt__"):
            return Guess(resume="yes")
        return {"x": self.plan.seed + 1, "turn": -1, "bag": []}

    def _shadow(self, node: Node, name: str) -> Callable[[Any], Any]:
        shadow: Shadow = node.shadow

        async def guess(state: Any) -> Any:
            await self.pause(shadow.turns)
            if shadow.how == "hang":
                await self.until()
            if shadow.how == "late":
                await self.until(name)
            if shadow.how == "raise":
                raise LookupError("no idea")
            return self._guess(node, name, state)

        async def agen(state: Any) -> Any:
            for g in _several(await guess(state)):
                yield g

        def generator(state: Any) -> Any:
            yield from _several(drive(guess(state)))

        def plain(state: Any) -> Any:
            return drive(guess(state))

        return {"coroutine": guess, "asyncgen": agen, "generator": generator, "plain": plain}[shadow.form]

    def _guess(self, node: Node, name: str, state: Any) -> Any:
        how, x = node.shadow.how, state.get("x", 0)
        if how == "nothing":
            return None
        if how == "nonsense":
            return (object(), {"nope": 1}, 5, Command(goto="nowhere"), Send("nowhere", {}), {"x": "?"})[x % 6]
        extra = self._shown(node, state)
        if "store_read" in node.acts:
            extra += " kept None"
        if "interrupt" in node.acts:
            extra += " answer yes"
        right = output_of(self.plan, node, name, state, extra)
        if node.inner:
            right = {"x": x + 1, "turn": 2}
        if how == "wrong" or (how == "partly" and x % 2):
            return _elsewhere(self.plan, node, right) if x % 3 else spoil(right)
        if how == "several":
            return [Guess(spoil(right), 0.9), Guess(right, 0.5)]
        return right

    # --- running ------------------------------------------------------------------------------------------------

    def run(self) -> list[Run]:
        """What can be seen of the graph for each input."""
        graph = self.graph()
        if self.plan.sync:
            self.loop = _scheduler.CONTROL.loop() if self.fast else None
            before = set() if self.loop is None else asyncio.all_tasks(self.loop)
            runs = []
            for value in self._inputs():
                runs.append(self._ran(observe(graph, value, self._config(), **self._kwargs())))
                if self.loop is not None and self.plan.think:
                    asyncio.run_coroutine_threadsafe(self._think(), self.loop).result()
            if self.loop is not None:
                graph.close()
                asyncio.run_coroutine_threadsafe(self._rest(before), self.loop).result()
        else:
            runs = asyncio.run(self._arun(graph))
        self._check(graph)
        return runs

    async def _arun(self, graph: Any) -> list[Run]:
        self.loop = asyncio.get_running_loop()
        runs = []
        for value in self._inputs():
            runs.append(self._ran(await aobserve(graph, value, self._config(), **self._kwargs())))
            await self._think()
        if self.fast:
            await graph.aclose()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left on the loop: {left}"
        return runs

    async def _rest(self, before: set[asyncio.Task[Any]]) -> None:
        """Let what is left on the loop end: LangGraph draws random numbers there, which hypothesis must not see."""
        while left := asyncio.all_tasks() - before - {asyncio.current_task()}:
            await asyncio.wait(left)

    async def _think(self) -> None:
        for _ in range(self.plan.think):
            await asyncio.sleep(0)

    def _ran(self, run: Run) -> Run:
        self._count(RUN)
        self.worlds.append(self.world.now())
        return run

    def _inputs(self) -> Iterator[Any]:
        self._begun = 1
        yield {"x": self.plan.seed, "bag": [], "turn": 0}
        for what in self.plan.then:
            self._begun += 1
            if what == "resume":
                yield Command(resume="yes")
            else:
                yield None if what == "go on" else {"x": self.plan.seed + 1, "turn": -1, "bag": []}

    def _config(self) -> Any:
        return {
            "recursion_limit": 12,
            "configurable": {"thread_id": "1"},
            "max_concurrency": self.plan.together,
        }

    def _kwargs(self) -> dict[str, Any]:
        return {"durability": self.plan.durability} if self.plan.saver else {}

    def _check(self, graph: Any) -> None:
        if not self.fast:
            return
        assert graph.drain(SECONDS / 2) == 0, "threads are still blocked"
        self.report = report = graph.report()
        check_report(report)
        if self.early:
            raise Early(self.early)
        assert not report.rollback_failures, f"not taken back: {list(report.errors)}"
        assert not self._journal.open, f"left in the journal: {self._journal.open}"
        # Each claimed or discarded pre-execution was launched once.
        assert report.claimed + report.discarded <= report.launched, report


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _several(guesses: Any) -> list[Any]:
    return guesses if isinstance(guesses, list) else [guesses]


def _elsewhere(plan: Plan, node: Node, output: Any) -> Any:
    """An output that leads to another node."""
    if isinstance(output, Command) and node.out in ("goto", "parent"):
        return Command(graph=output.graph, update=output.update, goto=plan.target(node.targets[0]))
    return {**output, "x": output.get("x", 0) + 1} if isinstance(output, dict) else spoil(output)


# --- comparing --------------------------------------------------------------------------------------------------

SURE = ("GraphRecursionError", "InvalidUpdateError")
"""Errors that do not depend on which of several tasks ends first."""


def check(plan: Plan, *, twice: bool = False) -> Checked:
    """Run a plan plain and speculatively, or with `twice` plain both times.

    Returns:
        What speculation did.

    Raises:
        AssertionError: The runs differ.
        Hung: One of them does not end.
    """
    with limit(SECONDS):
        plain, other = Bench(plan, fast=False), Bench(plan, fast=not twice)
        expected, observed = plain.run(), other.run()
    for number, (a, b) in enumerate(zip(expected, observed, strict=True)):
        if a.is_parallel and a.error is not None and not a.error.kind.endswith(SURE):
            # The first task to fail ends the others where they stand, and how far that is depends on their speed.
            assert b.error is not None, f"no error in the speculative run; {a.error} in the plain run"
            assert b.error.kind == a.error.kind
            before, after = a.unordered().chunks[:-1], b.unordered().chunks[:-1]
            assert before == after, "they differ before the step that fails"
            return Checked(other.report, other.world.acted, len(other.early))
        compare_runs(expected[number : number + 1], observed[number : number + 1])
        worlds = plain.worlds[number], other.worlds[number]
        assert worlds[0] == worlds[1], f"the world: {worlds[0]} in the plain run, {worlds[1]} in the speculative run"
    assert other.made == plain.made, f"executions: {plain.made} in the plain run, {other.made} in the speculative run"
    return Checked(other.report, other.world.acted, len(other.early))


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Raise `Hung` with all threads' tracebacks after so many seconds."""

    def hung(*_: Any) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            raise Hung(f"no end after {seconds:g} s\n{file.read()}")

    # The timer may be pytest's own.
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, hung)
    try:
        # Again and again: what is raised inside the garbage collector is lost.
        signal.setitimer(signal.ITIMER_REAL, seconds, 5)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, remaining)
