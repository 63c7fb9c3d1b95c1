"""Values of a state: copied for a fork, frozen into keys, compared up to minted ids, renamed back.

Everything here is structural. What cannot be taken apart (a lock, a client, a generator) raises `Opaque`, and the
caller does not fork or does not claim: no speculation is always allowed.
"""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import pathlib
import re
import types
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import BaseModel


class Opaque(Exception):
    """A value that cannot be copied or compared by structure."""


class EmbeddedId(Exception):
    """A minted id stands inside a longer string, so the result cannot be renamed."""


IGNORED_METADATA = frozenset({"response_metadata", "usage_metadata"})
"""Fields of a message that are records of how it came to be, and no input of the next call."""

# Ids by which a provider refers to its own stored responses: another id is another conversation.
_PROVIDER_IDS = ("resp_", "msg_")

IMMUTABLE: frozenset[type] = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        range,
        slice,
        type(...),
        type(NotImplemented),
        datetime.datetime,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        datetime.timezone,
        decimal.Decimal,
        uuid.UUID,
        re.Pattern,
        type,
        types.FunctionType,
        types.BuiltinFunctionType,
        types.MethodType,
        types.ModuleType,
        pathlib.PurePosixPath,
        pathlib.PosixPath,
        pathlib.PureWindowsPath,
        pathlib.WindowsPath,
    }
)

_IMMUTABLE_BASES = (enum.Enum, type)

Text = Callable[[str], str]


def copy_value(value: Any, text: Text | None = None) -> Any:
    """A copy that shares no mutable part with `value`; `text` maps every string on the way.

    Raises:
        Opaque: Some part cannot be copied.
    """
    kind = type(value)
    if kind is str:
        return text(value) if text else value
    if kind in IMMUTABLE:
        return value
    if kind is list:
        return [copy_value(v, text) for v in value]
    if kind in _MESSAGES and text is None:
        return _copy_message(value)
    if kind is dict:
        if text is None:
            return {k: v if type(v) in IMMUTABLE else copy_value(v) for k, v in value.items()}
        return {copy_value(k, text): copy_value(v, text) for k, v in value.items()}
    if isinstance(value, BaseModel):
        return _copy_model(value, text)
    if isinstance(value, _IMMUTABLE_BASES):
        return value
    if kind is tuple:
        return tuple([copy_value(v, text) for v in value])
    if kind in (set, frozenset, deque):
        items = [copy_value(v, text) for v in value]
        return deque(items, value.maxlen) if kind is deque else kind(items)
    if is_dataclass(value):
        return _copy_dataclass(value, text)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*[copy_value(v, text) for v in value])
    try:
        if text is None:
            return copy.deepcopy(value)
        frozen = freeze(value)
        return value if _map_strings(frozen, text) == frozen else _refuse(value)
    except (Opaque, EmbeddedId):
        raise
    except Exception as error:
        raise Opaque(f"{kind.__qualname__} cannot be copied ({error})") from error


def _refuse(value: Any) -> Any:
    raise EmbeddedId(f"{type(value).__qualname__} holds an id and cannot be taken apart")


_MESSAGES: frozenset[type] = frozenset({HumanMessage, AIMessage, SystemMessage, ToolMessage})
"""The classes of which a history consists: copied and frozen field by field, since it has thousands of them."""

_new = object.__new__
_set_attribute = object.__setattr__


def _copy_message(message: Any) -> Any:
    """What `_copy_model` does, for one of `_MESSAGES`."""
    kind = type(message)
    held = message.__dict__
    attributes = held.copy()
    value = held["additional_kwargs"]
    attributes["additional_kwargs"] = copy_value(value) if value else {}
    value = held["response_metadata"]
    attributes["response_metadata"] = copy_value(value) if value else {}
    if type(held["content"]) is not str:
        attributes["content"] = copy_value(held["content"])
    if kind is AIMessage:
        value = held["tool_calls"]
        attributes["tool_calls"] = copy_value(value) if value else []
        value = held["invalid_tool_calls"]
        attributes["invalid_tool_calls"] = copy_value(value) if value else []
        if held["usage_metadata"] is not None:
            attributes["usage_metadata"] = copy_value(held["usage_metadata"])
    elif kind is ToolMessage and held["artifact"] is not None:
        attributes["artifact"] = copy_value(held["artifact"])
    new = _new(kind)
    _set_attribute(new, "__dict__", attributes)
    _set_fields_set(new, message.__pydantic_fields_set__.copy())
    extra = message.__pydantic_extra__
    _set_extra(new, copy_value(extra) if extra is not None else None)
    private = message.__pydantic_private__
    _set_private(new, copy_value(private) if private is not None else None)
    return new


def _map_strings(frozen: Any, text: Text) -> Any:
    if isinstance(frozen, str):
        return text(frozen)
    if isinstance(frozen, tuple):
        return tuple([_map_strings(f, text) for f in frozen])
    return frozen


def _copy_model(value: BaseModel, text: Text | None) -> BaseModel:
    kind = type(value)
    new = kind.__new__(kind)
    attributes = new.__dict__
    attributes.update(value.__dict__)
    # A history has thousands of messages, whose containers are mostly empty: those are made, not walked.
    for name, v in attributes.items():
        t = type(v)
        if t is dict and not v:
            attributes[name] = {}
        elif t is list and not v:
            attributes[name] = []
        elif t not in IMMUTABLE or (text is not None and t is str):
            attributes[name] = copy_value(v, text)
    _set_fields_set(new, value.__pydantic_fields_set__.copy())
    extra = value.__pydantic_extra__
    _set_extra(new, copy_value(extra, text) if extra else extra if extra is None else {})
    private = value.__pydantic_private__
    _set_private(new, None if private is None else copy_value(private, text))
    return new


# The slots of a model, past its own `__setattr__`, which validates and refuses on frozen models.
_set_fields_set = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__


def _copy_dataclass(value: Any, text: Text | None) -> Any:
    kind = type(value)
    new = object.__new__(kind)
    if hasattr(value, "__dict__"):
        for name, v in vars(value).items():
            object.__setattr__(new, name, copy_value(v, text))
    for f in fields(value):
        if f.name not in getattr(new, "__dict__", {}) and hasattr(value, f.name):
            object.__setattr__(new, f.name, copy_value(getattr(value, f.name), text))
    return new


class Id(str):
    """An id in a frozen value; a match may rename it."""

    __slots__ = ()


def _id(value: str | None) -> str | None:
    if value is None or value.startswith(_PROVIDER_IDS):
        return value
    return Id(value)


def _freeze_tool_call(call: Any) -> Any:
    if not isinstance(call, dict):
        return freeze(call)
    frozen: list[Any] = ["call", _id(call.get("id"))]
    for k, v in call.items():
        if k != "id":
            frozen += (k, v if type(v) is str else freeze(v))
    return tuple(frozen)


_CALL_LISTS = frozenset({"tool_calls", "invalid_tool_calls", "tool_call_chunks"})


def freeze_message(message: BaseMessage) -> Any:
    """`freeze` for a message."""
    # Ids come first: a match binds them before it meets the strings that repeat them.
    attributes = message.__dict__
    kind = type(message)
    # By its id, so that the tuple holds atoms only: the garbage collector then leaves it alone.
    frozen: list[Any] = [id(kind), _id(attributes["id"])]
    if kind is ToolMessage:
        frozen.append(_id(attributes["tool_call_id"]))
        frozen.append(attributes["status"])
        if attributes["artifact"] is not None:
            frozen.append(("artifact", freeze(attributes["artifact"])))
    elif kind is AIMessage:
        if calls := attributes["tool_calls"]:
            frozen.append(("tool_calls", *[_freeze_tool_call(c) for c in calls]))
        if calls := attributes["invalid_tool_calls"]:
            frozen.append(("invalid_tool_calls", *[_freeze_tool_call(c) for c in calls]))
    elif kind not in _MESSAGES:
        for name, value in attributes.items():
            if name in _CALL_LISTS:
                frozen.insert(2, (name, *[_freeze_tool_call(c) for c in value]))
            elif name == "tool_call_id":
                frozen.insert(2, _id(value))
        rest = attributes.keys() - _COMMON_FIELDS - IGNORED_METADATA - _CALL_LISTS - {"tool_call_id"}
        frozen += [(name, freeze(attributes[name])) for name in attributes if name in rest]
    content = attributes["content"]
    frozen.append(content if type(content) is str else freeze(content))
    frozen.append(attributes["name"])
    if kwargs := attributes["additional_kwargs"]:
        # Providers add keys without a value; and OpenAI's raw calls repeat the calls with their ids.
        given = {k: v for k, v in kwargs.items() if v is not None}
        raw = given.pop("tool_calls", ())
        if given or raw:
            frozen.append(("additional_kwargs", freeze(given), *[_freeze_tool_call(c) for c in raw]))
    if (records := attributes["response_metadata"]) and str(records.get("id", "")).startswith(_PROVIDER_IDS[0]):
        frozen.append(records["id"])
    return tuple(frozen)


_COMMON_FIELDS = frozenset({"content", "name", "additional_kwargs", "id", "type"})


def freeze(value: Any, memo: Memo | None = None) -> Any:
    """A type-exact, immutable snapshot: two values are the same input if and only if their snapshots are equal.

    Args:
        value: Anything.
        memo: Snapshots of messages that were taken when the messages were copied.

    Raises:
        Opaque: Some part cannot be taken apart.
    """
    kind = type(value)
    if kind is str or kind is int or value is None or kind is bytes:
        return value
    if kind in _MESSAGES or isinstance(value, BaseMessage):
        if memo is not None and (known := memo.get(id(value))) is not None:
            return known
        return freeze_message(value)
    if kind is list:
        return ("list", *[freeze(v, memo) for v in value])
    if kind is dict:
        if value.get("type") == "tool_call" and "args" in value:
            return _freeze_tool_call(value)
        return ("dict", *[x for k, v in value.items() for x in (freeze(k), freeze(v, memo))])
    if kind is bool:
        return (bool, value)
    if kind in (float, complex, decimal.Decimal):
        return (kind, repr(value))  # by repr: 0.0 is not -0.0, and NaN is itself
    if kind in IMMUTABLE or isinstance(value, _IMMUTABLE_BASES):
        return (kind, value)
    if kind is tuple or kind is deque:
        return (kind, *[freeze(v, memo) for v in value])
    if kind is set or kind is frozenset:
        return (kind, frozenset([freeze(v) for v in value]))
    if isinstance(value, BaseModel):
        inner = (value.__dict__, value.__pydantic_extra__, value.__pydantic_private__)
        return (kind, frozenset(value.__pydantic_fields_set__), *[freeze(v, memo) for v in inner])
    if is_dataclass(value):
        return (kind, *[(f.name, freeze(getattr(value, f.name, None), memo)) for f in fields(value)])
    return _freeze_object(value)


Memo = dict[int, Any]
"""The snapshots of messages by their `id()`. A stale one makes a key that the check at the claim refutes."""


def _freeze_object(value: Any) -> Any:
    try:
        reduced = value.__reduce_ex__(4)
        if isinstance(reduced, str):
            return (type(value), reduced)
        make, args, state, items, pairs = (*reduced, None, None, None, None)[:5]
        return (
            type(value),
            make,
            freeze(args),
            freeze(state),
            freeze(list(items)) if items is not None else None,
            freeze([list(p) for p in pairs]) if pairs is not None else None,
        )
    except RecursionError as error:
        raise Opaque(f"{type(value).__qualname__} refers to itself") from error
    except Opaque:
        raise
    except Exception as error:
        raise Opaque(f"{type(value).__qualname__} cannot be compared ({error})") from error


def _glance(value: Any) -> Any:
    """What can be seen of a value without walking it, ids aside."""
    if isinstance(value, BaseMessage):
        calls = getattr(value, "tool_calls", ())
        content = value.content
        return (type(value), content if isinstance(content, str) else len(content), len(calls))
    if isinstance(value, list | tuple):
        return (type(value), len(value), _glance(value[-1]) if value else None)
    if isinstance(value, dict):
        return (type(value), len(value))
    if isinstance(value, set | frozenset | deque):
        return (type(value), len(value))
    return (type(value), value if type(value) in (str, int, bool, bytes) else None)


def fingerprint(value: Any) -> Any:
    """A cheap necessary condition for equal inputs: lengths and the last message, in microseconds at any length."""
    if isinstance(value, dict):
        return (dict, tuple([(k, _glance(v)) for k, v in value.items()]))
    if isinstance(value, BaseModel) and not isinstance(value, BaseMessage):
        return (type(value), tuple([(k, _glance(v)) for k, v in value.__dict__.items()]))
    return _glance(value)
