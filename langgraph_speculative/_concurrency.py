"""``max_concurrency`` of a run's config bounds its own calls and the early ones together; its own come first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import LeafInfo, NodeInfo

if TYPE_CHECKING:
    from langgraph_speculative._session import Session


_UNCOUNTED = nullcontext()


class Concurrency:
    """Calls of one run under way: its own, and early ones.

    Args:
        limit: Calls at the same time; ``None`` for no bound, and then nothing is counted.
    """

    def __init__(self, session: Session, limit: int | None) -> None:
        self._session = session
        self._limit = limit
        self._lock = threading.Lock()
        self._real = 0
        self._early: dict[Execution, None] = {}

    def has_room(self) -> bool:
        """Whether an early call may begin."""
        if self._limit is None:
            return True
        with self._lock:
            return self._real + len(self._early) < self._limit

    def began(self, ex: Execution) -> None:
        """An early call begins."""
        if self._limit is not None:
            with self._lock:
                self._early[ex] = None

    def ended(self, ex: Execution) -> None:
        """An early call has ended, or was told to."""
        if self._limit is not None:
            with self._lock:
                self._early.pop(ex, None)

    def real(self, info: LeafInfo) -> AbstractContextManager[None]:
        """The run makes a call itself; of what only contains calls, it is these that count."""
        if self._limit is None or (isinstance(info, NodeInfo) and info.kind != "leaf"):
            return _UNCOUNTED
        return self._counted(self._limit)

    @contextmanager
    def _counted(self, limit: int) -> Iterator[None]:
        with self._lock:
            self._real += 1
            over = self._real + len(self._early) - limit
            # An action that was cut off might still act.
            latest = [ex for ex in reversed(self._early) if ex.state is State.RUNNING and ex.action is None]
        if over > 0 and latest:
            self._session.post(self._make_room, latest[:over])
        try:
            yield
        finally:
            with self._lock:
                self._real -= 1

    def _make_room(self, victims: list[Execution]) -> None:
        # Those that the run has claimed meanwhile are in the ledger no more.
        session = self._session
        session.tree.drop(session.ledger.discard(lambda ex: ex in victims), "max_concurrency: the run needs the room")
