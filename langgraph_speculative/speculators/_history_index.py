"""A conversation, indexed: where each value has been seen, in order, so that a step costs what it adds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langgraph_speculative.speculators._history_events import Event, read
from langgraph_speculative.speculators._history_text import (
    Beside,
    Words,
    dates_in,
    is_scalar,
    leaves_of,
    normal,
    numbers_of,
    tokens_of,
    words_of,
    year_in,
)

MAX_TEXT = 60
MAX_SYMBOLS = 40
ASKED = 240
"""Characters at the end of what a model says: there it asks."""
NO_WORDS: Words = frozenset()


class Occurrence:
    """A value at one place.

    Attributes:
        source: What kind of place: a path in a tool's result, an argument of a call, a shape of token in a person's
            words.
        event: Number of the event.
        order: Running number in the conversation.
        beside: The texts next to it, for a value in a result.
        before: The word before it, for a token.
    """

    __slots__ = ("before", "beside", "event", "order", "source", "value")

    def __init__(
        self, source: str, event: int, order: int, value: Any, beside: Beside | None = None, before: str = ""
    ) -> None:
        self.source, self.event, self.order, self.value = source, event, order, value
        self.beside, self.before = beside, before


def call_key(name: str, args: dict[str, Any]) -> Any:
    """Equal for equal calls."""
    try:
        key = (name, frozenset([(k, type(v), v) for k, v in args.items()]))
        hash(key)
    except TypeError:
        return name, json.dumps(args, sort_keys=True, default=repr)
    return key


class Index:
    """The events of a conversation up to now.

    Attributes:
        symbols: The last events by kind, for the context: ``u`` (a person), ``?`` (a person, words unknown),
            ``r:tool`` (a result), ``e:tool`` (an error), ``c:tool`` (a call without its result yet).
        last_user: Number of the last event that is a person's; -1 for none.
        users: How many of the events up to each are a person's.
        words: The words of the last person's message, and of those before it.
        numbers: Numbers of words: of the last person's message, and of the model's before it.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.by_source: dict[str, list[Occurrence]] = {}
        self.by_value: dict[str, list[Occurrence]] = {}
        self.symbols: tuple[str, ...] = ()
        self.last_user = -1
        self.users: list[int] = []
        self.words: tuple[Words, Words] = (NO_WORDS, NO_WORDS)
        self.numbers: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        self._marks: list[int] = []
        self._ends: list[int] = []
        self._year: str | None = None
        self._said: Words = NO_WORDS
        self._calls: dict[Any, list[int]] = {}
        self._passed: dict[tuple[str, str, str], list[int]] = {}
        self._tools: dict[str, str] = {}
        self._order = 0
        self._undo: list[tuple[Any, list[Occurrence]]] = []

    def called_at(self, key: Any) -> int:
        """Number of the last event that is this call; -1 for none."""
        return found[-1] if (found := self._calls.get(key)) else -1

    def passed_at(self, tool: str, argument: str, value: Any) -> int:
        """Number of the last event that is a call of the tool with this argument; -1 for none."""
        return found[-1] if (found := self._passed.get((tool, argument, str(value)))) else -1

    def common(self, marks: Sequence[int]) -> int:
        """How many messages, from the first, are those with these marks."""
        same = 0
        for mine, mark in zip(self._marks, marks, strict=False):
            if mine != mark:
                break
            same += 1
        return same

    def loses(self, marks: Sequence[int]) -> bool:
        """Whether to follow messages with these marks would throw away more than it keeps."""
        return len(self._marks) > 2 * self.common(marks) + 4

    def follow(self, messages: Sequence[Any], marks: Sequence[int]) -> None:
        """Become the index of these messages: keep what is common, drop and add the rest."""
        same = self.common(marks)
        self.truncate(self._ends[same - 1] if same else 0)
        del self._marks[same:], self._ends[same:]
        for message, mark in zip(messages[same:], marks[same:], strict=True):
            for event in read(message):
                self.add(event)
            self._marks.append(mark)
            self._ends.append(len(self.events))

    def add(self, event: Event) -> None:
        """Take one event in."""
        saved = (self.symbols, self.last_user, self.words, self.numbers, self._year, self._said, self._order)
        added: list[Occurrence] = []
        self._undo.append((saved, added))
        number = len(self.events)
        self.events.append(event)
        if event.kind in ("system", "say"):
            if event.kind == "say":
                self._said = words_of(event.value[-ASKED:])
            self._year = year_in(event.value) or self._year
        elif event.kind == "user":
            self.last_user = number
            self.symbols += ("?" if event.unknown else "u",)
            last, before = self.words
            self.words = (words_of(event.value), before | last)
            self.numbers = (numbers_of(self.words[0]), numbers_of(self._said))
            self._year = year_in(event.value) or self._year
            for shape, token, previous in tokens_of(event.value):
                self._put(added, "u|" + shape, number, token, before=previous)
            for day in dates_in(event.value, self._year):
                self._put(added, "u|date", number, day)
        elif event.kind == "call":
            self._tools[event.call_id] = event.name
            self.symbols += ("c:" + event.name,)
            self._calls.setdefault(call_key(event.name, event.value), []).append(number)
            for argument, value in event.value.items():
                for path, leaf, beside in leaves_of(value):
                    self._put(added, f"a|{event.name}|{argument}{path}", number, leaf, beside)
                if is_scalar(value):
                    self._passed.setdefault((event.name, argument, str(value)), []).append(number)
        else:
            self._add_result(event, number, added)
        self.symbols = self.symbols[-MAX_SYMBOLS:]
        self.users.append((self.users[-1] if self.users else 0) + (event.kind == "user"))

    def _add_result(self, event: Event, number: int, added: list[Occurrence]) -> None:
        name = event.name or self._tools.get(event.call_id, "")
        symbols = list(self.symbols)
        if (waiting := "c:" + name) in symbols:
            symbols.remove(waiting)
        self.symbols = (*symbols, ("e:" if event.failed else "r:") + name)
        if isinstance(event.value, str):
            self._year = year_in(event.value) or self._year
            if len(event.value) <= MAX_TEXT and not event.failed:
                self._put(added, f"r|{name}|", number, event.value)
            else:
                for shape, token, previous in tokens_of(event.value):
                    if not token.isalpha():
                        self._put(added, f"r|{name}|text {shape}", number, token, before=previous)
            return
        order, prefix, by_source, by_value = self._order, f"r|{name}|", self.by_source, self.by_value
        for path, leaf, beside in leaves_of(event.value):  # most of what an index takes in: `_put`, without the calls
            order += 1
            found = Occurrence(prefix + path, number, order, leaf, beside)
            added.append(found)
            by_source.setdefault(found.source, []).append(found)
            by_value.setdefault(normal(leaf), []).append(found)
        self._order = order

    def _put(
        self,
        added: list[Occurrence],
        source: str,
        event: int,
        value: Any,
        beside: Beside | None = None,
        before: str = "",
    ) -> None:
        self._order += 1
        found = Occurrence(source, event, self._order, value, beside, before)
        added.append(found)
        self.by_source.setdefault(source, []).append(found)
        self.by_value.setdefault(normal(value), []).append(found)

    def truncate(self, length: int) -> None:
        """Forget the events from this number on."""
        while self._ends and self._ends[-1] > length:
            self._ends.pop()
            self._marks.pop()
        while len(self.events) > length:
            event = self.events.pop()
            self.users.pop()
            saved, added = self._undo.pop()
            self.symbols, self.last_user, self.words, self.numbers, self._year, self._said, self._order = saved
            for occurrence in reversed(added):
                _pop(self.by_source, occurrence.source)
                _pop(self.by_value, normal(occurrence.value))
            if event.kind == "call":
                _pop(self._calls, call_key(event.name, event.value))
                for argument, value in event.value.items():
                    if is_scalar(value):
                        _pop(self._passed, (event.name, argument, str(value)))


def _pop(lists: dict[Any, list[Any]], key: Any) -> None:
    found = lists[key]
    found.pop()
    if not found:
        del lists[key]
