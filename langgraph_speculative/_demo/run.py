"""Runs the demo: every question plain and then speculative, timed and checked."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from langgraph_speculative import Policy, speculative
from langgraph_speculative._demo import agent, script, shop
from langgraph_speculative._demo.server import ModelServer
from langgraph_speculative._replay import Recording, llm_cache
from langgraph_speculative._target import CommandError
from langgraph_speculative._trial import (
    COUNTED,
    LEGEND,
    Row,
    Runs,
    Timed,
    print_report,
    progress,
    results_table,
    sum_of,
)
from langgraph_speculative.report import Report

POLICY = Policy(depth=3)


@dataclass(frozen=True)
class Outcome:
    """One question, answered plain and speculative.

    Args:
        question: What was asked.
        row: Times, hits and waste.
        messages: Messages that were compared.
        difference: The first difference of the two results; ``None`` if they are equal.
        recorded: Live, the two differed, since the endpoint had answered one question in two ways; they were
            compared on the answers of the plain run.
    """

    question: str
    row: Row
    messages: int
    difference: str | None
    recorded: bool = False


@dataclass(frozen=True)
class Demo:
    """The demo's options.

    Args:
        tasks: Number of questions.
        scale: Factor on all injected latencies.
        model: The Actor's model on the user's own endpoint; ``None`` for the local server.
        draft_model: The draft's model there.
        sync: Run without an event loop.
    """

    tasks: int = 3
    scale: float = 1.0
    model: str | None = None
    draft_model: str | None = None
    sync: bool = False

    def run(self, *, as_json: bool = False) -> int:
        """Run it and print.

        Returns:
            0 if all results are equal, else 1.

        Raises:
            CommandError: The endpoint cannot be used.
        """
        with ExitStack() as stack:
            database = Path(stack.enter_context(TemporaryDirectory(prefix="speculative-demo-"))) / "shop.db"
            shop.create_database(database)
            if self.model is None or self.draft_model is None:
                server = stack.enter_context(ModelServer(self.scale))
                endpoint = agent.Endpoint(script.ACTOR, script.DRAFT, server.base_url)
            else:
                endpoint = agent.Endpoint(self.model, self.draft_model)
            runs = stack.enter_context(Runs(sync=self.sync))
            bar = stack.enter_context(progress(Console(stderr=True)))
            outcomes = self._outcomes(endpoint, database, runs, bar)
        console = Console()
        total = sum_of([outcome.row for outcome in outcomes], "all")
        if as_json:
            print(json.dumps(self._to_dict(endpoint, outcomes, total), indent=2))
        else:
            self._print(console, endpoint, outcomes, total)
        return int(any(outcome.difference for outcome in outcomes))

    def _outcomes(self, endpoint: agent.Endpoint, database: Path, runs: Runs, bar: Progress) -> list[Outcome]:
        clients = agent.Clients()
        plain = agent.make_agent(endpoint, endpoint.model, database, self.scale, clients)
        draft = agent.make_agent(endpoint, endpoint.draft_model, database, self.scale, clients)
        fast = speculative(plain, draft=draft, policy=POLICY)
        asked = agent.questions(database, self.tasks)
        task = bar.add_task("connecting", total=2 * len(asked))
        try:
            # The first call opens connections and loads modules: not a part of what is measured.
            _checked(runs.plain(draft, _input("Hello")))
            outcomes = []
            for n, (about, question) in enumerate(asked, 1):
                label = f"{n} {about}"
                bar.update(task, description=f"{label}: plain")
                recording = Recording()
                with llm_cache(None if endpoint.scripted else recording):
                    first = _checked(runs.plain(plain, _input(question)))
                bar.update(task, advance=1, description=f"{label}: speculative")
                with llm_cache(None):
                    second = runs.speculative(fast, _input(question))
                difference = first.difference(second)
                recorded = difference is not None and not endpoint.scripted
                if recorded:  # scripted models never vary: there it is a fault
                    with llm_cache(recording.playback()):
                        difference = first.difference(runs.speculative(fast, _input(question)))
                bar.advance(task)
                row = Row(label, first.seconds, second.seconds, second.report or Report())
                outcomes.append(Outcome(question, row, len(first.state["messages"]), difference, recorded))
            return outcomes
        finally:
            fast.close()
            if runs.runner is None:
                clients.close()
            else:
                runs.runner.run(clients.aclose())

    def _injected(self, endpoint: agent.Endpoint) -> dict[str, Any]:
        models = {
            name: {
                "first_token_seconds": speed.first_token * self.scale,
                "tokens_per_second": speed.tokens_per_second / self.scale if self.scale else None,
            }
            for name, speed in script.SPEEDS.items()
        }
        tools = {name: seconds * self.scale for name, seconds in shop.LATENCIES.items()}
        return {"scale": self.scale, "tools_seconds": tools} | ({"models": models} if endpoint.scripted else {})

    def _to_dict(self, endpoint: agent.Endpoint, outcomes: list[Outcome], total: Row) -> dict[str, Any]:
        return {
            "models": {"actor": endpoint.model, "draft": endpoint.draft_model, "scripted": endpoint.scripted},
            "injected_latencies": self._injected(endpoint),
            "policy": {"depth": POLICY.depth, "breadth": POLICY.breadth},
            "sync": self.sync,
            "tasks": [
                {"question": o.question, "equal": o.difference is None, "difference": o.difference}
                | {"messages": o.messages, "compared_on_recorded_answers": o.recorded}
                | o.row.to_dict()
                for o in outcomes
            ],
            "total": total.to_dict(),
            "equal": all(outcome.difference is None for outcome in outcomes),
        }

    def _print(self, console: Console, endpoint: agent.Endpoint, outcomes: list[Outcome], total: Row) -> None:
        title = f"Order-support agent on {endpoint.model}, drafted by {endpoint.draft_model}"
        console.print(results_table(title, [outcome.row for outcome in outcomes], total))
        console.print(LEGEND, style="dim")
        slowest, fastest = max(shop.LATENCIES.values()), min(shop.LATENCIES.values())
        waits = [f"tools {fastest * self.scale:.2g} to {slowest * self.scale:.2g} s"]
        if endpoint.scripted:
            console.print(
                "The models are scripted stand-ins, served over HTTP on this machine: the draft's tool calls "
                f"are made to be right {script.DRAFT_ACCURACY:.0%} of the time, its texts never. Agent, HTTP, "
                "streaming and SQLite are real."
            )
            for name, speed in reversed(script.SPEEDS.items()):
                rate = f", then {speed.tokens_per_second / self.scale:.3g} tokens/s" if self.scale else ""
                waits.insert(0, f"{name} {speed.first_token * self.scale:.2g} s to the first token{rate}")
        console.print(f"Injected latencies (--scale {self.scale:g}): {'; '.join(waits)}.")
        print_report(console, total.report)
        for outcome in outcomes:
            if outcome.recorded:
                console.print(
                    f"{outcome.row.label}: the endpoint answered the same request in two ways; compared again "
                    "on the recorded answers of the plain run."
                )
            if outcome.difference:
                console.print(f"[bold red]NOT EQUAL[/]: {escape(outcome.question)}")
                console.print(f"  {outcome.difference}", markup=False)
        equal = sum(outcome.difference is None for outcome in outcomes)
        if equal == len(outcomes):
            messages = sum(outcome.messages for outcome in outcomes)
            counted = f"{equal} of {len(outcomes)} tasks, {messages} messages ({COUNTED})"
            console.print(f"[bold green]Results equal[/], checked: {counted}.")


def _input(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


def _checked(timed: Timed) -> Timed:
    if timed.error is not None:
        raise CommandError(f"the plain agent failed: {type(timed.error).__name__}: {timed.error}")
    return timed
