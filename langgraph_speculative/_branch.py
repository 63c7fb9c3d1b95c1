"""The tree of supersteps below the committed run: states and choices, no I/O.

A `Frame` is one superstep: of the real run, or of a branch. Its children are the next superstep under one choice of
outputs for its tasks: a guess for some, the actual output for others.

States of a branch's frame:

    FORKING ---> RUNNING ---> DEAD        a guess that it stands on is refuted, or the run has ended
       |---------- | ------->  ^
       |           ----------> ENDED      nothing left to run: the graph's end, a breakpoint, the recursion limit
       ----------------------> ENDED      the guess does not fit the state

A frame whose tasks the run has all claimed or adopted is the run's own step seen from the branch: the real frame takes
it as its `twin` and continues its children.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from math import prod
from typing import TYPE_CHECKING, Any

from langgraph_speculative._ids import match
from langgraph_speculative.effects import Scopes

if TYPE_CHECKING:
    from langgraph_speculative._compat import Snapshot
    from langgraph_speculative._journal import Journal
    from langgraph_speculative._ledger import Execution


class FrameState(Enum):
    REAL = auto()
    FORKING = auto()
    RUNNING = auto()
    ENDED = auto()
    DEAD = auto()


class Verdict(Enum):
    OPEN = auto()
    RIGHT = auto()
    WRONG = auto()


@dataclass(eq=False)
class Proposal:
    """A guess at the output of one execution, as frozen writes too, and what became of it.

    `taint`: where it comes from a nested graph's branch, what the effects touch that this stands on and that are not
    made yet. `journals`: the store writes of that branch. `is_partial`: it is a message that the Actor is still
    writing. `probability`: the calibrated confidence. `guessed`: the nodes whose outputs were guessed for it. `source`,
    `rank`: who guessed, and its place among the guesses of its window; no source where it comes from a nested graph's
    branch or from the Actor's own stream.
    """

    output: Any
    confidence: float
    frozen: Any = None
    verdict: Verdict = Verdict.OPEN
    taint: Scopes = frozenset()
    journals: Sequence[Journal] = ()
    is_partial: bool = False
    probability: float = -1.0
    guessed: Sequence[str] = ()
    source: str = ""
    rank: int = 0

    def __post_init__(self) -> None:
        if self.probability < 0:
            self.probability = self.confidence


Choice = tuple["Proposal | None", ...]
"""For each task of a frame the guess that is taken for its output, or ``None`` for the actual output."""


class Frame:
    """One superstep; see the module's docstring."""

    def __init__(self, loop: Any, step: int, *, parent: Frame | None, choice: Choice = ()) -> None:
        self.loop = loop
        self.step = step
        self.state = FrameState.REAL if parent is None else FrameState.FORKING
        self.parent = parent
        self.choice = choice
        self.children: dict[Choice, Frame] = {}
        self.tasks: list[Any] = []
        self.executions: list[Execution] = []
        self.snapshot: Snapshot | None = None
        self.known: Container[str] | None = None
        self.ahead: Frame | None = None
        self.twin: Frame | None = None
        self.is_twin = False
        self.lent: tuple[Execution, Proposal] | None = None
        # Where its one execution is a person who answers a question: the writes that wait with it.
        self.pending: list[Any] | None = None
        # In the step after that: these writes, and the answer.
        self.answered: Sequence[Any] = ()
        self.fixed: list[Any] = []
        self.expected = 0
        self.over = False

    def __repr__(self) -> str:
        return f"<Frame step={self.step} {self.state.name} children={len(self.children)}>"

    @property
    def is_real(self) -> bool:
        return self.state is FrameState.REAL

    @property
    def is_tentative(self) -> bool:
        """Whether it stands on a message that is still being written: its tool calls are worth making, no more."""
        return any(p is not None and p.is_partial and p.verdict is not Verdict.RIGHT for p in self.choice)

    @property
    def is_complete(self) -> bool:
        """Whether all tasks of the superstep are known with their executions."""
        return bool(self.executions or self.fixed) and len(self.executions) == (self.expected or len(self.tasks))

    def used(self) -> set[Execution]:
        """The executions that this line of supersteps uses: none of them serves it twice."""
        out: set[Execution] = set()
        frame: Frame | None = self
        while frame is not None:
            for ex in frame.executions:
                out.add(ex)
                out.update(ex.leaves)
            frame = frame.parent
        return out

    def taint(self) -> Scopes:
        """What the effects touch that this line of supersteps stands on and that nobody has made yet."""
        out: set[str] = set()
        frame: Frame = self
        while frame.parent is not None:
            for ex, proposal in zip(frame.parent.executions, frame.choice, strict=True):
                if proposal is None:
                    continue
                touched = frozenset() if ex.has_output or not ex.effect.acts else ex.scopes
                if touched is None or proposal.taint is None:
                    return None
                out |= touched | proposal.taint
            frame = frame.parent
        return frozenset(out)

    def options(self) -> list[list[Proposal | None]]:
        """For each task what its output may be taken to be, likeliest first; an empty list where nothing is."""
        out: list[list[Proposal | None]] = []
        for ex in self.executions:
            right = next((p for p in ex.proposals if p.verdict is Verdict.RIGHT), None)
            if ex.has_output:
                # A guess that proved right keeps its child: the same content, with the guess's own ids.
                out.append([right])
            else:
                possible = [p for p in ex.proposals if p.verdict is not Verdict.WRONG]
                out.append([*sorted(possible, key=lambda p: -p.probability)])
        return out

    def next_choices(self, breadth: int) -> list[Choice]:
        """The choices to fork now, best joint confidence first, at most `breadth` open ones in all."""
        options = self.options()
        if not all(options):
            return []
        if (self.is_real or self.is_twin) and all(ex.has_output for ex in self.executions):
            return []  # the run itself goes on from here
        alive = sum(1 for c in self.children.values() if c.state is not FrameState.DEAD and not c.is_tentative)
        out = []
        # The product is in the order of the options; a few of the best joint ones are enough.
        candidates = itertools.islice(itertools.product(*options), 16 * breadth)
        for choice in sorted(candidates, key=lambda c: -prod(p.probability if p else 1.0 for p in c)):
            if choice in self.children:
                continue
            certain = all(ex.has_output for ex in self.executions)
            # What the Actor itself has written is no guess among others, and there is one of it at a time.
            written = any(p and p.is_partial for p in choice)
            if not certain and not written and alive >= breadth:
                continue
            out.append(choice)
            alive += not written
        return out

    def refuted_children(self) -> list[Frame]:
        """Children that stand on a guess which proved wrong."""
        return [
            child
            for choice, child in self.children.items()
            if child.state is not FrameState.DEAD and any(p and p.verdict is Verdict.WRONG for p in choice)
        ]

    def confirmed_child(self) -> Frame | None:
        """The child that stands on actual outputs and right guesses alone."""
        # Of two right ones that which went on, and not only as far as the tool calls.
        for choice, child in sorted(self.children.items(), key=lambda c: any(p and p.is_partial for p in c[0])):
            if child.state is FrameState.DEAD:
                continue
            if all(
                (p is None and ex.has_output) or (p is not None and p.verdict is Verdict.RIGHT)
                for p, ex in zip(choice, self.executions, strict=True)
            ):
                return child
        return None


class Window:
    """How far ahead of the committed run its graphs may be speculated on: it slides with each committed superstep.

    Args:
        depth: Supersteps ahead (d in arXiv 2510.04371).
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._committed: dict[int, int] = {}
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []

    def __bool__(self) -> bool:
        """Whether something waits for it."""
        return bool(self._waiting)

    def _covers(self, graph: int, step: int) -> bool:
        return graph in self._committed and step <= self._committed[graph] + self._depth

    def when_within(self, graph: int, step: int, go: Callable[[], None]) -> None:
        """Run `go` once the window of a graph covers a superstep of it, at once if it does."""
        if self._covers(graph, step):
            go()
        else:
            self._waiting.append((graph, step, go))

    def advance(self, graph: int, step: int) -> None:
        """The run has come to this superstep of a graph."""
        self._committed[graph] = step
        ready = [w for w in self._waiting if w[0] == graph and self._covers(graph, w[1])]
        self._waiting = [w for w in self._waiting if w not in ready]
        for _, _, go in ready:
            go()

    def clear(self) -> None:
        """Nothing is speculated on any more."""
        self._waiting.clear()


def judge(ex: Execution, actual: Any, known: Container[str]) -> None:
    """Compare the guesses for an execution with its actual output, as frozen writes (``None``: it cannot be frozen)."""
    for proposal in ex.proposals:
        if proposal.verdict is Verdict.OPEN:
            comparable = proposal.frozen is not None and actual is not None
            right = comparable and match(proposal.frozen, actual, known, unminted=True) is not None
            proposal.verdict = Verdict.RIGHT if right else Verdict.WRONG
