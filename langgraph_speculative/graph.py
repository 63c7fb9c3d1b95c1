"""`speculative()`: a drop-in for a compiled graph that runs the same, sooner."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from typing import Any, TypeVar, cast, overload

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.graph import Graph

from langgraph_speculative import _compat, _draw, _rewrite, _scheduler, _wiring
from langgraph_speculative._compat import CONF, CompiledStateGraph
from langgraph_speculative._decorator import decorate
from langgraph_speculative._groups import Place
from langgraph_speculative._rate_limiters import watch_rate_limiters
from langgraph_speculative._recovery import Recovery, recover
from langgraph_speculative._rewrite import Declared
from langgraph_speculative._session import Session
from langgraph_speculative._speculation import TRACKERS, Speculation
from langgraph_speculative._view import KEY, View
from langgraph_speculative.effects import Effect, EffectTable
from langgraph_speculative.errors import SpeculationError, SpeculationInactiveWarning, UntestedLangGraphWarning
from langgraph_speculative.policy import Policy
from langgraph_speculative.report import Report
from langgraph_speculative.speculators._protocol import Speculator, check_speculator


class SpeculativeGraph(CompiledStateGraph[Any, Any, Any, Any]):
    """A compiled graph whose runs speculate. Made by `speculative`; everything else is as in LangGraph.

    It is also a synchronous and asynchronous context manager, which closes it.
    """

    _speculation: Speculation

    def copy(self, update: dict[str, Any] | None = None) -> SpeculativeGraph:
        """A copy that shares reports and what is learned; LangGraph Server makes one for each run."""
        new = super().copy(update)
        for name, value in vars(self).items():
            # LangGraph's own copy drops the attributes that its constructor does not take.
            if name not in (update or {}) and name not in ("nodes", "channels"):
                vars(new)[name] = value
        return new

    def _lacks_thread(self, config: RunnableConfig | None) -> bool:
        """Whether LangGraph is about to refuse the run for want of a ``thread_id``: our key would hide that."""
        ambient = _compat.var_child_runnable_config.get()
        return bool(self.checkpointer) and not any((c or {}).get(CONF) for c in (config, self.config, ambient))

    @staticmethod
    def _config_for(config: RunnableConfig | None, session: Session) -> RunnableConfig:
        # LangGraph puts a key that it does not know into `configurable`, beside what is inherited there. Put there by
        # us, it would be a `configurable` of the caller's own, which replaces what is inherited (before LangGraph 1.2).
        return cast(RunnableConfig, {**(config or {}), KEY: View(session)})

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """As in LangGraph; opens a session for the run."""
        place = self._place(config)
        with place or nullcontext():
            session = self._open(config, sync=True, given=input, place=place)
            if session is None:
                yield from super().stream(input, config, **kwargs)
                return
            run = super().stream(input, self._config_for(config, session), **kwargs)
            well = False
            try:
                yield from run
                well = True
            finally:
                session.close()
                self._speculation.ended(session, well=well)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """As in LangGraph; opens a session for the run."""
        place = self._place(config)
        with place or nullcontext():
            session = self._open(config, sync=False, given=input, place=place)
            run: Any
            if session is None:
                run = super().astream(input, config, **kwargs)
                try:
                    async for chunk in run:
                        yield chunk
                finally:
                    await run.aclose()
                return
            run = super().astream(input, self._config_for(config, session), **kwargs)
            well = False
            try:
                async for chunk in run:
                    yield chunk
                well = True
            finally:
                try:
                    await run.aclose()
                finally:
                    await session.aclose()
                    self._speculation.ended(session, well=well)

    def _place(self, config: RunnableConfig | None) -> Place | None:
        if not self._speculation.groups.is_active:
            return None
        try:
            return self._speculation.place(self._with_own(config))
        except SpeculationError:
            raise
        except Exception as error:  # fail open: `_open` will meet it too
            self._speculation.report.errors.append(f"a run could not be put into a group: {error!r}")
            return None

    def _with_own(self, config: RunnableConfig | None) -> Any:
        """A request's config with what it inherits from the graph's: switch, thread and bound of concurrency."""
        own: Any = self.config
        if not own:
            return config
        given: Any = config or {}
        merged = {"max_concurrency": own.get("max_concurrency"), **given}
        for part, key in (("metadata", "speculation"), (CONF, "thread_id")):
            below = (own.get(part) or {}).get(key)
            if below is not None and not (given.get(part) or {}).get(key):
                merged[part] = {**(given.get(part) or {}), key: below}
        return merged

    def bulk_update_state(self, config: RunnableConfig, supersteps: Any) -> RunnableConfig:
        """As in LangGraph; what was guessed about the thread is dropped."""
        self._speculation.moved(self._thread(config))
        return super().bulk_update_state(config, supersteps)

    async def abulk_update_state(self, config: RunnableConfig, supersteps: Any) -> RunnableConfig:
        """As in LangGraph; what was guessed about the thread is dropped."""
        self._speculation.moved(self._thread(config))
        return await super().abulk_update_state(config, supersteps)

    def _thread(self, config: RunnableConfig | None) -> str:
        return _compat.thread_of(config, self.config, _compat.var_child_runnable_config.get())

    def _open(
        self, config: RunnableConfig | None, *, sync: bool, given: Any = None, place: Place | None = None
    ) -> Session | None:
        if self._lacks_thread(config):
            return None
        try:
            if place is not None and not place.speculates:
                self._speculation.moved(self._thread(config))
                return None
            own = self._with_own(config)
            return self._speculation.open(own, sync=sync, thread=self._thread(config), given=given)
        except SpeculationError:
            raise
        except Exception as error:  # fail open: the run is plain
            self._speculation.report.errors.append(f"no session could be opened: {error!r}")
            return None

    # --- speculation --------------------------------------------------------------------------------------------

    def effects(self) -> EffectTable:
        """What was found about every node, tool and router: its effect, where from, and why."""
        return self._speculation.rewritten.table()

    @contextmanager
    def track(self) -> Iterator[Report]:
        """Count the runs of this graph that start in the block, in this task or thread, in a report of their own."""
        report = Report()
        token = TRACKERS.set((*TRACKERS.get(), (self._speculation, report)))
        try:
            yield report
        finally:
            # A generator-based block may be left in another context.
            with suppress(ValueError):
                TRACKERS.reset(token)

    def report(self) -> Report:
        """Counters of all runs of this graph and its copies."""
        return self._speculation.report

    def drain(self, timeout: float = 5.0) -> int:
        """Wait for early work that is blocked in threads, and for Speculators that still learn.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Threads that are still at work.
        """
        return _scheduler.POOL.drain(self._speculation, timeout)

    def recover(self) -> Recovery:
        """Take back, or bring to its end, what a process that is no more has begun early with these tools and nodes.

        To be called once at the start. It leaves alone what a live process owns. Handlers that are coroutine functions
        run on a loop of the library's own.

        Raises:
            SpeculationError: The journal cannot be read.
        """
        return asyncio.run_coroutine_threadsafe(self.arecover(), _scheduler.CONTROL.loop()).result()

    async def arecover(self) -> Recovery:
        """`recover` on an event loop."""
        own = self._speculation
        return await recover(own.journal(), own.rewritten.actions(), own.policy, own)

    def close(self) -> None:
        """End speculation for this graph and its copies, and let go of the journal: later runs are plain."""
        for wait in self._speculation.close():
            wait.unread()

    async def aclose(self) -> None:
        """As `close`; returns when nothing that went on between turns is left on this event loop."""
        for wait in self._speculation.close():
            await wait.gone()
        self._speculation.save()

    def __enter__(self) -> SpeculativeGraph:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> SpeculativeGraph:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- drawing ------------------------------------------------------------------------------------------------

    def _plain(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        plain = object.__new__(CompiledStateGraph)
        nodes = {
            name: node.copy({"bound": node.bound._plain()}) if isinstance(node.bound, SpeculativeGraph) else node
            for name, node in self._speculation.plain_nodes.items()
        }
        plain.__dict__.update(vars(self), nodes=nodes)
        return plain

    def get_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False, speculation: bool = False
    ) -> Graph:
        """The graph to draw.

        Args:
            speculation: Draw the transformed graph: each node that has a Speculator with its shadow and its
                verification edge. Otherwise the picture is the plain graph's.
        """
        drawn = self._plain().get_graph(config, xray=xray)
        return _draw.with_shadows(drawn, self._speculation.rewritten.all_infos()) if speculation else drawn

    async def aget_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False, speculation: bool = False
    ) -> Graph:
        """As `get_graph`."""
        drawn = await self._plain().aget_graph(config, xray=xray)
        return _draw.with_shadows(drawn, self._speculation.rewritten.all_infos()) if speculation else drawn


@cache
def _speculative_kind(kind: Any) -> type[SpeculativeGraph]:
    """The class of the result: for a user's own subclass of `CompiledStateGraph` still an instance of that."""
    if kind is CompiledStateGraph:
        return SpeculativeGraph
    return type(f"Speculative{kind.__name__}", (SpeculativeGraph, kind), {})


_Draft = CompiledStateGraph[Any, Any, Any, Any]
F = TypeVar("F", bound=Callable[..., Any])


@overload
def speculative(
    graph: CompiledStateGraph[Any, Any, Any, Any],
    *,
    draft: _Draft | Sequence[_Draft] | None = ...,
    speculators: Mapping[str, Speculator] | None = ...,
    effects: Mapping[str, Effect | str] | None = ...,
    keys: Mapping[str, Callable[[Any], Any]] | None = ...,
    policy: Policy = ...,
    trust_mcp: Iterable[str] = ...,
) -> SpeculativeGraph: ...


@overload
def speculative(
    graph: None = ...,
    *,
    draft: _Draft | Sequence[_Draft] | None = ...,
    speculators: Mapping[str, Speculator] | None = ...,
    effects: Mapping[str, Effect | str] | None = ...,
    keys: Mapping[str, Callable[[Any], Any]] | None = ...,
    policy: Policy = ...,
    trust_mcp: Iterable[str] = ...,
) -> Callable[[F], F]: ...


def speculative(
    graph: Any = None,
    *,
    draft: _Draft | Sequence[_Draft] | None = None,
    speculators: Mapping[str, Speculator] | None = None,
    effects: Mapping[str, Effect | str] | None = None,
    keys: Mapping[str, Callable[[Any], Any]] | None = None,
    policy: Policy | None = None,
    trust_mcp: Iterable[str] = (),
) -> Any:
    """Make a compiled graph faster without changing what it does (arXiv 2510.04371, Algorithm 1).

    While a slow node works, a Speculator guesses its output, the next nodes run ahead on the guess in a hidden branch,
    and when the answer comes their work is taken over or thrown away.

    Args:
        graph: A compiled `StateGraph`. Without it, the result decorates a function (plain, coroutine, or a
            synchronous or asynchronous context manager) that returns one.
        draft: A compiled graph with the same node names on faster models, or several. It guesses for the model nodes,
            and for other nodes declared pure. Its tools are never run.
        speculators: Speculators by node (``"outer|inner"`` for nested ones). They go before `draft`. Model nodes of
            prebuilt agents have `Stream` beside them, unless this is empty: ``{}`` means none.
        effects: What running a node, tool or router early may do, by name; ``"*"`` for all that are undeclared. What
            nobody declares is treated as irreversible and never runs early.
        keys: Functions of a node's input that say which inputs are equal, by node. Default: the whole input.
        policy: Limits.
        trust_mcp: Names of the MCP servers whose ``readOnlyHint`` is believed, as the client calls them; ``"*"`` for
            all. A session of your own has to say the name: ``load_mcp_tools(session, server_name="files")``.

    Returns:
        A `SpeculativeGraph`, which is a `CompiledStateGraph`. The original is left as it is.

    Raises:
        SpeculationError: The input is not what it should be; the message names the node and the remedy.

    Warns:
        SpeculationInactiveWarning: Nothing that a guess could reach may run early, so nothing will be faster.
    """
    options: dict[str, Any] = {
        "draft": draft,
        "speculators": speculators,
        "effects": effects,
        "keys": keys,
        "policy": policy if policy is not None else Policy(),
        "trust_mcp": trust_mcp,
    }
    if graph is None:
        return lambda function: decorate(function, lambda made: _wrap(made, **options))
    if not isinstance(graph, CompiledStateGraph) and (inspect.isfunction(graph) or inspect.ismethod(graph)):
        return decorate(graph, lambda made: _wrap(made, **options))
    return _wrap(graph, **options)


def _wrap(
    graph: Any,
    draft: Any,
    speculators: Mapping[str, Speculator] | None,
    effects: Mapping[str, Effect | str] | None,
    keys: Mapping[str, Callable[[Any], Any]] | None,
    policy: Policy,
    trust_mcp: Iterable[str],
) -> SpeculativeGraph:
    _wiring.check_graph(graph)
    if not isinstance(policy, Policy):
        raise SpeculationError(f"policy is {type(policy).__name__!r}: pass a Policy(...).")
    for node, speculator in (speculators or {}).items():
        check_speculator(node, speculator)
    for node, key in (keys or {}).items():
        if not callable(key):
            raise SpeculationError(f"keys[{node!r}] is not callable: pass a function of the node's input.")
    trusted = frozenset([trust_mcp] if isinstance(trust_mcp, str) else trust_mcp)
    watch_rate_limiters()
    declared = Declared(effects or {}, keys or {}, trusted, frozenset(graph.nodes))
    rewritten = _rewrite.rewrite(graph, declared)
    _rewrite.check_names(rewritten, declared, speculators or {})
    _wiring.assign(rewritten, speculators, draft, between_turns=policy.between_turns is not None)
    own_kind: Any = type(graph)
    kind = _speculative_kind(own_kind)
    if policy.between_turns is not None and rewritten.start.speculator is None:
        warnings.warn(
            "between_turns does nothing without a Speculator of what a person says next: "
            "pass speculators={START: ...}, with START from langgraph.graph.",
            SpeculationInactiveWarning,
            stacklevel=3,
        )
    fast = object.__new__(kind)
    fast.__dict__.update(vars(graph), nodes=rewritten.nodes)
    fast._speculation = Speculation(dict(graph.nodes), rewritten, policy, graph.name)
    lacking = _compat.missing()
    if lacking is not None:
        fast._speculation.is_active = False
        warnings.warn(
            f"the installed LangGraph lacks {lacking}, which speculation relies on: the graph runs plain.",
            UntestedLangGraphWarning,
            stacklevel=3,
        )
    elif not fast._speculation.is_active and (speculators is None or speculators or draft is not None):
        warnings.warn(_wiring.why_inactive(rewritten), SpeculationInactiveWarning, stacklevel=3)
    return fast
