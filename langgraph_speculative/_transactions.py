"""Early transactions: their pools, their state, and what may go wrong with them; for `transactions`."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, ClassVar

from langgraph_speculative.effects import Action, Prepared
from langgraph_speculative.errors import CommitRefused, SpeculationError

try:
    from sqlalchemy import Connection, Engine, ExceptionContext, QueuePool, event
    from sqlalchemy.engine.base import OptionEngine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
    from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool
except ImportError as error:
    raise SpeculationError('transactions need SQLAlchemy 2: pip install "langgraph-speculative[sql]".') from error

POOL_SIZE = 4
"""Early transactions that one engine (of one event loop) has at a time; one more is not begun."""

_OPTION = "langgraph_speculative"

# Serialization, deadlock, a lock or a statement timed out, killed while idle: with more time the run may succeed.
_CONFLICTS = {"40001", "40P01", "55P03", "57014", "25P03", "57P05"}
_SQLITE_CONFLICTS = {5, 6, 9}  # SQLITE_BUSY, SQLITE_LOCKED, SQLITE_INTERRUPT

# The least of what is asked for and what the server is set to; SET LOCAL, since it ends with the transaction.
_LIMITS = """
SELECT set_config(name, CASE WHEN setting::bigint BETWEEN 1 AND ms THEN setting ELSE ms::text END, true)
FROM pg_settings JOIN (VALUES ('lock_timeout', {lock}), ('statement_timeout', {hold}),
('idle_in_transaction_session_timeout', {idle})) AS asked (name, ms) USING (name)
"""


class State(Enum):
    """Of an early transaction."""

    OPEN = auto()  # the tool's code runs in it
    PREPARED = auto()
    COMMITTING = auto()
    COMMITTED = auto()
    ROLLED_BACK = auto()
    UNKNOWN = auto()  # the connection died during COMMIT


@dataclass(frozen=True)
class Terms:
    isolation: str
    lock_timeout: float
    max_open: float


_OPEN: ContextVar[Mapping[Engine, Transaction]] = ContextVar("transactions", default=MappingProxyType({}))


def current(engine: Engine) -> Transaction | None:
    """The early transaction that the code which asks runs in."""
    if not (open_ones := _OPEN.get()):
        return None
    if (found := open_ones.get(engine)) is None:
        raise SpeculationError(
            f"{engine!r} is used early by a tool that is not declared with transaction() of this very engine."
        )
    if found.state is not State.OPEN:
        raise SpeculationError(f"{found!r} is used by code that has outlived the tool's call.")
    return found


def _sqlstate(error: BaseException | None) -> str | None:
    if error is not None and error.args and isinstance(error.args[0], dict):  # pg8000
        return error.args[0].get("C")
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)  # psycopg and asyncpg, psycopg2


def _conflicts(error: BaseException | None) -> bool:
    """Whether somebody else's locks, or the limits of an early transaction, are what is wrong."""
    if (state := _sqlstate(error)) is not None:
        return state in _CONFLICTS
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _SQLITE_CONFLICTS


def _not_committed(error: BaseException) -> bool:
    """Whether what COMMIT has raised says that there was none."""
    if not isinstance(error, DBAPIError):
        return False
    state = _sqlstate(error.orig)
    if error.connection_invalidated:
        return state in ("25P03", "57P05")  # the server had closed it while it was idle
    if state is not None:
        return not state.startswith("08") and state != "40003"
    return hasattr(error.orig, "sqlite_errorcode")


class _EarlyEngine(OptionEngine):
    """The engine again, with its dialect, options and listeners, on a pool of its own."""

    pool: Any = None  # a property otherwise, that shares the parent's
    room: threading.Semaphore


class Source:
    """The early engines of an engine: one, or one for each event loop. Its listeners on the engine keep it alive."""

    _known: ClassVar[weakref.WeakKeyDictionary[Engine, weakref.ref[Source]]] = weakref.WeakKeyDictionary()
    _lock = threading.Lock()

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._engines: weakref.WeakKeyDictionary[Any, tuple[int, _EarlyEngine]] = weakref.WeakKeyDictionary()
        while isinstance(engine, OptionEngine):  # of execution_options(): its parent is what is disposed of
            engine = engine._proxied
        self._root = engine
        event.listen(engine, "engine_connect", self._connects)
        event.listen(engine, "engine_disposed", self._disposed)

    @classmethod
    def of(cls, engine: Engine) -> Source:
        with cls._lock:
            known = cls._known.get(engine)
            if known is None or (source := known()) is None:
                source = cls(engine)
                cls._known[engine] = weakref.ref(source)
            return source

    def engine(self) -> _EarlyEngine:
        key = asyncio.get_running_loop() if self._engine.dialect.is_async else self
        with self._lock:
            if key not in self._engines:
                self._engines[key] = os.getpid(), self._made()
            return self._engines[key][1]

    def _made(self) -> _EarlyEngine:
        # What connects, with the user's arguments, creator and do_connect listeners, is the creator of the pool alone;
        # what Pool.recreate does with it cannot be told another size.
        of, size = self._engine.pool, {"pool_size": POOL_SIZE, "max_overflow": 0, "timeout": 0.01}
        kind: Any = AsyncAdaptedQueuePool if self._engine.dialect.is_async else QueuePool
        if isinstance(of, NullPool):  # connections that are kept would outlive a loop, or be in the way of a proxy
            kind, size = NullPool, {}
        engine = _EarlyEngine(self._root, self._engine.get_execution_options())
        engine.room = threading.BoundedSemaphore(POOL_SIZE)
        engine.pool = kind(
            of._creator,
            pre_ping=True,
            recycle=of._recycle,
            dialect=self._engine.dialect,
            _dispatch=of.dispatch,
            **size,
        )
        event.listen(engine, "before_cursor_execute", _executes)
        event.listen(engine, "commit", _commits)
        event.listen(engine, "handle_error", _fails)
        return engine

    def _connects(self, connection: Connection) -> None:
        early = _OPEN.get().get(self._engine)
        if early is not None and not isinstance(connection.engine, _EarlyEngine):
            connection.close()
            raise early.lose("its code connects to the engine by other means than connection() and session()")

    def _disposed(self, engine: Engine) -> None:
        with self._lock:
            engines = list(self._engines.values())
            self._engines.clear()
        for pid, early in engines:
            if pid == os.getpid():  # or they are the parent's
                early.pool.dispose()


def _of(connection: Connection | None) -> Transaction | None:
    return None if connection is None else connection.get_execution_options().get(_OPTION)


def _executes(connection: Connection, *_: Any) -> None:
    if (early := _of(connection)) is not None and early.lost is not None:
        raise CommitRefused(f"{early!r} is lost.") from early.lost


def _commits(connection: Connection) -> None:
    if (early := _of(connection)) is not None and early.state is not State.COMMITTING:
        raise early.lose("its code commits it, before the end of the block")


def _fails(context: ExceptionContext) -> None:
    if (early := _of(context.connection)) is not None and early.lost is None:
        if context.is_disconnect or _conflicts(context.original_exception):
            early.lost = context.original_exception


def _task() -> tuple[int, object]:
    try:
        return threading.get_ident(), asyncio.current_task()
    except RuntimeError:
        return threading.get_ident(), None


class Transaction:
    """One early transaction: the handle of its action.

    Its methods block; those of an asynchronous engine's run in the greenlet of a task (`on_its_loop`).

    Attributes:
        state: Changed under the lock; what is to be done then is done outside of it, by who has changed it.
        lost: Why it cannot be committed, whatever its code makes of that.
        connection: Its connection.
        aconnection: The same, of an asynchronous engine.
    """

    connection: Connection
    aconnection: AsyncConnection

    def __init__(self, engine: _EarlyEngine, terms: Terms) -> None:
        self.state = State.OPEN
        self.lost: BaseException | None = None
        self._engine = engine
        self._terms = terms
        self._lock = threading.Lock()
        self._users: list[tuple[int, object]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: threading.Timer | asyncio.TimerHandle
        self._expiry: asyncio.Future[None]
        self._ending: asyncio.Future[None]
        self._sqlite: Any = None

    def __repr__(self) -> str:
        return f"<early transaction of {self._engine.dialect.name}, {self.state.name}>"

    # --- the first phase ---

    def open(self) -> None:
        with self._room():
            self._begin(self._engine.connect())
        self._timer = threading.Timer(self._terms.max_open, self._expire)
        self._timer.name = "langgraph-speculative-transaction"
        self._timer.daemon = True
        self._timer.start()

    async def aopen(self) -> None:
        self._loop = asyncio.get_running_loop()
        with self._room():
            self.aconnection = await AsyncEngine(self._engine).connect()
            await self.aconnection.run_sync(self._begin)
        self._timer = self._loop.call_later(self._terms.max_open, self._expire_in_task)

    @contextmanager
    def _room(self) -> Iterator[None]:
        if not self._engine.room.acquire(blocking=False):
            raise CommitRefused(f"{POOL_SIZE} early transactions of {self._engine.url!r} are open already.")
        try:
            yield
        except BaseException as error:
            self._engine.room.release()
            if isinstance(error, Exception):
                raise CommitRefused(f"No early transaction could be begun: {error}") from error
            raise

    def _begin(self, connection: Connection) -> None:
        self.connection = connection
        wait, hold = (max(1, round(1000 * s)) for s in (self._terms.lock_timeout, self._terms.max_open))
        try:
            if self._engine.dialect.name == "sqlite":
                connection.execution_options(**{_OPTION: self})
                self._root = connection.begin()
                dbapi: Any = connection.connection.dbapi_connection
                self._sqlite = connection.connection.driver_connection
                if self._sqlite.in_transaction:
                    connection.exec_driver_sql("ROLLBACK")  # a listener of the user has begun one that may have to wait
                # By itself sqlite3 begins no transaction before a read, and with None a stray write commits itself.
                dbapi.isolation_level = "IMMEDIATE"
                connection.exec_driver_sql(f"PRAGMA busy_timeout = {wait}")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execution_options(isolation_level=self._terms.isolation, **{_OPTION: self})
                self._root = connection.begin()
                # Our timer is to come first: what the server ends costs a connection.
                connection.exec_driver_sql(_LIMITS.format(lock=wait, hold=hold, idle=hold + 1000))
        except BaseException:
            self.state = State.ROLLED_BACK
            self._give_back()
            raise

    @contextmanager
    def visible(self, engine: Engine) -> Iterator[None]:
        """`connection` and the like find it."""
        token = _OPEN.set({**_OPEN.get(), engine: self})
        try:
            yield
        finally:
            _OPEN.reset(token)

    @contextmanager
    def block(self) -> Iterator[None]:
        """One block of the tool's code: by its task alone, or savepoints would end in any order."""
        me = _task()
        with self._lock:
            alone = not self._users or self._users[-1] == me
            if alone:
                self._users.append(me)
        if not alone:
            raise self.lose("two tasks or threads of its code use it at the same time")
        try:
            yield
        finally:
            self._users.pop()

    def lose(self, why: str) -> CommitRefused:
        self.lost = self.lost or CommitRefused(f"{self!r} is lost: {why}.")
        return CommitRefused(str(self.lost))

    @contextmanager
    def rolled_back_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.roll_back()
            self.reraise(error)
            raise

    def reraise(self, error: BaseException) -> None:
        """Tell what is the early transaction's fault from an error of the tool."""
        if self.lost is not None and isinstance(error, Exception):
            raise CommitRefused(f"{self!r} is lost: {self.lost}") from self.lost

    def prepared(self, result: Any) -> Prepared:
        with self._lock:
            if self.lost is None and self._root.is_active and not self._users:
                self.state = State.PREPARED
                return Prepared(result, self)
        raise self.lose("its code has ended it, or has left a block of it open")

    # --- the second phase ---

    def commit(self) -> None:
        with self._lock:
            if self.state is State.COMMITTED:
                return
            if self.state is State.UNKNOWN and self.lost is not None:
                raise self.lost
            if self.state is not State.PREPARED:
                raise CommitRefused(f"{self!r} cannot be committed: {self.lost or 'it was aborted'}.")
            self.state = State.COMMITTING
        sent = False
        try:
            self.connection.exec_driver_sql("SELECT 1")  # tells a connection lost before COMMIT from one lost during it
            sent = True
            self._root.commit()
        except BaseException as error:
            self.lost = error
            nothing = not sent or _not_committed(error)
            self.state = State.ROLLED_BACK if nothing else State.UNKNOWN
            self._close()
            if nothing and isinstance(error, Exception):
                raise CommitRefused(f"{self!r} could not be committed: {error}") from error
            raise
        self.state = State.COMMITTED
        self._close()

    def roll_back(self) -> None:
        with self._lock:
            if self.state not in (State.OPEN, State.PREPARED):
                return
            self.state = State.ROLLED_BACK
        self._close()

    async def on_its_loop(self, step: Callable[[], None]) -> None:
        """`commit` or `roll_back`, to its end even if the caller is cancelled."""

        async def taken() -> None:
            await self.aconnection.run_sync(lambda _: step())

        loop = self._loop
        if loop is asyncio.get_running_loop():
            self._ending = asyncio.ensure_future(taken())
        elif loop is not None and loop.is_running():
            self._ending = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(taken(), loop))
        elif step == self.commit:
            raise CommitRefused(f"{self!r} belongs to an event loop that runs no more.")
        else:
            return
        await asyncio.shield(self._ending)

    def _close(self) -> None:
        self._timer.cancel()
        self._give_back()
        self._engine.room.release()

    def _give_back(self) -> None:
        """Roll back what is not committed, and return the connection to its pool."""
        with suppress(Exception):
            if (root := self.connection.get_transaction()) is not None:
                root.rollback()  # or close() takes one whose COMMIT has failed for one that has ended
            self.connection.close()
        if not self.connection.closed:
            with suppress(Exception):
                self.connection.invalidate()
                self.connection.close()

    # --- max_open ---

    def _expired(self) -> State | None:
        """The state that it was in, if this is the end of it."""
        with self._lock:
            found = self.state
            if found not in (State.OPEN, State.PREPARED):
                return None
            self.lost = self.lost or CommitRefused(f"it was open for longer than {self._terms.max_open} seconds")
            if found is State.PREPARED:
                self.state = State.ROLLED_BACK
            return found

    def _expire(self) -> None:
        found = self._expired()
        if found is State.PREPARED:
            self._close()
        elif found is State.OPEN and self._engine.dialect.name == "sqlite":
            with suppress(Exception):  # its code has the connection; PostgreSQL itself ends what idles
                self._sqlite.interrupt()
                self._sqlite.rollback()

    def _expire_in_task(self) -> None:
        async def expire() -> None:
            found = self._expired()
            if found is State.PREPARED:
                await self.aconnection.run_sync(lambda _: self._close())
            elif found is State.OPEN and self._engine.dialect.name == "sqlite":
                with suppress(Exception):
                    await self._sqlite.interrupt()
                    await self._sqlite.rollback()

        self._expiry = asyncio.ensure_future(expire())


def handle_of(action: Action) -> Transaction:
    if not isinstance(action.handle, Transaction):
        raise CommitRefused(f"The early transaction of {action.name!r} has ended with its process.")
    return action.handle
