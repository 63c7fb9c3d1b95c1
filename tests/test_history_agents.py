"""History in a speculative run of an agent, and its benchmark on made-up data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from benchmarks import _prediction_history as rows
from benchmarks import prediction
from benchmarks._prediction_data import AIRLINE, RETAIL, folds, runs_of
from benchmarks._prediction_rows import Settings
from langgraph_speculative import Policy, speculative
from langgraph_speculative.speculators import History
from langgraph_speculative.testing import check_same_run
from tests.support import LIMIT
from tests.test_history import call, result, say, user


@tool
def orders(customer: str) -> str:
    """All orders."""
    return json.dumps([f"{customer}-1", f"{customer}-2"])


@tool
def order(id: str) -> dict[str, str]:
    """One order."""
    return {"id": id, "status": "sent"}


def agent() -> Any:
    """Looks all orders of a customer up, one after another, as a model would."""

    def model(state: MessagesState) -> dict[str, Any]:
        said = next(m for m in state["messages"] if isinstance(m, HumanMessage)).content
        customer = str(said).split()[-1]
        done = len(state["messages"]) // 2
        plan = [("orders", {"customer": customer}), *(("order", {"id": f"{customer}-{n}"}) for n in (1, 2))]
        if done >= len(plan):
            return {"messages": [AIMessage("All sent.", id=f"say{done}")]}
        name, args = plan[done]
        return {"messages": [AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"c{done}"}], id=f"m{done}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", model)
    builder.add_node("tools", ToolNode([orders, order]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile()


EFFECTS = {"model": "pure", "orders": "read", "order": "read"}


def asked(customer: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(f"Where are the parcels of {customer}", id="h")]}


async def test_committed_runs_teach_it_and_its_guesses_are_claimed() -> None:
    history = History()
    fast = speculative(agent(), speculators={"model": history}, effects=EFFECTS)
    for customer in ("k7", "x3", "b9", "m5", "q8", "t2") * 2:
        await fast.ainvoke(asked(customer))
    assert fast.drain(LIMIT) == 0
    (tenant,) = history._tenants.values()
    assert tenant.model.steps == 48
    guesses = history.guess(asked("z6"), {})
    assert guesses
    assert guesses[0].output["messages"][0].tool_calls[0]["args"] == {"customer": "z6"}


@pytest.mark.parametrize("sync", [False, True])
def test_a_run_with_its_guesses_is_the_same(sync: bool) -> None:
    runs = [
        [
            user(f"Where are the parcels of {c}"),
            call("orders", customer=c),
            result("orders", [f"{c}-1", f"{c}-2"], customer=c),
            call("order", id=f"{c}-1"),
            result("order", {"id": f"{c}-1"}, id=f"{c}-1"),
            call("order", id=f"{c}-2"),
            result("order", {"id": f"{c}-2"}, id=f"{c}-2"),
            say("All sent."),
        ]
        for c in ("k7", "x3", "b9", "m5", "q8", "t2", "u4", "e1")
    ]
    report = check_same_run(
        agent,
        asked("z6"),
        sync=sync,
        speculators={"model": History().fit(runs)},
        effects=EFFECTS,
        policy=Policy(breadth=2, depth=2),
    )
    assert not report.speculator_errors


def recorded(data: Path) -> None:
    """Ten tasks, two runs each, in both domains."""
    for domain, name in ((RETAIL, "get_order_details"), (AIRLINE, "get_reservation_details")):
        runs = []
        for task in range(20):
            n = f"#W{1000 + task // 2}"
            runs.append(
                {
                    "task_id": task // 2,
                    "messages": [
                        {"role": "system", "content": "Help."},
                        user(f"My order is {n}."),
                        call(name, id=n),
                        result(name, {"id": n, "next": f"{n}9"}, id=n),
                        say("It is sent. Anything else?"),
                        user("Is there more?"),
                        call(name, id=f"{n}9"),
                        result(name, {"id": f"{n}9"}, id=f"{n}9"),
                        say("Sent."),
                    ],
                }
            )
        (data / domain.file).write_text(json.dumps(runs))


def test_the_benchmark_counts_what_is_right(tmp_path: Path) -> None:
    recorded(tmp_path)
    settings = Settings(tmp_path, seeds=(0,))
    found = rows.next_calls(RETAIL, "retail", settings)
    assert found["retail_top3"].value > 0.9
    assert set(found) == {"retail_top1", "retail_top3", "admission_waste"}
    assert rows.calibration(settings)["calibration"].value < 0.3
    # The first message of a run says what is to be looked up: nobody knows it before.
    assert rows.between_turns(settings)["between_turns"].value == pytest.approx(0.5)


def test_tasks_that_are_guessed_were_not_learned(tmp_path: Path) -> None:
    recorded(tmp_path)
    held = []
    for train, held_out in folds(runs_of(tmp_path, RETAIL), seed=1):
        assert not {r.task for r in train} & {r.task for r in held_out}
        held += [r.task for r in held_out]
    assert sorted(held) == sorted([*range(10)] * 2)


def test_absent_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prediction.main(["--data", str(tmp_path), "--json", "--only", "retail_top1,history_ms"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {}
    assert "skipped retail_top1" in said.err
    assert RETAIL.file in said.err


def test_the_printed_row_has_its_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path)
    prediction.main(["--data", str(tmp_path), "--json", "--quick", "--only", "airline_top1"])
    (row,) = json.loads(capsys.readouterr().out).items()
    assert row[0] == "airline_top1"
    assert (row[1]["bar"], row[1]["better"]) == (0.6, "higher")
