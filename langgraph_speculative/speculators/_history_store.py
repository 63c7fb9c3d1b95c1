"""Where shares are kept: any store of LangGraph's, one item for each process and tenant."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

from langgraph.store.base import BaseStore, GetOp, PutOp, SearchItem, SearchOp

from langgraph_speculative.speculators._history_shares import Share, merge

DELETED = "deleted"
MAX_SHARES = 16
"""Shares of a tenant. When there are more, those of processes that have been silent for `SILENT` become one."""
SILENT = 3600.0
LIMIT = 1000
COMMON = "common"
HELD_BY = 2
"""Tenants that must hold a pattern before another tenant gets it."""
COMMON_WEIGHT = 0.1

Ops = list[GetOp | SearchOp | PutOp | Any]


class Shelf:
    """The items of one tenant. It plans operations and reads their results; who has the store runs them.

    Namespaces are ``(*prefix, "tenants", tenant)``, and ``(*prefix, "common")`` for what tenants give each other.

    Args:
        expiry: Seconds after which a share that nobody has written again counts for nothing, and is deleted.
        common: Whether patterns are exchanged with other tenants.
    """

    def __init__(self, prefix: tuple[str, ...], tenant: str, expiry: float, common: bool) -> None:
        # A namespace's parts may hold no dots, and a tenant's name is nobody else's business.
        self.name = hashlib.sha256(tenant.encode()).hexdigest()[:32]
        self._namespace = (*prefix, "tenants", self.name)
        self._common = (*prefix, COMMON)
        self._expiry = expiry
        self._exchanges = common
        self._writer = uuid.uuid4().hex
        self._born = time.time()

    def reading(self) -> Ops:
        """What is to be read."""
        ops: Ops = [SearchOp(self._namespace, limit=LIMIT)]
        if self._exchanges:
            ops.append(SearchOp(self._common, limit=LIMIT))
        return ops

    def read(self, results: list[Any]) -> tuple[Share | None, bool, Ops]:
        """What others have learned, whether the tenant was deleted since this model began, and what to tidy up."""
        now = time.time()
        items: list[SearchItem] = list(results[0])
        deleted = max((i.value["at"] for i in items if i.key == DELETED), default=0.0)
        gone = deleted > self._born
        if gone:
            self._writer, self._born = uuid.uuid4().hex, now
        old = now - self._expiry
        folded = {key for i in items if i.key != DELETED for key in i.value.get("of", ())}
        dead = [i for i in items if i.value["at"] < old or (i.value.get("born", deleted) < deleted or i.key in folded)]
        tidy: Ops = [PutOp(self._namespace, i.key, None) for i in dead]
        stale = {i.key for i in dead} | {DELETED}
        live = [i for i in items if i.key not in stale and i.key != self._writer]
        tidy += self._fold(live, now)
        shares = [(_unpacked(i.value), 1.0) for i in live]
        if self._exchanges:
            if (common := self._of_others(results[1], old)) is not None:
                shares.append((common, COMMON_WEIGHT))
        return (merge(shares) if shares else None), gone, tidy

    def _fold(self, live: list[SearchItem], now: float) -> Ops:
        """Make one share of those whose processes are gone, when there are too many."""
        silent = [i for i in live if i.value["at"] < now - SILENT]
        if len(live) < MAX_SHARES or len(silent) < 2:
            return []
        keys = sorted(i.key for i in silent)
        # Named after what is in it: two processes that do this at the same time write the same item.
        name = "fold" + hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]
        value = {
            "at": max(i.value["at"] for i in silent),
            "born": min(i.value["born"] for i in silent),
            "of": keys,
            **_packed(merge((_unpacked(i.value), 1.0) for i in silent)),
        }
        return [PutOp(self._namespace, name, value)]

    def _of_others(self, items: Iterable[SearchItem], old: float) -> Share | None:
        by_tenant: dict[str, list[tuple[Share, float]]] = {}
        for item in items:
            if item.value["tenant"] != self.name and item.value["at"] >= old:
                by_tenant.setdefault(item.value["tenant"], []).append((_unpacked(item.value), 1.0))
        if len(by_tenant) < HELD_BY:
            return None
        return merge([(merge(shares), 1.0) for shares in by_tenant.values()], held_by=HELD_BY)

    def writing(self, share: Share, common: Share | None) -> Ops:
        """What is to be written: this process's share, and what of it other tenants may have."""
        value = {"at": time.time(), "born": self._born, **_packed(share)}
        ops: Ops = [PutOp(self._namespace, self._writer, value)]
        if common is not None:
            item = {"at": value["at"], "tenant": self.name, **_packed(common)}
            ops.append(PutOp(self._common, f"{self.name}-{self._writer}", item))
        return ops

    def deleting(self, results: list[Any]) -> Ops:
        """What deletes the tenant, given all items; other processes forget when they see the mark that stays."""
        ops: Ops = [PutOp(self._namespace, i.key, None) for i in results[0] if i.key != DELETED]
        ops.append(PutOp(self._namespace, DELETED, {"at": time.time()}))
        return ops + [PutOp(self._common, i.key, None) for i in results[1] if i.value["tenant"] == self.name]

    def all_items(self) -> Ops:
        """What `deleting` needs."""
        return [SearchOp(self._namespace, limit=LIMIT), SearchOp(self._common, limit=LIMIT)]


def _packed(share: Share) -> dict[str, Any]:
    # As text: a store that indexes fields has nothing to index in it, and none rewrites its lists.
    return {"share": json.dumps(share, separators=(",", ":"))}


def _unpacked(value: dict[str, Any]) -> Share:
    share: Share = json.loads(value["share"])
    return share


def run(store: BaseStore, ops: Ops) -> list[Any]:
    return store.batch(ops) if ops else []


async def arun(store: BaseStore, ops: Ops) -> list[Any]:
    return await store.abatch(ops) if ops else []
