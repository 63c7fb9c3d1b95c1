"""Fences: a real call against what was done early in the same part of the world, or has taken the room it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langgraph_speculative._ledger import Execution
from langgraph_speculative._nodes import LeafInfo, NodeInfo
from langgraph_speculative.effects import Effect, Scopes

if TYPE_CHECKING:
    from langgraph_speculative._session import Session


class Fence:
    """One real execution of a node or tool. Of a pure one, or of a node whose leaves have fences, it is nothing.

    While it claims, no early action of its scope may start. When it executes, the early reads that it would make void
    are discarded, at its begin and at its end, and the open actions in its way have to be settled. Where the run's
    ``max_concurrency`` bounds calls, it counts from its begin to its end.
    """

    def __init__(self, session: Session, info: LeafInfo, arguments: Any) -> None:
        self._session = session
        self._info = info
        self._ledger = session.ledger
        is_leaf = not isinstance(info, NodeInfo) or info.kind == "leaf"
        self._is_one = is_leaf and info.effect is not Effect.PURE
        self._acts = info.effect.acts
        self._scopes: Scopes = info.scopes(arguments) if self._is_one else frozenset()
        self._noted: bool | None = None
        self._room = session.concurrency if is_leaf and session.concurrency.limit is not None else None
        if self._room is not None:
            self._room.enters()

    def claims(self) -> None:
        """A pre-execution may be about to be taken over: before the claim, or an action could start beside it."""
        if self._is_one and self._ledger.has(self._info):
            self._ledger.begins(self._scopes, False)
            self._noted = False

    def executes(self) -> list[Execution]:
        """The code is about to be run; the open actions in its way."""
        if self._room is not None:
            self._room.executes()
        if not self._is_one:
            return []
        self._lift()
        fenced, way = self._ledger.begins(self._scopes, self._acts)
        self._noted = self._acts
        self._drop(fenced, "a real effect began")
        return way

    def ends(self) -> None:
        """The execution is over, in whatever way."""
        self._lift()
        if self._room is not None:
            self._room.leaves()

    def _lift(self) -> None:
        if self._noted is not None:
            self._drop(self._ledger.ends(self._scopes, self._noted), "a real effect was made")
            self._noted = None

    def _drop(self, fenced: list[Execution], reason: str) -> None:
        if fenced and not self._session.closed:
            self._session.post(self._session.tree.pruning.drop, fenced, reason)
