"""What records for a gate: each event, for whom it is, and what makes models stream. No graph runs here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager, BaseCallbackHandler, CallbackManager
from langgraph.checkpoint.base import empty_checkpoint

from langgraph_speculative import _compat
from langgraph_speculative._compat import _callbacks
from langgraph_speculative._gate import Gate
from langgraph_speculative._recorder import Recorder, recorder
from langgraph_speculative._saver import GateSaver
from tests.test_gate import Saver, claimant, config, gate, same

EVENTS = {
    "chain": ["on_chain_start", "on_chain_end", "on_chain_error"],
    "llm": ["on_llm_start", "on_llm_new_token", "on_llm_end", "on_llm_error"],
    "chat_model": ["on_chat_model_start"],
    "agent": ["on_tool_start", "on_tool_end", "on_tool_error", "on_agent_action", "on_agent_finish"],
    "retriever": ["on_retriever_start", "on_retriever_end", "on_retriever_error"],
    "retry": ["on_retry"],
    "custom_event": ["on_custom_event"],
    "": ["on_text"],
}
NAMES = [name for names in EVENTS.values() for name in names]
FLAGS = [flag for flag in EVENTS if flag]


def hearing(base: Any, ignored: str = "") -> Any:
    """A handler that hears each event, but for those of one kind."""
    heard: list[str] = []

    def method(name: str) -> Any:
        def hear(self: Any, *args: Any, **kwargs: Any) -> None:
            heard.append(name)

        async def ahear(self: Any, *args: Any, **kwargs: Any) -> None:
            heard.append(name)

        return ahear if base is AsyncCallbackHandler else hear

    own: dict[str, Any] = {name: method(name) for name in NAMES}
    if ignored:
        own[f"ignore_{ignored}"] = True
    made = type("Hearing", (base,), own)()
    made.run_inline = True
    made.heard = heard
    return made


@pytest.mark.parametrize("ignored", ["", *FLAGS])
def test_every_event_is_held_for_those_who_do_not_ignore_it(ignored: str) -> None:
    heard = hearing(BaseCallbackHandler, ignored)
    own = gate([heard])
    for name in NAMES:
        getattr(own.handler, name)("x", run_id=uuid4())
    assert own.held == len(NAMES)
    assert heard.heard == []
    own.open(claimant(heard), same)
    wanted = [name for flag, names in EVENTS.items() for name in names if not flag or flag != ignored]
    assert heard.heard == wanted
    for name in NAMES:
        getattr(own.handler, name)("x", run_id=uuid4())
    assert heard.heard == wanted * 2
    assert own.held == 0


@pytest.mark.parametrize("ignored", ["", *FLAGS])
async def test_the_same_for_handlers_on_a_loop(ignored: str) -> None:
    heard = hearing(AsyncCallbackHandler, ignored)
    own = gate([heard], sync=False)
    real = {**claimant(), "callbacks": AsyncCallbackManager(handlers=[heard])}
    for name in NAMES:
        await getattr(own.handler, name)("x", run_id=uuid4())
    assert heard.heard == []
    await own.aopen(real, same)
    for name in NAMES:
        await getattr(own.handler, name)("x", run_id=uuid4())
    assert heard.heard == [n for flag, names in EVENTS.items() for n in names if not flag or flag != ignored] * 2


def test_a_recorder_asks_models_to_stream_as_the_runs_handlers_do() -> None:
    taps = {"tap_output_aiter": None, "tap_output_iter": None}
    first = type("First", (BaseCallbackHandler, _callbacks._StreamingCallbackHandler), taps)()
    second = type("Second", (BaseCallbackHandler, _compat.StreamingV2), {})()
    plain = BaseCallbackHandler()
    for is_sync in (True, False):
        for handlers in ([plain], [plain, first], [second], [first, second]):
            made: Any = recorder(gate(), handlers, is_sync)
            assert _compat.streaming_markers([made]) == _compat.streaming_markers(handlers)
            assert isinstance(made, Recorder)
            assert isinstance(made, AsyncCallbackHandler) is not is_sync
            assert made.run_inline  # or its events would come in any order
    made = recorder(gate(), [first], True)
    chunks = iter([1])
    assert made.tap_output_iter(uuid4(), chunks) is chunks  # type: ignore[attr-defined]
    assert made.tap_output_aiter(uuid4(), chunks) is chunks  # type: ignore[attr-defined]


def test_recorders_of_one_kind_are_of_one_class() -> None:
    """A class for each pre-execution would be more garbage than the pre-execution itself."""
    heard = BaseCallbackHandler()
    one, other = gate([heard]).handler, gate([heard]).handler
    assert one is not other
    assert type(one) is type(other)
    assert type(gate([heard], sync=False).handler) is not type(one)


# --- gates ----------------------------------------------------------------------------------------------------------


def test_a_gates_runs_are_counted_from_one() -> None:
    first, second = gate().run_id.int, gate().run_id.int
    assert second > first >= 1


def test_a_gate_knows_its_place() -> None:
    own = Gate([], config("a:1"), sync=True)
    assert own.namespace == "a:1"
    assert own.handler is None
    assert (own.saw_retry, own.spoiled, own.journal, own.savers, own.held) == (False, "", None, [], 0)


def test_a_gate_without_tags_or_metadata() -> None:
    given = gate().callbacks({"tags": None, "metadata": None})  # type: ignore[typeddict-item]
    assert (given.tags, given.inheritable_tags, given.metadata) == (["seq:step:1"], [], {})


def test_who_comes_to_the_gate_after_the_claim_is_told_at_once() -> None:
    own, written = gate(), []
    real = claimant(written=written)
    assert own.open(real, lambda v: f"renamed {v}")
    assert own.claimant("why").config is real
    own.write("x")
    assert written == ["renamed x"]


def test_what_is_written_while_another_thread_claims_is_passed_on_and_not_held() -> None:
    own, written = gate(), []

    class Slow:
        """Takes so long to copy that the run claims meanwhile."""

        def __deepcopy__(self, memo: Any) -> Slow:
            assert own.open(claimant(written=written), same)
            return Slow()

    chunk = Slow()
    own.emit("custom", (chunk, ""))
    assert written == [chunk]
    assert own.held == 0


def test_an_event_that_is_held_in_the_moment_of_the_claim_is_told_once() -> None:
    heard = hearing(BaseCallbackHandler)
    own = gate([heard])
    lock = own._lock

    class Claims:
        """The run claims as soon as the event is held."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: Any) -> None:
            lock.release()
            own._lock = lock
            assert own.open(claimant(heard), same)

    own._lock = Claims()  # type: ignore[assignment]
    own.handler.on_text("x", run_id=uuid4())  # type: ignore[union-attr]
    assert heard.heard == ["on_text"]
    assert own.held == 0


@pytest.mark.parametrize("is_sync", [True, False])
async def test_a_tools_own_writer_is_lent_where_the_run_streams_tools(is_sync: bool) -> None:
    class Tools(_callbacks._ToolHandler, BaseCallbackHandler):  # type: ignore[misc]
        def __init__(self) -> None: ...

        def on_chain_start(self, *args: Any, **kwargs: Any) -> None: ...

        def on_tool_start(self, *args: Any, **kwargs: Any) -> None: ...

    before = _compat.tool_call_writer.get()
    try:
        for handlers, lent in (([Tools()], True), ([BaseCallbackHandler()], False)):
            _compat.tool_call_writer.set(None)
            own, run = gate(handlers, sync=is_sync), uuid4()
            for event in ("on_chain_start", "on_tool_start"):
                made = getattr(own.handler, event)({}, "x", run_id=run)
                if not is_sync:
                    await made
                writer = _compat.tool_call_writer.get()
                assert (writer is not None) is (lent and event == "on_tool_start")
            if writer is not None:
                writer("part")
                assert own._held[-1] == ("delta", (run, "part"))
    finally:
        _compat.tool_call_writer.set(before)


def test_handlers_that_a_manager_of_another_kind_brings_have_a_shield_of_their_own() -> None:
    brought, own = hearing(BaseCallbackHandler), gate()
    plain, awaited = CallbackManager(handlers=[brought]), AsyncCallbackManager(handlers=[brought])
    own.shield(plain)
    own.shield(awaited)
    kinds = [isinstance(m.handlers[0], AsyncCallbackHandler) for m in (plain, awaited)]
    assert kinds == [False, True]


# --- checkpointers --------------------------------------------------------------------------------------------------


def saved(own: Gate, saver: Saver) -> GateSaver:
    kept = GateSaver(saver, own)  # type: ignore[arg-type]
    point = empty_checkpoint()
    where: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "early:1|g:2"}}
    kept.put(where, point, {"parents": {}, "step": 1}, {})
    kept.put_writes(
        {"configurable": {**where["configurable"], "checkpoint_id": point["id"]}}, [("x", "early:1")], "task"
    )
    return kept


@pytest.mark.parametrize("is_sync", [True, False])
async def test_nothing_is_handed_over_without_a_claimant(is_sync: bool) -> None:
    own, savers = gate(), [Saver(), Saver()]
    for saver in savers:
        saved(own, saver)
    if is_sync:
        own.hand_over()
    else:
        await own.ahand_over()
    assert [s.calls for s in savers] == [[], []]
    own.open(claimant(), same)
    if is_sync:
        own.hand_over()
    else:
        await own.ahand_over()
    prefix = "" if is_sync else "a"
    for saver in savers:
        assert [c[0] for c in saver.calls] == [f"{prefix}put", f"{prefix}put_writes"]
        (_, where, _, metadata, _), (_, to, writes, task, path) = saver.calls
        assert where["configurable"]["checkpoint_ns"] == to["configurable"]["checkpoint_ns"] == "real:1|g:2"
        assert metadata["step"] == 1
        # What was written is what the code wrote, and no namespace.
        assert (writes, task, path) == ([("x", "early:1")], "task", "")


@pytest.mark.parametrize("is_sync", [True, False])
async def test_what_it_saved_itself_is_found_before_the_threads(is_sync: bool) -> None:
    own, older = gate(), SimpleNamespace(config="older")
    kept = saved(own, Saver(older))
    here: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "early:1|g:2"}}
    found = kept.get_tuple(here) if is_sync else await kept.aget_tuple(here)
    assert found is not older
    assert found.checkpoint["v"] == empty_checkpoint()["v"]
    assert own.spoiled == ""
    own.open(claimant(), same)
    there: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "early:1|other:3"}}
    assert (kept.get_tuple(there) if is_sync else await kept.aget_tuple(there)) is older
