"""`Replay`: the same input gives what it gave the last time, and for how long, to whom, and where it is kept."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

from langgraph_speculative import SpeculationError, speculative
from langgraph_speculative.speculators import Replay, _replay
from langgraph_speculative.speculators._content import keyed, outcome_of
from tests.support import LIMIT, Probe, World, call, chain, says

CONFIG: Any = {"configurable": {}}


class State(TypedDict, total=False):
    x: int
    y: int
    z: int


def ask(replay: Replay, value: Any, config: Any = CONFIG) -> list[tuple[Any, float]]:
    return [(g.output, round(g.confidence, 3)) for g in replay.guess(value, config) or ()]


def test_the_last_output() -> None:
    replay = Replay()
    assert ask(replay, {"x": 1}) == []
    replay.learn({"x": 1}, {"y": 2}, CONFIG)
    assert ask(replay, {"x": 1}) == [({"y": 2}, 0.75)]
    for other in ({"x": True}, {"x": 1.0}, {"x": 2}, {"x": 1, "y": None}):
        assert ask(replay, other) == []
    replay.learn({"x": 1}, {"y": 3}, CONFIG)
    assert [output for output, _ in ask(replay, {"x": 1})] == [{"y": 3}]


def test_several_outputs_and_how_sure_it_is_of_them() -> None:
    replay = Replay(outputs=2)
    for y in (1, 1, 1, 2):
        replay.learn({"x": 1}, {"y": y}, CONFIG)
    # Met 3 times again, the same as the last time twice: r = 3/5. Of n = 4, 1 came three times, 2 once and last.
    assert ask(replay, {"x": 1}) == [({"y": 1}, 0.6), ({"y": 2}, 0.32)]
    replay.learn({"x": 1}, {"y": 3}, CONFIG)
    assert {o["y"] for o, _ in ask(replay, {"x": 1})} == {2, 3}


def test_it_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(_replay, "now", lambda: clock[0])
    replay = Replay(max_age=10, size=2)
    replay.learn({"x": 1}, {"y": 1}, CONFIG)
    clock[0] = 110.0
    assert len(ask(replay, {"x": 1})) == 1
    clock[0] = 110.5
    assert ask(replay, {"x": 1}) == []
    for x in (1, 2):
        replay.learn({"x": x}, {"y": x}, CONFIG)
    ask(replay, {"x": 1})
    replay.learn({"x": 3}, {"y": 3}, CONFIG)
    assert [bool(ask(replay, {"x": x})) for x in (1, 2, 3)] == [True, False, True]


def asked(what: str) -> Any:
    return {"messages": [HumanMessage("?", id=f"{what}-human"), says("", call("look", what="a"))]}


def test_ids_are_those_of_the_new_input() -> None:
    replay, before, now = Replay(), asked("then"), asked("now")
    old = before["messages"][-1].tool_calls[0]["id"]
    replay.learn(
        before, {"messages": [ToolMessage(f"seen by {old}", id="m", tool_call_id=old), AIMessage("done")]}, CONFIG
    )
    [(output, _)] = ask(replay, now)
    tool, last = output["messages"]
    new = now["messages"][-1].tool_calls[0]["id"]
    assert tool.tool_call_id == new
    assert tool.id not in ("m", None)
    assert (tool.content, last.content, last.id) == (f"seen by {new}", "done", None)


def test_nothing_is_replayed_to_another_tenant() -> None:
    replay = Replay()
    anna: Any = {"configurable": {"user_id": "anna"}}
    replay.learn({"x": 1}, {"y": 1}, anna)
    assert ask(replay, {"x": 1}, {"configurable": {"user_id": "berta"}}) == ask(replay, {"x": 1}) == []
    assert len(ask(replay, {"x": 1}, anna)) == 1
    by_shop = Replay(tenant=lambda config: config["metadata"]["shop"])
    by_shop.learn({"x": 1}, {"y": 1}, {"metadata": {"shop": "1"}, **anna})
    assert len(by_shop.guess({"x": 1}, {"metadata": {"shop": "1"}})) == 1
    assert by_shop.guess({"x": 1}, {"metadata": {"shop": "2"}, **anna}) is None


def test_a_store_is_shared_by_all_processes() -> None:
    tenant: Any = {"configurable": {"user_id": "anna@shop.example"}}
    with SqliteStore.from_conn_string(":memory:") as store:
        store.setup()
        Replay(store=store).learn(asked("then"), {"messages": [AIMessage("done")], "y": 1}, tenant)
        [(output, _)] = ask(Replay(store=store), asked("now"), tenant)
        assert (output["messages"][0].content, output["y"]) == ("done", 1)
        assert ask(Replay(store=store), asked("now")) == []
        # Bounded: each input has one place.
        small = Replay(store=store, size=1, namespace=("small",))
        for x in (1, 2):
            small.learn({"x": x}, {"y": x}, CONFIG)
        assert ask(small, {"x": 1}) == []
        assert [output for output, _ in ask(small, {"x": 2})] == [{"y": 2}]
        assert len(store.search(("small",))) == 1


def test_what_a_store_would_change_is_not_kept_there() -> None:
    for store, kept in ((InMemoryStore(), 0), (None, 1)):
        replay = Replay(store=store)
        replay.learn({"x": 1}, {"y": (1, (2,))}, CONFIG)
        assert len(ask(replay, {"x": 1})) == kept
        replay.learn({"x": 2}, {"y": [1, [2]]}, CONFIG)
        assert len(ask(replay, {"x": 2})) == 1


def test_what_cannot_be_compared_is_not_kept() -> None:
    replay = Replay()
    odd = {"x": (n for n in range(3))}
    replay.learn(odd, {"y": 1}, CONFIG)
    replay.learn({"x": 1}, odd, CONFIG)
    assert ask(replay, odd) == ask(replay, {"x": 1}) == []


@pytest.mark.parametrize("option", [{"max_age": 0}, {"outputs": 0}, {"size": -1}])
def test_what_is_refused(option: Any) -> None:
    with pytest.raises(SpeculationError, match=f"{next(iter(option))}=.*must be positive"):
        Replay(**option)


def test_content() -> None:
    """Equal up to ids; of a message with calls the calls alone; and a digest that other processes compute too."""
    one, other = says("a", call("look", what="x")), says("b", call("look", what="x"))
    assert outcome_of({"messages": one}) == outcome_of({"messages": [other]})
    assert outcome_of({"messages": [says("a")]}) != outcome_of({"messages": [says("b")]})
    assert outcome_of({"a": 1, "b": 2}) == outcome_of({"b": 2, "a": 1})
    assert keyed(asked("then"))[0] == keyed(asked("now"))[0]
    same, differ = [HumanMessage("?", id="1")] * 2, [HumanMessage("?", id="1"), HumanMessage("?", id="2")]
    assert keyed(same)[0] != keyed(differ)[0]
    fixed = {"messages": [HumanMessage("?")], "kinds": {int, str}, "x": 1.5}
    assert keyed(fixed)[0] == "4cdc3f9cf9cc8a4d9110f1b52f85ead701599b2544207b523a43ee84510630c7"


def test_a_second_run_is_sooner(world: World, probe: Probe) -> None:
    tally = probe.tally

    @world.node
    async def first(state: State) -> State:
        if tally.add("first") > 1:
            await tally.reached("second", 2).wait()
        return {"y": state["x"] + 1}

    @world.node
    async def second(state: State) -> State:
        tally.add("second")
        return {"z": state["y"] * 2}

    graph = chain(State, first, second, names=["first", "second"]).compile()
    fast = speculative(graph, speculators={"first": Replay()}, effects={"*": "read"})
    for run in (1, 2):
        assert world.invoke(fast, {"x": 1}) == {"x": 1, "y": 2, "z": 4}
        assert fast.drain(LIMIT) == 0
        assert (tally["second"], fast.report().claimed) == (run, run - 1)
    assert fast.report().speculator_errors == 0
