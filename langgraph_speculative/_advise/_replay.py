"""How well the tool calls of recorded runs can be guessed: by a predictor that has not seen the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig

from langgraph_speculative._advise._recordings import Recording
from langgraph_speculative._values import freeze
from langgraph_speculative.speculators._protocol import guesses_of


class Predictor(Protocol):
    """Guesses an agent's next tool call."""

    def fit(self, runs: Sequence[Sequence[AnyMessage]]) -> object:
        """Learn from whole runs."""

    def predict(self, messages: Sequence[AnyMessage]) -> Sequence[tuple[str, dict[str, Any], float]]:
        """Name, arguments and confidence of the likeliest next calls, likeliest first."""


class Learner(Protocol):
    """A Speculator for an agent's model node that learns from recorded runs."""

    def fit(self, runs: Sequence[Sequence[AnyMessage]]) -> object:
        """Learn from whole runs."""

    def guess(self, value: Any, config: RunnableConfig) -> Any:
        """Guess the node's output, from its input."""


class Learned:
    """A Speculator as a predictor: the tool calls in the messages that it guesses."""

    def __init__(self, speculator: Learner) -> None:
        self._speculator = speculator

    def fit(self, runs: Sequence[Sequence[AnyMessage]]) -> None:
        """Have it learn."""
        self._speculator.fit(runs)

    def predict(self, messages: Sequence[AnyMessage]) -> list[tuple[str, dict[str, Any], float]]:
        """Its guesses, most confident first."""
        return [
            (call["name"], call["args"], guess.confidence)
            for guess in guesses_of(self._speculator.guess({"messages": list(messages)}, {}))
            for message in guess.output["messages"]
            for call in getattr(message, "tool_calls", ())
        ]


@dataclass
class Replayed:
    """What came of guessing one tool's calls.

    Attributes:
        calls: Calls that the runs made.
        hits: Calls that were among the guesses.
        first_hits: Calls that were the first guess.
        guesses: Guesses at this tool, right or wrong.
    """

    calls: int = 0
    hits: int = 0
    first_hits: int = 0
    guesses: int = 0


@dataclass
class Replay:
    """What came of guessing all calls.

    Attributes:
        tools: By tool.
        windows: Model calls before which guesses were asked for.
        seconds: How long each guess took.
        folds: Parts that the runs were divided into.
    """

    tools: dict[str, Replayed] = field(default_factory=dict)
    windows: int = 0
    seconds: list[float] = field(default_factory=list)
    folds: int = 0


def call_key(name: str, args: dict[str, Any]) -> Any:
    """Equal for calls that are the same, whatever the order of their arguments."""
    return name, freeze(dict(sorted(args.items())))


def replay(recordings: Sequence[Recording], predictor: Callable[[], Predictor], *, breadth: int, folds: int) -> Replay:
    """Guess every next tool call of every run from what came before it.

    Args:
        recordings: The runs.
        predictor: Makes one that has learned nothing; called once for each fold.
        breadth: Guesses that would be acted on.
        folds: Parts; each is guessed by what was learned from the others. Fewer where there are fewer groups.

    Returns:
        Counts. With a single group nothing can be learned, so `folds` is 1 and the predictor knows no run.
    """
    groups = sorted({recording.group for recording in recordings})
    parts = max(1, min(folds, len(groups)))
    part_of = {group: number % parts for number, group in enumerate(groups)}
    result = Replay(folds=parts)
    for part in range(parts):
        learner = predictor()
        learner.fit([r.messages for r in recordings if part_of[r.group] != part])
        for recording in recordings:
            if part_of[recording.group] == part:
                _guess_all(recording.messages, learner, breadth, result)
    return result


def _guess_all(messages: Sequence[AnyMessage], predictor: Predictor, breadth: int, result: Replay) -> None:
    for number, message in enumerate(messages):
        if not isinstance(message, AIMessage):
            continue
        result.windows += 1
        started = time.perf_counter()
        predicted = predictor.predict(messages[:number])[:breadth]
        result.seconds.append(time.perf_counter() - started)
        guesses = [(name, call_key(name, args)) for name, args, _ in predicted]
        for name, _ in guesses:
            result.tools.setdefault(name, Replayed()).guesses += 1
        # One guess serves one call: of two equal calls only one is a hit.
        open_guesses = [key for _, key in guesses]
        for call in message.tool_calls:
            tool = result.tools.setdefault(call["name"], Replayed())
            tool.calls += 1
            key = call_key(call["name"], call["args"])
            if key in open_guesses:
                tool.hits += 1
                tool.first_hits += key == guesses[0][1]
                open_guesses.remove(key)
