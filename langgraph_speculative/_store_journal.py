"""The journal in a LangGraph store."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any
from urllib.parse import quote

from langgraph.store.base import BaseStore, Item, SearchItem

from langgraph_speculative._entries import Entry, Phase, Stored, dump, encode, latest_first, load, lost
from langgraph_speculative._owner import LEASE, Leased, is_dead, this_process

_PAGE = 500


class StoreJournal(Leased):
    """A journal in a LangGraph store, for processes on several hosts. (One in memory is gone with its process.)

    Stores cannot compare and swap, so `take` asks around: it writes a claim, waits `settle` seconds, and wins if no
    living process has an earlier claim.

    * Guaranteed: exactly one wins, if every store call is over and seen by all within `settle` seconds, and no winner
      stops for the length of a lease between its last look and its write. `settle` must also exceed the resolution of
      the store's times (one second in `SqliteStore`).
    * A claim whose process is dead, or whose lease has ended, counts for nothing. If takers on several hosts disagree
      about one that has just died, none may win: the entry stays abandoned.
    * Not guaranteed: that nothing is ever taken back twice. A process that stops for a whole lease (suspended, cut off
      from the store) is taken for dead by other hosts, and may yet go on; so is a living one if the clocks of two hosts
      differ by two thirds of a lease. Handlers are idempotent for that reason.

    Args:
        store: Any. Its synchronous methods are called; nothing is indexed, and nothing expires. Shut the journal before
            closing it.
        namespace: Where to put it.
        lease: Seconds without a sign of life after which a process of another host is taken for dead.
        settle: Seconds that `take` waits.
        clock: Seconds of the wall clock.
        wait: Sleeps for some seconds.

    Raises:
        SpeculationError: A lease that is not positive.
    """

    def __init__(
        self,
        store: BaseStore,
        namespace: tuple[str, ...] = ("langgraph_speculative", "journal"),
        lease: float = LEASE,
        settle: float = 1.1,
        *,
        clock: Callable[[], float] = time.time,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._namespace = tuple(namespace)
        self._settle = settle
        self._wait = wait
        super().__init__(lease, clock)

    def __repr__(self) -> str:
        return f"StoreJournal({type(self._store).__name__}, {self._namespace!r})"

    def begin(self, entry: Entry) -> None:
        self._write(Stored(entry, entry.owner, self._clock()))
        if entry.owner == this_process():
            self._opened(entry.id)

    def advance(self, id: str, phase: Phase, *, result: Any = None, handle: Any = None) -> None:
        was_open = id in self._open
        found = self._read(id)
        if found is None or found.entry.owner != this_process():
            raise lost(id)
        news = {k: v for k, v in (("result", result), ("handle", handle)) if encode(v) != "null"}
        self._write(replace(found, entry=replace(found.entry, phase=phase, **news)))
        if was_open and id not in self._open:  # closed in between
            self._delete("entries", _label(id))

    def close(self, id: str) -> None:
        was_open = id in self._open
        self._closed(id)
        try:
            found = self._read(id)
            if found is not None and found.entry.owner == this_process():
                self._delete("entries", _label(id))
        except BaseException:
            if was_open:  # what is still there is not to be taken for abandoned
                self._opened(id)
            raise

    def abandoned(self, names: Collection[str]) -> list[Entry]:
        now = self._clock()
        for item in self._all("owners"):
            if now >= item.value["lease_ends"]:
                self._delete("owners", item.key)
        found = [(_unpack(item), item.value["lease_ends"]) for item in self._all("entries")]
        return latest_first(f for f, ends in found if f.entry.name in names and self._dead(f.entry.owner, ends))

    def take(self, entry: Entry) -> bool:
        if self._free(entry) is None:
            return False
        own, key, ends = this_process(), uuid.uuid4().hex, self._clock() + self._settle + self._lease
        where = ("takers", _label(entry.id))
        self._put(*where, key, {"owner": own, "lease_ends": ends})
        try:
            self._wait(self._settle)
            claims = []
            for item in self._all(*where):
                if item.key != key and is_dead(**item.value, now=self._clock(), one_host=False):
                    self._delete(*where, item.key)
                else:
                    claims.append((item.created_at, item.key))
            # In this order: a winner's claim is gone only after the entry is its own.
            if not claims or min(claims)[1] != key or (found := self._free(entry)) is None or self._clock() >= ends:
                return False
            taken = replace(found.entry, owner=own)
            self._write(replace(found, entry=taken))
            self._opened(entry.id)
            return True
        finally:
            self._delete(*where, key)

    def _free(self, entry: Entry) -> Stored | None:
        """The entry as it is now, if it is still as abandoned as it was."""
        item = self._get("entries", _label(entry.id))
        if item is None or (found := _unpack(item)).entry.owner != entry.owner:
            return None
        return found if self._dead(entry.owner, item.value["lease_ends"]) else None

    def _dead(self, owner: str, lease_ends: float) -> bool:
        # By its key: a search in pages may miss what is renewed meanwhile.
        renewed = self._get("owners", _key(owner))
        ends = max(lease_ends, renewed.value["lease_ends"]) if renewed else lease_ends
        return is_dead(owner, ends, self._clock(), one_host=False)

    def _renew(self, owner: str, until: float) -> None:
        self._put("owners", _key(owner), {"lease_ends": until})

    def _read(self, id: str) -> Stored | None:
        item = self._get("entries", _label(id))
        return _unpack(item) if item else None

    def _write(self, stored: Stored) -> None:
        # As text, which all stores give back as it was.
        value = {"entry": encode(dump(stored)), "lease_ends": self._clock() + self._lease}
        self._put("entries", _label(stored.entry.id), value)

    def _get(self, *where: str) -> Item | None:
        return self._store.get((*self._namespace, *where[:-1]), where[-1], refresh_ttl=False)

    def _put(self, *where: Any) -> None:
        *under, key, value = where
        # Not indexed, and without the time to live that the store may have for all.
        self._store.put((*self._namespace, *under), key, value, index=False, ttl=None)

    def _delete(self, *where: str) -> None:
        self._store.delete((*self._namespace, *where[:-1]), where[-1])

    def _all(self, *under: str) -> list[SearchItem]:
        namespace, found, offset = (*self._namespace, *under), dict[tuple[Any, str], SearchItem](), 0
        while page := self._page(namespace, offset):
            known = len(found)
            found.update({(item.namespace, item.key): item for item in page})
            if len(found) == known:
                break
            offset += len(page) - len(page) // 10  # what is deleted meanwhile moves up the rest
        # Some stores also find the namespaces that begin with the same characters.
        return [item for item in found.values() if item.namespace == namespace]

    def _page(self, namespace: tuple[str, ...], offset: int, attempts: int = 10) -> list[SearchItem]:
        try:
            return self._store.search(namespace, limit=_PAGE, offset=offset, refresh_ttl=False)
        except RuntimeError:  # an InMemoryStore whose items another thread changes
            if not attempts:
                raise
            return self._page(namespace, offset, attempts - 1)


def _unpack(item: Item) -> Stored:
    return load(json.loads(item.value["entry"]))


def _label(id: str) -> str:
    """An id as a key and as a part of a namespace, which has no period."""
    return quote(id, safe="").replace(".", "%2E")


def _key(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()
