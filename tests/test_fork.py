"""Forks on their own: the writes of each task, and when the run has moved on. No graph runs here."""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph._internal._constants import CONFIG_KEY_READ
from langgraph.channels import BinaryOperatorAggregate, LastValue
from langgraph.pregel._write import ChannelWrite, ChannelWriteEntry

from langgraph_speculative import Event, Policy, _compat
from langgraph_speculative._branch import Frame, FrameState, Proposal
from langgraph_speculative._fork import Forks
from langgraph_speculative._histories import Histories, KnownIds
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import NodeInfo, RouterInfo, ToolInfo
from langgraph_speculative._session import Session
from langgraph_speculative._values import Opaque
from langgraph_speculative._view import Barrier
from langgraph_speculative.effects import Effect

pytestmark = pytest.mark.usefixtures("ends_sessions")


def channel(kind: Any, name: str, value: Any = None) -> Any:
    made = kind
    made.key = name
    if value is not None:
        made.update([value])
    return made


class Loop:
    """A running superstep of a graph with two channels."""

    def __init__(self) -> None:
        self.step = 4
        self.trigger_to_nodes = {"x": ["next"]}
        self.channels = {
            "x": channel(LastValue(int), "x", 1),
            "log": channel(BinaryOperatorAggregate(list, lambda a, b: a + b), "log", ["old-id"]),
        }
        self.checkpoint: Any = {
            "v": 1,
            "id": "real",
            "ts": "",
            "channel_values": {},
            "channel_versions": {"x": "00.1", "log": "00.1"},
            "versions_seen": {},
        }


def writes(*names: str) -> ChannelWrite:
    """A writer of the output's keys, as a node's own."""

    def keyed(name: str) -> Any:
        return lambda output: output[name]

    return ChannelWrite([ChannelWriteEntry(n, mapper=keyed(n)) for n in names])


class Made:
    """A session, the frame of a real step, and its forks."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.session = Session(Policy(hooks=(self.events.append,)), object(), sync=False)
        self.forks = Forks(self.session, self.session.tree._workers, Histories())
        self.loop = Loop()
        self.frame = Frame(self.loop, 4, parent=None)

    def task(self, *writers: Any, info: Any = None, effect: Effect = Effect.PURE, name: str = "n") -> Execution:
        """A task of the step, whose node is so."""
        info = info or NodeInfo(name, effect, "", "", name=name)
        ex = Execution(info, 4, self.frame, State.RUNNING, effect)
        read: Any = partial(lambda *args: args, None, self.loop.channels, {}, None)
        ex.config = {"configurable": {CONFIG_KEY_READ: read}}
        self.frame.executions.append(ex)
        self.frame.tasks.append(
            SimpleNamespace(name=name, path=("pull", name), triggers=["x"], writers=list(writers), writes=deque())
        )
        return ex

    async def fork(self, *choice: Proposal | None) -> tuple[Frame, _compat.Snapshot | None]:
        child = Frame(self.loop, 5, parent=self.frame, choice=choice)
        return child, await self.forks.make(self.frame, choice, child)


@pytest.fixture
async def made() -> Made:
    return Made()


def values(snapshot: Any) -> dict[str, Any]:
    return {name: c.get() for name, c in snapshot.channels.items()}


async def test_the_next_step_is_as_if_the_guesses_were_right(made: Made) -> None:
    made.task(writes("x", "log"))
    child, snapshot = await made.fork(Proposal({"x": 2, "log": ["new"]}, 1.0))
    assert snapshot is not None
    assert values(snapshot) == {"x": 2, "log": ["old-id", "new"]}
    assert values(made.loop) == {"x": 1, "log": ["old-id"]}  # the run's are its own
    assert (snapshot.step, child.taint()) == (5, frozenset())
    assert made.session.report.forks == 1
    assert [(e.kind, e.step) for e in made.events[1:]] == [("fork", 5)]


async def test_ids_in_the_state_are_known_from_then_on(made: Made) -> None:
    made.loop.channels["log"].value = [HumanMessage("x", id="m1")]
    made.task(writes("x"))
    child, _ = await made.fork(Proposal({"x": 2}, 1.0))
    assert made.frame.known is child.known
    assert "m1" in made.frame.known  # type: ignore[operator]
    assert "m2" not in made.frame.known  # type: ignore[operator]
    before = made.frame.known
    await made.fork(Proposal({"x": 3}, 1.0))
    assert made.frame.known is before


async def test_actual_outputs_stand_beside_guesses(made: Made) -> None:
    made.task(writes("log"), name="a").output = {"log": ["actual"]}
    made.frame.executions[0].has_output = True
    made.task(writes("log"), name="b")
    guess = Proposal({"log": ["guessed"]}, 1.0)
    _, snapshot = await made.fork(None, guess)
    assert values(snapshot)["log"] == ["old-id", "actual", "guessed"]
    assert values(snapshot)["log"] is not guess.output["log"]


async def test_writes_that_are_there_already_count(made: Made) -> None:
    made.task(writes("log"), name="b")
    made.frame.fixed.append(
        SimpleNamespace(name="a", path=("pull", "a"), triggers=["x"], writes=deque([("log", ["fixed"])]))
    )
    _, snapshot = await made.fork(Proposal({"log": ["guessed"]}, 1.0))
    assert values(snapshot)["log"] == ["old-id", "fixed", "guessed"]


@pytest.mark.parametrize(
    ("effect", "guessed", "lent", "taint"),
    [
        (Effect.PURE, True, "", ""),
        (Effect.READ, True, "", ""),
        (Effect.IRREVERSIBLE, True, "", "a"),
        (Effect.REVERSIBLE, True, "", "a"),
        (Effect.IRREVERSIBLE, False, "", ""),  # it is made
        (Effect.PURE, True, "b", "b"),
        (Effect.IRREVERSIBLE, True, "b", "ab"),
    ],
)
async def test_behind_a_guessed_effect_a_branch_is_tainted(
    made: Made, effect: Effect, guessed: bool, lent: str, taint: str
) -> None:
    ex = made.task(effect=effect)
    ex.output, ex.scopes = {}, frozenset("a")
    made.task()
    choice = Proposal({}, 1.0, taint=frozenset(lent)) if guessed else None
    child, _ = await made.fork(choice, Proposal({}, 1.0))
    assert child.taint() == frozenset(taint)
    ex.has_output = True
    assert child.taint() == frozenset(lent), "it is made by now"
    ex.has_output, ex.scopes = False, None
    assert child.taint() == (None if "a" in taint else frozenset(taint))
    child.parent = None
    assert child.taint() == frozenset(), "what lies above is the run's own"


MOVED: dict[str, Any] = {
    "another step": lambda m: setattr(m.loop, "step", 5),
    "over": lambda m: setattr(m.frame, "over", True),
    "all outputs": lambda m: setattr(m.frame.executions[0], "has_output", True),
}


@pytest.mark.parametrize("what", MOVED)
async def test_there_is_no_fork_once_the_run_has_moved_on(made: Made, what: str) -> None:
    made.task(writes("x"))
    MOVED[what](made)
    _, snapshot = await made.fork(Proposal({"x": 2}, 1.0))
    assert snapshot is None
    assert made.session.report.forks == 0
    assert made.frame.known is None


class Moves:
    """A channel that sees the run move on while it is copied."""

    def __init__(self, move: Any) -> None:
        self.move = move

    def copy(self) -> Any:
        self.move()
        return LastValue(int)


@pytest.mark.parametrize("what", ["step", "over", "checkpoint", "size"])
async def test_a_copy_that_the_run_has_overtaken_is_dropped(made: Made, what: str) -> None:
    def move() -> None:
        if what == "step":
            made.loop.step = 5
        elif what == "over":
            made.frame.over = True
        elif what == "checkpoint":
            made.loop.checkpoint = dict(made.loop.checkpoint)
        else:
            raise RuntimeError("dictionary changed size during iteration")

    made.task(writes("x"))
    made.loop.channels["moves"] = Moves(move)
    _, snapshot = await made.fork(Proposal({"x": 2}, 1.0))
    assert snapshot is None
    assert made.session.report.forks == 0
    assert made.frame.known is None


async def test_one_that_the_run_overtakes_while_routers_run_is_dropped(made: Made) -> None:
    def route(output: Any) -> None:
        made.frame.over = True

    info = NodeInfo("n", Effect.PURE, "", "", name="n", routers=[RouterInfo("r", Effect.PURE, "", "", "inline")])
    made.task(RunnableLambda(route), info=info)
    _, snapshot = await made.fork(Proposal({}, 1.0))
    assert snapshot is None


async def test_a_branch_is_forked_from_its_own_channels(made: Made) -> None:
    made.task(writes("x", "log"))
    _, snapshot = await made.fork(Proposal({"x": 2, "log": []}, 1.0))
    branch = Frame(made.loop, 5, parent=made.frame)
    branch.state, branch.snapshot = FrameState.RUNNING, snapshot
    branch.executions, branch.tasks = list(made.frame.executions), list(made.frame.tasks)
    branch.known = known = KnownIds()
    # What the run does then is nothing to it.
    made.loop.step, branch.executions[0].has_output, branch.over = 9, True, True
    child = Frame(made.loop, 6, parent=branch)
    below = await made.forks.make(branch, (Proposal({"x": 3, "log": ["y"]}, 1.0),), child)
    assert below is not None
    assert values(below) == {"x": 3, "log": ["old-id", "y"]}
    assert values(snapshot) == {"x": 2, "log": ["old-id"]}
    assert (below.step, child.known) == (6, known)


async def test_a_state_that_cannot_be_copied_is_refused(made: Made) -> None:
    made.loop.channels["x"].value = threading.Lock()
    made.task(writes("x"))
    with pytest.raises(Opaque):
        await made.fork(Proposal({"x": 2}, 1.0))


# --- routers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["inline", "thread", "await"])
async def test_a_router_runs_where_it_may(made: Made, how: Any) -> None:
    seen: list[Any] = []

    def where(output: Any, config: Any) -> tuple[Any, ...]:
        return output, threading.current_thread().name, type(config["callbacks"]).__name__

    class Router(RunnableLambda):  # type: ignore[type-arg]
        def invoke(self, output: Any, config: Any = None, **kwargs: Any) -> None:
            seen.append(("invoke", *where(output, config)))

        async def ainvoke(self, output: Any, config: Any = None, **kwargs: Any) -> None:
            seen.append(("ainvoke", *where(output, config)))

    router = RouterInfo("r", Effect.PURE, "", "", how)
    info = NodeInfo("n", Effect.PURE, "", "", name="n", routers=[router, router])
    made.task(writes("x"), Router(lambda x: x), writes("log"), Router(lambda x: x), info=info)
    guess = {"x": 2, "log": ["y"]}
    _, snapshot = await made.fork(Proposal(guess, 1.0))
    assert values(snapshot) == {"x": 2, "log": ["old-id", "y"]}
    name = "langgraph-speculative" if how == "thread" else threading.main_thread().name
    call, manager = ("ainvoke", "AsyncCallbackManager") if how == "await" else ("invoke", "CallbackManager")
    assert seen == [(call, guess, name, manager)] * 2


@pytest.mark.parametrize(
    ("routers", "reason"),
    [
        ([RouterInfo("r", Effect.IRREVERSIBLE, "", "", "inline")], "irreversible router 'r' of 'n'"),
        ([], "undeclared router 'an unknown router' of 'n'"),
        (None, "undeclared router 'an unknown router' of 'n.tool'"),
    ],
)
async def test_a_router_that_may_not_run_early_ends_the_branch(made: Made, routers: Any, reason: str) -> None:
    ran: list[Any] = []
    info: Any = ToolInfo("n.tool", Effect.PURE, "", "", node="n", name="tool")
    if routers is not None:
        info = NodeInfo("n", Effect.PURE, "", "", name="n", routers=routers)
    made.task(RunnableLambda(ran.append), info=info)
    with pytest.raises(Barrier):
        await made.fork(Proposal({}, 1.0))
    assert ran == []
    assert {r: s.count for r, s in made.session.report.stopped.items()} == {reason: 1}
    assert [(e.kind, e.node, e.step) for e in made.events[2:]] == [("stop", "n", 4)]
