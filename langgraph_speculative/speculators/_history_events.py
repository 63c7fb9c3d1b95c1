"""Messages as History sees them: events, whatever library has written the messages."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.types import Command

from langgraph_speculative.speculators._history_text import parse

UNKNOWN = "langgraph_speculative:unknown"
_ROLES = {"human": "user", "ai": "assistant", "developer": "system"}


def unknown_message() -> HumanMessage:
    """A message of a person of which nothing is known but that it comes.

    `History` guesses it for ``START``, and guesses the calls that follow it without its words.
    """
    return HumanMessage("", additional_kwargs={UNKNOWN: True})


@dataclass(frozen=True, slots=True)
class Event:
    """A part of a message.

    Attributes:
        kind: What a ``system`` message or a ``user`` has said, what a model does ``say``, a ``call`` of a tool by a
            model, the ``result`` of one.
        value: The text, the call's arguments, or the result, decoded.
        name: The tool's.
        failed: The tool has returned an error.
        unknown: A person's message whose words are not known yet.
    """

    kind: Literal["system", "user", "say", "call", "result"]
    value: Any = ""
    name: str = ""
    call_id: str = ""
    failed: bool = False
    unknown: bool = False


def text_of(content: Any) -> str:
    """The text of a message's content, a string or a list of blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (b if isinstance(b, str) else b.get("text") if isinstance(b, Mapping) else None for b in content)
        return "\n".join(p for p in parts if isinstance(p, str))
    return ""


def read(message: Any) -> list[Event]:
    """The events in a LangChain message, an OpenAI-style dict, or a ``(role, content)`` pair; none in others."""
    get: Callable[[str], Any]
    if isinstance(message, BaseMessage):
        role = message.type

        def get(key: str) -> Any:
            return getattr(message, key, None)
    elif isinstance(message, Mapping):
        role, get = message.get("role") or message.get("type") or "", message.get
    elif isinstance(message, tuple) and len(message) == 2:
        role, get = message[0], {"content": message[1]}.get
    else:
        return []
    kind, content = _ROLES.get(str(role), str(role)), get("content")
    if kind == "assistant":
        text = text_of(content)
        said = [Event("say", text)] if text else []
        calls = get("tool_calls")
        return said + [event for c in (calls if isinstance(calls, list | tuple) else ()) for event in _call(c)]
    if kind == "tool":
        shown = content if isinstance(content, str) else text_of(content) or content
        result, name, call_id = parse(shown), get("name"), get("tool_call_id")
        failed = get("status") == "error" or (isinstance(result, str) and result[:5].casefold() == "error")
        return [Event("result", result, str(name or ""), str(call_id or ""), failed)]
    text = text_of(content)
    if kind == "user":
        extra = get("additional_kwargs")
        unknown = isinstance(extra, Mapping) and extra.get(UNKNOWN) is True
        return [Event("user", text, unknown=unknown)]
    return [Event("system", text)] if kind == "system" else []


def mark_of(message: Any) -> int:
    """Equal for messages that mean the same, whatever their ids; cheaper than reading them."""
    content: Any
    calls: Any
    name: Any
    if type(message) is dict:  # the next but one question takes longer
        content, calls, extra = message.get("content"), message.get("tool_calls"), None
        name = message.get("role") or message.get("type")
    elif isinstance(message, BaseMessage):
        content, calls, name = message.content, getattr(message, "tool_calls", None), message.type
        if calls:
            calls = [(c["name"], c["args"]) for c in calls]
        extra = message.additional_kwargs.get(UNKNOWN)
    elif isinstance(message, Mapping):
        content, name, extra = message.get("content"), message.get("role") or message.get("type"), None
        calls = message.get("tool_calls")
    else:
        return hash(repr(message))
    return hash((name, content if isinstance(content, str) else repr(content), _written(calls) if calls else "", extra))


def _written(calls: Any) -> bytes | str:
    try:
        return marshal.dumps(calls, 2)  # twice as fast as repr; version 2: equal values are written alike
    except ValueError:
        return repr(calls)


def is_person(message: Any) -> bool:
    """Whether a message is a person's."""
    if isinstance(message, BaseMessage):
        return message.type == "human"
    role = message.get("role") or message.get("type") if isinstance(message, Mapping) else ""
    return role in ("user", "human") or (isinstance(message, tuple) and message[:1] in (("user",), ("human",)))


def list_of(messages: Any) -> list[Any]:
    """Messages as a list."""
    if messages is None:
        return []
    return list(messages) if isinstance(messages, list) else [messages]


def messages_in(value: Any, key: str) -> list[Any]:
    """The messages of a node's input or state: a list of them, or under `key` in a mapping or an object."""
    if isinstance(value, Mapping):
        return list_of(value.get(key))
    if isinstance(value, list):
        return value
    return list_of(getattr(value, key, None))


def written(output: Any, key: str) -> list[Event]:
    """The events in what a node returned: a message, a list, a mapping, ``Command`` objects, or a list of those."""
    if isinstance(output, BaseMessage):
        return read(output)
    if isinstance(output, Mapping):
        return read(output) if "role" in output else written(output.get(key), key)
    if isinstance(output, list | tuple):
        return [event for item in output for event in written(item, key)]
    return written(output.update, key) if isinstance(output, Command) else []


def _call(raw: Any) -> list[Event]:
    if not isinstance(raw, Mapping):
        return []
    function = raw.get("function")
    source = function if isinstance(function, Mapping) else raw
    name, args = source.get("name"), source.get("args", source.get("arguments"))
    if isinstance(args, str):
        try:
            args = json.loads(args)
        except (ValueError, RecursionError):
            return []
    if not isinstance(name, str) or not (args is None or isinstance(args, Mapping)):
        return []
    args = {str(k): v for k, v in (args or {}).items()}
    return [Event("call", args, name, str(raw.get("id") or ""))]
