"""Which process an entry of the journal belongs to, whether that one still lives, and its lease."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import socket
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langgraph_speculative.errors import SpeculationError

LEASE = 30.0
"""Seconds."""
_PATIENCE = 5.0


def this_process() -> str:
    """The current process, as JSON: its host, boot, pid namespace, pid and start. A forked child is another one."""
    return _describe(os.getpid())


@functools.lru_cache(maxsize=1)
def _describe(pid: int) -> str:
    status = _status(pid)
    about = {
        "host": socket.gethostname(),
        "boot": _boot(),
        "namespace": _namespace(),
        "pid": pid,
        "start": status[1] if status else "",
    }
    return json.dumps(about, sort_keys=True)


if hasattr(os, "register_at_fork"):
    # The pid tells a child from its parent, but not from a process that is gone and had the same one.
    os.register_at_fork(after_in_child=_describe.cache_clear)


def is_alive(owner: str, *, one_host: bool) -> bool | None:
    """Whether a process lives.

    Args:
        owner: What `this_process` said there.
        one_host: All owners share this machine, so that a host of the same name has merely been booted again.

    Returns:
        ``None`` if that cannot be told from here: it is on another host, or in another container.
    """
    try:
        other: dict[str, Any] = json.loads(owner)
        own: dict[str, Any] = json.loads(this_process())
        if other["host"] != own["host"]:
            return None
        if other["boot"] != own["boot"]:
            return False if one_host else None
        if not own["boot"] and not one_host:
            return None  # two machines may have the same name
        if other["namespace"] != own["namespace"] or os.name != "posix":  # elsewhere, a signal 0 is one
            return None
        return _runs(other["pid"], other["start"])
    except (ValueError, TypeError, LookupError, OverflowError):
        return None


def _runs(pid: int, start: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    if (status := _status(pid)) is None:  # no /proc, or one that hides the processes of others
        return True
    state, began = status
    return state not in "ZX" and start in ("", began)


def _status(pid: int) -> tuple[str, str] | None:
    """State and start, in clock ticks since the boot; see proc(5)."""
    try:
        # The second field is the program's name in parentheses, and may hold some itself.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, LookupError):
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def is_dead(owner: str, lease_ends: float, now: float, *, one_host: bool) -> bool:
    alive = is_alive(owner, one_host=one_host)
    return now >= lease_ends if alive is None else not alive


class Leased:
    """What this process has open, and the thread that renews its lease meanwhile."""

    def __init__(self, lease: float, clock: Callable[[], float]) -> None:
        if not lease > 0:
            raise SpeculationError(f"lease={lease!r}: seconds must be positive.")
        self._lease = lease
        self._clock = clock
        self._lock = threading.RLock()
        self._open: set[str] = set()
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None
        with _FORKING:
            _ALL.add(self)

    def _opened(self, id: str) -> None:
        with self._lock:
            self._open.add(id)
            if self._stop is None:
                self._stop = threading.Event()
                name = "langgraph-speculative-journal"
                self._thread = threading.Thread(target=self._beat, args=(self._stop,), daemon=True, name=name)
                self._thread.start()

    def _closed(self, id: str) -> None:
        with self._lock:
            self._open.discard(id)

    def _beat(self, stop: threading.Event) -> None:
        while not stop.wait(self._lease / 3):
            with self._lock:
                if self._stop is not stop:
                    return
                if not self._open:
                    self._stop = None
                    return
            with contextlib.suppress(Exception):  # the next beat tries again; there are two before the lease ends
                self._renew(this_process(), self._clock() + self._lease)

    def _renew(self, owner: str, until: float) -> None:
        raise NotImplementedError

    def _release(self) -> None:
        """Give up what must not be used on both sides of a fork."""

    def shut(self) -> None:
        with self._lock:
            if self._stop is not None:
                self._stop.set()
                self._stop = None
            self._open.clear()
            thread, self._thread = self._thread, None
        # Whoever closes the store next must find no renewal under way: a `SqliteStore` would crash the process. But a
        # store whose loop has stopped never answers.
        if thread is not None:
            thread.join(_PATIENCE)
        with self._lock:
            self._release()


# --- forks: no journal is in the middle of anything while the process is copied ---------------------------------------

_ALL: weakref.WeakSet[Leased] = weakref.WeakSet()
_FORKING = threading.RLock()
_held: list[Leased] = []


def _before_fork() -> None:
    _FORKING.acquire()
    for journal in list(_ALL):
        journal._lock.acquire()
        _held.append(journal)
        # A connection that both had would take the locks of one for the other's: https://sqlite.org/howtocorrupt.html
        journal._release()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()
    _FORKING.release()


def _after_fork_in_child() -> None:
    for journal in _held:
        journal._open.clear()
        journal._stop = journal._thread = None
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
