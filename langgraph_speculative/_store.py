"""The store as a branch sees it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from langgraph.store.base import BaseStore, Op, Result

from langgraph_speculative._journal import Journal, JournalState


class Overlay(BaseStore):
    """The store object that code in a branch is given; to all appearance the run's own."""

    def __init__(self, store: BaseStore, journal: Journal | None = None) -> None:
        self.base = store
        self.journal = journal or Journal(store)
        self.supports_ttl = store.supports_ttl
        self.ttl_config = store.ttl_config

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self.base)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("base", "journal") or not hasattr(self.base, name):
            raise AttributeError(name)
        if self.journal.state is JournalState.LANDED:
            return getattr(self.base, name)
        # What it would do there cannot be held.
        raise self.journal.end(f"it uses {name!r} of the store")

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        while (plan := self.journal.plan(ops)) is not None:
            answers = self.base.batch(list(plan.ask.values())) if plan.ask else []
            if (results := self.journal.finish(ops, plan, answers, sync=True)) is not None:
                return results
        return self.base.batch(ops)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        while (plan := self.journal.plan(ops)) is not None:
            answers = await self.base.abatch(list(plan.ask.values())) if plan.ask else []
            if (results := self.journal.finish(ops, plan, answers, sync=False)) is not None:
                return results
        return await self.base.abatch(ops)


def overlay_of(store: BaseStore | None, behind: Sequence[Journal] = ()) -> Overlay | None:
    """What the code of a branch is given, outside of its pre-executions, for the run's store."""
    return None if store is None else Overlay(store, Journal(store, behind))
