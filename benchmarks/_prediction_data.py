"""The recorded runs, and how they are split: all runs of a task in the same fold."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

Message = dict[str, Any]
Call = tuple[str, dict[str, Any]]
FOLDS = 4
ASIDE = frozenset({"think", "calculate"})
"""Tools that only the model itself gains by."""


class Absent(Exception):
    """The data of a row is not there."""


@dataclass(frozen=True)
class Run:
    task: int
    messages: list[Message]


@dataclass(frozen=True)
class Domain:
    """A set of recorded runs. `reads` names the tools that only read, as a user declares them in ``effects=``."""

    file: str
    reads: frozenset[str]


RETAIL = Domain(
    "retail_runs.json",
    frozenset(
        {
            "find_user_id_by_email",
            "find_user_id_by_name_zip",
            "get_order_details",
            "get_product_details",
            "get_user_details",
            "list_all_product_types",
        }
    ),
)
AIRLINE = Domain(
    "airline_runs.json",
    frozenset(
        {
            "get_reservation_details",
            "get_user_details",
            "list_all_airports",
            "search_direct_flight",
            "search_onestop_flight",
        }
    ),
)


@cache
def runs_of(data: Path, domain: Domain) -> tuple[Run, ...]:
    """The recorded runs.

    Raises:
        Absent: The file is not there.
    """
    path = data / domain.file
    if not path.is_file():
        raise Absent(f"{path} is absent")
    return tuple(Run(r["task_id"], r["messages"]) for r in json.loads(path.read_text(encoding="utf-8")))


def folds(runs: tuple[Run, ...], seed: int, count: int = FOLDS) -> Iterator[tuple[list[Run], list[Run]]]:
    """Pairs of runs to learn from, in random order, and runs of other tasks to guess."""
    draw = random.Random(seed)
    tasks = sorted({r.task for r in runs})
    draw.shuffle(tasks)
    for number in range(count):
        held_out = set(tasks[number::count])
        learned = [r for r in runs if r.task not in held_out]
        draw.shuffle(learned)
        yield learned, [r for r in runs if r.task in held_out]


def calls_in(message: Message) -> list[Call]:
    """The tool calls that a message makes."""
    return [(c["name"], c["args"]) for c in message.get("tool_calls") or []]


def steps_of(run: Run) -> Iterator[tuple[list[Message], list[Call]]]:
    """Each step of the model: the messages before it, and the calls it made."""
    for number, message in enumerate(run.messages):
        if number and message["role"] == "assistant":
            yield run.messages[:number], calls_in(message)


def equal(a: Call, b: Call) -> bool:
    """Whether two calls are the same: name and arguments, types included."""
    return a[0] == b[0] and json.dumps(a[1], sort_keys=True) == json.dumps(b[1], sort_keys=True)
