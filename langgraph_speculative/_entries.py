"""The entries of the journal, how they are stored, and in which order they are taken back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from langgraph_speculative._owner import this_process
from langgraph_speculative.errors import SpeculationError


class Phase(StrEnum):
    """How far an action is known to have come."""

    BEGUN = "begun"
    DONE = "done"
    COMMITTING = "committing"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One action.

    Attributes:
        id: Unique.
        name: The tool, or the node (``"outer|inner"``).
        kind: ``"reversible"`` or ``"staged"``.
        arguments: What it was called with. Like `result` and `handle`, it is ``None`` if JSON cannot hold it.
        thread_id: The run's thread, if it has one.
        order: Its position among the entries of its process.
        phase: How far it has come.
        result: What its code returned.
        handle: What its second phase needs.
        owner: The process that it belongs to, as JSON: the current one, unless told.
    """

    id: str
    name: str
    kind: str
    arguments: Any
    thread_id: str
    order: int
    phase: Phase = Phase.BEGUN
    result: Any = None
    handle: Any = None
    owner: str = field(default_factory=this_process)


@dataclass(frozen=True)
class Stored:
    """An entry in the journal.

    Attributes:
        entry: Itself.
        origin: The process that began it.
        begun: When, in seconds of the wall clock.
    """

    entry: Entry
    origin: str
    begun: float


NAMES = tuple(f.name for f in fields(Entry))
_VALUES = ("arguments", "result", "handle")


def encode(value: Any) -> str:
    """A value as JSON; one that JSON cannot hold, in whole, is ``null``."""
    try:
        return json.dumps(value)
    except Exception:  # whatever the value's own methods raise
        return "null"


def dump(stored: Stored) -> dict[str, Any]:
    """An entry as strings and numbers, its values as JSON."""
    entry = {name: getattr(stored.entry, name) for name in NAMES}
    return entry | {v: encode(entry[v]) for v in _VALUES} | {"origin": stored.origin, "begun": stored.begun}


def load(row: Mapping[str, Any]) -> Stored:
    entry = {name: json.loads(row[name]) if name in _VALUES else row[name] for name in NAMES}
    return Stored(Entry(**entry | {"phase": Phase(entry["phase"])}), row["origin"], row["begun"])


def latest_first(found: Iterable[Stored]) -> list[Entry]:
    # Orders count within a process; of two processes, the one that was last to begin something comes first.
    found = list(found)
    last: dict[str, float] = {}
    for f in found:
        last[f.origin] = max(f.begun, last.get(f.origin, f.begun))
    found.sort(key=lambda f: (last[f.origin], f.origin, f.entry.order), reverse=True)
    return [f.entry for f in found]


def lost(id: str) -> SpeculationError:
    return SpeculationError(
        f"This process has no action {id!r} in the journal: it was closed, or another took it over."
    )
