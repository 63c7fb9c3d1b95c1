"""Tools of a real MCP server, started over stdio through LangChain's adapters: whose hints let them run early."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.tools import BaseTool, tool

from langgraph_speculative import SpeculativeGraph, speculative
from langgraph_speculative._observe import Run, aobserve
from langgraph_speculative.testing import check_report, compare_runs
from tests.support import LIMIT, ScriptedModel, Tally, call, says, turns

pytest.importorskip("mcp", reason="mcp is not installed: no wheel of it for this Python")
pytest.importorskip(
    "langchain_mcp_adapters", reason="langchain-mcp-adapters is not installed: no wheel of it or of mcp"
)

from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

from tests.mcp_server import HINTS, PORT

SERVER = Path(__file__).with_name("mcp_server.py")
ASK = {"messages": [HumanMessage("go", id="ask")]}
BASIC = ("look", "drop", "plain")


class Notes:
    """What the server's tools and the model did, in order, counted before a tool answers."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.order: list[str] = []

    def add(self, name: str) -> None:
        self.order.append(name)
        self.tally.add(name)

    async def heard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.add((await reader.readline()).decode().strip())
        writer.write(b"noted\n")
        await writer.drain()
        writer.close()

    def clear(self) -> None:
        self.tally, self.order = Tally(), []

    @property
    def early(self) -> set[str]:
        """The tools that were called before the real model first answered."""
        return set(self.order[: self.order.index("answer")])


class Shop:
    """A session with the server, and the agents that use its tools."""

    def __init__(self, notes: Notes, session: Any, tools: list[BaseTool], prefix: str) -> None:
        self.notes = notes
        self.prefix = prefix
        self.session = session
        self.tools = {t.name: t for t in tools}

    def agent(self, names: Iterable[str], *, waits_for: tuple[str, ...] | None = None) -> Any:
        """An agent that calls the tools in one turn, and last the test's own tool `near`.

        Args:
            names: The tools, as the server calls them.
            waits_for: The tools of which the model's first answer waits for the early call.
        """
        notes = self.notes

        @tool
        async def near(what: str) -> str:
            """Stay near."""
            notes.add("near")
            return what

        async def before(messages: list[BaseMessage]) -> None:
            if not any(isinstance(m, AIMessage) for m in messages):
                for name in waits_for or ():
                    await notes.tally.reached(name).wait()
                # The server has read what was sent before when it answers this, and had time to tell of it.
                if self.session is not None:
                    await asyncio.wait_for(self.session.send_ping(), LIMIT)
                notes.add("answer")

        model = ScriptedModel(script=self.script(names), before=before)
        return create_agent(model, [*self.tools.values(), near])

    def script(self, names: Iterable[str]) -> Callable[[list[BaseMessage]], AIMessage]:
        called = [*(self.prefix + n for n in names), "near"]
        return turns(lambda: says("", *(call(n, what="it") for n in called)), lambda: says("done"))

    def guess(self, names: Iterable[str]) -> Callable[[Any], Any]:
        script = self.script(names)
        return lambda state: {"messages": [script(state["messages"])]}

    def wrap(self, names: Iterable[str] = BASIC, waits_for: tuple[str, ...] = (), **kwargs: Any) -> SpeculativeGraph:
        effects = {"near": "pure", **kwargs.pop("effects", {})}
        agent = self.agent(names, waits_for=("near", *waits_for))
        return speculative(agent, speculators={"model": self.guess(names)}, effects=effects, **kwargs)

    async def early(self, *names: str, early: Iterable[str] = (), **kwargs: Any) -> set[str]:
        """Run plain and speculatively, and return the server's tools that ran before the model answered.

        The speculative model waits for `near` and for those of `early`, so a tool that is not called early when it
        should be is a failure within `LIMIT` seconds.
        """
        plain = await aobserve(self.agent(names), ASK)
        assert self.notes.early == set()
        assert sorted(self.notes.order) == sorted(["answer", "near", *names])
        self.notes.clear()
        fast = self.wrap(names, tuple(early), **kwargs)
        run = await aobserve(fast, ASK)
        compare_runs([without_runtime(plain)], [without_runtime(run)])
        assert plain.error is None
        check_report(fast.report())
        assert sorted(self.notes.order) == sorted(["answer", "near", *names])  # each exactly once
        early_calls = self.notes.early - {"near"}
        self.notes.clear()
        return early_calls


@asynccontextmanager
async def shop(
    server: str = "shop", *, prefix: bool = False, named: bool = True, sessions: bool = False
) -> AsyncIterator[Shop]:
    """The server in a process of its own, under the name that the client gives it.

    Args:
        server: That name.
        prefix: Whether the tools have it before theirs.
        named: Whether the adapters are told it where they make the tools.
        sessions: Whether each call is a session of its own. Otherwise there is one, which is faster.
    """
    notes = Notes()
    listener = await asyncio.start_server(notes.heard, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    client = MultiServerMCPClient(
        {
            server: {
                "transport": "stdio",
                "command": sys.executable,
                "args": [str(SERVER)],
                "env": {**os.environ, PORT: str(port)},
            }
        },
        tool_name_prefix=prefix,
    )
    if sessions:
        async with listener:
            yield Shop(notes, None, await client.get_tools(), "")
        return
    async with listener, client.session(server) as session:
        options: dict[str, Any] = {"server_name": server, "tool_name_prefix": prefix} if named else {}
        yield Shop(notes, session, await load_mcp_tools(session, **options), f"{server}_" if prefix else "")


@pytest.fixture(scope="module")
def listed() -> Shop:
    """What is left of a session that is over: the tools can be looked at, and not called."""

    async def ended() -> Shop:
        async with shop() as s:
            return s

    return asyncio.run(ended())


def without_runtime(run: Run) -> Run:
    """The run without the runtime in the inputs of tools that callbacks are told.

    The tools have it injected, and langchain-core 1.2.10 prints it there, with its addresses and times: no two
    plain runs are the same.
    """

    def told(event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] != "tool_start":
            return event
        return {**event, "value": event["value"].partition(", 'runtime': ")[0].rstrip("}")}

    return replace(run, callbacks=[told(e) for e in run.callbacks])


def around(function: Any) -> Any:
    async def mine(**arguments: Any) -> Any:
        return await function(**arguments)

    return mine


def rows(fast: SpeculativeGraph) -> dict[str, tuple[str, str, str]]:
    return {r.name: (r.effect.value, r.source, r.reason) for r in fast.effects().rows if r.kind == "tool"}


# --- what runs early --------------------------------------------------------------------------------------------


async def test_the_tools_are_seen_where_they_may_run_early() -> None:
    """The control of the tests below: declared by hand, all three are called before the model has answered."""
    async with shop() as s:
        assert await s.early(*BASIC, early=BASIC, effects=dict.fromkeys(BASIC, "read")) == set(BASIC)


@pytest.mark.parametrize("prefix", [True, False], ids=["prefix", "no-prefix"])
async def test_only_the_read_only_tool_of_a_trusted_server_runs_early(prefix: bool) -> None:
    async with shop(prefix=prefix) as s:
        for trust in [("shop",), ("web", "shop"), "*"]:
            assert await s.early(*BASIC, early=["look"], trust_mcp=trust) == {"look"}, trust


async def test_nothing_runs_early_where_the_server_is_not_trusted() -> None:
    async with shop(prefix=True) as s:
        for trust in [(), ("web",), ("sho",), ("",)]:
            assert await s.early(*BASIC, trust_mcp=trust) == set(), trust


async def test_a_server_without_a_name_is_trusted_with_all_others_alone() -> None:
    async with shop(named=False) as s:
        assert await s.early(*BASIC, "shop_list", "pose", trust_mcp=("shop",)) == set()
        assert await s.early(*BASIC, early=["look"], trust_mcp="*") == {"look"}


async def test_both_hints_and_idempotence_are_no_reads() -> None:
    async with shop() as s:
        assert await s.early("both", "again", trust_mcp="*") == set()


async def test_a_session_for_each_call() -> None:
    """The tools of `MultiServerMCPClient.get_tools` start a server for each call: the early one in the branch."""
    async with shop(sessions=True) as s:
        assert await s.early("look", early=["look"], trust_mcp=("shop",)) == {"look"}


# --- what the table says ----------------------------------------------------------------------------------------


def test_what_the_table_says(listed: Shop) -> None:
    trusted, other = rows(listed.wrap(trust_mcp=("shop",))), rows(listed.wrap(trust_mcp=("web",)))
    everyone, untrusted = rows(listed.wrap(trust_mcp="*")), rows(listed.wrap())
    assert trusted["look"] == ("read", "mcp", "readOnlyHint of trusted MCP server 'shop'")
    assert trusted["drop"] == ("irreversible", "mcp", "destructiveHint")
    assert trusted["both"] == ("irreversible", "mcp", "destructiveHint")
    assert trusted["plain"] == ("undeclared", "none", "nobody declared it")
    assert trusted["again"] == ("undeclared", "none", "MCP annotations without readOnlyHint")
    assert everyone == trusted
    # Hints that are not believed show in the reason alone.
    reason = "MCP hints are there, but server 'shop' is not in trust_mcp"
    assert {untrusted[n] for n in ("look", "drop", "both")} == {("undeclared", "none", reason)}
    assert untrusted["plain"] == trusted["plain"]
    assert other == untrusted


def test_what_the_adapters_hand_on(listed: Shop) -> None:
    """The first layout of `test_effects_mcp_metadata.py`, and no name of the server: see `mcp_effect`."""
    for name in ("look", "drop", "both", "again"):
        metadata = listed.tools[name].metadata or {}
        assert "readOnlyHint" in metadata
        assert {k: v for k, v in metadata.items() if v is not None} == HINTS[name]
    assert listed.tools["plain"].metadata is None


# --- servers that claim what is not theirs to say ---------------------------------------------------------------


async def test_a_server_cannot_pass_for_a_trusted_one() -> None:
    """Neither by a tool that is named as if it had the other's prefix, nor by fields of its own in the annotations."""
    async with shop("web") as s:
        assert await s.early("shop_list", "pose", trust_mcp=("shop",)) == set()
        found = rows(s.wrap(trust_mcp=("shop",)))
    reason = "MCP hints are there, but server 'web' is not in trust_mcp"
    assert found["shop_list"] == found["pose"] == ("undeclared", "none", reason)


async def test_a_prefix_counts_where_the_tool_is_not_the_adapters_own() -> None:
    """Around a coroutine of the user's the client's name is out of sight: the prefix is what is left."""
    async with shop(prefix=True) as s:
        for name in BASIC:
            made: Any = s.tools[f"shop_{name}"]
            s.tools[made.name] = made.model_copy(update={"coroutine": around(made.coroutine)})
        assert await s.early(*BASIC, early=["look"], trust_mcp=("shop",)) == {"look"}
        assert await s.early(*BASIC, trust_mcp=("web",)) == set()


def test_a_server_cannot_declare_its_tools_itself(listed: Shop) -> None:
    """The adapters hand on unknown fields of the annotations, so they are as little worth as the hints."""
    assert rows(listed.wrap())["vouch"][0] == "undeclared"
