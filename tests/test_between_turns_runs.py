"""Several turns with time to think between them: whatever was guessed, the runs are the plain graph's."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import weakref
from operator import add
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.config import get_store, get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send, interrupt

from langgraph_speculative import BetweenTurns, Guess, Policy, _observe, speculative
from langgraph_speculative.effects import read
from langgraph_speculative.testing import check_report, compare_runs
from tests.support import ScriptedModel, Tally, Watch, call, chain, says

WORDS = ("hat", "cap", "shoe")


def on(thread: str) -> RunnableConfig:
    return {"configurable": {"thread_id": thread}}


def said(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


class State(TypedDict):
    log: Annotated[list[str], add]
    word: str


def workflow() -> Any:
    """Nodes of all kinds: a fan-out with Send, a store, a custom stream, a question, a loop by Command."""

    async def plan(state: State) -> Any:
        return {"log": [f"plan {state['word']}"]}

    async def part(state: dict[str, Any]) -> Any:
        get_stream_writer()(state["word"])
        return {"log": [f"part {state['n']} of {state['word']}"]}

    async def keep(state: State) -> Any:
        store = get_store()
        held = await store.aget(("words",), "last")
        before = held.value["word"] if held else "nothing"
        return {"log": [f"after {before}"]}

    async def write(state: State) -> Any:
        await get_store().aput(("words",), "last", {"word": state["word"]})
        return {"log": ["written"]}

    async def ask(state: State) -> Any:
        word = interrupt(f"{state['word']}?") if state["word"] != "cap" else "cap"
        return Command(update={"log": [f"said {word}"], "word": word}, goto="tell")

    async def tell(state: State) -> Any:
        return {"log": [f"told {state['word']} after {len(state['log'])}"]}

    builder = StateGraph(State)
    for node in (plan, part, keep, write, tell):
        builder.add_node(node.__name__, node)
    builder.add_node("ask", ask, destinations=("tell",))
    builder.add_edge(START, "plan")
    builder.add_conditional_edges(
        "plan", lambda state: [Send("part", {"n": n, "word": state["word"]}) for n in range(2)], ["part"]
    )
    builder.add_edge("part", "keep")
    builder.add_edge("keep", "write")
    builder.add_edge("write", "ask")
    return builder.compile(checkpointer=InMemorySaver(), store=InMemoryStore())


@pytest.mark.parametrize("seed", range(5))
async def test_a_workflow(seed: int) -> None:
    rng = random.Random(seed)
    turns: list[tuple[Any, int]] = []
    for _ in range(4):
        word = rng.choice(WORDS)
        turns.append(({"word": word, "log": ["hi"]}, rng.choice((0, 3, 15, 200))))
        if word != "cap" and rng.random() < 0.8:
            turns.append((Command(resume=rng.choice(WORDS)), rng.choice((0, 3, 15, 200))))

    def person(state: Any) -> Any:
        if "__interrupt__" in state:
            yield Guess(resume=rng.choice(WORDS), confidence=0.6)
        yield Guess({"word": rng.choice(WORDS), "log": ["hi"]}, confidence=0.5)

    async def aperson(state: Any) -> Any:
        for guess in person(state):
            yield guess

    policy = Policy(depth=rng.choice((1, 3, 6)), breadth=2, between_turns=BetweenTurns(calls=40))
    effects = {name: "read" for name in ("plan", "part", "keep", "tell", "ask")}
    plain = workflow()
    observed_plain = [await _observe.aobserve(plain, value, on("a")) for value, _ in turns]
    async with speculative(
        workflow(), speculators={START: aperson}, effects={**effects, "<lambda>": "pure"}, policy=policy
    ) as fast:
        observed = []
        for value, think in turns:
            observed.append(await _observe.aobserve(fast, value, on("a")))
            for _ in range(think):
                await asyncio.sleep(0)
    compare_runs(observed_plain, observed)
    check_report(fast.report())
    if seed == 2:
        assert fast.report().waits_claimed


def answer(messages: list[Any]) -> AIMessage:
    last = messages[-1]
    if isinstance(last, HumanMessage):
        return says("I look.", *(call("look", word=w) for w in str(last.content).split()[-2:]))
    return says(f"It is {last.content}.")


def agent(tally: Tally, saver: Any) -> Any:
    @tool
    async def look(word: str) -> str:
        """Look it up."""
        tally.add(word)
        return f"a {word}"

    return create_agent(ScriptedModel(script=answer), [look], checkpointer=saver)


@pytest.mark.parametrize("seed", range(3))
async def test_an_agent(seed: int) -> None:
    rng = random.Random(seed)
    words = [" ".join(("please", *rng.sample(WORDS, 2))) for _ in range(3)]
    exact = rng.random() < 0.5

    async def person(state: Any) -> Any:
        return said(rng.choice(words) if exact else "well " + rng.choice(words))

    async def next_call(state: Any) -> Any:
        made = answer(state["messages"])
        return {"messages": [made if exact else AIMessage("", tool_calls=made.tool_calls)]}

    watch = Watch()
    policy = Policy(
        depth=4,
        breadth=2,
        hooks=(watch,),
        between_turns=BetweenTurns(calls=20, tokens=rng.choice((0, None))),
    )
    plain = agent(Tally(), InMemorySaver())
    before = [await _observe.aobserve(plain, said(text), on("a")) for text in words]
    speculators = {START: person, "model": next_call}
    async with speculative(
        agent(Tally(), InMemorySaver()), speculators=speculators, effects={"look": "read"}, policy=policy
    ) as fast:
        after = []
        for text in words:
            after.append(await _observe.aobserve(fast, said(text), on("a")))
            for _ in range(rng.choice((0, 5, 40, 200))):
                await asyncio.sleep(0)
    compare_runs(before, after)
    check_report(fast.report())


async def test_sqlite_on_a_loop(tmp_path: Path) -> None:
    tally, watch = Tally(), Watch()
    policy = Policy(depth=3, hooks=(watch,), between_turns=BetweenTurns(tokens=0))
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "a.sqlite")) as saver:
        fast = speculative(
            agent(tally, saver),
            speculators={
                START: lambda state: said("well a hat"),
                "model": lambda state: (
                    {"messages": [answer(state["messages"])]} if len(state["messages"]) > 2 else None
                ),
            },
            effects={"look": "read"},
            policy=policy,
        )
        async with fast:
            await fast.ainvoke(said("one cap"), on("a"))
            await tally.reached("hat").wait()
            await fast.ainvoke(said("now a hat"), on("a"))
            assert tally["hat"] == 1
            assert fast.report().waits_claimed == 1


def test_sqlite_in_threads(tmp_path: Path) -> None:
    tally, watch = Tally(), Watch()

    def plan(state: State) -> Any:
        tally.add(f"plan {state['word']}")
        return {"log": [state["word"]]}

    with SqliteSaver.from_conn_string(str(tmp_path / "b.sqlite")) as saver:
        with speculative(
            chain(State, plan).compile(checkpointer=saver),
            speculators={START: lambda state: {"word": "hat"}},
            effects={"plan": "pure"},
            policy=Policy(hooks=(watch,), between_turns=BetweenTurns()),
        ) as fast:
            fast.invoke({"word": "cap"}, on("a"))
            tally.reached("plan hat").block()
            assert fast.invoke({"word": "hat"}, on("a"))["log"] == ["cap", "hat"]
            assert fast.report().waits_claimed == 1
            # Another saver's connection moves the thread: what was guessed since is dropped.
            tally.reached("plan hat", 2).block()
            with SqliteSaver.from_conn_string(str(tmp_path / "b.sqlite")) as other:
                chain(State, plan).compile(checkpointer=other).invoke({"word": "shoe"}, on("a"))
            assert fast.invoke({"word": "hat"}, on("a"))["log"] == ["cap", "hat", "shoe", "hat"]
            assert tally["plan hat"] >= 3
        watch.saw("end", count=4).block()
        assert fast.report().waits_claimed == 1


@pytest.mark.parametrize(("age", "calls"), [(None, 1), (1e-9, 2)])
async def test_an_old_read_is_not_claimed(age: float | None, calls: int) -> None:
    tally = Tally()

    async def plan(state: State) -> Any:
        tally.add(state["word"])
        return {}

    async with speculative(
        chain(State, plan).compile(checkpointer=InMemorySaver()),
        speculators={START: lambda state: {"word": "hat"}},
        effects={"plan": read(max_age=age)},
        policy=Policy(between_turns=BetweenTurns()),
    ) as fast:
        await fast.ainvoke({"word": "cap"}, on("a"))
        await tally.reached("hat").wait()
        await fast.ainvoke({"word": "hat"}, on("a"))
        assert tally["hat"] == calls


async def test_what_was_read_from_the_store_is_read_again() -> None:
    tally, store = Tally(), InMemoryStore()

    async def plan(state: State) -> Any:
        held = await get_store().aget(("a",), "k")
        tally.add(state["word"])
        return {"log": [str(held and held.value)]}

    async with speculative(
        chain(State, plan).compile(checkpointer=InMemorySaver(), store=store),
        speculators={START: lambda state: {"word": "hat"}},
        effects={"plan": "read"},
        policy=Policy(between_turns=BetweenTurns()),
    ) as fast:
        await fast.ainvoke({"word": "cap"}, on("a"))
        await tally.reached("hat").wait()
        store.put(("a",), "k", {"v": 1})
        out = await fast.ainvoke({"word": "hat"}, on("a"))
        assert out["log"] == ["None", "{'v': 1}"]
        assert tally["hat"] == 2


async def test_a_real_effect_of_the_next_run_fences_its_reads() -> None:
    tally, world = Tally(), {"stock": 1}

    async def sell(state: State) -> Any:
        world["stock"] -= 1
        return {"log": ["sold"]}

    async def count(state: State) -> Any:
        tally.add("count")
        return {"log": [str(world["stock"])]}

    async with speculative(
        chain(State, sell, count).compile(checkpointer=InMemorySaver()),
        speculators={START: lambda state: {"word": "hat"}, "sell": lambda state: {"log": ["sold"]}},
        effects={"sell": "irreversible", "count": "read"},
        policy=Policy(depth=3, between_turns=BetweenTurns()),
    ) as fast:
        await fast.ainvoke({"word": "cap"}, on("a"))
        for _ in range(100):
            await asyncio.sleep(0)
        out = await fast.ainvoke({"word": "hat"}, on("a"))
        assert out["log"] == ["sold", "0", "sold", "-1"]
        assert world["stock"] == -1
        assert fast.report().early_irreversible_calls == 0


@pytest.mark.parametrize("joined", [False, True])
async def test_nothing_is_held_when_it_is_over(joined: bool) -> None:
    tally = Tally()

    async def person(state: State) -> Any:  # not in a thread, which may still hold on to it
        return {"word": "hat"}

    async def plan(state: State) -> Any:
        tally.add(state["word"])
        return {}

    async with speculative(
        chain(State, plan).compile(checkpointer=InMemorySaver()),
        speculators={START: person},
        effects={"plan": "pure"},
        policy=Policy(between_turns=BetweenTurns()),
    ) as fast:
        for n in itertools.count():
            await fast.ainvoke({"word": "hat"}, on("a"))
            await tally.reached("hat", 2 + n).wait()
            wait = next(iter(fast._speculation.waits._open.values()))
            if n == joined:
                break
        left = [weakref.ref(wait), weakref.ref(wait.session), weakref.ref(wait._loop)]
        if joined:
            await fast.ainvoke({"word": "hat"}, on("a"))
        await fast.aclose()
    del wait
    gc.collect()
    assert [ref() for ref in left] == [None, None, None]


async def test_a_question_of_a_nested_graph_is_a_miss() -> None:
    tally, watch = Tally(), Watch()

    async def ask(state: State) -> Any:
        return {"log": [interrupt("which?")]}

    async def tell(state: State) -> Any:
        tally.add("tell")
        return {"log": ["told"]}

    builder = StateGraph(State)
    builder.add_node("inner", chain(State, ask).compile())
    builder.add_node("tell", tell)
    builder.add_edge(START, "inner")
    builder.add_edge("inner", "tell")
    async with speculative(
        builder.compile(checkpointer=InMemorySaver()),
        speculators={START: lambda state: Guess(resume="red")},
        effects={"ask": "pure", "tell": "pure"},
        policy=Policy(depth=4, hooks=(watch,), between_turns=BetweenTurns()),
    ) as fast:
        await fast.ainvoke({"word": "x"}, on("a"))
        await watch.saw("error").wait()
        assert tally["tell"] == 0
        out = await fast.ainvoke(Command(resume="blue"), on("a"))
        assert out["log"][-2:] == ["blue", "told"]
        await fast.aclose()
        assert any("no question of its own" in e for e in fast.report().errors)
