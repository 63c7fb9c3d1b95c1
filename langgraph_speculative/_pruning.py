"""Pruning: ends branches, and discards pre-executions that can no longer be claimed.

Everything here runs where the tree does, on the session's loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from langgraph_speculative._branch import Frame, FrameState, Verdict
from langgraph_speculative._histories import Histories
from langgraph_speculative._ledger import Execution, State

if TYPE_CHECKING:
    from langgraph_speculative._session import Session


class Pruning:
    """Ends the branches of one run."""

    def __init__(self, session: Session, histories: Histories) -> None:
        self._session = session
        self._ledger = session.ledger
        self._histories = histories

    def prune(self, root: Frame) -> None:
        """End all branches below a superstep of the run, which is over."""
        root.over = True
        branches = [*root.children.values(), *(root.twin.children.values() if root.twin else ())]
        for branch in (*branches, *([root.ahead] if root.ahead else ())):
            self.kill(branch)

    def kill(self, frame: Frame) -> None:
        """End a branch and all below it. What it has launched stays claimable until the run has passed it."""
        if frame.state is FrameState.DEAD:
            return
        frame.state = FrameState.DEAD
        for child in frame.children.values():
            self.kill(child)
        if frame.lent is not None:
            outer, proposal = frame.lent
            if proposal.verdict is Verdict.OPEN and not outer.has_output:
                proposal.verdict = Verdict.WRONG
                for holder in outer.frames:
                    for child in holder.refuted_children():
                        self.kill(child)
        for ex in frame.executions:
            if frame in ex.frames:
                ex.frames.remove(frame)
            if not ex.frames:
                if ex.shadow is not None:
                    ex.shadow.cancel()
                if ex.control is not None:
                    ex.control.cancel()
        frame.parent = None
        self.release(frame)

    def release(self, frame: Frame) -> None:
        """Get a superstep's copied histories back, once nothing of it can still look at them or give them away."""
        snapshot = frame.snapshot
        if snapshot is None or not snapshot.loans:
            return
        for ex in frame.executions:
            if any(leaf.is_busy for leaf in (ex, *ex.leaves)) or ex.state in (State.RUNNING, State.FINISHED):
                return
            if ex.frames and ex.frame is frame:
                return
        outputs = [leaf.output for ex in frame.executions for leaf in (ex, *ex.leaves)]
        for loan in snapshot.loans:
            self._histories.give_back(loan, outputs)
        snapshot.loans.clear()

    def drop(self, executions: Iterable[Execution], reason: str) -> None:
        """Discard pre-executions that can no longer be claimed."""
        for ex in executions:
            if ex.state in (State.RUNNING, State.FINISHED, State.FAILED):
                self._session.wasted(ex, reason)
            if ex.state is not State.CLAIMED:
                ex.state = State.DISCARDED
            self.cancel(ex)
            if ex.action is not None:
                self._session.actions.roll_back([ex])
            if ex.journal is not None:
                ex.journal.drop()
            if ex.frame is not None and ex.frame.state is FrameState.DEAD:
                if ex.task is not None and not ex.task.done():
                    ex.when_over(self._ledger.lock, partial(self._release_later, ex.frame))
                else:
                    self.release(ex.frame)

    def _release_later(self, frame: Frame) -> None:
        # The task that is over has still to return.
        self._session.loop.call_soon(self.release, frame)

    @staticmethod
    def cancel(ex: Execution) -> None:
        """Stop the tasks of a pre-execution."""
        # An action that is cut off may still act: it comes to its end, and is taken back then.
        for task in (None if ex.action is not None else ex.task, ex.control, ex.shadow):
            if task is not None:
                task.cancel()
