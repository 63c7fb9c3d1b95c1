"""Gates on their own: what they hold, for whom, and what the claimant gets."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from langgraph.runtime import Runtime

from langgraph_speculative._claimant import Claimant
from langgraph_speculative._gate import CURRENT, Gate, _as_it_is, write_custom
from langgraph_speculative._saver import GateSaver
from langgraph_speculative._view import Barrier

NS = "langgraph_checkpoint_ns"


class Heard(BaseCallbackHandler):
    run_inline = True

    def __init__(self) -> None:
        self.events: list[tuple[str, Any, dict[str, Any]]] = []

    def on_chain_start(self, serialized: Any, inputs: Any, **kwargs: Any) -> None:
        self.events.append(("start", inputs, kwargs))

    def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.events.append(("end", outputs, kwargs))

    def on_custom_event(self, name: str, data: Any, **kwargs: Any) -> None:
        self.events.append((name, data, kwargs))

    def on_retry(self, retry_state: Any, **kwargs: Any) -> None:
        self.events.append(("retry", retry_state, kwargs))


class AsyncHeard(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.events: list[Any] = []

    async def on_chain_end(self, outputs: Any, **kwargs: Any) -> None:
        self.events.append(outputs)


def config(namespace: str = "", metadata: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    conf = {"checkpoint_ns": namespace, **kwargs.pop("conf", {})}
    return {"configurable": conf, "metadata": {NS: namespace, **(metadata or {})}, **kwargs}


def same(value: Any) -> Any:
    return value


def gate(handlers: Any = (), namespace: str = "early:1", metadata: Any = None, *, sync: bool = True) -> Gate:
    return Gate(handlers, config(namespace, metadata), sync=sync)


def claimant(*handlers: Any, namespace: str = "real:1", parent: UUID | None = None, **kwargs: Any) -> Any:
    manager = CallbackManager(handlers=list(handlers), inheritable_handlers=list(handlers), parent_run_id=parent)
    written: list[Any] = kwargs.pop("written", [])
    conf = {"__pregel_runtime": Runtime(stream_writer=written.append), "__pregel_call": None, **kwargs.pop("conf", {})}
    return config(namespace, callbacks=manager, conf=conf, **kwargs)


# --- what is held ---------------------------------------------------------------------------------------------------


def test_what_is_written_early_is_held_and_then_passes() -> None:
    own, written = gate(), []
    own.write("first")
    own.emit("custom", ("second", ""))
    assert own.held == 2
    assert own.open(claimant(written=written), same) is True
    assert written == ["first", "second"]
    assert own.held == 0
    own.write("third")
    assert written == ["first", "second", "third"]
    assert own.held == 0


async def test_the_same_on_an_event_loop() -> None:
    own, written = gate(sync=False), []
    own.write("first")
    assert await own.aopen(claimant(written=written), same) is True
    own.write("second")
    assert written == ["first", "second"]


def test_what_is_written_while_the_gate_opens_keeps_its_order() -> None:
    own = gate()

    class Written(list[Any]):
        def append(self, chunk: Any) -> None:
            super().append(chunk)
            if chunk == "first":
                own.write("meanwhile")

    written = Written()
    own.write("first")
    own.write("second")
    assert own.open(claimant(written=written), same)
    assert written == ["first", "second", "meanwhile"]


def test_chunks_are_held_as_they_were_and_renamed() -> None:
    own, written, chunk = gate(), [], {"k": ["id-1"]}
    own.write(chunk)
    chunk["k"].append("later")
    assert own.open(claimant(written=written), lambda v: {"renamed": v})
    assert written == [{"renamed": {"k": ["id-1"]}}]
    own.write(chunk)
    assert written[1]["renamed"] is chunk  # nothing to hold, nothing to copy


def test_a_chunk_that_cannot_be_copied_is_held_itself() -> None:
    own, written, chunk = gate(), [], [threading.Lock()]
    own.write(chunk)
    own.open(claimant(written=written), same)
    assert written[0] is chunk


@pytest.mark.parametrize("sync", [True, False])
async def test_a_spoiled_gate_does_not_open(sync: bool) -> None:
    own, written = gate(), []
    own.write("first")
    own.spoil("one reason")
    own.spoil("another")
    assert own.spoiled == "one reason"
    real = claimant(written=written)
    assert (own.open(real, same) if sync else await own.aopen(real, same)) is False
    assert written == []
    assert own.held == 1
    with pytest.raises(Barrier):
        own.claimant("too late")


def test_who_reads_beyond_its_input_is_spoiled_before_the_claim_alone() -> None:
    early, late = gate(), gate()
    assert early.reading() is None
    assert early.spoiled == "it read channels beyond its input"
    real = claimant()
    late.open(real, same)
    assert late.reading() is real
    assert late.spoiled == ""


def test_functional_tasks_are_the_claimants() -> None:
    early, late = gate(), gate()
    with pytest.raises(Barrier):
        early.call("f")
    assert early.spoiled == "it calls a functional-API task"
    calls: list[Any] = []
    late.open(claimant(conf={"__pregel_call": lambda *a, **k: calls.append((a, k)) or "future"}), same)
    assert late.call("f", retry=1) == "future"
    assert calls == [(("f",), {"retry": 1})]
    assert late.spoiled == ""


def test_the_writer_of_branches_writes_to_the_gate_of_its_context() -> None:
    write_custom("nowhere")
    own = gate()
    token = CURRENT.set(own)
    try:
        write_custom("here")
    finally:
        CURRENT.reset(token)
    assert own.held == 1


def test_containers_are_copied_and_what_they_hold_is_not() -> None:
    message = object()
    value = {"k": [message, (message, {"d": message})], "s": "text"}
    new = _as_it_is(value)
    assert new == value
    assert new is not value
    assert new["k"] is not value["k"]
    assert new["k"][1][1] is not value["k"][1][1]
    assert new["k"][0] is message
    assert type(new["k"][1]) is tuple


# --- callbacks ------------------------------------------------------------------------------------------------------


def test_the_managers_of_a_gate() -> None:
    heard = Heard()
    for sync, kind in ((True, CallbackManager), (False, AsyncCallbackManager)):
        own = gate([heard], sync=sync)
        given = config(metadata={"m": 1}, tags=["t"])
        manager = own.callbacks(given)
        assert type(manager) is kind
        assert manager.handlers == manager.inheritable_handlers == [own.handler]
        assert manager.parent_run_id == own.run_id
        assert (manager.tags, manager.inheritable_tags) == (["t", "seq:step:1"], ["t"])
        assert manager.metadata == manager.inheritable_metadata == given["metadata"]
        assert manager.metadata is not given["metadata"]
        assert manager.metadata is not manager.inheritable_metadata
    nobody = gate()
    assert nobody.handler is None
    assert nobody.callbacks({}).handlers == []
    assert gate().run_id != gate().run_id


def started(own: Gate, parent: UUID | None = None, **metadata: Any) -> UUID:
    """A run inside a pre-execution, as LangChain reports it."""
    run = uuid4()
    own.handler.on_chain_start(  # type: ignore[union-attr]
        {}, {"in": ["id-1"]}, run_id=run, parent_run_id=parent or own.run_id, tags=["t"], metadata=metadata
    )
    return run


def test_events_are_held_and_come_under_the_claimants_run() -> None:
    heard, parent = Heard(), uuid4()
    own = gate([heard])
    run = started(own)
    inner = started(own, run)
    assert heard.events == []
    own.open(claimant(heard, parent=parent), same)
    assert [(k["run_id"], k["parent_run_id"]) for _, _, k in heard.events] == [(run, parent), (inner, run)]
    live = started(own)
    assert heard.events[-1][2]["run_id"] == live
    assert heard.events[-1][2]["parent_run_id"] == parent


def test_events_are_renamed_but_for_their_place() -> None:
    heard = Heard()
    own = gate([heard])
    started(own)
    own.handler.on_chain_end({"out": "id-1"}, run_id=own.run_id, parent_run_id=None)  # type: ignore[union-attr]

    def rename(value: Any) -> Any:
        return {"renamed": value}

    own.open(claimant(heard), rename)
    (_, inputs, kwargs), (_, outputs, _) = heard.events
    assert inputs == {"renamed": {"in": ["id-1"]}}
    assert outputs == {"renamed": {"out": "id-1"}}
    assert kwargs["tags"] == ["t"]


def test_a_custom_events_run_is_the_nodes_own() -> None:
    heard, parent = Heard(), uuid4()
    own = gate([heard])
    own.handler.on_custom_event("mine", {"d": 1}, run_id=own.run_id)  # type: ignore[union-attr]
    own.open(claimant(heard, parent=parent), same)
    assert heard.events == [("mine", {"d": 1}, {"run_id": parent})]


def test_held_events_keep_the_containers_as_they_were() -> None:
    heard, given = Heard(), {"out": [1]}
    own = gate([heard])
    own.handler.on_chain_end(given, run_id=uuid4())  # type: ignore[union-attr]
    given["out"].append(2)
    own.open(claimant(heard), same)
    assert heard.events[0][1] == {"out": [1]}


def test_metadata_of_events_is_the_runs() -> None:
    heard = Heard()
    own = gate([heard], metadata={"langgraph_step": 3, "task": "early", "same": 1})
    ns = "early:1"
    started(own, **{NS: ns, "langgraph_step": 3, "task": "its own", "same": 1, "other": f"{ns}|deep:2", "n": 7})
    real = claimant(heard, metadata={"langgraph_step": 5, "task": "real", "more": "added"})
    own.open(real, same)
    assert heard.events[0][2]["metadata"] == {
        NS: "real:1",
        "langgraph_step": 5,
        "task": "its own",
        "same": 1,
        "other": "real:1|deep:2",
        "n": 7,
        "more": "added",
    }


def test_a_retry_inside_is_seen() -> None:
    own = gate([Heard()])
    started(own)
    assert not own.saw_retry
    own.handler.on_retry(None, run_id=own.run_id)  # type: ignore[union-attr]
    assert own.saw_retry


async def test_asynchronous_handlers_hear_held_and_live_events() -> None:
    heard = AsyncHeard()
    own = gate([heard], sync=False)
    await own.handler.on_chain_end("held", run_id=uuid4())  # type: ignore[union-attr, misc]
    assert heard.events == []
    manager = AsyncCallbackManager(handlers=[heard], inheritable_handlers=[heard])
    await own.aopen({**claimant(), "callbacks": manager}, same)
    await own.handler.on_chain_end("live", run_id=uuid4())  # type: ignore[union-attr, misc]
    assert heard.events == ["held", "live"]


def test_handlers_that_code_brings_along_hear_through_the_gate() -> None:
    of_run, brought = Heard(), Heard()
    own = gate([of_run])
    manager = CallbackManager(handlers=[of_run, own.handler, brought], inheritable_handlers=[brought])  # type: ignore[list-item]
    own.shield(manager)
    # The run's own hears through the recorder that is there; of the other there is one shield, however often it comes.
    recorder, shield = manager.handlers
    assert recorder is own.handler
    assert shield is manager.inheritable_handlers[0]
    assert shield not in (brought, own.handler)
    again = CallbackManager(handlers=[brought])
    own.shield(again)
    assert again.handlers == [shield]
    own.shield(again)
    assert again.handlers == [shield]
    asynchronous = AsyncCallbackManager(handlers=[brought])
    own.shield(asynchronous)
    assert asynchronous.handlers != [shield]
    shield.on_chain_end("out", run_id=uuid4())  # type: ignore[attr-defined]
    own.open(claimant(of_run), same)
    assert [e[1] for e in brought.events] == ["out"]
    assert of_run.events == []


# --- namespaces and streams of graphs inside ------------------------------------------------------------------------


def target(early: str = "early:1", real: str = "real:1", above: Any = None, conf: Any = None) -> Claimant:
    given = claimant(namespace=real, conf=conf or {})
    return Claimant(given, {NS: early}, above or {}, uuid4(), same)


def test_namespaces_of_a_branch_as_they_are_in_the_run() -> None:
    own = target()
    assert own.in_namespace("early:1") == "real:1"
    assert own.in_namespace("early:1|deep:2") == "real:1|deep:2"
    assert own.in_namespace("other:1|early:1") == "other:1|early:1"
    assert target(early="").in_namespace("x") == "x"
    assert target(real="").in_namespace("early:1") == "early:1"


def test_values_of_graphs_inside_name_the_runs_checkpoints() -> None:
    above = {"": "root", "early:1": "early checkpoint", "gone": "no counterpart"}
    real = {"": "real root", "real:1": "real checkpoint"}
    own = target(above=above, conf={"checkpoint_map": real})
    value = {"parents": {"": "root", "early:1": "early checkpoint"}, "x": ["no counterpart", "early:1|a", 5]}
    assert own.everywhere(value) == {
        "parents": {"": "real root", "real:1": "real checkpoint"},
        "x": ["no counterpart", "real:1|a", 5],
    }
    opaque = [threading.Lock()]
    assert own.everywhere(opaque) is opaque


def test_chunks_of_graphs_inside_come_in_the_claimants_namespace() -> None:
    chunks: list[Any] = []
    own = gate()
    own.stream((("early:1", "deep:2"), "updates", {"x": "early:1"}))
    own.open(claimant(conf={"__pregel_stream": chunks.append}), same)
    assert chunks == [(("real:1", "deep:2"), "updates", {"x": "real:1"})]
    silent = gate()
    silent.stream((("early:1",), "updates", {}))
    assert silent.open(claimant(), same)  # the run does not ask for them


def test_partial_output_of_a_tool_that_nobody_wrote_is_dropped() -> None:
    own = target()
    heard: list[Any] = []
    own._deltas["run"] = heard.append
    own.send("delta", ("run", "part"))
    own.send("delta", ("other", "part"))
    assert heard == ["part"]


# --- checkpoints of graphs inside -----------------------------------------------------------------------------------


class Saver:
    """The run's checkpointer."""

    serde = None

    def __init__(self, held: Any = None) -> None:
        self.held, self.calls = held, []

    def get_tuple(self, config: Any) -> Any:
        return self.held

    async def aget_tuple(self, config: Any) -> Any:
        return self.held

    def get_next_version(self, current: Any, channel: Any) -> Any:
        return f"after {current}"

    def put(self, *args: Any) -> None:
        self.calls.append(("put", *args))

    def put_writes(self, *args: Any) -> None:
        self.calls.append(("put_writes", *args))

    async def aput(self, *args: Any) -> None:
        self.calls.append(("aput", *args))

    async def aput_writes(self, *args: Any) -> None:
        self.calls.append(("aput_writes", *args))


@pytest.mark.parametrize("sync", [True, False])
async def test_what_graphs_inside_save_is_handed_over_in_the_claimants_namespace(sync: bool) -> None:
    from langgraph.checkpoint.base import empty_checkpoint

    own, saver = gate(), Saver()
    kept = GateSaver(saver, own)  # type: ignore[arg-type]
    assert own.savers == [kept]
    assert kept.get_next_version(3, None) == "after 3"
    where = {"configurable": {"thread_id": "t", "checkpoint_ns": "early:1|g:2"}}
    assert kept.get_tuple(where) is None
    point = empty_checkpoint()
    kept.put(where, point, {"parents": {"early:1": "c"}}, {})
    kept.put_writes({"configurable": {**where["configurable"], "checkpoint_id": point["id"]}}, [("x", 1)], "task", "p")
    assert kept.get_tuple(where) is not None
    assert (await kept.aget_tuple(where)) is not None
    assert own.spoiled == ""
    own.hand_over()
    assert saver.calls == []  # nobody has claimed
    own.open(claimant(), same)
    prefix = "" if sync else "a"
    if sync:
        own.hand_over()
    else:
        await own.ahand_over()
    (put, put_config, put_point, metadata, versions), (writes, writes_config, written, task, path) = saver.calls
    assert (put, writes) == (f"{prefix}put", f"{prefix}put_writes")
    assert put_config["configurable"]["checkpoint_ns"] == "real:1|g:2"
    assert writes_config["configurable"]["checkpoint_ns"] == "real:1|g:2"
    assert put_config["configurable"]["thread_id"] == "t"
    assert (put_point, metadata, versions) == (point, {"parents": {"real:1": "c"}}, {})
    assert (written, task, path) == ([("x", 1)], "task", "p")


@pytest.mark.parametrize("sync", [True, False])
async def test_a_graph_inside_that_goes_on_from_what_is_saved_ends_it(sync: bool) -> None:
    own = gate()
    kept = GateSaver(Saver(held=SimpleNamespace()), own)  # type: ignore[arg-type]
    where = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    if sync:
        with pytest.raises(Barrier):
            kept.get_tuple(where)
    else:
        with pytest.raises(Barrier):
            await kept.aget_tuple(where)
    assert own.spoiled == "it runs a graph that goes on from its checkpoints"
