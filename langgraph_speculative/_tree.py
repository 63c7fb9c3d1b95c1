"""Branches: forks supersteps where a guess or an early output allows, and prunes what is refuted.

Everything here runs on the session's loop, one callback or task at a time, so the tree needs no lock. Nothing here may
delay the real run: what may block goes to the pool, and whatever fails ends a branch and is reported.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextvars import Context
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from langgraph.errors import ParentCommand

from langgraph_speculative import _compat
from langgraph_speculative._branch import Choice, Frame, FrameState, Proposal, Verdict, Window, judge
from langgraph_speculative._early import Early, journals_of
from langgraph_speculative._fork import Forks
from langgraph_speculative._gate import write_custom
from langgraph_speculative._histories import Histories
from langgraph_speculative._journal import Journal
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import LeafInfo, NodeInfo, info_of
from langgraph_speculative._pruning import Pruning
from langgraph_speculative._scheduler import NoRoom
from langgraph_speculative._shadow import Shadows
from langgraph_speculative._store import overlay_of
from langgraph_speculative._values import Opaque, copy_value, freeze
from langgraph_speculative._view import Barrier
from langgraph_speculative._workers import Workers
from langgraph_speculative.speculators._protocol import NOTHING, Guess

if TYPE_CHECKING:
    from langgraph_speculative._session import Session


class Tree:
    """The branches below one run; see the module's docstring."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._policy = session.policy
        self._ledger = session.ledger
        self._workers = Workers(session.loop, session.context, session.owner, session.fail)
        self._histories = Histories()
        self.pruning = Pruning(session, self._histories)
        self._shadows = Shadows(session, self._workers, self._histories, self._propose)
        self._forks = Forks(session, self._workers, self._histories)
        self.early = Early(session, self._workers, self._went_on)
        self._window = Window(session.policy.depth)
        self._roots: dict[int, Frame] = {}
        self._outer: dict[str, Execution] = {}
        self.frames: WeakSet[Frame] = WeakSet()
        self._answers: dict[Execution, Execution] = {}

    @property
    def is_active(self) -> bool:
        """Whether there is anything that the end of a step or of the run has to prune."""
        return bool(self._workers or self._window or self._roots)

    def on_step(self, before: Frame | None, frame: Frame) -> None:
        """The real run has entered a superstep: what it has passed is discarded, the window moves on."""
        if self._session.closed:
            return
        key = id(frame.loop)
        if before is not None:
            previous = before.twin or before
            confirmed = previous.confirmed_child()
            for child in list(previous.children.values()):
                if child is not confirmed:
                    self.pruning.kill(child)
            if confirmed is not None:
                confirmed.parent = None  # what lies above is committed: let it go
                frame.ahead = confirmed
            previous.children.clear()
            if before.ahead is not None:
                self.pruning.kill(before.ahead)
            for ex in previous.executions:
                ex.frames.clear()
            self.pruning.release(previous)
            self.pruning.drop(
                self._ledger.discard(
                    lambda ex: self._root(ex) == key and ex.step < frame.step and not self._outlasts(ex)
                ),
                "the run passed it",
            )
            self._forget_nested(frame)
        self._roots[key] = frame
        self._window.advance(key, frame.step)

    def _outlasts(self, ex: Execution) -> bool:
        """Whether a later superstep may still come to it: between turns nobody knows how the answer will begin."""
        wait = self._session.wait
        return wait is not None and not ex.info.step_bound and wait.has_launched(ex)

    def _forget_nested(self, frame: Frame) -> None:
        """The graphs that the step before ran inside its nodes are over."""
        here = frame.loop.checkpoint_ns
        for key, root in list(self._roots.items()):
            below = root.loop.checkpoint_ns
            if len(below) > len(here) and below[: len(here)] == here:
                del self._roots[key]
                self.pruning.prune(root)
                self.pruning.drop(self._ledger.discard(lambda ex, key=key: self._root(ex) == key), "the run passed it")  # type: ignore[misc]

    @staticmethod
    def _root(ex: Execution) -> int:
        return id(ex.frame.loop) if ex.frame is not None else 0

    def on_begin(self, frame: Frame, ex: Execution, early: Execution | None) -> None:
        """The real run executes a task, perhaps one that a branch has reached before."""
        if self._session.closed or self._session.broken:
            return
        # A step that the run has left by now is still noted: the branch that it claims from goes on.
        if self._roots.get(id(frame.loop)) is not frame:
            if frame.over:
                return
            self.on_step(None, frame)
        core = early or ex
        attempted = next((at for at, task in enumerate(frame.tasks) if task is ex.real_task), None)
        if attempted is None:
            frame.executions.append(core)
            frame.tasks.append(ex.real_task)
        else:  # a retry: what was guessed of the attempt before led nowhere
            frame.executions[attempted] = core
        if frame not in core.frames:
            core.frames.append(frame)
        if isinstance(core.info, NodeInfo) and core.info.lends:
            self._outer[ex.namespace] = core
        if frame.is_complete:
            self._adopt(frame)
        if not core.asked:
            self._consult(core, frame)
        if frame.twin is None:
            self._expand(frame)

    def _adopt(self, frame: Frame) -> None:
        """If all tasks come from one branch's superstep, that one's children are this one's; else it has no use."""
        lines = {id(f): f for ex in frame.executions for f in ex.frames if not f.is_real}
        for branch in lines.values():
            if branch.state is FrameState.RUNNING and set(branch.executions) == set(frame.executions):
                frame.twin = branch
                branch.is_twin = True
                branch.parent = None
                break
        ahead, frame.ahead = frame.ahead, None
        if ahead is not None and ahead is not frame.twin:
            # It came too late: the run executes itself what the branch has just begun, and asks for its own guesses.
            self.pruning.kill(ahead)

    def on_output(self, ex: Execution, output: Any, frozen: Any) -> None:
        """The real run's execution of a node has returned."""
        core = ex.leaves[0] if ex.leaves and ex.info.__class__ is NodeInfo else ex
        if core.shadow is not None:
            core.shadow.cancel()
        self._settle(core, output, frozen)
        if core.asked:
            right = any(p.verdict is Verdict.RIGHT and not p.is_partial for p in core.proposals)
            self._session.report.windows += 1
            self._session.report.window_hits += right
            self._session.valuation.judged(core, right)
            self._session.emit("hit" if right else "miss", core.info, core.step)

    def on_failure(self, ex: Execution) -> None:
        """The real run's execution of a node has raised: guesses at its output lead nowhere."""
        core = ex.leaves[0] if ex.leaves else ex
        for frame in list(core.frames):
            for child in list(frame.children.values()):
                self.pruning.kill(child)

    def _settle(self, core: Execution, output: Any, frozen: Any) -> None:
        """An output is known: judge the guesses at it, prune, and go on from it."""
        if core.has_output and core.frames and all(f.is_real for f in core.frames):
            return
        if not core.has_output:
            core.output, core.has_output = output, True
        known = next((f.known for f in core.frames if f.known is not None), ())
        judge(core, frozen, known)
        for frame in list(core.frames):
            for child in frame.refuted_children():
                self.pruning.kill(child)
            self._expand(frame)

    # --- between turns ------------------------------------------------------------------------------------------

    def wait(self, loop: Any, person: Execution, answer: Execution | None, step: int) -> None:
        """Nobody runs: ask what a person says next, an input or the answer to a question.

        Args:
            loop: What stands in for the next run's.
            step: The superstep that counts as committed.
        """
        for ex in (person, *([answer] if answer is not None else ())):
            ex.asked = True
            for frame in ex.frames:
                self._roots[id(frame)] = frame
                self.frames.add(frame)
        if answer is not None:
            self._answers[person] = answer
        assert isinstance(person.info, NodeInfo)
        self._window.advance(id(loop), step)
        if reason := self._session.valuation.refuses_guess(person.info):
            person.asked = False
            if answer is not None:
                answer.asked = False
            self._session.emit("stop", person.info, person.step, reason)
            return
        self._shadows.start(person, person.info)

    def go_on(self, waiting: Iterable[Frame], said: Execution | None, output: Any, frozen: Any) -> None:
        """A run has come, from what a person said."""
        self._answers.clear()
        for frame in waiting:
            self._roots.pop(id(frame), None)
            if said is None or frame not in said.frames:
                self.pruning.prune(frame)
            frame.over = True
            for ex in frame.executions:
                if ex.shadow is not None:
                    ex.shadow.cancel()
        if said is not None:
            self.on_output(said, output, frozen)

    def abandon(self, waiting: Iterable[Frame], dropped: Iterable[Execution], reason: str) -> None:
        """A run has come that does not go on from here."""
        self.go_on(waiting, None, None, None)
        self._window.clear()
        self.pruning.drop([*dropped, *self._ledger.discard(lambda _: True)], reason)
        self._workers.cancel_all()

    def in_context(self, context: Context) -> None:
        """What starts from now on runs in copies of this context."""
        self._workers.use(context)

    # --- guesses ------------------------------------------------------------------------------------------------

    def _consult(self, core: Execution, frame: Frame) -> None:
        """Ask the node's Speculator, as soon as a guess at this step could be acted on."""
        info = core.info
        if not isinstance(info, NodeInfo) or not info.speculate or core.barred:
            return
        core.asked = True

        def go() -> None:
            if core.has_output or core.state is State.DISCARDED or not self._is_wanted(core):
                return
            if reason := self._session.valuation.refuses_guess(info):
                core.asked = False
                core.barred = True
                self._session.emit("stop", info, core.step, reason)
                return
            self._shadows.start(core, info)

        self._window.when_within(id(frame.loop), core.step + 1, go)

    def _is_wanted(self, core: Execution) -> bool:
        return any(f.state in (FrameState.RUNNING, FrameState.REAL) and not f.over for f in core.frames)

    def _propose(self, core: Execution, guess: Guess, info: NodeInfo) -> None:
        self._session.report.guesses += 1
        self._session.counters.stats(info).guesses += 1
        self._session.emit("guess", info, core.step, f"confidence {guess.confidence:g}")
        proposal = self._session.valuation.proposal(info, guess, core.guesses)
        core.guesses += 1
        if guess.resume is NOTHING:
            self._add(core, proposal, info)
        elif (answer := self._answers.get(core)) is not None:
            answer.proposals.append(replace(proposal, output=guess.resume, frozen=freeze(guess.resume)))
            self._expand(answer.frames[0])
        else:
            self._shadows.failed(info, core.step, ValueError("Guess(resume=...), but no question of its own is open"))

    def streamed(self, core: Execution, written: Callable[[], Any], info: NodeInfo) -> None:
        """What the Actor has written by now: a guess at its output, in the place of the one before."""
        if self._session.closed or self._session.broken or core.has_output or core.state is State.DISCARDED:
            return
        self.withdraw(core)
        try:
            output = written()
        except Exception as error:
            self._shadows.failed(info, core.step, error)
            return
        self._session.report.guesses += 1
        self._session.emit("guess", info, core.step, "the stream")
        self._add(core, Proposal(output, 1.0, is_partial=True), info)

    def withdraw(self, core: Execution) -> None:
        """What the Actor had written is not its message: it goes on, or begins again."""
        for proposal in core.proposals:
            if proposal.is_partial and proposal.verdict is Verdict.OPEN:
                proposal.verdict = Verdict.WRONG
        for frame in list(core.frames):
            for child in frame.refuted_children():
                self.pruning.kill(child)

    def _add(self, core: Execution, proposal: Proposal, info: LeafInfo) -> None:
        """Act on a guess, if it fits the state."""
        if core.has_output:
            return
        task, config = self._task_of(core)
        if task is None:
            return
        try:
            writes = _compat.state_writes(task, copy_value(proposal.output), config)
            proposal.frozen = freeze(writes)
        except Opaque:
            writes = []
        except Exception as error:
            self._shadows.failed(info, core.step, error)
            return
        if reason := _compat.misfit(core.frames[0].loop, writes):
            self._shadows.failed(info, core.step, ValueError(reason))
            return
        core.proposals.append(proposal)
        for frame in list(core.frames):
            self._expand(frame)

    @staticmethod
    def _task_of(core: Execution) -> tuple[Any, Any]:
        for frame in core.frames:
            if core in frame.executions:
                task = frame.tasks[frame.executions.index(core)]
                return task, core.config
        return None, None

    # --- forks --------------------------------------------------------------------------------------------------

    def _expand(self, frame: Frame) -> None:
        """Fork what can be forked from a superstep, once the window allows."""
        if self._policy.mode != "on" or not frame.is_complete:
            return
        if not all(ex.has_output or ex.proposals for ex in frame.executions) or not self._may_go_on(frame):
            return
        choices = frame.next_choices(self._policy.breadth)
        if not choices:
            return

        def go() -> None:
            if not self._may_go_on(frame):
                return
            choices = frame.next_choices(self._policy.breadth)
            for choice in self._session.valuation.worthwhile(frame, choices):
                child = Frame(frame.loop, frame.step + 1, parent=frame, choice=choice)
                self.frames.add(child)
                frame.children[choice] = child
                self._workers.spawn(self._fork(frame, choice, child))

        self._window.when_within(id(frame.loop), frame.step + 1, go)

    def _may_go_on(self, frame: Frame) -> bool:
        if frame.over or frame.twin is not None or self._session.closed or self._session.broken:
            return False
        if frame.is_tentative:
            return False
        if frame.state not in (FrameState.REAL, FrameState.RUNNING):
            return False
        loop = frame.loop
        if frame.step + 1 > loop.stop or any(ex.halted and ex.has_output for ex in frame.executions):
            return False
        after = loop.interrupt_after
        return not (after == "*" or any(t.name in after for t in (*frame.tasks, *frame.fixed)))

    async def _fork(self, frame: Frame, choice: Choice, child: Frame) -> None:
        """Make the child's checkpoint and start its tasks."""
        try:
            child.snapshot = await self._forks.make(frame, choice, child)
            if child.snapshot is None:
                child.state = FrameState.DEAD
            else:
                if frame.pending is not None and (said := choice[0]) is not None:
                    child.answered = _compat.answered(frame.pending, said.output)
                tasks = self._tasks_of(child)
                await self._look_up(child.loop, tasks)
                self._run(child, tasks)
        except asyncio.CancelledError:
            raise
        except Barrier:
            child.state = FrameState.ENDED
        except ParentCommand as command:
            if child.state is FrameState.DEAD:
                return
            child.state = FrameState.ENDED
            self._lend(child, _compat.for_this_graph(command))
        except Opaque as error:
            child.state = FrameState.ENDED
            self._session.stop(f"the state cannot be copied: {error}")
        except NoRoom:
            child.state = FrameState.ENDED
            self._session.stop("no thread is free")
        except Exception as error:
            child.state = FrameState.ENDED
            if any(choice):
                # The guess does not fit the state, or sends the graph's own code where it cannot go.
                self._shadows.failed(frame.executions[0].info, frame.step, error)
            else:
                last = frame.executions[0].info.label if frame.executions else "a cached node"
                self._session.stop(f"the step after {last!r} raised {type(error).__name__}")

    # --- pre-execution ------------------------------------------------------------------------------------------

    def _tasks_of(self, frame: Frame) -> list[Any]:
        loop = frame.loop
        if frame.state is FrameState.DEAD or frame.snapshot is None or loop is None:
            return []
        config = _compat.offline(loop.config, write_custom, None)
        store = overlay_of(loop.store, self._behind(frame))
        return _compat.next_tasks(loop, frame.snapshot, config, store, frame.answered)

    def _run(self, frame: Frame, tasks: list[Any]) -> None:
        """Start the tasks of a forked superstep."""
        loop = frame.loop
        if frame.state is FrameState.DEAD or frame.snapshot is None or loop is None:
            return
        before = loop.interrupt_before
        if frame.is_tentative and not (tasks := [t for t in tasks if info_of(loop, t.name).kind == "tools"]):
            frame.state = FrameState.ENDED
            return
        if not tasks:
            frame.state = FrameState.ENDED
            self._lend(frame, _compat.output_of(loop, frame.snapshot))
            return
        if before == "*" or any(t.name in before for t in tasks):
            frame.state = FrameState.ENDED
            return
        frame.state = FrameState.RUNNING
        frame.fixed = [t for t in tasks if t.writes]
        frame.tasks = tasks = [t for t in tasks if not t.writes]
        used = frame.used()
        for task in tasks:
            info = info_of(loop, task.name)
            ex = self.early.start_node(frame, info, task.input, task.config, used)
            used.add(ex)
            frame.executions.append(ex)
            ex.frames.append(frame)
        for ex in frame.executions:
            if not ex.asked and not frame.is_tentative:
                self._consult(ex, frame)
        self._expand(frame)

    async def _look_up(self, loop: Any, tasks: list[Any]) -> None:
        """Give tasks the writes that the node cache holds for them: the run will not execute them either."""
        keyed = _compat.cached_by_key(loop, tasks) if tasks else {}
        if not keyed:
            return
        try:
            if self._session.sync:
                found = await self._workers.in_pool(loop.cache.get, tuple(keyed))
            else:
                found = await loop.cache.aget(tuple(keyed))
            for key, writes in found.items():
                keyed[key].writes.extend(copy_value(list(writes)))
        except (NoRoom, Opaque):
            pass
        except Exception as error:
            self._session.stop(f"the node cache raised {type(error).__name__}")

    @staticmethod
    def _behind(frame: Frame) -> list[Journal]:
        """The store writes that a branch's superstep stands on, those of its nested graphs' branches too."""
        line: list[Journal] = []
        while frame.parent is not None:
            step: list[Journal] = []
            for ex, proposal in zip(frame.parent.executions, frame.choice, strict=True):
                step += journals_of([ex])
                step += proposal.journals if proposal is not None else ()
            line[:0] = step
            frame = frame.parent
        return line

    def _lend(self, frame: Frame, output: Any) -> None:
        """A branch of a nested graph has come to the graph's end: its parent may go on from there."""
        outer = self._outer.get("|".join(frame.loop.checkpoint_ns))
        if outer is None or outer.has_output:
            return
        confidence, guessed, above = 1.0, list[str](), frame
        while above.parent is not None:
            confidence *= prod(p.probability for p in above.choice if p is not None)
            guessed += [label for p in above.choice if p is not None for label in p.guessed]
            above = above.parent
        journals = self._behind(frame)
        proposal = Proposal(output, confidence, guessed=guessed, taint=frame.taint(), journals=journals)
        frame.lent = outer, proposal
        self._add(outer, proposal, outer.info)

    def _went_on(self, ex: Execution) -> None:
        """A node's pre-execution has its real output: judge the guesses at it, and go on from it."""
        task, config = self._task_of(ex)
        frozen = None
        if task is not None and ex.proposals:
            try:
                frozen = freeze(_compat.state_writes(task, copy_value(ex.output), config))
            except Exception:
                frozen = None
        self._settle(ex, ex.output, frozen)

    # --- the end ------------------------------------------------------------------------------------------------

    def kill_all(self) -> list[asyncio.Task[Any]]:
        """End everything; the tasks that are still to end."""
        for frame in self._roots.values():
            self.pruning.prune(frame)
        self._roots.clear()
        self._window.clear()
        self.pruning.drop(self._ledger.discard(lambda _: True), "the run ended")
        tasks = self._workers.cancel_all()
        # Let go of the run's loops at once, and not when the garbage collector finds the circles. The tasks of a
        # superstep and their configs lead to its loop too.
        for frame in self.frames:
            frame.loop = None
            frame.children.clear()
            frame.tasks.clear()
            frame.fixed.clear()
            frame.executions.clear()
        self._outer.clear()
        return tasks
