"""How much may be done while a graph waits for a person."""

from __future__ import annotations

from dataclasses import dataclass

from langgraph_speculative.errors import SpeculationError


@dataclass(frozen=True, kw_only=True)
class BetweenTurns:
    """Speculate on what a person will say next, while the graph waits for it (arXiv 2510.04371, section 4).

    Takes a checkpointer and a Speculator for `START`. Only `pure` and `read` nodes and tools run early then.

    Args:
        seconds: Time that one wait may be used for; what nobody has taken over by then is dropped.
        calls: Nodes and tool calls that may be run early in one wait.
        tokens: Tokens that early calls and Speculators may cost in one wait; ``None`` is no limit. With ``0`` no model
            node of an agent runs early.

    Raises:
        SpeculationError: A number below its minimum.
    """

    seconds: float = 30.0
    calls: int = 5
    tokens: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float) or not self.seconds > 0:
            raise SpeculationError(f"BetweenTurns(seconds={self.seconds!r}): seconds must be positive.")
        for name, value in (("calls", self.calls), ("tokens", 0 if self.tokens is None else self.tokens)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise SpeculationError(f"BetweenTurns({name}={value!r}): {name} must be an integer of at least 0.")
