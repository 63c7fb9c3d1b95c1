"""The world of `benchmarks.crash`: a plan, a database, and an agent whose tools change it.

Each call does ``value = 31 * value + amount`` to one item and adds a row to `calls`, in one transaction. So the order
of the calls shows in the values, and an undo that comes at the wrong time, twice or not at all, leaves another value.
"""

from __future__ import annotations

import operator
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langchain_core.tools import StructuredTool
from langgraph.graph import END, START, StateGraph
from langgraph.prebuilt import ToolNode
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from typing_extensions import TypedDict

from langgraph_speculative import Policy, speculative
from langgraph_speculative._gate import CURRENT
from langgraph_speculative.effects import Action, Declaration, Prepared, irreversible, read, reversible, staged
from langgraph_speculative.transactions import connection, transaction

MODULUS = 1_000_003
ITEMS = ("x", "y", "p", "q")
RIGHT = 0.7
TABLES = (
    "CREATE TABLE items (item TEXT PRIMARY KEY, value INTEGER NOT NULL, previous INTEGER NOT NULL)",
    "CREATE TABLE calls (call TEXT NOT NULL, item TEXT NOT NULL, amount INTEGER NOT NULL, previous INTEGER NOT NULL, "
    "early INTEGER NOT NULL)",
    "CREATE TABLE holds (id TEXT PRIMARY KEY, call TEXT NOT NULL, item TEXT NOT NULL, amount INTEGER NOT NULL)",
    "CREATE TABLE settled (id TEXT PRIMARY KEY, how TEXT NOT NULL)",
)

Row = tuple[str, str, int]
"""A call, its item and its amount."""


@dataclass(frozen=True)
class Call:
    """A tool call that the agent wants, or is guessed to want."""

    tool: str
    call: str
    item: str
    amount: int

    @property
    def args(self) -> dict[str, Any]:
        return {"call": self.call, "item": self.item, "amount": self.amount}


@dataclass(frozen=True)
class Plan:
    """What an agent does, and how it is guessed."""

    turns: tuple[tuple[Call, ...], ...]
    guesses: tuple[tuple[Call, ...], ...]
    thinks: tuple[float, ...]
    database: str
    is_async: bool
    is_scoped: bool
    has_note: bool


def draw_plan(seed: int, number: int, database: str) -> Plan:
    """The plan of that number."""
    draw = random.Random(f"{seed} {number} {database}")

    def calls(turn: int) -> tuple[Call, ...]:
        tools = draw.sample(("move", "move", "hold", "hold", "book", "book", "send", "look"), draw.choice((1, 1, 2)))
        items = draw.sample(("x", "y"), 2)
        return tuple(
            Call(
                tool,
                f"{turn}:{place}:{tool}",
                draw.choice(("p", "q")) if tool == "book" and database == "sqlite" else items[place],
                draw.randrange(1000),
            )
            for place, tool in enumerate(dict.fromkeys(tools))
        )

    turns = tuple(calls(n) for n in range(draw.randint(4, 6)))

    def guess(turn: int) -> tuple[Call, ...]:
        if draw.random() < RIGHT:
            return turns[turn]
        if draw.random() < 0.5:
            return tuple(replace(c, amount=c.amount + 1000) for c in turns[turn])
        return calls(turn)

    return Plan(
        turns,
        tuple(guess(n) for n in range(len(turns))),
        tuple(draw.uniform(0.005, 0.03) for _ in turns),
        database,
        is_async=draw.random() < 0.5,
        is_scoped=draw.random() < 0.8,
        has_note=draw.random() < 0.5,
    )


# --- the database ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where everything of one run is kept.

    Attributes:
        folder: Of its files.
        server: Address of a PostgreSQL server; empty for SQLite files.
        schema: The schema there, which is also how its connections are told.
    """

    folder: Path
    server: str = ""
    schema: str = ""

    def urls(self) -> list[str]:
        """Of the database that holds all, and of the file that `book` writes to, if that is another one."""
        if self.server:
            return [self.server]
        return [f"sqlite:///{self.folder}/main.db", f"sqlite:///{self.folder}/bookings.db"]

    def engines(self, **options: Any) -> list[Engine]:
        if self.server:
            options["connect_args"] = {
                "options": f"-csearch_path={self.schema} -csynchronous_commit=off",
                "application_name": self.schema,
            }
        return [create_engine(url, **options) for url in self.urls()]

    def make(self) -> None:
        """Make the tables."""
        for engine in self.engines(poolclass=NullPool):
            with engine.begin() as c:
                if self.server:
                    c.execute(text(f"CREATE SCHEMA {self.schema}"))
                for table in TABLES:
                    c.execute(text(table))
                c.execute(text("INSERT INTO items VALUES (:item, 0, 0)"), [{"item": i} for i in ITEMS])

    def drop(self) -> None:
        for engine in self.engines(poolclass=NullPool) if self.server else ():
            with engine.begin() as c:
                c.execute(text(f"DROP SCHEMA {self.schema} CASCADE"))

    def wait_for_silence(self) -> None:
        """Wait until the server has noticed that a killed client is gone: what it had sent may still be carried out."""
        query = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND pid <> pg_backend_pid()")
        for engine in self.engines(poolclass=NullPool) if self.server else ():
            with engine.connect() as c:
                while c.execute(query, {"name": self.schema}).scalar():
                    c.rollback()
                    time.sleep(0.002)

    def look(self) -> Database:
        """All that is in the database."""
        calls: list[tuple[str, str, int, int]] = []
        holds: list[str] = []
        items: dict[str, int] = {}
        for engine in self.engines(poolclass=NullPool):
            with engine.connect() as c:
                calls += [tuple(r) for r in c.execute(text("SELECT call, item, amount, early FROM calls"))]  # type: ignore[misc]
                holds += [r[0] for r in c.execute(text("SELECT call FROM holds"))]
                for item, value in c.execute(text("SELECT item, value FROM items")):
                    items[item] = items.get(item, 0) + value  # of two files, one never touches it
        return Database(
            made=tuple(sorted((c, i, a) for c, i, a, early in calls if not early)),
            early=tuple(sorted((c, i, a) for c, i, a, early in calls if early)),
            items=items,
            holds=tuple(sorted(holds)),
        )


@dataclass(frozen=True)
class Database:
    """What is in a database.

    Attributes:
        made: Rows of calls that the run made itself.
        early: Rows of calls that were made early.
        items: Values.
        holds: Prepared calls that are neither committed nor aborted.
    """

    made: tuple[Row, ...]
    early: tuple[Row, ...]
    items: Mapping[str, int]
    holds: tuple[str, ...]

    @property
    def calls(self) -> tuple[Row, ...]:
        return tuple(sorted(self.made + self.early))


def fold(calls: list[Row]) -> dict[str, int]:
    """The values after these calls."""
    items = dict.fromkeys(ITEMS, 0)
    for _, item, amount in calls:
        items[item] = (items[item] * 31 + amount) % MODULUS
    return items


def _without_waiting(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")  # for the disk: it is the process that dies


def _act(c: Connection, call: str, item: str, amount: int, early: bool) -> int:
    query = (
        f"UPDATE items SET previous = value, value = (value * 31 + :amount) % {MODULUS} WHERE item = :item "
        "RETURNING previous, value"
    )
    previous, value = c.execute(text(query), {"item": item, "amount": amount}).one()
    row = {"call": call, "item": item, "amount": amount, "previous": previous, "early": int(early)}
    c.execute(text("INSERT INTO calls VALUES (:call, :item, :amount, :previous, :early)"), row)
    return int(value)


def _settles(c: Connection, action: Action, how: str) -> bool:
    """Whether this is the first time that a handler comes to the end of this action."""
    query = "INSERT INTO settled VALUES (:id, :how) ON CONFLICT DO NOTHING"
    return bool(c.execute(text(query), {"id": action.id, "how": how}).rowcount)


# --- the agent ------------------------------------------------------------------------------------------------------


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], operator.add]
    turn: int


INPUT: State = {"messages": [HumanMessage("go", id="human")], "turn": 0}

Note = Callable[..., None]
"""Called with words and values at each point of interest; where the process may be killed."""


class Agent:
    """An agent, plain and speculative.

    Args:
        note: Called before and after all that matters.
    """

    def __init__(self, plan: Plan, place: Place, note: Note) -> None:
        self.plan = plan
        self.note = note
        engines = place.engines(connect_args={"timeout": 20}) if not place.server else place.engines()
        self.engine, self.bookings = engines[0], engines[-1]
        for engine in set(engines):
            if not place.server:
                event.listen(engine, "connect", _without_waiting)
            event.listen(engine, "after_cursor_execute", lambda *_: note("executed"))
            event.listen(engine, "commit", lambda *_: note("commits"))
        self.on_sqlite = not place.server

    # the tools

    def _made(self, engine: Engine, begin: Callable[[Engine], AbstractContextManager[Connection]]) -> Any:
        def act(call: str, item: str, amount: int) -> str:
            """Change an item."""
            early = CURRENT.get() is not None
            with begin(engine) as c:
                value = _act(c, call, item, amount, early)
            if not early:
                self.note("made", call=call)
            return f"{item} is {value}"

        return act

    def _look(self, call: str, item: str, amount: int) -> str:
        """Look at an item."""
        with self.engine.connect() as c:
            return f"{item} is {c.execute(text('SELECT value FROM items WHERE item = :i'), {'i': item}).scalar()}"

    def _undo(self, action: Action) -> None:
        self.note("takes back", id=action.id)
        row = self._row_of(action)
        with self.engine.begin() as c:
            if _settles(c, action, "undone"):
                query = (
                    "DELETE FROM calls WHERE (call, item, amount) = (:call, :item, :amount) RETURNING item, previous"
                )
                for item, previous in c.execute(text(query), row).all():
                    c.execute(text("UPDATE items SET value = :v WHERE item = :i"), {"v": previous, "i": item})
        self.note("took back")

    @staticmethod
    def _row_of(action: Action) -> dict[str, Any]:
        if action.name == "note":
            return note_of(action.arguments["turn"])
        return dict(action.arguments)

    def _prepare(self, action: Action, execute: Any) -> Prepared:
        args = action.arguments
        with self.engine.begin() as c:
            values = {"id": action.id, **args}
            c.execute(text("INSERT INTO holds VALUES (:id, :call, :item, :amount)"), values)
            value = c.execute(text("SELECT value FROM items WHERE item = :item"), args).scalar_one()
        self.note("prepared")
        return Prepared(f"{args['item']} is {(value * 31 + args['amount']) % MODULUS}", {"ticket": action.id})

    def _commit(self, action: Action) -> None:
        self.note("enters a commit")
        with self.engine.begin() as c:
            if _settles(c, action, "committed"):
                query = "DELETE FROM holds WHERE id = :id RETURNING call, item, amount"
                _act(c, *c.execute(text(query), {"id": action.id}).one(), early=True)
        self.note("has committed")

    def _abort(self, action: Action) -> None:
        self.note("takes back", id=action.id)
        with self.engine.begin() as c:
            if _settles(c, action, "aborted"):
                c.execute(text("DELETE FROM holds WHERE id = :id"), {"id": action.id})
        self.note("took back")

    def _noted(self, declaration: Declaration) -> Declaration:
        """A ready-made declaration whose handlers are points, too."""
        prepare, commit, abort = declaration.prepare, declaration.commit, declaration.abort
        assert prepare is not None
        assert commit is not None
        assert abort is not None

        def noted_prepare(action: Action, execute: Any) -> Any:
            given = prepare(action, execute)
            self.note("prepared")
            return given

        def noted_commit(action: Action) -> None:
            self.note("enters a commit")
            commit(action)
            self.note("has committed")

        def noted_abort(action: Action) -> None:
            self.note("takes back", id=action.id)
            abort(action)
            self.note("took back")

        return replace(declaration, prepare=noted_prepare, commit=noted_commit, abort=noted_abort)

    def effects(self) -> dict[str, Any]:
        scope = "{item}" if self.plan.is_scoped else None
        # SQLite's lock is one for the whole file, and so is the scope of what holds it.
        whole = "bookings" if self.on_sqlite and self.plan.is_scoped else scope
        booking = transaction(self.bookings, scope=whole, early_on_sqlite=True, max_open=0.5)
        declared = {
            "agent": "pure",
            "move": reversible(self._undo, scope=scope),
            "hold": staged(self._prepare, self._commit, self._abort, scope=scope),
            "book": self._noted(booking),
            "send": irreversible(scope=scope),
            "look": read(scope=scope),
            "note": reversible(self._undo, scope="x" if self.plan.is_scoped else None),
        }
        return declared if self.plan.has_note else {n: d for n, d in declared.items() if n != "note"}

    # the graphs

    def plain(self, checkpointer: Any = None) -> Any:
        """The graph."""
        plan = self.plan

        def agent(state: State) -> State:
            turn = state["turn"]
            if turn < len(plan.turns):
                time.sleep(plan.thinks[turn])  # what speculation hides
            return _answer(turn, plan.turns)

        def note(state: State) -> State:
            early = CURRENT.get() is not None
            row = note_of(state["turn"])
            with self.engine.begin() as c:
                _act(c, early=early, **row)
            if not early:
                self.note("made", call=row["call"])
            return {}

        own = self._made(self.engine, Engine.begin)
        tools = {"move": own, "hold": own, "send": own, "look": self._look}
        tools["book"] = self._made(self.bookings, connection)
        made = [StructuredTool.from_function(func=f, name=n, description=n) for n, f in tools.items()]
        builder = StateGraph(State)
        builder.add_node("agent", agent)
        builder.add_node("tools", ToolNode(made, handle_tool_errors=False))
        builder.add_edge(START, "agent")
        builder.add_conditional_edges(
            "agent", lambda s: "tools" if s["messages"][-1].tool_calls else END, ["tools", END]
        )
        builder.add_edge("tools", "note" if plan.has_note else "agent")
        if plan.has_note:
            builder.add_node("note", note)
            builder.add_edge("note", "agent")
        return builder.compile(checkpointer=checkpointer)

    def fast(self, journal: Any, checkpointer: Any = None) -> Any:
        """The same graph, made speculative."""
        guesses = self.plan.guesses
        return speculative(
            self.plain(checkpointer),
            speculators={"agent": lambda state: _answer(state["turn"], guesses)},
            effects=self.effects(),
            policy=Policy(
                depth=3,
                journal=journal,
                hooks=(lambda e: self.note(e.kind, name=e.tool or e.node, step=e.step),),
                redact=lambda name, args: {"turn": args["turn"]} if name == "note" else args,
                rollback_backoff=0.01,
            ),
        )


def _answer(turn: int, turns: tuple[tuple[Call, ...], ...]) -> State:
    calls = turns[turn] if turn < len(turns) else ()
    made: Any = [{"name": c.tool, "args": c.args, "id": f"call-{c.call}", "type": "tool_call"} for c in calls]
    return {"messages": [AIMessage(f"turn {turn}", id=f"ai-{turn}", tool_calls=made)], "turn": turn + 1}


def note_of(turn: int) -> dict[str, Any]:
    return {"call": f"{turn}:note", "item": "x", "amount": turn * 7}
