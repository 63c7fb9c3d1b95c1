"""What is found out of a graph's nodes, tools and routers before it runs, and the shells that they get."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import StructuredTool
from langgraph.graph import StateGraph
from langgraph.prebuilt import InjectedState, ToolNode, tools_condition
from langgraph.types import CachePolicy

from langgraph_speculative import Effect, SpeculationError, speculative
from langgraph_speculative._nodes import NodeInfo, RouterInfo, ToolInfo
from langgraph_speculative._rewrite import NOBODY, START, Declared, Rewritten, check_names, mildest_tool, rewrite
from langgraph_speculative.effects import Declaration, EffectRow


class State(TypedDict, total=False):
    x: int


def declared(own: Any = (), trust_mcp: Any = (), keys: Any = None, **effects: Any) -> Declared:
    if "default" in effects:
        effects["*"] = effects.pop("default")
    return Declared(effects, keys or {}, frozenset(trust_mcp), frozenset(own))


def build(*nodes: tuple[str, Any], **options: Any) -> StateGraph[Any, Any, Any, Any]:
    """A chain of nodes."""
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    before = "__start__"
    for name, function in nodes:
        builder.add_node(name, function, **options)
        builder.add_edge(before, name)
        before = name
    return builder


def plain(state: State) -> State:
    return {}


async def asynchronous(state: State) -> State:
    return {}


def sees_config(state: State, config: RunnableConfig) -> State:
    return {}


def info_of(function: Any, found: Declared | None = None, name: str = "a", **options: Any) -> NodeInfo:
    found = found or declared()
    return rewrite(build((name, function), **options).compile(), found).infos[name]


def what(info: Any) -> tuple[str, str, str]:
    return info.effect.value, info.source, info.reason


# --- what the user declared -----------------------------------------------------------------------------------------


def test_a_nested_node_goes_by_its_bare_name_too_unless_the_graph_has_one() -> None:
    found = declared(own=["a"])
    assert found.names("a", "a") == ("a", "a")
    assert found.names("g|a", "a") == ("g|a",)
    assert found.names("g|b", "b") == ("g|b", "b")


def test_the_first_name_that_is_declared_counts() -> None:
    found = Declared({"g|a": "pure", "a": "read"}, {"g|a": len, "b": sum}, frozenset())
    assert found.effect("g|a", "a") == (PURE, "effects=", "declared")
    assert found.effect("h|a", "a") == (READ, "effects=", "declared")
    assert found.effect("b") is None
    assert (found.key("g|a", "a"), found.key("g|b", "b"), found.key("c", "c")) == (len, sum, None)
    assert found.default("why") == (Declaration(effect=Effect.UNDECLARED), "none", "why")
    assert declared(default="read").default("why") == (READ, "effects=", 'declared for "*"')


# --- nodes ----------------------------------------------------------------------------------------------------------


PURE, READ = Declaration(effect=Effect.PURE), Declaration(effect=Effect.READ)
META = {"metadata": {"speculation": {"effect": "read"}}}


@pytest.mark.parametrize(
    ("options", "found", "expected"),
    [
        ({}, declared(), ("undeclared", "none", NOBODY)),
        ({}, declared(a="pure"), ("pure", "effects=", "declared")),
        ({}, declared(default="pure"), ("pure", "effects=", 'declared for "*"')),
        (META, declared(), ("read", "metadata", "declared")),
        (META, declared(a="pure"), ("pure", "effects=", "declared")),
        (META, declared(default="pure"), ("read", "metadata", "declared")),
        ({}, declared(a="undeclared"), ("undeclared", "effects=", "declared")),
        ({}, declared(a="undeclared", default="pure"), ("pure", "effects=", 'declared for "*"')),
    ],
)
def test_who_declares_a_nodes_effect(options: Any, found: Declared, expected: Any) -> None:
    assert what(info_of(plain, found, **options)) == expected


def test_what_is_known_of_a_node() -> None:
    compiled = build(("a", plain), ("b", asynchronous)).compile()
    found = rewrite(compiled, declared(), "outer|")
    a, b = found.infos["a"], found.infos["b"]
    assert (a.label, a.name, a.kind, a.successors) == ("outer|a", "a", "leaf", {"b"})
    assert (a.sync_only, b.sync_only, a.is_model, a.timed) == (True, False, False, False)
    assert (a.key_function, a.routers, a.speculator) == (None, [], None)
    assert set(found.nodes) == {"a", "b", START}
    assert found.nodes[START] is compiled.nodes[START]
    assert found.nodes["a"] is not compiled.nodes["a"]
    assert isinstance(found.nodes["a"].bound, type(compiled.nodes["a"].bound))
    assert found.nodes["a"].bound._speculative_info is a
    assert not hasattr(compiled.nodes["a"].bound, "_speculative_info")


@pytest.mark.parametrize(
    ("function", "effect", "bound"),
    [(plain, "pure", False), (plain, "read", True), (sees_config, "pure", True), (RunnableLambda(plain), "pure", True)],
)
def test_a_pure_node_that_sees_its_input_alone_is_bound_to_no_step(function: Any, effect: str, bound: bool) -> None:
    assert info_of(function, declared(a=effect)).step_bound is bound


def test_a_key_function_goes_before_that_of_a_cache_policy() -> None:
    cached = {"cache_policy": CachePolicy(key_func=len)}  # type: ignore[arg-type]
    assert info_of(plain, **cached).key_function is len
    assert info_of(plain, declared(keys={"a": sum}), **cached).key_function is sum


def test_the_code_of_a_node_is_run_as_it_is() -> None:
    info = info_of(lambda state: {"x": 1})
    assert info.invoke({}, {}) == {"x": 1}
    info = info_of(RunnableLambda(lambda state: {"x": 2}))
    assert info.invoke({}, {}) == {"x": 2}


# --- graphs inside --------------------------------------------------------------------------------------------------


def test_a_graph_inside_has_nodes_of_its_own() -> None:
    inner = build(("i", plain)).compile()
    inner.own_attribute = "kept"  # type: ignore[attr-defined]
    compiled = build(("g", inner)).compile()
    found = rewrite(compiled, declared(i="pure"))
    info = found.infos["g"]
    assert (info.kind, info.reason) == ("graph", "a graph: its own nodes count")
    assert [(i.label, i.name, what(i)) for i in info.inner] == [("g|i", "i", ("pure", "effects=", "declared"))]
    assert [i.label for i in found.all_infos()] == ["g", "g|i"]
    copied = found.nodes["g"].bound._actor
    assert copied is not inner
    assert copied.own_attribute == "kept"
    assert copied.nodes["i"].bound._speculative_info is info.inner[0]
    assert not hasattr(inner.nodes["i"].bound, "_speculative_info")


def test_a_speculative_graph_inside_keeps_what_is_known_of_it() -> None:
    inner = speculative(build(("i", plain), ("j", plain)).compile(), speculators={"i": len}, effects={"*": "pure"})
    found = rewrite(build(("g", inner)).compile(), declared())
    assert found.infos["g"].inner == list(inner._speculation.rewritten.infos.values())
    assert found.nodes["g"].bound._actor is inner


# --- tools ----------------------------------------------------------------------------------------------------------


def tool(name: str = "t", function: Any = None, **kwargs: Any) -> StructuredTool:
    def does() -> str:
        return "done"

    return StructuredTool.from_function(function or does, name=name, description="Does.", **kwargs)


def tool_of(made: StructuredTool, found: Declared | None = None, node: Any = None, **options: Any) -> ToolInfo:
    return info_of(node or ToolNode([made]), found, "tools", **options).tools[made.name]


TOOL_META = {"speculation": {"effect": "read"}}
HINTS = {"readOnlyHint": True}
UNTRUSTED = "MCP hints are there, but its server is not in trust_mcp"


@pytest.mark.parametrize(
    ("metadata", "options", "found", "expected"),
    [
        (None, {}, declared(), ("undeclared", "none", NOBODY)),
        (None, {}, declared(t="pure", tools="read"), ("pure", "effects=", "declared")),
        (None, {}, declared(tools="read", default="pure"), ("read", "effects=", "declared")),
        (None, {}, declared(default="pure"), ("pure", "effects=", 'declared for "*"')),
        (None, META, declared(), ("read", "metadata", "declared")),
        (None, META, declared(tools="pure"), ("pure", "effects=", "declared")),
        (TOOL_META, {}, declared(), ("read", "metadata", "declared")),
        (TOOL_META, {}, declared(tools="pure"), ("read", "metadata", "declared")),
        (TOOL_META, {}, declared(t="pure"), ("pure", "effects=", "declared")),
        ({"speculation": "read"}, {}, declared(), ("undeclared", "none", NOBODY)),
        ({"speculation": {}}, {}, declared(), ("undeclared", "none", NOBODY)),
        (None, {}, declared(t="undeclared", tools="read"), ("read", "effects=", "declared")),
        (HINTS, {}, declared(trust_mcp="*"), ("read", "mcp", "readOnlyHint, all are trusted")),
        (HINTS, {}, declared(trust_mcp="*", t="pure"), ("pure", "effects=", "declared")),
        # What a server describes may be the server's own word all over.
        (HINTS | TOOL_META, {}, declared(trust_mcp="*"), ("read", "mcp", "readOnlyHint, all are trusted")),
        (HINTS | TOOL_META, {}, declared(), ("undeclared", "none", UNTRUSTED)),
        (HINTS, {}, declared(), ("undeclared", "none", UNTRUSTED)),
        (HINTS, {}, declared(tools="pure"), ("pure", "effects=", "declared")),
    ],
)
def test_who_declares_a_tools_effect(metadata: Any, options: Any, found: Declared, expected: Any) -> None:
    assert what(tool_of(tool(metadata=metadata), found, **options)) == expected


def test_what_is_known_of_a_tool() -> None:
    async def waits() -> str:
        return "done"

    def sees(state: Annotated[dict[str, Any], InjectedState]) -> str:
        return "done"

    made = tool()
    info = tool_of(made)
    assert (info.label, info.name, info.node, info.tool) == ("tools.t", "t", "tools", made)
    assert (info.injected, info.step_bound, info.sync_only) == (False, False, True)
    info = tool_of(tool(function=sees))
    assert (info.injected, info.step_bound) == (True, True)
    info = tool_of(StructuredTool.from_function(coroutine=waits, name="t", description="Waits."))
    assert info.sync_only is False


def both(request: Any, execute: Any) -> Any:
    return execute(request)


async def aboth(request: Any, execute: Any) -> Any:
    return await execute(request)


FOREIGN = "a wrap_tool_call of yours runs around it; declare the node 'tools' to vouch for that"
SYNC = "the wrap_tool_call of 'tools' has no asynchronous form, and branches run on a loop: add one"


@pytest.mark.parametrize(
    ("wrappers", "found", "expected"),
    [
        ({}, declared(t="pure"), ("pure", "effects=", "declared")),
        ({"awrap_tool_call": aboth}, declared(t="pure"), ("undeclared", "none", FOREIGN)),
        ({"awrap_tool_call": aboth}, declared(t="irreversible"), ("irreversible", "effects=", "declared")),
        ({"awrap_tool_call": aboth}, declared(tools="pure"), ("pure", "effects=", "declared")),
        ({"wrap_tool_call": both, "awrap_tool_call": aboth}, declared(tools="pure"), ("pure", "effects=", "declared")),
        ({"wrap_tool_call": both}, declared(tools="pure"), ("undeclared", "none", SYNC)),
        ({"wrap_tool_call": both}, declared(tools="irreversible"), ("irreversible", "effects=", "declared")),
    ],
)
def test_code_around_the_calls_is_vouched_for_by_the_node(wrappers: Any, found: Declared, expected: Any) -> None:
    assert what(tool_of(tool(), found, ToolNode([tool()], **wrappers))) == expected


def test_a_tool_nodes_shell_is_a_tool_node_of_its_own() -> None:
    original = ToolNode([tool("one"), tool("two")])
    found = rewrite(build(("tools", original)).compile(), declared(one="pure"))
    info, shell = found.infos["tools"], found.nodes["tools"].bound
    assert (info.kind, info.reason, list(info.tools)) == ("tools", "a tool node: its tools count", ["one", "two"])
    assert isinstance(shell, ToolNode)
    assert shell is not original
    assert shell._speculative_info is info  # type: ignore[attr-defined]
    assert shell.func.__self__ is shell.afunc.__self__ is shell  # type: ignore[union-attr]
    assert found.table().rows == (
        EffectRow("one", "tool", Effect.PURE, "effects=", "declared"),
        EffectRow("two", "tool", Effect.UNDECLARED, "none", NOBODY),
    )


# --- routers --------------------------------------------------------------------------------------------------------


def to_end(state: State) -> str:
    return "__end__"


async def to_the_end(state: State) -> str:
    return "__end__"


def router(path: Any, found: Declared, function: Any = plain) -> RouterInfo:
    builder = build(("a", function))
    builder.add_conditional_edges("a", path, ["__end__"])
    (only,) = rewrite(builder.compile(), found).infos["a"].routers
    return only


def test_a_router_is_as_its_node_unless_it_is_declared() -> None:
    inherited = "inherited", "as its node 'a'"
    assert router(to_end, declared(a="read")) == RouterInfo("to_end", Effect.READ, *inherited, "thread")
    assert router(to_the_end, declared()) == RouterInfo("to_the_end", Effect.UNDECLARED, *inherited, "await")
    found = router(to_end, declared(a="read", to_end="pure"))
    assert found == RouterInfo("to_end", Effect.PURE, "effects=", "declared", "thread")
    assert router(RunnableLambda(to_end, name="named"), declared()).name == "named"


def test_a_router_behind_tools_is_as_the_mildest_of_them() -> None:
    node = ToolNode([tool("one"), tool("two")])
    assert router(to_end, declared(one="irreversible", two="read"), node).effect is Effect.READ


def test_a_prebuilt_router_is_pure_and_quick() -> None:
    found = router(tools_condition, declared())
    assert (found.effect, found.source, found.how) == (Effect.PURE, "recognised", "inline")
    assert found.reason == "router of a prebuilt agent"


def test_the_mildest_tool() -> None:
    def node(*effects: Effect) -> NodeInfo:
        tools = {str(i): ToolInfo(str(i), e, "", "") for i, e in enumerate(effects)}
        return NodeInfo("n", Effect.UNDECLARED, "", "", tools=tools)

    assert mildest_tool(node(Effect.UNDECLARED, Effect.PURE, Effect.READ)) is Effect.PURE
    assert mildest_tool(node(Effect.UNDECLARED, Effect.IRREVERSIBLE)) is Effect.IRREVERSIBLE
    assert mildest_tool(node()) is Effect.UNDECLARED


# --- the table, and names -------------------------------------------------------------------------------------------


def known() -> Rewritten:
    def node(label: str, *inner: NodeInfo, **kwargs: Any) -> NodeInfo:
        return NodeInfo(label, Effect.PURE, "s", "r", name=label.split("|")[-1], inner=list(inner), **kwargs)

    route = RouterInfo("route", Effect.READ, "s", "r", "thread")
    tools = {"t": ToolInfo("tools.t", Effect.READ, "s", "r", name="t")}
    infos = [
        node("a", routers=[route]),
        node("b", routers=[route]),
        node("g", node("g|x"), node("g|a"), kind="graph"),
        node("h", node("h|x"), kind="graph"),
        node("tools", kind="tools", tools=tools),
    ]
    return Rewritten({}, {i.name: i for i in infos})


def test_each_row_is_there_once() -> None:
    assert [(r.name, r.kind) for r in known().table().rows] == [
        ("a", "node"),
        ("route", "router"),
        ("b", "node"),
        ("g|x", "node"),
        ("g|a", "node"),
        ("h|x", "node"),
        ("t", "tool"),
    ]


def test_names_that_the_graph_has_are_taken() -> None:
    names = ["a", "b", "g", "g|x", "g|a", "h|x", "tools"]
    check_names(
        known(),
        Declared(dict.fromkeys([*names, "t", "route", "*"], "pure"), dict.fromkeys(names, len), frozenset()),
        dict.fromkeys(names, len),
    )


@pytest.mark.parametrize(
    ("argument", "name", "message"),
    [
        ("effects", "y", r"effects['y']: the graph has no node, tool or router of that name; it has 'a', 'b', 'g', "),
        ("keys", "t", r"keys['t']: the graph has no node of that name; it has 'a', 'b', 'g', 'g|a', 'g|x', 'h', "),
        ("keys", "*", r"keys['*']: the graph has no node of that name"),
        ("speculators", "route", r"speculators['route']: the graph has no node of that name"),
        ("keys", "x", r"keys['x'] is ambiguous: it may be 'g|x', 'h|x'; use the full path."),
        ("effects", "x", r"effects['x'] is ambiguous: it may be 'g|x', 'h|x'; use the full path."),
    ],
)
def test_names_that_it_does_not_have_are_refused(argument: str, name: str, message: str) -> None:
    given: dict[str, Any] = {"effects": {}, "keys": {}, "speculators": {}, argument: {name: "pure"}}
    with pytest.raises(SpeculationError) as caught:
        check_names(known(), Declared(given["effects"], given["keys"], frozenset()), given["speculators"])
    assert str(caught.value).startswith(message)
    assert "'*'" not in str(caught.value).removeprefix(message)
