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
BUCKETS = 4096

_STRIP = ".,;:!?()[]{}\"'*`<>\u201c\u201d\u2018\u2019"
_WORD = re.compile(r"[^\W\d_]+")
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
Leaf = tuple[str, Any, tuple[Words, ...]]


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
    return frozenset(w[:-1] if len(w) > 3 and w.endswith("s") else w for w in _WORD.findall(text.lower()) if len(w) > 1)


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
    _walk(value, "", (), found, 0)
    return found


def _walk(value: Any, path: str, beside: tuple[Words, ...], found: list[Leaf], depth: int) -> None:
    if len(found) >= MAX_LEAVES or depth > 12:
        return
    if isinstance(value, dict):
        beside = _texts(value) or beside
        for key, item in value.items():
            key = str(key)
            if _SCHEMA_KEY.match(key):
                _walk(item, f"{path}.{key}", beside, found, depth + 1)
                continue
            named = _texts(item) if isinstance(item, dict) else ((words,) if (words := words_of(key)) else ())
            found.append((path + ".{key}", key, named or beside))
            _walk(item, path + ".{}", named or beside, found, depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _walk(item, path + "*", beside, found, depth + 1)
    elif is_scalar(value):
        found.append((path, value, beside))


def _texts(mapping: dict[Any, Any]) -> tuple[Words, ...]:
    texts = [v for v in mapping.values() if type(v) is str and len(v) <= 60 and not _DIGIT.search(v)]
    return tuple([words for text in texts if (words := words_of(text))])
