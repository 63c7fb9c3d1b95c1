"""Calling what users give to take actions back or to finish them: anywhere, again, and with somebody to tell."""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langgraph_speculative import _scheduler
from langgraph_speculative.effects import Action, Effect
from langgraph_speculative.speculators._protocol import is_async

if TYPE_CHECKING:
    from langgraph_speculative.policy import Policy


@dataclass(frozen=True, kw_only=True)
class RollbackFailure:
    """An early action that could not be taken back; its entry stays in the journal.

    Attributes:
        action: What was done, with all that its handler was given.
        effect: Whether its undo or its abort has failed.
        error: What the handler raised the last time, or why it was not called.
        attempts: Times that it was called.
    """

    action: Action
    effect: Effect
    error: BaseException
    attempts: int


async def call(owner: object, handler: Callable[..., Any], *args: Any) -> Any:
    """Call what a user gave: on this loop if it is a coroutine function, else in a thread."""
    if is_async(handler):
        return await handler(*args)
    given = await in_thread(owner, lambda: handler(*args))
    return await given if inspect.isawaitable(given) else given


async def in_thread(owner: object, function: Callable[[], Any]) -> Any:
    """Run blocking code in a thread of the pool, which never refuses it: a rollback must not wait for room."""
    return await _scheduler.POOL.run(owner, function, must=True)


async def attempt(go: Callable[[], Any], policy: Policy) -> tuple[BaseException | None, int]:
    """Call until it succeeds, with growing pauses; the last error, if none did, and the number of calls."""
    pause = policy.rollback_backoff
    for number in itertools.count(1):
        try:
            await go()
            return None, number
        except Exception as error:
            if number >= policy.rollback_attempts:
                return error, number
        await asyncio.sleep(pause)
        pause *= 2
    raise AssertionError


def tell(policy: Policy, failure: RollbackFailure, note: Callable[[str], object]) -> None:
    """Give a failure to the policy's hook."""
    if policy.on_rollback_failure is not None:
        try:
            policy.on_rollback_failure(failure)
        except Exception as error:
            note(f"on_rollback_failure raised {error!r}")


async def awaited(given: Any) -> Any:
    """What an awaitable gives, as a coroutine."""
    return await given
