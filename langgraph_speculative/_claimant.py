"""The run's execution that has claimed a pre-execution, and to whom all that this emits goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any
from uuid import UUID

from langchain_core.callbacks.manager import ahandle_event, handle_event
from langchain_core.runnables import RunnableConfig

from langgraph_speculative import _compat
from langgraph_speculative._recorder import Event
from langgraph_speculative._values import Opaque, copy_value

# Keywords of events that say where a call stands, and not what it is about.
_PLACE = frozenset({"run_id", "parent_run_id", "tags", "metadata", "name"})

_NAMESPACE = "langgraph_checkpoint_ns"


class Claimant:
    """The claimant: its handlers, parent run, metadata, and custom stream.

    What was run while the graph waited for a person has the tags `of_wait` and metadata of the request before.
    """

    def __init__(
        self,
        config: RunnableConfig,
        early: Mapping[str, Any],
        above: Mapping[str, str],
        stand_in: UUID,
        rename: Callable[[Any], Any],
        of_wait: Collection[str] | None = None,
    ) -> None:
        manager = config.get("callbacks")
        self._handlers = _compat.handlers_for(config)
        self._parent: UUID | None = getattr(manager, "parent_run_id", None)
        # LangGraph adds to the manager's metadata what is not in the config's.
        self._real = {**getattr(manager, "inheritable_metadata", {}), **(config.get("metadata") or {})}
        self._early = early
        own, old = list(config.get("tags") or ()), of_wait or ()
        self._new_tags = [] if of_wait is None else [t for t in own if t not in old]
        self._old_tags = {t for t in old if t not in own}
        self._old = {} if of_wait is None else {k: v for k, v in early.items() if k not in self._real}
        self._stand_in = stand_in
        self._writer = _compat.stream_writer_of(config)
        self._stream = _compat.stream_of(config)
        self._call = _compat.call_of(config)
        self.config = config
        self._context = copy_context()
        self._rename = rename
        real = _compat.checkpoints_above(config)
        self._checkpoints = {c: real[n] for ns, c in above.items() if (n := self.in_namespace(ns)) in real}
        self._deltas: dict[Any, Callable[[Any], None]] = {}

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule a functional-API task of the claimant's."""
        return self._context.copy().run(self._call, *args, **kwargs)

    def send(self, kind: str, what: Any) -> None:
        """Pass on what is no callback event."""
        if kind == "custom":
            self._write(*what)
        elif kind == "chunk":
            if self._stream is not None:
                namespace, mode, payload = what
                own = self.in_namespace("|".join(namespace)).split("|")
                self._stream((tuple(own), mode, self.everywhere(payload)))
        elif (writer := self._deltas.get(what[0])) is not None:
            writer(what[1])

    def _write(self, chunk: Any, namespace: str) -> None:
        if self._writer is not None:
            # In the claimant's context: the writer looks up the namespace of the running task there.
            context = self._context.copy()
            if (own := self.in_namespace(namespace)) != _compat.namespace_of(self.config):
                context.run(_compat.enter_namespace, self.config, own)
            context.run(self._writer, self._rename(chunk))

    @contextmanager
    def keeping_writer(self, event: Event) -> Iterator[None]:
        """The writer of partial output that a handler puts into the context is the one of this tool call."""
        if event[0] != "on_tool_start":
            yield
            return
        before = _compat.tool_call_writer.get()
        yield
        if (writer := _compat.tool_call_writer.get()) is not None and writer is not before:
            self._deltas[event[3]["run_id"]] = writer
            _compat.tool_call_writer.set(before)

    def in_namespace(self, namespace: str) -> str:
        """A namespace of the branch's task, or of a graph inside it, as it is in the run."""
        mine, claimant = self._early.get(_NAMESPACE), self._real.get(_NAMESPACE)
        if mine and claimant and namespace.startswith(mine):
            return str(claimant + namespace[len(mine) :])
        return namespace

    def everywhere(self, value: Any) -> Any:
        """A value with its ids renamed, and the namespaces and the checkpoints above in it."""

        def text(part: str) -> str:
            return self._checkpoints.get(part) or self.in_namespace(part)

        try:
            return copy_value(self._rename(value), text)
        except Opaque:
            return value

    def pass_on(self, event: Event) -> None:
        name, ignore, args, kwargs, handler = self._patched(event)
        handle_event(self._listening(handler), name, ignore, *args, **kwargs)

    async def apass_on(self, event: Event) -> None:
        name, ignore, args, kwargs, handler = self._patched(event)
        await ahandle_event(self._listening(handler), name, ignore, *args, **kwargs)

    def _listening(self, handler: Any) -> list[Any]:
        """Whom an event is for: a handler that something brought along hears it once, if it is the run's own, too."""
        if handler is None:
            return self._handlers
        return [] if any(h is handler for h in self._handlers) else [handler]

    def _patched(self, event: Event) -> Event:
        name, ignore, args, kwargs, handler = event
        kwargs = {k: v if k in _PLACE else self._rename(v) for k, v in kwargs.items()}
        for key in ("parent_run_id", "run_id"):  # a custom event's own run is the node's
            if kwargs.get(key) == self._stand_in:
                kwargs[key] = self._parent
        args = tuple(self._parent if isinstance(a, UUID) and a == self._stand_in else a for a in args)
        if isinstance(kwargs.get("metadata"), Mapping):
            kwargs["metadata"] = {
                k: self._translate(k, v)
                for k, v in kwargs["metadata"].items()
                if k not in self._old or v != self._old[k]
            }
            for key, value in self._real.items():
                kwargs["metadata"].setdefault(key, value)
        if kwargs.get("tags") is not None and (self._new_tags or self._old_tags):
            kwargs["tags"] = [*self._new_tags, *(t for t in kwargs["tags"] if t not in self._old_tags)]
        return name, ignore, tuple(self._rename(a) for a in args), kwargs, handler

    def _translate(self, key: str, value: Any) -> Any:
        """A value of the branch's metadata as the run would have it; values of nested runs keep their own."""
        early, real = self._early.get(key), self._real.get(key)
        if real is not None and value == early:
            return real
        # The namespace also stands under other keys, and begins those of nested runs.
        return self.in_namespace(value) if isinstance(value, str) else value
