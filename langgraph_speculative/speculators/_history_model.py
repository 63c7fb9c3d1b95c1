"""What History has learned for one tenant: weights and counts, and how a step changes them."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from langgraph_speculative.speculators._history_calibration import Calibration
from langgraph_speculative.speculators._history_events import Event
from langgraph_speculative.speculators._history_index import Index, call_key
from langgraph_speculative.speculators._history_options import NO_CALL, Decision, Option, context_of, options_of
from langgraph_speculative.speculators._history_sources import CONSTANT, Template, Way, templates_of

RATE = 0.5
DECAY = 0.0005
SOFT = 0.3
WAYS = 8
OPTIONS = (16, 12, 10, 8, 5, 4)
"""Calls looked at, of the likeliest tool, of the second, and so on."""
SMALL = 4e-3
NOTABLE = 0.03
NOTHING = 0.02
TIDY = 256
REPLAYED = 2
REMEMBERED = 400
REPEATED = 0.2
MAX_SEEN = 20_000
GROWN = 5_000
THINNEST = 8
MAX_TOOLS = 200
MAX_CALLS = 8
MAX_WAYS = 64
MAX_SUMS = 64
RARE = 0.05

Cell = list[float]
"""A weight, the sum of its squared gradients, and how often this process has moved it."""


class Model:
    """Weights of features, the templates of calls, and the calibration of confidences.

    Each count is two: of this process, and of all others (see `_history_shares`).

    Args:
        max_weights: How many weights are kept; those that matter least are dropped.
        half_life: Steps after which what was learned counts half.
    """

    def __init__(self, max_weights: int, half_life: int) -> None:
        self.max_weights = max_weights
        self.half_life = half_life
        self.context: dict[str, dict[str, Cell]] = {}
        self.features: dict[str, dict[str, Cell]] = {}
        self.templates: dict[str, dict[Template, list[float]]] = {}
        self.known: dict[str, set[str]] = {}
        self.calibration = Calibration()
        self.steps = 0
        self.together = 0.0
        self._ways: dict[str, list[Way]] = {}
        self._sums: dict[tuple[str, ...], defaultdict[str, float]] = {}
        self._memory: list[tuple[Decision, int]] = []
        self._passed = 0
        self._is_new = True
        self._seen: set[int] = set()
        self._once: set[str] = set()
        self._random = random.Random(0)

    # Guessing

    def decision(self, index: Index, expanded: Collection[str] | None, called: str = NO_CALL) -> Decision:
        """What may come next, and what speaks for it; the calls of the tool that was called are among it."""
        context, said, facts = context_of(index)
        ways = dict(self._ways)
        base = defaultdict(float, self._of_words(said))
        self._add(base, facts, SOFT)
        self._add(base, context, 1.0)
        # What the context alone makes unlikely is not worth looking for arguments.
        likely = sorted((t for t in ways if expanded is None or t in expanded), key=lambda t: -base.get(t, 0.0))
        most = {**dict(zip(likely, OPTIONS, strict=False)), **({called: OPTIONS[0]} if called else {})}
        options = options_of(index, ways, self.known, most)
        return Decision(context, said + facts, options, base)

    def _of_words(self, words: list[str]) -> dict[str, float]:
        """What words say for each tool; the same at each step of a turn, until something is learned."""
        sums, key = self._sums, tuple(words)
        if (found := sums.get(key)) is None:
            if len(sums) >= MAX_SUMS:
                sums.clear()
            found = sums[key] = defaultdict(float)
            self._add(found, words, SOFT)
        return found

    def _add(self, base: defaultdict[str, float], names: list[str], scale: float) -> None:
        """Add what these features say for each tool."""
        for name in names:
            if (row := self.context.get(name)) is not None:
                for tool, cell in row.copy().items():  # it may grow meanwhile, in another thread
                    base[tool] += scale * cell[0]

    def probabilities(self, decision: Decision) -> list[float]:
        """The probability of each option, before calibration."""
        base = decision.base
        if base is None:
            base = defaultdict(float)
            self._add(base, decision.words, SOFT)
            self._add(base, decision.context, 1.0)
        scores = []
        for option in decision.options:
            score = base.get(option.tool, 0.0)
            if (own := self.features.get(option.tool)) is not None:
                for name in option.features:
                    if (found := own.get(name)) is not None:
                        score += found[0]
            scores.append(score)
        highest = max(scores)
        raised = [math.exp(s - highest) for s in scores]
        total = sum(raised)
        return [r / total for r in raised]

    def guesses(self, index: Index, k: int, expanded: Collection[str] | None) -> list[tuple[Option, float]]:
        """The k likeliest calls with their probabilities."""
        decision = self.decision(index, expanded)
        ranked = _ranked(decision, self.probabilities(decision), k)
        return [(decision.options[i], self.calibration.calibrated(p)) for i, p in ranked]

    def messages(self, index: Index, k: int, expanded: Collection[str] | None) -> list[tuple[list[Option], float]]:
        """The k likeliest messages: of one call each, or of several where models were seen to write such."""
        found = [([option], p) for option, p in self.guesses(index, k, expanded)]
        if self.together:
            found = [self._extended(index, option, p, expanded) for (option,), p in found]
        return found

    def _extended(
        self, index: Index, first: Option, probability: float, expanded: Collection[str] | None
    ) -> tuple[list[Option], float]:
        calls, length = [first], len(index.events)
        try:
            while len(calls) < MAX_CALLS:
                index.add(Event("call", calls[-1].args, calls[-1].tool))
                decision = self.decision(index, expanded)
                probabilities = self.probabilities(decision)
                best = max(range(len(probabilities)), key=probabilities.__getitem__)
                probability *= probabilities[best]
                option = decision.options[best]
                if option.args is None:
                    break
                calls.append(option)
        finally:
            index.truncate(length)
        return calls, probability

    # Learning

    def is_due(self) -> bool:
        """Whether to learn from the next message: the more is known, the fewer are, at last one in `THINNEST`."""
        self._passed += 1
        if self._passed < min(THINNEST, 1 + self.steps // GROWN):
            return False
        self._passed = 0
        return True

    def learn_message(self, index: Index, events: list[Event], expanded: Collection[str] | None) -> None:
        """Learn what a model has written, and go on in the conversation by it."""
        calls = sum(event.kind == "call" for event in events)
        for event in events:
            if event.kind == "call":
                self.learn(index, event, expanded)
            elif event.kind == "say" and not calls:
                self.learn(index, None, expanded)
            index.add(event)
        if calls > 1:
            self.together += 1.0
        if calls and self.together:
            self.learn(index, None, expanded)

    def learn(self, index: Index, call: Event | None, expanded: Collection[str] | None) -> None:
        """Learn what came next: a call, or none."""
        if call is not None:
            self._notice(call)
            self._learn_templates(index, call)
        wanted = call is not None and (expanded is None or call.name in expanded)
        decision = self.decision(index, expanded, call.name if call is not None and wanted else NO_CALL)
        target = _target(decision, call)
        probabilities = self.probabilities(decision)
        for i, p in _ranked(decision, probabilities, 3):
            self.calibration.learn(p, i == target, 1.0 if self._is_new else REPEATED)
        self._move(decision, target, probabilities)
        decision.base = None
        if len(self._memory) < REMEMBERED:
            self._memory.append((decision, target))
        else:
            self._memory[self._random.randrange(REMEMBERED)] = (decision, target)
        # A young model sees what it remembers again: few runs are enough. A grown one needs that no more.
        for _ in range(REPLAYED if self.steps < 4 * REMEMBERED else 0):
            old, was = self._memory[self._random.randrange(len(self._memory))]
            self._move(old, was, self.probabilities(old))
        self.steps += 1
        if self.steps % TIDY == 0:
            self._tidy()

    def _notice(self, call: Event) -> None:
        """Find out whether the run does what an earlier one did: that is easier to guess than what is to come."""
        key = hash(call_key(call.name, call.value))
        self._is_new = key not in self._seen
        if len(self._seen) >= MAX_SEEN:
            self._seen.clear()
        self._seen.add(key)

    def _learn_templates(self, index: Index, call: Event) -> None:
        counts = self.templates.get(call.name)
        if counts is None:
            if len(self.templates) >= MAX_TOOLS:
                return
            counts = self.templates[call.name] = {}
        for template in templates_of(index, call.value):
            counts.setdefault(template, [0.0, 0.0])[0] += 1.0
            _know(self.known, call.name, template)
        if len(counts) > 2 * MAX_WAYS:
            _drop_rare(counts)
        self._ways[call.name] = self._found_ways(call.name, counts)

    def _found_ways(self, tool: str, counts: dict[Template, list[float]]) -> list[Way]:
        made = {way.template: way for way in self._ways.get(tool, ())}
        return [made.get(template) or Way(template) for template in _frequent(counts, WAYS)]

    def refresh(self) -> None:
        """Find again what follows from the templates."""
        # New ones at once: a guess under way in another thread goes on with the old.
        ways: dict[str, list[Way]] = {}
        known: dict[str, set[str]] = {}
        for tool, counts in self.templates.items():
            _drop_rare(counts)
            ways[tool] = self._found_ways(tool, counts)
            for template in counts:
                _know(known, tool, template)
        self._ways, self.known = ways, known

    def _move(self, decision: Decision, target: int, probabilities: list[float]) -> None:
        per_tool: dict[str, float] = {}
        for number, option in enumerate(decision.options):
            error = (number == target) - probabilities[number]
            if abs(error) < SMALL:
                continue
            per_tool[option.tool] = per_tool.get(option.tool, 0.0) + error
            own = self.features.setdefault(option.tool, {})
            for name in option.features:
                _moved(own, name, error)
        wanted = [(tool, error) for tool, error in per_tool.items() if abs(error) >= SMALL]
        for name in decision.context:
            row = self.context.setdefault(name, {})
            for tool, error in wanted:
                _moved(row, tool, error)
        for name in decision.words:
            known = self.context.get(name)
            if known is None:
                # A word counts from the second time on: most never come again.
                if name not in self._once:
                    self._once.add(name)
                    continue
                known = self.context[name] = {}
            for tool, error in wanted:
                if abs(error) >= NOTABLE:
                    _moved(known, tool, SOFT * error)
        self._sums = {}

    def _tidy(self) -> None:
        keep = 0.5 ** (TIDY / self.half_life)
        for counts in self.templates.values():
            for count in counts.values():
                count[0] *= keep
        self.together *= keep
        self.refresh()
        self.calibration.forget(keep)
        self.limit()

    def limit(self) -> None:
        """Drop the weights that matter least, if there are too many."""
        cells = list(self.cells())
        for row, name, cell in cells:
            if abs(cell[0]) < NOTHING:
                del row[name]
        cells = [c for c in cells if abs(c[2][0]) >= NOTHING]
        if len(cells) > self.max_weights:
            cells.sort(key=lambda c: abs(c[2][0]) * c[2][1])
            for row, name, _ in cells[: len(cells) - self.max_weights * 9 // 10]:
                del row[name]
            for table in (self.context, self.features):
                for name in [n for n, row in table.items() if not row]:
                    del table[name]
        self._sums = {}

    def cells(self) -> Iterator[tuple[dict[str, Cell], str, Cell]]:
        """All weights, each with the row it stands in and its name there."""
        for table in (self.context, self.features):
            for row in list(table.values()):
                for name, cell in list(row.items()):
                    yield row, name, cell


def _moved(row: dict[str, Cell], name: str, error: float) -> None:
    """One step of AdaGrad."""
    cell = row.get(name)
    if cell is None:
        row[name] = [RATE * error / math.sqrt(error * error + 1.0), error * error, 1.0]
        return
    cell[1] += error * error
    cell[0] = cell[0] * (1.0 - DECAY) + RATE * error / math.sqrt(cell[1] + 1.0)
    cell[2] += 1.0


def _frequent(counts: dict[Template, list[float]], most: int) -> list[Template]:
    return sorted(counts, key=lambda t: -sum(counts[t]))[:most]


def _know(known: dict[str, set[str]], tool: str, template: Template) -> None:
    for argument, source, _ in template:
        if source != CONSTANT:
            known.setdefault(f"{tool}|{argument}", set()).add(source)


def _drop_rare(counts: dict[Template, list[float]]) -> None:
    kept = {t for t in _frequent(counts, MAX_WAYS) if sum(counts[t]) >= RARE}
    for template in [t for t in counts if t not in kept]:
        del counts[template]


def _ranked(decision: Decision, probabilities: list[float], k: int) -> list[tuple[int, float]]:
    calls = ((i, probabilities[i]) for i, option in enumerate(decision.options) if option.args is not None)
    return sorted(calls, key=lambda c: -c[1])[:k]


def _target(decision: Decision, call: Event | None) -> int:
    if call is None:
        return 0
    fallback = 0
    for number, option in enumerate(decision.options):
        if option.tool == call.name:
            if option.args is None:
                fallback = number
            elif same(option.args, call.value):
                return number
    return fallback


def same(a: Any, b: Any) -> bool:
    """Whether arguments are equal, types included."""
    return bool(a == b) and json.dumps(a, sort_keys=True, default=repr) == json.dumps(b, sort_keys=True, default=repr)
