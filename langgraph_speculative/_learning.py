"""Telling Speculators what the committed runs did: off the run's path, one call at a time, in the order of the runs."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_speculative import _scheduler
from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative.report import Report

MAX_WAITING = 10_000


class Learning:
    """What is still to be learned by the Speculators of one graph.

    Args:
        owner: What the pool's thread is counted for.
        report: Gets the errors of Speculators that cannot learn.
    """

    def __init__(self, owner: object, report: Report) -> None:
        self._owner = owner
        self._report = report
        self._lock = threading.Lock()
        # The oldest give way when a slow learner falls behind: it may miss runs, the process may not grow.
        self._waiting: deque[Callable[[], None]] = deque(maxlen=MAX_WAITING)
        self._working = False

    def tell(self, info: NodeInfo, value: Any, output: Any, config: RunnableConfig) -> None:
        """Have a node's Speculator learn from an execution; returns at once."""

        def job() -> None:
            try:
                info.speculator.learn(value, output, config)
            except Exception as error:
                text = f"Speculator of {info.label!r} could not learn: {type(error).__name__}: {error}"
                self._report.errors.append(text[:500])

        with self._lock:
            self._waiting.append(job)
            if self._working:
                return
            self._working = True
        _scheduler.POOL.submit(self._owner, self._work, must=True)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._working = False
                    return
                job = self._waiting.popleft()
            job()
