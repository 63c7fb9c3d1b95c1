"""What a claimed, still running execution changes in its input, changed in the run's own input too.

A node of the plain graph that changes its input in place changes what the rest of the superstep, and often the state,
sees. A pre-execution has a copy. If it changes that before the claim, it is not claimed; if it does so after, what it
had emitted is out, and it cannot be run again. So at the claim, while the two inputs are equal, their mutable parts are
paired; when the execution has ended, each part of the run's becomes what its twin has become.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import BaseModel

from langgraph_speculative._values import IMMUTABLE, EmbeddedId, Opaque


class Changes:
    """The paired parts of an execution's input and the run's; both are equal, up to ids, when it is made.

    Raises:
        Opaque: They are not equal.
    """

    def __init__(self, early: Any, real: Any) -> None:
        self._twins: dict[int, Any] = {}
        # With what each part held at the claim; the parts themselves are kept, so no `id()` comes twice.
        self._parts: list[tuple[Any, Any, Any]] = []
        self._messages: list[tuple[BaseMessage, BaseMessage]] = []
        self._pair(early, real)

    def _pair(self, early: Any, real: Any) -> None:
        kind = type(early)
        if kind in IMMUTABLE or id(early) in self._twins:
            return
        if type(real) is not kind:
            raise Opaque("it has been changed")
        self._twins[id(early)] = real
        if isinstance(early, BaseMessage):
            self._messages.append((early, real))
            return
        if kind is tuple:
            self._pair_all(early, real)
            self._parts.append((early, None, None))
        elif kind in (list, deque):
            self._parts.append((early, real, list(early)))
            self._pair_all(early, real)
        elif kind is dict:
            self._parts.append((early, real, dict(early)))
            self._pair_all(list(early.values()), list(real.values()))
        elif kind is set:
            self._parts.append((early, real, set(early)))
        elif isinstance(early, BaseModel) or (is_dataclass(early) and hasattr(early, "__dict__")):
            self._parts.append((early, real, dict(early.__dict__)))
            self._pair_all(list(early.__dict__.values()), list(real.__dict__.values()))
            if isinstance(early, BaseModel):
                for held in ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"):
                    self._pair(getattr(early, held), getattr(real, held))

    def _pair_all(self, early: Any, real: Any) -> None:
        if len(early) != len(real):
            raise Opaque("it has been changed")
        for a, b in zip(early, real, strict=True):
            self._pair(a, b)

    def carry_over(self, rename: Callable[[Any], Any]) -> None:
        """Change the run's input as the execution has changed its own.

        Args:
            rename: What turns values of the execution into the run's.
        """

        def own(value: Any) -> Any:
            if id(value) in self._twins:
                return self._twins[id(value)]
            kind = type(value)
            if kind in (list, tuple, deque):
                return kind(map(own, value))
            if kind is dict:
                return {own(k): own(v) for k, v in value.items()}
            try:
                return rename(value)
            except (EmbeddedId, Opaque):
                return value

        for early, real, before in self._parts:
            if real is None or not _has_changed(early, before):
                continue
            if isinstance(early, list):
                real[:] = map(own, early)
            elif isinstance(early, deque):
                after = list(map(own, early))
                real.clear()
                real.extend(after)
            elif isinstance(early, set):
                after = list(map(own, early))
                real.clear()
                real.update(after)
            else:
                target = real if isinstance(early, dict) else real.__dict__
                pairs = {own(k): own(v) for k, v in (early if isinstance(early, dict) else early.__dict__).items()}
                target.clear()
                target.update(pairs)
        for message, twin in self._messages:
            if (renamed := rename(message)).__dict__ != twin.__dict__:
                twin.__dict__.update(renamed.__dict__)


def _has_changed(part: Any, before: Any) -> bool:
    if isinstance(part, set):
        return bool(part != before)
    if isinstance(part, list | deque):
        return len(part) != len(before) or any(a is not b for a, b in zip(part, before, strict=True))
    held = part if isinstance(part, dict) else part.__dict__
    return list(held) != list(before) or any(held[k] is not before[k] for k in held)
