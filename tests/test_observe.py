"""What is kept of a run to compare it: values without what is minted, the stream, the callbacks, what is saved."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque, namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, TypedDict
from uuid import UUID, uuid4

import pytest
from langchain_core.callbacks import BaseCallbackHandler, CallbackManager
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.errors import InvalidUpdateError
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.store.memory import InMemoryStore
from langgraph.types import Send
from pydantic import BaseModel, ConfigDict

from langgraph_speculative import Report
from langgraph_speculative._compare import Fields
from langgraph_speculative._observe import Canon, Recorder, Run, acollect, aobserve, blurred, collect, observe
from langgraph_speculative.testing import check_report, check_same_run, compare_runs
from tests.support import call, says

HERE = __name__
NAMES = ("one", "other")


class Color(Enum):
    RED = 1


@dataclass
class Box:
    held: Any
    ts: Any = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    held: int = 1


Pair = namedtuple("Pair", "left right")


class Bare: ...


class Shown:
    def __init__(self, id: str) -> None:
        self.id = id

    def __repr__(self) -> str:
        return f"Shown({self.id})"


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, 1, 1.5, b"x", Color.RED, "text"])
def test_plain_values_are_themselves(value: Any) -> None:
    assert Canon()(value) is value


@pytest.mark.parametrize(
    "minted",
    [
        str(UUID(int=5)),
        "0" * 32,
        f"{'ab' * 16}.0.123",
        f"{'ab' * 16}.0.12e-05",
        "call_" + "aB3" * 6,
        "toolu_" + "x" * 16,
        "msg_" + "x" * 16,
        "resp-" + "x" * 16,
        "chatcmpl-" + "x" * 16,
        "run-" + "x" * 16,
    ],
)
def test_minted_ids_are_numbered(minted: str) -> None:
    canon = Canon()
    assert canon(minted) == "<id 0>"
    assert canon(f"a:{minted}|b:{UUID(int=9)}") == "a:<id 0>|b:<id 1>"
    assert canon([UUID(int=9), UUID(int=8)]) == ["<id 1>", "<id 2>"]


@pytest.mark.parametrize("text", ["call_short", "0" * 31, "0" * 33, "recall_" + "x" * 16, "1234-5678"])
def test_other_texts_are_kept(text: str) -> None:
    assert Canon()(text) == text


def test_values_are_taken_apart_with_their_types() -> None:
    canon = Canon()
    assert canon([1, {"k": (1, "x")}]) == [1, {"k": Fields("builtins.tuple", {"items": [1, "x"]})}]
    assert canon(ValueError("no", 1)) == Fields(
        "builtins.ValueError", {"args": Fields("builtins.tuple", {"items": ["no", 1]})}
    )
    assert canon(Open(held=2, more=[3])) == Fields(f"{HERE}.Open", {"held": 2, "more": [3]})
    assert canon(Box([1])) == Fields(f"{HERE}.Box", {"held": [1]})
    assert canon(Pair(1, (2,))) == Fields(
        f"{HERE}.Pair", {"left": 1, "right": Fields("builtins.tuple", {"items": [2]})}
    )
    assert canon({2, 1}) == Fields("builtins.set", {"items": ["1", "2"]})
    assert canon(frozenset(["b", "a"])) == Fields("builtins.frozenset", {"items": ["'a'", "'b'"]})
    assert canon(Send("n", [1])) == Fields("langgraph.types.Send", {"node": "n", "arg": [1]})
    assert canon(Bare()) == f"{HERE}.Bare"
    assert canon(Shown(str(UUID(int=1)))) == Fields(f"{HERE}.Shown", {"repr": "Shown(<id 0>)"})
    # A class is no value of it.
    assert canon(Box) == Fields("builtins.type", {"repr": repr(Box)})


def test_keys_are_compared_too() -> None:
    assert Canon()({1: "a", (1,): "b", None: "c", str(UUID(int=1)): "d", "ts": "e"}) == {
        1: "a",
        None: "c",
        repr(Fields("builtins.tuple", {"items": [1]})): "b",
        "<id 0>": "d",
        "ts": "e",
    }


@pytest.mark.parametrize("key", ["ts", "timestamp", "created_at", "updated_at", "node_first_attempt_time"])
@pytest.mark.parametrize(
    ("value", "is_time"),
    [
        (None, True),
        (1.5, True),
        (datetime(2026, 1, 1, tzinfo=UTC), True),
        ("2026-01-01T00:00:00+00:00", True),
        (1_700_000_000_000, True),
        (1_000_000_000_000, False),
        (1_000_000_000_001, True),
        (7, False),
        ("2026-01-01T00:00:00", False),
        ("noon", False),
        ([1.5], False),
    ],
)
def test_clock_times_are_left_out_by_their_names(key: str, value: Any, is_time: bool) -> None:
    assert (Canon()({key: value, "x": 1}) == {"x": 1}) is is_time
    assert Canon()({f"{key}s": 1.5}) == {f"{key}s": 1.5}


def test_clock_times_of_objects_are_left_out_too() -> None:
    assert Canon()(Box(1, ts=2.5)) == Fields(f"{HERE}.Box", {"held": 1})


def test_blurred_values_have_no_numbers_and_no_order_of_keys() -> None:
    value = {"b <id 3>": ["<id 12>", 1], "a": Fields("K", {"z": "<id 1>", "y": None})}
    out = blurred(value)
    assert out == {"a": Fields("K", {"y": None, "z": "<id>"}), "b <id>": ["<id>", 1]}
    assert list(out) == ["a", "b <id>"]
    assert list(out["a"].fields) == ["y", "z"]


# --- runs -----------------------------------------------------------------------------------------------------------


def chunk(mode: str, payload: Any, *namespace: str) -> Any:
    return Canon()((namespace, mode, payload))


def start(id: str, *namespace: str) -> Any:
    return chunk("tasks", {"id": id, "triggers": []}, *namespace)


def end(id: str, *namespace: str) -> Any:
    return chunk("tasks", {"id": id, "result": {}}, *namespace)


def of(*chunks: Any, **more: Any) -> Run:
    return Run(None, list(chunks), more.pop("callbacks", []), **more)


@pytest.mark.parametrize(
    ("chunks", "parallel"),
    [
        ([], False),
        ([start("1"), end("1"), start("2"), end("2")], False),
        ([start("1"), start("2"), end("1"), end("2")], True),
        ([start("1"), end("1"), start("2"), start("3")], True),
        ([start("1"), start("2", "inner"), end("2", "inner"), end("1")], False),  # a graph inside the task
        ([start("1"), start("2", "inner"), start("3", "inner")], True),
        ([chunk("debug", {"id": "1", "triggers": []}), chunk("debug", {"id": "2", "triggers": []})], False),
    ],
)
def test_two_tasks_at_once(chunks: Any, parallel: bool) -> None:
    assert of(*chunks).is_parallel is parallel


def test_runs_without_the_order_inside_a_superstep() -> None:
    a, b, values = chunk("custom", "a"), chunk("custom", "b"), chunk("values", {"x": 1})
    assert of(a, b, values).unordered() == of(b, a, values).unordered()
    assert of(a, values, b).unordered() != of(b, values, a).unordered()
    # What a graph inside it shows, or an interrupt, ends no superstep.
    for other in (chunk("values", {"x": 1}, "inner"), chunk("values", {"__interrupt__": []}), chunk("updates", {})):
        assert of(a, other, b).unordered() == of(b, other, a).unordered()


def test_runs_without_the_order_of_ids_and_callbacks() -> None:
    one = Run(["<id 1>"], [], ["<id 2>", "b"], state="<id 3>", history=["<id 4>"], store=["<id 5>"])
    other = Run(["<id 6>"], [], ["b", "<id 7>"], state="<id 8>", history=["<id 9>"], store=["<id 5>"])
    assert one.unordered() == other.unordered()
    assert one.unordered().store == ["<id 5>"]
    assert one != other


def test_the_first_difference_of_two_runs() -> None:
    assert of("a").difference(of("a"), NAMES) is None
    assert of("a").difference(of("b"), NAMES) == "chunks[0]: 'a' in one, 'b' in other"
    assert of(state=1, store=1).difference(of(state=2, store=2), NAMES) == "state: 1 in one, 2 in other"


def test_compared_runs_are_ordered_unless_tasks_ran_at_once() -> None:
    def parallel(*said: str) -> Run:
        return of(start("1"), start("2"), *[chunk("custom", s) for s in said])

    def serial(*said: str) -> Run:
        return of(*[chunk("custom", s) for s in said])

    compare_runs([parallel("a", "b")], [parallel("b", "a")])
    compare_runs([parallel("a", "b")], [parallel("b", "a")], ordered=False)
    compare_runs([serial("a", "b")], [serial("b", "a")], ordered=False)
    for one, other, ordered in (
        (serial("a", "b"), serial("b", "a"), None),
        (serial("a", "b"), serial("b", "a"), True),
        (parallel("a", "b"), parallel("b", "a"), True),
        (parallel("a", "b"), parallel("b", "c"), None),
        (serial("a"), serial("b"), False),
    ):
        with pytest.raises(AssertionError, match=r"^chunks"):
            compare_runs([one], [other], ordered=ordered)
    with pytest.raises(AssertionError, match=r"^input 2 of 2: chunks"):
        compare_runs([serial("a"), serial("a")], [serial("a"), serial("b")])


def test_a_report_that_keeps_to_the_limits() -> None:
    check_report(Report(speculator_errors=1, errors=deque(["Speculator of 'a': no idea"])))
    with pytest.raises(AssertionError, match="2 irreversible calls were made early"):
        check_report(Report(early_irreversible_calls=2))
    report = Report()
    report.errors.extend(["a guess", "internal error: KeyError", "internal error: late"])
    with pytest.raises(AssertionError, match=r"^internal error: KeyError"):
        check_report(report)


# --- observing ------------------------------------------------------------------------------------------------------


class State(TypedDict, total=False):
    x: int


def a(state: State) -> State:
    return {"x": state["x"] + 1}


def fails(state: State) -> State:
    raise ZeroDivisionError("never")


def graph(*nodes: Any, **compiled: Any) -> Any:
    builder = StateGraph(State)
    builder.add_sequence([(n.__name__, n) for n in nodes])
    return builder.add_edge(START, nodes[0].__name__).compile(**compiled)


async def seen(is_sync: bool, made: Any, value: Any, config: Any = None, **kwargs: Any) -> Run:
    return observe(made, value, config, **kwargs) if is_sync else await aobserve(made, value, config, **kwargs)


@pytest.mark.parametrize("is_sync", [True, False])
async def test_chunks_before_an_error_count(is_sync: bool) -> None:
    made = graph(a, fails)
    args = (made, {"x": 1}, None, lambda c: ("kept", c))
    chunks, error = collect(*args, stream_mode="updates") if is_sync else await acollect(*args, stream_mode="updates")
    assert chunks == [("kept", {"a": {"x": 2}})]
    assert type(error) is ZeroDivisionError
    chunks, error = collect(graph(a), *args[1:]) if is_sync else await acollect(graph(a), *args[1:])
    assert error is None
    assert len(chunks) == 1


@pytest.mark.parametrize("is_sync", [True, False])
async def test_all_that_can_be_seen_of_a_run(is_sync: bool) -> None:
    store, heard = InMemoryStore(), []
    for key in range(12, 0, -1):
        store.put(("n",), f"{key:02}", {"id": str(uuid4())})
    store.put(("m",), "k", {"v": (1,)})
    made = graph(a, checkpointer=InMemorySaver(), store=store)
    run = await seen(is_sync, made, {"x": 1}, {"configurable": {"thread_id": "1"}}, listen=heard.append)
    assert run.error is None
    assert {c.fields["items"][1] for c in run.chunks} == {"values", "updates", "tasks", "checkpoints", "debug"}
    assert chunk("values", {"x": 2}) in run.chunks
    assert len(heard) == len(run.chunks)
    assert heard[0][0] == ()  # with its namespace
    assert run.state.fields["values"] == {"x": 2}
    assert [s.fields["values"] for s in run.history] == [{"x": 2}, {"x": 1}, {}]
    assert [i["key"] for i in run.store] == ["k", *[f"{n:02}" for n in range(1, 13)]]
    assert [i["namespace"].fields["items"] for i in run.store[:2]] == [["m"], ["n"]]
    assert [i["value"] for i in run.store[1:3]] == [{"id": "<id 0>"}, {"id": "<id 1>"}]
    assert [(e["event"], e["run"], e["parent"]) for e in run.callbacks] == [
        ("chain_start", "LangGraph", None),
        ("chain_start", "a", "LangGraph"),
        ("chain_end", "a", "LangGraph"),
        ("chain_end", "LangGraph", None),
    ]


@pytest.mark.parametrize("is_sync", [True, False])
async def test_a_run_without_what_would_save_it(is_sync: bool) -> None:
    run = await seen(is_sync, graph(a, fails), {"x": 1}, modes=["updates"])
    assert (run.state, run.history, run.store) == (None, None, None)
    assert run.error.kind == "builtins.ZeroDivisionError"
    assert run.chunks == [chunk("updates", {"a": {"x": 2}})]
    flat = await seen(is_sync, graph(a), {"x": 1}, stream_mode=["updates"], subgraphs=False)
    assert flat.chunks == [Canon()(("updates", {"a": {"x": 2}}))]


@pytest.mark.parametrize("is_sync", [True, False])
async def test_the_config_stays_what_it_is(is_sync: bool) -> None:
    events: list[str] = []

    class Heard(BaseCallbackHandler):
        def on_chain_start(self, *args: Any, **kwargs: Any) -> None:
            events.append("start")

    heard = Heard()
    for callbacks in ([heard], CallbackManager(handlers=[heard], inheritable_handlers=[heard])):
        config: Any = {"callbacks": callbacks, "recursion_limit": 1, "tags": ["t"]}
        run = await seen(is_sync, graph(a, fails), {"x": 1}, config)
        assert run.error.kind == "langgraph.errors.GraphRecursionError"
        assert run.callbacks[0]["tags"] == ["t"]
        assert config == {"callbacks": callbacks, "recursion_limit": 1, "tags": ["t"]}
        assert events == ["start"] * 2
        events.clear()


@pytest.mark.parametrize("is_sync", [True, False])
async def test_a_state_that_does_not_fit_together(is_sync: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = graph(a, checkpointer=InMemorySaver())

    def unfit(*args: Any, **kwargs: Any) -> Any:
        raise InvalidUpdateError("two at once")

    async def aunfit(*args: Any, **kwargs: Any) -> Any:
        raise InvalidUpdateError("two at once")

    monkeypatch.setattr(type(made), "get_state", unfit)
    monkeypatch.setattr(type(made), "aget_state", aunfit)
    run = await seen(is_sync, made, {"x": 1}, {"configurable": {"thread_id": "1"}})
    assert run.error is None
    assert run.state.kind == "langgraph.errors.InvalidUpdateError"
    assert run.history is None


# --- callbacks ------------------------------------------------------------------------------------------------------


def test_events_with_their_places_and_values() -> None:
    recorder, run, inner = Recorder(), uuid4(), uuid4()
    metadata = {"k": 1, "__own": 2}
    recorder.on_chain_start(None, {"x": [1]}, run_id=run, name="a", metadata=metadata, tags=["u", "t"])
    recorder.on_tool_start({"name": "calc"}, "1+1", run_id=inner, parent_run_id=run)
    recorder.on_tool_end("2", run_id=inner, parent_run_id=run)
    recorder.on_chain_error(ValueError("no"), run_id=run, parent_run_id=uuid4())
    recorder.on_custom_event("said", ["hi"], run_id=uuid4())
    recorder.on_llm_start({}, ["p"], run_id=(unnamed := uuid4()))
    recorder.on_llm_new_token("t", run_id=unnamed)
    assert recorder.events == [
        {
            "event": "chain_start",
            "run": "a",
            "parent": None,
            "value": {"x": [1]},
            "metadata": {"k": 1},
            "tags": ["t", "u"],
        },
        {"event": "tool_start", "run": "calc", "parent": "a", "value": "1+1", "metadata": {}, "tags": []},
        {"event": "tool_end", "run": "calc", "parent": "a", "value": "2"},
        {"event": "chain_error", "run": "a", "parent": "unknown", "value": Canon()(ValueError("no"))},
        {"event": "custom:said", "run": "unknown", "parent": None, "value": ["hi"]},
        {"event": "llm_start", "run": "?", "parent": None, "value": ["p"], "metadata": {}, "tags": []},
        {"event": "token", "run": "?", "parent": None, "value": "t"},
    ]
    assert recorder.of("token") == recorder.events[-1:]
    assert recorder.of("none") == []


def test_events_are_kept_as_they_were() -> None:
    recorder, value = Recorder(), [1]
    recorder.on_chain_end(value, run_id=uuid4())
    value.append(2)
    assert recorder.events[0]["value"] == [1]
    assert recorder.run_inline  # in the order in which they come


@pytest.mark.parametrize("kind", ["chain", "llm", "retriever", "tool"])
def test_every_kind_of_event(kind: str) -> None:
    recorder, run = Recorder(), uuid4()
    getattr(recorder, f"on_{kind}_start")({"name": "n"}, "in", run_id=run)
    getattr(recorder, f"on_{kind}_end")("out", run_id=run)
    getattr(recorder, f"on_{kind}_error")(KeyError("k"), run_id=run)
    assert [(e["event"], e["run"]) for e in recorder.events] == [
        (f"{kind}_{what}", "n") for what in ("start", "end", "error")
    ]
    assert [e["value"] for e in recorder.events[:2]] == ["in", "out"]


def test_a_chat_models_start_has_its_messages() -> None:
    recorder = Recorder()
    recorder.on_chat_model_start({"name": "m"}, [["hi"]], run_id=uuid4())
    assert [(e["event"], e["run"], e["value"]) for e in recorder.events] == [("chat_model_start", "m", [["hi"]])]


# --- the check of a user's graph ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_sync", [True, False])
@pytest.mark.parametrize("thread", [None, "own"])
def test_a_checked_graph_gets_a_thread_if_it_has_none(is_sync: bool, thread: str | None) -> None:
    threads: list[Any] = []

    def look(state: State) -> State:
        threads.append(get_config()["configurable"]["thread_id"])
        return {}

    config: Any = None if thread is None else {"configurable": {"thread_id": thread}}
    report = check_same_run(
        lambda: graph(look, a, checkpointer=InMemorySaver()),
        {"x": 1},
        config=config,
        sync=is_sync,
        effects={"a": "pure"},
        speculators={"look": lambda s: None},
    )
    assert set(threads) == {thread or "check-same-run"}
    assert len(threads) == 2
    assert report.runs == 1
    assert config is None or config == {"configurable": {"thread_id": thread}}


@pytest.mark.parametrize(("name", "found"), [("langgraph-speculative", True), ("the user's own", False)])
def test_a_task_that_speculation_leaves_on_the_loop_is_found(name: str, found: bool) -> None:
    left: list[asyncio.Task[Any]] = []
    builds = itertools.count()

    def build() -> Any:
        number = next(builds)

        async def leave(state: State) -> State:
            if number == 1:
                left.append(asyncio.create_task(asyncio.Event().wait(), name=name))
            return {}

        return graph(leave, a)

    def check() -> None:
        check_same_run(build, {"x": 1}, effects={"a": "pure"}, speculators={"leave": lambda s: None})

    if found:
        with pytest.raises(AssertionError, match=r"^1 tasks of speculation are left on the event loop"):
            check()
    else:
        check()
    assert [t.cancelled() for t in left] == [True]  # with its loop


@pytest.mark.parametrize(("whats", "parallel"), [("a", False), ("ab", True)])
def test_the_calls_of_one_tool_node_are_beside_each_other(whats: str, parallel: bool) -> None:
    @tool
    def look(what: str) -> str:
        """Look something up."""
        return what

    builder = StateGraph(MessagesState)
    builder.add_node("tools", ToolNode([look]))
    builder.add_edge(START, "tools")
    asked = says("", *(call("look", what=what) for what in whats))
    run = observe(builder.compile(), {"messages": [asked]})
    assert run.is_parallel is parallel
    assert run.difference(run, NAMES) is None
