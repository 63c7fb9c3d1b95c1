"""Model answers of one run, recorded and played back: for graphs whose models never answer alike twice.

It stands on LangChain's LLM cache, which is public and which every chat model asks before it calls its
provider, sync and async. What does not ask it is not recorded: models made with ``cache=False`` or with a
cache of their own, nodes that call ``model.stream`` themselves, and clients other than LangChain's.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

Key = tuple[str, str]


@contextmanager
def llm_cache(cache: BaseCache | None) -> Iterator[None]:
    """Use `cache` in this process, and none of the application's: a cached answer has no latency to hide."""
    before = get_llm_cache()
    set_llm_cache(cache)
    try:
        yield
    finally:
        set_llm_cache(before)


@dataclass(frozen=True)
class Answer:
    """One recorded answer.

    Args:
        generations: What the model returned.
        seconds: How long it took.
    """

    generations: tuple[Generation, ...]
    seconds: float


class Recording(BaseCache):
    """Serves nothing and remembers every answer, by what was asked."""

    def __init__(self) -> None:
        self.answers: defaultdict[Key, list[Answer]] = defaultdict(list)
        self._started: defaultdict[Key, deque[float]] = defaultdict(deque)
        self._lock = threading.Lock()

    def lookup(self, prompt: str, llm_string: str) -> None:
        with self._lock:
            self._started[_key(prompt, llm_string)].append(time.perf_counter())

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        now = time.perf_counter()
        key = _key(prompt, llm_string)
        with self._lock:
            started = self._started[key].popleft() if self._started[key] else now
            self.answers[key].append(Answer(tuple(return_val), now - started))

    def clear(self, **kwargs: Any) -> None:
        with self._lock:
            self.answers.clear()
            self._started.clear()

    async def alookup(self, prompt: str, llm_string: str) -> None:
        self.lookup(prompt, llm_string)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self.update(prompt, llm_string, return_val)

    def playback(self) -> Playback:
        """A cache for one run that gives these answers."""
        return Playback({key: tuple(answers) for key, answers in self.answers.items()})


class Playback(BaseCache):
    """Gives the recorded answers, each after its recorded time: the k-th to the k-th call that asks the same.

    What was not recorded (in a branch on a wrong guess, or by a draft) goes to the real model.

    Args:
        answers: What `Recording` recorded.
    """

    def __init__(self, answers: dict[Key, tuple[Answer, ...]]) -> None:
        self._answers = answers
        self._served: defaultdict[Key, int] = defaultdict(int)
        self._lock = threading.Lock()

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        answer = self._next(prompt, llm_string)
        if answer is None:
            return None
        time.sleep(answer.seconds)
        return [_fresh(generation) for generation in answer.generations]

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        answer = self._next(prompt, llm_string)
        if answer is None:
            return None
        await asyncio.sleep(answer.seconds)
        return [_fresh(generation) for generation in answer.generations]

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Forget it: only the recorded run is the truth."""

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Forget it: only the recorded run is the truth."""

    def clear(self, **kwargs: Any) -> None:
        """Nothing of its own to clear."""

    def _next(self, prompt: str, llm_string: str) -> Answer | None:
        key = _key(prompt, llm_string)
        answers = self._answers.get(key)
        if answers is None:
            return None
        with self._lock:
            nth = self._served[key]
            self._served[key] += 1
        # A branch may have asked before the run does, and have been thrown away: the last answer stays.
        return answers[min(nth, len(answers) - 1)]


def _key(prompt: str, llm_string: str) -> Key:
    """What was asked: the conversation without minted ids and metadata, and the model's parameters."""
    names: dict[str, str] = {}

    def rename(value: Any) -> Any:
        return names.setdefault(value, f"id {len(names)}") if isinstance(value, str) else value

    def strip(value: Any) -> Any:
        if isinstance(value, list):
            return [strip(item) for item in value]
        if not isinstance(value, dict):
            # Content blocks and raw tool calls repeat the id of a tool call.
            return names.get(value, value) if isinstance(value, str) else value
        if value.get("type") == "constructor" and "kwargs" in value:
            kwargs = value["kwargs"]
            aside = ("id", "response_metadata", "usage_metadata")
            for call in kwargs.get("tool_calls") or ():
                rename(call.get("id"))
            if "tool_call_id" in kwargs:
                rename(kwargs["tool_call_id"])
            return {"class": value.get("id")} | {k: strip(v) for k, v in kwargs.items() if k not in aside}
        return {k: strip(v) for k, v in value.items()}

    return json.dumps(strip(json.loads(prompt)), sort_keys=True), llm_string


def _fresh(generation: Generation) -> Generation:
    """A copy with ids of its own, as a provider mints them: one id must not come twice into a state."""
    if not isinstance(generation, ChatGeneration) or not isinstance(generation.message, AIMessage):
        return generation.model_copy(deep=True)
    message = generation.message
    ids = {c["id"]: f"call_{uuid.uuid4().hex}" for c in (*message.tool_calls, *message.invalid_tool_calls) if c["id"]}
    fields = {name: _replaced(getattr(message, name), ids) for name in type(message).model_fields}
    fields["id"] = f"lc_run--{uuid.uuid4()}"
    return generation.model_copy(update={"message": message.model_copy(update=fields)})


def _replaced(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, str):
        return ids.get(value, value)
    if isinstance(value, list):
        return [_replaced(item, ids) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, ids) for key, item in value.items()}
    return value
