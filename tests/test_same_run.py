"""The first invariant: state, outputs, streams, checkpoints and errors are those of the plain graph."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langgraph_speculative import Policy, Report, speculative
from tests.support import Run, Signal, World, observe, spoil
from tests.zoo import CASES, Case, Stage

BEHAVIOURS = ("right", "wrong", "late", "raising", "hanging", "nonsense")


def speculator(stage: Stage, name: str, behaviour: str, over: Signal) -> Callable[[Any], Any]:
    compute = stage.compute[name]
    tally = stage.probe.tally

    async def guess(value: Any) -> Any:
        tally.add("asked")
        if behaviour == "raising":
            raise RuntimeError(f"no idea about {name}")
        if behaviour == "nonsense":
            return {"no such channel": value}
        if behaviour == "hanging":
            await over.wait(60)
        if behaviour == "late":
            await tally.reached(f"end of {name}").wait()
        output = compute(value)
        tally.add("guessed")
        return spoil(output) if behaviour == "wrong" else output

    return stage.world.node(guess)


def run(case: Case, stage: Stage, behaviour: str | None, saver: bool) -> tuple[list[Run], Report | None]:
    """All runs of the case on one thread, and what speculation did in them."""
    graph = case.build(stage).compile(checkpointer=InMemorySaver() if saver else None, **case.compile())
    over, tally = Signal("end of the test"), stage.probe.tally
    report = None
    with contextlib.ExitStack() as stack:
        if behaviour is not None:
            fast = speculative(
                graph,
                speculators={n: speculator(stage, n, behaviour, over) for n in case.guessed},
                effects={n: "pure" for n in case.pure if n in graph.nodes or n in stage.compute},
                policy=Policy(depth=2, hooks=(stage.probe.watch,)),
            )
            stack.callback(lambda: _finish(fast, over))
            report = stack.enter_context(fast.track())
            graph = fast
            if behaviour in ("right", "wrong"):
                until = tally.reached("after the first" if case.claims else "guessed")
            elif behaviour == "raising":
                until = stage.probe.watch.saw("error")
            else:
                until = tally.reached("asked")
            stage.pause = until.wait
        config: dict[str, Any] = {**case.config}
        config["configurable"] = {**config.get("configurable", {}), "thread_id": "1"}
        # A thread saves what tasks of a synchronous run have written, and a later node may have changed it by then.
        durability = "exit" if case.changes_input and stage.world.name == "sync" else "sync"
        extra = {**case.run, "durability": durability} if saver else case.run
        runs = [
            observe(stage.world, graph, copy.deepcopy(value), config, **extra) for value in (case.value, *case.then)
        ]
    return runs, report


def _finish(fast: Any, over: Signal) -> None:
    over.set()
    assert fast.drain(10) == 0


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize("saver", [True, False], ids=["saver", "no-saver"])
@pytest.mark.parametrize("name", CASES)
def test_same_run(world: World, name: str, saver: bool, behaviour: str) -> None:
    case = CASES[name]
    if case.saver and not saver:
        saver = True  # stops half-way, so it cannot do without; then it is the same test on another schedule
    plain_stage, stage = Stage(world), Stage(world)
    plain, _ = run(case, plain_stage, None, saver)
    fast, report = run(case, stage, behaviour, saver)

    for expected, actual in zip(plain, fast, strict=True):
        assert actual.error == expected.error
        assert actual.chunks == expected.chunks
        assert actual.state == expected.state
        assert actual.history == expected.history

    assert report is not None
    assert stage.committed_early == 0
    assert stage.probe.tally["irreversible"] == plain_stage.probe.tally["irreversible"]
    assert report.early_irreversible_calls == 0
    if behaviour == "right":
        assert report.claimed >= case.claims
    elif behaviour in ("raising", "hanging"):
        # A nonsensical guess may still lead to a node whose input does not depend on it.
        assert report.claimed == 0
    if behaviour == "raising":
        assert report.speculator_errors >= 1
