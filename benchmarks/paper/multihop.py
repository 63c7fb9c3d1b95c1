"""Multi-hop search (the paper's section 4.3 and Figure 4): recorded ReAct runs on HotpotQA, recorded Wikipedia."""

from __future__ import annotations

import asyncio
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._engine_rows import run_async
from benchmarks.paper._parts import Group, Measured, Outcome, Part, Row, Settings, data

if TYPE_CHECKING:
    from examples._multihop_guesses import NextCall
    from examples._multihop_world import Index, Run
    from langgraph_speculative.speculators import BaseSpeculator

FILES = ("hotpot_runs.json", "hotpot_wiki.json", "hotpot_passages.json")
NEEDS = tuple(map(data, FILES))
SCALE = 1 / 5
"""Of the injected latencies: the Actor takes 400 ms then, a search 80."""

TOGETHER = 2
PAPER = 0.46
"""Next action in the top three (arXiv 2510.04371, section 4.3)."""


def questions_of(runs: Sequence[Run], count: int | None = None) -> list[str]:
    """The questions, in order, or some of them spread over all."""
    questions = list(dict.fromkeys(r.question for r in runs))
    return questions if count is None else questions[:: max(1, len(questions) // count)][:count]


def apart_from(runs: Sequence[Run], index: Index, question: str) -> NextCall:
    """What is learned from all runs on other questions."""
    from examples._multihop_guesses import NextCall

    return NextCall(index).fit(r.messages for r in runs if r.question != question)


def _call(message: Any) -> Any:
    call = message.tool_calls[0]
    return call["name"], call["args"]


def rank(speculator: BaseSpeculator, messages: Sequence[Any], number: int) -> int | None:
    """Where the guesses have the call that the agent really makes; ``None`` for nowhere."""
    guesses = speculator.guess({"messages": list(messages[:number])}, {}) or []
    calls = [_call(g.output["messages"][0]) for g in guesses]
    return calls.index(_call(messages[number])) if _call(messages[number]) in calls else None


def predicted(settings: Settings) -> Outcome:
    """Each call of each run, predicted by what was learned from all runs on other questions."""
    from examples import _multihop_world as world
    from langgraph_speculative.speculators import History

    runs, index, _ = world.load(settings.data, 0.0)
    questions = questions_of(runs, settings.times(50, 5))
    settings.meter.start("multi-hop: next call", len(questions))
    seen: Counter[Any] = Counter()
    for question in questions:
        learned = apart_from(runs, index, question)
        for run in (r for r in runs if r.question == question):
            for number, message in enumerate(run.messages):
                if message.type != "ai":
                    continue
                seen["actions"] += 1
                if not message.tool_calls:
                    continue
                at = rank(learned, run.messages, number)
                seen["calls"] += 1
                seen["first"] += at == 0
                seen["three"] += at is not None and at < 3
        settings.meter.advance()
    five = [set(questions_of(runs)[n::5]) for n in range(settings.times(5, 1))]
    for fold in five:
        history = History(k=3).fit(list(r.messages) for r in runs if r.question not in fold)
        for run in (r for r in runs if r.question in fold):
            for number, message in enumerate(run.messages):
                if message.type == "ai" and message.tool_calls:
                    seen["of history"] += 1
                    seen["history"] += rank(history, run.messages, number) is not None
    one, three = seen["first"] / seen["calls"], seen["three"] / seen["calls"]
    detail = (
        f"{seen['calls']} calls, leave one question out; of all {seen['actions']} actions, answers included, "
        f"{seen['three'] / seen['actions']:.2f}; History in the guesser's place: "
        f"{seen['history'] / seen['of history']:.2f} (5 folds)"
    )
    return Outcome(
        {"multihop_top1": Measured(one), "multihop_top3": Measured(three, detail=detail)}, {"top1": one, "top3": three}
    )


async def _compare(
    runs: Sequence[Run], guessers: Mapping[str, NextCall], wikipedia: Any, settings: Settings, *, metered: bool = False
) -> tuple[float, float, int, int]:
    """Seconds of all runs, plain and speculative; early calls used and in vain."""
    from examples import _multihop_world as world
    from examples import multihop

    room = asyncio.Semaphore(TOGETHER)

    async def one(run: Run) -> tuple[float, float, int, int]:
        async with room:
            graph = multihop.build(run.actor(world.ACTOR_SECONDS * SCALE), wikipedia)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that nothing may run early is what is measured then
                fast = multihop.make_fast(graph, guessers[run.question], multihop.policy(), metered=metered)
            before, after = await multihop.compare(graph, fast, run.question)
            report = fast.report()
        settings.meter.advance()
        return before, after, report.claimed, report.discarded

    found = await asyncio.gather(*map(one, runs))
    before, after, claimed, discarded = (sum(f[n] for f in found) for n in range(4))
    return before, after, int(claimed), int(discarded)


def timed(settings: Settings) -> Outcome:
    """One run of each question, with what was learned from the others; and where nothing may run early."""
    from examples import _multihop_world as world

    runs, index, wikipedia = world.load(settings.data, world.SEARCH_SECONDS * SCALE)
    chosen = [next(r for r in runs if r.question == q) for q in questions_of(runs, settings.times(12, 4))]
    settings.meter.start("multi-hop: time", 3 * len(chosen))
    guessers = {}
    for run in chosen:
        guessers[run.question] = apart_from(runs, index, run.question)
        settings.meter.advance()
    before, after, claimed, discarded = run_async(_compare(chosen, guessers, wikipedia, settings))
    plain, closed, *_ = run_async(_compare(chosen, guessers, wikipedia, settings, metered=True))
    limit = world.SEARCH_SECONDS / (world.SEARCH_SECONDS + world.ACTOR_SECONDS)
    detail = (
        f"{before:.1f} s plain, {after:.1f} s speculative, {len(chosen)} questions; {claimed} used, {discarded} in vain"
    )
    return Outcome(
        {
            "multihop_saved": Measured(1 - after / before, f"below {limit:.2f}", detail),
            "multihop_metered_cost": Measured(closed / plain - 1, "0", "no Speculator is asked"),
        }
    )


def draw(series: Mapping[str, Any], directory: Path) -> list[Path]:
    """Answers the paper's Figure 4: how often the next action is guessed."""
    if not (found := series.get("predicted")):
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    names = ["paper, top 3", "ours, top 1", "ours, top 3"]
    axes.bar(names, [PAPER * 100, found["top1"] * 100, found["top3"] * 100], color=["#bbbbbb", "#1f77b4", "#1f77b4"])
    axes.set_ylabel("next call guessed exactly, %")
    axes.set_title("Multi-hop search, recorded HotpotQA runs (paper's Figure 4)")
    file = directory / "figure4_multihop.png"
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return [file]


_CASE = "recorded ReAct runs on HotpotQA"

PART = Part(
    title="Multi-hop search",
    groups=(
        Group(
            "predicted",
            {
                "multihop_top1": Row(f"{_CASE}: next search or look-up guessed exactly, 1 guess", 0.35, "higher"),
                "multihop_top3": Row("the same, 3 guesses", 0.50, "higher", "46 %"),
            },
            predicted,
            NEEDS,
        ),
        Group(
            "time",
            {
                "multihop_saved": Row(
                    f"{_CASE}, Actor 2 s, search 0.4 s (injected, at 1/5), k=3, d=1: time saved", 0.0, "higher"
                ),
                "multihop_metered_cost": Row("the same, searches not declared: time added", 0.02, "lower"),
            },
            timed,
            NEEDS,
        ),
    ),
    draw=draw,
)
