"""Runs of one thread: who asks, where a run starts and ends, and the checkpoint on which a graph waits for a person."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph._internal._constants import (
    CONF,
    CONFIG_KEY_CHECKPOINT_ID,
    CONFIG_KEY_CHECKPOINT_MAP,
    CONFIG_KEY_CHECKPOINT_NS,
    CONFIG_KEY_DURABILITY,
    CONFIG_KEY_REPLAY_STATE,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_RESUMING,
    CONFIG_KEY_RUNTIME,
    CONFIG_KEY_STREAM,
    CONFIG_KEY_THREAD_ID,
    ERROR,
    INPUT,
    INTERRUPT,
    NULL_TASK_ID,
    RESUME,
)
from langgraph.pregel import _checkpoint
from langgraph.pregel._algo import PregelTaskWrites
from langgraph.pregel._io import read_channels
from langgraph.pregel.protocol import StreamProtocol
from langgraph.types import Command, Interrupt

from langgraph_speculative._compat._callbacks import streaming_markers, streams_tools
from langgraph_speculative._compat._configs import namespace_of, offline
from langgraph_speculative._compat._supersteps import PendingWrite, Snapshot, advance, next_tasks, ranked
from langgraph_speculative._values import Opaque, freeze

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
