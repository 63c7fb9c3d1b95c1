"""Who guesses for which node, what is refused, and what a warning says where nothing may come of it."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.func import entrypoint
from langgraph.graph import StateGraph
from langgraph.prebuilt import ToolNode

from langgraph_speculative import SpeculationError
from langgraph_speculative._nodes import NodeInfo, ToolInfo
from langgraph_speculative._rewrite import NOBODY, Rewritten
from langgraph_speculative._wiring import assign, check_graph, why_inactive
from langgraph_speculative.effects import Effect
from langgraph_speculative.speculators._draft import Draft


def node(label: str, effect: Effect = Effect.UNDECLARED, *, to: Any = (), reason: str = NOBODY, **kwargs: Any) -> Any:
    successors = None if to is None else frozenset(to)
    name = label.split("|")[-1]
    return NodeInfo(label, effect, "none", reason, name=name, successors=successors, **kwargs)


def graph(label: str, *inner: NodeInfo, **kwargs: Any) -> Any:
    return node(label, kind="graph", inner=list(inner), **kwargs)


def rewritten(*infos: NodeInfo) -> Rewritten:
    return Rewritten({}, {i.name: i for i in infos})


def guess(value: Any) -> Any:
    return None


# --- what is refused ------------------------------------------------------------------------------------------------


def test_a_compiled_graph_is_taken() -> None:
    builder = StateGraph(dict)
    builder.add_node("a", lambda s: s)
    builder.add_edge("__start__", "a")
    check_graph(builder.compile())
    with pytest.raises(SpeculationError, match=r"^a StateGraph is not compiled yet: pass graph\.compile"):
        check_graph(builder)
    with pytest.raises(SpeculationError, match="speculative already"):
        check_graph(SimpleNamespace(_speculation=None))
    with pytest.raises(SpeculationError, match=r"^expected a compiled graph .* got 'int'"):
        check_graph(3)


def test_a_functional_workflow_is_refused_by_its_name() -> None:
    @entrypoint()
    def flow(value: int) -> int:
        return value

    flow.name = "flow"
    with pytest.raises(SpeculationError, match=r"^'flow' is an @entrypoint"):
        check_graph(flow)


# --- speculators ----------------------------------------------------------------------------------------------------


def test_a_speculator_is_given_to_the_node_of_its_name() -> None:
    own, nested, deep = node("a"), node("g|a"), node("g|h|b")
    found = rewritten(graph("g", nested, graph("g|h", deep)), own)
    assign(found, {"a": guess}, None)
    assert [i.speculator for i in (own, nested, deep)] == [guess, None, None]
    assign(found, {"g|a": print, "b": sum}, None)
    assert [i.speculator for i in (own, nested, deep)] == [guess, print, sum]
    inside = found.infos["g"]
    assert inside.speculator is None
    assign(found, {"g": guess}, None)
    assert inside.speculator is guess


# --- drafts ---------------------------------------------------------------------------------------------------------


def compiled(**bounds: Any) -> Any:
    """A compiled graph with these nodes."""
    builder: Any = StateGraph(dict)
    for name, bound in bounds.items():
        builder.add_node(name, bound)
    builder.add_edge("__start__", next(iter(bounds)))
    return builder.compile()


def inner() -> Any:
    return compiled(x=lambda s: s)


def test_a_draft_guesses_for_models_and_for_what_is_pure() -> None:
    pure, model, acts, reads = (
        node("pure", Effect.PURE),
        node("model", is_model=True),
        node("acts", Effect.IRREVERSIBLE),
        node("reads", Effect.READ),
    )
    nested = graph("nested", node("nested|x"))
    tools = node("tools", kind="tools")
    has_tools = node("has_tools", Effect.PURE)
    has_graph = node("has_graph", Effect.PURE)
    own = node("own", Effect.PURE, speculator=guess)
    absent = node("absent", Effect.PURE)
    drafted = {"pure", "model", "acts", "reads", "nested", "tools", "own"}
    functions: Any = {n: RunnableLambda(lambda s: s) for n in sorted(drafted)}
    draft = compiled(**functions, has_tools=ToolNode([]), has_graph=inner())
    infos = (pure, model, acts, reads, nested, tools, has_tools, has_graph, own, absent)
    assign(rewritten(*infos), {}, draft)
    assert {i.name for i in infos if isinstance(i.speculator, Draft)} == {"pure", "model"}
    assert pure.speculator._drafts == [draft.nodes["pure"].bound]
    assert own.speculator is guess


def test_a_draft_behind_speculators_may_have_nothing_left_to_guess() -> None:
    a = node("a", Effect.PURE)
    assign(rewritten(a), {"a": guess}, compiled(a=lambda s: s))
    assert a.speculator is guess


def test_a_draft_for_no_node_is_refused() -> None:
    infos = node("a"), node("b", Effect.READ), graph("g", node("g|x", Effect.PURE)), node("t", kind="tools")
    with pytest.raises(SpeculationError, match=r"^the draft can guess for no node: none of 'a', 'g' is a model") as e:
        assign(rewritten(*infos), {}, compiled(a=lambda s: s, g=lambda s: s))
    assert "If 'a', 'b' calls a model, declare it" in str(e.value)


def test_a_draft_with_nodes_of_its_own_is_refused() -> None:
    text = "the draft has nodes 'b', 'c' that the graph does not have (it has 'a', 'z')"
    with pytest.raises(SpeculationError, match=re.escape(text)):
        assign(rewritten(node("a", Effect.PURE), node("z")), {}, compiled(a=lambda s: s, c=lambda s: s, b=lambda s: s))


def test_a_draft_that_is_no_graph_is_refused() -> None:
    with pytest.raises(SpeculationError, match=r"^draft is 'int': pass a compiled graph"):
        assign(rewritten(node("a")), {}, 3)


# --- whether a guess could gain anything ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "useful"),
    [(["b"], True), (None, True), (["elsewhere"], False), (["elsewhere", "b"], True), ([], False)],
)
def test_the_last_node_of_a_nested_graph_leads_to_what_follows_that(to: Any, useful: bool) -> None:
    last = node("g|last", speculator=guess)
    first = node("g|first", speculator=guess, to=["last"])
    assign(rewritten(graph("g", first, last, to=to), node("b", Effect.PURE)), {}, None)
    assert last.speculate is useful
    assert first.speculate is useful


def test_and_so_does_that_of_a_graph_inside_it() -> None:
    def deep(to: Any, outer_to: Any) -> bool:
        last = node("g|h|last", speculator=guess)
        outer = graph("g", graph("g|h", last, to=to), node("g|x"), to=outer_to)
        assign(rewritten(outer, node("b", Effect.PURE)), {}, None)
        return bool(last.speculate)

    assert deep([], ["b"])
    assert deep(["x"], [])
    assert not deep([], [])


def test_the_last_node_of_the_graph_leads_nowhere() -> None:
    last = node("last", speculator=guess)
    assign(rewritten(last, node("b", Effect.PURE)), {}, None)
    assert not last.speculate


# --- warnings -------------------------------------------------------------------------------------------------------


def test_without_a_speculator_the_warning_says_so() -> None:
    assert why_inactive(rewritten(node("a"))) == (
        "speculation is inactive: no node has a Speculator; pass draft= or speculators=."
    )


def test_the_warning_names_what_is_undeclared_and_why() -> None:
    tool = ToolInfo("t.x", Effect.UNDECLARED, "none", "it is special", name="x", node="t")
    tools = node("t", kind="tools", tools={"x": tool})
    assert why_inactive(rewritten(node("b"), node("a", speculator=guess), tools)) == (
        "speculation is inactive: nothing that a guess could reach may run early, so no Speculator will be called."
        " Undeclared: 'a', 'b', 'x'. 'x': it is special. Declare what they do:\n"
        "effects={\n"
        '    "b": "irreversible",  # or "pure" / "read", if that is true\n'
        '    "a": "irreversible",  # or "pure" / "read", if that is true\n'
        '    "x": "irreversible",  # or "pure" / "read", if that is true\n'
        "}"
    )


def test_where_all_is_declared_there_is_nothing_to_paste() -> None:
    nested = graph("g", node("g|a", Effect.IRREVERSIBLE, speculator=guess))
    assert why_inactive(rewritten(nested)) == (
        "speculation is inactive: nothing that a guess could reach may run early, so no Speculator will be called."
    )
