"""How far and how wide to speculate, and when not to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, get_args

from langgraph.store.base import BaseStore

from langgraph_speculative.between_turns import BetweenTurns
from langgraph_speculative.budget import Budget, Price, check_prices, is_amount
from langgraph_speculative.errors import SpeculationError

if TYPE_CHECKING:
    from langgraph_speculative._handlers import RollbackFailure
    from langgraph_speculative.journal import Journal
    from langgraph_speculative.report import Event

Mode = Literal["on", "observe", "off"]
MODES: tuple[str, ...] = get_args(Mode)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Limits of speculation for one graph.

    Args:
        breadth: Guesses acted on per execution of a node (k in arXiv 2510.04371, section 3).
        depth: Steps ahead of the committed run that may be pre-executed (d). A sliding window: it moves on
            with each committed step.
        max_in_flight: Pre-executions that may run at the same time in one run. A branch that finds no room
            stops; the run never waits.
        max_speculators: Speculator calls that may be under way at the same time in one run; one that hangs in
            a thread keeps its place until the thread is free again.
        mode: ``"on"``; ``"observe"`` predicts and scores, but never pre-executes; ``"off"`` runs plain. One
            request may override it with ``config["metadata"]["speculation"]``, and the environment variable
            ``LANGGRAPH_SPECULATIVE=off`` turns everything off.
        hooks: Called with each frozen `Event`. A hook that raises is ignored.
        guard: Called with the tool's or node's name, its arguments (a node's input) and the state that it sees, before
            anything runs early; what it refuses, or raises on, does not. Must be quick: it is called on the loop.
        rate_limits: Early calls per second, by tool or node name; ``"*"`` for each of the others. Counted over all runs
            of the graph; a call beyond it is made when the run comes to it.
        redact: Called with the name and the arguments of an early action; what it returns goes into the journal instead
            of them. Events hold no arguments.
        journal: Where early actions are written down before they start: a path of an SQLite file, a LangGraph store, or
            a `Journal`. ``None`` is the file named by the environment's ``LANGGRAPH_SPECULATIVE_JOURNAL``, else
            ``langgraph_speculative.sqlite`` in the working directory.
        on_rollback_failure: Called with each `RollbackFailure`.
        rollback_attempts: Times that an undo or abort is called before it counts as failed.
        rollback_backoff: Seconds before it is called again; doubled each time.
        rollback_timeout: Seconds after which one action's rollback, the end of its code included, counts as failed.
        between_turns: Go on while the graph waits for a person, within these limits; ``None`` is not to.

    Raises:
        SpeculationError: A number below its minimum, or an unknown mode.
    """

    breadth: int = 1
    depth: int = 1
    max_in_flight: int = 64
    max_speculators: int = 64
    value_per_second: float = 0.01
    prices: Mapping[str, Price] = field(default_factory=dict, hash=False)
    budget: Budget = field(default_factory=Budget)
    store: BaseStore | None = field(default=None, hash=False)
    rollout: float = 1.0
    holdout: float = 0.0
    mode: Mode = "on"
    hooks: tuple[Callable[[Event], None], ...] = ()
    guard: Callable[[str, Any, Any], bool] | None = None
    rate_limits: Mapping[str, float] = field(default_factory=dict, hash=False)
    redact: Callable[[str, Any], Any] | None = None
    journal: str | PathLike[str] | BaseStore | Journal | None = field(default=None, hash=False)
    on_rollback_failure: Callable[[RollbackFailure], object] | None = None
    rollback_attempts: int = 4
    rollback_backoff: float = 0.1
    rollback_timeout: float = 30.0
    between_turns: BetweenTurns | None = None

    def __post_init__(self) -> None:
        for name in ("breadth", "depth", "max_in_flight", "max_speculators", "rollback_attempts"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpeculationError(
                    f"Policy({name}={value!r}): {name} must be an integer of at least 1; "
                    'to switch speculation off use Policy(mode="off").'
                )
        if self.mode not in MODES:
            raise SpeculationError(f"Policy(mode={self.mode!r}): mode must be one of {', '.join(MODES)}.")
        for name in ("rollback_backoff", "rollback_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
                raise SpeculationError(f"Policy({name}={seconds!r}): seconds must be positive.")
        for tool, limit in self.rate_limits.items():
            if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
                raise SpeculationError(
                    f"Policy(rate_limits={{{tool!r}: {limit!r}}}): calls per second must be a number of at least 0."
                )
        if not is_amount(self.value_per_second):
            raise SpeculationError(
                f"Policy(value_per_second={self.value_per_second!r}): must be an amount of USD of at least 0."
            )
        for name in ("rollout", "holdout"):
            share = getattr(self, name)
            if not is_amount(share) or share > 1:
                raise SpeculationError(f"Policy({name}={share!r}): must be a share from 0 to 1.")
        check_prices(self.prices)
        if not isinstance(self.budget, Budget):
            raise SpeculationError(f"Policy(budget={self.budget!r}): pass a Budget(...).")
        if self.budget.counts_usd and not self.prices:
            raise SpeculationError("Policy(budget=Budget(usd_...)): a limit in USD needs prices=.")
        if self.store is not None and not isinstance(self.store, BaseStore):
            raise SpeculationError(f"Policy(store={self.store!r}): pass a LangGraph store, such as SqliteStore(...).")
        for name in ("guard", "redact", "on_rollback_failure"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise SpeculationError(f"Policy({name}={function!r}): it is not callable.")
        if not isinstance(self.between_turns, BetweenTurns | None):
            raise SpeculationError(f"Policy(between_turns={self.between_turns!r}): pass a BetweenTurns(...).")
        for hook in self.hooks:
            if not callable(hook):
                raise SpeculationError(f"Policy(hooks=...): {hook!r} is not callable.")
