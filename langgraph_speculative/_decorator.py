"""``@speculative(...)`` on a function that returns a graph, in whatever way it returns it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import Any

from langgraph_speculative._compat import CompiledStateGraph

Wrap = Callable[[Any], Any]


def decorate(function: Any, wrap: Wrap) -> Any:
    """Wrap what a function returns, in whatever way it returns it."""
    if not callable(function):
        return wrap(function)
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def made(*args: Any, **kwargs: Any) -> Any:
            return wrap(await function(*args, **kwargs))

        return made

    @wraps(function)
    def made_or_managed(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if isinstance(result, CompiledStateGraph):
            return wrap(result)
        if inspect.isasyncgen(result):
            return asynccontextmanager(lambda: _amanaged_generator(result, wrap))()
        if inspect.isgenerator(result):
            return contextmanager(lambda: _managed_generator(result, wrap))()
        if hasattr(result, "__aenter__"):
            return _amanaged(result, wrap)
        if hasattr(result, "__enter__"):
            return _managed(result, wrap)
        return wrap(result)

    return made_or_managed


@contextmanager
def _managed(manager: Any, wrap: Wrap) -> Iterator[Any]:
    with manager as graph, wrap(graph) as fast:
        yield fast


@asynccontextmanager
async def _amanaged(manager: Any, wrap: Wrap) -> AsyncIterator[Any]:
    async with manager as graph:
        with wrap(graph) as fast:
            yield fast


def _managed_generator(generator: Any, wrap: Wrap) -> Iterator[Any]:
    with _managed(contextmanager(lambda: generator)(), wrap) as fast:
        yield fast


async def _amanaged_generator(generator: Any, wrap: Wrap) -> AsyncIterator[Any]:
    async with _amanaged(asynccontextmanager(lambda: generator)(), wrap) as fast:
        yield fast
