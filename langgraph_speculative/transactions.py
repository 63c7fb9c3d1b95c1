"""Database transactions that begin early: a ready-made declaration of staged tools, on SQLAlchemy 2.

    with transactions.connection(engine) as c:      # in the tool; in the plain graph the same as engine.begin()
        c.execute(...)

    effects={"book": transactions.transaction(engine, scope="room:{room}")}

What a rollback does not take back happens early for good: numbers drawn from sequences, advisory locks of the session,
a COMMIT that the code sends as text.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from langgraph_speculative._transactions import Source, Terms, Transaction, current, handle_of
from langgraph_speculative.effects import Action, Declaration, Prepared, Scope, irreversible, staged
from langgraph_speculative.errors import SpeculationError

try:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session
except ImportError as error:
    raise SpeculationError('transactions need SQLAlchemy 2: pip install "langgraph-speculative[sql]".') from error

_ISOLATIONS = ("SERIALIZABLE", "REPEATABLE READ", "READ COMMITTED")


def transaction(
    engine: Engine | AsyncEngine,
    *,
    scope: Scope | None = None,
    isolation: str = "SERIALIZABLE",
    lock_timeout: float = 0.05,
    max_open: float | None = None,
    early_on_sqlite: bool = False,
) -> Declaration:
    """The tool changes this database alone, by `connection` or `session` (`aconnection`, `asession`) of this engine.

    Early, all their blocks in one call share one transaction, each behind a savepoint; the claim commits it, and nobody
    sees it before. A block inside a block sees the outer one's writes, blocks at the same time are refused (the run
    then makes the call itself), and so is any other connection of this engine. What it has read is as old as its
    beginning.

    Early transactions have a pool of their own (four for each engine). One that conflicts with anything, or does not
    find a connection at once, is rolled back, even if the code has swallowed the error, and the run makes the call
    itself.

    While one is open, the rows that it has changed are locked: the run ends those of overlapping scope before it acts,
    and other code waits for at most `max_open` (code that still runs then, is ended at its next statement, or by the
    server when it has idled or waited for as long again). Code of yours at SERIALIZABLE may have to retry more often.

    SQLite has one write lock for the whole file: unless `early_on_sqlite`, the tool never runs early there. With it,
    every other writer waits for up to `max_open`; keep that below their busy timeout, which is 5 seconds by default.

    A connection that is lost before COMMIT is sent makes the run execute the call itself. One that is lost during
    COMMIT leaves open whether it has happened: its error is the tool's own, as in the plain run.

    Args:
        engine: Of PostgreSQL or SQLite.
        scope: What the tool touches.
        isolation: ``"SERIALIZABLE"``, ``"REPEATABLE READ"`` or ``"READ COMMITTED"``; SQLite knows the first alone.
        lock_timeout: Seconds that an early transaction waits for a lock of somebody else.
        max_open: Seconds after which it is rolled back; by default 10, and 2 on SQLite.
        early_on_sqlite: Hold SQLite's write lock early.

    Raises:
        SpeculationError: Another database, a SQLite database in memory, or a value that makes no sense.
    """
    sync = engine.sync_engine if isinstance(engine, AsyncEngine) else engine
    sqlite = sync.dialect.name == "sqlite"
    if not sqlite and sync.dialect.name != "postgresql":
        raise SpeculationError(f"transaction() knows PostgreSQL and SQLite, not {sync.dialect.name}: use staged().")
    max_open = (2.0 if sqlite else 10.0) if max_open is None else max_open
    for name, seconds in (("lock_timeout", lock_timeout), ("max_open", max_open)):
        if not 0 < seconds < math.inf:
            raise SpeculationError(f"transaction({name}={seconds!r}): seconds must be positive, and an end.")
    if isolation not in _ISOLATIONS:
        raise SpeculationError(f"transaction(isolation={isolation!r}): it is one of {', '.join(_ISOLATIONS)}.")
    if sqlite and not early_on_sqlite:
        return irreversible(scope=scope)
    if sqlite and _in_memory(sync):
        raise SpeculationError("A SQLite database in memory has no second connection: use a file, or irreversible().")
    source, terms = Source.of(sync), Terms(isolation, lock_timeout, max_open)

    def prepare(action: Action, execute: Callable[[], Any]) -> Any:
        made = Transaction(source.engine(), terms)
        made.open()
        with made.rolled_back_on_error(), made.visible(sync):
            result = execute()
        if inspect.isawaitable(result):
            return finish(made, result)
        with made.rolled_back_on_error():
            return made.prepared(result)

    async def finish(made: Transaction, result: Awaitable[Any]) -> Prepared:
        with made.rolled_back_on_error():
            with made.visible(sync):
                value = await result
            return made.prepared(value)

    async def aprepare(action: Action, execute: Callable[[], Any]) -> Prepared:
        made = Transaction(source.engine(), terms)
        await made.aopen()
        try:
            with made.visible(sync):
                result = execute()
                if inspect.isawaitable(result):
                    result = await result
            return made.prepared(result)
        except BaseException as error:
            await made.on_its_loop(made.roll_back)
            made.reraise(error)
            raise

    def commit(action: Action) -> None:
        handle_of(action).commit()

    def abort(action: Action) -> None:
        if action.handle is not None:
            handle_of(action).roll_back()

    async def acommit(action: Action) -> None:
        made = handle_of(action)
        await made.on_its_loop(made.commit)

    async def aabort(action: Action) -> None:
        if action.handle is not None:
            made = handle_of(action)
            await made.on_its_loop(made.roll_back)

    if isinstance(engine, AsyncEngine):
        return staged(aprepare, acommit, aabort, scope=scope)
    return staged(prepare, commit, abort, scope=scope)


@contextmanager
def connection(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that is committed at the end of the block: ``engine.begin()``, or, early, a
    savepoint of the open early transaction.

    Raises:
        SpeculationError: Early, and the tool is not declared with `transaction` of this engine.
    """
    if (early := current(engine)) is None:
        with engine.begin() as plain:
            yield plain
    else:
        with early.block(), early.connection.begin_nested():
            yield early.connection


@contextmanager
def session(engine: Engine, **kwargs: Any) -> Iterator[Session]:
    """The same for the ORM: a session that is committed at the end of the block. `kwargs` are those of `Session`."""
    early = current(engine)
    if early is None:
        with Session(engine, **kwargs) as plain, plain.begin():
            yield plain
    else:
        kwargs["join_transaction_mode"] = "create_savepoint"
        with early.block(), Session(early.connection, **kwargs) as joined, joined.begin():
            yield joined


@asynccontextmanager
async def aconnection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """`connection` of an `AsyncEngine`."""
    if (early := current(engine.sync_engine)) is None:
        async with engine.begin() as plain:
            yield plain
    else:
        with early.block():
            async with early.aconnection.begin_nested():
                yield early.aconnection


@asynccontextmanager
async def asession(engine: AsyncEngine, **kwargs: Any) -> AsyncIterator[AsyncSession]:
    """`session` of an `AsyncEngine`. `kwargs` are those of `AsyncSession`."""
    early = current(engine.sync_engine)
    if early is None:
        async with AsyncSession(engine, **kwargs) as plain, plain.begin():
            yield plain
    else:
        kwargs["join_transaction_mode"] = "create_savepoint"
        with early.block():
            async with AsyncSession(early.aconnection, **kwargs) as joined, joined.begin():
                yield joined


def _in_memory(engine: Engine) -> bool:
    database = engine.url.database or ":memory:"
    return ":memory:" in database or "mode=memory" in database or engine.url.query.get("mode") == "memory"
