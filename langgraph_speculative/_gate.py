"""The gate: holds what a pre-execution emits until the run claims it, then passes it on, held things first.

CLOSED --open()--> OPEN        held events are replayed under the claimant's run, later ones pass live
CLOSED --(dropped with its execution)
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation, LLMResult
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from langgraph_speculative import _compat
from langgraph_speculative._claimant import Claimant
from langgraph_speculative._recorder import Event, Recorder, recorder
from langgraph_speculative._stream import Watch
from langgraph_speculative._values import Opaque, copy_value
from langgraph_speculative._view import Barrier

if TYPE_CHECKING:
    from langgraph_speculative._journal import Journal
    from langgraph_speculative._saver import GateSaver

CURRENT: ContextVar[Gate | None] = ContextVar("langgraph_speculative_gate", default=None)
"""The gate of the pre-execution that the current code belongs to."""

_run_ids = itertools.count(1)


class Gate:
    """Everything that one pre-execution emits: callback events and custom stream chunks."""

    def __init__(self, handlers: Sequence[Any], config: RunnableConfig, *, sync: bool) -> None:
        """Args: the run's handlers (their streaming markers are mirrored), the branch task's config, and the world."""
        self.namespace = _compat.namespace_of(config)
        self._above = _compat.checkpoints_above(config)
        self._of_run = handlers
        self._shields: dict[tuple[int, bool], Any] = {}
        self._streams_tools = _compat.streams_tools(handlers)
        self._sync = sync
        self._lock = threading.Lock()
        self._held: list[tuple[str, Any]] = []
        self._early: dict[str, Any] = dict(config.get("metadata") or {})
        # Only what was run before its request had come has tags and metadata that the run may not have.
        self._tags = list(config.get("tags") or ()) if _compat.is_of_wait(config) else None
        self._claimant: Claimant | None = None
        self._target: Claimant | None = None  # the claimant, once all that was held has been passed on
        # Stands for the node's own run, which only the claimant has. Not random: a branch draws no random numbers.
        self.run_id = UUID(int=next(_run_ids))
        self.saw_retry = False
        self.spoiled = ""
        self.journal: Journal | None = None
        self.savers: list[GateSaver] = []
        self.handler = recorder(self, handlers, sync) if handlers else None
        _compat.watch_managers(_shield)

    @property
    def held(self) -> int:
        """Number of events that wait for a claim."""
        return len(self._held)

    def callbacks(self, config: RunnableConfig) -> Any:
        """The callback manager with which the pre-execution runs."""
        recorders = [] if self.handler is None else [self.handler]
        kind = CallbackManager if self._sync else AsyncCallbackManager
        tags, metadata = list(config.get("tags") or []), dict(config.get("metadata") or {})
        return kind(
            handlers=recorders,
            inheritable_handlers=recorders.copy(),
            parent_run_id=self.run_id,
            tags=[*tags, _compat.STEP_TAG],
            inheritable_tags=tags,
            metadata=metadata,
            inheritable_metadata=dict(metadata),
        )

    def shield(self, manager: Any) -> None:
        """Put recorders in the place of the handlers that a model, a tool or a sequence brings along."""
        sync = not manager.is_async
        for handlers in (manager.handlers, manager.inheritable_handlers):
            # The run's own handlers hear of it through the gate's recorder.
            kept = [h for h in handlers if not any(h is own for own in self._of_run)]
            handlers[:] = [h if isinstance(h, Recorder | Watch) else self._shield_of(h, sync) for h in kept]

    def _shield_of(self, handler: Any, sync: bool) -> Any:
        shield = self._shields.get((id(handler), sync))
        if shield is None:
            shield = self._shields[id(handler), sync] = recorder(self, [handler], sync, handler)
        return shield

    def spoil(self, reason: str) -> None:
        """The pre-execution did what makes its result unclaimable, whatever its code does next."""
        self.spoiled = self.spoiled or reason

    @property
    def is_claimed(self) -> bool:
        """Whether what the code does now is the run's own."""
        return self._claimant is not None

    def refuse(self, reason: str) -> bool:
        """Spoil the pre-execution, unless it has been claimed; whether it is spoiled."""
        with self._lock:
            if self._claimant is None:
                self.spoil(reason)
            return self._claimant is None

    def emit(self, kind: str, what: Any) -> None:
        """Keep something that is no callback event if the gate is closed; pass it on if it is open."""
        try:
            # As it is now: the code may go on with the object, but whoever listens to the run would have seen it so.
            kept = copy_value(what) if self._target is None else what
        except Opaque:
            kept = what
        with self._lock:
            if self._target is None:
                self._held.append((kind, kept))
                return
        self._target.send(kind, what)

    def write(self, chunk: Any) -> None:
        """The custom stream writer of the pre-execution."""
        self.emit("custom", (chunk, _compat.current_namespace()))

    def stream(self, chunk: Any) -> None:
        """The stream of the graphs that the pre-execution runs inside."""
        self.emit("chunk", chunk)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Schedule a task of the functional API: it belongs to the loop of the run, which only a claimant has."""
        return self.claimant("it calls a functional-API task").call(*args, **kwargs)

    def hand_over(self) -> None:
        """The claimant takes the result: save what the graphs inside have saved (threads)."""
        for saver in self.savers:
            if self._claimant is not None:
                saver.hand_over(self._claimant)

    async def ahand_over(self) -> None:
        """`hand_over` on an event loop."""
        for saver in self.savers:
            if self._claimant is not None:
                await saver.ahand_over(self._claimant)

    def reading(self) -> RunnableConfig | None:
        """The code reads channels beyond its input: of the branch, which spoils it, or with the claimant's config."""
        with self._lock:
            if self._claimant is not None:
                return self._claimant.config
            self.spoil("it read channels beyond its input")
            return None

    def claimant(self, reason: str) -> Claimant:
        """Who has claimed; without a claimant the pre-execution is spoiled, and ends here."""
        with self._lock:
            if self._claimant is None:
                self.spoil(reason)
                raise Barrier
            return self._claimant

    def hold(self, event: Event) -> Claimant | None:
        """Keep the event if the gate is closed; where it goes if it is open."""
        if event[0] == "on_retry":
            self.saw_retry = True
        if self._target is None:
            whole = event[0] == "on_tool_end"  # which no graph's stream listens to
            args, kwargs = _as_it_is(event[2], whole=whole), _as_it_is(event[3], whole=whole)
            kept = (event[0], event[1], args, kwargs, *event[4:])
            with self._lock:
                if self._target is None:
                    self._held.append(("event", kept))
                    self._lend_writer(event)
                    return None  # and not whoever has claimed since, who gets it from those that were held
        return self._target

    def _lend_writer(self, event: Event) -> None:
        """A tool's writer of partial output, which the run's own handler would have put into this context."""
        if self._streams_tools and event[0] == "on_tool_start":
            run = event[3]["run_id"]
            _compat.tool_call_writer.set(lambda delta: self.emit("delta", (run, delta)))

    def _take_held(self) -> list[tuple[str, Any]]:
        with self._lock:
            held, self._held = self._held, []
            return held

    def _bind(self, config: RunnableConfig, rename: Callable[[Any], Any]) -> Claimant | None:
        """Note the claimant, unless the pre-execution has been spoiled."""
        target = Claimant(config, self._early, self._above, self.run_id, rename, self._tags)
        with self._lock:
            if self.spoiled:
                return None
            self._claimant = target
            return target

    def _is_open(self, target: Claimant) -> bool:
        """Open the gate, if nothing was held meanwhile."""
        with self._lock:
            if not self._held:
                self._target = target
            return self._target is not None

    def open(self, config: RunnableConfig, rename: Callable[[Any], Any]) -> bool:
        """Pass what was held into the claimant's handlers and stream, and the rest as it comes (threads).

        Returns:
            Whether the pre-execution may be taken over.
        """
        if (target := self._bind(config, rename)) is None:
            return False
        while not self._is_open(target):
            for kind, what in self._take_held():
                if kind == "event":
                    with target.keeping_writer(what):
                        target.pass_on(what)
                else:
                    target.send(kind, what)
        return True

    async def aopen(self, config: RunnableConfig, rename: Callable[[Any], Any]) -> bool:
        """`open` on an event loop."""
        if (target := self._bind(config, rename)) is None:
            return False
        while not self._is_open(target):
            for kind, what in self._take_held():
                if kind == "event":
                    with target.keeping_writer(what):
                        await target.apass_on(what)
                else:
                    target.send(kind, what)
        return True


def _as_it_is(value: Any, *, whole: bool = False) -> Any:
    """A copy of what code that has reported it may still change: containers, messages, answers, documents, commands.

    Args:
        whole: Also messages without an id. Where a graph's own stream may report one, it gives it the id that the
            message has in the state, so it has to be the same object.
    """
    kind = type(value)
    if kind is dict:
        return {k: _as_it_is(v, whole=whole) for k, v in value.items()}
    if kind is list or kind is tuple:
        return kind([_as_it_is(v, whole=whole) for v in value])
    if kind is LLMResult:
        return value.model_copy(update={"generations": _as_it_is(value.generations)})
    if isinstance(value, Command):
        return replace(value, update=_as_it_is(value.update, whole=whole))
    if isinstance(value, BaseMessage) and value.id is None and not whole:
        return value
    if isinstance(value, BaseMessage | Generation | Document):
        try:
            return copy_value(value)
        except Opaque:
            return value
    return value


def write_custom(chunk: Any) -> None:
    """The stream writer of all branches: to the gate of the pre-execution that calls it, else nowhere."""
    gate = CURRENT.get()
    if gate is not None:
        gate.write(chunk)


def _shield(manager: Any) -> None:
    if (gate := CURRENT.get()) is not None:
        gate.shield(manager)
