"""Whether two results are the same, and the playback of recorded model answers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.types import Interrupt
from pydantic import BaseModel

from langgraph_speculative._compare import same_result
from langgraph_speculative._replay import Recording, llm_cache


def talk(call: str, message: str | None = "m", *, day: int = 3, result: str = "sunny", **extra: Any) -> dict[str, Any]:
    """A finished conversation with minted ids `call` and `message`."""
    raw = {"id": call, "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    said = AIMessage(
        "",
        id=message,
        tool_calls=[{"name": "weather", "args": {"day": day}, "id": call}],
        additional_kwargs={"tool_calls": [raw]},
        response_metadata={"finish_reason": "tool_calls", "id": f"chat-{call}", "created": call},
    )
    told = ToolMessage(result, tool_call_id=call, id=message and f"{message}-2", artifact={"id": call})
    return {"messages": [HumanMessage("hi", id=message and f"{message}-0"), said, told], **extra}


class Item(BaseModel):
    name: str
    price: float = 1.0


@dataclass
class Point:
    x: int
    y: int = 0


class Opaque:
    def __init__(self, value: int) -> None:
        self.value = value


class Array:
    """Compares elementwise, as numpy does."""

    def __init__(self, *values: int) -> None:
        self.values = values

    def __repr__(self) -> str:
        return f"Array{self.values}"

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Any:
        class Elementwise:
            def __bool__(self) -> bool:
                raise ValueError("ambiguous")

        return Elementwise()


EQUAL = [
    (talk("call_aaaaaaaa"), talk("call_bbbbbbbb", "n")),
    (talk("call_1"), talk("call_2")),  # too short to be looked for in texts, but in an id's place
    (talk("call_1", None), talk("call_2", "n")),
    (talk("call_aaaaaaaa", note="saw call_aaaaaaaa"), talk("call_bbbbbbbb", note="saw call_bbbbbbbb")),
    ({"raw": [{"role": "assistant", "id": "x1"}]}, {"raw": [{"role": "assistant", "id": "x2"}]}),
    ({"__interrupt__": [Interrupt("ok?", id="a" * 32)]}, {"__interrupt__": [Interrupt("ok?", id="b" * 32)]}),
    ([Item(name="a")], [Item(name="a")]),
    ({"p": Point(1), "s": {1, 2}, "t": (1, "x")}, {"t": (1, "x"), "s": {2, 1}, "p": Point(1)}),
    (float("nan"), float("nan")),
    (Opaque(1), Opaque(1)),
    (Array(1, 2), Array(1, 2)),
    (None, None),
]


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal(a: Any, b: Any) -> None:
    assert same_result(a, b) is None


DIFFERENT = [
    (talk("c1"), talk("c1", day=4), "messages[1].tool_calls[0].args.day: 3 in a, 4 in b"),
    (talk("c1"), talk("c1", result="rain"), "messages[2].content: 'sunny' in a, 'rain' in b"),
    (talk("c1", extra=1), talk("c1"), "extra: only in a: 1"),
    ({"m": [1]}, {"m": [1, 2]}, "m: 1 items in a, 2 in b; only in b: 2"),
    ({"x": 1}, {"x": True}, "x: int 1 in a, bool True in b"),
    ({"x": (1,)}, {"x": [1]}, "x: tuple"),
    ({"x": {1}}, {"x": {True}}, "x: {1} in a, {True} in b"),
    ([Item(name="a")], [Item(name="b")], "[0].name: 'a' in a, 'b' in b"),
    (Point(1, 2), Point(1, 3), "y: 2 in a, 3 in b"),
    (Opaque(1), Opaque(2), "the result: "),
    (Array(1), Array(2), "the result: Array(1,) in a, Array(2,) in b"),
    ({"no id": 1}, {"no id": 2}, "['no id']: 1 in a, 2 in b"),
    ("a" * 500 + "x", "a" * 500 + "y", "the result: …'" + "a" * 40 + "x' in a, …'" + "a" * 40 + "y' in b"),
    (HumanMessage("a"), AIMessage("a"), "the result: HumanMessage HumanMessage(content='a'"),
    (
        AIMessage("a", response_metadata={"finish_reason": "stop"}),
        AIMessage("a"),
        "response_metadata: only in a",
    ),
]


@pytest.mark.parametrize(("a", "b", "difference"), DIFFERENT)
def test_first_difference_is_readable(a: Any, b: Any, difference: str) -> None:
    found = same_result(a, b, names=("a", "b"))
    assert found is not None
    assert found.startswith(difference)
    assert same_result(b, a) is not None


def test_ids_must_stand_in_the_same_places() -> None:
    def two(first: str, second: str) -> list[AnyMessage]:
        calls = [{"name": "t", "args": {}, "id": i} for i in ("c-0000001", "c-0000002")]
        return [AIMessage("", tool_calls=calls), *(ToolMessage("r", tool_call_id=i) for i in (first, second))]

    assert same_result(two("c-0000001", "c-0000002"), two("c-0000001", "c-0000002")) is None
    found = same_result(two("c-0000001", "c-0000002"), two("c-0000002", "c-0000001"))
    assert found is not None
    assert "[1].tool_call_id" in found


# -- recorded answers


class Moody(BaseChatModel):
    """Answers differently each time."""

    name_of_model: str = "moody"
    moods: Any = None

    @property
    def _llm_type(self) -> str:
        return "moody"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.name_of_model}

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        mood = next(self.moods)
        message = AIMessage(f"mood {mood}", tool_calls=[{"name": "t", "args": {"mood": mood}, "id": f"call_{mood}"}])
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture
def moody() -> Moody:
    return Moody(moods=itertools.count(1))


@pytest.mark.parametrize("sync", [True, False])
async def test_playback_gives_the_kth_answer_to_the_kth_call_with_ids_of_its_own(moody: Moody, sync: bool) -> None:
    async def ask(text: str) -> AIMessage:
        return moody.invoke(text) if sync else await moody.ainvoke(text)

    with llm_cache(recording := Recording()):
        recorded = [await ask("a"), await ask("a"), await ask("b")]
    with llm_cache(recording.playback()):
        played = [await ask("b"), await ask("a"), await ask("a"), await ask("a")]
        new = await ask("c")
    assert [message.content for message in played] == ["mood 3", "mood 1", "mood 2", "mood 2"]
    assert new.content == "mood 4"  # never asked before: the real model
    assert same_result(played[0], recorded[2]) is None
    for ids in ([m.tool_calls[0]["id"] for m in (*recorded, *played)], [m.id for m in (*recorded, *played)]):
        assert None not in ids
        assert len(set(ids)) == len(ids)
    with llm_cache(recording.playback()):
        assert (await ask("a")).content == "mood 1"  # each run counts anew
        assert (await ask("c")).content == "mood 5"  # and nothing else was remembered


def test_playback_knows_a_conversation_again_by_what_was_said(moody: Moody) -> None:
    def conversation(call: str, message: str, day: int = 3) -> list[AnyMessage]:
        messages: list[AnyMessage] = talk(call, message, day=day)["messages"]
        return messages

    with llm_cache(recording := Recording()):
        moody.invoke(conversation("call_a", "m1"))
    other = Moody(name_of_model="other", moods=itertools.count(100))
    with llm_cache(recording.playback()):
        assert moody.invoke(conversation("call_b", "m2")).content == "mood 1"
        assert moody.invoke(conversation("call_b", "m2", day=4)).content == "mood 2"
        assert other.invoke(conversation("call_b", "m2")).content == "mood 100"


async def test_playback_takes_the_recorded_time(moody: Moody, monkeypatch: pytest.MonkeyPatch) -> None:
    from langgraph_speculative import _replay

    now, slept = itertools.count(0, 7), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(_replay.time, "perf_counter", lambda: float(next(now)))
    with llm_cache(recording := Recording()):
        moody.invoke("a")
    monkeypatch.setattr(_replay.time, "sleep", slept.append)
    monkeypatch.setattr(_replay.asyncio, "sleep", sleep)
    with llm_cache(recording.playback()):
        moody.invoke("a")
        await moody.ainvoke("a")
    assert slept == [7.0, 7.0]


def test_the_cache_of_the_application_is_set_aside_and_put_back() -> None:
    mine = InMemoryCache()
    set_llm_cache(mine)
    try:
        with llm_cache(None):
            assert get_llm_cache() is None
        assert get_llm_cache() is mine
    finally:
        set_llm_cache(None)
