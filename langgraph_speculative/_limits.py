"""How often tools may be called early, over all runs of a graph; and who is left alone for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from math import isfinite


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


PAUSE = 30.0
LONGEST_PAUSE = 600.0


class Pauses:
    """Who is left alone for a while: models, nodes and Speculators that were told to slow down.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[str, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._until)

    def pause(self, names: Iterable[str], error: BaseException) -> None:
        """A call was refused for coming too often: pause as long as the reply asks for, else longer each time."""
        asked = retry_after(error)
        with self._lock:
            now = self._clock()
            for name in names:
                if name not in self._until and len(self._until) >= MAX_PAUSES:
                    continue
                until, last = self._until.get(name, (now, PAUSE / 2))
                # Those that were under way together are refused together: that is once.
                again = until > now
                seconds = asked if asked is not None else last if again else min(LONGEST_PAUSE, 2 * last)
                self._until[name] = max(until, now + seconds), last if asked is not None else seconds

    def over(self, names: Iterable[str]) -> None:
        """A call of these has succeeded: the next pause is a short one again."""
        with self._lock:
            now = self._clock()
            for name in names:
                if self._until.get(name, (now + 1, 0))[0] <= now:
                    del self._until[name]

    def holds(self, names: Iterable[str]) -> bool:
        """Whether one of these is paused."""
        with self._lock:
            now = self._clock()
            return any(self._until[name][0] > now for name in names if name in self._until)


MAX_PAUSES = 1000


def is_too_many(error: BaseException) -> bool:
    """Whether a provider refused a call for coming too often (HTTP status 429), whatever its client raises."""
    reply = getattr(error, "response", None)
    found = (getattr(error, "status_code", None), getattr(error, "code", None), getattr(reply, "status_code", None))
    return any(status in (429, "429") for status in found if isinstance(status, int | str))


def retry_after(error: BaseException) -> float | None:
    """The seconds that the reply to such a call asks to wait, if it does."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    try:
        seconds = float(headers["retry-after"])  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None
    return min(LONGEST_PAUSE, max(0.0, seconds)) if isfinite(seconds) else None
