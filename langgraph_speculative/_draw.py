"""The picture of the transformed graph: shadows and verification edges."""

from __future__ import annotations

from collections.abc import Iterable

from langchain_core.runnables.graph import Graph, Node

from langgraph_speculative._nodes import NodeInfo


def with_shadows(graph: Graph, infos: Iterable[NodeInfo]) -> Graph:
    """Add to a drawn graph a shadow for each node that has a Speculator, also in the graphs that are drawn open.

    The shadow gets the node's input ("guess"), leads to what the node leads to ("pre-execute"), and is checked against
    the node's own output ("verify").
    """
    plain = list(graph.edges)
    for info in infos:
        # A drawn nested node is called by its path with colons, by which mermaid puts it into its graph's box.
        path = info.label.replace("|", ":")
        guesser = info.speculator or (info.stream if info.called else None)
        if guesser is None or path not in graph.nodes:
            continue
        actor = graph.nodes[path]
        outer, _, name = path.rpartition(":")
        own = f"{outer}:speculate_{name}" if outer else f"speculate_{name}"
        by = getattr(guesser, "__name__", type(guesser).__name__)
        shadow = graph.nodes[own] = Node(own, own, None, {"by": by})
        for source in dict.fromkeys(e.source for e in plain if e.target == actor.id):
            graph.add_edge(graph.nodes[source], shadow, data="guess", conditional=True)
        for target in dict.fromkeys(e.target for e in plain if e.source == actor.id):
            graph.add_edge(shadow, graph.nodes[target], data="pre-execute", conditional=True)
        graph.add_edge(shadow, actor, data="verify", conditional=True)
    return graph
