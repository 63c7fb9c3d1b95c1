"""The speculative graph as an object: sessions of its runs, reports, copies, and what wrapping says."""

from __future__ import annotations

import contextvars
import threading
import warnings
from typing import Any, TypedDict

import pytest
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.prebuilt import ToolNode

from langgraph_speculative import (
    Policy,
    SpeculationError,
    SpeculationInactiveWarning,
    SpeculativeGraph,
    UntestedLangGraphWarning,
    _compat,
    _scheduler,
    speculative,
)
from langgraph_speculative._view import KEY, View
from tests.support import LIMIT, chain


class State(TypedDict, total=False):
    x: int


def a(state: State) -> State:
    return {"x": 1}


def b(state: State) -> State:
    return {"x": state["x"] + 1}


def compiled(**options: Any) -> Any:
    return chain(State, a, b).compile(**options)


def guess(state: State) -> None:
    return None


def wrap(**options: Any) -> SpeculativeGraph:
    return speculative(compiled(**options), speculators={"a": guess}, effects={"b": "pure"})


# --- sessions -------------------------------------------------------------------------------------------------------


def mode_of(fast: SpeculativeGraph, config: Any) -> str | None:
    session = fast._open(config, sync=True)
    if session is None:
        return None
    session.close()
    return session.policy.mode


def asking(mode: str | None, **metadata: Any) -> Any:
    return {"metadata": {"speculation": mode, **metadata}}


@pytest.mark.parametrize(
    ("own", "config", "mode"),
    [
        (None, None, "on"),
        (asking("observe"), None, "observe"),
        (asking("observe"), {}, "observe"),
        (asking("observe"), {"metadata": None}, "observe"),
        (asking("observe"), {"metadata": {"other": 1}}, "observe"),
        (asking("observe"), asking("on"), "on"),
        (asking("off"), None, None),
        (asking("off"), asking("observe"), "observe"),
        (asking("on"), asking("off"), None),
        ({"metadata": {"other": 1}}, None, "on"),
        ({"tags": ["t"]}, asking("observe"), "observe"),
    ],
)
def test_a_requests_mode_goes_before_that_of_the_graphs_config(own: Any, config: Any, mode: str | None) -> None:
    fast: Any = wrap() if own is None else wrap().with_config(own)
    before = repr(config)
    assert mode_of(fast, config) == mode
    assert repr(config) == before


def test_an_unknown_mode_of_the_graphs_config_is_refused() -> None:
    fast: Any = wrap().with_config({"metadata": {"speculation": "sometimes"}})
    with pytest.raises(SpeculationError, match="sometimes"):
        fast._open(None, sync=True)


def test_a_session_that_cannot_be_opened_leaves_the_run_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = wrap()

    def fails() -> None:
        raise OSError("no thread")

    monkeypatch.setattr(_scheduler.CONTROL, "loop", fails)
    assert fast.invoke({"x": 0}) == {"x": 2}
    assert list(fast.report().errors) == ["no session could be opened: OSError('no thread')"]
    assert fast.report().runs == 0


THREAD: Any = {"configurable": {"thread_id": "1"}}


def test_a_run_without_the_thread_that_it_needs_is_left_to_langgraph() -> None:
    saved: Any = wrap(checkpointer=InMemorySaver())
    assert mode_of(saved, None) is None
    assert mode_of(saved, {"configurable": {}}) is None
    assert mode_of(saved, THREAD) == "on"
    assert mode_of(saved.with_config(THREAD), None) == "on"
    assert mode_of(wrap(), None) == "on"
    ambient = contextvars.copy_context()
    ambient.run(_compat.var_child_runnable_config.set, THREAD)
    assert ambient.run(mode_of, saved, None) == "on"
    with pytest.raises(ValueError, match="thread_id"):
        saved.invoke({"x": 0})


def test_a_run_knows_its_session() -> None:
    fast = wrap()
    session = fast._open(None, sync=True)
    assert session is not None
    config: Any = {"tags": ["t"]}
    assert fast._config_for(config, session) == {"tags": ["t"], KEY: View(session)}
    assert fast._config_for(None, session) == {KEY: View(session)}
    assert config == {"tags": ["t"]}
    session.close()


async def test_a_stream_that_is_left_ends_its_session() -> None:
    fast = wrap()
    with fast.track() as report:
        stream = fast.stream({"x": 0}, stream_mode="values")
        next(stream)
        assert report.runs == 0
        stream.close()  # type: ignore[attr-defined]
        assert report.runs == 1
        asynchronous: Any = fast.astream({"x": 0}, stream_mode="values")
        await anext(asynchronous)
        await asynchronous.aclose()
    assert report.runs == 2
    fast.close()
    asynchronous = fast.astream({"x": 0}, stream_mode="values")
    assert await anext(asynchronous) == {"x": 0}
    await asynchronous.aclose()
    assert fast.report().runs == 2


# --- reports --------------------------------------------------------------------------------------------------------


def test_runs_are_counted_where_they_are_tracked() -> None:
    fast, other = wrap(), wrap()
    with fast.track() as outer:
        fast.invoke({"x": 0})
        with fast.track() as inner, other.track() as others:
            fast.invoke({"x": 0})
            fast.copy().invoke({"x": 0})
        fast.invoke({"x": 0})
    fast.invoke({"x": 0})
    assert (outer.runs, inner.runs, others.runs) == (4, 2, 0)
    assert (fast.report().runs, other.report().runs) == (5, 0)


def test_a_block_may_be_left_in_another_context() -> None:
    tracked = wrap().track()
    contextvars.copy_context().run(tracked.__enter__)
    tracked.__exit__(None, None, None)


def test_threads_that_are_still_blocked_are_counted() -> None:
    fast, go = wrap(), threading.Event()
    assert fast.drain() == 0
    _scheduler.POOL.submit(fast._speculation, go.wait)  # type: ignore[arg-type]
    assert fast.drain(0.0) == 1
    assert fast.copy().drain(timeout=0.0) == 1
    go.set()
    assert fast.drain(LIMIT) == 0


# --- copies ---------------------------------------------------------------------------------------------------------


def test_a_copy_shares_all_but_what_it_is_asked_to_change() -> None:
    fast: Any = wrap()
    fast.own = "attribute"
    saver = InMemorySaver()
    made = fast.copy({"checkpointer": saver, "name": "other"})
    assert (made.checkpointer, made.name, made.own) == (saver, "other", "attribute")
    assert made._speculation is fast._speculation
    assert (fast.checkpointer, fast.name) == (None, "LangGraph")
    assert made.nodes == fast.nodes
    assert made.nodes is not fast.nodes
    nodes = {n: fast.nodes[n] for n in ("__start__", "a")}
    assert set(fast.copy({"nodes": nodes}).nodes) == {"__start__", "a"}
    assert fast.copy().report() is fast.report()


def test_what_is_drawn_is_the_plain_graph() -> None:
    inner = wrap()
    outer = chain(State, a, inner, names=["a", "sub"]).compile()
    fast = speculative(outer, speculators={"a": guess})
    plain = fast._plain()
    assert type(plain) is CompiledStateGraph
    assert plain.nodes["a"] is outer.nodes["a"]
    assert type(plain.nodes["sub"].bound) is CompiledStateGraph
    assert type(outer.nodes["sub"].bound) is SpeculativeGraph
    assert plain.builder is outer.builder


def test_closing_is_for_all_copies() -> None:
    fast = wrap()
    with fast as entered:
        assert entered is fast
        made = fast.copy()
        assert mode_of(made, None) == "on"
    assert mode_of(made, None) is None
    assert fast.invoke({"x": 0}) == {"x": 2}


# --- wrapping -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "warns"),
    [
        ({}, True),
        ({"speculators": {}}, False),  # so whoever passes none on purpose
        ({"speculators": {"a": guess}}, True),
        ({"speculators": {"b": guess}, "effects": {"*": "pure"}}, True),
        ({"speculators": {"a": guess}, "effects": {"b": "pure"}}, False),
        ({"speculators": {}, "draft": "a"}, True),
    ],
)
def test_wrapping_warns_where_nothing_may_come_of_it(options: Any, warns: bool) -> None:
    if "draft" in options:
        options = {**options, "draft": compiled(), "effects": {"a": "pure"}}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fast = speculative(compiled(), **options)
    assert [(w.category, w.filename) for w in caught] == [(SpeculationInactiveWarning, __file__)] * warns
    assert (mode_of(fast, None) is None) is (warns or options == {"speculators": {}})


def test_on_a_langgraph_that_lacks_something_the_graph_runs_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compat, "missing", lambda: "a thing")
    with pytest.warns(UntestedLangGraphWarning, match="lacks a thing") as caught:
        fast = wrap()
    assert len(caught) == 1
    assert mode_of(fast, None) is None


def test_a_policy_is_a_policy() -> None:
    with pytest.raises(SpeculationError, match="policy is 'dict'"):
        speculative(compiled(), policy={})  # type: ignore[call-overload]
    fast = speculative(compiled(), speculators={}, policy=Policy(mode="observe"))
    assert fast._speculation.policy == Policy(mode="observe")
    assert wrap()._speculation.policy == Policy()


@pytest.mark.parametrize("trusted", ["server", ["server"], {"server", "other"}])
def test_a_trusted_server_may_be_given_by_its_name(trusted: Any) -> None:
    tool = StructuredTool.from_function(
        lambda: "x", name="server_look", description="Looks.", metadata={"readOnlyHint": True}
    )
    builder = StateGraph(State)
    builder.add_node("tools", ToolNode([tool]))
    builder.add_edge("__start__", "tools")
    (row,) = speculative(builder.compile(), speculators={}, trust_mcp=trusted).effects().rows
    assert (row.effect.value, row.source) == ("read", "mcp")


def test_a_subclass_of_the_users_own_stays_one() -> None:
    class Own(CompiledStateGraph):  # type: ignore[type-arg]
        pass

    graph: Any = compiled()
    graph.__class__ = Own
    fast = speculative(graph, speculators={"a": guess}, effects={"b": "pure"})
    assert isinstance(fast, Own)
    assert isinstance(fast, SpeculativeGraph)
    assert type(fast).__name__ == "SpeculativeOwn"
    assert type(wrap()) is SpeculativeGraph


class Maker:
    def make(self) -> Any:
        return compiled()


@pytest.mark.parametrize("function", [compiled, Maker().make])
def test_a_function_or_method_that_returns_a_graph_is_decorated(function: Any) -> None:
    made: Any = speculative(function)
    assert made.__name__ == function.__name__
    with pytest.warns(SpeculationInactiveWarning):
        assert isinstance(made(), SpeculativeGraph)
    with pytest.raises(SpeculationError, match="got 'Maker'"):
        speculative(Maker())  # type: ignore[call-overload]
