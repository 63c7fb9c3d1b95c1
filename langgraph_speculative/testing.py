"""Conformance: is a speculative run of your graph the same as a plain one?

from langgraph_speculative.testing import check_same_run

def test_my_agent() -> None:
    report = check_same_run(build_agent, {"question": "why?"}, speculators={"plan": guess_plan})
    assert report.claimed  # it was sooner, too

And does a Speculator of your own keep to the protocol?

def test_my_speculator() -> None:
    guesses = check_speculator(MySpeculator, [{"question": "why?"}], outputs=[{"plan": "ask"}])
    assert guesses[0].output == {"plan": "ask"}
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph.state import CompiledStateGraph

from langgraph_speculative import _observe, _rewrite
from langgraph_speculative._observe import Run
from langgraph_speculative._values import Opaque, freeze
from langgraph_speculative.effects import Effect
from langgraph_speculative.graph import SpeculativeGraph, speculative
from langgraph_speculative.policy import Policy
from langgraph_speculative.report import Report
from langgraph_speculative.speculators import _protocol
from langgraph_speculative.speculators._asking import aask, ask
from langgraph_speculative.speculators._protocol import BaseSpeculator, Guess, Speculator

__all__ = ["check_same_run", "check_speculator"]

_NAMES = ("the plain run", "the speculative run")

_Graph = CompiledStateGraph[Any, Any, Any, Any]


def check_same_run(
    graph_factory: Callable[[], Any],
    inputs: Any,
    *,
    config: Mapping[str, Any] | None = None,
    sync: bool = False,
    ordered: bool | None = None,
    timeout: float = 5.0,
    draft: _Graph | Sequence[_Graph] | None = None,
    speculators: Mapping[str, Speculator] | None = None,
    effects: Mapping[str, Effect | str] | None = None,
    keys: Mapping[str, Callable[[Any], Any]] | None = None,
    policy: Policy | None = None,
    trust_mcp: Iterable[str] = (),
    **kwargs: Any,
) -> Report:
    """Run a graph plain and speculatively, and compare all that the outside can see of it.

    Compared are the error, every stream mode with nested graphs, the callbacks (events, names, parents, tags,
    metadata, values), the state and history of the thread, and the items of the store, after each input. Minted ids
    (of messages, tool calls, runs, tasks, checkpoints) need not be equal but must stand in the same places; clock times
    do not count. The graph must be deterministic: two plain runs of it must be the same.

    Example::

        check_same_run(
            lambda: builder.compile(checkpointer=InMemorySaver()),
            [{"topic": "cats"}, Command(resume="yes")],
            speculators={"outline": quick_outline},
            effects={"outline": "pure", "draft": "pure"},
        )

    Args:
        graph_factory: Makes the compiled graph, anew for each of the two runs, with a checkpointer and a store of its
            own if it has any. It may be a coroutine function.
        inputs: The input; a list is several inputs, one after another on the same thread, such as
            ``Command(resume=...)``. (A single input that is a list is a list of one.) Each run gets copies.
        config: The config of each run. Without a ``thread_id``, a graph with a checkpointer gets one.
        sync: Use ``stream`` and not ``astream``; an asynchronous check runs on an event loop of its own, so call it
            from where none is running.
        ordered: Whether what tasks of one superstep emit is compared in order too. ``None``: only if no superstep of
            the plain run had several tasks, which end in any order.
        timeout: Seconds to wait at the end for early work that is blocked in threads.
        draft: As for `speculative`.
        speculators: As for `speculative`.
        effects: As for `speculative`.
        keys: As for `speculative`.
        policy: As for `speculative`.
        trust_mcp: As for `speculative`.
        kwargs: Further arguments of ``stream``, such as ``context`` and ``durability``.

    Returns:
        What speculation did in the speculative run.

    Raises:
        AssertionError: The runs differ; the message has the path of the first difference and both values. Or
            speculation left a task or a blocked thread behind, made an effect early, or failed by an error of its own.
        SpeculationError: As for `speculative`.
    """
    several = inputs if isinstance(inputs, list) else [inputs]
    own: dict[str, Any] = dict(config or {})
    own["configurable"] = {"thread_id": "check-same-run", **own.get("configurable", {})}
    options: dict[str, Any] = {
        "draft": draft,
        "speculators": speculators,
        "effects": effects,
        "keys": keys,
        "policy": policy,
        "trust_mcp": trust_mcp,
    }

    def wrap(graph: Any) -> SpeculativeGraph:
        fast: SpeculativeGraph = speculative(graph, **options)
        return fast

    if sync:
        plain = _runs(graph_factory(), several, own, kwargs)
        fast = wrap(graph_factory())
        observed = _runs(fast, several, own, kwargs)
        fast.close()
    else:

        async def both() -> tuple[list[Run], list[Run], SpeculativeGraph]:
            plain = await _aruns(await _made(graph_factory), several, own, kwargs)
            before = asyncio.all_tasks()
            fast = wrap(await _made(graph_factory))
            observed = await _aruns(fast, several, own, kwargs)
            await fast.aclose()
            left = [t.get_name() for t in asyncio.all_tasks() - before if t.get_name() == "langgraph-speculative"]
            assert not left, f"{len(left)} tasks of speculation are left on the event loop"
            return plain, observed, fast

        plain, observed, fast = asyncio.run(both())
    compare_runs(plain, observed, ordered=ordered)
    report = fast.report()
    check_report(report)
    blocked = fast.drain(timeout)
    assert not blocked, f"{blocked} threads of speculation are still blocked after {timeout:g} s"
    return report


ODD_INPUTS: tuple[Any, ...] = (
    *(None, {}, [], "", "text", 0, float("nan")),
    *({"messages": []}, {"messages": None}, {"messages": "text"}, {"messages": ["text", None]}, [None], [{}]),
    {"messages": [AIMessage("")]},
    {"messages": [ToolMessage("of no call", tool_call_id="")]},
    {"deep": {"deeper": [({"deepest"},)]}},
)
"""What a node is hardly given, but might be."""


def check_speculator(
    speculator_factory: Callable[[], Speculator],
    inputs: Iterable[Any],
    *,
    outputs: Iterable[Any] = (),
    graph: _Graph | None = None,
    node: str = "",
    odd: Iterable[Any] = ODD_INPUTS,
    config: Mapping[str, Any] | None = None,
    threads: int = 4,
) -> list[Guess]:
    """Check that a Speculator does what the engine relies on.

    It is asked synchronously and asynchronously, as the engine does it in either kind of run, and from several threads
    at once while it learns. It may guess nothing, but it does not raise, keeps its input as it is, and returns what the
    engine can take: `Guess`, plain outputs, lists of `Guess` alone, ``None``, or a generator of these; with
    confidences in [0, 1], and outputs that can be compared with the node's.

    Args:
        speculator_factory: Makes the Speculator; a function that is one is ``lambda: function``.
        inputs: Inputs of the node.
        outputs: What the node returned for each of them, for it to learn from before it is asked.
        graph: With `node`, the graph to whose node it is bound; else it is not bound.
        node: The node's name, nested ones as ``"outer|inner"``. All nodes count as pure.
        odd: Inputs that it must survive.
        config: What it is given for the run's config.
        threads: Threads that ask at once.

    Returns:
        The guesses at the inputs, in their order, likeliest first for each, after it has learned.

    Raises:
        AssertionError: It does not keep to the protocol; the message has the input and what came of it.
        SpeculationError: It is no Speculator, or cannot be bound to the node.
    """
    given: Any = {"configurable": {}, "metadata": {}, "tags": [], "callbacks": None, **(config or {})}
    speculator = speculator_factory()
    _protocol.check_speculator(node or "speculator", speculator)
    if graph is not None and isinstance(speculator, BaseSpeculator):
        declared = _rewrite.Declared({"*": "pure"}, {}, frozenset(), frozenset(graph.nodes))
        infos = {info.label: info for info in _rewrite.rewrite(graph, declared).all_infos()}
        assert node in infos, f"the graph has no node {node!r}; it has {_protocol.known_names(infos)}"
        speculator = speculator.bind(infos[node])
        assert isinstance(speculator, BaseSpeculator), f"bind() returned {speculator!r}: it must return a Speculator"
    inputs = list(inputs)
    pairs = list(zip(inputs, outputs, strict=False))

    def learn() -> None:
        if isinstance(speculator, BaseSpeculator):
            for value, output in pairs:
                _kept("learn", (value, output), partial(speculator.learn, value, output, given))

    learn()
    found = [guess for value in inputs for guess in _asked(speculator, value, given)]
    for value in (*inputs, *odd):
        _asked(speculator, value, given)
        asyncio.run(_aasked(speculator, value, given))

    async def at_once() -> None:
        await asyncio.gather(*[_aasked(speculator, value, given) for value in inputs for _ in range(threads)])

    asyncio.run(at_once())
    errors: list[BaseException] = []
    start = threading.Barrier(threads)

    def work() -> None:
        try:
            start.wait()
            for value in inputs:
                _asked(speculator, value, given)
                learn()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors, f"asked from {threads} threads at once: {errors[0]!r}"
    return found


def _kept(what: str, value: Any, act: Callable[[], Any]) -> Any:
    """What `act` returns; what it was given must be as it was."""
    before = _frozen(value)
    try:
        returned = act()
    except Exception as error:
        raise AssertionError(f"{what} raised {error!r} for {value!r}") from error
    assert _frozen(value) == before, f"{what} changed what it was given: {value!r}"
    return returned


def _frozen(value: Any) -> Any:
    try:
        return freeze(value)
    except Opaque:
        return None


def _asked(speculator: Speculator, value: Any, config: Any) -> list[Guess]:
    def act() -> list[Guess]:
        return _sound(ask(speculator, value, config), value)

    return cast(list[Guess], _kept("guess", value, act))


async def _aasked(speculator: Speculator, value: Any, config: Any) -> list[Guess]:
    before = _frozen(value)
    try:
        guesses = await aask(speculator, value, config)
    except Exception as error:
        raise AssertionError(f"guess raised {error!r} for {value!r}, asked on an event loop") from error
    assert _frozen(value) == before, f"guess changed what it was given: {value!r}"
    return _sound(guesses, value)


def _sound(guesses: list[Guess], value: Any) -> list[Guess]:
    for guess in guesses:
        where = f"guess for {value!r}"
        assert 0.0 <= guess.confidence <= 1.0, f"{where}: confidence {guess.confidence!r} is outside [0, 1]"
        tokens = guess.usage.values()
        assert all(isinstance(t, int) and t >= 0 for t in tokens), f"{where}: usage {dict(guess.usage)!r}"
        output = guess.output
        mixed = isinstance(output, list | tuple) and any(isinstance(o, Guess) for o in output)
        assert not mixed, f"{where}: a list that holds other things than Guess counts as one output: {output!r}"
        assert output != [], f"{where}: an empty list counts as an output: return None for no guess"
        assert not inspect.isawaitable(output), f"{where}: the output is to be awaited first: {output!r}"
        assert not isinstance(output, Iterator), f"{where}: a generator inside of what was returned: {output!r}"
        try:
            freeze(output)
        except Opaque as error:
            raise AssertionError(f"{where}: the output cannot be compared with the node's: {error}") from None
    return [g for g in guesses if not g.is_empty]


def compare_runs(plain: list[Run], observed: list[Run], *, ordered: bool | None = None) -> None:
    """Compare what two graphs showed for the same inputs.

    Raises:
        AssertionError: They differ.
    """
    for number, (a, b) in enumerate(zip(plain, observed, strict=True), 1):
        if ordered is False or (ordered is None and a.is_parallel):
            a, b = a.unordered(), b.unordered()
        if found := a.difference(b, _NAMES):
            which = f"input {number} of {len(plain)}: " if len(plain) > 1 else ""
            raise AssertionError(which + found)


def check_report(report: Report) -> None:
    """Check that speculation kept to its limits.

    Raises:
        AssertionError: It made an effect early, or ended by an internal error.
    """
    assert not report.early_irreversible_calls, f"{report.early_irreversible_calls} irreversible calls were made early"
    internal = [error for error in report.errors if "internal error" in error]
    assert not internal, internal[0]


def _runs(graph: Any, inputs: list[Any], config: Any, kwargs: dict[str, Any]) -> list[Run]:
    return [_observe.observe(graph, copy.deepcopy(value), config, **kwargs) for value in inputs]


async def _aruns(graph: Any, inputs: list[Any], config: Any, kwargs: dict[str, Any]) -> list[Run]:
    return [await _observe.aobserve(graph, copy.deepcopy(value), config, **kwargs) for value in inputs]


async def _made(factory: Callable[[], Any]) -> Any:
    graph = factory()
    return await graph if inspect.isawaitable(graph) else graph
