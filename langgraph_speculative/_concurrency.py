"""``max_concurrency`` of a run's config bounds its own calls and the early ones together; its own come first."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from langgraph_speculative._ledger import Execution, State

if TYPE_CHECKING:
    from langgraph_speculative._session import Session


class Concurrency:
    """Calls of one run under way: its own, and early ones.

    Args:
        limit: Calls at the same time; ``None`` for no bound, and then the run's own are not counted.
    """

    def __init__(self, session: Session, limit: int | None) -> None:
        self._session = session
        self.limit = limit
        self._lock = threading.Lock()
        self._real = 0
        self._early: dict[Execution, None] = {}

    def has_room(self) -> bool:
        """Whether an early call may begin."""
        if self.limit is None:
            return True
        with self._lock:
            return self._real + len(self._early) < self.limit

    def began(self, ex: Execution) -> None:
        """An early call begins."""
        with self._lock:
            self._early[ex] = None

    def ended(self, ex: Execution) -> None:
        """An early call has ended."""
        with self._lock:
            self._early.pop(ex, None)

    def enters(self) -> None:
        """The run is at a call, to be made or taken over."""
        with self._lock:
            self._real += 1

    def leaves(self) -> None:
        """That call is over."""
        with self._lock:
            self._real -= 1

    def claimed(self, found: tuple[Execution, object] | None) -> None:
        """The run may take an early call over, and counts for it from now on."""
        if found is not None:
            self.ended(found[0])

    def executes(self) -> None:
        """The run makes a call itself: where there is no room for it, the latest unclaimed early one ends."""
        if self.limit is None:
            return
        with self._lock:
            over = self._real + len(self._early) - self.limit
            # An action that was cut off might still act.
            latest = [ex for ex in reversed(self._early) if ex.state is State.RUNNING and ex.action is None]
        if over > 0 and latest:
            self._session.post(self._make_room, latest[:over])

    def _make_room(self, victims: list[Execution]) -> None:
        # Those that the run has claimed meanwhile are in the ledger no more.
        session = self._session
        session.tree.pruning.drop(
            session.ledger.discard(lambda ex: ex in victims), "max_concurrency: the run needs the room"
        )
