"""`Route`: every target of a router, likeliest first, given or learned."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langgraph.errors import ParentCommand
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command

from langgraph_speculative import Policy, SpeculationError, speculative
from langgraph_speculative.speculators import Guess, Route
from tests.support import LIMIT, Probe, Tally, World

CONFIG: Any = {"configurable": {}}
BILLING, TECH = {"intent": "billing"}, {"intent": "tech"}


class State(TypedDict, total=False):
    text: str
    intent: str
    answer: str


def ask(route: Route, value: Any = None) -> list[tuple[Any, float]]:
    return [(g.output, round(g.confidence, 3)) for g in route.guess(value or {}, CONFIG) or ()]


def learn(route: Route, *outputs: Any, value: Any = None) -> None:
    for output in outputs:
        route.learn(value or {}, output, CONFIG)


def test_all_targets_before_anything_is_learned() -> None:
    route = Route({"billing": BILLING, "tech": TECH})
    guesses = route.guess({}, CONFIG)
    assert [(g.output, g.confidence, g.source) for g in guesses] == [
        (BILLING, 0.5, "route:billing"),
        (TECH, 0.5, "route:tech"),
    ]


def test_the_likeliest_is_first() -> None:
    route = Route({"billing": BILLING, "tech": TECH})
    learn(route, BILLING, TECH, TECH)
    [(first, p), (second, q)] = ask(route)
    assert (first, second) == (TECH, BILLING)
    # (2 + 1/2) / (3 + 1), but for what has faded.
    assert p == pytest.approx(0.625, abs=0.01)
    assert p + q == pytest.approx(1)


def test_what_is_not_given_is_learned_and_bounded() -> None:
    route = Route({"billing": BILLING}, max_learned=2)
    learn(route, TECH, TECH, {"intent": "sales"})
    assert [output for output, _ in ask(route)] == [TECH, {"intent": "sales"}, BILLING]
    learn(route, TECH, *[{"intent": "legal"}] * 2)
    assert [output for output, _ in ask(route)] == [TECH, {"intent": "legal"}, BILLING]
    # What was written by others than the candidates takes confidence from them.
    assert sum(p for _, p in ask(route)) < 0.95


def test_the_latest_weigh_most() -> None:
    route = Route(memory=5)
    learn(route, *[BILLING] * 20, *[TECH] * 8)
    assert ask(route)[0] == (TECH, pytest.approx(0.75, abs=0.1))


def test_what_the_choice_depends_on() -> None:
    route = Route({"billing": BILLING, "tech": TECH}, features=lambda state: state["text"])
    for _ in range(30):
        learn(route, BILLING, value={"text": "mail"})
        learn(route, TECH, value={"text": "phone"})
    assert ask(route, {"text": "mail"})[0] == (BILLING, pytest.approx(0.8, abs=0.1))
    assert ask(route, {"text": "phone"})[0] == (TECH, pytest.approx(0.8, abs=0.1))
    assert ask(route, {"text": "fax"})[0][1] == pytest.approx(0.5, abs=0.02)


def test_one_update_in_several_forms_is_one() -> None:
    route = Route()
    learn(route, BILLING, Command(update=BILLING), [Command(update=BILLING)])
    assert len(ask(route)) == 1
    learn(route, Command(goto="billing", update=BILLING), Command(goto="tech", update=BILLING))
    assert len(ask(route)) == 3
    up = ParentCommand(Command(goto="boss", graph="the:parent"))
    learn(route, up)
    assert any(isinstance(o, Command) and (o.goto, o.graph) == ("boss", Command.PARENT) for o, _ in ask(route))


def test_messages_get_new_ids() -> None:
    route = Route()
    for own in (None, "one"):
        learn(route, {"messages": [AIMessage("over to billing", id=own)]})
    [(output, _)] = ask(route)
    assert output["messages"][0].id not in ("one", None)


def test_what_cannot_be_compared_is_not_learned() -> None:
    route = Route()
    learn(route, {"intent": (x for x in "ab")})
    assert ask(route) == []


# --- in a graph -----------------------------------------------------------------------------------------------------


def graph(world: World, tally: Tally, *, wait_for: int, intent: str, command: bool = False) -> Any:
    @world.node
    async def classify(state: State) -> Any:
        await tally.reached("target", wait_for).wait()
        return Command(goto=intent) if command else {"intent": intent}

    def target(name: str) -> Any:
        @world.node
        async def answers(state: State) -> State:
            tally.add("target")
            tally.add(name)
            return {"answer": f"{name} of {state.get('intent')}"}

        return answers

    builder = StateGraph(State)
    if command:
        ends: dict[str, Any] = {"destinations": ("billing", "tech", "sales")}
        builder.add_node("classify", classify, **ends)
    else:

        def branch(state: State) -> Literal["billing", "tech", "sales"]:
            return state["intent"]  # type: ignore[return-value]

        builder.add_node("classify", classify)
        builder.add_conditional_edges("classify", branch)
    builder.add_edge(START, "classify")
    for name in ("billing", "tech", "sales"):
        builder.add_node(name, target(name))
        builder.add_edge(name, END)
    return builder.compile()


@pytest.mark.parametrize("command", [False, True], ids=["update", "command"])
def test_the_target_starts_before_the_decision(world: World, probe: Probe, command: bool) -> None:
    tally = probe.tally
    names = ("billing", "tech", "sales")
    route = Route({n: Command(goto=n) if command else {"intent": n} for n in names})
    fast = speculative(
        graph(world, tally, wait_for=3, intent="tech", command=command),
        speculators={"classify": route},
        effects={"*": "read"},
        policy=Policy(breadth=3),
    )
    out = world.invoke(fast, {"text": "help"})
    assert out["answer"] == f"tech of {None if command else 'tech'}"
    report = fast.report()
    assert (report.claimed, report.window_hits, report.discarded) == (1, 1, 2)
    assert {n: tally[n] for n in names} == dict.fromkeys(names, 1)


def test_breadth_takes_what_the_runs_have_taught(world: World, probe: Probe) -> None:
    tally = probe.tally
    fast = speculative(
        graph(world, tally, wait_for=1, intent="sales"), speculators={"classify": Route()}, effects={"*": "read"}
    )
    # Nothing is known yet, and the router would wait for a target that starts early.
    tally.add("target")
    world.invoke(fast, {"text": "help"})
    assert fast.drain(LIMIT) == 0
    assert fast.report().claimed == 0
    second = speculative(graph(world, Tally(), wait_for=0, intent="sales"), speculators={}, effects={"*": "read"})
    assert world.invoke(second, {"text": "help"})["answer"] == "sales of sales"
    info = fast._speculation.rewritten.infos["classify"]
    [guess] = info.speculator.guess({"text": "help"}, CONFIG)
    assert guess == Guess({"intent": "sales"}, guess.confidence, "route")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Route({"billing": BILLING, "nobody": {}}), "'classify': no edge leads to 'nobody'; .*'billing', 's"),
        (lambda: Route(["billing"]), r"Route\(list\): pass a mapping"),  # type: ignore[arg-type]
        (lambda: Route(memory=0), "at least 1"),
        (lambda: Route(max_learned=0), "at least 1"),
    ],
)
def test_what_is_refused(world: World, probe: Probe, make: Any, match: str) -> None:
    with pytest.raises(SpeculationError, match=match):
        speculative(
            graph(world, probe.tally, wait_for=0, intent="tech"),
            speculators={"classify": make()},
            effects={"*": "read"},
        )
