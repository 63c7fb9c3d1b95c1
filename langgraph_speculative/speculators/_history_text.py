"""What of a text or a JSON value History looks at: tokens and their shapes, words, dates, and the leaves of a value."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from datetime import date
from typing import Any

MAX_LEAVES = 400
MAX_TOKENS = 400
MAX_WORDS = 24
BUCKETS = 4096

_STRIP = ".,;:!?()[]{}\"'*`<>\u201c\u201d\u2018\u2019"
_WORD = re.compile(r"[^\W\d_]{2,}")
_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = {name[:n]: number for number, name in enumerate(_MONTHS, 1) for n in (3, len(name))}
_DATE = re.compile(
    r"\b([A-Za-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?\b(?:,? (\d{4})\b)?"
    r"|\b(\d{1,2})(?:st|nd|rd|th)?(?: of)? ([A-Za-z]{3,9})\b(?:,? (\d{4})\b)?"
)
_YEAR = re.compile(r"\b((?:19|20)\d\d)-\d\d-\d\d\b")
_SCHEMA_KEY = re.compile(r"[a-z_][A-Za-z_]*$")

_DIGIT = re.compile(r"\d")
_SCALARS = frozenset((str, int, float, bool))

Words = frozenset[str]


def shape_of(token: str) -> str:
    """The kinds of characters in a token: ``Aa`` for "Rossi", ``95`` for "19122", ``#9A8`` for "#W237815"."""
    kinds = set()
    for c in token:
        kinds.add("9" if c.isdigit() else ("a" if c.islower() else "A") if c.isalpha() else c)
    if kinds == {"A", "a"}:
        return "Aa" if token[0].isupper() and token[1:].islower() else "aA"
    shape = "".join(sorted(kinds))[:12]
    if kinds <= {"A", "9", "#"}:  # codes: their length belongs to what they are
        shape += f":{min(len(token), 12)}"
    return shape


def tokens_of(text: str) -> Iterator[tuple[str, str, str]]:
    """The tokens of a text: shape, token, and the word before it (``^`` where a sentence begins)."""
    before = "^"
    for raw in text.split()[:MAX_TOKENS]:
        token = raw.strip(_STRIP)
        if not token:
            continue
        yield shape_of(token), token, before
        head, at, _ = token.partition("@")
        if at and head:
            yield "@" + shape_of(head), head, before
        if token.endswith(("'s", "\u2019s")) and len(token) > 2:
            yield shape_of(token[:-2]), token[:-2], before
        before = "^" if raw[-1] in ".!?" else token.lower()


def dates_in(text: str, year: str | None) -> Iterator[str]:
    """Days that a text names in English, as ISO dates; those without a year are in `year`."""
    for found in _DATE.finditer(text):
        name, day, own = found.group(1, 2, 3) if found[1] else found.group(5, 4, 6)
        month = _MONTH.get(name.lower())
        if month and (own or year):
            try:
                yield date(int(own or year or 0), month, int(day)).isoformat()
            except ValueError:
                continue


def year_in(text: str) -> str | None:
    """The year of the last ISO date in a text."""
    years = _YEAR.findall(text)
    return years[-1] if years else None


def words_of(text: str) -> Words:
    """The words of a text in lower case, without a plural's s."""
    return frozenset([w[:-1] if len(w) > 3 and w[-1] == "s" else w for w in _WORD.findall(text.lower())])


class Beside:
    """The texts next to a value; where there are none, those next to what it is in.

    Their words are found when they are asked for: of most values nobody asks.
    """

    __slots__ = ("_around", "_near", "_words")

    def __init__(self, near: dict[Any, Any] | str, around: Beside | None) -> None:
        self._near = near
        self._around = around
        self._words: list[Words] | None = None

    @property
    def words(self) -> list[Words]:
        """Of each text."""
        if self._words is None:
            found = [words for text in _texts(self._near) if (words := words_of(text))]
            self._words = found or (self._around.words if self._around is not None else [])
        return self._words


def _texts(near: dict[Any, Any] | str) -> list[str]:
    if isinstance(near, str):
        return [near]
    return [v for v in near.values() if type(v) is str and len(v) <= 60 and not _DIGIT.search(v)]


Leaf = tuple[str, Any, Beside | None]


def numbers_of(words: Words) -> tuple[int, ...]:
    """The numbers of the longest words: they say most."""
    return tuple([bucket(w) for w in sorted(words, key=lambda w: (-len(w), w))[:MAX_WORDS]])


def bucket(word: str) -> int:
    """A word's number: what is learned about words names none, and is bounded."""
    return zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS


def normal(value: object) -> str:
    """What values have in common that differ by case, type or a leading mark only."""
    return str(value).casefold().lstrip("#$@")


def is_scalar(value: object) -> bool:
    return type(value) in _SCALARS


def parse(content: Any) -> Any:
    """A tool's result, decoded where it is JSON."""
    if isinstance(content, str) and content[:1] in ("{", "[", '"'):
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            pass
    return content


def leaves_of(value: Any) -> list[Leaf]:
    """The scalars in a value, at most `MAX_LEAVES`, in order.

    Each with its path, in which ``*`` stands for any place in a list and ``{}`` for a key that is data, and with the
    words of the texts next to it, by which a person may name it.
    """
    found: list[Leaf] = []
    _walk(value, "", None, found, 0)
    return found


def _walk(value: Any, path: str, beside: Beside | None, found: list[Leaf], depth: int) -> None:
    if len(found) >= MAX_LEAVES or depth > 12:
        return
    if isinstance(value, dict):
        beside = Beside(value, beside)
        for key, item in value.items():
            key = str(key)
            if _SCHEMA_KEY.match(key):
                if type(item) in _SCALARS and len(found) < MAX_LEAVES and depth < 12:  # the most common, so in short
                    found.append((f"{path}.{key}", item, beside))
                    continue
                _walk(item, f"{path}.{key}", beside, found, depth + 1)
                continue
            named = Beside(item if isinstance(item, dict) else key, beside)
            found.append((path + ".{key}", key, named))
            _walk(item, path + ".{}", named, found, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _walk(item, path + "*", beside, found, depth + 1)
    elif is_scalar(value):
        found.append((path, value, beside))
