"""History: what it learns from runs, and what it guesses then."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.graph import START
from langgraph.types import Command

from langgraph_speculative import SpeculationError
from langgraph_speculative.speculators import Guess, History, unknown_message
from langgraph_speculative.speculators._history import EVERYBODY
from langgraph_speculative.speculators._history_conversations import Conversations
from langgraph_speculative.speculators._history_index import Index
from langgraph_speculative.speculators._history_model import MAX_WAYS, Model
from langgraph_speculative.speculators._history_shares import share_of
from langgraph_speculative.speculators._history_sources import Way, calls_of, templates_of
from langgraph_speculative.speculators._history_text import leaves_of

Messages = list[dict[str, Any]]


def call(name: str, **args: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [{"id": f"{name}{args}", "name": name, "args": args}]}


def result(name: str, value: Any, **args: Any) -> dict[str, Any]:
    return {"role": "tool", "content": json.dumps(value), "tool_call_id": f"{name}{args}"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def say(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def shop_run(number: int, first: str, last: str) -> Messages:
    """A person is looked up by name and zip code, then the orders one after another."""
    code, customer = f"{10000 + number}", f"{first.lower()}_{number}"
    orders = [f"#W{number}{n}" for n in (71, 38, 55)]
    messages = [
        user("Hello, where are my parcels?"),
        say("Your name and zip code, please?"),
        user(f"I am {first} {last}, and the zip code is {code}."),
        call("find", first=first, last=last, zip=code),
        result("find", customer, first=first, last=last, zip=code),
        call("customer", id=customer),
        result("customer", {"id": customer, "orders": orders}, id=customer),
    ]
    for order in orders:
        messages += [call("order", id=order), result("order", {"id": order, "status": "sent"}, id=order)]
    return [*messages, say("All are on their way.")]


NAMES = ["Ann Marlow", "Bob Kane", "Cy Young", "Dee Park", "Eve Stone", "Fay Wood", "Gus Lake", "Hal Moss"]
RUNS = [shop_run(n + 21, *name.split()) for n, name in enumerate(NAMES)]
NEW = shop_run(87, "Zoe", "Field")


def calls(guesses: list[Guess] | None) -> list[tuple[str, dict[str, Any]]]:
    return [(c["name"], c["args"]) for g in guesses or [] for c in g.output["messages"][0].tool_calls]


@pytest.fixture(scope="module")
def history() -> History:
    return History().fit(RUNS * 2)


@pytest.mark.parametrize("step", [3, 5, 7, 9, 11])
def test_arguments_come_from_where_they_came_from_before(history: History, step: int) -> None:
    (wanted,) = NEW[step]["tool_calls"]
    assert calls(history.guess(NEW[:step], {}))[0] == (wanted["name"], wanted["args"])


def test_confidence_is_low_where_the_model_answers(history: History) -> None:
    answered = history.guess(NEW[:13], {})
    assert answered
    assert answered[0].confidence < 0.3
    called = history.guess(NEW[:7], {})
    assert called
    assert called[0].confidence > 0.6


def test_guesses_are_outputs_of_the_node_likeliest_first(history: History) -> None:
    guesses = history.guess({"messages": NEW[:7]}, {})
    assert guesses
    assert len(guesses) <= history.k
    assert [g.confidence for g in guesses] == sorted((g.confidence for g in guesses), reverse=True)
    (message,) = guesses[0].output["messages"]
    assert isinstance(message, AIMessage)
    assert message.content == ""
    assert message.tool_calls[0]["id"]


def test_nothing_is_guessed_before_anything_was_learned() -> None:
    assert History().guess(NEW[:3], {}) is None


def test_only_the_calls_of_wanted_tools_are_guessed() -> None:
    history = History(tools=["order"]).fit(RUNS)
    assert {name for name, _ in calls(history.guess(NEW[:7], {}))} == {"order"}
    assert not calls(history.guess(NEW[:3], {}))


def langchain(messages: Messages) -> list[AnyMessage]:
    made: list[AnyMessage] = []
    for number, m in enumerate(messages):
        if m["role"] == "user":
            made.append(HumanMessage(m["content"], id=f"h{number}"))
        elif m["role"] == "tool":
            made.append(ToolMessage(m["content"], tool_call_id=m["tool_call_id"], id=f"t{number}"))
        else:
            made.append(AIMessage(m["content"] or "", tool_calls=m.get("tool_calls", []), id=f"a{number}"))
    return made


def openai(messages: Messages) -> Messages:
    return [
        {
            **m,
            "tool_calls": [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": json.dumps(c["args"])}}
                for c in m["tool_calls"]
            ],
        }
        if m.get("tool_calls")
        else m
        for m in messages
    ]


def model_of(history: History) -> Any:
    """What was learned, but for what differs by process."""
    (tenant,) = history._tenants.values()
    return share_of(tenant.model)


class State:
    def __init__(self, log: list[AnyMessage]) -> None:
        self.log = log


def test_learning_step_by_step_is_fitting() -> None:
    fitted, online = History(messages="log").fit(RUNS[:4]), History(messages="log")
    for run in map(langchain, RUNS[:4]):
        for number, message in enumerate(run):
            if isinstance(message, AIMessage):
                outputs: list[Any] = [message, {"log": [message]}, [Command(update={"log": [message]})]]
                online.learn(State(run[:number]), outputs[number % 3], {})
    assert model_of(online) == model_of(fitted)


def test_all_forms_of_recorded_runs_teach_the_same() -> None:
    plain = History().fit(RUNS[:2])
    for form in (openai, langchain):
        assert model_of(History().fit([{"messages": form(r)} for r in RUNS[:2]])) == model_of(plain)


def test_the_asynchronous_guess_is_the_same(history: History) -> None:
    guesses = asyncio.run(history.aguess(NEW[:5], {}))
    assert calls(guesses) == calls(history.guess(NEW[:5], {}))


def test_parallel_calls_are_guessed_together() -> None:
    def run(number: int) -> Messages:
        ids = [f"k{number}{n}" for n in range(2)]
        both = call("look", id=ids[0])
        both["tool_calls"] += call("look", id=ids[1])["tool_calls"]
        start = [user("Check both."), call("list"), result("list", ids)]
        return [*start, both, *(result("look", {"ok": True}, id=i) for i in ids), say("Fine.")]

    history = History().fit(run(n) for n in range(10, 30))
    new = run(77)
    guesses = history.guess(new[:3], {})
    assert guesses
    assert calls(guesses[:1]) == [("look", {"id": "k770"}), ("look", {"id": "k771"})]


def test_the_words_of_the_next_message_need_not_be_known() -> None:
    history = History(between_turns=True).fit(
        [
            [
                user("Hi."),
                call("orders"),
                result("orders", [f"#A{n}", f"#B{n}"]),
                say("Which of them?"),
                user(text),
                call("order", id=f"#A{n}"),
                result("order", {"ok": 1}, id=f"#A{n}"),
                say("Done."),
            ]
            for n, text in enumerate(["the first", "that one", "please the first", "number one", "first", "one"] * 2)
        ]
    )
    asked: list[Any] = [user("Hi."), call("orders"), result("orders", ["#A9", "#B9"]), say("Which of them?")]
    assert calls(history.guess([*asked, unknown_message()], {}))[0] == ("order", {"id": "#A9"})


class Node:
    def __init__(self, name: str) -> None:
        self.name = name


def test_for_start_the_person_is_guessed_to_speak(history: History) -> None:
    node: Any = Node(START)
    speaks = history.bind(node)
    guess = speaks.guess({"messages": NEW[:2]}, {})
    assert guess.output == {"messages": [unknown_message()]}
    assert speaks.guess({"messages": NEW[:3]}, {}) is None
    other: Any = Node("model")
    assert history.bind(other) is history


def test_an_index_goes_back_as_if_it_had_never_gone_on() -> None:
    conversations, fresh = Conversations(), Index()
    conversations.index_of("t", NEW)
    again = conversations.index_of("t", NEW[:6])
    from langgraph_speculative.speculators._history_events import mark_of

    fresh.follow(NEW[:6], [mark_of(m) for m in NEW[:6]])
    for index in (again, fresh):
        assert len(index.events) == 6
    assert again.symbols == fresh.symbols
    assert again.words == fresh.words
    for table in ("by_source", "by_value"):
        a, b = getattr(again, table), getattr(fresh, table)
        assert {k: [o.value for o in v] for k, v in a.items()} == {k: [o.value for o in v] for k, v in b.items()}


def test_a_step_indexes_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    conversations = Conversations()
    index = conversations.index_of("t", NEW[:9])
    added: list[Any] = []
    monkeypatch.setattr(Index, "add", lambda self, event: added.append(event))
    assert conversations.index_of("t", NEW[:11]) is index
    assert len(added) == 2


def indexed(*messages: dict[str, Any]) -> Index:
    return Conversations().index_of("t", list(messages))


def test_arguments_of_one_call_come_from_one_element() -> None:
    legs = [{"from": "AAA", "to": "BBB"}, {"from": "CCC", "to": "DDD"}]
    template = templates_of(indexed(call("trip"), result("trip", legs)), {"a": "CCC", "b": "DDD"})[0]
    new = indexed(call("trip"), result("trip", [{"from": "P", "to": "Q"}, {"from": "R", "to": "S"}]))
    assert [args for _, args, _ in calls_of(new, Way(template), 9)] == [{"a": "P", "b": "Q"}, {"a": "R", "b": "S"}]


def test_what_was_learned_shows_in_the_next_guess() -> None:
    history = History().fit(RUNS)
    history.guess(NEW[:5], {})
    history.fit([[*NEW[:5], call("block", id="zoe_87")]])
    after = history.guess(NEW[:5], {}) or []
    history._of(EVERYBODY).model._sums.clear()
    assert [g.confidence for g in after] == [g.confidence for g in history.guess(NEW[:5], {}) or []]


def test_constants_that_are_no_scalars_are_nobody_elses() -> None:
    way = Way(templates_of(indexed(user("Go.")), {"tags": ["a", "b"]})[0])
    [(_, first, _)] = calls_of(indexed(), way, 9)
    first["tags"].append("mine")
    assert [args for _, args, _ in calls_of(indexed(), way, 9)] == [{"tags": ["a", "b"]}]


def test_a_value_without_texts_has_those_around_it() -> None:
    [_, inner, keyed, _] = leaves_of({"name": "Blue Lamps", "sizes": {"n": 7}, "77": {"n": 8}})
    assert [leaf[1] for leaf in (inner, keyed)] == [7, "77"]
    for _, _, beside in (inner, keyed):
        assert beside is not None
        assert beside.words == [{"blue", "lamp"}]


@pytest.mark.parametrize(
    ("text", "other", "names"),
    [
        ("I am Ann Marlow.", "My name is Zoe Field.", ("first", "last")),
        ("I am Ann Mary Marlow.", "My name is Zoe Ida Field.", ("first", "middle", "surname")),
    ],
)
def test_arguments_with_the_same_source_take_different_places(text: str, other: str, names: tuple[str, ...]) -> None:
    said, wanted = (dict(zip(names, t[:-1].split()[-len(names) :], strict=True)) for t in (text, other))
    way = Way(templates_of(indexed(user(text)), said)[0])
    assert len({source for _, source, _ in way.template}) == 1
    made = [args for _, args, _ in calls_of(indexed(user(other)), way, 9)]
    assert wanted in made
    assert all(len(set(args.values())) == len(names) for args in made)


@pytest.mark.parametrize(
    ("text", "value", "other", "made"),
    [
        ("It is W1234.", "#W1234", "Take W9876!", "#W9876"),
        ("On May 3rd of 2031-01-01 maybe", "2031-05-03", "June 7, 2030", "2030-06-07"),
        ("mail ann@x.org", "ann", "mail bob@x.org", "bob"),
        ("give me 3", 3, "give me 7", 7),
        ("In PARIS please", "paris", "In MILAN please", "milan"),
    ],
)
def test_values_are_made_from_words(text: str, value: Any, other: str, made: Any) -> None:
    template = templates_of(indexed(user(text)), {"x": value})[0]
    assert {"x": made} in [args for _, args, _ in calls_of(indexed(user(other)), Way(template), 9)]


@pytest.mark.parametrize("name", ["k", "half_life", "max_weights", "max_tenants", "expiry"])
def test_a_bound_must_be_positive(name: str) -> None:
    arguments: dict[str, Any] = {name: 0}
    with pytest.raises(SpeculationError, match=name):
        History(**arguments)


def test_what_is_kept_is_bounded() -> None:
    history = History(max_weights=500)
    for number in range(15):
        ids = [f"{number}x{n}" for n in range(9)]
        run: Messages = [user(f"word{number} " * 3)]
        for n, value in enumerate(ids):
            run += [call("t", id=value, text=f"{number}/{n}"), result("t", {f"k{n}{number}": value}, id=value)]
        history.fit([run])
    (tenant,) = history._tenants.values()
    model: Model = tenant.model
    assert model.steps == 135
    model._tidy()
    assert sum(1 for _ in model.cells()) <= 500
    assert all(len(t) <= MAX_WAYS for t in model.templates.values())


def test_what_was_learned_long_ago_counts_less() -> None:
    old, new = Model(10_000, half_life=256), Model(10_000, half_life=10**9)
    index = indexed(user("Hi."))
    from langgraph_speculative.speculators._history_events import read

    (event,) = read(call("a", x=1))
    for model in (old, new):
        model.learn(index, event, None)
        for _ in range(511):
            model.learn(index, None, None)
    (count,) = (c[0] for c in old.templates["a"].values())
    assert count == pytest.approx(0.25)
    (count,) = (c[0] for c in new.templates["a"].values())
    assert count == pytest.approx(1.0)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)
ODD_CALL = st.fixed_dictionaries({"name": ODD, "args": ODD}) | st.fixed_dictionaries({"function": ODD}) | ODD
ODD_MESSAGE = (
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "tool", "system", "other"]),
            "content": ODD,
            "tool_calls": st.lists(ODD_CALL, max_size=3) | ODD,
            "name": ODD,
            "tool_call_id": ODD,
        }
    )
    | ODD
)
CALLING = st.builds(
    lambda name, args: call(name, **args),
    st.sampled_from("ab"),
    st.dictionaries(st.sampled_from("xy"), ODD, max_size=2),
)


@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(st.lists(st.lists(ODD_MESSAGE | CALLING, max_size=8), max_size=4), ODD)
def test_odd_messages_are_no_error(runs: list[Any], value: Any) -> None:
    history = History().fit(runs)
    history.learn(value, value, {})
    for run in [*runs, value]:
        for guess in history.guess(run, {}) or []:
            assert 0.0 <= guess.confidence <= 1.0


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(st.lists(st.lists(CALLING | st.sampled_from([user("one a1"), say("two"), result("a", [1, "a1"])]), max_size=8)))
def test_fitting_is_learning_one_by_one(runs: list[Messages]) -> None:
    at_once, one_by_one = History().fit(runs), History()
    for run in runs:
        one_by_one.fit([run])
    if at_once._tenants:
        assert json.dumps(model_of(at_once)) == json.dumps(model_of(one_by_one))
