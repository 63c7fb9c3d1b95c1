"""What running a node or tool early may do, and how that was found out."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, TypeVar

from langgraph_speculative.errors import SpeculationError

T = TypeVar("T")

Scope = str | Callable[[Any], str | Iterable[str] | None]
"""A part of the world: a template over the arguments (``"order:{order_id}"``), or a function of them."""

Scopes = frozenset[str] | None
"""The resolved scope of one call; ``None`` is unknown, and overlaps with every other."""


class Effect(StrEnum):
    """What running a node, tool or router early may do.

    Attributes:
        PURE: Depends on its input alone and changes nothing. Runs early; never fenced. Promises thread-safety.
        READ: Reads the world and changes nothing. Runs early; discarded when the run makes a real effect before it
            of overlapping scope before it is claimed. Promises thread-safety.
        REVERSIBLE: Changes the world, and there is an undo. Runs early; undone when it is discarded.
        STAGED: Changes the world in two phases. Prepared early; committed by the claim, aborted when it is discarded.
        OVERWRITE: Changes the world, and a later action of its kind makes an earlier one void. Runs early and is not
            taken back: lossy, see `langgraph_speculative.experimental`.
        IRREVERSIBLE: Changes the world. Never runs early.
        UNDECLARED: Nobody said. Treated as irreversible, and reported apart.
    """

    # In this order: the effect of doing several things is the last of theirs.
    PURE = "pure"
    READ = "read"
    REVERSIBLE = "reversible"
    STAGED = "staged"
    OVERWRITE = "overwrite"
    IRREVERSIBLE = "irreversible"
    UNDECLARED = "undeclared"

    @property
    def may_run_early(self) -> bool:
        return self not in (Effect.IRREVERSIBLE, Effect.UNDECLARED)

    @property
    def acts(self) -> bool:
        """Whether it changes the world."""
        return self not in (Effect.PURE, Effect.READ)


@dataclass(frozen=True, kw_only=True)
class Action:
    """One early execution of a reversible or staged tool or node, as its handlers see it.

    Attributes:
        id: Its own, and the same after a crash: what makes a handler idempotent.
        name: The tool, or the node (``"outer|inner"`` for nested ones).
        arguments: The tool's arguments, or the node's input. After a crash: what the journal has, redacted if a hook
            of the policy does so.
        finished: Whether its code is known to have returned. If not, it may have acted, wholly or in part, or not.
        result: What it returned; ``None`` after a crash, if JSON could not hold it.
        handle: What `Prepared` carried; ``None`` after a crash, if JSON could not hold it.
        thread_id: The run's thread, if it has one.
    """

    id: str
    name: str
    arguments: Any
    finished: bool = False
    result: Any = None
    handle: Any = None
    thread_id: str = ""


@dataclass(frozen=True)
class Prepared:
    """What the first phase of a staged action gives.

    Attributes:
        result: What the tool or node returns.
        handle: What the second phase needs; in the journal too, if it is JSON.
    """

    result: Any
    handle: Any = None


Handler = Callable[[Action], Any | Awaitable[Any]]
Prepare = Callable[[Action, Callable[[], Any]], Any]


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What running one tool or node early may do. Made by the functions below; also a decorator of the tool's or node's
    function, or of the tool.

    Attributes:
        effect: Its kind.
        scope: The part of the world that it touches; ``None`` is all of it.
        max_age: Seconds after which a read made early is made again; ``None`` is no limit.
        undo: Takes a reversible action back.
        prepare: First phase of a staged action. It is given the action and a function that runs the tool's own code.
        commit: Second phase, at the claim.
        abort: Second phase, when it is discarded.
    """

    effect: Effect
    scope: Scope | None = None
    max_age: float | None = None
    undo: Handler | None = field(default=None, repr=False)
    prepare: Prepare | None = field(default=None, repr=False)
    commit: Handler | None = field(default=None, repr=False)
    abort: Handler | None = field(default=None, repr=False)

    def __call__(self, declared: T) -> T:
        """Declare a function or a tool.

        Raises:
            SpeculationError: What is declared is neither.
        """
        functions = [f for f in (getattr(declared, "func", None), getattr(declared, "coroutine", None)) if callable(f)]
        if not functions and callable(declared) and hasattr(declared, "__dict__"):
            functions = [declared]
        try:
            for function in functions:
                function.__speculation__ = self
        except Exception:  # a bound method, or a model that takes no attributes
            functions = []
        if not functions:
            raise SpeculationError(
                f"{self.effect.value} cannot decorate {declared!r}: decorate a function, or declare it in effects=."
            )
        return declared

    @property
    def why(self) -> str:
        """What was said beside the effect, for people."""
        scope = self.scope if isinstance(self.scope, str) else getattr(self.scope, "__name__", "a function")
        said = [f"scope {scope}"] if self.scope is not None else []
        said += [f"max_age {self.max_age:g} s"] if self.max_age is not None else []
        return ", ".join(["declared", *said])

    def scopes(self, arguments: Any) -> Scopes:
        """What one call touches; unknown where its scope cannot be told from the arguments."""
        if self.effect is Effect.PURE:
            return frozenset()
        try:
            if self.scope is None:
                return None
            if isinstance(self.scope, str):
                return frozenset([self.scope.format_map(_named(arguments))])
            found = self.scope(arguments)
            if found is None:
                return None
            return frozenset([found] if isinstance(found, str) else found)
        except Exception:
            return None


def _named(arguments: Any) -> Mapping[str, Any]:
    return arguments if isinstance(arguments, Mapping) else vars(arguments)


def overlap(one: Scopes, other: Scopes) -> bool:
    """Whether two calls may touch the same part of the world."""
    if one is None or other is None:
        return one != frozenset() and other != frozenset()
    return bool(one & other)


def declared_on(*things: Any) -> Declaration | None:
    """What a decorator has said about one of these functions."""
    for thing in things:
        while thing is not None:
            if isinstance(found := getattr(thing, "__speculation__", None), Declaration):
                return found
            thing = thing.func if isinstance(thing, functools.partial) else getattr(thing, "__wrapped__", None)
    return None


def pure() -> Declaration:
    """It depends on its input alone and changes nothing."""
    return Declaration(effect=Effect.PURE)


def read(*, scope: Scope | None = None, max_age: float | None = None) -> Declaration:
    """It reads the world and changes nothing.

    Args:
        scope: What it reads. A real effect of overlapping scope discards it.
        max_age: Seconds that may lie between its start and its claim.

    Raises:
        SpeculationError: A `max_age` that is not positive.
    """
    if max_age is not None and not (isinstance(max_age, int | float) and max_age > 0):
        raise SpeculationError(f"read(max_age={max_age!r}): pass a positive number of seconds.")
    return Declaration(effect=Effect.READ, scope=checked_scope(scope), max_age=max_age)


def reversible(undo: Handler, *, scope: Scope | None = None) -> Declaration:
    """It changes the world, and `undo` takes that back.

    Args:
        undo: Called with the `Action`; sync or async. Idempotent, and copes with an action that has not happened.
        scope: What it touches. Nothing else of the run touches the same while the action is neither claimed nor undone.

    Raises:
        SpeculationError: `undo` is not callable.
    """
    return Declaration(effect=Effect.REVERSIBLE, undo=_checked("reversible", "undo", undo), scope=checked_scope(scope))


def staged(prepare: Prepare, commit: Handler, abort: Handler, *, scope: Scope | None = None) -> Declaration:
    """It changes the world in two phases.

    Args:
        prepare: Called with the `Action` and a function that runs the tool's own code (to be awaited if that is async);
            returns a `Prepared`. Sync or async.
        commit: Called with the `Action` at the claim; must be idempotent. `CommitRefused` makes the run execute the
            call itself; any other error is the node's own.
        abort: Called with the `Action` when it is discarded; must be idempotent, and cope with one never prepared.
        scope: What it touches.

    Raises:
        SpeculationError: One of them is not callable.
    """
    return Declaration(
        effect=Effect.STAGED,
        prepare=_checked("staged", "prepare", prepare),
        commit=_checked("staged", "commit", commit),
        abort=_checked("staged", "abort", abort),
        scope=checked_scope(scope),
    )


def irreversible(*, scope: Scope | None = None) -> Declaration:
    """It changes the world for good, and never runs early.

    Args:
        scope: What it touches: early reads elsewhere survive it.
    """
    return Declaration(effect=Effect.IRREVERSIBLE, scope=checked_scope(scope))


def _checked(kind: str, name: str, handler: Any) -> Any:
    if not callable(handler):
        raise SpeculationError(f"{kind}({name}=...): {handler!r} is not callable; pass a function of the Action.")
    return handler


def checked_scope(scope: Any) -> Any:
    """The scope, if it is one.

    Raises:
        SpeculationError: It is neither a template nor a function.
    """
    if scope is not None and not isinstance(scope, str) and not callable(scope):
        raise SpeculationError(f'scope={scope!r}: pass a template such as "order:{{order_id}}", or a function.')
    return scope


@dataclass(frozen=True)
class EffectRow:
    """One line of the table.

    Attributes:
        name: Node (nested ones as ``"outer|inner"``), tool, or router.
        kind: What it is. A tool's node is a row of its own.
        effect: What was found.
        source: Where: ``"effects="``, ``"decorator"``, ``"metadata"``, ``"mcp"``, ``"recognised"``, ``"inherited"`` or
            ``"none"``.
        reason: Why, for people.
    """

    name: str
    kind: Literal["node", "tool", "router"]
    effect: Effect
    source: str
    reason: str


@dataclass(frozen=True)
class EffectTable:
    """The effects of all nodes, tools and routers of a graph; `str` prints it."""

    rows: tuple[EffectRow, ...]

    def __str__(self) -> str:
        head = ("name", "kind", "effect", "source", "reason")
        body = [(r.name, r.kind, r.effect.value, r.source, r.reason) for r in self.rows]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) for line in (head, *body)]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join(line.rstrip() for line in lines)

    def undeclared(self) -> list[EffectRow]:
        """The rows that nobody declared, and that a line in `skeleton` would settle."""
        return [r for r in self.rows if r.effect is Effect.UNDECLARED]

    def skeleton(self) -> str:
        """A paste-ready ``effects=`` for what is undeclared; change each line to what is true."""
        return skeleton_of(dict.fromkeys(r.name for r in self.undeclared()))


def skeleton_of(names: Iterable[str]) -> str:
    """The ``effects=`` argument that declares these names, each as irreversible until somebody says otherwise."""
    lines = [f'    "{name}": "irreversible",  # or "pure" / "read", if that is true' for name in names]
    if not lines:
        return "effects={}"
    return "\n".join(["effects={", *lines, "}"])


_BY_NAME = (Effect.PURE, Effect.READ, Effect.IRREVERSIBLE, Effect.UNDECLARED)
_NEEDS = {
    Effect.REVERSIBLE: "an undo: use effects.reversible(undo)",
    Effect.STAGED: "its phases: use effects.staged(prepare, commit, abort)",
    Effect.OVERWRITE: "to be asked for: use experimental.overwrite()",
}


def parse_declaration(value: object, where: str) -> Declaration:
    """A declaration, an effect, its name, or the mapping of JSON metadata (``effect``, ``scope``, ``max_age``).

    Raises:
        SpeculationError: An unknown one, or one that a name cannot declare.
    """
    if isinstance(value, Declaration):
        return value
    if isinstance(value, Mapping):
        kind = parse_declaration(value.get("effect"), where).effect
        scope, max_age = value.get("scope"), value.get("max_age")
        if max_age is not None and kind is not Effect.READ:
            raise SpeculationError(f"{where} has a max_age, which is for reads alone.")
        try:
            if kind is Effect.READ:
                return read(scope=scope, max_age=max_age)
            return Declaration(effect=kind, scope=checked_scope(scope))
        except SpeculationError as error:
            raise SpeculationError(f"{where}: {error}") from None
    if callable(value) and value in (pure, read, irreversible):
        return value()  # type: ignore[no-any-return]
    try:
        effect = Effect(value)  # type: ignore[arg-type]
    except ValueError:
        names = ", ".join(repr(e.value) for e in _BY_NAME if e is not Effect.UNDECLARED)
        raise SpeculationError(
            f"{where} is {value!r}; an effect is one of {names}, or what the functions of effects make."
        ) from None
    if effect in _NEEDS:
        raise SpeculationError(f"{where} is {effect.value!r}, which needs {_NEEDS[effect]}.")
    return Declaration(effect=effect)
