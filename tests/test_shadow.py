"""Asking Speculators: every kind of callable, the budget, and what comes of a failure. No graph runs here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from langgraph_speculative import Event, Guess, Policy, _scheduler
from langgraph_speculative._histories import SHORT, Histories
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative._session import Session
from langgraph_speculative._shadow import Shadows
from langgraph_speculative.effects import Effect
from langgraph_speculative.speculators._draft import Draft

pytestmark = pytest.mark.usefixtures("ends_sessions")


class Asked:
    """A session's shadows, and the guesses that have come."""

    def __init__(self, *, sync: bool = False, **policy: Any) -> None:
        self.events: list[Event] = []
        self.session = Session(Policy(hooks=(self.events.append,), **policy), object(), sync=False)
        self.session.sync = sync
        self.histories = Histories()
        self.guesses: list[tuple[Execution, Guess, NodeInfo]] = []
        self.shadows = Shadows(self.session, self.session.tree._workers, self.histories, self._propose)

    def _propose(self, core: Execution, guess: Guess, info: NodeInfo) -> None:
        self.guesses.append((core, guess, info))

    def start(self, speculator: Any, value: Any = "x") -> Execution:
        info = NodeInfo("n", Effect.PURE, "", "", name="n", speculator=speculator)
        ex = Execution(info, 2, None, State.RUNNING, Effect.PURE)
        ex.input, ex.config = value, {"configurable": {"own": 1}}
        self.shadows.start(ex, info)
        return ex

    async def outputs(self, speculator: Any, value: Any = "x") -> list[Any]:
        """What a Speculator guesses at a node's output."""
        self.guesses.clear()
        ex = self.start(speculator, value)
        assert ex.shadow is not None
        await asyncio.wait([ex.shadow])
        await asyncio.sleep(0)  # a thread's place is given back on the loop
        assert all((core, info) == (ex, ex.info) for core, _, info in self.guesses)
        return [guess.output for _, guess, _ in self.guesses]

    @property
    def stopped(self) -> dict[str, int]:
        return {reason: stop.count for reason, stop in self.session.report.stopped.items()}


def function(value: Any) -> Any:
    return [value, threading.current_thread().name]


async def coroutine(value: Any) -> Any:
    await asyncio.sleep(0)
    return function(value)


def generator(value: Any) -> Iterator[Any]:
    yield function(value)
    yield Guess(function(value), 0.5)


async def stream(value: Any) -> AsyncIterator[Any]:
    yield function(value)
    await asyncio.sleep(0)
    yield Guess(function(value), 0.5)


async def coroutine_of_a_generator(value: Any) -> Any:
    return generator(value)


def function_of_a_stream(value: Any) -> Any:
    return stream(value)


IN_POOL, HERE = ["x", "langgraph-speculative"], ["x", threading.main_thread().name]


@pytest.mark.parametrize(
    ("speculator", "outputs"),
    [
        (function, [IN_POOL]),
        (coroutine, [HERE]),
        (generator, [IN_POOL, IN_POOL]),
        (stream, [HERE, HERE]),
        (coroutine_of_a_generator, [IN_POOL, IN_POOL]),
        (function_of_a_stream, [HERE, HERE]),
        (lambda value: None, []),
        (lambda value: [Guess(1, 0.2), Guess(2, 0.7), Guess(3, 0.1)], [2, 1, 3]),
    ],
)
async def test_every_kind_of_callable_is_asked(speculator: Any, outputs: list[Any]) -> None:
    asked = Asked(breadth=3)
    assert await asked.outputs(speculator) == outputs
    assert asked.session.report.speculator_calls == 1
    assert asked.session.report.speculator_errors == 0
    assert asked.shadows._speculating == 0
    assert asked.stopped == {}


@pytest.mark.parametrize("speculator", [generator, stream, lambda value: [Guess(i) for i in range(4)]])
@pytest.mark.parametrize("breadth", [1, 2])
async def test_only_so_many_guesses_are_taken(speculator: Any, breadth: int) -> None:
    assert len(await Asked(breadth=breadth).outputs(speculator)) == breadth


async def test_a_stream_that_is_not_asked_for_more_ends() -> None:
    ended: list[str] = []

    async def endless(value: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield value
        finally:
            ended.append("ended")

    asked = Asked(breadth=2)
    speculator = endless("x")
    assert await asked.outputs(lambda value: speculator) == ["x", "x"]
    await speculator.aclose()
    assert ended == ["ended"]


async def test_guesses_come_as_they_are_made() -> None:
    asked, go = Asked(breadth=2), asyncio.Event()
    came: list[int] = []

    async def slow(value: Any) -> AsyncIterator[Any]:
        yield "early"
        came.append(len(asked.guesses))
        await go.wait()
        yield "late"

    go.set()
    assert await asked.outputs(slow) == ["early", "late"]
    assert came == [1]


# --- drafts ---------------------------------------------------------------------------------------------------------


def drafted(*, sync_only: bool) -> Draft:
    async def ainvoke(value: Any, config: Any) -> Any:
        return function([value, config["configurable"]["own"]])

    def invoke(value: Any, config: Any) -> Any:
        return function([value, config["configurable"]["own"]])

    return Draft(RunnableLambda(invoke) if sync_only else RunnableLambda(invoke, ainvoke))


@pytest.mark.parametrize(
    ("sync", "sync_only", "where"),
    [(False, False, HERE), (True, False, IN_POOL), (False, True, IN_POOL), (True, True, IN_POOL)],
)
async def test_a_draft_is_run_where_it_does_not_block(sync: bool, sync_only: bool, where: list[str]) -> None:
    asked = Asked(sync=sync)
    assert await asked.outputs(drafted(sync_only=sync_only)) == [[["x", 1], where[1]]]
    assert asked.shadows._speculating == 0


async def test_what_a_question_has_cost_is_counted_once() -> None:
    said = AIMessage(
        "x",
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        response_metadata={"model_name": "m"},
    )
    asked = Asked()
    assert len(await asked.outputs(Draft(RunnableLambda(lambda value: said), samples=2))) == 1
    assert {m: u.draft for m, u in asked.session.report.usage.items()} == {"m": 6}


# --- the budget -----------------------------------------------------------------------------------------------------


async def test_only_so_many_are_asked_at_a_time() -> None:
    asked, go = Asked(max_speculators=2), asyncio.Event()

    async def waits(value: Any) -> Any:
        await go.wait()

    async def streams(value: Any) -> AsyncIterator[Any]:
        await go.wait()
        yield 1

    running = [asked.start(waits), asked.start(streams)]
    await asyncio.sleep(0)
    refused = asked.start(waits)
    assert refused.shadow is None
    assert asked.stopped == {"max_speculators are under way": 1}
    assert [(e.node, e.step) for e in asked.events if e.kind == "stop"] == [("n", 2)]
    go.set()
    await asyncio.wait([ex.shadow for ex in running if ex.shadow is not None])
    assert await asked.outputs(coroutine) == [HERE]
    assert asked.session.report.speculator_calls == 3


@pytest.mark.parametrize("kind", ["function", "generator"])
async def test_one_that_hangs_in_a_thread_keeps_its_place(kind: str) -> None:
    asked, entered, go = Asked(max_speculators=1), asyncio.Event(), threading.Event()
    running = asyncio.get_running_loop()

    def hangs(value: Any) -> Any:
        running.call_soon_threadsafe(entered.set)
        go.wait()

    def generates(value: Any) -> Iterator[Any]:
        yield hangs(value)

    ex = asked.start(hangs if kind == "function" else generates)
    await entered.wait()
    assert ex.shadow is not None
    ex.shadow.cancel()
    await asyncio.wait([ex.shadow])
    assert asked.start(coroutine).shadow is None
    go.set()
    assert _scheduler.POOL.drain(asked.session.owner, 10) == 0
    await asyncio.sleep(0)
    assert await asked.outputs(coroutine) == [HERE]
    assert asked.shadows._speculating == 0


@pytest.mark.parametrize("how", ["cancelled", "raises"])
async def test_one_on_the_loop_gives_its_place_back(how: str) -> None:
    asked = Asked(max_speculators=1)

    async def ends(value: Any) -> Any:
        if how == "raises":
            raise KeyError
        await asyncio.get_running_loop().create_future()

    ex = asked.start(ends)
    assert ex.shadow is not None
    await asyncio.sleep(0)
    ex.shadow.cancel()
    await asyncio.wait([ex.shadow])
    assert asked.shadows._speculating == 0
    assert asked.session.report.speculator_errors == (how == "raises")


async def test_without_a_free_thread_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked()
    monkeypatch.setattr(_scheduler.POOL, "submit", lambda *_, **__: False)
    assert await asked.outputs(function) == []
    assert asked.stopped == {"no thread is free": 1}
    assert [(e.kind, e.node, e.step) for e in asked.events[1:]] == [("stop", "n", 2)]
    assert asked.shadows._speculating == 0
    assert asked.session.report.speculator_errors == 0


# --- failures -------------------------------------------------------------------------------------------------------


class Odd(BaseException):
    pass


@pytest.mark.parametrize("error", [KeyError("why"), SystemExit("why"), Odd("why")])
@pytest.mark.parametrize("kind", ["function", "coroutine", "stream"])
async def test_one_that_raises_costs_an_entry_in_the_report(error: BaseException, kind: str) -> None:
    def raises(value: Any) -> Any:
        raise error

    async def araises(value: Any) -> Any:
        raise error

    async def streams(value: Any) -> AsyncIterator[Any]:
        yield "first"
        raise error

    asked = Asked(breadth=2)
    speculator = {"function": raises, "coroutine": araises, "stream": streams}[kind]
    assert await asked.outputs(speculator) == (["first"] if kind == "stream" else [])
    text = f"Speculator of 'n': {type(error).__name__}: {error}"
    assert list(asked.session.report.errors) == [text]
    assert asked.session.report.speculator_errors == 1
    assert [(e.kind, e.node, e.step, e.detail) for e in asked.events[1:]] == [("error", "n", 2, text)]
    assert not asked.session.broken
    assert asked.shadows._speculating == 0


async def test_a_long_error_is_cut() -> None:
    asked = Asked()
    ex = asked.start(coroutine)
    asked.shadows.failed(ex.info, 1, ValueError("x" * 1000))
    (text,) = asked.session.report.errors
    assert len(text) == 500
    assert asked.events[-1].detail == text


async def test_one_that_is_cancelled_is_no_error() -> None:
    asked = Asked()

    async def waits(value: Any) -> Any:
        await asyncio.get_running_loop().create_future()

    ex = asked.start(waits)
    await asyncio.sleep(0)
    assert ex.shadow is not None
    ex.shadow.cancel()
    await asyncio.wait([ex.shadow])
    assert ex.shadow.cancelled()
    assert asked.session.report.speculator_errors == 0


# --- its input ------------------------------------------------------------------------------------------------------


def history() -> dict[str, Any]:
    return {"messages": [HumanMessage("x", id=str(i)) for i in range(SHORT)]}


async def test_it_is_given_a_copy_of_the_input() -> None:
    value, given = history(), []

    async def speculator(own: Any) -> Any:
        given.append(own)

    await Asked().outputs(speculator, value)
    assert given == [value]
    assert given[0]["messages"][0] is not value["messages"][0]


@pytest.mark.parametrize("what", ["returned", "kept", "a stream"])
async def test_the_copy_is_lent_again_once_it_has_returned(what: str) -> None:
    asked = Asked(breadth=5)

    async def returns(own: Any) -> Any:
        return own["messages"][:1] if what == "kept" else "x"

    async def streams(own: Any) -> AsyncIterator[Any]:
        yield "x"

    await asked.outputs(streams if what == "a stream" else returns, history())
    assert len(asked.histories._free) == (what == "returned")
