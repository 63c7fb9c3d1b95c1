"""A PostgreSQL server of our own, for as long as it is wanted."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEMORY = Path("/dev/shm")
ROOM = 2**30
ATTEMPTS = 4


@contextmanager
def server() -> Iterator[str]:
    """Start a server; its address, ``postgresql://…``. Kept in memory where there is room: it writes much, and syncs.

    Raises:
        ImportError: pgserver, which brings PostgreSQL, is not installed.
        subprocess.TimeoutExpired: It does not start.
    """
    import pgserver

    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True, dir=_place()) as folder:
        for attempt in range(ATTEMPTS):
            try:
                started = pgserver.get_server(f"{folder}/{attempt}")
                break
            except subprocess.TimeoutExpired:
                # It is given ten seconds to start, which is little on a busy machine; one that failed is not usable.
                if attempt == ATTEMPTS - 1:
                    raise
        try:
            yield started.get_uri()
        finally:
            started.cleanup()


def _place() -> Path | None:
    try:
        return MEMORY if shutil.disk_usage(MEMORY).free > ROOM else None
    except OSError:
        return None
