from __future__ import annotations

from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig

from langgraph_speculative import _compat
from langgraph_speculative.speculators._protocol import BaseSpeculator


class Draft(BaseSpeculator):
    """Guesses a node's output by running the same-named node of a draft graph, on a faster model.

    The draft's node sees the input, the user's configurable and the context; no store, checkpointer, stream or
    callback. A draft node that is or contains a tool is never made into a `Draft`.
    """

    is_free = False

    def __init__(self, node: Runnable[Any, Any]) -> None:
        self._node = node
        if _compat.is_sync_only(node):
            self.aguess = None  # type: ignore[method-assign,assignment]

    def guess(self, value: Any, config: RunnableConfig) -> Any:
        """One guess, in a thread."""
        return self._node.invoke(value, config)

    async def aguess(self, value: Any, config: RunnableConfig) -> Any:
        """One guess, on the event loop."""
        return await self._node.ainvoke(value, config)
