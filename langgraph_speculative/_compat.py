"""The only file that touches the internals of LangGraph and LangChain.

Each use has a test in `tests/test_compat.py` that fails when a release moves it. `missing()` names what the installed
release lacks; the graph then runs plain, with one warning.
"""

from __future__ import annotations

import inspect
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context, ContextVar, copy_context
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager, manager
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.config import run_in_executor, var_child_runnable_config
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.tools.simple import Tool
from langchain_core.tracers import _streaming, context
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langgraph._internal._config import patch_configurable
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CACHE,
    CONFIG_KEY_CALL,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_DURABILITY,
    CONFIG_KEY_READ,
    CONFIG_KEY_REPLAY_STATE,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_THREAD_ID,
    ERROR,
    INPUT,
    INTERRUPT,
    NS_SEP,
    NULL_TASK_ID,
    RESUME,
    TASKS,
)
from langgraph._internal._runnable import RunnableCallable
from langgraph._internal._typing import MISSING
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode
from langgraph.pregel import Pregel, _checkpoint
from langgraph.pregel._algo import PregelTaskWrites, apply_writes, prepare_next_tasks
from langgraph.pregel._io import read_channels
from langgraph.pregel._read import PregelNode
from langgraph.pregel._write import ChannelWrite
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Interrupt
from langsmith.run_helpers import _set_tracing_context, get_tracing_context

from langgraph_speculative._values import Memo, Opaque, copy_value, freeze
from langgraph_speculative._view import Barrier

__all__ = [
    "CONF",
    "CompiledStateGraph",
    "Pregel",
    "PregelNode",
    "RunnableCallable",
    "Runtime",
    "ToolNode",
    "tool_call_writer",
    "var_child_runnable_config",
]

try:
    from langgraph.pregel._tools import StreamToolCallHandler as _ToolHandler
    from langgraph.pregel._tools import _tool_call_writer as tool_call_writer
except ImportError:  # before the stream mode "tools"
    _ToolHandler = type("_Absent", (), {})  # type: ignore[assignment,misc]
    tool_call_writer = ContextVar("absent", default=None)

_StreamingV2: type = getattr(_streaming, "_V2StreamingCallbackHandler", type("_Absent", (), {}))


def missing() -> str | None:
    """What the engine needs and the installed LangGraph lacks; ``None`` if all is there."""
    wanted: dict[Callable[..., Any], set[str]] = {
        prepare_next_tasks: {"trigger_to_nodes", "updated_channels", "for_execution", "manager", "store"},
        apply_writes: {"checkpoint", "channels", "tasks", "get_next_version", "trigger_to_nodes"},
    }
    for function, names in wanted.items():
        if lacking := names - set(inspect.signature(function).parameters):
            return f"{function.__qualname__}({', '.join(sorted(lacking))})"
    return None


# --- the running step -------------------------------------------------------------------------------------------


def loop_of(config: RunnableConfig) -> Any | None:
    """The Pregel loop that runs the task with this config, or ``None`` outside of one."""
    call: Any = config[CONF].get(CONFIG_KEY_CALL)
    if (code := getattr(call, "__code__", None)) is not None and "call" in code.co_freevars:
        # Of a node with a timeout: a closure that stops it when the time is up.
        call = call.__closure__[code.co_freevars.index("call")].cell_contents
    schedule = getattr(call, "keywords", {}).get("schedule_task")
    loop = getattr(schedule, "__self__", None)
    return loop if hasattr(loop, "trigger_to_nodes") else None


def step_of(config: RunnableConfig) -> int | None:
    """The superstep of the Pregel loop that runs the task with this config, if one does."""
    loop = loop_of(config)
    return None if loop is None else int(loop.step)


def is_first_attempt(config: RunnableConfig) -> bool:
    """Whether the task is neither a retry nor resumed with an answer: only then may it claim."""
    conf = config[CONF]
    info = getattr(conf.get(CONFIG_KEY_RUNTIME), "execution_info", None)
    if info is not None and getattr(info, "node_attempt", 1) > 1:
        return False
    pad = conf.get(CONFIG_KEY_SCRATCHPAD)
    return pad is None or (not pad.resume and pad.get_null_resume(False) is None)


def task_id_of(config: RunnableConfig) -> str:
    return str(config[CONF].get("__pregel_task_id"))


def namespace_of(config: RunnableConfig) -> str:
    return str(config[CONF].get(CONFIG_KEY_CHECKPOINT_NS, ""))


def namespace_of_loop(loop: Any) -> str:
    """The namespace of a graph that runs; that of its tasks begins with it."""
    return NS_SEP.join(loop.checkpoint_ns)


def stream_writer_of(config: RunnableConfig) -> Callable[[Any], None] | None:
    return getattr(config[CONF].get(CONFIG_KEY_RUNTIME), "stream_writer", None)


def stream_of(config: RunnableConfig) -> Callable[[Any], None] | None:
    """Where the graphs that a task runs inside send their chunks; ``None`` when the run does not ask for them."""
    return config[CONF].get(CONFIG_KEY_STREAM)


def call_of(config: RunnableConfig) -> Callable[..., Any]:
    """What schedules the functional-API tasks that a task calls."""
    call: Callable[..., Any] = config[CONF][CONFIG_KEY_CALL]
    return call


def current_namespace() -> str:
    """The namespace of the task whose code is running."""
    config = var_child_runnable_config.get()
    return namespace_of(config) if config else ""


def enter_namespace(config: RunnableConfig, namespace: str) -> None:
    """Stand, in the current context, in a task of a graph inside the task with this config."""
    var_child_runnable_config.set(patch_configurable(config, {CONFIG_KEY_CHECKPOINT_NS: namespace}))


def in_namespace(config: RunnableConfig, translate: Callable[[str], str]) -> RunnableConfig:
    """The config of a checkpoint in a translated namespace."""
    return {**config, CONF: {**config[CONF], CONFIG_KEY_CHECKPOINT_NS: translate(namespace_of(config))}}


def checkpoints_above(config: RunnableConfig) -> dict[str, str]:
    """By namespace, the checkpoints that a graph inside the task with this config takes for its parents."""
    return config[CONF].get(CONFIG_KEY_CHECKPOINT_MAP) or {}


def own_interrupt(error: GraphInterrupt, early: str, real: str) -> GraphInterrupt | None:
    """The interrupt of a task in one namespace as that of a task in another; ``None`` if a graph inside made it."""
    interrupts = error.args[0] if error.args else ()
    if any(i.id != Interrupt.from_ns(None, early).id for i in interrupts):
        return None
    own = [copy(i) for i in interrupts]
    for i in own:
        i.id = Interrupt.from_ns(None, real).id
    return GraphInterrupt(tuple(own))


def streams_tools(handlers: Sequence[Any]) -> bool:
    """Whether one of the run's handlers streams the partial output of tools."""
    return any(isinstance(h, _ToolHandler) for h in handlers)


def store_of(config: RunnableConfig) -> Any:
    return getattr(config[CONF].get(CONFIG_KEY_RUNTIME), "store", None)


def with_store(config: RunnableConfig, store: Any) -> RunnableConfig:
    """The config of a task whose code is given another store."""
    runtime = config[CONF][CONFIG_KEY_RUNTIME].override(store=store)
    return patch_configurable(config, {CONFIG_KEY_RUNTIME: runtime})


# --- stores in memory ---------------------------------------------------------------------------------------------


def is_plain_memory(store: BaseStore) -> bool:
    """Whether the store is LangGraph's own in memory, whose order of items is known."""
    kind = type(store)
    return (
        isinstance(store, InMemoryStore) and kind.batch is InMemoryStore.batch and kind.abatch is InMemoryStore.abatch
    )


def lacks_namespace(store: BaseStore, namespace: tuple[str, ...]) -> bool:
    """Whether a `get` there would add the namespace to a store in memory, which then lists it."""
    return is_plain_memory(store) and namespace not in store._data  # type: ignore[attr-defined]


def copied_memory(store: Any) -> InMemoryStore:
    """A store that holds the same items, without an index."""
    new = InMemoryStore()
    new._data.update({namespace: dict(items) for namespace, items in list(store._data.items())})
    return new


# --- forks ------------------------------------------------------------------------------------------------------


@dataclass
class Snapshot:
    """A checkpoint kept as objects: the channels and versions of a graph between two supersteps.

    `memo` and `loans` are as in `Histories.take`.
    """

    channels: Mapping[str, Any]
    checkpoint: Any
    step: int
    updated: set[str] | None
    memo: Memo = field(default_factory=dict)
    loans: list[Any] = field(default_factory=list)


def copy_channels(channels: Mapping[str, Any], copied: Callable[[Any], Any]) -> dict[str, Any]:
    """Copies of the channels, their values copied by `copied`.

    Raises:
        Opaque: A channel holds something that cannot be copied.
    """
    out = {}
    for name, channel in channels.items():
        new = channel.copy()
        for part in ("value", "values", "seen"):
            held = getattr(new, part, MISSING)
            if held is not MISSING and held is not None:
                setattr(new, part, copied(held))
        out[name] = new
    return out


# Neither the checkpointer's versions nor random ids: a branch that drew from the process's random numbers would change
# what the run's own nodes draw.
_checkpoint_ids = itertools.count(1)


def ranked(checkpoint: Any) -> Any:
    """The checkpoint with its versions, of whatever type, replaced by their ranks."""
    versions, seen = checkpoint["channel_versions"], checkpoint["versions_seen"]
    every = {v for v in versions.values()} | {v for s in seen.values() for v in s.values()}
    rank = {v: i for i, v in enumerate(sorted(every), 1)}
    return {
        **checkpoint,
        "channel_versions": {c: rank[v] for c, v in versions.items()},
        "versions_seen": {node: {c: rank[v] for c, v in s.items()} for node, s in seen.items()},
    }


def advance(loop: Any, source: Snapshot, writes: Sequence[PregelTaskWrites]) -> Snapshot:
    """The snapshot after a superstep whose tasks made these writes: consumes triggers, fills joins, runs reducers."""
    channels = source.channels
    old = source.checkpoint
    checkpoint = {
        "v": old["v"],
        "id": f"{next(_checkpoint_ids):032x}",
        "ts": old["ts"],
        "channel_values": old["channel_values"],
        "channel_versions": dict(old["channel_versions"]),
        "versions_seen": {node: dict(seen) for node, seen in old["versions_seen"].items()},
    }
    updated = apply_writes(
        checkpoint,  # type: ignore[arg-type]
        channels,
        writes,
        lambda current, _: (current or 0) + 1,
        loop.trigger_to_nodes,
    )
    return Snapshot(channels, checkpoint, source.step + 1, updated, source.memo, source.loans)


def next_tasks(
    loop: Any, snapshot: Snapshot, config: RunnableConfig, store: Any, pending: Sequence[PendingWrite] = ()
) -> list[Any]:
    """The tasks of the snapshot's superstep, ready to run, bound to the snapshot's own channels.

    Args:
        pending: Writes that are kept with the checkpoint: of tasks that have ended, and answers.
    """
    # A nested graph's tasks reach their parent's answer to an interrupt through its scratchpad, and take it away.
    config = patch_configurable(config, {CONFIG_KEY_SCRATCHPAD: None})
    tasks = prepare_next_tasks(
        snapshot.checkpoint,
        list(pending),
        loop.nodes,
        snapshot.channels,
        loop.managed,
        config,
        snapshot.step,
        loop.stop,
        for_execution=True,
        manager=None,
        store=store,
        checkpointer=None,
        trigger_to_nodes=loop.trigger_to_nodes,
        updated_channels=snapshot.updated,
        cache_policy=loop.cache_policy,
    )
    for task_id, channel, value in pending:
        if task_id in tasks and channel not in (INTERRUPT, RESUME):
            tasks[task_id].writes.append((channel, copy_value(value)))
    return list(tasks.values())


def cached_by_key(loop: Any, tasks: Sequence[Any]) -> dict[tuple[Any, str], Any]:
    """The tasks whose writes the run's loop would look for in its node cache, by their keys there."""
    if loop.cache is None:
        return {}
    return {(t.cache_key.ns, t.cache_key.key): t for t in tasks if t.cache_key is not None}


def guess_config(config: RunnableConfig) -> RunnableConfig:
    """A config for a draft's node: the user's configurable and context; no store, checkpointer, stream or callback."""
    conf = {k: v for k, v in config.get(CONF, {}).items() if not k.startswith("__")}
    runtime = config.get(CONF, {}).get(CONFIG_KEY_RUNTIME)
    if isinstance(runtime, Runtime):
        conf[CONFIG_KEY_RUNTIME] = runtime.override(stream_writer=lambda _: None, store=None)
    return {CONF: conf, "metadata": dict(config.get("metadata") or {}), "tags": [], "callbacks": None}


def with_runtime(config: RunnableConfig) -> RunnableConfig:
    """The config with what a node's function is given outside of a run, unless it has that of one."""
    if CONFIG_KEY_RUNTIME in config.get(CONF, {}):
        return config
    return patch_configurable(config, {CONFIG_KEY_RUNTIME: Runtime()})


def _no_functional_tasks(*_: Any, **__: Any) -> Any:
    # A task of the functional API belongs to the loop of its run; a branch has none to put it on.
    raise Barrier


def offline(config: RunnableConfig, writer: Callable[[Any], None], store: Any) -> RunnableConfig:
    """The config of a running task or graph for a branch: nothing in it leads to callbacks, streams or checkpoints."""
    out = dict(config)
    for key in ("callbacks", "run_id", "run_name"):
        out.pop(key, None)
    conf = dict(config[CONF])
    conf.pop(CONFIG_KEY_STREAM, None)
    conf[CONFIG_KEY_CACHE] = None  # not absent: a nested graph would use its own
    conf.pop(CONFIG_KEY_DURABILITY, None)
    conf[CONFIG_KEY_CALL] = _no_functional_tasks
    conf[CONFIG_KEY_CHECKPOINTER] = None
    runtime = conf.get(CONFIG_KEY_RUNTIME)
    if isinstance(runtime, Runtime):
        conf[CONFIG_KEY_RUNTIME] = runtime.override(stream_writer=writer, store=store)
    out[CONF] = conf
    return out  # type: ignore[return-value]


def inside(
    config: RunnableConfig,
    loop: Any,
    *,
    call: Callable[..., Any],
    stream: Callable[[Any], None],
    saver: Callable[[Any], Any],
) -> RunnableConfig:
    """The config of the user's code in a pre-execution: what it starts inside itself goes through the gate.

    Args:
        config: An offline one.
        loop: The run's loop, which says what the run streams and saves.
        call: Schedules functional-API tasks.
        stream: Takes chunks of graphs inside.
        saver: Makes a checkpointer from the run's.
    """
    own: dict[str, Any] = {CONFIG_KEY_CALL: call}
    asked = loop.config[CONF].get(CONFIG_KEY_STREAM)
    if asked is not None:
        own[CONFIG_KEY_STREAM] = StreamProtocol(stream, asked.modes)
    if loop.checkpointer is not None:
        own[CONFIG_KEY_CHECKPOINTER] = saver(loop.checkpointer)
    if (durability := loop.config[CONF].get(CONFIG_KEY_DURABILITY)) is not None:
        own[CONFIG_KEY_DURABILITY] = durability
    return patch_configurable(config, own)


def is_router(writer: Runnable[Any, Any]) -> bool:
    """Whether a node's writer runs the code of a conditional edge."""
    return not isinstance(writer, ChannelWrite)


def state_writes(task: Any, output: Any, config: RunnableConfig) -> list[tuple[str, Any]]:
    """What the node's output writes by itself, routers aside.

    Raises:
        Exception: Whatever LangGraph raises for an output that does not fit the state.
    """
    buffer: list[tuple[str, Any]] = []
    own = patch_configurable(config, {CONFIG_KEY_SEND: buffer.extend})
    try:
        for writer in task.writers:
            if not is_router(writer):
                writer.invoke(output, own)
    except ParentCommand as command:
        return [("__parent__", command.args[0])]
    return buffer


def for_this_graph(command: ParentCommand) -> Command[Any]:
    """The Command that a subgraph addressed to its parent, as the parent's node takes it for its output."""
    own: Command[Any] = replace(command.args[0], graph=None)
    return own


def output_of(loop: Any, snapshot: Snapshot) -> Any:
    """What a graph returns that has nothing left to run."""
    return read_channels(snapshot.channels, loop.output_keys)


def made_writes(task: Any) -> PregelTaskWrites:
    """A copy of the writes that a task has made already."""
    return PregelTaskWrites(task.path[:3], task.name, copy_value(list(task.writes)), task.triggers)


def misfit(loop: Any, writes: list[tuple[str, Any]]) -> str:
    """Why an output's writes cannot be applied: they name a node that the graph does not have. Empty if they can."""
    for channel, value in writes:
        if channel == TASKS:
            if getattr(value, "node", None) not in loop.nodes:
                return f"it sends to {getattr(value, 'node', value)!r}, which is no node of the graph"
        elif channel not in loop.channels and not channel.startswith("__"):
            return f"it leads to {channel.removeprefix('branch:to:')!r}, which is no node of the graph"
    return ""


def open_writes(
    task: Any, config: RunnableConfig, channels: Mapping[str, Any]
) -> tuple[PregelTaskWrites, RunnableConfig]:
    """A buffer for a task's writes, and the config with which its writers fill it.

    Routers that run with the config read these channels as their own node's writes leave them.
    """
    buffer: deque[tuple[str, Any]] = deque()
    writes = PregelTaskWrites(task.path[:3], task.name, buffer, task.triggers)
    read = config[CONF][CONFIG_KEY_READ]
    scratchpad, _, managed, _ = read.args
    own_read = partial(read.func, scratchpad, channels, managed, writes)
    return writes, patch_configurable(config, {CONFIG_KEY_SEND: buffer.extend, CONFIG_KEY_READ: own_read})


def guard_reads(config: RunnableConfig, note: Callable[[], RunnableConfig | None]) -> RunnableConfig:
    """Tell `note` when a node reads channels beyond its input, keeping the shape that `ToolNode` expects.

    `note` may return another config, with which the node then reads.
    """
    read = config[CONF].get(CONFIG_KEY_READ)
    if read is None:
        return config

    def noting(*args: Any, **kwargs: Any) -> Any:
        if (other := note()) is not None:
            return other[CONF][CONFIG_KEY_READ](*args[len(read.args) :], **kwargs)
        return read.func(*args, **kwargs)

    return patch_configurable(config, {CONFIG_KEY_READ: partial(noting, *read.args)})


# --- between turns ----------------------------------------------------------------------------------------------

PendingWrite = tuple[str, str, Any]
"""Task, channel and value."""

_REQUEST_IDS = ("run_id", "request_id", "trace_id", "span_id", "correlation_id", "traceparent")
_CHECKPOINT_KEYS = frozenset({CONFIG_KEY_CHECKPOINT_ID, CONFIG_KEY_CHECKPOINT_NS, CONFIG_KEY_CHECKPOINT_MAP})
_OF_WAIT = "__pregel_speculation_wait"


def thread_of(*configs: RunnableConfig | None) -> str:
    """The thread that the first config with one names; empty if none does."""
    ids = (((c or {}).get(CONF) or {}).get(CONFIG_KEY_THREAD_ID) for c in configs)
    return next((str(i) for i in ids if i is not None), "")


def may_wait(loop: Any) -> bool:
    """Whether a run of this loop ends where a person may go on: no nested graph, on a thread that is saved."""
    return (
        not loop.is_nested
        and loop.checkpointer is not None
        and isinstance(loop.input_keys, str)
        and loop.config[CONF].get(CONFIG_KEY_THREAD_ID) is not None
    )


def started_from(loop: Any) -> str:
    """The id of the checkpoint that the run of this loop has started from."""
    return str(loop.checkpoint_id_saved)


def last_checkpoint(loop: Any) -> str:
    """The id of the checkpoint that the run of this loop has ended with."""
    return str(loop.checkpoint["id"])


def _is_request_id(key: str) -> bool:
    name = key.lower().replace("-", "_")
    return any(name == own or name.endswith(f"_{own}") for own in _REQUEST_IDS)


def _comparable(value: Any) -> Any:
    try:
        return freeze(value)
    except (Opaque, RecursionError):
        return id(value), value  # only the very same object is the same


def identity_of(loop: Any) -> dict[str, Any]:
    """Who asks, and about what: all of a config and runtime that does not change from one request to the next."""
    conf = loop.config[CONF]
    runtime = conf.get(CONFIG_KEY_RUNTIME)
    own = {
        key: _comparable(value)
        for key, value in conf.items()
        if not key.startswith("__") and key not in _CHECKPOINT_KEYS and not _is_request_id(key)
    }
    own["__context"] = _comparable(getattr(runtime, "context", None))
    own["__server"] = _comparable(getattr(runtime, "server_info", None))
    return own


def request_of(loop: Any) -> dict[str, Any]:
    """What a config says of one request alone."""
    config = loop.config
    own = {key: _comparable(value) for key, value in config[CONF].items() if _is_request_id(key)}
    for key in ("metadata", "tags", "run_id", "recursion_limit"):
        own[f"__{key}"] = _comparable(config.get(key))
    return own


def audience_of(loop: Any, handlers: Sequence[Any]) -> tuple[Any, ...]:
    """What is recorded for the run: a pre-execution of another audience has not told all, or too much."""
    conf = loop.config[CONF]
    asked = conf.get(CONFIG_KEY_STREAM)
    modes = None if asked is None else frozenset(asked.modes)
    return (*streaming_markers(handlers), streams_tools(handlers), modes, conf.get(CONFIG_KEY_DURABILITY))


def mirrored(handlers: Sequence[Any], marked: type) -> list[Any]:
    """Handlers that are looked at in the place of these, and never called: theirs is the run that has ended.

    Args:
        marked: A handler's class with the same streaming markers.
    """
    tools = [object.__new__(_ToolHandler)] if streams_tools(handlers) else []
    return [object.__new__(marked), *tools]


class StandIn:
    """LangGraph's loop, as far as branches look at it, while no run has one; then the next run's loop."""

    def __init__(self, loop: Any, view: Any, key: str) -> None:
        asked = loop.config[CONF].get(CONFIG_KEY_STREAM)
        config = offline(loop.config, lambda _: None, None)
        conf = config[CONF]
        for name in (*_CHECKPOINT_KEYS, CONFIG_KEY_RESUME_MAP, CONFIG_KEY_REPLAY_STATE):
            conf.pop(name, None)
        conf[CONFIG_KEY_CHECKPOINT_NS] = ""
        conf[CONFIG_KEY_RESUMING] = False
        conf[_OF_WAIT] = True
        conf[key] = view
        if asked is not None:
            conf[CONFIG_KEY_STREAM] = StreamProtocol(lambda _: None, set(asked.modes))
        if (durability := loop.config[CONF].get(CONFIG_KEY_DURABILITY)) is not None:
            conf[CONFIG_KEY_DURABILITY] = durability
        own = ("nodes", "trigger_to_nodes", "specs", "store", "cache", "cache_policy", "checkpointer", "input_keys")
        more = ("output_keys", "stream_keys", "interrupt_before", "interrupt_after", "checkpoint_ns")
        self._loop: Any = SimpleNamespace(**{name: getattr(loop, name) for name in (*own, *more)}, config=config)
        self._migrate = loop._migrate_checkpoint

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._loop, name)

    def stand_for(self, loop: Any) -> None:
        """The next run has come."""
        self._loop = loop

    def at(self, saved: Any, channels: Mapping[str, Any], managed: Any) -> Saved | None:
        """Stand before the run that goes on from a checkpoint; ``None`` if that cannot be."""
        pending = [(str(task), channel, value) for task, channel, value in saved.pending_writes or ()]
        if any(task == NULL_TASK_ID or channel == ERROR for task, channel, _ in pending):
            return None
        loop = self._loop
        loop.step = saved.metadata["step"] + 1
        loop.stop = loop.step + loop.config["recursion_limit"] + 1
        loop.checkpoint, loop.channels, loop.managed = saved.checkpoint, channels, managed
        return Saved(self, pending)

    def _config_of(self, checkpoint_id: str | None) -> Any:
        own = {k: v for k, v in self._loop.config[CONF].items() if not k.startswith("__")}
        return {CONF: {**own, **({CONFIG_KEY_CHECKPOINT_ID: checkpoint_id} if checkpoint_id else {})}}

    def _hydrating(self, saved: Any) -> dict[str, Any]:
        if self._migrate is not None:
            self._migrate(saved.checkpoint)
        if "saver" not in inspect.signature(_checkpoint.channels_from_checkpoint).parameters:
            return {}
        return {"saver": self._loop.checkpointer, "config": saved.config}

    def load(self, checkpoint_id: str | None = None) -> tuple[Any, Any, Any] | None:
        """A checkpoint of the thread, the last one if none is named, with its channels and managed values (threads)."""
        if (saved := self._loop.checkpointer.get_tuple(self._config_of(checkpoint_id))) is None:
            return None
        more = self._hydrating(saved)
        return saved, *_checkpoint.channels_from_checkpoint(self._loop.specs, saved.checkpoint, **more)

    async def aload(self, checkpoint_id: str | None = None) -> tuple[Any, Any, Any] | None:
        """`load` on an event loop."""
        if (saved := await self._loop.checkpointer.aget_tuple(self._config_of(checkpoint_id))) is None:
            return None
        more = self._hydrating(saved)
        if not more:
            return saved, *_checkpoint.channels_from_checkpoint(self._loop.specs, saved.checkpoint)
        return saved, *await _checkpoint.achannels_from_checkpoint(self._loop.specs, saved.checkpoint, **more)

    def values(self, saved: Any, channels: Mapping[str, Any]) -> dict[str, Any]:
        """The state as a person sees it: the values of the channels, and the questions that wait."""
        values: dict[str, Any] = read_channels(channels, self._loop.stream_keys)
        questions = [i for _, channel, value in saved.pending_writes or () if channel == INTERRUPT for i in value]
        return {**values, INTERRUPT: questions} if questions else values


@dataclass
class Saved:
    """A checkpoint on which a graph waits for a person: the two steps that may come next."""

    loop: StandIn
    pending: list[PendingWrite]

    def after_input(self) -> tuple[Snapshot, Any] | None:
        """The step that writes an input, and its task; ``None`` if something else would run then, too."""
        loop = self.loop
        config = offline(loop.config, lambda _: None, None)
        own = {name: channel.copy() for name, channel in loop.channels.items()}
        source = Snapshot(own, ranked(loop.checkpoint), loop.step, None)
        # As LangGraph does with an input: what would have run is dropped, with what triggered it.
        dropped = [PregelTaskWrites(t.path[:3], t.name, [], t.triggers) for t in next_tasks(loop, source, config, None)]
        given = PregelTaskWrites((), INPUT, [(loop.input_keys, {})], [])
        snapshot = advance(loop, source, [*dropped, given])
        tasks = next_tasks(loop, snapshot, config, None)
        return (snapshot, tasks[0]) if len(tasks) == 1 and tasks[0].name == INPUT_NODE else None

    def question(self) -> Snapshot | None:
        """The step whose task waits for an answer; ``None`` unless exactly one of the graph's own does."""
        asked = [(task, value) for task, channel, value in self.pending if channel == INTERRUPT]
        if len(asked) != 1 or len(asked[0][1]) != 1 or any(channel == RESUME for _, channel, _ in self.pending):
            return None
        loop = self.loop
        own = {name: channel.copy() for name, channel in loop.channels.items()}
        snapshot = Snapshot(own, ranked(loop.checkpoint), loop.step, None)
        tasks = next_tasks(loop, snapshot, offline(loop.config, lambda _: None, None), None)
        task = next((t for t in tasks if t.id == asked[0][0]), None)
        if task is None or asked[0][1][0].id != Interrupt.from_ns(None, namespace_of(task.config)).id:
            return None  # a graph inside has asked
        return snapshot


INPUT_NODE = "__start__"


def answered(pending: Sequence[PendingWrite], value: Any) -> list[PendingWrite]:
    """The writes that wait with a question, and the answer to it."""
    return [*pending, (NULL_TASK_ID, RESUME, value)]


def answer_in(given: Any) -> tuple[Any, ...]:
    """The answer in a run's input, if it is one to a single question."""
    if not isinstance(given, Command) or given.resume is None:
        return ()
    resume = given.resume
    if isinstance(resume, dict) and len(resume) == 1 and _is_interrupt_id(next(iter(resume))):
        return (next(iter(resume.values())),)
    return (resume,)


def _is_interrupt_id(key: Any) -> bool:
    return isinstance(key, str) and len(key) == 32 and all(c in "0123456789abcdef" for c in key)


def is_input(given: Any) -> bool:
    """Whether a run's input starts from the beginning."""
    return given is not None and not isinstance(given, Command)


def is_of_wait(config: RunnableConfig) -> bool:
    """Whether a task was made before the request that it may serve had come."""
    return _OF_WAIT in config[CONF]


# --- runnables --------------------------------------------------------------------------------------------------


def is_sync_only(runnable: Runnable[Any, Any]) -> bool:
    """Whether the asynchronous form would go to the event loop's default executor."""
    if isinstance(runnable, RunnableCallable):
        if runnable.func is None:
            return False
        afunc = runnable.afunc
        return afunc is None or (isinstance(afunc, partial) and afunc.func is run_in_executor)
    if isinstance(runnable, RunnableLambda):
        return hasattr(runnable, "func") and not hasattr(runnable, "afunc")
    return type(runnable).ainvoke is Runnable.ainvoke


def is_sync_only_tool(tool: BaseTool) -> bool:
    if isinstance(tool, StructuredTool | Tool):
        return tool.coroutine is None
    return type(tool)._arun is BaseTool._arun


def takes_run_info(runnable: Runnable[Any, Any]) -> bool:
    """Whether a function node can see its config or runtime, and so its step, task or attempt."""
    if isinstance(runnable, RunnableCallable):
        return bool({"config", "runtime", "previous"} & set(runnable.func_accepts))
    return True


def function_of(runnable: Any) -> Any:
    """The user's function inside a node or router, or ``None``."""
    if isinstance(runnable, RunnableCallable | RunnableLambda):
        return getattr(runnable, "func", None) or getattr(runnable, "afunc", None)
    return None


def bind_copied_tool_node(original: ToolNode, wrap: Any, awrap: Any) -> ToolNode:
    """A copy of a tool node with our innermost wrappers, its methods bound to the copy and not to the original."""
    new = copy(original)
    new.func, new.afunc = new._func, new._afunc
    outer, aouter = original._wrap_tool_call, original._awrap_tool_call
    if outer is None:
        new._wrap_tool_call = wrap
    else:
        new._wrap_tool_call = lambda request, execute: outer(request, lambda r: wrap(r, execute))
    if aouter is not None:

        async def both(request: Any, execute: Any) -> Any:
            async def inner(r: Any) -> Any:
                return await awrap(r, execute)

            return await aouter(request, inner)

        new._awrap_tool_call = both
    elif outer is None:
        new._awrap_tool_call = awrap
    # With a synchronous wrapper only, ToolNode runs that one in async runs too; ours inside it follows.
    return new


def has_foreign_wrapper(node: ToolNode) -> bool:
    return node._wrap_tool_call is not None or node._awrap_tool_call is not None


def has_sync_wrapper_only(node: ToolNode) -> bool:
    """Whether the node wraps its calls with plain functions in asynchronous runs too."""
    return node._wrap_tool_call is not None and node._awrap_tool_call is None


def injected_into(node: ToolNode, tool: BaseTool) -> bool:
    """Whether the tool is given more than its arguments: state, store, runtime, or the config."""
    injected = node._injected_args.get(tool.name)
    if injected is not None and (
        getattr(injected, "state", None) or getattr(injected, "store", None) or getattr(injected, "runtime", None)
    ):
        return True
    functions = [getattr(tool, a, None) for a in ("func", "coroutine")]
    if not any(functions):
        functions = [tool._run, tool._arun]
    for function in functions:
        if function is not None:
            parameters = inspect.signature(function).parameters.values()
            if any("RunnableConfig" in str(p.annotation) for p in parameters):
                return isinstance(tool, StructuredTool | Tool)
    return False


# --- contexts ---------------------------------------------------------------------------------------------------


def clean_context() -> Context:
    """A copy of the current context in which LangChain sees no run: no parent config, callback hook or tracer."""
    ctx = copy_context()

    def clean() -> None:
        var_child_runnable_config.set(None)
        for var, *_ in context._configure_hooks:
            var.set(None)
        # Not `tracing_context`: a generator that is entered and never left is left when it is collected.
        _set_tracing_context({**get_tracing_context(), "parent": None, "enabled": False})

    ctx.run(clean)
    return ctx


def without_callbacks(config: RunnableConfig, *, sync: bool) -> RunnableConfig:
    """The config for code that nobody listens to: with a ready, empty manager LangChain does not set one up."""
    empty = CallbackManager(handlers=[]) if sync else AsyncCallbackManager(handlers=[])
    return {**config, "callbacks": empty}


def step_config(config: RunnableConfig, number: int) -> RunnableConfig:
    """The config with which LangGraph would run a step of a node that is a sequence, counted from 1."""
    callbacks = config.get("callbacks")
    if number == 1 or not isinstance(callbacks, BaseCallbackManager):
        return config
    own = callbacks.copy()
    own.remove_tags([STEP_TAG])
    own.add_tags([f"seq:step:{number}"], False)
    return {**config, "callbacks": own}


def handlers_for(config: RunnableConfig) -> list[Any]:
    """The handlers that a call in the current context would report to: the run's, and those of configure hooks."""
    callbacks = config.get("callbacks")
    kind = AsyncCallbackManager if isinstance(callbacks, AsyncCallbackManager) else CallbackManager
    return list(kind.configure(inheritable_callbacks=callbacks).handlers)


_watched: list[Callable[[Any], None]] = []


def watch_managers(look: Callable[[Any], None]) -> None:
    """Show each callback manager that LangChain sets up, from now on, to `look`, which returns at once where it may.

    Models, tools and bound sequences bring handlers of their own, and LangChain joins them to those of the config in
    one function, for which it has no hook. Without this they would hear of calls that are never committed.
    """
    if look in _watched:
        return
    _watched.append(look)
    configure = manager._configure

    def watched(*args: Any, **kwargs: Any) -> Any:
        made = configure(*args, **kwargs)
        look(made)
        return made

    manager._configure = watched


def streaming_markers(handlers: Sequence[Any]) -> tuple[bool, bool]:
    """Whether some handler asks models to stream, in the first or the second protocol."""
    return (
        any(isinstance(h, _StreamingCallbackHandler) for h in handlers),
        any(isinstance(h, _StreamingV2) for h in handlers),
    )


StreamingV2 = _StreamingV2

STEP_TAG = "seq:step:1"
"""LangGraph marks the first step of a node's sequence so."""
