"""Recorded runs from files: message lists of LangChain or OpenAI, and run exports of LangSmith."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage

from langgraph_speculative._target import CommandError

FORMATS = (
    "JSON or JSON lines of message lists, of objects with a `messages` list, or of LangSmith runs (`run_type`, "
    "`inputs`, `outputs`, `child_runs`)"
)

_KINDS = {
    **dict.fromkeys(("human", "user", "HumanMessage", "HumanMessageChunk"), "human"),
    **dict.fromkeys(("ai", "assistant", "AIMessage", "AIMessageChunk"), "ai"),
    **dict.fromkeys(("tool", "function", "ToolMessage", "FunctionMessage"), "tool"),
    **dict.fromkeys(("system", "developer", "SystemMessage"), "system"),
}


@dataclass(frozen=True)
class Recording:
    """One run.

    Attributes:
        messages: The conversation.
        model_seconds: How long its model calls took, where that is known.
        tool_seconds: The same of its tool calls, by tool.
        group: Runs with the same one are about the same task, and are not learned from to guess each other.
    """

    messages: list[AnyMessage]
    model_seconds: list[float] = field(default_factory=list)
    tool_seconds: Mapping[str, list[float]] = field(default_factory=dict)
    group: str = ""


def read_recordings(path: Path) -> list[Recording]:
    """All runs of a file that have tool calls in them.

    Raises:
        CommandError: It cannot be read, holds something else, or no tool call. The message says what is wrong where.
    """
    runs = [run for run in _runs(_values(path), path) if any(m.type == "ai" and m.tool_calls for m in run.messages)]
    if not runs:
        raise CommandError(f"{path} has no tool call in it, so there is nothing to guess; expected {FORMATS}.")
    return runs


def _values(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is not text in UTF-8; expected {FORMATS}.") from None
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else [value]
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) < 2:
            raise CommandError(f"{path} is not JSON: {error}") from None
    values = []
    for number, line in enumerate(lines, 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise CommandError(f"{path} is neither JSON nor JSON lines: line {number}: {error}") from None
    return values


def _runs(values: list[Any], path: Path) -> Iterator[Recording]:
    if values and all(_is_message(value) for value in values):
        values = [values]  # the file is one run
    exported: list[dict[str, Any]] = []
    for number, value in enumerate(values):
        where = f"{path}: run {number}"
        if isinstance(value, dict) and "run_type" in value:
            exported.append(value)
        elif isinstance(value, dict) and isinstance(value.get("messages"), list):
            group = value.get("task_id", value.get("thread_id", number))
            yield Recording(_messages(value["messages"], where), group=str(group))
        elif isinstance(value, list):
            yield Recording(_messages(value, where), group=str(number))
        else:
            raise CommandError(f"{where} is {_what(value)}; expected {FORMATS}.")
    yield from _exported(exported, path)


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and _kind(value) in _KINDS and "messages" not in value


def _kind(raw: dict[str, Any]) -> str:
    """The role or type as the file gives it."""
    if raw.get("lc") and isinstance(raw.get("id"), list) and raw["id"]:
        return str(raw["id"][-1])
    return str(raw.get("role") or raw.get("type") or "")


def _messages(raw: Any, where: str) -> list[AnyMessage]:
    return [_message(message, f"{where}, message {number}") for number, message in enumerate(raw)]


def _message(raw: Any, where: str) -> AnyMessage:
    if not isinstance(raw, dict) or _kind(raw) not in _KINDS:
        kinds = "a role (user, assistant, tool, system) or a type (human, ai, tool, system)"
        raise CommandError(f"{where} is {_what(raw)}; expected a message with {kinds}.")
    kind = _KINDS[_kind(raw)]
    for inside in ("kwargs", "data"):  # LangChain's serialised forms
        if isinstance(raw.get(inside), dict):
            raw = raw[inside]
    content = raw.get("content")
    content = content if isinstance(content, str | list) else "" if content is None else json.dumps(content)
    if kind == "ai":
        return AIMessage(content, tool_calls=list(_calls(raw, content, where)))
    if kind == "tool":
        name = raw.get("name")
        return ToolMessage(content, tool_call_id=str(raw.get("tool_call_id", "")), name=name and str(name))
    return HumanMessage(content) if kind == "human" else SystemMessage(content)


def _calls(raw: dict[str, Any], content: Any, where: str) -> Iterator[Any]:
    calls = raw.get("tool_calls") or []
    if not calls and isinstance(content, list):
        calls = [block for block in content if isinstance(block, dict) and block.get("type") == "tool_use"]
    for number, call in enumerate(calls):
        call = call if isinstance(call, dict) else {}
        inner = call.get("function")
        function: dict[str, Any] = inner if isinstance(inner, dict) else call
        args: Any = next((function[key] for key in ("args", "arguments", "input") if key in function), {})
        try:
            args = json.loads(args or "{}") if isinstance(args, str) else args
        except ValueError:
            args = None
        if not function.get("name") or not isinstance(args, dict):
            raise CommandError(f"{where}: tool call {number} needs a name, and an object of arguments.")
        yield {"name": str(function["name"]), "args": args, "id": str(call.get("id") or number), "type": "tool_call"}


# --- LangSmith ------------------------------------------------------------------------------------------------------


def _exported(runs: list[dict[str, Any]], path: Path) -> Iterator[Recording]:
    """One recording for each trace, nested (`child_runs`) or flat (`trace_id`)."""
    traces: dict[str, list[dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        trace = str(run.get("trace_id") or run.get("id") or number)
        traces.setdefault(trace, []).extend(_flat(run))
    for trace, parts in traces.items():
        where = f"{path}: trace {trace}"
        parts.sort(key=lambda part: str(part.get("start_time") or ""))
        found = [_conversation(part, where) for part in parts]
        models: list[float] = []
        tools: dict[str, list[float]] = {}
        for part in parts:
            seconds = _seconds(part, where)
            if seconds is not None and part.get("run_type") in ("llm", "chat_model"):
                models.append(seconds)
            elif seconds is not None and part.get("run_type") == "tool":
                tools.setdefault(str(part.get("name")), []).append(seconds)
        # The whole conversation is in what was given last, or in what the outermost run returned.
        yield Recording(max(found, key=len, default=[]), models, tools, trace)


def _flat(run: Any) -> Iterator[dict[str, Any]]:
    if isinstance(run, dict):
        yield run
        for child in run.get("child_runs") or []:
            yield from _flat(child)


def _conversation(run: Mapping[str, Any], where: str) -> list[AnyMessage]:
    """What a run was given and returned, as far as that is messages."""
    where = f"{where}, run {run.get('name')!r}"
    given, returned = run.get("inputs") or {}, run.get("outputs") or {}
    after = list(_message_dicts(returned))
    if run.get("run_type") not in ("llm", "chat_model"):
        return _messages(after, where)
    return _messages([*_message_dicts(given), *after], where)


def _message_dicts(value: Any) -> Iterable[Any]:
    if not isinstance(value, dict):
        return []
    generations = value.get("generations") or value.get("choices")
    if isinstance(generations, list):
        first = generations[0] if generations else None
        while isinstance(first, list):  # one list for each prompt of a batch
            first = first[0] if first else None
        message = first.get("message") if isinstance(first, dict) else None
        return [message] if _is_message(message) else []
    messages = value.get("messages")
    if isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], list):
        messages = messages[0]
    return [m for m in messages if _is_message(m)] if isinstance(messages, list) else []


def _seconds(run: Mapping[str, Any], where: str) -> float | None:
    started, ended = run.get("start_time"), run.get("end_time")
    if started is None or ended is None:
        return None
    try:
        if isinstance(started, int | float) and isinstance(ended, int | float):
            unit = 1000 if started > 1e11 else 1  # milliseconds since 1970, in some exports
            return max(0.0, (ended - started) / unit)
        return max(0.0, (datetime.fromisoformat(str(ended)) - datetime.fromisoformat(str(started))).total_seconds())
    except (TypeError, ValueError):
        raise CommandError(f"{where}: start_time {started!r} and end_time {ended!r} are not times.") from None


def _what(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object with the keys {', '.join(map(str, list(value)[:6])) or '(none)'}"
    return f"of type {type(value).__name__}"
