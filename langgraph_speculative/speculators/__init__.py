"""Speculators: fast guessers of what a slow node will return.

A Speculator is any callable with one argument, the node's input, sync or async, plain or (async) generator. It returns
an output of the node, a `Guess`, a list of `Guess`, or ``None`` for "no guess"; a generator yields outputs or guesses.
One that wants the run's config, or that learns, is a `BaseSpeculator`; `History` is one.
"""

from langgraph_speculative.speculators._history_events import unknown_message
from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess, Speculator
from langgraph_speculative.speculators.history import History

__all__ = ["BaseSpeculator", "Guess", "History", "Speculator", "unknown_message"]
