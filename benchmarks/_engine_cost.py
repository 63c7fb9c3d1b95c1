"""What speculation costs where it gains nothing: idle sessions, many runs, hanging Speculators, memory."""

from __future__ import annotations

import asyncio
import gc
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

from benchmarks import _engine_graphs as graphs
from benchmarks._engine_rows import Measured, Results, Settings, p95, run_async, same, timed, timed_sync
from langgraph_speculative import Guess, Policy, speculative

# --- a session with nothing to speculate --------------------------------------------------------------------

IDLE_STEPS = 200


def idle_superstep(settings: Settings) -> Results:
    """Time per superstep of nodes that return at once, wrapped with a Speculator on a node never reached.

    Async and sync; the value is the worse of the two, each the median over pairs of runs of wrapped / plain.
    The order within a pair alternates.
    """
    config = graphs.config(IDLE_STEPS)

    async def anode(state: graphs.Trace) -> dict[str, Any]:
        return {"n": state["n"] + 1}

    def node(state: graphs.Trace) -> dict[str, Any]:
        return {"n": state["n"] + 1}

    def wrapped(graph: Any, guess: Callable[[Any], Any]) -> Any:
        effects = {**graphs.PURE, "never": "pure"}
        return speculative(graph, speculators={"never": guess}, effects=effects, policy=Policy(depth=3))

    plains = [graphs.loop_graph(f, IDLE_STEPS, extra={"never": f}) for f in (anode, node)]
    fasts = [wrapped(graph, guess) for graph, guess in zip(plains, (anode, node), strict=True)]
    pairs = settings.times(60, 15)
    settings.meter.start("idle sessions", 2 * pairs)

    async def one(graph: Any) -> float:
        return (await timed(lambda: graph.ainvoke(graphs.START_STATE, config)))[0]

    async def measure() -> list[tuple[float, float]]:
        out = []
        for pair in range(-2, pairs):  # two to warm up
            order = (plains[0], fasts[0])[:: 1 if pair % 2 else -1]
            first, second = [await one(graph) for graph in order]
            if pair >= 0:
                out.append((first, second) if pair % 2 else (second, first))
                settings.meter.advance()
        return out

    def sync_one(graph: Any) -> float:
        return timed_sync(lambda: graph.invoke(graphs.START_STATE, config))[0]

    def measure_sync() -> list[tuple[float, float]]:
        out = []
        for pair in range(-2, pairs):
            order = (plains[1], fasts[1])[:: 1 if pair % 2 else -1]
            first, second = [sync_one(graph) for graph in order]
            if pair >= 0:
                out.append((first, second) if pair % 2 else (second, first))
                settings.meter.advance()
        return out

    values, details = [], []
    for kind, times in (("async", run_async(measure())), ("sync", measure_sync())):
        ratio = median(fast / plain for plain, fast in times)
        least = min(fast for _, fast in times) / min(plain for plain, _ in times)
        microseconds = 1e6 * median(plain for plain, _ in times) / IDLE_STEPS
        values.append(ratio)
        details.append(f"{kind} {ratio:.3f} (of the least times {least:.3f}; plain {microseconds:.0f} us)")
    return {"idle_superstep": Measured(max(values), ", ".join(details))}


# --- many runs at once --------------------------------------------------------------------------------------

RUNS, LONG_STEPS, LONG_CALL, LONG_GUESS = 200, 10, 1.0, 0.1


def concurrent(settings: Settings) -> Results:
    """200 async runs at once in one process: wall time, of plain, and the process's CPU time per step."""
    plain = graphs.fixed_graph(LONG_STEPS, LONG_CALL)
    speculators = graphs.Counted(graphs.right, LONG_GUESS).for_both()
    fast = speculative(plain, speculators=speculators, effects=graphs.PURE, policy=Policy(depth=1, max_in_flight=256))
    config = graphs.config(LONG_STEPS)
    rounds = settings.times(3, 1)
    settings.meter.start("concurrent runs", 2 * rounds)

    async def batch(graph: Any) -> tuple[float, float, list[Any]]:
        async def all_runs() -> list[Any]:
            return list(await asyncio.gather(*[graph.ainvoke(graphs.START_STATE, config) for _ in range(RUNS)]))

        gc.collect()
        cpu = time.process_time()
        wall, results = await timed(all_runs)
        settings.meter.advance()
        return wall, 1e3 * (time.process_time() - cpu) / (RUNS * LONG_STEPS), results

    async def measure() -> list[tuple[float, float, float]]:
        for graph in (plain, fast):
            await graph.ainvoke({"n": LONG_STEPS - 1, "trace": []})
        out = []
        for _ in range(rounds):
            plain_wall, plain_cpu, expected = await batch(plain)
            wall, cpu, results = await batch(fast)
            same(expected, results)
            out.append((wall / plain_wall, cpu, plain_cpu))
        return out

    times = run_async(measure())
    return {
        "concurrent_wall": Measured(median(t[0] for t in times)),
        "concurrent_cpu_ms": Measured(median(t[1] for t in times), f"plain {median(t[2] for t in times):.2f} ms"),
    }


# --- Speculators that hang ----------------------------------------------------------------------------------

HANGING_STEPS, SHORT_CALL = 50, 0.005


def hanging(settings: Settings, *, sync: bool) -> Results:
    """What a step takes longer when no Speculator ever answers: async ones wait, sync ones block.

    A step lasts from one execution's begin to the next one's. The value is the 95th percentile of the steps of
    speculative runs minus that of the steps of plain runs, which take turns with them: a machine's own jitter is
    in both. Blocking Speculators are measured in a sync and in an async run; the worse one counts. They are
    released after each run.
    """
    released = threading.Event()
    begins: list[float] = []

    async def anode(state: graphs.Trace) -> dict[str, Any]:
        begins.append(time.perf_counter())
        await asyncio.sleep(SHORT_CALL)
        return graphs.right(state)

    def node(state: graphs.Trace) -> dict[str, Any]:
        begins.append(time.perf_counter())
        time.sleep(SHORT_CALL)
        return graphs.right(state)

    async def waits(state: graphs.Trace) -> dict[str, Any]:
        await asyncio.Event().wait()
        return graphs.wrong(state)

    def blocks(state: graphs.Trace) -> dict[str, Any]:
        released.wait()
        return graphs.wrong(state)

    config = graphs.config(HANGING_STEPS)
    rounds = settings.times(20, 4)
    kinds = ("sync run", "async run") if sync else ("async run",)
    settings.meter.start("hanging Speculators", len(kinds) * rounds)

    def steps(run: Callable[[Any], Any], graph: Any) -> tuple[list[float], Any]:
        gc.collect()
        begins.clear()
        result = run(graph)
        return [1e3 * (b - a) for a, b in itertools.pairwise(begins)], result

    values, details = [], []
    for kind in kinds:
        is_sync = kind == "sync run"
        plain = graphs.loop_graph(node if is_sync else anode, HANGING_STEPS)
        speculators: dict[str, Any] = dict.fromkeys(graphs.NODES, blocks if sync else waits)
        fast = speculative(plain, speculators=speculators, effects=graphs.PURE, policy=Policy(depth=2))

        def run(graph: Any, is_sync: bool = is_sync) -> Any:
            if is_sync:
                return graph.invoke(graphs.START_STATE, config)
            return run_async(graph.ainvoke(graphs.START_STATE, config))

        plain_steps: list[float] = []
        fast_steps: list[float] = []
        for round_ in range(-1, rounds):  # one to warm up
            released.clear()
            lasted, expected = steps(run, plain)
            lasted_fast, result = steps(run, fast)
            released.set()
            same(expected, result)
            time.sleep(0.1)  # the released threads end
            if round_ >= 0:
                plain_steps += lasted
                fast_steps += lasted_fast
                settings.meter.advance()
        added = p95(fast_steps) - p95(plain_steps)
        values.append(added)
        details.append(
            f"{kind}: median {median(fast_steps) - median(plain_steps):+.2f} ms, p95 {added:+.2f} ms "
            f"(plain: median {median(plain_steps):.2f} ms, p95 {p95(plain_steps):.2f} ms)"
        )
    return {f"hanging_{'sync' if sync else 'async'}_p95_ms": Measured(max(values), "; ".join(details))}


# --- memory -------------------------------------------------------------------------------------------------

MEMORY_RUNS, MEMORY_FIRST, MEMORY_STEPS = 1_000, 100, 4
PAYLOAD = "x" * 20_000


def resident_mb() -> float:
    """Memory of this process that is in RAM, after a collection."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory_levels(runs: int, first: int) -> tuple[float, float, int]:
    """Resident MB after the first runs and after all, and how many pre-executions were discarded.

    Every second run is async, the others sync. All guesses are wrong, two deep and two wide; every state
    holds a fresh string of 20 kB.
    """

    async def anode(state: graphs.Trace) -> dict[str, Any]:
        await asyncio.sleep(0.004)
        return graphs.right(state)

    def node(state: graphs.Trace) -> dict[str, Any]:
        time.sleep(0.004)
        return graphs.right(state)

    def guesses(state: graphs.Trace) -> list[Any]:
        return [Guess(graphs.wrong(state, rank), 0.5) for rank in range(2)]

    async def aguesses(state: graphs.Trace) -> list[Any]:
        return guesses(state)

    policy = Policy(depth=2, breadth=2)
    fast, afast = (
        speculative(
            graphs.loop_graph(function, MEMORY_STEPS),
            speculators=dict.fromkeys(graphs.NODES, speculator),
            effects=graphs.PURE,
            policy=policy,
        )
        for function, speculator in ((node, guesses), (anode, aguesses))
    )
    level = 0.0

    async def all_runs() -> None:
        nonlocal level
        for run in range(runs):
            if run == first:
                level = resident_mb()
            state: Any = {"n": 0, "trace": [f"{run}{PAYLOAD}"]}
            if run % 2:
                await afast.ainvoke(state)
            else:
                fast.invoke(state)  # this thread has no other work

    run_async(all_runs())
    return level, resident_mb(), fast.report().discarded + afast.report().discarded


def memory(settings: Settings) -> Results:
    """Memory after 1,000 runs with discarded branches, above that after 100, in a process of its own."""
    settings.meter.start("memory", 1)
    # Another row's garbage, given back to this one, would hide a leak.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        first, last, discarded = pool.submit(memory_levels, MEMORY_RUNS, MEMORY_FIRST).result()
    if discarded < MEMORY_RUNS:
        raise AssertionError(f"only {discarded} discarded pre-executions in {MEMORY_RUNS} runs")
    settings.meter.advance()
    return {"memory_mb": Measured(last - first, f"{first:.1f} MB to {last:.1f} MB, {discarded:,} discarded")}
