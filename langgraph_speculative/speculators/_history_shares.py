"""What processes tell each other: each its own share, merged by whoever reads.

A share is what one process has learned itself. Shares are merged, whatever their order and however often: counts are
added, a weight is the mean of the shares' weights, each counting by how often its process has moved it (iterative
parameter mixing: McDonald, Hall and Mann, 2010). So no process overwrites what another has learned.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langgraph_speculative.speculators._history_model import Model
from langgraph_speculative.speculators._history_sources import CONSTANT, Template

Share = dict[str, Any]
Redact = Callable[[str], str | None]
_WORDS = ("w", "v", "q", "f")


def share_of(model: Model, redact: Redact | None = None, *, literals: bool = True) -> Share:
    """What a process has learned itself, as JSON.

    Args:
        redact: Called with each constant (as JSON text) that is in it; returns what is written in its place, or
            ``None`` for leaving it out.
        literals: Whether constants, and what is known of words, are in it at all.
    """
    templates: dict[str, list[Any]] = {}
    for tool, counts in list(model.templates.items()):
        kept = [
            [written, round(own, 3)]
            for template, (own, _) in list(counts.items())
            if own and (written := _redacted(template, redact, literals)) is not None
        ]
        if kept:
            templates[tool] = kept
    return {
        "context": _cells(model.context, (lambda n: n[0] not in _WORDS) if not literals else None),
        "features": _cells(model.features, None, (lambda n: not _is_literal(n)) if not literals else None),
        "templates": templates,
        "calibration": [[round(c, 4) for c in counts] for counts in model.calibration.own],
        "together": round(model.together, 3),
    }


def _is_literal(feature: str) -> bool:
    return CONSTANT in feature or "|b" in feature


def _redacted(template: Template, redact: Redact | None, literals: bool) -> list[list[str]] | None:
    written = []
    for argument, source, how in template:
        if source == CONSTANT:
            text = how if redact is None else redact(how)
            if not literals or text is None:
                return None
            how = text
        written.append([argument, source, how])
    return written


def _cells(
    table: dict[str, dict[str, list[float]]],
    row_wanted: Callable[[str], bool] | None,
    wanted: Callable[[str], bool] | None = None,
) -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for name, row in list(table.items()):
        if row_wanted is None or row_wanted(name):
            cells = {
                column: [round(w, 4), round(g, 4), n]
                for column, (w, g, n) in list(row.items())
                if n and (wanted is None or wanted(column))
            }
            if cells:
                found[name] = cells
    return found


def merge(shares: Iterable[tuple[Share, float]], *, held_by: int = 1) -> Share:
    """One share of several.

    Args:
        shares: Each with the weight that it has.
        held_by: How many of them must hold a pattern for it to be in the result.
    """
    context: dict[str, dict[str, list[float]]] = {}
    features: dict[str, dict[str, list[float]]] = {}
    templates: dict[str, dict[str, list[float]]] = {}
    calibration: list[list[float]] = []
    together = 0.0
    for share, weight in shares:
        for into, key in ((context, "context"), (features, "features")):
            for name, row in share[key].items():
                sums = into.setdefault(name, {})
                for column, (w, g, n) in row.items():
                    cell = sums.setdefault(column, [0.0, 0.0, 0.0, 0.0])
                    cell[0] += weight * n * w
                    cell[1] = max(cell[1], g)
                    cell[2] += weight * n
                    cell[3] += 1.0
        for tool, counted in share["templates"].items():
            counts = templates.setdefault(tool, {})
            for template, count in counted:
                cell = counts.setdefault(json.dumps(template), [0.0, 0.0])
                cell[0] += weight * count
                cell[1] += 1.0
        for number, counts_ in enumerate(share["calibration"]):
            if number == len(calibration):
                calibration.append([0.0, 0.0, 0.0])
            calibration[number] = [a + weight * b for a, b in zip(calibration[number], counts_, strict=True)]
        together += weight * share["together"]
    return {
        "context": _means(context, held_by),
        "features": _means(features, held_by),
        "templates": {
            tool: [[json.loads(t), count] for t, (count, held) in counts.items() if held >= held_by]
            for tool, counts in templates.items()
        },
        "calibration": calibration,
        "together": together,
    }


def _means(table: Mapping[str, Mapping[str, list[float]]], held_by: int) -> dict[str, dict[str, list[float]]]:
    return {
        name: {column: [sum_ / n, g, n] for column, (sum_, g, n, held) in row.items() if held >= held_by and n}
        for name, row in table.items()
    }


def adopt(model: Model, others: Share) -> None:
    """Take over what others have learned, in the place of what was taken over before."""
    for mine, theirs in ((model.context, others["context"]), (model.features, others["features"])):
        for name, row in theirs.items():
            own = mine.setdefault(name, {})
            for column, (w, g, n) in row.items():
                cell = own.get(column)
                if cell is None:
                    own[column] = [w, g, 0.0]
                else:
                    cell[0] = (cell[0] * cell[2] + w * n) / (cell[2] + n)
                    cell[1] = max(cell[1], g)
    for counts in model.templates.values():
        for count in counts.values():
            count[1] = 0.0
    for tool, counted in others["templates"].items():
        own_counts = model.templates.setdefault(tool, {})
        for template, count in counted:
            key: Template = tuple((str(a), str(s), str(h)) for a, s, h in template)
            own_counts.setdefault(key, [0.0, 0.0])[1] += count
    if len(others["calibration"]) == len(model.calibration.others):
        model.calibration.others = [list(counts) for counts in others["calibration"]]
        model.calibration.fit()
    model.together = max(model.together, others["together"])
    model.refresh()
    model.limit()
