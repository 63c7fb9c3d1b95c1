"""Which node gets which Speculator, what is refused, and why nothing may come of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph_speculative import _compat, _nodes, _rewrite
from langgraph_speculative._compat import CompiledStateGraph
from langgraph_speculative._rewrite import NOBODY, Rewritten
from langgraph_speculative.effects import Effect, skeleton_of
from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.speculators._draft import Draft, refusal
from langgraph_speculative.speculators._protocol import BaseSpeculator, Speculator, known_names
from langgraph_speculative.speculators._stream import NamedStream, Stream


def check_graph(graph: Any) -> None:
    if hasattr(graph, "_speculation"):
        raise SpeculationError("the graph is speculative already: wrap the original with all options at once.")
    if isinstance(graph, CompiledStateGraph):
        return
    if isinstance(graph, _compat.Pregel):
        raise SpeculationError(
            f"{graph.name!r} is an @entrypoint (functional API) or hand-built Pregel graph, which has no nodes to "
            "speculate on: write the workflow as a StateGraph and compile it."
        )
    if hasattr(graph, "compile"):
        raise SpeculationError(f"a {type(graph).__name__} is not compiled yet: pass graph.compile(...).")
    raise SpeculationError(
        f"expected a compiled graph (StateGraph(...).compile(), create_agent(...)), got {type(graph).__name__!r}."
    )


def assign(
    rewritten: Rewritten, speculators: Mapping[str, Speculator] | None, draft: Any, *, between_turns: bool = False
) -> None:
    """Give each node its Speculator, and find out which of them could gain anything.

    Model nodes of prebuilt agents get `Stream` beside it, unless `speculators` is empty.
    """
    infos = list(rewritten.all_infos())
    for name, speculator in (speculators or {}).items():
        if name == _rewrite.START:
            if not between_turns:
                raise SpeculationError(
                    f"speculators[{name!r}] guesses what a person says next, while the graph waits for it: "
                    "say for how long, with Policy(between_turns=BetweenTurns(seconds=30))."
                )
            _give(rewritten.start, speculator)
            continue
        own = rewritten.infos.get(name)
        # A name that may be several nodes has been refused.
        info = own or next(i for i in infos if name in (i.label, i.name))
        _give(info, speculator)
        if info.stream is not None and not _tool_nodes_behind(rewritten, info):
            raise SpeculationError(
                f"speculators[{name!r}]: Stream() starts the calls of the tool node behind {name!r}, and no tool node "
                "follows it: let it lead to a ToolNode, or give the node another Speculator."
            )
    if speculators is None or speculators:
        for info in infos:
            if info.is_model and info.stream is None and "messages" in info.channels:
                info.stream = NamedStream(info.agent) if info.agent else Stream()
    if draft is not None:
        _assign_draft(rewritten, draft)
    _mark_useful(rewritten.infos, ends=False)
    # An answer may lead anywhere, so it is worth asking for if anything in the graph may run early between turns.
    leaves: list[_nodes.LeafInfo] = [leaf for info in infos for leaf in (info, *info.tools.values())]
    useful = any(leaf.effect in (Effect.PURE, Effect.READ) for leaf in leaves)
    rewritten.start.speculate = rewritten.start.speculator is not None and useful


def _give(info: _nodes.NodeInfo, speculator: Speculator) -> None:
    if isinstance(speculator, Stream):
        info.stream = speculator.bind(info)
        return
    if isinstance(speculator, BaseSpeculator):
        speculator = speculator.bind(info)
        info.learns = type(speculator).learn is not BaseSpeculator.learn
    info.speculator = speculator


def _tool_nodes_behind(rewritten: Rewritten, info: _nodes.NodeInfo) -> bool:
    graph = next((g.inner for g in rewritten.all_infos() if info in g.inner), rewritten.infos.values())
    return any(n.kind == "tools" for n in graph if info.successors is None or n.name in info.successors)


def _mark_useful(infos: Mapping[str, _nodes.NodeInfo], *, ends: bool) -> None:
    """Mark the nodes of a graph, those of the graphs in it before."""
    for info in infos.values():
        if info.inner:
            behind = ends or info.successors is None or any(s in infos for s in info.successors)
            _mark_useful({i.name: i for i in info.inner}, ends=behind)
    _nodes.mark_useful(infos, ends=ends)


def _assign_draft(rewritten: Rewritten, draft: Any) -> None:
    drafts = list(draft) if isinstance(draft, list | tuple) else [draft]
    found: dict[str, list[Any]] = {}
    for one in drafts:
        if not isinstance(one, CompiledStateGraph):
            raise SpeculationError(
                f"draft is {type(one).__name__!r}: pass a compiled graph with the same node names on faster models, "
                "or several."
            )
        names = {n for n in one.nodes if n != _rewrite.START}
        if unknown := names - set(rewritten.infos):
            raise SpeculationError(
                f"the draft has nodes {known_names(unknown)} that the graph does not have "
                f"(it has {known_names(rewritten.infos)}): build it with the same node names."
            )
        for name in names:
            found.setdefault(name, [])
            if not refusal(rewritten.infos[name], one.nodes[name].bound):
                found[name].append(one.nodes[name].bound)
    usable = 0
    for name, nodes in found.items():
        if nodes:
            usable += 1
            if rewritten.infos[name].speculator is None:
                _give(rewritten.infos[name], Draft(nodes))
    if not usable:
        models = known_names(n for n, i in rewritten.infos.items() if i.kind == "leaf")
        raise SpeculationError(
            f"the draft can guess for no node: none of {known_names(found)} is a model node of a prebuilt agent or "
            f'declared pure. If {models} calls a model, declare it: effects={{"...": "pure"}}.'
        )


def why_inactive(rewritten: Rewritten) -> str:
    rows = rewritten.table().undeclared()
    undeclared = [r.name for r in rows]
    known = (rewritten.start, *rewritten.all_infos())
    if not any(i.speculator is not None or i.stream is not None for i in known):
        return "speculation is inactive: no node has a Speculator; pass draft= or speculators=."
    named = f" Undeclared: {known_names(undeclared)}." if undeclared else ""
    named += "".join(f" {r.name!r}: {r.reason}." for r in rows if r.reason != NOBODY)
    remedy = f" Declare what they do:\n{skeleton_of(dict.fromkeys(undeclared))}" if undeclared else ""
    return (
        "speculation is inactive: nothing that a guess could reach may run early, so no Speculator will be called."
        + named
        + remedy
    )
