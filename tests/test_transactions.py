"""Transactions that begin early, on SQLite files and PostgreSQL: seen after the commit, and never in the run's way."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib
import sqlite3
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from langgraph_speculative.effects import Action, Declaration, Effect
from langgraph_speculative.errors import CommitRefused, SpeculationError
from tests.support import LIMIT, Signal

pytest.importorskip("sqlalchemy", reason="sqlalchemy is not installed")

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from langgraph_speculative import _transactions
from langgraph_speculative.transactions import aconnection, asession, connection, session, transaction

CALL = Action(id="1", name="book", arguments={"room": 1})


class Base(DeclarativeBase):
    pass


class Room(Base):
    __tablename__ = "rooms"
    id: Mapped[int] = mapped_column(primary_key=True)
    guest: Mapped[str]


@pytest.fixture(scope="session")
def server(postgres_server: str) -> str:
    """The server's address, as SQLAlchemy has it."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    return postgres_server.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/db" if request.param == "sqlite" else request.getfixturevalue("server")


def filled(engine: Engine) -> Engine:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with engine.begin() as c:
        c.execute(text("INSERT INTO rooms VALUES (1, 'nobody'), (2, 'nobody')"))
    return engine


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    engine = filled(create_engine(url))
    yield engine
    engine.dispose()


@pytest.fixture
def postgres(server: str) -> Iterator[Engine]:
    engine = filled(create_engine(server))
    yield engine
    engine.dispose()


@pytest.fixture
async def aengine(url: str) -> AsyncIterator[AsyncEngine]:
    if url.startswith("sqlite"):
        pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")
    plain = create_engine(url)
    filled(plain).dispose()
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"))
    yield engine
    await engine.dispose()


def early(engine: Engine | AsyncEngine, **kwargs: Any) -> Declaration:
    return transaction(engine, early_on_sqlite=True, **kwargs)


def prepared(declaration: Declaration, code: Callable[[], Any]) -> Action:
    assert declaration.prepare is not None
    made = declaration.prepare(CALL, code)
    return replace(CALL, finished=True, result=made.result, handle=made.handle)


async def aprepared(declaration: Declaration, code: Callable[[], Any]) -> Action:
    assert declaration.prepare is not None
    made = await declaration.prepare(CALL, code)
    return replace(CALL, finished=True, result=made.result, handle=made.handle)


def booking(engine: Engine, guest: str = "ann", room: int = 1) -> Callable[[], str]:
    def book() -> str:
        with connection(engine) as c:
            c.execute(text("UPDATE rooms SET guest = :guest WHERE id = :room"), {"guest": guest, "room": room})
        return f"booked for {guest}"

    return book


def abooking(engine: AsyncEngine, guest: str = "ann", room: int = 1) -> Callable[[], Any]:
    async def book() -> str:
        async with aconnection(engine) as c:
            await c.execute(text("UPDATE rooms SET guest = :guest WHERE id = :room"), {"guest": guest, "room": room})
        return f"booked for {guest}"

    return book


def guests(engine: Engine) -> list[str]:
    with engine.connect() as c:
        return list(c.scalars(text("SELECT guest FROM rooms ORDER BY id")))


async def aguests(engine: AsyncEngine) -> list[str]:
    async with engine.connect() as c:
        return list(await c.scalars(text("SELECT guest FROM rooms ORDER BY id")))


def commit(declaration: Declaration, action: Action) -> Any:
    assert declaration.commit is not None
    return declaration.commit(action)


def abort(declaration: Declaration, action: Action) -> Any:
    assert declaration.abort is not None
    return declaration.abort(action)


def under_way(action: Action) -> int:
    """How many early transactions there are, and connections of their pool in use."""
    engine = action.handle._engine
    count = _transactions.POOL_SIZE - engine.room._value
    assert isinstance(engine.pool, NullPool) or engine.pool.checkedout() == count
    return int(count)


# --- the two phases ---------------------------------------------------------------------------------------------


def test_what_is_prepared_is_seen_only_after_the_commit(engine: Engine) -> None:
    declaration = early(engine)
    action = prepared(declaration, booking(engine))
    assert action.result == "booked for ann"
    assert guests(engine) == ["nobody", "nobody"]
    commit(declaration, action)
    assert guests(engine) == ["ann", "nobody"]
    assert under_way(action) == 0


def test_an_abort_leaves_nothing(engine: Engine) -> None:
    declaration = early(engine)
    action = prepared(declaration, booking(engine))
    abort(declaration, action)
    assert under_way(action) == 0
    booking(engine, "bob")()
    assert guests(engine) == ["bob", "nobody"]


def test_both_phases_may_be_in_different_threads(engine: Engine) -> None:
    declaration = early(engine)
    actions: list[Action] = []
    thread = threading.Thread(target=lambda: actions.append(prepared(declaration, booking(engine))), daemon=True)
    thread.start()
    thread.join(LIMIT)
    commit(declaration, actions[0])
    assert guests(engine) == ["ann", "nobody"]


def test_the_second_phase_is_idempotent(engine: Engine) -> None:
    declaration = early(engine)
    action = prepared(declaration, booking(engine))
    commit(declaration, action)
    commit(declaration, action)
    abort(declaration, action)
    assert guests(engine) == ["ann", "nobody"]
    action = prepared(declaration, booking(engine, "bob"))
    abort(declaration, action)
    abort(declaration, action)
    with pytest.raises(CommitRefused, match="ROLLED_BACK> cannot be committed: it was aborted"):
        commit(declaration, action)
    assert guests(engine) == ["ann", "nobody"]


def test_after_a_crash_there_is_nothing_to_abort_and_nothing_to_commit(engine: Engine) -> None:
    declaration = early(engine)
    abort(declaration, CALL)
    with pytest.raises(CommitRefused, match="ended with its process"):
        commit(declaration, CALL)


def test_the_connections_are_used_again_and_are_clean(engine: Engine) -> None:
    declaration = early(engine)
    handles = []
    for end in (commit, abort) * _transactions.POOL_SIZE:
        action = prepared(declaration, booking(engine))
        end(declaration, action)
        handles.append(action.handle)
    pool = handles[-1]._engine.pool
    assert pool.checkedin() == 1
    assert all(h._engine.pool is pool is not engine.pool for h in handles)


def test_two_declarations_of_an_engine_share_its_early_pool(engine: Engine) -> None:
    one = prepared(early(engine), booking(engine))
    abort(early(engine), one)
    other = prepared(early(engine), booking(engine))
    abort(early(engine), other)
    assert one.handle._engine is other.handle._engine


def test_an_async_tool_may_use_a_blocking_engine(engine: Engine) -> None:
    declaration = early(engine)

    async def book() -> str:
        await asyncio.sleep(0)
        return booking(engine)()

    async def fail() -> None:
        booking(engine, "bob")()
        raise KeyError("room")

    action = asyncio.run(aprepared(declaration, book))
    assert guests(engine) == ["nobody", "nobody"]
    commit(declaration, action)
    assert guests(engine) == ["ann", "nobody"]
    with pytest.raises(KeyError, match="room"):
        asyncio.run(aprepared(declaration, fail))
    assert guests(engine) == ["ann", "nobody"]


# --- conflicts --------------------------------------------------------------------------------------------------


def test_an_error_of_the_tool_is_its_own_and_leaves_nothing(engine: Engine) -> None:
    declaration = early(engine)

    def fail() -> None:
        booking(engine)()
        raise KeyError("room")

    with pytest.raises(KeyError, match="room"):
        prepared(declaration, fail)
    booking(engine, "bob")()
    assert guests(engine) == ["bob", "nobody"]


def test_an_error_of_the_database_that_is_no_conflict_is_the_tools_own(engine: Engine) -> None:
    def insert() -> str:
        with connection(engine) as c:
            c.execute(text("INSERT INTO rooms VALUES (1, 'twice')"))
        return "inserted"

    def careful() -> str:
        try:
            return insert()
        except IntegrityError:
            return booking(engine)()

    with pytest.raises(IntegrityError):
        prepared(early(engine), insert)
    action = prepared(early(engine), careful)
    commit(early(engine), action)
    assert guests(engine) == ["ann", "nobody"]


def test_a_lock_of_the_run_is_not_waited_for_and_the_run_is_not_disturbed(engine: Engine) -> None:
    declaration = early(engine)
    with engine.begin() as real:
        real.execute(text("UPDATE rooms SET guest = 'real' WHERE id = 1"))
        with pytest.raises(CommitRefused, match="lock"):
            prepared(declaration, booking(engine))
    assert guests(engine) == ["real", "nobody"]
    commit(declaration, prepared(declaration, booking(engine)))
    assert guests(engine) == ["ann", "nobody"]


def test_a_conflict_that_the_code_swallows_is_not_its_result(postgres: Engine) -> None:
    def polite() -> str:
        try:
            return booking(postgres)()
        except DBAPIError:
            return "sorry"

    with postgres.begin() as real:
        real.execute(text("UPDATE rooms SET guest = 'real' WHERE id = 1"))
        with pytest.raises(CommitRefused, match="lock timeout"):
            prepared(early(postgres), polite)


def test_rows_that_others_have_changed_since_are_a_conflict(postgres: Engine) -> None:
    def late() -> str:
        with connection(postgres) as c:
            c.execute(text("SELECT 1"))
            contextvars.Context().run(booking(postgres, "real"))
        return booking(postgres)()

    with pytest.raises(CommitRefused, match="could not serialize"):
        prepared(early(postgres), late)
    assert guests(postgres) == ["real", "nobody"]


def test_a_serialization_failure_refuses_the_commit_and_the_real_call_works(postgres: Engine) -> None:
    """Each books a room because the other one is free: write skew."""

    def book(room: int, guest: str) -> None:
        with connection(serializable) as c:
            free = c.scalar(text("SELECT count(*) FROM rooms WHERE guest = 'nobody'"))
            c.execute(
                text("UPDATE rooms SET guest = :guest WHERE id = :room"), {"guest": f"{guest}{free}", "room": room}
            )

    serializable = create_engine(postgres.url, isolation_level="SERIALIZABLE")
    declaration = early(serializable)
    action = prepared(declaration, lambda: book(1, "ann"))
    book(2, "bob")
    with pytest.raises(CommitRefused, match="could not serialize"):
        commit(declaration, action)
    assert guests(postgres) == ["nobody", "bob2"]
    book(1, "ann")
    assert guests(postgres) == ["ann1", "bob2"]
    assert under_way(action) == 0
    serializable.dispose()


def test_an_early_pool_that_is_exhausted_refuses_at_once_and_the_run_goes_on(postgres: Engine) -> None:
    declaration = early(postgres)
    actions = [
        prepared(declaration, booking(postgres, f"guest{i}", room=100 + i)) for i in range(_transactions.POOL_SIZE)
    ]
    with pytest.raises(CommitRefused, match=r"4 early transactions of .* are open already"):
        prepared(declaration, booking(postgres))
    booking(postgres, "real")()
    assert guests(postgres) == ["real", "nobody"]
    abort(declaration, actions.pop())
    actions.append(prepared(declaration, booking(postgres)))
    for action in actions:
        commit(declaration, action)
    assert guests(postgres) == ["ann", "nobody"]


def test_a_reader_in_the_way_of_the_commit_refuses_it_on_sqlite(tmp_path: Path) -> None:
    engine = filled(create_engine(f"sqlite:///{tmp_path}/db"))
    declaration = early(engine)
    action = prepared(declaration, booking(engine))
    with engine.connect() as reader:
        reader.exec_driver_sql("BEGIN")
        reader.execute(text("SELECT * FROM rooms")).all()
        with pytest.raises(CommitRefused, match="locked"):
            commit(declaration, action)
    booking(engine, "real")()
    assert guests(engine) == ["real", "nobody"]
    commit(declaration, prepared(declaration, booking(engine)))
    assert guests(engine) == ["ann", "nobody"]
    engine.dispose()


def backend(action: Action) -> int:
    return int(action.handle.connection.connection.driver_connection.info.backend_pid)


def kill(engine: Engine, pid: int) -> None:
    """End a backend, and wait until it has ended."""
    with engine.connect() as c:
        assert c.scalar(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})


def test_a_connection_lost_before_the_commit_refuses_it(postgres: Engine) -> None:
    declaration = early(postgres)
    action = prepared(declaration, booking(postgres))
    kill(postgres, backend(action))
    with pytest.raises(CommitRefused, match="could not be committed"):
        commit(declaration, action)
    abort(declaration, action)
    assert guests(postgres) == ["nobody", "nobody"]
    commit(declaration, prepared(declaration, booking(postgres)))
    assert guests(postgres) == ["ann", "nobody"]


def test_a_connection_lost_during_the_commit_is_ambiguous(postgres: Engine) -> None:
    declaration = early(postgres)
    action = prepared(declaration, booking(postgres))
    pid = backend(action)

    @event.listens_for(action.handle._engine, "commit")
    def die(c: Any) -> None:
        kill(postgres, pid)

    for _ in range(2):
        with pytest.raises(OperationalError):
            commit(declaration, action)
        assert action.handle.state is _transactions.State.UNKNOWN
    assert under_way(action) == 0


def test_a_constraint_that_fails_at_the_commit_refuses_it(postgres: Engine) -> None:
    with postgres.begin() as c:
        c.execute(text("ALTER TABLE rooms ADD UNIQUE (guest, id) DEFERRABLE INITIALLY DEFERRED"))
        c.execute(text("ALTER TABLE rooms ADD one int UNIQUE DEFERRABLE INITIALLY DEFERRED"))

    def double() -> None:
        with connection(postgres) as c:
            c.execute(text("UPDATE rooms SET one = 1"))

    declaration = early(postgres)
    action = prepared(declaration, double)
    with pytest.raises(CommitRefused, match="duplicate key"):
        commit(declaration, action)


# --- max_open ---------------------------------------------------------------------------------------------------


def time_is_over(early_one: Any) -> None:
    """As after `max_open`: with that many real ones, a slow machine might not come as far as the test wants it to."""
    timer = early_one._timer
    assert (timer.interval, timer.daemon, timer.is_alive()) == (60, True, True)
    timer.cancel()
    early_one._timer = now = threading.Timer(0, timer.function)
    now.start()
    now.join(LIMIT)


def test_one_that_nobody_claims_is_rolled_back_in_time(engine: Engine) -> None:
    declaration = early(engine, max_open=60)
    action = prepared(declaration, booking(engine))
    time_is_over(action.handle)
    assert under_way(action) == 0
    with pytest.raises(CommitRefused, match="open for longer than 60 seconds"):
        commit(declaration, action)
    booking(engine, "real")()
    assert guests(engine) == ["real", "nobody"]


def test_code_that_takes_too_long_is_ended_at_its_next_statement(engine: Engine) -> None:
    def slow() -> None:
        booking(engine)()
        time_is_over(_transactions.current(engine))
        if engine.dialect.name == "sqlite":  # which has one lock, and nobody else who would release it
            contextvars.Context().run(booking(engine, "real"))
        booking(engine, "late")()

    with pytest.raises(CommitRefused, match="open for longer than 60 seconds"):
        prepared(early(engine, max_open=60), slow)
    assert guests(engine)[0] in ("real", "nobody")
    assert guests(engine)[0] == ("real" if engine.dialect.name == "sqlite" else "nobody")


def test_a_statement_that_takes_too_long_is_ended(postgres: Engine) -> None:
    def slow() -> None:
        with connection(postgres) as c:
            c.execute(text("SELECT pg_sleep(30)"))

    with pytest.raises(CommitRefused, match=r"statement timeout|longer than"):
        prepared(early(postgres, max_open=0.1), slow)


def test_the_server_ends_one_that_idles_and_narrower_limits_stay(postgres: Engine) -> None:
    narrow = create_engine(postgres.url, connect_args={"options": "-c lock_timeout=7"})

    def limits() -> list[str]:
        with connection(narrow) as c:
            names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
            return [str(c.scalar(text(f"SHOW {name}"))) for name in (*names, "transaction_isolation")]

    declaration = early(narrow, max_open=3, isolation="REPEATABLE READ")
    action = prepared(declaration, limits)
    assert action.result == ["7ms", "3s", "4s", "repeatable read"]
    abort(declaration, action)
    with action.handle._engine.connect() as c:
        assert c.scalar(text("SHOW idle_in_transaction_session_timeout")) == "0"
        assert c.scalar(text("SHOW transaction_isolation")) == "read committed"
    narrow.dispose()


# --- the tool's code --------------------------------------------------------------------------------------------


def test_in_the_plain_graph_a_block_is_committed_at_its_end(engine: Engine) -> None:
    assert booking(engine)() == "booked for ann"
    assert guests(engine) == ["ann", "nobody"]
    with session(engine) as s:
        s.add(Room(id=3, guest="cat"))
    assert guests(engine) == ["ann", "nobody", "cat"]
    with suppress(KeyError), session(engine) as s:
        s.add(Room(id=4, guest="dan"))
        s.flush()
        raise KeyError
    assert guests(engine) == ["ann", "nobody", "cat"]


@pytest.mark.parametrize("how", ["plain", "early"])
def test_blocks_one_after_another_and_inside_another(engine: Engine, how: str) -> None:
    """Each is undone on its own; only the early one sees what an outer block has not committed."""

    def code() -> list[str]:
        with suppress(KeyError), connection(engine) as c:
            c.execute(text("UPDATE rooms SET guest = 'undone'"))
            raise KeyError
        with connection(engine) as c:
            seen = list(c.scalars(text("SELECT guest FROM rooms ORDER BY id")))
            with connection(engine) as inner, pytest.raises(IntegrityError), inner.begin_nested():
                inner.execute(text("INSERT INTO rooms VALUES (1, 'twice')"))
            c.execute(text("UPDATE rooms SET guest = 'kept' WHERE id = 2"))
        return seen

    if how == "plain":
        if engine.dialect.name == "sqlite":
            pytest.skip("two connections that write wait for each other in SQLite, plain")
        assert code() == ["nobody", "nobody"]
    else:
        action = prepared(early(engine), code)
        assert action.result == ["nobody", "nobody"]
        assert guests(engine) == ["nobody", "nobody"]
        commit(early(engine), action)
    assert guests(engine) == ["nobody", "kept"]


def test_a_session_is_committed_with_the_early_transaction(engine: Engine) -> None:
    def book() -> str:
        with session(engine, expire_on_commit=False) as s:
            room = s.get_one(Room, 1) if hasattr(s, "get_one") else s.get(Room, 1)
            assert room is not None
            room.guest = "ann"
            s.add(Room(id=3, guest="cat"))
            s.commit()
        with suppress(KeyError), session(engine) as s:
            s.add(Room(id=4, guest="dan"))
            s.flush()
            raise KeyError
        return room.guest

    action = prepared(early(engine), book)
    assert action.result == "ann"
    assert guests(engine) == ["nobody", "nobody"]
    commit(early(engine), action)
    assert guests(engine) == ["ann", "nobody", "cat"]


@pytest.mark.parametrize("how", ["commit", "rollback", "close"])
def test_code_that_ends_the_transaction_itself_is_refused_before_anybody_sees_it(engine: Engine, how: str) -> None:
    def code() -> str:
        try:
            with connection(engine) as c:
                c.execute(text("UPDATE rooms SET guest = 'ann'"))
                getattr(c, how)()
        except Exception:
            pass
        return "done"

    with pytest.raises(CommitRefused):
        prepared(early(engine), code)
    assert guests(engine) == ["nobody", "nobody"]
    booking(engine, "bob")()
    commit(early(engine), prepared(early(engine), booking(engine, "cat", room=2)))
    assert guests(engine) == ["bob", "cat"]


@pytest.mark.parametrize("derived", [False, True])
def test_code_that_connects_by_other_means_is_refused(engine: Engine, derived: bool) -> None:
    def code() -> None:
        with (engine.execution_options(note="x") if derived else engine).begin() as c:
            c.execute(text("UPDATE rooms SET guest = 'ann'"))

    with pytest.raises(CommitRefused, match="other means than connection"):
        prepared(early(engine), code)
    assert guests(engine) == ["nobody", "nobody"]


def test_another_engine_is_refused_early(engine: Engine) -> None:
    other = create_engine(engine.url)
    with pytest.raises(SpeculationError, match="not declared with transaction"):
        prepared(early(engine), booking(other))
    booking(other)()
    assert guests(engine) == ["ann", "nobody"]
    other.dispose()


def test_only_the_tools_own_code_sees_the_early_transaction(engine: Engine) -> None:
    late: list[Callable[[], Any]] = []

    def code() -> None:
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(booking(engine),), daemon=True)
        thread.start()
        thread.join(LIMIT)
        late.append(lambda: context.run(booking(engine, "late")))

    declaration = early(engine)
    action = prepared(declaration, code)
    with pytest.raises(SpeculationError, match="has outlived the tool's call"):
        late[0]()
    assert guests(engine) == ["nobody", "nobody"]
    commit(declaration, action)
    assert guests(engine) == ["ann", "nobody"]


def test_two_threads_of_the_code_at_once_are_refused(engine: Engine) -> None:
    errors: list[BaseException] = []

    def other() -> None:
        try:
            booking(engine, "bob", room=2)()
        except BaseException as error:
            errors.append(error)

    def code() -> None:
        with connection(engine):
            thread = threading.Thread(target=contextvars.copy_context().run, args=(other,), daemon=True)
            thread.start()
            thread.join(LIMIT)

    with pytest.raises(CommitRefused, match="at the same time"):
        prepared(early(engine), code)
    assert isinstance(errors[0], CommitRefused)


# --- the engine -------------------------------------------------------------------------------------------------


def test_what_the_user_has_set_up_on_the_engine_holds_early(engine: Engine) -> None:
    seen: list[str] = []
    if engine.dialect.name == "sqlite":  # the recipe of SQLAlchemy's documentation

        @event.listens_for(engine, "connect")
        def connects(dbapi: Any, record: Any) -> None:
            dbapi.isolation_level = None
            seen.append("connect")

        @event.listens_for(engine, "begin")
        def begins(c: Any) -> None:
            c.exec_driver_sql("BEGIN")
            seen.append("begin")
    else:

        @event.listens_for(engine, "connect")
        def connects(dbapi: Any, record: Any) -> None:
            seen.append("connect")

        @event.listens_for(engine, "begin")
        def begins(c: Any) -> None:
            c.exec_driver_sql("SET LOCAL application_name = 'mine'")
            seen.append("begin")

    declaration = early(engine)
    engine.dispose()
    action = prepared(declaration, booking(engine))
    assert seen == ["connect", "begin"]
    assert guests(engine) == ["nobody", "nobody"]
    commit(declaration, action)
    assert guests(engine) == ["ann", "nobody"]


def test_disposing_of_the_engine_closes_the_early_pool(engine: Engine) -> None:
    declaration = early(engine)
    action = prepared(declaration, booking(engine))
    commit(declaration, action)
    pool = action.handle._engine.pool
    assert pool.checkedin() == 1
    engine.dispose()
    assert pool.checkedin() == 0
    action = prepared(declaration, booking(engine, "bob"))
    commit(declaration, action)
    assert guests(engine) == ["bob", "nobody"]


def test_no_connection_is_kept_for_an_engine_that_keeps_none(engine: Engine) -> None:
    keepless = create_engine(engine.url, poolclass=NullPool)
    declaration = early(keepless)
    for guest, end in (("ann", commit), ("bob", abort), ("cat", commit)):
        action = prepared(declaration, booking(keepless, guest))
        raw = action.handle.connection.connection.driver_connection
        end(declaration, action)
        if engine.dialect.name == "sqlite":
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                raw.execute("SELECT 1")
        else:
            assert raw.closed
    assert guests(engine) == ["cat", "nobody"]


def test_an_engine_with_options_of_its_own_is_early_with_them(postgres: Engine) -> None:
    with postgres.begin() as c:
        c.execute(text("DROP SCHEMA IF EXISTS other CASCADE"))
        c.execute(text("CREATE SCHEMA other"))
    tenant = postgres.execution_options(schema_translate_map={None: "other"})
    Base.metadata.create_all(tenant)

    def book() -> None:
        with session(tenant) as s:
            s.add(Room(id=7, guest="ann"))

    declaration = early(tenant)
    commit(declaration, prepared(declaration, book))
    with postgres.connect() as c:
        assert c.scalar(text("SELECT guest FROM other.rooms")) == "ann"
    assert guests(postgres) == ["nobody", "nobody"]


def test_an_engine_that_is_forgotten_is_collected(tmp_path: Path) -> None:
    engine = filled(create_engine(f"sqlite:///{tmp_path}/db"))
    declaration = early(engine)
    action = prepared(declaration, booking(engine))
    abort(declaration, action)
    action.handle._timer.join(LIMIT)
    engine.dispose()
    forgotten = weakref.ref(engine)
    del engine, declaration, action
    gc.collect()
    assert forgotten() is None


# --- declaring --------------------------------------------------------------------------------------------------


def test_a_scope_is_passed_on_and_sqlite_is_not_early_by_itself(engine: Engine) -> None:
    declaration = transaction(engine, scope="room:{room}")
    assert declaration.scopes(CALL.arguments) == {"room:1"}
    expected = Effect.IRREVERSIBLE if engine.dialect.name == "sqlite" else Effect.STAGED
    assert declaration.effect is expected
    assert early(engine).effect is Effect.STAGED


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
@pytest.mark.parametrize(
    "address", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true", "sqlite:///file::memory:"]
)
def test_a_database_in_memory_is_refused(address: str) -> None:
    with pytest.raises(SpeculationError, match="in memory has no second connection"):
        early(create_engine(address))
    assert transaction(create_engine(address)).effect is Effect.IRREVERSIBLE


def test_values_that_make_no_sense_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/memory")
    for name in ("lock_timeout", "max_open"):
        for value in (0, -1, float("inf"), float("nan")):
            with pytest.raises(SpeculationError, match=f"{name}="):
                early(engine, **{name: value})
    with pytest.raises(SpeculationError, match="isolation='AUTOCOMMIT'"):
        early(engine, isolation="AUTOCOMMIT")
    assert early(engine).effect is Effect.STAGED
    monkeypatch.setattr(engine.dialect, "name", "mysql")
    with pytest.raises(SpeculationError, match="PostgreSQL and SQLite, not mysql"):
        early(engine)


def test_without_sqlalchemy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    monkeypatch.delitem(sys.modules, "langgraph_speculative.transactions")
    with pytest.raises(SpeculationError, match=r"langgraph-speculative\[sql\]"):
        importlib.import_module("langgraph_speculative.transactions")


# --- asynchronous engines ---------------------------------------------------------------------------------------


async def test_async_what_is_prepared_is_seen_only_after_the_commit(aengine: AsyncEngine) -> None:
    declaration = early(aengine)
    action = await aprepared(declaration, abooking(aengine))
    assert action.result == "booked for ann"
    assert await aguests(aengine) == ["nobody", "nobody"]
    for _ in range(2):
        await commit(declaration, action)
    await abort(declaration, action)
    assert await aguests(aengine) == ["ann", "nobody"]
    assert under_way(action) == 0


async def test_async_an_abort_leaves_nothing(aengine: AsyncEngine) -> None:
    declaration = early(aengine)
    action = await aprepared(declaration, abooking(aengine))
    for _ in range(2):
        await abort(declaration, action)
    await abort(declaration, CALL)
    for ended, why in ((action, "cannot be committed"), (CALL, "ended with its process")):
        with pytest.raises(CommitRefused, match=why):
            await commit(declaration, ended)
    await abooking(aengine, "bob")()
    assert await aguests(aengine) == ["bob", "nobody"]


async def test_async_an_error_of_the_tool_is_its_own_and_leaves_nothing(aengine: AsyncEngine) -> None:
    async def fail() -> None:
        await abooking(aengine)()
        raise KeyError("room")

    with pytest.raises(KeyError, match="room"):
        await aprepared(early(aengine), fail)
    assert await aguests(aengine) == ["nobody", "nobody"]


async def test_async_a_lock_of_the_run_is_not_waited_for(aengine: AsyncEngine) -> None:
    async with aengine.begin() as real:
        await real.execute(text("UPDATE rooms SET guest = 'real' WHERE id = 1"))
        with pytest.raises(CommitRefused, match="lock"):
            await aprepared(early(aengine), abooking(aengine))
    assert await aguests(aengine) == ["real", "nobody"]


async def test_async_sessions_and_blocks(aengine: AsyncEngine) -> None:
    async def book() -> list[str]:
        async with asession(aengine) as s:
            s.add(Room(id=3, guest="cat"))
        with suppress(KeyError):
            async with aconnection(aengine) as c:
                await c.execute(text("UPDATE rooms SET guest = 'undone'"))
                raise KeyError
        async with aconnection(aengine) as c, aconnection(aengine) as inner:
            assert c is inner
            return list(await c.scalars(text("SELECT guest FROM rooms ORDER BY id")))

    declaration = early(aengine)
    action = await aprepared(declaration, book)
    assert action.result == ["nobody", "nobody", "cat"]
    assert await aguests(aengine) == ["nobody", "nobody"]
    await commit(declaration, action)
    assert await aguests(aengine) == ["nobody", "nobody", "cat"]
    async with asession(aengine) as s:
        s.add(Room(id=4, guest="dan"))
    assert await aguests(aengine) == ["nobody", "nobody", "cat", "dan"]


async def test_async_tasks_of_the_code_at_once_are_refused(aengine: AsyncEngine) -> None:
    async def both() -> None:
        await asyncio.gather(abooking(aengine)(), abooking(aengine, "bob", room=2)())

    with pytest.raises(CommitRefused, match="at the same time"):
        await aprepared(early(aengine), both)
    assert await aguests(aengine) == ["nobody", "nobody"]


async def test_async_a_cancelled_prepare_cleans_up(aengine: AsyncEngine) -> None:
    inside = Signal()

    async def stuck() -> None:
        async with aconnection(aengine) as c:
            await c.execute(text("UPDATE rooms SET guest = 'stuck'"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(aprepared(early(aengine), stuck))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await abooking(aengine, "real")()
    assert await aguests(aengine) == ["real", "nobody"]


async def test_async_an_early_pool_that_is_exhausted_refuses_at_once(aengine: AsyncEngine) -> None:
    if aengine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    declaration = early(aengine)
    actions = [await aprepared(declaration, abooking(aengine, room=100 + i)) for i in range(_transactions.POOL_SIZE)]
    with pytest.raises(CommitRefused, match="open already"):
        await aprepared(declaration, abooking(aengine))
    await abort(declaration, actions.pop())
    actions.append(await aprepared(declaration, abooking(aengine)))
    for action in actions:
        await commit(declaration, action)
    assert await aguests(aengine) == ["ann", "nobody"]


@pytest.fixture
def fired(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The early transactions whose timer has fired."""
    those, fire = [], _transactions.Transaction._expire_in_task

    def fires(self: Any) -> None:
        fire(self)
        those.append(self)

    monkeypatch.setattr(_transactions.Transaction, "_expire_in_task", fires)
    return those


async def atime_is_over(early_one: Any, fired: list[Any]) -> None:
    """`time_is_over` on the loop that its timer belongs to."""
    assert not early_one._timer.cancelled()
    assert 0 < early_one._timer.when() - asyncio.get_running_loop().time() <= 60
    early_one._timer._run()  # the loop's own way to call it
    early_one._timer.cancel()
    assert fired == [early_one]
    await early_one._expiry


async def test_async_one_that_nobody_claims_is_rolled_back_in_time(aengine: AsyncEngine, fired: list[Any]) -> None:
    declaration = early(aengine, max_open=60)
    action = await aprepared(declaration, abooking(aengine))
    await atime_is_over(action.handle, fired)
    assert action.handle.state is _transactions.State.ROLLED_BACK
    assert under_way(action) == 0
    with pytest.raises(CommitRefused, match="open for longer"):
        await commit(declaration, action)
    await abooking(aengine, "real")()
    assert await aguests(aengine) == ["real", "nobody"]


async def test_async_code_that_takes_too_long_is_ended(aengine: AsyncEngine, fired: list[Any]) -> None:
    async def slow() -> None:
        await abooking(aengine)()
        early_one = _transactions.current(aengine.sync_engine)
        assert early_one is not None
        await atime_is_over(early_one, fired)
        await abooking(aengine, "late")()

    with pytest.raises(CommitRefused, match="open for longer"):
        await aprepared(early(aengine, max_open=60), slow)
    assert await aguests(aengine) == ["nobody", "nobody"]


async def test_async_the_second_phase_may_come_from_another_thread(aengine: AsyncEngine) -> None:
    declaration = early(aengine)
    action = await aprepared(declaration, abooking(aengine))
    await asyncio.to_thread(lambda: asyncio.run(commit(declaration, action)))
    assert await aguests(aengine) == ["ann", "nobody"]


def test_async_an_engine_may_serve_one_loop_after_another(url: str) -> None:
    if url.startswith("sqlite"):
        pytest.importorskip("aiosqlite", reason="aiosqlite is not installed")
    plain = filled(create_engine(url))
    engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=NullPool)
    declaration = early(engine)

    async def book(guest: str) -> None:
        await commit(declaration, await aprepared(declaration, abooking(engine, guest)))

    for guest in ("ann", "bob"):
        asyncio.run(book(guest))
        assert guests(plain) == [guest, "nobody"]
    plain.dispose()


async def test_async_a_commit_whose_claimant_is_cancelled_is_done_to_its_end(aengine: AsyncEngine) -> None:
    declaration = early(aengine)
    action = await aprepared(declaration, abooking(aengine))
    task = asyncio.create_task(commit(declaration, action))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await action.handle._ending
    assert await aguests(aengine) == ["ann", "nobody"]
