"""Declarations of effects: where they may be written, which of them counts, what they resolve to, what is refused."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import BaseTool, StructuredTool, tool
from langgraph.graph import END, add_messages
from langgraph.prebuilt import ToolNode
from pydantic import BaseModel

from langgraph_speculative import Effect, SpeculationError, SpeculativeGraph, speculative
from langgraph_speculative.effects import (
    Action,
    Declaration,
    EffectRow,
    Prepared,
    declared_on,
    irreversible,
    overlap,
    parse_declaration,
    pure,
    read,
    reversible,
    staged,
)
from langgraph_speculative.experimental import overwrite
from tests.support import call, chain, says

pytestmark = pytest.mark.filterwarnings("ignore::langgraph_speculative.SpeculationInactiveWarning")


class State(TypedDict, total=False):
    x: int
    log: Annotated[list[Any], operator.add]


class Chat(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]


def nothing(action: Action) -> None:
    """An undo."""


def prepares(action: Action, execute: Any) -> Prepared:
    return Prepared(execute())


def body(state: Any) -> Any:
    """A node."""
    return {}


def fresh() -> Callable[[Any], Any]:
    """A function that nothing has been declared on."""

    def body(state: Any) -> Any:
        """Do something."""
        return {}

    return body


def rows_of(*nodes: Any, metadata: Any = None, **kwargs: Any) -> dict[str, EffectRow]:
    """The rows of a graph with these nodes, called n0, n1 and so on, behind one that is guessed."""
    builder = chain(State, fresh(), names=["first"])
    last = "first"
    for number, node in enumerate(nodes):
        builder.add_node(f"n{number}", node, metadata=metadata)
        builder.add_edge(last, f"n{number}")
        last = f"n{number}"
    builder.add_node("always", pure()(fresh()))
    builder.add_edge(last, "always")
    return rows(speculative(builder.compile(), speculators={"first": lambda s: None}, **kwargs))


def rows(fast: SpeculativeGraph) -> dict[str, EffectRow]:
    return {row.name: row for row in fast.effects().rows}


def with_tools(*tools: Any, node_metadata: Any = None, **kwargs: Any) -> SpeculativeGraph:
    def model(state: Chat) -> Any:
        return {"messages": [says("", call(tools[0].name))]}

    always = StructuredTool.from_function(pure()(lambda: "x"), name="always", description="Nothing.")
    builder = chain(Chat, model)
    builder.add_node("tools", ToolNode([*tools, always]), metadata=node_metadata)
    builder.add_edge("model", "tools")
    return speculative(builder.compile(), speculators={"model": lambda s: None}, **kwargs)


def a_tool(function: Any = None, metadata: Any = None) -> Any:
    def own(x: int = 0) -> str:
        """Do something."""
        return "done"

    return StructuredTool.from_function(function or own, name="t", metadata=metadata, description="Do something.")


MADE = {
    "pure": pure(),
    "read": read(scope="a", max_age=3),
    "reversible": reversible(nothing, scope="a"),
    "staged": staged(prepares, nothing, nothing, scope="a"),
    "overwrite": overwrite(scope="a"),
    "irreversible": irreversible(scope="a"),
}

every_kind = pytest.mark.parametrize("declaration", MADE.values(), ids=MADE)


# --- decorators -----------------------------------------------------------------------------------------------------


@every_kind
def test_a_declaration_decorates_the_function_of_a_node(declaration: Declaration) -> None:
    plain = fresh()
    assert declaration(plain) is plain

    async def coroutine(state: Any) -> Any:
        return {}

    declaration(coroutine)
    found = rows_of(plain, coroutine)
    for name in ("n0", "n1"):
        assert (found[name].effect, found[name].source, found[name].reason) == (
            declaration.effect,
            "decorator",
            declaration.why,
        )


def test_a_decorator_is_seen_through_partials_and_wrappers() -> None:
    declaration = read(scope="a")
    function = declaration(fresh())

    @functools.wraps(function)
    def wrapped(state: Any) -> Any:
        return function(state)

    @functools.wraps(wrapped)
    def twice(state: Any) -> Any:
        return wrapped(state)

    def with_more(state: Any, more: int) -> Any:
        return {}

    bound = functools.partial(declaration(with_more), more=1)
    own = declaration(functools.partial(with_more, more=2))
    for thing in (function, wrapped, twice, bound, own, functools.partial(twice)):
        assert declared_on(thing) is declaration
    found = rows_of(wrapped, twice, bound, own, RunnableLambda(function))
    assert {row.effect for name, row in found.items() if name.startswith("n")} == {Effect.READ}


def test_a_decorator_counts_for_methods_and_callable_objects() -> None:
    class Nodes:
        @read(scope="a")
        def method(self, state: Any) -> Any:
            return {}

        def __call__(self, state: Any) -> Any:
            return {}

    one, other = Nodes(), Nodes()
    irreversible()(other)
    assert declared_on(one.method) == read(scope="a")
    assert declared_on(one) is None
    found = rows_of(one.method, other)
    assert (found["n0"].effect, found["n1"].effect) == (Effect.READ, Effect.IRREVERSIBLE)


def test_the_outermost_decorator_counts() -> None:
    function = fresh()

    @pure()
    @functools.wraps(read()(function))
    def outer(state: Any) -> Any:
        return function(state)

    assert rows_of(outer)["n0"].effect is Effect.PURE


@every_kind
@pytest.mark.parametrize("kind", ["function", "coroutine", "both", "tool", "below @tool"])
def test_a_declaration_decorates_tools(declaration: Declaration, kind: str) -> None:
    def own(x: int = 0) -> str:
        """Do something."""
        return "done"

    async def aown(x: int = 0) -> str:
        """Do something."""
        return "done"

    made: Any
    if kind == "function":
        made = a_tool(declaration(own))
    elif kind == "coroutine":
        made = StructuredTool.from_function(coroutine=declaration(aown), name="t", description="Do something.")
    elif kind == "both":
        made = StructuredTool.from_function(own, declaration(aown), name="t", description="Do something.")
    elif kind == "tool":
        made = declaration(a_tool())
    else:
        made = tool("t")(declaration(own))
    row = rows(with_tools(made))["t"]
    assert (row.kind, row.effect, row.source) == ("tool", declaration.effect, "decorator")


class ByClass(BaseTool):
    name: str = "t"
    description: str = "Do something."

    def _run(self, x: int = 0) -> str:
        return "done"


class Bound:
    def method(self, state: Any) -> Any:
        return {}


@pytest.mark.parametrize("thing", [len, 5, "name", None, Bound().method, ByClass()], ids=repr)
def test_what_cannot_be_decorated_is_refused(thing: Any) -> None:
    with pytest.raises(SpeculationError, match=r"reversible cannot decorate .*: decorate a function, or .* effects="):
        reversible(nothing)(thing)


def test_a_tool_that_is_a_class_is_declared_in_effects() -> None:
    declaration = reversible(nothing, scope="a")
    assert rows(with_tools(ByClass(), effects={"t": declaration}))["t"].effect is Effect.REVERSIBLE


# --- which of several counts ----------------------------------------------------------------------------------------


def test_of_several_declarations_of_a_node_the_first_of_this_order_counts() -> None:
    metadata = {"speculation": {"effect": "read"}}
    decorated = irreversible()(fresh())
    for kwargs, nodes, expected in (
        ({"effects": {"n0": "pure", "*": "read"}, "metadata": metadata}, [decorated], ("pure", "effects=")),
        ({"effects": {"*": "pure"}, "metadata": metadata}, [decorated], ("irreversible", "decorator")),
        ({"effects": {"*": "pure"}, "metadata": metadata}, [fresh()], ("read", "metadata")),
        ({"effects": {"*": "pure"}}, [fresh()], ("pure", "effects=")),
        ({}, [fresh()], ("undeclared", "none")),
    ):
        row = rows_of(*nodes, **kwargs)["n0"]  # type: ignore[arg-type]
        assert (row.effect.value, row.source) == expected


def test_of_several_declarations_of_a_tool_the_first_of_this_order_counts() -> None:
    hints: dict[str, Any] = {"readOnlyHint": True}
    own = {**hints, "speculation": {"effect": "pure"}}

    def decorated(x: int = 0) -> str:
        return "done"

    irreversible()(decorated)
    node = {"speculation": {"effect": "pure"}}
    for made, kwargs, expected in (
        (a_tool(decorated, own), {"effects": {"t": "read"}, "trust_mcp": "*"}, ("read", "effects=")),
        (a_tool(decorated, own), {"effects": {"*": "read"}, "trust_mcp": "*"}, ("irreversible", "decorator")),
        # What has hints is described by a server, and so may be the rest of its metadata.
        (a_tool(None, own), {"effects": {"*": "pure"}, "trust_mcp": "*"}, ("read", "mcp")),
        (a_tool(None, {"speculation": {"effect": "pure"}}), {"effects": {"*": "read"}}, ("pure", "metadata")),
        (a_tool(None, hints), {"effects": {"*": "pure"}, "trust_mcp": "*"}, ("read", "mcp")),
        (a_tool(None, hints), {"effects": {"*": "pure"}}, ("pure", "effects=")),
        (a_tool(), {"effects": {"tools": "read", "*": "pure"}}, ("read", "effects=")),
        (a_tool(), {"node_metadata": node, "effects": {"*": "read"}}, ("pure", "metadata")),
        (a_tool(), {"effects": {"*": "pure"}}, ("pure", "effects=")),
        (a_tool(), {}, ("undeclared", "none")),
    ):
        row = rows(with_tools(made, **kwargs))["t"]  # type: ignore[arg-type]
        assert (row.effect.value, row.source) == expected


def test_what_is_recognised_comes_before_the_default_and_after_a_declaration() -> None:
    from langgraph.prebuilt import create_react_agent

    from tests.support import ScriptedModel, turns

    def agent(**effects: Any) -> EffectRow:
        graph = create_react_agent(ScriptedModel(script=turns(says)), [a_tool()])
        return rows(speculative(graph, speculators={"agent": lambda s: None}, effects={"t": "pure", **effects}))[
            "agent"
        ]

    assert (agent(**{"*": "read"}).effect, agent(**{"*": "read"}).source) == (Effect.PURE, "recognised")
    assert (agent(agent="read").effect, agent(agent="read").source) == (Effect.READ, "effects=")


# --- routers --------------------------------------------------------------------------------------------------------


def routed(declaration: Any, **effects: Any) -> EffectRow:
    def route(state: State) -> str:
        return "after"

    builder = chain(State, fresh(), names=["first"])
    builder.add_node("act", declaration(fresh()))
    builder.add_node("after", fresh())
    builder.add_edge("first", "act")
    builder.add_conditional_edges("act", route, ["after", END])
    fast = speculative(builder.compile(), speculators={"first": lambda s: None}, effects={"after": "pure", **effects})
    return rows(fast)["route"]


@every_kind
def test_the_router_of_a_node_that_acts_early_reads_the_world(declaration: Declaration) -> None:
    row = routed(declaration)
    acts_early = declaration.effect.acts and declaration.effect.may_run_early
    assert row.effect is (Effect.READ if acts_early else declaration.effect)
    assert (row.kind, row.source, row.reason) == ("router", "inherited", "as its node 'act'")


def test_nothing_takes_back_what_a_router_does() -> None:
    for own in (reversible(nothing), staged(prepares, nothing, nothing), overwrite()):
        row = routed(pure(), route=own)
        assert (row.effect, row.source) == (Effect.IRREVERSIBLE, "effects=")
    assert routed(reversible(nothing), route="pure").effect is Effect.PURE


# --- metadata -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"effect": "read", "scope": "order:{order_id}", "max_age": 2.5}, read(scope="order:{order_id}", max_age=2.5)),
        ({"effect": "read"}, read()),
        ({"effect": "pure"}, pure()),
        ({"effect": "irreversible", "scope": "a"}, irreversible(scope="a")),
        ({"effect": "undeclared"}, Declaration(effect=Effect.UNDECLARED)),
    ],
)
def test_metadata_is_json(metadata: Any, expected: Declaration) -> None:
    assert parse_declaration(json.loads(json.dumps(metadata)), "metadata of tool 't'") == expected
    (info,) = [
        t
        for node in with_tools(a_tool(None, {"speculation": metadata}))._speculation.rewritten.all_infos()
        for t in node.tools.values()
        if t.name == "t"
    ]
    assert info.effect is expected.effect
    if expected.effect is not Effect.UNDECLARED:
        assert info.declaration == expected


# --- refusals -------------------------------------------------------------------------------------------------------

BAD_METADATA = [
    ({"effect": "harmless"}, r"is 'harmless'; an effect is one of 'pure', 'read', 'irreversible'"),
    ({"effect": "reversible"}, r"needs an undo: use effects\.reversible\(undo\)"),
    ({"effect": "staged"}, r"needs its phases: use effects\.staged\(prepare, commit, abort\)"),
    ({"effect": "overwrite"}, r"needs to be asked for: use experimental\.overwrite\(\)"),
    ({"effect": "pure", "max_age": 3}, r"has a max_age, which is for reads alone"),
    ({"effect": "read", "max_age": 0}, r"max_age=0\): pass a positive number of seconds"),
    ({"effect": "read", "max_age": "3"}, r"max_age='3'\): pass a positive number of seconds"),
    ({"effect": "read", "scope": 5}, r"scope=5: pass a template such as"),
    ({"effect": "irreversible", "scope": ["a"]}, r"scope=\['a'\]: pass a template such as"),
]


@pytest.mark.parametrize(("metadata", "message"), BAD_METADATA, ids=[str(m) for m, _ in BAD_METADATA])
def test_what_is_wrong_in_metadata_is_said_of_its_tool_or_node(metadata: Any, message: str) -> None:
    with pytest.raises(SpeculationError, match=rf"metadata of tool 't'.*{message}"):
        with_tools(a_tool(None, {"speculation": metadata}))
    with pytest.raises(SpeculationError, match=rf"metadata of node 'n0'.*{message}"):
        rows_of(fresh(), metadata={"speculation": metadata})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("reversible", r"effects\['n0'\] is 'reversible', which needs an undo"),
        (Effect.STAGED, r"effects\['n0'\] is 'staged', which needs its phases"),
        ("overwrite", r"effects\['n0'\] is 'overwrite', which needs to be asked for"),
        (reversible, r"effects\['n0'\] is <function reversible.*what the functions of effects make"),
        (7, r"effects\['n0'\] is 7; an effect is one of"),
        ({"effect": "read", "max_age": -1}, r"effects\['n0'\]: read\(max_age=-1\): pass a positive number"),
    ],
)
def test_what_is_wrong_in_effects_is_said_of_its_name(value: Any, message: str) -> None:
    with pytest.raises(SpeculationError, match=message):
        rows_of(fresh(), effects={"n0": value})


@pytest.mark.parametrize("value", [pure, read, irreversible])
def test_a_function_of_effects_may_be_given_uncalled_where_it_needs_nothing(value: Any) -> None:
    assert rows_of(fresh(), effects={"n0": value})["n0"].effect.value == value.__name__


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: reversible(None), r"^reversible\(undo=\.\.\.\): None is not callable; pass a function of the Action"),  # type: ignore[arg-type]
        (lambda: staged(1, nothing, nothing), r"^staged\(prepare=\.\.\.\): 1 is not callable"),  # type: ignore[arg-type]
        (lambda: staged(prepares, 2, nothing), r"^staged\(commit=\.\.\.\): 2 is not callable"),  # type: ignore[arg-type]
        (lambda: staged(prepares, nothing, 3), r"^staged\(abort=\.\.\.\): 3 is not callable"),  # type: ignore[arg-type]
        (lambda: read(max_age=float("nan")), r"max_age=nan\): pass a positive number of seconds"),
        *((lambda make=make: make(scope=5), r"^scope=5: pass a template") for make in (read, irreversible, overwrite)),
        (lambda: reversible(nothing, scope=5), r"^scope=5: pass a template"),  # type: ignore[arg-type]
        (lambda: staged(prepares, nothing, nothing, scope=5), r"^scope=5: pass a template"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_declaration_is_refused(make: Any, message: str) -> None:
    with pytest.raises(SpeculationError, match=message):
        make()


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [Action(id="1", name="t", arguments={}), Prepared("result", 5), *MADE.values()])
def test_what_handlers_get_and_declarations_are_frozen(value: Any) -> None:
    field = next(iter(value.__dataclass_fields__))
    with pytest.raises(FrozenInstanceError):
        setattr(value, field, "other")


def test_an_action_tells_nothing_that_is_not_known() -> None:
    action = Action(id="1", name="t", arguments={"a": 1})
    assert (action.finished, action.result, action.handle, action.thread_id) == (False, None, None, "")
    assert Prepared("result").handle is None


def test_the_kinds_say_whether_they_may_run_early_and_whether_they_act() -> None:
    assert {e.value for e in Effect if not e.may_run_early} == {"irreversible", "undeclared"}
    assert {e.value for e in Effect if not e.acts} == {"pure", "read"}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (None, None, True),
        (None, {"a"}, True),
        (None, set(), False),
        (set(), set(), False),
        ({"a"}, set(), False),
        ({"a"}, {"a", "b"}, True),
        ({"a"}, {"b", "c"}, False),
    ],
)
def test_unknown_scopes_overlap_with_all_but_nothing(one: Any, other: Any, expected: bool) -> None:
    first, second = (None if s is None else frozenset(s) for s in (one, other))
    assert overlap(first, second) is overlap(second, first) is expected


class Model(BaseModel):
    order: int
    parts: list[str] = []


@dataclass
class Record:
    order: int
    parts: tuple[str, ...] = ()


@dataclass(slots=True)
class Slotted:
    order: int


def raising(arguments: Any) -> str:
    raise LookupError("no scope")


def lazily(arguments: Any) -> Any:
    yield "a"
    raise LookupError("no more")


async def coroutine(arguments: Any) -> str:
    return "a"


ORDERS = [{"order": 7, "parts": ["b", "c"]}, Model(order=7, parts=["b", "c"]), Record(7, ("b", "c"))]


@pytest.mark.parametrize("arguments", ORDERS, ids=["dict", "pydantic", "dataclass"])
def test_scopes_of_arguments_of_any_kind(arguments: Any) -> None:
    def parts(arguments: Any) -> Any:
        return arguments["parts"] if isinstance(arguments, dict) else arguments.parts

    for scope, expected in (
        ("all", {"all"}),
        ("order:{order}", {"order:7"}),
        ("{order}/{order:03d}", {"7/007"}),
        (parts, {"b", "c"}),
        (lambda a: (f"part:{p}" for p in parts(a)), {"part:b", "part:c"}),
        (lambda a: "bc", {"bc"}),
        (lambda a: [], set()),
    ):
        assert read(scope=scope).scopes(arguments) == frozenset(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scope", "arguments"),
    [
        (None, {}),
        ("order:{missing}", {"order": 7}),
        ("order:{missing}", Model(order=7)),
        ("order:{order}", [7]),
        ("order:{order}", None),
        ("order:{}", {"order": 7}),
        ("order:{order", {"order": 7}),
        ("order:{order.number}", {"order": 7}),
        (lambda a: None, {}),
        (raising, {}),
        (lazily, {}),
        (lambda a: 5, {}),
        (lambda a: [["a"]], {}),
    ],
)
def test_a_scope_that_cannot_be_told_is_unknown(scope: Any, arguments: Any) -> None:
    assert irreversible(scope=scope).scopes(arguments) is None


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_coroutine_function_tells_no_scope() -> None:
    assert read(scope=coroutine).scopes({}) is None  # type: ignore[arg-type]


def test_objects_without_a_dict_have_no_fields_for_a_template() -> None:
    assert read(scope="order:{order}").scopes(Slotted(7)) is None
    assert read(scope=lambda s: f"order:{s.order}").scopes(Slotted(7)) == {"order:7"}


def test_what_is_pure_touches_nothing() -> None:
    assert pure().scopes({}) == frozenset()
    assert Declaration(effect=Effect.PURE, scope=raising).scopes({}) == frozenset()


# --- the table ------------------------------------------------------------------------------------------------------


def test_the_table_shows_every_source() -> None:
    text = str(
        with_tools(
            a_tool(irreversible()(lambda x=0: "done"), None),
            effects={"model": "pure"},
        ).effects()
    )
    assert text.splitlines()[0].split() == ["name", "kind", "effect", "source", "reason"]
    lines = {line.split()[0]: line.split()[1:4] for line in text.splitlines()[2:]}
    assert lines["model"] == ["node", "pure", "effects="]
    assert lines["t"] == ["tool", "irreversible", "decorator"]
    assert lines["always"] == ["tool", "pure", "decorator"]


def by_hand(arguments: Any) -> str:
    return "x"


@pytest.mark.parametrize(
    ("declaration", "why"),
    [
        (read(), "declared"),
        (read(scope="order:{id}", max_age=0.5), "declared, scope order:{id}, max_age 0.5 s"),
        (irreversible(scope=by_hand), "declared, scope by_hand"),
    ],
)
def test_a_table_says_what_was_declared_beside_the_effect(declaration: Declaration, why: str) -> None:
    assert rows(with_tools(a_tool(), effects={"t": declaration}))["t"].reason == why
