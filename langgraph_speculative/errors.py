"""What the library raises and warns."""

from __future__ import annotations


class SpeculationError(ValueError):
    """Bad input to the library: the message names the node or tool, and the remedy."""


class SpeculationInactiveWarning(UserWarning):
    """Nothing that a guess could reach may run early, so no Speculator will be called."""


class UntestedLangGraphWarning(UserWarning):
    """The installed LangGraph lacks something that the engine relies on: graphs run plain."""


class CommitRefused(Exception):
    """Raised by the commit of a staged action that has left nothing behind: the run executes the call itself."""
