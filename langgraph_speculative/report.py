"""What speculation did: frozen events as it happens, and counters of one run or of all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph_speculative._groups import Holdout
from langgraph_speculative._node_stats import NodeStats, merge_nodes

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
    """Tokens of one model: in the committed run, in discarded pre-executions, and in drafts.

    A pre-execution that was cut off has told no usage; it counts with the mean of its node, where that is known.
    """

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
        guesses: Guesses received, and messages of the Actor's as far as they were written (`Stream`).
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
        nodes: What was seen of each node (``"outer|inner"``) and tool (the tool's name behind its node's).
        holdout: With `Policy.holdout`, the runs that speculated against those that were held out.
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
    nodes: dict[str, NodeStats] = field(default_factory=dict)
    holdout: Holdout = field(default_factory=Holdout)
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
            merge_nodes(self.nodes, other.nodes.items())
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
            out["nodes"] = {label: stats.to_dict() for label, stats in self.nodes.items()}
            out["holdout"] = self.holdout.to_dict()
            out["errors"] = list(self.errors)
            return out


_WITHOUT_USAGE = frozenset({str, int, float, bool, bytes, type(None)})


def tokens_in(value: Any) -> list[tuple[str, int, int, int]]:
    """Model name, input, output and total tokens of the AI messages in a node's or tool's output."""
    found: list[tuple[str, int, int, int]] = []
    if type(value) is dict and _WITHOUT_USAGE.issuperset(map(type, value.values())):
        return found
    todo = [value]
    while todo:
        # No recursion: this is done for every output of a run, and an output may be a long list.
        item = todo.pop()
        if type(item) in _WITHOUT_USAGE:
            continue
        if isinstance(item, dict):
            todo.extend(reversed(item.values()))
        elif isinstance(item, list | tuple):
            todo.extend(reversed(item))
        elif (update := getattr(item, "update", None)) is not None and hasattr(item, "goto"):
            todo.append(update)
        elif usage := getattr(item, "usage_metadata", None):
            model = (getattr(item, "response_metadata", None) or {}).get("model_name", "unknown")
            read, written, total = (int(usage.get(f"{kind}_tokens") or 0) for kind in ("input", "output", "total"))
            found.append((str(model), read, written, total))
    return found


def usage_of(value: Any) -> Iterable[tuple[str, int]]:
    """Pairs of model name and total tokens of the AI messages in a node's or tool's output."""
    return [(model, total) for model, _, _, total in tokens_in(value)]
