"""Features beside each other: what one of them does must be seen by the others, and by nobody else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, add_messages

from langgraph_speculative import BetweenTurns, Budget, Guess, Policy, speculative
from langgraph_speculative._spending import Spending
from langgraph_speculative.speculators import BaseSpeculator
from langgraph_speculative.testing import check_same_run
from tests.support import LIMIT, ScriptedModel, Tally, Watch, call, chain, says
from tests.test_stream_calls import Writing, looker, looks, text

ASK = {"messages": [HumanMessage("how much?", id="ask")]}


def on(thread: str, **more: Any) -> Any:
    return {"configurable": {"thread_id": thread}, **more}


class Chat(TypedDict, total=False):
    x: int
    messages: Annotated[list[AnyMessage], add_messages]


def pair(build: Callable[[Tally, Callable[[str], Any]], Any]) -> Callable[[], Any]:
    """Makes the plain graph, and then one in which a node can wait until something has been counted."""
    made: list[Tally] = []

    def make() -> Any:
        tally = Tally()
        made.append(tally)
        waits = len(made) > 1
        return build(tally, lambda name: tally.reached(name, int(waits)))

    return make


# --- what an early call has reported stays as it was --------------------------------------------------------------


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_a_tools_result_is_changed_after_it_was_reported(sync: bool) -> None:
    """A tool node makes text of what is no content of a message."""

    def build(tally: Tally, wait: Callable[[str], Any]) -> Any:
        @tool
        def look(what: str) -> list[str]:
            """Look."""
            tally.add("look")
            return [what, "seen"]

        def script(messages: list[Any]) -> Any:
            if isinstance(messages[-1], ToolMessage):
                return says("all seen")
            return says("", call("look", what="a"))

        async def before(messages: list[Any]) -> None:
            if not isinstance(messages[-1], ToolMessage):
                await wait("look").wait()

        return create_agent(ScriptedModel(script=script, before=before), [look])

    report = check_same_run(
        pair(build),
        ASK,
        sync=sync,
        speculators={"model": lambda state: {"messages": [says("", call("look", what="a"))]}},
        effects={"look": "read"},
    )
    assert report.claimed >= 1


class Shelf(BaseRetriever):
    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [Document(f"about {query}", metadata={"shelf": "b"})]


@pytest.mark.parametrize("sync", [True, False], ids=["sync", "async"])
def test_documents_and_answers_are_changed_after_they_were_reported(sync: bool) -> None:
    """A node that goes on with what a retriever, a sequence and a model have returned."""

    def build(tally: Tally, wait: Callable[[str], Any]) -> Any:
        async def a(state: Chat) -> Any:
            await wait("b").wait()
            return {"x": 1}

        def b(state: Chat, config: RunnableConfig) -> Any:
            (document,) = Shelf().invoke("hats", config)
            document.metadata["score"] = 1
            model = ScriptedModel(script=lambda ms: says("so", call("look", what="a")))
            piped: Any = RunnableLambda(lambda text: [HumanMessage(text)]).with_config(run_name="asked") | model
            answer = piped.invoke(document.page_content, config)
            answer.name = "anna"
            answer.tool_calls[0]["args"]["what"] = "b"
            tally.add("b")
            return {"messages": [answer]}

        def waiting(state: Chat) -> Any:
            wait("b").block()
            return {"x": 1}

        return chain(Chat, waiting if sync else a, b, names=("a", "b")).compile()

    report = check_same_run(
        pair(build), {"x": 0}, sync=sync, speculators={"a": lambda state: {"x": 1}}, effects={"b": "pure"}
    )
    assert report.claimed == 1


# --- policy and the time between turns --------------------------------------------------------------------------------


class Person(BaseSpeculator):
    """Guesses several inputs, or, with a price, one."""

    def __init__(self, tally: Tally, *guesses: int, is_free: bool = True) -> None:
        self.is_free = is_free
        self._tally = tally
        self._guesses = guesses

    async def aguess(self, value: Any, config: Any) -> list[Guess]:
        self._tally.add("asked")
        usage = {} if self.is_free else {"draft": 10}
        return [Guess({"x": x}, usage=usage if x == self._guesses[0] else {}) for x in self._guesses]


class Turns:
    """start -> work -> end, which waits for a person: what has been called early, and what has been heard of it."""

    def __init__(self, *guesses: int, is_free: bool = True, hold: Any = None, **policy: Any) -> None:
        self.tally, self.watch = Tally(), Watch()

        async def work(state: Chat) -> Any:
            self.tally.add(f"work {state['x']}")
            self.tally.add("work")
            if hold is not None and self.tally[f"work {state['x']}"] == 1 and state["x"] in guesses:
                await hold.wait()
            return {}

        own = {"between_turns": BetweenTurns(), "breadth": 4, "hooks": (self.watch,), **policy}
        self.fast = speculative(
            chain(Chat, work).compile(checkpointer=InMemorySaver()),
            speculators={START: Person(self.tally, *guesses, is_free=is_free)},
            effects={"work": "read"},
            policy=Policy(**own),
        )

    async def wait(self) -> Any:
        """The wait that is open."""
        (wait,) = self.fast._speculation.waits._open.values()  # type: ignore[union-attr]
        return wait


@pytest.mark.parametrize("policy", [{"value_per_second": 0.0}, {"budget": Budget(tokens_per_hour=15)}])
async def test_who_guesses_what_a_person_says_is_weighed_as_any_other(policy: dict[str, Any]) -> None:
    turns = Turns(1, is_free=False, **policy)
    async with turns.fast as fast:
        for thread in "abc":
            await fast.ainvoke({"x": 0}, on(thread))
            await turns.watch.saw("wait", count=2 * turns.tally["threads"] + 2).wait()
            turns.tally.add("threads")
            for _ in range(50):
                await asyncio.sleep(0)
    # The first answer says what asking costs: from then on it is known not to fit into the hour's budget.
    asked = 0 if "value_per_second" in policy else 1
    assert turns.tally["asked"] == asked
    start = fast.report().nodes[START]
    assert sum(start.closed.values()) == 3 - asked
    assert start.windows == 0
    assert sum(usage.draft for usage in fast.report().usage.values()) == 10 * asked


async def test_a_wait_obeys_the_bound_of_the_run_before_it_and_the_next_one_its_own() -> None:
    hold = Tally().reached("never")
    turns = Turns(1, 2, 3, hold=hold)
    async with turns.fast as fast:
        await fast.ainvoke({"x": 0}, on("a", max_concurrency=1))
        await turns.watch.saw("stop", count=2).wait()
        await turns.tally.reached("work", 1 + 1).wait()  # the run's own, and the one that was launched
        assert fast.report().stopped == {}
        assert sum(turns.tally[f"work {x}"] for x in (1, 2, 3)) == 1
        # What the wait has begun is under way still: the run makes room for its own call.
        await fast.ainvoke({"x": 0}, on("a", max_concurrency=1))
        assert [e.detail for e in turns.watch.of("discard")] == ["max_concurrency: the run needs the room"]
    assert fast.report().stopped["max_concurrency calls are under way"].count == 2


async def test_a_request_that_switches_speculation_on_waits_with_it_on() -> None:
    turns = Turns(1, mode="observe")
    async with turns.fast as fast:
        await fast.ainvoke({"x": 0}, on("a"))
        assert not turns.watch.of("wait")
        await fast.ainvoke({"x": 0}, on("a", metadata={"speculation": "on"}))
        await turns.tally.reached("work 1").wait()
        await fast.ainvoke({"x": 1}, on("a", metadata={"speculation": "on"}))
        assert turns.tally["work 1"] == 1
        assert fast.report().waits_claimed == 1
        assert fast.report().nodes[START].windows == 1


@pytest.mark.parametrize("share", [{"rollout": 0.0}, {"holdout": 1.0}])
async def test_a_thread_that_is_held_out_does_not_wait_on(share: dict[str, float]) -> None:
    turns = Turns(1, **share)
    async with turns.fast as fast:
        await fast.ainvoke({"x": 0}, on("a", metadata={"speculation": "on"}))
        await turns.tally.reached("work 1").wait()
        await fast.ainvoke({"x": 1}, on("a"))
        assert turns.tally["work 1"] == 2
        assert not fast._speculation.waits
        await turns.watch.saw("end", count=2).wait()
        assert turns.watch.of("wait")[-1].detail == "moved"


def test_who_waits_takes_no_share_of_a_budget() -> None:
    spending = Spending(Budget(tokens_per_hour=100, calls=4))
    run = spending.open()
    waits = [spending.open(waits=True) for _ in range(9)]
    assert spending.refuses_call(run, 100, 0) == ""
    assert [spending.refuses_call(wait, 50, 0) for wait in waits] == [""] * 9
    assert spending.refuses_call(waits[0], 51, 0) == "budget: tokens of the hour"
    waits[0].waits = False  # its run has come
    assert spending.refuses_call(run, 51, 0) == "budget: tokens of the hour"
    # The loop of one has ended without a word: what it had under way is not held for ever.
    spending.reserve(waits[0], 100, 0)
    assert spending.refuses_call(run, 1, 0) == "budget: tokens of the hour"
    del waits[0]
    assert spending.refuses_call(run, 100, 0) == ""


# --- policy and the stream of the Actor itself -----------------------------------------------------------------------

PRICES = {"look": 0.001}


def writing(tally: Tally, *before: Any, guess: Any = None, **options: Any) -> Any:
    """An agent that writes a call, and does not end before it is made, unless it is asked to be quick."""

    def script(messages: list[Any]) -> list[Any]:
        if isinstance(messages[-1], ToolMessage):
            return [text("all seen")]
        if messages[-1].content == "quick":
            return [*looks(0, "c1", "q"), text("")]
        return [*before, *looks(0, "c1", "a"), tally.reached("look a"), text("")]

    own = {"effects": {"look": "read"}, "speculators": None if guess is None else {"model": guess}}
    return speculative(create_agent(Writing(script=script), [looker(tally)]), **{**own, **options})


async def streamed(fast: Any, words: str) -> Any:
    """The last message of a run whose model streams."""
    modes = ["messages", "values"]
    chunks = [c async for c in fast.astream({"messages": [HumanMessage(words)]}, stream_mode=modes)]
    return next(values for mode, values in reversed(chunks) if mode == "values")["messages"][-1].content


async def test_what_the_actor_writes_is_no_guess_among_those_that_prices_choose_from() -> None:
    tally = Tally()

    async def guess(state: Any) -> Any:
        if state["messages"][-1].content == "slow":
            return {"messages": [says("", call("look", what="g"))]}
        return None

    fast = writing(tally, tally.reached("look g"), guess=guess, policy=Policy(prices=PRICES))
    await streamed(fast, "quick")
    assert await streamed(fast, "slow") == "all seen"
    assert (tally["look g"], tally["look a"]) == (1, 1)
    assert fast.report().nodes["tools.look"].usd["discarded"] == PRICES["look"]


async def test_what_the_actor_writes_is_no_evidence() -> None:
    tally = Tally()
    fast = writing(tally, policy=Policy(prices=PRICES))
    for _ in range(3):
        await streamed(fast, "slow")
    report, knowledge = fast.report(), fast._speculation.knowledge
    assert (report.windows, report.nodes["model"].guesses, report.nodes["model"].judged) == (0, 0, 0)
    assert tally["look a"] == report.nodes["tools.look"].claimed == 3
    for label in ("model", "tools.look"):
        known = knowledge.of(label)
        assert (bool(known.calibration), bool(known.fresh), list(known.door.windows)) == (False, False, [])
    assert report.nodes["tools.look"].usd == {"committed": pytest.approx(3 * PRICES["look"])}


@pytest.mark.parametrize(
    ("options", "guesses"),
    [
        ({"policy": Policy(mode="observe")}, 1),
        ({"policy": Policy(prices=PRICES, value_per_second=0)}, 1),
        ({"policy": Policy(), "speculators": {}}, 0),
    ],
    ids=["observe", "worthless", "none"],
)
async def test_where_the_actors_stream_starts_nothing(options: Any, guesses: int) -> None:
    tally = Tally()
    fast = writing(tally, **options)
    await streamed(fast, "quick")
    assert (fast.report().launched, fast.report().guesses) == (0, guesses)


def test_a_graph_is_closed_when_nothing_reads_its_checkpointer() -> None:
    """A checkpointer is closed after the graph; SQLite's library does not survive being read then."""
    order: list[str] = []
    reading, go = Tally(), Tally()

    class Slow(InMemorySaver):
        def get_tuple(self, config: Any) -> Any:
            if threading.current_thread() is threading.main_thread():
                return super().get_tuple(config)
            reading.add("reading")
            go.reached("go").block()
            order.append("read")
            return super().get_tuple(config)

    fast = speculative(
        chain(Chat, lambda state: {}, names=("work",)).compile(checkpointer=Slow()),
        speculators={START: lambda state: {"x": 1}},
        effects={"work": "read"},
        policy=Policy(between_turns=BetweenTurns()),
    )
    fast.invoke({"x": 0}, on("a"))
    reading.reached("reading").block()
    closing = threading.Thread(target=lambda: (fast.close(), order.append("closed")))
    closing.start()
    closing.join(0.05)
    go.add("go")
    closing.join()
    assert fast.drain(LIMIT) == 0
    assert order == ["read", "closed"]
