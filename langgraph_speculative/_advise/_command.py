"""``langgraph-speculative advise``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from langgraph_speculative._advise._figures import Prices, of_recordings, of_report
from langgraph_speculative._advise._recordings import read_recordings
from langgraph_speculative._advise._replay import Learned, Predictor, replay
from langgraph_speculative._advise._verdicts import Advice, advice, table
from langgraph_speculative.effects import Effect
from langgraph_speculative.speculators import History


def advise_on_report(
    report: Any, source: str, *, effects: Mapping[str, Effect], prices: Prices, value_per_second: float
) -> tuple[list[Advice], list[str]]:
    """Advice on every node of a report, and notes.

    Raises:
        CommandError: It is not a report with statistics of nodes.
    """
    figures, notes = of_report(report, source, effects, prices)
    return [advice(f, value_per_second) for f in figures], notes


def advise_on_runs(
    path: Path,
    *,
    effects: Mapping[str, Effect],
    prices: Prices,
    value_per_second: float,
    seconds: Mapping[str, float],
    breadth: int,
    folds: int,
    predictor: Callable[[], Predictor] | None = None,
) -> tuple[list[Advice], list[str]]:
    """Advice on every tool that recorded runs have called, and notes.

    Args:
        path: JSON or JSON lines.
        effects: Of the tools.
        prices: Of the tools' calls.
        value_per_second: USD that a saved second is worth.
        seconds: Of tools and of ``"model"``, where the file has no times.
        breadth: Guesses acted on before each model call.
        folds: Parts for the cross-validation.
        predictor: Makes what guesses the calls; ``None``: a `History` of all tools.

    Raises:
        CommandError: The file cannot be read, or has no tool calls.
    """
    recordings = read_recordings(path)
    replayed = replay(recordings, predictor or (lambda: Learned(History(k=breadth))), breadth=breadth, folds=folds)
    figures, notes = of_recordings(recordings, replayed, effects=effects, seconds=seconds, prices=prices)
    return [advice(f, value_per_second) for f in figures], notes


def printed(rows: list[Advice], notes: list[str], *, as_json: bool) -> str:
    """The answer of the command."""
    if as_json:
        return json.dumps({"rows": [row.to_dict() for row in rows], "notes": notes}, indent=2)
    return table(rows, notes)
