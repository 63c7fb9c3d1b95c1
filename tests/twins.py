"""The same graph, plain and on guesses, with everything that both show compared."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langgraph_speculative import Policy, SpeculativeGraph, speculative
from langgraph_speculative._observe import MODES, Run
from tests.support import Probe, Signal, World


@dataclass
class Stage:
    """What the nodes of one run of one graph share.

    Args:
        world: Sync or async nodes.
        fast: Whether this is the speculative run.
    """

    world: World
    fast: bool = False
    probe: Probe = field(default_factory=Probe)
    until: Signal | None = None
    heard: Signal = field(default_factory=lambda: Signal("first chunk"))

    async def hold(self) -> None:
        """In the speculative run, wait in an Actor until the early work is under way."""
        if self.until is not None:
            await self.until.wait()

    async def hear(self) -> None:
        """In the speculative run, wait until the user has seen a chunk: by then the gate is open."""
        if self.fast:
            await self.heard.wait()

    def node(self, name: str, body: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """A node for this world, under a name."""
        body.__name__ = name
        return self.world.node(body)

    def done(self, name: str) -> None:
        self.probe.tally.add(name)


Build = Callable[[Stage], Any]


@dataclass
class Both:
    """What came of `compare`."""

    plain: list[Run]
    fast: list[Run]
    graph: SpeculativeGraph
    stage: Stage

    @property
    def claimed(self) -> int:
        return self.graph.report().claimed


def compare(
    world: World,
    build: Build,
    *inputs: Any,
    guesses: Mapping[str, Callable[[Any], Any]],
    effects: Mapping[str, str],
    until: str | tuple[str, int] | Callable[[Probe], Signal] = "b",
    config: Mapping[str, Any] | None = None,
    parallel: bool = False,
    modes: Sequence[str] = MODES,
    depth: int = 3,
    ordered: bool = True,
    saver: Any = None,
    listen: Callable[[Any], bool] | None = None,
    compared: Sequence[str] = ("error", "chunks", "state", "history", "callbacks"),
    **run: Any,
) -> Both:
    """Run the graph plain and on guesses, on one thread for all inputs; everything seen must be equal.

    Args:
        until: What the Actor that calls ``stage.hold()`` waits for: a count of the tally, or any signal.
        ordered: Whether callbacks come in one order.
        saver: Called for a checkpointer for each of the two.
        listen: The chunk on which `Stage.heard` is set; any by default.
        compared: Attributes of `Run`.
    """

    def run_all(stage: Stage, graph: Any) -> list[Run]:
        own: dict[str, Any] = {**(config or {})}
        own["configurable"] = {"thread_id": "1", **own.get("configurable", {})}
        runs = []
        for value in inputs:
            one = world.observe(graph, copy.deepcopy(value), own, modes=modes, listen=_Listening(stage, listen), **run)
            if parallel:
                one = one.unordered()
            elif not ordered:
                one.callbacks = one.unordered().callbacks
            runs.append(one)
        return runs

    def compiled(stage: Stage) -> Any:
        made = build(stage)
        if hasattr(made, "compile"):
            made = made.compile(checkpointer=saver() if saver else None)
        return made

    plain_stage = Stage(world)
    plain = run_all(plain_stage, compiled(plain_stage))
    stage = Stage(world, fast=True)
    if callable(until):
        stage.until = until(stage.probe)
    else:
        name, count = (until, 1) if isinstance(until, str) else until
        stage.until = stage.probe.tally.reached(name, count)
    graph = speculative(
        compiled(stage),
        speculators=dict(guesses),
        effects=dict(effects),
        policy=Policy(depth=depth, hooks=(stage.probe.watch,)),
    )
    fast = run_all(stage, graph)
    for expected, actual in zip(plain, fast, strict=True):
        for name in compared:
            assert getattr(actual, name) == getattr(expected, name), name
    assert graph.drain(10) == 0
    assert not (errors := graph.report().errors), f"{errors}"
    return Both(plain, fast, graph, stage)


class _Listening:
    def __init__(self, stage: Stage, listen: Callable[[Any], bool] | None) -> None:
        self._stage = stage
        self._listen = listen

    def __call__(self, chunk: Any) -> None:
        if self._listen is None or self._listen(chunk):
            self._stage.heard.set()
