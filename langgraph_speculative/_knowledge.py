"""What the runs of one graph have taught the policy: latencies, costs, and how right the guesses are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from langgraph_speculative._admission_value import expected_saving
from langgraph_speculative._calibration import Breaker, Calibration, Door, Probe
from langgraph_speculative._limits import Pauses
from langgraph_speculative._node_stats import MAX_NODES, Samples
from langgraph_speculative._nodes import LeafInfo, NodeInfo, ToolInfo
from langgraph_speculative._spending import Spending
from langgraph_speculative.budget import Prices
from langgraph_speculative.policy import Policy


@dataclass(frozen=True)
class Cost:
    """What one call costs.

    Attributes:
        is_free: It spends no tokens, and has no price.
        tokens: The mean so far; 0 where it has not been seen.
        usd: ``None`` where it spends tokens of a model without a price.
    """

    is_free: bool
    tokens: float = 0.0
    usd: float | None = 0.0


FREE = Cost(True)


@dataclass
class Spent:
    """Tokens of several calls, by model: input and output."""

    calls: int = 0
    total: float = 0.0
    by_model: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, model: str, tokens: tuple[float, float], total: float) -> None:
        before = self.by_model.get(model, (0.0, 0.0))
        self.by_model[model] = before[0] + tokens[0], before[1] + tokens[1]
        self.total += total

    def usd(self, prices: Prices) -> float | None:
        """Of all calls; ``None`` if one of the models has no price."""
        each = [prices.of_tokens(model, tokens) for model, tokens in self.by_model.items()]
        return None if None in each else sum(usd for usd in each if usd is not None)


@dataclass
class Known:
    """What is known of one node or tool: its latencies and costs, and the guesses at it."""

    seconds: Samples = field(default_factory=Samples)
    guess_seconds: Samples = field(default_factory=Samples)
    spent: Spent = field(default_factory=Spent)
    drafts: Spent = field(default_factory=Spent)
    calibration: Calibration = field(default_factory=Calibration)
    door: Door = field(default_factory=Door)
    breaker: Breaker = field(default_factory=Breaker)
    probe_guess: Probe = field(default_factory=Probe)
    probe_call: Probe = field(default_factory=Probe)
    fresh: Calibration = field(default_factory=Calibration)
    fresh_windows: list[bool] = field(default_factory=list)
    _savings: dict[str, tuple[tuple[int, int, int], float]] = field(default_factory=dict)

    def learn(self, source: str, rank: int, confidence: float, right: bool) -> None:
        """A guess has been judged, or a call that was made early; the knowledge is locked."""
        for calibration in (self.calibration, self.fresh):
            calibration.learn(source, rank, confidence, right)

    def saving_before(self, label: str, following: Known) -> float:
        """Seconds that a right guess at this node is expected to save, if it lets the other start."""
        parts = (self.seconds, self.guess_seconds, following.seconds)
        # A few more samples change little, so they are not worth the time of doing it again.
        age = tuple(part.count if part.count < 8 else part.count // 8 * 8 for part in parts)
        found = self._savings.get(label)
        if found is None or found[0] != age:
            saving = expected_saving(*(list(part.latest) for part in parts))
            self._savings[label] = found = (age[0], age[1], age[2]), saving
        return found[1]


class Knowledge:
    """What is known of one graph, shared by all its runs. Its methods may be called from any thread.

    Args:
        policy: Prices and budget.
        clock: Seconds.
    """

    def __init__(self, policy: Policy, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.Lock()
        self.prices = Prices(policy.prices)
        self.spending = Spending(policy.budget, clock)
        self.pauses = Pauses(clock)
        self.nodes: dict[str, Known] = {}

    def of(self, label: str) -> Known:
        """What is known of a node or tool."""
        found = self.nodes.get(label)
        if found is None:
            if len(self.nodes) >= MAX_NODES:
                return Known()
            found = self.nodes.setdefault(label, Known())
        return found

    def price_of(self, info: LeafInfo) -> float:
        """USD per call of a node or tool, tokens aside."""
        name = info.name if isinstance(info, ToolInfo | NodeInfo) else info.label
        return self.prices.of_call(info.label) or self.prices.of_call(name)

    def usd_of(self, label: str) -> float:
        """USD that a call of a node or tool costs, as far as that is known."""
        known, name = self.of(label), label.rpartition("|")[2]
        # A tool's label is its node's, a dot, and its name.
        price = max(map(self.prices.of_call, (label, name, name.rpartition(".")[2])))
        return price + (known.spent.usd(self.prices) or 0.0) / max(1, known.spent.calls)

    def cost_of(self, info: LeafInfo) -> Cost:
        """What one call of a node or tool costs."""
        price = self.price_of(info)
        is_model = isinstance(info, NodeInfo) and info.is_model
        known = self.nodes.get(info.label)
        if known is None or not known.spent.total:
            return Cost(False, 0.0, None if is_model and not price else price) if price or is_model else FREE
        usd = known.spent.usd(self.prices)
        return Cost(
            False,
            known.spent.total / known.spent.calls,
            price or None if usd is None else price + usd / known.spent.calls,
        )

    def cost_of_guess(self, info: NodeInfo) -> Cost:
        """What asking a node's Speculator costs."""
        known = self.nodes.get(info.label)
        if known is None or not known.drafts.total:
            return FREE if getattr(info.speculator, "is_free", True) else Cost(False, 0.0, None)
        usd = known.drafts.usd(self.prices)
        return Cost(False, known.drafts.total / known.drafts.calls, None if usd is None else usd / known.drafts.calls)

    def models_of(self, label: str) -> list[str]:
        """The models that a node is known to call."""
        known = self.nodes.get(label)
        return [] if known is None else list(known.spent.by_model)
