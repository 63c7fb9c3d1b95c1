"""A branch's own view of the store: its reads, its held writes, and what the claim makes of them."""

from __future__ import annotations

import asyncio
import operator
import threading
from collections.abc import Iterable
from typing import Annotated, Any, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_store, get_stream_writer
from langgraph.graph import add_messages
from langgraph.prebuilt import InjectedStore, ToolNode, ToolRuntime
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore, GetOp, Item, ListNamespacesOp, MatchCondition, Op, PutOp, Result, SearchOp
from langgraph.store.memory import InMemoryStore
from langgraph.types import interrupt

from langgraph_speculative import Guess, Policy, speculative
from langgraph_speculative._journal import Journal, JournalState
from langgraph_speculative._store import Overlay
from langgraph_speculative._view import Barrier
from tests.support import AsyncWorld, Probe, Signal, World, call, chain, says

# --- the overlay by itself ----------------------------------------------------------------------------------------


class Keeping(BaseStore):
    """A store of another make: JSON alone, listed by nobody knows what order; it notes what is asked of it."""

    supports_ttl = True

    def __init__(self, inner: InMemoryStore | None = None) -> None:
        self.inner = inner or InMemoryStore()
        self.batches: list[list[Op]] = []
        self.error: Exception | None = None

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        self.batches.append(ops)
        if self.error is not None and any(isinstance(op, PutOp) for op in ops):
            raise self.error
        return self.inner.batch(ops)

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        return self.batch(ops)

    @property
    def writes(self) -> list[list[Op]]:
        return [ops for ops in self.batches if any(isinstance(op, PutOp) for op in ops)]


class Early:
    """An overlay with its journal, and the reason why it cannot be claimed."""

    def __init__(self, base: BaseStore, *behind: Early) -> None:
        self.reasons: list[str] = []
        self.journal = Journal(base, [e.journal for e in behind], self.reasons.append)
        self.store = Overlay(base, self.journal)

    def claim(self, ids: dict[str, str] | None = None) -> bool:
        ids = ids or {}
        if not self.journal.check(ids) or not self.journal.is_claimable(ids):
            return False
        self.journal.land(ids)
        return True


def visible(value: Any) -> Any:
    """A result without its times."""
    if isinstance(value, list):
        return [visible(v) for v in value]
    if isinstance(value, Item):
        return (type(value).__name__, value.namespace, value.key, value.value)
    return value


def contents(store: BaseStore) -> Any:
    return visible(store.search((), limit=10**6)), store.list_namespaces(limit=10**6)


SPACES = [("a",), ("b",), ("a", "x"), ("a", "y"), ("b", "x")]
PREFIXES = [(), ("a",), ("b",), ("a", "x"), ("c",)]
VALUES = [None, {"n": 1}, {"n": 2, "t": "p"}, {"n": 3, "t": "q"}]
FILTERS = [None, {"n": 1}, {"n": {"$gt": 1}}, {"t": "p"}, {"t": {"$ne": "p"}}]
MATCHES = [None, *[(MatchCondition(k, p),) for k in ("prefix", "suffix") for p in (("a",), ("x",), ("*", "x"))]]


def decoded(number: int) -> Op:
    """An operation for each number: one draw for each keeps the search fast."""

    def pick(options: Any) -> Any:
        nonlocal number
        number, i = divmod(number, len(options))
        return options[i]

    kind = pick("ppgsl")
    if kind == "p":
        return PutOp(pick(SPACES), pick("123"), pick(VALUES))
    if kind == "g":
        return GetOp(pick(SPACES), pick("123"))
    if kind == "s":
        return SearchOp(pick(PREFIXES), pick(FILTERS), pick([10, 1, 2]), pick([0, 1, 2]))
    return ListNamespacesOp(pick(MATCHES), pick([None, 1]), pick([10, 1, 2]), pick([0, 1]))


def in_one_call(ops: list[Op]) -> list[Op]:
    """Without a `get` beside a list of namespaces, to which it may add one: that ends a branch."""
    lists = any(isinstance(op, ListNamespacesOp) for op in ops)
    return [op for op in ops if not (lists and isinstance(op, GetOp))]


OPS = st.integers(0, 5 * 5 * 5 * 3 * 3 - 1).map(decoded)
CALLS = st.lists(st.lists(OPS, min_size=1, max_size=2).map(in_one_call), max_size=7)
PUTS = st.lists(st.builds(PutOp, st.sampled_from(SPACES), st.sampled_from("123"), st.sampled_from(VALUES)), max_size=4)


@settings(deadline=None, max_examples=150)
@given(before=PUTS, parts=st.lists(CALLS, min_size=1, max_size=3), later=CALLS)
def test_any_calls_do_on_an_overlay_what_they_do_on_the_store(
    before: list[PutOp], parts: list[list[list[Op]]], later: list[list[Op]]
) -> None:
    """Each part is a pre-execution behind the earlier ones; then they are claimed in turn."""
    plain, base = InMemoryStore(), InMemoryStore()
    for put in before:
        plain.batch([put])
        base.batch([put])
    untouched = contents(base)
    line: list[Early] = []
    for part in parts:
        early = Early(base, *line)
        line.append(early)
        for ops in part:
            assert visible(early.store.batch(ops)) == visible(plain.batch(ops))
    assert contents(base) == untouched
    for early in line:
        assert early.claim()
        assert early.journal.state is JournalState.LANDED
    assert contents(base) == contents(plain)
    for ops in later:
        assert len(line[-1].store.batch(ops)) == len(ops)


@settings(deadline=None, max_examples=150)
@given(before=PUTS, calls=CALLS, meanwhile=PUTS)
def test_a_claim_after_other_writes_only_if_it_read_what_is_true_now(
    before: list[PutOp], calls: list[list[Op]], meanwhile: list[PutOp]
) -> None:
    plain, base = InMemoryStore(), InMemoryStore()
    for put in before:
        plain.batch([put])
        base.batch([put])
    early = Early(base)
    seen = [visible(early.store.batch(ops)) for ops in calls]
    for put in meanwhile:
        plain.batch([put])
        base.batch([put])
    now = contents(base)
    if early.claim():
        assert seen == [visible(plain.batch(ops)) for ops in calls]
        assert contents(base) == contents(plain)
    else:
        assert contents(base) == now


@pytest.mark.parametrize("form", ["sync", "async"])
def test_its_own_writes_are_visible_to_it_alone(form: str) -> None:
    base = InMemoryStore()
    base.put(("n",), "old", {"v": 0})
    early = Early(base)

    async def amain(store: BaseStore) -> Any:
        await store.aput(("n",), "k", {"v": 1})
        await store.adelete(("n",), "old")
        item, gone = await store.aget(("n",), "k"), await store.aget(("n",), "old")
        return item and item.value, gone, visible(await store.asearch(("n",))), await store.alist_namespaces()

    def main(store: BaseStore) -> Any:
        store.put(("n",), "k", {"v": 1})
        store.delete(("n",), "old")
        item, gone = store.get(("n",), "k"), store.get(("n",), "old")
        return item and item.value, gone, visible(store.search(("n",))), store.list_namespaces()

    seen = main(early.store) if form == "sync" else asyncio.run(amain(early.store))
    assert seen == ({"v": 1}, None, [("SearchItem", ("n",), "k", {"v": 1})], [("n",)])
    assert [i.key for i in base.search(())] == ["old"]
    assert early.claim()
    assert [i.key for i in base.search(())] == ["k"]


def test_states_of_a_journal() -> None:
    early = Early(InMemoryStore())
    early.store.put(("n",), "k", {})
    assert repr(early.journal) == "<Journal HELD reads=0 writes=1>"
    assert early.journal.check({})
    assert repr(early.journal) == "<Journal CLAIMED reads=0 writes=1>"
    early.journal.land({})
    assert repr(early.journal) == "<Journal LANDED reads=0 writes=0>"
    early.journal.drop()
    assert early.journal.state is JournalState.LANDED


def test_nothing_of_a_dropped_one_lands_and_its_code_stops() -> None:
    base = Keeping()
    early = Early(base)
    early.store.put(("n",), "k", {})
    early.journal.drop()
    early.journal.land({})
    with pytest.raises(Barrier):
        early.store.put(("n",), "k", {})
    with pytest.raises(Barrier):
        early.store.get(("n",), "k")
    assert not base.batches


def test_after_the_landing_everything_goes_straight_to_the_store() -> None:
    base = Keeping()
    early = Early(base)
    assert early.claim()
    early.store.put(("n",), "k", {"v": 1})
    assert early.store.get(("n",), "k").value == {"v": 1}  # type: ignore[union-attr]
    assert len(base.batches) == 2
    assert early.store.inner is base.inner  # type: ignore[attr-defined]


def test_a_second_landing_lands_nothing() -> None:
    base = Keeping()
    early = Early(base)
    early.store.put(("n",), "k", {})
    assert early.journal.check({})
    early.journal.land({})
    early.journal.land({})
    asyncio.run(early.journal.aland({}))
    assert len(base.writes) == 1


def test_writes_land_call_by_call_with_all_their_arguments() -> None:
    base = Keeping()
    early = Early(base)
    early.store.put(("n",), "1", {"v": 1}, index=["v"], ttl=5)
    early.store.put(("n",), "2", {"v": 2}, index=False)
    early.store.batch([PutOp(("n",), "3", {"v": 3}), GetOp(("n",), "x"), PutOp(("n",), "1", None)])
    assert not base.writes
    assert early.claim()
    assert base.writes == [
        [PutOp(("n",), "1", {"v": 1}, ["v"], 5)],
        [PutOp(("n",), "2", {"v": 2}, False)],
        [PutOp(("n",), "3", {"v": 3}), PutOp(("n",), "1", None)],
    ]


def test_a_landing_that_raises_lands_nothing_more() -> None:
    base = Keeping()
    base.error = ValueError("full")
    early = Early(base)
    early.store.put(("n",), "1", {})
    early.store.put(("n",), "2", {})
    with pytest.raises(ValueError, match="full"):
        early.claim()
    assert len(base.writes) == 1
    assert early.journal.state is JournalState.DROPPED


def test_a_read_extends_no_time_to_live_before_the_claim() -> None:
    base = Keeping()
    early = Early(base)
    early.store.get(("n",), "k")
    early.store.search(("n",))
    early.store.get(("n",), "k", refresh_ttl=False)
    assert [op.refresh_ttl for ops in base.batches for op in ops] == [False] * 3  # type: ignore[union-attr]
    del base.batches[:]
    assert early.claim()
    assert [op.refresh_ttl for ops in base.batches for op in ops] == [True, True, False]  # type: ignore[union-attr]


def test_a_get_adds_no_namespace_before_the_claim() -> None:
    """A store in memory lists a namespace from the first look into it."""
    base = InMemoryStore()
    early = Early(base)
    early.store.get(("n",), "k")
    assert early.store.list_namespaces() == [("n",)]
    assert base.list_namespaces() == []
    assert early.claim()
    assert base.list_namespaces() == [("n",)]


def test_what_another_store_would_list_after_a_write_ends_the_branch() -> None:
    early = Early(Keeping())
    early.store.put(("n", "a"), "k", {})
    assert early.store.search(("m",)) == []
    with pytest.raises(Barrier):
        early.store.search(("n",))
    assert early.reasons == ["it lists items of the store among which are some that are not written yet"]
    with pytest.raises(Barrier):
        early.store.list_namespaces()


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(t)), 1.0] for t in texts]


def test_a_search_by_meaning_is_not_merged_with_own_writes() -> None:
    base = InMemoryStore(index={"dims": 2, "embed": embed, "fields": ["t"]})
    base.put(("n",), "k", {"t": "abc"})
    early = Early(base)
    assert [i.score for i in early.store.search(("n",), query="abc")] == [
        i.score for i in base.search(("n",), query="abc")
    ]
    early.store.put(("m",), "k", {"t": "abc"})
    assert len(early.store.search(("n",), query="abc")) == 1
    assert [i.key for i in early.store.search(("m",))] == ["k"]
    with pytest.raises(Barrier):
        early.store.search(("m",), query="abc")


def test_a_value_that_json_would_change_is_not_read_back_early() -> None:
    early = Early(Keeping())
    early.store.put(("n",), "plain", {"v": [1, {"a": None}]})
    early.store.put(("n",), "tuple", {"v": (1, 2)})
    assert early.store.get(("n",), "plain").value == {"v": [1, {"a": None}]}  # type: ignore[union-attr]
    with pytest.raises(Barrier):
        early.store.get(("n",), "tuple")


def test_what_cannot_be_copied_ends_the_branch() -> None:
    base = InMemoryStore()
    base.put(("n",), "lock", {"v": threading.Lock()})
    early = Early(base)
    for use in (lambda: early.store.get(("n",), "lock"), lambda: early.store.put(("n",), "k", {"v": threading.Lock()})):
        with pytest.raises(Barrier):
            use()
    assert len(early.reasons) == 2


def test_it_passes_for_the_runs_store() -> None:
    early = Early(InMemoryStore())
    assert isinstance(early.store, InMemoryStore)
    assert not hasattr(early.store, "no such thing")
    with pytest.raises(NotImplementedError, match="TTL is not supported by InMemoryStore"):
        early.store.put(("n",), "k", {}, ttl=1)


def test_what_only_the_store_itself_can_do_ends_the_branch() -> None:
    early = Early(Keeping())
    with pytest.raises(Barrier):
        _ = early.store.inner  # type: ignore[attr-defined]
    assert early.reasons == ["it uses 'inner' of the store"]


CHANGES: dict[str, tuple[bool, Any]] = {
    "nothing": (True, lambda base: None),
    "another item": (True, lambda base: base.put(("n",), "other", {"v": 1})),
    "the value": (False, lambda base: base.put(("n",), "k", {"v": 2})),
    "its type": (False, lambda base: base.put(("n",), "k", {"v": True})),
    "its time": (False, lambda base: base.put(("n",), "k", {"v": 1})),
    "it is gone": (False, lambda base: base.delete(("n",), "k")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_read_is_read_again_at_the_claim(change: str) -> None:
    base = InMemoryStore()
    base.put(("n",), "k", {"v": 1})
    early = Early(base)
    early.store.get(("n",), "k")
    early.store.put(("m",), "k", {})
    claimable, make = CHANGES[change]
    make(base)
    assert early.claim() is claimable
    assert (base.get(("m",), "k") is not None) is claimable


def test_a_read_that_raises_at_the_claim_is_no_claim() -> None:
    class Failing(InMemoryStore):
        def batch(self, ops: Iterable[Op]) -> list[Result]:
            if early.journal.state is JournalState.CLAIMED:
                raise ValueError("no connection")
            return super().batch(ops)

        async def abatch(self, ops: Iterable[Op]) -> list[Result]:
            return self.batch(ops)

    early = Early(Failing())
    early.store.get(("n",), "k")
    assert not early.claim()
    assert early.journal.state is JournalState.DROPPED


def test_changing_what_it_read_in_place_is_not_claimable() -> None:
    """A store in memory hands out its own objects: in the plain run the change would be in the store."""
    base = InMemoryStore()
    base.put(("n",), "k", {"v": [1]})
    early = Early(base)
    early.store.get(("n",), "k").value["v"].append(2)  # type: ignore[union-attr]
    assert base.get(("n",), "k").value == {"v": [1]}  # type: ignore[union-attr]
    assert not early.claim()


def test_changing_what_it_read_and_writing_it_again_is() -> None:
    base = InMemoryStore()
    base.put(("n",), "k", {"v": [1]})
    early = Early(base)
    item = early.store.get(("n",), "k")
    assert item is not None
    item.value["v"].append(2)
    early.store.put(("n",), "k", item.value)
    assert early.claim()
    assert base.get(("n",), "k").value == {"v": [1, 2]}  # type: ignore[union-attr]


def test_changing_what_it_wrote_in_place_is_not_claimable() -> None:
    base = InMemoryStore()
    early = Early(base)
    value = {"v": [1]}
    early.store.put(("n",), "k", value)
    value["w"] = [2]  # of the dict the store takes a copy
    assert early.journal.is_claimable({})
    value["v"].append(2)
    assert not early.journal.is_claimable({})


def test_ids_in_what_it_wrote_and_read_are_the_claimants() -> None:
    base = InMemoryStore()
    base.put(("m",), "real", {"v": 0})
    early = Early(base)
    early.store.put(("n",), "early", {"id": "early"})
    assert early.store.get(("n",), "early").value == {"id": "early"}  # type: ignore[union-attr]
    assert [i.key for i in early.store.search(("n",))] == ["early"]
    assert early.claim({"early": "real"})
    assert [(i.key, i.value) for i in base.search(("n",))] == [("real", {"id": "real"})]


def test_a_read_by_an_id_is_made_again_by_the_claimants() -> None:
    base = InMemoryStore()
    base.put(("n",), "real", {})
    early = Early(base)
    assert early.store.get(("n",), "early") is None
    assert not early.claim({"early": "real"})


def test_an_id_inside_a_longer_string_is_not_written() -> None:
    base = InMemoryStore()
    early = Early(base)
    early.store.put(("n",), "of early", {})
    assert not early.claim({"early": "real"})
    assert not base.search(())


def test_what_an_earlier_one_wrote_is_seen_until_it_is_dropped() -> None:
    base = InMemoryStore()
    first = Early(base)
    second = Early(base, first)
    first.store.put(("n",), "k", {"v": 1})
    assert second.store.get(("n",), "k").value == {"v": 1}  # type: ignore[union-attr]
    first.journal.drop()
    assert second.store.get(("n",), "k") is None
    assert not second.claim()


def test_while_it_is_claimed_and_runs_it_reads_the_store_as_it_is() -> None:
    base = InMemoryStore()
    first = Early(base)
    second = Early(base, first)
    first.store.put(("n",), "k", {"v": "held"})
    second.store.put(("n",), "own", {})
    assert second.journal.check({})
    base.put(("n",), "now", {})
    assert sorted(i.key for i in second.store.search(("n",))) == ["now", "own"]
    assert second.store.get(("n",), "k") is None
    assert [i.key for i in base.search(("n",))] == ["now"]


def test_a_call_under_way_at_the_claim_is_made_again() -> None:
    """It asked as code of the branch; the claim has checked only what was read by then."""

    class Racing(InMemoryStore):
        def batch(self, ops: Iterable[Op]) -> list[Result]:
            results = super().batch(ops)
            if early.journal.state is JournalState.HELD:
                assert early.journal.check({})
                base.put(("n",), "k", {"v": "new"})
            return results

    base = Racing()
    early = Early(base)
    InMemoryStore.batch(base, [PutOp(("n",), "k", {"v": "old"})])
    assert early.store.get(("n",), "k").value == {"v": "new"}  # type: ignore[union-attr]


def test_writes_of_many_threads_land_once_each() -> None:
    base = Keeping()
    early = Early(base)
    start = threading.Barrier(9)

    def write(n: int) -> None:
        start.wait()
        for i in range(20):
            early.store.put(("n", str(n)), str(i), {"v": i})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    start.wait()
    assert early.journal.check({})
    early.journal.land({})
    for thread in threads:
        thread.join()
    assert sorted((op.namespace, op.key) for ops in base.writes for op in ops) == sorted(  # type: ignore[union-attr]
        (("n", str(n)), str(i)) for n in range(8) for i in range(20)
    )


def test_code_outside_of_pre_executions_only_reads() -> None:
    base = InMemoryStore()
    first = Early(base)
    first.store.put(("n",), "k", {"v": 1})
    outside = Overlay(base, Journal(base, [first.journal]))
    assert outside.get(("n",), "k").value == {"v": 1}  # type: ignore[union-attr]
    with pytest.raises(Barrier):
        outside.put(("n",), "k", {})
    assert repr(outside.journal) == "<Journal HELD reads=0 writes=0>"


# --- in a run -----------------------------------------------------------------------------------------------------


class Box(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


class Only(TypedDict):
    x: int


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


async def put(world: World, store: Any, key: str, value: Any) -> None:
    if world.name == "async":
        await store.aput(("n",), key, value)
    else:
        store.put(("n",), key, value)


async def get(world: World, store: Any, key: str) -> Any:
    item = await store.aget(("n",), key) if world.name == "async" else store.get(("n",), key)
    return item and item.value


def values(store: BaseStore) -> dict[str, Any]:
    return {i.key: i.value for i in store.search(("n",), limit=100)}


@pytest.mark.parametrize("make", [InMemoryStore, Keeping])
@pytest.mark.parametrize("effect", ["pure", "read"])
def test_writes_land_at_the_claim(world: World, probe: Probe, effect: str, make: Any) -> None:
    tally, store = probe.tally, make()

    async def a(state: Box) -> Any:
        await tally.reached("b").wait()
        assert not values(store), "a write of the branch is visible"
        return {"x": 1}

    async def b(state: Box, runtime: Runtime[Any]) -> Any:
        await put(world, runtime.store, "k", {"v": 1})
        await put(world, runtime.store, "k", {"v": 2})
        seen = await get(world, runtime.store, "k")
        tally.add("b")
        return {"log": [seen]}

    async def c(state: Box) -> Any:
        return {"log": [values(store)]}

    fast = speculative(
        chain(Box, *map(world.node, (a, b, c))).compile(store=store),
        speculators={"a": lambda s: {"x": 1}},
        effects={"a": "pure", "b": effect},
    )
    assert world.invoke(fast, {"x": 0})["log"] == [{"v": 2}, {"k": {"v": 2}}]
    assert tally["b"] == 1
    assert fast.report().claimed == 1


def test_writes_behind_a_wrong_guess_never_land(world: World, probe: Probe) -> None:
    tally, store = probe.tally, Keeping()

    async def a(state: Box) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: Box, runtime: Runtime[Any]) -> Any:
        await put(world, runtime.store, f"{state['x']}", {})
        tally.add("b")
        return {}

    fast = speculative(
        chain(Box, *map(world.node, (a, b))).compile(store=store),
        speculators={"a": lambda s: {"x": 2}},
        effects={"b": "pure"},
    )
    world.invoke(fast, {"x": 0})
    assert tally["b"] == 2
    assert store.writes == [[PutOp(("n",), "1", {})]]


def test_later_steps_see_the_writes_of_earlier_ones(world: World, probe: Probe) -> None:
    """Three steps ahead, each counts on from what the step before has written."""
    tally, store = probe.tally, Keeping()

    def count(name: str) -> Any:
        async def node(state: Box, runtime: Runtime[Any]) -> Any:
            held = await get(world, runtime.store, "count") or {"v": 0}
            await put(world, runtime.store, "count", {"v": held["v"] + 1})
            tally.add(name)
            return {"log": [held["v"]]}

        node.__name__ = name
        return world.node(node)

    async def a(state: Box) -> Any:
        await tally.reached("d").wait()
        assert not values(store)
        return {"x": 1}

    fast = speculative(
        chain(Box, world.node(a), count("b"), count("c"), count("d")).compile(store=store),
        speculators={"a": lambda s: {"x": 1}},
        effects={"b": "read", "c": "read", "d": "read", "a": "pure"},
        policy=Policy(depth=3),
    )
    assert world.invoke(fast, {"x": 0})["log"] == [0, 1, 2]
    assert fast.report().claimed == 3
    assert [op.value for ops in store.writes for op in ops] == [{"v": 1}, {"v": 2}, {"v": 3}]  # type: ignore[union-attr]


def test_a_step_behind_one_that_the_run_executed_itself_reads_its_writes(world: World, probe: Probe) -> None:
    """Node b writes another value in the run than in the branch: c, which has read the branch's, is not claimed."""
    tally, store = probe.tally, InMemoryStore()

    async def a(state: Box) -> Any:
        await tally.reached("c").wait()
        return {"x": 1}

    async def b(state: Box, runtime: Runtime[Any]) -> Any:
        await put(world, runtime.store, "k", {"v": state["x"]})
        return {"x": 5}

    async def c(state: Box, runtime: Runtime[Any]) -> Any:
        seen = await get(world, runtime.store, "k")
        tally.add("c")
        return {"log": [seen]}

    fast = speculative(
        chain(Box, *map(world.node, (a, b, c))).compile(store=store),
        speculators={"a": lambda s: {"x": 2}},
        effects={"b": "pure", "c": "pure"},
        policy=Policy(depth=2),
    )
    assert world.invoke(fast, {"x": 0})["log"] == [{"v": 1}]
    assert tally["c"] == 2
    assert fast.report().claimed == 0


def test_a_write_of_the_run_between_refutes_a_read(world: World, probe: Probe) -> None:
    tally, store = probe.tally, InMemoryStore()
    store.put(("n",), "k", {"v": "old"})

    async def a(state: Box, runtime: Runtime[Any]) -> Any:
        await tally.reached("b").wait()
        await put(world, runtime.store, "k", {"v": "new"})
        return {"x": 1}

    async def b(state: Box, runtime: Runtime[Any]) -> Any:
        seen = await get(world, runtime.store, "k")
        await put(world, runtime.store, "seen", seen)
        tally.add("b")
        return {}

    fast = speculative(
        chain(Box, *map(world.node, (a, b))).compile(store=store),
        speculators={"a": lambda s: {"x": 1}},
        effects={"a": "pure", "b": "pure"},
    )
    world.invoke(fast, {"x": 0})
    assert values(store)["seen"] == {"v": "new"}
    assert tally["b"] == 2


class Claimed:
    """A graph whose node b writes "first" early and goes on with `rest` when the run has claimed it."""

    def __init__(self, world: World, probe: Probe, store: Any, rest: Any, **kwargs: Any) -> None:
        self.world, self.claimed = world, Signal("the claim")
        tally = probe.tally

        async def a(state: Box) -> Any:
            await tally.reached("b").wait()
            return {"x": 1}

        async def b(state: Box, runtime: Runtime[Any]) -> Any:
            get_stream_writer()("a chunk that comes out at the claim")
            await put(world, runtime.store, "first", {"n": tally["b"]})
            if tally.add("b") == 1:
                await self.claimed.wait()
            return await rest(state, runtime)

        self.fast = speculative(
            chain(Box, *map(world.node, (a, b))).compile(store=store, **kwargs),
            speculators={"a": lambda s: {"x": 1}},
            effects={"a": "pure", "b": "pure"},
            policy=Policy(hooks=(probe.watch,)),
        )

    def run(self, config: Any = None) -> Any:
        def keep(chunk: Any) -> Any:
            self.claimed.set()
            return chunk

        return self.world.chunks(self.fast, {"x": 0}, config, stream_mode="custom", keep=keep)[1]


def test_writes_of_one_that_is_claimed_while_it_runs_land_once_it_has_ended(world: World, probe: Probe) -> None:
    store = Keeping()

    async def rest(state: Box, runtime: Runtime[Any]) -> Any:
        assert not store.writes
        store.inner.put(("n",), "meanwhile", {})
        seen.append(await get(world, runtime.store, "meanwhile"))
        await put(world, runtime.store, "second", {})
        return {}

    seen: list[Any] = []
    case = Claimed(world, probe, store, rest)
    assert case.run() is None
    assert seen == [{}]
    assert store.writes == [[PutOp(("n",), "first", {"n": 0})], [PutOp(("n",), "second", {})]]
    assert case.fast.report().claimed == 1


def test_an_error_of_its_own_comes_after_its_writes(world: World, probe: Probe) -> None:
    store = Keeping()

    async def rest(state: Box, runtime: Runtime[Any]) -> Any:
        raise ValueError("its own")

    case = Claimed(world, probe, store, rest)
    assert repr(case.run()) == "ValueError('its own')"
    assert store.writes == [[PutOp(("n",), "first", {"n": 0})]]


def test_an_interrupt_comes_after_its_writes(world: World, probe: Probe) -> None:
    store = Keeping()

    async def rest(state: Box, runtime: Runtime[Any]) -> Any:
        return {"log": [interrupt("?")]}

    case = Claimed(world, probe, store, rest, checkpointer=InMemorySaver())
    assert case.run({"configurable": {"thread_id": "1"}}) is None
    assert probe.tally["b"] == 1
    assert store.writes == [[PutOp(("n",), "first", {"n": 0})]]


def test_one_that_changes_its_input_writes_once(world: World, probe: Probe) -> None:
    """What it had emitted is out, so it is not run again."""
    store = Keeping()

    async def rest(state: Box, runtime: Runtime[Any]) -> Any:
        state["x"] = 7
        return {}

    case = Claimed(world, probe, store, rest)
    assert case.run() is None
    assert probe.tally["b"] == 1
    assert store.writes == [[PutOp(("n",), "first", {"n": 0})]]


def test_an_error_of_the_store_is_the_nodes_own(world: World, probe: Probe) -> None:
    store = Keeping()
    store.error = ValueError("full")

    async def rest(state: Box, runtime: Runtime[Any]) -> Any:
        return {}

    assert repr(Claimed(world, probe, store, rest).run()) == "ValueError('full')"
    assert probe.tally["b"] == 1


def test_a_cancelled_claimant_lands_what_had_been_written() -> None:
    world, probe, store = AsyncWorld(), Probe(), Keeping()

    async def rest(state: Box, runtime: Runtime[Any]) -> Any:
        probe.tally.add("rest")
        await Signal("never").wait()

    case = Claimed(world, probe, store, rest)

    async def main() -> None:
        async def run() -> None:
            async for _ in case.fast.astream({"x": 0}, stream_mode="custom"):
                case.claimed.set()

        running = asyncio.create_task(run())
        await probe.tally.reached("rest").wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    world.run(main)
    assert store.writes == [[PutOp(("n",), "first", {"n": 0})]]


def test_a_claimant_that_is_cancelled_while_it_reads_again_writes_nothing() -> None:
    world, probe = AsyncWorld(), Probe()
    tally = probe.tally

    class Slow(Keeping):
        async def abatch(self, ops: Iterable[Op]) -> list[Result]:
            if tally["b"] and not any(isinstance(op, PutOp) for op in ops):
                tally.add("read again")
                await Signal("never").wait()
            return self.batch(ops)

    store = Slow()

    async def a(state: Box) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def b(state: Box, runtime: Runtime[Any]) -> Any:
        await get(world, runtime.store, "k")
        await put(world, runtime.store, "k", {})
        tally.add("b")
        return {}

    fast = speculative(
        chain(Box, a, b).compile(store=store), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"}
    )

    async def main() -> None:
        running = asyncio.create_task(fast.ainvoke({"x": 0}))
        await tally.reached("read again").wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    world.run(main)
    assert not store.writes


def test_a_synchronous_write_lands_off_the_loop() -> None:
    """As the plain run makes it: stores with a loop of their own refuse it there."""
    world, probe = AsyncWorld(), Probe()
    tally = probe.tally
    where: list[bool] = []

    class Strict(Keeping):
        def batch(self, ops: Iterable[Op]) -> list[Result]:
            where.append(threading.current_thread() is threading.main_thread())
            return super().batch(ops)

        async def abatch(self, ops: Iterable[Op]) -> list[Result]:
            raise NotImplementedError

    store = Strict()

    async def a(state: Box) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    def b(state: Box, runtime: Runtime[Any]) -> Any:
        assert runtime.store is not None
        runtime.store.put(("n",), "k", {})
        tally.add("b")
        return {}

    fast = speculative(
        chain(Box, a, b).compile(store=store), speculators={"a": lambda s: {"x": 1}}, effects={"b": "pure"}
    )
    world.invoke(fast, {"x": 0})
    assert where == [False]
    assert tally["b"] == 1


# --- every way to the store -----------------------------------------------------------------------------------------


def ways(world: World) -> dict[str, Any]:
    async def runtime_store(state: Box, runtime: Runtime[Any]) -> Any:
        await put(world, runtime.store, "k", {"x": state["x"]})
        return {"log": [await get(world, runtime.store, "k")]}

    async def of_the_config(state: Box) -> Any:
        await put(world, get_store(), "k", {"x": state["x"]})
        return {"log": [await get(world, get_store(), "k")]}

    async def parameter(state: Box, *, store: BaseStore) -> Any:
        await put(world, store, "k", {"x": state["x"]})
        return {"log": [await get(world, store, "k")]}

    async def nested(state: Box) -> Any:
        graph = chain(Box, world.node(runtime_store)).compile(store=InMemoryStore())
        return {"log": (await world.call(graph, {"x": state["x"]}))["log"]}

    async def threads(state: Box, runtime: Runtime[Any]) -> Any:
        assert runtime.store is not None
        thread = threading.Thread(target=runtime.store.put, args=(("n",), "k", {"x": state["x"]}))
        thread.start()
        thread.join()
        return {"log": [runtime.store.get(("n",), "k").value]}  # type: ignore[union-attr]

    return {f.__name__: f for f in (runtime_store, of_the_config, parameter, nested, threads)}


@pytest.mark.parametrize("guess", [1, 2], ids=["right", "wrong"])
@pytest.mark.parametrize("way", ways(World()))
def test_every_way_of_a_node_to_the_store_leads_to_the_overlay(
    world: World, probe: Probe, way: str, guess: int
) -> None:
    tally, store = probe.tally, InMemoryStore()
    body = world.node(ways(world)[way])

    async def a(state: Box) -> Any:
        await probe.watch.saw("launch").wait()
        await tally.reached("b").wait()
        assert not store.search(())
        return {"x": 1}

    async def c(state: Box) -> Any:
        tally.add("b")
        return {}

    fast = speculative(
        chain(Box, world.node(a), body, world.node(c), names=["a", "b", "c"]).compile(store=store),
        speculators={"a": lambda s: {"x": guess}},
        effects={"a": "pure", "b": "pure", "c": "pure"},
        policy=Policy(depth=2, hooks=(probe.watch,)),
    )
    assert world.invoke(fast, {"x": 0})["log"] == [{"x": 1}]
    assert values(store) == {"k": {"x": 1}}
    assert fast.report().claimed == (2 if guess == 1 else 0)


@pytest.mark.parametrize("guess", ["1", "2"], ids=["right", "wrong"])
@pytest.mark.parametrize("way", ["InjectedStore", "ToolRuntime", "get_store"])
def test_every_way_of_a_tool_to_the_store_leads_to_the_overlay(
    world: World, probe: Probe, way: str, guess: str
) -> None:
    tally, store = probe.tally, InMemoryStore()

    async def use(x: str, held: Any) -> str:
        await put(world, held, "k", {"x": x})
        seen = await get(world, held, "k")
        tally.add("tool")
        return f"{seen}"

    async def by_argument(x: str, store: Annotated[Any, InjectedStore()]) -> str:
        """Save."""
        return await use(x, store)

    async def by_runtime(x: str, runtime: ToolRuntime) -> str:
        """Save."""
        return await use(x, runtime.store)

    async def by_config(x: str) -> str:
        """Save."""
        return await use(x, get_store())

    function = {"InjectedStore": by_argument, "ToolRuntime": by_runtime, "get_store": by_config}[way]
    save = tool("save")(world.node(function))

    async def model(state: Chat) -> Any:
        await tally.reached("tool").wait()
        assert not store.search(())
        return {"messages": [says("", call("save", x="1"))]}

    fast = speculative(
        chain(Chat, world.node(model), ToolNode([save]), names=["model", "tools"]).compile(store=store),
        speculators={"model": lambda s: {"messages": [says("", call("save", x=guess))]}},
        effects={"model": "pure", "save": "read"},
    )
    out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert out["messages"][-1].content == "{'x': '1'}"
    assert values(store) == {"k": {"x": "1"}}
    assert fast.report().claimed == (1 if guess == "1" else 0)


def test_leaves_of_a_nested_graph_see_the_writes_of_those_before(world: World, probe: Probe) -> None:
    tally, store = probe.tally, Keeping()

    async def inner1(state: Box, runtime: Runtime[Any]) -> Any:
        await put(world, runtime.store, "k", {"by": "inner1"})
        return {"x": 2}

    async def inner2(state: Box, runtime: Runtime[Any]) -> Any:
        seen = await get(world, runtime.store, "k")
        tally.add("inner2")
        return {"log": [seen]}

    async def a(state: Box) -> Any:
        await tally.reached("inner2").wait()
        assert not store.writes
        return {"x": 1}

    inner = chain(Box, *map(world.node, (inner1, inner2))).compile()
    fast = speculative(
        chain(Box, world.node(a), inner, names=["a", "inner"]).compile(store=store),
        speculators={"a": lambda s: {"x": 1}},
        effects={"a": "pure", "inner1": "pure", "inner2": "pure"},
    )
    assert world.invoke(fast, {"x": 0})["log"] == [{"by": "inner1"}]
    assert tally["inner2"] == 1
    assert fast.report().claimed == 2
    assert store.writes == [[PutOp(("n",), "k", {"by": "inner1"})]]


def test_a_step_behind_a_nested_graphs_branch_sees_its_writes(world: World, probe: Probe) -> None:
    """The branch of the nested graph comes to its end, and the parent goes on in a fork."""
    tally, store = probe.tally, Keeping()

    async def inner1(state: Box) -> Any:
        await tally.reached("after").wait()
        return {"x": 1}

    async def inner2(state: Box, runtime: Runtime[Any]) -> Any:
        await put(world, runtime.store, "k", {"by": "inner2"})
        return {"x": 2}

    async def after(state: Box, runtime: Runtime[Any]) -> Any:
        seen = await get(world, runtime.store, "k")
        tally.add("after")
        return {"log": [seen]}

    inner = chain(Box, *map(world.node, (inner1, inner2))).compile()
    fast = speculative(
        chain(Box, inner, world.node(after), names=["inner", "after"]).compile(store=store),
        speculators={"inner1": lambda s: {"x": 1}},
        effects={"inner1": "pure", "inner2": "pure", "after": "pure"},
        policy=Policy(depth=2),
    )
    assert world.invoke(fast, {"x": 0})["log"] == [{"by": "inner2"}]
    assert tally["after"] == 1
    assert fast.report().claimed == 2


def test_a_router_reads_the_store_in_a_branch(world: World, probe: Probe) -> None:
    tally, store = probe.tally, InMemoryStore()
    store.put(("n",), "next", {"node": "b"})

    async def a(state: Box) -> Any:
        await tally.reached("b").wait()
        return {"x": 1}

    async def route(state: Box, *, store: BaseStore) -> str:
        return str((await get(world, store, "next"))["node"])

    async def b(state: Box) -> Any:
        tally.add("b")
        return {"log": ["b"]}

    builder = chain(Box, world.node(a))
    builder.add_node("b", world.node(b))
    builder.add_conditional_edges("a", world.node(route), ["b"])
    fast = speculative(
        builder.compile(store=store), speculators={"a": lambda s: {"x": 1}}, effects={"a": "pure", "b": "pure"}
    )
    assert world.invoke(fast, {"x": 0})["log"] == ["b"]
    assert fast.report().claimed == 1


def test_two_branches_that_share_a_pre_execution_land_it_once(world: World, probe: Probe) -> None:
    """Both guesses lead to the same input of b."""
    tally, watch, store = probe.tally, probe.watch, Keeping()

    async def a(state: Box) -> Any:
        await tally.reached("b").wait()
        await watch.saw("fork", count=2).wait()
        return {"x": 1, "log": ["real"]}

    async def b(state: Only, runtime: Runtime[Any]) -> Any:
        await put(world, runtime.store, "k", {"x": state["x"]})
        tally.add("b")
        return {}

    fast = speculative(
        chain(Box, *map(world.node, (a, b))).compile(store=store),
        speculators={"a": lambda s: [Guess({"x": 1, "log": [n]}) for n in "12"]},
        effects={"b": "pure"},
        policy=Policy(breadth=2, hooks=(watch,)),
    )
    world.invoke(fast, {"x": 0})
    assert tally["b"] == 1
    assert store.writes == [[PutOp(("n",), "k", {"x": 1})]]


def test_ids_in_what_is_written_are_the_runs(world: World, probe: Probe) -> None:
    tally, store = probe.tally, InMemoryStore()

    async def a(state: Chat) -> Any:
        await tally.reached("b").wait()
        return {"messages": [AIMessage("!")]}

    async def b(state: Chat, runtime: Runtime[Any]) -> Any:
        last = state["messages"][-1]
        await put(world, runtime.store, str(last.id), {"id": last.id})
        tally.add("b")
        return {}

    fast = speculative(
        chain(Chat, *map(world.node, (a, b))).compile(store=store),
        speculators={"a": lambda s: {"messages": [AIMessage("!")]}},
        effects={"b": "pure"},
    )
    out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    own = out["messages"][-1].id
    assert values(store) == {own: {"id": own}}
    assert fast.report().claimed == 1


# --- any operations, in any run -----------------------------------------------------------------------------------

STEPS = st.lists(CALLS, min_size=3, max_size=3)


@pytest.mark.parametrize("kind", [World, AsyncWorld])
@settings(deadline=None, max_examples=40)
@given(before=PUTS, steps=STEPS, guess=st.sampled_from([1, 2]), depth=st.sampled_from([1, 3]))
def test_any_run_reads_and_writes_what_the_plain_run_does(
    kind: type[World], before: list[PutOp], steps: list[list[list[Op]]], guess: int, depth: int
) -> None:
    """Three nodes in a row that do anything with the store, behind a guess; what they write depends on it."""
    world = kind()

    def build(probe: Probe | None, store: InMemoryStore) -> Any:
        for write in before:
            store.batch([write])

        async def a(state: Box) -> Any:
            if probe is not None:
                await probe.tally.reached("b" if depth == 1 else "d").wait()
            return {"x": 1}

        def does(name: str, calls: list[list[Op]]) -> Any:
            async def node(state: Box, runtime: Runtime[Any]) -> Any:
                store: Any = runtime.store
                log = []
                for ops in calls:
                    marked = [o._replace(value={**o.value, "x": state["x"]}) if _puts(o) else o for o in ops]
                    results = await store.abatch(marked) if world.name == "async" else store.batch(marked)
                    log.append(visible(results))
                if probe is not None:
                    probe.tally.add(name)
                return {"log": log}

            return world.node(node)

        nodes = [world.node(a), *map(does, "bcd", steps)]
        return chain(Box, *nodes, names=list("abcd")).compile(store=store)

    plain_store, store, probe = InMemoryStore(), InMemoryStore(), Probe()
    plain = world.invoke(build(None, plain_store), {"x": 0})
    fast = speculative(
        build(probe, store),
        speculators={"a": lambda s: {"x": guess}},
        effects={"*": "pure"},
        policy=Policy(depth=depth),
    )
    assert world.invoke(fast, {"x": 0}) == plain
    assert contents(store) == contents(plain_store)
    if guess == 1:
        assert fast.report().claimed >= 1 if depth == 1 else fast.report().claimed == 3


def _puts(op: Op) -> bool:
    return isinstance(op, PutOp) and op.value is not None
