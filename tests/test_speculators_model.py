"""`Model`: what a chat model is asked about a node, what of its answers is used, and what that costs."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import StructuredTool, tool
from langgraph.graph import MessagesState
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

from langgraph_speculative import Policy, SpeculationError, speculative
from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative.effects import Effect
from langgraph_speculative.speculators import Model
from langgraph_speculative.speculators._questions import answers_in, as_written
from tests.support import Probe, ScriptedModel, Tally, World, call, chain, says, turns

CONFIG: Any = {"configurable": {"model": "the run's own"}, "metadata": {"k": 1}}
ASK = {"messages": [HumanMessage("order 7?", id="ask")]}


@tool
def order(number: int, verbose: bool = False) -> str:
    """Look up an order."""
    return f"order {number}"


class TextModel(ScriptedModel):
    """A small local model: no tools, no structured output."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


class BrokenModel(ScriptedModel):
    """It claims to have structured output, and its endpoint does not."""

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
        def refuses(messages: Any) -> AIMessage:
            raise ConnectionError("400: no tools here")

        return ScriptedModel(script=refuses)


def answering(answers: list[dict[str, Any]], how: str, seen: list[Any] | None = None) -> ScriptedModel:
    """A model with these answers, in one of the ways in which models give them."""
    text = json.dumps({"guesses": answers})

    def structured(messages: Any) -> AIMessage:
        if seen is not None:
            seen.append(messages)
        names = {"calls": "NextCalls", "results": "NextResults", "text": "NextWords"}
        return says("", call(next((n for k, n in names.items() if k in answers[0])), guesses=answers))

    def spoken(messages: Any) -> AIMessage:
        if seen is not None:
            seen.append(messages)
        return says(f"Let me [think]. {{So}}:\n```json\n{text}\n```\nThat is it.")

    if how == "structured":
        return ScriptedModel(script=structured, label="small")
    kind = {"text": TextModel, "broken": BrokenModel, "ignores": ScriptedModel}[how]
    return kind(script=spoken, label="small")


def ask(world: World, model: Model, value: Any) -> Any:
    if world.name == "sync":
        return model.guess(value, CONFIG)
    return asyncio.run(model.aguess(value, CONFIG))


def calls(*named: tuple[str, Any], confidence: Any = 0.5) -> dict[str, Any]:
    return {"calls": [{"name": n, "arguments": json.dumps(a)} for n, a in named], "confidence": confidence}


@pytest.mark.parametrize("how", ["structured", "text", "broken", "ignores"])
def test_the_next_calls(world: World, how: str) -> None:
    seen: list[Any] = []
    answers = [
        calls(("order", {"number": 7}), confidence=0.4),
        # In another order and form than the tool's, and in percent.
        calls(("order", {"verbose": "true", "number": "8"}), confidence=60),
        calls(("order", {"number": 7}), confidence=0.1),
        calls(("order", {"number": "seven"})),
        calls(("order", {})),
        calls(("order", {"number": 1, "by": "mail"})),
        calls(("cancel", {"number": 7})),
        calls(),
    ]
    model = Model(answering(answers, how, seen), tools=[order], about="A shop.")
    guesses = ask(world, model, ASK)
    assert [g.confidence for g in guesses] == [0.6, 0.4]
    made = [c for g in guesses for c in g.output["messages"][0].tool_calls]
    assert [(c["name"], c["args"]) for c in made] == [
        ("order", {"number": 8, "verbose": True}),
        ("order", {"number": 7}),
    ]
    assert list(made[0]["args"]) == ["number", "verbose"]
    assert len({c["id"] for c in made}) == 2
    assert [dict(g.usage) for g in guesses] == [{"small": 5}, {}]
    [(system, human)] = seen
    assert "A shop." in system.content
    assert all(part in human.content for part in ("PERSON: order 7?", "order: Look up an order.", '"integer"'))


def test_what_has_failed_once_is_not_tried_again(world: World) -> None:
    tried: list[Any] = []

    class Counting(BrokenModel):
        def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
            tried.append(schema)
            return super().with_structured_output(schema, **kwargs)

    text = json.dumps(calls(("order", {"number": 7})))
    model = Model(Counting(script=lambda m: says(text)), tools=[order])
    for _ in range(2):
        assert len(ask(world, model, ASK)) == 1
    assert len(tried) == 1


def test_an_error_of_a_model_that_has_answered_before_is_an_error(world: World) -> None:
    """It is not asked again in other words: a rate limit is not a lack of structured output."""
    asked: list[int] = []

    def script(messages: Any) -> AIMessage:
        asked.append(1)
        if len(asked) > 1:
            raise ConnectionError("429")
        return says("", call("NextCalls", guesses=[calls(("order", {"number": 7}))]))

    model = Model(ScriptedModel(script=script), tools=[order])
    assert len(ask(world, model, ASK)) == 1
    with pytest.raises(ConnectionError, match="429"):
        ask(world, model, ASK)
    assert len(asked) == 2


def test_tokens_that_led_to_no_guess_are_told(world: World) -> None:
    [guess] = ask(world, Model(answering([calls()], "text"), tools=[order]), ASK)
    assert (guess.is_empty, dict(guess.usage)) == (True, {"small": 5})


def test_the_results_of_calls(world: World) -> None:
    seen: list[Any] = []
    answers = [
        {"results": ["order 7", {"open": True}], "confidence": 0.7},
        {"results": ["one too few"], "confidence": 0.9},
    ]
    asked = says("", call("order", number=7), call("state", of=7))
    for value, messages_of in (
        ({"messages": [*ASK["messages"], asked]}, lambda out: out["messages"]),
        ([*ASK["messages"], asked], lambda out: out),
    ):
        [guess] = ask(world, Model(answering(answers, "structured", seen)), value)
        one, two = messages_of(guess.output)
        assert [(m.content, m.name) for m in (one, two)] == [("order 7", "order"), ('{"open": true}', "state")]
        assert [m.tool_call_id for m in (one, two)] == [c["id"] for c in asked.tool_calls]
    assert '1. order({"number": 7})' in seen[0][1].content


def test_the_results_of_one_call_sent_by_an_agent(world: World) -> None:
    """`create_agent` sends each call by itself, with the state beside it."""
    value = {"__type": "tool_call_with_context", "tool_call": call("order", number=7), "state": ASK}
    [guess] = ask(world, Model(answering([{"results": ["order 7"], "confidence": 1}], "text")), value)
    assert guess.output["messages"][0].tool_call_id == value["tool_call"]["id"]


def test_the_next_words_of_the_person(world: World) -> None:
    value = {"messages": [*ASK["messages"], says("It is on its way. Anything else?")]}
    answers = [{"text": "No, thanks.", "confidence": 0.3}, {"text": " ", "confidence": 0.6}]
    start = NodeInfo("__start__", Effect.PURE, "", "", name="__start__")
    for model in (Model(answering(answers, "structured")), Model(answering(answers, "text")).bind(start)):
        [guess] = ask(world, model, value)
        [message] = guess.output["messages"]
        assert (type(message), message.content) == (HumanMessage, "No, thanks.")


def test_a_long_conversation_is_cut() -> None:
    seen: list[Any] = []
    history = [SystemMessage("You sell."), *[HumanMessage(f"word {n}") for n in range(50)], HumanMessage("x" * 9000)]
    Model(answering([calls()], "text", seen), tools=[order], window=3).guess({"messages": history}, CONFIG)
    text = seen[0][1].content
    assert "SYSTEM: You sell." in text
    assert "word 48" in text
    assert "word 47" not in text
    assert 4000 < len(text) < 6000


def test_a_run_s_configurable_is_not_for_it(world: World) -> None:
    """A key such as "model" would put the graph's model into the place of a configurable one."""
    seen: list[Any] = []

    class Noting(TextModel):
        def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
            seen.append(config)
            return says("")

        async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
            return self.invoke(input, config)

    assert ask(world, Model(Noting(script=None), tools=[order]), ASK) is None
    assert seen == [{"metadata": {"k": 1}}]


class Where(BaseModel):
    city: str
    unit: Literal["C", "F"] = "C"


def weather(where: Where, days: int = 1) -> str:
    """The weather."""
    return ""


@pytest.mark.parametrize(
    ("of", "given", "written"),
    [
        ("pydantic", {"days": 2, "where": {"city": "Rome"}}, {"where": {"city": "Rome"}, "days": 2}),
        ("pydantic", {"where": {"city": "Rome", "unit": "K"}}, None),
        ("json", {"days": 2, "city": "Rome"}, {"city": "Rome", "days": 2}),
        ("json", {"days": 2}, None),
        ("json", {"city": "Rome", "on": 1}, None),
    ],
)
def test_arguments_as_a_model_writes_them(of: str, given: Any, written: Any) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    }
    made = {
        "pydantic": StructuredTool.from_function(weather),
        "json": StructuredTool(name="weather", description="", args_schema=schema, func=lambda **_: ""),
    }[of]
    found = as_written(made, given)
    assert found == written
    assert list(found or ()) == list(written or ())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"guesses": [{"text": "a"}]}', [{"text": "a"}]),
        ('Sure {{ [1, 2] {"text": "a"} and more', [{"text": "a"}]),
        ('[{"text": "a"}, 3, {"text": "b"}]', [{"text": "a"}, {"text": "b"}]),
        ("no JSON {at all]", []),
        ('{"guesses": "none"}', []),
    ],
)
def test_answers_somewhere_in_text(text: str, found: list[Any]) -> None:
    assert list(answers_in(AIMessage(text))) == list(answers_in(text)) == found


# --- in a graph -----------------------------------------------------------------------------------------------------


def counting(tally: Tally) -> Any:
    @tool
    def order(number: int) -> str:
        """Look up an order."""
        tally.add("order")
        return f"order {number}"

    return order


def test_an_agent_s_calls_are_made_early(world: World, probe: Probe) -> None:
    """It knows the tools from the graph, and that the answer in words is none of its business."""
    tally = probe.tally

    async def before(messages: Any) -> None:
        if len(messages) == 1:
            await tally.reached("order").wait()

    script = turns(lambda: says("I look.", call("order", number=7)), lambda: says("done"))
    agent = create_agent(ScriptedModel(script=script, before=before), [counting(tally)])
    small = answering([calls(("order", {"number": 7}), confidence=0.9)], "text")
    fast = speculative(agent, speculators={"model": Model(small)}, effects={"order": "read"})
    out = world.invoke(fast, ASK)
    assert [m.content for m in out["messages"]] == ["order 7?", "I look.", "order 7", "done"]
    report = fast.report()
    assert report.claimed >= 1
    assert report.speculator_errors == 0
    assert report.usage["small"].draft >= 5


def test_a_tool_s_result_is_gone_on_from(world: World, probe: Probe) -> None:
    tally = probe.tally

    @tool
    def slow(number: int) -> str:
        """Look up an order."""
        tally.reached("answer", 1).block()
        return f"order {number}"

    @world.node
    async def answer(state: MessagesState) -> Any:
        tally.add("answer")
        return {"messages": [AIMessage(f"It is {state['messages'][-1].content}.")]}

    graph = chain(MessagesState, ToolNode([slow]), answer, names=["tools", "answer"]).compile()
    small = answering([{"results": ["order 7"], "confidence": 0.9}], "structured")
    fast = speculative(graph, speculators={"tools": Model(small)}, effects={"slow": "irreversible", "answer": "pure"})
    out = world.invoke(fast, {"messages": [says("", call("slow", number=7))]})
    assert [m.content for m in out["messages"]] == ["", "order 7", "It is order 7."]
    assert (tally["answer"], fast.report().claimed, fast.report().speculator_errors) == (1, 1, 0)


def test_what_is_refused(probe: Probe) -> None:
    inner = create_agent(ScriptedModel(script=None), [counting(probe.tally)])
    graph = chain(MessagesState, inner, names=["inner"]).compile()
    small = answering([calls()], "text")
    with pytest.raises(SpeculationError, match=r"'inner', a graph: .*'inner\|model'"):
        speculative(graph, speculators={"inner": Model(small)}, effects={"*": "pure"}, policy=Policy())
    for options in ({"k": 0}, {"window": True}):
        with pytest.raises(SpeculationError, match="must be an integer of at least 1"):
            Model(small, **options)  # type: ignore[arg-type]
    with pytest.raises(SpeculationError, match=r"Model\(str\): pass a chat model"):
        Model("gpt")  # type: ignore[arg-type]


def test_nothing_to_go_by(world: World) -> None:
    model = Model(answering([calls()], "text"))
    assert ask(world, model, ASK) is None  # no tools
    assert ask(world, Model(answering([calls()], "text"), tools=[order]), {"messages": []}) is None
    results = Model(answering([calls()], "text")).bind(NodeInfo("t", Effect.PURE, "", "", name="t", kind="tools"))
    assert ask(world, results, {"messages": [ToolMessage("x", tool_call_id="1")]}) is None
