"""Graphs that a command line names: ``FILE.py:NAME`` or ``package.module:NAME``."""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from langgraph.graph import StateGraph
from langgraph.pregel import Pregel


class CommandError(Exception):
    """What is wrong with a command line, in one line. The command ends with status 2."""


def load_graph(target: str, runner: asyncio.Runner | None = None) -> Any:
    """The graph that `target` names: an object, or a function without required arguments that returns one.

    Args:
        target: ``FILE.py:NAME`` or ``package.module:NAME``; the name may be dotted.
        runner: Where an async function runs, so that what it opens stays on that loop; by default a loop of
            its own.

    Raises:
        CommandError: Nothing there, or no compiled graph. The message says what to write instead.
    """
    place, _, name = target.rpartition(":")
    if not place or not name or name.endswith(".py"):
        raise CommandError(f"{target!r} names no graph: write FILE.py:NAME, for example my_agent.py:graph.")
    module = _module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise CommandError(f"{place} has no {name!r}.{_graphs_in(module)}")
        found = getattr(found, part)
    if isinstance(found, Pregel):
        return found
    if isinstance(found, StateGraph):
        raise CommandError(f"{target} is a graph that is not compiled yet: name what its .compile() returns.")
    if not callable(found) or isinstance(found, type):
        raise CommandError(f"{target} is a {type(found).__name__}, not a compiled graph.{_graphs_in(module)}")
    return _returned(target, found, runner)


def _returned(target: str, function: Any, runner: asyncio.Runner | None) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise CommandError(
            f"{target} is a function with required arguments, and is called without any: "
            "name a graph, or a function that needs none and returns one."
        ) from None
    except ValueError:  # a builtin without a signature: calling it shows
        pass
    try:
        graph = function()
        if inspect.isawaitable(graph):
            graph = runner.run(_awaited(graph)) if runner else asyncio.run(_awaited(graph))
    except Exception as error:
        raise CommandError(f"{target}() raised {type(error).__name__}: {error}") from error
    if not isinstance(graph, Pregel):
        raise CommandError(f"{target}() returned a {type(graph).__name__}, not a compiled graph.")
    return graph


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


@functools.cache  # a graph and its draft often share a file, and must share its objects
def _module(place: str) -> ModuleType:
    try:
        if place.endswith(".py"):
            return _load_file(Path(place).resolve())
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(place)
    except CommandError:
        raise
    except Exception as error:
        raise CommandError(f"{place} cannot be imported: {type(error).__name__}: {error}") from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CommandError(f"{path} does not exist.")
    # Its neighbours are importable, as with `python FILE.py`.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # Under its own name, for what looks its module up (dataclasses, pickle), unless that is taken.
    name = path.stem if path.stem not in sys.modules else f"_speculative_target_{path.stem}_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _graphs_in(module: ModuleType) -> str:
    graphs = sorted(name for name, value in vars(module).items() if isinstance(value, Pregel))
    return f" Graphs in it: {', '.join(graphs)}." if graphs else ""
