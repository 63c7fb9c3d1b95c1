"""Callback managers, handlers and tracing: who listens to a call, and contexts in which nobody does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager, manager
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.tracers import _streaming, context
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langsmith.run_helpers import _set_tracing_context, get_tracing_context

__all__ = ["tool_call_writer"]

try:
    from langgraph.pregel._tools import StreamToolCallHandler as _ToolHandler
    from langgraph.pregel._tools import _tool_call_writer as tool_call_writer
except ImportError:  # before the stream mode "tools"
    _ToolHandler = type("_Absent", (), {})  # type: ignore[assignment,misc]
    tool_call_writer = ContextVar("absent", default=None)

StreamingV2: type = getattr(_streaming, "_V2StreamingCallbackHandler", type("_Absent", (), {}))

STEP_TAG = "seq:step:1"
"""LangGraph marks the first step of a node's sequence so."""


def streams_tools(handlers: Sequence[Any]) -> bool:
    """Whether one of the run's handlers streams the partial output of tools."""
    return any(isinstance(h, _ToolHandler) for h in handlers)


def mirrored(handlers: Sequence[Any], marked: type) -> list[Any]:
    """Handlers that are looked at in the place of these, and never called: theirs is the run that has ended.

    Args:
        marked: A handler's class with the same streaming markers.
    """
    tools = [object.__new__(_ToolHandler)] if streams_tools(handlers) else []
    return [object.__new__(marked), *tools]


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
        any(isinstance(h, StreamingV2) for h in handlers),
    )
