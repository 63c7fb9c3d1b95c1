"""What one run executes, spends and saves, as its report counts it.

The run's own threads count here, so what they wait for is little: executions of which nothing was guessed are kept,
and counted many at a time.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._node_stats import NodeStats
from langgraph_speculative._nodes import LeafInfo, NodeInfo
from langgraph_speculative._saved import SavedTime
from langgraph_speculative.report import Stop, Usage, tokens_in

if TYPE_CHECKING:
    from langgraph_speculative._session import Session

PASSED = 64
"""Executions of a node that speculation had nothing to do with, after which they are counted."""


class Counters:
    """The counters of one run."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._report = session.report
        self._lock = threading.Lock()
        self._saved = SavedTime()
        self._passed: defaultdict[LeafInfo, list[float]] = defaultdict(list)

    @property
    def time_saved(self) -> float:
        """Seconds that the run has saved so far."""
        return self._saved.total

    def stats(self, info: LeafInfo) -> NodeStats:
        """The counters of a node or tool."""
        found = self._report.nodes.get(info.label)
        return found or self._report.nodes.setdefault(info.label, NodeStats(info.effect.value))

    def add_tokens(self, by_model: Iterable[tuple[str, int]], kind: str) -> None:
        """Count tokens as drafted, discarded or committed ones.

        Args:
            by_model: Pairs of model name and tokens.
            kind: A field of `Usage`.
        """
        for model, tokens in by_model:
            usage = self._report.usage.setdefault(model, Usage())
            setattr(usage, kind, getattr(usage, kind) + tokens)

    def passed(self, info: NodeInfo, began: float, output: Any) -> None:
        """The run has executed a node of which nothing was to be guessed or taken over.

        Args:
            began: On the monotonic clock, in seconds.
        """
        session = self._session
        if info.kind != "leaf" or session.broken or session.closed:
            return
        try:
            # On the way of every node of every run: what can wait is done for many at a time.
            passed, used = self._passed[info], tokens_in(output)
            passed.append(time.monotonic() - began)
            if used or len(passed) >= PASSED:
                with self._lock:
                    self._catch_up()
                    self._note(info, (), used)
        except Exception as error:
            session.fail(error)

    def catch_up(self) -> None:
        """Count what the run has passed and nobody has counted yet."""
        with self._lock:
            self._catch_up()

    def _catch_up(self) -> None:
        """`catch_up`, locked."""
        for info, passed in list(self._passed.items()):
            # Others may append to the list meanwhile.
            if count := len(passed):
                self._note(info, passed[:count], ())
                del passed[:count]

    def _note(self, info: LeafInfo, seconds: Sequence[float], used: Sequence[tuple[str, int, int, int]]) -> None:
        """Executions of a node or tool by the run, and the tokens that they have spent."""
        stats = self.stats(info)
        stats.executions += len(seconds)
        stats.seconds.add(*seconds)
        for model, _, _, tokens in used:
            stats.tokens += tokens
            self.add_tokens([(model, tokens)], "committed")
        self._session.valuation.committed(info, seconds, used)

    def count(self, ex: Execution, output: Any) -> None:
        """Count one committed leaf: steps, claims, tokens, and the time saved in its superstep."""
        early = ex.leaves[0] if ex.leaves else None
        took = ex.ended - ex.started
        if early is not None and early.state is State.CLAIMED:
            took = early.ended - early.started
        alone = ex.started + took
        with self._lock:
            self._catch_up()
            self._report.steps += 1
            self._note(ex.info, [took], tokens_in(output))
            assert ex.frame is not None
            self._saved.add(ex.frame.loop, ex.frame.step, ex.ended, alone)
            if early is not None and early.state is State.BLOCKED:
                lost = min(ex.ended - ex.started, max(0.0, ex.started - early.started))
                self._report.stopped.setdefault(early.spoiled, Stop()).would_have_saved += lost

    def count_graphs(self, ex: Execution) -> None:
        """A committed task that may have run graphs: what these have saved, it has saved."""
        assert ex.frame is not None
        with self._lock:
            self._saved.add_graphs(ex.frame.loop, ex.frame.step, ex.namespace, ex.ended)
