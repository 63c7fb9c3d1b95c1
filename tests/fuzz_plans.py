"""Random graphs, inputs, Speculators and policies as plain data, drawn by hypothesis; `fuzz_runs` runs them.

Every drawn plan has a plain run that is the same each time, so that a difference is a bug. What tasks of one superstep
could do to each other is therefore left out of the plans that have such tasks (`Plan.parallel`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hypothesis import strategies as st

NAMES = "abcde"
INNER = "pq"

RACES = frozenset({"mutate", "world", "store_write"})
"""What has another result beside other tasks that do it."""


@dataclass(frozen=True)
class Shadow:
    """A Speculator.

    Args:
        how: What it guesses: "right", "wrong", "partly" (right for some inputs), "several", "raise", "hang", "late"
            (once the node has ended), "nonsense", "nothing", or "none" for no Speculator at all.
        form: Kind of callable: "plain", "coroutine", "generator", "asyncgen".
        turns: Turns of the session's loop that it takes.
    """

    how: str = "none"
    form: str = "plain"
    turns: int = 0


@dataclass(frozen=True)
class Node:
    """A node.

    Args:
        out: What it returns: "dict", "none", "goto" (Command), "send" (Command with Sends), "parent"
            (``Command(graph=PARENT)``, in a nested graph).
        edge: What leads away from it: "edge", "route", "fan" (to both targets), "spread" (a router of Sends), "end".
        targets: Where to, as numbers of nodes; beyond the last one is the end.
        acts: What else it does. Drawn as numbers of the plan's acts: few of them, so that they meet each other.
        effect: As declared; "undeclared" is not declared.
        place: The part of the world that it reads or changes: "a", "b", "both", or "x", one for each value of x.
        scope: How that is declared: "none", "template", "function", or "raises" (a function that does).
        handlers: Kind of its undo or its phases: "plain" or "coroutine".
        turns: Turns of the session's loop that it takes.
        blocking: A plain function in an asynchronous graph too.
        router: Kind of its router: "coroutine" or "plain".
        defer: Whether it waits for all other nodes.
        shadow: Its Speculator.
        inner: The nodes of the graph that it is, one after another.
    """

    out: str = "dict"
    edge: str = "end"
    targets: tuple[int, int] = (0, 0)
    acts: frozenset[Any] = frozenset()
    effect: str = "pure"
    place: str = "a"
    scope: str = "none"
    handlers: str = "plain"
    turns: int = 0
    blocking: bool = False
    router: str = "coroutine"
    defer: bool = False
    shadow: Shadow = Shadow()
    inner: tuple[Node, ...] = ()

    @property
    def is_counted(self) -> bool:
        """Whether it may never run early."""
        return self.effect in ("irreversible", "undeclared")

    @property
    def is_writer(self) -> bool:
        """Whether it changes the world."""
        return self.effect not in ("pure", "read")

    def places(self, state: Any) -> list[str]:
        """What it touches."""
        return {"both": ["a", "b"], "x": [f"x{state.get('x', 0)}"]}.get(self.place, [self.place])


@dataclass(frozen=True)
class Plan:
    """One case: a graph, its inputs, and how it is run.

    Args:
        nodes: The nodes; the first one is where it begins.
        acts: What some of the nodes do.
        join: A node that waits for two others: their numbers, and its own.
        parallel: Whether several tasks may run in one superstep.
        sync: Run it in threads, and not on an event loop.
        durability: Of its checkpoints; "none" is no checkpointer.
        stops: Breakpoints before and after a node; the end's number is none.
        then: What follows the first input on the same thread: "resume", "again" (another input), "go on" (``None``).
        policy: Limits of speculation.
        think: Turns of the session's loop between two inputs, while a person's words are guessed; none is guessed at 0.
        seed: Varies what the nodes compute.
        together: ``max_concurrency`` of the run's config.
    """

    nodes: tuple[Node, ...]
    acts: tuple[str, ...]
    join: tuple[int, int, int] | None
    parallel: bool
    sync: bool
    durability: str
    stops: tuple[int, int]
    then: tuple[str, ...]
    policy: dict[str, Any]
    think: int
    seed: int
    together: int | None

    @property
    def saver(self) -> bool:
        return self.durability != "none"

    def target(self, number: int) -> str:
        return NAMES[number] if number < len(self.nodes) else "__end__"


def _often(common: str, *rare: str) -> st.SearchStrategy[str]:
    return st.sampled_from([*[common] * len(rare), *rare])


shadows = st.builds(
    Shadow,
    how=st.sampled_from(
        [
            "right",
            "right",
            "right",
            "wrong",
            "partly",
            "several",
            "late",
            "raise",
            "hang",
            "nonsense",
            "nothing",
            "none",
        ]
    ),
    form=st.sampled_from(["coroutine", "plain", "generator", "asyncgen"]),
    turns=st.sampled_from([0, 0, 0, 1, 3, 8]),
)

ACTS = (
    *("writer", "message", "last", "quiet", "config", "event", "store_read"),
    *("fail", "flaky", "interrupt", *sorted(RACES)),
)


TOGETHER = (("store_read", "store_write", "quiet"), ("world", "writer", "quiet"), ("mutate", "last", "quiet"))
"""Acts that say most when they meet."""


def _nodes(outs: st.SearchStrategy[str], inner: st.SearchStrategy[tuple[Node, ...]]) -> st.SearchStrategy[Node]:
    return st.builds(
        Node,
        out=outs,
        edge=_often("route", "edge", "fan", "spread"),
        targets=st.tuples(st.integers(0, len(NAMES)), st.integers(0, len(NAMES))),
        acts=st.frozensets(st.integers(0, 2), max_size=2),
        effect=st.sampled_from(
            [*["pure"] * 6, *["read"] * 3, *["reversible"] * 4, "staged", "staged", "irreversible", "undeclared"]
        ),
        place=_often("a", "b", "both", "x"),
        scope=_often("template", "none", "function", "raises"),
        handlers=_often("plain", "coroutine"),
        turns=st.sampled_from([0, 2, 9, 20, 40, 80]),
        blocking=st.sampled_from([False, False, False, True]),
        router=_often("coroutine", "plain"),
        defer=st.sampled_from([False, False, False, True]),
        shadow=shadows,
        inner=inner,
    )


_inner_nodes = _nodes(_often("dict", "none", "parent"), st.just(()))
_outer_nodes = _nodes(
    _often("dict", "goto", "send", "none"),
    st.one_of(st.just(()), st.just(()), st.lists(_inner_nodes, min_size=1, max_size=len(INNER)).map(tuple)),
)


def _settled(plan: Plan) -> Plan:
    """The plan without what would let its plain run vary, and without what says nothing."""
    nodes: list[Node] = []
    size = len(plan.nodes)
    for number, drawn in enumerate(plan.nodes):
        node = _placed(plan, drawn)
        if node.inner:
            # A chunk of a nested graph is taken from the stream before or after a node of it changes what it holds.
            inner = tuple(_quieter(plan, replace(n, acts=n.acts - {"mutate"})) for n in node.inner)
            node = replace(node, out="dict", acts=frozenset(), inner=inner)
        if any(n.out == "parent" for n in node.inner) or node.out in ("goto", "send"):
            node = replace(node, edge="end")  # the Command says where to go; an edge as well would make two tasks
        if node.edge == "edge":
            node = replace(node, targets=(max(node.targets[0], number + 1), 0))  # only routers know when to stop
        nodes.append(_quieter(plan, node))
    join = plan.join
    if join is not None and (not plan.parallel or len(set(join)) < 3 or max(join) >= size):
        join = None
    # A checkpoint that is written while the run goes on may hold what a node changed, or an id that was added.
    changes = any({"mutate", "message"} & n.acts for node in nodes for n in (node, *node.inner))
    durability = "sync" if plan.durability == "async" and (changes or plan.sync) else plan.durability
    if plan.sync and any("mutate" in node.acts for node in nodes):
        durability = "exit"  # what a task has written is saved by a thread, while the next one may change it already
    stops = plan.stops if plan.saver else (len(NAMES), len(NAMES))
    then = plan.then if plan.saver else tuple(t for t in plan.then if t == "again")
    # In threads, LangGraph waits for its stream in one of those that it has for the tasks: with one, for ever.
    together = 2 if plan.sync and plan.together == 1 else plan.together
    return replace(
        plan, nodes=tuple(nodes), join=join, durability=durability, stops=stops, then=then, together=together
    )


def _placed(plan: Plan, node: Node) -> Node:
    """A node with targets that are seldom the end, and with acts of its plan."""
    one, two = (t % (len(plan.nodes) + 1) for t in node.targets)
    acts = frozenset(plan.acts[number] for number in node.acts)
    return replace(node, targets=(one, two), acts=acts, inner=tuple(_placed(plan, n) for n in node.inner))


def _quieter(plan: Plan, node: Node) -> Node:
    """A node as its plan allows."""
    acts = node.acts
    if plan.parallel:
        acts -= RACES
        if node.edge == "spread" and node.out == "none":
            node = replace(node, out="dict")  # what spreads without end has to count its turns
    else:
        edge = {"fan": "route", "spread": "route"}.get(node.edge, node.edge)
        node = replace(node, edge=edge, out="goto" if node.out == "send" else node.out, defer=False)
    if not plan.saver:
        acts -= {"interrupt"}
    return replace(node, acts=acts, blocking=node.blocking and not plan.sync)


plans: st.SearchStrategy[Plan] = st.builds(
    Plan,
    nodes=st.lists(_outer_nodes, min_size=3, max_size=len(NAMES)).map(tuple),
    acts=st.one_of(st.sampled_from(TOGETHER), st.tuples(*[st.sampled_from(ACTS)] * 3)),
    join=st.one_of(st.none(), st.tuples(*[st.integers(0, len(NAMES) - 1)] * 3)),
    parallel=st.booleans(),
    sync=st.booleans(),
    durability=st.sampled_from(["none", "sync", "sync", "async", "exit"]),
    stops=st.tuples(*[st.sampled_from([len(NAMES)] * 6 + list(range(len(NAMES))))] * 2),
    then=st.lists(st.sampled_from(["resume", "again", "go on"]), max_size=2).map(tuple),
    policy=st.fixed_dictionaries(
        {
            "breadth": st.integers(1, 3),
            "depth": st.integers(1, 4),
            "max_in_flight": st.sampled_from([64, 64, 1, 2]),
            "max_speculators": st.sampled_from([64, 64, 1]),
            "mode": st.sampled_from([*["on"] * 9, "observe"]),
            "value_per_second": st.sampled_from([0.01, 0.01, 0.01, 0.0]),
            "prices": st.sampled_from([{}, {}, {"b": 0.001}, {"a": 0.01, "b": 0.001, "c": 0.0001}]),
            "usd_per_run": st.sampled_from([None, None, 0.0015]),
            "calls": st.sampled_from([None, None, None, 1]),
            "rollout": st.sampled_from([*[1.0] * 9, 0.5]),
            "holdout": st.sampled_from([*[0.0] * 9, 0.5]),
        }
    ),
    think=st.sampled_from([0, 0, 5, 60]),
    seed=st.integers(0, 6),
    together=st.sampled_from([None, None, None, 1, 2, 3]),
).map(_settled)
