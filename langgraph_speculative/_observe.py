"""Everything that a run shows to the outside, in a form in which two runs can be compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import merge_configs
from langgraph.errors import InvalidUpdateError
from langgraph.types import Send, StreamMode
from pydantic import BaseModel

from langgraph_speculative._compare import Fields, difference, kind_of

MODES: tuple[StreamMode, ...] = ("values", "updates", "custom", "messages", "tasks", "checkpoints", "debug")

_MINTED = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # uuids: tasks, runs, checkpoints, messages
    r"|(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])(?:\.\d+\.\d+(?:e-\d+)?)?"  # hashes: interrupts; versions of channels
    r"|\b(?:call|toolu|msg|resp|chatcmpl|run)[_-][0-9A-Za-z]{16,}"  # what providers mint
)
_NUMBERED = re.compile(r"<id \d+>")
_CLOCKS = ("ts", "timestamp", "created_at", "updated_at", "node_first_attempt_time")
_MANY = 100_000  # items of a store; a search without a limit gives ten


class Canon:
    """Maps values to comparable ones: types kept, minted ids numbered by first sight, clock times dropped."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}

    def text(self, value: str) -> str:
        return _MINTED.sub(lambda found: self._ids.setdefault(found[0], f"<id {len(self._ids)}>"), value)

    def __call__(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | bytes | Enum):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, UUID):
            return self.text(str(value))
        if isinstance(value, list):
            return [self(v) for v in value]
        if isinstance(value, dict):
            return self._pairs(value)
        kind = kind_of(value)
        if isinstance(value, BaseException):
            return Fields(kind, {"args": self(value.args)})
        if isinstance(value, BaseModel):
            return Fields(kind, self._pairs(value.__dict__ | (value.model_extra or {})))
        if is_dataclass(value) and not isinstance(value, type):
            return Fields(kind, self._pairs({f.name: getattr(value, f.name) for f in fields(value)}))
        if isinstance(value, tuple):
            if hasattr(value, "_asdict"):
                return Fields(kind, self._pairs(value._asdict()))
            return Fields(kind, {"items": [self(v) for v in value]})
        if isinstance(value, set | frozenset):
            return Fields(kind, {"items": sorted(map(repr, map(self, value)))})
        if isinstance(value, Send):
            return Fields(kind, {"node": value.node, "arg": self(value.arg)})
        if cast(Any, type(value)).__repr__ is object.__repr__:
            return kind
        return Fields(kind, {"repr": self.text(repr(value))})

    def _pairs(self, pairs: dict[Any, Any]) -> dict[Any, Any]:
        return {_hashable(self(k)): self(v) for k, v in pairs.items() if not (k in _CLOCKS and _is_time(v))}


def _hashable(key: Any) -> Any:
    return key if isinstance(key, str | int | float | bytes | None) else repr(key)


def _is_time(value: Any) -> bool:
    """Whether it is a time of LangGraph's own, and not what a state happens to keep under such a name."""
    if isinstance(value, int):
        return value > 1_000_000_000_000  # event streams count milliseconds
    if not isinstance(value, str):
        return value is None or isinstance(value, datetime | float)
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def blurred(value: Any) -> Any:
    """A comparable value without the numbers of its ids and the order of its keys: to be sorted by its text."""
    if isinstance(value, str):
        return _NUMBERED.sub("<id>", value)
    if isinstance(value, dict):
        return dict(sorted(((blurred(k), blurred(v)) for k, v in value.items()), key=repr))
    if isinstance(value, list):
        return [blurred(v) for v in value]
    if isinstance(value, Fields):
        return Fields(value.kind, blurred(value.fields))
    return value


@dataclass
class Run:
    """One run, comparable with ``==``.

    Args:
        error: What it raised.
        chunks: Its stream: namespace, mode and payload of each chunk.
        callbacks: The events of a `Recorder`.
        state: The thread's state after it, and those of nested graphs.
        history: The thread's checkpoints, the latest first.
        store: The items of the graph's store.
        forks: Whether one of its nodes has called several tools: a tool node calls them beside each other.
    """

    error: Any
    chunks: Any
    callbacks: Any
    state: Any = None
    history: Any = None
    store: Any = None
    forks: bool = field(default=False, compare=False)

    @property
    def is_parallel(self) -> bool:
        """Whether two tasks of one graph, or two tools of one task, may have been under way at once.

        Tasks need the stream mode ``"tasks"``.
        """
        if self.forks:
            return True
        running: dict[str, set[str]] = {}
        for namespace, mode, payload in (chunk.fields["items"] for chunk in self.chunks):
            if mode == "tasks":
                here = running.setdefault(repr(namespace), set())
                (here.add if "triggers" in payload else here.discard)(payload["id"])
                if len(here) > 1:
                    return True
        return False

    def unordered(self) -> Run:
        """The run without the order in which the tasks of one superstep went on."""
        segments: list[list[Any]] = [[]]
        for chunk in self.chunks:
            namespace, mode, payload = chunk.fields["items"]
            segments[-1].append(blurred(chunk))
            # An interrupt is told as soon as its task stops, and the others of the superstep go on.
            if mode == "values" and not namespace.fields["items"] and "__interrupt__" not in payload:
                segments.append([])
        return replace(
            self,
            chunks=[sorted(segment, key=repr) for segment in segments],
            callbacks=sorted(map(blurred, self.callbacks), key=repr),
            error=blurred(self.error),
            state=blurred(self.state),
            history=blurred(self.history),
        )

    def difference(self, other: Run, names: tuple[str, str]) -> str | None:
        """The path of the first difference to another run, and both values; ``None`` if there is none."""
        for part in fields(self):
            mine, theirs = getattr(self, part.name), getattr(other, part.name)
            if part.compare and (found := difference(part.name, mine, theirs, names)):
                return found
        return None


# --- observing --------------------------------------------------------------------------------------------------

Keep = Callable[[Any], Any]


def collect(graph: Any, value: Any, config: Any, keep: Keep, **kwargs: Any) -> tuple[list[Any], Exception | None]:
    """The chunks of a stream, as `keep` maps them on arrival, and what it raised."""
    out: list[Any] = []
    try:
        for chunk in graph.stream(value, config, **kwargs):
            out.append(keep(chunk))  # noqa: PERF401 - what came before an error counts
    except Exception as error:
        return out, error
    return out, None


async def acollect(
    graph: Any, value: Any, config: Any, keep: Keep, **kwargs: Any
) -> tuple[list[Any], Exception | None]:
    """`collect` on an event loop."""
    out: list[Any] = []
    try:
        async for chunk in graph.astream(value, config, **kwargs):
            out.append(keep(chunk))  # noqa: PERF401 - what came before an error counts
    except Exception as error:
        return out, error
    return out, None


def observe(
    graph: Any,
    value: Any,
    config: Any = None,
    *,
    modes: Sequence[str] = MODES,
    listen: Callable[[Any], object] = lambda _: None,
    **kwargs: Any,
) -> Run:
    """Run the graph, and keep all that can be seen of it.

    Args:
        graph: What to run.
        value: Its input.
        config: Its config; state and history are kept if the graph has a checkpointer.
        modes: Stream modes.
        listen: Called with each chunk as it comes.
        kwargs: Further arguments of ``stream``.
    """
    canon, recorder = Canon(), Recorder()
    config = _heard(config, recorder)
    keep = _keeper(canon, listen)
    chunks, error = collect(graph, value, config, keep, **_streaming(modes, kwargs))
    run = Run(canon(error), chunks, recorder.events, forks=recorder.forks)
    if graph.checkpointer:
        try:
            run.state = canon(graph.get_state(config, subgraphs=True))
            run.history = canon(list(graph.get_state_history(config)))
        except InvalidUpdateError as failure:  # a failed step's writes need not fit together
            run.state = canon(failure)
    if graph.store is not None:
        run.store = _items(graph.store.search((), limit=_MANY))
    return run


async def aobserve(
    graph: Any,
    value: Any,
    config: Any = None,
    *,
    modes: Sequence[str] = MODES,
    listen: Callable[[Any], object] = lambda _: None,
    **kwargs: Any,
) -> Run:
    """`observe` on an event loop."""
    canon, recorder = Canon(), Recorder()
    config = _heard(config, recorder)
    keep = _keeper(canon, listen)
    chunks, error = await acollect(graph, value, config, keep, **_streaming(modes, kwargs))
    run = Run(canon(error), chunks, recorder.events, forks=recorder.forks)
    if graph.checkpointer:
        try:
            run.state = canon(await graph.aget_state(config, subgraphs=True))
            run.history = canon([snapshot async for snapshot in graph.aget_state_history(config)])
        except InvalidUpdateError as failure:
            run.state = canon(failure)
    if graph.store is not None:
        run.store = _items(await graph.store.asearch((), limit=_MANY))
    return run


def _heard(config: Any, recorder: BaseCallbackHandler) -> Any:
    """The config with one more handler. (Merged whole, a recursion limit of 25 would get lost.)"""
    own = dict(config or {})
    merged = merge_configs({"callbacks": [recorder]}, {"callbacks": own.get("callbacks")})
    return {**own, "callbacks": merged["callbacks"]}


def _keeper(canon: Canon, listen: Callable[[Any], object]) -> Keep:
    def keep(chunk: Any) -> Any:
        listen(chunk)
        # Made comparable on arrival: it may hold an object that a later node changes in place.
        return canon(chunk)

    return keep


def _streaming(modes: Sequence[str], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"stream_mode": list(modes), "subgraphs": True, **kwargs}


def _items(found: Sequence[Any]) -> list[Any]:
    items = sorted(found, key=lambda item: (item.namespace, item.key))
    canon = Canon()
    return [{"namespace": canon(i.namespace), "key": canon(i.key), "value": canon(i.value)} for i in items]


class Recorder(BaseCallbackHandler):
    """A callback handler that notes each event with its run's and its parent's name."""

    run_inline = True

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._canon = Canon()
        self._names: dict[UUID, str] = {}
        self._callers: set[UUID] = set()
        self.forks = False

    def of(self, kind: str) -> list[Any]:
        """The events of one kind."""
        return [event for event in self.events if event["event"] == kind]

    def _start(self, kind: str, serialized: Any, value: Any, kw: dict[str, Any]) -> None:
        name = kw.get("name") or (serialized or {}).get("name") or "?"
        self._names[kw["run_id"]] = name
        metadata = {k: v for k, v in (kw.get("metadata") or {}).items() if not k.startswith("__")}
        self._note(kind, value, kw, metadata=metadata, tags=sorted(kw.get("tags") or ()))

    def _note(self, kind: str, value: Any, kw: dict[str, Any], **more: Any) -> None:
        parent = kw.get("parent_run_id")
        event = {
            "event": kind,
            "run": self._names.get(kw["run_id"], "unknown"),
            "parent": self._names.get(parent, "unknown") if parent else None,
            "value": value,
            **more,
        }
        # Made comparable on arrival, as a later node may change the value in place.
        self.events.append(cast(Any, self._canon(event)))

    def on_chain_start(self, serialized: Any, inputs: Any, **kw: Any) -> None:
        self._start("chain_start", serialized, inputs, kw)

    def on_chain_end(self, outputs: Any, **kw: Any) -> None:
        self._note("chain_end", outputs, kw)

    def on_chain_error(self, error: BaseException, **kw: Any) -> None:
        self._note("chain_error", error, kw)

    def on_chat_model_start(self, serialized: Any, messages: Any, **kw: Any) -> None:
        self._start("chat_model_start", serialized, messages, kw)

    def on_llm_start(self, serialized: Any, prompts: Any, **kw: Any) -> None:
        self._start("llm_start", serialized, prompts, kw)

    def on_llm_new_token(self, token: Any, **kw: Any) -> None:
        self._note("token", token, kw)

    def on_llm_end(self, response: Any, **kw: Any) -> None:
        self._note("llm_end", response, kw)

    def on_llm_error(self, error: BaseException, **kw: Any) -> None:
        self._note("llm_error", error, kw)

    def on_retriever_start(self, serialized: Any, query: str, **kw: Any) -> None:
        self._start("retriever_start", serialized, query, kw)

    def on_retriever_end(self, documents: Any, **kw: Any) -> None:
        self._note("retriever_end", documents, kw)

    def on_retriever_error(self, error: BaseException, **kw: Any) -> None:
        self._note("retriever_error", error, kw)

    def on_tool_start(self, serialized: Any, input_str: str, **kw: Any) -> None:
        if (parent := kw.get("parent_run_id")) is not None:
            self.forks = self.forks or parent in self._callers
            self._callers.add(parent)
        self._start("tool_start", serialized, input_str, kw)

    def on_tool_end(self, output: Any, **kw: Any) -> None:
        self._note("tool_end", output, kw)

    def on_tool_error(self, error: BaseException, **kw: Any) -> None:
        self._note("tool_error", error, kw)

    def on_custom_event(self, name: str, data: Any, **kw: Any) -> None:
        self._note(f"custom:{name}", data, kw)
