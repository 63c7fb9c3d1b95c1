"""What `_compat` reads from the configs of tasks, and makes of them and of runnables and tools: no graph runs here."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool, Tool, tool
from langgraph.channels import BinaryOperatorAggregate, EphemeralValue, LastValue
from langgraph.errors import GraphInterrupt, ParentCommand
from langgraph.prebuilt import InjectedState, InjectedStore, ToolNode, ToolRuntime
from langgraph.pregel._algo import PregelTaskWrites
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Interrupt, Send

from langgraph_speculative import _compat
from langgraph_speculative._compat import RunnableCallable, Snapshot, _callbacks, _supersteps
from langgraph_speculative._view import Barrier

NS, RUNTIME, CALL, PAD = "checkpoint_ns", "__pregel_runtime", "__pregel_call", "__pregel_scratchpad"
READ, SEND, STREAM, SAVER = "__pregel_read", "__pregel_send", "__pregel_stream", "__pregel_checkpointer"
DURABILITY, CACHE = "__pregel_durability", "__pregel_cache"


def config(**conf: Any) -> Any:
    return {"configurable": conf}


class Loop(SimpleNamespace):
    """As much of a Pregel loop as is looked at."""

    def schedule(self) -> None: ...


def call_in(loop: Any) -> Any:
    return partial(print, schedule_task=loop.schedule)


# --- the running step -----------------------------------------------------------------------------------------------


def test_what_the_installed_langgraph_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _compat.missing() is None

    def apply_writes(checkpoint: Any, tasks: Any, trigger_to_nodes: Any) -> None: ...

    monkeypatch.setattr(_supersteps, "apply_writes", apply_writes)
    assert str(_compat.missing()).endswith("apply_writes(channels, get_next_version)")

    def prepare_next_tasks(trigger_to_nodes: Any, for_execution: Any, manager: Any, store: Any) -> None: ...

    monkeypatch.setattr(_supersteps, "prepare_next_tasks", prepare_next_tasks)
    assert str(_compat.missing()).endswith("prepare_next_tasks(updated_channels)")


def test_the_loop_and_step_of_a_task() -> None:
    loop = Loop(trigger_to_nodes={}, step=7)
    own = config(**{CALL: call_in(loop)})
    assert _compat.loop_of(own) is loop
    assert _compat.step_of(own) == 7


def test_the_loop_behind_a_closure() -> None:
    loop = Loop(trigger_to_nodes={}, step=7)
    before, call = object(), call_in(loop)

    def timed() -> Any:
        return before, call

    assert _compat.loop_of(config(**{CALL: timed})) is loop


@pytest.mark.parametrize(
    "call",
    [
        None,
        print,
        partial(print),
        partial(print, schedule_task=test_what_the_installed_langgraph_lacks_is_named),
        call_in(Loop(step=7)),
        lambda: None,
    ],
)
def test_a_task_of_no_loop(call: Any) -> None:
    own = config(**{CALL: call})
    assert _compat.loop_of(own) is None
    assert _compat.step_of(own) is None


class Pad(SimpleNamespace):
    """A scratchpad whose answer for the whole run is gone once it is taken."""

    def get_null_resume(self, consume: bool) -> Any:
        answer = self.null
        if consume:
            self.null = None
        return answer


def attempt(number: int) -> Any:
    return SimpleNamespace(execution_info=SimpleNamespace(node_attempt=number))


@pytest.mark.parametrize(
    ("conf", "first"),
    [
        ({}, True),
        ({RUNTIME: SimpleNamespace()}, True),
        ({RUNTIME: SimpleNamespace(execution_info=None)}, True),
        ({RUNTIME: SimpleNamespace(execution_info=SimpleNamespace())}, True),
        ({RUNTIME: attempt(1)}, True),
        ({RUNTIME: attempt(2)}, False),
        ({PAD: Pad(resume=[], null=None)}, True),
        ({PAD: Pad(resume=["yes"], null=None)}, False),
        ({PAD: Pad(resume=[], null="yes")}, False),
        ({PAD: Pad(resume=["yes"], null="yes")}, False),
        ({RUNTIME: attempt(2), PAD: Pad(resume=[], null=None)}, False),
        ({RUNTIME: attempt(1), PAD: Pad(resume=["yes"], null=None)}, False),
    ],
)
def test_only_a_first_attempt_without_answers_may_claim(conf: Any, first: bool) -> None:
    assert _compat.is_first_attempt(config(**conf)) is first


def test_looking_for_an_answer_leaves_it_there() -> None:
    pad = Pad(resume=[], null="yes")
    assert not _compat.is_first_attempt(config(**{PAD: pad}))
    assert pad.null == "yes"


def test_namespaces() -> None:
    assert _compat.namespace_of(config()) == ""
    own = config(**{NS: "a:1", "thread_id": "t"})
    assert _compat.namespace_of(own) == "a:1"
    moved = _compat.in_namespace({**own, "tags": ["x"]}, lambda n: f"{n}|b:2")
    assert moved == {"configurable": {NS: "a:1|b:2", "thread_id": "t"}, "tags": ["x"]}
    assert _compat.namespace_of(own) == "a:1"


def test_the_namespace_of_the_current_context() -> None:
    ctx = _compat.clean_context()
    assert ctx.run(_compat.current_namespace) == ""
    ctx.run(_compat.enter_namespace, config(**{NS: "a:1"}), "a:1|b:2")
    assert ctx.run(_compat.current_namespace) == "a:1|b:2"
    assert _compat.current_namespace() == ""


def test_the_checkpoints_above() -> None:
    assert _compat.checkpoints_above(config()) == {}
    assert _compat.checkpoints_above(config(checkpoint_map=None)) == {}
    assert _compat.checkpoints_above(config(checkpoint_map={"": "1"})) == {"": "1"}


def test_an_interrupt_of_a_graph_inside_is_not_the_tasks_own() -> None:
    own, inner = Interrupt.from_ns("?", "a:1"), Interrupt.from_ns("?", "a:1|b:2")
    assert _compat.own_interrupt(GraphInterrupt((own, inner)), "a:1", "a:9") is None
    named = _compat.own_interrupt(GraphInterrupt((own, own)), "a:1", "a:9")
    assert named is not None
    assert named.args[0] == (Interrupt.from_ns("?", "a:9"),) * 2
    assert own == Interrupt.from_ns("?", "a:1")  # the error's own stays what it is
    empty = _compat.own_interrupt(GraphInterrupt(), "a:1", "a:9")
    assert empty is not None
    assert empty.args[0] == ()
    bare = GraphInterrupt()
    bare.args = ()
    assert _compat.own_interrupt(bare, "a:1", "a:9") is not None


def test_what_a_task_is_given() -> None:
    store, written = InMemoryStore(), []
    own = config(**{RUNTIME: Runtime(store=store, stream_writer=written.append), CALL: print, STREAM: len})
    assert _compat.store_of(own) is store
    assert _compat.call_of(own) is print
    assert _compat.stream_of(own) is len
    assert _compat.task_id_of(config(__pregel_task_id="t1")) == "t1"
    writer = _compat.stream_writer_of(own)
    assert writer is not None
    writer(1)
    assert written == [1]
    other = InMemoryStore()
    given = _compat.with_store(own, other)
    assert _compat.store_of(given) is other
    assert _compat.stream_writer_of(given) is writer
    assert _compat.store_of(own) is store
    for what in (_compat.store_of, _compat.stream_writer_of, _compat.stream_of):
        assert what(config()) is None


def test_a_namespace_lacks_only_in_a_store_in_memory() -> None:
    class Own(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            return super().batch(ops)

    store = InMemoryStore()
    store.put(("n",), "k", {"v": 1})
    assert not _compat.lacks_namespace(store, ("n",))
    assert _compat.lacks_namespace(store, ("m",))
    assert not _compat.is_plain_memory(Own())
    assert not _compat.lacks_namespace(Own(), ("m",))


def test_a_handler_that_streams_tools_is_known() -> None:
    assert not _compat.streams_tools([])
    assert not _compat.streams_tools([BaseCallbackHandler()])
    kind = type("Tools", (_callbacks._ToolHandler,), {"__init__": lambda self: None})
    assert _compat.streams_tools([BaseCallbackHandler(), kind()])


# --- forks ----------------------------------------------------------------------------------------------------------


def test_ranks_count_all_versions_together_from_one() -> None:
    ranked = _compat.ranked(
        {"v": 4, "channel_versions": {"a": 30, "b": 20}, "versions_seen": {"n": {"a": 10, "b": 20}, "m": {"a": 30}}}
    )
    assert ranked == {
        "v": 4,
        "channel_versions": {"a": 3, "b": 2},
        "versions_seen": {"n": {"a": 1, "b": 2}, "m": {"a": 3}},
    }


def started() -> Snapshot:
    """A graph whose node `n` is about to run, triggered by its branch channel."""
    total, branch = BinaryOperatorAggregate(int, operator.add), EphemeralValue(Any)
    total.update([1])
    branch.update([None])
    checkpoint = {
        "v": 4,
        "id": "of the run",
        "ts": "then",
        "channel_values": {},
        "channel_versions": {"total": 1, "branch:to:n": 2},
        "versions_seen": {"n": {}},
    }
    channels = {"total": total, "branch:to:n": branch, "other": LastValue(int, "other")}
    return Snapshot(channels, checkpoint, 5, None, {1: "memo"}, ["loan"])


def test_a_superstep_on() -> None:
    source = started()
    loop = Loop(trigger_to_nodes={"branch:to:n": ["n"], "total": ["m"]})
    writes = [PregelTaskWrites(("__pregel_pull", "n"), "n", [("total", 2)], ["branch:to:n"])]
    after = _compat.advance(loop, source, writes)
    assert after.step == 6
    assert after.channels["total"].get() == 3
    assert "total" in (after.updated or ())
    # One more than the greatest there was, as the loop counts.
    assert after.checkpoint["channel_versions"]["total"] == 3
    assert after.checkpoint["versions_seen"]["n"] == {"branch:to:n": 2}
    assert (after.memo, after.loans) == ({1: "memo"}, ["loan"])
    # What it started from is another branch's, too.
    assert source.checkpoint["channel_versions"] == {"total": 1, "branch:to:n": 2}
    assert source.checkpoint["versions_seen"] == {"n": {}}
    again = _compat.advance(loop, started(), [])
    ids = (after.checkpoint["id"], again.checkpoint["id"])
    assert [len(i) for i in ids] == [32, 32]
    assert int(ids[1], 16) > int(ids[0], 16) >= 1


def test_a_first_version_is_one() -> None:
    source = started()
    source.checkpoint["channel_versions"] = {}
    writes = [PregelTaskWrites(("__pregel_pull", "n"), "n", [("other", 2)], [])]
    after = _compat.advance(Loop(trigger_to_nodes={}), source, writes)
    assert after.checkpoint["channel_versions"]["other"] == 1


def test_the_tasks_of_a_node_cache() -> None:
    key = SimpleNamespace(ns=("n",), key="k")
    cached, other = SimpleNamespace(cache_key=key), SimpleNamespace(cache_key=None)
    assert _compat.cached_by_key(Loop(cache=None), [cached]) == {}
    assert _compat.cached_by_key(Loop(cache=object()), [cached, other]) == {(("n",), "k"): cached}


def test_a_drafts_node_sees_what_the_user_configured_alone() -> None:
    written: list[Any] = []
    runtime = Runtime(context="c", store=InMemoryStore(), stream_writer=written.append)
    given = _compat.guess_config(
        {**config(model="m", **{RUNTIME: runtime, SAVER: 1}), "metadata": {"k": 1}, "tags": ["t"], "callbacks": []}
    )
    own = given["configurable"].pop(RUNTIME)
    assert given == {"configurable": {"model": "m"}, "metadata": {"k": 1}, "tags": [], "callbacks": None}
    assert (own.context, own.store) == ("c", None)
    own.stream_writer("unheard")
    assert written == []
    assert _compat.guess_config({}) == {"configurable": {}, "metadata": {}, "tags": [], "callbacks": None}
    assert RUNTIME not in _compat.guess_config(config(**{RUNTIME: "none of ours"}))["configurable"]


def test_an_offline_config_is_a_copy_that_schedules_nothing() -> None:
    own = {
        **config(**{STREAM: 1, DURABILITY: "sync", SAVER: 2, CALL: print, CACHE: 3, "thread_id": "t"}),
        "callbacks": [],
        "run_id": 1,
        "run_name": "n",
        "tags": ["t"],
    }
    before = {**own, "configurable": dict(own["configurable"])}
    off = _compat.offline(own, print, None)  # type: ignore[arg-type]
    assert own == before
    assert set(off) == {"configurable", "tags"}
    assert off["configurable"].keys() == {SAVER, CALL, CACHE, "thread_id"}
    with pytest.raises(Barrier):
        off["configurable"][CALL](print, 1, key=2)


@pytest.mark.parametrize("asked", [True, False])
def test_what_a_pre_execution_starts_inside_goes_through_the_gate(asked: bool) -> None:
    modes = {"values"}
    conf = {STREAM: SimpleNamespace(modes=modes), DURABILITY: "sync"} if asked else {}
    loop = Loop(config=config(**conf), checkpointer="the run's" if asked else None)
    chunks: list[Any] = []
    off = config(**{SAVER: None, CALL: len})
    own = _compat.inside(off, loop, call=print, stream=chunks.append, saver=lambda of: ("kept", of))["configurable"]
    assert own[CALL] is print
    if asked:
        assert own[STREAM].modes == modes
        own[STREAM](((), "values", 1))
        assert chunks == [((), "values", 1)]
        assert own[SAVER] == ("kept", "the run's")
        assert own[DURABILITY] == "sync"
    else:
        assert own == {CALL: print, SAVER: None}


def test_a_command_for_the_parent_is_its_nodes_own() -> None:
    command = Command(graph=Command.PARENT, goto="b", update={"x": 1})
    assert _compat.for_this_graph(ParentCommand(command)) == Command(goto="b", update={"x": 1})


@pytest.mark.parametrize(
    ("writes", "why"),
    [
        ([], ""),
        ([("x", 1)], ""),
        ([("__pregel_tasks", Send("n", 1))], ""),
        ([("__no_writes__", 1)], ""),
        ([("x", 1), ("__pregel_tasks", Send("gone", 1))], "it sends to 'gone', which is no node of the graph"),
        ([("__pregel_tasks", "odd")], "it sends to 'odd', which is no node of the graph"),
        ([("branch:to:gone", 1)], "it leads to 'gone', which is no node of the graph"),
        ([("y", 1)], "it leads to 'y', which is no node of the graph"),
    ],
)
def test_writes_that_fit_no_node(writes: Any, why: str) -> None:
    assert _compat.misfit(Loop(nodes={"n": 1}, channels={"x": 1}), writes) == why


def task(**own: Any) -> Any:
    return SimpleNamespace(path=("__pregel_push", 1, 2, True), name="n", triggers=["t"], writes=[], **own)


def test_made_writes_are_a_copy() -> None:
    own = task()
    own.writes.append(("x", [1]))
    made = _compat.made_writes(own)
    assert made == (("__pregel_push", 1, 2), "n", [("x", [1])], ["t"])
    own.writes[0][1].append(2)
    assert made.writes == [("x", [1])]


def test_routers_read_the_branch_as_their_own_node_leaves_it() -> None:
    seen: list[Any] = []

    def read(*args: Any) -> str:
        seen.append(args)
        return "read"

    own = config(**{READ: partial(read, "pad", "the run's", "managed", "task"), SEND: print})
    channels = {"x": 1}
    writes, given = _compat.open_writes(task(), own, channels)
    assert (writes.path, writes.name, writes.triggers) == (("__pregel_push", 1, 2), "n", ["t"])
    given["configurable"][SEND]([("x", 2)])
    assert list(writes.writes) == [("x", 2)]
    assert given["configurable"][READ]("x", True) == "read"
    ((pad, of, managed, made, *asked),) = seen
    assert (pad, of, managed, asked) == ("pad", channels, "managed", ["x", True])
    assert made is writes


def test_reads_beyond_the_input_are_noted() -> None:
    noted: list[int] = []
    assert _compat.guard_reads(bare := config(), lambda: None) is bare

    def read(where: str, *args: Any, **kwargs: Any) -> Any:
        return where, args, kwargs

    def note() -> Any:
        noted.append(1)
        return None if len(noted) == 1 else config(**{READ: partial(read, "run")})

    own = config(**{READ: partial(read, "branch")})
    guarded = _compat.guard_reads(own, note)["configurable"][READ]
    assert guarded.args == ("branch",)  # as `ToolNode` expects it
    assert guarded("x", fresh=True) == ("branch", ("x",), {"fresh": True})
    assert guarded("x", fresh=True) == ("run", ("x",), {"fresh": True})
    assert len(noted) == 2


# --- runnables ------------------------------------------------------------------------------------------------------


def sync(value: Any) -> Any:
    return value


async def awaited(value: Any) -> Any:
    return value


class Own(Runnable[Any, Any]):
    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return input


class Both(Own):
    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return input


@pytest.mark.parametrize(
    ("runnable", "sync_only", "function"),
    [
        (RunnableCallable(sync), True, sync),
        (RunnableCallable(sync, awaited), False, sync),
        (RunnableCallable(None, awaited), False, awaited),
        (RunnableCallable(sync, partial(awaited)), False, sync),
        (RunnableLambda(sync), True, sync),
        (RunnableLambda(sync, afunc=awaited), False, sync),
        (RunnableLambda(awaited), False, awaited),
        (Own(), True, None),
        (Both(), False, None),
    ],
)
def test_code_that_blocks_its_thread(runnable: Any, sync_only: bool, function: Any) -> None:
    assert _compat.is_sync_only(runnable) is sync_only
    assert _compat.function_of(runnable) is function


class OwnTool(BaseTool):
    name: str = "own"
    description: str = "Own."

    def _run(self, q: str) -> str:
        return q


class BothTool(OwnTool):
    async def _arun(self, q: str) -> str:
        return q


class ConfiguredTool(OwnTool):
    def _run(self, q: str, config: RunnableConfig) -> str:  # type: ignore[override]
        return q


@tool
def q_sync(q: str) -> str:
    """Plain."""
    return q


@tool
async def q_async(q: str) -> str:
    """Awaited."""
    return q


@tool
async def configured(q: str, config: RunnableConfig) -> str:
    """Awaited, and sees its config."""
    return q


@tool
def stateful(q: str, state: Annotated[Any, InjectedState]) -> str:
    """Sees the state."""
    return q


@tool
def stored(q: str, store: Annotated[Any, InjectedStore()]) -> str:
    """Sees the store."""
    return q


@tool
def runtimed(q: str, runtime: ToolRuntime) -> str:
    """Sees all of it."""
    return q


def test_tools_that_block_their_thread() -> None:
    blocking = [OwnTool(), q_sync, StructuredTool.from_function(sync, description="S."), Tool("t", sync, "T.")]
    assert [_compat.is_sync_only_tool(t) for t in blocking] == [True] * 4
    assert [_compat.is_sync_only_tool(t) for t in (BothTool(), q_async, Tool("t", sync, "T.", coroutine=awaited))] == [
        False
    ] * 3


@pytest.mark.parametrize(
    ("made", "injected"),
    [
        (q_sync, False),
        (q_async, False),
        (configured, True),
        (stateful, True),
        (stored, True),
        (runtimed, True),
        (OwnTool(), False),
        (BothTool(), False),
        (Tool("t", sync, "T."), False),
    ],
)
def test_tools_that_see_more_than_their_arguments(made: Any, injected: bool) -> None:
    assert _compat.injected_into(ToolNode([made]), made) is injected
    # What a node does not know of, it injects nothing into; a config comes from LangChain.
    assert _compat.injected_into(ToolNode([OwnTool(name="other")]), made) is (injected and made is configured)


def with_config(value: Any, config: RunnableConfig) -> Any:
    return value


def with_runtime(value: Any, runtime: Runtime) -> Any:
    return value


def with_writer(value: Any, writer: Callable[[Any], None]) -> Any:
    return value


def test_functions_that_see_their_run() -> None:
    made = [RunnableCallable(f) for f in (sync, with_writer, with_config, with_runtime)]
    assert [_compat.takes_run_info(m) for m in made] == [False, False, True, True]
    assert _compat.takes_run_info(RunnableLambda(sync))


def names(called: list[str], name: str) -> Any:
    """A synchronous wrapper of tool calls that says when it is entered."""

    def wrap(request: Any, execute: Any) -> Any:
        called.append(name)
        return execute(request)

    return wrap


def anames(called: list[str], name: str) -> Any:
    async def wrap(request: Any, execute: Any) -> Any:
        called.append(name)
        return await execute(request)

    return wrap


CALLS = {"messages": [AIMessage("", tool_calls=[{"name": "q_sync", "args": {"q": "1"}, "id": "c"}])]}


@pytest.mark.parametrize(
    ("outer", "aouter", "in_sync", "in_async"),
    [
        (False, False, ["own"], ["own, awaited"]),
        (True, False, ["user's", "own"], ["user's", "own"]),
        (True, True, ["user's", "own"], ["user's, awaited", "own, awaited"]),
        (False, True, ["own"], ["user's, awaited", "own, awaited"]),
    ],
)
async def test_own_wrappers_are_the_innermost(
    outer: bool, aouter: bool, in_sync: list[str], in_async: list[str]
) -> None:
    called: list[str] = []
    node = ToolNode(
        [q_sync],
        wrap_tool_call=names(called, "user's") if outer else None,
        awrap_tool_call=anames(called, "user's, awaited") if aouter else None,
    )
    assert _compat.has_foreign_wrapper(node) is (outer or aouter)
    assert _compat.has_sync_wrapper_only(node) is (outer and not aouter)
    copied = _compat.bind_copied_tool_node(node, names(called, "own"), anames(called, "own, awaited"))
    own = config(**{RUNTIME: Runtime(), READ: None})
    assert copied.invoke(CALLS, own)["messages"][0].content == "1"
    assert called == in_sync
    called.clear()
    assert (await copied.ainvoke(CALLS, own))["messages"][0].content == "1"
    assert called == in_async
    called.clear()
    node.invoke(CALLS, own)
    assert called == (["user's"] if outer else [])


# --- callbacks ------------------------------------------------------------------------------------------------------


def test_code_that_nobody_listens_to() -> None:
    own: Any = {"tags": ["t"], "callbacks": [BaseCallbackHandler()]}
    for is_sync, kind in ((True, CallbackManager), (False, AsyncCallbackManager)):
        given: Any = _compat.without_callbacks(own, sync=is_sync)
        assert type(given["callbacks"]) is kind
        assert given["callbacks"].handlers == []
        assert given["tags"] == ["t"]


def test_the_steps_of_a_sequence_are_numbered() -> None:
    manager = CallbackManager(handlers=[], tags=["seq:step:1", "mine"], inheritable_tags=["mine"])
    own: Any = {"callbacks": manager}
    assert _compat.step_config(own, 1) is own
    third: Any = _compat.step_config(own, 3)
    assert third["callbacks"].tags == ["mine", "seq:step:3"]
    assert third["callbacks"].inheritable_tags == ["mine"]
    assert manager.tags == ["seq:step:1", "mine"]
    assert _compat.step_config(config(), 3) == config()


def test_who_would_hear_of_a_call() -> None:
    heard = BaseCallbackHandler()
    for kind in (CallbackManager, AsyncCallbackManager):
        assert _compat.handlers_for({"callbacks": kind(handlers=[heard])}) == [heard]
    assert _compat.handlers_for({"callbacks": [heard]}) == [heard]
    assert _compat.handlers_for({}) == []


def test_markers_of_the_two_streaming_protocols() -> None:
    kinds = [BaseCallbackHandler]
    taps = {"tap_output_aiter": 0, "tap_output_iter": 0}
    first = type("First", (BaseCallbackHandler, _callbacks._StreamingCallbackHandler), taps)
    second = type("Second", (BaseCallbackHandler, _compat.StreamingV2), {})
    assert _compat.streaming_markers([k() for k in kinds]) == (False, False)
    assert _compat.streaming_markers([BaseCallbackHandler(), first()]) == (True, False)
    assert _compat.streaming_markers([BaseCallbackHandler(), second()]) == (False, True)
    assert _compat.streaming_markers([first(), second()]) == (True, True)
