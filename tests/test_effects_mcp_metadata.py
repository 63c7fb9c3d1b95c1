"""Effects that tools bring with them: their metadata, and the annotations of trusted MCP servers."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage
from langchain_core.tools import StructuredTool
from langgraph.graph import StateGraph, add_messages
from langgraph.prebuilt import ToolNode

from langgraph_speculative import SpeculationError, SpeculativeGraph, speculative
from tests.support import call, effects_of, says


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


def body(x: int = 0) -> str:
    """Do something."""
    return f"{x}"


def a_tool(name: str, metadata: dict[str, Any] | None = None) -> StructuredTool:
    return StructuredTool.from_function(body, name=name, metadata=metadata)


def wrap(*tools: Any, **kwargs: Any) -> SpeculativeGraph:
    def model(state: Chat) -> Any:
        return {"messages": [says("", call(tools[0].name))]}

    builder = StateGraph(Chat)
    builder.add_node("model", model)
    builder.add_node("tools", ToolNode([*tools, a_tool("always", {"speculation": {"effect": "pure"}})]))
    builder.add_edge("__start__", "model")
    builder.add_edge("model", "tools")
    return speculative(builder.compile(), speculators={"model": lambda s: None}, **kwargs)


def flat(**hints: Any) -> dict[str, Any]:
    """The first layout: the annotations themselves, with ``None`` for what the server did not say."""
    names = ("title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    return {**dict.fromkeys(names), **hints}


def deep(server: str = "files", **hints: Any) -> dict[str, Any]:
    """The second layout: below ``mcp``."""
    return {"mcp": {"server": {"name": server}, "tool": {"name": "t", "annotations": hints}}}


@pytest.mark.parametrize("effect", ["pure", "read", "irreversible"])
def test_metadata_of_a_tool(effect: str) -> None:
    metadata = {"speculation": {"effect": effect}}
    assert json.loads(json.dumps(metadata)) == metadata
    fast = wrap(a_tool("t", metadata))
    row = next(r for r in fast.effects().rows if r.name.split(".")[-1] == "t")
    assert (row.kind, row.effect.value, row.source) == ("tool", effect, "metadata")


def test_an_unknown_effect_in_metadata_is_refused_by_name() -> None:
    with pytest.raises(SpeculationError, match=r"'t'.*'harmless'.*'pure'"):
        wrap(a_tool("t", {"speculation": {"effect": "harmless"}}))


def test_effects_go_before_metadata_and_before_annotations() -> None:
    one = a_tool("one", {"speculation": {"effect": "pure"}})
    two = a_tool("two", flat(readOnlyHint=True))
    found = tools_of(wrap(one, two, effects={"one": "irreversible", "two": "irreversible"}, trust_mcp=["*"]))
    assert (found["one"], found["two"]) == ("irreversible", "irreversible")


def tools_of(fast: SpeculativeGraph) -> dict[str, str]:
    return {name.split(".")[-1]: effect for name, effect in effects_of(fast).items()}


@pytest.mark.parametrize("layout", [flat, deep])
def test_annotations_of_a_server_that_is_not_trusted_count_for_nothing(layout: Any) -> None:
    fast = wrap(a_tool("files_list", layout(readOnlyHint=True)))
    assert tools_of(fast)["files_list"] == "undeclared"
    row = next(r for r in fast.effects().rows if r.name.split(".")[-1] == "files_list")
    assert "trust_mcp" in row.reason


@pytest.mark.parametrize("layout", [flat, deep])
def test_a_trusted_read_only_hint_is_a_read(layout: Any) -> None:
    fast = wrap(a_tool("files_list", layout(readOnlyHint=True)), trust_mcp=["files"])
    row = next(r for r in fast.effects().rows if r.name.split(".")[-1] == "files_list")
    assert (row.effect.value, row.source) == ("read", "mcp")


@pytest.mark.parametrize("layout", [flat, deep])
@pytest.mark.parametrize(
    ("hints", "effect"),
    [
        ({"readOnlyHint": True}, "read"),
        ({"readOnlyHint": True, "destructiveHint": False}, "read"),
        ({"readOnlyHint": False}, "undeclared"),
        ({"readOnlyHint": None}, "undeclared"),
        ({"idempotentHint": True}, "undeclared"),
        ({"readOnlyHint": False, "destructiveHint": True}, "irreversible"),
        ({}, "undeclared"),
    ],
    ids=str,
)
def test_what_each_hint_means(layout: Any, hints: dict[str, Any], effect: str) -> None:
    found = tools_of(wrap(a_tool("files_list", layout(**hints)), trust_mcp=["files"]))["files_list"]
    if effect == "irreversible":
        assert found in ("irreversible", "undeclared")
    else:
        assert found == effect


def test_trust_is_given_to_servers_by_name() -> None:
    """In the second layout the server's name is in the metadata; another one's tools stay undeclared."""
    mine, other = a_tool("list", deep("files", readOnlyHint=True)), a_tool("dir", deep("web", readOnlyHint=True))
    found = tools_of(wrap(mine, other, trust_mcp=["files"]))
    assert (found["list"], found["dir"]) == ("read", "undeclared")
