"""A chat model's rate limiter: real calls wait for tokens, early ones take what nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import Any, TypedDict

from langchain_core.rate_limiters import BaseRateLimiter, InMemoryRateLimiter

from langgraph_speculative import Policy, SpeculativeGraph, speculative
from langgraph_speculative._limits import LONGEST_PAUSE, PAUSE, Pauses, is_too_many, retry_after
from langgraph_speculative._rate_limiters import watch_rate_limiters
from tests.support import LIMIT, ScriptedModel, Tally, Watch, World, chain, says


class Bucket(BaseRateLimiter):
    """Tokens that a test puts in; real calls wait for them."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.asked: list[bool] = []
        self._lock = threading.Lock()
        self.waiting = threading.Event()
        self.more = threading.Event()

    def acquire(self, *, blocking: bool = True) -> bool:
        self.asked.append(blocking)
        with self._lock:
            if self.tokens > 0:
                self.tokens -= 1
                return True
        if blocking:
            self.waiting.set()
            assert self.more.wait(LIMIT)
        return blocking

    async def aacquire(self, *, blocking: bool = True) -> bool:
        if blocking and not self.tokens:
            self.asked.append(True)
            self.waiting.set()
            return await asyncio.to_thread(self.more.wait, LIMIT)
        return self.acquire(blocking=blocking)


class State(TypedDict, total=False):
    x: int


def build(world: World, limiter: Any, speculator: Any = None) -> tuple[SpeculativeGraph, Watch, Tally]:
    """a -> b, which calls a chat model with this limiter; a ends once b's early call has ended."""
    watch, tally = Watch(), Tally()
    model = ScriptedModel(script=lambda _: says("x"), rate_limiter=limiter)

    async def ask() -> None:
        await world.call(model, "x")

    async def a(state: State) -> Any:
        await tally.reached("over").wait()
        return {"x": 1}

    async def b(state: State) -> Any:
        try:
            await ask()
            tally.add("made")
        finally:
            tally.add("over")
        return {}

    def heard(event: Any) -> None:
        watch(event)
        if event.kind == "stop":
            tally.add("over")

    graph = chain(State, world.node(a), world.node(b)).compile()
    fast = speculative(
        graph,
        speculators={"a": speculator or (lambda s: {"x": 1})},
        effects={"b": "pure"},
        policy=Policy(hooks=(heard,)),
    )
    return fast, watch, tally


def test_an_early_call_takes_a_token_that_is_there(world: World) -> None:
    limiter = Bucket(1)
    fast, _, tally = build(world, limiter)
    world.invoke(fast, {"x": 0})
    assert (limiter.asked, tally["made"], fast.report().claimed) == ([False], 1, 1)


def test_an_early_call_does_not_wait_for_one(world: World) -> None:
    limiter = Bucket(0)
    limiter.more.set()
    fast, _, tally = build(world, limiter)
    world.invoke(fast, {"x": 0})
    assert (limiter.asked, tally["made"], fast.report().claimed) == ([False, True], 1, 0)
    assert "its rate limiter has no token to spare" in " ".join(fast.report().stopped)


def test_an_early_call_leaves_tokens_to_who_waits(world: World) -> None:
    limiter = Bucket(0)
    fast, _, tally = build(world, limiter)
    waits = threading.Thread(target=limiter.acquire)
    waits.start()
    assert limiter.waiting.wait(LIMIT)
    limiter.tokens = 1
    asked = len(limiter.asked)
    with fast.track() as report:
        world.invoke(fast, {"x": 0})
    limiter.more.set()
    waits.join()
    assert (limiter.asked[asked:], report.claimed, tally["made"]) == ([True], 0, 1), "only the real call took it"


def test_a_speculator_does_not_wait_either(world: World) -> None:
    limiter = Bucket(0)
    limiter.more.set()

    def guess(state: State) -> Any:
        limiter.acquire(blocking=True)
        return {"x": 1}

    fast, _, tally = build(world, limiter, guess)
    world.invoke(fast, {"x": 0})
    assert (limiter.asked, tally["made"]) == ([False, True], 1)
    assert (fast.report().speculator_errors, fast.report().guesses) == (0, 0)


def test_limiters_are_watched_once_and_work_as_before() -> None:
    watch_rate_limiters()
    before = InMemoryRateLimiter.acquire
    watch_rate_limiters()
    assert InMemoryRateLimiter.acquire is before
    limiter = InMemoryRateLimiter(requests_per_second=1000, check_every_n_seconds=0.001, max_bucket_size=1)
    assert limiter.acquire(blocking=True)
    assert limiter.acquire(blocking=False) in (True, False)


# --- 429 ------------------------------------------------------------------------------------------------------------


def too_many(wait: Any = None) -> Exception:
    error = Exception()
    headers = {} if wait is None else {"retry-after": wait}
    error.response = SimpleNamespace(status_code=429, headers=headers)  # type: ignore[attr-defined]
    return error


def test_what_says_429() -> None:
    def with_status(**fields: Any) -> Exception:
        error = Exception()
        vars(error).update(fields)
        return error

    assert is_too_many(too_many())
    for fields, yes in (
        ({"status_code": 429}, True),
        ({"code": 429}, True),
        ({"status_code": 500}, False),
        ({}, False),
    ):
        assert is_too_many(with_status(**fields)) is yes
    assert [retry_after(too_many(w)) for w in ("3", "-1", "soon", "1e9", None)] == [3.0, 0.0, None, LONGEST_PAUSE, None]
    assert retry_after(Exception()) is None


def test_pauses_double_until_a_call_succeeds() -> None:
    now = 0.0
    own = Pauses(lambda: now)
    assert not own
    expected = PAUSE
    for _ in range(8):
        own.pause(["m", "n"], too_many())
        own.pause(["m"], too_many())
        now += expected - 1
        assert own.holds(["x", "m"])
        own.over(["m"])
        assert own.holds(["m"]), "a call that was under way says nothing"
        now += 1
        assert not own.holds(["m"])
        expected = min(LONGEST_PAUSE, 2 * expected)
    own.over(["m"])
    own.pause(["m"], too_many())
    now += PAUSE
    assert not own.holds(["m"])
    own.pause(["m"], too_many("2"))
    now += 2
    assert not own.holds(["m"])
