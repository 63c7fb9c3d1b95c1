"""Pre-executions on their own: what may run early, how it ends, and what its branch gets. No graph runs here."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, ToolMessage
from langgraph._internal._constants import CONFIG_KEY_READ
from langgraph.errors import ParentCommand
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command

from langgraph_speculative import Event, Policy, _scheduler
from langgraph_speculative._branch import Frame, FrameState, Proposal
from langgraph_speculative._early import Early, journals_of
from langgraph_speculative._gate import CURRENT
from langgraph_speculative._journal import JournalState
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import NodeInfo, ToolInfo
from langgraph_speculative._scheduler import NoRoom
from langgraph_speculative._session import Session
from langgraph_speculative._store import Overlay, overlay_of
from langgraph_speculative._values import fingerprint, freeze
from langgraph_speculative._view import INSIDE, KEY, Barrier, View
from langgraph_speculative.effects import Effect

pytestmark = pytest.mark.usefixtures("ends_sessions")


class Made:
    """A session's pre-executions, and what has gone on from them."""

    def __init__(self, **policy: Any) -> None:
        self.events: list[Event] = []
        self.session = Session(Policy(hooks=(self.events.append,), **policy), object(), sync=False)
        self.went_on: list[Execution] = []
        self.workers = self.session.tree._workers
        self.early = Early(self.session, self.workers, self.went_on.append)
        loop = SimpleNamespace(config={"configurable": {}}, checkpointer=None)
        self.frame = Frame(loop, 3, parent=None)

    def start(self, info: NodeInfo, value: Any = "input", used: Any = (), **kwargs: Any) -> Execution:
        return self.early.start_node(self.frame, info, value, config(), used, **kwargs)

    @property
    def stopped(self) -> dict[str, int]:
        return {reason: stop.count for reason, stop in self.session.report.stopped.items()}


@pytest.fixture
async def made() -> Made:
    return Made()


def config(**conf: Any) -> Any:
    return {"configurable": conf, "run_name": "branch"}


def node(name: str = "n", effect: Effect = Effect.PURE, act: Any = None, **kwargs: Any) -> NodeInfo:
    """A node that doubles its input, or does what `act` does."""

    async def ainvoke(value: Any, config: Any) -> Any:
        return [value, value] if act is None else await act(value, config)

    return NodeInfo(name, effect, "", "", name=name, ainvoke=ainvoke, **kwargs)


def tool_info(name: str = "t", effect: Effect = Effect.PURE, **kwargs: Any) -> ToolInfo:
    return ToolInfo(f"tools.{name}", effect, "", "", name=name, node="tools", **kwargs)


def raising(error: BaseException) -> Any:
    async def act(*_: Any) -> Any:
        raise error

    return act


def deep() -> Any:
    """Nested too deeply to be walked."""
    value: list[Any] = []
    for _ in range(sys.getrecursionlimit() + 10):
        value = [value]
    return value


async def over(ex: Execution) -> None:
    work = ex.task or ex.control
    assert work is not None
    await asyncio.wait([work])


# --- starting -------------------------------------------------------------------------------------------------------


async def test_a_pure_node_runs_early(made: Made) -> None:
    made.frame.known = {"id"}
    ex = made.start(node(), "x")
    assert (ex.state, ex.step, ex.own_step, ex.effect) == (State.RUNNING, 3, 3, Effect.PURE)
    assert (ex.key, ex.glance, ex.known) == (freeze("x"), fingerprint("x"), {"id"})
    assert (ex.input, ex.config, ex.frame) == ("x", config(), made.frame)
    assert ex.started > 0
    assert made.session.ledger.all() == [ex]
    await over(ex)
    assert (ex.state, ex.output, ex.has_output, ex.spoiled) == (State.FINISHED, ["x", "x"], True, "")
    assert ex.ended >= ex.started > 0
    assert made.went_on == [ex]
    assert made.session.report.launched == 1
    assert made.session.report.early_irreversible_calls == 0
    assert [(e.kind, e.node, e.step) for e in made.events[1:]] == [("launch", "n", 3)]
    assert made.stopped == {}


async def test_the_same_input_is_shared_by_branches_and_serves_each_once(made: Made) -> None:
    info = node()
    first = made.start(info, "x")
    assert made.start(info, "x") is first
    second = made.start(info, "x", [first])
    assert second is not first
    assert made.start(info, "x", [second]) is first
    assert made.start(info, "y") not in (first, second)
    assert made.start(node("other"), "x") not in (first, second)
    assert made.session.report.launched == 4


async def test_a_node_is_bound_to_the_superstep_of_its_own_graph(made: Made) -> None:
    info, free = node(), node(step_bound=False)
    first = made.start(info, own_step=0)
    assert (first.step, first.own_step) == (3, 0)
    assert made.start(info, own_step=0) is first
    assert made.start(info) is not first
    assert made.start(free, own_step=0) is made.start(free)


@pytest.mark.parametrize("what", ["opaque", "deep"])
async def test_an_input_that_cannot_be_compared_is_not_run(made: Made, what: str) -> None:
    value = threading.Lock() if what == "opaque" else deep()
    ex, again = made.start(node(), value), made.start(node(), value)
    assert (ex.state, ex.task) == (State.BLOCKED, None)
    assert ex.spoiled.startswith("the input of 'n' cannot be compared: ")
    assert again is not ex
    assert made.stopped == {ex.spoiled: 2}
    assert made.session.report.launched == 0


@pytest.mark.parametrize(
    ("effect", "where", "reason"),
    [
        (Effect.IRREVERSIBLE, "", "irreversible node 'n'"),
        (Effect.UNDECLARED, "", "undeclared node 'n'"),
        (Effect.PURE, "timed", "node 'n' has a timeout"),
        (Effect.READ, "tainted", "read 'n' behind an effect that is not made yet"),
        (Effect.READ, "effect", "read 'n' behind an effect that is not made yet"),
        (Effect.READ, "", ""),
        (Effect.PURE, "tainted", ""),
        (Effect.PURE, "effect", ""),
    ],
)
async def test_what_may_not_run_early_is_blocked(made: Made, effect: Effect, where: str, reason: str) -> None:
    if where == "tainted":
        made.frame.choice = (Proposal(None, 1.0, taint=None),)
        made.frame.parent = parent = Frame(made.frame.loop, 2, parent=None)
        parent.executions = [Execution(node("above"), 2, parent, State.RUNNING, Effect.PURE)]
    if where == "effect":
        made.session.ledger.begins(None, True)
    ex = made.start(node(effect=effect, timed=where == "timed"))
    assert ex.spoiled == reason
    assert ex.state is (State.BLOCKED if reason else State.RUNNING)
    assert made.session.ledger.all() == [ex]  # its guesses may be used all the same
    assert made.stopped == ({reason: 1} if reason else {})
    assert [(e.node, e.step) for e in made.events if e.kind == "stop"] == [("n", 3)] * bool(reason)
    assert made.session.report.launched == (not reason)


async def test_only_so_many_run_at_a_time() -> None:
    made = Made(max_in_flight=2)
    go = asyncio.Event()

    async def act(*_: Any) -> None:
        await go.wait()

    one, two, three = (made.start(node(f"n{i}", act=act)) for i in range(3))
    assert [ex.state for ex in (one, two, three)] == [State.RUNNING, State.RUNNING, State.BLOCKED]
    assert three.spoiled == "max_in_flight pre-executions are running"
    go.set()
    await over(one)
    await over(two)
    late = [made.start(node(f"m{i}")) for i in range(3)]
    assert [ex.state for ex in late] == [State.RUNNING, State.RUNNING, State.BLOCKED]


async def test_a_blocked_thread_keeps_its_place_until_it_is_free() -> None:
    made = Made(max_in_flight=1)
    entered, go = asyncio.Event(), threading.Event()
    running = asyncio.get_running_loop()
    names: list[str] = []

    def invoke(value: Any, config: Any) -> str:
        names.append(threading.current_thread().name)
        running.call_soon_threadsafe(entered.set)
        go.wait()
        return "late"

    ex = made.start(node(sync_only=True, invoke=invoke))
    await entered.wait()
    assert ex.is_busy
    assert ex.task is not None
    ex.task.cancel()
    await over(ex)
    assert ex.state is State.DISCARDED
    assert ex.is_busy
    assert made.start(node("m")).state is State.BLOCKED
    go.set()
    assert _scheduler.POOL.drain(made.session.owner, 10) == 0
    await asyncio.sleep(0)
    assert not ex.is_busy
    free, full = made.start(node("o")), made.start(node("p"))
    assert (free.state, full.state) == (State.RUNNING, State.BLOCKED)
    assert names == ["langgraph-speculative"]


async def test_a_thread_that_returns_leaves_its_place_once() -> None:
    made = Made(max_in_flight=1)
    for i in range(2):
        ex = made.start(node(f"n{i}", sync_only=True, invoke=lambda value, config: value))
        assert ex.state is State.RUNNING
        await over(ex)
        assert (ex.output, ex.state) == ("input", State.FINISHED)
    free, full = made.start(node("o")), made.start(node("p"))
    assert (free.state, full.state) == (State.RUNNING, State.BLOCKED)


async def test_without_a_free_thread_there_is_no_pre_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(max_in_flight=1)
    monkeypatch.setattr(_scheduler.POOL, "submit", lambda *_, **__: False)
    ex = made.start(node(sync_only=True))
    await over(ex)
    assert (ex.state, ex.spoiled, ex.in_thread) == (State.FAILED, "no thread is free", False)
    assert made.stopped == {"'n': no thread is free": 1}
    assert made.start(node("m")).state is State.RUNNING


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_function_says_what_counts() -> None:
    info = node(key_function=lambda v: v["k"])
    assert Early.key(info, {"k": 1, "other": 2}) == (freeze(1), fingerprint(1))
    assert Early.key(node(), {"k": 1}) == (freeze({"k": 1}), fingerprint({"k": 1}))
    assert Early.key(tool_info(), 1) == (freeze(1), fingerprint(1))


def test_an_input_is_looked_at_again() -> None:
    ex = Execution(node(), 1, None, State.FINISHED, Effect.PURE)
    ex.input = ["a"]
    ex.key = freeze(["a"])
    assert Early.is_unchanged(ex)
    assert Early.is_unchanged(ex, whole=True)
    ex.input.append("b")
    assert not Early.is_unchanged(ex)
    ex.input = threading.Lock()
    assert not Early.is_unchanged(ex)
    ex.info = tool_info()
    assert Early.is_unchanged(ex)


def test_what_a_key_function_hides_may_have_changed() -> None:
    ex = Execution(node(key_function=lambda v: v["k"]), 1, None, State.FINISHED, Effect.PURE)
    ex.input, ex.key = {"k": 1, "other": 2}, freeze(1)
    assert Early.is_unchanged(ex)
    assert not Early.is_unchanged(ex, whole=True)


# --- how it ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "spoiled", "reason"),
    [
        (KeyError("own"), "", "'n': raised KeyError"),
        (Barrier(), "it reached what may not run early", "'n': it reached what may not run early"),
        (asyncio.CancelledError(), "", "'n': raised CancelledError"),
        (GeneratorExit(), "it reached what may not run early", "'n': it reached what may not run early"),
    ],
)
async def test_an_error_before_the_claim_ends_the_branch(
    made: Made, error: BaseException, spoiled: str, reason: str
) -> None:
    ex = made.start(node(act=raising(error)))
    await over(ex)
    assert (ex.state, ex.error, ex.spoiled, ex.has_output) == (State.FAILED, error, spoiled, False)
    assert ex.ended > 0
    assert made.stopped == {reason: 1}
    assert made.went_on == []
    assert not ex.bind(made.session.ledger.lock)  # it came to its end unclaimed


async def test_a_cancelled_pre_execution_is_discarded(made: Made) -> None:
    ex = made.start(node(act=lambda *_: asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    assert ex.task is not None
    ex.task.cancel()
    await over(ex)
    assert ex.state is State.DISCARDED
    assert isinstance(ex.error, Barrier)
    assert made.stopped == {}
    assert made.went_on == []
    called: list[int] = []
    ex.when_over(made.session.ledger.lock, lambda: called.append(1))
    assert called == [1]


async def test_one_that_is_cancelled_before_its_first_turn_leaves_its_place() -> None:
    made = Made(max_in_flight=1)
    first = made.start(node("a"))
    assert first.task is not None
    first.task.cancel()
    await over(first)
    await asyncio.sleep(0)
    assert first.state is State.DISCARDED
    called: list[int] = []
    first.when_over(made.session.ledger.lock, lambda: called.append(1))
    assert called == [1]
    assert made.start(node("b")).state is State.RUNNING


@pytest.mark.parametrize("bound", [False, True])
async def test_a_retry_inside_is_the_nodes_own_after_the_claim(made: Made, bound: bool) -> None:
    async def act(value: Any, config: Any) -> Any:
        CURRENT.get().saw_retry = True  # type: ignore[union-attr]
        return "out"

    ex = made.start(node(act=act))
    if bound:
        assert ex.bind(made.session.ledger.lock)
    await over(ex)
    assert ex.spoiled == ("" if bound else "it retried inside")
    assert ex.state is (State.FINISHED if bound else State.FAILED)
    assert (ex.output, ex.has_output) == ("out", True)


async def test_what_the_gate_has_spoiled_is_not_used(made: Made) -> None:
    async def act(value: Any, config: Any) -> Any:
        CURRENT.get().spoil("why")  # type: ignore[union-attr]
        CURRENT.get().saw_retry = True  # type: ignore[union-attr]

    ex = made.start(node(act=act))
    await over(ex)
    assert (ex.state, ex.spoiled) == (State.FAILED, "why")
    assert made.stopped == {"'n': why": 1}
    assert made.went_on == []


async def test_a_claimed_one_is_gone_on_from_where_it_has_an_output(made: Made) -> None:
    ex = Execution(node(), 3, made.frame, State.CLAIMED, Effect.PURE)
    made.early._after(ex)
    assert made.went_on == []
    ex.has_output = True
    made.early._after(ex)
    assert made.went_on == [ex]
    ex.info = tool_info()
    made.early._after(ex)
    ex.state, ex.info = State.DISCARDED, node()
    made.early._after(ex)
    assert made.went_on == [ex]


# --- what its code is given -----------------------------------------------------------------------------------------


class Handler(BaseCallbackHandler):
    pass


@pytest.mark.parametrize("handlers", [None, [Handler()]])
async def test_its_code_runs_plain_and_reports_to_the_gate(made: Made, handlers: Any) -> None:
    given: list[Any] = []

    async def act(value: Any, config: Any) -> Any:
        given.extend([config, CURRENT.get()])

    made.session.handlers = handlers
    ex = made.start(node(act=act))
    await over(ex)
    own, gate = given
    assert gate is ex.gate
    assert own["configurable"][KEY] is INSIDE
    assert "run_name" not in own
    assert own["callbacks"].parent_run_id == gate.run_id
    assert len(own["callbacks"].handlers) == len(handlers or ())
    assert own["callbacks"].is_async
    assert KEY not in ex.config["configurable"]


async def test_code_that_blocks_is_given_synchronous_callbacks(made: Made) -> None:
    given: list[Any] = []
    ex = made.start(node(sync_only=True, invoke=lambda value, config: given.append(config)))
    await over(ex)
    assert not given[0]["callbacks"].is_async


@pytest.mark.parametrize("step_bound", [True, False])
async def test_reading_beyond_the_input_spoils_what_is_bound_to_its_step(made: Made, step_bound: bool) -> None:
    async def act(value: Any, config: Any) -> Any:
        return config["configurable"][CONFIG_KEY_READ]()

    read = config(**{CONFIG_KEY_READ: partial(lambda x: x, "channel")})
    ex = made.early.start_node(made.frame, node(act=act, step_bound=step_bound), "x", read, ())
    await over(ex)
    assert ex.output == "channel"
    assert ex.spoiled == ("it read channels beyond its input" if step_bound else "")


async def test_the_store_shows_what_the_branch_and_those_before_wrote(made: Made) -> None:
    store = InMemoryStore()
    seen: list[Any] = []

    def runs_with(*before: Execution, act: Any, name: str) -> Execution:
        runtime: Any = Runtime(store=overlay_of(store))
        return made.early.start_node(made.frame, node(name, act=act), "x", config(__pregel_runtime=runtime), (), before)

    async def puts(value: Any, config: Any) -> None:
        await config["configurable"]["__pregel_runtime"].store.aput(("a",), "key", {"x": 1})

    async def gets(value: Any, config: Any) -> None:
        item = await config["configurable"]["__pregel_runtime"].store.aget(("a",), "key")
        seen.append(item and item.value)

    first = runs_with(act=puts, name="puts")
    await over(first)
    await over(runs_with(act=gets, name="alone"))
    await over(runs_with(first, act=gets, name="behind"))
    outer = Execution(node(), 3, made.frame, State.OPEN, Effect.PURE)
    outer.leaves.append(first)
    await over(runs_with(outer, act=gets, name="behind a graph"))
    assert seen == [None, {"x": 1}, {"x": 1}]
    assert store.get(("a",), "key") is None
    assert first.journal is not None
    assert first.journal.state is JournalState.HELD
    assert journals_of([outer, first]) == [first.journal, first.journal]


async def test_a_store_that_is_no_overlay_is_left_alone(made: Made) -> None:
    store, given = InMemoryStore(), []

    async def act(value: Any, config: Any) -> None:
        given.append(config["configurable"]["__pregel_runtime"].store)

    ex = made.early.start_node(made.frame, node(act=act), "x", config(__pregel_runtime=Runtime(store=store)), ())
    await over(ex)
    assert given == [store]
    assert type(given[0]) is not Overlay
    assert ex.journal is None


# --- tool nodes and graphs ------------------------------------------------------------------------------------------


def tool_node(*tools: ToolInfo, **kwargs: Any) -> NodeInfo:
    return node("tools", Effect.UNDECLARED, kind="tools", tools={t.name: t for t in tools}, **kwargs)


def graph(*inner: NodeInfo, **kwargs: Any) -> NodeInfo:
    return node("g", Effect.UNDECLARED, kind="graph", inner=list(inner), **kwargs)


ACTS = Effect.IRREVERSIBLE


@pytest.mark.parametrize(
    ("info", "opens"),
    [
        (tool_node(tool_info("a", ACTS), tool_info("b")), True),
        (tool_node(tool_info("a", ACTS)), False),
        (tool_node(), False),
        (graph(node("a", ACTS), tool_node(tool_info("b", Effect.READ))), True),
        (graph(graph(node("a"))), True),
        (graph(node("a", ACTS), graph(tool_node(tool_info("b", ACTS)))), False),
    ],
)
async def test_a_node_with_others_inside_is_entered_if_one_may_run_early(
    made: Made, info: NodeInfo, opens: bool
) -> None:
    ex = made.start(info)
    assert ex.state is (State.OPEN if opens else State.BLOCKED)
    assert (ex.task is None, ex.control is not None) == (True, opens)
    reason = f"nothing in {info.label!r} may run early"
    assert made.stopped == ({} if opens else {reason: 1})
    assert ex.spoiled == ("" if opens else reason)
    assert made.session.report.launched == 0


async def test_it_has_the_effect_of_the_tools_that_are_called(made: Made) -> None:
    info = tool_node(tool_info("look", Effect.READ), tool_info("act", ACTS))
    called = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "c"}])
    assert made.start(info, {"messages": [called]}).effect is Effect.READ
    assert made.start(graph(node(), node("r", Effect.READ))).effect is Effect.READ


async def test_its_output_is_gone_on_from(made: Made) -> None:
    given: list[Any] = []

    async def act(value: Any, config: Any) -> Any:
        given.append(config)
        return "out"

    ex = made.start(graph(node("a"), act=act))
    await over(ex)
    assert (ex.output, ex.has_output, ex.halted, ex.state) == ("out", True, False, State.OPEN)
    assert made.went_on == [ex]
    assert given[0]["configurable"][KEY] == View(made.session, made.frame, ex)
    assert "run_name" not in given[0]


async def test_a_command_to_its_parent_is_its_output(made: Made) -> None:
    ex = made.start(graph(node("a"), act=raising(ParentCommand(Command(graph=Command.PARENT, goto="x")))))
    await over(ex)
    assert (ex.output, ex.has_output) == (Command(goto="x"), True)
    assert made.went_on == [ex]


async def test_what_it_raises_leads_nowhere(made: Made) -> None:
    ex = made.start(graph(node("a"), act=raising(KeyError())))
    await over(ex)
    assert (ex.halted, ex.has_output) == (True, False)
    assert made.went_on == []
    assert not made.session.broken


async def test_a_cancelled_one_is_not_halted(made: Made) -> None:
    ex = made.start(graph(node("a"), act=lambda *_: asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    assert ex.control is not None
    ex.control.cancel()
    await over(ex)
    assert ex.control.cancelled()
    assert (ex.halted, ex.has_output) == (False, False)


async def test_what_swallows_a_barrier_has_no_output(made: Made) -> None:
    async def act(value: Any, config: Any) -> Any:
        config["configurable"][KEY].execution.halted = True
        return "out"

    ex = made.start(graph(node("a"), act=act))
    await over(ex)
    assert not ex.has_output
    assert made.went_on == []


# --- inside them ----------------------------------------------------------------------------------------------------


def inside(made: Made) -> View:
    outer = Execution(graph(node("a")), 3, made.frame, State.OPEN, Effect.PURE)
    made.frame.executions.append(outer)
    return View(made.session, made.frame, outer)


def outer_of(view: View) -> Execution:
    assert view.execution is not None
    return view.execution


@pytest.mark.parametrize("what", ["halted", "dead", "closed", "broken"])
@pytest.mark.parametrize("kind", ["node", "tool"])
async def test_nothing_is_launched_where_a_branch_has_ended(made: Made, what: str, kind: str) -> None:
    view = inside(made)
    outer_of(view).halted = what == "halted"
    made.session.closed, made.session.broken = what == "closed", what == "broken"
    if what == "dead":
        made.frame.state = FrameState.DEAD
    if kind == "node":
        asking = made.early.inner(view, node(), "x", config())
    else:
        asking = made.early.tool(view, tool_info(), request(), executes([]))
    with pytest.raises(Barrier):
        await asking
    assert made.session.report.launched == 0


async def test_an_inner_node_is_a_pre_execution_of_its_own(made: Made) -> None:
    view, info = inside(made), node("a")
    output = await made.early.inner(view, info, ["x"], config())
    assert output == [["x"], ["x"]]
    (leaf,) = outer_of(view).leaves
    assert (leaf.info, leaf.own_step) == (info, 3)
    assert output is not leaf.output
    assert output[0] is not leaf.output[0]
    # The same again: the graph has come to it a second time.
    await made.early.inner(view, info, ["x"], config())
    assert len(set(outer_of(view).leaves)) == 2
    assert made.session.report.launched == 2


async def test_an_inner_node_with_others_inside_is_entered(made: Made) -> None:
    view = inside(made)
    assert await made.early.inner(view, graph(node("a")), "x", config()) == ["x", "x"]
    assert outer_of(view).leaves == []
    assert made.session.report.launched == 0


@pytest.mark.parametrize("what", ["blocked", "fails", "spoiled"])
async def test_an_inner_node_without_result_ends_the_branch(made: Made, what: str) -> None:
    async def act(value: Any, config: Any) -> Any:
        if what == "fails":
            raise KeyError
        CURRENT.get().spoil("why")  # type: ignore[union-attr]

    view = inside(made)
    with pytest.raises(Barrier):
        await made.early.inner(view, node("a", ACTS if what == "blocked" else Effect.PURE, act), "x", config())
    assert outer_of(view).halted
    assert len(outer_of(view).leaves) == 1


@dataclass
class ToolRuntime:
    config: Any
    stream_writer: Any = None
    store: Any = None


@dataclass
class Request:
    runtime: ToolRuntime
    tool_call: Any
    state: Any = None
    tool: Any = None

    def override(self, **kwargs: Any) -> Request:
        return replace(self, **kwargs)


def request(id: str = "call", args: Any = None, **conf: Any) -> Any:
    return Request(ToolRuntime(config(**conf)), {"name": "t", "args": args or {}, "id": id}, {"state": 1})


def executes(asked: list[Any], output: Any = "done") -> Any:
    async def execute(request: Any) -> Any:
        asked.append(request)
        return output(request) if callable(output) else output

    return execute


async def test_a_tool_call_is_a_pre_execution_of_its_own(made: Made) -> None:
    view, asked = inside(made), []
    made.frame.known = {"id"}
    own, done = request(args={"x": 1}), ["done"]
    output = await made.early.tool(view, tool_info(), own, executes(asked, done))
    assert output == ["done"]
    assert output is not done
    (leaf,) = outer_of(view).leaves
    assert (leaf.state, leaf.call_id, leaf.own_step, leaf.step) == (State.FINISHED, "call", 3, 3)
    assert (leaf.input, leaf.key, leaf.known) == ({"args": {"x": 1}}, freeze({"args": {"x": 1}}), {"id"})
    assert leaf.glance == fingerprint({"args": {"x": 1}})
    assert 0 < leaf.started <= leaf.ended
    assert own.runtime.config["configurable"][KEY] is INSIDE
    assert asked[0].runtime.config is own.runtime.config
    assert asked[0].runtime.stream_writer is not None
    assert made.session.ledger.all() == [leaf]
    assert made.went_on == []
    assert made.session.report.launched == 1


async def test_a_call_of_another_branch_is_shared_under_the_own_id(made: Made) -> None:
    one, other, asked = inside(made), inside(made), []
    info = tool_info()
    made.frame.executions.clear()
    await made.early.tool(one, info, request("first"), executes(asked))

    def answer(request: Any) -> Any:
        return {"call": request.tool_call["id"]}

    assert await made.early.tool(one, info, request("second"), executes(asked, answer)) == {"call": "second"}
    assert len(asked) == 2  # each serves it once
    outer_of(one).leaves[0].output = {"call": "first"}
    assert await made.early.tool(other, info, request("third"), executes(asked, answer)) == {"call": "third"}
    assert len(asked) == 2
    assert outer_of(other).leaves == outer_of(one).leaves[:1]
    assert await made.early.tool(other, info, request("second"), executes(asked, answer)) == {"call": "second"}
    assert len(asked) == 2


async def test_a_tool_that_nobody_knows_ends_the_branch(made: Made) -> None:
    view = inside(made)
    with pytest.raises(Barrier):
        await made.early.tool(view, None, request(), executes([]))
    assert outer_of(view).halted
    assert made.stopped == {"undeclared tool 't'": 1}
    assert made.session.ledger.all() == []


@pytest.mark.parametrize("what", ["opaque", "deep"])
async def test_arguments_that_cannot_be_compared_end_the_branch(made: Made, what: str) -> None:
    view, value = inside(made), threading.Lock() if what == "opaque" else deep()
    with pytest.raises(Barrier):
        await made.early.tool(view, tool_info(), request(args={"x": value}), executes([]))
    assert outer_of(view).halted
    (reason,) = made.stopped
    assert reason.startswith("the input of 'tools.t' cannot be compared: ")
    assert made.session.ledger.all() == []


async def test_a_tool_that_acts_ends_the_branch_and_is_noted(made: Made) -> None:
    view, asked, info = inside(made), [], tool_info(effect=ACTS)
    with pytest.raises(Barrier):
        await made.early.tool(view, info, request(), executes(asked))
    assert outer_of(view).halted
    (blocked,) = made.session.ledger.all()
    assert (blocked.state, blocked.spoiled, blocked.info) == (State.BLOCKED, "irreversible tool 'tools.t'", info)
    assert made.stopped == {"irreversible tool 'tools.t'": 1}
    assert (asked, made.session.report.launched) == ([], 0)
    # Another branch comes to the same call.
    other = inside(made)
    with pytest.raises(Barrier):
        await made.early.tool(other, info, request(), executes(asked))
    assert outer_of(other).halted
    assert outer_of(other).leaves == [blocked]
    assert made.stopped == {"irreversible tool 'tools.t'": 1}


@pytest.mark.parametrize("bound", [False, True])
async def test_a_tools_error_is_its_own_after_the_claim(made: Made, bound: bool) -> None:
    view = inside(made)

    def answer(request: Any) -> Any:
        if bound:
            (ex,) = made.session.ledger.all()
            assert ex.bind(made.session.ledger.lock)
        return ToolMessage("no", tool_call_id="call", status="error")

    with nullcontext() if bound else pytest.raises(Barrier):
        await made.early.tool(view, tool_info(), request(), executes([], answer))
    (leaf,) = outer_of(view).leaves
    assert leaf.spoiled == ("" if bound else "it returned an error")
    assert leaf.state is (State.FINISHED if bound else State.FAILED)


async def test_a_nodes_output_may_have_any_status(made: Made) -> None:
    async def act(*_: Any) -> Any:
        return ToolMessage("no", tool_call_id="call", status="error")

    ex = made.start(node(act=act))
    await over(ex)
    assert ex.state is State.FINISHED


@pytest.mark.parametrize("sync_only", [True, False])
async def test_a_tool_that_blocks_runs_in_the_pool(made: Made, sync_only: bool) -> None:
    view = inside(made)

    class Tool:
        def invoke(self, call: Any, config: Any) -> Any:
            return [call, threading.current_thread() is threading.main_thread()]

        async def ainvoke(self, call: Any, config: Any) -> Any:
            return self.invoke(call, config)

    async def execute(request: Any) -> Any:
        return await request.tool.ainvoke("call", {})

    info = tool_info(tool=Tool(), sync_only=sync_only)
    asked = request()
    asked.tool = info.tool
    assert await made.early.tool(view, info, asked, execute) == ["call", not sync_only]


async def test_no_thread_for_a_tool_ends_the_branch(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    view = inside(made)

    async def refused(*_: Any, **__: Any) -> Any:
        raise NoRoom

    monkeypatch.setattr(made.workers, "in_pool", refused)

    async def execute(request: Any) -> Any:
        return await request.tool.ainvoke("call", {})

    with pytest.raises(Barrier):
        await made.early.tool(view, tool_info(tool=SimpleNamespace(invoke=None), sync_only=True), request(), execute)
    (leaf,) = outer_of(view).leaves
    assert (leaf.state, leaf.in_thread) == (State.FAILED, False)
