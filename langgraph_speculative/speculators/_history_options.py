"""The calls that may come next, and what speaks for and against each: features for the model's weights."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from langgraph_speculative.speculators._history_index import Index
from langgraph_speculative.speculators._history_sources import CONSTANT, ELSEWHERE, Way, calls_of
from langgraph_speculative.speculators._history_text import bucket, is_scalar, normal

NO_CALL = ""
"""In the place of a tool's name: the model answers, or calls nothing (more)."""
MAX_PLACES = 8


@dataclass(slots=True)
class Option:
    """A call that may come next. Without arguments: any other call of this tool, or `NO_CALL`."""

    tool: str
    args: dict[str, Any] | None
    features: list[str]


@dataclass(slots=True)
class Decision:
    """A point where a model decides.

    Attributes:
        context: Features of the point itself, each with a weight per tool.
        words: The same, of words: they speak more softly, being many.
        options: What it may decide.
        base: What context and words say for each tool; ``None`` once the weights are others.
    """

    context: list[str]
    words: list[str]
    options: list[Option]
    base: dict[str, float] | None


def context_of(index: Index) -> tuple[list[str], list[str], list[str]]:
    """Features of the conversation as it stands: of its events, of what was said, and of the words in a result."""
    symbols = index.symbols
    turn: list[str] = []
    for symbol in reversed(symbols):
        turn.append(symbol)
        if symbol in ("u", "?"):
            break
    last = symbols[-1] if symbols else ""
    found = ["b"]
    found += [f"{n}|" + ">".join(symbols[-n:]) for n in range(1, 6)]
    found.append("t|" + ">".join(sorted(set(turn))))
    found.append("T|" + ">".join(dict.fromkeys(symbols)))
    found.append(f"u|{min(sum(s in ('u', '?') for s in symbols), 5)}")
    for name, prefix, most in (("n", turn, 4), ("N", symbols, 5)):
        counts: dict[str, int] = {}
        for symbol in prefix:
            counts[symbol] = counts.get(symbol, 0) + 1
        found += [f"{name}|{s}|{min(c, most)}|{last}" for s, c in counts.items() if len(s) > 1]
    said, asked = index.numbers
    fresh = {"u": "w", "?": "q"}.get(last, "v")
    words = [f"{fresh}{n}" for n in said]
    words += [f"{fresh}s{n}" for n in asked]
    facts: list[str] = []
    if index.events and (event := index.events[-1]).kind == "result":
        facts = _facts(event.name or last[2:], event.value)
    return found, words, facts


def _facts(tool: str, result: Any) -> list[str]:
    """What is in a result at its top: words such as a status, and the lengths of lists."""
    if isinstance(result, list):
        return [f"l|{tool}||{min(len(result), 4)}"]
    if not isinstance(result, Mapping):
        return []
    found = []
    for key, value in list(result.items())[:30]:
        if isinstance(value, str):
            if len(value) < 24 and not any(c.isdigit() for c in value):
                found.append(f"f{bucket(f'{key}={value}')}")
        elif isinstance(value, list):
            found.append(f"l|{tool}|{bucket(str(key))}|{min(len(value), 4)}")
    return found


def options_of(
    index: Index,
    ways: Mapping[str, Iterable[Way]],
    known: Mapping[str, Collection[str]],
    most: Mapping[str, int],
) -> list[Option]:
    """What may come next.

    Args:
        ways: For each tool that was ever called, the ways to make its calls, likeliest first.
        known: For each tool and argument (``tool|argument``) the sources that its values came from.
        most: How many calls are wanted, of each tool of which any are.
    """
    options = [Option(NO_CALL, None, [])]
    for tool, own in ways.items():
        options.append(Option(tool, None, ["none"]))
        if tool in most:
            options += _calls(index, tool, own, known, most[tool])
    return options


def _calls(
    index: Index, tool: str, ways: Iterable[Way], known: Mapping[str, Collection[str]], most: int
) -> list[Option]:
    found: dict[Any, Option] = {}
    values: dict[tuple[str, Any], list[str]] = {}
    for one in ways:
        way = one.name
        rank, after_used = 0, False
        for key, args, distances in calls_of(index, one, min(most, MAX_PLACES)):
            option = found.get(key)
            if option is None:
                if len(found) >= most:
                    break
                option = found[key] = Option(tool, args, [])
                at = index.called_at((tool, key[1]))
                option.features.append("c|-" if at < 0 else "c|0" if at > index.last_user else "c|1")
                for argument, value in args.items():
                    option.features += _about(index, tool, argument, value, known, values)
            features = option.features
            features.append("p|" + way)
            if distances:
                steps = [d if d == ELSEWHERE else max(-4, min(4, d)) for d in distances]
                features.append(f"d|{way}|{steps}")
                features.append(f"d|{[max(-2, min(2, d)) for d in steps]}")
            if features[0] != "c|-":
                features.append("x|" + way)
                after_used = True
                continue
            features.append(f"r|{way}|{min(rank, 4)}")
            features.append(f"r|{min(rank, 4)}")
            if after_used and rank == 0:
                features.append("y|" + way)
            rank += 1
    return list(found.values())


def _about(
    index: Index,
    tool: str,
    argument: str,
    value: Any,
    known: Mapping[str, Collection[str]],
    cache: dict[tuple[str, Any], list[str]],
) -> list[str]:
    """What speaks for a value of an argument: everywhere it stands, how long ago, who has named it."""
    if not is_scalar(value):
        return [f"{argument}|{CONSTANT}"]
    if (found := cache.get((argument, value))) is not None:
        return found
    found = cache[(argument, value)] = []
    said, before = index.words
    sources = known.get(f"{tool}|{argument}", ())
    seen: set[str] = set()
    named, newest, in_last = 0, -1, False
    for place in reversed(index.by_value.get(normal(value), ())):
        if place.event > newest:
            newest = place.event
        if place.event == index.last_user:
            in_last = True
            found.append(f"{argument}|b{bucket(place.before)}")
        if named < 4 and place.beside is not None:
            for words in place.beside.words:
                if words <= said:
                    named = 4
                elif named < 3 and words <= before:
                    named = 3
                elif named < 2 and words & said:
                    named = 2
                elif named < 1 and words & before:
                    named = 1
        if place.source not in seen:
            seen.add(place.source)
            if place.source in sources:
                found.append(f"{argument}|s|{place.source}")
            if len(seen) >= 8:
                break
    if not seen:
        found.append(f"{argument}|{CONSTANT}")
    turns = index.users[-1] - index.users[newest] if newest >= 0 else 9
    passed = index.passed_at(tool, argument, value)
    fresh = index.symbols[-1:] == ("u",)
    found.append(f"{argument}|m{named}")
    found.append(f"{argument}|l{in_last:d}{fresh:d}")
    found.append(f"{argument}|a{min(turns, 3)}")
    found.append(f"{argument}|e{min(len(index.events) - newest, 4)}")
    used = "-" if passed < 0 else "0" if passed > index.last_user else "1"
    found.append(f"{argument}|u{used}")
    found.append(f"{argument}|k{named}{in_last:d}{fresh:d}{used}{min(turns, 3)}")
    found.append(f"{argument}|z{in_last:d}{used}{index.symbols[-1] if index.symbols else ''}")
    return found
