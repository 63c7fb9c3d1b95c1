"""A Speculator that learns from the runs of an agent what its model does next. It costs no tokens."""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, ToolCall
from langchain_core.runnables import RunnableConfig
from langgraph.store.base import BaseStore

from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.speculators import _history_store as shelves
from langgraph_speculative.speculators._history_conversations import Conversations, without_words
from langgraph_speculative.speculators._history_events import (
    is_person,
    list_of,
    messages_in,
    read,
    unknown_message,
    written,
)
from langgraph_speculative.speculators._history_model import Model
from langgraph_speculative.speculators._history_options import Option
from langgraph_speculative.speculators._history_shares import Redact, adopt, share_of
from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess

if TYPE_CHECKING:
    from langgraph_speculative._nodes import NodeInfo

START = "__start__"
EVERYBODY = "everybody"
_EMPTY = AIMessage("")

Tenant = Callable[[RunnableConfig], str]


class _Tenant:
    def __init__(self, model: Model, shelf: shelves.Shelf) -> None:
        self.model = model
        self.shelf = shelf
        self.lock = threading.RLock()
        self.read_at = -1e9
        self.unwritten = 0


class History(BaseSpeculator):
    """Guesses an agent's next tool call from what its earlier runs did at such a point.

    It learns two things: which tool comes next after what has happened and what was said, and where each argument of a
    call comes from: a path in an earlier result, an earlier argument, a token in a person's words, a constant. For a
    model node of an agent; for ``START`` it guesses that the person will speak, words unknown (`unknown_message`), and
    what the model does then.

    Example::

        history = History(tools=["find_user", "get_order"])
        history.fit(recorded_runs)
        fast = speculative(agent, speculators={"model": history}, effects={"find_user": "read", "get_order": "read"})

    An instance learns one agent. Its `learn` is called by the library with each execution of a committed run.

    Args:
        k: Guesses at a time.
        tools: The tools whose calls are guessed, such as those that may run early. ``None``: all.
        messages: Where the messages are in the node's input and output: a key of the state.
        between_turns: Whether it also learns what is called when the person's words are not known yet; doubles
            the time of learning.
        store: Where what was learned is kept, shared by all processes that use it.
        namespace: Of the store.
        tenant: Whose run it is: a key of the configurable, or a function of the run's config. Tenants learn apart.
        share_patterns: Whether tenants get each other's patterns (never constants, nor what is known of words), those
            that two others at least have.
        redact: Called with each constant (JSON text) before it is written to the store; returns what is written in
            its place, or ``None`` for nothing.
        half_life: Steps of the model after which what was learned counts half.
        expiry: Days after which what a process has written, and nobody has written again, is deleted.
        max_weights: Bound of what is kept for a tenant, in memory and in the store (about 60 bytes each there).
        max_tenants: How many tenants are in memory.
        sync_seconds: Seconds between writing to and reading from the store, at most.

    Raises:
        SpeculationError: A bound that is not positive.
    """

    def __init__(
        self,
        *,
        k: int = 3,
        tools: Collection[str] | None = None,
        messages: str = "messages",
        between_turns: bool = False,
        store: BaseStore | None = None,
        namespace: tuple[str, ...] = ("speculation", "history"),
        tenant: str | Tenant | None = None,
        share_patterns: bool = False,
        redact: Redact | None = None,
        half_life: int = 50_000,
        expiry: float = 90.0,
        max_weights: int = 30_000,
        max_tenants: int = 64,
        sync_seconds: float = 30.0,
    ) -> None:
        for name, value in {
            "k": k,
            "half_life": half_life,
            "expiry": expiry,
            "max_weights": max_weights,
            "max_tenants": max_tenants,
        }.items():
            if value <= 0:
                raise SpeculationError(f"History({name}={value!r}): must be positive.")
        self.k = k
        self._tools = None if tools is None else frozenset(tools)
        self._key = messages
        self._between_turns = between_turns
        self._store = store
        self._namespace = namespace
        self._tenant = tenant
        self._share = share_patterns
        self._redact = redact
        self._half_life = half_life
        self._expiry = expiry * 86_400.0
        self._max_weights = max_weights
        self._max_tenants = max_tenants
        self._sync_seconds = sync_seconds
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._lock = threading.Lock()
        # Guesses do not wait for what is being learned: each has its own indexes.
        self._guessing = Conversations()
        self._guess_lock = threading.Lock()
        self._learning = Conversations()

    # Guessing

    def bind(self, node: NodeInfo) -> BaseSpeculator:
        """This Speculator; for ``START`` one that guesses that the person speaks."""
        return Speaks(self._key) if node.name == START else self

    def guess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """The likeliest outputs of the node, at most `k`; ``None`` where nothing was learned yet."""
        name = self._name(config)
        tenant = self._of(name)
        if self._is_first(tenant):
            self._sync(tenant, write=False)
        return self._guesses(name, tenant, value)

    async def aguess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """The same, on the event loop."""
        name = self._name(config)
        tenant = self._of(name)
        if self._is_first(tenant):
            await self._async(tenant, write=False)
        return self._guesses(name, tenant, value)

    def _guesses(self, name: str, tenant: _Tenant, value: Any) -> list[Guess] | None:
        messages = messages_in(value, self._key)
        if not messages or not tenant.model.templates:
            return None
        with self._guess_lock:
            index = self._guessing.index_of(name, messages)
            found = tenant.model.messages(index, self.k, self._tools)
        return [Guess({self._key: [_message(calls)]}, p, "history") for calls, p in found] or None

    # Learning

    def learn(self, value: Any, output: Any, config: RunnableConfig) -> None:
        """Learn what the node has returned."""
        messages, events = messages_in(value, self._key), written(output, self._key)
        if not messages or not any(event.kind in ("say", "call") for event in events):
            return
        name = self._name(config)
        tenant = self._of(name)
        with tenant.lock:
            if self._is_first(tenant):
                self._sync(tenant, write=False)
            if not tenant.model.is_due():
                return
            versions = [messages]
            if self._between_turns:
                versions.append(without_words(messages))
            for known in versions:
                index = self._learning.index_of(name, known)
                length = len(index.events)
                tenant.model.learn_message(index, events, self._tools)
                index.truncate(length)
            tenant.unwritten += 1
        if self._store is not None and time.monotonic() - tenant.read_at > self._sync_seconds:
            self._sync(tenant, write=True)

    def fit(self, runs: Iterable[Any], *, config: RunnableConfig | None = None) -> History:
        """Learn from recorded runs, as `learn` would have while they ran.

        Args:
            runs: Each a list of messages (LangChain's, or dicts in OpenAI's form), or a mapping or state with one.
            config: Says whose runs they are.
        """
        config = config if config is not None else {}
        for run in runs:
            messages = messages_in(run, self._key)
            for number, message in enumerate(messages):
                if number and any(event.kind in ("say", "call") for event in read(message)):
                    self.learn(messages[:number], [message], config)
        return self

    # Keeping

    def flush(self) -> None:
        """Write to the store, and read from it, now."""
        for tenant in list(self._tenants.values()):
            self._sync(tenant, write=True)

    async def aflush(self) -> None:
        """The same, asynchronously."""
        for tenant in list(self._tenants.values()):
            await self._async(tenant, write=True)

    def delete(self, tenant: str = EVERYBODY) -> None:
        """Forget a tenant, here and in the store; other processes forget it when they next read the store."""
        shelf = self._forget(tenant)
        if self._store is not None:
            shelves.run(self._store, shelf.deleting(shelves.run(self._store, shelf.all_items())))

    async def adelete(self, tenant: str = EVERYBODY) -> None:
        """The same, asynchronously."""
        shelf = self._forget(tenant)
        if self._store is not None:
            found = await shelves.arun(self._store, shelf.all_items())
            await shelves.arun(self._store, shelf.deleting(found))

    def _forget(self, name: str) -> shelves.Shelf:
        with self._lock:
            self._tenants.pop(name, None)
        with self._guess_lock:
            self._guessing.forget(name)
        self._learning.forget(name)
        return shelves.Shelf(self._namespace, name, self._expiry, self._share)

    def _name(self, config: RunnableConfig) -> str:
        if self._tenant is None:
            return EVERYBODY
        if callable(self._tenant):
            return str(self._tenant(config))
        found = config.get("configurable", {}).get(self._tenant)
        if found is None:
            raise SpeculationError(
                f"History(tenant={self._tenant!r}): the run's config has no such key in its configurable; "
                "nothing is guessed or learned for it."
            )
        return str(found)

    def _of(self, name: str) -> _Tenant:
        with self._lock:
            tenant = self._tenants.get(name)
            if tenant is None:
                shelf = shelves.Shelf(self._namespace, name, self._expiry, self._share)
                tenant = self._tenants[name] = _Tenant(Model(self._max_weights, self._half_life), shelf)
            self._tenants.move_to_end(name)
            dropped = self._tenants.popitem(last=False)[1] if len(self._tenants) > self._max_tenants else None
        if dropped is not None and dropped.unwritten and self._store is not None:
            self._write(dropped)
        return tenant

    def _is_first(self, tenant: _Tenant) -> bool:
        return self._store is not None and tenant.read_at < 0

    def _sync(self, tenant: _Tenant, *, write: bool) -> None:
        if self._store is None:
            return
        tenant.read_at = time.monotonic()
        if write and tenant.unwritten:
            self._write(tenant)
        shelves.run(self._store, self._take(tenant, shelves.run(self._store, tenant.shelf.reading())))

    async def _async(self, tenant: _Tenant, *, write: bool) -> None:
        if self._store is None:
            return
        tenant.read_at = time.monotonic()
        if write and tenant.unwritten:
            await shelves.arun(self._store, self._written(tenant))
        results = await shelves.arun(self._store, tenant.shelf.reading())
        await shelves.arun(self._store, self._take(tenant, results))

    def _write(self, tenant: _Tenant) -> None:
        assert self._store is not None
        shelves.run(self._store, self._written(tenant))

    def _written(self, tenant: _Tenant) -> shelves.Ops:
        with tenant.lock:
            tenant.unwritten = 0
            common = share_of(tenant.model, literals=False) if self._share else None
            return tenant.shelf.writing(share_of(tenant.model, self._redact), common)

    def _take(self, tenant: _Tenant, results: list[Any]) -> shelves.Ops:
        with tenant.lock:
            others, gone, tidy = tenant.shelf.read(results)
            if gone:
                tenant.model = Model(self._max_weights, self._half_life)
                tenant.unwritten = 0
            if others is not None:
                adopt(tenant.model, others)
        return tidy


class Speaks(BaseSpeculator):
    """Guesses, for ``START``, that the person speaks next: an input whose only message has no known words."""

    def __init__(self, messages: str = "messages") -> None:
        self._key = messages

    def guess(self, value: Any, config: RunnableConfig) -> Guess | None:
        """An input with an unknown message; ``None`` where the last message is a person's."""
        messages = list_of(messages_in(value, self._key))
        if not messages or is_person(messages[-1]):
            return None
        return Guess({self._key: [unknown_message()]}, 1.0, "history")

    async def aguess(self, value: Any, config: RunnableConfig) -> Guess | None:
        """The same."""
        return self.guess(value, config)


def _message(calls: list[Option]) -> AIMessage:
    made = [
        ToolCall(name=c.tool, args=dict(c.args or {}), id=f"call_{uuid.uuid4().hex[:24]}", type="tool_call")
        for c in calls
    ]
    # A copy: to check a message takes longer than to think of it.
    return _EMPTY.model_copy(update={"tool_calls": made, "additional_kwargs": {}, "response_metadata": {}})
