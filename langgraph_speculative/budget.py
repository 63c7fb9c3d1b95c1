"""What speculation may spend, and what things cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from langgraph_speculative.errors import SpeculationError

Price = float | tuple[float, float]
"""USD per call, of a tool or node; or USD per 1,000 input and per 1,000 output tokens, of a model."""


def is_amount(value: Any) -> bool:
    """Whether it is a finite number of at least 0."""
    return not isinstance(value, bool) and isinstance(value, int | float) and isfinite(value) and value >= 0


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What speculation may spend. What the run takes over is its own, and is not counted.

    A call under way counts with what it is likely to waste; so a limit may be passed by what was under way when it was
    reached, never by a later call. Of what is left of a limit that runs share, one of n runs may take at once
    at most an n-th.

    Args:
        waste: Tokens of discarded calls, as a share of the committed tokens of the last hour; ``None`` for no limit.
        allowance: Tokens an hour that may be discarded on top of that share: the first guesses have to be tried.
        tokens_per_run: Tokens of Speculators and discarded calls in one run.
        tokens_per_hour: The same in all runs of the graph, over the last hour.
        usd_per_run: USD of Speculators and discarded calls in one run, by the policy's prices.
        usd_per_hour: The same in all runs of the graph, over the last hour.
        calls: Early calls in flight in all runs of the graph; `Policy.max_in_flight` is for one run.

    Raises:
        SpeculationError: A limit is negative or no number.
    """

    waste: float | None = 0.2
    allowance: int = 20_000
    tokens_per_run: int | None = None
    tokens_per_hour: int | None = None
    usd_per_run: float | None = None
    usd_per_hour: float | None = None
    calls: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (is_amount(value) or (value is None and name != "allowance")):
                raise SpeculationError(f"Budget({name}={value!r}): must be a number of at least 0.")

    @property
    def counts_usd(self) -> bool:
        """Whether it has a limit in USD."""
        return self.usd_per_run is not None or self.usd_per_hour is not None


_DATED = re.compile(r"[-@](\d{8}|\d{4}-\d{2}-\d{2})$")


class Prices:
    """The prices of a policy."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._calls = {name: float(p) for name, p in prices.items() if not isinstance(p, tuple)}
        self._models = {name: p for name, p in prices.items() if isinstance(p, tuple)}

    def of_call(self, name: str) -> float:
        """USD for one call of a tool or node."""
        return self._calls.get(name, 0.0)

    def of_tokens(self, model: str, tokens: tuple[float, float]) -> float | None:
        """USD for input and output tokens of a model, dated or not; ``None`` where it has no price."""
        price = self._models.get(model) or self._models.get(_DATED.sub("", model))
        return None if price is None else (price[0] * tokens[0] + price[1] * tokens[1]) / 1000


def check_prices(prices: Mapping[str, Any]) -> None:
    """Refuse what is no price.

    Raises:
        SpeculationError: Neither an amount nor a pair of them.
    """
    for name, price in prices.items():
        pair = isinstance(price, tuple) and len(price) == 2 and all(map(is_amount, price))
        if not pair and not is_amount(price):
            raise SpeculationError(
                f"Policy(prices={{{name!r}: {price!r}}}): a model's price is a pair, USD per 1,000 input and output "
                "tokens; that of a tool or node is a number, USD per call."
            )
