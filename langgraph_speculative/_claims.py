"""Claims: the real run takes a pre-execution over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand

from langgraph_speculative import _compat
from langgraph_speculative._changes import Changes
from langgraph_speculative._early import Early
from langgraph_speculative._ids import Renaming
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative._values import EmbeddedId, Opaque
from langgraph_speculative.effects import Effect

if TYPE_CHECKING:
    from langgraph_speculative._session import Session

AGAIN = object()
"""Returned for a claim that came to nothing: the run executes the node or tool itself."""


class Claims:
    """Opens gates, waits for what still runs, and hands over outputs with the run's own ids."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = session.ledger.lock

    def _ready(self, early: Execution, renaming: Renaming, changes: Changes | None = None) -> Any:
        """The renamed output of a finished execution, or `AGAIN`.

        Args:
            changes: Those of its input, if it was claimed before it had ended: what it has emitted is out.
        """
        if early.spoiled or early.state in (State.FAILED, State.DISCARDED) or not early.has_output:
            return AGAIN
        if not self._may_land(early, renaming):
            return AGAIN
        if changes is None and not Early.is_unchanged(early):
            early.spoiled = "it changes its input"
            return AGAIN
        try:
            return renaming(early.output, embedded=changes is not None)
        except (EmbeddedId, Opaque):
            return AGAIN

    @staticmethod
    def _may_land(early: Execution, renaming: Renaming) -> bool:
        """Whether what it did to the store can be done there."""
        if early.gate is None or early.journal is None:
            return True
        if early.gate.spoiled or not early.journal.is_claimable(renaming.ids):
            early.spoiled = early.spoiled or early.gate.spoiled or "it changes what it read from the store or put there"
            return False
        return True

    def _claimed(self, early: Execution, output: Any) -> None:
        early.state = State.CLAIMED
        self._session.report.claimed += 1
        self._session.counters.stats(early.info).claimed += 1
        self._session.valuation.ended(early, taken=True)
        self._session.emit("claim", early.info, early.step, seconds=early.ended - early.started)

    def _wasted(self, early: Execution) -> None:
        if early.action is not None:
            early.action.kept = False
        self._session.wasted(early, "could not be taken over")
        if early.journal is not None:
            early.journal.drop()

    def _stale(self, early: Execution) -> Any:
        early.spoiled = "the store has changed since it was read"
        self._session.post(self._session.tree.pruning.cancel, early)
        self._wasted(early)
        return AGAIN

    @staticmethod
    def _renamer(renaming: Renaming) -> Callable[[Any], Any]:
        def renamed(value: Any) -> Any:
            try:
                # It is shown in any case: better with the run's id in a text than with the guessed one.
                return renaming(value, embedded=True)
            except (EmbeddedId, Opaque):
                return value

        return renamed

    def _verdict(
        self, early: Execution, renaming: Renaming, config: RunnableConfig, changes: Changes | None, final: Any
    ) -> tuple[Any, BaseException | None]:
        """What a claimed execution that has ended gives: its output or `AGAIN`, and its own error.

        Args:
            final: The output of one that is committed, whatever has become of it since; else `AGAIN`.
        """
        if final is not AGAIN:
            self._claimed(early, final)
            return final, None
        error: BaseException | None = early.error
        if isinstance(error, GraphInterrupt) and early.gate is not None:
            early_namespace, own_namespace = early.gate.namespace, _compat.namespace_of(config)
            error = _compat.own_interrupt(error, early_namespace, own_namespace)
        elif isinstance(error, GraphBubbleUp) and not isinstance(error, ParentCommand):
            error = None
        if error is not None:
            # The gate is open, so the error is the node's own.
            output = None if self._may_land(early, renaming) else AGAIN
        else:
            output = self._ready(early, renaming, changes)
        if output is AGAIN:
            self._wasted(early)
            return AGAIN, None
        if changes is not None and not Early.is_unchanged(early, whole=True):
            changes.carry_over(renaming)
        self._claimed(early, output)
        return output, error

    def _usable(self, early: Execution, renaming: Renaming, value: Any) -> tuple[bool, Changes | None]:
        """Whether the claim may open the gate now; executions that only lend their guesses may not.

        Returns:
            With it, for an execution that has not ended, the pairs of its input and the run's.
        """
        if early.state in (State.BLOCKED, State.OPEN):
            return False, None
        if early.action is not None and not early.action.hold("claim"):
            early.spoiled = early.spoiled or "it was being taken back"
            self._wasted(early)
            return False, None
        changes = None
        if early.bind(self._lock):
            changes = self._paired(early, value)
            usable = changes is not None
        else:
            usable = self._ready(early, renaming) is not AGAIN
        if not usable:
            self._wasted(early)
        return usable, changes

    @staticmethod
    def _is_staged(early: Execution) -> bool:
        return early.action is not None and early.action.declaration.effect is Effect.STAGED

    def _paired(self, early: Execution, value: Any) -> Changes | None:
        """The pairs of a running execution's input and the run's; ``None`` if it has changed its own already."""
        try:
            # The arguments of a tool are its own: it may do with them what it likes.
            changes = Changes(early.input, value) if isinstance(early.info, NodeInfo) else Changes(None, None)
            if Early.is_unchanged(early):
                return changes
        except (Opaque, RecursionError, RuntimeError):  # it changes it in this moment
            pass
        early.spoiled = "it changes its input"
        self._session.post(self._session.tree.pruning.cancel, early)
        return None

    # A claim has three parts. First what was read from the store is read again, and a staged action is committed, which
    # has to have ended for that. Then the gate opens and the rest of the execution is awaited. At last, now that it is
    # known to be usable, its writes land in the store, and an early action is the run's own. A claimant that is
    # cancelled in the first part drops the writes, and the action is taken back; in the second, what the code had done
    # until then stays, as in the plain run; in the third, it stops landing where it is.

    def take(self, early: Execution, renaming: Renaming, value: Any, config: RunnableConfig) -> Any:
        """Take a pre-execution over, waiting for the rest of it (threads)."""
        if early.action is None:
            return self._take(early, renaming, value, config)
        try:
            return self._take(early, renaming, value, config)
        finally:
            self._session.actions.left(early.action)

    async def atake(self, early: Execution, renaming: Renaming, value: Any, config: RunnableConfig) -> Any:
        """Take a pre-execution over, waiting for the rest of it (event loop)."""
        if early.action is None:
            return await self._atake(early, renaming, value, config)
        try:
            return await self._atake(early, renaming, value, config)
        finally:
            self._session.actions.left(early.action)

    def _take(self, early: Execution, renaming: Renaming, value: Any, config: RunnableConfig) -> Any:
        actions, action, staged = self._session.actions, early.action, self._is_staged(early)
        final = AGAIN
        try:
            if staged:
                self._wait(early)
            usable, changes = self._usable(early, renaming, value)
            if not usable:
                return AGAIN
            gate, journal = early.gate, early.journal
            if journal is not None and not journal.check(renaming.ids):
                return self._stale(early)
            if action is not None and staged:
                final = self._ready(early, renaming)
                if final is AGAIN or not actions.commit(action):
                    return self._refused(early)
            if action is not None:
                action.kept = True
            if gate is not None and not gate.open(config, self._renamer(renaming)) and not staged:
                self._wasted(early)
                return AGAIN
            self._wait(early)
        except BaseException:
            self._cut(early)
            if early.journal is not None and self._may_land(early, renaming):
                early.journal.land(renaming.ids)
            if action is not None and action.kept:
                actions.taken(action)
            raise
        output, error = self._verdict(early, renaming, config, changes, final)
        if output is not AGAIN and journal is not None:
            journal.land(renaming.ids)
        if output is not AGAIN and gate is not None:
            gate.hand_over()
        if output is not AGAIN and action is not None:
            actions.taken(action)
        if error is not None:
            raise error
        return output

    def _wait(self, early: Execution) -> None:
        over = threading.Event()
        early.when_over(self._lock, over.set)
        over.wait()

    async def _atake(self, early: Execution, renaming: Renaming, value: Any, config: RunnableConfig) -> Any:
        actions, action, staged = self._session.actions, early.action, self._is_staged(early)
        final = AGAIN
        try:
            if staged:
                await early.wait_over(self._lock)
            usable, changes = self._usable(early, renaming, value)
            if not usable:
                return AGAIN
            gate, journal = early.gate, early.journal
            if journal is not None and not await journal.acheck(renaming.ids):
                return self._stale(early)
            if action is not None and staged:
                final = self._ready(early, renaming)
                if final is AGAIN or not await actions.acommit(action):
                    return self._refused(early)
            if action is not None:
                action.kept = True
            if gate is not None and not await gate.aopen(config, self._renamer(renaming)) and not staged:
                self._wasted(early)
                return AGAIN
            if not early.has_output and early.error is None:
                await early.wait_over(self._lock)
        except BaseException:
            self._cut(early)
            if early.journal is not None and self._may_land(early, renaming):
                await early.journal.aland(renaming.ids)
            if action is not None and action.kept:
                await actions.ataken(action)
            raise
        output, error = self._verdict(early, renaming, config, changes, final)
        if output is not AGAIN and journal is not None:
            await journal.aland(renaming.ids)
        if output is not AGAIN and gate is not None:
            await gate.ahand_over()
        if output is not AGAIN and action is not None:
            await actions.ataken(action)
        if error is not None:
            raise error
        return output

    def _refused(self, early: Execution) -> Any:
        early.spoiled = early.spoiled or "its commit was refused"
        self._wasted(early)
        return AGAIN

    def _cut(self, early: Execution) -> None:
        """The claimant was cancelled, or its error is the node's: only it may cancel what it has claimed."""
        if early.action is None:
            self._session.post(self._session.tree.pruning.cancel, early)
        elif early.action.kept and early.task is not None:
            self._session.post(early.task.cancel)
