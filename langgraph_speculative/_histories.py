"""Private copies of long message histories, lent to one branch at a time and lent again when it is over.

Every fork needs the whole history to itself. Made anew each time, ten thousand copied messages cost more in the
garbage collector than in the copying. So a branch's copies come back when the branch is over, and are lent again if
they still are what they were (their snapshots say so) and no output of the branch holds on to one.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.types import Command, Send

from langgraph_speculative._ids import collect_ids, frozen_ids
from langgraph_speculative._values import IMMUTABLE, Memo, copy_value, freeze

SHORT = 32
"""Histories below this length are copied without ado."""


class Loan:
    """The copies of one history that a branch has: messages, and their snapshots when they were lent."""

    __slots__ = ("copies", "frozen")

    def __init__(self) -> None:
        self.copies: list[BaseMessage] = []
        self.frozen: list[Any] = []


class KnownIds:
    """The ids that existed before a fork; looked up only when two ids differ, so collected only then."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._frozen: list[list[Any]] = []

    def add(self, value: Any) -> None:
        collect_ids(value, self._ids)

    def add_frozen(self, frozen: list[Any]) -> None:
        self._frozen.append(frozen)

    def __contains__(self, value: object) -> bool:
        while self._frozen:
            for snapshot in self._frozen.pop():
                frozen_ids(snapshot, self._ids)
        return value in self._ids


class Histories:
    """The copies that are free in one run."""

    def __init__(self) -> None:
        self._free: list[Loan] = []

    def take(self, value: Any, memo: Memo, loans: list[Loan], known: KnownIds | None) -> Any:
        """A copy of a channel's value that shares nothing with it.

        Args:
            value: What the channel holds.
            memo: Gets the snapshots of the copied messages, by their `id()`.
            loans: Gets what is to be given back.
            known: Gets the ids in the value.

        Raises:
            Opaque: Some part cannot be copied.
        """
        if type(value) is not list or len(value) < SHORT or not isinstance(value[0], BaseMessage):
            if known is not None:
                known.add(value)
            return copy_value(value)
        loan = self._free.pop() if self._free else Loan()
        copies, frozen = loan.copies, loan.frozen
        for i, message in enumerate(value):
            if i >= len(copies):
                copies.append(copy_value(message))
                frozen.append(freeze(message))
            elif copies[i].__dict__ != message.__dict__ or type(copies[i]) is not type(message):
                copies[i], frozen[i] = copy_value(message), freeze(message)
        del copies[len(value) :], frozen[len(value) :]
        if known is not None:
            known.add_frozen(frozen.copy())
        memo.update(zip(map(id, copies), frozen, strict=True))
        loans.append(loan)
        return copies.copy()

    def take_input(self, value: Any, loans: list[Loan]) -> Any:
        """A copy of a node's input, as `take` copies each part of it."""
        if type(value) is dict:
            return {k: self.take(v, {}, loans, None) for k, v in value.items()}
        return self.take(value, {}, loans, None)

    def give_back(self, loan: Loan, outputs: list[Any]) -> None:
        """The borrower is done: its copies are free again, unless an output of it holds on to one.

        What the borrower changed shows when they are lent again: they no longer equal the run's messages. (Equality
        takes 1 for True; a snapshot does not, and the check at the claim compares snapshots.)
        """
        copies = set(map(id, loan.copies))
        if not any(_may_hold(output, copies) for output in outputs):
            self._free.append(loan)


def _may_hold(value: Any, copies: set[int]) -> bool:
    """Whether a value holds one of the copied messages, or cannot be looked into."""
    if isinstance(value, BaseMessage):
        return id(value) in copies
    if type(value) in IMMUTABLE:
        return False
    if isinstance(value, list | tuple):
        return any(_may_hold(v, copies) for v in value)
    if type(value) is dict:
        return any(_may_hold(v, copies) for v in value.values())
    if isinstance(value, Command):
        return _may_hold(value.update, copies) or _may_hold(value.goto, copies)
    if isinstance(value, Send):
        return _may_hold(value.arg, copies)
    return True
