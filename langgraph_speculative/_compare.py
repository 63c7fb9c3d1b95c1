"""Whether two final states are the same result, and if not, where they first differ."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, Literal, cast

from langchain_core.messages import BaseMessage
from langgraph.types import Interrupt
from pydantic import BaseModel

# What a provider says about the answer itself; the rest of the metadata are ids, clocks and counters.
_METADATA = ("finish_reason", "stop_reason", "model_name", "model")
_ASIDE = ("id", "response_metadata", "usage_metadata")
_MIN_ID = 8  # shorter ones ("1") may be found in any text by chance


def same_result(a: Any, b: Any, *, names: tuple[str, str] = ("the first", "the second")) -> str | None:
    """Compare two final states.

    Messages count with their type, content, names, tool calls, arguments, tool results and artifacts.
    Minted ids (of messages, tool calls and interrupts) need not be equal, but must stand in the same places:
    the k-th id of one result is taken for the k-th of the other, also inside texts. Token counts and
    clock-like metadata of messages do not count. Everything else is compared by type and value.

    Args:
        a: One result.
        b: The other.
        names: What to call them in the answer.

    Returns:
        ``None`` if they are equal, else the path of the first difference and both values.
    """
    return difference("", _Canonical(a).view(a), _Canonical(b).view(b), names)


@dataclasses.dataclass(frozen=True)
class Fields:
    """An object taken apart: its type's name, and what counts of it; of a sequence its "items"."""

    kind: str
    fields: dict[Any, Any]


def kind_of(value: Any) -> str:
    """The name of a value's type: each build of a graph may define classes of its own."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


class _Canonical:
    """One result with its minted ids numbered in order of appearance."""

    def __init__(self, result: Any) -> None:
        self._numbers: dict[str, str] = {}
        # Counted apart: a message may come without an id, a tool call never does.
        counts = {"message": 0, "call": 0}
        for kind, minted in _minted_ids(result):
            if minted not in self._numbers:
                counts[kind] += 1
                self._numbers[minted] = f"<{kind} {counts[kind]}>"
        long = sorted((i for i in self._numbers if len(i) >= _MIN_ID), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, long))) if long else None

    def view(self, value: Any) -> Any:
        """`value` as plain containers, `Fields` and leaves."""
        if isinstance(value, str) and type(value) is str:
            return self._text(value)
        if isinstance(value, BaseMessage):
            return self._message(value)
        if isinstance(value, Interrupt):
            return Fields(kind_of(value), {"value": self.view(value.value)})
        if isinstance(value, BaseModel):
            data = {name: getattr(value, name) for name in type(value).model_fields}
            return Fields(kind_of(value), self._values(data | (value.model_extra or {})))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return Fields(kind_of(value), self._values({f.name: getattr(value, f.name, None) for f in _fields(value)}))
        if isinstance(value, dict):
            view = {self._text(k) if type(k) is str else k: self._entry(k, v) for k, v in value.items()}
            return view if type(value) is dict else Fields(kind_of(value), {"items": view})
        if isinstance(value, list | tuple):
            items = [self.view(item) for item in value]
            return items if type(value) is list else Fields(kind_of(value), {"items": items})
        return value

    def _values(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self.view(value) for name, value in data.items()}

    def _entry(self, key: Any, value: Any) -> Any:
        # Ids too short to be looked for in texts are still renamed where an id is expected.
        if key in ("id", "tool_call_id") and isinstance(value, str):
            return self._numbers.get(value, self._text(value))
        return self.view(value)

    def _message(self, message: BaseMessage) -> Fields:
        names = [*type(message).model_fields, *(message.model_extra or {})]
        fields = {n: self._entry(n, getattr(message, n)) for n in names if n not in _ASIDE}
        said = {k: v for k, v in message.response_metadata.items() if k in _METADATA}
        if said:
            fields["response_metadata"] = self.view(said)
        return Fields(kind_of(message), fields)

    def _text(self, text: str) -> str:
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: self._numbers[found[0]], text)


def _fields(value: Any) -> Sequence[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(value) if f.compare]


_Minted = tuple[Literal["message", "call"], str]


def _minted_ids(value: Any) -> Iterable[_Minted]:
    """Ids that a run makes up, in order of appearance; messages and tool calls may also be dicts."""
    if isinstance(value, BaseMessage):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        yield from _ids_of(fields | {"role": value.type})
    elif isinstance(value, Interrupt):
        yield "call", value.id
        yield from _minted_ids(value.value)
    elif isinstance(value, BaseModel):
        yield from _minted_ids({name: getattr(value, name) for name in type(value).model_fields})
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from _minted_ids({f.name: getattr(value, f.name, None) for f in _fields(value)})
    elif isinstance(value, dict):
        yield from _ids_of(value)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _minted_ids(item)


def _ids_of(fields: Mapping[Any, Any]) -> Iterable[_Minted]:
    if "role" in fields and isinstance(minted := fields.get("id"), str):
        yield "message", minted
    blocks = fields.get("content") if "role" in fields else None
    for part in (blocks, fields.get("tool_calls"), fields.get("invalid_tool_calls")):
        for item in part if isinstance(part, list) else ():
            if isinstance(item, dict) and isinstance(minted := item.get("id"), str):
                yield "call", minted
    if isinstance(minted := fields.get("tool_call_id"), str):
        yield "call", minted
    for key, item in fields.items():
        if key not in _ASIDE:
            yield from _minted_ids(item)


def difference(path: str, a: Any, b: Any, names: tuple[str, str]) -> str | None:
    """The first difference of two views (`Fields`, dicts, lists and leaves): its path below `path`, and both values."""
    if type(a) is not type(b) or (isinstance(a, Fields) and a.kind != b.kind):
        return _say(path, f"{_type(a)} {_short(a)}", f"{_type(b)} {_short(b)}", names)
    if isinstance(a, Fields):
        if set(a.fields) == {"items"} == set(b.fields):
            return difference(path, a.fields["items"], b.fields["items"], names)
        return _difference_of_dicts(path, a.fields, b.fields, names, lambda key: f"{path}.{key}".lstrip("."))
    if isinstance(a, dict):
        return _difference_of_dicts(path, a, b, names, lambda key: _at(path, key))
    if isinstance(a, list):
        for n, (x, y) in enumerate(zip(a, b, strict=False)):
            if found := difference(f"{path}[{n}]", x, y, names):
                return found
        if len(a) != len(b):
            extra = (a if len(a) > len(b) else b)[min(len(a), len(b))]
            longer = names[0] if len(a) > len(b) else names[1]
            return (
                f"{path or 'the result'}: {len(a)} items in {names[0]}, {len(b)} in {names[1]}; "
                f"only in {longer}: {_short(extra)}"
            )
        return None
    if _same_leaf(a, b):
        return None
    if isinstance(a, str):
        return _say(path, *_around_difference(a, b), names)
    return _say(path, _short(a), _short(b), names)


def _difference_of_dicts(
    path: str, a: dict[Any, Any], b: dict[Any, Any], names: tuple[str, str], at: Callable[[Any], str]
) -> str | None:
    for key in [*a, *(k for k in b if k not in a)]:
        if key not in a or key not in b:
            there, value = (names[0], a[key]) if key in a else (names[1], b[key])
            return f"{at(key)}: only in {there}: {_short(value)}"
        if found := difference(at(key), a[key], b[key], names):
            return found
    return None


def _same_leaf(a: Any, b: Any) -> bool:
    if a is b or (isinstance(a, float) and math.isnan(a) and math.isnan(b)):
        return True
    if isinstance(a, Set):
        # Equal numbers of different types are one element: {1} == {True}.
        return bool(a == b) and sorted(map(_type, a)) == sorted(map(_type, b))
    try:
        if cast(Any, type(a)).__eq__ is object.__eq__ and hasattr(a, "__dict__"):
            return same_result(vars(a), vars(b)) is None
        return bool(a == b)
    except Exception:  # arrays and frames have no single truth value
        return repr(a) == repr(b)


def _at(path: str, key: Any) -> str:
    if isinstance(key, str) and key.isidentifier():
        return f"{path}.{key}".lstrip(".")
    return f"{path}[{key!r}]"


def _say(path: str, a: str, b: str, names: tuple[str, str]) -> str:
    return f"{path or 'the result'}: {a} in {names[0]}, {b} in {names[1]}"


def _type(value: Any) -> str:
    return value.kind.rpartition(".")[2] if isinstance(value, Fields) else type(value).__name__


def _short(value: Any, limit: int = 120) -> str:
    if isinstance(value, Fields):
        inner = ", ".join(f"{k}={_short(v, 40)}" for k, v in value.fields.items() if v)
        text = f"{_type(value)}({inner})"
    else:
        text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _around_difference(a: str, b: str) -> tuple[str, str]:
    """The part of two long texts where they begin to differ."""
    at = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    start = max(0, at - 40)
    lead = "…" if start else ""
    return tuple(lead + _short(text[start:], 100) for text in (a, b))  # type: ignore[return-value]
