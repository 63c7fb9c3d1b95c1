"""Supersteps outside of a run: snapshots of channels, the tasks that follow from them, and what their outputs write."""

from __future__ import annotations

import inspect
import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph._internal._config import patch_configurable
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_READ,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    INTERRUPT,
    RESUME,
    TASKS,
)
from langgraph._internal._typing import MISSING
from langgraph.errors import ParentCommand
from langgraph.pregel._algo import PregelTaskWrites, apply_writes, prepare_next_tasks
from langgraph.pregel._io import read_channels
from langgraph.pregel._write import ChannelWrite
from langgraph.types import Command

from langgraph_speculative._values import Memo, copy_value

PendingWrite = tuple[str, str, Any]
"""Task, channel and value."""


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
