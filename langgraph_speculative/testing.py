"""Conformance: is a speculative run of your graph the same as a plain one?

from langgraph_speculative.testing import check_same_run

def test_my_agent() -> None:
    report = check_same_run(build_agent, {"question": "why?"}, speculators={"plan": guess_plan})
    assert report.claimed  # it was sooner, too
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langgraph.graph.state import CompiledStateGraph

from langgraph_speculative import _observe
from langgraph_speculative._observe import Run
from langgraph_speculative.effects import Effect
from langgraph_speculative.graph import SpeculativeGraph, speculative
from langgraph_speculative.policy import Policy
from langgraph_speculative.report import Report
from langgraph_speculative.speculators._protocol import Speculator

__all__ = ["check_same_run"]

_NAMES = ("the plain run", "the speculative run")

_Graph = CompiledStateGraph[Any, Any, Any, Any]


def check_same_run(
    graph_factory: Callable[[], Any],
    inputs: Any,
    *,
    config: Mapping[str, Any] | None = None,
    sync: bool = False,
    ordered: bool | None = None,
    timeout: float = 5.0,
    draft: _Graph | None = None,
    speculators: Mapping[str, Speculator] | None = None,
    effects: Mapping[str, Effect | str] | None = None,
    keys: Mapping[str, Callable[[Any], Any]] | None = None,
    policy: Policy | None = None,
    trust_mcp: Iterable[str] = (),
    **kwargs: Any,
) -> Report:
    """Run a graph plain and speculatively, and compare all that the outside can see of it.

    Compared are the error, every stream mode with nested graphs, the callbacks (events, names, parents, tags,
    metadata, values), the state and history of the thread, and the items of the store, after each input. Minted ids
    (of messages, tool calls, runs, tasks, checkpoints) need not be equal but must stand in the same places; clock times
    do not count. The graph must be deterministic: two plain runs of it must be the same.

    Example::

        check_same_run(
            lambda: builder.compile(checkpointer=InMemorySaver()),
            [{"topic": "cats"}, Command(resume="yes")],
            speculators={"outline": quick_outline},
            effects={"outline": "pure", "draft": "pure"},
        )

    Args:
        graph_factory: Makes the compiled graph, anew for each of the two runs, with a checkpointer and a store of its
            own if it has any. It may be a coroutine function.
        inputs: The input; a list is several inputs, one after another on the same thread, such as
            ``Command(resume=...)``. (A single input that is a list is a list of one.) Each run gets copies.
        config: The config of each run. Without a ``thread_id``, a graph with a checkpointer gets one.
        sync: Use ``stream`` and not ``astream``; an asynchronous check runs on an event loop of its own, so call it
            from where none is running.
        ordered: Whether what tasks of one superstep emit is compared in order too. ``None``: only if no superstep of
            the plain run had several tasks, which end in any order.
        timeout: Seconds to wait at the end for early work that is blocked in threads.
        draft: As for `speculative`.
        speculators: As for `speculative`.
        effects: As for `speculative`.
        keys: As for `speculative`.
        policy: As for `speculative`.
        trust_mcp: As for `speculative`.
        kwargs: Further arguments of ``stream``, such as ``context`` and ``durability``.

    Returns:
        What speculation did in the speculative run.

    Raises:
        AssertionError: The runs differ; the message has the path of the first difference and both values. Or
            speculation left a task or a blocked thread behind, made an effect early, or failed by an error of its own.
        SpeculationError: As for `speculative`.
    """
    several = inputs if isinstance(inputs, list) else [inputs]
    own: dict[str, Any] = dict(config or {})
    own["configurable"] = {"thread_id": "check-same-run", **own.get("configurable", {})}
    options: dict[str, Any] = {
        "draft": draft,
        "speculators": speculators,
        "effects": effects,
        "keys": keys,
        "policy": policy,
        "trust_mcp": trust_mcp,
    }

    def wrap(graph: Any) -> SpeculativeGraph:
        fast: SpeculativeGraph = speculative(graph, **options)
        return fast

    if sync:
        plain = _runs(graph_factory(), several, own, kwargs)
        fast = wrap(graph_factory())
        observed = _runs(fast, several, own, kwargs)
        fast.close()
    else:

        async def both() -> tuple[list[Run], list[Run], SpeculativeGraph]:
            plain = await _aruns(await _made(graph_factory), several, own, kwargs)
            before = asyncio.all_tasks()
            fast = wrap(await _made(graph_factory))
            observed = await _aruns(fast, several, own, kwargs)
            await fast.aclose()
            left = [t.get_name() for t in asyncio.all_tasks() - before if t.get_name() == "langgraph-speculative"]
            assert not left, f"{len(left)} tasks of speculation are left on the event loop"
            return plain, observed, fast

        plain, observed, fast = asyncio.run(both())
    compare_runs(plain, observed, ordered=ordered)
    report = fast.report()
    check_report(report)
    blocked = fast.drain(timeout)
    assert not blocked, f"{blocked} threads of speculation are still blocked after {timeout:g} s"
    return report


def compare_runs(plain: list[Run], observed: list[Run], *, ordered: bool | None = None) -> None:
    """Compare what two graphs showed for the same inputs.

    Raises:
        AssertionError: They differ.
    """
    for number, (a, b) in enumerate(zip(plain, observed, strict=True), 1):
        if ordered is False or (ordered is None and a.is_parallel):
            a, b = a.unordered(), b.unordered()
        if found := a.difference(b, _NAMES):
            which = f"input {number} of {len(plain)}: " if len(plain) > 1 else ""
            raise AssertionError(which + found)


def check_report(report: Report) -> None:
    """Check that speculation kept to its limits.

    Raises:
        AssertionError: It made an effect early, or ended by an internal error.
    """
    assert not report.early_irreversible_calls, f"{report.early_irreversible_calls} irreversible calls were made early"
    internal = [error for error in report.errors if "internal error" in error]
    assert not internal, internal[0]


def _runs(graph: Any, inputs: list[Any], config: Any, kwargs: dict[str, Any]) -> list[Run]:
    return [_observe.observe(graph, copy.deepcopy(value), config, **kwargs) for value in inputs]


async def _aruns(graph: Any, inputs: list[Any], config: Any, kwargs: dict[str, Any]) -> list[Run]:
    return [await _observe.aobserve(graph, copy.deepcopy(value), config, **kwargs) for value in inputs]


async def _made(factory: Callable[[], Any]) -> Any:
    graph = factory()
    return await graph if inspect.isawaitable(graph) else graph
