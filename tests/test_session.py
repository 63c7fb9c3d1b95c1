"""One run as the real run calls it: what needs a frame, what is claimed, who opens a session. No graph runs here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.types import Command, Interrupt

from langgraph_speculative import Event, Policy, Report, SpeculationError, _session
from langgraph_speculative._claims import AGAIN
from langgraph_speculative._ids import Renaming
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import NodeInfo, ToolInfo
from langgraph_speculative._session import Session
from langgraph_speculative._speculation import Speculation
from langgraph_speculative._values import fingerprint, freeze
from langgraph_speculative._view import INSIDE, KEY, Barrier, View
from langgraph_speculative.effects import Effect
from tests.support import LIMIT

SAME = Renaming({}, {})

pytestmark = pytest.mark.usefixtures("ends_sessions")


class Loop:
    """What a session looks at in Pregel's loop."""

    trigger_to_nodes = None
    checkpoint_ns = ()
    interrupt_after = ()
    stop = 100

    def __init__(self, tasks: int = 1, step: int = 1) -> None:
        self.step = step
        self.tasks = {f"t{i}": SimpleNamespace(name="n", writes=[], writers=(), path=()) for i in range(tasks)}
        self.channels: dict[str, Any] = {}

    def schedule(self) -> None:
        """Tasks find their loop by this method."""


def config_in(loop: Loop, task: str = "t0", **conf: Any) -> Any:
    call = partial(print, schedule_task=loop.schedule)
    return {"configurable": {"__pregel_call": call, "__pregel_task_id": task, "checkpoint_ns": "n:1", **conf}}


def node(name: str = "n", effect: Effect = Effect.PURE, **kwargs: Any) -> NodeInfo:
    return NodeInfo(name, effect, "", "", name=name, **kwargs)


def session(**policy: Any) -> Session:
    return Session(Policy(**policy), object(), sync=False)


def acting(own: Session) -> bool:
    """Whether a real effect is under way."""
    return any(acts for _, acts in own.ledger._real)


def early(
    own: Session, info: Any, value: Any = None, state: State = State.FINISHED, output: Any = "early"
) -> Execution:
    """A pre-execution in the session's ledger, which has returned unless it still runs."""
    ex = Execution(info, 1, None, state, info.effect)
    ex.key, ex.glance, ex.input = freeze(value), fingerprint(value), value
    if state is State.FINISHED:
        ex.output, ex.has_output = output, True
        ex.decide(own.ledger.lock)
        ex.over(own.ledger.lock)
    own.ledger.add(ex)
    return ex


# --- what the run begins --------------------------------------------------------------------------------------------


async def test_a_lone_node_of_which_nothing_is_known_needs_no_frame() -> None:
    own = session()
    assert own._begin(node(), None, config_in(Loop())) is None
    assert own._frames == {}
    assert own.report.steps == 1


async def test_only_nodes_count_as_steps_there() -> None:
    own = session()
    assert own._begin(node(kind="tools"), {"messages": []}, config_in(Loop())) is None
    assert own.report.steps == 0


@pytest.mark.parametrize("what", ["speculate", "lends", "beside another", "pre-executed"])
async def test_a_node_that_something_may_come_of_has_a_frame(what: str) -> None:
    own = session()
    info = node(speculate=what == "speculate", lends=what == "lends")
    if what == "pre-executed":
        early(own, info, "another input")
    loop = Loop(tasks=2 if what == "beside another" else 1)
    ex = own._begin(info, "input", config_in(loop, "t0"))
    assert ex is not None
    assert (ex.input, ex.step, ex.effect, ex.namespace) == ("input", 1, Effect.PURE, "n:1")
    assert ex.real_task is loop.tasks["t0"]
    assert ex.started > 0
    assert own.report.steps == 0  # it counts when it has returned
    assert own._frames[id(loop)].expected == len(loop.tasks)


@pytest.mark.parametrize("what", ["ledger", "tree"])
async def test_a_lone_node_moves_the_frames_on_where_there_are_branches(what: str) -> None:
    own, loop = session(), Loop()
    if what == "ledger":
        early(own, node("other"))
    else:
        own.tree._window.when_within(id(own._frame_of(Loop()).loop), 99, lambda: None)
    assert own._begin(node(), None, config_in(loop)) is None
    assert id(loop) in own._frames


async def test_a_node_that_means_nothing_to_speculation_passes() -> None:
    own = session()
    assert own._passes(node(is_bare=True), config_in(Loop()))
    assert own.report.steps == 1
    assert own._frames == {}


@pytest.mark.parametrize(
    "what",
    ["more", "pre-executed", "branches", "beside another", "turn", "max_concurrency", "broken", "closed", "no loop"],
)
async def test_it_does_not_where_it_may_mean_something(what: str) -> None:
    own = session()
    if what == "pre-executed":
        early(own, node("other"))
    elif what == "branches":
        own.tree._window.when_within(id(own._frame_of(Loop()).loop), 99, lambda: None)
    elif what == "turn":
        own.turn = SimpleNamespace()  # type: ignore[assignment]
    elif what == "max_concurrency":
        own.concurrency.limit = 2
    own.broken, own.closed = what == "broken", what == "closed"
    config: Any = {"configurable": {}} if what == "no loop" else config_in(Loop(2 if what == "beside another" else 1))
    assert not own._passes(node(is_bare=what != "more"), config)
    assert own.report.steps == 0
    assert not own.report.errors


async def test_what_has_moved_in_langgraph_ends_speculation_and_not_the_run() -> None:
    own = session()
    loop = Loop()
    loop.tasks = None  # type: ignore[assignment]
    assert not own._passes(node(is_bare=True), config_in(loop))
    assert own.broken
    assert len(own.report.errors) == 1


@pytest.mark.parametrize("what", ["broken", "closed", "no loop"])
async def test_nothing_is_noted_of_a_run_without_speculation(what: str) -> None:
    own = session()
    own.broken, own.closed = what == "broken", what == "closed"
    config: Any = {"configurable": {}} if what == "no loop" else config_in(Loop())
    tool = ToolInfo("t", Effect.PURE, "", "")
    request = SimpleNamespace(runtime=SimpleNamespace(config=config), tool_call={"args": {}, "id": "c"}, state={})
    assert own._begin(node(speculate=True), None, config) is None
    assert own._begin_tool(tool, request) is None
    assert own._frames == {}


async def test_tasks_whose_writes_are_there_are_not_expected() -> None:
    own, loop = session(), Loop(tasks=3)
    loop.tasks["t1"].writes = [("x", 1)]
    frame = own._frame_of(loop)
    assert (frame.expected, frame.fixed) == (2, [loop.tasks["t1"]])
    assert own._frame_of(loop) is frame
    loop.step = 2
    following = own._frame_of(loop)
    assert following is not frame
    assert frame.over
    assert not following.over
    assert set(own.tree.frames) == {frame, following}


async def test_the_effect_of_a_tool_node_is_that_of_the_tools_it_calls() -> None:
    own = session()
    tools = {n: ToolInfo(n, e, "", "", name=n) for n, e in (("look", Effect.READ), ("act", Effect.IRREVERSIBLE))}
    info = node(kind="tools", tools=tools, speculate=True)
    call = {"name": "look", "args": {}, "id": "c"}
    ex = own._begin(info, {"messages": [AIMessage("", tool_calls=[call])]}, config_in(Loop()))
    assert ex is not None
    assert ex.effect is Effect.READ


async def test_a_first_attempt_takes_the_pre_execution_over() -> None:
    own, info = session(), node()
    taken = early(own, info, "input")
    ex = own._begin(info, "input", config_in(Loop()))
    assert ex is not None
    assert ex.leaves == [taken]
    assert ex.output == SAME
    assert not own.ledger


async def test_a_retry_does_not() -> None:
    own, info = session(), node()
    early(own, info, "input")
    retry = SimpleNamespace(execution_info=SimpleNamespace(node_attempt=2))
    ex = own._begin(info, "input", config_in(Loop(), __pregel_runtime=retry))
    assert ex is not None
    assert ex.leaves == []
    assert own.ledger


async def test_a_key_function_says_which_inputs_are_equal() -> None:
    own, info = session(), node(key_function=lambda v: v["k"])
    taken = early(own, info, 1)
    ex = own._begin(info, {"k": 1, "other": 2}, config_in(Loop()))
    assert ex is not None
    assert ex.leaves == [taken]


# --- nodes and tools of the run ---------------------------------------------------------------------------------------


def runner(own: Session, info: Any, config: Any, act: Callable[[], Any]) -> Callable[[bool], Any]:
    """Runs a node in the session, in either world."""

    async def ainvoke(value: Any, config: Any) -> Any:
        return act()

    info.invoke, info.ainvoke = (lambda value, config: act()), ainvoke

    async def run(sync: bool) -> Any:
        return own.run_node(info, None, config) if sync else await own.arun_node(info, None, config)

    return run


@pytest.mark.parametrize("sync", [True, False])
async def test_a_claimed_node_is_not_run_again(sync: bool) -> None:
    own, info = session(), node()
    taken, ran = early(own, info), []
    assert await runner(own, info, config_in(Loop()), lambda: ran.append(1))(sync) == "early"
    assert ran == []
    assert taken.state is State.CLAIMED
    assert (own.report.claimed, own.report.steps) == (1, 1)


@pytest.mark.parametrize("sync", [True, False])
async def test_a_graph_is_entered_though_it_is_taken_over(sync: bool) -> None:
    own, info = session(), node(kind="graph")
    early(own, info, state=State.OPEN)
    assert await runner(own, info, config_in(Loop()), lambda: "run")(sync) == "run"
    assert own.report.claimed == 0


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("kind", ["leaf", "graph", "pure"])
async def test_an_effect_of_the_run_discards_reads_when_it_begins_and_ends(sync: bool, kind: str) -> None:
    own = session()
    effect = Effect.PURE if kind == "pure" else Effect.IRREVERSIBLE
    info = node("act", effect, kind="graph" if kind == "graph" else "leaf")
    during: list[Any] = []

    def act() -> None:
        during.extend([acting(own), own.ledger.all()])
        during.append(early(own, node("other", Effect.READ)))

    before = early(own, node("look", Effect.READ))
    await runner(own, info, config_in(Loop()), act)(sync)
    running, left, late = during
    fenced = kind == "leaf"
    assert running is fenced
    assert left == ([] if fenced else [before])
    assert own.ledger.all() == ([] if fenced else [before, late])
    assert not acting(own)
    await asyncio.sleep(0)
    assert (before.state is State.DISCARDED) is fenced


@pytest.mark.parametrize("sync", [True, False])
async def test_an_effect_that_raises_ends_too(sync: bool) -> None:
    own = session()

    def act() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError):
        await runner(own, node("act", Effect.IRREVERSIBLE), config_in(Loop()), act)(sync)
    assert not acting(own)


@pytest.mark.parametrize("sync", [True, False])
async def test_a_command_to_the_parent_is_an_output(sync: bool) -> None:
    own, outputs = session(), []
    own.tree.on_output = lambda ex, output, frozen: outputs.append(output)  # type: ignore[method-assign]

    def act() -> None:
        raise ParentCommand(Command(graph=Command.PARENT, goto="x"))

    with pytest.raises(ParentCommand):
        await runner(own, node(speculate=True), config_in(Loop()), act)(sync)
    await asyncio.sleep(0)
    assert outputs == [Command(goto="x")]


@pytest.mark.parametrize("sync", [True, False])
async def test_a_node_that_fails_leads_nowhere(sync: bool) -> None:
    own, failures = session(), []
    own.tree.on_failure = failures.append  # type: ignore[method-assign]

    def act() -> None:
        raise KeyError("own")

    with pytest.raises(KeyError):
        await runner(own, node(speculate=True), config_in(Loop()), act)(sync)
    with pytest.raises(KeyError):
        await runner(own, node(), config_in(Loop()), act)(sync)  # of which nothing was noted
    await asyncio.sleep(0)
    assert len(failures) == 1


async def test_an_error_in_our_own_code_leaves_the_run_alone() -> None:
    own, info = session(), node(key_function=lambda v: 1 / 0)
    early(own, info)
    assert await runner(own, info, config_in(Loop()), lambda: "run")(True) == "run"
    assert own.broken
    assert "ZeroDivisionError" in own.report.errors[0]


def request(config: Any, args: Any = None, id: str = "call") -> Any:
    call = {"name": "t", "args": args or {}, "id": id}
    return SimpleNamespace(runtime=SimpleNamespace(config=config), tool_call=call, state={})


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("claimed", [True, False])
async def test_tool_calls_are_taken_over_or_run(sync: bool, claimed: bool) -> None:
    own, tool = session(), ToolInfo("t", Effect.READ, "", "", name="t", step_bound=False)
    if claimed:
        early(own, tool, {"args": {}})

    async def execute(request: Any) -> Any:
        return "run"

    asked = request(config_in(Loop()))
    output = own.run_tool(tool, asked, lambda _: "run") if sync else await own.arun_tool(tool, asked, execute)
    assert output == ("early" if claimed else "run")
    assert own.report.steps == 1


@pytest.mark.parametrize("sync", [True, False])
async def test_a_tool_call_that_acts_fences(sync: bool) -> None:
    own, tool = session(), ToolInfo("t", Effect.UNDECLARED, "", "", name="t")
    early(own, node("look", Effect.READ))
    during: list[bool] = []

    async def execute(request: Any) -> None:
        during.append(acting(own))

    asked = request(config_in(Loop()))
    if sync:
        own.run_tool(tool, asked, lambda _: during.append(acting(own)))
    else:
        await own.arun_tool(tool, asked, execute)
    assert during == [True]
    assert not acting(own)
    assert own.ledger.all() == []


# --- taking over ----------------------------------------------------------------------------------------------------


async def take(own: Session, ex: Execution, sync: bool, renaming: Renaming = SAME, config: Any = None) -> Any:
    config = config or config_in(Loop())
    if sync:
        return own._claims.take(ex, renaming, ex.input, config)
    return await own._claims.atake(ex, renaming, ex.input, config)


@pytest.fixture(params=[True, False], ids=["sync", "async"])
def sync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_a_finished_one_is_taken_over_with_the_runs_ids(sync: bool) -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    ex = early(own, node(), output=["id-1", "x"])
    ex.started, ex.ended = 1.0, 3.5
    assert await take(own, ex, sync, Renaming({"id-1": "id-2"}, {})) == ["id-2", "x"]
    assert ex.state is State.CLAIMED
    assert (own.report.claimed, own.report.discarded) == (1, 0)
    assert [(e.kind, e.seconds) for e in seen[1:]] == [("claim", 2.5)]


UNUSABLE: dict[str, Callable[[Execution], Any]] = {
    "spoiled": lambda ex: setattr(ex, "spoiled", "why"),
    "failed": lambda ex: setattr(ex, "state", State.FAILED),
    "discarded": lambda ex: setattr(ex, "state", State.DISCARDED),
    "without output": lambda ex: setattr(ex, "has_output", False),
    "changed its input": lambda ex: ex.input.append(1),
    "an id inside a longer string": lambda ex: setattr(ex, "output", "so id-1 it is"),
    "an output that cannot be copied": lambda ex: setattr(ex, "output", threading.Lock()),
}


@pytest.mark.parametrize("what", UNUSABLE)
async def test_what_cannot_be_taken_over_is_run_again(what: str, sync: bool) -> None:
    seen: list[Event] = []
    own = session(hooks=(seen.append,))
    ex = early(own, node(), [])
    UNUSABLE[what](ex)
    assert await take(own, ex, sync, Renaming({"id-1": "id-2"}, {})) is AGAIN
    assert (own.report.claimed, own.report.discarded) == (0, 1)
    reason = {"spoiled": "why", "changed its input": "it changes its input"}.get(what, "could not be taken over")
    assert [(e.kind, e.detail) for e in seen[1:]] == [("discard", reason)]


@pytest.mark.parametrize("state", [State.BLOCKED, State.OPEN])
async def test_what_lends_its_guesses_alone_is_not_taken_over(state: State, sync: bool) -> None:
    own = session()
    ex = early(own, node(), state=state)
    assert await take(own, ex, sync) is AGAIN
    assert own.report.discarded == 0


async def test_the_claimant_waits_for_what_still_runs() -> None:
    own = session()
    ex = early(own, node(), state=State.RUNNING)
    waiting = asyncio.ensure_future(take(own, ex, False))
    await asyncio.sleep(0)
    assert not waiting.done()
    assert ex.decide(own.ledger.lock)  # it knows that it has been claimed
    ex.output, ex.has_output, ex.state = "late", True, State.FINISHED
    ex.over(own.ledger.lock)
    assert await waiting == "late"


async def test_after_the_claim_an_error_is_the_nodes_own(sync: bool) -> None:
    own = session()
    ex = early(own, node(), state=State.RUNNING)
    ex.state, ex.error = State.FAILED, KeyError("own")
    ex.over(own.ledger.lock)
    with pytest.raises(KeyError, match="own"):
        await take(own, ex, sync)
    assert own.report.claimed == 1


@pytest.mark.parametrize("error", [Barrier(), GraphInterrupt(())])
async def test_but_not_one_of_the_branchs(error: BaseException, sync: bool) -> None:
    own = session()
    ex = early(own, node(), state=State.RUNNING)
    ex.state, ex.error = State.FAILED, error
    ex.over(own.ledger.lock)
    assert await take(own, ex, sync) is AGAIN
    assert own.report.discarded == 1


class FakeGate:
    """A gate that opens or not, and a journal that may be claimed or not."""

    namespace = "early"

    def __init__(self, *, opens: bool = True, same: bool = True, claimable: bool = True, spoiled: str = "") -> None:
        self.opens, self.same, self.claimable, self.spoiled = opens, same, claimable, spoiled
        self.journal = self
        self.calls: list[str] = []

    def note(self, what: str, answer: Any = None) -> Any:
        self.calls.append(what)
        return answer

    def open(self, *_: Any) -> bool:
        return bool(self.note("open", self.opens))

    def check(self, ids: Any) -> bool:
        return bool(self.note("check", self.same))

    def is_claimable(self, ids: Any) -> bool:
        return self.claimable

    def land(self, ids: Any) -> None:
        self.note("land")

    def hand_over(self) -> None:
        self.note("hand over")

    def drop(self) -> None:
        self.note("drop")

    async def aopen(self, *args: Any) -> bool:
        return self.open(*args)

    async def acheck(self, ids: Any) -> bool:
        return self.check(ids)

    async def aland(self, ids: Any) -> None:
        self.land(ids)

    async def ahand_over(self) -> None:
        self.hand_over()


def gated(own: Session, **kwargs: Any) -> tuple[Execution, FakeGate]:
    ex = early(own, node())
    ex.gate = gate = FakeGate(**kwargs)  # type: ignore[assignment]
    return ex, gate


async def test_a_claim_reads_again_then_opens_then_lands(sync: bool) -> None:
    own = session()
    ex, gate = gated(own)
    assert await take(own, ex, sync) == "early"
    assert gate.calls == ["check", "open", "land", "hand over"]


async def test_a_store_that_has_changed_refutes_the_claim(sync: bool) -> None:
    own = session()
    ex, gate = gated(own, same=False)
    ex.task = SimpleNamespace(cancel=lambda: gate.note("cancelled"))  # type: ignore[assignment]
    assert await take(own, ex, sync) is AGAIN
    await asyncio.sleep(0)
    assert gate.calls == ["check", "drop", "cancelled"]
    assert ex.spoiled == "the store has changed since it was read"
    assert own.report.discarded == 1


async def test_a_gate_that_does_not_open_refutes_it(sync: bool) -> None:
    own = session()
    ex, gate = gated(own, opens=False)
    assert await take(own, ex, sync) is AGAIN
    assert gate.calls == ["check", "open", "drop"]


@pytest.mark.parametrize("kwargs", [{"claimable": False}, {"spoiled": "its own reason"}])
async def test_what_may_not_land_refutes_it(kwargs: Any, sync: bool) -> None:
    own = session()
    ex, gate = gated(own, **kwargs)
    assert await take(own, ex, sync) is AGAIN
    assert gate.calls == ["drop"]
    assert ex.spoiled == kwargs.get("spoiled", "it changes what it read from the store or put there")


async def test_an_error_of_its_own_comes_after_its_writes(sync: bool) -> None:
    own = session()
    ex = early(own, node(), state=State.RUNNING)
    ex.gate = gate = FakeGate()  # type: ignore[assignment]
    ex.state, ex.error = State.FAILED, KeyError("own")
    ex.over(own.ledger.lock)
    with pytest.raises(KeyError):
        await take(own, ex, sync)
    assert gate.calls == ["check", "open", "land", "hand over"]
    ex = early(own, node(), state=State.RUNNING)
    ex.gate = gate = FakeGate(claimable=False)  # type: ignore[assignment]
    ex.state, ex.error = State.FAILED, KeyError("own")
    ex.over(own.ledger.lock)
    assert await take(own, ex, sync) is AGAIN
    assert gate.calls == ["check", "open", "drop"]


async def test_an_interrupt_is_the_claimants_own(sync: bool) -> None:
    own = session()
    ex = early(own, node(), state=State.RUNNING)
    ex.gate = FakeGate()  # type: ignore[assignment]
    ex.state, ex.error = State.FAILED, GraphInterrupt((Interrupt.from_ns("?", "early"),))
    ex.over(own.ledger.lock)
    with pytest.raises(GraphInterrupt) as caught:
        await take(own, ex, sync)
    assert caught.value.args[0] == (Interrupt.from_ns("?", "n:1"),)


async def test_a_cancelled_claimant_cancels_what_it_waits_for_and_lands_what_was_written() -> None:
    own = session()
    ex = early(own, node(), state=State.RUNNING)
    ex.gate = gate = FakeGate()  # type: ignore[assignment]
    ex.task = SimpleNamespace(cancel=lambda: gate.note("cancelled"))  # type: ignore[assignment]
    waiting = asyncio.ensure_future(take(own, ex, False))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await asyncio.sleep(0)
    assert waiting.cancelled()
    assert gate.calls == ["check", "open", "land", "cancelled"]


def test_what_is_held_is_passed_on_as_it_is_where_it_cannot_be_renamed() -> None:
    from langgraph_speculative._claims import Claims

    renamed = Claims._renamer(Renaming({"id-1": "id-2"}, {}))
    assert renamed(["id-1"]) == ["id-2"]
    assert renamed("so id-1") == "so id-2"
    lock = threading.Lock()
    assert renamed(lock) is lock


# --- who opens a session --------------------------------------------------------------------------------------------


def speculation(mode: Any = "on", *, useful: bool = True) -> Speculation:
    infos = [node(speculate=useful)]
    return Speculation(
        {},
        SimpleNamespace(all_infos=lambda: infos, start=SimpleNamespace(speculate=False, called=False)),
        Policy(mode=mode),
    )  # type: ignore[arg-type]


def asking(own: Any) -> Any:
    return {"metadata": {"speculation": own}}


@pytest.mark.parametrize("mode", ["on", "observe", "off"])
def test_the_requests_mode_goes_before_the_policys(mode: str) -> None:
    own = speculation(mode)
    for config in (None, {}, {"metadata": None}, {"metadata": {}}, asking(None), asking({}), asking({"other": 1})):
        assert own.mode(config) == mode  # type: ignore[arg-type]
    for asked in ("on", "observe", "off"):
        assert own.mode(asking(asked)) == own.mode(asking({"mode": asked})) == asked


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(SpeculationError, match=r"'speculation' is 'sometimes'.*on, observe, off"):
        speculation().mode(asking("sometimes"))


@pytest.mark.parametrize(("value", "mode"), [("off", "off"), ("OFF", "off"), ("on", "on"), ("", "on")])
def test_the_environment_goes_before_all(monkeypatch: pytest.MonkeyPatch, value: str, mode: str) -> None:
    monkeypatch.setenv("LANGGRAPH_SPECULATIVE", value)
    assert speculation().mode(asking("on")) == mode


async def test_a_run_has_a_session_unless_it_is_plain() -> None:
    assert speculation("off").open(None, sync=False) is None
    assert speculation(useful=False).open(None, sync=False) is None
    closed = speculation()
    closed.closed = True
    assert closed.open(None, sync=False) is None
    own = speculation()
    opened = own.open(None, sync=False)
    assert opened is not None
    assert (opened.policy, opened.owner, opened.sync) == (own.policy, own, False)
    observing = own.open(asking("observe"), sync=False)
    assert observing is not None
    assert (observing.policy.mode, own.policy.mode) == ("observe", "on")
    await opened.aclose()
    assert own.report.runs == 1


async def test_a_graph_inside_a_run_takes_part_in_its_session() -> None:
    own = speculation()
    outer = own.open(None, sync=False)
    assert outer is not None

    def inside(view: Any) -> Any:
        return {"configurable": {KEY: view}}

    assert own.open(inside(View(outer)), sync=False) is None
    assert own.open(inside(INSIDE), sync=False) is None
    assert own.open(inside(None), sync=False) is not None
    # Called from the other world it has a session of its own.
    assert own.open(inside(View(outer)), sync=True) is not None
    outer.closed = True
    assert own.open(inside(View(outer)), sync=False) is not None


async def test_only_on_the_same_loop() -> None:
    outer = speculation().open(None, sync=False)
    assert outer is not None
    assert Speculation._shares(View(outer), False)
    assert not Speculation._shares(View(outer), True)
    assert not Speculation._shares(View(None), False)
    elsewhere = await asyncio.to_thread(lambda: asyncio.run(shares(View(outer))))
    assert not elsewhere
    synchronous = speculation().open(None, sync=True)
    assert Speculation._shares(View(synchronous), True)
    assert not Speculation._shares(View(synchronous), False)


async def shares(view: View) -> bool:
    return Speculation._shares(view, False)


async def test_the_control_thread_runs_no_sessions_of_its_own() -> None:
    from langgraph_speculative._scheduler import CONTROL

    own = speculation()

    async def there() -> Any:
        return own.open(None, sync=True), own.open(None, sync=False)

    future = asyncio.run_coroutine_threadsafe(there(), CONTROL.loop())
    synchronous, asynchronous = await asyncio.wrap_future(future)
    assert synchronous is None
    assert asynchronous is not None


async def test_the_end_of_a_session_is_told_once_to_each_tracker() -> None:
    trackers = Report(), Report()
    seen: list[Event] = []
    own = Session(Policy(hooks=(seen.append,)), object(), sync=False, trackers=trackers)
    own._frame_of(Loop())
    never = own.tree._workers.spawn(asyncio.sleep(3600))
    await own.aclose()
    assert own.closed
    assert never.cancelled()
    assert [t.runs for t in trackers] == [1, 1]
    assert [e.kind for e in seen] == ["run", "end"]
    assert own._frames == {}
    assert trackers[0].wall > 0


def test_the_end_of_a_synchronous_session_kills_its_branches() -> None:
    own = Session(Policy(), object(), sync=True)
    frame = own._frame_of(Loop())
    started = threading.Event()

    async def never() -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    own.post(lambda: own.tree._workers.spawn(never()))
    assert started.wait(LIMIT)
    own.close()
    assert own.closed
    assert frame.loop is None


def test_it_is_not_held_up_by_other_work_of_the_control_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session, "PATIENCE", 0.01)
    own = Session(Policy(), object(), sync=True)
    frame = own._frame_of(Loop())
    over = threading.Event()
    own.loop.call_soon_threadsafe(over.wait, 2 * LIMIT)
    try:
        own.close()
        assert own.closed
        assert frame.loop is not None
    finally:
        over.set()
    # What the loop is asked next, it does after that.
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), own.loop).result(LIMIT)
    assert frame.loop is None
