"""Faults at every boundary of an early action: processes that are killed there, and a journal that fails there.

The killed ones are children of one helper process, which has no threads and forks: this file, run as a module.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import operator
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest

from langgraph_speculative import CommitRefused, Effect, Policy, Recovery, RollbackFailure, speculative
from langgraph_speculative.effects import Action, Declaration, Prepared, reversible, staged
from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.journal import Entry, Phase, SqliteJournal, this_process
from tests.support import AsyncWorld, World, chain

WORLDS = ("sync", "mixed")
RIGHT, WRONG = 7, 3
PATIENCE = 30.0


class State(TypedDict, total=False):
    n: int
    log: Annotated[list[int], operator.add]


class Point:
    """Where something may go wrong: `fatal` is the point at which `strike` is called."""

    def __init__(self, fatal: str = "", strike: Any = None) -> None:
        self.fatal, self.strike = fatal, strike
        self.seen: list[str] = []
        self.settled = threading.Event()

    def __call__(self, name: str) -> None:
        self.seen.append(name)
        if name == self.fatal:
            self.strike()
        if name == "after done":
            self.settled.set()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Journal(SqliteJournal):
    """A journal with a point before and after each write."""

    def __init__(self, path: Path, point: Point) -> None:
        super().__init__(path)
        self.point = point

    def begin(self, entry: Entry) -> None:
        self.point("before begin")
        super().begin(entry)
        self.point("after begin")

    def advance(self, id: str, phase: Phase, **kwargs: Any) -> None:
        self.point(f"before {phase}")
        super().advance(id, phase, **kwargs)
        self.point(f"after {phase}")

    def close(self, id: str) -> None:
        self.point("before close")
        super().close(id)
        self.point("after close")

    def take(self, entry: Entry) -> bool:
        self.point("before take")
        taken = super().take(entry)
        self.point("after take")
        return taken


class Shop:
    """A database in a file with the numbers that were written, and a graph that writes what `plan` says.

    Args:
        folder: Of the database and the journal.
        kind: How `write` is declared.
        point: Called at each boundary.
        refuses: Whether a commit does so.
    """

    def __init__(self, folder: Path, kind: str, point: Point, *, refuses: bool = False) -> None:
        self.refuses = refuses
        self.folder, self.kind, self.point = folder, kind, point
        self.journal = Journal(folder / "journal.sqlite", point)
        with self.database() as db:
            db.execute("CREATE TABLE IF NOT EXISTS written (n INTEGER, early INTEGER)")
            db.execute("CREATE TABLE IF NOT EXISTS held (id TEXT PRIMARY KEY, n INTEGER)")

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.folder / "shop.sqlite", timeout=PATIENCE)) as db, db:
            db.execute("PRAGMA synchronous = OFF")  # it is the process that dies
            yield db

    def written(self) -> list[int]:
        with self.database() as db:
            assert self.held() == []
            return [n for (n,) in db.execute("SELECT n FROM written ORDER BY n")]

    def held(self) -> list[int]:
        with self.database() as db:
            return [n for (n,) in db.execute("SELECT n FROM held")]

    def undo(self, action: Action) -> None:
        self.point("before undo")
        with self.database() as db:
            db.execute("DELETE FROM written WHERE n = ?", (action.arguments["n"],))
        self.point("after undo")

    def prepare(self, action: Action, execute: Any) -> Prepared:
        self.point("before prepare")
        with self.database() as db:
            db.execute("INSERT INTO held VALUES (?, ?)", (action.id, action.arguments["n"]))
        self.point("after prepare")
        return Prepared({"log": [action.arguments["n"]]}, {"ticket": action.id})

    def commit(self, action: Action) -> None:
        self.point("before commit")
        if self.refuses:
            raise CommitRefused
        with self.database() as db:
            query = "INSERT INTO written SELECT n, 1 FROM held WHERE id = ?"
            db.execute(query, (action.handle["ticket"],))
            db.execute("DELETE FROM held WHERE id = ?", (action.id,))
        self.point("after commit")

    def abort(self, action: Action) -> None:
        self.point("before abort")
        with self.database() as db:
            db.execute("DELETE FROM held WHERE id = ?", (action.id,))
        self.point("after abort")

    def declaration(self) -> Declaration:
        if self.kind == "reversible":
            return reversible(self.undo)
        return staged(self.prepare, self.commit, self.abort)

    def fast(self, guess: int = RIGHT, **policy: Any) -> Any:
        def plan(state: State) -> Any:
            self.point.settled.wait(PATIENCE)
            return {"n": RIGHT}

        def write(state: State) -> Any:
            self.point("before code")
            with self.database() as db:
                db.execute("INSERT INTO written VALUES (?, 0)", (state["n"],))
            self.point("after code")
            return {"log": [state["n"]]}

        return speculative(
            chain(State, plan, write).compile(),
            speculators={"plan": lambda _: {"n": guess}},
            effects={"plan": "pure", "write": self.declaration()},
            policy=Policy(journal=self.journal, rollback_backoff=0.001, rollback_attempts=2, **policy),
        )


def recovered(world: World, fast: Any) -> Recovery:
    if isinstance(world, AsyncWorld):
        return world.run(fast.arecover)  # type: ignore[no-any-return]
    return fast.recover()  # type: ignore[no-any-return]


# --- killed at a boundary -------------------------------------------------------------------------------------------

WAYS = {
    ("reversible", "claimed"): ["begin", "code", "done", "close"],
    ("reversible", "taken back"): ["begin", "code", "done", "undo", "close"],
    ("staged", "claimed"): ["begin", "prepare", "done", "committing", "commit", "close"],
    ("staged", "taken back"): ["begin", "prepare", "done", "abort", "close"],
    ("staged", "refused"): ["committing", "abort", "close"],
}
RECOVERED = {"reversible": ["take", "undo", "close"], "staged": ["take", "abort", "close"]}


@dataclass(frozen=True)
class Death:
    """A process is killed in the life of an action, and perhaps one that recovers from that, too."""

    kind: str
    end: str
    at: str
    world: str
    then: str = ""

    @property
    def name(self) -> str:
        return "-".join([self.kind, self.end, self.at, self.world, *([self.then] if self.then else [])]).replace(
            " ", "_"
        )

    @property
    def is_committing(self) -> bool:
        """Whether the claim of a staged action had decided."""
        return self.at in ("after committing", "before commit", "after commit") or (
            (self.kind, self.end, self.at) == ("staged", "claimed", "before close")
        )

    @property
    def is_over(self) -> bool:
        return self.at == "after close"

    @property
    def remains(self) -> list[int]:
        """What is written after the recovery."""
        return [RIGHT] if self.is_committing or (self.end == "claimed" and self.is_over) else []


def deaths() -> list[Death]:
    """Each boundary in both worlds; and where there is an entry left, each boundary of its recovery in one of them."""
    found = []
    for world in ("sync", "async"):
        for (kind, end), way in WAYS.items():
            for at in (f"{w} {step}" for step in way for w in ("before", "after")):
                first = Death(kind, end, at, world)
                found.append(first)
                if at in ("after begin", "after done", "after committing", "after commit", "after undo"):
                    steps = ["take", "commit", "close"] if first.is_committing else RECOVERED[kind]
                    then = [f"{w} {s}" for s in steps for w in ("before", "after")]
                    found += [Death(kind, end, at, world, t) for n, t in enumerate(then) if n % 2 == (world == "sync")]
    return found


def perish(death: Death, folder: Path) -> None:
    """The life of a process that is to be killed."""
    shop = Shop(folder, death.kind, Point(death.at, die), refuses=death.end == "refused")
    fast = shop.fast(WRONG if death.end == "taken back" else RIGHT)
    if death.world == "async":
        asyncio.run(fast.ainvoke({"n": 1}))
    else:
        fast.invoke({"n": 1})


def perish_again(death: Death, folder: Path) -> None:
    """The life of one that recovers, and is killed."""
    fast = Shop(folder, death.kind, Point(death.then, die)).fast()
    if death.world == "async":
        asyncio.run(fast.arecover())
    else:
        fast.recover()


def helper(folder: Path) -> None:
    """Fork and let die; print what has not died."""
    for death in deaths():
        own = folder / death.name
        own.mkdir()
        for life in (perish, perish_again) if death.then else (perish,):
            pid = os.fork()
            if not pid:
                signal.alarm(int(2 * PATIENCE))  # one that hangs dies of another signal
                try:
                    life(death, own)
                finally:
                    os._exit(0)
            _, status = os.waitpid(pid, 0)
            if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                print(death.name, life.__name__, status)


@pytest.fixture(scope="module")
def graves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the killed processes have left, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-m", "tests.test_recovery", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    return folder


@pytest.mark.timeout(330)
@pytest.mark.parametrize("death", [d for d in deaths() if not d.then], ids=lambda d: d.name)
def test_what_a_killed_process_leaves_is_taken_back_or_committed(graves: Path, death: Death) -> None:
    shop = Shop(graves / death.name, death.kind, Point())  # where the commit is not refused
    begun = death.at != "before begin" and not death.is_over
    assert len(shop.journal.abandoned(["write"])) == begun
    world = AsyncWorld() if death.world == "async" else World()
    found = recovered(world, shop.fast())
    assert shop.written() == death.remains
    kind = "committed" if death.is_committing else "undone" if death.kind == "reversible" else "aborted"
    actions = {"undone": found.undone, "aborted": found.aborted, "committed": found.committed}
    assert {k: len(v) for k, v in actions.items() if v} == ({kind: 1} if begun else {})
    assert found.failed == ()
    for action in actions[kind]:
        assert (action.name, action.arguments["n"]) == ("write", WRONG if death.end == "taken back" else RIGHT)
        later = ("after done", "before undo", "after undo", "before abort", "after abort", "before close")
        assert action.finished is (death.at in later or "commit" in death.at)
        assert action.result == ({"log": [action.arguments["n"]]} if action.finished else None)
        assert action.handle == ({"ticket": action.id} if action.finished and death.kind == "staged" else None)
    assert shop.journal.abandoned(["write"]) == []
    assert recovered(world, shop.fast()) == Recovery()


@pytest.mark.timeout(330)
@pytest.mark.parametrize("death", [d for d in deaths() if d.then], ids=lambda d: d.name)
def test_a_recovery_that_is_killed_is_run_again(graves: Path, death: Death) -> None:
    shop = Shop(graves / death.name, death.kind, Point())
    found = recovered(AsyncWorld() if death.world == "async" else World(), shop.fast())
    assert shop.written() == death.remains
    assert found.failed == ()
    assert len(found.undone + found.aborted + found.committed) == (death.then != "after close")
    assert shop.journal.abandoned(["write"]) == []


# --- a journal that fails at a boundary -----------------------------------------------------------------------------


def fail() -> None:
    raise SpeculationError("the disk is full")


@pytest.mark.parametrize("guess", [RIGHT, WRONG])
@pytest.mark.parametrize(
    ("kind", "at"),
    [
        *(("reversible", f"{w} {step}") for step in ("begin", "done", "close") for w in ("before", "after")),
        *(("staged", f"{w} {s}") for s in ("begin", "done", "committing", "close") for w in ("before", "after")),
    ],
)
def test_a_run_whose_journal_fails_is_the_plain_run(
    world: World, tmp_path: Path, kind: str, at: str, guess: int
) -> None:
    struck: list[str] = []

    def strike() -> None:
        struck.append(at)
        shop.point.settled.set()
        if len(struck) == 1:
            fail()

    shop = Shop(tmp_path, kind, Point(at, strike))
    fast = shop.fast(guess)
    with fast.track() as report:
        assert world.invoke(fast, {"n": 1})["log"] == [RIGHT]
    assert shop.written() == [RIGHT]
    if struck:
        assert any("the disk is full" in text for text in [*report.errors, *report.stopped]) or report.rolled_back


# --- what a recovery does with what it finds ------------------------------------------------------------------------

DEAD = json.dumps({**json.loads(this_process()), "boot": "an earlier one"})


def left(shop: Shop, number: int, *, owner: str = DEAD, **about: Any) -> Entry:
    """An entry of a process that is no more."""
    about = {"name": "write", "kind": shop.kind, "phase": Phase.DONE, **about}
    entry = Entry(id=str(number), arguments={"n": number}, thread_id="t", order=number, owner=owner, **about)
    shop.journal.begin(entry)
    return entry


def ids(actions: tuple[Action, ...]) -> list[str]:
    return [a.id for a in actions]


def test_the_latest_is_taken_back_first(world: World, tmp_path: Path) -> None:
    shop, order = Shop(tmp_path, "reversible", Point()), []
    for number in (1, 3, 2):
        left(shop, number, result={"log": [number]}, phase=Phase.BEGUN if number == 3 else Phase.DONE)
    shop.undo = lambda action: order.append(action.arguments["n"])  # type: ignore[method-assign]
    found = recovered(world, shop.fast())
    assert order == [3, 2, 1]
    assert ids(found.undone) == ["3", "2", "1"]
    assert [(a.finished, a.result, a.thread_id) for a in found.undone] == [
        (False, {"log": [3]}, "t"),
        (True, {"log": [2]}, "t"),
        (True, {"log": [1]}, "t"),
    ]
    assert (found.aborted, found.committed, found.failed) == ((), (), ())


def test_staged_ones_are_told_by_what_became_of_them(world: World, tmp_path: Path) -> None:
    shop = Shop(tmp_path, "staged", Point())
    with shop.database() as db:
        db.executemany("INSERT INTO held VALUES (?, ?)", [("1", 1), ("2", 2), ("3", 3), ("4", 4)])
    for number, phase in ((1, Phase.COMMITTING), (2, Phase.DONE), (3, Phase.BEGUN), (4, Phase.COMMITTING)):
        left(shop, number, phase=phase, handle={"ticket": str(number)})
    found = recovered(world, shop.fast())
    assert (ids(found.undone), ids(found.aborted), ids(found.committed)) == ([], ["3", "2"], ["4", "1"])
    assert shop.written() == [1, 4]


def test_a_commit_that_is_refused_at_recovery_has_left_nothing(world: World, tmp_path: Path) -> None:
    shop = Shop(tmp_path, "staged", Point(), refuses=True)
    left(shop, 1, phase=Phase.COMMITTING)
    found = recovered(world, shop.fast())
    assert (ids(found.aborted), found.committed, found.failed) == (["1"], (), ())
    assert shop.point.seen.count("before commit") == 1
    assert shop.journal.abandoned(["write"]) == []


def test_what_a_live_process_owns_is_left_alone(world: World, tmp_path: Path) -> None:
    shop = Shop(tmp_path, "reversible", Point())
    left(shop, 1, owner=this_process())
    parent = json.loads(this_process()) | {"pid": os.getppid(), "start": ""}
    left(shop, 2, owner=json.dumps(parent))
    assert recovered(world, shop.fast()) == Recovery()
    assert "before undo" not in shop.point.seen


def test_unknown_names_are_left_for_who_knows_them(world: World, tmp_path: Path) -> None:
    shop = Shop(tmp_path, "reversible", Point())
    other, plan = left(shop, 1, name="elsewhere"), left(shop, 2, name="plan")
    assert recovered(world, shop.fast()) == Recovery()
    assert shop.journal.abandoned(["elsewhere", "plan", "write"]) == [plan, other]


def test_a_declaration_that_has_changed_its_kind_is_told_and_the_entry_is_for_the_old_one(
    world: World, tmp_path: Path
) -> None:
    shop, told = Shop(tmp_path, "staged", Point()), []
    entry = left(shop, 1, kind="reversible")
    fast = shop.fast(on_rollback_failure=told.append)
    (failure,) = recovered(world, fast).failed
    assert told == [failure]
    assert (failure.action.id, failure.attempts, failure.effect) == ("1", 0, Effect.STAGED)
    assert isinstance(failure.error, SpeculationError)
    assert "'write' was reversible when 1 began, and is declared staged now" in str(failure.error)
    assert shop.point.seen == ["before begin", "after begin"]
    assert shop.journal.abandoned(["write"]) == [entry]
    shop.kind = "reversible"
    assert ids(recovered(world, shop.fast()).undone) == ["1"]


@pytest.mark.parametrize("hook_raises", [False, True])
def test_a_handler_that_fails_is_told_and_its_entry_stays(world: World, tmp_path: Path, hook_raises: bool) -> None:
    shop, told = Shop(tmp_path, "reversible", Point()), []
    for number in (1, 2, 3):
        left(shop, number)
    own = shop.undo

    def undo(action: Action) -> None:
        if action.id == "2":
            raise OSError("gone")
        own(action)

    def tell(failure: RollbackFailure) -> None:
        told.append(failure)
        if hook_raises:
            raise KeyError("hook")

    shop.undo = undo  # type: ignore[method-assign]
    found = recovered(world, shop.fast(on_rollback_failure=tell))
    assert ids(found.undone) == ["3", "1"]
    assert list(found.failed) == told
    (failure,) = told
    assert (failure.action.id, failure.effect, failure.attempts) == ("2", Effect.REVERSIBLE, 2)
    assert isinstance(failure.error, OSError)
    with contextlib.closing(sqlite3.connect(shop.journal.path)) as db:
        assert db.execute("SELECT id, phase FROM entries").fetchall() == [("2", "done")]


def test_a_handler_that_hangs_counts_as_failed(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "reversible", Point())
    left(shop, 1)

    async def undo(action: Action) -> None:
        await asyncio.get_running_loop().create_future()

    shop.undo = undo  # type: ignore[method-assign, assignment]
    (failure,) = shop.fast(rollback_timeout=0.01).recover().failed
    assert isinstance(failure.error, TimeoutError)
    assert failure.attempts == 2


def test_of_two_recoveries_one_takes_an_entry(tmp_path: Path) -> None:
    shop = Shop(tmp_path, "reversible", Point())
    left(shop, 1)

    async def both() -> list[Recovery]:
        return list(await asyncio.gather(shop.fast().arecover(), shop.fast().arecover()))

    assert sorted(len(r.undone) for r in asyncio.run(both())) == [0, 1]
    assert shop.point.seen.count("before undo") == 1


def test_a_journal_that_cannot_be_read_is_an_error(world: World, tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_text("not a database, but long enough to be taken for one" * 99)
    with pytest.raises(SpeculationError, match="not a journal"):
        recovered(world, Shop(tmp_path, "reversible", Point()).fast())


if __name__ == "__main__":
    helper(Path(sys.argv[1]))
