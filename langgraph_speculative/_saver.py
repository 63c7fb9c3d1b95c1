"""The checkpointer of graphs that a pre-execution runs inside itself: it keeps what they save until the claim.

Such a graph saves under the namespace of its caller's task, which only a claimant has. So what it saves is kept in
memory, and handed to the run's checkpointer, in the claimant's namespace, when the run takes the result over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_speculative import _compat

if TYPE_CHECKING:
    from langgraph_speculative._claimant import Claimant
    from langgraph_speculative._gate import Gate


class GateSaver(InMemorySaver):
    """The run's checkpointer, as the code of a pre-execution sees it.

    It starts empty. A graph that goes on from what the thread has saved before ends the pre-execution, unless the run
    has claimed it by then: nobody else changes that any more.
    """

    def __init__(self, saver: BaseCheckpointSaver[Any], gate: Gate) -> None:
        super().__init__(serde=saver.serde)
        self._saver = saver
        self._gate = gate
        self._puts: list[tuple[Any, ...]] = []
        gate.savers.append(self)

    def get_next_version(self, current: Any, channel: None) -> Any:
        return self._saver.get_next_version(current, channel)

    def _from_thread(self, saved: Any) -> Any:
        if saved is not None:
            self._gate.claimant("it runs a graph that goes on from its checkpoints")
        return saved

    def get_tuple(self, config: Any) -> Any:
        if (own := super().get_tuple(config)) is not None:
            return own
        return self._from_thread(self._saver.get_tuple(config))

    async def aget_tuple(self, config: Any) -> Any:
        if (own := super().get_tuple(config)) is not None:
            return own
        return self._from_thread(await self._saver.aget_tuple(config))

    # The asynchronous ones call these.

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        self._puts.append(("put", config, checkpoint, metadata, new_versions))
        return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
        self._puts.append(("put_writes", config, writes, task_id, task_path))
        super().put_writes(config, writes, task_id, task_path)

    def _as_of(self, target: Claimant) -> list[tuple[str, tuple[Any, ...]]]:
        out = []
        for what, config, *rest in self._puts:
            if what == "put":
                rest[1] = target.everywhere(rest[1])  # the metadata names the checkpoints above
            out.append((what, (_compat.in_namespace(config, target.in_namespace), *rest)))
        return out

    def hand_over(self, target: Claimant) -> None:
        """Save in the run's checkpointer what was kept (threads)."""
        for what, args in self._as_of(target):
            getattr(self._saver, what)(*args)

    async def ahand_over(self, target: Claimant) -> None:
        """`hand_over` on an event loop."""
        for what, args in self._as_of(target):
            await getattr(self._saver, f"a{what}")(*args)
