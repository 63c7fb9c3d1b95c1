"""Asking one Speculator from within another, or from a test, whatever kind of callable it is."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig

from langgraph_speculative import _scheduler
from langgraph_speculative.speculators._protocol import (
    BaseSpeculator,
    Guess,
    Speculator,
    guesses_of,
    is_async,
    is_stream,
)

T = TypeVar("T")


def has_async_form(speculator: Any) -> bool:
    """Whether it can be asked on an event loop."""
    if isinstance(speculator, BaseSpeculator):
        return getattr(speculator, "aguess", None) is not None
    return is_async(speculator)


def has_sync_form(speculator: Any) -> bool:
    """Whether it can be asked without an event loop."""
    if isinstance(speculator, BaseSpeculator):
        return type(speculator).guess is not BaseSpeculator.guess
    return not is_async(speculator)


def ask(speculator: Speculator, value: Any, config: RunnableConfig) -> list[Guess]:
    """All guesses of a Speculator, asked in this thread; one that has only an asynchronous form gets a loop in it."""
    if not has_sync_form(speculator):
        return asyncio.run(aask(speculator, value, config))
    based = isinstance(speculator, BaseSpeculator)
    returned = speculator.guess(value, config) if based else speculator(value)  # type: ignore[operator,union-attr]
    return _drained(returned)


async def aask(speculator: Speculator, value: Any, config: RunnableConfig) -> list[Guess]:
    """All guesses of a Speculator, asked on this loop; one that has only a synchronous form in a thread of the pool."""
    if not has_async_form(speculator):
        return await _scheduler.POOL.run(_scheduler.OWNER.get(speculator), ask, speculator, value, config)  # type: ignore[no-any-return]
    based = isinstance(speculator, BaseSpeculator)
    returned: Any = speculator.aguess(value, config) if based else speculator(value)  # type: ignore[operator,union-attr]
    if not is_stream(returned):
        returned = await returned
    if isinstance(returned, AsyncIterator):
        return [guess async for item in returned for guess in guesses_of(item)]
    if inspect.isgenerator(returned):
        return await _scheduler.POOL.run(_scheduler.OWNER.get(speculator), _drained, returned)  # type: ignore[no-any-return]
    return guesses_of(returned)


def _drained(returned: Any) -> list[Guess]:
    if inspect.isgenerator(returned):
        return [guess for item in returned for guess in guesses_of(item)]
    return guesses_of(returned)


def together(owner: object, calls: Sequence[Callable[[], T]]) -> list[T | BaseException]:
    """Make calls beside each other, the last one in this thread; the result or exception of each, in order.

    A call for which the pool has no thread is made here. Its threads are counted for the run's graph, else for `owner`.
    """
    futures: list[Future[T]] = [Future() for _ in calls]

    def make(call: Callable[[], T], future: Future[T]) -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    for number, (call, future) in enumerate(zip(calls, futures, strict=True), 1):
        context = copy_context()

        def job(call: Callable[[], T] = call, future: Future[T] = future, run: Any = context.run) -> None:
            run(make, call, future)

        if number == len(calls) or not _scheduler.POOL.submit(_scheduler.OWNER.get(owner), job):
            job()
    return [future.exception() or future.result() for future in futures]
