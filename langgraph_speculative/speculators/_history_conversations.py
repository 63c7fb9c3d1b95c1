"""The indexes of the conversations that are under way."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from langgraph_speculative.speculators._history_events import is_person, mark_of, unknown_message
from langgraph_speculative.speculators._history_index import Index

MAX_CONVERSATIONS = 64
MAX_VERSIONS = 3
"""Of one conversation: the run and its branches go on from it in different ways."""


class Conversations:
    """Indexes by how the conversation begins; the least recently used is forgotten. Not for several threads."""

    def __init__(self) -> None:
        self._begun: OrderedDict[Any, list[Index]] = OrderedDict()

    def index_of(self, tenant: str, messages: list[Any]) -> Index:
        """The index of these messages: one that has most of them already, brought up to date."""
        marks = [mark_of(m) for m in messages]
        key = (tenant, *marks[:2])
        versions = self._begun.setdefault(key, [])
        self._begun.move_to_end(key)
        while len(self._begun) > MAX_CONVERSATIONS:
            self._begun.popitem(last=False)
        best = max(versions, key=lambda v: v.common(marks), default=None)
        if best is None or (len(versions) < MAX_VERSIONS and best.loses(marks)):
            best = Index()
        else:
            versions.remove(best)
        versions.append(best)
        best.follow(messages, marks)
        return best

    def forget(self, tenant: str) -> None:
        """Forget a tenant's."""
        for key in [k for k in self._begun if k[0] == tenant]:
            del self._begun[key]


def without_words(messages: list[Any]) -> list[Any]:
    """The messages as they would be if the words of the last person's were not known."""
    for number in range(len(messages) - 1, -1, -1):
        if is_person(messages[number]):
            return [*messages[:number], unknown_message(), *messages[number + 1 :]]
    return messages
