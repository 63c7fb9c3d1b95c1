"""Tool calls are claimed one by one: our wrapper is the innermost around each of them."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from langgraph_speculative._compat import CONF
from langgraph_speculative._nodes import NodeInfo, ToolInfo
from langgraph_speculative._view import KEY, View
from langgraph_speculative.effects import Effect


class ToolWrapper:
    """The ``wrap_tool_call`` and ``awrap_tool_call`` of one rewritten tool node."""

    def __init__(self, node: NodeInfo) -> None:
        self._node = node

    def _find(self, request: Any) -> tuple[View | None, ToolInfo | None]:
        view = request.runtime.config.get(CONF, {}).get(KEY)
        return view, self._node.tools.get(request.tool_call["name"])

    def wrap(self, request: Any, execute: Callable[[Any], Any]) -> Any:
        view, info = self._find(request)
        if view is None or view.session is None:
            return execute(request)
        return view.session.run_tool(info or self._unknown(request), request, execute)

    def _unknown(self, request: Any) -> ToolInfo:
        """A tool that middleware registers on the fly: nobody declared it, so it is an effect like any such."""
        name = request.tool_call["name"]
        node = self._node.label
        return ToolInfo(f"{node}.{name}", Effect.UNDECLARED, "none", "unknown tool", node=node, name=name)

    async def awrap(self, request: Any, execute: Callable[[Any], Awaitable[Any]]) -> Any:
        view, info = self._find(request)
        if view is None or view.session is None:
            return await execute(request)
        if view.frame is not None:
            return await view.session.early_tool(view, info, request, execute)
        return await view.session.arun_tool(info or self._unknown(request), request, execute)


class PooledTool:
    """Stands in for a synchronous tool in a branch: runs it in our pool, not in the loop's default executor."""

    def __init__(self, tool: Any, in_pool: Callable[..., Awaitable[Any]]) -> None:
        self._tool = tool
        self._in_pool = in_pool

    async def ainvoke(self, call: Any, config: Any) -> Any:
        return await self._in_pool(self._tool.invoke, call, config)


class NotStaged(RuntimeError):
    """A coroutine function prepares what runs in a thread."""


class Staging:
    """The first phase of one staged action: `prepare` in the place of the tool's or node's own code.

    Args:
        prepare: Called with the action and a function that runs the code.
        action: What `prepare` is told.
        keep: Takes what `prepare` returned; the result.
    """

    def __init__(self, prepare: Callable[..., Any], action: Any, keep: Callable[[Any], Any]) -> None:
        self._prepare = prepare
        self._action = action
        self._keep = keep

    def run(self, code: Callable[[], Any]) -> Any:
        """Prepare in this thread."""
        given = self._prepare(self._action, code)
        if inspect.isawaitable(given):
            if inspect.iscoroutine(given):
                given.close()
            raise NotStaged("its prepare is a coroutine function, and it runs in a thread here")
        return self._keep(given)

    async def arun(self, code: Callable[[], Awaitable[Any]], in_pool: Callable[..., Awaitable[Any]]) -> Any:
        """Prepare on this loop, or in a thread that has the code run on this loop."""
        if inspect.iscoroutinefunction(self._prepare):
            return self._keep(await self._prepare(self._action, code))
        loop = asyncio.get_running_loop()

        async def coroutine() -> Any:
            return await code()

        def blocking() -> Any:
            return asyncio.run_coroutine_threadsafe(coroutine(), loop).result()

        given = await in_pool(self._prepare, self._action, blocking)
        return self._keep(await given if inspect.isawaitable(given) else given)

    def tool(self, tool: Any, in_pool: Callable[..., Awaitable[Any]]) -> Any:
        """A copy of a tool that prepares: all around its own code (arguments, format, errors) stays as it is."""
        staged = copy.copy(tool)
        own_run, own_arun = tool._run, tool._arun

        @functools.wraps(own_run)
        def run(*args: Any, **kwargs: Any) -> Any:
            return self.run(lambda: own_run(*args, **kwargs))

        @functools.wraps(own_arun)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            return await self.arun(lambda: own_arun(*args, **kwargs), in_pool)

        # Past pydantic, which takes no attributes that are not fields.
        object.__setattr__(staged, "_run", run)
        object.__setattr__(staged, "_arun", arun)
        return staged


def key_of(info: ToolInfo, request: Any) -> Any:
    """All that one tool call's result may depend on, its own id aside."""
    call = request.tool_call
    if not info.injected:
        return {"args": call["args"]}
    return {"args": call["args"], "state": request.state}
