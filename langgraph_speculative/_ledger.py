"""The ledger of a run: pre-executions by what they compute, and who may take them over.

What changes the world early (an *open action*) stays on a list of its own until it is claimed or taken back: while it
is open, nothing else of the run touches the same part of the world.

States of an `Execution` made in a branch:

    BLOCKED      may not run early; its guesses may be speculated on ............ adopt() -> CLAIMED
    OPEN         a node that is transparent (tool node, subgraph): its leaves are claimed, it is adopted
    RUNNING ---> FINISHED ............................................. claim() -> CLAIMED (from either)
       |-------> FAILED        error, interrupt, changed input, spoiled result: never claimable
    any -------> DISCARDED     passed by the run, fenced by an effect, or the run ended

Decided under the lock, acted on outside of it: `discard_*` return what the caller has to cancel.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Container
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from langgraph_speculative._ids import Renaming, changed_records, match
from langgraph_speculative._values import Opaque, fingerprint, freeze
from langgraph_speculative.effects import Effect, Scopes, overlap

if TYPE_CHECKING:
    from langgraph_speculative._actions import Open
    from langgraph_speculative._branch import Frame, Proposal
    from langgraph_speculative._gate import Gate
    from langgraph_speculative._journal import Journal
    from langgraph_speculative._nodes import LeafInfo


class State(Enum):
    BLOCKED = auto()
    OPEN = auto()
    RUNNING = auto()
    FINISHED = auto()
    FAILED = auto()
    CLAIMED = auto()
    DISCARDED = auto()


class Execution:
    """One execution of a node or of a tool call, by the real run or early in a branch.

    Attributes:
        step: The superstep of the frame it belongs to.
        own_step: The superstep of the graph that the node is in: another one where a branch runs a whole nested graph.
        scopes: What it touches: of a transparent one, what its effectful leaves do.
        stands_on: The early actions whose changes it may have seen: not claimable unless they are.
    """

    def __init__(
        self,
        info: LeafInfo,
        step: int,
        frame: Frame | None,
        state: State,
        effect: Effect,
        own_step: int | None = None,
    ) -> None:
        self.info = info
        self.step = step
        self.own_step = step if own_step is None else own_step
        self.frame = frame
        self.state = state
        self.effect = effect
        self.key: Any = None
        self.glance: Any = None
        self.known: Container[str] = ()
        self.call_id: str | None = None
        self.scopes: Scopes = None
        self.stands_on: tuple[Execution, ...] = ()
        self.action: Open | None = None
        self.input: Any = None
        self.config: Any = None
        self.real_task: Any = None
        self.namespace = ""
        self.gate: Gate | None = None
        self.task: asyncio.Task[Any] | None = None
        self.control: asyncio.Task[Any] | None = None
        self.started = 0.0
        self.ended = 0.0
        self.output: Any = None
        self.has_output = False
        self.error: BaseException | None = None
        self.spoiled = ""
        self.halted = False
        self.is_wasted = False
        self.in_thread = False
        self.is_entered = False
        self.proposals: list[Proposal] = []
        self.asked = False
        self.barred = False
        self.guesses = 0
        self.line: tuple[float, list[str]] | None = None
        self.shadow: asyncio.Task[Any] | None = None
        self.frames: list[Frame] = []
        self.leaves: list[Execution] = []
        self._over: list[Callable[[], object]] = []
        self._is_over = False
        self._is_bound = False
        self._is_decided = False

    def __repr__(self) -> str:
        return f"<Execution {self.info.label} step={self.step} {self.state.name}>"

    @property
    def is_busy(self) -> bool:
        """Whether code of the user's may still be running for it."""
        return self.in_thread or any(t is not None and not t.done() for t in (self.task, self.control))

    def bind(self, lock: threading.Lock) -> bool:
        """Claimed: from now on its errors are the claimant's. ``False`` if it has come to its end before."""
        with lock:
            self._is_bound = not self._is_decided
            return self._is_bound

    def decide(self, lock: threading.Lock) -> bool:
        """It comes to its end; whether it has been claimed before."""
        with lock:
            self._is_decided = True
            return self._is_bound

    @property
    def journal(self) -> Journal | None:
        """What it has read from the store and is to write to it, if there is one."""
        return None if self.gate is None else self.gate.journal

    def when_over(self, lock: threading.Lock, callback: Callable[[], object]) -> None:
        """Call back once the work has ended, at once if it has."""
        with lock:
            if not self._is_over:
                self._over.append(callback)
                return
        callback()

    async def wait_over(self, lock: threading.Lock) -> None:
        """Wait for the end of the work, on the loop that it ends on."""
        over = asyncio.get_running_loop().create_future()
        self.when_over(lock, lambda: None if over.done() else over.set_result(None))
        await over

    def over(self, lock: threading.Lock) -> None:
        """The work has ended, in whatever way."""
        with lock:
            self._is_over = True
            callbacks, self._over = self._over, []
        for callback in callbacks:
            callback()


class Ledger:
    """All early executions of one run. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._entries: dict[LeafInfo, list[Execution]] = {}
        self._real: list[tuple[Scopes, bool]] = []
        self._open: list[Execution] = []
        self._is_shut = False

    def __bool__(self) -> bool:
        return bool(self._entries)

    def has(self, info: LeafInfo) -> bool:
        """Whether a key is worth computing for this node or tool."""
        return info in self._entries

    def add(self, ex: Execution) -> None:
        with self.lock:
            self._entries.setdefault(ex.info, []).append(ex)

    def all(self) -> list[Execution]:
        with self.lock:
            return [ex for entries in self._entries.values() for ex in entries]

    def _remove(self, ex: Execution) -> None:
        entries = self._entries[ex.info]
        entries.remove(ex)
        if not entries:
            del self._entries[ex.info]

    def share(self, info: LeafInfo, step: int, key: Any, used: Collection[Execution]) -> Execution | None:
        """An execution of the same input that another branch has started and this one does not use yet."""
        with self.lock:
            for ex in self._entries.get(info, ()):
                if (
                    ex.state not in (State.FAILED, State.DISCARDED)
                    and ex not in used
                    and (ex.own_step == step or not info.step_bound)
                    and self._fresh(ex)
                    and ex.key == key
                ):
                    return ex
        return None

    def covers(self, info: LeafInfo, step: int, key: Any, glance: Any, used: Collection[Execution]) -> Execution | None:
        """One of the same input but for its ids, which the run can claim all the same; not of those in use."""
        with self.lock:
            for ex in self._entries.get(info, ()):
                if ex.glance != glance or ex in used or (info.step_bound and ex.own_step != step):
                    continue
                usable = ex.state in (State.RUNNING, State.FINISHED) and not ex.spoiled and self._fresh(ex)
                if usable and match(ex.key, key, ex.known) is not None:
                    return ex
        return None

    def claim(
        self, info: LeafInfo, step: int, value: Any, call_id: str | None = None
    ) -> tuple[Execution, Renaming] | None:
        """Take over the earliest pre-execution of this very input, and how its ids are to be renamed.

        An execution in state BLOCKED or OPEN is taken for its guesses alone.
        """
        if info not in self._entries:
            return None
        glance = fingerprint(value)
        key: Any = None
        with self.lock:
            for ex in self._entries.get(info, ()):
                if ex.glance != glance or (info.step_bound and ex.own_step != step) or not self._fresh(ex):
                    continue
                if ex.state in (State.FAILED, State.DISCARDED) or (ex.spoiled and ex.state is not State.BLOCKED):
                    continue
                if key is None:
                    try:
                        key = freeze(value)
                    except (Opaque, RecursionError):
                        return None
                ids = match(ex.key, key, ex.known)
                if ids is None:
                    continue
                if call_id is not None and ex.call_id is not None and ex.call_id != call_id:
                    ids = {**ids, ex.call_id: call_id}
                self._remove(ex)
                return ex, Renaming(ids, changed_records(ex.input, value, ex.known, ids))
        return None

    @staticmethod
    def _fresh(ex: Execution) -> bool:
        """Whether what it stands on is the run's own by now, and what it read is not too old."""
        declaration = ex.info.declaration
        if declaration is not None and declaration.max_age is not None:
            if time.monotonic() - ex.started > declaration.max_age:
                return False
        return all(action.state is State.CLAIMED for action in ex.stands_on)

    # Fences. The scopes of `begins` and `ends` are those of a real execution that reads or changes the world: it sees
    # none of the early actions, and no read made before it passes for one made after it.

    def begins(self, scopes: Scopes, acts: bool) -> tuple[list[Execution], list[Execution]]:
        """A real execution starts; the unclaimed reads that it makes void, and the open actions in its way."""
        with self.lock:
            self._real.append((scopes, acts))
            return self._fence(scopes) if acts else [], self._later(lambda ex: overlap(ex.scopes, scopes))

    def ends(self, scopes: Scopes, acts: bool) -> list[Execution]:
        """A real execution is over; the unclaimed reads that it has made void."""
        with self.lock:
            self._real.remove((scopes, acts))
            return self._fence(scopes) if acts else []

    def made(self, action: Execution) -> list[Execution]:
        """An early action is the run's own; the unclaimed reads that have not seen it."""
        with self.lock:
            seen = [ex for entries in self._entries.values() for ex in entries if action in ex.stands_on]
            return self._fence(action.scopes, seen)

    def with_later(self, executions: Collection[Execution]) -> list[Execution]:
        """Those of them that are open actions, and what has to be taken back before them; latest first."""
        with self.lock:
            return self._later(lambda ex: ex in executions)

    def _later(self, wanted: Callable[[Execution], bool]) -> list[Execution]:
        found: list[Execution] = []
        for ex in self._open:
            # What was done later in the same place was done on top of it.
            if wanted(ex) or any(overlap(ex.scopes, below.scopes) for below in found):
                found.append(ex)
        return found[::-1]

    def may_read(self, ex: Execution, line: Collection[Execution]) -> str:
        """Why an early read may not start; empty if it may, and then it stands on the actions of its line."""
        with self.lock:
            if any(acts and overlap(ex.scopes, scopes) for scopes, acts in self._real):
                return "behind an effect that is not made yet"
            return self._stand(ex, line)

    def _stand(self, ex: Execution, line: Collection[Execution]) -> str:
        below = [action for action in self._open if overlap(action.scopes, ex.scopes)]
        if any(action.effect is Effect.STAGED for action in below):
            # Nobody sees what it has prepared, its own branch neither.
            return "behind a staged action of the same scope"
        if any(action not in line or action.state is not State.FINISHED for action in below):
            return "beside an early action of the same scope"
        ex.stands_on = tuple(below)
        return ""

    def act(self, ex: Execution, line: Collection[Execution]) -> tuple[str, list[Execution]]:
        """Why an early action may not start; if it may, it is open now, and the reads that it makes void."""
        with self.lock:
            if self._is_shut:
                return "behind the end of the run", []
            if any(overlap(ex.scopes, scopes) for scopes, _ in self._real):
                return "beside a call of the same scope", []
            entries = [e for entries in self._entries.values() for e in entries]
            reads = [e for e in entries if e.effect is Effect.READ and overlap(e.scopes, ex.scopes)]
            if any(e.state is State.RUNNING and e in line for e in reads):
                return "beside an early read of the same scope", []
            if reason := self._stand(ex, line):
                return reason, []
            self._open.append(ex)
            return "", self._fence(ex.scopes, line)

    def shut(self) -> None:
        """The run is over: no early action starts any more."""
        with self.lock:
            self._is_shut = True

    def settled(self, ex: Execution) -> None:
        """An early action is the run's own now, or is taken back."""
        with self.lock:
            if ex in self._open:
                self._open.remove(ex)

    @property
    def open_actions(self) -> list[Execution]:
        """The early actions that are neither claimed nor taken back, latest first."""
        with self.lock:
            return self._open[::-1]

    def _fence(self, scopes: Scopes, kept: Collection[Execution] = ()) -> list[Execution]:
        return self._take(
            lambda ex: (
                ex.effect is Effect.READ
                and ex.state in (State.RUNNING, State.FINISHED)
                and overlap(ex.scopes, scopes)
                and ex not in kept
            )
        )

    def discard(self, unwanted: Callable[[Execution], bool]) -> list[Execution]:
        """Remove entries; the caller cancels them."""
        with self.lock:
            return self._take(unwanted)

    def _take(self, unwanted: Callable[[Execution], bool]) -> list[Execution]:
        taken = [ex for entries in self._entries.values() for ex in entries if unwanted(ex)]
        for ex in taken:
            self._remove(ex)
        return taken
