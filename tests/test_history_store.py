"""History in a store: several processes, several tenants, forgetting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.memory import InMemoryStore

from langgraph_speculative import SpeculationError
from langgraph_speculative.speculators import History
from langgraph_speculative.speculators import _history_store as shelves
from tests.test_history import NEW, RUNS, call, calls, result, say, shop_run, user


def of(tenant: str) -> Any:
    return {"configurable": {"tenant": tenant}}


def items(store: Any) -> list[Any]:
    return store.search(("speculation",), limit=1000)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        monkeypatch.setattr("time.time", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def first_guess(history: History, config: Any = None) -> Any:
    found = calls(history.guess(NEW[:5], config or {}))
    return found[0] if found else None


WANTED = ("customer", {"id": "zoe_87"})


def test_another_process_guesses_what_was_learned_here() -> None:
    store = InMemoryStore()
    History(store=store).fit(RUNS).flush()
    assert first_guess(History(store=store)) == WANTED


async def test_asynchronously_too() -> None:
    store = InMemoryStore()
    await History(store=store).fit(RUNS).aflush()
    other = History(store=store)
    assert calls(await other.aguess(NEW[:5], {}))[0] == WANTED
    await other.adelete()
    assert calls(await History(store=store).aguess(NEW[:5], {})) == []


def test_in_a_sqlite_file(tmp_path: Path) -> None:
    sqlite = pytest.importorskip("langgraph.store.sqlite")
    with sqlite.SqliteStore.from_conn_string(str(tmp_path / "store.db")) as store:
        store.setup()
        History(store=store).fit(RUNS).flush()
        other = History(store=store)
        assert first_guess(other) == WANTED
        other.delete()
        assert first_guess(History(store=store)) is None


def test_processes_add_to_each_other() -> None:
    store = InMemoryStore()
    one, two = History(store=store), History(store=store)
    one.fit(RUNS)
    two.fit([[user("Weather?"), call("weather", day="now"), result("weather", "dry"), say("Dry.")]] * 9)
    for process in (one, two, one):
        process.flush()
    third = History(store=store)
    for process in (one, two, third):
        assert first_guess(process) == WANTED
        assert calls(process.guess([user("Weather?")], {}))[0] == ("weather", {"day": "now"})


def test_counts_are_added_once_however_often_they_are_read() -> None:
    store = InMemoryStore()
    one, two = History(store=store).fit(RUNS[:3]), History(store=store).fit(RUNS[3:5])

    def total(history: History) -> float:
        (tenant,) = history._tenants.values()
        return sum(sum(c) for ways in tenant.model.templates.values() for c in ways.values())

    alone = [total(one), total(two)]
    for process in (one, two, one, two, one):
        process.flush()
    assert total(one) == total(two) == sum(alone)


def test_writing_waits_for_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    store = InMemoryStore()
    History(store=store, sync_seconds=1e9).fit(RUNS[:1])
    assert items(store) == []
    History(store=store, sync_seconds=0.0).fit(RUNS[:1])
    assert len(items(store)) == 1


def test_tenants_learn_apart() -> None:
    store = InMemoryStore()
    history = History(store=store, tenant="tenant")
    history.fit(RUNS, config=of("a"))
    history.flush()
    for reader in (history, History(store=store, tenant=lambda config: config["configurable"]["tenant"])):
        assert first_guess(reader, of("a")) == WANTED
        assert first_guess(reader, of("b")) is None


def test_a_run_without_its_tenant_is_refused() -> None:
    with pytest.raises(SpeculationError, match="tenant"):
        History(tenant="tenant").guess(NEW[:3], {"configurable": {}})


SECRET = "s3cret-Key"


def secretive(number: int) -> list[Any]:
    run = shop_run(number, "Al", "Low")
    return [*run[:3], call("login", key=SECRET), result("login", "done", key=SECRET), *run[3:]]


def test_patterns_are_shared_and_literals_never() -> None:
    store = InMemoryStore()
    for tenant in ("a", "b"):
        one = History(store=store, tenant="tenant", share_patterns=True)
        one.fit([secretive(n) for n in range(30, 38)], config=of(tenant)).flush()
    other = History(store=store, tenant="tenant", share_patterns=True)
    assert first_guess(other, of("c")) == WANTED
    assert SECRET not in str([calls(other.guess(NEW[:n], of("c"))) for n in range(1, len(NEW))])
    common = [i for i in items(store) if i.namespace[-1] == "common"]
    assert len(common) == 2
    assert SECRET not in json.dumps([i.value for i in common])
    own = [i for i in items(store) if i.namespace[-1] != "common"]
    assert SECRET in json.dumps([i.value for i in own])
    assert first_guess(History(store=store, tenant="tenant"), of("c")) is None


def test_a_pattern_of_one_tenant_alone_is_not_shared() -> None:
    store = InMemoryStore()
    History(store=store, tenant="tenant", share_patterns=True).fit(RUNS, config=of("a")).flush()
    assert first_guess(History(store=store, tenant="tenant", share_patterns=True), of("c")) is None


@pytest.mark.parametrize("redact", [lambda text: None, lambda text: '"gone"'])
def test_constants_are_redacted_before_they_are_written(redact: Callable[[str], str | None]) -> None:
    store = InMemoryStore()
    history = History(store=store, redact=redact).fit([secretive(n) for n in range(30, 36)])
    history.flush()
    assert SECRET not in json.dumps([i.value for i in items(store)])
    assert first_guess(History(store=store)) == WANTED


def test_a_deleted_tenant_is_forgotten_everywhere(clock: Clock) -> None:
    store = InMemoryStore()
    one, two = (History(store=store, tenant="tenant", share_patterns=True) for _ in range(2))
    for process in (one, two):
        process.fit(RUNS, config=of("a"))
        process.fit(RUNS[:2], config=of("b"))
        process.flush()
    clock.now += 1
    one.delete("a")
    assert first_guess(one, of("a")) is None
    # The other process has it in memory still, and does not bring it back.
    clock.now += 1
    two.flush()
    assert first_guess(two, of("a")) is None
    two.flush()
    left = [i for i in items(store) if i.key != shelves.DELETED]
    assert {i.namespace for i in left} == {
        i.namespace for i in left if shelves.Shelf((), "a", 1, True).name not in str(i)
    }
    assert first_guess(two, of("b")) == WANTED
    # What comes after the deletion is learned.
    two.fit(RUNS, config=of("a")).flush()
    assert first_guess(History(store=store, tenant="tenant"), of("a")) == WANTED


def test_what_nobody_writes_again_expires(clock: Clock) -> None:
    store = InMemoryStore()
    History(store=store, expiry=1.0).fit(RUNS).flush()
    clock.now += 86_399
    assert first_guess(History(store=store, expiry=1.0)) == WANTED
    clock.now += 2
    assert first_guess(History(store=store, expiry=1.0)) is None
    assert items(store) == []


def test_the_shares_of_ended_processes_become_one(clock: Clock) -> None:
    store = InMemoryStore()
    for _ in range(shelves.MAX_SHARES):
        History(store=store).fit(RUNS[:2]).flush()
    assert len(items(store)) == shelves.MAX_SHARES
    clock.now += shelves.SILENT + 1
    late = History(store=store)
    assert first_guess(late) == WANTED
    late.flush()
    (folded,) = items(store)
    assert len(folded.value["of"]) == shelves.MAX_SHARES
    assert first_guess(History(store=store)) == WANTED


def test_a_tenant_that_leaves_memory_is_written_before() -> None:
    store = InMemoryStore()
    history = History(store=store, tenant="tenant", max_tenants=1, sync_seconds=1e9)
    history.fit(RUNS, config=of("a"))
    history.fit(RUNS[:1], config=of("b"))
    assert len(history._tenants) == 1
    assert first_guess(history, of("a")) == WANTED
