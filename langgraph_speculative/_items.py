"""What stands in a store, what was read of it and what is to be written: copied, frozen, renamed and compared."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from langgraph.store.base import Item, ListNamespacesOp, Op, PutOp, Result, SearchOp

from langgraph_speculative._ids import rename
from langgraph_speculative._values import Opaque, copy_value, freeze

Place = tuple[tuple[str, ...], str]
"""Namespace and key of an item."""


Fresh = dict[Place, datetime]
"""Items that come from writes which have not landed, and when those were made."""


@dataclass(eq=False)
class Call:
    """What one call of the code changes. `given` are the same operations with the very values that it gave, no copies.

    In memory a `get` is among them, if its namespace is new: the store lists it from then on.
    """

    ops: list[Op]
    given: list[Op]
    sync: bool
    when: datetime

    @property
    def puts(self) -> list[PutOp]:
        return [op for op in self.ops if isinstance(op, PutOp)]

    def renamed(self, ids: dict[str, str]) -> Call:
        """The call as the claimant would have made it."""
        return Call([rename(op, ids) for op in self.ops], self.given, self.sync, self.when) if ids else self

    def landing(self, ids: dict[str, str]) -> list[Op]:
        """The operations as the claimant would have made them."""
        # A store in memory is to hold the objects that the node gave, which its output may hold too.
        return self.renamed(ids).ops if ids else self.given

    def kept(self) -> list[Place]:
        """The items whose values the code has left as they were when it gave them."""
        both = zip(self.ops, self.given, strict=True)
        return [place_of(a) for a, b in both if isinstance(a, PutOp) and freeze(a.value) == freeze(b.value)]  # type: ignore[union-attr]


@dataclass(eq=False)
class Read:
    """What the code read after `position` calls of its own that changed something."""

    op: Op
    position: int
    fresh: Fresh
    result: Result
    seen: Any

    def renamed(self, ids: dict[str, str]) -> Read:
        """The read as the claimant would have made it."""
        if not ids:
            return self
        fresh = {(rename(space, ids), ids.get(key, key)): when for (space, key), when in self.fresh.items()}
        result = copied(self.result, fresh, ids)
        return Read(rename(self.op, ids), self.position, fresh, result, frozen(result, fresh))

    def is_same(self, now: Result) -> bool:
        return bool(frozen(now, self.fresh) == self.seen)

    def changed(self) -> list[Place]:
        """The items that the code has changed in place since."""
        several = isinstance(self.result, list)
        items: Any = self.result if several else [self.result]
        seen = self.seen if several else [self.seen]
        return [place_of(i) for i in items if isinstance(i, Item) and frozen(i, self.fresh) not in seen]


def place_of(what: Any) -> Place:
    """Where an item stands, or an operation reads or writes one."""
    return tuple(what.namespace), what.key


def last_put(calls: Sequence[Call], place: Place) -> PutOp | None:
    return next((op for call in reversed(calls) for op in reversed(call.puts) if place_of(op) == place), None)


def overlaps(read: SearchOp | ListNamespacesOp, call: Call) -> bool:
    """Whether what a search or list finds may depend on the call."""
    if isinstance(read, ListNamespacesOp):
        return True
    prefix = tuple(read.namespace_prefix)
    return any(tuple(op.namespace)[: len(prefix)] == prefix for op in call.puts)


def embeds(store: Any) -> bool:
    return getattr(store, "embeddings", None) is not None


def is_json(value: Any) -> bool:
    """Whether a value comes back from a store that keeps JSON as it was."""
    try:
        return bool(freeze(json.loads(json.dumps(value))) == freeze(value))
    except (TypeError, ValueError, Opaque):
        return False


def copied(result: Result, fresh: Fresh, ids: dict[str, str] | None = None) -> Result:
    if isinstance(result, list):
        return [copied(r, fresh, ids) for r in result]  # type: ignore[arg-type, return-value]
    if not isinstance(result, Item):
        return result
    new = copy.copy(result)
    new.value = rename(result.value, ids) if ids else copy_value(result.value)
    if ids:
        new.namespace, new.key = rename((result.namespace, result.key), ids)
    if (when := fresh.get(place_of(new))) is not None:
        new.created_at = new.updated_at = when
    return new


def frozen(result: Any, fresh: Fresh) -> Any:
    """A type-exact snapshot of a result; the clock times of what was not in the store yet are left out."""
    if isinstance(result, list):
        return tuple([frozen(r, fresh) for r in result])
    if not isinstance(result, Item):
        return result
    times = () if place_of(result) in fresh else (result.created_at, result.updated_at)
    score = getattr(result, "score", None)
    return (type(result), result.namespace, result.key, freeze(result.value), times, score)
