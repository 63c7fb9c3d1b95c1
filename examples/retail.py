"""A shop's agent, whose API calls are made while its model still decides on them, and while the customer types.

    python -m examples.retail                              # recorded conversations of τ-bench, or its gold calls
    python -m examples.retail --conversations 5 --scale 0.05
    python -m examples.retail --draft-model gpt-5-mini     # a model guesses, too, where History is unsure
    python -m examples.retail --audited                    # where speculation should stay off: each call leaves a trace

`History` has learned from conversations about *other* tasks what is called next, and where its arguments come from.
Look-ups are made early. Writes are staged: made early in a layer on top of the database, which the claim puts into it.
What cannot be taken back waits for the run.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START
from rich.console import Console

from examples import _retail_world as world
from examples._retail_world import Conversation, RecordedModel, Served, Shop
from examples._timeline import Timeline
from langgraph_speculative import BetweenTurns, Event, Policy, Report, speculative
from langgraph_speculative.speculators import BaseSpeculator, Ensemble, History, Model

SCALE = 1 / 20
BREADTH = 2
DEPTH = 3
EARLY = (*world.READS, *world.PURE, *world.WRITES)
"""The tools that may be called early, so the ones worth guessing."""


def learned(conversations: Sequence[Conversation], *, apart_from: str) -> History:
    """What can be known before a conversation: all those about other tasks."""
    history = History(k=BREADTH, tools=EARLY, between_turns=True)
    return history.fit(c.messages for c in conversations if c.task != apart_from)


def build(shop: Shop, model: RecordedModel) -> Any:
    """The agent: LangChain's, with the shop's tools and rules."""
    return create_agent(model, shop.tools(), system_prompt=world.policy(), checkpointer=InMemorySaver())


def make_fast(agent: Any, shop: Shop, speculator: BaseSpeculator, limits: Policy, *, audited: bool = False) -> Any:
    """The same agent, sooner. Where each call is written into an audit log, none is declared: none is made early."""
    speculators: dict[str, BaseSpeculator] = {"model": speculator}
    if limits.between_turns is not None:
        speculators[START] = History()  # it guesses that the customer will say something
    return speculative(agent, speculators=speculators, effects={} if audited else shop.effects(), policy=limits)


def policy(journal: Path, hooks: Sequence[Any] = (), breadth: int = BREADTH, depth: int = DEPTH) -> Policy:
    """Between turns no model is asked: the customer's words are not known."""
    wait = BetweenTurns(seconds=60.0, calls=5 * breadth, tokens=0)
    return Policy(breadth=breadth, depth=depth, between_turns=wait, journal=journal, hooks=tuple(hooks))


async def serve(agent: Any, served: Served, typing: float) -> None:
    """A whole conversation. The customer types (scaled), the agent answers."""
    config = {"configurable": {"thread_id": "1"}, "recursion_limit": 100}
    for turn in served.model.conversation.turns:
        await asyncio.sleep(len(turn.split()) / world.WORDS_PER_MINUTE * 60.0 * typing)
        served.began.append(time.monotonic())
        result = await agent.ainvoke({"messages": [HumanMessage(turn)]}, config)
        served.ended.append(time.monotonic())
        served.messages = result["messages"]
    served.database = served.shop.state()


def start(conversation: Conversation, scale: float) -> Served:
    """A shop and a model for one conversation."""
    model = RecordedModel(conversation=conversation, seconds=world.MODEL_SECONDS * scale)
    return Served(Shop(world.API_SECONDS * scale), model)


async def compare(
    conversation: Conversation,
    speculator: BaseSpeculator,
    limits: Policy,
    scale: float,
    *,
    typing: float | None = None,
    plain_scale: float | None = None,
    audited: bool = False,
) -> tuple[Served, Served, Report]:
    """Have one conversation plain and speculatively.

    Args:
        scale: Seconds here per second of the latencies.
        typing: The same for the customer, if it is another. In the plain run nobody types: nothing goes on meanwhile.
        plain_scale: The same for the latencies of the plain run.

    Raises:
        AssertionError: They differ, in what was said or in the shop's database.
    """
    typing = scale if typing is None else typing
    plain, fast = start(conversation, scale if plain_scale is None else plain_scale), start(conversation, scale)
    await serve(build(plain.shop, plain.model), plain, 0.0)
    agent = make_fast(build(fast.shop, fast.model), fast.shop, speculator, limits, audited=audited)
    async with agent:
        await serve(agent, fast, typing)
    world.assert_same(plain, fast)
    return plain, fast, agent.report()


def _show(timeline: Timeline, event: Event) -> None:
    timeline(replace(event, run=0))  # all turns of a conversation, and the time between them, are one run to it


async def run(options: argparse.Namespace, console: Console) -> None:
    """Some conversations, as the command line asks for them."""
    file = options.data / "retail_runs.json"
    conversations = world.recorded(file) if file.exists() else world.gold()
    source = f"recorded in {file}" if file.exists() else f"the benchmark's own gold calls (there is no {file})"
    console.print(
        f"Actor: {source}, {world.MODEL_SECONDS:g} s an answer; API: {world.API_SECONDS:g} s a call; the customer "
        f"types {world.WORDS_PER_MINUTE:g} words a minute (all injected); 1 s as {options.scale * 1000:g} ms"
    )
    total, before, after = Report(), 0.0, 0.0
    with tempfile.TemporaryDirectory() as directory:
        for conversation in conversations[: options.conversations]:
            known = conversations[:: max(1, len(conversations) // options.learn)]
            history: BaseSpeculator = learned(known, apart_from=conversation.task)
            if options.draft_model:
                from langchain.chat_models import init_chat_model

                draft = Model(init_chat_model(options.draft_model), k=BREADTH)
                history = Ensemble({"history": history, "model": draft})
            timeline = Timeline()
            limits = policy(Path(directory) / "journal.sqlite", [partial(_show, timeline)])
            plain, fast, report = await compare(conversation, history, limits, options.scale, audited=options.audited)
            console.print(f"task {conversation.task}, {len(plain.seconds)} turns:", highlight=False)
            console.print(timeline.text(), highlight=False, soft_wrap=True)
            before, after = before + sum(plain.seconds), after + sum(fast.seconds)
            total.add(report)
    if options.audited:
        assert total.launched == 0, "nothing may be called early, and yet something was"
    console.print(
        f"The customers waited {before:.1f} s plain, {after:.1f} s speculatively: {1 - after / before:.0%} saved; "
        f"{total.claimed} early calls used, {total.discarded} in vain, {total.early_irreversible_calls} irreversible.\n"
        "What was said and what is in the databases is the same."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the example; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.retail", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="directory of recorded runs")
    parser.add_argument("--conversations", type=int, default=3, help="how many, from the first")
    parser.add_argument("--learn", type=int, default=40, help="recorded conversations to learn from, at most")
    parser.add_argument("--scale", type=float, default=SCALE, help="seconds here per second of the latencies above")
    parser.add_argument("--draft-model", help="a chat model that guesses where History is unsure (provider:name)")
    parser.add_argument("--audited", action="store_true", help="each call is logged: none may be made early")
    options = parser.parse_args(argv)
    try:
        asyncio.run(run(options, Console()))
    except ModuleNotFoundError as error:
        raise SystemExit(f"There is no {error.name} here. Install it: {world.INSTALL}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
