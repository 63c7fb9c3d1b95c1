"""Handlers of every kind see the committed calls, under the right parent, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict
from unittest.mock import MagicMock

import pytest
from langchain_core.callbacks import (
    AsyncCallbackHandler,
    UsageMetadataCallbackHandler,
    get_usage_metadata_callback,
)
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers.context import collect_runs
from langgraph.graph import add_messages
from langgraph.prebuilt import ToolNode
from langsmith import Client
from langsmith.utils import get_env_var

from langgraph_speculative import Policy, speculative
from langgraph_speculative._observe import Canon, Recorder, blurred
from tests.support import ScriptedModel, World, call, chain, says
from tests.twins import Stage

WORLDS = ("sync", "async", "mixed")


class Chat(TypedDict, total=False):
    x: int
    messages: Annotated[list[AnyMessage], add_messages]
    log: Annotated[list[Any], operator.add]


EFFECTS = {"a": "pure", "talk": "pure", "look": "read", "last": "pure"}


def talking(stage: Stage, own: Callable[[str], list[Any]] = lambda _: []) -> Any:
    """a -> talk -> use -> last, whose models, prompts and tools may have handlers of their own."""

    async def a(state: Chat) -> Any:
        await stage.hold()
        return {"x": 1}

    model = ScriptedModel(
        script=lambda ms: says(f"so {ms[-1].content}", call("look", q=ms[-1].content)), callbacks=own("model")
    )
    prompt = ChatPromptTemplate.from_messages([("system", "be brief"), ("user", "{x}")])
    piped = (prompt | model).with_config(callbacks=own("sequence"), run_name="piped")

    async def talk(state: Chat, config: RunnableConfig) -> Any:
        await stage.world.call(model, [HumanMessage("first")])
        return {"messages": [await stage.world.call(piped, {"x": state["x"]}, config)]}

    async def _look(q: str) -> str:
        return f"looked {q}"

    look = tool("look", description="Look.")(stage.world.node(_look))
    look.callbacks = own("tool")

    async def last(state: Chat) -> Any:
        stage.done("last")
        return {"log": [state["x"]]}

    builder = chain(Chat, stage.node("a", a), stage.node("talk", talk))
    builder.add_node("use", ToolNode([look]))
    builder.add_node("last", stage.node("last", last))
    builder.add_edge("talk", "use")
    builder.add_edge("use", "last")
    return builder.compile()


def on_guesses(stage: Stage, guess: int, **kwargs: Any) -> Any:
    stage.until = stage.probe.tally.reached("last")
    return speculative(
        talking(stage, **kwargs),
        speculators={"a": lambda s: {"x": guess}},
        effects=EFFECTS,
        policy=Policy(depth=5, hooks=(stage.probe.watch,)),
    )


@pytest.fixture(params=[1, 2], ids=["right", "wrong"])
def guess(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class AsyncRecorder(AsyncCallbackHandler, Recorder):
    """`Recorder`, as a handler of coroutines."""


for _name in [n for n in vars(Recorder) if n.startswith("on_")]:

    def _make(name: str) -> Any:
        async def event(self: Any, *args: Any, **kwargs: Any) -> None:
            getattr(Recorder, name)(self, *args, **kwargs)

        return event

    setattr(AsyncRecorder, _name, _make(_name))


@pytest.mark.parametrize("kind", [Recorder, AsyncRecorder])
def test_handlers_of_the_config(world: World, guess: int, kind: Any) -> None:
    plain, fast = kind(), kind()
    world.invoke(talking(Stage(world)), {"x": 0}, {"callbacks": [plain]})
    stage = Stage(world, fast=True)
    graph = on_guesses(stage, guess)
    world.invoke(graph, {"x": 0}, {"callbacks": [fast]})
    assert fast.events == plain.events
    assert graph.report().launched >= 3
    assert [e["run"] for e in fast.of("chat_model_start")] == ["ScriptedModel"] * 2


@pytest.mark.parametrize("listener", [False, True], ids=["alone", "beside the run's"])
@pytest.mark.parametrize("kind", [Recorder, AsyncRecorder])
def test_handlers_of_the_constructor(world: World, guess: int, kind: Any, listener: bool) -> None:
    """A model, a sequence or a tool that has a handler of its own reports to it when the call is committed."""

    def run(graph: Any, own: dict[str, Any]) -> Any:
        config = {"callbacks": [own["config"]]} if listener else {}
        world.invoke(graph, {"x": 0}, config)
        return {name: handler.events for name, handler in own.items()}

    plain = {name: kind() for name in ("model", "sequence", "tool", "config")}
    expected = run(talking(Stage(world), lambda name: [plain[name]]), plain)
    fast = {name: kind() for name in plain}
    stage = Stage(world, fast=True)
    graph = on_guesses(stage, guess, own=lambda name: [fast[name]])
    assert run(graph, fast) == expected
    assert graph.report().claimed == (3 if guess == 1 else 0)
    assert expected["model"]
    assert expected["tool"]


def test_a_handler_of_config_and_constructor_hears_once(world: World, guess: int) -> None:
    plain, fast = Recorder(), Recorder()
    world.invoke(talking(Stage(world), lambda _: [plain]), {"x": 0}, {"callbacks": [plain]})
    graph = on_guesses(Stage(world, fast=True), guess, own=lambda _: [fast])
    world.invoke(graph, {"x": 0}, {"callbacks": [fast]})
    assert fast.events == plain.events


def test_token_counters(world: World, guess: int) -> None:
    """Those of the config and those of the context count what is committed, and count it once."""

    def run(graph: Any) -> Any:
        own = UsageMetadataCallbackHandler()
        with get_usage_metadata_callback() as ambient:
            world.invoke(graph, {"x": 0}, {"callbacks": [own]})
        return own.usage_metadata, ambient.usage_metadata

    expected = run(talking(Stage(world)))
    assert run(on_guesses(Stage(world, fast=True), guess)) == expected
    assert expected[0]["scripted"]["total_tokens"] == 10


def tree(run: Any) -> Any:
    return (run.name, run.run_type, blurred(Canon()(run.inputs)), [tree(child) for child in run.child_runs])


def test_collected_runs(world: World, guess: int) -> None:
    def run(graph: Any) -> Any:
        with collect_runs() as collected:
            world.invoke(graph, {"x": 0})
        return [tree(r) for r in collected.traced_runs]

    assert run(on_guesses(Stage(world, fast=True), guess)) == run(talking(Stage(world)))


class Posted:
    """A LangSmith client that sends nothing."""

    def __init__(self) -> None:
        self.client = MagicMock(spec=Client)
        self.client.tracing_queue = None

    def runs(self) -> dict[Any, Any]:
        return {c.kwargs["id"]: c.kwargs for c in self.client.create_run.call_args_list}

    def paths(self) -> list[Any]:
        """Each run by its names from the root, in the order of their start; the root of an orphan is unknown."""
        runs = self.runs()

        def path(run: Any) -> str:
            parent = run.get("parent_run_id")
            if parent is None:
                return str(run["name"])
            return f"{path(runs[parent]) if parent in runs else 'unknown'} > {run['name']}"

        return [path(run) for run in runs.values()]


@pytest.mark.parametrize("how", ["environment", "config"])
def test_traces(world: World, guess: int, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run that a tracer sees is one of the plain graph's, below the same parents, and one trace in all."""

    def set_tracing(value: str) -> None:
        for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
            monkeypatch.setenv(name, value)
        get_env_var.cache_clear()

    def run(graph: Any) -> Any:
        posted = Posted()
        config: dict[str, Any] = {}
        if how == "config":
            config["callbacks"] = [LangChainTracer(client=posted.client)]
        else:
            monkeypatch.setattr("langchain_core.tracers.langchain.get_client", lambda: posted.client)
            set_tracing("true")
        try:
            world.invoke(graph, {"x": 0}, config)
        finally:
            set_tracing("false")
        traces = {r["trace_id"] for r in posted.runs().values()}
        ended = {c.kwargs["run_id"] for c in posted.client.update_run.call_args_list}
        return posted.paths(), len(traces), ended == set(posted.runs())

    expected = run(talking(Stage(world)))
    graph = on_guesses(Stage(world, fast=True), guess)
    assert run(graph) == expected
    assert expected[1:] == (1, True)
    assert "LangGraph > talk > piped > ScriptedModel" in expected[0]
    assert graph.report().claimed == (3 if guess == 1 else 0)
