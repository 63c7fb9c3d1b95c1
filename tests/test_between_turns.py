"""Between turns: what is guessed while a graph waits for a person, and what the next run takes over."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import add
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START
from langgraph.types import Command, interrupt

from langgraph_speculative import (
    BetweenTurns,
    Event,
    Guess,
    Policy,
    SpeculationError,
    SpeculationInactiveWarning,
    SpeculativeGraph,
    _compat,
    speculative,
)
from langgraph_speculative._waiting import MAX_WAITS, WaitState
from langgraph_speculative.effects import reversible
from langgraph_speculative.speculators._protocol import BaseSpeculator
from langgraph_speculative.testing import check_same_run
from tests.support import LIMIT, ScriptedModel, Tally, Watch, call, chain, says


def answer(messages: list[Any]) -> AIMessage:
    """The model: looks the last word up, then says what was found."""
    last = messages[-1]
    if isinstance(last, HumanMessage):
        return says("I look.", call("look", word=str(last.content).split()[-1]))
    return says(f"It is {last.content}.")


@dataclass
class Shop:
    """An agent with one tool, plain and speculative, and what was called."""

    tally: Tally = field(default_factory=Tally)
    watch: Watch = field(default_factory=Watch)
    gate: Any = None
    saver: Any = None
    guessed: str = "shoes"
    asked: list[Any] = field(default_factory=list)

    def agent(self, **kwargs: Any) -> Any:
        @tool
        async def look(word: str) -> str:
            """Look it up."""
            self.tally.add(f"look {word}")
            self.tally.add("look")
            if self.gate is not None:
                await self.gate.wait()
            return f"a {word}"

        saver = InMemorySaver() if self.saver is None else self.saver
        return create_agent(ScriptedModel(script=answer), [look], checkpointer=saver, **kwargs)

    def person(self, state: Any) -> Any:
        self.asked.append(state)
        return {"messages": [HumanMessage("other words and " + self.guessed)]}

    def next_call(self, state: Any) -> Any:
        last = state["messages"][-1]
        if isinstance(last, HumanMessage):
            return {"messages": [says("", call("look", word=str(last.content).split()[-1]))]}
        return None

    def fast(self, *, seconds: float = 30, calls: int = 5, tokens: int | None = 0, **kwargs: Any) -> SpeculativeGraph:
        own: dict[str, Any] = {
            "speculators": {START: self.person, "model": self.next_call},
            "effects": {"look": "read"},
            "policy": Policy(
                depth=3,
                hooks=(self.watch,),
                between_turns=BetweenTurns(seconds=seconds, calls=calls, tokens=tokens),
            ),
        }
        return speculative(self.agent(), **{**own, **kwargs})

    async def waited(self, count: int = 1) -> None:
        """The guessed call has been made, for the `count`-th time, and has come back."""
        await self.tally.reached("look shoes", count).wait()
        for _ in range(20):
            await asyncio.sleep(0)


def said(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def on(thread: str, **more: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, **more}}


def texts(out: Any) -> list[tuple[str, Any, Any]]:
    return [(m.type, m.content, [c["args"] for c in getattr(m, "tool_calls", ())]) for m in out["messages"]]


def waits_of(fast: SpeculativeGraph) -> Any:
    return fast._speculation.waits


async def test_a_call_is_claimed_though_the_words_differ() -> None:
    shop = Shop()
    plain = shop.agent()
    before = [texts(await plain.ainvoke(said(text), on("a"))) for text in ("a hat", "what about shoes")]
    shop.tally = Tally()
    async with shop.fast() as fast:
        first = await fast.ainvoke(said("a hat"), on("a"))
        await shop.waited()
        assert shop.tally["look shoes"] == 1
        second = await fast.ainvoke(said("what about shoes"), on("a"))
        assert [texts(first), texts(second)] == before
        assert shop.tally["look shoes"] == 1
        report = fast.report()
        assert (report.runs, report.waits_claimed) == (2, 1)
        assert report.claimed >= 1
        assert [e.detail for e in shop.watch.of("wait")][:3] == ["opened", "asked", "joined"]
        assert [e.kind for e in shop.watch.events if e.node == START] == ["guess", "miss"]
        assert [m.content for m in shop.asked[0]["messages"]] == [m.content for m in first["messages"]]
    assert not waits_of(fast)


async def test_a_call_that_comes_later_than_guessed_is_claimed_all_the_same() -> None:
    """The run begins with another call; what sees its arguments alone is bound to no superstep."""
    shop = Shop()

    def script(messages: list[Any]) -> AIMessage:
        last = messages[-1]
        if last.content == "a boots":
            return says("And then.", call("look", word="shoes"))
        return answer(messages)

    def agent() -> Any:
        @tool
        async def look(word: str) -> str:
            """Look it up."""
            shop.tally.add(f"look {word}")
            return f"a {word}"

        return create_agent(ScriptedModel(script=script), [look], checkpointer=InMemorySaver())

    plain = agent()
    before = [texts(await plain.ainvoke(said(text), on("a"))) for text in ("a hat", "what about boots")]
    shop.tally = Tally()
    policy = Policy(depth=3, between_turns=BetweenTurns(tokens=0))
    speculators: Any = {START: shop.person, "model": shop.next_call}
    async with speculative(agent(), speculators=speculators, effects={"look": "read"}, policy=policy) as fast:
        first = await fast.ainvoke(said("a hat"), on("a"))
        await shop.waited()
        second = await fast.ainvoke(said("what about boots"), on("a"))
        assert [texts(first), texts(second)] == before
        assert (shop.tally["look boots"], shop.tally["look shoes"]) == (1, 1)
        assert fast.report().waits_claimed == 1


async def test_the_right_words_let_the_model_be_claimed_too() -> None:
    shop = Shop()
    async with shop.fast(speculators={START: shop.person}, tokens=None, calls=9) as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await shop.watch.saw("launch:model", count=1).wait()
        await shop.watch.saw("launch:tools", count=1).wait()
        seen = len(shop.watch.events)
        await fast.ainvoke(said("other words and shoes"), on("a"))
        assert {(e.kind, e.node) for e in shop.watch.events[seen:] if e.kind in ("claim", "hit")} >= {
            ("hit", START),
            ("claim", "model"),
            ("claim", "tools"),
        }
        assert shop.tally["look shoes"] == 1


async def test_a_running_call_is_awaited() -> None:
    shop = Shop()
    async with shop.fast() as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        shop.gate = shop.tally.reached("open")
        await shop.tally.reached("look shoes").wait()
        run = asyncio.create_task(fast.ainvoke(said("what about shoes"), on("a")))
        await shop.watch.saw("wait", count=3).wait()
        shop.tally.add("open")
        out = await run
        assert out["messages"][-1].content == "It is a shoes."
        assert shop.tally["look shoes"] == 1


async def test_the_run_ends_before_anything_is_asked() -> None:
    shop = Shop()
    held = shop.tally.reached("go")

    async def slow(state: Any) -> Any:
        await held.wait()

    async with shop.fast(speculators={START: slow}) as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        assert shop.watch.of("wait")[-1].detail == "opened"
        await fast.ainvoke(said("a hat"), on("a"))  # nor does the next run wait for it
    assert not held.is_set


# --- who may take it over ---------------------------------------------------------------------------------------


async def other_thread(fast: Any) -> RunnableConfig:
    return on("b")


async def other_user(fast: Any) -> RunnableConfig:
    return on("a", user="v")


async def moved_by_update(fast: Any) -> RunnableConfig:
    await fast.aupdate_state(on("a", user="u"), {"messages": [AIMessage("By the way.")]})
    assert not waits_of(fast)
    return on("a", user="u")


async def moved_by_others(fast: Any) -> RunnableConfig:
    await fast._plain().ainvoke(said("a cap"), on("a", user="u"))
    return on("a", user="u")


async def in_the_past(fast: Any) -> RunnableConfig:
    states = [s async for s in fast.aget_state_history(on("a"))]
    return {"configurable": {**states[1].config["configurable"], "user": "u"}}


@pytest.mark.parametrize("elsewhere", [other_thread, other_user, moved_by_update, moved_by_others, in_the_past])
async def test_never_by_another(elsewhere: Callable[..., Any]) -> None:
    shop = Shop()
    async with shop.fast() as fast:
        await fast.ainvoke(said("a hat"), on("a", user="u"))
        await shop.waited()
        config = await elsewhere(fast)
        await fast.ainvoke(said("what about shoes"), config)
        assert shop.tally["look shoes"] == 2
        assert fast.report().waits_claimed == 0
        await fast.aclose()
        assert fast.report().discarded >= 1


async def test_never_with_another_context() -> None:
    shop = Shop()
    agent = shop.agent(context_schema=dict)
    policy = Policy(depth=3, hooks=(shop.watch,), between_turns=BetweenTurns(tokens=0))
    speculators = {START: shop.person, "model": shop.next_call}
    async with speculative(agent, speculators=speculators, effects={"look": "read"}, policy=policy) as fast:
        await fast.ainvoke(said("a hat"), on("a"), context={"shop": 1})
        await shop.waited()
        await fast.ainvoke(said("and shoes"), on("a"), context={"shop": 2})
        assert fast.report().waits_claimed == 0
        await shop.waited(3)
        await fast.ainvoke(said("and shoes"), on("a"), context={"shop": 2})
        assert fast.report().waits_claimed == 1


async def test_a_request_has_ids_of_its_own() -> None:
    shop = Shop()
    plain = shop.agent()
    ours: list[Any] = []
    plains: list[Any] = []

    def config(number: int) -> RunnableConfig:
        return {
            "configurable": {"thread_id": "a", "x-request-id": f"r{number}", "__own": number},
            "metadata": {"request": number, f"only{number}": True},
            "tags": [f"tag{number}"],
        }

    async def events(graph: Any, into: list[Any], number: int, text: str) -> None:
        async for event in graph.astream_events(said(text), config(number), version="v2"):
            if event["event"].startswith("on_tool"):
                metadata = {k: v for k, v in event["metadata"].items() if "checkpoint_ns" not in k and "path" not in k}
                into.append((event["event"], event["name"], sorted(event["tags"]), metadata))

    async with shop.fast() as fast:
        for graph, into in ((plain, plains), (fast, ours)):
            await events(graph, into, 1, "a hat")
            if graph is fast:
                await shop.waited(2)  # the plain graph has called it, too
            await events(graph, into, 2, "and shoes")
        assert fast.report().waits_claimed == 1
    assert ours == plains


async def test_who_takes_the_config_is_not_claimed_by_another_request() -> None:
    tally, watch = Tally(), Watch()

    @tool
    async def look(word: str, config: RunnableConfig) -> str:
        """Look it up."""
        tally.add(word)
        return str(config["metadata"].get("request"))

    # The tool sees the state too, so all has to come as guessed.
    agent = create_agent(ScriptedModel(script=answer), [look], checkpointer=InMemorySaver())
    policy = Policy(depth=3, hooks=(watch,), between_turns=BetweenTurns(tokens=0))
    speculators = {
        START: lambda state: said("the shoes"),
        "model": lambda state: {"messages": [answer(state["messages"])]} if len(state["messages"]) > 4 else None,
    }
    async with speculative(agent, speculators=speculators, effects={"look": "read"}, policy=policy) as fast:
        for turn, (number, claimed) in enumerate(((1, 0), (2, 0), (2, 1)), 1):
            out = await fast.ainvoke(said("the shoes"), {**on("a"), "metadata": {"request": number}})
            assert out["messages"][-1].content == f"It is {number}."
            assert fast.report().waits_claimed == claimed
            # Each turn but the last executed its own, and each wait one early.
            await tally.reached("shoes", 2 * turn if turn < 3 else 4).wait()
            for _ in range(20):
                await asyncio.sleep(0)


async def test_another_audience_takes_nothing() -> None:
    shop = Shop()
    async with shop.fast() as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await shop.waited()
        chunks = [c async for c in fast.astream(said("and shoes"), on("a"), stream_mode="messages")]
        assert any("shoes" in str(m.content) for m, _ in chunks)
        assert fast.report().waits_claimed == 0


# --- limits -----------------------------------------------------------------------------------------------------


async def test_seconds() -> None:
    shop = Shop()
    async with shop.fast(seconds=0.02) as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await shop.watch.saw("end", count=2).wait()
        assert shop.watch.of("wait")[-1].detail == "time is over"
        assert not waits_of(fast)
        assert fast.report().discarded + fast.report().claimed == fast.report().launched
        if left := [t for t in asyncio.all_tasks() if t.get_name().startswith("langgraph-speculative")]:
            # The time may have been over in the middle of a call, which ends in its own turns of the loop.
            _, left_over = await asyncio.wait(left, timeout=LIMIT)
            assert not left_over
        out = await fast.ainvoke(said("and shoes"), on("a"))
        assert out["messages"][-1].content == "It is a shoes."
        assert fast.report().waits_claimed == 0


async def test_calls() -> None:
    shop = Shop()

    def several(state: Any) -> list[Guess]:
        return [Guess(said(f"the {n}")) for n in range(4)]

    policy = Policy(depth=3, breadth=4, hooks=(shop.watch,), between_turns=BetweenTurns(calls=2, tokens=0))
    async with shop.fast(speculators={START: several, "model": shop.next_call}, policy=policy) as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await shop.watch.saw("stop:tools", count=2).wait()
        await shop.tally.reached("look", 1 + 2).wait()  # the run's own, and those that were launched
        assert sum(shop.tally[f"look {n}"] for n in range(4)) == 2
        await fast.aclose()
        assert "the calls of the wait are used up" in fast.report().stopped


@pytest.mark.parametrize(("tokens", "models"), [(0, 0), (1, 1), (None, 2)])
async def test_tokens(tokens: int | None, models: int) -> None:
    shop = Shop()
    async with shop.fast(speculators={START: shop.person}, tokens=tokens) as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        if models == 2:
            await shop.watch.saw("launch:model", count=2).wait()
        elif tokens:
            await shop.watch.saw("stop", count=1).wait()
        else:
            await shop.watch.saw("stop:model", count=1).wait()
        assert len(shop.watch.of("launch", "model")) == models


async def test_only_pure_and_read(tmp_path: Path) -> None:
    shop = Shop()
    undone: list[Any] = []
    effects = {"look": reversible(undone.append)}
    between = BetweenTurns(tokens=0)
    policy = Policy(depth=3, hooks=(shop.watch,), journal=str(tmp_path / "journal"), between_turns=between)
    async with shop.fast(effects=effects, policy=policy) as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await shop.watch.saw("stop:tools", count=1).wait()
        assert shop.tally["look shoes"] == 0
    assert not undone


async def test_the_oldest_of_too_many_is_closed() -> None:
    async def one(state: Any) -> Any:
        return {"x": 1}

    class State(TypedDict):
        x: int

    watch = Watch()
    fast = speculative(
        chain(State, one).compile(checkpointer=InMemorySaver()),
        speculators={START: lambda state: None},
        effects={"one": "pure"},
        policy=Policy(hooks=(watch,), between_turns=BetweenTurns()),
    )
    async with fast:
        for n in range(MAX_WAITS + 2):
            await fast.ainvoke({"x": 0}, on(str(n)))
        assert len(waits_of(fast)) == MAX_WAITS
        await watch.saw("end", count=MAX_WAITS + 2 + 2).wait()
        assert fast.report().waits == 2


# --- its end ----------------------------------------------------------------------------------------------------


async def test_close_ends_it() -> None:
    shop = Shop()
    fast = shop.fast()
    await fast.ainvoke(said("a hat"), on("a"))
    shop.gate = shop.tally.reached("for the early call alone")
    await shop.tally.reached("look shoes").wait()
    wait = next(iter(waits_of(fast)._open.values()))
    await fast.aclose()
    assert wait.state is WaitState.OVER
    assert fast.report().discarded == 1
    assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("langgraph-speculative")]
    shop.gate = None
    out = await fast.ainvoke(said("a hat"), on("a"))  # plain from now on
    assert len(out["messages"]) == 8
    assert not waits_of(fast)


def test_a_loop_that_ends_leaves_nothing_and_no_warning(capfd: pytest.CaptureFixture[str]) -> None:
    shop = Shop()
    fast = shop.fast()

    async def main(wait: bool) -> None:
        await fast.ainvoke(said("a hat"), on("a"))
        if wait:
            shop.gate = shop.tally.reached("never")
            await shop.tally.reached("look shoes").wait()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for wait in (True, False):
            shop.gate = None
            asyncio.run(main(wait))
        gc.collect()
    assert not caught
    assert not waits_of(fast)
    assert capfd.readouterr().err == ""
    # On another loop the wait was a miss, and both are over.
    assert fast.report().waits == 2
    assert fast.report().waits_claimed == 0


async def test_a_failed_or_abandoned_run_opens_none() -> None:
    shop = Shop()
    async with shop.fast() as fast:
        run = fast.astream(said("a hat"), on("a"))
        await anext(run)
        await run.aclose()
        with pytest.raises(Exception, match="Recursion limit"):
            await fast.ainvoke(said("a hat"), {**on("b"), "recursion_limit": 1})
        assert not shop.watch.of("wait")


async def test_a_run_that_does_not_speculate_moves_the_thread() -> None:
    shop = Shop()
    async with shop.fast() as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await shop.waited()
        await fast.ainvoke(said("and shoes"), {**on("a"), "metadata": {"speculation": "off"}})
        assert not waits_of(fast)
        assert shop.tally["look shoes"] == 2


async def test_a_checkpointer_that_cannot_be_read_is_an_entry_in_the_report() -> None:
    class Broken(InMemorySaver):
        is_broken = False

        async def aget_tuple(self, config: Any) -> Any:
            if self.is_broken:
                raise OSError("gone")
            return await super().aget_tuple(config)

    saver = Broken()
    shop = Shop(saver=saver)

    def breaks(event: Event) -> None:
        if event.kind == "wait":
            saver.is_broken = event.detail == "opened"

    policy = Policy(depth=3, hooks=(breaks, shop.watch), between_turns=BetweenTurns(tokens=0))
    async with shop.fast(policy=policy) as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await shop.watch.saw("wait", count=2).wait()
        assert not shop.asked
        assert any("OSError" in e for e in fast.report().errors)
        out = await fast.ainvoke(said("and shoes"), on("a"))
        assert out["messages"][-1].content == "It is a shoes."


# --- the synchronous world --------------------------------------------------------------------------------------


class Words(TypedDict):
    words: Annotated[list[str], add]


def asking(tally: Tally) -> Any:
    def ask(state: Words) -> Any:
        return {"words": [interrupt("which one?")]}

    def find(state: Words) -> Any:
        tally.add(f"find {state['words'][-1]}")
        return {"words": [f"found {state['words'][-1]}"]}

    def tell(state: Words) -> Any:
        return {"words": ["told"]}

    return chain(Words, ask, find, tell)


def test_a_sync_run_claims_the_answer_that_was_guessed(probe: Any) -> None:
    asked: list[Any] = []

    def person(state: Any) -> Any:
        asked.append(state)
        return Guess(resume="red") if "__interrupt__" in state else None

    fast = speculative(
        asking(probe.tally).compile(checkpointer=InMemorySaver()),
        speculators={START: person},
        effects={"ask": "pure", "find": "read", "tell": "pure"},
        policy=Policy(depth=3, hooks=(probe.watch,), between_turns=BetweenTurns()),
    )
    with fast:
        out = fast.invoke({"words": ["hi"]}, on("a"))
        assert out["__interrupt__"][0].value == "which one?"
        probe.watch.saw("launch:tell").block()
        assert probe.tally["find red"] == 1
        out = fast.invoke(Command(resume="red"), on("a"))
        assert out == {"words": ["hi", "red", "found red", "told"]}
        assert probe.tally["find red"] == 1
        assert fast.report().waits_claimed == 1
        assert asked[0]["words"] == ["hi"]
        assert asked[0]["__interrupt__"][0].value == "which one?"
        assert [e.kind for e in probe.watch.of("hit", START)] == ["hit"]


async def test_another_answer_claims_nothing(probe: Any) -> None:
    fast = speculative(
        asking(probe.tally).compile(checkpointer=InMemorySaver()),
        speculators={START: lambda state: Guess(resume="red") if "__interrupt__" in state else None},
        effects={"ask": "pure", "find": "read", "tell": "pure"},
        policy=Policy(depth=3, hooks=(probe.watch,), between_turns=BetweenTurns()),
    )
    async with fast:
        await fast.ainvoke({"words": ["hi"]}, on("a"))
        await probe.watch.saw("launch:tell").wait()
        out = await fast.ainvoke(Command(resume="blue"), on("a"))
        assert out == {"words": ["hi", "blue", "found blue", "told"]}
        assert fast.report().waits_claimed == 0
        assert len(probe.watch.of("miss", START)) == 1


async def test_answers_are_guessed_beside_each_other(probe: Any) -> None:
    async def person(state: Any) -> Any:
        if "__interrupt__" in state:
            return [Guess(resume="red", confidence=0.6), Guess(resume="blue", confidence=0.4)]
        return None

    fast = speculative(
        asking(probe.tally).compile(checkpointer=InMemorySaver()),
        speculators={START: person},
        effects={"ask": "pure", "find": "read", "tell": "pure"},
        policy=Policy(depth=3, breadth=2, hooks=(probe.watch,), between_turns=BetweenTurns(calls=9)),
    )
    async with fast:
        await fast.ainvoke({"words": ["hi"]}, on("a"))
        await probe.tally.reached("find red").wait()
        await probe.tally.reached("find blue").wait()
        await probe.watch.saw("launch:tell", count=2).wait()
        out = await fast.ainvoke(Command(resume="blue"), on("a"))
        assert out == {"words": ["hi", "blue", "found blue", "told"]}
        assert probe.tally["find blue"] == 1
        assert fast.report().waits_claimed == 1


async def test_an_answer_is_never_claimed_where_it_was_given(probe: Any) -> None:
    """A tool that asks is run early with the guessed answer; the same call of the next turn has to ask again."""
    answered: list[Any] = []

    @tool
    async def order(word: str) -> str:
        """Order it."""
        sure = interrupt("sure?")
        answered.append(sure)
        return f"{word}: {sure}"

    def model(messages: list[Any]) -> AIMessage:
        last = messages[-1]
        return says("", call("order", word="hat")) if isinstance(last, HumanMessage) else says(str(last.content))

    fast = speculative(
        create_agent(ScriptedModel(script=model), [order], checkpointer=InMemorySaver()),
        speculators={START: lambda state: [Guess(resume="yes"), Guess(resume="maybe")] * ("__interrupt__" in state)},
        effects={"order": "read"},
        policy=Policy(depth=3, breadth=2, hooks=(probe.watch,), between_turns=BetweenTurns()),
    )
    async with fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await probe.watch.saw("launch:model", count=2).wait()
        assert sorted(answered) == ["maybe", "yes"]
        out = await fast.ainvoke(Command(resume="no"), on("a"))
        assert out["messages"][-1].content == "hat: no"
        out = await fast.ainvoke(said("again"), on("a"))
        assert out["__interrupt__"][0].value == "sure?"


def test_a_sync_wait_is_not_for_an_async_run_and_the_other_way(probe: Any) -> None:
    shop = Shop()

    class State(TypedDict):
        x: int

    def one(state: State) -> Any:
        shop.tally.add("one")
        return {"x": state["x"] + 1}

    fast = speculative(
        chain(State, one).compile(checkpointer=InMemorySaver()),
        speculators={START: lambda state: {"x": 5}},
        effects={"one": "pure"},
        policy=Policy(hooks=(probe.watch,), between_turns=BetweenTurns()),
    )
    with fast:
        fast.invoke({"x": 0}, on("a"))
        probe.watch.saw("launch:one", count=1).block()
        assert asyncio.run(fast.ainvoke({"x": 5}, on("a"))) == {"x": 6}
        assert fast.report().waits_claimed == 0
        assert fast.invoke({"x": 5}, on("b")) == {"x": 6}
        probe.watch.saw("launch:one", count=2).block()
        assert fast.invoke({"x": 5}, on("b")) == {"x": 6}
        assert fast.report().waits_claimed == 1
        done = threading.Event()
        probe.watch.saw("wait", count=len(probe.watch.of("wait"))).block()
    done.set()
    probe.watch.saw("end", count=len(probe.watch.of("run"))).block()


# --- learning, and what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [30, 0.000001])
async def test_it_learns_what_the_person_said(seconds: float) -> None:
    learned: list[Any] = []
    told = Tally()

    class Person(BaseSpeculator):
        def guess(self, value: Any, config: RunnableConfig) -> Any:
            return None

        def learn(self, value: Any, output: Any, config: RunnableConfig) -> None:
            learned.append((value, output))
            told.add("told")

    shop = Shop()
    async with shop.fast(speculators={START: Person()}, seconds=30) as fast:
        first = await fast.ainvoke(said("a hat"), on("a"))
        if seconds < 1:  # the wait is over when the answer comes
            waits_of(fast).moved("a")
        await fast.ainvoke(said("and shoes"), on("a"))
        await told.reached("told").wait()
        assert len(learned) == 1
        assert texts(learned[0][0]) == texts(first)
        assert learned[0][1]["messages"][0].content == "and shoes"


def test_refusals() -> None:
    shop = Shop()
    with pytest.raises(SpeculationError, match=r"between_turns=BetweenTurns\(seconds=30\)"):
        shop.fast(policy=Policy())
    with pytest.raises(SpeculationError, match="seconds must be positive"):
        BetweenTurns(seconds=0)
    with pytest.raises(SpeculationError, match="calls must be an integer"):
        BetweenTurns(calls=-1)
    with pytest.raises(SpeculationError, match="tokens must be an integer"):
        BetweenTurns(tokens=True)
    with pytest.raises(SpeculationError, match="pass a BetweenTurns"):
        Policy(between_turns=30)  # type: ignore[arg-type]
    with pytest.raises(SpeculationError, match="give an output, or resume="):
        Guess()
    with pytest.raises(SpeculationError, match="give an output, or resume="):
        Guess(1, resume=2)
    with pytest.warns(SpeculationInactiveWarning, match="pass speculators={START"):
        shop.fast(speculators={"model": shop.next_call})
    with pytest.warns(SpeculationInactiveWarning, match="undeclared|Undeclared"):
        speculative(
            chain(Words, lambda state: {}, names=["one"]).compile(),
            speculators={START: shop.person},
            policy=Policy(between_turns=BetweenTurns()),
        )


def test_which_names_are_those_of_one_request() -> None:
    def agrees(key: str, *values: str) -> bool:
        loops = [SimpleNamespace(config={"configurable": {"thread_id": "a", key: value}}) for value in values]
        one, other = map(_compat.identity_of, loops)
        return one == other

    for key in ("run_id", "X-Request-Id", "langgraph_request_id", "trace_id", "__anything", "checkpoint_id"):
        assert agrees(key, "1", "2"), key
    for key in ("user_id", "langgraph_auth_user_id", "tracer", "arun_id"):
        assert not agrees(key, "1", "2"), key
        assert agrees(key, "1", "1"), key


async def test_an_answer_without_a_question_is_an_entry_in_the_report() -> None:
    shop = Shop()
    async with shop.fast(speculators={START: lambda state: Guess(resume="yes"), "model": shop.next_call}) as fast:
        await fast.ainvoke(said("a hat"), on("a"))
        await shop.watch.saw("error").wait()
        await fast.aclose()
        assert any("no question of its own is open" in e for e in fast.report().errors)


# --- the same run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("durability", "guessed", "tokens"), [("sync", "shoes", 0), ("async", "gloves", None), ("exit", "shoes", None)]
)
def test_several_turns_are_the_same_run(durability: str, guessed: str, tokens: int | None) -> None:
    shop = Shop(guessed=guessed)
    policy = Policy(depth=3, breadth=2, between_turns=BetweenTurns(tokens=tokens))
    check_same_run(
        shop.agent,
        [said("a hat"), said("and shoes"), said("other words and shoes"), said("bye")],
        speculators={START: shop.person, "model": shop.next_call},
        effects={"look": "read"},
        policy=policy,
        durability=durability,
    )


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("guessed", ["red", "blue"])
def test_questions_and_answers_are_the_same_run(sync: bool, guessed: str) -> None:
    def person(state: Any) -> Any:
        return [Guess(resume=guessed), Guess({"words": ["hi"]})] if "__interrupt__" in state else {"words": ["hi"]}

    check_same_run(
        lambda: asking(Tally()).compile(checkpointer=InMemorySaver()),
        [{"words": ["hi"]}, Command(resume="red"), {"words": ["hi"]}, {"words": ["again"]}, Command(resume="blue")],
        sync=sync,
        speculators={START: person},
        effects={"ask": "pure", "find": "read", "tell": "pure"},
        policy=Policy(depth=4, breadth=2, between_turns=BetweenTurns(calls=20)),
    )
