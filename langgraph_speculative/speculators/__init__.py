"""Speculators: fast guessers of what a slow node will return.

A Speculator is any callable with one argument, the node's input, sync or async, plain or (async) generator. It returns
an output of the node, a `Guess`, a list of `Guess`, or ``None`` for "no guess"; a generator yields outputs or guesses.
One that wants the run's config, or that learns, is a `BaseSpeculator`.

Ready-made ones: `History` learns from the runs, `Draft` runs a faster graph's node, `Model` asks a chat model, `Replay`
remembers, `Route` knows where a router may go, and `Ensemble` asks several. `Stream` is no guesser: it starts the tool
calls that the Actor's own model has written. ``docs/speculators.md`` says which one to use when.
"""

from langgraph_speculative.speculators._draft import Draft
from langgraph_speculative.speculators._ensemble import Ensemble
from langgraph_speculative.speculators._history import History
from langgraph_speculative.speculators._history_events import unknown_message
from langgraph_speculative.speculators._model import Model
from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess, Speculator
from langgraph_speculative.speculators._replay import Replay
from langgraph_speculative.speculators._route import Route
from langgraph_speculative.speculators._stream import Stream

__all__ = [
    "BaseSpeculator",
    "Draft",
    "Ensemble",
    "Guess",
    "History",
    "Model",
    "Replay",
    "Route",
    "Speculator",
    "Stream",
    "unknown_message",
]
