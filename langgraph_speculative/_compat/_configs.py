"""The config of a running task: the loop and superstep it leads to, and what a branch puts in its place."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph._internal._config import patch_configurable
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CACHE,
    CONFIG_KEY_CALL,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_DURABILITY,
    CONFIG_KEY_READ,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_STREAM,
    NS_SEP,
)
from langgraph.errors import GraphInterrupt
from langgraph.pregel.protocol import StreamProtocol
from langgraph.runtime import Runtime
from langgraph.types import Interrupt

from langgraph_speculative._view import Barrier


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


def store_of(config: RunnableConfig) -> Any:
    return getattr(config[CONF].get(CONFIG_KEY_RUNTIME), "store", None)


def with_store(config: RunnableConfig, store: Any) -> RunnableConfig:
    """The config of a task whose code is given another store."""
    runtime = config[CONF][CONFIG_KEY_RUNTIME].override(store=store)
    return patch_configurable(config, {CONFIG_KEY_RUNTIME: runtime})


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
