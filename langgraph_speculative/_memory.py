"""What the policy has learned of guesses, kept in a LangGraph store: read and written by a thread, never waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from langgraph.store.base import BaseStore

from langgraph_speculative import _scheduler
from langgraph_speculative._calibration import MEMORY, Calibration, Door
from langgraph_speculative._knowledge import Knowledge
from langgraph_speculative.report import Report

SAVE_EVERY = 10.0
"""Seconds between two times that it is written."""

MAX_ITEMS = 1000


class Memory:
    """The counts of one graph's guesses, in a store: one item per node, added to by all processes.

    Args:
        store: Any LangGraph store. Its synchronous methods are called, in a thread of the library's.
        graph: The graph's name.
        owner: What the thread is counted for.
        report: Gets the errors.
        clock: Seconds.
    """

    def __init__(
        self,
        store: BaseStore,
        graph: str,
        knowledge: Knowledge,
        owner: object,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        # A period would be refused, and so would an empty label.
        self.namespace = ("langgraph_speculative", "policy", graph.replace(".", "_") or "graph")
        self._knowledge = knowledge
        self._owner = owner
        self._report = report
        self._clock = clock
        self._lock = threading.Lock()
        self._is_read = False
        self._next = 0.0

    def load(self) -> None:
        """Read what is kept, the first time that it is called."""
        with self._lock:
            if self._is_read:
                return
            self._is_read = True
        _scheduler.POOL.submit(self._owner, self._load, must=True)

    def save(self, *, at_once: bool = False) -> None:
        """Write what is new, unless it was written a moment ago."""
        with self._lock:
            if not at_once and self._clock() < self._next:
                return
            self._next = self._clock() + SAVE_EVERY
        if any(known.fresh_windows or known.fresh for known in self._knowledge.nodes.values()):
            _scheduler.POOL.submit(self._owner, self._save, must=True)

    def _load(self) -> None:
        try:
            for item in self._store.search(self.namespace, limit=MAX_ITEMS):
                known, door = self._knowledge.of(item.key), Door(item.value["windows"])
                calibration = Calibration(item.value["guesses"])
                with self._knowledge.lock:
                    calibration.add(known.fresh)
                    known.calibration = calibration
                    door.windows.extend(known.fresh_windows)
                    known.door.windows = door.windows
        except Exception as error:
            self._report.errors.append(f"the policy's store could not be read: {error!r}"[:500])

    def _save(self) -> None:
        for label, known in list(self._knowledge.nodes.items()):
            with self._knowledge.lock:
                fresh, known.fresh = known.fresh, Calibration()
                windows, known.fresh_windows = known.fresh_windows, []
            if not windows and not fresh:
                continue
            try:
                item = self._store.get(self.namespace, label)
                kept: dict[str, Any] = {"windows": [], "guesses": {}} if item is None else item.value
                total = Calibration(kept["guesses"])
                total.add(fresh)
                value = {"windows": [*kept["windows"], *windows][-MEMORY:], "guesses": total.to_dict()}
                self._store.put(self.namespace, label, value)
            except Exception as error:
                self._report.errors.append(f"the policy's store could not be written: {error!r}"[:500])
                with self._knowledge.lock:
                    fresh.add(known.fresh)
                    known.fresh = fresh
                    known.fresh_windows = [*windows, *known.fresh_windows][-MEMORY:]
                return
            with self._knowledge.lock:
                # What other processes have added is known here from now on.
                total.add(known.fresh)
                known.calibration = total
