"""Speculators: fast guessers of what a slow node will return.

A Speculator is any callable with one argument, the node's input, sync or async, plain or (async) generator. It returns
an output of the node, a `Guess`, a list of `Guess`, or ``None`` for "no guess"; a generator yields outputs or guesses.
One that wants the run's config, or that learns, is a `BaseSpeculator`. `Stream` is no guesser: it starts the tool calls
that the Actor's own model has written.
"""

from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess, Speculator
from langgraph_speculative.speculators.stream import Stream

__all__ = ["BaseSpeculator", "Guess", "Speculator", "Stream"]
