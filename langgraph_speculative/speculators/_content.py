"""What inputs and outputs say, ids aside: keys of inputs, outcomes of outputs, and earlier outputs with new ids.

The ledger renames only ids that were minted since a fork. A Speculator compares across runs, where all ids are others.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any
from uuid import uuid4

from langchain_core.messages import BaseMessage
from langgraph.errors import ParentCommand
from langgraph.types import Command

from langgraph_speculative._ids import frozen_ids
from langgraph_speculative._values import Id, copy_value, freeze

UNMINTED = "\0"
"""How that begins which stands for an id that is still to be minted."""


EMBEDDED = 16
"""Characters from which on an id is taken for one inside a longer string too: a short one may be any word."""


def keyed(value: Any) -> tuple[str, list[str]]:
    """A key of a node's input, and the ids in it in the order in which they first appear.

    The key is the same in all processes, and for inputs that differ in ids alone.

    Raises:
        Opaque: Some part cannot be taken apart.
    """
    ids: dict[str, int] = {}
    canonical = _canonical(freeze(value), ids)
    return hashlib.sha256(repr(canonical).encode()).hexdigest(), list(ids)


def outcome_of(output: Any) -> Any:
    """What a node's output does to the state: equal for a dict, a Command and a list of Commands that write the same.

    Ids do not count, and of a message with tool calls nothing but the calls: those are what is made early.

    Raises:
        Opaque: Some part cannot be taken apart.
    """
    updates: list[Any] = []
    _flatten(output, updates)
    return _canonical(freeze(updates), {})


def _flatten(output: Any, into: list[Any]) -> None:
    if isinstance(output, Command):
        if output.graph or output.goto or output.resume:
            into.append(("command", output.graph, output.goto, output.resume))
        _flatten(output.update, into)
    elif isinstance(output, dict):
        into.extend((key, _spoken(output[key])) for key in sorted(output, key=str))
    elif isinstance(output, list | tuple) and any(isinstance(o, Command | dict) for o in output):
        for one in output:
            _flatten(one, into)
    elif output is not None:
        into.append(_spoken(output))


def _spoken(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        value = [value]
    if not isinstance(value, list):
        return value
    return [
        [(call["name"], call["args"]) for call in calls] if (calls := getattr(v, "tool_calls", None)) else v
        for v in value
    ]


def _canonical(frozen: Any, ids: dict[str, int]) -> Any:
    """A snapshot with its ids numbered in the order of their appearance, and its types by their names."""
    kind = type(frozen)
    if kind is str:
        # What repeats an id as a plain string, such as a list of the calls that are done.
        return ("id", ids[frozen]) if frozen in ids else frozen
    if kind is tuple:
        if frozen and type(frozen[0]) is int:
            # Only a message's snapshot begins with a number: the address of its class.
            # One that has no id yet will have one: it stands for any that is new.
            own = Id(f"{UNMINTED}{len(ids)}") if frozen[1] is None else frozen[1]
            frozen = (_class_at(frozen[0]), own, *frozen[2:])
        return tuple([_canonical(part, ids) for part in frozen])
    if kind is Id:
        return ("id", ids.setdefault(str(frozen), len(ids)))
    if kind is frozenset:
        return ("set", *sorted(repr(_canonical(part, ids)) for part in frozen))
    if isinstance(frozen, type):
        return f"{frozen.__module__}.{frozen.__qualname__}"
    return frozen


_classes: dict[int, str] = {}


def _class_at(address: int) -> str:
    if address not in _classes:
        todo: list[type] = [BaseMessage]
        while todo:
            kind = todo.pop()
            _classes[id(kind)] = f"{kind.__module__}.{kind.__qualname__}"
            todo += kind.__subclasses__()
    return _classes[address]


def committed(output: Any) -> Any:
    """What a Speculator was told that a node has returned, as a node returns it: a Command for the parent is raised."""
    if isinstance(output, ParentCommand):
        return replace(output.args[0], graph=Command.PARENT)
    return output


def renewed(output: Any, before: list[str], now: list[str]) -> Any:
    """A copy of an earlier output for an input of the same key.

    Ids of the earlier input become those of this one at the same places; all others are minted anew, since an id that
    the thread has already would replace a message.

    Args:
        output: What the node returned then.
        before: The ids of its input then, as `keyed` gives them.
        now: Those of its input now.

    Raises:
        Opaque: The output cannot be copied.
    """
    own: set[str] = set()
    frozen_ids((freeze(output),), own)
    ids = {old: str(uuid4()) for old in own}
    ids |= {old: new for old, new in zip(before, now, strict=True) if not new.startswith(UNMINTED)}
    long = {old: new for old, new in ids.items() if len(old) >= EMBEDDED}

    def text(s: str) -> str:
        if (new := ids.get(s)) is not None:
            return new
        for old, new in long.items():
            s = s.replace(old, new)
        return s

    return copy_value(output, text)
