"""What is known of nodes before they run, from plain stand-ins."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from langchain.agents.middleware import ModelRetryMiddleware, TodoListMiddleware
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool

from langgraph_speculative._nodes import (
    NodeInfo,
    RouterInfo,
    ToolInfo,
    _foreign_in_create_agent,
    _is_langchain_pure,
    _middleware_in,
    called_tools,
    closure_of,
    info_of,
    is_prebuilt,
    mark_useful,
    mcp_effect,
    successors_of,
    worst,
)
from langgraph_speculative.effects import Effect

PURE, READ, IRREVERSIBLE, UNDECLARED = Effect.PURE, Effect.READ, Effect.IRREVERSIBLE, Effect.UNDECLARED


# --- the middleware in a composed handler ---------------------------------------------------------------------------


class Wraps:
    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request)


class Other:
    def method(self) -> None:
        """Not a hook around a model call."""


def composed(outer: Any, inner: Any) -> Callable[[Any, Any], Any]:
    """As LangChain composes them: each handler in a closure of the next."""

    def handler(request: Any, execute: Any) -> Any:
        return outer(request, lambda r: inner(r, execute))

    return handler


def test_a_bound_hook_is_its_middlewares() -> None:
    a = Wraps()
    assert _middleware_in(a.wrap_model_call) == [a]
    assert _middleware_in(a.awrap_model_call) == [a]


def test_what_has_no_hook_is_not_middleware() -> None:
    assert _middleware_in(Other().method) == []
    assert _middleware_in(lambda request, execute: execute(request)) == []
    assert _middleware_in(None) == []
    assert _middleware_in(Wraps()) == []


def test_middleware_in_nested_closures() -> None:
    a, b, c = Wraps(), Wraps(), Wraps()
    handler = composed(a.wrap_model_call, composed(b.wrap_model_call, c.wrap_model_call))
    found = _middleware_in(handler)
    assert len(found) == 3
    assert set(map(id, found)) == {id(a), id(b), id(c)}


def test_middleware_behind_a_decorator() -> None:
    a, b = Wraps(), Wraps()

    @functools.wraps(a.wrap_model_call)
    def traced(*args: Any) -> Any:
        return None

    assert _middleware_in(traced) == [a]
    assert _middleware_in(SimpleNamespace(__wrapped__=composed(b.wrap_model_call, None))) == [b]


@pytest.mark.parametrize("kind", [list, tuple])
def test_middleware_in_a_sequence(kind: Callable[[Iterable[Any]], Any]) -> None:
    a, b = Wraps(), Wraps()
    hooks = kind([a.wrap_model_call, kind([b.wrap_model_call])])

    def handler(request: Any) -> Any:
        return hooks

    assert set(map(id, _middleware_in(handler))) == {id(a), id(b)}
    assert set(map(id, _middleware_in(hooks))) == {id(a), id(b)}


def test_middleware_in_a_cycle_is_found_once() -> None:
    a = Wraps()
    hook = a.wrap_model_call
    ring: list[Any] = [hook, hook]
    ring.append(ring)

    def handler(request: Any) -> Any:
        return handler, ring

    assert _middleware_in(handler) == [a]


def test_a_class_in_a_closure_is_not_looked_into() -> None:
    hook = Wraps().wrap_model_call

    class Holder:
        def __init__(self) -> None:
            self.hook = hook

    def handler(request: Any) -> Any:
        return Holder

    assert _middleware_in(handler) == []


def test_variables_of_a_closure() -> None:
    late: Any
    first, second = 1, [2]

    def function() -> Any:
        return first, second, late

    assert closure_of(function) == {"first": 1, "second": [2]}
    late = 3
    assert closure_of(function) == {"first": 1, "second": [2], "late": 3}
    assert closure_of(lambda: None) == {}
    assert closure_of(len) == {}
    assert closure_of(None) == {}


def test_only_listed_middleware_of_langchains_is_pure() -> None:
    class TodoListMiddlewareOfMine(TodoListMiddleware):
        """In a module of its own, it may do anything."""

    impostor = type("TodoListMiddleware", (), {"__module__": "somewhere.agents.middleware.todo"})()
    nearly = type("TodoListMiddleware", (), {"__module__": "langchain.agents.middleware_x"})()
    assert _is_langchain_pure(TodoListMiddleware())
    assert not _is_langchain_pure(ModelRetryMiddleware())
    assert not _is_langchain_pure(TodoListMiddlewareOfMine())
    assert not _is_langchain_pure(impostor)
    assert not _is_langchain_pure(nearly)
    assert not _is_langchain_pure(Wraps())


def model_node(handler: Any = None, ahandler: Any = None, tools: Any = ()) -> Any:
    """A model node of ``create_agent``, as far as it is looked into."""
    wrap_model_call_handler, awrap_model_call_handler, default_tools = handler, ahandler, tools

    def func() -> Any:
        return wrap_model_call_handler, default_tools

    def afunc() -> Any:
        return awrap_model_call_handler, default_tools

    return SimpleNamespace(func=func, afunc=afunc)


def test_a_model_node_with_nothing_foreign_in_it() -> None:
    class OwnOfLangChain(TodoListMiddleware):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            return handler(request)

    OwnOfLangChain.__module__ = "langchain.agents.middleware.todo"
    OwnOfLangChain.__name__ = "TodoListMiddleware"
    a, b = OwnOfLangChain(), OwnOfLangChain()
    chain = composed(a.wrap_model_call, b.wrap_model_call)
    assert _foreign_in_create_agent(model_node()) == ""
    assert _foreign_in_create_agent(model_node(tools=["a tool"])) == ""
    assert _foreign_in_create_agent(model_node(chain, chain)) == ""


def test_foreign_middleware_in_a_model_node() -> None:
    good = TodoListMiddleware()
    hooks = [good.wrap_model_call, good.wrap_model_call, Wraps().wrap_model_call]
    last = composed(hooks[0], composed(hooks[1], hooks[2]))
    first = composed(hooks[2], composed(hooks[0], hooks[1]))
    said = "wrap_model_call of Wraps runs inside"
    for foreign in (last, first, Wraps().wrap_model_call):
        assert _foreign_in_create_agent(model_node(foreign)) == said
        assert _foreign_in_create_agent(model_node(None, foreign)) == said
        assert _foreign_in_create_agent(model_node(good.wrap_model_call, foreign)) == said
    both = composed(Wraps().wrap_model_call, ModelRetryMiddleware().wrap_model_call)
    assert "Wraps" in _foreign_in_create_agent(model_node(both))
    assert ", " in _foreign_in_create_agent(model_node(both))


def test_a_handler_of_unknown_origin_is_foreign() -> None:
    said = "wrap_model_call of unknown middleware runs inside"
    assert _foreign_in_create_agent(model_node(lambda request, execute: execute(request))) == said
    assert _foreign_in_create_agent(model_node(None, Other().method)) == said


def test_tools_that_the_provider_executes_are_foreign() -> None:
    said = "the provider executes tools of its own"
    assert _foreign_in_create_agent(model_node(tools=["a tool", {"type": "web_search"}])) == said
    assert _foreign_in_create_agent(model_node(TodoListMiddleware().wrap_model_call, tools=[{}])) == said


@pytest.mark.parametrize(
    ("module", "prebuilt"),
    [
        ("langchain.agents.factory", True),
        ("langgraph.prebuilt.chat_agent_executor", True),
        ("langgraph.prebuilt_of_mine", False),
        ("langchain.agents.middleware.todo", False),
        ("mine.langgraph.prebuilt.", False),
        (None, False),
    ],
)
def test_prebuilt_code_is_known_by_its_module(module: str | None, prebuilt: bool) -> None:
    assert is_prebuilt(SimpleNamespace(__module__=module)) is prebuilt


# --- effects --------------------------------------------------------------------------------------------------------


def test_the_worst_effect() -> None:
    order = [PURE, READ, IRREVERSIBLE, UNDECLARED]
    for i, a in enumerate(order):
        for b in order[i:]:
            assert worst([a, b]) is b
            assert worst([b, a]) is b
    assert worst(iter(order)) is UNDECLARED
    assert worst([]) is PURE


def leaf(name: str, effect: Effect = PURE, to: Iterable[str] | None = (), guess: bool = False, **more: Any) -> NodeInfo:
    successors = None if to is None else frozenset(to)
    speculator = (lambda state: None) if guess else None
    return NodeInfo(name, effect, "", "", name=name, successors=successors, speculator=speculator, **more)


def tools_of(name: str, **effects: Effect) -> dict[str, ToolInfo]:
    return {t: ToolInfo(f"{name}.{t}", e, "", "", node=name, name=t) for t, e in effects.items()}


def tool_node(name: str, effects: dict[str, Effect], **more: Any) -> NodeInfo:
    return leaf(name, UNDECLARED, kind="tools", tools=tools_of(name, **effects), **more)


def graph_node(name: str, *inner: NodeInfo, **more: Any) -> NodeInfo:
    return leaf(name, UNDECLARED, kind="graph", inner=list(inner), **more)


def test_the_effect_of_an_execution() -> None:
    tools = tool_node("t", {"look": READ, "think": PURE, "buy": IRREVERSIBLE})
    assert leaf("n", READ).effect_of() is READ
    assert leaf("n", READ, tools=tools.tools).effect_of(["buy"]) is READ
    assert tools.effect_of() is PURE
    assert tools.effect_of(["think"]) is PURE
    assert tools.effect_of(["think", "look"]) is READ
    assert tools.effect_of(["buy", "look"]) is IRREVERSIBLE
    assert tools.effect_of(["think", "unheard of"]) is UNDECLARED


def test_the_effect_of_a_graph_is_the_worst_of_all_in_it() -> None:
    tools = tool_node("t", {"look": READ, "think": PURE})
    assert graph_node("g").effect_of() is PURE
    assert graph_node("g", leaf("a"), tools).effect_of() is READ
    assert graph_node("g", leaf("a", IRREVERSIBLE), tools).effect_of() is IRREVERSIBLE
    assert graph_node("g", leaf("a"), graph_node("h", tools)).effect_of(["unheard of"]) is READ


def test_the_row_of_a_node() -> None:
    row = NodeInfo("outer|inner", READ, "metadata", "because", name="inner").row()
    assert (row.name, row.kind, row.effect) == ("outer|inner", "node", READ)
    assert (row.source, row.reason) == ("metadata", "because")


def test_nothing_is_known_of_a_node_that_was_not_rewritten() -> None:
    known = leaf("a")
    nodes = {
        "a": SimpleNamespace(bound=SimpleNamespace(_speculative_info=known)),
        "b": SimpleNamespace(bound=SimpleNamespace()),
    }
    loop = SimpleNamespace(nodes=nodes)
    assert info_of(loop, "a") is known
    unknown = info_of(loop, "b")
    assert (unknown.name, unknown.label, unknown.effect) == ("b", "b", UNDECLARED)
    assert (unknown.source, unknown.kind, unknown.speculate, unknown.successors) == ("none", "leaf", False, None)
    assert unknown.step_bound is True
    assert unknown.sync_only is False


# --- the tools that an input calls ----------------------------------------------------------------------------------


def calls(*names: str) -> list[Any]:
    return [{"name": n, "args": {}, "id": f"c-{n}", "type": "tool_call"} for n in names]


SAYS = AIMessage("", tool_calls=calls("a", "b"))
OLDER = AIMessage("", tool_calls=calls("old"))


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ({"messages": [OLDER, SAYS]}, ["a", "b"]),
        ({"messages": [SAYS, HumanMessage("and")]}, ["a", "b"]),
        ({"messages": []}, []),
        ({}, []),
        ({"messages": [HumanMessage("hi"), AIMessage("ho")]}, []),
        ({"other": [SAYS]}, []),
        ([OLDER, SAYS], ["a", "b"]),
        ((SAYS, OLDER), ["old"]),
        ([], []),
        (calls("x", "y"), ["x", "y"]),
        ({"messages": calls("x")}, ["x"]),
        ([SAYS, {"type": "human", "content": "hi"}], ["a", "b"]),
        (SimpleNamespace(messages=[SAYS]), ["a", "b"]),
        (SimpleNamespace(other=[SAYS]), []),
        (None, []),
        ({"__type": "tool_call_with_context", "tool_call": calls("z")[0], "state": {"messages": [SAYS]}}, ["z"]),
        ({"__type": "another", "tool_call": calls("z")[0], "messages": [SAYS]}, ["a", "b"]),
    ],
)
def test_tools_called_by_an_input(value: Any, names: list[str]) -> None:
    assert called_tools(value) == names


def test_tools_called_by_messages_under_another_key() -> None:
    assert called_tools({"chat": [SAYS], "messages": [OLDER]}, "chat") == ["a", "b"]
    assert called_tools(SimpleNamespace(chat=[SAYS], messages=[OLDER]), "chat") == ["a", "b"]


# --- successors -----------------------------------------------------------------------------------------------------


def builder(**parts: Any) -> Any:
    return SimpleNamespace(**{"edges": set(), "waiting_edges": set(), "branches": {}, "nodes": {}, **parts})


def test_the_successors_of_a_node() -> None:
    assert successors_of(builder(), "a") == frozenset()
    edges = {("a", "b"), ("b", "c"), ("a", "d")}
    assert successors_of(builder(edges=edges), "a") == {"b", "d"}
    waiting = {(("x", "a"), "both"), (("x", "y"), "neither")}
    assert successors_of(builder(waiting_edges=waiting), "a") == {"both"}
    nodes = {"a": SimpleNamespace(ends=("e", "f")), "b": SimpleNamespace(ends=None), "c": SimpleNamespace()}
    assert successors_of(builder(nodes=nodes), "a") == {"e", "f"}
    assert successors_of(builder(nodes=nodes, edges=edges), "b") == {"c"}
    assert successors_of(builder(nodes=nodes), "c") == frozenset()
    nodes["a"].ends = {"e": "label"}
    assert successors_of(builder(nodes=nodes, edges=edges, waiting_edges=waiting), "a") == {"b", "d", "both", "e"}


def test_the_successors_by_routers() -> None:
    one = SimpleNamespace(ends={"yes": "b", "no": "c"})
    two = SimpleNamespace(ends={True: "d"})
    anywhere = SimpleNamespace(ends=None)
    branches = {"a": {"one": one, "two": two}, "z": {"anywhere": anywhere}, "m": {"one": one, "any": anywhere}}
    assert successors_of(builder(branches=branches), "a") == {"b", "c", "d"}
    assert successors_of(builder(branches=branches, edges={("a", "e")}), "a") == {"b", "c", "d", "e"}
    assert successors_of(builder(branches=branches), "z") is None
    assert successors_of(builder(branches=branches, edges={("m", "b")}), "m") is None
    assert successors_of(builder(branches=branches), "q") == frozenset()


# --- whether a guess is worth asking for ----------------------------------------------------------------------------


def useful(*nodes: NodeInfo, ends: bool = False) -> set[str]:
    """The nodes whose guesses are worth it."""
    mark_useful({n.name: n for n in nodes}, ends=ends)
    return {n.name for n in nodes if n.speculate}


@pytest.mark.parametrize(
    ("effect", "expected"), [(PURE, {"a"}), (READ, {"a"}), (IRREVERSIBLE, set()), (UNDECLARED, set())]
)
def test_a_guess_is_useful_if_the_next_node_may_run_early(effect: Effect, expected: set[str]) -> None:
    assert useful(leaf("a", to=["b"], guess=True), leaf("b", effect)) == expected


def test_no_guess_without_a_speculator_or_a_successor() -> None:
    assert useful(leaf("a", to=["b"]), leaf("b")) == set()
    assert useful(leaf("a", to=["b"]), leaf("b"), ends=True) == set()
    assert useful(leaf("a", guess=True), leaf("b")) == set()
    assert useful(leaf("a", to=["__end__"], guess=True)) == set()
    assert useful(leaf("a", to=["__end__"], guess=True), ends=True) == {"a"}


def test_what_means_nothing_to_speculation() -> None:
    guessed, pure, read, learning = (
        leaf("guessed", to=["pure"], guess=True),
        leaf("pure", to=["read"]),
        leaf("read", READ, to=["learning"]),
        leaf("learning", learns=True),
    )
    mark_useful({n.name: n for n in (guessed, pure, read, learning)}, ends=False)
    assert [n.name for n in (guessed, pure, read, learning) if n.is_bare] == ["pure"]


def test_an_earlier_answer_is_replaced() -> None:
    a = leaf("a", to=["b"], speculate=True)
    b = leaf("b", lends=True)
    assert useful(a, b) == set()
    assert b.lends is False


def test_a_node_that_may_go_anywhere() -> None:
    assert useful(leaf("a", to=None, guess=True), leaf("b")) == {"a"}
    assert useful(leaf("a", UNDECLARED, to=None, guess=True), leaf("b", IRREVERSIBLE)) == set()


def test_a_node_with_a_timeout_does_not_run_early() -> None:
    assert useful(leaf("a", to=["b"], guess=True), leaf("b", timed=True)) == set()


def test_behind_an_effect_only_what_is_pure_runs_early() -> None:
    for effect in (IRREVERSIBLE, UNDECLARED):
        assert useful(leaf("a", effect, to=["b"], guess=True), leaf("b", READ)) == set()
        assert useful(leaf("a", effect, to=["b"], guess=True), leaf("b", PURE)) == {"a"}
    for effect in (PURE, READ):
        assert useful(leaf("a", effect, to=["b"], guess=True), leaf("b", READ)) == {"a"}


def test_an_effect_taints_all_that_follows() -> None:
    def chain(last: Effect, middle: bool = True) -> set[str]:
        a = leaf("a", PURE, to=["b"], guess=True)
        b = leaf("b", IRREVERSIBLE, to=["c"], guess=middle)
        c = leaf("c", UNDECLARED, to=["d"], guess=middle)
        return useful(a, b, c, leaf("d", last))

    assert chain(PURE) == {"a", "b", "c"}
    assert chain(READ) == set()
    assert chain(PURE, middle=False) == set()
    a, b = leaf("a", IRREVERSIBLE, to=["b"], guess=True), leaf("b", PURE, to=["c"], guess=True)
    assert useful(a, b, leaf("c", READ)) == {"a", "b"}
    d = leaf("d", IRREVERSIBLE, to=["e"], guess=True)
    e = leaf("e", READ, to=["f"], guess=True)
    assert useful(d, e, leaf("f", READ)) == {"e"}, "behind d, neither e nor f may run"


@pytest.mark.parametrize(
    ("effects", "expected"), [((PURE, READ), {"a"}), ((PURE, UNDECLARED), set()), ((IRREVERSIBLE,), set()), ((), {"a"})]
)
def test_a_router_that_may_not_run_early_ends_the_branch(effects: tuple[Effect, ...], expected: set[str]) -> None:
    routers = [RouterInfo("r", e, "", "", "inline") for e in effects]
    assert useful(leaf("a", to=["b"], guess=True, routers=routers), leaf("b")) == expected


def test_a_router_further_on_ends_the_branch_there() -> None:
    stop = [RouterInfo("r", UNDECLARED, "", "", "inline")]
    b = leaf("b", IRREVERSIBLE, to=["c"], guess=True, routers=stop)
    assert useful(leaf("a", to=["b"], guess=True), b, leaf("c")) == set()
    assert useful(leaf("a", to=["b"], guess=True, routers=stop), b, leaf("c"), ends=True) == {"a", "b"}


def test_a_cycle_ends() -> None:
    a = leaf("a", IRREVERSIBLE, to=["b"], guess=True)
    b = leaf("b", IRREVERSIBLE, to=["a", "b"], guess=True)
    assert useful(a, b) == set()
    assert useful(a, b, leaf("c")) == set()
    b.successors = frozenset({"a", "b", "c"})
    assert useful(a, b, leaf("c")) == {"a", "b"}


def test_tools_that_may_run_early_make_a_guess_useful() -> None:
    model = leaf("a", to=["t"], guess=True)
    assert useful(model, tool_node("t", {"buy": IRREVERSIBLE, "look": READ})) == {"a"}
    assert useful(model, tool_node("t", {"buy": IRREVERSIBLE})) == set()
    assert useful(model, tool_node("t", {})) == set()
    model.effect = UNDECLARED
    assert useful(model, tool_node("t", {"look": READ})) == set()
    assert useful(model, tool_node("t", {"look": READ, "think": PURE})) == {"a"}


def test_a_tool_node_taints_only_if_none_of_its_tools_may_run_early() -> None:
    look = leaf("b", READ)
    assert useful(tool_node("t", {"buy": IRREVERSIBLE, "look": READ}, to=["b"], guess=True), look) == {"t"}
    assert useful(tool_node("t", {"buy": IRREVERSIBLE}, to=["b"], guess=True), look) == set()
    assert useful(tool_node("t", {}, to=["b"], guess=True), look) == set()


def test_a_graph_in_which_something_may_run_early_makes_a_guess_useful() -> None:
    model = leaf("a", to=["g"], guess=True)
    assert useful(model, graph_node("g", leaf("i", IRREVERSIBLE), leaf("j", READ))) == {"a"}
    assert useful(model, graph_node("g", graph_node("h", tool_node("t", {"look": READ})))) == {"a"}
    assert useful(model, graph_node("g", leaf("i", IRREVERSIBLE))) == set()
    assert useful(model, graph_node("g")) == set()
    model.effect = IRREVERSIBLE
    assert useful(model, graph_node("g", leaf("i", IRREVERSIBLE), leaf("j", READ))) == set()
    assert useful(model, graph_node("g", graph_node("h", leaf("j", PURE)))) == {"a"}


def test_a_graph_with_an_effect_taints() -> None:
    look = leaf("b", READ)
    assert useful(graph_node("g", leaf("i", READ), to=["b"], guess=True), look) == {"g"}
    assert useful(graph_node("g", leaf("i", READ), leaf("j", IRREVERSIBLE), to=["b"], guess=True), look) == set()


def test_a_graph_lends_if_anything_in_it_guesses() -> None:
    deep = graph_node("deep", leaf("i", guess=True), leaf("j"))
    useful(deep)
    assert deep.lends is True
    outer = graph_node("outer", leaf("x"), deep)
    useful(outer)
    assert outer.lends is True
    silent = graph_node("silent", leaf("x"))
    useful(silent)
    assert silent.lends is False


# --- hints of MCP servers -------------------------------------------------------------------------------------------


def mcp_tool(metadata: Any, name: str = "files_read") -> StructuredTool:
    def body(x: int = 0) -> str:
        """Do something."""
        return ""

    return StructuredTool.from_function(body, name=name, metadata=metadata)


def nested(hints: Any, server: Any = "files", key: str = "server") -> dict[str, Any]:
    return {"mcp": {"tool": {"annotations": hints}, key: server}}


READS, ACTS = {"readOnlyHint": True}, {"destructiveHint": True}
LAYOUTS = [lambda hints: hints, nested]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["flat", "nested"])
@pytest.mark.parametrize(
    ("hints", "effect"),
    [
        ({"readOnlyHint": True}, READ),
        ({"readOnlyHint": False}, UNDECLARED),
        ({"readOnlyHint": None, "destructiveHint": None}, UNDECLARED),
        ({"destructiveHint": True}, IRREVERSIBLE),
        ({"destructiveHint": False}, UNDECLARED),
        ({"readOnlyHint": True, "destructiveHint": False}, READ),
        ({"readOnlyHint": True, "destructiveHint": True}, IRREVERSIBLE),
        ({"readOnlyHint": False, "destructiveHint": True}, IRREVERSIBLE),
        ({"idempotentHint": True}, None),
        ({}, None),
    ],
)
def test_every_hint_of_a_trusted_server(layout: Any, hints: dict[str, Any], effect: Effect | None) -> None:
    found = mcp_effect(mcp_tool(layout(hints)), ["files"])
    assert (found and found[0]) is effect


def test_reasons_for_people() -> None:
    assert mcp_effect(mcp_tool(READS), ["files"]) == (READ, "readOnlyHint of trusted MCP server 'files'")
    assert mcp_effect(mcp_tool(nested(READS, "disk")), ["*"]) == (READ, "readOnlyHint of trusted MCP server 'disk'")
    assert mcp_effect(mcp_tool(nested(READS, "disk")), ["files"]) == (
        READ,
        "readOnlyHint of trusted MCP server 'files'",
    )
    assert mcp_effect(mcp_tool(nested(READS, "disk"), "x"), ["disk", "*"]) == (
        READ,
        "readOnlyHint of trusted MCP server 'disk'",
    )
    assert mcp_effect(mcp_tool(ACTS), ["*"]) == (IRREVERSIBLE, "destructiveHint")
    without = mcp_effect(mcp_tool({"readOnlyHint": False}), ["*"])
    assert without == (UNDECLARED, "MCP annotations without readOnlyHint")
    unnamed = mcp_effect(mcp_tool(READS), [])
    assert unnamed == (UNDECLARED, "MCP hints are there, but its server is not in trust_mcp")
    named = mcp_effect(mcp_tool(nested(READS)), [])
    assert named == (UNDECLARED, "MCP hints are there, but server 'files' is not in trust_mcp")


@pytest.mark.parametrize(
    ("name", "trusted", "effect"),
    [
        ("files_read", {"files"}, READ),
        ("files_read", {"other", "files"}, READ),
        ("files_read", {"file"}, UNDECLARED),
        ("filesread", {"files"}, UNDECLARED),
        ("read_files_now", {"files"}, UNDECLARED),
        ("read", {"*"}, READ),
        ("read", {"other"}, UNDECLARED),
        ("read", set(), UNDECLARED),
        ("read", {""}, UNDECLARED),
        ("_read", {""}, UNDECLARED),
    ],
)
def test_a_server_is_trusted_by_the_tools_prefix(name: str, trusted: set[str], effect: Effect) -> None:
    found = mcp_effect(mcp_tool(READS, name), iter(trusted))
    assert found is not None
    assert found[0] is effect


@pytest.mark.parametrize(
    ("key", "server", "trusted"),
    [
        ("server", "disk", True),
        ("server_name", "disk", True),
        ("server", {"name": "disk"}, True),
        ("server", {"title": "disk"}, False),
        ("server", {"name": "disks"}, False),
        ("server", "", False),
        ("host", "disk", False),
    ],
)
def test_a_server_is_trusted_by_its_name(key: str, server: Any, trusted: bool) -> None:
    found = mcp_effect(mcp_tool(nested(READS, server, key), "read"), ["disk"])
    assert found is not None
    assert found[0] is (READ if trusted else UNDECLARED)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"mcp": {}},
        {"mcp": {"tool": None}},
        {"mcp": {"tool": {}}},
        {"mcp": {"tool": {"annotations": None}}},
        {"mcp": {"tool": "a text"}},
        {"mcp": {"tool": {"readOnlyHint": True}}, "readOnlyHint": True},
    ],
)
def test_no_hints_say_nothing(metadata: Any) -> None:
    assert mcp_effect(mcp_tool(metadata), ["*"]) is None


def test_hints_beside_an_mcp_entry_of_another_kind_count() -> None:
    found = mcp_effect(mcp_tool({"mcp": "yes", "readOnlyHint": True}), ["*"])
    assert found is not None
    assert found[0] is READ
