"""What is known of each node, tool and router of a graph before it runs, and what a guess at it could lead to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.tools import BaseTool

from langgraph_speculative import _compat
from langgraph_speculative.effects import Declaration, Effect, EffectRow, Scopes

if TYPE_CHECKING:
    from langgraph_speculative.speculators._stream import Stream

NodeKind = Literal["leaf", "tools", "graph"]


@dataclass(eq=False)
class LeafInfo:
    """A node or tool: what the ledger's entries are filed under.

    Attributes:
        label: The node's path (``"outer|inner"``), for a tool followed by its name.
        step_bound: Whether its pre-execution serves only the superstep that it was made for.
        sync_only: Whether it blocks its thread in async runs too.
        sees_request: Whether it may look at what changes with each request: config, runtime, ids.
        declaration: What more was said of its effect: scope, age, undo.
    """

    label: str
    effect: Effect
    source: str
    reason: str
    step_bound: bool = True
    sync_only: bool = False
    sees_request: bool = False
    declaration: Declaration | None = None

    def scopes(self, arguments: Any) -> Scopes:
        """What one execution touches."""
        return (self.declaration or Declaration(effect=self.effect)).scopes(arguments)


@dataclass(eq=False)
class ToolInfo(LeafInfo):
    """A tool of a tool node. `injected`: it sees more than its arguments (state, store, runtime, config)."""

    node: str = ""
    name: str = ""
    tool: BaseTool | None = None
    injected: bool = False


@dataclass
class RouterInfo:
    """The code of a conditional edge, and how a branch runs it: known to be quick, in a thread, or awaited."""

    name: str
    effect: Effect
    source: str
    reason: str
    how: Literal["inline", "thread", "await"]


@dataclass(eq=False)
class NodeInfo(LeafInfo):
    """A node.

    Attributes:
        successors: The nodes that may run next; ``None`` stands for any.
        callable_tools: The tools of the tool nodes that may run next: those that a model node's calls can reach.
        agent: Of a prebuilt agent's model node: the name that its messages bear.
        timed: Whether it has a timeout; a pre-execution's time before the claim would not count, so there is none.
        speculate: Whether its Speculator is worth asking.
        learns: Whether its Speculator is told what the committed runs did.
        stream: Who turns the message that its model is still writing into an output, if anybody.
        called: The tools that such a message may call, and whether they may run early; empty where none may.
        channels: What the nodes of its graph may write.
        lends: Whether it is a graph whose own branches may reach its end, and so guess its output.
        is_bare: Whether its execution by the run means nothing to speculation, as long as nothing is under way.
        foreign_wrapper: Whether code of the user's runs around each of its tool calls.
        sync_wrapper_only: Whether that code has no asynchronous form, and so would block a branch's loop.
    """

    name: str = ""
    kind: NodeKind = "leaf"
    tools: dict[str, ToolInfo] = field(default_factory=dict)
    routers: list[RouterInfo] = field(default_factory=list)
    inner: list[NodeInfo] = field(default_factory=list)
    successors: frozenset[str] | None = None
    callable_tools: dict[str, ToolInfo] = field(default_factory=dict)
    is_model: bool = False
    agent: str = ""
    foreign_wrapper: bool = False
    sync_wrapper_only: bool = False
    timed: bool = False
    speculator: Any = None
    speculate: bool = False
    learns: bool = False
    stream: Stream | None = None
    called: dict[str, bool] = field(default_factory=dict)
    channels: frozenset[str] = frozenset()
    lends: bool = False
    is_bare: bool = False
    key_function: Callable[[Any], Any] | None = None
    invoke: Callable[..., Any] = lambda *_: None
    ainvoke: Callable[..., Awaitable[Any]] | None = None

    def effect_of(self, calls: Iterable[str] = ()) -> Effect:
        """The effect of one execution: of a tool node the worst of the tools it calls."""
        if self.kind == "leaf":
            return self.effect
        if self.kind == "graph":
            return worst(n.effect_of(n.tools) for n in self.inner)
        return worst(self.tools[c].effect if c in self.tools else Effect.UNDECLARED for c in calls)

    def touches(self, value: Any) -> Scopes:
        """What the effectful parts of one execution change."""
        if self.kind == "leaf":
            return self.scopes(value) if self.effect.acts else frozenset()
        if self.kind == "graph":
            return None if self.effect_of().acts else frozenset()
        touched: set[str] = set()
        for call in tool_calls(value):
            tool = self.tools.get(call["name"])
            if tool is None or tool.effect.acts:
                found = None if tool is None else tool.scopes(call["args"])
                if found is None:
                    return None
                touched |= found
        return frozenset(touched)

    def row(self) -> EffectRow:
        return EffectRow(self.label, "node", self.effect, self.source, self.reason)


def info_of(loop: Any, name: str) -> NodeInfo:
    """What is known of a running graph's node; of one that was not rewritten, nothing."""
    info = getattr(loop.nodes[name].bound, "_speculative_info", None)
    return info or NodeInfo(name, Effect.UNDECLARED, "none", "unknown node", name=name)


def worst(effects: Iterable[Effect]) -> Effect:
    """The effect of doing all of them."""
    return max(effects, key=list(Effect).index, default=Effect.PURE)


def called_tools(value: Any, messages_key: str = "messages") -> list[str]:
    """The names of the tools that a tool node with this input would call."""
    return [call["name"] for call in tool_calls(value, messages_key)]


def tool_calls(value: Any, messages_key: str = "messages") -> list[Any]:
    """The calls that a tool node with this input would make."""
    if isinstance(value, dict):
        if value.get("__type") == "tool_call_with_context":
            return [value["tool_call"]]
        value = value.get(messages_key, ())
    elif not isinstance(value, list | tuple):
        value = getattr(value, messages_key, ())
    if value and isinstance(value[-1], dict) and value[-1].get("type") == "tool_call":
        return list(value)
    for message in reversed(value):
        if calls := getattr(message, "tool_calls", None):
            return list(calls)
    return []


def successors_of(builder: Any, name: str) -> frozenset[str] | None:
    """The nodes that may follow a node by its edges, routers and Commands; ``None`` when a router may go anywhere."""
    out = {end for start, end in builder.edges if start == name}
    out |= {end for starts, end in builder.waiting_edges if name in starts}
    for branch in builder.branches.get(name, {}).values():
        if branch.ends is None:
            return None
        out |= set(branch.ends.values())
    spec = builder.nodes.get(name)
    out |= set(getattr(spec, "ends", None) or ())
    return frozenset(out)


def mark_useful(nodes: Mapping[str, NodeInfo], *, ends: bool) -> None:
    """Decide for each node whether a guess at its output could let anything run early, and so is worth asking for.

    Args:
        nodes: The nodes of one graph.
        ends: Whether it is a nested graph: behind its end its parent may go on.
    """

    def follows(info: NodeInfo) -> Iterable[NodeInfo]:
        names = nodes if info.successors is None else info.successors
        return [nodes[n] for n in names if n in nodes]

    def allowed(leaf: LeafInfo, pure_only: bool) -> bool:
        # Behind an effect that is only guessed, what touches another part of the world may still run.
        scoped = leaf.declaration is not None and leaf.declaration.scope is not None
        return leaf.effect.may_run_early and (not pure_only or leaf.effect is Effect.PURE or scoped)

    def may_run(info: NodeInfo, *, pure_only: bool) -> bool:
        if info.kind == "leaf":
            return allowed(info, pure_only) and not info.timed
        if info.kind == "tools":
            return any(allowed(t, pure_only) for t in info.tools.values())
        return any(may_run(n, pure_only=pure_only) for n in info.inner)

    def leads(info: NodeInfo, seen: frozenset[str], tainted: bool) -> bool:
        if info.name in seen or not all(r.effect.may_run_early for r in info.routers):
            return False
        effects = [t.effect for t in info.tools.values()] if info.kind == "tools" else [info.effect_of()]
        tainted = tainted or not any(e.may_run_early for e in effects)
        return any(
            may_run(n, pure_only=tainted) or (n.speculator is not None and leads(n, seen | {info.name}, tainted))
            for n in follows(info)
        )

    def called(info: NodeInfo) -> dict[str, bool]:
        if info.stream is None or not all(r.effect.may_run_early for r in info.routers):
            return {}
        tainted = not info.effect.may_run_early
        tools = [t for n in follows(info) for t in n.tools.values()]
        found = {t.name: allowed(t, tainted) for t in tools}
        return found if any(found.values()) else {}

    for info in nodes.values():
        info.called = called(info)
        info.lends = any(i.speculator is not None or i.lends for i in info.inner)
        info.speculate = info.speculator is not None and (ends or leads(info, frozenset(), False))
        concerns = info.speculate or info.called or info.lends or info.learns
        info.is_bare = info.kind == "leaf" and info.effect is Effect.PURE and not concerns


def is_prebuilt(function: Any) -> bool:
    """Whether a function is LangGraph's or LangChain's own agent code."""
    module = getattr(function, "__module__", "") or ""
    return module.startswith(("langchain.agents.factory", "langgraph.prebuilt."))


def closure_of(function: Any) -> dict[str, Any]:
    """The variables that a nested function closes over."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or not cells:
        return {}
    out = {}
    for name, cell in zip(code.co_freevars, cells, strict=True):
        try:
            out[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return out


PURE_MIDDLEWARE = frozenset(
    {
        "ContextEditingMiddleware",
        "LLMToolSelectorMiddleware",
        "ModelCallLimitMiddleware",
        "PIIMiddleware",
        "SummarizationMiddleware",
        "TodoListMiddleware",
        "ToolCallLimitMiddleware",
    }
)
"""LangChain's middleware whose hooks depend on the state alone or call a model.

Not here: retries and fallbacks (a failure that speculation caused would change the result), human-in-the-loop (it
interrupts), shells and files (they act).
"""


def _middleware_in(handler: Any) -> list[Any]:
    """The middleware objects whose hooks a composed handler calls."""
    found, seen, todo = [], set(), [handler]
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, list | tuple):
            todo.extend(thing)
            continue
        owner = getattr(thing, "__self__", None)
        if owner is not None and hasattr(owner, "wrap_model_call"):
            found.append(owner)
        todo.extend(closure_of(thing).values())
        if (wrapped := getattr(thing, "__wrapped__", None)) is not None:
            todo.append(wrapped)
    return found


def _is_langchain_pure(middleware: Any) -> bool:
    kind = type(middleware)
    return kind.__module__.startswith("langchain.agents.middleware.") and kind.__name__ in PURE_MIDDLEWARE


def recognise(runnable: Any) -> tuple[Effect, str, bool] | None:
    """The effect of a node of LangChain's or LangGraph's prebuilt agents, why, and whether it calls the model."""
    function = _compat.function_of(runnable)
    owner = getattr(function, "__self__", None)
    if owner is not None and _is_langchain_pure(owner):
        return Effect.PURE, f"LangChain's {type(owner).__name__}", False
    if not is_prebuilt(function):
        return None
    name = getattr(function, "__qualname__", "")
    if name.startswith("create_agent.<locals>.") and name.endswith("model_node"):
        foreign = _foreign_in_create_agent(runnable)
    elif name.startswith("create_react_agent.<locals>."):
        foreign = _foreign_in_react_agent(function)
    else:
        return None
    if foreign:
        return Effect.UNDECLARED, f"model node, but {foreign}", True
    return Effect.PURE, "model node of a prebuilt agent", True


def agent_name(runnable: Any) -> str:
    """The name that a prebuilt agent's model node gives its messages, if it has one."""
    function = _compat.function_of(runnable)
    variables = closure_of(function)
    for inner in ("_execute_model_sync", "_execute_model_async"):
        variables = variables | closure_of(variables.get(inner))
    return str(variables.get("name") or "")


def _foreign_in_create_agent(runnable: Any) -> str:
    variables: dict[str, Any] = {}
    for function in (runnable.func, runnable.afunc):
        variables |= closure_of(function)
    for handler in (variables.get("wrap_model_call_handler"), variables.get("awrap_model_call_handler")):
        if handler is not None:
            owners = _middleware_in(handler)
            unknown = [type(m).__name__ for m in owners if not _is_langchain_pure(m)]
            if unknown or not owners:
                return f"wrap_model_call of {', '.join(unknown) or 'unknown middleware'} runs inside"
    if any(isinstance(t, dict) for t in variables.get("default_tools", ())):
        return "the provider executes tools of its own"
    return ""


def _foreign_in_react_agent(function: Any) -> str:
    variables = closure_of(function)
    if variables.get("is_dynamic_model") or variables.get("is_async_dynamic_model"):
        return "the model is chosen by a callable"
    model = variables.get("static_model")
    if model is None and (resolve := variables.get("_resolve_model")) is not None:
        model = closure_of(resolve).get("static_model")
        if closure_of(resolve).get("is_dynamic_model"):
            return "the model is chosen by a callable"
    steps = list(getattr(model, "steps", ()))
    if not steps:
        return "its model cannot be looked into"
    prompt = _compat.function_of(steps[0])
    if prompt is not None and not is_prebuilt(prompt):
        return "the prompt is a callable"
    for step in steps[1:]:
        for tool in getattr(step, "kwargs", {}).get("tools", ()) or ():
            if isinstance(tool, dict) and tool.get("type") not in (None, "function"):
                return "the provider executes tools of its own"
    return ""


def mcp_effect(tool: BaseTool, trusted: Iterable[str]) -> tuple[Effect, str] | None:
    """The effect that a trusted MCP server's annotations give a tool, in either layout of the adapters.

    The server's name is the one that the client gave it (a key of ``MultiServerMCPClient``'s connections).
    langchain-mcp-adapters (0.1.9 to 0.3.2) put the annotations flat into the tool's metadata and no name with them, but
    the coroutine that they make closes over it. ``client.get_tools()`` hands it on; with a session of your own say
    ``load_mcp_tools(session, server_name="files")``, or the name is unknown and only ``"*"`` trusts the tools.

    Of a tool whose coroutine is not the adapters' (wrapped, or of a release that does not keep the name), the prefix of
    ``tool_name_prefix=True`` (``files_list``) counts too. It does not where the client's name can be seen: a server
    names its tools as it likes.
    """
    metadata = tool.metadata or {}
    mcp = metadata.get("mcp")
    hints: Mapping[str, Any] = metadata
    client = _client_name(tool)
    server = client or ""
    # Flat annotations of the adapters may have fields of the server's own, so an "mcp" beside them proves nothing.
    flat = client is not None and any(k in metadata for k in _HINTS)
    if isinstance(mcp, Mapping) and not flat:
        described = mcp.get("tool")
        hints = (described or {}).get("annotations") or {} if isinstance(described, Mapping) else {}
        named = mcp.get("server") or mcp.get("server_name") or ""
        server = server or (str(named.get("name", "")) if isinstance(named, Mapping) else str(named))
    if not any(k in hints for k in _HINTS):
        return None
    trusted = set(trusted)
    by = server if server in trusted else ""
    if not by and client is None:
        by = next((s for s in trusted if tool.name.startswith(f"{s}_")), "")
    if not by and "*" not in trusted:
        origin = f"server {server!r}" if server else "its server"
        return Effect.UNDECLARED, f"MCP hints are there, but {origin} is not in trust_mcp"
    if hints.get("destructiveHint"):
        return Effect.IRREVERSIBLE, "destructiveHint"
    if hints.get("readOnlyHint"):
        name = by or server
        return Effect.READ, f"readOnlyHint of trusted MCP server {name!r}" if name else "readOnlyHint, all are trusted"
    return Effect.UNDECLARED, "MCP annotations without readOnlyHint"


_HINTS = ("readOnlyHint", "destructiveHint")


def is_of_mcp(tool: BaseTool) -> bool:
    """Whether an MCP server has described a tool, and so may have written its metadata."""
    metadata = tool.metadata or {}
    hints = (*_HINTS, "idempotentHint", "openWorldHint", "mcp")
    return _client_name(tool) is not None or any(hint in metadata for hint in hints)


def _client_name(tool: BaseTool) -> str | None:
    """What the client calls the server of a tool that the adapters made: ``""`` if nothing, ``None`` if unknown."""
    function = getattr(tool, "coroutine", None)
    if not (getattr(function, "__module__", None) or "").startswith("langchain_mcp_adapters."):
        return None
    variables = closure_of(function)
    return str(variables["server_name"] or "") if "server_name" in variables else None
