"""Threads, their histories and what can be done with them, in memory, SQLite and PostgreSQL."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langgraph_speculative import Policy, speculative
from langgraph_speculative._observe import Canon
from tests.support import AsyncWorld, World, chain, drive
from tests.twins import Stage


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


@pytest.fixture(scope="session")
def postgres(postgres_server: str) -> str:
    """The address of a server that has a saver."""
    saver = pytest.importorskip(
        "langgraph.checkpoint.postgres", reason="langgraph-checkpoint-postgres is not installed"
    )
    with saver.PostgresSaver.from_conn_string(postgres_server) as opened:
        opened.setup()
    return postgres_server


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        pytest.importorskip("langgraph.checkpoint.sqlite", reason="langgraph-checkpoint-sqlite is not installed")
    if request.param == "postgres":
        request.getfixturevalue("postgres")
    return str(request.param)


@pytest.fixture
def run(
    request: pytest.FixtureRequest, world: World, kind: str, tmp_path: Any
) -> Callable[[Callable[[Any], Awaitable[Any]]], Any]:
    """Runs a scenario with an empty checkpointer of this kind, in this world."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        if kind == "memory":
            yield InMemorySaver()
        elif kind == "sqlite" and isinstance(world, AsyncWorld):
            from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

            async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
                yield saver
        elif kind == "sqlite":
            from langgraph.checkpoint.sqlite import SqliteSaver

            with SqliteSaver.from_conn_string(":memory:") as saver:
                yield saver
        elif isinstance(world, AsyncWorld):
            from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

            async with AsyncPostgresSaver.from_conn_string(request.getfixturevalue("postgres")) as saver:
                await saver.adelete_thread("1")
                yield saver
        else:
            from langgraph.checkpoint.postgres import PostgresSaver

            with PostgresSaver.from_conn_string(request.getfixturevalue("postgres")) as saver:
                saver.delete_thread("1")
                yield saver

    def run_one(scenario: Callable[[Any], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with opened() as saver:
                return await scenario(saver)

        return world.run(main) if isinstance(world, AsyncWorld) else drive(main())

    return run_one


CONFIG: Any = {"configurable": {"thread_id": "1"}}


class Thread:
    """One thread of a graph, in either world."""

    def __init__(self, world: World, graph: Any) -> None:
        self._sync = not isinstance(world, AsyncWorld)
        self._graph = graph

    async def invoke(self, value: Any, config: Any = CONFIG, **kwargs: Any) -> Any:
        if self._sync:
            return self._graph.invoke(value, config, **kwargs)
        return await self._graph.ainvoke(value, config, **kwargs)

    async def state(self, config: Any = CONFIG) -> Any:
        if self._sync:
            return self._graph.get_state(config, subgraphs=True)
        return await self._graph.aget_state(config, subgraphs=True)

    async def history(self) -> list[Any]:
        if self._sync:
            return list(self._graph.get_state_history(CONFIG))
        return [s async for s in self._graph.aget_state_history(CONFIG)]

    async def update(self, config: Any, values: Any, as_node: str | None = None) -> Any:
        if self._sync:
            return self._graph.update_state(config, values, as_node)
        return await self._graph.aupdate_state(config, values, as_node)

    async def everything(self) -> list[Any]:
        """The history, and the state as it is found at every checkpoint of it."""
        history = await self.history()
        return [history, [await self.state(snapshot.config) for snapshot in history]]


def graph_of(stage: Stage, saver: Any, *, asks: bool = False) -> Any:
    """a -> b -> inner(i) -> c."""

    async def a(state: State) -> Any:
        await stage.hold()
        return {"x": state["x"] + 1}

    async def b(state: State) -> Any:
        return {"log": [f"b{state['x']}"]}

    async def i(state: State) -> Any:
        return {"x": state["x"] * 2, "log": [f"i{len(state['log'])}"]}

    async def c(state: State) -> Any:
        stage.done("c")
        return {"log": [interrupt("c?") if asks else f"c{state['x']}"]}

    builder = chain(State, stage.node("a", a), stage.node("b", b))
    builder.add_node("inner", chain(State, stage.node("i", i)).compile())
    builder.add_node("c", stage.node("c", c))
    builder.add_edge("b", "inner")
    builder.add_edge("inner", "c")
    return builder.compile(checkpointer=saver)


def on_guesses(stage: Stage, saver: Any, plus: int = 1, **kwargs: Any) -> Any:
    stage.until = stage.probe.watch.saw("stop", "c") if kwargs.get("asks") else stage.probe.tally.reached("c")
    return speculative(
        graph_of(stage, saver, **kwargs),
        speculators={"a": lambda s: {"x": s["x"] + plus}},
        effects={"a": "pure", "b": "pure", "i": "pure", "c": "pure"},
        policy=Policy(depth=5, hooks=(stage.probe.watch,)),
    )


Run = Callable[[Callable[[Any], Awaitable[Any]]], Any]


@pytest.mark.parametrize(("durability", "plus"), [("sync", 1), ("async", 1), ("async", 2), ("exit", 1)])
def test_history_time_travel_and_forks(world: World, run: Run, plus: int, durability: Any) -> None:
    """The same history and states; old checkpoints are gone on from, and changed, with the same outcome."""

    async def scenario(make: Callable[[Any], Any], saver: Any) -> tuple[Any, Any]:
        graph = make(saver)
        thread = Thread(world, graph)
        seen: list[Any] = [await thread.invoke({"x": 0}, durability=durability), await thread.everything()]
        seen.append(await thread.invoke({"x": 10}, durability=durability))
        history = await thread.history()
        for snapshot in history[::2]:
            seen.append(await thread.invoke(None, snapshot.config, durability=durability))
            forked = await thread.update(snapshot.config, {"x": 100, "log": ["forked"]}, "b")
            seen.append(await thread.invoke(None, forked, durability=durability))
        await thread.update(CONFIG, {"x": 7}, "a")
        seen += [await thread.invoke(None, durability=durability), await thread.everything()]
        return Canon()(seen), graph

    expected, _ = run(lambda saver: scenario(lambda s: graph_of(Stage(world), s), saver))
    actual, graph = run(lambda saver: scenario(lambda s: on_guesses(Stage(world, fast=True), s, plus), saver))
    assert actual == expected
    assert graph.report().claimed >= (3 if plus == 1 else 0)
    assert graph.report().launched >= 3
    assert not graph.report().errors


@pytest.mark.parametrize("writer", ["plain", "speculative"])
@pytest.mark.parametrize("resumer", ["plain", "speculative"])
def test_a_thread_goes_on_in_the_other_graph(world: World, run: Run, writer: str, resumer: str) -> None:
    """What one has written up to a question, the other answers."""

    async def scenario(writer: str, resumer: str, saver: Any) -> Any:
        def make(which: str) -> Any:
            if which == "plain":
                return graph_of(Stage(world), saver, asks=True)
            return on_guesses(Stage(world, fast=True), saver, asks=True)

        one, two = Thread(world, make(writer)), Thread(world, make(resumer))
        seen = [await one.invoke({"x": 0}), await two.everything()]
        (question,) = (await two.state()).interrupts
        seen += [await two.invoke(Command(resume={question.id: "yes"})), await one.everything()]
        return Canon()(seen)

    expected = run(lambda saver: scenario("plain", "plain", saver))
    assert run(lambda saver: scenario(writer, resumer, saver)) == expected
    assert "yes" in repr(expected)
