"""One run: what the real run calls. Opens, owns and closes the tree of branches below it.

The real run calls `run_node` / `arun_node` and `run_tool` / `arun_tool` from its own tasks and threads. They claim
from the ledger (under its lock), note what happens, and never wait for anything but a claimed execution. All that
concerns branches is posted to the session's loop: the caller's own for asynchronous runs, the control thread's for
synchronous ones. An exception in our own code ends speculation for the run and is reported.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import ParentCommand

from langgraph_speculative import _compat, _scheduler
from langgraph_speculative._actions import Actions
from langgraph_speculative._branch import Frame
from langgraph_speculative._claims import AGAIN, Claims
from langgraph_speculative._concurrency import Concurrency
from langgraph_speculative._counters import Counters
from langgraph_speculative._fence import Fence
from langgraph_speculative._gate import write_custom
from langgraph_speculative._ids import Renaming
from langgraph_speculative._knowledge import Knowledge
from langgraph_speculative._learning import Learning
from langgraph_speculative._ledger import Execution, Ledger, State
from langgraph_speculative._limits import RateLimits
from langgraph_speculative._nodes import LeafInfo, NodeInfo, ToolInfo, called_tools
from langgraph_speculative._store import overlay_of
from langgraph_speculative._stream import UNWATCHED, Watch, watching
from langgraph_speculative._tools import key_of
from langgraph_speculative._tree import Tree
from langgraph_speculative._valuation import Valuation
from langgraph_speculative._values import freeze
from langgraph_speculative._workers import ended
from langgraph_speculative.journal import Journal, journal_of
from langgraph_speculative.policy import Policy
from langgraph_speculative.report import Event, Report, Stop

if TYPE_CHECKING:
    from langgraph_speculative._view import View
    from langgraph_speculative._waiting import Turn, Wait

PATIENCE = 0.05
"""Seconds that the end of a synchronous run waits for its branches to end: the control thread is shared."""

_numbers = itertools.count(1)


class Session:
    """Speculation for one run of one graph.

    Args:
        policy: Limits; its mode is "on" or "observe".
        owner: What pool threads are counted for.
        sync: Whether the run is synchronous.
        limits: How often tools may be called early, over all runs.
        journal: Opens what early actions are written down in.
        learning: Tells Speculators what the run did.
        knowledge: What the graph's runs have taught the policy.
        max_concurrency: Calls of the run and early ones at the same time.
        wait: The wait for a person that it speculates in, until a run comes.
    """

    def __init__(
        self,
        policy: Policy,
        owner: object,
        *,
        sync: bool,
        trackers: tuple[Report, ...] = (),
        limits: RateLimits | None = None,
        journal: Callable[[], Journal] | None = None,
        learning: Learning | None = None,
        knowledge: Knowledge | None = None,
        max_concurrency: int | None = None,
        wait: Wait | None = None,
    ) -> None:
        self.policy = policy
        self.owner = owner
        self.sync = sync
        self.loop = _scheduler.CONTROL.loop() if sync else asyncio.get_running_loop()
        self.number = next(_numbers)
        self.wait = wait
        self.turn: Turn | None = None
        self.report = Report(runs=1) if wait is None else Report(waits=1)
        self.ledger = Ledger()
        self.context = _compat.clean_context()
        self.broken = False
        self.closed = False
        self.handlers: list[Any] | None = None
        self.limits = limits or RateLimits(policy.rate_limits)
        self.actions = Actions(self, journal or partial(journal_of, policy.journal))
        self.valuation = Valuation(self, knowledge or Knowledge(policy))
        self.counters = Counters(self)
        self.concurrency = Concurrency(self, max_concurrency)
        self.tree = Tree(self)
        self._claims = Claims(self)
        self._lock = threading.Lock()
        self._frames: dict[int, Frame] = {}
        self._stand_ins: dict[int, Any] = {}
        self._trackers = trackers
        self._learning = learning
        self._opened = time.monotonic()
        if wait is None:
            self.emit("run")

    def go_on(self, trackers: tuple[Report, ...], max_concurrency: int | None) -> None:
        """A run has come, after a wait: from now on this is its session."""
        self.report.runs = 1
        self._trackers, self._opened = trackers, time.monotonic()
        # Early calls of the wait may be under way still.
        self.concurrency.limit = max_concurrency
        self.valuation.go_on()
        self.context = _compat.clean_context()
        self.tree.in_context(self.context)
        self.emit("run")

    # --- bookkeeping --------------------------------------------------------------------------------------------

    def emit(
        self, kind: Any, info: LeafInfo | None = None, step: int = -1, detail: str = "", seconds: float = 0.0
    ) -> None:
        """Tell the hooks; one that raises is ignored."""
        if not self.policy.hooks:
            return
        node, tool = "", ""
        if isinstance(info, ToolInfo):
            node, tool = info.node, info.name
        elif info is not None:
            node = info.label
        event = Event(kind, self.number, time.monotonic(), node, tool, step, detail, seconds)
        for hook in self.policy.hooks:
            try:
                hook(event)
            except Exception as error:
                self.report.errors.append(f"hook {hook!r} raised {error!r}")

    def wasted(self, ex: Execution, reason: str) -> None:
        """A pre-execution was made in vain; whoever finds out first counts it."""
        if ex.is_wasted:
            return
        ex.is_wasted = True
        self.report.discarded += 1
        self.counters.stats(ex.info).discarded += 1
        self.valuation.ended(ex, taken=False)
        self.emit("discard", ex.info, ex.step, ex.spoiled or reason)

    def stop(self, reason: str, info: LeafInfo | None = None, step: int = -1) -> None:
        """A branch ends here."""
        self.report.stopped.setdefault(reason, Stop()).count += 1
        self.emit("stop", info, step, reason)

    def fail(self, error: BaseException) -> None:
        """A bug of ours: speculation ends for this run, the run goes on plain."""
        if not self.broken:
            self.broken = True
            self.report.errors.append(f"speculation ended by an internal error: {error!r}")
            self.emit("error", detail=repr(error))
            self.post(self.tree.kill_all)

    def post(self, function: Callable[..., object], *args: Any, threaded: bool = False) -> None:
        """Run on the session's loop, after what was posted before; `threaded` where this may not be its thread."""
        try:
            if self.sync or threaded:
                self.loop.call_soon_threadsafe(self._guarded, function, *args, context=self.context.copy())
            else:
                self.loop.call_soon(self._guarded, function, *args, context=self.context.copy())
        except RuntimeError:  # the loop is closed: so is everything on it
            self.broken = True

    def _guarded(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:
            self.fail(error)

    # --- the real run's steps -----------------------------------------------------------------------------------

    def stands_behind(self, loop: Any, stand_in: Any, frame: Frame | None) -> None:
        """The run's root loop is this one; the branches of the wait know it by its stand-in.

        Args:
            frame: The wait's, if the loop has come to the step after it.
        """
        self._stand_ins[id(loop)] = stand_in
        if frame is not None:
            self._frames[id(loop)] = frame

    def _frame_of(self, loop: Any) -> Frame:
        """The real frame of the running superstep; the first task of a step makes it."""
        frame = self._frames.get(id(loop))
        if frame is not None and frame.step == loop.step:
            return frame
        with self._lock:
            frame = self._frames.get(id(loop))
            if frame is not None and frame.step == loop.step:
                return frame
            before = frame
            frame = Frame(self._stand_ins.get(id(loop), loop), loop.step, parent=None)
            tasks = list(loop.tasks.values())
            # Tasks whose writes come from a cache or from an earlier attempt at the step are not run.
            frame.fixed = [t for t in tasks if t.writes]
            frame.expected = len(tasks) - len(frame.fixed)
            self._frames[id(loop)] = frame
            self.tree.frames.add(frame)
            if before is not None:
                before.over = True
            if self.ledger or self.tree.is_active:
                self.post(self.tree.on_step, before, frame)
            return frame

    def _begin(self, info: NodeInfo, value: Any, config: RunnableConfig) -> Execution | None:
        """Note that the real run executes a node; ``None`` when nothing can come of it."""
        if self.broken or self.closed:
            return None
        loop = _compat.loop_of(config)
        if loop is None:
            return None
        if self.turn is not None:
            self.turn.begin(self, loop, config)
        candidate = self.ledger.has(info)
        # The only task of its step, of which nothing is known and nothing to be guessed, needs no frame either.
        if not candidate and not info.speculate and not info.called and not info.lends and len(loop.tasks) == 1:
            if self.ledger or self.tree.is_active:
                self._frame_of(loop)
            if info.kind == "leaf":
                self.report.steps += 1
            return None
        frame = self._frame_of(loop)
        effect = info.effect_of(called_tools(value) if info.kind == "tools" else ())
        ex = Execution(info, frame.step, frame, State.RUNNING, effect)
        ex.input, ex.started = value, time.monotonic()
        if effect.acts:
            ex.scopes = info.touches(value)
        ex.config = _compat.offline(config, write_custom, overlay_of(_compat.store_of(config)))
        if self.handlers is None:
            self.handlers = _compat.handlers_for(config)
        claimed = None
        if candidate and _compat.is_first_attempt(config):
            keyed = value if info.key_function is None else info.key_function(value)
            claimed = self.ledger.claim(info, frame.step, keyed)
            self.concurrency.claimed(claimed)
        ex.real_task = frame.loop.tasks.get(_compat.task_id_of(config))
        ex.namespace = _compat.namespace_of(config)
        if ex.real_task is not None:
            self.post(self.tree.on_begin, frame, ex, claimed and claimed[0])
        if claimed is not None:
            ex.leaves.append(claimed[0])
            ex.output = claimed[1]
        return ex

    def _returned(
        self, info: NodeInfo, began: float, ex: Execution | None, value: Any, output: Any, config: RunnableConfig
    ) -> None:
        """Note that the real run's execution of a node has returned, or left for its parent."""
        given = _compat.for_this_graph(output) if isinstance(output, ParentCommand) else output
        if ex is None:
            self.counters.passed(info, began, given)
        else:
            self._finish(ex, given)
        if info.learns:
            self._tell(info, value, output, config)

    def _finish(self, ex: Execution, output: Any) -> None:
        """Note what the real run's execution of a node returned."""
        try:
            ex.ended = time.monotonic()
            if isinstance(ex.info, NodeInfo) and ex.info.kind == "leaf":
                self.counters.count(ex, output)
            elif ex.namespace:
                self.counters.count_graphs(ex)
            frozen = None
            if ex.real_task is not None:
                try:
                    frozen = freeze(_compat.state_writes(ex.real_task, output, ex.config))
                except Exception:
                    frozen = None  # the run will see the error from its own writers
            self.post(self.tree.on_output, ex, output, frozen)
        except Exception as error:
            self.fail(error)

    # --- nodes --------------------------------------------------------------------------------------------------

    def _passes(self, info: NodeInfo, config: RunnableConfig) -> bool:
        """Whether an execution by the run needs no more than to be counted.

        So it is with most nodes of a run of which nothing is guessed, and what they cost is what such a run pays.
        """
        if not info.is_bare or self.turn is not None or self.concurrency.limit is not None:
            return False
        if self.ledger or self.tree.is_active or self.broken or self.closed:
            return False
        try:
            loop = _compat.loop_of(config)
            # Beside others, a frame of the step counts on it.
            passes = loop is not None and len(loop.tasks) == 1
        except Exception as error:
            self.fail(error)
            return False
        self.report.steps += passes
        return passes

    def _passed_with(self, info: NodeInfo, began: float, error: BaseException) -> None:
        """An execution that needed no more than to be counted has raised, or left for its parent."""
        if isinstance(error, ParentCommand):
            self.counters.passed(info, began, _compat.for_this_graph(error))
        else:
            self._failed(info, None, error)

    def run_node(self, info: NodeInfo, value: Any, config: RunnableConfig) -> Any:
        """Execute a node for a synchronous real run."""
        if self._passes(info, config):
            began = time.monotonic()
            try:
                output = info.invoke(value, config)
            except BaseException as error:
                self._passed_with(info, began, error)
                raise
            self.counters.passed(info, began, output)
            return output
        fence, ex, began = Fence(self, info, value), None, time.monotonic()
        try:
            fence.claims()
            ex = self._try_begin(info, value, config)
            output = AGAIN
            if ex is not None and ex.leaves and info.kind == "leaf":
                output = self._claims.take(ex.leaves[0], ex.output, value, config)
            if output is AGAIN:
                if way := fence.executes():
                    self.actions.clear(way)
                with self._watching(info, ex, config):
                    output = info.invoke(value, config)
        except ParentCommand as command:
            self._returned(info, began, ex, value, command, config)
            raise
        except BaseException as error:
            self._failed(info, ex, error)
            raise
        finally:
            fence.ends()
        self._returned(info, began, ex, value, output, config)
        return output

    async def arun_node(self, info: NodeInfo, value: Any, config: RunnableConfig) -> Any:
        """Execute a node for an asynchronous real run."""
        assert info.ainvoke is not None
        if self._passes(info, config):
            began = time.monotonic()
            try:
                output = await info.ainvoke(value, config)
            except BaseException as error:
                self._passed_with(info, began, error)
                raise
            self.counters.passed(info, began, output)
            return output
        fence, ex, began = Fence(self, info, value), None, time.monotonic()
        try:
            fence.claims()
            ex = self._try_begin(info, value, config)
            output = AGAIN
            if ex is not None and ex.leaves and info.kind == "leaf":
                output = await self._claims.atake(ex.leaves[0], ex.output, value, config)
            if output is AGAIN:
                if way := fence.executes():
                    await self.actions.aclear(way)
                with self._watching(info, ex, config):
                    output = await info.ainvoke(value, config)
        except ParentCommand as command:
            self._returned(info, began, ex, value, command, config)
            raise
        except BaseException as error:
            self._failed(info, ex, error)
            raise
        finally:
            fence.ends()
        self._returned(info, began, ex, value, output, config)
        return output

    def _watching(self, info: NodeInfo, ex: Execution | None, config: RunnableConfig) -> AbstractContextManager[None]:
        """Have somebody read along with the models of a node that the run executes."""
        if not info.called or ex is None or ex.real_task is None:
            return UNWATCHED
        return watching(Watch(self, ex.leaves[0] if ex.leaves else ex, info, config))

    def _failed(self, info: NodeInfo, ex: Execution | None, error: BaseException) -> None:
        """Note that the real run's execution of a node has raised."""
        try:
            self.valuation.failed(info, error)
            if ex is not None:
                self.post(self.tree.on_failure, ex)
        except Exception as own:
            self.fail(own)

    def _tell(self, info: NodeInfo, value: Any, output: Any, config: RunnableConfig) -> None:
        """Let the node's Speculator learn."""
        if self._learning is not None:
            try:
                self._learning.tell(info, value, output, _compat.guess_config(config))
            except Exception as error:
                self.fail(error)

    def _try_begin(self, info: NodeInfo, value: Any, config: RunnableConfig) -> Execution | None:
        try:
            return self._begin(info, value, config)
        except Exception as error:
            self.fail(error)
            return None

    # --- tools --------------------------------------------------------------------------------------------------

    def _begin_tool(self, info: ToolInfo, request: Any) -> tuple[Execution, Execution | None, Renaming] | None:
        config = request.runtime.config
        if self.broken or self.closed:
            return None
        loop = _compat.loop_of(config)
        if loop is None:
            return None
        if self.turn is not None:
            self.turn.begin(self, loop, config)
        frame = self._frame_of(loop)
        ex = Execution(info, frame.step, frame, State.RUNNING, info.effect)
        ex.started = time.monotonic()
        claimed = None
        if self.ledger.has(info) and _compat.is_first_attempt(config):
            claimed = self.ledger.claim(info, frame.step, key_of(info, request), request.tool_call["id"])
            self.concurrency.claimed(claimed)
        if claimed is None:
            return ex, None, Renaming({}, {})
        ex.leaves.append(claimed[0])
        return ex, *claimed

    def _try_begin_tool(self, info: ToolInfo, request: Any) -> tuple[Execution, Execution | None, Renaming] | None:
        try:
            return self._begin_tool(info, request)
        except Exception as error:
            self.fail(error)
            return None

    def _finish_tool(self, ex: Execution | None, output: Any) -> None:
        if ex is None:
            return
        try:
            ex.ended = time.monotonic()
            self.counters.count(ex, output)
        except Exception as error:
            self.fail(error)

    def run_tool(self, info: ToolInfo, request: Any, execute: Callable[[Any], Any]) -> Any:
        """Execute one tool call for a synchronous real run."""
        fence, begun = Fence(self, info, request.tool_call["args"]), None
        try:
            fence.claims()
            begun = self._try_begin_tool(info, request)
            output = AGAIN
            if begun is not None and begun[1] is not None:
                output = self._claims.take(begun[1], begun[2], key_of(info, request), request.runtime.config)
            if output is AGAIN:
                if way := fence.executes():
                    self.actions.clear(way)
                output = execute(request)
        finally:
            fence.ends()
        self._finish_tool(begun and begun[0], output)
        return output

    async def arun_tool(self, info: ToolInfo, request: Any, execute: Callable[[Any], Awaitable[Any]]) -> Any:
        """Execute one tool call for an asynchronous real run."""
        fence, begun = Fence(self, info, request.tool_call["args"]), None
        try:
            fence.claims()
            begun = self._try_begin_tool(info, request)
            output = AGAIN
            if begun is not None and begun[1] is not None:
                output = await self._claims.atake(begun[1], begun[2], key_of(info, request), request.runtime.config)
            if output is AGAIN:
                if way := fence.executes():
                    await self.actions.aclear(way)
                output = await execute(request)
        finally:
            fence.ends()
        self._finish_tool(begun and begun[0], output)
        return output

    # --- inside a branch ----------------------------------------------------------------------------------------

    async def early_inner(self, view: View, info: NodeInfo, value: Any, config: RunnableConfig) -> Any:
        """A node of a graph that a branch runs as one of its nodes."""
        return await self.tree.early.inner(view, info, value, config)

    async def early_tool(
        self, view: View, info: ToolInfo | None, request: Any, execute: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """One tool call of a tool node that a branch runs."""
        return await self.tree.early.tool(view, info, request, execute)

    # --- the end ------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        report = self.report
        try:
            self.counters.catch_up()
        except Exception as error:
            self.fail(error)
        report.wall = time.monotonic() - self._opened if report.runs else 0.0
        if self.wait is not None:
            report.waits_claimed = int(self.wait.is_claimed)
            self.wait.forget()
        report.time_saved = self.counters.time_saved
        self.emit("end", seconds=report.time_saved)
        self.valuation.close()
        for tracker in self._trackers:
            tracker.add(report)
        self._frames.clear()
        self._stand_ins.clear()

    def abort(self) -> None:
        """End a wait that no run has come to (on its loop)."""
        self.closed = True
        self.ledger.shut()
        self.tree.kill_all()
        self._settle()

    async def aclose(self) -> None:
        """End an asynchronous run's speculation: no task is left but one that refuses to be cancelled."""
        self.closed = True
        self.ledger.shut()
        tasks = self.tree.kill_all()
        await ended(tasks)
        try:
            if left := self.ledger.open_actions:
                await self.actions.aclear(left)
        finally:
            self._settle()

    def close(self) -> None:
        """End a synchronous run's speculation."""
        self.closed = True
        self.ledger.shut()
        done = threading.Event()

        async def kill() -> None:
            await ended(self.tree.kill_all())
            done.set()

        # Not `is_active`: what the run has posted may not have been looked at yet.
        if self.tree.frames:
            try:
                self.loop.call_soon_threadsafe(lambda: self.loop.create_task(kill()))
                # The control thread's other work is not waited for, unless there is something to undo.
                done.wait(None if self.ledger.open_actions else PATIENCE)
            except RuntimeError:
                pass
        try:
            if left := self.ledger.open_actions:
                self.actions.clear(left)
        finally:
            self._settle()
