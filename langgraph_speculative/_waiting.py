"""Between turns: a graph waits for a person, and is speculated on meanwhile; see docs/between_turns.md.

    READING ---> WAITING ---> TAKEN ---> JOINED     the thread's next run has come, and goes on from here
       |            |           `------> OVER       ... from elsewhere: all is discarded
       `------------`------------------> OVER       time is over, the thread has moved, the graph or the loop is closed

A wait is a `Session` that no run has opened. The next run of the thread takes it for its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import Any

from langchain_core.runnables import RunnableConfig

from langgraph_speculative import _compat, _scheduler
from langgraph_speculative._branch import Frame
from langgraph_speculative._handlers import in_thread
from langgraph_speculative._histories import KnownIds
from langgraph_speculative._learning import Learning
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative._recorder import marked_like
from langgraph_speculative._session import Session
from langgraph_speculative._values import Opaque, copy_value, freeze
from langgraph_speculative._view import KEY, View
from langgraph_speculative._workers import ended
from langgraph_speculative.between_turns import BetweenTurns
from langgraph_speculative.effects import Effect
from langgraph_speculative.report import usage_of
from langgraph_speculative.speculators._protocol import NOTHING

MAX_WAITS = 64
"""Threads of one graph that may wait at the same time; the oldest wait makes room."""


UNREAD = 5.0
"""Seconds that closing a graph waits for a checkpointer that is being read."""


class WaitState(Enum):
    READING = auto()
    WAITING = auto()
    TAKEN = auto()
    JOINED = auto()
    OVER = auto()


class Turn:
    """One run of a thread: what the person has said, and the loop that it begins and ends with."""

    def __init__(self, thread: str, given: Any) -> None:
        self.thread = thread
        self.given = given
        self.before: Any = NOTHING
        self.started_from = ""
        self.root: Any = None
        self.handlers: list[Any] = []
        self._lock = threading.Lock()
        self._has_begun = False

    def begin(self, session: Session, loop: Any, config: RunnableConfig) -> None:
        """The run executes a node: its first one decides whether it goes on from the wait."""
        if self._has_begun:
            return
        with self._lock:
            if self._has_begun:
                return
            try:
                session.handlers = self.handlers = _compat.handlers_for(config)
                if _compat.may_wait(loop):
                    self.root, self.started_from = loop, _compat.started_from(loop)
                if session.wait is not None:
                    session.wait.join(self, loop)
            finally:
                self._has_begun = True


class Wait:
    """One thread that waits for a person.

    Args:
        turn: The run that has ended there.
        make: Makes the wait's session.
        over: Called on the session's loop when it has ended, however.
    """

    def __init__(
        self,
        turn: Turn,
        limits: BetweenTurns,
        info: NodeInfo,
        learning: Learning,
        make: Callable[[Wait], Session],
        over: Callable[[Wait], None],
    ) -> None:
        self.thread = turn.thread
        self.state = WaitState.READING
        self._turn: Turn | None = turn
        self._limits = limits
        self._info = info
        self._learning = learning
        self._over = over
        root = turn.root
        self._base = _compat.last_checkpoint(root)
        self._identity = _compat.identity_of(root)
        self._request = _compat.request_of(root)
        self._audience = _compat.audience_of(root, turn.handlers)
        self.session = session = make(self)
        session.handlers = _compat.mirrored(turn.handlers, marked_like(turn.handlers))
        self._loop = _compat.StandIn(root, View(session), KEY)
        turn.root, turn.handlers = None, []
        self._config = self._loop.config
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._reason = ""
        self._is_other_request = False
        self._values: Any = NOTHING
        self._frames: list[Frame] = []
        self._person: Execution | None = None
        self._answer: Execution | None = None
        self._is_ready = False
        self._launched: list[Execution] = []

    def __repr__(self) -> str:
        return f"<Wait {self.thread!r} {self.state.name}>"

    @property
    def is_claimed(self) -> bool:
        """Whether a run has taken something over that was launched while nobody ran."""
        return any(ex.state is State.CLAIMED for ex in self._launched)

    # --- its life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin, off the run's path."""
        self._tell("opened")
        self.session.post(self._start)

    def _start(self) -> None:
        with self._lock:
            if self.state is WaitState.READING:
                session = self.session
                self._task = session.loop.create_task(
                    self._wait(), name="langgraph-speculative-wait", context=session.context.copy()
                )
                self._task.add_done_callback(self._ended)
                return
            is_over = self.state is WaitState.OVER
        if is_over:
            self.session.abort()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._limits.seconds):
                await self._learn()
                await self._ask()
                await asyncio.get_running_loop().create_future()  # until the time is over, or somebody comes
        except TimeoutError:
            self._reason = self._reason or "time is over"

    def take(self) -> bool:
        """Whether the thread's next run may have the session; then nobody else ends it."""
        with self._lock:
            if self.state not in (WaitState.READING, WaitState.WAITING) or self.session.broken:
                return False
            self.state = WaitState.TAKEN
        self._cancel_soon()
        return True

    def end(self, reason: str) -> None:
        """No run will have it; from any thread."""
        with self._lock:
            if self.state not in (WaitState.READING, WaitState.WAITING):
                return
            self._reason = self._reason or reason
            self.state = WaitState.OVER
        self._cancel_soon()

    def _cancel_soon(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and with it the wait
            self.session.loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        session = self.session
        if not task.cancelled() and (error := task.exception()) is not None:
            session.report.errors.append(f"nothing is guessed between turns: {error!r}")
        with self._lock:
            is_taken = self.state in (WaitState.TAKEN, WaitState.JOINED)
            if not is_taken:
                self.state = WaitState.OVER
        self._turn = None
        self._over(self)
        if not is_taken:
            self._tell(self._reason or "closed")
            self._let_go()
            session.abort()

    async def gone(self) -> None:
        """Wait until nothing of it is left on this loop."""
        if self._task is not None and self.session.loop is asyncio.get_running_loop():
            await asyncio.wait([self._task])
            await ended(self.session.tree.kill_all())

    def unread(self) -> None:
        """It has ended: wait for a thread of its that reads the checkpointer, which may be closed next."""
        if self._reading.acquire(timeout=UNREAD):
            self._reading.release()

    def forget(self) -> None:
        """The session has ended: hold on to nothing of it."""
        self._launched.clear()
        self._loop.stand_for(None)

    def _let_go(self) -> None:
        self._frames, self._person, self._answer, self._values = [], None, None, NOTHING

    def _tell(self, detail: str) -> None:
        self.session.emit("wait", detail=detail)

    # --- guessing -----------------------------------------------------------------------------------------------

    async def _load(self, checkpoint_id: str | None = None) -> Any:
        if self.session.sync:
            return await in_thread(self.session.owner, partial(self._load_here, checkpoint_id))
        return await self._loop.aload(checkpoint_id)

    def _load_here(self, checkpoint_id: str | None) -> Any:
        with self._reading:
            return None if self.state is WaitState.OVER else self._loop.load(checkpoint_id)

    async def _learn(self) -> None:
        """Tell the Speculator what the person has said in the run that has ended."""
        turn = self._turn
        if not self._info.learns or turn is None:
            return
        if turn.before is NOTHING and (loaded := await self._load(turn.started_from)) is not None:
            turn.before = self._loop.values(*loaded[:2])
        if turn.before is not NOTHING:
            self._learning.tell(self._info, turn.before, turn.given, _compat.guess_config(self._config))

    async def _ask(self) -> None:
        loaded = await self._load()
        self._turn = None
        with self._lock:
            if self.state is not WaitState.READING:
                return
            self.state = WaitState.WAITING
        if loaded is None or loaded[0].checkpoint["id"] != self._base:
            self.end("moved")
            return
        if (saved := self._loop.at(*loaded)) is None:
            self.session.stop("writes wait with the last checkpoint", self._info)
            return
        known = KnownIds()
        for channel in self._loop.channels.values():
            for part in ("value", "values"):
                known.add(getattr(channel, part, None))
        self._values = values = self._loop.values(*loaded[:2])
        self._person = person = Execution(self._info, self._loop.step + 1, None, State.RUNNING, Effect.PURE)
        person.input, person.config = values, self._config
        if (step := saved.after_input()) is not None:
            frame = self._frame(person, step[0], known)
            person.config = step[1].config
            frame.tasks.append(step[1])
        asked = saved.question()
        if asked is not None:
            self._answer = Execution(self._info, self._loop.step - 1, None, State.RUNNING, Effect.PURE)
            frame = self._frame(self._answer, asked, known)
            frame.pending, frame.expected = saved.pending, 1
        self._tell("asked")
        committed = self._loop.step + 1 if self._answer is None else self._loop.step
        self.session.tree.wait(self._loop, person, self._answer, committed)
        self._is_ready = True

    def _frame(self, ex: Execution, snapshot: Any, known: KnownIds) -> Frame:
        frame = Frame(self._loop, ex.step, parent=None)
        frame.snapshot, frame.known = snapshot, known
        frame.executions.append(ex)
        ex.frame = frame
        ex.frames.append(frame)
        self._frames.append(frame)
        return frame

    # --- limits -------------------------------------------------------------------------------------------------

    def refuses(self, ex: Execution, config: RunnableConfig) -> str:
        """Why an early call may not start here; empty if it may, and then it is counted."""
        info = ex.info
        if self.state is WaitState.JOINED:
            if self._is_other_request and info.sees_request and _compat.is_of_wait(config):
                return f"{info.label!r} may look at the ids of the request before"
            return ""
        if info.effect not in (Effect.PURE, Effect.READ):
            return f"{info.effect.value} {info.label!r} between turns"
        if len(self._launched) >= self._limits.calls:
            return "the calls of the wait are used up"
        if (tokens := self._limits.tokens) is not None:
            spent = self._spent()
            if spent >= tokens and (spent or (isinstance(info, NodeInfo) and info.is_model)):
                return "the tokens of the wait are used up"
        self._launched.append(ex)
        return ""

    def has_launched(self, ex: Execution) -> bool:
        """Whether it has begun before the run came."""
        return ex in self._launched

    def _spent(self) -> int:
        calls = sum(tokens for ex in self._launched for _, tokens in usage_of(ex.output))
        return calls + sum(usage.draft for usage in self.session.report.usage.values())

    # --- the next run -------------------------------------------------------------------------------------------

    def join(self, turn: Turn, loop: Any) -> None:
        """The run that has taken the session executes its first node: does it go on from here? (The run's thread.)"""
        with self._lock:
            if self.state is not WaitState.TAKEN:
                return
            self.state = WaitState.JOINED
        session, frames = self.session, self._frames
        # Not ready: in the synchronous world it may be under way at this moment, and the run waits for nobody.
        if not self._is_ready or not self._agrees(turn, loop):
            session.post(self._abandon, session.ledger.discard(lambda _: True))
            self._tell("moved")
            return
        self._is_other_request = _compat.request_of(loop) != self._request
        if self._is_other_request and (seen := session.ledger.discard(lambda ex: ex.info.sees_request)):
            session.post(session.tree.pruning.drop, seen, "it may have looked at the ids of the request before")
        turn.before = self._values
        said = self._said(turn.given)
        before = said.frame if said is not None and said.step + 1 == loop.step else None
        self._loop.stand_for(loop)
        session.stands_behind(loop, self._loop, before)
        session.post(self._go_on, frames, said if before is not None else None, turn.given)
        self._tell("joined")
        self._let_go()

    def _abandon(self, dropped: list[Execution]) -> None:
        self.session.tree.abandon(self._frames, dropped, "the thread moved")
        self._let_go()

    def _agrees(self, turn: Turn, loop: Any) -> bool:
        return (
            turn.root is loop
            and loop.store is self._loop.store
            and loop.checkpointer is self._loop.checkpointer
            and _compat.started_from(loop) == self._base
            and _compat.identity_of(loop) == self._identity
            and _compat.audience_of(loop, turn.handlers) == self._audience
        )

    def _said(self, given: Any) -> Execution | None:
        """Whose guesses the run's input decides about."""
        if _compat.answer_in(given):
            return self._answer
        return self._person if _compat.is_input(given) else None

    def _go_on(self, frames: list[Frame], said: Execution | None, given: Any) -> None:
        output, frozen = given, None
        if said is not None and said.frame is not None:
            try:
                if (answer := _compat.answer_in(given)) and said.frame.pending is not None:
                    output, frozen = answer[0], freeze(answer[0])
                else:
                    writes = _compat.state_writes(said.frame.tasks[0], copy_value(given), said.config)
                    frozen = freeze(writes)
            except Exception:
                frozen = None  # it cannot be compared, or the run has refused it
        self.session.tree.go_on(frames, said, output, frozen)


class Waits:
    """The waits of one graph and its copies.

    Args:
        make: Makes a wait's session after the one of the run that has ended.
    """

    def __init__(
        self,
        limits: BetweenTurns,
        info: NodeInfo,
        learning: Learning,
        make: Callable[[Session, Wait], Session],
    ) -> None:
        self._limits = limits
        self._info = info
        self._learning = learning
        self._make = make
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Wait] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def take(self, thread: str, *, sync: bool) -> Session | None:
        """The thread moves: the session of its wait, if a run in this world may have it."""
        with self._lock:
            wait = self._open.pop(thread, None)
        if wait is None:
            return None
        # Of a process that has been forked, the synchronous world is another one, too.
        here = _scheduler.CONTROL.loop() if sync else asyncio.get_running_loop()
        if wait.session.loop is here and wait.take():
            return wait.session
        wait.end("moved")
        return None

    def moved(self, thread: str) -> None:
        """The thread moves without a run that could go on from its wait."""
        with self._lock:
            wait = self._open.pop(thread, None)
        if wait is not None:
            wait.end("moved")

    def after(self, session: Session) -> None:
        """A run has ended well: its thread waits for a person."""
        turn = session.turn
        if turn is None or turn.root is None or session.broken:
            return
        if self._info.learns:
            with suppress(Opaque):  # the caller may go on with it
                turn.given = copy_value(turn.given)
        wait = Wait(turn, self._limits, self._info, self._learning, lambda own: self._make(session, own), self._forget)
        with self._lock:
            older = [self._open.pop(turn.thread)] if turn.thread in self._open else []
            if len(self._open) >= MAX_WAITS:
                older.append(self._open.popitem(last=False)[1])
            self._open[turn.thread] = wait
        for other in older:
            other.end("closed")
        wait.start()

    def _forget(self, wait: Wait) -> None:
        with self._lock:
            if self._open.get(wait.thread) is wait:
                del self._open[wait.thread]

    def close(self) -> list[Wait]:
        """End all; those that are still to end."""
        with self._lock:
            waits = list(self._open.values())
            self._open.clear()
        for wait in waits:
            wait.end("closed")
        return waits
