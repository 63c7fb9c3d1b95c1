"""What the tests share: two worlds, signals instead of sleeps, and a comparable record of a run."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar
from uuid import uuid4

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langgraph.graph.state import CompiledStateGraph, StateGraph
from langgraph.types import Command
from pydantic import BaseModel

from langgraph_speculative import Event, _observe, _scheduler
from langgraph_speculative._observe import Run

LIMIT = 30.0
"""Seconds after which a signal that does not come is a failure."""

T = TypeVar("T")


class Signal:
    """A flag that nodes of both worlds can set and wait for, across threads and loops."""

    def __init__(self, name: str = "signal") -> None:
        self.name = name
        self._lock = threading.Lock()
        self._flag = threading.Event()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def set(self) -> None:
        with self._lock:
            self._flag.set()
            waiters, self._waiters = self._waiters, []
        for loop, future in waiters:
            # A waiter that was cancelled may have closed its loop since.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, future)

    @property
    def is_set(self) -> bool:
        return self._flag.is_set()

    def block(self, timeout: float = LIMIT) -> None:
        """Wait in a thread."""
        if not self._flag.wait(timeout):
            raise AssertionError(f"{self.name} was not set within {timeout} s")

    async def wait(self, timeout: float = LIMIT) -> None:  # noqa: ASYNC109
        """Wait on the running loop, or in the thread where there is none."""
        loop = _running_loop()
        if loop is None:
            self.block(timeout)
            return
        with self._lock:
            if self._flag.is_set():
                return
            future: asyncio.Future[None] = loop.create_future()
            self._waiters.append((loop, future))
        try:
            await asyncio.wait_for(future, timeout)
        except TimeoutError:
            raise AssertionError(f"{self.name} was not set within {timeout} s") from None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Tally:
    """Counts by name, with a signal for each count that somebody waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._signals: list[tuple[str, int, Signal]] = []

    def add(self, name: str) -> int:
        """Count once more, and return the new count."""
        with self._lock:
            self._counts[name] += 1
            count = self._counts[name]
            ready = [s for n, wanted, s in self._signals if n == name and wanted <= count]
        for signal in ready:
            signal.set()
        return count

    def __getitem__(self, name: str) -> int:
        with self._lock:
            return self._counts[name]

    def reached(self, name: str, count: int = 1) -> Signal:
        """A signal that is set once `name` has been counted `count` times."""
        signal = Signal(f"{name!r} for the {count}. time")
        with self._lock:
            self._signals.append((name, count, signal))
            done = self._counts[name] >= count
        if done:
            signal.set()
        return signal


class Watch:
    """A hook of `Policy` that keeps the events, and lets a test wait for one."""

    def __init__(self) -> None:
        self._tally = Tally()
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._tally.add(event.kind)
        self._tally.add(f"{event.kind}:{event.node}")

    def saw(self, kind: str, node: str | None = None, count: int = 1) -> Signal:
        return self._tally.reached(kind if node is None else f"{kind}:{node}", count)

    def of(self, kind: str, node: str | None = None) -> list[Event]:
        return [e for e in list(self.events) if e.kind == kind and node in (None, e.node)]


def _same(value: Any) -> Any:
    return value


class World:
    """One of the two ways to run a graph; nodes are written once, as coroutine functions.

    In the sync world they become plain functions, whose waiting blocks the thread.
    """

    name = "sync"

    def node(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        @functools.wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            return drive(function(*args, **kwargs))

        return plain

    async def call(self, runnable: Any, value: Any, config: Any = None) -> Any:
        """Run a model or a graph from inside a node."""
        return runnable.invoke(value, config)

    def invoke(self, graph: Any, value: Any, config: Any = None, **kwargs: Any) -> Any:
        return graph.invoke(value, config, **kwargs)

    def batch(self, graph: Any, values: Sequence[Any], config: Any = None, **kwargs: Any) -> list[Any]:
        return graph.batch(list(values), config, **kwargs)

    def stream(self, graph: Any, value: Any, config: Any = None, **kwargs: Any) -> list[Any]:
        return list(graph.stream(value, config, **kwargs))

    def chunks(
        self, graph: Any, value: Any, config: Any = None, *, keep: Callable[[Any], Any] = _same, **kwargs: Any
    ) -> tuple[list[Any], Any]:
        """The chunks of a stream, as `keep` maps them on arrival, and what it raised, or ``None``."""
        return _observe.collect(graph, value, config, keep, **kwargs)

    def observe(self, graph: Any, value: Any, config: Any = None, **kwargs: Any) -> Run:
        return _observe.observe(graph, value, config, **kwargs)

    async def turn(self) -> None:
        """Wait inside of a node until the loop that speculates for its run has done what it is at now."""
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), _scheduler.CONTROL.loop()).result(LIMIT)


class AsyncWorld(World):
    name = "async"

    def node(self, function: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        return function

    async def call(self, runnable: Any, value: Any, config: Any = None) -> Any:
        return await runnable.ainvoke(value, config)

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        """Run on a loop of its own; no task may be left on it."""

        async def checked() -> T:
            result = await main()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left on the loop: {left}"
            return result

        return asyncio.run(checked())

    def invoke(self, graph: Any, value: Any, config: Any = None, **kwargs: Any) -> Any:
        return self.run(lambda: graph.ainvoke(value, config, **kwargs))

    def batch(self, graph: Any, values: Sequence[Any], config: Any = None, **kwargs: Any) -> list[Any]:
        return self.run(lambda: graph.abatch(list(values), config, **kwargs))

    def stream(self, graph: Any, value: Any, config: Any = None, **kwargs: Any) -> list[Any]:
        out, error = self.chunks(graph, value, config, **kwargs)
        if error is not None:
            raise error
        return out

    def chunks(
        self, graph: Any, value: Any, config: Any = None, *, keep: Callable[[Any], Any] = _same, **kwargs: Any
    ) -> tuple[list[Any], Any]:
        return self.run(lambda: _observe.acollect(graph, value, config, keep, **kwargs))

    def observe(self, graph: Any, value: Any, config: Any = None, **kwargs: Any) -> Run:
        return self.run(lambda: _observe.aobserve(graph, value, config, **kwargs))

    async def turn(self) -> None:
        await asyncio.sleep(0)


class MixedWorld(AsyncWorld):
    """Plain functions in an asynchronous run: LangGraph runs them in threads."""

    name = "mixed"
    node = World.node
    call = World.call


def drive(coroutine: Any) -> Any:
    """Run a coroutine that never suspends, because its waiting blocks the thread."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("the coroutine suspended in the sync world")


def chain(state: Any, *functions: Callable[..., Any], names: Sequence[str] = ()) -> StateGraph[Any, Any, Any, Any]:
    """A graph that runs the functions one after another, under their own names."""
    builder = StateGraph(state)
    last = "__start__"
    for name, function in zip(names or [f.__name__ for f in functions], functions, strict=True):
        builder.add_node(name, function)
        builder.add_edge(last, name)
        last = name
    return builder


def effects_of(graph: Any) -> dict[str, str]:
    """The table of effects as a dict."""
    return {row.name: row.effect.value for row in graph.effects().rows}


def threads() -> set[threading.Thread]:
    """The library's threads that are alive."""
    return {t for t in threading.enumerate() if t.name.startswith("langgraph-speculative")}


def are_busy(graph: Any, count: int) -> bool:
    """Wait until so many of the pool's threads work for a graph: one that has delivered is counted a moment longer."""
    pool, owner = _scheduler.POOL, graph._speculation
    with pool._lock:
        return pool._lock.wait_for(lambda: pool._busy[owner] == count, LIMIT)


# --- what can be seen of a run ----------------------------------------------------------------------------------


def observe(
    world: World, graph: CompiledStateGraph[Any, Any, Any, Any], value: Any, config: Any = None, **kwargs: Any
) -> Run:
    """Run the graph and keep all that can be seen of it, in order unless tasks of a step ran beside each other."""
    run = world.observe(graph, value, config, **kwargs)
    return run.unordered() if run.is_parallel else run


# --- a chat model -----------------------------------------------------------------------------------------------

Script = Callable[[list[BaseMessage]], AIMessage]


class ScriptedModel(BaseChatModel):
    """A chat model that answers by a function of the messages, streams word by word, and can have tools.

    Args:
        script: From the messages to the answer.
        before: Awaited before each answer, in both worlds.
        label: Model name in the usage counts.
    """

    script: Any
    before: Any = None
    label: str = "scripted"
    tools: tuple[Any, ...] = ()
    streams: bool = True

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.model_copy(update={"tools": tuple(tools)})

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        answer: AIMessage = self.script(messages)
        return answer.model_copy(
            update={
                "usage_metadata": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
                "response_metadata": {"model_name": self.label},
            }
        )

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        if self.before:
            drive(self.before(messages))
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    async def _agenerate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        if self.before:
            await self.before(messages)
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        if self.before:
            drive(self.before(messages))
        for chunk in _parts(self._answer(messages)):
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        if self.before:
            await self.before(messages)
        for chunk in _parts(self._answer(messages)):
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _parts(answer: AIMessage) -> Iterator[ChatGenerationChunk]:
    words = re.findall(r"\S+\s*", str(answer.content))
    for i, word in enumerate(words or [""]):
        last = i == len(words or [""]) - 1
        yield ChatGenerationChunk(
            message=AIMessageChunk(
                content=word,
                id=answer.id,
                tool_call_chunks=[
                    {"name": c["name"], "args": _json(c["args"]), "id": c["id"], "index": n, "type": "tool_call_chunk"}
                    for n, c in enumerate(answer.tool_calls)
                ]
                if last
                else [],
                usage_metadata=answer.usage_metadata if last else None,
                response_metadata=answer.response_metadata if last else {},
                chunk_position="last" if last else None,
            )
        )


def _json(value: Any) -> str:
    import json

    return json.dumps(value)


def call(name: str, **args: Any) -> dict[str, Any]:
    """A tool call with a minted id."""
    return {"name": name, "args": args, "id": f"call_{uuid4()}", "type": "tool_call"}


def says(text: str = "", *calls: dict[str, Any]) -> AIMessage:
    return AIMessage(text, tool_calls=list(calls))


def turns(*answers: Callable[[], AIMessage]) -> Script:
    """A script: one answer per turn of the conversation, made anew each time, so that ids differ."""

    def script(messages: list[BaseMessage]) -> AIMessage:
        said = sum(isinstance(m, AIMessage) for m in messages)
        return answers[min(said, len(answers) - 1)]()

    return script


# --- guesses ----------------------------------------------------------------------------------------------------


def spoil(value: Any) -> Any:
    """A value of the same shape that is not equal."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1000
    if isinstance(value, str):
        return value + "?"
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(spoil(v) for v in value)
    if isinstance(value, dict):
        return {k: spoil(v) for k, v in value.items()}
    if isinstance(value, Command):
        return Command(graph=value.graph, update=spoil(value.update), goto=value.goto)
    if isinstance(value, BaseModel):
        return value.model_copy(update={k: spoil(v) for k, v in value.__dict__.items() if k in ("x", "content")})
    if is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{f.name: spoil(getattr(value, f.name)) for f in fields(value)})
    return value


@dataclass
class Probe:
    """A tally and a watch, for one run."""

    tally: Tally = field(default_factory=Tally)
    watch: Watch = field(default_factory=Watch)
