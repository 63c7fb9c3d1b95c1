"""Reading the tokens of a model while it writes: which tool calls of its message are complete by now.

A `Watch` stands for one execution of a node. While the node's code runs, it is in a context variable, and each callback
manager that LangChain sets up there gets it as one more handler, which no call below inherits and which asks no model
to stream. It reads the calls of the node itself (their metadata has the node's namespace), each in a `Reader` of its
own, so an attempt that failed leaves nothing in the next one.

    reading --a call is complete--> told    a partial message: a guess at the node's output
       |---- the model raises ----> withdrawn
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, AIMessageChunk, ToolCall, message_chunk_to_message
from langchain_core.messages.tool import tool_call

from langgraph_speculative import _compat

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    from langgraph_speculative._ledger import Execution
    from langgraph_speculative._nodes import NodeInfo
    from langgraph_speculative._session import Session

WATCH: ContextVar[Watch | None] = ContextVar("langgraph_speculative_watch", default=None)
"""Who reads along with the models that the current code calls."""

_TOKEN = re.compile(r'\\.|["{}\[\]]', re.DOTALL)


class _Call:
    """One tool call as far as it is written."""

    def __init__(self) -> None:
        self.name = ""
        self.id: str | None = None
        self.is_whole = False
        self._parts: list[str] = []
        self._rest = ""
        self._depth = 0
        self._in_text = False
        self.closed = False
        self._broken = False

    def add(self, args: str) -> None:
        """Take more of the arguments' JSON."""
        self._parts.append(args)
        args = self._rest + args
        # A backslash at the end escapes what comes next.
        lone = len(args) - len(args.rstrip("\\"))
        self._rest = "\\" if lone % 2 else ""
        if self._rest:
            args = args[:-1]
        if self.closed and args.strip():
            self._broken = True
        if not self._depth and not self.closed and args.strip() and not args.lstrip().startswith("{"):
            self._broken = True
        for found in _TOKEN.finditer(args):
            token = found[0]
            if token == '"':
                self._in_text = not self._in_text
            elif not self._in_text and token in "{[":
                self._depth += 1
            elif not self._in_text and token in "}]":
                self._depth -= 1
                if not self._depth:
                    self._broken = self._broken or self.closed or bool(args[found.end() :].strip())
                    self.closed = True

    def finished(self, ended: bool) -> ToolCall | None:
        """The call, if no further token can change it.

        An object that is closed cannot go on. An empty one is not trusted, since some models send ``{}`` before the
        arguments, and others begin several calls before they go into one: it waits, as do calls without any arguments,
        until a later call is written or the message ends.
        """
        if self._broken or not self.name or not self.id:
            return None
        over = ended or self.is_whole
        text = "".join(self._parts)
        if not text.strip():
            return tool_call(name=self.name, args={}, id=self.id) if over else None
        if not self.closed:
            return None
        try:
            args = json.loads(text, strict=False)
        except ValueError:
            return None
        return tool_call(name=self.name, args=args, id=self.id) if args or over else None


class Reader:
    """One message that a model is writing."""

    def __init__(self) -> None:
        self._calls: dict[object, _Call] = {}
        self._current: dict[object, object] = {}
        self._chunks: list[AIMessageChunk] = []
        self._blocks: dict[Any, dict[str, Any]] = {}
        self._id: str | None = None
        self._told: list[ToolCall] = []
        self._ended = False

    def read(self, message: AIMessageChunk) -> bool:
        """Take a chunk; whether other calls are complete than before."""
        self._chunks.append(message)
        self._ended = getattr(message, "chunk_position", None) == "last"
        for part in message.tool_call_chunks:
            self._part(part.get("index"), part.get("id"), part.get("name"), part.get("args"))
        return bool(message.tool_call_chunks or (self._ended and self._calls)) and self._has_news()

    def read_event(self, event: Mapping[str, Any]) -> bool:
        """Take an event of LangChain's newer streaming protocol, which knows blocks and no chunks."""
        kind, at = event.get("event"), event.get("index")
        if kind == "message-start":
            self._id = event.get("id")
            return False
        if kind == "message-finish":
            self._ended = True
            return self._has_news()
        if kind == "content-block-delta":
            delta: Any = event["delta"]
            if delta.get("type") == "text-delta":
                self._blocks.setdefault(at, {"type": "text", "text": "", "index": at})["text"] += delta["text"]
            elif delta.get("type") == "tool-call-delta":
                self._part(at, None, None, delta.get("args"))
                return self._has_news()
            return False
        block: Any = event.get("content") or {}
        if kind == "content-block-start" and block.get("type") == "tool_call_chunk":
            self._part(at, block.get("id"), block.get("name"), block.get("args"))
            return self._has_news()
        if kind == "content-block-finish":
            if block.get("type") == "tool_call":
                whole = _Call()
                whole.name, whole.id, whole.is_whole = block["name"], block["id"], True
                whole.add(json.dumps(block["args"]))
                self._calls[self._current.setdefault(at, at)] = whole
                return self._has_news()
            if block.get("type") != "text":
                self._blocks[at] = dict(block)
        return False

    def end(self) -> bool:
        """The model has returned; whether other calls are complete than before."""
        self._ended = True
        return bool(self._calls) and self._has_news()

    def _part(self, index: Any, call_id: str | None, name: str | None, args: str | None) -> None:
        # As LangChain merges them: by index, and where two calls share one, by id; without an index each is a call.
        key = object() if index is None else self._current.get(index)
        call = self._calls.get(key)
        if call is None or (call_id and call.id and call_id != call.id):
            key = object()
            self._current[key if index is None else index] = key
            call = self._calls[key] = _Call()
            call.is_whole = index is None
        call.name += name or ""
        call.id = call.id or call_id
        if args:
            call.add(args)

    def _has_news(self) -> bool:
        calls: list[ToolCall] = []
        over = self._ended
        for call in reversed(self._calls.values()):
            if (done := call.finished(over)) is not None:
                calls.insert(0, done)
            over = over or call.closed
        if calls == self._told:
            return False
        self._told = calls
        return True

    def partial(self) -> tuple[list[ToolCall], Any]:
        """The calls that are complete, and what `message_of` makes their message from."""
        if self._chunks:
            return self._told, tuple(self._chunks)
        return self._told, (self._id, [self._blocks[at] for at in sorted(self._blocks)])


def message_of(calls: Sequence[ToolCall], parts: Any) -> AIMessage:
    """The message as far as it is written, with the complete calls alone."""
    calls = list(calls)
    if isinstance(parts[0], AIMessageChunk):
        merged: Any = parts[0] if len(parts) == 1 else parts[0] + parts[1:]
        whole: Any = message_chunk_to_message(merged)
        own: AIMessage = whole.model_copy(update={"tool_calls": calls, "invalid_tool_calls": []})
        return own
    own_id, blocks = parts
    in_content = [{"type": "tool_call", "id": c["id"], "name": c["name"], "args": c["args"]} for c in calls]
    return AIMessage(content=[*blocks, *in_content], tool_calls=calls, id=own_id)


class Watch(BaseCallbackHandler):
    """Reads along with the models that one execution of a node calls; see the module's docstring."""

    run_inline = True
    ignore_chain = ignore_agent = ignore_retriever = ignore_retry = ignore_custom_event = True

    def __init__(self, session: Session, ex: Execution, info: NodeInfo, config: RunnableConfig) -> None:
        self._session = session
        self._ex = ex
        self._info = info
        self._namespace = _namespace_in(config.get("metadata"))
        self._readers: dict[UUID, Reader] = {}
        _compat.watch_managers(_attach)

    def on_chat_model_start(self, *_: Any, run_id: UUID, metadata: Any = None, **__: Any) -> None:
        # A graph or agent inside the node has models of its own, whose calls are not the node's.
        if _namespace_in(metadata) == self._namespace:
            self._readers[run_id] = Reader()

    def on_llm_new_token(self, *_: Any, run_id: UUID, chunk: Any = None, **__: Any) -> None:
        reader, message = self._readers.get(run_id), getattr(chunk, "message", None)
        if reader is not None and isinstance(message, AIMessageChunk):
            self._tell_if(reader, reader.read, message)

    def on_stream_event(self, event: Any, *, run_id: UUID, **_: Any) -> None:
        if (reader := self._readers.get(run_id)) is not None:
            self._tell_if(reader, reader.read_event, event)

    def on_llm_end(self, *_: Any, run_id: UUID, **__: Any) -> None:
        if (reader := self._readers.pop(run_id, None)) is not None:
            self._tell_if(reader, reader.end)

    def on_llm_error(self, *_: Any, run_id: UUID, **__: Any) -> None:
        if self._readers.pop(run_id, None) is not None:
            self._session.post(self._session.tree.withdraw, self._ex, threaded=True)

    def _tell_if(self, reader: Reader, look: Any, *args: Any) -> None:
        """Propose what is complete, if there is news. Making the message of it is left to the session's loop."""
        try:
            if not look(*args):
                return
            calls, parts = reader.partial()
            # Calls of no tool (structured output, what a selector asks its model) lead nowhere.
            calls = [c for c in calls if c["name"] in self._info.called]
            if any(self._info.called[c["name"]] for c in calls):
                self._session.post(self._propose, calls, parts, threaded=True)
        except Exception as error:
            self._session.fail(error)

    def _propose(self, calls: list[ToolCall], parts: Any) -> None:
        stream = self._info.stream
        assert stream is not None
        self._session.tree.streamed(self._ex, lambda: stream.output_for(message_of(calls, parts)), self._info)


def _namespace_in(metadata: Any) -> str:
    return str((metadata or {}).get("langgraph_checkpoint_ns", ""))


def _attach(manager: Any) -> None:
    watch = WATCH.get()
    if watch is not None and not any(h is watch for h in manager.handlers):
        # Not inherited, so that nobody who looks at the handlers of a run finds it.
        manager.handlers.append(watch)


UNWATCHED = nullcontext()
"""For code that nobody watches: most of it, and this is on the way of every node."""


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Let code be watched."""
    token = WATCH.set(watch)
    try:
        yield
    finally:
        WATCH.reset(token)
