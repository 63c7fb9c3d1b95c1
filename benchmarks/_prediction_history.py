"""What `History` guesses right, what it wastes, how well it knows, and how long it takes."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import mean, pstdev
from typing import Any

from benchmarks._engine_rows import Measured, Results
from benchmarks._prediction_data import (
    AIRLINE,
    ASIDE,
    RETAIL,
    Call,
    Domain,
    Message,
    Run,
    calls_in,
    equal,
    folds,
    runs_of,
    steps_of,
)
from benchmarks._prediction_rows import Settings
from langgraph_speculative.speculators import Guess, History, unknown_message

BINS = 10
KEPT = 0.94
"""Share of the hits that a threshold keeps where it is chosen, for 0.9 elsewhere."""
RUNS_LEARNED = 10_000
GUESSES_TIMED = 300
GUESSES_BETWEEN_TURNS = 5
DEPTH = 3


@dataclass(frozen=True)
class Step:
    """One step of a model: the guesses with their confidences, whether each was right, and whether it did read."""

    confidences: list[float]
    right: list[bool]
    reads: bool


def call_of(guess: Guess) -> Call:
    (call,) = guess.output["messages"][0].tool_calls
    return call["name"], call["args"]


def guesses_at(history: History, messages: list[Message]) -> list[Guess]:
    return history.guess({"messages": messages}, {}) or []


def guessed(history: History, run: Run, domain: Domain) -> list[Step]:
    """The guesses at each step of a run."""
    steps = []
    for messages, calls in steps_of(run):
        guesses = guesses_at(history, messages)
        right = [any(equal(call_of(g), c) for c in calls) for g in guesses]
        steps.append(Step([g.confidence for g in guesses], right, any(c[0] in domain.reads for c in calls)))
    return steps


def learned(domain: Domain, runs: list[Run], **kwargs: Any) -> History:
    return History(tools=domain.reads, **kwargs).fit({"messages": r.messages} for r in runs)


def cross_validated(settings: Settings, domain: Domain, seed: int) -> list[list[Step]]:
    """The steps of all runs, fold by fold, each guessed by what other tasks' runs have taught."""
    return [
        [step for run in held_out for step in guessed(history, run, domain)]
        for train, held_out in folds(runs_of(settings.data, domain), seed)
        for history in [learned(domain, train)]
    ]


def hits(steps: list[Step], k: int) -> float:
    """Share of the read-only calls that were among k guesses."""
    reads = [s for s in steps if s.reads]
    return sum(any(s.right[:k]) for s in reads) / len(reads)


def next_calls(domain: Domain, name: str, settings: Settings) -> Results:
    """The rows ``name_top1`` and ``name_top3``; for retail ``admission_waste`` too, from the same guesses."""
    by_seed = [cross_validated(settings, domain, seed) for seed in settings.seeds]
    results: Results = {}
    for k in (1, 3):
        shares = [hits([s for fold in f for s in fold], k) for f in by_seed]
        steps = [s for f in by_seed for fold in f for s in fold]
        launched = sum(len(s.right[:k]) for s in steps)
        right = sum(sum(s.right[:k]) for s in steps)
        detail = (
            f"seeds {settings.seeds}: {', '.join(f'{s:.3f}' for s in shares)} (deviation {pstdev(shares):.3f}); "
            f"without admission {(launched - right) / right:.2f} early calls wasted per hit"
        )
        results[f"{name}_top{k}"] = Measured(mean(shares), detail)
    if domain is RETAIL:
        results["admission_waste"] = admission(by_seed)
    return results


def admission(by_seed: list[list[list[Step]]]) -> Measured:
    """What a threshold on the confidence saves: chosen on the other folds, measured on each fold."""
    before, after = [0, 0], [0, 0]
    for folds_ in by_seed:
        for number, fold in enumerate(folds_):
            threshold = threshold_for([s for n, f in enumerate(folds_) if n != number for s in f])
            for step in fold:
                for confidence, right in zip(step.confidences, step.right, strict=True):
                    before[right] += 1
                    after[right] += confidence >= threshold
    waste = [wrong / right for wrong, right in (before, after)]
    detail = (
        f"three guesses a step: {waste[0]:.2f} wasted per hit without, {waste[1]:.2f} with a threshold, "
        f"which keeps {after[1] / before[1]:.3f} of the hits"
    )
    kept_enough = after[1] >= 0.9 * before[1]
    return Measured(waste[1] / waste[0] if kept_enough else float("nan"), detail)


def threshold_for(steps: list[Step]) -> float:
    """The highest threshold that keeps `KEPT` of the hits."""
    right = sorted(c for s in steps for c, r in zip(s.confidences, s.right, strict=True) if r)
    return right[int((1.0 - KEPT) * len(right))]


def calibration(settings: Settings) -> Results:
    """Learned from half of the runs, which is 50: what was said of the other half, and what came."""
    pairs: list[tuple[float, bool]] = []
    for domain in (RETAIL, AIRLINE):
        for seed in settings.seeds:
            for train, held_out in folds(runs_of(settings.data, domain), seed, 2):
                history = learned(domain, train)
                for run in held_out:
                    for step in guessed(history, run, domain):
                        pairs += zip(step.confidences[:1], step.right[:1], strict=True)
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for pair in pairs:
        bins[min(BINS - 1, int(pair[0] * BINS))].append(pair)
    error = sum(abs(sum(c for c, _ in b) - sum(r for _, r in b)) for b in bins) / len(pairs)
    said = " ".join(f"{mean(c for c, _ in b):.2f}→{mean(r for _, r in b):.2f}" for b in bins if b)
    return {"calibration": Measured(error, f"first guess of {len(pairs)} steps, said→came: {said}")}


def between_turns(settings: Settings) -> Results:
    """Calls of the next turn, guessed while the customer types."""
    shares, of_reads, wasted = [], [], []
    for seed in settings.seeds:
        counts = [0, 0, 0, 0]
        for train, held_out in folds(runs_of(settings.data, RETAIL), seed):
            history = learned(RETAIL, train, k=GUESSES_BETWEEN_TURNS, between_turns=True)
            for run in held_out:
                counts = [a + b for a, b in zip(counts, turns_guessed(history, run), strict=True)]
        calls, reads, right, launched = counts
        shares.append(right / calls)
        of_reads.append(right / reads)
        wasted.append((launched - right) / right)
    detail = (
        f"seeds {settings.seeds}: {', '.join(f'{s:.3f}' for s in shares)} of all calls, only read-only ones guessed; "
        f"{mean(of_reads):.3f} of the read-only calls; {mean(wasted):.1f} early calls wasted per hit without admission"
    )
    return {"between_turns": Measured(mean(shares), detail)}


def turns_guessed(history: History, run: Run) -> list[int]:
    """Of all turns of a run: calls, read-only calls, calls guessed, guesses.

    Before each message of the person the next call is guessed with the words unknown. Where a guess is a call of the
    turn, its recorded result is known, and the step after it is guessed, `DEPTH` times.
    """
    counts = [0, 0, 0, 0]
    for number, message in enumerate(run.messages):
        if message["role"] != "user":
            continue
        turn = turn_from(run.messages, number + 1)
        calls = [c for m in turn for c in calls_in(m) if c[0] not in ASIDE]
        counts[0] += len(calls)
        counts[1] += sum(c[0] in RETAIL.reads for c in calls)
        known: list[Any] = [*run.messages[:number], unknown_message()]
        left = [n for n, m in enumerate(turn) if any(c[0] not in ASIDE for c in calls_in(m))]
        tried: list[Call] = []
        for _ in range(DEPTH):
            guesses = [g for g in map(call_of, guesses_at(history, known)) if not any(equal(g, t) for t in tried)]
            tried += guesses
            counts[3] += len(guesses)
            right = [n for n in left if any(equal(g, c) for g in guesses for c in calls_in(turn[n]))]
            if not right:
                break
            counts[2] += len(right)
            left = [n for n in left if n not in right]
            known += turn[right[0] : right[0] + 2]
    return counts


def turn_from(messages: list[Message], start: int) -> list[Message]:
    """The messages from here to the person's next one."""
    end = next((n for n in range(start, len(messages)) if messages[n]["role"] == "user"), len(messages))
    return messages[start:end]


def history_ms(settings: Settings) -> Results:
    """The time of a guess, for a History that has learned 10,000 runs, at the end of the longest one."""
    runs = [r for d in (RETAIL, AIRLINE) for r in runs_of(settings.data, d)]
    count = RUNS_LEARNED // 10 if settings.quick else RUNS_LEARNED
    history = History(tools=RETAIL.reads | AIRLINE.reads, k=5)
    started = time.perf_counter()
    history.fit({"messages": r.messages} for r in islice(cycle(runs), count))
    took = time.perf_counter() - started
    longest = max(runs, key=lambda r: len(r.messages)).messages
    end = max(n for n, m in enumerate(longest) if m["role"] == "assistant")
    times, walls = [], []
    gc.collect()
    for _ in range(GUESSES_TIMED):
        # As in a run: the last step is new, what was before it is known from the guess before.
        guesses_at(history, longest[: end - 2])
        began, wall = time.thread_time(), time.perf_counter()
        guesses_at(history, longest[:end])
        times.append((time.thread_time() - began) * 1e3)
        walls.append((time.perf_counter() - wall) * 1e3)
    times.sort()
    walls.sort()
    detail = (
        f"CPU, which is all that a guess takes; wall-clock p95 {walls[int(0.95 * len(walls))]:.2f} ms, median "
        f"{walls[len(walls) // 2]:.2f} ms, with what else the machine did; {len(longest[:end])} messages; "
        f"learned {count} runs at {took / count * 1e3:.1f} ms each"
    )
    return {"history_ms": Measured(times[int(0.95 * len(times))], detail)}
