"""What a long history costs: forks and keys, with 10 to 10,000 messages in the state."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import add_messages

from benchmarks import _engine_graphs as graphs
from benchmarks._engine_rows import Measured, Results, Settings, run_async, same, timed
from langgraph_speculative import Policy, _values, speculative

# --- forks --------------------------------------------------------------------------------------------------


class Messages(TypedDict):
    """An agent's history."""

    messages: Annotated[list[AnyMessage], add_messages]


def history(size: int) -> list[AnyMessage]:
    """Turns of a tool-calling agent: a question, a call, its result, an answer."""
    out: list[AnyMessage] = []
    for i in itertools.count():
        call = {"name": "lookup", "args": {"order": i, "fields": ["state", "total"]}, "id": f"call_{i}"}
        out += [
            HumanMessage(f"What is the state of order {i}, and what did it cost in all?", id=f"h{i}"),
            AIMessage("", tool_calls=[call], id=f"a{i}"),
            ToolMessage(
                f'{{"order": {i}, "state": "shipped", "total": "19.90"}}',
                tool_call_id=f"call_{i}",
                id=f"t{i}",
            ),
            AIMessage(f"Order {i} has been shipped. Its total was 19.90 EUR.", id=f"b{i}"),
        ]
        if len(out) >= size:
            return out[:size]
    raise AssertionError


WRONG = "a wrong guess"
FORK_STEPS = {10: 40, 1_000: 25, 10_000: 8}
FORK_MARGIN = {10: 0.005, 1_000: 0.03, 10_000: 0.3}
"""Seconds for which the Actor waits on once the branch's step has begun, so that it also ends in the waiting time."""


class _ForkCase:
    """A graph whose every step adds a message; real executions note the process's CPU time as they begin."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.steps = FORK_STEPS[size]
        self.waits = "no"
        self.entries: list[float] = []
        self.early = 0
        self.begun = asyncio.Event()

    async def node(self, state: Messages) -> dict[str, Any]:
        messages = state["messages"]
        if messages[-1].content == WRONG:
            self.early += 1
            self.begun.set()
        else:
            self.begun.clear()
            self.entries.append(time.process_time())
            if self.waits != "no" and len(messages) < self.size + self.steps - 1:
                # Two turns of the loop either way: only what happens meanwhile shall differ.
                if self.waits == "for a branch":
                    await self.begun.wait()
                else:
                    await asyncio.sleep(FORK_MARGIN[self.size])
                await asyncio.sleep(FORK_MARGIN[self.size])
        return {"messages": [AIMessage(f"answer {len(messages)}")]}

    async def guess(self, state: Messages) -> dict[str, Any]:
        return {"messages": [AIMessage(WRONG)]}

    def graph(self, checkpointer: Any = None) -> Any:
        total = self.size + self.steps
        return graphs.loop_graph(
            self.node,
            total,
            state=Messages,
            count=lambda state: len(state["messages"]),
            checkpointer=checkpointer,
        )

    async def cpu_per_step(self, graph: Any, waits: str) -> tuple[float, list[Any]]:
        """CPU seconds per step between the first step and the last, and the answers."""
        self.waits, self.entries, self.early, self.begun = waits, [], 0, asyncio.Event()
        config = {**graphs.config(self.steps), "configurable": {"thread_id": "1"}}
        async with asyncio.timeout(120):
            result = (await timed(lambda: graph.ainvoke({"messages": history(self.size)}, config)))[1]
        answers = [(m.type, m.content) for m in result["messages"]]
        return (self.entries[-1] - self.entries[0]) / (len(self.entries) - 1), answers


def fork(size: int, settings: Settings) -> Results:
    """CPU time of one fork and its first branch step, of that of one plain step with `InMemorySaver`.

    Seen from outside: every step of a run gets one wrong guess at depth 1, so it makes one fork in which one
    step is pre-executed and discarded, all while the Actor waits. From the CPU time of such a step that of
    the same step in ``mode="observe"`` is taken, which asks the Speculator and verifies the guess but never
    forks. What remains is the fork, isolation included, the branch's step with its reducers, its key and its
    end. Both without a checkpointer; the plain step is that of the unwrapped graph with one. Medians over
    interleaved rounds.
    """
    case = _ForkCase(size)
    options: dict[str, Any] = {"speculators": dict.fromkeys(graphs.NODES, case.guess), "effects": graphs.PURE}
    fast = speculative(case.graph(), **options, policy=Policy(depth=1))
    observed = speculative(case.graph(), **options, policy=Policy(depth=1, mode="observe"))
    forks, bases, plains, offs = [], [], [], []
    rounds = settings.times(9, 3)
    settings.meter.start(f"forks at {size:,} messages", rounds)

    async def measure() -> None:
        bare = case.graph()
        for round_ in range(-1, rounds):  # one to warm up
            plain, expected = await case.cpu_per_step(case.graph(InMemorySaver()), "no")
            observe, answers = await case.cpu_per_step(observed, "as long")
            same(expected, answers)
            with fast.track() as report:
                on, answers = await case.cpu_per_step(fast, "for a branch")
            same(expected, answers)
            # The last step has no next one, which its router may say in a fork.
            if not (report.forks in (case.steps - 1, case.steps) and case.early == case.steps - 1):
                raise AssertionError(f"{report.forks} forks and {case.early} early steps in {case.steps} steps")
            off, _ = await case.cpu_per_step(bare, "as long")
            if round_ >= 0:
                forks.append(on - observe)
                bases.append(observe)
                plains.append(plain)
                offs.append(on - off)
                settings.meter.advance()

    run_async(measure())
    value = median(forks) / median(plains)
    detail = (
        f"fork {1e3 * median(forks):.2f} ms, plain step {1e3 * median(plains):.2f} ms; "
        f"with Speculator and verification {1e3 * median(offs):.2f} ms"
    )
    return {f"fork_{size}": Measured(value, detail)}


# --- keys ---------------------------------------------------------------------------------------------------

KEY_SIZES = (1_000, 10_000)


@contextmanager
def _counted(names: tuple[str, ...], is_meant: Callable[[Any], bool]) -> Iterator[list[str]]:
    """Count calls of functions of `_values`, wherever they were imported to, with such arguments."""
    calls: list[str] = []
    patched: list[tuple[Any, str, Any]] = []

    def counter(name: str, function: Any) -> Callable[..., Any]:
        def call(value: Any, *args: Any) -> Any:
            if is_meant(value):
                calls.append(name)
            return function(value, *args)

        return call

    for name in names:
        original = getattr(_values, name)
        for module in list(sys.modules.values()):
            if getattr(module, "__name__", "").startswith("langgraph_speculative") and (
                getattr(module, name, None) is original
            ):
                patched.append((module, name, original))
                setattr(module, name, counter(name, original))
    try:
        yield calls
    finally:
        for module, name, original in patched:
            setattr(module, name, original)


def keys(settings: Settings) -> Results:
    """Keys of inputs of 1,000 and 10,000 messages.

    ``key_none`` counts how often a run computes anything over its whole input (`freeze` or `fingerprint`)
    while no branch has run early what it executes: with Speculators that have no guess, and with one on a
    node that is never reached. ``key_quick`` is the time of `fingerprint`, which decides before a full key is
    computed; the slower of the two sizes, each the median of many calls.
    """
    case = _ForkCase(10)

    async def no_guess(state: Messages) -> None:
        return None

    settings.meter.start("keys", 2 * len(KEY_SIZES))
    computed = 0
    times = []
    for size in KEY_SIZES:
        state: Messages = {"messages": history(size)}
        case.size = size

        async def node(state: Messages) -> dict[str, Any]:
            return {"messages": [AIMessage("answer")]}

        for speculators in (dict.fromkeys(graphs.NODES, no_guess), {"never": no_guess}):
            plain = graphs.loop_graph(
                node,
                size + 5,
                state=Messages,
                count=lambda state: len(state["messages"]),
                extra={"never": node},
            )
            fast = speculative(
                plain,
                speculators=speculators,
                effects={**graphs.PURE, "never": "pure"},
                policy=Policy(depth=2),
            )

            def is_input(value: Any, size: int = size) -> bool:
                return isinstance(value, dict) and len(value.get("messages", ())) >= size

            with _counted(("freeze", "fingerprint"), is_input) as calls:
                run_async(fast.ainvoke(state, graphs.config(5)))
            computed += len(calls)
        settings.meter.advance()
        repetitions = settings.times(5_000, 500)
        laps = []
        for _ in range(repetitions):
            started = time.perf_counter()
            _values.fingerprint(state)
            laps.append(time.perf_counter() - started)
        times.append(1e3 * median(laps))
        settings.meter.advance()
    detail = ", ".join(f"{size:,}: {t:.4f} ms" for size, t in zip(KEY_SIZES, times, strict=True))
    return {"key_none": Measured(computed), "key_quick": Measured(max(times), detail)}
