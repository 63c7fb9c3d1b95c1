"""What a report, or recorded runs that were guessed again, say of each node and tool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from langgraph_speculative._advise._recordings import Recording
from langgraph_speculative._advise._replay import Replay
from langgraph_speculative._advise._verdicts import Figures, latencies
from langgraph_speculative._target import CommandError
from langgraph_speculative.effects import Effect
from langgraph_speculative.theory import expected_saving

MODEL = "model"
"""The name of the model's calls in ``--seconds``."""


@dataclass(frozen=True)
class Prices:
    """USD, as the user gives them.

    Attributes:
        tokens: Per million tokens of every model that has no price of its own; ``None`` if not given.
        named: Per million tokens of a model, or per call of a tool.
    """

    tokens: float | None = None
    named: Mapping[str, float] = field(default_factory=dict)

    def of_tokens(self, model: str, tokens: float) -> float:
        """USD of a model's tokens."""
        return tokens * self.named.get(model, self.tokens or 0.0) / 1e6

    def of_call(self, tool: str) -> float:
        """USD of a tool's call."""
        return self.named.get(tool, 0.0)


# --- reports --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Node:
    """What the report says of one node or tool, as far as it is there."""

    label: str
    effect: Effect
    executions: int
    windows: int
    hits: int
    guesses: int
    samples: list[float]
    guess_seconds: float | None
    seconds: float | None
    tokens: float

    @property
    def home(self) -> str:
        """The node: a tool's label is its node's and its own name."""
        place, separator, name = self.label.rpartition("|")
        return place + separator + name.partition(".")[0]


def of_report(
    report: Any, source: str, effects: Mapping[str, Effect], prices: Prices
) -> tuple[list[Figures], list[str]]:
    """Figures of every node that was guessed or ran, and notes.

    What follows a node is not in a report: it is taken to be any other node, or its tools, as often as these ran.

    Args:
        report: As from ``report().to_dict()``.
        source: Where it comes from, for messages.
        effects: Instead of what the report says, by node or tool.
        prices: For drafts and for early calls in vain.

    Raises:
        CommandError: It has no statistics of nodes, or something else in their place.
    """
    if not isinstance(report, dict) or not isinstance(report.get("nodes"), dict):
        raise CommandError(
            f"{source} has no statistics of nodes: write json.dumps(graph.report().to_dict()) of a graph that ran "
            'with Policy(mode="observe") or "on"; for recorded conversations pass --runs.'
        )
    nodes = [_node(label, raw, source, effects) for label, raw in report["nodes"].items()]
    usage = report.get("usage") if isinstance(report.get("usage"), dict) else {}
    drafts, total_guesses = _draft_cost(usage or {}, prices), sum(node.guesses for node in nodes)
    draft = drafts / total_guesses if total_guesses else 0.0
    rows = [
        _of_node(node, [n for n in nodes if n.home != node.home] or [node], draft, usage or {}, prices)
        for node in nodes
        if node.windows or node.executions
    ]
    notes = ["What follows a node is taken to be any other node, or its tools, as often as these ran."]
    if prices.tokens is None and not prices.named and (usage or any(node.tokens for node in nodes)):
        notes.append("Without --price, tokens count as free.")
    return rows, notes


def _node(label: str, raw: Any, source: str, effects: Mapping[str, Effect]) -> _Node:
    if not isinstance(raw, dict):
        raise CommandError(f"{source}: nodes[{label!r}] is not an object.")

    def number(key: str) -> float | None:
        value = raw.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 0):
            raise CommandError(f"{source}: nodes[{label!r}][{key!r}] is {value!r}, not a number of at least 0.")
        return value

    names = label, label.rpartition("|")[2], _tool(label), "*"
    declared = next((effects[name] for name in names if name in effects), None)
    try:
        effect = declared or Effect(raw.get("effect") or "undeclared")
    except ValueError:
        raise CommandError(f"{source}: nodes[{label!r}]['effect'] is {raw['effect']!r}, which is no effect.") from None
    return _Node(
        label=label,
        effect=effect,
        executions=int(number("executions") or 0),
        windows=int(number("windows") or 0),
        hits=int(number("hits") or 0),
        guesses=int(number("guesses") or 0),
        samples=latencies(number("seconds_mean"), number("seconds_p50"), number("seconds_p90")),
        guess_seconds=number("guess_seconds_mean"),
        seconds=number("seconds_mean"),
        tokens=number("tokens_per_call") or 0.0,
    )


def _of_node(node: _Node, others: list[_Node], draft: float, usage: Any, prices: Prices) -> Figures:
    early = [n for n in others if n.effect.may_run_early and n.executions]
    undeclared = [n for n in others if n.effect is Effect.UNDECLARED and n.executions]
    barred = ""
    if not early and not undeclared:
        barred = "nothing that could follow may run early"
    reached = early or undeclared
    ran, reachable = sum(n.executions for n in others), sum(n.executions for n in reached)
    wrong = max(0, node.guesses - node.hits) / node.windows if node.windows else 0.0
    following = [sample for n in reached for sample in _weighted(n.samples, n.executions / reachable)]
    known = node.samples and following and node.guess_seconds is not None
    saving = expected_saving(node.samples, latencies(node.guess_seconds), following) if known else None
    # A wrong guess starts one of the others in vain; what may not run early is not started.
    share = reachable / ran if ran else 0.0
    vain = wrong * share
    per_call = sum(
        n.executions * (_token_price(usage, prices) * n.tokens + prices.of_call(_tool(n.label))) for n in reached
    )
    guessing = draft * node.guesses / node.windows if node.windows else 0.0
    return Figures(
        name=node.label,
        windows=node.windows,
        hits=node.hits,
        seconds=node.seconds,
        saving=None if saving is None else saving * share,
        cost=guessing + (vain * per_call / reachable if reachable else 0.0),
        wasted=vain,
        undeclared=() if early else tuple(n.label for n in undeclared),
        barred=barred,
        unknown="the report lacks latencies of it, of its guesses, or of what follows",
    )


def _weighted(samples: list[float], share: float) -> list[float]:
    """As many of the samples as their share of the whole asks for."""
    count = max(1, round(50 * share))
    return [samples[int((i + 0.5) * len(samples) / count)] for i in range(count)] if samples else []


def _tool(label: str) -> str:
    """The tool's own name, where the label is a tool's."""
    return label.rpartition("|")[2].partition(".")[2]


def _draft_cost(usage: Mapping[str, Any], prices: Prices) -> float:
    return sum(prices.of_tokens(model, _tokens(used, "draft")) for model, used in usage.items())


def _token_price(usage: Mapping[str, Any], prices: Prices) -> float:
    """USD per token of the run's own calls, over all models in use."""
    committed = {model: _tokens(used, "committed") for model, used in usage.items()}
    total = sum(committed.values())
    if not total:
        return (prices.tokens or 0.0) / 1e6
    return sum(prices.of_tokens(model, tokens) for model, tokens in committed.items()) / total


def _tokens(used: Any, kind: str) -> float:
    value = used.get(kind) if isinstance(used, dict) else 0
    return float(value) if isinstance(value, int | float) else 0.0


# --- recorded runs --------------------------------------------------------------------------------------------------


def of_recordings(
    recordings: list[Recording],
    replayed: Replay,
    *,
    effects: Mapping[str, Effect],
    seconds: Mapping[str, float],
    prices: Prices,
) -> tuple[list[Figures], list[str]]:
    """Figures of every tool, and notes. A hit starts the tool's call while the model still works.

    Args:
        recordings: The runs.
        replayed: What came of guessing them.
        effects: Of tools; what is not there is undeclared.
        seconds: Of tools, and of the model under ``"model"``, instead of what was recorded.
        prices: Of a tool's call.
    """
    model = [seconds[MODEL]] if MODEL in seconds else [s for r in recordings for s in r.model_seconds]
    rows = []
    for name, tool in sorted(replayed.tools.items(), key=lambda item: (-item[1].calls, item[0])):
        own = [seconds[name]] if name in seconds else [s for r in recordings for s in r.tool_seconds.get(name, ())]
        effect = effects.get(name, effects.get("*", Effect.UNDECLARED))
        missing = [what for what, known in ((MODEL, model), (name, own)) if not known]
        # What is irreversible is never started early, so nothing of it is in vain.
        started = 0 if effect is Effect.IRREVERSIBLE else tool.guesses - tool.hits
        wasted = started / tool.calls if tool.calls else 0.0
        rows.append(
            Figures(
                name=name,
                windows=tool.calls,
                hits=tool.hits,
                seconds=sum(own) / len(own) if own else None,
                saving=None if missing else expected_saving(model, replayed.seconds, own),
                cost=wasted * prices.of_call(name),
                wasted=wasted,
                undeclared=(name,) if effect is Effect.UNDECLARED else (),
                barred="it is irreversible, and never runs early" if effect is Effect.IRREVERSIBLE else "",
                unknown="no times were recorded: give " + " and ".join(f"--seconds {what}=S" for what in missing),
            )
        )
    calls = sum(tool.calls for tool in replayed.tools.values())
    hits = sum(tool.hits for tool in replayed.tools.values())
    first = sum(tool.first_hits for tool in replayed.tools.values())
    wrong = sum(tool.guesses for tool in replayed.tools.values()) - hits
    how = (
        f"in {replayed.folds} folds" if replayed.folds > 1 else "with nothing to learn from, since it is a single task"
    )
    notes = [
        f"{len(recordings)} runs, {calls} tool calls: {hits} guessed exactly ({first} by the first guess), "
        f"{wrong} guesses wrong; cross-validated {how}."
    ]
    return rows, notes
