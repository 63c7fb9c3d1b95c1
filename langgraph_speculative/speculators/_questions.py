"""What `Model` asks a chat model about a node, and how the answer becomes the node's output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool
from pydantic import BaseModel, Field, ValidationError

from langgraph_speculative._nodes import tool_calls
from langgraph_speculative.speculators._content import outcome_of

MAX_CHARACTERS = 4000
"""Of one message, in a transcript."""


# The schemas have no defaults, bounds or free-form objects: strict structured output knows none of these.


class Call(BaseModel):
    """One tool call."""

    name: str
    arguments: str = Field(description="The arguments: a JSON object, as text.")


class CallsGuess(BaseModel):
    """One way in which the assistant may go on."""

    calls: list[Call] = Field(description="The tool calls of the next message; empty if it only speaks.")
    confidence: float = Field(description="Probability from 0 to 1 that exactly this comes.")


class NextCalls(BaseModel):
    """The likeliest next tool calls."""

    guesses: list[CallsGuess]


class ResultsGuess(BaseModel):
    """One way in which the calls may end."""

    results: list[str] = Field(description="What each call returns, as text, in their order.")
    confidence: float = Field(description="Probability from 0 to 1 that exactly this comes.")


class NextResults(BaseModel):
    """The likeliest results of the calls."""

    guesses: list[ResultsGuess]


class WordsGuess(BaseModel):
    """One thing that the person may say."""

    text: str
    confidence: float = Field(description="Probability from 0 to 1 that exactly this comes.")


class NextWords(BaseModel):
    """The likeliest next words of the person."""

    guesses: list[WordsGuess]


class Question:
    """What is asked about one execution of a node."""

    schema: type[BaseModel]
    form: str

    @classmethod
    def suits(cls, value: Any, key: str) -> bool:
        """Whether a conversation suggests this question where no node does."""
        raise NotImplementedError

    @classmethod
    def of(cls, value: Any, key: str, tools: Mapping[str, BaseTool]) -> Question | None:
        """The question, or ``None`` if there is nothing to ask about."""
        raise NotImplementedError

    def task(self, k: int) -> str:
        """The question in words."""
        raise NotImplementedError

    def output(self, answer: dict[str, Any]) -> Any:
        """One answer as the node's output; ``None`` if it makes none."""
        raise NotImplementedError

    @staticmethod
    def same(one: Any, other: Any) -> bool:
        """Whether two outputs do the same."""
        return bool(outcome_of(one) == outcome_of(other))


class Calls(Question):
    """The next tool calls of a node that calls a model."""

    schema = NextCalls
    form = (
        '{"guesses": [{"calls": [{"name": "<tool>", "arguments": "<JSON object as text>"}], "confidence": <0 to 1>}]}'
    )

    def __init__(self, key: str, tools: Mapping[str, BaseTool]) -> None:
        self._key = key
        self._tools = tools

    @classmethod
    def suits(cls, value: Any, key: str) -> bool:
        return bool(messages_in(value, key))

    @classmethod
    def of(cls, value: Any, key: str, tools: Mapping[str, BaseTool]) -> Calls | None:
        return cls(key, tools) if tools and messages_in(value, key) else None

    def task(self, k: int) -> str:
        described = "\n".join(
            f"- {t.name}: {t.description}\n  arguments: {json.dumps(_properties(t), default=str)}"
            for t in self._tools.values()
        )
        return (
            f"Which tool calls will the assistant's next message make? Give the {k} likeliest different answers. All "
            "calls of one message belong into one answer. Copy identifiers exactly, and leave out arguments that the "
            f"assistant would leave out.\n\nTools:\n{described}"
        )

    def output(self, answer: dict[str, Any]) -> Any:
        calls = []
        for call in _list(answer, "calls"):
            if not isinstance(call, dict) or (tool := self._tools.get(str(call.get("name")))) is None:
                return None
            args = _object(call.get("arguments", call.get("args")))
            if args is None or (args := as_written(tool, args)) is None:
                return None
            calls.append({"name": tool.name, "args": args, "id": f"call_{uuid4().hex}", "type": "tool_call"})
        return {self._key: [AIMessage("", tool_calls=calls)]} if calls else None


class Results(Question):
    """What a tool node's calls return."""

    schema = NextResults
    form = '{"guesses": [{"results": ["<text>"], "confidence": <0 to 1>}]}'

    def __init__(self, calls: Sequence[Any], key: str, tools: Mapping[str, BaseTool], as_list: bool) -> None:
        self._calls = calls
        self._key = key
        self._tools = tools
        self._as_list = as_list

    @classmethod
    def suits(cls, value: Any, key: str) -> bool:
        calls, messages = _calls_of(value, key), messages_in(value, key)
        # An older message's calls have been made. A call that is sent by itself is not.
        return bool(calls) and (not messages or calls == getattr(messages[-1], "tool_calls", None) or "__type" in value)

    @classmethod
    def of(cls, value: Any, key: str, tools: Mapping[str, BaseTool]) -> Results | None:
        calls = _calls_of(value, key)
        as_list = isinstance(value, list) and all(isinstance(v, BaseMessage) for v in value)
        return cls(calls, key, tools, as_list) if calls else None

    def task(self, k: int) -> str:
        calls = "\n".join(
            f"{n}. {c['name']}({json.dumps(c['args'], default=str)})"
            + (f" - {self._tools[c['name']].description}" if c["name"] in self._tools else "")
            for n, c in enumerate(self._calls, 1)
        )
        return (
            f"What will these tool calls return? Give the {k} likeliest different answers, each with the result of "
            "every call in this order, character by character as the tool would write it. Results of the same tool "
            f"further up show its form.\n\n{calls}"
        )

    def output(self, answer: dict[str, Any]) -> Any:
        results = _list(answer, "results")
        if len(results) != len(self._calls):
            return None
        messages = [
            ToolMessage(r if isinstance(r, str) else json.dumps(r), name=c["name"], tool_call_id=c["id"])
            for r, c in zip(results, self._calls, strict=True)
        ]
        return messages if self._as_list else {self._key: messages}


class Words(Question):
    """What the person says next."""

    schema = NextWords
    form = '{"guesses": [{"text": "<words>", "confidence": <0 to 1>}]}'

    def __init__(self, key: str) -> None:
        self._key = key

    @classmethod
    def suits(cls, value: Any, key: str) -> bool:
        messages = messages_in(value, key)
        return bool(messages) and isinstance(messages[-1], AIMessage) and not messages[-1].tool_calls

    @classmethod
    def of(cls, value: Any, key: str, tools: Mapping[str, BaseTool]) -> Words | None:
        return cls(key) if messages_in(value, key) else None

    def task(self, k: int) -> str:
        return (
            f"What will the person say next? Give the {k} likeliest different answers, each in the person's own voice, "
            "with all that they are likely to ask for."
        )

    def output(self, answer: dict[str, Any]) -> Any:
        text = answer.get("text")
        return {self._key: [HumanMessage(text)]} if isinstance(text, str) and text.strip() else None


# --- the conversation -----------------------------------------------------------------------------------------------


def messages_in(value: Any, key: str) -> list[BaseMessage]:
    """The messages of a node's input, whatever else is in it."""
    if isinstance(value, dict):
        value = value.get("state", value) if value.get("__type") == "tool_call_with_context" else value
    held = value.get(key) if isinstance(value, dict) else value if isinstance(value, list) else getattr(value, key, ())
    if not isinstance(held, list | tuple):
        return []
    return [m for m in held if isinstance(m, BaseMessage)]


def _calls_of(value: Any, key: str) -> list[Any]:
    try:
        calls = tool_calls(value, key)
    except (AttributeError, KeyError, TypeError):  # no input of a tool node
        return []
    return [c for c in calls if isinstance(c, dict) and {"name", "args", "id"} <= c.keys()]


def transcript(value: Any, key: str, window: int) -> str:
    """The conversation as text, so that the model does not take itself for a part of it."""
    messages = messages_in(value, key)
    shown = [m for m in messages[:-window] if isinstance(m, SystemMessage)] + messages[-window:]
    lines = []
    for message in shown:
        text = str(message.text)
        if len(text) > MAX_CHARACTERS:
            text = f"{text[:MAX_CHARACTERS]} […]"
        who = {"human": "PERSON", "ai": "ASSISTANT", "tool": f"TOOL {message.name or ''}".strip()}
        lines.append(f"{who.get(message.type, message.type.upper())}: {text}".rstrip())
        lines += [
            f"ASSISTANT CALLS {c['name']}({json.dumps(c['args'], default=str)})"
            for c in getattr(message, "tool_calls", ())
        ]
    return "\n".join(lines)


# --- the answers ----------------------------------------------------------------------------------------------------


def answers_in(given: Any) -> Iterator[dict[str, Any]]:
    """The answers in what a model has returned: parsed, in the arguments of a tool call, or JSON somewhere in text."""
    for found in _objects_in(given):
        if isinstance(found, BaseModel):
            found = found.model_dump()
        if isinstance(found, dict):
            found = found.get("guesses", [found])
        if isinstance(found, list) and (answers := [a for a in found if isinstance(a, dict)]):
            yield from answers
            return


def _objects_in(given: Any) -> Iterator[Any]:
    raw = given
    if isinstance(given, dict) and "raw" in given:
        raw = given["raw"]
        if given.get("parsed") is not None:
            yield given["parsed"]
    for call in getattr(raw, "tool_calls", ()):
        yield call["args"]
    text = str(raw.text) if isinstance(raw, BaseMessage) else raw if isinstance(raw, str) else ""
    decoder, at = json.JSONDecoder(), 0
    while (at := min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0), default=-1)) >= 0:
        try:
            found, end = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
        else:
            yield found
            at = end


def _list(answer: dict[str, Any], name: str) -> list[Any]:
    held = answer.get(name)
    return held if isinstance(held, list) else []


def _object(held: Any) -> dict[str, Any] | None:
    if isinstance(held, str):
        try:
            held = json.loads(held or "{}")
        except ValueError:
            return None
    return held if isinstance(held, dict) else None


def _properties(tool: BaseTool) -> dict[str, Any]:
    """The JSON schema of a tool's arguments that a model sees."""
    schema: Any = tool.tool_call_schema
    if not isinstance(schema, dict):
        schema = schema.model_json_schema() if issubclass(schema, BaseModel) else schema.schema()
    return {k: v for k, v in schema.items() if k in ("properties", "required", "$defs")}


def as_written(tool: BaseTool, args: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments as a model would write them, in the schema's order and types; ``None`` if the tool refuses them."""
    known = _properties(tool)
    names = list(known.get("properties", {}))
    if set(args) - set(names) or set(known.get("required", ())) - set(args):
        return None
    schema = tool.tool_call_schema
    if not isinstance(schema, dict) and issubclass(schema, BaseModel):
        try:
            # Not what is validated but what is written: a default that was left out stays out.
            args = schema.model_validate(args).model_dump(mode="json", by_alias=True, exclude_unset=True)
        except ValidationError:
            return None
    return {name: args[name] for name in names if name in args}
