"""Early actions: reversible and staged nodes and tools, claimed or taken back."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from langgraph_speculative import CommitRefused, Effect, Guess, Policy, RollbackFailure, speculative
from langgraph_speculative._gate import CURRENT
from langgraph_speculative.effects import Action, Declaration, Prepared, read, reversible, staged
from langgraph_speculative.experimental import overwrite
from langgraph_speculative.journal import Entry, Phase, SqliteJournal
from tests.support import AsyncWorld, Probe, ScriptedModel, World, call, chain, says, turns

WORLDS = ("sync", "async", "mixed")


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[Any], operator.add]


class Shop:
    """A part of the world, and a graph that acts on it: `plan` says what `write` is to put there, `look` reads it."""

    def __init__(self, world: World, probe: Probe, *, planned: int = 7, **effects: Any) -> None:
        self.world, self.probe, self.planned = world, probe, planned
        self.stock: dict[str, int] = {"x": 0}
        self.done: list[Any] = []
        self.wait_for: Any = None
        self.effects = {"plan": "pure", "look": read(scope="x"), "write": reversible(self.undo, scope="x"), **effects}

    def undo(self, action: Action) -> None:
        self.done.append(("undo", action.arguments["n"]))
        if action.finished:
            self.stock["x"] = action.result["log"][0][1]

    def graph(self) -> Any:
        async def plan(state: State) -> Any:
            if self.wait_for is not None:
                await self.wait_for.wait()
            return {"n": self.planned}

        async def write(state: State) -> Any:
            before, self.stock["x"] = self.stock["x"], state["n"]
            self.done.append(("write", state["n"]))
            self.probe.tally.add(f"write {state['n']}")
            return {"log": [("wrote", before, state["n"])]}

        async def look(state: State) -> Any:
            self.done.append(("look", self.stock["x"]))
            self.probe.tally.add("look")
            return {"log": [("saw", self.stock["x"])]}

        nodes = [self.world.node(f) for f in (plan, write, look)]
        return chain(State, *nodes, names=["plan", "write", "look"]).compile()

    def fast(self, *guesses: int, tmp: Any = None, **policy: Any) -> Any:
        policy = {"depth": 3, "hooks": (self.probe.watch,), "journal": tmp, **policy}
        return speculative(
            self.graph(),
            speculators={"plan": lambda _: [Guess({"n": g}, 0.9) for g in guesses]},
            effects=self.effects,
            policy=Policy(**policy),
        )


SAME = [("wrote", 0, 7), ("saw", 7)]


def test_an_early_action_is_claimed_and_stays(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)
    shop.wait_for = probe.tally.reached("look")
    fast = shop.fast(7, tmp=tmp_path / "journal.sqlite")
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == SAME
    assert shop.done == [("write", 7), ("look", 7)]
    assert shop.stock == {"x": 7}
    assert (report.claimed, report.rolled_back, report.rollback_failures, report.early_irreversible_calls) == (
        2,
        0,
        0,
        0,
    )


def test_a_wrong_action_is_undone_before_the_right_one_is_done(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)
    shop.wait_for = probe.tally.reached("look")
    fast = shop.fast(3, tmp=tmp_path / "journal.sqlite")
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == SAME
    assert shop.done == [("write", 3), ("look", 3), ("undo", 3), ("write", 7), ("look", 7)]
    assert shop.stock == {"x": 7}
    assert (report.claimed, report.rolled_back) == (0, 1)
    assert report.rollback_wait > 0


def test_of_two_guesses_with_actions_of_one_scope_the_first_acts(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)
    shop.wait_for = probe.watch.saw("stop", "write")
    fast = shop.fast(7, 3, tmp=tmp_path / "journal.sqlite", breadth=2)
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == SAME
    assert shop.done[0] == ("write", 7)
    assert ("write", 3) not in shop.done
    assert report.claimed >= 1
    assert any("beside an early action of the same scope" in reason for reason in report.stopped)


def test_actions_of_other_scopes_act_beside_each_other(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)
    shop.effects["write"] = reversible(shop.undo, scope=lambda state: f"x:{state['n']}")
    both = probe.tally.reached("write 7"), probe.tally.reached("write 3")

    class Both:
        async def wait(self) -> None:
            for signal in both:
                await signal.wait()

    shop.wait_for = Both()
    fast = shop.fast(7, 3, tmp=tmp_path / "journal.sqlite", breadth=2, depth=1)
    with fast.track() as report:
        world.invoke(fast, {"n": 1})
    assert {("write", 7), ("write", 3), ("undo", 3)} <= set(shop.done)
    assert ("undo", 7) not in shop.done
    assert report.rolled_back == 1
    assert shop.done.count(("write", 7)) == 1


def test_actions_are_undone_in_reverse_order_when_the_run_fails(world: World, probe: Probe, tmp_path: Any) -> None:
    done: list[Any] = []

    async def plan(state: State) -> Any:
        await probe.tally.reached("third").wait()
        raise ValueError("no plan")

    async def first(state: State) -> Any:
        done.append("first")
        return {"log": ["first"]}

    async def second(state: State) -> Any:
        done.append("second")
        return {"log": ["second"]}

    async def third(state: State) -> Any:
        probe.tally.add("third")
        return {"log": ["third"]}

    nodes = [world.node(f) for f in (plan, first, second, third)]
    undo = lambda action: done.append(("undo", action.name))  # noqa: E731
    fast = speculative(
        chain(State, *nodes, names=["plan", "first", "second", "third"]).compile(),
        speculators={"plan": lambda _: {"n": 7}},
        effects={"plan": "pure", "first": reversible(undo), "second": reversible(undo, scope="b"), "third": "pure"},
        policy=Policy(depth=4, journal=tmp_path / "journal.sqlite"),
    )
    with fast.track() as report, pytest.raises(ValueError, match="no plan"):
        world.invoke(fast, {"n": 1})
    assert done == ["first", "second", ("undo", "second"), ("undo", "first")]
    assert (report.rolled_back, report.discarded) == (2, 3)


def test_an_action_that_raises_early_is_undone_and_done_again(world: World, probe: Probe, tmp_path: Any) -> None:
    attempts: list[str] = []

    async def plan(state: State) -> Any:
        await probe.watch.saw("rollback").wait()
        return {"n": 7}

    async def write(state: State) -> Any:
        attempts.append("write")
        if len(attempts) == 1:
            raise ConnectionError("early")
        return {"log": ["written"]}

    fast = speculative(
        chain(State, world.node(plan), world.node(write), names=["plan", "write"]).compile(),
        speculators={"plan": lambda _: {"n": 7}},
        effects={"plan": "pure", "write": reversible(lambda action: attempts.append(f"undo {action.finished}"))},
        policy=Policy(hooks=(probe.watch,), journal=tmp_path / "journal.sqlite"),
    )
    assert world.invoke(fast, {"n": 1})["log"] == ["written"]
    assert attempts == ["write", "undo False", "write"]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_an_undo_that_fails_is_tried_again(world: World, probe: Probe, tmp_path: Any, kind: str) -> None:
    shop, failures = Shop(world, probe), []

    def undo(action: Action) -> None:
        failures.append(action)
        if len(failures) < 3:
            raise OSError("busy")
        shop.undo(action)

    async def aundo(action: Action) -> None:
        undo(action)

    shop.effects["write"] = reversible(undo if kind == "plain" else aundo, scope="x")
    shop.wait_for = probe.tally.reached("look")
    fast = shop.fast(3, tmp=tmp_path / "journal.sqlite", rollback_backoff=0.001)
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == SAME
    assert len({a.id for a in failures}) == 1
    assert len(failures) == 3
    assert (report.rolled_back, report.rollback_failures) == (1, 0)


@pytest.mark.parametrize("hook_raises", [False, True])
def test_an_undo_that_fails_for_good_is_told_and_the_run_goes_on(
    world: World, probe: Probe, tmp_path: Any, hook_raises: bool
) -> None:
    shop, told = Shop(world, probe), []

    def undo(action: Action) -> None:
        raise OSError("gone")

    def tell(failure: RollbackFailure) -> None:
        told.append(failure)
        if hook_raises:
            raise KeyError("hook")

    shop.effects["write"] = reversible(undo, scope="x")
    shop.wait_for = probe.tally.reached("look")
    journal = SqliteJournal(tmp_path / "journal.sqlite")
    fast = shop.fast(3, tmp=journal, rollback_backoff=0.001, rollback_attempts=2, on_rollback_failure=tell)
    with fast.track() as report:
        world.invoke(fast, {"n": 1})
    (failure,) = told
    assert (failure.action.name, failure.action.arguments["n"], failure.attempts) == ("write", 3, 2)
    assert failure.action.finished
    assert failure.effect is Effect.REVERSIBLE
    assert isinstance(failure.error, OSError)
    assert (report.rolled_back, report.rollback_failures) == (0, 1)
    assert any("'write' was not taken back" in e for e in report.errors)
    assert any("on_rollback_failure raised" in e for e in report.errors) is hook_raises


def test_an_undo_that_hangs_counts_as_failed(probe: Probe, tmp_path: Any) -> None:
    world, told = AsyncWorld(), []
    shop = Shop(world, probe)

    async def undo(action: Action) -> None:
        await asyncio.get_running_loop().create_future()

    shop.effects["write"] = reversible(undo, scope="x")
    shop.wait_for = probe.tally.reached("look")
    fast = shop.fast(3, tmp=tmp_path / "j.sqlite", rollback_timeout=0.05, on_rollback_failure=told.append)
    world.invoke(fast, {"n": 1})
    assert [type(f.error) for f in told] == [TimeoutError]


def test_without_a_journal_nothing_acts_early(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)
    shop.wait_for = probe.watch.saw("stop", "write")
    fast = shop.fast(7, tmp=tmp_path)  # a folder is no file
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == SAME
    assert shop.done == [("write", 7), ("look", 7)]
    assert report.claimed == 0
    assert any("the journal could not be written" in reason for reason in report.stopped)


class Kept(SqliteJournal):
    """Notes what is asked of it, between what the code does."""

    def __init__(self, path: Any, done: list[Any]) -> None:
        super().__init__(path)
        self.done = done
        self.entries: list[Entry] = []

    def begin(self, entry: Entry) -> None:
        super().begin(entry)
        self.entries.append(entry)
        self.done.append("begun")

    def advance(self, id: str, phase: Phase, **kwargs: Any) -> None:
        self.done.append(phase.value)
        super().advance(id, phase, **kwargs)

    def close(self, id: str) -> None:
        self.done.append("closed")
        super().close(id)


@pytest.mark.parametrize(("guess", "told"), [(7, []), (3, [("undo", 3)])])
def test_an_action_is_journalled_before_it_starts_and_until_it_is_settled(
    world: World, probe: Probe, tmp_path: Any, guess: int, told: list[Any]
) -> None:
    shop = Shop(world, probe)
    shop.wait_for = probe.tally.reached("look")
    journal = Kept(tmp_path / "journal.sqlite", shop.done)
    world.invoke(shop.fast(guess, tmp=journal), {"n": 1}, {"configurable": {"thread_id": "t"}})
    assert shop.done[:6] == ["begun", ("write", guess), "done", ("look", guess), *told, "closed"][:6]
    (entry,) = journal.entries
    assert (entry.name, entry.kind, entry.arguments, entry.thread_id) == (
        "write",
        "reversible",
        {"n": guess, "log": []},
        "t",
    )


def test_what_is_redacted_is_not_in_the_journal(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)
    shop.wait_for = probe.tally.reached("look")
    journal = Kept(tmp_path / "journal.sqlite", [])
    fast = shop.fast(3, tmp=journal, redact=lambda name, arguments: {"n": f"{name}'s secret"})
    world.invoke(fast, {"n": 1})
    assert [e.arguments for e in journal.entries] == [{"n": "write's secret"}]
    assert ("undo", 3) in shop.done  # a live action has its own


@pytest.mark.parametrize("answer", [False, "raises"])
def test_a_guard_vetoes(world: World, probe: Probe, tmp_path: Any, answer: Any) -> None:
    shop, asked = Shop(world, probe), []

    def guard(name: str, arguments: Any, state: Any) -> bool:
        asked.append((name, arguments["n"], state["n"]))
        if answer == "raises":
            raise KeyError("guard")
        return name != "write"

    shop.wait_for = probe.watch.saw("stop", "write")
    fast = shop.fast(7, tmp=tmp_path / "j.sqlite", guard=guard)
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == SAME
    assert shop.done == [("write", 7), ("look", 7)]
    assert asked[0] == ("write", 7, 7)
    assert report.claimed == 0


def test_a_rate_limit_leaves_calls_to_the_run(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)
    fast = shop.fast(7, tmp=tmp_path / "j.sqlite", rate_limits={"write": 0, "*": 100.0})
    shop.wait_for = probe.watch.saw("stop", "write")
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == SAME
    assert report.launched == 0
    assert "rate limit of 'write'" in report.stopped


def test_an_interrupted_run_leaves_nothing_done_early(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)

    async def plan(state: State) -> Any:
        await probe.tally.reached("look").wait()
        return {"n": interrupt("which?")}

    async def write(state: State) -> Any:
        shop.done.append(("write", state["n"]))
        return {"log": [("wrote", 0, state["n"])]}

    async def look(state: State) -> Any:
        probe.tally.add("look")
        return {}

    graph = chain(State, *(world.node(f) for f in (plan, write, look)), names=["plan", "write", "look"])
    fast = speculative(
        graph.compile(checkpointer=InMemorySaver()),
        speculators={"plan": lambda _: {"n": 3}},
        effects=shop.effects,
        policy=Policy(depth=3, journal=tmp_path / "j.sqlite"),
    )
    config = {"configurable": {"thread_id": "t"}}
    assert world.invoke(fast, {"n": 1}, config)["__interrupt__"]
    assert shop.done == [("write", 3), ("undo", 3)]
    world.invoke(fast, Command(resume=7), config)
    assert [d for d in shop.done if d[0] == "write"][-1] == ("write", 7)


# --- staged ---------------------------------------------------------------------------------------------------------


class Phases:
    """A staged action, and what was asked of it."""

    def __init__(self, *, own_code: bool = True, refuse: bool = False) -> None:
        self.own_code, self.refuse = own_code, refuse
        self.done: list[Any] = []

    def prepare(self, action: Action, execute: Any) -> Prepared:
        result = execute() if self.own_code else {"log": ["held"]}
        self.done.append("prepare")
        return Prepared(result, {"ticket": action.id})

    async def aprepare(self, action: Action, execute: Any) -> Prepared:
        result = await execute() if self.own_code else {"log": ["held"]}
        self.done.append("prepare")
        return Prepared(result, {"ticket": action.id})

    def commit(self, action: Action) -> None:
        assert action.handle == {"ticket": action.id}
        self.done.append("commit")
        if self.refuse:
            raise CommitRefused

    def abort(self, action: Action) -> None:
        self.done.append("abort")

    async def acommit(self, action: Action) -> None:
        self.commit(action)

    async def aabort(self, action: Action) -> None:
        self.abort(action)


def staging(world: World, probe: Probe, tmp: Any, phases: Phases, declaration: Declaration, *guesses: int) -> Any:
    async def plan(state: State) -> Any:
        await probe.watch.saw("launch", "book").wait()
        return {"n": 7}

    async def book(state: State) -> Any:
        phases.done.append(f"book {state['n']}")
        return {"log": [f"booked {state['n']}"]}

    return speculative(
        chain(State, world.node(plan), world.node(book), names=["plan", "book"]).compile(),
        speculators={"plan": lambda _: [Guess({"n": g}, 0.9) for g in guesses]},
        effects={"plan": "pure", "book": declaration},
        policy=Policy(hooks=(probe.watch,), journal=Kept(tmp / "j.sqlite", phases.done)),
    )


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_staged_action_is_committed_by_its_claim(world: World, probe: Probe, tmp_path: Any, kind: str) -> None:
    phases = Phases()
    declaration = staged(phases.prepare, phases.commit, phases.abort)
    if kind == "coroutine":
        prepare = phases.aprepare if world.name == "async" else phases.prepare
        declaration = staged(prepare, phases.acommit, phases.aabort)
    fast = staging(world, probe, tmp_path, phases, declaration, 7)
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == ["booked 7"]
    assert phases.done == ["begun", "book 7", "prepare", "done", "committing", "commit", "closed"]
    assert report.claimed == 1


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_staged_action_that_was_wrong_is_aborted(world: World, probe: Probe, tmp_path: Any, kind: str) -> None:
    phases = Phases(own_code=False)
    declaration = staged(phases.prepare, phases.commit, phases.abort)
    if kind == "coroutine":
        prepare = phases.aprepare if world.name == "async" else phases.prepare
        declaration = staged(prepare, phases.acommit, phases.aabort)
    fast = staging(world, probe, tmp_path, phases, declaration, 3)
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == ["booked 7"]
    assert phases.done == ["begun", "prepare", "done", "abort", "closed", "book 7"]
    assert (report.claimed, report.rolled_back) == (0, 1)


def test_a_refused_commit_makes_the_run_do_it_itself(world: World, probe: Probe, tmp_path: Any) -> None:
    phases = Phases(refuse=True)
    fast = staging(world, probe, tmp_path, phases, staged(phases.prepare, phases.commit, phases.abort), 7)
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == ["booked 7"]
    assert phases.done == [
        *("begun", "book 7", "prepare", "done", "committing", "commit"),
        *("done", "abort", "closed", "book 7"),
    ]
    assert (report.claimed, report.discarded) == (0, 1)


def test_an_error_of_the_commit_is_the_nodes_own(world: World, probe: Probe, tmp_path: Any) -> None:
    phases = Phases()

    def commit(action: Action) -> None:
        raise ConnectionError("lost")

    fast = staging(world, probe, tmp_path, phases, staged(phases.prepare, commit, phases.abort), 7)
    with pytest.raises(ConnectionError, match="lost"):
        world.invoke(fast, {"n": 1})
    assert phases.done == ["begun", "book 7", "prepare", "done", "committing", "done", "abort", "closed"]


def test_a_prepare_that_gives_nothing_is_no_claim(world: World, probe: Probe, tmp_path: Any) -> None:
    phases = Phases()
    fast = staging(world, probe, tmp_path, phases, staged(lambda a, e: None, phases.commit, phases.abort), 7)
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == ["booked 7"]
    assert report.claimed == 0
    assert phases.done == ["begun", "abort", "closed", "book 7"]


# --- tools ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guess", ["right", "wrong"])
@pytest.mark.parametrize("kind", ["reversible", "staged"])
def test_tool_calls_act_early(world: World, probe: Probe, tmp_path: Any, kind: str, guess: str) -> None:
    done: list[Any] = []

    async def book(room: int) -> str:
        """Book a room."""
        done.append(f"book {room}")
        probe.tally.add("book")
        return f"room {room} is booked"

    own = world.node(book)
    made: Any = StructuredTool.from_function(
        **({"coroutine": own} if world.name == "async" else {"func": own}), name="book", description="Book a room."
    )

    def note(what: str) -> Any:
        return lambda action: done.append(f"{what} {action.arguments['room']} {action.name}")

    def prepare(action: Action, execute: Any) -> Prepared:
        return Prepared(execute())

    declaration = (
        reversible(note("undo"), scope="room:{room}")
        if kind == "reversible"
        else staged(prepare, note("commit"), note("abort"), scope="room:{room}")
    )
    declaration(made)

    async def ready(messages: Any) -> None:
        if isinstance(messages[-1], HumanMessage):
            await probe.watch.saw("launch", "tools").wait()

    model = ScriptedModel(script=turns(lambda: says("", call("book", room=7)), lambda: says("done")), before=ready)

    async def agent(state: MessagesState) -> Any:
        return {"messages": [await world.call(model, state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("agent", world.node(agent))
    builder.add_node("tools", ToolNode([made]))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    builder.add_edge("tools", "agent")
    room = 7 if guess == "right" else 3
    fast = speculative(
        builder.compile(),
        speculators={
            "agent": lambda s: {"messages": [says("", call("book", room=room))]} if len(s["messages"]) < 2 else []
        },
        effects={"agent": "pure"},
        policy=Policy(journal=tmp_path / "j.sqlite", hooks=(probe.watch,)),
    )
    assert ("book", "tool", declaration.effect, "decorator") in [
        (r.name, r.kind, r.effect, r.source) for r in fast.effects().rows
    ]
    out = world.invoke(fast, {"messages": [HumanMessage("a room")]})
    assert [m.content for m in out["messages"]] == ["a room", "", "room 7 is booked", "done"]
    if guess == "right":
        assert done == ["book 7", *(["commit 7 book"] if kind == "staged" else [])]
    else:
        taken_back = "undo 3 book" if kind == "reversible" else "abort 3 book"
        assert sorted(done) == sorted(["book 3", taken_back, "book 7"])


# --- last write wins ------------------------------------------------------------------------------------------------


def test_an_overwritten_action_is_not_taken_back_and_ends_before_the_next(
    world: World, probe: Probe, tmp_path: Any
) -> None:
    shop = Shop(world, probe, write=overwrite(scope="x"))
    shop.wait_for = probe.tally.reached("write 3")
    fast = shop.fast(3, tmp=tmp_path / "j.sqlite")
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"][-1] == ("saw", 7)
    assert [d for d in shop.done if d[0] == "write"] == [("write", 3), ("write", 7)]
    assert shop.stock == {"x": 7}
    assert (report.rolled_back, report.nodes["write"].discarded) == (0, 1)
    assert not (tmp_path / "j.sqlite").exists()


# --- claimants that are cancelled -----------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False])
def test_a_commit_that_is_under_way_comes_to_its_end_though_the_run_is_cancelled(
    probe: Probe, tmp_path: Any, commits: bool
) -> None:
    world, phases = AsyncWorld(), Phases()

    async def main() -> None:
        committing, go_on = asyncio.Event(), asyncio.Event()

        async def commit(action: Action) -> None:
            committing.set()
            await go_on.wait()
            phases.done.append("commit")
            if not commits:
                raise CommitRefused

        declaration = staged(phases.aprepare, commit, phases.abort)
        fast = staging(world, probe, tmp_path, phases, declaration, 7)
        run = asyncio.create_task(fast.ainvoke({"n": 1}))
        await committing.wait()
        run.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run

    world.run(main)
    assert phases.done[-2:] == (["commit", "closed"] if commits else ["abort", "closed"])


@pytest.mark.parametrize("kind", ["staged", "reversible"])
def test_an_action_that_still_runs_when_its_claimant_is_cancelled(probe: Probe, tmp_path: Any, kind: str) -> None:
    world, done = AsyncWorld(), []

    async def main() -> None:
        waiting, go_on = asyncio.Event(), asyncio.Event()

        async def plan(state: State) -> Any:
            await probe.watch.saw("launch", "write").wait()
            return {"n": 7}

        async def write(state: State) -> Any:
            waiting.set()
            try:
                await go_on.wait()
            finally:
                done.append("ended")
            return {}

        async def prepare(action: Action, execute: Any) -> Prepared:
            return Prepared(await execute())

        note = lambda what: lambda action: done.append(what)  # noqa: E731
        declaration = staged(prepare, note("commit"), note("abort")) if kind == "staged" else reversible(note("undo"))
        fast = speculative(
            chain(State, plan, write, names=["plan", "write"]).compile(),
            speculators={"plan": lambda _: {"n": 7}},
            effects={"plan": "pure", "write": declaration},
            policy=Policy(hooks=(probe.watch,), journal=Kept(tmp_path / "j.sqlite", done)),
        )
        run = asyncio.create_task(fast.ainvoke({"n": 1}))
        await waiting.wait()
        await probe.watch.saw("hit", "plan").wait()
        for _ in range(50):  # the claim follows within a few turns of the loop
            await asyncio.sleep(0)
        run.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run

    world.run(main)
    # What a claim has bound is cut off, as the plain run would have; what it has not, is taken back.
    if kind == "staged":
        assert done == ["begun", "ended", "done", "abort", "closed"]
    else:
        assert sorted(done) == ["begun", "closed", "ended"]


def test_a_call_does_not_wait_for_an_action_that_a_call_beside_it_is_claiming(probe: Probe, tmp_path: Any) -> None:
    """In the plain run the two run beside each other, too."""
    world, done = AsyncWorld(), []

    async def plan(state: State) -> Any:
        await probe.tally.reached("writing").wait()
        return {"n": 7}

    async def write(state: State) -> Any:
        probe.tally.add("writing")
        await probe.tally.reached("other").wait()
        done.append("write")
        return {"log": ["written"]}

    async def other(state: State) -> Any:
        probe.tally.add("other")
        return {"log": ["other"]}

    async def look(state: State) -> Any:
        return {}

    builder = chain(State, plan, write, look, names=["plan", "write", "look"])
    builder.add_node("write beside it", other)  # LangGraph starts the tasks of a superstep by name
    builder.add_edge("plan", "write beside it")
    fast = speculative(
        builder.compile(),
        speculators={"plan": lambda _: {"n": 7}},
        effects={"plan": "pure", "write": reversible(lambda action: done.append("undo"), scope="x")},
        policy=Policy(journal=tmp_path / "j.sqlite"),
    )
    out = world.invoke(fast, {"n": 1})
    assert sorted(out["log"]) == ["other", "written"]
    assert done == ["write"]


def test_a_closed_graph_lets_go_of_its_journal(world: World, probe: Probe, tmp_path: Any) -> None:
    shut: list[str] = []

    class Watched(SqliteJournal):
        def shut(self) -> None:
            shut.append("shut")
            super().shut()

    shop = Shop(world, probe)
    shop.wait_for = probe.tally.reached("look")
    with shop.fast(7, tmp=Watched(tmp_path / "j.sqlite")) as fast:
        world.invoke(fast, {"n": 1})
        assert shut == []
    assert shut == ["shut"]
    with Shop(world, probe).fast(7, tmp=tmp_path / "never.sqlite"):
        pass
    assert not (tmp_path / "never.sqlite").exists()


def test_what_is_committed_is_the_runs_whatever_becomes_of_the_early_call_since(
    world: World, probe: Probe, tmp_path: Any
) -> None:
    phases, gates = Phases(), []

    def prepare(action: Action, execute: Any) -> Prepared:
        gates.append(CURRENT.get())
        return phases.prepare(action, execute)

    def commit(action: Action) -> None:
        gates[0].spoil("what it has left running read channels")
        phases.commit(action)

    fast = staging(world, probe, tmp_path, phases, staged(prepare, commit, phases.abort), 7)
    assert world.invoke(fast, {"n": 1})["log"] == ["booked 7"]
    assert phases.done == ["begun", "book 7", "prepare", "done", "committing", "commit", "closed"]


def test_the_actions_of_all_runs_are_in_one_order(world: World, probe: Probe, tmp_path: Any) -> None:
    shop = Shop(world, probe)
    journal = Kept(tmp_path / "j.sqlite", [])
    fast = shop.fast(7, tmp=journal)
    for count in (1, 2):
        shop.wait_for = probe.tally.reached("look", count)
        world.invoke(fast, {"n": 1})
    first, second = journal.entries
    assert first.order < second.order
