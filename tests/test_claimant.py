"""Who has claimed a pre-execution: what this has emitted looks like the claimant's own there. No graph runs here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler, CallbackManager
from langgraph._internal._constants import CONFIG_KEY_CALL, CONFIG_KEY_CHECKPOINT_MAP, CONFIG_KEY_STREAM

from langgraph_speculative import _compat
from langgraph_speculative._claimant import Claimant

STAND_IN, PARENT, OWN = UUID(int=1), UUID(int=2), UUID(int=3)
NS = "langgraph_checkpoint_ns"
VAR: ContextVar[str] = ContextVar("VAR", default="unset")


def renamed(value: Any) -> Any:
    """The ids of the branch as the run has them, in texts and lists."""
    if isinstance(value, str):
        return value.replace("guess", "real")
    return [renamed(v) for v in value] if isinstance(value, list) else value


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any, Any]] = []

    def on_text(self, *args: Any, **kwargs: Any) -> None:
        self.events.append(("text", args, kwargs))

    def on_tool_start(self, *args: Any, **kwargs: Any) -> None:
        self.events.append(("tool", args, kwargs))


class AsyncHeard(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.events: list[tuple[str, Any, Any]] = []

    async def on_text(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        self.events.append(("text", args, kwargs))


def claimant(
    *handlers: Any,
    early: Any = None,
    real: Any = None,
    above: Any = None,
    metadata: Any = None,
    rename: Callable[[Any], Any] = renamed,
    **conf: Any,
) -> Claimant:
    manager = CallbackManager(list(handlers), parent_run_id=PARENT, inheritable_metadata=real or {NS: "n:real"})
    config: Any = {"configurable": {CONFIG_KEY_CALL: None, "checkpoint_ns": "n:real", **conf}}
    return Claimant(
        {**config, "callbacks": manager, "metadata": metadata}, early or {NS: "n:early"}, above or {}, STAND_IN, rename
    )


@pytest.fixture(params=["threads", "loop"])
def passes(request: pytest.FixtureRequest) -> Any:
    """Passes an event on, in either world; what is heard of it."""

    async def go(event: Any, **kwargs: Any) -> tuple[str, Any, Any]:
        handler: Any = Heard() if request.param == "threads" else AsyncHeard()
        target = claimant(handler, **kwargs)
        if request.param == "threads":
            target.pass_on(event)
        else:
            await target.apass_on(event)
        (heard,) = handler.events
        return heard

    return go


# --- events ---------------------------------------------------------------------------------------------------------


async def test_events_are_under_the_claimants_run(passes: Any) -> None:
    event = ("on_text", None, ("guess",), {"run_id": OWN, "parent_run_id": STAND_IN, "extra": "guess"}, None)
    assert await passes(event) == ("text", ("real",), {"run_id": OWN, "parent_run_id": PARENT, "extra": "real"})


async def test_a_custom_events_own_run_is_the_nodes(passes: Any) -> None:
    event = ("on_text", None, (STAND_IN, OWN), {"run_id": STAND_IN, "parent_run_id": OWN}, None)
    assert await passes(event) == ("text", (PARENT, OWN), {"run_id": PARENT, "parent_run_id": OWN})


async def test_where_a_call_stands_is_not_renamed(passes: Any) -> None:
    place = {"tags": ["guess"], "name": "guess", "run_id": OWN}
    _, _, kwargs = await passes(("on_text", None, (), {**place, "inputs": ["guess"]}, None))
    assert kwargs == {**place, "inputs": ["real"]}


async def test_metadata_is_the_claimants(passes: Any) -> None:
    early = {NS: "n:early", "step": 5, "same": 1, "gone": "x"}
    real = {NS: "n:real", "step": 7, "same": 1, "of the manager": "m"}
    made = {NS: "n:early|sub:1", "step": 5, "gone": "x", "checkpoint_ns": "n:early", "own": "guess", "number": 3}
    event = ("on_text", None, (), {"metadata": made}, None)
    _, _, kwargs = await passes(event, early=early, real=real, metadata={"of the config": "c"})
    assert kwargs["metadata"] == {
        NS: "n:real|sub:1",
        "step": 7,
        "gone": "x",
        "checkpoint_ns": "n:real",
        "own": "guess",
        "number": 3,
        "same": 1,
        "of the manager": "m",
        "of the config": "c",
    }


async def test_a_nested_runs_own_value_stays(passes: Any) -> None:
    event = ("on_text", None, (), {"metadata": {"step": 6}}, None)
    _, _, kwargs = await passes(event, early={"step": 5}, real={"step": 7})
    assert kwargs["metadata"] == {"step": 6}
    _, _, kwargs = await passes(("on_text", None, (), {"metadata": None}, None))
    assert kwargs["metadata"] is None


def test_an_event_for_one_handler_goes_there_alone() -> None:
    own, other = Heard(), Heard()
    claimant(other).pass_on(("on_text", None, (), {}, own))
    assert (len(own.events), other.events) == (1, [])


def test_without_a_manager_there_is_no_parent() -> None:
    heard = Heard()
    config: Any = {"configurable": {CONFIG_KEY_CALL: None}, "callbacks": [heard]}
    target = Claimant(config, {}, {}, STAND_IN, renamed)
    target.pass_on(("on_text", None, (), {"parent_run_id": STAND_IN, "metadata": {}}, None))
    assert heard.events == [("text", (), {"parent_run_id": None, "metadata": {}})]


# --- namespaces -----------------------------------------------------------------------------------------------------


def test_the_branchs_namespace_is_the_claimants() -> None:
    target = claimant()
    assert target.in_namespace("n:early") == "n:real"
    assert target.in_namespace("n:early|sub:1") == "n:real|sub:1"
    assert target.in_namespace("other:early") == "other:early"
    assert target.in_namespace("") == ""
    assert claimant(early={"other": 1}).in_namespace("n:early") == "n:early"
    assert claimant(real={"other": 1}).in_namespace("n:early") == "n:early"


def test_checkpoints_above_are_the_claimants() -> None:
    above = {"": "c-early", "n:early": "d-early", "elsewhere": "e-early"}
    real = {"": "c-real", "n:real": "d-real"}
    target = claimant(above=above, **{CONFIG_KEY_CHECKPOINT_MAP: real})
    value = ["c-early", "d-early", "e-early", "n:early|x", "guess", 1]
    assert target.everywhere(value) == ["c-real", "d-real", "e-early", "n:real|x", "real", 1]
    lock = threading.Lock()
    assert target.everywhere(lock) is lock


# --- streams --------------------------------------------------------------------------------------------------------


async def test_custom_chunks_go_to_the_claimants_writer_in_its_context() -> None:
    written: list[Any] = []

    def writer(chunk: Any) -> None:
        written.append((chunk, _compat.current_namespace(), VAR.get()))
        VAR.set("changed")

    _compat.var_child_runnable_config.set({"configurable": {"checkpoint_ns": "n:real"}})
    VAR.set("of the claimant")
    target = claimant(__pregel_runtime=SimpleNamespace(stream_writer=writer))
    VAR.set("later")
    target.send("custom", ("guess", "n:early"))
    target.send("custom", ("guess", "n:early|sub:1"))
    target.send("custom", ("guess", "n:early"))
    assert written == [
        ("real", "n:real", "of the claimant"),
        ("real", "n:real|sub:1", "of the claimant"),
        ("real", "n:real", "of the claimant"),
    ]
    assert VAR.get() == "later"
    claimant().send("custom", ("guess", "n:early"))  # nobody listens


def test_chunks_of_graphs_inside_go_to_the_claimants_stream() -> None:
    sent: list[Any] = []
    target = claimant(**{CONFIG_KEY_STREAM: sent.append})
    target.send("chunk", (("n:early", "sub:1"), "values", ["guess", "n:early"]))
    target.send("chunk", (("other:1",), "updates", 1))
    assert sent == [(("n:real", "sub:1"), "values", ["real", "n:real"]), (("other:1",), "updates", 1)]
    claimant().send("chunk", (("n:early",), "values", {}))  # nobody listens


def tool_start(run: UUID) -> Any:
    return "on_tool_start", None, ({}, "input"), {"run_id": run}, None


def test_partial_output_goes_to_the_writer_of_its_call() -> None:
    target, before = claimant(), _compat.tool_call_writer.get()
    one: list[Any] = []
    other: list[Any] = []
    for run, out in ((OWN, one), (PARENT, other)):
        with target.keeping_writer(tool_start(run)):
            _compat.tool_call_writer.set(out.append)
        assert _compat.tool_call_writer.get() is before
    target.send("delta", (OWN, "x"))
    target.send("delta", (PARENT, "y"))
    target.send("delta", (STAND_IN, "of a call that nobody streams"))
    assert (one, other) == (["x"], ["y"])


def test_no_writer_is_kept_of_what_sets_none() -> None:
    target, out = claimant(), []
    token = _compat.tool_call_writer.set(out.append)
    try:
        with target.keeping_writer(tool_start(OWN)):
            pass
        assert _compat.tool_call_writer.get() is not None
        with target.keeping_writer(("on_text", None, (), {"run_id": PARENT}, None)):
            _compat.tool_call_writer.set(None)
        assert _compat.tool_call_writer.get() is None
        with target.keeping_writer(tool_start(STAND_IN)):
            pass
    finally:
        _compat.tool_call_writer.reset(token)
    for run in (OWN, PARENT, STAND_IN):
        target.send("delta", (run, "x"))
    assert out == []


async def test_functional_tasks_are_scheduled_in_the_claimants_context() -> None:
    def schedule(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs, VAR.get()

    VAR.set("of the claimant")
    target = claimant(**{CONFIG_KEY_CALL: schedule})
    VAR.set("later")
    assert target.call(1, x=2) == ((1,), {"x": 2}, "of the claimant")
