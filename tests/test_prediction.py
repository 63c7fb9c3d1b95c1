"""The prediction benchmark: what is held out, what counts as predicted, and what it does without data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import prediction
from benchmarks._prediction_data import RETAIL, Run, folds

ROWS = "retail_top1,retail_top3"


def conversation(number: int) -> list[dict[str, Any]]:
    """A customer names an order, which is looked up, and then its customer, whom the result names."""

    def asks(name: str, args: dict[str, Any], id: str) -> dict[str, Any]:
        return {"role": "assistant", "content": None, "tool_calls": [{"name": name, "args": args, "id": id}]}

    def says(content: str, id: str) -> dict[str, Any]:
        return {"role": "tool", "name": "", "content": content, "tool_call_id": id}

    order, user = f"#W{1000 + number}", f"user_{2000 + number}"
    return [
        {"role": "user", "content": f"Where is {order} please?"},
        asks("get_order_details", {"order_id": order}, "a"),
        says(json.dumps({"order_id": order, "user_id": user}), "a"),
        asks("get_user_details", {"user_id": user}, "b"),
        says(json.dumps({"user_id": user, "zip": "1"}), "b"),
        {"role": "assistant", "content": "It is on its way."},
    ]


def test_calls_whose_arguments_were_seen_are_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [{"task_id": n // 2, "messages": conversation(n)} for n in range(16)]
    (tmp_path / RETAIL.file).write_text(json.dumps(runs), "utf-8")
    assert prediction.main(["--data", str(tmp_path), "--quick", "--json", "--only", ROWS]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: row["value"] for name, row in found.items()} == {"retail_top1": 1.0, "retail_top3": 1.0}


def test_all_runs_of_a_task_are_held_out_together() -> None:
    runs = tuple(Run(n // 3, []) for n in range(24))
    held: list[int] = []
    for learned, guessed in folds(runs, 1):
        assert not {r.task for r in learned} & {r.task for r in guessed}
        held += [r.task for r in guessed]
    assert sorted(held) == sorted(r.task for r in runs)


def test_rows_without_data_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prediction.main(["--data", str(tmp_path), "--json", "--only", ROWS]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out) == {}
    assert f"{tmp_path / RETAIL.file} is absent" in told.err


def test_a_row_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        prediction.main(["--data", str(tmp_path), "--only", "nonsense"])
    assert "no such row: nonsense" in capsys.readouterr().err
