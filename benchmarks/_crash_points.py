"""Where a process of `benchmarks.crash` may be killed, what it notes before, and how it is forked and killed."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from langgraph_speculative.journal import Entry, Phase, SqliteJournal

PATIENCE = 60.0
"""Seconds after which a process counts as hanging."""


DECISIVE = frozenset(
    {
        *("begun", "prepared", "advances", "advanced", "enters a commit", "has committed", "takes back", "took back"),
        *("closes", "closed", "claim", "made", "takes", "took"),
    }
)
"""Points at which something is decided: few among the statements and events."""


class Points:
    """Counts the points that a process passes, notes those that say something in a file, and kills it at one of them.

    A line is handed to the kernel before the process goes on, so SIGKILL loses none.

    Args:
        path: The file.
        fatal: Number of the point at which to kill, from 1; ``None`` to live.
        decisive: Whether that is its number among the decisive ones.

    Attributes:
        passed: How many have been passed, of all and of the decisive ones.
    """

    def __init__(self, path: Path, fatal: int | None = None, *, decisive: bool = False) -> None:
        self._decisive = decisive
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fatal = fatal
        self._numbers = itertools.count(1), itertools.count(1)
        self.passed = [0, 0]

    def __call__(self, what: str, **values: Any) -> None:
        if values:
            os.write(self._file, json.dumps({"what": what, **values}).encode() + b"\n")
        for decisive in (False, True):
            if not decisive or what in DECISIVE:
                self.passed[decisive] = number = next(self._numbers[decisive])
                if number == self._fatal and decisive is self._decisive:
                    os.kill(os.getpid(), signal.SIGKILL)


def notes_in(path: Path) -> list[dict[str, Any]]:
    """What a process has noted."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class WatchedJournal(SqliteJournal):
    """A journal with a point before and after each write."""

    def __init__(self, path: Path, note: Callable[..., None]) -> None:
        super().__init__(path)
        self._note = note

    def begin(self, entry: Entry) -> None:
        self._note("begins", id=entry.id, name=entry.name, arguments=entry.arguments)
        super().begin(entry)
        self._note("begun", id=entry.id)

    def advance(self, id: str, phase: Phase, **kwargs: Any) -> None:
        self._note("advances")
        super().advance(id, phase, **kwargs)
        self._note("advanced", id=id, phase=phase)

    def close(self, id: str) -> None:
        self._note("closes")
        super().close(id)
        self._note("closed", id=id)

    def take(self, entry: Entry) -> bool:
        self._note("takes")
        taken = super().take(entry)
        self._note("took")
        return taken


class WatchedSaver(SqliteSaver):
    """A checkpointer with a point before and after each write."""

    note: Callable[..., None]

    def put(self, *args: Any, **kwargs: Any) -> Any:
        self.note("puts")
        config = super().put(*args, **kwargs)
        self.note("put")
        return config

    def put_writes(self, *args: Any, **kwargs: Any) -> None:
        self.note("puts writes")
        super().put_writes(*args, **kwargs)
        self.note("put writes")


class WatchedAsyncSaver(AsyncSqliteSaver):
    """The same on an event loop."""

    note: Callable[..., None]

    async def aput(self, *args: Any, **kwargs: Any) -> Any:
        self.note("puts")
        config = await super().aput(*args, **kwargs)
        self.note("put")
        return config

    async def aput_writes(self, *args: Any, **kwargs: Any) -> None:
        self.note("puts writes")
        await super().aput_writes(*args, **kwargs)
        self.note("put writes")


# --- processes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    """How a process has ended.

    Attributes:
        killed: By us, or by itself.
        seconds: From its start to its end.
        error: Its traceback, or that it has hung.
    """

    killed: bool
    seconds: float
    error: str = ""


def in_child(work: Callable[[Callable[[], None]], object], delay: float | None = None) -> Ended:
    """Do something in a forked process; this one must have no threads.

    Args:
        work: Given a function that it calls when it begins with what counts.
        delay: Seconds after that at which it is killed.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(reading)
            work(lambda: os.write(writing, b"+") and None)
            status = 0
        except BaseException:
            os.write(writing, traceback.format_exc()[-3000:].encode())
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb", buffering=0) as pipe:
        error, since = _first(pipe), time.monotonic()
        rest, killed = None, False
        if error == b"+":
            error = b""
            rest = _read(pipe, PATIENCE if delay is None else delay)
        if rest is None and not error:
            killed = delay is not None
            error = b"" if killed else b"it hangs"
            os.kill(pid, signal.SIGKILL)
        seconds = time.monotonic() - since
        _, status = os.waitpid(pid, 0)
    killed = killed or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
    text = (error + (rest or b"")).decode(errors="replace")
    if not text and not killed and status:
        text = f"it ended with status {status}"
    return Ended(killed, seconds, text)


def _first(pipe: Any) -> bytes:
    ready, _, _ = select.select([pipe], [], [], PATIENCE)
    return pipe.read(3000) if ready else b"it hangs before it begins"


def _read(pipe: Any, timeout: float) -> bytes | None:
    """What comes until its end; ``None`` if nothing does in time."""
    ready, _, _ = select.select([pipe], [], [], max(0.0, timeout))
    return pipe.read(3000) if ready else None


# --- what is left of a killed one -----------------------------------------------------------------------------------


def entries_in(path: Path) -> Iterator[tuple[str, str, Phase]]:
    """Id, name and phase of what a journal holds."""
    if path.exists():
        with closing(sqlite3.connect(path)) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'entries'").fetchone():
                for id, name, phase in db.execute("SELECT id, name, phase FROM entries"):
                    yield id, name, Phase(phase)


def steps_in(path: Path) -> int | None:
    """The superstep of a thread's last checkpoint; ``None`` if it has none."""
    if not path.exists():
        return None
    with closing(sqlite3.connect(path, check_same_thread=False)) as db:
        found = SqliteSaver(db).get_tuple({"configurable": {"thread_id": "t"}})
    return None if found is None else int(found.metadata["step"])
