"""The journal of early actions: what a killed process must not leave behind.

    BEGUN ---> DONE ---> (closed)      reversible: claimed, or undone
       |         |-----> COMMITTING ---> (closed)      staged: the claim has decided; the commit is under way
       |         |<----------|         its commit was refused or has failed: it is aborted
       ----------------> (closed)      undone or aborted before it had ended

An entry is written before the action's code is entered, and closed when nothing of it can be left to take back.

It belongs to the process that wrote it, or took it over. Of a process on the same machine it is known at once whether
it lives. For others there are leases, by the wall clock: an entry has one from its beginning, and while a process has
entries open, a daemon thread renews the lease of them all three times as often as it ends.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from langgraph.store.base import BaseStore

from langgraph_speculative._entries import NAMES, Entry, Phase, Stored, dump, encode, latest_first, load, lost
from langgraph_speculative._owner import LEASE, Leased, is_dead, this_process
from langgraph_speculative._store_journal import StoreJournal
from langgraph_speculative.errors import SpeculationError

__all__ = ["Entry", "Journal", "Phase", "SqliteJournal", "StoreJournal", "encode", "journal_of", "this_process"]


@runtime_checkable
class Journal(Protocol):
    """Where entries are kept. Its methods block; they may be called from any thread, but on no event loop."""

    def begin(self, entry: Entry) -> None:
        """Write an entry; when this returns, it is safe.

        Raises:
            SpeculationError: It cannot be written. A store raises its own errors.
        """

    def advance(self, id: str, phase: Phase, *, result: Any = None, handle: Any = None) -> None:
        """Note how far an entry of this process has come; ``None`` leaves the result or handle as it is.

        Raises:
            SpeculationError: It cannot be written; or this process has no such entry, or no longer.
        """

    def close(self, id: str) -> None:
        """Remove an entry of this process. If there is none, or another process has taken it over, nothing happens.

        Raises:
            SpeculationError: It cannot be written.
        """

    def abandoned(self, names: Collection[str]) -> list[Entry]:
        """The entries of these tools and nodes whose process is dead, in the order to take them back: latest first.

        Raises:
            SpeculationError: It cannot be read.
        """

    def take(self, entry: Entry) -> bool:
        """Make an abandoned entry one of this process.

        Returns:
            ``False`` if another thread or process was faster, if it is closed, or if its process lives after all.

        Raises:
            SpeculationError: It cannot be written.
        """

    def shut(self) -> None:
        """Release what it holds open, and renew no lease any more. Open entries stay; a later call opens it again.

        A renewal under way is waited for, for up to five seconds.
        """


# --- SQLite -----------------------------------------------------------------------------------------------------------

_KIND = 0x4C475350  # "LGSP": https://sqlite.org/pragma.html#pragma_application_id
_VERSION = 1
_PATIENCE = 10.0
_COLUMNS = (*NAMES, "origin", "begun", "application", "lease_ends")
_NUMBERS = ("order", "begun", "lease_ends")
_TABLES = (
    "CREATE TABLE entries ("
    + ", ".join(f'"{c}" {"NUMERIC" if c in _NUMBERS else "TEXT"} NOT NULL' for c in _COLUMNS)
    + ", PRIMARY KEY (id))",
    "CREATE TABLE owners (owner TEXT PRIMARY KEY, lease_ends REAL NOT NULL)",
    f"PRAGMA application_id = {_KIND}",
    f"PRAGMA user_version = {_VERSION}",
)
_INSERT = f"INSERT INTO entries VALUES ({', '.join(f':{c}' for c in _COLUMNS)})"
_DEAD = "is_dead(owner, max(lease_ends, ifnull((SELECT o.lease_ends FROM owners o WHERE o.owner = entries.owner), 0)))"


class SqliteJournal(Leased):
    """A journal in a file, for all processes of one host.

    The file and its folder are made at the first `begin`. Each call is a transaction that is on the disk when it
    returns. `take` compares and swaps, so that exactly one wins.

    Args:
        path: The file. It must be on a local disk, and is for journals alone.
        application: Entries of other applications in the same file are not seen.
        lease: Seconds after which a process of another host or container that shows no sign of life is taken for dead.
            Processes of the same one are looked up instead.
        clock: Seconds of the wall clock.

    Raises:
        SpeculationError: A lease that is not positive, or a file in memory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        application: str = "",
        *,
        lease: float = LEASE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if os.fspath(path) == ":memory:":
            raise SpeculationError("A journal in memory is gone with its process: pass the path of a file.")
        self.path = Path(path).absolute()
        self.application = application
        self._connection: sqlite3.Connection | None = None
        super().__init__(lease, clock)

    def __repr__(self) -> str:
        return f"SqliteJournal({str(self.path)!r})"

    def __del__(self) -> None:
        if (connection := getattr(self, "_connection", None)) is not None:
            connection.close()

    def begin(self, entry: Entry) -> None:
        now = self._clock()
        row = dump(Stored(entry, entry.owner, now))
        with self._database(create=True) as db:
            if db is not None:
                db.execute(_INSERT, row | {"application": self.application, "lease_ends": now + self._lease})
        if entry.owner == this_process():
            self._opened(entry.id)

    def advance(self, id: str, phase: Phase, *, result: Any = None, handle: Any = None) -> None:
        values = [encode(result), encode(handle)]
        known = ", ".join(f"{name} = ifnull(nullif(?, 'null'), {name})" for name in ("result", "handle"))
        with self._database() as db:
            query = f"UPDATE entries SET phase = ?, {known} WHERE id = ? AND owner = ?"
            if db is None or db.execute(query, (phase, *values, id, this_process())).rowcount != 1:
                raise lost(id)

    def close(self, id: str) -> None:
        with self._database() as db:
            if db is not None:
                db.execute("DELETE FROM entries WHERE id = ? AND owner = ?", (id, this_process()))
        self._closed(id)

    def abandoned(self, names: Collection[str]) -> list[Entry]:
        with self._database() as db:
            if db is None:
                return []
            db.execute("DELETE FROM owners WHERE lease_ends <= ?", (self._clock(),))
            query = f"SELECT * FROM entries WHERE application = ? AND {_DEAD}"
            rows = db.execute(query, (self.application,)).fetchall()
        return latest_first(found for row in rows if (found := load(row)).entry.name in names)

    def take(self, entry: Entry) -> bool:
        own = this_process()
        with self._database() as db:
            if db is None:
                return False
            query = f"UPDATE entries SET owner = ?, lease_ends = ? WHERE id = ? AND owner = ? AND {_DEAD}"
            if db.execute(query, (own, self._clock() + self._lease, entry.id, entry.owner)).rowcount != 1:
                return False
        self._opened(entry.id)
        return True

    def _renew(self, owner: str, until: float) -> None:
        with self._lock:
            if self._stop is None:  # shut meanwhile; open nothing again
                return
            with self._database() as db:
                if db is not None:
                    db.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (owner, until))

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _database(self, *, create: bool = False) -> Iterator[sqlite3.Connection | None]:
        """The connection, for one statement; ``None`` if there is no file, unless it is to be created."""
        with self._lock:
            try:
                if self._connection is None and (create or self.path.exists()):
                    self._connection = self._connect(create)
                yield self._connection
            except (sqlite3.Error, OSError) as error:
                self._release()
                if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
                    raise self._foreign() from error
                raise SpeculationError(
                    f"The journal {self.path} cannot be used: {error}. Pass journal= a path that this process can "
                    "write, or set LANGGRAPH_SPECULATIVE_JOURNAL to one."
                ) from error

    def _connect(self, create: bool) -> sqlite3.Connection:
        if create:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(
            f"{self.path.as_uri()}?mode={'rwc' if create else 'rw'}",
            uri=True,
            timeout=_PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            with db:
                db.execute("BEGIN")
                ready = self._is_set_up(db)
            if not ready:
                self._set_up(db)
            db.execute("PRAGMA synchronous = FULL")
            db.row_factory = sqlite3.Row
            clock = self._clock
            db.create_function("is_dead", 2, lambda owner, ends: is_dead(owner, ends, clock(), one_host=True))
        except BaseException:
            db.close()
            raise
        return db

    def _is_set_up(self, db: sqlite3.Connection) -> bool:
        """Whether it is a journal, or else empty; in a transaction, as another process may be setting it up.

        Raises:
            SpeculationError: Somebody else's database.
        """
        (kind,), (version,) = (db.execute(f"PRAGMA {p}").fetchone() for p in ("application_id", "user_version"))
        if kind == _KIND and version == _VERSION:
            return True
        if db.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise self._foreign()
        return False

    def _set_up(self, db: sqlite3.Connection) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:  # this switch is refused at once, whatever the timeout, while another process makes it
            try:
                db.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        with db:
            db.execute("BEGIN IMMEDIATE")
            if not self._is_set_up(db):
                for statement in _TABLES:
                    db.execute(statement)

    def _foreign(self) -> SpeculationError:
        return SpeculationError(
            f"{self.path} is not a journal that this version can read: pass journal= another path; the file is made."
        )


def journal_of(value: Any) -> Journal:
    """What `value` says about where to keep the journal.

    Args:
        value: ``None`` for a file: ``$LANGGRAPH_SPECULATIVE_JOURNAL``, or else ``langgraph_speculative.sqlite`` in the
            working directory; a path; a LangGraph store; a `Journal`.

    Raises:
        SpeculationError: Something else.
    """
    if value is None:
        value = os.environ.get("LANGGRAPH_SPECULATIVE_JOURNAL") or "langgraph_speculative.sqlite"
    if isinstance(value, str | Path):
        return SqliteJournal(value)
    if isinstance(value, BaseStore):
        return StoreJournal(value)
    if isinstance(value, Journal) and not isinstance(value, type):
        return value
    raise SpeculationError(f"journal={value!r}: pass a path, a LangGraph store, or a Journal.")
