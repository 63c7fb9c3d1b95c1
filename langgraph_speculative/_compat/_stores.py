"""LangGraph's own store in memory."""

from __future__ import annotations

from typing import Any

from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore


def is_plain_memory(store: BaseStore) -> bool:
    """Whether the store is LangGraph's own in memory, whose order of items is known."""
    kind = type(store)
    return (
        isinstance(store, InMemoryStore) and kind.batch is InMemoryStore.batch and kind.abatch is InMemoryStore.abatch
    )


def lacks_namespace(store: BaseStore, namespace: tuple[str, ...]) -> bool:
    """Whether a `get` there would add the namespace to a store in memory, which then lists it."""
    return is_plain_memory(store) and namespace not in store._data  # type: ignore[attr-defined]


def copied_memory(store: Any) -> InMemoryStore:
    """A store that holds the same items, without an index."""
    new = InMemoryStore()
    new._data.update({namespace: dict(items) for namespace, items in list(store._data.items())})
    return new
