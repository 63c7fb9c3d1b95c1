"""LangChain's rate limiters of chat models: an early call takes a token only if nobody real waits for one.

A model asks its limiter inside its own code, blocking, and LangChain has no hook there. So the ``acquire`` methods of
all limiters of the process are wrapped, once. For calls of the run the wrapper only counts who waits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from langchain_core.rate_limiters import BaseRateLimiter

from langgraph_speculative._gate import CURRENT
from langgraph_speculative._view import Barrier

GUESSING: ContextVar[bool] = ContextVar("langgraph_speculative_guessing", default=False)
"""Whether the current code is a Speculator's."""

REASON = "its rate limiter has no token to spare"

_lock = threading.Lock()
_waiting: dict[int, int] = {}
_WRAPPED = "_langgraph_speculative"


class NoToken(Barrier):
    """A limiter has no token for an early call, or for a Speculator."""


def watch_rate_limiters() -> None:
    """Wrap the limiters that have been defined so far."""
    todo: list[Any] = [BaseRateLimiter]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        for name, wrap in (("acquire", _wrapped), ("aacquire", _awrapped)):
            method = vars(kind).get(name)
            if method is not None and kind is not BaseRateLimiter and not hasattr(method, _WRAPPED):
                setattr(kind, name, wrap(method))


def _is_early() -> bool:
    gate = CURRENT.get()
    return GUESSING.get() if gate is None else not gate.is_claimed


def _has_waiters(limiter: Any) -> bool:
    with _lock:
        return id(limiter) in _waiting


def _refuse() -> None:
    """End the early call, unless the run has claimed it by now."""
    gate = CURRENT.get()
    if gate is None or gate.refuse(REASON):
        raise NoToken(REASON)


@contextmanager
def _waits(limiter: Any) -> Iterator[None]:
    with _lock:
        _waiting[id(limiter)] = _waiting.get(id(limiter), 0) + 1
    try:
        yield
    finally:
        with _lock:
            _waiting[id(limiter)] -= 1
            if not _waiting[id(limiter)]:
                del _waiting[id(limiter)]


def _wrapped(method: Any) -> Any:
    @wraps(method)
    def acquire(self: Any, *, blocking: bool = True, **kwargs: Any) -> Any:
        if _is_early():
            if not _has_waiters(self) and method(self, blocking=False, **kwargs):
                return True
            _refuse()
        with _waits(self):
            return method(self, blocking=blocking, **kwargs)

    setattr(acquire, _WRAPPED, True)
    return acquire


def _awrapped(method: Any) -> Any:
    @wraps(method)
    async def aacquire(self: Any, *, blocking: bool = True, **kwargs: Any) -> Any:
        if _is_early():
            if not _has_waiters(self) and await method(self, blocking=False, **kwargs):
                return True
            _refuse()
        with _waits(self):
            return await method(self, blocking=blocking, **kwargs)

    setattr(aacquire, _WRAPPED, True)
    return aacquire
