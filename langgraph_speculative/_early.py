"""Pre-execution: nodes and tool calls run early in branches, as far as their effects allow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.errors import ParentCommand

from langgraph_speculative import _compat
from langgraph_speculative._admission import Admission
from langgraph_speculative._branch import Frame, FrameState
from langgraph_speculative._compat import CONF
from langgraph_speculative._gate import CURRENT, Gate, write_custom
from langgraph_speculative._ids import rename
from langgraph_speculative._journal import Journal
from langgraph_speculative._ledger import Execution, State
from langgraph_speculative._nodes import LeafInfo, NodeInfo, ToolInfo, called_tools
from langgraph_speculative._saver import GateSaver
from langgraph_speculative._scheduler import NoRoom
from langgraph_speculative._store import Overlay
from langgraph_speculative._stream import WATCH, Watch
from langgraph_speculative._tools import PooledTool, Staging, key_of
from langgraph_speculative._values import Memo, Opaque, copy_value, fingerprint, freeze
from langgraph_speculative._view import INSIDE, KEY, Barrier, View
from langgraph_speculative._workers import Workers

if TYPE_CHECKING:
    from langgraph_speculative._session import Session


class Early:
    """The pre-executions of one run.

    Args:
        went_on: Called with a node's execution once its real output is there.
    """

    def __init__(self, session: Session, workers: Workers, went_on: Callable[[Execution], None]) -> None:
        self._session = session
        self._workers = workers
        self._went_on = went_on
        self._policy = session.policy
        self._ledger = session.ledger
        self._admission = Admission(session)
        self._in_flight = 0

    def start_node(
        self,
        frame: Frame,
        info: NodeInfo,
        value: Any,
        config: RunnableConfig,
        used: Iterable[Execution],
        before: Iterable[Execution] = (),
        own_step: int | None = None,
    ) -> Execution:
        """A node of a branch: shared with another branch, started, or blocked.

        Args:
            used: What the branch uses already: each serves it once.
            before: What the nested graph that runs as one of the branch's nodes has executed before.
            own_step: The superstep of that nested graph.
        """
        reason = ""
        own_step = frame.step if own_step is None else own_step
        try:
            key, glance = self.key(info, value, frame.snapshot.memo if frame.snapshot is not None else None)
        except (Opaque, RecursionError) as error:
            key, glance, reason = object(), object(), f"the input of {info.label!r} cannot be compared: {error}"
        if not _compat.is_first_attempt(config):
            key, glance = object(), object()  # it holds an answer: of use to its branch alone
        shared = self._ledger.share(info, own_step, key, set(used))
        if shared is not None:
            return shared
        effect = info.effect_of(called_tools(value) if info.kind == "tools" else ())
        ex = Execution(info, frame.step, frame, State.OPEN, effect, own_step)
        ex.key, ex.glance, ex.known = key, glance, frame.known or ()
        ex.input, ex.config, ex.started = value, config, time.monotonic()
        ex.scopes = info.scopes(value) if info.kind == "leaf" else info.touches(value)
        if info.kind == "leaf":
            reason = reason or self._refusal(ex, before, value, value, config)
            ex.state = State.BLOCKED if reason else State.RUNNING
        elif not any(i.effect.may_run_early for i in _leaves(info)):
            reason, ex.state = f"nothing in {info.label!r} may run early", State.BLOCKED
        self._ledger.add(ex)
        if reason:
            ex.spoiled = reason
            self._session.stop(reason, info, frame.step)
        elif info.kind == "leaf":
            self._launch(ex, self._leaf_body(ex, info, value, config), config, before)
        else:
            ex.control = self._workers.spawn(self._transparent(ex, info, frame, value, config), config)
        return ex

    @staticmethod
    def key(info: LeafInfo, value: Any, memo: Memo | None = None) -> tuple[Any, Any]:
        """The key of a node's input, and its fingerprint.

        The memo's snapshots are those of the run's own messages at the fork. Had a router or reducer of the branch
        changed a message since, the key would not show it; the check at the claim, which takes no memo, does.
        """
        if isinstance(info, NodeInfo) and info.key_function is not None:
            value = info.key_function(value)
        return freeze(value, memo), fingerprint(value)

    @classmethod
    def is_unchanged(cls, ex: Execution, *, whole: bool = False) -> bool:
        """Whether a node has left its input as it was; looked at when it is claimed.

        Args:
            whole: Not only what counts for its key; ``False`` where a key function hides the rest.
        """
        info = ex.info
        if not isinstance(info, NodeInfo):
            return True
        if whole and info.key_function is not None:
            return False
        try:
            return bool(cls.key(info, ex.input)[0] == ex.key)
        except (Opaque, RecursionError):
            return False

    def _refusal(
        self, ex: Execution, before: Iterable[Execution], arguments: Any, state: Any, config: RunnableConfig
    ) -> str:
        has_room = self._in_flight < self._policy.max_in_flight
        return self._admission.refuses(ex, before, arguments, state, config, has_room=has_room)

    def _launch(
        self,
        ex: Execution,
        body: Callable[[RunnableConfig], Awaitable[Any]],
        config: RunnableConfig,
        before: Iterable[Execution] = (),
    ) -> None:
        """Start a pre-execution, behind those that the same node has made before."""
        self._session.report.launched += 1
        self._session.counters.stats(ex.info).launched += 1
        self._session.valuation.began(ex)
        self._session.emit("launch", ex.info, ex.step)
        self._in_flight += 1
        self._session.concurrency.began(ex)
        ex.gate = Gate(self._session.handlers or (), config, sync=self._session.sync or ex.info.sync_only)
        own = self._own_config(ex, config, before)
        ex.task = self._workers.spawn(self._pre_execute(ex, body, own), own, keep=ex.action is not None)
        ex.task.add_done_callback(lambda _: self._unentered(ex))

    def _own_config(self, ex: Execution, config: RunnableConfig, before: Iterable[Execution]) -> RunnableConfig:
        """The config of the user's code in a pre-execution."""
        assert ex.gate is not None
        own: Any = {**config, CONF: {**config[CONF], KEY: INSIDE}}
        own.pop("run_name", None)  # the name of the node's own run, which only the claimant has
        own["callbacks"] = ex.gate.callbacks(config)
        assert ex.frame is not None
        gate = ex.gate
        own = _compat.inside(
            own, ex.frame.loop, call=gate.call, stream=gate.stream, saver=lambda saver: GateSaver(saver, gate)
        )
        if type(store := _compat.store_of(config)) is Overlay:
            ex.gate.journal = store.journal.next(journals_of(before), ex.gate.spoil)
            own = _compat.with_store(own, Overlay(store.base, ex.gate.journal))
        if isinstance(ex.info, NodeInfo) and ex.info.step_bound:
            own = _compat.guard_reads(own, gate.reading)
        return own  # type: ignore[no-any-return]

    def _leaf_body(
        self, ex: Execution, info: NodeInfo, value: Any, config: RunnableConfig
    ) -> Callable[[RunnableConfig], Awaitable[Any]]:
        def body(own: RunnableConfig) -> Awaitable[Any]:
            staging = self._staging(ex)
            if self._session.sync or info.sync_only:
                if staging is not None:
                    return self._landing(ex, staging.run, partial(info.invoke, value, own))
                return self._landing(ex, info.invoke, value, own)
            assert info.ainvoke is not None
            if staging is not None:
                return staging.arun(partial(info.ainvoke, value, own), partial(self._landing, ex))
            return info.ainvoke(value, own)

        return body

    def _staging(self, ex: Execution) -> Staging | None:
        own = ex.action
        if own is None or own.declaration.prepare is None:
            return None
        return Staging(own.declaration.prepare, own.action, partial(self._session.actions.prepared, ex))

    async def _pre_execute(
        self, ex: Execution, body: Callable[[RunnableConfig], Awaitable[Any]], own: RunnableConfig
    ) -> None:
        ex.is_entered = True
        CURRENT.set(ex.gate)
        if isinstance(ex.info, NodeInfo) and ex.info.called:
            WATCH.set(Watch(self._session, ex, ex.info, own))
        if ex.action is not None and not await self._begun(ex):
            return
        # Counted where the user's code is entered, whatever let it come so far.
        self._session.report.early_irreversible_calls += not ex.info.effect.may_run_early
        ex.started = time.monotonic()
        try:
            output = await body(own)
            ex.ended = time.monotonic()
            if ex.action is not None:
                await self._ran(ex, output)
            self._finished(ex, output)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            ex.decide(self._ledger.lock)
            if task is not None and task.cancelling() == 0:  # the node itself raised it
                ex.state, ex.error = State.FAILED, error
            else:
                ex.state, ex.error = State.DISCARDED, Barrier()
        except NoRoom:
            ex.state, ex.spoiled = State.FAILED, "no thread is free"
        except BaseException as error:
            # Before the claim nobody sees it: the run executes again. After it, the claimant raises it.
            self._session.valuation.failed(ex.info, error)
            ex.decide(self._ledger.lock)
            ex.state, ex.error = State.FAILED, error
            if isinstance(error, Barrier) or not isinstance(error, Exception):
                ex.spoiled = ex.spoiled or (ex.gate and ex.gate.spoiled) or "it reached what may not run early"
        finally:
            ex.ended = ex.ended or time.monotonic()
            if not ex.in_thread:
                self._left(ex)
            ex.over(self._ledger.lock)
        self._after(ex)

    def _unentered(self, ex: Execution) -> None:
        """Of a task that is cancelled before its first turn nothing runs, what would have cleaned up neither."""
        if not ex.is_entered:
            ex.decide(self._ledger.lock)
            ex.state, ex.error = State.DISCARDED, Barrier()
            self._left(ex)
            ex.over(self._ledger.lock)

    def _left(self, ex: Execution) -> None:
        """A pre-execution's work has really ended."""
        self._in_flight -= 1
        self._session.concurrency.ended(ex)

    async def _begun(self, ex: Execution) -> bool:
        """Write an action down; without that it does not start."""
        try:
            await self._session.actions.begin(ex)
            return True
        except BaseException as error:
            ex.decide(self._ledger.lock)
            ex.state, ex.spoiled = State.FAILED, f"the journal could not be written ({type(error).__name__})"
            self._session.report.errors.append(f"the journal could not be written: {error!r}")
            self._left(ex)
            ex.over(self._ledger.lock)
            self._after(ex)
            if not isinstance(error, Exception):
                raise
            return False

    async def _ran(self, ex: Execution, output: Any) -> None:
        """Write down that an action's code has returned; without that it is taken back, unless it is claimed by now."""
        try:
            await self._session.actions.ran(ex, output)
        except Exception as error:
            self._session.report.errors.append(f"the journal could not be written: {error!r}")
            if not ex.decide(self._ledger.lock):
                raise

    async def _landing(self, ex: Execution, function: Callable[..., Any], *args: Any) -> Any:
        """Run a pre-execution's code in the pool; its place in the budget is free when the thread is."""

        def landed() -> None:
            ex.in_thread = False
            if ex.ended:
                self._left(ex)

        ex.in_thread = True
        try:
            return await self._workers.in_pool(function, *args, done=landed)
        except NoRoom:
            ex.in_thread = False
            raise

    def _finished(self, ex: Execution, output: Any) -> None:
        """A pre-execution has returned; is its result one that the run could have got?"""
        bound = ex.decide(self._ledger.lock)
        if ex.gate is not None:
            ex.spoiled = ex.spoiled or ex.gate.spoiled
        # With the gate open, a later error is the node's own.
        if not bound and not isinstance(ex.info, NodeInfo) and getattr(output, "status", None) == "error":
            ex.spoiled = ex.spoiled or "it returned an error"
        if not bound and ex.gate is not None and ex.gate.saw_retry:
            ex.spoiled = ex.spoiled or "it retried inside"
        ex.output, ex.has_output = output, True
        ex.state = State.FAILED if ex.spoiled else State.FINISHED

    def _after(self, ex: Execution) -> None:
        """Go on from a finished pre-execution with its real output."""
        if ex.state is State.FAILED:
            if ex.action is not None:
                self._session.actions.roll_back([ex])
            what = ex.spoiled or f"raised {type(ex.error).__name__}"
            self._session.stop(f"{ex.info.label!r}: {what}", ex.info, ex.step)
        elif isinstance(ex.info, NodeInfo) and (
            ex.state is State.FINISHED or (ex.state is State.CLAIMED and ex.has_output)
        ):
            self._went_on(ex)

    async def _transparent(
        self, ex: Execution, info: NodeInfo, frame: Frame, value: Any, config: RunnableConfig
    ) -> None:
        """Run a tool node or a graph in a branch; its leaves are pre-executions of their own."""
        assert info.ainvoke is not None
        own: Any = {**config, CONF: {**config[CONF], KEY: View(self._session, frame, ex)}}
        own.pop("run_name", None)
        _compat.var_child_runnable_config.set(own)
        try:
            output = await info.ainvoke(value, own)
        except ParentCommand as command:
            output = _compat.for_this_graph(command)
        except asyncio.CancelledError:
            raise
        except BaseException:
            ex.halted = True
            return
        if not ex.halted:
            ex.output = output
            ex.has_output = True
            self._went_on(ex)

    async def inner(self, view: View, info: NodeInfo, value: Any, config: RunnableConfig) -> Any:
        """A node inside a graph that a branch runs as one of its nodes."""
        assert view.frame is not None
        assert view.execution is not None
        outer, frame = view.execution, view.frame
        self._check(outer, frame)
        assert info.ainvoke is not None
        if info.kind != "leaf":
            return await info.ainvoke(value, config)
        ex = self.start_node(
            frame,
            info,
            value,
            _compat.offline(config, write_custom, _compat.store_of(config)),
            [*frame.used(), *outer.leaves],
            outer.leaves,
            _compat.step_of(config),
        )
        outer.leaves.append(ex)
        return await self._result(ex, outer)

    async def tool(
        self, view: View, info: ToolInfo | None, request: Any, execute: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """One tool call of a tool node in a branch."""
        assert view.frame is not None
        assert view.execution is not None
        outer, frame = view.execution, view.frame
        self._check(outer, frame)
        name = request.tool_call["name"]
        if info is None:
            outer.halted = True
            self._session.stop(f"undeclared tool {name!r}", outer.info, frame.step)
            raise Barrier
        value = key_of(info, request)
        try:
            key, glance = freeze(value), fingerprint(value)
        except (Opaque, RecursionError) as error:
            outer.halted = True
            self._session.stop(f"the input of {info.label!r} cannot be compared: {error}", info, frame.step)
            raise Barrier from None
        if not _compat.is_first_attempt(request.runtime.config):
            key, glance = object(), object()
        used = frame.used() | set(outer.leaves)
        own_step = _compat.step_of(request.runtime.config)
        own_step = frame.step if own_step is None else own_step
        ex = self._ledger.share(info, own_step, key, used)
        if ex is None and frame.is_tentative:
            # The ids are the Actor's own here. What a guess has begun under ids of its own need not be begun again.
            ex = self._ledger.covers(info, own_step, key, glance, used)
            if ex is not None:
                outer.leaves.append(ex)
                outer.halted = True
                raise Barrier
        if ex is None:
            ex = Execution(info, frame.step, frame, State.RUNNING, info.effect, own_step)
            ex.key, ex.glance, ex.known = key, glance, frame.known or ()
            ex.call_id = request.tool_call["id"]
            ex.input = value
            ex.scopes = info.scopes(request.tool_call["args"])
            ex.started = time.monotonic()
            arguments, state = request.tool_call["args"], request.state
            reason = self._refusal(ex, outer.leaves, arguments, state, request.runtime.config)
            if reason:
                ex.state, ex.spoiled = State.BLOCKED, reason
            self._ledger.add(ex)
            if reason:
                outer.halted = True
                self._session.stop(reason, info, frame.step)
                raise Barrier
            self._launch_tool(ex, info, request, execute)
        outer.leaves.append(ex)
        output = await self._result(ex, outer)
        own_id = request.tool_call["id"]
        return output if ex.call_id == own_id else rename(output, {str(ex.call_id): own_id})

    def _launch_tool(
        self, ex: Execution, info: ToolInfo, request: Any, execute: Callable[[Any], Awaitable[Any]]
    ) -> None:
        config = request.runtime.config
        early = request
        tool: Any = info.tool
        if tool is not None:
            if (staging := self._staging(ex)) is not None:
                tool = staging.tool(tool, partial(self._landing, ex))
            if self._session.sync or info.sync_only:
                tool = PooledTool(tool, partial(self._landing, ex))
            if tool is not info.tool:
                early = request.override(tool=tool)

        def body(own: RunnableConfig) -> Awaitable[Any]:
            # `execute` passes this very dict to the tool; it belongs to this call of this branch alone.
            config.clear()
            config.update(own)
            # In a nested graph that the branch runs, the runtime is that graph's own.
            runtime = replace(request.runtime, stream_writer=write_custom, store=_compat.store_of(own))
            return execute(early.override(runtime=runtime))

        self._launch(ex, body, _compat.offline(config, write_custom, _compat.store_of(config)))

    def _check(self, outer: Execution, frame: Frame) -> None:
        """Nothing is launched any more in a node that met a barrier, even if its code swallowed it."""
        if outer.halted or frame.state is FrameState.DEAD or self._session.closed or self._session.broken:
            raise Barrier

    async def _result(self, ex: Execution, outer: Execution) -> Any:
        if ex.state is State.BLOCKED:
            outer.halted = True
            raise Barrier
        await ex.wait_over(self._ledger.lock)
        if not ex.has_output or ex.spoiled:
            outer.halted = True
            raise Barrier
        return copy_value(ex.output)


def journals_of(executions: Iterable[Execution]) -> list[Journal]:
    """What pre-executions have written to the store, or are to."""
    every = [leaf for ex in executions for leaf in (ex, *ex.leaves)]
    return [leaf.journal for leaf in every if leaf.journal is not None]


def _leaves(info: NodeInfo) -> Iterable[LeafInfo]:
    if info.kind == "tools":
        yield from info.tools.values()
    elif info.kind == "graph":
        for inner in info.inner:
            yield from _leaves(inner)
    else:
        yield info
