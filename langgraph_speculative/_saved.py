"""The time that a run has saved: per superstep, and of graphs that run beside each other only the longer one's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langgraph_speculative import _compat


@dataclass
class _Superstep:
    """When the last execution of a superstep ended, and when it would have without speculation."""

    namespace: str
    ended: float = 0.0
    alone: float = 0.0

    @property
    def saved(self) -> float:
        return max(0.0, self.alone - self.ended)


class SavedTime:
    """Seconds saved in one run. Not locked: its owner sees to that."""

    def __init__(self) -> None:
        self._supersteps: dict[tuple[int, int], _Superstep] = {}

    def add(self, loop: Any, step: int, ended: float, alone: float) -> None:
        """An execution of a superstep ended, and without speculation would have ended at `alone`."""
        key = (id(loop), step)
        superstep = self._supersteps.get(key)
        if superstep is None:
            superstep = self._supersteps[key] = _Superstep(_compat.namespace_of_loop(loop))
        superstep.ended, superstep.alone = max(superstep.ended, ended), max(superstep.alone, alone)

    def add_graphs(self, loop: Any, step: int, namespace: str, ended: float) -> None:
        """A task ended that may have run graphs: what these have saved, it has saved, and nobody else.

        Otherwise two graphs that run beside each other would count twice what the run has saved once.
        """
        inner = [
            key
            for key, superstep in self._supersteps.items()
            if superstep.namespace == namespace or superstep.namespace.startswith(f"{namespace}|")
        ]
        if saved := sum(self._supersteps.pop(key).saved for key in inner):
            self.add(loop, step, ended, ended + saved)

    @property
    def total(self) -> float:
        """Seconds saved in all supersteps."""
        return sum(superstep.saved for superstep in self._supersteps.values())
