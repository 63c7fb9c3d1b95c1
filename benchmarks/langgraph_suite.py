"""LangGraph's own tests as the judge of "the same run": plain, and with every graph made speculative.

    python -m benchmarks.langgraph_suite --suite langgraph/libs/langgraph               # nobody guesses
    python -m benchmarks.langgraph_suite --suite langgraph/libs/langgraph --guess wrong
    python -m benchmarks.langgraph_suite --suite langgraph/libs/langgraph --guess read -- tests/test_pregel.py

The suite is a checkout of LangGraph's ``libs/langgraph``, of the installed release; it and what its tests need are the
user's to provide. Tests that need a server are left out. Everything after ``--`` goes to pytest.

Prints the tests that pass plain and fail speculatively, again and again. Exit status 1 if there are any, 2 if there is
no suite. Two to four minutes for each of the two runs.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from langgraph.graph.state import StateGraph

from langgraph_speculative import Policy, speculative
from langgraph_speculative._view import KEY
from langgraph_speculative.speculators import Stream

GUESS, OUTCOMES = "LANGGRAPH_SUITE_GUESS", "LANGGRAPH_SUITE_OUTCOMES"

EFFECTS = {"none": "irreversible", "wrong": "irreversible", "read": "read"}
"""What all nodes are declared to do. Whoever guesses answers with the node's own input."""

RETRIES = 3
"""Times that a test which fails is given another chance: some depend on the order of threads, and fail plain too."""

PATIENCE = 0.1
"""Seconds that a node waits for the branches that guess at its output: otherwise it is done before they start."""

WATCH_CALLS = frozenset(
    # They note which nodes are called, and in which order.
    """test_3_levels_deep_middle_has_interrupts test_3_levels_deep_middle_has_interrupts_async
    test_doubly_nested_graph_interrupts test_interrupt_subgraph_reenter_checkpointer_true
    test_parallel_subgraph_nodes_load_correct_state_on_replay test_replay_from_before_interrupt_refires
    test_replay_reruns_nodes_after_checkpoint test_sequential_interrupts_fork_from_middle
    test_stateful_subgraph_loads_latest_after_replay test_stateful_subgraph_loads_state_across_ticks
    test_stateful_subgraph_retains_state_on_parent_fork test_stateful_subgraph_retains_state_on_parent_replay
    test_stateless_subgraph_starts_fresh_on_parent_replay test_subgraph_called_in_loop_loads_state_on_replay
    test_subgraph_interrupt_replay_from_interrupt_checkpoint test_subgraph_interrupt_replay_from_parent
    test_subgraph_interrupt_replay_from_parent_then_resume test_subgraph_replay_loads_accumulated_state_then_resume
    test_subgraph_interrupt_resume_with_explicit_head_checkpoint_id
    test_three_level_nested_subgraph_loads_state_on_fork test_three_level_nested_subgraph_loads_state_on_replay"""
    # Their nodes, or the models in them, answer by the number of the call.
    """ test_checkpoint_metadata test_conditional_graph_state test_conditional_state_graph
    test_fork_creates_branch_in_subgraph test_fork_creates_branch_preserving_old_checkpoints
    test_in_one_fan_out_state_graph_waiting_edge_multiple test_invoke_two_nodes_two_streams test_message_graph
    test_replay_creates_branch_in_subgraph test_replay_creates_branch_preserving_old_checkpoints test_root_graph
    test_send_dedupe_on_resume test_state_graph_packets test_state_graph_w_config_inherited_state_keys"""
    # They count the nodes that run at the same time, or that a cancelled run has not come to.
    """ test_max_concurrency test_cancel_graph_astream test_cancel_graph_astream_events_v2
    test_cancel_ainvoke_with_async_node test_cancel_ainvoke_with_sync_node""".split()
)
"""Tests whose nodes are no reads, though ``--guess read`` declares them so."""


# --- in the run that is speculative, as a plugin of pytest ------------------------------------------------------------


def _same_as_input(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def _let_branches_go_first(info: Any) -> None:
    """Make a node's real executions wait until the branches that guess at them are at rest."""
    invoke, ainvoke, pause = info.invoke, info.ainvoke, threading.Event()  # tests replace `time.sleep`

    def session_of(config: Any) -> Any:
        view = config["configurable"].get(KEY)
        return None if view is None or view.frame is not None else view.session

    def busy(config: Any, end: float) -> bool:
        session = session_of(config)
        return session is not None and bool(session.tree._workers) and time.monotonic() < end

    def patient(value: Any, config: Any, **kwargs: Any) -> Any:
        end, noted = time.monotonic() + PATIENCE, threading.Event()
        if (session := session_of(config)) is not None:
            # Until then nobody has looked at what the run has posted, and so nobody guesses yet.
            session.post(noted.set, threaded=True)
            noted.wait(PATIENCE)
        while busy(config, end):
            pause.wait(0.002)
        return invoke(value, config, **kwargs)

    async def apatient(value: Any, config: Any, **kwargs: Any) -> Any:
        end = time.monotonic() + PATIENCE
        await asyncio.sleep(0.001)  # what the run has posted
        while busy(config, end):  # noqa: ASYNC110 - branches signal nobody when they are at rest
            await asyncio.sleep(0.001)
        return await ainvoke(value, config, **kwargs)

    info.invoke, info.ainvoke = patient, apatient if ainvoke is not None else None


def _made_speculative(graph: Any, guess: str) -> Any:
    guesses = (lambda _: None) if guess == "none" else _same_as_input
    with warnings.catch_warnings(action="ignore"):
        fast = speculative(
            graph,
            speculators={name: guesses for name in graph.nodes if name != "__start__"},
            effects={"*": EFFECTS[guess]},
            policy=Policy(depth=2, breadth=2),
        )
    speculation = fast._speculation
    # Also where nothing could come of it: each run is to have its session, shells, shadows and forks.
    speculation.is_active = True
    for info in speculation.rewritten.all_infos():
        info.speculate = info.speculator is not None
        if info.kind == "leaf":
            # Each node's models are read along with, those of no agent too.
            info.stream = info.stream or Stream()
            info.called = info.called or {"": True}
    if guess != "none":
        for info in speculation.rewritten.infos.values():
            if info.kind == "leaf":
                _let_branches_go_first(info)
    return fast


def pytest_configure() -> None:
    """Patch `StateGraph.compile`, unless the run is the plain one."""
    compile_plain, guess = StateGraph.compile, os.environ.get(GUESS)
    if not guess:
        return

    @functools.wraps(compile_plain)
    def compile_speculative(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _made_speculative(compile_plain(self, *args, **kwargs), guess)

    StateGraph.compile = compile_speculative  # type: ignore[method-assign]


_outcomes: dict[str, str] = {}


def pytest_runtest_logreport(report: Any) -> None:
    """Keep the worst outcome of a test's set-up, call and tear-down."""
    if report.outcome != "passed" or report.nodeid not in _outcomes:
        _outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    Path(os.environ[OUTCOMES]).write_text(json.dumps(_outcomes), "utf-8")


# --- the command ------------------------------------------------------------------------------------------------------


def outcomes_of(suite: Path, guess: str | None, arguments: Iterable[str]) -> dict[str, str]:
    """Run the tests; their outcomes by name. Pytest's own output goes to standard error."""
    with tempfile.TemporaryDirectory() as place:
        outcomes = Path(place) / "outcomes.json"
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, OUTCOMES: str(outcomes), GUESS: guess or "", "NO_DOCKER": "true"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        options = ["-p", "benchmarks.langgraph_suite", "-p", "no:cacheprovider", "-o", "addopts=", "-q", "--tb=no"]
        command = [sys.executable, "-m", "pytest", *options, *arguments]
        subprocess.run(command, cwd=suite, env=environment, stdout=2, check=False)  # 2: standard error
        return dict(json.loads(outcomes.read_text("utf-8"))) if outcomes.exists() else {}


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.langgraph_suite", description=__doc__.split("\n")[0])
    parser.add_argument("--suite", type=Path, required=True, metavar="DIR", help="a checkout's libs/langgraph")
    parser.add_argument("--guess", choices=EFFECTS, default="none", help="none (default), wrong, or wrong about reads")
    parser.add_argument("pytest", nargs="*", help="after --: arguments for pytest; default: tests")
    options = parser.parse_args(argv)
    if not (options.suite / "tests" / "conftest.py").is_file():
        print(f"{options.suite} is no checkout of libs/langgraph: it has no tests/conftest.py.", file=sys.stderr)
        return 2
    suite, tests = options.suite.resolve(), options.pytest or ["tests"]
    left_out: set[str] = set()

    def passed(guess: str | None, arguments: Iterable[str]) -> set[str]:
        return {name for name, outcome in outcomes_of(suite, guess, arguments).items() if outcome == "passed"}

    plain, fast = passed(None, tests), passed(options.guess, tests)
    if options.guess == "read":
        left_out = {t for t in plain if t.split("::")[-1].split("[")[0] in WATCH_CALLS}
    worse = plain - fast - left_out
    for _ in range(RETRIES if worse else 0):
        worse -= passed(options.guess, sorted(worse)) if worse else set()
    print(f"{len(plain)} tests pass plain, {len(plain & fast - left_out)} of them with --guess {options.guess}", end="")
    print(f"; {len(left_out)} left out, which watch the calls of their nodes." if left_out else ".")
    for name in sorted(worse):
        print(f"  fails: {name}")
    return 1 if worse or not plain else 0


if __name__ == "__main__":
    sys.exit(main())
