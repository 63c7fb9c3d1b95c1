"""What a branch does at each superstep: how a fork ends, what it starts there, and what it learns from it."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.errors import ParentCommand
from langgraph.pregel._write import ChannelWrite, ChannelWriteEntry
from langgraph.types import Command

from langgraph_speculative import Event, Guess
from langgraph_speculative._branch import Frame, FrameState, Proposal, Verdict
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import ToolInfo
from langgraph_speculative._scheduler import NoRoom
from langgraph_speculative._values import Opaque, freeze
from langgraph_speculative._view import Barrier
from langgraph_speculative.effects import Effect
from tests.test_tree import below, execution, info, loop, session

pytestmark = pytest.mark.usefixtures("ends_sessions")


def stopped(own: Any) -> dict[str, int]:
    return {reason: stop.count for reason, stop in own.report.stopped.items()}


def forked(own: Any, outcome: Any, *choice: Proposal | None) -> tuple[Frame, Any]:
    """A frame whose fork comes out so, and its child."""

    async def make(frame: Frame, choice: Any, child: Frame) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    own.tree._forks.make = make
    frame = Frame(loop(checkpoint_ns=("g:1",)), 1, parent=None)
    for _ in choice:
        execution(frame)
    child = below(frame, *choice, state=FrameState.FORKING)
    return child, own.tree._fork(frame, choice, child)


# --- how a fork ends ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state", "reasons"),
    [
        (None, FrameState.DEAD, {}),
        (Barrier(), FrameState.ENDED, {}),
        (Opaque("why"), FrameState.ENDED, {"the state cannot be copied: why": 1}),
        (NoRoom(), FrameState.ENDED, {"no thread is free": 1}),
        (KeyError(), FrameState.ENDED, {"the step after 'n' raised KeyError": 1}),
    ],
)
async def test_a_fork_that_cannot_be_made_ends_the_branch(outcome: Any, state: FrameState, reasons: Any) -> None:
    own = session()
    child, fork = forked(own, outcome, None)
    await fork
    assert child.state is state
    assert stopped(own) == reasons
    assert own.report.speculator_errors == 0
    assert child.executions == []


async def test_an_error_on_a_guess_is_the_speculators() -> None:
    own = session()
    child, fork = forked(own, KeyError("why"), None, Proposal(1, 1.0))
    await fork
    assert child.state is FrameState.ENDED
    assert list(own.report.errors) == ["Speculator of 'n': KeyError: 'why'"]
    assert stopped(own) == {}


async def test_an_error_behind_tasks_from_the_cache_is_nobodys() -> None:
    own = session()
    _, fork = forked(own, KeyError("why"))
    await fork
    assert stopped(own) == {"the step after 'a cached node' raised KeyError": 1}


async def test_a_cancelled_fork_is_left_as_it_is() -> None:
    own = session()
    child, fork = forked(own, asyncio.CancelledError(), None)
    with pytest.raises(asyncio.CancelledError):
        await fork
    assert child.state is FrameState.FORKING


async def test_a_command_to_the_parent_is_lent_to_it() -> None:
    own = session()
    child, fork = forked(own, ParentCommand(Command(graph=Command.PARENT, goto="x")), None)
    outer = execution(Frame(loop(), 1, parent=None))
    own.tree._outer["g:1"] = outer
    await fork
    assert child.state is FrameState.ENDED
    assert [p.output for p in outer.proposals] == [Command(goto="x")]


async def test_a_fork_that_is_made_is_run_with_what_the_cache_holds() -> None:
    own, order = session(), []
    child, fork = forked(own, "snapshot", None)

    async def look_up(loop: Any, tasks: Any) -> None:
        order.append(("look up", loop, tasks))

    own.tree._tasks_of = lambda *_: ["task"]  # type: ignore[method-assign]
    own.tree._look_up = look_up  # type: ignore[method-assign]
    own.tree._run = lambda frame, tasks: order.append(("run", frame, tasks))  # type: ignore[method-assign]
    await fork
    assert child.snapshot == "snapshot"  # type: ignore[comparison-overlap]
    assert order == [("look up", child.loop, ["task"]), ("run", child, ["task"])]


# --- what it starts -------------------------------------------------------------------------------------------------


class Started:
    """Stands in for what starts pre-executions."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start_node(self, frame: Frame, info: Any, value: Any, config: Any, used: Any) -> Execution:
        self.calls.append((info.label, value, config, set(used)))
        ex = Execution(info, frame.step, frame, State.RUNNING, Effect.PURE)
        ex.config = config
        return ex


def branch(**kwargs: Any) -> Frame:
    nodes = {n: SimpleNamespace(bound=SimpleNamespace(_speculative_info=info(n, speculate=True))) for n in "abc"}
    running = loop(nodes=nodes, output_keys="x", **kwargs)
    frame = below(Frame(running, 1, parent=None), None, state=FrameState.FORKING)
    assert frame.parent is not None
    frame.parent.executions.append(execution())
    frame.snapshot = SimpleNamespace(channels={"x": SimpleNamespace(get=lambda: "end")}, loans=[])  # type: ignore[assignment]
    return frame


def task(name: str, *writes: Any) -> Any:
    return SimpleNamespace(name=name, writes=list(writes), writers=(), input=f"to {name}", config={"configurable": {}})


async def test_each_task_of_a_branch_is_started_once_its_inputs_are_there() -> None:
    own, frame = session(), branch()
    started: Any = Started()
    own.tree.early = started
    consulted: list[Any] = []
    own.tree._consult = lambda ex, frame: consulted.append(ex)  # type: ignore[method-assign]
    expanded: list[Frame] = []
    own.tree._expand = expanded.append  # type: ignore[method-assign]
    one, cached, two = task("a"), task("b", ("x", 1)), task("c")
    own.tree._run(frame, [one, cached, two])
    assert frame.state is FrameState.RUNNING
    assert (frame.tasks, frame.fixed) == ([one, two], [cached])
    assert [ex.info.label for ex in frame.executions] == ["a", "c"]
    assert all(ex.frames == [frame] for ex in frame.executions)
    before = {frame.parent.executions[0]}  # type: ignore[union-attr]
    assert started.calls == [
        ("a", "to a", one.config, before),
        ("c", "to c", two.config, before | {frame.executions[0]}),
    ]
    assert consulted == frame.executions
    assert expanded == [frame]


async def test_a_node_that_was_asked_about_is_not_asked_about_again() -> None:
    own, frame = session(), branch()
    shared = execution(node=info("a", speculate=True))
    shared.asked = True
    own.tree.early = SimpleNamespace(start_node=lambda *_: shared)  # type: ignore[assignment]
    consulted: list[Any] = []
    own.tree._consult = lambda ex, frame: consulted.append(ex)  # type: ignore[method-assign]
    own.tree._run(frame, [task("a")])
    assert consulted == []
    assert shared.frames == [frame]


@pytest.mark.parametrize(("before", "ends"), [("*", True), (["b"], True), (["c"], False), ([], False)])
async def test_a_branch_ends_before_a_breakpoint(before: Any, ends: bool) -> None:
    own, frame = session(), branch(interrupt_before=before)
    own.tree.early = Started()  # type: ignore[assignment]
    own.tree._run(frame, [task("a"), task("b", ("x", 1))])
    assert frame.state is (FrameState.ENDED if ends else FrameState.RUNNING)
    assert bool(frame.executions) is not ends


async def test_a_branch_at_the_graphs_end_lends_what_that_returns() -> None:
    own, frame = session(), branch(checkpoint_ns=("g:1",), interrupt_before="*")
    outer = execution(Frame(loop(), 1, parent=None))
    own.tree._outer["g:1"] = outer
    own.tree._run(frame, [])
    assert frame.state is FrameState.ENDED
    assert [p.output for p in outer.proposals] == ["end"]


@pytest.mark.parametrize("what", ["dead", "no snapshot", "no loop"])
async def test_a_branch_that_has_ended_meanwhile_starts_nothing(what: str) -> None:
    own, frame = session(), branch()
    own.tree.early = started = Started()  # type: ignore[assignment]
    if what == "dead":
        frame.state = FrameState.DEAD
    elif what == "no snapshot":
        frame.snapshot = None
    else:
        frame.loop = None
    state = frame.state
    assert own.tree._tasks_of(frame) == []
    own.tree._run(frame, [task("a")])
    assert started.calls == []  # type: ignore[attr-defined]
    assert frame.state is state


# --- the node cache -------------------------------------------------------------------------------------------------


class Cache:
    def __init__(self, found: Any = None, error: Any = None) -> None:
        self.found, self.error, self.asked = found or {}, error, []  # type: ignore[var-annotated]

    def get(self, keys: Any) -> Any:
        self.asked.append((keys, threading.current_thread() is threading.main_thread()))
        if self.error is not None:
            raise self.error
        return self.found

    async def aget(self, keys: Any) -> Any:
        return self.get(keys)


def keyed(name: str, key: str | None) -> Any:
    made = task(name)
    made.cache_key = None if key is None else SimpleNamespace(ns=(name,), key=key)
    return made


@pytest.mark.parametrize("sync", [True, False])
async def test_what_the_node_cache_holds_is_written_without_a_run(sync: bool) -> None:
    own = session()
    own.sync = sync
    one, two, three = keyed("a", "k"), keyed("b", "k"), keyed("c", None)
    held = [("x", [1])]
    cache = Cache({(("a",), "k"): held})
    await own.tree._look_up(SimpleNamespace(cache=cache), [one, two, three])
    assert cache.asked == [(((("a",), "k"), (("b",), "k")), not sync)]
    assert (one.writes, two.writes, three.writes) == (held, [], [])
    assert one.writes[0][1] is not held[0][1]


async def test_nothing_is_asked_of_a_cache_for_nothing() -> None:
    own, cache = session(), Cache()
    await own.tree._look_up(SimpleNamespace(cache=cache), [])
    await own.tree._look_up(SimpleNamespace(cache=cache), [keyed("a", None)])
    await own.tree._look_up(SimpleNamespace(cache=None), [keyed("a", "k")])
    assert cache.asked == []
    assert stopped(own) == {}


@pytest.mark.parametrize(
    ("cache", "reasons"),
    [
        (Cache(error=KeyError()), {"the node cache raised KeyError": 1}),
        (Cache(error=NoRoom()), {}),
        (Cache({(("a",), "k"): [threading.Lock()]}), {}),
    ],
)
async def test_a_cache_that_fails_holds_nothing(cache: Cache, reasons: Any) -> None:
    own, one = session(), keyed("a", "k")
    await own.tree._look_up(SimpleNamespace(cache=cache), [one])
    assert one.writes == []
    assert stopped(own) == reasons


# --- what it stands on ----------------------------------------------------------------------------------------------


def journaled(ex: Execution, journal: str) -> None:
    ex.gate = SimpleNamespace(journal=journal)  # type: ignore[assignment]


async def test_the_writes_that_a_branch_stands_on_are_in_their_order() -> None:
    tree = session().tree
    top = Frame(loop(), 1, parent=None)
    one, two = execution(top), execution(top)
    inside = execution()
    two.leaves.append(inside)
    for ex, name in ((one, "one"), (two, "two"), (inside, "inside")):
        journaled(ex, name)
    middle = below(top, Proposal(1, 1.0, journals=["lent"]), None)  # type: ignore[list-item]
    journaled(execution(middle), "three")
    last = below(middle, None)
    journaled(execution(last), "its own")
    assert tree._behind(last) == ["one", "lent", "two", "inside", "three"]
    assert tree._behind(middle) == ["one", "lent", "two", "inside"]
    assert tree._behind(top) == []


# --- what it learns -------------------------------------------------------------------------------------------------


async def test_guesses_are_counted_and_told() -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    ex = execution(Frame(loop(), 1, parent=None))
    own.tree._propose(ex, Guess("x", 0.25), ex.info)  # type: ignore[arg-type]
    assert [(p.output, p.confidence) for p in ex.proposals] == [("x", 0.25)]
    assert own.report.guesses == 1
    assert [(e.kind, e.node, e.step, e.detail) for e in seen[1:]] == [("guess", "n", 1, "confidence 0.25")]


def writes_it(frame: Frame) -> None:
    """The output of the frame's first task is what it writes."""
    frame.tasks[0].writers = [ChannelWrite([ChannelWriteEntry("x")])]


@pytest.mark.parametrize(("output", "right"), [("x", True), ("y", False)])
async def test_a_pre_executions_output_judges_the_guesses_at_it(output: str, right: bool) -> None:
    own = session()
    frame = branch()
    frame.state = FrameState.RUNNING
    ex = execution(frame)
    writes_it(frame)
    own.tree._add(ex, Proposal("x", 1.0), info())
    child = below(frame, ex.proposals[0])
    ex.output, ex.has_output = output, True
    own.tree._went_on(ex)
    assert ex.proposals[0].verdict is (Verdict.RIGHT if right else Verdict.WRONG)
    assert (child.state is FrameState.DEAD) is not right


@pytest.mark.parametrize("what", ["opaque", "gone", "raises"])
async def test_one_that_cannot_be_compared_proves_no_guess_right(what: str) -> None:
    own = session()
    frame = branch()
    frame.state = FrameState.RUNNING
    ex = execution(frame)
    writes_it(frame)
    own.tree._add(ex, Proposal("x", 1.0), info())
    ex.output, ex.has_output = threading.Lock() if what == "opaque" else "x", True
    if what == "gone":
        frame.executions.clear()
    elif what == "raises":
        frame.tasks[0].writers = [ChannelWrite([ChannelWriteEntry("x", mapper=lambda v: 1 / 0)])]
    own.tree._went_on(ex)
    assert ex.proposals[0].verdict is Verdict.WRONG
    assert not own.broken


async def test_an_output_is_settled_once_it_is_the_runs_alone() -> None:
    own = session()
    frame = Frame(loop(), 1, parent=None)
    ex = execution(frame)
    expanded: list[Frame] = []
    own.tree._expand = expanded.append  # type: ignore[method-assign]
    own.tree._settle(ex, "first", None)
    own.tree._settle(ex, "second", None)
    assert (ex.output, expanded) == ("first", [frame])
    also = branch()
    ex.frames.append(also)
    own.tree._settle(ex, "third", None)
    assert (ex.output, expanded) == ("first", [frame, frame, also])


async def test_an_output_taken_over_is_that_of_the_pre_execution() -> None:
    own = session()
    early = execution(Frame(loop(), 1, parent=None))
    early.asked = True
    taken = execution()
    taken.leaves.append(early)
    own.tree.on_output(taken, "out", None)
    assert (early.output, taken.has_output) == ("out", False)
    assert own.report.windows == 1
    tool = execution(node=ToolInfo("t", Effect.PURE, "", ""))
    tool.leaves.append(execution())
    own.tree.on_output(tool, "out", None)
    assert tool.output == "out"


@pytest.mark.parametrize(("known", "right"), [(None, True), ({"m1"}, False), ({"m3"}, True)])
async def test_ids_that_are_older_than_a_guess_are_compared_as_they_are(known: Any, right: bool) -> None:
    own = session()
    one, other = Frame(loop(), 1, parent=None), branch()
    ex = execution(one)
    ex.frames.append(other)
    other.known = known
    ex.proposals.append(Proposal(1, 1.0, frozen=freeze([AIMessage("x", id="m1")])))
    own.tree._settle(ex, "out", freeze([AIMessage("x", id="m2")]))
    assert ex.proposals[0].verdict is (Verdict.RIGHT if right else Verdict.WRONG)


async def test_tokens_of_what_is_dropped_are_counted() -> None:
    own = session()
    usage: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    said = AIMessage("x", usage_metadata=usage, response_metadata={"model_name": "m"})
    for has_output in (True, False):
        ex = execution(state=State.FINISHED)
        ex.output, ex.has_output = {"messages": [said]}, has_output
        own.tree.pruning.drop([ex], "why")
    assert {m: u.discarded for m, u in own.report.usage.items()} == {"m": 3}


@pytest.mark.parametrize("what", ["task", "waiting", "root", "nothing"])
async def test_a_tree_is_active_while_there_is_something_to_prune(what: str) -> None:
    tree = session().tree
    if what == "task":
        tree._workers.spawn(asyncio.sleep(3600))
    elif what == "waiting":
        tree._window.when_within(1, 1, lambda: None)
    elif what == "root":
        tree._roots[1] = Frame(loop(), 1, parent=None)
    assert tree.is_active is (what != "nothing")
