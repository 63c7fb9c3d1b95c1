"""Who speculates: shares of the threads, and what speculation saves against a group of them that does not."""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from math import sqrt
from statistics import NormalDist
from typing import Any, Literal

Group = Literal["speculative", "holdout", "plain"]

MAX_THREADS = 4096


class Groups:
    """Puts each thread into a group, always the same one.

    Args:
        rollout: Share of the threads outside of the holdout that speculate.
        holdout: Share of the threads that run plain and are timed.
    """

    def __init__(self, rollout: float, holdout: float) -> None:
        self._rollout = rollout
        self._holdout = holdout
        self._single = itertools.count()
        # Not a UUID: a program may have made those deterministic, and counts them.
        self._salt = secrets.token_hex(16)

    @property
    def is_active(self) -> bool:
        """Whether there is more than one group."""
        return self._rollout < 1 or self._holdout > 0

    def of(self, thread: str | None) -> Group:
        """The group of a thread; of a run without one, another one each time."""
        name = f"{self._salt} {next(self._single)}" if thread is None else thread
        if _share(f"holdout {name}") < self._holdout:
            return "holdout"
        return "speculative" if _share(f"rollout {name}") < self._rollout else "plain"


def _share(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(blake2b(text.encode(), digest_size=7).digest()) / 2**56


@dataclass
class Arm:
    """Seconds of the runs of one group, clustered by thread, in bounded memory.

    A thread's sums are kept apart for as long as it is one of the `MAX_THREADS` seen last; then it is closed.
    """

    runs: int = 0
    seconds: float = 0.0
    threads: int = 0
    # Over the threads: the sums of s², s·n and n², where s is a thread's seconds and n its runs.
    _squares: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    _open: OrderedDict[str, tuple[float, int]] = field(default_factory=OrderedDict)

    def add(self, thread: str | None, seconds: float) -> None:
        """A run has ended; one without a thread stands alone."""
        before, runs = (0.0, 0) if thread is None else self._open.pop(thread, (0.0, 0))
        self.threads += runs == 0
        self.runs += 1
        self.seconds += seconds
        after = before + seconds, runs + 1
        for at, (new, old) in enumerate(zip(_products(*after), _products(before, runs), strict=True)):
            self._squares[at] += new - old
        if thread is not None:
            self._open[thread] = after
            if len(self._open) > MAX_THREADS:
                self._open.popitem(last=False)

    @property
    def mean(self) -> float:
        """Seconds per run."""
        return self.seconds / self.runs if self.runs else 0.0

    @property
    def variance(self) -> float:
        """Of the mean: that of a ratio estimator over clusters, ``T / (T - 1) * sum((s - mean * n)^2) / runs^2``."""
        ss, sn, nn = self._squares
        left = max(0.0, ss - 2 * self.mean * sn + self.mean**2 * nn)
        return self.threads / (self.threads - 1) * left / self.runs**2


def _products(seconds: float, runs: int) -> tuple[float, float, float]:
    return seconds * seconds, seconds * runs, float(runs * runs)


@dataclass
class Holdout:
    """Runs that speculated against runs that were held out.

    Attributes:
        speculative: Those that speculated.
        plain: Those that were held out.
    """

    speculative: Arm = field(default_factory=Arm)
    plain: Arm = field(default_factory=Arm)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, group: Group, thread: str | None, seconds: float) -> None:
        """A run has ended without an error."""
        with self._lock:
            (self.plain if group == "holdout" else self.speculative).add(thread, seconds)

    def saved(self) -> tuple[float, float, float] | None:
        """Seconds saved per run, and the bounds of the 95 % interval (Welch); ``None`` below two threads in a group."""
        one, two = self.plain, self.speculative
        if min(one.threads, two.threads) < 2:
            return None
        difference, variance = one.mean - two.mean, one.variance + two.variance
        if variance == 0:
            return difference, difference, difference
        # Welch and Satterthwaite's degrees of freedom, of the threads.
        parts = [arm.variance**2 / (arm.threads - 1) for arm in (one, two)]
        half = _student(variance**2 / sum(parts)) * sqrt(variance)
        return difference, difference - half, difference + half

    def to_dict(self) -> Mapping[str, Any] | None:
        """JSON-ready, times in seconds; ``None`` before any run was held out."""
        with self._lock:
            if not self.plain.runs:
                return None
            found = self.saved()
            share = self.plain.mean or 1.0
            return {
                "plain": {"runs": self.plain.runs, "threads": self.plain.threads, "mean": self.plain.mean},
                "speculative": {
                    "runs": self.speculative.runs,
                    "threads": self.speculative.threads,
                    "mean": self.speculative.mean,
                },
                "saved": found and found[0],
                "saved_interval": found and list(found[1:]),
                "saved_share": found and found[0] / share,
                "saved_share_interval": found and [bound / share for bound in found[1:]],
            }


class Place:
    """One run in its group: a context manager that times it, unless it is of neither group that is compared.

    A run that raises, or whose consumer leaves, is not counted: it is not known how long it would have taken.
    """

    def __init__(self, group: Group, thread: str | None, reports: Sequence[Holdout]) -> None:
        self.speculates = group == "speculative"
        self._group = group
        self._thread = thread
        self._reports = reports
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._group != "plain":
            for report in self._reports:
                report.add(self._group, self._thread, time.monotonic() - self._began)


def _student(freedom: float) -> float:
    """The 97.5 % quantile of Student's t: Cornish-Fisher's expansion, within 2 % from 3 degrees of freedom on."""
    if freedom < 3:
        # Linear in 1 / freedom between the known values.
        known = {1: 12.706, 2: 4.303, 3: 3.182}
        low = max(1, int(freedom))
        share = (1 / low - 1 / max(1.0, freedom)) / (1 / low - 1 / (low + 1))
        return known[low] + share * (known[low + 1] - known[low])
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (n + 1) for n, term in enumerate(terms))
