"""Graph in, instrumented copy out: every node gets a shell that lets a session claim and speculate.

The original graph and its nodes are left as they are. A shell is an object of a subclass of the node's own runnable,
so that LangGraph and its tools see what they saw before: names, cache identifiers, streaming, tool lists.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from langchain_core.tools import BaseTool

from langgraph_speculative import _compat, _nodes
from langgraph_speculative._compat import CONF, CompiledStateGraph, RunnableCallable, ToolNode
from langgraph_speculative._nodes import LeafInfo, NodeInfo, RouterInfo, ToolInfo
from langgraph_speculative._tools import ToolWrapper
from langgraph_speculative._view import KEY
from langgraph_speculative.effects import (
    Declaration,
    Effect,
    EffectRow,
    EffectTable,
    declared_on,
    parse_declaration,
)
from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.speculators._protocol import known_names

START = "__start__"

NOBODY = "nobody declared it"
"""Why most of what is undeclared is so."""


class _Shelled:
    """Mixed into a node's own class: hands each execution to the session, if there is one."""

    _speculative_info: NodeInfo

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        view = config[CONF].get(KEY) if config else None
        if view is None or view.session is None or kwargs:
            return super().invoke(input, config, **kwargs)  # type: ignore[misc]
        return view.session.run_node(self._speculative_info, input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        view = config[CONF].get(KEY) if config else None
        if view is None or view.session is None or kwargs:
            return await super().ainvoke(input, config, **kwargs)  # type: ignore[misc]
        if view.frame is not None:
            return await view.session.early_inner(view, self._speculative_info, input, config)
        return await view.session.arun_node(self._speculative_info, input, config)


@cache
def _shelled(kind: type) -> type:
    return type(f"Speculative{kind.__name__}", (_Shelled, kind), {"__module__": kind.__module__})


class _Wrapped(Runnable[Any, Any]):
    """The shell of a runnable that cannot be copied into a subclass: a graph, a model, a sequence, a generator."""

    def __init__(self, actor: Runnable[Any, Any], info: NodeInfo) -> None:
        self._actor = actor
        self._speculative_info = info
        self.name = getattr(actor, "name", None)

    def get_name(self, suffix: str | None = None, *, name: str | None = None) -> str:
        return self._actor.get_name(suffix, name=name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_actor":
            raise AttributeError(name)
        return getattr(self._actor, name)

    def run(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        if isinstance(self._actor, RunnableSequence):
            # LangGraph would have run the steps as its own; as one runnable the sequence would be an extra run.
            for number, step in enumerate(self._actor.steps, 1):
                input = step.invoke(input, _compat.step_config(config, number), **kwargs)
                kwargs = {}
            return input
        return self._actor.invoke(input, config, **kwargs)

    async def arun(self, input: Any, config: RunnableConfig, **kwargs: Any) -> Any:
        if isinstance(self._actor, RunnableSequence):
            for number, step in enumerate(self._actor.steps, 1):
                input = await step.ainvoke(input, _compat.step_config(config, number), **kwargs)
                kwargs = {}
            return input
        return await self._actor.ainvoke(input, config, **kwargs)

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        view = config[CONF].get(KEY) if config else None
        if view is None or view.session is None or kwargs:
            return self.run(input, config, **kwargs)  # type: ignore[arg-type]
        return view.session.run_node(self._speculative_info, input, config)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        view = config[CONF].get(KEY) if config else None
        if view is None or view.session is None or kwargs:
            return await self.arun(input, config, **kwargs)  # type: ignore[arg-type]
        if view.frame is not None:
            return await view.session.early_inner(view, self._speculative_info, input, config)
        return await view.session.arun_node(self._speculative_info, input, config)

    # Generators keep their chunks: nothing is claimed where the run wants a stream of outputs.

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        yield from self._actor.stream(input, config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        async for chunk in self._actor.astream(input, config, **kwargs):
            yield chunk


Found = tuple[Declaration, str, str]
"""An effect, where it was found, and why, for people."""


@dataclass
class Declared:
    """What the user declared; `own` are the names of the graph's own nodes, nested ones aside."""

    effects: Mapping[str, Any]
    keys: Mapping[str, Callable[[Any], Any]]
    trust_mcp: frozenset[str]
    own: frozenset[str] = frozenset()

    def names(self, path: str, name: str) -> tuple[str, ...]:
        """What a node may be called: a nested one by its bare name too, unless the graph has a node of that name."""
        return (path,) if path != name and name in self.own else (path, name)

    def effect(self, *names: str) -> Found | None:
        for name in names:
            if name in self.effects:
                own = parse_declaration(self.effects[name], f"effects[{name!r}]")
                return own, "effects=", own.why
        return None

    def key(self, path: str, name: str) -> Callable[[Any], Any] | None:
        return next((self.keys[n] for n in self.names(path, name) if n in self.keys), None)

    def default(self, reason: str) -> Found:
        if "*" in self.effects:
            return parse_declaration(self.effects["*"], "effects['*']"), "effects=", 'declared for "*"'
        return Declaration(effect=Effect.UNDECLARED), "none", reason


@dataclass
class Rewritten:
    """An instrumented graph's nodes, and what is known of them, nested ones included."""

    nodes: dict[str, Any]
    infos: dict[str, NodeInfo]
    start: NodeInfo = field(default_factory=lambda: NodeInfo(START, Effect.PURE, "none", "", name=START))

    def all_infos(self) -> Iterator[NodeInfo]:
        def walk(infos: Iterable[NodeInfo]) -> Iterator[NodeInfo]:
            for info in infos:
                yield info
                yield from walk(info.inner)

        return walk(self.infos.values())

    def actions(self) -> dict[str, Declaration]:
        """What may act early and has to be taken back, by the names that the journal knows."""
        leaves: list[tuple[str, LeafInfo]] = []
        for info in self.all_infos():
            leaves.append((info.label, info))
            leaves.extend((tool.name, tool) for tool in info.tools.values())
        found = ((name, leaf.declaration) for name, leaf in leaves)
        return {name: d for name, d in found if d is not None and d.effect in (Effect.REVERSIBLE, Effect.STAGED)}

    def table(self) -> EffectTable:
        rows: list[EffectRow] = []
        for info in self.all_infos():
            if info.kind == "leaf":
                rows.append(info.row())
            rows.extend(EffectRow(t.name, "tool", t.effect, t.source, t.reason) for t in info.tools.values())
            rows.extend(EffectRow(r.name, "router", r.effect, r.source, r.reason) for r in info.routers)
        return EffectTable(tuple(dict.fromkeys(rows)))


def rewrite(graph: CompiledStateGraph[Any, Any, Any, Any], declared: Declared, prefix: str = "") -> Rewritten:
    """Shells for all nodes of a graph and of the graphs in it."""
    nodes: dict[str, Any] = {}
    infos: dict[str, NodeInfo] = {}
    for name, node in graph.nodes.items():
        if name == START:
            nodes[name] = node
            continue
        info, bound = _shell(graph, name, node, declared, prefix)
        infos[name] = info
        nodes[name] = node.copy({"bound": bound})
    for info in infos.values():
        for follower in infos if info.successors is None else info.successors:
            if follower in infos:
                info.callable_tools |= infos[follower].tools
    return Rewritten(nodes, infos, _start(graph, declared))


def _start(graph: Any, declared: Declared) -> NodeInfo:
    """The node that writes the graph's input: what a person says is taken for its output."""
    info = NodeInfo(START, Effect.UNDECLARED, "none", NOBODY, name=START)
    info.effect = declared.default(NOBODY)[0].effect
    node = graph.nodes.get(START)
    info.routers = [_router(w, info, declared) for w in node.flat_writers if _compat.is_router(w)] if node else []
    # Nobody's code runs there; its routers have inherited what is said of undeclared code.
    info.effect = Effect.PURE
    return info


def _shell(graph: Any, name: str, node: Any, declared: Declared, prefix: str) -> tuple[NodeInfo, Any]:
    path = f"{prefix}{name}"
    bound = node.bound
    info = NodeInfo(label=path, effect=Effect.UNDECLARED, source="none", reason="", name=name)
    info.successors = _nodes.successors_of(graph.builder, name)
    info.channels = frozenset(graph.channels)
    info.timed = getattr(node, "timeout", None) is not None
    info.key_function = declared.key(path, name)
    if info.key_function is None and getattr(node, "cache_policy", None) is not None:
        info.key_function = node.cache_policy.key_func
    metadata = _in_metadata(node.metadata, f"metadata of node {path!r}")
    shell: Any
    if isinstance(bound, ToolNode):
        info.kind = "tools"
        shell = _tool_node(info, bound, declared, path, metadata)
    elif isinstance(bound, CompiledStateGraph):
        info.kind = "graph"
        info.reason = "a graph: its own nodes count"
        if hasattr(bound, "_speculation"):
            info.inner = list(bound._speculation.rewritten.infos.values())
            inner = bound
        else:
            below = rewrite(bound, declared, f"{path}|")
            info.inner = list(below.infos.values())
            inner = bound.copy({"nodes": below.nodes})
            for attribute, value in vars(bound).items():
                if attribute not in vars(inner):
                    setattr(inner, attribute, value)
        shell = _Wrapped(inner, info)
        info.invoke, info.ainvoke = shell.run, shell.arun
    else:
        _leaf(info, bound, declared, path, metadata)
        if type(bound) is RunnableCallable:
            shell = object.__new__(_shelled(RunnableCallable))
            shell.__dict__.update(bound.__dict__)
            shell._speculative_info = info
            info.invoke, info.ainvoke = bound.invoke, bound.ainvoke
        else:
            shell = _Wrapped(bound, info)
            info.invoke, info.ainvoke = shell.run, shell.arun
    info.routers = [_router(w, info, declared) for w in node.flat_writers if _compat.is_router(w)]
    return info, shell


def _in_metadata(metadata: Any, where: str) -> Found | None:
    own = (metadata or {}).get("speculation")
    if not isinstance(own, Mapping) or "effect" not in own:
        return None
    declaration = parse_declaration(own, where)
    return declaration, "metadata", declaration.why


def _decorated(*functions: Any) -> Found | None:
    own = declared_on(*functions)
    return None if own is None else (own, "decorator", own.why)


def _leaf(info: NodeInfo, bound: Any, declared: Declared, path: str, metadata: Found | None) -> None:
    found = declared.effect(*declared.names(path, info.name)) or _decorated(_compat.function_of(bound)) or metadata
    recognised = _nodes.recognise(bound)
    info.is_model = recognised is not None and recognised[2]
    info.agent = _nodes.agent_name(bound) if info.is_model else ""
    if found is None and recognised is not None:
        found = (Declaration(effect=recognised[0]), "recognised", recognised[1])
    if found is None or (found[0].effect is Effect.UNDECLARED and "*" in declared.effects):
        found = declared.default(NOBODY if found is None else found[2])
    info.declaration, info.source, info.reason = found
    info.effect = info.declaration.effect
    info.sync_only = _compat.is_sync_only(bound)
    own_code = not (recognised is not None and recognised[0] is Effect.PURE)
    info.sees_request = own_code and _compat.takes_run_info(bound)
    info.step_bound = info.effect is not Effect.PURE or info.sees_request


def _tool_node(info: NodeInfo, bound: ToolNode, declared: Declared, path: str, metadata: Found | None) -> Any:
    info.foreign_wrapper = _compat.has_foreign_wrapper(bound)
    info.sync_wrapper_only = _compat.has_sync_wrapper_only(bound)
    whole = declared.effect(*declared.names(path, info.name)) or metadata
    info.reason = "a tool node: its tools count"
    for tool in bound.tools_by_name.values():
        info.tools[tool.name] = _tool(tool, info, bound, declared, whole)
    wrapper = ToolWrapper(info)
    copied = _compat.bind_copied_tool_node(bound, wrapper.wrap, wrapper.awrap)
    shell: Any = object.__new__(_shelled(type(bound)))
    shell.__dict__.update(copied.__dict__)
    shell.func, shell.afunc = shell._func, shell._afunc
    shell._speculative_info = info
    kind: Any = type(bound)
    info.invoke, info.ainvoke = partial(kind.invoke, shell), partial(kind.ainvoke, shell)
    return shell


def _tool(tool: BaseTool, node: NodeInfo, bound: ToolNode, declared: Declared, whole: Found | None) -> ToolInfo:
    found = (
        declared.effect(tool.name)
        or _decorated(getattr(tool, "func", None), getattr(tool, "coroutine", None))
        or (None if _nodes.is_of_mcp(tool) else _in_metadata(tool.metadata, f"metadata of tool {tool.name!r}"))
    )
    if found is None and (mcp := _nodes.mcp_effect(tool, declared.trust_mcp)) is not None:
        found = Declaration(effect=mcp[0]), "mcp", mcp[1]
    if found is None or found[0].effect is Effect.UNDECLARED:
        found = whole or declared.default(found[2] if found else NOBODY)
    if node.foreign_wrapper and whole is None and found[0].effect.may_run_early:
        found = (
            Declaration(effect=Effect.UNDECLARED),
            "none",
            f"a wrap_tool_call of yours runs around it; declare the node {node.label!r} to vouch for that",
        )
    if node.sync_wrapper_only and found[0].effect.may_run_early:
        found = (
            Declaration(effect=Effect.UNDECLARED),
            "none",
            f"the wrap_tool_call of {node.label!r} has no asynchronous form, and branches run on a loop: add one",
        )
    declaration, source, reason = found
    injected = _compat.injected_into(bound, tool)
    return ToolInfo(
        label=f"{node.label}.{tool.name}",
        effect=declaration.effect,
        source=source,
        reason=reason,
        step_bound=injected,
        sync_only=_compat.is_sync_only_tool(tool),
        sees_request=injected,
        node=node.label,
        name=tool.name,
        tool=tool,
        injected=injected,
        declaration=declaration,
    )


def _router(writer: Any, node: NodeInfo, declared: Declared) -> RouterInfo:
    spec = getattr(getattr(writer, "func", None), "__self__", None)
    path = getattr(spec, "path", writer)
    function = _compat.function_of(path)
    name = getattr(path, "name", None) or getattr(function, "__name__", None) or "condition"
    prebuilt = _nodes.is_prebuilt(function)
    declaration = declared.effect(name) or _decorated(function)
    if declaration is not None:
        found = declaration[0].effect, *declaration[1:]
    elif prebuilt:
        found = Effect.PURE, "recognised", "router of a prebuilt agent"
    else:
        effect = node.effect if node.kind == "leaf" else mildest_tool(node)
        found = effect, "inherited", f"as its node {node.label!r}"
    if found[0].acts and found[0].may_run_early:
        # Nothing takes back what a router does. What it inherits is its node's: as the node, it reads the world.
        kind = Effect.READ if found[1] == "inherited" else Effect.IRREVERSIBLE
        found = kind, found[1], found[2]
    if not _compat.is_sync_only(path):
        return RouterInfo(name, *found, how="await")
    return RouterInfo(name, *found, how="inline" if prebuilt else "thread")


def mildest_tool(node: NodeInfo) -> Effect:
    """What the router behind a tool node inherits: the mildest of its tools, since each call is judged by itself."""
    return min((t.effect for t in node.tools.values()), key=list(Effect).index, default=Effect.UNDECLARED)


def check_names(rewritten: Rewritten, declared: Declared, speculators: Mapping[str, Any]) -> None:
    """Refuse names that the graph does not have.

    Raises:
        SpeculationError: A name in ``effects=``, ``keys=`` or ``speculators=`` is no node, tool or router of the graph.
    """
    infos = list(rewritten.all_infos())
    nodes = {i.label for i in infos} | {i.name for i in infos}
    tools = {t.name for i in infos for t in i.tools.values()}
    routers = {r.name for i in infos for r in i.routers}
    for argument, names, known in (
        ("effects", declared.effects, nodes | tools | routers | {"*"}),
        ("keys", declared.keys, nodes),
        ("speculators", [name for name in speculators if name != START], nodes),
    ):
        for name in names:
            if name not in rewritten.infos and len(paths := [i.label for i in infos if i.name == name]) > 1:
                raise SpeculationError(
                    f"{argument}[{name!r}] is ambiguous: it may be {known_names(paths)}; use the full path."
                )
            if name not in known:
                what = "node, tool or router" if argument == "effects" else "node"
                raise SpeculationError(
                    f"{argument}[{name!r}]: the graph has no {what} of that name; it has {known_names(known - {'*'})}."
                )
