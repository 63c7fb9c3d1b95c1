"""The shells around nodes and tool calls: who is asked to execute them. No graph runs here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.runnables import Runnable, RunnableGenerator, RunnableLambda, RunnableSequence

from langgraph_speculative._branch import Frame
from langgraph_speculative._compat import RunnableCallable
from langgraph_speculative._nodes import NodeInfo, ToolInfo
from langgraph_speculative._rewrite import _shelled, _Wrapped
from langgraph_speculative._tools import PooledTool, ToolWrapper, key_of
from langgraph_speculative._view import INSIDE, KEY, View
from langgraph_speculative.effects import Effect

LOOK = ToolInfo("tools.look", Effect.READ, "", "", name="look", node="tools")


class Asked:
    """Stands in for a session: notes what it is asked to execute."""

    def run_node(self, *args: Any) -> Any:
        return "run", *args

    async def arun_node(self, *args: Any) -> Any:
        return "arun", *args

    async def early_inner(self, *args: Any) -> Any:
        return "early", *args

    def run_tool(self, *args: Any) -> Any:
        return "run", *args

    async def arun_tool(self, *args: Any) -> Any:
        return "arun", *args

    async def early_tool(self, *args: Any) -> Any:
        return "early", *args


SESSION: Any = Asked()
FRAME = Frame(None, 1, parent=None)
IN_RUN, IN_BRANCH = View(SESSION), View(SESSION, FRAME)


def config(view: View | None) -> Any:
    return {"configurable": {} if view is None else {KEY: view}}


# --- tool calls -----------------------------------------------------------------------------------------------------


def request(name: str, view: View | None) -> Any:
    return SimpleNamespace(runtime=SimpleNamespace(config=config(view)), tool_call={"name": name})


def wrapper() -> ToolWrapper:
    return ToolWrapper(NodeInfo("tools", Effect.UNDECLARED, "", "", kind="tools", tools={"look": LOOK}))


def execute(asked: Any) -> Any:
    return "plain", asked


async def aexecute(asked: Any) -> Any:
    return "plain", asked


@pytest.mark.parametrize("view", [None, INSIDE, IN_RUN])
async def test_a_tool_call_of_the_run_is_the_sessions(view: Any) -> None:
    asked = request("look", view)
    expected: Any = ("run", LOOK, asked, execute) if view is IN_RUN else ("plain", asked)
    assert wrapper().wrap(asked, execute) == expected
    expected = ("arun", LOOK, asked, aexecute) if view is IN_RUN else ("plain", asked)
    assert await wrapper().awrap(asked, aexecute) == expected


async def test_a_tool_that_nobody_knows_is_an_undeclared_effect_of_the_run() -> None:
    asked = request("unknown", IN_RUN)
    for _, info, *rest in (wrapper().wrap(asked, execute), await wrapper().awrap(asked, aexecute)):
        assert (info.name, info.label, info.effect, info.tool) == ("unknown", "tools.unknown", Effect.UNDECLARED, None)
        assert rest[0] is asked
    for view in (None, INSIDE):
        asked = request("unknown", view)
        assert wrapper().wrap(asked, execute) == ("plain", asked)


async def test_a_tool_call_of_a_branch_is_early_though_nobody_knows_the_tool() -> None:
    known, unknown = request("look", IN_BRANCH), request("unknown", IN_BRANCH)
    assert await wrapper().awrap(known, aexecute) == ("early", IN_BRANCH, LOOK, known, aexecute)
    assert await wrapper().awrap(unknown, aexecute) == ("early", IN_BRANCH, None, unknown, aexecute)


async def test_outside_of_a_graph_a_tool_call_is_plain() -> None:
    asked = SimpleNamespace(runtime=SimpleNamespace(config={}), tool_call={"name": "look"})
    assert wrapper().wrap(asked, execute) == ("plain", asked)
    assert await wrapper().awrap(asked, aexecute) == ("plain", asked)


async def test_a_tool_that_blocks_is_called_in_the_pool() -> None:
    async def in_pool(function: Any, *args: Any) -> Any:
        return "pool", function(*args)

    tool = SimpleNamespace(invoke=lambda call, config: (call, config))
    assert await PooledTool(tool, in_pool).ainvoke("call", "config") == ("pool", ("call", "config"))


def test_the_key_of_a_call_is_what_the_tool_is_given() -> None:
    asked: Any = SimpleNamespace(tool_call={"args": {"x": 1}, "id": "c"}, state={"s": 1})
    assert key_of(LOOK, asked) == {"args": {"x": 1}}
    injected = ToolInfo("t", Effect.READ, "", "", injected=True)
    assert key_of(injected, asked) == {"args": {"x": 1}, "state": {"s": 1}}


# --- nodes ----------------------------------------------------------------------------------------------------------


class Node(Runnable[Any, Any]):
    name = "own"
    extra = "attribute"

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return "plain", input, config, kwargs

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        return "aplain", input, config, kwargs


INFO = NodeInfo("n", Effect.PURE, "", "", name="n")


def wrapped() -> Any:
    return _Wrapped(Node(), INFO)


def shelled() -> Any:
    shell: Any = object.__new__(_shelled(Node))
    shell._speculative_info = INFO
    return shell


@pytest.mark.parametrize("make", [wrapped, shelled])
async def test_a_node_of_the_run_is_the_sessions(make: Any) -> None:
    own, branch = config(IN_RUN), config(IN_BRANCH)
    assert make().invoke("x", own) == ("run", INFO, "x", own)
    assert await make().ainvoke("x", own) == ("arun", INFO, "x", own)
    assert await make().ainvoke("x", branch) == ("early", IN_BRANCH, INFO, "x", branch)


@pytest.mark.parametrize("make", [wrapped, shelled])
@pytest.mark.parametrize("view", [None, INSIDE])
async def test_elsewhere_a_node_is_plain(make: Any, view: Any) -> None:
    own = config(view)
    assert make().invoke("x", own) == ("plain", "x", own, {})
    assert await make().ainvoke("x", own) == ("aplain", "x", own, {})


@pytest.mark.parametrize("make", [wrapped, shelled])
@pytest.mark.parametrize("view", [IN_RUN, IN_BRANCH])
async def test_a_call_with_further_arguments_is_plain(make: Any, view: Any) -> None:
    own = config(view)
    assert make().invoke("x", own, y=1) == ("plain", "x", own, {"y": 1})
    assert await make().ainvoke("x", own, y=1) == ("aplain", "x", own, {"y": 1})


@pytest.mark.parametrize("make", [wrapped, shelled])
async def test_a_call_without_config_is_plain(make: Any) -> None:
    assert make().invoke("x") == ("plain", "x", None, {})
    assert await make().ainvoke("x") == ("aplain", "x", None, {})


def test_a_shell_is_of_the_nodes_own_class() -> None:
    kind: Any = _shelled(RunnableCallable)
    assert issubclass(kind, RunnableCallable)
    assert kind is _shelled(RunnableCallable)
    assert (kind.__name__, kind.__module__) == ("SpeculativeRunnableCallable", RunnableCallable.__module__)


def test_a_wrapped_node_looks_like_itself() -> None:
    shell = wrapped()
    assert (shell.name, shell.get_name(), shell.extra) == ("own", "own", "attribute")
    assert shell.get_name("suffix") == Node().get_name("suffix")
    assert shell.get_name(name="other") == "other"
    for name in ("__missing__", "missing"):
        with pytest.raises(AttributeError):
            getattr(shell, name)
    # As while it is copied: before it has its attributes.
    with pytest.raises(AttributeError, match="_actor"):
        _Wrapped.__new__(_Wrapped)._actor  # noqa: B018


async def test_a_sequence_runs_as_the_nodes_own_steps() -> None:
    seen: list[Any] = []

    class Step(Node):
        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
            seen.append((input, config["callbacks"].tags, kwargs))
            return input + 1

        async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
            return self.invoke(input, config, **kwargs)

    shell = _Wrapped(RunnableSequence(Step(), Step(), Step()), INFO)
    expected = [
        (1, ["seq:step:1", "own"], {"y": 1}),
        (2, ["own", "seq:step:2"], {}),
        (3, ["own", "seq:step:3"], {}),
    ]
    for manager in (CallbackManager, AsyncCallbackManager):
        own: Any = {"callbacks": manager([], tags=["seq:step:1", "own"])}
        seen.clear()
        if manager is CallbackManager:
            assert shell.run(1, own, y=1) == 4
        else:
            assert await shell.arun(1, own, y=1) == 4
        assert [(i, sorted(t), k) for i, t, k in seen] == [(i, sorted(t), k) for i, t, k in expected]


async def test_generators_keep_their_chunks() -> None:
    def generate(chunks: Any) -> Any:
        yield "a"
        yield "b"

    async def agenerate(chunks: Any) -> Any:
        yield "c"
        yield "d"

    shell = _Wrapped(RunnableGenerator(generate, agenerate), INFO)
    own = config(IN_RUN)
    assert list(shell.stream("x", own)) == ["a", "b"]
    assert [chunk async for chunk in shell.astream("x", own)] == ["c", "d"]
    assert list(_Wrapped(RunnableLambda(lambda x: [x]), INFO).stream("x")) == [["x"]]
