from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative._values import Opaque
from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.speculators._content import committed, outcome_of, renewed
from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess, known_names

PRIOR = 1.0
"""Executions that all targets together are worth before anything has been learned."""

MAX_FEATURES = 1000


class Route(BaseSpeculator):
    """Guesses what a router node writes: every target, likeliest first, so that the target starts before the decision.

    The node classifies and writes (``{"intent": "billing"}``, or a ``Command(goto="billing")``); the graph's own
    conditional edge then sends each guess where it belongs. The policy's `breadth` says how many are acted on.

    What the committed runs wrote is counted, the latest weighing most: of an update that was written in a share f of n
    such executions the confidence is ``(n f + PRIOR / m) / (n + PRIOR)``, for m candidates (Dirichlet smoothing). An
    update that is not given is learned when it has been seen, at most `max_learned` of them; the rarest gives way.

    Args:
        updates: By target, the output of the node that leads there. ``None``: all are learned.
        features: Of the node's input, what the choice may depend on, such as the channel that the request came by; a
            hashable. Its counts are mixed with those of all inputs, which weigh like `memory` / 10 executions at most.
        memory: Executions after which an old one weighs 1/e of a new one.
        max_learned: Updates that are not given and are kept.

    Raises:
        SpeculationError: No number of at least 1; or, when bound, a target that cannot follow the node.
    """

    def __init__(
        self,
        updates: Mapping[str, Any] | None = None,
        *,
        features: Callable[[Any], Hashable] | None = None,
        memory: float = 200.0,
        max_learned: int = 16,
    ) -> None:
        if updates is not None and not isinstance(updates, Mapping):
            raise SpeculationError(
                f"Route({type(updates).__name__}): pass a mapping from each target to the update that leads there, "
                'such as {"billing": {"intent": "billing"}}.'
            )
        if not memory >= 1 or isinstance(max_learned, bool) or not isinstance(max_learned, int) or max_learned < 1:
            raise SpeculationError(f"Route(memory={memory!r}, max_learned={max_learned!r}): must be at least 1.")
        self._updates = dict(updates or {})
        self._features = features
        self._memory = memory
        self._max_learned = max_learned
        self._lock = threading.Lock()
        self._given = {outcome_of(output): (target, output) for target, output in self._updates.items()}
        self._learned: dict[Any, Any] = {}
        self._all = _Counts()
        self._by_feature: OrderedDict[Hashable, _Counts] = OrderedDict()

    def bind(self, node: NodeInfo) -> Route:
        """A `Route` that counts for this node alone.

        Raises:
            SpeculationError: A target cannot follow the node.
        """
        if node.successors is not None and (unknown := set(self._updates) - node.successors):
            raise SpeculationError(
                f"Route for {node.label!r}: no edge leads to {known_names(unknown)}; "
                f"it may be followed by {known_names(node.successors)}."
            )
        return Route(self._updates, features=self._features, memory=self._memory, max_learned=self._max_learned)

    def guess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """All updates, likeliest first."""
        feature = None if self._features is None else self._features(value)
        with self._lock:
            candidates = {key: (f"route:{target}", output) for key, (target, output) in self._given.items()}
            candidates |= {key: ("route", output) for key, output in self._learned.items()}
            likely = self._all.shares(candidates, dict.fromkeys(candidates, 1 / max(1, len(candidates))), PRIOR)
            if feature in self._by_feature:
                weight = min(self._memory / 10, max(PRIOR, self._all.total))
                likely = self._by_feature[feature].shares(candidates, likely, weight)
        ranked = sorted(candidates, key=lambda key: -likely[key])
        guesses = [Guess(renewed(candidates[k][1], [], []), min(1.0, likely[k]), candidates[k][0]) for k in ranked]
        return guesses or None

    def learn(self, value: Any, output: Any, config: RunnableConfig) -> None:
        """Count what the node wrote."""
        feature = None if self._features is None else self._features(value)
        output = committed(output)
        try:
            key = outcome_of(output)
        except Opaque:
            return
        with self._lock:
            self._all.add(key, self._memory)
            if self._features is not None:
                self._by_feature.setdefault(feature, _Counts()).add(key, self._memory)
                self._by_feature.move_to_end(feature)
                if len(self._by_feature) > MAX_FEATURES:
                    self._by_feature.popitem(last=False)
            if key not in self._given:
                self._learned[key] = output
            if len(self._learned) > self._max_learned:
                # The newcomer weighs nearly 1: what gives way was seen about once, long ago.
                rarest = min(self._learned, key=lambda k: self._all.weights.get(k, 0.0))
                del self._learned[rarest]
                for counts in (self._all, *self._by_feature.values()):
                    counts.weights.pop(rarest, None)


@dataclass
class _Counts:
    """How often each update was written, old executions fading; `total` counts those of forgotten updates too."""

    weights: dict[Any, float] = field(default_factory=dict)
    total: float = 0.0

    def add(self, key: Any, memory: float) -> None:
        kept = 1 - 1 / memory
        for known in self.weights:
            self.weights[known] *= kept
        self.weights[key] = self.weights.get(key, 0.0) + 1
        self.total = self.total * kept + 1

    def shares(self, keys: Iterable[Any], prior: Mapping[Any, float], weight: float) -> dict[Any, float]:
        return {k: (self.weights.get(k, 0.0) + weight * prior[k]) / (self.total + weight) for k in keys}
