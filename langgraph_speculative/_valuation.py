"""Whether what costs something is worth starting early, in one run. ``docs/policy.md`` has the rules in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from statistics import fmean
from typing import TYPE_CHECKING, Any

from langgraph_speculative._admission_value import DEFAULT_SAVING, greedy_breadth, worth
from langgraph_speculative._branch import Choice, Frame, FrameState, Proposal, Verdict
from langgraph_speculative._calibration import Door
from langgraph_speculative._knowledge import Knowledge
from langgraph_speculative._ledger import Execution
from langgraph_speculative._limits import is_too_many
from langgraph_speculative._nodes import LeafInfo, NodeInfo
from langgraph_speculative._spending import Reservation
from langgraph_speculative.report import tokens_in
from langgraph_speculative.speculators._protocol import Guess

if TYPE_CHECKING:
    from langgraph_speculative._session import Session

WORTHLESS = "only what is free is worth starting (value_per_second=0)"


TAKEN = "taken over"
"""Source of the calibration of a call: by how likely its guesses were right, how often it was taken over.

Not the same: what a tool call needs is its own arguments, and the words that were guessed around it may be wrong.
"""


class Valuation:
    """Admission by expected value, evidence and budget; and what it learns from."""

    def __init__(self, session: Session, knowledge: Knowledge) -> None:
        self._session = session
        self._policy = session.policy
        self._knowledge = knowledge
        self._purse = knowledge.spending.open(waits=session.wait is not None)
        self._under_way: dict[Execution, tuple[Reservation, list[Door]]] = {}

    def go_on(self) -> None:
        """A run has come, after a wait."""
        self._purse.waits = False

    # --- guesses ------------------------------------------------------------------------------------------------

    def refuses_guess(self, info: NodeInfo) -> str:
        """Why a node's Speculator is not asked; empty if it is."""
        known = self._knowledge.of(info.label)
        if self._knowledge.pauses.holds([_speculator_of(info)]):
            return self._closed(info, "its Speculator is paused: it was called too often (429)")
        cost = self._knowledge.cost_of_guess(info)
        if cost.is_free:
            return ""
        reason = ""
        if not self._policy.value_per_second:
            return self._closed(info, WORTHLESS)
        if known.breaker.is_open:
            reason = "its Speculator has only cost"
        elif cost.usd and known.breaker.is_tried:
            gain = known.breaker.rate * self._saving_behind(info) * self._policy.value_per_second
            reason = "its Speculator costs more than it saves" if gain <= cost.usd else ""
        if reason and not known.probe_guess():
            return self._closed(info, reason)
        if cost.usd is None and self._policy.budget.counts_usd and known.drafts.total:
            return self._closed(info, "budget: its Speculator's model has no price")
        return self._closed(info, self._knowledge.spending.refuses_guess(self._purse, cost.tokens, cost.usd or 0.0))

    def asked(self, info: NodeInfo) -> None:
        """A node's Speculator is asked."""
        self._knowledge.of(info.label).drafts.calls += 1

    def answered(self, info: NodeInfo, seconds: float) -> None:
        """The first guess has come."""
        self._session.counters.stats(info).guess_seconds.add(seconds)
        self._knowledge.of(info.label).guess_seconds.add(seconds)

    def guessed(self, info: NodeInfo, guess: Guess) -> None:
        """A guess has come: what it has cost."""
        # There is only a sum: it is taken for output, the dearer kind.
        if used := [(model, 0, tokens, tokens) for model, tokens in guess.usage.items()]:
            drafts = self._knowledge.of(info.label).drafts
            self._spent("draft", info, used)
            for model, read, written, total in used:
                drafts.add(model, (read, written), total)

    def proposal(self, info: NodeInfo, guess: Guess, rank: int) -> Proposal:
        """A guess with its calibrated probability."""
        source = guess.source or type(info.speculator).__name__
        with self._knowledge.lock:
            probability = self._knowledge.of(info.label).calibration.probability(source, rank, guess.confidence)
        return Proposal(
            guess.output, guess.confidence, probability=probability, guessed=(info.label,), source=source, rank=rank
        )

    def judged(self, core: Execution, right: bool) -> None:
        """The guesses of one window of the run have been compared with the output."""
        assert isinstance(core.info, NodeInfo)
        known = self._knowledge.of(core.info.label)
        stats = self._session.counters.stats(core.info)
        stats.windows += 1
        stats.hits += right
        with self._knowledge.lock:
            known.door.learn(right)
            known.fresh_windows.append(right)
            if not self._knowledge.cost_of_guess(core.info).is_free:
                known.breaker.learn(right)
            for proposal in core.proposals:
                if proposal.verdict is Verdict.OPEN or not proposal.source:
                    continue
                hit = proposal.verdict is Verdict.RIGHT
                stats.judged += 1
                stats.right += hit
                stats.predicted += proposal.probability
                known.learn(proposal.source, proposal.rank, proposal.confidence, hit)

    # --- branches -----------------------------------------------------------------------------------------------

    def worthwhile(self, frame: Frame, choices: list[Choice]) -> list[Choice]:
        """Those of a superstep's next branches that are worth what may come behind them (the greedy breadth rule)."""
        if not self._policy.prices or all(ex.has_output for ex in frame.executions):
            return choices
        last = frame.executions[-1].info if frame.executions else None
        if not isinstance(last, NodeInfo):
            return choices
        cost = max((self._knowledge.usd_of(label) for label in self._behind(last)), default=0.0)
        # What the Actor itself has written is no guess among others.
        guesses = [choice for choice in choices if not _is_written(choice)]
        if not cost or not guesses:
            return choices
        hit = self._saving_behind(last) * self._policy.value_per_second + cost
        children = {c: child for c, child in frame.children.items() if not _is_written(c)}
        alive = [_joint(choice) for choice, child in children.items() if child.state is not FrameState.DEAD]
        each = sorted(alive, reverse=True) + [_joint(choice) for choice in guesses]
        # The first one is judged call by call.
        branches = max(1, greedy_breadth(each, hit, cost, self._policy.breadth))
        taken = guesses[: max(0, branches - len(alive))]
        return [choice for choice in choices if _is_written(choice) or choice in taken]

    def _behind(self, info: NodeInfo) -> list[str]:
        """The nodes and tools that may come behind a node, of those that have been seen."""
        prefix = info.label[: len(info.label) - len(info.name)]
        seen = list(self._knowledge.nodes)
        if info.successors is None:
            return [label for label in seen if label != info.label]
        own = {prefix + name for name in info.successors}
        return [
            label for label in seen if label in own or any(label.startswith((f"{name}|", f"{name}.")) for name in own)
        ]

    def _saving_behind(self, info: NodeInfo) -> float:
        known, of = self._knowledge.of(info.label), self._knowledge.of
        savings = [known.saving_before(label, of(label)) for label in self._behind(info) if of(label).seconds.count]
        return fmean(savings) if savings else DEFAULT_SAVING

    # --- calls --------------------------------------------------------------------------------------------------

    def refuses_call(self, ex: Execution) -> str:
        """Why an execution is not made early; empty if it may be."""
        knowledge, info = self._knowledge, ex.info
        if knowledge.pauses and knowledge.pauses.holds([info.label, *knowledge.models_of(info.label)]):
            return self._closed(info, f"{info.label!r} is paused: it was called too often (429)")
        cost = knowledge.cost_of(info)
        if cost.is_free:
            return self._closed(info, knowledge.spending.refuses_free(self._purse))
        if not self._policy.value_per_second:
            return self._closed(info, f"{info.label!r} costs, and {WORTHLESS}")
        likely, guessed = line_of(ex)
        if cost.usd is None or cost.tokens:
            for label in guessed:
                if not knowledge.of(label).door.is_open:
                    return self._closed(info, f"{info.label!r} costs, and guesses at {label!r} have not matched")
        if cost.usd is None and self._policy.budget.counts_usd:
            return self._closed(info, f"budget: the model of {info.label!r} has no price")
        known = knowledge.of(info.label)
        probability = self._taken(info, likely, guessed)
        if cost.usd and guessed:
            saving = knowledge.of(guessed[0]).saving_before(info.label, known)
            pays = worth(probability, saving, self._policy.value_per_second, cost.usd)
            if not pays and not known.probe_call():
                return self._closed(info, f"{info.label!r} costs more than a guess would save")
        lost = 1 - probability
        return self._closed(
            info, knowledge.spending.refuses_call(self._purse, lost * cost.tokens, lost * (cost.usd or 0.0))
        )

    def _taken(self, info: LeafInfo, likely: float, guessed: Sequence[str]) -> float:
        """How likely a call is taken over; what stands on no guess has nothing in common with what does."""
        if not guessed:
            return likely
        with self._knowledge.lock:
            return self._knowledge.of(info.label).calibration.probability(TAKEN, 0, likely)

    def began(self, ex: Execution) -> None:
        """An early call begins."""
        likely, guessed = ex.line = line_of(ex)
        cost = self._knowledge.cost_of(ex.info)
        if cost.is_free and self._policy.budget.calls is None:
            return
        lost = 1 - self._taken(ex.info, likely, guessed)
        reservation = self._knowledge.spending.reserve(self._purse, lost * cost.tokens, lost * (cost.usd or 0.0))
        doors = [self._knowledge.of(label).door for label in guessed if not cost.is_free]
        unproven = [door for door in doors if not door.is_proven]
        with self._knowledge.lock:
            for door in unproven:
                door.under_way += 1
        self._under_way[ex] = reservation, unproven

    def ended(self, ex: Execution, *, taken: bool) -> None:
        """An early call is the run's own, or is thrown away."""
        if ex.line is not None:
            (likely, guessed), ex.line = ex.line, None
            with self._knowledge.lock:
                if guessed:
                    self._knowledge.of(ex.info.label).learn(TAKEN, 0, likely, taken)
                for label in guessed if taken else ():
                    self._knowledge.of(label).breaker.taken()
        price = self._knowledge.price_of(ex.info)
        if not taken and (price or ex in self._under_way or ex.has_output):
            used = tokens_in(ex.output) if ex.has_output else self._estimate(ex)
            self._session.counters.add_tokens([(model, round(total)) for model, _, _, total in used], "discarded")
            self._spent("discarded", ex.info, used, price)
        self._release(ex)

    def _estimate(self, ex: Execution) -> list[tuple[str, float, float, float]]:
        """What a call that was cut off has spent: providers bill what they have read."""
        known = self._knowledge.of(ex.info.label).spent
        calls = max(1, known.calls)
        return [(model, i / calls, o / calls, (i + o) / calls) for model, (i, o) in known.by_model.items()]

    def _release(self, ex: Execution) -> None:
        held = self._under_way.pop(ex, None)
        if held is not None:
            self._knowledge.spending.release(self._purse, held[0])
            with self._knowledge.lock:
                for door in held[1]:
                    door.under_way -= 1

    def committed(self, info: LeafInfo, seconds: Sequence[float], used: Sequence[tuple[str, int, int, int]]) -> None:
        """The run has executed a node or tool so many times, and spent tokens: model, input, output, total."""
        known = self._knowledge.of(info.label)
        known.seconds.add(*seconds)
        known.spent.calls += len(seconds)
        for model, read, written, total in used:
            known.spent.add(model, (read, written), total)
        if used or self._policy.prices:
            self._spent("committed", info, used, len(seconds) * self._knowledge.price_of(info))
        if self._knowledge.pauses:
            self._knowledge.pauses.over([info.label, *known.spent.by_model])

    def _spent(
        self, kind: Any, info: LeafInfo, used: Iterable[tuple[str, float, float, float]], usd: float = 0
    ) -> None:
        tokens = 0.0
        for model, read, written, total in used:
            usd += self._knowledge.prices.of_tokens(model, (read, written)) or 0.0
            tokens += total
        if usd:
            spent = self._session.counters.stats(info).usd
            spent[kind] = spent.get(kind, 0.0) + usd
        self._knowledge.spending.count(self._purse, kind, tokens, usd)

    # --- refusals -----------------------------------------------------------------------------------------------

    def failed(self, info: LeafInfo, error: BaseException, *, guess: bool = False) -> None:
        """A call, or the question to a Speculator, has raised: was it one too many?"""
        if is_too_many(error):
            named = [_speculator_of(info)] if guess else [info.label, *self._knowledge.models_of(info.label)]
            self._knowledge.pauses.pause(named, error)

    def _closed(self, info: LeafInfo, reason: str) -> str:
        if reason:
            closed = self._session.counters.stats(info).closed
            closed[reason] = closed.get(reason, 0) + 1
        return reason

    def close(self) -> None:
        """The run has ended."""
        for ex in list(self._under_way):
            self._release(ex)
        self._knowledge.spending.close(self._purse)


def line_of(ex: Execution) -> tuple[float, list[str]]:
    """How likely the run gets to an early execution, and the guessed nodes that it stands on, the nearest first."""
    probability, guessed = 1.0, list[str]()
    frame = ex.frame
    while frame is not None and frame.parent is not None:
        for proposal in frame.choice:
            if proposal is not None and proposal.verdict is not Verdict.RIGHT:
                probability *= proposal.probability
                guessed += proposal.guessed
        frame = frame.parent
    return probability, guessed


def _joint(choice: Choice) -> float:
    return prod(p.probability for p in choice if p is not None and p.verdict is not Verdict.RIGHT)


def _is_written(choice: Choice) -> bool:
    return any(p is not None and p.is_partial for p in choice)


def _speculator_of(info: LeafInfo) -> str:
    return f"Speculator of {info.label}"
