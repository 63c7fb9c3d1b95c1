"""The journal of early actions in a file, and in stores in memory, SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore

from langgraph_speculative import SpeculationError, _owner, _store_journal, journal
from langgraph_speculative._owner import is_alive, this_process
from langgraph_speculative.journal import Entry, Journal, Phase, SqliteJournal, StoreJournal, journal_of

OWN = json.loads(this_process())
GONE = json.dumps(OWN | {"start": "0"}, sort_keys=True)
GONE_TOO = json.dumps(OWN | {"start": "1"}, sort_keys=True)
ELSEWHERE = json.dumps(OWN | {"host": "elsewhere"}, sort_keys=True)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are killed with signals")


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def entry(id: str = "1", *, name: str = "book", order: int = 0, owner: str = "", **kwargs: Any) -> Entry:
    kwargs = {"kind": "reversible", "arguments": {"n": [1, None]}, "thread_id": "t"} | kwargs
    return Entry(id=id, name=name, order=order, owner=owner or this_process(), **kwargs)


def ids(entries: list[Entry]) -> list[str]:
    return [e.id for e in entries]


# --- where it is kept -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def postgres(postgres_server: str) -> str:
    """The address of a server that has a store."""
    store = pytest.importorskip("langgraph.store.postgres", reason="langgraph-checkpoint-postgres is not installed")
    with store.PostgresStore.from_conn_string(postgres_server) as opened:
        opened.setup()
    return postgres_server


class Place:
    """Where the journals of one test are; each that is opened stands for one process, unless the store is in memory."""

    def __init__(self, kind: str, address: str) -> None:
        self.kind, self.address = kind, address
        self.namespace = (f"journal-{uuid.uuid4().hex}", "j")
        self._stack = contextlib.ExitStack()
        self._memory = InMemoryStore()

    def store(self) -> Any:
        if self.kind == "memory":
            return self._memory
        if self.kind == "postgres":
            from langgraph.store.postgres import PostgresStore

            return self._stack.enter_context(PostgresStore.from_conn_string(self.address))
        from langgraph.store.sqlite import SqliteStore

        store = self._stack.enter_context(SqliteStore.from_conn_string(self.address))
        store.setup()
        return store

    def open(self, **kwargs: Any) -> Any:
        if self.kind == "file":
            kwargs.pop("wait", None)
            made: Any = SqliteJournal(self.address, **kwargs)
        else:
            made = StoreJournal(self.store(), self.namespace, **{"wait": lambda _: None} | kwargs)
        self._stack.callback(made.shut)
        return made

    def close(self) -> None:
        self._stack.close()


def place_of(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kind = str(request.param)
    if kind == "sqlite":
        pytest.importorskip("langgraph.store.sqlite", reason="langgraph-checkpoint-sqlite is not installed")
    return Place(kind, request.getfixturevalue("postgres") if kind == "postgres" else str(tmp_path / f"{kind}.sqlite"))


@pytest.fixture(params=["file", "memory", "sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with contextlib.closing(place_of(request, tmp_path)) as found:
        yield found


@pytest.fixture(params=["file", "sqlite", "postgres"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place that other processes reach."""
    with contextlib.closing(place_of(request, tmp_path)) as found:
        yield found


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def in_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with contextlib.closing(place_of(request, tmp_path)) as found:
        yield found


@contextlib.contextmanager
def acting_as(owner: str) -> Iterator[None]:
    """What journals do in here, they do as another process."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (journal, _store_journal):
            patch.setattr(module, "this_process", lambda: owner)
        yield


# --- entries ----------------------------------------------------------------------------------------------------------


def test_the_next_process_finds_what_was_written(place: Place) -> None:
    writer, reader = place.open(), place.open()
    with acting_as(GONE):
        new = entry(owner=GONE, kind="staged", thread_id="ä\x00", order=3)
        writer.begin(new)
        assert reader.abandoned(["book"]) == [new]
        writer.advance("1", Phase.DONE, result={"ok": True}, handle="h")
        done = replace(new, phase=Phase.DONE, result={"ok": True}, handle="h")
        assert reader.abandoned(["book"]) == [done]
        writer.advance("1", Phase.COMMITTING)
        (found,) = reader.abandoned(["book"])
        assert found == replace(done, phase=Phase.COMMITTING)
        assert isinstance(found.phase, Phase)
        assert isinstance(found.order, int)
        writer.close("1")
        assert reader.abandoned(["book"]) == []


def test_closing_is_idempotent(place: Place) -> None:
    one = place.open()
    one.close("never")
    one.begin(entry())
    one.close("1")
    one.close("1")
    assert one.abandoned(["book"]) == []


def test_what_is_not_ones_own_is_neither_advanced_nor_closed(place: Place) -> None:
    one = place.open()
    with pytest.raises(SpeculationError, match="no action '1' in the journal"):
        one.advance("1", Phase.DONE)
    one.begin(entry(owner=GONE))
    with pytest.raises(SpeculationError, match="no action '1' in the journal"):
        one.advance("1", Phase.DONE)
    one.close("1")
    assert one.abandoned(["book"]) == [entry(owner=GONE)]
    one.begin(entry("2"))
    one.close("2")
    with pytest.raises(SpeculationError, match="no action '2' in the journal"):
        one.advance("2", Phase.DONE)


def test_the_latest_is_taken_back_first(place: Place) -> None:
    """By the order that its process gave it, not by when it was written; and process by process."""
    clock = Clock()
    one = place.open(clock=clock)
    for at, id, order, owner in [(0, "a0", 0, GONE), (1, "b0", 0, GONE_TOO), (2, "a2", 2, GONE), (3, "a1", 1, GONE)]:
        clock.now = 1000.0 + at
        one.begin(entry(id, order=order, owner=owner))
    clock.now += 1
    one.begin(entry("b1", order=1, owner=GONE_TOO))
    found = one.abandoned(["book"])
    assert ids(found) == ["b1", "b0", "a2", "a1", "a0"]
    with acting_as(GONE_TOO):
        assert all(one.take(e) for e in found if e.owner == GONE)
    # It has died, too. Its own and what it has taken over are still told apart.
    assert one.abandoned(["book"]) == [replace(e, owner=GONE_TOO) for e in found]


def test_only_the_names_that_are_asked_for_are_found(place: Place) -> None:
    one = place.open()
    for order, name in enumerate(["book", "outer|inner", "other"]):
        one.begin(entry(name, name=name, order=order, owner=GONE))
    assert ids(one.abandoned({"book", "outer|inner"})) == ["outer|inner", "book"]
    assert one.abandoned([]) == []


def test_values_that_json_cannot_hold_are_left_out(place: Place) -> None:
    class Odd(dict[str, Any]):
        def items(self) -> Any:
            raise RuntimeError("odd")

    circle: list[Any] = []
    circle.append(circle)
    one = place.open()
    with acting_as(GONE):
        for order, value in enumerate([AIMessage("x"), {"in": [threading.Lock()]}, circle, {1j: 1}, Odd(x=1)]):
            one.begin(entry(str(order), order=order, owner=GONE, arguments=value))
            one.advance(str(order), Phase.DONE, result=value, handle=value)
        found = one.abandoned(["book"])
        assert [(e.arguments, e.result, e.handle) for e in found] == [(None, None, None)] * 5
        one.advance("0", Phase.DONE, result=2**70, handle="\x00\ud800")
        one.advance("0", Phase.DONE, result=AIMessage("x"))
        assert one.abandoned(["book"])[-1] == replace(found[-1], result=2**70, handle="\x00\ud800")


def test_many_entries_are_all_found(in_store: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store_journal, "_PAGE", 7)
    one = in_store.open()
    for n in range(40):
        one.begin(entry(str(n), order=n, owner=GONE))
    assert ids(one.abandoned(["book"])) == [str(n) for n in reversed(range(40))]


def test_threads_write_at_the_same_time(place: Place) -> None:
    one = place.open()

    def work(n: int) -> None:
        one.begin(entry(f"left{n}", owner=GONE, order=n))
        one.begin(entry(f"own{n}"))
        one.advance(f"own{n}", Phase.DONE, result=n)
        one.close(f"own{n}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert ids(one.abandoned(["book"])) == [f"left{n}" for n in reversed(range(40))]


# --- who lives --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "on_one_host", "on_several"),
    [
        ({}, True, True),
        ({"start": "0"}, False, False),
        ({"start": ""}, True, True),
        ({"pid": 2**22 + 1}, False, False),
        ({"pid": 2**80}, None, None),
        ({"pid": "x"}, None, None),
        ({"host": "elsewhere"}, None, None),
        ({"host": "elsewhere", "boot": "x"}, None, None),
        ({"boot": "x"}, False, None),
        ({"namespace": "x"}, None, None),
    ],
)
def test_which_processes_live(change: dict[str, Any], on_one_host: bool | None, on_several: bool | None) -> None:
    owner = json.dumps(OWN | change)
    assert is_alive(owner, one_host=True) is on_one_host
    assert is_alive(owner, one_host=False) is on_several


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", "null"])
def test_of_an_unknown_owner_nothing_is_known(text: str) -> None:
    assert is_alive(text, one_host=True) is None


def test_hosts_without_a_boot_id_may_have_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_owner, "this_process", lambda: json.dumps(OWN | {"boot": ""}))
    assert is_alive(json.dumps(OWN | {"boot": ""}), one_host=True) is True
    assert is_alive(json.dumps(OWN | {"boot": ""}), one_host=False) is None


def test_without_proc_only_the_pid_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_owner, "_status", lambda pid: None)
    assert is_alive(json.dumps(OWN | {"start": "0"}), one_host=True) is True
    assert is_alive(json.dumps(OWN | {"pid": 2**22 + 1}), one_host=True) is False

    def refuse(pid: int, sig: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert is_alive(this_process(), one_host=True) is True


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="there is no /proc here")
def test_a_zombie_is_dead_and_an_odd_program_name_misleads_nobody(tmp_path: Path) -> None:
    program = tmp_path / "a) Z (1 2"
    shutil.copy(shutil.which("cat") or "/bin/cat", program)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as process:
        status = _owner._status(process.pid)
        assert status is not None
        owner = json.dumps(OWN | {"pid": process.pid, "start": status[1]})
        assert is_alive(owner, one_host=True) is True
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked how
        assert is_alive(owner, one_host=True) is False


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_child_is_another_process(tmp_path: Path) -> None:
    one = SqliteJournal(tmp_path / "j.sqlite")
    one.begin(entry("parents"))
    connection = one._connection
    read, write = os.pipe()
    if not (child := os.fork()):
        said: Any = "failed"
        try:
            assert connection is not None
            assert (one._connection, one._open, one._stop) == (None, set(), None)
            one.begin(entry("childs"))
            one.close("parents")
            said = (this_process(), ids(one.abandoned(["book"])))
        finally:
            os.write(write, json.dumps(said).encode())
            os._exit(0)
    os.waitpid(child, 0)
    owner, found = json.loads(os.read(read, 10_000))
    os.close(read)
    os.close(write)
    assert (owner != this_process(), json.loads(owner)["pid"], found) == (True, child, [])
    assert one.abandoned(["book"]) == [entry("childs", owner=owner)]
    one.advance("parents", Phase.DONE)
    one.close("parents")
    one.shut()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_fork_waits_for_what_another_thread_writes(tmp_path: Path) -> None:
    """The child can write, whatever its parent was doing."""
    one, busy, over = SqliteJournal(tmp_path / "j.sqlite"), threading.Event(), threading.Event()

    def write() -> None:
        for n in itertools.count():
            busy.wait(20)
            if over.is_set():
                return
            one.begin(entry(f"w{n}"))
            one.close(f"w{n}")

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        try:
            for n in range(10):
                busy.set()
                child = os.fork()
                busy.clear()
                if not child:
                    code = 1
                    try:
                        one.begin(entry(f"c{n}", order=n))
                        code = 0
                    finally:
                        os._exit(code)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            over.set()
            busy.set()
        writing.result()
    assert sorted(ids(one.abandoned(["book"]))) == [f"c{n}" for n in range(10)]
    one.shut()


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_living_process_keeps_its_entries_whatever_the_time(place: Place) -> None:
    clock = Clock()
    one = place.open(clock=clock)
    one.begin(entry())
    clock.now += 1e6
    assert one.abandoned(["book"]) == []
    assert not one.take(entry())


def test_a_process_elsewhere_is_dead_when_its_lease_ends(place: Place) -> None:
    clock = Clock()
    one, other = place.open(clock=clock, lease=30.0), place.open(clock=clock, lease=30.0)
    theirs = entry(owner=ELSEWHERE)
    with acting_as(ELSEWHERE):
        other.begin(theirs)
    clock.now += 29.9
    assert one.abandoned(["book"]) == []
    assert not one.take(theirs)
    other._renew(ELSEWHERE, clock.now + 30.0)
    clock.now += 29.9
    assert one.abandoned(["book"]) == []
    assert not one.take(theirs)
    clock.now += 0.1
    assert one.abandoned(["book"]) == [theirs]
    other._renew(ELSEWHERE, clock.now + 30.0)  # it had only been slow
    assert one.abandoned(["book"]) == []
    assert not one.take(theirs)
    clock.now += 30.0
    assert one.abandoned(["book"]) == [theirs]
    assert one.take(theirs)
    with acting_as(ELSEWHERE), pytest.raises(SpeculationError, match="another took it over"):
        other.advance("1", Phase.COMMITTING)


def test_after_a_reboot_a_files_processes_are_dead_at_once(place: Place) -> None:
    """Of a store nobody knows how many hosts of that name there are."""
    clock = Clock()
    one, before = place.open(clock=clock), entry(owner=json.dumps(OWN | {"boot": "before"}))
    one.begin(before)
    assert one.abandoned(["book"]) == ([before] if place.kind == "file" else [])
    clock.now += 30
    assert one.abandoned(["book"]) == [before]


def beats(made: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], Callable[[], threading.Thread | None]]:
    """The renewals, the first of which fails, and a function for the thread that makes them."""
    made.renewed = threading.Event()
    calls: list[Any] = []
    renew = made._renew

    def record(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 1:
            raise OSError("not now")
        renew(*args)
        made.renewed.set()

    monkeypatch.setattr(made, "_renew", record)

    def thread() -> threading.Thread | None:
        return next((t for t in threading.enumerate() if getattr(t, "_target", None) == made._beat), None)

    return calls, thread


def test_leases_are_renewed_while_something_is_open(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    one = place.open(lease=0.03, clock=Clock(5.0))
    calls, thread = beats(one, monkeypatch)
    assert thread() is None
    one.begin(entry("theirs", owner=GONE))
    assert thread() is None
    for _ in range(2):
        one.renewed.clear()
        one.begin(entry())
        beating = thread()
        assert beating is not None
        assert beating.daemon
        assert one.renewed.wait(10)
        assert calls[-1] == (this_process(), 5.03)
        one.close("1")
        beating.join(10)
        assert not beating.is_alive()
    assert one.take(entry("theirs", owner=GONE))
    assert thread() is not None


def test_shut_ends_the_renewals_and_the_journal_can_be_used_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = place.open(lease=0.03)
    _, thread = beats(one, monkeypatch)
    one.begin(entry())
    beating = thread()
    assert beating is not None
    assert one.renewed.wait(10)
    one.shut()
    assert not beating.is_alive()
    one.shut()
    if place.kind == "file":
        assert one._connection is None
        one._renew(this_process(), 1e12)  # a late one opens nothing again
        assert one._connection is None
    one.advance("1", Phase.DONE)
    one.close("1")
    one.begin(entry("2"))
    assert thread() is not None
    one.close("2")


def test_a_lease_is_positive(place: Place) -> None:
    with pytest.raises(SpeculationError, match="lease=0: seconds must be positive"):
        place.open(lease=0)


def test_old_leases_are_swept_away(place: Place) -> None:
    clock = Clock()
    one = place.open(clock=clock)
    one.begin(entry())
    one._renew(ELSEWHERE, 1001.0)
    one._renew(this_process(), 1002.0)
    clock.now = 1001.0
    one.abandoned(["book"])
    if place.kind == "file":
        with one._database() as db:
            left = [row[0] for row in db.execute("SELECT owner FROM owners")]
        assert left == [this_process()]
    else:
        assert [item.key for item in one._all("owners")] == [_store_journal._key(this_process())]


# --- taking over ------------------------------------------------------------------------------------------------------


def test_who_takes_an_entry_owns_it(place: Place) -> None:
    one = place.open()
    left = entry(owner=GONE)
    assert not one.take(left)
    one.begin(left)
    assert one.take(left)
    assert one.abandoned(["book"]) == []
    assert not one.take(left)
    one.advance("1", Phase.DONE, result=1)
    with acting_as(GONE):
        one.close("1")
        assert one._open == set()
    with acting_as(GONE_TOO):
        assert not one.take(entry())
    one.advance("1", Phase.DONE, result=1)
    one.close("1")
    assert not one.take(entry(owner=GONE))


def test_of_many_threads_one_takes_it(place: Place) -> None:
    barrier = threading.Barrier(4)
    takers = [place.open(wait=lambda _: barrier.wait(20)) for _ in range(4)]
    takers[0].begin(entry("first", owner=GONE))
    takers[0].begin(entry("second", owner=GONE, order=1))
    with ThreadPoolExecutor(4) as pool:
        for left in takers[0].abandoned(["book"]):
            assert sorted(pool.map(lambda t, e=left: t.take(e), takers)) == [False, False, False, True]
    if place.kind != "file":
        assert takers[0]._all("takers", "first") == []


def test_a_taken_entry_whose_taker_dies_is_abandoned_again(place: Place) -> None:
    one = place.open()
    one.begin(entry(owner=GONE))
    with acting_as(GONE_TOO):
        assert one.take(entry(owner=GONE))
    assert one.abandoned(["book"]) == [entry(owner=GONE_TOO)]
    assert one.take(entry(owner=GONE_TOO))


def test_a_claim_of_a_dead_process_counts_for_nothing(in_store: Place) -> None:
    clock = Clock()
    one = in_store.open(clock=clock)
    left = entry("1.a", owner=GONE)
    one.begin(left)
    where = ("takers", "1%2Ea")
    one._put(*where, "0", {"owner": GONE_TOO, "lease_ends": 1e12})
    one._put(*where, "00", {"owner": ELSEWHERE, "lease_ends": 1005.0})
    assert not one.take(left)  # somebody elsewhere is at it
    assert [item.key for item in one._all(*where)] == ["00"]
    clock.now = 1005.0
    assert one.take(left)
    assert one._all(*where) == []


def test_claims_on_other_entries_do_not_matter(in_store: Place) -> None:
    one = in_store.open()
    one.begin(entry("1", owner=GONE))
    one._put("takers", "10", "0", {"owner": this_process(), "lease_ends": 1e12})
    assert one.take(entry("1", owner=GONE))


@pytest.mark.parametrize("gone", ["claim", "entry", "owner"])
def test_who_finds_things_changed_after_waiting_does_not_win(in_store: Place, gone: str) -> None:
    one, left = in_store.open(), entry(owner=GONE)

    def change(_: float) -> None:
        if gone == "claim":
            for item in one._all("takers", "1"):
                one._delete("takers", "1", item.key)
        elif gone == "entry":
            one._delete("entries", "1")
        else:
            one._write(_store_journal.Stored(replace(left, owner=GONE_TOO), GONE, 0.0))

    one.begin(left)
    assert not in_store.open(wait=change).take(left)
    assert one._all("takers", "1") == []


def test_who_waits_for_longer_than_its_lease_does_not_win(in_store: Place) -> None:
    clock = Clock()

    def stop(seconds: float) -> None:
        assert seconds == 2.0
        clock.now += 32

    one = in_store.open(clock=clock, wait=stop, settle=2.0, lease=30.0)
    one.begin(entry(owner=GONE))
    assert not one.take(entry(owner=GONE))


# --- other processes --------------------------------------------------------------------------------------------------

PROGRAM = """
import contextlib, json, os, sys

from langgraph_speculative.journal import Entry, Phase, SqliteJournal, StoreJournal

kind, address, *namespace = sys.argv[1:]
with contextlib.ExitStack() as stack:
    def opened(address):
        if kind == "file":
            return SqliteJournal(address)
        if kind == "sqlite":
            from langgraph.store.sqlite import SqliteStore as Store
        else:
            from langgraph.store.postgres import PostgresStore as Store
        return StoreJournal(stack.enter_context(Store.from_conn_string(address)), tuple(namespace))

    journal = opened(address)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        match json.loads(line):
            case ["begin", id, *where]:
                if where:
                    journal = opened(*where)
                new = Entry(id=id, name="book", kind="staged", arguments=[os.getpid()], thread_id="", order=0)
                journal.begin(new)
                said = True
            case ["advance", id, result]:
                said = journal.advance(id, Phase.DONE, result=result)
            case ["abandoned"]:
                said = [e.id for e in journal.abandoned(["book"])]
            case ["take", *ids]:
                said = [journal.take(e) for e in journal.abandoned(["book"]) if e.id in ids]
        print(json.dumps(said), flush=True)
"""


class Process:
    """Another process with a journal in the same place, which does what it is told."""

    def __init__(self, place: Place) -> None:
        root = str(Path(__file__).parent.parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, place.kind, place.address, *place.namespace],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    def ready(self) -> Process:
        assert self.hear() == "ready"
        return self

    def tell(self, *command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def ask(self, *command: Any) -> Any:
        self.tell(*command)
        return self.hear()

    def leave(self) -> int:
        """Let it come to its end; its exit code."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(20)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


@pytest.fixture
def started() -> Iterator[Callable[[Place, int], list[Process]]]:
    all_of_them: list[Process] = []

    def start(place: Place, count: int) -> list[Process]:
        new = [Process(place) for _ in range(count)]
        all_of_them.extend(new)
        return [process.ready() for process in new]

    yield start
    for process in all_of_them:
        process.kill()


Started = Callable[[Place, int], list[Process]]


def test_what_a_killed_process_left_is_taken_over_even_if_the_taker_is_killed_too(
    shared: Place, started: Started
) -> None:
    one = shared.open()
    first, second = started(shared, 2)
    assert first.ask("begin", "1")
    first.ask("advance", "1", "booked")
    assert (one.abandoned(["book"]), second.ask("abandoned")) == ([], [])
    first.kill()
    (left,) = one.abandoned(["book"])
    assert (left.id, left.phase, left.result, left.kind) == ("1", Phase.DONE, "booked", "staged")
    assert left.arguments == [json.loads(left.owner)["pid"]]
    assert second.ask("take", "1") == [True]
    assert one.abandoned(["book"]) == []
    assert not one.take(left)
    second.kill()
    (again,) = one.abandoned(["book"])
    assert again == replace(left, owner=again.owner)
    assert again.owner != left.owner
    assert one.take(again)
    assert one.abandoned(["book"]) == []
    one.close("1")


def test_open_entries_keep_no_process_alive(tmp_path: Path, started: Started) -> None:
    place = Place("file", str(tmp_path / "j.sqlite"))
    (other,) = started(place, 1)
    assert other.ask("begin", "1")
    assert other.leave() == 0
    one = place.open()
    assert ids(one.abandoned(["book"])) == ["1"]
    place.close()


def test_of_two_processes_one_takes_it(shared: Place, started: Started) -> None:
    one = shared.open()
    left = [str(n) for n in range(20 if shared.kind == "file" else 1)]
    for order, id in enumerate(left):
        one.begin(entry(id, order=order, owner=GONE))
    takers = started(shared, 2)
    for taker in takers:
        taker.tell("take", *left)
    # One may come so late that it does not even find what the other has taken.
    assert sum(sum(taker.hear()) for taker in takers) == len(left)
    assert one.abandoned(["book"]) == []


def test_two_processes_make_the_file_at_the_same_time(tmp_path: Path, started: Started) -> None:
    processes = started(Place("file", str(tmp_path / "unused")), 2)
    paths = [str(tmp_path / f"{n}" / "j.sqlite") for n in range(20)]
    for n, process in enumerate(processes):
        for path in paths:
            process.tell("begin", f"{n}", path)
    assert [process.hear() for process in processes for _ in paths] == [True] * 40
    for process in processes:
        process.kill()
    for path in paths:
        one = SqliteJournal(path)
        assert sorted(ids(one.abandoned(["book"]))) == ["0", "1"]
        one.shut()


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_file_is_made_at_the_first_entry(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "j?#%.sqlite"
    one = SqliteJournal(path)
    assert one.abandoned(["book"]) == []
    assert not one.take(entry(owner=GONE))
    one.close("1")
    with pytest.raises(SpeculationError, match="no action '1'"):
        one.advance("1", Phase.DONE)
    one.shut()
    assert list(tmp_path.iterdir()) == []
    one.begin(entry())
    assert path.exists()
    with one._database() as db:
        assert db is not None
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 2
    with pytest.raises(SpeculationError, match="UNIQUE"):
        one.begin(entry())
    one.close("1")
    one.shut()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_empty_file_is_an_empty_journal(tmp_path: Path) -> None:
    (tmp_path / "j").touch()
    one = SqliteJournal(tmp_path / "j")
    assert one.abandoned(["book"]) == []
    one.shut()


def test_applications_share_a_file(tmp_path: Path) -> None:
    one, other = SqliteJournal(tmp_path / "j", "one"), SqliteJournal(tmp_path / "j", "other")
    one.begin(entry("1", owner=GONE))
    other.begin(entry("2", owner=GONE))
    assert (ids(one.abandoned(["book"])), ids(other.abandoned(["book"]))) == (["1"], ["2"])
    one.shut()
    other.shut()


@pytest.mark.parametrize("where", ["file/j.sqlite", "folder"])
def test_a_path_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(SpeculationError, match=rf"{where} cannot be used: .*LANGGRAPH_SPECULATIVE_JOURNAL"):
        SqliteJournal(tmp_path / where).begin(entry())


@pytest.mark.parametrize("what", ["text", "tables", "later"])
@pytest.mark.parametrize("call", ["begin", "abandoned"])
def test_what_is_not_a_journal_is_left_as_it_is(tmp_path: Path, what: str, call: str) -> None:
    path = tmp_path / "other"
    if what == "text":
        path.write_text("Dear diary, " * 1000)
    else:
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE checkpoints (x)")
            if what == "later":
                db.execute(f"PRAGMA application_id = {journal._KIND}")
                db.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    one = SqliteJournal(path)
    with pytest.raises(SpeculationError, match="other is not a journal"):
        one.begin(entry()) if call == "begin" else one.abandoned(["book"])
    assert path.read_bytes() == before


def test_an_error_does_not_stay(tmp_path: Path) -> None:
    one = SqliteJournal(tmp_path / "a" / "j")
    (tmp_path / "a").touch()
    with pytest.raises(SpeculationError, match="a/j cannot be used"):
        one.begin(entry())
    (tmp_path / "a").unlink()
    one.begin(entry())
    one.close("1")
    one.shut()


# --- stores -----------------------------------------------------------------------------------------------------------


def test_nothing_in_a_store_is_indexed_or_expires() -> None:
    class Store(InMemoryStore):
        __slots__ = ("ops",)
        supports_ttl = True
        ttl_config = {"default_ttl": 1.0, "refresh_on_read": True}  # noqa: RUF012

        def batch(self, ops: Any) -> Any:
            self.ops += (ops := list(ops))
            return super().batch(ops)

    store = Store()
    store.ops = []
    one = StoreJournal(store, wait=lambda _: None)
    one.begin(entry(owner=GONE))
    one._renew(GONE, 1.0)
    (left,) = one.abandoned(["book"])
    assert one.take(left)
    one.advance("1", Phase.DONE)
    one.close("1")
    one.shut()
    puts = [op for op in store.ops if isinstance(op, PutOp) and op.value is not None]
    assert len(puts) == 5
    assert {(op.index, op.ttl, *op.namespace[:2]) for op in puts} == {(False, None, "langgraph_speculative", "journal")}
    assert not any(getattr(op, "refresh_ttl", False) for op in store.ops)


def test_a_search_that_others_disturb_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, failures = InMemoryStore(), [RuntimeError("dictionary changed size during iteration")] * 3
    one = StoreJournal(store)
    one.begin(entry(owner=GONE))
    search = store.search

    def disturbed(*args: Any, **kwargs: Any) -> Any:
        if failures:
            raise failures.pop()
        return search(*args, **kwargs)

    monkeypatch.setattr(InMemoryStore, "search", lambda _, *args, **kwargs: disturbed(*args, **kwargs))
    assert ids(one.abandoned(["book"])) == ["1"]
    failures += [RuntimeError("broken")] * 100
    with pytest.raises(RuntimeError, match="broken"):
        one.abandoned(["book"])


def test_closing_wins_over_an_advance_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    store = InMemoryStore()
    one = StoreJournal(store)
    one.begin(entry())
    write = one._write

    def late(stored: Any) -> None:
        one.close("1")
        write(stored)

    monkeypatch.setattr(one, "_write", late)
    one.advance("1", Phase.DONE)
    assert one._all("entries") == []


def test_a_store_that_fails_to_close_an_entry_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    one = StoreJournal(InMemoryStore())
    one.begin(entry())
    with monkeypatch.context() as patch:
        patch.setattr(one, "_delete", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            one.close("1")
    assert one._open == {"1"}
    one.close("1")
    assert (one._open, one._all("entries")) == (set(), [])
    one.shut()


async def test_an_asynchronous_store_works_off_its_loop(postgres: str) -> None:
    from langgraph.store.postgres import AsyncPostgresStore

    def work(one: StoreJournal) -> list[Entry]:
        one.begin(entry(owner=GONE))
        (left,) = one.abandoned(["book"])
        assert one.take(left)
        one.advance("1", Phase.DONE)
        one.close("1")
        one.shut()
        return one.abandoned(["book"])

    async with AsyncPostgresStore.from_conn_string(postgres) as store:
        one = StoreJournal(store, ("asynchronous",), wait=lambda _: None)
        assert await asyncio.to_thread(work, one) == []


# --- which one --------------------------------------------------------------------------------------------------------


def test_what_a_journal_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LANGGRAPH_SPECULATIVE_JOURNAL", raising=False)
    default: Any = journal_of(None)
    assert default.path == tmp_path / "langgraph_speculative.sqlite"
    assert repr(default) == f"SqliteJournal('{tmp_path}/langgraph_speculative.sqlite')"
    monkeypatch.setenv("LANGGRAPH_SPECULATIVE_JOURNAL", "elsewhere/j")
    made: list[Any] = [journal_of(value) for value in (None, "j", tmp_path / "j")]
    assert [m.path for m in made] == [tmp_path / "elsewhere/j", tmp_path / "j", tmp_path / "j"]
    in_store = journal_of(InMemoryStore())
    assert repr(in_store) == "StoreJournal(InMemoryStore, ('langgraph_speculative', 'journal'))"
    assert all(isinstance(m, Journal) and journal_of(m) is m for m in (*made, in_store))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [3, SqliteJournal, object()])
def test_nothing_else_is_a_journal(value: object) -> None:
    with pytest.raises(SpeculationError, match="pass a path, a LangGraph store, or a Journal"):
        journal_of(value)


def test_a_file_in_memory_is_refused() -> None:
    with pytest.raises(SpeculationError, match="gone with its process"):
        SqliteJournal(":memory:")
