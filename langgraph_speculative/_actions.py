"""Open actions: what a run has changed in the world early, until it is claimed or taken back.

    begun ---> ran ---> claimed        the claim holds it, settles it, and closes its entry in the journal
      |         |-----> taken back     undone or aborted, in each scope latest first; then its entry is closed
      -----------------> taken back     once its code has ended: one that is cut off may still act

Whoever holds an action first, the claim or the rollback, decides. A real call of overlapping scope waits until the
actions in its way are settled, and so does the end of the run; nothing else waits.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from langgraph_speculative._handlers import RollbackFailure, attempt, awaited, call, in_thread, tell
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative.effects import Action, Declaration, Effect, Prepared, overlap
from langgraph_speculative.errors import CommitRefused
from langgraph_speculative.journal import Entry, Phase

if TYPE_CHECKING:
    from langgraph_speculative._session import Session
    from langgraph_speculative.journal import Journal


_orders = itertools.count()
"""One for the process, as in the journal: its runs may act in the same place."""


class Open:
    """One early action: what its handlers are told, and who decides about it."""

    def __init__(self, execution: Execution, declaration: Declaration, action: Action, order: int) -> None:
        self.execution = execution
        self.declaration = declaration
        self.action = action
        self.order = order
        self.journalled = False
        self.prepared = False
        self.kept = False
        self.committing = False
        self._lock = threading.Lock()
        self._holder: Literal["", "claim", "rollback"] = ""
        self._settled = threading.Event()
        self._waiting: list[Callable[[], object]] = []

    def hold(self, who: Literal["claim", "rollback"]) -> bool:
        """Whether this one decides about it."""
        with self._lock:
            if self._holder or self._settled.is_set():
                return False
            self._holder = who
            return True

    def let_go(self) -> None:
        """The claim came to nothing."""
        with self._lock:
            if self._holder == "claim":
                self._holder = ""

    @property
    def is_held_by_claim(self) -> bool:
        with self._lock:
            return self._holder == "claim" and not self._settled.is_set()

    def settle(self) -> None:
        with self._lock:
            self._settled.set()
            waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()

    def wait(self) -> None:
        self._settled.wait()

    async def await_it(self) -> None:
        loop = asyncio.get_running_loop()
        settled = loop.create_future()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(lambda: None if settled.done() else settled.set_result(None))

        with self._lock:
            if self._settled.is_set():
                return
            self._waiting.append(tell)
        await settled


class Actions:
    """The early actions of one run."""

    def __init__(self, session: Session, journal: Callable[[], Journal]) -> None:
        self._session = session
        self._policy = session.policy
        self._ledger = session.ledger
        self._journal = journal
        self._rolling: dict[Open, asyncio.Task[None]] = {}

    def open(self, ex: Execution, name: str, arguments: Any, thread_id: str) -> None:
        """Give an execution what its handlers are told; it may start once the ledger lets it."""
        declaration = ex.info.declaration
        assert declaration is not None
        action = Action(id=uuid4().hex, name=name, arguments=arguments, thread_id=thread_id)
        ex.action = Open(ex, declaration, action, next(_orders))

    # --- the life of its code -----------------------------------------------------------------------------------

    async def begin(self, ex: Execution) -> None:
        """Write the journal's entry: nothing of the action is done before.

        Raises:
            Exception: The journal cannot be written, or the policy's hook cannot redact the arguments.
        """
        own = ex.action
        assert own is not None
        if own.declaration.effect is not Effect.OVERWRITE:
            action = own.action
            arguments = action.arguments
            if self._policy.redact is not None:
                arguments = self._policy.redact(action.name, arguments)
            entry = Entry(
                id=action.id,
                name=action.name,
                kind=own.declaration.effect.value,
                arguments=arguments,
                thread_id=action.thread_id,
                order=own.order,
            )
            await self._in_thread(lambda: self._journal().begin(entry))
            own.journalled = True

    async def ran(self, ex: Execution, output: Any) -> None:
        """Its code has returned."""
        own = ex.action
        assert own is not None
        result = own.action.result if own.prepared else output
        own.action = action = replace(own.action, finished=True, result=result)
        if own.journalled:
            await self._in_thread(
                lambda: self._journal().advance(action.id, Phase.DONE, result=result, handle=action.handle)
            )

    def prepared(self, ex: Execution, given: Any) -> Any:
        """Keep what the first phase gave; the result."""
        own = ex.action
        assert own is not None
        if not isinstance(given, Prepared):
            raise TypeError(f"prepare of {own.action.name!r} returned {type(given).__name__}, and not a Prepared")
        own.prepared = True
        own.action = replace(own.action, result=given.result, handle=given.handle)
        return given.result

    # --- claims -------------------------------------------------------------------------------------------------

    def commit(self, own: Open) -> bool:
        """The second phase of a staged action (threads); whether it was done."""
        if own.declaration.commit is None or not self._decide(own):
            return False
        try:
            given = own.declaration.commit(own.action)
            if inspect.isawaitable(given):
                asyncio.run_coroutine_threadsafe(awaited(given), self._session.loop).result()
        except CommitRefused:
            return False
        own.kept = True
        return True

    async def acommit(self, own: Open) -> bool:
        """`commit` on an event loop."""
        task = asyncio.get_running_loop().create_task(self._commit(own))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            # A commit that is under way comes to its end: what is true then decides about the action.
            while not task.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
            raise

    async def _commit(self, own: Open) -> bool:
        if own.declaration.commit is None or not await self._in_thread(lambda: self._decide(own)):
            return False
        try:
            await self._call(own.declaration.commit, own.action)
        except CommitRefused:
            return False
        own.kept = True
        return True

    def _decide(self, own: Open) -> bool:
        """Write down that it is to be committed; whether that may go on."""
        if not own.prepared:
            return False
        own.committing = True
        try:
            self._journal().advance(own.action.id, Phase.COMMITTING, handle=own.action.handle)
        except Exception as error:
            self._session.report.errors.append(f"the journal could not be written: {error!r}")
            return False
        return True

    def taken(self, own: Open) -> None:
        """The run has taken it over (threads)."""
        self._made(own)
        if own.journalled:
            self._close(own)
        self._settle(own)

    async def ataken(self, own: Open) -> None:
        """`taken` on an event loop."""
        try:
            self._made(own)
            if own.journalled:
                await self._in_thread(lambda: self._close(own))
        finally:
            self._settle(own)

    def left(self, own: Open) -> None:
        """The claimant is gone, however: what it has kept is the run's, what it has not is taken back."""
        if own.is_held_by_claim:
            if own.kept:
                self._settle(own)
            else:
                own.let_go()
                self.roll_back([own.execution])

    def _made(self, own: Open) -> None:
        # At once, and not when the run has passed them: a tool's claim may be of another step of the branch.
        if fenced := self._ledger.made(own.execution):
            self._session.post(self._session.tree.pruning.drop, fenced, "a real effect was made")

    def _close(self, own: Open) -> None:
        try:
            self._journal().close(own.action.id)
        except Exception as error:
            # What is done is the run's own; but the entry says otherwise, and somebody has to know.
            self._failed(own, error, 0)

    def _settle(self, own: Open) -> None:
        self._ledger.settled(own.execution)
        own.settle()

    # --- rollback -----------------------------------------------------------------------------------------------

    def roll_back(self, executions: Iterable[Execution]) -> None:
        """Take actions back which nobody has claimed, and what was done on top of them; from any thread."""
        wanted = self._ledger.with_later(list(executions))
        held = [ex.action for ex in wanted if ex.action is not None and ex.action.hold("rollback")]
        if held:
            try:
                self._session.loop.call_soon_threadsafe(self._want, held, context=self._session.context.copy())
            except RuntimeError as error:  # the loop is closed, and with it the run: the next process takes it back
                for own in held:
                    self._failed(own, error, 0)
                    self._settle(own)

    def _want(self, held: list[Open]) -> None:
        for own in sorted(held, key=lambda o: -o.order):
            scopes = own.execution.scopes
            above = [o for o in self._rolling if o.order > own.order and overlap(o.execution.scopes, scopes)]
            task = self._session.loop.create_task(self._roll(own, above), name="langgraph-speculative-rollback")
            self._rolling[own] = task

    async def _roll(self, own: Open, above: list[Open]) -> None:
        """Take one action back, once what was done on top of it is: one of another scope holds nobody up."""
        try:
            for other in above:
                await other.await_it()
            async with asyncio.timeout(self._policy.rollback_timeout):
                await self._take_back(own)
        except Exception as error:
            self._failed(own, error, 0)
        finally:
            del self._rolling[own]
            self._settle(own)

    async def _take_back(self, own: Open) -> None:
        ex = own.execution
        if ex.task is not None:
            await ex.wait_over(self._ledger.lock)
        self._session.wasted(ex, "taken back")
        ex.state = State.DISCARDED
        handler = own.declaration.undo if own.declaration.effect is Effect.REVERSIBLE else own.declaration.abort
        if own.committing:
            # It came to nothing: the next process must not commit what is aborted here.
            with suppress(Exception):
                await self._in_thread(lambda: self._journal().advance(own.action.id, Phase.DONE))
        if handler is not None and own.journalled:  # or else its code has not been entered
            error, attempts = await attempt(lambda: self._call(handler, own.action), self._policy)
            if error is not None:
                self._failed(own, error, attempts)
                return
            self._session.report.rolled_back += 1
            self._session.emit("rollback", ex.info, ex.step)
        if own.journalled:
            await self._in_thread(lambda: self._close(own))

    def _failed(self, own: Open, error: BaseException, attempts: int) -> None:
        """It is not taken back: tell everybody who may do something about it."""
        self._session.report.rollback_failures += 1
        self._session.report.errors.append(f"{own.action.name!r} was not taken back: {error!r}")
        self._session.emit("error", own.execution.info, own.execution.step, f"not taken back: {error!r}")
        tell(
            self._policy,
            RollbackFailure(action=own.action, effect=own.declaration.effect, error=error, attempts=attempts),
            self._session.report.errors.append,
        )

    # --- waiting ------------------------------------------------------------------------------------------------

    def clear(self, executions: list[Execution]) -> None:
        """Take these back and wait for it, unless they are being claimed (threads)."""
        since = time.monotonic()
        self.roll_back(executions)
        for ex in executions:
            # What is being claimed is the run's own: it would not wait for a call beside it either.
            if ex.action is not None and not ex.action.is_held_by_claim:
                ex.action.wait()
        self._session.report.rollback_wait += time.monotonic() - since

    async def aclear(self, executions: list[Execution]) -> None:
        """`clear` on an event loop."""
        since = time.monotonic()
        self.roll_back(executions)
        for ex in executions:
            if ex.action is not None and not ex.action.is_held_by_claim:
                await ex.action.await_it()
        self._session.report.rollback_wait += time.monotonic() - since

    # --- handlers -----------------------------------------------------------------------------------------------

    async def _call(self, handler: Callable[..., Any], *args: Any) -> Any:
        return await call(self._session.owner, handler, *args)

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        return await in_thread(self._session.owner, function)
