from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.types import Command

from langgraph_speculative import _compat, _scheduler
from langgraph_speculative._nodes import NodeInfo
from langgraph_speculative._values import Opaque, copy_value
from langgraph_speculative.effects import Effect
from langgraph_speculative.errors import SpeculationError
from langgraph_speculative.report import usage_of
from langgraph_speculative.speculators._asking import together
from langgraph_speculative.speculators._content import outcome_of
from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess, known_names

TOOLS = "a draft's tools are never run. Draft the model nodes."


class Draft(BaseSpeculator):
    """Guesses a node's output by running the same-named node of a draft graph, on a faster model.

    The draft's node sees the input, the user's configurable and the context; no store, checkpointer, stream or
    callback. A draft node that is or contains a tool is never run. One without a synchronous form cannot guess in a
    synchronous run.

    The confidence of a guess is the probability that the model gives to its tokens, where the messages carry log
    probabilities of all of them (``ChatOpenAI(logprobs=True)`` for text); else the share of the samples that agree.
    Samples agree when they write the same, ids aside; of messages with tool calls only the calls count. One sample
    without log probabilities is given 1.0. Several drafts count equally.

    Args:
        drafts: A compiled graph, whose node of the same name is taken, a node of one (``cheap.nodes["model"]``) or any
            runnable that stands for it, or several of these. For a nested node (``"outer|inner"``) the graph may be the
            draft of the outer graph or of the inner one.
        samples: Times that each draft is run, all at the same time. More than one is of use at a temperature above 0
            only. The guesses come when the slowest sample has: the likeliest first.

    Raises:
        SpeculationError: Fewer than one sample, no draft, or, when bound, a node that a draft cannot guess for.
    """

    is_free = False

    def __init__(self, drafts: Runnable[Any, Any] | Sequence[Runnable[Any, Any]], *, samples: int = 1) -> None:
        given: Any = drafts if isinstance(drafts, list | tuple) else [drafts]
        self._drafts: list[Runnable[Any, Any]] = [d.bound if isinstance(d, _compat.PregelNode) else d for d in given]
        if not self._drafts or not all(isinstance(d, Runnable) for d in self._drafts):
            kinds = ", ".join(type(d).__name__ for d in self._drafts) or "nothing"
            raise SpeculationError(f"Draft({kinds}): pass a compiled graph, a runnable, or a list of these.")
        if any(isinstance(d, _compat.ToolNode) for d in self._drafts):
            raise SpeculationError(f"Draft(ToolNode): {TOOLS}")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise SpeculationError(f"Draft(samples={samples!r}): must be an integer of at least 1.")
        self._samples = samples
        if all(_compat.is_sync_only(d) for d in self._drafts):
            self.aguess = None  # type: ignore[method-assign,assignment]

    def bind(self, node: NodeInfo) -> Draft:
        """The same-named nodes of the draft graphs.

        Raises:
            SpeculationError: A draft graph has no such node, or the rules forbid to run it.
        """
        found = [_node_of(d, node) if isinstance(d, _compat.Pregel) else d for d in self._drafts]
        for draft in found:
            if reason := refusal(node, draft):
                raise SpeculationError(f"a Draft cannot guess for {node.label!r}: {reason}")
        return Draft(found, samples=self._samples)

    def guess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """Run all samples, in threads, and return what differs."""
        config = _compat.with_runtime(config)
        nodes = [d for d in self._bound() for _ in range(self._samples)]
        # The first sample has the value to itself too: each may change its input.
        inputs = [value, *[copy_value(value) for _ in nodes[1:]]]
        pairs = zip(nodes, inputs, strict=True)
        return self._merged(together(self, [lambda n=n, v=v: n.invoke(v, config) for n, v in pairs]))  # type: ignore[misc]

    async def aguess(self, value: Any, config: RunnableConfig) -> list[Guess] | None:
        """Run all samples, on the event loop, and return what differs."""
        config = _compat.with_runtime(config)
        nodes = [d for d in self._bound() for _ in range(self._samples)]
        inputs = [value, *[copy_value(value) for _ in nodes[1:]]]
        owner = _scheduler.OWNER.get(self)
        calls = [
            _scheduler.POOL.run(owner, n.invoke, v, config) if _compat.is_sync_only(n) else n.ainvoke(v, config)
            for n, v in zip(nodes, inputs, strict=True)
        ]
        return self._merged(await asyncio.gather(*calls, return_exceptions=True))

    def _bound(self) -> list[Runnable[Any, Any]]:
        if any(isinstance(d, _compat.Pregel) for d in self._drafts):
            raise SpeculationError("a Draft of a graph is bound to a node first: Draft(graph).bind(node).")
        return self._drafts

    def _merged(self, results: Sequence[Any]) -> list[Guess] | None:
        """One guess for each different result; one that failed counts as no sample."""
        outputs = [r for r in results if not isinstance(r, BaseException)]
        if not outputs:
            raise next(r for r in results if isinstance(r, BaseException))
        usage: dict[str, int] = defaultdict(int)
        for model, tokens in (pair for output in outputs for pair in usage_of(output)):
            usage[model] += tokens
        shares: dict[Any, float] = defaultdict(float)
        samples: dict[Any, Any] = {}
        drafts = [results[at : at + self._samples] for at in range(0, len(results), self._samples)]
        for draft in drafts:
            for key, (share, output) in _shares([r for r in draft if not isinstance(r, BaseException)]).items():
                shares[key] += share / len(drafts)
                samples.setdefault(key, output)
        ranked = sorted(samples, key=lambda key: -shares[key])
        guesses = [Guess(samples[key], min(1.0, shares[key]), "draft") for key in ranked if samples[key] is not None]
        if not guesses:
            return [Guess(source="draft", usage=dict(usage))] if usage else None
        return [replace(guesses[0], usage=dict(usage)), *guesses[1:]]


def _shares(outputs: Sequence[Any]) -> dict[Any, tuple[float, Any]]:
    """The different outputs of one draft by what they do, each with its probability."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for number, output in enumerate(outputs):
        try:
            groups[outcome_of(output)].append(output)
        except Opaque:
            groups[number].append(output)
    found = {}
    for key, group in groups.items():
        told = [p for output in group if (p := probability_of(output)) is not None]
        found[key] = max(told, default=len(group) / len(outputs)), group[0]
    return found


def refusal(node: NodeInfo, draft: Any) -> str:
    """Why a draft's node may not be run to guess for a node; empty if it may: it obeys the effect rules of a branch."""
    if node.kind != "leaf":
        return f"it is a tool node or a graph, and {TOOLS}"
    if isinstance(draft, _compat.ToolNode | _compat.Pregel):
        return f"the draft's node of that name is a tool node or a graph, and {TOOLS}"
    if not node.is_model and node.effect is not Effect.PURE:
        return (
            "it is neither a model node of a prebuilt agent nor declared pure. "
            f'If it calls a model, declare it: effects={{{node.label!r}: "pure"}}.'
        )
    return ""


def _node_of(draft: Any, node: NodeInfo) -> Runnable[Any, Any]:
    """The draft graph's node of the same path, else of the same name."""
    for path in (node.label.split("|"), [node.name]):
        here = draft
        for name in path:
            here = here.nodes[name].bound if isinstance(here, _compat.Pregel) and name in here.nodes else None
        if here is not None:
            return here  # type: ignore[no-any-return]
    names = known_names(n for n in draft.nodes if n != "__start__")
    raise SpeculationError(f"the draft has no node {node.label!r} (it has {names}): build it with the same node names.")


def probability_of(output: Any) -> float | None:
    """The probability that a model gave to all tokens of the AI messages in an output; ``None`` if it does not say."""
    told = [_log_probability(message) for message in _messages_in(output)]
    if not told or any(t is None for t in told):
        return None
    return min(1.0, math.exp(sum(t for t in told if t is not None)))


def _messages_in(output: Any) -> Iterable[AIMessage]:
    if isinstance(output, AIMessage):
        yield output
    elif isinstance(output, Command):
        yield from _messages_in(output.update)
    elif not isinstance(output, BaseMessage | str):
        parts = output.values() if isinstance(output, dict) else output if isinstance(output, list | tuple) else ()
        for part in parts:
            yield from _messages_in(part)


def _log_probability(message: AIMessage) -> float | None:
    logprobs = (message.response_metadata or {}).get("logprobs")
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else logprobs
    if not isinstance(tokens, list) or not tokens or not all(isinstance(t, dict) and "logprob" in t for t in tokens):
        return None
    # OpenAI gives those of the text alone, so beside tool calls they are not all.
    if message.tool_calls and "".join(str(t.get("token", "")) for t in tokens).strip() == str(message.text).strip():
        return None
    return float(sum(t["logprob"] for t in tokens))
