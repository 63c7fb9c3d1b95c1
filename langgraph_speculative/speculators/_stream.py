from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig

from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.speculators._protocol import BaseSpeculator

if TYPE_CHECKING:
    from langgraph_speculative._nodes import NodeInfo


class Stream(BaseSpeculator):
    """Starts a tool call as soon as its arguments are complete in the Actor's own stream of tokens.

    It guesses nothing that the model has not written, so it needs no tokens and no call. It works while the model
    streams (which it never asks for), and starts what the following tool node may run early. Model nodes of prebuilt
    agents have it by default, beside any other Speculator; give it to a node of your own that calls a chat model.

    Args:
        output: What the node returns for a message of its model; ``None`` stands for ``{"messages": [message]}``.

    Raises:
        SpeculationError: `output` is not callable.
    """

    def __init__(self, output: Callable[[AIMessage], Any] | None = None) -> None:
        if output is not None and not callable(output):
            raise SpeculationError(
                f"Stream(output={output!r}): pass a function from the model's message to the output."
            )
        self.output_for: Callable[[AIMessage], Any] = output or _in_messages
        self._is_default = output is None

    def bind(self, node: NodeInfo) -> Stream:
        """Check that the node has an output of its own, of the kind that is proposed."""
        if node.kind != "leaf":
            raise SpeculationError(
                f"speculators[{node.label!r}]: Stream() is for a node that calls a chat model, and this is a "
                f"{'tool node' if node.kind == 'tools' else 'graph; name the model node inside it'}."
            )
        if self._is_default and "messages" not in node.channels:
            raise SpeculationError(
                f"speculators[{node.label!r}]: the state has no 'messages'; pass "
                "Stream(output=lambda message: ...) with what the node returns for a message of its model."
            )
        return self

    def guess(self, value: Any, config: RunnableConfig) -> None:
        """No guess: the input says nothing, the stream does."""


def _in_messages(message: AIMessage) -> Any:
    return {"messages": [message]}


class NamedStream(Stream):
    """For an agent with a name, which its messages bear."""

    def __init__(self, name: str) -> None:
        def output(message: AIMessage) -> Any:
            message.name = name
            return {"messages": [message]}

        super().__init__(output)
