"""Killed at random, recovered, and compared with the plain run: a short run of `benchmarks.crash`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")

from benchmarks._crash_world import Database, draw_plan, fold
from benchmarks.crash import Mismatch, Reference, check
from langgraph_speculative.journal import Phase


@pytest.mark.timeout(330)
@pytest.mark.parametrize(("database", "kills"), [("sqlite", 12), ("postgres", 12)])
def test_a_killed_run_leaves_what_the_plain_run_would_have_left(database: str, kills: int) -> None:
    if database == "postgres" and importlib.util.find_spec("pgserver") is None:
        pytest.skip("pgserver, which brings PostgreSQL, is not installed")
    # In a process of its own: this one has threads, and must not fork.
    command = [sys.executable, "-m", "benchmarks.crash", "--json", "--seed", "7", "--kills", str(kills)]
    done = subprocess.run(
        [*command, "--database", database], capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert (found["kills"], found["mismatches"]) == (kills, 0)
    # How far a run comes before the kill depends on the machine: on the slower database it may not come to a claim.
    early = ("claims",) if database == "sqlite" else ("claims", "left_begun", "left_done", "left_committing")
    assert sum(found.get(what, 0) for what in early) > 0


def test_plans_are_the_same_for_the_same_seed() -> None:
    assert draw_plan(1, 2, "sqlite") == draw_plan(1, 2, "sqlite") != draw_plan(2, 2, "sqlite")


# --- the judge --------------------------------------------------------------------------------------------------------

ROWS = (("0:move", "x", 1), ("1:book", "y", 2), ("2:send", "x", 3))
REFERENCE = Reference(tuple(zip(ROWS, (2, 4, 6), strict=True)), [], 1.0, (100, 20))
CLAIMED = [
    {"what": "begins", "id": "a", "name": "book", "arguments": {"call": "1:book", "item": "y", "amount": 2}},
    {"what": "begun", "id": "a"},
    {"what": "claim", "name": "book", "step": 4},
]
AWAY = {"what": "takes back", "id": "a"}
NONE = Database((), (), {}, ())


def world(made: int, early: int = 0) -> Database:
    return replace(NONE, made=ROWS[:made], early=ROWS[made : made + early], items=fold(list(ROWS[: made + early])))


@pytest.mark.parametrize(
    ("step", "notes", "left", "before", "after", "further"),
    [
        (2, [], {}, world(1), world(1), 0),
        (3, [], {}, world(2), world(2), 1),  # the run's own call of the step that was under way
        (3, CLAIMED, {}, world(1, 1), world(1, 1), 1),  # or one that it had taken over
        (3, CLAIMED, {"a": ("book", Phase.COMMITTING)}, world(1, 1), world(1, 1), 1),
        (3, CLAIMED, {"a": ("book", Phase.COMMITTING)}, world(1), world(1), 0),
        (3, CLAIMED, {"a": ("book", Phase.DONE)}, world(1), world(1), 0),
        (3, [*CLAIMED, AWAY], {}, world(1), world(1), 0),
    ],
)
def test_the_judge_lets_pass(step: int, notes: Any, left: Any, before: Any, after: Any, further: int) -> None:
    assert len(check(notes, left, step, before, after, REFERENCE)) == further


@pytest.mark.parametrize(
    ("step", "notes", "left", "before", "after", "match"),
    [
        (4, [], {}, world(1), world(1), "^calls"),  # something committed is missing
        (3, [], {}, world(1, 1), world(1, 1), "^calls"),  # something early is left
        (3, CLAIMED, {}, world(1, 1), world(1), "^calls"),  # what was taken over is gone
        (3, [], {}, world(2), world(1), "^calls"),  # what the run had made is gone
        (3, [{"what": "made", "call": "1:book"}], {}, world(1), world(1), "not there at the kill"),
        (2, CLAIMED, {}, world(1, 1), world(1, 1), "beyond step 3"),
        (3, CLAIMED[:2], {}, world(1, 1), world(1, 1), "nobody had claimed it"),
        (3, [], {}, world(1), replace(world(1), items=fold([])), "^items"),
        (3, [], {}, world(1), replace(world(1), holds=("1:hold",)), "held"),
        (3, [], {}, world(2), replace(world(1, 1)), "own calls were taken back"),
    ],
)
def test_the_judge_tells(step: int, notes: Any, left: Any, before: Any, after: Any, match: str) -> None:
    with pytest.raises(Mismatch, match=match):
        check(notes, left, step, before, after, REFERENCE)
