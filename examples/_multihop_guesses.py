"""A Speculator for the multi-hop example: which page will the agent look up next?

It shows how to write one that learns. What an agent looks up is mostly written somewhere already: in the question, in
the page that it has just read, or among the titles that it was offered in place of one. Those are the candidates; which
of them is looked up is learned, as one weight for each feature, from recorded runs and from the runs themselves.
"""

from __future__ import annotations

import ast
import math
import random
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from examples._multihop_world import Index
from langgraph_speculative import Guess
from langgraph_speculative.speculators import BaseSpeculator

RATE = 0.2
DECAY = 0.01
NOTHING = ("", "")
"""The candidate that stands for all calls that are not among the others, and for none."""

_FUNCTION = set(
    "a an the of in on at to for by with from and or is was are were be been that which who whom whose what when where "
    "why how did does do has have had this these it its as into than both same between one also other not no he she "
    "his her".split()
)
_NAME = r"[A-Z0-9][\w'\u2019.&/\u2013\-]*"
_JOINED = rf"(?:,? (?:(?:of|the|and|in|de|for|on|at|to|a|an|von|van|der|is|with|by|&) ){{0,2}}{_NAME})*"
_NAMES = re.compile(_NAME + _JOINED)
_QUOTED = re.compile(r'["“]([^"”]+)["”]')
_JOINTS = re.compile(r"(, | (?:of|the|and|in|de|for|on|at|to|a|an|is|with|by) (?:(?:the|of|a) )?)")
_MISSED = re.compile(r"Could not find \[(.*?)\]\. Similar: (\[.*\])", re.DOTALL)


def words(text: str) -> frozenset[str]:
    """The words of a text that mean something by themselves."""
    return frozenset(w for w in re.findall(r"\w+", text.lower()) if w not in _FUNCTION)


def bare(title: str) -> str:
    """A title without what tells it from others of the same name."""
    return re.sub(r" \([^)]*\)$", "", title)


@dataclass(frozen=True)
class Step:
    """A call of the agent, and what came of it: a ``page``, a ``miss`` with similar titles, or ``none``."""

    tool: str
    argument: str
    observation: str
    kind: str = field(init=False)
    similar: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        similar: tuple[str, ...] = ()
        if (missed := _MISSED.match(self.observation)) is not None:
            kind = "miss"
            try:
                similar = tuple(map(str, ast.literal_eval(missed[2])))
            except (ValueError, SyntaxError):
                pass
        else:
            kind = "none" if self.observation.lower().startswith("no results") else "page"
            kind = "found" if self.observation.startswith("(Result") else kind
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "similar", similar)


def steps_of(messages: Sequence[AnyMessage]) -> tuple[str, list[Step]]:
    """The question, and the steps so far."""
    question = next((str(m.content) for m in messages if isinstance(m, HumanMessage)), "")
    results = {m.tool_call_id: str(m.content) for m in messages if isinstance(m, ToolMessage)}
    return question, [
        Step(c["name"], _argument(c["args"]), results.get(c["id"] or "", ""))
        for m in messages
        if isinstance(m, AIMessage)
        for c in m.tool_calls
    ]


def _argument(args: dict[str, Any]) -> str:
    return str(args.get("entity") or args.get("keyword") or "")


def names_in(text: str) -> list[tuple[int, str, str]]:
    """Names in a text, the whole ones and the parts that they can be cut into: place, name, and how it was cut."""
    found: list[tuple[int, str, str]] = []
    for quoted in _QUOTED.finditer(text):
        found += [(quoted.start(), quoted[1].strip(" ,."), "Q"), (quoted.start(), quoted[0].strip(" ,."), "q")]
    for match in _NAMES.finditer(text):
        parts, start = match[0].split(), match.start()
        while parts and parts[0].lower() in _FUNCTION:
            start += len(parts.pop(0)) + 1
        if not parts:
            continue
        whole = re.sub(r"['\u2019]s$", "", " ".join(parts).rstrip(".,'"))
        found.append((start, whole, "F"))
        pieces = _JOINTS.split(whole)
        for i in range(0, len(pieces), 2):
            for j in range(i + 1, len(pieces) + 1, 2):
                piece = "".join(pieces[i:j]).strip(" ,.")
                before = pieces[i - 1].split()[:1] if i else ["^"]
                after = pieces[j].split()[:1] if j < len(pieces) else ["$"]
                if piece and piece != whole:
                    found.append((start, piece, f"P{before}{after}"))
    seen: dict[str, tuple[int, str, str]] = {}
    for place, name, cut in sorted(found, key=lambda f: f[0]):
        if name:
            seen.setdefault(name.lower(), (place, name, cut))
    return list(seen.values())


def phrases_in(question: str) -> Iterator[str]:
    """What a question calls things that have no name: words between function words."""
    tokens = question.replace("?", "").split()
    plain = [t.lower().strip(',."') for t in tokens]
    for i in range(len(tokens)):
        if plain[i] in _FUNCTION or (i and plain[i - 1] not in _FUNCTION and not tokens[i - 1].endswith(",")):
            continue
        j = i
        while j < len(tokens) and j - i < 6 and (plain[j] not in _FUNCTION or (plain[j] == "of" and j > i)):
            j += 1
            if tokens[j - 1].endswith(","):
                break
        phrase = " ".join(tokens[i:j]).strip(' ,."')
        if phrase[:1].islower():
            yield phrase


Candidates = dict[tuple[str, str], list[str]]
"""By tool and argument, what speaks for and against it."""


def candidates(question: str, steps: Sequence[Step], index: Index) -> Candidates:
    """The calls that may come next."""
    found: Candidates = {}
    last = steps[-1] if steps else None
    used = {s.argument.lower() for s in steps}
    asked, seen = words(question), last.observation if last else ""
    pages = min(sum(s.kind == "page" for s in steps), 3)
    state = f"{last.kind if last else '-'}{pages}"
    close = index.titles(question)

    def add(tool: str, argument: str, features: Iterable[str]) -> None:
        own = found.setdefault((tool, argument), [tool + state, f"{tool}n{min(len(steps), 3)}"])
        own += [tool + f for f in features]

    def use(text: str) -> str:
        text = text.lower()
        return "u" if text in used else "s" if any(text in u or u in text for u in used) else "-"

    names = [*names_in(question), *((0, phrase, "L") for phrase in phrases_in(question))]
    free = [name for _, name, cut in names if cut != "L" and use(name) == "-"]
    for number, (_, name, cut) in enumerate(names):
        kind, known, rank = cut[0], _known(name, index), free.index(name) if name in free else 9
        features = [f"q{kind}{state}", f"q{kind}{use(name)}", f"q{use(name)}{known}{state}", f"q{cut}"]
        features += [f"qn{min(len(name.split()), 4)}{kind}", f"qr{min(rank, 3)}{state}", f"qt{known}{kind}{use(name)}"]
        features += [f"qs{name in seen}", f"qd{name[0].isdigit()}", f"qx{min(number, 4)}{known}"]
        add("search", name, features)
        add("lookup", name, features)
    for rank, title in enumerate(close):
        name = bare(title)
        cover = len(words(name) & asked) / max(1, len(words(name)))
        features = [f"R{rank}{use(name)}", f"Rc{int(cover * 3)}{use(name)}{min(rank, 2)}", f"R{state}{use(name)}"]
        add("search", name, [*features, f"Rs{name.lower() in seen.lower()}{use(name)}"])
    if last is not None and last.kind == "miss":
        _add_similar(add, last, used, asked, index)
    else:
        for age, step in enumerate(reversed(steps[-2:])):
            if step.kind in ("page", "found"):
                _add_read(add, question, step.observation[:500], age, state, used, close, index)
    found[NOTHING] = ["0", f"0{state}", f"0n{min(len(steps), 3)}"]
    return found


def _known(name: str, index: Index) -> str:
    title = index.title(name)
    return "-" if title is None else "T" if title.lower() == name.lower() else "t"


def _add_similar(add: Any, step: Step, used: set[str], asked: frozenset[str], index: Index) -> None:
    """Titles that were offered in place of a page that does not exist."""
    query = words(step.argument)

    def like(title: str) -> tuple[float, float]:
        own = words(bare(title))
        return len(own & query) / max(1, len(own | query)), len(words(title) & asked) / max(1, len(words(title)))

    def score(title: str) -> float:
        return sum(like(title)) + (index.title(title) is not None) / 2 if title.lower() not in used else -1.0

    best = sorted(step.similar, key=score, reverse=True)
    for number, title in enumerate(step.similar):
        same, cover = like(title)
        u, known, rank = "u" if title.lower() in used else "-", _known(title, index), best.index(title)
        features = [f"s{min(number, 4)}{u}", f"sj{int(same * 3)}c{int(cover * 3)}{u}", f"s{known}{u}"]
        features += [f"sk{min(rank, 4)}", f"sk{min(rank, 2)}{int(same * 3)}", f"s{known}k{min(rank, 2)}"]
        features += [f"se{bare(title).lower() == step.argument.lower()}", f"sp{'(' in title}{int(cover * 2)}"]
        add("search", title, [*features, f"sa{int(cover * 3)}n{min(len(words(title) & asked), 3)}"])


def _add_read(
    add: Any, question: str, text: str, age: int, state: str, used: set[str], close: Sequence[str], index: Index
) -> None:
    """Names in a page that was read."""
    asked, number = words(question), 0
    for place, name, cut in names_in(text)[:24]:
        if name.lower() in used:
            continue
        kind, known, title = cut[0], _known(name, index), index.title(name)
        around = words(text[max(0, place - 60) : place + len(name) + 40]) & (asked - words(name))
        near, inside = min(len(around), 3), name.lower() in question.lower()
        features = [f"o{kind}{age}{state}", f"o{known}{age}{inside}", f"or{min(number, 4)}{age}", f"o{cut}"]
        features += [f"oi{inside}{state}", f"ol{near}{kind}", f"ot{near}{known}", f"od{name[0].isdigit()}"]
        features += [f"oR{close.index(title) if title in close else 9}"]
        features += [f"os{any(name.lower() in u or u in name.lower() for u in used)}"]
        number += kind in "FQ"
        add("search", name, features)


class NextCall(BaseSpeculator):
    """Guesses the next call of the agent.

    Args:
        index: Of the pages: what is a title is worth looking up.
        k: Guesses at a time.
    """

    def __init__(self, index: Index, k: int = 3) -> None:
        self._index = index
        self._k = k
        self._weights: dict[str, float] = {}
        self._squares: dict[str, float] = {}
        self._lock = threading.Lock()

    def guess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """The likeliest calls, each as the message that the agent would write if it gave no reasons."""
        if not self._weights:
            return None
        question, steps = steps_of(value["messages"])
        options = candidates(question, steps, self._index)
        shares = sorted(zip(self._shares(list(options.values())), options, strict=True), reverse=True)
        page = next((s.argument for s in reversed(steps) if s.kind == "page" and s.tool == "search"), "")
        guesses = []
        for share, (tool, argument) in shares:
            if tool and len(guesses) < self._k:
                args = {"entity": argument} if tool == "search" else {"page": page, "keyword": argument}
                call = {"name": tool, "args": args, "id": f"guess-{len(steps)}-{len(guesses)}"}
                guesses.append(Guess({"messages": [AIMessage("", tool_calls=[call])]}, min(share, 1.0)))
        return guesses

    async def aguess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """The same: it takes a few milliseconds."""
        return self.guess(value, config)

    def learn(self, value: Any, output: Any, config: RunnableConfig) -> None:
        """Move the weights towards what the agent has done."""
        question, steps = steps_of(value["messages"])
        message = output["messages"][-1]
        call = next(((c["name"], _argument(c["args"])) for c in message.tool_calls), NOTHING)
        self._move(candidates(question, steps, self._index), call)

    def fit(self, runs: Iterable[Sequence[AnyMessage]], rounds: int = 5) -> NextCall:
        """Learn from recorded runs, several times over. What is in several of them counts once."""
        known: dict[Any, tuple[Candidates, tuple[str, str]]] = {}
        for messages in runs:
            for number, message in enumerate(messages):
                if isinstance(message, AIMessage):
                    question, steps = steps_of(messages[:number])
                    call = next(((c["name"], _argument(c["args"])) for c in message.tool_calls), NOTHING)
                    if (key := (question, tuple(steps), call)) not in known:
                        known[key] = candidates(question, steps, self._index), call
        seen, order = list(known.values()), random.Random(0)
        for _ in range(rounds):
            order.shuffle(seen)
            for options, call in seen:
                self._move(options, call)
        return self

    def _shares(self, features: Sequence[list[str]]) -> list[float]:
        scores = [sum(self._weights.get(f, 0.0) for f in own) for own in features]
        highest = max(scores)
        powers = [math.exp(s - highest) for s in scores]
        return [p / sum(powers) for p in powers]

    def _move(self, options: Candidates, call: tuple[str, str]) -> None:
        """One step of AdaGrad on the probability of what came."""
        came = call if call in options else NOTHING
        with self._lock:
            slopes: dict[str, float] = {}
            for share, (key, own) in zip(self._shares(list(options.values())), options.items(), strict=True):
                for feature in own:
                    slopes[feature] = slopes.get(feature, 0.0) + share - (key == came)
            for feature, slope in slopes.items():
                weight = self._weights.get(feature, 0.0)
                slope += DECAY * weight
                square = self._squares[feature] = self._squares.get(feature, 0.1) + slope * slope
                self._weights[feature] = weight - RATE * slope / math.sqrt(square)
