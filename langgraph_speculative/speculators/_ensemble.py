from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative._values import Opaque
from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.speculators._asking import aask, ask, has_async_form
from langgraph_speculative.speculators._content import committed, keyed, outcome_of
from langgraph_speculative.speculators._protocol import (
    BaseSpeculator,
    Guess,
    Speculator,
    check_speculator,
)

BINS = 10
"""Equal intervals of the stated confidence that are calibrated each by itself."""

PRIOR = 2.0
"""Guesses that the stated confidence itself is worth in a bin."""

MAX_PENDING = 1000


class Ensemble(BaseSpeculator):
    """Asks several Speculators of one node, the cheap ones first, and the next one only if those before are unsure.

    Their guesses are merged: of several that write the same (ids aside; of messages with tool calls only the calls
    count) the surest is kept. They are ranked by calibrated confidence: of the guesses that a member has stated with
    about that confidence, the share that was right in the committed runs, (right + PRIOR · stated) / (n + PRIOR).
    `Guess.source` is the member's name, a colon and what it says itself follow if it says anything.

    A member is any Speculator: a function, sync or async, plain or a generator, or an object. One that fails is
    reported only if all that were asked did; else the others go on without it.

    Args:
        members: Cheapest first; a mapping gives them names, else a class or function does.
        threshold: Calibrated confidence from which on no further member is asked. 1 asks all, 0 only the first that has
            a guess.

    Raises:
        SpeculationError: No members, one that is no Speculator, or a threshold outside [0, 1].
    """

    def __init__(self, members: Sequence[Speculator] | Mapping[str, Speculator], *, threshold: float = 0.8) -> None:
        named = dict(members) if isinstance(members, Mapping) else _named(members)
        if not named:
            raise SpeculationError("Ensemble: pass at least one Speculator.")
        for name, member in named.items():
            check_speculator(name, member)
        if isinstance(threshold, bool) or not 0.0 <= threshold <= 1.0:
            raise SpeculationError(f"Ensemble(threshold={threshold!r}): must be between 0 and 1.")
        self._members = named
        self.is_free = all(getattr(member, "is_free", True) for member in named.values())
        self._threshold = threshold
        self._lock = threading.Lock()
        self._calibrations = {name: _Calibration() for name in named}
        self._pending: OrderedDict[str, list[tuple[str, float, Any]]] = OrderedDict()
        if not any(has_async_form(m) for m in named.values()):
            self.aguess = None  # type: ignore[method-assign,assignment]

    def bind(self, node: NodeInfo) -> Ensemble:
        """An `Ensemble` of the members bound to the node, calibrated for it alone.

        Raises:
            SpeculationError: A member cannot guess for such a node.
        """
        bound = {n: m.bind(node) if isinstance(m, BaseSpeculator) else m for n, m in self._members.items()}
        return Ensemble(bound, threshold=self._threshold)

    def guess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """The members' guesses, likeliest first."""
        merged = _Merged()
        for name, member in self._members.items():
            try:
                given = ask(member, value, config)
            except Exception as error:
                merged.errors.append(error)
                continue
            if self._add(merged, name, given):
                break
        return self._ranked(merged, value)

    async def aguess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """The members' guesses, likeliest first."""
        merged = _Merged()
        for name, member in self._members.items():
            try:
                given = await aask(member, value, config)
            except Exception as error:
                merged.errors.append(error)
                continue
            if self._add(merged, name, given):
                break
        return self._ranked(merged, value)

    def learn(self, value: Any, output: Any, config: RunnableConfig) -> None:
        """Judge what the members have guessed of this execution, and let them learn."""
        try:
            (key, _), outcome = keyed(value), outcome_of(committed(output))
        except Opaque:
            pass
        else:
            with self._lock:
                for name, stated, guessed in self._pending.pop(key, ()):
                    self._calibrations[name].add(stated, guessed == outcome)
        errors = []
        for member in self._members.values():
            if isinstance(member, BaseSpeculator):
                try:
                    member.learn(value, output, config)
                except Exception as error:
                    errors.append(error)
        if errors:
            raise errors[0]

    def _add(self, merged: _Merged, name: str, given: list[Guess]) -> bool:
        """Take a member's guesses; whether they are sure enough to ask nobody else."""
        merged.asked += 1
        for guess in given:
            merged.usage.update(guess.usage)
            if guess.is_empty:
                continue
            try:
                outcome = outcome_of(guess.output)
            except Opaque:
                outcome = object()
            with self._lock:
                confidence = self._calibrations[name].of(guess.confidence)
            merged.stated.append((name, guess.confidence, outcome))
            known = merged.best.get(outcome)
            if known is None or confidence > known.confidence:
                source = f"{name}:{guess.source}" if guess.source else name
                merged.best[outcome] = Guess(guess.output, confidence, source)
        return any(guess.confidence >= self._threshold for guess in merged.best.values())

    def _ranked(self, merged: _Merged, value: Any) -> list[Guess] | None:
        if merged.errors and not merged.asked:
            raise merged.errors[0]
        if merged.stated:
            try:
                key, _ = keyed(value)
            except Opaque:
                pass
            else:
                with self._lock:
                    self._pending[key] = merged.stated
                    if len(self._pending) > MAX_PENDING:
                        self._pending.popitem(last=False)
        guesses = sorted(merged.best.values(), key=lambda g: -g.confidence)
        if not guesses:
            return [Guess(usage=dict(merged.usage))] if merged.usage else None
        first = guesses[0]
        return [Guess(first.output, first.confidence, first.source, dict(merged.usage)), *guesses[1:]]


class _Merged:
    """What the members that were asked have said of one execution: by what they guess the surest guess."""

    def __init__(self) -> None:
        self.best: dict[Any, Guess] = {}
        self.stated: list[tuple[str, float, Any]] = []
        self.usage: Counter[str] = Counter()
        self.errors: list[Exception] = []
        self.asked = 0


class _Calibration:
    """How often the guesses of one member are right, by stated confidence."""

    def __init__(self) -> None:
        self._right = [0] * BINS
        self._all = [0] * BINS

    @staticmethod
    def _bin(stated: float) -> int:
        return min(BINS - 1, int(stated * BINS))

    def add(self, stated: float, right: bool) -> None:
        self._all[self._bin(stated)] += 1
        self._right[self._bin(stated)] += right

    def of(self, stated: float) -> float:
        at = self._bin(stated)
        return (self._right[at] + PRIOR * stated) / (self._all[at] + PRIOR)


def _named(members: Sequence[Speculator]) -> dict[str, Speculator]:
    named: dict[str, Speculator] = {}
    for member in members:
        name = getattr(member, "__name__", type(member).__name__).lower()
        taken = sum(n.split("-")[0] == name for n in named)
        named[f"{name}-{taken + 1}" if taken else name] = member
    return named
