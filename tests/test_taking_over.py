"""A claim on what still runs: changes of its input, cancelled claimants; and how a session ends. No graph runs here."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.pregel._write import ChannelWrite, ChannelWriteEntry

from langgraph_speculative import Event, Policy, Report, _session
from langgraph_speculative._claims import AGAIN
from langgraph_speculative._ids import Renaming
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import ToolInfo
from langgraph_speculative._session import Session
from langgraph_speculative._values import freeze
from langgraph_speculative.effects import Effect
from tests.support import LIMIT
from tests.test_session import SAME, FakeGate, Loop, config_in, early, node, request, runner, session

pytestmark = pytest.mark.usefixtures("ends_sessions")


async def taken(
    own: Session, ex: Execution, value: Any, then: Callable[[], Any], output: Any = "out", renaming: Renaming = SAME
) -> Any:
    """Claim what still runs; it does something more, and returns."""
    waiting = asyncio.ensure_future(own._claims.atake(ex, renaming, value, config_in(Loop())))
    await asyncio.sleep(0)
    if not waiting.done():
        then()
        ex.output, ex.has_output = output, True
        ex.decide(own.ledger.lock)
        ex.over(own.ledger.lock)
    return await waiting


# --- changes of its input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [False, True])
async def test_what_it_changes_after_the_claim_is_changed_in_the_runs_input(hidden: bool) -> None:
    own = session()
    info = node(key_function=lambda v: v["k"]) if hidden else node()
    ex = early(own, info, {"k": 1, "list": ["a"]}, state=State.RUNNING)
    if hidden:
        ex.key = freeze(1)
    value = {"k": 1, "list": ["a"]}
    assert await taken(own, ex, value, lambda: ex.input["list"].append("b")) == "out"
    assert value == {"k": 1, "list": ["a", "b"]}
    assert own.report.claimed == 1


async def test_an_input_that_it_leaves_alone_stays_as_it_is() -> None:
    own = session()
    ex = early(own, node(), ["a"], state=State.RUNNING)
    value = ["a"]
    assert await taken(own, ex, value, lambda: value.append("of the run")) == "out"
    assert value == ["a", "of the run"]


async def test_one_that_has_changed_its_input_before_the_claim_is_run_again() -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    ex = early(own, node(), ["a"], state=State.RUNNING)
    cancelled: list[str] = []
    ex.task = SimpleNamespace(cancel=lambda: cancelled.append("task"))  # type: ignore[assignment]
    ex.input.append("b")
    value = ["a"]
    assert await taken(own, ex, value, lambda: None) is AGAIN
    assert value == ["a"]
    assert [(e.kind, e.detail) for e in seen[1:]] == [("discard", "it changes its input")]
    await asyncio.sleep(0)
    assert cancelled == ["task"]


async def test_a_tool_may_change_its_arguments() -> None:
    own, tool = session(), ToolInfo("t", Effect.PURE, "", "", name="t")
    ex = early(own, tool, {"args": ["a"]}, state=State.RUNNING)
    value = {"args": ["a"]}
    ex.input["args"].append("b")
    assert await taken(own, ex, value, lambda: ex.input["args"].append("c")) == "out"
    assert value == {"args": ["a"]}


async def test_an_input_that_cannot_be_paired_is_run_again() -> None:
    own = session()
    ex = early(own, node(), None, state=State.RUNNING)
    ex.input = threading.Lock()
    assert await taken(own, ex, threading.Lock(), lambda: None) is AGAIN
    assert ex.spoiled == "it changes its input"


async def test_ids_in_longer_strings_are_renamed_where_they_were_shown_already() -> None:
    own = session()
    ex = early(own, node(), state=State.RUNNING)
    ids = Renaming({"id-1": "id-2"}, {})
    assert await taken(own, ex, None, lambda: None, "so id-1 it is", ids) == "so id-2 it is"


async def test_one_that_is_spoiled_after_the_claim_is_run_again() -> None:
    own = session()
    ex = early(own, node(), state=State.RUNNING)
    ex.gate = gate = FakeGate()  # type: ignore[assignment]
    assert await taken(own, ex, None, lambda: setattr(ex, "spoiled", "why")) is AGAIN
    assert gate.calls == ["check", "open", "drop"]
    assert (own.report.claimed, own.report.discarded) == (0, 1)


# --- claimants that do not come back --------------------------------------------------------------------------------


class Interrupts(FakeGate):
    """The claimant is interrupted while the gate opens."""

    def open(self, *_: Any) -> bool:
        self.note("open")
        raise KeyboardInterrupt

    def cancel(self) -> None:
        self.note("cancel")


@pytest.mark.parametrize("claimable", [True, False])
@pytest.mark.parametrize("sync", [True, False])
async def test_a_claimant_that_is_interrupted_lands_what_may_land(sync: bool, claimable: bool) -> None:
    own = session()
    ex = early(own, node())
    gate: Any = Interrupts()
    ex.gate = ex.task = gate

    def is_claimable(ids: Any) -> bool:
        return claimable or "open" not in gate.calls

    gate.is_claimable = is_claimable

    def claims() -> None:
        if sync:
            own._claims.take(ex, SAME, None, config_in(Loop()))
        else:
            # In a task, what ends programs would end the loop.
            own._claims.atake(ex, SAME, None, config_in(Loop())).send(None)

    with pytest.raises(KeyboardInterrupt):
        claims()
    assert gate.calls == ["check", "open", *(["land"] if claimable else [])]
    await asyncio.sleep(0)
    assert gate.calls[-1] == "cancel"
    assert own.report.claimed == 0


def test_a_claimant_in_a_thread_waits_for_what_still_runs() -> None:
    own = Session(Policy(), object(), sync=True)
    ex = early(own, node(), state=State.RUNNING)
    waits, outputs = threading.Event(), []
    when_over = ex.when_over

    def noted(*args: Any) -> None:
        when_over(*args)
        waits.set()

    ex.when_over = noted  # type: ignore[method-assign]
    thread = threading.Thread(
        target=lambda: outputs.append(own._claims.take(ex, SAME, None, config_in(Loop()))), daemon=True
    )
    thread.start()
    assert waits.wait(LIMIT)
    assert ex.decide(own.ledger.lock)
    ex.output, ex.has_output, ex.state = "late", True, State.FINISHED
    ex.over(own.ledger.lock)
    thread.join(LIMIT)
    assert outputs == ["late"]
    own.close()


# --- what the run notes ---------------------------------------------------------------------------------------------


def outputs_of(own: Session) -> list[Any]:
    noted: list[Any] = []
    own.tree.on_output = lambda ex, output, frozen: noted.append((output, frozen))  # type: ignore[method-assign]
    return noted


@pytest.mark.parametrize("kind", ["leaf", "graph"])
async def test_only_leaves_count_as_steps(kind: Any) -> None:
    own = session()
    noted = outputs_of(own)
    await runner(own, node(kind=kind, speculate=True), config_in(Loop()), lambda: "out")(True)
    assert own.report.steps == (kind == "leaf")
    await asyncio.sleep(0)
    assert noted == [("out", ("list",))]


async def test_an_output_whose_writes_cannot_be_had_is_noted_without() -> None:
    own, loop = session(), Loop()
    noted = outputs_of(own)
    write = ChannelWrite([ChannelWriteEntry("x", mapper=lambda v: 1 / 0)])
    loop.tasks["t0"].writers = [write]
    await runner(own, node(speculate=True), config_in(loop), lambda: "out")(True)
    loop.tasks.clear()
    await runner(own, node(speculate=True), config_in(loop), lambda: "out")(True)
    await asyncio.sleep(0)
    assert noted == [("out", None), ("out", None)]
    assert not own.broken


async def test_what_is_committed_is_counted_in_tokens() -> None:
    own = session()
    usage: Any = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    said = AIMessage("x", usage_metadata=usage, response_metadata={"model_name": "m"})
    for _ in range(2):
        await runner(own, node(speculate=True), config_in(Loop()), lambda: {"messages": [said]})(True)
    assert {m: (u.committed, u.discarded, u.draft) for m, u in own.report.usage.items()} == {"m": (6, 0, 0)}


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("where", ["begin", "finish"])
async def test_an_error_of_ours_at_a_tool_call_leaves_the_run_alone(sync: bool, where: str) -> None:
    own, tool = session(), ToolInfo("t", Effect.READ, "", "", name="t", step_bound=False)
    early(own, tool, {"args": {"x": 1}})

    def raises(*_: Any) -> Any:
        raise ZeroDivisionError

    async def execute(request: Any) -> str:
        return "run"

    if where == "begin":
        own.ledger.claim = raises  # type: ignore[method-assign]
    else:
        own.counters.count = raises  # type: ignore[method-assign]
    asked = request(config_in(Loop()))
    output = own.run_tool(tool, asked, lambda _: "run") if sync else await own.arun_tool(tool, asked, execute)
    assert output == "run"
    assert own.broken
    assert "ZeroDivisionError" in own.report.errors[0]


# --- the end --------------------------------------------------------------------------------------------------------


async def test_tasks_have_a_few_turns_to_end_and_no_more() -> None:
    report = Report()
    own = Session(Policy(), object(), sync=False, trackers=(report,))
    ended: list[str] = []

    async def ends_late() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for _ in range(5):
                await asyncio.sleep(0)
            ended.append("late")

    async def refuses() -> None:
        while not stop.is_set():
            try:
                await stop.wait()
            except asyncio.CancelledError:
                ended.append("refused")

    stop = asyncio.Event()
    late = own.tree._workers.spawn(ends_late())
    refusing = own.tree._workers.spawn(refuses())
    await asyncio.sleep(0)
    await own.aclose()
    assert sorted(ended) == ["late", "refused"]
    assert late.done()
    assert not refusing.done()
    assert report.runs == 1
    stop.set()
    await refusing


class Control:
    """Stands in for the control thread's loop: runs at once what it is given, and counts the turns of a task."""

    def __init__(self) -> None:
        self.turns = 0

    def call_soon_threadsafe(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        function(*args)

    def create_task(self, coroutine: Any) -> None:
        while inspect.getcoroutinestate(coroutine) != inspect.CORO_CLOSED and self.turns < 1000:
            with suppress(StopIteration):
                coroutine.send(None)
                self.turns += 1


@pytest.mark.parametrize("ends", [True, False])
def test_a_synchronous_session_gives_its_tasks_a_few_turns_too(monkeypatch: pytest.MonkeyPatch, ends: bool) -> None:
    monkeypatch.setattr(_session, "PATIENCE", 0.0)
    own = Session(Policy(), object(), sync=True)
    own._frame_of(Loop())
    own.loop = control = Control()  # type: ignore[assignment]
    task = SimpleNamespace(done=lambda: ends and control.turns >= 3)
    own.tree.kill_all = lambda: [task]  # type: ignore[method-assign,list-item]
    own.close()
    # Ten more, for what LangGraph cancels and does not await.
    assert control.turns == 13 if ends else 13 < control.turns < 1000


def test_a_synchronous_session_on_a_closed_loop_ends_too() -> None:
    report = Report()
    own = Session(Policy(), object(), sync=True, trackers=(report,))
    own._frame_of(Loop())
    own.loop = asyncio.new_event_loop()
    own.loop.close()
    own.close()
    assert own.closed
    assert report.runs == 1


def test_sessions_are_numbered() -> None:
    one, other = (Session(Policy(), object(), sync=True) for _ in range(2))
    assert other.number == one.number + 1
    assert (one.report.runs, one.report.steps) == (1, 0)
    one.close()
    other.close()
