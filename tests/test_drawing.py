"""The plain picture, and the one with shadows and verification edges."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, StateGraph

from langgraph_speculative import SpeculativeGraph, speculative
from tests.support import chain


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


def node(name: str) -> Any:
    def body(state: State) -> Any:
        return {"log": [name]}

    body.__name__ = name
    return body


def build() -> Any:
    builder = chain(State, node("think"), node("act"))
    builder.add_conditional_edges("act", lambda s: "think" if len(s["log"]) < 4 else END, ["think", END])
    return builder.compile()


def wrap(graph: Any) -> SpeculativeGraph:
    return speculative(
        graph,
        speculators={"think": lambda s: None, "act": lambda s: None},
        effects={"*": "pure"},
    )


def test_the_plain_picture_is_the_plain_graphs() -> None:
    graph = build()
    fast = wrap(graph)
    assert fast.get_graph().draw_mermaid() == graph.get_graph().draw_mermaid()
    assert fast.get_graph().to_json() == graph.get_graph().to_json()


async def test_asynchronously() -> None:
    graph = build()
    fast = wrap(graph)
    assert (await fast.aget_graph()).draw_mermaid() == graph.get_graph().draw_mermaid()
    drawn = await fast.aget_graph(speculation=True)
    assert drawn.draw_mermaid() == fast.get_graph(speculation=True).draw_mermaid()


def test_shadows_and_verification_edges() -> None:
    graph = build()
    drawn = wrap(graph).get_graph(speculation=True)
    plain = graph.get_graph()
    assert set(drawn.nodes) - set(plain.nodes) == {"speculate_think", "speculate_act"}
    assert set(plain.nodes) <= set(drawn.nodes)
    for name in ("think", "act"):
        (verify,) = [e for e in drawn.edges if e.data == "verify" and e.target == name]
        assert verify.source == f"speculate_{name}"
    for edge in plain.edges:
        assert (edge.source, edge.target) in {(e.source, e.target) for e in drawn.edges}


def test_only_nodes_with_a_speculator_have_a_shadow() -> None:
    fast = speculative(build(), speculators={"think": lambda s: None}, effects={"*": "pure"})
    assert "speculate_act" not in fast.get_graph(speculation=True).nodes
    assert "speculate_think" in fast.get_graph(speculation=True).nodes


def test_mermaid() -> None:
    text = wrap(build()).get_graph(speculation=True).draw_mermaid()
    assert text.count("verify") == 2
    for name in ("think", "act"):
        assert any("speculate" in line and name in line and "verify" in line for line in text.splitlines())


def test_subgraphs_are_seen_through() -> None:
    builder = StateGraph(State)
    builder.add_node("think", node("think"))
    builder.add_node("sub", build())
    builder.add_edge("__start__", "think")
    builder.add_edge("think", "sub")
    graph = builder.compile()
    fast = speculative(graph, speculators={"sub|think": lambda s: None}, effects={"*": "pure"})
    assert fast.get_graph(xray=True).draw_mermaid() == graph.get_graph(xray=True).draw_mermaid()
    assert [n for n, _ in fast.get_subgraphs(recurse=True)] == [n for n, _ in graph.get_subgraphs(recurse=True)]
    inside = fast.get_graph(xray=True, speculation=True)
    assert any("speculate" in n and "think" in n for n in inside.nodes)
