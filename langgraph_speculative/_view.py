"""What a running task's config tells our code about where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langgraph.errors import GraphBubbleUp

if TYPE_CHECKING:
    from langgraph_speculative._branch import Frame
    from langgraph_speculative._ledger import Execution
    from langgraph_speculative._session import Session

# In `configurable`, where nested graphs inherit it. LangGraph strips keys with its own prefix from what it shows.
KEY = "__pregel_speculation"


@dataclass(frozen=True, slots=True)
class View:
    """In the real run `frame` is ``None``; in a branch it is the branch's step and `execution` the node's."""

    session: Session | None
    frame: Frame | None = None
    execution: Execution | None = None


INSIDE = View(None)
"""Inside a pre-execution: everything runs plain, and no further session opens."""


class Barrier(GraphBubbleUp):
    """Ends a branch at what may not run early. LangGraph lets it pass through nodes and tool nodes."""
