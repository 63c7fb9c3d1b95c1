"""The tuning example's world: a real workload, its scheduler slice, and the tail latency that comes of it.

The knob is the slice of each thread, the time that the kernel lets it run before another thread's turn
(``sched_setattr(2)``, ``sched_runtime`` of ``SCHED_OTHER``; Linux 6.12 and later; no privileges needed). The workload
is ``sysbench cpu`` with more threads than cores, in windows of a second.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import re
import shutil
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

GRID = (0.1, 0.18, 0.32, 0.56, 1.0, 1.8, 3.2, 5.6, 10.0, 18.0, 32.0, 56.0, 100.0)
"""Slices to choose from, in milliseconds: all that the kernel takes, four per decade."""

GUARD = 200.0
"""Milliseconds that the 99th percentile may take before it counts."""

THREADS = 8
COMMAND = ("sysbench", "cpu", f"--threads={THREADS}", "--cpu-max-prime=20000", "--time=1", "--percentile=95")
INSTALL = "apt-get install sysbench"

_SETATTR = {"x86_64": 314, "aarch64": 274}.get(platform.machine())


class _Attributes(ctypes.Structure):
    """``struct sched_attr`` in its first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def set_slice(thread: int, milliseconds: float) -> None:
    """Give a thread its slice; 0 is the kernel's default.

    Raises:
        OSError: There is no such thread, or it belongs to somebody else.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    own = _Attributes(size=ctypes.sizeof(_Attributes), nice=nice, runtime=round(milliseconds * 1e6))
    if libc.syscall(_SETATTR, thread, ctypes.byref(own), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def slice_of(thread: int) -> float:
    """A thread's slice in milliseconds, as the kernel says; 0 where it knows of none."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = _Attributes(size=ctypes.sizeof(_Attributes))
    if libc.syscall((_SETATTR or 0) + 1, thread, ctypes.byref(own), ctypes.sizeof(own), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return float(own.runtime) / 1e6


def missing() -> str:
    """What the real workload lacks here; empty if nothing."""
    if shutil.which("sysbench") is None:
        return f"sysbench ({INSTALL})"
    if _SETATTR is None or platform.system() != "Linux":
        return "sched_setattr(2) on this platform"
    try:
        before = slice_of(0)
        set_slice(0, GRID[-1])
        taken = slice_of(0)
        set_slice(0, 0)
    except OSError as error:
        return f"slices of threads in this kernel ({error})"
    return "" if before and taken == GRID[-1] else "slices of threads in this kernel (Linux 6.12 has them)"


@dataclass(frozen=True)
class Window:
    """One window of the workload: its slice, when it began (monotonic seconds), and its latencies in milliseconds."""

    slice: float
    at: float
    p95: float
    p99: float

    @property
    def cost(self) -> float:
        """The 95th percentile, and what the 99th is above its guard."""
        return self.p95 + max(0.0, self.p99 - GUARD)


@dataclass
class Monitor:
    """What the world shows: all windows, and all settings of the knob with their time."""

    windows: list[Window] = field(default_factory=list)
    settings: list[tuple[float, float]] = field(default_factory=list)


class World(Protocol):
    """Something whose slice can be set, and whose latency can be measured."""

    monitor: Monitor

    async def set(self, slice_ms: float) -> None:
        """Turn the knob; a new window begins."""

    async def measured(self) -> Window:
        """The next full window."""


def percentile_of(output: str, share: float) -> float:
    """A percentile from sysbench's histogram, in milliseconds."""
    rows = re.findall(r"^\s+([\d.]+) \|[*\s]*?(\d+)$", output, re.MULTILINE)
    wanted = share * sum(int(count) for _, count in rows)
    for value, count in rows:
        wanted -= int(count)
        if wanted <= 0:
            return float(value)
    raise ValueError("sysbench printed no histogram")


class Sysbench:
    """The real workload, one ``sysbench`` of a second after another."""

    def __init__(self) -> None:
        self.monitor = Monitor()
        self._slice = 0.0
        self._process: asyncio.subprocess.Process | None = None
        self._done = asyncio.Event()

    async def set(self, slice_ms: float) -> None:
        """Turn the knob of all threads; a new window begins."""
        self._slice = slice_ms
        self.monitor.settings.append((time.monotonic(), slice_ms))
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    async def measured(self) -> Window:
        """The next full window."""
        await self._done.wait()
        return self.monitor.windows[-1]

    async def serve(self) -> None:
        """Run windows until cancelled."""
        try:
            while True:
                chosen, began = self._slice, time.monotonic()
                self._process = process = await asyncio.create_subprocess_exec(
                    *COMMAND, "--histogram", "run", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
                )
                await self._turn(process, chosen)
                output = (await process.communicate())[0].decode()
                if process.returncode == 0 and chosen == self._slice:
                    found = re.search(r"95th percentile:\s+([\d.]+)", output)
                    assert found is not None, output
                    self.monitor.windows.append(
                        Window(chosen, began, float(found[1]), percentile_of(output, 0.99)),
                    )
                    self._done.set()
                    self._done = asyncio.Event()
        finally:
            if self._process is not None and self._process.returncode is None:
                self._process.kill()
                await self._process.wait()

    @staticmethod
    async def _turn(process: asyncio.subprocess.Process, slice_ms: float) -> None:
        """Give all threads of a process their slice, once it has started them."""
        tasks = f"/proc/{process.pid}/task"
        for _ in range(200):
            with suppress(FileNotFoundError, ProcessLookupError):
                threads = os.listdir(tasks)
                if len(threads) > THREADS:
                    for thread in threads:
                        set_slice(int(thread), slice_ms)
                    return
            await asyncio.sleep(0.002)


@asynccontextmanager
async def sysbench() -> AsyncIterator[Sysbench]:
    """The workload, running."""
    world = Sysbench()
    serving = asyncio.create_task(world.serve())
    try:
        yield world
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


REHEARSED: Mapping[float, tuple[float, float]] = {
    **{0.1: (9, 14), 0.18: (9, 14), 0.32: (9, 14), 0.56: (10, 14), 1.0: (10, 14), 1.8: (12, 16), 3.2: (13, 20)},
    **{5.6: (22, 29), 10.0: (33, 42), 18.0: (58, 66), 32.0: (1.3, 104), 56.0: (1.3, 173), 100.0: (1.3, 305)},
}
"""95th and 99th percentile in milliseconds by slice, of no machine in particular, but of the shape of a real one."""


class Rehearsal:
    """No workload at all: a table of latencies. Deterministic, so that runs can be compared."""

    def __init__(self, window: float) -> None:
        self.monitor = Monitor()
        self._window = window
        self._slice = GRID[0]

    async def set(self, slice_ms: float) -> None:
        """Turn the knob."""
        self._slice = slice_ms
        self.monitor.settings.append((time.monotonic(), slice_ms))

    async def measured(self) -> Window:
        """The table's numbers, a window later."""
        chosen, began = self._slice, time.monotonic()
        await asyncio.sleep(self._window)
        window = Window(chosen, began, *REHEARSED[chosen])
        self.monitor.windows.append(window)
        return window
