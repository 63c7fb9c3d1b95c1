"""The handlers that record what a pre-execution reports to LangChain's callbacks, for its gate."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler

from langgraph_speculative import _compat

if TYPE_CHECKING:
    from langgraph_speculative._gate import Gate

Event = tuple[str, "str | None", tuple[Any, ...], dict[str, Any], Any]
"""A callback: its name, its handler's flag, its arguments, and for whom it is (``None``: the run's handlers)."""

# Event name and the handler's flag that opts out of it, as LangChain's callback managers pair them.
_EVENTS = {
    "on_chain_start": "ignore_chain",
    "on_chain_end": "ignore_chain",
    "on_chain_error": "ignore_chain",
    "on_llm_start": "ignore_llm",
    "on_chat_model_start": "ignore_chat_model",
    "on_llm_new_token": "ignore_llm",
    "on_stream_event": "ignore_llm",
    "on_llm_end": "ignore_llm",
    "on_llm_error": "ignore_llm",
    "on_tool_start": "ignore_agent",
    "on_tool_end": "ignore_agent",
    "on_tool_error": "ignore_agent",
    "on_retriever_start": "ignore_retriever",
    "on_retriever_end": "ignore_retriever",
    "on_retriever_error": "ignore_retriever",
    "on_agent_action": "ignore_agent",
    "on_agent_finish": "ignore_agent",
    "on_text": None,
    "on_retry": "ignore_retry",
    "on_custom_event": "ignore_custom_event",
}


class _Taps:
    """What makes LangChain's streaming protocol recognise a handler."""

    def tap_output_aiter(self, run_id: UUID, output: Any) -> Any:
        return output

    def tap_output_iter(self, run_id: UUID, output: Any) -> Any:
        return output


class Recorder(BaseCallbackHandler):
    """Records for a gate. LangChain calls plain methods in threads and coroutines on a loop, so there are two kinds."""

    run_inline = True

    def __init__(self, gate: Gate, only: Any = None) -> None:
        self._gate = gate
        self._only = only


class _SyncRecorder(Recorder):
    pass


class _AsyncRecorder(Recorder, AsyncCallbackHandler):
    pass


def _add_events() -> None:
    def add(name: str, ignore: str | None) -> None:
        def record(self: Recorder, *args: Any, **kwargs: Any) -> None:
            event = (name, ignore, args, kwargs, self._only)
            if (target := self._gate.hold(event)) is not None:
                target.pass_on(event)

        async def arecord(self: Recorder, *args: Any, **kwargs: Any) -> None:
            event = (name, ignore, args, kwargs, self._only)
            if (target := self._gate.hold(event)) is not None:
                await target.apass_on(event)

        setattr(_SyncRecorder, name, record)
        setattr(_AsyncRecorder, name, arecord)

    for name, ignore in _EVENTS.items():
        if hasattr(BaseCallbackHandler, name):
            add(name, ignore)


_add_events()


@functools.cache
def _recorder_type(sync: bool, v1: bool, v2: bool) -> Any:
    bases: list[type] = [_SyncRecorder if sync else _AsyncRecorder]
    if v1:
        bases.append(_Taps)
    if v2:
        bases.append(_compat.StreamingV2)
    return type("_GateRecorder", tuple(bases), {})


def marked_like(handlers: Sequence[Any]) -> Any:
    """A class of recorders that ask models to stream exactly if these handlers do."""
    return _recorder_type(True, *_compat.streaming_markers(handlers))


def recorder(gate: Gate, handlers: Sequence[Any], sync: bool, only: Any = None) -> BaseCallbackHandler:
    """A handler that asks models to stream exactly if these do; it records for `only`, or for the run's handlers."""
    made: BaseCallbackHandler = _recorder_type(sync, *_compat.streaming_markers(handlers))(gate, only)
    return made
