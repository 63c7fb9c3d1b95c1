"""Stream against `eager-tools-langgraph`: an agent whose model streams a slow call, and then a long one.

Where all calls of a message take equally long, there is next to nothing to gain: the last one to be written ends last.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from statistics import median
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool

from benchmarks._engine_rows import Measured, timed
from langgraph_speculative import SpeculativeGraph, speculative
from langgraph_speculative._compare import same_result

TOKEN = 0.01
"""Seconds per chunk: a hundred tokens a second."""

SEARCH, CHECK = 0.4, 0.05
"""Seconds per tool call."""

TURNS = 3
INPUT = {"messages": [("user", "Find three sources and check what they say.")]}
CLAIM = "The sources agree on the year and on the place, and on all but one of the names that are in the letter"


@tool
async def search(query: str) -> str:
    """Search."""
    await asyncio.sleep(SEARCH)
    return f"found {query}"


@tool
async def check(claim: str) -> str:
    """Check a claim."""
    await asyncio.sleep(CHECK)
    return f"true: {claim}"


TOOLS = [search, check]


class Eager:
    """A tool as the other package wants it."""

    idempotent = True

    def __init__(self, own: Any) -> None:
        self.name = own.name
        self._own = own

    async def __call__(self, arguments: dict[str, Any]) -> Any:
        return await self._own.coroutine(**arguments)


class Talker(BaseChatModel):
    """Three times a sentence and two calls, then an answer; streamed in chunks of a few characters.

    As with OpenAI's models, a chunk with the reason of the end and one with the usage come behind the calls.
    """

    @property
    def _llm_type(self) -> str:
        return "talker"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    @staticmethod
    def _chunks(messages: list[BaseMessage]) -> list[AIMessageChunk]:
        turn = sum(isinstance(m, AIMessage) for m in messages)
        if turn == TURNS:
            return [AIMessageChunk(content=word) for word in "They agree on nearly all of it .".split(" ")]
        chunks = [AIMessageChunk(content=f"{word} ") for word in "Let me look for a source and check a claim .".split()]
        for index, (name, args) in enumerate(
            (("search", f'{{"query": "source {turn}"}}'), ("check", f'{{"claim": "{CLAIM} {turn}"}}'))
        ):
            pieces = ["", *(args[i : i + 4] for i in range(0, len(args), 4))]
            for n, piece in enumerate(pieces):
                own = {"name": None, "id": None} if n else {"name": name, "id": f"call_{turn}{index}"}
                part: Any = {**own, "args": piece, "index": index, "type": "tool_call_chunk"}
                chunks.append(AIMessageChunk(content="", tool_call_chunks=[part]))
        return [*chunks, AIMessageChunk(content=""), AIMessageChunk(content="")]

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        parts = self._chunks(messages)
        return ChatResult(generations=[ChatGeneration(message=sum(parts[1:], parts[0]))])  # type: ignore[arg-type]

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._chunks(messages):
            await asyncio.sleep(TOKEN)
            yield ChatGenerationChunk(message=chunk)


async def _run(agent: Any) -> Any:
    """The final state of a run whose tokens somebody watches."""
    last: Any = None
    async for mode, payload in agent.astream(INPUT, stream_mode=["messages", "values"]):
        if mode == "values":
            last = payload
    return last


def measure(rounds: int) -> dict[str, Measured]:
    """Time saved by ours, of the time saved by theirs; median over the rounds."""
    from eager_tools_langgraph import eager_middleware

    plain = create_agent(Talker(), TOOLS)
    eager = create_agent(Talker(), TOOLS, middleware=[eager_middleware({t.name: Eager(t) for t in TOOLS})])
    effects = {t.name: "read" for t in TOOLS}
    ours: SpeculativeGraph = speculative(create_agent(Talker(), TOOLS), effects=effects)
    saved: dict[str, list[float]] = {"ours": [], "theirs": []}
    unequal = {"ours": 0, "theirs": 0}
    plain_times: list[float] = []

    async def main() -> None:
        for agent in (plain, eager, ours):
            await _run(agent)
        for _ in range(rounds):
            before, expected = await timed(lambda: _run(plain))
            plain_times.append(before)
            for name, agent in (("theirs", eager), ("ours", ours)):
                seconds, result = await timed(lambda agent=agent: _run(agent))  # type: ignore[misc]
                saved[name].append(before - seconds)
                unequal[name] += same_result(expected, result) is not None
                assert sum(isinstance(m, ToolMessage) for m in result["messages"]) == 2 * TURNS

    asyncio.run(main())
    theirs, mine = median(saved["theirs"]), median(saved["ours"])
    detail = (
        f"plain {median(plain_times):.3f} s, saved by Stream {mine:.3f} s, by eager-tools-langgraph {theirs:.3f} s; "
        f"theirs unequal to plain in {unequal['theirs']} of {rounds} runs"
    )
    return {"stream_vs_eager": Measured(mine / theirs, detail), "stream_unequal": Measured(float(unequal["ours"]))}
