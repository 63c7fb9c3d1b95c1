"""Forks: the checkpoint of the superstep after a running one, as if its tasks had returned what is guessed.

Not through ``update_state``: the node's own writers run on the guess, and LangGraph's own `apply_writes` applies the
writes of all tasks of the step, so triggers, joins, reducers and routers do what they would do in the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph_speculative import _compat
from langgraph_speculative._branch import Choice, Frame
from langgraph_speculative._histories import Histories, KnownIds
from langgraph_speculative._ledger import Execution
from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative._values import copy_value
from langgraph_speculative._view import Barrier
from langgraph_speculative._workers import Workers
from langgraph_speculative.effects import Effect

if TYPE_CHECKING:
    from langgraph_speculative._session import Session


class Forks:
    """Makes the forks of one run."""

    def __init__(self, session: Session, workers: Workers, histories: Histories) -> None:
        self._session = session
        self._workers = workers
        self._histories = histories

    async def make(self, frame: Frame, choice: Choice, child: Frame) -> _compat.Snapshot | None:
        """The checkpoint after `frame` under a choice of its outputs; ``None`` if the run has moved on meanwhile.

        Raises:
            Barrier: A router may not run early.
            Opaque: The state cannot be copied.
            Exception: The outputs do not fit the state, or the graph's own code raised on them.
        """
        source = self._source(frame)
        if source is None:
            return None
        child.known = frame.known
        self._session.report.forks += 1
        self._session.emit("fork", step=child.step)
        if frame.pending is not None:  # an answer writes nothing: the node that has asked goes on with it
            source.step += 1
            return source
        writes = [_compat.made_writes(t) for t in frame.fixed]
        for ex, proposal, task in zip(frame.executions, choice, frame.tasks, strict=True):
            output = copy_value(ex.output if proposal is None else proposal.output)
            writes.append(await self._write(ex, task, output, source.channels))
        if frame.is_real and frame.over:
            return None
        return _compat.advance(frame.loop, source, writes)

    def _source(self, frame: Frame) -> _compat.Snapshot | None:
        """Copied channels of a superstep, or ``None`` if the run moved on meanwhile (it may run in other threads)."""
        loop = frame.loop
        if (held := frame.snapshot) is not None:
            return self._copied(held.channels, held.checkpoint, frame.step, None)
        if loop.step != frame.step:
            return None
        checkpoint = loop.checkpoint
        known = KnownIds() if frame.known is None else None
        try:
            copied = self._copied(loop.channels, _compat.ranked(checkpoint), frame.step, known)
        except RuntimeError:  # something changed size while it was copied
            return None
        if loop.step != frame.step or frame.over or loop.checkpoint is not checkpoint:
            return None
        if all(ex.has_output for ex in frame.executions):
            return None  # the run itself applies the step's writes now
        if known is not None:
            frame.known = known
        return copied

    def _copied(self, channels: Any, checkpoint: Any, step: int, known: KnownIds | None) -> _compat.Snapshot:
        snapshot = _compat.Snapshot({}, checkpoint, step, None)
        take = self._histories.take
        snapshot.channels = _compat.copy_channels(
            channels, lambda value: take(value, snapshot.memo, snapshot.loans, known)
        )
        return snapshot

    async def _write(self, ex: Execution, task: Any, output: Any, channels: Any) -> Any:
        """The writes of a task for an output: its own writers, in their order."""
        writes, config = _compat.open_writes(task, ex.config, channels)
        info = ex.info
        routers = iter(info.routers if isinstance(info, NodeInfo) else ())
        for writer in task.writers:
            if not _compat.is_router(writer):
                writer.invoke(output, config)
                continue
            router = next(routers, None)
            if router is None or not router.effect.may_run_early:
                name = router.name if router else "an unknown router"
                effect = router.effect.value if router else Effect.UNDECLARED.value
                self._session.stop(f"{effect} router {name!r} of {info.label!r}", info, ex.step)
                raise Barrier
            quiet = _compat.without_callbacks(config, sync=router.how != "await")
            if router.how == "thread":
                await self._workers.in_pool(writer.invoke, output, quiet)
            elif router.how == "await":
                await writer.ainvoke(output, quiet)
            else:
                writer.invoke(output, quiet)
        return writes
