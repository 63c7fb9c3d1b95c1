"""The ids of messages and tool calls: collected, matched between a branch and the run, and renamed."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from langgraph_speculative._values import IGNORED_METADATA, IMMUTABLE, EmbeddedId, Id, copy_value


def collect_ids(value: Any, into: set[str]) -> None:
    """Add the ids of all messages and tool calls in `value`: those that exist before a fork compare literally."""
    if isinstance(value, BaseMessage):
        attributes = value.__dict__
        for name in ("id", "tool_call_id"):
            if (own := attributes.get(name)) is not None:
                into.add(own)
        for name in ("tool_calls", "invalid_tool_calls"):
            for call in attributes.get(name) or ():
                if call.get("id"):
                    into.add(call["id"])
    elif isinstance(value, list | tuple):
        for v in value:
            if type(v) not in IMMUTABLE:
                collect_ids(v, into)
    elif isinstance(value, dict):
        if value.get("type") == "tool_call" and value.get("id"):
            into.add(value["id"])
        for v in value.values():
            if type(v) not in IMMUTABLE:
                collect_ids(v, into)
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            collect_ids(getattr(value, f.name, None), into)


def frozen_ids(frozen: Any, into: set[str]) -> None:
    """Add the ids in a snapshot."""
    for part in frozen:
        if type(part) is Id:
            into.add(str(part))
        elif type(part) is tuple:
            frozen_ids(part, into)


def match(early: Any, real: Any, known: Container[str], *, unminted: bool = False) -> dict[str, str] | None:
    """How to rename the ids of the frozen `early` so that it equals the frozen `real`; ``None`` if nothing does.

    Args:
        early: Snapshot of a pre-execution's input.
        real: Snapshot of the real run's input.
        known: Ids that existed before the fork; they are never renamed.
        unminted: Let an id that is still to be minted (``None``) stand for any new one, as in a node's output, whose
            messages get their ids only when they are added to the state.
    """
    forth: dict[str, str] = {}
    back: dict[str, str] = {}

    def same(a: Any, b: Any) -> bool:
        if a is b:
            return True
        if type(a) is tuple and type(b) is tuple:
            # Equal parts are compared in C; only where ids differ is the walk in Python.
            return a == b or (len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True)))
        if type(a) is Id and type(b) is Id:
            return bind(a, b)
        if type(a) is str and type(b) is str and a != b:
            return forth.get(a) == b
        if unminted and (a is None or b is None):
            given = b if a is None else a
            return type(given) is Id and str(given) not in known
        return type(a) is type(b) and bool(a == b)

    def bind(a: str, b: str) -> bool:
        a, b = str(a), str(b)
        if a == b:
            return True
        if a in known or b in known:
            return False
        return forth.setdefault(a, b) == b and back.setdefault(b, a) == a

    if not same(early, real) or (forth and _quotes(early, real, forth)):
        return None
    return forth


def _quotes(early: Any, real: Any, ids: dict[str, str]) -> bool:
    """Whether what is the same on both sides is one of the ids: a text would be renamed as if it were, and an id that
    stands for itself here would stand for another elsewhere.
    """
    if isinstance(early, str):
        return bool(early == real) and (early in ids or (type(early) is Id and early in ids.values()))
    if type(early) is tuple and type(real) is tuple:
        return any(_quotes(a, b, ids) for a, b in zip(early, real, strict=True))
    return type(early) is frozenset and any(_quotes(part, part, ids) for part in early)


Records = dict[str, dict[str, Any]]
"""By a message's id, the fields that say how it came to be."""


def records_of(value: Any, known: Container[str], into: Records) -> None:
    """Add the records of all messages in `value` that are new since the fork."""
    if isinstance(value, BaseMessage):
        if value.id is not None and value.id not in known:
            into[value.id] = {k: v for k, v in value.__dict__.items() if k in IGNORED_METADATA}
    elif isinstance(value, list | tuple):
        for v in value:
            if type(v) not in IMMUTABLE:
                records_of(v, known, into)
    elif isinstance(value, dict):
        for v in value.values():
            if type(v) not in IMMUTABLE:
                records_of(v, known, into)
    elif isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        records_of(getattr(value, "__dict__", {}), known, into)


def changed_records(early: Any, real: Any, known: Container[str], ids: dict[str, str]) -> Records:
    """The records of the run's own messages, where those of the guess that `early` stands on differ.

    A key leaves them out, so a claimed execution was given the guess's: what it emitted or returned may hold them.
    """
    guessed: Records = {}
    given: Records = {}
    records_of(early, known, guessed)
    if guessed:
        records_of(real, known, given)
    return {new: given[new] for old, held in guessed.items() if held != given.get(new := ids.get(old, old), held)}


def _restore(value: Any, records: Records) -> None:
    """Put the run's own records into the messages of a copy."""
    if isinstance(value, BaseMessage):
        value.__dict__.update(copy_value(records.get(value.id or "", {})))
    if isinstance(value, list | tuple):
        for v in value:
            if type(v) not in IMMUTABLE:
                _restore(v, records)
    elif isinstance(value, dict):
        _restore(list(value.values()), records)
    elif isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        _restore(list(getattr(value, "__dict__", {}).values()), records)


def rename(value: Any, ids: dict[str, str], records: Records | None = None, *, embedded: bool = False) -> Any:
    """A copy of `value` with the ids replaced, and with the run's own `records` in its messages.

    Args:
        embedded: Replace ids that are part of a longer string, too. Right for what quotes an id, not for what is
            computed from one, so only for what cannot be executed again.

    Raises:
        EmbeddedId: An id is part of a longer string.
        Opaque: The value cannot be copied.
    """

    def text(s: str) -> str:
        if (new := ids.get(s)) is not None:
            return new
        for old, new in ids.items():
            if old in s:
                if not embedded:
                    raise EmbeddedId(f"the id {old!r} stands inside a longer string")
                s = s.replace(old, new)
        return s

    renamed = copy_value(value, text)
    if records:
        _restore(renamed, records)
    return renamed


@dataclass(frozen=True)
class Renaming:
    """What turns what a claimed execution emitted or returned into the run's own: ids, and records of messages."""

    ids: dict[str, str]
    records: Records

    def __bool__(self) -> bool:
        return bool(self.ids or self.records)

    def __call__(self, value: Any, *, embedded: bool = False) -> Any:
        """As `rename`."""
        return rename(value, self.ids, self.records, embedded=embedded) if self else value
