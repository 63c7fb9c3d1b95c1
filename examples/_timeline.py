"""What speculation did over the time of a run, for the terminal.

A `Timeline` is a hook of the policy: it keeps the frozen events of one or more runs and draws the latest.

    committed    1 1  1 11 1    calls of the run whose Speculator was asked, when they returned
    early        123321233210    calls made early that are neither claimed nor discarded yet
    claimed      1 1  1 1       calls made early, when the run took them over
    discarded     2  1 2   2    calls made early in vain, when that was known
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from langgraph_speculative import Event

WIDTH = 56


class Timeline:
    """Keeps events, as ``Policy(hooks=(timeline,))``; may be called from any thread."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._events.append(event)

    @property
    def events(self) -> list[Event]:
        """The events of the latest run, in order of time."""
        with self._lock:
            run = self._events[-1].run if self._events else 0
            return sorted((e for e in self._events if e.run == run), key=lambda e: e.at)

    def text(self, width: int = WIDTH) -> str:
        """The lanes of the latest run, `width` characters for its whole time; empty if there was none."""
        events = self.events
        if not events:
            return ""
        start, end = events[0].at, events[-1].at
        seconds = max(end - start, 1e-9)

        def column(event: Event) -> int:
            return min(int((event.at - start) / seconds * width), width - 1)

        lanes: list[tuple[str, Sequence[int], str]] = []
        for name, kinds in (("committed", ("hit", "miss")), ("claimed", ("claim",)), ("discarded", ("discard",))):
            counts = _counts((column(e) for e in events if e.kind in kinds), width)
            lanes.append((name, counts, str(sum(counts))))
        early = _outstanding(events, column, width)
        launched = sum(e.kind == "launch" for e in events)
        lanes.insert(1, ("early", early, f"{launched} launched"))
        lines = [f"{name:<10} {''.join(map(_digit, counts))} {note}" for name, counts, note in lanes]
        scale = f"{seconds:.1f} s"
        return "\n".join([*lines, f"{'':<10} 0{'─' * (width - 1 - len(scale))}{scale}"])


def _digit(count: int) -> str:
    return " " if count == 0 else str(count) if count < 10 else "+"


def _counts(columns: Iterable[int], width: int) -> list[int]:
    counts = [0] * width
    for column in columns:
        counts[column] += 1
    return counts


def _outstanding(events: Sequence[Event], column: Callable[[Event], int], width: int) -> list[int]:
    """For each column the most calls that were under way or waiting at one time."""
    most = [0] * width
    now, last = 0, 0
    for event in events:
        here = column(event)
        for between in range(last + 1, here + 1):
            most[between] = now
        last = here
        now += {"launch": 1, "claim": -1, "discard": -1}.get(event.kind, 0)
        most[here] = max(most[here], now)
    return most
