from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig

from langgraph_speculative.errors import SpeculationError

if TYPE_CHECKING:
    from langgraph_speculative._nodes import NodeInfo


class Nothing(Enum):
    NOTHING = auto()


NOTHING = Nothing.NOTHING
"""Stands for no value, where ``None`` is one."""


@dataclass(frozen=True)
class Guess:
    """A proposed output of a node.

    Args:
        output: What the node may return: exactly the kind of value that the node itself returns.
        confidence: Probability in [0, 1] that it is right.
        source: Who guessed it, where a Speculator asks several others.
        usage: Tokens that asking has cost, by model. Where one question gave several guesses, the first one says it;
            where it gave none, a `Guess` of nothing but `usage` does.
        resume: For `START`, instead of an output: the answer to the question that the graph has asked with `interrupt`.

    Raises:
        SpeculationError: A confidence outside [0, 1], or both `output` and `resume`, or nothing at all.
    """

    output: Any = NOTHING
    confidence: float = 1.0
    source: str = ""
    usage: Mapping[str, int] = field(default_factory=dict, hash=False, compare=False)
    resume: Any = field(default=NOTHING, kw_only=True)

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence <= 1.0:
            raise SpeculationError(f"Guess(confidence={self.confidence!r}): must be between 0 and 1.")
        has_both = self.output is not NOTHING and self.resume is not NOTHING
        if has_both or (self.is_empty and not self.usage):
            raise SpeculationError("Guess(...): give an output, or resume= for the answer to an interrupt.")

    @property
    def is_empty(self) -> bool:
        """Whether it proposes nothing, and only says what asking has cost."""
        return self.output is NOTHING and self.resume is NOTHING


class BaseSpeculator:
    """A Speculator that knows more than its node's input, or learns.

    Subclasses define `guess`, `aguess`, or both, each in one of the forms that a function may have: an output, a
    `Guess`, several, ``None``, or a generator of them. Asynchronous runs call `aguess` on the event loop; where it is
    missing, and in synchronous runs, `guess` is called in a thread.

    An instance may serve several nodes and several runs at a time.

    Attributes:
        is_free: Whether asking it spends no tokens; one that does is asked as far as that is worth it.
    """

    is_free = True

    def bind(self, node: NodeInfo) -> BaseSpeculator:
        """The Speculator for one node of the graph; called once, when the graph is wrapped.

        Raises:
            SpeculationError: It cannot guess for such a node.
        """
        return self

    def guess(self, value: Any, config: RunnableConfig) -> Any:
        """Guess what the node will return.

        Args:
            value: The node's input; a copy.
            config: The run's configurable, without callbacks, checkpointer or store.
        """
        raise NotImplementedError

    def learn(self, value: Any, output: Any, config: RunnableConfig) -> None:
        """Be told what an execution of the node in a committed run was given and has returned.

        Called in a thread of the library's, one call at a time, in the order of the run. It may keep `value` and
        `output`, but not change them.
        """


Speculator = Callable[[Any], Any] | BaseSpeculator
"""From a node's input to an output, a `Guess`, several, or ``None``; see the package docstring."""


def guesses_of(returned: Any) -> list[Guess]:
    """The guesses in one value that a Speculator returned or yielded, most confident first."""
    if returned is None:
        return []
    if isinstance(returned, Guess):
        return [returned]
    if isinstance(returned, list | tuple) and returned and all(isinstance(r, Guess) for r in returned):
        return sorted(returned, key=lambda g: -g.confidence)
    return [Guess(returned)]


def is_stream(returned: Any) -> bool:
    """Whether a Speculator returned a generator of guesses rather than a value."""
    return inspect.isgenerator(returned) or isinstance(returned, AsyncIterator)


def is_async(speculator: Any) -> bool:
    """Whether a Speculator runs on the event loop, as a coroutine function or an asynchronous generator."""
    call = getattr(speculator, "__call__", None)  # noqa: B004 - an object's own method, to look at, not to call
    return any(
        inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for f in (speculator, call) if f is not None
    )


def check_speculator(node: str, speculator: Any) -> None:
    """Refuse what cannot be called with one argument, at wrap time.

    Raises:
        SpeculationError: Not a callable, or it needs another number of arguments.
    """
    if isinstance(speculator, BaseSpeculator):
        return
    if not callable(speculator):
        raise SpeculationError(
            f"speculators[{node!r}] is {type(speculator).__name__!r}, not a callable: "
            "pass a function from the node's input to its output."
        )
    try:
        signature = inspect.signature(speculator)
    except (TypeError, ValueError):  # a builtin without a signature: found out when called
        return
    try:
        signature.bind(object())
    except TypeError as error:
        raise SpeculationError(
            f"speculators[{node!r}] has the signature {signature}, but is called with one argument, "
            f"the node's input ({error})."
        ) from None


def known_names(names: Iterable[str]) -> str:
    """Names for an error message."""
    return ", ".join(repr(n) for n in sorted(names)) or "none"
