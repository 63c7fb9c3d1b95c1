"""Whether a node or tool may run early, where a branch has come to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig

from langgraph_speculative._compat import CONF
from langgraph_speculative._ledger import Execution
from langgraph_speculative._nodes import NodeInfo, ToolInfo
from langgraph_speculative._values import copy_value
from langgraph_speculative.effects import Effect, overlap

if TYPE_CHECKING:
    from langgraph_speculative._session import Session


def _described(ex: Execution) -> str:
    kind = "tool" if isinstance(ex.info, ToolInfo) else "node"
    return f"{ex.info.effect.value} {kind} {ex.info.label!r}"


def _line(ex: Execution, before: Iterable[Execution]) -> set[Execution]:
    """What the branch has executed before this superstep, of its own and of the nested graph that it runs."""
    assert ex.frame is not None
    above = ex.frame.parent.used() if ex.frame.parent is not None else set()
    return above | {other for other in before if other.own_step < ex.own_step}


class Admission:
    """The checks of one run: effects, fences, the policy's guard and rates."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ledger = session.ledger

    def refuses(
        self,
        ex: Execution,
        before: Iterable[Execution],
        arguments: Any,
        state: Any,
        config: RunnableConfig,
        *,
        has_room: bool,
    ) -> str:
        """Why it may not run early here; empty if it may, and then an action is open.

        Args:
            before: What the nested graph that the branch runs has executed.
            arguments: The tool's arguments, or the node's input.
            state: What the tool or node sees of the state.
            has_room: Whether one more may run.
        """
        info = ex.info
        if not info.effect.may_run_early:
            return _described(ex)
        if isinstance(info, NodeInfo) and info.timed:
            return f"node {info.label!r} has a timeout"
        if self._session.closed:
            return "the run has ended"
        name = info.name if isinstance(info, ToolInfo) else info.label
        assert ex.frame is not None
        if info.effect is not Effect.PURE and overlap(ex.frame.taint(), ex.scopes):
            return f"{info.effect.value} {info.label!r} behind an effect that is not made yet"
        if not has_room:
            return "max_in_flight pre-executions are running"
        if not self._session.concurrency.has_room():
            return "max_concurrency calls are under way"
        if info.effect is Effect.READ and (reason := self._ledger.may_read(ex, _line(ex, before))):
            return f"read {info.label!r} {reason}"
        if reason := self._session.valuation.refuses_call(ex):
            return reason
        if reason := self._vetoed(name, arguments, state):
            return f"{reason} {_described(ex)}"
        if not self._session.limits.admits(name):
            return f"rate limit of {name!r}"
        if (wait := self._session.wait) is not None and (reason := wait.refuses(ex, config)):
            return reason
        if info.effect.acts:
            # Before the ledger lets it start: from then on the run's threads may wait for it.
            self._session.actions.open(ex, name, copy_value(arguments), str(config[CONF].get("thread_id", "")))
            reason, fenced = self._ledger.act(ex, _line(ex, before))
            if reason:
                ex.action = None
                return f"{_described(ex)} {reason}"
            self._session.tree.pruning.drop(fenced, "an early action began")
        return ""

    def _vetoed(self, name: str, arguments: Any, state: Any) -> str:
        guard = self._session.policy.guard
        if guard is None:
            return ""
        try:
            return "" if guard(name, arguments, state) else "the guard refused"
        except Exception as error:
            self._session.report.errors.append(f"the guard raised {error!r} for {name!r}")
            return f"the guard raised {type(error).__name__} for"
