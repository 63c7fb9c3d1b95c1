"""Kills at random moments: is the world afterwards the one that the plain run would have left?

    python -m benchmarks.crash --kills 200 --seed 1                       # a few minutes with two workers
    python -m benchmarks.crash --kills 200 --seed 1 --database postgres --json

Each time a process runs an agent speculatively whose tools change a database early (undone, staged, prepared in a
transaction) or not at all early, and is killed with SIGKILL: after a random time, at a random one of the points that it
passes (journal writes, statements, commits, handlers, events, checkpoints), or at one of those of them where something
is decided. A new process recovers; half of these are killed, too, and followed by another. Then the world is compared
with that of the plain run.

The thread's last checkpoint says that k supersteps are committed. By then the database must hold exactly

* what the plain run's calls of these k steps have left there,
* the calls of step k + 1 that the run had made itself: they mark their row in the transaction that makes them, and what
  was there at the kill must be there still,
* the calls of step k + 1 that it had taken over. An early action is taken over if its journal entry is closed without
  its undo or abort having been called, or if it is at COMMITTING: for the two-phase `hold`, which recovery must then
  commit. `book` is one database transaction, and COMMITTING is written before COMMIT is sent: it is there if it was
  there at the kill, since nothing can commit it later.

That is what LangGraph itself leaves when it is killed before it can write its checkpoint. Nothing else may be there:
nothing early of these steps or of later ones, nothing held back, and nothing in the journal. Each call changes a value
by ``31 * value + amount``, so that an undo in a wrong order shows, too.

Then the thread is resumed in the plain graph, and has to end as the plain run does, in state and database. (Where calls
of the killed step were made again, as LangGraph says, only the calls are compared.)

On PostgreSQL a statement that was sent by the killed process may be carried out after its death. The command waits
until the server has noticed it, as one has to before a recovery. Exit status 1 if there is a mismatch.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import selectors
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import _postgres
from benchmarks._command import plain_environment
from benchmarks._crash_points import (
    Points,
    WatchedAsyncSaver,
    WatchedJournal,
    WatchedSaver,
    entries_in,
    in_child,
    notes_in,
    steps_in,
)
from benchmarks._crash_world import INPUT, Agent, Database, Place, Plan, Row, draw_plan, fold, note_of
from langgraph_speculative.journal import Phase

KILLS_PER_PLAN = 5
ATTEMPTS = 20
AFTER_A_TIME = 2
CONFIG: Any = {"configurable": {"thread_id": "t"}}


@dataclass(frozen=True)
class Reference:
    """What the plain run does, and how long the speculative one takes.

    Attributes:
        rows: Its calls, in order, each with its superstep.
        messages: What it ends with.
        seconds: Duration of an undisturbed speculative run.
        points: Points that this has passed, and how many of them were decisive.
    """

    rows: tuple[tuple[Row, int], ...]
    messages: list[Any]
    seconds: float
    points: tuple[int, int]

    def upto(self, step: int, further: Sequence[Row] = ()) -> list[Row]:
        """The calls up to a step, and some of the next, in order."""
        return [row for row, own in self.rows if own <= step or row in further]


class Mismatch(Exception):
    """The world is not the plain run's."""


def _must(holds: bool, what: str, *about: Any) -> None:
    if not holds:
        raise Mismatch("\n    ".join([what, *map(repr, about)]))


def _seen(state: Any) -> list[Any]:
    return [(m.type, m.content, getattr(m, "tool_calls", None)) for m in state["messages"]]


class Trial:
    """All processes of one kill, in a folder of their own."""

    def __init__(self, plan: Plan, place: Place) -> None:
        self.plan, self.place = plan, place
        self.thread, self.journal = place.folder / "thread.db", place.folder / "journal.db"
        self.notes = place.folder / "notes"

    def run(self, begin: Callable[[], None], fatal: int | None = None, decisive: bool = False) -> None:
        """The speculative run, in a child."""
        points = Points(self.notes, fatal, decisive=decisive)
        agent = Agent(self.plan, self.place, points)
        journal = WatchedJournal(self.journal, points)

        async def on_loop() -> Any:
            async with WatchedAsyncSaver.from_conn_string(str(self.thread)) as saver:
                saver.note = points
                await saver.setup()
                await saver.conn.execute("PRAGMA synchronous = OFF")
                fast = agent.fast(journal, saver)
                begin()
                return await fast.ainvoke(INPUT, CONFIG, durability="sync")

        if self.plan.is_async:
            state = asyncio.run(on_loop())
        else:
            saver = WatchedSaver(sqlite3.connect(self.thread, check_same_thread=False))
            saver.note = points
            saver.setup()
            saver.conn.execute("PRAGMA synchronous = OFF")
            fast = agent.fast(journal, saver)
            begin()
            state = fast.invoke(INPUT, CONFIG, durability="sync")
        points("ended", messages=_seen(state), points=points.passed)

    def recover(self, begin: Callable[[], None], fatal: int | None = None) -> None:
        """A recovery, in a child."""
        points = Points(self.place.folder / "recovery", fatal)
        fast = Agent(self.plan, self.place, points).fast(WatchedJournal(self.journal, points))
        begin()
        found = asyncio.run(fast.arecover()) if self.plan.is_async else fast.recover()
        points("recovered", failed=[repr(f) for f in found.failed])

    def resume(self, begin: Callable[[], None]) -> None:
        """The plain graph, from the last checkpoint on, in a child."""
        points = Points(self.place.folder / "plain")
        # A saver of the other world writes the same file.
        saver = WatchedSaver(sqlite3.connect(self.thread, check_same_thread=False))
        saver.note = lambda *_, **__: None
        graph = Agent(self.plan, self.place, points).plain(saver)
        begin()
        given: Any = None if saver.get_tuple(CONFIG) else INPUT
        for chunk in graph.stream(given, CONFIG, durability="sync", stream_mode="debug"):
            if chunk["type"] == "task":
                points("step", step=chunk["step"])
        points("ended", messages=_seen(graph.get_state(CONFIG).values))


def _succeeds(ended: Any, what: str) -> None:
    _must(not ended.error and not ended.killed, f"{what} failed: {ended.error}")


@contextmanager
def _place(server: str, name: str) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        place = Place(Path(folder), server, name)
        place.make()
        try:
            yield place
        finally:
            place.drop()


def _reference(plan: Plan, server: str, name: str) -> Reference:
    """Run the plan plain, and once undisturbed."""
    with _place(server, f"{name}_plain") as place:
        trial = Trial(plan, place)
        _succeeds(in_child(trial.resume), "the plain run")
        notes, rows, step = notes_in(place.folder / "plain"), [], 0
        own = {c.call: (c.call, c.item, c.amount) for turn in plan.turns for c in turn}
        for turn in range(1, len(plan.turns) + 1):
            made = note_of(turn)
            own[made["call"]] = (made["call"], made["item"], made["amount"])
        for note in notes:
            if note["what"] == "step":
                step = note["step"]
            elif note["what"] == "made":
                rows.append((own[note["call"]], step))
        plain = place.look()
        _must(plain.calls == tuple(sorted(r for r, _ in rows)), "the plain run's calls", plain.calls, rows)
        _must(plain.items == fold([r for r, _ in rows]), "the plain run's items", plain.items, rows)
    with _place(server, f"{name}_fast") as place:
        trial = Trial(plan, place)
        ended = in_child(trial.run)
        _succeeds(ended, "the undisturbed run")
        last = notes_in(trial.notes)[-1]
        reference = Reference(tuple(rows), notes[-1]["messages"], ended.seconds, tuple(last["points"]))
        _ended_well(reference, place.look(), last["messages"], "the undisturbed run")
        _must(not list(entries_in(trial.journal)), "the undisturbed run leaves entries", *entries_in(trial.journal))
        return reference


def _ended_well(reference: Reference, found: Database, messages: Any, what: str) -> None:
    rows = [r for r, _ in reference.rows]
    _must(found.calls == tuple(sorted(rows)), f"the calls of {what}", found, rows)
    _must(found.items == fold(rows), f"the items of {what}", found, fold(rows))
    _must(not found.holds, f"{what} leaves what it held", found)
    _must(messages == reference.messages, f"the messages of {what}", messages, reference.messages)


def _taken_over(
    notes: list[dict[str, Any]], left: dict[str, tuple[str, Phase]], early: Sequence[Row], reference: Reference
) -> list[Row]:
    """The calls that the killed run had taken over."""
    known = {row[0]: row for row, _ in reference.rows}
    ids = {what: {n["id"] for n in notes if n["what"] == what} for what in ("begun", "takes back", "closed")}
    claims = Counter(n["name"] for n in notes if n["what"] == "claim")
    taken = []
    for note in notes:
        if note["what"] != "begins":
            continue
        id, name, arguments = note["id"], note["name"], note["arguments"]
        if name == "note":
            arguments = note_of(arguments["turn"])
        row = (arguments["call"], arguments["item"], arguments["amount"])
        if id in left:
            if left[id][1] is not Phase.COMMITTING or (name == "book" and row not in early):
                continue
        elif id not in ids["begun"] or id in ids["takes back"]:
            continue
        _must(known.get(row[0]) == row, "a call was taken over that the plain run does not make", row)
        _must(id in left or claims[name] > 0, "an entry was closed, and nobody had claimed it", note)
        taken.append(row)
    return taken


def check(
    notes: list[dict[str, Any]],
    left: dict[str, tuple[str, Phase]],
    step: int,
    before: Database,
    after: Database,
    reference: Reference,
) -> list[Row]:
    """Compare the world after the recovery with that of the plain run.

    Args:
        notes: Those of the killed run.
        left: What the journal held at the kill.
        step: The last committed superstep.
        before: The database at the kill.
        after: After the recovery.

    Returns:
        The calls of the step that was under way.

    Raises:
        Mismatch: They differ.
    """
    steps = dict(reference.rows)
    taken = _taken_over(notes, left, before.early, reference)
    of_run = [*before.made, *taken]
    strange = [row for row in of_run if steps.get(row, step + 2) > step + 1]
    _must(not strange, f"calls of the run beyond step {step + 1}", strange)
    further = [row for row in of_run if steps[row] == step + 1]
    expected = reference.upto(step, further)
    done = {n["call"] for n in notes if n["what"] == "made"}
    _must(done <= {row[0] for row in before.made}, "calls that were made are not there at the kill", done, before)
    _must(after.calls == tuple(sorted(expected)), "calls", expected, before, after, left)
    _must(set(before.made) <= set(after.made), "the run's own calls were taken back", before, after)
    _must(after.items == fold(expected), "items", fold(expected), after)
    _must(not after.holds, "something is held after the recovery", after)
    return further


def kill(plan: Plan, reference: Reference, server: str, name: str, draw: random.Random, tally: Counter[str]) -> None:
    """One kill, with its recovery and the rest of the thread.

    Raises:
        Mismatch: The world is not the plain run's.
    """
    for attempt in range(ATTEMPTS):
        with _place(server, f"{name}_{attempt}") as place:
            trial = Trial(plan, place)
            way = draw.randrange(3)
            fatal = None if way == AFTER_A_TIME else draw.randint(1, max(1, reference.points[way]))
            delay = draw.uniform(0, reference.seconds) if fatal is None else None
            ended = in_child(partial(trial.run, fatal=fatal, decisive=way == 1), delay)
            _must(not ended.error, f"the run failed: {ended.error}")
            if not ended.killed:
                _ended_well(reference, place.look(), notes_in(trial.notes)[-1]["messages"], "a run that was not killed")
                continue
            tally["kills"] += 1
            try:
                _after(trial, reference, draw, tally)
            except Mismatch as error:
                at = f"{delay:.4f} s" if fatal is None else f"{'decisive ' if way == 1 else ''}point {fatal}"
                where = f"{name}, killed at {at}: {error}\n    {plan!r}"
                raise Mismatch(where) from error
            return
    raise Mismatch(f"{name}: the run was never killed in time")


def _after(trial: Trial, reference: Reference, draw: random.Random, tally: Counter[str]) -> None:
    place = trial.place
    place.wait_for_silence()
    left = {id: (name, phase) for id, name, phase in entries_in(trial.journal)}
    step = steps_in(trial.thread)
    step = -1 if step is None else step
    before = place.look()
    for _, phase in left.values():
        tally[f"left {phase}"] += 1
    if draw.random() < 0.5:
        fatal = draw.randint(1, 3 + 10 * len(left))
        ended = in_child(partial(trial.recover, fatal=fatal))
        _must(not ended.error, f"a recovery failed: {ended.error}")
        tally["killed recoveries"] += ended.killed
        place.wait_for_silence()
    _succeeds(in_child(trial.recover), "the recovery")
    failed = notes_in(place.folder / "recovery")[-1]["failed"]
    _must(not failed, "the recovery could not do all", failed)
    _must(not list(entries_in(trial.journal)), "entries after the recovery", *entries_in(trial.journal))
    after = place.look()
    notes = notes_in(trial.notes)
    further = check(notes, left, step, before, after, reference)
    tally["claims"] += sum(n["what"] == "claim" for n in notes)
    tally["amid a step"] += bool(further)
    _succeeds(in_child(trial.resume), "the rest of the thread")
    found = place.look()
    again = list((Counter(found.calls) - Counter(r for r, _ in reference.rows)).elements())
    _must(set(again) <= set(further), "calls were made twice", again, further)
    _must(not Counter(r for r, _ in reference.rows) - Counter(found.calls), "calls are missing", found)
    if not again:
        tally["ends compared"] += 1
        _ended_well(reference, found, notes_in(place.folder / "plain")[-1]["messages"], "the rest of the thread")


# --- workers --------------------------------------------------------------------------------------------------------


def _work(seed: int, database: str, server: str, numbers: Sequence[int], tell: Callable[..., None]) -> None:
    """Make these kills, one after another, in a process that has no threads."""
    references: dict[int, tuple[Plan, Reference]] = {}
    for number in numbers:
        tally: Counter[str] = Counter()
        text = ""
        try:
            own = number // KILLS_PER_PLAN
            if own not in references:
                plan = draw_plan(seed, own, database)
                references[own] = plan, _reference(plan, server, f"crash_{own}")
            plan, reference = references[own]
            draw = random.Random(f"{seed} {database} {number}")
            kill(plan, reference, server, f"crash_{number}", draw, tally)
        except Mismatch as error:
            text = f"{database}: {error}"
        except Exception as error:
            text = f"{database}, kill {number}: {error!r}"
        tell(tally=tally, mismatch=text)


def _start(seed: int, database: str, server: str, portions: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Fork workers; their ids, and where they tell what they have done."""
    for portion in portions:
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                os.close(reading)
                _work(
                    seed,
                    database,
                    server,
                    portion,
                    lambda **news: os.write(writing, json.dumps(news).encode() + b"\n") and None,  # noqa: B023
                )
            finally:
                os._exit(0)
        os.close(writing)
        yield pid, reading


def run(
    kills: int, seed: int, database: str, server: str, workers: int, advance: Callable[[], None]
) -> tuple[Counter[str], list[str]]:
    """Make that many kills on one database; what happened, and a text for each mismatch."""
    plans = range((kills + KILLS_PER_PLAN - 1) // KILLS_PER_PLAN)
    portions = [
        [n for p in plans[w::workers] for n in range(p * KILLS_PER_PLAN, min(kills, (p + 1) * KILLS_PER_PLAN))]
        for w in range(workers)
    ]
    tally: Counter[str] = Counter()
    mismatches: list[str] = []
    started = list(_start(seed, database, server, portions))
    told = 0
    with selectors.DefaultSelector() as selector:
        for _, reading in started:
            selector.register(open(reading, "rb"), selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                line = key.fileobj.readline()  # type: ignore[union-attr]
                if not line:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()  # type: ignore[union-attr]
                    continue
                news = json.loads(line)
                told += 1
                tally.update(news["tally"])
                mismatches += [news["mismatch"]] if news["mismatch"] else []
                advance()
    for pid, _ in started:
        os.waitpid(pid, 0)
    if told != kills:
        mismatches.append(f"{database}: a worker died; {told} of {kills} kills were made")
    return tally, mismatches


@contextmanager
def _server(database: str) -> Iterator[str]:
    """The address of a PostgreSQL server, where one is wanted."""
    if database == "sqlite":
        yield ""
        return
    with _postgres.server() as address:
        yield address.replace("postgresql://", "postgresql+psycopg://")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crash", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="how many, on each database (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (default: 1)")
    parser.add_argument("--database", choices=("sqlite", "postgres", "both"), default="sqlite", help="default: sqlite")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    args = parser.parse_args(argv)
    plain_environment()
    databases = ("sqlite", "postgres") if args.database == "both" else (args.database,)
    if "postgres" in databases and importlib.util.find_spec("pgserver") is None:
        parser.error("PostgreSQL comes with pgserver, which is not installed: pip install pgserver, or use sqlite.")
    tally: Counter[str] = Counter()
    mismatches: list[str] = []
    since = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No refreshing thread: workers are forked from here.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as progress:
        for database in databases:
            task = progress.add_task(database, total=args.kills)
            with _server(database) as server:
                found, texts = run(
                    args.kills,
                    args.seed,
                    database,
                    server,
                    args.workers,
                    lambda t=task: progress.update(t, advance=1, refresh=True),  # type: ignore[misc]
                )
            tally += found
            mismatches += texts
    for text in mismatches:
        print(f"\n{text}", file=sys.stderr)
    counts = {key: tally[key] for key in sorted(tally) if key != "kills"}
    if args.json:
        print(
            json.dumps(
                {
                    "kills": tally["kills"],
                    "mismatches": len(mismatches),
                    "seconds": round(time.monotonic() - since, 1),
                    **{key.replace(" ", "_"): n for key, n in counts.items()},
                }
            )
        )
    else:
        about = ", ".join(f"{key}: {n}" for key, n in counts.items())
        print(f"{tally['kills']} kills, {len(mismatches)} mismatches ({about})")
    return 1 if mismatches else 0


if __name__ == "__main__":
    sys.exit(main())
