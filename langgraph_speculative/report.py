"""What speculation did: frozen events as it happens, and counters of one run or of all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

EventKind = Literal[
    "run", "guess", "hit", "miss", "fork", "launch", "claim", "discard", "rollback", "stop", "error", "end", "wait"
]


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that speculation did.

    Attributes:
        kind: What happened.
        run: Number of the run in this process.
        at: Seconds on the monotonic clock.
        node: Node, nested ones as ``"outer|inner"``; empty for events of the whole run.
        tool: Tool, where a single tool call is meant.
        step: Superstep of the graph that the event is about; -1 where there is none.
        detail: Reason, error or value, for people.
        seconds: A duration or a saving, where the event has one.
    """

    kind: EventKind
    run: int
    at: float
    node: str = ""
    tool: str = ""
    step: int = -1
    detail: str = ""
    seconds: float = 0.0


@dataclass
class Stop:
    """What ended branches for one reason: how often, and the seconds that going on would have saved."""

    count: int = 0
    would_have_saved: float = 0.0


@dataclass
class Usage:
    """Tokens of one model: in the committed run, in discarded pre-executions, and in drafts."""

    committed: int = 0
    discarded: int = 0
    draft: int = 0


_COUNTERS = (
    "runs",
    "steps",
    "windows",
    "window_hits",
    "speculator_calls",
    "speculator_errors",
    "guesses",
    "forks",
    "launched",
    "claimed",
    "discarded",
    "early_irreversible_calls",
    "rolled_back",
    "rollback_failures",
    "waits",
    "waits_claimed",
)


@dataclass
class Report:
    """Counters of speculation.

    Attributes:
        runs: Finished runs counted here.
        steps: Node and tool calls that the committed runs made (leaves: an agent's tool node counts its calls).
        windows: Executions of the committed runs for which a Speculator was consulted in time or not.
        window_hits: Windows in which one of the guesses was right.
        speculator_calls: Times a Speculator was started.
        speculator_errors: Speculators that raised, or whose guess did not fit the state.
        guesses: Guesses received.
        forks: Checkpoints forked.
        launched: Pre-executions started.
        claimed: Pre-executions that the run took over (each is a step that was not run again).
        discarded: Pre-executions thrown away.
        early_irreversible_calls: Irreversible or undeclared calls made in a branch, counted where their code is
            entered. Any other number than 0 is a bug of this library.
        rolled_back: Early actions that were undone or aborted.
        rollback_failures: Early actions that could not be, each told to the policy's `on_rollback_failure`.
        waits: Times that speculation went on while the graph waited for a person.
        waits_claimed: Those of them from which the next run took something over.
        rollback_wait: Seconds that calls of the runs waited for the rollback of early actions of overlapping scope.
        wall: Seconds that the runs took.
        time_saved: Seconds saved, measured per superstep against when the same calls would have ended had each
            been started only when the run reached it.
        stopped: Why branches ended before their depth, by reason.
        usage: Tokens by model.
        errors: The latest problems of Speculators or of the engine itself, as text; never raised into the run.
    """

    runs: int = 0
    steps: int = 0
    windows: int = 0
    window_hits: int = 0
    speculator_calls: int = 0
    speculator_errors: int = 0
    guesses: int = 0
    forks: int = 0
    launched: int = 0
    claimed: int = 0
    discarded: int = 0
    early_irreversible_calls: int = 0
    rolled_back: int = 0
    rollback_failures: int = 0
    waits: int = 0
    waits_claimed: int = 0
    rollback_wait: float = 0.0
    wall: float = 0.0
    time_saved: float = 0.0
    stopped: dict[str, Stop] = field(default_factory=dict)
    usage: dict[str, Usage] = field(default_factory=dict)
    errors: deque[str] = field(default_factory=lambda: deque(maxlen=50))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def window_hit_rate(self) -> float:
        """Share of prediction windows with a right guess."""
        return self.window_hits / self.windows if self.windows else 0.0

    @property
    def step_hit_rate(self) -> float:
        """Share of the committed node and tool calls that had been pre-executed."""
        return self.claimed / self.steps if self.steps else 0.0

    def add(self, other: Report) -> None:
        """Add the counters of a finished run."""
        with self._lock:
            for name in _COUNTERS:
                setattr(self, name, getattr(self, name) + getattr(other, name))
            self.rollback_wait += other.rollback_wait
            self.wall += other.wall
            self.time_saved += other.time_saved
            for reason, stop in other.stopped.items():
                # Reasons name nodes and tools, so they are few; the cap is for a graph that makes up names.
                if reason in self.stopped or len(self.stopped) < 100:
                    mine = self.stopped.setdefault(reason, Stop())
                    mine.count += stop.count
                    mine.would_have_saved += stop.would_have_saved
            for model, usage in other.usage.items():
                if model in self.usage or len(self.usage) < 100:
                    total = self.usage.setdefault(model, Usage())
                    total.committed += usage.committed
                    total.discarded += usage.discarded
                    total.draft += usage.draft
            self.errors.extend(other.errors)

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON-ready values. Times are seconds, usage is tokens."""
        with self._lock:
            out: dict[str, Any] = {name: getattr(self, name) for name in _COUNTERS}
            out["window_hit_rate"] = self.window_hit_rate
            out["step_hit_rate"] = self.step_hit_rate
            out["rollback_wait"] = self.rollback_wait
            out["wall"] = self.wall
            out["time_saved"] = self.time_saved
            out["stopped"] = {
                reason: {"count": s.count, "would_have_saved": s.would_have_saved} for reason, s in self.stopped.items()
            }
            out["usage"] = {
                model: {"committed": u.committed, "discarded": u.discarded, "draft": u.draft}
                for model, u in self.usage.items()
            }
            out["errors"] = list(self.errors)
            return out


def usage_of(value: Any) -> Iterable[tuple[str, int]]:
    """Pairs of model name and total tokens of the AI messages in a node's or tool's output."""
    if isinstance(value, dict):
        for item in value.values():
            yield from usage_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from usage_of(item)
    elif (update := getattr(value, "update", None)) is not None and hasattr(value, "goto"):
        yield from usage_of(update)
    elif usage := getattr(value, "usage_metadata", None):
        model = (getattr(value, "response_metadata", None) or {}).get("model_name", "unknown")
        yield str(model), int(usage.get("total_tokens", 0))
