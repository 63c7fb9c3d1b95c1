"""The store as a pre-execution sees it: an overlay of the run's own, whose writes are held until the claim.

States of a `Journal`, one for each pre-execution:

    HELD ---check()---> CLAIMED ---land()---> LANDED     what the code still does goes straight to the store
      |                    |
      +------drop()--------+----------------> DROPPED    what the code still does raises a `Barrier`

While HELD, reads see the store, the writes held by the pre-executions that the branch stands on, and its own; they are
recorded, and read again by `check`. While CLAIMED, the rest of a running execution sees the store and its own writes.
Those stay held until it has ended: until then it may turn out to be unusable, and the run then executes the node itself
on a store that must not have them. They land call by call, as the code made them: an order of items by time, or one
call that fails, is then as in the plain run.

Decided under the journal's lock, acted on outside of it. A journal locks itself or those that it stands on, never those
behind it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from langgraph.store.base import BaseStore, GetOp, Item, ListNamespacesOp, Op, PutOp, Result, SearchOp

from langgraph_speculative import _compat
from langgraph_speculative._items import (
    Call,
    Fresh,
    Read,
    copied,
    embeds,
    frozen,
    is_json,
    last_put,
    overlaps,
    place_of,
)
from langgraph_speculative._values import EmbeddedId, Opaque, copy_value
from langgraph_speculative._view import Barrier


class JournalState(Enum):
    HELD = auto()
    CLAIMED = auto()
    LANDED = auto()
    DROPPED = auto()


@dataclass(eq=False)
class _Plan:
    """How a call is answered: for each operation a result, or what the store is asked, or what is to be merged."""

    state: JournalState
    held: list[Call]
    position: int
    fresh: Fresh
    results: list[Result]
    ask: dict[int, Op] = field(default_factory=dict)
    merge: dict[int, Op] = field(default_factory=dict)


class Journal:
    """What one pre-execution has read from the store, and what it writes to it.

    Args:
        store: The run's own.
        behind: The journals of the pre-executions that the branch stands on, in their order.
        spoil: Called with the reason why the pre-execution cannot be claimed any more. Without it the journal is that
            of code outside of pre-executions, such as a router: its reads are not recorded, and it may not write.
    """

    def __init__(
        self, store: BaseStore, behind: Sequence[Journal] = (), spoil: Callable[[str], None] | None = None
    ) -> None:
        self.state = JournalState.HELD
        self._store = store
        self._behind = tuple(behind)
        self._spoil = spoil
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._reads: list[Read] = []
        self._landed = 0

    def __repr__(self) -> str:
        return f"<Journal {self.state.name} reads={len(self._reads)} writes={len(self._calls)}>"

    def next(self, before: Iterable[Journal], spoil: Callable[[str], None]) -> Journal:
        """The journal of a pre-execution that code with this one starts, behind `before`."""
        return Journal(self._store, (*self._behind, *before), spoil)

    def end(self, reason: str) -> Barrier:
        """The branch ends here, for this reason; the exception to raise."""
        if self._spoil is not None:
            self._spoil(reason)
        return Barrier()

    # --- operations -------------------------------------------------------------------------------------------------

    def _held(self) -> list[Call]:
        with self._lock:
            return list(self._calls) if self.state in (JournalState.HELD, JournalState.CLAIMED) else []

    def plan(self, ops: list[Op]) -> _Plan | None:
        """How to answer a call's reads; ``None`` if it goes straight to the store."""
        behind = self._behind
        held = [call for journal in behind for call in journal._held()]
        with self._lock:
            state, own = self.state, list(self._calls)
        if state is JournalState.LANDED:
            return None
        if state is JournalState.DROPPED:
            raise Barrier
        held = [*held, *own] if state is JournalState.HELD else own
        fresh = {place_of(op): call.when for call in held for op in call.puts}
        plan = _Plan(state, held, len(own), fresh, [None] * len(ops))
        for i, op in enumerate(ops):
            self._route(plan, i, op)
        return plan

    def _route(self, plan: _Plan, i: int, op: Op) -> None:
        if isinstance(op, PutOp):
            return
        if isinstance(op, GetOp):
            if (put := last_put(plan.held, place_of(op))) is not None:
                plan.results[i] = self._item(put, plan.fresh[place_of(put)])
            elif plan.state is JournalState.CLAIMED or not _compat.lacks_namespace(self._store, op.namespace):
                plan.ask[i] = self._quiet(plan, op)
        elif not isinstance(op, SearchOp | ListNamespacesOp):
            raise self.end(f"it does {type(op).__name__} with the store")
        elif not any(overlaps(op, call) for call in plan.held):
            plan.ask[i] = self._quiet(plan, op)
        elif _compat.is_plain_memory(self._store) and not (getattr(op, "query", None) and embeds(self._store)):
            plan.merge[i] = op
        else:
            # In which order the store would list them, or how near to a query, only the store knows.
            raise self.end("it lists items of the store among which are some that are not written yet")

    @staticmethod
    def _quiet(plan: _Plan, op: Any) -> Op:
        """A read without its effect on the items' time to live, which the read at the claim has."""
        if plan.state is JournalState.HELD and getattr(op, "refresh_ttl", False):
            quiet: Op = op._replace(refresh_ttl=False)
            return quiet
        return op  # type: ignore[no-any-return]

    def _item(self, put: PutOp, when: datetime) -> Item | None:
        if put.value is None:
            return None
        value = dict(put.value)
        if not _compat.is_plain_memory(self._store) and not is_json(value):
            raise self.end("it reads from the store what may look different once it is written")
        return Item(value=value, key=put.key, namespace=put.namespace, created_at=when, updated_at=when)

    def finish(self, ops: list[Op], plan: _Plan, answers: Sequence[Result], *, sync: bool) -> list[Result] | None:
        """Record a call with what the store answered; its results, or ``None`` to plan it again."""
        for i, answer in zip(plan.ask, answers, strict=True):
            plan.results[i] = answer
        for i, op in plan.merge.items():
            plan.results[i] = self._merged(op, plan.held)
        reads: list[Read] = []
        try:
            for i, op in enumerate(ops):
                if not isinstance(op, PutOp):
                    # A store may keep the very objects it hands out.
                    plan.results[i] = result = copied(plan.results[i], plan.fresh)
                    reads.append(Read(op, plan.position, plan.fresh, result, frozen(result, plan.fresh)))
            call = self._call(ops, sync)
        except Opaque as error:
            raise self.end(f"the store holds what cannot be copied: {error}") from None
        if call is not None and self._spoil is None:
            raise Barrier
        with self._lock:
            if self.state is not plan.state:
                return None
            if self._spoil is not None:
                self._reads.extend(reads)
            if call is not None:
                self._calls.append(call)
        return plan.results

    def _call(self, ops: list[Op], sync: bool) -> Call | None:
        """What a call changes, if anything."""
        memory = self._spoil is not None and _compat.is_plain_memory(self._store)
        kept: list[Op] = []
        given: list[Op] = []
        for op in ops:
            if isinstance(op, PutOp):
                value = None if op.value is None else dict(op.value)
                given.append(op._replace(value=value))
                kept.append(op._replace(value=copy_value(value)))
            elif memory and isinstance(op, GetOp) and _compat.lacks_namespace(self._store, op.namespace):
                kept.append(op)
                given.append(op)
                if any(isinstance(other, ListNamespacesOp) for other in ops):
                    raise self.end("it lists namespaces together with a read that adds one")
        return Call(kept, given, sync, datetime.now(UTC)) if kept else None

    def _merged(self, op: Op, held: list[Call]) -> Result:
        """What a store in memory would answer with the writes made."""
        scratch = _compat.copied_memory(self._store)
        for call in held:
            scratch.batch(call.ops)
        return scratch.batch([op])[0]

    # --- the claim --------------------------------------------------------------------------------------------------

    def _claim(self, ids: dict[str, str]) -> list[Read] | None:
        """Let go of the branch; the reads that are to be made again, or ``None`` if some are wrong already."""
        with self._lock:
            self.state, self._behind = JournalState.CLAIMED, ()
            reads, calls = list(self._reads), list(self._calls)
        reads, calls = [r.renamed(ids) for r in reads], [c.renamed(ids) for c in calls]
        again = []
        for read in reads:
            own = calls[: read.position]
            if isinstance(read.op, GetOp):
                if last_put(own, place_of(read.op)) is not None:
                    continue
                if not _compat.lacks_namespace(self._store, read.op.namespace):
                    again.append(read)
                elif read.result is not None:
                    return None
            elif not any(overlaps(read.op, call) for call in own):  # type: ignore[arg-type]
                again.append(read)
            elif not read.is_same(self._merged(read.op, own)):
                return None
        return again

    def check(self, ids: dict[str, str]) -> bool:
        """Claim: whether all that was read would be read now (threads). If not, the journal is dropped.

        Args:
            ids: How the claimant names the ids that the pre-execution was given.
        """
        same = False
        try:
            reads = self._claim(ids)
            if reads is not None:
                same = _all_same(reads, self._store.batch([r.op for r in reads]) if reads else [])
        except Exception:
            pass  # the run executes the node itself, and meets the error if it is the node's
        finally:
            if not same:
                self.drop()
        return same

    async def acheck(self, ids: dict[str, str]) -> bool:
        """`check` on an event loop."""
        same = False
        try:
            reads = self._claim(ids)
            if reads is not None:
                same = _all_same(reads, await self._store.abatch([r.op for r in reads]) if reads else [])
        except Exception:
            pass
        finally:
            if not same:
                self.drop()
        return same

    def is_claimable(self, ids: dict[str, str]) -> bool:
        """Whether what was written can be landed, and the code has left alone what it read and what it wrote.

        A store in memory hands out and keeps the very objects, so that changing one changes the store.
        """
        with self._lock:
            reads, calls = list(self._reads), list(self._calls)
        last = {place_of(op): i for i, call in enumerate(calls) for op in call.puts}
        try:
            # What is written again after that is no longer the same object.
            if any(last.get(place, -1) < read.position for read in reads for place in read.changed()):
                return False
            for i, call in enumerate(calls):
                call.landing(ids)
                if any(last[place] == i for place in {place_of(op) for op in call.puts}.difference(call.kept())):
                    return False
        except (Opaque, EmbeddedId):
            return False
        return True

    # --- the writes -------------------------------------------------------------------------------------------------

    def _next(self) -> Call | None:
        """The next call to land; after the last one everything goes straight to the store."""
        with self._lock:
            if self.state is not JournalState.CLAIMED:
                return None
            if self._landed < len(self._calls):
                self._landed += 1
                return self._calls[self._landed - 1]
            self.state = JournalState.LANDED
            self._clear()
            return None

    def land(self, ids: dict[str, str]) -> None:
        """Make the held writes, in their order (threads). What one raises is the node's own error, and the last."""
        try:
            while (call := self._next()) is not None:
                self._store.batch(call.landing(ids))
        finally:
            self.drop()

    async def aland(self, ids: dict[str, str]) -> None:
        """`land` on an event loop."""
        try:
            while (call := self._next()) is not None:
                if call.sync:
                    # As the plain run would have made it: some stores refuse it on a loop's own thread.
                    await asyncio.to_thread(self._store.batch, call.landing(ids))
                else:
                    await self._store.abatch(call.landing(ids))
        finally:
            self.drop()

    def drop(self) -> None:
        """Forget what has not landed."""
        with self._lock:
            if self.state in (JournalState.HELD, JournalState.CLAIMED):
                self.state = JournalState.DROPPED
                self._clear()

    def _clear(self) -> None:
        self._behind, self._calls, self._reads = (), [], []


def _all_same(reads: list[Read], now: list[Result]) -> bool:
    return all(read.is_same(result) for read, result in zip(reads, now, strict=True))
