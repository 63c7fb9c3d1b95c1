"""What was learned of guesses, kept in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.store.memory import InMemoryStore

from langgraph_speculative import Policy, Report, SpeculationError, SpeculativeGraph, speculative
from langgraph_speculative._calibration import MEMORY
from langgraph_speculative._knowledge import Knowledge
from langgraph_speculative._memory import SAVE_EVERY, Memory
from langgraph_speculative._scheduler import POOL
from tests.support import LIMIT, Watch, World, chain


class State(TypedDict, total=False):
    x: int


def build(world: World, store: Any, guess: int) -> SpeculativeGraph:
    watch = Watch()

    async def a(state: State) -> Any:
        await watch.saw("guess").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        return {}

    def speculator(state: State) -> Any:
        return {"x": guess}

    graph = chain(State, world.node(a), world.node(b)).compile(name="my.graph")
    return speculative(
        graph, speculators={"a": speculator}, effects={"b": "pure"}, policy=Policy(store=store, hooks=(watch,))
    )


def test_what_one_process_has_learned_another_knows(world: World) -> None:
    store = InMemoryStore()
    first = build(world, store, guess=2)
    world.invoke(first, {"x": 0})
    first.close()
    assert first.drain(LIMIT) == 0
    (item,) = [i for i in store.search(("langgraph_speculative", "policy", "my_graph")) if i.value["windows"]]
    assert (item.key, item.value["windows"]) == ("a", [False])
    second = build(world, store, guess=2)
    second._speculation.memory.load()
    assert second.drain(LIMIT) == 0
    known = second._speculation.knowledge.of("a")
    assert list(known.door.windows) == [False]
    assert known.calibration.probability("function", 0, 1.0) == pytest.approx(2 / 3)
    world.invoke(second, {"x": 0})
    second.close()
    assert second.drain(LIMIT) == 0
    (item,) = [i for i in store.search(("langgraph_speculative", "policy", "my_graph")) if i.value["windows"]]
    assert item.value["windows"] == [False, False], "counts are added to, not replaced"
    assert known.calibration.probability("function", 0, 1.0) == pytest.approx(2 / 4)


class Broken(InMemoryStore):
    broken = True

    def batch(self, ops: Any) -> Any:
        if self.broken:
            raise OSError("no store")
        return super().batch(ops)


def memory(store: Any, clock: Any = lambda: 0.0) -> Memory:
    return Memory(store, "g", Knowledge(Policy()), object(), Report(), clock)


def learn(own: Memory, *windows: bool) -> None:
    known = own._knowledge.of("a")
    for right in windows:
        known.door.learn(right)
        known.fresh_windows.append(right)
        known.learn("s", 0, 0.5, right)


def kept(own: Memory) -> Any:
    POOL.drain(own._owner, LIMIT)
    item = own._store.get(own.namespace, "a")
    return None if item is None else item.value


def test_a_store_that_fails_costs_an_entry_and_nothing_is_lost() -> None:
    store = Broken()
    own = memory(store)
    learn(own, True, False)
    own.load()
    POOL.drain(own._owner, LIMIT)
    own.save(at_once=True)
    POOL.drain(own._owner, LIMIT)
    assert [error.split(":")[0] for error in own._report.errors] == [
        "the policy's store could not be read",
        "the policy's store could not be written",
    ]
    learn(own, True)
    store.broken = False
    own.save(at_once=True)
    value = kept(own)
    assert value["windows"] == [True, False, True]
    assert sum(cell[0] for cell in value["guesses"]["s"]["0"]) == 3


def test_it_is_written_now_and_then_and_read_once() -> None:
    now = 0.0
    store = InMemoryStore()
    own = memory(store, lambda: now)
    own.save()
    assert kept(own) is None, "nothing has been learned"
    now += SAVE_EVERY
    learn(own, True)
    own.save()
    assert kept(own)["windows"] == [True]
    learn(own, False)
    own.save()
    assert kept(own)["windows"] == [True], "it was written a moment ago"
    now += SAVE_EVERY
    own.save()
    assert kept(own)["windows"] == [True, False]
    other = memory(store)
    learn(other, *[False] * MEMORY)
    other.save(at_once=True)
    assert kept(other)["windows"] == [False] * MEMORY
    other.load()
    POOL.drain(other._owner, LIMIT)
    other.load()
    POOL.drain(other._owner, LIMIT)
    assert list(other._knowledge.of("a").door.windows) == [False] * MEMORY


def test_what_is_learned_while_the_store_is_read_counts_once() -> None:
    store = InMemoryStore()
    first = memory(store)
    learn(first, False, False)
    first.save(at_once=True)
    POOL.drain(first._owner, LIMIT)
    second = memory(store)
    learn(second, True)
    second.load()
    POOL.drain(second._owner, LIMIT)
    known = second._knowledge.of("a")
    assert list(known.door.windows) == [False, False, True]
    assert known.calibration.probability("s", 0, 0.5) == pytest.approx(2 / 5)


def test_a_sqlite_store(tmp_path: Path) -> None:
    sqlite = pytest.importorskip("langgraph.store.sqlite")
    with sqlite.SqliteStore.from_conn_string(str(tmp_path / "kept.db")) as store:
        store.setup()
        own = memory(store)
        learn(own, True)
        own.save(at_once=True)
        assert kept(own)["windows"] == [True]


def test_a_store_is_a_store() -> None:
    with pytest.raises(SpeculationError, match=r"Policy\(store='x'\): pass a LangGraph store"):
        Policy(store="x")  # type: ignore[arg-type]
