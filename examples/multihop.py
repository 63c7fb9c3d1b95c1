"""Questions that take several searches: each search is made while the agent still thinks about it.

    python -m examples.multihop                          # recorded ReAct runs on HotpotQA
    python -m examples.multihop --draft-model gpt-5-mini # a model guesses, too, where the learned guesser is unsure
    python -m examples.multihop --model local            # a small real model behind an OpenAI-compatible server
    python -m examples.multihop --metered                # where speculation should stay off: each search is billed

Two things are guessed. While the agent thinks: its next search, from names in the question and in what it has read, as
learned from runs on *other* questions. While a search runs: that it answers as it did before. The agent writes its
reasons into its messages, and those nobody can guess; a search is taken over all the same, by its content.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from rich.console import Console

from examples import _multihop_world as world
from examples._multihop_guesses import NextCall
from examples._multihop_world import Actor, Index, Run, Wikipedia
from examples._timeline import Timeline
from langgraph_speculative import Policy, Report, speculative
from langgraph_speculative.speculators import BaseSpeculator, Ensemble, Model, Replay

SCALE = 1 / 20
BREADTH = 3
DEPTH = 1


def build(actor: Actor, wikipedia: Wikipedia) -> Any:
    """ReAct: the agent searches until it answers."""

    async def agent(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await actor(state["messages"])]}

    def more(state: MessagesState) -> str:
        return "search" if state["messages"][-1].tool_calls else END  # type: ignore[union-attr]

    builder = StateGraph(MessagesState)
    builder.add_node("agent", agent)
    builder.add_node("search", ToolNode(wikipedia.tools()))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", more, ["search", END])
    builder.add_edge("search", "agent")
    return builder.compile()


def make_fast(graph: Any, next_call: BaseSpeculator, limits: Policy, *, metered: bool = False) -> Any:
    """The same agent, sooner. Searches that somebody is billed for are not declared, so they never run early."""
    reads = {} if metered else {"search": "read", "lookup": "read"}
    return speculative(
        graph,
        speculators={"agent": next_call, "search": Replay()},
        effects={"agent": "irreversible" if metered else "pure", **reads},
        policy=limits,
    )


def policy(hooks: Sequence[Any] = ()) -> Policy:
    """How far and how wide to speculate."""
    return Policy(breadth=BREADTH, depth=DEPTH, hooks=tuple(hooks))


async def asked(graph: Any, question: str) -> tuple[list[Any], float]:
    """All messages of one run, and its seconds."""
    started = time.perf_counter()
    result = await graph.ainvoke({"messages": [("user", question)]})
    return result["messages"], time.perf_counter() - started


def same_run(plain: Sequence[Any], fast: Sequence[Any]) -> None:
    """Raises:
    AssertionError: The two runs differ.
    """
    first, second = ([m.model_dump(exclude={"id"}) for m in messages] for messages in (plain, fast))
    assert first == second, f"the speculative run differs from the plain one:\n{second}\n{first}"


async def compare(graph: Any, fast: Any, question: str) -> tuple[float, float]:
    """Ask one question plain and speculatively; seconds of both."""
    plain, before = await asked(graph, question)
    messages, after = await asked(fast, question)
    same_run(plain, messages)
    return before, after


def learned(runs: Sequence[Run], index: Index, *, apart_from: str) -> NextCall:
    """What can be known before a question: all runs on other ones."""
    return NextCall(index, k=BREADTH).fit(r.messages for r in runs if r.question != apart_from)


async def run(options: argparse.Namespace, console: Console) -> None:
    """Some questions, as the command line asks for them."""
    runs, index, wikipedia = world.load(options.data, world.SEARCH_SECONDS * options.scale)
    timeline, total = Timeline(), Report()
    before = after = 0.0
    async with AsyncExitStack() as stack:
        local = stack.enter_context(world.local_actor()) if options.model == "local" else None
        who = "SmolLM2 135M, local" if local else f"recorded in {options.data}, {world.ACTOR_SECONDS:g} s (injected)"
        console.print(f"Actor: {who}; a search {world.SEARCH_SECONDS:g} s (injected); 1 s as {options.scale:g} s")
        for number in options.runs:
            chosen = runs[number]
            guesser: BaseSpeculator = learned(runs, index, apart_from=chosen.question)
            if options.draft_model:
                from langchain.chat_models import init_chat_model

                draft = Model(init_chat_model(options.draft_model), k=BREADTH, tools=wikipedia.tools())
                guesser = Ensemble({"learned": guesser, "model": draft}, threshold=0.5)
            graph = build(local or chosen.actor(world.ACTOR_SECONDS * options.scale), wikipedia)
            fast = make_fast(graph, guesser, policy([timeline]), metered=options.metered)
            with fast.track() as report:
                plain, seconds = await compare(graph, fast, chosen.question)
            before, after = before + plain, after + seconds
            console.print(chosen.question, highlight=False)
            console.print(timeline.text(), highlight=False, soft_wrap=True)
            total.add(report)
    if options.metered:
        assert total.launched == total.speculator_calls == 0, "nothing may run early, and yet somebody guessed"
    console.print(
        f"plain {before:.1f} s, speculative {after:.1f} s: {1 - after / before:.0%} saved; {total.claimed} early calls "
        f"used, {total.discarded} in vain.\nThe answers and all messages are the same."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.multihop", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="directory of recorded runs")
    parser.add_argument("--runs", type=int, nargs="+", default=[0, 3, 26], help="which of the recorded runs")
    parser.add_argument("--scale", type=float, default=SCALE, help="seconds here per second of the latencies above")
    parser.add_argument("--draft-model", help="a chat model that guesses where what was learned is unsure")
    parser.add_argument("--model", choices=("recorded", "local"), default="recorded", help="who answers")
    parser.add_argument("--metered", action="store_true", help="each search is billed: none may be made early")
    options = parser.parse_args(argv)
    if missing := [file for file in world.FILES if not (options.data / file).exists()]:
        raise SystemExit(f"There is no {missing[0]} in {options.data}: pass --data DIR, a directory of recorded runs.")
    asyncio.run(run(options, Console()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
