"""The comparison with other packages, without them: what is ours in it runs, and what is missing is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGenerationChunk

from benchmarks import _comparison_route as route
from benchmarks import _comparison_stream as stream
from benchmarks import comparison
from benchmarks._engine_rows import Measured
from langgraph_speculative import Event, Policy, speculative
from langgraph_speculative._compare import same_result
from tests.support import Probe


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (route, "ROUTER", 0.02),
        (route, "STEP", 0.01),
        (stream, "TOKEN", 0.001),
        (stream, "SEARCH", 0.01),
        (stream, "CHECK", 0.001),
    ):
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("case", route.CASES, ids=lambda case: case.name)
async def test_ours_is_equal_to_plain_on_each_graph(
    case: route.Case, probe: Probe, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await route.compiled(case).ainvoke(route.INPUT)
    tally, decide = probe.tally, route.router

    def counted(name: str, node: route.Node) -> route.Node:
        async def body(state: Any) -> Any:
            tally.add(name)
            return await node(state)

        return body

    async def router(state: Any) -> Any:
        # The guesses come from a thread, which may take longer than the router's few milliseconds.
        await tally.reached(case.targets["billing"]).wait()
        return await decide(state)

    monkeypatch.setattr(route, "router", router)
    fast = route.ours(replace(case, nodes={name: counted(name, node) for name, node in case.nodes.items()}))
    assert await fast.ainvoke(route.INPUT) == expected
    assert fast.report().claimed
    assert not fast.report().errors


async def test_the_streaming_agent_starts_its_calls_early(probe: Probe) -> None:
    tally = probe.tally

    def launched(event: Event) -> None:
        if event.kind == "launch" and event.tool:
            tally.add("launch")

    class Held(stream.Talker):
        async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
            turn = sum(isinstance(m, AIMessage) for m in messages)
            async for chunk in super()._astream(messages, *args, **kwargs):
                message: Any = chunk.message
                if not message.content and not message.tool_call_chunks:
                    # Behind the calls: however few milliseconds the message lasts, both have begun by then.
                    await tally.reached("launch", 2 * (turn + 1)).wait()
                yield chunk

    plain = stream.create_agent(stream.Talker(), stream.TOOLS)
    fast = speculative(
        stream.create_agent(Held(), stream.TOOLS),
        effects={"search": "read", "check": "read"},
        policy=Policy(hooks=(launched,)),
    )
    assert same_result(await stream._run(plain), await stream._run(fast)) is None
    assert fast.report().claimed >= 2 * stream.TURNS


def test_rows_whose_package_is_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(comparison, "find_spec", lambda name: None)
    assert comparison.main(["--json", "--only", "route_vs_nat,stream_vs_eager"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {}
    assert printed.err.splitlines() == [
        "skipped: stream_vs_eager (pip install eager-tools-langgraph)",
        "skipped: route_vs_nat (pip install nvidia-nat-app)",
    ]


def test_rows_have_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"stream_vs_eager": 0.5, "stream_unequal": 0.0, "route_vs_nat": 1.0, "route_unequal": 0.0}

    def measured(rows: tuple[str, ...]) -> Any:
        return lambda rounds: {row: Measured(values[row], f"{rounds} rounds") for row in rows}

    groups = tuple((rows, "json", package, measured(rows)) for rows, _, package, _ in comparison.GROUPS)
    monkeypatch.setattr(comparison, "GROUPS", groups)
    assert {row for rows, *_ in groups for row in rows} == set(comparison.ROWS)
    assert comparison.main(["--json", "--rounds", "3"]) == 1
    assert json.loads(capsys.readouterr().out)["stream_vs_eager"] == {"value": 0.5, "bar": 1.0, "better": "higher"}
    assert comparison.main(["--only", "route_vs_nat"]) == 0
    assert "* route_vs_nat: 7 rounds" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        comparison.main(["--only", "nonsense"])
    assert "no such row: nonsense" in capsys.readouterr().err


def test_the_least_that_a_node_needs_is_there() -> None:
    """Two graphs differ where a node reads what another has written, so the other package can be unequal there."""
    results = [asyncio.run(route.compiled(case).ainvoke(route.INPUT))["answer"] for case in route.CASES]
    assert len(set(results)) == 3
