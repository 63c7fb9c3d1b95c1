"""LangGraph's internals that `_compat` touches: each of these fails when a release moves what it relies on."""

from __future__ import annotations

import asyncio
import warnings
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback, manager
from langchain_core.callbacks.manager import AsyncCallbackManager, CallbackManager
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.channels import BinaryOperatorAggregate, LastValue, Topic
from langgraph.channels.named_barrier_value import NamedBarrierValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphInterrupt
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import InjectedState, ToolNode
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Interrupt, RetryPolicy, Send, interrupt
from langsmith.utils import get_env_var

from langgraph_speculative import UntestedLangGraphWarning, _compat, speculative
from langgraph_speculative._compat import _callbacks, _supersteps
from langgraph_speculative._values import copy_value


class State(TypedDict, total=False):
    x: int
    seen: Any


def seen_by_a_node(look: Any, **compiled: Any) -> Any:
    """What `look` makes of the config of a running task."""

    def a(state: State, config: RunnableConfig) -> State:
        return {"seen": [look(config)]}

    graph = StateGraph(State).add_node("a", a).add_edge(START, "a").compile(**compiled)
    return graph.invoke({"x": 1}, {"configurable": {"thread_id": "1"}})["seen"][0]


def test_the_loop_of_a_running_task_has_what_forks_need() -> None:
    wanted = [
        "channels",
        "checkpoint",
        "checkpoint_ns",
        "checkpointer",
        "config",
        "interrupt_after",
        "interrupt_before",
        "managed",
        "nodes",
        "output_keys",
        "step",
        "stop",
        "store",
        "tasks",
        "trigger_to_nodes",
    ]
    lacking, tasks = seen_by_a_node(
        lambda c: (
            [name for name in wanted if not hasattr(_compat.loop_of(c), name)],
            {t.id: (t.name, t.path, t.triggers, list(t.writers)) for t in _compat.loop_of(c).tasks.values()},
        )
    )
    assert lacking == []
    assert [name for name, *_ in tasks.values()] == ["a"]


def test_outside_of_a_loop_there_is_none() -> None:
    assert _compat.loop_of({"configurable": {}}) is None


def test_a_first_attempt_is_known_from_a_retry() -> None:
    attempts: list[bool] = []

    def a(state: State, config: RunnableConfig) -> State:
        attempts.append(_compat.is_first_attempt(config))
        if len(attempts) == 1:
            raise ConnectionError
        return {}

    policy = RetryPolicy(initial_interval=0.001, jitter=False)
    StateGraph(State).add_node("a", a, retry_policy=policy).add_edge(START, "a").compile().invoke({"x": 1})
    assert attempts == [True, False]


def test_a_resumed_task_is_no_first_attempt() -> None:
    attempts: list[bool] = []

    def a(state: State, config: RunnableConfig) -> State:
        attempts.append(_compat.is_first_attempt(config))
        interrupt("?")
        return {}

    graph = StateGraph(State).add_node("a", a).add_edge(START, "a").compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {"configurable": {"thread_id": "1"}}
    graph.invoke({"x": 1}, config)
    graph.invoke(Command(resume="!"), config)
    assert attempts == [True, False]


def test_an_offline_config_leads_nowhere() -> None:
    def keys(config: RunnableConfig) -> tuple[Any, ...]:
        off = _compat.offline(config, print, None)
        conf = off["configurable"]
        runtime = conf["__pregel_runtime"]
        gone = [k for k in ("__pregel_stream", "__pregel_durability") if k in conf]
        return (
            "callbacks" in off,
            gone,
            conf["__pregel_checkpointer"],
            conf["__pregel_cache"],
            runtime.stream_writer is print,
            runtime.store,
            conf["thread_id"],
        )

    saver, store = InMemorySaver(), InMemoryStore()
    assert seen_by_a_node(keys, checkpointer=saver, store=store) == (False, [], None, None, True, None, "1")


def test_a_copied_channel_shares_nothing() -> None:
    last, topic = LastValue(list, "l"), Topic(list, True)
    last.update([[1]])
    topic.update([[[2]]])
    added = BinaryOperatorAggregate(list, lambda a, b: a + b)
    added.update([[3]])
    barrier = NamedBarrierValue(str, {"p", "q"})
    barrier.update(["p"])
    channels = {"l": last, "t": topic, "a": added, "b": barrier}
    copies = _compat.copy_channels(channels, copy_value)
    copies["l"].value.append(0)
    copies["t"].values[0].append(0)
    copies["a"].value.append(0)
    copies["b"].update(["q"])
    assert (last.value, topic.values, added.value, barrier.seen) == ([1], [[2]], [3], {"p"})


def test_versions_become_ranks_in_the_same_order() -> None:
    checkpoint = {
        "v": 4,
        "channel_versions": {"a": "002.1", "b": "001.7"},
        "versions_seen": {"n": {"a": "001.7"}, "__input__": {}},
    }
    ranked = _compat.ranked(checkpoint)
    assert ranked["channel_versions"] == {"a": 2, "b": 1}
    assert ranked["versions_seen"] == {"n": {"a": 1}, "__input__": {}}


def test_state_writes_name_what_a_guess_would_do() -> None:
    def writes(config: RunnableConfig) -> Any:
        loop = _compat.loop_of(config)
        assert loop is not None
        task = next(iter(loop.tasks.values()))

        def of(output: Any) -> Any:
            made = _compat.state_writes(task, output, config)
            return made, _compat.misfit(loop, made)

        return (
            of({"x": 2}),
            of(Command(goto="nowhere")),
            of(Command(goto=[Send("a", 1)])),
            of(Command(graph="__parent__")),
        )

    fits, nowhere, send, parent = seen_by_a_node(writes)
    assert fits == ([("x", 2)], "")
    assert "'nowhere'" in nowhere[1]
    assert send[1] == ""
    assert parent[0][0][0] == "__parent__"


async def _async(state: State) -> State:
    return {}


def _sync(state: State) -> State:
    return {}


def test_synchronous_code_is_known() -> None:
    nodes = StateGraph(State).add_node("s", _sync).add_node("a", _async).nodes
    assert _compat.is_sync_only(nodes["s"].runnable)  # type: ignore[arg-type]
    assert not _compat.is_sync_only(nodes["a"].runnable)  # type: ignore[arg-type]
    assert _compat.is_sync_only(RunnableLambda(_sync))
    assert not _compat.is_sync_only(RunnableLambda(_sync, afunc=_async))


@tool
def plain(q: str) -> str:
    """Plain."""
    return q


@tool
def stateful(q: str, state: Annotated[dict[str, Any], InjectedState]) -> str:
    """Sees the state."""
    return q


@tool
def configured(q: str, config: RunnableConfig) -> str:
    """Sees the config."""
    return q


@tool
def knows_its_id(q: str, call_id: Annotated[str, InjectedToolCallId]) -> str:
    """Sees its own id only, which is renamed in its result."""
    return q


def test_what_is_injected_into_a_tool_is_known() -> None:
    node = ToolNode([plain, stateful, configured, knows_its_id])
    assert [n for n, t in node.tools_by_name.items() if _compat.injected_into(node, t)] == ["stateful", "configured"]
    assert all(_compat.is_sync_only_tool(t) for t in node.tools_by_name.values())


def test_a_copied_tool_node_runs_its_own_methods() -> None:
    calls: list[str] = []

    def wrap(request: Any, execute: Any) -> Any:
        calls.append(request.tool_call["name"])
        return execute(request)

    original = ToolNode([plain])
    copied = _compat.bind_copied_tool_node(original, wrap, None)
    graph = StateGraph(dict).add_node("tools", copied).add_edge(START, "tools").add_edge("tools", END).compile()
    graph.invoke({"messages": [AIMessage("", tool_calls=[{"name": "plain", "args": {"q": "1"}, "id": "c"}])]})
    assert calls == ["plain"]
    assert original._wrap_tool_call is None


def test_streaming_markers_are_told_apart() -> None:
    seen: list[tuple[bool, bool]] = []

    def a(state: State, config: RunnableConfig) -> State:
        seen.append(_compat.streaming_markers(config["callbacks"].handlers))  # type: ignore[union-attr]
        return {}

    graph = StateGraph(State).add_node("a", a).add_edge(START, "a").compile()
    list(graph.stream({"x": 1}, stream_mode="messages"))
    graph.invoke({"x": 1}, {"callbacks": [BaseCallbackHandler()]})
    assert [v1 for v1, _ in seen] == [True, False]


def test_a_clean_context_sees_no_run() -> None:
    with get_usage_metadata_callback():
        assert CallbackManager.configure().handlers
        ctx = _compat.clean_context()
    assert ctx.run(CallbackManager.configure).handlers == []
    assert ctx.run(_compat.var_child_runnable_config.get) is None


def test_a_langgraph_that_lacks_something_runs_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(checkpoint: Any) -> None: ...

    asked: list[Any] = []
    graph = (
        StateGraph(State).add_node("a", _sync).add_node("b", _sync).add_edge(START, "a").add_edge("a", "b").compile()
    )
    monkeypatch.setattr(_supersteps, "apply_writes", moved)
    assert "moved" in str(_compat.missing())
    with pytest.warns(UntestedLangGraphWarning, match="runs plain"):
        fast = speculative(graph, speculators={"a": asked.append}, effects={"*": "pure"})
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fast.invoke({"x": 1}) == {"x": 1}
    assert asked == []


def test_a_get_adds_a_namespace_to_a_store_in_memory() -> None:
    store = InMemoryStore()
    assert _compat.lacks_namespace(store, ("n",))
    store.get(("n",), "k")
    assert not _compat.lacks_namespace(store, ("n",))
    assert store.list_namespaces() == [("n",)]


def test_a_copied_store_in_memory_has_the_same_items() -> None:
    store = InMemoryStore()
    store.put(("n",), "k", {"v": 1})
    copied = _compat.copied_memory(store)
    assert copied.get(("n",), "k") is store.get(("n",), "k")
    copied.delete(("n",), "k")
    copied.put(("m",), "k", {})
    assert [i.key for i in store.search(())] == ["k"]
    assert store.list_namespaces() == [("n",)]


def test_a_store_that_answers_in_its_own_way_is_not_plain_memory() -> None:
    class Own(InMemoryStore):
        async def abatch(self, ops: Any) -> Any:
            return []

    assert _compat.is_plain_memory(InMemoryStore())
    assert not _compat.is_plain_memory(Own())


@pytest.mark.parametrize("kind", [CallbackManager, AsyncCallbackManager])
def test_every_callback_manager_is_shown(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "_configure", manager._configure)
    monkeypatch.setattr(_callbacks, "_watched", [])
    shown: list[Any] = []
    _compat.watch_managers(shown.append)
    _compat.watch_managers(shown.append)
    made = kind.configure(local_callbacks=[BaseCallbackHandler()])
    assert shown == [made]


def test_a_clean_context_stays_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.setenv("LANGCHAIN_TRACING_V2", "true")
    get_env_var.cache_clear()
    try:
        with get_usage_metadata_callback():
            handlers = _compat.clean_context().run(lambda: CallbackManager.configure().handlers)
        assert handlers == []
    finally:
        monkeypatch.undo()
        get_env_var.cache_clear()


def test_a_task_with_a_timeout_has_a_loop() -> None:
    async def a(state: State, config: RunnableConfig) -> State:
        return {"seen": _compat.loop_of(config) is not None}

    graph = StateGraph(State).add_node("a", a, timeout=30).add_edge(START, "a").compile()
    assert asyncio.run(graph.ainvoke({"x": 1}))["seen"]


def test_an_interrupt_is_named_by_its_namespace() -> None:
    error = GraphInterrupt((Interrupt.from_ns("?", "a:1"),))
    own = _compat.own_interrupt(error, "a:1", "a:2")
    assert own is not None
    assert own.args[0] == (Interrupt.from_ns("?", "a:2"),)
    assert _compat.own_interrupt(error, "b:1", "b:2") is None
