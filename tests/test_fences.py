"""Fences end to end: what a call touches decides which early reads survive it, and what it waits for."""

from __future__ import annotations

import asyncio
import operator
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, add_messages
from langgraph.prebuilt import ToolNode

from langgraph_speculative import Policy, _session, speculative
from langgraph_speculative._gate import CURRENT
from langgraph_speculative.effects import Action, Prepared, irreversible, pure, read, reversible, staged
from tests.fuzz_runs import Notes
from tests.support import AsyncWorld, Probe, Signal, World, call, chain, says, turns

WORLDS = ("sync", "async", "mixed")


class State(TypedDict, total=False):
    n: int
    order: int
    log: Annotated[list[Any], operator.add]


class Order(TypedDict):
    """What the reader sees."""

    order: int


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


def raises(arguments: Any) -> str:
    raise LookupError("no scope")


# --- early reads and real effects -----------------------------------------------------------------------------------

SURVIVES = [
    ("a", "b", True),
    ("a", "a", False),
    ("order:{order}", "order:{order}", False),
    ("order:{order}", "invoice:{order}", True),
    (lambda s: f"order:{s['order']}", "order:{order}", False),
    (lambda s: ["a", f"order:{s['order']}"], lambda s: ["b", "order:1"], False),
    (lambda s: ["a", "b"], lambda s: ["c", "d"], True),
    (lambda s: [], "a", True),
    (raises, "a", False),
    ("a", raises, False),
    (lambda s: 5, "a", False),
    ("a", lambda s: 5, False),
    ("order:{missing}", "a", False),
    (None, "a", False),
    ("a", None, False),
]


def detour(world: World, probe: Probe, effects: dict[str, Any], **policy: Any) -> Any:
    """The guess goes to `look` past `skip`, the run past `write`: the read was made before the effect."""

    async def plan(state: State) -> Any:
        await probe.tally.reached("looked").wait()
        return {"n": 1}

    async def skip(state: State) -> Any:
        return {}

    async def write(state: State) -> Any:
        assert CURRENT.get() is None
        return {"log": ["wrote"]}

    async def look(state: Order) -> Any:
        probe.tally.add("looked")
        return {"log": [probe.tally["looked"]]}

    builder = chain(State, world.node(plan), names=["plan"])
    for name, node in (("skip", skip), ("write", write)):
        builder.add_node(name, world.node(node))
        builder.add_edge(name, "look")
    builder.add_node("look", world.node(look), input_schema=Order)
    builder.add_conditional_edges("plan", lambda s: "write" if s["n"] else "skip", ["write", "skip"])
    return speculative(
        builder.compile(),
        speculators={"plan": lambda s: {"n": 0}},
        effects={"plan": "pure", "skip": "pure", **effects},
        policy=Policy(depth=3, hooks=(probe.watch,), **policy),
    )


@pytest.mark.parametrize(("reads", "writes", "survives"), SURVIVES)
def test_a_read_survives_an_effect_that_touches_something_else(
    world: World, probe: Probe, reads: Any, writes: Any, survives: bool
) -> None:
    fast = detour(world, probe, {"look": read(scope=reads), "write": irreversible(scope=writes)})
    with fast.track() as report:
        out = world.invoke(fast, {"n": 0, "order": 1})
    assert out["log"] == ["wrote", 1 if survives else 2]
    assert report.claimed == survives
    assert not report.errors


def test_no_read_survives_what_nobody_has_declared(world: World, probe: Probe) -> None:
    fast = detour(world, probe, {"look": read(scope="a")})
    assert world.invoke(fast, {"n": 0, "order": 1})["log"] == ["wrote", 2]


@pytest.mark.parametrize("effect", ["irreversible", None])
def test_what_is_pure_survives_every_effect(world: World, probe: Probe, effect: Any) -> None:
    fast = detour(world, probe, {"look": pure(), **({"write": effect} if effect else {})})
    assert world.invoke(fast, {"n": 0, "order": 1})["log"] == ["wrote", 1]


@pytest.mark.parametrize(("age", "claimed"), [(5.0, True), (5.1, False)])
def test_a_read_that_is_too_old_is_made_again(
    world: World, probe: Probe, monkeypatch: pytest.MonkeyPatch, age: float, claimed: bool
) -> None:
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    for module in ("_early", "_ledger"):
        monkeypatch.setattr(f"langgraph_speculative.{module}.time", clock)

    async def plan(state: State) -> Any:
        await probe.tally.reached("looked").wait()
        now[0] += age
        return {"n": 1}

    async def look(state: Order) -> Any:
        return {"log": [probe.tally.add("looked")]}

    builder = chain(State, world.node(plan), names=["plan"])
    builder.add_node("look", world.node(look), input_schema=Order)
    builder.add_edge("plan", "look")
    fast = speculative(
        builder.compile(),
        speculators={"plan": lambda s: {"n": 1}},
        effects={"plan": "pure", "look": read(max_age=5)},
    )
    with fast.track() as report:
        assert world.invoke(fast, {"order": 1})["log"] == [1 if claimed else 2]
    assert report.claimed == claimed


@pytest.mark.parametrize(
    ("reads", "writes", "runs"),
    [("a", "b", True), ("a", "a", False), ("{order}", "{order}", False), (None, "b", False), ("a", None, False)],
)
@pytest.mark.parametrize("declared", [True, False])
def test_behind_a_guessed_effect_only_reads_of_other_scopes_run_early(
    world: World, probe: Probe, reads: Any, writes: Any, runs: bool, declared: bool
) -> None:
    runs = runs and declared

    async def write(state: State) -> Any:
        await (probe.tally.reached("look") if runs else probe.watch.saw("stop", "look")).wait()
        probe.tally.add("written")
        return {"n": 1}

    async def look(state: State) -> Any:
        assert runs or probe.tally["written"]
        probe.tally.add("look")
        return {"log": ["saw"]}

    async def aside(state: State) -> Any:
        return {}

    builder = chain(State, world.node(write), world.node(look), names=["write", "look"])
    builder.add_node("aside", world.node(aside))
    builder.add_edge("write", "aside")  # or nothing may run early at all, and nobody is asked
    fast = speculative(
        builder.compile(),
        speculators={"write": lambda s: {"n": 1}},
        effects={
            "look": read(scope=reads),
            "aside": "pure",
            **({"write": irreversible(scope=writes)} if declared else {}),
        },
        policy=Policy(hooks=(probe.watch,)),
    )
    assert world.invoke(fast, {"n": 0, "order": 1})["log"] == ["saw"]
    assert probe.tally["look"] == 1


def test_a_claimed_action_makes_void_the_reads_that_have_not_seen_it(world: World, probe: Probe) -> None:
    """The branch looks, and writes then; the run takes the write over first, and looks then."""
    place = {"value": 0}
    ready = probe.tally.reached("written")

    async def write(value: int) -> str:
        """Write."""
        place["value"] = value
        probe.tally.add("written")
        return "written"

    async def look() -> str:
        """Look."""
        return f"value {place['value']}"

    async def wait() -> str:
        """Wait."""
        return "waited"

    key = "coroutine" if world.name == "async" else "func"
    tools: Any = [
        StructuredTool.from_function(**{key: world.node(f)}, name=f.__name__)  # type: ignore[arg-type]
        for f in (write, look, wait)
    ]
    real = turns(lambda: says("", call("write", value=7)), lambda: says("", call("look")), lambda: says("done"))
    guessed = turns(
        lambda: says("", call("wait")), lambda: says("", call("look")), lambda: says("", call("write", value=7))
    )

    async def model(state: Chat) -> Any:
        await ready.wait()  # a branch goes on from the guesses until then
        return {"messages": [real(state["messages"])]}

    builder = chain(Chat, world.node(model))
    builder.add_node("tools", ToolNode(tools))
    builder.add_conditional_edges("model", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    builder.add_edge("tools", "model")
    fast = speculative(
        builder.compile(),
        speculators={"model": lambda s: {"messages": [guessed(s["messages"])]}},
        effects={
            "model": "pure",
            "write": reversible(lambda action: place.update(value=0), scope="a"),
            "look": read(scope="a"),
            "wait": "pure",
            "<lambda>": "pure",
        },
        policy=Policy(depth=6, hooks=(probe.watch,), journal=Notes()),
    )
    out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert [m.content for m in out["messages"] if m.type == "tool"] == ["written", "value 7"]


# --- what a real call waits for -------------------------------------------------------------------------------------


class Open:
    """A run that has written early what it does not want, and comes to a read then.

    Args:
        scope: Of the read; the write's is "a".
    """

    def __init__(self, world: World, probe: Probe, scope: Any, **policy: Any) -> None:
        self.probe = probe
        self.done: list[str] = []
        self.may_undo = Signal("undo")
        self.error: Exception | None = None

        async def undo(action: Action) -> None:
            probe.tally.add("undoing")
            await self.may_undo.wait()
            self.done.append("undo")

        async def plan(state: State) -> Any:
            await probe.tally.reached("write").wait()
            if self.error is not None:
                raise self.error
            return {"n": 1}

        async def write(state: State) -> Any:
            self.done.append("write")
            probe.tally.add("write")
            return {}

        async def look(state: State) -> Any:
            self.done.append("look")
            self.may_undo.set()
            return {"log": ["saw"]}

        builder = chain(State, world.node(plan), names=["plan"])
        builder.add_node("write", world.node(write))
        builder.add_node("look", world.node(look))
        builder.add_conditional_edges("plan", lambda s: "look" if s["n"] else "write", ["look", "write"])
        self.graph = speculative(
            builder.compile(checkpointer=policy.pop("saver", None)),
            speculators={"plan": lambda s: {"n": 0}},
            effects={"plan": "pure", "write": reversible(world.node(undo), scope="a"), "look": read(scope=scope)},
            policy=Policy(hooks=(probe.watch,), journal=Notes(), **policy),
        )


@pytest.mark.parametrize("scope", ["a", None, lambda s: ["b", "a"], raises])
def test_a_real_read_waits_until_an_early_write_of_its_scope_is_taken_back(
    world: World, probe: Probe, scope: Any
) -> None:
    case = Open(world, probe, scope)
    case.may_undo.set()
    with case.graph.track() as report:
        assert world.invoke(case.graph, {"n": 0})["log"] == ["saw"]
    assert case.done == ["write", "undo", "look"]
    assert report.rollback_wait > 0


def test_a_real_read_of_another_scope_does_not_wait_but_the_end_of_the_run_does(world: World, probe: Probe) -> None:
    case = Open(world, probe, "b")
    with case.graph.track() as report:
        assert world.invoke(case.graph, {"n": 0})["log"] == ["saw"]
    assert case.done == ["write", "look", "undo"]
    assert report.rolled_back == 1


def test_a_real_read_does_not_wait_for_the_rollback_of_another_scope_than_its_own(world: World, probe: Probe) -> None:
    """Two writes are dropped at once; the later one's undo takes until the read, of the other's scope, is made."""
    done: list[str] = []
    looked = Signal("look")

    async def plan(state: State) -> Any:
        await probe.tally.reached("written", 2).wait()
        return {"n": 1}

    async def write(state: State) -> Any:
        probe.tally.add("written")
        return {}

    async def on(state: State) -> Any:
        return {}

    async def look(state: State) -> Any:
        done.append("look")
        looked.set()
        return {"log": ["saw"]}

    async def undo(action: Action) -> None:
        if action.name == "two":
            await looked.wait()
        done.append(f"undo {action.name}")

    builder = chain(State, world.node(plan), names=["plan"])
    for name, node in (("one", write), ("two", write), ("on", on), ("look", look)):
        builder.add_node(name, world.node(node))
    builder.add_conditional_edges("plan", lambda s: "on" if s["n"] else ["one", "two"], ["on", "one", "two"])
    builder.add_edge("on", "look")
    handler = world.node(undo)
    fast = speculative(
        builder.compile(),
        speculators={"plan": lambda s: {"n": 0}},
        effects={
            "plan": "pure",
            "on": "pure",
            "one": reversible(handler, scope="a"),
            "two": reversible(handler, scope="b"),
            "look": read(scope="a"),
        },
        policy=Policy(journal=Notes()),
    )
    assert world.invoke(fast, {"n": 0})["log"] == ["saw"]
    assert done == ["undo one", "look", "undo two"]


def test_no_action_starts_early_beside_a_real_call_of_its_scope(world: World, probe: Probe) -> None:
    """The run looks while its branch comes to a write of the same place."""

    async def look(state: State) -> Any:
        probe.tally.add("looking")
        await probe.watch.saw("stop", "write").wait()
        assert not probe.tally["write"]
        return {"n": 1}

    async def write(state: State) -> Any:
        probe.tally.add("write")
        return {"log": ["wrote"]}

    async def guess(state: State) -> Any:
        await probe.tally.reached("looking").wait()
        return {"n": 1}

    fast = speculative(
        chain(State, world.node(look), world.node(write), names=["look", "write"]).compile(),
        speculators={"look": world.node(guess)},
        effects={"look": read(scope="a"), "write": reversible(lambda action: None, scope="a")},
        policy=Policy(hooks=(probe.watch,), journal=Notes()),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"n": 0})["log"] == ["wrote"]
    assert report.launched == 0
    assert any("beside a call of the same scope" in reason for reason in report.stopped)


def test_nothing_is_read_behind_a_staged_action_that_is_not_committed(world: World, probe: Probe) -> None:
    place = {"value": 0}

    async def plan(state: State) -> Any:
        await probe.watch.saw("stop", "look").wait()
        return {"n": 7}

    async def write(state: State) -> Any:
        return {}

    async def look(state: State) -> Any:
        return {"log": [place["value"]]}

    nodes = [world.node(f) for f in (plan, write, look)]
    fast = speculative(
        chain(State, *nodes, names=["plan", "write", "look"]).compile(),
        speculators={"plan": lambda s: {"n": 7}},
        effects={
            "plan": "pure",
            "look": read(scope="a"),
            "write": staged(
                lambda action, execute: Prepared(execute(), action.arguments["n"]),
                lambda action: place.update(value=action.handle),
                lambda action: None,
                scope="a",
            ),
        },
        policy=Policy(depth=3, hooks=(probe.watch,), journal=Notes()),
    )
    with fast.track() as report:
        assert world.invoke(fast, {"n": 0})["log"] == [7]
    assert report.claimed == 1
    assert any("behind a staged action of the same scope" in reason for reason in report.stopped)


def test_no_action_starts_behind_the_end_of_the_run(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guard is asked while the run goes on, and answers when it has ended."""
    monkeypatch.setattr(_session, "PATIENCE", 0.0)
    world, over, asked = World(), Signal("the end"), Signal("the guard")

    def guard(name: str, arguments: Any, state: Any) -> bool:
        asked.set()
        over.block()
        return True

    async def plan(state: State) -> Any:
        await asked.wait()
        raise ValueError("no plan")

    async def write(state: State) -> Any:
        probe.tally.add("write")
        return {}

    fast = speculative(
        chain(State, world.node(plan), world.node(write), names=["plan", "write"]).compile(),
        speculators={"plan": lambda s: {"n": 1}},
        effects={"plan": "pure", "write": reversible(lambda action: None)},
        policy=Policy(hooks=(probe.watch,), journal=Notes(), guard=guard),
    )
    with pytest.raises(ValueError, match="no plan"):
        world.invoke(fast, {"n": 0})
    over.set()
    probe.watch.saw("stop", "write").block()
    assert probe.tally["write"] == 0
    assert "behind the end of the run" in probe.watch.of("stop", "write")[0].detail


# --- runs that are cut off ------------------------------------------------------------------------------------------


def test_a_run_that_fails_has_taken_everything_back(world: World, probe: Probe) -> None:
    case = Open(world, probe, "a")
    case.error = ValueError("no plan")
    case.may_undo.set()
    with pytest.raises(ValueError, match="no plan"):
        world.invoke(case.graph, {"n": 0})
    assert case.done == ["write", "undo"]


@pytest.mark.parametrize("how", ["cancel", "timeout", "closed"])
async def test_a_run_that_is_cut_off_has_taken_everything_back(probe: Probe, how: str) -> None:
    case = Open(AsyncWorld(), probe, "a")
    never = Signal("the plan")
    plan_waits = probe.tally.reached("write")

    async def until_cut() -> None:
        await plan_waits.wait()
        probe.tally.add("cut")
        await never.wait(60)

    case_wait = probe.tally.reached
    probe.tally.reached = lambda name, count=1: (  # type: ignore[method-assign, assignment]
        SimpleNamespace(wait=until_cut) if name == "write" else case_wait(name, count)
    )
    case.may_undo.set()
    if how == "closed":
        chunks = case.graph.astream({"n": 0}, stream_mode="values")
        assert await anext(chunks) == {"n": 0, "log": []}
        step = asyncio.ensure_future(anext(chunks))
        await case_wait("cut").wait()
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        await chunks.aclose()
    elif how == "cancel":
        task = asyncio.ensure_future(case.graph.ainvoke({"n": 0}))
        await case_wait("cut").wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        with pytest.raises(TimeoutError):
            await _timed(case.graph, case_wait("cut"))
    assert case.done == ["write", "undo"]


async def _timed(graph: Any, cut: Signal) -> None:
    """Run under a timeout that is over when it is to be cut off."""
    async with asyncio.timeout(None) as limit:

        async def expire() -> None:
            await cut.wait()
            limit.reschedule(asyncio.get_running_loop().time())

        watch = asyncio.ensure_future(expire())
        await graph.ainvoke({"n": 0})
        await watch


def test_a_stream_that_is_left_has_taken_everything_back(probe: Probe) -> None:
    world, done = World(), []

    async def first(state: State) -> Any:
        return {"log": ["first"]}

    async def plan(state: State) -> Any:
        await probe.tally.reached("write").wait()
        return {"n": 1}

    async def write(state: State) -> Any:
        probe.tally.add("write")
        return {}

    nodes = [world.node(f) for f in (first, plan, write)]
    fast = speculative(
        chain(State, *nodes, names=["first", "plan", "write"]).compile(),
        speculators={"plan": lambda s: {"n": 0}},
        effects={"first": "pure", "plan": "pure", "write": reversible(lambda action: done.append("undo"))},
        policy=Policy(journal=Notes()),
    )
    chunks = fast.stream({"n": 0}, stream_mode="updates")
    assert next(chunks) == {"first": {"log": ["first"]}}
    assert next(chunks) == {"plan": {"n": 1}}
    chunks.close()
    assert done == ["undo"]


# --- identity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [None, {"identity": "ann", "permissions": ["all"]}])
def test_an_early_call_sees_its_own_runs_configurable(world: World, probe: Probe, user: Any) -> None:
    """Two runs of one graph with the same arguments at the same time: each takes over its own calls alone."""
    seen: list[Any] = []

    async def whose(x: int, config: RunnableConfig) -> str:
        """Say who asks."""
        own = config["configurable"]
        seen.append((CURRENT.get() is not None, own["thread_id"], own.get("langgraph_auth_user")))
        probe.tally.add("asked")
        return f"{own['thread_id']} {own['tenant']}"

    key = "coroutine" if world.name == "async" else "func"
    made: Any = StructuredTool.from_function(**{key: world.node(whose)}, name="whose", description="Say who asks.")  # type: ignore[arg-type]
    both = probe.tally.reached("asked", 2)
    script = turns(lambda: says("", call("whose", x=1)), lambda: says("done"))

    async def model(state: Chat) -> Any:
        await both.wait()
        return {"messages": [script(state["messages"])]}

    builder = chain(Chat, world.node(model))
    builder.add_node("tools", ToolNode([made]))
    builder.add_edge("model", "tools")
    fast = speculative(
        builder.compile(checkpointer=InMemorySaver()),
        speculators={"model": lambda s: {"messages": [script(s["messages"])]}},
        effects={"model": "pure", "whose": read(scope="a")},
    )

    def config(name: str) -> Any:
        own = {"thread_id": name, "tenant": f"of {name}"}
        return {"configurable": own | ({"langgraph_auth_user": {**user, "identity": name}} if user else {})}

    value = {"messages": [HumanMessage("?")]}
    with fast.track() as report:
        outs = world.batch(fast, [value, value], [config("one"), config("two")])
    assert [out["messages"][-1].content for out in outs] == ["one of one", "two of two"]
    users = [{**user, "identity": name} if user else None for name in ("one", "two")]
    assert sorted(seen, key=str) == [(True, "one", users[0]), (True, "two", users[1])]
    assert report.claimed == 2
