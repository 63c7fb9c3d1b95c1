"""Which calls of a message are complete, chunk by chunk, as providers send them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message

from langgraph_speculative._stream import Reader, message_of

Part = tuple[Any, str | None, str | None, str | None]
"""Index, id, name and text of the arguments."""


def chunk(*parts: Part, text: Any = "", last: bool = False) -> AIMessageChunk:
    calls = [{"index": i, "id": d, "name": n, "args": a, "type": "tool_call_chunk"} for i, d, n, a in parts]
    return AIMessageChunk(content=text, tool_call_chunks=calls, **({"chunk_position": "last"} if last else {}))


def seen(*chunks: AIMessageChunk, ends: bool = True) -> list[list[Any]]:
    """After each chunk that brings news, and at the end: the arguments of the calls that are complete."""
    reader = Reader()
    news = [*(partial(reader.read, one) for one in chunks), *([reader.end] if ends else [])]
    return [[c["args"] for c in reader.partial()[0]] for is_new in news if is_new()]


def spelled(index: Any, call_id: str, args: str, size: int = 1) -> list[AIMessageChunk]:
    pieces = [args[i : i + size] for i in range(0, len(args), size)]
    return [chunk((index, call_id, "look", "")), *(chunk((index, None, None, p)) for p in pieces)]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_an_object_is_complete_when_it_closes(size: int) -> None:
    args = r'{"q": "a \"}\" b\\", "n": [1, {"m": "}{]["}], "t": "\\\""}'
    assert seen(*spelled(0, "c1", args, size)) == [[{"q": 'a "}" b\\', "n": [1, {"m": "}{]["}], "t": '\\"'}]]
    chunks = spelled(0, "c1", args, size)
    assert seen(*chunks[:-1], ends=False) == []


def test_calls_in_sequence() -> None:
    both = [*spelled(0, "c1", '{"q": 1}'), *spelled(1, "c2", '{"q": 2}')]
    assert seen(*both) == [[{"q": 1}], [{"q": 1}, {"q": 2}]]


def test_calls_interleaved() -> None:
    first, second = spelled(0, "c1", '{"q": 1}'), spelled(1, "c2", '{"q": 2}')
    # The second is complete before the first: it does not wait for it, and the order stays.
    mixed = [first[0], *second[:4], *first[1:5], *second[4:], *first[5:]]
    assert seen(*mixed) == [[{"q": 2}], [{"q": 1}, {"q": 2}]]


def test_whole_calls_in_one_chunk() -> None:
    assert seen(chunk((None, "c1", "look", '{"q": 1}'), (None, "c2", "look", "{}"))) == [[{"q": 1}, {}]]
    assert seen(chunk((0, "c1", "look", '{"q": 1}'), (1, "c2", "look", '{"q": 2}'))) == [[{"q": 1}, {"q": 2}]]


def test_two_calls_that_share_an_index_are_told_apart_by_their_ids() -> None:
    assert seen(*spelled(0, "c1", '{"q": 1}'), *spelled(0, "c2", '{"q": 2}')) == [[{"q": 1}], [{"q": 1}, {"q": 2}]]


@pytest.mark.parametrize("args", ["", "{}", " { } "])
def test_without_arguments_it_waits_until_a_later_call_is_written_or_the_end(args: str) -> None:
    alone = [chunk((0, "c1", "look", args))]
    assert seen(*alone, ends=False) == []
    assert seen(*alone) == [[{}]]
    assert seen(*alone, chunk(last=True), ends=False) == [[{}]]
    assert seen(*alone, *spelled(1, "c2", '{"q": 2}'), ends=False) == [[{}, {"q": 2}]]


@pytest.mark.parametrize(
    "args", ['{"q": 1', '{"q": 1}}', '{"q": 1} {"q": 2}', '{"q": }', '["q"]', "null", '{"q": 1} x', '"{}"', "{]", "}"]
)
def test_what_is_no_object_is_never_complete(args: str) -> None:
    assert [calls for calls in seen(*spelled(0, "c1", args)) if calls and '{"q": 1}' not in args] == []
    assert seen(chunk((0, "c1", "look", args))) == []


def test_arguments_that_go_on_behind_their_end_are_taken_back() -> None:
    assert seen(*spelled(0, "c1", '{"q": 1}'), chunk((0, None, None, "}"))) == [[{"q": 1}], []]
    assert seen(*spelled(0, "c1", '{"q": 1}'), chunk((0, None, None, " \n"))) == [[{"q": 1}]]


@pytest.mark.parametrize(("call_id", "name"), [(None, "look"), ("c1", None), ("", ""), (None, None)])
def test_without_a_name_or_an_id_there_is_no_call(call_id: Any, name: Any) -> None:
    assert seen(chunk((0, call_id, name, '{"q": 1}'))) == []


def test_the_message_is_the_one_that_the_model_makes_of_its_chunks() -> None:
    """Text first, then one call: the guess equals what LangChain makes of all chunks."""
    blocks = [
        chunk(text=[{"type": "text", "text": "so ", "index": 0}]),
        chunk(text=[{"type": "text", "text": "it is", "index": 0}]),
        chunk((1, "c1", "look", ""), text=[{"type": "tool_use", "id": "c1", "name": "look", "input": {}, "index": 1}]),
        chunk((1, None, None, '{"q": 1}'), text=[{"type": "input_json_delta", "partial_json": '{"q": 1}', "index": 1}]),
    ]
    reader = Reader()
    assert [reader.read(b) for b in blocks] == [False, False, False, True]
    whole = message_chunk_to_message(blocks[0] + blocks[1:])  # type: ignore[arg-type, operator]
    assert message_of(*reader.partial()) == whole
    assert type(message_of(*reader.partial())) is AIMessage


def test_an_unfinished_call_is_no_part_of_the_message() -> None:
    reader = Reader()
    chunks = [*spelled(0, "c1", '{"q": 1}', 100), chunk((1, "c2", "look", '{"q"'), (2, "c3", "look", "nonsense"))]
    assert [reader.read(c) for c in chunks] == [False, True, False]
    message = message_of(*reader.partial())
    assert [c["id"] for c in message.tool_calls] == ["c1"]
    assert message.invalid_tool_calls == []


EVENTS: list[dict[str, Any]] = [
    {"event": "message-start", "role": "ai", "id": "lc_run--1"},
    {"event": "content-block-start", "index": 0, "content": {"type": "text", "text": ""}},
    {"event": "content-block-delta", "index": 0, "delta": {"type": "text-delta", "text": "so "}},
    {"event": "content-block-delta", "index": 0, "delta": {"type": "text-delta", "text": "it is"}},
    {
        "event": "content-block-start",
        "index": 1,
        "content": {"type": "tool_call_chunk", "id": "c1", "name": "look", "args": "", "index": 0},
    },
    {"event": "content-block-delta", "index": 1, "delta": {"type": "tool-call-delta", "args": '{"q":'}},
    {"event": "content-block-delta", "index": 1, "delta": {"type": "tool-call-delta", "args": " 1}"}},
    {
        "event": "content-block-start",
        "index": 2,
        "content": {"type": "tool_call", "id": "c2", "name": "look", "args": {}},
    },
    {"event": "content-block-finish", "index": 0, "content": {"type": "text", "text": "so it is"}},
    {
        "event": "content-block-finish",
        "index": 1,
        "content": {"type": "tool_call", "id": "c1", "name": "look", "args": {"q": 1}},
    },
    {
        "event": "content-block-finish",
        "index": 2,
        "content": {"type": "tool_call", "id": "c2", "name": "look", "args": {"q": 2}},
    },
    {"event": "message-finish"},
]


def test_events_of_the_newer_protocol() -> None:
    reader = Reader()
    told = [[c["args"] for c in reader.partial()[0]] for e in EVENTS if reader.read_event(e)]
    assert told == [[{"q": 1}], [{"q": 1}, {"q": 2}]]
    message = message_of(*reader.partial())
    assert (message.id, message.text) == ("lc_run--1", "so it is")
    assert [c["id"] for c in message.tool_calls] == ["c1", "c2"]
    assert message.content[0] == {"type": "text", "text": "so it is", "index": 0}
