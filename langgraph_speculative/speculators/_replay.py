from __future__ import annotations

import base64
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.store.base import BaseStore

from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative._values import Opaque, fingerprint, freeze
from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.speculators._content import committed, keyed, outcome_of, renewed
from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess

now: Callable[[], float] = time.time
"""Seconds since the epoch: entries in a store are read by other processes."""


@dataclass
class _Output:
    """One output that an input has led to: the ids of that input, how often, and when last."""

    output: Any
    ids: list[str]
    count: int
    at: float


class _Place(Protocol):
    """Where the outputs of inputs are kept, the latest first; `lock` is held from a `get` to its `put`."""

    @property
    def lock(self) -> AbstractContextManager[Any]: ...

    def may_have(self, value: Any) -> bool: ...

    def get(self, tenant: str, key: str) -> list[_Output]: ...

    def put(self, tenant: str, key: str, outputs: list[_Output], value: Any) -> None: ...


class Replay(BaseSpeculator):
    """Guesses that the same input gives the same output as the last time.

    Inputs are the same if they are equal in type and content, as for a claim, ids aside. Ids in the output become those
    of the new input, or new ones. Of an input that was met n times, an output that it gave c times has the confidence
    ``c / (n + 1)``; the latest gets ``r / (n + 1)`` more, where r is the share of the repeated inputs so far that gave
    their latest output again, (same + 1) / (met + 2).

    Args:
        max_age: Seconds after which an output is forgotten; ``None`` keeps it.
        outputs: Different outputs kept, and guessed, for each input.
        size: Inputs kept for each node; in a store also for each tenant. In memory, the one that was not met for
            longest gives way; in a store each input has one place, and takes it from any other.
        store: A LangGraph store to keep them in, so that all processes share them; else they are kept in memory. What
            the serialiser of LangGraph's checkpoints does not give back as it was is not kept there.
        tenant: Whose runs these are, from the config; nothing is replayed to another's. Default: the configurable's
            ``langgraph_auth_user_id``, else its ``user_id``; runs with neither share.
        namespace: Where in the store.

    Raises:
        SpeculationError: A number that is not positive.
    """

    def __init__(
        self,
        *,
        max_age: float | None = None,
        outputs: int = 1,
        size: int = 1000,
        store: BaseStore | None = None,
        tenant: Callable[[RunnableConfig], str] | None = None,
        namespace: tuple[str, ...] = ("langgraph_speculative", "replay"),
    ) -> None:
        for name, number in (("max_age", max_age), ("outputs", outputs), ("size", size)):
            if number is not None and (isinstance(number, bool) or not number > 0):
                raise SpeculationError(f"Replay({name}={number!r}): must be positive.")
        self._options: dict[str, Any] = {
            **{"max_age": max_age, "outputs": outputs, "size": size},
            **{"store": store, "tenant": tenant, "namespace": namespace},
        }
        self._max_age = max_age
        self._outputs = outputs
        self._tenant = tenant or _user_of
        self._lock = threading.Lock()
        self._met = self._same = 0
        self._place: _Place = _Memory(size) if store is None else _Shelf(store, namespace, size)

    def bind(self, node: NodeInfo) -> Replay:
        """A `Replay` that remembers this node alone."""
        bound = Replay(**self._options)
        if isinstance(bound._place, _Shelf):
            bound._place.namespace += (_escaped(node.label),)
        return bound

    def guess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """The outputs of this input, the likeliest first."""
        try:
            # A node that sees the whole conversation is given nothing twice: do not walk it to find that out.
            if not self._place.may_have(value):
                return None
            key, ids = keyed(value)
        except Opaque:
            return None
        with self._place.lock:
            known = self._fresh(self._tenant(config), key)
        with self._lock:
            rate = (self._same + 1) / (self._met + 2)
        times = sum(o.count for o in known) + 1
        guesses = [
            Guess(renewed(o.output, o.ids, ids), (o.count + (rate if number == 0 else 0)) / times, "replay")
            for number, o in enumerate(known)
        ]
        return sorted(guesses, key=lambda g: -g.confidence) or None

    def learn(self, value: Any, output: Any, config: RunnableConfig) -> None:
        """Remember what the input has led to."""
        output = committed(output)
        try:
            (key, ids), outcome = keyed(value), outcome_of(output)
        except Opaque:
            return
        tenant = self._tenant(config)
        with self._place.lock:
            known = self._fresh(tenant, key)
            before = next((o for o in known if outcome_of(o.output) == outcome), None)
            latest = _Output(output, ids, 1 if before is None else before.count + 1, now())
            kept = [latest, *(o for o in known if o is not before)]
            self._place.put(tenant, key, kept[: self._outputs], value)
        if known:
            with self._lock:
                self._met += 1
                self._same += before is known[0]

    def _fresh(self, tenant: str, key: str) -> list[_Output]:
        age = self._max_age
        return [o for o in self._place.get(tenant, key) if age is None or now() - o.at <= age]


def _user_of(config: RunnableConfig) -> str:
    own = config.get("configurable") or {}
    return str(own.get("langgraph_auth_user_id") or own.get("user_id") or "")


class _Memory:
    def __init__(self, size: int) -> None:
        self.lock = threading.Lock()
        self._size = size
        self._kept: OrderedDict[tuple[str, str], list[_Output]] = OrderedDict()
        self._prints: dict[tuple[str, str], Any] = {}
        self._count: Counter[Any] = Counter()

    def may_have(self, value: Any) -> bool:
        return fingerprint(value) in self._count

    def get(self, tenant: str, key: str) -> list[_Output]:
        if (tenant, key) not in self._kept:
            return []
        self._kept.move_to_end((tenant, key))
        return self._kept[tenant, key]

    def put(self, tenant: str, key: str, outputs: list[_Output], value: Any) -> None:
        if (tenant, key) not in self._kept:
            self._prints[tenant, key] = own = fingerprint(value)
            self._count[own] += 1
        self._kept[tenant, key] = outputs
        self._kept.move_to_end((tenant, key))
        if len(self._kept) > self._size:
            gone, _ = self._kept.popitem(last=False)
            own = self._prints.pop(gone)
            self._count[own] -= 1
            if not self._count[own]:
                del self._count[own]


class _Shelf:
    """A store: an input's place follows from its key, so that the bound needs no index that processes would share."""

    def __init__(self, store: BaseStore, namespace: tuple[str, ...], size: int) -> None:
        # Other processes write there, too: one that comes between costs a count.
        self.lock = nullcontext()
        self.namespace = namespace
        self._store = store
        self._size = size
        self._serde = JsonPlusSerializer()

    def may_have(self, value: Any) -> bool:
        return True

    def _where(self, tenant: str, key: str) -> tuple[tuple[str, ...], str]:
        return (*self.namespace, f"tenant:{_escaped(tenant)}"), str(int(key, 16) % self._size)

    def get(self, tenant: str, key: str) -> list[_Output]:
        item = self._store.get(*self._where(tenant, key))
        if item is None or item.value.get("key") != key:
            return []
        return [
            _Output(self._serde.loads_typed((o["type"], base64.b64decode(o["output"]))), o["ids"], o["count"], o["at"])
            for o in item.value["outputs"]
        ]

    def put(self, tenant: str, key: str, outputs: list[_Output], value: Any) -> None:
        packed = []
        for o in outputs:
            kind, data = self._serde.dumps_typed(o.output)
            if freeze(self._serde.loads_typed((kind, data))) != freeze(o.output):
                return
            text = base64.b64encode(data).decode()
            packed.append({"type": kind, "output": text, "ids": o.ids, "count": o.count, "at": o.at})
        self._store.put(*self._where(tenant, key), {"key": key, "outputs": packed}, index=False)


def _escaped(name: str) -> str:
    # A part of a namespace may not contain a dot.
    return name.replace("%", "%25").replace(".", "%2E")
