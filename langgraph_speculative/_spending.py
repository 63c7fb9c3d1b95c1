"""What speculation has spent and what is under way, against the budget: of each run, and of all over the last hour."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from weakref import WeakSet

from langgraph_speculative.budget import Budget

MINUTE = 60.0
HOUR = 60 * MINUTE

Kind = Literal["committed", "discarded", "draft"]


@dataclass
class Amounts:
    """Tokens by kind, and USD spent for nothing or for guesses."""

    committed: float = 0.0
    discarded: float = 0.0
    draft: float = 0.0
    usd: float = 0.0

    def add(self, kind: Kind, tokens: float, usd: float) -> None:
        setattr(self, kind, getattr(self, kind) + tokens)
        if kind != "committed":
            self.usd += usd

    @property
    def tokens(self) -> float:
        """Those that speculation has spent."""
        return self.discarded + self.draft


@dataclass(eq=False)
class Reservation:
    """What an early call under way is likely to waste."""

    tokens: float
    usd: float


class Purse:
    """One run: what it has spent, and what it has under way.

    Attributes:
        waits: It is none yet, but a wait for one: others need not leave it its share.
    """

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.spent = Amounts()
        self.under_way: set[Reservation] = set()


class Spending:
    """The budget of one graph and its runs. Its methods may be called from any thread.

    Args:
        budget: The limits.
        clock: Seconds.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = budget
        self._clock = clock
        self._lock = threading.Lock()
        self._minutes: deque[tuple[float, Amounts]] = deque()
        # Weakly: the loop of a wait may end without a word.
        self._purses: WeakSet[Purse] = WeakSet()

    def open(self, *, waits: bool = False) -> Purse:
        """A run begins, or a wait for one."""
        purse = Purse(waits=waits)
        with self._lock:
            self._purses.add(purse)
        return purse

    def close(self, purse: Purse) -> None:
        """A run has ended, and all that it had under way."""
        with self._lock:
            self._purses.discard(purse)

    def count(self, purse: Purse, kind: Kind, tokens: float, usd: float) -> None:
        """Tokens and USD have been spent."""
        with self._lock:
            now = self._clock()
            if not self._minutes or now - self._minutes[-1][0] >= MINUTE:
                self._minutes.append((now, Amounts()))
            self._minutes[-1][1].add(kind, tokens, usd)
            purse.spent.add(kind, tokens, usd)

    def refuses_guess(self, purse: Purse, tokens: float, usd: float) -> str:
        """Why a Speculator that spends that much may not be asked; empty if it may."""
        with self._lock:
            return self._limits(purse, tokens, usd)

    def refuses_free(self, purse: Purse) -> str:
        """Why a call that costs nothing may not be made early; empty if it may."""
        budget = self._budget
        if budget.calls is None:
            return ""
        with self._lock:
            # An equal share, but never less than one: what is left may go to whoever asks first.
            share = max(1, budget.calls // self._sharers(purse))
            flying = sum(len(p.under_way) for p in self._purses)
            full = len(purse.under_way) >= share or flying >= budget.calls
            return "budget: calls in flight" if full else ""

    def refuses_call(self, purse: Purse, tokens: float, usd: float) -> str:
        """Why a call that is likely to waste that much may not be made early; empty if it may."""
        if reason := self.refuses_free(purse):
            return reason
        with self._lock:
            budget = self._budget
            if budget.waste is not None and tokens:
                hour = self._hour()
                left = budget.waste * hour.committed + budget.allowance - hour.discarded
                if tokens > self._share(purse, left - self._reserved()[0]):
                    return f"budget: discarded tokens have reached {budget.waste:.0%} of the committed ones"
            return self._limits(purse, tokens, usd)

    def _limits(self, purse: Purse, tokens: float, usd: float) -> str:
        budget, spent = self._budget, purse.spent
        own_tokens = spent.tokens + sum(r.tokens for r in purse.under_way)
        if budget.tokens_per_run is not None and own_tokens + tokens > budget.tokens_per_run:
            return "budget: tokens of the run"
        own_usd = spent.usd + sum(r.usd for r in purse.under_way)
        if budget.usd_per_run is not None and own_usd + usd > budget.usd_per_run:
            return "budget: USD of the run"
        if budget.tokens_per_hour is not None or budget.usd_per_hour is not None:
            hour, reserved = self._hour(), self._reserved()
            left_tokens = (budget.tokens_per_hour or 0.0) - hour.tokens - reserved[0]
            if budget.tokens_per_hour is not None and tokens > self._share(purse, left_tokens):
                return "budget: tokens of the hour"
            left_usd = (budget.usd_per_hour or 0.0) - hour.usd - reserved[1]
            if budget.usd_per_hour is not None and usd > self._share(purse, left_usd):
                return "budget: USD of the hour"
        return ""

    def _share(self, purse: Purse, left: float) -> float:
        """What one run may take at once of what is left; below 0 if nothing is."""
        return left / self._sharers(purse) if left > 0 else -1.0

    def _sharers(self, purse: Purse) -> int:
        """Among how many what is left is shared: the runs under way, and the one that asks."""
        return max(1, sum(not p.waits or p is purse for p in self._purses))

    def _hour(self) -> Amounts:
        now = self._clock()
        while self._minutes and now - self._minutes[0][0] >= HOUR:
            self._minutes.popleft()
        total = Amounts()
        for _, minute in self._minutes:
            total.committed += minute.committed
            total.discarded += minute.discarded
            total.draft += minute.draft
            total.usd += minute.usd
        return total

    def _reserved(self) -> tuple[float, float]:
        every = [r for purse in self._purses for r in purse.under_way]
        return sum(r.tokens for r in every), sum(r.usd for r in every)

    def reserve(self, purse: Purse, tokens: float, usd: float) -> Reservation:
        """An early call begins that is likely to waste that much."""
        reservation = Reservation(tokens, usd)
        with self._lock:
            purse.under_way.add(reservation)
        return reservation

    def release(self, purse: Purse, reservation: Reservation) -> None:
        """It is taken over, or discarded and counted."""
        with self._lock:
            purse.under_way.discard(reservation)
