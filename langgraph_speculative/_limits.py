"""How often tools may be called early, over all runs of a graph."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping


class RateLimits:
    """A token bucket for each tool or node: what it holds is one second's calls, and never less than one call.

    Args:
        limits: Calls per second by name; ``"*"`` for each of the others.
        clock: Seconds.
    """

    def __init__(self, limits: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = dict(limits)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def admits(self, name: str) -> bool:
        """Whether it may be called early now; counts it, if it may."""
        limit = self._limits.get(name, self._limits.get("*"))
        if limit is None:
            return True
        if limit == 0:
            return False
        room = max(1.0, limit)
        with self._lock:
            now = self._clock()
            left, since = self._buckets.get(name, (room, now))
            left = min(room, left + (now - since) * limit)
            admitted = left >= 1.0
            self._buckets[name] = (left - admitted, now)
            return admitted
