"""The examples of `docs/speculators.md` are run as they stand there."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from langgraph_speculative import speculators
from langgraph_speculative._scheduler import CONTROL, POOL
from langgraph_speculative._session import Session
from tests.support import LIMIT

PAGE = Path(__file__).parent.parent / "docs" / "speculators.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)


def blocks(section: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", section, flags=re.MULTILINE | re.DOTALL)


def test_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow code takes as long as it takes until all has started early, so nothing depends on the clock."""
    started = threading.Event()
    started.set()  # a plain run has nothing to wait for
    owners: list[object] = []
    emit = Session.emit

    def heard(self: Session, kind: Any, *args: Any, **kwargs: Any) -> None:
        emit(self, kind, *args, **kwargs)
        if kind == "run":
            started.clear()
            owners[:] = [self.owner]
        elif kind in ("launch", "end"):
            started.set()

    def sleep(seconds: float) -> None:
        started.wait(25 * seconds)  # all of it where a Speculator knows nothing yet
        if threading.current_thread().name != "langgraph-speculative":
            for owner in owners:
                for _ in range(5):  # the other guesses: what a thread has returned, the loop goes on from
                    POOL.drain(owner, LIMIT)
                    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), CONTROL.loop()).result(LIMIT)

    monkeypatch.setattr(Session, "emit", heard)
    monkeypatch.setattr(time, "sleep", sleep)
    namespace: dict[str, Any] = {"__name__": "example"}
    for section in SECTIONS:
        for block in blocks(section):
            exec(compile(block, str(PAGE), "exec"), namespace)


def test_each_has_a_short_example() -> None:
    named = {section.split("\n")[0]: section for section in SECTIONS}
    for name in set(speculators.__all__) - {"BaseSpeculator", "Guess", "Speculator", "unknown_message"}:
        own = blocks(named[name])
        assert any(f"{name}(" in block for block in own)
    assert all(len(block.strip().splitlines()) <= 20 for section in SECTIONS for block in blocks(section))
