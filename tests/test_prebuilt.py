"""Which nodes of prebuilt agents are known to be pure, from stand-ins of them; and functions that make graphs.

What the real agents look like is in `test_agents.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, TypedDict

import pytest
from langchain.agents.middleware import ModelRetryMiddleware, TodoListMiddleware
from langgraph.graph import START, StateGraph

from langgraph_speculative._compat import RunnableCallable
from langgraph_speculative._decorator import decorate
from langgraph_speculative._nodes import LeafInfo, NodeInfo, ToolInfo, called_tools, recognise, successors_of
from langgraph_speculative.effects import Effect

AGENT, PREBUILT = "langchain.agents.factory", "langgraph.prebuilt.chat_agent_executor"
PURE = (Effect.PURE, "model node of a prebuilt agent", True)


def named(function: Any, module: str, qualname: str) -> Any:
    function.__module__, function.__qualname__ = module, qualname
    return function


def but(reason: str) -> Any:
    return (Effect.UNDECLARED, f"model node, but {reason}", True)


# --- langchain's create_agent ---------------------------------------------------------------------------------------


def agent(
    name: str = "create_agent.<locals>.model_node", handler: Any = None, ahandler: Any = None, tools: Any = ()
) -> Any:
    wrap_model_call_handler, awrap_model_call_handler, default_tools = handler, ahandler, tools

    def func(state: Any) -> Any:
        return wrap_model_call_handler, default_tools

    async def afunc(state: Any) -> Any:
        return awrap_model_call_handler, default_tools

    return RunnableCallable(named(func, AGENT, name), named(afunc, AGENT, name.replace("model", "amodel")))


class Foreign:
    def wrap_model_call(self, request: Any, handler: Any) -> Any: ...


def hook(middleware: Any) -> Any:
    def composed(request: Any, execute: Any) -> Any:
        return middleware.wrap_model_call(request, execute)

    def handler(request: Any, execute: Any, own: Any = None) -> Any:
        return bound

    bound = middleware.wrap_model_call
    return handler


def test_the_model_node_of_an_agent() -> None:
    assert recognise(agent()) == PURE
    assert recognise(agent(handler=hook(TodoListMiddleware()))) == PURE
    assert recognise(agent(tools=[SimpleNamespace(name="t")])) == PURE


def test_other_nodes_of_an_agent_are_not_recognised() -> None:
    assert recognise(agent("create_agent.<locals>.other")) is None
    assert recognise(agent("something.<locals>.model_node")) is None
    assert recognise(named(lambda state: None, AGENT, "create_agent.<locals>.model_node")) is None  # no runnable


@pytest.mark.parametrize("where", ["handler", "ahandler"])
def test_an_agents_model_node_with_foreign_middleware(where: str) -> None:
    unknown: Any = {where: hook(Foreign())}
    assert recognise(agent(**unknown)) == but("wrap_model_call of Foreign runs inside")
    retry: Any = {where: hook(ModelRetryMiddleware())}
    assert recognise(agent(**retry)) == but("wrap_model_call of ModelRetryMiddleware runs inside")
    nobody: Any = {where: lambda request, execute: None}
    assert recognise(agent(**nobody)) == but("wrap_model_call of unknown middleware runs inside")


def test_an_agents_model_node_whose_provider_has_tools() -> None:
    assert recognise(agent(tools=[{"type": "web_search"}])) == but("the provider executes tools of its own")


def test_hooks_of_pure_middleware() -> None:
    class Own:
        def before_model(self, state: Any) -> Any: ...

    middleware = TodoListMiddleware()
    assert recognise(RunnableCallable(middleware.wrap_model_call)) == (  # type: ignore[arg-type]
        Effect.PURE,
        "LangChain's TodoListMiddleware",
        False,
    )
    assert recognise(RunnableCallable(Own().before_model)) is None
    assert recognise(SimpleNamespace()) is None


# --- langgraph's create_react_agent ---------------------------------------------------------------------------------


def react(name: str = "create_react_agent.<locals>.call_model", **variables: Any) -> Any:
    """Its variables are what the function closes over, under these names."""
    args = ", ".join(variables)
    source = f"def make({args}):\n def call(state):\n  return ({args or 'None'},)\n return call"
    scope: dict[str, Any] = {}
    exec(source, scope)
    return RunnableCallable(named(scope["make"](**variables), PREBUILT, name))


def prompt(module: str = PREBUILT) -> Any:
    return RunnableCallable(named(lambda state: state, module, "_get_prompt_runnable.<locals>.<lambda>"))


def model(*steps: Any) -> Any:
    return SimpleNamespace(steps=list(steps))


def bound(*tools: Any) -> Any:
    return SimpleNamespace(kwargs={"tools": list(tools)})


OWN_TOOLS = ({"type": "function"}, {"name": "untyped"}, SimpleNamespace(name="t"))


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"static_model": model(prompt(), SimpleNamespace())}, PURE),
        ({"static_model": model(prompt(), bound(*OWN_TOOLS))}, PURE),
        ({"static_model": model(prompt(), SimpleNamespace(kwargs={"tools": None}))}, PURE),
        ({"static_model": model(SimpleNamespace(), bound())}, PURE),
        ({"static_model": model(prompt(), bound()), "is_dynamic_model": False}, PURE),
        ({"static_model": model()}, but("its model cannot be looked into")),
        ({"static_model": SimpleNamespace()}, but("its model cannot be looked into")),
        ({"other": 1}, but("its model cannot be looked into")),
        ({"static_model": model(prompt("mine"), bound())}, but("the prompt is a callable")),
        (
            {"static_model": model(prompt(), bound(*OWN_TOOLS, {"type": "web_search"}))},
            but("the provider executes tools of its own"),
        ),
        (
            {"static_model": model(prompt(), SimpleNamespace(), bound({"type": "web_search"}))},
            but("the provider executes tools of its own"),
        ),
        (
            {"static_model": model(prompt(), bound()), "is_dynamic_model": True},
            but("the model is chosen by a callable"),
        ),
        (
            {"static_model": model(prompt(), bound()), "is_async_dynamic_model": True},
            but("the model is chosen by a callable"),
        ),
    ],
)
def test_the_model_node_of_a_react_agent(variables: Any, expected: Any) -> None:
    assert recognise(react(**variables)) == expected


@pytest.mark.parametrize(("dynamic", "expected"), [(False, PURE), (True, but("the model is chosen by a callable"))])
def test_a_react_agents_model_in_a_function_of_its_own(dynamic: bool, expected: Any) -> None:
    static_model, is_dynamic_model = model(prompt(), bound()), dynamic

    def resolve() -> Any:
        return static_model, is_dynamic_model

    assert recognise(react(_resolve_model=resolve)) == expected


def test_other_functions_of_the_prebuilt_package() -> None:
    assert recognise(react("other.<locals>.call_model", static_model=model(prompt()))) is None


# --- leaves ---------------------------------------------------------------------------------------------------------


def test_what_is_known_of_a_leaf_is_of_that_one_alone() -> None:
    made: list[Any] = [kind("a", Effect.PURE, "none", "") for kind in (LeafInfo, ToolInfo, NodeInfo) for _ in range(2)]
    assert [[a == b for b in made] for a in made] == [[a is b for b in made] for a in made]
    assert len(set(made)) == 6
    leaf = made[0]
    assert (leaf.step_bound, leaf.sync_only) == (True, False)
    node: NodeInfo = made[-1]
    assert [node.speculate, node.lends, node.timed, node.is_model, node.foreign_wrapper, node.sync_wrapper_only] == [
        False
    ] * 6
    assert made[2].injected is False
    assert node.tools is not NodeInfo("b", Effect.PURE, "none", "").tools


def test_calls_in_the_last_message_that_has_any() -> None:
    def says(*names: str) -> Any:
        return SimpleNamespace(tool_calls=[{"name": n} for n in names])

    assert called_tools([says("a"), says("b", "c"), says(), object()]) == ["b", "c"]
    assert called_tools({"messages": [says("a")], "other": [says("b")]}) == ["a"]
    assert called_tools(SimpleNamespace(messages=[says("a")])) == ["a"]
    assert called_tools(({"type": "tool_call", "name": "a"}, {"type": "tool_call", "name": "b"})) == ["a", "b"]
    assert called_tools([{"type": "other", "name": "a"}]) == []
    assert called_tools([]) == called_tools({}) == called_tools(None) == []


def test_a_router_that_names_no_ends_may_go_anywhere() -> None:
    def builder(*ends: Any) -> Any:
        return SimpleNamespace(
            edges={("a", "b"), ("b", "c")},
            waiting_edges={(("a", "x"), "d"), (("x",), "e")},
            branches={"a": {str(i): SimpleNamespace(ends=e) for i, e in enumerate(ends)}},
            nodes={"a": SimpleNamespace(ends=("f",)), "b": SimpleNamespace(ends=None)},
        )

    assert successors_of(builder(), "a") == {"b", "d", "f"}
    assert successors_of(builder({"k": "g"}, {"l": "h"}), "a") == {"b", "d", "f", "g", "h"}
    assert successors_of(builder({"k": "g"}, None), "a") is None
    assert successors_of(builder(), "b") == {"c"}
    assert successors_of(builder(), "gone") == frozenset()


# --- functions that make graphs -------------------------------------------------------------------------------------


class Fast:
    """What a graph is wrapped into."""

    def __init__(self, graph: Any, events: list[str]) -> None:
        self.graph, self.events = graph, events

    def __enter__(self) -> Fast:
        self.events.append("enter")
        return self

    def __exit__(self, *_: Any) -> None:
        self.events.append("exit")


class State(TypedDict, total=False):
    x: int


@pytest.fixture
def events() -> list[str]:
    return []


@pytest.fixture
def wrap(events: list[str]) -> Any:
    return lambda graph: Fast(graph, events)


def test_a_graph_is_wrapped_as_it_is(wrap: Any) -> None:
    graph = object()
    assert decorate(graph, wrap).graph is graph


def test_a_function_keeps_its_name_and_gives_its_arguments(wrap: Any) -> None:
    def make(a: int, *, b: int) -> Any:
        """Makes it."""
        return a, b

    made = decorate(make, wrap)
    assert (made.__name__, made.__doc__) == ("make", "Makes it.")
    assert made(1, b=2).graph == (1, 2)


async def test_a_coroutine_function_keeps_its_name_and_gives_its_arguments(wrap: Any) -> None:
    async def make(a: int, *, b: int) -> Any:
        """Makes it."""
        return a, b

    made = decorate(make, wrap)
    assert (made.__name__, made.__doc__) == ("make", "Makes it.")
    assert (await made(1, b=2)).graph == (1, 2)


def test_a_function_that_returns_a_compiled_graph(wrap: Any, events: list[str]) -> None:
    graph = StateGraph(State).add_node("a", lambda s: {"x": 1}).add_edge(START, "a").compile()
    assert decorate(lambda: graph, wrap)().graph is graph
    assert events == []  # nobody has entered it


def manager(events: list[str]) -> Any:
    @contextmanager
    def opened() -> Iterator[str]:
        events.append("open")
        try:
            yield "graph"
        finally:
            events.append("close")

    return opened


def amanager(events: list[str]) -> Any:
    @asynccontextmanager
    async def opened() -> AsyncIterator[str]:
        events.append("open")
        try:
            yield "graph"
        finally:
            events.append("close")

    return opened


def fail(events: list[str]) -> None:
    events.append("inside")
    raise LookupError


ORDER = ["open", "enter", "inside", "exit", "close"]


@pytest.mark.parametrize("generator", [False, True])
def test_a_managed_graph_is_left_before_what_it_stands_on(wrap: Any, events: list[str], generator: bool) -> None:
    opened = manager(events)
    function = opened.__wrapped__ if generator else opened
    with decorate(function, wrap)() as fast:
        assert fast.graph == "graph"
        events.append("inside")
    assert events == ORDER
    with pytest.raises(LookupError), decorate(function, wrap)():
        fail(events)
    assert events == ORDER * 2


@pytest.mark.parametrize("generator", [False, True])
async def test_the_same_for_asynchronous_managers(wrap: Any, events: list[str], generator: bool) -> None:
    opened = amanager(events)
    function = opened.__wrapped__ if generator else opened
    async with decorate(function, wrap)() as fast:
        assert fast.graph == "graph"
        events.append("inside")
    assert events == ORDER

    async def failing() -> None:
        async with decorate(function, wrap)():
            fail(events)

    with pytest.raises(LookupError):
        await failing()
    assert events == ORDER * 2
