"""Recovery: takes back, or brings to its end, what a process that is no more has begun early.

    entry BEGUN or DONE ---> undo or abort ---> closed
    entry COMMITTING ------> commit again ----> closed      the claim had decided; `CommitRefused`: nothing is left

Each entry is taken over before its handler is called and closed after it has returned, so a recovery that is killed can
be run again: a handler may then be called for the same `Action.id` once more, which is why handlers are idempotent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from langgraph_speculative._handlers import RollbackFailure, attempt, call, in_thread, tell
from langgraph_speculative.effects import Action, Declaration, Effect, Handler
from langgraph_speculative.errors import CommitRefused, SpeculationError
from langgraph_speculative.journal import Entry, Journal, Phase
from langgraph_speculative.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What a recovery has done; each tuple in the order of the calls.

    Attributes:
        undone: Reversible actions that were taken back.
        aborted: Staged actions that were.
        committed: Staged actions whose claim had decided before the process ended.
        failed: What could not be, and stays in the journal.
    """

    undone: tuple[Action, ...] = ()
    aborted: tuple[Action, ...] = ()
    committed: tuple[Action, ...] = ()
    failed: tuple[RollbackFailure, ...] = ()


async def recover(journal: Journal, declarations: Mapping[str, Declaration], policy: Policy, owner: object) -> Recovery:
    """Recover the entries of these tools and nodes whose process is no more, latest first.

    Raises:
        SpeculationError: The journal cannot be read.
    """
    done: dict[str, list[Any]] = {"undone": [], "aborted": [], "committed": [], "failed": []}
    for entry in await in_thread(owner, lambda: journal.abandoned(declarations)):
        declaration = declarations[entry.name]
        # Or else nobody could take it over as long as this process lives.
        if declaration.effect.value == entry.kind and not await in_thread(owner, partial(journal.take, entry)):
            continue
        action = Action(
            id=entry.id,
            name=entry.name,
            arguments=entry.arguments,
            finished=entry.phase is not Phase.BEGUN,
            result=entry.result,
            handle=entry.handle,
            thread_id=entry.thread_id,
        )
        error, attempts = await _settle(journal, entry, action, declaration, policy, owner, done)
        if error is not None:
            failure = RollbackFailure(action=action, effect=declaration.effect, error=error, attempts=attempts)
            done["failed"].append(failure)
            tell(policy, failure, lambda _: None)
    return Recovery(**{name: tuple(actions) for name, actions in done.items()})


async def _settle(
    journal: Journal,
    entry: Entry,
    action: Action,
    declaration: Declaration,
    policy: Policy,
    owner: object,
    done: dict[str, list[Any]],
) -> tuple[BaseException | None, int]:
    if declaration.effect.value != entry.kind:
        return SpeculationError(
            f"{entry.name!r} was {entry.kind} when {entry.id} began, and is declared {declaration.effect.value} now: "
            "recover with the old declaration, or repair by hand."
        ), 0
    handler, kind = _handler_of(entry, declaration)
    assert handler is not None

    async def go() -> None:
        nonlocal kind
        try:
            async with asyncio.timeout(policy.rollback_timeout):
                await call(owner, handler, action)
        except CommitRefused:
            kind = "aborted"

    error, attempts = await attempt(go, policy)
    if error is None:
        await in_thread(owner, lambda: journal.close(entry.id))
        done[kind].append(action)
    return error, attempts


def _handler_of(entry: Entry, declaration: Declaration) -> tuple[Handler | None, str]:
    if declaration.effect is Effect.REVERSIBLE:
        return declaration.undo, "undone"
    if entry.phase is Phase.COMMITTING:
        return declaration.commit, "committed"
    return declaration.abort, "aborted"
