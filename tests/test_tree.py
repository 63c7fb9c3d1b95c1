"""Branches on their own: a real session and tree, with stubs for Pregel's loop, so that no graph runs here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.pregel._write import ChannelWrite, ChannelWriteEntry

from langgraph_speculative import Event, Policy, Report
from langgraph_speculative._branch import Frame, FrameState, Proposal, Verdict, Window
from langgraph_speculative._histories import Loan
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import NodeInfo, ToolInfo
from langgraph_speculative._session import Session
from langgraph_speculative.effects import Effect

pytestmark = pytest.mark.usefixtures("ends_sessions")


def loop(**kwargs: Any) -> Any:
    parts: dict[str, Any] = {
        "checkpoint_ns": (),
        "interrupt_after": (),
        "interrupt_before": (),
        "step": 1,
        "stop": 100,
        "nodes": {},
        "tasks": {},
        "channels": {"x": None},
    }
    return SimpleNamespace(**{**parts, **kwargs})


def session(**policy: Any) -> Session:
    return Session(Policy(**policy), object(), sync=False)


def info(name: str = "n", **kwargs: Any) -> NodeInfo:
    return NodeInfo(name, Effect.PURE, "", "", name=name, **kwargs)


def task(name: str = "n") -> Any:
    """Its output is what it writes: as one pair, or not at all."""
    return SimpleNamespace(name=name, writers=(), writes=[])


def execution(frame: Frame | None = None, state: State = State.RUNNING, node: Any = None, step: int = 1) -> Execution:
    ex = Execution(node or info(), step, frame, state, Effect.PURE)
    ex.config = {"configurable": {}}
    if frame is not None:
        frame.executions.append(ex)
        frame.tasks.append(task(ex.info.label))
        ex.frames.append(frame)
    return ex


def below(frame: Frame, *choice: Proposal | None, state: FrameState = FrameState.RUNNING) -> Frame:
    child = Frame(frame.loop, frame.step + 1, parent=frame, choice=choice)
    child.state = state
    frame.children[choice] = child
    return child


class Work:
    """Stands in for an `asyncio.Task`."""

    def __init__(self, done: bool = False) -> None:
        self.is_cancelled = False
        self._done = done

    def cancel(self) -> None:
        self.is_cancelled = True

    def done(self) -> bool:
        return self._done


# --- pruning --------------------------------------------------------------------------------------------------------


async def test_a_branch_dies_with_all_below_it() -> None:
    tree = session().tree
    top = Frame(loop(), 1, parent=None)
    child = below(top)
    grandchild, ended = below(child, None), below(child, Proposal(1, 1.0), state=FrameState.ENDED)
    aside = below(top, None)
    tree.pruning.kill(child)
    assert {f.state for f in (child, grandchild, ended)} == {FrameState.DEAD}
    assert (child.parent, grandchild.parent) == (None, None)
    assert aside.state is FrameState.RUNNING


async def test_a_dead_branch_lets_its_executions_go_and_their_shadows_end() -> None:
    tree = session().tree
    top = Frame(loop(), 1, parent=None)
    one, other = below(top, None), below(top, Proposal(1, 1.0))
    own, shared = execution(one), execution(one)
    shared.frames.append(other)
    other.executions.append(shared)
    for ex in (own, shared):
        ex.shadow, ex.control, ex.task = Work(), Work(), Work()  # type: ignore[assignment]
    tree.pruning.kill(one)
    assert own.frames == []
    assert own.shadow.is_cancelled  # type: ignore[union-attr]
    assert own.control.is_cancelled  # type: ignore[union-attr]
    # It may be claimed still.
    assert not own.task.is_cancelled  # type: ignore[union-attr]
    # The other branch goes on with what both use.
    assert shared.frames == [other]
    assert not shared.shadow.is_cancelled  # type: ignore[union-attr]
    assert not shared.control.is_cancelled  # type: ignore[union-attr]
    tree.pruning.kill(other)
    assert shared.shadow.is_cancelled  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("verdict", "known", "withdrawn"),
    [(Verdict.OPEN, False, True), (Verdict.RIGHT, False, False), (Verdict.OPEN, True, False)],
)
async def test_what_a_dead_branch_has_lent_is_withdrawn(verdict: Verdict, known: bool, withdrawn: bool) -> None:
    """A nested graph's branch lent its end to the parent: the parent's branch on that dies with it."""
    tree = session().tree
    parent = Frame(loop(), 1, parent=None)
    outer = execution(parent)
    outer.has_output = known
    lent, other = Proposal("end", 1.0, verdict=verdict), Proposal("other", 1.0)
    outer.proposals += [lent, other]
    on_it, beside = below(parent, lent), below(parent, other)
    inner = below(Frame(loop(checkpoint_ns=("outer",)), 0, parent=None))
    inner.lent = outer, lent
    tree.pruning.kill(inner)
    assert (lent.verdict is Verdict.WRONG) is withdrawn
    assert (on_it.state is FrameState.DEAD) is withdrawn
    assert beside.state is FrameState.RUNNING


async def test_a_failed_execution_leads_nowhere() -> None:
    tree = session().tree
    top = Frame(loop(), 1, parent=None)
    own, early = execution(top), execution(top)
    child = below(top, None, None)
    claimant = Execution(info(), 1, top, State.RUNNING, Effect.PURE)
    claimant.leaves.append(early)
    tree.on_failure(claimant)
    assert child.state is FrameState.DEAD
    child = below(top, None, None)
    tree.on_failure(own)
    assert child.state is FrameState.DEAD


# --- lending --------------------------------------------------------------------------------------------------------


async def test_a_nested_graphs_end_is_lent_with_the_confidence_of_its_line() -> None:
    tree = session().tree
    parent = Frame(loop(), 1, parent=None)
    outer = execution(parent, node=info("g"))
    outer.info.kind = "graph"  # type: ignore[union-attr]
    tree._outer["g:1|h:2"] = outer
    nested = loop(checkpoint_ns=("g:1", "h:2"))
    first = below(Frame(nested, 0, parent=None), Proposal(1, 0.5), None)
    last = below(first, Proposal(2, 0.5), Proposal(3, 0.8))
    first.parent.executions = [execution(), execution()]  # type: ignore[union-attr]
    first.executions = [execution(), execution()]
    first.parent.executions[0].effect, first.parent.executions[0].scopes = Effect.IRREVERSIBLE, frozenset("a")  # type: ignore[union-attr]
    tree._lend(last, {"x": 1})
    (proposal,) = outer.proposals
    assert proposal.confidence == pytest.approx(0.2)
    assert (proposal.output, proposal.taint, proposal.journals) == ({"x": 1}, {"a"}, [])
    assert last.lent == (outer, proposal)


async def test_nothing_is_lent_to_a_graph_that_has_returned_or_that_nobody_asked_of() -> None:
    tree = session().tree
    parent = Frame(loop(), 1, parent=None)
    outer = execution(parent)
    tree._outer["g:1"] = outer
    elsewhere = below(Frame(loop(checkpoint_ns=("h:1",)), 0, parent=None))
    tree._lend(elsewhere, {})
    assert elsewhere.lent is None
    outer.has_output = True
    late = below(Frame(loop(checkpoint_ns=("g:1",)), 0, parent=None))
    tree._lend(late, {})
    assert late.lent is None
    assert outer.proposals == []


# --- the window and where a branch ends -----------------------------------------------------------------------------


def test_what_lies_beyond_the_window_waits_until_the_run_has_come_near() -> None:
    window, ran = Window(2), []
    one, other = 1, 2

    def go(name: str) -> Callable[[], None]:
        return lambda: ran.append(name)

    window.when_within(one, 1, go("unknown"))
    assert ran == []  # nothing is committed of this graph yet
    window.advance(one, 1)
    window.advance(other, 1)
    assert ran == ["unknown"]
    assert not window
    for step in (3, 4, 5):
        window.when_within(one, step, go(f"step {step}"))
    window.when_within(other, 4, go("other"))
    assert ran == ["unknown", "step 3"]
    assert window
    window.advance(one, 2)
    assert ran == ["unknown", "step 3", "step 4"]
    window.advance(one, 9)
    assert ran == ["unknown", "step 3", "step 4", "step 5"]
    window.clear()
    window.advance(other, 9)
    assert ran == ["unknown", "step 3", "step 4", "step 5"]


async def test_a_tree_with_nothing_to_prune_is_not_active() -> None:
    tree = session().tree
    assert not tree.is_active
    frame = Frame(loop(), 1, parent=None)
    tree.on_step(None, frame)
    assert tree.is_active


MAY_NOT: dict[str, Callable[[Frame, Session], Any]] = {
    "over": lambda f, s: setattr(f, "over", True),
    "has a twin": lambda f, s: setattr(f, "twin", f),
    "closed": lambda f, s: setattr(s, "closed", True),
    "broken": lambda f, s: setattr(s, "broken", True),
    "forking": lambda f, s: setattr(f, "state", FrameState.FORKING),
    "ended": lambda f, s: setattr(f, "state", FrameState.ENDED),
    "dead": lambda f, s: setattr(f, "state", FrameState.DEAD),
    "recursion limit": lambda f, s: setattr(f.loop, "stop", 1),
    "halted": lambda f, s: [setattr(f.executions[0], a, True) for a in ("halted", "has_output")],
    "breakpoint": lambda f, s: setattr(f.loop, "interrupt_after", ["n"]),
    "breakpoint of a cached task": lambda f, s: setattr(f.loop, "interrupt_after", ["fixed"]),
    "every breakpoint": lambda f, s: setattr(f.loop, "interrupt_after", "*"),
}
MAY: dict[str, Callable[[Frame, Session], Any]] = {
    "as it is": lambda f, s: None,
    "running": lambda f, s: setattr(f, "state", FrameState.RUNNING),
    "just below the recursion limit": lambda f, s: setattr(f.loop, "stop", 2),
    "halted, but guessed": lambda f, s: setattr(f.executions[0], "halted", True),
    "returned": lambda f, s: setattr(f.executions[0], "has_output", True),
    "breakpoint elsewhere": lambda f, s: setattr(f.loop, "interrupt_after", ["other"]),
}


@pytest.mark.parametrize("what", [*MAY_NOT, *MAY])
async def test_where_a_branch_may_go_on(what: str) -> None:
    own = session()
    frame = Frame(loop(), 1, parent=None)
    execution(frame)
    frame.fixed.append(task("fixed"))
    {**MAY_NOT, **MAY}[what](frame, own)
    assert own.tree._may_go_on(frame) is (what in MAY)


async def test_a_superstep_is_forked_on_the_guesses_that_breadth_allows() -> None:
    own = session(breadth=2)
    tree = own.tree
    frame = Frame(loop(), 1, parent=None)
    ex = execution(frame)
    low, middle, high = (Proposal(i, i / 10) for i in (1, 5, 9))
    ex.proposals += [low, middle, high]
    forked: list[Any] = []

    async def fork(frame: Frame, choice: Any, child: Frame) -> None:
        forked.append((choice, child))

    tree._fork = fork  # type: ignore[method-assign]
    tree._expand(frame)
    assert not frame.children  # beyond the window
    tree._window.advance(id(frame.loop), 1)
    assert list(frame.children) == [(high,), (middle,)]
    assert all((c.step, c.parent, c.loop) == (2, frame, frame.loop) for c in frame.children.values())
    await asyncio.sleep(0)
    assert forked == list(frame.children.items())
    tree._expand(frame)
    assert len(frame.children) == 2


@pytest.mark.parametrize("what", ["observe", "incomplete", "no guess", "over"])
async def test_a_superstep_is_not_forked(what: str) -> None:
    tree = session(mode="observe" if what == "observe" else "on").tree
    frame = Frame(loop(), 1, parent=None)
    ex = execution(frame)
    if what != "no guess":
        ex.proposals.append(Proposal(1, 1.0))
    frame.expected = 2 if what == "incomplete" else 0
    frame.over = what == "over"
    tree._window.advance(id(frame.loop), 1)
    tree._expand(frame)
    assert not frame.children
    assert not tree._window


# --- guesses --------------------------------------------------------------------------------------------------------


async def test_a_guess_that_does_not_fit_is_reported_and_not_taken() -> None:
    own = session()
    frame = Frame(loop(), 1, parent=None)
    ex = execution(frame)

    def raises(*_: Any) -> None:
        raise TypeError("not for me")

    frame.tasks[0].writers = [SimpleNamespace(invoke=raises)]
    own.tree._add(ex, Proposal(1, 1.0), info())
    # Not a `ChannelWrite`, so a router: it has no part in what the output writes.
    assert [p.frozen for p in ex.proposals] == [("list",)]
    assert own.report.speculator_errors == 0
    frame.tasks[0].writers = [type("Writes", (ChannelWrite,), {"invoke": raises})([])]
    own.tree._add(ex, Proposal(2, 1.0), info())
    assert len(ex.proposals) == 1
    assert own.report.speculator_errors == 1
    assert own.report.errors[-1] == "Speculator of 'n': TypeError: not for me"
    frame.tasks[0].writers = [ChannelWrite([ChannelWriteEntry("branch:to:nowhere")])]
    own.tree._add(ex, Proposal(3, 1.0), info())
    assert len(ex.proposals) == 1
    assert "it leads to 'nowhere', which is no node of the graph" in own.report.errors[-1]


async def test_a_guess_for_what_is_known_or_gone_is_dropped() -> None:
    own = session()
    frame = Frame(loop(), 1, parent=None)
    ex = execution(frame)
    ex.has_output = True
    own.tree._add(ex, Proposal(1, 1.0), info())
    gone = execution()
    own.tree._add(gone, Proposal(1, 1.0), info())
    assert ex.proposals == gone.proposals == []


async def test_a_guess_that_cannot_be_copied_is_kept_and_never_right() -> None:
    import threading

    own = session()
    ex = execution(Frame(loop(), 1, parent=None))
    own.tree._add(ex, Proposal(threading.Lock(), 1.0), info())
    assert [p.frozen for p in ex.proposals] == [None]
    own.tree._settle(ex, 1, ("list",))
    assert ex.proposals[0].verdict is Verdict.WRONG


@pytest.mark.parametrize(("output", "hits"), [(("list",), 1), (("list", 1), 0)])
async def test_an_output_counts_as_a_window_where_a_guess_was_asked_for(output: Any, hits: int) -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    frame = Frame(loop(), 1, parent=None)
    ex, unasked = execution(frame), execution(frame)
    ex.shadow = Work()  # type: ignore[assignment]
    ex.asked = True
    ex.proposals.append(Proposal(1, 1.0, ("list",)))
    child = below(frame, ex.proposals[0], None)
    own.tree.on_output(ex, "out", output)
    assert (ex.output, ex.has_output) == ("out", True)
    assert ex.shadow.is_cancelled  # type: ignore[union-attr]
    assert (own.report.windows, own.report.window_hits) == (1, hits)
    assert [e.kind for e in seen if e.kind in ("hit", "miss")] == ["hit" if hits else "miss"]
    assert (child.state is FrameState.DEAD) is (hits == 0)
    own.tree.on_output(unasked, "out", output)
    assert own.report.windows == 1


async def test_a_wanted_execution_is_asked_about_once() -> None:
    own = session(depth=1)
    tree = own.tree
    started: list[Any] = []
    tree._shadows.start = lambda core, info: started.append(core)  # type: ignore[method-assign]
    frame = Frame(loop(), 1, parent=None)
    useful = info(speculate=True)
    ex, useless, tool = execution(frame, node=useful), execution(frame), execution(frame)
    tool.info = ToolInfo("t", Effect.PURE, "", "")
    for one in (ex, useless, tool):
        tree._consult(one, frame)
    assert (ex.asked, useless.asked, tool.asked) == (True, False, False)
    assert started == []  # step 2 lies beyond the window yet
    tree._window.advance(id(frame.loop), 1)
    assert started == [ex]


@pytest.mark.parametrize("what", ["output", "discarded", "dead", "over", "nobody's"])
async def test_nobody_is_asked_about_what_is_not_wanted_any_more(what: str) -> None:
    tree = session().tree
    started: list[Any] = []
    tree._shadows.start = lambda core, info: started.append(core)  # type: ignore[method-assign]
    frame = Frame(loop(), 1, parent=None)
    ex = execution(frame, node=info(speculate=True))
    ex.has_output = what == "output"
    if what == "discarded":
        ex.state = State.DISCARDED
    elif what == "dead":
        frame.state = FrameState.DEAD
    elif what == "nobody's":
        ex.frames.clear()
    frame.over = what == "over"
    tree._window.advance(id(frame.loop), 1)
    tree._consult(ex, frame)
    assert started == []


# --- histories come back --------------------------------------------------------------------------------------------


def with_loan(frame: Frame) -> Loan:
    loan = Loan()
    loan.copies.append(HumanMessage("x"))
    frame.snapshot = SimpleNamespace(loans=[loan])  # type: ignore[assignment]
    return loan


BUSY: dict[str, Callable[[Execution], Any]] = {
    "running": lambda ex: setattr(ex, "state", State.RUNNING),
    "finished": lambda ex: setattr(ex, "state", State.FINISHED),  # it may be claimed
    "under way": lambda ex: setattr(ex, "task", Work()),
    "a leaf under way": lambda ex: ex.leaves[0].__setattr__("task", Work()),
    "in a thread": lambda ex: setattr(ex, "in_thread", True),
    "of this frame, in use": lambda ex: ex.frames.append(ex.frame),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", [*BUSY, "over", "holds on"])
async def test_copied_histories_come_back_once_nothing_uses_them(what: str) -> None:
    tree = session().tree
    frame = below(Frame(loop(), 1, parent=None))
    loan = with_loan(frame)
    ex = execution(frame, State.DISCARDED)
    ex.frames.clear()
    ex.leaves.append(execution(state=State.DISCARDED))
    ex.leaves[0].output = loan.copies if what == "holds on" else None
    BUSY.get(what, lambda ex: None)(ex)
    tree.pruning.release(frame)
    assert tree._histories._free == ([loan] if what == "over" else [])
    # What an output holds on to is not asked for again.
    assert bool(frame.snapshot.loans) is (what in BUSY)  # type: ignore[union-attr]


async def test_a_frame_without_copies_has_nothing_to_give_back() -> None:
    tree = session().tree
    frame = Frame(loop(), 1, parent=None)
    tree.pruning.release(frame)
    frame.snapshot = SimpleNamespace(loans=[])  # type: ignore[assignment]
    tree.pruning.release(frame)
    assert tree._histories._free == []


# --- dropping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "counted", "after"),
    [
        (State.RUNNING, 1, State.DISCARDED),
        (State.FINISHED, 1, State.DISCARDED),
        (State.FAILED, 1, State.DISCARDED),
        (State.BLOCKED, 0, State.DISCARDED),
        (State.OPEN, 0, State.DISCARDED),
        (State.CLAIMED, 0, State.CLAIMED),
    ],
)
async def test_what_is_dropped_is_cancelled_and_counted_if_it_ran(state: State, counted: int, after: State) -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    ex = execution(state=state)
    dropped: list[str] = []
    ex.gate = SimpleNamespace(journal=SimpleNamespace(drop=lambda: dropped.append("journal")))  # type: ignore[assignment]
    ex.task, ex.control, ex.shadow = Work(), Work(), Work()  # type: ignore[assignment]
    own.tree.pruning.drop([ex], "why")
    assert own.report.discarded == counted
    assert [e.detail for e in seen if e.kind == "discard"] == ["why"] * counted
    assert ex.state is after
    assert all(w.is_cancelled for w in (ex.task, ex.control, ex.shadow))  # type: ignore[union-attr]
    assert dropped == ["journal"]


async def test_why_it_was_spoiled_goes_before_why_it_was_dropped() -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    ex = execution()
    ex.spoiled = "its own reason"
    own.tree.pruning.drop([ex], "why")
    assert seen[-1].detail == "its own reason"


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_dropped_executions_frame_gives_its_copies_back(under_way: bool) -> None:
    own = session()
    frame = below(Frame(loop(), 1, parent=None))
    loan = with_loan(frame)
    ex = execution(frame)
    ex.frames.clear()
    frame.state = FrameState.DEAD
    work = Work(done=not under_way)
    ex.task = work  # type: ignore[assignment]
    own.tree.pruning.drop([ex], "why")
    assert own.tree._histories._free == ([] if under_way else [loan])
    work._done = True
    ex.over(own.ledger.lock)
    await asyncio.sleep(0)
    assert own.tree._histories._free == [loan]


# --- steps of the run -----------------------------------------------------------------------------------------------


async def test_a_step_of_the_run_keeps_the_confirmed_branch_alone() -> None:
    own = session()
    tree, running = own.tree, loop()
    before = Frame(running, 1, parent=None)
    ex = execution(before)
    ex.has_output = True
    right = Proposal(1, 1.0, verdict=Verdict.RIGHT)
    ex.proposals.append(right)
    confirmed, other = below(before, right), below(before, None, state=FrameState.FORKING)
    other.choice = (Proposal(2, 1.0),)
    before.children = {(right,): confirmed, other.choice: other}
    passed, still, elsewhere = (Execution(info(), s, f, State.FINISHED, Effect.PURE) for s, f in [
        (1, before), (2, confirmed), (1, Frame(loop(), 1, parent=None))
    ])  # fmt: skip
    for early in (passed, still, elsewhere):
        own.ledger.add(early)
    now = Frame(running, 2, parent=None)
    tree.on_step(before, now)
    assert (confirmed.state, other.state) == (FrameState.RUNNING, FrameState.DEAD)
    assert confirmed.parent is None
    assert before.children == {}
    assert ex.frames == []
    assert own.ledger.all() == [still, elsewhere]
    assert passed.state is State.DISCARDED
    assert tree._roots == {id(running): now}


async def test_a_step_behind_a_twin_prunes_the_twins_children() -> None:
    own = session()
    before = Frame(loop(), 1, parent=None)
    before.twin = below(Frame(before.loop, 0, parent=None))
    execution(before.twin)
    child = below(before.twin, Proposal(1, 1.0))
    own.tree.on_step(before, Frame(before.loop, 2, parent=None))
    assert child.state is FrameState.DEAD


async def test_a_closed_session_takes_no_more_steps() -> None:
    own = session()
    own.closed = True
    own.tree.on_step(None, Frame(loop(), 1, parent=None))
    assert not own.tree.is_active


async def test_graphs_inside_the_step_before_are_over() -> None:
    own = session()
    tree = own.tree
    outer = loop(checkpoint_ns=("a",))
    inside, deeper, beside, above = (
        Frame(loop(checkpoint_ns=ns), 1, parent=None) for ns in (("a", "b"), ("a", "b", "c"), ("x", "y"), ())
    )
    for root in (inside, deeper, beside, above):
        tree.on_step(None, root)
    child, twins = below(inside), below(below(Frame(inside.loop, 0, parent=None)))
    inside.twin = twins.parent
    inside.ahead = ahead = below(Frame(inside.loop, 0, parent=None))
    early = Execution(info(), 1, inside, State.FINISHED, Effect.PURE)
    own.ledger.add(early)
    first, second = Frame(outer, 1, parent=None), Frame(outer, 2, parent=None)
    tree.on_step(None, first)
    assert id(inside.loop) in tree._roots
    tree.on_step(first, second)
    assert set(tree._roots) == {id(r.loop) for r in (second, beside, above)}
    assert (inside.over, deeper.over, beside.over, above.over) == (True, True, False, False)
    assert {f.state for f in (child, twins, ahead)} == {FrameState.DEAD}
    assert early.state is State.DISCARDED


async def test_a_step_whose_tasks_all_come_from_one_branch_takes_it_for_its_twin() -> None:
    tree = session().tree
    real = Frame(loop(), 2, parent=None)
    branch = below(Frame(real.loop, 1, parent=None))
    one, two = execution(branch), execution(branch)
    for ex in (one, two):
        ex.frames.append(real)
    real.executions = [two]
    tree._adopt(real)
    assert real.twin is None  # the branch has one more
    real.executions = [two, one]
    branch.state = FrameState.ENDED
    tree._adopt(real)
    assert real.twin is None
    branch.state = FrameState.RUNNING
    tree._adopt(real)
    assert real.twin is branch
    assert branch.is_twin
    assert branch.parent is None


def ahead_of(tree: Any, before: Frame, loop: Any) -> tuple[Frame, Frame, Execution]:
    """The run's next step, the branch that has come to it, and what that one has started there."""
    execution(before).has_output = True
    branch = below(before, None)
    early = execution(branch)
    real = Frame(loop, before.step + 1, parent=None)
    real.expected = 1
    tree.on_step(before, real)
    return real, branch, early


@pytest.mark.parametrize("what", ["run by the run itself", "never begun", "forking"])
async def test_a_branch_that_the_run_did_not_claim_from_has_no_use(what: str) -> None:
    tree = session().tree
    before = Frame(loop(), 1, parent=None)
    tree.on_step(None, before)
    real, branch, early = ahead_of(tree, before, before.loop)
    early.shadow = Work()  # type: ignore[assignment]
    assert branch.state is FrameState.RUNNING
    if what == "forking":
        branch.state = FrameState.FORKING
    if what == "never begun":
        tree.on_step(real, Frame(before.loop, 3, parent=None))
    else:
        ex = execution()
        ex.real_task = task()
        tree.on_begin(real, ex, None)
        assert real.executions == [ex]
    assert branch.state is FrameState.DEAD
    assert early.shadow.is_cancelled  # type: ignore[union-attr]


async def test_a_branch_goes_on_from_a_step_that_the_run_has_left_when_it_is_noted() -> None:
    tree = session().tree
    before = Frame(loop(), 1, parent=None)
    tree.on_step(None, before)
    real, branch, early = ahead_of(tree, before, before.loop)
    early.has_output = True
    child = below(branch, None)
    real.over = True
    ex = execution()
    ex.real_task = task()
    tree.on_begin(real, ex, early)
    assert real.twin is branch
    following = Frame(before.loop, 3, parent=None)
    tree.on_step(real, following)
    assert child.state is FrameState.RUNNING
    assert following.ahead is child


async def test_what_the_run_begins_is_noted_in_its_frame() -> None:
    own = session()
    frame = Frame(loop(), 1, parent=None)
    frame.expected = 2
    ex, early = execution(), execution()
    ex.real_task, ex.namespace = task(), "g:1"
    own.tree.on_begin(frame, ex, early)
    assert own.tree._roots == {id(frame.loop): frame}
    assert (frame.executions, frame.tasks) == ([early], [ex.real_task])
    assert early.frames == [frame]
    assert own.tree._outer == {}
    nested = execution(node=info("g", lends=True))
    nested.namespace = "g:2"
    own.tree.on_begin(frame, nested, None)
    assert own.tree._outer == {"g:2": nested}
    assert frame.executions == [early, nested]


async def test_a_retry_stands_in_the_place_of_the_attempt_before() -> None:
    own = session()
    frame = Frame(loop(), 1, parent=None)
    frame.expected = 2
    first, beside, again = execution(), execution(), execution()
    first.real_task, beside.real_task = task(), task()
    again.real_task = first.real_task
    for ex in (first, beside, again):
        own.tree.on_begin(frame, ex, None)
    assert frame.executions == [again, beside]
    assert len(frame.tasks) == 2
    assert frame.is_complete


@pytest.mark.parametrize("what", ["over", "closed", "broken"])
async def test_what_begins_too_late_is_not_noted(what: str) -> None:
    own = session()
    frame = Frame(loop(), 1, parent=None)
    frame.over = what == "over"
    own.closed, own.broken = what == "closed", what == "broken"
    own.tree.on_begin(frame, execution(), None)
    assert frame.executions == []


async def test_the_end_of_the_run_lets_everything_go() -> None:
    own = session()
    frame = Frame(loop(), 1, parent=None)
    own.tree.on_step(None, frame)
    own.tree.frames.add(frame)
    execution(frame)
    child = below(frame, None)
    frame.fixed.append(task())
    early = Execution(info(), 1, frame, State.FINISHED, Effect.PURE)
    own.ledger.add(early)
    own.tree._window.when_within(id(frame.loop), 99, lambda: None)
    own.tree._outer["g"] = early
    never = own.tree._workers.spawn(asyncio.sleep(3600))
    assert own.tree.kill_all() == [never]
    assert (frame.over, child.state, early.state) == (True, FrameState.DEAD, State.DISCARDED)
    assert (frame.loop, frame.children, frame.tasks, frame.fixed, frame.executions) == (None, {}, [], [], [])
    assert not own.tree._outer
    assert not own.ledger
    await asyncio.wait([never])
    assert never.cancelled()
    assert not own.tree.is_active


# --- the session's bookkeeping --------------------------------------------------------------------------------------


def ended(started: float, ended: float, early: Execution | None = None, step: int = 1) -> Execution:
    ex = Execution(info(), step, Frame(LOOP, step, parent=None), State.RUNNING, Effect.PURE)
    ex.started, ex.ended = started, ended
    if early is not None:
        ex.leaves.append(early)
    return ex


LOOP = loop()


def early_execution(state: State, started: float, ended: float = 0.0, spoiled: str = "") -> Execution:
    ex = Execution(info(), 1, None, state, Effect.PURE)
    ex.started, ex.ended, ex.spoiled = started, ended, spoiled
    return ex


async def test_time_saved_is_measured_by_superstep() -> None:
    report = Report()
    own = Session(Policy(), object(), sync=False, trackers=(report,))
    # Step 1: the claimed one, alone, would have taken until 10 + 7; beside it one ran until 12.
    own.counters.count(ended(10, 11, early_execution(State.CLAIMED, 3, 10)), None)
    own.counters.count(ended(10, 12), None)
    # Step 2: claimed, but it took no longer than it would have.
    own.counters.count(ended(20, 25, early_execution(State.CLAIMED, 19, 22), step=2), None)
    # Step 3: what was not taken over saves nothing.
    own.counters.count(ended(30, 31, early_execution(State.FAILED, 20, 29), step=3), None)
    await own.aclose()
    assert report.time_saved == pytest.approx(17 - 12)
    assert report.steps == 4
    assert report.runs == 1


async def test_what_a_blocked_call_would_have_saved_is_measured() -> None:
    own = session()
    blocked = early_execution(State.BLOCKED, 4, spoiled="why")
    own.counters.count(ended(10, 13, blocked), None)  # all of its 3 seconds
    assert own.report.stopped["why"].would_have_saved == pytest.approx(3)
    own.counters.count(ended(5, 9, blocked), None)  # the run was only 1 second behind
    assert own.report.stopped["why"].would_have_saved == pytest.approx(4)
    own.counters.count(ended(3, 9, blocked), None)  # it was ahead
    assert own.report.stopped["why"].would_have_saved == pytest.approx(4)
    own.counters.count(ended(10, 13, early_execution(State.FAILED, 4, spoiled="other")), None)
    assert "other" not in own.report.stopped


async def test_events_name_their_place() -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    own.emit("stop", info("node"), 3, "why", 1.5)
    own.emit("claim", ToolInfo("node.tool", Effect.PURE, "", "", node="node", name="tool"))
    run, stop, claim = seen
    assert (run.kind, run.node, run.tool, run.step, run.detail, run.seconds) == ("run", "", "", -1, "", 0.0)
    assert (stop.node, stop.tool, stop.step, stop.detail, stop.seconds) == ("node", "", 3, "why", 1.5)
    assert (claim.node, claim.tool) == ("node", "tool")
    assert run.run == stop.run == own.number


async def test_a_hook_that_raises_does_not_keep_the_others_from_hearing() -> None:
    seen: list[Event] = []

    def bad(event: Event) -> None:
        raise KeyError("hook")

    own = session(hooks=(bad, seen.append))
    assert [e.kind for e in seen] == ["run"]
    assert "KeyError('hook')" in own.report.errors[0]


async def test_stops_are_counted_by_reason() -> None:
    own = session()
    for reason in ("a", "b", "a"):
        own.stop(reason)
    assert {r: s.count for r, s in own.report.stopped.items()} == {"a": 2, "b": 1}


async def test_an_error_of_our_own_ends_speculation_once() -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    frame = Frame(loop(), 1, parent=None)
    own.tree.on_step(None, frame)
    own._guarded(lambda: 1 / 0)
    own._guarded(lambda: 1 / 0)
    assert own.broken
    assert len(own.report.errors) == 1
    assert "ended by an internal error: ZeroDivisionError" in own.report.errors[0]
    assert [e.kind for e in seen] == ["run", "error"]
    await asyncio.sleep(0)
    assert frame.over


async def test_what_is_posted_to_a_closed_loop_ends_speculation() -> None:
    own = session()
    closed = asyncio.new_event_loop()
    closed.close()
    own.loop = closed
    own.post(lambda: None)
    assert own.broken


async def test_posted_work_runs_in_order() -> None:
    own, ran = session(), []
    own.post(ran.append, 1)
    own.post(ran.append, 2)
    assert ran == []
    await asyncio.sleep(0)
    assert ran == [1, 2]
