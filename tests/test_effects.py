"""What is not declared pure or read never runs early; a read never passes an effect."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import END, StateGraph, add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send

from langgraph_speculative import Effect, Policy, SpeculationInactiveWarning, speculative
from tests.support import Probe, World, call, chain, effects_of, says, turns


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


def node(name: str) -> Callable[[Any], Any]:
    def body(state: Any) -> Any:
        return {"log": [name]}

    body.__name__ = name
    return body


# --- declaring --------------------------------------------------------------------------------------------------


def test_names_and_members_and_a_default() -> None:
    graph = chain(State, *map(node, "abcd")).compile()
    fast = speculative(
        graph,
        speculators={"a": lambda s: {}},
        effects={"a": "pure", "b": Effect.READ, "c": "irreversible", "*": "pure"},
    )
    assert effects_of(fast) == {"a": "pure", "b": "read", "c": "irreversible", "d": "pure"}
    assert {r.kind for r in fast.effects().rows} == {"node"}


def test_undeclared_is_reported_apart_from_irreversible() -> None:
    graph = chain(State, *map(node, "abc")).compile()
    fast = speculative(graph, speculators={"a": lambda s: {}}, effects={"b": "pure", "c": "irreversible"})
    assert effects_of(fast) == {"a": "undeclared", "b": "pure", "c": "irreversible"}
    assert [r.name for r in fast.effects().undeclared()] == ["a"]


def test_the_table_prints_and_offers_a_skeleton() -> None:
    graph = chain(State, *map(node, ["first", "second"])).compile()
    fast = speculative(graph, speculators={"first": lambda s: {}}, effects={"second": "pure"})
    table = str(fast.effects())
    for word in ("name", "kind", "effect", "source", "reason", "first", "second", "undeclared", "pure", "effects="):
        assert word in table
    skeleton = fast.effects().skeleton()
    assert '"first"' in skeleton
    assert '"second"' not in skeleton
    scope: dict[str, Any] = {}
    exec(skeleton, scope)
    assert scope["effects"] == {"first": "irreversible"}


def test_metadata_of_a_node_declares_and_effects_go_before_it() -> None:
    builder = StateGraph(State)
    for name, effect in (("a", "pure"), ("b", "read"), ("c", "pure")):
        builder.add_node(name, node(name), metadata={"speculation": {"effect": effect}})
    builder.add_edge("__start__", "a")
    builder.add_edge("a", "b")
    builder.add_edge("b", "c")
    fast = speculative(builder.compile(), speculators={"a": lambda s: {}}, effects={"c": "irreversible", "*": "read"})
    assert effects_of(fast) == {"a": "pure", "b": "read", "c": "irreversible"}
    assert {r.name: r.source for r in fast.effects().rows} == {"a": "metadata", "b": "metadata", "c": "effects="}


def test_nested_names_are_paths_and_bare_names_apply_where_they_are_unambiguous() -> None:
    inner = chain(State, node("i"), node("j")).compile()
    builder = StateGraph(State)
    builder.add_node("a", node("a"))
    builder.add_node("sub", inner)
    builder.add_edge("__start__", "a")
    builder.add_edge("a", "sub")
    fast = speculative(builder.compile(), speculators={"a": lambda s: {}}, effects={"sub|i": "pure", "j": "read"})
    found = effects_of(fast)
    assert (found["sub|i"], found["sub|j"]) == ("pure", "read")


# --- no silent no-op --------------------------------------------------------------------------------------------


def test_a_warning_says_that_nothing_may_run_early_and_what_to_paste() -> None:
    graph = chain(State, *map(node, ["think", "act"])).compile()
    with pytest.warns(SpeculationInactiveWarning, match="act") as caught:
        fast = speculative(graph, speculators={"think": lambda s: {}})
    assert len(caught) == 1
    text = str(caught[0].message)
    assert '"act": ' in text
    assert caught[0].filename == __file__

    called: list[Any] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast = speculative(graph, speculators={"think": called.append})
    assert fast.invoke({"x": 0}) == {"x": 0, "log": ["think", "act"]}
    assert called == []
    assert fast.report().speculator_calls == 0


def test_no_warning_where_something_may_run_early() -> None:
    graph = chain(State, *map(node, ["think", "act"])).compile()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        speculative(graph, speculators={"think": lambda s: {}}, effects={"act": "pure"})


def test_a_speculator_whose_guess_could_reach_nothing_is_not_called(world: World, probe: Probe) -> None:
    """Behind node b is an irreversible one, and nobody guesses its output: only a's Speculator is worth calling."""

    def guess(name: str) -> Callable[[Any], Any]:
        return lambda s: probe.tally.add(name) and None

    fast = speculative(
        chain(State, *map(node, "abc")).compile(),
        speculators={"a": guess("a"), "b": guess("b")},
        effects={"b": "pure", "c": "irreversible"},
    )
    world.invoke(fast, {"x": 0})
    assert probe.tally["b"] == 0


# --- nothing irreversible runs early ----------------------------------------------------------------------------


class Danger:
    """Builds graphs in which node `a` is guessed, and something that must not run early is one step behind it."""

    def __init__(self, world: World, probe: Probe) -> None:
        self.world, self.probe = world, probe

    def actor(self, output: Any) -> Callable[..., Any]:
        async def a(state: Any) -> Any:
            await self.probe.watch.saw("stop").wait()
            self.probe.tally.add("a ends")
            return output

        return self.world.node(a)

    def harm(self, output: Any = None) -> Callable[..., Any]:
        async def harm(state: Any) -> Any:
            assert self.probe.tally["a ends"], "ran while its predecessor was running"
            self.probe.tally.add("harm")
            return output or {"log": ["harm"]}

        return self.world.node(harm)

    def harmless(self) -> Callable[..., Any]:
        async def harmless(state: Any) -> Any:
            return {"log": ["harmless"]}

        return self.world.node(harmless)


def behind_an_edge(d: Danger) -> Any:
    return chain(State, d.actor({"x": 1}), d.harm()).compile(), {"x": 1}


def behind_a_conditional_edge(d: Danger) -> Any:
    builder = chain(State, d.actor({"x": 1}))
    builder.add_node("harm", d.harm())
    builder.add_conditional_edges("a", lambda s: "harm", ["harm"])
    return builder.compile(), {"x": 1}


def behind_the_wrong_road(d: Danger) -> Any:
    """The guess leads to it and the run does not: it must not run at all."""
    builder = chain(State, d.actor({"x": 2}))
    builder.add_node("harm", d.harm())
    builder.add_conditional_edges("a", lambda s: "harm" if s["x"] == 1 else END, ["harm", END])
    return builder.compile(), {"x": 1}


def behind_a_send(d: Danger) -> Any:
    builder = chain(State, d.actor({"x": 1}))
    builder.add_node("harm", d.harm())
    builder.add_conditional_edges("a", lambda s: [Send("harm", {"x": 1})] * 2, ["harm"])
    return builder.compile(), {"x": 1}


def behind_a_goto(d: Danger) -> Any:
    builder = StateGraph(State)
    builder.add_node("a", d.actor(Command(goto="harm")), destinations=("harm",))
    builder.add_node("harm", d.harm())
    builder.add_edge("__start__", "a")
    return builder.compile(), Command(goto="harm")


def inside_a_subgraph(d: Danger) -> Any:
    builder = chain(State, d.actor({"x": 1}))
    builder.add_node("sub", chain(State, d.harm()).compile())
    builder.add_node("harmless", d.harmless())
    builder.add_edge("a", "sub")
    builder.add_edge("a", "harmless")
    return builder.compile(), {"x": 1}


def deep_inside_a_subgraph(d: Danger) -> Any:
    inner = chain(State, d.harmless(), d.harm()).compile()
    builder = chain(State, d.actor({"x": 1}))
    builder.add_node("sub", inner)
    builder.add_edge("a", "sub")
    return builder.compile(), {"x": 1}


def beside_a_harmless_one(d: Danger) -> Any:
    builder = chain(State, d.actor({"x": 1}))
    builder.add_node("harm", d.harm())
    builder.add_node("harmless", d.harmless())
    builder.add_edge("a", "harm")
    builder.add_edge("a", "harmless")
    return builder.compile(), {"x": 1}


def two_steps_ahead(d: Danger) -> Any:
    return chain(State, d.actor({"x": 1}), d.harmless(), d.harm()).compile(), {"x": 1}


DANGERS = [
    behind_an_edge,
    behind_a_conditional_edge,
    behind_the_wrong_road,
    behind_a_send,
    behind_a_goto,
    inside_a_subgraph,
    deep_inside_a_subgraph,
    beside_a_harmless_one,
    two_steps_ahead,
]


@pytest.mark.parametrize("declared", [True, False], ids=["irreversible", "undeclared"])
@pytest.mark.parametrize("build", DANGERS, ids=lambda f: f.__name__)
def test_an_irreversible_node_never_runs_early(world: World, probe: Probe, build: Any, declared: bool) -> None:
    graph, guess = build(Danger(world, probe))
    # Something else must be allowed to run early, or no Speculator would be called at all.
    graph = _with_a_harmless_end(graph)
    names = {n for n in graph.nodes if n in ("a", "harmless", "end")}
    effects: dict[str, str] = dict.fromkeys(names, "pure")
    if "harmless" not in names and build is deep_inside_a_subgraph:
        effects["harmless"] = "pure"
    if declared:
        effects["harm"] = "irreversible"
    speculators: dict[str, Any] = {"a": lambda s: guess}
    if "harm" in graph.nodes:
        speculators["harm"] = lambda s: {"log": ["harm"]}
    fast = speculative(graph, speculators=speculators, effects=effects, policy=Policy(depth=3, hooks=(probe.watch,)))
    with fast.track() as report:
        out = world.invoke(fast, {"x": 0})
    expected = {behind_the_wrong_road: 0, behind_a_send: 2}.get(build, 1)
    assert probe.tally["harm"] == expected == out.get("log", []).count("harm")
    assert report.early_irreversible_calls == 0
    assert not [e for e in probe.watch.of("launch") if "harm" in e.node.split("|")]


def _with_a_harmless_end(graph: Any) -> Any:
    builder = graph.builder
    builder.add_node("end", node("end"))
    last = "sub" if "sub" in builder.nodes else "harm"
    builder.add_edge(last, "end")
    return builder.compile()


def test_an_undeclared_tool_never_runs_early_and_its_sibling_does(world: World, probe: Probe) -> None:
    tally, watch = probe.tally, probe.watch

    @tool
    def harm(x: int) -> str:
        """Do harm."""
        assert tally["model ends"]
        tally.add("harm")
        return "harm"

    @tool
    def look(x: int) -> str:
        """Look."""
        tally.add("look")
        return "seen"

    async def model(state: Chat) -> Any:
        await tally.reached("look").wait()
        await watch.saw("stop").wait()
        tally.add("model ends")
        return {"messages": [says("", call("look", x=1), call("harm", x=1))]}

    builder = chain(Chat, world.node(model))
    builder.add_node("tools", ToolNode([harm, look]))
    builder.add_edge("model", "tools")
    fast = speculative(
        builder.compile(),
        speculators={"model": lambda s: {"messages": [says("", call("look", x=1), call("harm", x=1))]}},
        effects={"model": "pure", "look": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    with fast.track() as report:
        out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert [m.content for m in out["messages"][2:]] == ["seen", "harm"]
    assert (tally["harm"], tally["look"]) == (1, 1)
    assert report.claimed == 1
    assert report.early_irreversible_calls == 0
    assert any("harm" in reason for reason in report.stopped)


def test_a_tool_that_nobody_knows_never_runs_early(world: World, probe: Probe) -> None:
    """The guess calls a tool that the node does not have: no crash, no call, the run as it is."""

    @tool
    def look(x: int) -> str:
        """Look."""
        return "seen"

    watch = probe.watch

    async def model(state: Chat) -> Any:
        await watch.saw("fork").wait()
        return {"messages": [says("", call("look", x=1))]}

    builder = chain(Chat, world.node(model))
    builder.add_node("tools", ToolNode([look]))
    builder.add_edge("model", "tools")
    fast = speculative(
        builder.compile(),
        speculators={"model": lambda s: {"messages": [says("", call("invented", x=1))]}},
        effects={"model": "pure", "look": "pure"},
        policy=Policy(hooks=(watch,)),
    )
    out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert out["messages"][-1].content == "seen"


def test_code_that_swallows_the_barrier_launches_nothing_more(world: World, probe: Probe) -> None:
    """A tool node whose error handler takes every exception: the branch is dead all the same."""
    tally, watch = probe.tally, probe.watch

    @tool
    def harm(x: int) -> str:
        """Do harm."""
        assert tally["model ends"]
        return f"harm {tally.add('harm')}"

    async def model(state: Chat) -> Any:
        await watch.saw("stop").wait()
        tally.add("model ends")
        return {"messages": [says("", call("harm", x=1))]}

    async def after(state: Chat) -> Any:
        assert tally["model ends"], "the branch went on past what it may not do"
        return {}

    builder = chain(Chat, world.node(model))
    builder.add_node("tools", ToolNode([harm], handle_tool_errors=lambda e: "swallowed"))
    builder.add_node("after", world.node(after))
    builder.add_edge("model", "tools")
    builder.add_edge("tools", "after")
    fast = speculative(
        builder.compile(),
        speculators={
            "model": lambda s: {"messages": [says("", call("harm", x=1))]},
            "tools": lambda s: None,
        },
        effects={"model": "pure", "after": "pure"},
        policy=Policy(depth=3, hooks=(watch,)),
    )
    out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert out["messages"][-1].content == "harm 1"
    assert tally["harm"] == 1


# --- reads and effects ------------------------------------------------------------------------------------------


def test_behind_a_guessed_effect_only_pure_runs_early(world: World, probe: Probe) -> None:
    """The output of the irreversible Actor is guessed; a read behind it would see the world before the effect."""
    tally, watch = probe.tally, probe.watch

    async def act(state: State) -> Any:
        await tally.reached("pure").wait()
        await watch.saw("stop").wait()
        tally.add("act ends")
        return {"x": 1}

    async def pure(state: State) -> Any:
        tally.add("pure")
        return {"log": ["pure"]}

    async def read(state: State) -> Any:
        assert tally["act ends"], "a read passed an effect that was only guessed"
        tally.add("read")
        return {"log": ["read"]}

    builder = chain(State, world.node(act))
    builder.add_node("pure", world.node(pure))
    builder.add_node("read", world.node(read))
    builder.add_edge("act", "pure")
    builder.add_edge("act", "read")
    fast = speculative(
        builder.compile(),
        speculators={"act": lambda s: {"x": 1}},
        effects={"act": "irreversible", "pure": "pure", "read": "read"},
        policy=Policy(hooks=(watch,)),
    )
    with fast.track() as report:
        out = world.invoke(fast, {"x": 0})
    assert sorted(out["log"]) == ["pure", "read"]
    assert (tally["pure"], tally["read"]) == (1, 1)
    assert report.claimed == 1


class OnlyX(TypedDict):
    x: int


@pytest.mark.parametrize("effect", ["read", "pure"])
def test_a_real_effect_discards_unclaimed_reads_and_keeps_what_is_pure(world: World, probe: Probe, effect: str) -> None:
    """The guess goes a -> pass -> look, the run a -> write -> look: same step, same input, another world."""
    tally = probe.tally
    place = {"value": 0}

    async def a(state: State) -> Any:
        await tally.reached("looked").wait()
        return {"log": ["write"]}

    async def skip(state: State) -> Any:
        return {}

    async def write(state: State) -> Any:
        place["value"] = 7
        return {}

    async def look(state: OnlyX) -> Any:
        seen = place["value"]
        tally.add("looked")
        return {"log": [seen]}

    builder = chain(State, world.node(a))
    builder.add_node("skip", world.node(skip))
    builder.add_node("write", world.node(write))
    builder.add_node("look", world.node(look), input_schema=OnlyX)
    builder.add_conditional_edges("a", lambda s: s["log"][-1], ["skip", "write"])
    builder.add_edge("skip", "look")
    builder.add_edge("write", "look")
    fast = speculative(
        builder.compile(),
        speculators={"a": lambda s: {"log": ["skip"]}},
        effects={"a": "pure", "skip": "pure", "look": effect, "write": "irreversible"},
        policy=Policy(depth=3),
    )
    with fast.track() as report:
        out = world.invoke(fast, {"x": 0})
    if effect == "read":
        assert out["log"] == ["write", 7]
        assert (tally["looked"], report.claimed, report.discarded) == (2, 0, 2)
    else:  # declared pure, it vouches that no effect changes its result
        assert out["log"] == ["write", 0]
        assert (tally["looked"], report.claimed, report.discarded) == (1, 1, 1)


def test_write_then_read_by_an_agent(world: World, probe: Probe) -> None:
    """The model was expected to read; it writes first, and reads then: `write(7); read()` must see the 7."""
    tally = probe.tally
    place = {"value": 0}

    @tool
    def write(value: int) -> str:
        """Write."""
        place["value"] = value
        return "written"

    @tool
    def read() -> str:
        """Read."""
        tally.add("read")
        return f"value {place['value']}"

    async def model(state: Chat) -> Any:
        if len(state["messages"]) == 1:
            await tally.reached("read").wait()
            return {"messages": [says("", call("write", value=7))]}
        script = turns(says, lambda: says("", call("read")), lambda: says("done"))
        return {"messages": [script(state["messages"])]}

    builder = chain(Chat, world.node(model))
    builder.add_node("tools", ToolNode([write, read]))
    builder.add_conditional_edges("model", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END])
    builder.add_edge("tools", "model")
    fast = speculative(
        builder.compile(),
        speculators={"model": lambda s: {"messages": [says("", call("read"))]} if len(s["messages"]) == 1 else None},
        effects={"model": "pure", "read": "read", "write": "irreversible"},
        policy=Policy(depth=4),
    )
    out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert [m.content for m in out["messages"] if m.type == "tool"] == ["written", "value 7"]


def test_an_effect_beside_a_claimed_read_is_as_in_the_plain_graph(world: World, probe: Probe) -> None:
    """Both in one step: the plain graph runs them at the same time, too, so the read is claimable or run again."""
    tally = probe.tally

    @tool
    def write(value: int) -> str:
        """Write."""
        tally.add("write")
        return "written"

    @tool
    def read() -> str:
        """Read."""
        tally.add("read")
        return "value"

    calls = lambda: [call("read"), call("write", value=7)]  # noqa: E731

    async def model(state: Chat) -> Any:
        await tally.reached("read").wait()
        return {"messages": [says("", *calls())]}

    builder = chain(Chat, world.node(model))
    builder.add_node("tools", ToolNode([write, read]))
    builder.add_edge("model", "tools")
    fast = speculative(
        builder.compile(),
        speculators={"model": lambda s: {"messages": [says("", *calls())]}},
        effects={"model": "pure", "read": "read", "write": "irreversible"},
    )
    with fast.track() as report:
        out = world.invoke(fast, {"messages": [HumanMessage("?")]})
    assert [m.content for m in out["messages"][2:]] == ["value", "written"]
    assert tally["write"] == 1
    assert tally["read"] == 2 - report.claimed
