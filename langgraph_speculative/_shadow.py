"""Shadows: asking the Speculators of a run, whatever kind of callable they are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig

from langgraph_speculative import _compat
from langgraph_speculative._histories import Histories, Loan
from langgraph_speculative._ledger import Execution
from langgraph_speculative._nodes import LeafInfo, NodeInfo
from langgraph_speculative._rate_limiters import GUESSING, REASON, NoToken
from langgraph_speculative._scheduler import NoRoom
from langgraph_speculative._workers import Workers
from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess, guesses_of, is_async, is_stream

if TYPE_CHECKING:
    from langgraph_speculative._session import Session

_END = object()


class Shadows:
    """The Speculators under way in one run.

    Args:
        propose: Called with each guess, as it comes.
    """

    def __init__(
        self,
        session: Session,
        workers: Workers,
        histories: Histories,
        propose: Callable[[Execution, Guess, NodeInfo], None],
    ) -> None:
        self._session = session
        self._workers = workers
        self._histories = histories
        self._propose = propose
        self._policy = session.policy
        self._speculating = 0

    def start(self, core: Execution, info: NodeInfo) -> None:
        """Ask for guesses at the output of an execution."""
        if self._speculating >= self._policy.max_speculators:
            self._session.stop("max_speculators are under way", info, core.step)
        else:
            core.shadow = self._workers.spawn(self._shadow(core, info))

    async def _shadow(self, core: Execution, info: NodeInfo) -> None:
        """Ask the Speculator of one execution, and act on each guess as it comes."""
        GUESSING.set(True)
        self._session.report.speculator_calls += 1
        asked = time.monotonic()
        self._session.valuation.asked(info)
        guesses = self._ask(core, info)
        try:
            taken = 0
            async for guess in guesses:
                self._session.counters.add_tokens(guess.usage.items(), "draft")
                self._session.valuation.guessed(info, guess)
                if guess.is_empty:
                    continue
                if not taken:
                    self._session.valuation.answered(info, time.monotonic() - asked)
                self._propose(core, guess, info)
                taken += 1
                if taken >= self._policy.breadth:
                    break
        except NoRoom:
            self._session.stop("no thread is free", info, core.step)
        except NoToken:
            self._session.stop(f"Speculator of {info.label!r}: {REASON}", info, core.step)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            # Of whatever kind: what ends programs is not for a guess to raise.
            self._session.valuation.failed(info, error, guess=True)
            self.failed(info, core.step, error)
        finally:
            await guesses.aclose()

    async def _ask(self, core: Execution, info: NodeInfo) -> AsyncGenerator[Guess, None]:
        """The guesses of a node's Speculator, whatever kind of callable it is."""
        speculator = info.speculator
        loans: list[Loan] = []
        value = self._histories.take_input(core.input, loans)
        if isinstance(speculator, BaseSpeculator):
            returned = await self._based(speculator, value, core.config)
        elif is_async(speculator):
            with self._asking():
                returned = speculator(value)
                if not is_stream(returned):
                    returned = await returned
        else:
            returned = await self._asking_in_pool(speculator, value)
        if not is_stream(returned):
            guesses = guesses_of(returned)
            # It has returned, so it is done with its input; a generator may look at it until it is abandoned.
            for loan in loans:
                self._histories.give_back(loan, [guess.output for guess in guesses])
            for guess in guesses:
                yield guess
            return
        while True:
            if hasattr(returned, "__anext__"):
                with self._asking():
                    item = await anext(returned, _END)
            else:
                item = await self._asking_in_pool(next, returned, _END)
            if item is _END:
                return
            for guess in guesses_of(item):
                yield guess

    async def _based(self, speculator: BaseSpeculator, value: Any, config: RunnableConfig) -> Any:
        aguess, config = getattr(speculator, "aguess", None), _compat.guess_config(config)
        if self._session.sync or aguess is None:
            return await self._asking_in_pool(speculator.guess, value, config)
        with self._asking():
            returned = aguess(value, config)
            return returned if is_stream(returned) else await returned

    # A Speculator keeps its place for as long as it works: one that hangs in a thread until the thread is free.

    @contextmanager
    def _asking(self) -> Iterator[None]:
        self._speculating += 1
        try:
            yield
        finally:
            self._speculating -= 1

    async def _asking_in_pool(self, function: Callable[..., Any], *args: Any) -> Any:
        def ended() -> None:
            self._speculating -= 1

        self._speculating += 1
        try:
            return await self._workers.in_pool(function, *args, done=ended)
        except NoRoom:
            ended()
            raise

    def failed(self, info: LeafInfo, step: int, error: BaseException) -> None:
        """A Speculator raised, or its guess does not fit: an entry in the report."""
        self._session.report.speculator_errors += 1
        text = f"Speculator of {info.label!r}: {type(error).__name__}: {error}"
        self._session.report.errors.append(text[:500])
        self._session.emit("error", info, step, text[:500])
