"""What all copies of one speculative graph share: what is known of its nodes, reports, what is learned, open waits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, cast

from langchain_core.runnables import RunnableConfig

from langgraph_speculative import _compat, _scheduler
from langgraph_speculative._compat import CONF
from langgraph_speculative._groups import Groups, Place
from langgraph_speculative._knowledge import Knowledge
from langgraph_speculative._learning import Learning
from langgraph_speculative._limits import RateLimits
from langgraph_speculative._memory import Memory
from langgraph_speculative._rewrite import Rewritten
from langgraph_speculative._session import Session
from langgraph_speculative._view import INSIDE, KEY, View
from langgraph_speculative._waiting import Turn, Wait, Waits
from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.journal import Journal, journal_of
from langgraph_speculative.policy import MODES, Mode, Policy
from langgraph_speculative.report import Report

TRACKERS: ContextVar[tuple[tuple[object, Report], ...]] = ContextVar("langgraph_speculative_trackers", default=())
"""Reports of blocks that count the runs which start in them, each with whose runs."""

ENVIRONMENT = "LANGGRAPH_SPECULATIVE"


class Speculation:
    """What all copies of one speculative graph share."""

    def __init__(self, plain_nodes: dict[str, Any], rewritten: Rewritten, policy: Policy, name: str = "graph") -> None:
        self.plain_nodes = plain_nodes
        self.rewritten = rewritten
        self.policy = policy
        self.report = Report()
        self.limits = RateLimits(policy.rate_limits)
        self.knowledge = Knowledge(policy)
        self.groups = Groups(policy.rollout, policy.holdout)
        store = policy.store
        self.memory = None if store is None else Memory(store, name, self.knowledge, self, self.report)
        self._journal: Journal | None = None
        self._learning = Learning(self, self.report)
        self.is_active = any(i.speculate or i.called for i in (rewritten.start, *rewritten.all_infos()))
        self.closed = False
        self.waits: Waits | None = None
        if policy.between_turns is not None and rewritten.start.speculate:
            self.waits = Waits(
                policy.between_turns,
                rewritten.start,
                self._learning,
                lambda ran, wait: self._session(ran.policy, ran.sync, ran.concurrency.limit, wait=wait),
            )

    def mode(self, config: RunnableConfig | None) -> str:
        """The mode of one request: the environment's switch, the request's own, the policy's."""
        if os.environ.get(ENVIRONMENT, "").lower() == "off":
            return "off"
        own = ((config or {}).get("metadata") or {}).get("speculation")
        if isinstance(own, Mapping):
            own = own.get("mode")
        if own is None:
            return self.policy.mode
        if own not in MODES:
            raise SpeculationError(f"config metadata 'speculation' is {own!r}; it must be one of {', '.join(MODES)}.")
        return str(own)

    def open(self, config: RunnableConfig | None, *, sync: bool, thread: str = "", given: Any = None) -> Session | None:
        """A session for a run, or ``None`` where the run is plain, or a part of a run that has one."""
        mode = self.mode(config)
        if not self.is_active or self.closed or (sync and _scheduler.CONTROL.is_current_thread()):
            return None
        for where in (config, _compat.var_child_runnable_config.get()):
            view = ((where or {}).get(CONF) or {}).get(KEY)
            if view is INSIDE or (view is not None and view.session is not None and self._shares(view, sync)):
                return None
        if mode != "on":
            self.moved(thread)
        if mode == "off":
            return None
        if self.memory is not None:
            self.memory.load()
        policy = self.policy if mode == self.policy.mode else replace(self.policy, mode=cast(Mode, mode))
        beside = (config or {}).get("max_concurrency")
        if self.waits is None or mode != "on" or not thread:
            return self._session(policy, sync, beside)
        session = self.waits.take(thread, sync=sync)
        if session is None:
            session = self._session(policy, sync, beside)
        else:
            session.go_on(self._trackers(), beside)
        session.turn = Turn(thread, given)
        return session

    def _session(
        self, policy: Policy, sync: bool, max_concurrency: int | None = None, wait: Wait | None = None
    ) -> Session:
        return Session(
            policy,
            self,
            sync=sync,
            trackers=self._trackers() if wait is None else (self.report,),
            limits=self.limits,
            journal=self.journal,
            learning=self._learning,
            knowledge=self.knowledge,
            max_concurrency=max_concurrency,
            wait=wait,
        )

    def place(self, config: RunnableConfig | None) -> Place | None:
        """The group of a run; none for one whose mode is its own or "off", and for a part of a run."""
        if self.mode(config) == "off" or self.closed:
            return None
        if ((config or {}).get("metadata") or {}).get("speculation") is not None:
            return None
        ambient = _compat.var_child_runnable_config.get()
        if any(((where or {}).get(CONF) or {}).get(KEY) is not None for where in (config, ambient)):
            return None
        threads = [((where or {}).get(CONF) or {}).get("thread_id") for where in (config, ambient)]
        thread = next((str(t) for t in threads if t is not None), None)
        return Place(self.groups.of(thread), thread, [report.holdout for report in self._trackers()])

    def _trackers(self) -> tuple[Report, ...]:
        return (self.report, *(report for owner, report in TRACKERS.get() if owner is self))

    def ended(self, session: Session, *, well: bool) -> None:
        """A run has ended: what was learned is kept, and after one without an error a person may be waited for."""
        if self.memory is not None:
            self.memory.save()
        if self.waits is None or self.closed or not well:
            return
        try:
            self.waits.after(session)
        except Exception as error:
            self.report.errors.append(f"nothing is guessed between turns: {error!r}")

    def moved(self, thread: str) -> None:
        """A thread goes on, and not from where it waits."""
        if self.waits is not None:
            self.waits.moved(thread)

    def journal(self) -> Journal:
        """What early actions are written down in; opened when the first one is."""
        if self._journal is None:
            self._journal = journal_of(self.policy.journal)
        return self._journal

    def save(self) -> None:
        """Keep what was learned, for the last time."""
        if self.memory is not None:
            self.memory.save(at_once=True)

    def close(self) -> list[Wait]:
        """End speculation; the waits that are still to end."""
        self.closed = True
        self.save()
        waits = [] if self.waits is None else self.waits.close()
        if self._journal is not None:
            self._journal.shut()
        return waits

    @staticmethod
    def _shares(view: View, sync: bool) -> bool:
        """A nested graph takes part in its caller's session if it runs in the same world."""
        session = view.session
        if session is None or session.closed or session.sync is not sync:
            return False
        if sync:
            return True
        return session.loop is asyncio.get_running_loop()
