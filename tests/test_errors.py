"""Bad input is refused at once, by a message that names the node and the remedy."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langgraph.func import entrypoint
from langgraph.graph import StateGraph

from langgraph_speculative import Guess, Policy, SpeculationError, speculative
from tests.support import chain


class State(TypedDict, total=False):
    x: int


def think(state: State) -> State:
    return {}


def act(state: State) -> State:
    return {}


def graph() -> Any:
    return chain(State, think, act).compile()


def test_is_a_value_error() -> None:
    assert issubclass(SpeculationError, ValueError)


def test_a_graph_that_is_not_compiled() -> None:
    with pytest.raises(SpeculationError, match=r"not compiled.*compile\("):
        speculative(chain(State, think))  # type: ignore[call-overload]


@pytest.mark.parametrize("thing", [3, "graph", object(), [1]], ids=lambda t: type(t).__name__)
def test_no_graph_at_all(thing: Any) -> None:
    with pytest.raises(SpeculationError, match=r"compile"):
        speculative(thing)


def test_the_functional_api() -> None:
    @entrypoint()
    def flow(value: int) -> int:
        return value

    with pytest.raises(SpeculationError, match=r"(?s)entrypoint.*StateGraph"):
        speculative(flow)  # type: ignore[call-overload]


@pytest.mark.parametrize("argument", ["speculators", "effects", "keys"])
def test_an_unknown_node(argument: str) -> None:
    value: Any = "pure" if argument == "effects" else (lambda s: None)
    with pytest.raises(SpeculationError, match=rf"{argument}\['thinc'\].*'act'.*'think'"):
        speculative(graph(), **{argument: {"thinc": value}})


def test_an_unknown_nested_node() -> None:
    builder = StateGraph(State)
    builder.add_node("outer", chain(State, think, act).compile())
    builder.add_edge("__start__", "outer")
    with pytest.raises(SpeculationError, match=r"'outer\|thinc'.*'outer\|think'"):
        speculative(builder.compile(), speculators={"outer|thinc": lambda s: None})


def test_a_bare_name_that_two_nested_nodes_have() -> None:
    builder = StateGraph(State)
    builder.add_node("one", chain(State, think, act).compile())
    builder.add_node("two", chain(State, think, act).compile())
    builder.add_edge("__start__", "one")
    builder.add_edge("one", "two")
    with pytest.raises(SpeculationError, match=r"'think'.*'one\|think'.*'two\|think'"):
        speculative(builder.compile(), speculators={"think": lambda s: None}, effects={"*": "pure"})


@pytest.mark.parametrize("effect", ["harmless", "PURE", "", None, 3, "undeclared?"])
def test_an_unknown_effect(effect: Any) -> None:
    with pytest.raises(SpeculationError, match=r"effects\['act'\].*'pure'.*'read'.*'irreversible'"):
        speculative(graph(), effects={"act": effect})


def test_a_draft_with_other_nodes() -> None:
    draft = chain(State, think, act, names=["plan", "do"]).compile()
    with pytest.raises(SpeculationError, match=r"draft.*'do'.*'plan'"):
        speculative(graph(), draft=draft, effects={"*": "pure"})


def test_a_draft_that_is_not_compiled() -> None:
    with pytest.raises(SpeculationError, match=r"draft.*compile"):
        speculative(graph(), draft=chain(State, think, act), effects={"*": "pure"})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "speculator",
    [lambda: None, lambda a, b: None, lambda *, state: None],
    ids=["none", "two", "keyword"],
)
def test_a_speculator_with_the_wrong_signature(speculator: Any) -> None:
    with pytest.raises(SpeculationError, match=r"speculators\['think'\].*one argument"):
        speculative(graph(), speculators={"think": speculator}, effects={"*": "pure"})


@pytest.mark.parametrize("speculator", [3, "guess", {"x": 1}, None], ids=repr)
def test_a_speculator_that_cannot_be_called(speculator: Any) -> None:
    with pytest.raises(SpeculationError, match=r"speculators\['think'\].*not a callable"):
        speculative(graph(), speculators={"think": speculator}, effects={"*": "pure"})


def test_a_key_that_cannot_be_called() -> None:
    with pytest.raises(SpeculationError, match=r"keys\['act'\].*not callable"):
        speculative(graph(), keys={"act": "x"}, effects={"*": "pure"})  # type: ignore[dict-item]


def test_a_policy_that_is_none() -> None:
    with pytest.raises(SpeculationError, match=r"Policy\("):
        speculative(graph(), policy={"depth": 3})  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["breadth", "depth", "max_in_flight", "max_speculators"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True, None], ids=repr)
def test_a_budget_below_one(name: str, value: Any) -> None:
    with pytest.raises(SpeculationError, match=rf"Policy\({name}=.*at least 1.*mode=\"off\""):
        Policy(**{name: value})


@pytest.mark.parametrize("mode", ["On", "auto", "", None])
def test_an_unknown_mode(mode: Any) -> None:
    with pytest.raises(SpeculationError, match=r"mode.*on, observe, off"):
        Policy(mode=mode)


def test_a_hook_that_cannot_be_called() -> None:
    with pytest.raises(SpeculationError, match=r"hooks.*not callable"):
        Policy(hooks=("print",))  # type: ignore[arg-type]


@pytest.mark.parametrize("confidence", [-0.1, 1.1, float("nan")])
def test_a_confidence_that_is_no_probability(confidence: float) -> None:
    with pytest.raises(SpeculationError, match="between 0 and 1"):
        Guess({}, confidence)


@pytest.mark.parametrize("switch", ["sideways", {"mode": "sideways"}])
def test_an_unknown_mode_of_a_request(switch: Any) -> None:
    fast = speculative(graph(), speculators={"think": lambda s: {}}, effects={"act": "pure"})
    with pytest.raises(SpeculationError, match=r"speculation.*sideways.*on, observe, off"):
        fast.invoke({"x": 0}, {"metadata": {"speculation": switch}})


def test_a_refused_graph_is_left_as_it_was() -> None:
    plain = graph()
    nodes = dict(plain.nodes)
    with pytest.raises(SpeculationError):
        speculative(plain, speculators={"nobody": lambda s: None})
    assert dict(plain.nodes) == nodes
    assert plain.invoke({"x": 1}) == {"x": 1}
