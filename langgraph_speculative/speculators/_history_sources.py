"""Where the arguments of a call have come from, and which calls the same places give now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from itertools import islice, product
from typing import Any

from langgraph_speculative.speculators._history_index import Index, Occurrence, call_key
from langgraph_speculative.speculators._history_text import bucket, is_scalar, normal

CONSTANT = "="
MAX_SOURCES = 6
MAX_SOURCES_TOGETHER = 5
MAX_COMBINATIONS = 256
ELSEWHERE = 99
MAX_CONSTANT = 200
"""Characters of JSON. Longer ones are texts that the model wrote, which do not come again."""

Part = tuple[str, str, str]
"""An argument, the source of its value (`CONSTANT`: none), and how the value is made from what stands there."""
Template = tuple[Part, ...]


def templates_of(index: Index, args: dict[str, Any]) -> list[Template]:
    """The ways in which a call's arguments may have come about, those with the fewest different places first."""
    ways: list[list[tuple[int, Part]]] = []
    limit = MAX_SOURCES if len(args) == 1 else MAX_SOURCES_TOGETHER
    for argument in sorted(args):
        value = args[argument]
        found = _sources_of(index, argument, value, limit) if is_scalar(value) else []
        if not found:
            text = json.dumps(value, sort_keys=True, default=repr)
            if len(text) > MAX_CONSTANT:
                return []
            found = [(-1, (argument, CONSTANT, text))]
        ways.append(found)
    together = sorted(islice(product(*ways), MAX_COMBINATIONS), key=lambda way: len({event for event, _ in way}))
    return [tuple(part for _, part in way) for way in together[: MAX_SOURCES + 2 * (len(args) > 1)]]


def _sources_of(index: Index, argument: str, value: Any, limit: int) -> list[tuple[int, Part]]:
    """The places where a value stands, newest first; else those of the day before or after."""
    found: dict[Part, int] = {}
    for occurrence in reversed(index.by_value.get(normal(value), ())):
        if (how := _how(occurrence.value, value)) is not None:
            found.setdefault((argument, occurrence.source, how), occurrence.event)
            if len(found) >= limit:
                break
    if not found and (day := _day(value)) is not None:
        for how, back in (("day+", -1), ("day-", 1)):
            near = (day + timedelta(days=back)).isoformat()
            for occurrence in reversed(index.by_value.get(near, ())):
                found.setdefault((argument, occurrence.source, how), occurrence.event)
                if len(found) >= limit:
                    break
    return [(event, part) for part, event in found.items()]


def _how(seen: Any, value: Any) -> str | None:
    """How `value` is made from `seen`; ``None`` if it is not."""
    if type(seen) is type(value):
        if seen == value:
            return ""
        if isinstance(value, str):
            for how in ("lower", "title", "upper"):
                if getattr(seen, how)() == value:
                    return how
            more = len(value) - len(seen)
            if 0 < more <= 2 and value.endswith(seen) and not value[:more].isalnum():
                return "+" + value[:more]
            if -2 <= more < 0 and seen.endswith(value):
                return "bare"
        return None
    if str(seen) == str(value):
        return "text" if isinstance(value, str) else "int" if type(value) is int else None
    return None


def _made(how: str, seen: Any) -> Any:
    """The value that `how` makes from `seen`; ``None`` if it cannot."""
    if not how:
        return seen
    try:
        if how in ("lower", "title", "upper"):
            return getattr(seen, how)()
        if how[0] == "+":
            return how[1:] + seen
        if how == "bare":
            return seen.lstrip("#$@")
        if how == "text":
            return str(seen)
        if how == "int":
            return int(seen)
        return (date.fromisoformat(seen) + timedelta(days=1 if how == "day+" else -1)).isoformat()
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _day(value: Any) -> date | None:
    if not isinstance(value, str) or len(value) != 10:
        return None
    try:
        day = date.fromisoformat(value)
    except ValueError:
        return None
    return day if date.min < day < date.max else None


class Way:
    """A template and what follows from it alone, found once and used at every guess.

    Attributes:
        name: The same for templates with the same sources, whatever the arguments are called.
        moving: Numbers of the parts that are no constants.
        lead: Number of the part whose places are taken in turn; -1 if nothing moves.
    """

    __slots__ = ("_constants", "lead", "moving", "name", "template")

    def __init__(self, template: Template) -> None:
        self.template = template
        self.name = "&".join(source + (how if source != CONSTANT else str(bucket(how))) for _, source, how in template)
        self.moving = [n for n, (_, source, _) in enumerate(template) if source != CONSTANT]
        families = [_family(template[n][1]) for n in self.moving]
        self.lead = max(self.moving, key=lambda n: (families.count(_family(template[n][1])), -n), default=-1)
        values = {n: json.loads(how) for n, (_, source, how) in enumerate(template) if source == CONSTANT}
        self._constants = {n: value for n, value in values.items() if is_scalar(value)}

    def constant(self, number: int) -> Any:
        """The value of a part that is a constant; nobody else has it."""
        if number in self._constants:
            return self._constants[number]
        return json.loads(self.template[number][2])


Made = tuple[Any, dict[str, Any], list[int]]


def calls_of(index: Index, way: Way, limit: int) -> Iterator[Made]:
    """The calls that a template gives now, newest event first, in order inside an event.

    The leading argument takes each place in turn. Those that come from the same event take the places nearest to it, so
    that they are of one element; each of the others takes the newest value, then the one before.

    Yields:
        `call_key` with an empty name, the arguments, and the distance of each place from the leading one's
        (`ELSEWHERE`: in another event).
    """
    template, by_source = way.template, index.by_source
    for number in way.moving:
        if template[number][1] not in by_source:
            return
    if not way.moving:
        args = {argument: way.constant(number) for number, (argument, _, _) in enumerate(template)}
        yield call_key("", args), args, []
        return
    lists: list[Sequence[Occurrence]] = [by_source.get(source, ()) for _, source, _ in template]
    seen: set[Any] = set()
    for place in _newest_first(lists[way.lead], 4 * limit):
        for key, args, distances in _filled(way, lists, place):
            if key in seen:
                continue
            seen.add(key)
            yield key, args, distances
            if len(seen) >= limit:
                return


def _family(source: str) -> str:
    return source[: source.find("|", 2)] if source[0] != "u" else "u"


def _newest_first(places: Sequence[Occurrence], limit: int) -> Iterator[Occurrence]:
    end = len(places)
    while end and limit > 0:
        start = end - 1
        while start and places[start - 1].event == places[end - 1].event:
            start -= 1
        yield from places[start : min(end, start + limit)]
        limit -= end - start
        end = start


def _filled(way: Way, lists: list[Sequence[Occurrence]], place: Occurrence) -> Iterator[Made]:
    template, lead = way.template, way.lead
    if len(template) == 1:
        argument, _, how = template[0]
        if (only := _made(how, place.value)) is not None:
            args = {argument: only}
            yield call_key("", args), args, []
        return
    choices: list[list[tuple[Any, int]]] = []
    taken = {place.order}
    for number, (_, source, how) in enumerate(template):
        if source == CONSTANT:
            choices.append([(way.constant(number), 0)])
            continue
        if number == lead:
            at: list[Occurrence] = [place]
        elif (near := _nearest(lists[number], place, taken)) is not None:
            at = [near]
        else:
            at = _newest(lists[number])
        made = []
        for one in at:
            if (value := _made(how, one.value)) is not None:
                taken.add(one.order)
                made.append((value, one.order - place.order if one.event == place.event else ELSEWHERE))
        choices.append(made)
    for values in product(*choices):
        args = {part[0]: value for part, (value, _) in zip(template, values, strict=True)}
        yield call_key("", args), args, [distance for n, (_, distance) in enumerate(values) if n != lead]


def _newest(places: Sequence[Occurrence]) -> list[Occurrence]:
    """The newest place, and the newest one with another value."""
    last = places[-1]
    return [last, *(p for p in places[-6:-1][::-1] if p.value != last.value)][:2]


def _nearest(places: Sequence[Occurrence], lead: Occurrence, taken: set[int]) -> Occurrence | None:
    """The place in the same event that is nearest, and not taken."""
    order, low, high = lead.order, 0, len(places)
    while low < high:
        middle = (low + high) // 2
        if places[middle].order < order:
            low = middle + 1
        else:
            high = middle
    after = next((p for p in places[low : low + 3] if p.order not in taken and p.event == lead.event), None)
    before = next(
        (p for p in reversed(places[max(low - 3, 0) : low]) if p.order not in taken and p.event == lead.event), None
    )
    if after is None or before is None:
        return after or before
    return before if order - before.order < after.order - order else after
