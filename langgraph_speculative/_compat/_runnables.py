"""The user's functions and tools inside of runnables and tool nodes."""

from __future__ import annotations

import inspect
from copy import copy
from functools import partial
from typing import Any

from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.tools.simple import Tool
from langgraph._internal._runnable import RunnableCallable
from langgraph.prebuilt import ToolNode


def is_sync_only(runnable: Runnable[Any, Any]) -> bool:
    """Whether the asynchronous form would go to the event loop's default executor."""
    if isinstance(runnable, RunnableCallable):
        if runnable.func is None:
            return False
        afunc = runnable.afunc
        return afunc is None or (isinstance(afunc, partial) and afunc.func is run_in_executor)
    if isinstance(runnable, RunnableLambda):
        return hasattr(runnable, "func") and not hasattr(runnable, "afunc")
    return type(runnable).ainvoke is Runnable.ainvoke


def is_sync_only_tool(tool: BaseTool) -> bool:
    if isinstance(tool, StructuredTool | Tool):
        return tool.coroutine is None
    return type(tool)._arun is BaseTool._arun


def takes_run_info(runnable: Runnable[Any, Any]) -> bool:
    """Whether a function node can see its config or runtime, and so its step, task or attempt."""
    if isinstance(runnable, RunnableCallable):
        return bool({"config", "runtime", "previous"} & set(runnable.func_accepts))
    return True


def function_of(runnable: Any) -> Any:
    """The user's function inside a node or router, or ``None``."""
    if isinstance(runnable, RunnableCallable | RunnableLambda):
        return getattr(runnable, "func", None) or getattr(runnable, "afunc", None)
    return None


def bind_copied_tool_node(original: ToolNode, wrap: Any, awrap: Any) -> ToolNode:
    """A copy of a tool node with our innermost wrappers, its methods bound to the copy and not to the original."""
    new = copy(original)
    new.func, new.afunc = new._func, new._afunc
    outer, aouter = original._wrap_tool_call, original._awrap_tool_call
    if outer is None:
        new._wrap_tool_call = wrap
    else:
        new._wrap_tool_call = lambda request, execute: outer(request, lambda r: wrap(r, execute))
    if aouter is not None:

        async def both(request: Any, execute: Any) -> Any:
            async def inner(r: Any) -> Any:
                return await awrap(r, execute)

            return await aouter(request, inner)

        new._awrap_tool_call = both
    elif outer is None:
        new._awrap_tool_call = awrap
    # With a synchronous wrapper only, ToolNode runs that one in async runs too; ours inside it follows.
    return new


def has_foreign_wrapper(node: ToolNode) -> bool:
    return node._wrap_tool_call is not None or node._awrap_tool_call is not None


def has_sync_wrapper_only(node: ToolNode) -> bool:
    """Whether the node wraps its calls with plain functions in asynchronous runs too."""
    return node._wrap_tool_call is not None and node._awrap_tool_call is None


def injected_into(node: ToolNode, tool: BaseTool) -> bool:
    """Whether the tool is given more than its arguments: state, store, runtime, or the config."""
    injected = node._injected_args.get(tool.name)
    if injected is not None and (
        getattr(injected, "state", None) or getattr(injected, "store", None) or getattr(injected, "runtime", None)
    ):
        return True
    functions = [getattr(tool, a, None) for a in ("func", "coroutine")]
    if not any(functions):
        functions = [tool._run, tool._arun]
    for function in functions:
        if function is not None:
            parameters = inspect.signature(function).parameters.values()
            if any("RunnableConfig" in str(p.annotation) for p in parameters):
                return isinstance(tool, StructuredTool | Tool)
    return False
