"""The parts of a journal: what overlaps, what is copied and renamed, what a claim asks again. No graph runs here."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langgraph.store.base import GetOp, Item, ListNamespacesOp, PutOp, SearchItem, SearchOp
from langgraph.store.memory import InMemoryStore

from langgraph_speculative._items import (
    Call,
    Read,
    copied,
    embeds,
    frozen,
    is_json,
    last_put,
    overlaps,
    place_of,
)
from langgraph_speculative._journal import Journal, JournalState
from langgraph_speculative._store import Overlay, overlay_of
from langgraph_speculative._view import Barrier
from tests.test_store import Early, Keeping, visible

THEN = datetime(2026, 1, 1, tzinfo=UTC)
LATER = THEN + timedelta(seconds=1)


def call(*ops: Any, given: Any = None) -> Call:
    return Call(list(ops), list(ops if given is None else given), True, THEN)


def item(key: str = "k", value: Any = None, when: datetime = THEN, space: Any = ("n",)) -> Item:
    return Item(value=value or {"v": 1}, key=key, namespace=space, created_at=when, updated_at=when)


def scored(score: float | None, key: str = "k") -> SearchItem:
    return SearchItem(("n",), key, {"v": 1}, THEN, THEN, score)


# --- items ----------------------------------------------------------------------------------------------------------


def test_the_last_write_of_a_place_counts() -> None:
    first, second, third = (PutOp(("n",), "k", {"v": v}) for v in (1, 2, 3))
    other = PutOp(("n",), "other", {"v": 4})
    calls = [call(first, second), call(GetOp(("n",), "k"), other)]
    assert last_put(calls, (("n",), "k")) is second
    assert last_put([*calls, call(third)], (("n",), "k")) is third
    assert last_put(calls, (("n",), "other")) is other
    assert last_put(calls, (("m",), "k")) is None
    assert calls[1].puts == [other]
    assert place_of(PutOp(["n"], "k", None)) == (("n",), "k")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prefix", "space", "found"),
    [
        ((), ("a",), True),
        (("a",), ("a",), True),
        (("a",), ("a", "b"), True),
        (("a", "b"), ("a",), False),
        (("a",), ("b",), False),
        (("b",), ("a",), False),
        (("b",), ("a", "b"), False),
    ],
)
def test_a_search_may_find_what_is_under_its_prefix(prefix: Any, space: Any, found: bool) -> None:
    written = call(PutOp(space, "k", {}))
    assert overlaps(SearchOp(prefix), written) is found
    assert overlaps(ListNamespacesOp(), written)
    assert overlaps(ListNamespacesOp(), call(GetOp(space, "k")))
    assert not overlaps(SearchOp(()), call(GetOp(space, "k")))


def test_values_that_json_gives_back() -> None:
    assert all(map(is_json, [{}, {"k": [1, "x", None, True, 1.5]}]))
    assert not any(map(is_json, [{"k": (1,)}, {"k": {1}}, {1: "x"}, {"k": object()}, {"k": threading.Lock()}]))


def test_a_store_with_an_index_embeds() -> None:
    assert not embeds(InMemoryStore())
    assert not embeds(object())
    assert embeds(InMemoryStore(index={"dims": 1, "embed": lambda texts: [[1.0] for _ in texts]}))


def test_results_are_copied_and_what_is_fresh_has_its_own_times() -> None:
    one, two = item("a", {"v": [1]}), item("b")
    place = (("n",), "b")
    copies: Any = copied([one, two, None, ("n",)], {place: LATER})
    assert [visible(c) for c in copies] == [visible(c) for c in (one, two, None, ("n",))]
    copies[0].value["v"].append(2)
    assert one.value == {"v": [1]}
    assert (copies[0].created_at, copies[0].updated_at) == (THEN, THEN)
    assert (copies[1].created_at, copies[1].updated_at) == (LATER, LATER)
    assert two.created_at == THEN


def test_results_under_the_claimants_ids() -> None:
    renamed: Any = copied(item("early", {"id": "early"}, space=("n", "early")), {}, {"early": "real"})
    assert visible(renamed) == ("Item", ("n", "real"), "real", {"id": "real"})


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (item(), True),
        (item(value={"v": 2}), False),
        (item(value={"v": 1.0}), False),
        (item("l"), False),
        (item(space=("m",)), False),
        (item(when=LATER), False),
        (scored(None), False),
        (None, False),
    ],
)
def test_two_items_are_the_same(other: Any, equal: bool) -> None:
    assert (frozen(item(), {}) == frozen(other, {})) is equal


def test_times_and_scores_of_what_was_read() -> None:
    fresh = {(("n",), "k"): THEN}
    assert frozen(item(), fresh) == frozen(item(when=LATER), fresh)
    assert frozen([scored(0.5)], {}) != frozen([scored(0.25)], {})
    assert frozen([scored(0.5)], {}) == frozen([scored(0.5)], {})
    assert frozen([item("a"), item("b")], {}) != frozen([item("b"), item("a")], {})
    only = item()
    only.updated_at = LATER
    assert frozen(item(), {}) != frozen(only, {})


def test_a_call_under_the_claimants_ids() -> None:
    value = {"id": "early"}
    own = call(PutOp(("n",), "early", {"id": "early"}), given=[PutOp(("n",), "early", value)])
    assert own.renamed({}) is own
    assert own.landing({})[0].value is value  # type: ignore[union-attr]
    assert own.landing({"early": "real"}) == [PutOp(("n",), "real", {"id": "real"})]
    assert own.ops == [PutOp(("n",), "early", {"id": "early"})]
    renamed = own.renamed({"early": "real"})
    assert (renamed.sync, renamed.when) == (True, THEN)


def test_what_a_call_gave_and_still_is() -> None:
    changed = {"v": [1]}
    ops = [PutOp(("n",), "a", {"v": 1}), PutOp(("n",), "b", {"v": [1]}), GetOp(("n",), "c"), PutOp(("n",), "d", None)]
    own = call(*ops, given=[ops[0], PutOp(("n",), "b", changed), ops[2], ops[3]])
    assert own.kept() == [(("n",), "a"), (("n",), "b"), (("n",), "d")]
    changed["v"].append(2)
    assert own.kept() == [(("n",), "a"), (("n",), "d")]


def read(result: Any, fresh: Any = None) -> Read:
    return Read(GetOp(("n",), "early"), 3, fresh or {}, result, frozen(result, fresh or {}))


def test_a_read_under_the_claimants_ids() -> None:
    own = read(item("early"), {(("n",), "early"): LATER, (("n",), "other"): THEN})
    assert own.renamed({}) is own
    renamed = own.renamed({"early": "real"})
    assert renamed.op == GetOp(("n",), "real")
    assert renamed.position == 3
    assert renamed.fresh == {(("n",), "real"): LATER, (("n",), "other"): THEN}
    assert renamed.is_same(item("real"))
    assert not renamed.is_same(item("early"))
    assert not renamed.is_same(None)


def test_what_was_read_and_changed_in_place() -> None:
    one, two = item("a"), item("b", {"v": [1]})
    single, several, nothing = read(two), read([one, two, "no item"]), read(None)
    assert [r.changed() for r in (single, several, nothing)] == [[], [], []]
    two.value["v"].append(2)
    assert [r.changed() for r in (single, several, nothing)] == [[(("n",), "b")], [(("n",), "b")], []]


def test_calls_and_reads_are_themselves_alone() -> None:
    assert call() != call()
    assert read(None) != read(None)
    assert len({call(), call()}) == 2


# --- journals -------------------------------------------------------------------------------------------------------


def test_an_execution_sees_those_before_it_in_their_order() -> None:
    base = InMemoryStore()
    first, second = Early(base), Early(base)
    first.store.put(("n",), "k", {"v": 1})
    second.store.put(("n",), "k", {"v": 2})
    for order, seen in (((first, second), 2), ((second, first), 1)):
        found = Early(base, *order).store.get(("n",), "k")
        assert found is not None
        assert found.value == {"v": seen}
    reasons: list[str] = []
    after = Journal(base, [second.journal]).next([first.journal], reasons.append)
    own = Overlay(base, after)
    assert own.get(("n",), "k").value == {"v": 1}  # type: ignore[union-attr]
    own.put(("n",), "k", {"v": 3})
    assert own.get(("n",), "k").value == {"v": 3}  # type: ignore[union-attr]
    after.end("over")
    assert reasons == ["over"]


def test_what_one_before_has_landed_is_read_from_the_store() -> None:
    base = InMemoryStore()
    first = Early(base)
    first.store.put(("n",), "k", {"v": 1})
    behind = Early(base, first)
    assert first.claim()
    base.put(("n",), "k", {"v": 2})
    assert behind.store.get(("n",), "k").value == {"v": 2}  # type: ignore[union-attr]


def test_a_held_item_has_the_time_of_its_writing() -> None:
    early = Early(InMemoryStore())
    before = datetime.now(UTC)
    early.store.put(("n",), "k", {"v": 1})
    first = early.store.get(("n",), "k")
    after = datetime.now(UTC)
    assert first is not None
    assert before <= first.created_at == first.updated_at <= after
    assert early.store.get(("n",), "k").created_at == first.created_at  # type: ignore[union-attr]
    early.store.put(("n",), "k", {"v": 2})
    assert early.store.get(("n",), "k").created_at >= first.created_at  # type: ignore[union-attr]


def test_a_namespace_that_is_listed_and_added_in_one_call() -> None:
    early = Early(InMemoryStore())
    with pytest.raises(Barrier):
        early.store.batch([GetOp(("n",), "k"), ListNamespacesOp()])
    assert early.reasons == ["it lists namespaces together with a read that adds one"]
    there = InMemoryStore()
    there.put(("n",), "k", {"v": 1})
    fine = Early(there)
    assert visible(fine.store.batch([GetOp(("n",), "k"), ListNamespacesOp()])) == [
        ("Item", ("n",), "k", {"v": 1}),
        [("n",)],
    ]
    assert fine.reasons == []


@pytest.mark.parametrize("again", [True, False])
def test_what_was_written_and_changed_in_place_must_be_written_again(again: bool) -> None:
    early, value = Early(InMemoryStore()), {"v": [1]}
    early.store.put(("n",), "k", value)
    early.store.put(("n",), "other", {"v": [0]})
    value["v"].append(2)
    if again:
        early.store.put(("n",), "k", value)
    assert early.journal.check({})
    assert early.journal.is_claimable({}) is again


@pytest.mark.parametrize("write", [None, "before", "after"])
def test_what_was_read_and_changed_in_place_must_be_written_after_that(write: str | None) -> None:
    base = InMemoryStore()
    base.put(("n",), "k", {"v": [1]})
    early = Early(base)
    if write == "before":
        early.store.put(("n",), "other", {})
    found = early.store.get(("n",), "k")
    assert found is not None
    found.value["v"].append(2)
    if write == "after":
        early.store.put(("n",), "k", found.value)
    assert early.journal.check({})
    assert early.journal.is_claimable({}) is (write == "after")


@pytest.mark.parametrize("is_sync", [True, False])
def test_a_claim_reads_again_what_it_did_not_write_itself(is_sync: bool) -> None:
    base = Keeping()
    base.inner.put(("n",), "a", {"v": 1})
    early = Early(base)
    early.store.get(("n",), "a")
    early.store.put(("n",), "a", {"v": 2})
    early.store.get(("n",), "a")  # its own
    early.store.get(("n",), "b")
    early.store.search(("m",))
    base.batches.clear()
    same = early.journal.check({}) if is_sync else asyncio.run(early.journal.acheck({}))
    assert same
    assert base.batches == [[GetOp(("n",), "a"), GetOp(("n",), "b"), SearchOp(("m",))]]
    assert early.journal.state is JournalState.CLAIMED


@pytest.mark.parametrize("is_sync", [True, False])
def test_a_claim_that_reads_something_else_drops_the_journal(is_sync: bool) -> None:
    base = Keeping()
    early = Early(base)
    early.store.get(("n",), "a")
    early.store.put(("n",), "b", {"v": 2})
    base.inner.put(("n",), "a", {"v": 1})
    same = early.journal.check({}) if is_sync else asyncio.run(early.journal.acheck({}))
    assert not same
    assert repr(early.journal) == "<Journal DROPPED reads=0 writes=0>"


@pytest.mark.parametrize("is_sync", [True, False])
def test_a_claim_without_reads_asks_nothing(is_sync: bool) -> None:
    base = Keeping()
    early = Early(base)
    early.store.put(("n",), "b", {"v": 2})
    assert early.journal.check({}) if is_sync else asyncio.run(early.journal.acheck({}))
    assert base.batches == []
    if is_sync:
        early.journal.land({})
    else:
        asyncio.run(early.journal.aland({}))
    assert base.batches == [[PutOp(("n",), "b", {"v": 2})]]
    assert early.journal.state is JournalState.LANDED


def test_a_namespace_that_has_come_since_is_read_again() -> None:
    for value in (None, {"v": 1}):
        base = InMemoryStore()
        early = Early(base)
        assert early.store.get(("n",), "k") is None
        base.put(("n",), "other" if value is None else "k", {"v": 1})
        assert early.journal.check({}) is (value is None)


def test_a_namespace_that_has_gone_since_is_not_claimed() -> None:
    base = InMemoryStore()
    base.put(("n",), "k", {"v": 1})
    early = Early(base)
    assert early.store.get(("n",), "k") is not None
    base._data.clear()
    assert early.journal.check({}) is False


def test_writes_of_one_call_that_a_search_of_another_sees() -> None:
    base = InMemoryStore()
    base.put(("n",), "old", {"v": 0})
    early = Early(base)
    early.store.put(("n",), "k", {"v": 1})
    assert [i.key for i in early.store.search(("n",))] == ["old", "k"]
    early.store.put(("n",), "l", {"v": 2})  # after the search: no part of what it found
    assert early.journal.check({})
    assert early.journal.is_claimable({})
    early.journal.land({})
    assert [i.key for i in base.search(("n",))] == ["old", "k", "l"]


def test_a_search_over_own_writes_is_compared_at_the_claim() -> None:
    base = InMemoryStore()
    early = Early(base)
    early.store.put(("n",), "k", {"v": 1})
    assert len(early.store.search(("n",))) == 1
    base.put(("n",), "new", {"v": 1})
    assert early.journal.check({}) is False


def test_the_overlay_of_a_branch_only_reads() -> None:
    base = InMemoryStore()
    assert overlay_of(None) is None
    own = overlay_of(base)
    assert own is not None
    assert own.get(("n",), "k") is None
    with pytest.raises(Barrier):
        own.put(("n",), "k", {})
    held = Early(base)
    held.store.put(("n",), "k", {"v": 1})
    behind = overlay_of(base, [held.journal])
    assert behind is not None
    assert behind.get(("n",), "k").value == {"v": 1}  # type: ignore[union-attr]
    assert repr(behind.journal) == "<Journal HELD reads=0 writes=0>"
    for name in ("_data", "__missing__", "journals"):
        with pytest.raises((Barrier, AttributeError)):
            getattr(behind, name)


def test_an_overlay_has_the_stores_settings() -> None:
    base = Keeping()
    base.ttl_config = {"default_ttl": 5}
    own = Overlay(base)
    assert own.supports_ttl is True
    assert own.ttl_config == {"default_ttl": 5}
    assert own.base is base
    assert own.__class__ is Keeping
    assert Overlay(InMemoryStore()).supports_ttl is False


class Sized(Keeping):
    def __len__(self) -> int:
        return 1


def test_pythons_own_questions_end_no_branch() -> None:
    early = Early(Sized())
    assert not hasattr(early.store, "__len__")
    assert early.reasons == []
    bare = Overlay.__new__(Overlay)  # as a copy begins
    for name in ("base", "journal"):
        with pytest.raises(AttributeError, match=name):
            getattr(bare, name)
